// Systems that are neither Unix nor Windows: no socket files.

//go:build !unix && !windows

package sys

import (
	"errors"
	"os"
)

// On this system nothing listens on unix sockets. ErrRefused and ErrAddressInUse
// exist for the comparisons alone.
var (
	errNoSockets    = errors.New("this system has no unix sockets: set Network to tcp, or give a Listener and a Dial")
	ErrRefused      = errNoSockets
	ErrAddressInUse = errNoSockets
)

// MaxSocketPath is the length of the longest path of a socket, in bytes.
const MaxSocketPath = 107

func openLocked(string, int) (*os.File, error) { return nil, errNoSockets }

func unlockFile(f *os.File) error { return f.Close() }

func removeLocked(f *os.File) error { return f.Close() }

// OwnerOf always returns -1 on this system.
func OwnerOf(os.FileInfo) int { return -1 }
