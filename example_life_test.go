// Examples of an end's life: its start, its status, reconnecting, its end, and
// what it tells of itself.

package gipc_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"time"

	"example.com/gipc"
)

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
	// gipc: this end is closed for good
}

// A program that is told to stop: Close frees the name and says goodbye to
// whoever is connected.
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
	// gipc: this end is closed for good
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

// A server's Shutdown says goodbye to all clients at once.
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
	// gipc: this end is closed for good true true
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

// A server counts over all its clients, those that did not get in included.
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
