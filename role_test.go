// The reading role under attack: interrupts at the worst moment, readers who
// leave as they are granted it, and the watcher against them.

package gipc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/gipc/internal/testutil"
	"example.com/gipc/internal/transport"
)

// hooked is a connection that calls before each change of its read deadline.
type hooked struct {
	net.Conn
	before func(time.Time)
}

func (h *hooked) SetReadDeadline(t time.Time) error {
	h.before(t)
	return h.Conn.SetReadDeadline(t)
}

// It is read as a socket is whose descriptor cannot be tried.
func (h *hooked) Receive(b transport.Buffer) (int, error) {
	return transport.SocketSource{Conn: h.Conn}.Receive(b)
}

func (h *hooked) TryRead(b transport.Buffer, patient bool) (int, bool, error) {
	return transport.SocketSource{Conn: h.Conn}.TryRead(b, patient)
}

func (h *hooked) End() {}

// pipeEnds returns a server and a client that are connected by net.Pipe, the
// client's side through wrap.
func pipeEnds(t *testing.T, server ServerConfig, client ClientConfig, wrap func(net.Conn) net.Conn) (*Server, *Client) {
	t.Helper()
	l := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
	server.Name, server.Listener = "pipe", l
	s, err := StartServer(&server)
	if err != nil {
		t.Fatal(err)
	}
	client.Name, client.Dial = "pipe", func(ctx context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		select {
		case l.conns <- far:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-l.done:
			return nil, errors.New("no server")
		}
		if wrap != nil {
			near = wrap(near)
		}
		return near, nil
	}
	c, err := StartClient(&client)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		s.Close()
	})
	return s, c
}

type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// skipStatus reads the status messages that are there.
func skipStatus(t *testing.T, e interface {
	ReadTimed(time.Duration) (*Message, error)
}, n int) {
	t.Helper()
	for range n {
		m, err := e.ReadTimed(10 * time.Second)
		if err != nil || m.MsgType != statusType || m == TimeoutMessage {
			t.Fatalf("got %v, %v; want a status message", m, err)
		}
	}
}

// TestInterruptDuringDeadlineReset has every reason to leave come between the
// reader's decision to change its deadline and the change.
func TestInterruptDuringDeadlineReset(t *testing.T) {
	reasons := map[string]func(c *Client, cancel func()){
		"context": func(_ *Client, cancel func()) { cancel() },
		"close": func(c *Client, _ func()) {
			go c.Close()
			for !c.closing.Load() { // the reason; its deadline may be before or after ours
				runtime.Gosched()
			}
		},
		"loss": func(c *Client, _ func()) {
			c.doomNow(errors.New("lost"))
		},
	}
	for name, reason := range reasons {
		t.Run(name, func(t *testing.T) {
			for range 50 {
				var armed atomic.Bool
				var act func()
				wrap := func(conn net.Conn) net.Conn {
					return &hooked{conn, func(at time.Time) {
						if at.IsZero() && armed.CompareAndSwap(true, false) {
							act()
						}
					}}
				}
				s, c := pipeEnds(t, ServerConfig{}, ClientConfig{}, wrap)
				skipStatus(t, c, 2)
				// The watcher holds the role: it leaves for a reader in line, after its next message.
				wrote := make(chan error, 1)
				go func() {
					for inLine := 0; inLine == 0; runtime.Gosched() {
						c.mu.Lock()
						inLine = len(c.readRole.waiters)
						c.mu.Unlock()
					}
					wrote <- s.Write(1, nil)
				}()
				if m, err := c.Read(); err != nil || m.MsgType != 1 {
					t.Fatal(m, err)
				}
				if err := <-wrote; err != nil {
					t.Fatal(err)
				}
				// Leave a deadline in place, so that the next reader clears it.
				if m, err := c.ReadTimed(time.Millisecond); m != TimeoutMessage || err != nil {
					t.Fatal(m, err)
				}
				ctx, cancel := context.WithCancel(context.Background())
				act = func() { reason(c, cancel) }
				armed.Store(true)
				done := make(chan error, 1)
				go func() {
					m, err := c.ReadContext(ctx)
					if err == nil && m.MsgType == statusType {
						err = errors.New(m.Status)
					}
					done <- err
				}()
				select {
				case err := <-done:
					if err == nil {
						t.Fatal("a reader was woken without a message or a reason")
					}
				case <-time.After(20 * time.Second):
					t.Fatal("a reader slept through its reason")
				}
				if armed.Load() {
					t.Fatal("the reader never cleared the deadline: the test tests nothing")
				}
				cancel()
			}
		})
	}
}

// doomNow is what a heartbeat does that finds the peer lost.
func (e *endpoint) doomNow(err error) {
	c := e.currentConn.Load()
	c.failAt(err, time.Now())
	c.interrupt()
}

// numbered writes n messages that are their own number, from 1 on.
func numbered(t *testing.T, c *Client, n int) {
	for i := 1; i <= n; i++ {
		var b [8]byte
		binary.BigEndian.PutUint64(b[:], uint64(i))
		if err := c.Write(1, b[:]); err != nil {
			t.Error(err)
			return
		}
	}
}

// TestReadersThatGiveUp has readers with tiny timeouts compete, so that grants
// meet readers who leave, also against a watcher that is quick to step in.
func TestReadersThatGiveUp(t *testing.T) {
	for _, readers := range []int{1, 2, 8} {
		for _, idle := range []time.Duration{idleBeforeBackground, 300 * time.Microsecond} {
			t.Run(fmt.Sprint(readers, idle), func(t *testing.T) {
				t.Parallel()
				s, c := socketEnds(t, ServerConfig{}, ClientConfig{})
				s.mu.Lock()
				s.readRole.idleDelay = idle
				s.mu.Unlock()
				const n = 20000
				go numbered(t, c, n)
				var mu sync.Mutex
				seen := make([]int, n+1)
				var got atomic.Int64
				var wg sync.WaitGroup
				for range readers {
					wg.Go(func() {
						last, calls := uint64(0), 0
						for got.Load() < n {
							d := time.Duration(rand.IntN(300)) * time.Microsecond
							var m *Message
							var err error
							switch calls++; calls % 3 {
							case 0:
								ctx, cancel := context.WithTimeout(context.Background(), d)
								m, err = s.ReadContext(ctx)
								cancel()
								if errors.Is(err, context.DeadlineExceeded) {
									continue
								}
							default:
								m, err = s.ReadTimed(d)
							}
							if err != nil {
								t.Error(err)
								return
							}
							if m.MsgType != 1 {
								continue
							}
							i := binary.BigEndian.Uint64(m.Data)
							if i <= last {
								t.Errorf("message %d after %d in one reader", i, last)
							}
							last = i
							mu.Lock()
							seen[i]++
							mu.Unlock()
							got.Add(1)
						}
					})
				}
				wg.Wait()
				for i, k := range seen[1:] {
					if k != 1 {
						t.Fatalf("message %d was read %d times", i+1, k)
					}
				}
			})
		}
	}
}

// TestBackgroundReaderAndReaders has the watcher take the role over and over while a
// reader comes back at that very moment: order is kept.
func TestBackgroundReaderAndReaders(t *testing.T) {
	s, c := socketEnds(t, ServerConfig{}, ClientConfig{})
	s.mu.Lock()
	s.readRole.idleDelay = 50 * time.Microsecond
	s.mu.Unlock()
	const n = 20000
	go numbered(t, c, n)
	for next := uint64(1); next <= n; {
		if rand.IntN(16) == 0 {
			<-time.After(time.Duration(rand.IntN(200)) * time.Microsecond)
		}
		m, err := s.Read()
		if err != nil {
			t.Fatal(err)
		}
		if m.MsgType != 1 {
			continue
		}
		if i := binary.BigEndian.Uint64(m.Data); i != next {
			t.Fatalf("got message %d, want %d", i, next)
		}
		next++
	}
}

// socketEnds returns a server and a client that are connected by a unix socket.
func socketEnds(t testing.TB, server ServerConfig, client ClientConfig) (*Server, *Client) {
	t.Helper()
	server.Name, server.Network, server.Address = "test", "unix", testutil.TempSocket(t)
	client.Name, client.Network, client.Address = "test", "unix", server.Address
	s, err := StartServer(&server)
	if err != nil {
		t.Fatal(err)
	}
	c, err := StartClient(&client)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		s.Close()
	})
	return s, c
}

// Who was told that a write failed waits for the next connection, and not for
// the reader to have noticed.
func TestWaitConnectedAfterAFailedWrite(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, conns := startPiped(t, ServerConfig{Encryption: EncryptionOff})
		storm := &connFaults{cut: 20} // in the first message
		c, err := StartClient(&ClientConfig{Name: "n", Encryption: EncryptionOff, Dial: func(context.Context) (net.Conn, error) {
			near, far := newFaultPipe(storm, nil)
			storm = nil
			conns <- far
			return near, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		defer s.Close()
		for status := ""; status != Connected.String(); {
			m, err := c.Read()
			if err != nil {
				t.Fatal(err)
			}
			status = m.Status
		}
		if err := c.Write(1, make([]byte, 100)); !errors.Is(err, ErrUnconfirmed) { // a pipe does not tell what it has taken
			t.Fatalf("%v, want ErrUnconfirmed", err)
		}
		if err := c.WaitConnected(t.Context()); err != nil || c.ID() != 2 {
			t.Errorf("%v and connection %d, want the second", err, c.ID())
		}
	})
}

// A read that was interrupted before it began leaves nothing borrowed.
func TestInterruptedReadHoldsNoBuffer(t *testing.T) {
	listener, err := net.Listen("unix", testutil.TempSocket(t))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.Dial("unix", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	d := &decoder{buffers: new(bufferPool)}
	source := transport.NewSource(conn)
	source.SetReadDeadline(transport.Past)
	if _, err := source.Receive(d); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	if d.input != nil {
		t.Error("a buffer is held")
	}
}

// TestPauseCopiesNothing: reading that stops after each message, as with a full queue,
// does not copy the rest of the open record each time.
func TestPauseCopiesNothing(t *testing.T) {
	sealing, opening := newRecordCipher(senderSecret), newRecordCipher(senderSecret)
	const messages = 2000
	stream := record(sealing, bytes.Repeat(plainFrame(1, make([]byte, 8)), messages)...)
	d := &decoder{cipher: opening, maxDataSize: 100, buffers: new(bufferPool)}
	to := destination{reuse: true, callerMemory: make([]byte, 0, 8), maxSize: unlimited}
	var f frame
	for step := needBytes; step != frameReady; step, _ = d.nextFrame(&to, &f) {
		n := copy(d.Space(), stream)
		d.Received(n)
		stream = stream[n:]
	}
	n := testing.AllocsPerRun(messages-2, func() {
		if step, err := d.nextFrame(&to, &f); step != frameReady || err != nil {
			t.Fatal(step, err)
		}
		d.releaseUnused()
	})
	if n > 0 {
		t.Errorf("%v allocations each time", n)
	}
}

// TestUnreadInputIsBounded: a side whose application does not read holds little beside
// the queue, although the reads before were large and the peer sends what it can.
func TestUnreadInputIsBounded(t *testing.T) {
	t.Parallel()
	c := gather(t, ServerConfig{}, ClientConfig{})
	client, srv := c.member()
	go func() {
		for client.Write(1, make([]byte, 1000)) == nil {
		}
	}()
	for range 1000 { // large reads
		if _, err := srv.Read(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "reading stops", func() bool {
		srv.mu.Lock()
		defer srv.mu.Unlock()
		return srv.readRole.state == roleStopped
	})
	srv.mu.Lock()
	defer srv.mu.Unlock()
	d := srv.currentConn.Load().decoder
	held := 0
	if d.input != nil {
		held = cap(d.input.data)
	}
	if held > 16<<10 || srv.unreadQueue.queuedBytes > queueSize {
		t.Errorf("the decoder holds %d bytes, the queue %d", held, srv.unreadQueue.queuedBytes)
	}
}
