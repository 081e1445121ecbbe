// The direction from the peer to the library.

package wire2

import (
	"errors"
	"io"
	"os"
	"sync"
)

// A readSide is the state of Read. While input is held the writer uses
// the decoder, because it completes the handshake.
type readSide struct {
	mu      sync.Mutex // one reader at a time; guards everything below
	ready   []byte     // bytes for the library, in memory of the decoder or of the gate
	decoder decoder
}

// Read returns bytes of version 3: the handshake of the played peer, frames, and
// at the end of the peer's stream a close.
func (t *translator) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	t.reading.mu.Lock()
	defer t.reading.mu.Unlock()
	for len(t.reading.ready) == 0 {
		if err := t.readStep(); err != nil {
			return 0, err
		}
	}
	n := copy(p, t.reading.ready)
	t.reading.ready = t.reading.ready[n:]
	return n, nil
}

// readStep makes progress towards bytes for the library.
func (t *translator) readStep() error {
	r := &t.reading
	action, replies, err := t.gate.nextRead(r.decoder.betweenFrames())
	switch action {
	case actDeliver:
		r.ready = replies
	case actWait:
		return t.gate.awaitChange()
	case actDecode:
		return t.decodeStep()
	case actDiscard:
		return t.discardStep()
	case actEnd:
		return io.EOF
	case actFail:
		return err
	}
	return nil
}

// decodeStep decodes what has arrived, or else reads more.
func (t *translator) decodeStep() error {
	r := &t.reading
	piece, err := r.decoder.next()
	if err != nil {
		t.gate.fail(err)
		return nil // the next step returns it
	}
	if r.decoder.key.closeDue() {
		t.gate.exhaustKey()
	}
	if r.ready = piece; len(piece) > 0 {
		return nil
	}
	if err := t.readConn(); err != io.EOF || t.gate.endOfCut() {
		return err
	}
	if !r.decoder.atBoundary() {
		t.gate.fail(io.ErrUnexpectedEOF)
		return nil
	}
	t.gate.advanceClose(func(s *closeState) { s.streamEnded = true })
	return nil
}

// readConn reads into the decoder. io.EOF comes alone.
func (t *translator) readConn() error {
	r := &t.reading
	if !t.gate.beginRead(r.decoder.betweenFrames()) {
		return nil
	}
	n, err := t.conn.Read(r.decoder.freeSpace())
	r.decoder.bytesRead(n)
	interrupted := t.gate.endRead()
	switch {
	case n > 0:
		return nil // an error comes again
	case err != nil && t.gate.endOfCut():
		return io.EOF
	case interrupted && errors.Is(err, os.ErrDeadlineExceeded):
		return nil
	}
	return err
}

// discardStep reads and drops input, so that closing does not reset the
// connection.
func (t *translator) discardStep() error {
	d := &t.reading.decoder
	d.drop(d.buffered())
	err := t.readConn()
	d.drop(d.buffered())
	return err
}
