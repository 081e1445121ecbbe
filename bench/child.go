// The processes that are measured: this binary started again, as a server or as
// a client, which does what it reads from standard input and answers on
// standard output, one line of JSON each. It ends when its input does.

package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const childEnv = "GIPC_BENCH_CHILD"

// A job is what a child is.
type job struct {
	Server   bool
	Who      contestant
	Path     string
	AtATime  int    // clients that connect at the same time; 0 is a few
	Profiles string // directory of the profiles; "": none
}

// An order is what a child is told to do.
type order struct {
	Do string // ping-pong, stream, trips, calls, set-up, reconnected, cost, memory, rss,
	// mallocs, broadcast, receive, shutdown, fill, filled
	Size    int           // of the messages
	For     time.Duration // how long, roughly
	Active  int           // trips: clients that talk; 0 is all; broadcast, shutdown: clients that are connected
	Count   int           // broadcast, receive: messages to each client
	Writers int           // stream: goroutines that write; calls: that call; 0 is one
}

// A result is what came of it. Times are nanoseconds.
type result struct {
	Err        string
	N          int     // messages, round trips, connections; cost: handshakes that the server has started
	P50, P99   float64 // ping-pong, set-up; reconnected: when, by the wall clock; broadcast: P50 is the time of one; shutdown: the time, and the processor time
	Each       float64 // time of one, from first to last; cost: this process's processor time; broadcast: the same for one
	Rate       float64 // of them in a second
	Allocs     float64 // this process's, for each
	Mallocs    uint64  // memory: all since the start
	RSS, Freed int     // memory: as it is, and after free memory was given back
	Goroutines int
	At         int64 // the wall clock: a server's start, the last client's Connected
}

// child does a job until standard input ends.
func child(text string) error {
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return err
	}
	raiseFiles()
	k, ok := kinds()[j.Who.Kind]
	if !ok {
		return fmt.Errorf("no kind %q", j.Who.Kind)
	}
	out := json.NewEncoder(os.Stdout)
	orders := json.NewDecoder(os.Stdin)
	var clients []*caller
	if j.Server {
		ready, before := make(chan struct{}), time.Now().UnixNano()
		go func() {
			err := k.serve(j.Who, j.Path, func() { close(ready) })
			if shuttingDown.Load() {
				return
			}
			fmt.Fprintln(os.Stderr, "the server ended:", err)
			os.Exit(1)
		}()
		<-ready
		out.Encode(result{At: before})
	} else {
		var err error
		before := time.Now()
		if clients, err = dialAll(k, j); err != nil {
			return err
		}
		var r result
		total(&r, len(clients), time.Since(before))
		out.Encode(r)
	}
	for {
		var o order
		if err := orders.Decode(&o); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		stopProfile := startProfile(j, o)
		r, err := do(k, j, o, clients)
		stopProfile()
		if err != nil {
			r.Err = err.Error()
		}
		if err := out.Encode(r); err != nil {
			return err
		}
	}
}

// dialAll makes a job's connections, a few at a time.
func dialAll(k kind, j job) ([]*caller, error) {
	clients := make([]*caller, max(1, j.Who.Clients))
	errs := make(chan error, len(clients))
	places := make(chan struct{}, cmp.Or(j.AtATime, 4))
	for i := range clients {
		places <- struct{}{}
		go func() {
			t, err := k.dial(j.Who, j.Path)
			clients[i] = &caller{talker: t}
			errs <- err
			<-places
		}()
	}
	for range clients {
		if err := <-errs; err != nil {
			return nil, err
		}
	}
	return clients, nil
}

func do(k kind, j job, o order, clients []*caller) (r result, err error) {
	before := mallocs()
	switch o.Do {
	case "memory":
		r.Goroutines, r.RSS, r.Mallocs = runtime.NumGoroutine(), rss(), before
		debug.FreeOSMemory()
		r.Freed = rss()
		return r, nil
	case "rss":
		r.RSS = rss()
		return r, nil
	case "broadcast":
		return sendBroadcasts(j, o)
	case "receive":
		return receiveBroadcasts(clients, o)
	case "shutdown":
		return shutDownServer(o)
	case "fill":
		return fill(clients, o)
	case "filled":
		return filled()
	case "mallocs":
		r.Mallocs = before
		return r, nil
	case "ping-pong":
		r, err = pingPong(clients[0], o)
	case "stream":
		r, err = stream(clients[0], o)
	case "trips":
		r, err = trips(clients, o)
	case "calls":
		r, err = calls(clients[0], o)
	case "set-up":
		return setUp(k, j, o)
	case "cost":
		r.N, r.Each = int(greeted.Load()), processorTime()*1e9
		return r, nil
	case "reconnected":
		return reconnected(clients)
	default:
		return r, fmt.Errorf("no order %q", o.Do)
	}
	if r.N > 0 {
		r.Allocs = float64(mallocs()-before) / float64(r.N)
	}
	return r, err
}

// samples are the times of a turn's round trips; later ones than it holds are
// not kept.
var samples = make([]int64, 0, 1<<17)

// quantiles sets a result's median and 99th percentile.
func quantiles(r *result, times []int64) {
	if len(times) == 0 {
		return
	}
	slices.Sort(times)
	at := func(q float64) float64 { return float64(times[int(q*float64(len(times)-1))]) }
	r.P50, r.P99 = at(0.5), at(0.99)
}

func total(r *result, n int, took time.Duration) {
	r.N, r.Each, r.Rate = n, float64(took)/float64(n), float64(n)/took.Seconds()
}

// pingPong sends a message when the last one has come back.
func pingPong(c *caller, o order) (r result, err error) {
	data, times, n := make([]byte, o.Size), samples[:0], 0
	start := time.Now()
	last := start
	for last.Sub(start) < o.For {
		if err := c.roundTrip(data); err != nil {
			return r, err
		}
		now := time.Now()
		if n++; len(times) < cap(times) {
			times = append(times, int64(now.Sub(last)))
		}
		last = now
	}
	total(&r, n, last.Sub(start))
	quantiles(&r, times)
	return r, nil
}

// stream sends without waiting; the time ends when the receiver has counted all.
func stream(c *caller, o order) (r result, err error) {
	writers := max(1, o.Writers)
	send := c.send
	if t, ok := c.talker.(*rawTalker); ok && writers > 1 {
		send = (&lockedTalker{rawTalker: t}).send
	}
	look := 1 // how often to look at the clock
	if o.Size < 4<<10 {
		look = 64
	}
	var all atomic.Int64
	errs := make(chan error, writers)
	buffers := make([]byte, writers*o.Size)
	start := time.Now()
	write := func(writer int) error {
		data, n := buffers[writer*o.Size:][:o.Size], 0
		for ; n == 0 || n%look != 0 || time.Since(start) < o.For; n++ {
			stamp(data, c.next[writer], false, writer)
			c.next[writer]++
			if err := send(data); err != nil {
				return err
			}
		}
		all.Add(int64(n))
		return nil
	}
	if writers == 1 {
		errs <- write(0)
	} else {
		for w := range writers {
			go func() { errs <- write(w) }()
		}
	}
	for range writers {
		if err := <-errs; err != nil {
			return r, err
		}
	}
	n := int(all.Load())
	if err := c.counted(n, o.Size); err != nil {
		return r, err
	}
	total(&r, n, time.Since(start))
	return r, nil
}

// trips has the first o.Active clients ping-pong at once, a goroutine each.
func trips(clients []*caller, o order) (r result, err error) {
	if o.Active > 0 {
		clients = clients[:o.Active]
	}
	return together(len(clients), o, func(i int, data []byte) error { return clients[i].roundTrip(data) })
}

// calls has several goroutines call over one connection; each calls again when it
// has its answer. The receiver has to have taken each call once.
func calls(c *caller, o order) (r result, err error) {
	t, ok := c.talker.(*callTalker)
	if !ok {
		return r, errors.New("this contestant has no calls")
	}
	r, err = together(max(1, o.Writers), o, func(i int, data []byte) error { return c.callTrip(t, i, data) })
	if err == nil {
		err = c.counted(r.N, o.Size)
	}
	return r, err
}

// together has n goroutines make trips at once, each with data of its own.
func together(n int, o order, trip func(i int, data []byte) error) (r result, err error) {
	var all atomic.Int64
	var over atomic.Bool
	var wg sync.WaitGroup
	errs := make(chan error, n)
	start := time.Now()
	for i := range n {
		wg.Go(func() {
			data, mine := make([]byte, o.Size), 0
			for ; mine == 0 || !over.Load(); mine++ {
				if err := trip(i, data); err != nil {
					errs <- err
					return
				}
			}
			all.Add(int64(mine))
		})
	}
	stop := time.AfterFunc(o.For, func() { over.Store(true) })
	defer stop.Stop()
	wg.Wait()
	total(&r, int(all.Load()), time.Since(start))
	select {
	case err = <-errs:
	default:
	}
	return r, err
}

// reconnected waits for the next Connected of each client.
func reconnected(clients []*caller) (r result, err error) {
	times, errs := make([]int64, len(clients)), make(chan error, len(clients))
	for i, c := range clients {
		go func() {
			t, ok := c.talker.(*ourTalker)
			if !ok {
				errs <- errors.New("this contestant cannot tell")
				return
			}
			err := t.connected()
			times[i] = time.Now().UnixNano()
			c.next = [256]uint64{} // a new connection counts from the beginning
			errs <- err
		}()
	}
	for range clients {
		if err := <-errs; err != nil {
			return r, err
		}
	}
	quantiles(&r, times)
	r.At = slices.Max(times)
	return r, nil
}

// setUp connects and leaves, again and again. Leaving is not counted.
func setUp(k kind, j job, o order) (r result, err error) {
	times := samples[:0]
	for start := time.Now(); time.Since(start) < o.For; {
		before := time.Now()
		t, err := k.dial(j.Who, j.Path)
		if err != nil {
			return r, err
		}
		times = append(times, int64(time.Since(before)))
		if c, ok := t.(interface{ close() }); ok {
			c.close()
		}
	}
	r.N = len(times)
	quantiles(&r, times)
	return r, nil
}

func mallocs() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}

// rss is this process's memory, in bytes; 0 where the system does not tell.
func rss() int {
	text, err := os.ReadFile("/proc/self/statm")
	fields := strings.Fields(string(text))
	if err != nil || len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.Atoi(fields[1])
	return pages * os.Getpagesize()
}
