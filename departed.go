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
	server     *Server
	lost       bool // its connection was lost, so that nothing was acknowledged
	size       int  // bytes that it counts; 0 if nothing but status messages is unread
	ended      bool // its connection is over, and its totals are final
	unreported bool // then: Close has to say that not everything was received
}

// departedClients bounds what clients that have left keep. The pool's lock guards
// it, except full.
//
// Invariants: bytes is the sum of the sizes. lost and empty hold the departures that
// may be evicted, in the order in which they came there: what was acknowledged is
// never evicted. While full is set, background readers are stopped.
type departedClients struct {
	limit int // of bytes
	count int
	bytes int
	lost  []*departure // with messages
	empty []*departure
	full  atomic.Bool
}

// departureSize returns what a client counts that has left the given queue.
func departureSize(q *messageQueue) int {
	if len(q.messages) == q.statuses {
		return 0
	}
	return max(q.bytes, minDeparture)
}

func (c *departedClients) add(d *departure, size int) {
	c.count++
	c.bytes += size
	d.size = size
	if list := c.list(d); list != nil {
		*list = append(*list, d)
	}
}

func (c *departedClients) remove(d *departure) {
	c.count--
	c.bytes -= d.size
	if list := c.list(d); list != nil {
		if i := slices.Index(*list, d); i >= 0 {
			*list = slices.Delete(*list, i, i+1)
		}
	}
}

// list returns where a departure is listed, or nil.
func (c *departedClients) list(d *departure) *[]*departure {
	switch {
	case d.size == 0:
		return &c.empty
	case d.lost:
		return &c.lost
	}
	return nil
}

// shrink notes that some of a departure was read. It is not evicted for having
// nothing but status messages left: somebody reads it.
func (c *departedClients) shrink(d *departure, size int) {
	if d.size > 0 {
		size = max(size, minDeparture)
		c.bytes += size - d.size
		d.size = size
	}
}

// excess returns the departure to evict next, or nil.
func (c *departedClients) excess() *departure {
	switch {
	case len(c.empty) > maxEmpty:
		return c.empty[0]
	case c.bytes >= c.limit && len(c.lost) > 0:
		return c.lost[0]
	}
	return nil
}

// setFull sets full at the limit, and takes it back at half of it. resumed reports
// the latter.
func (c *departedClients) setFull() (resumed bool) {
	switch {
	case c.bytes >= c.limit:
		c.full.Store(true)
	case c.bytes <= c.limit/2:
		return c.full.Swap(false)
	}
	return false
}
