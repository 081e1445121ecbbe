package integration_test

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/gipc"
	. "example.com/gipc/internal/testutil"
)

// A failingConn has writes wait or fail, as set says.
type failingConn struct {
	net.Conn
	mu    sync.Mutex
	fail  bool
	block chan struct{} // writes wait until it is closed; nil: they do not
}

func (c *failingConn) set(fail bool, block chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail, c.block = fail, block
}

func (c *failingConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	block := c.block
	c.mu.Unlock()
	if block != nil {
		<-block
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail {
		return 0, errors.New("broken")
	}
	return c.Conn.Write(b)
}

// TestRequestRepliesInline has one goroutine on each side read and reply, under calls
// whose replies are larger than what a connection holds: both may wait in Reply for
// each other. Reply ends after 10 s, and the connection goes on.
func TestRequestRepliesInline(t *testing.T) {
	t.Parallel()
	Bubble(t, func(t *testing.T) {
		network := &PipeNetwork{}
		server := startServer(t, &gipc.ServerConfig{Name: "test", Encryption: gipc.EncryptionOff, Heartbeat: -1, Listener: network.Listen()})
		client := startClient(t, &gipc.ClientConfig{Name: "test", Encryption: gipc.EncryptionOff, Heartbeat: -1, Dial: network.Dial})
		waitConnected(t, server)
		reply := make([]byte, 300_000)
		var late atomic.Int64
		serve := func(e endpoint) {
			for {
				m, err := e.Read()
				if err != nil {
					return
				}
				if !m.IsRequest() {
					continue
				}
				begun := time.Now()
				err = m.Reply(1, reply)
				if d := time.Since(begun); d > 20*time.Second {
					t.Errorf("Reply took %v", d)
				}
				if errors.Is(err, gipc.ErrTimeout) {
					late.Add(1)
				}
			}
		}
		go serve(server)
		go serve(client)
		var calls sync.WaitGroup
		for _, call := range []func(context.Context, int, []byte) (*gipc.Message, error){server.Call, client.Call} {
			for range 64 {
				calls.Go(func() { call(context.Background(), 1, make([]byte, 2048)) })
			}
		}
		calls.Wait()
		<-time.After(15 * time.Minute) // requests whose calls have failed are still answered, some of them late
		for _, call := range []func(context.Context, int, []byte) (*gipc.Message, error){server.Call, client.Call} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			_, err := call(ctx, 1, nil)
			cancel()
			WantErr(t, "one more call", err)
		}
		if late.Load() == 0 {
			t.Error("the two sides have not waited for each other")
		}
	})
}

// TestRequestGivenUpTellsOfNoLoss: a call that its own context ends has not told of the
// loss that comes next.
func TestRequestGivenUpTellsOfNoLoss(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]func(e *gipc.Client, ctx context.Context) error{
		"Call":         func(e *gipc.Client, ctx context.Context) error { _, err := e.Call(ctx, 1, nil); return err },
		"WriteContext": func(e *gipc.Client, ctx context.Context) error { return e.WriteContext(ctx, 1, Payload(2, 100_000)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			Bubble(t, func(t *testing.T) {
				raw := ListenRaw(t, 2, PipePair)
				var first *failingConn
				client := startClient(t, &gipc.ClientConfig{Name: "test", Encryption: gipc.EncryptionOff, Heartbeat: 3 * time.Second, Dial: func(ctx context.Context) (net.Conn, error) {
					conn, err := raw.Dial(ctx)
					if err != nil || first != nil {
						return conn, err
					}
					first = &failingConn{Conn: conn}
					return first, nil
				}})
				peer := raw.Peer()
				read := Go(func() error { _, err := peer.ReadFrame(); return err })
				Must(t, client.Write(9, Payload(1, 100)))
				Must(t, Await(t, "the frame", read))
				ctx, cancel := context.WithTimeout(t.Context(), 3500*time.Millisecond)
				defer cancel()
				called := Go(func() error { return call(client, ctx) })
				if name == "Call" {
					wantRequest(t, peer, 1)
					synctest.Wait()
					first.set(true, nil) // the ping fails, at 3 s
				} else {
					synctest.Wait()
				}
				WantErr(t, name, Await(t, name, called), context.DeadlineExceeded)
				peer.Close()
				ending := raw.Peer().Finish()
				waitConnected(t, client)
				WantErr(t, "Close", Do(t, "Close", client.Close), gipc.ErrUnconfirmed)
				Await(t, "the end", ending)
			})
		})
	}
}

// TestRequestNotSentAtClose: Close says for certain that a request was not sent.
func TestRequestNotSentAtClose(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]time.Duration{"Close": 0, "Shutdown": 2 * time.Second} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			Bubble(t, func(t *testing.T) {
				client, _ := startPlainClient(t, ListenRaw(t, 1, PipePair))
				write := Go(func() error { return client.Write(9, Payload(1, 100)) })
				synctest.Wait() // the peer does not read
				call := goCall(client, t.Context(), 1, Payload(7, 50))
				synctest.Wait()
				ctx := t.Context()
				if limit > 0 {
					var cancel func()
					ctx, cancel = context.WithTimeout(ctx, limit)
					defer cancel()
				}
				client.Shutdown(ctx)
				r := Await(t, "the call", call)
				WantErr(t, "the call", r.err, gipc.ErrClosed)
				RejectErr(t, "the call of which nothing was sent", r.err, gipc.ErrUnconfirmed)
				Await(t, "Write", write)
			})
		})
	}
}

// TestRequestPatienceCountsOnce: a call waits 10 s behind a full queue, however much of
// that its request took.
func TestRequestPatienceCountsOnce(t *testing.T) {
	t.Parallel()
	Bubble(t, func(t *testing.T) {
		client, peer := startPlainClient(t, ListenRaw(t, 1, PipePair))
		go peer.Send(User(1, Payload(1, 40_000)), User(1, Payload(2, 40_000)), User(1, Payload(3, 40_000)))
		<-time.After(5 * time.Second) // the background reader has filled the queue and stopped
		begun := time.Now()
		call := goCall(client, t.Context(), 1, Payload(7, 100_000))
		peer.ReadPart(1000)
		<-time.After(9 * time.Second)
		go io.Copy(io.Discard, peer) // it takes the rest
		wantNoReply(t, "the call", call, gipc.ErrUnconfirmed, gipc.ErrTimeout)
		if d := time.Since(begun); d != 10*time.Second {
			t.Errorf("it has ended after %v, want 10s", d)
		}
	})
}

// TestRequestReplyToUnsent: a reply to a request that was not sent yet is ignored.
func TestRequestReplyToUnsent(t *testing.T) {
	t.Parallel()
	Bubble(t, func(t *testing.T) {
		client, peer := startPlainClient(t, ListenRaw(t, 1, PipePair))
		write := Go(func() error { return client.Write(9, Payload(1, 100)) })
		synctest.Wait() // the peer does not read
		call := goCall(client, t.Context(), 1, Payload(7, 50))
		synctest.Wait()
		peer.Send(replyFrame(1, 3, []byte("guessed")))
		stillOpen(t, "the call", call)
		if _, err := peer.ReadFrame(); err != nil {
			t.Fatal(err)
		}
		wantRequest(t, peer, 1)
		peer.Send(replyFrame(1, 4, []byte("own")))
		wantReply(t, "the call", call, 4, []byte("own"))
		Must(t, Await(t, "Write", write))
		if dropped := client.Stats().Dropped; dropped != 1 {
			t.Errorf("%d were dropped, want 1", dropped)
		}
	})
}
