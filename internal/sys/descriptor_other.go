// Systems other than Unix: no descriptor is read or written without waiting.

//go:build !unix

package sys

import (
	"net"
	"syscall"
)

// RawConn always returns nil on this system.
func RawConn(net.Conn) syscall.RawConn { return nil }

// Read always would wait on this system.
func Read(uintptr, []byte) (n int, wait bool, err error) { return 0, true, nil }

// Write always would wait on this system.
func Write(uintptr, []byte) (n int, wait bool, err error) { return 0, true, nil }

// GrowSendBuffer does nothing on this system.
func GrowSendBuffer(uintptr, int) {}
