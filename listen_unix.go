// Unix sockets of a server: the path of a name, and the lock that stands for it.
// What differs by system is in internal/sys.

package gipc

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"example.com/gipc/internal/sys"
)

const (
	maxLockAttempts = 100 // an attempt fails only if another process interferes
	hintChooseOther = "choose another Name, Address or GIPC_SOCKET_DIR"
)

// listen opens the server's listener. Its Close removes all files that listen made.
func (s *settings) listen() (net.Listener, error) {
	switch {
	case s.listener != nil:
		return s.listener, s.acceptListener(s.listener)
	case s.network == "tcp":
		return s.listenTCP()
	}
	return s.listenUnix()
}

// acceptListener checks the config's Listener and takes over its socket file.
func (s *settings) acceptListener(l net.Listener) error {
	if network := l.Addr().Network(); keepsBoundaries(network) {
		return badField("Listener", "on "+network, "it keeps message boundaries and a stream is needed: listen on unix or tcp")
	}
	disableUnlink(l)
	return s.checkExposure(l.Addr())
}

// A socketPlace is a path at which the socket of a name can be.
type socketPlace struct {
	path    string
	derived bool // from Name alone: neither Address nor GIPC_SOCKET_DIR was given
	private bool // in the directory that only this user may enter
}

// socketPlaces returns the places of a socket. A server uses the first one, and a
// client looks in all of them. The paths are absolute, so that they mean the same
// until Close.
func (s *settings) socketPlaces() ([]socketPlace, error) {
	if strings.HasPrefix(s.address, "@") || strings.ContainsRune(s.address, 0) {
		return nil, badField("Address", fmt.Sprintf("%q", s.address), "abstract sockets have no permissions and are not used: give a path")
	}
	base, file := cmp.Or(s.socketBase, "/tmp"), s.name+".sock"
	dir := os.Getenv("GIPC_SOCKET_DIR")
	if runtime.GOOS == "windows" { // the directory is private to the user
		dir = cmp.Or(dir, s.socketBase, os.TempDir())
	}
	var places []socketPlace
	switch {
	case s.address != "":
		places = []socketPlace{{path: s.address}}
	case dir != "":
		places = []socketPlace{{path: filepath.Join(dir, file)}}
	default:
		if !s.unmask {
			places = []socketPlace{{filepath.Join(base, fmt.Sprint("gipc-", os.Geteuid()), file), true, true}}
		}
		places = append(places, socketPlace{filepath.Join(base, file), true, false})
	}
	for i := range places {
		path, err := filepath.Abs(places[i].path)
		if err != nil {
			return nil, fail(ErrConfig, err, "Address or GIPC_SOCKET_DIR is relative: give an absolute path")
		}
		places[i].path = path
	}
	return places, places[len(places)-1].checkLength() // the shortest
}

func (p socketPlace) checkLength() error {
	if len(p.path) > sys.MaxSocketPath {
		return fail(ErrConfig, nil, "the socket path %s has %d bytes and the system's limit is %d: "+hintChooseOther, p.path, len(p.path), sys.MaxSocketPath)
	}
	return nil
}

// prepare checks the directory of a server's socket, and makes the private one.
func (p socketPlace) prepare(logger *eventLog) error {
	if err := p.checkLength(); err != nil {
		return err
	}
	dir := filepath.Dir(p.path)
	if !p.derived {
		if isOpenToAll(dir) {
			logger.warn("socket directory is writable by every user and not sticky: other users can replace the socket", "dir", dir)
		}
		return nil
	}
	if p.private {
		if err := makePrivate(dir); err != nil {
			return err
		}
	}
	return p.checkDirectory()
}

// checkDirectory refuses a directory in which other users can replace the socket
// of a name. The error is ErrNotExist if there is no directory.
func (p socketPlace) checkDirectory() error {
	dir := filepath.Dir(p.path)
	base := dir
	if p.private {
		if err := checkPrivate(dir); err != nil {
			return err
		}
		base = filepath.Dir(dir)
	}
	if p.derived && isOpenToAll(base) {
		return fail(ErrConfig, nil, "%s is writable by every user and not sticky, so that other users can replace a socket in it: run chmod +t on it, or set Address or GIPC_SOCKET_DIR", base)
	}
	return nil
}

// isOpenToAll reports whether every user can remove and rename the files in dir.
func isOpenToAll(dir string) bool {
	info, err := os.Stat(dir)
	return err == nil && runtime.GOOS != "windows" && info.Mode().Perm()&0o002 != 0 && info.Mode()&os.ModeSticky == 0
}

// makePrivate makes a directory that only this user may enter, if there is none.
func makePrivate(dir string) error {
	err := os.Mkdir(dir, 0o700)
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil // checkPrivate looks at it
	case err != nil:
		return fail(ErrConfig, err, "cannot make the directory of the socket: set Address or GIPC_SOCKET_DIR")
	}
	return nil
}

// checkPrivate refuses a directory that another user made or may enter.
func checkPrivate(dir string) error {
	info, err := os.Lstat(dir)
	switch {
	case err != nil:
		return fail(ErrConfig, err, "cannot use the directory of the socket: set Address or GIPC_SOCKET_DIR")
	case !info.IsDir() || sys.OwnerOf(info) != os.Geteuid() || info.Mode().Perm()&0o077 != 0:
		return fail(ErrConfig, nil, "%s is not a directory that user %d alone may enter (it belongs to %s and has mode %s): remove it or run chmod 700 on it, or set Address or GIPC_SOCKET_DIR",
			dir, os.Geteuid(), userText(sys.OwnerOf(info)), info.Mode())
	}
	return nil
}

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

func (s *settings) listenUnix() (net.Listener, error) {
	place := s.places[0]
	if err := place.prepare(s.log); err != nil {
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

// socketMode returns the mode of the socket file: who may connect.
func (s *settings) socketMode() os.FileMode {
	if s.unmask {
		return 0o777
	}
	return 0o600
}

// lockPath takes the lock of a socket path. The kernel releases it when the
// process ends, so no server of this library serves the path of a lock that can be
// taken.
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

// lockError says why the lock cannot be taken.
func lockError(path, name string, err error) error {
	info, missing := os.Lstat(name)
	switch {
	case err == sys.ErrLocked:
		return fail(ErrNameInUse, nil, "another server serves %s and holds the lock on %s: stop it, or "+hintChooseOther, path, name)
	case missing == nil && info.Mode().IsRegular() && errors.Is(err, fs.ErrPermission):
		return fail(ErrNameInUse, err, "%s belongs to user %d, whose server may be alive, and this user may not lock it: if there is no such server remove the file, else "+hintChooseOther, name, sys.OwnerOf(info))
	case errors.Is(err, fs.ErrNotExist):
		return fail(ErrConfig, err, "there is no directory for %s: make it, or "+hintChooseOther, path)
	}
	return fail(ErrConfig, err, "cannot take the lock file %s (a regular file, no link, in a directory that exists and may be written): put that right, or "+hintChooseOther, name)
}
