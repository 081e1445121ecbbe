// Peers that mean harm or know no better, on the socket and on the path: the
// library goes on serving, says what happened, and delivers nothing that was not sent.

package endpoint_test

import (
	"bytes"
	"context"
	"crypto/mlkem"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
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

// goodClient checks that the server serves: a client connects, is answered, and leaves.
func goodClient(t testing.TB, server *gipc.Server, cc *gipc.ClientConfig) {
	t.Helper()
	client := startClient(t, cc)
	expect := func(e end, msgType int) func() error {
		return func() error {
			m, err := nextUser(e)
			if err == nil && m.MsgType != msgType {
				err = fmt.Errorf("type %d, want %d", m.MsgType, msgType)
			}
			return err
		}
	}
	together(t, func() error { return client.Write(77, []byte("good")) }, expect(server, 77))
	together(t, func() error { return server.Write(78, []byte("answer")) }, expect(client, 78))
	closed := make(chan error, 1)
	go func() { closed <- client.Close() }()
	for {
		m := read(t, server)
		if m.Status == "Disconnected" {
			if m.Err != nil {
				t.Errorf("a good client was lost with %v", m.Err)
			}
			break
		}
	}
	testutil.Must(t, await(t, closed))
}

// What arrives instead of a ClientHello, from peers that stay until the server ends them.
func TestHostileHandshakes(t *testing.T) {
	t.Parallel()
	hello := func(flags byte, point []byte) []byte {
		return slices.Concat([]byte{0, flags, 0, 0x10, 0, 0}, point)
	}
	generator := append([]byte{4}, bytes.Repeat([]byte{0xAB}, 96)...)
	for name, c := range map[string]struct {
		send  []byte
		reply int // the reason in ServerFinish; -1: none, the server waits or hangs up
	}{
		"nothing":             {nil, -1},
		"97 zero bytes":       {make([]byte, 97), 9}, // the flags differ, so it is judged before it is complete
		"zero point":          {hello(1, make([]byte, 97)), 9},
		"point off the curve": {hello(1, generator), 9},
		"compressed point":    {hello(1, append([]byte{2}, bytes.Repeat([]byte{1}, 96)...)), 9},
		"hybrid point":        {hello(1, append([]byte{6}, bytes.Repeat([]byte{1}, 96)...)), 9},
		"infinity":            {hello(1, append([]byte{0}, bytes.Repeat([]byte{0}, 96)...)), 9},
		"coordinates of ones": {hello(1, append([]byte{4}, bytes.Repeat([]byte{0xFF}, 96)...)), 9},
		"wrong flags":         {hello(0, make([]byte, 97)), 9},
		"unknown flags":       {hello(0x81, make([]byte, 97)), 9},
		"limit too small":     {slices.Concat([]byte{0, 1, 0, 0, 3, 255}, make([]byte, 97)), 9},
		"limit too large":     {slices.Concat([]byte{0, 1, 0x40, 0, 0, 1}, make([]byte, 97)), 9},
		"refusal":             {[]byte{2}, -1},
		"refusal and more":    {append([]byte{200}, make([]byte, 1000)...), -1},
		"garbage":             {bytes.Repeat([]byte{0xA5, 0x5A, 0xFF}, 10_000), -1},
		"HTTP":                {[]byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"), -1},
		"TLS":                 {append([]byte{22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3}, make([]byte, 500)...), -1},
		"half a hello":        {hello(1, generator)[:50], -1},
	} {
		t.Run(name, func(t *testing.T) {
			sc, cc := configs(t, "unix")
			cc.RetryTimer = 10 * time.Millisecond
			server := startServer(t, sc)
			p := dialBytes(t, sc)
			p.Write(c.send) // may fail: it may have been refused already
			got := make([]byte, fullHello)
			if _, err := io.ReadFull(p, got); err != nil || got[0] != 3 || got[1] != 5 {
				t.Fatalf("ServerHello %x, %v", got, err)
			}
			goodClient(t, server, cc) // while p is still there
			if c.reply >= 0 {
				rest, err := io.ReadAll(p)
				if err != nil && !errors.Is(err, syscall.ECONNRESET) || len(rest) != 1 || int(rest[0]) != c.reply {
					t.Errorf("ServerFinish %x, %v; want %d", rest, err, c.reply)
				}
			}
			p.Close()
			goodClient(t, server, cc)
			for range 20 { // those who hang up at once
				dialBytes(t, sc).Close()
			}
			goodClient(t, server, cc)
		})
	}
}

// 97 zero bytes for the key, and everything else that is wrong with a plaintext hello.
func TestHostilePlaintextHandshakes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		send  []byte
		reply int
	}{
		"flags":     {[]byte{0, 1, 0, 0x10, 0, 0}, 9},
		"limit":     {[]byte{0, 0, 0, 0, 0, 0}, 9},
		"max limit": {[]byte{0, 0, 255, 255, 255, 255}, 9},
		"refusal":   {[]byte{1}, -1},
		"refusal 2": {[]byte{2, 0, 0, 0x10, 0, 0}, -1},
	} {
		t.Run(name, func(t *testing.T) {
			sc, cc := configs(t, "unix plain")
			server := startServer(t, sc)
			p := dialBytes(t, sc)
			p.send(c.send)
			all, err := io.ReadAll(p)
			want := []byte{3, 0, 0, 0x30, 0, 0}
			if c.reply >= 0 {
				want = append(want, byte(c.reply))
			}
			if err != nil && !errors.Is(err, syscall.ECONNRESET) || !bytes.Equal(all, want) {
				t.Errorf("got %x, %v; want %x", all, err, want)
			}
			goodClient(t, server, cc)
		})
	}
}

// Frames that no peer may send, after a handshake as it should be.
func TestHostileFrames(t *testing.T) {
	t.Parallel()
	length := func(n uint32, rest ...byte) []byte { return append(binary.BigEndian.AppendUint32(nil, n), rest...) }
	for name, c := range map[string]struct {
		send []byte
		want error
	}{
		"length 0":               {length(0, 0, 0, 0, 1), gipc.ErrMalformed},
		"length 1":               {length(1, 1), gipc.ErrMalformed},
		"length 2":               {length(2, 0, 1), gipc.ErrMalformed},
		"length 3":               {length(3, 0, 0, 1), gipc.ErrMalformed},
		"length 0xFFFFFFFF":      {length(0xFFFFFFFF, 0, 0, 0, 1), gipc.ErrMalformed},
		"length 0x80000000":      {length(0x80000000, 0, 0, 0, 1), gipc.ErrMalformed},
		"one above the limit":    {length(4+2000+1, 0, 0, 0, 1), gipc.ErrMalformed},
		"type 2^31":              {frame(1<<31, nil), gipc.ErrMalformed},
		"type 2^32-1":            {frame(1<<32-1, []byte("x")), gipc.ErrMalformed},
		"control without a kind": {frame(0, nil), gipc.ErrMalformed},
		"short ping":             {frame(0, []byte{1, 2}), gipc.ErrMalformed},
		"long pong":              {frame(0, append([]byte{2}, make([]byte, 9)...)), gipc.ErrMalformed},
		"bare close":             {frame(0, []byte{3}), gipc.ErrMalformed},
		"unasked answer":         {ackFrame, gipc.ErrMalformed},
		"kind 16":                {frame(0, []byte{16}), gipc.ErrMalformed},
		"kind 255":               {frame(0, []byte{255, 1, 2, 3}), gipc.ErrMalformed},
		"HTTP":                   {[]byte("GET / HTTP/1.1\r\n\r\n"), gipc.ErrMalformed},
		"half a length":          {[]byte{0, 0}, gipc.ErrTruncated},
		"half a frame":           {frame(1, make([]byte, 1000))[:500], gipc.ErrTruncated},
		"nothing":                {nil, gipc.ErrTruncated},
	} {
		t.Run(name, func(t *testing.T) {
			sc, cc := configs(t, "unix plain")
			sc.MaxMsgSize, cc.RetryTimer = 2000, 10*time.Millisecond
			server := startServer(t, sc)
			p := dialRaw(t, sc)
			p.send(frame(5, make([]byte, 2000)),
				frame(0, []byte{15, 1, 2}), frame(0, []byte{0}), // unknown kinds below 16 are ignored
				frame(0, append([]byte{2}, make([]byte, 8)...)), // a pong that nobody asked for, too
				c.send)
			if c.want == gipc.ErrTruncated {
				p.Close()
			} else {
				p.send(frame(6, []byte("never delivered")))
			}
			wantInternal(t, server, gipc.Connected)
			wantUser(t, server, 5, string(make([]byte, 2000)))
			if m := wantInternal(t, server, gipc.Disconnected); !errors.Is(m.Err, c.want) {
				t.Errorf("lost with %v, want %v", m.Err, c.want)
			}
			if c.want == gipc.ErrMalformed {
				if rest, err := io.ReadAll(p); err == nil && bytes.Contains(rest, closeFrame) {
					t.Error("a close after malformed input")
				}
				p.Close()
			}
			goodClient(t, server, cc)
		})
	}
}

// A well-meaning peer that sends a byte at a time is served like any other.
func TestHostileByteAtATime(t *testing.T) {
	t.Parallel()
	sc, cc := configs(t, "unix plain")
	server := startServer(t, sc)
	p := dialBytes(t, sc)
	for _, b := range slices.Concat([]byte{0, 0, 0x40, 0, 0, 0}, frame(1, []byte("first")), frame(2, testutil.Payload(1, 300)), closeFrame) {
		p.send([]byte{b})
	}
	wantInternal(t, server, gipc.Connected)
	wantUser(t, server, 1, "first")
	wantUser(t, server, 2, string(testutil.Payload(1, 300)))
	if m := wantInternal(t, server, gipc.Disconnected); m.Err != nil {
		t.Errorf("lost with %v", m.Err)
	}
	all, err := io.ReadAll(p)
	want := slices.Concat([]byte{3, 0, 0, 0x30, 0, 0, 0}, closeFrame, ackFrame)
	if err != nil || !bytes.Equal(all, want) {
		t.Errorf("got %x, %v; want %x", all, err, want)
	}
	goodClient(t, server, cc)
}

// What a peer announces costs nothing until it arrives. It runs alone, since it
// counts the memory of the whole process.
func TestHostileLengthCostsNothing(t *testing.T) {
	allocated := func() uint64 {
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return s.TotalAlloc
	}
	for _, how := range []string{"nobody reads", "Read", "ReadInto"} {
		t.Run(how, func(t *testing.T) {
			sc, _ := configs(t, "unix plain")
			sc.MaxMsgSize = 1 << 30
			server := startServer(t, sc)
			for i := range 3 {
				p := dialRaw(t, sc)
				testutil.Must(t, server.WaitConnected(patience(t)))
				ctx, cancel := context.WithCancel(t.Context())
				read := make(chan error, 1)
				switch how {
				case "Read":
					go func() {
						for m, err := range server.Messages(ctx) {
							if err == nil {
								err = fmt.Errorf("a message: %d bytes", len(m.Data))
							}
							read <- err
						}
					}()
				case "ReadInto":
					go func() {
						for {
							if err := server.ReadInto(ctx, new(gipc.Message)); err != nil {
								read <- err
								return
							}
						}
					}()
				}
				before := allocated()
				// More than the kernel holds: when all of it is written, the server has seen the length.
				p.send(binary.BigEndian.AppendUint32(nil, 1<<30), make([]byte, 1<<20))
				if n := allocated() - before; n > 16<<20 {
					t.Errorf("round %d: 1 MiB of an announced GiB cost %d bytes", i, n)
				}
				cancel()
				if how != "nobody reads" {
					wantErr(t, await(t, read), context.Canceled)
				}
				p.Close()
				eventually(t, "the loss", func() bool { return server.StatusCode() == gipc.Disconnected })
			}
		})
	}
}

// Peers that say nothing have 10 s, and delay nobody meanwhile.
func TestHostileSilence(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		sc, cc := configs(t, "pipe")
		server := startServer(t, sc)
		start := time.Now()
		ends := make(chan time.Duration, 3)
		for i, n := range []int{0, 50, fullHello} { // bytes that it reads before it falls silent
			c, err := cc.Dial(t.Context())
			testutil.Must(t, err)
			defer c.Close()
			go func() {
				io.ReadFull(c, make([]byte, n))
				if i == 2 {
					c.Write([]byte{0, 1, 0})
				}
				pass(9 * time.Second)
				io.ReadAll(c)
				ends <- time.Since(start)
			}()
		}
		goodClient(t, server, cc)
		goodClient(t, server, cc)
		if d := time.Since(start); d != 0 {
			t.Errorf("a good client took %v", d)
		}
		for range 3 {
			// It writes what it owes, and at most a second later it has closed.
			if d := await(t, ends); d < 9*time.Second || d > 11*time.Second {
				t.Errorf("ended after %v", d)
			}
		}
		goodClient(t, server, cc)
	})
}

// Two thousand silent peers keep no honest client out: see also
// TestSilentHandshakeIsReplaced.
func TestHostileCrowd(t *testing.T) {
	t.Parallel()
	sc, cc := configs(t, "unix plain")
	server := startServer(t, sc)
	crowd := make([]*rawPeer, 2000)
	for i := range crowd {
		c, err := net.Dial("unix", sc.Address)
		if errors.Is(err, syscall.EMFILE) {
			t.Skip("not enough descriptors")
		}
		testutil.Must(t, err)
		crowd[i] = newRaw(t, c)
		if _, err := io.ReadFull(crowd[i], make([]byte, 6)); err != nil {
			t.Fatalf("peer %d: %v", i, err)
		}
	}
	goodClient(t, server, cc)
	last := crowd[len(crowd)-1]
	last.send([]byte{0, 0, 0x40, 0, 0, 0})
	finish := make([]byte, 1)
	if _, err := io.ReadFull(last, finish); err != nil || finish[0] != 0 {
		t.Errorf("the youngest: %x, %v", finish, err)
	}
}

// A talking client does not notice what others try.
func TestHostileBesideAGoodClient(t *testing.T) {
	t.Parallel()
	for _, link := range []string{"unix", "unix plain"} {
		t.Run(link, func(t *testing.T) {
			sc, cc := configs(t, link)
			server, client := startServer(t, sc), startClient(t, cc)
			n := testutil.Count(3000, 300)
			stop := make(chan struct{})
			var hostile sync.WaitGroup
			for range 3 {
				hostile.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
						}
						c, err := net.Dial("unix", sc.Address)
						if err != nil {
							t.Error(err)
							return
						}
						c.SetDeadline(time.Now().Add(time.Minute))
						if got, err := io.ReadAll(c); !bytes.Equal(got, []byte{0, 7}) {
							t.Errorf("got %x, %v; want the refusal 7", got, err)
						}
						c.Close()
					}
				})
			}
			together(t,
				func() error { return send(client, n, 100) },
				func() error { return receive(server, n, 100) })
			close(stop)
			hostile.Wait()
			if s := server.Stats(); s.Refused == 0 || s.Received != uint64(n) {
				t.Errorf("%+v", s)
			}
			inbox(server)
			testutil.Must(t, client.Close())
		})
	}
}

// Servers that are none: the client says what it found, and goes on within Timeout.
func TestHostileServers(t *testing.T) {
	t.Parallel()
	point := bytes.Repeat([]byte{0xAB}, 97)
	for name, c := range map[string]struct {
		say  []byte
		want error
	}{
		"nothing":         {nil, gipc.ErrTruncated},
		"half a hello":    {[]byte{3, 1, 0, 0x10}, gipc.ErrTruncated},
		"half a refusal":  {[]byte{0}, gipc.ErrTruncated},
		"unknown flags":   {append([]byte{3, 0xFD, 0, 0x10, 0, 0}, point...), gipc.ErrMalformed},
		"bad limit":       {append([]byte{3, 1, 0, 0, 0, 1}, point...), gipc.ErrMalformed},
		"bad point":       {append([]byte{3, 1, 0, 0x10, 0, 0}, point...), gipc.ErrMalformed},
		"zero point":      {append([]byte{3, 1, 0, 0x10, 0, 0}, make([]byte, 97)...), gipc.ErrMalformed},
		"refusal 7":       {[]byte{0, 7}, gipc.ErrRefused},
		"unknown refusal": {[]byte{0, 99}, gipc.ErrRefused},
		"refusal 0":       {[]byte{0, 0}, gipc.ErrRefused},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				p := &pipes{}
				l := p.listen()
				defer l.Close()
				var dials atomic.Int64
				go func() {
					for {
						conn, err := l.Accept()
						if err != nil {
							return
						}
						dials.Add(1)
						go func() {
							go conn.Write(c.say)
							io.CopyN(io.Discard, conn, 1) // its refusal, or the end
							conn.Close()
						}()
						if c.want == gipc.ErrTruncated {
							synctest.Wait()
							conn.Close()
						}
					}
				}()
				client, err := gipc.StartClient(&gipc.ClientConfig{Name: "test", Dial: p.dial, Timeout: time.Minute})
				if client != nil || !errors.Is(err, gipc.ErrTimeout) || !errors.Is(err, c.want) {
					t.Errorf("%v, %v; want ErrTimeout because of %v", client, err, c.want)
				}
				if n := dials.Load(); n < 30 {
					t.Errorf("%d tries", n)
				}
			})
		})
	}
}

// Mistakes in the configuration, and an enemy who does not hold the secret: an
// error of its own on both sides, and the server goes on serving.
func TestHostileOrMistaken(t *testing.T) {
	t.Parallel()
	other := bytes.Repeat([]byte("fedcba9876543210"), 2)
	var mu sync.Mutex
	clientTexts, serverTexts := map[string]string{}, map[string]string{}
	t.Run("each", func(t *testing.T) {
		for name, c := range map[string]struct {
			edit func(server *gipc.ServerConfig, good, bad *gipc.ClientConfig)
			want error
		}{
			"wrong secret": {func(s *gipc.ServerConfig, g, b *gipc.ClientConfig) {
				s.Secret, g.Secret, b.Secret = secret, secret, other
			}, gipc.ErrSecret},
			"missing secret":  {func(s *gipc.ServerConfig, g, b *gipc.ClientConfig) { s.Secret, g.Secret = secret, secret }, gipc.ErrSecret},
			"unwanted secret": {func(s *gipc.ServerConfig, g, b *gipc.ClientConfig) { b.Secret = secret }, gipc.ErrSecret},
			"wrong name":      {func(s *gipc.ServerConfig, g, b *gipc.ClientConfig) { b.Name = "other" }, gipc.ErrSecret},
			"encryption": {func(s *gipc.ServerConfig, g, b *gipc.ClientConfig) {
				s.Encryption, g.Encryption = gipc.EncryptionOff, gipc.EncryptionOff
			}, gipc.ErrEncryption},
			"version": {nil, gipc.ErrVersion},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				sc, good := configs(t, "unix")
				bad := new(gipc.ClientConfig)
				*bad = *good
				if c.edit != nil {
					c.edit(sc, good, bad)
				}
				var log logBuffer
				sc.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
				server := startServer(t, sc)
				var clientText string
				if c.edit != nil {
					client, err := gipc.StartClient(bad)
					if client != nil || !errors.Is(err, c.want) {
						t.Fatalf("%v, %v; want %v", client, err, c.want)
					}
					clientText = strings.ReplaceAll(err.Error(), sc.Address, "ADDRESS")
				} else { // a client of another version
					p := dialBytes(t, sc)
					io.ReadFull(p, make([]byte, fullHello))
					p.send([]byte{1})
					defer p.Close()
				}
				says := strings.TrimPrefix(c.want.Error(), "gipc: ")
				eventually(t, "the server's report of "+says, func() bool { return strings.Contains(log.String(), says) })
				eventually(t, "the count", func() bool { return server.Stats().Refused == 1 })
				var serverText string
				for line := range strings.Lines(log.String()) {
					if strings.Contains(line, says) {
						_, serverText, _ = strings.Cut(strings.ReplaceAll(line, sc.Address, "ADDRESS"), "level=")
					}
				}
				if strings.Contains(log.String(), string(secret)) || strings.Contains(log.String(), string(other)) {
					t.Error("the secret is in the log")
				}
				mu.Lock()
				clientTexts[name], serverTexts[name] = clientText, serverText
				mu.Unlock()
				goodClient(t, server, good)
			})
		}
	})
	// Nobody can tell a wrong secret from a wrong name, and so they may read the same.
	delete(clientTexts, "wrong name")
	delete(serverTexts, "wrong name")
	for side, texts := range map[string]map[string]string{"client": clientTexts, "server": serverTexts} {
		seen := map[string]string{}
		for name, text := range texts {
			if before, ok := seen[text]; ok {
				t.Errorf("%s: the same text for %q and %q: %s", side, name, before, text)
			}
			seen[text] = name
		}
	}
}

// A logBuffer is a log that tests can read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// An enemy on the path who knows no key: whatever it does to a frame ends the
// connection with ErrNotAuthentic, and nothing is delivered that was not sent.
func TestHostileRelay(t *testing.T) {
	t.Parallel()
	const at, n = 5, 10 // the frame that it does it to, and how many there are
	flip := func(offset int) func(*relayed) bool {
		return func(r *relayed) bool {
			if offset < 0 {
				offset += len(r.frame)
			}
			r.frame[offset] ^= 0x10
			r.send(r.frame)
			return true
		}
	}
	var mu sync.Mutex
	kept := map[string][]byte{} // by test
	for name, c := range map[string]struct {
		attack  func(*relayed) bool // true: done, and the frame is not to be sent
		whole   int                 // messages that arrive before
		reflect bool                // the sender is the victim
		conn    int                 // the connection that is attacked
	}{
		"replay":  {attack: func(r *relayed) bool { r.send(r.frame); r.send(r.frame); return true }, whole: at + 1},
		"drop":    {attack: func(r *relayed) bool { return true }, whole: at},
		"reflect": {attack: func(r *relayed) bool { r.reflect(r.frame); return true }, reflect: true},
		"nonce":   {attack: flip(4), whole: at},
		"data":    {attack: flip(4 + 12 + 4), whole: at},
		"type":    {attack: flip(4 + 12), whole: at},
		"tag":     {attack: flip(-1), whole: at},
		"insert": {attack: func(r *relayed) bool {
			r.send(append([]byte{0, 0, 0, 40}, make([]byte, 40)...))
			return false
		}, whole: at},
		"shorter": {attack: func(r *relayed) bool { r.frame[3]--; r.send(r.frame); return true }, whole: at},
		"longer":  {attack: func(r *relayed) bool { r.frame[3]++; r.send(r.frame); return true }, whole: at},
		"reorder": {attack: func(r *relayed) bool { return false }, whole: at}, // below: it takes two
		"earlier connection": {attack: func(r *relayed) bool {
			mu.Lock()
			old := kept[fmt.Sprint(r.t.Name(), at)]
			mu.Unlock()
			r.send(old)
			return true
		}, whole: at, conn: 1},
	} {
		for _, toClient := range []bool{false, true} {
			for _, key := range [][]byte{nil, secret} {
				t.Run(fmt.Sprintf("%s/to client=%t/secret=%t", name, toClient, key != nil), func(t *testing.T) {
					t.Parallel()
					sc, cc := configs(t, "unix")
					sc.Secret, cc.Secret = key, key
					cc.RetryTimer = time.Millisecond
					var held []byte
					cc.Dial = relay(t, sc, func(r *relayed) {
						if r.toClient != toClient || r.conn > c.conn {
							r.send(r.frame)
							return
						}
						if r.conn < c.conn {
							mu.Lock()
							kept[fmt.Sprint(r.t.Name(), r.n)] = r.frame
							mu.Unlock()
							r.send(r.frame)
							return
						}
						switch {
						case name == "reorder" && r.n == at:
							held = r.frame
						case name == "reorder" && r.n == at+1:
							r.send(r.frame)
							r.send(held)
						case r.n == at && c.attack(r):
						default:
							r.send(r.frame)
						}
					})
					server, client := startServer(t, sc), startClient(t, cc)
					from, to := end(client), end(server)
					if toClient {
						from, to = to, from
					}
					testutil.Must(t, server.WaitConnected(patience(t)))
					if c.conn == 1 { // one that goes well, and then a second
						testutil.Must(t, send(from, n, 100))
						testutil.Must(t, receive(to, n, 100))
						testutil.Must(t, server.Close())
						server = startServer(t, sc)
						if toClient {
							from = server
						} else {
							to = server
						}
						testutil.Must(t, server.WaitConnected(patience(t)))
						eventually(t, "the reconnect", func() bool { return client.Stats().Reconnects == 1 })
						testutil.Must(t, client.WaitConnected(patience(t)))
						if toClient {
							for m := read(t, client); m.Status != "Reconnecting"; m = read(t, client) {
							}
						}
					}
					send(from, n, 100) // which may fail, since the other side hangs up
					if c.reflect {
						for m := read(t, from); ; m = read(t, from) {
							if m.MsgType != -1 {
								t.Fatalf("its own message came back: %+v", m)
							}
							if m.Status == "Reconnecting" || m.Status == "Disconnected" {
								wantErr(t, m.Err, gipc.ErrNotAuthentic)
								break
							}
						}
					} else {
						for got := 0; ; {
							m := read(t, to)
							if m.MsgType != -1 {
								if got == c.whole || !bytes.Equal(m.Data, testutil.Payload(got, 100)) {
									t.Fatalf("message %d: %d bytes that nobody sent", got, len(m.Data))
								}
								got++
							} else if m.Status == "Reconnecting" || m.Status == "Disconnected" {
								malformed := (name == "shorter" || name == "longer") && errors.Is(m.Err, gipc.ErrMalformed)
								if !errors.Is(m.Err, gipc.ErrNotAuthentic) && !malformed {
									t.Errorf("lost with %v", m.Err)
								}
								if got != c.whole {
									t.Errorf("%d messages, want %d", got, c.whole)
								}
								break
							}
						}
					}
					// Both go on, on a new connection.
					eventually(t, "the reconnect", func() bool { return client.Stats().Reconnects == uint64(c.conn+1) })
					for _, e := range []end{client, server} {
						testutil.Must(t, e.WaitConnected(patience(t)))
					}
					testutil.Must(t, from.Write(99, nil))
					for next(t, to).MsgType != 99 {
					}
				})
			}
		}
	}
}

// fullHello is how long ServerHello is, and ClientHello before its confirmation.
const fullHello = 6 + 97 + mlkem.EncapsulationKeySize1024

// A changed byte of a handshake, every eleventh at least: no connection comes of it. Bit by
// bit it is TestHandshakeFlippedBits, in memory.
func TestHostileRelayOfHandshakes(t *testing.T) {
	t.Parallel()
	for part, size := range map[string]int{"ServerHello": fullHello, "ClientHello": fullHello + 48, "ServerFinish": 49} {
		for _, key := range [][]byte{nil, secret} {
			t.Run(fmt.Sprintf("%s/secret=%t", part, key != nil), func(t *testing.T) {
				t.Parallel()
				sc, cc := configs(t, "unix")
				sc.Secret, cc.Secret = key, key
				cc.RetryTimer = time.Millisecond
				server := startServer(t, sc)
				step := max(1, size/151) * testutil.Count(1, 9)
				for i := 0; i < size; i += step {
					ctx, cancel := context.WithCancel(patience(t))
					dial := relayHandshake(t, sc, func(r *relayed) {
						if r.part == part {
							r.frame[i] ^= 1 << (i % 8)
						}
						r.send(r.frame)
					})
					first := true
					cc.Dial = func(ctx context.Context) (net.Conn, error) {
						if !first {
							cancel() // it would go on forever
							return nil, ctx.Err()
						}
						first = false
						return dial(ctx)
					}
					client, err := gipc.StartClientContext(ctx, cc)
					if client != nil || err == nil {
						t.Fatalf("byte %d was changed, and the client connected", i)
					}
					cancel()
				}
				if part != "ServerFinish" { // which comes when the server has connected
					if m, err := server.ReadTimed(0); m != gipc.TimeoutMessage || err != nil {
						t.Errorf("%+v, %v", m, err)
					}
				}
			})
		}
	}
}

// One on the way who changes what the hellos say of ML-KEM: neither side connects, with
// and without a secret, and both know why.
func TestHostileRelayOfHybrid(t *testing.T) {
	t.Parallel()
	mine, err := mlkem.GenerateKey1024()
	testutil.Must(t, err)
	clears := func(b []byte) []byte { b[1] &^= 4; return b }
	for _, c := range []struct {
		name, part string
		change     func(b []byte) []byte
		client     error // what its error is
	}{
		{"his own key", "ServerHello", func(b []byte) []byte { copy(b[6+97:], mine.EncapsulationKey().Bytes()); return b }, gipc.ErrSecret},
		{"bit 2 of the server cleared, without the key", "ServerHello", func(b []byte) []byte { return clears(b)[:6+97] }, gipc.ErrSecret},
		{"bit 2 of the client cleared", "ClientHello", clears, gipc.ErrSecret},
		{"bit 2 of the client cleared, without the ciphertext", "ClientHello", func(b []byte) []byte { return slices.Delete(clears(b), 6+97, fullHello) }, gipc.ErrSecret},
		{"one bit of the ciphertext", "ClientHello", func(b []byte) []byte { b[fullHello-1] ^= 1; return b }, gipc.ErrSecret},
		{"bit 3 of the client set", "ClientHello", func(b []byte) []byte { b[1] |= 8; return b }, gipc.ErrMalformed},
		{"bit 3 of the server set", "ServerHello", func(b []byte) []byte { b[1] |= 8; return b }, gipc.ErrMalformed},
	} {
		for _, key := range [][]byte{nil, secret} {
			t.Run(fmt.Sprintf("%s/secret=%t", c.name, key != nil), func(t *testing.T) {
				t.Parallel()
				sc, cc := configs(t, "unix")
				sc.Secret, cc.Secret = key, key
				cc.Timeout, cc.RetryTimer = 3*time.Second, 50*time.Millisecond // a server that changes its mind may be another one
				server := startServer(t, sc)
				cc.Dial = relayHandshake(t, sc, func(r *relayed) {
					if r.part == c.part {
						r.frame = c.change(r.frame)
					}
					r.send(r.frame)
				})
				client, err := gipc.StartClient(cc)
				if client != nil || !errors.Is(err, c.client) {
					t.Fatalf("%v, %v; want %v", client, err, c.client)
				}
				if m, err := server.ReadTimed(0); m != gipc.TimeoutMessage || err != nil {
					t.Errorf("%+v, %v", m, err)
				}
				eventually(t, "the refusal is counted, after it was written", func() bool { return server.Stats().Refused > 0 })
			})
		}
	}
}

// Any bit of any frame: what arrives is a beginning of what was sent.
func TestHostileRelayFlipsBits(t *testing.T) {
	t.Parallel()
	sc, cc := configs(t, "unix")
	cc.RetryTimer = time.Millisecond
	server := startServer(t, sc)
	const n = 6
	for range testutil.Count(150, 20) {
		at, bit := rand.IntN(n), 0
		cc.Dial = relay(t, sc, func(r *relayed) {
			if !r.toClient && r.n == at {
				bit = rand.IntN(8 * len(r.frame))
				r.frame[bit/8] ^= 1 << (bit % 8)
			}
			r.send(r.frame)
		})
		client := startClient(t, cc)
		send(client, n, 50)
		cut(client)
		for got := 0; ; {
			m := read(t, server)
			if m.MsgType != -1 {
				if got >= at || !bytes.Equal(m.Data, testutil.Payload(got, 50)) {
					t.Fatalf("bit %d of frame %d: message %d came", bit, at, got)
				}
				got++
			} else if m.Status == "Disconnected" {
				if m.Err == nil {
					t.Errorf("bit %d of frame %d: an orderly end", bit, at)
				}
				break
			}
		}
	}
}

// What stands on the path between a client and a server.

// relayed is one frame, or one part of the handshake, on its way.
type relayed struct {
	t        testing.TB
	conn     int    // the connection, from 0
	toClient bool   // the direction
	part     string // of the handshake; "" for a frame
	n        int    // frames before it in this direction
	frame    []byte // its bytes, with the prefix
	to, back net.Conn
}

func (r *relayed) send(b []byte)    { r.to.Write(b) }
func (r *relayed) reflect(b []byte) { r.back.Write(b) }

// relay returns a Dial for clients of the server with the config sc. Each frame
// passes through f, which sends it or does not.
func relay(t testing.TB, sc *gipc.ServerConfig, f func(*relayed)) func(context.Context) (net.Conn, error) {
	return relayTo(t, "unix", sc.Address, f)
}

func relayTo(t testing.TB, network, address string, f func(*relayed)) func(context.Context) (net.Conn, error) {
	return startRelay(t, network, address, func(r *relayed) {
		if r.part != "" {
			r.send(r.frame)
			return
		}
		f(r)
	})
}

// relayHandshake is relay for the parts of the handshake.
func relayHandshake(t testing.TB, sc *gipc.ServerConfig, f func(*relayed)) func(context.Context) (net.Conn, error) {
	return startRelay(t, "unix", sc.Address, func(r *relayed) {
		if r.part == "" {
			r.send(r.frame)
			return
		}
		f(r)
	})
}

func startRelay(t testing.TB, network, address string, f func(*relayed)) func(context.Context) (net.Conn, error) {
	t.Helper()
	ln, err := net.Listen("unix", testutil.TempSocket(t))
	testutil.Must(t, err)
	var running sync.WaitGroup
	t.Cleanup(func() { ln.Close(); running.Wait() })
	var conns atomic.Int64
	return func(ctx context.Context) (net.Conn, error) {
		server, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		here, err := net.Dial("unix", ln.Addr().String())
		if err != nil {
			server.Close()
			return nil, err
		}
		client, err := ln.Accept()
		if err != nil {
			server.Close()
			here.Close()
			return nil, err
		}
		n := int(conns.Add(1) - 1)
		running.Go(func() {
			var halves sync.WaitGroup
			halves.Go(func() {
				relayHalf(relayed{t: t, conn: n, toClient: true, to: client, back: server}, f)
			})
			halves.Go(func() {
				relayHalf(relayed{t: t, conn: n, to: server, back: client}, f)
			})
			halves.Wait()
			client.Close()
			server.Close()
		})
		return here, nil
	}
}

// relayHalf moves one direction until it ends, and then ends it at the other side.
func relayHalf(r relayed, f func(*relayed)) {
	defer r.to.(interface{ CloseWrite() error }).CloseWrite()
	pass := func(part string, n int, head ...byte) ([]byte, bool) {
		b := append(head, make([]byte, n)...)
		if got, err := io.ReadFull(r.back, b[len(head):]); err != nil {
			r.to.Write(b[:len(head)+got]) // the end comes inside it
			return nil, false
		}
		r.part, r.frame = part, slices.Clone(b)
		now := r
		f(&now)
		return b, true
	}
	head := make([]byte, 2)
	if n, err := io.ReadFull(r.back, head); err != nil || r.toClient && head[0] == 0 || !r.toClient && head[0] != 0 {
		r.to.Write(head[:n])
		io.Copy(r.to, r.back)
		return
	}
	encrypted, key := head[1]&1 != 0, 97
	if head[1]&4 != 0 {
		key += mlkem.EncapsulationKeySize1024 // as many bytes as a ciphertext
	}
	ok := false
	switch {
	case r.toClient && encrypted:
		if _, ok = pass("ServerHello", 4+key, head...); ok {
			_, ok = pass("ServerFinish", 49)
		}
	case r.toClient:
		if _, ok = pass("ServerHello", 4, head...); ok {
			_, ok = pass("ServerFinish", 1)
		}
	case encrypted:
		_, ok = pass("ClientHello", 4+key+48, head...)
	default:
		_, ok = pass("ClientHello", 4, head...)
	}
	for ; ok; r.n++ {
		prefix := make([]byte, 4)
		if n, err := io.ReadFull(r.back, prefix); err != nil {
			r.to.Write(prefix[:n])
			return
		}
		_, ok = pass("", int(binary.BigEndian.Uint32(prefix)), prefix...)
	}
	io.Copy(io.Discard, r.back)
}
