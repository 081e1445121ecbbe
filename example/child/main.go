// Child: a program starts another one and talks to it over a channel that nobody else
// can find. Its -h says how to run it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"example.com/gipc"
	"example.com/gipc/example/internal/program"
)

const upper = 1 // the type of the request: the same text in capitals, please

const usage = `child: this program starts itself as its child, and asks it for something.

  go run ./example/child

The channel is a pair of sockets that the child inherits; where the system has none, a
TCP connection on loopback, with a secret for this run that the child reads from its
standard input. The file system and the list of processes show neither. If either of
the two dies, the other one notices and ends.
`

func main() {
	child := flag.Bool("child", false, "be the child, as this program starts itself (default: be the parent)")
	program.Parse(usage)
	if flag.NArg() > 0 {
		program.WrongUse("child", "it takes no arguments")
	}
	if *child {
		program.Run("child (the child)", serve)
		return
	}
	program.Run("child", ask)
}

// ask starts the child, sends it a request, and prints the reply.
func ask(ctx context.Context) error {
	path, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(path, "-child")
	cmd.Stderr = os.Stderr
	server, err := startWithChannel(cmd)
	if err != nil {
		return err
	}
	defer server.Close()
	if err := server.WaitConnected(ctx); err != nil {
		return err
	}
	reply, err := server.Call(ctx, upper, []byte("hello, child"))
	if err != nil {
		return err
	}
	fmt.Printf("parent: the child replied %q\n", reply.Data)
	return errors.Join(server.Close(), cmd.Wait())
}

// serve answers requests until the parent closes the channel, or dies.
func serve(ctx context.Context) error {
	config, err := channelOfChild()
	if err != nil {
		return err
	}
	config.Name = "child"
	client, err := gipc.StartClientContext(ctx, config)
	if err != nil {
		return err
	}
	defer client.Close()
	for {
		message, err := client.ReadContext(ctx)
		switch {
		case errors.Is(err, gipc.ErrClosed):
			return nil // there is no other connection to have
		case err != nil:
			return err
		case message.Is(gipc.ReConnecting):
			return message.Err // nil: the parent has closed the channel
		case message.MsgType == upper:
			if err := message.Reply(upper, []byte(strings.ToUpper(string(message.Data)))); err != nil {
				return err
			}
		}
	}
}
