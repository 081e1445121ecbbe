// Hub: a chat room. Every line that one client types reaches all the others,
// with who came and who left. Its -h says how to run it.
package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"example.com/gipc"
	"example.com/gipc/example/internal/program"
)

// The types of the messages. A program picks its own, from 1 up.
const (
	name = 1 // client to hub, first of all: who it is. hub to client: its number
	line = 2 // client to hub: what it says. hub to all: whose it is, and what to show
)

const longest = 64 << 10 // of a line, in bytes

const usage = `hub: a chat room. Every line that one types reaches all the others, as do
arrivals and departures. Run each in its own terminal:

  go run ./example/hub -serve
  go run ./example/hub -name Ada
  go run ./example/hub -name Bob

Ctrl-C leaves, and so does the end of the input, once in the room. To meet over
TCP give all of them -network tcp -address HOST:PORT; beyond this machine also
the same HUB_SECRET, 32 bytes or more, in the environment.

It exits with 0 after Ctrl-C and at the end of the input; with 1 when it failed,
could not say all of it, or never found the hub; with 2 on wrong flags.
`

func main() {
	serving := flag.Bool("serve", false, "be the hub, until Ctrl-C (default: take part, by -name)")
	who := flag.String("name", "", "take part under this `name` (default: none; give it, or -serve)")
	room := flag.String("room", "hub", "`name` of the connection, the same for all")
	network := flag.String("network", "", "`network`, unix or tcp, the same for all (default: unix)")
	address := flag.String("address", "", "`path` of the socket, or host:port (default: ROOM.sock in $GIPC_SOCKET_DIR or /tmp, or 127.0.0.1:8100)")
	program.Parse(usage)
	if *serving == (*who != "") || flag.NArg() > 0 {
		program.WrongUse("hub", "give either -serve or -name X")
	}
	var secret []byte
	if s := os.Getenv("HUB_SECRET"); s != "" {
		secret = []byte(s)
	}
	program.Run("hub", func(ctx context.Context) error {
		if *serving {
			return serve(ctx, &gipc.ServerConfig{Name: *room, Network: *network, Address: *address, Secret: secret, MultiClient: true, MaxMsgSize: longest + 1024})
		}
		return take(ctx, *who, &gipc.ClientConfig{Name: *room, Network: *network, Address: *address, Secret: secret})
	})
}

// A hub knows who is in the room.
type hub struct {
	pool  *gipc.ConnectionPool
	mu    sync.Mutex
	names map[*gipc.Server]string
}

// serve passes on what is said until ctx ends.
func serve(ctx context.Context, config *gipc.ServerConfig) error {
	server, err := gipc.StartServer(config)
	if err != nil {
		return err
	}
	defer server.Close()
	fmt.Printf("the room %q is open; Ctrl-C closes it\n", config.Name)
	h := &hub{pool: server.Connections, names: map[*gipc.Server]string{}}
	err = h.pool.Serve(ctx, h.handle)
	if ctx.Err() != nil {
		return server.Close()
	}
	return err
}

// handle runs on a goroutine of its own for each client, one message after the other.
func (h *hub) handle(srv *gipc.Server, message *gipc.Message) {
	h.mu.Lock()
	who, known := h.names[srv]
	h.mu.Unlock()
	switch {
	case message.MsgType == name && !known:
		who = clean(message.Data)
		h.mu.Lock()
		here := slices.Sorted(maps.Values(h.names))
		h.names[srv] = who
		h.mu.Unlock()
		srv.Write(name, fmt.Append(nil, srv.ID())) // if it has left, its Disconnected comes next
		h.tell(srv, "* "+who+" came; here: "+strings.Join(append(here, who), ", "))
	case message.MsgType == line && known:
		h.tell(srv, who+": "+clean(message.Data))
	case message.MsgType == -1 && message.Status != gipc.Connected.String() && known: // Disconnected, or Closed by tell
		h.mu.Lock()
		delete(h.names, srv)
		h.mu.Unlock()
		h.tell(srv, "* "+who+" left")
	}
}

// tell has all show something. It is marked as whose it is: who said it knows.
func (h *hub) tell(from *gipc.Server, text string) {
	fmt.Println(text)
	err := h.pool.Broadcast(context.Background(), line, fmt.Appendf(nil, "%d %s", from.ID(), text))
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range joined.Unwrap() {
			var stuck *gipc.ClientError
			if errors.As(err, &stuck) { // it has not read for a second: it is put out
				fmt.Println("*", err)
				go stuck.Server.Close()
			}
		}
	}
}

// take takes part: what is typed goes to the hub, what comes from it is shown.
func take(ctx context.Context, who string, config *gipc.ClientConfig) error {
	fmt.Printf("* looking for the room %q; Ctrl-C leaves\n", config.Name)
	client, err := gipc.StartClientContext(ctx, config) // waits until the hub is there
	if err != nil {
		return err
	}
	defer client.Close()
	interrupted := ctx
	ctx, leave := context.WithCancelCause(ctx)
	defer leave(nil)

	say := sync.OnceFunc(func() {
		go func() {
			var unsaid error
			in := bufio.NewScanner(os.Stdin)
			in.Buffer(nil, longest)
			for in.Scan() {
				if err := client.Write(line, in.Bytes()); err != nil {
					fmt.Println("* not said, the hub is away:", err)
					unsaid = err
				}
			}
			leave(cmp.Or(in.Err(), unsaid))
		}()
	})
	number := ""
	for {
		message, err := client.ReadContext(ctx)
		switch {
		case ctx.Err() != nil:
			err := client.Close() // returns when the hub has every line
			if cause := context.Cause(ctx); err == nil && interrupted.Err() == nil && cause != context.Canceled {
				err = cause
			}
			return err
		case err != nil:
			return err
		case message.Status == gipc.Connected.String(): // also when it comes back
			client.Write(name, []byte(who)) // if the hub is gone again, Reconnecting comes next
		case message.Status == gipc.ReConnecting.String():
			fmt.Println("* the hub is gone; waiting for it to come back")
		case message.MsgType == name:
			number = string(message.Data)
			fmt.Println("* you are in the room as", who)
			say()
		case message.MsgType == line && number != "":
			if from, text, _ := strings.Cut(string(message.Data), " "); from != number || strings.HasPrefix(text, "* ") {
				fmt.Println(text)
			}
		}
	}
}

// clean is text without what could play tricks on a terminal.
func clean(data []byte) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r >= 0x7f && r < 0xa0 {
			return -1
		}
		return r
	}, string(data))
}
