// Unix systems: reads and writes that do not wait, on the descriptor itself. A
// reader holds no buffer while there is nothing to read, and a writer learns that
// it would wait.

//go:build unix

package sys

import (
	"net"
	"syscall"
)

// RawConn returns access to the descriptor of c if c is a plain stream socket,
// whose reads and writes are those of the descriptor. Otherwise it returns nil:
// for a connection of any other type, such as TLS, and for a unix socket that
// keeps message boundaries.
func RawConn(c net.Conn) syscall.RawConn {
	var raw syscall.RawConn
	switch c := c.(type) {
	case *net.UnixConn:
		if isStream(c.LocalAddr()) && isStream(c.RemoteAddr()) {
			raw, _ = c.SyscallConn()
		}
	case *net.TCPConn:
		raw, _ = c.SyscallConn()
	}
	return raw
}

// isStream reports whether the address of a unix socket is that of a stream. A nil
// address is that of no socket.
func isStream(a net.Addr) bool { return a != nil && a.Network() == "unix" }

// Read reads into b what the kernel has. wait is true, and n is 0, if it has
// nothing yet. n is 0 with wait false and a nil error at the end of the stream.
func Read(fd uintptr, b []byte) (n int, wait bool, err error) {
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

// Write writes as much of b as the kernel takes at once. wait is true, and n is 0,
// if it takes nothing now.
func Write(fd uintptr, b []byte) (n int, wait bool, err error) {
	for {
		n, err = syscall.Write(int(fd), b)
		switch err {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			return 0, true, nil
		}
		return max(n, 0), false, err
	}
}

// GrowSendBuffer requests a send buffer of size bytes if the present one is
// smaller. The system may give less, and an error is ignored.
func GrowSendBuffer(fd uintptr, size int) {
	has, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF)
	if err == nil && has < size {
		syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF, size)
	}
}
