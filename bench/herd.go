// A herd: many clients that lose their server at the same moment, and dial again
// at the same moment.

package main

import (
	"fmt"
	"sync/atomic"
	"time"

	"example.com/gipc"
)

const (
	herdSize    = 5000
	herdAtATime = 16 // that connect at first
)

// greeted counts the handshakes that this process's server has started: Authorize
// is called for each connection that was accepted, before anything is sent. Those
// that complete are as many as there are clients.
var greeted atomic.Int64

func countGreeted(gipc.Peer) error {
	greeted.Add(1)
	return nil
}

// herd connects many clients a few at a time, kills their server, starts it again
// at once, and compares the two ways in which all of them got there. Every round
// has new processes. All clients are in one process: several share the processors with
// the server more evenly, come more slowly, and crowd it less.
func (b *bench) herd(name string) {
	n := b.most(name, min(herdSize, b.idle))
	first := fmt.Sprintf("first connection %d at a time", herdAtATime)
	whole := func(x float64) string { return thousands(int(x)) }
	rows := []row{
		{fmt.Sprintf("%s: %s encrypted clients, handshakes started for each", name, thousands(n)), "handshakes", "clients", each, whole, atMost(1.1), ""},
		{name + ": all back, over " + first, "all back", first, each, span, atMost(1.5), ""},
		{name + ": the client in the middle", "in the middle", "slowest", each, span, bound{}, "for information"},
		{name + ": processor time, server", "server again", "at first, server", each, span, bound{}, "for information"},
		{name + ": processor time, clients", "clients again", "at first, clients", each, span, bound{}, "for information"},
	}
	rounds := 3
	if b.quick {
		rounds = 1
	}
	s := &scores{map[string][]result{}, map[string]error{}}
	note := func(name string, x float64) { s.results[name] = append(s.results[name], result{Each: x}) }
	for range rounds {
		atFirst, again, err := b.stampede(n)
		if err != nil {
			for _, r := range rows {
				s.failed[r.of] = err
			}
			break
		}
		note("clients", float64(n))
		note("handshakes", float64(again.started))
		note(first, atFirst.took)
		note("all back", again.took)
		note("slowest", again.took)
		note("in the middle", again.middle)
		note("at first, server", atFirst.server)
		note("at first, clients", atFirst.clients)
		note("server again", again.server)
		note("clients again", again.clients)
	}
	for _, r := range rows {
		b.compare(s, r)
	}
}

// An arrival is how all clients got to their server. Times are nanoseconds.
type arrival struct {
	took, middle    float64 // until the last one was there, and the one in the middle
	started         int     // handshakes, by the server
	server, clients float64 // processor time
}

// stampede has n clients connect and, after their server was killed, again. That
// time begins before the new server listens.
func (b *bench) stampede(n int) (first, again arrival, err error) {
	path := b.socket()
	serve, dial := job{Server: true, Who: pooled("Serve"), Path: path}, job{Who: pooled("Serve").with(n), Path: path, AtATime: herdAtATime}
	server, _, err := b.start(serve, 20*time.Second)
	if err != nil {
		return first, again, err
	}
	defer func() { b.stop(server) }()
	clients, r, err := b.start(dial, 2*time.Minute)
	if err != nil {
		return first, again, fmt.Errorf("first connection: %w; the server said: %s", err, server.stderr)
	}
	defer b.stop(clients)
	first.took = r.Each * float64(r.N)
	if _, err = clients.ask(b.ctx, order{Do: "reconnected"}, 20*time.Second); err != nil { // the Connected of the first connection
		return first, again, err
	}
	if err = b.account(&first, server, clients); err != nil {
		return first, again, err
	}
	select { // until every connection is older than its RetryTimer
	case <-time.After(1100 * time.Millisecond):
	case <-b.ctx.Done():
	}

	if err = clients.orders.Encode(order{Do: "reconnected"}); err != nil {
		return first, again, err
	}
	b.stop(server)
	server, listening, err := b.start(serve, 20*time.Second)
	if err != nil {
		return first, again, err
	}
	if r, err = clients.answer(b.ctx, 90*time.Second); err != nil {
		return first, again, fmt.Errorf("after the kill: %w; the server said: %s", err, server.stderr)
	}
	again.took, again.middle = float64(r.At-listening.At), r.P50-float64(listening.At)
	err = b.account(&again, server, clients)
	again.clients -= first.clients
	return first, again, err
}

// account sets what an arrival has cost, and what came before in these processes.
func (b *bench) account(a *arrival, server, clients *proc) error {
	ours, err := server.ask(b.ctx, order{Do: "cost"}, 20*time.Second)
	if err != nil {
		return err
	}
	theirs, err := clients.ask(b.ctx, order{Do: "cost"}, 20*time.Second)
	a.started, a.server, a.clients = ours.N, ours.Each, theirs.Each
	return err
}
