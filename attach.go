// How an endpoint begins, and how it gets a connection.

package gipc

import (
	"net"

	"example.com/gipc/internal/transport"
)

func (e *endpoint) init(settings *settings, pool *bufferPool, hooks *endpointHooks) {
	e.settings, e.buffers, e.hooks = settings, pool, hooks
	e.lifecycle, e.unreadQueue, e.deliveries = new(lifecycle), new(messageQueue), new(deliveryLedger)
	e.readRole = &readRole{idleDelay: idleBeforeBackground, onIdle: e.onReaderIdle, startBackgroundReader: e.startBackgroundReader}
}

// attachConnection makes c the connection of this endpoint and gives its role to whoever is
// first. It returns false if this endpoint takes none any more.
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

// onReaderIdle has the background reader read if nobody has for a while.
func (e *endpoint) onReaderIdle() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.readRole.checkIdle(e.closing.Load())
}

// newConnection returns the connection that a handshake has agreed on.
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
		progress = c.heartbeat.noteActivity // no ping fits into a long frame: that it moves has to do
	}
	sink := transport.NewSink(opened.stream, func() { e.onWriteStalled(c) }, progress)
	c.sender = newSender(sink, agreed.peerMaxDataSize, e.buffers, agreed.sendCipher, &e.goroutines, func(err error) { e.onSendFailure(c, err) })
	return c
}

// An openedConn is a connection before its handshake.
type openedConn struct {
	dialedServer
	stream net.Conn // what to speak over: conn, or what Upgrade made of it
}
