// One end of a connection: what outlives a socket and the next one. Its
// status, its queue of messages, and the role of the one who reads.
//
// The goroutine that calls Read does the reading: no other stands between it
// and the kernel. Only the holder of the role reads the socket, touches the
// receive buffer and appends to the queue, so a status stands in the stream
// where it happened.
//
//	state     role held by          leaves when
//	noSocket  dial or accept loop   a socket is there: as reading
//	free      nobody                a caller takes it: reading; a pause has passed, or something is amiss: watched
//	reading   a caller              it has its message or its reason: the first in line, else free
//	watched   the watcher           a caller waited for its frame, or has no time: as reading; the queue is full: stopped
//	stopped   nobody, pings go out  a caller takes a message: free
//	closing   Close                 never

package gipc

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	queueSize   = 64 << 10               // data that is queued while nobody reads, in bytes
	messageCost = 64                     // what a queued message counts beside its data, in bytes
	statusCount = 16                     // unread status messages that are kept
	watchAfter  = 500 * time.Millisecond // the watcher reads after one to two of these without a call
	fullPing    = time.Second            // between the pings of a side whose queue is full
	drainTime   = time.Second            // for what is left of a connection that broke
	closeTime   = 5 * time.Second        // for a goodbye and its answer
)

type roleState uint8

const (
	noSocket roleState = iota
	free
	reading
	watched
	stopped
	closing
)

// Stats are totals of one end since its start, over all its connections.
type Stats struct {
	Sent, Received           uint64 // messages
	SentBytes, ReceivedBytes uint64 // their Data, in bytes
	Reconnects               uint64 // connections after the first
	Refused                  uint64 // server: peers that did not get in, and errors of accept
	Rekeys                   uint64 // changes of a traffic key, both directions
	Dropped                  uint64 // status messages, or clients that left, that nobody read in time
}

func (s *Stats) add(o Stats) {
	s.Sent += o.Sent
	s.Received += o.Received
	s.SentBytes += o.SentBytes
	s.ReceivedBytes += o.ReceivedBytes
	s.Reconnects += o.Reconnects
	s.Refused += o.Refused
	s.Rekeys += o.Rekeys
	s.Dropped += o.Dropped
}

// end is the part that Server and Client share. It is safe for concurrent use.
type end struct {
	set    *settings
	pool   *bufferPool
	single bool                 // it lives for one connection
	lazy   bool                 // the watcher does not begin at once: a reader is expected
	many   bool                 // a server of many clients, and no end of any connection
	leave  atomic.Bool          // Close has begun
	redial func(*link)          // seeks the next socket; nil where it comes by itself
	unread atomic.Int64         // messages in the queue
	wg     sync.WaitGroup       // its goroutines
	cur    atomic.Pointer[link] // what Write uses
	lost   atomic.Int64         // queued messages that went with a connection, not reported yet
	owner  owner                // nil where there is no pool
	life   context.Context      // ends when Close begins; nil for one client of many
	quit   func()               // ends life

	// mu guards what follows. Nobody waits while holding it.
	mu       sync.Mutex
	status   Status
	changed  event // the status is another one; then it is a new one
	link     *link
	last     *link      // the link, or the one before
	yield    event      // Close has the role
	line     []*waiter  // readers in wait for the role; none while the queue has messages
	queue    []*Message // from head on
	head     int
	held     int             // what is queued, in bytes
	statuses int             // status messages in the queue
	err      error           // final: what reads return once the queue is empty
	done     event           // err is set
	closed   event           // Close is done
	cut      context.Context // ends when Close has no more time; nil until somebody asks
	cutNow   func()
	idle     time.Duration // watchAfter; tests shorten it
	pause    *time.Timer   // nil until it is needed
	calls    uint64        // reads that have held the role
	callsAt  uint64        // calls when pause was set
	role     roleState
	armed    bool  // pause runs
	eager    bool  // the watcher reads on, and does not leave for those in line
	totals   Stats // but for what link counts
}

// An owner is told, under mu, what becomes of an end.
type owner interface {
	notify()   // there is something to read
	finished() // err is set
	spent()    // err is set and the queue is empty
}

// A waiter is a reader in line. It gets a message, or the role.
type waiter struct {
	wake    chan struct{}
	message *Message
	granted bool
}

func (e *end) init(set *settings, pool *bufferPool) {
	e.set, e.pool, e.idle = set, pool, watchAfter
}

// cutLocked returns the context that ends when Close has no more time. An idle
// connection has none.
func (e *end) cutLocked() context.Context {
	if e.cut == nil {
		e.cut, e.cutNow = context.WithCancel(context.Background())
	}
	return e.cut
}

// hurry ends what Close has no more time for.
func (e *end) hurry() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cutLocked()
	e.cutNow()
}

// Status returns the status as a string; see [Status]. It is the current one:
// the status messages that Read returns say when it changed.
func (e *end) Status() string { return e.StatusCode().String() }

// StatusCode returns the status of now.
func (e *end) StatusCode() Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.status
}

// Done is closed when this end will never be connected again: after Close,
// after a Client's Timeout, when a Server cannot accept any more, and, for one
// client of many, when that client is gone. Err then says why.
func (e *end) Done() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.done.wait()
}

// Err returns nil until Done is closed, and then why: ErrTimeout with the last
// cause after a Client's Timeout, else ErrClosed, with the cause where Close is
// not it.
func (e *end) Err() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

// ID numbers the connections of this end, from 1 on. It is never used twice: a
// connection made again has a new one. It is 0 before the first.
func (e *end) ID() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.last == nil {
		return 0
	}
	return e.last.id
}

// Peer returns what the kernel says of the process at the other end of the
// connection, or of the last one.
func (e *end) Peer() Peer {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.last == nil {
		return Peer{UID: -1, GID: -1, PID: -1}
	}
	return e.last.peer
}

// Stats returns the totals of this end.
func (e *end) Stats() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.statsLocked()
}

func (e *end) statsLocked() Stats {
	s := e.totals
	if e.link != nil {
		s.add(e.link.stats())
	}
	return s
}

// Read returns the next message. It blocks until there is one. Messages of the
// peer come in the order in which they were written; a message with MsgType -1
// reports a status change where it happened among them. Data is the caller's.
//
// It is safe for concurrent use: each message goes to one reader. The loss of a
// connection is a message and not an error. The error is this end's final one,
// ErrClosed or a Client's ErrTimeout, or ErrMultiClient on a server of many
// clients; every later call returns it again.
func (e *end) Read() (*Message, error) {
	var c call
	m := new(Message)
	if err := e.read(&c, m); err != nil {
		return nil, err
	}
	return m, nil
}

// ReadTimed is Read for at most d. When d has passed it returns TimeoutMessage
// and no error; d of 0 or less takes what is there and does not wait. The
// connection and every message survive, also when d passes in the middle of one.
func (e *end) ReadTimed(d time.Duration) (*Message, error) {
	c := call{poll: d <= 0}
	if d > 0 {
		c.until = time.Now().Add(d)
	}
	m := new(Message)
	switch err := e.read(&c, m); err {
	case nil:
		return m, nil
	case ErrTimeout: // a final error with it inside is another value
		return TimeoutMessage, nil
	default:
		return nil, err
	}
}

// ReadContext is Read until ctx ends. It then returns an error that wraps that
// of ctx; the connection and every message survive, also when ctx ends in the
// middle of one.
func (e *end) ReadContext(ctx context.Context) (*Message, error) {
	m := new(Message)
	c := call{ctx: mortal(ctx)}
	if err := e.read(&c, m); err != nil {
		return nil, err
	}
	return m, nil
}

// ReadInto is ReadContext into m: data goes into the memory of m.Data if
// that is large enough, and m.Data is valid until the next ReadInto with m. It
// allocates only when the capacity is too small or when ctx can end. Status
// messages come as from Read.
//
// A Message serves one call at a time. After an error the bytes of m.Data are
// unspecified, and nothing touches them any more.
func (e *end) ReadInto(ctx context.Context, m *Message) error {
	c := call{ctx: mortal(ctx), reuse: true}
	return e.read(&c, m)
}

// Messages returns the peer's messages as they come, without status messages.
// Each step is a ReadContext: concurrent reads share the messages, and the loop
// holds nothing while its body runs, so break loses nothing. It does not tell of
// a lost connection: whoever waits for a reply takes ReadContext. The sequence
// ends on ErrClosed; any other error comes once, with a nil message, and ends it.
func (e *end) Messages(ctx context.Context) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		for {
			m := new(Message)
			err := e.read(&call{ctx: mortal(ctx), quiet: true}, m)
			switch {
			case err != nil:
				if !errors.Is(err, ErrClosed) {
					yield(nil, err)
				}
				return
			case m.MsgType != internalType && !yield(m, nil):
				return
			}
		}
	}
}

// Write sends a message. When it returns nil the kernel has all of it; data is
// the caller's again. It blocks until the first peer connects (Listening,
// Connecting), and while the kernel's buffers are full. Types are 1 to 2147483647;
// data may be empty, and as large as the peer's MaxMsgSize.
//
// It is safe for concurrent use, and concurrent writers share the work. Errors:
// ErrReservedType and ErrTooLarge, after which the connection goes on;
// ErrNotConnected, at once, from the loss of a connection until the next one,
// and once when messages that Queue held are lost: then nothing is sent, and
// the text says how many they were; this end's final error.
func (e *end) Write(msgType int, data []byte) error {
	return e.send(context.Background(), msgType, data, false)
}

// WriteContext is Write until ctx ends. If it is still waiting for the peer or for
// its turn, nothing is sent and the connection stays up. If the message already
// stands in the send buffer behind another one, it still goes out, and the error
// says so. If the kernel has part of it, the connection ends, since a frame
// cannot be taken back. In each case the error wraps that of ctx.
func (e *end) WriteContext(ctx context.Context, msgType int, data []byte) error {
	return e.send(ctx, msgType, data, false)
}

// Queue is Write, but the message is buffered in this process until Flush,
// Write or Close, or until 64 KiB are buffered: then Queue writes, and may block.
// What is buffered when a connection is lost is lost; the error of the next Queue,
// Flush or Write, ErrNotConnected, says how many messages that was.
func (e *end) Queue(msgType int, data []byte) error {
	return e.send(context.Background(), msgType, data, true)
}

// Flush writes what Queue has kept back. When it returns nil the kernel has all
// that was queued before the call. Errors are those of Write.
func (e *end) Flush() error {
	l, err := e.writable(context.Background())
	if err != nil {
		return err
	}
	return l.send.flushAll(context.Background())
}

// WaitConnected returns nil as soon as this end is connected. Its error is that
// of ctx, or this end's final one.
func (e *end) WaitConnected(ctx context.Context) error {
	if e.many {
		return ErrMultiClient
	}
	for {
		e.mu.Lock()
		l, err, status, changed := e.link, e.err, e.status, e.changed.wait()
		e.mu.Unlock()
		if err != nil {
			return err
		}
		if l != nil && !l.doomed() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return contextError("wait for a connection, the status is "+status.String(), ctx)
		}
	}
}

// mortal returns ctx, or nil where it never ends.
func mortal(ctx context.Context) context.Context {
	if ctx.Done() == nil {
		return nil
	}
	return ctx
}

func (e *end) send(ctx context.Context, msgType int, data []byte, hold bool) error {
	if err := checkType(msgType); err != nil {
		return err
	}
	l, err := e.writable(ctx)
	if err != nil {
		return err
	}
	return l.send.write(ctx, msgType, data, hold)
}

func checkType(msgType int) error {
	if msgType <= controlType || msgType > maxType {
		return fail(ErrReservedType, nil, "%d: use 1 to %d", msgType, maxType)
	}
	return nil
}

// writable returns the link to write to, and waits for the first one.
func (e *end) writable(ctx context.Context) (*link, error) {
	if e.many {
		return nil, ErrMultiClient
	}
	if ctx.Err() != nil {
		return nil, contextError("write", ctx)
	}
	for {
		if n := e.lost.Load(); n != 0 && e.lost.CompareAndSwap(n, 0) {
			return nil, fail(ErrNotConnected, nil, lostText+"; nothing was sent now: send again what matters", n)
		}
		if l := e.cur.Load(); l != nil {
			return l, nil
		}
		e.mu.Lock()
		status, l, err, changed := e.status, e.link, e.err, e.changed.wait()
		e.mu.Unlock()
		switch {
		case err != nil:
			return nil, err
		case e.leave.Load():
			return nil, ErrClosed
		case l != nil:
			return l, nil
		case status != Listening && status != Connecting:
			return nil, fail(ErrNotConnected, nil, "the status is %s: WaitConnected waits for the next connection", status)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, contextError("write: no peer has come yet, the status is "+status.String(), ctx)
		}
	}
}

const lostText = "%d queued messages were lost with an earlier connection"

// read fills m with the next message.
func (e *end) read(c *call, m *Message) error {
	if e.many {
		return ErrMultiClient
	}
	if c.ctx != nil && c.ctx.Err() != nil {
		return contextError("read", c.ctx)
	}
	e.mu.Lock()
	err := e.readLocked(c, m) // a defer here would cost as much as the lock
	e.mu.Unlock()
	return err
}

// readLocked gives up mu while it reads the socket, and while it waits.
func (e *end) readLocked(c *call, m *Message) error {
	for {
		if e.popLocked(c, m) {
			return nil
		}
		if e.err != nil {
			return e.err
		}
		switch {
		case c.queued || c.poll && e.role != free && e.role != watched:
			return ErrTimeout
		case e.role == free:
			// What is here already, and small, is worth no change of the role.
			if n := len(e.link.unread()); n > 0 && n <= readSize {
				if ok, err := e.link.next(c, m); ok {
					e.calls++
					e.countLocked(m)
					e.freeLocked()
					return nil
				} else if err != nil || e.link.goodbye {
					e.loseLocked(e.link, err)
					continue
				}
			}
			e.role = reading
		default:
			w, why := e.waitLocked(c)
			if w.message != nil {
				e.takeLocked(c, m, w.message)
				return nil
			}
			if !w.granted {
				if why != nil {
					return why
				}
				continue
			}
			if why != nil || e.popLocked(c, m) {
				e.releaseLocked()
				return why
			}
		}
		l := e.link
		e.mu.Unlock()
		out, err := l.receive(c, m)
		if c.stop != nil {
			c.stop()
			c.stop = nil
		}
		e.mu.Lock()
		e.calls++
		if out == delivered {
			e.countLocked(m)
		}
		if out == lost {
			e.loseLocked(l, err)
			continue
		}
		e.releaseLocked()
		if out != yielded {
			return err
		}
	}
}

func (e *end) countLocked(m *Message) {
	e.totals.Received++
	e.totals.ReceivedBytes += uint64(len(m.Data))
}

// takeLocked gives a queued message to a reader.
func (e *end) takeLocked(c *call, m, queued *Message) {
	if l := e.last; l != nil && l.untold == queued && !c.quiet {
		l.untold = nil
	}
	data := queued.Data
	if c.reuse && cap(m.Data) >= len(data) {
		data = append(m.Data[:0], data...)
	}
	*m = *queued
	m.Data = data
}

// popLocked takes the oldest message of the queue.
func (e *end) popLocked(c *call, m *Message) bool {
	if e.head == len(e.queue) {
		return false
	}
	queued := e.queue[e.head]
	e.queue[e.head] = nil
	e.head++
	e.unqueuedLocked(queued)
	if e.err != nil {
		e.spentLocked()
	}
	if e.head == len(e.queue) {
		e.head = 0
		if e.queue = e.queue[:0]; cap(e.queue) > 64 {
			e.queue = nil // an idle end holds no memory
		}
	}
	e.takeLocked(c, m, queued)
	if e.role == stopped && (!e.eager || e.held <= queueSize/2) {
		e.heardLocked()
		e.releaseLocked()
	}
	return true
}

// spentLocked tells the pool when there will be nothing to read any more.
func (e *end) spentLocked() {
	if e.owner != nil && e.err != nil && e.head == len(e.queue) {
		e.owner.spent()
	}
}

func (e *end) unqueuedLocked(m *Message) {
	e.unread.Add(-1)
	e.held -= weight(m)
	if m.MsgType == internalType {
		e.statuses--
	}
}

// weight is what a message counts in the queue, in bytes: an empty one costs
// memory too.
func weight(m *Message) int { return len(m.Data) + messageCost }

// pushLocked hands a message to the first reader in line, or queues it.
func (e *end) pushLocked(m *Message) {
	if len(e.line) > 0 {
		w := e.line[0]
		e.line = e.line[1:]
		w.message = m
		w.wake <- struct{}{}
		return
	}
	if m.MsgType == internalType {
		if e.statuses++; e.statuses > statusCount {
			i := e.head + slices.IndexFunc(e.queue[e.head:], func(m *Message) bool { return m.MsgType == internalType })
			e.unqueuedLocked(e.queue[i])
			e.queue = slices.Delete(e.queue, i, i+1)
			e.totals.Dropped++
		}
	}
	if e.head > 0 && len(e.queue) == cap(e.queue) {
		e.queue = slices.Delete(e.queue, 0, e.head)
		e.head = 0
	}
	e.queue = append(e.queue, m)
	e.unread.Add(1)
	e.held += weight(m)
	if e.owner != nil {
		e.owner.notify()
	}
}

// waitLocked waits in line for a message or the role, until the call has a
// reason to leave. It gives up mu meanwhile.
func (e *end) waitLocked(c *call) (w *waiter, why error) {
	w = &waiter{wake: make(chan struct{}, 1)}
	e.line = append(e.line, w)
	e.mu.Unlock()
	var ended <-chan struct{}
	if c.ctx != nil {
		ended = c.ctx.Done()
	}
	var passed <-chan time.Time
	if !c.until.IsZero() && !c.poll {
		t := time.NewTimer(max(time.Until(c.until), 1)) // none that is due: TestTimersInBubbles
		defer t.Stop()
		passed = t.C
	}
	if !c.poll {
		select {
		case <-w.wake:
		case <-ended:
			why = contextError("read", c.ctx)
		case <-passed:
			c.poll, why = true, ErrTimeout
		}
	}
	e.mu.Lock()
	i := slices.Index(e.line, w)
	if i < 0 {
		return w, why
	}
	e.line = slices.Delete(e.line, i, i+1)
	if c.poll && e.role == watched {
		// It has no time, and still nobody has looked at the socket for it: the
		// watcher, whom else nobody interrupts, makes way.
		e.line = slices.Insert(e.line, 0, w)
		e.link.wanted.Store(true)
		e.link.interrupt()
		e.mu.Unlock()
		<-w.wake
		e.mu.Lock()
		return w, nil
	}
	return w, why
}

// releaseLocked gives the role up: to Close, to the first in line, or to nobody.
func (e *end) releaseLocked() {
	switch {
	case e.leave.Load():
		e.role = closing
		e.yield.happen()
	case len(e.line) > 0:
		w := e.line[0]
		e.line = e.line[1:]
		e.role, w.granted = reading, true
		w.wake <- struct{}{}
	case e.link.fate.Load() != nil || e.eager:
		e.watchLocked()
	default:
		e.freeLocked()
	}
}

// freeLocked leaves the role to whoever comes, and at last to the watcher.
func (e *end) freeLocked() {
	e.role = free
	if e.armed {
		return
	}
	e.armed, e.callsAt = true, e.calls
	if e.pause == nil {
		e.pause = time.AfterFunc(e.idle, e.paused)
	} else {
		e.pause.Reset(e.idle)
	}
}

// paused has the watcher read when nobody has for a while.
func (e *end) paused() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.armed = false
	switch {
	case e.role != free || e.leave.Load():
		if e.lazy {
			e.pause = nil // an idle client of Serve has none
		}
	case e.calls == e.callsAt:
		e.watchLocked()
	default:
		e.armed, e.callsAt = true, e.calls
		e.pause.Reset(e.idle)
	}
}

// wake has the watcher read where nobody does, and whoever reads look at the
// reasons to stop.
func (e *end) wake(l *link) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.link != l:
	case e.role == free || e.role == stopped:
		e.watchLocked()
	default:
		l.interrupt()
	}
}

// beEager has the watcher read from here on whenever nobody else does.
func (e *end) beEager() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.eager = true
	if e.role == free {
		e.watchLocked()
	}
}

// stalled has the watcher read while a write waits for the kernel, or two sides
// that both write before they read would wait for each other.
func (e *end) stalled(l *link) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.link == l && e.role == free {
		e.watchLocked()
	}
}

// watchLocked starts the watcher, which reads when nobody else does, so that
// losses are noticed and pings answered all the same.
func (e *end) watchLocked() {
	e.role = watched
	if e.link.fate.Load() == nil { // else it is judged already
		e.heardLocked()
	}
	e.wg.Add(1)
	go e.watch(e.link)
}

func (e *end) watch(l *link) {
	defer e.wg.Done()
	c := call{watch: true}
	most := 0 // what tiny frames may fill the queue to
	for {
		var m Message // on the stack: an idle client has none
		out, err := l.receive(&c, &m)
		e.mu.Lock()
		awaited := len(e.line) > 0
		if out == delivered {
			e.countLocked(&m)
			queued := m
			e.pushLocked(&queued)
		}
		full := e.held >= queueSize && l.fate.Load() == nil
		switch {
		case out == lost:
			e.loseLocked(l, err)
		case out == yielded, out == over, out == delivered && awaited && !e.eager:
			l.wanted.Store(false)
			e.releaseLocked()
		case full && c.tiny && (out == tooLarge || e.held >= most):
			if e.role = stopped; e.leave.Load() {
				e.releaseLocked()
			}
		default:
			// With a full queue it reads on for the peer's goodbye, as long as
			// what comes is no larger than that.
			if full && !c.tiny {
				most = e.held + queueSize
				e.beatLocked(l, fullPing)
			}
			c.tiny = full
			e.mu.Unlock()
			continue
		}
		e.mu.Unlock()
		return
	}
}

// setLocked changes the status where that may be, and tells those who wait.
func (e *end) setLocked(s Status) bool {
	if !e.status.mayBecome(s) {
		return false
	}
	e.status = s
	e.changedLocked()
	return true
}

// changedLocked tells those who wait for a change.
func (e *end) changedLocked() {
	e.changed.happen()
	e.changed = event{}
}

// sayLocked changes the status and has the reader told in the stream. It returns
// nil where that may not be.
func (e *end) sayLocked(s Status, err error) *Message {
	if !e.setLocked(s) {
		return nil
	}
	m := &Message{MsgType: internalType, Status: s.String(), Err: err}
	e.pushLocked(m)
	return m
}

// finishLocked makes err the answer to every read from here on, behind what the
// queue holds.
func (e *end) finishLocked(err error) {
	if e.err != nil {
		return
	}
	e.err = err
	e.done.happen()
	e.changedLocked()
	for _, w := range e.line {
		w.wake <- struct{}{}
	}
	e.line = nil
	if e.owner != nil {
		e.owner.notify()
		e.owner.finished()
	}
	e.spentLocked()
}

// attach makes l the connection of this end and gives its role to whoever is
// first. It returns false when this end takes none any more.
func (e *end) attach(l *link) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.leave.Load() || e.link != nil || e.sayLocked(Connected, nil) == nil {
		return false
	}
	if e.last != nil {
		e.totals.Reconnects++
	}
	e.link, e.last = l, l
	e.cur.Store(l)
	if l.heartbeat > 0 {
		e.beatLocked(l, l.heartbeat)
	}
	e.role = reading
	e.releaseLocked()
	if e.role == free && e.calls == 0 && !e.lazy {
		e.watchLocked()
	}
	e.set.log.Info("connected", "name", e.set.name, "id", l.id, "peer", loggedPeer(l.peer), "version", l.version, "encrypted", l.cipher != nil)
	return true
}

// doom lets the reader of l go on for a while and then declare it lost.
func (e *end) doom(l *link, err error, after time.Duration) {
	if errors.Is(err, ErrClosed) {
		after = 0 // Close has cut a frame: there will be no answer
	}
	for f := (&fate{err: err, at: time.Now().Add(after)}); ; {
		if was := l.fate.Load(); was != nil && !was.silent || l.fate.CompareAndSwap(was, f) {
			break
		}
	}
	e.wake(l)
}

// doomed says whether l is as good as lost, though what it has brought is still
// being read.
func (l *link) doomed() bool {
	f := l.fate.Load()
	return f != nil && !f.silent
}

// loseLocked ends the connection whose role the caller holds: with an error, or
// without one after the peer's goodbye.
func (e *end) loseLocked(l *link, cause error) {
	if e.leave.Load() { // Close takes it from here
		l.bad = cause
		e.releaseLocked()
		return
	}
	e.cur.Store(nil)
	e.link, e.role = nil, noSocket
	if l.beat != nil {
		l.beat.Stop()
	}
	if l.goodbye {
		l.send.say(fail(ErrNotConnected, nil, "the peer has closed the connection"), [2]byte{kindGoodbye}, [2]byte{kindAnswer})
	} else {
		e.lost.Add(int64(l.send.forget(fail(ErrNotConnected, cause, "the connection is lost"))))
	}
	total := l.stats()
	e.totals.add(total)
	e.set.log.Info("connection over", "name", e.set.name, "id", l.id, "err", cause)
	gone := Disconnected
	if e.redial != nil {
		gone = ReConnecting
		e.wg.Add(1)
		go e.redial(l)
	}
	if notice := e.sayLocked(gone, cause); total.Sent > 0 && (l.goodbye || cause != nil) {
		l.untold = notice
	}
	e.wg.Add(1)
	go e.part(l, e.cutLocked()) // which owns l from here on
	if e.single {
		e.finishLocked(fail(ErrClosed, cause, "the client is gone"))
	}
}
