// The close handshake: which orders of close and close-ack are legal, and what
// they mean. No net, no clock, no locks.

package gipc

import "time"

const (
	closeTimeout = 5 * time.Second // for a close and its close-ack
	drainTimeout = time.Second     // for what is left of a connection that is lost
)

// A closeHandshake is the state of one connection's end.
//
//	frames, close  ------------------------>
//	<------------------------ frames, close, close-ack
//	close-ack      ------------------------>
//
// A close-ack says whether everything that came before the close that it
// acknowledges was received for the application, or some of it was discarded. Only
// a close-ack of 0 proves that messages were received.
type closeHandshake struct {
	sentClose        bool  // ours was accepted for sending
	sentAck          bool  // the close-ack for the peer's was accepted for sending
	peerClosed       bool  // the peer's has come: only its close-ack counts behind it
	ackReceived      bool  // the close-ack for ours has come
	ackCode          byte  // its byte
	messageDiscarded bool  // a message was discarded before the peer's close came
	protocolErr      error // what came behind a close was malformed: nothing more is written
}

// noteClose notes the peer's close and reports whether it is the first one.
func (h *closeHandshake) noteClose() bool {
	first := !h.peerClosed
	h.peerClosed = true
	return first
}

// noteAck notes a close-ack. It must come behind both closes, once.
func (h *closeHandshake) noteAck(b byte) error {
	if !h.sentClose || !h.peerClosed || h.ackReceived {
		return fail(ErrMalformed, nil, "a close-ack without a close before it")
	}
	h.ackReceived, h.ackCode = true, min(b, someDiscarded)
	return nil
}

// noteDiscarded notes a message that is discarded since this side has closed. Those
// behind the peer's close do not count.
func (h *closeHandshake) noteDiscarded() {
	h.messageDiscarded = h.messageDiscarded || !h.peerClosed
}

// ownAckCode returns what our close-ack says.
func (h *closeHandshake) ownAckCode() byte {
	if h.messageDiscarded {
		return someDiscarded
	}
	return allReceived
}

// deliveryResult returns nil if the peer has received everything that was sent. sent is
// the number of messages, and cause why the handshake ended early, if it did.
func (h *closeHandshake) deliveryResult(sent uint64, cause error) error {
	switch {
	case sent == 0:
		return nil
	case h.ackReceived && h.ackCode == allReceived:
		return nil
	case h.ackReceived:
		return fail(ErrUnconfirmed, nil, "the peer was closing too and discarded messages")
	}
	return fail(ErrUnconfirmed, cause, "the peer has not acknowledged that it received everything")
}
