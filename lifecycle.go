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
	status        Status
	statusChanged event // the status has changed; then it is a new one
	finalErr      error // final: what reads return once the queue is empty
	finalErrSet   event // err is set
	closeDone     event // Close is done. No sync.Once: a mutex is not durably blocking, so synctest bubbles would hang
	dialErr       error // of the last attempt to connect; nil while connected

	abortCtx context.Context // is done when Close has no more time; nil until somebody asks
	abort    func()
}

// setStatus changes the status, if that is allowed, and reports whether it is.
func (l *lifecycle) setStatus(s Status) bool {
	if !l.status.canTransitionTo(s) {
		return false
	}
	l.status = s
	l.notifyStatus()
	return true
}

// notifyStatus wakes everybody who waits for a change.
func (l *lifecycle) notifyStatus() {
	l.statusChanged.trigger()
	l.statusChanged = event{}
}

// setFinalErr sets the final error and reports whether it was not set before.
func (l *lifecycle) setFinalErr(err error) bool {
	if l.finalErr != nil {
		return false
	}
	l.finalErr = err
	l.finalErrSet.trigger()
	l.notifyStatus()
	return true
}

// abortContext returns the context that is done when Close has no more time. An idle
// endpoint has none.
func (l *lifecycle) abortContext() context.Context {
	if l.abortCtx == nil {
		l.abortCtx, l.abort = context.WithCancel(context.Background())
	}
	return l.abortCtx
}

// An event happens once, under the lock that guards it. The channel is made when
// somebody waits, so an idle connection has none.
type event struct {
	channel   chan struct{}
	triggered bool
}

// trigger wakes everybody who waits. Calling it again does nothing.
func (e *event) trigger() {
	if e.triggered {
		return
	}
	e.triggered = true
	if e.channel != nil {
		close(e.channel)
	}
}

// waitChannel returns a channel that is closed when the event has happened.
func (e *event) waitChannel() <-chan struct{} {
	if e.channel == nil {
		e.channel = make(chan struct{})
		if e.triggered {
			close(e.channel)
		}
	}
	return e.channel
}
