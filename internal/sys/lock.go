package sys

import (
	"errors"
	"os"
)

// ErrLocked is returned by OpenLock when another Lock of the file is held.
var ErrLocked = errors.New("locked")

// Lock is a lock file that is open and locked. The system releases the lock when
// the process ends.
type Lock struct{ file *os.File }

// OpenLock opens the file and locks it. flag is added to the flags of the open:
// 0, or os.O_CREATE|os.O_EXCL. It follows no symbolic link and does not wait. It
// returns ErrLocked if the file is locked already.
func OpenLock(name string, flag int) (*Lock, error) {
	f, err := openLocked(name, flag)
	if err != nil {
		return nil, err
	}
	return &Lock{f}, nil
}

// InPlace reports whether the locked file is the one at its path. Otherwise the
// lock excludes nobody, because the file was removed or replaced before it was
// locked.
func (l *Lock) InPlace() bool { return isAtPath(l.file) }

// Release releases the lock and leaves the file.
func (l *Lock) Release() error { return unlockFile(l.file) }

// Remove removes the file if it is the one at its path, and releases the lock. A
// file that cannot be removed is left.
func (l *Lock) Remove() error { return removeLocked(l.file) }

// isAtPath reports whether f is the regular file at the path that it was opened by.
func isAtPath(f *os.File) bool {
	held, err := f.Stat()
	if err != nil {
		return false
	}
	now, err := os.Lstat(f.Name())
	return err == nil && os.SameFile(held, now) && now.Mode().IsRegular()
}
