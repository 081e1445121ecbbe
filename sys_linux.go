// Linux: a socket's mode before it has a name, and the peer's credentials.

package gipc

import (
	"math"
	"syscall"
)

// beforeBind closes the socket to others before it is in the directory.
func beforeBind(_, _ string, c syscall.RawConn) error {
	var err error
	if failed := c.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), 0o600) }); failed != nil {
		return failed
	}
	return err
}

func (p *Peer) askKernel(c syscall.Conn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		u, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
		if err == nil && u.Uid != math.MaxUint32 { // that is nobody
			p.UID, p.GID, p.PID, p.Known = int(u.Uid), int(u.Gid), int(u.Pid), true
		}
	})
}
