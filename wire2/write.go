// The direction from the library to the peer.

package wire2

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"

	"example.com/gipc"
)

// A phase is named after the message of the library that is due.
type phase int

const (
	phaseServerHello  phase = iota // the library is a server
	phaseServerFinish              // the library is a server
	phaseClientHello               // the library is a client
	phaseFrames
	phaseClosed  // the library has sent its close: only control frames may follow
	phaseRefused // the library has refused the peer: nothing may follow
)

// A writeSide is the state of Write.
type writeSide struct {
	mu      sync.Mutex // one writer at a time; guards everything below
	phase   phase
	options Options
	limit   uint32     // largest data that the peer accepts
	key     *sharedKey // nil in plaintext
	parts   assembler
	sealed  []byte // memory for sealed frames
	err     error  // the first error, which ends writing
}

// Write takes bytes of version 3: the handshake of the library and frames, cut in
// any way. It returns when every complete frame has been written to the peer, one
// write each.
func (t *translator) Write(p []byte) (int, error) {
	w := &t.writing
	w.mu.Lock()
	defer w.mu.Unlock()
	written := 0
	for w.err == nil && written < len(p) {
		if t.gate.writeExpired() {
			return written, os.ErrDeadlineExceeded
		}
		message, used, err := w.parts.next(p[written:], w.messageLen)
		if err == nil && message != nil {
			err = t.writeMessage(message)
			w.parts.reset()
		}
		if err != nil {
			t.failWrite(err)
			break
		}
		written += used
	}
	return written, w.err
}

// failWrite ends the connection. The peer sees the ordinary end, unless a frame
// was written in part.
func (t *translator) failWrite(err error) {
	t.writing.err = err
	if t.writing.phase < phaseFrames {
		t.gate.fail(err)
	}
	closeWrite(t.conn)
}

// messageLen returns the length of the library's next message, of which b is the
// beginning. It is 0 if b is too short to tell.
func (w *writeSide) messageLen(b []byte) (int, error) {
	switch w.phase {
	case phaseServerHello:
		return helloLen(b[0] == 0, refusalSize), nil
	case phaseServerFinish:
		return 1, nil
	case phaseClientHello:
		return helloLen(b[0] != 0, 1), nil
	}
	return libraryFrameLen(b, w.limit)
}

// writeMessage handles one complete message of the library.
func (t *translator) writeMessage(message []byte) error {
	w := &t.writing
	switch w.phase {
	case phaseServerHello, phaseServerFinish, phaseClientHello:
		return t.writeHandshake(message)
	case phaseRefused:
		return nil
	}
	if binary.BigEndian.Uint32(message[lengthSize:]) == controlType {
		return t.handleControl(message[headerSize:])
	}
	if w.phase == phaseClosed {
		return newFailure(gipc.ErrClosed, "message not sent", "the library has sent its close", "")
	}
	return t.writeFrame(message)
}

// writeFrame writes one frame of version 2 in one write [V-9].
func (t *translator) writeFrame(frame []byte) error {
	w := &t.writing
	if w.key.exhausted() {
		return keyExhausted()
	}
	if w.key != nil {
		body := frame[lengthSize:]
		w.sealed = binary.BigEndian.AppendUint32(w.sealed[:0], uint32(len(body)+sealOverhead))
		w.sealed = w.key.sealFrame(w.sealed, body)
		frame = w.sealed
	}
	_, err := t.conn.Write(frame)
	if cap(w.sealed) > maxKeptBuffer {
		w.sealed = nil
	}
	if w.key.closeDue() {
		t.gate.exhaustKey()
	}
	return err
}

// handleControl answers for the peer, which knows no control frames.
func (t *translator) handleControl(data []byte) error {
	switch {
	case len(data) == pingSize && data[0] == kindPing:
		t.gate.answerPing(data[1:])
	case len(data) == closeSize && data[0] == kindClose:
		t.closeByLibrary()
	case len(data) == 0 || data[0] >= firstCriticalKind:
		return newFailure(gipc.ErrVersion, "control frame not sent", fmt.Sprintf("version 2 has none like %x", data), "")
	}
	return nil // a pong, a close-ack, or a kind that may be ignored
}

// closeByLibrary ends this side's stream. A connection that cannot be half closed
// is closed as a whole, unless the peer has ended its stream already.
func (t *translator) closeByLibrary() {
	if t.writing.phase == phaseClosed {
		return
	}
	t.writing.phase = phaseClosed
	if closeWrite(t.conn) != nil && t.gate.cutStream() {
		t.conn.Close()
	}
	t.gate.advanceClose(func(s *closeState) { s.libraryClosed = true })
}
