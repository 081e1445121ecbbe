// Scenarios about closing and reconnecting.

package main

import (
	"slices"
	"time"
)

func closeScenarios() []*scenario {
	plain := setup{plain: true, follow: true}
	return []*scenario{
		{name: "close-server", summary: "closes", ids: ids("G-2", "G-3"), exits: []int{20}, play: after((*peer).closes)},
		{name: "close-server-plain", summary: "closes, in plaintext", ids: ids("G-2", "G-3"), exits: []int{20}, setup: plain, play: after((*peer).closes)},
		{name: "close-server-behind", summary: "sends a message behind its close", ids: ids("G-4"), exits: []int{20}, play: after(closeBehind)},
		{name: "close-server-fault", summary: "sends a fault behind its close", ids: ids("G-4"), exits: []int{20}, play: after(closeFault)},
		{name: "close-server-byte", summary: "closes with a byte that is not defined", ids: ids("G-8"), exits: []int{20}, play: after(func(p *peer) { p.closesWith(control(kindClose, 99)) })},
		{name: "close-client", summary: "confirms the client's close", ids: ids("G-1", "G-3"), play: after(closeClient)},
		{name: "close-client-plain", summary: "the same in plaintext", ids: ids("G-1", "G-3"), setup: plain, play: after(closeClient)},
		{name: "close-client-messages", summary: "sends messages after the client's close", ids: ids("G-5"), play: after(closeMessages)},
		{name: "close-crossing", summary: "closes at the same time as the client", ids: ids("G-3"), exits: []int{0, 20}, play: after(closeCrossing)},
		{name: "close-ack-discarded", summary: "confirms with 1", ids: ids("G-5"), exits: []int{30}, play: after(closeAck(1))},
		{name: "close-ack-byte", summary: "confirms with a byte that is not defined", ids: ids("G-8"), exits: []int{30}, play: after(closeAck(77))},
		{name: "close-ack-missing", summary: "ends the stream instead", ids: ids("G-9"), exits: []int{30}, play: after(closeAckMissing)},
		{name: "close-ack-never", summary: "does nothing any more", ids: ids("G-6"), exits: []int{30}, play: after(closeAckNever)},
		{name: "close-nothing-sent", summary: "does nothing any more, and the client had sent nothing", ids: ids("G-6"), play: after(closeNothingSent)},
	}
}

// closes closes the connection of a client that has not closed.
func (p *peer) closes() { p.closesWith(control(kindClose, 0)) }

func (p *peer) closesWith(f frame) {
	p.write(f)
	p.answersClose()
}

// answersClose expects what answers a close, and confirms the client's close.
func (p *peer) answersClose() {
	data := p.expectControl(kindClose, "G-2")
	if p.err == nil && data[1] > 1 {
		p.fail("G-2", "the client's close has the byte %d", data[1])
	}
	p.expectAck(0)
	p.write(control(kindCloseAck, 0))
	p.ends("G-2")
}

func closeBehind(p *peer) {
	p.raw(p.encoded(control(kindClose, 0), message(5, []byte("behind"))))
	p.answersClose()
}

// closeFault sends a critical kind in the record of the close. The client must
// not write anything, and the close stays valid.
func closeFault(p *peer) {
	p.record(slices.Concat(control(kindClose, 0).bytes(), control(16).bytes()))
	p.endsSilently("G-4", "G-4")
}

func closeClient(p *peer) {
	frames := burst(100, 300)
	p.write(message(typeBurst, numbers(uint32(len(frames)), 300)), message(typeClose, nil))
	for _, f := range frames {
		p.expect(f, "G-1")
	}
	p.confirmClose(0)
}

func closeMessages(p *peer) {
	p.echo(message(1, []byte("before")))
	p.write(message(typeClose, nil))
	p.expectControl(kindClose, "G-1")
	p.closing = true
	p.raw(p.encoded(message(2, []byte("discarded")), request(1, 3, []byte("discarded, too")))) // not delivered
	p.raw(p.encoded(control(kindClose, 0), control(kindCloseAck, 0)))
	p.expectAck(1)
	p.ends("G-3")
}

func closeCrossing(p *peer) {
	p.write(message(typeClose, nil), control(kindClose, 0))
	p.answersClose()
}

// closeAck has a client that has sent something close, and confirms with this byte.
func closeAck(ack byte) func(*peer) {
	return func(p *peer) {
		p.echo(message(1, []byte("sent")))
		p.write(message(typeClose, nil))
		p.confirmClose(ack)
	}
}

func closeAckMissing(p *peer) {
	p.echo(message(1, []byte("sent")))
	p.write(message(typeClose, nil))
	p.expectControl(kindClose, "G-1")
	p.end()
	p.endsWithin(patience)
}

func closeAckNever(p *peer) {
	p.echo(message(1, []byte("sent")))
	p.write(message(typeClose, nil))
	start := time.Now()
	p.expectControl(kindClose, "G-1")
	p.endsWithin(8 * time.Second)
	if waited := time.Since(start); p.err == nil && waited < 4*time.Second {
		p.fail("G-6", "the client waited for %.1f s for the close-ack, and 5 s are due", waited.Seconds())
	}
}

func closeNothingSent(p *peer) {
	p.write(message(typeClose, nil))
	p.expectControl(kindClose, "G-1")
	p.endsWithin(3 * time.Second)
}

// endsWithin expects the client to end its stream without another frame.
func (p *peer) endsWithin(d time.Duration) {
	if p.err != nil {
		return
	}
	f, err := p.in.next(time.Now().Add(d))
	switch {
	case err == nil:
		p.fail("G-1", "the client sent %v after its close", f)
	case err != errEndBoundary:
		p.fail("G-6", "%v within %v", err, d)
	}
	p.end()
}

func reconnectScenarios() []*scenario {
	return []*scenario{{
		name: "reconnect", summary: "ends connections in several ways until one lasts", ids: ids("Q-1", "H-20"),
		setup: setup{reconnect: true}, play: playReconnect,
	}}
}

func playReconnect(st *stage) {
	first := st.accept().handshake()
	callOnce(first)
	first.closes()

	second := st.accept().handshake() // request numbers begin at 1 again
	callOnce(second)
	second.end()
	second.endsAfterFault("G-9")

	third := st.accept()
	third.raw([]byte{0, 7})
	third.writesNothing("H-16")

	fourth := st.accept()
	hello := fourth.newHello().bytes()
	fourth.raw(hello[:min(50, len(hello))])
	fourth.end()
	fourth.writesNothing("H-8")

	fifth := st.accept()
	fifth.raw(fifth.newHello().bytes())
	fifth.clientHello()
	fifth.raw([]byte{7})
	fifth.writesNothing("H-20")

	last := st.accept().handshake()
	callOnce(last)
	last.echo(message(1, []byte("again")))
	last.closeClient()
}

// callOnce has the client send a request, and replies.
func callOnce(p *peer) {
	p.write(message(typeCall, []byte("call")))
	f := p.nextRequest("Q-1")
	p.write(reply(f.number(), 9, []byte("reply")))
	p.expect(message(9, []byte("reply")), "Q-5")
}
