// Version 2 against itself and against scripted peers that behave as the three
// that exist: an earlier Go program (A), its fork (B), and a client for Node.js (N).

package gipc

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// oldKind is what one of the existing peers does in its own way.
type oldKind struct {
	name   string
	eager  bool // as a client it sends its key before it has the server's
	padded bool // it hashes the x-coordinate with its leading zero bytes
	whole  bool // it wants each frame in one read, of 65,536 bytes at most
}

var (
	oldA = oldKind{name: "A"}
	oldB = oldKind{name: "B", eager: true}
	oldN = oldKind{name: "N", padded: true, whole: true}
)

// oldPeer is such a peer. A failure of its script ends the test, so it runs on
// the test's own goroutine.
type oldPeer struct {
	testing.TB
	oldKind
	conn    net.Conn
	private *ecdh.PrivateKey
	aead    cipher.AEAD // nil in plaintext
	limit   uint32
}

func (k oldKind) new(t testing.TB, conn net.Conn) *oldPeer {
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	private, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	return &oldPeer{TB: t, oldKind: k, conn: conn, private: private}
}

func (p *oldPeer) write(b []byte) {
	p.Helper()
	if _, err := p.conn.Write(b); err != nil {
		p.Fatalf("peer %s: write: %v", p.name, err)
	}
}

// one reads once: that has to bring n bytes and not one more.
func (p *oldPeer) one(n int) []byte {
	p.Helper()
	b := make([]byte, 1<<16)
	got, err := p.conn.Read(b)
	if err != nil || got != n {
		p.Fatalf("peer %s: one read brings %d bytes, %v; want %d", p.name, got, err, n)
	}
	return b[:n]
}

func (p *oldPeer) full(n int) []byte {
	p.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(p.conn, b); err != nil {
		p.Fatalf("peer %s: read: %v", p.name, err)
	}
	return b
}

// oldAEAD is the key of a connection.
func oldAEAD(t testing.TB, private *ecdh.PrivateKey, point []byte, padded bool) cipher.AEAD {
	t.Helper()
	other, err := ecdh.P384().NewPublicKey(point)
	if err != nil {
		t.Fatal(err)
	}
	x, err := private.ECDH(other)
	if err != nil {
		t.Fatal(err)
	}
	if !padded {
		x = new(big.Int).SetBytes(x).Bytes()
	}
	sum := sha256.Sum256(x)
	block, err := aes.NewCipher(sum[:])
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	return aead
}

// asClient goes through the handshake.
func (p *oldPeer) asClient(encrypted bool) *oldPeer {
	p.Helper()
	read, flag := p.one, byte(0)
	var stripped cipher.AEAD
	if p.eager {
		read = p.full // what it has not asked for may come together
	}
	if encrypted {
		flag = 1
	}
	if hello := p.one(2); !bytes.Equal(hello, []byte{2, flag}) {
		p.Fatalf("peer %s: hello %x", p.name, hello)
	}
	p.write([]byte{0})
	size := 4
	if encrypted {
		if p.eager {
			p.write(p.private.PublicKey().Bytes())
		}
		point := read(97)
		if !p.eager {
			p.write(p.private.PublicKey().Bytes())
		}
		p.aead, size = oldAEAD(p, p.private, point, p.padded), 32
		stripped = oldAEAD(p, p.private, point, false) // N verifies no tag, and reads a limit that it cannot open
	}
	b := read(4 + size)
	if n := binary.BigEndian.Uint32(b); n != uint32(size) {
		p.Fatalf("peer %s: the limit comes in %d bytes", p.name, n)
	}
	p.limit = binary.BigEndian.Uint32((&oldPeer{TB: p, oldKind: p.oldKind, aead: stripped}).open(b[4:]))
	p.write([]byte{0})
	return p
}

// asServer goes through the handshake. It keeps a key that was set.
func (p *oldPeer) asServer(encrypted bool, limit uint32) *oldPeer {
	p.Helper()
	hello := []byte{2, 0}
	if encrypted {
		hello[1] = 1
	}
	p.write(hello)
	if reply := p.one(1); reply[0] != 0 {
		p.Fatalf("server %s got reply %d, and stops for good", p.name, reply[0])
	}
	if encrypted {
		p.write(p.private.PublicKey().Bytes())
		p.aead = oldAEAD(p, p.private, p.one(97), p.padded)
	}
	b := p.seal(binary.BigEndian.AppendUint32(nil, limit))
	p.write(append(appendPrefix(nil, len(b)), b...))
	p.full(1)
	return p
}

func (p *oldPeer) seal(b []byte) []byte {
	if p.aead == nil {
		return b
	}
	return p.aead.Seal(nil, nil, b, nil)
}

func (p *oldPeer) open(b []byte) []byte {
	p.Helper()
	if p.aead == nil {
		return b
	}
	b, err := p.aead.Open(nil, nil, b, nil)
	if err != nil {
		p.Fatalf("peer %s: %v", p.name, err)
	}
	return b
}

func (p *oldPeer) frame(typ uint32, data string) []byte {
	b := p.seal(append(binary.BigEndian.AppendUint32(nil, typ), data...))
	return append(appendPrefix(nil, len(b)), b...)
}

func (p *oldPeer) send(typ uint32, data string) {
	p.Helper()
	p.write(p.frame(typ, data))
}

func (p *oldPeer) recv(typ uint32, data string) {
	p.Helper()
	var b []byte
	if p.whole {
		size := 8 + len(data)
		if p.aead != nil {
			size += 28
		}
		b = p.one(size)[4:]
	} else {
		b = p.full(int(binary.BigEndian.Uint32(p.full(4))))
	}
	b = p.open(b)
	if got := binary.BigEndian.Uint32(b); got != typ || string(b[4:]) != data {
		p.Fatalf("peer %s got type %d, %d bytes %.20q; want type %d, %d bytes %.20q", p.name, got, len(b)-4, b[4:], typ, len(data), data)
	}
}

// ends reads the end of the stream. A and B do not dial again after a reset.
func (p *oldPeer) ends() {
	p.Helper()
	var b [1]byte
	if n, err := p.conn.Read(b[:]); n != 0 || err != io.EOF {
		p.Fatalf("peer %s reads %d bytes, %v; want the end", p.name, n, err)
	}
	p.conn.Close()
}

type wire2Reader interface {
	ReadTimed(time.Duration) (*Message, error)
}

// getsStatus reads a status message with no error, or one that matches want.
func getsStatus(t testing.TB, e wire2Reader, s Status, want error) {
	t.Helper()
	m, err := e.ReadTimed(20 * time.Second)
	if err != nil || m.MsgType != internalType || m.Status != s.String() || !errors.Is(m.Err, want) {
		t.Fatalf("got %+v, %v; want %v with %v", m, err, s, want)
	}
}

func gets(t testing.TB, e wire2Reader, typ int, data string) {
	t.Helper()
	m, err := e.ReadTimed(20 * time.Second)
	if err != nil || m.MsgType != typ || string(m.Data) != data {
		t.Fatalf("got %+.80v, %v; want type %d, %.20q", m, err, typ, data)
	}
}

func writes(t testing.TB, e interface{ Write(int, []byte) error }, typ int, data string) {
	t.Helper()
	if err := e.Write(typ, []byte(data)); err != nil {
		t.Fatal(err)
	}
}

func encryption(on bool) Encryption {
	if on {
		return EncryptionOn
	}
	return EncryptionOff
}

// server2 is a server of version 2 and the path of its socket.
func server2(t testing.TB, c ServerConfig) (*Server, string) {
	t.Helper()
	c.Name, c.Network, c.Address, c.Wire = "two", "unix", tempSocket(t), WireV2
	s, err := StartServer(&c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, c.Address
}

func dialOld(t testing.TB, k oldKind, path string) *oldPeer {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return k.new(t, conn)
}

// client2 starts a client while script plays the server's first connection.
func client2(t testing.TB, c ClientConfig, script func(net.Listener)) (*Client, error) {
	t.Helper()
	c.Name, c.Network, c.Address, c.AllowWireV2 = "two", "unix", tempSocket(t), true
	l, err := net.Listen("unix", c.Address)
	if err != nil {
		t.Fatal(err)
	}
	var started *Client
	t.Cleanup(func() {
		l.Close() // first: the client may stand in a handshake, which it would complete
		if started != nil {
			started.Close()
		}
	})
	done := make(chan error, 1)
	go func() {
		var err error
		started, err = StartClient(&c)
		done <- err
	}()
	script(l)
	err = <-done
	return started, err
}

func acceptOld(t testing.TB, k oldKind, l net.Listener) *oldPeer {
	t.Helper()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return k.new(t, conn)
}

// awaitRoom waits until s lets a client in: the last handshake is done with a
// moment after its Connected.
func awaitRoom(s *Server) {
	for !s.Connections.room(false) {
		runtime.Gosched()
	}
}

// each2 runs f encrypted and in plaintext, for each kind.
func each2(t *testing.T, kinds []oldKind, f func(t *testing.T, k oldKind, encrypted bool)) {
	t.Parallel()
	for _, k := range kinds {
		for _, encrypted := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/encrypted=%v", k.name, encrypted), func(t *testing.T) {
				t.Parallel()
				f(t, k, encrypted)
			})
		}
	}
}

func TestWire2BothEnds(t *testing.T) {
	each2(t, []oldKind{{name: "ours"}}, func(t *testing.T, _ oldKind, encrypted bool) {
		s, path := server2(t, ServerConfig{Encryption: encryption(encrypted)})
		config := &ClientConfig{Name: "another name: it is not checked", Network: "unix", Address: path, Encryption: encryption(encrypted), AllowWireV2: true}
		c, err := StartClient(config)
		if err != nil {
			t.Fatal(err)
		}
		getsStatus(t, s, Connected, nil)
		getsStatus(t, c, Connecting, nil)
		getsStatus(t, c, Connected, nil)
		if (c.link.cipher != nil) != encrypted || c.link.version != 2 || s.Stats().Refused != 0 {
			t.Errorf("version %d, encrypted %v", c.link.version, c.link.cipher != nil)
		}
		sizes := []int{0, 1, directSize - 1, directSize, 65_500, 65_536, 65_537, 300_000, defaultMsgSize}
		for _, way := range []struct {
			from interface{ Write(int, []byte) error }
			to   wire2Reader
		}{{c, s}, {s, c}} {
			failed := make(chan error, 1)
			go func() {
				for i, n := range sizes {
					if err := way.from.Write(i+1, bytes.Repeat([]byte{'a' + byte(i)}, n)); err != nil {
						failed <- err
						return
					}
				}
				failed <- way.from.Write(maxType, []byte("the largest type"))
			}()
			for i, n := range sizes {
				gets(t, way.to, i+1, strings.Repeat(string('a'+byte(i)), n))
			}
			gets(t, way.to, maxType, "the largest type")
			if err := <-failed; err != nil {
				t.Fatal(err)
			}
			if err := way.from.Write(1, make([]byte, defaultMsgSize+1)); !errors.Is(err, ErrTooLarge) {
				t.Errorf("over the limit: %v", err)
			}
		}
		for i := range 100 {
			if err := c.Queue(1, []byte(strconv.Itoa(i))); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		for i := range 100 {
			gets(t, s, 1, strconv.Itoa(i))
		}
		getsStatus(t, s, Disconnected, nil)
		if c, err = StartClient(config); err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		getsStatus(t, s, Connected, nil)
		if err := s.Close(); err != nil {
			t.Errorf("the server's Close: %v", err)
		}
		getsStatus(t, c, Connecting, nil)
		getsStatus(t, c, Connected, nil)
		getsStatus(t, c, ReConnecting, nil)
	})
}

// The server against each client.
func TestWire2Clients(t *testing.T) {
	each2(t, []oldKind{oldA, oldB, oldN}, func(t *testing.T, k oldKind, encrypted bool) {
		s, path := server2(t, ServerConfig{Encryption: encryption(encrypted), MaxMsgSize: 1 << 20})
		p := dialOld(t, k, path).asClient(encrypted)
		if p.limit != 1<<20 {
			t.Errorf("the server's limit is %d", p.limit)
		}
		getsStatus(t, s, Connected, nil)
		conversation(t, s, p)
		// It leaves, and comes again.
		p.conn.Close()
		getsStatus(t, s, Disconnected, nil)
		awaitRoom(s)
		p = dialOld(t, k, path).asClient(encrypted)
		getsStatus(t, s, Connected, nil)
		finale(t, s, p)
	})
}

// The client against each server.
func TestWire2Servers(t *testing.T) {
	each2(t, []oldKind{oldA, oldB}, func(t *testing.T, k oldKind, encrypted bool) {
		var p *oldPeer
		var l net.Listener
		c, err := client2(t, ClientConfig{Encryption: encryption(encrypted)}, func(listener net.Listener) {
			l = listener
			p = acceptOld(t, k, l).asServer(encrypted, 1<<20)
		})
		if err != nil {
			t.Fatal(err)
		}
		getsStatus(t, c, Connecting, nil)
		getsStatus(t, c, Connected, nil)
		conversation(t, c, p)
		p.conn.Close()
		getsStatus(t, c, ReConnecting, nil)
		p = acceptOld(t, k, l).asServer(encrypted, 1<<20)
		getsStatus(t, c, Connected, nil)
		if c.ID() != 2 || c.Stats().Reconnects != 1 {
			t.Errorf("ID %d, %+v", c.ID(), c.Stats())
		}
		finale(t, c, p)
	})
}

type wire2End interface {
	wire2Reader
	Write(int, []byte) error
	Queue(int, []byte) error
	Close() error
}

// conversation is what passes between an end of ours and a peer.
func conversation(t *testing.T, e wire2End, p *oldPeer) {
	t.Helper()
	p.send(1, "")
	p.send(0, "\x03\x00, which would be a goodbye")
	p.send(0, "")
	p.send(maxType, "the largest that we send")
	gets(t, e, 1, "")
	gets(t, e, maxType, "the largest that we send")
	if strconv.IntSize > 32 {
		most := uint32(1<<32 - 1)
		p.send(maxType+1, "larger")
		p.send(most, "the largest")
		gets(t, e, int(most/2+1), "larger")
		gets(t, e, int(most), "the largest")
	}
	large := strings.Repeat("x", 65_536-8-28)
	writes(t, e, 1, "")
	p.recv(1, "")
	writes(t, e, 2, large)
	if !p.whole { // it reads as it can from a socket that fills up
		p.recv(2, large)
		sent := make(chan error, 1)
		larger := strings.Repeat("y", 1<<20)
		go func() { sent <- e.Write(3, []byte(larger)) }()
		p.recv(3, larger)
		if err := <-sent; err != nil {
			t.Error(err)
		}
	} else {
		p.recv(2, large)
	}
	if err := e.Write(1, make([]byte, 1<<20+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("over the limit: %v", err)
	}
}

// finale closes an end of ours with input that it has not read: the peer gets
// what was written, and then the end of the stream and no reset.
func finale(t *testing.T, e wire2End, p *oldPeer) {
	t.Helper()
	for range 50 {
		p.send(7, strings.Repeat("z", 1000))
	}
	gets(t, e, 7, strings.Repeat("z", 1000)) // it says which key N uses
	writes(t, e, 5, "written")
	if !p.whole { // what is read in one may be of two frames
		if err := e.Queue(6, []byte("queued")); err != nil {
			t.Fatal(err)
		}
	}
	closed := make(chan error, 1)
	go func() { closed <- e.Close() }()
	p.recv(5, "written")
	if !p.whole {
		p.recv(6, "queued")
	}
	p.ends()
	if err := <-closed; err != nil {
		t.Errorf("Close: %v", err)
	}
}

// A type that an int of 32 bits does not hold would be a status message there.
func TestWire2LargeTypeOn32Bits(t *testing.T) {
	if strconv.IntSize > 32 {
		t.Skip("an int of this system holds every type")
	}
	s, path := server2(t, ServerConfig{})
	p := dialOld(t, oldA, path).asClient(true)
	getsStatus(t, s, Connected, nil)
	p.send(1<<32-1, "")
	getsStatus(t, s, Disconnected, ErrMalformed)
}

// Header and body come together also where a connection has no vectored write.
func TestWire2FrameIsOneWrite(t *testing.T) {
	t.Parallel()
	each := func(t *testing.T, encrypted bool) {
		bubble(t, func(t *testing.T) {
			near, far := net.Pipe()
			started := dialPipe(near, ClientConfig{Encryption: encryption(encrypted)})
			p := oldKind{name: "N", whole: true}.new(t, far).asServer(encrypted, 1<<20)
			c := <-started
			defer c.Close()
			data := strings.Repeat("x", 65_536-8-28)
			go c.Write(1, []byte(data))
			p.recv(1, data)
			p.conn.Close()
		})
	}
	t.Run("encrypted", func(t *testing.T) { each(t, true) })
	t.Run("plain", func(t *testing.T) { each(t, false) })
}

// dialPipe starts a client on one connection; it sends nil where it does not come about.
func dialPipe(conn net.Conn, c ClientConfig) <-chan *Client {
	started := make(chan *Client, 1)
	c.Name, c.AllowWireV2 = "two", true
	c.Dial = func(context.Context) (net.Conn, error) {
		if conn == nil {
			return nil, errors.New("no server")
		}
		once := conn
		conn = nil
		return once, nil
	}
	go func() {
		client, _ := StartClient(&c)
		started <- client
	}()
	return started
}

// A frame whose write the context ends goes out in full all the same: A and B
// deliver a cut one filled up with zeros.
func TestWire2FrameIsNotAbandoned(t *testing.T) {
	t.Parallel()
	for _, encrypted := range []bool{true, false} {
		t.Run(fmt.Sprint("encrypted=", encrypted), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				near, far := net.Pipe()
				started := dialPipe(near, ClientConfig{Encryption: encryption(encrypted)})
				p := oldA.new(t, far).asServer(encrypted, 1<<20)
				c := <-started
				defer c.Close()
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				data := strings.Repeat("x", 100_000)
				go func() { done <- c.WriteContext(ctx, 1, []byte(data)) }()
				begun := p.full(50_000)
				cancel()
				if err := <-done; !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "still goes out") {
					t.Errorf("WriteContext: %v", err)
				}
				go func() { done <- c.Write(2, []byte("next")) }()
				rest := p.full(int(binary.BigEndian.Uint32(begun)) + 4 - len(begun))
				if plain := p.open(append(begun, rest...)[4:]); string(plain[4:]) != data {
					t.Error("the frame is not what was written")
				}
				p.recv(2, "next")
				if err := <-done; err != nil {
					t.Error(err)
				}
				p.conn.Close()
			})
		})
	}
}

// Close reads while it writes, or two sides that both write would wait for each other.
func TestWire2CloseWhileThePeerWrites(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		near, far := net.Pipe()
		started := dialPipe(near, ClientConfig{})
		p := oldA.new(t, far).asServer(true, 1<<20)
		c := <-started
		if err := c.Queue(1, []byte("queued")); err != nil {
			t.Fatal(err)
		}
		closed := make(chan error, 1)
		go func() { closed <- c.Close() }()
		synctest.Wait() // it stands in its write
		p.send(1, "the peer's")
		p.recv(1, "queued")
		p.ends()
		if err := <-closed; err != nil {
			t.Error(err)
		}
	})
}

// Close tells when the peer does not take what was written.
func TestWire2CloseOnSilence(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		near, far := net.Pipe()
		started := dialPipe(near, ClientConfig{})
		oldA.new(t, far).asServer(true, 1<<20)
		c := <-started
		if err := c.Queue(1, []byte("queued")); err != nil {
			t.Fatal(err)
		}
		before := time.Now()
		if err := c.Close(); err == nil || time.Since(before) != closeTime {
			t.Errorf("%v after %v", err, time.Since(before))
		}
	})
}

// zeroKeys agree on an x-coordinate that begins with a zero byte.
func zeroKeys(t *testing.T) (server, client *ecdh.PrivateKey) {
	t.Helper()
	client, err := ecdh.P384().NewPrivateKey(append(make([]byte, 47), 19))
	if err != nil {
		t.Fatal(err)
	}
	server = testKey(1)
	if x, err := server.ECDH(client.PublicKey()); err != nil || x[0] != 0 || x[1] == 0 {
		t.Fatalf("x is %x, %v", x, err)
	}
	return server, client
}

// One connection in 256: a client's first frame says what it hashed.
func TestWire2LeadingZeroServer(t *testing.T) {
	t.Parallel()
	serverKey, clientKey := zeroKeys(t)
	for _, k := range []oldKind{oldA, oldN} {
		for _, size := range []int{0, 3 * smallFrame} { // opened in place, and not
			t.Run(fmt.Sprint(k.name, size), func(t *testing.T) {
				t.Parallel()
				s, _ := server2(t, ServerConfig{})
				near, far := pair(t)
				seated := make(chan error, 1)
				go func() {
					agreed, err := serverHandshake2(near, &s.set.terms, withKey(serverKey), func() byte { return 0 })
					if err == nil {
						s.Connections.room(true)
						s.Connections.seat(near, agreed)
					}
					seated <- err
				}()
				stripping := k
				stripping.padded = false // the limit is sealed with the stripped key whoever comes
				p := stripping.new(t, far)
				p.private = clientKey
				p.asClient(true)
				if err := <-seated; err != nil {
					t.Fatal(err)
				}
				getsStatus(t, s, Connected, nil)
				writes(t, s, 1, "before the first frame")
				p.recv(1, "before the first frame")
				p.aead = oldAEAD(t, clientKey, serverKey.PublicKey().Bytes(), k.padded)
				data := strings.Repeat("d", size)
				p.send(1, data)
				gets(t, s, 1, data)
				writes(t, s, 1, "after it")
				p.recv(1, "after it")
				p.send(2, "once more")
				gets(t, s, 2, "once more")
				// The other one is not tried any more.
				p.aead = oldAEAD(t, clientKey, serverKey.PublicKey().Bytes(), !k.padded)
				p.send(1, "")
				getsStatus(t, s, Disconnected, ErrNotAuthentic)
			})
		}
	}
}

// A client strips always.
func TestWire2LeadingZeroClient(t *testing.T) {
	t.Parallel()
	serverKey, clientKey := zeroKeys(t)
	for _, k := range []oldKind{oldA, {name: "padding", padded: true}} {
		script := &script{sends: oldServerBytes(t, serverKey, clientKey, k.padded, 5000), end: errTooFar}
		tm := encryptedTerms()
		tm.allowV2 = true
		c, err := clientHello(script, tm, withKey(clientKey))
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.finish()
		if k.padded {
			checkIs(t, err, ErrNotAuthentic)
			continue
		}
		if err != nil || s.limit != 5000 {
			t.Fatalf("%+v, %v", s, err)
		}
		// And it takes no other key later.
		padded := oldAEAD(t, clientKey, serverKey.PublicKey().Bytes(), true).Seal(nil, nil, []byte("abcd"), nil)
		_, err = s.in.open(nil, padded)
		checkIs(t, err, ErrNotAuthentic)
	}
}

// pair returns both ends of a connected socket.
func pair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", tempSocket(t))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if far, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if near, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return near, far
}

func checkIs(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
		return
	}
	checkText(t, err)
}

// oldServerBytes is all that an encrypting server sends in a handshake.
func oldServerBytes(t *testing.T, server, client *ecdh.PrivateKey, padded bool, limit uint32) []byte {
	t.Helper()
	aead := oldAEAD(t, server, client.PublicKey().Bytes(), padded)
	sealed := aead.Seal(nil, nil, binary.BigEndian.AppendUint32(nil, limit), nil)
	return slices.Concat([]byte{2, 1}, server.PublicKey().Bytes(), []byte{0, 0, 0, 32}, sealed)
}

// offCurve has the form of a point and is none.
var offCurve = append([]byte{4}, bytes.Repeat([]byte{1}, 96)...)

func TestWire2ServerRefuses(t *testing.T) {
	t.Parallel()
	point := testClientKey().PublicKey().Bytes()
	compressed := append([]byte{2}, point[1:49]...)
	hybrid := append([]byte{6 + point[96]&1}, point[1:]...)
	beyond := append([]byte{4}, bytes.Repeat([]byte{0xff}, 96)...)
	for name, c := range map[string]struct {
		encrypted bool
		sends     []byte
		kind      error
		reason    byte
		byPeer    bool
		wrote     int
	}{
		"version":                {true, []byte{1}, ErrVersion, 1, true, 2},
		"encryption":             {true, []byte{2}, ErrEncryption, 2, true, 2},
		"encryption, plain":      {false, []byte{2}, ErrEncryption, 2, true, 2},
		"reply 3":                {true, []byte{3}, ErrMalformed, 9, false, 2},
		"reply 4, plain":         {false, []byte{4}, ErrMalformed, 9, false, 2},
		"reply 7":                {true, []byte{7}, ErrMalformed, 9, false, 2},
		"reply 255":              {true, []byte{255}, ErrMalformed, 9, false, 2},
		"HTTP":                   {true, []byte("GET / HTTP/1.1"), ErrMalformed, 9, false, 2},
		"B with encryption off":  {true, []byte{0, 0, 0, 0, 8, 0, 0, 0, 1, 'd', 'a', 't', 'a'}, ErrMalformed, 9, false, 99},
		"a byte that is no key":  {true, []byte{0, 5}, ErrMalformed, 9, false, 99},
		"97 bytes, first not 04": {true, slices.Concat([]byte{0, 0}, point[1:]), ErrMalformed, 9, false, 99},
		"compressed":             {true, append([]byte{0}, compressed...), ErrMalformed, 9, false, 99},
		"hybrid":                 {true, append([]byte{0}, hybrid...), ErrMalformed, 9, false, 99},
		"off the curve":          {true, append([]byte{0}, offCurve...), ErrMalformed, 9, false, 99},
		"beyond the prime":       {true, append([]byte{0}, beyond...), ErrMalformed, 9, false, 99},
	} {
		t.Run(name, func(t *testing.T) {
			tm := plainTerms()
			tm.encrypt = c.encrypted
			peer := &script{sends: c.sends, end: errTooFar}
			_, err := serverHandshake2(peer, tm, withKey(testServerKey()), func() byte { t.Error("admitted"); return 0 })
			checkIs(t, err, c.kind)
			if reason, byPeer := refusalReason(err); reason != c.reason || byPeer != c.byPeer {
				t.Errorf("reason %d, of the peer %v: %v", reason, byPeer, err)
			}
			if peer.got.Len() != c.wrote {
				t.Errorf("it wrote %x", peer.got.Bytes())
			}
		})
	}
}

func TestWire2ClientRefuses(t *testing.T) {
	t.Parallel()
	good := oldServerBytes(t, testServerKey(), testClientKey(), false, 5000)
	plain := func(b ...byte) []byte { return append([]byte{2, 0}, b...) }
	withLimit := func(b ...byte) []byte { return append(bytes.Clone(good[:99]), b...) }
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	for name, c := range map[string]struct {
		sends []byte
		kind  error
		wrote int
	}{
		"second byte 2":           {[]byte{2, 2}, ErrMalformed, 0},
		"second byte 255":         {[]byte{2, 255}, ErrMalformed, 0},
		"first byte 1":            {[]byte{1, 1}, ErrVersion, 1},
		"first byte 4":            {[]byte{4, 1}, ErrVersion, 1},
		"a byte that is no key":   {[]byte{2, 1, 3}, ErrMalformed, 1},
		"off the curve":           {append([]byte{2, 1}, offCurve...), ErrMalformed, 1},
		"limit 0, plain":          {plain(0, 0, 0, 4, 0, 0, 0, 0), ErrMalformed, 1},
		"limit of 3, plain":       {plain(0, 0, 0, 3), ErrMalformed, 1},
		"limit of 5, plain":       {plain(0, 0, 0, 5), ErrMalformed, 1},
		"limit of 32, plain":      {plain(0, 0, 0, 32), ErrMalformed, 1},
		"limit of 4, encrypted":   {withLimit(0, 0, 0, 4), ErrMalformed, 98},
		"limit of 31, encrypted":  {withLimit(0, 0, 0, 31), ErrMalformed, 98},
		"limit of 2^31+32":        {withLimit(128, 0, 0, 32), ErrMalformed, 98},
		"limit 0, encrypted":      {oldServerBytes(t, testServerKey(), testClientKey(), false, 0), ErrMalformed, 98},
		"limit is not authentic":  {flipped, ErrNotAuthentic, 98},
		"a refusal, as version 3": {[]byte{0, 7}, ErrRefused, 0},
	} {
		t.Run(name, func(t *testing.T) {
			tm := plainTerms()
			tm.allowV2 = true
			for _, chunk := range []int{0, 1} {
				peer := &script{sends: c.sends, end: errTooFar, chunk: chunk}
				_, err := dialTerms(peer, tm)
				checkIs(t, err, c.kind)
				if peer.got.Len() != c.wrote {
					t.Errorf("it wrote %x", peer.got.Bytes())
				}
			}
		})
	}
}

// A handshake that is cut anywhere is told so, by both sides.
func TestWire2HandshakeCut(t *testing.T) {
	t.Parallel()
	tm := encryptedTerms()
	tm.allowV2 = true
	all := oldServerBytes(t, testServerKey(), testClientKey(), false, 5000)
	for n := range all {
		_, err := dialTerms(&script{sends: all[:n], end: io.EOF}, tm)
		checkIs(t, err, ErrTruncated)
	}
	if _, err := dialTerms(&script{sends: all, end: errTooFar, chunk: 1}, tm); err != nil {
		t.Error(err)
	}
	all = slices.Concat([]byte{0}, testClientKey().PublicKey().Bytes(), []byte{77})
	for n := range all {
		_, err := serverHandshake2(&script{sends: all[:n], end: io.EOF}, tm, withKey(testServerKey()), func() byte { return 0 })
		checkIs(t, err, ErrTruncated)
	}
	// The bytes behind it are frames.
	peer := &script{sends: append(all, "frames"...), end: errTooFar}
	s, err := serverHandshake2(peer, tm, withKey(testServerKey()), func() byte { return 0 })
	if err != nil || string(s.rest) != "frames" || s.limit != tm.limit {
		t.Errorf("%+v, %v", s, err)
	}
	// One that finds no place any more ends without another byte.
	peer = &script{sends: all, end: errTooFar}
	_, err = serverHandshake2(peer, tm, withKey(testServerKey()), func() byte { return reasonBusy })
	checkIs(t, err, ErrRefused)
	if peer.got.Len() != 99 {
		t.Errorf("it wrote %x", peer.got.Bytes())
	}
	broken := errors.New("broken pipe")
	_, err = serverHandshake2(&script{sends: all, broken: broken}, tm, withKey(testServerKey()), func() byte { return 0 })
	checkIs(t, err, broken)
	_, err = dialTerms(&script{sends: []byte{2, 1}, broken: broken}, tm)
	checkIs(t, err, broken)
}

// The limit is the server's, and the client takes less where its own is smaller.
func TestWire2Limit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		server      uint32
		sends, gets int
	}{{1, 1, 1}, {1000, 1000, 1000}, {4095, 4095, 4095}, {4097, 4097, 4096}, {1<<32 - 1, 1 << 30, 4096}} {
		var p *oldPeer
		client, err := client2(t, ClientConfig{MaxMsgSize: 4096}, func(l net.Listener) {
			p = acceptOld(t, oldA, l).asServer(true, c.server)
		})
		if err != nil {
			t.Fatal(err)
		}
		if client.link.send.limit != c.sends || client.link.limit != c.gets {
			t.Errorf("server's limit %d: sends %d and takes %d", c.server, client.link.send.limit, client.link.limit)
		}
		skipStatus(t, client, 2)
		p.send(1, strings.Repeat("x", c.gets))
		gets(t, client, 1, strings.Repeat("x", c.gets))
		p.send(1, strings.Repeat("x", c.gets+1))
		getsStatus(t, client, ReConnecting, ErrMalformed)
		p.ends()
	}
}

func TestWire2BadFrames(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		encrypted bool
		frame     func(p *oldPeer) []byte
		kind      error
	}{
		"too short, plain":     {false, func(*oldPeer) []byte { return []byte{0, 0, 0, 3} }, ErrMalformed},
		"too short, encrypted": {true, func(*oldPeer) []byte { return []byte{0, 0, 0, 31} }, ErrMalformed},
		"too long, plain":      {false, func(*oldPeer) []byte { return appendPrefix(nil, 4+4097) }, ErrMalformed},
		"too long, encrypted":  {true, func(*oldPeer) []byte { return appendPrefix(nil, 32+4097) }, ErrMalformed},
		"too long by far":      {true, func(*oldPeer) []byte { return []byte{255, 255, 255, 255} }, ErrMalformed},
		"flipped": {true, func(p *oldPeer) []byte {
			b := p.frame(1, "data")
			b[20] ^= 1
			return b
		}, ErrNotAuthentic},
		"sealed with a number": {true, func(p *oldPeer) []byte {
			return append(appendPrefix(nil, 36), p.aead.Seal(nil, nil, []byte("\x00\x00\x00\x01data"), make([]byte, 8))...)
		}, ErrNotAuthentic},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, path := server2(t, ServerConfig{Encryption: encryption(c.encrypted), MaxMsgSize: 4096})
			p := dialOld(t, oldA, path).asClient(c.encrypted)
			getsStatus(t, s, Connected, nil)
			p.send(1, strings.Repeat("x", 4096))
			gets(t, s, 1, strings.Repeat("x", 4096))
			p.write(append(c.frame(p), p.frame(1, "not interpreted")...))
			getsStatus(t, s, Disconnected, c.kind)
			p.ends()
		})
	}
	t.Run("cut", func(t *testing.T) {
		s, path := server2(t, ServerConfig{})
		p := dialOld(t, oldA, path).asClient(true)
		getsStatus(t, s, Connected, nil)
		p.write(p.frame(1, "data")[:20])
		p.conn.Close()
		getsStatus(t, s, Disconnected, ErrTruncated)
	})
}

// A server that is full, or does not authorize, ends without a byte.
func TestWire2ServerIsFull(t *testing.T) {
	t.Parallel()
	s, path := server2(t, ServerConfig{})
	first := dialOld(t, oldA, path).asClient(true)
	getsStatus(t, s, Connected, nil)
	dialOld(t, oldB, path).ends()
	first.conn.Close()
	getsStatus(t, s, Disconnected, nil)
	awaitRoom(s)
	dialOld(t, oldB, path).asClient(true)
	getsStatus(t, s, Connected, nil)

	many, path := server2(t, ServerConfig{MultiClient: true, MaxClients: 2})
	one := dialOld(t, oldA, path).asClient(true)
	for many.Connections.Len() == 0 {
		runtime.Gosched()
	}
	awaitRoom(many)
	dialOld(t, oldN, path).asClient(true)
	dialOld(t, oldB, path).ends()
	one.send(1, "to the pool")
	for _, m := range many.Connections.Messages(t.Context()) {
		if m.MsgType == 1 {
			break
		}
	}

	strict, path := server2(t, ServerConfig{Authorize: func(Peer) error { return errors.New("no") }})
	dialOld(t, oldA, path).ends()
	if n := strict.Stats().Refused; n != 1 {
		t.Errorf("%d refused", n)
	}
}

// B's client with encryption off: a server that encrypts fails at once, and
// with an end of the stream that is no reset.
func TestWire2PlainFramesToAnEncryptingServer(t *testing.T) {
	t.Parallel()
	s, path := server2(t, ServerConfig{})
	p := dialOld(t, oldB, path)
	p.one(2)
	p.write([]byte{0})
	p.send(1, "plain")
	p.send(1, strings.Repeat("more", 1000))
	if key := p.full(97); key[0] != 4 {
		t.Errorf("got %x", key)
	}
	p.ends()
	if n := s.Stats().Refused; n != 1 {
		t.Errorf("%d refused", n)
	}
}

// Every wait of a handshake has its end.
func TestWire2HandshakeTimes(t *testing.T) {
	t.Parallel()
	for _, sends := range [][]byte{nil, {0}, {0, 4}, append([]byte{0}, testClientKey().PublicKey().Bytes()...)} {
		t.Run(fmt.Sprint("server after ", len(sends)), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				l := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
				s, err := StartServer(&ServerConfig{Name: "two", Listener: l, Wire: WireV2})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				near, far := net.Pipe()
				before := time.Now()
				l.conns <- far
				go near.Write(sends)
				io.Copy(io.Discard, near)
				if d := time.Since(before); d != helloTime {
					t.Errorf("it ends after %v", d)
				}
			})
		})
	}
	for n, sends := range [][]byte{nil, {2}, {2, 1}, {2, 1, 4}, oldServerBytes(t, testServerKey(), testClientKey(), false, 5000)[:110]} {
		t.Run(fmt.Sprint("client after ", len(sends)), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				busy := "said nothing"
				if len(sends) > 0 {
					busy = fmt.Sprintf("after %d bytes", len(sends))
				}
				_, err := StartClient(&ClientConfig{Name: "two", AllowWireV2: true, Timeout: 15 * time.Second, RetryTimer: time.Minute,
					Dial: func(ctx context.Context) (net.Conn, error) {
						near, far := net.Pipe()
						go io.Copy(io.Discard, far)
						go far.Write(sends)
						return near, nil
					}})
				if !errors.Is(err, ErrTimeout) || !strings.Contains(err.Error(), busy) {
					t.Error(n, err)
				}
			})
		})
	}
}

// A client that is to leave in a handshake completes it: anything else stops
// existing servers for good.
func TestWire2LeavingCompletesTheHandshake(t *testing.T) {
	t.Parallel()
	for stage := range 4 {
		t.Run(fmt.Sprint("stage ", stage), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				near, far := net.Pipe()
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() {
					_, err := StartClientContext(ctx, &ClientConfig{Name: "two", AllowWireV2: true,
						Dial: func(context.Context) (net.Conn, error) { return near, nil }})
					done <- err
				}()
				at := func(n int) {
					synctest.Wait()
					if n == stage {
						cancel()
						synctest.Wait()
					}
				}
				p := oldA.new(t, far)
				at(0)
				p.write([]byte{2, 1})
				at(1)
				p.one(1)
				at(2)
				p.write(p.private.PublicKey().Bytes())
				p.aead = oldAEAD(t, p.private, p.one(97), false)
				at(3)
				b := p.seal(binary.BigEndian.AppendUint32(nil, 5000))
				p.write(append(appendPrefix(nil, len(b)), b...))
				p.one(1)
				p.ends()
				if err := <-done; !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			})
		})
	}
	t.Run("not forever", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			near, _ := net.Pipe()
			before := time.Now()
			_, err := StartClient(&ClientConfig{Name: "two", AllowWireV2: true, Timeout: 3 * time.Second,
				Dial: func(context.Context) (net.Conn, error) { return near, nil }})
			if d := time.Since(before); !errors.Is(err, ErrTimeout) || d != 3*time.Second+drainTime {
				t.Errorf("%v after %v", err, d)
			}
		})
	})
	t.Run("end meets deadline", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			near, _ := net.Pipe()
			conn := &cancelling{Conn: near, cancel: cancel, hurried: make(chan struct{}, 9)}
			before := time.Now()
			_, err := StartClientContext(ctx, &ClientConfig{Name: "two", AllowWireV2: true,
				Dial: func(context.Context) (net.Conn, error) { return conn, nil }})
			if d := time.Since(before); !errors.Is(err, context.Canceled) || d != drainTime {
				t.Errorf("%v after %v", err, d)
			}
		})
	})
	t.Run("without a reset", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		near, far := pair(t)
		conn := &lastWrite{UnixConn: near.(*net.UnixConn), left: 2, last: cancel}
		done := make(chan error, 1)
		go func() {
			_, err := StartClientContext(ctx, &ClientConfig{Name: "two", AllowWireV2: true, Encryption: EncryptionOff,
				Dial: func(context.Context) (net.Conn, error) { return conn, nil }})
			done <- err
		}()
		p := oldA.new(t, far)
		p.write([]byte{2, 0})
		p.one(1)
		p.write(append([]byte{0, 0, 0, 4, 0, 0, 255, 255}, p.frame(1, strings.Repeat("not read", 1000))...))
		p.one(1)
		p.ends()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Run("cut", func(t *testing.T) { // by a Shutdown that has no time
		bubble(t, func(t *testing.T) {
			near, far := net.Pipe()
			silent, _ := net.Pipe()
			conns := []net.Conn{near, silent}
			dialed := make(chan struct{}, 2)
			started := make(chan *Client)
			go func() {
				c, err := StartClient(&ClientConfig{Name: "two", AllowWireV2: true, Dial: func(context.Context) (net.Conn, error) {
					next := conns[0]
					conns = conns[1:]
					dialed <- struct{}{}
					return next, nil
				}})
				if err != nil {
					t.Error(err)
				}
				started <- c
			}()
			p := oldA.new(t, far).asServer(true, 5000)
			c := <-started
			<-dialed
			p.conn.Close()
			<-dialed
			synctest.Wait() // it stands in the second handshake
			before := time.Now()
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			if err := c.Shutdown(ended); err != nil || time.Since(before) != 0 {
				t.Errorf("%v after %v", err, time.Since(before))
			}
		})
	})
}

// cancelling has the context end, and that be seen, just before the first
// deadline is set.
type cancelling struct {
	net.Conn
	cancel  func()
	begun   atomic.Bool
	hurried chan struct{}
}

func (c *cancelling) SetDeadline(t time.Time) error {
	if !c.begun.Swap(true) {
		c.cancel()
		<-c.hurried
	}
	err := c.Conn.SetDeadline(t)
	c.hurried <- struct{}{}
	return err
}

// lastWrite calls last after so many writes.
type lastWrite struct {
	*net.UnixConn
	left int
	last func()
}

func (c *lastWrite) Write(b []byte) (int, error) {
	n, err := c.UnixConn.Write(b)
	if c.left--; c.left == 0 {
		c.last()
	}
	return n, err
}

// So does one that requires encryption and finds none.
func TestWire2RequiresEncryption(t *testing.T) {
	t.Parallel()
	_, err := client2(t, ClientConfig{}, func(l net.Listener) {
		acceptOld(t, oldA, l).asServer(false, 5000).ends()
	})
	checkIs(t, err, ErrEncryption)

	s, path := server2(t, ServerConfig{Encryption: EncryptionOff})
	_, err = StartClient(&ClientConfig{Name: "two", Network: "unix", Address: path, AllowWireV2: true})
	checkIs(t, err, ErrEncryption)
	getsStatus(t, s, Connected, nil)
	getsStatus(t, s, Disconnected, nil)
	c, err := StartClient(&ClientConfig{Name: "two", Network: "unix", Address: path, AllowWireV2: true, Encryption: EncryptionOff})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	// One that does not insist follows a server that encrypts.
	_, path = server2(t, ServerConfig{})
	c, err = StartClient(&ClientConfig{Name: "two", Network: "unix", Address: path, AllowWireV2: true, Encryption: EncryptionOff})
	if err != nil {
		t.Fatal(err)
	}
	if c.link.cipher == nil {
		t.Error("not encrypted")
	}
	c.Close()
}

// To migrate: clients allow version 2, servers move to 3, clients drop 2.
func TestWire2Migration(t *testing.T) {
	t.Parallel()
	path := tempSocket(t)
	server := func(w Wire) *Server {
		s, err := StartServer(&ServerConfig{Name: "two", Network: "unix", Address: path, Wire: w})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	config := func(allow bool) *ClientConfig {
		return &ClientConfig{Name: "two", Network: "unix", Address: path, AllowWireV2: allow}
	}
	s := server(WireV2)
	_, err := StartClient(config(false))
	checkIs(t, err, ErrVersion)
	c, err := StartClient(config(true))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	skipStatus(t, c, 2)
	s.Close()
	getsStatus(t, c, ReConnecting, nil)
	s = server(WireV3)
	defer s.Close()
	getsStatus(t, c, Connected, nil)
	if c.link.version != 3 {
		t.Errorf("version %d", c.link.version)
	}
	writes(t, c, 1, "in version 3")
	getsStatus(t, s, Connected, nil)
	gets(t, s, 1, "in version 3")
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	getsStatus(t, s, Disconnected, nil)
	if c, err = StartClient(config(false)); err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// No heartbeat, whatever the configuration says, and nobody is declared lost.
func TestWire2NoHeartbeat(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		s, c := pipeEnds(t, ServerConfig{Wire: WireV2, Heartbeat: time.Second}, ClientConfig{AllowWireV2: true, Heartbeat: time.Second}, nil)
		skipStatus(t, s, 1)
		skipStatus(t, c, 2)
		<-time.After(time.Hour)
		writes(t, c, 1, "hello")
		gets(t, s, 1, "hello")
		writes(t, s, 1, "hello")
		gets(t, c, 1, "hello")
		// A full queue pings in version 3.
		go func() {
			for range 3 {
				c.Write(1, make([]byte, queueSize))
			}
		}()
		<-time.After(time.Hour)
		if m, err := c.ReadTimed(time.Hour); m != TimeoutMessage {
			t.Errorf("%+v, %v", m, err)
		}
		for range 3 {
			gets(t, s, 1, string(make([]byte, queueSize)))
		}
	})
}

func sharedKeyOf(e *end) *sharedKey {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.link.cipher.aead.(*sharedKey)
}

// The key serves for so many frames and bytes, of both directions together.
func TestWire2KeyIsSpent(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(*sharedKey, uint64){
		"frames": func(k *sharedKey, n uint64) { k.frames.Store(1<<32 - n) },
		"bytes":  func(k *sharedKey, n uint64) { k.size.Store(1<<44 - n*(4+32+5)) },
	} {
		for _, queued := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " queued=", queued), func(t *testing.T) {
				t.Parallel()
				s, path := server2(t, ServerConfig{})
				c, err := StartClient(&ClientConfig{Name: "two", Network: "unix", Address: path, AllowWireV2: true})
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				skipStatus(t, s, 1)
				skipStatus(t, c, 2)
				if k := sharedKeyOf(&c.end); k.frames.Load() != 0 || k.size.Load() != 0 {
					t.Error("the limit message counts")
				}
				n := uint64(3)
				if queued {
					n++
				}
				set(sharedKeyOf(&s.end), n)
				set(sharedKeyOf(&c.end), n)
				writes(t, c, 1, "first")
				gets(t, s, 1, "first")
				writes(t, s, 1, "other")
				gets(t, c, 1, "other")
				if queued {
					err = errors.Join(c.Queue(1, []byte("third")), c.Queue(1, []byte("forth")))
				} else {
					err = c.Write(1, []byte("third"))
				}
				if err != nil {
					t.Fatal(err)
				}
				gets(t, s, 1, "third")
				if queued { // the last one is not kept back
					gets(t, s, 1, "forth")
				}
				if m, err := s.ReadTimed(20 * time.Second); err != nil || m.Status != "Disconnected" || m.Err != nil && !errors.Is(m.Err, ErrNotConnected) {
					t.Fatalf("got %+v, %v", m, err)
				}
				if m, err := c.ReadTimed(20 * time.Second); err != nil || m.Status != "Reconnecting" || m.Err != nil && !errors.Is(m.Err, ErrNotConnected) {
					t.Fatalf("got %+v, %v", m, err)
				}
				getsStatus(t, s, Connected, nil)
				getsStatus(t, c, Connected, nil)
				writes(t, c, 1, "with a new key")
				gets(t, s, 1, "with a new key")
			})
		}
	}
}

// Against a peer that goes on, each direction ends by itself.
func TestWire2KeyIsSpentAlone(t *testing.T) {
	t.Parallel()
	s, path := server2(t, ServerConfig{})
	p := dialOld(t, oldA, path).asClient(true)
	skipStatus(t, s, 1)
	if err := s.Queue(1, []byte("accepted")); err != nil {
		t.Fatal(err)
	}
	sharedKeyOf(&s.end).frames.Store(1<<32 - 2)
	p.write(slices.Concat(p.frame(1, "last but one"), p.frame(1, "last"), p.frame(1, "one too many")))
	gets(t, s, 1, "last but one")
	gets(t, s, 1, "last")
	getsStatus(t, s, Disconnected, ErrNotConnected)
	p.recv(1, "accepted")
	p.ends()

	awaitRoom(s)
	p = dialOld(t, oldA, path).asClient(true)
	skipStatus(t, s, 1)
	sharedKeyOf(&s.end).frames.Store(1<<32 - 1)
	writes(t, s, 1, "last")
	if err := s.Write(1, nil); !errors.Is(err, ErrNotConnected) {
		t.Errorf("one too many: %v", err)
	}
	getsStatus(t, s, Disconnected, ErrNotConnected)
	p.recv(1, "last")
	p.ends()
}

// One who waits for the peer is told, too.
func TestWire2KeyIsSpentWhileReading(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		s, c := pipeEnds(t, ServerConfig{Wire: WireV2}, ClientConfig{AllowWireV2: true}, nil)
		skipStatus(t, s, 1)
		skipStatus(t, c, 2)
		sharedKeyOf(&s.end).frames.Store(1<<32 - 1)
		done := make(chan *Message, 1)
		go func() {
			m, _ := s.Read()
			done <- m
		}()
		synctest.Wait()
		writes(t, s, 1, "last")
		if m := <-done; m.Status != "Disconnected" || !errors.Is(m.Err, ErrNotConnected) {
			t.Errorf("got %+v", m)
		}
		gets(t, c, 1, "last")
		getsStatus(t, c, ReConnecting, nil)
	})
}
