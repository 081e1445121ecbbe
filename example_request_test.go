package gipc_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"strconv"
	"strings"
	"sync"
	"time"

	"example.com/gipc"
)

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
	// gipc: this end is closed for good
}
