// A connection to a server of version 3, whose first bytes have been read.

package wire2

import (
	"net"
	"sync"
)

// A passthrough returns the bytes that were read, and then is the connection
// itself. It does not offer a descriptor: reading that would skip those bytes.
type passthrough struct {
	net.Conn

	mu     sync.Mutex // guards prefix
	prefix []byte
}

// A halfCloser is a passthrough whose connection can be half closed.
type halfCloser struct{ *passthrough }

func newPassthrough(conn net.Conn, prefix []byte) net.Conn {
	p := &passthrough{Conn: conn, prefix: append([]byte(nil), prefix...)}
	if _, ok := conn.(interface{ CloseWrite() error }); ok {
		return halfCloser{p}
	}
	return p
}

func (p *passthrough) Read(b []byte) (int, error) {
	p.mu.Lock()
	n := copy(b, p.prefix)
	p.prefix = p.prefix[n:]
	p.mu.Unlock()
	if n > 0 {
		return n, nil
	}
	return p.Conn.Read(b)
}

// CloseWrite ends the sending half.
func (h halfCloser) CloseWrite() error { return closeWrite(h.Conn) }
