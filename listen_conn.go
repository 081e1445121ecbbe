// A listener for one connection that is there already.

package gipc

import (
	"net"
	"sync"
)

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
