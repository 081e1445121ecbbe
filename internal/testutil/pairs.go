// Pairs of connected transports, with and without deadlines and TLS.

package testutil

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"
)

// PipePair returns the two sides of a net.Pipe.
func PipePair() (net.Conn, net.Conn, error) {
	a, b := net.Pipe()
	return a, b, nil
}

// PipePairWithoutDeadlines is like PipePair; the client's side has no deadlines.
func PipePairWithoutDeadlines() (net.Conn, net.Conn, error) {
	a, b := net.Pipe()
	return WithoutDeadlines(a), b, nil
}

// UnixPairs returns a function that makes connected unix sockets with small
// buffers, so that a few messages fill them.
func UnixPairs(t testing.TB) func() (net.Conn, net.Conn, error) {
	t.Helper()
	l, err := net.Listen("unix", TempSocket(t))
	Must(t, err)
	t.Cleanup(func() { l.Close() })
	var mu sync.Mutex
	return func() (net.Conn, net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		a, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			return nil, nil, err
		}
		b, err := l.Accept()
		if err != nil {
			a.Close()
			return nil, nil, err
		}
		ShrinkBuffers(a)
		ShrinkBuffers(b)
		return a, b, nil
	}
}

// ShrinkBuffers asks the kernel for the smallest buffers it has.
func ShrinkBuffers(conn net.Conn) {
	if c, ok := conn.(interface {
		SetReadBuffer(int) error
		SetWriteBuffer(int) error
	}); ok {
		c.SetReadBuffer(1)
		c.SetWriteBuffer(1)
	}
}

var certificate = sync.OnceValues(func() (*tls.Config, *tls.Config) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"gipc.test"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
		&tls.Config{RootCAs: roots, ServerName: "gipc.test"}
})

// TLSServer puts crypto/tls with a certificate made for the tests on conn.
func TLSServer(conn net.Conn) net.Conn {
	server, _ := certificate()
	return tls.Server(conn, server)
}

// TLSClient puts crypto/tls on conn and accepts the certificate of TLSServer.
func TLSClient(conn net.Conn) net.Conn {
	_, client := certificate()
	return tls.Client(conn, client)
}

// TLSPairs is like UnixPairs, with TLS on top.
func TLSPairs(t testing.TB) func() (net.Conn, net.Conn, error) {
	t.Helper()
	pairs := UnixPairs(t)
	return func() (net.Conn, net.Conn, error) {
		a, b, err := pairs()
		if err != nil {
			return nil, nil, err
		}
		return TLSClient(a), TLSServer(b), nil
	}
}
