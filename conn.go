// One established connection: the receiving half, pending losses, and the end by
// close handshake. Only the holder of the endpoint's read role receives.

package gipc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"

	"example.com/gipc/internal/transport"
)

// Results of receiving that do not mean that the connection is lost.
var (
	errNeedBytes  = errors.New("more bytes are needed")
	errNeedRoom   = errors.New("the next message does not fit into the queue")
	errPeerClosed = errors.New("the peer closed the connection")
	errCloseAcked = errors.New("the peer acknowledged the close")
	errReplied    = errors.New("a reply has come")
)

// errNoReply is the result of calls that are open when Close is called.
var errNoReply = newError(ErrUnconfirmed, ErrClosed, "no reply was received")

const requestBlockSize = 16 // requests per allocation

// A connection is one transport after its handshake.
type connection struct {
	netConn   net.Conn
	source    transport.Source
	sender    *sender
	decoder   *decoder
	heartbeat *heartbeat
	peer      Peer
	id        uint64
	busyPoll  time.Duration // how long to poll before waiting; 0 is off
	security  Security

	preemptRequested atomic.Bool                 // the role's holder has to release it
	pendingLoss      atomic.Pointer[pendingLoss] // nil unless a loss is pending; reported by the role's holder

	freeRequests   []request // allocated and not used yet. This and the next fields belong to the role's holder, except sendReply
	sendReply      func(number uint64, msgType int, data []byte) error
	closeHandshake *closeHandshake
	lastFrame      frame // the frame that was decoded last
	readDeadline   readDeadline
	delivery       *delivery // guarded by the endpoint's lock
}

// A readDeadline records the deadline of the source, to avoid setting it again.
type readDeadline struct {
	setTo time.Time
	stale bool // an interrupt has replaced the deadline of the source
}

// A pendingLoss makes the reader report the connection as lost, no earlier than
// notBefore. It is set before the reader is interrupted. A later loss does not replace
// the first one, unless that is a heartbeat timeout, which can also be withdrawn.
type pendingLoss struct {
	cause            error
	notBefore        time.Time
	heartbeatTimeout bool  // withdrawn if anything has been received since, or can be read now
	lastActivity     int64 // the heartbeat's activity when it was checked
}

// A readCall is one request to receive: its limits, its purpose and its memory.
type readCall struct {
	ctx          context.Context // nil if it can never be done
	deadline     time.Time       // zero: none
	noWait       bool            // try once, do not wait
	ctxWatched   bool            // the caller interrupts the reader itself when ctx is done
	skipStatus   bool            // the caller does not get status messages
	awaitedReply *openCall       // receiving ends with this reply
	anyReply     bool            // receiving ends with any reply
	destination  destination     // its callerMemory is set for each message
	stopWatch    func() bool     // stops watching ctx; nil if ctx is not watched
	holdsRole    bool            // the call was granted the role
}

// endWatching stops watching the call's context.
func (call *readCall) endWatching() {
	if call.stopWatch != nil {
		call.stopWatch()
		call.stopWatch = nil
	}
}

// An interruption ends a call while the connection stays usable. err is nil if the
// role was preempted.
type interruption struct{ err error }

func (i *interruption) Error() string { return "interrupted" }

var preempted = &interruption{}

// receive sets m to the peer's next message. The error is an *interruption,
// errNeedRoom, errReplied, or the reason why the connection is over.
func (c *connection) receive(call *readCall, m *Message) error {
	c.decoder.readLimit = call.destination.readLimit()
	for {
		if !c.decoder.isIdle() { // decoding needs a large stack, which an idle reader does without
			if err := c.decodeMessage(call, m); err != errNeedBytes {
				return err
			}
		}
		ready, err := c.prepareRead(call)
		if !ready && err == nil { // not in a helper: each frame counts for the 2 KiB stack of an idle reader
			if _, err = c.source.Receive(c.decoder); errors.Is(err, os.ErrDeadlineExceeded) {
				err = c.afterReadTimeout(call)
			} else {
				err = c.noteRead(err)
			}
		}
		if err != nil {
			c.decoder.releaseCallerMemory()
			return err
		}
	}
}

// decodeMessage sets m to the next message that has arrived in full. Besides the
// errors of receive it returns errNeedBytes and errCloseAcked.
func (c *connection) decodeMessage(call *readCall, m *Message) error {
	to, f := &call.destination, &c.lastFrame
	to.callerMemory = m.Data
	for {
		step, err := c.decoder.nextFrame(to, f)
		switch {
		case err != nil:
			return err
		case step == needBytes:
			return errNeedBytes
		case step == needRoom:
			return errNeedRoom
		case f.frameType == controlType:
			if err := c.handleControl(f.data); err != nil {
				return err
			}
		case c.closeHandshake.peerClosed: // frames behind the close are discarded
		case f.isReply():
			answered := c.sender.callTable.deliverReply(f.id&^replyFlag, f.msgType(), f.data, c.id)
			if f.data = nil; answered != nil && (call.anyReply || answered == call.awaitedReply) {
				return errReplied
			}
		default:
			m.setPeerMessage(f.msgType(), f.data, c.id)
			if f.data = nil; f.isRequest() {
				m.request = c.newRequest(f.id)
			}
			return nil
		}
	}
}

// newRequest returns the request that Reply needs. It allocates several at once.
func (c *connection) newRequest(number uint64) *request {
	if len(c.freeRequests) == 0 {
		c.freeRequests = make([]request, requestBlockSize)
	}
	r := &c.freeRequests[0]
	c.freeRequests = c.freeRequests[1:]
	r.requestNumber, r.sendReply = number, c.sendReply
	return r
}

// handleControl processes a control frame. Only close and close-ack return an error.
func (c *connection) handleControl(data []byte) error {
	kind, _ := parseControl(data) // checked by the decoder
	switch kind {
	case kindPing:
		c.sender.queuePong(data[1:])
	case kindClose:
		if c.closeHandshake.noteClose() {
			c.checkRemainder()
			return errPeerClosed
		}
	case kindCloseAck:
		if err := c.closeHandshake.noteAck(data[1]); err != nil {
			c.decoder.decodeErr = err // nothing behind the close-ack is decoded
			return err
		}
		c.checkRemainder()
		return errCloseAcked
	}
	return nil
}

// checkRemainder checks the frames behind a close or close-ack: the rest of its
// record or, in plaintext, what has arrived, unless this side has sent a close. A
// violation becomes protocolErr, so that nothing more is written.
func (c *connection) checkRemainder() {
	for c.closeHandshake.protocolErr == nil && (c.decoder.hasOpenRecord() || c.decoder.cipher == nil && !c.closeHandshake.sentClose) {
		var f frame
		step, err := c.decoder.nextFrame(&destination{maxSize: unlimited}, &f)
		if err == nil && step != frameReady {
			return
		}
		if err == nil && step == frameReady && f.frameType == controlType {
			if kind, _ := parseControl(f.data); kind == kindCloseAck {
				err = c.closeHandshake.noteAck(f.data[1])
			}
		}
		c.closeHandshake.protocolErr = err
	}
}

// prepareRead runs before a blocking read of the source. ready is true if bytes
// have arrived, so that no read is needed. An error ends the call.
func (c *connection) prepareRead(call *readCall) (ready bool, err error) {
	c.updateDeadline(call)
	if call.ctx != nil && call.stopWatch == nil && !call.ctxWatched {
		call.stopWatch = context.AfterFunc(call.ctx, c.interrupt)
	}
	if ready, err = c.endReason(call); ready || err != nil {
		return ready, err
	}
	switch {
	case call.noWait:
		return true, c.tryRead(call.deadline.IsZero())
	case c.busyPoll > 0:
		return c.pollSource(call)
	}
	return false, nil
}

// afterReadTimeout runs after the source's deadline has ended a read, and returns
// why the call has to end, or nil. The deadline itself may be that of an interrupt.
func (c *connection) afterReadTimeout(call *readCall) error {
	c.readDeadline.stale = true
	if _, err := c.endReason(call); err != nil || !call.deadlinePassed() {
		return err
	}
	return c.tryRead(false)
}

// updateDeadline sets the deadline of the source for the call. Interrupters first
// record the reason and then set the deadline; here the deadline is set before the
// reasons are checked, so that no interrupt is lost. A deadline that is too early
// is not replaced: it only costs one more turn of the loop.
func (c *connection) updateDeadline(call *readCall) {
	target := call.deadline
	if loss := c.pendingLoss.Load(); loss != nil && (target.IsZero() || loss.notBefore.Before(target)) {
		target = loss.notBefore
	}
	d := &c.readDeadline
	if d.stale || !target.IsZero() && (d.setTo.IsZero() || target.Before(d.setTo)) {
		c.source.SetReadDeadline(target)
		d.setTo, d.stale = target, false
	}
}

// deadlinePassed reports whether the call's deadline has passed.
func (call *readCall) deadlinePassed() bool {
	return !call.deadline.IsZero() && !time.Now().Before(call.deadline)
}

// endReason returns why the call has to end, or nil. done is true if it has
// received bytes while it checked a heartbeat timeout.
func (c *connection) endReason(call *readCall) (done bool, err error) {
	if c.preemptRequested.Load() {
		return false, preempted
	}
	if loss := c.pendingLoss.Load(); loss != nil && !time.Now().Before(loss.notBefore) {
		if !loss.heartbeatTimeout {
			return false, loss.cause
		}
		// A process that was suspended may have unread input from that time.
		if c.heartbeat.lastActivity.Load() == loss.lastActivity {
			n, ok, err := c.source.TryRead(c.decoder, false)
			if !ok {
				return false, loss.cause
			}
			c.pendingLoss.CompareAndSwap(loss, nil)
			return n > 0, c.noteRead(err)
		}
		c.pendingLoss.CompareAndSwap(loss, nil)
	}
	if call.ctx != nil && call.ctx.Err() != nil {
		return false, &interruption{contextError("read", call.ctx)}
	}
	return false, nil
}

// tryRead reads what has arrived, without waiting. It returns an *interruption with
// ErrTimeout if that is nothing. For patient see transport.Source.
func (c *connection) tryRead(patient bool) error {
	_, ok, err := c.source.TryRead(c.decoder, patient)
	if !ok {
		return &interruption{ErrTimeout}
	}
	return c.noteRead(err)
}

// pollSource reads without waiting, repeatedly, for the time of BusyPoll. done is
// true if bytes have arrived. An error ends the call.
func (c *connection) pollSource(call *readCall) (done bool, err error) {
	for end := time.Now().Add(c.busyPoll); time.Now().Before(end) && !call.deadlinePassed(); {
		if _, ok, err := c.source.TryRead(c.decoder, false); ok {
			return true, c.noteRead(err)
		}
		if done, err := c.endReason(call); done || err != nil {
			return done, err
		}
	}
	return false, nil
}

// noteRead records the activity of a successful read. For a failed one it returns
// the reason why the stream is over.
func (c *connection) noteRead(err error) error {
	if err != nil {
		return c.streamEndError(err)
	}
	if c.heartbeat.interval > 0 {
		c.heartbeat.noteActivity()
	}
	return nil
}

// interrupt makes the reader check whether its call has to end.
func (c *connection) interrupt() { c.source.SetReadDeadline(transport.Past) }

// streamEndError returns the error that describes how the stream ended.
func (c *connection) streamEndError(err error) error {
	switch {
	case !isStreamEnd(err):
		return fmt.Errorf("gipc: read failed: %w", transport.UnwrapOpError(err))
	case c.decoder.isInsideFrame():
		return newError(ErrTruncated, nil, "the stream ended inside a frame")
	case c.closeHandshake.peerClosed:
		return newError(ErrTruncated, nil, "the stream ended without a close-ack")
	}
	return newError(ErrTruncated, nil, "the stream ended without a close: the peer exited, or did not call Close")
}

// isFailing reports whether a loss is pending that cannot be withdrawn. The
// reader still reads the bytes that have arrived.
func (c *connection) isFailing() bool {
	loss := c.pendingLoss.Load()
	return loss != nil && !loss.heartbeatTimeout
}

// failAt makes the reader report the connection as lost at the given time.
func (c *connection) failAt(cause error, at time.Time) {
	loss := &pendingLoss{cause: cause, notBefore: at}
	for {
		was := c.pendingLoss.Load()
		if was != nil && !was.heartbeatTimeout || c.pendingLoss.CompareAndSwap(was, loss) {
			return
		}
	}
}

// failInactive makes the reader report a heartbeat timeout, unless something was
// received after the given activity.
func (c *connection) failInactive(activity int64) {
	idle := time.Since(c.heartbeat.startTime) - time.Duration(activity)
	err := newError(ErrTimeout, nil, "received nothing from the peer for %v", idle.Round(time.Millisecond))
	c.pendingLoss.CompareAndSwap(nil, &pendingLoss{cause: err, notBefore: time.Now(), heartbeatTimeout: true, lastActivity: activity})
}

// stats returns the totals of this connection. The endpoint counts what was
// received.
func (c *connection) stats() Stats {
	messages, bytes, rekeys := c.sender.acceptedTotals()
	calls, unclaimed := c.sender.callTable.callCounts()
	return Stats{Sent: messages, SentBytes: bytes, Rekeys: rekeys + c.decoder.cipher.rekeyCount(), Calls: calls, Dropped: unclaimed}
}

// sendClose queues a close behind the accepted messages. Users' later messages are
// refused with reason.
func (c *connection) sendClose(reason error, code byte) {
	c.closeHandshake.sentClose = true
	c.sender.queueClose(reason, [2]byte{kindClose, code})
}

// sendCloseAck queues the close-ack for the peer's close and, before it, a close if
// this side has sent none. Users' later messages are refused with reason.
func (c *connection) sendCloseAck(reason error) {
	ack := [2]byte{kindCloseAck, c.closeHandshake.ownAckCode()}
	c.closeHandshake.sentAck = true
	if c.closeHandshake.sentClose {
		c.sender.queueCloseAck(reason, ack)
		return
	}
	c.closeHandshake.sentClose = true
	c.sender.queueCloseAck(reason, [2]byte{kindClose, closedByUser}, ack)
}

// awaitCloseAck reads until the peer's close-ack, and returns the delivery result
// of the close handshake. Messages before the peer's close are discarded. The
// caller holds the role, and has sent a close.
func (c *connection) awaitCloseAck(ctx context.Context) error {
	sent := c.sender.acceptedCount()
	c.preemptRequested.Store(false)
	call := readCall{ctx: ctx, destination: destination{reuse: true, maxSize: unlimited}}
	defer func() {
		if call.stopWatch != nil {
			call.stopWatch()
		}
	}()
	var m Message
	for h := c.closeHandshake; ; {
		switch {
		case h.protocolErr != nil:
			return h.deliveryResult(sent, h.protocolErr)
		case h.peerClosed && !h.sentAck:
			c.sendCloseAck(ErrClosed)
			c.sender.callTable.endAllCalls(errNoReply) // no reply follows the peer's close
			continue
		case h.ackReceived:
			return h.deliveryResult(sent, nil)
		}
		switch err := c.receive(&call, &m); err {
		case nil:
			h.noteDiscarded()
		case errPeerClosed, errCloseAcked:
		default:
			return h.deliveryResult(sent, causeOf(err))
		}
	}
}

// causeOf returns the error of an interruption, and any other error unchanged.
func causeOf(err error) error {
	if stop, ok := err.(*interruption); ok {
		return stop.err
	}
	return err
}

// closeContext returns ctx with the time limit of a close handshake: 5 s, or 1 s if
// this side has sent nothing, because then nothing needs to be acknowledged.
func (c *connection) closeContext(ctx context.Context) (context.Context, context.CancelFunc) {
	if c.sender.acceptedCount() == 0 {
		return context.WithTimeout(ctx, drainTimeout)
	}
	return context.WithTimeout(ctx, closeTimeout)
}

// closeGracefully closes the transport without losing what was written. It waits
// for the flush in progress, shuts down the sending half, and discards input until
// the peer has shut down its own half, until 1 s has passed, or until ctx is done.
func (c *connection) closeGracefully(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	c.sender.awaitFlushEnd(ctx)
	if transport.EndSending(c.netConn) {
		c.discardInput(ctx)
	}
	closeTransport(ctx, c.netConn)
	c.source.End()
	c.decoder.releaseMemory()
}

// discardInput reads without decoding, until the stream is over or ctx is done.
func (c *connection) discardInput(ctx context.Context) {
	defer context.AfterFunc(ctx, c.interrupt)()
	c.decoder.releaseMemory()
	for {
		c.source.SetReadDeadline(time.Time{})
		if ctx.Err() != nil {
			return
		}
		_, err := c.source.Receive(c.decoder)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		c.decoder.releaseMemory()
	}
}
