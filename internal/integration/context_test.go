package integration_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"example.com/gipc"
	. "example.com/gipc/internal/testutil"
)

// queued is how many messages the tests queue: they fit into one batch, and
// are more than the buffers of the connections hold.
const queued, queuedSize = 50, 1000 // less than a full batch, which would enlarge the send buffer

// queueAll queues the messages 1 to queued.
func queueAll(t *testing.T, e endpoint) {
	t.Helper()
	for i := range queued {
		Must(t, e.Queue(1, Payload(i+1, queuedSize)))
	}
}

// mayArrive checks the error of a call that cause has ended. It returns
// whether the message must arrive, given that the connection lives: an error
// that is the context's alone says that it was not sent, and ErrUnconfirmed says
// that it goes out all the same.
func mayArrive(t *testing.T, what string, err error, cause error) (arrives bool) {
	t.Helper()
	switch {
	case err == nil:
		return true
	case !errors.Is(err, cause) && !(cause == context.DeadlineExceeded && errors.Is(err, gipc.ErrTimeout)):
		t.Errorf("%s: %v, want an error that wraps %v", what, err, cause)
	}
	RejectErr(t, what, err, gipc.ErrNotConnected)
	return errors.Is(err, gipc.ErrUnconfirmed)
}

// TestWriteContextLeavesOtherMessagesAlone ends the context of one writer while
// the peer does not read: the messages of all others arrive.
func TestWriteContextLeavesOtherMessagesAlone(t *testing.T) {
	t.Parallel()
	for name, pair := range transportPairs(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, peer := startPlainClient(t, ListenRaw(t, 1, pair))
			queueAll(t, client)
			var frames []Frame
			ten := Go(func() error {
				for range 10 {
					f, err := peer.ReadFrame()
					if err != nil {
						return err
					}
					frames = append(frames, f)
				}
				return nil
			})
			due := map[int]bool{} // numbers above queued, and whether they must arrive or must not
			write := func(number int, ctx context.Context) {
				t.Helper()
				err := Do(t, "WriteContext", func() error { return client.WriteContext(ctx, 1, Payload(number, queuedSize)) })
				if err == nil {
					t.Errorf("message %d was written, and the peer does not read", number)
				}
				cause := context.DeadlineExceeded
				if ctx.Err() == context.Canceled {
					cause = context.Canceled
				}
				due[number] = mayArrive(t, fmt.Sprintf("WriteContext of message %d", number), err, cause)
			}
			short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			write(queued+1, short)
			Must(t, Await(t, "the first ten messages", ten))
			// More of them, behind a flush that cannot go on.
			for i := range 20 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*time.Millisecond)
				write(queued+2+i, ctx)
				cancel()
			}
			write(queued+22, ended())
			if due[queued+22] {
				t.Error("a context that had ended before the call sends nothing, and the message was accepted")
			}
			// Writers whose context does not end wait.
			var writers []<-chan error
			for i := range 5 {
				number := queued + 100 + i
				due[number] = true
				writers = append(writers, Go(func() error { return client.Write(1, Payload(number, queuedSize)) }))
			}
			if s := client.StatusCode(); s != gipc.Connected {
				t.Errorf("status %v, want Connected", s)
			}
			ending := peer.Finish()
			for i, w := range writers {
				WantErr(t, fmt.Sprintf("writer %d, whose context does not end", i), Await(t, "a writer", w))
			}
			last := queued + 200
			due[last] = true
			WantErr(t, "Write after it all", Do(t, "Write", func() error { return client.Write(1, Payload(last, queuedSize)) }))
			WantErr(t, "Flush after it all", Do(t, "Flush", client.Flush))
			if id := client.ID(); id != 1 {
				t.Errorf("connection %d, want the first", id)
			}
			WantErr(t, "Close", Do(t, "Close", client.Close))
			frames = append(frames, Await(t, "the end", ending).Frames...)
			if len(frames) < queued {
				t.Fatalf("%d messages arrived, and %d were queued", len(frames), queued)
			}
			framesInOrder(t, frames[:queued], queued)
			seen := map[int]int{}
			for _, f := range frames[queued:] {
				seen[numberOf(f.Data)]++
			}
			for number, must := range due {
				switch n := seen[number]; {
				case must && n != 1:
					t.Errorf("message %d arrived %d times, want once", number, n)
				case !must && n != 0:
					t.Errorf("message %d arrived, and the error was that of the context alone", number)
				}
			}
		})
	}
}

// TestCloseLetsFlushFinish closes a client while another goroutine is in Flush
// and the peer is slow: Flush returns, and everything arrives.
func TestCloseLetsFlushFinish(t *testing.T) {
	t.Parallel()
	for name, pair := range transportPairs(t) {
		for _, writers := range []int{0, 5} {
			t.Run(fmt.Sprintf("%s, %d writers", name, writers), func(t *testing.T) {
				t.Parallel()
				client, peer := startPlainClient(t, ListenRaw(t, 1, pair))
				queueAll(t, client)
				flush := Go(client.Flush)
				var frames []Frame
				Must(t, Do(t, "the first messages", func() error {
					for range 10 {
						f, err := peer.ReadFrame()
						if err != nil {
							return err
						}
						frames = append(frames, f)
					}
					return nil
				}))
				var blocked []<-chan error
				for i := range writers {
					blocked = append(blocked, Go(func() error { return client.Write(1, Payload(queued+1+i, queuedSize)) }))
				}
				closed := Go(client.Close)
				// The blocked calls return at once: nobody has read meanwhile.
				err := Await(t, "Flush while Close waits", flush)
				WantErr(t, "Flush while Close waits", err, gipc.ErrUnconfirmed, gipc.ErrClosed)
				due := map[int]bool{}
				for i, c := range blocked {
					what := fmt.Sprintf("Write %d while Close waits", i)
					due[queued+1+i] = mayArrive(t, what, Await(t, what, c), gipc.ErrClosed)
				}
				ending := peer.Finish()
				WantErr(t, "Close", Await(t, "Close", closed))
				e := Await(t, "the end", ending)
				frames = append(frames, e.Frames...)
				if !e.Closed {
					t.Error("no close came")
				}
				if len(frames) < queued {
					t.Fatalf("%d messages arrived, and %d were queued", len(frames), queued)
				}
				framesInOrder(t, frames[:queued], queued)
				for _, f := range frames[queued:] {
					n := numberOf(f.Data)
					if !due[n] {
						t.Errorf("message %d arrived, and it was not accepted, or it has arrived before", n)
					}
					delete(due, n)
				}
				for n, must := range due {
					if must {
						t.Errorf("message %d was accepted and did not arrive", n)
					}
				}
			})
		}
	}
}

// TestWriteContextOverTLS writes with a short context into a TLS connection
// that is full, and TestBroadcastOverTLS lets the limit of Broadcast pass: the
// connection lives, and everything that was accepted arrives.
func TestWriteContextOverTLS(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1000, 1 << 20} { // a larger message waits in the socket until somebody reads
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			server, client := startTLS(t, false)
			fillAndRead(t, size, server, client, func(msgType int, data []byte) error {
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				return client.WriteContext(ctx, msgType, data)
			})
			WantErr(t, "Close", Do(t, "Close", client.Close))
		})
	}
}

func TestBroadcastOverTLS(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1000, 1 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			server, client := startTLS(t, true)
			fillAndRead(t, size, client, client, func(msgType int, data []byte) error {
				err := server.Connections.Broadcast(context.Background(), msgType, data)
				var ce *gipc.ClientError
				if err != nil && !errors.As(err, &ce) {
					t.Errorf("Broadcast: %v, want a ClientError", err)
				}
				return err
			})
			WantErr(t, "Close of the server", Do(t, "Close", server.Close))
		})
	}
}

// TestBroadcastToFullSocket: a client whose kernel buffer is full gets what was accepted
// later, whole and in order.
func TestBroadcastToFullSocket(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1000, 10_000} { // less than large data, which Broadcast writes like WriteContext
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			address := TempSocket(t)
			server := startServer(t, &gipc.ServerConfig{Name: "full", Network: "unix", Address: address, MultiClient: true})
			client := startClient(t, &gipc.ClientConfig{Name: "full", Network: "unix", Address: address})
			Eventually(t, "the client in the pool", func() bool { return server.Connections.Len() == 1 })
			fillAndRead(t, size, client, client, func(msgType int, data []byte) error {
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				return server.Connections.Broadcast(ctx, msgType, data)
			})
			WantErr(t, "Close of the server", Do(t, "Close", server.Close))
		})
	}
}

// fillAndRead writes until the connection is full, and a little more, and then
// reads everything.
func fillAndRead(t *testing.T, size int, reader, client endpoint, write func(int, []byte) error) {
	t.Helper()
	var due []int
	for number, failed := 1, 0; failed < 4 && number < 10_000; number++ {
		err := Do(t, "a write", func() error { return write(1, Payload(number, size)) })
		if err != nil {
			failed++
		}
		if mayArrive(t, "a write", err, context.DeadlineExceeded) {
			due = append(due, number)
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	later := Go(func() error {
		for {
			// Room comes back as the reader reads.
			if err := write(2, Payload(1000, 100)); err == nil || errors.Is(err, gipc.ErrUnconfirmed) || !errors.Is(err, context.DeadlineExceeded) {
				return err
			}
		}
	})
	for _, n := range due {
		wantMessage(t, reader, 1, Payload(n, size))
	}
	wantMessage(t, reader, 2, Payload(1000, 100))
	if err := Await(t, "the write behind them", later); err != nil && !errors.Is(err, gipc.ErrUnconfirmed) {
		t.Errorf("the write behind them: %v", err)
	}
	if client.ID() != 1 || client.StatusCode() != gipc.Connected {
		t.Errorf("connection %d is %v, want the first one to live", client.ID(), client.StatusCode())
	}
}

// startTLS connects a client to a server over TLS on a unix socket.
func startTLS(t testing.TB, multi bool) (*gipc.Server, *gipc.Client) {
	t.Helper()
	l, err := net.Listen("unix", TempSocket(t))
	Must(t, err)
	server := startServer(t, &gipc.ServerConfig{Name: "test", MultiClient: multi,
		Listener: WrapListener{Listener: l, Wrap: TLSServer}})
	client := startClient(t, &gipc.ClientConfig{Name: "test", Dial: func(ctx context.Context) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", l.Addr().String())
		if err != nil {
			return nil, err
		}
		return TLSClient(conn), nil
	}})
	if !multi {
		waitConnected(t, server)
	} else {
		Eventually(t, "the client in the pool", func() bool { return server.Connections.Len() == 1 })
	}
	return server, client
}
