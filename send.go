// The sending half: group commit. Writers append frames to a batch; one of them
// flushes it, and all of them get its result. No net.

package gipc

import (
	"cmp"
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
// goroutine flushes; it alone touches the active batch and the cipher. A frame is
// accepted when it is in the open batch, and can be taken back only while it is
// the last one there. A call succeeds only if its batch was written in full.
type sender struct {
	sink        transport.Sink
	maxDataSize int // largest data that the peer accepts, in bytes
	buffers     *bufferPool
	callTable   *callTable
	cipher      *recordCipher // nil in plaintext
	onFailure   func(error)   // called once when nothing can be sent any more, without a lock
	goroutines  *sync.WaitGroup

	handoverRequested atomic.Bool // the user's flush in progress is to be handed over
	writeBlocked      atomic.Bool // the flush in progress waits for the peer
	sendRekeys        atomic.Uint64

	mu             sync.Mutex // guards what follows
	openBatch      *batch     // accepts frames
	activeBatch    *batch     // is being flushed
	flushing       bool       // somebody flushes the active batch, or is about to take the open one
	roomWaiters    []*writeWaiter
	pendingPings   pendingPings
	refusalErr     error // why users' frames are not accepted any more
	refusalCause   error // what ErrUnconfirmed wraps then
	backgroundOnly bool  // no user flushes any more
	sendBroken     bool  // nothing goes out any more
	sentTotals     sentTotals
	blockedAt      time.Time // when blocked was set
}

// sentTotals counts what was accepted.
type sentTotals struct {
	messages, bytes uint64 // requests included
	replies         uint64
	lost            lostMessages
}

// count adds n frames that were accepted; n is -1 for one that will not be sent.
func (t *sentTotals) count(h frameHeader, n int) {
	if h.isReply() {
		t.replies += uint64(n)
		return
	}
	t.messages += uint64(n)
	t.bytes += uint64(n * h.dataSize)
}

// pendingPings is the ping and the pong that go out with the next batch.
type pendingPings struct {
	ping       bool
	pong       []byte // a newer one replaces it
	suppressed bool   // a close was accepted: neither may follow
}

func newSender(sink transport.Sink, limit int, pool *bufferPool, cipher *recordCipher, tasks *sync.WaitGroup, failed func(error)) *sender {
	return &sender{sink: sink, maxDataSize: limit, buffers: pool, callTable: new(callTable), cipher: cipher, goroutines: tasks, onFailure: failed, openBatch: new(batch), activeBatch: new(batch)}
}

// writeFrame sends one frame. It returns nil when the sink has taken all of it or, with
// hold, when it is accepted and kept back.
func (s *sender) writeFrame(ctx context.Context, header frameHeader, data []byte, hold bool) error {
	if len(data) > s.maxDataSize {
		return &SizeError{len(data), s.maxDataSize}
	}
	header.dataSize = len(data)
	s.mu.Lock()
	if err := s.awaitBatchRoom(ctx, header, hold); err != nil {
		s.mu.Unlock() // a defer would cost as much as the lock
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

// writeRequest sends the request of a call. Its number is given when it is accepted.
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
	header.id = s.callTable.addCall(call)
	s.openBatch.firstRequest = cmp.Or(s.openBatch.firstRequest, header.id)
	start := s.appendFrameLocked(header, data, false)
	switch {
	case s.flushing && s.openBatch.largeData == nil:
		s.openBatch.urgent = true // the call waits for its reply
		call.frameStart, call.header = start, header
		return nil
	case s.flushing:
		return s.awaitLastFrame(ctx, start, header)
	}
	return s.callResultLocked(ctx, s.flushOpenBatch(ctx))
}

// withdrawRequest takes the request of a call back and reports true if nothing of it
// was sent: it is the last frame of the open batch.
func (s *sender) withdrawRequest(call *openCall) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.openBatch
	w := writeWaiter{frameStart: call.frameStart, header: call.header}
	if b.firstRequest == 0 || call.requestNumber < b.firstRequest || b.largeData != nil || !b.endsWith(&w) {
		return false
	}
	s.removeLastFrameLocked(&w)
	return true
}

// flushAccepted returns nil when the sink has everything that was accepted before.
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

// drainAccepted has everything that was accepted written in the background, and returns
// nil when the sink has it. It goes on after users' frames are refused.
func (s *sender) drainAccepted(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.openBatch.urgent = !s.openBatch.isEmpty()
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

// lastBatchLocked returns the batch that holds what was accepted last.
func (s *sender) lastBatchLocked() *batch {
	if s.openBatch.isEmpty() {
		return s.activeBatch
	}
	return s.openBatch
}

// awaitBatchRoom waits until the open batch has room for a frame. After an error it is
// not accepted.
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

// appendFrameLocked appends a frame to the open batch, which has room for it, and returns
// where it begins.
func (s *sender) appendFrameLocked(header frameHeader, data []byte, hold bool) (start int) {
	start = s.openBatch.appendFrame(s.buffers, header, data, hold)
	s.sentTotals.count(header, 1)
	s.wakeRoomWaiterLocked()
	return start
}

// refusalLocked returns why nothing is accepted. Lost messages of Queue are
// reported once.
func (s *sender) refusalLocked() error {
	if lost := s.sentTotals.lost; lost != (lostMessages{}) {
		s.sentTotals.lost = lostMessages{}
		return lost.lossError(s.refusalErr)
	}
	return s.refusalErr
}

// flushOpenBatch flushes the open batch, which nobody else does, and releases mu
// meanwhile. It returns nil when the batch is written, transport.ErrInterrupted when the
// rest is written in the background, and otherwise why sending is over.
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
	return s.joinFlush(ctx, b) // the owner of the large data has left, and this call has not
}

// flushByGoroutine has the active batch written in the background, and waits for
// that. It acquires mu.
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

// activateBatchLocked makes the open batch the active one.
func (s *sender) activateBatchLocked() {
	s.flushing = true
	s.openBatch, s.activeBatch = s.activeBatch, s.openBatch
	if s.activeBatch.firstRequest > 0 {
		s.callTable.noteFlushed()
	}
	s.prependPingsLocked()
	s.wakeRoomWaiterLocked()
}

// prependPingsLocked puts the pending pong and ping ahead of frames that are not
// sealed.
func (s *sender) prependPingsLocked() {
	p := &s.pendingPings
	if p.pong == nil && !p.ping {
		return
	}
	if !p.suppressed {
		var ahead []byte
		if p.pong != nil {
			ahead = appendControl(ahead, kindPong, p.pong...)
		}
		if p.ping {
			ahead = appendControl(ahead, kindPing, make([]byte, 8)...)
		}
		b := s.activeBatch
		b.frames = s.buffers.grow(b.frames, b.frameBytes()+len(ahead))
		b.frames.data = slices.Insert(b.frames.data, 0, ahead...)
	}
	p.pong, p.ping = nil, false
}

// handOverFlushLocked has the active batch written in the background. The memory of a
// caller who is about to return is copied first.
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

// flushInBackground writes the active batch, and then what nobody waits for.
func (s *sender) flushInBackground() {
	err := s.writeActiveBatch(context.Background(), nil)
	s.mu.Lock()
	s.finishFlushLocked(err)
	s.mu.Unlock()
}

// writeActiveBatch encodes the active batch and writes it. Only the flusher calls it.
func (s *sender) writeActiveBatch(ctx context.Context, stopped *atomic.Bool) error {
	b := s.activeBatch
	if b.encoded == nil {
		if b.isEmpty() {
			return nil // its only frame was taken back
		}
		if err := b.encodeFrames(s.buffers, s.cipher); err != nil {
			return err
		}
	}
	if s.cipher != nil {
		s.sendRekeys.Store(s.cipher.rekeys)
	}
	out, tail := b.encoded.data, b.largeData
	if b.writtenBytes < len(out) {
		out = out[b.writtenBytes:]
	} else {
		out, tail = tail[b.writtenBytes-len(out):], nil
	}
	n, err := s.sink.Send(ctx, stopped, out, tail)
	b.writtenBytes += n
	return err
}

// finishFlushLocked ends the flush of the active batch with its result, for all who
// wait for it, and has the next one flushed.
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
	s.resetBatchLocked(b)
	s.flushing = false
	s.writeBlocked.Store(false)
	s.scheduleFlushLocked()
	return result
}

// failSendingLocked ends this half: no byte goes out any more. It returns the result of
// the active batch.
func (s *sender) failSendingLocked(cause error) (result error) {
	if s.sendBroken && s.refusalCause != nil {
		cause = s.refusalCause // abandon has closed the transport under this write
	}
	b := s.activeBatch
	certain := b.writtenBytes == 0 && s.sink.Interruptible() // a socket's failed write has taken nothing
	if certain || b.encoded == nil {
		result = fail(ErrNotConnected, cause, "the write failed, and nothing of it was sent")
		s.sentTotals.lost.unsent += b.queuedMessages
		s.callTable.endCallsFrom(b.firstRequest, result)
	} else {
		result = fail(ErrUnconfirmed, cause, "the write failed, and some of it may have arrived")
		s.sentTotals.lost.uncertain += b.queuedMessages
	}
	if !s.sendBroken {
		s.endSendingLocked(fail(ErrNotConnected, cause, "the connection can no longer be written to"), cause)
		s.goroutines.Add(1)
		go func() {
			defer s.goroutines.Done()
			s.onFailure(cause)
		}()
	}
	return result
}

// endSendingLocked makes reason the answer to every later call, and to those whose
// frames have not been flushed: nothing of these was sent.
func (s *sender) endSendingLocked(reason, cause error) {
	if s.refusalErr == nil {
		s.refusalErr = reason
	}
	if s.refusalCause == nil {
		s.refusalCause = cause
	}
	s.sendBroken = true
	s.releaseWaitersLocked(s.openBatch, reason, anyWaiter)
	s.callTable.endCallsFrom(s.openBatch.firstRequest, s.refusalErr)
	s.sentTotals.lost.unsent += s.openBatch.queuedMessages
	s.resetBatchLocked(s.openBatch)
	s.wakeRoomWaitersLocked()
}

// resetBatchLocked empties a batch for its next use.
func (s *sender) resetBatchLocked(b *batch) {
	for _, memory := range []*buffer{b.frames, b.encoded} {
		if memory != nil {
			s.buffers.put(memory)
		}
	}
	clear(b.waiters)
	*b = batch{waiters: b.waiters[:0]}
}

// scheduleFlushLocked has the open batch flushed if somebody waits for it or if it is
// urgent. Messages of Queue alone stay.
func (s *sender) scheduleFlushLocked() {
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

// awaitBatch waits for the result of a batch, and flushes it if that is asked of
// it.
func (s *sender) awaitBatch(ctx context.Context, b *batch, w *writeWaiter) error {
	b.waiters = append(b.waiters, w)
	return s.callResultLocked(ctx, s.awaitWaiter(ctx, w, b))
}

// awaitLastFrame waits for the result of the frame that was accepted last.
func (s *sender) awaitLastFrame(ctx context.Context, start int, h frameHeader) error {
	w := s.newFrameWaiter(start, h)
	if s.openBatch.largeData != nil {
		s.openBatch.largeOwner = w
	}
	return s.awaitBatch(ctx, s.openBatch, w)
}

// joinFlush waits for a batch as one more call that has no frame in it. It returns
// what flushLocked does.
func (s *sender) joinFlush(ctx context.Context, b *batch) error {
	w := s.newWaiter()
	b.waiters = append(b.waiters, w)
	return s.awaitWaiter(ctx, w, b)
}

// awaitWaiter returns what flushLocked does, or nothing of it was sent: the
// context's error alone.
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
	flushes, taken := w.state == waiterMustFlush, b == s.openBatch && s.withdrawFrameLocked(ctx, w)
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
	b.urgent = true // nobody waits for this frame any more
	return transport.ErrInterrupted
}

// usesMemoryLocked reports whether another call's flush may be using the memory of
// the call that w is of.
func (s *sender) usesMemoryLocked(b *batch, w *writeWaiter) bool {
	return b == s.activeBatch && b.largeOwner == w && !b.handedOver
}

// awaitMemoryRelease has the flush in progress, which is another call's, handed over,
// and returns as soon as nobody uses the memory of this call.
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

// withdrawFrameLocked takes the frame of a call whose context is done out of the open
// batch again, if it is the last one there.
func (s *sender) withdrawFrameLocked(ctx context.Context, w *writeWaiter) bool {
	if ctx.Err() == nil || !s.openBatch.endsWith(w) {
		return false
	}
	s.removeLastFrameLocked(w)
	return true
}

// withdrawLargeFrameLocked takes the frame whose data is in its caller's memory out of
// the open batch again, and has the caller return with reason.
func (s *sender) withdrawLargeFrameLocked(reason error) {
	b := s.openBatch
	i := slices.IndexFunc(b.waiters, b.endsWith)
	w := b.waiters[i]
	if w.state == waiterMustFlush {
		s.flushing = false
	}
	s.removeLastFrameLocked(w)
	b.waiters = slices.Delete(b.waiters, i, i+1)
	w.complete(reason)
}

// removeLastFrameLocked cuts the frame of w, the last one, off the open batch.
func (s *sender) removeLastFrameLocked(w *writeWaiter) {
	s.openBatch.frames.data, s.openBatch.largeData, s.openBatch.largeOwner = s.openBatch.frames.data[:w.frameStart], nil, nil
	s.uncountFrameLocked(w.header, nil)
	s.wakeRoomWaiterLocked()
}

// uncountFrameLocked notes that a frame that was accepted is not sent. A call that waits for
// its reply ends with reason.
func (s *sender) uncountFrameLocked(h frameHeader, reason error) {
	s.sentTotals.count(h, -1)
	if h.isRequest() {
		s.callTable.removeLatest(reason)
	}
}

// callResultLocked turns the result of a flush into that of the call: a frame that
// goes out in the background may arrive.
func (s *sender) callResultLocked(ctx context.Context, err error) error {
	switch {
	case err != transport.ErrInterrupted:
		return err
	case ctx.Err() != nil:
		return fail(ErrUnconfirmed, contextError("write", ctx), "the message was accepted and is still being sent")
	}
	return fail(ErrUnconfirmed, s.refusalCause, "the message was accepted and is still being sent")
}

// awaitRoomTurn waits until a frame may fit into the open batch. Nothing is
// accepted meanwhile.
func (s *sender) awaitRoomTurn(ctx context.Context, again bool) error {
	w := s.newWaiter()
	if again { // it has waited before, so it is the next
		s.roomWaiters = slices.Insert(s.roomWaiters, 0, w)
	} else {
		s.roomWaiters = append(s.roomWaiters, w)
	}
	s.mu.Unlock()
	select {
	case <-w.wakeSignal:
	case <-ctx.Done():
	}
	s.mu.Lock()
	if i := slices.Index(s.roomWaiters, w); i >= 0 {
		s.roomWaiters = slices.Delete(s.roomWaiters, i, i+1)
	}
	woken := w.state == waiterDone
	putWriteWaiter(s.buffers, w)
	if ctx.Err() == nil {
		return nil
	}
	if woken {
		s.wakeRoomWaiterLocked()
	}
	return contextError("write", ctx)
}

// wakeRoomWaiterLocked has the first call that waits for room try again: if a frame may fit,
// or if nobody flushes, since then it makes room itself.
func (s *sender) wakeRoomWaiterLocked() {
	if len(s.roomWaiters) > 0 {
		s.wakeFirstRoomWaiterLocked() // out of line, so that this is inlined: 1 ns of 30
	}
}

func (s *sender) wakeFirstRoomWaiterLocked() {
	if !s.flushing || s.openBatch.largeData == nil && s.openBatch.frameBytes()+headerSize <= batchSize {
		w := s.roomWaiters[0]
		s.roomWaiters = slices.Delete(s.roomWaiters, 0, 1)
		w.complete(nil)
	}
}

func (s *sender) wakeRoomWaitersLocked() {
	for _, w := range s.roomWaiters {
		w.complete(nil)
	}
	s.roomWaiters = nil
}

func (s *sender) newWaiter() *writeWaiter {
	w := getWriteWaiter(s.buffers)
	w.frameStart = -1
	return w
}

// newFrameWaiter returns the waiter of a call whose frame begins at start.
func (s *sender) newFrameWaiter(start int, h frameHeader) *writeWaiter {
	w := getWriteWaiter(s.buffers)
	w.frameStart, w.header = start, h
	return w
}

// queuePing has a ping sent. The caller does not wait for it.
func (s *sender) queuePing() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pendingPings.ping = true
	s.scheduleFlushLocked()
}

// queuePong has the pong for a ping sent. The caller does not wait for it.
func (s *sender) queuePong(data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pendingPings.pong = append(s.pendingPings.pong[:0], data...)
	s.scheduleFlushLocked()
}

// queueClose refuses users' frames with reason from here on, has everybody who
// waits return, and has the given control frame sent behind what was accepted. A
// frame whose data is not copied is taken back. A call whose frame may still arrive
// gets ErrUnconfirmed, wrapping reason. The caller does not wait.
func (s *sender) queueClose(reason error, control [2]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuseNewFramesLocked(reason)
	if !s.sendBroken {
		s.appendControlsLocked(control)
		s.releaseUserCallsLocked(reason)
	}
}

// queueCloseAck refuses users' frames with reason from here on, and has the given
// control frames sent behind what was accepted. A frame whose data is not copied is
// taken back if nobody flushes it yet, and so are requests: the peer does not answer
// any more. Who waits for another frame goes on waiting: the peer still takes what
// comes. The caller does not wait.
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

// withdrawRequestsLocked takes the requests of the open batch out of it again, and
// has their callers return with reason.
func (s *sender) withdrawRequestsLocked(reason error) {
	b := s.openBatch
	if b.isEmpty() {
		return
	}
	kept := b.frames.data[:0]
	for rest := b.frames.data; len(rest) > 0; {
		h, _, err := parseFrameHeader(rest, maxMsgSize)
		if err != nil {
			return // unreachable: these are our own frames
		}
		size := h.size() + h.dataSize
		if h.isRequest() {
			s.uncountFrameLocked(h, reason)
		} else {
			kept = append(kept, rest[:size]...)
		}
		rest = rest[size:]
	}
	b.frames.data = kept
	s.releaseWaitersLocked(b, reason, func(w *writeWaiter) bool {
		w.frameStart = -1 // its frame is somewhere else now, and is not taken back
		return w.header.isRequest()
	})
}

// releaseUserCalls has everybody who waits after acknowledgeWith return with
// ErrUnconfirmed, wrapping cause.
func (s *sender) releaseUserCalls(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.releaseUserCallsLocked(cause)
}

// refuseNewFramesLocked has users' frames that are not accepted yet refused. One
// whose data is not copied is taken back.
func (s *sender) refuseNewFramesLocked(reason error) {
	if s.refusalErr == nil {
		s.refusalErr = reason
	}
	if s.openBatch.largeData != nil {
		s.withdrawLargeFrameLocked(reason)
	}
	s.wakeRoomWaitersLocked()
}

// appendControlsLocked has control frames sent behind what was accepted.
func (s *sender) appendControlsLocked(controls ...[2]byte) {
	for _, c := range controls {
		s.openBatch.frames = s.buffers.grow(s.openBatch.frames, s.openBatch.frameBytes()+headerSize+2)
		s.openBatch.frames.data = appendControl(s.openBatch.frames.data, c[0], c[1])
		s.pendingPings.suppressed = s.pendingPings.suppressed || c[0] == kindClose
	}
	s.openBatch.urgent = true
}

// releaseUserCallsLocked has users' calls that wait return with ErrUnconfirmed,
// wrapping cause. What was accepted is sent in the background.
func (s *sender) releaseUserCallsLocked(cause error) {
	s.endUserFlushesLocked()
	s.refusalCause = cause
	unconfirmed := fail(ErrUnconfirmed, cause, "the message was accepted and is still being sent")
	s.releaseWaitersLocked(s.activeBatch, unconfirmed, (*writeWaiter).isUserCall)
	s.releaseWaitersLocked(s.openBatch, unconfirmed, (*writeWaiter).isUserCall)
	s.openBatch.urgent = !s.openBatch.isEmpty()
	s.sink.Interrupt()
	s.scheduleFlushLocked()
}

// endUserFlushesLocked has the flush in progress handed over if it is a user's, and all
// that come.
func (s *sender) endUserFlushesLocked() {
	s.backgroundOnly = true
	s.handoverRequested.Store(true)
}

// releaseWaitersLocked has those who wait for a batch and whom it concerns return with
// err. The batch goes on.
func (s *sender) releaseWaitersLocked(b *batch, err error, concerns func(*writeWaiter) bool) {
	b.waiters = slices.DeleteFunc(b.waiters, func(w *writeWaiter) bool {
		if !concerns(w) {
			return false
		}
		if s.usesMemoryLocked(b, w) { // it returns when nobody uses its memory any more
			b.ownerResult = err
			return false
		}
		if w.state == waiterMustFlush { // its duty passes to the background
			s.flushing = false
		}
		w.complete(err)
		return true
	})
}

// abandonSending ends this half of a connection that is lost: users get reason. It
// returns how many messages of Queue were lost.
func (s *sender) abandonSending(reason, cause error) lostMessages {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endUserFlushesLocked()
	if !s.sendBroken {
		s.endSendingLocked(reason, cause)
	}
	s.releaseWaitersLocked(s.activeBatch, fail(ErrUnconfirmed, cause, "the connection was lost while the message was being sent"), anyWaiter)
	s.sentTotals.lost.uncertain += s.activeBatch.queuedMessages
	s.activeBatch.queuedMessages = 0
	s.sink.Interrupt()
	lost := s.sentTotals.lost
	s.sentTotals.lost = lostMessages{}
	return lost
}

// acceptedCount returns how many messages and replies were accepted.
func (s *sender) acceptedCount() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sentTotals.messages + s.sentTotals.replies
}

// isBroken reports whether nothing can be sent any more.
func (s *sender) isBroken() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sendBroken
}

// noteBlocked notes that the flush in progress waits for the peer.
func (s *sender) noteBlocked() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writeBlocked.Store(s.flushing)
	s.blockedAt = time.Now()
}

// blockedSince returns when the flush in progress has begun to wait for the peer. It is
// zero if none does.
func (s *sender) blockedSince() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.writeBlocked.Load() {
		return time.Time{}
	}
	return s.blockedAt
}

// awaitFlushEnd waits until nobody flushes any more, or until ctx is done.
func (s *sender) awaitFlushEnd(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.flushing && ctx.Err() == nil {
		s.joinFlush(ctx, s.activeBatch)
	}
}

// acceptedTotals returns what was accepted.
func (s *sender) acceptedTotals() (messages, bytes, rekeys uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sentTotals.messages, s.sentTotals.bytes, s.sendRekeys.Load()
}
