// Handshakes that fail, and when each message of them is sent.

package wire2

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"example.com/gipc"
	"example.com/gipc/internal/testutil"
)

// The last message of a server waits for the library's decision: a client that
// is refused gets the end of the stream instead.
func TestServerRefusals(t *testing.T) {
	t.Parallel()
	for _, encrypted := range []bool{true, false} {
		for name, refusal := range map[string]func(l *library){
			"instead of the hello":  func(l *library) { l.write([]byte{0, 7}) },
			"instead of the finish": func(l *library) { l.offer(libraryLimit); l.write([]byte{8}) },
			"without a word":        func(l *library) {},
			"after the hello":       func(l *library) { l.offer(libraryLimit) },
		} {
			t.Run(fmt.Sprintf("%s/encrypted=%v", name, encrypted), func(t *testing.T) {
				t.Parallel()
				near, far := socketPair(t)
				u := startUpgrade(t, func(l *library) (err error) {
					l.Conn, err = Server(near, Options{Encryption: encrypted})
					return err
				})
				p := joe.on(t, far)
				p.asClientUntilLimit(encrypted)
				l := u.wait()
				refusal(l)
				if err := closeWrite(l.Conn); err != nil {
					t.Fatal(err)
				}
				p.expectEnd()
				p.write(p.frame(1, "not interpreted"))
				p.conn.Close()
				if strings.HasPrefix(name, "instead") {
					l.expectEnd()
				}
			})
		}
	}
}

// Nothing follows the limit before the client has answered.
func TestServerWaitsForTheLastByte(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		near, far := net.Pipe()
		u := startServer(t, near, Options{}, generateKey)
		p := james.on(t, far)
		p.asClientUntilLimit(false)
		p.takeLimit(false)
		synctest.Wait()
		select {
		case err := <-u.result:
			t.Fatalf("the handshake ends early: %v", err)
		default:
		}
		p.write([]byte{77})
		l := u.wait()
		l.Close()
		p.conn.Close()
	})
}

// A client that does not answer the limit fails at the library's deadline.
func TestServerLastByteDeadline(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(c net.Conn, d time.Time) error{"SetDeadline": net.Conn.SetDeadline, "SetWriteDeadline": net.Conn.SetWriteDeadline} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				near, far := net.Pipe()
				u := startUpgrade(t, func(l *library) (err error) {
					if l.Conn, err = Server(near, Options{}); err != nil {
						return err
					}
					set(l.Conn, time.Now().Add(10*time.Second))
					return l.acceptClient(libraryLimit)
				})
				p := james.on(t, far)
				p.asClientUntilLimit(false)
				p.takeLimit(false)
				before := time.Now()
				if err := u.fails(); !errors.Is(err, gipc.ErrTimeout) || time.Since(before) != 10*time.Second {
					t.Errorf("%v after %v", err, time.Since(before))
				}
				far.Close()
				near.Close()
			})
		})
	}
}

var offCurve = slices.Concat([]byte{4}, slices.Repeat([]byte{1}, 96))

func TestServerRefusesClients(t *testing.T) {
	t.Parallel()
	point := privateKey(t, clientScalar).PublicKey().Bytes()
	for name, c := range map[string]struct {
		encrypted bool
		sends     []byte
		kind      error
		text      string
		wrote     int
	}{
		"version":                {true, []byte{1}, gipc.ErrVersion, "wire2.Client", 2},
		"encryption":             {true, []byte{2}, gipc.ErrEncryption, "set Encryption", 2},
		"encryption, plaintext":  {false, []byte{2}, gipc.ErrEncryption, "set Encryption", 2},
		"reply 3":                {true, []byte{3}, gipc.ErrMalformed, "0x03, not 0 to 2", 2},
		"reply 255":              {false, []byte{255}, gipc.ErrMalformed, "0xff, not 0 to 2", 2},
		"HTTP":                   {true, []byte("GET / HTTP/1.1"), gipc.ErrMalformed, "looks like HTTP", 2},
		"TLS":                    {true, []byte{0x16, 3, 1}, gipc.ErrMalformed, "looks like TLS", 2},
		"SSH":                    {false, []byte("SSH-2.0"), gipc.ErrMalformed, "looks like SSH", 2},
		"joe with plain frames":  {true, append([]byte{0}, plainFrame(1, "data")...), gipc.ErrMalformed, "looks like a client with encryption off", 99},
		"a byte that is no key":  {true, []byte{0, 5}, gipc.ErrMalformed, "0x05", 99},
		"97 bytes, first not 04": {true, slices.Concat([]byte{0, 1}, point[1:]), gipc.ErrMalformed, "0x01", 99},
		"compressed":             {true, slices.Concat([]byte{0, 2}, point[1:49]), gipc.ErrMalformed, "0x02", 99},
		"hybrid":                 {true, slices.Concat([]byte{0, 6 + point[96]&1}, point[1:]), gipc.ErrMalformed, "no P-384 point", 99},
		"off the curve":          {true, slices.Concat([]byte{0}, offCurve), gipc.ErrMalformed, "no P-384 point", 99},
		"beyond the prime":       {true, slices.Concat([]byte{0, 4}, slices.Repeat([]byte{0xff}, 96)), gipc.ErrMalformed, "no P-384 point", 99},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &script{sends: c.sends}
			_, err := upgradeServer(s, Options{Encryption: c.encrypted}, fixedKey(privateKey(t, serverScalar)))
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.text) || !strings.HasPrefix(err.Error(), "gipc: wire2: ") {
				t.Errorf("error %v", err)
			}
			if s.got.Len() != c.wrote || !s.ended {
				t.Errorf("it wrote %x and ended the stream: %v", s.got.Bytes(), s.ended)
			}
		})
	}
}

// A handshake that the peer ends anywhere is truncated, for both roles.
func TestHandshakeTruncated(t *testing.T) {
	t.Parallel()
	server, client := privateKey(t, serverScalar), privateKey(t, clientScalar)
	aead := peerAEAD(t, server, client.PublicKey().Bytes(), false)
	sends := slices.Concat([]byte{2, 1}, server.PublicKey().Bytes(), []byte{0, 0, 0, 32}, aead.Seal(nil, nil, []byte{0, 0, 19, 136}, nil))
	for n := range sends {
		_, err := upgradeClient(&script{sends: sends[:n], end: io.EOF}, Options{Encryption: true}, fixedKey(client))
		if !errors.Is(err, gipc.ErrTruncated) || !errors.Is(err, io.EOF) {
			t.Errorf("after %d bytes of the server: %v", n, err)
		}
	}
	sends = slices.Concat([]byte{0}, client.PublicKey().Bytes())
	for n := range sends {
		_, err := upgradeServer(&script{sends: sends[:n], end: io.EOF}, Options{Encryption: true}, fixedKey(server))
		if !errors.Is(err, gipc.ErrTruncated) || n > 0 != strings.Contains(err.Error(), "encryption off") {
			t.Errorf("after %d bytes of the client: %v", n, err)
		}
	}
	l := &library{TB: t}
	l.Conn, _ = upgradeServer(&script{sends: sends, end: io.EOF}, Options{Encryption: true}, fixedKey(server))
	if err := l.acceptClient(libraryLimit); !errors.Is(err, gipc.ErrTruncated) {
		t.Errorf("without the last byte: %v", err)
	}
	broken := errors.New("broken")
	if _, err := upgradeServer(&script{sends: sends, broken: broken}, Options{}, fixedKey(server)); !errors.Is(err, broken) {
		t.Error(err)
	}
	if _, err := upgradeServer(&script{sends: []byte{2}, broken: broken}, Options{}, fixedKey(server)); !errors.Is(err, gipc.ErrEncryption) {
		t.Errorf("a reason after a write that failed: %v", err)
	}
	if _, err := upgradeClient(&script{sends: []byte{2, 1}, broken: broken}, Options{}, fixedKey(client)); !errors.Is(err, broken) {
		t.Error(err)
	}
}

// Every wait has the deadline of the connection, and a client's an extension.
func TestHandshakeDeadlines(t *testing.T) {
	t.Parallel()
	point := privateKey(t, clientScalar).PublicKey().Bytes()
	for _, sends := range [][]byte{nil, {0}, {0, 4}, append([]byte{0}, point[:96]...)} {
		t.Run(fmt.Sprint("server after ", len(sends)), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				near, far := net.Pipe()
				before := time.Now()
				near.SetDeadline(before.Add(10 * time.Second))
				go far.Write(sends)
				go io.Copy(io.Discard, far)
				_, err := Server(near, Options{Encryption: true})
				if !errors.Is(err, gipc.ErrTimeout) || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(before) != 10*time.Second {
					t.Errorf("%v after %v", err, time.Since(before))
				}
				near.Close()
			})
		})
	}
	for _, sends := range [][]byte{nil, {2}, {2, 1}, append([]byte{2, 1}, point...)} {
		t.Run(fmt.Sprint("client after ", len(sends)), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				near, far := net.Pipe()
				before := time.Now()
				near.SetDeadline(before.Add(10 * time.Second))
				go far.Write(sends)
				go io.Copy(io.Discard, far)
				_, err := Client(near, Options{})
				if !errors.Is(err, gipc.ErrTimeout) || time.Since(before) != 12*time.Second {
					t.Errorf("%v after %v", err, time.Since(before))
				}
				if want := "sent nothing"; len(sends) == 0 && !strings.Contains(err.Error(), want) {
					t.Errorf("%v, without %q", err, want)
				}
				near.Close()
			})
		})
	}
}

// A client whose deadline passes completes the handshake all the same, because
// existing servers stop accepting otherwise.
func TestClientCompletesTheHandshake(t *testing.T) {
	t.Parallel()
	for stage := range 4 { // at the last one the deadline does not pass
		t.Run(fmt.Sprint("stage ", stage), func(t *testing.T) {
			t.Parallel()
			near, far := socketPair(t)
			u := startClient(t, near, Options{Encryption: true}, generateKey)
			p := james.on(t, far)
			at := func(n int) {
				if n == stage {
					near.SetDeadline(time.Unix(1, 0))
				}
			}
			at(0)
			p.write([]byte{2, 1})
			p.readOnce(1)
			at(1)
			p.write(p.private.PublicKey().Bytes())
			p.aead = peerAEAD(t, p.private, p.readOnce(97), false)
			at(2)
			p.write(slices.Concat([]byte{0, 0, 0, 32}, p.seal([]byte{0, 0, 255, 255}), p.frame(1, strings.Repeat("not read", 1000))))
			p.readOnce(1)
			if stage == 3 {
				p.send(1, "after it")
				u.wait().Close()
				return
			}
			if err := u.failsWithEnd(p); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(err)
			}
		})
	}
}

// A deadline that passes before a write is extended as well.
func TestClientCompletesAWrite(t *testing.T) {
	t.Parallel()
	s := &lateWrite{script: script{sends: slices.Concat([]byte{2, 0}, limitMessage(nil, 5000))}}
	if _, err := Client(s, Options{}); !errors.Is(err, os.ErrDeadlineExceeded) || s.got.String() != "\x00\x00" || !s.ended {
		t.Errorf("%v, written %x", err, s.got.Bytes())
	}
}

// The first write of a lateWrite fails by a deadline.
type lateWrite struct {
	script
	failed bool
}

func (w *lateWrite) Write(b []byte) (int, error) {
	if !w.failed {
		w.failed = true
		return 0, os.ErrDeadlineExceeded
	}
	return w.script.Write(b)
}

// A Read that comes before the library's hello waits for it, even if frames of
// the peer have arrived.
func TestReadBeforeTheHello(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		near, far := net.Pipe()
		go far.Write(slices.Concat([]byte{0, 77}, plainFrame(1, "early")))
		go io.Copy(io.Discard, far)
		l := &library{TB: t}
		var err error
		if l.Conn, err = Server(near, Options{}); err != nil {
			t.Fatal(err)
		}
		read := make(chan []byte)
		go func() {
			b := make([]byte, 6+len(plainFrame(1, "early")))
			io.ReadFull(l.Conn, b)
			read <- b
		}()
		synctest.Wait()
		l.write(hello(3, libraryLimit))
		synctest.Wait()
		l.write([]byte{0})
		testutil.Equal(t, "what was read", <-read, slices.Concat(hello(0, libraryLimit), plainFrame(1, "early")))
		l.Close()
		far.Close()
	})
}

// With Encryption, a server without it is refused, of either version. One of
// version 2 gets a complete handshake first.
func TestClientRequiresEncryption(t *testing.T) {
	t.Parallel()
	near, far := socketPair(t)
	u := startClient(t, near, Options{Encryption: true}, generateKey)
	p := james.on(t, far).asServer(false, 5000)
	p.send(1, "not read")
	if err := u.failsWithEnd(p); !errors.Is(err, gipc.ErrEncryption) {
		t.Errorf("version 2: %v", err)
	}

	s := &script{sends: hello(3, libraryLimit), end: io.EOF}
	if _, err := Client(s, Options{Encryption: true}); !errors.Is(err, gipc.ErrEncryption) || s.got.String() != "\x02" {
		t.Errorf("version 3: %v, written %x", err, s.got.Bytes())
	}

	// Without it, the client does what the server does.
	near, far = socketPair(t)
	u = startClient(t, near, Options{}, generateKey)
	p = james.on(t, far).asServer(true, 5000)
	l := u.wait()
	l.send(1, "encrypted")
	p.receive(1, "encrypted")
}

// A server of any other version is the library's, with every byte.
func TestClientPassesOtherServers(t *testing.T) {
	t.Parallel()
	for name, sends := range map[string][]byte{
		"plaintext": hello(3, 5000), "encrypted": append([]byte{3, 1, 0, 0, 4, 0}, slices.Repeat([]byte{9}, 1665)...), "refusal": {0, 7}, "version 1": {1, 1},
		"HTTP": []byte("HTTP/1.1 400 Bad Request"), "version 4": {4},
	} {
		for _, o := range []Options{{}, {Encryption: name != "plaintext"}} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				near, far := socketPair(t)
				far.Write(sends)
				closeWrite(far)
				conn, err := Client(near, o)
				if err != nil {
					t.Fatal(err)
				}
				if _, ok := conn.(syscall.Conn); ok {
					t.Error("it has a descriptor")
				}
				if _, err := conn.Write([]byte("back")); err != nil {
					t.Error(err)
				}
				if err := closeWrite(conn); err != nil {
					t.Error(err)
				}
				if got, err := io.ReadAll(iotest.OneByteReader(conn)); err != nil || !slices.Equal(got, sends) {
					t.Errorf("got %x, %v", got, err)
				}
				if got, err := io.ReadAll(far); err != nil || string(got) != "back" {
					t.Errorf("the server got %q, %v", got, err)
				}
			})
		}
	}
	near, far := net.Pipe()
	defer far.Close()
	go far.Write([]byte{3, 0})
	conn, err := Client(near, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, ok := conn.(interface{ CloseWrite() error }); ok {
		t.Error("a pipe has a CloseWrite")
	}
}

// A library whose own config encrypts gets an error that names the field.
func TestLibraryWithEncryptionOn(t *testing.T) {
	t.Parallel()
	near, far := socketPair(t)
	u := startUpgrade(t, func(l *library) (err error) {
		if l.Conn, err = Server(near, Options{}); err != nil {
			return err
		}
		_, err = l.Conn.Write(append([]byte{3, 1, 0, 0, 4, 0}, slices.Repeat([]byte{4}, 97)...))
		return err
	})
	p := joe.on(t, far)
	p.asClientUntilLimit(false)
	if err := u.fails(); !errors.Is(err, gipc.ErrConfig) || !strings.Contains(err.Error(), "EncryptionOff") {
		t.Error(err)
	}
	u.end.expectError(func(err error) bool { return errors.Is(err, gipc.ErrConfig) })
	p.expectEnd()

	// A client refuses the played server by itself.
	near, far = socketPair(t)
	u = startUpgrade(t, func(l *library) (err error) {
		if l.Conn, err = Client(near, Options{}); err != nil {
			return err
		}
		l.expect(hello(3, 5000))
		_, err = l.Conn.Write([]byte{2})
		closeWrite(l.Conn)
		return err
	})
	p = james.on(t, far).asServer(false, 5000)
	l := u.wait()
	p.expectEnd()
	p.conn.Close()
	l.expectEnd()
}
