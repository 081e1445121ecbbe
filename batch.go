// Batches of frames to send, the queue of accepted frames, and the calls that wait
// for them.

package gipc

import "slices"

const (
	batchSize   = 64 << 10 // maximum bytes of frames in a batch, without large data that is not copied
	recordSlack = 512      // maximum bytes that sealing adds to a batch
)

// A batch holds frames in plaintext, in order. They are sealed when it is flushed.
type batch struct {
	frames         *buffer        // nil if there are none
	largeData      []byte         // data of the last frame, in its caller's memory
	hasLargeCopy   bool           // frames contains large data
	urgent         bool           // the batch is flushed even if no call waits for it
	queuedMessages uint64         // number of messages of Queue
	firstRequest   uint64         // lowest number of a request in it; 0 if there is none
	waiters        []*writeWaiter // calls that wait for its result; the first one flushes it
	largeOwner     *writeWaiter   // the call that owns the memory of largeData, while it waits for another call's flush
	ownerResult    error          // result of largeOwner once its memory is not used any more; nil while it waits
	handedOver     bool           // flushed in the background, so largeData is in memory of this package
	encoded        *buffer        // the bytes for the sink; set by the flusher
	writtenBytes   int            // bytes of encoded and largeData that the sink has accepted
}

func (b *batch) isEmpty() bool { return b.frames == nil || len(b.frames.data) == 0 }

func (b *batch) frameBytes() int {
	if b.frames == nil {
		return 0
	}
	return len(b.frames.data)
}

// copiesData reports whether data is copied into the batch: if it is small, or if
// it is queued and fits into a batch.
func copiesData(h frameHeader, hold bool) bool {
	return !h.isLarge() || hold && h.size()+h.dataSize < batchSize
}

// fits reports whether the batch has room for a frame.
func (b *batch) fits(h frameHeader, hold bool) bool {
	size := h.size()
	if copiesData(h, hold) {
		size += h.dataSize
	}
	return b.largeData == nil && b.frameBytes()+size <= batchSize
}

// appendFrame appends a frame and returns where it begins.
func (b *batch) appendFrame(pool *bufferPool, h frameHeader, data []byte, hold bool) (start int) {
	start = b.frameBytes()
	if copiesData(h, hold) {
		b.frames = pool.grow(b.frames, start+h.size()+len(data))
		b.frames.data = append(appendFrameHeader(b.frames.data, h), data...)
		b.hasLargeCopy = b.hasLargeCopy || h.isLarge()
		return start
	}
	b.frames = pool.grow(b.frames, start+h.size())
	b.frames.data = appendFrameHeader(b.frames.data, h)
	b.largeData = data
	return start
}

// endsWith reports whether the frame of w is the last one of the batch.
func (b *batch) endsWith(w *writeWaiter) bool {
	end := w.frameStart + w.header.size() + w.header.dataSize
	if b.largeData != nil {
		end -= len(b.largeData)
	}
	return w.frameStart >= 0 && end == len(b.frames.data)
}

// encodeFrames sets encoded to the bytes for the sink: sealed records, or the frames
// themselves in plaintext.
func (b *batch) encodeFrames(pool *bufferPool, cipher *recordCipher) error {
	if cipher == nil {
		b.encoded, b.frames = b.frames, nil
		return nil
	}
	out := pool.get(len(b.frames.data) + len(b.largeData) + recordSlack)
	var err error
	for plain := b.frames.data; len(plain) > 0 && err == nil; {
		n, data := len(plain), 0
		if b.hasLargeCopy || n > maxPlaintext {
			n, data = splitRecord(plain)
		}
		if out.data, err = cipher.seal(out.data, plain[:n]); err == nil && data > 0 {
			out.data, err = cipher.seal(out.data, plain[n:n+data])
		}
		plain = plain[n+data:]
	}
	if err == nil && b.largeData != nil {
		out.data, err = cipher.seal(out.data, b.largeData)
	}
	if err != nil {
		pool.put(out)
		return err
	}
	pool.put(b.frames)
	b.encoded, b.frames, b.largeData = out, nil, nil
	return nil
}

// unwritten returns the bytes of encoded and largeData that are not written yet.
func (b *batch) unwritten() (head, tail []byte) {
	head, tail = b.encoded.data, b.largeData
	if b.writtenBytes < len(head) {
		return head[b.writtenBytes:], tail
	}
	return tail[b.writtenBytes-len(head):], nil
}

// copyLargeData moves large data from the memory of its caller, who is about to
// return, into memory of this package. Only the flusher calls it.
func (b *batch) copyLargeData(pool *bufferPool, cipher *recordCipher) {
	if b.largeData == nil {
		return
	}
	if cipher != nil {
		if b.encodeFrames(pool, cipher) != nil { // encoding fails again in the background, and is reported there
			b.largeData = slices.Clone(b.largeData)
		}
		return
	}
	head := b.frames
	if b.encoded != nil {
		head = b.encoded
	}
	out := pool.get(len(head.data) + len(b.largeData))
	out.data = append(append(out.data, head.data...), b.largeData...)
	pool.put(head)
	b.encoded, b.frames, b.largeData = out, nil, nil
}

// splitRecord returns the number of bytes of frames for the next record, and the
// number of bytes of large data behind them, which get a record of their own.
func splitRecord(frames []byte) (n, data int) {
	for n < len(frames) {
		h, _, err := parseFrameHeader(frames[n:], maxMsgSize)
		size := h.size()
		if err != nil { // unreachable: appendFrameHeader made these headers
			return len(frames), 0
		}
		if h.isLarge() && n+size <= maxPlaintext {
			if n += size; n < len(frames) {
				data = h.dataSize
			}
			return n, data
		}
		if n+size+h.dataSize > maxPlaintext {
			return n, 0
		}
		n += size + h.dataSize
	}
	return n, 0
}

type waiterState uint8

const (
	waiterPending   waiterState = iota
	waiterMustFlush             // the call has to flush the batch
	waiterDone                  // result is set
)

// A writeWaiter is a call that waits for the result of its batch, or for room in
// the open batch.
type writeWaiter struct {
	wakeSignal chan struct{} // receives once when state has changed
	state      waiterState
	result     error
	frameStart int         // offset of its frame in the open batch; -1 if it has none
	header     frameHeader // of its frame
	internal   bool        // this package waits, not a user's call
}

func (w *writeWaiter) isUserCall() bool { return !w.internal }

func anyWaiter(*writeWaiter) bool { return true }

func (w *writeWaiter) complete(err error) {
	w.result = err
	w.setState(waiterDone)
}

// setState changes the state of w and wakes it.
func (w *writeWaiter) setState(state waiterState) {
	w.state = state
	select {
	case w.wakeSignal <- struct{}{}:
	default: // an earlier signal is still unread
	}
}

// lostMessages counts messages of Queue that will not be sent.
type lostMessages struct {
	unsent, uncertain uint64 // not written at all; possibly written in part
}

// lossError returns the error for lost messages of Queue.
func (l lostMessages) lossError(cause error) error {
	if l.uncertain > 0 {
		cause = newError(ErrUnconfirmed, cause, "some of them may have arrived")
	}
	return newError(ErrNotConnected, cause, "%d queued messages were lost with an earlier connection, and this call sent nothing: send them again as needed", l.unsent+l.uncertain)
}

func (l *lostMessages) add(o lostMessages) {
	l.unsent += o.unsent
	l.uncertain += o.uncertain
}

// getWriteWaiter returns a waiter that waits for nothing yet.
func getWriteWaiter(p *bufferPool) *writeWaiter {
	if w, _ := p.writeWaiters.Get().(*writeWaiter); w != nil {
		return w
	}
	return &writeWaiter{wakeSignal: make(chan struct{}, 1)}
}

// putWriteWaiter returns w to the pool. It must not be woken any more.
func putWriteWaiter(p *bufferPool, w *writeWaiter) {
	select {
	case <-w.wakeSignal:
	default:
	}
	*w = writeWaiter{wakeSignal: w.wakeSignal}
	p.writeWaiters.Put(w)
}

// A sendQueue holds the frames that are accepted for sending and not written yet,
// and the calls that wait for them. The sender's lock guards it.
//
// Invariant: a frame is accepted once it is in the open batch. It can be withdrawn
// while it is the last one there.
type sendQueue struct {
	buffers      *bufferPool
	callTable    *callTable
	openBatch    *batch         // accepts frames
	activeBatch  *batch         // is being flushed
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

// lastBatchLocked returns the batch that holds the frame that was accepted last.
func (q *sendQueue) lastBatchLocked() *batch {
	if q.openBatch.isEmpty() {
		return q.activeBatch
	}
	return q.openBatch
}

// appendFrameLocked appends a frame to the open batch, which has room for it, and
// returns its offset there.
func (q *sendQueue) appendFrameLocked(header frameHeader, data []byte, hold bool) (start int) {
	start = q.openBatch.appendFrame(q.buffers, header, data, hold)
	q.sentTotals.count(header, 1)
	q.wakeRoomWaiterLocked()
	return start
}

// activateBatchLocked makes the open batch the active one.
func (q *sendQueue) activateBatchLocked() {
	q.flushing = true
	q.openBatch, q.activeBatch = q.activeBatch, q.openBatch
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
	for _, c := range controls {
		q.openBatch.frames = q.buffers.grow(q.openBatch.frames, q.openBatch.frameBytes()+headerSize+2)
		q.openBatch.frames.data = appendControl(q.openBatch.frames.data, c[0], c[1])
		q.pendingPings.suppressed = q.pendingPings.suppressed || c[0] == kindClose
	}
	q.openBatch.urgent = true
}

// resetBatchLocked empties a batch for its next use.
func (q *sendQueue) resetBatchLocked(b *batch) {
	for _, memory := range []*buffer{b.frames, b.encoded} {
		if memory != nil {
			q.buffers.put(memory)
		}
	}
	clear(b.waiters)
	*b = batch{waiters: b.waiters[:0]}
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
	q.resetBatchLocked(q.openBatch)
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
