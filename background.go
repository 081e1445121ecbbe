// What happens while nobody reads: losses are detected and pings answered all the
// same.

package gipc

import "time"

const fullQueuePing = time.Second // between the pings of a side whose queue is full

// startBackgroundReader starts the background reader. The read role calls it with the lock
// held.
func (e *endpoint) startBackgroundReader() {
	c := e.currentConn.Load()
	if c.pendingLoss.Load() == nil {
		c.heartbeat.noteActivity() // until now nobody listened
	}
	e.goroutines.Add(1)
	go e.readInBackground(c, e.queueRoomLocked())
}

// readInBackground reads into the queue until a caller takes the role.
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

// pausedByPool reports whether the background reader has given up the role, since the
// pool keeps too much. A blocked write goes on: it might never end otherwise.
func (e *endpoint) pausedByPool(c *connection) bool {
	if e.hooks.readsPaused == nil || !e.hooks.readsPaused() {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.hooks.readsPaused() || c.sender.writeBlocked.Load() {
		return false
	}
	e.stopReadingLocked(c)
	return true
}

// resumeReading has the background reader read again after it was held back.
func (e *endpoint) resumeReading() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.readRole.state == roleStopped && !e.closing.Load() {
		e.readRole.startBackground()
	}
}

// queueReceivedLocked queues what the background reader has received, and reports whether
// it goes on. Otherwise it has given up the role.
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
	case err == error(preempted), err == errReplied: // who calls again reads for himself
		e.releasePreemptedLocked(c)
	default:
		e.disconnectLocked(c, err)
	}
	return false
}

// releasePreemptedLocked gives up the role of the background reader.
func (e *endpoint) releasePreemptedLocked(c *connection) {
	if !e.closing.Load() {
		c.preemptRequested.Store(false)
	}
	e.releaseRoleLocked()
}

// stopReadingLocked has nobody read, since the next message does not fit into the queue or
// the pool keeps too much.
// A connection that is being lost is over at its time all the same.
func (e *endpoint) stopReadingLocked(c *connection) {
	switch loss := c.pendingLoss.Load(); {
	case e.closing.Load() || len(e.readRole.waiters) > 0:
		e.releasePreemptedLocked(c)
		return
	case loss != nil && !loss.heartbeatTimeout && !time.Now().Before(loss.notBefore):
		e.disconnectLocked(c, fail(ErrTruncated, loss.cause, "unread messages were discarded"))
		return
	case loss != nil && !loss.heartbeatTimeout:
		time.AfterFunc(max(time.Until(loss.notBefore), 1), func() { e.wakeReader(c) })
	default:
		c.heartbeat.scheduleCheck(fullQueuePing, func() { e.checkHeartbeat(c) })
	}
	c.preemptRequested.Store(false) // who asked for the role has had a message: callers would hand it around for ever
	e.readRole.stopReading()
}

// wakeReader has the background reader read if nobody does, and whoever reads look at
// the reasons to end.
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

// enableFanIn has the background reader read from here on whenever nobody else
// does.
func (e *endpoint) enableFanIn() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.readRole.fanIn = true
	if e.readRole.state == roleFree || e.readRole.state == roleStopped && e.queueRoomLocked() == unlimited {
		e.readRole.startBackground()
	}
}

// onWriteStalled has the background reader read while a write waits for the peer;
// otherwise two sides that both write before they read would wait for each other.
func (e *endpoint) onWriteStalled(c *connection) {
	c.sender.noteBlocked()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.currentConn.Load() == c && !e.closing.Load() && (e.readRole.state == roleFree || e.readRole.state == roleStopped && e.queueRoomLocked() == unlimited) {
		e.readRole.startBackground()
	}
}

// onSendFailure declares a connection lost to which nothing can be written any more,
// after what has arrived is read.
func (e *endpoint) onSendFailure(c *connection, cause error) {
	c.failAt(cause, time.Now().Add(drainTimeout))
	e.wakeReader(c)
}

// checkHeartbeat sends a ping to a peer that is idle, and declares one lost from
// which nothing has come for two intervals. A side whose queue is full cannot
// judge: it sends pings, so that the peer sees activity, and so that a peer that
// is gone shows in the write that fails.
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
	case e.readRole.state == roleFree: // nobody has looked
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
