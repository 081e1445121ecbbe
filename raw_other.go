//go:build !unix

package gipc

import (
	"net"
	"syscall"
)

func rawConn(net.Conn) syscall.RawConn { return nil }

func sysRead(uintptr, []byte) (n int, wait bool, err error) { return 0, true, nil }

func sysWrite(uintptr, []byte) int { return 0 }
