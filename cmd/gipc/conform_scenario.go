// The scenarios of gipc conform. CONFORM.md describes them.

package main

import "slices"

// A scenario is one thing that a client is tried with.
type scenario struct {
	name    string
	summary string
	ids     []string // of the sentences that it is about; the first one is reported if no other is closer
	exits   []int    // the exit codes of a client that conforms; nil: 0
	setup   setup
	play    func(*stage) // the server's part

	library   bool // the server is that of the library
	long      bool // it runs with -long only
	anyOutput bool // what the client prints is not checked
}

// exitID returns the id that a wrong exit code is reported with.
func (s *scenario) exitID() string { return s.ids[0] }

// scenarios returns all scenarios, in the order of CONFORM.md.
func scenarios() []*scenario {
	return slices.Concat(
		connectScenarios(), echoScenarios(), requestScenarios(), pingScenarios(), closeScenarios(), reconnectScenarios(), rekeyScenarios(),
		refusalScenarios(), hostileHandshakeScenarios(), hostileRecordScenarios(), hostileFrameScenarios(), truncatedScenarios(), libraryScenarios(),
	)
}

// ids returns its arguments: the ids of a scenario.
func ids(list ...string) []string { return list }

// after returns the part of a server that accepts a client, and then plays f.
func after(f func(*peer)) func(*stage) {
	return func(st *stage) { f(st.accept().handshake()) }
}

// thenClose is after, and then has the client close.
func thenClose(f func(*peer)) func(*stage) {
	return after(func(p *peer) {
		f(p)
		p.closeClient()
	})
}
