// The queue of accepted frames: the open and the active batch, the calls that wait for
// them, pings, and totals.

package gipc

import "slices"

// A sendQueue holds the frames that are accepted for sending and not written yet,
// and the calls that wait for them. The sender's lock guards it.
//
// Invariants: a frame is accepted once it is in the open batch. It can be withdrawn
// while it is the last one there. While flushing is set without an active batch, the open
// batch has a waiter, which is about to activate it.
type sendQueue struct {
	buffers      *bufferPool
	callTable    *callTable
	openBatch    *batch         // accepts frames; noBatch before the first one
	activeBatch  *batch         // is being flushed; noBatch while no call flushes
	flushing     bool           // a call flushes the active batch, or is about to activate the open one
	roomWaiters  []*writeWaiter // calls that wait for room in the open batch
	pendingPings pendingPings
	sentTotals   sentTotals
}

// sentTotals counts accepted frames.
type sentTotals struct {
	messages, bytes uint64 // requests included
	replies         uint64
	lost            lostMessages // not reported yet
}

// count adds n accepted frames; n is -1 for one that was withdrawn.
func (t *sentTotals) count(h frameHeader, n int) {
	if h.isReply() {
		t.replies += uint64(n)
		return
	}
	t.messages += uint64(n)
	t.bytes += uint64(n * h.dataSize)
}

// pendingPings holds the ping and the pong that are sent with the next batch.
type pendingPings struct {
	ping       bool
	pong       []byte // the newest replaces the others
	suppressed bool   // a close was accepted: no ping or pong may follow it
}

// flushedBatchLocked returns the batch of the flush that is in progress or about to
// begin.
func (q *sendQueue) flushedBatchLocked() *batch {
	if q.activeBatch == noBatch {
		return q.openBatch
	}
	return q.activeBatch
}

// lastBatchLocked returns the batch that holds the frame that was accepted last, during
// a flush.
func (q *sendQueue) lastBatchLocked() *batch {
	if q.openBatch.isEmpty() {
		return q.flushedBatchLocked()
	}
	return q.openBatch
}

// appendFrameLocked appends a frame to the open batch, which has room for it, and
// returns its offset there.
func (q *sendQueue) appendFrameLocked(header frameHeader, data []byte, hold bool) (start int) {
	start = q.ownOpenBatchLocked().appendFrame(q.buffers, header, data, hold)
	q.sentTotals.count(header, 1)
	q.wakeRoomWaiterLocked()
	return start
}

// ownOpenBatchLocked returns the open batch, and gets one if there is none.
func (q *sendQueue) ownOpenBatchLocked() *batch {
	if q.openBatch == noBatch {
		q.beginOpenBatchLocked() // a separate function, so that this one is inlined
	}
	return q.openBatch
}

func (q *sendQueue) beginOpenBatchLocked() { q.openBatch = getBatch(q.buffers) }

// releaseEmptyBatchLocked returns the open batch to the pool if it is empty, because its
// frames were withdrawn, and no call waits for it.
func (q *sendQueue) releaseEmptyBatchLocked() {
	if b := q.openBatch; b != noBatch && b.isEmpty() && len(b.waiters) == 0 {
		putBatch(q.buffers, b)
		q.openBatch = noBatch
	}
}

// markUrgentLocked makes the open batch urgent, unless it is empty.
func (q *sendQueue) markUrgentLocked() {
	if !q.openBatch.isEmpty() {
		q.openBatch.urgent = true
	}
}

// activateBatchLocked makes the open batch the active one.
func (q *sendQueue) activateBatchLocked() {
	q.flushing = true
	q.activeBatch, q.openBatch = q.ownOpenBatchLocked(), noBatch
	if q.activeBatch.firstRequest > 0 {
		q.callTable.noteFlushed()
	}
	q.prependPingsLocked()
	q.wakeRoomWaiterLocked()
}

// prependPingsLocked inserts the pending pong and ping at the front of the active
// batch, which is not encoded yet.
func (q *sendQueue) prependPingsLocked() {
	p := &q.pendingPings
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
		b := q.activeBatch
		b.frames = q.buffers.grow(b.frames, b.frameBytes()+len(ahead))
		b.frames.data = slices.Insert(b.frames.data, 0, ahead...)
	}
	p.pong, p.ping = nil, false
}

// appendControlsLocked appends control frames to the open batch, and makes it urgent.
func (q *sendQueue) appendControlsLocked(controls ...[2]byte) {
	b := q.ownOpenBatchLocked()
	for _, c := range controls {
		b.frames = q.buffers.grow(b.frames, b.frameBytes()+headerSize+2)
		b.frames.data = appendControl(b.frames.data, c[0], c[1])
		q.pendingPings.suppressed = q.pendingPings.suppressed || c[0] == kindClose
	}
	b.urgent = true
}

// usesMemoryLocked reports whether another call's flush may be using the memory of
// the call that waits with w.
func (q *sendQueue) usesMemoryLocked(b *batch, w *writeWaiter) bool {
	return b == q.activeBatch && b.largeOwner == w && !b.handedOver
}

// newWaiter returns a waiter of a call that has no frame.
func (q *sendQueue) newWaiter() *writeWaiter {
	w := getWriteWaiter(q.buffers)
	w.frameStart = -1
	return w
}

// newFrameWaiter returns the waiter of a call whose frame begins at start.
func (q *sendQueue) newFrameWaiter(start int, h frameHeader) *writeWaiter {
	w := getWriteWaiter(q.buffers)
	w.frameStart, w.header = start, h
	return w
}

// addRoomWaiterLocked adds a call that waits for room. One that has waited before
// comes first.
func (q *sendQueue) addRoomWaiterLocked(again bool) *writeWaiter {
	w := q.newWaiter()
	if again {
		q.roomWaiters = slices.Insert(q.roomWaiters, 0, w)
	} else {
		q.roomWaiters = append(q.roomWaiters, w)
	}
	return w
}

// removeRoomWaiterLocked removes a call that waits for room, and reports whether it
// was woken.
func (q *sendQueue) removeRoomWaiterLocked(w *writeWaiter) (woken bool) {
	if i := slices.Index(q.roomWaiters, w); i >= 0 {
		q.roomWaiters = slices.Delete(q.roomWaiters, i, i+1)
	}
	woken = w.state == waiterDone
	putWriteWaiter(q.buffers, w)
	return woken
}

// wakeRoomWaiterLocked wakes the first call that waits for room, if there may be
// room now, or if nobody flushes, because the call then flushes itself.
func (q *sendQueue) wakeRoomWaiterLocked() {
	if len(q.roomWaiters) > 0 {
		q.wakeFirstRoomWaiterLocked() // a separate function, so that this one is inlined: 1 ns of 30
	}
}

func (q *sendQueue) wakeFirstRoomWaiterLocked() {
	if !q.flushing || q.openBatch.largeData == nil && q.openBatch.frameBytes()+headerSize <= batchSize {
		w := q.roomWaiters[0]
		q.roomWaiters = slices.Delete(q.roomWaiters, 0, 1)
		w.complete(nil)
	}
}

// wakeRoomWaitersLocked wakes all calls that wait for room.
func (q *sendQueue) wakeRoomWaitersLocked() {
	for _, w := range q.roomWaiters {
		w.complete(nil)
	}
	q.roomWaiters = nil
}

// releaseWaitersLocked ends the selected waiters of a batch with err. The batch
// itself is still sent.
func (q *sendQueue) releaseWaitersLocked(b *batch, err error, selected func(*writeWaiter) bool) {
	if b == noBatch {
		return
	}
	b.waiters = slices.DeleteFunc(b.waiters, func(w *writeWaiter) bool {
		if !selected(w) {
			return false
		}
		if q.usesMemoryLocked(b, w) { // the call returns once its memory is not used any more
			b.ownerResult = err
			return false
		}
		if w.state == waiterMustFlush { // the flush passes to the background
			q.flushing = false
		}
		w.complete(err)
		return true
	})
}

// failActiveLocked returns the result of the active batch after a failed write, and
// counts its lost messages. unsent is set if no byte of it was written.
func (q *sendQueue) failActiveLocked(cause error, unsent bool) error {
	b := q.activeBatch
	if !unsent {
		q.sentTotals.lost.uncertain += b.queuedMessages
		return newError(ErrUnconfirmed, cause, "the write failed, and some of it may have arrived")
	}
	err := newError(ErrNotConnected, cause, "the write failed before any byte was sent")
	q.sentTotals.lost.unsent += b.queuedMessages
	q.callTable.endCallsFrom(b.firstRequest, err)
	return err
}

// discardOpenLocked empties the open batch, of which nothing was sent. Its waiters end
// with reason, its requests with refusal.
func (q *sendQueue) discardOpenLocked(reason, refusal error) {
	q.releaseWaitersLocked(q.openBatch, reason, anyWaiter)
	q.callTable.endCallsFrom(q.openBatch.firstRequest, refusal)
	q.sentTotals.lost.unsent += q.openBatch.queuedMessages
	putBatch(q.buffers, q.openBatch)
	q.openBatch = noBatch
	q.wakeRoomWaitersLocked()
}

// withdrawFrameLocked removes the frame of w from the open batch if it is the last
// one there, and reports whether it did.
func (q *sendQueue) withdrawFrameLocked(w *writeWaiter) bool {
	if !q.openBatch.endsWith(w) {
		return false
	}
	q.removeLastFrameLocked(w)
	return true
}

// withdrawLargeFrameLocked removes the frame whose data is in its caller's memory
// from the open batch, and ends that call with reason.
func (q *sendQueue) withdrawLargeFrameLocked(reason error) {
	b := q.openBatch
	i := slices.IndexFunc(b.waiters, b.endsWith)
	w := b.waiters[i]
	if w.state == waiterMustFlush {
		q.flushing = false
	}
	q.removeLastFrameLocked(w)
	b.waiters = slices.Delete(b.waiters, i, i+1)
	w.complete(reason)
}

// withdrawRequestLocked removes the request of a call from the open batch if it is
// the last frame there, and reports whether it did.
func (q *sendQueue) withdrawRequestLocked(call *openCall) bool {
	b := q.openBatch
	w := writeWaiter{frameStart: call.frameStart, header: call.header}
	if b.firstRequest == 0 || call.requestNumber < b.firstRequest || b.largeData != nil || !b.endsWith(&w) {
		return false
	}
	q.removeLastFrameLocked(&w)
	return true
}

// withdrawRequestsLocked removes all requests from the open batch, and ends their
// calls with reason.
func (q *sendQueue) withdrawRequestsLocked(reason error) {
	b := q.openBatch
	if b.isEmpty() {
		return
	}
	kept := b.frames.data[:0]
	for rest := b.frames.data; len(rest) > 0; {
		h, _, err := parseFrameHeader(rest, maxMsgSize)
		if err != nil {
			return // unreachable: appendFrameHeader made these headers
		}
		size := h.size() + h.dataSize
		if h.isRequest() {
			q.uncountFrameLocked(h, reason)
		} else {
			kept = append(kept, rest[:size]...)
		}
		rest = rest[size:]
	}
	b.frames.data = kept
	q.releaseWaitersLocked(b, reason, func(w *writeWaiter) bool {
		w.frameStart = -1 // the offset is not valid any more, so the frame cannot be withdrawn
		return w.header.isRequest()
	})
}

// removeLastFrameLocked removes the frame of w, which is the last one, from the open
// batch.
func (q *sendQueue) removeLastFrameLocked(w *writeWaiter) {
	b := q.openBatch
	b.frames.data, b.largeData, b.largeOwner = b.frames.data[:w.frameStart], nil, nil
	q.uncountFrameLocked(w.header, nil)
	q.wakeRoomWaiterLocked()
}

// uncountFrameLocked records that an accepted frame was withdrawn. A call that waits
// for its reply ends with reason.
func (q *sendQueue) uncountFrameLocked(h frameHeader, reason error) {
	q.sentTotals.count(h, -1)
	if h.isRequest() {
		q.callTable.removeLatest(reason)
	}
}
