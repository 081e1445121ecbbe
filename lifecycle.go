// The status of an endpoint: its changes, its final error, and the progress of Close.

package gipc

import (
	"context"
)

// A lifecycle is the status of an endpoint and its final error. The endpoint's
// lock guards it.
//
// Invariants: the status changes only as the table of transitions allows, and
// every change wakes all goroutines that wait for one. finalErr is set once.
type lifecycle struct {
	status        Status
	statusChanged event // triggered by a change of status or finalErr, and then replaced
	finalErr      error // what reads return once the queue is empty; nil until the end
	finalErrSet   event // triggered when finalErr is set
	closeDone     event // triggered when Close is done. Not a sync.Once: its mutex would hang synctest bubbles, as it is not durably blocking
	dialErr       error // of the last connection attempt; nil while connected

	abortCtx context.Context // canceled when Close has run out of time; nil until abortContext is called
	abort    func()
}

// setStatus makes the transition to s if it is allowed, and reports whether it did.
func (l *lifecycle) setStatus(s Status) bool {
	if !l.status.canTransitionTo(s) {
		return false
	}
	l.status = s
	l.notifyStatus()
	return true
}

// notifyStatus wakes all goroutines that wait for a change.
func (l *lifecycle) notifyStatus() {
	l.statusChanged.trigger()
	l.statusChanged = event{}
}

// setFinalErr sets the final error. It returns false if it was set before.
func (l *lifecycle) setFinalErr(err error) bool {
	if l.finalErr != nil {
		return false
	}
	l.finalErr = err
	l.finalErrSet.trigger()
	l.notifyStatus()
	return true
}

// abortContext returns the context that is canceled when Close has run out of
// time. It is created by the first call, because idle endpoints need none.
func (l *lifecycle) abortContext() context.Context {
	if l.abortCtx == nil {
		l.abortCtx, l.abort = context.WithCancel(context.Background())
	}
	return l.abortCtx
}

// An event is triggered at most once, under the lock that guards it. Its channel
// is made by the first waiter, so an idle connection has none.
type event struct {
	channel   chan struct{}
	triggered bool
}

// trigger wakes all waiters. Further calls do nothing.
func (e *event) trigger() {
	if e.triggered {
		return
	}
	e.triggered = true
	if e.channel != nil {
		close(e.channel)
	}
}

// waitChannel returns a channel that is closed when the event is triggered.
func (e *event) waitChannel() <-chan struct{} {
	if e.channel == nil {
		e.channel = make(chan struct{})
		if e.triggered {
			close(e.channel)
		}
	}
	return e.channel
}
