// Unix socket listeners: the lock on a path, the check for a live server, and binding.
// The parts that differ by system are in internal/sys.

package gipc

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"example.com/gipc/internal/sys"
)

const maxLockAttempts = 100 // an attempt fails only if another process interferes

// openListener returns the server's listener. Its Close removes all files that
// openListener created.
func (s *settings) openListener() (net.Listener, error) {
	switch {
	case s.listener != nil:
		return s.listener, s.useListener(s.listener)
	case s.network == "tcp":
		return s.listenTCP()
	}
	return s.listenUnix()
}

// useListener checks the config's Listener. It disables the removal of its socket file.
func (s *settings) useListener(l net.Listener) error {
	if network := l.Addr().Network(); keepsBoundaries(network) {
		return fieldError("Listener", "on "+network, "it keeps message boundaries and a stream is needed: listen on unix or tcp")
	}
	disableUnlink(l)
	return s.checkExposure(l.Addr())
}

func (s *settings) listenUnix() (net.Listener, error) {
	place := s.socketPlaces[0]
	if err := place.prepare(s.eventLog); err != nil {
		return nil, err
	}
	lock, err := lockPath(place.path)
	if err != nil {
		return nil, err
	}
	l := &unixListener{path: place.path, lock: lock}
	if err = l.checkVacant(); err == nil {
		err = l.bind(s.socketMode())
	}
	if err != nil {
		lock.Remove()
		return nil, err
	}
	return l, nil
}

// socketMode returns the mode of the socket file, which decides who may connect.
func (s *settings) socketMode() os.FileMode {
	if s.unmaskSocket {
		return 0o777
	}
	return 0o600
}

// lockPath acquires the lock of a socket path. The kernel releases it when the process
// ends, so if the lock can be acquired no other server of this package serves the path.
func lockPath(path string) (*sys.Lock, error) {
	name := path + ".lock"
	var err error
	for range maxLockAttempts {
		// First without O_CREATE, which systems refuse for another user's file in a
		// sticky directory.
		var lock *sys.Lock
		if lock, err = sys.OpenLock(name, 0); errors.Is(err, fs.ErrNotExist) {
			lock, err = sys.OpenLock(name, os.O_CREATE|os.O_EXCL)
		}
		if err == nil {
			if lock.InPlace() {
				return lock, nil
			}
			lock.Release()
			err = errors.New("not a regular file, or replaced again and again")
		} else if !errors.Is(err, fs.ErrExist) {
			break
		}
	}
	return nil, lockError(path, name, err)
}

// lockError returns the error for a lock that cannot be acquired.
func lockError(path, name string, err error) error {
	info, missing := os.Lstat(name)
	switch {
	case err == sys.ErrLocked:
		return newError(ErrNameInUse, nil, "another server serves %s and holds the lock on %s: stop it, or "+hintChooseOther, path, name)
	case missing == nil && info.Mode().IsRegular() && errors.Is(err, fs.ErrPermission):
		return newError(ErrNameInUse, err, "%s belongs to user %d, whose server may be alive, and this user may not lock it: if there is no such server remove the file, else "+hintChooseOther, name, sys.OwnerOf(info))
	case errors.Is(err, fs.ErrNotExist):
		return newError(ErrConfig, err, "there is no directory for %s: make it, or "+hintChooseOther, path)
	}
	return newError(ErrConfig, err, "cannot take the lock file %s (a regular file, no link, in a directory that exists and may be written): correct that, or "+hintChooseOther, name)
}

const (
	probeTimeout    = time.Second // for connect to a server that may be alive
	maxBindAttempts = 100         // an attempt fails only if the random name is taken
	maxPrivateName  = 15          // bytes in the random name of a directory
)

// A unixListener is a listening socket, its path, and the lock on that path.
type unixListener struct {
	*net.UnixListener
	path     string
	identity os.FileInfo // of our socket file
	lock     *sys.Lock
	once     sync.Once
}

// Addr returns the public address. On systems that rename the socket the listener
// itself has another one.
func (l *unixListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close frees the name. The socket file is removed while the socket is open,
// because no other file can have its inode then, and before the lock is released.
func (l *unixListener) Close() (err error) {
	l.once.Do(func() {
		var removed error
		if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.identity) {
			removed = os.Remove(l.path)
		}
		err = errors.Join(removed, l.UnixListener.Close(), l.lock.Remove())
	})
	return err
}

// checkVacant returns an error if a live server listens at the path, even one that uses
// no lock, or if there is a file that is not a socket.
func (l *unixListener) checkVacant() error {
	info, err := os.Lstat(l.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return newError(ErrConfig, err, "cannot look at the socket path: "+hintChooseOther)
	case info.Mode()&os.ModeSocket == 0:
		return newError(ErrConfig, nil, "%s is not a socket (mode %s) and is left alone: remove it, or "+hintChooseOther, l.path, info.Mode())
	}
	c, err := net.DialTimeout("unix", l.path, probeTimeout)
	switch {
	case errors.Is(err, sys.ErrRefused), errors.Is(err, fs.ErrNotExist): // no other error proves that no server listens
		l.identity = info
		return nil
	case err == nil:
		c.Close()
	}
	return newError(ErrNameInUse, err, "a server of user %d may be alive at %s: stop it, or "+hintChooseOther, sys.OwnerOf(info), l.path)
}

// bind creates the socket at the path, which is vacant, with the given mode. At no
// moment can a user connect whom the mode excludes.
func (l *unixListener) bind(mode os.FileMode) error {
	var err error
	if sys.BindsInPlace {
		err = l.bindInPlace(mode)
	} else {
		err = l.bindAndRename(mode)
	}
	if err == nil {
		return nil
	}
	if errors.Is(err, sys.ErrAddressInUse) {
		return newError(ErrNameInUse, err, "another server has taken %s at the same time: stop it, or "+hintChooseOther, l.path)
	}
	return newError(ErrConfig, err, "cannot put a socket at %s: make its directory writable, remove what another user has left there, or "+hintChooseOther, l.path)
}

// bindInPlace binds the socket to the path. The socket has its mode before it has the
// path. The umask of this process can only remove bits, which AfterBind restores.
func (l *unixListener) bindInPlace(mode os.FileMode) error {
	if now, err := os.Lstat(l.path); err == nil && l.identity != nil && os.SameFile(now, l.identity) {
		if err := os.Remove(l.path); err != nil {
			return err
		}
	}
	err := l.open(l.path, mode)
	if err != nil {
		return err
	}
	if l.identity, err = sys.AfterBind(l.path, mode); err != nil {
		l.UnixListener.Close()
		if now, missing := os.Lstat(l.path); missing == nil && now.Mode()&os.ModeSocket != 0 {
			os.Remove(l.path)
		}
	}
	return err
}

// bindAndRename binds the socket in a directory that only this user may enter,
// and renames it to the path with its mode set.
func (l *unixListener) bindAndRename(mode os.FileMode) error {
	dir, err := privateDirectory(filepath.Dir(l.path))
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	private := filepath.Join(dir, "s")
	if err := l.open(private, mode); err != nil {
		return err
	}
	if l.identity, err = os.Lstat(private); err == nil {
		if err = os.Chmod(private, mode); err == nil {
			err = os.Rename(private, l.path)
		}
	}
	if err != nil {
		l.UnixListener.Close()
		os.Remove(private)
	}
	return err
}

// privateDirectory creates a directory with a random name in dir. The name is shortened
// if the path of a socket in it would be too long.
func privateDirectory(dir string) (string, error) {
	prefix := strings.TrimSuffix(filepath.Join(dir, ".x"), "x")
	room := min(maxPrivateName, sys.MaxSocketPath-len(prefix)-len("/s"))
	if room < 1 {
		return "", errors.New("its path is too long for the name under which the socket is made: choose a shorter directory")
	}
	var err error
	for range maxBindAttempts {
		name := prefix + rand.Text()[:room]
		if err = os.Mkdir(name, 0o700); err == nil {
			return name, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			break
		}
	}
	return "", err
}

// open opens the socket at the path.
func (l *unixListener) open(path string, mode os.FileMode) error {
	config := net.ListenConfig{Control: sys.BeforeBind(mode)}
	made, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return err
	}
	disableUnlink(made)
	l.UnixListener = made.(*net.UnixListener)
	return nil
}

// disableUnlink makes the Close of a listener leave its socket file in place.
func disableUnlink(l net.Listener) {
	if l, ok := l.(interface{ SetUnlinkOnClose(bool) }); ok { // not on every system
		l.SetUnlinkOnClose(false)
	}
}
