// Examples of what a connection is made of, and of what is known of a message
// after an error.

package gipc_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"expvar"
	"fmt"
	"log"
	"math/big"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"example.com/gipc"
)

// counted counts the bytes that go over a connection.
type counted struct {
	net.Conn
	written *int
}

func (c counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	*c.written += n
	return n, err
}

// Upgrade returns what to speak over: here the connection itself, with a counter.
// The Example of ServerConfig has TLS with certificates.
func ExampleClientConfig_upgrade() {
	address, remove := socket()
	defer remove()
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "up", Network: "unix", Address: address,
		Upgrade: func(conn net.Conn) (net.Conn, error) { return conn, nil }})
	if err != nil {
		log.Fatal(err)
	}
	written := 0
	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "up", Network: "unix", Address: address,
		Upgrade: func(conn net.Conn) (net.Conn, error) { return counted{conn, &written}, nil }})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Write(1, make([]byte, 1000)); err != nil {
		log.Fatal(err)
	}
	if err := client.Close(); err != nil {
		log.Fatal(err)
	}
	mustClose(server)
	fmt.Println("more than 1000 bytes were written:", written > 1000)
	// Output:
	// more than 1000 bytes were written: true
}

// A server for one ready connection, such as a socketpair that is shared with a
// child process.
func ExampleListenConn() {
	near, far := net.Pipe()
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "pair", Listener: gipc.ListenConn(near)})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "pair",
		Dial: func(context.Context) (net.Conn, error) { return far, nil }})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Write(1, []byte("hello")); err != nil {
		log.Fatal(err)
	}
	for message, err := range server.Messages(context.Background()) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(string(message.Data))
		break
	}
	if err := client.Close(); err != nil {
		log.Fatal(err)
	}
	<-server.Done()
	fmt.Println(errors.Is(server.Err(), gipc.ErrClosed))
	// Output:
	// hello
	// true
}

// The port that ":0" became.
func ExampleServer_Addr() {
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "port", Network: "tcp", Address: "127.0.0.1:0"})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)
	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "port", Network: "tcp", Address: server.Addr().String()})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(client)
	fmt.Println(client.Status())
	// Output:
	// Connected
}

// WriteOn writes to one connection and to no other. Conn of the Connected message
// is its ID.
func ExampleClient_WriteOn() {
	address, remove := socket()
	defer remove()
	defer echo(address)()
	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "echo", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(client)
	ctx := context.Background()
	for {
		message, err := client.Read()
		if err != nil {
			log.Fatal(err)
		}
		if !message.Is(gipc.Connected) {
			continue
		}
		fmt.Println(client.WriteOn(ctx, message.Conn, 1, []byte("for this connection")))
		err = client.WriteOn(ctx, message.Conn+1, 1, []byte("for the next one"))
		fmt.Println(errors.Is(err, gipc.ErrNotConnected))
		return
	}
	// Output:
	// <nil>
	// true
}

// ErrUnconfirmed says that a message may have arrived: sending it again may send
// it twice. After ErrNotConnected nothing was sent.
func Example_unconfirmed() {
	near, far := net.Pipe()
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "silent", Listener: gipc.ListenConn(near)})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "silent",
		Dial: func(context.Context) (net.Conn, error) { return far, nil }})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Write(1, []byte("hello")); err != nil {
		log.Fatal(err)
	}
	far.Close() // the connection is cut before the server has acknowledged anything
	if err := client.Close(); errors.Is(err, gipc.ErrUnconfirmed) {
		fmt.Println("the message may have arrived")
	}
	// Output:
	// the message may have arrived
}

// A server has its name for itself. That of one that has died is free at once.
func ExampleStartServer() {
	address, remove := socket()
	defer remove()

	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "one", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(server.Status())

	_, err = gipc.StartServer(&gipc.ServerConfig{Name: "one", Network: "unix", Address: address})
	if errors.Is(err, gipc.ErrNameInUse) {
		fmt.Println("the name is in use")
	}

	if err := server.Close(); err != nil {
		log.Fatal(err)
	}
	server, err = gipc.StartServer(&gipc.ServerConfig{Name: "one", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)
	fmt.Println(server.Status())
	// Output:
	// Listening
	// the name is in use
	// Listening
}

// A client waits for its server, for Timeout at most. What cannot succeed ends
// at once, whatever Timeout says.
func ExampleStartClient() {
	address, remove := socket()
	defer remove()

	_, err := gipc.StartClient(&gipc.ClientConfig{
		Name: "absent", Network: "unix", Address: address,
		Timeout: 20 * time.Millisecond, RetryTimer: 5 * time.Millisecond,
	})
	switch {
	case errors.Is(err, gipc.ErrTimeout):
		fmt.Println("no server within Timeout") // the text of err has the address, and why
	case errors.Is(err, gipc.ErrConfig):
		fmt.Println("a field that cannot be used")
	case errors.Is(err, gipc.ErrSecret):
		fmt.Println("another Secret, or another Name")
	case errors.Is(err, gipc.ErrEncryption), errors.Is(err, gipc.ErrVersion):
		fmt.Println("encryption, or the version of the protocol, differs")
	case errors.Is(err, gipc.ErrRefused):
		fmt.Println("the server's Authorize does not let us in")
	case errors.Is(err, gipc.ErrUntrustedServer):
		fmt.Println("another user's server")
	}
	// Output:
	// no server within Timeout
}

// Give up connecting when a context ends: Ctrl-C, for one, by signal.NotifyContext.
func ExampleStartClientContext() {
	address, remove := socket()
	defer remove()

	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(10*time.Millisecond, cancel)
	_, err := gipc.StartClientContext(ctx, &gipc.ClientConfig{Name: "absent", Network: "unix", Address: address})
	if errors.Is(err, context.Canceled) {
		fmt.Println("given up")
	}
	// Output:
	// given up
}

// A client reconnects by itself. When the message Connected comes it sends what the
// server needs first, such as a subscription. To send messages again that were lost in
// flight, see the Example of WriteOn.
func ExampleClientConfig_reconnect() {
	address, remove := socket()
	defer remove()
	stop := echo(address)
	restarted := make(chan func(), 1)
	defer func() { (<-restarted)() }()

	client, err := gipc.StartClient(&gipc.ClientConfig{
		Name: "echo", Network: "unix", Address: address,
		Timeout:    time.Minute,            // how long to look for the server, now and after a loss
		RetryTimer: 100 * time.Millisecond, // the longest pause between two tries
	})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(client)

	for replies := 0; replies < 2; {
		message, err := client.Read()
		if err != nil {
			log.Fatal(err) // ErrTimeout, after a minute without a server
		}
		switch {
		case message.MsgType > 0:
			fmt.Printf("%s over connection %d\n", message.Data, client.ID())
			if replies++; replies == 1 {
				go func() { // the server restarts
					stop()
					restarted <- echo(address)
				}()
			}
		case message.Is(gipc.Connected):
			fmt.Println(message.Status)
			if err := client.WriteOn(context.Background(), message.Conn, 1, []byte("subscribed")); err != nil {
				log.Print(err) // lost again already: the next Connected comes
			}
		default:
			fmt.Println(message.Status)
		}
	}
	fmt.Println("reconnects:", client.Stats().Reconnects)
	// Output:
	// Connecting
	// Connected
	// subscribed over connection 1
	// Reconnecting
	// Connected
	// subscribed over connection 2
	// reconnects: 1
}

// Wait until there is somebody to talk to.
func ExampleServer_WaitConnected() {
	address, remove := socket()
	defer remove()

	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "lobby", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)

	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if err := server.WaitConnected(ctx); errors.Is(err, context.DeadlineExceeded) {
		fmt.Println("nobody yet")
	}

	defer visit(&gipc.ClientConfig{Name: "lobby", Network: "unix", Address: address})()
	if err := server.WaitConnected(context.Background()); err != nil {
		log.Fatal(err)
	}
	fmt.Println(server.Status())
	// Output:
	// nobody yet
	// Connected
}

// The status of now, as a word.
func ExampleClient_Status() {
	address, remove := socket()
	defer remove()
	defer echo(address)()

	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "echo", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(client.Status())
	mustClose(client)
	fmt.Println(client.Status())
	// Output:
	// Connected
	// Closed
}

// The status of now, for a switch: a health check, say.
func ExampleServer_StatusCode() {
	address, remove := socket()
	defer remove()

	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "health", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)

	switch server.StatusCode() {
	case gipc.Connected:
		fmt.Println("busy")
	case gipc.Listening, gipc.Disconnected:
		fmt.Println("waiting for a client")
	case gipc.Closing, gipc.Closed, gipc.Error:
		fmt.Println("out of service")
	}
	// Output:
	// waiting for a client
}

// All statuses. Their numbers never change.
func ExampleStatus() {
	for _, s := range []gipc.Status{
		gipc.NotConnected, gipc.Listening, gipc.Connecting, gipc.Connected, gipc.ReConnecting,
		gipc.Closed, gipc.Closing, gipc.Error, gipc.Timeout, gipc.Disconnected,
	} {
		fmt.Printf("%d %s\n", s, s)
	}
	// Output:
	// 0 Not Connected
	// 1 Listening
	// 2 Connecting
	// 3 Connected
	// 4 Reconnecting
	// 5 Closed
	// 6 Closing
	// 7 Error
	// 8 Timeout
	// 9 Disconnected
}

// When Close returns nil the peer process has everything. It lets every other
// call return, so that closing is also how to stop a loop that reads.
func ExampleClient_Close() {
	address, remove := socket()
	defer remove()
	defer echo(address)()

	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "echo", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	done := make(chan error)
	go func() {
		for {
			if _, err := client.Read(); err != nil {
				done <- err
				return
			}
		}
	}()

	if err := client.Write(1, []byte("the last words")); err != nil {
		log.Fatal(err)
	}
	if err := client.Close(); err == nil {
		fmt.Println("the peer has everything")
	}
	fmt.Println(<-done)
	// Output:
	// the peer has everything
	// gipc: closed
}

// A program that has to stop: Close frees the name and closes the
// connection of the client.
func ExampleServer_Close() {
	address, remove := socket()
	defer remove()

	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "service", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background()) // by signal.NotifyContext in a program
	defer context.AfterFunc(ctx, func() {
		if err := server.Close(); err != nil {
			log.Print(err)
		}
	})()

	stop()
	for message, err := range server.Messages(context.Background()) { // ends with Close
		fmt.Println(message, err)
	}
	fmt.Println(server.Err())
	// Output:
	// gipc: closed
}

// Close with a time limit of your own. A context that is already done cuts at once.
func ExampleClient_Shutdown() {
	address, remove := socket()
	defer remove()
	defer echo(address)()

	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "echo", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := client.Shutdown(ctx); err != nil {
		log.Print(err) // closed all the same, but the server may not have everything
	}
	fmt.Println(client.Status())
	// Output:
	// Closed
}

// A server's Shutdown closes the connections of all clients at once.
func ExampleServer_Shutdown() {
	address, remove := socket()
	defer remove()

	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "service", Network: "unix", Address: address, MultiClient: true})
	if err != nil {
		log.Fatal(err)
	}
	config := &gipc.ClientConfig{Name: "service", Network: "unix", Address: address}
	defer visit(config)()
	defer visit(config)()
	here := 0
	for srv := range server.Connections.Messages(context.Background()) { // the first of each is Connected
		fmt.Println("client", srv.ID(), "is here")
		if here++; here == 2 {
			break
		}
	}

	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		log.Print(err) // joined: a ClientError for each client that may not have everything
	}
	fmt.Println(server.Status(), server.Connections.Len())
	// Unordered output:
	// client 1 is here
	// client 2 is here
	// Closed 0
}

// Work for a client for as long as it is there: Done is closed when an end will
// never be connected again. That of a Client is closed after Close and after its
// Timeout, so that a program can end together with its server.
func ExampleServer_Done() {
	address, remove := socket()
	defer remove()
	stop := visit(&gipc.ClientConfig{Name: "job", Network: "unix", Address: address}, "work for me")

	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "job", Network: "unix", Address: address, MultiClient: true})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)

	for srv, message := range server.Connections.Messages(context.Background()) {
		if message.MsgType > 0 {
			fmt.Printf("%s\n", message.Data)
			go stop() // the client leaves
			select {
			case <-srv.Done():
				fmt.Println("it has left:", errors.Is(srv.Err(), gipc.ErrClosed))
			case <-time.After(time.Minute):
				fmt.Println("the work is done")
			}
			break
		}
	}
	// Output:
	// work for me
	// it has left: true
}

// Err is nil until this end is finished for good, and then says why.
func ExampleClient_Err() {
	address, remove := socket()
	defer remove()
	defer echo(address)()

	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "echo", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(client.Err())
	mustClose(client)
	fmt.Println(client.Err(), errors.Is(client.Err(), gipc.ErrClosed), errors.Is(client.Err(), net.ErrClosed))
	// Output:
	// <nil>
	// gipc: closed true true
}

// Tell one connection from the next, on either side.
func ExampleServer_ID() {
	address, remove := socket()
	defer remove()

	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "counter", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)

	config := &gipc.ClientConfig{Name: "counter", Network: "unix", Address: address}
	for range 2 {
		stop := visit(config, "hello")
		for message, err := range server.Messages(context.Background()) {
			if err != nil {
				log.Fatal(err)
			}
			fmt.Printf("%s, connection %d\n", message.Data, server.ID())
			break
		}
		go stop()
		for server.StatusCode() == gipc.Connected {
			if _, err := server.Read(); err != nil { // Disconnected
				log.Fatal(err)
			}
		}
	}
	// Output:
	// hello, connection 1
	// hello, connection 2
}

// Totals since the start, for a metrics page.
func ExampleClient_Stats() {
	address, remove := socket()
	defer remove()
	defer echo(address)()

	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "echo", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(client)

	for range 3 {
		if err := client.Write(1, []byte("12345")); err != nil {
			log.Fatal(err)
		}
	}
	echoed := 0
	for _, err := range client.Messages(context.Background()) {
		if err != nil {
			log.Fatal(err)
		}
		if echoed++; echoed == 3 {
			break
		}
	}
	stats := client.Stats()
	fmt.Println("sent:", stats.Sent, "messages,", stats.SentBytes, "bytes")
	fmt.Println("received:", stats.Received, "messages,", stats.ReceivedBytes, "bytes")
	fmt.Println("reconnects:", stats.Reconnects, "new keys:", stats.Rekeys, "status messages dropped:", stats.Dropped)
	// Output:
	// sent: 3 messages, 15 bytes
	// received: 3 messages, 15 bytes
	// reconnects: 0 new keys: 0 status messages dropped: 0
}

// A server counts over all its clients, including those that were refused.
func ExampleServer_Stats() {
	address, remove := socket()
	defer remove()

	nobody := errors.New("we are closed")
	server, err := gipc.StartServer(&gipc.ServerConfig{
		Name: "club", Network: "unix", Address: address, MultiClient: true,
		Authorize: func(gipc.Peer) error { return nobody },
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = gipc.StartClient(&gipc.ClientConfig{Name: "club", Network: "unix", Address: address})
	fmt.Println("refused:", errors.Is(err, gipc.ErrRefused))
	mustClose(server)
	fmt.Println("refused in all:", server.Stats().Refused)
	// Output:
	// refused: true
	// refused in all: 1
}

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

// By the name alone: both sides find the same socket, /tmp/NAME.sock, or one in
// the directory that GIPC_SOCKET_DIR names.
func ExampleServerConfig_environment() {
	dir, err := os.MkdirTemp("", "gipc")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	os.Setenv("GIPC_SOCKET_DIR", dir) // in a shell: export GIPC_SOCKET_DIR=...
	defer os.Unsetenv("GIPC_SOCKET_DIR")

	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "found", Network: "unix"})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)
	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "found", Network: "unix"})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(client)
	fmt.Println(client.Status())
	// Output:
	// Connected
}

// Over TCP. Beyond this machine both sides need the same Secret.
func ExampleServerConfig_tcp() {
	secret := []byte("32 random bytes from a file, in a program that is not an example")

	// Port 0 is any that is free: the listener is made here to learn which. With
	// a port that is known, Network and Address do.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "remote", Listener: listener, Secret: secret})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)

	client, err := gipc.StartClient(&gipc.ClientConfig{
		Name:    "remote",
		Network: "tcp",
		Address: listener.Addr().String(), // host:port
		Secret:  secret,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(client)

	fmt.Println(client.Status(), "over", client.Peer().Addr.Network())
	// Output:
	// Connected over tcp
}

// In a test of your program: over net.Pipe, with nothing outside of this
// process, also inside a bubble of testing/synctest.
func ExampleClientConfig_pipe() {
	pipe := newInMemory()
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "test", Listener: pipe})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)
	go func() {
		for message, err := range server.Messages(context.Background()) {
			if err != nil {
				log.Fatal(err)
			}
			if err := server.Write(2, append([]byte("re: "), message.Data...)); err != nil {
				log.Fatal(err)
			}
		}
	}()

	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "test", Dial: pipe.Dial})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(client)
	if err := client.Write(1, []byte("hello")); err != nil {
		log.Fatal(err)
	}
	for message, err := range client.Messages(context.Background()) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", message.Data)
		break
	}
	// Output:
	// re: hello
}

// inMemory is a net.Listener for the other ends of the pipes that Dial makes.
type inMemory struct {
	conns  chan net.Conn
	ctx    context.Context
	cancel context.CancelFunc
}

func newInMemory() *inMemory {
	ctx, cancel := context.WithCancel(context.Background())
	return &inMemory{make(chan net.Conn), ctx, cancel}
}

func (l *inMemory) Dial(ctx context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-l.ctx.Done():
		return nil, errors.New("nobody listens")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *inMemory) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

func (l *inMemory) Close() error {
	l.cancel()
	return nil
}

func (l *inMemory) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

// Serve many clients with a handler. Each client has a goroutine of its own, so
// a slow one delays nobody else.
func ExampleConnectionPool_Serve() {
	address, remove := socket()
	defer remove()

	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "many", Network: "unix", Address: address, MultiClient: true})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go server.Connections.Serve(ctx, func(srv *gipc.Server, message *gipc.Message) {
		switch {
		case message.MsgType == 1:
			if err := srv.Write(1, append([]byte("hello, "), message.Data...)); err != nil {
				log.Print(err) // it has left
			}
		case message.Status == gipc.Disconnected.String():
			// the last message of this client: forget what belongs to it
		}
	})

	var wg sync.WaitGroup
	for _, name := range []string{"Ann", "Ben", "Cem"} {
		wg.Go(func() { // each a process of its own
			client, err := gipc.StartClient(&gipc.ClientConfig{Name: "many", Network: "unix", Address: address})
			if err != nil {
				log.Fatal(err)
			}
			defer mustClose(client)
			if err := client.Write(1, []byte(name)); err != nil {
				log.Fatal(err)
			}
			for message, err := range client.Messages(ctx) {
				if err != nil {
					log.Fatal(err)
				}
				fmt.Printf("%s\n", message.Data)
				break
			}
		})
	}
	wg.Wait()
	// Unordered output:
	// hello, Ann
	// hello, Ben
	// hello, Cem
}

// Read from all clients in one loop, which needs no lock for what it knows of
// them.
func ExampleConnectionPool_Messages() {
	address, remove := socket()
	defer remove()

	config := &gipc.ClientConfig{Name: "many", Network: "unix", Address: address}
	defer visit(config, "3", "apples")()
	defer visit(config, "4", "pears")()
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "many", Network: "unix", Address: address, MultiClient: true})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)

	orders := map[uint64]string{} // by client
	complete := 0
	for srv, message := range server.Connections.Messages(context.Background()) {
		switch {
		case message.Status == gipc.Connected.String():
			orders[srv.ID()] = "order:"
		case message.Status == gipc.Disconnected.String():
			delete(orders, srv.ID())
		case message.MsgType > 0:
			orders[srv.ID()] += " " + string(message.Data)
			if text := string(message.Data); text == "apples" || text == "pears" {
				fmt.Println(orders[srv.ID()])
				complete++
			}
		}
		if complete == 2 {
			break // loses nothing
		}
	}
	// Unordered output:
	// order: 3 apples
	// order: 4 pears
}

// Tell all clients. A client that is stuck holds nobody up; the error says who
// did not get the message.
func ExampleConnectionPool_Broadcast() {
	address, remove := socket()
	defer remove()

	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "news", Network: "unix", Address: address, MultiClient: true})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)

	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() { // each a process of its own
			client, err := gipc.StartClient(&gipc.ClientConfig{Name: "news", Network: "unix", Address: address})
			if err != nil {
				log.Fatal(err)
			}
			defer mustClose(client)
			for message, err := range client.Messages(context.Background()) {
				if err != nil {
					log.Fatal(err)
				}
				fmt.Printf("reader %d: %s\n", i+1, message.Data)
				break
			}
		})
	}
	readers := 0
	for range server.Connections.Messages(context.Background()) { // the first message of each is Connected
		if readers++; readers == 3 {
			break
		}
	}

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := server.Connections.Broadcast(ctx, 1, []byte("it rains")); err != nil {
		log.Print(err)
	}
	wg.Wait()
	// Unordered output:
	// reader 1: it rains
	// reader 2: it rains
	// reader 3: it rains
}

// Which clients an error is about: here nobody got the message, since there was
// no time for it.
func ExampleClientError() {
	address, remove := socket()
	defer remove()

	defer visit(&gipc.ClientConfig{Name: "news", Network: "unix", Address: address})()
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "news", Network: "unix", Address: address, MultiClient: true})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)
	for range server.Connections.Messages(context.Background()) {
		break // it is Connected
	}

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err = server.Connections.Broadcast(ctx, 1, []byte("it rains"))
	var missed *gipc.ClientError
	if errors.As(err, &missed) {
		fmt.Println("client", missed.Server.ID(), "missed it:", errors.Is(missed.Err, context.Canceled))
		// missed.Server.Close() would be the end of a client that is stuck
	}
	// Output:
	// client 1 missed it: true
}

// Who is connected now.
func ExampleConnectionPool_All() {
	address, remove := socket()
	defer remove()

	config := &gipc.ClientConfig{Name: "list", Network: "unix", Address: address}
	defer visit(config)()
	defer visit(config)()
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "list", Network: "unix", Address: address, MultiClient: true})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)
	here := 0
	for range server.Connections.Messages(context.Background()) { // Connected, of each
		if here++; here == 2 {
			break
		}
	}

	for srv := range server.Connections.All() {
		fmt.Println("client", srv.ID(), "is", srv.Status())
		if err := srv.Write(1, []byte("for you alone")); err != nil {
			log.Print(err)
		}
	}
	// Unordered output:
	// client 1 is Connected
	// client 2 is Connected
}

// How many are connected now. On the server itself there is nobody to read from:
// its status is Listening, and reading is done through Connections.
func ExampleConnectionPool_Len() {
	address, remove := socket()
	defer remove()

	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "many", Network: "unix", Address: address, MultiClient: true})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)
	fmt.Println(server.Connections.Len(), server.Status())

	defer visit(&gipc.ClientConfig{Name: "many", Network: "unix", Address: address})()
	for range server.Connections.Messages(context.Background()) {
		break // its Connected
	}
	fmt.Println(server.Connections.Len(), server.Status())

	_, err = server.Read()
	fmt.Println(errors.Is(err, gipc.ErrMultiClient))
	// Output:
	// 0 Listening
	// 1 Listening
	// true
}

// Ask all clients at once, and do something else when each has said something or
// a time has passed.
func ExampleConnectionPool_ReadTimed() {
	address, remove := socket()
	defer remove()

	config := &gipc.ClientConfig{Name: "round", Network: "unix", Address: address}
	defer visit(config, "one")()
	defer visit(config, "two")()
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "round", Network: "unix", Address: address, MultiClient: true})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)

	var mu sync.Mutex // the callbacks of different clients run at the same time
	var heard []string
	for len(heard) < 2 {
		server.Connections.ReadTimed(20*time.Millisecond, func(srv *gipc.Server, message *gipc.Message, err error) {
			if err != nil || message == gipc.TimeoutMessage || message.MsgType == -1 {
				return // ErrClosed; nothing from this client; a change of status
			}
			mu.Lock()
			defer mu.Unlock()
			heard = append(heard, string(message.Data))
			fmt.Printf("%s\n", message.Data)
		}) // all callbacks have returned
	}
	// Unordered output:
	// one
	// two
}

// As ReadTimed, but go on after the first answer. The callback may still run
// afterwards, for the clients that were asked and had nothing yet.
func ExampleConnectionPool_ReadTimedFastest() {
	address, remove := socket()
	defer remove()

	config := &gipc.ClientConfig{Name: "race", Network: "unix", Address: address}
	defer visit(config, "quick")()
	defer visit(config)() // says nothing, and delays nobody
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "race", Network: "unix", Address: address, MultiClient: true})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)

	heard := make(chan string, 1)
	callback := func(srv *gipc.Server, message *gipc.Message, err error) {
		if err == nil && message.MsgType > 0 {
			heard <- string(message.Data)
		}
	}
	for {
		server.Connections.ReadTimedFastest(20*time.Millisecond, callback)
		select {
		case text := <-heard:
			fmt.Println(text)
			return
		default: // nothing but changes of status so far: time for other work
		}
	}
	// Output:
	// quick
}

// Kinds of requests of the server below.
const (
	upper = 1 + iota
	double
	countDown
	progress
	failed
)

// answers runs a server for many clients with several kinds of requests.
func answers(address string) (stop func()) {
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "answers", Network: "unix", Address: address, MultiClient: true})
	if err != nil {
		log.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		served <- server.Connections.Serve(context.Background(), func(client *gipc.Server, m *gipc.Message) {
			if !m.IsRequest() {
				return
			}
			var err error
			switch m.MsgType {
			case upper:
				err = m.Reply(upper, []byte(strings.ToUpper(string(m.Data))))
			case double:
				if n, bad := strconv.Atoi(string(m.Data)); bad != nil {
					err = m.Reply(failed, []byte("not a number"))
				} else {
					err = m.Reply(double, []byte(strconv.Itoa(2*n)))
				}
			case countDown: // messages before the reply
				for _, step := range []string{"3", "2", "1"} {
					client.Write(progress, []byte(step)) // if it fails, so does Reply
				}
				err = m.Reply(countDown, []byte("lift-off"))
			default:
				err = m.Reply(failed, []byte("no such request"))
			}
			if err != nil {
				log.Print(err) // the client has left
			}
		})
	}()
	return func() {
		mustClose(server)
		<-served
	}
}

// A request and its reply, with a deadline. The switch over types is in the server.
func ExampleClient_Call() {
	address, remove := socket()
	defer remove()
	defer answers(address)()

	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "answers", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(client)

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, ask := range []struct {
		kind int
		text string
	}{{upper, "hello"}, {double, "21"}, {double, "x"}} {
		reply, err := client.Call(ctx, ask.kind, []byte(ask.text))
		switch {
		case errors.Is(err, gipc.ErrUnconfirmed):
			log.Fatal("it may have been done: ", err) // asking again may do it twice
		case err != nil:
			log.Fatal("it was not done: ", err)
		case reply.MsgType == failed:
			fmt.Println("failed:", string(reply.Data))
		default:
			fmt.Println(string(reply.Data))
		}
	}
	// Output:
	// HELLO
	// 42
	// failed: not a number
}

// Messages before a reply tell how far it is. Another goroutine reads them.
func ExampleClient_Call_progress() {
	address, remove := socket()
	defer remove()
	defer answers(address)()

	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "answers", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for m, err := range client.Messages(context.Background()) {
			if err != nil {
				log.Fatal(err)
			}
			fmt.Println(string(m.Data))
		}
	}()
	reply, err := client.Call(context.Background(), countDown, nil)
	if err != nil {
		log.Fatal(err)
	}
	mustClose(client)
	<-read // the loop ends after the last message
	fmt.Println(string(reply.Data))
	// Output:
	// 3
	// 2
	// 1
	// lift-off
}

// Call again after a loss. By its number the server recognizes a job that is done and
// whose reply was lost. This is one job at a time; to send many at once, see the
// Example of WriteOn.
func ExampleClient_Call_again() {
	address, remove := socket()
	defer remove()
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "jobs", Network: "unix", Address: address, MultiClient: true})
	if err != nil {
		log.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		var mu sync.Mutex // a client's new connection may come before the old one is over
		done := 0         // the number of the last job; in a file if it has to survive a crash
		served <- server.Connections.Serve(context.Background(), func(client *gipc.Server, m *gipc.Message) {
			if !m.IsRequest() {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			var number int
			if _, err := fmt.Sscan(string(m.Data), &number); err != nil || number > done+1 {
				log.Fatalf("%q after job %d", m.Data, done)
			}
			if number == done+1 {
				fmt.Printf("%s\n", m.Data)
				done = number
				if number == 2 {
					client.Close() // for this Example: the reply is lost
				}
			}
			m.Reply(1, nil) // if this fails, the client calls again
		})
	}()

	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "jobs", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	for i, job := range []string{"saw the boards", "sand the boards", "paint the boards"} {
		for {
			_, err := client.Call(ctx, 1, fmt.Appendf(nil, "%d %s", i+1, job))
			if err == nil {
				break
			}
			if !errors.Is(err, gipc.ErrNotConnected) && !errors.Is(err, gipc.ErrUnconfirmed) {
				log.Fatal(err)
			}
			if err := client.WaitConnected(ctx); err != nil {
				log.Fatal(err)
			}
		}
	}
	fmt.Println("reconnects:", client.Stats().Reconnects)
	mustClose(client)
	mustClose(server)
	<-served
	// Output:
	// 1 saw the boards
	// 2 sand the boards
	// 3 paint the boards
	// reconnects: 1
}

// A server asks its client, which serves it in a loop.
func ExampleServer_Call() {
	address, remove := socket()
	defer remove()
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "worker", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "worker", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for m, err := range client.Messages(context.Background()) {
			if err != nil {
				log.Fatal(err)
			}
			if m.IsRequest() {
				if err := m.Reply(1, []byte("done: "+string(m.Data))); err != nil {
					log.Print(err)
				}
			}
		}
	}()
	reply, err := server.Call(context.Background(), 1, []byte("job 7"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(reply.Data))
	fmt.Println(server.Stats().Calls, client.Stats().Requests)
	mustClose(client)
	mustClose(server)
	// Output:
	// done: job 7
	// 1 1
}

// JSON in and out. A request can also be answered later, by another goroutine, and
// only once.
func ExampleMessage_Reply() {
	type question struct{ A, B int }
	type answer struct{ Sum int }

	address, remove := socket()
	defer remove()
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "sums", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		for m, err := range server.Messages(context.Background()) {
			if err != nil {
				log.Fatal(err)
			}
			if !m.IsRequest() {
				continue
			}
			go func() { // others are served meanwhile
				var q question
				if err := json.Unmarshal(m.Data, &q); err != nil {
					log.Fatal(err)
				}
				data, err := json.Marshal(answer{q.A + q.B})
				if err != nil {
					log.Fatal(err)
				}
				if err := m.Reply(1, data); err != nil {
					log.Print(err)
				}
				answered <- m.Reply(1, data)
			}()
		}
	}()

	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "sums", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	data, err := json.Marshal(question{2, 3})
	if err != nil {
		log.Fatal(err)
	}
	reply, err := client.Call(context.Background(), 1, data)
	if err != nil {
		log.Fatal(err)
	}
	var a answer
	if err := json.Unmarshal(reply.Data, &a); err != nil {
		log.Fatal(err)
	}
	fmt.Println(a.Sum)
	fmt.Println(errors.Is(<-answered, gipc.ErrReplied))
	mustClose(client)
	mustClose(server)
	// Output:
	// 5
	// true
}

// A request is a message whose sender waits for a reply. Any other message cannot be
// answered.
func ExampleMessage_IsRequest() {
	address, remove := socket()
	defer remove()
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "kinds", Network: "unix", Address: address, MultiClient: true})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	go func() {
		client, err := gipc.StartClient(&gipc.ClientConfig{Name: "kinds", Network: "unix", Address: address})
		if err != nil {
			log.Fatal(err)
		}
		if err := client.Write(1, []byte("news")); err != nil {
			log.Fatal(err)
		}
		reply, err := client.Call(ctx, 1, []byte("how many?"))
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(string(reply.Data))
		mustClose(client)
		mustClose(server)
	}()
	err = server.Connections.Serve(ctx, func(client *gipc.Server, message *gipc.Message) {
		if message.IsRequest() {
			message.Reply(1, []byte("42")) // once, now or later, from any goroutine
		}
		if message.MsgType == 1 && !message.IsRequest() {
			fmt.Println(errors.Is(message.Reply(1, nil), gipc.ErrNotRequest))
		}
	})
	fmt.Println(err)
	// Output:
	// true
	// 42
	// gipc: closed
}

// Metrics of a server and of each of its clients by expvar, which an HTTP server
// shows at /debug/vars.
func ExampleServer_Stats_expvar() {
	address, remove := socket()
	defer remove()

	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "metrics", Network: "unix", Address: address, MultiClient: true})
	if err != nil {
		log.Fatal(err)
	}
	metrics := expvar.Func(func() any { // a program: expvar.Publish("jobs", metrics)
		clients := map[string]gipc.Stats{}
		for client := range server.Connections.All() {
			clients[fmt.Sprint(client.ID())] = client.Stats()
		}
		return map[string]any{"clients": clients, "total": server.Stats()}
	})
	read := make(chan bool)
	go server.Connections.Serve(context.Background(), func(_ *gipc.Server, message *gipc.Message) {
		if message.MsgType > 0 {
			read <- true
		}
	})
	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "metrics", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Write(1, []byte("counted")); err != nil {
		log.Fatal(err)
	}
	<-read

	var shown struct {
		Clients map[string]gipc.Stats
		Total   gipc.Stats
	}
	if err := json.Unmarshal([]byte(metrics.String()), &shown); err != nil {
		log.Fatal(err)
	}
	fmt.Println("client 1 has sent", shown.Clients["1"].Received, "message,", shown.Clients["1"].ReceivedBytes, "bytes")
	fmt.Println("all have sent", shown.Total.Received)
	mustClose(client)
	mustClose(server)
	// Output:
	// client 1 has sent 1 message, 7 bytes
	// all have sent 1
}
