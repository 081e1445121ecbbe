package gipc

import (
	"bytes"
	"crypto/mlkem"
	"errors"
	"slices"
	"sync"
	"testing"
)

func hybridTerms(secret []byte) *terms {
	return &terms{name: "test", limit: 4096, encrypt: true, hybrid: true, secret: secret}
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
		plain := &terms{name: "test", limit: 4096, hybrid: true}
		h := runHandshake(plain, plain, newMemStream(0, nil), newMemStream(0, nil))
		if h.serverErr != nil || h.clientErr != nil || h.server.security != (Security{}) || h.client.security != (Security{}) || len(h.toClient.sent) != 7 {
			t.Errorf("%v, %v, %+v, %+v, %d bytes", h.serverErr, h.clientErr, h.server, h.client, len(h.toClient.sent))
		}
	})
	t.Run("follow", func(t *testing.T) {
		follow := &terms{name: "test", limit: 4096, hybrid: true}
		if h := runHandshake(hybridTerms(nil), follow, newMemStream(0, nil), newMemStream(0, nil)); !h.agree() || !h.client.security.Hybrid {
			t.Errorf("%v, %v, %+v", h.serverErr, h.clientErr, h.client)
		}
	})
}

// TestHandshakeHybridInTheMiddle: a change on the way of what the hellos say of ML-KEM is noticed
// on both sides, with and without a secret.
func TestHandshakeHybridInTheMiddle(t *testing.T) {
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
		if _, err := clientHello(classical, encryptedTerms(), clientSide{key: newKey}); err != nil {
			t.Errorf("coefficient %d, a client without ML-KEM: %v", at, err)
		}
	}
	// The same client hello is no session with a server whose ML-KEM key is new.
	side := serverSide{key: withKey(testServerKey()), admit: func() byte { return 0 }, work: workNow}
	if _, err := serverHandshake(&script{sends: toServer, end: errTooFar}, hybridTerms(nil), side); !errors.Is(err, ErrSecret) {
		t.Errorf("a hello that was sent to another key: %v", err)
	}
}
