// One attempt of a client to connect: where the server can be, and what an error
// means for the attempts that follow.

package gipc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"runtime"
	"time"

	"example.com/gipc/internal/sys"
)

const connectTimeout = 10 * time.Second // for one attempt, however many addresses a name has

// dialedServer is a connection to a server before the handshake.
type dialedServer struct {
	conn    net.Conn
	peer    Peer // its Addr is the public address
	foreign bool // not known to be this user's or root's: only the Secret can show whose it is
}

// An attemptError is an error of one attempt to connect that says itself whether
// further attempts are of use.
type attemptError struct {
	error
	final bool // no further attempt can succeed
}

func (e *attemptError) Unwrap() error { return e.error }

// isForeignError reports whether an attempt failed because of a file or a server
// of another user at the place of the server. The client logs a warning and goes on.
func isForeignError(err error) bool {
	var attempt *attemptError
	return errors.As(err, &attempt) && !attempt.final
}

// handshakeError returns the error of a handshake with this server. That of a
// foreign server does not end the client; otherwise any user could end it.
func (d *dialedServer) handshakeError(s *settings, err error) error {
	where := fmt.Errorf(errorPrefix+"%s %s", s.network, s.address)
	if s.network == "unix" && d.peer.Addr != nil {
		where = fmt.Errorf(errorPrefix+"unix %s", d.peer.Addr)
	}
	if !d.foreign {
		return fail(where, err, "")
	}
	return &attemptError{error: fail(where, err, "the server there may be another user's: stop it, or use another Name or Address")}
}

// connect makes one connection to the server. It takes at most connectTimeout.
func (s *settings) connect(ctx context.Context) (*dialedServer, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	switch {
	case s.dial != nil:
		return s.connectByDial(ctx)
	case s.network == "tcp":
		c, err := new(net.Dialer).DialContext(ctx, "tcp", s.address)
		if err == nil {
			err = rejectSelf(c)
		}
		if err != nil {
			return nil, s.dialError(err)
		}
		return &dialedServer{conn: c, peer: peerOf(c)}, nil
	}
	return s.connectUnix(ctx)
}

// connectByDial has the config's Dial make the connection.
func (s *settings) connectByDial(ctx context.Context) (*dialedServer, error) {
	c, err := s.dial(ctx)
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
	return &dialedServer{conn: c, peer: peerOf(c)}, nil
}

// checkStream returns ErrConfig for a connection that keeps message boundaries.
func checkStream(c net.Conn) error {
	for _, a := range []net.Addr{c.LocalAddr(), c.RemoteAddr()} {
		if a != nil && keepsBoundaries(a.Network()) {
			return fail(ErrConfig, nil, "a connection on %s keeps message boundaries and a stream is needed: have Dial or Listener use unix or tcp", a.Network())
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
	for i, place := range s.places {
		server, err := s.connectPlace(ctx, place)
		if err == nil {
			return server, nil
		}
		failed = append(failed, err)
		if i == len(s.places)-1 || !isAbsent(err) || ctx.Err() != nil {
			break
		}
	}
	last := failed[len(failed)-1]
	foreign := errors.Is(last, ErrUntrustedServer) || errors.Is(last, fs.ErrPermission)
	err := error(&placesError{failed[:len(failed)-1], s.dialError(last)})
	if derived := s.places[0].derived; foreign && (derived || !errors.Is(last, ErrUntrustedServer)) {
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
		text += bare(err) + "; "
	}
	return errorPrefix + text + bare(e.last)
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
	proven := s.secret != nil || s.anyUser // or not needed
	route := routeTo(place.path)
	if route.err != nil && !proven {
		return nil, route.err
	}
	c, err := route.dial(ctx)
	if err != nil {
		return nil, err
	}
	server := &dialedServer{conn: c, peer: peerOf(c)}
	server.peer.Addr = &net.UnixAddr{Name: place.path, Net: "unix"}
	if runtime.GOOS == "windows" || s.anyUser && s.secret == nil && !place.derived {
		return server, nil
	}
	if err := route.checkServer(server.peer); err != nil {
		if !proven {
			c.Close()
			return nil, err
		}
		server.foreign = true
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
