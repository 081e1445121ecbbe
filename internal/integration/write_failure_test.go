package integration_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/gipc"
	. "example.com/gipc/internal/testutil"
)

// An attempt is one message that a writer has passed to the library.
type attempt struct {
	number  int
	promise bool  // a call that promises that the kernel has it returned nil
	unsent  error // the error says that nothing of it was sent, for certain
	err     error
}

// TestWriteNilMeansAccepted has many writers on connections that fail at any
// byte: if a call returned nil, the connection has taken the whole message; if
// an error says that nothing was sent, the connection has taken nothing of it.
func TestWriteNilMeansAccepted(t *testing.T) {
	t.Parallel()
	// Without GIPC_LONG, the number of connections, a slow machine makes fewer.
	connections, least, limit := EnvInt(t, "GIPC_LONG", 0), 1500, time.Now().Add(10*time.Second)
	if connections > 0 {
		least = connections
	} else if connections = 8000; testing.Short() {
		connections = least
	}
	seed := rand.Uint64()
	if text := os.Getenv("GIPC_SEED"); text != "" {
		n, err := strconv.ParseUint(text, 0, 64)
		Must(t, err)
		seed = n
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("GIPC_SEED=%d", seed)
		}
	})
	var wg sync.WaitGroup
	var next, finished, promised, failed atomic.Int64
	var problems problemCounts
	stop := make(chan struct{})
	var once sync.Once
	progress := WatchProgress(t, "connections", func() { once.Do(func() { close(stop) }) })
	for range 2 * runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				i := next.Add(1)
				if int(i) > connections || int(i) > least && time.Now().After(limit) {
					return
				}
				report := Go(func() failureReport { return writeUntilFailure(rand.New(rand.NewPCG(seed, uint64(i)))) })
				select {
				case r := <-report:
					progress.Move()
					finished.Add(1)
					promised.Add(int64(r.promised))
					failed.Add(int64(r.failed))
					for kind, text := range r.problems {
						problems.add(kind, fmt.Sprintf("connection %d: %s", i, text), r.counts[kind])
					}
				case <-stop:
					return
				}
			}
		})
	}
	wg.Wait()
	problems.report(t)
	t.Logf("%d connections: %d messages promised, %d failed", finished.Load(), promised.Load(), failed.Load())
	if promised.Load() == 0 || failed.Load() == 0 {
		t.Error("the test has seen no promise or no failure")
	}
}

type failureReport struct {
	problems         map[string]string // one example of each kind
	counts           map[string]int
	promised, failed int
}

// problemCounts collects problems by kind, because a broken core has thousands.
type problemCounts struct {
	mu       sync.Mutex
	counts   map[string]int
	examples map[string]string
}

func (p *problemCounts) add(kind, example string, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.counts == nil {
		p.counts, p.examples = map[string]int{}, map[string]string{}
	}
	if p.counts[kind] += n; p.examples[kind] == "" {
		p.examples[kind] = example
	}
}

func (p *problemCounts) report(t testing.TB) {
	for kind, n := range p.counts {
		t.Errorf("%d times: %s; for example %s", n, kind, p.examples[kind])
	}
}

func writeUntilFailure(r *rand.Rand) failureReport {
	// Either the connection fails somewhere in a long exchange, or it fails at once
	// under writers that start together.
	const writers = 32
	each, turns, storm := 6, r.IntN(200), r.IntN(8) > 0
	size := 8 + r.IntN(1<<(3+r.IntN(13))) // up to 64 KiB
	limit := r.IntN(1 + writers*each*(size+8)*5/4)
	if storm {
		each, turns, size = 1, r.IntN(3), 8+r.IntN(1<<(3+r.IntN(6)))
		limit = r.IntN(4 * (size + 8))
	}
	double := (&ServerDouble{Limit: limit, Reset: r.IntN(2) == 0}).Start()
	if turns > 0 {
		double.Yield = func() { yield(turns) }
	}
	first := make(chan net.Conn, 1)
	first <- double
	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "test", Encryption: gipc.EncryptionOff, Heartbeat: -1,
		Dial: func(ctx context.Context) (net.Conn, error) {
			select {
			case c := <-first:
				return c, nil
			default:
				return nil, fmt.Errorf("no second connection: %w", net.ErrClosed)
			}
		}})
	if err != nil {
		return failureReport{problems: map[string]string{"the client does not start": err.Error()}, counts: map[string]int{"the client does not start": 1}}
	}
	var wg sync.WaitGroup
	var all [writers][]attempt
	begin := make(chan struct{})
	for w := range writers {
		kind, pace, random := r.IntN(4), r.IntN(50), rand.New(rand.NewPCG(r.Uint64(), 0))
		if storm {
			pace = 0
		}
		wg.Go(func() {
			<-begin
			all[w] = writeSome(client, random, w*each, each, size, kind, pace)
		})
	}
	close(begin)
	wg.Wait()
	accepted := double.Accepted() // before Close writes more: a promise holds when the call returns
	client.Shutdown(ended())
	taken, _ := numbersIn(accepted)
	everTaken, part := numbersIn(double.Accepted())
	report := failureReport{problems: map[string]string{}, counts: map[string]int{}}
	complain := func(kind, format string, args ...any) {
		report.problems[kind] = fmt.Sprintf(format, args...)
		report.counts[kind]++
	}
	for w, attempts := range all {
		for _, a := range attempts {
			if a.err != nil {
				report.failed++
			}
			if a.promise {
				report.promised++
			}
			switch {
			case a.promise && !taken[a.number]:
				complain("a call returned nil, and the connection has not taken its message",
					"writer %d: message %d of %d bytes (limit %d, in part: %v)", w, a.number, size, limit, part == a.number)
			case a.unsent != nil && everTaken[a.number]:
				complain("an error says that nothing was sent, and the connection has the message",
					"writer %d: message %d: %v", w, a.number, a.unsent)
			case a.unsent != nil && part == a.number:
				complain("an error says that nothing was sent, and the connection has a part of the message",
					"writer %d: message %d: %v", w, a.number, a.unsent)
			case a.err != nil && !errors.Is(a.err, gipc.ErrNotConnected) && !errors.Is(a.err, gipc.ErrUnconfirmed) &&
				!errors.Is(a.err, net.ErrClosed) && !errors.Is(a.err, context.Canceled) && !errors.Is(a.err, context.DeadlineExceeded):
				complain("an error that is not documented", "writer %d: message %d: %v", w, a.number, a.err)
			}
		}
	}
	return report
}

// yield lets others run, several times in a row. Where others keep the processors
// busy each turn takes long, and few of them do.
func yield(turns int) {
	for end := time.Now().Add(time.Millisecond); turns > 0 && time.Now().Before(end); turns-- {
		runtime.Gosched()
	}
}

// numbersIn returns the numbers of the messages in a stream, and that of the
// message that is there in part, or -1.
func numbersIn(stream []byte) (whole map[int]bool, part int) {
	frames, rest := ParseFrames(stream)
	whole, part = map[int]bool{}, -1
	for _, f := range frames {
		if f.Type == 1 {
			whole[numberOf(f.Data)] = true
		}
	}
	if len(rest) >= 16 {
		part = numberOf(rest[8:])
	}
	return whole, part
}

// writeSome writes messages in one of four ways and returns what came of each.
func writeSome(e endpoint, r *rand.Rand, from, n, size, kind, pace int) []attempt {
	var done []attempt
	for i := from; i < from+n; i++ {
		yield(r.IntN(pace + 1))
		a := attempt{number: i}
		switch {
		case kind == 0 || kind == 3 && r.IntN(2) == 0:
			a.err = e.Write(1, Payload(i, size))
			a.promise = a.err == nil
		case kind == 1:
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(r.IntN(2000))*time.Microsecond)
			a.err = e.WriteContext(ctx, 1, Payload(i, size))
			a.promise = a.err == nil
			cancel()
		default:
			a.err = e.Queue(1, Payload(i, size))
		}
		if a.err != nil && !errors.Is(a.err, gipc.ErrUnconfirmed) {
			a.unsent = a.err
		}
		done = append(done, a)
		// A loss that another writer's call has reported leaves nothing to flush on
		// this client, which has one connection: Flush fails from then on.
		if kind >= 2 && r.IntN(3) == 0 {
			if err := e.Flush(); err == nil {
				for j := range done {
					if done[j].err == nil {
						done[j].promise = true
					}
				}
			}
		}
	}
	return done
}
