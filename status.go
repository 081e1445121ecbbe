// The status of an endpoint, its valid transitions and final error, and its totals.

package gipc

import "context"

// Status is the state of a Client or a Server.
type Status int

// The statuses. Their numbers and strings are those of golang-ipc and its forks, with
// which programs may compare them.
const (
	NotConnected Status = iota // before the start
	Listening                  // server: before the first client; the permanent status of a multi-client server
	Connecting                 // client: before the first connection
	Connected                  // connected to a peer
	ReConnecting               // client: after the loss of a connection
	Closed                     // after Close; final
	Closing                    // Close is in progress
	Error                      // the server cannot accept any more, or the client cannot dial any more; final
	Timeout                    // client: no connection within Timeout; final
	Disconnected               // server: after the loss of a connection
)

var statusNames = [...]string{"Not Connected", "Listening", "Connecting", "Connected", "Reconnecting",
	"Closed", "Closing", "Error", "Timeout", "Disconnected"}

// String returns the name of the status, such as "Connected". It returns "Unknown" for
// values that are not defined above.
func (s Status) String() string {
	if s < 0 || int(s) >= len(statusNames) {
		return "Unknown"
	}
	return statusNames[s]
}

// transitions has, for each status, a bit for each status that may follow. All changes
// are checked by canTransitionTo, so a final status is final.
var transitions = [...]uint16{
	NotConnected: 1<<Listening | 1<<Connecting | 1<<Connected | 1<<Closing,
	Listening:    1<<Connected | 1<<Closing | 1<<Error,
	Connecting:   1<<Connected | 1<<Closing | 1<<Timeout | 1<<Error,
	Connected:    1<<ReConnecting | 1<<Disconnected | 1<<Closing,
	ReConnecting: 1<<Connected | 1<<Closing | 1<<Timeout | 1<<Error,
	Closing:      1 << Closed,
	Error:        1 << Closing,
	Timeout:      1 << Closing,
	Disconnected: 1<<Connected | 1<<Closing | 1<<Error,
}

// canTransitionTo reports whether next may follow s.
func (s Status) canTransitionTo(next Status) bool { return transitions[s]&(1<<next) != 0 }

// Security describes the protection of a connection by this package. The zero value is
// plaintext; an Upgrade may protect the connection in another way.
type Security struct {
	Encrypted bool // records are sealed with AES-256-GCM
	Hybrid    bool // the keys are agreed on by P-384 and ML-KEM-1024, not by P-384 alone
	Secret    bool // both sides were authenticated by a shared secret
}

// Stats holds the totals of an endpoint since its start, over all its connections.
type Stats struct {
	Sent, Received           uint64 // messages
	SentBytes, ReceivedBytes uint64 // their Data, in bytes
	Reconnects               uint64 // connections after the first
	Refused                  uint64 // server: connections that were rejected, and failed accepts
	Rekeys                   uint64 // changes of traffic keys, in both directions
	Calls, Requests          uint64 // requests that were sent and received; Sent and Received include requests, but not replies
	Dropped                  uint64 // status messages and disconnected clients that were dropped unread, and replies that no call waited for
}

func (s *Stats) add(o Stats) {
	s.Sent += o.Sent
	s.Received += o.Received
	s.SentBytes += o.SentBytes
	s.ReceivedBytes += o.ReceivedBytes
	s.Reconnects += o.Reconnects
	s.Refused += o.Refused
	s.Rekeys += o.Rekeys
	s.Calls += o.Calls
	s.Requests += o.Requests
	s.Dropped += o.Dropped
}

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

	abortSignal *abortSignal // canceled when Close has run out of time; nil until abortContext is called
}

type abortSignal struct {
	ctx    context.Context
	cancel func()
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
	if l.abortSignal == nil {
		l.abortSignal = new(abortSignal)
		l.abortSignal.ctx, l.abortSignal.cancel = context.WithCancel(context.Background())
	}
	return l.abortSignal.ctx
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
