// Scenarios in which a handshake has to fail.

package main

func refusalScenarios() []*scenario {
	other := []byte("another secret of more than 32 bytes")
	return []*scenario{
		{
			name: "secret-wrong", summary: "has another secret", ids: ids("K-4", "H-18"), exits: []int{10},
			setup: setup{secret: other, clientSecret: testSecret}, play: playUnproven,
		},
		{name: "name-wrong", summary: "has another name", ids: ids("K-3"), exits: []int{10}, setup: setup{name: "Conform", clientName: "conform"}, play: playUnproven},
		{name: "secret-missing", summary: "requires a secret, and the client has none", ids: ids("H-11"), exits: []int{11}, setup: setup{secret: testSecret}, play: refusedWith(4, nil)},
		{name: "secret-unwanted", summary: "has no secret, and the client has one", ids: ids("H-10"), exits: []int{11}, setup: setup{clientSecret: testSecret}, play: refusedWith(5, nil)},
		{name: "encryption-missing", summary: "speaks plaintext to a client that requires encryption", ids: ids("H-12"), exits: []int{11}, setup: setup{plain: true}, play: refusedWith(2, nil)},
		{name: "refused", summary: "refuses instead of ServerHello", ids: ids("H-16"), exits: []int{10}, play: playRefused(7)},
		{name: "refused-zero", summary: "refuses with 0 instead of ServerHello", ids: ids("H-16"), exits: []int{10}, play: playRefused(0)},
		{name: "refused-unknown", summary: "refuses with a reason that is not defined", ids: ids("H-20"), exits: []int{10}, play: playRefused(200)},
		{name: "refused-finish", summary: "refuses instead of ServerFinish", ids: ids("H-20"), exits: []int{10}, play: playRefusedFinish},
	}
}

// playUnproven refuses a client whose confirmation does not match.
func playUnproven(st *stage) {
	p := st.accept()
	p.raw(p.newHello().bytes())
	p.clientHello()
	if p.err == nil && p.proved {
		p.fail(st.scenario.ids[0], "the confirmation of the client matches, although its secret or its name has to differ")
	}
	p.raw([]byte{6})
	p.end()
	p.writesNothing("H-20")
}

// refusedWith sends a ServerHello that change has changed, and expects this
// reason.
func refusedWith(reason byte, change func(*hello)) func(*stage) {
	return func(st *stage) {
		p := st.accept()
		h := p.newHello()
		if change != nil && p.err == nil {
			change(h)
		}
		p.raw(h.bytes())
		p.refuses(reason, st.scenario.ids[0])
	}
}

func playRefused(reason byte) func(*stage) {
	return func(st *stage) {
		p := st.accept()
		p.raw([]byte{0, reason})
		p.end()
		p.writesNothing("H-16")
	}
}

func playRefusedFinish(st *stage) {
	p := st.accept()
	p.raw(p.newHello().bytes())
	p.clientHello()
	p.raw([]byte{8})
	p.end()
	p.writesNothing("H-20")
}

func hostileHandshakeScenarios() []*scenario {
	follow := setup{plain: true, follow: true}
	return []*scenario{
		{name: "hostile-version", summary: "sends another version", ids: ids("H-13"), exits: []int{11}, play: playVersion},
		{name: "hostile-flags", summary: "sets a flag that is not defined", ids: ids("H-13"), exits: []int{11}, play: refusedWith(9, func(h *hello) { h.flags |= 8 })},
		{name: "hostile-flags-hybrid", summary: "sets hybrid without encrypted", ids: ids("H-13"), exits: []int{11}, setup: follow, play: refusedWith(9, func(h *hello) { h.flags = flagHybrid })},
		{name: "hostile-limit-low", summary: "announces a limit of 1,023, and no byte more", ids: ids("H-2", "H-5"), exits: []int{11}, play: refusedWith(9, limitAlone(1023))},
		{name: "hostile-limit-high", summary: "announces a limit of 2^30 + 1", ids: ids("H-2"), exits: []int{11}, play: refusedWith(9, func(h *hello) { h.limit = 1<<30 + 1 })},
		{name: "hostile-point", summary: "sends a point that is not on the curve", ids: ids("H-3"), exits: []int{11}, play: refusedWith(9, func(h *hello) { h.point[96] ^= 1 })},
		{name: "hostile-point-compressed", summary: "sends a point whose first byte is not 04", ids: ids("H-3"), exits: []int{11}, play: refusedWith(9, func(h *hello) { h.point[0] = 2 + h.point[96]&1 })},
		{name: "hostile-kem-key", summary: "sends an encapsulation key with a coefficient of 3,329", ids: ids("H-23"), exits: []int{11}, play: playKEMKey},
		{name: "hostile-confirmation", summary: "sends a wrong confirmation", ids: ids("H-17"), exits: []int{12}, play: playConfirmation(0, 0xff)},
		{name: "hostile-confirmation-last", summary: "sends a confirmation that is wrong in its last bit", ids: ids("H-17", "H-18"), exits: []int{12}, play: playConfirmation(47, 1)},
		{name: "hostile-hello-truncated", summary: "ends the stream inside ServerHello", ids: ids("H-8"), exits: []int{13}, play: playHelloTruncated},
		{name: "hostile-finish-truncated", summary: "ends the stream inside ServerFinish", ids: ids("H-17"), exits: []int{13}, play: playFinishTruncated},
	}
}

// limitAlone sends nothing after the limit.
func limitAlone(limit uint32) func(*hello) {
	return func(h *hello) { h.limit, h.point, h.kemKey = limit, nil, nil }
}

// playVersion sends the version alone: the client must not wait for the rest.
func playVersion(st *stage) {
	p := st.accept()
	p.raw([]byte{4})
	p.refuses(1, "H-13")
}

// playKEMKey sends an encapsulation key that FIPS 203 does not allow. A classical
// client does not check it.
func playKEMKey(st *stage) {
	p := st.accept()
	h := p.newHello()
	if p.err != nil {
		return
	}
	p.badKey = true
	h.kemKey[0], h.kemKey[1] = 0x01, h.kemKey[1]&0xf0|0x0d // 3329 = 0xd01
	p.raw(h.bytes())
	first := p.readBytes(1, "H-23")
	switch {
	case p.err != nil:
	case first[0] == 9:
		p.writesNothing("H-13")
	case first[0] != 0:
		p.fail("H-23", "the client refused with reason %d, and 9 was expected", first[0])
	default:
		p.continueClassical(first)
	}
}

// continueClassical continues with a client that has begun a ClientHello although
// the encapsulation key is not valid.
func (p *peer) continueClassical(first []byte) {
	p.clientHelloAfter(first)
	p.note, p.exits = "the client is classical, and does not check the key", []int{0}
	p.finish()
	p.closeClient()
}

func playConfirmation(at int, bits byte) func(*stage) {
	return func(st *stage) {
		p := st.accept()
		p.raw(p.newHello().bytes())
		p.clientHello()
		if p.err != nil {
			return
		}
		finish := append([]byte{0}, p.keys.serverConfirmation...)
		finish[1+at] ^= bits
		p.raw(finish)
		p.writesNothing("H-17")
	}
}

func playHelloTruncated(st *stage) {
	p := st.accept()
	b := p.newHello().bytes()
	p.raw(b[:min(len(b), 60)])
	p.end()
	p.writesNothing("H-8")
}

func playFinishTruncated(st *stage) {
	p := st.accept()
	p.raw(p.newHello().bytes())
	p.clientHello()
	if p.err != nil {
		return
	}
	p.raw(append([]byte{0}, p.keys.serverConfirmation[:20]...))
	p.end()
	p.writesNothing("H-17")
}
