// Windows: the lock file is one that no other process can open, and no owner is
// known, because the directory of the sockets is private to the user.

package sys

import (
	"os"
	"syscall"
)

const (
	// ErrRefused is the error of connect when nothing listens at the address. The
	// syscall package's ECONNREFUSED is not what Windows returns.
	ErrRefused = syscall.Errno(10061)
	// ErrAddressInUse is the error of bind when the address is taken. The syscall
	// package's EADDRINUSE is not what Windows returns.
	ErrAddressInUse = syscall.Errno(10048)
	// MaxSocketPath is the length of the longest path of a socket, in bytes.
	MaxSocketPath = len(syscall.RawSockaddrUnix{}.Path) - 1

	sharingViolation = syscall.Errno(32)
)

// openLocked opens the file so that it cannot be opened a second time.
func openLocked(name string, flag int) (*os.File, error) {
	path, err := syscall.UTF16PtrFromString(name)
	if err != nil {
		return nil, err
	}
	mode := uint32(syscall.OPEN_EXISTING)
	if flag&os.O_CREATE != 0 {
		mode = syscall.CREATE_NEW
	}
	h, err := syscall.CreateFile(path, syscall.GENERIC_READ|syscall.GENERIC_WRITE, 0, nil, mode,
		syscall.FILE_ATTRIBUTE_NORMAL|syscall.FILE_FLAG_OPEN_REPARSE_POINT, 0)
	if err == sharingViolation {
		return nil, ErrLocked
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(h), name), nil
}

func unlockFile(f *os.File) error { return f.Close() }

// removeLocked closes the file first, because an open file cannot be removed. If
// another server has opened it since, the removal fails, and the file stays.
func removeLocked(f *os.File) error {
	err := f.Close()
	os.Remove(f.Name())
	return err
}

// OwnerOf always returns -1 on this system.
func OwnerOf(os.FileInfo) int { return -1 }
