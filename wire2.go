// Version 2, both roles, for peers that exist: everything legacy is here, and
// goes when this file is deleted together with the few places that name it.

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
	"io"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// A connection of version 2 has no control frames: no ping, and at its end no
// goodbye. It authenticates nobody: one key serves both directions, and frames
// can be replayed and reflected.
const (
	maxFrames2 = 1 << 32 // under the key, in both directions together: SP 800-38D, 8.3
	maxBytes2  = 1 << 44
)

// sharedKey is the key of both directions as the AEAD of their cipherStates. It
// takes no additional data. One goroutine at a time may seal, and one open.
type sharedKey struct {
	aead         atomic.Pointer[cipher.AEAD]
	padded       cipher.AEAD // what a client may use instead: nil, or until its first frame has come
	frames, size atomic.Uint64
}

// newSharedKey hashes the x-coordinate of the shared point without its leading
// zero bytes. Some clients leave these in: lenient is ready for both.
func newSharedKey(private *ecdh.PrivateKey, point *ecdh.PublicKey, lenient bool) (*sharedKey, error) {
	derive := func(x []byte) (cipher.AEAD, error) {
		sum := sha256.Sum256(x)
		block, err := aes.NewCipher(sum[:])
		if err != nil {
			return nil, err
		}
		return cipher.NewGCMWithRandomNonce(block)
	}
	x, err := private.ECDH(point)
	if err != nil {
		return nil, fail(ErrConfig, err, "P-384 key agreement")
	}
	k := new(sharedKey)
	aead, err := derive(bytes.TrimLeft(x, "\x00"))
	k.aead.Store(&aead)
	if lenient && x[0] == 0 {
		var otherErr error
		k.padded, otherErr = derive(x)
		err = errors.Join(err, otherErr)
	}
	if err != nil {
		return nil, fail(ErrConfig, err, "the cryptography of this process refuses the key schedule")
	}
	return k, nil
}

func (k *sharedKey) NonceSize() int { return 0 }
func (k *sharedKey) Overhead() int  { return sealGrowth }

// Seal ignores the nonce, which is random and goes in front, and the additional data.
func (k *sharedKey) Seal(dst, _, plaintext, _ []byte) []byte {
	k.count(len(plaintext) + sealGrowth)
	return (*k.aead.Load()).Seal(dst, nil, plaintext, nil)
}

// Open lets the first frame say which key it is: of both directions from then on.
func (k *sharedKey) Open(dst, _, sealed, _ []byte) ([]byte, error) {
	other, intact := k.padded, sealed
	if k.padded = nil; other != nil {
		intact = bytes.Clone(sealed) // opening in place leaves nothing for a second try
	}
	plain, err := (*k.aead.Load()).Open(dst, nil, sealed, nil)
	if err != nil && other != nil {
		if plain, err = other.Open(dst, nil, intact, nil); err == nil {
			k.aead.Store(&other)
		}
	}
	if err != nil {
		return nil, err
	}
	k.count(len(sealed))
	return plain, nil
}

func (k *sharedKey) count(n int) {
	k.frames.Add(1)
	k.size.Add(prefixLen + uint64(n))
}

// direction is one of the two. Its number is not sent, and its key never changes.
func (k *sharedKey) direction() *cipherState {
	return &cipherState{aead: k, rekeyAt: math.MaxUint64}
}

// spent reports whether a connection of version 2 has to end here.
func (c *cipherState) spent() bool {
	if c == nil {
		return false
	}
	k, ok := c.aead.(*sharedKey)
	return ok && (k.frames.Load() >= maxFrames2 || k.size.Load() >= maxBytes2)
}

func spentError() error {
	return fail(ErrNotConnected, nil, "this connection of version 2 has used up its key: the next one has a new one")
}

// spoiled is a handshake that the peer's bytes end. Nothing is written.
func (x *exchange) spoiled(format string, args ...any) error {
	return &refusal{fail(ErrMalformed, nil, format, args...), reasonMalformed, false}
}

func (x *exchange) write(b []byte) error {
	if _, err := x.rw.Write(b); err != nil {
		return x.broken(err)
	}
	return nil
}

// point2 takes a key. What does not begin as one is none, whether or not more comes.
func (x *exchange) point2() (*ecdh.PublicKey, error) {
	from := x.pos
	first, err := x.take(1)
	if err == nil && first[0] == 4 {
		_, err = x.take(pointLen - 1)
	}
	if err != nil {
		return nil, err
	}
	point, err := ecdh.P384().NewPublicKey(x.buf[from:x.pos])
	if err != nil {
		return nil, x.spoiled("the %s's key, %#02x..., is no P-384 point", x.peer, x.buf[from])
	}
	return point, nil
}

// session2 is what both roles end with. The limit is for both directions.
func (x *exchange) session2(k *sharedKey, limit uint32) *session {
	s := &session{version: version2, limit: int(min(limit, maxMsgSize)), rest: bytes.Clone(x.buf[x.pos:x.n])}
	if k != nil {
		s.in, s.out = k.direction(), k.direction()
	}
	return s
}

// serverHandshake2 is serverHandshake in version 2. Peers want each message in
// one read, and nothing behind it until they have answered.
func serverHandshake2(rw io.ReadWriter, t *terms, key func() (*ecdh.PrivateKey, error), admit func() byte) (*session, error) {
	x := &exchange{rw: rw, peer: "client"}
	hello := []byte{version2, 0}
	if t.encrypt {
		hello[1] = 1
	}
	_, x.unsent = rw.Write(hello)
	if err := x.reply(); err != nil {
		if reason, _ := refusalReason(err); reason > reasonEncryption {
			err = x.spoiled("the client replies %#02x, not 0 to 2%s", reason, looksLike(reason))
		}
		return nil, err
	}
	limit := binary.BigEndian.AppendUint32(nil, uint32(t.limit))
	message := append(appendPrefix(nil, len(limit)), limit...)
	var k *sharedKey
	if t.encrypt {
		private, err := key()
		if err != nil {
			return nil, fail(ErrConfig, err, "making a P-384 key")
		}
		// Before the client's is read: some clients wait for it, some do not.
		if err := x.write(private.PublicKey().Bytes()); err != nil {
			return nil, err
		}
		point, err := x.point2()
		if err != nil {
			return nil, err
		}
		if k, err = newSharedKey(private, point, true); err != nil {
			return nil, err
		}
		message = (*k.aead.Load()).Seal(appendPrefix(nil, len(limit)+sealGrowth), nil, limit, nil)
	}
	if admit() != 0 {
		return nil, fail(ErrRefused, nil, "there are as many clients as may be")
	}
	if err := x.write(message); err != nil {
		return nil, err
	}
	if _, err := x.take(1); err != nil { // says nothing, but that the client has read so far
		return nil, err
	}
	return x.session2(k, uint32(t.limit)), nil
}

// silent is writeRefusal in version 2, which has no such message.
func silent(io.Writer, byte) error { return nil }

// finish2 is the whole of the client's part. Existing servers stop for good
// when a handshake fails, so one that agrees on nothing is completed first.
func (c *clientState) finish2() (*session, error) {
	b, err := c.take(2)
	if err != nil {
		return nil, err
	}
	if b[1] > 1 {
		return nil, c.spoiled("the server's second byte is %#02x, not 0 or 1", b[1])
	}
	encrypted, size := b[1] == 1, 4
	if err := c.write([]byte{0}); err != nil {
		return nil, err
	}
	var k *sharedKey
	if encrypted {
		point, err := c.point2()
		if err != nil {
			return nil, err
		}
		private, err := c.key()
		if err != nil {
			return nil, fail(ErrConfig, err, "making a P-384 key")
		}
		if err := c.write(private.PublicKey().Bytes()); err != nil {
			return nil, err
		}
		if k, err = newSharedKey(private, point, false); err != nil {
			return nil, err
		}
		size += sealGrowth
	}
	if b, err = c.take(prefixLen); err != nil {
		return nil, err
	}
	if n := binary.BigEndian.Uint32(b); n != uint32(size) {
		return nil, c.spoiled("the server's limit comes in %d bytes, not %d", n, size)
	}
	if b, err = c.take(size); err != nil {
		return nil, err
	}
	if encrypted {
		if b, err = (*k.aead.Load()).Open(nil, nil, b, nil); err != nil {
			return nil, &refusal{fail(ErrNotAuthentic, nil, "the server's limit does not verify"), reasonMalformed, false}
		}
	}
	limit := binary.BigEndian.Uint32(b)
	if limit == 0 {
		return nil, c.spoiled("the server's limit is 0")
	}
	if err := c.write([]byte{0}); err != nil {
		return nil, err
	}
	if c.terms.encrypt && !encrypted {
		text, kind := advice(reasonEncryption)
		return nil, &refusal{fail(kind, nil, "%s", text), reasonEncryption, false}
	}
	return c.session2(k, limit), nil
}

// leaveBy is until when a client may go on that wants to leave a handshake:
// existing servers bear no other end of it than the right one.
func (s *settings) leaveBy() time.Time {
	if s.allowV2 {
		return time.Now().Add(drainTime)
	}
	return past
}

// farewell2 hands the kernel what was accepted. What comes meanwhile is
// discarded, or two sides that both write would wait for each other.
func (l *link) farewell2(ctx context.Context) error {
	l.conn.SetReadDeadline(time.Time{})
	var reader sync.WaitGroup
	reader.Go(func() { io.Copy(io.Discard, onlyReader{l.conn}) })
	err := l.send.drain(ctx)
	l.interrupt()
	reader.Wait()
	if err != nil {
		return fail(ErrNotConnected, err, "the peer has not taken everything")
	}
	return nil
}

type onlyReader struct{ io.Reader }
