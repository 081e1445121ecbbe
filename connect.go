// One connection attempt of a client: possible paths of the server, the check of the
// server's user, and which errors are permanent.

package gipc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"example.com/gipc/internal/sys"
)

const connectTimeout = 10 * time.Second // for one attempt, with all addresses of a host name

// A dialedServer is a connection to a server before the handshake.
type dialedServer struct {
	conn       net.Conn
	peer       Peer // its Addr is the public address
	unverified bool // the server may be another user's; only the Secret can authenticate it
}

// An attemptError is an error of a connection attempt that determines whether further
// attempts are made.
type attemptError struct {
	error
	permanent bool // no further attempt can succeed
}

func (e *attemptError) Unwrap() error { return e.error }

// isForeignError reports whether an attempt failed because of another user's file or
// server at the path. The client then logs a warning and retries.
func isForeignError(err error) bool {
	var attempt *attemptError
	return errors.As(err, &attempt) && !attempt.permanent
}

// handshakeError adds the address to the error of a handshake with this server. An
// unverified server does not end the client; otherwise any user could end it.
func (d *dialedServer) handshakeError(s *settings, err error) error {
	where := fmt.Errorf(errorPrefix+"%s %s", s.network, s.address)
	if s.network == "unix" && d.peer.Addr != nil {
		where = fmt.Errorf(errorPrefix+"unix %s", d.peer.Addr)
	}
	if !d.unverified {
		return newError(where, err, "")
	}
	return &attemptError{error: newError(where, err, "the server there may be another user's: stop it, or use another Name or Address")}
}

// dialServer makes one connection to the server. It takes at most connectTimeout.
func (s *settings) dialServer(ctx context.Context) (*dialedServer, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	switch {
	case s.dialFunc != nil:
		return s.connectByDial(ctx)
	case s.network == "tcp":
		c, err := new(net.Dialer).DialContext(ctx, "tcp", s.address)
		if err == nil {
			err = rejectSelf(c)
		}
		if err != nil {
			return nil, s.dialError(err)
		}
		return &dialedServer{conn: c, peer: peerOfConn(c)}, nil
	}
	return s.connectUnix(ctx)
}

// connectByDial makes the connection by the config's Dial.
func (s *settings) connectByDial(ctx context.Context) (*dialedServer, error) {
	c, err := s.dialFunc(ctx)
	switch {
	case err != nil:
	case c == nil:
		err = errors.New("neither a connection nor an error: return one of them")
	case checkStream(c) != nil:
		c.Close()
		return nil, checkStream(c)
	default:
		err = rejectSelf(c)
	}
	if err != nil {
		return nil, fmt.Errorf(errorPrefix+"the config's Dial: %w", err)
	}
	return &dialedServer{conn: c, peer: peerOfConn(c)}, nil
}

// checkStream returns ErrConfig for a connection that keeps message boundaries.
func checkStream(c net.Conn) error {
	for _, a := range []net.Addr{c.LocalAddr(), c.RemoteAddr()} {
		if a != nil && keepsBoundaries(a.Network()) {
			return newError(ErrConfig, nil, "a connection on %s keeps message boundaries and a stream is needed: have Dial or Listener use unix or tcp", a.Network())
		}
	}
	return nil
}

// rejectSelf closes a TCP connection that is connected to itself. The kernel makes such
// a connection if no server listens on the port and the client gets the same port.
func rejectSelf(c net.Conn) error {
	local, ok := c.LocalAddr().(*net.TCPAddr)
	if !ok || c.RemoteAddr() == nil || local.String() != c.RemoteAddr().String() {
		return nil
	}
	c.Close()
	return fmt.Errorf("tcp %s: the client has connected to itself: %w", local, sys.ErrRefused)
}

// connectUnix connects to the first socket path at which a server listens.
func (s *settings) connectUnix(ctx context.Context) (*dialedServer, error) {
	var failed []error
	for i, place := range s.socketPlaces {
		server, err := s.connectPlace(ctx, place)
		if err == nil {
			return server, nil
		}
		failed = append(failed, err)
		if i == len(s.socketPlaces)-1 || !isAbsent(err) || ctx.Err() != nil {
			break
		}
	}
	last := failed[len(failed)-1]
	foreign := errors.Is(last, ErrUntrustedServer) || errors.Is(last, fs.ErrPermission)
	err := error(&placesError{failed[:len(failed)-1], s.dialError(last)})
	if derived := s.socketPlaces[0].derived; foreign && (derived || !errors.Is(last, ErrUntrustedServer)) {
		err = &attemptError{err, !derived}
	}
	return nil, err
}

// absentError returns the error of connectUnix if no file exists at any of the socket
// paths, and nil if one does. It does not check whether the paths may be used. For other
// networks it returns nil.
func (s *settings) absentError() error {
	var failed []error
	for _, place := range s.socketPlaces {
		if _, err := os.Lstat(place.path); !errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		failed = append(failed, noSocketError(place.path))
	}
	if len(failed) == 0 {
		return nil
	}
	last := len(failed) - 1
	return &placesError{failed[:last], s.dialError(failed[last])}
}

// noSocketError returns the kernel's error for a connection to a path without a file.
func noSocketError(path string) error {
	return &net.OpError{Op: "dial", Net: "unix", Addr: &net.UnixAddr{Name: path, Net: "unix"}, Err: os.NewSyscallError("connect", syscall.ENOENT)}
}

// isAbsent reports whether an attempt failed because no server listens at the path, or
// because the path must not be used.
func isAbsent(err error) bool {
	return isNoServer(err) || errors.Is(err, ErrConfig)
}

// isPlainAbsence reports whether an attempt failed only because there is no file at any
// socket path.
func isPlainAbsence(err error) bool {
	var places *placesError
	if !errors.As(err, &places) || !errors.Is(places.last, fs.ErrNotExist) {
		return false
	}
	for _, err := range places.skipped {
		if !errors.Is(err, fs.ErrNotExist) {
			return false
		}
	}
	return true
}

// isNoServer reports whether err means that no server listens.
func isNoServer(err error) bool {
	return errors.Is(err, sys.ErrRefused) || errors.Is(err, fs.ErrNotExist)
}

// A placesError has the errors of all paths that were tried.
type placesError struct {
	skipped []error
	last    error
}

func (e *placesError) Error() string {
	text := ""
	for _, err := range e.skipped {
		text += trimPrefix(err) + "; "
	}
	return errorPrefix + text + trimPrefix(e.last)
}

// Unwrap returns the last error alone, which decides about further attempts.
func (e *placesError) Unwrap() error { return e.last }

// connectPlace connects to the socket at one path, and checks the server's user.
func (s *settings) connectPlace(ctx context.Context, place socketPlace) (*dialedServer, error) {
	if err := place.checkLength(); err != nil {
		return nil, err
	}
	if place.derived {
		if err := place.checkDirectory(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	proven := s.secret != nil || s.allowAnyUser // the user does not matter
	route := routeTo(place.path)
	if route.linkErr != nil && !proven {
		return nil, route.linkErr
	}
	c, err := route.dialTarget(ctx)
	if err != nil {
		return nil, err
	}
	server := &dialedServer{conn: c, peer: peerOfConn(c)}
	server.peer.Addr = &net.UnixAddr{Name: place.path, Net: "unix"}
	if runtime.GOOS == "windows" || s.allowAnyUser && s.secret == nil && !place.derived {
		return server, nil
	}
	if err := route.checkServer(server.peer); err != nil {
		if !proven {
			c.Close()
			return nil, err
		}
		server.unverified = true
	}
	return server, nil
}

// dialError adds advice to an error of the dialer, whose text has the address.
func (s *settings) dialError(err error) error {
	switch {
	case errors.Is(err, ErrConfig), errors.Is(err, ErrUntrustedServer):
		return err
	case isNoServer(err):
		same := "Name, Address and GIPC_SOCKET_DIR"
		if s.network == "tcp" {
			same = "Address, GIPC_NETWORK_HOST and GIPC_NETWORK_PORT"
		}
		return &advisedError{err, "no server is listening there: start it, or check that " + same + " are the same on both sides"}
	case errors.Is(err, fs.ErrPermission) && s.network == "unix":
		return &advisedError{err, "run as the server's user, or set UnmaskPermissions there"}
	}
	return fmt.Errorf(errorPrefix+"%w", err)
}

// An advisedError is an error of the dialer with advice. Its text is made when it is
// needed, because most attempts of a client that retries are not logged.
type advisedError struct {
	error
	advice string
}

func (e *advisedError) Error() string { return errorPrefix + e.error.Error() + ": " + e.advice }

func (e *advisedError) Unwrap() error { return e.error }

// permissionDelay is the delay before a second attempt after a permission error. A server
// that has just started sets the mode of its socket in less time.
const permissionDelay = 50 * time.Millisecond

const maxLinks = 40 // symbolic links on one path, as on Linux

// hintTrust is the advice for a server of another user.
const hintTrust = "set the same Secret on both sides, or AllowAnyUser here"

// A socketRoute is the path of a socket with its symbolic links resolved.
type socketRoute struct {
	path     string
	target   string      // path without symbolic links, or path if it cannot be resolved
	fileInfo os.FileInfo // of target, or nil
	linkErr  error       // set if a symbolic link on the path is not trusted
	absent   bool        // there is no file, so no server listens
}

// routeTo resolves the symbolic links of a path.
func routeTo(path string) *socketRoute {
	r := &socketRoute{path: path, target: path}
	if runtime.GOOS == "windows" {
		return r
	}
	target, info, err := followLinks(path)
	switch {
	case err == nil:
		r.target, r.fileInfo = target, info
	case errors.Is(err, ErrUntrustedServer):
		r.linkErr = err
	case errors.Is(err, fs.ErrNotExist):
		// The text of a link in /proc is not where the kernel follows it to.
		_, err = os.Lstat(path)
		r.absent = errors.Is(err, fs.ErrNotExist)
	}
	return r
}

// followLinks returns an absolute path without its symbolic links, and what is there.
// Only links of this user and of root are trusted, because a link's owner chooses the
// server.
func followLinks(path string) (target string, info os.FileInfo, err error) {
	done, links := string(filepath.Separator), 0
	for rest := path; rest != ""; {
		var name string
		if name, rest, _ = strings.Cut(rest, string(filepath.Separator)); name == "" {
			continue
		}
		next := filepath.Join(done, name) // for ".." the parent, which is right because done has no links
		if info, err = os.Lstat(next); err != nil {
			return "", nil, err
		}
		if info.Mode()&os.ModeSymlink == 0 {
			done = next
			continue
		}
		if owner := sys.OwnerOf(info); !isTrusted(owner) {
			return "", nil, newError(ErrUntrustedServer, nil, "%s on the way to unix %s is a link of user %d, and this client runs as user %d: remove the link, "+hintTrust, next, path, owner, os.Geteuid())
		}
		if links++; links > maxLinks {
			return "", nil, fmt.Errorf("%s has too many links", path)
		}
		link, err := os.Readlink(next)
		if err != nil {
			return "", nil, err
		}
		if rest = link + string(filepath.Separator) + rest; filepath.IsAbs(link) {
			done = string(filepath.Separator)
		}
	}
	return done, info, nil
}

// isTrusted reports whether a client trusts servers and links of the user.
func isTrusted(user int) bool { return user == 0 || user >= 0 && user == os.Geteuid() }

// dialTarget connects to the target, because the links of the path may have changed.
// After a permission error it tries once more, because a server that has just started
// may be about to set the mode of its socket. Without a file it returns the kernel's error
// without a socket: thousands of clients retry while a server restarts.
func (r *socketRoute) dialTarget(ctx context.Context) (net.Conn, error) {
	if r.absent && ctx.Err() == nil {
		return nil, noSocketError(r.path)
	}
	target := r.target
	if len(target) > sys.MaxSocketPath {
		target = r.path
	}
	c, err := new(net.Dialer).DialContext(ctx, "unix", target)
	if errors.Is(err, fs.ErrPermission) {
		select {
		case <-time.After(permissionDelay):
			c, err = new(net.Dialer).DialContext(ctx, "unix", target)
		case <-ctx.Done():
		}
	}
	return c, err
}

// checkServer returns an error unless the server runs as this user or root. It uses the
// credentials from the kernel or, if not known, the owner of the socket file.
func (r *socketRoute) checkServer(peer Peer) error {
	if r.linkErr != nil {
		return r.linkErr
	}
	user := peer.UID
	after := routeTo(r.path)
	switch {
	case after.linkErr != nil:
		return after.linkErr
	case after.target != r.target:
		return fmt.Errorf(errorPrefix+"unix %s was replaced while this client connected to it", r.path)
	case peer.Known:
	case r.fileInfo == nil || !os.SameFile(r.fileInfo, after.fileInfo):
		return fmt.Errorf(errorPrefix+"unix %s was replaced while this client connected to it", r.path)
	default:
		user = sys.OwnerOf(after.fileInfo)
	}
	if !isTrusted(user) {
		return newError(ErrUntrustedServer, nil, "the server at unix %s runs as %s and this client as user %d: "+hintTrust, r.path, userText(user), os.Geteuid())
	}
	return nil
}

// peerOfConn returns the Peer of a connection.
func peerOfConn(c net.Conn) Peer {
	p := Peer{UID: -1, GID: -1, PID: -1, Addr: c.RemoteAddr()}
	if sc, ok := c.(syscall.Conn); ok && p.Addr != nil && p.Addr.Network() == "unix" {
		if c, ok := sys.PeerCredentials(sc); ok {
			p.UID, p.GID, p.PID, p.Known = c.UID, c.GID, c.PID, true
		}
	}
	return p
}

// A loggedPeer is a Peer in a log record. A client on a unix socket has no address, so it
// is logged by its user and process.
type loggedPeer Peer

func (p loggedPeer) LogValue() slog.Value {
	where := ""
	if addr, ok := p.Addr.(*net.UnixAddr); ok && p.Known && len(addr.Name) < 2 { // "" or "@"
		where = fmt.Sprintf("user %d, process %d", p.UID, p.PID)
	} else if p.Addr != nil {
		where = p.Addr.String()
	}
	if p.Identity != "" {
		where += fmt.Sprintf(", identity %q", p.Identity)
	}
	return slog.StringValue(where)
}
