// Benchmarks beside a raw socket: two processes, alternating rounds in one
// run, the median of the rounds' ratios. What is measured against what stands
// in the names; x is ours in time per message over the other's.

package gipc

import (
	"bufio"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/gipc/internal/eventlog"
	"example.com/gipc/internal/testutil"
	"example.com/gipc/internal/transport"
)

// talker is one side of a connection as the benchmarks need it.
type talker interface {
	send(data []byte) error
	flush() error
	recv() ([]byte, error) // valid until the next one
	close()
}

// rawTalker is a net.Conn with a 4-byte length prefix, and, with seal, AES-256-GCM.
type rawTalker struct {
	conn  net.Conn
	r     *bufio.Reader
	w     *bufio.Writer // batches; nil: one write a message
	seal  cipher.AEAD
	out   []byte
	in    []byte
	plain []byte
}

func newRawTalker(conn net.Conn, kind string) *rawTalker {
	t := &rawTalker{conn: conn, r: bufio.NewReaderSize(conn, 64<<10)}
	if strings.Contains(kind, "batch") {
		t.w = bufio.NewWriterSize(conn, 64<<10)
	}
	if strings.Contains(kind, "sealed") {
		block, err := aes.NewCipher(make([]byte, 32))
		if err != nil {
			panic(err)
		}
		if t.seal, err = cipher.NewGCMWithRandomNonce(block); err != nil {
			panic(err)
		}
	}
	return t
}

func (t *rawTalker) send(data []byte) error {
	n := len(data)
	if t.seal != nil {
		n += t.seal.Overhead()
	}
	t.out = binary.BigEndian.AppendUint32(t.out[:0], uint32(n))
	if t.seal != nil {
		t.out = t.seal.Seal(t.out, nil, data, nil)
	} else {
		t.out = append(t.out, data...)
	}
	if t.w != nil {
		_, err := t.w.Write(t.out)
		return err
	}
	_, err := t.conn.Write(t.out)
	return err
}

func (t *rawTalker) flush() error {
	if t.w == nil {
		return nil
	}
	return t.w.Flush()
}

func (t *rawTalker) recv() ([]byte, error) {
	head, err := t.r.Peek(4)
	if err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(head))
	t.r.Discard(4)
	if cap(t.in) < n {
		t.in = make([]byte, n)
	}
	t.in = t.in[:n]
	if _, err := io.ReadFull(t.r, t.in); err != nil || t.seal == nil {
		return t.in, err
	}
	t.plain, err = t.seal.Open(t.plain[:0], nil, t.in, nil)
	return t.plain, err
}

func (t *rawTalker) close() { t.conn.Close() }

// ourTalker is this library.
type ourTalker struct {
	e interface {
		Write(int, []byte) error
		Queue(int, []byte) error
		Flush() error
		ReadInto(context.Context, *Message) error
		Close() error
	}
	queue bool
	m     Message
}

func (t *ourTalker) send(data []byte) error {
	if t.queue {
		return t.e.Queue(1, data)
	}
	return t.e.Write(1, data)
}

func (t *ourTalker) flush() error {
	if t.queue {
		return t.e.Flush()
	}
	return nil
}

func (t *ourTalker) recv() ([]byte, error) {
	for {
		if err := t.e.ReadInto(context.Background(), &t.m); err != nil {
			return nil, err
		}
		if t.m.MsgType > 0 {
			return t.m.Data, nil
		}
		if t.m.Status == "Disconnected" {
			return nil, io.EOF
		}
	}
}

func (t *ourTalker) close() { t.e.Close() }

func benchEncryption(kind string) Encryption {
	if strings.Contains(kind, "encrypted") {
		return EncryptionOn
	}
	return EncryptionOff
}

func init() { testChildren["bench"] = benchChild }

// benchChild serves one connection: it sends back every message, or with
// "stream" in its kind none, and in any case those of one byte.
func benchChild() {
	kind, path := os.Getenv("GIPC_TEST_KIND"), os.Getenv("GIPC_TEST_PATH")
	var t talker
	if strings.HasPrefix(kind, "gipc") {
		s, err := StartServer(&ServerConfig{Name: "bench", Network: "unix", Address: path, Encryption: benchEncryption(kind)})
		if err != nil {
			panic(err)
		}
		t = &ourTalker{e: s}
		fmt.Println("ready")
	} else {
		l, err := net.Listen("unix", path)
		if err != nil {
			panic(err)
		}
		fmt.Println("ready")
		conn, err := l.Accept()
		if err != nil {
			panic(err)
		}
		t = newRawTalker(conn, strings.Replace(kind, "batch", "", 1))
	}
	for {
		data, err := t.recv()
		if err != nil {
			t.close()
			return
		}
		if !strings.Contains(kind, "stream") || len(data) == 1 {
			if t.send(data) != nil {
				return
			}
		}
	}
}

// startTalker starts a child of the given kind and connects to it.
func startTalker(b *testing.B, kind string) talker {
	path := testutil.TempSocket(b)
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "GIPC_TEST_CHILD=bench", "GIPC_TEST_KIND="+kind, "GIPC_TEST_PATH="+path)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := child.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { child.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		b.Fatal(line, err)
	}
	var t talker
	if strings.HasPrefix(kind, "gipc") {
		c, err := StartClient(&ClientConfig{Name: "bench", Network: "unix", Address: path, Encryption: benchEncryption(kind)})
		if err != nil {
			b.Fatal(err)
		}
		t = &ourTalker{e: c, queue: strings.Contains(kind, "queue")}
	} else {
		conn, err := net.Dial("unix", path)
		if err != nil {
			b.Fatal(err)
		}
		t = newRawTalker(conn, kind)
	}
	b.Cleanup(t.close)
	return t
}

// round sends n messages and returns the time for each. Streaming counts until
// the other side has the last one; otherwise each is answered.
func round(b *testing.B, t talker, stream bool, data []byte, n int, times []time.Duration) time.Duration {
	start := time.Now()
	last := start
	for i := range n {
		if err := t.send(data); err != nil {
			b.Fatal(err)
		}
		if stream {
			continue
		}
		if _, err := t.recv(); err != nil {
			b.Fatal(err)
		}
		now := time.Now()
		times[i] = now.Sub(last)
		last = now
	}
	if stream {
		t.send(data[:1])
		if err := t.flush(); err != nil {
			b.Fatal(err)
		}
		if _, err := t.recv(); err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(start) / time.Duration(n)
}

func BenchmarkBesideRaw(b *testing.B) {
	const rounds = 9
	for _, row := range []struct {
		what      string
		ours, raw string
		size, n   int
	}{
		{"ping-pong-64B-encrypted", "gipc encrypted", "raw", 64, 4000},
		{"ping-pong-64B-plain", "gipc", "raw", 64, 4000},
		{"ping-pong-4KiB-encrypted", "gipc encrypted", "raw", 4 << 10, 3000},
		{"ping-pong-1MiB-encrypted", "gipc encrypted", "raw sealed", 1 << 20, 40},
		{"stream-64B-encrypted-Queue", "gipc stream encrypted queue", "raw stream batch sealed", 64, 200000},
		{"stream-64B-plain-Queue", "gipc stream queue", "raw stream batch", 64, 1000000},
		{"stream-64B-encrypted-Write", "gipc stream encrypted", "raw stream", 64, 40000},
		{"stream-1MiB-encrypted", "gipc stream encrypted", "raw stream sealed", 1 << 20, 100},
		{"stream-1MiB-plain", "gipc stream", "raw stream", 1 << 20, 200},
	} {
		b.Run(row.what+"-vs-"+strings.ReplaceAll(row.raw, " ", "-"), func(b *testing.B) {
			data := make([]byte, row.size)
			stream := strings.Contains(row.raw, "stream")
			raw, ours := startTalker(b, row.raw), startTalker(b, row.ours)
			times := make([]time.Duration, row.n)
			p := func(q float64) time.Duration {
				slices.Sort(times)
				return times[int(q*float64(len(times)-1))]
			}
			for range 2 {
				round(b, raw, stream, data, row.n/4, times)
				round(b, ours, stream, data, row.n/4, times)
			}
			var x, x99, us, them []float64
			for b.Loop() {
				for range rounds {
					r := round(b, raw, stream, data, row.n, times)
					r50, r99 := p(0.5), p(0.99)
					o := round(b, ours, stream, data, row.n, times)
					if stream {
						x = append(x, float64(o)/float64(r))
					} else {
						x = append(x, float64(p(0.5))/float64(r50))
						x99 = append(x99, float64(p(0.99))/float64(r99))
						r, o = r50, p(0.5)
					}
					them, us = append(them, float64(r)), append(us, float64(o))
				}
			}
			median := func(v []float64) float64 { slices.Sort(v); return v[len(v)/2] }
			b.ReportMetric(median(x), "x")
			if !stream {
				b.ReportMetric(median(x99), "x-p99")
			}
			b.ReportMetric(median(us), "ns/msg")
			b.ReportMetric(median(them), "ns/msg-raw")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// manyServer is the child of the benchmarks of many clients: it sends back what
// each of them sends.
func manyServer() {
	kind, path := os.Getenv("GIPC_TEST_KIND"), os.Getenv("GIPC_TEST_PATH")
	if kind == "raw sealed" {
		l, err := net.Listen("unix", path)
		if err != nil {
			panic(err)
		}
		fmt.Println("ready")
		for {
			conn, err := l.Accept()
			if err != nil {
				panic(err)
			}
			go func() {
				t := newRawTalker(conn, kind)
				for {
					data, err := t.recv()
					if err != nil || t.send(data) != nil {
						t.close()
						return
					}
				}
			}()
		}
	}
	s, err := StartServer(&ServerConfig{Name: "bench", Network: "unix", Address: path, MultiClient: true})
	if err != nil {
		panic(err)
	}
	fmt.Println("ready")
	reply := func(srv *Server, m *Message) {
		if m.MsgType > 0 {
			srv.Write(m.MsgType, m.Data)
		}
	}
	switch kind {
	case "gipc Serve":
		s.Connections.Serve(context.Background(), reply)
	case "gipc Messages":
		for srv, m := range s.Connections.Messages(context.Background()) {
			reply(srv, m)
		}
	case "gipc ReadTimedFastest":
		for {
			s.Connections.ReadTimedFastest(time.Second, func(srv *Server, m *Message, err error) { reply(srv, m) })
		}
	}
}

func init() { testChildren["many"] = manyServer }

// startMany starts a server of the given kind and connects n clients to it.
func startMany(b *testing.B, kind string, n int) []talker {
	path := testutil.TempSocket(b)
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "GIPC_TEST_CHILD=many", "GIPC_TEST_KIND="+kind, "GIPC_TEST_PATH="+path)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := child.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		child.Process.Kill()
		child.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		b.Fatal(line, err)
	}
	clients := make([]talker, n)
	for i := range clients {
		if kind == "raw sealed" {
			conn, err := net.Dial("unix", path)
			if err != nil {
				b.Fatal(err)
			}
			clients[i] = newRawTalker(conn, kind)
		} else {
			c, err := StartClient(&ClientConfig{Name: "bench", Network: "unix", Address: path})
			if err != nil {
				b.Fatal(err)
			}
			clients[i] = &ourTalker{e: c}
		}
	}
	b.Cleanup(func() { // after the server's end, so that nobody waits for answers
		child.Process.Kill()
		for _, c := range clients {
			c.close()
		}
	})
	return clients
}

// trips has each client make its share of about n round trips at the same time
// and returns how many there are in a second.
func trips(b *testing.B, clients []talker, n int) float64 {
	data := make([]byte, 64)
	each := max(1, n/len(clients))
	errs := make(chan error, len(clients))
	start := time.Now()
	for _, c := range clients {
		go func() {
			for range each {
				if err := c.send(data); err != nil {
					errs <- err
					return
				}
				if _, err := c.recv(); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range clients {
		if err := <-errs; err != nil {
			b.Fatal(err)
		}
	}
	return float64(each*len(clients)) / time.Since(start).Seconds()
}

// BenchmarkManyClients has all clients of a server ping-pong 64 B at once; x is
// our server's round trips a second over those of a raw sealed server with a
// goroutine for each client.
func BenchmarkManyClients(b *testing.B) {
	for _, n := range []int{100, 1000} {
		for _, kind := range []string{"gipc Serve", "gipc Messages"} {
			b.Run(fmt.Sprintf("%d-%s", n, kind[5:]), func(b *testing.B) {
				raw, ours := startMany(b, "raw sealed", n), startMany(b, kind, n)
				trips(b, raw, 2*n)
				trips(b, ours, 2*n)
				var x, rate []float64
				for b.Loop() {
					for range 7 {
						r, o := trips(b, raw, 20000), trips(b, ours, 20000)
						x, rate = append(x, o/r), append(rate, o)
					}
				}
				slices.Sort(x)
				slices.Sort(rate)
				b.ReportMetric(x[len(x)/2], "x")
				b.ReportMetric(rate[len(rate)/2], "trips/s")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// BenchmarkOneAmongSilent has one client ping-pong while others are connected
// and silent; x is its round trips a second over those of a client that is alone.
func BenchmarkOneAmongSilent(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		for _, kind := range []string{"gipc Serve", "gipc ReadTimedFastest"} {
			b.Run(fmt.Sprintf("%d-%s", n, kind[5:]), func(b *testing.B) {
				alone, among := startMany(b, kind, 1), startMany(b, kind, 1+n)
				trips(b, alone, 1000)
				trips(b, among[:1], 1000)
				var x []float64
				for b.Loop() {
					for range 7 {
						a, o := trips(b, alone, 4000), trips(b, among[:1], 4000)
						x = append(x, o/a)
					}
				}
				slices.Sort(x)
				b.ReportMetric(x[len(x)/2], "x")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// nullSink takes everything at once.
type nullSink struct{}

func (nullSink) Send(_ context.Context, _ *atomic.Bool, b, tail []byte) (int, error) {
	return len(b) + len(tail), nil
}
func (nullSink) Interrupt()          {}
func (nullSink) Interruptible() bool { return true }

// endlessSource repeats a stream.
type endlessSource struct {
	stream []byte
	at     int
}

func (s *endlessSource) Receive(d transport.Buffer) (int, error) {
	if s.at == len(s.stream) {
		s.at = 0
	}
	n := copy(d.Space(), s.stream[s.at:])
	d.Received(n)
	s.at += n
	return n, nil
}
func (s *endlessSource) TryRead(d transport.Buffer, _ bool) (int, bool, error) {
	n, err := s.Receive(d)
	return n, true, err
}
func (s *endlessSource) SetReadDeadline(time.Time) error { return nil }
func (s *endlessSource) End()                            {}

// BenchmarkQueue is the sending half without a kernel: 64 B by Queue.
func BenchmarkQueue(b *testing.B) {
	for _, encrypted := range []bool{false, true} {
		b.Run(map[bool]string{false: "plain", true: "encrypted"}[encrypted], func(b *testing.B) {
			e := new(endpoint)
			e.init(&settings{eventLog: new(eventlog.Log)}, new(bufferPool), new(endpointHooks))
			var cipher *recordCipher
			if encrypted {
				cipher = newRecordCipher(make([]byte, hashLen))
			}
			c := &connection{sender: newSender(nullSink{}, 1<<20, e.buffers, cipher, new(sync.WaitGroup), func(error) {})}
			e.currentConn.Store(c)
			data := make([]byte, 64)
			for b.Loop() {
				e.Queue(1, data)
			}
		})
	}
}

// BenchmarkReadInto is the receiving half without a kernel: 64 B in plaintext.
func BenchmarkReadInto(b *testing.B) {
	e := new(endpoint)
	e.init(&settings{eventLog: new(eventlog.Log)}, new(bufferPool), new(endpointHooks))
	var stream []byte
	for len(stream) < 64<<10 {
		stream = append(stream, appendFrame(nil, 1, make([]byte, 64))...)
	}
	c := newReceiver(nil, 1<<20)
	c.source = &endlessSource{stream: stream}
	e.lifecycle.setStatus(Listening)
	e.lifecycle.setStatus(Connected)
	e.latestConn = c
	e.currentConn.Store(c)
	e.readRole.readCount = 1
	e.readRole.setFree()
	var m Message
	for b.Loop() {
		if err := e.ReadInto(context.Background(), &m); err != nil {
			b.Fatal(err)
		}
	}
}

func TestAllocations(t *testing.T) {
	for name, encryption := range map[string]Encryption{"encrypted": EncryptionOn, "plain": EncryptionOff} {
		t.Run(name, func(t *testing.T) {
			s, c := socketEnds(t, ServerConfig{Encryption: encryption}, ClientConfig{Encryption: encryption})
			skipStatus(t, s, 1)
			data := make([]byte, 64)
			m := Message{Data: make([]byte, 0, 128)}
			for _, of := range []struct {
				what string
				most float64
				do   func() error
			}{
				{"Write and ReadInto", 0, func() error {
					if err := c.Write(1, data); err != nil {
						return err
					}
					return s.ReadInto(context.Background(), &m)
				}},
				{"Queue, Flush and ReadInto", 0, func() error {
					for range 10 {
						if err := c.Queue(1, data); err != nil {
							return err
						}
					}
					if err := c.Flush(); err != nil {
						return err
					}
					for range 10 {
						if err := s.ReadInto(context.Background(), &m); err != nil {
							return err
						}
					}
					return nil
				}},
				{"Write and Read", 2, func() error {
					if err := c.Write(1, data); err != nil {
						return err
					}
					_, err := s.Read()
					return err
				}},
			} {
				for range 10 { // the watcher makes way, and buffers come to be
					if err := of.do(); err != nil {
						t.Fatal(err)
					}
				}
				if testutil.RaceEnabled { // the race detector has sync.Pool forget at random
					continue
				}
				if n := testing.AllocsPerRun(1000, func() {
					if err := of.do(); err != nil {
						t.Fatal(err)
					}
				}); n > of.most {
					t.Errorf("%s: %v allocations, want at most %v", of.what, n, of.most)
				}
			}
		})
	}
}

func requestPair(t testing.TB, encryption Encryption) (*Server, *Client) {
	address := testutil.TempSocket(t)
	s, err := StartServer(&ServerConfig{Name: "q", Network: "unix", Address: address, Encryption: encryption})
	if err != nil {
		t.Fatal(err)
	}
	c, err := StartClient(&ClientConfig{Name: "q", Network: "unix", Address: address, Encryption: encryption})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return s, c
}

func TestCallsOfManyGoroutines(t *testing.T) {
	s, c := requestPair(t, EncryptionOn)
	go func() {
		for m, err := range s.Messages(context.Background()) {
			if err != nil {
				return
			}
			if !m.IsRequest() {
				continue
			}
			if err := m.Reply(m.MsgType+1, m.Data); err != nil && !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
			if err := m.Reply(m.MsgType+1, m.Data); !errors.Is(err, ErrReplied) {
				t.Error(err)
			}
		}
	}()
	for i := range 1000 {
		m, err := c.Call(context.Background(), i+1, fmt.Append(nil, i))
		if err != nil || m.MsgType != i+2 || string(m.Data) != fmt.Sprint(i) {
			t.Fatal(m, err)
		}
	}
	var wg sync.WaitGroup
	for w := range 64 {
		wg.Go(func() {
			for i := range 200 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				m, err := c.Call(ctx, w+1, fmt.Append(nil, w, i))
				cancel()
				if err != nil || m.MsgType != w+2 || string(m.Data) != fmt.Sprint(w, i) {
					t.Error(m, err)
					return
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%+v %+v", c.Stats(), s.Stats())
}

func BenchmarkCall(b *testing.B) {
	for _, callers := range []int{0, 1, 64} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			s, c := requestPair(b, EncryptionOn)
			go func() {
				var m Message
				for s.ReadInto(context.Background(), &m) == nil {
					if m.IsRequest() {
						m.Reply(m.MsgType, m.Data)
					} else if m.MsgType > 0 {
						s.Write(m.MsgType, m.Data)
					}
				}
			}()
			data := make([]byte, 64)
			b.ReportAllocs()
			b.ResetTimer()
			if callers == 0 {
				var m Message
				for i := 0; i < b.N; {
					if i == 0 {
						c.Read()
					}
					c.Write(1, data)
					c.ReadInto(context.Background(), &m)
					i++
				}
				return
			}
			var wg sync.WaitGroup
			for w := range callers {
				wg.Go(func() {
					for i := w; i < b.N; i += callers {
						if _, err := c.Call(context.Background(), 1, data); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// Every reply is handed over or counted, also one that comes while its call is given up.
func TestCallsGivenUpCountTheirReplies(t *testing.T) {
	t.Parallel()
	s, c := requestPair(t, EncryptionOff)
	go func() {
		for m, err := range s.Messages(context.Background()) {
			if err == nil && m.IsRequest() {
				m.Reply(1, m.Data)
			}
		}
	}()
	var handed, unconfirmed atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 2000 {
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Microsecond+rand.N(300*time.Microsecond))
				_, err := c.Call(ctx, 1, nil)
				cancel()
				switch {
				case err == nil:
					handed.Add(1)
				case errors.Is(err, ErrUnconfirmed):
					unconfirmed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if _, err := c.Call(context.Background(), 1, nil); err != nil {
		t.Fatal(err)
	}
	stats := c.Stats()
	if all := handed.Load() + 1 + unconfirmed.Load(); stats.Calls != uint64(all) {
		t.Errorf("%d calls were counted, and %d were sent", stats.Calls, all)
	}
	if known := uint64(handed.Load()) + 1 + stats.Dropped; known != stats.Calls {
		t.Errorf("%d replies came, and %d were handed over or counted", stats.Calls, known)
	}
}

// countedConn counts what is written to a connection.
type countedConn struct {
	net.Conn
	written *atomic.Int64
}

func (c countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.written.Add(int64(n))
	return n, err
}

// TestRecordOverhead counts the bytes that messages cost on the wire: small ones
// share records, a large one has a record of its own.
func TestRecordOverhead(t *testing.T) {
	for _, c := range []struct {
		what        string
		count, size int
		most        float64 // bytes for each message
	}{
		{"20,000 queued messages of 64 B", 20_000, 64, 76},
		{"one message of 1 MiB", 1, 1 << 20, 1<<20 + 120},
	} {
		var written atomic.Int64
		s, client := pipeEnds(t, ServerConfig{}, ClientConfig{}, func(conn net.Conn) net.Conn { return countedConn{conn, &written} })
		skipStatus(t, client, 2)
		skipStatus(t, s, 1)
		before := written.Load()
		done := make(chan error, 1)
		go func() {
			for range c.count {
				if err := client.Queue(1, make([]byte, c.size)); err != nil {
					done <- err
					return
				}
			}
			done <- client.Flush()
		}()
		for n := 0; n < c.count; n++ {
			if m, err := s.ReadContext(context.Background()); err != nil || len(m.Data) != c.size {
				t.Fatal(m, err)
			}
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		each := float64(written.Load()-before) / float64(c.count)
		t.Logf("%s: %.2f bytes each on the wire", c.what, each)
		if each > c.most {
			t.Errorf("%s: %.2f bytes each on the wire, want at most %v", c.what, each, c.most)
		}
	}
}
