// Tests of receiving: the ways to read, contexts and timeouts that end one call
// alone, statuses and their order, losses and their reasons, who owns a slice.

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
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/gipc"
	"example.com/gipc/internal/testutil"
)

func TestTimeoutMessage(t *testing.T) {
	m := gipc.TimeoutMessage
	if m.MsgType != -1 || !errors.Is(m.Err, gipc.ErrTimeout) || !errors.Is(m.Err, os.ErrDeadlineExceeded) || m.Data != nil {
		t.Errorf("%+v", m)
	}
}

func TestReadTimedWaitsItsTime(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		sc, cc := configs(t, "pipe")
		server := startServer(t, sc)
		timed := func(e end, d, want time.Duration) {
			t.Helper()
			start := time.Now()
			if m, err := e.ReadTimed(d); m != gipc.TimeoutMessage || err != nil {
				t.Fatalf("%+v, %v; want TimeoutMessage", m, err)
			}
			// A pipe has no descriptor: a look at it is a wait, of a moment.
			if got := time.Since(start); got < want || got > want+2*time.Millisecond {
				t.Errorf("ReadTimed(%v) took %v", d, got)
			}
		}
		timed(server, time.Minute, time.Minute) // no peer yet
		timed(server, 0, 0)
		timed(server, -time.Second, 0)
		client := startClient(t, cc)
		wantInternal(t, server, gipc.Connected)
		wantInternal(t, client, gipc.Connecting)
		wantInternal(t, client, gipc.Connected)
		for _, e := range []end{server, client} {
			for _, d := range []time.Duration{time.Nanosecond, 200 * time.Microsecond, time.Second, time.Hour} {
				timed(e, d, d)
			}
			timed(e, 0, 0)
			timed(e, -1, 0)
		}
		testutil.Must(t, client.Close())
		wantInternal(t, server, gipc.Disconnected)
		timed(server, time.Minute, time.Minute)
	})
}

// Every ReadTimed looks at the socket: what the kernel has is found, however short the time.
func TestReadTimedLooksAtTheSocket(t *testing.T) {
	t.Parallel()
	for _, link := range []string{"unix", "unix plain"} {
		for _, d := range []time.Duration{0, -1, 1, time.Microsecond} {
			t.Run(fmt.Sprintf("%s/%v", link, d), func(t *testing.T) {
				server, client := connect(t, link)
				for _, want := range []gipc.Status{gipc.Connecting, gipc.Connected} {
					if m, err := client.ReadTimed(d); err != nil || m.Status != want.String() {
						t.Fatalf("%+v, %v; want %v", m, err, want)
					}
				}
				for i := range testutil.Count(500, 100) {
					testutil.Must(t, server.Write(i+1, testutil.Payload(i, i)))
					m, err := client.ReadTimed(d)
					if err != nil || m.MsgType != i+1 || !bytes.Equal(m.Data, testutil.Payload(i, i)) {
						t.Fatalf("message %d is in the kernel; got %+v, %v", i, m, err)
					}
				}
			})
		}
	}
}

// The first reads of a program come when the watcher is at the socket already.
func TestReadTimedLooksAtTheSocketFirst(t *testing.T) {
	t.Parallel()
	for range testutil.Count(100, 20) {
		server, client := connect(t, "unix plain")
		testutil.Must(t, server.Write(5, []byte("first")))
		var types []int
		for range 3 {
			m, err := client.ReadTimed(0)
			testutil.Must(t, err)
			if m == gipc.TimeoutMessage {
				t.Fatalf("a timeout after %v, and the message is in the kernel", types)
			}
			types = append(types, m.MsgType)
		}
		if !slices.Equal(types, []int{-1, -1, 5}) {
			t.Fatalf("got types %v", types)
		}
		cut(client)
		cut(server)
	}
}

// ReadTimed with a tiny time under load loses and reorders nothing.
func TestReadTimedUnderLoad(t *testing.T) {
	t.Parallel()
	for _, link := range links {
		t.Run(link, func(t *testing.T) {
			server, client := connect(t, link)
			n := testutil.Count(10_000, 2_000)
			more := make(chan bool, 1)
			var timeouts int
			together(t,
				func() error {
					for i := range n {
						if i%500 == 250 {
							<-more // the reader has seen a timeout, so it will go on with a passed deadline
						}
						if err := server.Write(1, testutil.Payload(i, 8+i%3000)); err != nil {
							return err
						}
					}
					return nil
				},
				func() error {
					for i := 0; i < n; {
						m, err := client.ReadTimed(200 * time.Microsecond)
						switch {
						case err != nil:
							return err
						case m == gipc.TimeoutMessage:
							timeouts++
							select {
							case more <- true:
							default:
							}
						case m.MsgType == -1:
						case !bytes.Equal(m.Data, testutil.Payload(i, 8+i%3000)):
							return fmt.Errorf("%.16x where message %d was due", m.Data, i)
						default:
							i++
						}
					}
					return nil
				})
			if timeouts < n/500-2 {
				t.Errorf("%d timeouts", timeouts)
			}
		})
	}
}

// Many readers with tiny timeouts: each message goes to exactly one, and each
// reader sees its own in order.
func TestReadConcurrently(t *testing.T) {
	t.Parallel()
	for _, link := range links {
		t.Run(link, func(t *testing.T) {
			server, client := connect(t, link)
			n := testutil.Count(10_000, 2_000)
			const readers = 8
			var got [readers][]int
			var taken atomic.Int64
			reader := func(r int) error {
				m := new(gipc.Message)
				random := rand.New(rand.NewPCG(1, uint64(r)))
				for int(taken.Load()) < n {
					var err error
					var now *gipc.Message
					d := time.Duration(random.IntN(300)) * time.Microsecond
					if random.IntN(16) == 0 {
						d = time.Second // on a busy machine nothing comes within the others
					}
					switch (r + random.IntN(2)) % 4 {
					case 0, 1:
						now, err = client.ReadTimed(d)
					case 2:
						ctx, cancel := context.WithTimeout(context.Background(), d)
						now, err = client.ReadContext(ctx)
						cancel()
					case 3:
						ctx, cancel := context.WithTimeout(context.Background(), d)
						err = client.ReadInto(ctx, m)
						now = m
						cancel()
					}
					switch {
					case errors.Is(err, context.DeadlineExceeded):
					case err != nil:
						return err
					case now.MsgType == 1:
						i := int(binary.BigEndian.Uint64(now.Data))
						if !bytes.Equal(now.Data, testutil.Payload(i, 8+i%2000)) {
							return fmt.Errorf("message %d has other bytes", i)
						}
						got[r] = append(got[r], i)
						taken.Add(1)
					}
				}
				return nil
			}
			fs := []func() error{func() error {
				for i := range n {
					if err := server.Write(1, testutil.Payload(i, 8+i%2000)); err != nil {
						return err
					}
					if i%64 == 0 {
						runtime.Gosched()
					}
				}
				return nil
			}}
			for r := range readers {
				fs = append(fs, func() error { return reader(r) })
			}
			together(t, fs...)
			var all []int
			for r := range readers {
				if !slices.IsSorted(got[r]) {
					t.Errorf("reader %d saw its messages out of order", r)
				}
				all = append(all, got[r]...)
			}
			slices.Sort(all)
			if len(all) != n || all[0] != 0 || all[n-1] != n-1 || len(slices.Compact(all)) != n {
				t.Errorf("%d messages for %d", len(all), n)
			}
		})
	}
}

// Readers without a limit and readers that give up share a stream that ends with Close.
func TestReadBlockedAmongLeaving(t *testing.T) {
	t.Parallel()
	server, client := connect(t, "unix")
	n := testutil.Count(5_000, 500)
	var seen sync.Map
	var left atomic.Int64
	left.Store(int64(n))
	all := make(chan struct{})
	take := func(m *gipc.Message) error {
		if m.MsgType != 1 {
			return nil
		}
		if _, twice := seen.LoadOrStore(binary.BigEndian.Uint64(m.Data), true); twice {
			return fmt.Errorf("message %x came twice", m.Data)
		}
		if left.Add(-1) == 0 {
			close(all)
		}
		return nil
	}
	until := func(read func() (*gipc.Message, error)) func() error {
		return func() error {
			for {
				m, err := read()
				if errors.Is(err, gipc.ErrClosed) {
					return nil
				}
				if err != nil {
					return err
				}
				if err := take(m); err != nil {
					return err
				}
			}
		}
	}
	timed := func() (*gipc.Message, error) { return client.ReadTimed(rand.N(100 * time.Microsecond)) }
	together(t,
		until(client.Read), until(client.Read), until(timed), until(timed), until(timed),
		func() error {
			for m, err := range client.Messages(context.Background()) {
				if err != nil {
					return err
				}
				if err := take(m); err != nil {
					return err
				}
			}
			return nil
		},
		func() error {
			for i := range n {
				if err := server.Write(1, testutil.Payload(i, 8)); err != nil {
					return err
				}
			}
			<-all
			return client.Close()
		})
}

func TestReadContextEndsOneCallAlone(t *testing.T) {
	t.Parallel()
	for _, link := range links {
		t.Run(link, func(t *testing.T) {
			server, client := connect(t, link)
			wantInternal(t, client, gipc.Connecting)
			wantInternal(t, client, gipc.Connected)
			var m gipc.Message
			for i := range testutil.Count(200, 50) {
				ctx, cancel := context.WithCancel(context.Background())
				errs := make(chan error, 3)
				go func() { _, err := client.ReadContext(ctx); errs <- err }()
				go func() { errs <- client.ReadInto(ctx, new(gipc.Message)) }()
				go func() {
					for m, err := range client.Messages(ctx) {
						if m != nil {
							err = fmt.Errorf("a message: %+v", m)
						}
						errs <- err
						return
					}
				}()
				if i%2 == 0 {
					runtime.Gosched()
				}
				cancel()
				for range 3 {
					wantErr(t, await(t, errs), context.Canceled)
				}
				together(t,
					func() error { return server.Write(i+1, []byte("after")) },
					func() error { return client.ReadInto(context.Background(), &m) })
				if m.MsgType != i+1 || string(m.Data) != "after" {
					t.Fatalf("got %+v", m)
				}
			}
			wantStatus(t, client, gipc.Connected)
		})
	}
}

// A message that is there when a context ends is delivered to that call or to a later one.
func TestReadContextRacesWithTheMessage(t *testing.T) {
	t.Parallel()
	server, client := connect(t, "unix")
	due := 0
	for i := range testutil.Count(2_000, 300) {
		ctx, cancel := context.WithCancel(context.Background())
		got := make(chan *gipc.Message, 1)
		go func() {
			m, err := client.ReadContext(ctx)
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			got <- m
		}()
		var sent sync.WaitGroup
		sent.Go(func() {
			if err := server.Write(1, testutil.Payload(i, 8)); err != nil {
				t.Error(err)
			}
		})
		if i%3 == 0 {
			runtime.Gosched()
		}
		cancel()
		sent.Wait()
		m := await(t, got)
		for m == nil || m.MsgType == -1 {
			m = read(t, client)
		}
		if n := int(binary.BigEndian.Uint64(m.Data)); n != due {
			t.Fatalf("message %d where %d was due", n, due)
		}
		due++
	}
}

// The same in the middle of a frame, at every place of it.
func TestReadEndsInsideAFrame(t *testing.T) {
	t.Parallel()
	raw := listenRaw(t)
	client, peer := raw.connect(&gipc.ClientConfig{})
	wantInternal(t, client, gipc.Connecting)
	wantInternal(t, client, gipc.Connected)
	give := []func() error{
		func() error {
			m, err := client.ReadTimed(0)
			if err == nil && m != gipc.TimeoutMessage {
				err = fmt.Errorf("got %+v", m)
			}
			return err
		},
		func() error {
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Microsecond)
			defer cancel()
			m, err := client.ReadContext(ctx)
			if !errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("%+v, %v", m, err)
			}
			return nil
		},
		func() error {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			m := gipc.Message{Data: make([]byte, 0, 200)}
			if err := client.ReadInto(ctx, &m); !errors.Is(err, context.Canceled) {
				return fmt.Errorf("%+v, %v", m, err)
			}
			return nil
		},
	}
	for i := range 5 {
		f := frame(uint32(i+1), testutil.Payload(i, 60))
		for j := range f {
			testutil.Must(t, give[(i+j)%len(give)]())
			peer.send(f[j : j+1])
		}
		wantUser(t, client, i+1, string(testutil.Payload(i, 60)))
	}
}

// Encrypted frames that arrive in small pieces, read with a tiny time.
func TestReadTimedOfPieces(t *testing.T) {
	t.Parallel()
	for _, link := range []string{"unix", "unix plain"} {
		t.Run(link, func(t *testing.T) {
			sc, cc := configs(t, link)
			cc.Dial = func(ctx context.Context) (net.Conn, error) {
				c, err := (&net.Dialer{}).DialContext(ctx, "unix", sc.Address)
				return &drip{c, 700}, err
			}
			server, client := startServer(t, sc), startClient(t, cc)
			n := testutil.Count(50, 10)
			var timeouts int
			together(t,
				func() error { return send(server, n, 200_000) },
				func() error {
					for i := 0; i < n; {
						m, err := client.ReadTimed(50 * time.Microsecond)
						switch {
						case err != nil:
							return err
						case m == gipc.TimeoutMessage:
							timeouts++
						case m.MsgType == -1:
						case !bytes.Equal(m.Data, testutil.Payload(i, 200_000)):
							return fmt.Errorf("other bytes where message %d was due", i)
						default:
							i++
						}
					}
					return nil
				})
			t.Logf("%d timeouts for %d messages", timeouts, n)
		})
	}
}

func TestReadAByteAtATime(t *testing.T) {
	t.Parallel()
	for _, link := range []string{"unix", "unix plain"} {
		t.Run(link, func(t *testing.T) {
			sc, cc := configs(t, link)
			cc.Dial = func(ctx context.Context) (net.Conn, error) {
				c, err := (&net.Dialer{}).DialContext(ctx, "unix", sc.Address)
				return &drip{c, 1}, err
			}
			ln, err := net.Listen("unix", sc.Address)
			testutil.Must(t, err)
			sc.Listener = dripListener{ln}
			server, client := startServer(t, sc), startClient(t, cc)
			for i := range 60 {
				size := i * i % 500
				if i == 30 {
					size = 50_000
				}
				testutil.Must(t, client.Queue(1, testutil.Payload(i, size)))
				testutil.Must(t, client.Write(2, nil))
				wantUser(t, server, 1, string(testutil.Payload(i, size)))
				wantUser(t, server, 2, "")
				testutil.Must(t, server.Write(1, testutil.Payload(i, size)))
				wantUser(t, client, 1, string(testutil.Payload(i, size)))
			}
			inbox(server)
			testutil.Must(t, client.Close())
		})
	}
}

func TestReadIntoReusesTheCapacity(t *testing.T) {
	t.Parallel()
	for _, link := range links {
		t.Run(link, func(t *testing.T) {
			server, client := connect(t, link)
			m := gipc.Message{Data: make([]byte, 0, 100_000)}
			here := &m.Data[:1][0]
			for _, want := range []gipc.Status{gipc.Connecting, gipc.Connected} {
				testutil.Must(t, client.ReadInto(t.Context(), &m))
				if m.MsgType != -1 || m.Status != want.String() || m.Err != nil || len(m.Data) != 0 {
					t.Fatalf("got %+v, want %v", m, want)
				}
			}
			m.Err = io.EOF // must not survive
			for i, size := range []int{10, 1000, 0, 70_000, 100_000, 5, 4096} {
				together(t,
					func() error { return server.Write(i+1, testutil.Payload(i, size)) },
					func() error { return client.ReadInto(t.Context(), &m) })
				if m.MsgType != i+1 || m.Status != "" || m.Err != nil || !bytes.Equal(m.Data, testutil.Payload(i, size)) {
					t.Fatalf("message %d: type %d, status %q, %v, or other bytes", i, m.MsgType, m.Status, m.Err)
				}
				if cap(m.Data) == 0 || &m.Data[:1][0] != here {
					t.Fatalf("message %d of %d bytes is in new memory", i, size)
				}
			}
			together(t,
				func() error { return server.Write(1, testutil.Payload(9, 300_000)) },
				func() error { return client.ReadInto(t.Context(), &m) })
			if !bytes.Equal(m.Data, testutil.Payload(9, 300_000)) {
				t.Fatal("other bytes in the larger message")
			}
			var zero gipc.Message
			testutil.Must(t, server.Write(1, testutil.Payload(10, 50)))
			testutil.Must(t, client.ReadInto(t.Context(), &zero))
			if !bytes.Equal(zero.Data, testutil.Payload(10, 50)) {
				t.Fatal("other bytes in the zero message")
			}
		})
	}
}

// After an error nothing touches m.Data any more, also when a large frame was on
// its way straight into it; and the message survives its reader's context.
func TestReadIntoLeavesTheSliceAlone(t *testing.T) {
	t.Parallel()
	for _, link := range []string{"unix", "unix plain"} {
		for _, how := range []string{"context", "Close"} {
			t.Run(link+"/"+how, func(t *testing.T) {
				const size = 2 << 20
				sc, cc := configs(t, link)
				half, goOn := make(chan bool), make(chan bool)
				cc.Dial = relay(t, sc, func(r *relayed) {
					if r.toClient && len(r.frame) > size {
						r.send(r.frame[:size/2])
						half <- true
						<-goOn
						r.frame = r.frame[size/2:]
					}
					r.send(r.frame)
				})
				server, client := startServer(t, sc), startClient(t, cc)
				for range 50 { // so that the reader reads, and not the watcher of the first moments
					together(t,
						func() error { return server.Write(2, nil) },
						func() error { _, err := nextUser(client); return err })
				}
				sent := make(chan error, 1)
				go func() { sent <- server.Write(1, testutil.Payload(7, size)) }()
				m := gipc.Message{Data: make([]byte, 0, size+100)}
				mine := m.Data[:cap(m.Data)]
				ctx, cancel := context.Background(), func() {}
				if how == "context" {
					ctx, cancel = context.WithCancel(ctx)
				}
				defer cancel()
				read := make(chan error, 1)
				go func() { read <- client.ReadInto(ctx, &m) }()
				await(t, half) // more than the kernel holds, so the library has the most of it
				closed := make(chan error, 1)
				if how == "context" {
					cancel()
					wantErr(t, await(t, read), context.Canceled)
				} else {
					go func() { closed <- client.Close() }()
					if err := await(t, read); err != nil || m.Status != "Closed" {
						t.Fatalf("%+v, %v", m, err)
					}
				}
				for i := range mine {
					mine[i] = 0xEE
				}
				goOn <- true
				testutil.Must(t, await(t, sent))
				if how == "context" {
					wantUser(t, client, 1, string(testutil.Payload(7, size)))
				} else {
					inbox(server) // so that it sees the close at once
					testutil.Must(t, await(t, closed))
				}
				for i, b := range mine {
					if b != 0xEE {
						t.Fatalf("byte %d was written after the call", i)
					}
				}
			})
		}
	}
}

// What Read returns is the caller's to keep and to scribble on, up to its capacity.
func TestReadGivesTheSliceAway(t *testing.T) {
	t.Parallel()
	for _, link := range links {
		t.Run(link, func(t *testing.T) {
			server, client := connect(t, link)
			n := testutil.Count(1_000, 200)
			size := func(i int) int { return i * 37 % 2000 }
			together(t, func() error {
				for i := range n {
					if err := server.Queue(1, testutil.Payload(i, size(i))); err != nil {
						return err
					}
				}
				return server.Flush()
			}, func() error {
				kept := make([][]byte, n)
				for i := range n {
					m, err := nextUser(client)
					if err != nil {
						return err
					}
					kept[i] = m.Data
					if i%3 == 0 { // the neighbours must not see this
						all := m.Data[:cap(m.Data)]
						for j := range all {
							all[j] = 0xEE
						}
					}
				}
				for i, b := range kept {
					if i%3 != 0 && !bytes.Equal(b, testutil.Payload(i, size(i))) {
						return fmt.Errorf("message %d changed after it was read", i)
					}
				}
				return nil
			})
		})
	}
}

func TestMessages(t *testing.T) {
	t.Parallel()
	t.Run("user messages alone, and breaking off loses nothing", func(t *testing.T) {
		server, client := connect(t, "unix")
		for i := range 10 {
			testutil.Must(t, server.Write(i+1, nil))
		}
		want := 1
		for want <= 10 {
			for m, err := range client.Messages(t.Context()) {
				testutil.Must(t, err)
				if m.MsgType != want {
					t.Fatalf("type %d where %d was due", m.MsgType, want)
				}
				want++
				if want == 5 { // holds nothing: another reader takes its turn in the body
					wantUser(t, client, 5, "")
					want++
				}
				if want%3 == 0 || want > 10 {
					break
				}
			}
		}
	})
	t.Run("goes on over reconnects", func(t *testing.T) {
		raw := listenRaw(t)
		client, peer := raw.connect(&gipc.ClientConfig{RetryTimer: time.Millisecond})
		go func() {
			for i := range 3 {
				peer.send(frame(uint32(i+1), nil))
				peer.Close()
				peer = raw.accept()
			}
			peer.send(frame(4, nil))
		}()
		want := 1
		for m, err := range client.Messages(t.Context()) {
			testutil.Must(t, err)
			if m.MsgType != want {
				t.Fatalf("type %d where %d was due", m.MsgType, want)
			}
			if want++; want == 5 {
				break
			}
		}
	})
	t.Run("ends silently on Close", func(t *testing.T) {
		server, client := connect(t, "unix")
		testutil.Must(t, server.Write(1, nil))
		n := 0
		for m, err := range client.Messages(t.Context()) {
			if err != nil || m.MsgType != 1 {
				t.Fatalf("%+v, %v", m, err)
			}
			n++
			testutil.Must(t, client.Close())
		}
		if n != 1 {
			t.Errorf("%d steps", n)
		}
		for m, err := range client.Messages(t.Context()) {
			t.Fatalf("after Close: %+v, %v", m, err)
		}
	})
	t.Run("yields an error once", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			sc, cc := configs(t, "pipe")
			cc.Timeout = time.Minute
			server, client := startServer(t, sc), startClient(t, cc)
			ended, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			var errs []error
			for m, err := range client.Messages(ended) {
				if m != nil {
					t.Fatalf("%+v, %v", m, err)
				}
				errs = append(errs, err)
			}
			if len(errs) != 1 || !errors.Is(errs[0], context.DeadlineExceeded) {
				t.Errorf("errors %v", errs)
			}
			testutil.Must(t, server.Close())
			errs = nil
			for m, err := range client.Messages(t.Context()) {
				if m != nil {
					t.Fatalf("%+v, %v", m, err)
				}
				errs = append(errs, err)
			}
			if len(errs) != 1 || !errors.Is(errs[0], gipc.ErrTimeout) {
				t.Errorf("errors %v", errs)
			}
		})
	})
}

// A status stands in the stream where it happened.
func TestReadStatusOrder(t *testing.T) {
	t.Parallel()
	for _, link := range links {
		t.Run(link, func(t *testing.T) {
			sc, cc := configs(t, link)
			cc.RetryTimer = time.Millisecond
			server := startServer(t, sc)
			wantStatus(t, server, gipc.Listening)
			if s := server.Status(); s != "Listening" {
				t.Errorf("status %q", s)
			}
			client := startClient(t, cc)
			wantStatus(t, client, gipc.Connected)
			if s := client.Status(); s != "Connected" {
				t.Errorf("status %q", s)
			}
			testutil.Must(t, client.Write(1, nil))
			testutil.Must(t, client.Write(2, nil))
			testutil.Must(t, client.Close())
			wantInternal(t, server, gipc.Connected)
			wantUser(t, server, 1, "")
			wantUser(t, server, 2, "")
			if m := wantInternal(t, server, gipc.Disconnected); m.Err != nil {
				t.Errorf("Disconnected with %v after a close", m.Err)
			}
			client = startClient(t, cc)
			testutil.Must(t, server.WaitConnected(patience(t)))
			testutil.Must(t, server.Write(3, nil))
			testutil.Must(t, server.Close())
			wantInternal(t, client, gipc.Connecting)
			wantInternal(t, client, gipc.Connected)
			wantUser(t, client, 3, "")
			if m := wantInternal(t, client, gipc.ReConnecting); m.Err != nil {
				t.Errorf("Reconnecting with %v after a close", m.Err)
			}
		})
	}
}

// Losses without a close: the reason is in the message.
func TestReadLossReasons(t *testing.T) {
	t.Parallel()
	texts := make(map[string]string)
	var mu sync.Mutex
	lose := func(t *testing.T, network string, do func(*rawPeer), want ...error) {
		ln, err := net.Listen(network, map[string]string{"unix": testutil.TempSocket(t), "tcp": "127.0.0.1:0"}[network])
		testutil.Must(t, err)
		raw := &rawServer{t: t, ln: ln, dial: func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, ln.Addr().String())
		}}
		t.Cleanup(func() { ln.Close() })
		client, peer := raw.connect(&gipc.ClientConfig{RetryTimer: time.Hour})
		ln.Close()
		wantInternal(t, client, gipc.Connecting)
		wantInternal(t, client, gipc.Connected)
		peer.send(frame(5, []byte("before")))
		do(peer)
		wantUser(t, client, 5, "before")
		m := wantInternal(t, client, gipc.ReConnecting)
		for _, w := range want {
			if !errors.Is(m.Err, w) {
				t.Errorf("lost with %v, want %v", m.Err, w)
			}
		}
		if len(want) == 0 && m.Err != nil {
			t.Errorf("lost with %v after a close", m.Err)
		}
		if m.Err != nil {
			mu.Lock()
			texts[t.Name()] = m.Err.Error()
			mu.Unlock()
		}
	}
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			t.Run("boundary", func(t *testing.T) {
				lose(t, network, func(p *rawPeer) { p.Close() }, gipc.ErrTruncated, io.ErrUnexpectedEOF)
			})
			t.Run("prefix", func(t *testing.T) {
				lose(t, network, func(p *rawPeer) { p.send([]byte{0, 0}); p.Close() }, gipc.ErrTruncated, io.ErrUnexpectedEOF)
			})
			t.Run("inside", func(t *testing.T) {
				lose(t, network, func(p *rawPeer) { p.send(frame(1, make([]byte, 99))[:50]); p.Close() }, gipc.ErrTruncated, io.ErrUnexpectedEOF)
			})
			t.Run("malformed", func(t *testing.T) {
				lose(t, network, func(p *rawPeer) { p.send([]byte{0, 0, 0, 3, 1, 2, 3}) }, gipc.ErrMalformed)
			})
			t.Run("close", func(t *testing.T) {
				lose(t, network, func(p *rawPeer) { p.send(closeFrame, ackFrame); p.Close() })
			})
			boundary, inside := texts[t.Name()+"/boundary"], texts[t.Name()+"/inside"]
			if boundary == inside {
				t.Errorf("the same text for both ends: %q", inside)
			}
		})
	}
	t.Run("reset", func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		testutil.Must(t, err)
		raw := &rawServer{t: t, ln: ln, dial: func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", ln.Addr().String())
		}}
		t.Cleanup(func() { ln.Close() })
		client, peer := raw.connect(&gipc.ClientConfig{RetryTimer: time.Hour})
		ln.Close()
		wantInternal(t, client, gipc.Connecting)
		wantInternal(t, client, gipc.Connected)
		peer.Conn.(*net.TCPConn).SetLinger(0)
		peer.Close()
		if m := wantInternal(t, client, gipc.ReConnecting); !errors.Is(m.Err, gipc.ErrTruncated) {
			t.Errorf("lost with %v", m.Err)
		}
	})
}

// After the end Read returns the same error forever, at once.
func TestReadAfterTheEnd(t *testing.T) {
	t.Parallel()
	forEver := func(t *testing.T, e end, want error) {
		t.Helper()
		if !errors.Is(e.Err(), want) {
			t.Errorf("Err %v, want %v", e.Err(), want)
		}
		<-e.Done()
		_, first := e.Read()
		for range 100 {
			for _, read := range []func() (*gipc.Message, error){
				e.Read,
				func() (*gipc.Message, error) { return e.ReadTimed(0) },
				func() (*gipc.Message, error) { return e.ReadTimed(time.Hour) },
				func() (*gipc.Message, error) { return e.ReadContext(context.Background()) },
				func() (*gipc.Message, error) { return nil, e.ReadInto(context.Background(), new(gipc.Message)) },
			} {
				if m, err := read(); m != nil || !errors.Is(err, want) || err.Error() != first.Error() {
					t.Fatalf("%+v, %v; want %v forever", m, err, first)
				}
			}
		}
	}
	t.Run("closed", func(t *testing.T) {
		server, client := connect(t, "unix")
		for _, e := range []end{client, server} {
			testutil.Must(t, e.Close())
			for {
				if m := read(t, e); m.Status == "Closed" {
					break
				}
			}
			forEver(t, e, gipc.ErrClosed)
			forEver(t, e, net.ErrClosed)
		}
	})
	t.Run("timeout", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			sc, cc := configs(t, "pipe")
			cc.Timeout = 30 * time.Second
			server, client := startServer(t, sc), startClient(t, cc)
			testutil.Must(t, server.Close())
			wantInternal(t, client, gipc.Connecting)
			wantInternal(t, client, gipc.Connected)
			wantInternal(t, client, gipc.ReConnecting)
			wantInternal(t, client, gipc.Timeout)
			wantStatus(t, client, gipc.Timeout)
			forEver(t, client, gipc.ErrTimeout)
			forEver(t, client, os.ErrDeadlineExceeded)
		})
	})
}

// Nobody reads: of unread statuses the newest 16 are kept and the others counted,
// and no message of the peer's is dropped.
func TestReadNobodyDoes(t *testing.T) {
	t.Parallel()
	sc, cc := configs(t, "unix")
	server := startServer(t, sc)
	const n = 20
	for i := range n {
		client := startClient(t, cc)
		testutil.Must(t, client.Write(i+1, []byte("kept")))
		testutil.Must(t, client.Close())
		eventually(t, "the loss", func() bool { return server.StatusCode() == gipc.Disconnected })
	}
	if d := server.Stats().Dropped; d != 2*n-16 {
		t.Errorf("%d statuses were dropped, want %d", d, 2*n-16)
	}
	var statuses, messages int
	last := ""
	for {
		m, err := server.ReadTimed(0)
		testutil.Must(t, err)
		if m == gipc.TimeoutMessage {
			break
		}
		if m.MsgType == -1 {
			statuses++
			last = m.Status
			continue
		}
		if messages++; m.MsgType != messages || string(m.Data) != "kept" {
			t.Fatalf("type %d where %d was due", m.MsgType, messages)
		}
	}
	if statuses != 16 || messages != n || last != "Disconnected" {
		t.Errorf("%d statuses, the last %q, and %d messages", statuses, last, messages)
	}
}

// Without a reader losses are noticed and reconnects done.
func TestReconnectWithoutReader(t *testing.T) {
	t.Parallel()
	raw := listenRaw(t)
	client, peer := raw.connect(&gipc.ClientConfig{RetryTimer: time.Millisecond})
	for i := range 5 {
		if id := client.ID(); id != uint64(i+1) {
			t.Errorf("connection %d has ID %d", i+1, id)
		}
		peer.Close()
		peer = raw.accept()
		eventually(t, "the reconnect", func() bool { return client.Stats().Reconnects == uint64(i+1) })
		testutil.Must(t, client.WaitConnected(patience(t)))
		testutil.Must(t, client.Write(i+1, nil))
		if n, _ := peer.next(); int(n) != i+1 {
			t.Fatalf("type %d", n)
		}
	}
}

// What arrives while nobody reads is bounded: then the kernel pushes back.
func TestReadPushesBack(t *testing.T) {
	t.Parallel()
	raw := listenRaw(t)
	client, peer := raw.connect(&gipc.ClientConfig{})
	peer.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
	var all []byte
	for i := range 4000 {
		all = append(all, frame(uint32(i+1), testutil.Payload(i, 2000))...)
	}
	n, err := peer.Write(all)
	if !errors.Is(err, os.ErrDeadlineExceeded) || n > 4<<20 {
		t.Fatalf("%d of %d bytes, %v: nothing pushed back", n, len(all), err)
	}
	peer.SetWriteDeadline(time.Time{})
	go peer.Write(all[n:])
	for i := range 4000 {
		if m := next(t, client); m.MsgType != i+1 || !bytes.Equal(m.Data, testutil.Payload(i, 2000)) {
			t.Fatalf("type %d where %d was due, or other bytes", m.MsgType, i+1)
		}
	}
}

// After a loss what the kernel still holds is read, past the bound of the queue,
// whether or not anybody reads.
func TestReadAfterALoss(t *testing.T) {
	t.Parallel()
	for name, end := range map[string][]byte{"cut": nil, "close": slices.Concat(closeFrame, ackFrame)} {
		t.Run(name, func(t *testing.T) {
			raw := listenRaw(t)
			client, peer := raw.connect(&gipc.ClientConfig{RetryTimer: time.Hour})
			raw.ln.Close()
			const n = 40
			for i := range n {
				peer.send(frame(uint32(i+1), testutil.Payload(i, 3000)))
			}
			peer.send(end)
			peer.Close()
			for i := range n {
				if m := next(t, client); m.MsgType != i+1 || !bytes.Equal(m.Data, testutil.Payload(i, 3000)) {
					t.Fatalf("type %d where %d was due", m.MsgType, i+1)
				}
			}
			m := wantInternal(t, client, gipc.ReConnecting)
			if lost := name == "cut"; errors.Is(m.Err, gipc.ErrTruncated) != lost {
				t.Errorf("lost with %v", m.Err)
			}
		})
	}
}

func TestWaitConnected(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		sc, cc := configs(t, "pipe")
		pipes := &pipes{}
		sc.Listener, cc.Dial = pipes.listen(), pipes.dial
		cc.Timeout = time.Hour
		server := startServer(t, sc)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		wantErr(t, server.WaitConnected(ctx), context.DeadlineExceeded)
		if d := time.Since(start); d != time.Minute {
			t.Errorf("returned after %v", d)
		}
		waiting := make(chan error, 1)
		go func() { waiting <- server.WaitConnected(context.Background()) }()
		synctest.Wait()
		client := startClient(t, cc)
		testutil.Must(t, await(t, waiting))
		testutil.Must(t, client.WaitConnected(context.Background()))

		testutil.Must(t, server.Close())
		go func() { waiting <- client.WaitConnected(context.Background()) }()
		pass(time.Minute)
		wantStatus(t, client, gipc.ReConnecting)
		sc.Listener = pipes.listen()
		server = startServer(t, sc)
		testutil.Must(t, await(t, waiting))
		wantStatus(t, client, gipc.Connected)

		testutil.Must(t, server.Close())
		synctest.Wait()
		go func() { waiting <- client.WaitConnected(context.Background()) }()
		<-client.Done() // an hour later this end is finished
		wantErr(t, await(t, waiting), gipc.ErrTimeout)
		wantErr(t, client.WaitConnected(context.Background()), gipc.ErrTimeout)
		wantErr(t, server.WaitConnected(context.Background()), gipc.ErrClosed)
	})
}

func TestDoneAndErr(t *testing.T) {
	t.Parallel()
	server, client := connect(t, "unix")
	open := func(e end) {
		t.Helper()
		select {
		case <-e.Done():
			t.Fatal("done")
		default:
		}
		if err := e.Err(); err != nil {
			t.Fatal(err)
		}
	}
	open(server)
	open(client)
	testutil.Must(t, client.Close())
	<-client.Done()
	wantErr(t, client.Err(), gipc.ErrClosed)
	eventually(t, "the loss", func() bool { return server.StatusCode() == gipc.Disconnected })
	open(server) // another client may come
	waiting := make(chan struct{})
	go func() { <-server.Done(); close(waiting) }()
	testutil.Must(t, server.Close())
	await(t, waiting)
	wantErr(t, server.Err(), gipc.ErrClosed)
	wantStatus(t, server, gipc.Closed)
}

func TestPeer(t *testing.T) {
	t.Parallel()
	for _, link := range links {
		t.Run(link, func(t *testing.T) {
			server, client := connect(t, link)
			for _, e := range []end{server, client} {
				p := e.Peer()
				known := runtime.GOOS == "linux" && (link == "unix" || link == "unix plain")
				want := gipc.Peer{UID: -1, GID: -1, PID: -1, Known: false, Addr: p.Addr}
				if known {
					want = gipc.Peer{UID: os.Getuid(), GID: os.Getgid(), PID: os.Getpid(), Known: true, Addr: p.Addr}
				}
				if p != want || p.Addr == nil {
					t.Errorf("%+v, want %+v", p, want)
				}
			}
		})
	}
	t.Run("nobody", func(t *testing.T) {
		sc, _ := configs(t, "unix")
		if p := startServer(t, sc).Peer(); p.UID != -1 || p.GID != -1 || p.PID != -1 || p.Known {
			t.Errorf("%+v", p)
		}
	})
}

func TestIDOfTheServer(t *testing.T) {
	t.Parallel()
	sc, cc := configs(t, "unix")
	server := startServer(t, sc)
	for i := range uint64(3) {
		client := startClient(t, cc)
		testutil.Must(t, server.WaitConnected(patience(t)))
		if s, c := server.ID(), client.ID(); s != i+1 || c != 1 {
			t.Errorf("connection %d: server %d, client %d", i+1, s, c)
		}
		testutil.Must(t, client.Close())
		eventually(t, "the loss", func() bool { return server.StatusCode() == gipc.Disconnected })
	}
}

func TestBusyPoll(t *testing.T) {
	t.Parallel()
	for _, link := range links[:3] { // the pipe has no buffer: each write would wait for a watcher
		t.Run(link, func(t *testing.T) {
			sc, cc := configs(t, link)
			sc.BusyPoll, cc.BusyPoll = 50*time.Microsecond, 50*time.Microsecond
			server, client := startServer(t, sc), startClient(t, cc)
			for i := range testutil.Count(300, 50) {
				testutil.Must(t, client.Write(1, testutil.Payload(i, i)))
				wantUser(t, server, 1, string(testutil.Payload(i, i)))
				testutil.Must(t, server.Write(2, testutil.Payload(i, i)))
				wantUser(t, client, 2, string(testutil.Payload(i, i)))
			}
			if m, err := client.ReadTimed(time.Millisecond); m != gipc.TimeoutMessage || err != nil {
				t.Errorf("%+v, %v", m, err)
			}
			inbox(server)
			testutil.Must(t, client.Close())
			testutil.Must(t, server.Close())
		})
	}
}

// A drip is a connection that reads at most so many bytes at a time.
type drip struct {
	net.Conn
	most int
}

func (c *drip) Read(b []byte) (int, error) { return c.Conn.Read(b[:min(len(b), c.most)]) }

type dripListener struct{ net.Listener }

func (l dripListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &drip{c, 1}, nil
}
