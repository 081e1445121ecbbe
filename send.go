// The sending half of one connection: frames are sealed into a buffer in
// order, and whoever has the turn writes all of it with one call.

package gipc

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"example.com/gipc/internal/sys"
)

const (
	batchSize  = 64 << 10              // what Queue holds back, and what waits behind a writer, in bytes
	directSize = 16 << 10              // plaintext data from here on is written from the caller's slice
	cutGrace   = 50 * time.Millisecond // what Close leaves a write that the kernel has begun to take
	stallAfter = 10 * time.Millisecond // a write that is blocked for so long has the watcher read
	sliceSize  = 64 << 10              // what one blocking write takes where progress counts, in bytes
	wideFrom   = 128 << 10             // a write of so much makes the socket's buffer larger, in bytes
	wideSize   = 1 << 20               // what it asks for then, in bytes
)

// past is a deadline that has passed whatever the clock says.
var past = time.Unix(1, 0)

// A sender is one direction: its lock, cipher state, buffer and first permanent
// error. Two things are held one after the other: mu for moments, to seal; the
// turn for as long as the kernel takes to accept a batch.
type sender struct {
	conn  net.Conn
	raw   syscall.RawConn // nil where the connection has no descriptor to try without waiting
	limit int             // largest data that the peer accepts, in bytes
	pool  *bufferPool
	wg    *sync.WaitGroup // counts this end's goroutines

	version int // 2: no control frames; each frame in one write, which no context cuts

	turn  chan struct{} // holds a token while somebody writes to the socket
	cutAt atomic.Int64  // when a user's write in the kernel is cut, in Unix nanoseconds; 0 is never

	stall func()      // told that a write waits for the kernel
	broke func(error) // told once that the socket takes no more
	heard func()      // told that the peer takes something in the middle of a long write; nil without heartbeat

	// The holder of the turn uses these.
	late *time.Timer           // runs while a write waits; nil before the first that does
	try  func(fd uintptr) bool // writes out without waiting
	out  []byte
	n    int
	iov  *iovec // nil before the first head that goes out with its data
	wide bool   // the socket has the buffer that large messages want

	// mu guards what follows.
	mu      sync.Mutex
	cipher  *cipherState // nil in plaintext
	buf     *buffer      // sealed and not with the socket; nil when empty
	batch   uint64       // the number of the batch that buf is
	flushed uint64       // all batches up to this one are in the kernel
	queued  uint64       // messages of Queue in batches that are not flushed
	sent    uint64       // user frames accepted
	size    uint64       // their data, in bytes
	err     error        // the first permanent error: users' frames are refused with it
	stop    event        // err is set: users write no more
	dead    event        // nobody writes any more
	broken  bool         // the socket takes no more
	kicking bool         // a short-lived goroutine is on its way to write
	ping    bool         // a ping is owed
	pong    []byte       // the pong that is owed; a newer ping replaces it
}

func (s *sender) init(conn net.Conn, raw syscall.RawConn, stall func()) {
	s.conn, s.raw, s.stall = conn, raw, stall
	s.turn = make(chan struct{}, 1)
	s.try = func(fd uintptr) bool {
		s.n, _, _ = sys.Write(fd, s.out) // an error shows in the write that follows
		return true
	}
	s.batch = 1
}

// An iovec is a head and its data that go to the socket in one write. It is used
// again, so that it costs no memory each time.
type iovec struct {
	left net.Buffers // of two
	two  [2][]byte
}

// An event happens once, under the lock that guards it. The channel is made
// when somebody waits: an idle connection has none.
type event struct {
	done chan struct{}
	did  bool
}

func (e *event) happen() {
	e.did = true
	if e.done != nil {
		close(e.done)
	}
}

// wait returns a channel that is closed when the event has happened.
func (e *event) wait() <-chan struct{} {
	if e.done == nil {
		e.done = make(chan struct{})
		if e.did {
			close(e.done)
		}
	}
	return e.done
}

// outgoing is a user's frame on its way, with what it takes to undo it.
type outgoing struct {
	typ    uint32
	data   []byte      // behind the buffer, in plaintext, when large
	size   int         // in buf
	length int         // of the data
	held   bool        // by Queue
	before cipherState // as it was
}

// write sends one message: when it returns nil the kernel has it, or, with
// hold, the buffer has it and there is not enough for a batch yet.
func (s *sender) write(ctx context.Context, typ int, data []byte, hold bool) error {
	if len(data) > s.limit {
		return &SizeError{len(data), s.limit}
	}
	direct := s.cipher == nil && len(data) >= directSize && s.version != version2
	s.mu.Lock()
	if hold && s.version != version2 && s.buf != nil && len(s.buf.b)+prefixLen+typeLen+sealGrowth+len(data) < batchSize && s.acceptLocked() == nil {
		s.appendLocked(uint32(typ), len(data), data)
		s.sent++
		s.size += uint64(len(data))
		s.queued++
		s.mu.Unlock()
		return nil
	}
	mine := false
	if direct || s.buf != nil && len(s.buf.b)+prefixLen+typeLen+sealGrowth+len(data) > batchSize {
		// No room behind the others, or no copy wanted: wait for the turn, unsealed.
		s.mu.Unlock()
		if err := s.take(ctx); err != nil {
			return err
		}
		mine = true
		s.mu.Lock()
	}
	if err := s.acceptLocked(); err != nil {
		s.mu.Unlock()
		if mine {
			<-s.turn
		}
		return err
	}
	o := outgoing{typ: uint32(typ), length: len(data), held: hold}
	if s.cipher != nil {
		o.before = *s.cipher
	}
	if direct {
		o.data = data // flush seals it, when nothing can come between head and data
	} else {
		o.size = s.appendLocked(o.typ, len(data), data)
	}
	s.sent++
	s.size += uint64(len(data))
	if hold {
		s.queued++
	}
	batch, full := s.batch, direct || len(s.buf.b) >= batchSize || s.cipher.spent()
	s.mu.Unlock()
	if hold && !mine && !full {
		return nil
	}
	if !mine {
		if err := s.take(ctx); err != nil {
			s.kick()
			return fail(err, nil, "the message stands in the send buffer behind another one and still goes out")
		}
	}
	return s.flush(ctx, batch, &o)
}

// flushAll returns nil when the kernel has everything that was accepted before the call.
func (s *sender) flushAll(ctx context.Context) error {
	s.mu.Lock()
	batch, err := s.batch, s.err
	if s.buf == nil {
		batch-- // it may still be on its way with another writer
	}
	done := s.flushed >= batch
	s.mu.Unlock()
	if err != nil || done {
		return err
	}
	if err := s.take(ctx); err != nil {
		return err
	}
	return s.flush(ctx, batch, nil)
}

// take waits for the turn; after an error nothing has happened.
func (s *sender) take(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	default:
	}
	s.mu.Lock()
	stop := s.stop.wait()
	s.mu.Unlock()
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return contextError("write", ctx)
	case <-stop:
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.err
	}
}

// acceptLocked says whether one more user frame may be sealed.
func (s *sender) acceptLocked() error {
	if s.err == nil && s.cipher != nil && s.cipher.exhausted() {
		return fail(ErrNotConnected, nil, "this connection has used up its keys: close it and connect again")
	}
	return s.err
}

// appendLocked seals a frame with n bytes of data into the buffer and returns
// by how much that grew. With nil data only the head of a plaintext frame is
// put there: its data follows in the same write.
func (s *sender) appendLocked(typ uint32, n int, data []byte) int {
	before := 0
	if s.buf != nil {
		before = len(s.buf.b)
	}
	body := typeLen + n
	if s.cipher == nil {
		s.buf = s.pool.grow(s.buf, before+prefixLen+typeLen+len(data))
		b := appendPrefix(s.buf.b, body)
		b = binary.BigEndian.AppendUint32(b, typ)
		s.buf.b = append(b, data...)
		return len(s.buf.b) - before
	}
	// The plaintext stands behind the place of its sealed form for a moment:
	// sealing over itself costs a move. Huge ones bear it, for 32-bit systems.
	frame := prefixLen + sealGrowth + body
	at := before + frame
	if body > maxMsgSize/4 {
		at = before + prefixLen
	}
	s.buf = s.pool.grow(s.buf, max(before+frame, at+body))
	plain := s.buf.b[at : at+body]
	binary.BigEndian.PutUint32(plain, typ)
	copy(plain[typeLen:], data)
	b, err := s.cipher.seal(appendPrefix(s.buf.b, sealGrowth+body), plain)
	if err != nil { // unreachable for users' frames, see acceptLocked
		return 0
	}
	s.buf.b = b
	return frame
}

// controlLocked seals a control frame, which goes out with the next batch.
func (s *sender) controlLocked(kind byte, rest ...byte) {
	var data [9]byte
	data[0] = kind
	s.appendLocked(controlType, 1+copy(data[1:], rest), data[:1+len(rest)])
}

// owedLocked seals the ping and the pong that are owed, unless this side has
// said goodbye: after that it writes nothing but its answer.
func (s *sender) owedLocked() {
	if s.err == nil && s.pong != nil {
		s.controlLocked(kindPong, s.pong...)
	}
	if s.err == nil && s.ping {
		s.controlLocked(kindPing, make([]byte, 8)...)
	}
	s.pong, s.ping = nil, false
}

// flush writes what is buffered until batch is in the kernel, and gives up the
// turn, which the caller holds. o is the caller's own frame, the last but for
// those of others; nil when it has none.
func (s *sender) flush(ctx context.Context, batch uint64, o *outgoing) error {
	err := s.flushBatch(ctx, batch, o)
	<-s.turn
	return err
}

func (s *sender) flushBatch(ctx context.Context, batch uint64, o *outgoing) error {
	s.mu.Lock()
	number, queued := s.batch, s.queued
	b, tail, err := s.takeLocked(batch, o)
	s.mu.Unlock()
	if b == nil {
		return err
	}

	own := batch == 0
	n, why, err := s.put(ctx, own, b.b, tail)

	s.mu.Lock()
	switch {
	case err == nil && why == nil:
		s.flushed = number
		s.pool.put(b)
		over := s.buf == nil && s.cipher.spent()
		s.mu.Unlock()
		if over {
			s.broke(spentError())
		}
		return nil
	case err == nil && (n == 0 || s.version == version2 && ctx.Err() != nil):
		// The kernel has nothing of it: the stream stands at the end of a frame.
		// Version 2 leaves none half-written, so there the rest still goes out.
		b.b = b.b[:copy(b.b, b.b[n:])]
		s.queued += queued
		err = s.putBackLocked(b, o, why)
		s.mu.Unlock()
		return err
	case err == nil:
		err = why
	}
	lost := s.queued + queued
	s.queued = 0
	if own { // nobody is there to be told
		s.queued = lost
	}
	s.breakLocked(err)
	s.mu.Unlock()
	s.broke(err)
	if lost > 0 {
		return fail(ErrNotConnected, err, "the write failed, and %d queued messages are lost", lost)
	}
	return fail(ErrNotConnected, err, "the write failed")
}

// takeLocked takes what is buffered, with the frame o at its end, to be written;
// nil when nothing up to batch is left, and when nothing can be written.
func (s *sender) takeLocked(batch uint64, o *outgoing) (b *buffer, tail []byte, err error) {
	s.owedLocked()
	if o != nil && o.data != nil {
		if s.err != nil { // a goodbye came between
			s.undoLocked(o)
			return nil, nil, s.err
		}
		tail = o.data
		o.size = s.appendLocked(o.typ, len(tail), nil)
	}
	switch {
	case s.buf == nil || batch != 0 && s.flushed >= batch:
		return nil, nil, nil
	case s.broken:
		return nil, nil, s.err
	}
	b = s.buf
	s.buf, s.queued, s.batch = nil, 0, s.batch+1
	return b, tail, nil
}

// putBackLocked undoes a write that was interrupted before its first byte: the
// caller's frame is taken out again where none has been sealed after it.
func (s *sender) putBackLocked(b *buffer, o *outgoing, why error) error {
	undone := false
	switch {
	case o == nil:
	case o.data != nil:
		b.b, undone = b.b[:len(b.b)-o.size], true
	case s.buf == nil && len(b.b) == o.size:
		b.b, undone = b.b[:0], true
		if s.cipher != nil {
			*s.cipher = o.before
		}
	}
	if s.buf != nil {
		b = s.pool.grow(b, len(b.b)+len(s.buf.b))
		b.b = append(b.b, s.buf.b...)
		s.pool.put(s.buf)
	}
	if s.buf = b; len(b.b) == 0 {
		s.pool.put(b)
		s.buf = nil
	}
	if undone {
		s.undoLocked(o)
	}
	if undone || o == nil {
		return why
	}
	s.kickLocked()
	return fail(why, nil, "the message stands in the send buffer and still goes out")
}

// undoLocked takes back the count of a frame that is not sent after all.
func (s *sender) undoLocked(o *outgoing) {
	s.sent--
	s.size -= uint64(o.length)
	if o.held {
		s.queued--
	}
}

// put has the kernel take b and then tail. It ends early, with n bytes taken
// and why, when the context ends or, unless this is the library's own write,
// when Close cuts.
func (s *sender) put(ctx context.Context, own bool, b, tail []byte) (n int, why, err error) {
	if !s.wide && s.raw != nil && len(b)+len(tail) >= wideFrom { // or the two sides wait for each other
		s.wide = true
		if _, ok := s.conn.(*net.UnixConn); ok { // over TCP the kernel finds the size itself
			s.raw.Control(func(fd uintptr) { sys.WidenSendBuffer(fd, wideSize) })
		}
	}
	if s.raw != nil && tail == nil {
		s.out, s.n = b, 0
		if s.raw.Write(s.try); s.n == len(b) {
			return s.n, nil, nil
		}
		n = s.n
	}
	if s.late == nil {
		s.late = time.AfterFunc(stallAfter, s.stall)
	} else {
		s.late.Reset(stallAfter)
	}
	defer s.late.Stop()
	if ctx.Done() != nil {
		defer context.AfterFunc(ctx, func() { s.conn.SetWriteDeadline(past) })()
	}
	for {
		// Who interrupts sets the reason and then the deadline, so here the
		// deadline comes first and the reasons after it.
		var cut time.Time
		if at := s.cutAt.Load(); at != 0 && !own {
			cut = time.Unix(0, at)
		}
		s.conn.SetWriteDeadline(cut)
		if ctx.Err() != nil {
			return n, contextError("write", ctx), nil
		}
		if !cut.IsZero() && !time.Now().Before(cut) {
			return n, fail(ErrClosed, nil, "a write was cut short"), nil
		}
		var m int
		if n >= len(b) {
			m, err = s.conn.Write(s.slice(tail[n-len(b):]))
		} else if tail == nil {
			m, err = s.conn.Write(s.slice(b[n:]))
		} else {
			if s.iov == nil {
				s.iov = new(iovec)
			}
			v := s.iov
			v.two = [2][]byte{b[n:], s.slice(tail)}
			v.left = v.two[:]
			var wide int64
			wide, err = v.left.WriteTo(s.conn)
			m, v.two = int(wide), [2][]byte{}
		}
		if n += m; m > 0 && n < len(b)+len(tail) && s.heard != nil {
			s.heard() // no ping fits into a long frame: that it moves must do for the pong
		}
		if n == len(b)+len(tail) || err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, nil, plain(err)
		}
	}
}

// slice is how much of b is written at a time.
func (s *sender) slice(b []byte) []byte {
	if s.heard == nil {
		return b
	}
	return b[:min(len(b), sliceSize)]
}

// kick has what is buffered or owed written by a goroutine that ends when it
// has: for the few cases in which nobody who writes is left to do it.
func (s *sender) kick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kickLocked()
}

func (s *sender) kickLocked() {
	if s.kicking || s.broken {
		return
	}
	s.kicking = true
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		s.drain(context.Background())
	}()
}

// drain writes everything that has been accepted, whoever waits for what.
func (s *sender) drain(ctx context.Context) error {
	s.mu.Lock()
	dead := s.dead.wait()
	s.mu.Unlock()
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return contextError("write", ctx)
	case <-dead:
		return net.ErrClosed
	}
	s.mu.Lock()
	s.kicking = false
	s.mu.Unlock()
	return s.flush(ctx, 0, nil)
}

// owe notes a ping, or the pong for a ping with the given bytes. The caller
// does not wait for it to be written.
func (s *sender) owe(pong []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	if pong == nil {
		s.ping = true
	} else {
		s.pong = append(s.pong[:0], pong...)
	}
	s.kickLocked()
}

// forget makes err the answer to every user's write from here on, and returns
// how many messages of Queue go nowhere.
func (s *sender) forget(err error) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuseLocked(err)
	lost := s.queued
	s.queued = 0
	return int64(lost)
}

func (s *sender) refuseLocked(err error) {
	if s.err == nil {
		s.err = err
		s.stop.happen()
	}
}

// breakLocked ends this half: no byte goes out any more.
func (s *sender) breakLocked(err error) {
	s.refuseLocked(fail(ErrNotConnected, err, "the connection can no longer be written to"))
	s.broken = true
}

// say seals control frames behind everything that users wrote, whose further
// writes get err, and has it all written. The caller does not wait.
func (s *sender) say(err error, frames ...[2]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuseLocked(err)
	if s.broken {
		return
	}
	for _, f := range frames {
		if s.version != version2 {
			s.controlLocked(f[0], f[1])
		}
	}
	s.kickLocked()
}

// bury ends the half for good and returns how many messages of Queue it held.
func (s *sender) bury() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.broken {
		s.breakLocked(net.ErrClosed)
	}
	s.dead.happen()
	lost := s.queued
	s.queued = 0
	if s.buf != nil {
		s.pool.put(s.buf)
		s.buf = nil
	}
	return int64(lost)
}
