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

// openLocked opens and locks a file. It follows no symbolic link and does not wait.
func openLocked(name string, flag int) (*os.File, error) {
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

// removeLocked removes the file before the lock is released. A server that has
// opened the file and waits for the lock then finds that it is not at its path.
func removeLocked(f *os.File) error {
	if isAtPath(f) {
		os.Remove(f.Name()) // in a sticky directory the file may belong to another user
	}
	return unlockFile(f)
}

// OwnerOf returns the user who owns the file, or -1 if the system does not say or
// the owner has no number in this process's user namespace.
func OwnerOf(info os.FileInfo) int {
	owner := ownerNumber(info)
	if owner >= 0 && isUnmapped(uint32(owner), userIDs) {
		return -1
	}
	return owner
}

// ownerNumber returns the number of the file's owner as the system shows it.
func ownerNumber(info os.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}
