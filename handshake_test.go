// Both roles of the version 3 handshake against each other, and against bytes
// that no honest peer sends.

package gipc

import (
	"bytes"
	"crypto/ecdh"
	"crypto/mlkem"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"example.com/gipc/internal/testutil"
)

// memStream is one direction of a connection in memory. Writes never wait. It
// gives at most chunk bytes to one Read, where chunk is not 0.
type memStream struct {
	chunk  int
	tamper func(offset int, b []byte) // changes what is written
	change func(b []byte) []byte      // likewise, and may change its length

	endAfter int // bytes; 0 is never

	mu    sync.Mutex // guards what follows
	more  sync.Cond
	b     []byte
	sent  []byte // all that was written, as it arrives
	ended bool
}

func newMemStream(chunk int, tamper func(int, []byte)) *memStream {
	s := &memStream{chunk: chunk, tamper: tamper}
	s.more.L = &s.mu
	return s
}

func (s *memStream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p = bytes.Clone(p)
	if s.tamper != nil {
		s.tamper(len(s.sent), p)
	}
	if s.change != nil {
		p = s.change(p)
	}
	if s.endAfter > 0 {
		p = p[:min(len(p), s.endAfter-len(s.sent))]
		s.ended = true
	}
	s.b, s.sent = append(s.b, p...), append(s.sent, p...)
	s.more.Broadcast()
	return len(p), nil
}

func (s *memStream) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.b) == 0 {
		if s.ended {
			return 0, io.EOF
		}
		s.more.Wait()
	}
	if s.chunk != 0 {
		p = p[:min(len(p), s.chunk)]
	}
	n := copy(p, s.b)
	s.b = s.b[n:]
	return n, nil
}

func (s *memStream) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.more.Broadcast()
}

// memConn is one side of a connection made of two streams.
type memConn struct {
	io.Reader
	io.Writer
}

// script is the other side, played: it has sent these bytes, and then the
// stream's error is end. What this side writes is kept, unless broken is set.
type script struct {
	sends  []byte
	end    error
	chunk  int
	broken error
	got    bytes.Buffer
}

var errTooFar = errors.New("read on, though all was there to decide")

func (p *script) Read(b []byte) (int, error) {
	if len(p.sends) == 0 {
		return 0, p.end
	}
	if p.chunk != 0 {
		b = b[:min(len(b), p.chunk)]
	}
	n := copy(b, p.sends)
	p.sends = p.sends[n:]
	return n, nil
}

func (p *script) Write(b []byte) (int, error) {
	if p.broken != nil {
		return 0, p.broken
	}
	return p.got.Write(b)
}

// The same keys in every test: it is the sessions that are compared.
var (
	testServerKey = sync.OnceValue(func() *ecdh.PrivateKey { return testKey(1) })
	testClientKey = sync.OnceValue(func() *ecdh.PrivateKey { return testKey(2) })
)

func testKey(b byte) *ecdh.PrivateKey {
	k, err := ecdh.P384().NewPrivateKey(bytes.Repeat([]byte{b}, 48))
	if err != nil {
		panic(err)
	}
	return k
}

func withKey(k *ecdh.PrivateKey) func() (*ecdh.PrivateKey, error) {
	return func() (*ecdh.PrivateKey, error) { return k, nil }
}

func serveTerms(rw io.ReadWriter, t *handshakeConfig) (*session, error) {
	return serverHandshake(rw, t, serverSide{newKey: withKey(testServerKey()), newKEMKey: fixedKEM, admit: func() byte { return 0 }, compute: workNow})
}

func dialTerms(rw io.ReadWriter, t *handshakeConfig) (*session, error) {
	c, err := clientHello(rw, t, clientSide{newKey: withKey(testClientKey()), encapsulate: fixedCiphertext})
	if err != nil {
		return nil, err
	}
	return c.readFinish()
}

// handshakeEnd is what came of the two roles against each other.
type handshakeEnd struct {
	server, client       *session
	serverErr, clientErr error
	toServer, toClient   *memStream
}

// runHandshake ends the stream of a side that has its result, as that side would
// shut down its sending half.
func runHandshake(server, client *handshakeConfig, toServer, toClient *memStream) *handshakeEnd {
	h := &handshakeEnd{toServer: toServer, toClient: toClient}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer toClient.end()
		h.server, h.serverErr = serveTerms(memConn{toServer, toClient}, server)
	}()
	h.client, h.clientErr = dialTerms(memConn{toClient, toServer}, client)
	toServer.end()
	<-done
	return h
}

// agree reports whether each side opens what the other seals.
func (h *handshakeEnd) agree() bool {
	opens := func(out, in *recordCipher) bool {
		sealed, err := out.seal(nil, []byte("data"))
		if err != nil {
			return false
		}
		plain, err := in.open(nil, sealed[4:]) // behind its length
		return err == nil && string(plain) == "data"
	}
	return h.server != nil && h.client != nil && opens(h.client.sendCipher, h.server.receiveCipher) && opens(h.server.sendCipher, h.client.receiveCipher)
}

// checkText wants the package's prefix exactly once.
func checkText(t *testing.T, err error) {
	t.Helper()
	if text := err.Error(); !strings.HasPrefix(text, errorPrefix) || strings.Count(text, errorPrefix) != 1 {
		t.Errorf("the text %q", text)
	}
}

// checkRefusal wants a refusal with this reason, by this side or the peer, and
// the sentinel of the reason alone.
func checkRefusal(t *testing.T, err error, reason byte, byPeer bool) {
	t.Helper()
	r, by := refusalReason(err)
	var typed *refusal
	if !errors.As(err, &typed) || r != reason || by != byPeer {
		t.Errorf("reason %d, by the peer: %v, of %v; want %d, %v", r, by, err, reason, byPeer)
		return
	}
	want := ErrRefused
	switch reason {
	case 1:
		want = ErrVersion
	case 2:
		want = ErrEncryption
	case 4, 5, 6:
		want = ErrSecret
	case 9:
		want = ErrMalformed
	}
	for _, s := range []error{ErrVersion, ErrEncryption, ErrSecret, ErrRefused, ErrMalformed, ErrTruncated, ErrTimeout} {
		if errors.Is(err, s) != (s == want) {
			t.Errorf("%v: errors.Is(err, %v) is %v", err, s, s != want)
		}
	}
	checkText(t, err)
}

var (
	secretA = []byte("\x00 secret of thirty-three bytes.")
	secretB = []byte("\x01 secret of thirty-three bytes.")
)

func plainTerms() *handshakeConfig { return &handshakeConfig{name: "test", maxDataSize: 4096} }
func encryptedTerms() *handshakeConfig {
	return &handshakeConfig{name: "test", maxDataSize: 4096, encrypt: true}
}
func secretTerms(secret []byte) *handshakeConfig {
	return &handshakeConfig{name: "test", maxDataSize: 4096, encrypt: true, secret: secret}
}

func TestHandshakeEveryCombination(t *testing.T) {
	t.Parallel()
	follow := &handshakeConfig{name: "test", maxDataSize: 1 << 20}
	require := &handshakeConfig{name: "test", maxDataSize: 1 << 20, encrypt: true}
	secret := &handshakeConfig{name: "test", maxDataSize: 1 << 20, encrypt: true, secret: secretA}
	secretAlone := &handshakeConfig{name: "test", maxDataSize: 1 << 20, secret: secretA} // still requires encryption
	other := &handshakeConfig{name: "test", maxDataSize: 1 << 20, encrypt: true, secret: secretB}
	otherName := &handshakeConfig{name: "tesu", maxDataSize: 1 << 20, encrypt: true}
	otherNameSecret := &handshakeConfig{name: "test ", maxDataSize: 1 << 20, encrypt: true, secret: secretA}
	otherNamePlain := &handshakeConfig{name: "tesu", maxDataSize: 1 << 20}
	for _, c := range []struct {
		what           string
		server, client *handshakeConfig
		reason         byte // 0: they agree
		byServer       bool
	}{
		{"plain, follow", plainTerms(), follow, 0, false},
		{"plain, required", plainTerms(), require, 2, false},
		{"plain, secret", plainTerms(), secret, 2, false},
		{"plain, secret alone", plainTerms(), secretAlone, 2, false},
		{"plain, other name", plainTerms(), otherNamePlain, 0, false},
		{"encrypted, follow", encryptedTerms(), follow, 0, false},
		{"encrypted, required", encryptedTerms(), require, 0, false},
		{"encrypted, secret", encryptedTerms(), secret, 5, false},
		{"encrypted, other name", encryptedTerms(), otherName, 6, true},
		{"secret, follow", secretTerms(secretA), follow, 4, false},
		{"secret, required", secretTerms(secretA), require, 4, false},
		{"secret, secret", secretTerms(secretA), secret, 0, false},
		{"secret alone, secret", &handshakeConfig{name: "test", maxDataSize: 4096, secret: secretA}, secretAlone, 0, false},
		{"secret, other secret", secretTerms(secretA), other, 6, true},
		{"secret, other name", secretTerms(secretA), otherNameSecret, 6, true},
	} {
		for _, chunk := range []int{0, 1} {
			t.Run(fmt.Sprintf("%s, chunk %d", c.what, chunk), func(t *testing.T) {
				h := runHandshake(c.server, c.client, newMemStream(chunk, nil), newMemStream(chunk, nil))
				if c.reason != 0 {
					if h.server != nil || h.client != nil {
						t.Error("a session beside an error")
					}
					checkRefusal(t, h.serverErr, c.reason, !c.byServer)
					checkRefusal(t, h.clientErr, c.reason, c.byServer)
					return
				}
				if h.serverErr != nil || h.clientErr != nil {
					t.Fatalf("server: %v, client: %v", h.serverErr, h.clientErr)
				}
				if h.server.peerMaxDataSize != 1<<20 || h.client.peerMaxDataSize != 4096 {
					t.Errorf("limits %d and %d", h.server.peerMaxDataSize, h.client.peerMaxDataSize)
				}
				if len(h.server.trailingBytes)+len(h.client.trailingBytes) != 0 {
					t.Errorf("rests %x and %x", h.server.trailingBytes, h.client.trailingBytes)
				}
				if c.server.requiredFlags() == 0 {
					if h.server.receiveCipher != nil || h.server.sendCipher != nil || h.client.receiveCipher != nil || h.client.sendCipher != nil {
						t.Error("keys in plaintext")
					}
					if len(h.toClient.sent) != 6+1 || len(h.toServer.sent) != 6 {
						t.Errorf("%d bytes to the client and %d to the server", len(h.toClient.sent), len(h.toServer.sent))
					}
					return
				}
				if !h.agree() {
					t.Error("the keys do not agree")
				}
				if len(h.toClient.sent) != 103+49 || len(h.toServer.sent) != 151 {
					t.Errorf("%d bytes to the client and %d to the server", len(h.toClient.sent), len(h.toServer.sent))
				}
			})
		}
	}
}

// Every byte on the wire, as another implementation has it.
func TestHandshakeKnownAnswers(t *testing.T) {
	t.Parallel()
	for _, v := range knownAnswers {
		t.Run(v.what, func(t *testing.T) {
			st := &handshakeConfig{name: v.name, secret: unhex(t, v.secret), encrypt: true, maxDataSize: v.serverLimit}
			ct := &handshakeConfig{name: v.name, secret: unhex(t, v.secret), encrypt: true, maxDataSize: v.clientLimit}

			client := &script{sends: unhex(t, v.clientHello), end: errTooFar}
			s, err := serverHandshake(client, st, serverSide{newKey: withKey(privateKey(t, v.serverKey)), admit: func() byte { return 0 }, compute: workNow})
			if err != nil {
				t.Fatal(err)
			}
			testutil.Equal(t, "the server wrote", client.got.Bytes(), unhex(t, v.serverHello+v.serverFinish))
			openKnown(t, "client", s.receiveCipher, v.clientRecords)

			server := &script{sends: unhex(t, v.serverHello+v.serverFinish), end: errTooFar}
			c, err := clientHello(server, ct, clientSide{newKey: withKey(privateKey(t, v.clientKey))})
			if err != nil {
				t.Fatal(err)
			}
			testutil.Equal(t, "the client wrote", server.got.Bytes(), unhex(t, v.clientHello))
			if s, err = c.readFinish(); err != nil {
				t.Fatal(err)
			}
			openKnown(t, "server", s.receiveCipher, v.serverRecords)
			if s.peerMaxDataSize != v.serverLimit {
				t.Errorf("the server's limit is %d, want %d", s.peerMaxDataSize, v.serverLimit)
			}
		})
	}
}

// recorded returns what the two sides of a good handshake say.
func recorded(t *testing.T, server, client *handshakeConfig) (toServer, toClient []byte) {
	t.Helper()
	h := runHandshake(server, client, newMemStream(0, nil), newMemStream(0, nil))
	if h.serverErr != nil || h.clientErr != nil {
		t.Fatalf("server: %v, client: %v", h.serverErr, h.clientErr)
	}
	return h.toServer.sent, h.toClient.sent
}

func TestHandshakeCutAnywhere(t *testing.T) {
	t.Parallel()
	for what, tm := range map[string]*handshakeConfig{"plain": plainTerms(), "secret": secretTerms(secretA), "hybrid": hybridTerms(nil)} {
		t.Run(what, func(t *testing.T) {
			toServer, toClient := recorded(t, tm, tm)
			for _, end := range []error{io.EOF, &os.SyscallError{Syscall: "read", Err: syscall.ECONNRESET}} {
				if end != io.EOF && (tm.secret != nil || tm.hybrid) {
					continue // one kind of handshake shows that a reset is an end
				}
				step := 1
				if tm.hybrid {
					step = 9
				}
				for n := 0; n < len(toServer); n += step {
					s, err := serveTerms(&script{sends: toServer[:n], end: end}, tm)
					if s != nil || !errors.Is(err, ErrTruncated) || !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
						t.Errorf("server, cut after %d bytes: %v", n, err)
					}
					checkText(t, err)
				}
				for n := 0; n < len(toClient); n += step {
					s, err := dialTerms(&script{sends: toClient[:n], end: end}, tm)
					if s != nil || !errors.Is(err, ErrTruncated) || !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
						t.Errorf("client, cut after %d bytes: %v", n, err)
					}
					checkText(t, err)
				}
			}
			if s, err := serveTerms(&script{sends: toServer, end: io.EOF}, tm); s == nil || err != nil {
				t.Errorf("server, not cut: %v", err)
			}
			if s, err := dialTerms(&script{sends: toClient, end: io.EOF}, tm); s == nil || err != nil {
				t.Errorf("client, not cut: %v", err)
			}
		})
	}
	if _, err := dialTerms(&script{sends: []byte{0}, end: io.EOF}, plainTerms()); !errors.Is(err, ErrTruncated) {
		t.Errorf("half a refusal: %v", err)
	}
}

// No flipped bit leaves two sides that agree: what was said is what both keys
// are made of.
func TestHandshakeFlippedBits(t *testing.T) {
	t.Parallel()
	flip := func(bit int) func(int, []byte) {
		return func(offset int, b []byte) {
			if i := bit/8 - offset; i >= 0 && i < len(b) {
				b[i] ^= 1 << (bit % 8)
			}
		}
	}
	check := func(t *testing.T, where string, bit int, err error) {
		t.Helper()
		if err == nil {
			t.Errorf("bit %d to the %s: not noticed", bit, where)
			return
		}
		checkText(t, err)
		if !slices.ContainsFunc([]error{ErrVersion, ErrEncryption, ErrSecret, ErrRefused, ErrMalformed, ErrTruncated},
			func(s error) bool { return errors.Is(err, s) }) {
			t.Errorf("bit %d to the %s: no sentinel in %v", bit, where, err)
		}
	}
	for what, tm := range map[string]*handshakeConfig{"secret": secretTerms(secretA), "no secret": encryptedTerms(), "hybrid": hybridTerms(secretA)} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			step, helloLen := 1, 103
			if tm.secret == nil {
				step = 13 // the same code with other bytes
			}
			if tm.hybrid {
				step, helloLen = 61, fullHello
			}
			// The keys are fixed, so what was recorded is what a side would say again,
			// up to the bit that is not its own.
			toServer, toClient := recorded(t, tm, tm)
			const announcesKey = 8 + 2                    // of the flags: the client waits for what does not come
			for bit := 0; bit < 8*helloLen; bit += step { // ServerHello: either side may be the one that notices
				if bit == announcesKey {
					bytes := slices.Clone(toClient)
					flip(bit)(0, bytes)
					_, err := dialTerms(&script{sends: bytes, end: io.EOF}, tm)
					check(t, "client", bit, err)
					continue
				}
				h := runHandshake(tm, tm, newMemStream(0, nil), newMemStream(0, flip(bit)))
				check(t, "client", bit, h.clientErr)
				check(t, "client, as the server sees it,", bit, h.serverErr)
			}
			for bit := 8 * helloLen; bit < 8*len(toClient); bit += step { // ServerFinish: the server is through
				bytes := slices.Clone(toClient)
				flip(bit)(0, bytes)
				_, err := dialTerms(&script{sends: bytes, end: io.EOF}, tm)
				check(t, "client", bit, err)
			}
			for bit := 0; bit < 8*len(toServer); bit += step { // ClientHello
				bytes := slices.Clone(toServer)
				flip(bit)(0, bytes)
				_, err := serveTerms(&script{sends: bytes, end: io.EOF}, tm)
				check(t, "server", bit, err)
			}
		})
	}
	t.Run("plain", func(t *testing.T) {
		// Nothing is protected, but what is no hello is still refused.
		toServer, toClient := recorded(t, plainTerms(), plainTerms())
		for bit := range 8 * len(toServer) {
			bytes := slices.Clone(toServer)
			flip(bit)(0, bytes)
			s, err := serveTerms(&script{sends: bytes, end: io.EOF}, plainTerms())
			if isLimit := bit/8 >= 2; err == nil && (!isLimit || s.peerMaxDataSize == 4096) {
				t.Errorf("bit %d to the server: not noticed", bit)
			}
		}
		for bit := range 8 * len(toClient) {
			bytes := slices.Clone(toClient)
			flip(bit)(0, bytes)
			s, err := dialTerms(&script{sends: bytes, end: io.EOF}, plainTerms())
			if isLimit := bit/8 >= 2 && bit/8 < 6; err == nil && (!isLimit || s.peerMaxDataSize == 4096) {
				t.Errorf("bit %d to the client: not noticed", bit)
			}
		}
	})
	t.Run("a client that follows", func(t *testing.T) {
		// It believes that the server has encryption off, and takes the first
		// byte of the server's point for a reply; the server does not go along.
		h := runHandshake(encryptedTerms(), plainTerms(), newMemStream(0, nil), newMemStream(0, flip(8)))
		checkRefusal(t, h.serverErr, 9, false)
		checkRefusal(t, h.clientErr, 4, true)
	})
}

func TestHandshakeReasonsOfThePeer(t *testing.T) {
	t.Parallel()
	tm := secretTerms(secretA)
	_, toClient := recorded(t, tm, tm)
	for n := range 256 {
		reason := byte(n)
		// In place of a ServerHello, where 0 is a refusal too.
		server := &script{end: errTooFar}
		var told bytes.Buffer
		if err := writeRefusal(&told, reason); err != nil || !bytes.Equal(told.Bytes(), []byte{0, reason}) {
			t.Fatalf("a refusal is %x, %v", told.Bytes(), err)
		}
		server.sends = told.Bytes()
		_, err := dialTerms(server, tm)
		checkRefusal(t, err, reason, true)
		if server.got.Len() != 0 {
			t.Errorf("the client answers %x to a refusal", server.got.Bytes())
		}
		if reason == 0 {
			continue
		}
		// In ServerFinish; the server closes after that one byte.
		if n < 16 {
			server = &script{sends: append(slices.Clone(toClient[:103]), reason), end: errTooFar}
			_, err = dialTerms(server, tm)
			checkRefusal(t, err, reason, true)
			if server.got.Len() != 151 {
				t.Errorf("the client wrote %d bytes, want its hello", server.got.Len())
			}
		}
		// The client's, in reply to a ServerHello.
		client := &script{sends: []byte{reason}, end: errTooFar}
		_, err = serveTerms(client, tm)
		checkRefusal(t, err, reason, true)
		if client.got.Len() != 103 {
			t.Errorf("the server wrote %d bytes, want its hello alone", client.got.Len())
		}
	}
	if reason, byPeer := refusalReason(ErrRefused); reason != 0 || byPeer {
		t.Error("a bare sentinel has a reason")
	}
	if reason, byPeer := refusalReason(fmt.Errorf("wrapped: %w", &refusal{ErrRefused, 7, true})); reason != 7 || !byPeer {
		t.Error("a wrapped refusal has no reason")
	}
}

// helloBytes are the fields that both hellos share.
func helloBytes(first, flags byte, limit uint32, rest ...byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{first, flags}, limit), rest...)
}

// Each case has nothing wrong before the field that decides and everything
// wrong behind it, and ends with that field: who reads on fails.
func TestClientChecksInOrder(t *testing.T) {
	t.Parallel()
	point := testServerKey().PublicKey().Bytes()
	bad := make([]byte, pointLen)
	follow, require, secret := plainTerms(), encryptedTerms(), secretTerms(secretA)
	for _, c := range []struct {
		what   string
		client *handshakeConfig
		sends  []byte
		reason byte
	}{
		{"version", secret, []byte{4}, 1},
		{"version, all else wrong", secret, helloBytes(4, 0xf0, 0, bad...), 1},
		{"encryption before secret, required", require, []byte{3, 2}, 2},
		{"encryption before unknown flags", require, []byte{3, 0xf0}, 2},
		{"encryption before secret, with one", secret, []byte{3, 0}, 2},
		{"encryption, the secret flag alone", secret, []byte{3, 2}, 2},
		{"server's secret before unknown flags", require, []byte{3, 0xf3}, 4},
		{"server's secret, follow", follow, []byte{3, 3}, 4},
		{"server's secret without encryption", follow, []byte{3, 2}, 4},
		{"client's secret before unknown flags", secret, []byte{3, 0xf1}, 5},
		{"client's secret", secret, []byte{3, 1}, 5},
		{"unknown flags, secret", secret, []byte{3, 11}, 9},
		{"unknown flags, required", require, []byte{3, 0x81}, 9},
		{"unknown flags, hybrid", require, []byte{3, 0x85}, 9},
		{"hybrid without encryption, follow", follow, []byte{3, 4}, 9},
		{"hybrid without encryption, required", require, []byte{3, 4}, 2},
		{"limit before point", require, helloBytes(3, 1, 1023), 9},
		{"limit, plain", follow, helloBytes(3, 0, 0), 9},
		{"point", require, helloBytes(3, 1, 1024, bad...), 9},
		{"point, follow", follow, helloBytes(3, 1, 1024, bad...), 9},
		{"point, secret", secret, helloBytes(3, 3, 1024, bad...), 9},
	} {
		for _, chunk := range []int{0, 1} {
			server := &script{sends: c.sends, end: errTooFar, chunk: chunk}
			s, err := dialTerms(server, c.client)
			if s != nil {
				t.Errorf("%s: a session", c.what)
			}
			checkRefusal(t, err, c.reason, false)
			testutil.Equal(t, c.what, server.got.Bytes(), []byte{c.reason})
		}
	}
	// Each flag of a later version, one by one.
	for bit := 3; bit < 8; bit++ {
		_, err := dialTerms(&script{sends: helloBytes(3, 3|1<<bit, 4096, point...), end: errTooFar}, secret)
		checkRefusal(t, err, 9, false)
	}
}

func TestServerChecksInOrder(t *testing.T) {
	t.Parallel()
	point := testClientKey().PublicKey().Bytes()
	bad := make([]byte, pointLen)
	good, _ := recorded(t, secretTerms(secretA), secretTerms(secretA))
	forged := append(slices.Clone(good[:150]), good[150]^1)
	for _, c := range []struct {
		what   string
		server *handshakeConfig
		sends  []byte
		admit  byte
		reason byte
		byPeer bool
	}{
		{"reply", secretTerms(secretA), []byte{2}, 7, 2, true},
		{"reply, all else wrong", secretTerms(secretA), helloBytes(5, 0, 0, bad...), 7, 5, true},
		{"flags", secretTerms(secretA), []byte{0, 1}, 7, 9, false},
		{"flags, a bit more", secretTerms(secretA), []byte{0, 7}, 7, 9, false},
		{"flags, none for encryption", encryptedTerms(), []byte{0, 0}, 7, 9, false},
		{"flags, plain", plainTerms(), []byte{0, 1}, 7, 9, false},
		{"limit", secretTerms(secretA), helloBytes(0, 3, 1023), 7, 9, false},
		{"limit, plain", plainTerms(), helloBytes(0, 0, 1<<30+1), 7, 9, false},
		{"point", secretTerms(secretA), helloBytes(0, 3, 1024, bad...), 7, 9, false},
		{"confirmation", secretTerms(secretA), forged, 7, 6, false},
		{"confirmation of zeros", encryptedTerms(), helloBytes(0, 1, 4096, append(slices.Clone(point), make([]byte, 48)...)...), 7, 6, false},
		{"count", secretTerms(secretA), good, 7, 7, false},
		{"authorized", secretTerms(secretA), good, 8, 8, false},
		{"count, plain", plainTerms(), helloBytes(0, 0, 4096), 7, 7, false},
	} {
		for _, chunk := range []int{0, 1} {
			client := &script{sends: c.sends, end: errTooFar, chunk: chunk}
			asked := 0
			s, err := serverHandshake(client, c.server, serverSide{newKey: withKey(testServerKey()), admit: func() byte { asked++; return c.admit }, compute: workNow})
			if s != nil {
				t.Errorf("%s: a session", c.what)
			}
			checkRefusal(t, err, c.reason, c.byPeer)
			hello := 6
			if c.server.requiredFlags() != 0 {
				hello = 103
			}
			want := []byte{c.reason}
			if c.byPeer {
				want = nil
			}
			testutil.Equal(t, c.what, client.got.Bytes()[hello:], want)
			wantAsked := 0
			if c.reason == 7 || c.reason == 8 {
				wantAsked = 1
			}
			if asked != wantAsked {
				t.Errorf("%s: admit was called %d times, want %d", c.what, asked, wantAsked)
			}
		}
	}
}

func TestHandshakeLimits(t *testing.T) {
	t.Parallel()
	for limit, good := range map[uint32]bool{0: false, 1: false, 1023: false, 1024: true, 4096: true,
		1 << 30: true, 1<<30 + 1: false, 1 << 31: false, 1<<32 - 1: false} {
		s, serr := serveTerms(&script{sends: helloBytes(0, 0, limit), end: errTooFar}, plainTerms())
		c, cerr := dialTerms(&script{sends: append(helloBytes(3, 0, limit), 0), end: errTooFar}, plainTerms())
		if good {
			if serr != nil || cerr != nil || s.peerMaxDataSize != int(limit) || c.peerMaxDataSize != int(limit) {
				t.Errorf("limit %d: server %v, client %v", limit, serr, cerr)
			}
			continue
		}
		checkRefusal(t, serr, 9, false)
		checkRefusal(t, cerr, 9, false)
	}
}

func TestHandshakePoints(t *testing.T) {
	t.Parallel()
	// A point with a small x has a second encoding, with the prime added, that
	// fits into 48 bytes. y^2 = x^3 - 3x + b; SP 800-186, 3.2.1.4.
	p, _ := new(big.Int).SetString("fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffeffffffff0000000000000000ffffffff", 16)
	b, _ := new(big.Int).SetString("b3312fa7e23ee7e4988e056be3f82d19181d9c6efe8141120314088f5013875ac656398d8a2ed19d2a85c8edd3ec2aef", 16)
	x, y := new(big.Int), (*big.Int)(nil)
	for y == nil {
		x.Add(x, big.NewInt(1))
		y2 := new(big.Int).Exp(x, big.NewInt(3), p)
		y2.Sub(y2, new(big.Int).Mul(x, big.NewInt(3))).Add(y2, b).Mod(y2, p)
		y = new(big.Int).ModSqrt(y2, p)
	}
	point := func(x, y *big.Int) []byte {
		return slices.Concat([]byte{4}, x.FillBytes(make([]byte, 48)), y.FillBytes(make([]byte, 48)))
	}
	valid := testClientKey().PublicKey().Bytes()
	with := func(i int, b byte) []byte {
		v := slices.Clone(valid)
		v[i] = b
		return v
	}
	for what, c := range map[string]struct {
		point []byte
		good  bool
	}{
		"valid":                  {valid, true},
		"small x":                {point(x, y), true},
		"small x, other y":       {point(x, new(big.Int).Sub(p, y)), true},
		"x over the prime":       {point(new(big.Int).Add(x, p), y), false},
		"x is the prime":         {point(p, y), false},
		"y over the prime":       {point(x, new(big.Int).SetBytes(bytes.Repeat([]byte{0xff}, 48))), false},
		"zeros":                  {make([]byte, pointLen), false},
		"origin":                 {append([]byte{4}, make([]byte, 96)...), false},
		"all ones":               {bytes.Repeat([]byte{0xff}, pointLen), false},
		"off the curve":          {with(96, valid[96]^1), false},
		"infinity, padded":       {with(0, 0), false},
		"compressed even":        {with(0, 2), false},
		"compressed odd":         {with(0, 3), false},
		"compressed, then zeros": {append(with(0, 2+valid[96]&1)[:49], make([]byte, 48)...), false},
		"hybrid even":            {with(0, 6), false},
		"hybrid odd":             {with(0, 7), false},
		"another tag":            {with(0, 5), false},
	} {
		t.Run(what, func(t *testing.T) {
			client := &script{sends: helloBytes(0, 1, 4096, c.point...), end: errTooFar}
			_, serr := serveTerms(client, encryptedTerms())
			server := &script{sends: helloBytes(3, 1, 4096, c.point...), end: errTooFar}
			_, cerr := dialTerms(server, encryptedTerms())
			if c.good { // both wait for the confirmation
				if !errors.Is(serr, errTooFar) || !errors.Is(cerr, errTooFar) {
					t.Errorf("server: %v, client: %v", serr, cerr)
				}
				return
			}
			checkRefusal(t, serr, 9, false)
			checkRefusal(t, cerr, 9, false)
			if !bytes.Equal(client.got.Bytes()[103:], []byte{9}) || !bytes.Equal(server.got.Bytes(), []byte{9}) {
				t.Errorf("server wrote %x, client %x, want reason 9", client.got.Bytes()[103:], server.got.Bytes())
			}
		})
	}
}

// What comes behind a side's last message is frames, and none is lost, however
// the bytes arrive.
func TestHandshakeKeepsWhatComesBehind(t *testing.T) {
	t.Parallel()
	for what, tm := range map[string]*handshakeConfig{"plain": plainTerms(), "secret": secretTerms(secretA)} {
		toServer, toClient := recorded(t, tm, tm)
		for _, size := range []int{0, 1, 100, 5000} {
			frames := make([]byte, size)
			for i := range frames {
				frames[i] = byte(i * 7)
			}
			for _, chunk := range []int{0, 1, 50} {
				check := func(role string, s *session, err error, from *script) {
					t.Helper()
					if err != nil {
						t.Errorf("%s, %s, %d bytes behind, chunk %d: %v", what, role, size, chunk, err)
						return
					}
					left := slices.Concat(s.trailingBytes, from.sends)
					if !bytes.Equal(left, frames) {
						t.Errorf("%s, %s, %d bytes behind, chunk %d: %d are left", what, role, size, chunk, len(left))
					}
					if chunk == 0 && size > 0 && len(s.trailingBytes) == 0 {
						t.Errorf("%s, %s: nothing was over-read; this test tests nothing", what, role)
					}
				}
				client := &script{sends: slices.Concat(toServer, frames), end: io.EOF, chunk: chunk}
				s, err := serveTerms(client, tm)
				check("server", s, err, client)
				server := &script{sends: slices.Concat(toClient, frames), end: io.EOF, chunk: chunk}
				s, err = dialTerms(server, tm)
				check("client", s, err, server)
			}
		}
	}
}

func serverFinish(confirmation []byte) []byte { return append([]byte{0}, confirmation...) }

// One who stands between, with keys of his own and without the secret.
func TestHandshakeMITM(t *testing.T) {
	t.Parallel()
	tm := secretTerms(secretA)
	mine := testKey(3)
	swap := func(offset int, b []byte) { // his point in place of each side's
		if len(b) >= 103 && offset == 0 {
			copy(b[6:], mine.PublicKey().Bytes())
		}
	}
	t.Run("his point in both directions", func(t *testing.T) {
		h := runHandshake(tm, tm, newMemStream(0, swap), newMemStream(0, swap))
		checkRefusal(t, h.serverErr, 6, false)
		checkRefusal(t, h.clientErr, 6, true)
	})
	for what, guess := range map[string][]byte{"no secret": nil, "another secret": secretB} {
		t.Run("as server, "+what, func(t *testing.T) {
			// He ignores the client's proof and makes one of his own.
			hello := helloBytes(3, 3, 4096, mine.PublicKey().Bytes()...)
			server := &script{sends: hello, end: errTooFar}
			c, err := clientHello(server, tm, clientSide{newKey: withKey(testClientKey())})
			if err != nil {
				t.Fatal(err)
			}
			z, err := mine.ECDH(testClientKey().PublicKey())
			if err != nil {
				t.Fatal(err)
			}
			wrote := slices.Clone(server.got.Bytes())
			k, err := newSessionKeys(guess, z, transcript(tm.name, hello, wrote[:103]))
			if err != nil {
				t.Fatal(err)
			}
			server.sends = serverFinish(k.serverConfirmation(wrote[103:]))
			s, err := c.readFinish()
			if s != nil {
				t.Error("a session with one who does not hold the secret")
			}
			checkRefusal(t, err, 6, false)
			testutil.Equal(t, "the client wrote", server.got.Bytes(), wrote)
			// The same with the right secret is a session: it was the proof that failed.
			if k, err = newSessionKeys(tm.secret, z, transcript(tm.name, hello, wrote[:103])); err != nil {
				t.Fatal(err)
			}
			again := &script{sends: slices.Concat(hello, serverFinish(k.serverConfirmation(wrote[103:]))), end: errTooFar}
			if _, err := dialTerms(again, tm); err != nil {
				t.Errorf("with the right secret: %v", err)
			}
		})
		t.Run("as client, "+what, func(t *testing.T) {
			terms := secretTerms(guess)
			hello := helloBytes(0, 3, 4096, mine.PublicKey().Bytes()...)
			z, err := mine.ECDH(testServerKey().PublicKey())
			if err != nil {
				t.Fatal(err)
			}
			serverHello := helloBytes(3, 3, 4096, testServerKey().PublicKey().Bytes()...)
			k, err := newSessionKeys(terms.secret, z, transcript(terms.name, serverHello, hello))
			if err != nil {
				t.Fatal(err)
			}
			client := &script{sends: append(hello, k.clientConfirmation()...), end: errTooFar}
			_, err = serveTerms(client, tm)
			checkRefusal(t, err, 6, false)
			testutil.Equal(t, "the server wrote", client.got.Bytes()[103:], []byte{6})
		})
	}
	t.Run("an echo", func(t *testing.T) {
		// The client's own confirmation is no proof of the server.
		server := &script{sends: helloBytes(3, 3, 4096, mine.PublicKey().Bytes()...), end: errTooFar}
		c, err := clientHello(server, tm, clientSide{newKey: withKey(testClientKey())})
		if err != nil {
			t.Fatal(err)
		}
		server.sends = serverFinish(server.got.Bytes()[103:])
		_, err = c.readFinish()
		checkRefusal(t, err, 6, false)
	})
}

// A write that fails is not the news while the peer's reason waits to be read.
func TestHandshakeWriteFails(t *testing.T) {
	t.Parallel()
	tm := secretTerms(secretA)
	toServer, toClient := recorded(t, tm, tm)
	broken := &os.SyscallError{Syscall: "write", Err: syscall.EPIPE}

	for _, c := range []struct {
		what  string
		sends []byte
		run   func(*script) error
	}{
		{"server", nil, func(p *script) error { _, err := serveTerms(p, tm); return err }},
		{"server, though the client goes on", toServer, func(p *script) error { _, err := serveTerms(p, tm); return err }},
		{"client", toClient[:103], func(p *script) error { _, err := dialTerms(p, tm); return err }},
		{"client, though the server goes on", toClient, func(p *script) error { _, err := dialTerms(p, tm); return err }},
	} {
		for _, end := range []error{io.EOF, syscall.ECONNRESET} {
			for cause, left := range map[error]bool{broken: true, io.ErrClosedPipe: true, syscall.ENOBUFS: false} {
				err := c.run(&script{sends: c.sends, end: end, broken: cause})
				if !errors.Is(err, cause) || errors.Is(err, ErrTruncated) != left {
					t.Errorf("%s: %v, want the failed write, and whether the peer left: %t", c.what, err, left)
				}
				checkText(t, err)
			}
		}
	}
	_, err := serveTerms(&script{sends: []byte{5}, end: errTooFar, broken: broken}, tm)
	checkRefusal(t, err, 5, true)
	_, err = dialTerms(&script{sends: append(slices.Clone(toClient[:103]), 7), end: errTooFar, broken: broken}, tm)
	checkRefusal(t, err, 7, true)
	// The client's own refusal is the news, also when it cannot be told.
	_, err = dialTerms(&script{sends: []byte{3, 0}, end: errTooFar, broken: broken}, tm)
	checkRefusal(t, err, 2, false)

	// ServerFinish fails after the client was admitted.
	admitted := 0
	late := &script{sends: toServer, end: errTooFar}
	s, err := serverHandshake(late, tm, serverSide{newKey: withKey(testServerKey()), admit: func() byte { admitted++; late.broken = broken; return 0 }, compute: workNow})
	if s != nil || admitted != 1 || !errors.Is(err, broken) {
		t.Errorf("session %v, admitted %d times, %v", s, admitted, err)
	}
}

func TestHandshakeSystemErrors(t *testing.T) {
	t.Parallel()
	tm := secretTerms(secretA)
	toServer, toClient := recorded(t, tm, tm)
	timeout := &os.SyscallError{Syscall: "read", Err: os.ErrDeadlineExceeded}
	other := errors.New("the disk is on fire")
	for n, toClient := range [][]byte{nil, toClient[:1], toClient[:103], toClient[:104]} {
		_, err := dialTerms(&script{sends: toClient, end: timeout}, tm)
		if !errors.Is(err, ErrTimeout) || !errors.Is(err, timeout) || errors.Is(err, ErrTruncated) {
			t.Errorf("client: %v", err)
		}
		checkText(t, err)
		if says := strings.Contains(err.Error(), "sent nothing"); says != (n == 0) {
			t.Errorf("after %d bytes: %v", len(toClient), err)
		}
		_, err = dialTerms(&script{sends: toClient, end: other}, tm)
		if !errors.Is(err, other) || errors.Is(err, ErrTruncated) || errors.Is(err, ErrTimeout) {
			t.Errorf("client: %v", err)
		}
		checkText(t, err)
	}
	for _, toServer := range [][]byte{nil, toServer[:1], toServer[:103]} {
		_, err := serveTerms(&script{sends: toServer, end: timeout}, tm)
		if !errors.Is(err, ErrTimeout) || !errors.Is(err, timeout) {
			t.Errorf("server: %v", err)
		}
		checkText(t, err)
		_, err = serveTerms(&script{sends: toServer, end: other}, tm)
		if !errors.Is(err, other) || errors.Is(err, ErrTruncated) {
			t.Errorf("server: %v", err)
		}
		checkText(t, err)
	}
	// A key that cannot be made: nothing is written.
	noKey := func() (*ecdh.PrivateKey, error) { return nil, other }
	client, server := &script{end: errTooFar}, &script{sends: toClient, end: errTooFar}
	_, serr := serverHandshake(client, tm, serverSide{newKey: noKey, admit: func() byte { return 0 }, compute: workNow})
	_, cerr := clientHello(server, tm, clientSide{newKey: noKey})
	if !errors.Is(serr, other) || !errors.Is(cerr, other) || client.got.Len()+server.got.Len() != 0 {
		t.Errorf("server: %v, client: %v", serr, cerr)
	}
	checkText(t, serr)
	checkText(t, cerr)
	// In plaintext none is made.
	if _, err := serverHandshake(&script{sends: helloBytes(0, 0, 4096), end: errTooFar}, plainTerms(), serverSide{newKey: noKey, admit: func() byte { return 0 }, compute: workNow}); err != nil {
		t.Error(err)
	}
	// A client that refuses has made none.
	_, err := clientHello(&script{sends: helloBytes(3, 1, 4096, make([]byte, 97)...), end: errTooFar}, encryptedTerms(), clientSide{newKey: noKey})
	checkRefusal(t, err, 9, false)
}

func TestClientNamesTheWrongPeer(t *testing.T) {
	t.Parallel()
	for first, want := range map[byte]string{
		0x15: "TLS", 0x16: "TLS", 'H': "HTTP", 'S': "SSH", 1: "package wire2", 2: "package wire2", 4: "up to date", 0xff: "up to date"} {
		server := &script{sends: []byte{first}, end: errTooFar}
		_, err := dialTerms(server, encryptedTerms())
		checkRefusal(t, err, 1, false)
		if text := err.Error(); !strings.Contains(text, want) || !strings.Contains(text, fmt.Sprintf("0x%02x", first)) {
			t.Errorf("first byte %#x: %v", first, err)
		}
		if !bytes.Equal(server.got.Bytes(), []byte{1}) {
			t.Errorf("first byte %#x: the client wrote %x, want reason 1", first, server.got.Bytes())
		}
	}
	_, err := serveTerms(&script{sends: []byte("GET / HTTP/1.1\r\n"), end: errTooFar}, encryptedTerms())
	checkRefusal(t, err, 'G', true)
	if text := err.Error(); !strings.Contains(text, "HTTP") || !strings.Contains(text, "0x47") {
		t.Error(err)
	}
}

func TestHandshakeWithNewKeys(t *testing.T) {
	t.Parallel()
	var keys [2][]byte
	for i := range keys {
		server := &script{end: io.EOF}
		serverHandshake(server, encryptedTerms(), serverSide{newKey: newECDHKey, admit: func() byte { return 0 }, compute: workNow})
		keys[i] = server.got.Bytes()[6:]
		client := &script{sends: server.got.Bytes(), end: io.EOF}
		if _, err := clientHello(client, encryptedTerms(), clientSide{newKey: newECDHKey}); err != nil || client.got.Len() != 151 {
			t.Errorf("the client wrote %d bytes, %v", client.got.Len(), err)
		}
	}
	if bytes.Equal(keys[0], keys[1]) {
		t.Error("two connections have one key")
	}
}

// Each message is one write, but for the client's: its key goes first, for the
// server to work on while the client computes its confirmation.
func TestHandshakeWrites(t *testing.T) {
	t.Parallel()
	var toServer, toClient []int
	count := func(sizes *[]int) func(int, []byte) {
		return func(_ int, b []byte) { *sizes = append(*sizes, len(b)) }
	}
	runHandshake(encryptedTerms(), encryptedTerms(), newMemStream(0, count(&toServer)), newMemStream(0, count(&toClient)))
	if !slices.Equal(toServer, []int{103, 48}) || !slices.Equal(toClient, []int{103, 49}) {
		t.Errorf("writes of %d bytes to the server and %d to the client", toServer, toClient)
	}
}

// workNow does the work of a handshake without a wait.
func workNow(f func() error) error { return f() }

func hybridTerms(secret []byte) *handshakeConfig {
	return &handshakeConfig{name: "test", maxDataSize: 4096, encrypt: true, hybrid: true, secret: secret}
}

// fixedKEM is the same key each time, and fixedCiphertext what was encapsulated to it once.
func fixedKEM() (*mlkem.DecapsulationKey1024, error) {
	return mlkem.NewDecapsulationKey1024(bytes.Repeat([]byte{1}, mlkem.SeedSize))
}

func fixedCiphertext(*mlkem.EncapsulationKey1024) (shared, ciphertext []byte) {
	return encapsulatedOnce()
}

var encapsulatedOnce = sync.OnceValues(func() (shared, ciphertext []byte) {
	key, err := fixedKEM()
	if err != nil {
		panic(err)
	}
	return key.EncapsulationKey().Encapsulate()
})

// TestHandshakeHybrid: which agreement two sides come to, with and without ML-KEM, and
// how long their messages are.
func TestHandshakeHybrid(t *testing.T) {
	t.Parallel()
	const classical = 6 + pointLen
	for _, secret := range [][]byte{nil, secretA} {
		for _, c := range []struct {
			name           string
			server, client bool
			hello, answer  int
		}{
			{"both", true, true, fullHello, fullHello},
			{"the server alone", true, false, fullHello, classical},
			{"the client alone", false, true, classical, classical},
			{"neither", false, false, classical, classical},
		} {
			server, client := hybridTerms(secret), hybridTerms(secret)
			server.hybrid, client.hybrid = c.server, c.client
			h := runHandshake(server, client, newMemStream(7, nil), newMemStream(7, nil))
			if !h.agree() {
				t.Errorf("%s: %v, %v", c.name, h.serverErr, h.clientErr)
				continue
			}
			want := Security{Encrypted: true, Hybrid: c.server && c.client, Secret: secret != nil}
			if h.server.security != want || h.client.security != want {
				t.Errorf("%s: %+v and %+v, want %+v", c.name, h.server.security, h.client.security, want)
			}
			if len(h.toClient.sent) != c.hello+49 || len(h.toServer.sent) != c.answer+48 {
				t.Errorf("%s: %d and %d bytes", c.name, len(h.toClient.sent), len(h.toServer.sent))
			}
		}
	}
	t.Run("plaintext", func(t *testing.T) {
		plain := &handshakeConfig{name: "test", maxDataSize: 4096, hybrid: true}
		h := runHandshake(plain, plain, newMemStream(0, nil), newMemStream(0, nil))
		if h.serverErr != nil || h.clientErr != nil || h.server.security != (Security{}) || h.client.security != (Security{}) || len(h.toClient.sent) != 7 {
			t.Errorf("%v, %v, %+v, %+v, %d bytes", h.serverErr, h.clientErr, h.server, h.client, len(h.toClient.sent))
		}
	})
	t.Run("follow", func(t *testing.T) {
		follow := &handshakeConfig{name: "test", maxDataSize: 4096, hybrid: true}
		if h := runHandshake(hybridTerms(nil), follow, newMemStream(0, nil), newMemStream(0, nil)); !h.agree() || !h.client.security.Hybrid {
			t.Errorf("%v, %v, %+v", h.serverErr, h.clientErr, h.client)
		}
	})
}

// TestHandshakeHybridMITM: a change on the way of what the hellos say of ML-KEM is noticed
// on both sides, with and without a secret.
func TestHandshakeHybridMITM(t *testing.T) {
	t.Parallel()
	mine, err := mlkem.GenerateKey1024()
	if err != nil {
		t.Fatal(err)
	}
	once := func(f func(b []byte) []byte) func(b []byte) []byte { // changes a hello, and nothing behind it
		done := false
		return func(b []byte) []byte {
			if done || len(b) < 6+pointLen {
				return b
			}
			done = true
			return f(b)
		}
	}
	clears := func(b []byte) []byte { b[1] &^= flagHybrid; return b }
	cuts := func(b []byte) []byte { return b[:6+pointLen] }
	swaps := func(b []byte) []byte { copy(b[6+pointLen:], mine.EncapsulationKey().Bytes()); return b }
	adds := func(b []byte) []byte { b[1] |= flagHybrid; return append(b, mine.EncapsulationKey().Bytes()...) }
	last := func(b []byte) []byte { b[len(b)-1] ^= 1; return b }
	both := func(f, g func([]byte) []byte) func([]byte) []byte { return func(b []byte) []byte { return g(f(b)) } }
	const cut = 0 // not a reason: the stream ends too early
	for _, c := range []struct {
		name     string
		toClient func([]byte) []byte
		toServer func([]byte) []byte
		server   bool // has ML-KEM
		reason   byte // that the server says
		noise    bool // the client takes the server's key for a reason
	}{
		{name: "ServerHello: bit 2 cleared, the key left", toClient: clears, server: true, reason: 6, noise: true},
		{name: "ServerHello: bit 2 cleared, the key cut", toClient: both(clears, cuts), server: true, reason: 6},
		{name: "ServerHello: bit 2 set, a key of his own", toClient: adds, server: false, reason: 9},
		{name: "ServerHello: his own key", toClient: swaps, server: true, reason: 6},
		{name: "ServerHello: one bit of the key", toClient: last, server: true, reason: 6},
		{name: "ClientHello: bit 2 cleared, the ciphertext left", toServer: clears, server: true, reason: 6},
		{name: "ClientHello: bit 2 cleared, the ciphertext cut", toServer: both(clears, cuts), server: true, reason: 6},
		{name: "ClientHello: the ciphertext cut", toServer: cuts, server: true, reason: cut},
		{name: "ClientHello: one bit of the ciphertext", toServer: last, server: true, reason: 6},
		{name: "ClientHello: another bit set", toServer: func(b []byte) []byte { b[1] |= 8; return b }, server: true, reason: 9},
		{name: "ClientHello: bit 0 cleared", toServer: func(b []byte) []byte { b[1] &^= 1; return b }, server: true, reason: 9},
	} {
		for _, secret := range [][]byte{nil, secretA} {
			t.Run(c.name, func(t *testing.T) {
				server := hybridTerms(secret)
				server.hybrid = c.server
				toServer, toClient := newMemStream(0, nil), newMemStream(0, nil)
				if c.toServer != nil {
					toServer.change = once(c.toServer)
				}
				if c.toClient != nil {
					toClient.change = once(c.toClient)
				}
				if c.reason == cut {
					toServer.endAfter = 6 + pointLen
				}
				h := runHandshake(server, hybridTerms(secret), toServer, toClient)
				if h.server != nil || h.client != nil {
					t.Fatalf("a session: %+v, %+v", h.server, h.client)
				}
				if c.reason == cut {
					if !errors.Is(h.serverErr, ErrTruncated) || !errors.Is(h.clientErr, ErrTruncated) {
						t.Errorf("%v, %v", h.serverErr, h.clientErr)
					}
					return
				}
				checkRefusal(t, h.serverErr, c.reason, false)
				if !c.noise {
					checkRefusal(t, h.clientErr, c.reason, true)
				}
			})
		}
	}
}

// TestHandshakeHybridKeys: a coefficient at the modulus is refused by a client that has
// ML-KEM, and by no other.
func TestHandshakeHybridKeys(t *testing.T) {
	t.Parallel()
	toServer, toClient := recorded(t, hybridTerms(nil), hybridTerms(nil))
	hello := toClient[:fullHello]
	for _, at := range []int{0, 1, 511, 1022, 1023} { // of 1,024 coefficients of 12 bits
		bad := slices.Clone(hello)
		b := bad[6+pointLen+at/2*3:]
		if at%2 == 0 { // 3329 is 0xd01
			b[0], b[1] = 0x01, b[1]&0xf0|0x0d
		} else {
			b[1], b[2] = b[1]&0x0f|0x10, 0xd0
		}
		server := &script{sends: bad, end: errTooFar}
		_, err := dialTerms(server, hybridTerms(nil))
		checkRefusal(t, err, 9, false)
		if got := server.got.Bytes(); !bytes.Equal(got, []byte{9}) {
			t.Errorf("coefficient %d: the client wrote %d bytes", at, len(got))
		}
		classical := &script{sends: bad, end: errTooFar}
		if _, err := clientHello(classical, encryptedTerms(), clientSide{newKey: newECDHKey}); err != nil {
			t.Errorf("coefficient %d, a client without ML-KEM: %v", at, err)
		}
	}
	// The same client hello is no session with a server whose ML-KEM key is new.
	side := serverSide{newKey: withKey(testServerKey()), admit: func() byte { return 0 }, compute: workNow}
	if _, err := serverHandshake(&script{sends: toServer, end: errTooFar}, hybridTerms(nil), side); !errors.Is(err, ErrSecret) {
		t.Errorf("a hello that was sent to another key: %v", err)
	}
}
