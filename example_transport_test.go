// Examples of what carries the messages: the environment's socket, TCP, a pipe in
// memory.

package gipc_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"

	"example.com/gipc"
)

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
