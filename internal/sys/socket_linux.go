// Linux: a socket's mode before it has a name, and the peer's credentials.

package sys

import (
	"math"
	"syscall"
)

// BeforeBind is the Control function of a net.ListenConfig. On Linux it takes the
// permissions of group and others from the socket before the socket is in a
// directory. On other systems it does nothing.
func BeforeBind(_, _ string, c syscall.RawConn) error {
	var err error
	if failed := c.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), 0o600) }); failed != nil {
		return failed
	}
	return err
}

// PeerCredentials returns the credentials of the process at the other end of the
// unix socket c. ok is false if the kernel does not report them. On systems other
// than Linux it always is.
func PeerCredentials(c syscall.Conn) (peer Credentials, ok bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Credentials{}, false
	}
	raw.Control(func(fd uintptr) {
		u, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
		if err == nil && u.Uid != math.MaxUint32 { // the socket has no peer
			peer, ok = Credentials{int(u.Uid), int(u.Gid), int(u.Pid)}, true
		}
	})
	return peer, ok
}
