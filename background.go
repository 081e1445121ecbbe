// The background reader, which reads while no caller does: it detects losses and
// answers pings.

package gipc

import "time"

// startBackgroundReader starts the background reader. readRole calls it with mu
// held.
func (e *endpoint) startBackgroundReader() {
	c := e.currentConn.Load()
	if c.pendingLoss.Load() == nil {
		c.heartbeat.noteActivity() // nothing was read until now, so its age proves nothing
	}
	e.goroutines.Add(1)
	go e.readInBackground(c, e.queueRoomLocked())
}

// readInBackground reads into the queue until it has to release the role.
func (e *endpoint) readInBackground(c *connection, room int) {
	defer e.goroutines.Done()
	call := readCall{anyReply: true, destination: destination{maxSize: room}}
	for {
		if e.pausedByPool(c) {
			return
		}
		var m Message // on the stack: an idle client has none
		err := c.receive(&call, &m)
		e.mu.Lock()
		room := e.queueRoomLocked()
		goOn := err == errNeedRoom && room > call.destination.maxSize || e.queueReceivedLocked(c, &m, err)
		call.destination.maxSize = e.queueRoomLocked()
		e.mu.Unlock()
		if !goOn {
			return
		}
	}
}

// pausedByPool releases the background reader's role if the pool keeps too many
// unread messages, and reports whether it did. While a write is blocked it does
// not, because the write might never end otherwise.
func (e *endpoint) pausedByPool(c *connection) bool {
	if e.pool == nil || !e.pool.readsPaused() {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.pool.readsPaused() || c.sender.writeBlocked.Load() {
		return false
	}
	e.stopReadingLocked(c)
	return true
}

// resumeReading starts the background reader again after pausedByPool.
func (e *endpoint) resumeReading() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.readRole.state == roleStopped && !e.closing.Load() {
		e.readRole.startBackground()
	}
}

// queueReceivedLocked queues what the background reader has received, and reports
// whether it continues. If not, its role was released.
func (e *endpoint) queueReceivedLocked(c *connection, m *Message, err error) bool {
	switch {
	case err == nil:
		awaited := len(e.readRole.waiters) > 0 && !e.readRole.fanIn
		queued := *m
		e.countReceivedLocked(&queued)
		e.deliverOrQueueLocked(&queued)
		if awaited {
			e.releasePreemptedLocked(c)
		}
		return !awaited
	case err == errNeedRoom:
		e.stopReadingLocked(c)
	case err == errReplied && e.readRole.fanIn:
		return true
	case err == error(preempted), err == errReplied: // the next call is to read by itself
		e.releasePreemptedLocked(c)
	default:
		e.disconnectLocked(c, err)
	}
	return false
}

// releasePreemptedLocked releases the role of the background reader for a caller.
func (e *endpoint) releasePreemptedLocked(c *connection) {
	if !e.closing.Load() {
		c.preemptRequested.Store(false)
	}
	e.releaseRoleLocked()
}

// stopReadingLocked stops all reading, because the next message does not fit into
// the queue or because the pool keeps too many unread messages. A pending loss is
// reported at its time nevertheless.
func (e *endpoint) stopReadingLocked(c *connection) {
	switch loss := c.pendingLoss.Load(); {
	case e.closing.Load() || len(e.readRole.waiters) > 0:
		e.releasePreemptedLocked(c)
		return
	case loss != nil && !loss.heartbeatTimeout && !time.Now().Before(loss.notBefore):
		e.disconnectLocked(c, newError(ErrTruncated, loss.cause, "unread messages were discarded"))
		return
	case loss != nil && !loss.heartbeatTimeout:
		time.AfterFunc(max(time.Until(loss.notBefore), 1), func() { e.wakeReader(c) })
	default:
		c.heartbeat.scheduleCheck(fullQueuePing, func() { e.checkHeartbeat(c) })
	}
	c.preemptRequested.Store(false) // the caller that requested it has its message; otherwise callers would pass the role around forever
	c.decoder.releaseUnused()
	e.readRole.stopReading()
}

// wakeReader starts the background reader if nobody reads. Otherwise it makes the
// reader check whether its call has to end.
func (e *endpoint) wakeReader(c *connection) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.currentConn.Load() != c || e.closing.Load():
		c.interrupt()
	case e.readRole.state == roleFree || e.readRole.state == roleStopped:
		e.readRole.startBackground()
	default:
		c.interrupt()
	}
}

// enableFanIn makes the background reader read whenever no caller does. It reports whether
// there are unread messages.
func (e *endpoint) enableFanIn() (unread bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.readRole.fanIn = true
	if e.readRole.state == roleFree || e.readRole.state == roleStopped && e.queueRoomLocked() == unlimited {
		e.readRole.startBackground()
	}
	return !e.unreadQueue.isEmpty()
}

// onWriteStalled starts the background reader while a write waits for the peer;
// otherwise two sides that both write before they read would deadlock.
func (e *endpoint) onWriteStalled(c *connection) {
	c.sender.noteBlocked()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.currentConn.Load() == c && !e.closing.Load() && (e.readRole.state == roleFree || e.readRole.state == roleStopped && e.queueRoomLocked() == unlimited) {
		e.readRole.startBackground()
	}
}

// onSendFailure makes the reader report a connection as lost that can no longer be
// written to. The reader first reads what has arrived, for 1 s at most.
func (e *endpoint) onSendFailure(c *connection, cause error) {
	c.failAt(cause, time.Now().Add(drainTimeout))
	e.wakeReader(c)
}

// checkHeartbeat sends a ping to an idle peer, and reports a heartbeat timeout when
// nothing was received for two intervals. While the queue is full nothing is read,
// so silence proves nothing. It then only sends pings: they keep the peer from
// timing this side out, and a failed write reveals a dead peer.
func (e *endpoint) checkHeartbeat(c *connection) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.currentConn.Load() != c || e.closing.Load() {
		return
	}
	again := func() { e.checkHeartbeat(c) }
	switch {
	case e.readRole.state == roleStopped:
		c.sender.queuePing()
		c.heartbeat.scheduleCheck(fullQueuePing, again)
	case c.heartbeat.interval == 0:
	case e.readRole.state == roleFree: // nothing was read, so silence proves nothing yet
		e.readRole.startBackground()
		c.heartbeat.scheduleCheck(c.heartbeat.interval, again)
	default:
		result, latest, next := c.heartbeat.checkActivity()
		switch result {
		case peerLost:
			c.failInactive(latest)
			c.interrupt()
		case pingDue:
			c.sender.queuePing()
		}
		c.heartbeat.scheduleCheck(next, again)
	}
}
