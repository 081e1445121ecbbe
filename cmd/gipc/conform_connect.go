// Scenarios about connecting.

package main

import (
	"fmt"
	"strings"
	"time"
)

// testSecret is a secret with bytes that a careless reader of files changes.
var testSecret = []byte("\x00line one\r\nline two\n\x00\xff and more than 32 bytes \n")

// longName is 255 bytes of UTF-8 that no normalization leaves alone.
func longName() string { return "e\u0301é" + strings.Repeat("ü", 124) + "a " }

func connectScenarios() []*scenario {
	plain := setup{plain: true, follow: true}
	secret := setup{secret: testSecret, clientSecret: testSecret}
	return []*scenario{
		{name: "connect", summary: "accepts", ids: ids("H-1", "H-4", "G-3"), play: thenClose(notePeer)},
		{name: "connect-plain", summary: "speaks plaintext to a client that follows it", ids: ids("H-12"), setup: plain, play: thenClose(func(*peer) {})},
		{name: "connect-follow", summary: "encrypts, to a client that would do without", ids: ids("H-12"), setup: setup{follow: true}, play: thenClose(func(*peer) {})},
		{name: "connect-secret", summary: "requires a secret with newlines and NUL in it", ids: ids("H-9", "N-2"), setup: secret, play: thenClose(func(*peer) {})},
		{name: "connect-name", summary: "has a name that is not ASCII", ids: ids("N-1", "K-3"), setup: setup{name: longName()}, play: thenClose(func(*peer) {})},
		{name: "connect-hybrid", summary: "offers ML-KEM-1024", ids: ids("H-21", "H-22"), play: playHybrid},
		{name: "connect-classical", summary: "does not offer ML-KEM-1024", ids: ids("H-21"), setup: setup{classical: true}, play: thenClose(func(*peer) {})},
		{name: "connect-leading-zero", summary: "connects until a shared x-coordinate begins with a zero byte", ids: ids("K-1", "H-4"), play: playLeadingZero},
		{name: "connect-records-behind", summary: "sends records in the same write as ServerFinish", ids: ids("H-6"), play: playRecordsBehind},
		{name: "connect-waits", summary: "delays ServerFinish", ids: ids("H-7"), play: playWaits},
		{name: "connect-split", summary: "writes byte by byte", ids: ids("F-8"), setup: setup{split: true}, play: playSplit},
	}
}

// notePeer notes which key agreement the client has chosen.
func notePeer(p *peer) {
	p.note = "the client is classical"
	if p.hybrid {
		p.note = "the client is hybrid"
	}
}

// playHybrid makes two connections, whose points and ciphertexts have to differ.
func playHybrid(st *stage) {
	first := st.accept().handshake()
	notePeer(first)
	first.again()
	second := st.accept().handshake()
	if st.err == nil && string(first.clientPoint) == string(second.clientPoint) {
		st.fail("H-4", "two connections have the same key of the client")
	}
	if st.err == nil && first.hybrid != second.hybrid {
		st.fail("H-21", "the client was hybrid on one connection only")
	}
	second.closeClient()
}

// playLeadingZero connects until the shared x-coordinate begins with a zero
// byte, which happens once in 256 times, and stops after half of the time.
func playLeadingZero(st *stage) {
	end := time.Now().Add(st.timeout / 2)
	points := map[string]bool{}
	for i := 1; st.err == nil; i++ {
		p := st.accept().handshake()
		if st.err != nil {
			return
		}
		if points[string(p.clientPoint)] {
			st.fail("H-4", "two connections have the same key of the client")
		}
		points[string(p.clientPoint)] = true
		found := p.sharedX[0] == 0
		if found || i == 1000 || time.Now().After(end) {
			st.note = fmt.Sprintf("found on connection %d", i)
			if !found {
				st.note = fmt.Sprintf("no such coordinate on %d connections: not tested", i)
			}
			p.echo(message(7, []byte("zero")))
			p.closeClient()
			return
		}
		p.again()
		p.abort()
	}
}

func playRecordsBehind(st *stage) {
	p := st.accept()
	p.raw(p.newHello().bytes())
	p.clientHello()
	frames := []frame{message(5, []byte("behind")), message(6, filled(1, largeData))}
	p.raw(append(p.serverFinish(), p.encoded(frames...)...))
	for _, f := range frames {
		p.deliver(f)
	}
	for _, f := range frames {
		p.expect(f, "H-6")
	}
	p.closeClient()
}

func playWaits(st *stage) {
	p := st.accept()
	p.raw(p.newHello().bytes())
	p.clientHello()
	p.isQuiet("H-7")
	p.finish()
	p.closeClient()
}

func playSplit(st *stage) {
	p := st.accept().handshake()
	p.echo(message(1, nil), message(2, []byte("x")), message(3, filled(3, 1000)))
	p.echo(message(4, filled(4, largeData+1)))
	p.closeClient()
}
