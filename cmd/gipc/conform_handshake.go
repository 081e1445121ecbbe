// The server's side of a handshake, byte by byte, with faults where a scenario
// wants them.

package main

import (
	"bytes"
	"crypto/ecdh"
	"crypto/mlkem"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"time"
)

const (
	flagEncrypted = 1
	flagSecret    = 2
	flagHybrid    = 4

	pointSize = 97
)

// A hello is a ServerHello that a scenario can change before it is sent.
type hello struct {
	version byte
	flags   byte
	limit   uint32
	point   []byte
	kemKey  []byte
}

func (h *hello) bytes() []byte {
	b := []byte{h.version, h.flags}
	b = binary.BigEndian.AppendUint32(b, h.limit)
	b = append(b, h.point...)
	return append(b, h.kemKey...)
}

// A peer is the server's end of one connection of the client. After the first
// failure of the stage its methods do nothing.
type peer struct {
	*stage
	conn net.Conn
	out  *outbox
	in   *clientStream

	private *ecdh.PrivateKey
	kem     *mlkem.DecapsulationKey1024
	hello   *hello
	keys    *schedule
	seal    *direction // nil: plaintext
	hybrid  bool       // what the client chose
	sharedX []byte

	clientPoint []byte
	stripped    []byte // the confirmation of a client that removes zeros from Z
	proved      bool   // the confirmation of the client matches
	badKey      bool   // the encapsulation key is not valid
	calls       uint64 // requests that were sent
	closing     bool   // a close was sent
}

// newHello makes the keys of a connection, and the ServerHello with them.
func (p *peer) newHello() *hello {
	h := &hello{version: 3, limit: uint32(p.limit)}
	p.hello = h
	if p.plain || p.err != nil {
		return h
	}
	h.flags = flagEncrypted
	if p.secret != nil {
		h.flags |= flagSecret
	}
	var err error
	if p.private, err = ecdh.P384().GenerateKey(rand.Reader); err != nil {
		p.failed(err)
		return h
	}
	h.point = p.private.PublicKey().Bytes()
	if p.classical {
		return h
	}
	if p.kem, err = mlkem.GenerateKey1024(); err != nil {
		p.failed(err)
		return h
	}
	h.flags |= flagHybrid
	h.kemKey = p.kem.EncapsulationKey().Bytes()
	return h
}

// handshake runs a handshake that succeeds.
func (p *peer) handshake() *peer {
	p.raw(p.newHello().bytes())
	p.clientHello()
	p.finish()
	return p
}

// clientHello reads a ClientHello and checks it.
func (p *peer) clientHello() {
	first := p.readBytes(1, "H-13")
	if p.err == nil && first[0] != 0 {
		p.fail("H-13", "the client refused the server with reason %d", first[0])
	}
	p.clientHelloAfter(first)
}

// clientHelloAfter is clientHello after the first byte.
func (p *peer) clientHelloAfter(first []byte) {
	rest := p.readBytes(5, "H-13")
	if p.err != nil {
		return
	}
	received := append(first, rest...)
	flags, limit := rest[0], binary.BigEndian.Uint32(rest[1:])
	switch {
	case flags&^flagHybrid != p.hello.flags&^flagHybrid, flags&^p.hello.flags != 0:
		p.fail("H-21", "the server's flags are %d, and the client repeats them as %d", p.hello.flags, flags)
	case limit != uint32(p.clientLimit):
		p.fail("H-2", "the client announces a limit of %d, and has to announce %d", limit, p.clientLimit)
	}
	if p.plain {
		return
	}
	if p.hybrid = flags&flagHybrid != 0; p.hybrid && p.badKey {
		p.fail("H-23", "the client accepted a key with a coefficient of 3,329")
	}
	point := p.readBytes(pointSize, "H-3")
	p.clientPoint = point
	var ciphertext []byte
	if p.hybrid {
		ciphertext = p.readBytes(mlkem.CiphertextSize1024, "H-21")
	}
	confirmation := p.readBytes(48, "H-18")
	if p.err != nil {
		return
	}
	p.derive(slices.Concat(received, point, ciphertext), point, ciphertext)
	if p.err != nil {
		return
	}
	p.proved = bytes.Equal(confirmation, p.keys.clientConfirmation)
	switch {
	case p.proved, p.clientName != p.name, !bytes.Equal(p.clientSecret, p.secret):
	case bytes.Equal(confirmation, p.stripped):
		p.fail("K-1", "the client has removed the zero bytes before the shared x-coordinate")
	default:
		p.fail("K-2", "the confirmation of the client does not match: check the transcript, the name, the secret and the key schedule")
	}
}

// derive derives the keys from what the client has sent.
func (p *peer) derive(clientHello, point, ciphertext []byte) {
	public, err := ecdh.P384().NewPublicKey(point)
	if err != nil {
		p.fail("H-3", "the point of the client cannot be used: %v", err)
		return
	}
	if p.sharedX, err = p.private.ECDH(public); err != nil {
		p.failed(err)
		return
	}
	var shared []byte
	if p.hybrid {
		if shared, err = p.kem.Decapsulate(ciphertext); err != nil {
			p.failed(err)
			return
		}
	}
	p.keys, err = newSchedule(p.name, p.secret, p.hello.bytes(), clientHello, slices.Concat(p.sharedX, shared))
	p.check(err)
	short := bytes.TrimLeft(p.sharedX, "\x00")
	if wrong, err := newSchedule(p.name, p.secret, p.hello.bytes(), clientHello, slices.Concat(short, shared)); err == nil {
		p.stripped = wrong.clientConfirmation
	}
}

// finish sends ServerFinish.
func (p *peer) finish() { p.raw(p.serverFinish()) }

// serverFinish returns ServerFinish. Both directions then have their keys.
func (p *peer) serverFinish() []byte {
	if p.err != nil {
		return nil
	}
	p.lines = append(p.lines, "connected")
	if p.plain {
		return []byte{0}
	}
	rekeyAt := p.rekeyAt
	if rekeyAt == 0 {
		rekeyAt = rekeyBytes
	}
	var errIn, errOut error
	p.in.keys, errIn = newDirection(p.keys.clientTraffic, rekeyAt)
	p.seal, errOut = newDirection(p.keys.serverTraffic, rekeyAt)
	p.check(errors.Join(errIn, errOut))
	return append([]byte{0}, p.keys.serverConfirmation...)
}

// readBytes reads n bytes of the handshake. The id is that of the sentence that
// does not hold if they do not arrive.
func (p *peer) readBytes(n int, id string) []byte {
	if p.err != nil {
		return nil
	}
	b, err := p.in.read(n, p.deadline, false)
	if err != nil {
		p.fail(id, "%v in the handshake, before %d bytes had arrived", err, n)
	}
	return b
}

// refuses expects the client to write this reason and nothing else, and to end.
func (p *peer) refuses(reason byte, id string) {
	if p.err != nil {
		return
	}
	got, err := p.in.read(1, p.soon(), false)
	switch {
	case err != nil:
		p.fail(id, "%v, and reason %d was expected", err, reason)
	case got[0] != reason:
		p.fail(id, "the first byte of the client is %d, and reason %d was expected", got[0], reason)
	}
	p.writesNothing(id)
}

// writesNothing expects the client to end its stream without another byte. The
// id is that of the sentence that a byte violates.
func (p *peer) writesNothing(id string) {
	if p.err != nil {
		return
	}
	b, err := p.in.read(1, p.soon(), false)
	switch {
	case err == nil:
		p.fail(id, "the client wrote another byte, %d, and had to end the connection", b[0])
	case errors.Is(err, errSilent):
		p.fail(id, "the client did not end the connection within %v", patience)
	case errors.Is(err, errReset):
		p.fail("G-11", "the client closed the socket with unread input, instead of shutting down its sending half first")
	case !errors.Is(err, errEndBoundary):
		p.failed(err)
	}
	p.end()
}

// patience is how long a client may take to end a connection after a fault.
const patience = 3 * time.Second

// soon returns when the client has to have ended the connection.
func (p *peer) soon() time.Time {
	if t := time.Now().Add(patience); t.Before(p.deadline) {
		return t
	}
	return p.deadline
}
