// Key agreement, key schedule, and the sealed records of one direction. Bytes in, bytes
// out; approved cryptography only.

package gipc

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/mlkem"
	"crypto/rand"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"sync/atomic"
)

const (
	hashLen     = 48 // SHA-384: transcript, secrets, confirmations; also the x-coordinate of a P-384 point
	frameKeyLen = 32 // AES-256

	sealOverhead = 28      // bytes that sealing adds: nonce and tag
	maxPlaintext = 1 << 16 // bytes of frames in one record

	rekeyAfter   = 1 << 32            // bytes sealed under one key, far below the limit for random nonces: SP 800-38D, 8.3
	lastSequence = math.MaxUint64 - 1 // of a record; sequence numbers do not wrap
)

// errSequenceExhausted ends a connection that has used all sequence numbers of its
// sending direction.
var errSequenceExhausted error = &sentinel{"sequence numbers exhausted: the next connection starts new ones", nil}

// A kdf is HKDF over SHA-384 (RFC 5869). It collects errors, which only a cryptographic
// module that refuses an input could cause, so that the code reads like the
// specification. Check firstError before using a result.
type kdf struct{ err error }

func (k *kdf) extract(salt, ikm []byte) []byte {
	prk, err := hkdf.Extract(sha512.New384, ikm, salt)
	k.err = errors.Join(k.err, err)
	return prk
}

func (k *kdf) expand(prk []byte, info string, n int) []byte {
	okm, err := hkdf.Expand(sha512.New384, prk, info, n)
	k.err = errors.Join(k.err, err)
	return okm
}

// aead returns AES-256-GCM under the frame key of a traffic secret. Each ciphertext is
// preceded by a random nonce (SP 800-38D, 8.2.2).
func (k *kdf) aead(trafficSecret []byte) cipher.AEAD {
	block, err := aes.NewCipher(k.expand(trafficSecret, "gipc/3 key", frameKeyLen))
	if err != nil {
		k.err = errors.Join(k.err, err)
		return nil
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	k.err = errors.Join(k.err, err)
	return aead
}

func (k *kdf) firstError() error {
	if k.err == nil {
		return nil
	}
	return newError(ErrConfig, k.err, "key derivation failed: check the FIPS 140 mode of this process")
}

// hmacSHA384 returns the HMAC-SHA-384 of data (RFC 2104).
func hmacSHA384(key, data []byte) []byte {
	h := hmac.New(sha512.New384, key)
	h.Write(data)
	return h.Sum(nil)
}

// A secretHolder is a client with its own secret: its identity, and the first value that
// the key schedule derives from the secret.
type secretHolder struct {
	identity string
	salt     []byte // HKDF-Expand(early, "gipc/3 derived", 48)
}

// newSecretHolder computes the first step of the key schedule. psk is empty without a
// secret.
func newSecretHolder(identity string, psk []byte) (secretHolder, error) {
	if len(psk) == 0 {
		psk = make([]byte, hashLen)
	}
	var h kdf
	early := h.extract(make([]byte, hashLen), psk)
	return secretHolder{identity, h.expand(early, "gipc/3 derived", hashLen)}, h.firstError()
}

// findHolder returns the keys and the identity of the holder whose secret a client's
// confirmation proves, or nil keys if there is none. It always tries all holders, so the
// time does not reveal which one it was.
func findHolder(holders []secretHolder, z, th, confirmation []byte) (k *sessionKeys, identity string, err error) {
	proven := -1
	for i, h := range holders {
		if k, err = deriveConfirmKey(h.salt, z, th); err != nil {
			return nil, "", err
		}
		proven = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(confirmation, k.clientConfirmation()), i, proven)
	}
	if proven < 0 {
		return nil, "", nil
	}
	if len(holders) > 1 { // k belongs to the last holder; derived again even if that one is proven, so that the time is the same
		if k, err = deriveConfirmKey(holders[proven].salt, z, th); err != nil {
			return nil, "", err
		}
	}
	return k, holders[proven].identity, k.deriveServerConfirmKey()
}

// sessionKeys holds the keys of one connection. Each step of the key schedule is computed
// when it is needed, so that a peer does not wait for the later ones.
type sessionKeys struct {
	transcriptHash                           []byte // th in the specification
	masterSecret                             []byte
	clientConfirmKey, serverConfirmKey       []byte // ck, sk
	clientTrafficSecret, serverTrafficSecret []byte // cs, ss
}

// transcript returns the hash of the transcript. It binds the keys to the name and to
// every byte of both hellos, so sides that saw different bytes derive different keys.
func transcript(name string, serverHello, clientHello []byte) []byte {
	t := binary.BigEndian.AppendUint16([]byte("gipc/3"), uint16(len(name)))
	t = append(t, name...)
	t = append(t, serverHello...)
	t = append(t, clientHello...) // up to the confirmation
	th := sha512.Sum384(t)
	return th[:]
}

// deriveConfirmKey computes the key schedule up to the client's confirmation. z is the
// x-coordinate of the shared point, 48 bytes, followed in a hybrid handshake by the
// shared secret of ML-KEM, 32 bytes.
func deriveConfirmKey(salt, z, th []byte) (*sessionKeys, error) {
	var h kdf
	k := &sessionKeys{transcriptHash: th, masterSecret: h.extract(salt, z)}
	k.clientConfirmKey = h.expand(k.masterSecret, "gipc/3 client confirm"+string(th), hashLen)
	return k, h.firstError()
}

// deriveServerConfirmKey computes the key of the server's confirmation.
func (k *sessionKeys) deriveServerConfirmKey() error {
	var h kdf
	k.serverConfirmKey = h.expand(k.masterSecret, "gipc/3 server confirm"+string(k.transcriptHash), hashLen)
	return h.firstError()
}

// deriveTrafficSecrets computes the rest of the key schedule.
func (k *sessionKeys) deriveTrafficSecrets() error {
	var h kdf
	k.clientTrafficSecret = h.expand(k.masterSecret, "gipc/3 client traffic"+string(k.transcriptHash), hashLen)
	k.serverTrafficSecret = h.expand(k.masterSecret, "gipc/3 server traffic"+string(k.transcriptHash), hashLen)
	return h.firstError()
}

func (k *sessionKeys) clientConfirmation() []byte {
	return hmacSHA384(k.clientConfirmKey, k.transcriptHash)
}

func (k *sessionKeys) serverConfirmation(clientConfirmation []byte) []byte {
	return hmacSHA384(k.serverConfirmKey, slices.Concat(k.transcriptHash, clientConfirmation))
}

// ciphers returns the ciphers of both directions, named after the sending side.
func (k *sessionKeys) ciphers() (client, server *recordCipher, err error) {
	if err := k.deriveTrafficSecrets(); err != nil {
		return nil, nil, err
	}
	return newRecordCipher(k.clientTrafficSecret), newRecordCipher(k.serverTrafficSecret), nil
}

// A recordCipher seals or opens the records of one direction. It is not safe for
// concurrent use. After an error the connection must be closed.
type recordCipher struct {
	aead           cipher.AEAD   // under the current key; nil before its first record, because it takes 0.8 KiB
	trafficSecret  [hashLen]byte // of the current key
	sequence       uint64        // sequence number of the next record
	additionalData [8]byte       // sequence, encoded
	sealedBytes    uint64        // sum of the length fields under the current key
	rekeyLimit     uint64        // sealedBytes at which the key is changed
	rekeys         atomic.Uint64 // number of key changes
	keyErr         error         // of a failed derivation of a key; permanent
}

// newRecordCipher returns the cipher for a traffic secret of 48 bytes.
func newRecordCipher(trafficSecret []byte) *recordCipher {
	return &recordCipher{trafficSecret: [hashLen]byte(trafficSecret), rekeyLimit: rekeyAfter}
}

// prepareKey makes the AEAD for the first record under a key.
func (c *recordCipher) prepareKey() error {
	if c.aead != nil || c.keyErr != nil {
		return c.keyErr
	}
	var h kdf
	c.aead = h.aead(c.trafficSecret[:])
	c.keyErr = h.firstError()
	return c.keyErr
}

// seal appends a record to dst: the length field, the nonce, and the sealed plaintext
// with its tag. It does not allocate if dst has room, except for the first record under a
// key. plaintext must not overlap the free part of dst. It returns errSequenceExhausted
// when no sequence number is left.
func (c *recordCipher) seal(dst, plaintext []byte) ([]byte, error) {
	if c.sequence == lastSequence+1 {
		return nil, errSequenceExhausted
	}
	if err := c.prepareKey(); err != nil {
		return nil, err
	}
	length := len(plaintext) + sealOverhead
	dst = binary.BigEndian.AppendUint32(dst, uint32(length))
	binary.BigEndian.PutUint64(c.additionalData[:], c.sequence)
	dst = c.aead.Seal(dst, nil, plaintext, c.additionalData[:])
	return dst, c.advance(length)
}

// open appends the plaintext of a record without its length field to dst, which may be
// sealed[:0]. It does not allocate if dst has room, except for the first record under a
// key. It returns ErrNotAuthentic if the record is not authentic. After an error the result
// is nil, and dst contains no plaintext.
func (c *recordCipher) open(dst, sealed []byte) ([]byte, error) {
	if c.sequence == lastSequence+1 {
		return nil, newError(ErrNotAuthentic, nil, "record after the final sequence number")
	}
	if err := c.prepareKey(); err != nil {
		return nil, err
	}
	binary.BigEndian.PutUint64(c.additionalData[:], c.sequence)
	dst, err := c.aead.Open(dst, nil, sealed, c.additionalData[:])
	if err != nil {
		return nil, newError(ErrNotAuthentic, nil, "authentication of record %d failed: it was changed, replayed, reordered or lost in transit", c.sequence)
	}
	if err := c.advance(len(sealed)); err != nil {
		clear(dst)
		return nil, err
	}
	return dst, nil
}

// advance counts a record with the given length field, and changes the key at the
// limit. Sequence numbers continue.
func (c *recordCipher) advance(length int) error {
	c.sequence++
	if c.sealedBytes += uint64(length); c.sealedBytes < c.rekeyLimit {
		return nil
	}
	var h kdf
	copy(c.trafficSecret[:], h.expand(c.trafficSecret[:], "gipc/3 update", hashLen))
	c.aead = nil
	c.sealedBytes = 0
	c.rekeys.Add(1)
	c.keyErr = h.firstError()
	return c.keyErr
}

// rekeyCount returns the number of key changes. It is safe for concurrent use. c may be
// nil.
func (c *recordCipher) rekeyCount() uint64 {
	if c == nil {
		return 0
	}
	return c.rekeys.Load()
}

const pointLen = 97 // an uncompressed P-384 point: SEC 1, 2.3.3

// newECDHKey generates the P-384 key of one side for one connection.
func newECDHKey() (*ecdh.PrivateKey, error) { return ecdh.P384().GenerateKey(rand.Reader) }

// A keyAgreement holds the private keys of one side for one connection.
type keyAgreement struct {
	ecdhKey *ecdh.PrivateKey
	kemKey  *mlkem.DecapsulationKey1024 // the server's; nil if it does not offer hybrid
}

// newKeyAgreement generates the P-384 key by calling key.
func newKeyAgreement(key func() (*ecdh.PrivateKey, error)) (*keyAgreement, error) {
	private, err := key()
	if err != nil {
		return nil, newError(ErrConfig, err, "making a P-384 key")
	}
	return &keyAgreement{ecdhKey: private}, nil
}

// offerHybrid adds an ML-KEM key. It calls generate, or mlkem.GenerateKey1024 if that is
// nil.
func (a *keyAgreement) offerHybrid(generate func() (*mlkem.DecapsulationKey1024, error)) (err error) {
	if generate == nil {
		generate = mlkem.GenerateKey1024
	}
	if a.kemKey, err = generate(); err != nil {
		return newError(ErrConfig, err, "making an ML-KEM-1024 key")
	}
	return nil
}

// publicKeys returns the public keys as encoded in a hello.
func (a *keyAgreement) publicKeys() []byte {
	public := a.ecdhKey.PublicKey().Bytes()
	if a.kemKey != nil {
		public = append(public, a.kemKey.EncapsulationKey().Bytes()...)
	}
	return public
}

// ecdhSecret returns Z of a classical handshake: the x-coordinate with leading zeros
// (SP 800-56A, 5.7.1.2).
func (a *keyAgreement) ecdhSecret(peer *ecdh.PublicKey) ([]byte, error) {
	z, err := a.ecdhKey.ECDH(peer)
	if err != nil {
		return nil, newError(ErrConfig, err, "P-384 key agreement")
	}
	return z, nil
}

// sharedSecret returns Z at the server. Without a ciphertext the handshake is classical.
// A ciphertext for another key yields another secret and no error (FIPS 203, 6.3).
func (a *keyAgreement) sharedSecret(peer *ecdh.PublicKey, ciphertext []byte) ([]byte, error) {
	z, err := a.ecdhSecret(peer)
	if err != nil || len(ciphertext) == 0 {
		return z, err
	}
	shared, err := a.kemKey.Decapsulate(ciphertext)
	if err != nil {
		return nil, newError(ErrConfig, err, "ML-KEM-1024 decapsulation") // only if the length is wrong
	}
	return append(z, shared...), nil
}
