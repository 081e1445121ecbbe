// Unix systems: the lock file, owners, and the errors that decide.

//go:build unix

package sys

import (
	"os"
	"syscall"
)

const (
	// ErrRefused is the error of connect when nothing listens at the address.
	ErrRefused = syscall.ECONNREFUSED
	// ErrAddressInUse is the error of bind when the address is taken.
	ErrAddressInUse = syscall.EADDRINUSE
	// MaxSocketPath is the length of the longest path of a socket, in bytes. The
	// kernel needs one more for a NUL.
	MaxSocketPath = len(syscall.RawSockaddrUnix{}.Path) - 1
)

// OpenLock opens the file and locks it. flag is added to the flags of the open:
// 0, or os.O_CREATE|os.O_EXCL. It follows no symbolic link and does not wait. It
// returns ErrLocked if another open file holds the lock.
func OpenLock(name string, flag int) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|flag, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lockFile(f.Fd()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// OwnerOf returns the user who owns the file, or -1 if the system does not say.
func OwnerOf(info os.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}
