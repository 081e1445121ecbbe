// Systems other than Unix: no socketpair.

//go:build !unix

package testutil

import (
	"net"
	"testing"
)

// SocketPair skips the test: this system has no socketpair.
func SocketPair(t testing.TB) (net.Conn, net.Conn) {
	t.Skip("no socketpair on this system")
	return nil, nil
}
