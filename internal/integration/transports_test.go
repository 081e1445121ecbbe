package integration_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"example.com/gipc"
	. "example.com/gipc/internal/testutil"
)

// A transport is one way to carry a connection.
type transport struct {
	name    string
	once    bool // it carries one connection
	configs func(t testing.TB) (*gipc.ServerConfig, *gipc.ClientConfig)
}

var transports = []transport{
	{name: "unix", configs: func(t testing.TB) (*gipc.ServerConfig, *gipc.ClientConfig) {
		path := TempSocket(t)
		return &gipc.ServerConfig{Network: "unix", Address: path}, &gipc.ClientConfig{Network: "unix", Address: path}
	}},
	{name: "tcp", configs: func(t testing.TB) (*gipc.ServerConfig, *gipc.ClientConfig) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		Must(t, err)
		return &gipc.ServerConfig{Listener: l}, &gipc.ClientConfig{Network: "tcp", Address: l.Addr().String()}
	}},
	{name: "tls", configs: func(t testing.TB) (*gipc.ServerConfig, *gipc.ClientConfig) {
		path := TempSocket(t)
		return &gipc.ServerConfig{Network: "unix", Address: path, Upgrade: func(c net.Conn) (net.Conn, error) { return TLSServer(c), nil }},
			&gipc.ClientConfig{Network: "unix", Address: path, Upgrade: func(c net.Conn) (net.Conn, error) { return TLSClient(c), nil }}
	}},
	{name: "pipe", configs: func(t testing.TB) (*gipc.ServerConfig, *gipc.ClientConfig) {
		network := &PipeNetwork{}
		return &gipc.ServerConfig{Listener: network.Listen()}, &gipc.ClientConfig{Dial: network.Dial}
	}},
	{name: "no deadlines", configs: func(t testing.TB) (*gipc.ServerConfig, *gipc.ClientConfig) {
		network := &PipeNetwork{Wrap: WithoutDeadlines}
		return &gipc.ServerConfig{Listener: network.Listen()}, &gipc.ClientConfig{Dial: network.Dial}
	}},
	{name: "unix without deadlines", configs: func(t testing.TB) (*gipc.ServerConfig, *gipc.ClientConfig) {
		l, err := net.Listen("unix", TempSocket(t))
		Must(t, err)
		return &gipc.ServerConfig{Listener: WrapListener{Listener: l, Wrap: WithoutDeadlines}},
			&gipc.ClientConfig{Dial: func(ctx context.Context) (net.Conn, error) {
				c, err := new(net.Dialer).DialContext(ctx, "unix", l.Addr().String())
				if err != nil {
					return nil, err
				}
				return WithoutDeadlines(c), nil
			}}
	}},
	{name: "socketpair", once: true, configs: func(t testing.TB) (*gipc.ServerConfig, *gipc.ClientConfig) {
		a, b := SocketPair(t)
		var dialed atomic.Bool
		return &gipc.ServerConfig{Listener: gipc.ListenConn(a)},
			&gipc.ClientConfig{Dial: func(context.Context) (net.Conn, error) {
				if dialed.Swap(true) {
					return nil, fmt.Errorf("the socketpair has one connection: %w", net.ErrClosed)
				}
				return b, nil
			}}
	}},
}

// connect connects a client and a server of one client.
func (tr transport) connect(t testing.TB, plain bool) (*gipc.Server, *gipc.Client) {
	t.Helper()
	sc, cc := tr.settings(t, plain)
	server := startServer(t, sc)
	client := startClient(t, cc)
	waitConnected(t, server)
	return server, client
}

func (tr transport) settings(t testing.TB, plain bool) (*gipc.ServerConfig, *gipc.ClientConfig) {
	t.Helper()
	sc, cc := tr.configs(t)
	sc.Name, cc.Name = "test", "test"
	if plain {
		sc.Encryption, cc.Encryption = gipc.EncryptionOff, gipc.EncryptionOff
	}
	return sc, cc
}

// onTransports runs f on every transport, encrypted and in plaintext.
func onTransports(t *testing.T, f func(t *testing.T, tr transport, plain bool)) {
	t.Parallel()
	for _, tr := range transports {
		for _, plain := range []bool{false, true} {
			name := tr.name
			if plain {
				name += " plain"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				f(t, tr, plain)
			})
		}
	}
}

func TestTransportsEcho(t *testing.T) {
	onTransports(t, func(t *testing.T, tr transport, plain bool) {
		server, client := tr.connect(t, plain)
		go func() {
			for m, err := range server.Messages(context.Background()) {
				if err == nil {
					server.Write(m.MsgType+1, m.Data)
				}
			}
		}()
		for i, size := range []int{0, 1, 7, 8, 100, 4095, 4096, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537, 131_072, 300 << 10} {
			Must(t, Do(t, fmt.Sprintf("Write of %d bytes", size), func() error { return client.Write(2*i+1, Payload(i, size)) }))
			wantMessage(t, client, 2*i+2, Payload(i, size))
		}
	})
}

// TestTransportsWriteBeforeRead: two sides that both write before they read do
// not stall each other.
func TestTransportsWriteBeforeRead(t *testing.T) {
	onTransports(t, func(t *testing.T, tr transport, plain bool) {
		server, client := tr.connect(t, plain)
		both := func(e endpoint) func() error {
			return func() error {
				for i := range 20 {
					if err := e.Write(1, Payload(i, 1000)); err != nil {
						return err
					}
				}
				if err := e.Write(1, Payload(20, 300<<10)); err != nil {
					return err
				}
				for i := range 21 {
					m, err := nextMessage(e)
					if err != nil {
						return err
					}
					if numberOf(m.Data) != i || string(m.Data) != string(Payload(i, len(m.Data))) {
						return fmt.Errorf("message %d: other bytes", i)
					}
				}
				return nil
			}
		}
		Together(t, both(client), both(server))
	})
}

// TestTransportsReadInterrupted ends reads at any moment: nothing is lost.
func TestTransportsReadInterrupted(t *testing.T) {
	onTransports(t, func(t *testing.T, tr transport, plain bool) {
		server, client := tr.connect(t, plain)
		const n = 60
		size := func(i int) int { return []int{10, 3000, 50_000, 200_000}[i%4] }
		for _, way := range [][2]endpoint{{client, server}, {server, client}} {
			from, to := way[0], way[1]
			interrupted := make(chan struct{}, 1)
			Together(t,
				func() error {
					for i := range n {
						if i%10 == 0 {
							<-interrupted // the reader is ahead: a read has found nothing
						}
						if err := from.Write(1, Payload(i, size(i))); err != nil {
							return err
						}
					}
					return nil
				},
				func() error {
					for i, tries := 0, 0; i < n; tries++ {
						m := new(gipc.Message)
						var err error
						switch tries % 3 {
						case 0:
							m, err = to.ReadTimed(0)
						case 1:
							m, err = to.ReadTimed(time.Duration(tries%300) * time.Microsecond)
						case 2:
							ctx, cancel := context.WithTimeout(context.Background(), time.Duration(tries%500)*time.Microsecond)
							err = to.ReadInto(ctx, m)
							cancel()
							if errors.Is(err, context.DeadlineExceeded) {
								m, err = gipc.TimeoutMessage, nil
							}
						}
						switch {
						case err != nil:
							return err
						case m == gipc.TimeoutMessage:
							select {
							case interrupted <- struct{}{}:
							default:
							}
						case m.MsgType == 1:
							if want := Payload(i, size(i)); string(m.Data) != string(want) {
								return fmt.Errorf("message %d: %d other bytes", i, len(m.Data))
							}
							i++
						case m.Err != nil:
							return fmt.Errorf("status %s: %w", m.Status, m.Err)
						}
					}
					return nil
				})
		}
	})
}

// TestTransportsClose: a nil Close means that the peer has everything, in
// order; its reader gets the status message behind them, with a nil Err.
func TestTransportsClose(t *testing.T) {
	for _, closer := range []string{"client", "server"} {
		t.Run(closer, func(t *testing.T) {
			onTransports(t, func(t *testing.T, tr transport, plain bool) {
				server, client := tr.connect(t, plain)
				from, to, status := endpoint(client), endpoint(server), gipc.Disconnected
				if closer == "server" {
					from, to, status = server, client, gipc.ReConnecting
				}
				const n = 100
				Together(t,
					func() error {
						for i := range n {
							write := from.Write
							if i%3 > 0 {
								write = from.Queue
							}
							if err := write(1, Payload(i, i*50)); err != nil {
								return err
							}
						}
						return from.Close()
					},
					func() error {
						next := 0
						for {
							m, err := to.Read()
							switch {
							case err != nil:
								return err
							case m.MsgType == 1:
								if string(m.Data) != string(Payload(next, next*50)) {
									return fmt.Errorf("message %d: other bytes", next)
								}
								next++
							case m.Status == status.String() && m.Err != nil:
								return fmt.Errorf("a loss: %w", m.Err)
							case m.Status == status.String() && next != n:
								return fmt.Errorf("the close came after %d messages of %d", next, n)
							case m.Status == status.String():
								return nil
							}
						}
					})
				if _, err := from.Read(); err == nil { // Connected, or Closed
					from.Read()
				}
				WantErr(t, "Err of the side that closed", from.Err(), gipc.ErrClosed)
				WantErr(t, "Close of the other side", Do(t, "Close", to.Close))
			})
		})
	}
}

// TestTransportsCloseWithBothSides closes both sides at once, with messages on
// the way in both directions: a nil Close is true.
func TestTransportsCloseWithBothSides(t *testing.T) {
	onTransports(t, func(t *testing.T, tr transport, plain bool) {
		server, client := tr.connect(t, plain)
		for i := range 5 {
			Must(t, client.Write(1, Payload(i, 100)))
			Must(t, server.Write(1, Payload(i, 100)))
		}
		clientClosed, serverClosed := Go(client.Close), Go(server.Close)
		results := map[endpoint]error{client: Await(t, "Close of the client", clientClosed), server: Await(t, "Close of the server", serverClosed)}
		for e, err := range results {
			other := endpoint(client)
			if e == endpoint(client) {
				other = server
			}
			n := 0
			Must(t, Do(t, "what is left", func() error {
				for m, err := range other.Messages(context.Background()) {
					if err != nil {
						return err
					}
					if m.MsgType == 1 {
						n++
					}
				}
				return nil
			}))
			if err == nil && n != 5 {
				t.Errorf("Close was nil, and the other side has %d messages of 5", n)
			}
			if err != nil && !errors.Is(err, gipc.ErrUnconfirmed) {
				t.Errorf("Close: %v, want nil or ErrUnconfirmed", err)
			}
		}
	})
}

// TestTransportsReconnect: a client connects again when its connection has
// ended, unless there will be no other.
func TestTransportsReconnect(t *testing.T) {
	onTransports(t, func(t *testing.T, tr transport, plain bool) {
		if tr.once {
			server, client := tr.connect(t, plain)
			Must(t, client.Write(1, Payload(1, 100)))
			wantMessage(t, server, 1, Payload(1, 100))
			WantErr(t, "Close of the client", Do(t, "Close", client.Close))
			wantDone(t, "a server whose one connection is over", server)
			WantErr(t, "its Err", server.Err(), gipc.ErrClosed)

			server, client = tr.connect(t, plain)
			WantErr(t, "Close of the server", Do(t, "Close", server.Close))
			wantDone(t, "a client that cannot dial again", client)
			WantErr(t, "its Err", client.Err(), net.ErrClosed)
			return
		}
		sc, cc := tr.settings(t, plain)
		sc.MultiClient = true
		server := startServer(t, sc)
		served := Go(func() error {
			return server.Connections.Serve(context.Background(), func(s *gipc.Server, m *gipc.Message) {
				switch m.MsgType {
				case 1:
					s.Write(2, m.Data)
				case 3:
					s.Close()
				}
			})
		})
		client := startClient(t, cc)
		wantStatus(t, client, gipc.Connected)
		for id := uint64(1); id <= 3; id++ {
			Must(t, Do(t, "Write", func() error { return client.Write(1, Payload(int(id), 1000)) }))
			wantMessage(t, client, 2, Payload(int(id), 1000))
			if client.ID() != id {
				t.Errorf("connection %d, want %d", client.ID(), id)
			}
			Must(t, Do(t, "Write", func() error { return client.Write(3, nil) }))
			if m := wantStatus(t, client, gipc.ReConnecting); m.Err != nil {
				t.Errorf("the loss is %v, want nil after a close", m.Err)
			}
			wantStatus(t, client, gipc.Connected)
		}
		Must(t, Do(t, "Close of the client", client.Close))
		Do(t, "Close of the server", server.Close)
		Await(t, "Serve", served)
	})
}

// wantDone waits until an endpoint is done.
func wantDone(t *testing.T, what string, e endpoint) {
	t.Helper()
	select {
	case <-e.Done():
	case <-time.After(Patience):
		t.Fatalf("%s: not done after %v, status %v", what, Patience, e.StatusCode())
	}
}
