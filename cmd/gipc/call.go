// gipc call: one request and its reply.

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"
	"time"

	"example.com/gipc"
)

const callHelp = `
Call sends one request and prints the reply. The data of the request is TEXT, or
standard input if there is none. TEXT that begins with - follows --. It ends with
1 if there is no reply within -timeout, or if the reply reports that the
request failed: gipc listen sends such replies, with the type 1734963298.

Examples:

  gipc call weather "how is it in Rome?"
  gipc call upper < letter.txt
  gipc call calculator -o json -- -1+2`

// callOptions are the flags of gipc call.
type callOptions struct {
	client  clientFlags
	output  outputFlag
	msgType int
	timeout time.Duration
}

func callCommand() command {
	o := &callOptions{}
	return command{
		name: "call", args: "NAME [TEXT]", summary: "send a request, and print the reply",
		help: callHelp, flags: func(env *environment) { o.define(env.flags) }, run: o.run,
	}
}

func (o *callOptions) define(fs *flag.FlagSet) {
	o.client.define(fs)
	o.output.define(fs, formatText, formatHex, formatJSON)
	fs.IntVar(&o.msgType, "type", defaultType, "`type` of the request")
	fs.DurationVar(&o.timeout, "timeout", 30*time.Second, "how long to wait for the reply, a `time`; 0 waits forever")
}

func (o *callOptions) run(env *environment) error {
	name, data, err := o.arguments(env)
	if err != nil {
		return err
	}
	client, err := o.client.connect(env, name)
	if err != nil {
		return err
	}
	reply, err := o.call(env, client, data)
	closed := client.Close()
	switch {
	case err != nil:
		return err
	case closed != nil && env.ctx.Err() == nil:
		env.notef("warning: closing: %s", describe(closed)) // the reply is here
	}
	return o.print(env, reply)
}

// arguments returns the name of the connection and the data of the request.
func (o *callOptions) arguments(env *environment) (string, []byte, error) {
	args := append(env.args, env.rest...)
	if err := checkType("-type", o.msgType); err != nil {
		return "", nil, err
	}
	switch len(args) {
	case 0:
		return "", nil, usageError{"the NAME of the connection is missing: give the one that the other side has"}
	case 1:
		env.noteTerminal("the request")
		data, err := readWhole(env, "-")
		return args[0], data, err
	case 2:
		return args[0], []byte(args[1]), nil
	}
	return "", nil, usagef("too many arguments: quote the TEXT, as in \"%s\"", strings.Join(args[1:], " "))
}

// call sends the request and returns the reply.
func (o *callOptions) call(env *environment, client *gipc.Client, data []byte) (*gipc.Message, error) {
	ctx := env.ctx
	if o.timeout != 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.timeout)
		defer cancel()
	}
	go func() { // messages before the reply are not of interest
		for range client.Messages(ctx) {
		}
	}()
	reply, err := client.Call(ctx, o.msgType, data)
	size := (*gipc.SizeError)(nil)
	switch {
	case err == nil:
		return reply, nil
	case env.ctx.Err() != nil:
		return nil, errors.New("interrupted: the request may have been handled")
	case errors.As(err, &size):
		return nil, fmt.Errorf("the request has %d bytes, and the server accepts %d: raise the server's -max-size", size.Size, size.Limit)
	case errors.Is(err, context.DeadlineExceeded):
		return nil, fmt.Errorf("no reply within %v: the server may have handled the request: wait longer with -timeout", o.timeout)
	}
	return nil, failure("waiting for the reply", err, "")
}

func (o *callOptions) print(env *environment, reply *gipc.Message) error {
	if reply.MsgType == errorReply && o.output.value != formatJSON {
		return fmt.Errorf("the request failed at the server: %s", appendVisible(nil, reply.Data))
	}
	err := newPrinter(env.stdout, o.output.value).print(newRecord(reply), reply.Data)
	if err == nil && reply.MsgType == errorReply {
		return errQuiet
	}
	return err
}
