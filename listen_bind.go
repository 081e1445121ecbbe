// Unix sockets of a server: from a path whose lock is held to a listener there.

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

const (
	probeTimeout    = time.Second // for connect to a server that may be alive
	maxBindAttempts = 100         // an attempt fails only if the random name is taken
	maxPrivateName  = 15          // bytes in the random name of a directory
)

// unixListener is a socket that is known by a path, and the lock on that path.
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

// checkVacant returns an error unless the path is free, or has the socket of a
// server that is gone. A server that takes no lock counts, too.
func (l *unixListener) checkVacant() error {
	info, err := os.Lstat(l.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fail(ErrConfig, err, "cannot look at the socket path: "+hintChooseOther)
	case info.Mode()&os.ModeSocket == 0:
		return fail(ErrConfig, nil, "%s is not a socket (mode %s) and is left alone: remove it, or "+hintChooseOther, l.path, info.Mode())
	}
	c, err := net.DialTimeout("unix", l.path, probeTimeout)
	switch {
	case errors.Is(err, sys.ErrRefused), errors.Is(err, fs.ErrNotExist): // no other error shows that the server is gone
		l.identity = info
		return nil
	case err == nil:
		c.Close()
	}
	return fail(ErrNameInUse, err, "a server of user %d may be alive at %s: stop it, or "+hintChooseOther, sys.OwnerOf(info), l.path)
}

// bind puts a socket of the given mode at the path, which checkVacant has found
// vacant. At no moment can a user connect whom the mode excludes.
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
		return fail(ErrNameInUse, err, "another server has taken %s at the same time: stop it, or "+hintChooseOther, l.path)
	}
	return fail(ErrConfig, err, "cannot put a socket at %s: make its directory writable, remove what another user has left there, or "+hintChooseOther, l.path)
}

// bindInPlace binds the socket to the path. The mode is the socket's before the
// path is, and the umask of this process can only take bits of it away, which
// AfterBind gives back.
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

// privateDirectory makes a directory with a random name in dir. The name is
// shorter where the path of a socket in it would be too long.
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

// disableUnlink leaves the removal of a socket's file to this package, or to
// nobody.
func disableUnlink(l net.Listener) {
	if l, ok := l.(interface{ SetUnlinkOnClose(bool) }); ok { // not on every system
		l.SetUnlinkOnClose(false)
	}
}
