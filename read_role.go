// The read role, the lock of the receiving half. The pattern is leader/followers:
// the goroutine that holds the role reads the transport, the other readers wait.
//
//	state             held by                 next state
//	roleNoConnection  dial or accept loop     connected: as after roleReading
//	roleFree          nobody                  a caller reads: roleReading; idle for a while, or a loss is pending: roleBackground
//	roleReading       a caller                it has its message or has to end: granted to a waiter, or roleBackground, or roleFree
//	roleBackground    the background reader   a caller waits: as after roleReading; the queue is full: roleStopped
//	roleStopped       nobody; pings are sent  a caller takes a message: as after roleReading
//	roleClosing       Close                   none

package gipc

import (
	"slices"
	"time"
)

// idleBeforeBackground is the time without a read after which the background reader
// starts. It is checked at this interval, so the delay may be twice as long.
const idleBeforeBackground = 500 * time.Millisecond

type roleState uint8

const (
	roleNoConnection roleState = iota
	roleFree
	roleReading
	roleBackground
	roleStopped
	roleClosing
)

// A readRole records who reads, and who waits to. The endpoint's lock guards it.
//
// Invariants: only the role's holder reads the transport and appends to the queue, so
// each status message has its place in the stream. While the role is free, a caller may
// take a message that the decoder already holds, under the endpoint's lock. No caller
// waits while the queue has messages.
type readRole struct {
	state           roleState
	deferBackground bool          // no background reader before the first read, because a reader is expected
	fanIn           bool          // the background reader keeps the role even if callers wait for a message
	idleTimerSet    bool          // idleTimer is running
	stopCount       uint32        // number of times that the state became roleStopped
	waiters         []*readWaiter // callers that wait for a message, in order of arrival
	replyWaiters    []*readWaiter // calls that wait for replies; the last one reads for all if no other caller does
	stoppedAt       time.Time     // when it did so last
	roleReleased    event         // triggered when the role has passed to Close
	readCount       uint64        // number of reads by callers

	idleTimer     *time.Timer // nil until it is needed
	idleReadCount uint64      // readCount when idleTimer was set
	idleDelay     time.Duration

	owner roleOwner
}

// A roleOwner is the endpoint of a read role.
type roleOwner interface {
	startBackgroundReader() // is called with the endpoint's lock held
	onReaderIdle()          // is called when idleTimer expires
}

// A readWaiter is a caller that waits. It receives a message, or the role.
type readWaiter struct {
	wakeSignal chan struct{}
	message    *Message
	granted    bool
	noWait     bool // the caller's time has expired; it only waits for the background reader to release the role
}

// reset prepares w for its next use. It must not be in a list of waiters.
func (w *readWaiter) reset() {
	select {
	case <-w.wakeSignal:
	default:
	}
	*w = readWaiter{wakeSignal: w.wakeSignal}
}

// addWaiter adds a caller that waits for a message.
func (r *readRole) addWaiter() *readWaiter {
	w := &readWaiter{wakeSignal: make(chan struct{}, 1)}
	r.waiters = append(r.waiters, w)
	return w
}

// removeWaiter removes a caller and reports whether it was still waiting.
func (r *readRole) removeWaiter(w *readWaiter) bool {
	i := slices.Index(r.waiters, w)
	if i >= 0 {
		r.waiters = slices.Delete(r.waiters, i, i+1)
	}
	return i >= 0
}

// addReplyWaiter adds a call that waits for its reply.
func (r *readRole) addReplyWaiter(w *readWaiter) { r.replyWaiters = append(r.replyWaiters, w) }

// removeReplyWaiter removes a call that waits for its reply, and reports whether it
// was granted the role.
func (r *readRole) removeReplyWaiter(w *readWaiter) (granted bool) {
	if i := slices.Index(r.replyWaiters, w); i >= 0 {
		r.replyWaiters = slices.Delete(r.replyWaiters, i, i+1)
	}
	granted = w.granted
	w.reset()
	return granted
}

// deliverMessage gives m to the first waiting caller, and reports whether there was
// one.
func (r *readRole) deliverMessage(m *Message) bool {
	if len(r.waiters) == 0 {
		return false
	}
	w := r.waiters[0]
	r.waiters = r.waiters[1:]
	w.message = m
	w.wakeSignal <- struct{}{}
	return true
}

// wakeWaiters wakes all waiting callers, because no message will arrive any more.
func (r *readRole) wakeWaiters() {
	for _, w := range r.waiters {
		w.wakeSignal <- struct{}{}
	}
	r.waiters = nil
}

// acquire takes the role for a caller. The role must not be held.
func (r *readRole) acquire() { r.state = roleReading }

// detachConnection ends the role on a connection that is over. Callers whose time
// has expired do not wait for the next connection.
func (r *readRole) detachConnection() {
	r.state = roleNoConnection
	r.waiters = slices.DeleteFunc(r.waiters, func(w *readWaiter) bool {
		if w.noWait {
			w.wakeSignal <- struct{}{}
		}
		return w.noWait
	})
}

// stopReading releases the role without a new holder, because the queue is full. It
// wakes the calls that wait for replies.
func (r *readRole) stopReading() {
	r.state = roleStopped
	r.stopCount++
	r.stoppedAt = time.Now()
	for _, w := range r.replyWaiters {
		w.wakeSignal <- struct{}{}
	}
	clear(r.replyWaiters)
	r.replyWaiters = r.replyWaiters[:0]
}

// stoppedSince returns the time since which a call that began at the given time has
// waited for stopped reading: the later of stoppedAt and begun.
func (r *readRole) stoppedSince(begun time.Time) time.Time {
	if r.stoppedAt.Before(begun) {
		return begun
	}
	return r.stoppedAt
}

// grantTo gives the role to a waiter.
func (r *readRole) grantTo(w *readWaiter) {
	r.state, w.granted = roleReading, true
	w.wakeSignal <- struct{}{}
}

// release passes the role on: to Close, to the first waiting caller, to the
// background reader if lossPending is set or for fan-in, or to a call that waits for
// its reply. Otherwise the role becomes free.
func (r *readRole) release(forClose, lossPending bool) {
	switch {
	case forClose:
		r.state = roleClosing
		r.roleReleased.trigger()
	case len(r.waiters) > 0:
		w := r.waiters[0]
		r.waiters = r.waiters[1:]
		r.grantTo(w)
	case lossPending || r.fanIn:
		r.startBackground()
	case len(r.replyWaiters) > 0:
		// Replies mostly arrive in the order of requests. The newest call waits the
		// longest, so it keeps the role for the longest time.
		last := len(r.replyWaiters) - 1
		w := r.replyWaiters[last]
		r.replyWaiters[last] = nil
		r.replyWaiters = r.replyWaiters[:last]
		r.grantTo(w)
	default:
		r.setFree()
	}
}

// startBackground passes the role to the background reader and starts it.
func (r *readRole) startBackground() {
	r.state = roleBackground
	r.owner.startBackgroundReader()
}

// setFree makes the role free for the next caller. If none reads for a while, the
// background reader does.
func (r *readRole) setFree() {
	r.state = roleFree
	if !r.idleTimerSet {
		r.setIdleTimer() // a separate function, so that this one is inlined: 2 ns of 40 for each message
	}
}

func (r *readRole) setIdleTimer() {
	r.idleTimerSet, r.idleReadCount = true, r.readCount
	if r.idleTimer == nil {
		r.idleTimer = time.AfterFunc(r.idleDelay, r.owner.onReaderIdle)
	} else {
		r.idleTimer.Reset(r.idleDelay)
	}
}

// checkIdle starts the background reader if the role is free and no caller has read
// since the idle timer was set.
func (r *readRole) checkIdle(closing bool) {
	r.idleTimerSet = false
	switch {
	case r.state != roleFree || closing:
		if r.deferBackground {
			r.idleTimer = nil // saves its memory in the idle clients of Serve
		}
	case r.readCount == r.idleReadCount:
		r.startBackground()
	default:
		r.setIdleTimer()
	}
}

// acquireForClose takes the role for Close. If the role is held it returns a channel
// that is closed on its release, and the holder has to be interrupted. Otherwise it
// returns nil.
func (r *readRole) acquireForClose() <-chan struct{} {
	if r.state == roleReading || r.state == roleBackground {
		return r.roleReleased.waitChannel()
	}
	r.state = roleClosing
	return nil
}

// finishClose makes the role's end final, and stops the timer.
func (r *readRole) finishClose() {
	r.state = roleClosing
	if r.idleTimer != nil {
		r.idleTimer.Stop()
	}
}
