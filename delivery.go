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
	lossNotice     *Message // the status message of its end; nil before
	unconfirmedErr error    // nil if the peer has received everything that was sent
	reported       bool     // a reader has taken the notice with its Err, or a call has failed for it
}

// A deliveryLedger holds what Close and the next call that sends have to report.
// The endpoint's lock guards it.
//
// Invariant: latest is that of the latest connection; earlier ones are listed
// until they are confirmed or reported.
type deliveryLedger struct {
	latest            *delivery
	earlier           []*delivery
	queuedLosses      lostMessages
	queuedLossPending atomic.Bool // queued is to be reported; for those who do not hold the lock
}

// beginDelivery makes d the latest delivery.
func (l *deliveryLedger) beginDelivery(d *delivery) {
	if l.latest != nil && l.latest.isDue() && len(l.earlier) < maxUnreported {
		l.earlier = append(l.earlier, l.latest)
	}
	l.latest = d
}

func (d *delivery) isDue() bool { return d.unconfirmedErr != nil && !d.reported }

// noteNoticeRead notes that a reader has got a status message.
func (l *deliveryLedger) noteNoticeRead(m *Message) {
	if m.Err == nil {
		return
	}
	if l.latest != nil && l.latest.lossNotice == m {
		l.latest.reported = true
	}
	l.earlier = slices.DeleteFunc(l.earlier, func(d *delivery) bool { return d.lossNotice == m })
}

// noteCallFailed notes that a call has failed since the connection of d is over.
func (l *deliveryLedger) noteCallFailed(d *delivery) {
	d.reported = true
	l.earlier = slices.DeleteFunc(l.earlier, func(o *delivery) bool { return o == d })
}

// noteRefusedCall notes that a call has failed since the connection with an ID is over. ID 0 is
// the latest connection.
func (l *deliveryLedger) noteRefusedCall(id uint64) {
	for _, d := range append(slices.Clone(l.earlier), l.latest) {
		if d != nil && d.lossNotice != nil && (d.lossNotice.Conn == id || id == 0 && d == l.latest) {
			l.noteCallFailed(d)
		}
	}
}

// hasUnreported reports whether messages are unconfirmed and no reader and no call has
// reported that.
func (l *deliveryLedger) hasUnreported() bool {
	return l.latest != nil && l.latest.isDue() || slices.ContainsFunc(l.earlier, (*delivery).isDue) || l.queuedLosses != lostMessages{}
}

// closeResult returns what Close reports: in every case what is not confirmed of the
// latest connection, and of earlier ones what was not reported.
func (l *deliveryLedger) closeResult() error {
	var err error
	for _, d := range l.earlier {
		if d.isDue() {
			err = fail(ErrUnconfirmed, d.unconfirmedErr, "messages of an earlier connection may be lost")
			break
		}
	}
	if l.latest != nil && l.latest.unconfirmedErr != nil {
		err = l.latest.unconfirmedErr
	}
	if l.queuedLosses == (lostMessages{}) {
		return err
	}
	return l.reportQueuedLosses(err)
}

// addQueuedLosses notes lost messages of Queue.
func (l *deliveryLedger) addQueuedLosses(lost lostMessages) {
	l.queuedLosses.add(lost)
	l.queuedLossPending.Store(l.queuedLosses != (lostMessages{}))
}

// reportQueuedLosses returns the error for lost messages of Queue, which is due once. It
// returns nil if there are none.
func (l *deliveryLedger) reportQueuedLosses(cause error) error {
	lost := l.queuedLosses
	if lost == (lostMessages{}) {
		return nil
	}
	l.queuedLosses, l.earlier = lostMessages{}, nil // this reports their loss
	l.noteRefusedCall(0)
	l.queuedLossPending.Store(false)
	return lost.lossError(cause)
}

// isCallerTimeout reports whether a call has failed because its own context or time limit
// ended. That says nothing about the connection.
func isCallerTimeout(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrTimeout)
}

// isDeliveryError reports whether err says that something was not sent or may not
// have arrived.
func isDeliveryError(err error) bool {
	return errors.Is(err, ErrUnconfirmed) || errors.Is(err, ErrNotConnected)
}
