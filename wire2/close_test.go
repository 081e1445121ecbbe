// How connections end: by either side, in order or not.

package wire2

import (
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/gipc"
	"example.com/gipc/internal/testutil"
)

// eachEnd runs f with the library's endpoint as a server and as a client.
func eachEnd(t *testing.T, f func(t *testing.T, l *library, p *oldPeer)) {
	t.Parallel()
	for _, encrypted := range []bool{true, false} {
		name := map[bool]string{true: "encrypted", false: "plaintext"}[encrypted]
		t.Run("server/"+name, func(t *testing.T) {
			t.Parallel()
			l, p := serverAnd(t, joe, Options{Encryption: encrypted})
			f(t, l, p)
		})
		t.Run("client/"+name, func(t *testing.T) {
			t.Parallel()
			l, p := clientAnd(t, james, Options{Encryption: encrypted}, 1<<20)
			f(t, l, p)
		})
	}
}

func TestCloseByLibrary(t *testing.T) {
	eachEnd(t, func(t *testing.T, l *library, p *oldPeer) {
		for range 50 {
			p.send(7, strings.Repeat("z", 1000))
		}
		l.write(slices.Concat(plainFrame(1, "before the close"), closeFrame))
		p.receive(1, "before the close")
		p.expectEnd()
		p.send(2, "after the close")
		p.conn.Close()
		for range 50 {
			l.receive(7, strings.Repeat("z", 1000))
		}
		l.receive(2, "after the close")
		l.closed()
	})
}

func TestCloseByPeer(t *testing.T) {
	eachEnd(t, func(t *testing.T, l *library, p *oldPeer) {
		p.send(1, "last")
		if err := closeWrite(p.conn); err != nil {
			t.Fatal(err)
		}
		l.receive(1, "last")
		l.expect(closeFrame)
		// What the library has accepted still goes out.
		l.write(slices.Concat(plainFrame(2, "accepted"), closeFrame, ackFrame))
		p.receive(2, "accepted")
		p.expectEnd()
		l.expect(ackFrame)
		l.expectEnd()
	})
}

// The close-ack waits for the library's close, even if the library reads on.
func TestCloseAckWaits(t *testing.T) {
	eachEnd(t, func(t *testing.T, l *library, p *oldPeer) {
		closeWrite(p.conn)
		l.expect(closeFrame)
		l.write(controlFrame(kindPing, 1, 2, 3, 4, 5, 6, 7, 8)) // the close was the last frame: no pong
		l.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		l.expectError(func(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) })
		l.SetReadDeadline(soon())
		read := make(chan []byte)
		go func() {
			b := make([]byte, len(ackFrame))
			io.ReadFull(l.Conn, b)
			read <- b
		}()
		l.write(slices.Concat(closeFrame, ackFrame))
		testutil.Equal(t, "what was read", <-read, ackFrame)
		l.expectEnd()
	})
}

func TestCloseCrossing(t *testing.T) {
	eachEnd(t, func(t *testing.T, l *library, p *oldPeer) {
		closeWrite(p.conn)
		l.closes()
		l.closed()
		p.expectEnd()
	})
}

// A library that ends its stream without a close gets no close-ack.
func TestCloseWriteWithoutClose(t *testing.T) {
	eachEnd(t, func(t *testing.T, l *library, p *oldPeer) {
		if err := closeWrite(l.Conn); err != nil {
			t.Fatal(err)
		}
		p.expectEnd()
		p.send(1, "still read")
		p.conn.Close()
		l.receive(1, "still read")
		l.expect(closeFrame)
		l.expectEnd()
	})
}

// A stream that ends inside a frame has no close.
func TestStreamTruncated(t *testing.T) {
	eachEnd(t, func(t *testing.T, l *library, p *oldPeer) {
		frame := p.frame(1, "data")
		p.write(frame[:len(frame)-1])
		p.conn.Close()
		if p.aead == nil {
			l.expect(plainFrame(1, "data")[:len(frame)-1])
		}
		for range 2 {
			l.expectError(func(err error) bool { return err == io.ErrUnexpectedEOF })
		}
		closeWrite(l.Conn)
		l.expectEnd() // what is left is discarded
	})
}

// A request cannot be sent, and ends the connection with an error that says so.
func TestRequestEndsTheConnection(t *testing.T) {
	eachEnd(t, func(t *testing.T, l *library, p *oldPeer) {
		request := append([]byte{0, 0, 0, 16, 0x80, 0, 0, 1}, "\x00\x00\x00\x00\x00\x00\x00\x01data"...)
		n, err := l.Conn.Write(slices.Concat(plainFrame(1, "before"), request))
		if n != len(plainFrame(1, "before")) || !errors.Is(err, gipc.ErrVersion) || !strings.Contains(err.Error(), "version 2 has no requests: use messages") {
			t.Errorf("Write: %d, %v", n, err)
		}
		if _, again := l.Conn.Write(plainFrame(2, "after")); again != err {
			t.Errorf("the next Write: %v", again)
		}
		p.receive(1, "before")
		p.expectEnd()
	})
}

// The frames that the library may not or need not send.
func TestControlFrames(t *testing.T) {
	eachEnd(t, func(t *testing.T, l *library, p *oldPeer) {
		l.write(controlFrame(kindPing, 1, 2, 3, 4, 5, 6, 7, 8))
		l.expect(controlFrame(kindPong, 1, 2, 3, 4, 5, 6, 7, 8))
		l.write(controlFrame(kindPong, 1, 2, 3, 4, 5, 6, 7, 8))
		l.write(controlFrame(15, 1))
		l.write(controlFrame(0))
		l.send(1, "next")
		p.receive(1, "next")
		for _, ping := range []byte{1, 2, 3} { // only the newest is answered
			l.write(controlFrame(kindPing, 0, 0, 0, 0, 0, 0, 0, ping))
		}
		l.expect(controlFrame(kindPong, 0, 0, 0, 0, 0, 0, 0, 3))
		if _, err := l.Conn.Write(controlFrame(16)); !errors.Is(err, gipc.ErrVersion) {
			t.Errorf("a critical kind: %v", err)
		}
		p.expectEnd()
	})
	t.Run("after the close", func(t *testing.T) {
		l, p := serverAnd(t, james, Options{})
		p.conn.Close()
		l.expect(closeFrame)
		l.write(controlFrame(kindPing, 1, 2, 3, 4, 5, 6, 7, 8))
		l.write(slices.Concat(closeFrame, closeFrame, ackFrame))
		l.expect(ackFrame)
		l.expectEnd()
		if _, err := l.Conn.Write(plainFrame(1, "")); !errors.Is(err, gipc.ErrClosed) {
			t.Errorf("a message: %v", err)
		}
	})
}

// A ping is answered while the library reads, between two frames.
func TestPongInterruptsRead(t *testing.T) {
	eachEnd(t, func(t *testing.T, l *library, p *oldPeer) {
		ping, pong := controlFrame(kindPing, 1, 2, 3, 4, 5, 6, 7, 8), controlFrame(kindPong, 1, 2, 3, 4, 5, 6, 7, 8)
		for range 20 {
			read := l.readAsync(len(pong))
			l.write(ping)
			if got := <-read; !slices.Equal(got, pong) {
				t.Fatalf("got %x", got)
			}
		}
		frame := p.frame(1, "in two parts")
		p.write(frame[:9])
		if p.aead == nil {
			l.expect(frame[:9])
			l.write(ping)
		}
		p.write(frame[9:])
		if p.aead == nil {
			l.expect(frame[9:])
			l.expect(pong)
		} else {
			l.receive(1, "in two parts")
		}
	})
}

// A read deadline loses no byte, wherever it passes.
func TestReadDeadlineLosesNothing(t *testing.T) {
	t.Parallel()
	for _, encrypted := range []bool{true, false} {
		l, p := serverAnd(t, james, Options{Encryption: encrypted})
		var got []byte
		for _, b := range slices.Concat(p.frame(1, "one"), p.frame(2, "two")) {
			p.write([]byte{b})
			for piece := make([]byte, 64); ; {
				l.SetReadDeadline(time.Now().Add(time.Millisecond))
				n, err := l.Conn.Read(piece)
				if got = append(got, piece[:n]...); n == 0 {
					if !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Fatal(err)
					}
					break
				}
			}
		}
		testutil.Equal(t, "what was read", got, slices.Concat(plainFrame(1, "one"), plainFrame(2, "two")))
	}
}

// A write deadline takes effect between frames.
func TestWriteDeadline(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		near, far := net.Pipe()
		u := startClient(t, near, Options{}, generateKey)
		p := james.on(t, far).asServer(false, 1<<20)
		l := u.wait()
		l.SetWriteDeadline(time.Now().Add(time.Second))
		done := make(chan error, 1)
		go func() {
			n, err := l.Conn.Write(slices.Concat(plainFrame(1, "written"), plainFrame(2, "not written")))
			if n != len(plainFrame(1, "written")) {
				t.Errorf("%d bytes are written", n)
			}
			done <- err
		}()
		p.readFull(5)
		<-time.After(time.Minute)
		synctest.Wait()
		if rest := p.readFull(10); string(rest) != "\x00\x00\x01written" {
			t.Errorf("the rest is %q", rest)
		}
		if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		l.SetWriteDeadline(time.Time{})
		sent := l.sendAsync(3, "next")
		p.receive(3, "next")
		if err := <-sent; err != nil {
			t.Error(err)
		}
		l.Close()
		p.conn.Close()
	})
}

// Close interrupts a Read and a Write.
func TestCloseInterrupts(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		for _, ended := range []bool{false, true} {
			near, far := net.Pipe()
			u := startClient(t, near, Options{}, generateKey)
			p := james.on(t, far).asServer(false, 1<<20)
			l := u.wait()
			if ended {
				p.conn.Close()
				l.expect(closeFrame)
			}
			failed := make(chan error, 2)
			go func() {
				_, err := l.Conn.Read(make([]byte, 1))
				failed <- err
			}()
			go func() {
				_, err := l.Conn.Write(plainFrame(1, "data"))
				failed <- err
			}()
			synctest.Wait()
			l.Close()
			for range 2 {
				if err := <-failed; err == nil {
					t.Error("no error")
				}
			}
			l.expectError(func(err error) bool { return errors.Is(err, net.ErrClosed) })
			p.conn.Close()
		}
	})
}

// CloseWrite after the library's close does nothing: the stream has ended.
func TestCloseWriteTwice(t *testing.T) {
	t.Parallel()
	near, far := socketPair(t)
	recorder := &writeRecorder{Conn: near}
	u := startServer(t, recorder, Options{}, generateKey)
	p := joe.on(t, far).asClient(false)
	l := u.wait()
	l.closes()
	if err := closeWrite(l.Conn); err != nil || recorder.halfCloses != 1 {
		t.Errorf("%v, half closed %d times", err, recorder.halfCloses)
	}
	p.conn.Close()
	l.closed()
}

// The deadline of the handshake does not interrupt frames.
func TestHandshakeDeadlineIsCleared(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		near, far := net.Pipe()
		near.SetDeadline(time.Now().Add(10 * time.Second))
		u := startClient(t, near, Options{}, generateKey)
		p := james.on(t, far).asServer(false, 1<<20)
		l := u.wait()
		<-time.After(time.Minute)
		sent := l.sendAsync(1, "later")
		p.receive(1, "later")
		if err := <-sent; err != nil {
			t.Error(err)
		}
		go p.conn.Write(p.frame(2, "later"))
		l.receive(2, "later")
		l.Close()
		p.conn.Close()
	})
}

// A connection that cannot be half closed is closed as a whole: the library then
// gets no close-ack, because nothing shows what the peer has received.
func TestCloseWithoutHalfClose(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		near, far := net.Pipe()
		u := startClient(t, near, Options{Encryption: true}, generateKey)
		p := james.on(t, far).asServer(true, 1<<20)
		l := u.wait()
		if err := closeWrite(l.Conn); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("CloseWrite: %v", err)
		}
		sent := l.sendAsync(1, "queued")
		p.receive(1, "queued")
		if err := <-sent; err != nil {
			t.Error(err)
		}
		ended := make(chan error, 1)
		go func() {
			_, err := l.Conn.Read(make([]byte, 1))
			ended <- err
		}()
		synctest.Wait()
		l.closes()
		p.expectEnd()
		if err := <-ended; err != io.EOF {
			t.Errorf("the library reads %v", err)
		}
		l.expectEnd()
		l.Close()

		near, far = net.Pipe()
		u = startClient(t, near, Options{}, generateKey)
		p = james.on(t, far).asServer(false, 1<<20)
		l = u.wait()
		p.conn.Close()
		l.answersClose() // the peer has ended first: that shows it
	})
}

// A connection without deadlines works, except that they cannot be used.
func TestWithoutDeadlines(t *testing.T) {
	t.Parallel()
	near, far := socketPair(t)
	u := startServer(t, noDeadlines{near}, Options{Encryption: true}, generateKey)
	p := joe.on(t, far).asClient(true)
	l := u.wait()
	if err := l.SetDeadline(soon()); err == nil {
		t.Error("SetDeadline returns nil")
	}
	l.SetDeadline(time.Time{})
	p.send(1, "one")
	l.receive(1, "one")
	l.write(controlFrame(kindPing, 1, 2, 3, 4, 5, 6, 7, 8))
	l.expect(controlFrame(kindPong, 1, 2, 3, 4, 5, 6, 7, 8))
	p.conn.Close()
	l.answersClose()
}

type noDeadlines struct{ net.Conn }

func (noDeadlines) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (noDeadlines) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (noDeadlines) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }
func (c noDeadlines) CloseWrite() error              { return closeWrite(c.Conn) }

// keyOf returns the key of the package's endpoint.
func keyOf(l *library) *sharedKey { return l.Conn.(*translator).writing.key }

// A key has a limit in frames and in bytes. Near it this side ends the connection
// in order, and at it no frame is sent.
func TestKeyLimits(t *testing.T) {
	t.Parallel()
	for name, use := range map[string]func(k *sharedKey, left uint64){
		"frames": func(k *sharedKey, left uint64) { k.usedFrames.Store(closeAtFrames - left) },
		"bytes":  func(k *sharedKey, left uint64) { k.usedBytes.Store(closeAtBytes - left*(4+32+4)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, p := serverAnd(t, joe, Options{Encryption: true})
			if k := keyOf(l); k.usedFrames.Load() != 0 || k.usedBytes.Load() != 0 {
				t.Error("the message with the limit counts")
			}
			use(keyOf(l), 3)
			l.send(1, "sent")
			p.receive(1, "sent")
			p.write(slices.Concat(p.frame(1, "more"), p.frame(1, "last"), p.frame(1, "over")))
			l.receive(1, "more")
			l.receive(1, "last")
			l.expect(closeFrame)
			l.write(slices.Concat(plainFrame(2, "accepted"), closeFrame, ackFrame))
			p.receive(2, "accepted")
			p.expectEnd()
			p.conn.Close()
			l.expectEnd() // the peer's frame was discarded, so there is no close-ack
		})
	}
	t.Run("while reading", func(t *testing.T) {
		l, p := serverAnd(t, joe, Options{Encryption: true})
		keyOf(l).usedFrames.Store(closeAtFrames - 1)
		read := l.readAsync(len(closeFrame))
		l.send(1, "last")
		testutil.Equal(t, "what was read", <-read, closeFrame)
		p.receive(1, "last")
	})
	t.Run("exhausted", func(t *testing.T) {
		l, p := serverAnd(t, joe, Options{Encryption: true})
		keyOf(l).usedFrames.Store(maxKeyFrames - 1)
		l.send(1, "last")
		if n, err := l.Conn.Write(plainFrame(1, "over")); n != 0 || !errors.Is(err, gipc.ErrNotConnected) {
			t.Errorf("%d, %v", n, err)
		}
		p.receive(1, "last")
		p.expectEnd()
	})
}
