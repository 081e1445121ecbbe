// Examples of a server with many clients.

package gipc_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"sync"
	"time"

	"example.com/gipc"
)

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
