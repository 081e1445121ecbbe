// One live socket and its receiving half: bytes become frames here, and only
// the holder of the end's reading role calls it.

package gipc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"example.com/gipc/internal/sys"
)

const (
	readSize   = 64 << 10 // what one read of the socket asks for, in bytes
	smallFrame = 4 << 10  // a sealed frame up to here is opened in the receive buffer, but for ReadInto
	beginning  = 4 << 10  // what is held for a frame that has begun and stopped, in bytes
)

// A link is one socket after its handshake. What is under "the role" belongs to
// whoever holds the end's reading role.
type link struct {
	conn    net.Conn
	raw     syscall.RawConn // nil where reads cannot be tried without waiting
	peer    Peer
	id      uint64
	untold  *Message // guarded by the end's mu: the notice of its end, where messages may not have arrived and no reader has it
	version int
	limit   int // largest data that this side accepts, in bytes
	busy    time.Duration
	born    time.Time
	pool    *bufferPool
	send    sender

	heartbeat time.Duration // 0 is none
	beat      *time.Timer   // guarded by the end's mu
	heard     atomic.Int64  // when something came last, in nanoseconds after born

	leave  *atomic.Bool         // the end's: Close wants the role
	wanted atomic.Bool          // somebody without time wants the watcher's
	fate   atomic.Pointer[fate] // a loss that the holder of the role is to declare

	rekeys atomic.Uint64 // of cipher

	// The role:
	cipher   *cipherState // nil in plaintext
	in       *buffer      // what was read and not decoded stands from r on; nil while there is nothing
	r        int
	need     int     // bytes from r on that the next step waits for
	largest  int     // the largest frame that has arrived
	part     partial // a large plaintext frame on its way
	deadline time.Time
	rearm    bool // the socket's deadline is not what deadline says
	goodbye  bool // the peer has said it: nothing but its answer counts behind it
	asked    bool // we have said it, so an answer is due
	answered bool
	answer   byte
	gotAny   bool
	bad      error                 // no byte is looked at any more; of a link that is over, under the end's mu, what the answer to our goodbye means
	ready    func(fd uintptr) bool // reads what there is; false when that is nothing
	peek     func(fd uintptr)
	looks    int // reads of the socket that were tried
	got      int
	gotErr   error
}

// A fate is set before the reader is interrupted: from at on it declares the
// connection lost for err. The first one holds, but for silence.
type fate struct {
	err    error
	at     time.Time
	silent bool  // for want of a sign of life: what was read since, or can be, is one
	heard  int64 // the last one
}

// partial is plaintext data that is read straight into the message's memory.
type partial struct {
	active bool
	lent   bool // the memory is the caller's: gone with the call
	typ    uint32
	data   []byte // what has arrived
	n      int    // what data will be
}

// A call is what one reader wants of the role.
type call struct {
	ctx    context.Context // nil where it cannot end
	until  time.Time       // zero is forever
	poll   bool            // look once, do not wait
	queued bool            // take what the queue has, do not look at the socket
	shared bool            // somebody else watches over ctx
	quiet  bool            // whoever calls is not told of the status
	watch  bool            // makes way when wanted
	tiny   bool            // takes no frame that is larger than control frames are
	reuse  bool            // put data into the memory that the message has
	stop   func() bool     // ends the watch over ctx
}

type outcome int

const (
	proceed   outcome = iota // more bytes are there
	delivered                // the message is filled
	over                     // the call ends with the error; the connection goes on
	yielded                  // Close wants the role
	tooLarge                 // the next frame is not tiny
	lost                     // the connection is over: with an error, or after a goodbye without
)

func (l *link) init() {
	l.ready = func(fd uintptr) bool {
		l.looks++
		n, wait, err := sys.Read(fd, l.space())
		if wait {
			l.giveBack()
			return false
		}
		l.got, l.gotErr, l.gotAny = n, err, true
		return true
	}
	l.peek = func(fd uintptr) { l.ready(fd) }
	l.need = prefixLen
}

// receive fills m with the peer's next message.
func (l *link) receive(c *call, m *Message) (outcome, error) {
	for {
		ok, err := l.next(c, m)
		if err != nil || l.goodbye {
			return lost, err
		}
		if ok {
			return delivered, nil
		}
		if c.tiny && l.need > prefixLen+sealGrowth+typeLen+controlMax {
			return tooLarge, nil
		}
		if out, err := l.fill(c); out != proceed {
			if l.part.lent { // its memory goes back to the caller, and the frame goes on
				l.part.data, l.part.lent = append([]byte(nil), l.part.data...), false
			}
			return out, err
		}
	}
}

// next decodes the next user frame out of what has been read. It returns false
// when there is no complete one, and when a goodbye or an answer came first.
// After an error no byte is looked at any more.
func (l *link) next(c *call, m *Message) (bool, error) {
	if l.bad == nil && l.cipher.spent() {
		l.goodbye, l.bad = true, spentError() // what was accepted is sent
	}
	if l.bad != nil {
		return false, l.bad
	}
	ok, err := l.decode(c, m)
	l.bad = err
	return ok, err
}

func (l *link) decode(c *call, m *Message) (bool, error) {
	growth := 0
	if l.cipher != nil {
		growth = sealGrowth
	}
	for {
		var typ uint32
		var data []byte
		own := true // data is not in the receive buffer
		if !l.part.active {
			have := l.unread()
			if l.need = prefixLen; len(have) < l.need {
				return false, nil
			}
			n, err := parsePrefix(have, growth, l.limit)
			if err != nil {
				return false, err
			}
			if c.tiny && n > sealGrowth+typeLen+controlMax {
				l.need = prefixLen + n
				return false, nil
			}
			large := growth == 0 && n >= directSize
			if l.need = prefixLen + n; len(have) < l.need && !large {
				return false, nil
			}
			if len(have) < l.need {
				if l.need = prefixLen + typeLen; len(have) < l.need {
					return false, nil
				}
				l.beginPart(c, m, have, n-typeLen)
			} else {
				l.r += l.need
				l.largest = max(l.largest, l.need)
				if typ, data, own, err = l.open(c, m, have[prefixLen:l.need]); err != nil {
					return false, err
				}
			}
		}
		if l.part.active {
			if !l.fillPart() {
				return false, nil
			}
			typ, data = l.part.typ, l.part.data
			if c.reuse && !l.part.lent && cap(m.Data) >= len(data) {
				own = false
			}
			l.part = partial{}
		}
		if l.version == version3 || int(typ) < 0 { // version 2 has larger ones, where an int holds them
			if err := checkWireType(typ); err != nil {
				return false, err
			}
		}
		switch {
		case l.version == version3 && typ == controlType:
			if stop, err := l.control(data); stop || err != nil {
				return false, err
			}
		case typ == controlType || l.goodbye: // not for anybody
		default:
			if !own && c.reuse {
				data = append(m.Data[:0], data...)
			} else if !own {
				data = append(make([]byte, 0, len(data)), data...)
			}
			*m = Message{MsgType: int(typ), Data: data}
			return true, nil
		}
	}
}

// open turns the body of a frame into type and data. What is in plaintext, or
// sealed and small, comes as a view of the receive buffer; else it is opened
// straight into the memory that the caller gets, where it is own. Opening over
// itself costs a move, but an exact allocation is worth that to a small message.
func (l *link) open(c *call, m *Message, body []byte) (typ uint32, data []byte, own bool, err error) {
	plain := body
	if l.cipher != nil {
		dst, size := body[:0], len(body)-sealGrowth
		if len(body) > smallFrame || c.reuse && size > typeLen+controlMax {
			switch {
			case c.reuse && cap(m.Data) >= size:
				dst, own = m.Data[:0], true
			case !c.reuse || cap(m.Data) < size-typeLen:
				// Room for the type once more: whoever reuses this memory needs it.
				dst, own = make([]byte, 0, size+typeLen), true
			}
		}
		if plain, err = l.cipher.open(dst, body); err != nil {
			return 0, nil, false, err
		}
		if n := l.cipher.rekeys; n != l.rekeys.Load() {
			l.rekeys.Store(n)
		}
	}
	typ, data = binary.BigEndian.Uint32(plain), plain[typeLen:]
	if own && c.reuse { // or the room in front would be lost with each use
		data = plain[:copy(plain, data)]
	}
	return typ, data, own, nil
}

// beginPart takes a large plaintext frame out of the receive buffer while most
// of it is still to come, so that the rest is read into its own memory.
func (l *link) beginPart(c *call, m *Message, have []byte, n int) {
	l.part = partial{active: true, typ: binary.BigEndian.Uint32(have[prefixLen:]), n: n}
	l.r += prefixLen + typeLen
	if c.reuse && c.ctx == nil && cap(m.Data) >= n {
		l.part.data, l.part.lent = m.Data[:0], true
	} else {
		// What arrives decides how much memory is taken, not what is announced.
		l.part.data = make([]byte, 0, min(n, max(beginning, 4*len(have))))
	}
}

// fillPart moves what has been read into the part and says whether that is all of it.
func (l *link) fillPart() bool {
	p := &l.part
	take := min(p.n-len(p.data), len(l.unread()))
	p.data = append(p.data, l.unread()[:take]...)
	l.r += take
	return len(p.data) == p.n
}

// control obeys a control frame. It stops the decoding at a goodbye and at an answer.
func (l *link) control(data []byte) (stop bool, err error) {
	kind, err := parseControl(data)
	if err != nil {
		return false, err
	}
	switch kind {
	case kindPing:
		l.send.owe(data[1:])
	case kindGoodbye:
		first := !l.goodbye
		l.goodbye = true
		return first, nil
	case kindAnswer:
		if !l.goodbye || !l.asked || l.answered {
			return false, fail(ErrMalformed, nil, "an answer to a goodbye that nobody said")
		}
		l.answered, l.answer = true, data[1]
		return true, nil
	}
	return false, nil
}

func (l *link) unread() []byte {
	if l.in == nil {
		return nil
	}
	return l.in.b[l.r:]
}

// space is where the next read of the socket goes. The buffer grows with what
// has arrived, never on the word of a length prefix.
func (l *link) space() []byte {
	if p := &l.part; p.active {
		if len(p.data) == cap(p.data) {
			larger := make([]byte, len(p.data), min(p.n, 4*cap(p.data)))
			copy(larger, p.data)
			p.data = larger
		}
		return p.data[len(p.data):min(cap(p.data), p.n)]
	}
	if l.in == nil {
		l.in, l.r = l.pool.get(readSize), 0
	}
	if b := l.in; l.r == len(b.b) {
		b.b, l.r = b.b[:0], 0
	} else if l.r > 0 && l.r+l.need > cap(b.b) {
		b.b, l.r = b.b[:copy(b.b, b.b[l.r:])], 0
	}
	if b := l.in; cap(b.b) < readSize || len(b.b) == cap(b.b) {
		size := min(l.need, 2*cap(b.b))
		if l.largest >= l.need {
			size = l.need // as much has come before: no steps, no copies
		}
		l.in = l.pool.grow(b, max(size, readSize))
	}
	return l.in.b[len(l.in.b):cap(l.in.b)]
}

// giveBack returns the receive buffer before a wait: an idle connection holds
// none, and one that has begun a frame and stopped holds little.
func (l *link) giveBack() {
	have := l.unread()
	if l.in == nil || len(have) > beginning || len(have) > 0 && cap(l.in.b) < readSize {
		return
	}
	large := l.in
	if l.in, l.r = nil, 0; len(have) > 0 {
		l.in = l.pool.get(len(have))
		l.in.b = append(l.in.b, have...)
	}
	l.pool.put(large)
}

// fill waits until the socket has more, or until there is a reason to leave.
func (l *link) fill(c *call) (outcome, error) {
	looks := l.looks
	for woken := false; ; woken = true {
		target := c.until
		if f := l.fate.Load(); f != nil && (target.IsZero() || f.at.Before(target)) {
			target = f.at
		}
		if c.poll && l.raw == nil {
			target = time.Now().Add(time.Millisecond) // it cannot look without waiting
		}
		// Who interrupts sets the reason and then the deadline. So here the
		// deadline comes first, then a look at the reasons, then the read. A
		// deadline that is too early is left in place: it costs one more turn.
		if l.rearm || !target.IsZero() && (l.deadline.IsZero() || target.Before(l.deadline)) {
			l.conn.SetReadDeadline(target)
			l.deadline, l.rearm = target, false
		}
		if c.ctx != nil && c.stop == nil && !c.shared {
			c.stop = context.AfterFunc(c.ctx, l.interrupt)
		}
		if l.leave.Load() {
			return yielded, nil
		}
		if c.watch && l.wanted.Load() {
			return over, nil
		}
		if f := l.fate.Load(); f != nil && !time.Now().Before(f.at) {
			// A process that stood still may learn only now what came meanwhile.
			switch {
			case f.silent && l.heard.Load() != f.heard:
				l.fate.CompareAndSwap(f, nil)
				continue
			case f.silent && l.look():
				l.fate.CompareAndSwap(f, nil)
				return l.took()
			}
			return lost, f.err
		}
		if c.ctx != nil && c.ctx.Err() != nil {
			return over, contextError("read", c.ctx)
		}
		if woken && !c.until.IsZero() && !time.Now().Before(c.until) {
			if l.looks != looks || !l.look() {
				return over, ErrTimeout
			}
		} else if c.poll && l.raw != nil {
			if !l.look() {
				return over, ErrTimeout
			}
		} else {
			err := l.read()
			if errors.Is(err, os.ErrDeadlineExceeded) {
				if l.rearm = true; c.poll {
					return over, ErrTimeout
				}
				continue
			}
			if err != nil {
				return lost, l.endError(err)
			}
		}
		return l.took()
	}
}

// interrupt wakes the reader to look at the reasons.
func (l *link) interrupt() { l.conn.SetReadDeadline(past) }

// read has one read of the socket done, and waits for it.
func (l *link) read() error {
	l.gotAny = false
	if l.raw == nil {
		l.looks++
		for l.got, l.gotErr = 0, nil; l.got == 0 && l.gotErr == nil; {
			l.got, l.gotErr = l.conn.Read(l.space())
		}
		if l.got > 0 {
			l.gotErr = nil // it comes again
		}
		return l.gotErr
	}
	if l.busy > 0 {
		for end := time.Now().Add(l.busy); !l.look() && time.Now().Before(end); {
		}
	}
	if l.gotAny {
		return nil
	}
	l.space() // not as deep as in ready: the stack of an idle reader stays at 2 KiB
	err := l.raw.Read(l.ready)
	if err != nil {
		l.giveBack()
	}
	return err
}

// look reads what there is without waiting, also past a deadline.
func (l *link) look() bool {
	l.gotAny = false
	if l.raw != nil {
		l.raw.Control(l.peek)
	}
	return l.gotAny
}

// took accounts for what a read has brought.
func (l *link) took() (outcome, error) {
	if l.gotErr == nil && l.got == 0 {
		l.gotErr = io.EOF
	}
	if l.gotErr != nil {
		return lost, l.endError(l.gotErr)
	}
	if l.part.active {
		l.part.data = l.part.data[:len(l.part.data)+l.got]
	} else {
		l.in.b = l.in.b[:len(l.in.b)+l.got]
	}
	if l.heartbeat > 0 {
		l.hear()
	}
	return proceed, nil
}

// endError says how the stream ended.
func (l *link) endError(err error) error {
	if !isStreamEnd(err) {
		return fmt.Errorf("gipc: read: %w", plain(err))
	}
	if l.part.active || len(l.unread()) > 0 {
		return fail(ErrTruncated, nil, "the stream ended inside a frame")
	}
	switch {
	case l.version == version2:
		return nil
	case l.goodbye:
		return fail(ErrTruncated, nil, "the stream ended without an answer to the goodbye")
	}
	return fail(ErrTruncated, nil, "the stream ended without a goodbye: the peer died, or did not call Close")
}

// stats are the totals of this connection but for what was received, which the
// end counts.
func (l *link) stats() Stats {
	s := &l.send
	s.mu.Lock()
	defer s.mu.Unlock()
	total := Stats{Sent: s.sent, SentBytes: s.size, Rekeys: l.rekeys.Load()}
	if s.cipher != nil {
		total.Rekeys += s.cipher.rekeys
	}
	return total
}
