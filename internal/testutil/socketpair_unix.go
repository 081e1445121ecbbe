// Unix systems: the two ends of a socketpair.

//go:build unix

package testutil

import (
	"net"
	"os"
	"syscall"
	"testing"
)

// SocketPair returns the two ends of a socketpair.
func SocketPair(t testing.TB) (net.Conn, net.Conn) {
	t.Helper()
	syscall.ForkLock.RLock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	Must(t, err)
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		conns[i], err = net.FileConn(f)
		f.Close()
		Must(t, err)
	}
	return conns[0], conns[1]
}
