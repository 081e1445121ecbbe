// What is measured against what: the rows of the table, with their targets.

package main

import (
	"fmt"
	"slices"
	"time"
)

// A group is what is measured in the same rounds.
type group struct {
	name  string
	guess time.Duration // how long it takes
	run   func(b *bench, name string)
}

const (
	kiB = 1 << 10
	miB = 1 << 20
)

// groups is everything, in the order in which it runs.
func (b *bench) groups() []group {
	turns := func(n int) time.Duration {
		return time.Duration(n*(b.rounds+1))*b.slice + time.Duration(n)*150*time.Millisecond
	}
	placed := time.Duration(len(b.placements))
	peers, calling := 0, 0
	if b.peers {
		peers, calling = len(callers), len(procedures)
	}
	g := []group{
		{"ping-pong 64 B", placed * turns(4+peers), func(b *bench, name string) { b.pingPong(name, 64) }},
		{"ping-pong 4 KiB", placed * turns(4+peers), func(b *bench, name string) { b.pingPong(name, 4*kiB) }},
		{"ping-pong 1 MiB", placed * turns(4+peers), func(b *bench, name string) { b.pingPong(name, miB) }},
		{"streaming 64 B", turns(8 + peers), (*bench).streaming64},
		{"streaming 1 MiB", turns(4 + peers), (*bench).streaming1M},
		{"Call 64 B, one caller", placed * turns(3+calling), (*bench).oneCaller},
		{"Call 64 B, 64 callers", turns(3 + calling), (*bench).manyCallers},
		{"connection set-up", turns(2), (*bench).setUp},
		{"many clients", turns(6) + 12*time.Second, (*bench).many},
	}
	for _, reader := range []string{"Serve", "Messages", "ReadTimedFastest"} {
		g = append(g, group{"1 talker among silent, " + reader, turns(4) + 4*time.Second, func(b *bench, name string) { b.silent(name, reader) }})
	}
	g = append(g,
		group{"idle clients", time.Duration(b.idle)*6*time.Millisecond + 10*time.Second, (*bench).idleClients},
		group{"allocations a message", 4 * time.Second, (*bench).allocations},
		group{"reconnect", time.Duration(b.rounds)*1200*time.Millisecond + time.Second, (*bench).reconnect},
		group{"herd", time.Duration(min(herdSize, b.idle)) * 9 * time.Millisecond, (*bench).herd},
		group{"Broadcast", time.Duration(min(2*herdSize, 2*b.idle)) * 3 * time.Millisecond, (*bench).broadcast},
		group{"Shutdown", time.Duration(b.idle*2) * 4 * time.Millisecond, (*bench).shutdown},
		group{"stalled clients", time.Duration(b.stalled*2)*4*time.Millisecond + 10*time.Second, (*bench).stalledClients},
		group{"BusyPoll", turns(2), (*bench).busyPoll},
		group{"binary size", 20 * time.Second, (*bench).binarySize},
		group{"lines of the library", 0, (*bench).libraryLines},
	)
	if b.curves {
		g = append(g,
			group{"curve of clients", 100 * time.Second, (*bench).curveOfClients},
			group{"curve of sizes", 60 * time.Second, (*bench).curveOfSizes},
			group{"curve of writers", turns(14), (*bench).curveOfWriters},
			group{"curve of callers", turns(5 + 2*calling), (*bench).curveOfCallers},
		)
	}
	return g
}

// labels are the lines of the table of peers.
var labels = []string{"gipc encrypted", "gipc plain", "raw", "raw sealed", "websocket", "yamux", "libzmq", "ttrpc", "net/rpc", "gRPC stream", "gRPC unary", "zmq4 (Go)"}

// label is the line of a contestant.
func label(c contestant) string {
	switch {
	case c.Kind == "gipc" && c.Sealed:
		return "gipc encrypted"
	case c.Kind == "gipc":
		return "gipc plain"
	case c.Name == "ttrpc stream":
		return "ttrpc"
	}
	return c.Name
}

// turnsOf has each contestant do the same.
func turnsOf(o order, who ...contestant) (turns []turn) {
	for _, c := range who {
		turns = append(turns, turn{who: c, order: o})
	}
	return turns
}

func (b *bench) and(peers []contestant, who ...contestant) []contestant {
	if b.peers {
		who = append(who, peers...)
	}
	return who
}

// pinned returns contestants whose processes are placed on the cores that way.
func pinned(who []contestant, place placement) (placed []contestant) {
	for _, c := range who {
		c.Place = place
		placed = append(placed, c)
	}
	return placed
}

func (b *bench) pingPong(name string, size int) {
	for i, place := range b.placements {
		b.pingPongAt(place.row(name), size, place, i == 0)
	}
}

// pingPongAt measures the round trips of one placement. The chart and the columns
// beside the median are of the first placement alone.
func (b *bench) pingPongAt(name string, size int, place placement, first bool) {
	who := pinned(b.and(callers, raw, rawSealed, encrypted, plain), place)
	s := b.alternate(b.rounds, turnsOf(order{Do: "ping-pong", Size: size}, who...)...)
	enc, none := encrypted.Name, bound{}
	add := func(what, of, over string, value func(result) float64, bound bound, note string) {
		b.compare(s, row{name + ", " + what, of, over, value, span, bound, note})
	}
	switch size {
	case 64:
		add("encrypted, median", enc, "raw", p50, atMost(1.08), "")
		add("encrypted, p99", enc, "raw", p99, atMost(1.2), "")
		add("plain, p99", plain.Name, "raw", p99, none, "")
	case 4 * kiB:
		add("encrypted, median", enc, "raw", p50, atMost(1), "")
		add("encrypted, p99", enc, "raw", p99, none, "")
	default:
		add("encrypted, ReadInto, median", enc, "raw sealed", p50, atMost(0.9), "")
		add("encrypted, ReadInto, median", enc, "raw", p50, none, "about 3.4 expected")
		add("encrypted, ReadInto, p99", enc, "raw sealed", p99, none, "")
	}
	add("plain, median", plain.Name, "raw", p50, none, "")
	for _, c := range who {
		b.report.peer(s, name, label(c), c.Name, p50, span, true)
		if size == 64 && first {
			b.report.peer(s, place.row("its p99"), label(c), c.Name, p99, span, true)
			b.report.peer(s, place.row("its allocations, client"), label(c), c.Name, allocs, count, false)
		}
	}
	if panel := map[int]string{64: panelSmallTrip, miB: panelLargeTrip}[size]; panel != "" && first {
		b.report.draw(s, panel, who, p50, span)
	}
}

func (b *bench) streaming64(name string) {
	write, writePlain := encrypted, plain
	write.Name, writePlain.Name = "gipc encrypted, Write", "gipc plain, Write"
	who := b.and(streamers, raw, rawSealed, rawBatch, rawBatchSealed, queueEncrypted, queuePlain, write, writePlain)
	s := b.alternate(b.rounds, turnsOf(order{Do: "stream", Size: 64}, who...)...)
	add := func(what, of, over string, bound bound, note string) {
		b.compare(s, row{name + ", " + what, of, over, rate, perSecond, bound, note})
	}
	add("encrypted, Queue", queueEncrypted.Name, "raw batch sealed", atLeast(2), "")
	add("encrypted, Queue", queueEncrypted.Name, queuePlain.Name, atLeast(0.65), "")
	add("encrypted, Queue", queueEncrypted.Name, "raw", bound{}, "about 6.4 expected")
	add("plain, Queue", queuePlain.Name, "raw batch", atLeast(0.65), "")
	add("plain, Queue", queuePlain.Name, "raw", bound{}, "about 20 expected")
	add("encrypted, Write alone", write.Name, "raw", atLeast(0.85), "")
	add("encrypted, Write alone", write.Name, "raw sealed", bound{}, "")
	add("plain, Write alone", writePlain.Name, "raw", bound{}, "")
	shown := b.and(streamers, queueEncrypted, queuePlain, raw, rawSealed)
	for _, c := range shown {
		b.report.peer(s, name+" (gipc: by Queue)", label(c), c.Name, rate, perSecond, true)
	}
	b.report.draw(s, panelSmall, shown, rate, perSecond)
}

func (b *bench) streaming1M(name string) {
	who := b.and(streamers, raw, rawSealed, encrypted, plain)
	s := b.alternate(b.rounds, turnsOf(order{Do: "stream", Size: miB}, who...)...)
	add := func(what, of, over string, bound bound, note string) {
		b.compare(s, row{name + ", " + what, of, over, rate, bytesPerSecond, bound, note})
	}
	add("encrypted, ReadInto", encrypted.Name, "raw sealed", atLeast(1.15), "")
	add("encrypted, ReadInto", encrypted.Name, "raw", bound{}, "about 0.35 expected")
	add("plain, ReadInto", plain.Name, "raw", atLeast(1.5), "")
	for _, c := range who {
		b.report.peer(s, name, label(c), c.Name, rate, bytesPerSecond, true)
	}
	b.report.draw(s, panelLarge, who, rate, bytesPerSecond)
}

// oneCaller compares calls, one at a time, with raw's ping-pong.
func (b *bench) oneCaller(name string) {
	for _, place := range b.placements {
		b.oneCallerAt(place.row(name), place)
	}
}

func (b *bench) oneCallerAt(name string, place placement) {
	who := pinned(b.and(procedures, raw, callEncrypted, callPlain), place)
	s := b.alternate(b.rounds, turnsOf(order{Do: "ping-pong", Size: 64}, who...)...)
	add := func(what, of, over string, bound bound) {
		b.compare(s, row{name + ", " + what + ", replier by ReadInto, median", of, over, p50, span, bound, ""})
	}
	add("encrypted", callEncrypted.Name, raw.Name, atMost(1.25))
	for _, c := range b.and(procedures) {
		add("encrypted", callEncrypted.Name, c.Name, bound{})
	}
	add("plain", callPlain.Name, raw.Name, bound{})
	for _, c := range who {
		b.report.peer(s, name, label(c), c.Name, p50, span, true)
	}
}

// manyCallers has 64 goroutines call over one connection. A row compares them with a
// single one over the same connection.
func (b *bench) manyCallers(name string) {
	const alone = "one caller"
	who := b.and(procedures, callEncrypted, callPlain)
	turns := turnsOf(order{Do: "calls", Size: 64, Writers: 64}, who...)
	turns = append(turns, turn{who: callEncrypted, order: order{Do: "calls", Size: 64}, name: alone})
	s := b.alternate(b.rounds, turns...)
	add := func(over string, bound bound) {
		b.compare(s, row{"Call 64 B, encrypted, 64 callers on one connection, replier by ReadInto", callEncrypted.Name, over, rate, perSecond, bound, ""})
	}
	add(alone, atLeast(3))
	targets := map[string]bound{"net/rpc": atLeast(2), "gRPC unary": atLeast(2)}
	for _, c := range b.and(procedures) {
		add(c.Name, targets[c.Name])
	}
	for _, c := range who {
		b.report.peer(s, name, label(c), c.Name, rate, perSecond, false)
	}
}

// setUp measures the handshake in each placement and, because a program does not pin its
// processes, without one. Where the system places both processes on one core, they
// compute one after the other.
func (b *bench) setUp(name string) {
	ours := encrypted
	ours.Reader = "Serve"
	bare := contestant{Name: "bare P-384 and ML-KEM-1024", Kind: "keys"}
	placements := b.placements
	if !slices.Contains(placements, placeFree) {
		placements = append(slices.Clone(placements), placeFree)
	}
	for _, place := range placements {
		who := pinned([]contestant{ours, bare}, place)
		s := b.alternate(b.rounds, turnsOf(order{Do: "set-up", For: max(b.slice, 100*time.Millisecond)}, who...)...)
		b.compare(s, row{place.row(name) + ", encrypted, median", ours.Name, bare.Name, p50, span, atMost(1.05), "both in one round trip"})
	}
}

// pooled is the encrypted server whose clients are read that way.
func pooled(reader string) contestant {
	c := encrypted
	c.Name, c.Reader = reader, reader
	return c
}

func (b *bench) many(name string) {
	serve, messages := pooled("Serve"), pooled("Messages")
	var who []contestant
	for _, n := range []int{100, 1000} {
		who = append(who, rawSealed.with(n), serve.with(n), messages.with(n))
	}
	s := b.alternate(b.rounds, turnsOf(order{Do: "trips", Size: 64, For: 2 * b.slice}, who...)...)
	for _, c := range []contestant{serve, messages} {
		limit := atLeast(0.9)
		if c == messages {
			limit = atLeast(0.85)
		}
		for _, n := range []int{100, 1000} {
			b.compare(s, row{fmt.Sprintf("%s clients, encrypted, %s", thousands(n), c.Name), c.with(n).Name, rawSealed.with(n).Name, rate, perSecond, limit, ""})
		}
	}
	for _, c := range []contestant{serve, messages, rawSealed} {
		r := row{"1,000 clients, " + c.Name, c.with(1000).Name, c.with(100).Name, rate, perSecond, atLeast(0.9), "flat from 100 to 1,000"}
		if c == rawSealed {
			r.bound, r.note = bound{}, "the machine's own share"
		}
		b.compare(s, r)
	}
}

func (b *bench) silent(name, reader string) {
	silent := []int{10, 100, 1000}
	alone := pooled(reader).with(1)
	alone.Name = "alone"
	turns := []turn{{who: alone}}
	for _, n := range silent {
		c := pooled(reader).with(n + 1)
		turns = append(turns, turn{who: c, name: fmt.Sprintf("among %d", n)})
	}
	for i := range turns {
		turns[i].order = order{Do: "trips", Size: 64, Active: 1}
	}
	s := b.alternate(b.rounds, turns...)
	for _, n := range silent {
		b.compare(s, row{fmt.Sprintf("1 talker among %s silent, %s", thousands(n), reader), fmt.Sprintf("among %d", n), "alone", rate, perSecond, atLeast(0.95), ""})
	}
}

func (b *bench) busyPoll(name string) {
	polling := encrypted
	polling.BusyPoll, polling.Name = 100*time.Microsecond, "gipc encrypted, BusyPoll"
	s := b.alternate(b.rounds, turnsOf(order{Do: "ping-pong", Size: 64}, polling, encrypted)...)
	for _, v := range []struct {
		what  string
		value func(result) float64
	}{{"median", p50}, {"p99", p99}} {
		b.compare(s, row{fmt.Sprintf("BusyPoll %v on both sides, ping-pong 64 B, %s", polling.BusyPoll, v.what), polling.Name, encrypted.Name, v.value, span, bound{}, "beside it off"})
	}
}
