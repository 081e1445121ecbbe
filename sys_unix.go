// Unix systems: the lock file, owners, and the errors that decide.

//go:build unix

package gipc

import (
	"os"
	"syscall"
)

const (
	errRefused = syscall.ECONNREFUSED
	errInUse   = syscall.EADDRINUSE
	maxPath    = len(syscall.RawSockaddrUnix{}.Path) - 1 // with its NUL
)

// openLock opens and locks a file. It follows no link and waits for nobody.
func openLock(name string, flag int) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|flag, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lock(f.Fd()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func ownerOf(info os.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}
