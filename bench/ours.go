// This library as a contestant.

package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"example.com/gipc"
)

// ourTalker is either end: *gipc.Server or *gipc.Client.
type ourTalker struct {
	end interface {
		Write(int, []byte) error
		Queue(int, []byte) error
		Flush() error
		Read() (*gipc.Message, error)
		ReadInto(context.Context, *gipc.Message) error
		Close() error
	}
	queue, read bool // Queue instead of Write, Read instead of ReadInto
	reply       bool // answers what ReadInto has read by Reply instead of Write
	m           gipc.Message
}

func (t *ourTalker) send(data []byte) error {
	switch {
	case t.queue:
		return t.end.Queue(1, data)
	case t.reply:
		return t.m.Reply(1, data)
	}
	return t.end.Write(1, data)
}

func (t *ourTalker) flush() error {
	if t.queue {
		return t.end.Flush()
	}
	return nil
}

func (t *ourTalker) recv() ([]byte, error) {
	for {
		m := &t.m
		var err error
		if t.read {
			m, err = t.end.Read()
		} else {
			err = t.end.ReadInto(background, m)
		}
		switch {
		case err != nil:
			return nil, err
		case m.MsgType > 0:
			return m.Data, nil
		case m.Status == gipc.Disconnected.String() || m.Status == gipc.ReConnecting.String():
			if m.Err != nil {
				return nil, m.Err
			}
			return nil, io.EOF
		}
	}
}

func (t *ourTalker) close() { t.end.Close() }

// connected waits for the next message that says so.
func (t *ourTalker) connected() error {
	for {
		err := t.end.ReadInto(background, &t.m)
		if err != nil || t.m.Status == gipc.Connected.String() {
			return err
		}
	}
}

func encryption(c contestant) gipc.Encryption {
	if c.Sealed {
		return gipc.EncryptionOn
	}
	return gipc.EncryptionOff
}

func serveOurs(c contestant, path string, ready func()) error {
	many := c.Reader != "" && c.Reader != "Read"
	s, err := gipc.StartServer(&gipc.ServerConfig{Name: "bench", Network: "unix", Address: path, Encryption: encryption(c),
		MaxMsgSize: c.MaxSize, BusyPoll: c.BusyPoll, MultiClient: many, Authorize: countGreeted})
	if err != nil {
		return err
	}
	served.ours = s
	ready()
	// The pool's readers send back what they get: the client compares it. A
	// failed Write shows at the client, too.
	echo := func(srv *gipc.Server, m *gipc.Message, _ error) {
		if m != nil && m.MsgType > 0 {
			srv.Write(m.MsgType, m.Data)
		}
	}
	pool := s.Connections
	switch c.Reader {
	case "", "Read":
		for { // a client after the other
			converse(&ourTalker{end: s, read: c.Reader == "Read", reply: c.Call})
			if err := s.Err(); err != nil {
				return err
			}
		}
	case "Serve":
		return pool.Serve(background, func(srv *gipc.Server, m *gipc.Message) { echo(srv, m, nil) })
	case "Messages":
		for srv, m := range pool.Messages(background) {
			echo(srv, m, nil)
		}
	case "nobody":
		<-s.Done()
	case "ReadTimedFastest":
		for s.Err() == nil {
			pool.ReadTimedFastest(time.Second, echo)
		}
	default:
		return fmt.Errorf("no reader %q", c.Reader)
	}
	return s.Err()
}

func dialOurs(c contestant, path string) (talker, error) {
	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "bench", Network: "unix", Address: path, Encryption: encryption(c),
		MaxMsgSize: c.MaxSize, BusyPoll: c.BusyPoll, Timeout: time.Minute})
	if err != nil {
		return nil, err
	}
	if c.Call {
		return &callTalker{call: func(data []byte) ([]byte, error) {
			reply, err := client.Call(background, 1, data)
			if err != nil {
				return nil, err
			}
			return reply.Data, nil
		}}, nil
	}
	return &ourTalker{end: client, queue: c.Batch}, nil
}
