// Clients of a multi-client server that have left and are not read to the end.

package gipc

import (
	"slices"
	"sync/atomic"
)

const (
	maxDeparted  = 64 << 20 // bytes of messages that clients which have left keep, all together
	minDeparture = 4 << 10  // bytes that each of them counts at least
	maxEmpty     = 1024     // clients that have left nothing but status messages
)

// A departure is a client that has left.
type departure struct {
	server       *Server
	connLost     bool // its connection was lost, so that nothing was acknowledged
	countedBytes int  // bytes that it counts; 0 if nothing but status messages is unread
	connEnded    bool // its connection is over, and its totals are final
	unreported   bool // then: Close has to say that not everything was received
}

// departedClients bounds what clients that have left keep. The pool's lock guards
// it, except full.
//
// Invariants: bytes is the sum of the sizes. lost and empty hold the departures that
// may be evicted, in the order in which they came there: what was acknowledged is
// never evicted. While full is set, background readers are stopped.
type departedClients struct {
	maxBytes     int // of bytes
	count        int
	keptBytes    int
	lostClients  []*departure // with messages
	emptyClients []*departure
	atLimit      atomic.Bool
}

// departureSize returns what a client counts that has left the given queue.
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

// evictionList returns where a departure is listed, or nil.
func (c *departedClients) evictionList(d *departure) *[]*departure {
	switch {
	case d.countedBytes == 0:
		return &c.emptyClients
	case d.connLost:
		return &c.lostClients
	}
	return nil
}

// shrink notes that some of a departure was read. It is not evicted for having
// nothing but status messages left: somebody reads it.
func (c *departedClients) shrink(d *departure, size int) {
	if d.countedBytes > 0 {
		size = max(size, minDeparture)
		c.keptBytes += size - d.countedBytes
		d.countedBytes = size
	}
}

// nextEviction returns the departure to evict next, or nil.
func (c *departedClients) nextEviction() *departure {
	switch {
	case len(c.emptyClients) > maxEmpty:
		return c.emptyClients[0]
	case c.keptBytes >= c.maxBytes && len(c.lostClients) > 0:
		return c.lostClients[0]
	}
	return nil
}

// updateLimit sets full at the limit, and takes it back at half of it. resumed reports
// the latter.
func (c *departedClients) updateLimit() (resumed bool) {
	switch {
	case c.keptBytes >= c.maxBytes:
		c.atLimit.Store(true)
	case c.keptBytes <= c.maxBytes/2:
		return c.atLimit.Swap(false)
	}
	return false
}
