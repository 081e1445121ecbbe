// Many clients: every way to read from them and to write to them, crowds that
// come and go, and hostile ones among good ones.

package gipc

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/gipc/internal/testutil"
	"example.com/gipc/internal/transport"
)

// Set in the environment, GIPC_LONG makes the tests of crowds as large and as
// long as they are meant. 10,000 clients need 10,100 descriptors in one process.
var long = os.Getenv("GIPC_LONG") != ""

// thousand is a crowd that comes at the same instant. Under the race detector a
// key exchange costs many times as much, and a handshake has ten seconds.
var thousand = func() int {
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		return 200
	}
	return 1000
}()

// A crowd is a server of many clients and what connects to it.
type crowd struct {
	t      *testing.T
	s      *Server
	client ClientConfig
	mu     sync.Mutex
	all    []*Client
}

// gather starts a server on a unix socket, or on the listener of the config.
func gather(t *testing.T, server ServerConfig, client ClientConfig) *crowd {
	t.Helper()
	server.Name, client.Name = "many", "many"
	server.MultiClient = true
	if server.Listener == nil && server.Network != "tcp" {
		server.Network, client.Network = "unix", "unix"
		server.Address = testutil.TempSocket(t)
		client.Address = server.Address
	}
	s, err := StartServer(&server)
	if err != nil {
		t.Fatal(err)
	}
	if server.Network == "tcp" {
		client.Network, client.Address = "tcp", s.listenerState.listener.Addr().String()
	}
	c := &crowd{t: t, s: s, client: client}
	t.Cleanup(c.end)
	return c
}

// gatherPipe starts a server behind net.Pipe, for tests that have their own time.
func gatherPipe(t *testing.T, server ServerConfig) *crowd {
	t.Helper()
	l := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
	server.Encryption, server.Listener = EncryptionOff, l
	dial := func(ctx context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		select {
		case l.conns <- far:
			return near, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-l.done:
			return nil, errors.New("no server")
		}
	}
	return gather(t, server, ClientConfig{Encryption: EncryptionOff, Dial: dial})
}

// plain is for crowds whose cryptography is not what is tested.
func gatherPlain(t *testing.T, server ServerConfig) *crowd {
	t.Helper()
	server.Encryption = EncryptionOff
	return gather(t, server, ClientConfig{Encryption: EncryptionOff})
}

// end closes the server first: clients that close wait for a server that reads.
func (c *crowd) end() {
	c.s.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	var wg sync.WaitGroup
	for _, one := range c.all {
		wg.Go(func() { one.Close() })
	}
	wg.Wait()
}

func (c *crowd) join() *Client {
	one, err := StartClient(&c.client)
	if err != nil {
		c.t.Error(err)
		runtime.Goexit()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, one)
	return one
}

// joinMany lets n clients dial at the same instant.
func (c *crowd) joinMany(n int) []*Client {
	c.t.Helper()
	clients := make([]*Client, n)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			<-start
			clients[i] = c.join()
		})
	}
	close(start)
	wg.Wait()
	if c.t.Failed() {
		c.t.FailNow()
	}
	return clients
}

// member joins and returns the client with the server's end of it, whose
// Connected it has read. Nobody else may read or join meanwhile.
func (c *crowd) member() (*Client, *Server) {
	c.t.Helper()
	before := c.s.Connections.readableClients()
	one := c.join()
	var srv *Server
	eventually(c.t, "the server has the new client", func() bool {
		for s := range c.s.Connections.All() {
			if !slices.Contains(before, s) {
				srv = s
			}
		}
		return srv != nil
	})
	skipStatus(c.t, srv, 1)
	return one, srv
}

// raw connects without the library's client, up to the end of the handshake.
func (c *crowd) raw() net.Conn {
	c.t.Helper()
	conn := c.dial()
	hello, err := clientHello(conn, &handshakeConfig{name: "many", maxDataSize: defaultMsgSize, encrypt: c.s.settings.encrypt}, clientSide{newKey: newECDHKey})
	if err == nil {
		_, err = hello.readFinish()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return conn
}

func (c *crowd) dial() net.Conn {
	c.t.Helper()
	dial := c.client.Dial
	if dial == nil {
		dial = func(context.Context) (net.Conn, error) { return net.Dial(c.client.Network, c.client.Address) }
	}
	conn, err := dial(context.Background())
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	return conn
}

// eventually waits until a condition holds that nothing announces.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for giveUp := time.After(30 * time.Second); !holds(); {
		select {
		case <-giveUp:
			t.Fatalf("not within 30 s: %s", what)
		case <-time.After(time.Millisecond):
		}
	}
}

// write sends numbers, each a message.
func write(t testing.TB, e interface{ Write(int, []byte) error }, numbers ...uint64) {
	t.Helper()
	for _, n := range numbers {
		if err := e.Write(1, binary.BigEndian.AppendUint64(nil, n)); err != nil {
			t.Error(err)
			return
		}
	}
}

// A ledger notes what comes from each client and finds what is out of order.
type ledger struct {
	t    testing.TB
	mu   sync.Mutex
	of   map[*Server][]string
	over []error
}

func newLedger(t testing.TB) *ledger { return &ledger{t: t, of: map[*Server][]string{}} }

func (l *ledger) note(srv *Server, m *Message, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err != nil:
		if m != nil {
			l.t.Errorf("a message with the error %v", err)
		}
		l.over = append(l.over, err)
		l.of[srv] = append(l.of[srv], "over")
	case m == TimeoutMessage:
		l.of[srv] = append(l.of[srv], "timeout")
	case m.MsgType == statusType:
		l.of[srv] = append(l.of[srv], m.Status)
	default:
		l.of[srv] = append(l.of[srv], fmt.Sprint(binary.BigEndian.Uint64(m.Data)))
	}
}

// take returns what has come from a client since the last take.
func (l *ledger) take(srv *Server) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	got := strings.Join(l.of[srv], " ")
	delete(l.of, srv)
	return got
}

// want checks what has come since the last look: pairs of a client and a text.
func (l *ledger) want(pairs ...any) {
	l.t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if got := l.take(pairs[i].(*Server)); got != pairs[i+1] {
			l.t.Errorf("client %d had %q, want %q", pairs[i].(*Server).ID(), got, pairs[i+1])
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for srv, got := range l.of {
		l.t.Errorf("client %d had %q, want nothing", srv.ID(), got)
	}
	clear(l.of)
}

// inBubble runs a test once for each way of calling back, in a time of its own.
func inBubble(t *testing.T, f func(t *testing.T, c *crowd, read func(time.Duration, func(*Server, *Message, error)))) {
	for _, name := range []string{"ReadTimed", "ReadTimedFastest"} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c := gatherPipe(t, ServerConfig{})
				read := c.s.Connections.ReadTimed
				if name == "ReadTimedFastest" {
					read = c.s.Connections.ReadTimedFastest
				}
				f(t, c, read)
			})
		})
	}
}

func TestTimedReadsEachMessageOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, c *crowd, read func(time.Duration, func(*Server, *Message, error))) {
		const talkers, n = 4, 200
		var writers sync.WaitGroup
		for i, one := range c.joinMany(talkers + 1) {
			if i == talkers {
				break // this one is silent
			}
			writers.Go(func() {
				for k := range uint64(n) {
					<-time.After(rand.N(20 * time.Millisecond))
					write(t, one, k)
				}
			})
		}
		defer writers.Wait()
		synctest.Wait() // the server has them all
		var mu sync.Mutex
		next, timeouts, total := map[*Server]uint64{}, map[*Server]int{}, 0
		calls := 0
		for total < talkers*n && calls < 100000 {
			calls++
			read(10*time.Millisecond, func(srv *Server, m *Message, err error) {
				mu.Lock()
				defer mu.Unlock()
				_, known := next[srv]
				switch {
				case err != nil:
					t.Error(err)
				case m == TimeoutMessage:
					timeouts[srv]++
				case m.MsgType == statusType:
					if (known || m.Status != "Connected") && m.Status != "Closed" {
						t.Errorf("client %d: %+v, want Connected once and first", srv.ID(), m)
					}
					next[srv] = 0
				default:
					if k := binary.BigEndian.Uint64(m.Data); !known || k != next[srv] {
						t.Errorf("client %d: message %d, want %d", srv.ID(), k, next[srv])
					}
					next[srv]++
					total++
				}
			})
		}
		if total != talkers*n {
			t.Errorf("%d messages, want %d", total, talkers*n)
		}
		silent := 0
		for srv, k := range next {
			if k == 0 {
				silent++
				// For ReadTimedFastest a newer call's time replaces an older one's.
				if timeouts[srv] == 0 || t.Name() == "TestTimedReadsEachMessageOnce/ReadTimed" && timeouts[srv] != calls-1 {
					t.Errorf("the silent client had %d timeouts in %d calls", timeouts[srv], calls)
				}
			}
		}
		if silent != 1 || len(next) != talkers+1 {
			t.Errorf("%d clients, %d silent; want %d and 1", len(next), silent, talkers+1)
		}
	})
}

// An endingContext ends when its Err has been called so many times.
type endingContext struct {
	context.Context
	left atomic.Int64
}

func (c *endingContext) Err() error {
	if c.left.Add(-1) < 0 {
		return context.Canceled
	}
	return nil
}

// TestBroadcastEndsWithItsContext: the clients to which nothing was written when the
// context ends get nothing, and the error says so of each.
func TestBroadcastEndsWithItsContext(t *testing.T) {
	t.Parallel()
	c := gather(t, ServerConfig{}, ClientConfig{})
	for range 20 {
		c.member()
	}
	clients := slices.Collect(c.s.Connections.All())
	for written := range len(clients) {
		before := c.s.Stats().Sent
		ctx := &endingContext{Context: t.Context()}
		ctx.left.Store(int64(written))
		err := broadcastSmall(ctx, clients, frameHeader{frameType: 1, dataSize: 3}, []byte("abc"))
		var failed []error
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			failed = joined.Unwrap()
		}
		if sent := c.s.Stats().Sent - before; sent != uint64(written) || len(failed) != len(clients)-written || !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnconfirmed) {
			t.Errorf("ended after %d clients: %d messages sent, %d errors: %v", written, sent, len(failed), err)
		}
	}
}

func TestTimedReadsLeaveNoGoroutine(t *testing.T) {
	inBubble(t, func(t *testing.T, c *crowd, read func(time.Duration, func(*Server, *Message, error))) {
		clients := c.joinMany(3)
		var calledBack atomic.Int64
		turn := func(i int) {
			if i%10 == 0 {
				write(t, clients[0], 1)
			}
			read(time.Millisecond, func(*Server, *Message, error) { calledBack.Add(1) })
		}
		for i := range 100 {
			turn(i)
		}
		synctest.Wait()
		before := runtime.NumGoroutine()
		for i := range 10000 {
			turn(i)
		}
		synctest.Wait()
		if after := runtime.NumGoroutine(); after > before+3 {
			t.Errorf("%d goroutines before 10,000 calls, %d after", before, after)
		}
		if n := calledBack.Load(); n < 10000 {
			t.Errorf("%d callbacks in 10,100 calls", n)
		}
	})
}

func TestTimedReadsWaitForTheFirst(t *testing.T) {
	inBubble(t, func(t *testing.T, c *crowd, read func(time.Duration, func(*Server, *Message, error))) {
		l := newLedger(t)
		for _, d := range []time.Duration{-1, 0, time.Second} {
			start := time.Now()
			read(d, l.note)
			if took := time.Since(start); took != max(0, d) {
				t.Errorf("without a client a read of %v took %v", d, took)
			}
			l.want()
		}
		start := time.Now()
		go func() {
			<-time.After(300 * time.Millisecond)
			c.join()
		}()
		read(time.Second, l.note)
		if took := time.Since(start); took != 300*time.Millisecond {
			t.Errorf("the first client came after 300ms, the read took %v", took)
		}
		for srv := range c.s.Connections.All() {
			l.want(srv, "Connected")
		}
	})
}

func TestTimedReadsOfOneThatJoins(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := gatherPipe(t, ServerConfig{})
		read := c.s.Connections.ReadTimed
		l := newLedger(t)
		_, a := c.member()
		done := make(chan struct{})
		go func() {
			defer close(done)
			read(time.Second, l.note)
		}()
		synctest.Wait()
		write(t, c.join(), 7)
		<-done
		synctest.Wait()
		l.want(a, "timeout")
		var b *Server
		for srv := range c.s.Connections.All() {
			if srv != a {
				b = srv
			}
		}
		read(time.Second, l.note)
		<-time.After(2 * time.Second)
		l.want(a, "timeout", b, "Connected")
		start := time.Now()
		read(time.Second, l.note)
		if took := time.Since(start); strings.HasSuffix(t.Name(), "Fastest") && took != 0 {
			t.Errorf("what has come since long was read after %v", took)
		}
		<-time.After(2 * time.Second)
		l.want(a, "timeout", b, "7")
	})
}

func TestTimedReadsAfterClose(t *testing.T) {
	inBubble(t, func(t *testing.T, c *crowd, read func(time.Duration, func(*Server, *Message, error))) {
		l := newLedger(t)
		done := make(chan struct{})
		go func() {
			defer close(done)
			read(time.Hour, l.note) // without a client: Close ends it
		}()
		synctest.Wait()
		start := time.Now()
		if err := c.s.Close(); err != nil {
			t.Error(err)
		}
		<-done
		if took := time.Since(start); took > time.Minute {
			t.Errorf("a read without a client returned %v after Close", took)
		}
		l.want(c.s, "over")
		read(time.Hour, l.note)
		l.want(c.s, "over")
		if !errors.Is(l.over[0], ErrClosed) {
			t.Errorf("%v, want ErrClosed", l.over[0])
		}
	})
	inBubble(t, func(t *testing.T, c *crowd, read func(time.Duration, func(*Server, *Message, error))) {
		l := newLedger(t)
		_, a := c.member()
		done := make(chan struct{})
		go func() {
			defer close(done)
			read(time.Hour, l.note)
		}()
		synctest.Wait()
		if err := c.s.Close(); err != nil {
			t.Error(err)
		}
		<-done
		l.want(a, "Closed")
		read(time.Hour, l.note)
		l.want(c.s, "over")
	})
}

func TestReadTimedWaitsForTheSlowest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := gatherPipe(t, ServerConfig{})
		one, a := c.member()
		c.member() // has nothing
		write(t, one, 1)
		var ended []time.Duration
		start := time.Now()
		var mu sync.Mutex
		c.s.Connections.ReadTimed(time.Second, func(srv *Server, m *Message, err error) {
			if srv == a {
				<-time.After(5 * time.Second)
			}
			mu.Lock()
			defer mu.Unlock()
			ended = append(ended, time.Since(start))
		})
		if took := time.Since(start); took != 5*time.Second || len(ended) != 2 || ended[0] < time.Second || ended[0] > 1100*time.Millisecond {
			t.Errorf("callbacks ended at %v, ReadTimed at %v", ended, took)
		}
	})
}

// Who has left in the middle of a call, and was read by another reader, is not
// called back for.
func TestReadTimedWhenAnotherReaderIsFaster(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := gatherPipe(t, ServerConfig{})
		one, a := c.member()
		// Whether one of them reads itself or all are in line: it is not the last.
		read := make(chan string, 2)
		for range 2 {
			go func() {
				m, err := a.Read()
				read <- fmt.Sprint(m, err)
			}()
			synctest.Wait()
		}
		l := newLedger(t)
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.s.Connections.ReadTimed(time.Hour, l.note)
		}()
		synctest.Wait()
		start := time.Now()
		one.Close()
		<-done
		if took := time.Since(start); took > time.Minute {
			t.Errorf("the call took %v", took)
		}
		l.want()
		if got := <-read + <-read; strings.Count(got, "Disconnected") != 1 {
			t.Errorf("the other readers have %s", got)
		}
	})
}

// Nobody has asked one who joins late, and still it is read.
func TestFastestOfOneThatJoinsLate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := gatherPipe(t, ServerConfig{})
		p := c.s.Connections
		c.member()
		l := newLedger(t)
		p.ReadTimedFastest(time.Second, l.note)
		one := c.join()
		go write(t, one, 7)
		synctest.Wait()
		start := time.Now()
		for range 2 {
			p.ReadTimedFastest(time.Second, l.note)
			synctest.Wait()
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("what was there was read after %v", took)
		}
		for srv := range p.All() {
			if srv.ID() == 2 {
				if got := l.take(srv); got != "Connected 7" {
					t.Errorf("the late one had %q", got)
				}
			}
		}
	})
}

// What another reader takes from an asked client leaves the call in wait for
// the next, and the end of the last client ends it.
func TestFastestWhenAnotherReaderIsFaster(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := gatherPipe(t, ServerConfig{})
		p := c.s.Connections
		one, a := c.member()
		l := newLedger(t)
		read := make(chan error)
		go func() {
			_, err := a.Read()
			read <- err
		}()
		synctest.Wait()
		var calls sync.WaitGroup
		for range 2 {
			calls.Go(func() { p.ReadTimedFastest(time.Hour, l.note) })
		}
		synctest.Wait()
		write(t, one, 1)
		if err := <-read; err != nil {
			t.Error(err)
		}
		synctest.Wait()
		l.want()
		go func() {
			for {
				if _, err := a.Read(); err != nil {
					read <- err
					return
				}
			}
		}()
		synctest.Wait()
		start := time.Now()
		c.s.Close()
		if err := <-read; !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		calls.Wait()
		if took := time.Since(start); took > time.Minute {
			t.Errorf("the calls ended %v after Close", took)
		}
		l.want(c.s, "over over")
	})
}

func TestPoolOfOneClient(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, one := pipeEnds(t, ServerConfig{}, ClientConfig{}, nil)
		p := s.Connections
		synctest.Wait()
		if all := slices.Collect(p.All()); len(all) != 1 || all[0] != s || p.Len() != 1 {
			t.Errorf("the pool holds %v", all)
		}
		l := newLedger(t)
		p.ReadTimed(time.Second, l.note)
		l.want(s, "Connected")
		write(t, one, 1, 2, 3, 4)
		p.ReadTimed(time.Second, l.note)
		p.ReadTimedFastest(time.Second, l.note)
		for srv, m := range p.Messages(t.Context()) {
			l.note(srv, m, nil)
			break
		}
		l.want(s, "1 2 3")
		if err := p.Broadcast(t.Context(), 1, nil); err != nil {
			t.Error(err)
		}
		served := make(chan error)
		go func() {
			served <- p.Serve(context.Background(), func(srv *Server, m *Message) { l.note(srv, m, nil) })
		}()
		one.Close()
		synctest.Wait()
		l.want(s, "4 Disconnected")
		if p.Len() != 0 {
			t.Error("a client that has left counts")
		}
		s.Close()
		if err := <-served; !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		l.want(s, "Closed")
		p.ReadTimed(time.Hour, l.note)
		p.ReadTimedFastest(time.Hour, l.note)
		l.want(s, "over over")
	})
}

func TestServe(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := gatherPipe(t, ServerConfig{})
		p := c.s.Connections
		one, a := c.member()
		l := newLedger(t)
		ctx, cancel := context.WithCancelCause(context.Background())
		release := make(chan struct{})
		served := make(chan error, 1)
		go func() {
			served <- p.Serve(ctx, func(srv *Server, m *Message) {
				l.note(srv, m, nil)
				if m.MsgType == 1 {
					<-release
				}
			})
		}()
		synctest.Wait()
		two := c.join() // later than Serve
		c.join()        // has nothing to say
		write(t, one, 1, 2)
		write(t, two, 3)
		synctest.Wait()
		var b, idle *Server
		for srv := range p.All() {
			switch {
			case srv == a:
			case l.take(srv) == "Connected 3":
				b = srv
			default:
				idle = srv
			}
		}
		l.want(a, "1")
		cancel(errors.New("enough"))
		synctest.Wait()
		select {
		case err := <-served:
			t.Fatalf("Serve returned %v before its handlers", err)
		default:
		}
		close(release)
		if err := <-served; !errors.Is(err, context.Canceled) || err.Error() != "gipc: serve: context canceled: enough" {
			t.Error(err)
		}
		l.want()
		write(t, two, 4)
		go func() {
			served <- p.Serve(context.Background(), func(srv *Server, m *Message) { l.note(srv, m, nil) })
		}()
		synctest.Wait()
		l.want(a, "2", b, "4")
		two.Close()
		synctest.Wait()
		l.want(b, "Disconnected")
		c.s.Close()
		if err := <-served; !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		l.want(a, "Closed", idle, "Closed")
		if err := p.Serve(ctx, func(*Server, *Message) {}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if err := p.Serve(context.Background(), func(*Server, *Message) {}); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
}

func TestCloseInsideAHandler(t *testing.T) {
	for _, top := range []bool{true, false} {
		bubble(t, func(t *testing.T) {
			c := gatherPipe(t, ServerConfig{})
			clients := c.joinMany(3)
			served := make(chan error, 1)
			var closes atomic.Int64
			go func() {
				served <- c.s.Connections.Serve(context.Background(), func(srv *Server, m *Message) {
					if m.MsgType != 1 {
						return
					}
					closed := srv.Close
					if top {
						closed = c.s.Close
					}
					if err := closed(); err != nil {
						t.Error(err)
					}
					closes.Add(1)
				})
			}()
			start := time.Now()
			for _, one := range clients {
				go one.Write(1, nil)
			}
			synctest.Wait()
			if took := time.Since(start); closes.Load() == 0 || took > time.Second {
				t.Errorf("%d handlers have closed within %v", closes.Load(), took)
			}
			if !top {
				if closes.Load() != 3 {
					t.Errorf("%d handlers have closed their client, want 3", closes.Load())
				}
				c.s.Close()
			}
			if err := <-served; !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
		})
	}
}

// A client that floods has no more turns than one that says a word.
func TestMessagesRoundRobin(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := gatherPipe(t, ServerConfig{})
		const n = 10
		clients := c.joinMany(n)
		flooder := c.join()
		const flood = 3000
		go write(t, flooder, slices.Repeat([]uint64{9}, flood)...)
		seen := map[*Server]int{}
		i, last := 0, 0
		for srv, m := range c.s.Connections.Messages(t.Context()) {
			if i++; i == n+2 {
				// Its queue is full now: it has been in line since long.
				synctest.Wait()
				for _, one := range clients {
					write(t, one, 1)
				}
				synctest.Wait()
			}
			if m.MsgType != 1 {
				continue
			}
			seen[srv]++
			if binary.BigEndian.Uint64(m.Data) == 1 {
				last = i
			}
			if len(seen) == n+1 && seen[srv] == flood {
				break
			}
		}
		if last == 0 || last > n+2+2*(n+1) {
			t.Errorf("the last word of %d came as message %d; %d were read before it was said", n, last, n+2)
		}
	})
}

func TestMessagesBreakOffAndEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := gatherPipe(t, ServerConfig{})
		p := c.s.Connections
		const n = 50
		next := map[*Server]uint64{}
		for _, one := range c.joinMany(3) {
			go func() {
				for k := range uint64(n) {
					write(t, one, k)
				}
			}()
		}
		for range 3 * (n + 1) {
			for srv, m := range p.Messages(t.Context()) {
				if m.MsgType == 1 {
					if k := binary.BigEndian.Uint64(m.Data); k != next[srv] {
						t.Errorf("client %d: message %d, want %d", srv.ID(), k, next[srv])
					}
					next[srv]++
				}
				break
			}
		}
		for srv, k := range next {
			if k != n {
				t.Errorf("client %d: %d messages, want %d", srv.ID(), k, n)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		for _, m := range p.Messages(ctx) {
			t.Errorf("a message too many: %+v", m)
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("the sequence ended after %v, its context after 1s", took)
		}
		c.s.Close()
		closed := 0
		for _, m := range p.Messages(t.Context()) {
			if m.Status == "Closed" {
				closed++
			}
		}
		if closed != 3 {
			t.Errorf("%d clients were read to the end, want 3", closed)
		}
	})
}

// All ways at once: each message goes to one of them, in order for each.
func TestMixedReaders(t *testing.T) {
	c := gather(t, ServerConfig{}, ClientConfig{})
	p := c.s.Connections
	const clients, n = 10, 1000
	var mu sync.Mutex
	seen := map[*Server][]int{}
	total := 0
	all := make(chan struct{})
	note := func(last map[*Server]uint64, srv *Server, m *Message) {
		mu.Lock()
		defer mu.Unlock()
		if m == TimeoutMessage || m.MsgType != 1 {
			return
		}
		k := binary.BigEndian.Uint64(m.Data)
		if last[srv] >= k {
			t.Errorf("client %d: one reader has message %d after %d", srv.ID(), k, last[srv])
		}
		last[srv] = k
		if seen[srv] == nil {
			seen[srv] = make([]int, n+1)
		}
		seen[srv][k]++
		if total++; total == clients*n {
			close(all)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	ways := map[string]int{}
	for name, way := range ways4 {
		wg.Go(func() {
			last := map[*Server]uint64{}
			way(ctx, p, func(srv *Server, m *Message) {
				note(last, srv, m)
				if m.MsgType == 1 {
					mu.Lock()
					ways[name]++
					mu.Unlock()
				}
			})
		})
	}
	for _, one := range c.joinMany(clients) {
		go func() {
			for k := range uint64(n) {
				write(t, one, k+1)
			}
		}()
	}
	eventually(t, "the server has all clients", func() bool { return p.Len() == clients })
	for srv := range p.All() {
		wg.Go(func() {
			last := map[*Server]uint64{}
			for m := range srv.Messages(ctx) {
				if m != nil {
					note(last, srv, m)
				}
			}
		})
	}
	select {
	case <-all:
	case <-time.After(60 * time.Second):
		t.Errorf("%d messages, want %d", total, clients*n)
	}
	c.s.Close()
	wg.Wait()
	for srv, counts := range seen {
		for k, count := range counts[1:] {
			if count != 1 {
				t.Fatalf("client %d: message %d was read %d times", srv.ID(), k+1, count)
			}
		}
	}
	t.Log(ways)
}

// ways4 are the ways to read all clients until the server is closed.
var ways4 = map[string]func(context.Context, *ConnectionPool, func(*Server, *Message)){
	"Serve": func(ctx context.Context, p *ConnectionPool, handle func(*Server, *Message)) { p.Serve(ctx, handle) },
	"Messages": func(ctx context.Context, p *ConnectionPool, handle func(*Server, *Message)) {
		for srv, m := range p.Messages(ctx) {
			handle(srv, m)
		}
	},
	"ReadTimed": func(ctx context.Context, p *ConnectionPool, handle func(*Server, *Message)) {
		timed(ctx, p.ReadTimed, handle)
	},
	"ReadTimedFastest": func(ctx context.Context, p *ConnectionPool, handle func(*Server, *Message)) {
		timed(ctx, p.ReadTimedFastest, handle)
	},
}

func timed(ctx context.Context, read func(time.Duration, func(*Server, *Message, error)), handle func(*Server, *Message)) {
	var over atomic.Bool
	var wg sync.WaitGroup // ReadTimedFastest calls back late
	for !over.Load() && ctx.Err() == nil {
		read(10*time.Millisecond, func(srv *Server, m *Message, err error) {
			wg.Add(1)
			defer wg.Done()
			if err != nil {
				over.Store(true)
			} else {
				handle(srv, m)
			}
		})
	}
	wg.Wait()
}

func TestBroadcast(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := gatherPipe(t, ServerConfig{})
		p := c.s.Connections
		clients := c.joinMany(3)
		synctest.Wait()
		c.raw() // never reads
		synctest.Wait()
		var stuck *Server
		for srv := range p.All() {
			if srv.ID() == 4 {
				stuck = srv
			}
		}
		for _, limit := range []time.Duration{time.Second, 300 * time.Millisecond} {
			ctx, cancel := t.Context(), context.CancelFunc(func() {})
			if limit != time.Second {
				ctx, cancel = context.WithTimeout(ctx, limit)
			}
			arrived := make(chan time.Time, 3)
			for _, one := range clients {
				go func() {
					for m := range one.Messages(t.Context()) {
						if m != nil && string(m.Data) == "to all" {
							arrived <- time.Now()
						}
						return
					}
				}()
			}
			start := time.Now()
			err := p.Broadcast(ctx, 1, []byte("to all"))
			cancel()
			if took := time.Since(start); took != limit {
				t.Errorf("Broadcast took %v, want %v", took, limit)
			}
			for range clients {
				if at := <-arrived; at != start {
					t.Errorf("a client waited %v for the stuck one", at.Sub(start))
				}
			}
			var failed *ClientError
			if !errors.As(err, &failed) || failed.Server != stuck || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v, want a ClientError of client 4", err)
			}
			if text := fmt.Sprint(err); strings.Count(text, "gipc: ") != 1 || !strings.HasPrefix(text, "gipc: client 4: ") {
				t.Errorf("the error says %q", text)
			}
		}
		// Not one byte was taken: the stream is whole.
		if stuck.StatusCode() != Connected {
			t.Error("a client that has taken nothing was disconnected")
		}
		if err := p.Broadcast(t.Context(), 0, nil); !errors.Is(err, ErrReservedType) || errors.As(err, new(*ClientError)) {
			t.Error(err)
		}
		go stuck.Close()
		clients[0].Close()
		synctest.Wait()
		if stuck.StatusCode() != Closing || p.Len() != 2 {
			t.Errorf("the status is %v, and %d are connected", stuck.Status(), p.Len())
		}
		if err := p.Broadcast(t.Context(), 1, nil); err != nil {
			t.Errorf("who leaves fails a broadcast: %v", err)
		}
	})
}

// past1 is a context that has ended.
func past1(t testing.TB) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// A client that takes a part of a message and then no more stays connected.
func TestBroadcastStopsInMidFrame(t *testing.T) {
	t.Parallel()
	c := gather(t, ServerConfig{}, ClientConfig{})
	reader, good := c.member()
	go func() {
		for {
			if _, err := reader.Read(); err != nil {
				return
			}
		}
	}()
	raw := c.raw() // its socket takes a part, and then no more
	var stuck *Server
	eventually(t, "two clients", func() bool { return c.s.Connections.Len() == 2 })
	for srv := range c.s.Connections.All() {
		if srv != good {
			stuck = srv
		}
	}
	skipStatus(t, stuck, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // the default of a second is short on a busy machine
	defer cancel()
	err := c.s.Connections.Broadcast(ctx, 1, make([]byte, 3*transport.SendBufferSize))
	var failed *ClientError
	if !errors.As(err, &failed) || failed.Server != stuck || !errors.Is(err, ErrUnconfirmed) {
		t.Errorf("%v, want a ClientError of the stuck client", err)
	}
	if c.s.Connections.Len() != 2 || good.StatusCode() != Connected || stuck.StatusCode() != Connected {
		t.Error("a client is gone")
	}
	raw.Close()
}

func TestManyDialAtOnce(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			n := thousand
			if network == "tcp" {
				n = 100
			}
			testutil.NeedFiles(t, 2*uint64(n)+100)
			c := gather(t, ServerConfig{Network: network, Address: "127.0.0.1:0"}, ClientConfig{})
			if network == "unix" {
				c.client.Heartbeat = 5 * time.Second // an idle crowd is kept alive meanwhile; shorter, a loaded machine is taken for a dead one
			}
			clients := c.joinMany(n)
			eventually(t, "the server has them all", func() bool { return c.s.Connections.Len() == n })
			ids := map[uint64]bool{}
			for srv := range c.s.Connections.All() {
				ids[srv.ID()] = true
			}
			if len(ids) != n || ids[0] {
				t.Errorf("%d clients have %d IDs", n, len(ids))
			}
			for _, one := range clients {
				if s := one.Stats(); s.Reconnects != 0 || one.StatusCode() != Connected {
					t.Fatalf("a client is %v after %d reconnects", one.Status(), s.Reconnects)
				}
			}
		})
	}
}

// Clients come and go at random while the server reads: what each has sent
// before a Close that returned nil is there, and everything is in order.
func TestClientsConnectAndDisconnect(t *testing.T) {
	for name, way := range ways4 {
		t.Run(name, func(t *testing.T) {
			d, crowdSize := time.Second, 200
			if long {
				d = 30 * time.Second
			}
			testutil.NeedFiles(t, 2*uint64(crowdSize)+100)
			comeAndGo(t, way, crowdSize, d)
		})
	}
}

func comeAndGo(t *testing.T, way func(context.Context, *ConnectionPool, func(*Server, *Message)), crowdSize int, d time.Duration) {
	c := gather(t, ServerConfig{}, ClientConfig{})
	p := c.s.Connections
	type visit struct{ visitor, next, ended uint64 } // visitor 0: nothing has come yet
	var mu sync.Mutex
	visits := map[*Server]*visit{}
	arrived := map[uint64]uint64{} // messages, by visitor
	open := 0
	handle := func(srv *Server, m *Message) {
		if m == TimeoutMessage {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		v := visits[srv]
		switch {
		case v == nil && m.Status == "Connected":
			visits[srv] = new(visit)
			open++
		case v == nil || v.ended > 0:
			t.Errorf("client %d: %+v before Connected or after the end", srv.ID(), m)
		case m.MsgType == statusType:
			if v.ended++; m.Status != "Disconnected" {
				t.Errorf("client %d: %q", srv.ID(), m.Status)
			}
			open--
		default:
			visitor, k := binary.BigEndian.Uint64(m.Data), binary.BigEndian.Uint64(m.Data[8:])
			if v.visitor == 0 {
				v.visitor = visitor
			}
			if v.visitor != visitor || v.next != k {
				t.Errorf("client %d: visitor %d, message %d; want %d, %d", srv.ID(), visitor, k, v.visitor, v.next)
			}
			v.next++
			arrived[visitor] = v.next
			if m.MsgType == 2 {
				srv.Write(2, m.Data) // who left in a hurry does not get it
			}
		}
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		way(context.Background(), p, handle)
	}()
	var visitors atomic.Uint64
	promised := sync.Map{} // messages that a Close vouched for, by visitor
	var wg sync.WaitGroup
	end := time.Now().Add(d)
	for range crowdSize {
		wg.Go(func() {
			for time.Now().Before(end) && !t.Failed() {
				if rand.IntN(10) == 0 {
					conn, err := net.Dial("unix", c.client.Address)
					if err != nil {
						continue // the backlog is full
					}
					io.ReadFull(conn, make([]byte, rand.IntN(104)))
					conn.Close()
					continue
				}
				one, err := StartClient(&c.client)
				if err != nil {
					t.Error(err)
					return
				}
				id, n := visitors.Add(1), uint64(rand.IntN(10))
				hurry := rand.IntN(4) == 0
				for k := range n {
					typ := 1
					if k == n-1 {
						typ = 2
					}
					data := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, id), k)
					if err := one.Write(typ, append(data, make([]byte, rand.IntN(2000))...)); err != nil {
						t.Errorf("visitor %d: %v", id, err)
					}
				}
				for answered := n == 0 || hurry; !answered; {
					m, err := one.ReadTimed(20 * time.Second)
					if err != nil || m == TimeoutMessage || m.Status == "Reconnecting" {
						t.Errorf("visitor %d: %+v, %v instead of an answer", id, m, err)
						break
					}
					if answered = m.MsgType == 2; answered && binary.BigEndian.Uint64(m.Data) != id {
						t.Errorf("visitor %d has the answer of %d", id, binary.BigEndian.Uint64(m.Data))
					}
				}
				if hurry {
					one.Shutdown(past1(t))
				} else if err := one.Close(); err != nil {
					t.Errorf("visitor %d: Close: %v", id, err)
				} else {
					promised.Store(id, n)
				}
			}
		})
	}
	wg.Wait()
	eventually(t, "everybody has left and was read", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.members) == 0 && p.reservedSlots == 0
	})
	c.s.Close()
	<-served
	mu.Lock()
	defer mu.Unlock()
	if open != 0 {
		t.Errorf("%d clients had no Disconnected", open)
	}
	promised.Range(func(id, n any) bool {
		if arrived[id.(uint64)] != n.(uint64) {
			t.Errorf("visitor %d wrote %d messages and its Close returned nil; %d arrived", id, n, arrived[id.(uint64)])
		}
		return true
	})
	if s := c.s.Stats(); s.Dropped != 0 || s.Received == 0 {
		t.Errorf("%+v", s)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := p.departed.count + len(p.readyClients); n > 0 {
		t.Errorf("%d clients are still held by a list", n)
	}
	t.Logf("%d visitors, %d visits", visitors.Load(), len(visits))
}

func TestMaxClients(t *testing.T) {
	c := gatherPlain(t, ServerConfig{MaxClients: 2})
	p := c.s.Connections
	// Peers that have not finished their handshake take no place.
	for range 5 {
		conn := c.dial()
		if _, err := io.ReadFull(conn, make([]byte, 6)); err != nil {
			t.Fatal(err)
		}
	}
	one, a := c.member()
	c.member()
	if b, err := io.ReadAll(c.dial()); err != nil || string(b) != string([]byte{0, reasonBusy}) {
		t.Errorf("a client too many read %v, %v; want 0 and the reason 7", b, err)
	}
	// Its own time ends a client that waits; nothing else does.
	brief := c.client
	for brief.Timeout = 100 * time.Millisecond; ; brief.Timeout *= 4 { // a busy machine needs longer to refuse
		_, err := StartClient(&brief)
		if errors.Is(err, ErrTimeout) && errors.Is(err, ErrRefused) {
			break
		}
		if !errors.Is(err, ErrTimeout) || brief.Timeout > 20*time.Second {
			t.Fatalf("%v, want ErrTimeout with ErrRefused", err)
		}
	}
	got := make(chan *Client)
	go func() { got <- c.join() }()
	refused := c.s.Stats().Refused
	eventually(t, "the third client is refused over and over", func() bool { return c.s.Stats().Refused >= refused+3 })
	if p.Len() != 2 {
		t.Errorf("%d clients, want 2", p.Len())
	}
	one.Close()
	<-got // though the one that left was not read to the end
	eventually(t, "the third client is in", func() bool { return p.Len() == 2 })
	if m, err := a.ReadTimed(20 * time.Second); err != nil || m.Status != "Disconnected" {
		t.Error(m, err)
	}
}

func TestAuthorize(t *testing.T) {
	var n atomic.Int64
	both := make(chan struct{})
	peers := make(chan Peer, 10)
	c := gatherPlain(t, ServerConfig{Authorize: func(peer Peer) error {
		peers <- peer
		switch n.Add(1) {
		case 1: // two at the same time
			<-both
		case 2:
			close(both)
		case 3:
			return errors.New("not this one")
		}
		return nil
	}})
	c.joinMany(2)
	peer := <-peers
	if peer.Known && (peer.UID != os.Getuid() || peer.PID != os.Getpid()) || peer.Known != (runtime.GOOS == "linux") {
		t.Errorf("Authorize was asked about %+v", peer)
	}
	for srv := range c.s.Connections.All() {
		if got := srv.Peer(); got.UID != peer.UID || got.PID != peer.PID {
			t.Errorf("Peer is %+v, Authorize was asked about %+v", got, peer)
		}
	}
	if one, err := StartClient(&c.client); !errors.Is(err, ErrRefused) || errors.Is(err, ErrTimeout) || one != nil {
		t.Errorf("%v, %v; want ErrRefused at once", one, err)
	}
	if n.Load() != 3 {
		t.Errorf("a client that was refused has tried %d times", n.Load()-2)
	}
	c.join()
	eventually(t, "the server has counted one refusal", func() bool { return c.s.Stats().Refused == 1 })
}

func TestMultiClientServerMethods(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := gatherPipe(t, ServerConfig{})
		c.joinMany(2)
		s := c.s
		_, err1 := s.Read()
		_, err2 := s.ReadTimed(time.Second)
		_, err3 := s.ReadContext(t.Context())
		for i, err := range []error{err1, err2, err3, s.ReadInto(t.Context(), new(Message)), s.Write(1, nil), s.WriteContext(t.Context(), 1, nil),
			s.Queue(1, nil), s.Flush(), s.WaitConnected(t.Context())} {
			if !errors.Is(err, ErrMultiClient) {
				t.Errorf("call %d: %v, want ErrMultiClient", i, err)
			}
		}
		for _, err := range s.Messages(t.Context()) {
			if !errors.Is(err, ErrMultiClient) {
				t.Errorf("%v, want ErrMultiClient", err)
			}
		}
		if s.StatusCode() != Listening || s.Err() != nil {
			t.Errorf("%v, %v", s.Status(), s.Err())
		}
		s.Close()
		<-s.Done()
		if s.StatusCode() != Closed || !errors.Is(s.Err(), ErrClosed) {
			t.Errorf("%v, %v", s.Status(), s.Err())
		}
	})
}

func TestStatsOfMultiClientServer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := gatherPipe(t, ServerConfig{})
		for i := range uint64(4) {
			one, srv := c.member()
			if srv.ID() != i+1 {
				t.Errorf("the ID of client %d is %d", i+1, srv.ID())
			}
			go write(t, srv, 1, 2, 3)
			write(t, one, 1, 2)
			synctest.Wait()
			if s := srv.Stats(); s != (Stats{Sent: 3, SentBytes: 24, Received: s.Received, ReceivedBytes: 8 * s.Received}) {
				t.Errorf("client %d: %+v", i+1, s)
			}
			skip := func(n int) {
				for range n {
					if _, err := srv.Read(); err != nil {
						t.Error(err)
					}
				}
			}
			if skip(2); i%2 == 1 { // it leaves, and stays in the sum
				go skip(1)
				one.Close()
				synctest.Wait()
			}
			if got, want := c.s.Stats(), (Stats{Sent: 3 * (i + 1), SentBytes: 24 * (i + 1), Received: 2 * (i + 1), ReceivedBytes: 16 * (i + 1)}); got != want {
				t.Errorf("after %d clients: %+v, want %+v", i+1, got, want)
			}
		}
	})
}

func TestHostileClientsDisturbNoOthers(t *testing.T) {
	for name, way := range ways4 {
		t.Run(name, func(t *testing.T) {
			patience := 50 * time.Millisecond // of a program whose one loop also writes
			if name == "Serve" {
				patience = time.Hour
			}
			hostileAmongGood(t, way, patience)
		})
	}
}

func hostileAmongGood(t *testing.T, way func(context.Context, *ConnectionPool, func(*Server, *Message)), patience time.Duration) {
	c := gather(t, ServerConfig{}, ClientConfig{})
	served := make(chan struct{})
	go func() {
		defer close(served)
		way(context.Background(), c.s.Connections, func(srv *Server, m *Message) {
			if m.MsgType == 1 {
				ctx, cancel := context.Background(), context.CancelFunc(func() {})
				if len(m.Data) > 100 { // of a flooder
					ctx, cancel = context.WithTimeout(ctx, patience)
				}
				defer cancel()
				if err := srv.WriteContext(ctx, 1, m.Data); err != nil && len(m.Data) < 100 {
					t.Errorf("a good client, %d, has no answer: %v", srv.ID(), err)
				}
			}
		})
	}()
	var good sync.WaitGroup
	stop := make(chan struct{})
	begun := make(chan struct{}, 5)
	for i, one := range c.joinMany(5) {
		good.Go(func() {
			skipStatus(t, one, 2)
			for k := 0; ; k++ {
				data := fmt.Sprint(i, k)
				if err := one.Write(1, []byte(data)); err != nil {
					t.Errorf("good client %d: %v", i, err)
					return
				}
				if m, err := one.ReadTimed(time.Minute); err != nil || m.MsgType != 1 || string(m.Data) != data {
					t.Errorf("good client %d: %+v, %v; want %q", i, m, err, data)
					return
				}
				if k == 10 {
					begun <- struct{}{}
				}
				select {
				case <-stop:
					if k > 50 {
						return
					}
				default:
				}
			}
		})
	}
	hostile := func(conn net.Conn, end int, b ...byte) {
		conn.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
		conn.Write(b)
		switch end {
		case 0:
			conn.Close()
		case 1:
			conn.(*net.UnixConn).CloseWrite()
		}
	}
	hello := make([]byte, 151)
	hello[1] = flagEncrypted
	binary.BigEndian.PutUint32(hello[2:], 4096)
	copy(hello[6:], testKey(1).PublicKey().Bytes())
	for range 5 {
		<-begun
	}
	for end := range 3 { // closed, half closed, left open
		for range 10 {
			hostile(c.dial(), end)                                          // silent
			hostile(c.dial(), end, []byte("GET / HTTP/1.1\r\n\r\n")...)     // garbage
			hostile(c.dial(), end, hello[:rand.IntN(len(hello))]...)        // half a handshake
			hostile(c.dial(), end, hello...)                                // a whole one that proves nothing
			hostile(c.raw(), end)                                           // silent behind its handshake
			hostile(c.raw(), end, 0, 0, 1, 0, 1, 2, 3)                      // half a frame
			hostile(c.raw(), end, 0xff, 0xff, 0xff, 0xff)                   // a frame too large
			hostile(c.raw(), end, 0, 0, 0, 1, 9)                            // and too small
			hostile(c.raw(), end, append([]byte{0, 0, 0, 40}, hello...)...) // not authentic
			conn := c.dial()
			io.ReadFull(conn, make([]byte, 50))
			hostile(conn, end) // in the middle of the server's hello
		}
	}
	// They say hello and flood, and never read what comes back.
	for range 3 {
		one := c.join()
		one.mu.Lock()
		one.readRole.fanIn = true // its queue fills, and then the sockets
		one.mu.Unlock()
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			for one.WriteContext(ctx, 1, make([]byte, 30000)) == nil {
			}
		}()
	}
	close(stop)
	good.Wait()
	// Everybody has left who closed its half, and the good ones have not.
	eventually(t, "the server knows who has left", func() bool { return c.s.Connections.Len() <= 5+2*10+3 })
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := c.s.Shutdown(ctx); !errors.As(err, new(*ClientError)) {
		t.Errorf("%v, want a ClientError for each that does not acknowledge a close", err)
	}
	<-served
	if s := c.s.Stats(); s.Dropped != 0 {
		t.Errorf("%+v", s)
	}
}

// The silent ones hold all places; the one that has waited longest gives way.
func TestTooManyHandshakes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := gatherPipe(t, ServerConfig{})
		var conns []net.Conn
		for range maxPending {
			conns = append(conns, c.dial())
		}
		synctest.Wait()
		ended := func(conn net.Conn) bool {
			conn.SetReadDeadline(time.Now())
			_, err := conn.Read(make([]byte, 1))
			return errors.Is(err, io.EOF)
		}
		if ended(conns[0]) {
			t.Error("a handshake was ended before there were too many")
		}
		<-time.After(2 * time.Second) // they are silent
		start := time.Now()
		c.join()
		if took := time.Since(start); took != 0 {
			t.Errorf("a good client waited %v", took)
		}
		synctest.Wait()
		evicted := 0
		for _, conn := range conns {
			if ended(conn) {
				evicted++
			}
		}
		if evicted != 1 {
			t.Errorf("%d silent peers were replaced, want 1", evicted)
		}
		if s := c.s.Stats(); s.Refused != 1 {
			t.Errorf("%d refused, want 1", s.Refused)
		}
		<-time.After(handshakeTimeout + 2*time.Second)
		synctest.Wait()
		if s := c.s.Stats(); s.Refused != maxPending || !ended(conns[1]) {
			t.Errorf("after 10 s %d refused, want %d", s.Refused, maxPending)
		}
		if c.s.Connections.Len() != 1 {
			t.Error("the good client is gone")
		}
	})
}

// stingy is a listener whose Accept fails a number of times.
type stingy struct {
	net.Listener
	fails int
	err   error
	at    []time.Time // of the calls that failed
}

func (l *stingy) Accept() (net.Conn, error) {
	if len(l.at) < l.fails {
		l.at = append(l.at, time.Now())
		return nil, &net.OpError{Op: "accept", Net: "unix", Err: os.NewSyscallError("accept4", l.err)}
	}
	return l.Listener.Accept()
}

func TestAcceptErrors(t *testing.T) {
	for _, err := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ECONNABORTED, errors.New("unknown")} {
		bubble(t, func(t *testing.T) {
			pipes := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
			l := &stingy{Listener: pipes, fails: 12, err: err}
			s, err := StartServer(&ServerConfig{Name: "stingy", MultiClient: true, Listener: l})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			near, far := net.Pipe()
			defer near.Close()
			pipes.conns <- far // taken after the last failure
			want := firstAcceptDelay
			for i := 1; i < len(l.at); i++ {
				if got := l.at[i].Sub(l.at[i-1]); got != want {
					t.Errorf("pause %d was %v, want %v", i, got, want)
				}
				want = min(2*want, maxAcceptDelay)
			}
			if n := s.Stats().Refused; len(l.at) != 12 || n != 12 {
				t.Errorf("%d failures, %d counted, want 12", len(l.at), n)
			}
		})
	}
	// Close ends a pause, too.
	bubble(t, func(t *testing.T) {
		s, err := StartServer(&ServerConfig{Name: "stingy", MultiClient: true,
			Listener: &stingy{Listener: &pipeListener{done: make(chan struct{})}, fails: 1000, err: syscall.EMFILE}})
		if err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Minute)
		start := time.Now()
		if err := s.Close(); err != nil || time.Since(start) != 0 {
			t.Errorf("Close returned %v after %v", err, time.Since(start))
		}
	})
}

// A listener that somebody else has closed: who is there is served to the end.
func TestListenerClosedExternally(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := gatherPipe(t, ServerConfig{})
		one, srv := c.member()
		served := make(chan error, 1)
		l := newLedger(t)
		go func() {
			served <- c.s.Connections.Serve(context.Background(), func(srv *Server, m *Message) { l.note(srv, m, nil) })
		}()
		c.s.settings.listener.Close()
		synctest.Wait()
		if c.s.StatusCode() != Error || !errors.Is(c.s.Err(), net.ErrClosed) {
			t.Errorf("%v, %v", c.s.Status(), c.s.Err())
		}
		write(t, one, 1)
		synctest.Wait()
		l.want(srv, "1")
		one.Close()
		if err := <-served; !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		l.want(srv, "Disconnected")
	})
}

func TestCloseWithManyBusyClients(t *testing.T) {
	n := thousand
	testutil.NeedFiles(t, 2*uint64(n)+100)
	if l, err := net.Listen("tcp", "127.0.0.1:0"); err == nil { // the poller has descriptors of its own
		l.Close()
	}
	before := testutil.Goroutines(nil)
	files := openFDs(t)
	c := gatherPlain(t, ServerConfig{})
	served := make(chan error, 1)
	go func() {
		served <- c.s.Connections.Serve(context.Background(), func(srv *Server, m *Message) {
			if m.MsgType == 1 {
				srv.Write(1, m.Data)
			}
		})
	}()
	clients := c.joinMany(n)
	eventually(t, "all are in", func() bool { return c.s.Connections.Len() == n })
	var wg sync.WaitGroup
	for i, one := range clients {
		wg.Go(func() {
			skipStatus(t, one, 2)
			for {
				one.Write(1, make([]byte, 1000)) // fails behind the close, which Read reports
				m, err := one.Read()
				if err != nil {
					t.Errorf("client %d: %v", i, err)
					return
				}
				if m.MsgType == statusType {
					if m.Status != "Reconnecting" || m.Err != nil {
						t.Errorf("client %d: %s, %v; want Reconnecting after a close", i, m.Status, m.Err)
					}
					return
				}
			}
		})
	}
	eventually(t, "they are busy", func() bool { return c.s.Stats().Received > 3*uint64(n) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // the machine may be busy, too
	defer cancel()
	start := time.Now()
	if err := c.s.Shutdown(ctx); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	t.Logf("Shutdown took %v", time.Since(start))
	if err := <-served; !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	wg.Wait()
	c.end()
	if left := testutil.LeftOver(before, 20*time.Second); len(left) > 0 {
		t.Errorf("%d goroutines are left:\n%s", len(left), left[0])
	}
	eventually(t, "descriptors return", func() bool { return openFDs(t) <= files })
}

// All that do not acknowledge the close are waited for together.
func TestCloseTimeLimit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := gatherPipe(t, ServerConfig{})
		const n = 100
		for range n {
			c.raw()
		}
		synctest.Wait()
		for srv := range c.s.Connections.All() { // without a message Close waits for a second only
			if err := srv.Queue(1, nil); err != nil {
				t.Fatal(err)
			}
		}
		start := time.Now()
		err := c.s.Close()
		if took := time.Since(start); took < closeTimeout || took > closeTimeout+2*time.Second {
			t.Errorf("Close took %v, its bound is 5s", took)
		}
		if n1 := strings.Count(fmt.Sprint(err), "gipc: client "); n1 != n || !errors.As(err, new(*ClientError)) {
			t.Errorf("%d errors of clients, want %d: %v", n1, n, err)
		}
		if err := c.s.Close(); err != nil {
			t.Errorf("a second Close returns %v", err)
		}
	})
}

func init() { testChildren["crowd"] = crowdChild }

// crowdChild is many clients: "connect PATH N", "talk", "leave". Each word is
// answered when all have done it.
func crowdChild() {
	var clients []*Client
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		word, rest, _ := strings.Cut(in.Text(), " ")
		do := func(*Client) error { return fmt.Errorf("what is %q?", word) }
		switch word {
		case "connect":
			var n int
			var path string
			if _, err := fmt.Sscan(rest, &path, &n); err != nil {
				panic(err)
			}
			clients = make([]*Client, n)
			var wg sync.WaitGroup
			var failed atomic.Pointer[error]
			for i := range clients {
				wg.Go(func() {
					one, err := StartClient(&ClientConfig{Name: "many", Network: "unix", Address: path, Timeout: 4 * time.Minute})
					if err != nil {
						failed.Store(&err)
					}
					clients[i] = one
				})
			}
			wg.Wait()
			do = func(*Client) error {
				if err := failed.Load(); err != nil {
					return *err
				}
				return nil
			}
		case "talk":
			do = func(one *Client) error {
				for k := range 10 {
					mine := fmt.Sprintf("%d %p %d", os.Getpid(), one, k)
					if err := one.Write(1, []byte(mine)); err != nil {
						return err
					}
					for m := range one.Messages(context.Background()) {
						if m == nil || string(m.Data) != mine {
							return fmt.Errorf("%v is not the answer to %q", m, mine)
						}
						break
					}
				}
				return nil
			}
		case "leave":
			do = (*Client).Close
		}
		errs := make(chan error, len(clients))
		for _, one := range clients {
			go func() { errs <- do(one) }()
		}
		answer := "ok"
		for range clients {
			if err := <-errs; err != nil {
				answer = err.Error()
			}
		}
		fmt.Println(answer)
	}
}

func TestThousandsOfClients(t *testing.T) {
	children, each := 2, thousand/2
	if long {
		children, each = 4, 2500
	}
	n := children * each
	testutil.NeedFiles(t, uint64(n)+1100) // handshakes have theirs, too
	before := testutil.Goroutines(nil)
	c := gather(t, ServerConfig{}, ClientConfig{})
	p := c.s.Connections
	files, memory := openFDs(t), heap()
	served := make(chan error, 1)
	go func() {
		served <- p.Serve(context.Background(), func(srv *Server, m *Message) {
			if m.MsgType == 1 {
				if err := srv.Write(1, m.Data); err != nil {
					t.Error(err)
				}
			}
		})
	}()
	var crowds []*child
	for range children {
		crowds = append(crowds, startChild(t, "crowd", nil))
	}
	all := func(format string, args ...any) {
		t.Helper()
		start := time.Now()
		for _, one := range crowds {
			one.say(format, args...)
		}
		for _, one := range crowds {
			if got := one.hear(); got != "ok" {
				t.Fatalf("%s: a child says %q", format, got)
			}
		}
		t.Logf("%s: %v", format, time.Since(start).Round(time.Millisecond))
	}
	all("connect %s %d", c.client.Address, each)
	eventually(t, "all are in", func() bool { return p.Len() == n })
	t.Logf("each idle client: %.1f KiB of heap, %.2f goroutines", float64(heap()-memory)/1024/float64(n), float64(len(testutil.Goroutines(before)))/float64(n))
	all("talk")
	all("leave")
	eventually(t, "all have left and were read", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.members) == 0
	})
	if s := c.s.Stats(); s.Received != uint64(10*n) || s.Sent != uint64(10*n) {
		t.Errorf("%+v, want %d messages each way", s, 10*n)
	}
	for _, one := range crowds {
		one.kill()
	}
	eventually(t, "descriptors return", func() bool { return openFDs(t) <= files })
	// What a goroutine leaves with the runtime for the next one does not count.
	eventually(t, "memory returns", func() bool { return heap() <= memory+1<<20+2000*int64(n) })
	t.Logf("the heap grew from %d to %d KiB", memory>>10, heap()>>10)
	c.s.Close()
	<-served
	if left := testutil.LeftOver(before, 10*time.Second); len(left) > 0 {
		t.Errorf("%d goroutines are left:\n%s", len(left), left[0])
	}
}

// The goroutine that Serve has for an idle client stays on the smallest stack:
// one call more between it and the kernel, and each client costs 2 KiB more. On the heap
// an idle client holds no buffer, no batch and no cipher.
func TestIdleClientsKeepTheSmallestStack(t *testing.T) {
	if testutil.RaceEnabled || runtime.GOARCH != "amd64" || !strings.HasPrefix(runtime.Version(), "go1.26") {
		return // frames have other sizes there
	}
	for way, read := range map[string]func(*ConnectionPool, func()){
		"Serve": func(p *ConnectionPool, each func()) {
			p.Serve(t.Context(), func(*Server, *Message) { each() })
		},
		"Messages": func(p *ConnectionPool, each func()) {
			for range p.Messages(t.Context()) {
				each()
			}
		},
	} {
		t.Run(way, func(t *testing.T) { idleStack(t, read) })
	}
}

func idleStack(t *testing.T, read func(*ConnectionPool, func())) {
	c := gather(t, ServerConfig{}, ClientConfig{})
	served := make(chan bool)
	var greeted atomic.Int64 // by Connected
	go func() {
		defer close(served)
		read(c.s.Connections, func() { greeted.Add(1) })
	}()
	stacks := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.StackInuse)
	}
	c.raw() // what the first client costs is the server's
	before, heapBefore := stacks(), heap()
	const n = 200
	for range n {
		c.raw()
	}
	eventually(t, "all were served", func() bool { return greeted.Load() == n+1 })
	if each := (stacks() - before) / n; each > 3<<10 {
		t.Errorf("%d bytes of stack for each idle client, want 2 KiB", each)
	}
	if each := (heap() - heapBefore) / n; each > 4<<10 { // 3.0 to 3.6 KiB, the test's end included
		t.Errorf("%d bytes of heap for each idle client, want 4 KiB at most", each)
	}
	for s := range c.s.Connections.All() {
		if l := s.currentConn.Load(); l.sender.cipher.aead != nil || l.decoder.cipher.aead != nil {
			t.Fatal("an idle client holds the key of a direction that has carried nothing")
		}
	}
	c.s.Shutdown(past1(t))
	<-served
}

// heap is what is in use after a collection, in bytes.
func heap() int64 {
	runtime.GC()
	runtime.GC() // what pools keep goes with the second one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestFastestTakesLongestWaiting: one callback a call, for the client whose message
// has waited longest, in the goroutine of the caller.
func TestFastestTakesLongestWaiting(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := gatherPipe(t, ServerConfig{})
		p := c.s.Connections
		one, a := c.member()
		two, b := c.member()
		l := newLedger(t)
		p.ReadTimedFastest(0, l.note)
		l.want(a, "timeout", b, "timeout")
		write(t, two, 1, 2)
		synctest.Wait()
		write(t, one, 3)
		synctest.Wait()
		p.ReadTimedFastest(time.Second, l.note)
		l.want(b, "1")
		p.ReadTimedFastest(time.Second, l.note)
		l.want(a, "3")
		p.ReadTimedFastest(time.Second, l.note)
		l.want(b, "2")
		go func() {
			<-time.After(300 * time.Millisecond)
			write(t, one, 4)
		}()
		start := time.Now()
		p.ReadTimedFastest(time.Second, l.note)
		if took := time.Since(start); took != 300*time.Millisecond {
			t.Errorf("the message came after 300ms, the call took %v", took)
		}
		l.want(a, "4")
		p.ReadTimedFastest(time.Second, l.note)
		l.want(a, "timeout", b, "timeout")
		write(t, one, 5)
		<-time.After(time.Hour) // no callback runs after the call
		l.want()
	})
}

// TestFastestPanicLosesNobody: a callback that panics leaves its client readable.
func TestFastestPanicLosesNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := gatherPipe(t, ServerConfig{})
		p := c.s.Connections
		one, a := c.member()
		l := newLedger(t)
		write(t, one, 1, 2)
		func() {
			defer func() { recover() }()
			p.ReadTimedFastest(time.Second, func(*Server, *Message, error) { panic("of the user") })
		}()
		p.ReadTimedFastest(time.Second, l.note)
		l.want(a, "2")
	})
}

// The sums and the lists are right whatever comes, is read and goes.
func TestDepartedClients(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	c := departedClients{maxBytes: 40 * minDeparture}
	var kept []*departure
	for range 20_000 {
		size := random.IntN(3) * minDeparture
		switch i := random.IntN(max(len(kept), 1)); {
		case len(kept) == 0 || random.IntN(2) == 0:
			d := &departure{connLost: random.IntN(2) == 0}
			c.add(d, size)
			kept = append(kept, d)
		case random.IntN(2) == 0:
			c.shrink(kept[i], min(size, kept[i].countedBytes))
		default:
			c.remove(kept[i])
			kept = slices.Delete(kept, i, i+1)
		}
		for d := c.nextEviction(); d != nil; d = c.nextEviction() {
			if d.countedBytes > 0 && !d.connLost {
				t.Fatal("what was acknowledged is to be evicted")
			}
			c.remove(d)
			kept = slices.DeleteFunc(kept, func(o *departure) bool { return o == d })
		}
		sum, lost, empty := 0, 0, 0
		for _, d := range kept {
			sum += d.countedBytes
			switch {
			case d.countedBytes == 0:
				empty++
			case d.connLost:
				lost++
			}
		}
		if c.count != len(kept) || c.keptBytes != sum || len(c.lostClients) != lost || len(c.emptyClients) != empty {
			t.Fatalf("%d departures, %d bytes, %d lost, %d empty; want %d, %d, %d, %d", c.count, c.keptBytes, len(c.lostClients), len(c.emptyClients), len(kept), sum, lost, empty)
		}
		if empty > maxEmpty || sum >= c.maxBytes && lost > 0 {
			t.Fatalf("%d empty ones and %d bytes with %d lost ones are kept", empty, sum, lost)
		}
		was := c.atLimit.Load()
		resumed := c.updateLimit()
		if full := c.atLimit.Load(); full != (sum >= c.maxBytes || was && sum > c.maxBytes/2) || resumed != (was && !full) {
			t.Fatalf("full %v, resumed %v with %d bytes; full was %v", full, resumed, sum, was)
		}
	}
}

// What a Close has promised is read, however many clients have left.
func TestAcknowledgedClientsAreKept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := gatherPipe(t, ServerConfig{})
		for range c.s.Connections.Messages(past1(t)) { // from here on the background readers read
		}
		const clients = maxEmpty + 500
		for i := range uint64(clients) {
			one := c.join()
			write(t, one, i)
			if err := one.Close(); err != nil {
				t.Fatal(err)
			}
		}
		readDeparted(t, c.s.Connections, clients)
		if s := c.s.Stats(); s.Dropped != 0 || s.Received != clients {
			t.Errorf("%+v, want %d received and none dropped", s, clients)
		}
		wantNothingKept(t, c.s.Connections)
	})
}

// readDeparted reads clients that have left to the end. Each sent its number.
func readDeparted(t *testing.T, p *ConnectionPool, clients int) {
	t.Helper()
	l, ended := newLedger(t), 0
	for srv, m := range p.Messages(t.Context()) {
		l.note(srv, m, nil)
		if m.Status != "Disconnected" {
			continue
		}
		if got, want := l.take(srv), fmt.Sprintf("Connected %d Disconnected", srv.ID()-1); got != want {
			t.Errorf("client %d had %q, want %q", srv.ID(), got, want)
		}
		if ended++; ended == clients {
			break
		}
	}
}

func wantNothingKept(t *testing.T, p *ConnectionPool) {
	t.Helper()
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.members) + len(p.endingClients) + p.departed.count + p.departed.keptBytes + len(p.readyClients); n > 0 {
		t.Errorf("%d places are still held: %+v", n, &p.departed)
	}
}

// Those that have left nothing to read but that they came and went: the newest stay.
func TestEmptyDeparturesAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := gatherPipe(t, ServerConfig{})
		p := c.s.Connections
		for range p.Messages(past1(t)) {
		}
		const more = 5
		for range maxEmpty + more {
			if err := c.join().Close(); err != nil {
				t.Fatal(err)
			}
			synctest.Wait() // it has left: they go in the order in which they do
		}
		if s := c.s.Stats(); s.Dropped != more || p.Len() != 0 || len(p.readableClients()) != maxEmpty {
			t.Errorf("%+v, want %d dropped; %d are kept, want %d", s, more, len(p.readableClients()), maxEmpty)
		}
		for _, srv := range p.readableClients() {
			if srv.ID() <= more {
				t.Errorf("client %d is kept, one of the oldest %d", srv.ID(), more)
			}
		}
	})
}

// At the limit nobody reads for nobody: no close is found, and none acknowledged,
// until the application has read.
func TestDeparturesPauseReading(t *testing.T) {
	for _, always := range []bool{false, true} {
		t.Run(fmt.Sprintf("always=%v", always), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				const fit, clients = 10, 30
				c := gatherPipe(t, ServerConfig{})
				p := c.s.Connections
				p.departed.maxBytes = fit * minDeparture
				if always {
					for range p.Messages(past1(t)) {
					}
				}
				closed := make(chan error, clients)
				for i := range uint64(clients) {
					one := c.join()
					go func() {
						write(t, one, i)
						closed <- one.Close()
					}()
					waitIdle(p)
				}
				if n := len(closed); n != fit {
					t.Fatalf("%d Closes have returned, want %d", n, fit)
				}
				readDeparted(t, p, clients)
				for range clients {
					if err := <-closed; err != nil {
						t.Error(err)
					}
				}
				wantNothingKept(t, p)
			})
		})
	}
}

// waitIdle waits until the background readers have read what there is, or were
// held back.
func waitIdle(p *ConnectionPool) {
	synctest.Wait()
	for _, s := range p.readableClients() {
		s.mu.Lock()
		c := s.latestConn
		s.mu.Unlock()
		s.wakeReader(c)
	}
	synctest.Wait()
}

// What was not acknowledged makes room: the oldest first, counted, and told by Close
// where something was sent to it.
func TestLostClientsAreEvictedFirst(t *testing.T) {
	for _, sent := range []bool{false, true} {
		t.Run(fmt.Sprintf("sent=%v", sent), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				const fit, clients = 10, 13
				c := gatherPipe(t, ServerConfig{})
				p := c.s.Connections
				p.departed.maxBytes = fit * minDeparture
				for range p.Messages(past1(t)) {
				}
				for i := range clients {
					conn := c.raw()
					synctest.Wait()
					if sent && i == 0 {
						writeTo(t, p, conn)
					}
					if _, err := conn.Write(append(appendFrameHeader(nil, frameHeader{frameType: 1, dataSize: 8}), make([]byte, 8)...)); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
					conn.Close()
					synctest.Wait()
				}
				if s := c.s.Stats(); s.Dropped != clients-fit+1 || len(p.readableClients()) != fit-1 || p.departed.atLimit.Load() {
					t.Errorf("%+v, want %d dropped; %d are kept, want %d", s, clients-fit+1, len(p.readableClients()), fit-1)
				}
				for _, srv := range p.readableClients() {
					if srv.ID() <= clients-fit+1 {
						t.Errorf("client %d is kept, one of the oldest", srv.ID())
					}
				}
				if err := c.s.Close(); errors.Is(err, ErrUnconfirmed) != sent {
					t.Errorf("Close says %v", err)
				}
			})
		})
	}
}

// writeTo has the server write to its one client, which reads that.
func writeTo(t *testing.T, p *ConnectionPool, conn net.Conn) {
	t.Helper()
	for srv := range p.All() {
		wrote := make(chan error, 1)
		go func() { wrote <- srv.Write(1, nil) }()
		if _, err := conn.Read(make([]byte, headerSize)); err != nil {
			t.Fatal(err)
		}
		if err := <-wrote; err != nil {
			t.Fatal(err)
		}
	}
}
