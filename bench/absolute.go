// The rows that are no ratios of two contestants: memory of idle clients,
// allocations, reconnecting, the size of programs, and the lines of the library.

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// idleClients connects many clients, from several processes, and looks at what
// their server has grown by.
func (b *bench) idleClients(name string) {
	others := []contestant{rawSealed}
	if b.peers {
		others = append(others, contestant{Name: "websocket", Kind: "websocket"}, contestant{Name: "gRPC stream", Kind: "grpc stream"})
	}
	for _, c := range append([]contestant{pooled("Serve"), pooled("Messages")}, others...) {
		n := b.most(name, b.idle)
		memory, goroutines, target := atMost(9), atMost(1), "at most 9 KiB"
		what := fmt.Sprintf("%s idle encrypted clients, %s", thousands(n), c.Name)
		if c.Kind != "gipc" {
			n = min(n, 2000)
			memory, goroutines, target = bound{}, bound{}, "for comparison"
			what = fmt.Sprintf("%s idle clients, %s", thousands(n), c.Name)
		}
		before, after, err := b.idleServer(c, n)
		if err != nil {
			b.report.lost(what+": memory each", target, memory, err)
			continue
		}
		each := float64(after.RSS-before.Freed) / float64(n)
		freed := float64(after.Freed-before.Freed) / float64(n)
		b.report.plainFigure(what+": memory each", kib(each), "free memory given back: "+kib(freed), "", memory, target, each/1024)
		routines := float64(after.Goroutines-before.Goroutines) / float64(n)
		// Those that the server needs for itself once it has clients are no client's.
		b.report.plainFigure(what+": goroutines each", count(routines), "", "", goroutines, goroutines.String(), float64(int(routines*100))/100)
	}
}

// idleServer returns what a server has before and with n clients.
func (b *bench) idleServer(c contestant, n int) (before, after result, err error) {
	server, clients, before, err := b.crowd(c, n)
	if err != nil {
		return before, after, err
	}
	defer func() { b.stop(append(clients, server)...) }()
	select { // let it come to rest
	case <-time.After(2 * time.Second):
	case <-b.ctx.Done():
	}
	after, err = server.ask(b.ctx, order{Do: "memory"}, 20*time.Second)
	return before, after, err
}

// most is how many clients there may be, up to n: a server needs a file for each.
func (b *bench) most(name string, n int) int {
	if most := b.files - 100; most < n {
		b.report.failure(name, fmt.Errorf("lowered from %d to %d clients: a process may open %d files", n, most, b.files))
		return most
	}
	return n
}

// allocations counts them in the sending and in the receiving process.
func (b *bench) allocations(string) {
	reading := encrypted
	reading.Reader = "Read"
	tolerance := 0.01 // the runtime's own, a few in a run, are nobody's
	add := func(what string, most int, x float64, err error) {
		bound := atMost(float64(most) + tolerance)
		what, target := "allocations a message, "+what, fmt.Sprint("at most ", most)
		if err != nil {
			b.report.lost(what, target, bound, err)
			return
		}
		b.report.plainFigure(what, count(x), "", "", bound, target, x)
	}
	sent, received, err := b.allocsOf(encrypted)
	add("Write", 0, sent, err)
	add("ReadInto", 0, received, err)
	sent, _, err = b.allocsOf(queueEncrypted)
	add("Queue", 0, sent, err)
	_, received, err = b.allocsOf(reading)
	add("Read", 2, received, err)
	sent, received, err = b.allocsOf(callEncrypted)
	tolerance = 0.05 // there are fewer calls than messages of a stream
	add("Call, caller", 3, sent, err)
	add("Call, replier by ReadInto", 2, received, err)
}

func (b *bench) allocsOf(c contestant) (sent, received float64, err error) {
	p, err := b.pair(c)
	if err != nil {
		return 0, 0, err
	}
	defer b.stop(p.client, p.server)
	var r [3]result
	o := order{Do: "stream", Size: 64, For: b.slice}
	if c.Call {
		o.Do, o.For = "calls", max(b.slice, 300*time.Millisecond)
	}
	for i, ask := range []struct {
		who *proc
		order
	}{
		{p.client, o}, // buffers come to be
		{p.server, order{Do: "mallocs"}},
		{p.client, o},
		{p.server, order{Do: "mallocs"}},
	} {
		got, err := ask.who.ask(b.ctx, ask.order, 20*time.Second)
		if err != nil {
			return 0, 0, err
		}
		r[max(0, i-1)] = got
	}
	return r[1].Allocs, float64(r[2].Mallocs-r[0].Mallocs) / float64(r[1].N), nil
}

// reconnect kills a server and starts it again at once. The client's connection
// is older than its RetryTimer each time, so that the pause between tries begins
// anew.
func (b *bench) reconnect(name string) {
	what, limit := name+" after a server's restart, median", atMost(10)
	took, down, err := b.restarts(b.rounds)
	if err != nil {
		b.report.lost(what, limit.String()+" ms", limit, err)
		return
	}
	x := median(took)
	b.report.plainFigure(what, span(x), fmt.Sprintf("the server was away for %s", span(median(down))),
		fmt.Sprintf("%d restarts", len(took)), limit, limit.String()+" ms from its listening to Connected", x/1e6)
}

func (b *bench) restarts(n int) (took, down []float64, err error) {
	who := encrypted
	p, err := b.pair(who)
	if err != nil {
		return nil, nil, err
	}
	defer func() { b.stop(p.client, p.server) }()
	path := filepath.Join(b.dir, fmt.Sprint("s", b.sockets))
	if _, err := p.client.ask(b.ctx, order{Do: "reconnected"}, 20*time.Second); err != nil { // the first connection
		return nil, nil, err
	}
	for range n {
		select {
		case <-time.After(1100 * time.Millisecond):
		case <-b.ctx.Done():
		}
		if err := p.client.orders.Encode(order{Do: "reconnected"}); err != nil {
			return nil, nil, err
		}
		killed := time.Now().UnixNano()
		b.stop(p.server)
		server, listening, err := b.start(job{Server: true, Who: who, Path: path}, 20*time.Second)
		if err != nil {
			return nil, nil, err
		}
		p.server = server
		connected, err := p.client.answer(b.ctx, 20*time.Second)
		if err != nil {
			return nil, nil, err
		}
		took, down = append(took, float64(connected.At-listening.At)), append(down, float64(listening.At-killed))
		if _, err := p.client.ask(b.ctx, order{Do: "ping-pong", Size: 64, For: time.Millisecond}, 20*time.Second); err != nil {
			return nil, nil, fmt.Errorf("after reconnecting: %w", err)
		}
	}
	return took, down, nil
}

// binarySize builds the programs of size/ and compares them.
func (b *bench) binarySize(name string) {
	const kB = 1000
	limit := atMost(400)
	programs := []string{"bare", "gipc"}
	if b.peers && !b.quick { // it takes a while to build
		programs = append(programs, "grpc")
	}
	for _, v := range []struct{ what, ldflags string }{{"stripped", "-s -w"}, {"not stripped", ""}} {
		size := map[string]float64{}
		for _, program := range programs {
			n, err := b.build(program, v.ldflags)
			if err != nil {
				b.report.lost(fmt.Sprintf("%s, %s, %s", name, program, v.what), limit.String()+" kB", limit, err)
				continue
			}
			size[program] = float64(n) / kB
		}
		for _, program := range programs[1:] {
			if size[program] == 0 || size["bare"] == 0 {
				continue
			}
			bound, target := limit, limit.String()+" kB"
			if program != "gipc" {
				bound, target = atMost(0), "for comparison"
			}
			more := size[program] - size["bare"]
			b.report.plainFigure(fmt.Sprintf("%s, %s server, %s", name, program, v.what), fmt.Sprintf("%.0f kB more", more),
				fmt.Sprintf("net, crypto/ecdh, log/slog and fmt alone %.0f kB", size["bare"]), "", bound, target, more)
		}
	}
}

// build returns the size of one of the programs of size/.
func (b *bench) build(program, ldflags string) (int64, error) {
	out := filepath.Join(b.dir, program)
	cmd := exec.CommandContext(b.ctx, "go", "build", "-trimpath", "-ldflags="+ldflags, "-o", out, "./size/"+program)
	cmd.WaitDelay = time.Second
	if text, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("%w (it is run in bench/): %.300s", err, bytes.TrimSpace(text))
	}
	info, err := os.Stat(out)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// libraryLines counts the lines of the library's files, without the tests and the
// packages below it.
func (b *bench) libraryLines(name string) {
	const limit = 5200
	what, target := name+" at the top, without tests", "at most "+thousands(limit)
	lines, files, err := countLines("..")
	if err == nil && files == 0 {
		err = errors.New("no files: the program has to run in bench/")
	}
	if err != nil {
		b.report.lost(what, target, atMost(limit), err)
		return
	}
	b.report.plainFigure(what, thousands(lines), fmt.Sprintf("%d files", files), "", atMost(limit), target, float64(lines))
}

func countLines(dir string) (lines, files int, err error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return 0, 0, err
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return 0, 0, err
		}
		lines += bytes.Count(text, []byte("\n"))
		files++
	}
	return lines, files, nil
}
