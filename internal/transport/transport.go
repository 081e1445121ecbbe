// Package transport carries the bytes of a connection: over the descriptor of a
// socket, over a socket of the net package, or over any other net.Conn. With each of
// them a read can be interrupted without losing bytes, and an interrupted write can be
// continued by another call.
package transport

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
	stallDelay         = 10 * time.Millisecond // time after which a blocked write is reported
	progressSize       = 64 << 10              // bytes of one blocking write, so that progress is reported
	GrowSendBufferFrom = 60 << 10              // bytes of a write that enlarges the send buffer of a unix socket; full batches of small queued messages are 5 to 15 % faster then
	SendBufferSize     = 1 << 20               // bytes of the enlarged send buffer
)

// Past is a deadline that has passed, whatever the current time is.
var Past = time.Unix(1, 0)

// ErrInterrupted is returned by a write that was interrupted. The rest can be written
// by another call.
var ErrInterrupted = errors.New("interrupted")

// A Buffer receives the bytes of a transport.
type Buffer interface {
	// Space returns the memory for the next read. It is never empty.
	Space() []byte
	// Received records that n bytes were read into Space.
	Received(n int)
	// Release releases unused memory before a wait.
	Release()
}

// A Source is the receiving side of a transport. One goroutine at a time may read. Any
// goroutine may interrupt it, by a deadline that has passed.
type Source interface {
	// Receive waits for bytes and reads them into b.
	Receive(b Buffer) (n int, err error)
	// TryRead reads available bytes into b without waiting, even after the deadline. ok
	// is false if there are none. A source that cannot read without waiting waits for 1
	// ms if patient is set.
	TryRead(b Buffer, patient bool) (n int, ok bool, err error)
	SetReadDeadline(time.Time) error
	// End is called once, after the last read.
	End()
}

// A Sink is the sending side of a transport. One goroutine at a time may write.
type Sink interface {
	// Send writes b and then tail, and returns how many bytes were accepted. It returns
	// ErrInterrupted when ctx is done, or when stopped, which may be nil, is set before
	// Interrupt is called. With a ctx that is done already, it writes what is accepted
	// without waiting, if it can. It does not retain b and tail.
	Send(ctx context.Context, stopped *atomic.Bool, b, tail []byte) (int, error)
	// Interrupt makes the write in progress check whether it has to stop. It is safe for
	// concurrent use.
	Interrupt()
	// Interruptible reports whether Send can be interrupted. If not, a caller that must
	// not block calls Send in another goroutine.
	Interruptible() bool
}

// NewSource returns the receiving side of conn. A conn that is not a socket of the net
// package may not support deadlines, so a goroutine reads it.
func NewSource(conn net.Conn) Source {
	switch c := conn.(type) {
	case Source: // of a test
		return c
	case *net.TCPConn, *net.UnixConn:
		if raw := sys.RawConn(conn); raw != nil {
			return newDescriptorSource(conn, raw)
		}
		return SocketSource{conn}
	}
	return newReadPump(conn)
}

// NewSink returns the sending side of conn. onStall is called when a write is blocked.
// onProgress, which may be nil, is called when the peer accepts a part of a long write.
func NewSink(conn net.Conn, onStall, onProgress func()) Sink {
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		return &socketSink{conn: conn, raw: sys.RawConn(conn), onStall: onStall, onProgress: onProgress}
	}
	return &blockingSink{conn: conn, onStall: onStall, onProgress: onProgress}
}

// A descriptorSource reads the descriptor directly, so that it holds no memory while it
// waits.
type descriptorSource struct {
	net.Conn
	raw        syscall.RawConn
	buffer     Buffer // of the read in progress
	rawRead    func(fd uintptr) bool
	rawTryRead func(fd uintptr) // nil before the first TryRead
	readLen    int
	readErr    error
	readDone   bool // readLen and readErr are set
}

func newDescriptorSource(conn net.Conn, raw syscall.RawConn) *descriptorSource {
	s := &descriptorSource{Conn: conn, raw: raw}
	s.rawRead = func(fd uintptr) bool {
		n, wait, err := sys.Read(fd, s.buffer.Space())
		if wait {
			s.buffer.Release()
			return false
		}
		s.readLen, s.readErr, s.readDone = n, err, true
		return true
	}
	return s
}

func (s *descriptorSource) End() {}

func (s *descriptorSource) Receive(b Buffer) (int, error) {
	s.buffer, s.readDone = b, false
	b.Space() // here the stack is less deep than in rawRead, and stays at 2 KiB for an idle reader
	if err := s.raw.Read(s.rawRead); err != nil {
		b.Release()
		return 0, err
	}
	return s.moveBytes()
}

func (s *descriptorSource) TryRead(b Buffer, _ bool) (int, bool, error) {
	s.buffer, s.readDone = b, false
	if s.rawTryRead == nil {
		s.rawTryRead = func(fd uintptr) { s.rawRead(fd) }
	}
	s.raw.Control(s.rawTryRead)
	if !s.readDone {
		return 0, false, nil
	}
	n, err := s.moveBytes()
	return n, true, err
}

// moveBytes passes the bytes of a read to the buffer.
func (s *descriptorSource) moveBytes() (int, error) {
	if s.readErr == nil && s.readLen == 0 {
		return 0, io.EOF
	}
	s.buffer.Received(s.readLen)
	return s.readLen, s.readErr
}

// A SocketSource reads a connection that supports deadlines, but whose descriptor
// cannot be read without waiting.
type SocketSource struct{ net.Conn }

func (s SocketSource) End() {}

func (s SocketSource) Receive(b Buffer) (int, error) { return readInto(s.Conn, b) }

func (s SocketSource) TryRead(b Buffer, _ bool) (int, bool, error) {
	s.SetReadDeadline(time.Now().Add(tryReadWait))
	n, err := readInto(s.Conn, b)
	return n, !errors.Is(err, os.ErrDeadlineExceeded), err
}

// readInto passes the bytes of one read to b. An error that is returned with bytes is
// dropped, because the next read returns it again.
func readInto(r io.Reader, b Buffer) (n int, err error) {
	for n == 0 && err == nil {
		n, err = r.Read(b.Space())
	}
	if n > 0 {
		b.Received(n)
		return n, nil
	}
	b.Release()
	return 0, err
}

// A socketSink writes a socket of the net package in the calling goroutine. It is
// interrupted by a write deadline that has passed.
type socketSink struct {
	conn       net.Conn
	raw        syscall.RawConn // nil if the descriptor cannot be written without waiting
	onStall    func()
	onProgress func() // nil if progress is not reported

	ctx         context.Context // of the write in progress
	stopped     *atomic.Bool    // of the write in progress; may be nil
	waiting     bool            // the write in progress waits, so stallTimer runs and ctx is watched
	bufferGrown bool            // the send buffer was enlarged, if that is possible
	stallTimer  *time.Timer     // nil before the first write that waits
	stopWatch   func() bool     // stops watching ctx; nil if ctx is not watched

	rawWrite   func(fd uintptr) bool // writes rawInput
	rawInput   []byte
	rawWritten int
	rawErr     error
	vector     *vectorWrite // nil before the first write of two slices
}

// A vectorWrite is the memory of a write of two slices.
type vectorWrite struct {
	slices [2][]byte
	rest   net.Buffers // of slices
}

func (s *socketSink) Interruptible() bool { return true }

func (s *socketSink) Interrupt() { s.conn.SetWriteDeadline(Past) }

func (s *socketSink) Send(ctx context.Context, stopped *atomic.Bool, b, tail []byte) (n int, err error) {
	if size := len(b) + len(tail); size >= GrowSendBufferFrom && !s.bufferGrown {
		s.growSendBuffer()
	}
	s.ctx, s.stopped = ctx, stopped
	defer s.endWaiting()
	if (s.raw == nil || tail != nil) && !s.beginWaiting() { // net writes these, and waits by itself
		return 0, ErrInterrupted
	}
	for {
		var more int
		switch {
		case n < len(b) && tail != nil:
			more, err = s.writeBoth(b[n:], tail)
		case n < len(b):
			more, err = s.writeRest(b[n:])
		default:
			more, err = s.writeRest(tail[n-len(b):])
		}
		if n += more; n == len(b)+len(tail) {
			return n, nil
		}
		if more > 0 && s.onProgress != nil {
			s.onProgress()
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, UnwrapOpError(err)
		}
		// Interrupters set the reason before the deadline. Clear the deadline before
		// checking the reasons, so that no interrupt is lost.
		s.conn.SetWriteDeadline(time.Time{})
		if s.isInterrupted() {
			return n, ErrInterrupted
		}
	}
}

// isInterrupted reports whether the write in progress has to stop.
func (s *socketSink) isInterrupted() bool {
	return s.ctx.Err() != nil || s.stopped != nil && s.stopped.Load()
}

// beginWaiting is called before the write in progress waits. It returns false if the
// write has to stop.
func (s *socketSink) beginWaiting() bool {
	if s.waiting {
		return true
	}
	if s.isInterrupted() {
		return false
	}
	s.waiting = true
	if s.stallTimer == nil {
		s.stallTimer = time.AfterFunc(stallDelay, s.onStall)
	} else {
		s.stallTimer.Reset(stallDelay)
	}
	if s.ctx.Done() != nil {
		s.stopWatch = context.AfterFunc(s.ctx, s.Interrupt)
	}
	return true
}

// endWaiting ends the write in progress.
func (s *socketSink) endWaiting() {
	s.ctx, s.stopped = nil, nil
	if !s.waiting {
		return
	}
	s.waiting = false
	s.stallTimer.Stop()
	if s.stopWatch != nil {
		s.stopWatch()
		s.stopWatch = nil
	}
}

// writeRest writes b, and waits until the kernel accepts it. Without an error it returns
// early only if the write has to stop.
func (s *socketSink) writeRest(b []byte) (int, error) {
	if s.raw == nil {
		return s.conn.Write(b[:min(len(b), progressSize)])
	}
	if s.rawWrite == nil {
		s.rawWrite = s.writeRaw
	}
	s.rawInput, s.rawWritten, s.rawErr = b, 0, nil
	err := s.raw.Write(s.rawWrite)
	s.rawInput = nil
	if err == nil {
		err = s.rawErr
	}
	return s.rawWritten, err
}

// writeRaw writes as much of rawInput as the kernel accepts now. It returns false if it
// has to be called again once the kernel accepts more. Waiting in the first call that is
// refused saves a second system call that is refused. Close of the connection waits for
// this function, so it must not be called with a lock that Done of the context takes.
func (s *socketSink) writeRaw(fd uintptr) (done bool) {
	n, _, err := sys.Write(fd, s.rawInput[s.rawWritten:])
	s.rawWritten, s.rawErr = s.rawWritten+n, err
	if err != nil || s.rawWritten == len(s.rawInput) || !s.beginWaiting() {
		return true
	}
	if n > 0 && s.onProgress != nil {
		s.onProgress()
	}
	return false
}

// writeBoth writes b and at most SendBufferSize bytes of tail by one system call.
func (s *socketSink) writeBoth(b, tail []byte) (int, error) {
	if s.vector == nil {
		s.vector = new(vectorWrite)
	}
	v := s.vector
	v.slices = [2][]byte{b, tail[:min(len(tail), SendBufferSize)]}
	v.rest = v.slices[:]
	n, err := v.rest.WriteTo(s.conn)
	*v = vectorWrite{}
	return int(n), err
}

// growSendBuffer enlarges the send buffer of a unix socket; otherwise two sides that
// exchange large messages, or full batches, wait for each other. Over TCP the kernel
// adjusts the size.
func (s *socketSink) growSendBuffer() {
	s.bufferGrown = true
	if _, ok := s.conn.(*net.UnixConn); ok && s.raw != nil {
		s.raw.Control(func(fd uintptr) { sys.GrowSendBuffer(fd, SendBufferSize) })
	}
}

// A blockingSink writes a connection of any type. It sets no deadline, because a write
// timeout corrupts some connections, such as those of crypto/tls.
type blockingSink struct {
	conn       net.Conn
	onStall    func()
	onProgress func()
}

func (s *blockingSink) Interruptible() bool { return false }

func (s *blockingSink) Interrupt() {}

func (s *blockingSink) Send(_ context.Context, _ *atomic.Bool, b, tail []byte) (n int, err error) {
	defer time.AfterFunc(stallDelay, s.onStall).Stop()
	for _, part := range [2][]byte{b, tail} {
		for len(part) > 0 && err == nil {
			var more int
			size := min(len(part), progressSize)
			if more, err = s.conn.Write(part[:size]); more < size && err == nil {
				err = io.ErrShortWrite
			}
			n, part = n+more, part[more:]
			if more > 0 && len(part) > 0 && s.onProgress != nil {
				s.onProgress()
			}
		}
	}
	return n, UnwrapOpError(err)
}

// EndSending shuts down the sending half of conn, and reports whether it did. If so the
// peer can still send.
func EndSending(conn net.Conn) bool {
	half, ok := conn.(interface{ CloseWrite() error })
	return ok && half.CloseWrite() == nil
}

// UnwrapOpError returns the error inside a net.OpError, without its addresses: they are
// those under which a socket was bound, which users may not know.
func UnwrapOpError(err error) error {
	if err == nil { // avoids the allocation below
		return nil
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}
