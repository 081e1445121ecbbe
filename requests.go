// The methods that send requests and replies, and the wait for a reply.

package gipc

import (
	"context"
	"errors"
	"time"
)

const (
	stoppedReadTimeout = 10 * time.Second       // how long a call or a reply waits while the queue is full
	replyCheckDelay    = 100 * time.Millisecond // before the first check whether a reply is blocked
	replyAdvice        = "64 KiB of messages are unread, and the peer does not read either: reply from another goroutine than the one that reads"
	unreadAdvice       = "64 KiB of unread messages precede the reply: read them, or call from another goroutine"
)

// Call sends a request and returns the reply. The peer's reader receives the request
// as a message for which IsRequest returns true, and answers it by Reply. Any number of
// calls may be open at the same time, in both directions. Call is safe for concurrent
// use, even while a handler or a loop over messages runs. It does not retain data; the
// caller owns the reply.
//
// While nobody else reads, Call reads until its reply arrives, and queues earlier
// messages for readers. If 64 KiB of them are unread, the reply cannot be received:
// Call then waits until they are read, until ctx is done, or for 10 seconds. Call
// blocks until the first connection, as Write does. Errors:
//   - ErrReservedType, ErrTooLarge, ErrMultiClient, or the context's error alone:
//     nothing was sent.
//   - ErrNotConnected or ErrClosed alone: nothing was sent, as for Write.
//   - ErrUnconfirmed: the request may have been handled, and no reply will arrive. It
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
	sending := e.newSendContext(ctx, c, &w.call)
	err = sending.callResult(c.sender.writeRequest(sending, msgType, data, &w.call))
	w.sendWaitStart = sending.waitStart
	sending.release()
	if err == nil {
		reply, err = e.awaitReply(ctx, c, w)
	}
	// The reply may have arrived while the call was ending.
	if late, ended, why := c.sender.callTable.abandonCall(&w.call); ended && (late != nil || errors.Is(why, ErrNotConnected)) {
		reply, err = late, why
	}
	putReplyWait(e.buffers, w)
	return reply, e.noteFailure(c, err)
}

// A sendContext is the context for sending a request or a reply. It is done when the
// caller's context is, when no reply can arrive any more, and when reading has been
// stopped for too long. Its parts are allocated by the first call of Done.
type sendContext struct {
	context.Context // the caller's; after the first call of Done, derived from it
	endpoint        *endpoint
	conn            *connection
	call            *openCall               // nil for a reply
	callerCtx       context.Context         // nil, like the next fields, before the first call of Done
	cancel          context.CancelCauseFunc // of the derived context
	waitStart       time.Time
}

// newSendContext returns the context for sending a request or, without a call, a reply.
func (e *endpoint) newSendContext(ctx context.Context, c *connection, call *openCall) *sendContext {
	s, _ := e.buffers.sendContexts.Get().(*sendContext)
	if s == nil {
		s = new(sendContext)
	}
	s.Context, s.endpoint, s.conn, s.call = ctx, e, c, call
	return s
}

// release ends the use of the context after sending.
func (s *sendContext) release() {
	if s.callerCtx != nil { // the derived context may still be in use
		s.cancel(nil)
		return
	}
	pool := s.endpoint.buffers
	*s = sendContext{}
	pool.sendContexts.Put(s)
}

// errUnread is the cause of a sendContext that is done because messages stay unread.
var errUnread = errors.New(unreadAdvice)

func (s *sendContext) Done() <-chan struct{} {
	if s.callerCtx == nil {
		made, cancel := context.WithCancelCause(s.Context)
		s.callerCtx, s.Context, s.cancel, s.waitStart = s.Context, made, cancel, time.Now()
		if s.call == nil {
			s.limitReply()
		} else {
			s.conn.sender.callTable.cancelOnEnd(s.call, cancel)
			s.limitRequest()
		}
	}
	return s.Context.Done()
}

// limitReply cancels s when writing was blocked for too long while reading is stopped,
// because the peer may be blocked in the same way. The time starts when the flush in
// progress was blocked, so replies behind it do not wait as long again.
func (s *sendContext) limitReply() {
	s.limitTime(replyCheckDelay, func() time.Duration {
		left := stoppedReadTimeout
		if since := s.conn.sender.blockedSince(); !since.IsZero() {
			left = time.Until(since.Add(stoppedReadTimeout))
		}
		if left > 0 || s.endpoint.readRole.state != roleStopped {
			left = max(left, replyCheckDelay)
		}
		return left
	})
}

// limitRequest cancels s when reading was stopped for too long.
func (s *sendContext) limitRequest() {
	begun := s.waitStart
	s.limitTime(stoppedReadTimeout, func() time.Duration {
		if s.endpoint.readRole.state != roleStopped {
			return stoppedReadTimeout
		}
		return time.Until(s.endpoint.readRole.stoppedSince(begun).Add(stoppedReadTimeout))
	})
}

// limitTime cancels s when left returns no remaining time. It calls left after the time
// first, and then each time after the result of left, with the endpoint's lock held.
func (s *sendContext) limitTime(first time.Duration, left func() time.Duration) {
	e, ctx, cancel := s.endpoint, s.Context, s.cancel
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

// callResult converts an error of sending to that of the call: if the derived context
// was canceled for a reason of this package, the error is not context.Canceled.
func (s *sendContext) callResult(err error) error {
	if s.callerCtx == nil || s.callerCtx.Err() != nil || s.Context.Err() == nil || !errors.Is(err, context.Canceled) {
		return err
	}
	kind, cause := ErrNotConnected, context.Cause(s.Context)
	if errors.Is(err, ErrUnconfirmed) {
		kind = ErrUnconfirmed
	}
	if s.call == nil {
		return newError(kind, ErrTimeout, "%s", replyAdvice)
	}
	switch _, ended, why := s.conn.sender.callTable.callResult(s.call); {
	case cause == errUnread:
		return newError(kind, ErrTimeout, "%s", unreadAdvice)
	case ended && kind == ErrUnconfirmed:
		return why
	}
	return newError(kind, nil, "the connection is over")
}

// A replyWait is a call that waits for its reply.
type replyWait struct {
	call          openCall
	leadWaiter    readWaiter // in the replyWaiters of the read role
	holdsRole     bool       // the call was granted the read role
	sendWaitStart time.Time  // when the sending of its request first waited; zero if it did not
	stopCount     uint32     // of the read role, for which stopTime is valid
	stopTime      time.Time  // since when the call has waited for that stop to end
	timedOut      bool       // the call has waited too long
}

// getReplyWait returns an unused replyWait.
func getReplyWait(p *bufferPool) *replyWait {
	if w, _ := p.replyWaits.Get().(*replyWait); w != nil {
		return w
	}
	return &replyWait{call: openCall{doneSignal: make(chan struct{}, 1)}, leadWaiter: readWaiter{wakeSignal: make(chan struct{}, 1)}}
}

// putReplyWait returns w to the pool, after its call was abandoned.
func putReplyWait(p *bufferPool, w *replyWait) {
	select {
	case <-w.call.doneSignal:
	default:
	}
	*w = replyWait{call: openCall{doneSignal: w.call.doneSignal}, leadWaiter: readWaiter{wakeSignal: w.leadWaiter.wakeSignal}}
	p.replyWaits.Put(w)
}

// awaitReply waits for the reply of a call, and reads for it if nobody else does.
func (e *endpoint) awaitReply(ctx context.Context, c *connection, w *replyWait) (*Message, error) {
	read := readCall{ctx: cancelable(ctx), awaitedReply: &w.call}
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		reply, done, err := e.checkReplyLocked(ctx, c, w)
		switch {
		case done:
			return reply, err
		case w.holdsRole:
			w.holdsRole = false
			e.readForReply(c, &read)
		default:
			e.awaitReplyEvent(ctx, w)
		}
	}
}

// checkReplyLocked returns the result of a call that has one, or that has to end. If
// done is false it acquires the read role for the call, if the role is not held.
func (e *endpoint) checkReplyLocked(ctx context.Context, c *connection, w *replyWait) (reply *Message, done bool, err error) {
	reply, done, err = c.sender.callTable.callResult(&w.call)
	if !done {
		err = e.giveUpReasonLocked(ctx, c, w)
		done = err != nil
	}
	switch {
	case done && w.holdsRole:
		w.holdsRole = false
		e.releaseRoleLocked()
	case done || w.holdsRole:
	case e.readRole.state == roleFree || e.readRole.state == roleStopped && e.queueRoomLocked() == unlimited:
		e.readRole.acquire()
		w.holdsRole = true
	}
	return reply, done, err
}

// giveUpReasonLocked returns the error of a call that has to end without a reply, or
// nil. It withdraws a request that was not sent.
func (e *endpoint) giveUpReasonLocked(ctx context.Context, c *connection, w *replyWait) error {
	if ctx.Err() == nil && !w.timedOut {
		return nil
	}
	unsent := c.sender.withdrawRequest(&w.call)
	advice := "no reply was received"
	if e.readRole.state == roleStopped {
		advice = unreadAdvice
	}
	switch {
	case ctx.Err() == nil && unsent:
		return newError(ErrNotConnected, ErrTimeout, "%s", unreadAdvice)
	case ctx.Err() == nil:
		return newError(ErrUnconfirmed, ErrTimeout, "%s", advice)
	case unsent:
		return contextError("call", ctx)
	}
	return newError(ErrUnconfirmed, contextError("call", ctx), "%s", advice)
}

// readForReply reads for a call that holds the role, until its reply arrives or one
// message was queued. The caller holds mu, which is released meanwhile.
func (e *endpoint) readForReply(c *connection, read *readCall) {
	read.destination = destination{maxSize: e.queueRoomLocked()}
	e.mu.Unlock()
	var m Message // on the stack, because mostly the reply arrives, which does not use it
	err := c.receive(read, &m)
	read.endWatching()
	e.mu.Lock()
	e.finishReplyReadLocked(c, read, &m, err)
}

// finishReplyReadLocked releases the role after a receive with the given result.
func (e *endpoint) finishReplyReadLocked(c *connection, read *readCall, m *Message, err error) {
	e.readRole.readCount++
	switch _, interrupted := err.(*interruption); {
	case err == nil:
		queued := *m
		e.countReceivedLocked(&queued)
		e.deliverOrQueueLocked(&queued)
		e.releaseRoleLocked()
	case err == errReplied, interrupted:
		e.releaseRoleLocked()
	case err == errNeedRoom && e.queueRoomLocked() > read.destination.maxSize: // messages were read meanwhile
		e.releaseRoleLocked()
	case err == errNeedRoom:
		e.stopReadingLocked(c)
	default:
		e.disconnectLocked(c, err)
	}
}

// awaitReplyEvent waits until the call has ended, was granted the role, or has to check
// its limits. The caller holds mu, which is released meanwhile.
func (e *endpoint) awaitReplyEvent(ctx context.Context, w *replyWait) {
	var expired <-chan time.Time
	if e.readRole.state == roleStopped {
		if w.stopCount != e.readRole.stopCount {
			w.stopCount, w.stopTime = e.readRole.stopCount, time.Now()
			if !w.sendWaitStart.IsZero() {
				w.stopTime = e.readRole.stoppedSince(w.sendWaitStart)
			}
		}
		timer := time.NewTimer(max(time.Until(w.stopTime.Add(stoppedReadTimeout)), 1))
		defer timer.Stop()
		expired = timer.C
	}
	e.readRole.addReplyWaiter(&w.leadWaiter)
	e.mu.Unlock()
	timedOut := false
	select {
	case <-w.leadWaiter.wakeSignal:
	case <-w.call.doneSignal:
	case <-ctx.Done():
	case <-expired:
		timedOut = true
	}
	e.mu.Lock()
	w.holdsRole = e.readRole.removeReplyWaiter(&w.leadWaiter)
	w.timedOut = timedOut && e.readRole.state == roleStopped && e.readRole.stopCount == w.stopCount
}

// sendReply sends the reply to a request that arrived on the given connection.
func (e *endpoint) sendReply(conn, number uint64, msgType int, data []byte) error {
	c, err := e.writable(context.Background(), conn)
	if err != nil {
		return err
	}
	header := frameHeader{frameType: uint32(msgType) | requestFlag, id: number | replyFlag}
	sending := e.newSendContext(context.Background(), c, nil)
	err = sending.callResult(c.sender.writeFrame(sending, header, data, false))
	sending.release()
	return e.noteFailure(c, err)
}
