// Loss of a connection, and Close of an endpoint.

package gipc

import (
	"context"
	"slices"
	"time"

	"example.com/gipc/internal/transport"
)

const abortTimeout = 100 * time.Millisecond // for goroutines to exit after Close has run out of time

// disconnectLocked detaches the connection, whose read role the caller holds, and
// starts its teardown. The cause is errPeerClosed if the peer has closed it.
func (e *endpoint) disconnectLocked(c *connection, cause error) {
	if e.closing.Load() { // endReading takes the role over
		e.releaseRoleLocked()
		return
	}
	if cause == errPeerClosed {
		cause = nil
	}
	e.currentConn.Store(nil)
	e.readRole.detachConnection()
	c.heartbeat.stopChecks()
	if c.closeHandshake.peerClosed && c.closeHandshake.protocolErr == nil {
		c.sendCloseAck(newError(ErrNotConnected, nil, "the peer has closed the connection"))
	} else {
		e.deliveries.addQueuedLosses(c.sender.abandonSending(newError(ErrNotConnected, cause, "the connection is lost"), cause))
	}
	// Counted after the sender refuses messages, so that no message is missed.
	if c.sender.acceptedCount() > 0 {
		c.delivery.unconfirmedErr = newError(ErrUnconfirmed, cause, "the peer has not acknowledged that it received everything")
	}
	c.sender.callTable.endAllCalls(newError(ErrUnconfirmed, cause, "the connection is over, and no reply was received"))
	status := Disconnected
	if e.hooks.reconnect != nil {
		status = ReConnecting
		e.goroutines.Add(1)
		go e.hooks.reconnect(c)
	}
	e.settings.eventLog.Info("connection over", "id", c.id, "err", cause)
	c.delivery.lossNotice = &Message{Err: cause, Conn: c.id}
	e.announceStatusLocked(c.delivery.lossNotice, status)
	e.drainingConns = append(e.drainingConns, c)
	e.goroutines.Add(1)
	go e.teardown(c, e.lifecycle.abortContext()) // owns the connection from here on
	if e.hooks.noReconnect {
		e.setFinalErrLocked(newError(ErrClosed, cause, "the client has disconnected"))
	}
}

// teardown closes a detached connection. After the peer's close it first sends
// everything that was accepted, and waits for the close-ack, which confirms what
// the peer has received.
func (e *endpoint) teardown(c *connection, abort context.Context) {
	defer e.goroutines.Done()
	defer context.AfterFunc(abort, func() { c.netConn.Close() })()
	confirmed := false
	if c.closeHandshake.sentAck {
		ctx, cancel := c.closeContext(abort)
		defer cancel()
		err := c.sender.drainAccepted(ctx)
		if err == nil {
			transport.EndSending(c.netConn)
			err = c.awaitCloseAck(ctx)
		}
		confirmed = err == nil
	}
	c.closeGracefully(abort)
	lost := c.sender.abandonSending(newError(ErrNotConnected, nil, "the connection is over"), nil)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.drainingConns = slices.DeleteFunc(e.drainingConns, func(o *connection) bool { return o == c })
	e.deliveries.addQueuedLosses(lost)
	if confirmed {
		c.delivery.unconfirmedErr = nil
	}
	e.notifyConnectionEndLocked()
}

// notifyConnectionEndLocked reports to the pool that the teardown is complete.
func (e *endpoint) notifyConnectionEndLocked() {
	if e.pool != nil {
		e.pool.noteConnectionEnd()
	}
}

// shutdown closes this endpoint. It ends reads at once, sends a close, and waits
// for the close-ack until ctx is done.
func (e *endpoint) shutdown(ctx context.Context, code byte) error {
	if err := checkContext(ctx); err != nil {
		return err
	}
	limit, cancel := withDefaultTimeout(ctx, closeTimeout)
	defer cancel()
	e.mu.Lock()
	if e.closing.Swap(true) {
		closed := e.lifecycle.closeDone.waitChannel()
		e.mu.Unlock()
		return e.awaitFirstClose(limit, closed)
	}
	c := e.endReading()
	abort := e.lifecycle.abortContext()
	e.mu.Unlock()

	defer context.AfterFunc(limit, e.abortClose)()
	ctx, giveUp := context.WithCancel(limit)
	defer giveUp()
	defer context.AfterFunc(abort, giveUp)() // a later Shutdown may have less time
	var unconfirmed error
	if c != nil {
		unconfirmed = e.closeConnection(ctx, c, code)
	}
	e.awaitGoroutines(ctx)
	e.abortClose()

	e.mu.Lock()
	if c != nil {
		e.currentConn.Store(nil)
		c.delivery.unconfirmedErr = unconfirmed
	}
	err := e.deliveries.closeResult()
	e.settings.eventLog.Info("closed", "err", err)
	e.lifecycle.setStatus(Closed)
	e.lifecycle.closeDone.trigger()
	e.notifyConnectionEndLocked()
	e.mu.Unlock()
	e.settings.eventLog.Flush(limit) // not ctx, which may be canceled already
	return err
}

// awaitFirstClose waits for the first call of Close. If ctx is done earlier, it
// aborts that call.
func (e *endpoint) awaitFirstClose(ctx context.Context, closed <-chan struct{}) error {
	select {
	case <-closed:
	default:
		select {
		case <-closed:
		case <-ctx.Done():
			e.abortClose()
			return contextError("close", ctx)
		}
	}
	e.settings.eventLog.Flush(ctx)
	return nil
}

// endReading acquires the read role for Close, queues the complete messages that
// have arrived, and ends all reads behind them. It returns the connection, or nil
// if there is none. The caller holds mu, which endReading releases while it waits.
func (e *endpoint) endReading() *connection {
	e.lifecycle.setStatus(Closing)
	for _, old := range e.drainingConns {
		old.sender.releaseUserCalls(ErrClosed)
	}
	if e.hooks.cancelBase != nil {
		e.hooks.cancelBase()
	}
	c := e.currentConn.Load()
	if released := e.readRole.acquireForClose(); released != nil {
		c.preemptRequested.Store(true)
		e.mu.Unlock()
		c.interrupt()
		<-released
		e.mu.Lock()
	}
	e.readRole.finishClose()
	if c != nil {
		c.heartbeat.stopChecks()
		e.queueArrivedLocked(c)
	}
	if e.lifecycle.finalErr == nil {
		e.deliverOrQueueLocked(&Message{MsgType: statusType, Status: Closed.String()})
		e.setFinalErrLocked(ErrClosed)
	}
	return c
}

// queueArrivedLocked queues the complete messages that have arrived, so that the
// application can still read them.
func (e *endpoint) queueArrivedLocked(c *connection) {
	call := readCall{destination: destination{maxSize: unlimited}}
	for {
		m := new(Message)
		if err := c.decodeMessage(&call, m); err != nil {
			return
		}
		e.countReceivedLocked(m)
		e.deliverOrQueueLocked(m)
	}
}

// closeConnection closes c by a close handshake. It returns nil if the peer has
// received everything that was sent.
func (e *endpoint) closeConnection(ctx context.Context, c *connection, code byte) error {
	if ctx.Err() != nil {
		return e.abortConnection(ctx, c)
	}
	defer context.AfterFunc(ctx, func() { c.netConn.Close() })()
	c.sendClose(ErrClosed, code)
	limit, cancel := c.closeContext(ctx) // after sendClose, which ends the count of messages
	defer cancel()
	err := c.awaitCloseAck(limit)
	if c.closeHandshake.sentAck {
		c.sender.drainAccepted(limit)
	}
	lost := c.sender.abandonSending(ErrClosed, ErrClosed) // before endAllCalls: requests not sent fail with ErrClosed alone
	c.sender.callTable.endAllCalls(errNoReply)
	c.closeGracefully(limit)
	if err == nil {
		e.mu.Lock()
		e.deliveries.addQueuedLosses(lost)
		e.mu.Unlock()
	}
	return err
}

// abortConnection closes c at once, without a close handshake, and returns an error
// that wraps ctx.Err().
func (e *endpoint) abortConnection(ctx context.Context, c *connection) error {
	err := contextError("close", ctx)
	if c.sender.acceptedCount() > 0 {
		err = newError(ErrUnconfirmed, err, "the connection was cut")
	}
	c.sender.abandonSending(ErrClosed, ErrClosed)
	c.sender.callTable.endAllCalls(errNoReply)
	closeTransport(ctx, c.netConn)
	c.closeGracefully(ctx)
	return err
}

// awaitGoroutines waits for the goroutines of this endpoint. When ctx is done it
// aborts them, and waits for 100 ms at most.
func (e *endpoint) awaitGoroutines(ctx context.Context) {
	ended := make(chan struct{})
	go func() {
		e.goroutines.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return
	case <-ctx.Done():
	}
	e.abortClose()
	timer := time.NewTimer(abortTimeout)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
	}
}

// abortClose cancels everything that Close still waits for.
func (e *endpoint) abortClose() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lifecycle.abortContext()
	e.lifecycle.abortSignal.cancel()
}

// withDefaultTimeout returns ctx with a timeout of d, unless ctx has a deadline.
func withDefaultTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, d)
}
