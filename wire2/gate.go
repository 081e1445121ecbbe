// Where the two directions of a connection meet: what the played peer sends to
// the library of its own accord, whether input is read at all, and the deadlines.

package wire2

import (
	"net"
	"os"
	"sync"
	"time"
)

// A readAction is what a Read does next.
type readAction int

const (
	actDeliver readAction = iota // deliver the replies that were taken
	actDecode                    // decode and read frames of the peer
	actWait                      // wait for a reply
	actDiscard                   // discard what the peer sends, until its stream ends
	actEnd                       // report the end of the stream
	actFail                      // report an error
)

// An inputMode describes the handling of the peer's bytes. It only ever rises.
type inputMode int

const (
	inputHeld      inputMode = iota // a handshake is not complete: nothing is read for the library
	inputDecoded                    // frames are decoded
	inputDiscarded                  // the library has refused the peer, or the key is exhausted
	inputClosed                     // the connection is closed
)

// A gate connects the reader and the writer. Replies of the played peer go to the
// library between two frames, and a Read that is blocked in conn is interrupted
// for them by its read deadline.
type gate struct {
	conn net.Conn

	mu          sync.Mutex // guards everything below
	replies     []byte     // complete messages for the library
	pong        []byte     // the pong that is due, or nil: a newer one replaces it
	closing     closeState
	mode        inputMode
	failed      error // ends reading, until output has ended
	outputEnded bool
	streamCut   bool          // cutStream has reported true
	changed     chan struct{} // closed and replaced at every change that a waiting Read has to see

	readDeadline, writeDeadline time.Time
	readBlocked                 bool // a Read is inside conn.Read
	interrupted                 bool // the deadline of conn has been moved to end that Read
}

func newGate(conn net.Conn) *gate {
	return &gate{conn: conn, changed: make(chan struct{})}
}

// nextRead decides what a Read does. Replies are taken between frames only.
func (g *gate) nextRead(betweenFrames bool) (action readAction, replies []byte, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.mode == inputClosed:
		return actFail, nil, net.ErrClosed
	case betweenFrames && g.replyDueLocked():
		replies = append(g.replies, g.pong...)
		g.replies, g.pong = nil, nil
		return actDeliver, replies, nil
	case g.mode == inputDiscarded || g.failed != nil && g.outputEnded:
		return actDiscard, nil, nil
	case g.failed != nil:
		return actFail, nil, g.failed
	case g.mode == inputHeld:
		return actWait, nil, nil
	case !g.closing.streamEnded:
		return actDecode, nil, nil
	case g.closing.ackSent || g.outputEnded && !g.closing.libraryClosed:
		return actEnd, nil, nil
	}
	return actWait, nil, nil
}

func (g *gate) replyDueLocked() bool { return len(g.replies) > 0 || g.pong != nil }

// awaitChange waits until nextRead may have another result. It does not use conn.
func (g *gate) awaitChange() error {
	g.mu.Lock()
	changed, deadline := g.changed, g.readLimitLocked()
	ready := g.mode == inputClosed || g.replyDueLocked()
	g.mu.Unlock()
	if ready {
		return nil
	}
	var expired <-chan time.Time
	if !deadline.IsZero() {
		timer := time.NewTimer(time.Until(deadline))
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case <-changed:
		return nil
	case <-expired:
		return os.ErrDeadlineExceeded
	}
}

// update changes the state and wakes the reader.
func (g *gate) update(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
	g.wakeLocked()
}

func (g *gate) wakeLocked() {
	close(g.changed)
	g.changed = make(chan struct{})
	if g.readBlocked && !g.interrupted {
		g.interrupted = true
		g.conn.SetReadDeadline(time.Unix(1, 0)) // without deadlines, the next input wakes the reader
	}
}

// reply queues a handshake message for the library.
func (g *gate) reply(message ...byte) {
	g.update(func() { g.replies = append(g.replies, message...) })
}

// answerPing queues a pong, except after the close, which is the last frame.
func (g *gate) answerPing(payload []byte) {
	g.update(func() {
		if !g.closing.closeSent {
			g.pong = controlFrame(append([]byte{kindPong}, payload...)...)
		}
	})
}

// establish ends the handshake of the library with a last message, and lets
// frames be read. From here on no deadline interrupts a write.
func (g *gate) establish(message ...byte) {
	g.update(func() {
		g.replies = append(g.replies, message...)
		g.raiseLocked(inputDecoded)
		g.conn.SetWriteDeadline(time.Time{})
		g.applyReadDeadlineLocked()
	})
}

// advanceClose changes the state of the close handshake and queues what follows.
func (g *gate) advanceClose(change func(*closeState)) {
	g.update(func() {
		change(&g.closing)
		if frames := g.closing.framesDue(); frames != nil {
			g.replies, g.pong = append(g.replies, frames...), nil
		}
	})
}

// exhaustKey ends the connection from this side. Later calls have no effect.
func (g *gate) exhaustKey() {
	g.mu.Lock()
	again := g.closing.keyExhausted
	g.mu.Unlock()
	if !again {
		g.advanceClose(func(s *closeState) { s.keyExhausted = true })
		g.discard()
	}
}

func (g *gate) discard() { g.update(func() { g.raiseLocked(inputDiscarded) }) }

// endOutput records that the library ends the stream, and reports whether it has
// to be ended: the library's close may have done so.
func (g *gate) endOutput() (due bool) {
	g.update(func() {
		g.outputEnded = true
		due = !g.closing.libraryClosed
	})
	return due
}

// fail ends reading with the first error.
func (g *gate) fail(err error) {
	g.update(func() {
		if g.failed == nil {
			g.failed = err
		}
	})
}

func (g *gate) close() { g.update(func() { g.raiseLocked(inputClosed) }) }

func (g *gate) raiseLocked(mode inputMode) { g.mode = max(g.mode, mode) }

// cutStream reports whether conn, which cannot be half closed, has to be closed
// as a whole to end this side's stream. It is not if the peer has ended its own.
func (g *gate) cutStream() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.streamCut = !g.closing.streamEnded
	return g.streamCut
}

// endOfCut reports whether a failed read comes from cutStream.
func (g *gate) endOfCut() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.streamCut && g.mode != inputClosed
}

// beginRead reports whether the caller may read conn. If not, there is something
// else to do.
func (g *gate) beginRead(betweenFrames bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mode == inputClosed || betweenFrames && g.replyDueLocked() {
		return false
	}
	g.readBlocked = true
	return true
}

// endRead restores the deadline of conn, and reports whether the read was
// interrupted for a reply.
func (g *gate) endRead() (interrupted bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.readBlocked = false
	if interrupted = g.interrupted; interrupted {
		g.interrupted = false
		g.applyReadDeadlineLocked()
	}
	return interrupted
}

func (g *gate) setDeadlines(setRead, setWrite bool, t time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if setRead {
		g.readDeadline = t
	}
	if setWrite {
		g.writeDeadline = t
	}
	close(g.changed)
	g.changed = make(chan struct{})
	err := g.applyReadDeadlineLocked()
	if g.mode == inputHeld && setWrite {
		if writeErr := g.conn.SetWriteDeadline(t); err == nil {
			err = writeErr
		}
	}
	return err
}

func (g *gate) applyReadDeadlineLocked() error {
	if g.interrupted {
		return nil // endRead applies it
	}
	return g.conn.SetReadDeadline(g.readLimitLocked())
}

// readLimitLocked returns the deadline of reads. The write of the library's last
// handshake message reads as well, so before that both deadlines count.
func (g *gate) readLimitLocked() time.Time {
	limit := g.readDeadline
	if g.mode == inputHeld && !g.writeDeadline.IsZero() && (limit.IsZero() || g.writeDeadline.Before(limit)) {
		limit = g.writeDeadline
	}
	return limit
}

// writeExpired reports whether no frame may be begun now.
func (g *gate) writeExpired() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.writeDeadline.IsZero() && !time.Now().Before(g.writeDeadline)
}
