// The handshake of version 3, both roles, over a reader and a writer. No
// goroutines, no net; deadlines are the caller's.

package gipc

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/mlkem"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

const (
	version3 = 3

	flagEncrypted = 1 << 0
	flagSecret    = 1 << 1 // a secret is required; only together with flagEncrypted
	flagHybrid    = 1 << 2 // ML-KEM-1024 beside P-384; only together with flagEncrypted
)

// Reasons of a refusal, one byte on the wire. 3 is reserved.
const (
	reasonVersion      = 1
	reasonEncryption   = 2 // the client requires it
	reasonServerSecret = 4 // the server requires a secret
	reasonClientSecret = 5 // the client requires a secret
	reasonConfirmation = 6
	reasonBusy         = 7
	reasonUnauthorized = 8
	reasonMalformed    = 9
)

// handshakeConfig are what one side brings to a handshake.
type handshakeConfig struct {
	name        string
	secret      []byte         // empty: none
	holders     []secretHolder // server with several secrets: of all of them, its own included
	encrypt     bool           // server: on. client: required; else it follows the server
	hybrid      bool           // this side has ML-KEM-1024, as every one of ours has
	maxDataSize int            // largest data that this side accepts
}

// hasSecret reports whether this side has a secret.
func (t *handshakeConfig) hasSecret() bool { return len(t.secret) > 0 || len(t.holders) > 0 }

// allHolders returns the holders of every secret, or the one of none. They are not
// copied: a handshake holds them while it waits for its peer.
func (t *handshakeConfig) allHolders() ([]secretHolder, error) {
	if len(t.holders) > 0 {
		return t.holders, nil
	}
	own, err := newSecretHolder("", t.secret)
	return []secretHolder{own}, err
}

// offeredFlags is the flags that a server says.
func (t *handshakeConfig) offeredFlags() byte {
	flags := t.requiredFlags()
	if t.hybrid && flags&flagEncrypted != 0 {
		flags |= flagHybrid
	}
	return flags
}

// requiredFlags are what a client insists on.
func (t *handshakeConfig) requiredFlags() byte {
	switch {
	case t.hasSecret():
		return flagEncrypted | flagSecret // who holds a secret requires encryption, too
	case t.encrypt:
		return flagEncrypted
	}
	return 0
}

// session is what a handshake leaves behind.
type session struct {
	receiveCipher, sendCipher *recordCipher // nil in plaintext
	security                  Security
	identity                  string // whose secret a client has proved
	peerMaxDataSize           int    // largest data that the peer accepts
	trailingBytes             []byte // what came behind the handshake
}

// refusal is a handshake that one side ended for a reason. It matches the
// sentinel of its reason.
type refusal struct {
	error
	reason byte
	byPeer bool
}

func (r *refusal) Unwrap() error { return r.error }

// refusalReason returns the reason that ended a handshake, and whether it is
// the peer's word, which nothing authenticates. Without a refusal it is 0, false.
func refusalReason(err error) (reason byte, byPeer bool) {
	var r *refusal
	if !errors.As(err, &r) {
		return 0, false
	}
	return r.reason, r.byPeer
}

// refusalAdvice is what to do about a reason, told so that it helps on either side,
// and its sentinel.
func refusalAdvice(reason byte) (text string, kind error) {
	switch reason {
	case reasonVersion:
		return "the client does not speak the server's version: update the older side, or see package wire2", ErrVersion
	case reasonEncryption:
		return "the client requires encryption and the server has it off: set Encryption in ServerConfig to EncryptionOn, or in ClientConfig to EncryptionOff without a Secret", ErrEncryption
	case reasonServerSecret:
		return "the server requires a secret and the client has none: set Secret in ClientConfig to one that the server has", ErrSecret
	case reasonClientSecret:
		return "the client requires a secret and the server has none: set Secret in ServerConfig to the client's, or list it in Secrets", ErrSecret
	case reasonConfirmation:
		return "another Secret or another Name: both configs need the same of each, byte for byte, or the server that Secret among its Secrets", ErrSecret
	case reasonBusy:
		return "the server has reached its client limit: try later, or see MultiClient and MaxClients in ServerConfig", ErrRefused
	case reasonUnauthorized:
		return "the server's Authorize does not let this client in: the server's log says why", ErrRefused
	case reasonMalformed:
		return "the hello broke the protocol: update the older side", ErrMalformed
	}
	return fmt.Sprintf("reason %#02x is not known here%s: is the other side newer, or another program?", reason, likelyProtocol(reason)), ErrRefused
}

// likelyProtocol names the likely wrong peer by the first byte that it sends.
func likelyProtocol(first byte) string {
	switch first {
	case 0x15, 0x16:
		return ", and looks like TLS"
	case 'G', 'H', 'P':
		return ", and looks like HTTP"
	case 'S':
		return ", and looks like SSH"
	}
	return ""
}

// writeRefusal tells a client the reason in place of a ServerHello.
func writeRefusal(w io.Writer, reason byte) error {
	_, err := w.Write([]byte{0, reason})
	return err
}

// handshakeConn is one side's half of a handshake: what it has read, judged field
// by field as soon as each is complete.
type handshakeConn struct {
	stream             io.ReadWriter
	peerName           string                // "client" or "server", for texts
	input              [handshakeBuffer]byte // all that came
	inputLen, inputPos int                   // of buf: read, taken
	writeErr           error                 // a write that failed; a reason may be waiting all the same
}

// handshakeBuffer holds both messages of a peer, 1,720 bytes in a hybrid handshake, and then
// frames. One read takes a whole hello, so a peer whose transport has no buffer is not
// still writing it when this side writes a reason.
const handshakeBuffer = 2 << 10

// readN waits for the next n bytes and returns them.
func (x *handshakeConn) readN(n int) ([]byte, error) {
	if missing := x.inputPos + n - x.inputLen; missing > 0 {
		got, err := io.ReadAtLeast(x.stream, x.input[x.inputLen:], missing)
		x.inputLen += got
		if err != nil {
			return nil, x.ioError(err)
		}
	}
	x.inputPos += n
	return x.input[x.inputPos-n : x.inputPos], nil
}

// readReply takes the byte that says whether the peer goes on: its reason if not,
// else what went wrong here.
func (x *handshakeConn) readReply() error {
	b, err := x.readN(1)
	switch {
	case err == nil && b[0] != 0:
		return x.peerRefusal(b[0])
	case x.writeErr != nil:
		return x.ioError(x.writeErr)
	}
	return err
}

// readLimitAndPoint takes what both hellos have behind their flags, and answers
// what is malformed.
func (x *handshakeConn) readLimitAndPoint(flags byte) (limit int, point *ecdh.PublicKey, err error) {
	b, err := x.readN(4)
	if err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(b)
	if n < minMsgSize || n > maxMsgSize {
		return 0, nil, x.sendRefusal(reasonMalformed, "the %s's limit is %d, not %d to %d", x.peerName, n, minMsgSize, maxMsgSize)
	}
	if flags&flagEncrypted == 0 {
		return int(n), nil, nil
	}
	if b, err = x.readN(pointLen); err != nil {
		return 0, nil, err
	}
	// Takes the uncompressed form alone, with coordinates below the prime and on the curve.
	if point, err = ecdh.P384().NewPublicKey(b); err != nil {
		return 0, nil, x.sendRefusal(reasonMalformed, "the %s's key, %#02x..., is no P-384 point", x.peerName, b[0])
	}
	return int(n), point, nil
}

// newHelloHead makes the fields that both hellos have before their keys.
func newHelloHead(first, flags byte, limit int) []byte {
	return binary.BigEndian.AppendUint32([]byte{first, flags}, uint32(limit))
}

// securityOf returns what the flags of a ClientHello say.
func securityOf(flags byte) Security {
	return Security{Encrypted: flags&flagEncrypted != 0, Hybrid: flags&flagHybrid != 0, Secret: flags&flagSecret != 0}
}

// A serverSide is what a server brings to one handshake, beside its terms.
type serverSide struct {
	newKey    func() (*ecdh.PrivateKey, error)
	admit     func() byte
	compute   func(func() error) error
	newKEMKey func() (*mlkem.DecapsulationKey1024, error) // nil: a random key
}

// newHello makes ServerHello and the keys behind it.
func (side *serverSide) newHello(t *handshakeConfig) ([]byte, *keyAgreement, error) {
	flags := t.offeredFlags()
	hello := newHelloHead(version3, flags, t.maxDataSize)
	if flags&flagEncrypted == 0 {
		return hello, nil, nil
	}
	private, err := newKeyAgreement(side.newKey)
	if err == nil && flags&flagHybrid != 0 {
		err = private.offerHybrid(side.newKEMKey)
	}
	if err != nil {
		return nil, nil, err
	}
	return append(hello, private.publicKeys()...), private, nil
}

// serverHandshake is the server's part. admit is called when the client has
// proved itself (in plaintext: when its hello is good) and returns 0, or the
// reason to refuse it. Writing to one that was admitted can still fail: what
// admit has counted is then the caller's to take back. What takes processor time
// is done by work, which may have it wait for its turn.
func serverHandshake(rw io.ReadWriter, t *handshakeConfig, side serverSide) (*session, error) {
	x := &handshakeConn{stream: rw, peerName: "client"}
	var hello []byte
	var private *keyAgreement
	err := side.compute(func() (err error) {
		hello, private, err = side.newHello(t)
		return err
	})
	if err != nil {
		return nil, err
	}
	_, x.writeErr = rw.Write(hello)
	if err := x.readReply(); err != nil {
		return nil, err
	}
	flags, err := x.readN(1)
	if err != nil {
		return nil, err
	}
	if own := t.offeredFlags(); flags[0] != own && flags[0] != own&^flagHybrid {
		return nil, x.sendRefusal(reasonMalformed, "the client repeats the flags as %#02x, not %#02x", flags[0], own)
	}
	s := &session{security: securityOf(flags[0])}
	limit, point, err := x.readLimitAndPoint(flags[0])
	if err != nil {
		return nil, err
	}
	s.peerMaxDataSize = limit
	finish := []byte{0}
	if point != nil {
		k, identity, err := x.verifyProof(t, side.compute, private, point, hello)
		if err != nil {
			return nil, err
		}
		s.identity = identity
		if s.receiveCipher, s.sendCipher, err = k.ciphers(); err != nil {
			return nil, err
		}
		finish = append(finish, k.serverConfirmation(x.input[x.inputPos-hashLen:x.inputPos])...) // over the client's, which was taken last
	}
	if reason := side.admit(); reason != 0 {
		return nil, x.sendRefusal(reason, "")
	}
	if _, err := rw.Write(finish); err != nil {
		return nil, x.ioError(err)
	}
	s.trailingBytes = bytes.Clone(x.input[x.inputPos:x.inputLen])
	return s, nil
}

// verifyProof takes what is left of an encrypted ClientHello, and returns the keys that its
// confirmation proves, and whose secret is in them. The key agreement is computed before
// the confirmation is there, which the client computes meanwhile.
func (x *handshakeConn) verifyProof(t *handshakeConfig, work func(func() error) error, private *keyAgreement, point *ecdh.PublicKey, hello []byte) (k *sessionKeys, identity string, err error) {
	var ciphertext []byte
	if x.input[1]&flagHybrid != 0 {
		if ciphertext, err = x.readN(mlkem.CiphertextSize1024); err != nil {
			return nil, "", err
		}
	}
	var z, th []byte
	err = work(func() (err error) {
		z, err = private.sharedSecret(point, ciphertext)
		th = transcript(t.name, hello, x.input[:x.inputPos])
		return err
	})
	if err != nil {
		return nil, "", err
	}
	confirmation, err := x.readN(hashLen)
	if err != nil {
		return nil, "", err
	}
	holders, err := t.allHolders()
	if err != nil {
		return nil, "", err
	}
	prove := func() (err error) {
		k, identity, err = findHolder(holders, z, th, confirmation)
		return err
	}
	if len(holders) > 1 {
		err = work(prove)
	} else { // so little that it need not wait for its turn again
		err = prove()
	}
	if err == nil && k == nil {
		err = x.sendRefusal(reasonConfirmation, "")
	}
	return k, identity, err
}

// A clientSide is what a client brings to one handshake, beside its terms.
type clientSide struct {
	newKey      func() (*ecdh.PrivateKey, error)
	encapsulate func(*mlkem.EncapsulationKey1024) (shared, ciphertext []byte) // nil: a random secret
}

// clientState is a client between the server's two messages.
type clientState struct {
	handshakeConn
	peerMaxDataSize int
	security        Security
	keys            *sessionKeys // nil in plaintext
	confirmation    []byte       // the client's
}

// clientHello reads ServerHello and writes ClientHello, or a reason.
func clientHello(rw io.ReadWriter, t *handshakeConfig, side clientSide) (*clientState, error) {
	c := &clientState{handshakeConn: handshakeConn{stream: rw, peerName: "server"}}
	first, err := c.readN(1)
	if err != nil {
		return nil, err
	}
	switch v := first[0]; {
	case v == 0: // any second byte, 0 included, is a refusal
		reason, err := c.readN(1)
		if err == nil {
			err = c.peerRefusal(reason[0])
		}
		return nil, err
	case v == 1 || v == 2:
		return nil, c.sendRefusal(reasonVersion, "the server's first byte is %#02x, an old version: update it, or use package wire2 as the Upgrade of ClientConfig", v)
	case v != version3:
		return nil, c.sendRefusal(reasonVersion, "the server's first byte %#02x is no version known here%s: check Address, and that both sides are up to date", v, likelyProtocol(v))
	}
	b, err := c.readN(1)
	if err != nil {
		return nil, err
	}
	flags, wants := b[0], t.requiredFlags()
	switch {
	case wants&^flags&flagEncrypted != 0:
		return nil, c.sendRefusal(reasonEncryption, "")
	case flags&^wants&flagSecret != 0: // also without flagEncrypted
		return nil, c.sendRefusal(reasonServerSecret, "")
	case wants&^flags&flagSecret != 0:
		return nil, c.sendRefusal(reasonClientSecret, "")
	case flags&^(flagEncrypted|flagSecret|flagHybrid) != 0, flags&(flagEncrypted|flagHybrid) == flagHybrid:
		return nil, c.sendRefusal(reasonMalformed, "the server's flags %#02x are not known here: update the older side", flags)
	}
	limit, point, err := c.readLimitAndPoint(flags)
	if err != nil {
		return nil, err
	}
	c.peerMaxDataSize = limit
	var kemKey *mlkem.EncapsulationKey1024
	if flags&flagHybrid != 0 {
		if kemKey, err = c.readKEMKey(t.hybrid); err != nil {
			return nil, err
		}
	}
	if kemKey == nil {
		flags &^= flagHybrid
	}
	return c, c.sendHello(t, side, flags, point, kemKey)
}

// sendHello writes ClientHello. The server works on its keys while this side does.
func (c *clientState) sendHello(t *handshakeConfig, side clientSide, flags byte, point *ecdh.PublicKey, kemKey *mlkem.EncapsulationKey1024) error {
	c.security = securityOf(flags)
	serverHello := c.input[:c.inputPos]
	hello := newHelloHead(0, flags, t.maxDataSize)
	if point == nil {
		_, c.writeErr = c.stream.Write(hello)
		return nil
	}
	private, err := newKeyAgreement(side.newKey)
	if err != nil {
		return err
	}
	hello = append(hello, private.publicKeys()...)
	var shared []byte
	if kemKey != nil {
		var ciphertext []byte
		shared, ciphertext = side.newSharedSecret(kemKey)
		hello = append(hello, ciphertext...)
	}
	_, c.writeErr = c.stream.Write(hello)
	z, err := private.ecdhSecret(point)
	if err != nil {
		return err
	}
	if c.keys, err = newSessionKeys(t.secret, append(z, shared...), transcript(t.name, serverHello, hello)); err != nil {
		return err
	}
	c.confirmation = c.keys.clientConfirmation()
	if c.writeErr == nil {
		_, c.writeErr = c.stream.Write(c.confirmation)
	}
	return nil
}

// newSharedSecret returns a new secret, and what the server gets it from.
func (side *clientSide) newSharedSecret(key *mlkem.EncapsulationKey1024) (shared, ciphertext []byte) {
	if side.encapsulate != nil {
		return side.encapsulate(key)
	}
	return key.Encapsulate()
}

// readKEMKey takes the server's ML-KEM key. It returns nil where this side does
// not use it.
func (c *clientState) readKEMKey(used bool) (*mlkem.EncapsulationKey1024, error) {
	b, err := c.readN(mlkem.EncapsulationKeySize1024)
	if err != nil || !used {
		return nil, err
	}
	key, err := mlkem.NewEncapsulationKey1024(b) // the checks of FIPS 203, 7.2
	if err != nil {
		return nil, c.sendRefusal(reasonMalformed, "the server's ML-KEM-1024 key has a coefficient that is not below the modulus")
	}
	return key, nil
}

// readFinish reads ServerFinish. A client whose hello could not be written learns
// it here, since the server may have left a reason.
func (c *clientState) readFinish() (*session, error) {
	if err := c.readReply(); err != nil {
		return nil, err
	}
	s := &session{peerMaxDataSize: c.peerMaxDataSize, security: c.security}
	if c.keys != nil {
		confirmation, err := c.readN(hashLen)
		if err != nil {
			return nil, err
		}
		if !hmac.Equal(confirmation, c.keys.serverConfirmation(c.confirmation)) {
			// As reason 6, but nothing is written.
			return nil, &refusal{fail(ErrSecret, nil, "the server did not prove that it has this client's Secret and Name: "+
				"make both configs the same, or somebody stands between"), reasonConfirmation, false}
		}
		if s.sendCipher, s.receiveCipher, err = c.keys.ciphers(); err != nil {
			return nil, err
		}
	}
	s.trailingBytes = bytes.Clone(c.input[c.inputPos:c.inputLen])
	return s, nil
}

// sendRefusal writes a reason and returns it as an error. The peer may be gone: what
// this side saw is the news, not a failed write.
func (x *handshakeConn) sendRefusal(reason byte, detail string, args ...any) error {
	x.stream.Write([]byte{reason})
	text, kind := refusalAdvice(reason)
	if detail != "" {
		text = fmt.Sprintf(detail, args...)
	}
	return &refusal{fail(kind, nil, "%s", text), reason, false}
}

// peerRefusal is the peer's reason as an error.
func (x *handshakeConn) peerRefusal(reason byte) error {
	text, kind := refusalAdvice(reason)
	return &refusal{fail(kind, nil, "the %s refused: %s", x.peerName, text), reason, true}
}

// ioError is a stream that failed in the handshake.
func (x *handshakeConn) ioError(err error) error {
	switch {
	case isStreamEnd(err):
		return fail(ErrTruncated, nil, "the %s ended the connection in the handshake, after %d bytes", x.peerName, x.inputLen)
	case errors.Is(err, syscall.EPIPE), errors.Is(err, io.ErrClosedPipe):
		return fail(ErrTruncated, err, "the %s ended the connection in the handshake, after %d bytes", x.peerName, x.inputLen)
	case errors.Is(err, os.ErrDeadlineExceeded) && x.inputLen == 0 && x.peerName == "server":
		return fail(ErrTimeout, err, "the server accepted and then said nothing: it may be busy, or another program that waits for its client to speak")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fail(ErrTimeout, err, "in the handshake with the %s, after %d bytes", x.peerName, x.inputLen)
	}
	return fmt.Errorf("%sin the handshake with the %s, after %d bytes: %w", errorPrefix, x.peerName, x.inputLen, err)
}

// isStreamEnd reports whether err is the end of a stream: a reset is one, too.
func isStreamEnd(err error) bool {
	const wsaConnReset = syscall.Errno(10054) // Windows
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, wsaConnReset)
}
