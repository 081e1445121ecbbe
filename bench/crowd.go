// Rows of a server with many clients: the processor time of Broadcast, the time of
// Shutdown, and the memory of clients that send to a server that does not read.

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"example.com/gipc"
)

// served holds the server of this process, for the orders that act on it.
var served struct {
	ours *gipc.Server // set before the server is ready

	mu  sync.Mutex // guards raw
	raw []*rawTalker
}

func addRawTalker(t *rawTalker) {
	served.mu.Lock()
	defer served.mu.Unlock()
	served.raw = append(served.raw, t)
}

// clientCounts returns the counts that this run may use, and adds a row with the reason
// for each count that is skipped. Counts above the limit of -clients have no row.
func (b *bench) clientCounts(counts []int, what func(n int) string, target string) (usable []int) {
	for _, n := range counts {
		switch {
		case n > b.idle:
		case b.files-100 < n:
			b.report.skipped(what(n), target, fmt.Sprintf("a process may open %s files", thousands(b.files)))
		default:
			usable = append(usable, n)
		}
	}
	return usable
}

// broadcast compares the processor time of the server process for a Broadcast with
// that for a loop of writes.
func (b *bench) broadcast(name string) {
	loop := "loop of raw sealed writes"
	limit := atMost(1.4)
	what := func(n int) string {
		return fmt.Sprintf("%s of 64 B to %s encrypted clients, server", name, thousands(n))
	}
	for _, n := range b.clientCounts([]int{100, 1000, 5000}, what, limit.String()+" × "+loop) {
		ours, theirs := pooled("Serve").with(n), rawSealed.with(n)
		ours.Name, theirs.Name = name, loop
		s := b.alternateBroadcasts(n, ours, theirs)
		b.compare(s, row{what(n) + "'s processor time", name, loop, each, span, limit, ""})
		b.compare(s, row{what(n) + "'s time", name, loop, p50, span, bound{}, "for information"})
	}
}

// alternateBroadcasts takes the turns of broadcasts, with the order reversed in every
// other round. The first round is not counted.
func (b *bench) alternateBroadcasts(clients int, who ...contestant) *scores {
	// A socket holds about 270 small messages, and a write to a full socket costs
	// more, so a turn ends before that.
	o := order{Do: "broadcast", Size: 64, Count: max(4, min(200, 20000/clients)), Active: clients}
	s := &scores{map[string][]result{}, map[string]error{}}
	pairs := map[string]pair{}
	defer func() {
		for _, p := range pairs {
			b.stop(p.client, p.server)
		}
	}()
	for _, c := range who {
		p, err := b.pair(c)
		if err != nil {
			s.failed[c.Name] = err
			continue
		}
		pairs[c.Name] = p
	}
	for round := range b.rounds + 1 {
		for _, c := range who {
			if s.failed[c.Name] != nil {
				continue
			}
			r, err := b.broadcastTurn(pairs[c.Name], o)
			if err != nil {
				s.failed[c.Name] = err
			} else if round > 0 {
				s.results[c.Name] = append(s.results[c.Name], r)
			}
		}
		slices.Reverse(who)
	}
	return s
}

// broadcastTurn has the server send, and the clients receive and check all of it.
func (b *bench) broadcastTurn(p pair, o order) (result, error) {
	receive := o
	receive.Do = "receive"
	if err := p.client.orders.Encode(receive); err != nil {
		return result{}, err
	}
	b.wait(50*time.Millisecond + time.Duration(o.Active)*20*time.Microsecond) // until the clients read
	r, err := p.server.ask(b.ctx, o, 30*time.Second)
	if err != nil {
		return r, fmt.Errorf("server: %w", err)
	}
	if _, err := p.client.answer(b.ctx, 30*time.Second); err != nil {
		return r, fmt.Errorf("clients: %w", err)
	}
	return r, nil
}

// wait returns after d, or when the run ends.
func (b *bench) wait(d time.Duration) {
	select {
	case <-time.After(d):
	case <-b.ctx.Done():
	}
}

var broadcasts uint64 // that this process has sent

// sendBroadcasts sends a number of messages to each client of this process's server.
func sendBroadcasts(j job, o order) (r result, err error) {
	send := func(data []byte) error { return served.ours.Connections.Broadcast(background, 1, data) }
	connected := func() int { return served.ours.Connections.Len() }
	if j.Who.Kind == "raw" {
		served.mu.Lock()
		talkers := slices.Clone(served.raw)
		served.mu.Unlock()
		connected = func() int { return len(talkers) }
		send = func(data []byte) error {
			for _, t := range talkers {
				if err := t.send(data); err != nil {
					return err
				}
			}
			return nil
		}
	}
	if n := connected(); n != o.Active {
		return r, fmt.Errorf("%d clients are connected, not %d", n, o.Active)
	}
	if processorTime() == 0 {
		return r, errors.New("processor time cannot be measured on this system")
	}
	data := make([]byte, o.Size)
	start, processorStart := time.Now(), processorTime()
	for range o.Count {
		stamp(data, broadcasts, false, 0)
		broadcasts++
		if err := send(data); err != nil {
			return r, err
		}
	}
	r.N = o.Count
	r.Each = (processorTime() - processorStart) * 1e9 / float64(o.Count)
	r.P50 = float64(time.Since(start)) / float64(o.Count)
	return r, nil
}

// receiveBroadcasts reads a number of messages at each client, and checks them.
func receiveBroadcasts(clients []*caller, o order) (r result, err error) {
	errs := make(chan error, len(clients))
	for _, c := range clients {
		go func() {
			for range o.Count {
				data, err := c.recv()
				if err != nil {
					errs <- err
					return
				}
				c.received.take(data)
			}
			if c.received.bad > 0 || c.received.bytes != c.received.messages*uint64(o.Size) {
				errs <- fmt.Errorf("LOSS: a client has %d messages, %d bytes, %d out of order", c.received.messages, c.received.bytes, c.received.bad)
				return
			}
			errs <- nil
		}()
	}
	for range clients {
		err = errors.Join(err, <-errs)
	}
	r.N = o.Count * len(clients)
	return r, err
}

// crowd starts a server and n clients, in processes of at most 2,000. The order "memory"
// is executed before the first client connects, and its result is returned.
func (b *bench) crowd(c contestant, n int) (server *proc, clients []*proc, before result, err error) {
	const most = 2000 // clients of a process
	path := b.socket()
	defer func() {
		if err != nil {
			b.stop(append(clients, server)...)
		}
	}()
	if server, _, err = b.start(job{Server: true, Who: c, Path: path}, 20*time.Second); err != nil {
		return nil, nil, before, err
	}
	if before, err = server.ask(b.ctx, order{Do: "memory"}, 20*time.Second); err != nil {
		return server, clients, before, err
	}
	for left := n; left > 0; left -= most {
		p, _, err := b.start(job{Who: c.with(min(left, most)), Path: path}, 3*time.Minute)
		if err != nil {
			return server, clients, before, fmt.Errorf("client: %w; the server's standard error: %s", err, server.stderr)
		}
		clients = append(clients, p)
	}
	return server, clients, before, nil
}

const (
	shutdownTarget = 2 * time.Second // for 10,000 clients, and as much less for fewer
	shutdownLimit  = time.Minute     // of the context
)

// shutdown measures Shutdown of servers with idle clients. The clients redial
// meanwhile, as clients do. Every round has new processes.
func (b *bench) shutdown(name string) {
	what := func(n int) string {
		return fmt.Sprintf("%s of a server with %s encrypted clients", name, thousands(n))
	}
	limit := func(n int) bound { return atMost(shutdownTarget.Seconds() * float64(n) / 10000) }
	counts := b.clientCounts([]int{1000, 5000, 10000}, what, "at most 2 s for 10,000, and linear")
	rounds := 3
	if b.quick {
		rounds = 1
	}
	s := &scores{map[string][]result{}, map[string]error{}}
	clientCosts := map[int][]float64{} // nanoseconds of processor time
	for range rounds {
		for _, n := range counts {
			if s.failed[what(n)] != nil {
				continue
			}
			r, clientCost, err := b.shutdownOnce(n)
			if err != nil {
				s.failed[what(n)] = err
				continue
			}
			s.results[what(n)] = append(s.results[what(n)], r)
			clientCosts[n] = append(clientCosts[n], clientCost)
		}
	}
	target := func(n int) string { return "at most " + span(limit(n).most*1e9) + "; 2 s for 10,000, and linear" }
	for _, n := range counts {
		if err := s.failed[what(n)]; err != nil {
			b.report.lost(what(n), target(n), limit(n), err)
			continue
		}
		took := values(s.results[what(n)], func(r result) float64 { return r.P50 })
		x := median(took)
		b.report.plainFigure(what(n), span(x), fmt.Sprintf("%s per 1,000; processor time: server %s, clients %s", span(x/float64(n)*1000), span(median(values(s.results[what(n)], p99))), span(median(clientCosts[n]))),
			span(slices.Min(took))+" to "+span(slices.Max(took)), limit(n), target(n), x/1e9)
	}
	if len(counts) > 1 {
		few, many := counts[0], counts[len(counts)-1]
		b.compare(s, row{fmt.Sprintf("%s, time for each client, %s clients", name, thousands(many)), what(many), what(few), each, span, atMost(1.5), "linear is 1"})
	}
}

// shutdownOnce returns the result of one Shutdown, and the processor time that the clients
// have used during it, in nanoseconds.
func (b *bench) shutdownOnce(n int) (r result, clientCost float64, err error) {
	server, clients, _, err := b.crowd(pooled("Serve"), n)
	if err != nil {
		return r, 0, err
	}
	defer func() { b.stop(append(clients, server)...) }()
	b.wait(2 * time.Second) // until the clients are idle
	before, err := b.processorTimeOf(clients)
	if err != nil {
		return r, 0, err
	}
	if r, err = server.ask(b.ctx, order{Do: "shutdown", Active: n}, shutdownLimit+10*time.Second); err != nil {
		return r, 0, err
	}
	after, err := b.processorTimeOf(clients)
	return r, after - before, err
}

// processorTimeOf returns the processor time of processes together, in nanoseconds.
func (b *bench) processorTimeOf(procs []*proc) (sum float64, err error) {
	for _, p := range procs {
		if err := p.orders.Encode(order{Do: "cost"}); err != nil {
			return 0, err
		}
	}
	for _, p := range procs {
		r, err := p.answer(b.ctx, time.Minute)
		if err != nil {
			return 0, err
		}
		sum += r.Each
	}
	return sum, nil
}

var shuttingDown atomic.Bool // this process's server ends because of an order

// shutDownServer shuts this process's server down.
func shutDownServer(o order) (r result, err error) {
	if n := served.ours.Connections.Len(); n != o.Active {
		return r, fmt.Errorf("%d clients are connected, not %d", n, o.Active)
	}
	ctx, cancel := context.WithTimeout(background, shutdownLimit)
	defer cancel()
	shuttingDown.Store(true)
	start, processorStart := time.Now(), processorTime()
	err = served.ours.Shutdown(ctx)
	took := time.Since(start)
	r.N, r.Each, r.P50 = o.Active, float64(took)/float64(o.Active), float64(took)
	r.P99 = (processorTime() - processorStart) * 1e9
	return r, err
}

const stalledBytes = 3 * miB // that each client sends; also the largest message by default

// stalledClients measures the memory of a server that does not read while each client sends.
func (b *bench) stalledClients(name string) {
	limit, target := atMost(80), "at most 80 KiB"
	for _, size := range []int{stalledBytes, kiB} {
		n, budget := b.stalled, availableMemory()/4
		if size == stalledBytes {
			n = min(n, budget/(size+miB)) // each client holds its message sealed
		}
		what := fmt.Sprintf("%s idle clients that sent up to 3 MiB to a server that does not read, messages of %s: memory each", thousands(n), sizeName(size))
		if b.files-100 < n {
			b.report.skipped(what, target, fmt.Sprintf("a process may open %s files", thousands(b.files)))
			continue
		}
		if budget < n*160*kiB {
			b.report.skipped(what, target, fmt.Sprintf("%s of memory are available", sizeName(4*budget)))
			continue
		}
		grown, complete, freed, err := b.stall(n, size, budget)
		if err != nil {
			b.report.lost(what, target, limit, err)
			continue
		}
		x := float64(grown) / float64(n)
		ours, beside := kib(x), fmt.Sprintf("free memory given back: %s; %d%% of the clients sent everything", kib(float64(freed)/float64(n)), complete*100/n)
		if grown >= budget {
			ours = "more than " + ours
			beside = "stopped while it grew: the server used a quarter of the available memory"
		}
		b.report.plainFigure(what, ours, beside, "", limit, target, x/1024)
	}
}

// stall returns by how many bytes a server grows while n clients send, until it grows
// no more or has reached the budget, and how many clients have sent everything.
func (b *bench) stall(n, size, budget int) (grown, complete, freed int, err error) {
	server, clients, before, err := b.crowd(pooled("nobody"), n)
	if err != nil {
		return 0, 0, 0, err
	}
	defer func() { b.stop(append(clients, server)...) }()
	for _, p := range clients {
		if _, err := p.ask(b.ctx, order{Do: "fill", Size: size}, 30*time.Second); err != nil {
			return 0, 0, 0, err
		}
	}
	const poll, settled = 100 * time.Millisecond, 3 * time.Second
	last, lastCost, since, lastCheck, start := 0, 0.0, time.Now(), time.Now(), time.Now()
	for {
		r, err := server.ask(b.ctx, order{Do: "rss"}, 20*time.Second)
		if err != nil {
			return 0, 0, 0, err
		}
		grown = r.RSS - before.Freed
		if grown >= budget {
			return grown, 0, 0, nil
		}
		if grown > last+last/100 {
			last, since = grown, time.Now()
		}
		if time.Since(since) >= settled {
			// Clients that still seal their messages use processor time. Stalled clients
			// use some, too.
			cost, err := b.processorTimeOf(clients)
			if err != nil {
				return 0, 0, 0, err
			}
			if cost-lastCost < float64(time.Since(lastCheck))/4 {
				break
			}
			lastCost, since, lastCheck = cost, time.Now(), time.Now()
		}
		if time.Since(start) > time.Minute {
			b.report.failure("stalled clients", errors.New("the clients have not settled within a minute"))
			break
		}
		b.wait(poll)
	}
	if complete, err = b.completeClients(clients); err != nil {
		return 0, 0, 0, err
	}
	r, err := server.ask(b.ctx, order{Do: "memory"}, 60*time.Second)
	return r.RSS - before.Freed, complete, r.Freed - before.Freed, err
}

// completeClients returns how many clients have sent everything.
func (b *bench) completeClients(clients []*proc) (complete int, err error) {
	for _, p := range clients {
		r, err := p.ask(b.ctx, order{Do: "filled"}, time.Minute)
		if err != nil {
			return 0, err
		}
		complete += r.N
	}
	return complete, nil
}

// filling counts the clients of this process that have sent everything, and keeps an error.
var filling struct {
	complete atomic.Int64
	failure  atomic.Pointer[error]
}

// fill has each client send, and does not wait for it.
func fill(clients []*caller, o order) (result, error) {
	data, start := make([]byte, o.Size), make(chan struct{})
	// The clients start after the answer to this order; otherwise they delay it.
	time.AfterFunc(200*time.Millisecond, func() { close(start) })
	for _, c := range clients {
		go func() {
			<-start
			for sent := 0; sent < stalledBytes; sent += o.Size {
				if err := c.send(data); err != nil {
					filling.failure.Store(&err)
					return
				}
			}
			filling.complete.Add(1)
		}()
	}
	return result{N: len(clients)}, nil
}

func filled() (result, error) {
	if err := filling.failure.Load(); err != nil {
		return result{}, *err
	}
	return result{N: int(filling.complete.Load())}, nil
}

// availableMemory returns the memory in bytes that new processes can use, and 4 GiB if the
// system does not report it.
func availableMemory() int {
	text, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.SplitSeq(string(text), "\n") {
		if rest, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			if kilobytes, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB")); err == nil {
				return kilobytes * kiB
			}
		}
	}
	return 4 << 30
}
