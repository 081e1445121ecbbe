// Examples of writing: one message, many at a time, what is refused, and what
// nil means.

package gipc_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log"
	"time"

	"example.com/gipc"
)

// Write a message. Its error says what to do: a message that cannot be sent is
// refused and the connection goes on.
func ExampleClient_Write() {
	address, remove := socket()
	defer remove()
	defer echo(address)()

	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "echo", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(client)

	if err := client.Write(1, []byte("hello")); err == nil {
		fmt.Println("the kernel has the message")
	}
	if err := client.Write(0, []byte("hello")); errors.Is(err, gipc.ErrReservedType) {
		fmt.Println(err)
	}
	fmt.Println("the client is", client.Status())
	// Output:
	// the kernel has the message
	// gipc: reserved message type: 0: use 1 to 2147483647
	// the client is Connected
}

// Write waits for the first client. A context ends the waiting, and nothing was
// sent then.
func ExampleServer_WriteContext() {
	address, remove := socket()
	defer remove()

	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "news", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if err := server.WriteContext(ctx, 1, []byte("news")); errors.Is(err, context.DeadlineExceeded) {
		fmt.Println("nobody came; the server is", server.Status())
	}
	// Output:
	// nobody came; the server is Listening
}

// After a client has left, a server that serves one at a time does not wait for
// the next: what was meant for the one is not for the other.
func ExampleServer_Write() {
	address, remove := socket()
	defer remove()

	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "news", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close() // whether the news arrived is not known: ErrUnconfirmed

	stop := visit(&gipc.ClientConfig{Name: "news", Network: "unix", Address: address})
	if err := server.Write(1, []byte("news")); err != nil { // waits until the client is there
		log.Fatal(err)
	}
	go stop() // the client leaves
	for {
		message, err := server.Read()
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(message.Status)
		if message.Status == gipc.Disconnected.String() {
			break
		}
	}
	if err := server.Write(1, []byte("more news")); errors.Is(err, gipc.ErrNotConnected) {
		fmt.Println("not sent:", err)
	}
	// Output:
	// Connected
	// Disconnected
	// not sent: gipc: not connected: the status is Disconnected: WaitConnected waits for the next connection
}

// Send a stream of a million records (here fewer), many with one system call.
// The receiver's side is the example of Server.ReadInto.
func ExampleClient_Queue() {
	const records, recordType = 10_000, 1

	address, remove := socket()
	defer remove()
	defer echo(address)()

	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "echo", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(client) // sends what is queued; an error says that it did not arrive

	received := make(chan int)
	go func() { // read meanwhile, or backpressure would stall both sides
		count := 0
		var message gipc.Message
		for count < records && client.ReadInto(context.Background(), &message) == nil {
			if message.MsgType == recordType {
				count++
			}
		}
		received <- count
	}()

	var record [8]byte // Queue keeps nothing of it
	for i := range uint64(records) {
		binary.BigEndian.PutUint64(record[:], i)
		if err := client.Queue(recordType, record[:]); err != nil {
			log.Fatal(err) // with ErrNotConnected the text says how many messages were lost
		}
	}
	if err := client.Flush(); err != nil {
		log.Fatal(err)
	}
	fmt.Println("echoed:", <-received)
	// Output:
	// echoed: 10000
}

// Flush when a batch is complete: until then it may still be in this process.
func ExampleClient_Flush() {
	address, remove := socket()
	defer remove()
	defer echo(address)()

	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "echo", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(client)

	for _, line := range []string{"begin", "insert", "commit"} {
		if err := client.Queue(1, []byte(line)); err != nil {
			log.Fatal(err)
		}
	}
	if err := client.Flush(); err != nil {
		log.Fatal(err)
	}
	lines := 0
	for message, err := range client.Messages(context.Background()) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", message.Data)
		if lines++; lines == 3 {
			break
		}
	}
	// Output:
	// begin
	// insert
	// commit
}

// Limit what is accepted. The sides tell each other their limits, so that a
// message that is too large fails where it is sent, and the connection goes on.
func ExampleSizeError() {
	address, remove := socket()
	defer remove()

	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "small", Network: "unix", Address: address, MaxMsgSize: 1024})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)
	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "small", Network: "unix", Address: address, MaxMsgSize: 1 << 20})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(client)

	document := make([]byte, 2500)
	err = client.Write(1, document)
	if errors.Is(err, gipc.ErrTooLarge) {
		fmt.Println("too large")
	}
	var size *gipc.SizeError
	if errors.As(err, &size) { // in parts, then
		parts := 0
		for rest := document; len(rest) > 0; parts++ {
			n := min(len(rest), size.Limit)
			if err := client.Write(1, rest[:n]); err != nil {
				log.Fatal(err)
			}
			rest = rest[n:]
		}
		fmt.Println(size.Size, "bytes sent in", parts, "parts")
	}
	// Output:
	// too large
	// 2500 bytes sent in 3 parts
}
