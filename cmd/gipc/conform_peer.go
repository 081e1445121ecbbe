// What the server of a scenario sends after the handshake, and what it expects.

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"
)

// The types of messages that a client handles; CONFORM.md has their meaning.
const (
	typeClose    = 1000
	typeCall     = 1001
	typeGiveUp   = 1002
	typeBurst    = 1003
	typeTooLarge = 1004
	typeAgain    = 1005
	typeNothing  = 1006
	typeNoReply  = 1010
)

// raw writes bytes as they are.
func (p *peer) raw(b []byte) {
	if p.err == nil {
		p.out.write(b)
	}
}

// record writes one record with this plaintext, or the plaintext itself.
func (p *peer) record(plain []byte) { p.raw(p.sealed(plain)) }

// sealed returns a record with this plaintext, or the plaintext itself.
func (p *peer) sealed(plain []byte) []byte {
	if p.err != nil || p.seal == nil {
		return plain
	}
	b, err := p.seal.seal(plain)
	p.check(err)
	return b
}

// write writes frames, in as few records as possible. The client has to print
// those that are messages and requests.
func (p *peer) write(frames ...frame) {
	p.raw(p.encoded(frames...))
	for _, f := range frames {
		p.deliver(f)
	}
}

// deliver records that the client has to print f.
func (p *peer) deliver(f frame) {
	switch {
	case f.isRequest():
		p.delivered = append(p.delivered, fmt.Sprintf("request %d %d", f.msgType, len(f.data)))
	case !f.hasID && f.msgType != 0:
		p.delivered = append(p.delivered, fmt.Sprintf("message %d %d", f.msgType, len(f.data)))
	}
}

// encoded returns frames as they go on the wire.
func (p *peer) encoded(frames ...frame) []byte {
	if p.err != nil {
		return nil
	}
	var out, plain []byte
	flush := func() {
		if len(plain) > 0 {
			out = append(out, p.sealed(plain)...)
			plain = nil
		}
	}
	for _, f := range frames {
		head, data := f.head(), f.data
		if p.seal == nil {
			out = append(append(out, head...), data...)
			continue
		}
		size := len(head)
		if len(data) < largeData {
			size += len(data)
		}
		if len(plain)+size > maxPlain {
			flush()
		}
		plain = append(plain, head...)
		if len(data) < largeData {
			plain = append(plain, data...)
			continue
		}
		flush()
		out = append(out, p.sealed(data)...)
	}
	flush()
	return out
}

// request writes a request and returns its number.
func (p *peer) request(msgType uint32, data []byte) uint64 {
	p.calls++
	if p.err == nil {
		p.in.open[p.calls] = true
	}
	p.write(request(p.calls, msgType, data))
	return p.calls
}

// next returns the next frame of the client. It answers pings, and skips pongs
// that answer nothing and control frames that are to be ignored. The id is that of
// the sentence that the end of the stream violates.
func (p *peer) next(id string) frame {
	for p.err == nil {
		f, err := p.in.next(p.deadline)
		switch {
		case err != nil:
			p.failed(lost(err, id))
		case !f.isControl():
			return f
		case f.data[0] == kindPing && !p.closing:
			p.raw(p.encoded(control(append([]byte{kindPong}, f.data[1:]...)...)))
		case f.data[0] >= kindPong && f.data[0] <= kindCloseAck:
			return f
		}
	}
	return frame{}
}

// lost returns what an end of the stream means if a frame is expected.
func lost(err error, id string) error {
	if v := (*violation)(nil); errors.As(err, &v) {
		return err
	}
	switch {
	case errors.Is(err, errSilent):
		return violate(id, "the client sent nothing more, and another frame was expected")
	case errors.Is(err, errEndBoundary), errors.Is(err, errEndInside), errors.Is(err, errReset):
		return violate(id, "%v, and another frame was expected", err)
	}
	return err
}

// expect expects this message, request or reply next. The id is that of the
// sentence that another one violates.
func (p *peer) expect(want frame, id string) {
	got := p.next(id)
	if p.err != nil {
		return
	}
	switch {
	case got.msgType != want.msgType, got.hasID != want.hasID, got.id != want.id, len(got.data) != len(want.data):
		p.fail(id, "the client sent %v, and %v was expected", got, want)
	case !bytes.Equal(got.data, want.data):
		p.fail(id, "the data of %v is not the data that was expected", got)
	}
}

// expectControl expects a control frame of this kind next, and returns its data.
func (p *peer) expectControl(kind byte, id string) []byte {
	got := p.next(id)
	if p.err == nil && (!got.isControl() || got.data[0] != kind) {
		p.fail(id, "the client sent %v, and a control frame of kind %d was expected", got, kind)
	}
	if p.err != nil {
		return make([]byte, 9)
	}
	return got.data
}

// echo writes messages, and expects them back.
func (p *peer) echo(frames ...frame) {
	p.write(frames...)
	for _, f := range frames {
		p.expect(f, p.scenario.ids[0])
	}
}

// closeClient has the client close, and confirms.
func (p *peer) closeClient() { p.closeBy(typeClose) }

// again has the client close this connection and open another one.
func (p *peer) again() { p.closeBy(typeAgain) }

// closeBy has the client send a message, and then close. A client that has sent
// nothing need not wait for the close-ack for longer than a second [G-6], which is
// short on a busy machine.
func (p *peer) closeBy(msgType uint32) {
	p.echo(message(7, []byte("before the close")))
	p.write(message(msgType, nil))
	p.confirmClose(0)
}

// confirmClose expects the client's close, answers it as a server does, and
// expects the close-ack and the end of the stream.
func (p *peer) confirmClose(ack byte) {
	p.expectControl(kindClose, "G-1")
	p.closing = true
	p.write(control(kindClose, 0), control(kindCloseAck, ack))
	p.expectAck(0)
	p.ends("G-3")
}

// expectAck expects a close-ack with this byte.
func (p *peer) expectAck(want byte) {
	data := p.expectControl(kindCloseAck, "G-3")
	if p.err == nil && data[1] != want {
		p.fail("G-5", "the client's close-ack is %d, and %d was expected", data[1], want)
	}
}

// ends expects the client to end its stream, and ends the server's.
func (p *peer) ends(id string) {
	if p.err != nil {
		return
	}
	f, err := p.in.next(p.soon())
	v := (*violation)(nil)
	switch {
	case err == nil:
		p.fail(id, "the client sent %v, and the end of its stream was expected", f)
	case errors.As(err, &v):
		p.failed(err)
	case errors.Is(err, errSilent):
		p.fail("G-11", "the client did not end its stream within %v", patience)
	case errors.Is(err, errReset):
		p.fail("G-11", "the client reset the connection, instead of shutting down its sending half first")
	case errors.Is(err, errEndInside):
		p.fail("F-11", "%v", err)
	case !errors.Is(err, errEndBoundary):
		p.failed(err)
	}
	p.end()
}

// endsAfterFault expects the client to end the connection without writing
// anything more, because of what it has received. The id is that of the sentence
// that anything else violates.
func (p *peer) endsAfterFault(id string) { p.endsSilently(id, "G-10") }

// endsSilently is endsAfterFault with the id that a close violates.
func (p *peer) endsSilently(id, closeID string) {
	if p.err != nil {
		return
	}
	f, err := p.in.next(p.soon())
	switch {
	case err == nil && f.isControl() && f.data[0] == kindClose:
		p.fail(closeID, "the client wrote a close after the fault")
	case err == nil:
		p.fail(id, "the client sent %v after the fault", f)
	case errors.Is(err, errSilent):
		p.fail(id, "the client did not end the connection within %v", patience)
	case errors.Is(err, errReset):
		p.fail("G-11", "the client reset the connection, instead of shutting down its sending half first")
	case !errors.Is(err, errEndBoundary):
		p.failed(err)
	}
	p.end()
}

// isQuiet expects that nothing arrives for a moment.
func (p *peer) isQuiet(id string) {
	if p.err != nil {
		return
	}
	if b, err := p.in.read(1, time.Now().Add(200*time.Millisecond), false); err == nil {
		p.fail(id, "the client wrote a byte, %d, which it had to delay", b[0])
	} else if !errors.Is(err, errSilent) {
		p.fail(id, "%v", err)
	}
}

// end shuts down the server's sending half.
func (p *peer) end() {
	if p.out != nil {
		p.out.end()
	}
}

// abort closes the connection at once.
func (p *peer) abort() {
	if p.conn == nil {
		return
	}
	p.out.fail()
	p.conn.Close()
	<-p.out.done
}

// numbers returns uint32s in a row, as the data of commands has them.
func numbers(list ...uint32) []byte {
	var b []byte
	for _, n := range list {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return b
}

// filled returns size bytes that depend on i.
func filled(i, size int) []byte {
	b := make([]byte, size)
	for j := range b {
		b[j] = byte(i*31 + j*7)
	}
	return b
}

// burst returns the messages that a client sends for message 1003.
func burst(count, size int) []frame {
	var frames []frame
	for i := range count {
		frames = append(frames, message(1, bytes.Repeat([]byte{byte(i)}, size)))
	}
	return frames
}

// expectInAnyOrder expects these frames in any order.
func (p *peer) expectInAnyOrder(want []frame, id string) {
	want = slices.Clone(want)
	for len(want) > 0 && p.err == nil {
		got := p.next(id)
		i := slices.IndexFunc(want, func(f frame) bool {
			return f.msgType == got.msgType && f.hasID == got.hasID && f.id == got.id && bytes.Equal(f.data, got.data)
		})
		if p.err == nil && i < 0 {
			p.fail(id, "the client sent %v, which was not expected", got)
		}
		if i >= 0 {
			want = slices.Delete(want, i, i+1)
		}
	}
}
