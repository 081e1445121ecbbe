// Scenarios about requests and pings.

package main

func requestScenarios() []*scenario {
	plain := setup{plain: true, follow: true}
	return []*scenario{
		{name: "requests-client", summary: "requests of the client, with replies in another order", ids: ids("Q-1", "Q-5"), play: thenClose(requestsClient)},
		{name: "requests-server", summary: "requests among messages, some of them not answered", ids: ids("Q-3", "Q-2", "Q-7"), play: thenClose(requestsServer)},
		{name: "requests-both", summary: "both at the same time, with empty and large data", ids: ids("Q-1", "Q-3"), play: thenClose(requestsBoth)},
		{name: "requests-plain", summary: "the same in plaintext", ids: ids("Q-1", "Q-3"), setup: plain, play: thenClose(requestsBoth)},
		{name: "requests-ignored", summary: "replies to no open request", ids: ids("Q-4"), play: thenClose(requestsIgnored)},
		{name: "requests-close", summary: "closes while a request is open", ids: ids("Q-6"), exits: []int{20}, play: after(requestsClose)},
		{name: "requests-lost", summary: "ends the stream while a request is open", ids: ids("Q-6"), exits: []int{21}, play: after(requestsLost)},
	}
}

// nextRequest returns the next frame of the client, which has to be a request. The
// id is that of the sentence that another one violates.
func (p *peer) nextRequest(id string) frame {
	f := p.next(id)
	if p.err == nil && !f.isRequest() {
		p.fail(id, "the client sent %v, and a request was expected", f)
	}
	return f
}

func requestsClient(p *peer) {
	const count = 50
	due := map[string]bool{} // the data of requests that have not come
	for i := range count {
		data := filled(i, 10+i*7)
		due[string(data)] = true
		p.write(message(typeCall, data))
	}
	var requests []frame
	for range count {
		f := p.nextRequest("Q-1")
		if p.err == nil && (f.msgType != 1 || !due[string(f.data)]) {
			p.fail("Q-1", "the client sent %v, which is not one of the expected frames", f)
		}
		delete(due, string(f.data))
		requests = append(requests, f)
	}
	var want []frame
	for i := len(requests) - 1; i >= 0; i-- {
		f := requests[i]
		data := append([]byte("reply "), f.data...)
		p.write(reply(f.number(), uint32(100+i), data))
		want = append(want, message(uint32(100+i), data))
	}
	p.expectInAnyOrder(want, "Q-5")
}

func requestsServer(p *peer) {
	var want []frame
	for i := range 60 {
		data := filled(i, i*11)
		p.write(message(uint32(1+i), data))
		want = append(want, message(uint32(1+i), data))
		if i%5 == 0 {
			p.request(typeNoReply, data)
			continue
		}
		number := p.request(uint32(200+i), data)
		want = append(want, reply(number, uint32(200+i), data))
	}
	p.expectInAnyOrder(want, "Q-3")
}

func requestsBoth(p *peer) {
	var replies, results []frame
	sizes := []int{0, 1, 1000, largeData - 1, largeData, maxPlain + 1, 300_000}
	for i, size := range sizes {
		data := filled(i, size)
		p.write(message(typeCall, data))
		number := p.request(uint32(300+i), data)
		replies = append(replies, reply(number, uint32(300+i), data))
	}
	for len(replies)+len(results) > 0 || p.in != nil && p.err == nil && p.in.requests < uint64(len(sizes)) {
		f := p.next("Q-3")
		if p.err != nil {
			return
		}
		if f.isRequest() {
			p.write(reply(f.number(), uint32(400+f.number()), f.data))
			results = append(results, message(uint32(400+f.number()), f.data))
			continue
		}
		if !remove(&replies, f) && !remove(&results, f) {
			p.fail("Q-3", "the client sent %v, which was not expected", f)
		}
	}
}

// remove removes f from the list and reports whether it was there.
func remove(list *[]frame, f frame) bool {
	for i, one := range *list {
		if one.msgType == f.msgType && one.hasID == f.hasID && one.id == f.id && string(one.data) == string(f.data) {
			*list = append((*list)[:i], (*list)[i+1:]...)
			return true
		}
	}
	return false
}

func requestsIgnored(p *peer) {
	p.write(reply(1, 1, []byte("to a request that was never sent")), reply(1<<62, 1, nil))
	p.write(message(typeCall, []byte("a")))
	first := p.nextRequest("Q-4")
	p.write(reply(first.number(), 50, []byte("one")), reply(first.number(), 51, []byte("two")))
	p.expect(message(50, []byte("one")), "Q-4")
	p.write(message(typeGiveUp, []byte("b")))
	second := p.nextRequest("Q-4")
	p.lines = append(p.lines, "call unknown")
	p.expect(message(typeGiveUp, nil), "Q-7")
	p.write(reply(second.number(), 52, []byte("late")))
	p.echo(message(3, []byte("still here")))
}

// openRequest has the client send a request, which stays open.
func openRequest(p *peer) {
	p.write(message(typeCall, []byte("open")))
	p.nextRequest("Q-1")
	p.lines = append(p.lines, "call unknown")
}

func requestsClose(p *peer) {
	openRequest(p)
	p.closes()
}

func requestsLost(p *peer) {
	openRequest(p)
	p.end()
	p.endsAfterFault("G-9")
}

func pingScenarios() []*scenario {
	return []*scenario{
		{name: "ping", summary: "pings, a pong that answers nothing, and kinds below 16 that are not defined", ids: ids("C-4", "C-2", "C-6"), play: thenClose(pings)},
		{name: "ping-plain", summary: "the same in plaintext", ids: ids("C-4", "C-2"), setup: setup{plain: true, follow: true}, play: thenClose(pings)},
	}
}

func pings(p *peer) {
	for i := range byte(20) {
		ping := []byte{kindPing, i, 1, 2, 3, 4, 5, 6, 255 - i}
		p.raw(p.encoded(control(ping...)))
		if data := p.expectControl(kindPong, "C-4"); p.err == nil && string(data[1:]) != string(ping[1:]) {
			p.fail("C-4", "the pong has the bytes %x, and the ping had %x", data[1:], ping[1:])
		}
	}
	p.raw(p.encoded(control(kindPong, 9, 9, 9, 9, 9, 9, 9, 9)))
	for _, kind := range []byte{0, 5, 10, 15} {
		p.raw(p.encoded(control(kind), control(append([]byte{kind}, filled(1, 700)...)...)))
	}
	p.raw(p.encoded(control(append([]byte{15}, filled(1, largeData)...)...)))
	p.echo(message(1, []byte("still here")))
}
