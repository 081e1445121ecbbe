// Simple: a server and a client greet each other by Read. Its -h says how to run it.
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

	"example.com/gipc"
)

// The types of the messages. A program picks its own, from 1 up.
const (
	hello  = 1
	answer = 2
)

const usage = `simple: a server and a client greet each other by Read.

  go run ./example/simple            both roles in this process
  go run ./example/simple -server    one role a process: start this one,
  go run ./example/simple -client    and then this one in another terminal

It exits with 0 when it is done, as a server is on Ctrl-C; with 1 when it failed
or was interrupted; with 2 on wrong flags.

`

func main() {
	name := flag.String("name", "simple", "`name` of the connection, the same on both sides")
	asServer := flag.Bool("server", false, "be the server, until Ctrl-C (default: both roles)")
	asClient := flag.Bool("client", false, "be the client: greet, wait for the answer, end (default: both roles)")
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
		fmt.Fprintln(os.Stderr, "simple: give -server or -client, or neither to see both; -h tells more")
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
		fmt.Fprintln(os.Stderr, "simple:", err)
		os.Exit(1)
	}
}

// serve answers every hello until ctx ends.
func serve(ctx context.Context, config *gipc.ServerConfig) error {
	server, err := gipc.StartServer(config)
	if err != nil {
		return err
	}
	defer server.Close()
	// Close lets a Read that waits return at once.
	defer context.AfterFunc(ctx, func() { server.Close() })()
	fmt.Printf("server: listening as %q; it answers every hello, until Ctrl-C\n", config.Name)

	for {
		message, err := server.Read()
		if errors.Is(err, gipc.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		switch message.MsgType {
		case -1: // not from the client: a change of status
			fmt.Println("server: status", message.Status)
		case hello:
			fmt.Printf("server: received %q\n", message.Data)
			if err := server.Write(answer, []byte("hello, client")); err != nil {
				fmt.Println("server:", err) // the client has left; another may come
			}
		default:
			fmt.Printf("server: a message of unknown type %d\n", message.MsgType)
		}
	}
}

// greet says hello, waits for the answer, and leaves.
func greet(ctx context.Context, config *gipc.ClientConfig) error {
	fmt.Printf("client: looking for the server %q, to greet it\n", config.Name)
	client, err := gipc.StartClientContext(ctx, config) // waits until the server is there
	if err != nil {
		return err
	}
	defer client.Close()
	defer context.AfterFunc(ctx, func() { client.Close() })()

	for {
		message, err := client.Read()
		if err != nil {
			return err
		}
		switch message.MsgType {
		case -1:
			fmt.Println("client: status", message.Status)
			if message.Status != gipc.Connected.String() {
				break
			}
			// Said on every Connected, so that it is said again after a loss.
			if err := client.Write(hello, []byte("hello, server")); err != nil {
				fmt.Println("client:", err) // lost again already; the client reconnects by itself
			}
		case answer:
			fmt.Printf("client: received %q\n", message.Data)
			return client.Close()
		}
	}
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
