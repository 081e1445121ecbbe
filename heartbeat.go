// When something came from the peer, and when to ask for it.

package gipc

import (
	"sync/atomic"
	"time"
)

// A heartbeat knows how long a peer has been idle. Activity may be noted at any
// time by any goroutine.
type heartbeat struct {
	interval     time.Duration // idle time before a ping; 0 is none
	startTime    time.Time
	lastActivity atomic.Int64 // activity, in nanoseconds after start
	checkTimer   *time.Timer  // of the next check; nil until it is needed. The endpoint's lock guards it
}

type heartbeatCheck uint8

const (
	peerActive heartbeatCheck = iota
	pingDue
	peerLost
)

func newHeartbeat(interval time.Duration) *heartbeat {
	return &heartbeat{interval: interval, startTime: time.Now()}
}

// noteActivity notes activity.
func (h *heartbeat) noteActivity() { h.lastActivity.Store(int64(time.Since(h.startTime))) }

// checkActivity returns what the idle time since the latest activity means, that activity,
// and when to check again. A peer is lost after two intervals.
func (h *heartbeat) checkActivity() (result heartbeatCheck, latest int64, next time.Duration) {
	latest = h.lastActivity.Load()
	switch idle := time.Since(h.startTime) - time.Duration(latest); {
	case idle >= 2*h.interval:
		return peerLost, latest, h.interval
	case idle >= h.interval:
		return pingDue, latest, 2*h.interval - idle
	default:
		return peerActive, latest, h.interval - idle
	}
}

// scheduleCheck has f called after d. The endpoint's lock is held.
func (h *heartbeat) scheduleCheck(d time.Duration, f func()) {
	if h.checkTimer == nil {
		h.checkTimer = time.AfterFunc(d, f)
	} else {
		h.checkTimer.Reset(d)
	}
}

// stopChecks ends the checks. The endpoint's lock is held.
func (h *heartbeat) stopChecks() {
	if h.checkTimer != nil {
		h.checkTimer.Stop()
	}
}
