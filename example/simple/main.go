// Simple: a server and a client greet each other by Read. Its -h says how to run it.
package main

import (
	"context"
	"errors"
	"fmt"

	"example.com/gipc"
	"example.com/gipc/example/internal/program"
)

// The types of the messages. A program picks its own, from 1 up.
const (
	hello  = 1
	answer = 2
)

func main() {
	program.TwoRoles("simple", "a server and a client greet each other by Read.", serve, greet)
}

// serve answers every hello until ctx is done.
func serve(ctx context.Context, config *gipc.ServerConfig) error {
	server, err := gipc.StartServer(config)
	if err != nil {
		return err
	}
	defer server.Close()
	defer context.AfterFunc(ctx, func() { server.Close() })() // Close ends a Read that waits
	fmt.Printf("server: listening as %q, until Ctrl-C\n", config.Name)
	for {
		message, err := server.Read()
		switch {
		case errors.Is(err, gipc.ErrClosed):
			return nil
		case err != nil:
			return err
		case message.MsgType == hello:
			fmt.Printf("server: received %q\n", message.Data)
			if err := server.Write(answer, []byte("hello, client")); err != nil {
				fmt.Println("server:", err) // the client has left; another may come
			}
		}
	}
}

// greet says hello, waits for the answer, and leaves.
func greet(ctx context.Context, config *gipc.ClientConfig) error {
	fmt.Printf("client: looking for the server %q\n", config.Name)
	client, err := gipc.StartClientContext(ctx, config) // waits until the server is there
	if err != nil {
		return err
	}
	defer client.Close()
	for {
		message, err := client.ReadContext(ctx)
		switch {
		case err != nil:
			return err
		case message.Is(gipc.Connected): // comes again after a loss: then hello is said again
			if err := client.Write(hello, []byte("hello, server")); err != nil {
				fmt.Println("client:", err) // lost again already; the client reconnects by itself
			}
		case message.MsgType == answer:
			fmt.Printf("client: received %q\n", message.Data)
			return client.Close() // nil: the server has received everything
		}
	}
}
