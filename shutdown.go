// How an endpoint loses its connection, and how it closes.

package gipc

import (
	"context"
	"slices"
	"time"

	"example.com/gipc/internal/transport"
)

const abortTimeout = 100 * time.Millisecond // for what Close has cut to end

// disconnectLocked ends the connection whose role the caller holds. The cause is
// errPeerClosed if the peer has closed it.
func (e *endpoint) disconnectLocked(c *connection, cause error) {
	if e.closing.Load() { // Close goes on from here
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
		c.sendCloseAck(fail(ErrNotConnected, nil, "the peer has closed the connection"))
	} else {
		e.deliveries.addQueuedLosses(c.sender.abandonSending(fail(ErrNotConnected, cause, "the connection is lost"), cause))
	}
	// Nothing is accepted any more: not before, as a first message might come between.
	if c.sender.acceptedCount() > 0 {
		c.delivery.unconfirmedErr = fail(ErrUnconfirmed, cause, "the peer has not acknowledged that it received everything")
	}
	c.sender.callTable.endAllCalls(fail(ErrUnconfirmed, cause, "the connection is over, and the reply has not come"))
	gone := Disconnected
	if e.hooks.reconnect != nil {
		gone = ReConnecting
		e.goroutines.Add(1)
		go e.hooks.reconnect(c)
	}
	e.settings.eventLog.Info("connection over", "id", c.id, "err", cause)
	c.delivery.lossNotice = &Message{Err: cause, Conn: c.id}
	e.announceStatusLocked(c.delivery.lossNotice, gone)
	e.drainingConns = append(e.drainingConns, c)
	e.goroutines.Add(1)
	go e.teardown(c, e.lifecycle.abortContext()) // which owns the connection from here on
	if e.hooks.noReconnect {
		e.setFinalErrLocked(fail(ErrClosed, cause, "the client is gone"))
	}
}

// teardown ends a connection that is over. After the peer's close it sends everything
// that was accepted, and waits for the close-ack, from which this side learns
// what the peer has received.
func (e *endpoint) teardown(c *connection, cut context.Context) {
	defer e.goroutines.Done()
	defer context.AfterFunc(cut, func() { c.netConn.Close() })()
	confirmed := false
	if c.closeHandshake.sentAck {
		ctx, cancel := c.closeContext(cut)
		defer cancel()
		err := c.sender.drainAccepted(ctx)
		if err == nil {
			transport.EndSending(c.netConn)
			err = c.awaitCloseAck(ctx)
		}
		confirmed = err == nil
	}
	c.closeGracefully(cut)
	lost := c.sender.abandonSending(fail(ErrNotConnected, nil, "the connection is over"), nil)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.drainingConns = slices.DeleteFunc(e.drainingConns, func(o *connection) bool { return o == c })
	e.deliveries.addQueuedLosses(lost)
	if confirmed {
		c.delivery.unconfirmedErr = nil
	}
	e.notifyConnectionEndLocked()
}

// notifyConnectionEndLocked has the pool know that the connection is over.
func (e *endpoint) notifyConnectionEndLocked() {
	if e.hooks.onConnectionEnd != nil {
		e.hooks.onConnectionEnd()
	}
}

// shutdown ends this endpoint for good: readers at once, the connection with a
// close whose close-ack it waits for until ctx is done.
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
	cut := e.lifecycle.abortContext()
	e.mu.Unlock()

	defer context.AfterFunc(limit, e.abortClose)()
	ctx, giveUp := context.WithCancel(limit)
	defer giveUp()
	defer context.AfterFunc(cut, giveUp)() // a later Shutdown may have less time
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
	e.settings.eventLog.Flush(limit) // ctx is done: nothing is to be sent any more
	return err
}

// awaitFirstClose waits for the first Close. If ctx is done before, it shortens that.
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

// endReading takes the role for Close, queues the complete messages that
// this process holds, and ends all reads behind them. It releases mu meanwhile,
// and returns the connection, if there is one.
func (e *endpoint) endReading() *connection {
	e.lifecycle.setStatus(Closing)
	for _, old := range e.drainingConns {
		old.sender.releaseUserCalls(ErrClosed)
	}
	if e.hooks.cancelBase != nil {
		e.hooks.cancelBase()
	}
	c := e.currentConn.Load()
	if yielded := e.readRole.acquireForClose(); yielded != nil {
		c.preemptRequested.Store(true)
		e.mu.Unlock()
		c.interrupt()
		<-yielded
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

// queueArrivedLocked queues what has arrived: it belongs to the application.
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

// closeConnection closes c, and returns what may not have arrived.
func (e *endpoint) closeConnection(ctx context.Context, c *connection, code byte) error {
	if ctx.Err() != nil {
		return e.abortConnection(ctx, c)
	}
	defer context.AfterFunc(ctx, func() { c.netConn.Close() })()
	c.sendClose(ErrClosed, code)
	limit, cancel := c.closeContext(ctx) // nothing is accepted any more
	defer cancel()
	err := c.awaitCloseAck(limit)
	if c.closeHandshake.sentAck {
		c.sender.drainAccepted(limit)
	}
	lost := c.sender.abandonSending(ErrClosed, ErrClosed) // requests that were not sent end as such
	c.sender.callTable.endAllCalls(errNoReply)
	c.closeGracefully(limit)
	if err == nil {
		e.mu.Lock()
		e.deliveries.addQueuedLosses(lost)
		e.mu.Unlock()
	}
	return err
}

// abortConnection ends c at once, without a close, and returns an error that wraps
// that of ctx.
func (e *endpoint) abortConnection(ctx context.Context, c *connection) error {
	err := contextError("close", ctx)
	if c.sender.acceptedCount() > 0 {
		err = fail(ErrUnconfirmed, err, "the connection was cut")
	}
	c.sender.abandonSending(ErrClosed, ErrClosed)
	c.sender.callTable.endAllCalls(errNoReply)
	closeTransport(ctx, c.netConn)
	c.closeGracefully(ctx)
	return err
}

// awaitGoroutines waits for the goroutines of this endpoint. Those that ctx cuts short
// get a moment to end.
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
	late := time.NewTimer(abortTimeout)
	defer late.Stop()
	select {
	case <-ended:
	case <-late.C:
	}
}

// abortClose ends what Close has no more time for.
func (e *endpoint) abortClose() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lifecycle.abortContext()
	e.lifecycle.abort()
}

// withDefaultTimeout returns ctx with a deadline after d, if it has none.
func withDefaultTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, d)
}
