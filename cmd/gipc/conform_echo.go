// Scenarios about messages of all sizes, and about keys that change.

package main

import "fmt"

func echoScenarios() []*scenario {
	plain := setup{plain: true, follow: true}
	small := setup{limit: 1024, clientLimit: 1024}
	return []*scenario{
		{name: "echo", summary: "300 messages and their echo", ids: ids("R-8", "F-7"), play: thenClose(echoMany)},
		{name: "echo-plain", summary: "the same in plaintext", ids: ids("F-7"), setup: plain, play: thenClose(echoMany)},
		{name: "echo-types", summary: "types 1, 2147483647 and others", ids: ids("F-6"), play: thenClose(echoTypes)},
		{name: "echo-sizes", summary: "0, 1, the sizes around 16 KiB, 64 KiB and 1 MiB, and the limit", ids: ids("R-7", "R-6", "R-9"), play: thenClose(echoSizes)},
		{name: "echo-sizes-plain", summary: "the same in plaintext", ids: ids("F-2"), setup: plain, play: thenClose(echoSizes)},
		{name: "echo-many-frames", summary: "records of 65,536 bytes with up to 8,192 frames", ids: ids("R-7", "R-6"), play: thenClose(echoManyFrames)},
		{name: "echo-small-limit", summary: "a limit of 1,024, in records of 64 KiB", ids: ids("R-6", "F-2"), setup: small, play: thenClose(echoSmallLimit)},
		{name: "echo-large", summary: "large messages of the client, with pings meanwhile", ids: ids("R-9", "R-7", "C-4"), play: thenClose(echoLarge)},
		{name: "too-large", summary: "accepts 1,024 bytes, and the client tries 1,025", ids: ids("F-3"), setup: setup{limit: 1024}, play: thenClose(tooLarge)},
	}
}

func echoMany(p *peer) {
	var frames []frame
	for i := range 300 {
		frames = append(frames, message(uint32(1+i%900), filled(i, i*13%500)))
	}
	p.echo(frames...)
}

func echoTypes(p *peer) {
	for _, t := range []uint32{1, 2, 255, 256, 65535, 65536, 1 << 24, 1<<31 - 2, 1<<31 - 1} {
		p.echo(message(t, []byte("type")), message(t, nil))
	}
}

func echoSizes(p *peer) {
	for i, size := range []int{
		0, 1, 2, 15, 16, 1000, largeData - 1, largeData, largeData + 1, maxPlain - 8, maxPlain - 1, maxPlain, maxPlain + 1,
		1<<20 - 1, 1 << 20, 1<<20 + 1, p.limit,
	} {
		p.echo(message(uint32(1+i), filled(i, size)))
	}
}

func echoManyFrames(p *peer) {
	var empty []frame
	for i := range maxPlain / 8 {
		empty = append(empty, message(uint32(1+i%900), nil))
	}
	p.echo(empty...)
	p.echo(fullRecord(1000)...)
	p.echo(fullRecord(largeData - 1)...)
	head := append(fullRecord(100)[:20], message(3, filled(3, largeData)))
	p.echo(head...)
}

// fullRecord returns frames whose plaintext is a record of the largest size, with
// at most size bytes of data each.
func fullRecord(size int) []frame {
	var frames []frame
	for room := maxPlain; room > 0; {
		n := min(size, room-8)
		if left := room - 8 - n; left > 0 && left < 8 {
			n -= 8
		}
		frames = append(frames, message(uint32(1+len(frames)%900), filled(len(frames), n)))
		room -= 8 + n
	}
	return frames
}

func echoSmallLimit(p *peer) {
	p.echo(message(1, filled(1, 1024)), message(2, filled(2, 1023)))
	p.echo(fullRecord(1024)...)
}

func echoLarge(p *peer) {
	want := burst(20, 100_000)
	p.write(message(typeBurst, numbers(uint32(len(want)), 100_000)))
	for i := range 5 {
		p.raw(p.encoded(control(kindPing, 1, 2, 3, 4, 5, 6, 7, byte(i))))
	}
	pongs := 0
	for len(want) > 0 && p.err == nil {
		f := p.next("R-9")
		switch {
		case p.err != nil:
		case f.isControl() && f.data[0] == kindPong:
			pongs++
		case f.msgType != 1 || f.hasID || string(f.data) != string(want[0].data):
			p.fail("R-9", "the client sent %v, and %v was expected", f, want[0])
		default:
			want = want[1:]
		}
	}
	if pongs == 0 && p.err == nil { // at most one is pending, so there may be fewer than pings [C-5]
		p.expectControl(kindPong, "C-4")
	}
	p.noPongsLeft()
}

// noPongsLeft sends a ping that differs from all others, and skips pongs until
// its own.
func (p *peer) noPongsLeft() {
	p.raw(p.encoded(control(kindPing, 'l', 'a', 's', 't', 'p', 'i', 'n', 'g')))
	for p.err == nil && string(p.expectControl(kindPong, "C-4")[1:]) != "lastping" {
	}
}

func tooLarge(p *peer) {
	p.write(message(typeTooLarge, numbers(1025)))
	p.lines = append(p.lines, "too-large")
	p.expect(message(typeTooLarge, nil), "F-3")
	p.echo(message(1, filled(1, 1024)))
}

func rekeyScenarios() []*scenario {
	return []*scenario{
		{name: "rekey", summary: "echo with a threshold of 100,000 bytes", ids: ids("Y-1", "Y-2", "Y-3"), setup: setup{rekeyAt: 100_000}, play: thenClose(rekey)},
		{name: "rekey-each", summary: "a key for each record", ids: ids("Y-1", "Y-2"), setup: setup{rekeyAt: 1}, play: thenClose(rekeyEach)},
		{name: "rekey-full", summary: "4 GiB in each direction", ids: ids("Y-1", "Y-3"), long: true, anyOutput: true, play: after(rekeyFull)},
	}
}

func rekey(p *peer) {
	for i := range 40 {
		p.echo(message(1, filled(i, i*997%9000)), message(2, filled(i, largeData+i*5000)), message(3, nil))
	}
	noteRekeys(p)
}

func rekeyEach(p *peer) {
	for i := range 50 {
		p.echo(message(1, filled(i, i)))
		p.raw(p.encoded(control(kindPing, 1, 2, 3, 4, 5, 6, 7, 8)))
		p.expectControl(kindPong, "Y-1")
	}
	p.echo(message(2, filled(2, largeData)))
	noteRekeys(p)
}

func rekeyFull(p *peer) {
	const count, size = 4100, 1 << 20
	data := filled(1, size)
	for range count {
		p.write(message(typeNothing, data))
	}
	p.echo(message(1, []byte("received")))
	p.write(message(typeBurst, numbers(count, size)))
	for i := range count {
		f := p.next("Y-1")
		if p.err == nil && (f.msgType != 1 || len(f.data) != size || f.data[0] != byte(i) || f.data[size-1] != byte(i)) {
			p.fail("Y-1", "the client sent %v as message %d", f, i)
		}
	}
	noteRekeys(p)
	p.closeClient()
}

// noteRekeys notes how often the keys have changed, and fails if one has not.
func noteRekeys(p *peer) {
	if p.err != nil {
		return
	}
	p.note = fmt.Sprintf("%d keys of the server and %d of the client", p.seal.rekeys+1, p.in.keys.rekeys+1)
	if p.seal.rekeys == 0 || p.in.keys.rekeys == 0 {
		p.fail("Y-3", "the keys did not change: %s", p.note)
	}
}
