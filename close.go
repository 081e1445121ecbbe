// The state of the close handshake: the valid orders of close and close-ack, and the
// delivery result; and the close of a transport.

package gipc

import (
	"context"
	"errors"
	"net"
	"os"
	"time"

	"example.com/gipc/internal/transport"
)

const (
	closeTimeout = 5 * time.Second // of a close handshake, and the default of Shutdown
	drainTimeout = time.Second     // for reading and writing the rest of a lost connection
)

// A closeHandshake is the state of the close handshake of one connection.
//
//	frames, close  ------------------------>
//	<------------------------ frames, close, close-ack
//	close-ack      ------------------------>
//
// The byte of a close-ack is 0 if every message before the acknowledged close was
// received for the application, and 1 if some were discarded. Only a close-ack of 0
// confirms delivery.
type closeHandshake struct {
	sentClose        bool  // this side's close was accepted for sending
	sentAck          bool  // the close-ack for the peer's close was accepted for sending
	peerClosed       bool  // the peer's close was received; only its close-ack is valid behind it
	ackReceived      bool  // the close-ack for this side's close was received
	ackCode          byte  // the byte of that close-ack
	messageDiscarded bool  // a message was discarded before the peer's close was received
	protocolErr      error // violation behind a close, after which nothing more is written
}

// noteClose records the peer's close and reports whether it is the first one.
func (h *closeHandshake) noteClose() bool {
	first := !h.peerClosed
	h.peerClosed = true
	return first
}

// noteAck records a close-ack. It is valid once, behind the closes of both sides.
func (h *closeHandshake) noteAck(b byte) error {
	if !h.sentClose || !h.peerClosed || h.ackReceived {
		return newError(ErrMalformed, nil, "unexpected close-ack: it must follow the closes of both sides, once")
	}
	h.ackReceived, h.ackCode = true, min(b, someDiscarded)
	return nil
}

// noteDiscarded records that a message was discarded after this side's close. Messages
// behind the peer's close do not count.
func (h *closeHandshake) noteDiscarded() {
	h.messageDiscarded = h.messageDiscarded || !h.peerClosed
}

// ownAckCode returns the byte of this side's close-ack.
func (h *closeHandshake) ownAckCode() byte {
	if h.messageDiscarded {
		return someDiscarded
	}
	return allReceived
}

// deliveryResult returns nil if the peer has received everything that was sent. sent
// is the number of messages. cause is why the handshake ended early, or nil.
func (h *closeHandshake) deliveryResult(sent uint64, cause error) error {
	switch {
	case sent == 0:
		return nil
	case h.ackReceived && h.ackCode == allReceived:
		return nil
	case h.ackReceived:
		return newError(ErrUnconfirmed, nil, "the peer was closing too and discarded messages")
	}
	return newError(ErrUnconfirmed, cause, "the peer has not acknowledged that it received everything")
}

// closeTransport closes conn. The Close of a connection that is not a socket may
// block, so a goroutine calls it and is awaited for 1 s at most.
func closeTransport(ctx context.Context, conn net.Conn) {
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		conn.Close()
		return
	}
	closed := make(chan struct{})
	go func() {
		conn.Close()
		close(closed)
	}()
	timer := time.NewTimer(drainTimeout)
	defer timer.Stop()
	select {
	case <-closed:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// lingerAndClose closes a transport before its handshake is complete. It shuts down
// the sending half and reads until the peer has shut down its own, for 1 s at most:
// closing with unread input would reset the connection and destroy what was sent.
func lingerAndClose(conn net.Conn) {
	defer closeTransport(context.Background(), conn)
	if !transport.EndSending(conn) {
		return
	}
	end := time.Now().Add(drainTimeout)
	timer := time.AfterFunc(drainTimeout, func() { conn.Close() }) // conn may not support deadlines
	defer timer.Stop()
	var b [512]byte
	for {
		conn.SetReadDeadline(end)
		if _, err := conn.Read(b[:]); err != nil && (!errors.Is(err, os.ErrDeadlineExceeded) || !time.Now().Before(end)) {
			return
		}
	}
}
