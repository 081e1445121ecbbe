// Timed: a server and a client greet each other by ReadTimed, and do something
// else whenever nothing has come for a while. Its -h says how to run it.
package main

import (
	"context"
	"errors"
	"fmt"
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
	greetings = 3                      // how often the client says hello
	patience  = 300 * time.Millisecond // how long one ReadTimed waits
)

func main() {
	program.TwoRoles("timed", "a server and a client greet each other by ReadTimed, which waits for\nat most 300 ms; then there is time for something else.", serve, greet)
}

// serve answers every hello. Its loop comes round at least once in every patience,
// so it can look at ctx itself.
func serve(ctx context.Context, config *gipc.ServerConfig) error {
	server, err := gipc.StartServer(config)
	if err != nil {
		return err
	}
	defer server.Close()
	fmt.Printf("server: listening as %q, until Ctrl-C\n", config.Name)
	for ctx.Err() == nil {
		message, err := server.ReadTimed(patience)
		switch {
		case err != nil:
			return err
		case message == gipc.TimeoutMessage: // time for other work; nothing is lost by it
			fmt.Printf("server: nothing for %v\n", patience)
		case message.MsgType == hello:
			fmt.Printf("server: received %q\n", message.Data)
			if err := server.Write(answer, []byte("hello, client")); err != nil {
				fmt.Println("server:", err) // the client has left; another may come
			}
		}
	}
	return server.Close()
}

// greet says hello a few times, whenever it is quiet, and leaves after the last answer.
func greet(ctx context.Context, config *gipc.ClientConfig) error {
	fmt.Printf("client: looking for the server %q\n", config.Name)
	client, err := gipc.StartClientContext(ctx, config) // waits until the server is there
	if err != nil {
		return err
	}
	defer client.Close()
	for said, answers := 0, 0; answers < greetings && ctx.Err() == nil; {
		message, err := client.ReadTimed(patience)
		switch {
		case err != nil:
			return err
		case message == gipc.TimeoutMessage && said == answers:
			if err := client.Write(hello, fmt.Appendf(nil, "hello, server, number %d", said+1)); err != nil {
				fmt.Println("client:", err) // the client reconnects by itself
				continue
			}
			said++
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
