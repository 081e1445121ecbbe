// The methods that write, and the wait for a connection to write to.

package gipc

import "context"

// Write sends a message. A nil error means that the kernel has accepted the whole
// message. Write does not retain data. It blocks until the first peer connects
// (Listening, Connecting), and while the kernel's buffers are full. Types are 1 to
// 2147483647; data may be empty, and as large as the peer's MaxMsgSize.
//
// Write is safe for concurrent use; concurrent writers are serialized in an
// unspecified order and share system calls. Errors:
//   - ErrReservedType and ErrTooLarge, and ErrMultiClient on a multi-client server:
//     nothing was sent, and the connection stays usable.
//   - ErrNotConnected: nothing was sent. While disconnected, Write fails
//     immediately. If messages buffered by Queue were lost with an earlier
//     connection, the next call reports that, once, with their number; it also
//     matches ErrUnconfirmed if some of them may have arrived.
//   - ErrUnconfirmed: the connection was lost during the call, or Close ended it;
//     some or all of the message may arrive.
//   - ErrClosed, or another final error of this endpoint: nothing was sent.
func (e *endpoint) Write(msgType int, data []byte) error {
	return e.send(context.Background(), 0, msgType, data, false)
}

// WriteContext is like Write but returns early if ctx is done. If the message was
// not accepted for sending, nothing is sent and the error is that of ctx alone.
// Otherwise the message is still sent, and the error is ErrUnconfirmed, wrapping
// that of ctx. The connection and the messages of other calls are not affected. A
// context that is done already sends nothing.
func (e *endpoint) WriteContext(ctx context.Context, msgType int, data []byte) error {
	if err := checkContext(ctx); err != nil {
		return err
	}
	return e.send(ctx, 0, msgType, data, false)
}

// WriteOn is like WriteContext but writes only to the connection with the given
// ID. If that connection is over, or another one is current, it fails immediately
// with ErrNotConnected. See Conn of [Message].
func (e *endpoint) WriteOn(ctx context.Context, conn uint64, msgType int, data []byte) error {
	if conn == 0 {
		return newError(ErrNotConnected, nil, "0 is the ID of no connection: use Conn of a message")
	}
	if err := checkContext(ctx); err != nil {
		return err
	}
	return e.send(ctx, conn, msgType, data, false)
}

// Queue is like Write but only buffers the message. The buffer is written by
// Flush, Write or Close, or by Queue itself, which may then block, once it holds
// 64 KiB. Queue is safe for concurrent use and does not retain data. Messages that
// are lost with a connection are reported by the next call that sends; see
// [Client.Write].
func (e *endpoint) Queue(msgType int, data []byte) error {
	return e.send(context.Background(), 0, msgType, data, true)
}

// Flush writes what Queue has buffered. A nil error means that the kernel has
// accepted every message that was queued before the call. Flush is safe for
// concurrent use. Its errors are those of Write.
func (e *endpoint) Flush() error {
	c, err := e.writable(context.Background(), 0)
	if err == nil {
		err = c.sender.flushAccepted(context.Background())
	}
	return e.noteFailure(c, err)
}

// send sends a message on the connection with the given ID, or on any for 0.
func (e *endpoint) send(ctx context.Context, conn uint64, msgType int, data []byte, hold bool) error {
	if err := checkMessageType(msgType); err != nil {
		return err
	}
	c, err := e.writable(ctx, conn)
	if err == nil {
		err = c.sender.writeFrame(ctx, frameHeader{frameType: uint32(msgType)}, data, hold)
	}
	if err == nil {
		return nil
	}
	return e.noteFailure(c, err)
}

// startWrite is like WriteContext as far as that does not wait; noWait is a context that
// is done. If rest is not nil the caller has to call it for the result. The data must be
// small.
func (e *endpoint) startWrite(ctx, noWait context.Context, header frameHeader, data []byte) (rest func() error, err error) {
	if ctx.Err() != nil {
		return nil, contextError("write", ctx)
	}
	c := e.currentConn.Load()
	if c != nil && !e.deliveries.queuedLossPending.Load() {
		started, accepted, err := c.sender.startFrame(noWait, header, data)
		if accepted && started == nil {
			return nil, e.noteFailure(c, err)
		}
		if accepted {
			return func() error { return e.noteFailure(c, c.sender.awaitFrame(ctx, started)) }, nil
		}
	}
	return func() error { return e.send(ctx, 0, int(header.frameType), data, false) }, nil
}

// noteFailure returns err. If err reports the loss of connection c, which may be
// nil, it records that, so that Close does not report the loss again.
func (e *endpoint) noteFailure(c *connection, err error) error {
	if c != nil && isDeliveryError(err) && !isCallerTimeout(err) && c.sender.isBroken() {
		e.mu.Lock()
		e.deliveries.noteCallFailed(c.delivery)
		e.mu.Unlock()
	}
	return err
}

// writable returns the connection to write to. Without an ID it waits for the first
// connection.
func (e *endpoint) writable(ctx context.Context, conn uint64) (*connection, error) {
	if e.hooks.multiClient {
		return nil, ErrMultiClient
	}
	if ctx.Err() != nil {
		return nil, contextError("write", ctx)
	}
	for {
		if c := e.currentConn.Load(); c != nil && (conn == 0 || conn == c.id) && !e.deliveries.queuedLossPending.Load() {
			return c, nil
		}
		changed, status, err := e.notWritable(conn)
		if err != nil {
			return nil, err
		}
		if changed == nil {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, newError(contextError("write: no peer has connected yet, the status is "+status.String(), ctx), e.lastDialError(), "")
		}
	}
}

// notWritable returns the error of a call that cannot write, or a channel that is
// closed when the status changes. It returns nil for both if a connection has been
// established meanwhile.
func (e *endpoint) notWritable(conn uint64) (changed <-chan struct{}, status Status, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	status = e.lifecycle.status
	switch c := e.currentConn.Load(); {
	case e.deliveries.queuedLossPending.Load():
		return nil, status, e.deliveries.reportQueuedLosses(e.lifecycle.finalErr)
	case e.lifecycle.finalErr != nil:
		return nil, status, e.lifecycle.finalErr
	case e.closing.Load():
		return nil, status, ErrClosed
	case c != nil && (conn == 0 || conn == c.id): // established meanwhile
		return nil, status, nil
	case conn != 0:
		e.deliveries.noteRefusedCall(conn)
		return nil, status, newError(ErrNotConnected, nil, "connection %d is over", conn)
	case c == nil && status != Listening && status != Connecting:
		e.deliveries.noteRefusedCall(0)
		return nil, status, newError(ErrNotConnected, e.lifecycle.dialErr, "the status is %s: WaitConnected waits for the next connection", status)
	}
	return e.lifecycle.statusChanged.waitChannel(), status, nil
}
