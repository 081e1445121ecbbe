// The start of an endpoint, and the attachment of a new connection to it.

package gipc

import (
	"net"

	"example.com/gipc/internal/transport"
)

func (e *endpoint) init(settings *settings, pool *bufferPool, hooks *endpointHooks) {
	e.settings, e.buffers, e.hooks = settings, pool, hooks
	e.lifecycle, e.unreadQueue, e.deliveries = new(lifecycle), new(messageQueue), new(deliveryLedger)
	e.readRole = &readRole{idleDelay: idleBeforeBackground, owner: e}
}

// attachConnection makes c the current connection, and grants the read role to the
// first waiter. It returns false if the endpoint accepts no connection.
func (e *endpoint) attachConnection(c *connection) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing.Load() || e.currentConn.Load() != nil || !e.announceStatusLocked(&Message{Conn: c.id}, Connected) {
		return false
	}
	if e.latestConn != nil {
		e.earlierTotals.Reconnects++
		e.earlierTotals.add(e.latestConn.stats())
	}
	e.latestConn = c
	e.lifecycle.dialErr = nil
	e.deliveries.beginDelivery(c.delivery)
	e.currentConn.Store(c)
	if c.heartbeat.interval > 0 {
		c.heartbeat.scheduleCheck(c.heartbeat.interval, func() { e.checkHeartbeat(c) })
	}
	e.readRole.acquire()
	e.releaseRoleLocked()
	if e.readRole.state == roleFree && e.readRole.readCount == 0 && !e.readRole.deferBackground {
		e.readRole.startBackground()
	}
	e.settings.eventLog.Info("connected", "id", c.id, "peer", loggedPeer(c.peer), "encrypted", c.security.Encrypted, "hybrid", c.security.Hybrid)
	return true
}

// onReaderIdle starts the background reader if nobody has read for a while. The idle
// timer of the read role calls it.
func (e *endpoint) onReaderIdle() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.readRole.checkIdle(e.closing.Load())
}

// newConnection returns the connection for the result of a handshake.
func (e *endpoint) newConnection(opened *openedConn, agreed *session, id uint64) *connection {
	c := &connection{netConn: opened.stream, peer: opened.peer, id: id, busyPoll: e.settings.busyPoll, security: agreed.security,
		source:         transport.NewSource(opened.stream),
		decoder:        &decoder{cipher: agreed.receiveCipher, maxDataSize: e.settings.maxDataSize, buffers: e.buffers},
		closeHandshake: new(closeHandshake), delivery: new(delivery),
		heartbeat: newHeartbeat(e.settings.heartbeatFor(opened.conn.RemoteAddr()))}
	c.sendReply = func(number uint64, msgType int, data []byte) error { return e.sendReply(id, number, msgType, data) }
	c.decoder.preload(agreed.trailingBytes)
	var progress func()
	if c.heartbeat.interval > 0 {
		progress = c.heartbeat.noteActivity // no ping can be sent within a long frame, so write progress counts as activity
	}
	sink := transport.NewSink(opened.stream, func() { e.onWriteStalled(c) }, progress)
	c.sender = newSender(sink, agreed.peerMaxDataSize, e.buffers, agreed.sendCipher, &e.goroutines, func(err error) { e.onSendFailure(c, err) })
	return c
}

// An openedConn is a connection that is ready for its handshake.
type openedConn struct {
	dialedServer
	stream net.Conn // carries the protocol: conn, or the result of Upgrade
}
