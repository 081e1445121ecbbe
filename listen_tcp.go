// TCP listeners: their errors, and the check of what is reachable beyond loopback.

package gipc

import (
	"errors"
	"io/fs"
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
	return nil, listenTCPError(s.address, err)
}

// listenTCPError adds the address and the advice to an error of listening.
func listenTCPError(address string, err error) error {
	kind, advice := ErrConfig, "set Address, or GIPC_NETWORK_HOST and GIPC_NETWORK_PORT, to an address of this machine"
	switch {
	case errors.Is(err, sys.ErrAddressInUse):
		kind, advice = ErrNameInUse, "stop the process that uses it, or choose another Address, GIPC_NETWORK_HOST or GIPC_NETWORK_PORT"
	case errors.Is(err, fs.ErrPermission):
		advice = "run with the privilege for this port, or use a port above 1023"
	}
	return newError(kind, err, "cannot listen on tcp %s: %s", address, advice)
}

// checkExposure returns ErrConfig for an address beyond loopback without a Secret or
// an Authorize, because everybody in the network would be served by accident.
func (s *settings) checkExposure(addr net.Addr) error {
	if a, ok := addr.(*net.TCPAddr); ok && !a.IP.IsLoopback() && !s.hasSecret() && s.authorizeFunc == nil {
		return newError(ErrConfig, nil, "tcp %s is reachable beyond this machine, and anybody would be served: set Secret or Secrets, or Authorize (one that returns nil serves everybody), or listen on 127.0.0.1", a)
	}
	return nil
}

// ListenConn returns a listener that accepts conn once, and then blocks until Close. Use
// it as the Listener of a server whose only client is at the other end of an existing
// connection, such as a socketpair that is shared with a child process. When that
// connection is over, Done of the server is closed and Err returns ErrClosed.
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
	l.accept.Do(func() { l.conn.Close() }) // if conn was not accepted
	return nil
}

func (l *connListener) Addr() net.Addr { return l.conn.LocalAddr() }
