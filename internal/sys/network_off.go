// The default network of a build without -tags network.

//go:build !network

package sys

// DefaultNetwork is that of a config that names none.
const DefaultNetwork = "unix"
