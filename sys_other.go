// Systems that are neither Unix nor Windows: no socket files.

//go:build !unix && !windows

package gipc

import (
	"errors"
	"os"
)

var (
	errNoSockets = errors.New("this system has no unix sockets: set Network to tcp, or give a Listener and a Dial")
	errRefused   = errNoSockets
	errInUse     = errNoSockets
)

const maxPath = 107

func openLock(string, int) (*os.File, error) { return nil, errNoSockets }

func ownerOf(os.FileInfo) int { return -1 }

func unlock(f *os.File) error { return f.Close() }
