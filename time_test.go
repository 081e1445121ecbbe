// Whatever depends on the clock, in bubbles where it is not the real one:
// heartbeats, pings of a side whose queue is full, the watcher, goodbyes to a
// peer that does not answer.

package gipc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// rawClient shakes hands with a server over net.Pipe by hand, encrypted where that
// is, and returns what a client has then, without any of its behaviour.
func rawClient(t *testing.T, l *pipeListener, name string) (net.Conn, *session) {
	t.Helper()
	near, far := net.Pipe()
	l.conns <- far
	hello, err := clientHello(near, &terms{name: name, limit: defaultMsgSize}, clientSide{key: newKey})
	if err != nil {
		t.Fatal(err)
	}
	s, err := hello.finish()
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
	plain, err := s.in.open(nil, body)
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
	if _, err := conn.Write(appendFrame(s.out, uint32(typ), data)); err != nil {
		t.Fatal(err)
	}
}

func wantStatus(t *testing.T, s interface{ Read() (*Message, error) }, status Status) *Message {
	t.Helper()
	m, err := s.Read()
	if err != nil || m.MsgType != internalType || m.Status != status.String() {
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
func TestWatcherStepsIn(t *testing.T) {
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
func TestShutdownCutsAtOnce(t *testing.T) {
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
		if d := time.Since(start); d != greetTime {
			t.Errorf("ended after %v, want %v", d, greetTime)
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

// A peer that has said goodbye says with its answer to ours whether it has what
// was written. An answer that comes before ours could be read is none.
func TestAnswerToTheGoodbyeBehindThePeers(t *testing.T) {
	t.Parallel()
	goodbye, held, discarded := ctl(kindClose, 0), ctl(kindCloseAck, 0), ctl(kindCloseAck, 1)
	for _, c := range []struct {
		name         string
		first, later []byte
		want         error
	}{
		{"held", goodbye, held, nil},
		{"discarded", goodbye, discarded, ErrUnconfirmed},
		{"none", goodbye, nil, ErrUnconfirmed},
		{"too early", slices.Concat(goodbye, held), nil, ErrUnconfirmed},
		{"goodbye again and again", slices.Concat(goodbye, goodbye, goodbye), slices.Concat(goodbye, held), nil},
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
					theirs := make([]byte, len(goodbye)+len(held))
					if c.name == "too early" { // malformed: nothing more is written
						if n, err := near.Read(theirs); n != 0 || err != io.EOF {
							t.Fatalf("it writes %x, %v", theirs[:n], err)
						}
					} else if _, err := io.ReadFull(near, theirs); err != nil || !bytes.Equal(theirs, slices.Concat(goodbye, held)) {
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
func TestHandshakeWaitsForItsTurn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, l := pipeServer(t, ServerConfig{})
		defer s.Close()
		takeAll := func() {
			for range cap(s.host.working) {
				s.host.working <- struct{}{}
			}
		}
		giveAll := func() {
			for range cap(s.host.working) {
				<-s.host.working
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
		<-time.After(3 * greetTime)
		giveAll()
		hello := make([]byte, fullHello)
		if _, err := io.ReadFull(conn, hello); err != nil {
			t.Fatalf("after a long wait in the server's line: %v", err)
		}
		key, err := newKey()
		if err != nil {
			t.Fatal(err)
		}
		clientHello := append([]byte{0, hello[1] &^ flagHybrid, 0, 0, 16, 0}, key.PublicKey().Bytes()...)
		takeAll()
		<-time.After(greetTime / 2) // these are charged
		if _, err := conn.Write(clientHello); err != nil {
			t.Fatal(err)
		}
		<-time.After(3 * greetTime)
		giveAll()
		start := time.Now()
		if _, err := conn.Read(hello); err == nil || time.Since(start) != greetTime/2 {
			t.Errorf("a client without a confirmation has %v after %v, want an end after %v", err, time.Since(start), greetTime/2)
		}
	})
}

// Close does not wait for handshakes that wait for their turn.
func TestCloseWithHandshakesInLine(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, l := pipeServer(t, ServerConfig{})
		for range cap(s.host.working) {
			s.host.working <- struct{}{}
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
