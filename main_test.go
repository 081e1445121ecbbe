// What every test shares: children that are this binary started again, and small
// helpers. The leak check is in internal/testutil.

package gipc

import (
	"bytes"
	"crypto/fips140"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"reflect"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/gipc/internal/testutil"
	"example.com/gipc/internal/transport"
)

// TestMain turns the binary into the child that GIPC_TEST_CHILD names, or runs
// the tests and then fails if they have left a goroutine behind.
func TestMain(m *testing.M) {
	if name := os.Getenv("GIPC_TEST_CHILD"); name != "" {
		f := testChildren[name]
		if f == nil {
			fmt.Fprintf(os.Stderr, "GIPC_TEST_CHILD: no child %q\n", name)
			os.Exit(2)
		}
		f()
		os.Exit(0)
	}
	code := testutil.RunTests(m)
	if !reflect.DeepEqual(*noBatch, batch{}) { // senders share it
		fmt.Fprintln(os.Stderr, "a sender has changed noBatch")
		code = 1
	}
	os.Exit(code)
}

// openFDs counts this process's descriptors. Tests that compare two counts may
// not run in parallel with others.
func openFDs(t testing.TB) int {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("descriptors are counted in /proc/self/fd, which this system does not have")
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// bubble runs f where the clock is not the real one. The approved random source
// of FIPS mode measures the real one when it starts, and panics there: what is
// tested in bubbles is tested in the other mode.
func bubble(t *testing.T, f func(*testing.T)) {
	t.Helper()
	if fips140.Enabled() {
		t.Skip("the random source of this mode does not start in a bubble")
	}
	synctest.Test(t, f)
}

// connFaults describes the faults of one direction of a faultPipe. Places are counted in
// bytes that were written, so it is the same however they are written; but for
// whole, which a sender without batches makes the same as one frame.
type connFaults struct {
	room  int           // bytes that are taken before a writer waits; 0 is a megabyte
	chunk int           // most bytes of one read; 0 is no limit
	delay time.Duration // from a write to its read
	cut   int           // both directions break when so many bytes were written; 0 is never
	reset bool          // and with it goes what is on its way, as when one side closes with unread input
	flip  int           // the bit that arrives changed, counted from 1; 0 is none
	twice span          // these bytes arrive twice
	swap  span          // these bytes arrive behind as many that were written after them
	whole bool          // twice and swap are of the first write from their place on
	stall int           // before this byte nothing arrives
	pause time.Duration // for so long; 0 is no stall
	piece int           // the stream comes in pieces of 1 to so many bytes; 0 is not
	seed  uint64        // of their sizes
}

// changes says whether other bytes arrive than were written.
func (w *connFaults) changes() bool { return w.flip > 0 || w.twice.n > 0 || w.swap.n > 0 }

// A span is n bytes from one place on; with n 0 it is none.
type span struct{ at, n int }

func (s span) holds(place int) bool { return place >= s.at && place < s.at+s.n }

// A roadEnd is one side of a connection in memory. It behaves as a socket does,
// also in that closing with unread input takes from the peer what is on its way.
type roadEnd struct {
	*faultPipe
	side int
}

type faultPipe struct {
	mu   sync.Mutex // guards what follows
	news sync.Cond
	cut  bool
	way  [2]direction // by who writes
}

type direction struct {
	connFaults
	parts         []part
	size, written int
	again, behind []byte  // held back for twice and swap
	due           int     // the place where behind is let go
	began         [2]bool // with whole: twice and swap have their write
	sizes         *rand.Rand
	left          int  // of the piece that is being read
	shut          bool // nothing is written any more
	closed        bool // by its writer, for reading too
	reads, writes time.Time
}

type part struct {
	at time.Time
	b  []byte
}

// newFaultPipe returns two ends; a is what happens to what the first writes.
func newFaultPipe(a, b *connFaults) (net.Conn, net.Conn) {
	r := new(faultPipe)
	r.news.L = &r.mu
	for i, w := range []*connFaults{a, b} {
		d := &r.way[i]
		if w != nil {
			d.connFaults = *w
		}
		if d.room == 0 {
			d.room = 1 << 20
		}
		if d.due = d.swap.at + 2*d.swap.n; d.whole {
			d.due = -1
		}
		if d.piece > 0 {
			d.sizes = rand.New(rand.NewPCG(d.seed, 0))
		}
	}
	return &roadEnd{r, 0}, &roadEnd{r, 1}
}

// withFaults puts a faultPipe in front of a connection: out is what happens to what is
// written to it, in that of what is read from it.
func withFaults(conn net.Conn, out, in *connFaults) net.Conn {
	near, far := newFaultPipe(out, in)
	both := make(chan struct{}, 2)
	carry := func(to, from net.Conn) {
		if _, err := io.Copy(to, from); err == nil {
			err = to.(interface{ CloseWrite() error }).CloseWrite()
			if err == nil {
				both <- struct{}{}
				return
			}
		}
		conn.Close() // broken one way is broken both ways
		far.Close()
		both <- struct{}{}
	}
	go carry(conn, far)
	go func() {
		carry(far, conn)
		<-both
		<-both
		conn.Close()
		far.Close()
	}()
	return near
}

func (e *roadEnd) Read(b []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	own, from := &e.way[e.side], &e.way[1-e.side]
	for {
		now := time.Now()
		switch {
		case own.closed:
			return 0, net.ErrClosed
		case !own.reads.IsZero() && !now.Before(own.reads):
			return 0, os.ErrDeadlineExceeded
		case len(from.parts) > 0 && !now.Before(from.parts[0].at):
			n := from.take(b)
			e.news.Broadcast()
			return n, nil
		case len(from.parts) > 0:
			e.wakeAt(from.parts[0].at)
		case e.cut:
			return 0, syscall.ECONNRESET
		case from.shut || from.closed:
			return 0, io.EOF
		}
		e.news.Wait()
	}
}

// take reads of the first part.
func (d *direction) take(b []byte) int {
	if d.chunk > 0 {
		b = b[:min(len(b), d.chunk)]
	}
	if d.sizes != nil {
		if d.left == 0 {
			d.left = 1 + d.sizes.IntN(d.piece)
		}
		b = b[:min(len(b), d.left)]
	}
	p := &d.parts[0]
	n := copy(b, p.b)
	if p.b = p.b[n:]; len(p.b) == 0 {
		d.parts = d.parts[1:]
	}
	d.size -= n
	if d.sizes != nil {
		d.left -= n
	}
	return n
}

func (e *roadEnd) Write(b []byte) (n int, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	own := &e.way[e.side]
	own.begin(len(b))
	for {
		switch room := own.room - own.size; {
		case own.closed:
			return n, net.ErrClosed
		case own.shut || e.cut || e.way[1-e.side].closed:
			return n, syscall.EPIPE
		case !own.writes.IsZero() && !time.Now().Before(own.writes):
			return n, os.ErrDeadlineExceeded
		case len(b) == 0:
			return n, nil
		case room > 0:
			k := min(room, len(b))
			if own.connFaults.cut > 0 {
				k = min(k, own.connFaults.cut-own.written)
			}
			own.put(bytes.Clone(b[:k]))
			n, b = n+k, b[k:]
			if own.connFaults.cut > 0 && own.written >= own.connFaults.cut {
				if e.cut = true; own.reset {
					for i := range e.way {
						e.way[i].parts, e.way[i].size = nil, 0
					}
				}
			}
			e.news.Broadcast()
			continue
		}
		e.news.Wait()
	}
}

// begin notes that a write of n bytes comes.
func (d *direction) begin(n int) {
	if !d.whole {
		return
	}
	for i, s := range [...]*span{&d.twice, &d.swap} {
		switch {
		case s.n == 0 || d.written < s.at:
		case !d.began[i]:
			d.began[i], *s = true, span{d.written, n}
		case s == &d.swap && d.due < 0:
			d.due = d.written + n
		}
	}
}

// put sends b, which is the pipe's own, on its way.
func (d *direction) put(b []byte) {
	if at := d.flip - 1 - 8*d.written; d.flip > 0 && at >= 0 && at < 8*len(b) {
		b[at/8] ^= 1 << (at % 8)
	}
	twice, swap := d.twice, d.swap
	if d.whole && !d.began[0] {
		twice = span{}
	}
	if d.whole && !d.began[1] {
		swap = span{}
	}
	for len(b) > 0 {
		k := len(b) // up to the next place where something begins or ends
		for _, edge := range [...]int{d.stall, twice.at, twice.at + twice.n, swap.at, swap.at + swap.n, d.due} {
			if edge > d.written {
				k = min(k, edge-d.written)
			}
		}
		at := time.Now().Add(d.delay)
		if d.written == d.stall {
			at = at.Add(d.pause)
		}
		if twice.holds(d.written) {
			d.again = append(d.again, b[:k]...)
		}
		if swap.holds(d.written) {
			d.behind = append(d.behind, b[:k]...)
		} else {
			d.parts = append(d.parts, part{at, b[:k:k]})
			d.size += k
		}
		d.written, b = d.written+k, b[k:]
		if d.written == d.due {
			d.release(&d.behind, at)
		}
		if d.written == twice.at+twice.n {
			d.release(&d.again, at)
		}
	}
}

func (d *direction) release(b *[]byte, at time.Time) {
	if len(*b) > 0 {
		d.parts = append(d.parts, part{at, *b})
		d.size += len(*b)
		*b = nil
	}
}

func (e *roadEnd) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	own, from := &e.way[e.side], &e.way[1-e.side]
	if own.closed {
		return net.ErrClosed
	}
	own.release(&own.behind, time.Now())
	own.closed = true
	if from.size > 0 {
		e.cut, own.parts, own.size = true, nil, 0
	}
	from.parts, from.size = nil, 0
	e.news.Broadcast()
	return nil
}

func (e *roadEnd) CloseWrite() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	own := &e.way[e.side]
	own.release(&own.behind, time.Now())
	own.shut = true
	e.news.Broadcast()
	return nil
}

// waiting is how many bytes the peer has written that were not read.
func (e *roadEnd) waiting() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.way[1-e.side].size
}

// wakeAt has those who wait look again.
func (e *roadEnd) wakeAt(t time.Time) {
	time.AfterFunc(max(time.Until(t), 1), func() { // none that is due: TestTimersInBubbles
		e.mu.Lock()
		defer e.mu.Unlock()
		e.news.Broadcast()
	})
}

func (e *roadEnd) deadline(of *time.Time, t time.Time) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if *of = t; !t.IsZero() {
		e.wakeAt(t)
	}
	e.news.Broadcast()
	return nil
}

func (e *roadEnd) SetReadDeadline(t time.Time) error {
	return e.deadline(&e.way[e.side].reads, t)
}

func (e *roadEnd) SetWriteDeadline(t time.Time) error {
	return e.deadline(&e.way[e.side].writes, t)
}

func (e *roadEnd) SetDeadline(t time.Time) error {
	e.SetReadDeadline(t)
	return e.SetWriteDeadline(t)
}

func (e *roadEnd) LocalAddr() net.Addr  { return pipeAddr{} }
func (e *roadEnd) RemoteAddr() net.Addr { return pipeAddr{} }

// ---- Where faults come from

// A program is bytes, of the fuzzer or of a seed, read one after the other;
// behind them are zeros.
type program struct{ b []byte }

func (p *program) next() int {
	if len(p.b) == 0 {
		return 0
	}
	b := p.b[0]
	p.b = p.b[1:]
	return int(b)
}

func (p *program) wide() int { return p.next()<<8 | p.next() }

// These are the bits and values of the byte that says what happens on a way.
const (
	thatCuts   = 1
	thatFlips  = 2
	thatResets = 4
	thatWhole  = 8
	thatTwice  = 4 << 5 // one of these four in the upper three bits, or none
	thatSwaps  = 5 << 5
	thatStalls = 6 << 5
	thatSplits = 7 << 5
)

func (p *program) faults() *connFaults {
	w := &connFaults{room: 1 << (p.next() % 17), chunk: p.next() * 16, delay: time.Duration(p.next()) * time.Millisecond}
	kind := p.next()
	if kind&thatCuts != 0 {
		w.cut, w.reset = 1+p.wide(), kind&thatResets != 0
	} else if kind&thatFlips != 0 {
		w.flip = 1 + p.wide()
	}
	w.whole = kind&thatWhole != 0
	switch kind &^ 31 {
	case thatTwice:
		w.twice = span{p.wide(), 1 + p.next()}
	case thatSwaps:
		w.swap = span{p.wide(), 1 + p.next()}
	case thatStalls:
		w.stall, w.pause = p.wide(), time.Duration(1+p.next())*time.Second
	case thatSplits:
		w.seed, w.piece = uint64(p.wide()), 1+p.next()
	}
	return w
}

// forecast is a program of faults from a source of numbers. Places near the
// beginning, where the handshake is, are as likely as all the others.
func forecast(r *rand.Rand) []byte {
	kind := r.IntN(256)
	b := []byte{byte(r.IntN(17)), byte(r.IntN(256) >> r.IntN(9)), byte(r.IntN(256) >> r.IntN(9)), byte(kind)}
	place := func() {
		far := r.IntN(1 << 16)
		b = binary.BigEndian.AppendUint16(b, uint16(far>>(8*r.IntN(2))))
	}
	if kind&(thatCuts|thatFlips) != 0 {
		place()
	}
	if kind >= thatTwice {
		place()
		b = append(b, byte(r.IntN(256)>>r.IntN(9)))
	}
	return b
}

// seedOf is the seed of a test: of GIPC_SEED, or a new one that is told when
// the test fails. test is what -run and the environment have to say beside it.
func seedOf(t testing.TB, test string) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv("GIPC_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 0, 64); err != nil {
			t.Fatalf("GIPC_SEED: %v: give a number, as a failed test has printed it", err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the same again: %s", again(seed, test))
		}
	})
	return seed
}

func again(seed uint64, test string) string { return fmt.Sprintf("GIPC_SEED=%d %s", seed, test) }

// dice are the numbers of a seed.
func dice(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

// ---- The faultPipe itself

func TestFaultConnIsLikeASocket(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := newFaultPipe(&connFaults{room: 3, chunk: 2, delay: time.Second, flip: 9}, nil)
		start := time.Now()
		done := make(chan error)
		go func() {
			_, err := a.Write([]byte("abcd"))
			done <- err
		}()
		got := make([]byte, 4)
		n, err := b.Read(got)
		if n != 2 || err != nil || string(got[:2]) != "ac" || time.Since(start) != time.Second {
			t.Errorf("%q, %v after %v", got[:n], err, time.Since(start))
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		b.SetReadDeadline(transport.Past)
		if _, err := b.Read(got); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a passed deadline: %v", err)
		}
		b.SetReadDeadline(time.Time{})
		a.(*roadEnd).CloseWrite()
		if rest, err := io.ReadAll(b); string(rest) != "cd" || err != nil {
			t.Errorf("%q, %v", rest, err)
		}
		b.Write([]byte("x"))
		if !isOpen(a) {
			t.Error("it is not open, and nobody has closed it")
		}
		a.Close() // with unread input
		if _, err := b.Read(got); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the end is %v", err)
		}
		b.Close()
		if isOpen(a) || isOpen(b) {
			t.Error("it is open, and was closed")
		}

		a, b = newFaultPipe(&connFaults{cut: 3}, nil)
		if n, err := a.Write([]byte("abcd")); n != 3 || !errors.Is(err, syscall.EPIPE) {
			t.Errorf("%d, %v", n, err)
		}
		if rest, err := io.ReadAll(b); string(rest) != "abc" || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%q, %v", rest, err)
		}
		a.Close()
		b.Close()
	})
}

// What each kind of fault does to the alphabet, in whatever pieces it is
// written, and in front of another connection, too.
func TestFaultConnFaults(t *testing.T) {
	const abc = "abcdefghijklmnopqrstuvwxyz"
	for name, c := range map[string]struct {
		connFaults
		want string
		end  error         // where it is not the end of the stream
		took time.Duration // until the end
	}{
		"calm":             {want: abc},
		"little room":      {connFaults: connFaults{room: 1}, want: abc},
		"single bytes":     {connFaults: connFaults{chunk: 1}, want: abc},
		"pieces":           {connFaults: connFaults{piece: 5, seed: 7}, want: abc},
		"delay":            {connFaults: connFaults{delay: time.Second}, want: abc, took: time.Second},
		"cut":              {connFaults: connFaults{cut: 5}, want: "abcde", end: syscall.ECONNRESET},
		"cut at once":      {connFaults: connFaults{cut: 1}, want: "a", end: syscall.ECONNRESET},
		"reset":            {connFaults: connFaults{cut: 5, reset: true, delay: time.Second}, want: "", end: syscall.ECONNRESET},
		"flip":             {connFaults: connFaults{flip: 1 + 8*2 + 1}, want: "abadefghijklmnopqrstuvwxyz"},
		"twice":            {connFaults: connFaults{twice: span{3, 4}}, want: "abcdefgdefghijklmnopqrstuvwxyz"},
		"twice from 0":     {connFaults: connFaults{twice: span{0, 2}}, want: "ababcdefghijklmnopqrstuvwxyz"},
		"twice, too short": {connFaults: connFaults{twice: span{20, 10}}, want: abc},
		"swap":             {connFaults: connFaults{swap: span{3, 4}}, want: "abchijkdefglmnopqrstuvwxyz"},
		"swap from 0":      {connFaults: connFaults{swap: span{0, 1}}, want: "bacdefghijklmnopqrstuvwxyz"},
		"swap, too short":  {connFaults: connFaults{swap: span{20, 5}}, want: "abcdefghijklmnopqrstzuvwxy"},
		"swap, room":       {connFaults: connFaults{swap: span{3, 4}, room: 1}, want: "abchijkdefglmnopqrstuvwxyz"},
		"stall":            {connFaults: connFaults{stall: 5, pause: time.Minute}, want: abc, took: time.Minute},
		"stall from 0":     {connFaults: connFaults{pause: time.Hour}, want: abc, took: time.Hour},
		"stall and delay":  {connFaults: connFaults{stall: 5, pause: time.Minute, delay: time.Second}, want: abc, took: time.Minute + time.Second},
		"all of it": {connFaults: connFaults{room: 3, chunk: 2, delay: time.Second, flip: 1, twice: span{1, 2}, swap: span{4, 2}, stall: 9, pause: time.Second, piece: 3, cut: 12},
			want: "`bcbcdghefijkl", end: syscall.ECONNRESET, took: -1},
	} {
		for _, each := range []int{1, 3, 26} {
			for _, front := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%d at a time/in front=%t", name, each, front), func(t *testing.T) {
					bubble(t, func(t *testing.T) {
						a, b := newFaultPipe(&c.connFaults, nil)
						if front {
							near, far := newFaultPipe(nil, nil)
							a, b = withFaults(near, &c.connFaults, nil), far
						}
						start := time.Now()
						go func() {
							for rest := []byte(abc); len(rest) > 0; rest = rest[min(each, len(rest)):] {
								a.Write(rest[:min(each, len(rest))])
							}
							a.(*roadEnd).CloseWrite()
						}()
						got, err := io.ReadAll(b)
						if front && c.end != nil { // what is broken in front of it is closed behind it
							if string(got) != c.want || err != nil && !errors.Is(err, c.end) {
								t.Errorf("%q, %v; want %q", got, err, c.want)
							}
						} else if string(got) != c.want || !errors.Is(err, c.end) {
							t.Errorf("%q, %v; want %q, %v", got, err, c.want, c.end)
						}
						if d := time.Since(start); c.took >= 0 && d != c.took {
							t.Errorf("after %v, want %v", d, c.took)
						}
						a.Close()
						b.Close()
					})
				})
			}
		}
	}
}

// Whole writes come twice, and one behind the next.
func TestFaultConnWholeWrites(t *testing.T) {
	for want, w := range map[string]*connFaults{
		"abcdefcdefghi": {whole: true, twice: span{1, 1}},
		"abghicdef":     {whole: true, swap: span{2, 1}},
		"cdefabghi":     {whole: true, swap: span{0, 1}, room: 1},
		"abcdefghi":     {whole: true, swap: span{5, 1}}, // behind the last
	} {
		near, far := newFaultPipe(w, nil)
		go func() {
			for _, text := range []string{"ab", "cdef", "ghi"} {
				near.Write([]byte(text))
			}
			near.(*roadEnd).CloseWrite()
		}()
		if got, err := io.ReadAll(far); string(got) != want || err != nil {
			t.Errorf("%+v: %q, %v; want %q", w, got, err, want)
		}
		near.Close()
		far.Close()
	}
}

// The other direction is another's, and a stall in one stalls no other.
func TestFaultConnDirections(t *testing.T) {
	bubble(t, func(t *testing.T) {
		near, far := newFaultPipe(nil, nil)
		a := withFaults(near, &connFaults{pause: time.Hour}, &connFaults{flip: 1})
		start := time.Now()
		got := make([]byte, 1)
		far.Write([]byte("a"))
		if _, err := io.ReadFull(a, got); err != nil || got[0] != '`' || time.Since(start) != 0 {
			t.Errorf("%q, %v after %v", got, err, time.Since(start))
		}
		a.Write([]byte("b"))
		if _, err := io.ReadFull(far, got); err != nil || got[0] != 'b' || time.Since(start) != time.Hour {
			t.Errorf("%q, %v after %v", got, err, time.Since(start))
		}
		a.Close()
		if _, err := far.Read(got); err != io.EOF {
			t.Errorf("closed, and the other side reads %v", err)
		}
		far.Close()
	})
}

// The same seed is the same faults, and the same faults give the same bytes
// in the same pieces, however they are written.
func TestFaultConnSeed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		seed := seedOf(t, "go test -run '^TestFaultConnSeed$' .")
		stream := make([]byte, 3000)
		for i := range stream {
			stream[i] = byte(i / 7)
		}
		kinds := map[int]bool{}
		for i := range uint64(100) {
			arrives := func(each int) (pieces [][]byte) {
				w := (&program{forecast(dice(seed + i))}).faults()
				if again := (&program{forecast(dice(seed + i))}).faults(); *again != *w {
					t.Fatalf("seed %d: %+v, and %+v", seed+i, w, again)
				}
				for i, is := range []bool{w.cut > 0, w.reset, w.flip > 0, w.twice.n > 0, w.swap.n > 0, w.pause > 0, w.piece > 0, w.chunk > 0, w.delay > 0} {
					kinds[i] = kinds[i] || is
				}
				w.room, w.whole = 0, false
				w.delay += time.Second // all is there when it is read
				a, b := newFaultPipe(w, nil)
				defer a.Close()
				defer b.Close()
				for rest := stream; len(rest) > 0; rest = rest[min(each, len(rest)):] {
					a.Write(rest[:min(each, len(rest))])
				}
				a.(*roadEnd).CloseWrite()
				<-time.After(time.Hour)
				for buf := make([]byte, len(stream)); ; {
					n, err := b.Read(buf)
					if err != nil {
						return append(pieces, []byte(err.Error()))
					}
					pieces = append(pieces, bytes.Clone(buf[:n]))
				}
			}
			whole := arrives(len(stream))
			for _, each := range []int{7, 777} {
				pieces := arrives(each)
				if got, want := bytes.Join(pieces, nil), bytes.Join(whole, nil); !bytes.Equal(got, want) {
					t.Fatalf("seed %d: written %d at a time %d other bytes arrive than of one write, %d", seed+i, each, len(got), len(want))
				}
			}
			for k, p := range arrives(len(stream)) {
				if !bytes.Equal(p, whole[k]) {
					t.Fatalf("seed %d: piece %d has %d bytes, and then %d", seed+i, k, len(whole[k]), len(p))
				}
			}
		}
		if len(kinds) != 9 {
			t.Fatal(kinds)
		}
		for i, seen := range kinds {
			if !seen {
				t.Errorf("of 100 seeds none has faults of kind %d", i)
			}
		}
	})
}

// A connection with a faultPipe in front is a connection: also one of the kernel's,
// and closing it ends both sides of it.
func TestFaultConnOnSocket(t *testing.T) {
	t.Parallel()
	l := bindAt(t, testutil.TempSocket(t))
	for _, faults := range []*connFaults{nil, {piece: 3}, {cut: 100}} {
		conn, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		far, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		near := withFaults(conn, faults, faults)
		far.SetDeadline(time.Now().Add(30 * time.Second))
		near.SetDeadline(time.Now().Add(30 * time.Second))
		sent := bytes.Repeat([]byte("x"), 1000)
		for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
			go way[0].Write(sent)
			got := make([]byte, len(sent))
			n, err := io.ReadFull(way[1], got)
			if faults != nil && faults.cut > 0 {
				if err == nil {
					t.Errorf("all of %d bytes, and it was cut", n)
				}
			} else if err != nil || !bytes.Equal(got, sent) {
				t.Errorf("%d bytes, %v", n, err)
			}
		}
		near.Close()
		if _, err := io.Copy(io.Discard, far); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Error(err)
		}
		far.Close()
		if _, err := conn.Write(sent); err == nil { // or until it has been closed
			eventually(t, "the end of the connection behind the pipe", func() bool {
				_, err := conn.Write(sent)
				return err != nil
			})
		}
	}
}
