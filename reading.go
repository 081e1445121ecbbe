// The methods that read, and how concurrent calls share the read role.

package gipc

import (
	"context"
	"errors"
	"iter"
	"time"
)

// Read returns the next message. It blocks until one arrives. Messages of the peer
// are returned in the order in which they were written. A message with MsgType -1
// reports a status change, such as the loss of the connection, at its place among
// them. The caller owns Data.
//
// Read is safe for concurrent use; each message is returned to one reader. An error
// is final, and every later call returns it again: ErrClosed, a Client's ErrTimeout,
// or ErrMultiClient on a multi-client server.
func (e *endpoint) Read() (*Message, error) {
	call := readCall{destination: destination{maxSize: unlimited}}
	m := new(Message)
	if err := e.read(&call, m); err != nil {
		return nil, err
	}
	return m, nil
}

// ReadTimed is like Read but returns TimeoutMessage and a nil error if no message
// arrives within d. If d is 0 or less it does not wait, and returns a message only if
// one has arrived. A timeout loses nothing: a partially received message is returned
// by a later read.
func (e *endpoint) ReadTimed(d time.Duration) (*Message, error) {
	call := readCall{noWait: d <= 0, destination: destination{maxSize: unlimited}}
	if d > 0 {
		call.deadline = time.Now().Add(d)
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
// ctx is done. The connection stays usable and no message is lost: a partially
// received message is returned by a later read.
func (e *endpoint) ReadContext(ctx context.Context) (*Message, error) {
	if err := checkContext(ctx); err != nil {
		return nil, err
	}
	m := new(Message)
	call := readCall{ctx: cancelable(ctx), destination: destination{maxSize: unlimited}}
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
// Concurrent calls must use different messages. After an error the bytes of m.Data
// are unspecified, and the caller owns them. If m is nil ReadInto returns ErrConfig.
func (e *endpoint) ReadInto(ctx context.Context, m *Message) error {
	if m == nil {
		return newError(ErrConfig, nil, "ReadInto: the message is nil: pass a *Message, such as new(gipc.Message)")
	}
	if err := checkContext(ctx); err != nil {
		return err
	}
	call := readCall{ctx: cancelable(ctx), destination: destination{reuse: true, maxSize: unlimited}}
	return e.read(&call, m)
}

// Messages returns the peer's messages as they arrive, without status messages.
// Each step is a ReadContext: concurrent reads share the messages, and breaking out
// of the loop loses none. Messages does not report connection loss; use ReadContext
// when waiting for a reply. The sequence ends on ErrClosed. It yields any other error
// once, with a nil message, and ends.
func (e *endpoint) Messages(ctx context.Context) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		if err := checkContext(ctx); err != nil {
			yield(nil, err)
			return
		}
		for {
			m := new(Message)
			err := e.read(&readCall{ctx: cancelable(ctx), skipStatus: true, destination: destination{maxSize: unlimited}}, m)
			switch {
			case err != nil:
				if !errors.Is(err, ErrClosed) {
					yield(nil, err)
				}
				return
			case !m.isStatus() && !yield(m, nil):
				return
			}
		}
	}
}

// read sets m to the next message.
func (e *endpoint) read(call *readCall, m *Message) error {
	if e.hooks.multiClient {
		return ErrMultiClient
	}
	if call.ctx != nil && call.ctx.Err() != nil {
		return contextError("read", call.ctx)
	}
	e.mu.Lock()
	err := e.readNext(call, m) // the unlock is not deferred: that would cost as much as the lock
	e.mu.Unlock()
	return err
}

// readNext sets m to the next message. The caller holds mu, which is released while
// the transport is read, and while the call waits.
func (e *endpoint) readNext(call *readCall, m *Message) error {
	for {
		if e.popQueuedLocked(call, m) {
			return nil
		}
		if e.lifecycle.finalErr != nil {
			return e.lifecycle.finalErr
		}
		switch e.readRole.state {
		case roleFree:
			if done, err := e.readBufferedLocked(call, m); done {
				return err
			}
			if e.readRole.state != roleFree {
				continue // the connection is over
			}
			e.readRole.acquire()
		case roleStopped: // the queue is empty, so the next message is too large for it
			e.currentConn.Load().heartbeat.noteActivity()
			e.readRole.acquire()
		default:
			if call.noWait && e.readRole.state != roleBackground {
				return ErrTimeout
			}
			if done, err := e.awaitMessageOrRole(call, m); done {
				return err
			}
			if e.readRole.state != roleReading || !call.holdsRole {
				continue
			}
			call.holdsRole = false
			if e.popQueuedLocked(call, m) {
				e.releaseRoleLocked()
				return nil
			}
		}
		c := e.currentConn.Load()
		e.mu.Unlock()
		err := c.receive(call, m)
		e.mu.Lock()
		if done, err := e.finishReadLocked(c, call, m, err); done {
			return err
		}
	}
}

// readBufferedLocked is the fast path: if the next message is in the receive buffer
// already, it is decoded under mu, which takes less time than a change of the role.
func (e *endpoint) readBufferedLocked(call *readCall, m *Message) (done bool, err error) {
	c := e.currentConn.Load()
	if n := c.decoder.bufferedBytes(); n == 0 || n > 2*readSize {
		return false, nil
	}
	switch err := c.decodeMessage(call, m); err {
	case nil:
		e.readRole.readCount++
		e.countReceivedLocked(m)
		e.readRole.setFree()
		return true, nil
	case errNeedBytes:
		return false, nil
	default:
		e.disconnectLocked(c, err)
		return false, nil
	}
}

// finishReadLocked releases the role after a caller's read, or disconnects if the
// connection is over. done is false if the call has to continue.
func (e *endpoint) finishReadLocked(c *connection, call *readCall, m *Message, err error) (done bool, result error) {
	call.endWatching()
	e.readRole.readCount++
	if err == nil {
		e.countReceivedLocked(m)
		e.releaseRoleLocked()
		return true, nil
	}
	if stop, ok := err.(*interruption); ok {
		e.releaseRoleLocked()
		return stop.err != nil, stop.err
	}
	e.disconnectLocked(c, err)
	return false, nil
}

// awaitMessageOrRole waits for a message or the role, until the call has to end.
// done is false if the call was granted the role, or has to continue. The caller
// holds mu, which is released meanwhile.
func (e *endpoint) awaitMessageOrRole(call *readCall, m *Message) (done bool, err error) {
	w := e.readRole.addWaiter()
	why := e.awaitWake(call, w)
	if e.readRole.removeWaiter(w) {
		if !call.noWait || e.readRole.state != roleBackground {
			return why != nil, why
		}
		// The deadline has expired, but the transport was never tried for this call.
		// Preempt the background reader, which has no deadline of its own.
		w.noWait = true
		e.readRole.waiters = append([]*readWaiter{w}, e.readRole.waiters...)
		c := e.currentConn.Load()
		c.preemptRequested.Store(true)
		c.interrupt()
		e.mu.Unlock()
		<-w.wakeSignal
		e.mu.Lock()
		why = nil
	}
	switch {
	case w.message != nil:
		e.copyToReaderLocked(call, m, w.message)
		return true, nil
	case w.granted && why != nil: // the role was granted while the call was ending
		e.releaseRoleLocked()
		return true, why
	case w.granted:
		call.holdsRole = true
		return false, nil
	}
	return why != nil, why
}

// awaitWake waits until w is woken or the call has to end, and returns the reason of
// the latter. The caller holds mu, which is released meanwhile.
func (e *endpoint) awaitWake(call *readCall, w *readWaiter) (why error) {
	if call.noWait {
		return nil
	}
	e.mu.Unlock()
	defer e.mu.Lock()
	var ended <-chan struct{}
	if call.ctx != nil {
		ended = call.ctx.Done()
	}
	var passed <-chan time.Time
	if !call.deadline.IsZero() {
		timer := time.NewTimer(max(time.Until(call.deadline), 1)) // at least 1 ns, since timers that are already due race in synctest bubbles: see TestTimersInBubbles
		defer timer.Stop()
		passed = timer.C
	}
	select {
	case <-w.wakeSignal:
		return nil
	case <-ended:
		return contextError("read", call.ctx)
	case <-passed:
		call.noWait = true
		return ErrTimeout
	}
}
