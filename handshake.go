// The handshake of protocol version 3, for server and client, over a reader and a
// writer. No goroutines, no net; the caller sets deadlines.

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

// A handshakeConfig is what one side of a handshake is configured with.
type handshakeConfig struct {
	name        string
	secret      []byte         // empty if there is none
	ownHolder   secretHolder   // of secret, also without one; computed for each handshake if it is not set
	holders     []secretHolder // of a server with Secrets: all holders, including that of Secret
	encrypt     bool           // a server encrypts; a client requires encryption, otherwise it follows the server
	hybrid      bool           // this side supports ML-KEM-1024; false only in tests
	maxDataSize int            // largest data that this side accepts, in bytes
}

// hasSecret reports whether this side has a secret.
func (t *handshakeConfig) hasSecret() bool { return len(t.secret) > 0 || len(t.holders) > 0 }

// allHolders returns the holders of all secrets, or a holder without a secret. The
// slice is shared by all handshakes.
func (t *handshakeConfig) allHolders() ([]secretHolder, error) {
	if len(t.holders) > 0 {
		return t.holders, nil
	}
	own, err := t.holderOfSecret()
	return []secretHolder{own}, err
}

// holderOfSecret returns the holder of secret, or a holder without a secret.
func (t *handshakeConfig) holderOfSecret() (secretHolder, error) {
	if t.ownHolder.salt != nil {
		return t.ownHolder, nil
	}
	return newSecretHolder("", t.secret)
}

// offeredFlags returns the flags of a ServerHello.
func (t *handshakeConfig) offeredFlags() byte {
	flags := t.requiredFlags()
	if t.hybrid && flags&flagEncrypted != 0 {
		flags |= flagHybrid
	}
	return flags
}

// requiredFlags returns the flags that a client requires.
func (t *handshakeConfig) requiredFlags() byte {
	switch {
	case t.hasSecret():
		return flagEncrypted | flagSecret // a secret requires encryption
	case t.encrypt:
		return flagEncrypted
	}
	return 0
}

// A session is the result of a handshake.
type session struct {
	receiveCipher, sendCipher *recordCipher // nil in plaintext
	security                  Security
	identity                  string // of the holder whose secret the client has proved
	peerMaxDataSize           int    // largest data that the peer accepts, in bytes
	trailingBytes             []byte // received behind the handshake
}

// writeRefusal sends a client a refusal instead of a ServerHello.
func writeRefusal(w io.Writer, reason byte) error {
	_, err := w.Write([]byte{0, reason})
	return err
}

// A handshakeConn reads and writes one side's half of a handshake. Each field of a
// message is checked as soon as it is complete.
type handshakeConn struct {
	stream             io.ReadWriter
	peerName           string                // "client" or "server", for error texts
	input              [handshakeBuffer]byte // everything that was received
	inputLen, inputPos int                   // bytes of input that were received and consumed
	writeErr           error                 // of a failed write; the peer's reason may still be readable
}

// handshakeBuffer is the size of the input in bytes: both messages of a peer, 1,720
// bytes in a hybrid handshake, and the first frames. It holds a whole hello, so that
// a peer on a transport without a buffer is not still writing its hello when this
// side writes a reason.
const handshakeBuffer = 2 << 10

// readN returns the next n bytes of input, and waits for them.
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

// readReply reads the peer's first byte, which is 0 or the reason of a refusal. If it
// is 0 it returns the error of an earlier write.
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

// readLimitAndPoint reads the fields behind the flags of a hello: the data limit and
// the P-384 point. It sends a refusal if they are malformed.
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
	// Accepts only uncompressed points on the curve with coordinates below the prime.
	if point, err = ecdh.P384().NewPublicKey(b); err != nil {
		return 0, nil, x.sendRefusal(reasonMalformed, "the %s's key, %#02x..., is no P-384 point", x.peerName, b[0])
	}
	return int(n), point, nil
}

// newHelloHead returns the fields of a hello before the keys.
func newHelloHead(first, flags byte, limit int) []byte {
	return binary.BigEndian.AppendUint32([]byte{first, flags}, uint32(limit))
}

// securityOf returns the protection that the flags of a ClientHello agree on.
func securityOf(flags byte) Security {
	return Security{Encrypted: flags&flagEncrypted != 0, Hybrid: flags&flagHybrid != 0, Secret: flags&flagSecret != 0}
}

// A serverSide holds the functions that a server's handshake needs, besides its config.
type serverSide struct {
	newKey    func() (*ecdh.PrivateKey, error)
	admit     func() byte
	compute   func(func() error) error
	newKEMKey func() (*mlkem.DecapsulationKey1024, error) // nil: mlkem.GenerateKey1024
}

// newHello returns a ServerHello and its private keys.
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

// serverHandshake performs the server's half of a handshake. It calls side.admit once
// the client is authenticated or, in plaintext, once its hello is valid; admit returns
// 0, or the reason to refuse the client. If a later write fails, the caller has to
// undo what admit did. Expensive computations run in side.compute, which may delay
// them.
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
	var k *sessionKeys
	if point != nil {
		if k, s.identity, err = x.verifyProof(t, side.compute, private, point, hello); err != nil {
			return nil, err
		}
		finish = append(finish, k.serverConfirmation(x.input[x.inputPos-hashLen:x.inputPos])...) // over the client's confirmation, which was read last
	}
	if reason := side.admit(); reason != 0 {
		return nil, x.sendRefusal(reason, "")
	}
	if _, err := rw.Write(finish); err != nil {
		return nil, x.ioError(err)
	}
	if k != nil { // after the write, so that the client does not wait for it
		if s.receiveCipher, s.sendCipher, err = k.ciphers(); err != nil {
			return nil, err
		}
	}
	s.trailingBytes = bytes.Clone(x.input[x.inputPos:x.inputLen])
	return s, nil
}

// verifyProof reads the rest of an encrypted ClientHello, and returns the keys that
// its confirmation proves, and the identity of the secret's holder. It computes the
// key agreement before it reads the confirmation, while the client computes that.
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
	} else { // a short computation, which does not have to wait for its turn
		err = prove()
	}
	if err == nil && k == nil {
		err = x.sendRefusal(reasonConfirmation, "")
	}
	return k, identity, err
}

// A clientSide holds the functions that a client's handshake needs, besides its config.
type clientSide struct {
	newKey      func() (*ecdh.PrivateKey, error)
	encapsulate func(*mlkem.EncapsulationKey1024) (shared, ciphertext []byte) // nil: EncapsulationKey1024.Encapsulate
}

// A clientState is the state of a client's handshake between the server's two
// messages.
type clientState struct {
	handshakeConn
	session
	serverConfirmation []byte // what the server has to send; nil in plaintext
}

// clientHello reads ServerHello and writes ClientHello, or the reason of a refusal.
func clientHello(rw io.ReadWriter, t *handshakeConfig, side clientSide) (*clientState, error) {
	c := &clientState{handshakeConn: handshakeConn{stream: rw, peerName: "server"}}
	first, err := c.readN(1)
	if err != nil {
		return nil, err
	}
	switch v := first[0]; {
	case v == 0: // a refusal, whatever the second byte is
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
	case flags&^wants&flagSecret != 0: // even without flagEncrypted
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

// sendHello writes ClientHello and then, after the computation of the keys, the
// confirmation, so that both sides compute at the same time.
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
	own, err := t.holderOfSecret()
	if err != nil {
		return err
	}
	k, err := deriveConfirmKey(own.salt, append(z, shared...), transcript(t.name, serverHello, hello))
	if err != nil {
		return err
	}
	confirmation := k.clientConfirmation()
	if c.writeErr == nil {
		_, c.writeErr = c.stream.Write(confirmation)
	}
	// The rest is computed while the server checks the confirmation.
	if err := k.deriveServerConfirmKey(); err != nil {
		return err
	}
	c.serverConfirmation = k.serverConfirmation(confirmation)
	c.sendCipher, c.receiveCipher, err = k.ciphers()
	return err
}

// newSharedSecret returns a new ML-KEM secret and its ciphertext for the server.
func (side *clientSide) newSharedSecret(key *mlkem.EncapsulationKey1024) (shared, ciphertext []byte) {
	if side.encapsulate != nil {
		return side.encapsulate(key)
	}
	return key.Encapsulate()
}

// readKEMKey reads the server's ML-KEM key. It returns nil if this side does not use
// it.
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

// readFinish reads ServerFinish. The error of an earlier write is returned here, after
// a check for a refusal that the server may have sent.
func (c *clientState) readFinish() (*session, error) {
	if err := c.readReply(); err != nil {
		return nil, err
	}
	if c.serverConfirmation != nil {
		confirmation, err := c.readN(hashLen)
		if err != nil {
			return nil, err
		}
		if !hmac.Equal(confirmation, c.serverConfirmation) {
			// Like a refusal with reason 6, but nothing is written.
			return nil, &refusal{newError(ErrSecret, nil, "the server did not prove that it has this client's Secret and Name: "+
				"check that both configs are the same; otherwise this is a man in the middle"), reasonConfirmation, false}
		}
	}
	s := c.session // a copy: the rest of c is not needed any more
	s.trailingBytes = bytes.Clone(c.input[c.inputPos:c.inputLen])
	return &s, nil
}

// sendRefusal writes the reason of a refusal and returns it as an error. A write error
// is ignored, because the reason matters more.
func (x *handshakeConn) sendRefusal(reason byte, detail string, args ...any) error {
	x.stream.Write([]byte{reason})
	text, kind := refusalAdvice(reason)
	if detail != "" {
		text = fmt.Sprintf(detail, args...)
	}
	return &refusal{newError(kind, nil, "%s", text), reason, false}
}

// peerRefusal returns the error for a refusal that the peer has sent.
func (x *handshakeConn) peerRefusal(reason byte) error {
	text, kind := refusalAdvice(reason)
	return &refusal{newError(kind, nil, "the %s refused: %s", x.peerName, text), reason, true}
}

// ioError returns the error for a failed read or write in the handshake.
func (x *handshakeConn) ioError(err error) error {
	switch {
	case isStreamEnd(err):
		return newError(ErrTruncated, nil, "the %s ended the connection in the handshake, after %d bytes", x.peerName, x.inputLen)
	case errors.Is(err, syscall.EPIPE), errors.Is(err, io.ErrClosedPipe):
		return newError(ErrTruncated, err, "the %s ended the connection in the handshake, after %d bytes", x.peerName, x.inputLen)
	case errors.Is(err, os.ErrDeadlineExceeded) && x.inputLen == 0 && x.peerName == "server":
		return newError(ErrTimeout, err, "the server accepted the connection and sent nothing: it is busy, or it is another program whose client sends first")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return newError(ErrTimeout, err, "in the handshake with the %s, after %d bytes", x.peerName, x.inputLen)
	}
	return fmt.Errorf("%sin the handshake with the %s, after %d bytes: %w", errorPrefix, x.peerName, x.inputLen, err)
}

// isStreamEnd reports whether err means that the peer has ended the stream. A reset is
// included.
func isStreamEnd(err error) bool {
	const wsaConnReset = syscall.Errno(10054) // Windows
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, wsaConnReset)
}
