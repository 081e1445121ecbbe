// Tests of the end: Close and Shutdown against everything that may be going on,
// what a nil result means, and that nothing is left behind.

package endpoint_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/gipc"
	"example.com/gipc/internal/testutil"
)

// Write and Close at once: when Close returns nil, the peer's process holds the message.
func TestCloseDelivers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		link    string
		size, n int
	}{
		{"unix", 64, testutil.Count(1000, 50)},
		{"unix", 1 << 20, testutil.Count(1000, 50)},
		{"unix plain", 64, testutil.Count(500, 20)},
		{"unix plain", 1 << 20, testutil.Count(500, 20)},
		{"tcp secret", 64, testutil.Count(100, 20)},
		{"tcp secret", 1 << 20, testutil.Count(100, 20)},
		{"pipe", 64, testutil.Count(100, 10)},
	} {
		t.Run(fmt.Sprintf("%s/%d", c.link, c.size), func(t *testing.T) {
			t.Parallel()
			sc, cc := configs(t, c.link)
			cc.RetryTimer = time.Millisecond
			server := startServer(t, sc)
			got := inbox(server)
			data := testutil.Payload(0, c.size)
			for i := range c.n {
				client, err := gipc.StartClient(cc)
				testutil.Must(t, err)
				binary.BigEndian.PutUint64(data, uint64(i))
				put := client.Write
				if i%4 == 0 {
					put = client.Queue
				}
				testutil.Must(t, put(1, data))
				if err := client.Close(); err != nil {
					t.Fatalf("Close %d: %v", i, err)
				}
				if m := nextOf(t, got); !bytes.Equal(m.Data, data) {
					t.Fatalf("message %d: other bytes", i)
				}
			}
		})
	}
}

// The same from the server's side.
func TestCloseOfTheServerDelivers(t *testing.T) {
	t.Parallel()
	for _, size := range []int{64, 1 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			sc, cc := configs(t, "unix")
			for i := range testutil.Count(200, 20) {
				server, err := gipc.StartServer(sc)
				testutil.Must(t, err)
				client, err := gipc.StartClient(cc)
				testutil.Must(t, err)
				got := inbox(client)
				testutil.Must(t, server.Write(1, testutil.Payload(i, size)))
				if err := server.Close(); err != nil {
					t.Fatalf("Close %d: %v", i, err)
				}
				if m := nextOf(t, got); !bytes.Equal(m.Data, testutil.Payload(i, size)) {
					t.Fatalf("message %d: other bytes", i)
				}
				cut(client)
			}
		})
	}
}

// The same where nobody has ever read on the other side: one message of any
// size has a place there, and is found without waiting.
func TestCloseDeliversWithoutAReader(t *testing.T) {
	t.Parallel()
	for _, link := range links {
		for _, size := range []int{64, 60_000} {
			t.Run(fmt.Sprintf("%s/%d", link, size), func(t *testing.T) {
				t.Parallel()
				server, client := connect(t, link)
				testutil.Must(t, client.Write(1, testutil.Payload(1, size)))
				testutil.Must(t, client.Close())
				for _, want := range []int{-1, 1, -1} {
					m, err := server.ReadTimed(0)
					testutil.Must(t, err)
					if m == gipc.TimeoutMessage || m.MsgType != want || want == 1 && !bytes.Equal(m.Data, testutil.Payload(1, size)) {
						t.Fatalf("Close returned nil; got type %d, %v, %d bytes; want type %d", m.MsgType, m.Err, len(m.Data), want)
					}
				}
			})
		}
	}
}

// Close while others write: nil means that every message whose Write returned nil arrived.
func TestCloseUnderLoad(t *testing.T) {
	t.Parallel()
	for _, link := range []string{"unix", "unix plain"} {
		t.Run(link, func(t *testing.T) {
			sc, cc := configs(t, link)
			cc.RetryTimer = time.Millisecond
			server := startServer(t, sc)
			for range testutil.Count(150, 20) {
				client := startClient(t, cc)
				var written, arrived atomic.Int64
				var writers sync.WaitGroup
				closed := make(chan error, 1)
				const each = 200
				for w := range 3 {
					writers.Go(func() {
						for i := range each {
							if err := client.Write(w+1, testutil.Payload(i, 100)); err != nil {
								if !errors.Is(err, gipc.ErrClosed) {
									t.Errorf("Write: %v", err)
								}
								return
							}
							if written.Add(1) == each {
								go func() { closed <- client.Close() }()
							}
						}
					})
				}
				for over := false; !over; {
					m := read(t, server)
					switch {
					case m.MsgType != -1:
						arrived.Add(1)
					case m.Status == "Disconnected":
						over = true
						if m.Err != nil {
							t.Errorf("lost with %v", m.Err)
						}
					}
				}
				writers.Wait()
				testutil.Must(t, await(t, closed))
				if w, a := written.Load(), arrived.Load(); a < w || a > w+3 {
					t.Fatalf("%d writes returned nil, %d messages arrived, and Close returned nil", w, a)
				}
			}
		})
	}
}

// Close ends everything that is blocked, in no time at all.
func TestCloseEndsBlockedCalls(t *testing.T) {
	t.Parallel()
	calls := map[string]func(end) error{
		"Read":        func(e end) error { _, err := e.Read(); return err },
		"ReadTimed":   func(e end) error { _, err := e.ReadTimed(time.Hour); return err },
		"ReadContext": func(e end) error { _, err := e.ReadContext(context.Background()); return err },
		"ReadInto":    func(e end) error { return e.ReadInto(context.Background(), new(gipc.Message)) },
		"Messages": func(e end) error {
			for m, err := range e.Messages(context.Background()) {
				return fmt.Errorf("%+v, %v", m, err)
			}
			return gipc.ErrClosed
		},
		"Done": func(e end) error { <-e.Done(); return e.Err() },
	}
	waiting := map[string]func(end) error{
		"WaitConnected": func(e end) error { return e.WaitConnected(context.Background()) },
		"Write":         func(e end) error { return e.Write(1, nil) },
		"WriteContext":  func(e end) error { return e.WriteContext(context.Background(), 1, nil) },
		"Queue":         func(e end) error { return e.Queue(1, nil) },
	}
	run := func(t *testing.T, e end, calls map[string]func(end) error) {
		t.Helper()
		type result struct {
			name string
			err  error
		}
		results := make(chan result, 10*len(calls))
		var told atomic.Int64
		for name, call := range calls {
			for range 4 {
				go func() {
					err := call(e)
					if err == nil && strings.HasPrefix(name, "Read") { // the one that is told of the status
						told.Add(1)
						err = call(e)
					}
					results <- result{name, err}
				}()
			}
		}
		synctest.Wait()
		start := time.Now()
		if err := e.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		for range 4 * len(calls) {
			if r := await(t, results); !errors.Is(r.err, gipc.ErrClosed) {
				t.Errorf("%s returned %v", r.name, r.err)
			}
		}
		if d := time.Since(start); d > 0 {
			t.Errorf("all had returned after %v", d)
		}
		if n := told.Load(); n > 1 {
			t.Errorf("%d readers got a message", n)
		}
	}
	t.Run("server without a peer", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			sc, _ := configs(t, "pipe")
			server := startServer(t, sc)
			run(t, server, waiting)
		})
		bubble(t, func(t *testing.T) {
			sc, _ := configs(t, "pipe")
			run(t, startServer(t, sc), calls)
		})
	})
	for _, which := range []string{"server", "client"} {
		t.Run(which+" connected", func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				server, client := connect(t, "pipe")
				wantInternal(t, server, gipc.Connected)
				wantInternal(t, client, gipc.Connecting)
				wantInternal(t, client, gipc.Connected)
				if which == "server" {
					run(t, server, calls)
				} else {
					run(t, client, calls)
				}
			})
		})
	}
	t.Run("client reconnecting", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			server, client := connect(t, "pipe")
			testutil.Must(t, server.Close())
			wantInternal(t, client, gipc.Connecting)
			wantInternal(t, client, gipc.Connected)
			wantInternal(t, client, gipc.ReConnecting)
			pass(time.Minute)
			run(t, client, map[string]func(end) error{"Read": calls["Read"], "ReadTimed": calls["ReadTimed"],
				"WaitConnected": waiting["WaitConnected"], "Done": calls["Done"]})
		})
	})
}

// On a socket too, where the kernel has to be interrupted.
func TestCloseEndsReadersOfASocket(t *testing.T) {
	t.Parallel()
	for _, link := range links {
		t.Run(link, func(t *testing.T) {
			for i := range testutil.Count(50, 10) {
				server, client := connect(t, link)
				e := []end{server, client}[i%2]
				var closed atomic.Int64
				fs := []func() error{}
				for range 4 {
					fs = append(fs, func() error {
						for {
							m, err := e.Read()
							if err != nil {
								if !errors.Is(err, gipc.ErrClosed) {
									return err
								}
								return nil
							}
							if m.Status == "Closed" {
								closed.Add(1)
							}
						}
					})
				}
				fs = append(fs, func() error { runtime.Gosched(); return e.Close() })
				together(t, fs...)
				if n := closed.Load(); n != 1 {
					t.Fatalf("%d readers got Closed", n)
				}
				cut(client)
				cut(server)
			}
		})
	}
}

// From the call of Close on: the complete messages that this process holds, one Closed, then ErrClosed.
func TestCloseKeepsWhatIsHere(t *testing.T) {
	t.Parallel()
	for _, link := range links {
		t.Run(link, func(t *testing.T) {
			server, client := connect(t, link)
			for i := range 5 {
				testutil.Must(t, server.Write(i+1, testutil.Payload(i, 100)))
			}
			eventually(t, "the arrival", func() bool { return client.Stats().Received == 5 })
			testutil.Must(t, client.Close())
			wantStatus(t, client, gipc.Closed)
			for i := range 5 {
				if m := next(t, client); m.MsgType != i+1 || !bytes.Equal(m.Data, testutil.Payload(i, 100)) {
					t.Fatalf("type %d where %d was due", m.MsgType, i+1)
				}
			}
			if m := wantInternal(t, client, gipc.Closed); m.Err != nil {
				t.Errorf("Closed with %v", m.Err)
			}
			for range 3 {
				if m, err := client.Read(); m != nil || !errors.Is(err, gipc.ErrClosed) {
					t.Fatalf("%+v, %v", m, err)
				}
			}
		})
	}
}

// The other side closes during a read and during a write.
func TestCloseOfTheOtherSide(t *testing.T) {
	t.Parallel()
	for _, link := range links {
		t.Run(link+"/read", func(t *testing.T) {
			server, client := connect(t, link)
			wantInternal(t, server, gipc.Connected)
			got := make(chan *gipc.Message, 1)
			go func() {
				m, err := server.Read()
				if err != nil {
					t.Error(err)
				}
				got <- m
			}()
			testutil.Must(t, client.Close())
			if m := await(t, got); m == nil || m.Status != "Disconnected" || m.Err != nil {
				t.Errorf("got %+v", m)
			}
			wantErr(t, server.Write(1, nil), gipc.ErrNotConnected)
		})
		t.Run(link+"/write", func(t *testing.T) {
			server, client := connect(t, link)
			done := make(chan error, 1)
			var wrote atomic.Int64
			go func() {
				for {
					if err := server.Write(1, make([]byte, 1000)); err != nil {
						done <- err
						return
					}
					wrote.Add(1)
				}
			}()
			next(t, client)
			client.Close() // which may have to tell that it discarded something
			if err := await(t, done); err == nil || errors.Is(err, gipc.ErrClosed) {
				t.Errorf("Write ended with %v", err)
			}
			for {
				m := read(t, server)
				if m.Status == "Disconnected" {
					break
				}
			}
			wantErr(t, server.Write(1, nil), gipc.ErrNotConnected)
		})
	}
}

// What was written to a connection that is over, and that no other one has
// followed, may not have arrived: the status message tells or, where nobody has
// read that, Close.
func TestCloseTellsALoss(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name            string
		write, received bool // by the other side's application
		peerCloses      bool
		read, messages  bool // of the status, before Close
		before, after   bool // another connection, lost with something written, or alive
		timeout         bool // has passed before Close
		want            error
	}{
		{name: "unread", write: true, want: gipc.ErrUnconfirmed},
		{name: "read", write: true, read: true, want: gipc.ErrUnconfirmed},
		{name: "passed over by Messages", write: true, messages: true, want: gipc.ErrUnconfirmed},
		{name: "nothing written"},
		{name: "another connection", write: true, after: true, want: gipc.ErrUnconfirmed},
		{name: "another connection, read", write: true, read: true, after: true},
		{name: "close", write: true, received: true, peerCloses: true},
		{name: "close, passed over by Messages", write: true, received: true, peerCloses: true, messages: true},
		{name: "close, discarded", write: true, peerCloses: true, want: gipc.ErrUnconfirmed},
		{name: "close, discarded, read", write: true, peerCloses: true, read: true, want: gipc.ErrUnconfirmed},
		{name: "close behind a loss", before: true, write: true, received: true, peerCloses: true, want: gipc.ErrUnconfirmed},
		{name: "nothing written behind a loss", before: true, want: gipc.ErrUnconfirmed},
		{name: "unread, then Timeout", write: true, timeout: true, want: gipc.ErrUnconfirmed},
		{name: "read, then Timeout", write: true, read: true, timeout: true, want: gipc.ErrUnconfirmed},
		{name: "close, then Timeout", write: true, received: true, peerCloses: true, timeout: true},
	} {
		for _, role := range []string{"client", "server"} {
			if c.timeout && role == "server" {
				continue
			}
			t.Run(c.name+"/"+role, func(t *testing.T) {
				t.Parallel()
				sc, cc := configs(t, "unix")
				if c.timeout {
					cc.Timeout = time.Second // the first connection has to fit, too
				}
				server := startServer(t, sc)
				client := startClient(t, cc)
				var near, far end = client, server
				gone := gipc.ReConnecting
				again := func() end { return startServer(t, sc) }
				if role == "server" {
					near, far, gone = server, client, gipc.Disconnected
					again = func() end { return startClient(t, cc) }
				}
				connected := func() {
					testutil.Must(t, near.WaitConnected(patience(t)))
					testutil.Must(t, far.WaitConnected(patience(t)))
				}
				lost := func() {
					eventually(t, "the end is noticed", func() bool {
						now := near.StatusCode()
						return now == gone && !c.timeout || now == gipc.Timeout
					})
				}
				connected()
				if c.before {
					testutil.Must(t, near.Write(1, []byte("before")))
					cut(far)
					lost()
					far = again()
					connected()
				}
				passed := make(chan bool)
				if c.messages {
					go func() {
						defer close(passed)
						for range near.Messages(t.Context()) {
						}
					}()
				}
				if c.write {
					testutil.Must(t, near.Write(1, []byte("x")))
				}
				if c.received {
					wantUser(t, far, 1, "x")
				}
				want := c.want
				if c.peerCloses {
					far.Close() // which may have to tell that it discarded something
					for !c.received {
						m, err := far.Read()
						if err != nil {
							break
						}
						if m.MsgType == 1 {
							want = nil // its library had it in time
						}
					}
				} else {
					cut(far)
				}
				lost()
				for c.read && read(t, near).Status != gone.String() {
				}
				if c.after {
					far = again()
					connected()
				}
				err := near.Close()
				if c.messages {
					await(t, passed)
				}
				if !errors.Is(err, want) {
					t.Errorf("Close says %v, want %v", err, want)
				}
				testutil.Must(t, near.Close())
			})
		}
	}
}

func TestCloseTwice(t *testing.T) {
	t.Parallel()
	for _, link := range links {
		t.Run(link, func(t *testing.T) {
			server, client := connect(t, link)
			for _, e := range []end{client, server} {
				var fs []func() error
				for i := range 8 {
					if i%2 == 0 {
						fs = append(fs, e.Close)
					} else {
						fs = append(fs, func() error { return e.Shutdown(context.Background()) })
					}
				}
				together(t, fs...)
				testutil.Must(t, e.Close())
				testutil.Must(t, e.Shutdown(context.Background()))
				wantStatus(t, e, gipc.Closed)
			}
		})
	}
	t.Run("waits for the first", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			raw := listenRaw(t)
			client, peer := raw.connect(&gipc.ClientConfig{})
			testutil.Must(t, client.Queue(1, nil)) // without a message Close waits for a second only
			first, second := make(chan error, 1), make(chan error, 1)
			start := time.Now()
			go func() { first <- client.Close() }()
			synctest.Wait()
			go func() { second <- client.Close() }()
			pass(3 * time.Second)
			wantStatus(t, client, gipc.Closing)
			if len(first)+len(second) != 0 {
				t.Error("a Close has returned before the peer answered")
			}
			await(t, peer.farewell())
			testutil.Must(t, await(t, first))
			testutil.Must(t, await(t, second))
			if d := time.Since(start); d != 3*time.Second {
				t.Errorf("after %v", d)
			}
		})
	})
}

// A peer that does not answer: Close gives up after its 5 s, Shutdown with its context.
func TestCloseGivesUp(t *testing.T) {
	t.Parallel()
	shutdown := func(d time.Duration) func(e end) error {
		return func(e end) error {
			ctx, cancel := context.WithTimeout(context.Background(), d)
			defer cancel()
			return e.Shutdown(ctx)
		}
	}
	for _, c := range []struct {
		name  string
		close func(end) error
		want  time.Duration
		slack time.Duration // the drain of a connection that is cut
	}{
		{"Close", end.Close, 5 * time.Second, 0},
		{"Shutdown 1 s", shutdown(time.Second), time.Second, 0},
		{"Shutdown 20 s", shutdown(20 * time.Second), 5 * time.Second, 15 * time.Second},
		{"Shutdown 0", shutdown(0), 0, 0},
	} {
		for _, reads := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/peer reads=%t", c.name, reads), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					raw := listenRaw(t)
					client, peer := raw.connect(&gipc.ClientConfig{})
					if reads {
						go io.Copy(io.Discard, peer)
					}
					wantInternal(t, client, gipc.Connecting)
					wantInternal(t, client, gipc.Connected)
					testutil.Must(t, client.Queue(1, nil))
					reader := make(chan time.Time, 1)
					go func() {
						if m, err := client.Read(); err != nil || m.Status != "Closed" {
							t.Errorf("the reader got %+v, %v", m, err)
						}
						reader <- time.Now()
					}()
					synctest.Wait()
					start := time.Now()
					if err := c.close(client); err == nil {
						t.Error("nil, and the peer has confirmed nothing")
					}
					if d := time.Since(start); d < c.want || d > c.want+c.slack {
						t.Errorf("took %v", d)
					}
					if d := (<-reader).Sub(start); d != 0 {
						t.Errorf("the reader returned after %v", d)
					}
					<-client.Done()
					wantErr(t, client.Err(), gipc.ErrClosed)
					wantStatus(t, client, gipc.Closed)
				})
			})
		}
	}
}

// A peer that takes its time is waited for.
func TestCloseWaitsForTheAnswer(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		raw := listenRaw(t)
		client, peer := raw.connect(&gipc.ClientConfig{})
		testutil.Must(t, client.Queue(3, []byte("queued")))
		start := time.Now()
		time.AfterFunc(4*time.Second, func() {
			n, data := peer.next()
			if n != 3 || string(data) != "queued" {
				t.Errorf("got type %d, %q", n, data)
			}
			n, data = peer.next()
			if n != 0 || len(data) != 2 || data[0] != 3 {
				t.Errorf("got type %d, %x; want a close", n, data)
			}
			peer.Write(slices.Concat(closeFrame, ackFrame))
			if _, err := io.ReadAll(peer); err != nil && !errors.Is(err, io.ErrClosedPipe) {
				t.Error(err)
			}
		})
		testutil.Must(t, client.Close())
		if d := time.Since(start); d != 4*time.Second {
			t.Errorf("took %v", d)
		}
	})
	for name, said := range map[string][]byte{
		"discarded":  frame(0, []byte{4, 1}),
		"other code": frame(0, []byte{4, 77}),
		"no answer":  {},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				raw := listenRaw(t)
				client, peer := raw.connect(&gipc.ClientConfig{})
				go func() {
					for {
						f, err := peer.frame()
						if err != nil || f.msgType == 0 {
							break
						}
					}
					peer.Write(slices.Concat(closeFrame, said))
					peer.Close()
				}()
				testutil.Must(t, client.Write(1, nil))
				start := time.Now()
				if err := client.Close(); err == nil {
					t.Error("nil, and the peer does not hold everything")
				}
				if d := time.Since(start); d > time.Second {
					t.Errorf("took %v", d)
				}
			})
		})
	}
}

// A peer that hangs up right behind its answer: our own answer may find the
// socket closed, and the peer's is read all the same.
func TestCloseWithAPeerThatHangsUp(t *testing.T) {
	t.Parallel()
	for range testutil.Count(200, 50) {
		raw := listenRaw(t)
		raw.dial = func(ctx context.Context) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, "unix", raw.ln.Addr().String())
			return &drip{c, 1}, err // so that close and close-ack do not come at once
		}
		client, peer := raw.connect(&gipc.ClientConfig{})
		go func() {
			for {
				f, err := peer.frame()
				if err != nil {
					t.Error(err)
					return
				}
				if f.msgType == 0 {
					peer.Write(slices.Concat(closeFrame, ackFrame))
					peer.Close()
					return
				}
			}
		}()
		testutil.Must(t, client.Write(1, []byte("x")))
		testutil.Must(t, client.Close())
	}
}

// A write that the kernel has taken in part gets 50 ms and is then cut.
func TestCloseDuringAStuckWrite(t *testing.T) {
	t.Parallel()
	t.Run("that stays", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			raw := listenRaw(t)
			client, peer := raw.connect(&gipc.ClientConfig{})
			stuck := make(chan error, 1)
			go func() { stuck <- client.Write(1, make([]byte, 1<<20)) }()
			if _, err := io.ReadFull(peer, make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
			behind := make(chan error, 1)
			go func() { behind <- client.Write(2, nil) }()
			synctest.Wait()
			start := time.Now()
			var writer, second time.Duration
			go func() {
				if err := <-stuck; err == nil {
					t.Error("the stuck Write returned nil")
				}
				writer = time.Since(start)
			}()
			go func() {
				wantErrIn(t, <-behind, gipc.ErrClosed)
				second = time.Since(start)
			}()
			if err := client.Close(); err == nil {
				t.Error("Close returned nil")
			}
			if d := time.Since(start); d > longClose {
				t.Errorf("Close took %v", d)
			}
			synctest.Wait()
			if writer > 100*time.Millisecond {
				t.Errorf("the stuck Write returned after %v", writer)
			}
			if second > 100*time.Millisecond {
				t.Errorf("the Write behind it returned after %v", second)
			}
		})
	})
	t.Run("that gets through", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			raw := listenRaw(t)
			client, peer := raw.connect(&gipc.ClientConfig{})
			stuck := make(chan error, 1)
			go func() { stuck <- client.Write(1, make([]byte, 1<<20)) }()
			synctest.Wait()
			got := make(chan []rawFrame, 1)
			time.AfterFunc(40*time.Millisecond, func() { got <- <-peer.farewell() })
			testutil.Must(t, client.Close())
			wantErr(t, await(t, stuck), gipc.ErrUnconfirmed) // and yet it gets through
			if f := await(t, got); len(f) != 1 || len(f[0].data) != 1<<20 {
				t.Errorf("%d frames", len(f))
			}
		})
	})
	// On real sockets, whose buffers are full.
	for _, link := range []string{"unix", "unix plain", "tcp secret"} {
		t.Run(link, func(t *testing.T) {
			t.Parallel()
			sc, cc := configs(t, link)
			release := make(chan bool)
			network, address := "unix", sc.Address
			if sc.Listener != nil {
				network, address = "tcp", sc.Listener.Addr().String()
			}
			full := make(chan bool, 100)
			cc.Dial = relayTo(t, network, address, func(r *relayed) {
				if !r.toClient && r.n == 0 {
					full <- true
					<-release // and read no more
				}
				r.send(r.frame)
			})
			t.Cleanup(func() { close(release) })
			startServer(t, sc)
			client := startClient(t, cc)
			stuck := make(chan error, 1)
			go func() {
				for {
					if err := client.Write(1, make([]byte, 1<<20)); err != nil {
						stuck <- err
						return
					}
				}
			}()
			await(t, full)
			reader := make(chan error, 1)
			go func() {
				for {
					if _, err := client.Read(); err != nil {
						reader <- err
						return
					}
				}
			}()
			eventually(t, "the last write", func() bool { // sent no more for a while: stuck
				n := client.Stats().Sent
				<-time.After(100 * time.Millisecond)
				return client.Stats().Sent == n
			})
			start := time.Now()
			closed := make(chan error, 1)
			go func() { closed <- client.Close() }()
			wantErr(t, await(t, reader), gipc.ErrClosed)
			if err := await(t, stuck); err == nil {
				t.Error("Write returned nil")
			}
			if d := time.Since(start); d > 2*time.Second {
				t.Errorf("readers and writers returned after %v", d)
			}
			if err := await(t, closed); err == nil {
				t.Error("Close returned nil")
			}
		})
	}
}

// wantErrIn is wantErr for a goroutine of the test's own.
func wantErrIn(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

// The peer's program does not read at first: Close waits until its process holds everything.
func TestCloseWaitsForASlowReader(t *testing.T) {
	t.Parallel()
	for _, link := range []string{"unix", "unix plain", "tcp secret"} {
		t.Run(link, func(t *testing.T) {
			t.Parallel()
			server, client := connect(t, link)
			const n, size = 80, 1000
			testutil.Must(t, send(server, n, size)) // more than the queue, less than the kernel
			closed := make(chan error, 1)
			go func() { closed <- server.Close() }()
			eventually(t, "Closing", func() bool { return server.StatusCode() != gipc.Connected })
			testutil.Must(t, receive(client, n, size))
			testutil.Must(t, await(t, closed))
			if m := wantInternal(t, client, gipc.ReConnecting); m.Err != nil {
				t.Errorf("lost with %v", m.Err)
			}
		})
	}
}

// Both close at the same time: both return nil, at once.
func TestCloseCrossing(t *testing.T) {
	t.Parallel()
	t.Run("bubble", func(t *testing.T) {
		for range 20 {
			bubble(t, func(t *testing.T) {
				server, client := connect(t, "pipe")
				start := time.Now()
				together(t, server.Close, client.Close)
				if d := time.Since(start); d != 0 {
					t.Errorf("took %v", d)
				}
			})
		}
	})
	for _, link := range []string{"unix", "unix plain", "tcp secret"} {
		t.Run(link, func(t *testing.T) {
			for range testutil.Count(100, 20) {
				server, client := connect(t, link)
				start := time.Now()
				together(t, patiently(server), patiently(client))
				if d := time.Since(start); d > longClose/2 {
					t.Errorf("took %v", d)
				}
			}
		})
	}
}

// With messages on the way: nil means that the other process holds them.
func TestCloseCrossingWithMessages(t *testing.T) {
	t.Parallel()
	for _, link := range links {
		t.Run(link, func(t *testing.T) {
			var nils, errs int
			for i := range testutil.Count(100, 20) {
				server, client := connect(t, link)
				ends := []end{server, client}
				var result [2]error
				var wg sync.WaitGroup
				start := time.Now()
				for j, e := range ends {
					wg.Go(func() {
						if err := e.Write(j+1, testutil.Payload(i, 500)); err != nil {
							if !errors.Is(err, gipc.ErrNotConnected) && !errors.Is(err, gipc.ErrUnconfirmed) { // the other was faster
								t.Error(err)
							}
							result[j] = err
							patiently(e)()
							return
						}
						result[j] = patiently(e)()
					})
				}
				wg.Wait()
				if d := time.Since(start); d > longClose/2 {
					t.Errorf("took %v", d)
				}
				var lost, got [2]bool
				for j, e := range ends {
					for m, err := e.ReadTimed(0); err == nil && m != gipc.TimeoutMessage; m, err = e.ReadTimed(0) {
						lost[j] = lost[j] || m.Status == "Reconnecting" || m.Status == "Disconnected"
						got[j] = got[j] || m.MsgType == 2-j && bytes.Equal(m.Data, testutil.Payload(i, 500))
					}
				}
				for j, err := range result {
					if err != nil {
						errs++
						continue
					}
					nils++
					// A connection that was lost before the call of Close: its status was the notice.
					if !got[1-j] && !lost[j] {
						t.Fatalf("round %d: Close of side %d returned nil, and the other does not hold its message", i, j)
					}
				}
			}
			t.Logf("%d nil, %d errors", nils, errs)
		})
	}
}

// A reader that is told of a loss may close in the middle of everything.
func TestCloseFromTheReader(t *testing.T) {
	t.Parallel()
	server, client := connect(t, "unix")
	go func() {
		for server.Write(1, make([]byte, 100)) == nil {
		}
	}()
	n := 0
	for _, err := range client.Messages(t.Context()) {
		testutil.Must(t, err)
		if n++; n == 50 {
			go client.Close()
		}
	}
	if n < 50 {
		t.Errorf("%d messages", n)
	}
	for {
		if m := read(t, server); m.Status == "Disconnected" {
			break
		}
	}
	// The client was closing: what it discarded is not confirmed.
	if err := server.Close(); err != nil {
		wantErr(t, err, gipc.ErrUnconfirmed)
	}
}

// Close while the handshake of another is under way, and while a client is dialling.
func TestCloseDuringHandshakes(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		pipes := &pipes{}
		server := startServer(t, &gipc.ServerConfig{Name: "test", Listener: pipes.listen()})
		for range 5 {
			c, err := pipes.dial(t.Context())
			testutil.Must(t, err)
			defer c.Close()
		}
		synctest.Wait()
		start := time.Now()
		testutil.Must(t, server.Close())
		if d := time.Since(start); d > time.Second {
			t.Errorf("took %v", d)
		}
	})
	t.Run("client", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			sc, cc := configs(t, "pipe")
			pipes := &pipes{}
			sc.Listener, cc.Dial = pipes.listen(), pipes.dial
			server, client := startServer(t, sc), startClient(t, cc)
			l := pipes.listen()
			testutil.Must(t, server.Close())
			c, err := l.Accept() // and say nothing
			testutil.Must(t, err)
			defer c.Close()
			synctest.Wait()
			start := time.Now()
			testutil.Must(t, client.Close())
			if d := time.Since(start); d != 0 {
				t.Errorf("took %v", d)
			}
		})
	})
}

// A listener that somebody else closed is the end of a server that has no client.
func TestServerWhoseListenerIsClosed(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		l := (&pipes{}).listen()
		server := startServer(t, &gipc.ServerConfig{Name: "test", Listener: l})
		writing := make(chan error, 1)
		go func() { writing <- server.Write(1, nil) }()
		synctest.Wait()
		l.Close()
		<-server.Done()
		wantStatus(t, server, gipc.Error)
		if server.Err() == nil || server.Status() != "Error" {
			t.Errorf("%v, %q", server.Err(), server.Status())
		}
		if err := await(t, writing); err == nil {
			t.Error("Write returned nil")
		}
		for {
			m, err := server.Read()
			if err != nil {
				break
			}
			if m.MsgType != -1 {
				t.Fatalf("%+v", m)
			}
		}
		testutil.Must(t, server.Close())
	})
}

// Errors that may pass are no reason to stop serving.
func TestServerOutlivesErrorsOfAccept(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		p := &pipes{}
		l := &shakyListener{pipeListener: p.listen()}
		l.errs.Store(20)
		server := startServer(t, &gipc.ServerConfig{Name: "test", Listener: l})
		client := startClient(t, &gipc.ClientConfig{Name: "test", Dial: p.dial})
		testutil.Must(t, client.Write(1, nil))
		wantUser(t, server, 1, "")
		if n := l.errs.Load(); n > 0 {
			t.Errorf("%d errors are left", n)
		}
	})
}

type shakyListener struct {
	*pipeListener
	errs atomic.Int64
}

func (l *shakyListener) Accept() (net.Conn, error) {
	if l.errs.Add(-1) >= 0 {
		return nil, os.NewSyscallError("accept", syscall.EMFILE)
	}
	return l.pipeListener.Accept()
}

// 100 times open and close: no goroutine, no descriptor, no socket. It runs
// alone, since it counts what belongs to the whole process.
func TestCloseLeavesNothing(t *testing.T) {
	for _, link := range []string{"unix", "tcp secret"} {
		t.Run(link, func(t *testing.T) {
			round := func(i int) {
				sc, cc := configs(t, link)
				server, err := gipc.StartServer(sc)
				testutil.Must(t, err)
				client, err := gipc.StartClient(cc)
				testutil.Must(t, err)
				testutil.Must(t, client.Write(1, nil))
				if i%3 == 0 {
					wantUser(t, server, 1, "")
					testutil.Must(t, server.Write(2, nil))
				}
				if m, err := client.ReadTimed(time.Duration(i) * time.Microsecond); err != nil {
					t.Fatal(m, err)
				}
				first, second := end(client), end(server)
				if i%2 == 0 {
					first, second = second, first
				}
				if i%5 == 4 {
					cut(first)
					cut(second)
				} else {
					inbox(second) // so that it sees the close at once
					first.Close()
					second.Close()
				}
				if sc.Listener == nil {
					if _, err := os.Lstat(sc.Address); !errors.Is(err, os.ErrNotExist) {
						t.Fatalf("round %d: the socket is still there: %v", i, err)
					}
					os.RemoveAll(filepath.Dir(sc.Address))
				}
			}
			round(1) // what is made once for the process
			before, files := runtime.NumGoroutine(), descriptors(t)
			for i := range testutil.Count(100, 20) {
				round(i)
			}
			// A shutdown whose context is done returns while handshakes end.
			eventually(t, "the end of the last goroutine", func() bool { return runtime.NumGoroutine() <= before })
			eventually(t, "the end of the last descriptor", func() bool { return descriptors(t) <= files })
		})
	}
}

// descriptors counts the open files of this process; 0 where the system does not say.
func descriptors(t testing.TB) int {
	if runtime.GOOS != "linux" {
		return 0
	}
	entries, err := os.ReadDir("/proc/self/fd")
	testutil.Must(t, err)
	return len(entries)
}

const longClose = 2 * time.Minute

// patiently closes with so much time that a wait for all of it is told from a
// machine that is busy.
func patiently(e end) func() error {
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), longClose)
		defer cancel()
		return e.Shutdown(ctx)
	}
}

// Close at a random moment of a conversation, on either side, over and over.
func TestCloseAtAnyMoment(t *testing.T) {
	t.Parallel()
	for _, link := range links {
		t.Run(link, func(t *testing.T) {
			t.Parallel()
			for range testutil.Count(100, 20) {
				server, client := connect(t, link)
				talk := func(e end) func() error {
					return func() error {
						for e.Write(1, make([]byte, rand.N(3000))) == nil {
						}
						return nil
					}
				}
				listen := func(e end) func() error {
					return func() error {
						for {
							if _, err := e.ReadTimed(rand.N(50 * time.Microsecond)); err != nil {
								return nil
							}
						}
					}
				}
				first, second := end(server), end(client)
				if rand.N(2) == 0 {
					first, second = second, first
				}
				start := time.Now()
				together(t, talk(server), talk(client), listen(server), listen(client), func() error {
					for range rand.N(50) {
						runtime.Gosched()
					}
					patiently(first)() // which may have to tell that something was discarded
					patiently(second)()
					return nil
				})
				if d := time.Since(start); d > longClose/2 {
					t.Errorf("took %v", d)
				}
			}
		})
	}
}
