// Unix systems whose locks belong to an open file.

//go:build unix && !aix && (!solaris || illumos)

package sys

import (
	"os"
	"syscall"
)

func lockFile(fd uintptr) error {
	for {
		err := syscall.Flock(int(fd), syscall.LOCK_EX|syscall.LOCK_NB)
		switch err {
		case syscall.EINTR:
			continue
		case syscall.EWOULDBLOCK:
			return ErrLocked
		}
		return err
	}
}

// unlockFile releases the lock and closes the file. The close alone is not enough:
// a child between fork and exec has the file open, too, and with it the lock.
func unlockFile(f *os.File) error {
	syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
	return f.Close()
}
