// Fuzz targets, with properties and not only crashes.

package gipc

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/fips140"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

// ---- Frames

// piecesOf are pieces of the sizes that a string of bytes says.
func piecesOf(sizes []byte) func() int {
	i := 0
	return func() int {
		if len(sizes) == 0 {
			return 1 << 20
		}
		i++
		return 1 + 7*int(sizes[(i-1)%len(sizes)])
	}
}

// plainFrames takes a plaintext stream apart, without the library: whole frames,
// up to the first that is malformed or not there to its end.
func plainFrames(stream []byte, limit int) (frames [][]byte, malformed bool) {
	for len(stream) >= 4 {
		n := uint64(binary.BigEndian.Uint32(stream))
		if n < 4 || n > uint64(limit)+4 {
			return frames, true
		}
		if uint64(len(stream)) < 4+n {
			return frames, false
		}
		frame := stream[:4+n]
		if typ, data := binary.BigEndian.Uint32(frame[4:]), frame[8:]; typ > 1<<31-1 || typ == 0 && !controlFits(data) {
			return frames, true
		}
		frames = append(frames, frame)
		stream = stream[4+n:]
	}
	return frames, false
}

func controlFits(data []byte) bool {
	switch {
	case len(data) == 0:
		return false
	case data[0] == 1 || data[0] == 2:
		return len(data) == 9
	case data[0] == 3:
		return len(data) == 2
	case data[0] == 4: // nobody has said goodbye here
		return false
	}
	return data[0] < 16
}

func FuzzFrame(f *testing.F) {
	for _, v := range loadVectors(f, "receive") {
		stream := v.bytes(f, "stream")
		if v.fields["traffic_secret"] != "-" {
			stream = appendFrame(nil, 1, stream)
		}
		f.Add(stream, int(v.number(f, "limit")), []byte{0, 3}, uint32(len(stream)*5))
	}
	f.Fuzz(func(t *testing.T, stream []byte, limit int, sizes []byte, bit uint32) {
		limit = min(max(limit, minMsgSize), maxMsgSize)
		frames, malformed := plainFrames(stream, limit)
		var want []Message
		goodbye := false
		for i, frame := range frames {
			typ, data := binary.BigEndian.Uint32(frame[4:]), frame[8:]
			if again := appendFrame(nil, typ, data); !bytes.Equal(again, frame) {
				t.Fatalf("%x becomes %x", frame, again)
			}
			if typ != controlType {
				want = append(want, Message{MsgType: int(typ), Data: data})
			} else if data[0] == kindGoodbye {
				goodbye, frames = true, frames[:i+1]
				break
			}
		}
		check := func(l *link, err error, got []Message) {
			t.Helper()
			if !sameMessages(got, want) || l.goodbye != goodbye {
				t.Fatalf("it delivers %v and goodbye %v, want %v and %v", got, l.goodbye, want, goodbye)
			}
			if !goodbye && (err != nil) != malformed || goodbye && err != nil || err != nil && !errors.Is(err, ErrMalformed) {
				t.Fatalf("the error is %v, malformed is %v", err, malformed)
			}
			if err == nil {
				return
			}
			m := &Message{MsgType: 77}
			if ok, again := l.next(&call{}, m); ok || again != err || m.MsgType != 77 || m.Data != nil {
				t.Fatalf("after an error: %v, %v, %v", ok, again, m)
			}
		}
		for _, c := range []*call{{}, {reuse: true}} {
			for _, piece := range []func() int{piecesOf(nil), piecesOf(sizes), pieces(max(1, len(stream)/100))} {
				l := newReceiver(nil, limit)
				got, read, err := drive(l, c, stream, piece)
				check(l, err, got)
				if held(l) > 2*readSize+8*read {
					t.Fatalf("%d bytes of memory for %d that came", held(l), read)
				}
			}
		}

		// Sealed, it is the same; and one bit that is changed in any frame ends
		// it there: nothing of that frame or behind it is delivered.
		if len(frames) > 50 {
			return
		}
		secret := bytes.Repeat([]byte{7}, hashLen)
		newState := func() *cipherState {
			c, err := newCipherState(secret)
			if err != nil {
				t.Fatal(err)
			}
			c.rekeyAt = 100
			return c
		}
		out := newState()
		var sealed []byte
		starts := []int{0}
		for _, frame := range frames {
			sealed = append(sealed, appendFrame(out, binary.BigEndian.Uint32(frame[4:]), frame[8:])...)
			starts = append(starts, len(sealed))
		}
		malformed = false
		l := newReceiver(newState(), limit)
		got, _, err := drive(l, &call{}, sealed, piecesOf(sizes))
		check(l, err, got)
		if len(sealed) == 0 {
			return
		}
		at := int(bit % uint32(8*len(sealed)))
		sealed[at/8] ^= 1 << (at % 8)
		hit, _ := slices.BinarySearch(starts, at/8+1)
		want = slices.DeleteFunc(plainMessages(frames[:hit-1]), func(m Message) bool { return m.MsgType == controlType })
		l = newReceiver(newState(), limit)
		got, _, err = drive(l, &call{}, sealed, piecesOf(sizes))
		if !sameMessages(got, want) || l.goodbye {
			t.Fatalf("frame %d of %d is changed, and it delivers %v", hit, len(frames), got)
		}
		if err != nil && !errors.Is(err, ErrNotAuthentic) && !errors.Is(err, ErrMalformed) || err == nil && at/8-starts[hit-1] >= prefixLen {
			t.Fatalf("frame %d of %d is changed in byte %d: %v", hit, len(frames), at/8-starts[hit-1], err)
		}
	})
}

func plainMessages(frames [][]byte) (all []Message) {
	for _, f := range frames {
		all = append(all, Message{MsgType: int(binary.BigEndian.Uint32(f[4:])), Data: f[8:]})
	}
	return all
}

// ---- Handshakes

// fuzzedTerms are the terms that a byte says.
func fuzzedTerms(b byte) *terms {
	t := &terms{name: "weather", limit: defaultMsgSize, encrypt: b&1 != 0}
	if b&2 != 0 {
		t.secret = bytes.Clone(vectorSecret)
	}
	if b&4 != 0 {
		t.limit = minMsgSize
	}
	return t
}

var vectorSecret = []byte("\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f")

// fuzzKeys are the private keys of most vectors.
func fuzzKeys(f *testing.F) (server, client *ecdh.PrivateKey) {
	for _, v := range loadVectors(f, "handshake") {
		if v.name == "handshake_secret" {
			if !bytes.Equal(v.bytes(f, "secret"), vectorSecret) {
				f.Fatal("handshake_secret has another secret")
			}
			return privateKey(f, v.fields["server_private"]), privateKey(f, v.fields["client_private"])
		}
	}
	f.Fatal("no vector handshake_secret")
	return nil, nil
}

// termsByte is the byte whose terms are those of a vector, as far as it can.
func termsByte(f *testing.F, v *vector, encryption, on string) (b byte) {
	if v.fields[encryption] == on {
		b = 1
	}
	if v.fields["secret"] != "-" {
		b |= 2
	}
	if n := v.fields["client_limit"]; n == "1024" {
		b |= 4
	}
	return b
}

// handshakeRun is what one run of a role has come to.
type handshakeRun struct {
	s      *session
	err    error
	wrote  []byte
	unread []byte
}

func (r *handshakeRun) same(o *handshakeRun) bool {
	if (r.err == nil) != (o.err == nil) || r.err != nil && r.err.Error() != o.err.Error() || !bytes.Equal(r.wrote, o.wrote) {
		return false
	}
	return r.s == nil && o.s == nil || r.s != nil && o.s != nil && r.s.limit == o.s.limit && bytes.Equal(r.unread, o.unread)
}

func runRole(input []byte, piece int, role func(io.ReadWriter) (*session, error)) *handshakeRun {
	p := &script{sends: bytes.Clone(input), end: io.EOF, chunk: piece}
	r := new(handshakeRun)
	r.s, r.err = role(p)
	r.wrote, r.unread = p.got.Bytes(), p.sends
	if r.s != nil {
		r.unread = slices.Concat(r.s.rest, p.sends)
	}
	return r
}

// checkRun has the properties that both roles share. behind is how much of the
// input an encrypted handshake that succeeds has in the points, limits and
// confirmations: any bit of it that changes has it fail.
func checkRun(t *testing.T, input []byte, size byte, bit uint32, role func(io.ReadWriter) (*session, error)) *handshakeRun {
	r := runRole(input, 0, role)
	if (r.s == nil) != (r.err != nil) {
		t.Fatalf("session %v with error %v", r.s, r.err)
	}
	if r.err != nil {
		checkText(t, r.err)
	}
	if o := runRole(input, 1+int(size), role); !r.same(o) {
		t.Fatalf("in one piece %v %x %v, in pieces of %d %v %x %v", r.s, r.wrote, r.err, 1+int(size), o.s, o.wrote, o.err)
	}
	if r.err == nil && r.s.in != nil {
		taken := len(input) - len(r.unread)
		changed := bytes.Clone(input)
		at := int(bit % uint32(8*taken))
		changed[at/8] ^= 1 << (at % 8)
		if o := runRole(changed, 0, role); o.err == nil {
			t.Fatalf("bit %d of %d bytes is changed, and it succeeds", at, taken)
		}
		if o := runRole(input[:taken-1], 0, role); !errors.Is(o.err, ErrTruncated) {
			t.Fatalf("without its last byte: %v", o.err)
		}
	}
	return r
}

func FuzzHandshakeServer(f *testing.F) {
	key, _ := fuzzKeys(f)
	for _, v := range loadVectors(f, "handshake") {
		f.Add(v.bytes(f, "client_hello"), termsByte(f, v, "encryption", "on")&3, byte(0), byte(0), uint32(0))
	}
	for _, v := range loadVectors(f, "server") {
		f.Add(v.bytes(f, "client_sends"), termsByte(f, v, "encryption", "on")&3, byte(v.number(f, "admit")), byte(1), uint32(900))
	}
	f.Fuzz(func(t *testing.T, input []byte, how, admit, size byte, bit uint32) {
		own := fuzzedTerms(how)
		hello, _, _ := newHello(version3, own.flags(), own.limit, withKey(key))
		admitted := 0
		r := checkRun(t, input, size, bit, func(rw io.ReadWriter) (*session, error) {
			return serverHandshake(rw, own, withKey(key), func() byte { admitted++; return admit })
		})
		said, ok := bytes.CutPrefix(r.wrote, hello)
		switch {
		case !ok:
			t.Fatalf("it writes %x", r.wrote)
		case r.err != nil && (len(said) > 1 || len(said) == 1 && (said[0] == 0 || len(input) == 0 || input[0] != 0)):
			t.Fatalf("it refuses with %x, to %x", said, input)
		case r.err != nil:
			return
		case admit != 0 || admitted == 0:
			t.Fatal("it was not admitted")
		}
		// What was taken is what a client's hello with this limit is.
		taken := input[:len(input)-len(r.unread)]
		head := append([]byte{0, own.flags()}, binary.BigEndian.AppendUint32(nil, uint32(r.s.limit))...)
		if own.flags() == 0 && !bytes.Equal(taken, head) || !bytes.HasPrefix(taken, head) || len(said) != map[bool]int{true: 1, false: 49}[own.flags() == 0] {
			t.Fatalf("from %x it takes limit %d, and writes %x", taken, r.s.limit, said)
		}
	})
}

func FuzzHandshakeClient(f *testing.F) {
	_, key := fuzzKeys(f)
	for _, v := range loadVectors(f, "handshake") {
		f.Add(slices.Concat(v.bytes(f, "server_hello"), v.bytes(f, "server_finish")), termsByte(f, v, "client_encryption", "required"), byte(0), uint32(0))
	}
	for _, v := range loadVectors(f, "client") {
		f.Add(v.bytes(f, "server_sends"), termsByte(f, v, "client_encryption", "required"), byte(1), uint32(900))
	}
	f.Fuzz(func(t *testing.T, input []byte, how, size byte, bit uint32) {
		own := fuzzedTerms(how)
		r := checkRun(t, input, size, bit, func(rw io.ReadWriter) (*session, error) {
			c, err := clientHello(rw, own, withKey(key))
			if err != nil {
				return nil, err
			}
			return c.finish()
		})
		switch n := len(r.wrote); {
		case n == 1 && (r.err == nil || r.wrote[0] == 0 || len(input) == 0 || input[0] == 0):
			t.Fatalf("it writes %x to %x", r.wrote, input)
		case n > 1 && !(n == 6 && own.flags() == 0 || n == 151) || n > 1 && r.wrote[0] != 0:
			t.Fatalf("its hello is %x", r.wrote)
		}
		if r.err != nil {
			return
		}
		flags := input[1]
		if flags&own.flags() != own.flags() || (flags&2 != 0) != (own.flags()&2 != 0) || r.s.limit != int(binary.BigEndian.Uint32(input[2:])) {
			t.Fatalf("with flags %d it follows a server with %x and limit %d", own.flags(), input[:6], r.s.limit)
		}
	})
}

// ---- A whole conversation

// speaker is one end of a session under way.
type speaker struct {
	e interface {
		application
		Queue(int, []byte) error
		Flush() error
		Stats() Stats
		ID() uint64
	}
	*account        // of what it sends
	honest   bool   // on the way nothing is changed
	last     string // the status that came last, before Closed
	err      error  // of closing
	most     int    // bytes that it still sends
	id       uint64
}

// talk does what the program says, with messages from 1 on.
func (c *speaker) talk(p *program) {
	for n := uint32(1); len(p.b) > 0 && n < 200; n++ {
		op := p.next()
		size := p.next()
		if op&4 != 0 {
			size <<= 8
		}
		if op&3 == 3 {
			<-time.After(max(time.Duration(size)*time.Millisecond, 1)) // none that is due: TestTimersInBubbles
			c.e.Flush()
			continue
		}
		if c.most -= 4 + size; c.most < 0 {
			return
		}
		c.put(c.e, n, size, op&3 == 2)
	}
}

// listen reads to the end what the peer sends.
func (c *speaker) listen(peer *speaker) {
	for {
		m, err := c.e.ReadTimed(time.Hour)
		if err != nil {
			return
		}
		if m.MsgType != internalType {
			peer.arrived(m)
			continue
		}
		if c.honest && (errors.Is(m.Err, ErrNotAuthentic) || errors.Is(m.Err, ErrMalformed)) {
			c.wrong(changed, "%s: as it was sent, and the loss is told as %v", c.who, m.Err)
		}
		if m.Status != Closed.String() {
			c.last = m.Status
		}
	}
}

// settle finds what was lost: a nil from closing means that all of the last
// connection has arrived, and in calm weather that everything has.
func (c *speaker) settle(calm bool) {
	if c.err == nil && c.last == Connected.String() { // else there was the notice that messages may be lost
		c.account.settle(func(id uint64) bool { return id == c.id || calm })
	}
}

func FuzzSession(f *testing.F) {
	for i, v := range loadVectors(f, "session") {
		f.Add(append([]byte{byte(i), byte(i / 3)}, []byte(strings.Join(v.lines, " "))...))
	}
	// Both close at the same moment, behind a connection that was cut.
	f.Add([]byte("\x10\x057(ose#002600000000 L!yLLLZ8009wri98.Yy 1l\"sed\"xk"))
	talk := []byte{0, 9, 2, 200, 4, 100, 6, 255, 1, 0, 3, 1, 2, 2, 2, 2, 3, 3, 0, 77}
	for mode := range byte(3) {
		for order := range byte(3) {
			for _, w := range []string{"\x10\x00\x00\x00", "\x04\x01\x02\x00", "\x10\x03\x00\x01\x01\x40", "\x09\x00\x05\x02\x0f\x21", "\x0c\x00\x00\x01\x00\x70"} {
				f.Add(slices.Concat([]byte{mode, order, 0, 20}, []byte(w), []byte("\x10\x00\x01\x00"), talk, talk))
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 500 {
			return
		}
		bubble(t, func(t *testing.T) { converse(t, &program{b}).fail(t) })
	})
}

// converse has two ends talk as the program says, where the first connections
// have bad weather, and counts what comes of it. The count of the tally is that
// of these connections, and its name is the kind of the conversation.
func converse(t *testing.T, p *program) *tally {
	server, client := ServerConfig{}, ClientConfig{Timeout: time.Minute}
	y := &tally{what: conversations[0]}
	mode := p.next() % 3
	if fips140.Enabled() {
		mode = 0 // its random source takes its entropy from a clock that runs, which a bubble's does not
	}
	switch mode {
	case 0:
		server.Encryption, client.Encryption = EncryptionOff, EncryptionOff
		y.what = conversations[1]
	case 2:
		server.Secret, client.Secret = vectorSecret, vectorSecret
	}
	order := p.next() % 3
	beats := p.next()&1 != 0
	if beats {
		server.Heartbeat, client.Heartbeat = time.Second, 2*time.Second
	}
	parting := p.next()
	var storms [2][2]*weather // of the first connections; later ones are calm
	for i := range storms {
		storms[i] = [2]*weather{p.weather(), p.weather()}
	}
	still, sure, honest := true, true, true
	pace := 1 << 16 // bytes that every road takes in one step
	for _, s := range storms {
		for _, w := range s {
			for _, n := range []int{w.room, w.chunk, w.piece} {
				if n > 0 {
					pace = min(pace, n)
				}
			}
			if beats { // or one frame takes longer than a peer may be silent
				w.room = max(w.room, batchSize)
			}
			fast := w.delay == 0 || w.room >= batchSize // what is under way arrives before closing gives up
			still = still && w.cut == 0 && !w.changes() && w.pause == 0 && fast
			honest = honest && !w.changes()
			if mode == 0 && w.changes() {
				sure = false // nothing tells
				y.what = conversations[2]
			}
		}
	}

	l := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
	server.Name, server.Listener = "n", l
	s, err := StartServer(&server)
	if err != nil {
		t.Fatal(err)
	}
	var kept keeper
	roads := 0
	client.Name, client.Dial = "n", func(ctx context.Context) (net.Conn, error) {
		var w [2]*weather
		if roads < len(storms) {
			w = storms[roads]
		}
		near, far := newRoad(w[0], w[1])
		select {
		case l.conns <- kept.keep(far):
			roads++
			return kept.keep(near), nil
		case <-l.done:
			far.Close()
		case <-ctx.Done():
			far.Close()
		}
		return nil, errors.New("no server")
	}
	defer func() {
		kept.check(y)
		y.count = int64(min(roads, len(storms)))
	}()
	c, err := StartClient(&client)
	if err != nil {
		if c != nil || still {
			y.wrong(besides, "no connection: %v, %v", c, err)
		}
		s.Close()
		return y
	}

	most := 2000 * pace // more steps than that take longer than a fuzzing engine waits
	ends := [2]*speaker{{e: s, most: most, account: y.account("server", 1)}, {e: c, most: most, account: y.account("client", 1)}}
	half := len(p.b) / 2
	programs := [2]*program{{p.b[:half]}, {p.b[half:]}}
	var readers, writers sync.WaitGroup
	for i, e := range ends {
		e.blind, e.honest = !sure, honest
		readers.Go(func() { e.listen(ends[1-i]) })
		writers.Go(func() { e.talk(programs[i]) })
	}
	if parting&1 == 0 {
		writers.Wait()
	} else {
		<-time.After(time.Duration(parting) * time.Millisecond) // in the middle of it
	}
	closeEnd := func(e *speaker) {
		start := time.Now()
		e.err = e.e.Close()
		e.id = e.e.ID() // not before: the next connection may come between
		y.took(time.Since(start), closeTime+2*drainTime, "closing the %s", e.who)
		if again := e.e.Close(); again != nil {
			y.wrong(besides, "closing again: %v", again)
		}
	}
	switch order {
	case 0:
		closeEnd(ends[0])
		closeEnd(ends[1])
	case 1:
		closeEnd(ends[1])
		closeEnd(ends[0])
	case 2:
		var both sync.WaitGroup
		for _, e := range ends {
			both.Go(func() { closeEnd(e) })
		}
		both.Wait()
	}
	writers.Wait()
	readers.Wait()
	ends[0].settle(false)
	ends[1].settle(still && order == 1)
	if still && order == 1 && parting&1 == 0 && ends[1].err != nil {
		y.wrong(besides, "in calm weather the client's closing returns %v", ends[1].err)
	}
	return y
}

// ---- Names

func FuzzName(f *testing.F) {
	for _, v := range loadVectors(f, "config") {
		f.Add(string(v.bytes(f, "name")), "weather")
	}
	for _, v := range loadVectors(f, "handshake") {
		f.Add(string(v.bytes(f, "name")), string(v.bytes(f, "name")))
	}
	for _, name := range []string{".", "..", "a/b", `a\b`, "a\x00", "weather\n"} {
		f.Add(name, name+" ")
	}
	f.Fuzz(func(t *testing.T, name, other string) {
		valid := len(name) >= 1 && len(name) <= 255 && name != "." && name != ".."
		for i := 0; i < len(name); { // by the bytes, not by the library's functions
			r, n := utf8.DecodeRuneInString(name[i:])
			valid = valid && !(r == utf8.RuneError && n == 1) && r != '/' && r != '\\' && r != 0
			i += n
		}
		server, serr := (&ServerConfig{Name: name, Listener: &pipeListener{}}).settings()
		client, cerr := (&ClientConfig{Name: name, Dial: refuseToDial}).settings()
		for _, err := range []error{serr, cerr} {
			if (err == nil) != valid || err != nil && !errors.Is(err, ErrConfig) {
				t.Fatalf("%q is valid: %v, and the error is %v", name, valid, err)
			}
		}
		if !valid {
			if server != nil || client != nil {
				t.Fatal("settings with an error")
			}
			return
		}
		if server.name != name || client.name != name {
			t.Fatalf("%q becomes %q and %q", name, server.name, client.name)
		}
		// No two pairs of name and hello are the same transcript.
		hello := []byte("hello")
		if len(other) <= 255 && (name == other) != bytes.Equal(transcript(name, hello, hello), transcript(other, hello, hello)) {
			t.Fatalf("%q and %q", name, other)
		}
		if bytes.Equal(transcript(name, hello, hello), transcript(name+"h", []byte("ello"), hello)) && len(name) < 255 {
			t.Fatalf("%q runs into what follows it", name)
		}
	})
}
