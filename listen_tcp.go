// TCP: addresses, and who may be served beyond loopback.

package gipc

import (
	"errors"
	"net"
	"sync"

	"example.com/gipc/internal/sys"
)

func (s *settings) listenTCP() (net.Listener, error) {
	addr, err := net.ResolveTCPAddr("tcp", s.address)
	if err == nil {
		if err := s.checkExposure(addr); err != nil {
			return nil, err
		}
		var l *net.TCPListener
		if l, err = net.ListenTCP("tcp", addr); err == nil {
			return l, nil
		}
	}
	kind := ErrConfig
	if errors.Is(err, sys.ErrAddressInUse) {
		kind = ErrNameInUse
	}
	return nil, fail(kind, err, "cannot listen on tcp %s: stop who does, or choose another Address, GIPC_NETWORK_HOST or GIPC_NETWORK_PORT", s.address)
}

// checkExposure refuses to serve strangers by accident: beyond loopback somebody has
// to say who is welcome.
func (s *settings) checkExposure(addr net.Addr) error {
	if a, ok := addr.(*net.TCPAddr); ok && !a.IP.IsLoopback() && !s.hasSecret() && s.authorizeFunc == nil {
		return fail(ErrConfig, nil, "tcp %s is reachable beyond this machine, and anybody would be served: set Secret or Secrets, or Authorize (one that returns nil serves everybody), or listen on 127.0.0.1", a)
	}
	return nil
}

// ListenConn returns a listener that accepts conn once, and then nothing until
// Close. It is the Listener of a server whose only client is at the other end of a
// ready connection, such as a socketpair that is shared with a child process. The
// server is done, with ErrClosed, when that connection is over.
func ListenConn(conn net.Conn) net.Listener {
	return &connListener{conn: conn, closed: make(chan struct{})}
}

type connListener struct {
	conn   net.Conn
	accept sync.Once
	close  sync.Once
	closed chan struct{}
}

func (l *connListener) Accept() (conn net.Conn, err error) {
	l.accept.Do(func() { conn = l.conn })
	if conn != nil {
		return conn, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *connListener) Close() error {
	l.close.Do(func() { close(l.closed) })
	l.accept.Do(func() { l.conn.Close() }) // nobody has accepted it
	return nil
}

func (l *connListener) Addr() net.Addr { return l.conn.LocalAddr() }
