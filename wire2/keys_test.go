// Fixed keys and connections that record or limit what is done with them.

package wire2

import (
	"crypto/ecdh"
	"encoding/hex"
	"net"
	"sync"
	"testing"
)

const (
	serverScalar = "0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f30"
	clientScalar = "3132333435363738393a3b3c3d3e3f404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f60"
	zeroScalar   = "3132333435363738393a3b3c3d3e3f404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c000001bc"
)

func privateKey(t testing.TB, scalar string) *ecdh.PrivateKey {
	t.Helper()
	b, err := hex.DecodeString(scalar)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdh.P384().NewPrivateKey(b)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func fixedKey(key *ecdh.PrivateKey) keyGenerator {
	return func() (*ecdh.PrivateKey, error) { return key, nil }
}

// leadingZeroKeys agree on an x-coordinate that begins with a zero byte.
func leadingZeroKeys(t testing.TB) (server, client *ecdh.PrivateKey) {
	t.Helper()
	server, client = privateKey(t, serverScalar), privateKey(t, zeroScalar)
	if x, err := server.ECDH(client.PublicKey()); err != nil || x[0] != 0 || x[1] == 0 {
		t.Fatalf("x is %x, %v", x, err)
	}
	return server, client
}

// A writeRecorder records the size of each write. It can be half closed.
type writeRecorder struct {
	net.Conn
	mu         sync.Mutex
	writes     []int
	halfCloses int
}

func (r *writeRecorder) Write(b []byte) (int, error) {
	r.mu.Lock()
	r.writes = append(r.writes, len(b))
	r.mu.Unlock()
	return r.Conn.Write(b)
}

func (r *writeRecorder) CloseWrite() error {
	r.halfCloses++
	return closeWrite(r.Conn)
}
