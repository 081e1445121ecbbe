// Who is measured: a contestant, how it serves and dials, and what each one sends.

package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"time"
)

// A talker is one side of a connection as the measurements need it.
type talker interface {
	send(data []byte) error
	flush() error
	recv() ([]byte, error) // valid until the next one
}

// A contestant is one way to move messages between two processes.
type contestant struct {
	Name     string        // as it is printed
	Kind     string        // a key of kinds
	Sealed   bool          // gipc: encrypted; raw: AES-256-GCM
	Batch    bool          // the client collects: gipc's Queue, raw's bufio.Writer
	Call     bool          // gipc: the client calls, and the server replies
	Reader   string        // how gipc's server reads: ReadInto (the default) or Read, of one client; else a way of the pool
	Clients  int           // connections of one client process; 0 is one
	MaxSize  int           // largest message, where that has to be said; 0 is what is usual there
	BusyPoll time.Duration // gipc's, on both sides
	Place    placement     // of the two processes on the cores
}

// A placement says which core each of the two processes of a contestant is pinned to.
type placement string

const (
	placeFree     placement = ""
	placeApart    placement = "apart"    // each process on a core of its own
	placeTogether placement = "together" // both processes on one core
)

// core returns the index in bench.cores of the core of a server or a client.
func (p placement) core(server bool) (index int, ok bool) {
	if p == placeApart && !server {
		index = 1
	}
	return index, p != placeFree
}

// row returns the name of a row with its placement.
func (p placement) row(name string) string {
	if p == placeFree {
		return name
	}
	return name + ", " + string(p)
}

// with is the same contestant with that many clients.
func (c contestant) with(clients int) contestant {
	c.Clients = clients
	c.Name = fmt.Sprintf("%s, %d clients", c.Name, clients)
	return c
}

// A kind is what contestants are made with.
type kind struct {
	serve func(c contestant, path string, ready func()) error // until the process ends
	dial  func(c contestant, path string) (talker, error)
}

// kinds has every kind there is. The peers, where only one connection is
// measured, serve one.
func kinds() map[string]kind {
	return map[string]kind{
		"gipc":        {serveOurs, dialOurs},
		"raw":         {serveRaw, dialRaw},
		"keys":        {serveKeys, dialKeys},
		"websocket":   {serveWebsocket, dialWebsocket},
		"grpc stream": {serveGRPC, dialGRPCStream},
		"grpc unary":  {serveGRPC, dialGRPCUnary},
		"ttrpc":       {serveTTRPC, dialTTRPC},
		"ttrpc strm":  {serveTTRPC, dialTTRPCStream},
		"net/rpc":     {serveNetRPC, dialNetRPC},
		"zmq4":        {serveZMQ4, dialZMQ4},
		"yamux":       {serveYamux, dialYamux},
		"libzmq":      {serveLibzmq, dialLibzmq},
	}
}

// The contestants that more than one table has.
var (
	raw            = contestant{Name: "raw", Kind: "raw"}
	rawSealed      = contestant{Name: "raw sealed", Kind: "raw", Sealed: true}
	rawBatch       = contestant{Name: "raw batch", Kind: "raw", Batch: true}
	rawBatchSealed = contestant{Name: "raw batch sealed", Kind: "raw", Batch: true, Sealed: true}
	encrypted      = contestant{Name: "gipc encrypted", Kind: "gipc", Sealed: true}
	plain          = contestant{Name: "gipc plain", Kind: "gipc"}
	queueEncrypted = contestant{Name: "gipc encrypted, Queue", Kind: "gipc", Sealed: true, Batch: true}
	queuePlain     = contestant{Name: "gipc plain, Queue", Kind: "gipc", Batch: true}
	callEncrypted  = contestant{Name: "gipc encrypted, Call", Kind: "gipc", Sealed: true, Call: true}
	callPlain      = contestant{Name: "gipc plain, Call", Kind: "gipc", Call: true}
)

// callers answer each message; streamers take many in a row; procedures have any
// number of calls open over one connection.
var (
	callers = []contestant{
		{Name: "websocket", Kind: "websocket"},
		{Name: "yamux", Kind: "yamux"},
		{Name: "libzmq", Kind: "libzmq"},
		{Name: "ttrpc", Kind: "ttrpc"},
		{Name: "net/rpc", Kind: "net/rpc"},
		{Name: "gRPC stream", Kind: "grpc stream"},
		{Name: "gRPC unary", Kind: "grpc unary"},
		{Name: "zmq4 (Go)", Kind: "zmq4"},
	}
	streamers = []contestant{
		{Name: "websocket", Kind: "websocket"},
		{Name: "yamux", Kind: "yamux"},
		{Name: "libzmq", Kind: "libzmq"},
		{Name: "ttrpc stream", Kind: "ttrpc strm"},
		{Name: "gRPC stream", Kind: "grpc stream"},
		{Name: "zmq4 (Go)", Kind: "zmq4"},
	}
	procedures = []contestant{
		{Name: "ttrpc", Kind: "ttrpc"},
		{Name: "net/rpc", Kind: "net/rpc"},
		{Name: "gRPC unary", Kind: "grpc unary"},
	}
)

// A message begins with its number, a flag and its writer; so the receiver can
// count it, see that none is missing or twice, and know whether to send it back.
// A message of one byte asks for the counts.
const (
	minSize  = 10
	flagAt   = 8
	writerAt = 9
	flagEcho = 1
)

var askCount = []byte{0}

func stamp(data []byte, number uint64, echo bool, writer int) {
	binary.BigEndian.PutUint64(data, number)
	data[flagAt], data[writerAt] = 0, byte(writer)
	if echo {
		data[flagAt] = flagEcho
	}
}

// A receiver counts what a connection brings.
type receiver struct {
	messages, bytes, bad uint64   // since the last question
	next                 []uint64 // of each writer; grown when needed, since idle connections are weighed
	report               [24]byte
}

// take counts a message and returns what to answer: nil is nothing.
func (r *receiver) take(data []byte) []byte {
	if len(data) == len(askCount) {
		binary.BigEndian.PutUint64(r.report[:], r.messages)
		binary.BigEndian.PutUint64(r.report[8:], r.bytes)
		binary.BigEndian.PutUint64(r.report[16:], r.bad)
		r.messages, r.bytes, r.bad = 0, 0, 0
		return r.report[:]
	}
	r.messages++
	r.bytes += uint64(len(data))
	if len(data) < minSize {
		r.bad++
		return nil
	}
	writer := int(data[writerAt])
	for len(r.next) <= writer {
		r.next = append(r.next, 0)
	}
	next := &r.next[writer]
	if number := binary.BigEndian.Uint64(data); number != *next {
		r.bad++
		*next = number
	}
	*next++
	if data[flagAt] == flagEcho {
		return data
	}
	return nil
}

// lockedReceiver is a receiver that several goroutines use.
type lockedReceiver struct {
	receiver
	mu sync.Mutex
}

func (r *lockedReceiver) take(data []byte) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.receiver.take(data)
}

// converse serves one connection to its end.
func converse(t talker) {
	var r receiver
	for {
		data, err := t.recv()
		if err != nil {
			return
		}
		if answer := r.take(data); answer != nil {
			if t.send(answer) != nil || t.flush() != nil {
				return
			}
		}
	}
}

// A caller is a client of one connection.
type caller struct {
	talker
	next     [256]uint64 // number of each writer's next message
	received receiver    // of broadcasts
}

// roundTrip sends a message of writer 0 and awaits it back.
func (c *caller) roundTrip(data []byte) error {
	number := c.next[0]
	c.next[0]++
	stamp(data, number, true, 0)
	if err := c.send(data); err != nil {
		return err
	}
	if err := c.flush(); err != nil {
		return err
	}
	answer, err := c.recv()
	if err != nil {
		return err
	}
	return same(answer, data, number)
}

// callTrip calls with a message of that writer. Writers may call at once.
func (c *caller) callTrip(t *callTalker, writer int, data []byte) error {
	number := c.next[writer]
	c.next[writer]++
	stamp(data, number, true, writer)
	answer, err := t.call(data)
	if err != nil {
		return err
	}
	return same(answer, data, number)
}

// same returns an error unless an answer is the message of that number.
func same(answer, data []byte, number uint64) error {
	if len(answer) != len(data) || binary.BigEndian.Uint64(answer) != number {
		return fmt.Errorf("message %d of %d bytes came back as %d bytes, %x", number, len(data), len(answer), answer[:min(len(answer), minSize)])
	}
	return nil
}

// counted asks the receiver for its counts and compares them.
func (c *caller) counted(messages, size int) error {
	if err := c.send(askCount); err != nil {
		return err
	}
	if err := c.flush(); err != nil {
		return err
	}
	report, err := c.recv()
	if err != nil {
		return err
	}
	if len(report) != 24 {
		return fmt.Errorf("the receiver's counts have %d bytes", len(report))
	}
	got, bytes, bad := binary.BigEndian.Uint64(report), binary.BigEndian.Uint64(report[8:]), binary.BigEndian.Uint64(report[16:])
	if got != uint64(messages) || bytes != uint64(messages)*uint64(size) || bad != 0 {
		return fmt.Errorf("LOSS: %d messages of %d bytes were sent; the receiver has %d messages, %d bytes, %d out of order", messages, size, got, bytes, bad)
	}
	return nil
}

var background = context.Background()
