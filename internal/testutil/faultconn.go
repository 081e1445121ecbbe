// Connections that lack deadlines, fail, or delay.

package testutil

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// ErrNoDeadline is what connections without deadlines return.
var ErrNoDeadline = errors.New("deadlines are not supported")

// WithoutDeadlines returns conn as a stream that supports no deadline and has
// nothing but the methods of net.Conn, such as an SSH channel.
func WithoutDeadlines(conn net.Conn) net.Conn { return noDeadlines{conn} }

type noDeadlines struct{ net.Conn }

func (noDeadlines) SetDeadline(time.Time) error      { return ErrNoDeadline }
func (noDeadlines) SetReadDeadline(time.Time) error  { return ErrNoDeadline }
func (noDeadlines) SetWriteDeadline(time.Time) error { return ErrNoDeadline }

// A ServerDouble is a net.Conn that plays a plaintext server by itself: it
// accepts what is written up to a limit and records it. The write that crosses
// the limit is accepted in part and fails; later writes fail.
type ServerDouble struct {
	// Yield, if set, is called in every write before it takes anything.
	Yield func()
	// Limit is how many bytes behind the handshake are accepted.
	Limit int
	// Reset makes reads fail as soon as a write has failed. Otherwise the stream ends.
	Reset bool

	mu       sync.Mutex
	changed  sync.Cond
	toRead   []byte
	hello    []byte // of ClientHello
	accepted []byte
	failed   bool
	closed   bool
	deadline time.Time
}

// Start makes the double ready for a connection.
func (d *ServerDouble) Start() *ServerDouble {
	d.changed.L = &d.mu
	d.toRead = binary.BigEndian.AppendUint32([]byte{3, 0}, maxData)
	return d
}

// Accepted returns what was written behind the handshake.
func (d *ServerDouble) Accepted() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.accepted
}

// Write accepts b as far as the limit allows.
func (d *ServerDouble) Write(b []byte) (n int, err error) {
	if d.Yield != nil {
		d.Yield()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return 0, net.ErrClosed
	}
	if missing := 6 - len(d.hello); missing > 0 {
		k := min(missing, len(b))
		d.hello = append(d.hello, b[:k]...)
		n, b = k, b[k:]
		if len(d.hello) == 6 {
			d.toRead = append(d.toRead, 0)
			d.changed.Broadcast()
		}
	}
	if d.failed {
		return n, syscall.EPIPE
	}
	k := min(len(b), d.Limit-len(d.accepted))
	d.accepted = append(d.accepted, b[:k]...)
	n += k
	if k < len(b) {
		d.failed = true
		d.changed.Broadcast()
		return n, syscall.EPIPE
	}
	return n, nil
}

// Read returns the handshake, and then blocks until the connection fails.
func (d *ServerDouble) Read(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for {
		switch {
		case d.closed:
			return 0, net.ErrClosed
		case !d.deadline.IsZero() && !time.Now().Before(d.deadline):
			return 0, os.ErrDeadlineExceeded
		case len(d.toRead) > 0:
			n := copy(b, d.toRead)
			d.toRead = d.toRead[n:]
			return n, nil
		case d.failed && d.Reset:
			return 0, syscall.ECONNRESET
		case d.failed:
			return 0, io.EOF
		}
		d.changed.Wait()
	}
}

// Close ends the connection.
func (d *ServerDouble) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	d.changed.Broadcast()
	return nil
}

// SetReadDeadline wakes a blocked Read when t has come.
func (d *ServerDouble) SetReadDeadline(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.deadline = t
	if !t.IsZero() {
		time.AfterFunc(time.Until(t), func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.changed.Broadcast()
		})
	}
	d.changed.Broadcast()
	return nil
}

// SetDeadline sets the read deadline, because writes never block.
func (d *ServerDouble) SetDeadline(t time.Time) error { return d.SetReadDeadline(t) }

// SetWriteDeadline does nothing, because writes never block.
func (d *ServerDouble) SetWriteDeadline(time.Time) error { return nil }

// LocalAddr returns a name.
func (d *ServerDouble) LocalAddr() net.Addr { return Addr("double") }

// RemoteAddr returns a name.
func (d *ServerDouble) RemoteAddr() net.Addr { return Addr("double") }

// Addr is the address of a connection in memory.
type Addr string

// Network returns the name itself.
func (a Addr) Network() string { return string(a) }

func (a Addr) String() string { return string(a) }

// A PipeNetwork connects clients and servers with net.Pipe. Wrap, if set, is
// applied to both sides of each connection.
type PipeNetwork struct {
	Wrap func(net.Conn) net.Conn

	mu  sync.Mutex
	now *HandListener
}

// Listen returns a new listener, which later calls of Dial reach.
func (p *PipeNetwork) Listen() net.Listener {
	l := NewHandListener(0)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = l
	return l
}

// Dial connects to the newest listener.
func (p *PipeNetwork) Dial(ctx context.Context) (net.Conn, error) {
	p.mu.Lock()
	l := p.now
	p.mu.Unlock()
	select {
	case <-l.done: // checked first, because both cases below may be ready
		return nil, syscall.ECONNREFUSED
	default:
	}
	client, server := net.Pipe()
	if p.Wrap != nil {
		client, server = p.Wrap(client), p.Wrap(server)
	}
	select {
	case l.conns <- server:
		return client, nil
	case <-l.done:
		return nil, syscall.ECONNREFUSED
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// A HandListener accepts the connections that a test hands to it.
type HandListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

// NewHandListener returns a listener at which up to backlog connections wait to be
// accepted.
func NewHandListener(backlog int) *HandListener {
	return &HandListener{conns: make(chan net.Conn, backlog), done: make(chan struct{})}
}

// Hand has the next Accept return conn.
func (l *HandListener) Hand(conn net.Conn) { l.conns <- conn }

// Accept implements net.Listener.
func (l *HandListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *HandListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr implements net.Listener.
func (l *HandListener) Addr() net.Addr { return Addr("pipe") }

// A WrapListener applies Wrap to each accepted connection.
type WrapListener struct {
	net.Listener
	Wrap func(net.Conn) net.Conn
}

// Accept returns the next connection, wrapped.
func (l WrapListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.Wrap(c), nil
}
