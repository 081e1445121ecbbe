// Unix systems whose locks belong to a process: two servers of one process are
// kept apart by the probe of the socket alone.

//go:build aix || (solaris && !illumos)

package sys

import (
	"os"
	"syscall"
)

func lockFile(fd uintptr) error {
	err := syscall.FcntlFlock(fd, syscall.F_SETLK, &syscall.Flock_t{Type: syscall.F_WRLCK})
	if err == syscall.EAGAIN || err == syscall.EACCES {
		return ErrLocked
	}
	return err
}

func unlockFile(f *os.File) error { return f.Close() }
