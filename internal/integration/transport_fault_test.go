package integration_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/gipc"
	. "example.com/gipc/internal/testutil"
)

// withoutDeadlines connects a client and a server whose connections support no
// deadline.
func withoutDeadlines(t *testing.T, edit func(*gipc.ServerConfig, *gipc.ClientConfig)) (*gipc.Server, *gipc.Client) {
	t.Helper()
	network := &PipeNetwork{Wrap: WithoutDeadlines}
	sc := &gipc.ServerConfig{Name: "test", Listener: network.Listen()}
	cc := &gipc.ClientConfig{Name: "test", Dial: network.Dial}
	if edit != nil {
		edit(sc, cc)
	}
	server := startServer(t, sc)
	client := startClient(t, cc)
	if !sc.MultiClient {
		waitConnected(t, server)
	}
	return server, client
}

// readNothing lets a ReadTimed and a ReadContext end.
func readNothing(t *testing.T, e endpoint, timed, limit time.Duration) {
	t.Helper()
	Must(t, Do(t, "ReadTimed", func() error {
		m, err := e.ReadTimed(timed)
		if err == nil && m != gipc.TimeoutMessage {
			err = fmt.Errorf("ReadTimed: %+v, want TimeoutMessage", m)
		}
		return err
	}))
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	err := Do(t, "ReadContext", func() error { _, err := e.ReadContext(ctx); return err })
	WantErr(t, "ReadContext", err, context.DeadlineExceeded)
}

func TestNoDeadlinesReadsTimeOut(t *testing.T) {
	t.Parallel()
	Bubble(t, func(t *testing.T) {
		server, client := withoutDeadlines(t, nil)
		for _, way := range [][2]endpoint{{client, server}, {server, client}} {
			from, to := way[0], way[1]
			wantStatus(t, to, gipc.Connected)
			start := time.Now()
			readNothing(t, to, 3*time.Second, 2*time.Second)
			WantErr(t, "ReadInto", Do(t, "ReadInto", func() error { return to.ReadInto(ended(), new(gipc.Message)) }), context.Canceled)
			if d := time.Since(start); d != 5*time.Second {
				t.Errorf("both took %v", d)
			}
			for i := range 3 {
				Must(t, Do(t, "Write", func() error { return from.Write(1, Payload(i, 40_000)) }))
				wantMessage(t, to, 1, Payload(i, 40_000))
			}
		}
	})
}

// TestNoDeadlinesMidMessage lets ReadTimed and ReadContext end while half a
// message is there: nothing is lost.
func TestNoDeadlinesMidMessage(t *testing.T) {
	t.Parallel()
	Bubble(t, func(t *testing.T) {
		client, peer := startPlainClient(t, ListenRaw(t, 1, PipePairWithoutDeadlines))
		wantStatus(t, client, gipc.Connected)
		for i, size := range []int{10, 1000, 100_000} {
			frame := User(1, Payload(i, size))
			for cut := 1; cut < len(frame); cut += 1 + len(frame)/3 {
				part := Go(func() error { _, err := peer.Write(frame[:cut]); return err })
				readNothing(t, client, time.Second, time.Second)
				Must(t, Await(t, "the first part", part))
				rest := Go(func() error { _, err := peer.Write(frame[cut:]); return err })
				wantMessage(t, client, 1, Payload(i, size))
				Must(t, Await(t, "the rest", rest))
			}
		}
	})
}

func TestNoDeadlinesCloseEndsBlockedCalls(t *testing.T) {
	t.Parallel()
	Bubble(t, func(t *testing.T) {
		server, client := withoutDeadlines(t, nil)
		for name, e := range map[string]endpoint{"client": client, "server": server} {
			wantStatus(t, e, gipc.Connected)
			read := Go(func() error {
				for {
					if _, err := e.Read(); err != nil {
						return err
					}
				}
			})
			synctest.Wait()
			WantErr(t, "Close of the "+name, Do(t, "Close", e.Close))
			WantErr(t, "the blocked Read", Await(t, "the blocked Read", read), gipc.ErrClosed)
		}
	})
}

// TestNoDeadlinesShutdownEndsAtOnce cuts a connection whose peer does not react.
func TestNoDeadlinesShutdownEndsAtOnce(t *testing.T) {
	t.Parallel()
	for _, busy := range []string{"idle", "reading", "writing"} {
		t.Run(busy, func(t *testing.T) {
			t.Parallel()
			Bubble(t, func(t *testing.T) {
				client, peer := startPlainClient(t, ListenRaw(t, 1, PipePairWithoutDeadlines))
				blocked := Go(func() error {
					switch busy {
					case "reading":
						for {
							if _, err := client.Read(); err != nil {
								return err
							}
						}
					case "writing":
						return client.Write(1, Payload(1, 100_000))
					}
					return gipc.ErrClosed
				})
				synctest.Wait()
				start := time.Now()
				err := Do(t, "Shutdown", func() error { return client.Shutdown(ended()) })
				if d := time.Since(start); d > 5*time.Second {
					t.Errorf("Shutdown with an ended context took %v", d)
				}
				if busy == "writing" {
					WantErr(t, "Shutdown", err, gipc.ErrUnconfirmed)
				}
				WantErr(t, "the blocked call", Await(t, "the blocked call", blocked), gipc.ErrClosed)
				peer.Close()
			})
		})
	}
}

// TestNoDeadlinesSilentServer: Timeout bounds a handshake that does not move.
func TestNoDeadlinesSilentServer(t *testing.T) {
	t.Parallel()
	for _, part := range []int{0, 3, 6} { // bytes of ServerHello that come
		t.Run(fmt.Sprint(part), func(t *testing.T) {
			t.Parallel()
			Bubble(t, func(t *testing.T) {
				var mu sync.Mutex
				var opened []net.Conn
				start := time.Now()
				result := Go(func() error {
					c, err := gipc.StartClient(&gipc.ClientConfig{Name: "test", Encryption: gipc.EncryptionOff, Timeout: 15 * time.Second,
						Dial: func(context.Context) (net.Conn, error) {
							near, far := net.Pipe()
							mu.Lock()
							opened = append(opened, far)
							mu.Unlock()
							go func() {
								far.Write([]byte{3, 0, 0, 16, 0, 0}[:part])
								io.Copy(io.Discard, far)
							}()
							return WithoutDeadlines(near), nil
						}})
					if c != nil {
						err = errors.New("a client without a server")
					}
					return err
				})
				err := Await(t, "StartClient with Timeout", result)
				WantErr(t, "StartClient", err, gipc.ErrTimeout)
				if d := time.Since(start); d > 20*time.Second {
					t.Errorf("StartClient took %v with a Timeout of 15 s", d)
				}
				for _, far := range opened {
					far.Close()
				}
			})
		})
	}
}

// TestNoDeadlinesSilentClient: a server ends a handshake whose client is silent.
func TestNoDeadlinesSilentClient(t *testing.T) {
	t.Parallel()
	Bubble(t, func(t *testing.T) {
		network := &PipeNetwork{Wrap: WithoutDeadlines}
		server := startServer(t, &gipc.ServerConfig{Name: "test", Listener: network.Listen()})
		conn, err := network.Dial(t.Context())
		Must(t, err)
		defer conn.Close()
		end := Go(func() error { _, err := io.Copy(io.Discard, conn); return err })
		Await(t, "the end of a silent client", end)
		Eventually(t, "the count of refused peers", func() bool { return server.Stats().Refused == 1 })
	})
}

// TestNoDeadlinesHeartbeat notices a peer that has stopped.
func TestNoDeadlinesHeartbeat(t *testing.T) {
	t.Parallel()
	Bubble(t, func(t *testing.T) {
		raw := ListenRaw(t, 1, PipePairWithoutDeadlines)
		client := startClient(t, &gipc.ClientConfig{Name: "test", Encryption: gipc.EncryptionOff, Heartbeat: time.Second, Dial: raw.Dial})
		peer := raw.Peer()
		go io.Copy(io.Discard, peer) // reads, and does not answer
		m := wantStatus(t, client, gipc.ReConnecting)
		WantErr(t, "the loss", m.Err, gipc.ErrTimeout)
		peer.Close()
	})
}

// TestNoDeadlinesCloseIsConfirmed: a nil Close means that the peer has everything.
func TestNoDeadlinesCloseIsConfirmed(t *testing.T) {
	t.Parallel()
	Bubble(t, func(t *testing.T) {
		server, client := withoutDeadlines(t, nil)
		for i := range 20 {
			Must(t, client.Queue(1, Payload(i, 1000)))
		}
		closed := Go(client.Close)
		for i := range 20 {
			wantMessage(t, server, 1, Payload(i, 1000))
		}
		WantErr(t, "Close", Await(t, "Close", closed))
		if m := wantStatus(t, server, gipc.Disconnected); m.Err != nil {
			t.Errorf("the status message has %v, want nil after a close", m.Err)
		}

		raw, peer := startPlainClient(t, ListenRaw(t, 1, PipePairWithoutDeadlines))
		ending := peer.FinishWithoutAck()
		Must(t, raw.Write(1, Payload(1, 100)))
		WantErr(t, "Close without a close-ack", Do(t, "Close", raw.Close), gipc.ErrUnconfirmed)
		Await(t, "the end", ending)
	})
}

// TestPacketSocketsAreRefused: a connection that keeps message boundaries is
// refused with an error that says what is needed.
func TestPacketSocketsAreRefused(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("unixpacket is a matter of Linux")
	}
	path := TempSocket(t)
	l, err := net.Listen("unixpacket", path)
	Must(t, err)
	defer l.Close()
	t.Run("Dial", func(t *testing.T) {
		start := Go(func() error {
			c, err := gipc.StartClient(&gipc.ClientConfig{Name: "test", Timeout: 2 * time.Second, Dial: func(ctx context.Context) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unixpacket", path)
			}})
			if c != nil {
				c.Shutdown(ended())
				err = errors.New("connected")
			}
			return err
		})
		go func() { // the peer says what a server would
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Write([]byte{3, 0, 0, 16, 0, 0})
				c.Close()
			}
		}()
		if err := Await(t, "StartClient", start); err == nil || !strings.Contains(err.Error(), "stream") {
			t.Errorf("StartClient: %v, want an error that says that a stream is needed", err)
		}
		l.Close()
	})
	t.Run("Listener", func(t *testing.T) {
		l, err := net.Listen("unixpacket", TempSocket(t))
		Must(t, err)
		var log logLines
		s, err := gipc.StartServer(&gipc.ServerConfig{Name: "test", Listener: l, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			if !strings.Contains(err.Error(), "stream") {
				t.Errorf("StartServer: %v, want an error that says that a stream is needed", err)
			}
			l.Close()
			return
		}
		closeAtEnd(t, s)
		conn, err := net.Dial("unixpacket", l.Addr().String())
		Must(t, err)
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(Patience))
		if n, err := conn.Read(make([]byte, 100)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the server sends %d bytes, %v; want it to end the connection", n, err)
		}
		Eventually(t, "the report", func() bool { return strings.Contains(log.String(), "stream") })
	})
}

// TestNilConnectionsAreRefused: neither a connection nor an error is an error.
func TestNilConnectionsAreRefused(t *testing.T) {
	t.Parallel()
	nothing := func(net.Conn) (net.Conn, error) { return nil, nil }
	t.Run("Dial", func(t *testing.T) {
		err := Do(t, "StartClient", func() error {
			_, err := gipc.StartClient(&gipc.ClientConfig{Name: "test", Timeout: time.Second,
				Dial: func(context.Context) (net.Conn, error) { return nil, nil }})
			return err
		})
		if err == nil {
			t.Error("a client without a connection")
		}
	})
	t.Run("client's Upgrade", func(t *testing.T) {
		network := &PipeNetwork{}
		startServer(t, &gipc.ServerConfig{Name: "test", Listener: network.Listen()})
		err := Do(t, "StartClient", func() error {
			_, err := gipc.StartClient(&gipc.ClientConfig{Name: "test", Timeout: time.Second, Dial: network.Dial, Upgrade: nothing})
			return err
		})
		if err == nil {
			t.Error("a client without a connection")
		}
	})
	t.Run("server's Upgrade", func(t *testing.T) {
		network := &PipeNetwork{}
		server := startServer(t, &gipc.ServerConfig{Name: "test", Listener: network.Listen(), Upgrade: nothing})
		conn, err := network.Dial(t.Context())
		Must(t, err)
		defer conn.Close()
		Eventually(t, "the refusal", func() bool { return server.Stats().Refused == 1 })
	})
}

// logLines is a log that can be read while it is written.
type logLines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logLines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
