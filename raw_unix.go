// Unix systems: reads and writes that do not wait, on the descriptor itself. A
// reader holds no buffer while there is nothing to read, and a writer learns that
// it would wait.

//go:build unix

package gipc

import (
	"net"
	"syscall"
)

// rawConn returns access to the descriptor of c where reads and writes of c are
// those of the descriptor and nothing else.
func rawConn(c net.Conn) syscall.RawConn {
	var raw syscall.RawConn
	switch c := c.(type) {
	case *net.UnixConn:
		raw, _ = c.SyscallConn()
	case *net.TCPConn:
		raw, _ = c.SyscallConn()
	}
	return raw
}

// sysRead reads what there is. wait is true when there is nothing yet.
func sysRead(fd uintptr, b []byte) (n int, wait bool, err error) {
	for {
		n, err = syscall.Read(int(fd), b)
		switch err {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			return 0, true, nil
		}
		return max(n, 0), false, err
	}
}

// sysWrite writes what the kernel takes at once. Errors show in the write that
// follows.
func sysWrite(fd uintptr, b []byte) int {
	for {
		n, err := syscall.Write(int(fd), b)
		if err != syscall.EINTR {
			return max(n, 0)
		}
	}
}

// widen asks for a send buffer of wideSize: the system gives what it allows.
func widen(fd uintptr) {
	has, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF)
	if err == nil && has < wideSize {
		syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF, wideSize)
	}
}
