// The read role. Reading is leader/followers: the goroutine that calls Read is the
// leader and reads the transport itself; other callers wait.
//
//	state         role held by          left when
//	noConnection  dial or accept loop   there is a connection: as reading
//	free          nobody                a caller takes it: reading; nobody has read for a while, or something is wrong: background
//	reading       a caller              it has its message or has to end: the first waiter, else free
//	background    the background reader a caller waits, or has no time: as reading; the queue is full: stopped
//	stopped       nobody, pings go out  a caller takes a message: free
//	closing       Close                 never

package gipc

import (
	"slices"
	"time"
)

// A background reader starts after one to two of these without a read.
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

// A readRole says who reads. The endpoint's lock guards it.
//
// Invariants: only its holder reads the transport, decodes, and appends to the
// queue, so a status message stands in the stream where it happened. Nobody waits
// while the queue has messages.
type readRole struct {
	state           roleState
	waiters         []*readWaiter // callers, in order of arrival
	replyWaiters    []*readWaiter // calls that wait for replies; the last one reads for all if nobody else does
	stopCount       uint64        // how often reading has stopped
	stoppedAt       time.Time     // the last time
	roleReleased    event         // Close has the role
	deferBackground bool          // no background reader before somebody has read: a reader is expected
	fanIn           bool          // the background reader goes on for all who wait
	readCount       uint64        // calls that have held the role

	idleTimer     *time.Timer // nil until it is needed
	idleTimerSet  bool
	idleReadCount uint64 // reads when pause was set
	idleDelay     time.Duration

	startBackgroundReader func() // starts the background reader
	onIdle                func() // is called when pause has passed
}

// A readWaiter is a caller that waits. It gets a message, or the role.
type readWaiter struct {
	wakeSignal chan struct{}
	message    *Message
	granted    bool
	noWait     bool // it has no time: it waits for the background reader to make way
}

// reset takes w back for its next use. It is in no line.
func (w *readWaiter) reset() {
	select {
	case <-w.wakeSignal:
	default:
	}
	*w = readWaiter{wakeSignal: w.wakeSignal}
}

// addWaiter adds a caller.
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

// removeReplyWaiter removes a call that waits for its reply, and reports whether it was
// granted the role.
func (r *readRole) removeReplyWaiter(w *readWaiter) (granted bool) {
	if i := slices.Index(r.replyWaiters, w); i >= 0 {
		r.replyWaiters = slices.Delete(r.replyWaiters, i, i+1)
	}
	granted = w.granted
	w.reset()
	return granted
}

// deliverMessage hands a message to the first caller, and reports whether there is
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

// wakeWaiters wakes all callers: there will be nothing to read.
func (r *readRole) wakeWaiters() {
	for _, w := range r.waiters {
		w.wakeSignal <- struct{}{}
	}
	r.waiters = nil
}

// acquire gives the role, which is free, to a caller.
func (r *readRole) acquire() { r.state = roleReading }

// detachConnection takes the role from a connection that is over. Callers without time do not
// wait for the next one.
func (r *readRole) detachConnection() {
	r.state = roleNoConnection
	r.waiters = slices.DeleteFunc(r.waiters, func(w *readWaiter) bool {
		if w.noWait {
			w.wakeSignal <- struct{}{}
		}
		return w.noWait
	})
}

// stopReading leaves the role to nobody, since the queue is full. It wakes the calls that wait
// for replies.
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

// stoppedSince returns since when reading has been stopped for a call that began then:
// the later of the two times.
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

// release gives the role up: to Close, to the first caller, to the background
// reader if one is needed, or to nobody.
func (r *readRole) release(leaving, needed bool) {
	switch {
	case leaving:
		r.state = roleClosing
		r.roleReleased.trigger()
	case len(r.waiters) > 0:
		w := r.waiters[0]
		r.waiters = r.waiters[1:]
		r.grantTo(w)
	case needed || r.fanIn:
		r.startBackground()
	case len(r.replyWaiters) > 0:
		// Replies come in the order of requests, mostly: who has waited for the
		// shortest time hands over to the next leader last.
		last := len(r.replyWaiters) - 1
		w := r.replyWaiters[last]
		r.replyWaiters[last] = nil
		r.replyWaiters = r.replyWaiters[:last]
		r.grantTo(w)
	default:
		r.setFree()
	}
}

// startBackground has the background reader read.
func (r *readRole) startBackground() {
	r.state = roleBackground
	r.startBackgroundReader()
}

// setFree leaves the role to the next caller, and in the end to the background
// reader.
func (r *readRole) setFree() {
	r.state = roleFree
	if r.idleTimerSet {
		return
	}
	r.idleTimerSet, r.idleReadCount = true, r.readCount
	if r.idleTimer == nil {
		r.idleTimer = time.AfterFunc(r.idleDelay, r.onIdle)
	} else {
		r.idleTimer.Reset(r.idleDelay)
	}
}

// checkIdle has the background reader read if nobody has for a while.
func (r *readRole) checkIdle(leaving bool) {
	r.idleTimerSet = false
	switch {
	case r.state != roleFree || leaving:
		if r.deferBackground {
			r.idleTimer = nil // an idle client of Serve has none
		}
	case r.readCount == r.idleReadCount:
		r.startBackground()
	default:
		r.idleTimerSet, r.idleReadCount = true, r.readCount
		r.idleTimer.Reset(r.idleDelay)
	}
}

// acquireForClose takes the role for Close. It returns nil, or a channel that is closed when
// the holder has given the role up: the holder has to be interrupted.
func (r *readRole) acquireForClose() <-chan struct{} {
	if r.state == roleReading || r.state == roleBackground {
		return r.roleReleased.waitChannel()
	}
	r.state = roleClosing
	return nil
}

// finishClose stops the timer. The state is closing.
func (r *readRole) finishClose() {
	r.state = roleClosing
	if r.idleTimer != nil {
		r.idleTimer.Stop()
	}
}
