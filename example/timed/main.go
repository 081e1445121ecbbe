// Timed: a server and a client greet each other by ReadTimed, and do something
// else whenever nothing has come for a while. Its -h says how to run it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"example.com/gipc"
)

// The types of the messages. A program picks its own, from 1 up.
const (
	hello  = 1
	answer = 2
)

const (
	greetings = 3                      // how often the client says hello
	patience  = 300 * time.Millisecond // how long one ReadTimed waits
)

const usage = `timed: a server and a client greet each other by ReadTimed, which waits for
at most 300 ms; then there is time for something else.

  go run ./example/timed            both roles in this process
  go run ./example/timed -server    one role a process: start this one,
  go run ./example/timed -client    and then this one in another terminal

It exits with 0 when it is done, as a server is on Ctrl-C; with 1 when it failed
or was interrupted; with 2 on wrong flags.

`

func main() {
	name := flag.String("name", "timed", "`name` of the connection, the same on both sides")
	asServer := flag.Bool("server", false, "be the server, until Ctrl-C (default: both roles)")
	asClient := flag.Bool("client", false, "be the client: greet a few times, end (default: both roles)")
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), usage)
		flag.PrintDefaults()
	}
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C does not wait

	serverConfig := &gipc.ServerConfig{Name: *name}
	clientConfig := &gipc.ClientConfig{Name: *name}
	var err error
	switch {
	case *asServer && *asClient || flag.NArg() > 0:
		fmt.Fprintln(os.Stderr, "timed: give -server or -client, or neither to see both; -h tells more")
		os.Exit(2)
	case *asServer:
		err = serve(ctx, serverConfig)
	case *asClient:
		err = greet(ctx, clientConfig)
	default:
		err = both(ctx, serverConfig, clientConfig)
	}
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("interrupted: %w", err)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "timed:", err)
		os.Exit(1)
	}
}

// serve answers every hello until ctx ends. It looks at ctx itself: the loop
// comes round at least once in every patience.
func serve(ctx context.Context, config *gipc.ServerConfig) error {
	server, err := gipc.StartServer(config)
	if err != nil {
		return err
	}
	defer server.Close()
	fmt.Printf("server: listening as %q; it answers every hello, until Ctrl-C\n", config.Name)

	answered := 0
	for ctx.Err() == nil {
		message, err := server.ReadTimed(patience)
		if err != nil {
			return err
		}
		switch {
		case message == gipc.TimeoutMessage: // time for other work; nothing is lost by it
			fmt.Printf("server: nothing for %v; answered %d so far\n", patience, answered)
		case message.MsgType == -1: // not from the client: a change of status
			fmt.Println("server: status", message.Status)
		case message.MsgType == hello:
			fmt.Printf("server: received %q\n", message.Data)
			if err := server.Write(answer, []byte("hello, client")); err != nil {
				fmt.Println("server:", err) // the client has left; another may come
				continue
			}
			answered++
		}
	}
	return server.Close()
}

// greet says hello a few times, whenever it is quiet, and leaves after the
// last answer.
func greet(ctx context.Context, config *gipc.ClientConfig) error {
	fmt.Printf("client: looking for the server %q, to greet it %d times\n", config.Name, greetings)
	client, err := gipc.StartClientContext(ctx, config) // waits until the server is there
	if err != nil {
		return err
	}
	defer client.Close()

	for said, answers := 0, 0; answers < greetings && ctx.Err() == nil; {
		message, err := client.ReadTimed(patience)
		if err != nil {
			return err
		}
		switch {
		case message == gipc.TimeoutMessage && said == answers:
			if err := client.Write(hello, fmt.Appendf(nil, "hello, server, number %d", said+1)); err != nil {
				fmt.Println("client:", err) // the client reconnects by itself
				continue
			}
			said++
		case message == gipc.TimeoutMessage:
			fmt.Println("client: no answer yet")
		case message.MsgType == -1:
			fmt.Println("client: status", message.Status)
			said = answers // what was under way is lost with its connection: say it again
		case message.MsgType == answer:
			fmt.Printf("client: received %q\n", message.Data)
			answers++
		}
	}
	return errors.Join(client.Close(), ctx.Err())
}

// both runs the two roles on a socket in a directory that is gone afterwards.
func both(ctx context.Context, serverConfig *gipc.ServerConfig, clientConfig *gipc.ClientConfig) error {
	dir, err := os.MkdirTemp("", "gipc")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	serverConfig.Network, serverConfig.Address = "unix", filepath.Join(dir, "socket")
	clientConfig.Network, clientConfig.Address = "unix", filepath.Join(dir, "socket")

	serverCtx, stopServer := context.WithCancel(ctx)
	defer stopServer()
	ctx, giveUp := context.WithCancel(ctx) // ends the client if the server fails
	defer giveUp()
	served := make(chan error, 1)
	go func() {
		err := serve(serverCtx, serverConfig)
		giveUp()
		served <- err
	}()
	err = greet(ctx, clientConfig)
	stopServer()
	if serverErr := <-served; serverErr != nil {
		return serverErr
	}
	return err
}
