// What is known of messages that were sent on connections that are over, and
// what still has to be reported of them.

package gipc

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
)

const maxUnreported = 16 // losses that are told apart; more are reported as these are

// A delivery is what became of the messages that were sent on one connection.
type delivery struct {
	notice      *Message // the status message of its end; nil before
	unconfirmed error    // nil if the peer has received everything that was sent
	reported    bool     // a reader has taken the notice with its Err, or a call has failed for it
}

// A deliveryLedger holds what Close and the next call that sends have to report.
// The endpoint's lock guards it.
//
// Invariant: latest is that of the latest connection; earlier ones are listed
// until they are confirmed or reported.
type deliveryLedger struct {
	latest  *delivery
	earlier []*delivery
	queued  lostMessages
	pending atomic.Bool // queued is to be reported; for those who do not hold the lock
}

// begin makes d the latest delivery.
func (l *deliveryLedger) begin(d *delivery) {
	if l.latest != nil && l.latest.due() && len(l.earlier) < maxUnreported {
		l.earlier = append(l.earlier, l.latest)
	}
	l.latest = d
}

func (d *delivery) due() bool { return d.unconfirmed != nil && !d.reported }

// taken notes that a reader has got a status message.
func (l *deliveryLedger) taken(m *Message) {
	if m.Err == nil {
		return
	}
	if l.latest != nil && l.latest.notice == m {
		l.latest.reported = true
	}
	l.earlier = slices.DeleteFunc(l.earlier, func(d *delivery) bool { return d.notice == m })
}

// callFailed notes that a call has failed since the connection of d is over.
func (l *deliveryLedger) callFailed(d *delivery) {
	d.reported = true
	l.earlier = slices.DeleteFunc(l.earlier, func(o *delivery) bool { return o == d })
}

// refused notes that a call has failed since the connection with an ID is over. ID 0 is
// the latest connection.
func (l *deliveryLedger) refused(id uint64) {
	for _, d := range append(slices.Clone(l.earlier), l.latest) {
		if d != nil && d.notice != nil && (d.notice.Conn == id || id == 0 && d == l.latest) {
			l.callFailed(d)
		}
	}
}

// unreported reports whether messages are unconfirmed and no reader and no call has
// reported that.
func (l *deliveryLedger) unreported() bool {
	return l.latest != nil && l.latest.due() || slices.ContainsFunc(l.earlier, (*delivery).due) || l.queued != lostMessages{}
}

// result returns what Close reports: in every case what is not confirmed of the
// latest connection, and of earlier ones what was not reported.
func (l *deliveryLedger) result() error {
	var err error
	for _, d := range l.earlier {
		if d.due() {
			err = fail(ErrUnconfirmed, d.unconfirmed, "messages of an earlier connection may be lost")
			break
		}
	}
	if l.latest != nil && l.latest.unconfirmed != nil {
		err = l.latest.unconfirmed
	}
	if l.queued == (lostMessages{}) {
		return err
	}
	return l.reportQueued(err)
}

// addQueued notes lost messages of Queue.
func (l *deliveryLedger) addQueued(lost lostMessages) {
	l.queued.add(lost)
	l.pending.Store(l.queued != (lostMessages{}))
}

// reportQueued returns the error for lost messages of Queue, which is due once. It
// returns nil if there are none.
func (l *deliveryLedger) reportQueued(cause error) error {
	lost := l.queued
	if lost == (lostMessages{}) {
		return nil
	}
	l.queued, l.earlier = lostMessages{}, nil // this reports their loss
	l.refused(0)
	l.pending.Store(false)
	return lost.lossError(cause)
}

// isOwnLimit reports whether a call has failed because its own context or time limit
// ended. That says nothing about the connection.
func isOwnLimit(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrTimeout)
}

// isDeliveryError reports whether err says that something was not sent or may not
// have arrived.
func isDeliveryError(err error) bool {
	return errors.Is(err, ErrUnconfirmed) || errors.Is(err, ErrNotConnected)
}
