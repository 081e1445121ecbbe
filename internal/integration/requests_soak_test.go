package integration_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/gipc"
	. "example.com/gipc/internal/testutil"
)

func init() {
	children["requests: server"] = requestServer
	children["requests: unanswered"] = memoryUnanswered
	children["requests: unread"] = memoryUnreadRequests
	children["requests: given up"] = memoryGivenUp
	children["requests: replies to nothing"] = memoryRepliesToNothing
}

// answerOf is the reply to a request.
func answerOf(request []byte) []byte { return Payload(numberOf(request)+1_000_000, len(request)/2+8) }

// A replier answers requests in random order, and knows which have come.
type replier struct {
	mu   sync.Mutex
	came map[int]int
	errs []error // of Reply, which are no loss of a connection
}

// serve reads until e is closed.
func (r *replier) serve(e endpoint) {
	r.came = map[int]int{}
	requests := make(chan *gipc.Message, 256)
	var wg sync.WaitGroup
	wg.Go(func() { r.answer(requests) })
	for m, err := range e.Messages(context.Background()) {
		if err == nil && m.IsRequest() {
			r.mu.Lock()
			r.came[numberOf(m.Data)]++
			r.mu.Unlock()
			requests <- m
		}
	}
	close(requests)
	wg.Wait()
}

// answer collects requests for a moment, and answers them in random order.
func (r *replier) answer(requests <-chan *gipc.Message) {
	for m := range requests {
		pending := []*gipc.Message{m}
		for tries := rand.IntN(20); tries > 0 && len(pending) < 16; tries-- {
			select {
			case m := <-requests:
				if m != nil {
					pending = append(pending, m)
				}
			default:
				runtime.Gosched()
			}
		}
		rand.Shuffle(len(pending), func(i, j int) { pending[i], pending[j] = pending[j], pending[i] })
		for _, m := range pending {
			err := m.Reply(2, answerOf(m.Data))
			if err != nil && !errors.Is(err, gipc.ErrNotConnected) && !errors.Is(err, gipc.ErrUnconfirmed) && !errors.Is(err, gipc.ErrClosed) {
				r.mu.Lock()
				r.errs = append(r.errs, err)
				r.mu.Unlock()
			}
		}
	}
}

func (r *replier) times(number int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.came[number]
}

// A caller makes calls, each with a number, and knows how each has ended.
type caller struct {
	e        requester
	total    int
	giveUp   bool        // some contexts end
	pace     func(error) // is called after each call, with its error
	ended    []atomic.Int32
	errs     []error
	problems problemCounts
}

// run makes a quarter of the calls one after the other, and the others in 64 goroutines.
func (c *caller) run() {
	c.ended, c.errs = make([]atomic.Int32, c.total), make([]error, c.total)
	var wg sync.WaitGroup
	var next atomic.Int64
	next.Store(int64(c.total / 4))
	wg.Go(func() {
		for i := range c.total / 4 {
			c.call(i)
		}
	})
	for range 64 {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= c.total {
					return
				}
				c.call(i)
			}
		})
	}
	wg.Wait()
}

func (c *caller) call(i int) {
	ctx, cancel := context.Background(), context.CancelFunc(func() {})
	switch {
	case !c.giveUp:
	case i%8 == 0:
		ctx, cancel = context.WithTimeout(ctx, time.Duration(rand.IntN(1<<rand.IntN(12)))*time.Microsecond)
	case i%8 == 1:
		ctx, cancel = context.WithCancel(ctx)
		n := rand.IntN(200)
		go func() {
			for range n {
				runtime.Gosched()
			}
			cancel()
		}()
	}
	data := Payload(i, 8+rand.IntN(1<<(3+rand.IntN(13)))) // up to 64 KiB
	reply, err := c.e.Call(ctx, 1, data)
	cancel()
	c.ended[i].Add(1)
	c.errs[i] = err
	switch {
	case err == nil && (reply == nil || reply.MsgType != 2 || !bytes.Equal(reply.Data, answerOf(data))):
		c.problems.add("a call has the reply to another one", fmt.Sprint("call ", i), 1)
	case err != nil && reply != nil:
		c.problems.add("a reply beside an error", fmt.Sprint("call ", i), 1)
	}
	c.pace(err)
}

// check compares how the calls ended with what the peer has read. living says that
// the connection lived, so that only contexts may have ended calls.
func (c *caller) check(t *testing.T, r *replier, living bool) {
	delivered, calls := 0, 0
	for i := range c.total {
		err, n := c.errs[i], r.times(i)
		delivered += n
		example := fmt.Sprintf("call %d, which the peer got %d times: %v", i, n, err)
		context := errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
		unsure := errors.Is(err, gipc.ErrUnconfirmed)
		if err == nil || unsure {
			calls++
		}
		switch {
		case c.ended[i].Load() != 1:
			c.problems.add("a call did not end once", example, 1)
		case n > 1:
			c.problems.add("a request came twice", example, 1)
		case err == nil && n == 0:
			c.problems.add("a reply without a request", example, 1)
		case err != nil && !unsure && n > 0:
			c.problems.add("an error says that nothing was sent, and the request came", example, 1)
		case living && err != nil && !context:
			c.problems.add("an error that is not the context's", example, 1)
		case living && unsure && n == 0:
			c.problems.add("a request was accepted, the connection lived, and it did not come", example, 1)
		case err != nil && !context && !unsure && !errors.Is(err, gipc.ErrNotConnected) && !errors.Is(err, gipc.ErrClosed):
			c.problems.add("another error", example, 1)
		}
	}
	c.problems.report(t)
	for _, err := range r.errs {
		t.Errorf("Reply: %v", err)
	}
	if s := c.e.Stats(); living && (s.Calls != uint64(calls) || s.Sent != uint64(calls) || delivered != calls) {
		t.Errorf("%+v, and %d calls were sent, %d came", s, calls, delivered)
	}
}

// TestSoakRequest has both sides call at once, from one goroutine and from 64, with
// replies out of order and contexts that end, on several transports; on half of them
// the connection is cut again and again. GIPC_SOAK_CALLS is the number of calls each
// way on each transport.
func TestSoakRequest(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"unix", "tcp", "tls", "pipe"} {
		for _, plain := range []bool{false, true} {
			for _, cut := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, plain %v, cut %v", name, plain, cut), func(t *testing.T) {
					t.Parallel()
					soakRequests(t, transportNamed(name), plain, cut, EnvInt(t, "GIPC_SOAK_CALLS", 1000)/4)
				})
			}
		}
	}
}

func soakRequests(t *testing.T, tr transport, plain, cut bool, n int) {
	sc, cc := tr.settings(t, plain)
	var mu sync.Mutex
	var conn net.Conn // the client's newest
	upgrade := cc.Upgrade
	cc.Upgrade = func(c net.Conn) (net.Conn, error) {
		mu.Lock()
		conn = c
		mu.Unlock()
		if upgrade != nil {
			return upgrade(c)
		}
		return c, nil
	}
	cc.RetryTimer = time.Millisecond
	server := startServer(t, sc)
	client := startClient(t, cc)
	waitConnected(t, server)
	progress := WatchProgress(t, "calls", func() { // a hang ends here
		client.Shutdown(ended())
		server.Shutdown(ended())
	})
	var done atomic.Int64
	pace := func(e endpoint) func(error) {
		return func(err error) {
			progress.Move()
			if k := done.Add(1); cut && k%int64(max(n/4, 1)) == 0 {
				mu.Lock()
				conn.Close()
				mu.Unlock()
			}
			if errors.Is(err, gipc.ErrNotConnected) {
				e.WaitConnected(context.Background())
			}
		}
	}
	var repliers [2]replier
	var served, called sync.WaitGroup
	served.Go(func() { repliers[0].serve(server) })
	served.Go(func() { repliers[1].serve(client) })
	callers := [2]*caller{
		{e: client, total: n, giveUp: true, pace: pace(client)},
		{e: server, total: n, giveUp: true, pace: pace(server)},
	}
	for _, c := range callers {
		called.Go(c.run)
	}
	called.Wait() // the watchdog ends it
	if !cut && client.ID() != 1 {
		t.Errorf("connection %d: it must live", client.ID())
	}
	// What a context has ended may still be on its way. The last call comes behind it.
	if !cut {
		for i, e := range []requester{client, server} {
			Must(t, Do(t, "a last call", func() error { _, err := e.Call(context.Background(), 1, Payload(n, 8)); return err }))
			if s, d := e.Stats(), uint64(n); s.Dropped > d {
				t.Errorf("%+v", s)
			}
			callers[i].total++
			callers[i].errs = append(callers[i].errs, nil)
			callers[i].ended = append(callers[i].ended, atomic.Int32{})
			callers[i].ended[n].Store(1)
		}
	}
	Do(t, "Shutdown", func() error { return client.Shutdown(ended()) })
	Do(t, "Shutdown", func() error { return server.Shutdown(ended()) })
	Await(t, "the repliers", Go(func() bool { served.Wait(); return true }))
	succeeded := 0
	for i, c := range callers {
		c.check(t, &repliers[i], !cut)
		for _, err := range c.errs {
			if err == nil {
				succeeded++
			}
		}
	}
	t.Logf("%d calls, %d replies, %d connections", 2*n, succeeded, client.ID())
	if succeeded == 0 || succeeded == 2*n {
		t.Error("all calls, or none, have ended with a reply")
	}
}

// TestSoakRequestLoss: within 2 s of a loss every call has ended.
func TestSoakRequestLoss(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(server *gipc.Server, conn net.Conn){
		"cut":      func(server *gipc.Server, conn net.Conn) { conn.Close() },
		"Shutdown": func(server *gipc.Server, conn net.Conn) { server.Shutdown(ended()) },
		"Close":    func(server *gipc.Server, conn net.Conn) { server.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			Bubble(t, func(t *testing.T) {
				network := &PipeNetwork{}
				server := startServer(t, &gipc.ServerConfig{Name: "test", Listener: network.Listen(), Heartbeat: -1})
				var conn net.Conn
				dialed := false
				client := startClient(t, &gipc.ClientConfig{Name: "test", Heartbeat: -1, Dial: func(ctx context.Context) (net.Conn, error) {
					if dialed {
						<-ctx.Done() // there is one connection
						return nil, ctx.Err()
					}
					dialed = true
					c, err := network.Dial(ctx)
					conn = c
					return c, err
				}})
				waitConnected(t, server)
				const n = 1000
				lost := make(chan time.Time, 1)
				var done atomic.Int64
				var wg sync.WaitGroup
				pace := func(error) {
					if done.Add(1) == n/2 {
						lost <- time.Now()
						wg.Go(func() { lose(server, conn) })
					}
				}
				var repliers [2]replier
				var served sync.WaitGroup
				served.Go(func() { repliers[0].serve(server) })
				served.Go(func() { repliers[1].serve(client) })
				callers := [2]*caller{{e: client, total: n, pace: pace}, {e: server, total: n, pace: pace}}
				called := Go(func() time.Time {
					var wg sync.WaitGroup
					for _, c := range callers {
						wg.Go(c.run)
					}
					wg.Wait()
					return time.Now()
				})
				at := Await(t, "the loss", lost)
				if d := Await(t, "the calls", called).Sub(at); d > 2*time.Second {
					t.Errorf("the last call ended %v after the loss", d)
				}
				wg.Wait()
				client.Shutdown(ended())
				server.Shutdown(ended())
				served.Wait()
				for i, c := range callers {
					c.check(t, &repliers[i], false)
				}
			})
		})
	}
}

// requestServer serves requests until it is killed.
func requestServer(args []string) error {
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "test", Network: "unix", Address: args[0]})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	new(replier).serve(server)
	return nil
}

// TestSoakRequestKill kills the process of the server under calls.
func TestSoakRequestKill(t *testing.T) {
	t.Parallel()
	address := TempSocket(t)
	child := StartChild(t, "requests: server", address)
	if line := child.Line(); line != "ready" {
		t.Fatal(line)
	}
	client := startClient(t, &gipc.ClientConfig{Name: "test", Network: "unix", Address: address})
	waitConnected(t, client)
	n := min(EnvInt(t, "GIPC_SOAK_CALLS", 1000), 20_000) // in a few seconds
	half := make(chan struct{})
	var done atomic.Int64
	c := &caller{e: client, total: n, pace: func(error) {
		if done.Add(1) == int64(n/2) {
			close(half)
		}
	}}
	called := Go(func() bool { c.run(); return true })
	Await(t, "half of the calls", half)
	child.Kill()
	Await(t, "all calls", called)
	replies, unsure, unsent := 0, 0, 0
	for i, err := range c.errs {
		switch {
		case c.ended[i].Load() != 1:
			t.Errorf("call %d ended %d times", i, c.ended[i].Load())
		case err == nil:
			replies++
		case errors.Is(err, gipc.ErrUnconfirmed) && !errors.Is(err, gipc.ErrNotConnected):
			unsure++
		case errors.Is(err, gipc.ErrNotConnected):
			unsent++
		default:
			t.Errorf("call %d: %v", i, err)
		}
	}
	c.problems.report(t)
	t.Logf("%d replies, %d unconfirmed, %d not sent", replies, unsure, unsent)
	if replies < n/2 {
		t.Errorf("%d replies, want %d at least", replies, n/2)
	}
}

// many returns the number of requests that a memory test sends.
func many() string {
	if testing.Short() || raceOn() {
		return "100000"
	}
	return "1000000"
}

// floodFrames writes n frames, many with each call. It reuses its memory, because what is
// allocated during a collection counts as live.
func floodFrames(p *RawPeer, n int, frame func(i int) Frame) <-chan error {
	return Go(func() error {
		var batch []byte
		for i := range n {
			batch = frame(i).AppendTo(batch)
			if len(batch) > 32<<10 || i == n-1 {
				if _, err := p.Write(batch); err != nil {
					return err
				}
				batch = batch[:0]
			}
		}
		return nil
	})
}

// memoryUnanswered reads requests and keeps nothing of them.
func memoryUnanswered(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	client, peer, _, err := childPair()
	if err != nil {
		return err
	}
	peer.SetDeadline(time.Time{})
	heap := WatchHeap()
	data := Payload(1, 20)
	sent := floodFrames(peer, n, func(i int) Frame { return request(uint64(i)+1, 1, data) })
	for came := 0; came < n; {
		m, err := client.Read()
		if err != nil {
			return err
		}
		if m.IsRequest() {
			came++
		} else if m.Err != nil {
			return m.Err
		}
	}
	if err := <-sent; err != nil {
		return err
	}
	reportHeap(heap)
	if s := client.Stats(); s.Requests != uint64(n) || s.Received != uint64(n) {
		return fmt.Errorf("%+v", s)
	}
	client.Shutdown(ended())
	return peer.Close()
}

// memoryUnreadRequests has nobody read the requests that come.
func memoryUnreadRequests(args []string) error {
	client, peer, _, err := childPair()
	if err != nil {
		return err
	}
	heap := WatchHeap()
	var sent atomic.Int64
	done := floodFrames(peer, 100_000, func(i int) Frame {
		sent.Add(1)
		return request(uint64(i)+1, 1, nil)
	})
	for last := int64(-1); last != sent.Load(); { // until the peer is blocked
		last = sent.Load()
		client.WaitConnected(context.Background())
		<-time.After(500 * time.Millisecond)
	}
	reportHeap(heap)
	client.Shutdown(ended())
	peer.Close()
	<-done
	return nil
}

// memoryGivenUp gives up calls that the peer never answers.
func memoryGivenUp(args []string) error {
	client, peer, _, err := childPair()
	if err != nil {
		return err
	}
	peer.SetDeadline(time.Time{})
	go io.Copy(io.Discard, peer)
	heap := WatchHeap()
	unconfirmed := 0
	for range 30_000 {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Microsecond)
		_, err := client.Call(ctx, 1, make([]byte, 500))
		cancel()
		switch {
		case errors.Is(err, gipc.ErrUnconfirmed):
			unconfirmed++
		case !errors.Is(err, context.DeadlineExceeded):
			return fmt.Errorf("Call: %w", err)
		}
	}
	reportHeap(heap)
	if s := client.Stats(); s.Calls != uint64(unconfirmed) || unconfirmed == 0 {
		return fmt.Errorf("%d calls were sent: %+v", unconfirmed, s)
	}
	client.Shutdown(ended())
	return peer.Close()
}

// memoryRepliesToNothing gets replies that nobody waits for, while nobody reads.
func memoryRepliesToNothing(args []string) error {
	client, peer, _, err := childPair()
	if err != nil {
		return err
	}
	const n = 200_000
	data := Payload(1, 100)
	heap := WatchHeap()
	if err := <-floodFrames(peer, n, func(i int) Frame { return reply(uint64(i)+1, 1, data) }); err != nil {
		return err
	}
	for {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-client.Done():
			return client.Err()
		}
		if s := client.Stats(); s.Dropped == n {
			break
		}
	}
	reportHeap(heap)
	client.Shutdown(ended())
	return peer.Close()
}

// TestRequestMemory: what is neither kept nor awaited costs no memory.
func TestRequestMemory(t *testing.T) {
	t.Parallel()
	for child, limit := range map[string]int{"requests: unanswered": 8 << 20, "requests: unread": 2 << 20, "requests: given up": 3 << 20, "requests: replies to nothing": 12 << 20} {
		t.Run(child, func(t *testing.T) {
			t.Parallel()
			wantBoundedHeap(t, child, limit, many())
		})
	}
}

// TestSoakRequestBehindAStream: the peer of a caller streams messages that nobody reads. The
// call ends with its context and says why; calls work again as soon as somebody reads, and
// nothing of the stream is lost. GIPC_SOAK_STREAM is its length in bytes.
func TestSoakRequestBehindAStream(t *testing.T) {
	t.Parallel()
	const size = 32 << 10
	messages := EnvInt(t, "GIPC_SOAK_STREAM", 32<<20) / size
	address := TempSocket(t)
	server := startServer(t, &gipc.ServerConfig{Name: "stream", Network: "unix", Address: address})
	client := startClient(t, &gipc.ClientConfig{Name: "stream", Network: "unix", Address: address})
	progress := WatchProgress(t, "messages", func() { server.Shutdown(ended()); client.Shutdown(ended()) })
	streamed := Go(func() error {
		for i := range messages {
			if err := server.Write(1, Payload(i, size)); err != nil {
				return err
			}
		}
		return nil
	})
	answered := Go(func() error {
		for m, err := range server.Messages(context.Background()) {
			if err != nil {
				return err
			}
			if err := m.Reply(2, m.Data); err != nil {
				return err
			}
		}
		return nil
	})
	var err error
	for err == nil { // the first calls may be ahead of the stream
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err = client.Call(ctx, 1, []byte("before"))
		cancel()
	}
	WantErr(t, "a call that nobody reads for", err, gipc.ErrUnconfirmed, context.DeadlineExceeded)
	if !strings.Contains(err.Error(), unreadText) {
		t.Errorf("%v, want the text %q", err, unreadText)
	}

	read := Go(func() error {
		next := 0
		for m, err := range client.Messages(context.Background()) {
			if err != nil {
				return err
			}
			if n := numberOf(m.Data); n != next || !bytes.Equal(m.Data, Payload(n, size)) {
				return fmt.Errorf("message %d instead of %d", n, next)
			}
			progress.Move()
			if next++; next == messages {
				return nil
			}
		}
		return errors.New("the client is closed")
	})
	for i := range 100 {
		want := Payload(i, 50)
		reply, err := client.Call(t.Context(), 1, want)
		if err != nil || !bytes.Equal(reply.Data, want) {
			t.Fatalf("call %d behind a reader: %v, %v", i, reply, err)
		}
		progress.Move()
	}
	WantErr(t, "the stream", Await(t, "the stream", streamed))
	WantErr(t, "its reader", Await(t, "its reader", read))
	Do(t, "Close of the client", client.Close)
	Do(t, "Close of the server", server.Close)
	WantErr(t, "the replier", Await(t, "the replier", answered))
}
