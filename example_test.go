// Examples of two programs that talk, first as a whole, then by task. What the
// other files of examples share stands at the end.

package gipc_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"example.com/gipc"
)

// A server answers its client. In two programs each half is the whole of one of
// them; neither has to sleep or to start first. A Name is enough for both: this
// one has an Address in a directory of its own so that it leaves nothing behind.
func Example() {
	dir, err := os.MkdirTemp("", "gipc")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	address := filepath.Join(dir, "greeter.sock")

	// The one program.
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "greeter", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	defer func() {
		if err := server.Close(); err != nil {
			log.Fatal(err)
		}
	}()
	go func() {
		for message, err := range server.Messages(context.Background()) {
			if err != nil {
				log.Fatal(err)
			}
			fmt.Printf("server received, of type %d: %s\n", message.MsgType, message.Data)
			if err := server.Write(2, []byte("hello, client")); err != nil {
				log.Print(err) // this client has left; another one may come
			}
		}
	}()

	// The other program.
	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "greeter", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	defer func() {
		if err := client.Close(); err != nil {
			log.Fatal(err)
		}
	}()
	if err := client.Write(1, []byte("hello, server")); err != nil {
		log.Fatal(err)
	}
	for message, err := range client.Messages(context.Background()) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("client received, of type %d: %s\n", message.MsgType, message.Data)
		break
	}
	// Output:
	// server received, of type 1: hello, server
	// client received, of type 2: hello, client
}

// Carry JSON: the type of a message says what its data is.
func Example_json() {
	type order struct {
		Item  string `json:"item"`
		Count int    `json:"count"`
	}
	const orderType = 1

	address, remove := socket()
	defer remove()
	defer echo(address)()

	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "echo", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(client)

	data, err := json.Marshal(order{"screws", 12})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Write(orderType, data); err != nil {
		log.Fatal(err)
	}
	for message, err := range client.Messages(context.Background()) {
		if err != nil {
			log.Fatal(err)
		}
		if message.MsgType == orderType {
			var o order
			if err := json.Unmarshal(message.Data, &o); err != nil {
				log.Fatal(err)
			}
			fmt.Printf("%s\n%d %s\n", message.Data, o.Count, o.Item)
			break
		}
	}
	// Output:
	// {"item":"screws","count":12}
	// 12 screws
}

// Carry gob: an encoder of its own for each message makes every message
// complete, so that a reader may begin with any of them.
func Example_gob() {
	type sample struct {
		At     time.Duration
		Values []float64
	}
	address, remove := socket()
	defer remove()
	defer echo(address)()

	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "echo", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(client)

	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(sample{90 * time.Second, []float64{0.5, 0.25}}); err != nil {
		log.Fatal(err)
	}
	if err := client.Write(1, b.Bytes()); err != nil {
		log.Fatal(err)
	}
	for message, err := range client.Messages(context.Background()) {
		if err != nil {
			log.Fatal(err)
		}
		var s sample
		if err := gob.NewDecoder(bytes.NewReader(message.Data)).Decode(&s); err != nil {
			log.Fatal(err)
		}
		fmt.Println(s.At, s.Values)
		break
	}
	// Output:
	// 1m30s [0.5 0.25]
}

// What the examples share. Two processes are one here: a stand-in for the other
// one runs beside.

// socket returns the path of a socket in a directory of its own. A program
// leaves Address out, or has a place for its sockets.
func socket() (address string, remove func()) {
	dir, err := os.MkdirTemp("", "gipc")
	if err != nil {
		log.Fatal(err)
	}
	return filepath.Join(dir, "socket"), func() {
		if err := os.RemoveAll(dir); err != nil {
			log.Fatal(err)
		}
	}
}

// mustClose closes an end. Its error says that the peer may not have everything.
func mustClose(end io.Closer) {
	if err := end.Close(); err != nil {
		log.Fatal(err)
	}
}

// echo runs a server, which sends every message back to the client that sent it,
// until stop is called.
func echo(address string) (stop func()) {
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "echo", Network: "unix", Address: address, MultiClient: true})
	if err != nil {
		log.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		server.Connections.Serve(context.Background(), func(srv *gipc.Server, message *gipc.Message) {
			if message.MsgType > 0 {
				srv.Write(message.MsgType, message.Data) // fails when the client has left
			}
		})
	})
	return func() {
		mustClose(server)
		wg.Wait()
	}
}

// visit runs a client, which waits for its server, sends texts as messages of
// type 1, and then reads until stop is called.
func visit(config *gipc.ClientConfig, texts ...string) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		client, err := gipc.StartClientContext(ctx, config)
		if err != nil {
			if ctx.Err() == nil {
				log.Fatal(err)
			}
			return
		}
		for _, text := range texts {
			if err := client.Write(1, []byte(text)); err != nil {
				log.Fatal(err)
			}
		}
		for range client.Messages(ctx) {
		}
		client.Close() // fails when the server has gone without reading everything
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

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

// A context ends a write, too, and never the connection. If the message was already
// accepted for sending it is still sent, and the error is ErrUnconfirmed.
func ExampleClient_WriteContext() {
	address, remove := socket()
	defer remove()

	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "slow", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)
	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "slow", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(client)

	data := make([]byte, 3<<20) // more than the kernel's buffers hold while the server does not read
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	switch err := client.WriteContext(ctx, 1, data); {
	case err == nil:
		fmt.Println("the kernel has the message")
	case errors.Is(err, gipc.ErrUnconfirmed):
		fmt.Println("it is still being sent") // sending it again would send it twice
	case errors.Is(err, context.DeadlineExceeded):
		fmt.Println("it was not sent")
	}

	for message, err := range server.Messages(context.Background()) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(len(message.Data)>>20, "MiB arrived")
		break
	}
	// Output:
	// it is still being sent
	// 3 MiB arrived
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
// with one client at a time continues with the next client.
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
	fmt.Println(count, "records, sum", sum, "and the client closed:", message.Err == nil)
	// Output:
	// 10000 records, sum 49995000 and the client closed: true
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

	// Two clients one after the other: the first closes, the second one's
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
			fmt.Println(message.Status, "with a close: everything has arrived")
		case errors.Is(message.Err, gipc.ErrTruncated):
			fmt.Println(message.Status, "without a close: the process has died, or the network is cut")
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
	// Disconnected with a close: everything has arrived
	// Connected
	// Disconnected without a close: the process has died, or the network is cut
}

// A secret from a file that only its user can read. Over a network both sides
// need the same one; make it by: head -c 32 /dev/urandom > secret
func ExampleServerConfig_secret() {
	address, remove := socket()
	defer remove()
	file := filepath.Join(filepath.Dir(address), "secret")
	random := make([]byte, 32)
	rand.Read(random)
	if err := os.WriteFile(file, random, 0o600); err != nil {
		log.Fatal(err)
	}

	secret, err := os.ReadFile(file)
	if err != nil {
		log.Fatal(err)
	}
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "vault", Network: "unix", Address: address, Secret: secret})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)

	for _, try := range []struct {
		who    string
		secret []byte
	}{
		{"the same", secret},
		{"another", append([]byte("no"), secret...)},
		{"none", nil},
		{"a short one", []byte("password")},
	} {
		client, err := gipc.StartClient(&gipc.ClientConfig{Name: "vault", Network: "unix", Address: address, Secret: try.secret})
		switch {
		case err == nil:
			fmt.Println(try.who, "connects")
			mustClose(client)
		case errors.Is(err, gipc.ErrSecret):
			fmt.Println(try.who, "does not get in")
		case errors.Is(err, gipc.ErrConfig):
			fmt.Println(try.who, "is not accepted:", err)
		}
	}
	// Output:
	// the same connects
	// another does not get in
	// none does not get in
	// a short one is not accepted: gipc: bad configuration: Secret is 8 bytes long: give 32 random bytes or more, or nil for none
}

// Plaintext, for a socket that only one user can reach. The server decides; a
// client refuses a server without encryption unless it is configured to follow.
func ExampleServerConfig_encryption() {
	address, remove := socket()
	defer remove()

	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "plain", Network: "unix", Address: address, Encryption: gipc.EncryptionOff})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)

	_, err = gipc.StartClient(&gipc.ClientConfig{Name: "plain", Network: "unix", Address: address, Encryption: gipc.EncryptionOn})
	fmt.Println("refused:", errors.Is(err, gipc.ErrEncryption))

	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "plain", Network: "unix", Address: address, Encryption: gipc.EncryptionOff})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(client.Status())
	mustClose(client)
	// Output:
	// refused: true
	// Connected
}

// Let a function decide who gets in. It sees a client before anything is read from
// it. The user example shows what a unix socket tells about its peer.
func ExampleServerConfig_authorize() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	own := func(peer gipc.Peer) error {
		if address, ok := peer.Addr.(*net.TCPAddr); !ok || !address.IP.IsLoopback() {
			return errors.New("not from this machine")
		}
		return nil
	}
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "local", Listener: listener, Authorize: own})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)

	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "local", Network: "tcp", Address: listener.Addr().String()})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(client)
	fmt.Println(client.Status())
	// Output:
	// Connected
}

// Serve no more than so many clients at once. A client that finds the server
// full tries again until its Timeout.
func ExampleServerConfig_maxClients() {
	address, remove := socket()
	defer remove()

	server, err := gipc.StartServer(&gipc.ServerConfig{
		Name: "booth", Network: "unix", Address: address, MultiClient: true, MaxClients: 1,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)
	go server.Connections.Serve(context.Background(), func(*gipc.Server, *gipc.Message) {})

	first, err := gipc.StartClient(&gipc.ClientConfig{Name: "booth", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(first)
	_, err = gipc.StartClient(&gipc.ClientConfig{Name: "booth", Network: "unix", Address: address, Timeout: time.Second})
	fmt.Println("timed out:", errors.Is(err, gipc.ErrTimeout), "- since the server was full:", errors.Is(err, gipc.ErrRefused))
	// Output:
	// timed out: true - since the server was full: true
}

// Limit the size of what is accepted, 3 MiB by default. See SizeError for the
// sender's side.
func ExampleServerConfig_maxMsgSize() {
	address, remove := socket()
	defer remove()

	defer visit(&gipc.ClientConfig{Name: "big", Network: "unix", Address: address}, string(make([]byte, 4<<20)))()
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "big", Network: "unix", Address: address, MaxMsgSize: 64 << 20})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)

	for message, err := range server.Messages(context.Background()) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(len(message.Data)>>20, "MiB")
		break
	}
	// Output:
	// 4 MiB
}

// A log of what an end does and refuses: never what is in a message. Without a
// Logger, GIPC_DEBUG=info in the environment does the same on standard error.
func ExampleServerConfig_logger() {
	address, remove := socket()
	defer remove()

	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "logged", Network: "unix", Address: address, Logger: logger()})
	if err != nil {
		log.Fatal(err)
	}
	mustClose(server)
	// Output:
	// level=INFO msg=listening role=server name=logged
	// level=INFO msg=closed role=server name=logged err=<nil>
}

// A log in a file, of every level from Info up.
func ExampleServerConfig_logFile() {
	address, remove := socket()
	defer remove()
	path := filepath.Join(filepath.Dir(address), "gipc.log")
	config := &gipc.ServerConfig{Name: "logged", Network: "unix", Address: address}

	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		log.Fatal(err)
	}
	config.Logger = slog.New(slog.NewTextHandler(file, nil))

	server, err := gipc.StartServer(config)
	if err != nil {
		log.Fatal(err)
	}
	mustClose(server)
	file.Close() // after Close: the server logs until then
	text, err := os.ReadFile(path)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(bytes.Count(text, []byte("\n")), "lines")
	// Output:
	// 2 lines
}

// A client's log has each of its connections.
func ExampleClientConfig_logger() {
	address, remove := socket()
	defer remove()
	defer echo(address)()

	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "echo", Network: "unix", Address: address, Logger: logger()})
	if err != nil {
		log.Fatal(err)
	}
	mustClose(client)
	// Output:
	// level=INFO msg=connected role=client name=echo id=1 encrypted=true hybrid=true
	// level=INFO msg=closed role=client name=echo err=<nil>
}

// logger writes to standard output what is the same in every run.
func logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		Level: slog.LevelInfo,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			switch a.Key {
			case slog.TimeKey, "address", "peer":
				return slog.Attr{}
			}
			return a
		},
	}))
}

// Detect a peer that vanished silently: a network that was cut, a machine that
// was switched off. On TCP this is on by default, with 15 s.
func ExampleServerConfig_heartbeat() {
	address, remove := socket()
	defer remove()

	config := &gipc.ServerConfig{Name: "pulse", Network: "unix", Address: address, Heartbeat: 100 * time.Millisecond}
	_, err := gipc.StartServer(config)
	fmt.Println(err)

	config.Heartbeat = 5 * time.Second // a client is lost when nothing came from it for 10 s
	server, err := gipc.StartServer(config)
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)
	client, err := gipc.StartClient(&gipc.ClientConfig{
		Name: "pulse", Network: "unix", Address: address,
		Heartbeat: -1, // each side's own: this one asks nobody, and answers
	})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(client)
	fmt.Println(client.Status())
	// Output:
	// gipc: bad configuration: Heartbeat is 100ms: give 1 s or more, 0 for the default, or a negative time for none
	// Connected
}

// Spend CPU to cut latency: before a reader sleeps it polls the socket.
// It pays where both sides have a processor to themselves.
func ExampleServerConfig_busyPoll() {
	address, remove := socket()
	defer remove()

	server, err := gipc.StartServer(&gipc.ServerConfig{
		Name: "quick", Network: "unix", Address: address,
		BusyPoll: 50 * time.Microsecond,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)
	go func() {
		for message, err := range server.Messages(context.Background()) {
			if err != nil {
				log.Fatal(err)
			}
			if err := server.Write(2, message.Data); err != nil {
				log.Print(err)
			}
		}
	}()

	client, err := gipc.StartClient(&gipc.ClientConfig{
		Name: "quick", Network: "unix", Address: address,
		BusyPoll: 50 * time.Microsecond,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(client)
	if err := client.Write(1, []byte("ping")); err != nil {
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
	// ping
}

// A field that cannot be used is ErrConfig, and the text names the field.
func ExampleServerConfig() {
	for _, config := range []*gipc.ServerConfig{
		nil,
		{},
		{Name: "a/b"},
		{Name: "a", Network: "udp"},
		{Name: "a", MaxMsgSize: 10},
		{Name: "a", MaxClients: 10},
		{Name: "a", Network: "tcp", Address: "0.0.0.0:0"},
	} {
		if _, err := gipc.StartServer(config); errors.Is(err, gipc.ErrConfig) {
			fmt.Println(err)
		}
	}
	// Output:
	// gipc: bad configuration: the config is nil: pass a *ServerConfig that has a Name
	// gipc: bad configuration: Name is "": give 1 to 255 bytes of UTF-8 without slash, backslash and NUL, and not "." or ".."
	// gipc: bad configuration: Name is "a/b": give 1 to 255 bytes of UTF-8 without slash, backslash and NUL, and not "." or ".."
	// gipc: bad configuration: Network is "udp": use "unix" or "tcp"
	// gipc: bad configuration: MaxMsgSize is 10: 0 is 3145728, else give 1024 to 1073741824 bytes
	// gipc: bad configuration: MaxClients is 10: it needs MultiClient; without it one client is served
	// gipc: bad configuration: tcp 0.0.0.0:0 is reachable beyond this machine, and anybody would be served: set Secret or Secrets, or Authorize (one that returns nil serves everybody), or listen on 127.0.0.1
}
