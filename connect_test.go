// Tests of one attempt to connect, and of connections that are none to a server.

package gipc

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// packetListener listens on a network that keeps message boundaries.
func packetListener(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("unixpacket", tempSocket(t))
	if err != nil {
		t.Skip("this system has no unixpacket: ", err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestDialOfPackets(t *testing.T) {
	t.Parallel()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	packets := packetListener(t)
	for network, address := range map[string]string{"unixpacket": packets.Addr().String(), "udp": udp.LocalAddr().String()} {
		var dialed net.Conn
		client, err := StartClient(&ClientConfig{Name: "n", Timeout: time.Minute, Dial: func(ctx context.Context) (net.Conn, error) {
			dialed, err = new(net.Dialer).DialContext(ctx, network, address)
			return dialed, err
		}})
		if client != nil || !errors.Is(err, ErrConfig) || errors.Is(err, ErrTimeout) {
			t.Fatalf("%s: %v, %v", network, client, err)
		}
		for _, part := range []string{network, "message boundaries", "a stream is needed", errorPrefix} {
			if strings.Count(err.Error(), part) != 1 {
				t.Errorf("%q is not once in: %v", part, err)
			}
		}
		if _, err := dialed.Write(nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: the connection was left open: %v", network, err)
		}
	}
}

func TestListenerOfPackets(t *testing.T) {
	t.Parallel()
	s, err := StartServer(&ServerConfig{Name: "n", Listener: packetListener(t)})
	if s != nil || !errors.Is(err, ErrConfig) {
		t.Fatalf("%v, %v", s, err)
	}
	for _, part := range []string{"unixpacket", "message boundaries", "a stream is needed"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in: %v", part, err)
		}
	}
}

// disguised is a listener that does not say what its connections are.
type disguised struct{ net.Listener }

func (disguised) Addr() net.Addr { return &net.UnixAddr{Name: "here", Net: "unix"} }

// logLines collects what is logged.
type logLines struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *logLines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(b)
}

func (l *logLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

func TestListenerOfDisguisedPackets(t *testing.T) {
	t.Parallel()
	l := packetListener(t)
	log := new(logLines)
	s, err := StartServer(&ServerConfig{Name: "n", Listener: disguised{l}, Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c, err := net.Dial("unixpacket", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	eventually(t, "the refusal", func() bool { return s.Stats().Refused == 1 })
	eventually(t, "the log says why", func() bool { return strings.Contains(log.String(), "message boundaries") })
}

// selfConnected returns a TCP connection whose two ends are one.
func selfConnected(ctx context.Context) (net.Conn, error) {
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		address := l.Addr().(*net.TCPAddr)
		l.Close()
		c, err := (&net.Dialer{LocalAddr: address}).DialContext(ctx, "tcp", address.String())
		if err == nil || ctx.Err() != nil {
			return c, err
		}
	}
}

func TestTCPConnectedToItself(t *testing.T) {
	t.Parallel()
	var made []net.Conn
	server := startServerOnTCP(t)
	client, err := StartClient(&ClientConfig{Name: "n", RetryTimer: time.Millisecond, Timeout: time.Minute, Dial: func(ctx context.Context) (net.Conn, error) {
		if len(made) == 3 {
			return new(net.Dialer).DialContext(ctx, "tcp", server)
		}
		c, err := selfConnected(ctx)
		if err == nil {
			made = append(made, c)
		}
		return c, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	client.Close()
	for _, c := range made {
		if _, err := c.Write(nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the connection was left open: %v", err)
		}
	}
	_, err = clientSettings(t, &ClientConfig{Dial: selfConnected}).connect(t.Context())
	if err == nil || hopeless(err) || !strings.Contains(err.Error(), "connected to itself") {
		t.Errorf("%v", err)
	}
}

// startServerOnTCP returns the address of a server.
func startServerOnTCP(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := StartServer(&ServerConfig{Name: "n", Listener: l})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return l.Addr().String()
}

// One attempt to connect has an end of its own.
func TestConnectIsLimited(t *testing.T) {
	t.Parallel()
	before := time.Now()
	_, err := clientSettings(t, &ClientConfig{Dial: func(ctx context.Context) (net.Conn, error) {
		if end, ok := ctx.Deadline(); !ok || end.Before(before.Add(9*time.Second)) || end.After(time.Now().Add(10*time.Second)) {
			t.Errorf("the deadline is %v, %t", end, ok)
		}
		return nil, errors.New("not today")
	}}).connect(t.Context())
	if err == nil {
		t.Error("no error")
	}
}
