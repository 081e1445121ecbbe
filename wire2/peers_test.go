// Scripted peers that behave like the existing ones: an earlier Go program
// (james), its fork (joe), and a client for Node.js (node).

package wire2

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/big"
	"net"
	"testing"
)

// A peerKind is how one of the existing peers differs from the others.
type peerKind struct {
	name       string
	keyFirst   bool // as a client it sends its key before it has the server's
	unstripped bool // it hashes the x-coordinate with its leading zeros
	wholeReads bool // it wants each frame in one read, of 65,536 bytes at most
}

var (
	james = peerKind{name: "james"}
	joe   = peerKind{name: "joe", keyFirst: true}
	node  = peerKind{name: "node", unstripped: true, wholeReads: true}
)

// An oldPeer is a scripted peer. Its methods fail the test, so they run on the
// test's own goroutine.
type oldPeer struct {
	testing.TB
	peerKind
	conn    net.Conn
	private *ecdh.PrivateKey
	aead    cipher.AEAD // nil in plaintext
	limit   uint32      // of the server
}

func (k peerKind) on(t testing.TB, conn net.Conn) *oldPeer {
	t.Helper()
	private, err := generateKey()
	if err != nil {
		t.Fatal(err)
	}
	return &oldPeer{TB: t, peerKind: k, conn: conn, private: private}
}

func (p *oldPeer) write(b []byte) {
	p.Helper()
	if _, err := p.conn.Write(b); err != nil {
		p.Fatalf("peer %s: write: %v", p.name, err)
	}
}

// readOnce reads once: that has to bring n bytes and not one more.
func (p *oldPeer) readOnce(n int) []byte {
	p.Helper()
	b := make([]byte, 1<<16)
	got, err := p.conn.Read(b)
	if err != nil || got != n {
		p.Fatalf("peer %s: one read brings %d bytes, %v; want %d", p.name, got, err, n)
	}
	return b[:n]
}

func (p *oldPeer) readFull(n int) []byte {
	p.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(p.conn, b); err != nil {
		p.Fatalf("peer %s: read: %v", p.name, err)
	}
	return b
}

// peerAEAD derives the key of a connection, independently of the package.
func peerAEAD(t testing.TB, private *ecdh.PrivateKey, point []byte, unstripped bool) cipher.AEAD {
	t.Helper()
	other, err := ecdh.P384().NewPublicKey(point)
	if err != nil {
		t.Fatal(err)
	}
	x, err := private.ECDH(other)
	if err != nil {
		t.Fatal(err)
	}
	if !unstripped {
		x = new(big.Int).SetBytes(x).Bytes()
	}
	sum := sha256.Sum256(x)
	return aeadOf(t, sum[:])
}

func aeadOf(t testing.TB, key []byte) cipher.AEAD {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	return aead
}

// asClient does the handshake of a client.
func (p *oldPeer) asClient(encrypted bool) *oldPeer {
	p.Helper()
	p.asClientUntilLimit(encrypted)
	p.takeLimit(encrypted)
	p.write([]byte{0})
	return p
}

// read is how the peer reads a message of the handshake.
func (p *oldPeer) read(n int) []byte {
	p.Helper()
	if p.keyFirst {
		return p.readFull(n) // what it has not waited for may arrive together
	}
	return p.readOnce(n)
}

func (p *oldPeer) asClientUntilLimit(encrypted bool) {
	p.Helper()
	flag := byte(0)
	if encrypted {
		flag = 1
	}
	if hello := p.readOnce(2); !bytes.Equal(hello, []byte{2, flag}) {
		p.Fatalf("peer %s: hello %x", p.name, hello)
	}
	p.write([]byte{0})
	if !encrypted {
		return
	}
	if p.keyFirst {
		p.write(p.private.PublicKey().Bytes())
	}
	point := p.read(97)
	if !p.keyFirst {
		p.write(p.private.PublicKey().Bytes())
	}
	p.aead = peerAEAD(p, p.private, point, p.unstripped)
	if p.unstripped { // it does not check the tag of the limit, which is sealed with the stripped key
		p.limit = binary.BigEndian.Uint32(p.openWith(peerAEAD(p, p.private, point, false), p.limitBody(32)))
	}
}

func (p *oldPeer) takeLimit(encrypted bool) {
	p.Helper()
	switch {
	case p.limit != 0:
	case encrypted:
		p.limit = binary.BigEndian.Uint32(p.openWith(p.aead, p.limitBody(32)))
	default:
		p.limit = binary.BigEndian.Uint32(p.limitBody(4))
	}
}

func (p *oldPeer) limitBody(size int) []byte {
	p.Helper()
	b := p.read(4 + size)
	if n := binary.BigEndian.Uint32(b); n != uint32(size) {
		p.Fatalf("peer %s: the limit has a length of %d", p.name, n)
	}
	return b[4:]
}

// asServer does the handshake of a server.
func (p *oldPeer) asServer(encrypted bool, limit uint32) *oldPeer {
	p.Helper()
	hello := []byte{2, 0}
	if encrypted {
		hello[1] = 1
	}
	p.write(hello)
	if reply := p.readOnce(1); reply[0] != 0 {
		p.Fatalf("server %s got reply %d, and stops accepting", p.name, reply[0])
	}
	if encrypted {
		p.write(p.private.PublicKey().Bytes())
		p.aead = peerAEAD(p, p.private, p.readOnce(97), p.unstripped)
	}
	b := p.seal(binary.BigEndian.AppendUint32(nil, limit))
	p.write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	p.readFull(1)
	return p
}

func (p *oldPeer) seal(b []byte) []byte {
	if p.aead == nil {
		return b
	}
	return p.aead.Seal(nil, nil, b, nil)
}

func (p *oldPeer) openWith(aead cipher.AEAD, b []byte) []byte {
	p.Helper()
	if aead == nil {
		return b
	}
	b, err := aead.Open(nil, nil, b, nil)
	if err != nil {
		p.Fatalf("peer %s: %v", p.name, err)
	}
	return b
}

func (p *oldPeer) frame(frameType uint32, data string) []byte {
	b := p.seal(append(binary.BigEndian.AppendUint32(nil, frameType), data...))
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

func (p *oldPeer) send(frameType uint32, data string) {
	p.Helper()
	p.write(p.frame(frameType, data))
}

func (p *oldPeer) receive(frameType uint32, data string) {
	p.Helper()
	var b []byte
	if p.wholeReads {
		size := 8 + len(data)
		if p.aead != nil {
			size += 28
		}
		b = p.readOnce(size)[4:]
	} else {
		b = p.readFull(int(binary.BigEndian.Uint32(p.readFull(4))))
	}
	b = p.openWith(p.aead, b)
	if got := binary.BigEndian.Uint32(b); got != frameType || string(b[4:]) != data {
		p.Fatalf("peer %s got type %d, %d bytes %.20q; want type %d, %d bytes %.20q", p.name, got, len(b)-4, b[4:], frameType, len(data), data)
	}
}

// expectEnd reads the end of the stream, and no reset: james and joe do not dial
// again after one.
func (p *oldPeer) expectEnd() {
	p.Helper()
	var b [64]byte
	if n, err := p.conn.Read(b[:]); n != 0 || err != io.EOF {
		p.Fatalf("peer %s reads %x, %v; want the end", p.name, b[:n], err)
	}
}

// forEach runs f for each kind, encrypted and in plaintext.
func forEach(t *testing.T, kinds []peerKind, f func(t *testing.T, k peerKind, encrypted bool)) {
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

// serverAnd returns the library's endpoint of a server, and its client.
func serverAnd(t testing.TB, k peerKind, o Options) (*library, *oldPeer) {
	t.Helper()
	near, far := socketPair(t)
	u := startServer(t, near, o, generateKey)
	p := k.on(t, far).asClient(o.Encryption)
	return u.wait(), p
}

// clientAnd returns the library's endpoint of a client, and its server.
func clientAnd(t testing.TB, k peerKind, o Options, limit uint32) (*library, *oldPeer) {
	t.Helper()
	near, far := socketPair(t)
	u := startClient(t, near, o, generateKey)
	p := k.on(t, far).asServer(o.Encryption, limit)
	return u.wait(), p
}
