// When something came from the peer, and when to ask for it.

package gipc

import (
	"sync/atomic"
	"time"
)

// A heartbeat knows how long a peer has been idle. Activity may be noted at any
// time by any goroutine.
type heartbeat struct {
	interval time.Duration // idle time before a ping; 0 is none
	start    time.Time
	latest   atomic.Int64 // activity, in nanoseconds after start
	timer    *time.Timer  // of the next check; nil until it is needed. The endpoint's lock guards it
}

type heartbeatCheck uint8

const (
	peerActive heartbeatCheck = iota
	pingDue
	peerLost
)

func newHeartbeat(interval time.Duration) *heartbeat {
	return &heartbeat{interval: interval, start: time.Now()}
}

// touch notes activity.
func (h *heartbeat) touch() { h.latest.Store(int64(time.Since(h.start))) }

// check returns what the idle time since the latest activity means, that activity,
// and when to check again. A peer is lost after two intervals.
func (h *heartbeat) check() (result heartbeatCheck, latest int64, next time.Duration) {
	latest = h.latest.Load()
	switch idle := time.Since(h.start) - time.Duration(latest); {
	case idle >= 2*h.interval:
		return peerLost, latest, h.interval
	case idle >= h.interval:
		return pingDue, latest, 2*h.interval - idle
	default:
		return peerActive, latest, h.interval - idle
	}
}

// checkAfter has f called after d. The endpoint's lock is held.
func (h *heartbeat) checkAfter(d time.Duration, f func()) {
	if h.timer == nil {
		h.timer = time.AfterFunc(d, f)
	} else {
		h.timer.Reset(d)
	}
}

// stop ends the checks. The endpoint's lock is held.
func (h *heartbeat) stop() {
	if h.timer != nil {
		h.timer.Stop()
	}
}
