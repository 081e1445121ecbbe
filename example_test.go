// Examples of two programs that talk, first as a whole, then by task. What the
// other files of examples share stands at the end.

package gipc_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"encoding/json"
	"fmt"
	"io"
	"log"
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
