// gipc listen: a server that prints what arrives and answers requests.

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"example.com/gipc"
)

const listenHelp = `
Listen starts a server for any number of clients, and prints each message that
arrives on a line of its own. Clients that come and go are reported on standard
error. It ends with Ctrl-C, or after -n messages.

A request is printed like a message, and answered with the text of -reply, or by
a command after --. The command gets the data of the request as its standard
input, and GIPC_TYPE and GIPC_CLIENT, the numbers of the type and of the client,
in its environment. What it prints is the reply. If it fails, takes longer than
-timeout, or if there is neither -reply nor a command, the reply has the type
1734963298 and the reason as text: gipc call then ends with 1.

Traffic of gipc bench, which has the types 1734963296 and 1734963297, is answered
or counted, and not printed. With -no-bench it is treated like any other.

Examples:

  gipc listen weather
  gipc listen weather -reply "light rain"
  gipc listen upper -- tr a-z A-Z
  gipc listen weather -network tcp -address 127.0.0.1:8100 -secret-file weather.secret`

// listenOptions are the flags of gipc listen.
type listenOptions struct {
	server    serverFlags
	output    outputFlag
	reply     string
	replyType int
	hasReply  bool
	timeout   time.Duration
	jobs      int
	count     uint64
	noBench   bool
	quiet     bool
}

func listenCommand() command {
	o := &listenOptions{}
	return command{
		name: "listen", args: "NAME [-- COMMAND...]", summary: "start a server, and print what arrives",
		help: listenHelp, flags: func(env *environment) { o.define(env.flags) }, run: o.run,
	}
}

func (o *listenOptions) define(fs *flag.FlagSet) {
	o.server.define(fs)
	o.output.define(fs, formatText, formatHex, formatJSON)
	fs.Func("reply", "the `text` that answers each request", func(s string) error { o.reply, o.hasReply = s, true; return nil })
	fs.IntVar(&o.replyType, "reply-type", 0, "message `type` of replies (default that of the request)")
	fs.DurationVar(&o.timeout, "timeout", 10*time.Second, "how long the command may run for one request, a `time`")
	fs.IntVar(&o.jobs, "jobs", 4, "how many `commands` run at once")
	fs.Uint64Var(&o.count, "n", 0, "end after this `number` of messages and requests (default: on Ctrl-C)")
	fs.BoolVar(&o.noBench, "no-bench", false, "treat traffic of gipc bench like any other")
	fs.BoolVar(&o.quiet, "q", false, "do not report on standard error that clients come and go")
}

func (o *listenOptions) check(env *environment) error {
	switch {
	case env.hasRest && len(env.rest) == 0:
		return usagef("the command after -- is missing")
	case env.hasRest && o.hasReply:
		return usagef("-reply and a command cannot both answer: give one of them")
	case o.jobs < 1:
		return usagef("-jobs %d is too low: give 1 or more", o.jobs)
	case o.timeout <= 0:
		return usagef("-timeout %v is too low: give a time above 0", o.timeout)
	case o.replyType != 0:
		return checkType("-reply-type", o.replyType)
	}
	return nil
}

func (o *listenOptions) run(env *environment) error {
	name, err := env.name()
	if err != nil {
		return err
	}
	if err := o.check(env); err != nil {
		return err
	}
	config, err := o.server.config(env, name)
	if err != nil {
		return err
	}
	server, err := gipc.StartServer(config)
	if err != nil {
		return failure(fmt.Sprintf("listening as %q", name), configError(err), "")
	}
	env.notef("listening as %q on %v", name, server.Addr())
	return o.newListener(env, server).serve()
}

// A listener serves the clients of one server.
type listener struct {
	options *listenOptions
	env     *environment
	server  *gipc.Server
	printer *printer
	answer  answerer
	numbers clientNumbers
	seen    atomic.Uint64 // messages and requests that were printed
	bench   benchCounter

	ctx    context.Context // done when the listener ends
	cancel context.CancelCauseFunc
}

func (o *listenOptions) newListener(env *environment, server *gipc.Server) *listener {
	l := &listener{options: o, env: env, server: server, printer: newPrinter(env.stdout, o.output.value)}
	l.ctx, l.cancel = context.WithCancelCause(env.ctx)
	l.answer = o.answerer(env)
	return l
}

// errEnough ends a listener after the messages of -n.
var errEnough = errors.New("enough messages")

// serve runs until the context is done, or until -n messages have come. Then it
// closes the server, and prints the messages that had arrived.
func (l *listener) serve() error {
	closed := make(chan error, 1)
	context.AfterFunc(l.ctx, func() {
		l.answer.wait()
		closed <- l.server.Close()
	})
	serveErr := l.server.Connections.Serve(context.Background(), l.handle) // it ends after Close
	if l.ctx.Err() == nil {
		l.cancel(failure("serving", serveErr, ""))
	}
	err := <-closed
	if cause := context.Cause(l.ctx); cause != nil && !errors.Is(cause, errEnough) && l.env.ctx.Err() == nil {
		return cause
	}
	if err != nil {
		return failure("closing", err, "")
	}
	return nil
}

// handle handles a message of a client. It runs concurrently for different
// clients, and in order for one.
func (l *listener) handle(client *gipc.Server, m *gipc.Message) {
	if m.MsgType == -1 {
		l.status(client, m)
		return
	}
	if !l.options.noBench && l.bench.handle(m) {
		return
	}
	number := l.next()
	if number == 0 {
		return
	}
	r := newRecord(m)
	r.Client, r.Identity = l.numbers.of(client), client.Peer().Identity
	if err := l.printer.print(r, m.Data); err != nil {
		l.cancel(err)
		return
	}
	if m.IsRequest() {
		l.answer.start(m, r.Client)
	}
	if number == l.options.count {
		l.cancel(errEnough)
	}
}

// next counts a message, and returns 0 if there were enough before it.
func (l *listener) next() uint64 {
	number := l.seen.Add(1)
	if l.options.count != 0 && number > l.options.count {
		return 0
	}
	return number
}

// status reports a change of the status of a client.
func (l *listener) status(client *gipc.Server, m *gipc.Message) {
	number := l.numbers.of(client)
	if l.options.output.value == formatJSON {
		r := newRecord(m)
		r.Client, r.Identity = number, client.Peer().Identity
		if err := l.printer.print(r, nil); err != nil {
			l.cancel(err)
		}
	}
	if !l.options.quiet {
		switch {
		case m.Is(gipc.Connected):
			l.env.notef("client %d connected%s", number, describePeer(client.Peer()))
		case m.Err != nil:
			l.env.notef("client %d disconnected: %s", number, describe(m.Err))
		default:
			l.env.notef("client %d disconnected", number)
		}
	}
	if !m.Is(gipc.Connected) {
		l.numbers.forget(client)
	}
}

func describePeer(p gipc.Peer) string {
	s := ""
	if p.Known {
		s = fmt.Sprintf(", user %d, process %d", p.UID, p.PID)
	}
	if p.Identity != "" {
		s += fmt.Sprintf(", as %q", p.Identity)
	}
	return s
}

// clientNumbers numbers the clients from 1, in the order in which they are seen.
type clientNumbers struct {
	mu      sync.Mutex
	last    int
	numbers map[*gipc.Server]int
}

func (c *clientNumbers) of(client *gipc.Server) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.numbers == nil {
		c.numbers = map[*gipc.Server]int{}
	}
	number := c.numbers[client]
	if number == 0 {
		c.last++
		number = c.last
		c.numbers[client] = number
	}
	return number
}

func (c *clientNumbers) forget(client *gipc.Server) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.numbers, client)
}

// benchCounter answers and counts the traffic of gipc bench.
type benchCounter struct{ messages, bytes atomic.Uint64 }

// handle reports whether m was traffic of gipc bench.
func (b *benchCounter) handle(m *gipc.Message) bool {
	switch {
	case m.MsgType == benchData && !m.IsRequest():
		b.messages.Add(1)
		b.bytes.Add(uint64(len(m.Data)))
	case m.MsgType == benchEcho && m.IsRequest():
		_ = m.Reply(benchEcho, m.Data) // the client may have left
	default:
		return false
	}
	return true
}
