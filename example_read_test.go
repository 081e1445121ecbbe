// Examples of reading: until something comes, for a time, until a context ends,
// into the same memory, in a loop.

package gipc_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log"
	"net"
	"time"

	"example.com/gipc"
)

// Read returns the peer's messages and, among them, each change of status in its
// place.
func ExampleClient_Read() {
	address, remove := socket()
	defer remove()
	defer echo(address)()

	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "echo", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(client)
	if err := client.Write(7, []byte("hello")); err != nil {
		log.Fatal(err)
	}

	for {
		message, err := client.Read()
		if err != nil {
			log.Fatal(err) // this client is finished, and every later call says so too
		}
		if message.MsgType == -1 {
			fmt.Println("status:", message.Status)
			continue
		}
		fmt.Printf("message of type %d: %s\n", message.MsgType, message.Data)
		break
	}
	// Output:
	// status: Connecting
	// status: Connected
	// message of type 7: hello
}

// Wait with a timeout, and do something else when it passes. The connection and
// every message survive.
func ExampleClient_ReadTimed() {
	address, remove := socket()
	defer remove()
	defer echo(address)()

	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "echo", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(client)

	for patience := 10 * time.Millisecond; ; {
		message, err := client.ReadTimed(patience)
		switch {
		case err != nil:
			log.Fatal(err)
		case message == gipc.TimeoutMessage:
			fmt.Println("nothing came: time to say something")
			if err := client.Write(1, []byte("are you there?")); err != nil {
				log.Fatal(err)
			}
			patience = time.Minute
		case message.MsgType > 0:
			fmt.Printf("received: %s\n", message.Data)
			return
		}
	}
	// Output:
	// nothing came: time to say something
	// received: are you there?
}

// Stop waiting with a context. It ends this call alone: the next one goes on
// where this one was.
func ExampleClient_ReadContext() {
	address, remove := socket()
	defer remove()
	defer echo(address)()

	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "echo", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(client)

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	for {
		_, err := client.ReadContext(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			fmt.Println("stopped; the client is", client.Status())
			break
		}
		if err != nil {
			log.Fatal(err)
		}
	}

	if err := client.Write(1, []byte("still here")); err != nil {
		log.Fatal(err)
	}
	for {
		message, err := client.ReadContext(context.Background())
		if err != nil {
			log.Fatal(err)
		}
		if message.MsgType > 0 {
			fmt.Printf("received: %s\n", message.Data)
			break
		}
	}
	// Output:
	// stopped; the client is Connected
	// received: still here
}

// Read many messages into the same memory: what has to be kept is copied.
func ExampleClient_ReadInto() {
	address, remove := socket()
	defer remove()
	defer echo(address)()

	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "echo", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(client)
	for _, text := range []string{"one", "two", "three"} {
		if err := client.Write(1, []byte(text)); err != nil {
			log.Fatal(err)
		}
	}

	var message gipc.Message
	var kept []string
	for len(kept) < 3 {
		if err := client.ReadInto(context.Background(), &message); err != nil {
			log.Fatal(err)
		}
		if message.MsgType > 0 {
			kept = append(kept, string(message.Data)) // a copy: Data is valid until the next ReadInto
		}
	}
	fmt.Println(kept)
	// Output:
	// [one two three]
}

// Range over the peer's messages until Close, or until a context ends. A server
// with one client at a time goes on with whoever comes next.
func ExampleServer_Messages() {
	address, remove := socket()
	defer remove()
	defer visit(&gipc.ClientConfig{Name: "inbox", Network: "unix", Address: address}, "first", "second", "last")()

	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "inbox", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)

	for message, err := range server.Messages(context.Background()) {
		if err != nil {
			log.Fatal(err) // never ErrClosed, which ends the loop silently
		}
		fmt.Printf("%s\n", message.Data)
		if string(message.Data) == "last" {
			break // loses nothing: another call would go on from here
		}
	}
	// Output:
	// first
	// second
	// last
}

// Receive a stream of a million records (here fewer) without allocating for
// each. The sender's side is the example of Client.Queue.
func ExampleServer_ReadInto() {
	const records, recordType = 10_000, 1

	address, remove := socket()
	defer remove()
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "stream", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)
	go func() { // another process
		client, err := gipc.StartClient(&gipc.ClientConfig{Name: "stream", Network: "unix", Address: address})
		if err != nil {
			log.Fatal(err)
		}
		defer mustClose(client) // sends what is still queued
		for i := range uint64(records) {
			if err := client.Queue(recordType, binary.BigEndian.AppendUint64(nil, i)); err != nil {
				log.Fatal(err)
			}
		}
	}()

	var message gipc.Message
	var count, sum uint64
	for message.Status != gipc.Disconnected.String() {
		if err := server.ReadInto(context.Background(), &message); err != nil {
			log.Fatal(err)
		}
		if message.MsgType == recordType {
			count++
			sum += binary.BigEndian.Uint64(message.Data)
		}
	}
	fmt.Println(count, "records, sum", sum, "and the client said goodbye:", message.Err == nil)
	// Output:
	// 10000 records, sum 49995000 and the client said goodbye: true
}

// The loss of a connection is a message, whose Err says how the peer left. An
// error of Read means something else: that this end is finished.
func ExampleMessage() {
	address, remove := socket()
	defer remove()
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "watch", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)

	// Two clients one after the other: the first says goodbye, the second one's
	// connection is cut, as by a process that dies.
	next := make(chan struct{})
	ctx, cut := context.WithCancel(context.Background())
	dial := func(context.Context) (net.Conn, error) {
		conn, err := net.Dial("unix", address)
		if err == nil {
			context.AfterFunc(ctx, func() { conn.Close() })
		}
		return conn, err
	}
	go func() {
		polite, err := gipc.StartClient(&gipc.ClientConfig{Name: "watch", Network: "unix", Address: address})
		if err != nil {
			log.Fatal(err)
		}
		mustClose(polite)
		<-next
		killed, err := gipc.StartClient(&gipc.ClientConfig{Name: "watch", Dial: dial})
		if err != nil {
			log.Fatal(err)
		}
		cut()
		<-next
		killed.Shutdown(ctx)
		close(next)
	}()

	for losses := 0; losses < 2; {
		message, err := server.Read()
		if err != nil {
			log.Fatal(err)
		}
		if message.MsgType > 0 {
			fmt.Printf("message: %s\n", message.Data)
			continue
		}
		switch {
		case message.Status != gipc.Disconnected.String():
			fmt.Println(message.Status)
			continue
		case message.Err == nil:
			fmt.Println(message.Status, "with a goodbye: everything has arrived")
		case errors.Is(message.Err, gipc.ErrTruncated):
			fmt.Println(message.Status, "without a goodbye: the process has died, or the network is cut")
		case errors.Is(message.Err, gipc.ErrTimeout):
			fmt.Println(message.Status, "since the heartbeat found nobody")
		case errors.Is(message.Err, gipc.ErrNotAuthentic), errors.Is(message.Err, gipc.ErrMalformed):
			fmt.Println(message.Status, "since somebody has changed what was sent")
		}
		losses++
		next <- struct{}{}
	}
	<-next
	// Output:
	// Connected
	// Disconnected with a goodbye: everything has arrived
	// Connected
	// Disconnected without a goodbye: the process has died, or the network is cut
}
