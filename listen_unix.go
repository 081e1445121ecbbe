// Unix sockets: how a server takes a name and gives it back, and whose server a
// client talks to. What differs by system is in internal/sys.

package gipc

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"example.com/gipc/internal/sys"
)

const (
	probeTime   = time.Second // for a server that may be there to answer connect
	maxAttempts = 100         // at what only fails when others interfere each time
	privateLen  = 16          // of the name under which a socket is made, where the system allows as much
	elsewhere   = "choose another Name, Address or GIPC_SOCKET_DIR"

	// Windows does not promise that a bound socket can be renamed, and knows no
	// modes: there the socket is bound in place.
	bindsInPlace = runtime.GOOS == "windows"
)

// listen opens the server's listener. Its Close cleans up all that listen made.
func (s *settings) listen() (net.Listener, error) {
	switch {
	case s.listener != nil:
		keepFile(s.listener)
		return s.listener, s.mayServe(s.listener.Addr())
	case s.network == "tcp":
		return s.listenTCP()
	}
	return s.listenUnix()
}

// connect makes one connection to the server. On a unix socket without a secret
// it looks at whose server that is.
func (s *settings) connect(ctx context.Context) (net.Conn, error) {
	if s.dial != nil {
		c, err := s.dial(ctx)
		if err == nil && c == nil {
			err = errors.New("neither a connection nor an error")
		}
		if err != nil {
			return nil, fmt.Errorf(errorPrefix+"the config's Dial: %w", err)
		}
		return c, nil
	}
	look := s.network == "unix" && s.secret == nil && !s.anyUser && runtime.GOOS != "windows"
	var before os.FileInfo
	if look {
		before, _ = os.Lstat(s.address) // nil where it fails
	}
	c, err := new(net.Dialer).DialContext(ctx, s.network, s.address)
	if err != nil {
		return nil, s.dialError(err)
	}
	if look {
		if err := checkServer(s.address, peerOf(c), before); err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

// dialError adds what to do. The text of err has the address in full.
func (s *settings) dialError(err error) error {
	switch {
	case errors.Is(err, sys.ErrRefused), errors.Is(err, fs.ErrNotExist):
		same := "Name, Address and GIPC_SOCKET_DIR"
		if s.network == "tcp" {
			same = "Address, GIPC_NETWORK_HOST and GIPC_NETWORK_PORT"
		}
		return fmt.Errorf(errorPrefix+"%w: no server is listening there: start it, or check that %s are the same on both sides", err, same)
	case errors.Is(err, fs.ErrPermission) && s.network == "unix":
		return fmt.Errorf(errorPrefix+"%w: run as the server's user, or set UnmaskPermissions there", err)
	}
	return fmt.Errorf(errorPrefix+"%w", err)
}

// socketPath is the configured path, or the name's in the environment's
// directory. It is absolute, so that it means the same until Close.
func socketPath(name, address string) (string, error) {
	if strings.HasPrefix(address, "@") || strings.ContainsRune(address, 0) {
		return "", badField("Address", fmt.Sprintf("%q", address), "abstract sockets have no permissions and are not used: give a path")
	}
	if address == "" {
		dir := "/tmp"
		if runtime.GOOS == "windows" {
			dir = os.TempDir()
		}
		address = filepath.Join(cmp.Or(os.Getenv("GIPC_SOCKET_DIR"), dir), name+".sock")
	}
	path, err := filepath.Abs(address)
	if err != nil {
		return "", fail(ErrConfig, err, "Address or GIPC_SOCKET_DIR is relative: give an absolute path")
	}
	if len(path) > sys.MaxSocketPath {
		return "", fail(ErrConfig, nil, "the socket path %s has %d bytes and the system's limit is %d: "+elsewhere, path, len(path), sys.MaxSocketPath)
	}
	return path, nil
}

// unixListener is a socket that is known by a path, and the lock on that path.
type unixListener struct {
	*net.UnixListener
	path string
	own  os.FileInfo // tells our socket from one that has taken its place
	lock *os.File
	once sync.Once
}

// Addr is the public address; the socket itself knows its private one.
func (l *unixListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close gives the name back. The socket is removed while it is open, so that no
// other file can have its inode, and before the lock is released.
func (l *unixListener) Close() (err error) {
	l.once.Do(func() {
		var removed error
		if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.own) {
			removed = os.Remove(l.path)
		}
		err = errors.Join(removed, l.UnixListener.Close(), sys.CloseLock(l.lock))
	})
	return err
}

func (s *settings) listenUnix() (net.Listener, error) {
	lock, err := lockName(s.address)
	if err != nil {
		return nil, err
	}
	l := &unixListener{path: s.address, lock: lock}
	if err = vacate(l.path); err == nil {
		err = l.publish(s.unmask)
	}
	if err != nil {
		sys.CloseLock(lock)
		return nil, err
	}
	return l, nil
}

// lockName takes the lock that stands for the name. The kernel gives it back
// when the process dies, so who holds it knows that no server of ours is alive.
func lockName(path string) (*os.File, error) {
	name := path + ".lock"
	var err error
	for range maxAttempts {
		// Not with O_CREATE alone: in /tmp, systems refuse that for another user's file.
		var f *os.File
		if f, err = sys.OpenLock(name, 0); errors.Is(err, fs.ErrNotExist) {
			f, err = sys.OpenLock(name, os.O_CREATE|os.O_EXCL)
		}
		if err == nil {
			if standsAt(f, name) {
				return f, nil
			}
			sys.CloseLock(f)
			err = errors.New("not a regular file, or replaced again and again")
		} else if !errors.Is(err, fs.ErrExist) {
			break
		}
	}
	info, missing := os.Lstat(name)
	switch {
	case err == sys.ErrLocked:
		return nil, fail(ErrNameInUse, nil, "another server serves %s and holds the lock on %s: stop it, or "+elsewhere, path, name)
	case missing == nil && info.Mode().IsRegular() && errors.Is(err, fs.ErrPermission):
		return nil, fail(ErrNameInUse, err, "%s belongs to user %d, whose server may be alive, and this user may not lock it: if there is no such server remove the file, else "+elsewhere, name, sys.OwnerOf(info))
	case errors.Is(err, fs.ErrNotExist):
		return nil, fail(ErrConfig, err, "there is no directory for %s: make it, or "+elsewhere, path)
	}
	return nil, fail(ErrConfig, err, "cannot take the lock file %s (a regular file, no link, in a directory that exists and may be written): put that right, or "+elsewhere, name)
}

// standsAt says whether the file is the one at the path: a lock on one that was
// removed meanwhile keeps nobody out.
func standsAt(f *os.File, path string) bool {
	held, _ := f.Stat()
	now, _ := os.Lstat(path)
	return os.SameFile(held, now) && now.Mode().IsRegular()
}

// vacate makes sure that nobody alive is at path, a server that knows no lock
// included. It needs the lock.
func vacate(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fail(ErrConfig, err, "cannot look at the socket path: "+elsewhere)
	case info.Mode()&os.ModeSocket == 0:
		return fail(ErrConfig, nil, "%s is not a socket (mode %s) and is left alone: remove it, or "+elsewhere, path, info.Mode())
	}
	c, err := net.DialTimeout("unix", path, probeTime)
	switch {
	case errors.Is(err, sys.ErrRefused), errors.Is(err, fs.ErrNotExist): // no other answer says that it is dead
		if bindsInPlace {
			os.Remove(path)
		}
		return nil
	case err == nil:
		c.Close()
	}
	return fail(ErrNameInUse, err, "a server of user %d may be alive at %s: stop it, or "+elsewhere, sys.OwnerOf(info), path)
}

// publish makes the socket under a private name and renames it into place, so
// that it never stands there without its mode or with nobody listening.
func (l *unixListener) publish(unmask bool) error {
	mode := os.FileMode(0o600)
	if unmask {
		mode = 0o777
	}
	private, err := l.bind()
	if err == nil {
		if l.own, err = os.Lstat(private); err == nil && !bindsInPlace {
			if err = os.Chmod(private, mode); err == nil {
				err = os.Rename(private, l.path)
			}
		}
		if err == nil {
			return nil
		}
		l.UnixListener.Close()
		os.Remove(private)
	}
	return fail(ErrConfig, err, "cannot put a socket at %s: make its directory writable, remove what another user has left there, or "+elsewhere, l.path)
}

// bind makes the socket, and reports the path where it is for now.
func (l *unixListener) bind() (private string, err error) {
	config := net.ListenConfig{Control: sys.BeforeBind}
	own := ownPath(l.path)
	for try := range maxAttempts {
		switch dir, _ := filepath.Split(l.path); {
		case bindsInPlace:
			private = l.path
		case try < 2 && own != "":
			private = own
		default: // as short as need be where the public one is as long as may be
			private = dir + "." + rand.Text()[:min(privateLen, sys.MaxSocketPath-len(dir))-1]
		}
		var made net.Listener
		if made, err = config.Listen(context.Background(), "unix", private); err == nil {
			keepFile(made)
			l.UnixListener = made.(*net.UnixListener)
		}
		if !errors.Is(err, sys.ErrAddressInUse) {
			break
		}
		if info, err := os.Lstat(private); private == own && err == nil && info.Mode()&os.ModeSocket != 0 {
			os.Remove(private) // of a server that was killed at this point: who has the lock is alone here
		}
	}
	return private, err
}

// ownPath is a name in the same directory that goes with this path and no other,
// so that what a server leaves that is killed while it starts is found by the
// next one. It is empty where there is no room for it.
func ownPath(path string) string {
	dir, base := filepath.Split(path)
	if bindsInPlace || len(dir)+privateLen > sys.MaxSocketPath {
		return ""
	}
	return dir + "." + fmt.Sprintf("%x", sha256.Sum256([]byte(base)))[:privateLen-1]
}

// keepFile leaves the removal of a socket's file to us, or to nobody.
func keepFile(l net.Listener) {
	if l, ok := l.(interface{ SetUnlinkOnClose(bool) }); ok { // not on every system
		l.SetUnlinkOnClose(false)
	}
}

// checkServer says whether the server is ours or root's: by what the kernel
// tells of it, else by the socket's owner if the path led nowhere else.
func checkServer(path string, peer Peer, before os.FileInfo) error {
	const ways = "set the same Secret on both sides, or AllowAnyUser here"
	if !peer.Known {
		after, _ := os.Lstat(path)
		if !os.SameFile(before, after) {
			return fmt.Errorf(errorPrefix+"unix %s was replaced while this client connected to it", path)
		}
		if after.Mode()&os.ModeSocket == 0 {
			return fail(ErrUntrustedServer, nil, "unix %s is a link, whose owner proves nothing: "+ways, path)
		}
		peer.UID = sys.OwnerOf(after)
	}
	if peer.UID != 0 && peer.UID != os.Geteuid() {
		return fail(ErrUntrustedServer, nil, "the server at unix %s runs as user %d and this client as user %d: "+ways, path, peer.UID, os.Geteuid())
	}
	return nil
}

// peerOf is who is at the other end of c.
func peerOf(c net.Conn) Peer {
	p := Peer{UID: -1, GID: -1, PID: -1, Addr: c.RemoteAddr()}
	if sc, ok := c.(syscall.Conn); ok && p.Addr != nil && p.Addr.Network() == "unix" {
		if c, ok := sys.PeerCredentials(sc); ok {
			p.UID, p.GID, p.PID, p.Known = c.UID, c.GID, c.PID, true
		}
	}
	return p
}

// loggedPeer is a Peer in the log: a client on a unix socket has no address.
type loggedPeer Peer

func (p loggedPeer) LogValue() slog.Value {
	if addr, ok := p.Addr.(*net.UnixAddr); ok && p.Known && len(addr.Name) < 2 { // "" or "@"
		return slog.StringValue(fmt.Sprintf("user %d, process %d", p.UID, p.PID))
	}
	if p.Addr == nil {
		return slog.StringValue("")
	}
	return slog.StringValue(p.Addr.String())
}

// serverOf is peerOf for a client: with the public address of a unix socket,
// where the kernel tells the private one.
func (s *settings) serverOf(c net.Conn) Peer {
	p := peerOf(c)
	if s.network == "unix" {
		p.Addr = &net.UnixAddr{Name: s.address, Net: "unix"}
	}
	return p
}
