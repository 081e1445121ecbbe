// The status of an endpoint, and how it ends.

package gipc

import (
	"context"
)

// A lifecycle is the status of an endpoint and its end. The endpoint's lock guards
// it.
//
// Invariants: the status changes only as the table of transitions allows, and
// everybody who waits for a change is woken. err is set once.
type lifecycle struct {
	status  Status
	changed event // the status has changed; then it is a new one
	err     error // final: what reads return once the queue is empty
	done    event // err is set
	closed  event // Close is done. No sync.Once: a mutex is not durably blocking, so synctest bubbles would hang
	dialErr error // of the last attempt to connect; nil while connected

	cut    context.Context // is done when Close has no more time; nil until somebody asks
	cutNow func()
}

// become changes the status, if that is allowed, and reports whether it is.
func (l *lifecycle) become(s Status) bool {
	if !l.status.mayBecome(s) {
		return false
	}
	l.status = s
	l.wake()
	return true
}

// wake wakes everybody who waits for a change.
func (l *lifecycle) wake() {
	l.changed.happen()
	l.changed = event{}
}

// finish sets the final error and reports whether it was not set before.
func (l *lifecycle) finish(err error) bool {
	if l.err != nil {
		return false
	}
	l.err = err
	l.done.happen()
	l.wake()
	return true
}

// cutContext returns the context that is done when Close has no more time. An idle
// endpoint has none.
func (l *lifecycle) cutContext() context.Context {
	if l.cut == nil {
		l.cut, l.cutNow = context.WithCancel(context.Background())
	}
	return l.cut
}

// An event happens once, under the lock that guards it. The channel is made when
// somebody waits, so an idle connection has none.
type event struct {
	channel  chan struct{}
	happened bool
}

// happen wakes everybody who waits. Calling it again does nothing.
func (e *event) happen() {
	if e.happened {
		return
	}
	e.happened = true
	if e.channel != nil {
		close(e.channel)
	}
}

// wait returns a channel that is closed when the event has happened.
func (e *event) wait() <-chan struct{} {
	if e.channel == nil {
		e.channel = make(chan struct{})
		if e.happened {
			close(e.channel)
		}
	}
	return e.channel
}
