// Disconnected clients of a multi-client server whose messages are not read to the end,
// the removal of clients, and the end of all of them.

package gipc

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync/atomic"
)

const (
	maxDeparted  = 64 << 20 // maximum bytes of unread messages of all disconnected clients
	minDeparture = 4 << 10  // minimum bytes that each of them counts
	maxEmpty     = 1024     // maximum number of disconnected clients with only status messages
)

// A departure is a disconnected client.
type departure struct {
	server       *Server
	connLost     bool // its connection was lost, so its messages were not acknowledged
	countedBytes int  // 0 if only status messages are unread
	connEnded    bool // the teardown of its connection is complete, and its totals are final
	unreported   bool // set with connEnded: it may not have received everything, and Close has to report that
}

// departedClients limits the memory of disconnected clients. The pool's lock guards
// it, except atLimit.
//
// Invariants: keptBytes is the sum of countedBytes. lostClients and emptyClients hold
// the departures that may be evicted, oldest first; acknowledged messages are never
// evicted. While atLimit is set, background readers are paused.
type departedClients struct {
	maxBytes     int // limit of keptBytes; tests lower it
	count        int
	keptBytes    int
	lostClients  []*departure // lost, with unread messages
	emptyClients []*departure
	atLimit      atomic.Bool
}

// departureSize returns the bytes that a client with the given unread messages counts.
func departureSize(q *messageQueue) int {
	if len(q.messages) == q.statusCount {
		return 0
	}
	return max(q.queuedBytes, minDeparture)
}

func (c *departedClients) add(d *departure, size int) {
	c.count++
	c.keptBytes += size
	d.countedBytes = size
	if list := c.evictionList(d); list != nil {
		*list = append(*list, d)
	}
}

func (c *departedClients) remove(d *departure) {
	c.count--
	c.keptBytes -= d.countedBytes
	if list := c.evictionList(d); list != nil {
		if i := slices.Index(*list, d); i >= 0 {
			*list = slices.Delete(*list, i, i+1)
		}
	}
}

// evictionList returns the list of evictable departures that d belongs to, or nil.
func (c *departedClients) evictionList(d *departure) *[]*departure {
	switch {
	case d.countedBytes == 0:
		return &c.emptyClients
	case d.connLost:
		return &c.lostClients
	}
	return nil
}

// shrink records that messages of a departure were read. A departure with only status
// messages left stays out of emptyClients, because it is being read.
func (c *departedClients) shrink(d *departure, size int) {
	if d.countedBytes > 0 {
		size = max(size, minDeparture)
		c.keptBytes += size - d.countedBytes
		d.countedBytes = size
	}
}

// nextEviction returns the departure to evict next, or nil if the limits are kept.
func (c *departedClients) nextEviction() *departure {
	switch {
	case len(c.emptyClients) > maxEmpty:
		return c.emptyClients[0]
	case c.keptBytes >= c.maxBytes && len(c.lostClients) > 0:
		return c.lostClients[0]
	}
	return nil
}

// updateLimit sets atLimit at the limit, and clears it at half of the limit. resumed is
// true if it was cleared.
func (c *departedClients) updateLimit() (resumed bool) {
	switch {
	case c.keptBytes >= c.maxBytes:
		c.atLimit.Store(true)
	case c.keptBytes <= c.maxBytes/2:
		return c.atLimit.Swap(false)
	}
	return false
}

// noteDeparture records that a client has disconnected. The client's mu is held.
func (p *ConnectionPool) noteDeparture(s *Server) {
	lost := !s.closing.Load() && !s.latestConn.closeHandshake.peerClosed
	p.mu.Lock()
	defer p.mu.Unlock()
	s.poolMember.departure = &departure{server: s, connLost: lost}
	p.departed.add(s.poolMember.departure, departureSize(s.unreadQueue))
	p.evictExcessLocked()
	if p.server.listenerState.hasOnlyConn() {
		go p.server.endAccepting(newError(ErrClosed, nil, "the only connection is over"))
	}
}

// noteConsumed records that messages of a disconnected client were read. Once it is
// read to the end it is removed. The client's mu is held.
func (p *ConnectionPool) noteConsumed(s *Server) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch d := s.poolMember.departure; {
	case !p.members[s]: // evicted before
	case s.unreadQueue.isEmpty():
		p.removeClientLocked(s, false)
	case d != nil:
		p.departed.shrink(d, departureSize(s.unreadQueue))
	}
	p.evictExcessLocked()
}

// evictExcessLocked evicts disconnected clients beyond the limits. During Serve it
// evicts none, because Serve reads each client to the end.
func (p *ConnectionPool) evictExcessLocked() {
	for d := p.departed.nextEviction(); d != nil && len(p.serveStarts) == 0; d = p.departed.nextEviction() {
		p.endedTotals.Dropped++
		p.server.settings.eventLog.Warn("client removed before its messages were read")
		p.removeClientLocked(d.server, true)
		if d.connEnded && d.unreported {
			p.unreportedCount++
		}
	}
	if p.departed.updateLimit() {
		go p.resumeClients() // in a goroutine, because it acquires the locks of all clients
	}
}

// noteConnectionEnd records that the teardown of a client's connection is complete,
// so that its totals are final. The client's mu is held.
func (p *ConnectionPool) noteConnectionEnd(s *Server) {
	total, unreported := s.statsLocked(), s.deliveries.hasUnreported()
	p.mu.Lock()
	defer p.mu.Unlock()
	d := s.poolMember.departure
	if d == nil || d.connEnded {
		return
	}
	d.connEnded, d.unreported = true, unreported
	p.endedTotals.add(total)
	if p.endingClients[s] && unreported {
		p.unreportedCount++
	}
	delete(p.endingClients, s)
}

// resumeClients restarts the background readers that were paused at the limit.
func (p *ConnectionPool) resumeClients() {
	for _, s := range p.readableClients() {
		s.resumeReading()
	}
}

// removeClientLocked removes a client that was read to the end, or is evicted.
func (p *ConnectionPool) removeClientLocked(s *Server, evicted bool) {
	delete(p.members, s)
	if i := slices.Index(p.readyClients, s); i >= 0 {
		p.readyClients = slices.Delete(p.readyClients, i, i+1)
	}
	if d := s.poolMember.departure; d != nil {
		p.departed.remove(d)
		if !d.connEnded {
			p.endingClients[s] = evicted
		}
	}
	p.changedCond.Broadcast()
}

// addStats adds the totals of all clients of a multi-client server to total.
func (p *ConnectionPool) addStats(total *Stats) {
	p.mu.Lock()
	total.add(p.endedTotals)
	now := slices.Collect(maps.Keys(p.endingClients))
	for s := range p.members {
		if d := s.poolMember.departure; s != p.server && (d == nil || !d.connEnded) {
			now = append(now, s)
		}
	}
	p.mu.Unlock()
	for _, s := range now {
		total.add(s.Stats())
	}
}

// refuseClients closes the pool, so that no client is admitted any more.
func (p *ConnectionPool) refuseClients() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.changedCond.Broadcast()
}

// shutdown closes all clients concurrently, and joins their errors.
func (p *ConnectionPool) shutdown(ctx context.Context) error {
	p.refuseClients()
	p.mu.Lock()
	ending := maps.Clone(p.endingClients)
	clients := slices.AppendSeq(slices.Collect(maps.Keys(p.members)), maps.Keys(ending))
	p.mu.Unlock()
	clients = slices.DeleteFunc(clients, func(s *Server) bool { return s == p.server })
	err := forEachClient(clients, func(s *Server) error {
		err := s.shutdown(ctx, closedByShutdown)
		if evicted, departed := ending[s]; departed && !evicted {
			return nil // its end was read by the application
		}
		return err
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.unreportedCount > 0 {
		err = errors.Join(err, newError(ErrUnconfirmed, nil, "%d clients that left may not have received everything: they were removed before their messages were read", p.unreportedCount))
		p.unreportedCount = 0 // reported once
	}
	return err
}
