// Fuzz targets, with properties and not only crashes.

package gipc

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/fips140"
	"crypto/mlkem"
	"encoding/binary"
	"errors"
	"fmt"
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

// A parsed is what the frames of a stream are, without the library.
type parsed struct {
	frames  []frame
	failure error // ErrMalformed or ErrNotAuthentic
	after   int   // bytes of the stream with which the failure is due
	inside  bool  // it ends inside a frame
}

// head takes the head of a frame apart: n is the size of the head and size that of
// the data. Until need bytes are there, more cannot be judged.
func head(b []byte, limit int) (n, size, need int, ok bool) {
	if len(b) < 4 {
		return 0, 0, 4, true
	}
	length := uint64(binary.BigEndian.Uint32(b))
	if length < 4 || length > uint64(limit)+12 {
		return 0, 0, 4, false
	}
	if len(b) < 8 {
		return 0, 0, 8, true
	}
	n = 8
	if b[4]&0x80 != 0 {
		n = 16
	}
	if bytes.Equal(b[4:8], []byte{0x80, 0, 0, 0}) || length < uint64(n-4) || length > uint64(n-4+limit) {
		return 0, 0, 8, false
	}
	return n, int(length) - (n - 4), n, true
}

// complete makes a frame of a head and its data.
func complete(head, data []byte) (frame, bool) {
	typ := binary.BigEndian.Uint32(head[4:])
	f := frame{frameHeader{frameType: typ, dataSize: len(data)}, data}
	if typ > 1<<31 {
		f.id = binary.BigEndian.Uint64(head[8:])
	}
	return f, typ != 0 || controlFits(data)
}

// idCounts says whether the id of a head, if it has one, is well-formed behind so
// many requests, and counts it.
func idCounts(head []byte, requests *uint64) bool {
	return binary.BigEndian.Uint32(head[4:]) < 1<<31 || idFits(binary.BigEndian.Uint64(head[8:]), requests)
}

// controlFits says whether the data of a control frame is well-formed.
func controlFits(data []byte) bool {
	switch {
	case len(data) == 0:
		return false
	case data[0] == 1 || data[0] == 2:
		return len(data) == 9
	case data[0] == 3 || data[0] == 4:
		return len(data) == 2
	}
	return data[0] < 16
}

// parsePlain takes a plaintext stream apart.
func parsePlain(stream []byte, limit int) (p parsed) {
	at, requests := 0, uint64(0)
	for {
		b := stream[at:]
		n, size, need, ok := head(b, limit)
		if !ok {
			p.failure, p.after = ErrMalformed, at+need
			return p
		}
		if len(b) < need || len(b) < n+size {
			p.inside = len(b) > 0
			return p
		}
		f, ok := complete(b[:n], b[n:n+size])
		at += n + size
		if !ok || !idCounts(b[:n], &requests) {
			p.failure, p.after = ErrMalformed, at
			return p
		}
		p.frames = append(p.frames, f)
	}
}

// parseRecords takes a stream of records apart. The cipher alone is the library's.
func parseRecords(c *recordCipher, stream []byte, limit int) (p parsed) {
	at, requests := 0, uint64(0)
	var due []byte // the head whose data is due
	for {
		b := stream[at:]
		if len(b) < 4 {
			p.inside = due != nil || len(b) > 0
			return p
		}
		least, most := 8, 1<<16
		if due != nil {
			_, size, _, _ := head(due, limit)
			least, most = size, size
		}
		length := uint64(binary.BigEndian.Uint32(b))
		if length < uint64(28+least) || length > uint64(28+most) {
			p.failure, p.after = ErrMalformed, at+4
			return p
		}
		if uint64(len(b)) < 4+length {
			p.inside = true
			return p
		}
		at += 4 + int(length)
		p.after = at
		plain, err := c.open(nil, b[4:4+length])
		if err != nil {
			p.failure = ErrNotAuthentic
			return p
		}
		if due != nil {
			f, ok := complete(due, plain)
			if !ok {
				p.failure = ErrMalformed
				return p
			}
			p.frames, due = append(p.frames, f), nil
			continue
		}
		for len(plain) > 0 && due == nil {
			n, size, need, ok := head(plain, limit)
			large := size >= 16384
			switch {
			case !ok || len(plain) < need, large && len(plain) > n, !large && len(plain) < n+size, !idCounts(plain[:n], &requests):
				p.failure = ErrMalformed
				return p
			case large:
				due = plain
				continue
			}
			f, ok := complete(plain[:n], plain[n:n+size])
			if !ok {
				p.failure = ErrMalformed
				return p
			}
			p.frames, plain = append(p.frames, f), plain[n+size:]
		}
	}
}

// A feeding is a way to give a stream to a decoder and to take its frames.
type feeding struct {
	piece   func() int
	reuse   bool // the memory of one message is used again
	stops   bool // calls end, and others begin, wherever more bytes are needed
	release bool // memory is given back before every wait, and reading pauses after every frame
	room    int  // of every first look at a frame; 0 is unlimited
}

var feedMemory = new(bufferPool)

// feed returns what the decoder makes of a stream, and with how many bytes it is
// done. It fails the test if the decoder has more memory than what came is worth.
func (w feeding) feed(t *testing.T, d *decoder, stream []byte) (p parsed) {
	t.Helper()
	defer d.releaseMemory()
	to := destination{reuse: w.reuse, maxSize: unlimited}
	if w.reuse {
		to.callerMemory = make([]byte, 0, 20_000)
	}
	for read := 0; ; {
		try := to
		if w.room > 0 {
			try.maxSize = w.room
		}
		f, step, err := nextFrame(d, try)
		if err == nil && step == needRoom {
			if w.room == 0 {
				t.Fatal("there is room for everything")
			}
			pauseReading(d)
			f, step, err = nextFrame(d, to)
		} else if err == nil && step == frameReady && f.frameType != 0 && !isReply(f) && len(f.data)+messageOverhead > try.maxSize {
			t.Fatalf("%d bytes of data in a room of %d", len(f.data), try.maxSize)
		}
		if err != nil {
			p.failure, p.after = err, read
			if g, _, again := nextFrame(d, to); again != err || g.data != nil {
				t.Fatalf("after the error %v: %v, %v", err, g, again)
			}
			return p
		}
		if step == frameReady {
			p.frames = append(p.frames, frame{f.frameHeader, bytes.Clone(f.data)})
			clear(f.data) // it is the caller's
			if w.release {
				pauseReading(d)
			}
			continue
		}
		if step != needBytes {
			t.Fatalf("with room for everything, the step is %d", step)
		}
		p.inside = d.isInsideFrame()
		if len(stream) == 0 {
			return p
		}
		if w.stops && (d.largePending && d.largeFrame.inCallerMemory || read < 1000) {
			d.releaseCallerMemory()
			spoil(to.callerMemory)
			to.callerMemory = make([]byte, 0, cap(to.callerMemory))
		}
		if w.release {
			d.Release()
		}
		space := d.Space()
		if len(space) == 0 {
			t.Fatal("no space for the next read")
		}
		if m := heldBy(d); m > 2*readSize+8*read {
			t.Fatalf("%d bytes of memory for %d that came", m, read)
		}
		n := copy(space, stream[:min(max(w.piece(), 1), len(stream))])
		d.Received(n)
		read, stream = read+n, stream[n:]
	}
}

// pauseReading does what a reader does that stops, and has others use the memory that it
// gives back.
func pauseReading(d *decoder) {
	d.releaseUnused()
	var got []*buffer
	for size := 1 << smallestClass; size <= readSize; size *= 2 {
		b := d.buffers.get(size)
		spoil(b.data)
		got = append(got, b)
	}
	for _, b := range got {
		d.buffers.put(b)
	}
}

// spoil overwrites all of memory, as its next owner does. It copies, because under the race
// detector a loop over the bytes took two thirds of the time of all seeds.
func spoil(memory []byte) {
	garbage := strings.Repeat("\xee", 1<<12)
	for rest := memory[:cap(memory)]; len(rest) > 0; {
		rest = rest[copy(rest, garbage):]
	}
}

// heldBy is the memory that a decoder keeps for what has arrived, in bytes.
func heldBy(d *decoder) (n int) {
	if d.input != nil {
		n = cap(d.input.data)
	}
	if !d.largePending || d.largeFrame.inCallerMemory {
		return n
	}
	return n + cap(d.largeFrame.data)
}

// same says whether two parsings agree; the library's may fail a bit later where
// pieces are larger than needed.
func (p parsed) same(got parsed, exact bool) bool {
	switch {
	case !slices.EqualFunc(p.frames, got.frames, func(a, b frame) bool { return a.frameHeader == b.frameHeader && bytes.Equal(a.data, b.data) }):
		return false
	case p.failure == nil:
		return got.failure == nil && p.inside == got.inside
	}
	return errors.Is(got.failure, p.failure) && (got.after == p.after || !exact && got.after > p.after)
}

func (p parsed) String() string {
	var b strings.Builder
	for _, f := range p.frames {
		fmt.Fprintf(&b, "%d:%d bytes ", f.frameType, len(f.data))
	}
	fmt.Fprintf(&b, "failure %v after %d, inside %v", p.failure, p.after, p.inside)
	return b.String()
}

// sameHowever has a stream decoded in many ways, and wants one result.
func sameHowever(t *testing.T, newDecoder func() *decoder, stream []byte, want parsed, sizes []byte) {
	t.Helper()
	some := func() func() int {
		next := piecesOf(sizes)
		return func() int { return max(next(), len(stream)/2000) }
	}
	ways := []feeding{
		{piece: piecesOf(nil)},
		{piece: piecesOf(nil), reuse: true, room: 100},
		{piece: some(), stops: true, release: true},
		{piece: some(), reuse: true, stops: true, room: 20_000},
		{piece: some(), reuse: true, release: true},
		{piece: func() int { return max(1, len(stream)/100) }, room: messageOverhead},
	}
	if len(stream) <= 4096 {
		one := func() int { return 1 }
		ways = append(ways, feeding{piece: one}, feeding{piece: one, reuse: true, stops: true, release: true})
	}
	for i, w := range ways {
		if got := w.feed(t, newDecoder(), stream); !want.same(got, i >= 6) {
			t.Fatalf("way %d of %d bytes: %v\nwant %v", i, len(stream), got, want)
		}
	}
}

// fuzzCipher is one end of a direction whose key changes often.
func fuzzCipher() *recordCipher {
	c := newRecordCipher(bytes.Repeat([]byte{7}, hashLen))
	c.rekeyLimit = 100
	return c
}

// fuzzConnection is a connection that receives by hand. What it owes its peer is
// not written.
func fuzzConnection(cipher *recordCipher, limit int) *connection {
	s := newSender(nil, limit, feedMemory, nil, new(sync.WaitGroup), func(error) {})
	s.sendBroken = true
	return &connection{closeHandshake: new(closeHandshake), delivery: new(delivery), sender: s, decoder: &decoder{cipher: cipher, maxDataSize: limit, buffers: feedMemory}}
}

// receiveAll gives a stream to a connection in pieces, and returns its messages.
// closed is true if the peer's close has come.
func receiveAll(c *connection, reuse bool, stream []byte, piece func() int) (got []Message, closed bool, err error) {
	call := readCall{destination: destination{reuse: reuse, maxSize: unlimited}}
	m := new(Message)
	for {
		switch err := c.decodeMessage(&call, m); {
		case err == nil:
			got = append(got, Message{MsgType: m.MsgType, Data: bytes.Clone(m.Data), request: m.request})
			continue
		case err == errPeerClosed:
			return got, true, nil
		case err != errNeedBytes:
			return got, false, err
		case len(stream) == 0:
			return got, false, nil
		}
		n := copy(c.decoder.Space(), stream[:min(max(piece(), 1), len(stream))])
		c.decoder.Received(n)
		stream = stream[n:]
	}
}

func isReply(f frame) bool { return f.frameType > 1<<31 && f.id>>63 == 1 }

func FuzzFrame(f *testing.F) {
	for _, v := range loadVectors(f, "receive") {
		stream := v.bytes(f, "stream")
		if secret := v.bytes(f, "traffic_secret"); secret != nil {
			// What it seals, frames and data alike, and the stream itself as data.
			opened := v.opened(f, &chain{secret: secret, seq: v.number(f, "sequence"), rekeyAt: v.number(f, "rekey_at")}, stream)
			stream = append(opened, plainFrame(1, stream)...)
		}
		f.Add(stream, int(v.number(f, "limit")), []byte{0, 3}, uint32(len(stream)*5))
	}
	f.Fuzz(func(t *testing.T, stream []byte, limit int, sizes []byte, bit uint32) {
		limit = min(max(limit, minMsgSize), maxMsgSize)
		all := parsePlain(stream, limit)
		sameHowever(t, func() *decoder { return &decoder{maxDataSize: limit, buffers: feedMemory} }, stream, all, sizes)

		// What the peer's close and close-acks mean: behind the close nothing comes,
		// and before it no close-ack may.
		frames, failure := all.frames, all.failure
		closes := false
		for i, f := range frames {
			if f.frameType != controlType {
				continue
			} else if f.data[0] == kindCloseAck {
				frames, failure = frames[:i], ErrMalformed
				break
			} else if f.data[0] == kindClose {
				frames, failure, closes = frames[:i+1], nil, true
				break
			}
		}
		for _, f := range frames {
			h := appendFrameHeader(nil, f.frameHeader)
			if again, _, err := parseFrameHeader(h, limit); err != nil || again != f.frameHeader || !bytes.Equal(slices.Concat(h, f.data), plainOf(f)) {
				t.Fatalf("%v becomes %x, %v, %v", f.frameHeader, h, again, err)
			}
		}
		check := func(c *connection, reuse bool, stream []byte, piece func() int) {
			t.Helper()
			defer c.decoder.releaseMemory()
			got, closed, err := receiveAll(c, reuse, stream, piece)
			if want := messagesOf(frames); !sameMessages(got, want) || closed != closes {
				t.Fatalf("it delivers %v and closes: %v, want %v and %v", got, closed, want, closes)
			}
			if (err != nil) != (failure != nil) || failure != nil && !errors.Is(err, failure) {
				t.Fatalf("the error is %v, want %v", err, failure)
			}
		}
		check(fuzzConnection(nil, limit), false, stream, piecesOf(sizes))
		check(fuzzConnection(nil, limit), true, stream, piecesOf(nil))

		// Sealed, it is the same; and one bit that is changed in any frame ends
		// it there: nothing of that frame or behind it is delivered.
		if len(frames) > 50 {
			return
		}
		out := fuzzCipher()
		var sealed []byte
		starts := []int{0}
		for _, f := range frames {
			sealed = append(sealed, sealedFrame(out, f)...)
			starts = append(starts, len(sealed))
		}
		failure = nil
		check(fuzzConnection(fuzzCipher(), limit), false, sealed, piecesOf(sizes))
		if len(sealed) == 0 {
			return
		}
		at := int(bit % uint32(8*len(sealed)))
		sealed[at/8] ^= 1 << (at % 8)
		hit, _ := slices.BinarySearch(starts, at/8+1)
		offset := at/8 - starts[hit-1]
		inLength := offset < 4 || len(frames[hit-1].data) >= 16384 && inSecondLength(frames[hit-1], offset)
		c := fuzzConnection(fuzzCipher(), limit)
		defer c.decoder.releaseMemory()
		got, closed, err := receiveAll(c, false, sealed, piecesOf(sizes))
		if !sameMessages(got, messagesOf(frames[:hit-1])) || closed {
			t.Fatalf("frame %d of %d is changed, and it delivers %v", hit, len(frames), got)
		}
		if err != nil && !errors.Is(err, ErrNotAuthentic) && !(inLength && errors.Is(err, ErrMalformed)) || err == nil && !inLength {
			t.Fatalf("frame %d of %d is changed in byte %d: %v", hit, len(frames), offset, err)
		}
	})
}

// inSecondLength says whether an offset in the two records of a large frame is in
// the length of the second.
func inSecondLength(f frame, offset int) bool {
	second := 4 + 28 + len(plainOf(f)) - len(f.data)
	return offset >= second && offset < second+4
}

// plainOf is a frame in plaintext.
func plainOf(f frame) []byte {
	if f.frameType > 1<<31 {
		return plainFrame(f.frameType, append(binary.BigEndian.AppendUint64(nil, f.id), f.data...))
	}
	return plainFrame(f.frameType, f.data)
}

// sealedFrame is a frame in a record of its own, or in two if it is large.
func sealedFrame(c *recordCipher, f frame) []byte {
	plain := plainOf(f)
	if len(f.data) < 16384 {
		return record(c, plain...)
	}
	return append(record(c, plain[:len(plain)-len(f.data)]...), record(c, f.data...)...)
}

// messagesOf are the frames that an application gets which waits for no reply.
func messagesOf(frames []frame) (all []Message) {
	for _, f := range frames {
		switch {
		case f.frameType == controlType || isReply(f):
		case f.frameType > 1<<31:
			all = append(all, Message{MsgType: int(f.frameType - 1<<31), Data: f.data, request: &request{requestNumber: f.id}})
		default:
			all = append(all, Message{MsgType: int(f.frameType), Data: f.data})
		}
	}
	return all
}

// ---- Records

// fuzzedRecords makes a stream of records as a program says, most of them good.
func fuzzedRecords(c *recordCipher, p *program) (stream []byte) {
	var plain []byte
	requests := uint64(0)
	for len(p.b) > 0 && len(stream)+len(plain) < 200_000 {
		op, n := p.next(), p.next()
		data := bytes.Repeat([]byte{byte(n)}, n)
		switch op % 16 {
		default:
			plain = append(plain, plainFrame(uint32(op), data)...)
		case 0: // the record ends
			stream, plain = append(stream, record(c, plain...)...), nil
		case 1: // a control frame
			plain = append(plain, plainFrame(0, []byte{byte(n), 1, 2, 3, 4, 5, 6, 7, 8}[:1+op/16%9])...)
		case 2, 3: // a large frame, and sometimes one that is not quite
			data = bytes.Repeat([]byte{byte(n)}, 16384+300*n)
			if op >= 192 {
				data = data[:16383+n%3]
			}
			typ := uint32(2 + op/64)
			if op%16 == 3 {
				typ, data[0] = 0, byte(n%20)
			}
			f := plainFrame(typ, data)
			stream = append(stream, record(c, append(plain, f[:8]...)...)...)
			stream, plain = append(stream, record(c, data...)...), nil
		case 4: // a large frame with other data than its head says
			f := plainFrame(2, make([]byte, 16384+n))
			stream = append(stream, record(c, append(plain, f[:8]...)...)...)
			stream, plain = append(stream, record(c, make([]byte, 16384+n-1+op/64)...)...), nil
		case 5: // a large frame in one record
			plain = append(plain, plainFrame(2, make([]byte, 16384+n))...)
		case 6: // as much as a record takes, or a byte more
			if fill := 1<<16 - 8 + op/128 - len(plain); fill > 0 {
				for fill >= 16384 {
					plain = append(plain, plainFrame(3, make([]byte, 8000))...)
					fill -= 8008
				}
				plain = append(plain, plainFrame(3, make([]byte, fill))...)
			}
		case 7: // any bytes in a record
			m := min(n%32, len(p.b))
			plain, p.b = append(plain, p.b[:m]...), p.b[m:]
		case 8: // any bytes in the stream
			m := min(n%32, len(p.b))
			stream, p.b = append(stream, p.b[:m]...), p.b[m:]
		case 9: // a head with an id
			plain = append(plain, 0, 0, byte(op/16<<4), byte(n), 0x80, 0, 0, byte(n%2), 0, 0, 0, 0, 0, 0, 0, 1)
		case 11: // a request, mostly the next
			if n%8 != 7 {
				requests++
			}
			plain = append(plain, plainOf(frame{frameHeader{frameType: 1<<31 + 1 + uint32(op), id: requests}, data})...)
		case 13: // a reply, rarely to 0
			plain = append(plain, plainOf(frame{frameHeader{frameType: 1<<31 + 1, id: 1<<63 + uint64(n)}, data})...)
		case 14, 15: // a large request or reply, whose number may be wrong
			id := 1<<63 + uint64(n)
			if op%16 == 14 {
				if n%8 != 7 {
					requests++
				}
				id = requests
			}
			data = bytes.Repeat([]byte{byte(n)}, 16384+n)
			f := plainOf(frame{frameHeader{frameType: 1<<31 + 2, id: id}, data})
			stream = append(stream, record(c, append(plain, f[:16]...)...)...)
			stream, plain = append(stream, record(c, data...)...), nil
		case 10: // a head alone
			plain = append(plain, 0, byte(op/128), byte(op), byte(n), 0, 0, 0, 1)
		}
	}
	if len(plain) > 0 {
		stream = append(stream, record(c, plain...)...)
	}
	return stream
}

// Any stream, in plaintext and of records, gives one result however it is cut into
// reads: the frames before the fault, the fault as soon as its bytes are there,
// and no more memory than what came is worth.
func FuzzRecords(f *testing.F) {
	for _, v := range loadVectors(f, "receive") {
		f.Add([]byte{2, 5, 3, 9, 0, 0, 7, 31}, v.bytes(f, "stream"), int(v.number(f, "limit")), []byte{0, 3}, uint32(0))
	}
	for _, program := range [][]byte{
		{2, 1, 2, 2, 0, 0, 18, 0},
		{17, 0, 1 + 8*16, 1, 1 + 16, 3, 1 + 16, 4, 0, 0, 17, 200},
		{11, 200, 2, 0, 2, 255, 12, 3},
		{3, 5, 3, 25, 3, 1},
		{194, 0, 194, 1, 194, 2},
		{4, 9}, {68, 9}, {132, 9},
		{12, 1, 5, 0}, {12, 1, 5, 0, 0, 0},
		{6, 0, 0, 0, 12, 8}, {134, 0, 0, 0},
		{12, 4, 0, 0, 7, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9},
		{12, 4, 0, 0, 8, 9, 0, 0, 0, 40, 5, 6, 7, 8, 9},
		{9, 12, 0, 0}, {12, 0, 9 + 64, 13, 0, 0}, {9 + 64, 12}, {9 + 64, 13},
		{11, 1, 11, 2, 12, 3, 13, 5, 11, 3, 0, 0, 27, 4}, {11, 1, 11, 7, 12, 1}, {11, 7}, {13, 0, 12, 1}, {12, 2, 13, 9, 0, 0, 13, 9},
		{11, 1, 14, 2, 11, 3, 15, 4, 12, 1}, {12, 1, 14, 7, 12, 1}, {12, 1, 15, 0, 12, 1}, {14, 1, 14, 2, 14, 15, 12, 1},
		{10 + 64, 4, 0, 0, 12, 20_000 % 256}, {0, 0}, {12, 1, 0, 0, 0, 0, 12, 1},
	} {
		for _, bit := range []uint32{0, 1000} {
			f.Add(program, []byte{}, 1<<20, []byte{0, 9, 255, 255}, bit)
		}
		f.Add(program, []byte{0, 0, 0, 5, 0, 0, 0, 1, 9}, 1024, []byte{}, uint32(0))
	}
	f.Fuzz(func(t *testing.T, what, behind []byte, limit int, sizes []byte, bit uint32) {
		if len(what) > 200 || len(behind) > 1<<17 {
			return
		}
		limit = min(max(limit, minMsgSize), maxMsgSize)
		sameHowever(t, func() *decoder { return &decoder{maxDataSize: limit, buffers: feedMemory} }, behind, parsePlain(behind, limit), sizes)

		stream := append(fuzzedRecords(fuzzCipher(), &program{what}), behind...)
		if bit != 0 && len(stream) > 0 {
			at := int(bit % uint32(8*len(stream)))
			stream[at/8] ^= 1 << (at % 8)
		}
		want := parseRecords(fuzzCipher(), stream, limit)
		sameHowever(t, func() *decoder { return &decoder{cipher: fuzzCipher(), maxDataSize: limit, buffers: feedMemory} }, stream, want, sizes)
	})
}

// ---- Handshakes

// fuzzedTerms are the terms that a byte says.
func fuzzedTerms(b byte) *handshakeConfig {
	t := &handshakeConfig{name: "weather", maxDataSize: defaultMsgSize, encrypt: b&1 != 0}
	if b&2 != 0 {
		t.secret = bytes.Clone(vectorSecret)
	}
	if b&4 != 0 {
		t.maxDataSize = minMsgSize
	}
	t.hybrid = b&8 != 0
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
func termsByte(f *testing.F, v *vector, encryption, on, kem string) (b byte) {
	if v.fields[encryption] == on {
		b = 1
	}
	if v.fields["secret"] != "-" {
		b |= 2
	}
	if n := v.fields["client_limit"]; n == "1024" {
		b |= 4
	}
	if v.fields[kem] != "-" {
		b |= 8
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
	return r.s == nil && o.s == nil || r.s != nil && o.s != nil && r.s.peerMaxDataSize == o.s.peerMaxDataSize && bytes.Equal(r.unread, o.unread)
}

func runRole(input []byte, piece int, role func(io.ReadWriter) (*session, error)) *handshakeRun {
	p := &script{sends: bytes.Clone(input), end: io.EOF, chunk: piece}
	r := new(handshakeRun)
	r.s, r.err = role(p)
	r.wrote, r.unread = p.got.Bytes(), p.sends
	if r.s != nil {
		r.unread = slices.Concat(r.s.trailingBytes, p.sends)
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
	if r.err == nil && r.s.receiveCipher != nil {
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
		f.Add(v.bytes(f, "client_hello"), termsByte(f, v, "encryption", "on", "kem_seed")&^4, byte(0), byte(0), uint32(0))
	}
	for _, v := range loadVectors(f, "server") {
		f.Add(v.bytes(f, "client_sends"), termsByte(f, v, "encryption", "on", "kem_seed")&^4, byte(v.number(f, "admit")), byte(1), uint32(900))
	}
	f.Fuzz(func(t *testing.T, input []byte, how, admit, size byte, bit uint32) {
		own := fuzzedTerms(how)
		admitted := 0
		side := serverSide{newKey: withKey(key), newKEMKey: fixedKEM, admit: func() byte { admitted++; return admit }, compute: workNow}
		hello, _, _ := side.newHello(own)
		r := checkRun(t, input, size, bit, func(rw io.ReadWriter) (*session, error) {
			return serverHandshake(rw, own, side)
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
		flags := own.offeredFlags()
		if !r.s.security.Hybrid {
			flags &^= flagHybrid
		}
		head := newHelloHead(0, flags, r.s.peerMaxDataSize)
		if own.requiredFlags() == 0 && !bytes.Equal(taken, head) || !bytes.HasPrefix(taken, head) || len(said) != map[bool]int{true: 1, false: 49}[own.requiredFlags() == 0] {
			t.Fatalf("from %x it takes limit %d, and writes %x", taken, r.s.peerMaxDataSize, said)
		}
	})
}

func FuzzHandshakeClient(f *testing.F) {
	_, key := fuzzKeys(f)
	for _, v := range loadVectors(f, "handshake") {
		f.Add(slices.Concat(v.bytes(f, "server_hello"), v.bytes(f, "server_finish")), termsByte(f, v, "client_encryption", "required", "kem_randomness"), byte(0), uint32(0))
	}
	for _, v := range loadVectors(f, "client") {
		f.Add(v.bytes(f, "server_sends"), termsByte(f, v, "client_encryption", "required", "kem_randomness"), byte(1), uint32(900))
	}
	f.Fuzz(func(t *testing.T, input []byte, how, size byte, bit uint32) {
		own := fuzzedTerms(how)
		r := checkRun(t, input, size, bit, func(rw io.ReadWriter) (*session, error) {
			c, err := clientHello(rw, own, clientSide{newKey: withKey(key), encapsulate: fixedCiphertext})
			if err != nil {
				return nil, err
			}
			return c.readFinish()
		})
		switch n := len(r.wrote); {
		case n == 1 && (r.err == nil || r.wrote[0] == 0 || len(input) == 0 || input[0] == 0):
			t.Fatalf("it writes %x to %x", r.wrote, input)
		case n > 1 && !(n == 6 && own.requiredFlags() == 0 || n == 151 || n == 151+mlkem.CiphertextSize1024 && own.hybrid) || n > 1 && r.wrote[0] != 0:
			t.Fatalf("its hello is %x", r.wrote)
		}
		if r.err != nil {
			return
		}
		flags := input[1]
		if flags&own.requiredFlags() != own.requiredFlags() || (flags&2 != 0) != (own.requiredFlags()&2 != 0) || r.s.peerMaxDataSize != int(binary.BigEndian.Uint32(input[2:])) {
			t.Fatalf("with flags %d it follows a server with %x and limit %d", own.requiredFlags(), input[:6], r.s.peerMaxDataSize)
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
		ID() uint64
	}
	*account        // of what it sends
	honest   bool   // on the way nothing is changed
	last     string // the status that came last, before Closed
	err      error  // of closing
	most     int    // bytes that it still sends
	id       uint64
	unsent   []uint32 // messages that were certainly not sent
}

// talk does what the program says, with messages from 1 on.
func (c *speaker) talk(p *program) {
	for n := uint32(1); len(p.b) > 0 && n < 200; n++ {
		op := p.next()
		size := p.next()
		if op&4 != 0 {
			size <<= 8
		}
		asks := op&11 == 11
		if op&3 == 3 && !asks {
			<-time.After(max(time.Duration(size)*time.Millisecond, 1)) // none that is due: TestTimersInBubbles
			c.e.Flush()
			continue
		}
		if c.most -= 4 + size; c.most < 0 {
			return
		}
		var to interface {
			Write(int, []byte) error
			Queue(int, []byte) error
			ID() uint64
		} = c.e
		if asks {
			to = (*asker)(c)
		}
		switch err := c.put(to, n, size, op&3 == 2); {
		case asks && errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, ErrUnconfirmed), errors.Is(err, ErrNotConnected), errors.Is(err, ErrClosed) && !errors.Is(err, ErrUnconfirmed):
			c.unsent = append(c.unsent, n)
		case err != nil && !errors.Is(err, ErrUnconfirmed):
			c.wrong(besides, "%s: message %d: %v", c.who, n, err)
		}
	}
}

// An asker sends requests instead of messages, and wants them back in the replies.
type asker speaker

func (a *asker) ID() uint64 { return a.e.ID() }

func (a *asker) Queue(msgType int, data []byte) error { return a.Write(msgType, data) }

func (a *asker) Write(msgType int, data []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+len(data)%3)*time.Second)
	defer cancel()
	reply, err := a.e.Call(ctx, msgType, data)
	if err == nil && !a.blind && (reply.MsgType != msgType || !bytes.Equal(reply.Data, data) || reply.IsRequest()) {
		a.wrong(changed, "%s: the reply to %d:%d bytes is %d:%d bytes", a.who, msgType, len(data), reply.MsgType, len(reply.Data))
	}
	return err
}

// listen reads to the end what the peer sends, and answers its requests.
func (c *speaker) listen(peer *speaker) {
	var replies sync.WaitGroup
	defer replies.Wait()
	for {
		m, err := c.e.ReadTimed(time.Hour)
		if err != nil {
			return
		}
		if m.MsgType != statusType {
			peer.arrived(m)
			if m.IsRequest() {
				replies.Go(func() {
					err := m.Reply(m.MsgType, m.Data)
					// One of which nothing was sent may be repeated.
					if again := m.Reply(m.MsgType, m.Data); !errors.Is(err, ErrNotConnected) && !errors.Is(again, ErrReplied) {
						c.wrong(besides, "%s: after %v, a second reply: %v", c.who, err, again)
					}
				})
			}
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
// connection has arrived, and without faults that everything has. And it finds
// what has come though it was not sent.
func (c *speaker) settle(calm bool) {
	c.mu.Lock()
	for _, n := range c.unsent {
		if !c.blind && c.hasLocked(n) {
			c.wrong(besides, "%s: message %d has come, and was reported as certainly not sent", c.who, n)
		}
	}
	c.mu.Unlock()
	if c.err != nil && !errors.Is(c.err, ErrUnconfirmed) && !errors.Is(c.err, ErrNotConnected) {
		c.wrong(besides, "%s: closing: %v", c.who, c.err)
	}
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
	talk := []byte{0, 9, 2, 200, 4, 100, 6, 255, 1, 0, 3, 1, 2, 2, 2, 2, 3, 3, 0, 77, 11, 5, 2, 30, 15, 70, 11, 0}
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
// have faults, and counts what comes of it. The count of the tally is that
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
	var storms [2][2]*connFaults // of the first connections; later ones are calm
	for i := range storms {
		storms[i] = [2]*connFaults{p.faults(), p.faults()}
	}
	still, sure, honest := true, true, true
	pace := 1 << 16 // bytes that every pipe takes in one step
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
	pipes := 0
	client.Name, client.Dial = "n", func(ctx context.Context) (net.Conn, error) {
		var w [2]*connFaults
		if pipes < len(storms) {
			w = storms[pipes]
		}
		near, far := newFaultPipe(w[0], w[1])
		select {
		case l.conns <- kept.keep(far):
			pipes++
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
		y.count = int64(min(pipes, len(storms)))
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
		y.took(time.Since(start), closeTimeout+2*drainTimeout, "closing the %s", e.who)
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
		y.wrong(besides, "without faults the client's closing returns %v", ends[1].err)
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

// nextFrame returns what the decoder's next sets.
func nextFrame(d *decoder, to destination) (f frame, step decodeStep, err error) {
	step, err = d.nextFrame(&to, &f)
	return f, step, err
}
