// What carries the bytes of a connection: the descriptor of a socket, a socket
// of the net package, or any other net.Conn. All of them promise the same: a read
// can be interrupted without losing bytes, and a write that is interrupted can be
// continued by somebody else.

package gipc

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"example.com/gipc/internal/sys"
)

const (
	stallAfter   = 10 * time.Millisecond // a write that is blocked for so long is reported
	progressSize = 64 << 10              // bytes of one blocking write, so that progress is seen
	widenFrom    = 128 << 10             // a write of so many bytes asks for a larger send buffer
	widenSize    = 1 << 20               // the send buffer that it asks for, in bytes
)

// past is a deadline that has passed whatever the clock says.
var past = time.Unix(1, 0)

// errInterrupted is the result of a write that was interrupted: the rest can be
// written by another call.
var errInterrupted = errors.New("interrupted")

// A byteSource is the receiving side of a transport. One goroutine at a time
// reads; interrupting is safe at any time, by a deadline that has passed.
type byteSource interface {
	// read waits for bytes and takes them into d.
	read(d *decoder) (n int, err error)
	// look takes what is there into d, even past a deadline. ok is false if that
	// is nothing. A source that cannot look without waiting waits for a moment if
	// patient is set.
	look(d *decoder, patient bool) (n int, ok bool, err error)
	SetReadDeadline(time.Time) error
	// end is called when nobody will read any more.
	end()
}

// A byteSink is the sending side of a transport. One goroutine at a time writes.
type byteSink interface {
	// write writes b and then tail, and returns how many bytes were taken. It
	// returns errInterrupted when ctx is done, or stopped, which may be nil, is set
	// before an interrupt. b and tail are not used after it has returned.
	write(ctx context.Context, stopped *atomic.Bool, b, tail []byte) (int, error)
	// interrupt has the write in progress look at its reasons to stop. It is safe
	// for concurrent use.
	interrupt()
	// interruptible reports whether write can be interrupted. A caller that must not
	// be blocked leaves an uninterruptible write to another goroutine.
	interruptible() bool
}

// newSource returns the receiving side of conn. A conn that is not a socket of the
// net package may lack deadlines, so a goroutine of its own reads it.
func newSource(conn net.Conn) byteSource {
	switch c := conn.(type) {
	case byteSource: // of a test
		return c
	case *net.TCPConn, *net.UnixConn:
		if raw := sys.RawConn(conn); raw != nil {
			return newDescriptorSource(conn, raw)
		}
		return socketSource{conn}
	}
	return newReadPump(conn)
}

// newSink returns the sending side of conn. stalled is called when a write is
// blocked, progress when the peer takes part of a long write.
func newSink(conn net.Conn, stalled, progress func()) byteSink {
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		return &socketSink{conn: conn, raw: sys.RawConn(conn), stalled: stalled, progress: progress}
	}
	return &blockingSink{conn: conn, stalled: stalled, progress: progress}
}

// A descriptorSource reads the descriptor itself, so it holds no memory while it
// waits.
type descriptorSource struct {
	net.Conn
	raw     syscall.RawConn
	decoder *decoder // of the read in progress
	tryRead func(fd uintptr) bool
	tryLook func(fd uintptr)
	n       int
	err     error
	got     bool // n and err are those of this read
}

func newDescriptorSource(conn net.Conn, raw syscall.RawConn) *descriptorSource {
	s := &descriptorSource{Conn: conn, raw: raw}
	s.tryRead = func(fd uintptr) bool {
		n, wait, err := sys.Read(fd, s.decoder.space())
		if wait {
			s.decoder.release()
			return false
		}
		s.n, s.err, s.got = n, err, true
		return true
	}
	s.tryLook = func(fd uintptr) { s.tryRead(fd) }
	return s
}

func (s *descriptorSource) end() {}

func (s *descriptorSource) read(d *decoder) (int, error) {
	s.decoder, s.got = d, false
	d.space() // not as deep as in tryRead: the stack of an idle reader stays at 2 KiB
	if err := s.raw.Read(s.tryRead); err != nil {
		d.release()
		return 0, err
	}
	return s.taken()
}

func (s *descriptorSource) look(d *decoder, _ bool) (int, bool, error) {
	s.decoder, s.got = d, false
	s.raw.Control(s.tryLook)
	if !s.got {
		return 0, false, nil
	}
	n, err := s.taken()
	return n, true, err
}

// taken hands the bytes of a read to the decoder.
func (s *descriptorSource) taken() (int, error) {
	if s.err == nil && s.n == 0 {
		return 0, io.EOF
	}
	s.decoder.received(s.n)
	return s.n, s.err
}

// A socketSource reads a socket whose descriptor cannot be tried without waiting.
type socketSource struct{ net.Conn }

func (s socketSource) end() {}

func (s socketSource) read(d *decoder) (int, error) { return readInto(s.Conn, d) }

func (s socketSource) look(d *decoder, _ bool) (int, bool, error) {
	s.SetReadDeadline(time.Now().Add(lookTime))
	n, err := readInto(s.Conn, d)
	return n, !errors.Is(err, os.ErrDeadlineExceeded), err
}

// readInto has d take what one read returns. An error that comes with bytes is
// returned again by the next read.
func readInto(r io.Reader, d *decoder) (n int, err error) {
	for n == 0 && err == nil {
		n, err = r.Read(d.space())
	}
	if n > 0 {
		d.received(n)
		return n, nil
	}
	d.release()
	return 0, err
}

// A socketSink writes a socket of the net package, in the goroutine that calls
// it. An interrupt is a write deadline that has passed.
type socketSink struct {
	conn     net.Conn
	raw      syscall.RawConn // nil if the descriptor cannot be tried without waiting
	stalled  func()
	progress func() // nil if nobody needs to know

	late    *time.Timer           // runs while a write is blocked; nil before the first that is
	try     func(fd uintptr) bool // writes rest, and waits
	tryOnce func(fd uintptr) bool // writes rest without waiting
	rest    []byte
	taken   int
	err     error
	vector  *[2][]byte  // nil before the first write of two slices
	left    net.Buffers // of vector
	widened bool        // the send buffer is what large messages need
}

func (s *socketSink) interruptible() bool { return true }

func (s *socketSink) interrupt() { s.conn.SetWriteDeadline(past) }

func (s *socketSink) write(ctx context.Context, stopped *atomic.Bool, b, tail []byte) (n int, err error) {
	if size := len(b) + len(tail); size >= widenFrom && !s.widened {
		s.widen()
	}
	if s.raw != nil && tail == nil {
		if n, err = s.writeOnce(b); n == len(b) || err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, plain(err)
		}
	}
	s.startTimer()
	defer s.late.Stop()
	if ctx.Done() != nil {
		defer context.AfterFunc(ctx, s.interrupt)()
	}
	for {
		// The reason to stop is set before the deadline. Here the deadline is
		// cleared before the reasons are read, so none is missed.
		s.conn.SetWriteDeadline(time.Time{})
		if ctx.Err() != nil || stopped != nil && stopped.Load() {
			return n, errInterrupted
		}
		var more int
		if n < len(b) && tail != nil {
			more, err = s.writeBoth(b[n:], tail)
		} else if n < len(b) {
			more, err = s.writeRest(b[n:])
		} else {
			more, err = s.writeRest(tail[n-len(b):])
		}
		if n += more; n == len(b)+len(tail) {
			return n, nil
		}
		if more > 0 && s.progress != nil {
			s.progress()
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, plain(err)
		}
	}
}

// writeOnce writes what the kernel takes of b without waiting.
func (s *socketSink) writeOnce(b []byte) (int, error) {
	if s.tryOnce == nil {
		s.tryOnce = func(fd uintptr) bool {
			s.taken, _, s.err = sys.Write(fd, s.rest)
			return true
		}
	}
	s.rest, s.taken, s.err = b, 0, nil
	err := s.raw.Write(s.tryOnce)
	s.rest = nil
	return s.taken, errors.Join(err, s.err)
}

// writeRest writes b, and waits for the kernel.
func (s *socketSink) writeRest(b []byte) (int, error) {
	if s.raw == nil {
		return s.conn.Write(b[:min(len(b), progressSize)])
	}
	if s.try == nil {
		s.try = func(fd uintptr) bool {
			n, wait, err := sys.Write(fd, s.rest[s.taken:])
			s.taken, s.err = s.taken+n, err
			if n > 0 && s.taken < len(s.rest) && s.progress != nil {
				s.progress()
			}
			return err != nil || !wait && s.taken == len(s.rest)
		}
	}
	s.rest, s.taken, s.err = b, 0, nil
	err := s.raw.Write(s.try)
	s.rest = nil
	return s.taken, errors.Join(err, s.err)
}

// writeBoth writes two slices at once, of the second one a part.
func (s *socketSink) writeBoth(b, tail []byte) (int, error) {
	if s.vector == nil {
		s.vector = new([2][]byte)
	}
	*s.vector = [2][]byte{b, tail[:min(len(tail), widenSize)]}
	s.left = s.vector[:]
	n, err := s.left.WriteTo(s.conn)
	*s.vector, s.left = [2][]byte{}, nil
	return int(n), err
}

func (s *socketSink) startTimer() {
	if s.late == nil {
		s.late = time.AfterFunc(stallAfter, s.stalled)
	} else {
		s.late.Reset(stallAfter)
	}
}

// widen enlarges the send buffer, or two sides that exchange large messages wait
// for each other. Over TCP the kernel finds the size itself.
func (s *socketSink) widen() {
	s.widened = true
	if _, ok := s.conn.(*net.UnixConn); ok && s.raw != nil {
		s.raw.Control(func(fd uintptr) { sys.WidenSendBuffer(fd, widenSize) })
	}
}

// A blockingSink writes a connection of any type. It sets no deadline, since a
// write that a deadline has ended ruins some of them (crypto/tls) for good.
type blockingSink struct {
	conn     net.Conn
	stalled  func()
	progress func()
}

func (s *blockingSink) interruptible() bool { return false }

func (s *blockingSink) interrupt() {}

func (s *blockingSink) write(_ context.Context, _ *atomic.Bool, b, tail []byte) (n int, err error) {
	defer time.AfterFunc(stallAfter, s.stalled).Stop()
	for _, part := range [2][]byte{b, tail} {
		for len(part) > 0 && err == nil {
			var more int
			size := min(len(part), progressSize)
			if more, err = s.conn.Write(part[:size]); more < size && err == nil {
				err = io.ErrShortWrite
			}
			n, part = n+more, part[more:]
			if more > 0 && len(part) > 0 && s.progress != nil {
				s.progress()
			}
		}
	}
	return n, plain(err)
}

// endSending ends the sending half of conn, if it has one to end, and reports
// whether the peer can still send.
func endSending(conn net.Conn) bool {
	half, ok := conn.(interface{ CloseWrite() error })
	return ok && half.CloseWrite() == nil
}
