// The endpoint, which outlives its connections: status, unread messages, the read
// role, and the methods that Server and Client share.

package gipc

import (
	"context"
	"sync"
	"sync/atomic"
)

// An endpoint is the part that Server and Client share. It is safe for concurrent
// use.
type endpoint struct {
	settings    *settings
	buffers     *bufferPool
	hooks       *endpointHooks
	pool        poolObserver               // nil without a pool
	closing     atomic.Bool                // Close has been called
	currentConn atomic.Pointer[connection] // used by Write; nil while disconnected
	goroutines  sync.WaitGroup             // those of this endpoint

	mu            sync.Mutex // guards the fields below; never held while waiting
	lifecycle     *lifecycle
	readRole      *readRole
	unreadQueue   *messageQueue
	deliveries    *deliveryLedger
	latestConn    *connection   // the current connection or, while disconnected, the last one
	earlierTotals Stats         // without the counters of latestConn
	drainingConns []*connection // closed by their peers; teardown is still running
}

// endpointHooks holds what differs between a client, a server and the clients of a
// multi-client server. All clients of a server share one value, which never changes. Of
// the others only noReconnect does, under mu.
type endpointHooks struct {
	noReconnect bool              // the endpoint has one connection only
	multiClient bool              // a multi-client server, which has no connection of its own
	reconnect   func(*connection) // makes the next connection, in its own goroutine; nil if the peer dials
	baseCtx     context.Context   // canceled when Close begins; nil for a client of a multi-client server
	cancelBase  func()            // cancels baseCtx
}

// A poolObserver tells a pool what happens to one of its endpoints. Its methods are
// called with the endpoint's mu held, except readsPaused. It is one value, and not a
// function for each event, because a server has thousands of idle clients.
type poolObserver interface {
	noteReadable()      // a message was queued, or the final error was set
	noteFinished()      // the final error was set: there will be no further connection
	noteConsumed()      // the unread messages have changed after noteFinished
	noteConnectionEnd() // the teardown of a client's connection is complete
	readsPaused() bool  // background readers have to stop
}

// Status returns the current status as a string; see [Status]. Status messages,
// which Read returns, report each change at its place in the stream.
func (e *endpoint) Status() string { return e.StatusCode().String() }

// StatusCode returns the current status.
func (e *endpoint) StatusCode() Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.lifecycle.status
}

// Done returns a channel that is closed when this endpoint will never be
// connected again: after Close, after a Client's Timeout, when a Server can no
// longer accept, and, for a client of a multi-client server, when that client has
// disconnected. Err then returns the reason.
func (e *endpoint) Done() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.lifecycle.finalErrSet.waitChannel()
}

// Err returns nil until Done is closed. Then it returns ErrTimeout, wrapping the
// last dial error, if the Client's Timeout expired, and ErrClosed otherwise,
// wrapping the cause unless this side called Close.
func (e *endpoint) Err() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.lifecycle.finalErr
}

// ID returns the number of the current or most recent connection, or 0 before the
// first. Numbers start at 1 and are not reused.
func (e *endpoint) ID() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.latestConn == nil {
		return 0
	}
	return e.latestConn.id
}

// Peer returns the credentials that the kernel reports for the process at the
// other end of the current or most recent connection.
func (e *endpoint) Peer() Peer {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.latestConn == nil {
		return Peer{UID: -1, GID: -1, PID: -1}
	}
	return e.latestConn.peer
}

// Stats returns the totals of this endpoint since its start.
func (e *endpoint) Stats() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.statsLocked()
}

func (e *endpoint) statsLocked() Stats {
	s := e.earlierTotals
	if e.latestConn != nil {
		s.add(e.latestConn.stats())
	}
	return s
}

// WaitConnected returns nil as soon as this endpoint is connected. It returns
// early, with an error wrapping ctx.Err(), if ctx is done, with the error of Err
// once Done is closed, and with ErrMultiClient on a multi-client server.
func (e *endpoint) WaitConnected(ctx context.Context) error {
	if e.hooks.multiClient {
		return ErrMultiClient
	}
	if err := checkContext(ctx); err != nil {
		return err
	}
	for {
		e.mu.Lock()
		c, err, status, changed := e.currentConn.Load(), e.lifecycle.finalErr, e.lifecycle.status, e.lifecycle.statusChanged.waitChannel()
		e.mu.Unlock()
		if err != nil {
			return err
		}
		if c != nil && !c.isFailing() && !c.sender.isBroken() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return newError(contextError("wait for a connection, the status is "+status.String(), ctx), e.lastDialError(), "")
		}
	}
}

// lastDialError returns the error of the latest failed attempt since the last
// connection, or nil.
func (e *endpoint) lastDialError() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.lifecycle.dialErr
}

// Security returns the protection of the current or most recent connection. It is
// zero before the first connection, and on a multi-client server itself.
func (e *endpoint) Security() Security {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.latestConn == nil {
		return Security{}
	}
	return e.latestConn.security
}

// checkContext returns ErrConfig for a nil context.
func checkContext(ctx context.Context) error {
	if ctx == nil {
		return newError(ErrConfig, nil, "the context is nil: use context.Background")
	}
	return nil
}

// cancelable returns ctx, or nil if ctx can never be done.
func cancelable(ctx context.Context) context.Context {
	if ctx.Done() == nil {
		return nil
	}
	return ctx
}

func (e *endpoint) countReceivedLocked(m *Message) {
	if m.IsRequest() {
		e.earlierTotals.Requests++
	}
	e.earlierTotals.Received++
	e.earlierTotals.ReceivedBytes += uint64(len(m.Data))
}

// popQueuedLocked moves the oldest queued message to m, and reports whether there
// was one. Reading resumes if the full queue had stopped it.
func (e *endpoint) popQueuedLocked(call *readCall, m *Message) bool {
	if e.unreadQueue.isEmpty() {
		return false
	}
	e.takeQueuedLocked(call, m) // a separate function, so that this one is inlined: 2 ns of 40 for each message
	return true
}

func (e *endpoint) takeQueuedLocked(call *readCall, m *Message) {
	queued := e.unreadQueue.pop()
	e.notifyConsumedLocked()
	e.copyToReaderLocked(call, m, queued)
	if e.readRole.state == roleStopped && (!e.readRole.fanIn || e.unreadQueue.queuedBytes <= queueSize/2 || len(e.readRole.replyWaiters) > 0 && e.queueRoomLocked() == unlimited) {
		e.currentConn.Load().heartbeat.noteActivity() // nothing was read until now, so its age proves nothing
		e.releaseRoleLocked()
	}
}

// queueRoomLocked returns the maximum size of the next message that may be queued
// without a waiting reader, in bytes. While a write is blocked, a call is open, or
// the pool reads from all clients, the queue takes one larger message.
func (e *endpoint) queueRoomLocked() int {
	c := e.currentConn.Load()
	return e.unreadQueue.freeBytes(e.readRole.fanIn || c != nil && (c.sender.writeBlocked.Load() || c.sender.callTable.hasOpenCalls()))
}

// copyToReaderLocked copies a queued message to a reader's m.
func (e *endpoint) copyToReaderLocked(call *readCall, m, queued *Message) {
	if queued.isStatus() && !call.skipStatus {
		e.deliveries.noteNoticeRead(queued)
	}
	data := queued.Data
	if call.destination.reuse && cap(m.Data) >= len(data) {
		data = append(m.Data[:0], data...)
	}
	*m = *queued
	m.Data = data
}

// notifyConsumedLocked reports to the pool, after the final error, that the unread
// messages have changed.
func (e *endpoint) notifyConsumedLocked() {
	if e.pool != nil && e.lifecycle.finalErr != nil {
		e.pool.noteConsumed()
	}
}

// deliverOrQueueLocked gives m to the first waiting reader, or queues it.
func (e *endpoint) deliverOrQueueLocked(m *Message) {
	if e.readRole.deliverMessage(m) {
		return
	}
	e.earlierTotals.Dropped += e.unreadQueue.push(m)
	if e.pool != nil {
		e.pool.noteReadable()
	}
}

// releaseRoleLocked passes the read role on; see readRole.release.
func (e *endpoint) releaseRoleLocked() {
	c := e.currentConn.Load()
	e.readRole.release(e.closing.Load(), c != nil && c.pendingLoss.Load() != nil)
}

// announceStatusLocked makes the transition to s and puts status message m into
// the stream. It returns false if the transition is not allowed.
func (e *endpoint) announceStatusLocked(m *Message, s Status) bool {
	if !e.lifecycle.setStatus(s) {
		return false
	}
	m.MsgType, m.Status = statusType, s.String()
	e.deliverOrQueueLocked(m)
	return true
}

// setFinalErrLocked makes err the result of every read once the queue is empty.
func (e *endpoint) setFinalErrLocked(err error) {
	if !e.lifecycle.setFinalErr(err) {
		return
	}
	e.readRole.wakeWaiters()
	if e.pool != nil {
		e.pool.noteReadable()
		e.pool.noteFinished()
	}
	e.notifyConsumedLocked()
}
