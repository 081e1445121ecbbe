// Tests of starting and of the dial loop: configurations, the first dial and
// every later one, back-off, Timeout, what ends at once, and what the error says.

package endpoint_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"example.com/gipc"
	"example.com/gipc/internal/testutil"
)

func TestStartWithoutConfig(t *testing.T) {
	t.Parallel()
	if s, err := gipc.StartServer(nil); s != nil || !errors.Is(err, gipc.ErrConfig) {
		t.Errorf("StartServer(nil): %v, %v", s, err)
	}
	if c, err := gipc.StartClient(nil); c != nil || !errors.Is(err, gipc.ErrConfig) {
		t.Errorf("StartClient(nil): %v, %v", c, err)
	}
	if c, err := gipc.StartClientContext(context.Background(), nil); c != nil || !errors.Is(err, gipc.ErrConfig) {
		t.Errorf("StartClientContext(nil): %v, %v", c, err)
	}
}

func TestStartWithABadConfig(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 256)
	for field, configs := range map[string][]any{
		"Name": {
			&gipc.ServerConfig{}, &gipc.ServerConfig{Name: long}, &gipc.ServerConfig{Name: "a/b"}, &gipc.ServerConfig{Name: `a\b`},
			&gipc.ServerConfig{Name: "."}, &gipc.ServerConfig{Name: ".."}, &gipc.ServerConfig{Name: "a\x00"}, &gipc.ServerConfig{Name: "a\xff"},
			&gipc.ClientConfig{}, &gipc.ClientConfig{Name: long}, &gipc.ClientConfig{Name: "../b"}, &gipc.ClientConfig{Name: "\xc0"},
		},
		"Network": {&gipc.ServerConfig{Name: "n", Network: "udp"}, &gipc.ClientConfig{Name: "n", Network: "Unix"}},
		"MaxMsgSize": {
			&gipc.ServerConfig{Name: "n", MaxMsgSize: -1}, &gipc.ServerConfig{Name: "n", MaxMsgSize: 1023}, &gipc.ServerConfig{Name: "n", MaxMsgSize: 1<<30 + 1},
			&gipc.ClientConfig{Name: "n", MaxMsgSize: 1}, &gipc.ClientConfig{Name: "n", MaxMsgSize: 1<<30 + 1},
		},
		"Secret": {
			&gipc.ServerConfig{Name: "n", Secret: secret[:31]}, &gipc.ServerConfig{Name: "n", Secret: make([]byte, 32)},
			&gipc.ServerConfig{Name: "n", Secret: secret, Encryption: gipc.EncryptionOff},
			&gipc.ClientConfig{Name: "n", Secret: secret[:1]}, &gipc.ClientConfig{Name: "n", Secret: make([]byte, 48)},
			&gipc.ClientConfig{Name: "n", Secret: secret, Encryption: gipc.EncryptionOff},
		},
		"Encryption": {&gipc.ServerConfig{Name: "n", Encryption: 17}, &gipc.ClientConfig{Name: "n", Encryption: -1}},
		"MaxClients": {&gipc.ServerConfig{Name: "n", MultiClient: true, MaxClients: -1}},
		"Heartbeat":  {&gipc.ServerConfig{Name: "n", Heartbeat: time.Second - 1}, &gipc.ClientConfig{Name: "n", Heartbeat: 1}},
		"BusyPoll":   {&gipc.ServerConfig{Name: "n", BusyPoll: -1}, &gipc.ClientConfig{Name: "n", BusyPoll: -1}},
		"Timeout":    {&gipc.ClientConfig{Name: "n", Timeout: -1}},
		"RetryTimer": {&gipc.ClientConfig{Name: "n", RetryTimer: -1}, &gipc.ClientConfig{Name: "n", RetryTimer: 20}},
	} {
		for _, c := range configs {
			var err error
			switch c := c.(type) {
			case *gipc.ServerConfig:
				var s *gipc.Server
				c.Listener = (&pipes{}).listen()
				if s, err = gipc.StartServer(c); s != nil {
					s.Close()
				}
			case *gipc.ClientConfig:
				var s *gipc.Client
				c.Dial = func(context.Context) (net.Conn, error) { return nil, errors.New("dialled") }
				if c.Timeout == 0 {
					c.Timeout = time.Millisecond
				}
				if s, err = gipc.StartClient(c); s != nil {
					s.Close()
				}
			}
			if !errors.Is(err, gipc.ErrConfig) || !strings.Contains(err.Error(), field) || !strings.HasPrefix(err.Error(), "gipc: ") {
				t.Errorf("%s: %T: %v; want ErrConfig that names the field", field, c, err)
			}
		}
	}
}

func TestStartTakesTheLimitsOfConfigs(t *testing.T) {
	t.Parallel()
	for _, edit := range []func(*gipc.ServerConfig, *gipc.ClientConfig){
		func(s *gipc.ServerConfig, c *gipc.ClientConfig) { s.MaxMsgSize, c.MaxMsgSize = 1024, 1<<30 },
		func(s *gipc.ServerConfig, c *gipc.ClientConfig) { s.MaxMsgSize, c.MaxMsgSize = 1<<30, 1024 },
		func(s *gipc.ServerConfig, c *gipc.ClientConfig) { s.Heartbeat, c.Heartbeat = time.Second, -1 },
		func(s *gipc.ServerConfig, c *gipc.ClientConfig) {
			s.Name = strings.Repeat("é", 127) + "x"
			c.Name = s.Name
		},
		func(s *gipc.ServerConfig, c *gipc.ClientConfig) { s.Secret, c.Secret = secret, secret },
		func(s *gipc.ServerConfig, c *gipc.ClientConfig) { c.Encryption = gipc.EncryptionOff }, // follows the server
		func(s *gipc.ServerConfig, c *gipc.ClientConfig) {
			c.Timeout, c.RetryTimer = time.Minute, time.Millisecond
		},
	} {
		sc, cc := configs(t, "unix")
		edit(sc, cc)
		server, client := startServer(t, sc), startClient(t, cc)
		testutil.Must(t, client.Write(1, []byte("x")))
		wantUser(t, server, 1, "x")
	}
}

// The config is copied before use, the secret too.
func TestStartCopiesTheConfig(t *testing.T) {
	t.Parallel()
	sc, cc := configs(t, "unix")
	sc.Secret, cc.Secret = slices.Clone(secret), slices.Clone(secret)
	cc.RetryTimer = time.Millisecond
	server := startServer(t, sc)
	clear(sc.Secret)
	before := *cc
	client := startClient(t, cc)
	if cc.Name != before.Name || cc.RetryTimer != before.RetryTimer || cc.MaxMsgSize != before.MaxMsgSize || !bytes.Equal(cc.Secret, secret) {
		t.Errorf("the config was changed: %+v", cc)
	}
	clear(cc.Secret)
	address := sc.Address
	*sc, *cc = gipc.ServerConfig{}, gipc.ClientConfig{}
	testutil.Must(t, client.Write(1, nil))
	wantUser(t, server, 1, "")
	testutil.Must(t, server.Close())
	startServer(t, &gipc.ServerConfig{Name: "test", Network: "unix", Address: address, Secret: secret})
	wantInternal(t, client, gipc.Connecting)
	wantInternal(t, client, gipc.Connected)
	wantInternal(t, client, gipc.ReConnecting)
	wantInternal(t, client, gipc.Connected) // with the secret that it was started with
}

// The client may come first: any error of the first dial starts the loop.
func TestClientBeforeTheServer(t *testing.T) {
	t.Parallel()
	t.Run("unix", func(t *testing.T) {
		sc, cc := configs(t, "unix")
		tried := make(chan bool, 1)
		cc.Dial = func(ctx context.Context) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, "unix", sc.Address)
			if err != nil {
				select {
				case tried <- true:
				default:
				}
			}
			return c, err
		}
		var client *gipc.Client
		started := make(chan error, 1)
		go func() {
			var err error
			client, err = gipc.StartClient(cc)
			started <- err
		}()
		await(t, tried)
		server := startServer(t, sc)
		testutil.Must(t, await(t, started))
		t.Cleanup(func() { cut(client) })
		wantStatus(t, client, gipc.Connected)
		testutil.Must(t, client.Write(1, nil))
		wantUser(t, server, 1, "")
	})
	t.Run("without Dial", func(t *testing.T) {
		sc, cc := configs(t, "unix")
		started := make(chan *gipc.Client, 1)
		go func() {
			client, err := gipc.StartClient(cc)
			if err != nil {
				t.Error(err)
			}
			started <- client
		}()
		server := startServer(t, sc)
		client := await(t, started)
		t.Cleanup(func() { cut(client) })
		testutil.Must(t, client.Write(1, nil))
		wantUser(t, server, 1, "")
	})
}

var errDial = errors.New("nobody home")

// The first try is at once, then come pauses that begin at 1 ms and double,
// with jitter, up to RetryTimer.
func TestClientBackOff(t *testing.T) {
	t.Parallel()
	tries := func(t *testing.T, retry, timeout time.Duration) []time.Duration {
		start := time.Now()
		var at []time.Duration
		client, err := gipc.StartClient(&gipc.ClientConfig{Name: "test", RetryTimer: retry, Timeout: timeout,
			Dial: func(context.Context) (net.Conn, error) {
				at = append(at, time.Since(start))
				return nil, errDial
			}})
		if client != nil || !errors.Is(err, gipc.ErrTimeout) || !errors.Is(err, os.ErrDeadlineExceeded) || !errors.Is(err, errDial) {
			t.Errorf("%v, %v; want ErrTimeout and its cause", client, err)
		}
		if d := time.Since(start); d != timeout {
			t.Errorf("gave up after %v, want %v", d, timeout)
		}
		return at
	}
	for _, retry := range []time.Duration{0, 10 * time.Millisecond, 3 * time.Second, time.Millisecond} {
		t.Run(retry.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				longest := retry
				if retry == 0 {
					longest = time.Second
				}
				timeout := 200 * longest
				at := tries(t, retry, timeout)
				if at[0] != 0 {
					t.Errorf("the first try came after %v", at[0])
				}
				step, long := time.Millisecond, 0
				for i := 1; i < len(at); i++ {
					gap := at[i] - at[i-1]
					if gap <= 0 || gap > longest || gap > 2*step {
						t.Errorf("pause %d is %v, and the step is %v", i, gap, step)
					}
					if gap >= longest/2 {
						long++
					}
					step = min(2*step, longest)
				}
				// A pause is half its step on average at the least.
				if len(at) < 200 || len(at) > 500 || long < 80 {
					t.Errorf("%d tries, %d long pauses in %v", len(at), long, timeout)
				}
				if again := tries(t, retry, timeout); slices.Equal(at, again) {
					t.Error("no jitter")
				}
			})
		})
	}
}

// The pause starts again at zero only after a connection that lived longer than RetryTimer.
func TestClientBackOffAfterShortConnections(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		raw := listenRaw(t)
		start := time.Now()
		const retry = time.Second
		var dials []time.Duration
		dial := raw.dial
		raw.dial = func(ctx context.Context) (net.Conn, error) {
			dials = append(dials, time.Since(start))
			return dial(ctx)
		}
		client, peer := raw.connect(&gipc.ClientConfig{RetryTimer: retry})
		short := 0
		for time.Since(start) < time.Minute {
			peer.Close() // as soon as it is there
			peer = raw.accept()
			short++
		}
		if short < 60 || short > 200 {
			t.Errorf("%d short connections in a minute", short)
		}
		pass(2 * retry) // this one lives
		lost := time.Since(start)
		peer.Close()
		peer = raw.accept()
		if last := dials[len(dials)-1]; last != lost {
			t.Errorf("lost at %v, dialled at %v", lost, last)
		}
		testutil.Must(t, client.WaitConnected(t.Context()))
		peer.farewell()
		testutil.Must(t, client.Close())
	})
}

// Timeout counts for the first connection and for each search after a loss.
func TestClientTimeout(t *testing.T) {
	t.Parallel()
	t.Run("first", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			start := time.Now()
			client, err := gipc.StartClient(&gipc.ClientConfig{Name: "test", Timeout: 3 * time.Second,
				Dial: func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }})
			if client != nil || !errors.Is(err, gipc.ErrTimeout) {
				t.Errorf("%v, %v", client, err)
			}
			if d := time.Since(start); d != 3*time.Second {
				t.Errorf("after %v", d)
			}
		})
	})
	t.Run("a silent server", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			p := &pipes{}
			l := p.listen()
			var dials atomic.Int64
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					dials.Add(1)
					defer c.Close()
				}
			}()
			start := time.Now()
			client, err := gipc.StartClient(&gipc.ClientConfig{Name: "test", Timeout: 70 * time.Second, Dial: p.dial})
			l.Close()
			if client != nil || !errors.Is(err, gipc.ErrTimeout) {
				t.Errorf("%v, %v", client, err)
			}
			if d, n := time.Since(start), dials.Load(); d != 70*time.Second || n != 3 { // 30 s for each message of the server
				t.Errorf("after %v and %d tries", d, n)
			}
		})
	})
	t.Run("after a loss", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			sc, cc := configs(t, "pipe")
			cc.Timeout = 30 * time.Second
			server, client := startServer(t, sc), startClient(t, cc)
			pass(time.Hour) // Timeout is not about a connection that is there
			testutil.Must(t, server.Close())
			lost := time.Now()
			<-client.Done()
			if d := time.Since(lost); d != 30*time.Second {
				t.Errorf("gave up after %v", d)
			}
			for _, want := range []gipc.Status{gipc.Connecting, gipc.Connected, gipc.ReConnecting, gipc.Timeout} {
				wantInternal(t, client, want)
			}
			_, err := client.Read()
			for _, err := range []error{err, client.Err(), client.Write(1, nil)} {
				wantErr(t, err, gipc.ErrTimeout)
				wantErr(t, err, syscall.ECONNREFUSED) // the cause
			}
			if client.Status() != "Timeout" {
				t.Errorf("status %q", client.Status())
			}
			testutil.Must(t, client.Close())
		})
	})
	t.Run("comes back in time", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			p := &pipes{}
			sc := &gipc.ServerConfig{Name: "test", Listener: p.listen()}
			server := startServer(t, sc)
			client := startClient(t, &gipc.ClientConfig{Name: "test", Timeout: 30 * time.Second, Dial: p.dial})
			for range 5 {
				testutil.Must(t, server.Close())
				pass(28 * time.Second)
				sc.Listener = p.listen()
				server = startServer(t, sc)
				testutil.Must(t, server.WaitConnected(t.Context()))
				testutil.Must(t, client.WaitConnected(t.Context()))
			}
			testutil.Must(t, client.Write(1, nil))
			wantUser(t, server, 1, "")
		})
	})
}

// A dial that the end of the time breaks off says nothing about the server: the
// error still names what was wrong before, however early the dial returns.
func TestClientTimeoutNamesTheCause(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		end := time.Now().Add(time.Minute)
		ctx, cancel := context.WithDeadline(t.Context(), end.Add(time.Millisecond))
		defer cancel()
		client, err := gipc.StartClientContext(early{ctx, end}, &gipc.ClientConfig{Name: "test", Dial: func(context.Context) (net.Conn, error) {
			if left := time.Until(end); left < time.Second {
				pass(left)
				return nil, os.ErrDeadlineExceeded
			}
			return nil, errDial
		}})
		if client != nil || !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, errDial) {
			t.Errorf("%v, %v", client, err)
		}

		ctx, cancel = context.WithCancel(t.Context())
		start := time.Now()
		client, err = gipc.StartClientContext(ctx, &gipc.ClientConfig{Name: "test", Dial: func(ctx context.Context) (net.Conn, error) {
			if time.Since(start) > time.Minute {
				cancel()
				return nil, ctx.Err()
			}
			return nil, errDial
		}})
		if client != nil || !errors.Is(err, context.Canceled) || !errors.Is(err, errDial) {
			t.Errorf("%v, %v", client, err)
		}
	})
}

// early is a context with a deadline at which it has not ended yet.
type early struct {
	context.Context
	deadline time.Time
}

func (c early) Deadline() (time.Time, bool) { return c.deadline, true }

// 0 is forever.
func TestClientWithoutTimeout(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		p := &pipes{}
		p.listen().Close()
		started := make(chan *gipc.Client, 1)
		go func() {
			client, err := gipc.StartClient(&gipc.ClientConfig{Name: "test", Dial: p.dial})
			if err != nil {
				t.Error(err)
			}
			started <- client
		}()
		pass(time.Duration(testutil.Count(24, 2)) * time.Hour)
		server := startServer(t, &gipc.ServerConfig{Name: "test", Listener: p.listen()})
		client := <-started
		testutil.Must(t, server.Close())
		pass(time.Duration(testutil.Count(24, 2)) * time.Hour)
		server = startServer(t, &gipc.ServerConfig{Name: "test", Listener: p.listen()})
		testutil.Must(t, server.WaitConnected(t.Context()))
		testutil.Must(t, client.Close())
	})
}

func TestStartClientContext(t *testing.T) {
	t.Parallel()
	for name, dial := range map[string]func(context.Context) (net.Conn, error){
		"failing":  func(context.Context) (net.Conn, error) { return nil, errDial },
		"blocking": func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() },
		"silent":   func(context.Context) (net.Conn, error) { here, _ := net.Pipe(); return here, nil },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
				defer cancel()
				start := time.Now()
				client, err := gipc.StartClientContext(ctx, &gipc.ClientConfig{Name: "test", Dial: dial})
				if client != nil || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%v, %v", client, err)
				}
				if d := time.Since(start); d != 7*time.Second {
					t.Errorf("after %v", d)
				}
				cancel()
				start = time.Now()
				client, err = gipc.StartClientContext(ctx, &gipc.ClientConfig{Name: "test", Dial: dial})
				if client != nil || err == nil {
					t.Errorf("%v, %v", client, err)
				}
				if d := time.Since(start); d != 0 {
					t.Errorf("after %v", d)
				}
			})
		})
	}
	t.Run("governs connecting alone", func(t *testing.T) {
		sc, cc := configs(t, "unix")
		cc.RetryTimer = time.Millisecond
		server := startServer(t, sc)
		ctx, cancel := context.WithCancel(t.Context())
		client, err := gipc.StartClientContext(ctx, cc)
		testutil.Must(t, err)
		t.Cleanup(func() { cut(client) })
		cancel()
		testutil.Must(t, client.Write(1, nil))
		wantUser(t, server, 1, "")
		testutil.Must(t, server.Close())
		server = startServer(t, sc)
		testutil.Must(t, server.WaitConnected(patience(t)))
		testutil.Must(t, server.Write(2, nil))
		wantUser(t, client, 2, "")
	})
}

// What cannot succeed ends at once, whatever Timeout says.
func TestClientFatalErrors(t *testing.T) {
	t.Parallel()
	other := bytes.Repeat([]byte("fedcba9876543210"), 2)
	for name, c := range map[string]struct {
		edit func(*gipc.ServerConfig, *gipc.ClientConfig)
		want error
	}{
		"encryption": {func(s *gipc.ServerConfig, c *gipc.ClientConfig) { s.Encryption = gipc.EncryptionOff }, gipc.ErrEncryption},
		"encryption with secret": {func(s *gipc.ServerConfig, c *gipc.ClientConfig) {
			s.Encryption, c.Secret = gipc.EncryptionOff, secret
		}, gipc.ErrEncryption},
		"wrong secret":      {func(s *gipc.ServerConfig, c *gipc.ClientConfig) { s.Secret, c.Secret = secret, other }, gipc.ErrSecret},
		"missing secret":    {func(s *gipc.ServerConfig, c *gipc.ClientConfig) { s.Secret = secret }, gipc.ErrSecret},
		"unwanted secret":   {func(s *gipc.ServerConfig, c *gipc.ClientConfig) { c.Secret = secret }, gipc.ErrSecret},
		"name":              {func(s *gipc.ServerConfig, c *gipc.ClientConfig) { c.Name = "other" }, gipc.ErrSecret},
		"name, with secret": {func(s *gipc.ServerConfig, c *gipc.ClientConfig) { c.Name, s.Secret, c.Secret = "other", secret, secret }, gipc.ErrSecret},
		"authorize": {func(s *gipc.ServerConfig, c *gipc.ClientConfig) {
			s.Authorize = func(gipc.Peer) error { return errors.New("not you") }
		}, gipc.ErrRefused},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				sc, cc := configs(t, "pipe")
				cc.Timeout = time.Hour
				c.edit(sc, cc)
				startServer(t, sc)
				start := time.Now()
				client, err := gipc.StartClient(cc)
				if client != nil || !errors.Is(err, c.want) || errors.Is(err, gipc.ErrTimeout) || !strings.HasPrefix(err.Error(), "gipc: ") {
					t.Errorf("%v, %v; want %v", client, err, c.want)
				}
				if strings.Count(err.Error(), "gipc: ") != 1 {
					t.Errorf("text %q", err)
				}
				if d := time.Since(start); d != 0 {
					t.Errorf("after %v", d)
				}
			})
		})
	}
	for name, first := range map[string]byte{"version 4": 4, "version 2": 2, "version 255": 255, "HTTP": 'H'} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				p := &pipes{}
				l := p.listen()
				reply := make(chan byte, 1)
				go func() {
					c, err := l.Accept()
					if err != nil {
						return
					}
					c.Write([]byte{first})
					b := make([]byte, 1)
					io.ReadFull(c, b)
					reply <- b[0]
					c.Close()
				}()
				client, err := gipc.StartClient(&gipc.ClientConfig{Name: "test", Timeout: time.Hour, Dial: p.dial})
				if client != nil || !errors.Is(err, gipc.ErrVersion) {
					t.Errorf("%v, %v", client, err)
				}
				if r := await(t, reply); r != 1 {
					t.Errorf("the client replied %d", r)
				}
			})
		})
	}
}

// A busy server is always retried.
func TestClientOfABusyServer(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		sc, cc := configs(t, "pipe")
		server, first := startServer(t, sc), startClient(t, cc)
		testutil.Must(t, server.WaitConnected(t.Context()))
		cc.Timeout = time.Minute
		start := time.Now()
		client, err := gipc.StartClient(cc)
		if client != nil || !errors.Is(err, gipc.ErrTimeout) || !errors.Is(err, gipc.ErrRefused) {
			t.Errorf("%v, %v; want ErrTimeout because of ErrRefused", client, err)
		}
		if d := time.Since(start); d != time.Minute {
			t.Errorf("after %v", d)
		}
		if n := server.Stats().Refused; n < 60 || n > 200 {
			t.Errorf("refused %d times", n)
		}
		cc.Timeout = 0
		started := make(chan *gipc.Client, 1)
		go func() {
			client, err := gipc.StartClient(cc)
			if err != nil {
				t.Error(err)
			}
			started <- client
		}()
		pass(time.Hour)
		if len(started) != 0 {
			t.Fatal("two clients at a time")
		}
		testutil.Must(t, first.Write(1, []byte("still here")))
		testutil.Must(t, first.Close())
		second := <-started
		testutil.Must(t, second.Write(2, nil))
		wantUser(t, server, 1, "still here")
		wantUser(t, server, 2, "")
		testutil.Must(t, second.Close())
	})
}

// Once connected, a client goes on within Timeout where it would have ended at
// once before, and names the last reason at the end.
func TestClientFatalErrorsAfterALoss(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		p := &pipes{}
		server := startServer(t, &gipc.ServerConfig{Name: "test", Listener: p.listen()})
		client := startClient(t, &gipc.ClientConfig{Name: "test", Timeout: time.Minute, Dial: p.dial})
		testutil.Must(t, server.Close())
		wrong := startServer(t, &gipc.ServerConfig{Name: "test", Secret: secret, Listener: p.listen()})
		pass(50 * time.Second)
		wantStatus(t, client, gipc.ReConnecting)
		testutil.Must(t, wrong.Close())
		server = startServer(t, &gipc.ServerConfig{Name: "test", Listener: p.listen()})
		testutil.Must(t, server.WaitConnected(t.Context()))
		testutil.Must(t, client.WaitConnected(t.Context()))

		testutil.Must(t, server.Close())
		lost := time.Now()
		pass(10 * time.Second) // nobody is there, and then the wrong one is
		wrong = startServer(t, &gipc.ServerConfig{Name: "test", Encryption: gipc.EncryptionOff, Listener: p.listen()})
		<-client.Done()
		if d := time.Since(lost); d != time.Minute {
			t.Errorf("after %v", d)
		}
		wantErr(t, client.Err(), gipc.ErrTimeout)
		wantErr(t, client.Err(), gipc.ErrEncryption)
		if n := wrong.Stats().Refused; n < 60 {
			t.Errorf("refused %d times", n)
		}
	})
}

// A client redials after any loss and after either side's close.
func TestClientComesBack(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*rawPeer){
		"close":     func(p *rawPeer) { p.send(closeFrame, ackFrame); p.Close() },
		"cut":       func(p *rawPeer) { p.Close() },
		"malformed": func(p *rawPeer) { p.send([]byte{0, 0, 0, 1, 0}); p.Close() },
		"type":      func(p *rawPeer) { p.send(frame(1<<31, nil)); p.Close() },
		"half":      func(p *rawPeer) { p.send([]byte{0, 0}); p.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			raw := listenRaw(t)
			client, peer := raw.connect(&gipc.ClientConfig{RetryTimer: time.Millisecond})
			wantInternal(t, client, gipc.Connecting)
			for i := range 5 {
				wantInternal(t, client, gipc.Connected)
				peer.send(frame(uint32(i+1), nil))
				wantUser(t, client, i+1, "")
				lose(peer)
				wantInternal(t, client, gipc.ReConnecting)
				peer = raw.accept()
			}
			if s := client.Stats(); s.Reconnects != 5 && s.Reconnects != 4 { // the last may be under way
				t.Errorf("%+v", s)
			}
		})
	}
}

// The error names the whole address and the system's reason.
func TestClientErrorNamesTheAddress(t *testing.T) {
	t.Parallel()
	path := testutil.TempSocket(t)
	_, err := gipc.StartClient(&gipc.ClientConfig{Name: "test", Network: "unix", Address: path, Timeout: time.Second / 2})
	if !errors.Is(err, gipc.ErrTimeout) || !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("unix: %v", err)
	}
	if runtime.GOOS == "windows" {
		return
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	testutil.Must(t, err)
	address := ln.Addr().String()
	ln.Close()
	_, err = gipc.StartClient(&gipc.ClientConfig{Name: "test", Network: "tcp", Address: address, Timeout: time.Second / 2})
	if !errors.Is(err, gipc.ErrTimeout) || !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), address) {
		t.Errorf("tcp: %v", err)
	}
}

// A server that is restarted 100 times: the client is back each time, and no
// goroutine or descriptor is left. It runs alone, since it counts what belongs
// to the whole process.
func TestClientOutlivesServers(t *testing.T) {
	for _, link := range []string{"unix", "unix plain"} {
		t.Run(link, func(t *testing.T) {
			sc, cc := configs(t, link)
			cc.RetryTimer = time.Millisecond
			server, err := gipc.StartServer(sc)
			testutil.Must(t, err)
			client, err := gipc.StartClient(cc)
			testutil.Must(t, err)
			got := inbox(client)
			testutil.Must(t, server.WaitConnected(patience(t)))
			testutil.Must(t, server.Write(1, nil))
			nextOf(t, got)
			before, files := runtime.NumGoroutine(), descriptors(t)
			n := testutil.Count(100, 20)
			for i := range n {
				if i%3 == 0 {
					cut(server)
				} else if err := server.Close(); err != nil {
					t.Fatalf("round %d: %v", i, err)
				}
				server, err = gipc.StartServer(sc)
				testutil.Must(t, err)
				testutil.Must(t, server.WaitConnected(patience(t)))
				testutil.Must(t, server.Write(i+1, nil))
				if m := nextOf(t, got); m.MsgType != i+1 {
					t.Fatalf("type %d where %d was due", m.MsgType, i+1)
				}
				testutil.Must(t, client.Write(i+2, nil))
				wantUser(t, server, i+2, "")
			}
			eventually(t, "the end of the last goroutine", func() bool { return runtime.NumGoroutine() <= before })
			eventually(t, "the end of the last descriptor", func() bool { return descriptors(t) <= files })
			if s := client.Stats(); s.Reconnects != uint64(n) || client.ID() != uint64(n+1) {
				t.Errorf("ID %d, %+v", client.ID(), s)
			}
			testutil.Must(t, server.Close())
			testutil.Must(t, client.Close())
		})
	}
}

// What Dial and Listener give is closed by the ends that were given it.
func TestDialAndListenerFromOutside(t *testing.T) {
	t.Parallel()
	sc, cc := configs(t, "pipe")
	l, dial := sc.Listener.(*pipeListener), cc.Dial
	var conns []*closing
	cc.Dial = func(ctx context.Context) (net.Conn, error) {
		c, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		conns = append(conns, &closing{Conn: c})
		return conns[len(conns)-1], nil
	}
	server, client := startServer(t, sc), startClient(t, cc)
	together(t,
		func() error { return send(client, 100, 1000) },
		func() error { return receive(server, 100, 1000) })
	testutil.Must(t, client.Close())
	testutil.Must(t, server.Close())
	if len(conns) != 1 || !conns[0].closed.Load() {
		t.Errorf("%d connections, or one not closed", len(conns))
	}
	select {
	case <-l.done:
	default:
		t.Error("the listener is not closed")
	}
	t.Run("a socket file stays", func(t *testing.T) {
		sc, cc := configs(t, "unix")
		ln, err := net.Listen("unix", sc.Address)
		testutil.Must(t, err)
		ln.(*net.UnixListener).SetUnlinkOnClose(false)
		sc.Listener = ln
		server, client := startServer(t, sc), startClient(t, cc)
		testutil.Must(t, client.Write(1, nil))
		wantUser(t, server, 1, "")
		testutil.Must(t, server.Close())
		if _, err := os.Lstat(sc.Address); err != nil {
			t.Error(err)
		}
	})
}

type closing struct {
	net.Conn
	closed atomic.Bool
}

func (c *closing) Close() error {
	c.closed.Store(true)
	return c.Conn.Close()
}

// Two clients at once for a server that takes one: one gets in, the other waits for its turn.
func TestClientsTakeTurns(t *testing.T) {
	t.Parallel()
	sc, cc := configs(t, "unix")
	cc.RetryTimer = time.Millisecond
	server := startServer(t, sc)
	const n = 6
	var fs []func() error
	for i := range n {
		fs = append(fs, func() error {
			client, err := gipc.StartClient(cc)
			if err != nil {
				return err
			}
			if err := client.Write(i+1, nil); err != nil {
				return fmt.Errorf("client %d: %w", i, err)
			}
			return client.Close()
		})
	}
	together(t, fs...)
	var seen []int
	for len(seen) < n {
		seen = append(seen, next(t, server).MsgType)
	}
	slices.Sort(seen)
	testutil.Equal(t, "got types", seen, []int{1, 2, 3, 4, 5, 6})
}

// Heartbeats keep an idle connection, on both sides or on one.
func TestHeartbeatKeepsIdle(t *testing.T) {
	t.Parallel()
	for _, beats := range [][2]time.Duration{{time.Second, time.Second}, {time.Second, -1}, {-1, 10 * time.Second}, {-1, -1}, {time.Hour, time.Second}} {
		t.Run(fmt.Sprint(beats), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				sc, cc := configs(t, "pipe")
				sc.Heartbeat, cc.Heartbeat = beats[0], beats[1]
				server, client := startServer(t, sc), startClient(t, cc)
				wantInternal(t, server, gipc.Connected)
				if m, err := server.ReadTimed(time.Minute); m != gipc.TimeoutMessage || err != nil {
					t.Fatalf("%+v, %v", m, err)
				}
				pass(time.Hour) // nobody reads on either side
				wantStatus(t, client, gipc.Connected)
				wantStatus(t, server, gipc.Connected)
				testutil.Must(t, client.Write(1, nil))
				wantUser(t, server, 1, "")
				if s := server.Stats(); s.Received != 1 || s.Reconnects != 0 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// A peer is lost when nothing came from it for two intervals; any frame counts,
// and a ping comes after one.
func TestHeartbeatFindsTheLoss(t *testing.T) {
	t.Parallel()
	for _, reading := range []bool{true, false} {
		t.Run(fmt.Sprintf("reading=%t", reading), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				raw := listenRaw(t)
				client, peer := raw.connect(&gipc.ClientConfig{Heartbeat: 10 * time.Second, RetryTimer: time.Hour})
				var pings []time.Duration
				start := time.Now()
				over := make(chan bool)
				go func() {
					defer close(over)
					for {
						f, err := peer.frame()
						if err != nil {
							return
						}
						if f.msgType == 0 && len(f.data) == 9 && f.data[0] == 1 {
							pings = append(pings, time.Since(start))
						}
					}
				}()
				raw.ln.Close()
				if reading {
					go func() {
						for m, err := range client.Messages(context.Background()) {
							if err == nil && m.MsgType != 1 && m.MsgType != 2 {
								t.Errorf("%+v", m)
							}
						}
					}()
				}
				pass(8 * time.Second)
				peer.send(frame(1, nil))
				pass(15 * time.Second)
				peer.send(frame(0, append([]byte{2}, make([]byte, 8)...))) // an unasked pong is a frame too
				pass(19 * time.Second)
				wantStatus(t, client, gipc.Connected)
				pass(1500 * time.Millisecond)
				wantStatus(t, client, gipc.ReConnecting)
				if !reading {
					for _, want := range []gipc.Status{gipc.Connecting, gipc.Connected} {
						wantInternal(t, client, want)
					}
					wantUser(t, client, 1, "")
					if m := wantInternal(t, client, gipc.ReConnecting); !errors.Is(m.Err, gipc.ErrTimeout) {
						t.Errorf("lost with %v", m.Err)
					}
				}
				await(t, over)
				if len(pings) < 2 || len(pings) > 5 || pings[0] > 20*time.Second {
					t.Errorf("pings at %v", pings)
				}
				testutil.Must(t, client.Close())
			})
		})
	}
}

// Pings are answered always, with their own bytes, whether or not anybody reads.
func TestHeartbeatIsAnswered(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		raw := listenRaw(t)
		client, peer := raw.connect(&gipc.ClientConfig{})
		for i := range byte(10) {
			ping := []byte{1, i, 2, 3, 4, 5, 6, 7, 8}
			peer.send(frame(0, ping))
			n, data := peer.next()
			if n != 0 || len(data) != 9 || data[0] != 2 || !bytes.Equal(data[1:], ping[1:]) {
				t.Fatalf("ping %x, got type %d %x", ping, n, data)
			}
			if i == 5 {
				for _, want := range []gipc.Status{gipc.Connecting, gipc.Connected} {
					wantInternal(t, client, want)
				}
			}
			pass(time.Duration(i) * 300 * time.Millisecond)
		}
		if s := client.Stats(); s.Received != 0 || s.Sent != 0 {
			t.Errorf("%+v: pings are no messages", s)
		}
	})
}

// A side whose queue is full judges nobody, and shows every second that it lives.
func TestHeartbeatOfAFullQueue(t *testing.T) {
	t.Parallel()
	for _, beat := range []time.Duration{-1, 5 * time.Second} {
		t.Run(beat.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				raw := listenRaw(t)
				client, peer := raw.connect(&gipc.ClientConfig{Heartbeat: beat})
				var pings atomic.Int64
				go func() {
					for {
						f, err := peer.frame()
						if err != nil {
							return
						}
						if f.msgType == 0 && len(f.data) == 9 && f.data[0] == 1 {
							pings.Add(1)
						}
					}
				}()
				const n = 200
				written := make(chan bool)
				go func() {
					for i := range n {
						peer.send(frame(uint32(i+1), make([]byte, 1000)))
					}
					close(written)
				}()
				pass(time.Minute)
				select {
				case <-written:
					t.Fatal("200 KB were taken and nobody read")
				default:
				}
				wantStatus(t, client, gipc.Connected)
				if p := pings.Load(); p < 55 || p > 65 {
					t.Errorf("%d pings in a minute", p)
				}
				for i := range n {
					wantUser(t, client, i+1, string(make([]byte, 1000)))
				}
				<-written
			})
		})
	}
}

// A context that ends in the middle of a handshake is no timeout of ours.
func TestCancelledHandshakeIsNoTimeout(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var peer net.Conn
		_, err := gipc.StartClientContext(ctx, &gipc.ClientConfig{Name: "n", Dial: func(context.Context) (net.Conn, error) {
			var near net.Conn
			near, peer = net.Pipe()
			time.AfterFunc(time.Second, cancel)
			return near, nil
		}})
		defer peer.Close()
		if !errors.Is(err, context.Canceled) || errors.Is(err, gipc.ErrTimeout) || !strings.Contains(err.Error(), "sent nothing") {
			t.Errorf("got %v", err)
		}
	})
}

// A Dial that has one connection to give ends the client, and the error still says
// what became of that connection.
func TestLastDialErrorHasTheCauseBefore(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		dialed := false
		_, err := gipc.StartClient(&gipc.ClientConfig{Name: "n", Dial: func(context.Context) (net.Conn, error) {
			if dialed {
				return nil, net.ErrClosed
			}
			dialed = true
			near, far := net.Pipe()
			go func() {
				far.Write([]byte{0, 7}) // busy
				far.Close()
			}()
			return near, nil
		}})
		wantErr(t, err, net.ErrClosed)
		wantErr(t, err, gipc.ErrRefused)
	})
}

// A client whose Dial has no further connection is finished, and says so as any other
// endpoint does.
func TestClientEndsAfterTheLastConnectionOfDial(t *testing.T) {
	t.Parallel()
	sc, cc := configs(t, "pipe")
	dial, dialed := cc.Dial, false
	cc.Dial = func(ctx context.Context) (net.Conn, error) {
		if dialed {
			return nil, net.ErrClosed
		}
		dialed = true
		return dial(ctx)
	}
	server, client := startServer(t, sc), startClient(t, cc)
	cut(server)
	await(t, client.Done())
	wantErr(t, client.Err(), gipc.ErrClosed)
	wantErr(t, client.Err(), net.ErrClosed)
	for message, err := range client.Messages(patience(t)) {
		t.Errorf("got %+v, %v from a client that is finished", message, err)
	}
}
