// Scenarios in which the server sends what the protocol forbids.

package main

import (
	"encoding/binary"
	"slices"
)

// hostile returns a server that sends a message, which the client has to
// deliver, and then fault, of which it must not deliver anything.
func hostile(fault func(*peer)) func(*stage) {
	return after(func(p *peer) {
		p.write(message(typeNothing, []byte("before")))
		fault(p)
		p.endsAfterFault(p.scenario.ids[0])
	})
}

// junk follows a fault. A client that interprets it has not stopped at the fault,
// and one that closes its socket without reading it resets the connection.
func (p *peer) junk() {
	p.raw(p.encoded(message(typeNothing, []byte("behind the fault"))))
	p.raw(make([]byte, 300_000))
}

func hostileRecordScenarios() []*scenario {
	malformed, forged := []int{23}, []int{24}
	return []*scenario{
		{name: "hostile-tag", summary: "sends a record with a wrong tag", ids: ids("R-3", "F-9"), exits: forged, play: hostile(forgeTag(0xff, 1))},
		{name: "hostile-tag-last", summary: "sends a tag that is wrong in its last bit", ids: ids("R-5"), exits: forged, play: hostile(forgeTag(1, 1))},
		{name: "hostile-replay", summary: "sends a record twice", ids: ids("R-1"), exits: forged, play: hostile(replay)},
		{name: "hostile-lost", summary: "leaves a record out", ids: ids("R-1"), exits: forged, play: hostile(leaveOut)},
		{name: "hostile-reflected", summary: "sends the client's own record back", ids: ids("K-5"), exits: forged, play: hostile(reflect)},
		{name: "hostile-large-tag", summary: "sends a large message whose data is not authentic", ids: ids("R-10"), exits: forged, play: hostile(forgeLarge)},
		{name: "hostile-record-short", summary: "sends a record of length 35: the length alone", ids: ids("R-6"), exits: malformed, play: hostile(rawLength(35))},
		{name: "hostile-record-long", summary: "sends a record of length 65,565: the length alone", ids: ids("R-6"), exits: malformed, play: hostile(rawLength(maxPlain + recordOverhead + 1))},
		{name: "hostile-record-data", summary: "sends a record of data of another length than the data", ids: ids("R-6", "R-9"), exits: malformed, play: hostile(wrongData)},
		{name: "hostile-record-half", summary: "sends a record that ends inside a frame", ids: ids("R-7"), exits: malformed, play: hostile(halfFrame)},
		{name: "hostile-record-behind", summary: "continues a record after the head of a large frame", ids: ids("R-7"), exits: malformed, play: hostile(behindHead)},
	}
}

// forgeTag changes bits of a byte of a tag, counted from the end.
func forgeTag(bits byte, fromEnd int) func(*peer) {
	return func(p *peer) {
		b := p.encoded(message(typeNothing, []byte("forged")))
		if p.err == nil {
			b[len(b)-fromEnd] ^= bits
		}
		p.raw(b)
		p.junk()
	}
}

func replay(p *peer) {
	b := p.encoded(message(typeNothing, []byte("twice")))
	p.raw(slices.Concat(b, b))
	p.deliver(message(typeNothing, []byte("twice")))
}

func leaveOut(p *peer) {
	p.encoded(message(typeNothing, []byte("left out")))
	p.raw(p.encoded(message(typeNothing, []byte("behind it"))))
}

// reflect sends a record under the client's key.
func reflect(p *peer) {
	if p.err != nil {
		return
	}
	d, err := newDirection(p.keys.clientTraffic, rekeyBytes)
	p.check(err)
	if p.err != nil {
		return
	}
	d.sequence = p.seal.sequence
	b, err := d.seal(message(typeNothing, []byte("reflected")).bytes())
	p.check(err)
	p.raw(b)
}

func forgeLarge(p *peer) {
	f := message(typeNothing, filled(1, largeData))
	p.record(f.head())
	b := p.sealed(f.data)
	if p.err == nil {
		b[100] ^= 1
	}
	p.raw(b)
	p.junk()
}

// rawLength sends the length of a record or of a frame, and nothing else.
func rawLength(n uint32) func(*peer) {
	return func(p *peer) { p.raw(binary.BigEndian.AppendUint32(nil, n)) }
}

func wrongData(p *peer) {
	f := message(typeNothing, filled(1, largeData))
	p.record(f.head())
	p.raw(binary.BigEndian.AppendUint32(nil, uint32(recordOverhead+largeData-1)))
}

func halfFrame(p *peer) {
	whole, half := message(typeNothing, []byte("whole")), message(typeNothing, []byte("half of this"))
	p.record(append(whole.bytes(), half.bytes()[:15]...))
	p.deliver(whole)
}

func behindHead(p *peer) {
	whole, large := message(typeNothing, []byte("whole")), message(typeNothing, filled(1, largeData))
	p.record(slices.Concat(whole.bytes(), large.bytes()[:9]))
	p.deliver(whole)
}

func hostileFrameScenarios() []*scenario {
	malformed, plain := []int{23}, setup{plain: true, follow: true}
	one := func(f ...frame) func(*stage) {
		return hostile(func(p *peer) { p.raw(p.encoded(f...)) })
	}
	plaintext := func(b []byte) func(*stage) { return hostile(func(p *peer) { p.record(b) }) }
	critical := control(16, 1, 2, 3)
	return []*scenario{
		{name: "hostile-frame-short", summary: "sends a frame of length 3", ids: ids("F-1"), exits: malformed, play: plaintext(slices.Concat(numbers(3, 1), make([]byte, 4)))},
		{name: "hostile-frame-short-plain", summary: "the same in plaintext: the length alone", ids: ids("F-1", "F-4"), exits: malformed, setup: plain, play: hostile(rawLength(3))},
		{name: "hostile-frame-id-short", summary: "sends a frame with an id and of length 11", ids: ids("F-1"), exits: malformed, play: plaintext(slices.Concat(numbers(11, idBit|1), make([]byte, 7)))},
		{name: "hostile-frame-long", summary: "sends the head of a message over the limit", ids: ids("F-2", "F-4"), exits: malformed, play: plaintext(numbers(4+defaultLimit+1, 1))},
		{name: "hostile-frame-long-plain", summary: "the same in plaintext: the length alone", ids: ids("F-2", "F-4"), exits: malformed, setup: plain, play: hostile(rawLength(12 + defaultLimit + 1))},
		{name: "hostile-frame-type", summary: "sends type 2147483648", ids: ids("F-6"), exits: malformed, play: plaintext(slices.Concat(numbers(12, idBit), numbers(0, 1)))},
		{name: "hostile-request-zero", summary: "sends request 0", ids: ids("Q-1"), exits: malformed, play: one(request(0, 1, nil))},
		{name: "hostile-request-gap", summary: "sends request 2 first", ids: ids("Q-1"), exits: malformed, play: one(request(2, 1, nil))},
		{name: "hostile-request-twice", summary: "sends request 1 twice", ids: ids("Q-1"), exits: malformed, play: hostile(requestTwice)},
		{name: "hostile-reply-zero", summary: "sends a reply to request 0", ids: ids("Q-1"), exits: malformed, play: one(reply(0, 1, nil))},
		{name: "hostile-kind-critical", summary: "sends a control frame of kind 16", ids: ids("C-3"), exits: malformed, play: one(critical)},
		{name: "hostile-kind-critical-plain", summary: "the same in plaintext", ids: ids("C-3"), exits: malformed, setup: plain, play: one(critical)},
		{name: "hostile-control-empty", summary: "sends a control frame without data", ids: ids("C-1"), exits: malformed, play: one(control())},
		{name: "hostile-ping-short", summary: "sends a ping with 7 bytes", ids: ids("C-1"), exits: malformed, play: one(control(kindPing, 1, 2, 3, 4, 5, 6, 7))},
		{name: "hostile-close-long", summary: "sends a close with 2 bytes", ids: ids("C-1"), exits: malformed, play: one(control(kindClose, 0, 0))},
		{name: "hostile-ack", summary: "sends a close-ack although neither side has closed", ids: ids("G-7"), exits: malformed, play: one(control(kindCloseAck, 0))},
	}
}

// requestTwice sends a request that is not answered, and then its number again.
func requestTwice(p *peer) {
	first := request(1, typeNoReply, nil)
	p.write(first)
	p.raw(p.encoded(first))
}

func truncatedScenarios() []*scenario {
	plain := setup{plain: true, follow: true}
	boundary, inside := []int{21}, []int{22}
	return []*scenario{
		{name: "truncated", summary: "ends the stream between two records", ids: ids("F-10", "G-9"), exits: boundary, play: hostile((*peer).end)},
		{name: "truncated-plain", summary: "ends the stream between two frames", ids: ids("F-10", "G-9"), exits: boundary, setup: plain, play: hostile((*peer).end)},
		{name: "truncated-inside", summary: "ends the stream inside a record", ids: ids("F-10"), exits: inside, play: hostile(truncate(20))},
		{name: "truncated-inside-plain", summary: "ends the stream inside a frame", ids: ids("F-10"), exits: inside, setup: plain, play: hostile(truncate(10))},
		{name: "truncated-data", summary: "ends the stream between the head and the data of a large message", ids: ids("F-10"), exits: inside, play: hostile(truncateData)},
	}
}

// truncate sends the first n bytes of a message.
func truncate(n int) func(*peer) {
	return func(p *peer) {
		b := p.encoded(message(typeNothing, filled(1, 100)))
		p.raw(b[:min(n, len(b))])
		p.end()
	}
}

func truncateData(p *peer) {
	p.record(message(typeNothing, filled(1, largeData)).head())
	p.end()
}
