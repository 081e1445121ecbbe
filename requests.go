// Requests: the calls that wait for a reply, and replies.

package gipc

import (
	"context"
	"errors"
	"time"
)

const (
	callPatience = 10 * time.Second       // with unread messages before the reply
	replyPause   = 100 * time.Millisecond // before a reply looks whether it is stuck
	replyAdvice  = "64 KiB of messages are unread, and the peer does not read either: reply from another goroutine than the one that reads"
	unreadAdvice = "64 KiB of unread messages stand before the reply: read them, or call from another goroutine"
)

// Call sends a request and returns the reply. The peer's reader gets the request as a
// message for which IsRequest is true, and answers it by Reply. Any number of calls
// may be open at once, in both directions. Call is safe for concurrent use, also while
// a handler or a loop over messages runs. It does not retain data; the caller owns the
// reply.
//
// While nobody else reads, the goroutine of Call reads for its reply; what comes before
// it is queued for readers. If they leave 64 KiB unread, the reply cannot be reached:
// Call then waits until somebody reads, until ctx is done, or for 10 seconds. Call
// waits for the first connection as Write does. Errors:
//   - ErrReservedType, ErrTooLarge, ErrMultiClient, or the context's error alone:
//     nothing was sent.
//   - ErrNotConnected and ErrClosed alone: nothing was sent, as for Write.
//   - ErrUnconfirmed: the request may have been handled, and no reply will come. It
//     wraps the context's error, the cause of the loss, or ErrClosed after Close.
func (e *endpoint) Call(ctx context.Context, msgType int, data []byte) (*Message, error) {
	if err := checkMessageType(msgType); err != nil {
		return nil, err
	}
	if err := checkContext(ctx); err != nil {
		return nil, err
	}
	c, err := e.writable(ctx, 0)
	if err != nil {
		return nil, err
	}
	var reply *Message
	w := getReplyWait(e.buffers)
	sending := e.beginSending(ctx, c, &w.call)
	err = sending.result(c.sender.writeRequest(sending, msgType, data, &w.call))
	w.begun = sending.begun
	sending.end()
	if err == nil {
		reply, err = e.awaitReply(ctx, c, w)
	}
	// The call may have ended while it was given up.
	if late, ended, why := c.sender.callTable.abandonCall(&w.call); ended && (late != nil || errors.Is(why, ErrNotConnected)) {
		reply, err = late, why
	}
	putReplyWait(e.buffers, w)
	return reply, e.noteFailure(c, err)
}

// A sendContext is the context of a call while its request is being sent, and that of a
// reply. Beside the caller's it ends when no reply can come any more, and when reading
// has been stopped for too long. What it takes is made when somebody waits.
type sendContext struct {
	context.Context // the caller's; then one that is made of it
	e               *endpoint
	conn            *connection
	call            *openCall               // nil for a reply
	caller          context.Context         // nil until a context is made, like what follows
	cancel          context.CancelCauseFunc // of the context that was made
	begun           time.Time
}

// beginSending returns the context for sending a request or, without a call, a reply.
func (e *endpoint) beginSending(ctx context.Context, c *connection, call *openCall) *sendContext {
	s, _ := e.buffers.sendContexts.Get().(*sendContext)
	if s == nil {
		s = new(sendContext)
	}
	s.Context, s.e, s.conn, s.call = ctx, e, c, call
	return s
}

// end releases the context. Nothing is being sent with it any more.
func (s *sendContext) end() {
	if s.caller != nil { // others may still hold it
		s.cancel(nil)
		return
	}
	pool := s.e.buffers
	*s = sendContext{}
	pool.sendContexts.Put(s)
}

// errUnread is the cause of a sendContext that has ended since nobody reads.
var errUnread = errors.New(unreadAdvice)

func (s *sendContext) Done() <-chan struct{} {
	if s.caller == nil {
		made, cancel := context.WithCancelCause(s.Context)
		s.caller, s.Context, s.cancel, s.begun = s.Context, made, cancel, time.Now()
		if s.call == nil {
			s.limitReply()
		} else {
			s.conn.sender.callTable.cancelOnEnd(s.call, cancel)
			s.limitRequest()
		}
	}
	return s.Context.Done()
}

// limitReply ends s when writing has been blocked for too long and nobody reads: the
// peer may wait for the same. A reply behind one that has waited so long does not wait
// as long again.
func (s *sendContext) limitReply() {
	s.limitBy(replyPause, func() time.Duration {
		left := callPatience
		if since := s.conn.sender.blockedSince(); !since.IsZero() {
			left = time.Until(since.Add(callPatience))
		}
		if left > 0 || s.e.readRole.state != roleStopped {
			left = max(left, replyPause)
		}
		return left
	})
}

// limitRequest ends s when reading has been stopped for too long since it was made.
func (s *sendContext) limitRequest() {
	begun := s.begun
	s.limitBy(callPatience, func() time.Duration {
		if s.e.readRole.state != roleStopped {
			return callPatience
		}
		return time.Until(s.e.readRole.stoppedSince(begun).Add(callPatience))
	})
}

// limitBy asks after a first time, and then again and again, how much time is left, and
// ends s when that is none. left is called with the endpoint's lock held.
func (s *sendContext) limitBy(first time.Duration, left func() time.Duration) {
	e, ctx, cancel := s.e, s.Context, s.cancel
	var timer *time.Timer
	e.mu.Lock()
	defer e.mu.Unlock()
	timer = time.AfterFunc(first, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if ctx.Err() != nil {
			return
		}
		if d := left(); d > 0 {
			timer.Reset(d)
		} else {
			cancel(errUnread)
		}
	})
	context.AfterFunc(ctx, func() { timer.Stop() })
}

// result returns what an error of sending means: the library's own reasons are no end
// of the caller's context.
func (s *sendContext) result(err error) error {
	if s.caller == nil || s.caller.Err() != nil || s.Context.Err() == nil || !errors.Is(err, context.Canceled) {
		return err
	}
	kind, cause := ErrNotConnected, context.Cause(s.Context)
	if errors.Is(err, ErrUnconfirmed) {
		kind = ErrUnconfirmed
	}
	if s.call == nil {
		return fail(kind, ErrTimeout, "%s", replyAdvice)
	}
	switch _, ended, why := s.conn.sender.callTable.callResult(s.call); {
	case cause == errUnread:
		return fail(kind, ErrTimeout, "%s", unreadAdvice)
	case ended && kind == ErrUnconfirmed:
		return why
	}
	return fail(kind, nil, "the connection is over")
}

// A replyWait is a call that waits for its reply.
type replyWait struct {
	call    openCall
	turn    readWaiter // in the line of the read role
	granted bool       // it holds the read role
	begun   time.Time  // when it first waited while its request was being sent; zero: never
	stop    uint64     // of the role, since when it has waited
	since   time.Time  // of that stop
	late    bool       // it has waited too long
}

// getReplyWait returns a call that waits for nothing yet.
func getReplyWait(p *bufferPool) *replyWait {
	if w, _ := p.replyWaits.Get().(*replyWait); w != nil {
		return w
	}
	return &replyWait{call: openCall{doneSignal: make(chan struct{}, 1)}, turn: readWaiter{wakeSignal: make(chan struct{}, 1)}}
}

// putReplyWait takes a call back that has ended or was given up.
func putReplyWait(p *bufferPool, w *replyWait) {
	select {
	case <-w.call.doneSignal:
	default:
	}
	*w = replyWait{call: openCall{doneSignal: w.call.doneSignal}, turn: readWaiter{wakeSignal: w.turn.wakeSignal}}
	p.replyWaits.Put(w)
}

// awaitReply waits for the reply of a call, and reads for it if nobody else does.
func (e *endpoint) awaitReply(ctx context.Context, c *connection, w *replyWait) (*Message, error) {
	read := readCall{ctx: cancelable(ctx), awaitedReply: &w.call}
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		reply, done, err := e.replyTurnLocked(ctx, c, w)
		switch {
		case done:
			return reply, err
		case w.granted:
			w.granted = false
			e.leadLocked(c, &read)
		default:
			e.waitForReplyLocked(ctx, w)
		}
	}
}

// replyTurnLocked ends a call that has a reply or waits no longer. Otherwise the call
// has the role afterwards if it may read.
func (e *endpoint) replyTurnLocked(ctx context.Context, c *connection, w *replyWait) (reply *Message, done bool, err error) {
	reply, done, err = c.sender.callTable.callResult(&w.call)
	if !done {
		err = e.whyGivenUp(ctx, c, w)
		done = err != nil
	}
	switch {
	case done && w.granted:
		w.granted = false
		e.releaseRoleLocked()
	case done || w.granted:
	case e.readRole.state == roleFree || e.readRole.state == roleStopped && e.queueRoomLocked() == unlimited:
		e.readRole.acquire()
		w.granted = true
	}
	return reply, done, err
}

// whyGivenUp returns why a call waits no longer, or nil. A request that was not sent
// yet is taken back.
func (e *endpoint) whyGivenUp(ctx context.Context, c *connection, w *replyWait) error {
	if ctx.Err() == nil && !w.late {
		return nil
	}
	unsent := c.sender.withdrawRequest(&w.call)
	advice := "the reply has not come"
	if e.readRole.state == roleStopped {
		advice = unreadAdvice
	}
	switch {
	case ctx.Err() == nil && unsent:
		return fail(ErrNotConnected, ErrTimeout, "%s", unreadAdvice)
	case ctx.Err() == nil:
		return fail(ErrUnconfirmed, ErrTimeout, "%s", advice)
	case unsent:
		return contextError("call", ctx)
	}
	return fail(ErrUnconfirmed, contextError("call", ctx), "%s", advice)
}

// leadLocked reads for a call that holds the role, until its reply has come, or once
// into the queue. It releases mu meanwhile.
func (e *endpoint) leadLocked(c *connection, read *readCall) {
	read.destination = destination{maxSize: e.queueRoomLocked()}
	e.mu.Unlock()
	var m Message // on the stack: mostly the reply comes
	err := c.receive(read, &m)
	read.endWatching()
	e.mu.Lock()
	e.ledLocked(c, read, &m, err)
}

// ledLocked gives the role up with the result of one receive.
func (e *endpoint) ledLocked(c *connection, read *readCall, m *Message, err error) {
	e.readRole.readCount++
	switch _, interrupted := err.(*interruption); {
	case err == nil:
		queued := *m
		e.countReceivedLocked(&queued)
		e.deliverOrQueueLocked(&queued)
		e.releaseRoleLocked()
	case err == errReplied, interrupted:
		e.releaseRoleLocked()
	case err == errNeedRoom && e.queueRoomLocked() > read.destination.maxSize: // the pool has read meanwhile
		e.releaseRoleLocked()
	case err == errNeedRoom:
		e.stopReadingLocked(c)
	default:
		e.disconnectLocked(c, err)
	}
}

// waitForReplyLocked waits until the call has ended, until it gets the role, or until
// the reasons to wait have changed. It releases mu meanwhile.
func (e *endpoint) waitForReplyLocked(ctx context.Context, w *replyWait) {
	var late <-chan time.Time
	if e.readRole.state == roleStopped {
		if w.stop != e.readRole.stopCount {
			w.stop, w.since = e.readRole.stopCount, time.Now()
			if !w.begun.IsZero() {
				w.since = e.readRole.stoppedSince(w.begun)
			}
		}
		timer := time.NewTimer(max(time.Until(w.since.Add(callPatience)), 1))
		defer timer.Stop()
		late = timer.C
	}
	e.readRole.addReplyWaiter(&w.turn)
	e.mu.Unlock()
	timedOut := false
	select {
	case <-w.turn.wakeSignal:
	case <-w.call.doneSignal:
	case <-ctx.Done():
	case <-late:
		timedOut = true
	}
	e.mu.Lock()
	w.granted = e.readRole.removeReplyWaiter(&w.turn)
	w.late = timedOut && e.readRole.state == roleStopped && e.readRole.stopCount == w.stop
}

// sendReply sends the reply to a request that came on the given connection.
func (e *endpoint) sendReply(conn, number uint64, msgType int, data []byte) error {
	c, err := e.writable(context.Background(), conn)
	if err != nil {
		return err
	}
	header := frameHeader{frameType: uint32(msgType) | requestFlag, id: number | replyFlag}
	sending := e.beginSending(context.Background(), c, nil)
	err = sending.result(c.sender.writeFrame(sending, header, data, false))
	sending.end()
	return e.noteFailure(c, err)
}
