// The key of a connection: one for both directions, as version 2 has it. Bytes
// in, bytes out; approved cryptography only.

package wire2

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/sha256"
	"errors"
	"sync/atomic"

	"example.com/gipc"
)

// The use of a key is bounded in frames and in bytes, of both directions
// together [V-12]. A connection begins to close somewhat earlier, so that frames
// that the library has accepted can still be sent.
const (
	maxKeyFrames = 1 << 32 // SP 800-38D, 8.3
	maxKeyBytes  = 1 << 44

	closeAtFrames = maxKeyFrames - 1<<16
	closeAtBytes  = maxKeyBytes - 1<<34

	sealOverhead = 28 // bytes: nonce and tag
)

// A sharedKey seals and opens the frames of both directions. One goroutine may
// seal while another one opens.
type sharedKey struct {
	active atomic.Pointer[cipher.AEAD]

	// unstripped is the key of a client that hashes the leading zeros of the
	// shared secret [V-7]. It is nil if there are none, and after the first frame
	// has shown which key the client uses. Only the reader uses it.
	unstripped cipher.AEAD

	usedFrames atomic.Uint64
	usedBytes  atomic.Uint64
}

// deriveSharedKey hashes the x-coordinate of the shared point without its
// leading zeros. If lenient is set, the key is ready for a client that does not
// strip them.
func deriveSharedKey(private *ecdh.PrivateKey, point *ecdh.PublicKey, lenient bool) (*sharedKey, error) {
	secret, err := private.ECDH(point)
	if err != nil {
		return nil, keyFailure(err)
	}
	key := new(sharedKey)
	aead, err := newAEAD(bytes.TrimLeft(secret, "\x00"))
	key.active.Store(&aead)
	if lenient && secret[0] == 0 {
		var otherErr error
		key.unstripped, otherErr = newAEAD(secret)
		err = errors.Join(err, otherErr)
	}
	if err != nil {
		return nil, keyFailure(err)
	}
	return key, nil
}

func newAEAD(secret []byte) (cipher.AEAD, error) {
	sum := sha256.Sum256(secret)
	block, err := aes.NewCipher(sum[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func keyFailure(cause error) error {
	return &failure{kind: gipc.ErrConfig, cause: cause, what: "handshake failed", why: "the key could not be derived", advice: "check the FIPS 140 mode of this process"}
}

// sealLimit appends the sealed form of the limit, which does not count as a frame.
func (k *sharedKey) sealLimit(dst, limit []byte) []byte {
	return (*k.active.Load()).Seal(dst, nil, limit, nil)
}

func (k *sharedKey) openLimit(sealed []byte) ([]byte, error) {
	return (*k.active.Load()).Open(nil, nil, sealed, nil)
}

// sealFrame appends the sealed form of a frame's body: nonce, ciphertext and tag.
// body must not overlap the free part of dst.
func (k *sharedKey) sealFrame(dst, body []byte) []byte {
	k.countFrame(len(body) + sealOverhead)
	return (*k.active.Load()).Seal(dst, nil, body, nil)
}

// openFrame opens a frame's body in place. The first frame selects the key of
// both directions.
func (k *sharedKey) openFrame(sealed []byte) (body []byte, err error) {
	other, intact := k.unstripped, sealed
	k.unstripped = nil
	if other != nil {
		intact = bytes.Clone(sealed) // a failed attempt overwrites what it opens
	}
	body, err = (*k.active.Load()).Open(sealed[:0], nil, sealed, nil)
	if err != nil && other != nil {
		if body, err = other.Open(sealed[:0], nil, intact, nil); err == nil {
			k.active.Store(&other)
		}
	}
	if err != nil {
		return nil, newFailure(gipc.ErrNotAuthentic, "connection ended", "a frame of the peer is not authentic", "check that nothing changes the bytes on the way")
	}
	k.countFrame(len(sealed))
	return body, nil
}

func (k *sharedKey) countFrame(length int) {
	k.usedFrames.Add(1)
	k.usedBytes.Add(lengthSize + uint64(length))
}

// closeDue reports whether the connection has to begin closing. A nil key, that
// of plaintext, has no limit.
func (k *sharedKey) closeDue() bool {
	return k != nil && (k.usedFrames.Load() >= closeAtFrames || k.usedBytes.Load() >= closeAtBytes)
}

// exhausted reports whether no frame may be sealed any more.
func (k *sharedKey) exhausted() bool {
	return k != nil && (k.usedFrames.Load() >= maxKeyFrames || k.usedBytes.Load() >= maxKeyBytes)
}

func keyExhausted() error {
	return newFailure(gipc.ErrNotConnected, "message not sent", "the key of this connection has reached its limit", "send it on the next connection, which has a new key")
}
