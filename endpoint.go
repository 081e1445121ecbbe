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
	settings *settings
	pool     *bufferPool
	hooks    *endpointHooks
	leaving  atomic.Bool                // Close has begun
	current  atomic.Pointer[connection] // what Write uses
	tasks    sync.WaitGroup             // its goroutines

	mu      sync.Mutex // guards what follows; nobody waits while holding it
	life    *lifecycle
	role    *readRole
	queue   *messageQueue
	ledger  *deliveryLedger
	latest  *connection   // the current one, or the one before
	totals  Stats         // except what the current connection counts
	parting []*connection // closed by their peers, and not over yet
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
	consumed func()            // finished, and what is unread has changed; likewise
	over     func()            // the connection of a client is over; likewise
	holdBack func() bool       // background readers are to stop; nil without a pool
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
	return e.life.finalErrSet.waitChannel()
}

// Err returns nil until Done is closed. Then it returns ErrTimeout, wrapping the
// last dial error, if the Client's Timeout expired, and ErrClosed otherwise,
// wrapping the cause unless this side called Close.
func (e *endpoint) Err() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.life.finalErr
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
		c, err, status, changed := e.current.Load(), e.life.finalErr, e.life.status, e.life.statusChanged.waitChannel()
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
			return fail(contextError("wait for a connection, the status is "+status.String(), ctx), e.lastDialError(), "")
		}
	}
}

// lastDialError returns why the last attempt to connect has failed, or nil.
func (e *endpoint) lastDialError() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.life.dialErr
}

// Security returns what protects the connection, or has protected the last one. Before
// the first one it is zero, and so it is for a multi-client server itself.
func (e *endpoint) Security() Security {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.latest == nil {
		return Security{}
	}
	return e.latest.security
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

func (e *endpoint) countLocked(m *Message) {
	if m.IsRequest() {
		e.totals.Requests++
	}
	e.totals.Received++
	e.totals.ReceivedBytes += uint64(len(m.Data))
}

// popLocked takes the oldest message of the queue.
func (e *endpoint) popLocked(call *readCall, m *Message) bool {
	queued := e.queue.pop()
	if queued == nil {
		return false
	}
	e.consumedLocked()
	e.handLocked(call, m, queued)
	if e.role.state == stopped && (!e.role.always || e.queue.bytes <= queueSize/2 || len(e.role.callers) > 0 && e.roomLocked() == unlimited) {
		e.current.Load().beat.touch() // until now nobody listened
		e.releaseLocked()
	}
	return true
}

// roomLocked returns how large the next message may be that is queued for nobody.
// A blocked write, an open call and the ways to read from all clients may hold a
// larger one.
func (e *endpoint) roomLocked() int {
	c := e.current.Load()
	return e.queue.room(e.role.always || c != nil && (c.sender.blocked.Load() || c.sender.calls.any()))
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

// consumedLocked has the pool know what is left to be read at the end.
func (e *endpoint) consumedLocked() {
	if e.hooks.consumed != nil && e.life.finalErr != nil {
		e.hooks.consumed()
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

// releaseLocked gives the role up.
func (e *endpoint) releaseLocked() {
	c := e.current.Load()
	e.role.release(e.leaving.Load(), c != nil && c.loss.Load() != nil)
}

// announceLocked changes the status, and has readers see that in the stream, as
// message m. It returns false if the status cannot change so.
func (e *endpoint) announceLocked(m *Message, s Status) bool {
	if !e.life.setStatus(s) {
		return false
	}
	m.MsgType, m.Status = internalType, s.String()
	e.pushLocked(m)
	return true
}

// finishLocked makes err the result of every read from here on, behind what the
// queue holds.
func (e *endpoint) finishLocked(err error) {
	if !e.life.setFinalErr(err) {
		return
	}
	e.role.dismiss()
	if e.hooks.finished != nil {
		e.hooks.readable()
		e.hooks.finished()
	}
	e.consumedLocked()
}
