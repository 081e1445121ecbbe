//lint:file-ignore SA1012 nil contexts are the subject
//lint:file-ignore ST1008 the error is what a table gives first

package integration_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/gipc"
	. "example.com/gipc/internal/testutil"
)

// A reentrantHandler calls methods of the endpoint that it logs for.
type reentrantHandler struct {
	slog.Handler
	use   atomic.Pointer[func()]
	calls atomic.Int64
}

func (h *reentrantHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h *reentrantHandler) Handle(context.Context, slog.Record) error {
	if use := h.use.Load(); use != nil {
		h.calls.Add(1)
		(*use)()
	}
	return nil
}

func (h *reentrantHandler) set(e endpoint) {
	use := func() {
		e.StatusCode()
		e.Stats()
		e.ID()
		e.Err()
		e.Done()
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		e.WriteContext(ctx, 9, []byte("from the log"))
	}
	h.use.Store(&use)
}

// TestLoggerMayUseItsEndpoint has the handler call methods of the endpoint
// whose event it is given.
func TestLoggerMayUseItsEndpoint(t *testing.T) {
	t.Parallel()
	network := &PipeNetwork{}
	serverLog, clientLog := &reentrantHandler{}, &reentrantHandler{}
	server := startServer(t, &gipc.ServerConfig{Name: "test", Listener: network.Listen(), Logger: slog.New(serverLog)})
	serverLog.set(server)
	for range 3 {
		client := startClient(t, &gipc.ClientConfig{Name: "test", Dial: network.Dial, Logger: slog.New(clientLog)})
		clientLog.set(client)
		waitConnected(t, server)
		WantErr(t, "Write of the client", Do(t, "Write", func() error { return client.Write(1, Payload(1, 100)) }))
		Must(t, Do(t, "the message", func() error {
			for {
				if m, err := nextMessage(server); err != nil || m.MsgType == 1 {
					return err
				}
			}
		}))
		refused := Go(func() error { // a second client is refused, which the server logs
			_, err := gipc.StartClient(&gipc.ClientConfig{Name: "test", Dial: network.Dial, Timeout: 50 * time.Millisecond, Logger: slog.New(clientLog)})
			return err
		})
		WantErr(t, "a second client", Await(t, "a second client", refused), gipc.ErrTimeout)
		Do(t, "Close of the client", client.Close)
		wantStatus(t, server, gipc.Disconnected)
	}
	Do(t, "Close of the server", server.Close)
	if serverLog.calls.Load() == 0 || clientLog.calls.Load() == 0 {
		t.Error("nothing was logged")
	}
}

// A blockingHandler blocks until it is released.
type blockingHandler struct {
	slog.Handler
	blocking atomic.Bool
	blocked  chan struct{} // has an element when the first call blocks
	release  chan struct{}
	once     sync.Once
}

func newBlockingHandler(t *testing.T) *blockingHandler {
	h := &blockingHandler{blocked: make(chan struct{}, 1), release: make(chan struct{})}
	t.Cleanup(h.unblock)
	return h
}

func (h *blockingHandler) unblock() { h.once.Do(func() { close(h.release) }) }

func (h *blockingHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h *blockingHandler) Handle(context.Context, slog.Record) error {
	if h.blocking.Load() {
		select {
		case h.blocked <- struct{}{}:
		default:
		}
		<-h.release
	}
	return nil
}

// TestLoggerMayBlock has a handler that blocks: new clients, other calls and
// Close go on.
func TestLoggerMayBlock(t *testing.T) {
	t.Parallel()
	t.Run("server of many", func(t *testing.T) {
		t.Parallel()
		network := &PipeNetwork{}
		log := newBlockingHandler(t)
		server, err := gipc.StartServer(&gipc.ServerConfig{Name: "test", MultiClient: true, Listener: network.Listen(), Logger: slog.New(log)})
		Must(t, err)
		log.blocking.Store(true)
		served := Go(func() error {
			return server.Connections.Serve(context.Background(), func(s *gipc.Server, m *gipc.Message) {
				if m.MsgType == 1 {
					s.Write(2, m.Data)
				}
			})
		})
		for i := range 5 {
			client := startClient(t, &gipc.ClientConfig{Name: "test", Dial: network.Dial})
			Must(t, Do(t, fmt.Sprintf("Write of client %d", i), func() error { return client.Write(1, Payload(i, 100)) }))
			wantMessage(t, client, 2, Payload(i, 100))
			if i%2 == 0 {
				WantErr(t, "Close of a client", Do(t, "Close of a client", client.Close))
			}
			Do(t, "Stats of the server", func() error { server.Stats(); server.StatusCode(); return nil })
		}
		// A client that has closed may still be in the pool, so the result is open.
		Do(t, "Broadcast", func() error { return server.Connections.Broadcast(context.Background(), 3, Payload(1, 10)) })
		Await(t, "a call of the handler", log.blocked)
		Do(t, "Close of the server", server.Close)
		log.unblock()
		Await(t, "Serve", served)
	})
	t.Run("client", func(t *testing.T) {
		t.Parallel()
		network := &PipeNetwork{}
		log := newBlockingHandler(t)
		server := startServer(t, &gipc.ServerConfig{Name: "test", Listener: network.Listen()})
		client, err := gipc.StartClient(&gipc.ClientConfig{Name: "test", Dial: network.Dial, Logger: slog.New(log)})
		Must(t, err)
		log.blocking.Store(true)
		Do(t, "Close of the server", server.Close)
		Await(t, "a call of the handler", log.blocked)
		Do(t, "calls while the handler blocks", func() error {
			client.StatusCode()
			client.Stats()
			client.ID()
			client.WriteContext(ended(), 1, nil)
			client.ReadContext(ended())
			return nil
		})
		Do(t, "Close of the client", client.Close)
	})
}

// recovered calls f and returns its error, or what it panicked with.
func recovered(f func() error) (err error, panicked any) {
	defer func() { panicked = recover() }()
	return f(), nil
}

// TestPanicsLeaveNoLock makes calls with arguments that no call can use, and
// panics in the code of the user: each is an error or a panic that can be
// recovered, and afterwards everything works.
func TestPanicsLeaveNoLock(t *testing.T) {
	t.Parallel()
	var none context.Context
	bad := func(e endpoint, pool *gipc.ConnectionPool) map[string]func() error {
		return map[string]func() error{
			"ReadInto without a message":  func() error { return e.ReadInto(ended(), nil) },
			"ReadInto without anything":   func() error { return e.ReadInto(none, nil) },
			"ReadInto, a message waits":   func() error { return e.ReadInto(context.Background(), nil) },
			"ReadInto without a context":  func() error { return e.ReadInto(none, new(gipc.Message)) },
			"ReadContext":                 func() error { _, err := e.ReadContext(none); return err },
			"WriteContext":                func() error { return e.WriteContext(none, 1, nil) },
			"WaitConnected":               func() error { return e.WaitConnected(none) },
			"Messages":                    func() error { return drain(e, none) },
			"Broadcast":                   func() error { return pool.Broadcast(none, 1, nil) },
			"Serve without a context":     func() error { return pool.Serve(none, func(*gipc.Server, *gipc.Message) {}) },
			"Serve without a handler":     func() error { return pool.Serve(context.Background(), nil) },
			"ReadTimed of the pool":       func() error { pool.ReadTimed(0, nil); return errors.New("returned") },
			"ReadTimedFastest":            func() error { pool.ReadTimedFastest(0, nil); return errors.New("returned") },
			"a body of Messages":          func() error { return panicIn(e) },
			"a body of the pool":          func() error { return panicInPool(pool) },
			"a callback of the pool":      func() error { return panicInCallback(pool) },
			"an unusable type and a size": func() error { return e.Write(-5, make([]byte, 1<<24)) },
		}
	}
	for name := range bad(nil, nil) {
		for _, who := range []string{"client", "server"} {
			if name == "Serve without a handler" || name == "ReadTimed of the pool" {
				continue // a nil function is called on a goroutine of the library; it has to be an error, or to end the process
			}
			t.Run(name+" of the "+who, func(t *testing.T) {
				t.Parallel()
				network := &PipeNetwork{}
				server := startServer(t, &gipc.ServerConfig{Name: "test", Listener: network.Listen()})
				client := startClient(t, &gipc.ClientConfig{Name: "test", Dial: network.Dial})
				waitConnected(t, server)
				e, other := endpoint(client), endpoint(server)
				if who == "server" {
					e, other = other, e
				}
				wantStatus(t, e, gipc.Connected)
				Must(t, Do(t, "a message for it", func() error { return other.Write(1, Payload(1, 100)) }))
				err := Do(t, name, func() error {
					err, panicked := recovered(bad(e, server.Connections)[name])
					if err == nil && panicked == nil {
						return errors.New("neither an error nor a panic")
					}
					t.Logf("error: %v, panic: %v", err, panicked)
					return nil
				})
				if err != nil && name != "WaitConnected" && name != "Messages" { // these have no need of a context here
					t.Error(err)
				}
				usable(t, e, other)
				Do(t, "Close", e.Close)
			})
		}
	}
}

// drain takes one message.
func drain(e endpoint, ctx context.Context) error {
	for _, err := range e.Messages(ctx) {
		return err
	}
	return nil
}

func panicIn(e endpoint) error {
	for range e.Messages(context.Background()) {
		panic("in a body of Messages")
	}
	return nil
}

func panicInPool(pool *gipc.ConnectionPool) error {
	for range pool.Messages(context.Background()) {
		panic("in a body of the pool's Messages")
	}
	return nil
}

func panicInCallback(pool *gipc.ConnectionPool) error {
	pool.ReadTimedFastest(0, func(*gipc.Server, *gipc.Message, error) { panic("in a callback") })
	return nil
}

// usable checks that every method of e works.
func usable(t *testing.T, e, other endpoint) {
	t.Helper()
	Must(t, Do(t, "the methods that do not wait", func() error {
		e.StatusCode()
		e.Stats()
		e.ID()
		e.Err()
		e.Done()
		return nil
	}))
	Must(t, Do(t, "Write", func() error { return e.Write(2, Payload(2, 100)) }))
	Must(t, Do(t, "Queue", func() error { return e.Queue(3, Payload(3, 100)) }))
	Must(t, Do(t, "Flush", e.Flush))
	wantMessage(t, other, 2, Payload(2, 100))
	wantMessage(t, other, 3, Payload(3, 100))
	Must(t, Do(t, "Write of the peer", func() error { return other.Write(4, Payload(4, 100)) }))
	Must(t, Do(t, "reading", func() error {
		for {
			m := new(gipc.Message)
			if err := e.ReadInto(context.Background(), m); err != nil || m.MsgType == 4 {
				return err
			}
		}
	}))
}

// TestNilConfigIsAnError: a missing configuration is an error, not a panic.
func TestNilConfigIsAnError(t *testing.T) {
	t.Parallel()
	_, err := gipc.StartServer(nil)
	WantErr(t, "StartServer", err, gipc.ErrConfig)
	_, err = gipc.StartClient(nil)
	WantErr(t, "StartClient", err, gipc.ErrConfig)
	var none context.Context
	err, panicked := recovered(func() error {
		_, err := gipc.StartClientContext(none, &gipc.ClientConfig{Name: "test", Timeout: time.Second,
			Dial: func(context.Context) (net.Conn, error) { return nil, net.ErrClosed }})
		return err
	})
	if err == nil && panicked == nil {
		t.Error("StartClientContext without a context: neither an error nor a panic")
	}
}
