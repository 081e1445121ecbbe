// What is asked of the sending half of a connection: messages, requests and pings, a
// flush, and its end by close or by a loss.

package gipc

import (
	"cmp"
	"context"
	"runtime"

	"example.com/gipc/internal/transport"
)

// writeFrame sends one frame. It returns nil when the sink has accepted all of it
// or, with hold, when it is queued.
func (s *sender) writeFrame(ctx context.Context, header frameHeader, data []byte, hold bool) error {
	if len(data) > s.maxDataSize {
		return &SizeError{len(data), s.maxDataSize}
	}
	header.dataSize = len(data)
	s.mu.Lock()
	if err := s.awaitBatchRoom(ctx, header, hold); err != nil {
		s.mu.Unlock() // not deferred: that would cost as much as the lock
		return err
	}
	start := s.appendFrameLocked(header, data, hold)
	var err error
	switch {
	case hold && s.openBatch.largeData == nil && len(s.openBatch.frames.data) < batchSize:
		s.openBatch.queuedMessages++
	case s.flushing:
		err = s.awaitLastFrame(ctx, start, header)
	default:
		err = s.callResultLocked(ctx, s.flushOpenBatch(ctx))
	}
	s.mu.Unlock()
	return err
}

// A startedFrame is a frame whose rest is written in the background.
type startedFrame struct {
	batch  *batch
	waiter *writeWaiter
}

// startFrame writes a small frame as far as the sink accepts it without waiting. noWait is
// a context that is done. accepted is false if that is not possible: nothing was sent
// then, and writeFrame returns the reason or waits. If rest is not nil the background
// writes the rest, and the caller has to call awaitFrame.
func (s *sender) startFrame(noWait context.Context, header frameHeader, data []byte) (rest *startedFrame, accepted bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(data) > s.maxDataSize || s.refusalErr != nil || s.flushing || len(s.roomWaiters) > 0 || !s.openBatch.fits(header, false) || !s.sink.Interruptible() {
		return nil, false, nil
	}
	s.appendFrameLocked(header, data, false)
	s.activateBatchLocked()
	s.mu.Unlock()
	err = s.writeActiveBatch(noWait, nil)
	s.mu.Lock()
	if err != transport.ErrInterrupted {
		return nil, true, s.finishFlushLocked(err)
	}
	if s.backgroundOnly {
		err = s.callResultLocked(context.Background(), err)
	} else {
		err, rest = nil, &startedFrame{s.activeBatch, s.newWaiter()}
		rest.batch.waiters = append(rest.batch.waiters, rest.waiter)
	}
	s.handOverFlushLocked()
	return rest, true, err
}

// awaitFrame waits for the rest of a frame. Its results are those of writeFrame.
func (s *sender) awaitFrame(ctx context.Context, rest *startedFrame) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.callResultLocked(ctx, s.awaitWaiter(ctx, rest.waiter, rest.batch))
}

// writeRequest sends the request of a call. The request is numbered when it is
// accepted.
func (s *sender) writeRequest(ctx context.Context, msgType int, data []byte, call *openCall) error {
	if len(data) > s.maxDataSize {
		return &SizeError{len(data), s.maxDataSize}
	}
	header := frameHeader{frameType: uint32(msgType) | requestFlag, dataSize: len(data)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.awaitBatchRoom(ctx, header, false); err != nil {
		return err
	}
	number, others := s.callTable.addCall(call)
	header.id = number
	start := s.appendFrameLocked(header, data, false)
	s.openBatch.firstRequest = cmp.Or(s.openBatch.firstRequest, header.id)
	switch {
	case s.openBatch.largeData == nil && (s.flushing || others):
		s.openBatch.urgent = true // the call waits for its reply, and not for the flush
		call.frameStart, call.header = start, header
		if s.flushing || s.isFlushedAfterYield(header.id) {
			return nil
		}
	case s.flushing:
		return s.awaitLastFrame(ctx, start, header)
	}
	return s.callResultLocked(ctx, s.flushOpenBatch(ctx))
}

// isFlushedAfterYield lets the callers that can run now add their requests to the open
// batch, because a record of replies wakes several callers at once. With 64 callers that
// makes a fifth more calls. It reports whether another call flushes the request, or has.
// The caller holds mu, which is released meanwhile, and no call waits for the yield.
func (s *sender) isFlushedAfterYield(request uint64) bool {
	s.mu.Unlock()
	runtime.Gosched()
	s.mu.Lock()
	first := s.openBatch.firstRequest
	return s.flushing || first == 0 || request < first
}

// withdrawRequest removes the request of a call from the open batch if it is the
// last frame there, and reports whether it did. The request was not sent then.
func (s *sender) withdrawRequest(call *openCall) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.withdrawRequestLocked(call)
}

// flushAccepted returns nil when the sink has accepted all frames that were accepted
// before the call.
func (s *sender) flushAccepted(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.refusalErr != nil:
		return s.refusalLocked()
	case s.flushing:
		return s.awaitBatch(ctx, s.lastBatchLocked(), s.newWaiter())
	case s.openBatch.isEmpty():
		return nil
	}
	return s.callResultLocked(ctx, s.flushOpenBatch(ctx))
}

// drainAccepted flushes in the background, and returns nil when the sink has
// accepted everything. It also works while users' frames are refused.
func (s *sender) drainAccepted(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.markUrgentLocked()
	s.scheduleFlushLocked()
	switch {
	case s.sendBroken:
		return s.refusalErr
	case !s.flushing:
		return nil
	}
	w := s.newWaiter()
	w.internal = true
	return s.awaitBatch(ctx, s.lastBatchLocked(), w)
}

// awaitFlushEnd waits until no flush is in progress, or until ctx is done.
func (s *sender) awaitFlushEnd(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.flushing && ctx.Err() == nil {
		s.joinFlush(ctx, s.flushedBatchLocked())
	}
}

// queuePing sends a ping with the next batch. It does not wait.
func (s *sender) queuePing() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pendingPings.ping = true
	s.scheduleFlushLocked()
}

// queuePong sends the pong for a ping with the next batch. It does not wait.
func (s *sender) queuePong(data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pendingPings.pong = append(s.pendingPings.pong[:0], data...)
	s.scheduleFlushLocked()
}

// queueClose sends a control frame behind the accepted frames, refuses users' later
// frames with reason, and ends all waiting calls. A frame whose data is not copied
// is withdrawn. A call whose frame may still arrive returns ErrUnconfirmed, wrapping
// reason. queueClose does not wait.
func (s *sender) queueClose(reason error, control [2]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuseNewFramesLocked(reason)
	if !s.sendBroken {
		s.appendControlsLocked(control)
		s.releaseUserCallsLocked(reason)
	}
}

// queueCloseAck sends control frames behind the accepted frames, and refuses users'
// later frames with reason. Frames in the open batch are withdrawn if their data is
// not copied or if they are requests, because the peer does not reply any more.
// Calls that wait for other frames continue to wait, because the peer still receives
// them. queueCloseAck does not wait.
func (s *sender) queueCloseAck(reason error, controls ...[2]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuseNewFramesLocked(reason)
	if s.sendBroken {
		return
	}
	s.withdrawRequestsLocked(reason)
	s.appendControlsLocked(controls...)
	s.scheduleFlushLocked()
}

// releaseUserCalls ends the calls that still wait after queueCloseAck, which has
// withdrawn large data. They return ErrUnconfirmed, wrapping cause.
func (s *sender) releaseUserCalls(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.releaseUserCallsLocked(cause)
}

// refuseNewFramesLocked refuses users' later frames with reason. A frame in the open
// batch whose data is not copied is withdrawn.
func (s *sender) refuseNewFramesLocked(reason error) {
	if s.refusalErr == nil {
		s.refusalErr = reason
	}
	if s.openBatch.largeData != nil {
		s.withdrawLargeFrameLocked(reason)
	}
	s.wakeRoomWaitersLocked()
}

// releaseUserCallsLocked ends users' waiting calls with ErrUnconfirmed, wrapping
// cause. Their frames are sent in the background.
func (s *sender) releaseUserCallsLocked(cause error) {
	s.endUserFlushesLocked()
	s.refusalCause = cause
	unconfirmed := newError(ErrUnconfirmed, cause, "the message was accepted and is still being sent")
	s.releaseWaitersLocked(s.activeBatch, unconfirmed, (*writeWaiter).isUserCall)
	s.releaseWaitersLocked(s.openBatch, unconfirmed, (*writeWaiter).isUserCall)
	s.markUrgentLocked()
	s.sink.Interrupt()
	s.scheduleFlushLocked()
}

// endUserFlushesLocked hands over the flush in progress, and all later ones, to the
// background.
func (s *sender) endUserFlushesLocked() {
	s.backgroundOnly = true
	s.handoverRequested.Store(true)
}

// abandonSending ends the sending half of a lost connection. Users' calls return
// reason, or ErrUnconfirmed wrapping cause if some of their frame may have arrived.
// It returns how many messages of Queue were lost.
func (s *sender) abandonSending(reason, cause error) lostMessages {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endUserFlushesLocked()
	if !s.sendBroken {
		s.endSendingLocked(reason, cause)
	}
	s.releaseWaitersLocked(s.activeBatch, newError(ErrUnconfirmed, cause, "the connection was lost while the message was being sent"), anyWaiter)
	if queued := s.activeBatch.queuedMessages; queued > 0 {
		s.sentTotals.lost.uncertain += queued
		s.activeBatch.queuedMessages = 0
	}
	s.sink.Interrupt()
	lost := s.sentTotals.lost
	s.sentTotals.lost = lostMessages{}
	return lost
}
