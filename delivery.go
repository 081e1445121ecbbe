// The record of unconfirmed messages on connections that are over, and of what Close
// and later calls still have to report.

package gipc

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
)

const maxUnreported = 16 // maximum number of recorded losses; the report of these covers further ones

// A delivery is the delivery result of the messages that were sent on one connection.
type delivery struct {
	lossNotice     *Message // the status message that reports the end of the connection; nil before
	unconfirmedErr error    // nil if the peer has received everything that was sent
	reported       bool     // a reader has received lossNotice with its Err, or a call has failed because of the loss
}

// A deliveryLedger records what Close and the next sending call have to report. The
// endpoint's lock guards it, except queuedLossPending.
//
// Invariant: latest belongs to the latest connection. earlier holds deliveries of
// earlier connections until they are confirmed or reported.
type deliveryLedger struct {
	latest            *delivery
	earlier           []*delivery
	queuedLosses      lostMessages
	queuedLossPending atomic.Bool // queuedLosses is not empty; read without the lock
}

// beginDelivery makes d the latest delivery.
func (l *deliveryLedger) beginDelivery(d *delivery) {
	if l.latest != nil && l.latest.isDue() && len(l.earlier) < maxUnreported {
		l.earlier = append(l.earlier, l.latest)
	}
	l.latest = d
}

func (d *delivery) isDue() bool { return d.unconfirmedErr != nil && !d.reported }

// noteNoticeRead records that a reader has received status message m.
func (l *deliveryLedger) noteNoticeRead(m *Message) {
	if m.Err == nil {
		return
	}
	if l.latest != nil && l.latest.lossNotice == m {
		l.latest.reported = true
	}
	l.earlier = slices.DeleteFunc(l.earlier, func(d *delivery) bool { return d.lossNotice == m })
}

// noteCallFailed records that a call has failed because the connection of d is over.
func (l *deliveryLedger) noteCallFailed(d *delivery) {
	d.reported = true
	l.earlier = slices.DeleteFunc(l.earlier, func(o *delivery) bool { return o == d })
}

// noteRefusedCall records that a call has failed because the connection with the given
// ID is over. ID 0 is the latest connection.
func (l *deliveryLedger) noteRefusedCall(id uint64) {
	for _, d := range append(slices.Clone(l.earlier), l.latest) {
		if d != nil && d.lossNotice != nil && (d.lossNotice.Conn == id || id == 0 && d == l.latest) {
			l.noteCallFailed(d)
		}
	}
}

// hasUnreported reports whether there are unconfirmed messages whose loss no status
// message and no call has reported.
func (l *deliveryLedger) hasUnreported() bool {
	return l.latest != nil && l.latest.isDue() || slices.ContainsFunc(l.earlier, (*delivery).isDue) || l.queuedLosses != lostMessages{}
}

// closeResult returns the error of Close: unconfirmed messages of the latest
// connection in every case, those of earlier ones unless they were reported.
func (l *deliveryLedger) closeResult() error {
	var err error
	for _, d := range l.earlier {
		if d.isDue() {
			err = newError(ErrUnconfirmed, d.unconfirmedErr, "messages of an earlier connection may be lost")
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

// addQueuedLosses records lost messages of Queue.
func (l *deliveryLedger) addQueuedLosses(lost lostMessages) {
	l.queuedLosses.add(lost)
	l.queuedLossPending.Store(l.queuedLosses != (lostMessages{}))
}

// reportQueuedLosses returns the error for lost messages of Queue, and clears them. It
// returns nil if there are none.
func (l *deliveryLedger) reportQueuedLosses(cause error) error {
	lost := l.queuedLosses
	if lost == (lostMessages{}) {
		return nil
	}
	l.queuedLosses, l.earlier = lostMessages{}, nil // the error reports all of them
	l.noteRefusedCall(0)
	l.queuedLossPending.Store(false)
	return lost.lossError(cause)
}

// isCallerTimeout reports whether a call has failed because of its own context or time
// limit, which does not mean that the connection is lost.
func isCallerTimeout(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrTimeout)
}

// isDeliveryError reports whether err means that something was not sent, or may not
// have arrived.
func isDeliveryError(err error) bool {
	return errors.Is(err, ErrUnconfirmed) || errors.Is(err, ErrNotConnected)
}
