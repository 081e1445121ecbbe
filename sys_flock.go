// Unix systems whose locks belong to an open file.

//go:build unix && !aix && (!solaris || illumos)

package gipc

import (
	"os"
	"syscall"
)

func lock(fd uintptr) error {
	err := syscall.Flock(int(fd), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == syscall.EWOULDBLOCK {
		return errLocked
	}
	return err
}

// unlock does not leave it to the close: a child between fork and exec still
// has the file open, and with it the lock.
func unlock(f *os.File) error {
	syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
	return f.Close()
}
