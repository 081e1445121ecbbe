// How connections end: the goodbye and its answer, the loss that a heartbeat
// finds, and the last moments of a socket.

package gipc

import (
	"cmp"
	"context"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// shutdown ends this end for good: readers at once, the connection with a
// goodbye whose answer it awaits until ctx ends.
func (e *end) shutdown(ctx context.Context, code byte) error {
	ctx, cancel := bounded(ctx, closeTime)
	defer cancel()
	e.mu.Lock()
	if e.leave.Swap(true) {
		closed := e.closed.wait()
		e.mu.Unlock()
		<-closed
		return nil
	}
	e.setLocked(Closing)
	if e.quit != nil {
		e.quit()
	}
	if l := e.link; e.role == reading || e.role == watched {
		yield := e.yield.wait()
		e.mu.Unlock()
		l.interrupt()
		<-yield
		e.mu.Lock()
	}
	e.role = closing
	l := e.link
	if l != nil {
		if l.beat != nil {
			l.beat.Stop()
		}
		for { // what this process holds is its application's
			m, r := new(Message), l.r
			ok, _ := l.next(&call{}, m)
			if ok {
				e.countLocked(m)
				e.pushLocked(m)
			} else if l.r == r {
				break
			}
		}
	}
	if e.err == nil {
		e.pushLocked(&Message{MsgType: internalType, Status: Closed.String()})
		e.finishLocked(ErrClosed)
	}
	if e.pause != nil {
		e.pause.Stop()
	}
	e.mu.Unlock()

	defer context.AfterFunc(ctx, e.hurry)()
	var err error
	if l != nil {
		err = l.farewell(ctx, code)
		if ctx.Err() != nil {
			l.conn.Close()
		}
		e.lost.Add(l.hangUp(false, func(time.Time) {}))
	}
	e.wg.Wait()
	e.hurry()
	e.mu.Lock()
	if l != nil {
		e.totals.add(l.stats())
		e.link = nil
		e.cur.Store(nil)
	} else if e.last != nil && e.last.untold != nil && !(code == byeShutdown && e.life == nil) {
		// Of a client that left before its server is closed its Disconnected tells.
		err = e.last.undelivered(cmp.Or(e.last.untold.Err, e.last.bad))
	}
	e.setLocked(Closed)
	e.closed.happen()
	e.mu.Unlock()
	if n := e.lost.Swap(0); n > 0 && (err == nil || l == nil) {
		err = fail(ErrNotConnected, err, lostText, n)
	}
	e.set.log.Info("closed", "name", e.set.name, "err", err)
	return err
}

// bounded gives a context that has no deadline one after d.
func bounded(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, d)
}

// farewell says goodbye and awaits what the peer says became of the messages.
// The caller holds the role.
func (l *link) farewell(ctx context.Context, code byte) error {
	if ctx.Err() != nil {
		return contextError("close", ctx)
	}
	cut := time.Now().Add(cutGrace)
	l.send.cutAt.Store(cut.UnixNano())
	l.conn.SetWriteDeadline(cut)
	l.send.say(ErrClosed, [2]byte{kindGoodbye, code})
	if l.version == version2 {
		return l.farewell2(ctx)
	}
	l.asked = true
	return l.answerOf(ctx, false)
}

// answerOf reads on until the peer's answer to a goodbye of ours, and says what
// that means. said is whether its own one has had its answer.
func (l *link) answerOf(ctx context.Context, said bool) error {
	l.leave = new(atomic.Bool)
	var m Message
	var held byte // of the peer's messages that arrived too late: 0 none, 1 some are discarded
	c := call{ctx: ctx, reuse: true}
	defer func() {
		if c.stop != nil {
			c.stop()
		}
	}()
	for {
		ok, err := l.next(&c, &m)
		switch {
		case err != nil:
			return l.undelivered(err)
		case ok:
			held = 1
		case l.goodbye && !said:
			said = true
			l.send.say(ErrClosed, [2]byte{kindAnswer, held})
		case l.answered:
			l.send.drain(ctx)
			if l.answer != 0 {
				return fail(ErrNotConnected, nil, "the peer was closing and discarded messages")
			}
			return nil
		default:
			if out, err := l.fill(&c); out != proceed {
				return l.undelivered(err)
			}
		}
	}
}

// undelivered is what Close returns when the peer has not answered.
func (l *link) undelivered(err error) error {
	if errors.Is(err, ErrTruncated) && l.stats().Sent == 0 {
		return nil // nothing was under way
	}
	if errors.Is(err, ErrNotConnected) {
		return err // says as much
	}
	return fail(ErrNotConnected, err, "the peer has not said that it received everything")
}

// part ends a connection that is over, which is its own now. After the peer's
// goodbye it first sends everything that was accepted for sending.
func (e *end) part(l *link, cut context.Context) {
	defer e.wg.Done()
	defer context.AfterFunc(cut, func() { l.conn.Close() })()
	var err error
	if l.goodbye {
		if l.version == version3 {
			_, err = l.next(&call{}, new(Message)) // an answer that is here already is none
			l.asked = true
		}
		ctx, cancel := context.WithTimeout(cut, closeTime)
		defer cancel()
		err = cmp.Or(err, l.send.drain(ctx))
	}
	e.lost.Add(l.hangUp(true, func(until time.Time) {
		if !l.goodbye || l.version == version2 {
			return
		}
		if err == nil {
			ctx, cancel := context.WithDeadline(cut, until)
			defer cancel()
			err = l.answerOf(ctx, true)
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		if l.bad = err; err == nil {
			l.untold = nil
		}
	}))
}

// hangUp closes the socket so that the peer gets what was written. It returns
// how many messages of Queue were not. await is for a peer that has yet to
// write, on a connection that cannot be half closed; listen may read what the
// peer says when nothing is written any more.
func (l *link) hangUp(await bool, listen func(until time.Time)) (lost int64) {
	until := time.Now().Add(drainTime)
	l.send.cutAt.Store(until.UnixNano())
	l.conn.SetWriteDeadline(until)
	late := time.NewTimer(drainTime)
	defer late.Stop()
	select {
	case l.send.turn <- struct{}{}: // the rest of a frame that was begun is out
	case <-late.C:
	}
	lost = l.send.bury()
	defer l.conn.Close()
	more := endHalf(l.conn, await)
	listen(until)
	if more {
		discard(l.conn, until)
	}
	if l.part = (partial{}); l.in != nil {
		l.pool.put(l.in)
		l.in = nil
	}
	return lost
}

// closeSlowly ends the sending half and reads until the peer has ended its own,
// for closing with unread input would take from the peer what was sent to it.
func closeSlowly(conn net.Conn, until time.Time, await bool) {
	defer conn.Close()
	if endHalf(conn, await) {
		discard(conn, until)
	}
}

// endHalf ends the sending half, once: some systems refuse to do it again. It says
// whether there is an end of the peer's to wait for.
func endHalf(conn net.Conn, await bool) bool {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite() == nil
	}
	return await
}

// discard reads until the peer has ended its sending half.
func discard(conn net.Conn, until time.Time) {
	var b [512]byte
	for {
		conn.SetReadDeadline(until)
		_, err := conn.Read(b[:])
		if err != nil && (!errors.Is(err, os.ErrDeadlineExceeded) || !time.Now().Before(until)) {
			return
		}
	}
}

// beatLocked has tick look at l after d.
func (e *end) beatLocked(l *link, d time.Duration) {
	if l.version == version2 {
		return
	}
	if l.beat == nil {
		l.beat = time.AfterFunc(d, func() { e.tick(l) })
	} else {
		l.beat.Reset(d)
	}
}

// tick pings where it has been quiet, and finds that the peer is lost when
// nothing has come for two intervals. A side whose queue is full cannot tell
// and judges nobody: it pings, so that the peer sees it live, and so that a
// peer that is gone shows in the write that fails.
func (e *end) tick(l *link) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.link != l || e.leave.Load() {
		return
	}
	switch interval := l.heartbeat; {
	case e.role == stopped || e.held >= queueSize:
		l.send.owe(nil)
		e.beatLocked(l, fullPing)
	case interval == 0:
	case e.role == free: // nobody has looked
		e.watchLocked()
		e.beatLocked(l, interval)
	default:
		heard := l.heard.Load()
		idle := time.Since(l.born) - time.Duration(heard)
		switch {
		case idle >= 2*interval:
			err := fail(ErrTimeout, nil, "nothing came from the peer for %v", idle.Round(time.Millisecond))
			l.fate.CompareAndSwap(nil, &fate{err, time.Now(), true, heard})
			l.interrupt()
			e.beatLocked(l, interval) // should it have come, and nobody have read it
		case idle >= interval:
			l.send.owe(nil)
			e.beatLocked(l, 2*interval-idle)
		default:
			e.beatLocked(l, interval-idle)
		}
	}
}

// heardLocked starts the time without a sign of the peer anew: until now nobody
// listened.
func (e *end) heardLocked() {
	if l := e.link; l != nil {
		l.hear()
	}
}

func (l *link) hear() { l.heard.Store(int64(time.Since(l.born))) }
