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
	noConnection roleState = iota
	free
	reading
	background
	stopped
	closing
)

// A readRole says who reads. The endpoint's lock guards it.
//
// Invariants: only its holder reads the transport, decodes, and appends to the
// queue, so a status message stands in the stream where it happened. Nobody waits
// while the queue has messages.
type readRole struct {
	state     roleState
	waiters   []*readWaiter // callers, in order of arrival
	callers   []*readWaiter // calls that wait for replies; the last one reads for all if nobody else does
	stops     uint64        // how often reading has stopped
	stoppedAt time.Time     // the last time
	yielded   event         // Close has the role
	untilRead bool          // no background reader before somebody has read: a reader is expected
	always    bool          // the background reader goes on for all who wait
	reads     uint64        // calls that have held the role

	pause      *time.Timer // nil until it is needed
	pauseSet   bool
	pauseReads uint64 // reads when pause was set
	idle       time.Duration

	startReader func() // starts the background reader
	paused      func() // is called when pause has passed
}

// A readWaiter is a caller that waits. It gets a message, or the role.
type readWaiter struct {
	wake    chan struct{}
	message *Message
	granted bool
	poll    bool // it has no time: it waits for the background reader to make way
}

// reset takes w back for its next use. It is in no line.
func (w *readWaiter) reset() {
	select {
	case <-w.wake:
	default:
	}
	*w = readWaiter{wake: w.wake}
}

// wait adds a caller.
func (r *readRole) wait() *readWaiter {
	w := &readWaiter{wake: make(chan struct{}, 1)}
	r.waiters = append(r.waiters, w)
	return w
}

// leave removes a caller and reports whether it was still waiting.
func (r *readRole) leave(w *readWaiter) bool {
	i := slices.Index(r.waiters, w)
	if i >= 0 {
		r.waiters = slices.Delete(r.waiters, i, i+1)
	}
	return i >= 0
}

// waitToLead adds a call that waits for its reply.
func (r *readRole) waitToLead(w *readWaiter) { r.callers = append(r.callers, w) }

// leaveCallers removes a call that waits for its reply, and reports whether it was
// granted the role.
func (r *readRole) leaveCallers(w *readWaiter) (granted bool) {
	if i := slices.Index(r.callers, w); i >= 0 {
		r.callers = slices.Delete(r.callers, i, i+1)
	}
	granted = w.granted
	w.reset()
	return granted
}

// giveMessage hands a message to the first caller, and reports whether there is
// one.
func (r *readRole) giveMessage(m *Message) bool {
	if len(r.waiters) == 0 {
		return false
	}
	w := r.waiters[0]
	r.waiters = r.waiters[1:]
	w.message = m
	w.wake <- struct{}{}
	return true
}

// dismiss wakes all callers: there will be nothing to read.
func (r *readRole) dismiss() {
	for _, w := range r.waiters {
		w.wake <- struct{}{}
	}
	r.waiters = nil
}

// take gives the role, which is free, to a caller.
func (r *readRole) take() { r.state = reading }

// detach takes the role from a connection that is over. Callers without time do not
// wait for the next one.
func (r *readRole) detach() {
	r.state = noConnection
	r.waiters = slices.DeleteFunc(r.waiters, func(w *readWaiter) bool {
		if w.poll {
			w.wake <- struct{}{}
		}
		return w.poll
	})
}

// stop leaves the role to nobody, since the queue is full. It wakes the calls that wait
// for replies.
func (r *readRole) stop() {
	r.state = stopped
	r.stops++
	r.stoppedAt = time.Now()
	for _, w := range r.callers {
		w.wake <- struct{}{}
	}
	clear(r.callers)
	r.callers = r.callers[:0]
}

// stoppedSince returns since when reading has been stopped for a call that began then:
// the later of the two times.
func (r *readRole) stoppedSince(begun time.Time) time.Time {
	if r.stoppedAt.Before(begun) {
		return begun
	}
	return r.stoppedAt
}

// grant gives the role to a waiter.
func (r *readRole) grant(w *readWaiter) {
	r.state, w.granted = reading, true
	w.wake <- struct{}{}
}

// release gives the role up: to Close, to the first caller, to the background
// reader if one is needed, or to nobody.
func (r *readRole) release(leaving, needed bool) {
	switch {
	case leaving:
		r.state = closing
		r.yielded.trigger()
	case len(r.waiters) > 0:
		w := r.waiters[0]
		r.waiters = r.waiters[1:]
		r.grant(w)
	case needed || r.always:
		r.startBackground()
	case len(r.callers) > 0:
		// Replies come in the order of requests, mostly: who has waited for the
		// shortest time hands over to the next leader last.
		last := len(r.callers) - 1
		w := r.callers[last]
		r.callers[last] = nil
		r.callers = r.callers[:last]
		r.grant(w)
	default:
		r.setFree()
	}
}

// startBackground has the background reader read.
func (r *readRole) startBackground() {
	r.state = background
	r.startReader()
}

// setFree leaves the role to the next caller, and in the end to the background
// reader.
func (r *readRole) setFree() {
	r.state = free
	if r.pauseSet {
		return
	}
	r.pauseSet, r.pauseReads = true, r.reads
	if r.pause == nil {
		r.pause = time.AfterFunc(r.idle, r.paused)
	} else {
		r.pause.Reset(r.idle)
	}
}

// onPause has the background reader read if nobody has for a while.
func (r *readRole) onPause(leaving bool) {
	r.pauseSet = false
	switch {
	case r.state != free || leaving:
		if r.untilRead {
			r.pause = nil // an idle client of Serve has none
		}
	case r.reads == r.pauseReads:
		r.startBackground()
	default:
		r.pauseSet, r.pauseReads = true, r.reads
		r.pause.Reset(r.idle)
	}
}

// close takes the role for Close. It returns nil, or a channel that is closed when
// the holder has given the role up: the holder has to be interrupted.
func (r *readRole) close() <-chan struct{} {
	if r.state == reading || r.state == background {
		return r.yielded.waitChannel()
	}
	r.state = closing
	return nil
}

// end stops the timer. The state is closing.
func (r *readRole) end() {
	r.state = closing
	if r.pause != nil {
		r.pause.Stop()
	}
}
