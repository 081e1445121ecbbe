// The type sender alone: group commit against a sink that the test scripts. All
// tests run in bubbles, so "the call waits" means that every goroutine is blocked.

package gipc

import (
	"bytes"
	"context"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"example.com/gipc/internal/testutil"
	"example.com/gipc/internal/transport"
)

// ---- The sink

// A scriptedSink takes as many bytes as the test allows. Then a write blocks, or
// fails.
type scriptedSink struct {
	blocking bool // a write cannot be interrupted

	mu      sync.Mutex // guards what follows
	room    int        // bytes that are taken before a write blocks
	failure error      // what a write returns then instead of blocking
	changed chan struct{}
	got     []byte      // what was taken
	writes  []sinkWrite // all calls, in order
	left    int         // bytes of the write in progress that are not taken
	writing bool
	faults  []string // breaches of the contract of transport.Sink
}

// A sinkWrite is one call of write.
type sinkWrite struct {
	by   string // the name of the call that flushes, or "background"
	tail bool   // there was large data in its caller's memory
}

// endless is room for everything. More room can be added to it.
const endless = math.MaxInt / 2

// callerKey is the key of the name that a call's context carries. The sink sees
// the flusher's context, and so knows who flushes.
type callerKey struct{}

func (s *scriptedSink) Interruptible() bool { return !s.blocking }

func (s *scriptedSink) Interrupt() { s.change(func() {}) }

func (s *scriptedSink) Send(ctx context.Context, stopped *atomic.Bool, b, tail []byte) (n int, err error) {
	offered := slices.Concat(b, tail)
	s.begin(ctx, stopped, len(offered), tail != nil)
	defer func() { s.end(offered, b, tail) }()
	done := ctx.Done()
	if s.blocking {
		done = nil
	}
	for {
		s.mu.Lock()
		size := min(s.room, len(offered)-n)
		s.got = append(s.got, both(b, tail, n, size)...)
		n, s.room, s.left = n+size, s.room-size, len(offered)-n-size
		err, changed := s.failure, s.changed
		s.mu.Unlock()
		switch {
		case n == len(offered):
			return n, nil
		case err != nil:
			return n, err
		case s.blocking:
		case ctx.Err() != nil || stopped != nil && stopped.Load():
			return n, transport.ErrInterrupted
		}
		select {
		case <-changed:
		case <-done:
		}
	}
}

// both returns size bytes from at on of a and b as if they were one slice.
func both(a, b []byte, at, size int) []byte {
	first := a[min(at, len(a)):min(at+size, len(a))]
	second := b[max(at-len(a), 0):max(at+size-len(a), 0)]
	return slices.Concat(first, second)
}

// begin checks the call: two flushers must not write at once, and a write that
// cannot be interrupted gets no memory of a caller.
func (s *scriptedSink) begin(ctx context.Context, stopped *atomic.Bool, size int, tail bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	by, named := ctx.Value(callerKey{}).(string)
	if !named {
		by = "background"
	}
	s.writes = append(s.writes, sinkWrite{by, tail})
	switch {
	case s.writing:
		s.faults = append(s.faults, "two writes at once")
	case size == 0:
		s.faults = append(s.faults, "a write of nothing")
	case s.blocking && (named || tail || stopped != nil):
		s.faults = append(s.faults, "a call writes itself, or from its caller's memory, and cannot be interrupted")
	case named != (stopped != nil):
		s.faults = append(s.faults, "the background stops for users, or a user does not")
	}
	s.writing = true
}

// end checks that the bytes were still the same when the write returned.
func (s *scriptedSink) end(offered, b, tail []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !bytes.Equal(offered, slices.Concat(b, tail)) {
		s.faults = append(s.faults, "the bytes changed during the write")
	}
	s.writing, s.left = false, 0
}

// change has the write in progress see what f changes.
func (s *scriptedSink) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

// take has n more bytes taken, and waits until they are.
func (s *scriptedSink) take(n int) {
	s.change(func() { s.room += n })
	synctest.Wait()
}

// takeAll has everything taken from here on.
func (s *scriptedSink) takeAll() {
	s.change(func() { s.room, s.failure = endless, nil })
	synctest.Wait()
}

// finishWrite has the write in progress taken, and nothing behind it.
func (s *scriptedSink) finishWrite() {
	s.change(func() { s.room = s.left })
	synctest.Wait()
}

// fail has writes fail once the room is used up.
func (s *scriptedSink) fail() {
	s.change(func() { s.failure = errSink })
	synctest.Wait()
}

// flushers returns who called write, in order.
func (s *scriptedSink) flushers() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, w := range s.writes {
		names = append(names, w.by)
	}
	return strings.Join(names, " ")
}

// ---- The sender and its calls

var (
	errSink   = errors.New("the sink failed")
	errReason = errors.New("the reason")
	errCause  = errors.New("the cause")
)

// resultOf names everything that err matches, so that a test sees what it must
// not match, too.
func resultOf(err error) string {
	if err == nil {
		return "nil"
	}
	var names []string
	for _, known := range []struct {
		name string
		err  error
	}{
		{"unsent", ErrNotConnected}, {"unconfirmed", ErrUnconfirmed}, {"too large", ErrTooLarge}, {"canceled", context.Canceled},
		{"sink", errSink}, {"reason", errReason}, {"cause", errCause}, {"exhausted", errSequenceExhausted},
	} {
		if errors.Is(err, known.err) {
			names = append(names, known.name)
		}
	}
	if names == nil {
		return err.Error()
	}
	return strings.Join(names, " ")
}

const senderLimit = 256 << 10 // data that the sender's peer accepts, in bytes

// senderSecret is the traffic secret of encrypted senders.
var senderSecret = bytes.Repeat([]byte{3}, hashLen)

// A senderKind is the way a sender writes.
type senderKind struct{ encrypted, blocking bool }

var senderKinds = []senderKind{{}, {encrypted: true}, {blocking: true}, {encrypted: true, blocking: true}}

func (k senderKind) String() string {
	name := "plain"
	if k.encrypted {
		name = "encrypted"
	}
	if k.blocking {
		return name + ", uninterruptible"
	}
	return name
}

// A senderTest is one sender, its sink, and the calls that were made. A letter is
// the name of a call, and its character is the type of its frame.
type senderTest struct {
	*testing.T
	senderKind
	s     *sender
	sink  *scriptedSink
	tasks sync.WaitGroup
	sizes map[byte]int // of the data of each frame, in bytes
	calls []*senderCall
	first uint64 // sequence number of the first record

	mu       sync.Mutex
	failures []error // of the calls of failed
	failure  error   // what failures must hold; nil for nothing
}

// A senderCall is a call in a goroutine of its own.
type senderCall struct {
	t        *senderTest
	name     string
	cancel   context.CancelFunc
	result   chan error
	err      error
	returned bool
}

// eachSender tests a sender of each kind, in a bubble of its own, with a sink that
// takes nothing yet. It checks that nothing is left behind.
func eachSender(t *testing.T, f func(t *senderTest)) {
	t.Helper()
	for _, kind := range senderKinds {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			kind.test(t, f)
		})
	}
}

func (k senderKind) test(t *testing.T, f func(t *senderTest)) {
	run := synctest.Test
	if k.encrypted {
		run = bubble
	}
	run(t, func(t *testing.T) {
		var sealing *recordCipher
		if k.encrypted {
			sealing = newRecordCipher(senderSecret)
			noError(t, sealing.prepareKey()) // some tests replace its AEAD
		}
		st := &senderTest{T: t, senderKind: k, sink: &scriptedSink{blocking: k.blocking, changed: make(chan struct{})}, sizes: map[byte]int{}}
		// The pool is new, because channels of a bubble cannot be used outside.
		st.s = newSender(st.sink, senderLimit, new(bufferPool), sealing, &st.tasks, func(err error) {
			st.mu.Lock()
			defer st.mu.Unlock()
			st.failures = append(st.failures, err)
		})
		defer st.end()
		f(st)
	})
}

// end checks that no call, no goroutine and no waiter is left, and lets go what is.
func (t *senderTest) end() {
	t.Helper()
	synctest.Wait()
	for _, c := range t.calls {
		if !c.done() {
			t.Errorf("the call %s has not returned", c.name)
		}
	}
	var ended atomic.Bool
	go func() {
		t.tasks.Wait()
		ended.Store(true)
	}()
	synctest.Wait()
	if !ended.Load() {
		t.Error("a goroutine of the sender is left")
	}
	t.s.mu.Lock()
	if s := t.s; s.flushing || len(s.roomWaiters)+len(s.openBatch.waiters)+len(s.activeBatch.waiters) > 0 {
		t.Errorf("left: flushing %v, %d calls that wait for room, %d and %d for results", s.flushing, len(s.roomWaiters), len(s.openBatch.waiters), len(s.activeBatch.waiters))
	} else if s.openBatch != noBatch && s.openBatch.isEmpty() {
		t.Error("an idle sender holds an empty batch")
	}
	t.s.mu.Unlock()
	t.sink.fail()
	for _, c := range t.calls {
		c.cancel()
	}
	for _, fault := range t.sink.faults {
		t.Errorf("the sink got %s", fault)
	}
	synctest.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	if want := t.failure; len(t.failures) > 1 || len(t.failures) == 1 && t.failures[0] != want || len(t.failures) == 0 && want != nil {
		t.Errorf("failed was called with %v, want %v once", t.failures, want)
	}
}

// start makes a call, and waits until it has returned or is blocked.
func (t *senderTest) start(name string, f func(context.Context) error) *senderCall {
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), callerKey{}, name))
	c := &senderCall{t: t, name: name, cancel: cancel, result: make(chan error, 1)}
	t.calls = append(t.calls, c)
	go func() { c.result <- f(ctx) }()
	synctest.Wait()
	return c
}

// data returns what the frame of a letter has as data.
func (t *senderTest) data(letter byte, size int) []byte {
	t.sizes[letter] = size
	return bytes.Clone(senderData(uint32(letter), size))
}

// senderPattern is what all data is a part of.
var senderPattern = func() []byte {
	random := rand.New(rand.NewPCG(0, 0))
	b := make([]byte, 0, senderLimit+4096)
	for len(b) < cap(b) {
		b = binary.LittleEndian.AppendUint64(b, random.Uint64())
	}
	return b
}()

// senderData returns the data of a frame, which is read only.
func senderData(id uint32, size int) []byte {
	at := int(id % 4096)
	return senderPattern[at:][:size]
}

// write sends a frame, and overwrites the slice when the call has returned.
func (t *senderTest) write(letter byte, size int) *senderCall { return t.send(letter, size, false) }

func (t *senderTest) queue(letter byte, size int) *senderCall { return t.send(letter, size, true) }

func (t *senderTest) send(letter byte, size int, hold bool) *senderCall {
	data := t.data(letter, size)
	return t.start(string(letter), func(ctx context.Context) error {
		defer clear(data)
		return t.s.writeFrame(ctx, frameHeader{frameType: uint32(letter)}, data, hold)
	})
}

// queueAll queues frames that stay in the open batch.
func (t *senderTest) queueAll(letters string, size int) {
	t.Helper()
	for _, letter := range []byte(letters) {
		t.queue(letter, size).want("nil")
	}
}

func (t *senderTest) flush() *senderCall { return t.start("flush", t.s.flushAccepted) }

func (t *senderTest) drain() *senderCall { return t.start("drain", t.s.drainAccepted) }

// done reports whether the call has returned.
func (c *senderCall) done() bool {
	if !c.returned {
		select {
		case c.err = <-c.result:
			c.returned = true
		default:
		}
	}
	return c.returned
}

// want checks that the call has returned, and with what; see resultOf.
func (c *senderCall) want(want string) {
	c.t.Helper()
	if !c.done() {
		c.t.Fatalf("the call %s waits, want %s", c.name, want)
	}
	if got := resultOf(c.err); got != want {
		c.t.Errorf("the call %s returns %s (%v), want %s", c.name, got, c.err, want)
	}
}

func (c *senderCall) wantWaiting() {
	c.t.Helper()
	if c.done() {
		c.t.Fatalf("the call %s has returned %v, want it to wait", c.name, c.err)
	}
}

// stop cancels the call's context.
func (c *senderCall) stop() *senderCall {
	c.cancel()
	synctest.Wait()
	return c
}

// wantSent decodes what the sink has taken, and checks it: the letters of frames,
// control frames by name, and "..." if the last frame is not complete.
func (t *senderTest) wantSent(want string) {
	t.Helper()
	if got := t.sent(); got != want {
		t.Errorf("the sink has %q, want %q", got, want)
	}
}

func (t *senderTest) sent() string {
	t.Helper()
	var names []string
	p := t.decode()
	for _, f := range p.frames {
		name := "?"
		switch letter := byte(f.frameType); {
		case f.frameType != controlType:
			if name = string(letter); !bytes.Equal(f.data, senderData(f.frameType, t.sizes[letter])) {
				name += "(damaged)"
			}
		case f.data[0] == kindPing:
			name = "ping"
		case f.data[0] == kindPong:
			name = "pong" + string(f.data[1:2])
		case f.data[0] == kindClose:
			name = "close"
		case f.data[0] == kindCloseAck:
			name = "ack"
		}
		names = append(names, name)
	}
	if p.failure != nil {
		names = append(names, p.failure.Error())
	}
	if p.inside {
		names = append(names, "...")
	}
	return strings.Join(names, " ")
}

func (t *senderTest) decode() parsed {
	t.sink.mu.Lock()
	defer t.sink.mu.Unlock()
	return feeding{piece: piecesOf(nil)}.feed(t.T, t.decoder(), t.sink.got)
}

// decoder returns the decoder of the sender's peer.
func (t *senderTest) decoder() *decoder {
	d := &decoder{maxDataSize: senderLimit, buffers: feedMemory}
	if t.encrypted {
		d.cipher = newRecordCipher(senderSecret)
		d.cipher.sequence, d.cipher.rekeyLimit = t.first, t.s.cipher.rekeyLimit
	}
	return d
}

// wantFlushers checks who called the sink. A call on an uninterruptible sink has
// the background call it.
func (t *senderTest) wantFlushers(want string) {
	t.Helper()
	if t.blocking {
		want = strings.Join(slices.Repeat([]string{"background"}, len(strings.Fields(want))), " ")
	}
	if got := t.sink.flushers(); got != want {
		t.Errorf("the sink was called by %q, want %q", got, want)
	}
}

// wantAccepted checks the number of messages that were accepted.
func (t *senderTest) wantAccepted(want uint64) {
	t.Helper()
	if got, _, _ := t.s.acceptedTotals(); got != want {
		t.Errorf("%d messages are accepted, want %d", got, want)
	}
}

// wantNoRoom checks the number of calls that wait for room.
func (t *senderTest) wantNoRoom(want int) {
	t.Helper()
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	if got := len(t.s.roomWaiters); got != want {
		t.Errorf("%d calls wait for room, want %d", got, want)
	}
}

// wantUsable takes everything, and checks that the sink then has the frames that
// are wanted, and that the sender still works.
func (t *senderTest) wantUsable(want string) {
	t.Helper()
	t.sink.takeAll()
	t.wantSent(want)
	t.write('Z', 10).want("nil")
	t.wantSent(strings.TrimSpace(want + " Z"))
}

// pretendFlush acts as if somebody were flushing, so that the test decides when
// that ends. The function it returns ends the flush and calls more, both under the
// lock: the calls that are waiting see both at once.
func (t *senderTest) pretendFlush() (end func(more func())) {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	t.s.flushing, t.s.activeBatch = true, new(batch)
	return func(more func()) {
		t.s.mu.Lock()
		t.s.flushing, t.s.activeBatch = false, noBatch
		t.s.scheduleFlushLocked()
		more()
		t.s.mu.Unlock()
		synctest.Wait()
	}
}

// TestSenderJoinsFlushToBegin: a call that waits for a flush which is about to begin waits
// for the open batch, even if its frames were withdrawn. The shared noBatch has no waiter.
func TestSenderJoinsFlushToBegin(t *testing.T) {
	t.Parallel()
	eachSender(t, func(t *senderTest) {
		end := t.pretendFlush()
		a := t.write('A', 10)
		b := t.flush()
		a.stop().want("canceled")
		b.wantWaiting()
		end(func() {
			s := t.s
			if !s.flushing || s.activeBatch != noBatch || !s.openBatch.isEmpty() {
				t.Error("b is not about to flush an empty batch")
			}
			if s.openBatch == noBatch || s.lastBatchLocked() != s.openBatch || s.flushedBatchLocked() != s.openBatch {
				t.Error("a call that joins the flush does not wait for the open batch")
			}
		})
		b.want("nil")
	})
}

// ---- Order

func TestSenderOrder(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		run  func(t *senderTest)
	}{
		{"written frames", func(t *senderTest) {
			t.write('A', 10).want("nil")
			t.wantSent("A")
			t.write('B', 0).want("nil")
			t.write('C', 20_000).want("nil")
			t.write('D', 10).want("nil")
			t.wantSent("A B C D")
			t.wantFlushers("A B C D")
		}},
		{"queued frames leave with the next write, in one batch", func(t *senderTest) {
			t.queueAll("AB", 10)
			t.wantSent("")
			t.write('C', 10).want("nil")
			t.wantSent("A B C")
			t.wantFlushers("C")
		}},
		{"queued frames leave with the next large write, in one batch", func(t *senderTest) {
			t.queueAll("AB", 20_000)
			t.write('C', 100_000).want("nil")
			t.wantSent("A B C")
			t.wantFlushers("C")
		}},
		{"queued frames leave with a flush", func(t *senderTest) {
			t.queueAll("AB", 10)
			t.queueAll("C", largeDataSize) // it is copied, since its call returns at once
			t.queueAll("D", 10)
			t.wantSent("")
			t.flush().want("nil")
			t.wantSent("A B C D")
			t.wantFlushers("flush")
		}},
		{"a flush of nothing", func(t *senderTest) {
			t.flush().want("nil")
			t.wantFlushers("")
		}},
		{"64 KiB of queued frames leave by themselves", func(t *senderTest) {
			t.queueAll("ABCD", 16_000-headerSize)
			t.queueAll("E", batchSize-4*16_000-headerSize-1)
			t.wantSent("")
			t.flush().want("nil")
			t.queueAll("FGHI", 16_000-headerSize)
			t.wantSent("A B C D E")
			t.queueAll("J", batchSize-4*16_000-headerSize)
			t.wantSent("A B C D E F G H I J")
			t.wantFlushers("flush J")
		}},
		{"a queued frame that does not fit has the ones before it sent", func(t *senderTest) {
			t.queueAll("ABCD", 16_000-headerSize)
			t.queueAll("E", batchSize-4*16_000-headerSize+1)
			t.wantSent("A B C D")
			t.flush().want("nil")
			t.wantSent("A B C D E")
			t.wantFlushers("E flush")
		}},
		{"a queued frame of 64 KiB leaves at once", func(t *senderTest) {
			t.queueAll("A", batchSize-headerSize-1)
			t.wantSent("")
			t.queueAll("B", batchSize-headerSize) // it does not fit behind A, and is not copied
			t.wantSent("A B")
			t.queueAll("C", 200_000)
			t.wantSent("A B C")
			t.queueAll("D", 10)
			t.queueAll("E", batchSize-headerSize)
			t.wantSent("A B C D E")
		}},
		{"data that is too large", func(t *senderTest) {
			t.queueAll("A", 10)
			t.write('B', senderLimit+1).want("too large")
			t.wantSent("")
			t.write('C', senderLimit).want("nil")
			t.wantSent("A C")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			eachSender(t, func(t *senderTest) {
				t.sink.takeAll()
				c.run(t)
			})
		})
	}
}

func TestSenderOrderOfCallsThatWait(t *testing.T) {
	t.Parallel()
	t.Run("behind large data", func(t *testing.T) {
		eachSender(t, func(t *senderTest) {
			calls := []*senderCall{t.write('A', 10), t.write('B', 10), t.write('C', 20_000)}
			t.wantAccepted(3)
			calls = append(calls, t.write('D', 10), t.write('E', 70_000), t.queue('F', 10), t.write('G', 0))
			for _, c := range calls {
				c.wantWaiting()
			}
			t.wantAccepted(3) // nothing is accepted behind large data that is not copied
			t.sink.finishWrite()
			t.wantAccepted(5)
			t.sink.finishWrite()
			t.wantAccepted(7)
			t.sink.takeAll()
			for _, c := range calls {
				c.want("nil")
			}
			t.wantSent("A B C D E F G")
			t.wantFlushers("A B D G")
		})
	})
	t.Run("behind a full batch", func(t *testing.T) {
		eachSender(t, func(t *senderTest) {
			calls := []*senderCall{t.write('A', 10)}
			for _, letter := range []byte("BCDE") {
				calls = append(calls, t.write(letter, 16_000))
			}
			calls = append(calls, t.write('F', 3_000))
			calls = append(calls, t.write('G', 100)) // it fits, and does not overtake F
			t.wantAccepted(5)
			t.sink.finishWrite()
			calls[0].want("nil")
			t.wantSent("A")
			t.wantAccepted(7) // there is room again as soon as the batch is being flushed
			for _, c := range calls[1:] {
				c.wantWaiting()
			}
			t.sink.takeAll()
			for _, c := range calls {
				c.want("nil")
			}
			t.wantSent("A B C D E F G")
			t.wantFlushers("A B F")
		})
	})
	t.Run("behind queued frames that nobody waits for", func(t *testing.T) {
		eachSender(t, func(t *senderTest) {
			a := t.write('A', 10)
			t.queueAll("BCDE", 15_000-headerSize)
			t.queueAll("F", batchSize-4*15_000-2*headerSize)
			g := t.write('G', 10)
			t.wantNoRoom(1)
			t.sink.takeAll()
			a.want("nil")
			g.want("nil")
			t.wantSent("A B C D E F G")
			t.wantFlushers("A G G") // the first time to have room
		})
	})
	t.Run("behind a full batch that gets room, and not enough", func(t *testing.T) {
		eachSender(t, func(t *senderTest) {
			t.write('A', 10)
			for _, letter := range []byte("BCDE") {
				t.write(letter, 15_000)
			}
			f := t.write('F', 10)
			g, h := t.write('G', 6_000), t.write('H', 6_000)
			f.stop().want("canceled") // G tries again, and stays the next
			t.wantNoRoom(2)
			t.wantAccepted(5)
			t.sink.finishWrite()
			t.wantAccepted(7)
			t.sink.takeAll()
			g.want("nil")
			h.want("nil")
			t.wantSent("A B C D E G H")
		})
	})
}

// ---- Results and flushers

func TestSenderWaitersGetTheResultOfTheirBatch(t *testing.T) {
	t.Parallel()
	eachSender(t, func(t *senderTest) {
		a, b, c := t.write('A', 10), t.write('B', 10), t.write('C', 10)
		t.sink.take(5)
		for _, call := range []*senderCall{a, b, c} {
			call.wantWaiting()
		}
		t.sink.finishWrite()
		a.want("nil")
		b.wantWaiting()
		c.wantWaiting()
		t.wantSent("A")
		d, e := t.write('D', 10), t.write('E', 30_000)
		t.sink.finishWrite()
		b.want("nil")
		c.want("nil")
		d.wantWaiting()
		e.wantWaiting()
		t.sink.fail()
		t.failure = errSink
		kind := "unsent sink"
		if t.blocking {
			kind = "unconfirmed sink"
		}
		d.want(kind)
		e.want(kind)
		t.wantSent("A B C")
		t.wantFlushers("A B D") // the first waiter of each batch flushes it
	})
}

func TestSenderFlushWaitsForWhatWasAccepted(t *testing.T) {
	t.Parallel()
	t.Run("nothing is in the open batch", func(t *testing.T) {
		eachSender(t, func(t *senderTest) {
			a, flush := t.write('A', 10), t.flush()
			flush.wantWaiting()
			t.sink.takeAll()
			a.want("nil")
			flush.want("nil")
			t.wantFlushers("A")
		})
	})
	t.Run("nothing is in the open batch, and the sink fails", func(t *testing.T) {
		eachSender(t, func(t *senderTest) {
			t.write('A', 10)
			flush := t.flush()
			t.sink.take(3)
			t.sink.fail()
			t.failure = errSink
			flush.want("unconfirmed sink")
		})
	})
	t.Run("frames are in the open batch", func(t *testing.T) {
		eachSender(t, func(t *senderTest) {
			a := t.write('A', 10)
			t.queueAll("B", 10)
			flush := t.flush()
			t.sink.finishWrite()
			a.want("nil")
			flush.wantWaiting()
			t.sink.takeAll()
			flush.want("nil")
			t.wantSent("A B")
			t.wantFlushers("A flush")
		})
	})
	t.Run("queued frames that nobody waits for stay", func(t *testing.T) {
		eachSender(t, func(t *senderTest) {
			a := t.write('A', 10)
			t.queueAll("B", 10)
			t.sink.takeAll()
			a.want("nil")
			t.wantSent("A")
			t.flush().want("nil")
			t.wantSent("A B")
		})
	})
	t.Run("a queued frame that fills the batch waits for it", func(t *testing.T) {
		eachSender(t, func(t *senderTest) {
			a := t.write('A', 10)
			t.queueAll("BCDE", 16_000-headerSize)
			f := t.queue('F', batchSize-4*16_000-headerSize)
			f.wantWaiting()
			t.sink.takeAll()
			a.want("nil")
			f.want("nil")
			t.wantSent("A B C D E F")
			t.wantFlushers("A F")
		})
	})
}

// ---- Contexts

func TestSenderContext(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		run  func(t *senderTest) (sent string) // while the sink takes nothing; sent is what it gets later
	}{
		{"done while it waits for room behind large data", func(t *senderTest) string {
			a, b, c, d := t.write('A', 10), t.write('B', 20_000), t.write('C', 10), t.write('D', 20_000)
			e := t.write('E', 10)
			t.wantNoRoom(3)
			c.stop().want("canceled")
			d.stop().want("canceled")
			t.wantNoRoom(1)
			for _, call := range []*senderCall{a, b, e} {
				call.wantWaiting()
			}
			return "A B E"
		}},
		{"done while it waits for room behind a full batch", func(t *senderTest) string {
			for _, letter := range []byte("ABCDE") {
				t.write(letter, 16_000)
			}
			t.write('F', 3_000).stop().want("canceled")
			return "A B C D E"
		}},
		{"done while it flushes the frames before it to have room", func(t *senderTest) string {
			t.queueAll("ABCD", 16_000)
			t.sink.take(100)
			t.write('E', 3_000).stop().want("canceled")
			return "A B C D"
		}},
		{"done while it waits for room, as it gets room", func(t *senderTest) string {
			end := t.pretendFlush()
			t.write('A', 20_000)
			b, c := t.write('B', 20_000), t.write('C', 10)
			end(func() {
				b.cancel() // b sees both, and has to pass the room on
				t.s.withdrawLargeFrameLocked(errReason)
			})
			t.calls[0].want("reason")
			b.want("canceled")
			t.wantAccepted(1)
			c.wantWaiting()
			return "C"
		}},
		{"done while last in the open batch", func(t *senderTest) string {
			t.write('A', 10)
			b := t.write('B', 10)
			t.wantAccepted(2)
			b.stop().want("canceled")
			t.wantAccepted(1)
			t.write('C', 10)
			return "A C"
		}},
		{"done while last in the open batch, with large data", func(t *senderTest) string {
			t.write('A', 10)
			b, c, d := t.write('B', 100_000), t.write('C', 10), t.write('D', 10)
			t.wantAccepted(2)
			b.stop().want("canceled")
			t.wantAccepted(3) // its room is taken at once
			c.wantWaiting()
			d.wantWaiting()
			return "A C D"
		}},
		{"done while last in the open batch, behind queued frames", func(t *senderTest) string {
			t.write('A', 10)
			t.queueAll("B", 10)
			t.write('C', 10).stop().want("canceled")
			t.sink.takeAll()
			t.wantSent("A") // nobody waits for B
			t.flush().want("nil")
			return "A B"
		}},
		{"done one after the other, the last one first", func(t *senderTest) string {
			t.write('A', 10)
			b, c, d := t.write('B', 10), t.write('C', 10), t.write('D', 20_000)
			d.stop().want("canceled")
			c.stop().want("canceled")
			b.stop().want("canceled")
			t.wantAccepted(1)
			return "A"
		}},
		{"done while not last in the open batch", func(t *senderTest) string {
			t.write('A', 10)
			b, c := t.write('B', 10), t.write('C', 10)
			b.stop().want("unconfirmed canceled")
			c.wantWaiting()
			return "A B C"
		}},
		{"done while not last in the open batch, before large data", func(t *senderTest) string {
			t.write('A', 10)
			b, c := t.write('B', 10), t.write('C', 20_000)
			b.stop().want("unconfirmed canceled")
			c.wantWaiting()
			return "A B C"
		}},
		{"done while not last, and then nobody waits for the batch", func(t *senderTest) string {
			t.write('A', 10)
			b, c := t.write('B', 10), t.write('C', 10)
			b.stop().want("unconfirmed canceled")
			c.stop().want("canceled")
			return "A B"
		}},
		{"done while it flushes", func(t *senderTest) string {
			a, b := t.write('A', 10), t.write('B', 10)
			a.stop().want("unconfirmed canceled")
			b.wantWaiting()
			return "A B"
		}},
		{"done while it flushes, part of the way", func(t *senderTest) string {
			a, b := t.write('A', 10), t.write('B', 10)
			t.sink.take(9)
			a.stop().want("unconfirmed canceled")
			b.wantWaiting()
			t.sink.take(1)
			b.wantWaiting()
			return "A B"
		}},
		{"done while another call flushes it", func(t *senderTest) string {
			t.write('A', 10)
			b, c := t.write('B', 10), t.write('C', 10)
			t.sink.finishWrite()
			t.sink.take(3)
			c.stop().want("unconfirmed canceled")
			b.wantWaiting()
			return "A B C"
		}},
		{"done while another call flushes it, with large data", func(t *senderTest) string {
			t.write('A', 10)
			b, c := t.write('B', 10), t.write('C', 20_000)
			t.sink.finishWrite()
			t.sink.take(3)
			c.stop().want("unconfirmed canceled")
			b.wantWaiting() // its flush was interrupted for C, and it still gets the true result
			t.s.mu.Lock()
			if n := len(t.s.activeBatch.waiters); n != 1 { // C's would be woken in its next use
				t.Errorf("%d calls wait for the batch, want 1", n)
			}
			t.s.mu.Unlock()
			t.write('D', 10)
			t.sink.takeAll()
			b.want("nil")
			if t.blocking {
				t.wantFlushers("A B D")
			} else {
				t.wantFlushers("A B background D") // D is not interrupted
			}
			return "A B C D"
		}},
		{"done while another call flushes it, with large data, and then that call's", func(t *senderTest) string {
			t.write('A', 10)
			b, c := t.write('B', 10), t.write('C', 20_000)
			t.sink.finishWrite()
			c.stop().want("unconfirmed canceled")
			b.stop().want("unconfirmed canceled")
			return "A B C"
		}},
		{"of both, done while one flushes the other's large data", func(t *senderTest) string {
			t.write('A', 10)
			b, c := t.write('B', 10), t.write('C', 20_000)
			t.sink.finishWrite()
			b.cancel()
			c.stop().want("unconfirmed canceled")
			b.want("unconfirmed canceled")
			return "A B C"
		}},
		{"of a flush, done while the batch is open", func(t *senderTest) string {
			t.write('A', 10)
			t.queueAll("B", 10)
			t.flush().stop().want("unconfirmed canceled")
			return "A B"
		}},
		{"of a flush, done while it flushes", func(t *senderTest) string {
			t.queueAll("AB", 10)
			t.flush().stop().want("unconfirmed canceled")
			return "A B"
		}},
		{"done as it is to flush, while last", func(t *senderTest) string {
			end := t.pretendFlush()
			a := t.write('A', 10)
			end(a.cancel)
			a.want("canceled")
			t.wantAccepted(0)
			return ""
		}},
		{"done as it is to flush, while last, with large data and a call behind it", func(t *senderTest) string {
			end := t.pretendFlush()
			a, b := t.write('A', 20_000), t.write('B', 10)
			end(a.cancel)
			a.want("canceled")
			b.wantWaiting()
			return "B"
		}},
		{"done as it is to flush, while not last", func(t *senderTest) string {
			end := t.pretendFlush()
			a, b := t.write('A', 10), t.write('B', 10)
			end(a.cancel)
			a.want("unconfirmed canceled")
			b.wantWaiting()
			return "A B"
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			eachSender(t, func(t *senderTest) {
				sent := c.run(t)
				waiting := slices.DeleteFunc(slices.Clone(t.calls), (*senderCall).done)
				t.wantUsable(sent)
				for _, c := range waiting {
					c.want("nil") // the context of one call is nothing to others
				}
			})
		})
	}
}

// ---- Large data

// TestSenderLargeDataIsItsCallers: every call overwrites its data once it has
// returned; see send. So a byte that is read later shows.
func TestSenderLargeDataIsItsCallers(t *testing.T) {
	t.Parallel()
	const size = 40_000
	for name, end := range map[string]struct {
		f    func(t *senderTest, call *senderCall)
		want string
		sent string // behind the frame
	}{
		"its context is done": {func(t *senderTest, call *senderCall) { call.stop() }, "unconfirmed canceled", ""},
		"queueClose":          {func(t *senderTest, _ *senderCall) { t.s.queueClose(errReason, closeFrame) }, "unconfirmed reason", " close"},
		"dismiss": {func(t *senderTest, _ *senderCall) {
			t.s.queueCloseAck(errReason, closeFrame, ackFrame)
			t.s.releaseUserCalls(errCause)
		}, "unconfirmed cause", " close ack"},
		// What is being written goes on until the transport is closed.
		"abandon": {func(t *senderTest, _ *senderCall) { t.s.abandonSending(errReason, errCause) }, "unconfirmed cause", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, taken := range []int{0, 3, headerSize, headerSize + 1, size, headerSize + size - 1} {
				t.Run(strconv.Itoa(taken)+" bytes", func(t *testing.T) {
					eachSender(t, func(t *senderTest) {
						a := t.write('A', size)
						t.sink.take(taken)
						a.wantWaiting()
						if tail := t.sink.writes[0].tail; tail != (!t.encrypted && !t.blocking) {
							t.Errorf("the sink gets the caller's memory: %v", tail)
						}
						end.f(t, a)
						synctest.Wait()
						a.want(end.want)
						t.sink.takeAll()
						t.wantSent("A" + end.sent)
					})
				})
			}
		})
	}
	t.Run("of a waiter that flushes", func(t *testing.T) {
		t.Parallel()
		eachSender(t, func(t *senderTest) {
			t.write('A', 10)
			t.queueAll("B", 20_000)
			c := t.write('C', size)
			t.sink.finishWrite()
			t.sink.take(30_000)
			c.stop().want("unconfirmed canceled")
			t.wantUsable("A B C")
		})
	})
	for name, c := range map[string]struct {
		end  func(t *senderTest, call *senderCall)
		want string
		sent string
	}{
		"its context is done, while it is sealed": {func(_ *senderTest, call *senderCall) { call.cancel() }, "unconfirmed canceled", "A"},
		"queueClose, while it is sealed":          {func(t *senderTest, _ *senderCall) { t.s.queueClose(errReason, closeFrame) }, "unconfirmed reason", "A close"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, blocking := range []bool{false, true} {
				senderKind{true, blocking}.test(t, func(t *senderTest) {
					slow := &slowAEAD{t.s.cipher.aead, make(chan struct{})}
					t.s.cipher.aead = slow
					a := t.write('A', size)
					c.end(t, a)
					synctest.Wait()
					a.wantWaiting() // sealing takes processor time only, so it is not cut short
					close(slow.release)
					synctest.Wait()
					a.want(c.want)
					t.sink.takeAll()
					t.wantSent(c.sent)
				})
			}
		})
	}
	t.Run("another call's flush ends before it is interrupted", func(t *testing.T) {
		t.Parallel()
		senderKind{encrypted: true}.test(t, func(t *senderTest) {
			slow := &slowAEAD{t.s.cipher.aead, make(chan struct{})}
			end := t.pretendFlush()
			a, b := t.write('A', 10), t.write('B', size)
			t.s.cipher.aead = slow
			end(func() {})
			b.stop().wantWaiting() // A seals B's data
			t.sink.takeAll()
			close(slow.release)
			synctest.Wait()
			a.want("nil")
			b.want("nil")
			t.sink.change(func() { t.sink.room = 0 })
			c := t.write('C', 10)
			t.wantUsable("A B C")
			c.want("nil")
			t.wantFlushers("A C Z") // C is not interrupted
		})
	})
	t.Run("of a queued frame", func(t *testing.T) {
		t.Parallel()
		eachSender(t, func(t *senderTest) {
			t.queueAll("A", 30_000)
			b := t.queue('B', batchSize)
			t.sink.take(batchSize)
			b.stop().want("unconfirmed canceled")
			t.wantUsable("A B")
		})
	})
}

// ---- The sink fails

func TestSenderSinkFails(t *testing.T) {
	t.Parallel()
	for _, size := range []int{10, 20_000} {
		for _, taken := range []int{0, 1, size} {
			t.Run(fmt.Sprintf("%d bytes after %d", size, taken), func(t *testing.T) {
				t.Parallel()
				eachSender(t, func(t *senderTest) {
					a, b, c, d := t.write('A', size), t.write('B', 10), t.write('C', 20_000), t.write('D', 10)
					t.sink.take(taken)
					t.sink.fail()
					t.failure = errSink
					if want := "unconfirmed sink"; taken == 0 && !t.blocking {
						a.want("unsent sink")
					} else {
						a.want(want)
					}
					for _, call := range []*senderCall{b, c, d, t.write('E', 10), t.write('F', 20_000), t.queue('G', 10), t.flush(), t.drain()} {
						call.want("unsent sink")
					}
					if !t.s.isBroken() {
						t.Error("the sender is not broken")
					}
					t.s.queuePing()
					t.s.queuePong([]byte("12345678"))
					t.s.queueClose(errReason, closeFrame)
					t.s.queueCloseAck(errReason, ackFrame)
					t.sink.takeAll() // nothing may follow bytes that are missing
					if n := len(t.sink.got); n != taken {
						t.Errorf("the sink has %d bytes, want %d", n, taken)
					}
				})
			})
		}
	}
	t.Run("behind a write that was interrupted for another call's large data", func(t *testing.T) {
		t.Parallel()
		eachSender(t, func(t *senderTest) {
			t.write('A', 10)
			b, c, d := t.write('B', 10), t.write('C', 20_000), t.write('D', 10)
			t.sink.finishWrite()
			t.sink.take(5)
			c.stop().want("unconfirmed canceled")
			t.sink.fail()
			t.failure = errSink
			b.want("unconfirmed sink")
			d.want("unsent sink")
		})
	})
	t.Run("behind an interrupted write", func(t *testing.T) {
		t.Parallel()
		eachSender(t, func(t *senderTest) {
			a, b, flush := t.write('A', 20_000), t.write('B', 10), t.flush()
			t.sink.take(5)
			a.stop().want("unconfirmed canceled")
			settle := t.start("settle", func(ctx context.Context) error { t.s.awaitFlushEnd(ctx); return nil })
			settle.wantWaiting()
			t.sink.fail()
			t.failure = errSink
			b.want("unsent sink")
			flush.want("unsent sink")
			settle.want("nil")
		})
	})
	t.Run("a call that flushes others' frames to have room", func(t *testing.T) {
		t.Parallel()
		eachSender(t, func(t *senderTest) {
			t.queueAll("ABCD", 16_000)
			e := t.write('E', 3_000)
			t.sink.take(5)
			t.sink.fail()
			t.failure = errSink
			e.want("unsent unconfirmed sink") // its own frame is not sent; it reports the lost ones
			e.wantLost(4)
			t.write('F', 10).want("unsent sink")
		})
	})
}

var lostNumber = regexp.MustCompile(`(\d+) queued messages`)

// lostNumberOf returns the number of lost messages that err reports.
func lostNumberOf(err error) int {
	if err == nil {
		return 0
	}
	if m := lostNumber.FindStringSubmatch(err.Error()); m != nil {
		n, _ := strconv.Atoi(m[1])
		return n
	}
	return 0
}

func (c *senderCall) wantLost(want int) {
	c.t.Helper()
	if got := lostNumberOf(c.err); got != want {
		c.t.Errorf("%v: %d lost messages, want %d", c.err, got, want)
	}
}

func (t *senderTest) wantAbandoned(want lostMessages) {
	t.Helper()
	if got := t.s.abandonSending(errReason, errCause); got != want {
		t.Errorf("abandon returns %+v, want %+v", got, want)
	}
	synctest.Wait()
}

func TestSenderLostQueuedMessagesAreReportedOnce(t *testing.T) {
	t.Parallel()
	for _, taken := range []int{0, 3} {
		// fill queues two messages into the batch that is being flushed, and one
		// into the open batch.
		fill := func(t *senderTest) (want string, lost lostMessages) {
			t.queueAll("AB", 10)
			c := t.write('C', 10)
			t.queueAll("D", 10)
			t.sink.take(taken)
			t.sink.fail()
			t.failure = errSink
			if taken == 0 && !t.blocking {
				c.want("unsent sink")
				return "unsent sink", lostMessages{unsent: 3}
			}
			c.want("unconfirmed sink")
			return "unsent unconfirmed sink", lostMessages{unsent: 1, uncertain: 2}
		}
		for name, report := range map[string]func(t *senderTest) *senderCall{
			"by write": func(t *senderTest) *senderCall { return t.write('E', 10) },
			"by queue": func(t *senderTest) *senderCall { return t.queue('E', 10) },
			"by flush": (*senderTest).flush,
		} {
			t.Run(fmt.Sprintf("%s after %d bytes", name, taken), func(t *testing.T) {
				t.Parallel()
				eachSender(t, func(t *senderTest) {
					want, lost := fill(t)
					c := report(t)
					c.want(want)
					c.wantLost(int(lost.unsent + lost.uncertain))
					for _, c := range []*senderCall{t.write('F', 10), t.flush()} {
						c.want("unsent sink")
						c.wantLost(0)
					}
					t.wantAbandoned(lostMessages{})
				})
			})
		}
		t.Run(fmt.Sprintf("by abandon after %d bytes", taken), func(t *testing.T) {
			t.Parallel()
			eachSender(t, func(t *senderTest) {
				_, lost := fill(t)
				t.wantAbandoned(lost)
				t.wantAbandoned(lostMessages{})
				c := t.write('F', 10)
				c.want("unsent sink")
				c.wantLost(0)
			})
		})
	}
	t.Run("sent ones are not", func(t *testing.T) {
		t.Parallel()
		eachSender(t, func(t *senderTest) {
			t.sink.takeAll()
			t.queueAll("AB", 10)
			t.flush().want("nil")
			t.queueAll("C", 10)
			t.wantAbandoned(lostMessages{unsent: 1})
			t.wantSent("A B")
		})
	})
	t.Run("of a write that is interrupted before any byte", func(t *testing.T) {
		t.Parallel()
		eachSender(t, func(t *senderTest) {
			t.queueAll("AB", 10)
			t.flush().stop().want("unconfirmed canceled")
			t.sink.fail()
			t.failure = errSink
			if t.blocking {
				t.wantAbandoned(lostMessages{uncertain: 2})
			} else {
				t.wantAbandoned(lostMessages{unsent: 2})
			}
		})
	})
}

// ---- Close and close-ack

// A stuckSender has a frame of size bytes that is being flushed, and behind it a
// frame, a queued one, one with large data that is not copied, and two calls that
// wait for room. The sink has taken a part of the first one.
type stuckSender struct{ flushed, waits, large, noRoom, noRoomQueue *senderCall }

func (t *senderTest) stuck(size int) (s stuckSender) {
	t.Helper()
	s.flushed, s.waits = t.write('A', size), t.write('B', 10)
	t.queueAll("C", 10)
	s.large = t.write('L', 20_000)
	s.noRoom, s.noRoomQueue = t.write('N', 10), t.queue('Q', 10)
	t.sink.take(5)
	for _, c := range []*senderCall{s.flushed, s.waits, s.large, s.noRoom, s.noRoomQueue} {
		c.wantWaiting()
	}
	return s
}

// wantRefused checks that new calls get the reason.
func (t *senderTest) wantRefused(reason string) {
	t.Helper()
	for _, c := range []*senderCall{t.write('X', 10), t.queue('X', 10), t.write('X', 20_000), t.flush()} {
		c.want(reason)
	}
}

var (
	closeFrame = [2]byte{kindClose, closedByUser}
	ackFrame   = [2]byte{kindCloseAck, allReceived}
)

func TestSenderQueueClose(t *testing.T) {
	t.Parallel()
	for _, size := range []int{10, 20_000} {
		t.Run(fmt.Sprintf("while %d bytes are being flushed", size), func(t *testing.T) {
			t.Parallel()
			eachSender(t, func(t *senderTest) {
				stuck := t.stuck(size)
				t.s.queueClose(errReason, closeFrame)
				synctest.Wait()
				stuck.flushed.want("unconfirmed reason")
				stuck.waits.want("unconfirmed reason")
				stuck.large.want("reason")
				stuck.noRoom.want("reason")
				stuck.noRoomQueue.want("reason")
				t.wantRefused("reason")
				t.wantAccepted(3)
				drain := t.drain()
				drain.wantWaiting()
				t.sink.takeAll()
				drain.want("nil")
				t.wantSent("A B C close")
				t.s.queueCloseAck(errCause, ackFrame)
				synctest.Wait()
				t.wantRefused("reason") // the first one counts
				t.wantSent("A B C close ack")
			})
		})
	}
	t.Run("while nobody writes", func(t *testing.T) {
		t.Parallel()
		eachSender(t, func(t *senderTest) {
			t.queueAll("A", 10)
			t.s.queueClose(errReason, closeFrame)
			synctest.Wait() // it does not wait for the sink
			t.sink.takeAll()
			t.wantSent("A close")
			t.wantRefused("reason")
			t.wantAbandoned(lostMessages{})
		})
	})
	t.Run("while a call flushes others' frames to have room", func(t *testing.T) {
		t.Parallel()
		eachSender(t, func(t *senderTest) {
			t.queueAll("ABCD", 16_000)
			e := t.write('E', 3_000)
			t.sink.take(5)
			t.s.queueClose(errReason, closeFrame)
			synctest.Wait()
			e.want("reason") // nothing of its own was accepted
			t.sink.takeAll()
			t.wantSent("A B C D close")
		})
	})
	for name, size := range map[string]int{"as a call is to flush": 10, "as a call with large data is to flush": 20_000} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachSender(t, func(t *senderTest) {
				end := t.pretendFlush()
				t.queueAll("A", 10)
				b := t.write('B', size)
				end(func() { // queueClose, under the lock that end holds
					t.s.refuseNewFramesLocked(errReason)
					t.s.appendControlsLocked(closeFrame)
					t.s.releaseUserCallsLocked(errReason)
				})
				if size < largeDataSize {
					b.want("unconfirmed reason")
				} else {
					b.want("reason")
				}
				t.sink.takeAll()
				t.wantSent(map[int]string{10: "A B close", 20_000: "A close"}[size])
			})
		})
	}
	t.Run("and then the sink fails", func(t *testing.T) {
		t.Parallel()
		eachSender(t, func(t *senderTest) {
			t.stuck(10)
			t.s.queueClose(errReason, closeFrame)
			drain := t.drain()
			t.sink.fail()
			t.failure = errSink
			drain.want("unsent sink")
			c := t.write('X', 10)
			c.want("unsent reason")
			c.wantLost(1)
		})
	})
}

func TestSenderQueueCloseAck(t *testing.T) {
	t.Parallel()
	for _, size := range []int{10, 20_000} {
		t.Run(fmt.Sprintf("while %d bytes are being flushed", size), func(t *testing.T) {
			t.Parallel()
			eachSender(t, func(t *senderTest) {
				stuck := t.stuck(size)
				t.s.queueCloseAck(errReason, closeFrame, ackFrame)
				synctest.Wait()
				stuck.flushed.wantWaiting()
				stuck.waits.wantWaiting()
				stuck.large.want("reason")
				stuck.noRoom.want("reason")
				stuck.noRoomQueue.want("reason")
				t.wantRefused("reason")
				t.wantAccepted(3)
				drain := t.drain()
				t.sink.finishWrite()
				stuck.flushed.want("nil")
				stuck.waits.wantWaiting()
				drain.wantWaiting()
				t.sink.takeAll()
				stuck.waits.want("nil")
				drain.want("nil")
				t.wantSent("A B C close ack")
			})
		})
		t.Run(fmt.Sprintf("while %d bytes are being flushed, and then the sink fails", size), func(t *testing.T) {
			t.Parallel()
			eachSender(t, func(t *senderTest) {
				stuck := t.stuck(size)
				t.s.queueCloseAck(errReason, closeFrame, ackFrame)
				drain := t.drain()
				t.sink.fail()
				t.failure = errSink
				stuck.flushed.want("unconfirmed sink")
				stuck.waits.want("unsent sink")
				drain.want("unsent sink")
				t.drain().want("reason")
				t.wantAbandoned(lostMessages{unsent: 1})
			})
		})
		t.Run(fmt.Sprintf("while %d bytes are being flushed, and then dismiss", size), func(t *testing.T) {
			t.Parallel()
			eachSender(t, func(t *senderTest) {
				stuck := t.stuck(size)
				t.s.queueCloseAck(errReason, closeFrame, ackFrame)
				drain := t.drain()
				t.s.releaseUserCalls(errCause)
				synctest.Wait()
				stuck.flushed.want("unconfirmed cause")
				stuck.waits.want("unconfirmed cause")
				t.wantRefused("reason")
				drain.wantWaiting() // it is no user's call
				t.s.releaseUserCalls(errCause)
				synctest.Wait()
				drain.wantWaiting()
				t.sink.takeAll()
				drain.want("nil")
				t.wantSent("A B C close ack")
			})
		})
	}
	t.Run("and then dismiss, while drain waits for the batch that is flushed", func(t *testing.T) {
		t.Parallel()
		eachSender(t, func(t *senderTest) {
			a, b := t.write('A', 10), t.write('B', 10)
			t.s.queueCloseAck(errReason, closeFrame, ackFrame)
			t.sink.finishWrite()
			a.want("nil")
			drain := t.drain()
			t.s.releaseUserCalls(errCause)
			synctest.Wait()
			b.want("unconfirmed cause")
			drain.wantWaiting()
			t.sink.takeAll()
			drain.want("nil")
			t.wantSent("A B close ack")
		})
	})
	t.Run("a user's context still ends its call", func(t *testing.T) {
		t.Parallel()
		eachSender(t, func(t *senderTest) {
			a, b := t.write('A', 10), t.write('B', 10)
			t.s.queueCloseAck(errReason, closeFrame, ackFrame)
			b.stop().want("unconfirmed canceled") // it is not last: the close is behind it
			a.stop().want("unconfirmed canceled")
			t.sink.takeAll()
			t.wantSent("A B close ack")
		})
	})
	t.Run("while nobody writes", func(t *testing.T) {
		t.Parallel()
		eachSender(t, func(t *senderTest) {
			t.queueAll("A", 10)
			t.s.queueCloseAck(errReason, closeFrame, ackFrame)
			synctest.Wait()
			t.sink.takeAll()
			t.wantSent("A close ack")
			t.wantRefused("reason")
			t.drain().want("nil")
		})
	})
	t.Run("as a call is to flush", func(t *testing.T) {
		t.Parallel()
		eachSender(t, func(t *senderTest) {
			end := t.pretendFlush()
			a := t.write('A', 10)
			b := t.write('B', 10)
			end(func() { // queueCloseAck, under the lock that end holds
				t.s.refuseNewFramesLocked(errReason)
				t.s.appendControlsLocked(closeFrame, ackFrame)
				t.s.scheduleFlushLocked()
				b.cancel()
			})
			a.wantWaiting()
			b.want("unconfirmed canceled")
			t.wantFlushers("A")
			t.sink.takeAll()
			a.want("nil")
			t.wantSent("A B close ack")
		})
	})
	t.Run("as a call with large data is to flush", func(t *testing.T) {
		t.Parallel()
		eachSender(t, func(t *senderTest) {
			end := t.pretendFlush()
			a := t.write('A', 20_000)
			end(func() {
				t.s.refuseNewFramesLocked(errReason)
				t.s.appendControlsLocked(closeFrame, ackFrame)
				t.s.scheduleFlushLocked()
			})
			a.want("reason")
			t.sink.takeAll()
			t.wantSent("close ack")
		})
	})
}

func TestSenderDrain(t *testing.T) {
	t.Parallel()
	t.Run("sends queued frames", func(t *testing.T) {
		t.Parallel()
		eachSender(t, func(t *senderTest) {
			t.drain().want("nil")
			t.wantFlushers("")
			t.queueAll("AB", 10)
			drain := t.drain()
			drain.wantWaiting()
			t.wantUsable("A B")
			drain.want("nil")
		})
	})
	t.Run("waits for what is flushed", func(t *testing.T) {
		t.Parallel()
		eachSender(t, func(t *senderTest) {
			a, drain := t.write('A', 10), t.drain()
			drain.wantWaiting()
			t.wantUsable("A")
			a.want("nil")
			drain.want("nil")
		})
	})
	t.Run("ends with its context, and the frames do not", func(t *testing.T) {
		t.Parallel()
		eachSender(t, func(t *senderTest) {
			a := t.write('A', 10)
			t.queueAll("B", 10)
			t.drain().stop().want("unconfirmed canceled")
			a.wantWaiting()
			t.wantUsable("A B")
		})
	})
	t.Run("is first in its batch", func(t *testing.T) {
		t.Parallel()
		eachSender(t, func(t *senderTest) {
			a := t.write('A', 10)
			t.queueAll("B", 10)
			drain, c := t.drain(), t.write('C', 10)
			t.sink.finishWrite()
			a.want("nil")
			drain.wantWaiting()
			t.wantUsable("A B C")
			drain.want("nil")
			c.want("nil")
			t.wantFlushers("A background Z")
		})
	})
}

// ---- Abandon

func TestSenderAbandon(t *testing.T) {
	t.Parallel()
	for _, size := range []int{10, 20_000} {
		for name, after := range map[string]func(t *senderTest){
			"the sink fails":                func(t *senderTest) { t.sink.fail() },
			"the sink takes what was begun": func(t *senderTest) { t.sink.takeAll() },
		} {
			t.Run(fmt.Sprintf("while %d bytes are being flushed, and then %s", size, name), func(t *testing.T) {
				t.Parallel()
				eachSender(t, func(t *senderTest) {
					t.queueAll("PP", 10)
					stuck := t.stuck(size)
					drain := t.drain()
					t.wantAbandoned(lostMessages{unsent: 1, uncertain: 2})
					stuck.flushed.want("unconfirmed cause")
					stuck.waits.want("reason")
					stuck.large.want("reason")
					stuck.noRoom.want("reason")
					stuck.noRoomQueue.want("reason")
					drain.want("reason")
					t.wantRefused("reason")
					t.drain().want("reason")
					t.s.queueClose(errCause, closeFrame)
					after(t)
					t.wantAbandoned(lostMessages{})
					t.wantRefused("reason")
					t.sink.takeAll()
					if got := t.sent(); strings.ContainsAny(got, "BCLNQcX") {
						t.Errorf("after abandon the sink gets %q", got)
					}
				})
			})
		}
	}
	t.Run("while nobody writes", func(t *testing.T) {
		t.Parallel()
		eachSender(t, func(t *senderTest) {
			t.sink.takeAll()
			t.write('A', 10).want("nil")
			t.wantAbandoned(lostMessages{})
			t.wantRefused("reason")
			t.s.queuePing()
			synctest.Wait()
			t.wantSent("A")
		})
	})
	t.Run("after queueCloseAck", func(t *testing.T) {
		t.Parallel()
		eachSender(t, func(t *senderTest) {
			stuck := t.stuck(10)
			t.s.queueCloseAck(errReason, closeFrame, ackFrame)
			drain := t.drain()
			if lost := t.s.abandonSending(errCause, errReason); lost != (lostMessages{unsent: 1}) {
				t.Errorf("lost: %+v", lost)
			}
			synctest.Wait()
			stuck.flushed.want("unconfirmed reason")
			stuck.waits.want("cause")
			drain.want("cause")
			t.wantRefused("reason") // the first one counts
			t.sink.takeAll()
			t.wantSent("A")
		})
	})
	t.Run("as a call is to flush", func(t *testing.T) {
		t.Parallel()
		eachSender(t, func(t *senderTest) {
			end := t.pretendFlush()
			a := t.write('A', 10)
			end(func() { t.s.endSendingLocked(errReason, errCause) })
			a.want("reason")
			t.wantAbandoned(lostMessages{})
		})
	})
	t.Run("as the sink fails, because the transport is closed", func(t *testing.T) {
		t.Parallel()
		eachSender(t, func(t *senderTest) {
			a := t.write('A', 10)
			t.sink.take(3)
			t.s.mu.Lock() // the write fails before its flusher knows of abandon
			t.sink.change(func() { t.sink.failure = errSink })
			t.s.endSendingLocked(errReason, errCause)
			t.s.mu.Unlock()
			synctest.Wait()
			a.want("unconfirmed cause")
			t.wantAbandoned(lostMessages{})
		})
	})
}

// ---- Pings

func TestSenderPings(t *testing.T) {
	t.Parallel()
	pong := func(t *senderTest, digit byte) {
		data := bytes.Repeat([]byte{digit}, 8)
		t.s.queuePong(data)
		clear(data)
		synctest.Wait()
	}
	ping := func(t *senderTest) {
		t.s.queuePing()
		synctest.Wait()
	}
	for _, c := range []struct {
		name string
		run  func(t *senderTest)
		sent string
	}{
		{"while nobody writes", func(t *senderTest) {
			t.sink.takeAll()
			ping(t)
			t.wantSent("ping")
			pong(t, '1')
			pong(t, '2')
		}, "ping pong1 pong2"},
		{"take queued frames along", func(t *senderTest) {
			t.queueAll("A", 10)
			pong(t, '1')
		}, "pong1 A"},
		{"go ahead of frames that are not sealed, the newest pong only", func(t *senderTest) {
			t.write('A', 10)
			t.sink.take(3)
			t.write('B', 10)
			pong(t, '1')
			ping(t)
			t.write('C', 20_000)
			pong(t, '2')
			ping(t)
		}, "A pong2 ping B C"},
		{"go behind a write that was interrupted", func(t *senderTest) {
			t.write('A', 20_000)
			t.sink.take(3)
			pong(t, '1')
			t.calls[0].stop()
		}, "A pong1"},
		{"leave when the flush in progress ends, though nobody waits", func(t *senderTest) {
			t.write('A', 10)
			pong(t, '1')
			t.sink.takeAll()
			t.calls[0].want("nil")
			t.wantSent("A pong1")
		}, "A pong1"},
		{"go ahead of a full batch", func(t *senderTest) {
			t.write('A', 10)
			for _, letter := range []byte("BCDE") {
				t.write(letter, 16_000-headerSize)
			}
			t.write('F', batchSize-4*16_000-headerSize)
			pong(t, '1')
			ping(t)
		}, "A pong1 ping B C D E F"},
		{"go ahead of a full batch with large queued frames", func(t *senderTest) {
			t.write('A', 10)
			t.queueAll("BC", 20_000)
			t.queueAll("D", batchSize-2*20_008-headerSize-1)
			pong(t, '1')
		}, "A pong1 B C D"},
		{"shift no frame that is taken back", func(t *senderTest) {
			t.write('A', 10)
			b := t.write('B', 10)
			pong(t, '1')
			t.write('C', 10).stop().want("canceled")
			t.sink.finishWrite()
			d, e := t.write('D', 10), t.write('E', 10)
			e.stop().want("canceled")
			t.sink.takeAll()
			b.want("nil")
			d.want("nil")
		}, "A pong1 B D"},
		{"are not sent behind a close", func(t *senderTest) {
			t.write('A', 10)
			t.s.queueClose(errReason, closeFrame)
			pong(t, '1')
			ping(t)
			t.sink.takeAll()
			pong(t, '2')
			ping(t)
		}, "A close"},
		{"are not sent behind a close and a close-ack", func(t *senderTest) {
			t.write('A', 10)
			pong(t, '1')
			t.s.queueCloseAck(errReason, closeFrame, ackFrame)
			ping(t)
			t.sink.finishWrite()
			pong(t, '2')
			t.sink.takeAll()
			ping(t)
		}, "A close ack"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			eachSender(t, func(t *senderTest) {
				c.run(t)
				t.sink.takeAll()
				t.wantSent(c.sent)
			})
		})
	}
}

// ---- Sequence numbers

func TestSenderSequenceExhausted(t *testing.T) {
	t.Parallel()
	for _, blocking := range []bool{false, true} {
		kind := senderKind{true, blocking}
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			// left sets how many records can still be sealed.
			left := func(t *senderTest, n uint64) {
				t.first = lastSequence + 1 - n
				t.s.cipher.sequence = t.first
				t.failure = errSequenceExhausted
			}
			t.Run("after the last record", func(t *testing.T) {
				kind.test(t, func(t *senderTest) {
					left(t, 2)
					a := t.write('A', 10)
					b := t.write('B', 10)
					t.sink.finishWrite()
					a.want("nil")
					c := t.write('C', 10)
					t.queueAll("D", 10)
					e := t.write('E', 20_000)
					t.sink.takeAll()
					b.want("nil")
					c.want("unsent exhausted")
					e.want("unsent exhausted")
					t.wantSent("A B")
					f := t.flush()
					f.want("unsent exhausted")
					f.wantLost(1)
				})
			})
			t.Run("within a batch", func(t *testing.T) {
				kind.test(t, func(t *senderTest) {
					t.sink.takeAll()
					left(t, 1)
					t.queueAll("A", 10)
					t.write('B', 20_000).want("unsent exhausted") // it takes two records
					t.wantSent("")
					t.wantFlushers("")
					t.wantAbandoned(lostMessages{unsent: 1})
				})
			})
			t.Run("in the background", func(t *testing.T) {
				kind.test(t, func(t *senderTest) {
					left(t, 1)
					a, b := t.write('A', 10), t.write('B', 10)
					t.s.queueClose(errReason, closeFrame)
					drain := t.drain()
					t.sink.takeAll()
					a.want("unconfirmed reason")
					b.want("unconfirmed reason")
					drain.want("unsent exhausted")
					t.wantSent("A")
				})
			})
		})
	}
}

// ---- Settle, blocked, totals

func TestSenderAwaitFlushEnd(t *testing.T) {
	t.Parallel()
	settle := func(t *senderTest) *senderCall {
		return t.start("settle", func(ctx context.Context) error { t.s.awaitFlushEnd(ctx); return nil })
	}
	eachSender(t, func(t *senderTest) {
		settle(t).want("nil")
		t.s.noteBlocked()
		if t.s.writeBlocked.Load() {
			t.Error("blocked while nobody flushes")
		}
		a, b := t.write('A', 10), t.write('B', 10)
		t.s.noteBlocked()
		if !t.s.writeBlocked.Load() {
			t.Error("not blocked while the sink blocks")
		}
		first, second := settle(t), settle(t)
		first.wantWaiting()
		first.stop().want("nil")
		t.sink.finishWrite()
		a.want("nil")
		if t.s.writeBlocked.Load() {
			t.Error("still blocked after the flush")
		}
		second.wantWaiting()
		t.sink.finishWrite()
		b.want("nil")
		second.want("nil")

		c := t.write('C', 10)
		t.queueAll("D", 10)
		third := settle(t)
		third.wantWaiting()
		t.sink.takeAll()
		c.want("nil")
		third.want("nil")
		t.wantSent("A B C") // it sends nothing itself
	})
}

func TestSenderTotals(t *testing.T) {
	t.Parallel()
	eachSender(t, func(t *senderTest) {
		want := func(messages, bytes, rekeys uint64) {
			t.Helper()
			if !t.encrypted {
				rekeys = 0
			}
			if m, b, r := t.s.acceptedTotals(); m != messages || b != bytes || r != rekeys {
				t.Errorf("totals: %d messages, %d bytes, %d rekeys; want %d, %d, %d", m, b, r, messages, bytes, rekeys)
			}
		}
		if t.encrypted {
			t.s.cipher.rekeyLimit = 100
		}
		t.write('A', 10)
		want(1, 10, 0)
		b, c, d := t.write('B', 20), t.write('C', 16_384), t.write('D', 1)
		want(3, 16_414, 0)
		d.stop().want("canceled")
		c.stop().want("canceled")
		want(2, 30, 0)
		b.stop().want("canceled")
		want(1, 10, 0)
		t.sink.takeAll()
		t.write('E', 100).want("nil")
		want(2, 110, 1)
		t.queue('F', 100).want("nil")
		t.s.queuePing()
		synctest.Wait()
		want(3, 210, 2)
		t.wantSent("A E ping F")
	})
}

// ---- Many writers

// A sentCall is a call of one of many writers.
type sentCall struct {
	id    uint32 // type of the frame; 0 is a flush
	size  int
	hold  bool
	err   error
	taken int // bytes that the sink had taken when the call returned
}

// accepted reports whether the frame stayed queued or was sent.
func (c *sentCall) accepted() bool { return c.err == nil && c.id != 0 }

// certain reports whether nothing of the frame may have been sent.
func (c *sentCall) certain() bool {
	return c.err != nil && (errors.Is(c.err, ErrNotConnected) || !errors.Is(c.err, ErrUnconfirmed))
}

const (
	writerCount    = 32
	callsPerWriter = 5
)

// A writerGroup is many writers that use one sender.
type writerGroup struct {
	*senderTest
	random  *rand.Rand
	running atomic.Int64
	made    [writerCount][]*sentCall
	lost    lostMessages // what abandon has returned

	cancels [writerCount]context.CancelFunc // of the calls in progress; mu guards them
}

// writes makes the calls of one writer. It goes on after errors: the calls behind
// one that failed must not succeed.
func (c *writerGroup) writes(writer int, random *rand.Rand) {
	defer c.running.Add(-1)
	for i := range callsPerWriter {
		ctx, cancel := context.WithCancel(context.WithValue(context.Background(), callerKey{}, "writer"))
		call := &sentCall{id: uint32(1 + writer*callsPerWriter + i), hold: random.IntN(3) == 0}
		if sizes := []int{0, 10, 10, 10, 10, 1_000, 5_000, largeDataSize - 1, largeDataSize, 20_000, batchSize - headerSize}; random.IntN(8) > 0 {
			call.size = sizes[random.IntN(len(sizes))]
		} else {
			call.id = 0
		}
		if !call.hold || call.id == 0 { // no context ends a Queue
			c.mu.Lock()
			c.cancels[writer] = cancel
			c.mu.Unlock()
		}
		if call.id == 0 {
			call.err = c.s.flushAccepted(ctx)
		} else {
			data := bytes.Clone(senderData(call.id, call.size))
			call.err = c.s.writeFrame(ctx, frameHeader{frameType: call.id}, data, call.hold)
			if call.err == nil || call.size < largeDataSize { // else the flusher may still read it, which is a known fault
				clear(data)
			}
		}
		c.sink.mu.Lock()
		call.taken = len(c.sink.got)
		c.sink.mu.Unlock()
		cancel()
		c.made[writer] = append(c.made[writer], call)
	}
}

// disturb does one thing that may happen at any time.
func (c *writerGroup) disturb() {
	switch r := c.random.IntN(20); {
	case r < 8:
		n := c.random.IntN(100_000)
		c.sink.change(func() { c.sink.room += n })
	case r < 12:
		n := c.random.IntN(50)
		c.sink.change(func() { c.sink.room += n })
	case r < 18:
		c.mu.Lock()
		defer c.mu.Unlock()
		if cancel := c.cancels[c.random.IntN(writerCount)]; cancel != nil {
			cancel()
		}
	case r < 19:
		c.s.queuePing()
	default:
		c.s.queuePong([]byte("12345678"))
	}
}

// A groupEnd is how the sender ends while the writers write.
type groupEnd struct {
	name     string
	end      func(c *writerGroup)
	complete bool   // what was accepted is sent
	sinkErr  error  // of failed, if it is called
	results  string // what errors may match, apart from "unconfirmed"
}

var groupEnds = []groupEnd{
	{"nothing", func(*writerGroup) {}, true, nil, "canceled"},
	{"the sink fails", func(c *writerGroup) {
		n := c.random.IntN(100_000)
		c.sink.change(func() { c.sink.room, c.sink.failure = n, errSink })
	}, false, errSink, "canceled unsent sink"},
	{"the sink fails at once", func(c *writerGroup) { c.sink.change(func() { c.sink.room, c.sink.failure = 0, errSink }) }, false, errSink, "canceled unsent sink"},
	{"queueClose", func(c *writerGroup) { c.s.queueClose(errReason, closeFrame) }, true, nil, "canceled reason"},
	{"queueCloseAck", func(c *writerGroup) { c.s.queueCloseAck(errReason, closeFrame, ackFrame) }, true, nil, "canceled reason"},
	{"queueCloseAck and dismiss", func(c *writerGroup) {
		c.s.queueCloseAck(errReason, closeFrame, ackFrame)
		c.disturb()
		c.s.releaseUserCalls(errCause)
	}, true, nil, "canceled reason cause"},
	{"queueClose and a failure", func(c *writerGroup) {
		c.s.queueClose(errReason, closeFrame)
		n := c.random.IntN(50_000)
		c.sink.change(func() { c.sink.room, c.sink.failure = n, errSink })
	}, false, errSink, "canceled reason unsent sink"},
	{"abandon", func(c *writerGroup) {
		c.lost = c.s.abandonSending(errReason, errCause)
		c.disturb()
		c.sink.change(func() { c.sink.failure = errSink }) // the transport is closed
	}, false, nil, "canceled reason cause unsent"},
}

// TestSenderResultsAreTrue holds what a call's result promises against what the
// sink has taken, whatever happens.
func TestSenderResultsAreTrue(t *testing.T) {
	t.Parallel()
	for _, end := range groupEnds {
		t.Run(end.name, func(t *testing.T) {
			t.Parallel()
			for _, kind := range []senderKind{{}, {encrypted: true}, {blocking: true}, {encrypted: true, blocking: true}} {
				t.Run(kind.String(), func(t *testing.T) {
					seed := rand.Uint64()
					t.Logf("seed %d", seed)
					kind.test(t, func(t *senderTest) {
						(&writerGroup{senderTest: t, random: rand.New(rand.NewPCG(seed, 0))}).run(end)
					})
				})
			}
		})
	}
}

func (c *writerGroup) run(end groupEnd) {
	if c.encrypted {
		c.s.cipher.rekeyLimit = 100_000
	}
	c.running.Store(writerCount)
	for w := range writerCount {
		go c.writes(w, rand.New(rand.NewPCG(c.random.Uint64(), 0)))
	}
	endAt := 1 + c.random.IntN(60)
	for round := 0; c.running.Load() > 0 && !c.Failed(); round++ {
		switch round {
		case endAt:
			end.end(c)
		case 400: // enough
			c.sink.change(func() { c.sink.room = endless })
		case 2000:
			c.Fatal("calls hang")
		}
		for range c.random.IntN(3) { // at once, and not one after the other
			c.disturb()
		}
		synctest.Wait()
	}
	if end.complete {
		c.sink.takeAll()
		c.drain().want("nil")
	}
	c.lost.add(c.s.abandonSending(errReason, errCause))
	c.sink.fail()
	if c.mu.Lock(); len(c.failures) > 0 {
		c.failure = end.sinkErr
	}
	c.mu.Unlock()
	c.check(end, int(c.lost.unsent+c.lost.uncertain))
}

// check compares the results with the frames that have arrived.
func (c *writerGroup) check(end groupEnd, lost int) {
	arrived := c.arrived()
	sent := map[uint32]bool{}
	queued, late := 0, 0 // messages of Queue that were accepted, and those of them that have not arrived
	for writer, calls := range c.made {
		last := uint32(0)
		for _, call := range calls {
			at, ok := arrived[call.id]
			if ok && call.id < last {
				c.Errorf("writer %d: frame %d is behind frame %d", writer, call.id, last)
			}
			sent[call.id] = true
			lost += lostNumberOf(call.err)
			switch {
			case call.accepted() && call.hold:
				if queued++; !ok {
					late++
				}
			case call.accepted() && (!ok || at > call.taken):
				c.Errorf("writer %d: frame %d of %d bytes: nil, and the sink has not taken it", writer, call.id, call.size)
			case call.certain() && ok:
				c.Errorf("writer %d: frame %d: %v, and the sink has taken it", writer, call.id, call.err)
			case call.err != nil && call.id != 0 && !call.certain() && !ok && end.complete:
				c.Errorf("writer %d: frame %d: %v, and it is not sent", writer, call.id, call.err)
			case call.id == 0 && call.err == nil:
				c.checkFlushed(arrived, calls, call)
			}
			for name := range strings.FieldsSeq(resultOf(call.err)) {
				if name != "nil" && name != "unconfirmed" && !slices.Contains(strings.Fields(end.results), name) {
					c.Errorf("writer %d: frame %d: %v", writer, call.id, call.err)
				}
			}
		}
	}
	for id := range arrived {
		if !sent[id] {
			c.Errorf("frame %d was never sent", id)
		}
	}
	// Lost messages of Queue may have arrived; the others must have.
	if late > lost || lost > queued || end.complete && lost > 0 {
		c.Errorf("%d messages were queued, %d of them have not arrived, %d are reported as lost", queued, late, lost)
	}
}

// checkFlushed checks that what a writer queued before a flush has arrived when
// the flush returned nil.
func (c *writerGroup) checkFlushed(arrived map[uint32]int, calls []*sentCall, flush *sentCall) {
	for _, call := range calls[:slices.Index(calls, flush)] {
		if at, ok := arrived[call.id]; call.accepted() && (!ok || at > flush.taken) {
			c.Errorf("frame %d is flushed, and the sink has not taken it", call.id)
		}
	}
}

// arrived decodes what the sink has taken. It returns, for each frame, a number of
// bytes with which it was complete: the smallest one that a call has noted.
func (c *writerGroup) arrived() map[uint32]int {
	var noted []int
	sizes := map[uint32]int{}
	for _, calls := range c.made {
		for _, call := range calls {
			noted = append(noted, call.taken)
			sizes[call.id] = call.size
		}
	}
	stream := c.sink.got
	noted = append(noted, len(stream))
	slices.Sort(noted)

	d := c.decoder()
	defer d.releaseMemory()
	arrived, at, closed := map[uint32]int{}, 0, false
	for _, to := range slices.Compact(noted) {
		for at < to {
			n := copy(d.Space(), stream[at:to])
			d.Received(n)
			at += n
			for {
				f, step, err := nextFrame(d, destination{maxSize: unlimited})
				if err != nil {
					c.Fatal(err)
				}
				if step != frameReady {
					break
				}
				_, twice := arrived[f.frameType]
				switch {
				case f.frameType == controlType:
					closed = closed || f.data[0] == kindClose
					if closed && f.data[0] != kindClose && f.data[0] != kindCloseAck {
						c.Errorf("control frame %d behind the close", f.data[0])
					}
				case closed || twice || !bytes.Equal(f.data, senderData(f.frameType, sizes[f.frameType])):
					c.Errorf("frame %d: behind a close: %v, twice: %v, or damaged", f.frameType, closed, twice)
				default:
					arrived[f.frameType] = to
				}
			}
		}
	}
	return arrived
}

// TestSenderLargeDataOfAnotherFlush: a call with large data that waits while
// another call flushes the batch returns before the flusher has copied the data.
func TestSenderLargeDataOfAnotherFlush(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		end  func(t *senderTest, call *senderCall)
		want string
		sent string // behind the frames
	}{
		"its context is done": {func(t *senderTest, call *senderCall) { call.stop() }, "unconfirmed canceled", ""},
		"queueClose":          {func(t *senderTest, _ *senderCall) { t.s.queueClose(errReason, closeFrame) }, "unconfirmed reason", " close"},
		"dismiss": {func(t *senderTest, _ *senderCall) {
			t.s.queueCloseAck(errReason, closeFrame, ackFrame)
			t.s.releaseUserCalls(errReason)
		}, "unconfirmed reason", " close ack"},
		"abandon": {func(t *senderTest, _ *senderCall) { t.s.abandonSending(errReason, errCause) }, "unconfirmed cause", ""},
	} {
		t.Run(name, func(t *testing.T) {
			eachSender(t, func(t *senderTest) {
				t.write('A', 10)
				t.write('B', 10)
				large := t.write('C', 20_000)
				release := func() {}
				if t.encrypted { // sealing takes time, too
					slow := &slowAEAD{t.s.cipher.aead, make(chan struct{})}
					t.s.cipher.aead = slow
					release = func() { close(slow.release) }
				}
				t.sink.finishWrite() // A returns, and B flushes its own frame and C
				large.wantWaiting()
				c.end(t, large)
				synctest.Wait()
				release()
				synctest.Wait()
				large.want(c.want) // from here on its caller may use the memory again
				t.sink.takeAll()
				t.wantSent("A B C" + c.sent)
			})
		})
	}
}

// TestSenderReleaseUserCallsCause: dismiss promises ErrUnconfirmed, wrapping its cause.
// The call that flushes gets the reason of queueCloseAck instead. The endpoint's
// reason is an ErrNotConnected, so the error of a message that may arrive says that
// nothing of it was sent.
func TestSenderReleaseUserCallsCause(t *testing.T) {
	t.Parallel()
	eachSender(t, func(t *senderTest) {
		a, b := t.write('A', 10), t.write('B', 10)
		t.s.queueCloseAck(newError(ErrNotConnected, errReason, "the peer has closed the connection"), closeFrame, ackFrame)
		t.s.releaseUserCalls(errCause)
		synctest.Wait()
		b.want("unconfirmed cause")
		a.want("unconfirmed cause")
		t.sink.takeAll()
		t.wantSent("A B close ack")
	})
}

// slowAEAD seals when it is released.
type slowAEAD struct {
	cipher.AEAD
	release chan struct{}
}

func (a *slowAEAD) Seal(dst, nonce, plaintext, additional []byte) []byte {
	<-a.release
	return a.AEAD.Seal(dst, nonce, plaintext, additional)
}

// TestSenderNoRoomBehindQueuedFrames: a write waits for room in a batch of
// queued frames that has less than headerSize bytes left. When the flush in
// progress ends, scheduleFlushLocked does not flush queued frames, and wakeRoomWaiterLocked does
// not wake the write, because no header fits. It waits until another call sends.
func TestSenderNoRoomBehindQueuedFrames(t *testing.T) {
	t.Parallel()
	for _, free := range []int{headerSize, headerSize - 1, 1} { // bytes left; the first one works
		eachSender(t, func(t *senderTest) {
			a := t.write('A', 10)
			t.queueAll("BCDE", 15_000-headerSize)
			t.queueAll("F", batchSize-4*15_000-headerSize-free)
			g := t.write('G', 10)
			t.sink.takeAll()
			a.want("nil")
			g.want("nil")
			t.wantSent("A B C D E F G")
		})
	}
}

// TestSenderHoldsNoBatchWhenIdle: calls that wait behind a flush are withdrawn, and the
// batch that they leave empty goes back to the pool.
func TestSenderHoldsNoBatchWhenIdle(t *testing.T) {
	t.Parallel()
	for name, sizes := range map[string][]int{"small": {10}, "a whole batch": {16_000, 16_000, 16_000, 16_000}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachSender(t, func(t *senderTest) {
				a := t.write('A', 10)
				var waiting []*senderCall
				for i, size := range sizes {
					waiting = append(waiting, t.write('B'+byte(i), size))
				}
				for _, c := range slices.Backward(waiting) { // only the last frame can be withdrawn
					c.stop().want("canceled")
				}
				t.sink.takeAll()
				a.want("nil")
				t.wantSent("A")
				t.wantNoBatch()
			})
		})
	}
	t.Run("a request", func(t *testing.T) {
		t.Parallel()
		eachSender(t, func(t *senderTest) {
			a := t.write('A', 10)
			call := &openCall{doneSignal: make(chan struct{}, 1)}
			t.start("call", func(ctx context.Context) error { return t.s.writeRequest(ctx, 5, []byte("x"), call) }).want("nil")
			if !t.s.withdrawRequest(call) {
				t.Error("the request was not withdrawn")
			}
			t.sink.takeAll()
			a.want("nil")
			t.wantSent("A")
			t.wantNoBatch()
		})
	})
}

func (t *senderTest) wantNoBatch() {
	t.Helper()
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	if t.s.openBatch != noBatch || t.s.activeBatch != noBatch {
		t.Error("an idle sender holds a batch")
	}
}

// startFrame begins a frame of 100 bytes of which the sink takes taken bytes at once.
func (t *senderTest) startFrame(letter byte, taken int) *startedFrame {
	t.Helper()
	t.sink.take(taken)
	data := t.data(letter, 100)
	var rest *startedFrame
	t.start(string(letter), func(context.Context) error {
		started, accepted, err := t.s.startFrame(past1(t), frameHeader{frameType: uint32(letter), dataSize: len(data)}, data)
		clear(data) // startFrame does not retain data
		if rest = started; !accepted {
			return errors.New("the frame was not accepted")
		}
		return err
	}).want("nil")
	return rest
}

// wantNotAccepted checks that the sender does not accept a frame that does not wait.
func (t *senderTest) wantNotAccepted() {
	t.Helper()
	if _, accepted, err := t.s.startFrame(past1(t), frameHeader{frameType: 'N', dataSize: 1}, []byte{1}); accepted || err != nil {
		t.Errorf("accepted %v, %v", accepted, err)
	}
}

// await waits for the rest of a started frame.
func (t *senderTest) await(rest *startedFrame) *senderCall {
	return t.start("await", func(ctx context.Context) error { return t.s.awaitFrame(ctx, rest) })
}

// TestSenderStartFrame: the sink takes 5 bytes of a frame that does not wait, the
// background owes the rest, and the caller learns how that ends.
func TestSenderStartFrame(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		end  func(t *senderTest, rest *startedFrame) *senderCall
		want string
		sent string
	}{
		"taken": {func(t *senderTest, rest *startedFrame) *senderCall {
			t.sink.takeAll()
			return t.await(rest)
		}, "nil", "A"},
		"taken, and its batch used again": {func(t *senderTest, rest *startedFrame) *senderCall {
			t.sink.takeAll()
			for _, letter := range []byte("BCD") {
				t.write(letter, 10).want("nil")
			}
			return t.await(rest)
		}, "nil", "A B C D"},
		"given up": {func(t *senderTest, rest *startedFrame) *senderCall {
			return t.await(rest).stop()
		}, "unconfirmed canceled", "A"},
		"failed": {func(t *senderTest, rest *startedFrame) *senderCall {
			t.failure = errSink
			t.sink.fail()
			return t.await(rest)
		}, "unconfirmed sink", "..."},
		"closed": {func(t *senderTest, rest *startedFrame) *senderCall {
			t.s.queueClose(errReason, closeFrame)
			return t.await(rest)
		}, "unconfirmed reason", "A close"},
		"abandoned": {func(t *senderTest, rest *startedFrame) *senderCall {
			t.s.abandonSending(errReason, errCause)
			return t.await(rest)
		}, "unconfirmed cause", "A"},
	} {
		for _, kind := range []senderKind{{}, {encrypted: true}} {
			t.Run(name+", "+kind.String(), func(t *testing.T) {
				t.Parallel()
				kind.test(t, func(t *senderTest) {
					rest := t.startFrame('A', 5)
					if rest == nil {
						t.Fatal("5 bytes were taken, and nothing is left to write")
					}
					test.end(t, rest).want(test.want)
					t.sink.takeAll()
					t.wantSent(test.sent)
				})
			})
		}
	}
}

// TestSenderStartFrameAtOnce: a frame that is taken whole has no rest. While another call
// flushes, or where writing cannot be interrupted, it is not accepted.
func TestSenderStartFrameAtOnce(t *testing.T) {
	t.Parallel()
	eachSender(t, func(t *senderTest) {
		if t.blocking {
			t.wantNotAccepted()
			return
		}
		if t.startFrame('A', endless) != nil {
			t.Error("all was taken, and there is a rest")
		}
		t.wantSent("A")
		t.sink.change(func() { t.sink.room = 0 })
		b := t.write('B', 10)
		t.wantNotAccepted()
		t.sink.takeAll()
		b.want("nil")
		t.wantSent("A B")
	})
}

// TestSenderAtRandom makes random calls, and ends them in random order. At the end every
// call has returned, what was reported as sent is at the sink, and what was reported as
// not sent is not. GIPC_SENDER_SEEDS is the number of runs for each kind.
func TestSenderAtRandom(t *testing.T) {
	t.Parallel()
	seeds := testutil.EnvInt(t, "GIPC_SENDER_SEEDS", 300)
	for _, kind := range senderKinds {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(seeds) {
				kind.test(t, func(t *senderTest) {
					w := &randomWrites{senderTest: t, random: rand.New(rand.NewPCG(seed, 7))}
					for range 30 {
						w.step()
					}
					w.check()
				})
				if t.Failed() {
					t.Fatalf("seed %d", seed)
				}
			}
		})
	}
}

// randomWrites are random calls of a sender.
type randomWrites struct {
	*senderTest
	random *rand.Rand
	frames []*randomFrame
	ended  bool // a close was accepted, or sending was abandoned
}

// A randomFrame is a frame whose result is known in the end.
type randomFrame struct {
	id     uint32
	queued bool // it may be lost although its call returned nil
	call   *senderCall
}

func (w *randomWrites) oneIn(n int) bool { return w.random.IntN(n) == 0 }

// newFrame returns a frame with one of some sizes, all small if they have to be, and its data.
func (w *randomWrites) newFrame(small bool) (*randomFrame, []byte) {
	sizes := []int{0, 10, 1000, 16_000, 20_000, 70_000}
	if small {
		sizes = sizes[:4]
	}
	f := &randomFrame{id: uint32(1 + len(w.frames))}
	w.frames = append(w.frames, f)
	return f, bytes.Clone(senderData(f.id, sizes[w.random.IntN(len(sizes))]))
}

func (w *randomWrites) step() {
	switch w.random.IntN(16) {
	case 0, 1, 2:
		w.write(false)
	case 3:
		w.write(true)
	case 4, 5, 6:
		w.startFrame()
	case 7:
		if len(w.frames) > 0 {
			w.frames[w.random.IntN(len(w.frames))].call.stop()
		}
	case 8, 9:
		w.sink.take(w.random.IntN(100_000))
	case 10:
		w.flush()
	case 11:
		w.s.queuePing()
	case 12:
		w.s.queuePong(make([]byte, 8))
	case 13:
		w.start("end of the flush", func(ctx context.Context) error {
			w.s.awaitFlushEnd(ctx)
			return nil
		})
	case 14:
		if w.oneIn(4) && !w.ended {
			w.close()
		}
	case 15:
		if w.oneIn(8) {
			w.ended = true
			w.s.abandonSending(errReason, errCause)
		}
	}
	synctest.Wait()
}

func (w *randomWrites) write(hold bool) {
	f, data := w.newFrame(hold)
	f.queued = hold
	f.call = w.start("write", func(ctx context.Context) error {
		defer clear(data)
		return w.s.writeFrame(ctx, frameHeader{frameType: f.id}, data, hold)
	})
}

func (w *randomWrites) startFrame() {
	f, data := w.newFrame(true)
	f.call = w.start("startFrame", func(ctx context.Context) error {
		rest, accepted, err := w.s.startFrame(past1(w), frameHeader{frameType: f.id, dataSize: len(data)}, data)
		clear(data)
		switch {
		case !accepted:
			return ErrNotConnected // nothing was sent
		case rest == nil:
			return err
		}
		return w.s.awaitFrame(ctx, rest)
	})
}

func (w *randomWrites) close() {
	w.ended = true
	if w.oneIn(2) {
		w.s.queueClose(errReason, closeFrame)
		return
	}
	w.s.queueCloseAck(errReason, closeFrame, ackFrame)
	w.drain()
	if w.oneIn(2) {
		w.s.releaseUserCalls(errCause)
	}
}

// check ends the test, and compares the results with what the sink has.
func (w *randomWrites) check() {
	w.Helper()
	if w.oneIn(3) {
		w.sink.fail()
	} else {
		w.sink.takeAll()
	}
	w.mu.Lock()
	if len(w.failures) > 0 {
		w.failure = errSink
	}
	w.mu.Unlock()
	sent := map[uint32]bool{}
	p := w.decode()
	if p.failure != nil {
		w.Errorf("the sink has what cannot be decoded: %v", p.failure)
	}
	for _, f := range p.frames {
		if f.frameType == controlType {
			continue
		}
		if sent[f.frameType] || !bytes.Equal(f.data, senderData(f.frameType, len(f.data))) {
			w.Errorf("frame %d came twice, or damaged", f.frameType)
		}
		sent[f.frameType] = true
	}
	for _, f := range w.frames {
		switch {
		case !f.call.done():
			w.Errorf("%s of frame %d does not return", f.call.name, f.id)
		case f.call.err == nil && !f.queued && !sent[f.id]:
			w.Errorf("frame %d was reported as sent, and was not", f.id)
		case f.call.err != nil && !errors.Is(f.call.err, ErrUnconfirmed) && sent[f.id]:
			w.Errorf("frame %d was reported as not sent by %v, and was sent", f.id, f.call.err)
		}
	}
}
