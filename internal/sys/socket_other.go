// Systems other than Linux: the standard library does not give access to the
// peer's credentials, and a socket has no mode before it has a name.

//go:build !linux

package sys

import "syscall"

// BeforeBind does nothing on this system.
func BeforeBind(_, _ string, _ syscall.RawConn) error { return nil }

// PeerCredentials always returns false on this system.
func PeerCredentials(syscall.Conn) (peer Credentials, ok bool) { return Credentials{}, false }
