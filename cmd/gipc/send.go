// gipc send: messages from standard input or from a file.

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"example.com/gipc"
)

const sendHelp = `
Send sends each line of standard input as one message, without its line end. An
empty line is an empty message. With -file it sends the file as one message. It
then closes, and ends with 0 if the server has received everything, otherwise
with 1.

Messages that the server sends are discarded. If the connection is lost, send
ends with 1 and does not reconnect: some lines may not have arrived.

Examples:

  echo hello | gipc send weather
  tail -f app.log | gipc send logs
  gipc send weather -type 7 -file map.png
  tar c src | gipc send backup -file -`

// sendOptions are the flags of gipc send.
type sendOptions struct {
	client  clientFlags
	msgType int
	file    string
}

func sendCommand() command {
	o := &sendOptions{}
	return command{
		name: "send", args: "NAME", summary: "send each line of standard input as a message",
		help: sendHelp, flags: func(env *environment) { o.define(env.flags) }, run: o.run,
	}
}

func (o *sendOptions) define(fs *flag.FlagSet) {
	o.client.define(fs)
	fs.IntVar(&o.msgType, "type", defaultType, "`type` of the messages")
	fs.StringVar(&o.file, "file", "", "`file` to send as one message; - is all of standard input")
}

func (o *sendOptions) run(env *environment) error {
	name, err := env.name()
	if err == nil {
		err = env.noRest()
	}
	if err == nil {
		err = checkType("-type", o.msgType)
	}
	if err != nil {
		return err
	}
	var data []byte
	if o.file == "" || o.file == "-" {
		env.noteTerminal("messages")
	}
	if o.file != "" {
		if data, err = readWhole(env, o.file); err != nil {
			return err
		}
	}
	client, err := o.client.connect(env, name)
	if err != nil {
		return err
	}
	s := newSender(env, client, o.msgType)
	if o.file != "" {
		err = s.file(data, o.file)
	} else {
		err = s.lines(env.stdin)
	}
	return s.close(err)
}

// readWhole returns the content of a file, or of standard input for "-".
func readWhole(env *environment, path string) ([]byte, error) {
	what, r := "standard input", env.stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, failure("reading the file", err, "")
		}
		defer f.Close()
		what, r = path, f
	}
	data, err := io.ReadAll(io.LimitReader(r, maxMessage+1))
	if err != nil {
		return nil, failure("reading "+what, err, "")
	}
	if len(data) > maxMessage {
		return nil, fmt.Errorf("%s: it has more than %d bytes, the largest message of any server: send it in parts", what, maxMessage)
	}
	return data, nil
}

// A sender sends messages on one connection.
type sender struct {
	env     *environment
	client  *gipc.Client
	msgType int
	conn    uint64 // ID of the connection
	sent    int    // messages that were accepted

	ctx    context.Context // done when the connection is lost or the command is interrupted
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when no other line is needed
	reader sync.WaitGroup

	closeClient func() error // returns the same error each time
}

func newSender(env *environment, client *gipc.Client, msgType int) *sender {
	s := &sender{env: env, client: client, msgType: msgType, conn: client.ID(), done: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancelCause(env.ctx)
	s.closeClient = sync.OnceValue(client.Close)
	context.AfterFunc(env.ctx, func() { s.closeClient() }) // a server that does not read blocks Queue
	s.reader.Go(s.discard)
	return s
}

// errPeerClosed is the loss of a connection that the server has closed.
var errPeerClosed = errors.New("the server has closed the connection")

// discard reads what the server sends until the connection is over. A loss
// cancels the context of the sender.
func (s *sender) discard() {
	for {
		m, err := s.client.Read()
		switch {
		case err != nil:
			s.cancel(err)
			return
		case m.Is(gipc.ReConnecting) && m.Err != nil:
			s.cancel(m.Err)
		case m.Is(gipc.ReConnecting):
			s.cancel(errPeerClosed)
		}
	}
}

// file sends data as one message.
func (s *sender) file(data []byte, path string) error {
	if err := s.client.WriteContext(s.ctx, s.msgType, data); err != nil {
		return s.explain(path, err)
	}
	s.sent++
	return nil
}

// lines sends each line of r.
func (s *sender) lines(r io.Reader) error {
	in := s.startLines(r)
	defer close(s.done)
	for {
		select {
		case line, ok := <-in.lines:
			if !ok {
				return in.err
			}
			err := s.line(line)
			in.next <- struct{}{}
			if err != nil {
				return err
			}
		case <-s.ctx.Done():
			if s.atEnd(in) {
				return in.err
			}
			return s.explain(fmt.Sprintf("after line %d", s.sent), context.Cause(s.ctx))
		}
	}
}

// atEnd reports whether there is no other line. If the server has closed, it
// waits a moment for the end of the input: the server may have received enough.
func (s *sender) atEnd(in *lineSource) bool {
	if !errors.Is(context.Cause(s.ctx), errPeerClosed) {
		return false
	}
	select {
	case _, ok := <-in.lines:
		return !ok
	case <-time.After(100 * time.Millisecond):
		return false
	}
}

// line queues a line, and flushes if the next line is not there yet.
func (s *sender) line(line inputLine) error {
	err := s.client.Queue(s.msgType, line.data)
	if err == nil && !line.more {
		err = s.client.Flush()
	}
	if err != nil {
		return s.explain(fmt.Sprintf("line %d", line.number), err)
	}
	s.sent++
	return nil
}

// An inputLine is a line, which is valid until the next one is requested.
type inputLine struct {
	data   []byte
	number int
	more   bool // another line has been read already
}

// lineSource are lines that another goroutine reads, because reading cannot be
// interrupted.
type lineSource struct {
	lines chan inputLine
	next  chan struct{} // requests the next line
	err   error         // set before lines is closed
}

func (s *sender) startLines(r io.Reader) *lineSource {
	in := &lineSource{lines: make(chan inputLine), next: make(chan struct{}, 1)}
	go func() {
		defer close(in.lines)
		reader := newLineReader(r)
		for {
			line, err := reader.next()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				in.err = failure("reading standard input", err, "")
				return
			}
			select {
			case in.lines <- inputLine{line, reader.number, reader.hasLine()}:
			case <-s.done:
				return
			}
			select {
			case <-in.next:
			case <-s.done:
				return
			}
		}
	}()
	return in
}

// explain returns an error that says what could not be sent and why.
func (s *sender) explain(what string, err error) error {
	if size := (*gipc.SizeError)(nil); errors.As(err, &size) {
		return fmt.Errorf("%s: it has %d bytes, and the server accepts %d: raise the server's -max-size, or send it in parts", what, size.Size, size.Limit)
	}
	if s.env.ctx.Err() != nil {
		return fmt.Errorf("interrupted: messages sent before: %d", s.sent)
	}
	if cause := context.Cause(s.ctx); cause != nil {
		err = cause
	}
	return failure(what, err, "the connection is over: messages may not have arrived")
}

// close closes the client. It returns err, or why not everything was confirmed.
func (s *sender) close(err error) error {
	closed := s.closeClient()
	s.reader.Wait()
	lost := context.Cause(s.ctx)
	s.cancel(nil)
	switch {
	case err != nil && closed != nil && s.sent > 0:
		return fmt.Errorf("%w; closing: %w", err, closed)
	case err != nil:
		return err
	case closed != nil:
		return failure(fmt.Sprintf("closing after %d messages", s.sent), closed, "send again what has to arrive")
	case s.client.ID() != s.conn:
		return failure(fmt.Sprintf("after %d messages", s.sent), lost, "the connection was lost, and messages may not have arrived: send again what has to arrive")
	}
	return nil
}
