// The default network of a build without -tags network.

//go:build !network

package gipc

const defaultNetwork = "unix"
