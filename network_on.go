// The default network of a build with -tags network.

//go:build network

package gipc

const defaultNetwork = "tcp"
