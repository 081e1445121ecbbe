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

const requestBlock = 16 // requests whose memory is made at once

// A connection is one transport after its handshake.
type connection struct {
	conn     net.Conn
	source   transport.Source
	sender   *sender
	decoder  *decoder
	beat     *heartbeat
	peer     Peer
	id       uint64
	busy     time.Duration // how long to poll before a wait
	security Security

	preempt atomic.Bool                 // the holder of the role is to give it up
	loss    atomic.Pointer[pendingLoss] // declared by the holder of the role
	rekeys  atomic.Uint64               // of the decoder's cipher

	requests []request // the role's: memory for those that come next
	answer   func(number uint64, msgType int, data []byte) error
	closing  *closeHandshake // the role's
	received frame           // the role's: the decoder's last
	deadline readDeadline    // the role's

	delivery *delivery // guarded by the endpoint's lock
}

// A readDeadline is that of the source, as far as it is known.
type readDeadline struct {
	at    time.Time
	stale bool // the source has another one
}

// A pendingLoss is set before the reader is interrupted: from at on the reader
// declares the connection lost. The first one counts, except one for silence.
type pendingLoss struct {
	cause    error
	at       time.Time
	silent   bool  // nothing came; bytes that were or can be read since disprove it
	activity int64 // the latest activity
}

// A readCall is what one call wants of the role.
type readCall struct {
	ctx      context.Context // nil if it is never done
	until    time.Time       // zero is forever
	poll     bool            // look once, do not wait
	shared   bool            // somebody else interrupts for ctx
	noStatus bool            // the caller does not see status messages
	reply    *openCall       // the call ends with this reply
	replies  bool            // the call ends with any reply
	to       destination     // where data goes; memory is set for each message
	unwatch  func() bool     // ends the watch over ctx
	granted  bool            // the call holds the role
}

// endWatch ends the watch over the call's context.
func (call *readCall) endWatch() {
	if call.unwatch != nil {
		call.unwatch()
		call.unwatch = nil
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
		if !c.decoder.idle() { // decoding takes much of a stack
			if err := c.decode(call, m); err != errNeedBytes {
				return err
			}
		}
		ready, err := c.beforeRead(call)
		if !ready && err == nil { // here, and not deeper: the stack of an idle reader stays at 2 KiB
			if _, err = c.source.Receive(c.decoder); errors.Is(err, os.ErrDeadlineExceeded) {
				err = c.afterDeadline(call)
			} else {
				err = c.took(err)
			}
		}
		if err != nil {
			c.decoder.returnMemory()
			return err
		}
	}
}

// decode fills m with the next message that has arrived. The error may also be
// errNeedBytes or errCloseAcked.
func (c *connection) decode(call *readCall, m *Message) error {
	to, f := &call.to, &c.received
	to.memory = m.Data
	for {
		step, err := c.decoder.next(to, f)
		if cipher := c.decoder.cipher; cipher != nil && cipher.rekeys != c.rekeys.Load() {
			c.rekeys.Store(cipher.rekeys)
		}
		switch {
		case err != nil:
			return err
		case step == needBytes:
			return errNeedBytes
		case step == needRoom:
			return errNeedRoom
		case f.frameType == controlType:
			if err := c.control(f.data); err != nil {
				return err
			}
		case c.closing.peerClosed: // it is for nobody
		case f.isReply():
			answered := c.sender.calls.deliver(f.id&^replyFlag, f.msgType(), f.data, c.id)
			if f.data = nil; answered != nil && (call.replies || answered == call.reply) {
				return errReplied
			}
		default:
			m.set(f.msgType(), f.data, c.id)
			if f.data = nil; f.isRequest() {
				m.request = c.newRequest(f.id)
			}
			return nil
		}
	}
}

// newRequest returns what Reply needs. Memory is made for several at once.
func (c *connection) newRequest(number uint64) *request {
	if len(c.requests) == 0 {
		c.requests = make([]request, requestBlock)
	}
	r := &c.requests[0]
	c.requests = c.requests[1:]
	r.number, r.answer = number, c.answer
	return r
}

// control obeys a control frame.
func (c *connection) control(data []byte) error {
	kind, _ := parseControl(data) // checked by the decoder
	switch kind {
	case kindPing:
		c.sender.pong(data[1:])
	case kindClose:
		if c.closing.onClose() {
			c.checkRecord()
			return errPeerClosed
		}
	case kindCloseAck:
		if err := c.closing.onAck(data[1]); err != nil {
			c.decoder.failure = err // no byte behind it is interpreted
			return err
		}
		c.checkRecord()
		return errCloseAcked
	}
	return nil
}

// checkRecord checks the rest of the record whose close or close-ack was obeyed, and
// in plaintext what has arrived before this side has sent a close. If something is
// refused nothing more is written.
func (c *connection) checkRecord() {
	for c.closing.refused == nil && (c.decoder.recordOpen() || c.decoder.cipher == nil && !c.closing.sentClose) {
		var f frame
		step, err := c.decoder.next(&destination{room: unlimited}, &f)
		if err == nil && step != frameReady {
			return
		}
		if err == nil && step == frameReady && f.frameType == controlType {
			if kind, _ := parseControl(f.data); kind == kindCloseAck {
				err = c.closing.onAck(f.data[1])
			}
		}
		c.closing.refused = err
	}
}

// beforeRead makes ready for a read of the source that waits. ready is true if
// bytes have come instead. The error is why the call has to end.
func (c *connection) beforeRead(call *readCall) (ready bool, err error) {
	c.setDeadline(call)
	if call.ctx != nil && call.unwatch == nil && !call.shared {
		call.unwatch = context.AfterFunc(call.ctx, c.interrupt)
	}
	if ready, err = c.reason(call); ready || err != nil {
		return ready, err
	}
	switch {
	case call.poll:
		return true, c.look(call.until.IsZero())
	case c.busy > 0:
		return c.poll(call)
	}
	return false, nil
}

// afterDeadline returns why a call ends whose read the deadline of the source has
// ended: the deadline is a hint, and the reasons decide.
func (c *connection) afterDeadline(call *readCall) error {
	c.deadline.stale = true
	if _, err := c.reason(call); err != nil || !call.expired() {
		return err
	}
	return c.look(false)
}

// setDeadline sets the deadline of the source. Who interrupts sets the reason and
// then the deadline: so the deadline comes first here, then a look at the reasons,
// then the read. A deadline that is too early stays: it costs one more turn.
func (c *connection) setDeadline(call *readCall) {
	target := call.until
	if loss := c.loss.Load(); loss != nil && (target.IsZero() || loss.at.Before(target)) {
		target = loss.at
	}
	d := &c.deadline
	if d.stale || !target.IsZero() && (d.at.IsZero() || target.Before(d.at)) {
		c.source.SetReadDeadline(target)
		d.at, d.stale = target, false
	}
}

// expired reports whether the time of the call has passed.
func (call *readCall) expired() bool {
	return !call.until.IsZero() && !time.Now().Before(call.until)
}

// reason returns why the call has to end. done is true if bytes have come instead.
func (c *connection) reason(call *readCall) (done bool, err error) {
	if c.preempt.Load() {
		return false, preempted
	}
	if loss := c.loss.Load(); loss != nil && !time.Now().Before(loss.at) {
		if !loss.silent {
			return false, loss.cause
		}
		// A process that was stopped may see only now what came meanwhile.
		if c.beat.latest.Load() == loss.activity {
			n, ok, err := c.source.Look(c.decoder, false)
			if !ok {
				return false, loss.cause
			}
			c.loss.CompareAndSwap(loss, nil)
			return n > 0, c.took(err)
		}
		c.loss.CompareAndSwap(loss, nil)
	}
	if call.ctx != nil && call.ctx.Err() != nil {
		return false, &interruption{contextError("read", call.ctx)}
	}
	return false, nil
}

// look takes what is there, even though the time of the call has passed.
func (c *connection) look(patient bool) error {
	_, ok, err := c.source.Look(c.decoder, patient)
	if !ok {
		return &interruption{ErrTimeout}
	}
	return c.took(err)
}

// poll looks again and again for as long as busy, unless the call has to end. done
// is true if bytes have come.
func (c *connection) poll(call *readCall) (done bool, err error) {
	for end := time.Now().Add(c.busy); time.Now().Before(end) && !call.expired(); {
		if _, ok, err := c.source.Look(c.decoder, false); ok {
			return true, c.took(err)
		}
		if done, err := c.reason(call); done || err != nil {
			return done, err
		}
	}
	return false, nil
}

// took notes that a read has brought bytes, or why the stream is over.
func (c *connection) took(err error) error {
	if err != nil {
		return c.endError(err)
	}
	if c.beat.interval > 0 {
		c.beat.touch()
	}
	return nil
}

// interrupt has the reader look at its reasons to end.
func (c *connection) interrupt() { c.source.SetReadDeadline(transport.Past) }

// endError returns how the stream ended.
func (c *connection) endError(err error) error {
	switch {
	case !isStreamEnd(err):
		return fmt.Errorf("gipc: read failed: %w", transport.UnwrapOpError(err))
	case c.decoder.inside():
		return fail(ErrTruncated, nil, "the stream ended inside a frame")
	case c.closing.peerClosed:
		return fail(ErrTruncated, nil, "the stream ended without a close-ack")
	}
	return fail(ErrTruncated, nil, "the stream ended without a close: the peer exited, or did not call Close")
}

// failing reports whether a loss is pending, though what has arrived is still
// being read.
func (c *connection) failing() bool {
	loss := c.loss.Load()
	return loss != nil && !loss.silent
}

// setLoss has the reader declare the connection lost at the given time.
func (c *connection) setLoss(cause error, at time.Time) {
	loss := &pendingLoss{cause: cause, at: at}
	for {
		was := c.loss.Load()
		if was != nil && !was.silent || c.loss.CompareAndSwap(was, loss) {
			return
		}
	}
}

// setSilent has the reader declare the connection lost now, unless something has
// come since the activity that was checked.
func (c *connection) setSilent(activity int64) {
	idle := time.Since(c.beat.start) - time.Duration(activity)
	err := fail(ErrTimeout, nil, "nothing came from the peer for %v", idle.Round(time.Millisecond))
	c.loss.CompareAndSwap(nil, &pendingLoss{cause: err, at: time.Now(), silent: true, activity: activity})
}

// stats returns the totals of this connection, except what was received, which
// the endpoint counts.
func (c *connection) stats() Stats {
	messages, bytes, rekeys := c.sender.totals()
	calls, unasked := c.sender.calls.counts()
	return Stats{Sent: messages, SentBytes: bytes, Rekeys: rekeys + c.rekeys.Load(), Calls: calls, Dropped: unasked}
}

// sendClose has a close sent behind what was accepted. Users' messages are
// refused with reason from here on.
func (c *connection) sendClose(reason error, code byte) {
	c.closing.sentClose = true
	c.sender.closeWith(reason, [2]byte{kindClose, code})
}

// acknowledge has the close of the peer answered: with a close, if this side has
// sent none, and a close-ack. Users' messages are refused with reason from here on.
func (c *connection) acknowledge(reason error) {
	ack := [2]byte{kindCloseAck, c.closing.ackByte()}
	c.closing.sentAck = true
	if c.closing.sentClose {
		c.sender.acknowledgeWith(reason, ack)
		return
	}
	c.closing.sentClose = true
	c.sender.acknowledgeWith(reason, [2]byte{kindClose, closedByUser}, ack)
}

// awaitAck reads until the peer's close-ack, and returns what the close means for
// what was sent. Messages that come before the peer's close are discarded. The
// caller holds the role, and has sent a close.
func (c *connection) awaitAck(ctx context.Context) error {
	sent := c.sender.accepted()
	c.preempt.Store(false)
	call := readCall{ctx: ctx, to: destination{reuse: true, room: unlimited}}
	defer func() {
		if call.unwatch != nil {
			call.unwatch()
		}
	}()
	var m Message
	for h := c.closing; ; {
		switch {
		case h.refused != nil:
			return h.outcome(sent, h.refused)
		case h.peerClosed && !h.sentAck:
			c.acknowledge(ErrClosed)
			c.sender.calls.end(errNoReply) // none comes behind the peer's close
			continue
		case h.acked:
			return h.outcome(sent, nil)
		}
		switch err := c.receive(&call, &m); err {
		case nil:
			h.onMessage()
		case errPeerClosed, errCloseAcked:
		default:
			return h.outcome(sent, causeOf(err))
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

// closeLimit returns the context for a close: a side that has sent nothing waits
// only for a moment.
func (c *connection) closeLimit(ctx context.Context) (context.Context, context.CancelFunc) {
	if c.sender.accepted() == 0 {
		return context.WithTimeout(ctx, drainTimeout)
	}
	return context.WithTimeout(ctx, closeTimeout)
}

// hangUp closes the transport so that the peer gets what was written: it waits
// for the write in progress, ends the sending half, and reads until the peer has
// ended its own or until ctx is done.
func (c *connection) hangUp(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	c.sender.settle(ctx)
	if transport.EndSending(c.conn) {
		c.discard(ctx)
	}
	closeTransport(ctx, c.conn)
	c.source.End()
	c.decoder.end()
}

// discard reads, without a check, until the stream is over or ctx is done.
func (c *connection) discard(ctx context.Context) {
	defer context.AfterFunc(ctx, c.interrupt)()
	c.decoder.end()
	for {
		c.source.SetReadDeadline(time.Time{})
		if ctx.Err() != nil {
			return
		}
		_, err := c.source.Receive(c.decoder)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		c.decoder.end()
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

// closeSlowly ends a connection that has no connection type yet: it ends the
// sending half and reads until the peer has ended its own, since closing with
// unread input would reset the connection and destroy what was sent.
func closeSlowly(conn net.Conn) {
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
