// Examples of what a connection is made of, and of what is known of a message
// after an error.

package gipc_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"

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
