// Examples of who is at the other end: a secret for each client, its change, and
// certificates.

package gipc_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"math/big"
	"net"
	"time"

	"example.com/gipc"
)

// newSecret stands for a file that was made once by: head -c 32 /dev/urandom > secret
func newSecret() []byte {
	secret := make([]byte, 32)
	rand.Read(secret)
	return secret
}

// A secret for each client: the server knows who it talks to, and can take the
// secret of one away without the others.
func ExampleServerConfig_secrets() {
	address, remove := socket()
	defer remove()
	ann, ben := newSecret(), newSecret()
	visit := func(server *gipc.Server, secret []byte) {
		client, err := gipc.StartClient(&gipc.ClientConfig{Name: "desk", Network: "unix", Address: address, Secret: secret})
		if errors.Is(err, gipc.ErrSecret) {
			fmt.Println("somebody is refused")
			return
		}
		if err != nil {
			log.Fatal(err)
		}
		defer mustClose(client)
		if err := client.Write(1, []byte("hello")); err != nil {
			log.Fatal(err)
		}
		for guest, message := range server.Connections.Messages(context.Background()) {
			if message.MsgType == 1 {
				fmt.Printf("%s says %s\n", guest.Peer().Identity, message.Data)
				break
			}
		}
	}

	config := &gipc.ServerConfig{Name: "desk", Network: "unix", Address: address, MultiClient: true,
		Secrets: map[string][]byte{"Ann": ann, "Ben": ben},
	}
	server, err := gipc.StartServer(config)
	if err != nil {
		log.Fatal(err)
	}
	visit(server, ann)
	visit(server, ben)
	mustClose(server)

	delete(config.Secrets, "Ben") // has left the company
	if server, err = gipc.StartServer(config); err != nil {
		log.Fatal(err)
	}
	visit(server, ben)
	visit(server, ann)
	mustClose(server)
	// Output:
	// Ann says hello
	// Ben says hello
	// somebody is refused
	// Ann says hello
}

// The change of a secret: for a while the server accepts the old one and the new
// one, and says in Identity who still has the old one.
func ExampleServerConfig_rotation() {
	address, remove := socket()
	defer remove()
	old, next := newSecret(), newSecret()
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "turn", Network: "unix", Address: address, MultiClient: true,
		Secrets: map[string][]byte{"of 2026": old, "of 2027": next}})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)
	for _, secret := range [][]byte{next, old} {
		client, err := gipc.StartClient(&gipc.ClientConfig{Name: "turn", Network: "unix", Address: address, Secret: secret})
		if err != nil {
			log.Fatal(err)
		}
		defer mustClose(client)
		if err := client.Write(1, []byte("hello")); err != nil {
			log.Fatal(err)
		}
	}
	greeted := 0
	for client, message := range server.Connections.Messages(context.Background()) {
		if message.MsgType != 1 {
			continue
		}
		if identity := client.Peer().Identity; identity != "of 2027" {
			fmt.Println("one client has the secret", identity)
		}
		if greeted++; greeted == 2 {
			break
		}
	}
	// Output:
	// one client has the secret of 2026
}

// What protects a connection. Two programs of this library agree on keys by P-384
// and ML-KEM-1024 together whenever they encrypt.
func ExampleClient_Security() {
	address, remove := socket()
	defer remove()
	secret := newSecret()
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "safe", Network: "unix", Address: address, Secret: secret})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)
	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "safe", Network: "unix", Address: address, Secret: secret})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(client)
	var security gipc.Security = client.Security()
	fmt.Println("encrypted:", security.Encrypted)
	fmt.Println("hybrid:", security.Hybrid)
	fmt.Println("secret:", security.Secret)
	// Output:
	// encrypted: true
	// hybrid: true
	// secret: true
}

// issue makes a certificate for one name, signed by the authority. Where there is
// none it makes one. An organisation has both already.
func issue(name string, authority *tls.Certificate) *tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	parent, signer := template, key
	if authority == nil {
		template.IsCA, template.BasicConstraintsValid = true, true
	} else {
		parent, signer = authority.Leaf, authority.PrivateKey.(*ecdsa.PrivateKey)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		log.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		log.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// Certificates, where an organisation has them: TLS verifies both sides before the
// library's own handshake. TLS encrypts, so the library does not have to.
func ExampleServerConfig_upgrade() {
	address, remove := socket()
	defer remove()
	authority := issue("authority", nil)
	trusted := x509.NewCertPool()
	trusted.AddCert(authority.Leaf)

	var guest string
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "office", Network: "unix", Address: address, Encryption: gipc.EncryptionOff,
		Upgrade: func(conn net.Conn) (net.Conn, error) {
			over := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{*issue("server.example", authority)},
				ClientCAs: trusted, ClientAuth: tls.RequireAndVerifyClientCert})
			if err := over.Handshake(); err != nil {
				return nil, err
			}
			guest = over.ConnectionState().PeerCertificates[0].DNSNames[0]
			return over, nil
		}})
	if err != nil {
		log.Fatal(err)
	}
	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "office", Network: "unix", Address: address, Encryption: gipc.EncryptionOff,
		Upgrade: func(conn net.Conn) (net.Conn, error) {
			over := tls.Client(conn, &tls.Config{Certificates: []tls.Certificate{*issue("client.example", authority)},
				RootCAs: trusted, ServerName: "server.example"})
			return over, over.Handshake()
		}})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Write(1, bytes.Repeat([]byte("x"), 1000)); err != nil {
		log.Fatal(err)
	}
	if err := client.Close(); err != nil {
		log.Fatal(err)
	}
	mustClose(server)
	fmt.Println("the server has verified", guest)
	// Output:
	// the server has verified client.example
}
