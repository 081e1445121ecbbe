// The sending half of a connection, by group commit: writers append frames to a
// batch, one of them flushes it, and all of them get its result. No net.

package gipc

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"example.com/gipc/internal/transport"
)

// A sender is the sending direction of one connection.
//
// Invariants: frames go out in the order in which they were accepted. At most one
// goroutine flushes; it alone seals, and touches the bytes of the active batch. A call
// succeeds only if its batch was written in full.
type sender struct {
	sink        transport.Sink
	maxDataSize int           // the peer's MaxMsgSize, in bytes
	cipher      *recordCipher // nil in plaintext
	onFailure   func(error)   // called once, without a lock, when writing has failed
	goroutines  *sync.WaitGroup

	handoverRequested atomic.Bool // the flush in progress has to be handed over to the background
	writeBlocked      atomic.Bool // the flush in progress waits for the peer

	mu sync.Mutex // guards the fields below
	sendQueue
	refusalErr     error // why users' frames are refused; nil while they are accepted
	refusalCause   error // the cause that ErrUnconfirmed wraps then
	backgroundOnly bool  // users' calls do not flush any more
	sendBroken     bool  // nothing can be written any more
}

func newSender(sink transport.Sink, maxDataSize int, buffers *bufferPool, cipher *recordCipher, goroutines *sync.WaitGroup, onFailure func(error)) *sender {
	return &sender{sink: sink, maxDataSize: maxDataSize, cipher: cipher, goroutines: goroutines, onFailure: onFailure,
		sendQueue: sendQueue{buffers: buffers, callTable: new(callTable), openBatch: noBatch, activeBatch: noBatch}}
}

// awaitBatchRoom waits until the open batch has room for a frame. After an error
// the frame is not accepted. The caller holds mu, which is released meanwhile.
func (s *sender) awaitBatchRoom(ctx context.Context, header frameHeader, hold bool) error {
	waited := false
	for {
		switch {
		case s.refusalErr != nil:
			return s.refusalLocked()
		case (waited || len(s.roomWaiters) == 0) && s.openBatch.fits(header, hold):
			return nil
		case !s.flushing:
			if err := s.flushOpenBatch(ctx); err == transport.ErrInterrupted && ctx.Err() != nil {
				return contextError("write", ctx)
			}
		default:
			if err := s.awaitRoomTurn(ctx, waited); err != nil {
				return err
			}
			waited = true
		}
	}
}

// refusalLocked returns the error of calls whose frames are refused. It reports lost
// messages of Queue once.
func (s *sender) refusalLocked() error {
	if lost := s.sentTotals.lost; lost != (lostMessages{}) {
		s.sentTotals.lost = lostMessages{}
		return lost.lossError(s.refusalErr)
	}
	return s.refusalErr
}

// flushOpenBatch flushes the open batch while no other call flushes. It returns nil
// when the batch is written, transport.ErrInterrupted when the rest is written in
// the background, and otherwise the reason why sending has ended. The caller holds
// mu, which is released meanwhile.
func (s *sender) flushOpenBatch(ctx context.Context) error {
	s.activateBatchLocked()
	s.mu.Unlock()
	if !s.sink.Interruptible() {
		return s.flushByGoroutine(ctx)
	}
	err := s.writeActiveBatch(ctx, &s.handoverRequested)
	s.mu.Lock()
	if err != transport.ErrInterrupted {
		return s.finishFlushLocked(err)
	}
	b := s.activeBatch
	s.handOverFlushLocked()
	if s.backgroundOnly || ctx.Err() != nil {
		return err
	}
	return s.joinFlush(ctx, b) // the interrupt was for the owner of the large data, not for this call
}

// flushByGoroutine flushes the active batch in the background and waits for the
// result, because the sink cannot be interrupted. It acquires mu.
func (s *sender) flushByGoroutine(ctx context.Context) error {
	b := s.activeBatch
	b.copyLargeData(s.buffers, s.cipher)
	s.mu.Lock()
	s.handOverFlushLocked()
	if s.backgroundOnly {
		return transport.ErrInterrupted
	}
	return s.joinFlush(ctx, b)
}

// handOverFlushLocked continues the flush of the active batch in the background. It
// first copies large data, because its caller is about to return.
func (s *sender) handOverFlushLocked() {
	b := s.activeBatch
	b.copyLargeData(s.buffers, s.cipher)
	b.handedOver = true
	if b.ownerResult != nil {
		b.waiters = slices.DeleteFunc(b.waiters, func(w *writeWaiter) bool { return w == b.largeOwner })
		b.largeOwner.complete(b.ownerResult)
		b.ownerResult = nil
	}
	s.handoverRequested.Store(s.backgroundOnly)
	s.goroutines.Add(1)
	go func() {
		defer s.goroutines.Done()
		s.flushInBackground()
	}()
}

// flushInBackground writes the active batch, and ends its flush.
func (s *sender) flushInBackground() {
	err := s.writeActiveBatch(context.Background(), nil)
	s.mu.Lock()
	s.finishFlushLocked(err)
	s.mu.Unlock()
}

// writeActiveBatch encodes the active batch and writes it, or continues to write it.
// Only the flusher calls it.
func (s *sender) writeActiveBatch(ctx context.Context, stopped *atomic.Bool) error {
	b := s.activeBatch
	if b.encoded == nil {
		if b.isEmpty() {
			return nil // its only frame was withdrawn
		}
		if err := b.encodeFrames(s.buffers, s.cipher); err != nil {
			return err
		}
	}
	head, tail := b.unwritten()
	n, err := s.sink.Send(ctx, stopped, head, tail)
	b.writtenBytes += n
	return err
}

// finishFlushLocked ends the flush of the active batch, passes the result to its
// waiters, and schedules the next flush.
func (s *sender) finishFlushLocked(err error) error {
	b := s.activeBatch
	var result error
	if err != nil {
		result = s.failSendingLocked(err)
	}
	for _, w := range b.waiters {
		w.complete(result)
	}
	s.handoverRequested.Store(s.backgroundOnly)
	putBatch(s.buffers, b)
	s.activeBatch = noBatch
	s.flushing = false
	s.writeBlocked.Store(false)
	s.scheduleFlushLocked()
	return result
}

// failSendingLocked ends the sending half after a failed write, and returns the
// result of the active batch.
func (s *sender) failSendingLocked(cause error) (result error) {
	if s.sendBroken && s.refusalCause != nil {
		cause = s.refusalCause // the write failed because abandonSending preceded it
	}
	unsent := s.activeBatch.encoded == nil || s.activeBatch.writtenBytes == 0 && s.sink.Interruptible() // a socket's failed write has accepted no byte
	result = s.failActiveLocked(cause, unsent)
	if !s.sendBroken {
		s.endSendingLocked(newError(ErrNotConnected, cause, "the connection can no longer be written to"), cause)
		s.goroutines.Add(1)
		go func() {
			defer s.goroutines.Done()
			s.onFailure(cause)
		}()
	}
	return result
}

// endSendingLocked makes reason the result of all later calls, and of those whose
// frames are in the open batch, of which nothing was sent.
func (s *sender) endSendingLocked(reason, cause error) {
	if s.refusalErr == nil {
		s.refusalErr = reason
	}
	if s.refusalCause == nil {
		s.refusalCause = cause
	}
	s.sendBroken = true
	s.discardOpenLocked(reason, s.refusalErr)
}

// scheduleFlushLocked starts the flush of the open batch if a call waits for it or
// if it is urgent. A batch of queued messages alone is not flushed.
func (s *sender) scheduleFlushLocked() {
	if !s.flushing {
		s.releaseEmptyBatchLocked()
	}
	switch {
	case s.flushing || s.sendBroken:
	case len(s.openBatch.waiters) > 0 && s.openBatch.waiters[0].isUserCall():
		s.flushing = true
		s.openBatch.waiters[0].setState(waiterMustFlush)
	case s.openBatch.urgent || s.pendingPings.ping || s.pendingPings.pong != nil:
		s.activateBatchLocked()
		s.handOverFlushLocked()
	default:
		s.wakeRoomWaiterLocked()
	}
}

// awaitBatch waits for the result of a batch, and flushes it if another call selects w to. The
// caller holds mu, which is released meanwhile.
func (s *sender) awaitBatch(ctx context.Context, b *batch, w *writeWaiter) error {
	b.waiters = append(b.waiters, w)
	return s.callResultLocked(ctx, s.awaitWaiter(ctx, w, b))
}

// awaitLastFrame is like awaitBatch, for the frame that was accepted last.
func (s *sender) awaitLastFrame(ctx context.Context, start int, h frameHeader) error {
	w := s.newFrameWaiter(start, h)
	if s.openBatch.largeData != nil {
		s.openBatch.largeOwner = w
	}
	return s.awaitBatch(ctx, s.openBatch, w)
}

// joinFlush waits for a batch like a call that has no frame in it. Its results are
// those of flushOpenBatch. The caller holds mu, which is released meanwhile.
func (s *sender) joinFlush(ctx context.Context, b *batch) error {
	w := s.newWaiter()
	b.waiters = append(b.waiters, w)
	return s.awaitWaiter(ctx, w, b)
}

// awaitWaiter waits until w is done, until another call selects it to flush, or until ctx is done. Its
// results are those of flushOpenBatch, or the context's error alone if the frame was
// withdrawn. The caller holds mu, which is released meanwhile.
func (s *sender) awaitWaiter(ctx context.Context, w *writeWaiter, b *batch) error {
	s.mu.Unlock()
	select {
	case <-w.wakeSignal:
	case <-ctx.Done():
	}
	s.mu.Lock()
	if w.state == waiterDone {
		err := w.result
		putWriteWaiter(s.buffers, w)
		return err
	}
	if s.usesMemoryLocked(b, w) {
		return s.awaitMemoryRelease(w, b)
	}
	i := slices.Index(b.waiters, w)
	b.waiters = slices.Delete(b.waiters, i, i+1)
	if b.largeOwner == w {
		b.largeOwner = nil
	}
	flushes, taken := w.state == waiterMustFlush, b == s.openBatch && ctx.Err() != nil && s.withdrawFrameLocked(w)
	putWriteWaiter(s.buffers, w)
	switch {
	case flushes && !taken:
		return s.flushOpenBatch(ctx)
	case flushes:
		s.flushing = false
		s.scheduleFlushLocked()
	}
	if taken {
		return contextError("write", ctx)
	}
	b.urgent = true // the frame is accepted, and no call waits for it any more
	return transport.ErrInterrupted
}

// awaitMemoryRelease makes another call hand over its flush to the background, and
// returns once the memory of this call is not used any more. The caller holds mu,
// which is released meanwhile.
func (s *sender) awaitMemoryRelease(w *writeWaiter, b *batch) error {
	if b.ownerResult == nil {
		b.ownerResult = transport.ErrInterrupted
	}
	s.handoverRequested.Store(true)
	s.sink.Interrupt()
	for w.state != waiterDone {
		s.mu.Unlock()
		<-w.wakeSignal
		s.mu.Lock()
	}
	err := w.result
	putWriteWaiter(s.buffers, w)
	return err
}

// callResultLocked converts the result of a flush to that of a call: a frame that is
// still sent in the background is unconfirmed.
func (s *sender) callResultLocked(ctx context.Context, err error) error {
	switch {
	case err != transport.ErrInterrupted:
		return err
	case ctx.Err() != nil:
		return newError(ErrUnconfirmed, contextError("write", ctx), "the message was accepted and is still being sent")
	}
	return newError(ErrUnconfirmed, s.refusalCause, "the message was accepted and is still being sent")
}

// awaitRoomTurn waits until a frame may fit into the open batch, in the order of
// arrival. The caller holds mu, which is released meanwhile.
func (s *sender) awaitRoomTurn(ctx context.Context, again bool) error {
	w := s.addRoomWaiterLocked(again)
	s.mu.Unlock()
	select {
	case <-w.wakeSignal:
	case <-ctx.Done():
	}
	s.mu.Lock()
	woken := s.removeRoomWaiterLocked(w)
	if ctx.Err() == nil {
		return nil
	}
	if woken {
		s.wakeRoomWaiterLocked()
	}
	return contextError("write", ctx)
}

// acceptedCount returns the number of accepted messages and replies.
func (s *sender) acceptedCount() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sentTotals.messages + s.sentTotals.replies
}

// isBroken reports whether nothing can be written any more.
func (s *sender) isBroken() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sendBroken
}

// noteBlocked records that the flush in progress waits for the peer.
func (s *sender) noteBlocked() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.activeBatch != noBatch {
		s.writeBlocked.Store(true)
		s.activeBatch.blockedAt = time.Now()
	}
}

// blockedSince returns when the flush in progress began to wait for the peer, or
// the zero time if it does not wait.
func (s *sender) blockedSince() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.writeBlocked.Load() {
		return time.Time{}
	}
	return s.activeBatch.blockedAt
}

// acceptedTotals returns the totals of accepted messages, and the key changes.
func (s *sender) acceptedTotals() (messages, bytes, rekeys uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sentTotals.messages, s.sentTotals.bytes, s.cipher.rekeyCount()
}
