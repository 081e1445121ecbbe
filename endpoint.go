// What outlives a connection: an endpoint with its status, its queue and its read
// role, and the methods that Server and Client share.

package gipc

import (
	"context"
	"errors"
	"iter"
	"sync"
	"sync/atomic"
	"time"
)

const (
	fullPing  = time.Second     // between the pings of a side whose queue is full
	drainTime = time.Second     // for what is left of a connection that is lost
	closeTime = 5 * time.Second // for a close and its close-ack
)

// Stats are the totals of an endpoint since its start, over all its connections.
type Stats struct {
	Sent, Received           uint64 // messages
	SentBytes, ReceivedBytes uint64 // their Data, in bytes
	Reconnects               uint64 // connections after the first
	Refused                  uint64 // server: peers that were not admitted, and errors of accept
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

// An endpoint is the part that Server and Client share. It is safe for concurrent
// use.
type endpoint struct {
	settings *settings
	pool     *bufferPool
	hooks    *endpointHooks
	leaving  atomic.Bool                // Close has begun
	current  atomic.Pointer[connection] // what Write uses
	tasks    sync.WaitGroup             // its goroutines

	mu     sync.Mutex // guards what follows; nobody waits while holding it
	life   *lifecycle
	role   *readRole
	queue  *messageQueue
	ledger *deliveryLedger
	latest *connection // the current one, or the one before
	totals Stats       // except what the current connection counts
}

// endpointHooks is what differs between a client, a server and a client of a
// multi-client server. It does not change after the start, except single.
type endpointHooks struct {
	single   bool              // it lives for one connection
	multi    bool              // a multi-client server, which is no end of any connection
	redial   func(*connection) // looks for the next connection; nil if it comes by itself
	ended    context.Context   // is done when Close begins; nil for a client of a multi-client server
	endNow   func()            // ends ended
	readable func()            // there is something to read; nil without a pool. Called with the lock held
	finished func()            // there will be no connection any more; likewise
	spent    func()            // finished, and the queue is empty; likewise
}

func (e *endpoint) init(settings *settings, pool *bufferPool, hooks *endpointHooks) {
	e.settings, e.pool, e.hooks = settings, pool, hooks
	e.life, e.queue, e.ledger = new(lifecycle), new(messageQueue), new(deliveryLedger)
	e.role = &readRole{idle: idleBeforeBackground, paused: e.onPause, startReader: e.startReader}
}

// Status returns the current status as a string; see [Status]. The status
// messages that Read returns say when it changed.
func (e *endpoint) Status() string { return e.StatusCode().String() }

// StatusCode returns the current status.
func (e *endpoint) StatusCode() Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.life.status
}

// Done is closed when this endpoint will never be connected again: after Close,
// after a Client's Timeout, when a Server cannot accept any more, and, for a
// client of a multi-client server, when that client is gone. Err then returns
// why.
func (e *endpoint) Done() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.life.done.wait()
}

// Err returns nil until Done is closed. Then it returns ErrTimeout, wrapping the
// last dial error, if the Client's Timeout expired, and ErrClosed otherwise,
// wrapping the cause unless this side called Close.
func (e *endpoint) Err() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.life.err
}

// ID returns the number of the current or most recent connection, or 0 before the
// first. Numbers start at 1 and are not reused.
func (e *endpoint) ID() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.latest == nil {
		return 0
	}
	return e.latest.id
}

// Peer returns the credentials that the kernel reports for the process at the
// other end of the current or most recent connection.
func (e *endpoint) Peer() Peer {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.latest == nil {
		return Peer{UID: -1, GID: -1, PID: -1}
	}
	return e.latest.peer
}

// Stats returns the totals of this endpoint.
func (e *endpoint) Stats() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.statsLocked()
}

func (e *endpoint) statsLocked() Stats {
	s := e.totals
	if e.latest != nil {
		s.add(e.latest.stats())
	}
	return s
}

// Read returns the next message. It blocks until there is one. Messages of the
// peer are returned in the order in which they were written. A message with
// MsgType -1 reports a status change at its place among them. The caller owns
// Data.
//
// Read is safe for concurrent use; each message is returned to one reader. The
// loss of a connection is a message and not an error. The error is final:
// ErrClosed, a Client's ErrTimeout, or ErrMultiClient on a multi-client server.
// Every later call returns it again.
func (e *endpoint) Read() (*Message, error) {
	call := readCall{to: destination{room: unlimited}}
	m := new(Message)
	if err := e.read(&call, m); err != nil {
		return nil, err
	}
	return m, nil
}

// ReadTimed is like Read but returns TimeoutMessage and a nil error if no message
// arrives within d. With d of 0 or less it returns what has arrived and does not
// wait. A timeout loses nothing: a partially received message is returned by a
// later read.
func (e *endpoint) ReadTimed(d time.Duration) (*Message, error) {
	call := readCall{poll: d <= 0, to: destination{room: unlimited}}
	if d > 0 {
		call.until = time.Now().Add(d)
	}
	m := new(Message)
	switch err := e.read(&call, m); err {
	case nil:
		return m, nil
	case ErrTimeout: // a final error that wraps it is another value
		return TimeoutMessage, nil
	default:
		return nil, err
	}
}

// ReadContext is like Read but returns early, with an error wrapping ctx.Err(), if
// ctx is done. The connection and every message survive: a partially received
// message is returned by a later read.
func (e *endpoint) ReadContext(ctx context.Context) (*Message, error) {
	if err := checkContext(ctx); err != nil {
		return nil, err
	}
	m := new(Message)
	call := readCall{ctx: cancellable(ctx), to: destination{room: unlimited}}
	if err := e.read(&call, m); err != nil {
		return nil, err
	}
	return m, nil
}

// ReadInto is like ReadContext but stores the message in m and reuses the memory
// of m.Data if its capacity is sufficient. m.Data is valid until the next ReadInto
// with m. It allocates only if the capacity is too small or if ctx can be done.
// Status messages are stored as Read returns them.
//
// A Message serves one call at a time. After an error the bytes of m.Data are
// unspecified, and the library does not use them any more. A nil m is ErrConfig.
func (e *endpoint) ReadInto(ctx context.Context, m *Message) error {
	if m == nil {
		return fail(ErrConfig, nil, "ReadInto: the message is nil: pass a *Message, such as new(gipc.Message)")
	}
	if err := checkContext(ctx); err != nil {
		return err
	}
	call := readCall{ctx: cancellable(ctx), to: destination{reuse: true, room: unlimited}}
	return e.read(&call, m)
}

// Messages returns the peer's messages as they arrive, without status messages.
// Each step is a ReadContext: concurrent reads share the messages, and the loop
// holds nothing while its body runs, so breaking out of it loses nothing. It does
// not report connection loss; use ReadContext when waiting for a reply. The
// sequence ends on ErrClosed. It yields any other error once, with a nil message,
// and ends.
func (e *endpoint) Messages(ctx context.Context) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		if err := checkContext(ctx); err != nil {
			yield(nil, err)
			return
		}
		for {
			m := new(Message)
			err := e.read(&readCall{ctx: cancellable(ctx), noStatus: true, to: destination{room: unlimited}}, m)
			switch {
			case err != nil:
				if !errors.Is(err, ErrClosed) {
					yield(nil, err)
				}
				return
			case !m.internal() && !yield(m, nil):
				return
			}
		}
	}
}

// Write sends a message. A nil error means that the kernel has accepted the whole
// message. Write does not retain data. It blocks until the first peer connects
// (Listening, Connecting), and while the kernel's buffers are full. Types are 1 to
// 2147483647; data may be empty, and as large as the peer's MaxMsgSize.
//
// Write is safe for concurrent use; concurrent writers are serialized in an
// unspecified order and share system calls. Errors:
//   - ErrReservedType and ErrTooLarge: nothing was sent, and the connection stays
//     usable.
//   - ErrNotConnected: nothing was sent. While disconnected, Write fails
//     immediately. If messages buffered by Queue were lost with an earlier
//     connection, the next call reports that, once, with their number; it also
//     matches ErrUnconfirmed if some of them may have arrived.
//   - ErrUnconfirmed: the connection was lost during the call, or Close ended it;
//     some or all of the message may arrive.
//   - ErrClosed, or another final error of this endpoint: nothing was sent.
func (e *endpoint) Write(msgType int, data []byte) error {
	return e.send(context.Background(), 0, msgType, data, false)
}

// WriteContext is like Write but returns early if ctx is done. If the message was
// not accepted for sending, nothing is sent and the error is that of ctx alone.
// Otherwise the message is still sent, and the error is ErrUnconfirmed, wrapping
// that of ctx. The connection and the messages of other calls are not affected. A
func (e *endpoint) WriteContext(ctx context.Context, msgType int, data []byte) error {
	if err := checkContext(ctx); err != nil {
		return err
	}
	return e.send(ctx, 0, msgType, data, false)
}

// WriteOn is like WriteContext but writes only to the connection with the given
// ID. If that connection is over, or another one is current, it fails immediately
// with ErrNotConnected. See Conn of [Message].
func (e *endpoint) WriteOn(ctx context.Context, conn uint64, msgType int, data []byte) error {
	if conn == 0 {
		return fail(ErrNotConnected, nil, "0 is the ID of no connection: use Conn of a message")
	}
	if err := checkContext(ctx); err != nil {
		return err
	}
	return e.send(ctx, conn, msgType, data, false)
}

// Queue is like Write but only buffers the message. The buffer is written by
// Flush, Write or Close, or by Queue itself, which may then block, once it holds
// 64 KiB. Queue does not retain data. Messages that are lost with a connection are
// reported by the next call that sends; see [Client.Write].
func (e *endpoint) Queue(msgType int, data []byte) error {
	return e.send(context.Background(), 0, msgType, data, true)
}

// Flush writes what Queue has buffered. A nil error means that the kernel has
// accepted everything that was queued before the call. Errors are those of Write.
func (e *endpoint) Flush() error {
	c, err := e.writable(context.Background(), 0)
	if err == nil {
		err = c.sender.flush(context.Background(), true)
	}
	return e.noteFailure(c, err)
}

// WaitConnected returns nil as soon as this endpoint is connected. Its error is
// that of ctx, or the endpoint's final one.
func (e *endpoint) WaitConnected(ctx context.Context) error {
	if e.hooks.multi {
		return ErrMultiClient
	}
	if err := checkContext(ctx); err != nil {
		return err
	}
	for {
		e.mu.Lock()
		c, err, status, changed := e.current.Load(), e.life.err, e.life.status, e.life.changed.wait()
		e.mu.Unlock()
		if err != nil {
			return err
		}
		if c != nil && !c.failing() && !c.sender.isBroken() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return contextError("wait for a connection, the status is "+status.String(), ctx)
		}
	}
}

// checkContext returns ErrConfig for a nil context.
func checkContext(ctx context.Context) error {
	if ctx == nil {
		return fail(ErrConfig, nil, "the context is nil: use context.Background")
	}
	return nil
}

// cancellable returns ctx, or nil if it is never done.
func cancellable(ctx context.Context) context.Context {
	if ctx.Done() == nil {
		return nil
	}
	return ctx
}

// send sends a message on the connection with the given ID; 0 is any.
func (e *endpoint) send(ctx context.Context, conn uint64, msgType int, data []byte, hold bool) error {
	if err := checkMessageType(msgType); err != nil {
		return err
	}
	c, err := e.writable(ctx, conn)
	if err == nil {
		err = c.sender.write(ctx, uint32(msgType), data, hold)
	}
	if err == nil {
		return nil
	}
	return e.noteFailure(c, err)
}

// noteFailure notes that a call has reported the loss of a connection. The call
// used c, unless there was none.
func (e *endpoint) noteFailure(c *connection, err error) error {
	if err != nil && isDeliveryError(err) && (c == nil || c.sender.isBroken()) {
		e.mu.Lock()
		e.ledger.callFailed()
		e.mu.Unlock()
	}
	return err
}

// writable returns the connection to write to, and waits for the first one unless
// an ID is given.
func (e *endpoint) writable(ctx context.Context, conn uint64) (*connection, error) {
	if e.hooks.multi {
		return nil, ErrMultiClient
	}
	if ctx.Err() != nil {
		return nil, contextError("write", ctx)
	}
	for {
		if c := e.current.Load(); c != nil && (conn == 0 || conn == c.id) && !e.ledger.pending.Load() {
			return c, nil
		}
		changed, status, err := e.notWritable(conn)
		if err != nil {
			return nil, err
		}
		if changed == nil {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, contextError("write: no peer has connected yet, the status is "+status.String(), ctx)
		}
	}
}

// notWritable returns why there is nothing to write to, or what to wait for. It
// returns nil for both if there is a connection now.
func (e *endpoint) notWritable(conn uint64) (changed <-chan struct{}, status Status, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	status = e.life.status
	switch c := e.current.Load(); {
	case e.ledger.pending.Load():
		return nil, status, e.ledger.reportQueued(e.life.err)
	case e.life.err != nil:
		return nil, status, e.life.err
	case e.leaving.Load():
		return nil, status, ErrClosed
	case c != nil && (conn == 0 || conn == c.id): // since a moment
		return nil, status, nil
	case conn != 0:
		return nil, status, fail(ErrNotConnected, nil, "connection %d is over", conn)
	case c == nil && status != Listening && status != Connecting:
		return nil, status, fail(ErrNotConnected, e.life.dialErr, "the status is %s: WaitConnected waits for the next connection", status)
	}
	return e.life.changed.wait(), status, nil
}

// read fills m with the next message.
func (e *endpoint) read(call *readCall, m *Message) error {
	if e.hooks.multi {
		return ErrMultiClient
	}
	if call.ctx != nil && call.ctx.Err() != nil {
		return contextError("read", call.ctx)
	}
	e.mu.Lock()
	err := e.readLocked(call, m) // a defer here would cost as much as the lock
	e.mu.Unlock()
	return err
}

// readLocked releases mu while it reads the transport, and while it waits.
func (e *endpoint) readLocked(call *readCall, m *Message) error {
	for {
		if e.popLocked(call, m) {
			return nil
		}
		if e.life.err != nil {
			return e.life.err
		}
		switch e.role.state {
		case free:
			if done, err := e.readBufferedLocked(call, m); done {
				return err
			}
			if e.role.state != free {
				continue // the connection is over
			}
			e.role.take()
		case stopped: // a message is too large for the queue, which is empty
			e.current.Load().beat.touch()
			e.role.take()
		default:
			if call.poll && e.role.state != background {
				return ErrTimeout
			}
			if done, err := e.waitLocked(call, m); done {
				return err
			}
			if e.role.state != reading || !call.granted {
				continue
			}
			call.granted = false
			if e.popLocked(call, m) {
				e.releaseLocked()
				return nil
			}
		}
		c := e.current.Load()
		e.mu.Unlock()
		err := c.receive(call, m)
		e.mu.Lock()
		if done, err := e.receivedLocked(c, call, m, err); done {
			return err
		}
	}
}

// readBufferedLocked decodes a message that has arrived, without taking the role:
// it takes less than a change of the role does.
func (e *endpoint) readBufferedLocked(call *readCall, m *Message) (done bool, err error) {
	c := e.current.Load()
	if n := c.decoder.buffered(); n == 0 || n > 2*readSize {
		return false, nil
	}
	switch err := c.decode(call, m); err {
	case nil:
		e.role.reads++
		e.countLocked(m)
		e.role.setFree()
		return true, nil
	case errNeedBytes:
		return false, nil
	default:
		e.loseLocked(c, err)
		return false, nil
	}
}

// receivedLocked ends the lead of a caller: it releases the role, unless the
// connection is over. done is false if the call has to look again.
func (e *endpoint) receivedLocked(c *connection, call *readCall, m *Message, err error) (done bool, result error) {
	if call.unwatch != nil {
		call.unwatch()
		call.unwatch = nil
	}
	e.role.reads++
	if err == nil {
		e.countLocked(m)
		e.releaseLocked()
		return true, nil
	}
	if stop, ok := err.(*interruption); ok {
		e.releaseLocked()
		return stop.err != nil, stop.err
	}
	e.loseLocked(c, err)
	return false, nil
}

func (e *endpoint) countLocked(m *Message) {
	e.totals.Received++
	e.totals.ReceivedBytes += uint64(len(m.Data))
}

// popLocked takes the oldest message of the queue.
func (e *endpoint) popLocked(call *readCall, m *Message) bool {
	queued := e.queue.pop()
	if queued == nil {
		return false
	}
	if e.life.err != nil {
		e.spentLocked()
	}
	e.handLocked(call, m, queued)
	if e.role.state == stopped && (!e.role.always || e.queue.bytes <= queueSize/2) {
		e.current.Load().beat.touch() // until now nobody listened
		e.releaseLocked()
	}
	return true
}

// handLocked gives a queued message to a reader.
func (e *endpoint) handLocked(call *readCall, m, queued *Message) {
	if queued.internal() && !call.noStatus {
		e.ledger.taken(queued)
	}
	data := queued.Data
	if call.to.reuse && cap(m.Data) >= len(data) {
		data = append(m.Data[:0], data...)
	}
	*m = *queued
	m.Data = data
}

// spentLocked has the pool know that there will be nothing to read any more.
func (e *endpoint) spentLocked() {
	if e.hooks.spent != nil && e.life.err != nil && len(e.queue.messages) == 0 {
		e.hooks.spent()
	}
}

// pushLocked hands a message to the first waiting reader, or queues it.
func (e *endpoint) pushLocked(m *Message) {
	if e.role.giveMessage(m) {
		return
	}
	e.totals.Dropped += e.queue.push(m)
	if e.hooks.readable != nil {
		e.hooks.readable()
	}
}

// waitLocked waits for a message or the role, until the call has to end. It
// releases mu meanwhile. done is false if the call was granted the role, or has to
// look again.
func (e *endpoint) waitLocked(call *readCall, m *Message) (done bool, err error) {
	w := e.role.wait()
	why := e.sleepLocked(call, w)
	if e.role.leave(w) {
		if !call.poll || e.role.state != background {
			return why != nil, why
		}
		// It has no time, and nobody has looked at the transport for it: the
		// background reader makes way.
		e.role.waiters = append([]*readWaiter{w}, e.role.waiters...)
		c := e.current.Load()
		c.preempt.Store(true)
		c.interrupt()
		e.mu.Unlock()
		<-w.wake
		e.mu.Lock()
		why = nil
	}
	switch {
	case w.message != nil:
		e.handLocked(call, m, w.message)
		return true, nil
	case w.granted && why != nil: // the grant has met a caller that leaves
		e.releaseLocked()
		return true, why
	case w.granted:
		call.granted = true
		return false, nil
	}
	return why != nil, why
}

// sleepLocked waits until w is woken or the call has to end, and returns why it
// has to. It releases mu meanwhile.
func (e *endpoint) sleepLocked(call *readCall, w *readWaiter) (why error) {
	if call.poll {
		return nil
	}
	e.mu.Unlock()
	defer e.mu.Lock()
	var ended <-chan struct{}
	if call.ctx != nil {
		ended = call.ctx.Done()
	}
	var passed <-chan time.Time
	if !call.until.IsZero() {
		timer := time.NewTimer(max(time.Until(call.until), 1)) // none that is due: TestTimersInBubbles
		defer timer.Stop()
		passed = timer.C
	}
	select {
	case <-w.wake:
		return nil
	case <-ended:
		return contextError("read", call.ctx)
	case <-passed:
		call.poll = true
		return ErrTimeout
	}
}

// releaseLocked gives the role up.
func (e *endpoint) releaseLocked() {
	c := e.current.Load()
	e.role.release(e.leaving.Load(), c != nil && c.loss.Load() != nil)
}

// onPause has the background reader read if nobody has for a while.
func (e *endpoint) onPause() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.role.onPause(e.leaving.Load())
}

// attach makes c the connection of this endpoint and gives its role to whoever is
// first. It returns false if this endpoint takes none any more.
func (e *endpoint) attach(c *connection) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.leaving.Load() || e.current.Load() != nil || !e.announceLocked(&Message{Conn: c.id}, Connected) {
		return false
	}
	if e.latest != nil {
		e.totals.Reconnects++
		e.totals.add(e.latest.stats())
	}
	e.latest = c
	e.life.dialErr = nil
	e.ledger.begin(&c.delivery)
	e.current.Store(c)
	if c.beat.interval > 0 {
		c.beat.checkAfter(c.beat.interval, func() { e.checkHeartbeat(c) })
	}
	e.role.take()
	e.releaseLocked()
	if e.role.state == free && e.role.reads == 0 && !e.role.untilRead {
		e.role.startBackground()
	}
	e.settings.log.info("connected", "name", e.settings.name, "id", c.id, "peer", loggedPeer(c.peer), "encrypted", c.decoder.cipher != nil)
	return true
}

// announceLocked changes the status, and has readers see that in the stream, as
// message m. It returns false if the status cannot change so.
func (e *endpoint) announceLocked(m *Message, s Status) bool {
	if !e.life.become(s) {
		return false
	}
	m.MsgType, m.Status = internalType, s.String()
	e.pushLocked(m)
	return true
}

// finishLocked makes err the result of every read from here on, behind what the
// queue holds.
func (e *endpoint) finishLocked(err error) {
	if !e.life.finish(err) {
		return
	}
	e.role.dismiss()
	if e.hooks.finished != nil {
		e.hooks.readable()
		e.hooks.finished()
	}
	e.spentLocked()
}
