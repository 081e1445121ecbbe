// What outlives a connection: an endpoint with its status, its queue and its read
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
	closing     atomic.Bool                // Close has begun
	currentConn atomic.Pointer[connection] // what Write uses
	goroutines  sync.WaitGroup             // its goroutines

	mu            sync.Mutex // guards what follows; nobody waits while holding it
	lifecycle     *lifecycle
	readRole      *readRole
	unreadQueue   *messageQueue
	deliveries    *deliveryLedger
	latestConn    *connection   // the current one, or the one before
	earlierTotals Stats         // except what the current connection counts
	drainingConns []*connection // closed by their peers, and not over yet
}

// endpointHooks is what differs between a client, a server and a client of a
// multi-client server. It does not change after the start, except single.
type endpointHooks struct {
	noReconnect     bool              // it lives for one connection
	multiClient     bool              // a multi-client server, which is no end of any connection
	reconnect       func(*connection) // looks for the next connection; nil if it comes by itself
	baseCtx         context.Context   // is done when Close begins; nil for a client of a multi-client server
	cancelBase      func()            // ends ended
	onReadable      func()            // there is something to read; nil without a pool. Called with the lock held
	onFinished      func()            // there will be no connection any more; likewise
	onConsumed      func()            // finished, and what is unread has changed; likewise
	onConnectionEnd func()            // the connection of a client is over; likewise
	readsPaused     func() bool       // background readers are to stop; nil without a pool
}

// Status returns the current status as a string; see [Status]. The status
// messages that Read returns say when it changed.
func (e *endpoint) Status() string { return e.StatusCode().String() }

// StatusCode returns the current status.
func (e *endpoint) StatusCode() Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.lifecycle.status
}

// Done is closed when this endpoint will never be connected again: after Close,
// after a Client's Timeout, when a Server cannot accept any more, and, for a
// client of a multi-client server, when that client is gone. Err then returns
// why.
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

// Stats returns the totals of this endpoint.
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

// WaitConnected returns nil as soon as this endpoint is connected. Its error is
// that of ctx, or the endpoint's final one.
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
			return fail(contextError("wait for a connection, the status is "+status.String(), ctx), e.lastDialError(), "")
		}
	}
}

// lastDialError returns why the last attempt to connect has failed, or nil.
func (e *endpoint) lastDialError() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.lifecycle.dialErr
}

// Security returns what protects the connection, or has protected the last one. Before
// the first one it is zero, and so it is for a multi-client server itself.
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
		return fail(ErrConfig, nil, "the context is nil: use context.Background")
	}
	return nil
}

// cancelable returns ctx, or nil if it is never done.
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

// popQueuedLocked takes the oldest message of the queue.
func (e *endpoint) popQueuedLocked(call *readCall, m *Message) bool {
	queued := e.unreadQueue.pop()
	if queued == nil {
		return false
	}
	e.notifyConsumedLocked()
	e.copyToReaderLocked(call, m, queued)
	if e.readRole.state == roleStopped && (!e.readRole.fanIn || e.unreadQueue.queuedBytes <= queueSize/2 || len(e.readRole.replyWaiters) > 0 && e.queueRoomLocked() == unlimited) {
		e.currentConn.Load().heartbeat.noteActivity() // until now nobody listened
		e.releaseRoleLocked()
	}
	return true
}

// queueRoomLocked returns how large the next message may be that is queued for nobody.
// A blocked write, an open call and the ways to read from all clients may hold a
// larger one.
func (e *endpoint) queueRoomLocked() int {
	c := e.currentConn.Load()
	return e.unreadQueue.freeBytes(e.readRole.fanIn || c != nil && (c.sender.writeBlocked.Load() || c.sender.callTable.hasOpenCalls()))
}

// copyToReaderLocked gives a queued message to a reader.
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

// notifyConsumedLocked has the pool know what is left to be read at the end.
func (e *endpoint) notifyConsumedLocked() {
	if e.hooks.onConsumed != nil && e.lifecycle.finalErr != nil {
		e.hooks.onConsumed()
	}
}

// deliverOrQueueLocked hands a message to the first waiting reader, or queues it.
func (e *endpoint) deliverOrQueueLocked(m *Message) {
	if e.readRole.deliverMessage(m) {
		return
	}
	e.earlierTotals.Dropped += e.unreadQueue.push(m)
	if e.hooks.onReadable != nil {
		e.hooks.onReadable()
	}
}

// releaseRoleLocked gives the role up.
func (e *endpoint) releaseRoleLocked() {
	c := e.currentConn.Load()
	e.readRole.release(e.closing.Load(), c != nil && c.pendingLoss.Load() != nil)
}

// announceStatusLocked changes the status, and has readers see that in the stream, as
// message m. It returns false if the status cannot change so.
func (e *endpoint) announceStatusLocked(m *Message, s Status) bool {
	if !e.lifecycle.setStatus(s) {
		return false
	}
	m.MsgType, m.Status = statusType, s.String()
	e.deliverOrQueueLocked(m)
	return true
}

// setFinalErrLocked makes err the result of every read from here on, behind what the
// queue holds.
func (e *endpoint) setFinalErrLocked(err error) {
	if !e.lifecycle.setFinalErr(err) {
		return
	}
	e.readRole.wakeWaiters()
	if e.hooks.onFinished != nil {
		e.hooks.onReadable()
		e.hooks.onFinished()
	}
	e.notifyConsumedLocked()
}
