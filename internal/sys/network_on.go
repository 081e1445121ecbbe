// The default network of a build with -tags network.

//go:build network

package sys

// DefaultNetwork is that of a config that names none.
const DefaultNetwork = "tcp"
