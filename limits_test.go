// Whatever depends on the clock, in bubbles where it is not the real one:
// heartbeats, pings of a side whose queue is full, the watcher, closes of a
// peer that does not answer.

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
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/gipc/internal/testutil"
)

// rawClient shakes hands with a server over net.Pipe by hand, encrypted where that
// is, and returns what a client has then, without any of its behaviour.
func rawClient(t *testing.T, l *pipeListener, name string) (net.Conn, *session) {
	t.Helper()
	near, far := net.Pipe()
	l.conns <- far
	hello, err := clientHello(near, &handshakeConfig{name: name, maxDataSize: defaultMsgSize}, clientSide{newKey: newECDHKey})
	if err != nil {
		t.Fatal(err)
	}
	s, err := hello.readFinish()
	if err != nil {
		t.Fatal(err)
	}
	return near, s
}

// pipeServer starts a server over net.Pipe.
func pipeServer(t *testing.T, config ServerConfig) (*Server, *pipeListener) {
	t.Helper()
	l := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
	config.Name, config.Listener = "pipe", l
	s, err := StartServer(&config)
	if err != nil {
		t.Fatal(err)
	}
	return s, l
}

// readFrame reads and opens one frame.
func readFrame(t *testing.T, conn net.Conn, s *session) (typ uint32, data []byte, err error) {
	t.Helper()
	var prefix [lengthSize]byte
	if _, err := io.ReadFull(conn, prefix[:]); err != nil {
		return 0, nil, err
	}
	body := make([]byte, binary.BigEndian.Uint32(prefix[:]))
	if _, err := io.ReadFull(conn, body); err != nil {
		return 0, nil, err
	}
	plain, err := s.receiveCipher.open(nil, body)
	if err != nil {
		t.Fatal(err)
	}
	h, need, err := parseFrameHeader(plain, defaultMsgSize)
	if err != nil || need+h.dataSize != len(plain) {
		t.Fatalf("a record of one frame is due: %x, %v", plain, err)
	}
	return h.frameType, plain[need:], nil
}

// writeFrame seals and writes one frame.
func writeFrame(t *testing.T, conn net.Conn, s *session, typ byte, data ...byte) {
	t.Helper()
	if _, err := conn.Write(appendFrame(s.sendCipher, uint32(typ), data)); err != nil {
		t.Fatal(err)
	}
}

func wantStatus(t *testing.T, s interface{ Read() (*Message, error) }, status Status) *Message {
	t.Helper()
	m, err := s.Read()
	if err != nil || m.MsgType != statusType || m.Status != status.String() {
		t.Fatalf("got %+v, %v; want status %v", m, err, status)
	}
	return m
}

// A peer that is silent gets a ping after one interval, and is lost after two.
func TestHeartbeatFindsSilentPeer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, l := pipeServer(t, ServerConfig{Heartbeat: 5 * time.Second})
		defer s.Close()
		conn, session := rawClient(t, l, "pipe")
		defer conn.Close()
		start := time.Now()
		wantStatus(t, s, Connected)
		typ, data, err := readFrame(t, conn, session)
		if err != nil || typ != controlType || len(data) != 9 || data[0] != kindPing {
			t.Fatal(typ, data, err)
		}
		if d := time.Since(start); d != 5*time.Second {
			t.Errorf("pinged after %v, want 5s", d)
		}
		m := wantStatus(t, s, Disconnected)
		if !errors.Is(m.Err, ErrTimeout) {
			t.Errorf("lost for %v, want ErrTimeout", m.Err)
		}
		if d := time.Since(start); d != 10*time.Second {
			t.Errorf("lost after %v, want 10s", d)
		}
	})
}

// Any frame counts as life, also one that is no pong.
func TestHeartbeatCountsAnyFrame(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, l := pipeServer(t, ServerConfig{Heartbeat: 5 * time.Second})
		defer s.Close()
		conn, session := rawClient(t, l, "pipe")
		defer conn.Close()
		go func() {
			for { // takes the pings, and answers none
				if _, _, err := readFrame(t, conn, session); err != nil {
					return
				}
			}
		}()
		wantStatus(t, s, Connected)
		for range 10 {
			<-time.After(9 * time.Second)
			writeFrame(t, conn, session, 7)
			if m, err := s.Read(); err != nil || m.MsgType != 7 {
				t.Fatal(m, err)
			}
		}
	})
}

// Two idle ends keep each other alive for a day, and nobody reads.
func TestHeartbeatKeepsIdleConnection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, c := pipeEnds(t, ServerConfig{Heartbeat: time.Second}, ClientConfig{Heartbeat: 3 * time.Second}, nil)
		<-time.After(24 * time.Hour)
		if s.ID() != 1 || s.StatusCode() != Connected || c.StatusCode() != Connected {
			t.Fatal(s.ID(), s.Status(), c.Status())
		}
		c.Close()
		s.Close()
	})
}

// A side whose queue is full pings each second, with any Heartbeat, and judges nobody.
func TestFullQueuePings(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, l := pipeServer(t, ServerConfig{Heartbeat: -1})
		defer s.Close()
		conn, session := rawClient(t, l, "pipe")
		defer conn.Close()
		done := make(chan struct{})
		go func() {
			defer close(done)
			sealed := make([]byte, queueSize)
			writeFrame(t, conn, session, 1, sealed...)
		}()
		<-done
		start := time.Now()
		for i := range 30 {
			typ, data, err := readFrame(t, conn, session)
			if err != nil || typ != controlType || data[0] != kindPing {
				t.Fatal(typ, data, err)
			}
			if d := time.Since(start); d != time.Duration(i+1)*time.Second {
				t.Fatalf("ping %d after %v", i+1, d)
			}
		}
		// Reading takes the full queue away, and the connection goes on.
		wantStatus(t, s, Connected)
		if m, err := s.Read(); err != nil || len(m.Data) != queueSize {
			t.Fatal(m, err)
		}
		writeFrame(t, conn, session, 2)
		if m, err := s.Read(); err != nil || m.MsgType != 2 {
			t.Fatal(m, err)
		}
		go io.Copy(io.Discard, conn)
	})
}

// A ping is answered with its bytes, whether or not anybody reads.
func TestPingIsAnswered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, l := pipeServer(t, ServerConfig{})
		defer s.Close()
		conn, session := rawClient(t, l, "pipe")
		defer conn.Close()
		for i := range byte(10) {
			writeFrame(t, conn, session, 0, kindPing, 1, 2, 3, 4, 5, 6, 7, i)
			typ, data, err := readFrame(t, conn, session)
			if err != nil || typ != controlType || data[0] != kindPong || data[8] != i {
				t.Fatal(typ, data, err)
			}
			if i == 4 { // from here on somebody reads
				go func() {
					for {
						if _, err := s.Read(); err != nil {
							return
						}
					}
				}()
			}
			synctest.Wait()
		}
		go io.Copy(io.Discard, conn)
	})
}

// The watcher steps in within a second after the last read.
func TestBackgroundReaderStartsAfterIdleReads(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, c := pipeEnds(t, ServerConfig{}, ClientConfig{}, nil)
		wantStatus(t, s, Connected)
		go c.Write(1, nil)
		if m, err := s.Read(); err != nil || m.MsgType != 1 {
			t.Fatal(m, err)
		}
		start := time.Now()
		if err := c.Write(2, nil); err != nil { // net.Pipe: somebody has read it
			t.Fatal(err)
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("nobody read for %v", d)
		}
		c.Close()
		s.Close()
	})
}

// Close of a side whose peer never reads returns after its 5 seconds, with an error.
func TestCloseOfStuckPeer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, l := pipeServer(t, ServerConfig{})
		conn, _ := rawClient(t, l, "pipe")
		defer conn.Close()
		wantStatus(t, s, Connected)
		start := time.Now()
		wrote := make(chan error, 1)
		go func() { wrote <- s.Write(1, nil) }() // net.Pipe has no buffer: this blocks
		synctest.Wait()
		closed := make(chan error, 1)
		go func() { closed <- s.Close() }()
		if err := <-wrote; !errors.Is(err, ErrClosed) {
			t.Errorf("Write: %v, want ErrClosed", err)
		}
		if d := time.Since(start); d > 100*time.Millisecond {
			t.Errorf("Write returned %v after Close", d)
		}
		if m, err := s.Read(); err != nil || m.Status != "Closed" {
			t.Error(m, err)
		}
		if s.StatusCode() != Closing {
			t.Error(s.Status())
		}
		if err := <-closed; err == nil {
			t.Error("Close returned nil, and the peer has read nothing")
		}
		if d := time.Since(start); d > 6*time.Second {
			t.Errorf("Close took %v", d)
		}
		if s.StatusCode() != Closed {
			t.Error(s.Status())
		}
	})
}

// A context that has ended cuts at once.
func TestShutdownWithDoneContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, l := pipeServer(t, ServerConfig{})
		conn, _ := rawClient(t, l, "pipe")
		defer conn.Close()
		wantStatus(t, s, Connected)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		start := time.Now()
		if err := s.Shutdown(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Shutdown: %v, want context.Canceled", err)
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("Shutdown took %v", d)
		}
	})
}

// A handshake that stands still ends after 10 seconds, without a word.
func TestSilentHandshakeEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, l := pipeServer(t, ServerConfig{})
		near, far := net.Pipe()
		l.conns <- far
		start := time.Now()
		b, err := io.ReadAll(near)
		if err != nil || len(b) != fullHello {
			t.Fatal(len(b), err)
		}
		if d := time.Since(start); d != handshakeTimeout {
			t.Errorf("ended after %v, want %v", d, handshakeTimeout)
		}
		near.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if n := s.Stats().Refused; n != 1 {
			t.Errorf("Refused is %d, want 1", n)
		}
	})
}

// A peer that has closed reports by its close-ack whether it has received what
// was written. An answer that comes before ours could be read is none.
func TestCloseAckBehindPeersClose(t *testing.T) {
	t.Parallel()
	closeFrame, held, discarded := ctl(kindClose, 0), ctl(kindCloseAck, 0), ctl(kindCloseAck, 1)
	for _, c := range []struct {
		name         string
		first, later []byte
		want         error
	}{
		{"held", closeFrame, held, nil},
		{"discarded", closeFrame, discarded, ErrUnconfirmed},
		{"none", closeFrame, nil, ErrUnconfirmed},
		{"too early", slices.Concat(closeFrame, held), nil, ErrUnconfirmed},
		{"close again and again", slices.Concat(closeFrame, closeFrame, closeFrame), slices.Concat(closeFrame, held), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range 50 { // the detector has to see a race
				bubble(t, func(t *testing.T) {
					s, l := pipeServer(t, ServerConfig{Encryption: EncryptionOff})
					near, _ := rawClient(t, l, "pipe")
					defer near.Close()
					wrote := make(chan error, 1)
					go func() { wrote <- s.Write(1, []byte("x")) }()
					if _, err := io.ReadFull(near, make([]byte, headerSize+1)); err != nil {
						t.Fatal(err)
					}
					if err := <-wrote; err != nil {
						t.Fatal(err)
					}
					if _, err := near.Write(c.first); err != nil {
						t.Fatal(err)
					}
					theirs := make([]byte, len(closeFrame)+len(held))
					if c.name == "too early" { // malformed: nothing more is written
						if n, err := near.Read(theirs); n != 0 || err != io.EOF {
							t.Fatalf("it writes %x, %v", theirs[:n], err)
						}
					} else if _, err := io.ReadFull(near, theirs); err != nil || !bytes.Equal(theirs, slices.Concat(closeFrame, held)) {
						t.Fatalf("it writes %x, %v", theirs, err)
					}
					if len(c.later) > 0 {
						if _, err := near.Write(c.later); err != nil {
							t.Fatal(err)
						}
					}
					near.Close()
					if err := s.Close(); !errors.Is(err, c.want) {
						t.Fatalf("Close says %v, want %v", err, c.want)
					}
				})
			}
		})
	}
}

// ctl is a control frame in plaintext.
func ctl(kind, what byte) []byte {
	return appendControl(nil, kind, what)
}

// A handshake that waits for its turn to compute is not charged for that; a peer that
// keeps the server waiting is, for its whole 10 seconds.
func TestHandshakeComputesInTurn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, l := pipeServer(t, ServerConfig{})
		defer s.Close()
		takeAll := func() {
			for range cap(s.listenerState.computeSlots) {
				s.listenerState.computeSlots <- struct{}{}
			}
		}
		giveAll := func() {
			for range cap(s.listenerState.computeSlots) {
				<-s.listenerState.computeSlots
			}
		}
		begin := func() net.Conn {
			near, far := net.Pipe()
			l.conns <- far
			return near
		}
		takeAll()
		conn := begin()
		defer conn.Close()
		<-time.After(3 * handshakeTimeout)
		giveAll()
		hello := make([]byte, fullHello)
		if _, err := io.ReadFull(conn, hello); err != nil {
			t.Fatalf("after a long wait in the server's line: %v", err)
		}
		key, err := newECDHKey()
		if err != nil {
			t.Fatal(err)
		}
		clientHello := append([]byte{0, hello[1] &^ flagHybrid, 0, 0, 16, 0}, key.PublicKey().Bytes()...)
		takeAll()
		<-time.After(handshakeTimeout / 2) // these are charged
		if _, err := conn.Write(clientHello); err != nil {
			t.Fatal(err)
		}
		<-time.After(3 * handshakeTimeout)
		giveAll()
		start := time.Now()
		if _, err := conn.Read(hello); err == nil || time.Since(start) != handshakeTimeout/2 {
			t.Errorf("a client without a confirmation has %v after %v, want an end after %v", err, time.Since(start), handshakeTimeout/2)
		}
	})
}

// Close does not wait for handshakes that wait for their turn.
func TestCloseWithWaitingHandshakes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, l := pipeServer(t, ServerConfig{})
		for range cap(s.listenerState.computeSlots) {
			s.listenerState.computeSlots <- struct{}{}
		}
		near, far := net.Pipe()
		defer near.Close()
		l.conns <- far
		synctest.Wait()
		start := time.Now()
		if err := s.Close(); err != nil || time.Since(start) > 0 {
			t.Errorf("Close says %v after %v", err, time.Since(start))
		}
	})
}

// TestTimersInBubbles is for programs that are tested in a bubble under
// the race detector: there two goroutines that wait for channel timers which
// are due already crash the process (Go 1.26).
func TestTimersInBubbles(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var clients sync.WaitGroup
		for range 8 {
			clients.Go(func() {
				for range 5000 {
					_, err := StartClient(&ClientConfig{Name: "nobody", Dial: func(context.Context) (net.Conn, error) {
						return nil, ErrUntrustedServer
					}})
					if !errors.Is(err, ErrUntrustedServer) {
						t.Error(err)
					}
				}
			})
		}
		clients.Wait()
	})
}

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
	hello, err := clientHello(&appended{conn, behind}, &handshakeConfig{name: "many", maxDataSize: 1 << 20, encrypt: c.s.settings.encrypt}, clientSide{newKey: newECDHKey})
	if err != nil {
		c.t.Fatal(err)
	}
	s, err := hello.readFinish()
	if err != nil {
		c.t.Fatal(err)
	}
	return &talks{conn, io.MultiReader(bytes.NewReader(s.trailingBytes), conn), c.t, s}
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
	if k.session.sendCipher == nil {
		return plain
	}
	sealed, err := k.session.sendCipher.seal(nil, plain)
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
	record, err := k.session.sendCipher.seal(nil, plain)
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
	if k.session.receiveCipher != nil {
		n += lengthSize + sealOverhead
	}
	if _, err := io.ReadFull(k.in, make([]byte, n)); err != nil {
		k.t.Fatal(err)
	}
}

// A thousand who connect and say nothing, or announce all that one may and say
// no more: each costs a few KiB and one goroutine, until it leaves. These run
// alone, since they count what is the whole process's.
func TestMemoryOfStalledPeers(t *testing.T) {
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
			hello := append(newHelloHead(0, flagEncrypted|flagHybrid, most), testKey(1).PublicKey().Bytes()...)
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
	testutil.NeedFiles(t, uint64(2*n+100))
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
		c.s.listenerState.mu.Lock()
		defer c.s.listenerState.mu.Unlock()
		pending := len(c.s.listenerState.pendingConns)
		return pending+c.s.Connections.Len() < n+1 || pending > 0 && time.Since(start) > handshakeTimeout
	}
	eventually(t, "all are there", func() bool { return !gone() || time.Since(start) > handshakeTimeout })
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
func TestMemoryUnderFloods(t *testing.T) {
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
func TestMemoryOfUnreadMessages(t *testing.T) {
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
func TestMemoryOfPeersThatNeverRead(t *testing.T) {
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
