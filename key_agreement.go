// The key agreement of a handshake: P-384, and ML-KEM-1024 beside it where both
// sides have it. Bytes in, bytes out; approved cryptography only.

package gipc

import (
	"crypto/ecdh"
	"crypto/mlkem"
	"crypto/rand"
)

const pointLen = 97 // an uncompressed P-384 point: SEC 1, 2.3.3

// newKey makes the P-384 key of one side for one connection.
func newKey() (*ecdh.PrivateKey, error) { return ecdh.P384().GenerateKey(rand.Reader) }

// An agreement is one side's private keys for one connection.
type agreement struct {
	point *ecdh.PrivateKey
	kem   *mlkem.DecapsulationKey1024 // the server's; nil if it does not offer hybrid
}

// newAgreement makes the P-384 key with key.
func newAgreement(key func() (*ecdh.PrivateKey, error)) (*agreement, error) {
	private, err := key()
	if err != nil {
		return nil, fail(ErrConfig, err, "making a P-384 key")
	}
	return &agreement{point: private}, nil
}

// offerHybrid adds an ML-KEM key, which generate makes. A nil generate is
// mlkem.GenerateKey1024.
func (a *agreement) offerHybrid(generate func() (*mlkem.DecapsulationKey1024, error)) (err error) {
	if generate == nil {
		generate = mlkem.GenerateKey1024
	}
	if a.kem, err = generate(); err != nil {
		return fail(ErrConfig, err, "making an ML-KEM-1024 key")
	}
	return nil
}

// public returns what a hello has of the keys.
func (a *agreement) public() []byte {
	public := a.point.PublicKey().Bytes()
	if a.kem != nil {
		public = append(public, a.kem.EncapsulationKey().Bytes()...)
	}
	return public
}

// classical returns Z of a classical handshake: the x-coordinate in full
// (SP 800-56A, 5.7.1.2).
func (a *agreement) classical(peer *ecdh.PublicKey) ([]byte, error) {
	z, err := a.point.ECDH(peer)
	if err != nil {
		return nil, fail(ErrConfig, err, "P-384 key agreement")
	}
	return z, nil
}

// agree returns Z at the server. Without a ciphertext the handshake is classical. A
// ciphertext that does not belong to the key gives another secret, and no error (FIPS
// 203, 6.3).
func (a *agreement) agree(peer *ecdh.PublicKey, ciphertext []byte) ([]byte, error) {
	z, err := a.classical(peer)
	if err != nil || len(ciphertext) == 0 {
		return z, err
	}
	shared, err := a.kem.Decapsulate(ciphertext)
	if err != nil {
		return nil, fail(ErrConfig, err, "ML-KEM-1024 decapsulation") // only for another length
	}
	return append(z, shared...), nil
}
