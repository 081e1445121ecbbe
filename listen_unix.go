// Unix sockets of a server: the path of a name, and the lock that stands for it.
// What differs by system is in internal/sys.

package gipc

import (
	"errors"
	"io/fs"
	"net"
	"os"

	"example.com/gipc/internal/sys"
)

const maxLockAttempts = 100 // an attempt fails only if another process interferes

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
