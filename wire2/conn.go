// The connection that both functions return: net.Conn towards the library.

package wire2

import (
	"net"
	"time"
)

// A translator speaks version 2 to the peer and the plaintext form of version 3
// to the library. It has no goroutine: each direction runs in the call that uses
// it.
type translator struct {
	conn    net.Conn
	gate    *gate
	reading readSide
	writing writeSide
}

var _ net.Conn = (*translator)(nil)

// newServerConn returns a connection that plays the client of the library. Its
// first message follows the library's hello.
func newServerConn(x *exchange, key *sharedKey, o Options) *translator {
	return newTranslator(x, key, o, phaseServerHello)
}

// newClientConn returns a connection that plays the server of the library. limit
// is the limit of the real server.
func newClientConn(x *exchange, key *sharedKey, limit uint32, o Options) *translator {
	t := newTranslator(x, key, o, phaseClientHello)
	t.writing.limit = limit
	t.gate.reply(hello(libraryVersion, limit)...)
	return t
}

func newTranslator(x *exchange, key *sharedKey, o Options, first phase) *translator {
	t := &translator{conn: x.conn, gate: newGate(x.conn)}
	t.reading.decoder.key = key
	for rest := x.unused(); len(rest) > 0; {
		n := copy(t.reading.decoder.freeSpace(), rest)
		t.reading.decoder.bytesRead(n)
		rest = rest[n:]
	}
	t.writing.key, t.writing.options, t.writing.phase = key, o, first
	return t
}

// CloseWrite ends this side's stream. The peer takes that for the ordinary end.
func (t *translator) CloseWrite() error {
	if !t.gate.endOutput() {
		return nil
	}
	return closeWrite(t.conn)
}

// Close closes the connection and interrupts every call, at the cost of a frame
// that is written at that moment.
func (t *translator) Close() error {
	t.gate.close()
	return t.conn.Close()
}

func (t *translator) LocalAddr() net.Addr  { return t.conn.LocalAddr() }
func (t *translator) RemoteAddr() net.Addr { return t.conn.RemoteAddr() }

// SetDeadline sets both deadlines.
func (t *translator) SetDeadline(deadline time.Time) error {
	return t.gate.setDeadlines(true, true, deadline)
}

// SetReadDeadline sets the deadline of Read, which loses no byte.
func (t *translator) SetReadDeadline(deadline time.Time) error {
	return t.gate.setDeadlines(true, false, deadline)
}

// SetWriteDeadline sets the deadline of Write. After the handshake it takes
// effect between frames only, because old peers deliver a part of a frame as if
// it were whole.
func (t *translator) SetWriteDeadline(deadline time.Time) error {
	return t.gate.setDeadlines(false, true, deadline)
}
