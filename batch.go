// Batches of frames, and the calls that wait for them.

package gipc

import "slices"

const (
	batchSize   = 64 << 10 // bytes of frames in a batch, large data that is not copied left out
	recordSlack = 512      // bytes that sealing adds to a batch at most
)

// A batch is frames in plaintext, in order. It is sealed when it is flushed.
type batch struct {
	frames         *buffer        // nil while there is none
	largeData      []byte         // data of the last frame, in its caller's memory
	hasLargeCopy   bool           // there is large data in frames
	urgent         bool           // it is flushed even if nobody waits for it
	queuedMessages uint64         // messages of Queue
	firstRequest   uint64         // lowest number of a request; 0 if there is none
	waiters        []*writeWaiter // for its result; the first one flushes it
	largeOwner     *writeWaiter   // whose memory large is, while it waits for somebody else's flush
	ownerResult    error          // what owner gets as soon as nobody uses its memory; nil while it waits
	handedOver     bool           // over to the background: large is in our own memory
	encoded        *buffer        // what goes to the sink; set by the flusher
	writtenBytes   int            // bytes of encoded and large that the sink has taken
}

func (b *batch) isEmpty() bool { return b.frames == nil || len(b.frames.data) == 0 }

func (b *batch) frameBytes() int {
	if b.frames == nil {
		return 0
	}
	return len(b.frames.data)
}

// copiesData reports whether data is copied into the batch: it is small, or held
// back and small enough for that.
func copiesData(h frameHeader, hold bool) bool {
	return !h.isLarge() || hold && h.size()+h.dataSize < batchSize
}

// fits reports whether a frame can be accepted.
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

// encodeFrames makes the bytes that go to the sink: records, or the frames themselves.
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

// copyLargeData moves what is left of large data from the memory of its caller, who
// is about to return, into memory of our own. Only the flusher calls it.
func (b *batch) copyLargeData(pool *bufferPool, cipher *recordCipher) {
	if b.largeData == nil {
		return
	}
	if cipher != nil {
		if b.encodeFrames(pool, cipher) != nil { // it fails again in the background, and is reported there
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

// splitRecord returns how many bytes of frames the next record takes, and how
// many bytes of large data follow it.
func splitRecord(frames []byte) (n, data int) {
	for n < len(frames) {
		h, _, err := parseFrameHeader(frames[n:], maxMsgSize)
		size := h.size()
		if err != nil { // unreachable: these are our own frames
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
	waiterMustFlush             // it is to flush the batch
	waiterDone                  // its result is there
)

// A writeWaiter is a call that waits: for the result of its batch, or for room in
// the open one.
type writeWaiter struct {
	wakeSignal chan struct{} // receives once when state has changed
	state      waiterState
	result     error
	frameStart int         // of its frame in the open batch; -1 if it has none
	header     frameHeader // of its frame
	internal   bool        // it waits for this library and not for a user's call
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
	default: // it has not noticed the last change
	}
}

// lostMessages counts messages of Queue that will not be sent.
type lostMessages struct {
	unsent, uncertain uint64 // nothing of it went out; some of it may have
}

// lossError returns the error for lost messages of Queue.
func (l lostMessages) lossError(cause error) error {
	if l.uncertain > 0 {
		cause = fail(ErrUnconfirmed, cause, "some of them may have arrived")
	}
	return fail(ErrNotConnected, cause, "%d queued messages were lost with an earlier connection; nothing was sent now: send again what matters", l.unsent+l.uncertain)
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

// putWriteWaiter takes w back; nobody may wake it any more.
func putWriteWaiter(p *bufferPool, w *writeWaiter) {
	select {
	case <-w.wakeSignal:
	default:
	}
	*w = writeWaiter{wakeSignal: w.wakeSignal}
	p.writeWaiters.Put(w)
}
