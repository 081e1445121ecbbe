// What a client sends after the handshake, read and checked byte by byte.

package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// A clientStream reads the frames of a client and checks each of them. A
// violation of the protocol is an error of type *violation.
type clientStream struct {
	conn     net.Conn
	r        *bufio.Reader
	keys     *direction // nil: plaintext
	limit    int        // of the server
	plain    []byte     // what is left of an opened record
	nonces   map[[12]byte]bool
	requests uint64          // numbers of requests that have been seen
	open     map[uint64]bool // requests of the server: true until the reply has come
	closed   bool            // a close has been seen
	acked    bool            // a close-ack has been seen
	due      *frameHead      // of a large frame whose data is the next record
}

// The ends of a stream.
var (
	errEndBoundary = errors.New("the client ended its stream")
	errEndInside   = errors.New("the client ended its stream inside a frame")
	errReset       = errors.New("the client reset the connection")
	errSilent      = errors.New("nothing was received in time")
)

func newClientStream(conn net.Conn, limit int) *clientStream {
	return &clientStream{conn: conn, r: bufio.NewReaderSize(conn, 64<<10), limit: limit, nonces: map[[12]byte]bool{}, open: map[uint64]bool{}}
}

// read returns n bytes, which arrive before the deadline.
func (c *clientStream) read(n int, deadline time.Time, inside bool) ([]byte, error) {
	_ = c.conn.SetReadDeadline(deadline) // an error shows in the read
	b := make([]byte, 0, min(n, 1<<20))  // memory grows with what arrives
	for len(b) < n {
		part := min(n-len(b), 1<<20)
		b = append(b, make([]byte, part)...)
		got, err := io.ReadFull(c.r, b[len(b)-part:])
		if err != nil {
			return nil, endOf(err, inside || len(b) > part || got > 0)
		}
	}
	return b, nil
}

// endOf returns which of the ends of a stream err is.
func endOf(err error, inside bool) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errSilent
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return errReset
	case !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		return err
	case inside:
		return errEndInside
	}
	return errEndBoundary
}

// next returns the next frame, or the end of the stream.
func (c *clientStream) next(deadline time.Time) (frame, error) {
	f, err := c.frame(deadline)
	if err != nil {
		return frame{}, err
	}
	return f, c.check(f)
}

func (c *clientStream) frame(deadline time.Time) (frame, error) {
	if c.keys == nil {
		return c.plainFrame(deadline)
	}
	for len(c.plain) == 0 {
		if c.due != nil {
			return c.data(deadline)
		}
		if err := c.record(deadline); err != nil {
			return frame{}, err
		}
	}
	return c.openedFrame(deadline)
}

// plainFrame reads a frame of a plaintext connection.
func (c *clientStream) plainFrame(deadline time.Time) (frame, error) {
	b, err := c.read(8, deadline, false)
	if err != nil {
		return frame{}, err
	}
	if binary.BigEndian.Uint32(b[4:])&idBit != 0 {
		id, err := c.read(8, deadline, true)
		if err != nil {
			return frame{}, err
		}
		b = append(b, id...)
	}
	h, err := parseHead(b, c.limit)
	if err != nil {
		return frame{}, err
	}
	h.data, err = c.read(h.length, deadline, true)
	return h.frame, err
}

// sealed reads and opens a record, whose length has been checked by ok.
func (c *clientStream) sealed(deadline time.Time, inside bool, ok func(n int) error) ([]byte, error) {
	b, err := c.read(4, deadline, inside)
	if err != nil {
		return nil, err
	}
	n := int64(binary.BigEndian.Uint32(b)) - recordOverhead
	if err := ok(int(n)); err != nil {
		return nil, err
	}
	b, err = c.read(int(n)+recordOverhead, deadline, true)
	if err != nil {
		return nil, err
	}
	nonce := [12]byte(b[:12])
	if c.nonces[nonce] {
		return nil, violate("R-2", "the client used the nonce %x twice", nonce)
	}
	if len(c.nonces) < 1<<20 {
		c.nonces[nonce] = true
	}
	number, rekeys := c.keys.sequence, c.keys.rekeys
	plain, authentic, err := c.keys.open(b)
	if err == nil && !authentic {
		id := "R-1"
		if c.keys.rekeyAt != rekeyBytes || rekeys > 0 {
			id = "Y-1"
		}
		err = violate(id, "record %d of the client is not authentic (after %d changes of the key)", number, rekeys)
	}
	return plain, err
}

// record reads a record of frames.
func (c *clientStream) record(deadline time.Time) error {
	plain, err := c.sealed(deadline, false, func(n int) error {
		if n < 8 || n > maxPlain {
			return violate("R-6", "the client sent a record of frames of length %d", n+recordOverhead)
		}
		return nil
	})
	c.plain = plain
	return err
}

// openedFrame returns the next frame of the opened record.
func (c *clientStream) openedFrame(deadline time.Time) (frame, error) {
	h, err := parseHead(c.plain, c.limit)
	if err != nil {
		return frame{}, err
	}
	if h == nil {
		return frame{}, violate("R-7", "a record of the client ends inside the head of a frame")
	}
	rest := c.plain[h.size:]
	switch {
	case h.length >= largeData && len(rest) > 0:
		return frame{}, violate("R-7", "a record of the client continues after the head of a large frame, with %d bytes of data", h.length)
	case h.length >= largeData:
		c.plain, c.due = nil, h
		return c.data(deadline)
	case len(rest) < h.length:
		return frame{}, violate("R-7", "a record of the client ends inside a frame")
	}
	h.data, c.plain = rest[:h.length:h.length], rest[h.length:]
	return h.frame, nil
}

// data reads the record of data of a large frame.
func (c *clientStream) data(deadline time.Time) (frame, error) {
	h := c.due
	data, err := c.sealed(deadline, true, func(n int) error {
		if n != h.length {
			return violate("R-9", "after the head of a large frame with %d bytes of data the client sent a record of length %d", h.length, n+recordOverhead)
		}
		return nil
	})
	if err != nil {
		return frame{}, err
	}
	c.due = nil
	h.data = data
	return h.frame, nil
}

// check checks a frame against those before it.
func (c *clientStream) check(f frame) error {
	ack := f.isControl() && len(f.data) > 0 && f.data[0] == kindCloseAck
	switch {
	case c.acked:
		return violate("G-1", "after its close-ack the client sent %v", f)
	case c.closed && !ack:
		return violate("G-1", "after its close the client sent %v", f)
	case f.isControl():
		return c.checkControl(f)
	case f.isRequest():
		if c.requests++; f.number() != c.requests {
			return violate("Q-1", "the client sent request %d instead of %d", f.number(), c.requests)
		}
	case f.isReply():
		if waits, sent := c.open[f.number()]; !sent || !waits {
			return violate("Q-3", "the client sent %v, which is not open", f)
		}
		c.open[f.number()] = false
	}
	return nil
}

func (c *clientStream) checkControl(f frame) error {
	if len(f.data) == 0 {
		return violate("C-1", "the client sent an empty control frame")
	}
	kind, want := f.data[0], map[byte]int{kindPing: 9, kindPong: 9, kindClose: 2, kindCloseAck: 2}
	switch {
	case want[kind] != 0 && len(f.data) != want[kind]:
		return violate("C-1", "the client sent a control frame of kind %d with %d bytes", kind, len(f.data))
	case kind >= 16:
		return violate("C-3", "the client sent a control frame of kind %d, which is not defined", kind)
	case kind == kindClose:
		c.closed = true
	case kind == kindCloseAck && !c.closed:
		return violate("G-7", "the client sent a close-ack without a close before it")
	case kind == kindCloseAck:
		c.acked = true
	}
	return nil
}
