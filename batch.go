// Batches of frames to send, and the calls that wait for them.

package gipc

import (
	"slices"
	"time"
)

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
	blockedAt      time.Time      // when its flush began to wait for the peer
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

// noBatch stands for the batch of a sender that has none: an idle connection holds no
// batch. It is empty and never changed.
var noBatch = new(batch)

// getBatch returns an empty batch.
func getBatch(p *bufferPool) *batch {
	if b, _ := p.batches.Get().(*batch); b != nil {
		return b
	}
	return new(batch)
}

// putBatch returns b and its memory to the pool.
func putBatch(p *bufferPool, b *batch) {
	if b == noBatch {
		return
	}
	for _, memory := range []*buffer{b.frames, b.encoded} {
		if memory != nil {
			p.put(memory)
		}
	}
	clear(b.waiters)
	*b = batch{waiters: b.waiters[:0]}
	p.batches.Put(b)
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
