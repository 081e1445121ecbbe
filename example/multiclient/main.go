// Multiclient: three clients say hello to one server, which answers each of
// them. Its -h says how to run it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"example.com/gipc"
	"example.com/gipc/example/internal/program"
)

// The types of the messages. A program picks its own, from 1 up.
const (
	hello  = 1
	answer = 2
)

const (
	clients   = 3
	greetings = 3                      // of each client
	patience  = 300 * time.Millisecond // how long one call waits for a client
)

const usage = `multiclient: three clients say hello to one server, three times each, and it
answers each of them. All of it is in this process, and ends by itself.

  go run ./example/multiclient              the server reads by ReadTimed
  FAST=true go run ./example/multiclient    by ReadTimedFastest
`

func main() {
	name := flag.String("name", "multiclient", "`name` of the connection")
	program.Parse(usage)
	if flag.NArg() > 0 {
		program.WrongUse("multiclient", "it takes flags alone")
	}
	program.Run("multiclient", func(ctx context.Context) error { return run(ctx, *name, os.Getenv("FAST") == "true") })
}

// run starts the server and then the clients, on a socket in a directory that
// is gone afterwards.
func run(ctx context.Context, name string, fast bool) error {
	dir, err := os.MkdirTemp("", "gipc")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	address := filepath.Join(dir, "socket")
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: name, Network: "unix", Address: address, MultiClient: true})
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	wg.Go(func() { serve(server.Connections, fast) })

	errs := make([]error, clients)
	var greeting sync.WaitGroup
	for i := range errs {
		greeting.Go(func() {
			// A client needs no setting for being one of many.
			errs[i] = greet(ctx, i+1, &gipc.ClientConfig{Name: name, Network: "unix", Address: address})
		})
	}
	greeting.Wait()
	err = errors.Join(append(errs, server.Close())...)
	wg.Wait() // Close ends the reading
	return err
}

// serve answers every client until the server is closed.
func serve(pool *gipc.ConnectionPool, fast bool) {
	// ReadTimed returns when the slowest client has answered or its time has
	// passed, ReadTimedFastest after the first: the others are called back later.
	read, how := pool.ReadTimed, "ReadTimed"
	if fast {
		read, how = pool.ReadTimedFastest, "ReadTimedFastest"
	}
	fmt.Printf("server: listening for %d clients, and reading by %s\n", clients, how)
	var closed atomic.Bool
	for !closed.Load() {
		// Called once for each client, for different ones at the same time. srv
		// is the server's end of that client's connection.
		read(patience, func(srv *gipc.Server, message *gipc.Message, err error) {
			switch {
			case errors.Is(err, gipc.ErrClosed):
				closed.Store(true)
			case err != nil:
				fmt.Println("server:", err)
			case message == gipc.TimeoutMessage:
				fmt.Printf("server: client %d has said nothing for %v\n", srv.ID(), patience)
			case message.MsgType == -1: // not from the client: a change of status
				fmt.Printf("server: client %d: status %s\n", srv.ID(), message.Status)
			case message.MsgType == hello:
				fmt.Printf("server: client %d says %q\n", srv.ID(), message.Data)
				if err := srv.Write(answer, fmt.Appendf(nil, "hello, client %d", srv.ID())); err != nil {
					fmt.Println("server:", err) // it has left
				}
			}
		})
	}
	fmt.Println("server: closed")
}

// greet says hello a few times, waits for each answer, and leaves. The clients
// take their time, the first the least.
func greet(ctx context.Context, number int, config *gipc.ClientConfig) error {
	client, err := gipc.StartClientContext(ctx, config)
	if err != nil {
		return err
	}
	defer client.Close()
	for k := range greetings {
		select {
		case <-time.After(time.Duration(number) * 150 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := client.Write(hello, fmt.Appendf(nil, "hello %d of client %c", k+1, 'A'+number-1)); err != nil {
			return err
		}
		if err := await(ctx, number, client); err != nil {
			return err
		}
	}
	return client.Close()
}

// await waits for an answer. A lost connection takes it along.
func await(ctx context.Context, number int, client *gipc.Client) error {
	for {
		message, err := client.ReadContext(ctx)
		switch {
		case err != nil:
			return err
		case message.Is(gipc.ReConnecting):
			return fmt.Errorf("the connection was lost before the answer: %w", gipc.ErrNotConnected)
		case message.MsgType == answer:
			fmt.Printf("client %c: received %q\n", 'A'+number-1, message.Data)
			return nil
		}
	}
}
