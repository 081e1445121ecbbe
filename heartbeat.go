// The heartbeat of a connection: when the peer was active, and when to send a ping.

package gipc

import (
	"sync/atomic"
	"time"
)

// The times of heartbeats belong together. A side whose queue is full answers no pings,
// because it reads nothing. It sends its own every fullQueuePing instead, so a peer with
// the shortest interval, which gives it up after lostAfter times minHeartbeat, receives
// one in time.
const (
	defaultHeartbeat = 15 * time.Second // on TCP; elsewhere the kernel reports a dead peer
	minHeartbeat     = time.Second
	fullQueuePing    = time.Second
	lostAfter        = 2 // idle intervals
)

// A heartbeat measures how long a peer has been idle. Any goroutine may call
// noteActivity at any time.
type heartbeat struct {
	interval     time.Duration // idle time before a ping; 0 is off
	startTime    time.Time
	lastActivity atomic.Int64 // in nanoseconds after startTime
	checkTimer   *time.Timer  // for the next check; nil until it is needed. Guarded by the endpoint's lock
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

// noteActivity records activity of the peer, or of a write to it.
func (h *heartbeat) noteActivity() { h.lastActivity.Store(int64(time.Since(h.startTime))) }

// checkActivity evaluates the idle time. It returns the result, the latest activity,
// and the time until the next check. A peer is lost after lostAfter idle intervals.
func (h *heartbeat) checkActivity() (result heartbeatCheck, latest int64, next time.Duration) {
	latest = h.lastActivity.Load()
	switch idle := time.Since(h.startTime) - time.Duration(latest); {
	case idle >= lostAfter*h.interval:
		return peerLost, latest, h.interval
	case idle >= h.interval:
		return pingDue, latest, lostAfter*h.interval - idle
	default:
		return peerActive, latest, h.interval - idle
	}
}

// scheduleCheck calls f after d, instead of an earlier scheduled call. The endpoint's
// lock is held.
func (h *heartbeat) scheduleCheck(d time.Duration, f func()) {
	if h.checkTimer == nil {
		h.checkTimer = time.AfterFunc(d, f)
	} else {
		h.checkTimer.Reset(d)
	}
}

// stopChecks stops the scheduled check. The endpoint's lock is held.
func (h *heartbeat) stopChecks() {
	if h.checkTimer != nil {
		h.checkTimer.Stop()
	}
}
