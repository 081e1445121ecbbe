// Requests: the calls that wait for a reply, and replies.

package gipc

import (
	"context"
	"errors"
	"time"
)

const (
	stoppedReadTimeout = 10 * time.Second       // with unread messages before the reply
	replyCheckDelay    = 100 * time.Millisecond // before a reply looks whether it is stuck
	replyAdvice        = "64 KiB of messages are unread, and the peer does not read either: reply from another goroutine than the one that reads"
	unreadAdvice       = "64 KiB of unread messages stand before the reply: read them, or call from another goroutine"
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
	sending := e.newSendContext(ctx, c, &w.call)
	err = sending.callResult(c.sender.writeRequest(sending, msgType, data, &w.call))
	w.sendWaitStart = sending.waitStart
	sending.release()
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
	endpoint        *endpoint
	conn            *connection
	call            *openCall               // nil for a reply
	callerCtx       context.Context         // nil until a context is made, like what follows
	cancel          context.CancelCauseFunc // of the context that was made
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

// release releases the context. Nothing is being sent with it any more.
func (s *sendContext) release() {
	if s.callerCtx != nil { // others may still hold it
		s.cancel(nil)
		return
	}
	pool := s.endpoint.buffers
	*s = sendContext{}
	pool.sendContexts.Put(s)
}

// errUnread is the cause of a sendContext that has ended since nobody reads.
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

// limitReply ends s when writing has been blocked for too long and nobody reads: the
// peer may wait for the same. A reply behind one that has waited so long does not wait
// as long again.
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

// limitRequest ends s when reading has been stopped for too long since it was made.
func (s *sendContext) limitRequest() {
	begun := s.waitStart
	s.limitTime(stoppedReadTimeout, func() time.Duration {
		if s.endpoint.readRole.state != roleStopped {
			return stoppedReadTimeout
		}
		return time.Until(s.endpoint.readRole.stoppedSince(begun).Add(stoppedReadTimeout))
	})
}

// limitTime asks after a first time, and then again and again, how much time is left, and
// ends s when that is none. left is called with the endpoint's lock held.
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

// callResult returns what an error of sending means: the library's own reasons are no end
// of the caller's context.
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
	leadWaiter    readWaiter // in the line of the read role
	holdsRole     bool       // it holds the read role
	sendWaitStart time.Time  // when it first waited while its request was being sent; zero: never
	stopCount     uint64     // of the role, since when it has waited
	stopTime      time.Time  // of that stop
	timedOut      bool       // it has waited too long
}

// getReplyWait returns a call that waits for nothing yet.
func getReplyWait(p *bufferPool) *replyWait {
	if w, _ := p.replyWaits.Get().(*replyWait); w != nil {
		return w
	}
	return &replyWait{call: openCall{doneSignal: make(chan struct{}, 1)}, leadWaiter: readWaiter{wakeSignal: make(chan struct{}, 1)}}
}

// putReplyWait takes a call back that has ended or was given up.
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

// checkReplyLocked ends a call that has a reply or waits no longer. Otherwise the call
// has the role afterwards if it may read.
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

// giveUpReasonLocked returns why a call waits no longer, or nil. A request that was not sent
// yet is taken back.
func (e *endpoint) giveUpReasonLocked(ctx context.Context, c *connection, w *replyWait) error {
	if ctx.Err() == nil && !w.timedOut {
		return nil
	}
	unsent := c.sender.withdrawRequest(&w.call)
	advice := "the reply has not come"
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

// readForReply reads for a call that holds the role, until its reply has come, or once
// into the queue. It releases mu meanwhile.
func (e *endpoint) readForReply(c *connection, read *readCall) {
	read.destination = destination{maxSize: e.queueRoomLocked()}
	e.mu.Unlock()
	var m Message // on the stack: mostly the reply comes
	err := c.receive(read, &m)
	read.endWatching()
	e.mu.Lock()
	e.finishReplyReadLocked(c, read, &m, err)
}

// finishReplyReadLocked gives the role up with the result of one receive.
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
	case err == errNeedRoom && e.queueRoomLocked() > read.destination.maxSize: // the pool has read meanwhile
		e.releaseRoleLocked()
	case err == errNeedRoom:
		e.stopReadingLocked(c)
	default:
		e.disconnectLocked(c, err)
	}
}

// awaitReplyEvent waits until the call has ended, until it gets the role, or until
// the reasons to wait have changed. It releases mu meanwhile.
func (e *endpoint) awaitReplyEvent(ctx context.Context, w *replyWait) {
	var late <-chan time.Time
	if e.readRole.state == roleStopped {
		if w.stopCount != e.readRole.stopCount {
			w.stopCount, w.stopTime = e.readRole.stopCount, time.Now()
			if !w.sendWaitStart.IsZero() {
				w.stopTime = e.readRole.stoppedSince(w.sendWaitStart)
			}
		}
		timer := time.NewTimer(max(time.Until(w.stopTime.Add(stoppedReadTimeout)), 1))
		defer timer.Stop()
		late = timer.C
	}
	e.readRole.addReplyWaiter(&w.leadWaiter)
	e.mu.Unlock()
	timedOut := false
	select {
	case <-w.leadWaiter.wakeSignal:
	case <-w.call.doneSignal:
	case <-ctx.Done():
	case <-late:
		timedOut = true
	}
	e.mu.Lock()
	w.holdsRole = e.readRole.removeReplyWaiter(&w.leadWaiter)
	w.timedOut = timedOut && e.readRole.state == roleStopped && e.readRole.stopCount == w.stopCount
}

// sendReply sends the reply to a request that came on the given connection.
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
