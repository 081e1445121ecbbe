// One attempt of a client to connect: where the server can be, and what an error
// means for the attempts that follow.

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

const connectTimeout = 10 * time.Second // for one attempt, however many addresses a name has

// dialedServer is a connection to a server before the handshake.
type dialedServer struct {
	conn       net.Conn
	peer       Peer // its Addr is the public address
	unverified bool // not known to be this user's or root's: only the Secret can show whose it is
}

// An attemptError is an error of one attempt to connect that says itself whether
// further attempts are of use.
type attemptError struct {
	error
	permanent bool // no further attempt can succeed
}

func (e *attemptError) Unwrap() error { return e.error }

// isForeignError reports whether an attempt failed because of a file or a server
// of another user at the place of the server. The client logs a warning and goes on.
func isForeignError(err error) bool {
	var attempt *attemptError
	return errors.As(err, &attempt) && !attempt.permanent
}

// handshakeError returns the error of a handshake with this server. That of a
// foreign server does not end the client; otherwise any user could end it.
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

// connectByDial has the config's Dial make the connection.
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

// rejectSelf closes a TCP connection whose two ends are one. The kernel makes one
// if no server listens on a port of the range from which it takes the client's.
func rejectSelf(c net.Conn) error {
	local, ok := c.LocalAddr().(*net.TCPAddr)
	if !ok || c.RemoteAddr() == nil || local.String() != c.RemoteAddr().String() {
		return nil
	}
	c.Close()
	return fmt.Errorf("tcp %s: the client has connected to itself: %w", local, sys.ErrRefused)
}

// connectUnix connects to the socket at the first place that has one which does
// not refuse.
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

// isAbsent reports whether an attempt at a place failed because no server listens
// there, or because the place may not be used.
func isAbsent(err error) bool {
	return isNoServer(err) || errors.Is(err, ErrConfig)
}

// isNoServer reports whether err is that of connect where no server listens.
func isNoServer(err error) bool {
	return errors.Is(err, sys.ErrRefused) || errors.Is(err, fs.ErrNotExist)
}

// placesError says what each place of a socket had.
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

// Unwrap returns the last error alone: that of another place does not decide.
func (e *placesError) Unwrap() error { return e.last }

// connectPlace connects to the socket at one place, and checks whose it is.
func (s *settings) connectPlace(ctx context.Context, place socketPlace) (*dialedServer, error) {
	if err := place.checkLength(); err != nil {
		return nil, err
	}
	if place.derived {
		if err := place.checkDirectory(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	proven := s.secret != nil || s.allowAnyUser // or not needed
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

// dialError adds to an error of the dialer what to do. The text of err has the
// address in full.
func (s *settings) dialError(err error) error {
	switch {
	case errors.Is(err, ErrConfig), errors.Is(err, ErrUntrustedServer):
		return err
	case isNoServer(err):
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

// permissionDelay is how long permission may be missing: a server that has just
// started sets the mode of its socket in less.
const permissionDelay = 50 * time.Millisecond

const maxLinks = 40 // symbolic links on one path, as on Linux

// hintTrust are the ways to talk to another user's server.
const hintTrust = "set the same Secret on both sides, or AllowAnyUser here"

// socketRoute is a path of a socket and where it leads to.
type socketRoute struct {
	path     string
	target   string      // path without symbolic links, or path if it leads nowhere
	fileInfo os.FileInfo // of the file there, or nil
	linkErr  error       // a symbolic link on the path cannot be trusted
}

// routeTo follows the symbolic links of a path.
func routeTo(path string) *socketRoute {
	r := &socketRoute{path: path, target: path}
	if runtime.GOOS == "windows" {
		return r
	}
	target, err := followLinks(path)
	switch {
	case err == nil:
		r.target = target
		r.fileInfo, _ = os.Lstat(target)
	case errors.Is(err, ErrUntrustedServer):
		r.linkErr = err
	}
	return r
}

// followLinks returns an absolute path without its symbolic links. A link counts
// only if this user or root has made it, because its maker chooses the server.
func followLinks(path string) (string, error) {
	done, links := string(filepath.Separator), 0
	for rest := path; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, string(filepath.Separator))
		next := filepath.Join(done, name) // with name ".." the directory above, which is none of a link
		info, err := os.Lstat(next)
		if err != nil {
			return "", err
		}
		if info.Mode()&os.ModeSymlink == 0 {
			done = next
			continue
		}
		if owner := sys.OwnerOf(info); !isTrusted(owner) {
			return "", newError(ErrUntrustedServer, nil, "%s on the way to unix %s is a link of user %d, and this client runs as user %d: remove the link, "+hintTrust, next, path, owner, os.Geteuid())
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("%s has too many links", path)
		}
		link, err := os.Readlink(next)
		if err != nil {
			return "", err
		}
		if rest = link + string(filepath.Separator) + rest; filepath.IsAbs(link) {
			done = string(filepath.Separator)
		}
	}
	return done, nil
}

// isTrusted reports whether a client trusts a server, or a link, of the user.
func isTrusted(user int) bool { return user == 0 || user >= 0 && user == os.Geteuid() }

// dialTarget connects to the target, since the path itself may lead elsewhere by now. A
// permission that is missing is looked for once more: a server that has just
// started may be about to give it.
func (r *socketRoute) dialTarget(ctx context.Context) (net.Conn, error) {
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

// checkServer returns an error unless the server is this user's or root's: by the
// credentials from the kernel, otherwise by the owner of the socket file.
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

// peerOfConn returns who is at the other end of c.
func peerOfConn(c net.Conn) Peer {
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
