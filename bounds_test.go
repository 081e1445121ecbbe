// What a server holds for peers that mean harm, in bytes and goroutines: the
// figures are in the log, and good clients are served meanwhile.

package gipc

import (
	"bytes"
	"context"
	"crypto/mlkem"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/gipc/internal/testutil"
)

// good is a client that asks all the time. Each question has its answer, or the
// test fails.
type good struct {
	t     *testing.T
	one   *Client
	asks  sync.Mutex // held for a question and its answer
	trips atomic.Int64
	stop  chan struct{}
	done  chan struct{}
}

// serveAll answers every message of every client, and has a good one among them.
func serveAll(t *testing.T, c *crowd) *good {
	t.Helper()
	go c.s.Connections.Serve(context.Background(), func(srv *Server, m *Message) {
		if m.MsgType == 1 {
			srv.Write(1, m.Data)
		}
	})
	one := c.join()
	g := &good{t: t, one: one, stop: make(chan struct{}), done: make(chan struct{})}
	skipStatus(t, one, 2)
	go func() {
		defer close(g.done)
		for n := uint64(0); ; n++ {
			g.asks.Lock()
			write(t, one, n)
			m, err := one.ReadTimed(time.Minute)
			for err == nil && m.MsgType > 1 { // for everybody
				m, err = one.ReadTimed(time.Minute)
			}
			g.asks.Unlock()
			if err != nil || m.MsgType != 1 || binary.BigEndian.Uint64(m.Data) != n {
				t.Errorf("a good client has asked %d and got %+v, %v", n, m, err)
				return
			}
			g.trips.Add(1)
			select {
			case <-g.stop:
				return
			default:
			}
		}
	}()
	t.Cleanup(g.end)
	g.served()
	return g
}

// served waits until the good client was answered 50 times more.
func (g *good) served() {
	g.t.Helper()
	enough := g.trips.Load() + 50
	eventually(g.t, "a good client is served", func() bool { return g.trips.Load() >= enough })
}

// memory is what the process holds after a collection, in bytes. Stacks that
// were given up are counted for a while.
type memory struct{ heap, stacks int64 }

func inUse() memory {
	n := heap()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return memory{n, int64(m.StackInuse)}
}

// inUse is that while it asks nothing: questions are garbage, too.
func (g *good) inUse() memory {
	g.asks.Lock()
	defer g.asks.Unlock()
	return inUse()
}

// settled is that when what earlier tests have left is gone: it falls no more.
func (g *good) settled() memory {
	least := g.inUse()
	for level := 0; level < 5; level++ {
		if now := g.inUse(); now.heap < least.heap-32<<10 || now.stacks < least.stacks {
			least, level = now, 0
		}
	}
	return least
}

// holds waits until the process holds no more than so many bytes, on the heap
// and in stacks, and goroutines on top, and logs what it holds then. It returns
// false when peers have gone before that.
func (g *good) holds(gone func() bool, peers int64, before memory, known map[string]string, most, goes int64) bool {
	g.t.Helper()
	g.served()
	var now memory
	var more int64
	defer func() {
		each := func(n int64) float64 { return float64(n) / 1024 / float64(peers) }
		g.t.Logf("%d peers, each: %.1f KiB of heap, %.1f KiB of stacks, %.2f goroutines", peers,
			each(now.heap-before.heap), each(now.stacks-before.stacks), float64(more)/float64(peers))
	}()
	over := false
	eventually(g.t, fmt.Sprintf("at most %d KiB and %d goroutines for %d peers", most>>10, goes, peers), func() bool {
		now, more = g.inUse(), int64(len(testutil.Goroutines(known)))
		over = gone()
		return over || now.heap-before.heap <= most && now.stacks-before.stacks <= most && more <= goes
	})
	return !over
}

func nobodyGoes() bool { return false }

func (g *good) end() {
	select {
	case <-g.done:
	default:
		close(g.stop)
		<-g.done
	}
	g.one.Shutdown(past1(g.t)) // nobody reads any more, and a farewell would take its second
}

// talks is the rest of a connection whose handshake the test has made.
type talks struct {
	net.Conn
	in      io.Reader // with what came behind the handshake
	t       *testing.T
	session *session
}

// enter goes through the handshake, with what stands behind the hello in the
// same write.
func (c *crowd) enter(behind ...byte) *talks {
	c.t.Helper()
	conn := c.dial()
	hello, err := clientHello(&appended{conn, behind}, &terms{name: "many", limit: 1 << 20, encrypt: c.s.settings.encrypt}, clientSide{key: newKey})
	if err != nil {
		c.t.Fatal(err)
	}
	s, err := hello.finish()
	if err != nil {
		c.t.Fatal(err)
	}
	return &talks{conn, io.MultiReader(bytes.NewReader(s.rest), conn), c.t, s}
}

// appended adds to a write.
type appended struct {
	net.Conn
	more []byte
}

func (l *appended) Write(b []byte) (int, error) {
	_, err := l.Conn.Write(append(bytes.Clone(b), l.more...))
	return len(b), err
}

// frame is a frame as this connection has it.
func (k *talks) frame(typ uint32, data []byte) []byte {
	k.t.Helper()
	plain := append(appendFrameHeader(nil, frameHeader{frameType: typ, dataSize: len(data)}), data...)
	if k.session.out == nil {
		return plain
	}
	sealed, err := k.session.out.seal(nil, plain)
	if err != nil {
		k.t.Fatal(err)
	}
	return sealed
}

// pinged says a ping with something behind it in the same write, and waits for
// the answer: then the server has read all of it.
func (k *talks) pinged(behind ...byte) {
	k.t.Helper()
	if _, err := k.Write(append(k.frame(controlType, append([]byte{kindPing}, make([]byte, 8)...)), behind...)); err != nil {
		k.t.Fatal(err)
	}
	k.pong()
}

// announces sends a ping and the head of a large frame in one record, and then the
// length of the record with its data.
func (k *talks) announces(size int) {
	k.t.Helper()
	plain := appendFrameHeader(appendControl(nil, kindPing, make([]byte, 8)...), frameHeader{frameType: 1, dataSize: size})
	record, err := k.session.out.seal(nil, plain)
	if err != nil {
		k.t.Fatal(err)
	}
	if _, err := k.Write(binary.BigEndian.AppendUint32(record, uint32(sealOverhead+size))); err != nil {
		k.t.Fatal(err)
	}
	k.pong()
}

func (k *talks) pong() {
	k.t.Helper()
	n := headerSize + 9
	if k.session.in != nil {
		n += lengthSize + sealOverhead
	}
	if _, err := io.ReadFull(k.in, make([]byte, n)); err != nil {
		k.t.Fatal(err)
	}
}

// A thousand who connect and say nothing, or announce all that one may and say
// no more: each costs a few KiB and one goroutine, until it leaves. These run
// alone, since they count what is the whole process's.
func TestBoundsOfThoseWhoStop(t *testing.T) {
	const most = 1 << 30
	prefix := appendFrameHeader(nil, frameHeader{frameType: 1, dataSize: most})[:lengthSize]
	ping := appendControl(nil, kindPing, make([]byte, 8)...)
	for _, kind := range []struct {
		name      string
		encrypted bool
		enter     func(c *crowd)
	}{
		{"a sealed frame of a GiB announced", true, func(c *crowd) { c.enter().announces(most) }},
		{"silent", true, func(c *crowd) { io.ReadFull(c.dial(), make([]byte, 103)) }},
		{"a hello that announces a GiB and stops", true, func(c *crowd) {
			conn := c.dial()
			io.ReadFull(conn, make([]byte, 103))
			conn.Write(binary.BigEndian.AppendUint32([]byte{0, flagEncrypted}, most))
		}},
		{"a hello without its confirmation", true, func(c *crowd) {
			conn := c.dial()
			io.ReadFull(conn, make([]byte, fullHello))
			hello := append(helloHead(0, flagEncrypted|flagHybrid, most), testKey(1).PublicKey().Bytes()...)
			conn.Write(append(hello, make([]byte, mlkem.CiphertextSize1024)...))
		}},
		{"a frame of a GiB announced, with its type, in the handshake", false, func(c *crowd) { c.enter(append(append(ping, prefix...), 0, 0, 0, 1)...).pong() }},
		{"a frame of a GiB announced", false, func(c *crowd) { c.enter().pinged(prefix...) }},
	} {
		most := thousand
		if strings.Contains(kind.name, "sealed") { // a key exchange each, on both sides
			most = 100
		}
		// Those in their handshake stay for 10 s: on a machine that takes longer
		// to bring them all, or that finds too much for so long, fewer have to do.
		for n, done := most, false; !done; n /= 2 {
			if n < most/8 {
				t.Fatalf("%s: too much, or too slow", kind.name)
			}
			t.Run(fmt.Sprint(n, " ", kind.name), func(t *testing.T) { done = holdsStopped(t, n, kind.encrypted, kind.enter) })
			if t.Failed() {
				return
			}
		}
	}
}

func holdsStopped(t *testing.T, n int, encrypted bool, enter func(*crowd)) bool {
	needFiles(t, uint64(2*n+100))
	config := ServerConfig{MaxMsgSize: 1 << 30}
	if !encrypted {
		config.Encryption = EncryptionOff
	}
	c := gather(t, config, ClientConfig{Encryption: config.Encryption})
	g := serveAll(t, c)
	known, before, start := testutil.Goroutines(nil), g.settled(), time.Now()
	for range n {
		enter(c)
	}
	gone := func() bool {
		c.s.host.mu.Lock()
		defer c.s.host.mu.Unlock()
		pending := len(c.s.host.pending)
		return pending+c.s.Connections.Len() < n+1 || pending > 0 && time.Since(start) > greetTime
	}
	eventually(t, "all are there", func() bool { return !gone() || time.Since(start) > greetTime })
	if !g.holds(gone, int64(n), before, known, int64(n)*28<<10, int64(n)+20) {
		return false
	}
	newcomer := c.join()
	newcomer.Shutdown(past1(t))
	g.served()
	return true
}

// Floods of what costs nothing to send, from peers that never read: the server
// holds little for them, and good clients are served.
func TestBoundsOfFloods(t *testing.T) {
	const batches, batchOf = 20, 4000
	for name, data := range map[string][]byte{
		"pings":                     append([]byte{kindPing}, make([]byte, 8)...),
		"pongs that nobody asked":   append([]byte{kindPong}, make([]byte, 8)...),
		"controls of later version": {9},
		"empty messages":            nil,
	} {
		t.Run(name, func(t *testing.T) {
			c := gather(t, ServerConfig{Encryption: EncryptionOff}, ClientConfig{Encryption: EncryptionOff})
			g := serveAll(t, c)
			typ := uint32(controlType)
			if data == nil {
				typ = 2 // that nobody answers
			}
			known, before := testutil.Goroutines(nil), g.settled()
			const n = 4
			wrote := make(chan error, n)
			for range n {
				one := c.enter()
				batch := bytes.Repeat(one.frame(typ, data), batchOf)
				go func() {
					for range batches {
						if _, err := one.Write(batch); err != nil {
							wrote <- err
							return
						}
					}
					wrote <- nil
				}()
			}
			for range n {
				g.served()
				if err := <-wrote; err != nil { // all of it is taken
					t.Error(err)
				}
			}
			g.served()
			g.holds(nobodyGoes, n, before, known, n*256<<10, 3*n)
			if c.s.Connections.Len() != n+1 {
				t.Errorf("%d are connected, want %d", c.s.Connections.Len(), n+1)
			}
		})
	}
}

// Messages that nobody reads stay with their sender: the server holds 64 KiB
// of them for each client, however small they are.
func TestBoundsOfMessagesThatNobodyReads(t *testing.T) {
	c := gather(t, ServerConfig{Encryption: EncryptionOff}, ClientConfig{Encryption: EncryptionOff})
	known, before := testutil.Goroutines(nil), heap()
	const n = 20
	full := make(chan bool, n)
	for range n {
		one := c.enter()
		batch := bytes.Repeat(one.frame(1, nil), 4000)
		go func() {
			for { // until the kernel takes no more, and nothing moves any more
				one.SetWriteDeadline(time.Now().Add(time.Second))
				if _, err := one.Write(batch); err != nil {
					full <- true
					return
				}
			}
		}()
	}
	for range n {
		<-full
	}
	var held int64
	eventually(t, "half a MiB and a goroutine for each, at most", func() bool {
		held = heap() - before
		return held <= n*512<<10 && len(testutil.Goroutines(known)) <= n
	})
	t.Logf("%d peers: %.1f KiB each", n, float64(held)/1024/n)
}

// Peers that never read, and a server that writes to them from many goroutines
// and to everybody: what waits for them is held once and not for each message,
// and the others have theirs.
func TestBoundsOfThoseWhoNeverRead(t *testing.T) {
	c := gather(t, ServerConfig{Encryption: EncryptionOff}, ClientConfig{Encryption: EncryptionOff})
	g := serveAll(t, c)
	readers := c.joinMany(3)
	for _, one := range readers {
		skipStatus(t, one, 2)
	}
	const n, writers, size = 20, 4, 10_000
	for range n {
		c.enter().pinged()
	}
	var stuck []*Server
	for srv := range c.s.Connections.All() {
		if srv.ID() > 4 {
			stuck = append(stuck, srv)
		}
	}
	if len(stuck) != n {
		t.Fatalf("%d are connected, want %d", len(stuck), n)
	}
	known, before := testutil.Goroutines(nil), g.settled()
	data := make([]byte, size)
	var sent atomic.Int64
	over := make(chan error, n*writers)
	for _, srv := range stuck {
		for range writers {
			go func() {
				for {
					if err := srv.Write(3, data); err != nil {
						over <- err
						return
					}
					sent.Add(1)
				}
			}()
		}
	}
	still := func() bool { // nothing has moved for a while
		was := sent.Load()
		g.served()
		<-time.After(50 * time.Millisecond)
		return sent.Load() == was
	}
	eventually(t, "all of them are stuck", still)
	t.Logf("%d writers for each, and the kernel has %d messages", writers, sent.Load())
	g.holds(nobodyGoes, n, before, known, n*256<<10, n*(writers+1))

	// A message for everybody: those who read have it while the others hold it up.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	told := make(chan error, 1)
	go func() { told <- c.s.Connections.Broadcast(ctx, 4, []byte("to all")) }()
	for i, one := range readers {
		if m, err := one.ReadTimed(time.Minute); err != nil || m.MsgType != 4 {
			t.Errorf("reader %d has %+v, %v", i, m, err)
		}
	}
	g.served()
	cancel()
	err := <-told
	failed, _ := err.(interface{ Unwrap() []error })
	if failed == nil || len(failed.Unwrap()) != n {
		t.Fatalf("Broadcast: %v; want an error for each of %d", err, n)
	}
	for _, err := range failed.Unwrap() {
		var of *ClientError
		if !errors.As(err, &of) || of.Server.ID() <= 4 || !errors.Is(err, context.Canceled) {
			t.Errorf("Broadcast: %v", err)
		}
	}
	g.end()
	c.s.Shutdown(past1(t))
	for range n * writers {
		if err := <-over; !errors.Is(err, ErrClosed) && !errors.Is(err, ErrNotConnected) {
			t.Errorf("a writer ends with %v", err)
		}
	}
}
