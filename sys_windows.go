// Windows: the lock file is one that nobody else can open, and no owner is
// known, since the directory of the sockets is private to the user.

package gipc

import (
	"os"
	"syscall"
)

// The syscall package's ECONNREFUSED and EADDRINUSE are not what Windows returns.
const (
	errRefused       = syscall.Errno(10061)
	errInUse         = syscall.Errno(10048)
	sharingViolation = syscall.Errno(32)
	maxPath          = len(syscall.RawSockaddrUnix{}.Path) - 1
)

func openLock(name string, flag int) (*os.File, error) {
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
		return nil, errLocked
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(h), name), nil
}

func ownerOf(os.FileInfo) int { return -1 }

func unlock(f *os.File) error { return f.Close() }
