// One live connection: its transport, its two directions, and how it ends. Only
// the holder of the endpoint's read role calls what receives.

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

// Results of receiving that are no loss of the connection.
var (
	errNeedBytes  = errors.New("more bytes are needed")
	errNeedRoom   = errors.New("the next message does not fit into the queue")
	errPeerClosed = errors.New("the peer closed the connection")
	errCloseAcked = errors.New("the peer acknowledged the close")
	errReplied    = errors.New("a reply has come")
)

// errNoReply is what Close leaves to open calls.
var errNoReply = fail(ErrUnconfirmed, ErrClosed, "the reply has not come")

const requestBlockSize = 16 // requests whose memory is made at once

// A connection is one transport after its handshake.
type connection struct {
	netConn   net.Conn
	source    transport.Source
	sender    *sender
	decoder   *decoder
	heartbeat *heartbeat
	peer      Peer
	id        uint64
	busyPoll  time.Duration // how long to poll before a wait
	security  Security

	preemptRequested atomic.Bool                 // the holder of the role is to give it up
	pendingLoss      atomic.Pointer[pendingLoss] // declared by the holder of the role
	receiveRekeys    atomic.Uint64               // of the decoder's cipher

	freeRequests   []request // the role's: memory for those that come next
	sendReply      func(number uint64, msgType int, data []byte) error
	closeHandshake *closeHandshake // the role's
	lastFrame      frame           // the role's: the decoder's last
	readDeadline   readDeadline    // the role's

	delivery *delivery // guarded by the endpoint's lock
}

// A readDeadline is that of the source, as far as it is known.
type readDeadline struct {
	setTo time.Time
	stale bool // the source has another one
}

// A pendingLoss is set before the reader is interrupted: from at on the reader
// declares the connection lost. The first one counts, except one for silence.
type pendingLoss struct {
	cause            error
	notBefore        time.Time
	heartbeatTimeout bool  // nothing came; bytes that were or can be read since disprove it
	lastActivity     int64 // the latest activity
}

// A readCall is what one call wants of the role.
type readCall struct {
	ctx          context.Context // nil if it is never done
	deadline     time.Time       // zero is forever
	noWait       bool            // look once, do not wait
	ctxWatched   bool            // somebody else interrupts for ctx
	skipStatus   bool            // the caller does not see status messages
	awaitedReply *openCall       // the call ends with this reply
	anyReply     bool            // the call ends with any reply
	destination  destination     // where data goes; memory is set for each message
	stopWatch    func() bool     // ends the watch over ctx
	holdsRole    bool            // the call holds the role
}

// endWatching ends the watch over the call's context.
func (call *readCall) endWatching() {
	if call.stopWatch != nil {
		call.stopWatch()
		call.stopWatch = nil
	}
}

// An interruption is why a call ends while the connection goes on. Without an
// error the role was preempted.
type interruption struct{ err error }

func (i *interruption) Error() string { return "interrupted" }

var preempted = &interruption{}

// receive fills m with the peer's next message. The error is an *interruption, or
// errNeedRoom, or why the connection is over.
func (c *connection) receive(call *readCall, m *Message) error {
	for {
		if !c.decoder.isIdle() { // decoding takes much of a stack
			if err := c.decodeMessage(call, m); err != errNeedBytes {
				return err
			}
		}
		ready, err := c.prepareRead(call)
		if !ready && err == nil { // here, and not deeper: the stack of an idle reader stays at 2 KiB
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

// decodeMessage fills m with the next message that has arrived. The error may also be
// errNeedBytes or errCloseAcked.
func (c *connection) decodeMessage(call *readCall, m *Message) error {
	to, f := &call.destination, &c.lastFrame
	to.callerMemory = m.Data
	for {
		step, err := c.decoder.nextFrame(to, f)
		if cipher := c.decoder.cipher; cipher != nil && cipher.rekeys != c.receiveRekeys.Load() {
			c.receiveRekeys.Store(cipher.rekeys)
		}
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
		case c.closeHandshake.peerClosed: // it is for nobody
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

// newRequest returns what Reply needs. Memory is made for several at once.
func (c *connection) newRequest(number uint64) *request {
	if len(c.freeRequests) == 0 {
		c.freeRequests = make([]request, requestBlockSize)
	}
	r := &c.freeRequests[0]
	c.freeRequests = c.freeRequests[1:]
	r.requestNumber, r.sendReply = number, c.sendReply
	return r
}

// handleControl obeys a control frame.
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
			c.decoder.decodeErr = err // no byte behind it is interpreted
			return err
		}
		c.checkRemainder()
		return errCloseAcked
	}
	return nil
}

// checkRemainder checks the rest of the record whose close or close-ack was obeyed, and
// in plaintext what has arrived before this side has sent a close. If something is
// refused nothing more is written.
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

// prepareRead makes ready for a read of the source that waits. ready is true if
// bytes have come instead. The error is why the call has to end.
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

// afterReadTimeout returns why a call ends whose read the deadline of the source has
// ended: the deadline is a hint, and the reasons decide.
func (c *connection) afterReadTimeout(call *readCall) error {
	c.readDeadline.stale = true
	if _, err := c.endReason(call); err != nil || !call.deadlinePassed() {
		return err
	}
	return c.tryRead(false)
}

// updateDeadline sets the deadline of the source. Who interrupts sets the reason and
// then the deadline: so the deadline comes first here, then a look at the reasons,
// then the read. A deadline that is too early stays: it costs one more turn.
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

// deadlinePassed reports whether the time of the call has passed.
func (call *readCall) deadlinePassed() bool {
	return !call.deadline.IsZero() && !time.Now().Before(call.deadline)
}

// endReason returns why the call has to end. done is true if bytes have come instead.
func (c *connection) endReason(call *readCall) (done bool, err error) {
	if c.preemptRequested.Load() {
		return false, preempted
	}
	if loss := c.pendingLoss.Load(); loss != nil && !time.Now().Before(loss.notBefore) {
		if !loss.heartbeatTimeout {
			return false, loss.cause
		}
		// A process that was stopped may see only now what came meanwhile.
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

// tryRead takes what is there, even though the time of the call has passed.
func (c *connection) tryRead(patient bool) error {
	_, ok, err := c.source.TryRead(c.decoder, patient)
	if !ok {
		return &interruption{ErrTimeout}
	}
	return c.noteRead(err)
}

// pollSource looks again and again for as long as busy, unless the call has to end. done
// is true if bytes have come.
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

// noteRead notes that a read has brought bytes, or why the stream is over.
func (c *connection) noteRead(err error) error {
	if err != nil {
		return c.streamEndError(err)
	}
	if c.heartbeat.interval > 0 {
		c.heartbeat.noteActivity()
	}
	return nil
}

// interrupt has the reader look at its reasons to end.
func (c *connection) interrupt() { c.source.SetReadDeadline(transport.Past) }

// streamEndError returns how the stream ended.
func (c *connection) streamEndError(err error) error {
	switch {
	case !isStreamEnd(err):
		return fmt.Errorf("gipc: read failed: %w", transport.UnwrapOpError(err))
	case c.decoder.isInsideFrame():
		return fail(ErrTruncated, nil, "the stream ended inside a frame")
	case c.closeHandshake.peerClosed:
		return fail(ErrTruncated, nil, "the stream ended without a close-ack")
	}
	return fail(ErrTruncated, nil, "the stream ended without a close: the peer exited, or did not call Close")
}

// isFailing reports whether a loss is pending, though what has arrived is still
// being read.
func (c *connection) isFailing() bool {
	loss := c.pendingLoss.Load()
	return loss != nil && !loss.heartbeatTimeout
}

// failAt has the reader declare the connection lost at the given time.
func (c *connection) failAt(cause error, at time.Time) {
	loss := &pendingLoss{cause: cause, notBefore: at}
	for {
		was := c.pendingLoss.Load()
		if was != nil && !was.heartbeatTimeout || c.pendingLoss.CompareAndSwap(was, loss) {
			return
		}
	}
}

// failInactive has the reader declare the connection lost now, unless something has
// come since the activity that was checked.
func (c *connection) failInactive(activity int64) {
	idle := time.Since(c.heartbeat.startTime) - time.Duration(activity)
	err := fail(ErrTimeout, nil, "nothing came from the peer for %v", idle.Round(time.Millisecond))
	c.pendingLoss.CompareAndSwap(nil, &pendingLoss{cause: err, notBefore: time.Now(), heartbeatTimeout: true, lastActivity: activity})
}

// stats returns the totals of this connection, except what was received, which
// the endpoint counts.
func (c *connection) stats() Stats {
	messages, bytes, rekeys := c.sender.acceptedTotals()
	calls, unasked := c.sender.callTable.callCounts()
	return Stats{Sent: messages, SentBytes: bytes, Rekeys: rekeys + c.receiveRekeys.Load(), Calls: calls, Dropped: unasked}
}

// sendClose has a close sent behind what was accepted. Users' messages are
// refused with reason from here on.
func (c *connection) sendClose(reason error, code byte) {
	c.closeHandshake.sentClose = true
	c.sender.queueClose(reason, [2]byte{kindClose, code})
}

// sendCloseAck has the close of the peer answered: with a close, if this side has
// sent none, and a close-ack. Users' messages are refused with reason from here on.
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

// awaitCloseAck reads until the peer's close-ack, and returns what the close means for
// what was sent. Messages that come before the peer's close are discarded. The
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
			c.sender.callTable.endAllCalls(errNoReply) // none comes behind the peer's close
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

// causeOf returns the error of an interruption, and any other error as it is.
func causeOf(err error) error {
	if stop, ok := err.(*interruption); ok {
		return stop.err
	}
	return err
}

// closeContext returns the context for a close: a side that has sent nothing waits
// only for a moment.
func (c *connection) closeContext(ctx context.Context) (context.Context, context.CancelFunc) {
	if c.sender.acceptedCount() == 0 {
		return context.WithTimeout(ctx, drainTimeout)
	}
	return context.WithTimeout(ctx, closeTimeout)
}

// closeGracefully closes the transport so that the peer gets what was written: it waits
// for the write in progress, ends the sending half, and reads until the peer has
// ended its own or until ctx is done.
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

// discardInput reads, without a check, until the stream is over or ctx is done.
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

// closeTransport closes conn. A connection that is no socket may block, so it is
// closed by a goroutine of its own, which is awaited for a moment.
func closeTransport(ctx context.Context, conn net.Conn) {
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		conn.Close()
		return
	}
	closed := make(chan struct{})
	go func() {
		conn.Close()
		close(closed)
	}()
	late := time.NewTimer(drainTimeout)
	defer late.Stop()
	select {
	case <-closed:
	case <-late.C:
	case <-ctx.Done():
	}
}

// lingerAndClose ends a connection that has no connection type yet: it ends the
// sending half and reads until the peer has ended its own, since closing with
// unread input would reset the connection and destroy what was sent.
func lingerAndClose(conn net.Conn) {
	defer closeTransport(context.Background(), conn)
	if !transport.EndSending(conn) {
		return
	}
	end := time.Now().Add(drainTimeout)
	late := time.AfterFunc(drainTimeout, func() { conn.Close() }) // deadlines may be missing
	defer late.Stop()
	var b [512]byte
	for {
		conn.SetReadDeadline(end)
		if _, err := conn.Read(b[:]); err != nil && (!errors.Is(err, os.ErrDeadlineExceeded) || !time.Now().Before(end)) {
			return
		}
	}
}
