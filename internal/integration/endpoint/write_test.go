// Tests of sending: what nil means for Write, Queue and Flush, contexts, sizes
// and types, and order. At the end of the file: what all tests from outside share.

package endpoint_test

import (
	"bytes"
	"context"
	"crypto/fips140"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"net"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/gipc"
	"example.com/gipc/internal/testutil"
)

func TestWriteKeepsOrder(t *testing.T) {
	t.Parallel()
	for _, link := range links {
		t.Run(link, func(t *testing.T) {
			n := testutil.Count(10_000, 2_000)
			if link == "unix" {
				n = testutil.Count(100_000, 10_000)
			}
			server, client := connect(t, link)
			together(t,
				func() error { return send(server, n, 16) },
				func() error { return receive(client, n, 16) },
				func() error { return send(client, n, 16) },
				func() error { return receive(server, n, 16) },
			)
		})
	}
}

func TestWriteEverySize(t *testing.T) {
	t.Parallel()
	sizes := []int{0, 1, 3, 4, 5, 31, 32, 33, 4095, 4096, 65535 - 36, 65536 - 36, 65535 - 8, 65536 - 8, 65535, 65536, 65537,
		1 << 17, 1<<20 - 1, 1 << 20, 3145728 - 1, 3145728}
	for i := range 300 {
		sizes = append(sizes, i*i%5000)
	}
	for _, link := range links {
		t.Run(link, func(t *testing.T) {
			server, client := connect(t, link)
			for _, way := range [][2]end{{server, client}, {client, server}} {
				from, to := way[0], way[1]
				together(t,
					func() error {
						for i, size := range sizes {
							put := from.Write
							if i%3 == 0 {
								put = from.Queue
							}
							if err := put(i+1, testutil.Payload(i, size)); err != nil {
								return fmt.Errorf("%d bytes: %w", size, err)
							}
						}
						return from.Flush()
					},
					func() error {
						for i, size := range sizes {
							m, err := nextUser(to)
							if err != nil {
								return err
							}
							if m.MsgType != i+1 || !bytes.Equal(m.Data, testutil.Payload(i, size)) {
								return fmt.Errorf("message %d of %d bytes: got type %d and %d bytes, or other bytes", i, size, m.MsgType, len(m.Data))
							}
						}
						return nil
					})
			}
		})
	}
}

func TestWriteKeepsNothingOfTheSlice(t *testing.T) {
	t.Parallel()
	for _, size := range []int{10, 1000, 100_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			server, client := connect(t, "unix")
			const n = 200
			together(t,
				func() error {
					buf := make([]byte, size)
					for i := range n {
						copy(buf, testutil.Payload(i, size))
						put := client.Write
						if i%2 == 0 {
							put = client.Queue
						}
						if err := put(1, buf); err != nil {
							return err
						}
						for j := range buf {
							buf[j] = 0xEE
						}
					}
					return client.Flush()
				},
				func() error { return receive(server, n, size) })
		})
	}
}

func TestWriteEmptyData(t *testing.T) {
	t.Parallel()
	server, client := connect(t, "unix")
	for i, data := range [][]byte{nil, {}, nil} {
		testutil.Must(t, client.Write(i+1, data))
		if m := next(t, server); m.MsgType != i+1 || len(m.Data) != 0 || m.Err != nil {
			t.Fatalf("got %+v", m)
		}
	}
}

func TestWriteWaitsForTheFirstPeer(t *testing.T) {
	t.Parallel()
	for name, put := range map[string]func(end, int, []byte) error{
		"Write":        end.Write,
		"WriteContext": func(e end, n int, b []byte) error { return e.WriteContext(context.Background(), n, b) },
		"Queue":        end.Queue,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				sc, cc := configs(t, "pipe")
				server := startServer(t, sc)
				done := make(chan error, 1)
				go func() { done <- put(server, 7, []byte("early")) }()
				pass(time.Hour)
				select {
				case err := <-done:
					t.Fatalf("returned with %v while no peer was there", err)
				default:
				}
				client := startClient(t, cc)
				testutil.Must(t, await(t, done))
				testutil.Must(t, server.Flush())
				wantUser(t, client, 7, "early")
			})
		})
	}
}

func TestWriteContextEndsWhileNoPeerIsThere(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		sc, cc := configs(t, "pipe")
		server := startServer(t, sc)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		wantErr(t, server.WriteContext(ctx, 1, []byte("gone")), context.DeadlineExceeded)
		if d := time.Since(start); d != time.Minute {
			t.Errorf("returned after %v", d)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		wantErr(t, server.WriteContext(ended, 1, []byte("gone")), context.Canceled)
		wantStatus(t, server, gipc.Listening)
		client := startClient(t, cc)
		testutil.Must(t, server.Write(2, []byte("later")))
		wantUser(t, client, 2, "later")
	})
}

func TestWriteWithoutPeer(t *testing.T) {
	t.Parallel()
	puts := func(e end) map[string]error {
		return map[string]error{
			"Write":        e.Write(1, []byte("x")),
			"WriteContext": e.WriteContext(context.Background(), 1, []byte("x")),
			"Queue":        e.Queue(1, []byte("x")),
		}
	}
	check := func(t *testing.T, e end, want error) {
		t.Helper()
		for name, err := range puts(e) {
			if !errors.Is(err, want) {
				t.Errorf("%s in status %s: %v, want %v", name, e.Status(), err, want)
			}
		}
	}
	t.Run("server Disconnected", func(t *testing.T) {
		server, client := connect(t, "unix")
		testutil.Must(t, client.Close())
		wantInternal(t, server, gipc.Connected)
		wantInternal(t, server, gipc.Disconnected)
		wantStatus(t, server, gipc.Disconnected)
		check(t, server, gipc.ErrNotConnected)
	})
	t.Run("client Reconnecting", func(t *testing.T) {
		server, client := connect(t, "unix")
		testutil.Must(t, server.Close())
		wantInternal(t, client, gipc.Connecting)
		wantInternal(t, client, gipc.Connected)
		wantInternal(t, client, gipc.ReConnecting)
		check(t, client, gipc.ErrNotConnected)
	})
	t.Run("closed", func(t *testing.T) {
		server, client := connect(t, "unix")
		testutil.Must(t, client.Close())
		testutil.Must(t, server.Close())
		for _, e := range []end{client, server} {
			check(t, e, gipc.ErrClosed)
			check(t, e, net.ErrClosed)
			wantErr(t, e.Flush(), gipc.ErrClosed)
		}
	})
	t.Run("client Timeout", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			sc, cc := configs(t, "pipe")
			cc.Timeout = time.Minute
			server, client := startServer(t, sc), startClient(t, cc)
			testutil.Must(t, server.Close())
			<-client.Done()
			check(t, client, gipc.ErrTimeout)
			wantErr(t, client.Flush(), gipc.ErrTimeout)
		})
	})
}

// A single-client server writes to the client that is connected now.
func TestWriteGoesToTheNextClient(t *testing.T) {
	t.Parallel()
	sc, cc := configs(t, "unix")
	server := startServer(t, sc)
	for i := range 3 {
		client := startClient(t, cc)
		testutil.Must(t, server.WaitConnected(patience(t)))
		testutil.Must(t, server.Write(i+1, nil))
		wantUser(t, client, i+1, "")
		testutil.Must(t, client.Close())
		for wantInternal(t, server, gipc.Connected); ; {
			if m := read(t, server); m.Status == gipc.Disconnected.String() {
				break
			}
		}
	}
}

func TestWriteReservedTypes(t *testing.T) {
	t.Parallel()
	server, client := connect(t, "unix")
	bad := []int{0, -1, -2, math.MinInt32, math.MinInt}
	if tooBig := int64(math.MaxInt32) + 1; int64(int(tooBig)) == tooBig {
		bad = append(bad, int(tooBig), int(tooBig<<1-1), int(tooBig<<1), int(tooBig<<1+1), math.MaxInt)
	}
	for _, e := range []end{server, client} {
		for _, n := range bad {
			for _, data := range [][]byte{nil, []byte("x"), make([]byte, 100_000)} {
				wantErr(t, e.Write(n, data), gipc.ErrReservedType)
				wantErr(t, e.WriteContext(t.Context(), n, data), gipc.ErrReservedType)
				wantErr(t, e.Queue(n, data), gipc.ErrReservedType)
			}
		}
		testutil.Must(t, e.Flush())
	}
	testutil.Must(t, client.Write(1, []byte("a")))
	testutil.Must(t, client.Write(math.MaxInt32, []byte("b")))
	wantUser(t, server, 1, "a")
	wantUser(t, server, math.MaxInt32, "b")
	testutil.Must(t, server.Write(math.MaxInt32, []byte("c")))
	wantUser(t, client, math.MaxInt32, "c")
}

func TestWriteTooLarge(t *testing.T) {
	t.Parallel()
	for _, link := range links {
		t.Run(link, func(t *testing.T) {
			sc, cc := configs(t, link)
			sc.MaxMsgSize, cc.MaxMsgSize = 1024, 5000
			server, client := startServer(t, sc), startClient(t, cc)
			for _, way := range []struct {
				from, to end
				limit    int // what the receiver set
			}{{client, server, 1024}, {server, client, 5000}} {
				tooLarge := func(err error, size int) {
					t.Helper()
					wantErr(t, err, gipc.ErrTooLarge)
					var se *gipc.SizeError
					if !errors.As(err, &se) || *se != (gipc.SizeError{Size: size, Limit: way.limit}) {
						t.Fatalf("%#v, want a SizeError with %d and %d", err, size, way.limit)
					}
				}
				tooLarge(way.from.Write(1, make([]byte, way.limit+1)), way.limit+1)
				tooLarge(way.from.Queue(1, make([]byte, way.limit+1)), way.limit+1)
				tooLarge(way.from.WriteContext(t.Context(), 1, make([]byte, 1<<22)), 1<<22)
				testutil.Must(t, way.from.Write(2, make([]byte, way.limit)))
				if m := next(t, way.to); m.MsgType != 2 || len(m.Data) != way.limit {
					t.Fatalf("got type %d and %d bytes", m.MsgType, len(m.Data))
				}
			}
		})
	}
	t.Run("default", func(t *testing.T) {
		server, client := connect(t, "unix")
		for _, e := range []end{server, client} {
			var se *gipc.SizeError
			if err := e.Write(1, make([]byte, 3145729)); !errors.As(err, &se) || se.Limit != 3145728 || se.Size != 3145729 {
				t.Fatalf("%v", err)
			}
		}
	})
	// The limit is the peer's, so it can be judged only when there is one.
	t.Run("waiting for the peer", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			sc, cc := configs(t, "pipe")
			cc.MaxMsgSize = 2000
			server := startServer(t, sc)
			done := make(chan error, 1)
			go func() { done <- server.Write(1, make([]byte, 2001)) }()
			synctest.Wait()
			client := startClient(t, cc)
			wantErr(t, await(t, done), gipc.ErrTooLarge)
			testutil.Must(t, server.Write(2, []byte("fits")))
			wantUser(t, client, 2, "fits")
		})
	})
}

// Write: the kernel has the whole message. Queue: nothing leaves before Flush,
// Write, Close or 64 KiB. The connection itself says what it was given.
func TestWriteAndQueueAtTheConnection(t *testing.T) {
	t.Parallel()
	for _, link := range []string{"unix", "unix plain"} {
		t.Run(link, func(t *testing.T) {
			sc, cc := configs(t, link)
			var conn *tap
			cc.Dial = func(ctx context.Context) (net.Conn, error) {
				c, err := (&net.Dialer{}).DialContext(ctx, "unix", sc.Address)
				conn = &tap{Conn: c}
				return conn, err
			}
			server, client := startServer(t, sc), startClient(t, cc)
			inbox(server) // so that there is always room
			testutil.Must(t, server.WaitConnected(patience(t)))
			given := func(f func() error) int64 {
				t.Helper()
				before := conn.written.Load()
				testutil.Must(t, f())
				return conn.written.Load() - before
			}
			for _, size := range []int{0, 1, 1000, 50_000, 70_000, 1 << 20} {
				if n := given(func() error { return client.Write(1, make([]byte, size)) }); n < int64(size+8) {
					t.Errorf("Write of %d bytes returned when %d were written", size, n)
				}
			}
			for _, release := range []struct {
				name string
				call func() error
			}{
				{"Flush", client.Flush},
				{"Write", func() error { return client.Write(1, nil) }},
			} {
				if n := given(func() error {
					for range 60 {
						if err := client.Queue(1, make([]byte, 1000)); err != nil {
							return err
						}
					}
					return nil
				}); n != 0 {
					t.Errorf("Queue of 60 KB wrote %d bytes", n)
				}
				if n := given(release.call); n < 60*1008 {
					t.Errorf("%s after Queue of 60 messages wrote %d bytes", release.name, n)
				}
			}
			if n := given(client.Flush); n != 0 {
				t.Errorf("Flush of nothing wrote %d bytes", n)
			}
			if n := given(func() error {
				for range 70 {
					if err := client.Queue(1, make([]byte, 1000)); err != nil {
						return err
					}
				}
				return nil
			}); n < 60_000 {
				t.Errorf("Queue of 70 KB wrote %d bytes", n)
			}
			if n := given(func() error { return client.Queue(1, make([]byte, 100_000)) }); n < 60_000 {
				t.Errorf("Queue of one message of 100 KB wrote %d bytes", n)
			}
			if n := given(func() error {
				for range 10 {
					if err := client.Queue(1, make([]byte, 1000)); err != nil {
						return err
					}
				}
				return client.Close()
			}); n < 10*1008 {
				t.Errorf("Close after Queue of 10 messages wrote %d bytes", n)
			}
		})
	}
}

// Nothing hidden sends what Queue holds, however long it takes.
func TestQueueStaysQueued(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		server, client := connect(t, "pipe")
		wantInternal(t, server, gipc.Connected)
		testutil.Must(t, client.Queue(1, []byte("a")))
		testutil.Must(t, client.Queue(2, []byte("b")))
		if m, err := server.ReadTimed(time.Hour); m != gipc.TimeoutMessage || err != nil {
			t.Fatalf("%+v, %v: sent before Flush", m, err)
		}
		testutil.Must(t, client.Flush())
		wantUser(t, server, 1, "a")
		wantUser(t, server, 2, "b")
		testutil.Must(t, client.Queue(3, []byte("c")))
		testutil.Must(t, client.Write(4, []byte("d")))
		wantUser(t, server, 3, "c")
		wantUser(t, server, 4, "d")
		testutil.Must(t, client.Queue(5, []byte("e")))
		testutil.Must(t, client.Close())
		wantUser(t, server, 5, "e")
	})
}

func TestQueueAndWriteKeepOrder(t *testing.T) {
	t.Parallel()
	for _, link := range links {
		t.Run(link, func(t *testing.T) {
			server, client := connect(t, link)
			n := testutil.Count(20_000, 2_000)
			together(t,
				func() error {
					buf := make([]byte, 100)
					for i := range n {
						binary.BigEndian.PutUint64(buf, uint64(i))
						put := client.Queue
						if i%17 == 0 {
							put = client.Write
						}
						if err := put(1, buf); err != nil {
							return err
						}
						if i%101 == 0 {
							if err := client.Flush(); err != nil {
								return err
							}
						}
					}
					return client.Flush()
				},
				func() error { return receiveNumbers(server, n) })
		})
	}
}

// What Queue held when the connection was lost is gone, and the next call that
// sends says how much it was, once.
func TestQueueLost(t *testing.T) {
	t.Parallel()
	three := regexp.MustCompile(`\b3\b`)
	calls := map[string]func(end) error{
		"Queue": func(e end) error { return e.Queue(9, []byte("next")) },
		"Flush": end.Flush,
		"Write": func(e end) error { return e.Write(9, []byte("next")) },
		"Close": end.Close,
	}
	for name, call := range calls {
		for _, back := range []bool{true, false} { // whether a new connection is there when the call comes
			t.Run(fmt.Sprintf("%s/reconnected=%t", name, back), func(t *testing.T) {
				raw := listenRaw(t)
				client, peer := raw.connect(&gipc.ClientConfig{RetryTimer: time.Millisecond})
				wantInternal(t, client, gipc.Connecting)
				wantInternal(t, client, gipc.Connected)
				for range 3 {
					testutil.Must(t, client.Queue(8, []byte("lost")))
				}
				if !back {
					raw.ln.Close()
				}
				peer.Close()
				if m := wantInternal(t, client, gipc.ReConnecting); !errors.Is(m.Err, gipc.ErrTruncated) {
					t.Errorf("lost with %v", m.Err)
				}
				if back {
					peer = raw.accept()
					wantInternal(t, client, gipc.Connected)
				}
				var farewell <-chan []rawFrame
				if back && name == "Close" {
					farewell = peer.farewell()
				}
				err := call(client)
				if !errors.Is(err, gipc.ErrNotConnected) || !three.MatchString(err.Error()) {
					t.Fatalf("%v, want ErrNotConnected and that 3 messages were lost", err)
				}
				if farewell != nil {
					if got := await(t, farewell); len(got) != 0 {
						t.Errorf("%v was sent", got)
					}
				}
				if !back || name == "Close" {
					return
				}
				testutil.Must(t, call(client)) // it was said once
				testutil.Must(t, client.Write(10, []byte("end")))
				var got []uint32
				for len(got) == 0 || got[len(got)-1] != 10 {
					n, _ := peer.next()
					got = append(got, n)
				}
				want := []uint32{9, 10}
				if name == "Flush" {
					want = want[1:]
				}
				testutil.Equal(t, "the new peer got types", got, want)
			})
		}
	}
}

func TestWriteConcurrently(t *testing.T) {
	t.Parallel()
	for _, link := range links {
		t.Run(link, func(t *testing.T) {
			server, client := connect(t, link)
			const writers = 8
			n := testutil.Count(1000, 200)
			fs := []func() error{func() error {
				var seen [writers]int
				for range writers * n {
					m, err := nextUser(server)
					if err != nil {
						return err
					}
					w := m.MsgType - 1
					if i := int(binary.BigEndian.Uint64(m.Data)); i != seen[w] || !bytes.Equal(m.Data, testutil.Payload(i, len(m.Data))) {
						return fmt.Errorf("writer %d: message %d where %d was due, or other bytes", w, i, seen[w])
					}
					seen[w]++
				}
				return nil
			}}
			for w := range writers {
				fs = append(fs, func() error {
					for i := range n {
						put := client.Write
						if (w+i)%2 == 0 {
							put = client.Queue
						}
						if err := put(w+1, testutil.Payload(i, 8+(i*w)%3000)); err != nil {
							return err
						}
					}
					return client.Flush()
				})
			}
			together(t, fs...)
		})
	}
}

// With an ended context a message is sent whole or not at all, and the error says which.
func TestWriteContextAlreadyEnded(t *testing.T) {
	t.Parallel()
	server, client := connect(t, "unix")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	var want []int
	for i := 1; i <= 50; i++ {
		err := client.WriteContext(ended, i, nil)
		if err == nil {
			want = append(want, i)
		} else {
			wantErr(t, err, context.Canceled)
		}
	}
	testutil.Must(t, client.Write(100, nil))
	want = append(want, 100)
	for _, n := range want {
		wantUser(t, server, n, "")
	}
}

// A context that ends while its call waits behind another writer ends the
// call and not the connection.
func TestWriteContextBehindAnotherWriter(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		raw := listenRaw(t)
		client, peer := raw.connect(&gipc.ClientConfig{})
		first := make(chan error, 1)
		go func() { first <- client.Write(1, testutil.Payload(1, 1<<20)) }()
		synctest.Wait() // stuck: the peer reads nothing
		var behind []<-chan error
		for i := range 4 {
			c := make(chan error, 1)
			behind = append(behind, c)
			go func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				c <- client.WriteContext(ctx, 2+i, []byte("behind"))
			}()
		}
		start := time.Now()
		for _, c := range behind {
			wantErr(t, await(t, c), context.DeadlineExceeded)
		}
		if d := time.Since(start); d != time.Second {
			t.Errorf("returned after %v", d)
		}
		wantStatus(t, client, gipc.Connected)
		last := make(chan error, 1)
		go func() {
			if err := <-first; err != nil {
				last <- err
				return
			}
			last <- client.Write(100, []byte("end"))
		}()
		if n, data := peer.next(); n != 1 || !bytes.Equal(data, testutil.Payload(1, 1<<20)) {
			t.Fatalf("got type %d and %d bytes", n, len(data))
		}
		seen := map[uint32]bool{}
		for {
			n, data := peer.next()
			if n == 100 {
				break
			}
			if n < 2 || n > 5 || seen[n] || string(data) != "behind" {
				t.Fatalf("got type %d, %q", n, data)
			}
			seen[n] = true
		}
		testutil.Must(t, await(t, last))
	})
}

// A context that ends when the kernel has a part of the frame ends the call and
// not the connection: the frame is finished in the background.
func TestWriteContextPartlyInTheKernel(t *testing.T) {
	t.Parallel()
	raw := listenRaw(t)
	client, peer := raw.connect(&gipc.ClientConfig{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	data := testutil.Payload(1, 3<<20)
	go func() { done <- client.WriteContext(ctx, 1, data) }()
	got := make([]byte, 4096)
	if _, err := io.ReadFull(peer, got); err != nil {
		t.Fatal(err)
	}
	cancel()
	err := await(t, done)
	wantErr(t, err, context.Canceled)
	wantErr(t, err, gipc.ErrUnconfirmed)
	want := frame(1, bytes.Clone(data))
	clear(data) // the library does not use it any more
	rest := make([]byte, len(want)-len(got))
	if _, err := io.ReadFull(peer, rest); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(append(got, rest...), want) {
		t.Error("the frame has other bytes")
	}
	testutil.Must(t, client.Write(2, []byte("behind")))
	if n, data := peer.next(); n != 2 || string(data) != "behind" {
		t.Errorf("got type %d, %q", n, data)
	}
}

// Two sides that both write before they read do not stall each other, also where
// the transport has no buffer at all.
func TestWriteBeforeRead(t *testing.T) {
	t.Parallel()
	for _, link := range links {
		t.Run(link, func(t *testing.T) {
			server, client := connect(t, link)
			n := testutil.Count(20, 5)
			talk := func(e end) func() error {
				return func() error {
					for i := range n {
						b := testutil.Payload(i, 2<<20)
						if err := e.Write(1, b); err != nil {
							return err
						}
						m, err := nextUser(e)
						if err != nil {
							return err
						}
						if !bytes.Equal(m.Data, b) {
							return fmt.Errorf("message %d: other bytes", i)
						}
					}
					return nil
				}
			}
			together(t, talk(server), talk(client))
		})
	}
}

// The watcher that this takes starts at once, and not when it would have anyway.
func TestWriteThatBlocksStartsTheWatcher(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		server, client := connect(t, "pipe")
		for _, want := range []gipc.Status{gipc.Connecting, gipc.Connected} {
			wantInternal(t, client, want)
		}
		wantInternal(t, server, gipc.Connected)
		pass(time.Hour)
		for range 3 {
			together(t, // from here on both have read just now
				func() error { return server.Write(1, nil) },
				func() error { _, err := nextUser(client); return err })
			together(t,
				func() error { return client.Write(1, nil) },
				func() error { _, err := nextUser(server); return err })
			writeAndRead := func(e end) func() error {
				return func() error {
					if err := e.Write(1, make([]byte, 1<<20)); err != nil {
						return err
					}
					_, err := nextUser(e)
					return err
				}
			}
			start := time.Now()
			together(t, writeAndRead(server), writeAndRead(client))
			if d := time.Since(start); d > 100*time.Millisecond {
				t.Errorf("took %v", d)
			}
		}
	})
}

// A program that only writes: nobody ever calls a read on the writing side.
func TestWriteOnly(t *testing.T) {
	t.Parallel()
	server, client := connect(t, "unix")
	n := testutil.Count(2000, 200)
	together(t,
		func() error { return send(client, n, 5000) },
		func() error { return receive(server, n, 5000) })
	testutil.Must(t, server.Close())
	eventually(t, "the loss", func() bool { return client.StatusCode() == gipc.ReConnecting })
}

func TestStatsCount(t *testing.T) {
	t.Parallel()
	for _, link := range links {
		t.Run(link, func(t *testing.T) {
			server, client := connect(t, link)
			const n, size = 100, 1000
			together(t,
				func() error { return send(client, n, size) },
				func() error { return receive(server, n, size) })
			testutil.Must(t, server.Write(1, []byte("back")))
			next(t, client)
			s, c := server.Stats(), client.Stats()
			if c.Sent != n || s.Received != n || s.Sent != 1 || c.Received != 1 {
				t.Errorf("server %+v, client %+v: want %d messages one way and 1 back", s, c, n)
			}
			if c.SentBytes < n*size || c.SentBytes != s.ReceivedBytes || s.SentBytes < 4 || s.SentBytes != c.ReceivedBytes {
				t.Errorf("server %+v, client %+v: bytes differ", s, c)
			}
			if s.Dropped+c.Dropped+s.Reconnects+c.Reconnects+s.Refused+c.Refused != 0 {
				t.Errorf("server %+v, client %+v: something else was counted", s, c)
			}
		})
	}
}

// What all tests from outside share.

// An end is what a *Server and a *Client have in common.
type end interface {
	Read() (*gipc.Message, error)
	ReadTimed(d time.Duration) (*gipc.Message, error)
	ReadContext(ctx context.Context) (*gipc.Message, error)
	ReadInto(ctx context.Context, m *gipc.Message) error
	Messages(ctx context.Context) iter.Seq2[*gipc.Message, error]
	Write(msgType int, data []byte) error
	WriteContext(ctx context.Context, msgType int, data []byte) error
	Queue(msgType int, data []byte) error
	Flush() error
	WaitConnected(ctx context.Context) error
	Status() string
	StatusCode() gipc.Status
	Close() error
	Shutdown(ctx context.Context) error
	Done() <-chan struct{}
	Err() error
	Peer() gipc.Peer
	ID() uint64
	Stats() gipc.Stats
}

var (
	_ end = (*gipc.Server)(nil)
	_ end = (*gipc.Client)(nil)
)

// links are the ways for two ends to meet: configs knows them.
var links = []string{"unix", "unix plain", "tcp secret", "pipe"}

var secret = bytes.Repeat([]byte("0123456789abcdef"), 2)

// configs returns what a server and its client need to meet over a link.
func configs(t testing.TB, link string) (*gipc.ServerConfig, *gipc.ClientConfig) {
	t.Helper()
	sc, cc := &gipc.ServerConfig{Name: "test"}, &gipc.ClientConfig{Name: "test"}
	switch link {
	case "unix", "unix plain":
		sc.Network, cc.Network = "unix", "unix"
		sc.Address = testutil.TempSocket(t)
		cc.Address = sc.Address
		if link == "unix plain" {
			sc.Encryption, cc.Encryption = gipc.EncryptionOff, gipc.EncryptionOff
		}
	case "tcp secret":
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		sc.Network, cc.Network = "tcp", "tcp"
		sc.Listener, cc.Address = ln, ln.Addr().String()
		sc.Secret, cc.Secret = secret, secret
	case "pipe":
		pipes := &pipes{}
		sc.Listener, cc.Dial = pipes.listen(), pipes.dial
		sc.Heartbeat, cc.Heartbeat = -1, -1
	default:
		t.Fatalf("no link %q", link)
	}
	return sc, cc
}

// connect returns two ends that are connected over a link.
func connect(t testing.TB, link string) (*gipc.Server, *gipc.Client) {
	t.Helper()
	sc, cc := configs(t, link)
	server, client := startServer(t, sc), startClient(t, cc)
	testutil.Must(t, server.WaitConnected(patience(t)))
	return server, client
}

func startServer(t testing.TB, sc *gipc.ServerConfig) *gipc.Server {
	t.Helper()
	server, err := gipc.StartServer(sc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cut(server) })
	return server
}

func startClient(t testing.TB, cc *gipc.ClientConfig) *gipc.Client {
	t.Helper()
	client, err := gipc.StartClientContext(patience(t), cc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cut(client) })
	return client
}

// cut ends e without a farewell.
func cut(e end) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	e.Shutdown(ctx)
}

// patience is the context of a call that must not take long.
func patience(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// bubble runs f where time passes only when all its goroutines wait.
func bubble(t *testing.T, f func(*testing.T)) {
	t.Helper()
	if fips140.Enabled() {
		t.Skip("the source of randomness that this mode uses measures the time, which stands still in a bubble")
	}
	synctest.Test(t, f)
}

// pass lets time go by in a bubble, where no timer may be due at once: see
// TestTimersInBubbles.
func pass(d time.Duration) { <-time.After(max(d, 1)) }

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
}

func wantStatus(t testing.TB, e end, want gipc.Status) {
	t.Helper()
	if got := e.StatusCode(); got != want {
		t.Fatalf("status %v, want %v", got, want)
	}
}

// read returns the next message, internal ones included.
func read(t testing.TB, e end) *gipc.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	m, err := e.ReadContext(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// next returns the next message of the peer.
func next(t testing.TB, e end) *gipc.Message {
	t.Helper()
	for {
		if m := read(t, e); m.MsgType != -1 {
			return m
		}
	}
}

// nextUser is next for goroutines of a test's own.
func nextUser(e end) (*gipc.Message, error) {
	for {
		m, err := e.Read()
		if err != nil || m.MsgType != -1 {
			return m, err
		}
	}
}

func wantUser(t testing.TB, e end, msgType int, data string) {
	t.Helper()
	if m := next(t, e); m.MsgType != msgType || string(m.Data) != data {
		t.Fatalf("got type %d, %.40q; want type %d, %.40q", m.MsgType, m.Data, msgType, data)
	}
}

// wantInternal takes the next message, which must tell of the status.
func wantInternal(t testing.TB, e end, want gipc.Status) *gipc.Message {
	t.Helper()
	m := read(t, e)
	if m.MsgType != -1 || m.Status != want.String() {
		t.Fatalf("got type %d, %q, %v; want the internal message %q", m.MsgType, m.Status, m.Err, want)
	}
	return m
}

// inbox reads from e until its end.
func inbox(e end) <-chan *gipc.Message {
	c := make(chan *gipc.Message, 10_000)
	go func() {
		defer close(c)
		for {
			m, err := e.Read()
			if err != nil {
				return
			}
			c <- m
		}
	}()
	return c
}

// nextOf returns the next message of the peer from an inbox.
func nextOf(t testing.TB, c <-chan *gipc.Message) *gipc.Message {
	t.Helper()
	for {
		m := await(t, c)
		if m == nil {
			t.Fatal("the end came first")
		}
		if m.MsgType != -1 {
			return m
		}
	}
}

// together runs fs at the same time and fails with the first error.
func together(t testing.TB, fs ...func() error) {
	t.Helper()
	errs := make(chan error, len(fs))
	for _, f := range fs {
		go func() { errs <- f() }()
	}
	for range fs {
		testutil.Must(t, await(t, errs))
	}
}

func await[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(2 * time.Minute):
		t.Fatal("nothing happened")
		panic("not reached")
	}
}

// eventually asks until ok says yes.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	limit := time.After(time.Minute)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("%s did not happen", what)
		}
	}
}

func send(e end, n, size int) error {
	for i := range n {
		if err := e.Write(1, testutil.Payload(i, size)); err != nil {
			return fmt.Errorf("message %d: %w", i, err)
		}
	}
	return nil
}

func receive(e end, n, size int) error {
	for i := range n {
		m, err := nextUser(e)
		if err != nil {
			return fmt.Errorf("message %d: %w", i, err)
		}
		if !bytes.Equal(m.Data, testutil.Payload(i, size)) {
			return fmt.Errorf("message %d: other bytes: %.16x", i, m.Data)
		}
	}
	return nil
}

// receiveNumbers checks the numbers of n messages alone.
func receiveNumbers(e end, n int) error {
	for i := range n {
		m, err := nextUser(e)
		if err != nil {
			return fmt.Errorf("message %d: %w", i, err)
		}
		if got := int(binary.BigEndian.Uint64(m.Data)); got != i {
			return fmt.Errorf("message %d where %d was due", got, i)
		}
	}
	return nil
}

// A tap is a connection that knows how much was written to it.
type tap struct {
	net.Conn
	written atomic.Int64
}

func (c *tap) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.written.Add(int64(n))
	return n, err
}

// pipes is a network of net.Pipe: a server listens and clients dial.
type pipes struct {
	mu  sync.Mutex
	now *pipeListener
}

type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

// listen starts again: from now on dial goes here.
func (p *pipes) listen() *pipeListener {
	l := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
	p.mu.Lock()
	p.now = l
	p.mu.Unlock()
	return l
}

func (p *pipes) dial(ctx context.Context) (net.Conn, error) {
	p.mu.Lock()
	l := p.now
	p.mu.Unlock()
	here, there := net.Pipe()
	select {
	case <-l.done: // looked at first: both may be ready
		return nil, syscall.ECONNREFUSED
	default:
	}
	select {
	case l.conns <- there:
		return here, nil
	case <-l.done:
		return nil, syscall.ECONNREFUSED
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// A rawServer is the serving side of plaintext connections whose every byte is the test's.
type rawServer struct {
	t    testing.TB
	ln   net.Listener
	dial func(context.Context) (net.Conn, error) // nil: a unix socket at the listener's address
}

// listenRaw listens on a unix socket, in a bubble on a pipe.
func listenRaw(t testing.TB) *rawServer {
	t.Helper()
	s := &rawServer{t: t}
	if testutil.InBubble() {
		p := &pipes{}
		s.ln, s.dial = p.listen(), p.dial
	} else {
		ln, err := net.Listen("unix", testutil.TempSocket(t))
		testutil.Must(t, err)
		s.ln = ln
	}
	t.Cleanup(func() { s.ln.Close() })
	return s
}

// config completes cc so that it reaches s.
func (s *rawServer) config(cc *gipc.ClientConfig) *gipc.ClientConfig {
	cc.Name, cc.Encryption = "test", gipc.EncryptionOff
	if s.dial != nil {
		cc.Dial = s.dial
		if cc.Heartbeat == 0 {
			cc.Heartbeat = -1
		}
	} else {
		cc.Network, cc.Address = "unix", s.ln.Addr().String()
	}
	return cc
}

// connect starts a client and returns it with the other side of its connection.
func (s *rawServer) connect(cc *gipc.ClientConfig) (*gipc.Client, *rawPeer) {
	s.t.Helper()
	peer := make(chan *rawPeer, 1)
	go func() {
		defer close(peer)
		peer <- s.accept()
	}()
	client := startClient(s.t, s.config(cc))
	return client, await(s.t, peer)
}

// accept takes the next connection through the handshake.
func (s *rawServer) accept() *rawPeer {
	c, err := s.ln.Accept()
	if err != nil {
		s.t.Error(err)
		return nil
	}
	p := newRaw(s.t, c)
	p.send([]byte{3, 0, 0x40, 0, 0, 0})
	hello := make([]byte, 6)
	if _, err := io.ReadFull(p, hello); err != nil || hello[0] != 0 || hello[1] != 0 {
		s.t.Errorf("ClientHello %x, %v", hello, err)
	}
	p.send([]byte{0})
	return p
}

// A rawPeer is one side of a plaintext connection, in bytes.
type rawPeer struct {
	net.Conn
	t testing.TB
}

type rawFrame struct {
	msgType uint32
	data    []byte
}

func newRaw(t testing.TB, c net.Conn) *rawPeer {
	t.Cleanup(func() { c.Close() })
	if !testutil.InBubble() {
		c.SetDeadline(time.Now().Add(time.Minute))
	}
	return &rawPeer{c, t}
}

// dialRaw connects to a plaintext server and goes through the handshake.
func dialRaw(t testing.TB, sc *gipc.ServerConfig) *rawPeer {
	t.Helper()
	p := dialBytes(t, sc)
	hello := make([]byte, 6)
	if _, err := io.ReadFull(p, hello); err != nil || hello[0] != 3 || hello[1] != 0 {
		t.Fatalf("ServerHello %x, %v", hello, err)
	}
	p.send([]byte{0, 0, 0x40, 0, 0, 0})
	if _, err := io.ReadFull(p, hello[:1]); err != nil || hello[0] != 0 {
		t.Fatalf("ServerFinish %x, %v", hello[:1], err)
	}
	return p
}

// dialBytes connects to a server and does nothing more.
func dialBytes(t testing.TB, sc *gipc.ServerConfig) *rawPeer {
	t.Helper()
	c, err := net.Dial("unix", sc.Address)
	testutil.Must(t, err)
	return newRaw(t, c)
}

// frame is one frame of plaintext.
func frame(msgType uint32, data []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(4+len(data)))
	b = binary.BigEndian.AppendUint32(b, msgType)
	return append(b, data...)
}

// send writes the parts in one write; a failure is the test's only if the peer still was to listen.
func (p *rawPeer) send(parts ...[]byte) {
	p.t.Helper()
	if _, err := p.Write(slices.Concat(parts...)); err != nil {
		p.t.Errorf("raw peer: %v", err)
	}
}

// frame reads one frame.
func (p *rawPeer) frame() (rawFrame, error) {
	var head [8]byte
	if _, err := io.ReadFull(p, head[:]); err != nil {
		return rawFrame{}, err
	}
	f := rawFrame{binary.BigEndian.Uint32(head[4:]), make([]byte, binary.BigEndian.Uint32(head[:])-4)}
	_, err := io.ReadFull(p, f.data)
	return f, err
}

// next reads one frame, which must be there.
func (p *rawPeer) next() (uint32, []byte) {
	p.t.Helper()
	f, err := p.frame()
	if err != nil {
		p.t.Fatal(err)
	}
	return f.msgType, f.data
}

// farewell reads until the peer's close and acknowledges it. It sends the frames that came before.
func (p *rawPeer) farewell() <-chan []rawFrame {
	got := make(chan []rawFrame, 1)
	go func() {
		var before []rawFrame
		for {
			f, err := p.frame()
			if err != nil {
				p.t.Errorf("raw peer, waiting for a close: %v", err)
				break
			}
			if f.msgType == 0 && len(f.data) == 2 && f.data[0] == 3 {
				p.Write(slices.Concat(closeFrame, ackFrame))
				break
			}
			before = append(before, f)
		}
		got <- before
		io.Copy(io.Discard, p)
	}()
	return got
}

var (
	closeFrame = frame(0, []byte{3, 0})
	ackFrame   = frame(0, []byte{4, 0})
)
