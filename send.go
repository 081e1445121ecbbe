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
	sink   transport.Sink
	limit  int // largest data that the peer accepts, in bytes
	pool   *bufferPool
	calls  *callTable
	cipher *recordCipher // nil in plaintext
	failed func(error)   // called once when nothing can be sent any more, without a lock
	tasks  *sync.WaitGroup

	stopping atomic.Bool // the user's flush in progress is to be handed over
	blocked  atomic.Bool // the flush in progress waits for the peer
	rekeys   atomic.Uint64

	mu        sync.Mutex // guards what follows
	open      *batch     // accepts frames
	active    *batch     // is being flushed
	flushing  bool       // somebody flushes the active batch, or is about to take the open one
	noRoom    []*writeWaiter
	pings     pendingPings
	refusal   error // why users' frames are not accepted any more
	cause     error // what ErrUnconfirmed wraps then
	ending    bool  // no user flushes any more
	broken    bool  // nothing goes out any more
	sent      sentTotals
	blockedAt time.Time // when blocked was set
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
	ping   bool
	pong   []byte // a newer one replaces it
	silent bool   // a close was accepted: neither may follow
}

func newSender(sink transport.Sink, limit int, pool *bufferPool, cipher *recordCipher, tasks *sync.WaitGroup, failed func(error)) *sender {
	return &sender{sink: sink, limit: limit, pool: pool, calls: new(callTable), cipher: cipher, tasks: tasks, failed: failed, open: new(batch), active: new(batch)}
}

// write sends one frame. It returns nil when the sink has taken all of it or, with
// hold, when it is accepted and kept back.
func (s *sender) write(ctx context.Context, header frameHeader, data []byte, hold bool) error {
	if len(data) > s.limit {
		return &SizeError{len(data), s.limit}
	}
	header.dataSize = len(data)
	s.mu.Lock()
	if err := s.makeRoomLocked(ctx, header, hold); err != nil {
		s.mu.Unlock() // a defer would cost as much as the lock
		return err
	}
	start := s.appendLocked(header, data, hold)
	var err error
	switch {
	case hold && s.open.large == nil && len(s.open.frames.b) < batchSize:
		s.open.queued++
	case s.flushing:
		err = s.awaitFrameLocked(ctx, start, header)
	default:
		err = s.outcomeLocked(ctx, s.flushLocked(ctx))
	}
	s.mu.Unlock()
	return err
}

// request sends the request of a call. Its number is given when it is accepted.
func (s *sender) request(ctx context.Context, msgType int, data []byte, call *openCall) error {
	if len(data) > s.limit {
		return &SizeError{len(data), s.limit}
	}
	header := frameHeader{frameType: uint32(msgType) | requestFlag, dataSize: len(data)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.makeRoomLocked(ctx, header, false); err != nil {
		return err
	}
	header.id = s.calls.add(call)
	s.open.firstRequest = cmp.Or(s.open.firstRequest, header.id)
	start := s.appendLocked(header, data, false)
	switch {
	case s.flushing && s.open.large == nil:
		s.open.urgent = true // the call waits for its reply
		call.start, call.header = start, header
		return nil
	case s.flushing:
		return s.awaitFrameLocked(ctx, start, header)
	}
	return s.outcomeLocked(ctx, s.flushLocked(ctx))
}

// takeBackRequest takes the request of a call back and reports true if nothing of it
// was sent: it is the last frame of the open batch.
func (s *sender) takeBackRequest(call *openCall) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.open
	w := writeWaiter{start: call.start, header: call.header}
	if b.firstRequest == 0 || call.number < b.firstRequest || b.large != nil || !b.last(&w) {
		return false
	}
	s.cutLocked(&w)
	return true
}

// flush returns nil when the sink has everything that was accepted before.
func (s *sender) flush(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.refusal != nil:
		return s.refuseLocked()
	case s.flushing:
		return s.awaitLocked(ctx, s.lastLocked(), s.newWaiter())
	case s.open.empty():
		return nil
	}
	return s.outcomeLocked(ctx, s.flushLocked(ctx))
}

// drain has everything that was accepted written in the background, and returns
// nil when the sink has it. It goes on after users' frames are refused.
func (s *sender) drain(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open.urgent = !s.open.empty()
	s.passLocked()
	switch {
	case s.broken:
		return s.refusal
	case !s.flushing:
		return nil
	}
	w := s.newWaiter()
	w.ours = true
	return s.awaitLocked(ctx, s.lastLocked(), w)
}

// lastLocked returns the batch that holds what was accepted last.
func (s *sender) lastLocked() *batch {
	if s.open.empty() {
		return s.active
	}
	return s.open
}

// makeRoomLocked waits until the open batch has room for a frame. After an error it is
// not accepted.
func (s *sender) makeRoomLocked(ctx context.Context, header frameHeader, hold bool) error {
	waited := false
	for {
		switch {
		case s.refusal != nil:
			return s.refuseLocked()
		case (waited || len(s.noRoom) == 0) && s.open.fits(header, hold):
			return nil
		case !s.flushing:
			if err := s.flushLocked(ctx); err == transport.ErrInterrupted && ctx.Err() != nil {
				return contextError("write", ctx)
			}
		default:
			if err := s.awaitRoomLocked(ctx, waited); err != nil {
				return err
			}
			waited = true
		}
	}
}

// appendLocked appends a frame to the open batch, which has room for it, and returns
// where it begins.
func (s *sender) appendLocked(header frameHeader, data []byte, hold bool) (start int) {
	start = s.open.append(s.pool, header, data, hold)
	s.sent.count(header, 1)
	s.wakeNextLocked()
	return start
}

// refuseLocked returns why nothing is accepted. Lost messages of Queue are
// reported once.
func (s *sender) refuseLocked() error {
	if lost := s.sent.lost; lost != (lostMessages{}) {
		s.sent.lost = lostMessages{}
		return lost.report(s.refusal)
	}
	return s.refusal
}

// flushLocked flushes the open batch, which nobody else does, and releases mu
// meanwhile. It returns nil when the batch is written, transport.ErrInterrupted when the
// rest is written in the background, and otherwise why sending is over.
func (s *sender) flushLocked(ctx context.Context) error {
	s.takeLocked()
	s.mu.Unlock()
	if !s.sink.Interruptible() {
		return s.flushByTaskLocked(ctx)
	}
	err := s.writeActive(ctx, &s.stopping)
	s.mu.Lock()
	if err != transport.ErrInterrupted {
		return s.finishLocked(err)
	}
	b := s.active
	s.handOverLocked()
	if s.ending || ctx.Err() != nil {
		return err
	}
	return s.joinLocked(ctx, b) // the owner of the large data has left, and this call has not
}

// flushByTaskLocked has the active batch written in the background, and waits for
// that. It acquires mu.
func (s *sender) flushByTaskLocked(ctx context.Context) error {
	b := s.active
	b.copyLarge(s.pool, s.cipher)
	s.mu.Lock()
	s.handOverLocked()
	if s.ending {
		return transport.ErrInterrupted
	}
	return s.joinLocked(ctx, b)
}

// takeLocked makes the open batch the active one.
func (s *sender) takeLocked() {
	s.flushing = true
	s.open, s.active = s.active, s.open
	if s.active.firstRequest > 0 {
		s.calls.flush()
	}
	s.prependPingsLocked()
	s.wakeNextLocked()
}

// prependPingsLocked puts the pending pong and ping ahead of frames that are not
// sealed.
func (s *sender) prependPingsLocked() {
	p := &s.pings
	if p.pong == nil && !p.ping {
		return
	}
	if !p.silent {
		var ahead []byte
		if p.pong != nil {
			ahead = appendControl(ahead, kindPong, p.pong...)
		}
		if p.ping {
			ahead = appendControl(ahead, kindPing, make([]byte, 8)...)
		}
		b := s.active
		b.frames = s.pool.grow(b.frames, b.size()+len(ahead))
		b.frames.b = slices.Insert(b.frames.b, 0, ahead...)
	}
	p.pong, p.ping = nil, false
}

// handOverLocked has the active batch written in the background. The memory of a
// caller who is about to return is copied first.
func (s *sender) handOverLocked() {
	b := s.active
	b.copyLarge(s.pool, s.cipher)
	b.handed = true
	if b.leaving != nil {
		b.waiters = slices.DeleteFunc(b.waiters, func(w *writeWaiter) bool { return w == b.owner })
		b.owner.finish(b.leaving)
		b.leaving = nil
	}
	s.stopping.Store(s.ending)
	s.tasks.Add(1)
	go func() {
		defer s.tasks.Done()
		s.flushInBackground()
	}()
}

// flushInBackground writes the active batch, and then what nobody waits for.
func (s *sender) flushInBackground() {
	err := s.writeActive(context.Background(), nil)
	s.mu.Lock()
	s.finishLocked(err)
	s.mu.Unlock()
}

// writeActive encodes the active batch and writes it. Only the flusher calls it.
func (s *sender) writeActive(ctx context.Context, stopped *atomic.Bool) error {
	b := s.active
	if b.encoded == nil {
		if b.empty() {
			return nil // its only frame was taken back
		}
		if err := b.encode(s.pool, s.cipher); err != nil {
			return err
		}
	}
	if s.cipher != nil {
		s.rekeys.Store(s.cipher.rekeys)
	}
	out, tail := b.encoded.b, b.large
	if b.written < len(out) {
		out = out[b.written:]
	} else {
		out, tail = tail[b.written-len(out):], nil
	}
	n, err := s.sink.Send(ctx, stopped, out, tail)
	b.written += n
	return err
}

// finishLocked ends the flush of the active batch with its result, for all who
// wait for it, and has the next one flushed.
func (s *sender) finishLocked(err error) error {
	b := s.active
	var result error
	if err != nil {
		result = s.breakLocked(err)
	}
	for _, w := range b.waiters {
		w.finish(result)
	}
	s.stopping.Store(s.ending)
	s.resetLocked(b)
	s.flushing = false
	s.blocked.Store(false)
	s.passLocked()
	return result
}

// breakLocked ends this half: no byte goes out any more. It returns the result of
// the active batch.
func (s *sender) breakLocked(cause error) (result error) {
	if s.broken && s.cause != nil {
		cause = s.cause // abandon has closed the transport under this write
	}
	b := s.active
	certain := b.written == 0 && s.sink.Interruptible() // a socket's failed write has taken nothing
	if certain || b.encoded == nil {
		result = fail(ErrNotConnected, cause, "the write failed, and nothing of it was sent")
		s.sent.lost.unsent += b.queued
		s.calls.endFrom(b.firstRequest, result)
	} else {
		result = fail(ErrUnconfirmed, cause, "the write failed, and some of it may have arrived")
		s.sent.lost.unsure += b.queued
	}
	if !s.broken {
		s.endLocked(fail(ErrNotConnected, cause, "the connection can no longer be written to"), cause)
		s.tasks.Add(1)
		go func() {
			defer s.tasks.Done()
			s.failed(cause)
		}()
	}
	return result
}

// endLocked makes reason the answer to every later call, and to those whose
// frames have not been flushed: nothing of these was sent.
func (s *sender) endLocked(reason, cause error) {
	if s.refusal == nil {
		s.refusal = reason
	}
	if s.cause == nil {
		s.cause = cause
	}
	s.broken = true
	s.dismissLocked(s.open, reason, anyWaiter)
	s.calls.endFrom(s.open.firstRequest, s.refusal)
	s.sent.lost.unsent += s.open.queued
	s.resetLocked(s.open)
	s.wakeAllLocked()
}

// resetLocked empties a batch for its next use.
func (s *sender) resetLocked(b *batch) {
	for _, memory := range []*buffer{b.frames, b.encoded} {
		if memory != nil {
			s.pool.put(memory)
		}
	}
	clear(b.waiters)
	*b = batch{waiters: b.waiters[:0]}
}

// passLocked has the open batch flushed if somebody waits for it or if it is
// urgent. Messages of Queue alone stay.
func (s *sender) passLocked() {
	switch {
	case s.flushing || s.broken:
	case len(s.open.waiters) > 0 && s.open.waiters[0].isUsers():
		s.flushing = true
		s.open.waiters[0].become(waiterFlushes)
	case s.open.urgent || s.pings.ping || s.pings.pong != nil:
		s.takeLocked()
		s.handOverLocked()
	default:
		s.wakeNextLocked()
	}
}

// awaitLocked waits for the result of a batch, and flushes it if that is asked of
// it.
func (s *sender) awaitLocked(ctx context.Context, b *batch, w *writeWaiter) error {
	b.waiters = append(b.waiters, w)
	return s.outcomeLocked(ctx, s.waitLocked(ctx, w, b))
}

// awaitFrameLocked waits for the result of the frame that was accepted last.
func (s *sender) awaitFrameLocked(ctx context.Context, start int, h frameHeader) error {
	w := s.frameWaiter(start, h)
	if s.open.large != nil {
		s.open.owner = w
	}
	return s.awaitLocked(ctx, s.open, w)
}

// joinLocked waits for a batch as one more call that has no frame in it. It returns
// what flushLocked does.
func (s *sender) joinLocked(ctx context.Context, b *batch) error {
	w := s.newWaiter()
	b.waiters = append(b.waiters, w)
	return s.waitLocked(ctx, w, b)
}

// waitLocked returns what flushLocked does, or nothing of it was sent: the
// context's error alone.
func (s *sender) waitLocked(ctx context.Context, w *writeWaiter, b *batch) error {
	s.mu.Unlock()
	select {
	case <-w.wake:
	case <-ctx.Done():
	}
	s.mu.Lock()
	if w.state == waiterDone {
		err := w.err
		putWaiter(s.pool, w)
		return err
	}
	if s.usesMemoryLocked(b, w) {
		return s.leaveLargeLocked(w, b)
	}
	i := slices.Index(b.waiters, w)
	b.waiters = slices.Delete(b.waiters, i, i+1)
	if b.owner == w {
		b.owner = nil
	}
	flushes, taken := w.state == waiterFlushes, b == s.open && s.takeBackLocked(ctx, w)
	putWaiter(s.pool, w)
	switch {
	case flushes && !taken:
		return s.flushLocked(ctx)
	case flushes:
		s.flushing = false
		s.passLocked()
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
	return b == s.active && b.owner == w && !b.handed
}

// leaveLargeLocked has the flush in progress, which is another call's, handed over,
// and returns as soon as nobody uses the memory of this call.
func (s *sender) leaveLargeLocked(w *writeWaiter, b *batch) error {
	if b.leaving == nil {
		b.leaving = transport.ErrInterrupted
	}
	s.stopping.Store(true)
	s.sink.Interrupt()
	for w.state != waiterDone {
		s.mu.Unlock()
		<-w.wake
		s.mu.Lock()
	}
	err := w.err
	putWaiter(s.pool, w)
	return err
}

// takeBackLocked takes the frame of a call whose context is done out of the open
// batch again, if it is the last one there.
func (s *sender) takeBackLocked(ctx context.Context, w *writeWaiter) bool {
	if ctx.Err() == nil || !s.open.last(w) {
		return false
	}
	s.cutLocked(w)
	return true
}

// takeBackLargeLocked takes the frame whose data is in its caller's memory out of
// the open batch again, and has the caller return with reason.
func (s *sender) takeBackLargeLocked(reason error) {
	b := s.open
	i := slices.IndexFunc(b.waiters, b.last)
	w := b.waiters[i]
	if w.state == waiterFlushes {
		s.flushing = false
	}
	s.cutLocked(w)
	b.waiters = slices.Delete(b.waiters, i, i+1)
	w.finish(reason)
}

// cutLocked cuts the frame of w, the last one, off the open batch.
func (s *sender) cutLocked(w *writeWaiter) {
	s.open.frames.b, s.open.large, s.open.owner = s.open.frames.b[:w.start], nil, nil
	s.uncountLocked(w.header, nil)
	s.wakeNextLocked()
}

// uncountLocked notes that a frame that was accepted is not sent. A call that waits for
// its reply ends with reason.
func (s *sender) uncountLocked(h frameHeader, reason error) {
	s.sent.count(h, -1)
	if h.isRequest() {
		s.calls.takeBack(reason)
	}
}

// outcomeLocked turns the result of a flush into that of the call: a frame that
// goes out in the background may arrive.
func (s *sender) outcomeLocked(ctx context.Context, err error) error {
	switch {
	case err != transport.ErrInterrupted:
		return err
	case ctx.Err() != nil:
		return fail(ErrUnconfirmed, contextError("write", ctx), "the message was accepted and is still being sent")
	}
	return fail(ErrUnconfirmed, s.cause, "the message was accepted and is still being sent")
}

// awaitRoomLocked waits until a frame may fit into the open batch. Nothing is
// accepted meanwhile.
func (s *sender) awaitRoomLocked(ctx context.Context, again bool) error {
	w := s.newWaiter()
	if again { // it has waited before, so it is the next
		s.noRoom = slices.Insert(s.noRoom, 0, w)
	} else {
		s.noRoom = append(s.noRoom, w)
	}
	s.mu.Unlock()
	select {
	case <-w.wake:
	case <-ctx.Done():
	}
	s.mu.Lock()
	if i := slices.Index(s.noRoom, w); i >= 0 {
		s.noRoom = slices.Delete(s.noRoom, i, i+1)
	}
	woken := w.state == waiterDone
	putWaiter(s.pool, w)
	if ctx.Err() == nil {
		return nil
	}
	if woken {
		s.wakeNextLocked()
	}
	return contextError("write", ctx)
}

// wakeNextLocked has the first call that waits for room try again: if a frame may fit,
// or if nobody flushes, since then it makes room itself.
func (s *sender) wakeNextLocked() {
	if len(s.noRoom) > 0 {
		s.wakeFirstLocked() // out of line, so that this is inlined: 1 ns of 30
	}
}

func (s *sender) wakeFirstLocked() {
	if !s.flushing || s.open.large == nil && s.open.size()+headerSize <= batchSize {
		w := s.noRoom[0]
		s.noRoom = slices.Delete(s.noRoom, 0, 1)
		w.finish(nil)
	}
}

func (s *sender) wakeAllLocked() {
	for _, w := range s.noRoom {
		w.finish(nil)
	}
	s.noRoom = nil
}

func (s *sender) newWaiter() *writeWaiter {
	w := getWaiter(s.pool)
	w.start = -1
	return w
}

// frameWaiter returns the waiter of a call whose frame begins at start.
func (s *sender) frameWaiter(start int, h frameHeader) *writeWaiter {
	w := getWaiter(s.pool)
	w.start, w.header = start, h
	return w
}

// ping has a ping sent. The caller does not wait for it.
func (s *sender) ping() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pings.ping = true
	s.passLocked()
}

// pong has the pong for a ping sent. The caller does not wait for it.
func (s *sender) pong(data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pings.pong = append(s.pings.pong[:0], data...)
	s.passLocked()
}

// closeWith refuses users' frames with reason from here on, has everybody who
// waits return, and has the given control frame sent behind what was accepted. A
// frame whose data is not copied is taken back. A call whose frame may still arrive
// gets ErrUnconfirmed, wrapping reason. The caller does not wait.
func (s *sender) closeWith(reason error, control [2]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuseFromHereLocked(reason)
	if !s.broken {
		s.appendControlsLocked(control)
		s.dismissUsersLocked(reason)
	}
}

// acknowledgeWith refuses users' frames with reason from here on, and has the given
// control frames sent behind what was accepted. A frame whose data is not copied is
// taken back if nobody flushes it yet, and so are requests: the peer does not answer
// any more. Who waits for another frame goes on waiting: the peer still takes what
// comes. The caller does not wait.
func (s *sender) acknowledgeWith(reason error, controls ...[2]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuseFromHereLocked(reason)
	if s.broken {
		return
	}
	s.takeBackRequestsLocked(reason)
	s.appendControlsLocked(controls...)
	s.passLocked()
}

// takeBackRequestsLocked takes the requests of the open batch out of it again, and
// has their callers return with reason.
func (s *sender) takeBackRequestsLocked(reason error) {
	b := s.open
	if b.empty() {
		return
	}
	kept := b.frames.b[:0]
	for rest := b.frames.b; len(rest) > 0; {
		h, _, err := parseFrameHeader(rest, maxMsgSize)
		if err != nil {
			return // unreachable: these are our own frames
		}
		size := h.size() + h.dataSize
		if h.isRequest() {
			s.uncountLocked(h, reason)
		} else {
			kept = append(kept, rest[:size]...)
		}
		rest = rest[size:]
	}
	b.frames.b = kept
	s.dismissLocked(b, reason, func(w *writeWaiter) bool {
		w.start = -1 // its frame is somewhere else now, and is not taken back
		return w.header.isRequest()
	})
}

// dismiss has everybody who waits after acknowledgeWith return with
// ErrUnconfirmed, wrapping cause.
func (s *sender) dismiss(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dismissUsersLocked(cause)
}

// refuseFromHereLocked has users' frames that are not accepted yet refused. One
// whose data is not copied is taken back.
func (s *sender) refuseFromHereLocked(reason error) {
	if s.refusal == nil {
		s.refusal = reason
	}
	if s.open.large != nil {
		s.takeBackLargeLocked(reason)
	}
	s.wakeAllLocked()
}

// appendControlsLocked has control frames sent behind what was accepted.
func (s *sender) appendControlsLocked(controls ...[2]byte) {
	for _, c := range controls {
		s.open.frames = s.pool.grow(s.open.frames, s.open.size()+headerSize+2)
		s.open.frames.b = appendControl(s.open.frames.b, c[0], c[1])
		s.pings.silent = s.pings.silent || c[0] == kindClose
	}
	s.open.urgent = true
}

// dismissUsersLocked has users' calls that wait return with ErrUnconfirmed,
// wrapping cause. What was accepted is sent in the background.
func (s *sender) dismissUsersLocked(cause error) {
	s.endUsersLocked()
	s.cause = cause
	unconfirmed := fail(ErrUnconfirmed, cause, "the message was accepted and is still being sent")
	s.dismissLocked(s.active, unconfirmed, (*writeWaiter).isUsers)
	s.dismissLocked(s.open, unconfirmed, (*writeWaiter).isUsers)
	s.open.urgent = !s.open.empty()
	s.sink.Interrupt()
	s.passLocked()
}

// endUsersLocked has the flush in progress handed over if it is a user's, and all
// that come.
func (s *sender) endUsersLocked() {
	s.ending = true
	s.stopping.Store(true)
}

// dismissLocked has those who wait for a batch and whom it concerns return with
// err. The batch goes on.
func (s *sender) dismissLocked(b *batch, err error, concerns func(*writeWaiter) bool) {
	b.waiters = slices.DeleteFunc(b.waiters, func(w *writeWaiter) bool {
		if !concerns(w) {
			return false
		}
		if s.usesMemoryLocked(b, w) { // it returns when nobody uses its memory any more
			b.leaving = err
			return false
		}
		if w.state == waiterFlushes { // its duty passes to the background
			s.flushing = false
		}
		w.finish(err)
		return true
	})
}

// abandon ends this half of a connection that is lost: users get reason. It
// returns how many messages of Queue were lost.
func (s *sender) abandon(reason, cause error) lostMessages {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endUsersLocked()
	if !s.broken {
		s.endLocked(reason, cause)
	}
	s.dismissLocked(s.active, fail(ErrUnconfirmed, cause, "the connection was lost while the message was being sent"), anyWaiter)
	s.sent.lost.unsure += s.active.queued
	s.active.queued = 0
	s.sink.Interrupt()
	lost := s.sent.lost
	s.sent.lost = lostMessages{}
	return lost
}

// accepted returns how many messages and replies were accepted.
func (s *sender) accepted() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent.messages + s.sent.replies
}

// isBroken reports whether nothing can be sent any more.
func (s *sender) isBroken() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.broken
}

// noteBlocked notes that the flush in progress waits for the peer.
func (s *sender) noteBlocked() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blocked.Store(s.flushing)
	s.blockedAt = time.Now()
}

// blockedSince returns when the flush in progress has begun to wait for the peer. It is
// zero if none does.
func (s *sender) blockedSince() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.blocked.Load() {
		return time.Time{}
	}
	return s.blockedAt
}

// settle waits until nobody flushes any more, or until ctx is done.
func (s *sender) settle(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.flushing && ctx.Err() == nil {
		s.joinLocked(ctx, s.active)
	}
}

// totals returns what was accepted.
func (s *sender) totals() (messages, bytes, rekeys uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent.messages, s.sent.bytes, s.rekeys.Load()
}
