package integration_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/gipc"
	. "example.com/gipc/internal/testutil"
)

// A requester is an endpoint that calls.
type requester interface {
	endpoint
	Call(context.Context, int, []byte) (*gipc.Message, error)
}

// A callResult is what a Call returned.
type callResult struct {
	reply *gipc.Message
	err   error
}

// goCall calls in a goroutine of its own.
func goCall(e requester, ctx context.Context, msgType int, data []byte) <-chan callResult {
	return Go(func() callResult {
		reply, err := e.Call(ctx, msgType, data)
		return callResult{reply, err}
	})
}

// wantReply fails the test unless the call has this reply.
func wantReply(t testing.TB, what string, call <-chan callResult, msgType int, data []byte) {
	t.Helper()
	r := Await(t, what, call)
	if r.err != nil || r.reply == nil {
		t.Fatalf("%s: %v, %v, want a reply", what, r.reply, r.err)
	}
	if r.reply.MsgType != msgType || !bytes.Equal(r.reply.Data, data) {
		t.Fatalf("%s: a reply of type %d and %d bytes, want type %d and %d bytes", what, r.reply.MsgType, len(r.reply.Data), msgType, len(data))
	}
}

// wantNoReply fails the test unless the call has ended with an error that matches all of is.
func wantNoReply(t testing.TB, what string, call <-chan callResult, is ...error) error {
	t.Helper()
	r := Await(t, what, call)
	if r.reply != nil || r.err == nil {
		t.Fatalf("%s: %v, %v, want an error", what, r.reply, r.err)
	}
	WantErr(t, what, r.err, is...)
	return r.err
}

// stillOpen fails the test if a call has ended. All other goroutines of the bubble are blocked.
func stillOpen(t testing.TB, what string, call <-chan callResult) {
	t.Helper()
	synctest.Wait()
	select {
	case r := <-call:
		t.Fatalf("%s has ended: %v, %v", what, r.reply, r.err)
	default:
	}
}

// requestFrame and replyFrame are what raw peers send.
func requestFrame(number uint64, msgType int, data []byte) []byte {
	return request(number, msgType, data).Bytes()
}

func replyFrame(number uint64, msgType int, data []byte) []byte {
	return reply(number, msgType, data).Bytes()
}

func request(number uint64, msgType int, data []byte) Frame {
	return Frame{Type: 1<<31 | uint32(msgType), ID: number, Data: data}
}

func reply(number uint64, msgType int, data []byte) Frame {
	return Frame{Type: 1<<31 | uint32(msgType), ID: 1<<63 | number, Data: data}
}

// wantRequest has a raw peer read the request of that number, and returns it.
func wantRequest(t testing.TB, p *RawPeer, number uint64) Frame {
	t.Helper()
	for {
		f, err := p.ReadFrame()
		Must(t, err)
		if f.Kind() == KindPing {
			continue
		}
		if f.Type>>31 != 1 || f.ID != number {
			t.Fatalf("a frame of type %#x and id %#x, want request %d", f.Type, f.ID, number)
		}
		return f
	}
}

// nextRequest reads until a request.
func nextRequest(t testing.TB, e endpoint) *gipc.Message {
	t.Helper()
	var m *gipc.Message
	Must(t, Do(t, "a request", func() (err error) {
		for m, err = e.Read(); err == nil && !m.IsRequest(); m, err = e.Read() {
			if m.Err != nil {
				return fmt.Errorf("status %s: %w", m.Status, m.Err)
			}
		}
		return err
	}))
	return m
}

// echo answers all requests with type+1 and their data, until e is closed.
func echo(t testing.TB, e endpoint) {
	done := Go(func() error {
		for m, err := range e.Messages(context.Background()) {
			if err != nil {
				return err
			}
			answerEcho(t, m)
		}
		return nil
	})
	t.Cleanup(func() {
		e.Shutdown(ended())
		<-done
	})
}

// answerEcho answers m, if it is a request.
func answerEcho(t testing.TB, m *gipc.Message) {
	if !m.IsRequest() {
		return
	}
	if err := m.Reply(m.MsgType+1, m.Data); err != nil && !errors.Is(err, gipc.ErrClosed) && !errors.Is(err, gipc.ErrNotConnected) && !errors.Is(err, gipc.ErrUnconfirmed) {
		t.Errorf("Reply: %v", err)
	}
}

func transportNamed(name string) transport {
	for _, tr := range transports {
		if tr.name == name {
			return tr
		}
	}
	panic(name)
}

// whileMoving runs fs at the same time, for as long as one of them gets on: many
// transports under the race detector take their time.
func whileMoving(t testing.TB, ends []requester, fs ...func(move func()) error) {
	t.Helper()
	progress := WatchProgress(t, "calls and messages", func() { // a hang ends here
		for _, e := range ends {
			e.Shutdown(ended())
		}
	})
	errs := make(chan error, len(fs))
	for i, f := range fs {
		go func() {
			err := f(progress.Move)
			if err != nil {
				err = fmt.Errorf("function %d of %d: %w", i+1, len(fs), err)
			}
			errs <- err
		}()
	}
	for range fs {
		WantErr(t, "together", <-errs) // the watchdog ends it
	}
}

// raceOn reports whether the race detector is on.
func raceOn() bool {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return false
	}
	for _, s := range info.Settings {
		if s.Key == "-race" {
			return s.Value == "true"
		}
	}
	return false
}

// startPool starts a multi-client server on a pipe network, with n clients.
func startPool(t testing.TB, n int) (*gipc.Server, []*gipc.Client) {
	t.Helper()
	sc, cc := transportNamed("pipe").settings(t, false)
	sc.MultiClient = true
	s := startServer(t, sc)
	var clients []*gipc.Client
	for range n {
		clients = append(clients, startClient(t, cc))
		waitConnected(t, clients[len(clients)-1])
	}
	Eventually(t, "all clients are there", func() bool { return s.Connections.Len() == n })
	return s, clients
}

// Every way to read: each calls handle for every message until e, or the pool, is closed.
var endpointReaders = map[string]func(e endpoint, handle func(*gipc.Message)){
	"Read": func(e endpoint, handle func(*gipc.Message)) {
		for m, err := e.Read(); err == nil; m, err = e.Read() {
			handle(m)
		}
	},
	"ReadTimed": func(e endpoint, handle func(*gipc.Message)) {
		for m, err := e.ReadTimed(50 * time.Millisecond); err == nil; m, err = e.ReadTimed(50 * time.Millisecond) {
			if m != gipc.TimeoutMessage {
				handle(m)
			}
		}
	},
	"ReadContext": func(e endpoint, handle func(*gipc.Message)) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		for m, err := e.ReadContext(ctx); err == nil; m, err = e.ReadContext(ctx) {
			handle(m)
		}
	},
	"ReadInto": func(e endpoint, handle func(*gipc.Message)) {
		m := new(gipc.Message)
		for e.ReadInto(context.Background(), m) == nil {
			handle(m)
		}
	},
	"Messages": func(e endpoint, handle func(*gipc.Message)) {
		for m, err := range e.Messages(context.Background()) {
			if err == nil {
				handle(m)
			}
		}
	},
}

var poolReaders = map[string]func(p *gipc.ConnectionPool, handle func(*gipc.Server, *gipc.Message)){
	"Serve": func(p *gipc.ConnectionPool, handle func(*gipc.Server, *gipc.Message)) {
		p.Serve(context.Background(), handle)
	},
	"pool's Messages": func(p *gipc.ConnectionPool, handle func(*gipc.Server, *gipc.Message)) {
		for s, m := range p.Messages(context.Background()) {
			handle(s, m)
		}
	},
	"pool's ReadTimed": func(p *gipc.ConnectionPool, handle func(*gipc.Server, *gipc.Message)) {
		pollPool(p.ReadTimed, handle)
	},
	"ReadTimedFastest": func(p *gipc.ConnectionPool, handle func(*gipc.Server, *gipc.Message)) {
		pollPool(p.ReadTimedFastest, handle)
	},
}

func pollPool(read func(time.Duration, func(*gipc.Server, *gipc.Message, error)), handle func(*gipc.Server, *gipc.Message)) {
	var over sync.Once
	end := make(chan struct{})
	for {
		select {
		case <-end:
			return
		default:
		}
		read(20*time.Millisecond, func(s *gipc.Server, m *gipc.Message, err error) {
			switch {
			case err != nil:
				over.Do(func() { close(end) })
			case m != gipc.TimeoutMessage:
				handle(s, m)
			}
		})
	}
}

// A side is an endpoint that reads in one way, and the peer that calls it.
type side struct {
	name string
	make func(t *testing.T) (reader, caller requester, read func(handle func(requester, *gipc.Message)))
}

func sides() []side {
	var all []side
	for name, read := range endpointReaders {
		reading := func(e requester) func(func(requester, *gipc.Message)) {
			return func(handle func(requester, *gipc.Message)) {
				read(e, func(m *gipc.Message) { handle(e, m) })
			}
		}
		all = append(all,
			side{name + " of a server", func(t *testing.T) (requester, requester, func(func(requester, *gipc.Message))) {
				s, c := transportNamed("unix").connect(t, false)
				return s, c, reading(s)
			}},
			side{name + " of a client", func(t *testing.T) (requester, requester, func(func(requester, *gipc.Message))) {
				s, c := transportNamed("unix").connect(t, true)
				return c, s, reading(c)
			}},
			side{name + " of a client of a pool", func(t *testing.T) (requester, requester, func(func(requester, *gipc.Message))) {
				s, c := startPool(t, 1)
				for member := range s.Connections.All() {
					return member, c[0], reading(member)
				}
				panic("not reached")
			}})
	}
	for name, read := range poolReaders {
		reading := func(s *gipc.Server) func(func(requester, *gipc.Message)) {
			return func(handle func(requester, *gipc.Message)) {
				read(s.Connections, func(s *gipc.Server, m *gipc.Message) { handle(s, m) })
			}
		}
		all = append(all,
			side{name + " with many clients", func(t *testing.T) (requester, requester, func(func(requester, *gipc.Message))) {
				s, c := startPool(t, 3)
				for member := range s.Connections.All() {
					if member.ID() == c[0].ID() {
						return member, c[0], reading(s)
					}
				}
				panic("not reached")
			}},
			side{name + " with one client", func(t *testing.T) (requester, requester, func(func(requester, *gipc.Message))) {
				s, c := transportNamed("tcp").connect(t, false)
				return s, c, reading(s)
			}})
	}
	return all
}

// TestRequestInEveryWayToRead: requests come in order among messages, in every way to
// read, and both sides call at once.
func TestRequestInEveryWayToRead(t *testing.T) {
	t.Parallel()
	for _, side := range sides() {
		t.Run(side.name, func(t *testing.T) {
			t.Parallel()
			reader, caller, read := side.make(t)
			const n = 30
			var over atomic.Bool // a reply may be cut off
			var numbers []int
			read2 := Go(func() error {
				read(func(e requester, m *gipc.Message) {
					if m.MsgType == -1 {
						if m.IsRequest() {
							t.Error("a status message is a request")
						}
						return
					}
					if len(m.Data) > 0 {
						numbers = append(numbers, numberOf(m.Data))
					}
					if m.IsRequest() != (m.MsgType%2 == 1) {
						t.Errorf("type %d: IsRequest is %v", m.MsgType, m.IsRequest())
					}
					if m.Conn != e.ID() {
						t.Errorf("Conn is %d, want %d", m.Conn, e.ID())
					}
					if err := m.Reply(m.MsgType+100, m.Data); m.IsRequest() && err != nil && !over.Load() || !m.IsRequest() && !errors.Is(err, gipc.ErrNotRequest) {
						t.Errorf("Reply to type %d: %v", m.MsgType, err)
					}
				})
				return nil
			})
			echo(t, caller)
			whileMoving(t, []requester{caller, reader},
				func(move func()) error {
					for i := range n {
						move()
						size := []int{8, 100, 20_000, 70_000}[i%4]
						if err := caller.Write(2, Payload(2*i, 10)); err != nil {
							return err
						}
						reply, err := caller.Call(context.Background(), 2*i+1, Payload(2*i+1, size))
						if err != nil {
							return err
						}
						if reply.MsgType != 2*i+101 || !bytes.Equal(reply.Data, Payload(2*i+1, size)) {
							return fmt.Errorf("call %d: type %d and %d bytes", i, reply.MsgType, len(reply.Data))
						}
						if reply.IsRequest() || reply.Conn != caller.ID() || reply.Status != "" || reply.Err != nil {
							return fmt.Errorf("the reply is %+v", reply)
						}
						if err := reply.Reply(1, nil); !errors.Is(err, gipc.ErrNotRequest) {
							return fmt.Errorf("a reply to a reply: %w", err)
						}
					}
					over.Store(true)
					reply, err := caller.Call(context.Background(), 1, nil)
					if err == nil && (reply.MsgType != 101 || len(reply.Data) != 0) {
						err = fmt.Errorf("the reply to empty data is %+v", reply)
					}
					return err
				},
				func(move func()) error {
					for i := range n {
						move()
						reply, err := reader.Call(context.Background(), i+1, Payload(i, 100))
						if err != nil {
							return err
						}
						if reply.MsgType != i+2 || !bytes.Equal(reply.Data, Payload(i, 100)) {
							return fmt.Errorf("call %d back: another reply", i)
						}
					}
					return nil
				})
			Do(t, "Shutdown of the caller", func() error { return caller.Shutdown(ended()) })
			Do(t, "Shutdown of the reader", func() error { return reader.Shutdown(ended()) })
			if strings.Contains(side.name, "many") {
				return // the pool reads on
			}
			Must(t, Await(t, "the reader", read2))
			for i, number := range numbers {
				if number != i {
					t.Fatalf("message %d came at place %d", number, i)
				}
			}
			if len(numbers) != 2*n {
				t.Errorf("%d messages, want %d", len(numbers), 2*n)
			}
		})
	}
}

// TestRequestThatCannotBeSent: errors for which nothing is sent.
func TestRequestThatCannotBeSent(t *testing.T) {
	t.Parallel()
	sc, cc := transportNamed("pipe").settings(t, false)
	sc.MaxMsgSize = 2000
	server := startServer(t, sc)
	client := startClient(t, cc)
	waitConnected(t, server)
	for _, msgType := range []int64{0, -1, math.MinInt32, math.MaxInt32 + 1, 1<<31 | 5} {
		reply, err := client.Call(t.Context(), int(msgType), []byte("x"))
		WantErr(t, fmt.Sprint("Call of type ", msgType), err, gipc.ErrReservedType)
		if reply != nil {
			t.Error("a reply beside an error")
		}
	}
	_, err := client.Call(t.Context(), 1, make([]byte, 2001))
	var size *gipc.SizeError
	if !errors.As(err, &size) || *size != (gipc.SizeError{Size: 2001, Limit: 2000}) || !errors.Is(err, gipc.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	_, err = client.Call(nil, 1, nil) //lint:ignore SA1012 that is the test
	WantErr(t, "nil context", err, gipc.ErrConfig)
	_, err = client.Call(ended(), 1, []byte("x"))
	WantErr(t, "ended context", err, context.Canceled)
	RejectErr(t, "ended context", err, gipc.ErrUnconfirmed, gipc.ErrNotConnected)
	if s := client.Stats(); s.Calls != 0 || s.Sent != 0 {
		t.Errorf("after calls that sent nothing: %+v", s)
	}
	// The next one is the first that arrives, and the peer accepts it: no number is missing.
	call := goCall(client, t.Context(), math.MaxInt32, Payload(1, 2000))
	m := nextRequest(t, server)
	if m.MsgType != math.MaxInt32 || !bytes.Equal(m.Data, Payload(1, 2000)) {
		t.Errorf("type %d and %d bytes arrived", m.MsgType, len(m.Data))
	}
	Must(t, m.Reply(math.MaxInt32, nil))
	wantReply(t, "the call", call, math.MaxInt32, nil)

	multi, _ := startPool(t, 1)
	_, err = multi.Call(t.Context(), 1, nil)
	WantErr(t, "a multi-client server", err, gipc.ErrMultiClient)
}

// TestRequestIsAnsweredOnce: by whichever copy of the message, from whichever
// goroutine.
func TestRequestIsAnsweredOnce(t *testing.T) {
	t.Parallel()
	client, peer := startPlainClient(t, ListenRaw(t, 1, PipePair))
	const rounds, repliers = 50, 16
	frames := make(chan Frame, 2*rounds+1)
	read := Go(func() error {
		for {
			f, err := peer.ReadFrame()
			if err != nil {
				return nil
			}
			frames <- f
		}
	})
	for i := range uint64(rounds) {
		peer.Send(requestFrame(i+1, 1, nil))
		m := nextRequest(t, client)
		results := make(chan error, repliers)
		start := make(chan struct{})
		for j := range repliers {
			a := *m // a copy, and every other a copy of a copy
			if j%2 == 1 {
				b := a
				a = b
			}
			go func() {
				<-start
				results <- a.Reply(2, []byte{byte(j)})
			}()
		}
		close(start)
		answered := 0
		for range repliers {
			err := Await(t, "Reply", results)
			if err == nil {
				answered++
				continue
			}
			WantErr(t, "another Reply", err, gipc.ErrReplied)
			RejectErr(t, "another Reply", err, gipc.ErrNotRequest, gipc.ErrUnconfirmed)
		}
		if answered != 1 {
			t.Fatalf("%d of %d replies returned nil, want 1", answered, repliers)
		}
		WantErr(t, "Reply by the message itself", m.Reply(2, nil), gipc.ErrReplied)
		if !m.IsRequest() {
			t.Error("it is no request any more")
		}
	}
	Must(t, client.Write(3, nil))
	for i := range uint64(rounds) {
		if f := Await(t, "a reply", frames); f.Type != 1<<31|2 || f.ID != 1<<63|(i+1) {
			t.Fatalf("frame %d has type %#x and id %#x", i, f.Type, f.ID)
		}
	}
	if f := Await(t, "the marker", frames); f.Type != 3 {
		t.Errorf("a frame of type %#x: a request was answered twice", f.Type)
	}
	peer.Close()
	Await(t, "the raw reader", read)
}

// TestRequestReplyThatCannotBeSent: the request can still be answered.
func TestRequestReplyThatCannotBeSent(t *testing.T) {
	t.Parallel()
	sc, cc := transportNamed("pipe").settings(t, false)
	cc.MaxMsgSize = 2000
	server := startServer(t, sc)
	client := startClient(t, cc)
	waitConnected(t, server)
	call := goCall(client, t.Context(), 1, nil)
	m := nextRequest(t, server)
	for _, msgType := range []int64{0, -1, math.MaxInt32 + 1} {
		WantErr(t, fmt.Sprint("Reply of type ", msgType), m.Reply(int(msgType), nil), gipc.ErrReservedType)
	}
	var size *gipc.SizeError
	if err := m.Reply(1, make([]byte, 2001)); !errors.As(err, &size) || *size != (gipc.SizeError{Size: 2001, Limit: 2000}) || !errors.Is(err, gipc.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	copied := *m
	Must(t, copied.Reply(7, Payload(1, 2000)))
	wantReply(t, "the call", call, 7, Payload(1, 2000))
	WantErr(t, "Reply again", m.Reply(7, nil), gipc.ErrReplied)

	Must(t, client.Write(1, nil))
	plain, err := nextMessage(server)
	Must(t, err)
	for what, m := range map[string]*gipc.Message{"a message": plain, "no message": {}, "a message of the user's": {MsgType: 5}, "TimeoutMessage": gipc.TimeoutMessage} {
		if m.IsRequest() {
			t.Errorf("%s is a request", what)
		}
		WantErr(t, "Reply to "+what, m.Reply(1, nil), gipc.ErrNotRequest)
	}
}

// TestRequestReadInto: ReadInto with the same Message makes it another message.
func TestRequestReadInto(t *testing.T) {
	t.Parallel()
	client, peer := startPlainClient(t, ListenRaw(t, 1, PipePair))
	wantStatus(t, client, gipc.Connected)
	m := new(gipc.Message)
	into := func() {
		t.Helper()
		Must(t, Do(t, "ReadInto", func() error { return client.ReadInto(context.Background(), m) }))
	}
	frames := make(chan Frame, 8)
	read := Go(func() error {
		for f, err := peer.ReadFrame(); err == nil; f, err = peer.ReadFrame() {
			frames <- f
		}
		return nil
	})
	peer.Send(requestFrame(1, 1, []byte("first")), User(2, []byte("plain")), requestFrame(2, 3, []byte("second")), requestFrame(3, 4, []byte("third")))
	into()
	first := *m
	into()
	if m.IsRequest() || string(m.Data) != "plain" {
		t.Errorf("the second message is %+v, a request: %v", m, m.IsRequest())
	}
	WantErr(t, "Reply to it", m.Reply(1, nil), gipc.ErrNotRequest)
	into()
	Must(t, m.Reply(11, []byte("to second")))
	into()
	if !m.IsRequest() || m.MsgType != 4 {
		t.Errorf("the fourth message is %+v, a request: %v", m, m.IsRequest())
	}
	Must(t, m.Reply(12, []byte("to third")))
	WantErr(t, "Reply again", m.Reply(12, nil), gipc.ErrReplied)
	Must(t, first.Reply(13, []byte("to first")))
	for i, want := range []Frame{{Type: 1<<31 | 11, ID: 1<<63 | 2, Data: []byte("to second")}, {Type: 1<<31 | 12, ID: 1<<63 | 3, Data: []byte("to third")}, {Type: 1<<31 | 13, ID: 1<<63 | 1, Data: []byte("to first")}} {
		if f := Await(t, "a reply", frames); f.Type != want.Type || f.ID != want.ID || string(f.Data) != string(want.Data) {
			t.Errorf("reply %d is %v, want %v", i, f, want)
		}
	}
	peer.Close()
	if into(); !m.Is(gipc.ReConnecting) || m.IsRequest() { // a status message in the same Message
		t.Errorf("the status message is %+v, a request: %v", m, m.IsRequest())
	}
	Await(t, "the raw reader", read)
}

// TestRequestAnsweredLater: after other messages, in another order, from other
// goroutines: each call gets its own reply.
func TestRequestAnsweredLater(t *testing.T) {
	onTransports(t, func(t *testing.T, tr transport, plain bool) {
		server, client := tr.connect(t, plain)
		for _, way := range [][2]requester{{client, server}, {server, client}} {
			caller, replier := way[0], way[1]
			const n = 20
			var calls []<-chan callResult
			var requests []*gipc.Message
			for i := range n {
				calls = append(calls, goCall(caller, t.Context(), 1, Payload(i, 1000)))
				requests = append(requests, nextRequest(t, replier))
				Must(t, caller.Write(2, Payload(i, 3000)))
				wantMessage(t, replier, 2, Payload(i, 3000))
			}
			var replies []func() error
			for i := range n {
				m := requests[n-1-i]
				replies = append(replies, func() error { return m.Reply(3, append(m.Data, 'r')) })
			}
			Together(t, replies...)
			for i := range calls {
				wantReply(t, fmt.Sprint("call ", i), calls[i], 3, append(Payload(i, 1000), 'r'))
			}
		}
	})
}

// TestRequestOfThreeMiB: both ways at once, in both directions.
func TestRequestOfThreeMiB(t *testing.T) {
	onTransports(t, func(t *testing.T, tr transport, plain bool) {
		server, client := tr.connect(t, plain)
		echo(t, server)
		echo(t, client)
		data := Payload(5, 3<<20)
		call := func(e requester) func(func()) error {
			return func(move func()) error {
				for range 2 {
					reply, err := e.Call(context.Background(), 8, data)
					if err != nil {
						return err
					}
					if reply.MsgType != 9 || !bytes.Equal(reply.Data, data) {
						return fmt.Errorf("a reply of type %d and %d bytes, or other bytes", reply.MsgType, len(reply.Data))
					}
					move()
				}
				return nil
			}
		}
		whileMoving(t, []requester{client, server}, call(client), call(server))
	})
}

// TestRequestBeforeTheFirstConnection: Call waits for it as Write does.
func TestRequestBeforeTheFirstConnection(t *testing.T) {
	t.Parallel()
	Bubble(t, func(t *testing.T) {
		network := &PipeNetwork{}
		server := startServer(t, &gipc.ServerConfig{Name: "test", Listener: network.Listen(), Heartbeat: -1})
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		begun := time.Now()
		_, err := server.Call(ctx, 1, nil)
		WantErr(t, "a call that nobody came for", err, context.DeadlineExceeded)
		RejectErr(t, "a call that nobody came for", err, gipc.ErrUnconfirmed, gipc.ErrNotConnected)
		if d := time.Since(begun); d != 3*time.Second {
			t.Errorf("it ended after %v", d)
		}
		call := goCall(server, t.Context(), 1, []byte("early"))
		stillOpen(t, "the call", call)
		client := startClient(t, &gipc.ClientConfig{Name: "test", Dial: network.Dial, Heartbeat: -1})
		m := nextRequest(t, client)
		Must(t, m.Reply(2, []byte("late")))
		wantReply(t, "the call", call, 2, []byte("late"))

		lone := startServer(t, &gipc.ServerConfig{Name: "test", Listener: network.Listen(), Heartbeat: -1})
		call = goCall(lone, t.Context(), 1, nil)
		stillOpen(t, "the call", call)
		Must(t, lone.Close())
		err = wantNoReply(t, "the call at Close", call, gipc.ErrClosed)
		RejectErr(t, "the call at Close", err, gipc.ErrUnconfirmed, gipc.ErrNotConnected)
	})
}

// TestRequestAndContext: when the context of a call ends.
func TestRequestAndContext(t *testing.T) {
	t.Parallel()
	inBubble := func(name string, f func(t *testing.T, client *gipc.Client, peer *RawPeer)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			Bubble(t, func(t *testing.T) {
				client, peer := startPlainClient(t, ListenRaw(t, 1, PipePair))
				f(t, client, peer)
			})
		})
	}
	reason := errors.New("the reason")
	inBubble("before it was sent", func(t *testing.T, client *gipc.Client, peer *RawPeer) {
		write := Go(func() error { return client.Write(9, Payload(1, 100)) })
		synctest.Wait() // the peer does not read
		ctx, cancel := context.WithCancelCause(t.Context())
		call := goCall(client, ctx, 1, []byte("never"))
		stillOpen(t, "the call", call)
		cancel(reason)
		err := wantNoReply(t, "the call", call, context.Canceled, reason)
		RejectErr(t, "the call", err, gipc.ErrUnconfirmed, gipc.ErrNotConnected, gipc.ErrClosed)
		call = goCall(client, t.Context(), 2, []byte("first"))
		f, err := peer.ReadFrame()
		Must(t, err)
		if f.Type != 9 {
			t.Errorf("the first frame has type %#x", f.Type)
		}
		if f := wantRequest(t, peer, 1); string(f.Data) != "first" {
			t.Errorf("request 1 is %q: the one before was not sent, and its number is free", f.Data)
		}
		peer.Send(replyFrame(1, 3, []byte("own")))
		wantReply(t, "the next call", call, 3, []byte("own"))
		Must(t, Await(t, "Write", write))
		if s := client.Stats(); s.Calls != 1 || s.Sent != 2 || s.Dropped != 0 {
			t.Errorf("%+v", s)
		}
	})
	inBubble("after it was sent", func(t *testing.T, client *gipc.Client, peer *RawPeer) {
		ctx, cancel := context.WithCancelCause(t.Context())
		given := goCall(client, ctx, 1, []byte("given up"))
		wantRequest(t, peer, 1)
		stillOpen(t, "the call", given)
		begun := time.Now()
		cancel(reason)
		err := wantNoReply(t, "the call", given, gipc.ErrUnconfirmed, context.Canceled, reason)
		RejectErr(t, "the call", err, gipc.ErrNotConnected, gipc.ErrClosed)
		if d := time.Since(begun); d != 0 {
			t.Errorf("it ended after %v", d)
		}
		other := goCall(client, t.Context(), 1, []byte("other"))
		wantRequest(t, peer, 2)
		peer.Send(replyFrame(1, 5, []byte("late"))) // nobody waits for it
		stillOpen(t, "another call", other)
		if s := client.Stats(); s.Dropped != 1 || s.Calls != 2 {
			t.Errorf("after a late reply: %+v", s)
		}
		peer.Send(replyFrame(2, 6, []byte("own")))
		wantReply(t, "another call", other, 6, []byte("own"))
		wantStatus(t, client, gipc.Connected)
		if m, err := client.ReadTimed(0); m != gipc.TimeoutMessage || err != nil {
			t.Errorf("a reply came to a reader: %+v, %v", m, err)
		}
		if client.ID() != 1 || client.StatusCode() != gipc.Connected {
			t.Error("the connection is another one")
		}
	})
	inBubble("inside its frame", func(t *testing.T, client *gipc.Client, peer *RawPeer) {
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		call := goCall(client, ctx, 1, Payload(1, 100_000))
		part := peer.ReadPart(1000)
		stillOpen(t, "the call", call)
		begun := time.Now()
		err := wantNoReply(t, "the call", call, gipc.ErrUnconfirmed, context.DeadlineExceeded)
		RejectErr(t, "the call", err, gipc.ErrNotConnected, gipc.ErrClosed)
		if d := time.Since(begun); d != 15*time.Second {
			t.Errorf("it ended after %v", d)
		}
		write := Go(func() error { return client.Write(2, Payload(2, 10)) })
		frames, _ := ParseFrames(append(part, peer.ReadPart(16+100_000-1000)...))
		if len(frames) != 1 || frames[0].ID != 1 || !bytes.Equal(frames[0].Data, Payload(1, 100_000)) {
			t.Errorf("the frame did not go out whole")
		}
		f, err := peer.ReadFrame()
		if err != nil || f.Type != 2 {
			t.Errorf("%v, %v", f.Type, err)
		}
		Must(t, Await(t, "Write", write))
	})
	inBubble("of a reader with it", func(t *testing.T, client *gipc.Client, peer *RawPeer) {
		Must(t, Do(t, "Connected", func() error { _, err := client.Read(); return err }))
		read := Go(func() error { _, err := client.Read(); return err }) // reads for the call
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		begun := time.Now()
		call := goCall(client, ctx, 1, nil)
		wantRequest(t, peer, 1)
		wantNoReply(t, "the call", call, gipc.ErrUnconfirmed, context.DeadlineExceeded)
		if d := time.Since(begun); d != 2*time.Second {
			t.Errorf("it ended after %v", d)
		}
		peer.Send(replyFrame(1, 5, nil), User(6, nil))
		Must(t, Await(t, "Read", read))
	})
}

// TestRequestLost: when the connection is lost, calls end at once.
func TestRequestLost(t *testing.T) {
	t.Parallel()
	for _, reader := range []string{"nobody reads", "somebody reads", "the queue reads"} {
		for name, lose := range map[string]struct {
			how   func(p *RawPeer)
			cause []error
		}{
			"the stream ends":   {func(p *RawPeer) { p.Close() }, []error{gipc.ErrTruncated, io.ErrUnexpectedEOF}},
			"inside a frame":    {func(p *RawPeer) { p.Send([]byte{0, 0, 1}); p.Close() }, []error{gipc.ErrTruncated, io.ErrUnexpectedEOF}},
			"malformed bytes":   {func(p *RawPeer) { p.Send([]byte{0, 0, 0, 1}) }, []error{gipc.ErrMalformed}},
			"inside its reply":  {func(p *RawPeer) { p.Send(replyFrame(1, 1, Payload(1, 50_000))[:40_000]); p.Close() }, []error{gipc.ErrTruncated}},
			"a reply to call 0": {func(p *RawPeer) { p.Send(replyFrame(0, 1, nil)) }, []error{gipc.ErrMalformed}},
		} {
			t.Run(reader+", "+name, func(t *testing.T) {
				t.Parallel()
				Bubble(t, func(t *testing.T) {
					client, peer := startPlainClient(t, ListenRaw(t, 1, PipePair))
					wantStatus(t, client, gipc.Connected)
					var read <-chan error
					switch reader {
					case "somebody reads":
						read = Go(func() error { _, err := client.Read(); return err })
					case "the queue reads":
						client.ReadTimed(5 * time.Second) // then nobody has read for a while
						client.ReadTimed(5 * time.Second)
						<-time.After(5 * time.Second)
					}
					var calls []<-chan callResult
					for i := range uint64(5) {
						calls = append(calls, goCall(client, t.Context(), 1, nil))
						wantRequest(t, peer, i+1)
					}
					stillOpen(t, "a call", calls[0])
					begun := time.Now()
					lose.how(peer)
					for i, call := range calls {
						err := wantNoReply(t, fmt.Sprint("call ", i), call, append(lose.cause, gipc.ErrUnconfirmed)...)
						RejectErr(t, fmt.Sprint("call ", i), err, gipc.ErrNotConnected, gipc.ErrClosed)
					}
					if d := time.Since(begun); d != 0 {
						t.Errorf("the calls ended after %v", d)
					}
					_, err := client.Call(t.Context(), 1, nil)
					WantErr(t, "a call after the loss", err, gipc.ErrNotConnected)
					RejectErr(t, "a call after the loss", err, gipc.ErrUnconfirmed)
					if d := time.Since(begun); d != 0 {
						t.Errorf("a call after the loss ended after %v", d)
					}
					if read != nil {
						Await(t, "Read", read)
					}
				})
			})
		}
	}
}

// TestRequestNotSentAtTheEnd: a request of which nothing was sent when the connection
// ended.
func TestRequestNotSentAtTheEnd(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		end  func(t *testing.T, client *gipc.Client, peer *RawPeer) <-chan Ending
		want []error
		not  []error
	}{
		"loss": {func(t *testing.T, client *gipc.Client, peer *RawPeer) <-chan Ending {
			peer.Close()
			return nil
		}, []error{gipc.ErrNotConnected}, []error{gipc.ErrUnconfirmed, gipc.ErrClosed}},
		"the peer's close": {func(t *testing.T, client *gipc.Client, peer *RawPeer) <-chan Ending {
			peer.SendClose()
			synctest.Wait()
			return peer.Finish()
		}, []error{gipc.ErrNotConnected}, []error{gipc.ErrUnconfirmed, gipc.ErrClosed}},
		"Shutdown": {func(t *testing.T, client *gipc.Client, peer *RawPeer) <-chan Ending {
			client.Shutdown(ended())
			return nil
		}, []error{gipc.ErrClosed}, []error{gipc.ErrNotConnected}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			Bubble(t, func(t *testing.T) {
				client, peer := startPlainClient(t, ListenRaw(t, 1, PipePair))
				sent := goCall(client, t.Context(), 1, nil)
				wantRequest(t, peer, 1)
				write := Go(func() error { return client.Write(9, Payload(1, 100)) })
				synctest.Wait() // the peer does not read
				var calls []<-chan callResult
				for range 3 {
					calls = append(calls, goCall(client, t.Context(), 1, Payload(7, 50)))
					synctest.Wait()
				}
				ending := c.end(t, client, peer)
				for i, call := range calls {
					err := wantNoReply(t, fmt.Sprint("call ", i), call, c.want...)
					RejectErr(t, fmt.Sprint("call ", i), err, c.not...)
				}
				if err := Await(t, "Write", write); err != nil && name == "the peer's close" {
					t.Errorf("Write, which the peer takes: %v", err)
				}
				err := wantNoReply(t, "the call that was sent", sent, gipc.ErrUnconfirmed)
				RejectErr(t, "the call that was sent", err, gipc.ErrNotConnected)
				if ending == nil {
					return
				}
				for _, f := range Await(t, "the end", ending).Frames {
					if f.Type>>31 == 1 {
						t.Errorf("request %d went out behind the peer's close", f.ID)
					}
				}
			})
		})
	}
}

// TestRequestAndCloseHere: Close of the side that calls.
func TestRequestAndCloseHere(t *testing.T) {
	t.Parallel()
	Bubble(t, func(t *testing.T) {
		client, peer := startPlainClient(t, ListenRaw(t, 1, PipePair))
		var calls []<-chan callResult
		for i := range uint64(3) {
			calls = append(calls, goCall(client, t.Context(), 1, nil))
			wantRequest(t, peer, i+1)
		}
		closed := Go(client.Close)
		f, err := peer.ReadFrame()
		if err != nil || f.Kind() != KindClose {
			t.Fatalf("%+v, %v, want a close", f, err)
		}
		// A reply that comes before the peer's own close is handed over.
		peer.Send(replyFrame(2, 4, []byte("in time")))
		wantReply(t, "the call that is answered", calls[1], 4, []byte("in time"))
		_, err = client.Call(t.Context(), 1, nil)
		WantErr(t, "a call after Close", err, gipc.ErrClosed)
		RejectErr(t, "a call after Close", err, gipc.ErrUnconfirmed, gipc.ErrNotConnected)
		peer.Send(Control(KindClose, 0), Control(KindCloseAck, 0))
		for _, i := range []int{0, 2} {
			err := wantNoReply(t, fmt.Sprint("call ", i), calls[i], gipc.ErrUnconfirmed, gipc.ErrClosed)
			RejectErr(t, fmt.Sprint("call ", i), err, gipc.ErrNotConnected)
		}
		peer.Finish()
		WantErr(t, "Close", Await(t, "Close", closed))
	})
}

// TestRequestAndCloseOnTransports: a call that the peer has read when this side closes,
// and a call of a side whose peer has closed.
func TestRequestAndCloseOnTransports(t *testing.T) {
	onTransports(t, func(t *testing.T, tr transport, plain bool) {
		server, client := tr.connect(t, plain)
		call := goCall(client, t.Context(), 1, nil)
		nextRequest(t, server)
		WantErr(t, "Close", Do(t, "Close", client.Close)) // the peer has the request
		err := wantNoReply(t, "the call", call, gipc.ErrUnconfirmed, gipc.ErrClosed)
		RejectErr(t, "the call", err, gipc.ErrNotConnected)
		wantStatus(t, server, gipc.Disconnected)
		want := gipc.ErrNotConnected
		if tr.once {
			wantDone(t, "a server whose one connection is over", server)
			want = gipc.ErrClosed
		}
		err = wantNoReply(t, "a call after the peer has closed", goCall(server, t.Context(), 1, nil), want)
		RejectErr(t, "a call after the peer has closed", err, gipc.ErrUnconfirmed)
	})
}

// TestRequestAndThePeersClose: the peer closes with the request open.
func TestRequestAndThePeersClose(t *testing.T) {
	onTransports(t, func(t *testing.T, tr transport, plain bool) {
		server, client := tr.connect(t, plain)
		var calls []<-chan callResult
		var requests []*gipc.Message
		for range 3 {
			calls = append(calls, goCall(client, t.Context(), 1, nil))
			requests = append(requests, nextRequest(t, server))
		}
		Must(t, requests[1].Reply(2, []byte("answered")))
		WantErr(t, "Close", Do(t, "Close", server.Close))
		wantReply(t, "the call that was answered", calls[1], 2, []byte("answered"))
		for _, i := range []int{0, 2} {
			err := wantNoReply(t, fmt.Sprint("call ", i), calls[i], gipc.ErrUnconfirmed)
			RejectErr(t, fmt.Sprint("call ", i), err, gipc.ErrNotConnected, gipc.ErrClosed)
		}
		WantErr(t, "Reply after Close", requests[0].Reply(2, nil), gipc.ErrClosed)
	})
}

const unreadText = "64 KiB of unread messages precede the reply"

// TestRequestBehindAFullQueue: what is unread stands before the reply.
func TestRequestBehindAFullQueue(t *testing.T) {
	t.Parallel()
	type rig struct {
		client *gipc.Client
		peer   *RawPeer
		sent   <-chan error // the peer's messages and replies
	}
	const messages, size = 6, 30_000 // more than the queue, and the larger one of an open call
	start := func(t *testing.T, before bool) *rig {
		r := &rig{}
		r.client, r.peer = startPlainClient(t, ListenRaw(t, 1, PipePair))
		frames := make(chan Frame, 1000)
		go func() {
			for f, err := r.peer.ReadFrame(); err == nil; f, err = r.peer.ReadFrame() {
				frames <- f
			}
			close(frames)
		}()
		r.sent = Go(func() error {
			if !before {
				<-frames // the first request
			}
			for i := range messages {
				if _, err := r.peer.Write(User(1, Payload(i, size))); err != nil {
					return err
				}
			}
			if !before {
				if _, err := r.peer.Write(replyFrame(1, 9, []byte("reply 1"))); err != nil {
					return err
				}
			}
			for f := range frames { // and all that come later
				if f.Type>>31 == 1 {
					if _, err := r.peer.Write(replyFrame(f.ID, 9, fmt.Appendf(nil, "reply %d", f.ID))); err != nil {
						return nil
					}
				}
			}
			return nil
		})
		return r
	}
	readAll := func(t *testing.T, e endpoint) {
		t.Helper()
		for i := range messages {
			wantMessage(t, e, 1, Payload(i, size))
		}
	}
	for _, before := range []bool{true, false} { // it is full before the call, or becomes full during it
		inBubble := func(name string, f func(t *testing.T, r *rig)) {
			t.Run(fmt.Sprintf("%s, full before %v", name, before), func(t *testing.T) {
				t.Parallel()
				Bubble(t, func(t *testing.T) {
					r := start(t, before)
					if before {
						<-time.After(time.Second) // the queue is full
						synctest.Wait()
					}
					f(t, r)
					r.client.Shutdown(ended())
					r.peer.Close()
					<-r.sent
				})
			})
		}
		wantAdvice := func(t *testing.T, err error) {
			t.Helper()
			if !strings.Contains(err.Error(), unreadText) {
				t.Errorf("%v, want the text %q", err, unreadText)
			}
			RejectErr(t, "the call", err, gipc.ErrNotConnected, gipc.ErrClosed)
		}
		inBubble("ten seconds", func(t *testing.T, r *rig) {
			begun := time.Now()
			call := goCall(r.client, t.Context(), 1, nil)
			<-time.After(5 * time.Second)
			second := goCall(r.client, t.Context(), 1, nil)
			wantAdvice(t, wantNoReply(t, "the call", call, gipc.ErrUnconfirmed))
			if d := time.Since(begun); d != 10*time.Second {
				t.Errorf("it ended after %v, want 10 s", d)
			}
			wantAdvice(t, wantNoReply(t, "the second call", second, gipc.ErrUnconfirmed))
			if d := time.Since(begun); d != 15*time.Second {
				t.Errorf("the second one ended after %v, want 15 s", d)
			}
			readAll(t, r.client)
			wantReply(t, "a call after somebody has read", goCall(r.client, t.Context(), 1, nil), 9, []byte("reply 3"))
			if s := r.client.Stats(); s.Dropped != 2 || s.Calls != 3 || s.Received != messages {
				t.Errorf("%+v", s)
			}
		})
		inBubble("context", func(t *testing.T, r *rig) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			begun := time.Now()
			wantAdvice(t, wantNoReply(t, "the call", goCall(r.client, ctx, 1, nil), gipc.ErrUnconfirmed, context.DeadlineExceeded))
			if d := time.Since(begun); d != 3*time.Second {
				t.Errorf("it ended after %v, want 3 s", d)
			}
			readAll(t, r.client)
			wantReply(t, "a call after somebody has read", goCall(r.client, t.Context(), 1, nil), 9, []byte("reply 2"))
		})
		inBubble("somebody reads", func(t *testing.T, r *rig) {
			call := goCall(r.client, t.Context(), 1, nil)
			second := goCall(r.client, t.Context(), 1, nil)
			<-time.After(9 * time.Second)
			stillOpen(t, "the call", call)
			readAll(t, r.client)
			a, b := Await(t, "the call", call), Await(t, "the second call", second)
			if a.err != nil || b.err != nil || string(a.reply.Data) == string(b.reply.Data) {
				t.Errorf("%v, %v", a, b)
			}
		})
		inBubble("loss", func(t *testing.T, r *rig) {
			call := goCall(r.client, t.Context(), 1, nil)
			<-time.After(time.Second)
			stillOpen(t, "the call", call)
			begun := time.Now()
			r.peer.Close()
			wantNoReply(t, "the call", call, gipc.ErrUnconfirmed)
			if d := time.Since(begun); d > 2*time.Second {
				t.Errorf("it ended %v after the loss", d)
			}
		})
		inBubble("Close", func(t *testing.T, r *rig) {
			call := goCall(r.client, t.Context(), 1, nil)
			<-time.After(time.Second)
			stillOpen(t, "the call", call)
			closed := Go(func() error { return r.client.Shutdown(ended()) })
			wantNoReply(t, "the call", call, gipc.ErrUnconfirmed, gipc.ErrClosed)
			Await(t, "Shutdown", closed)
		})
	}
}

// TestRequestBehindAFullQueueOfAPool: who reads from the pool makes room for a reply, too.
func TestRequestBehindAFullQueueOfAPool(t *testing.T) {
	t.Parallel()
	Bubble(t, func(t *testing.T) {
		network := &PipeNetwork{}
		server := startServer(t, &gipc.ServerConfig{Name: "test", Encryption: gipc.EncryptionOff, Heartbeat: -1, Listener: network.Listen(), MultiClient: true})
		peer := dialRaw(t, network)
		var member *gipc.Server
		next := func(want int) {
			t.Helper()
			server.Connections.ReadTimedFastest(time.Second, func(s *gipc.Server, m *gipc.Message, err error) {
				if member = s; err != nil || m.MsgType != want {
					t.Errorf("%+v, %v, want type %d", m, err, want)
				}
			})
		}
		next(-1)
		go io.Copy(io.Discard, peer) // requests, and pings of a side that does not read
		const messages = 4           // three fill the queue, and the larger one of the pool
		sent := Go(func() error {
			for i := range messages {
				if _, err := peer.Write(User(1, Payload(i, 30_000))); err != nil {
					return err
				}
			}
			_, err := peer.Write(replyFrame(1, 9, []byte("reply")))
			return err
		})
		call := goCall(member, t.Context(), 1, nil)
		<-time.After(3 * time.Second)
		stillOpen(t, "the call", call)
		next(1) // 60,000 bytes are unread now
		<-time.After(time.Second)
		wantReply(t, "the call, when somebody has read", call, 9, []byte("reply"))
		for range messages - 1 {
			next(1)
		}
		Must(t, Await(t, "the peer", sent))
	})
}

// TestRequestStuckBehindAFullQueue: a call whose request cannot be written, while this
// side does not read, ends as well: two sides that are both full would wait for each
// other for ever.
func TestRequestStuckBehindAFullQueue(t *testing.T) {
	t.Parallel()
	for _, read := range []int{0, 10} { // bytes of the request that the peer reads
		t.Run(fmt.Sprintf("%d bytes are written", read), func(t *testing.T) {
			t.Parallel()
			Bubble(t, func(t *testing.T) {
				client, peer := startPlainClient(t, ListenRaw(t, 1, PipePair))
				go func() { // more than the queue, and than the larger one of a blocked write
					for i := range 6 {
						peer.Write(User(1, Payload(i, 30_000)))
					}
				}()
				write := Go(func() error { return client.Write(9, Payload(1, 10)) })
				if read > 0 {
					if f, err := peer.ReadFrame(); err != nil || f.Type != 9 {
						t.Errorf("%v, %v", f, err)
					}
				}
				<-time.After(time.Second) // the queue is full
				begun := time.Now()
				call := goCall(client, t.Context(), 1, Payload(1, 1000))
				for read > 0 { // pings go out while the queue is full
					head := peer.ReadPart(8)
					if len(head) < 8 || head[4]&0x80 != 0 {
						break // of the request
					}
					peer.ReadPart(int(head[3]) - 4)
				}
				want := gipc.ErrNotConnected
				if read > 0 {
					want = gipc.ErrUnconfirmed
				}
				wantNoReply(t, "the call", call, want)
				if d := time.Since(begun); d < 10*time.Second || d > 10*time.Second+100*time.Millisecond {
					t.Errorf("it ended after %v, want 10 s from when reading has stopped", d)
				}
				client.Shutdown(ended())
				peer.Close()
				Await(t, "Write", write)
			})
		})
	}
}

// TestRequestInMidFrameAtThePeersClose: no reply can come behind the peer's close, so
// calls end at once, also those whose request is being written.
func TestRequestInMidFrameAtThePeersClose(t *testing.T) {
	t.Parallel()
	Bubble(t, func(t *testing.T) {
		client, peer := startPlainClient(t, ListenRaw(t, 1, PipePair))
		call := goCall(client, t.Context(), 1, Payload(1, 100_000))
		peer.ReadPart(1000)
		synctest.Wait()
		begun := time.Now()
		peer.SendClose()
		err := wantNoReply(t, "the call", call, gipc.ErrUnconfirmed)
		RejectErr(t, "the call", err, gipc.ErrNotConnected, gipc.ErrClosed)
		if d := time.Since(begun); d != 0 {
			t.Errorf("it ended %v after the peer's close", d)
		}
	})
}

// TestRequestWithoutAReader: a program that calls and never reads, whose peer sends
// nothing but replies, never has a full queue.
func TestRequestWithoutAReader(t *testing.T) {
	t.Parallel()
	server, client := transportNamed("unix").connect(t, false)
	echo(t, server)
	for i := range 300 {
		reply, err := client.Call(patience(t), 1, Payload(i, 10_000))
		if err != nil || !bytes.Equal(reply.Data, Payload(i, 10_000)) {
			t.Fatalf("call %d: %v", i, err)
		}
	}
	if s := client.Stats(); s.Dropped != 0 || s.Received != 0 {
		t.Errorf("%+v", s)
	}
}

// TestRequestReplyToACallerThatGaveUp is nil, and its caller counts it.
func TestRequestReplyToACallerThatGaveUp(t *testing.T) {
	onTransports(t, func(t *testing.T, tr transport, plain bool) {
		server, client := tr.connect(t, plain)
		for _, way := range [][2]requester{{client, server}, {server, client}} {
			caller, replier := way[0], way[1]
			ctx, cancel := context.WithCancel(t.Context())
			given := goCall(caller, ctx, 1, nil)
			m := nextRequest(t, replier)
			cancel()
			wantNoReply(t, "the call", given, gipc.ErrUnconfirmed, context.Canceled)
			other := goCall(caller, t.Context(), 2, nil)
			second := nextRequest(t, replier)
			WantErr(t, "Reply to a caller that gave up", m.Reply(7, []byte("late")))
			WantErr(t, "Reply", second.Reply(8, []byte("own")))
			wantReply(t, "another call", other, 8, []byte("own"))
			if s := caller.Stats(); s.Dropped != 1 || s.Calls != 2 {
				t.Errorf("%+v", s)
			}
			if s := replier.Stats(); s.Requests != 2 || s.Dropped != 0 && replier == requester(server) {
				t.Errorf("%+v", s)
			}
		}
	})
}

// TestRequestReplyAfterTheConnection: a reply never goes out on another connection.
func TestRequestReplyAfterTheConnection(t *testing.T) {
	t.Parallel()
	t.Run("client", func(t *testing.T) {
		t.Parallel()
		raw := ListenRaw(t, 2, PipePair)
		client, first := startPlainClient(t, raw)
		first.Send(requestFrame(1, 1, nil), requestFrame(2, 1, nil))
		early, late := nextRequest(t, client), nextRequest(t, client)
		first.Close()
		wantStatus(t, client, gipc.ReConnecting)
		err := early.Reply(2, nil)
		WantErr(t, "Reply while there is no connection, or the next one", err, gipc.ErrNotConnected)
		second := raw.Peer()
		wantStatus(t, client, gipc.Connected)
		ending := second.Finish()
		err = late.Reply(2, nil)
		WantErr(t, "Reply on the next connection", err, gipc.ErrNotConnected)
		RejectErr(t, "Reply on the next connection", err, gipc.ErrUnconfirmed)
		Must(t, client.Write(3, Payload(1, 10)))
		Do(t, "Close", client.Close)
		framesInOrder(t, Await(t, "the end", ending).Frames, 1)
	})
	t.Run("server", func(t *testing.T) {
		t.Parallel()
		sc, cc := transportNamed("unix").settings(t, false)
		server := startServer(t, sc)
		first := startClient(t, cc)
		given := goCall(first, t.Context(), 1, nil)
		m := nextRequest(t, server)
		first.Shutdown(ended())
		wantNoReply(t, "the call", given, gipc.ErrUnconfirmed)
		wantStatus(t, server, gipc.Disconnected)
		second := startClient(t, cc)
		open := goCall(second, t.Context(), 1, nil) // it has the same number
		own := nextRequest(t, server)
		err := m.Reply(2, []byte("for the first"))
		WantErr(t, "Reply", err, gipc.ErrNotConnected)
		RejectErr(t, "Reply", err, gipc.ErrUnconfirmed)
		Must(t, own.Reply(3, []byte("for the second")))
		wantReply(t, "the call of the second client", open, 3, []byte("for the second"))
		if s := second.Stats(); s.Dropped != 0 {
			t.Errorf("the reply went to the next client: %+v", s)
		}
	})
	t.Run("client of a pool", func(t *testing.T) {
		t.Parallel()
		server, clients := startPool(t, 2)
		var member *gipc.Server
		for s := range server.Connections.All() {
			if s.ID() == clients[0].ID() {
				member = s
			}
		}
		given := goCall(clients[0], t.Context(), 1, nil)
		m := nextRequest(t, member)
		clients[0].Shutdown(ended())
		wantNoReply(t, "the call", given, gipc.ErrUnconfirmed)
		wantStatus(t, member, gipc.Disconnected)
		err := m.Reply(2, nil) // as Write to a client that has gone for good
		if !errors.Is(err, gipc.ErrNotConnected) && !errors.Is(err, gipc.ErrClosed) || errors.Is(err, gipc.ErrUnconfirmed) {
			t.Errorf("Reply: %v", err)
		}
	})
}

// TestRequestReplyThatReportsALoss: a Reply that reports lost messages of Queue sends
// nothing itself, so that the request can still be answered.
func TestRequestReplyThatReportsALoss(t *testing.T) {
	t.Parallel()
	Bubble(t, func(t *testing.T) {
		raw := ListenRaw(t, 2, PipePair)
		client, first := startPlainClient(t, raw)
		for i := range 3 {
			Must(t, client.Queue(1, Payload(i, 10)))
		}
		first.Close()
		second := raw.Peer()
		wantStatus(t, client, gipc.ReConnecting)
		wantStatus(t, client, gipc.Connected)
		second.Send(requestFrame(1, 1, nil))
		m := nextRequest(t, client)
		err := m.Reply(2, []byte("x"))
		WantErr(t, "Reply, the first call after the loss", err, gipc.ErrNotConnected)
		if n := lossNumber(err); n != 3 {
			t.Errorf("Reply: %v, want the number 3", err)
		}
		ending := second.Finish()
		WantErr(t, "Reply, after an error that says that nothing was sent", Do(t, "Reply", func() error { return m.Reply(2, []byte("x")) }))
		Do(t, "Close", client.Close)
		if f := Await(t, "the end", ending).Frames; len(f) != 1 || f[0].ID != 1<<63|1 {
			t.Errorf("the peer has %v, want the reply", f)
		}
	})
	Bubble(t, func(t *testing.T) { // Call reports it as well
		raw := ListenRaw(t, 2, PipePair)
		client, first := startPlainClient(t, raw)
		Must(t, client.Queue(1, Payload(1, 10)))
		first.Close()
		second := raw.Peer()
		wantStatus(t, client, gipc.ReConnecting)
		wantStatus(t, client, gipc.Connected)
		err := wantNoReply(t, "Call", goCall(client, t.Context(), 1, nil), gipc.ErrNotConnected)
		if n := lossNumber(err); n != 1 {
			t.Errorf("Call: %v, want the number 1", err)
		}
		call := goCall(client, t.Context(), 2, nil)
		if f := wantRequest(t, second, 1); f.Type != 1<<31|2 {
			t.Errorf("the call that reported the loss was sent")
		}
		second.Send(replyFrame(1, 3, nil))
		wantReply(t, "the next call", call, 3, nil)
	})
}

// TestRequestFromWhatReads: who handles a message of a client calls that client, which
// calls too.
func TestRequestFromWhatReads(t *testing.T) {
	t.Parallel()
	n := 1000
	if raceOn() || testing.Short() {
		n = 100
	}
	for _, side := range sides() {
		t.Run(side.name, func(t *testing.T) {
			t.Parallel()
			reader, caller, read := side.make(t)
			progress := WatchProgress(t, "calls", func() {
				caller.Shutdown(ended())
				reader.Shutdown(ended())
			})
			done := Go(func() error {
				read(func(e requester, m *gipc.Message) {
					if !m.IsRequest() {
						return
					}
					reply, err := e.Call(context.Background(), 5, m.Data)
					if err != nil {
						if !errors.Is(err, gipc.ErrClosed) && !errors.Is(err, gipc.ErrUnconfirmed) && !errors.Is(err, gipc.ErrNotConnected) {
							t.Errorf("the call back: %v", err)
						}
						return
					}
					m.Reply(7, reply.Data)
				})
				return nil
			})
			echo(t, caller)
			call := func(i int) error {
				reply, err := caller.Call(context.Background(), 1, Payload(i, 50))
				if err != nil {
					return fmt.Errorf("call %d: %w", i, err)
				}
				if reply.MsgType != 7 || !bytes.Equal(reply.Data, Payload(i, 50)) {
					return fmt.Errorf("call %d: another reply", i)
				}
				progress.Move()
				return nil
			}
			var callers []func() error
			const concurrent = 4
			for k := range concurrent {
				callers = append(callers, func() error {
					for i := range n / concurrent {
						if err := call(k*n + i); err != nil {
							return err
						}
					}
					return nil
				})
			}
			results := make(chan error, concurrent)
			for _, f := range callers {
				go func() { results <- f() }()
			}
			for range callers {
				WantErr(t, "a caller", <-results) // the watchdog ends it
			}
			if t.Failed() {
				return
			}
			if s := reader.Stats(); s.Requests != uint64(n) || s.Calls != uint64(n) {
				t.Errorf("%+v, want %d requests and calls", s, n)
			}
			Do(t, "Shutdown", func() error { return caller.Shutdown(ended()) })
			Do(t, "Shutdown", func() error { return reader.Shutdown(ended()) })
			if !strings.Contains(side.name, "many") {
				Await(t, "the reader", done)
			}
		})
	}
}

// TestLargeRequestsAtClose: callers with small and with large requests, whose data is
// not copied, end while either side closes.
func TestLargeRequestsAtClose(t *testing.T) {
	t.Parallel()
	for round := range 100 {
		server, client := transportNamed("unix").connect(t, false)
		go func() {
			for m := range server.Messages(context.Background()) {
				if m != nil {
					m.Reply(2, nil)
				}
			}
		}()
		var wg sync.WaitGroup
		started := make(chan bool, 1)
		for caller := range 8 {
			wg.Go(func() {
				for i := 0; ; i++ {
					reply, err := client.Call(patience(t), 1, Payload(i, 10+40_000*((i+caller)%2)))
					switch {
					case err == nil && reply.MsgType == 2:
					case errors.Is(err, gipc.ErrClosed), errors.Is(err, gipc.ErrNotConnected), errors.Is(err, gipc.ErrUnconfirmed):
						return
					default:
						t.Errorf("a call: %v, %v", reply, err)
						return
					}
					if i == round%7 {
						select {
						case started <- true:
						default:
						}
					}
				}
			})
		}
		<-started
		closers := []interface{ Close() error }{client, server}
		Do(t, "Close", closers[round%2].Close)
		Do(t, "the callers", func() error { wg.Wait(); return nil })
		Do(t, "the other Close", closers[1-round%2].Close)
	}
}

// TestRequestAmongMessages: messages before and behind a reply are delivered in order,
// no matter who reads.
func TestRequestAmongMessages(t *testing.T) {
	t.Parallel()
	t.Run("one batch", func(t *testing.T) {
		t.Parallel()
		client, peer := startPlainClient(t, ListenRaw(t, 1, PipePair))
		call := goCall(client, t.Context(), 1, nil)
		wantRequest(t, peer, 1)
		var batch []byte
		for i := range 10 {
			batch = append(batch, User(1, Payload(i, 100))...)
			if i == 5 {
				batch = append(batch, replyFrame(1, 2, []byte("reply"))...)
			}
		}
		peer.Send(batch)
		wantReply(t, "the call", call, 2, []byte("reply"))
		for i := range 10 {
			wantMessage(t, client, 1, Payload(i, 100))
		}
	})
	t.Run("the only reader", func(t *testing.T) {
		t.Parallel()
		server, client := transportNamed("unix").connect(t, false)
		const n = 320 // with 128 bytes each beside their data they fit into the queue
		written := 0
		answered := Go(func() error {
			for m, err := range server.Messages(context.Background()) {
				if err != nil {
					return err
				}
				for range 4 {
					if err := server.Write(1, Payload(written, 50)); err != nil {
						return err
					}
					written++
				}
				if err := m.Reply(2, nil); err != nil {
					return err
				}
				if written == n {
					return nil
				}
			}
			return nil
		})
		for i := range n / 4 {
			if _, err := client.Call(patience(t), 1, Payload(i, 20)); err != nil {
				t.Fatalf("call %d: %v", i, err)
			}
		}
		Must(t, Await(t, "the other side", answered))
		for i := range n {
			wantMessage(t, client, 1, Payload(i, 50))
		}
	})
	t.Run("concurrent readers", func(t *testing.T) {
		onTransports(t, func(t *testing.T, tr transport, plain bool) {
			server, client := tr.connect(t, plain)
			const n = 1000
			whileMoving(t, []requester{client, server},
				func(move func()) error { // writes, and answers between
					next := 0
					for m, err := range server.Messages(context.Background()) {
						if err != nil {
							return err
						}
						for end := min(next+7, n); next < end; next++ {
							if err := server.Write(1, Payload(next, []int{10, 100, 20_000}[next%3])); err != nil {
								return err
							}
						}
						if err := m.Reply(2, m.Data); err != nil {
							return err
						}
						if next == n {
							return nil
						}
					}
					return nil
				},
				func(move func()) error {
					for i := range (n + 6) / 7 {
						reply, err := client.Call(context.Background(), 1, Payload(i, 30))
						if err != nil {
							return err
						}
						if numberOf(reply.Data) != i {
							return fmt.Errorf("call %d has the reply to call %d", i, numberOf(reply.Data))
						}
					}
					return nil
				},
				func(move func()) error { // one reader in three ways, so that order can be seen
					for i, tries := 0, 0; i < n; tries++ {
						var m *gipc.Message
						var err error
						switch tries % 3 {
						case 0:
							m, err = client.ReadTimed(0)
						case 1:
							m, err = client.ReadTimed(time.Millisecond)
						default:
							m, err = client.Read()
						}
						switch {
						case err != nil:
							return err
						case m.MsgType == 2:
							return errors.New("a reply came to a reader")
						case m.MsgType == 1:
							if numberOf(m.Data) != i || !bytes.Equal(m.Data, Payload(i, len(m.Data))) {
								return fmt.Errorf("got message %d, want message %d", numberOf(m.Data), i)
							}
							i++
							move()
						}
					}
					return nil
				})
		})
	})
}

// TestRequestLeavesLimitsAlone: reads keep their limits while a Call reads.
func TestRequestLeavesLimitsAlone(t *testing.T) {
	t.Parallel()
	Bubble(t, func(t *testing.T) {
		client, peer := startPlainClient(t, ListenRaw(t, 1, PipePair))
		wantStatus(t, client, gipc.Connected)
		if m, err := client.ReadTimed(time.Second); m != gipc.TimeoutMessage || err != nil { // nobody reads in the background now
			t.Errorf("ReadTimed: %v, %v", m, err)
		}
		call := goCall(client, t.Context(), 1, nil)
		wantRequest(t, peer, 1)
		stillOpen(t, "the call", call) // it reads
		begun := time.Now()
		lasts := func(what string, want time.Duration) {
			t.Helper()
			if d := time.Since(begun); d != want {
				t.Errorf("%s took %v, want %v", what, d, want)
			}
			begun = time.Now()
		}
		for _, d := range []time.Duration{0, -1, 2 * time.Second, time.Nanosecond, time.Hour} {
			if m, err := client.ReadTimed(d); m != gipc.TimeoutMessage || err != nil {
				t.Errorf("ReadTimed(%v): %v, %v", d, m, err)
			}
			lasts(fmt.Sprintf("ReadTimed(%v)", d), max(d, 0))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := client.ReadContext(ctx)
		WantErr(t, "ReadContext", err, context.DeadlineExceeded)
		lasts("ReadContext", 3*time.Second)
		err = client.ReadInto(ctx, new(gipc.Message))
		WantErr(t, "ReadInto", err, context.DeadlineExceeded)
		lasts("ReadInto", 0)
		stillOpen(t, "the call", call)

		peer.Send(User(5, []byte("a")), User(6, []byte("b")))
		synctest.Wait()
		for _, msgType := range []int{5, 6} {
			if m, err := client.ReadTimed(0); err != nil || m.MsgType != msgType {
				t.Errorf("ReadTimed(0) after message %d came: %v, %v", msgType, m, err)
			}
		}
		read := Go(func() error { _, err := client.Read(); return err })
		synctest.Wait()
		peer.Send(replyFrame(1, 9, []byte("x")))
		wantReply(t, "the call", call, 9, []byte("x"))
		synctest.Wait()
		select {
		case err := <-read:
			t.Errorf("the reply ended Read: %v", err)
		default:
		}
		peer.Send(User(7, nil))
		Must(t, Await(t, "Read", read))
		lasts("messages", 0)
	})
}

// TestRequestStats: what requests and replies count as.
func TestRequestStats(t *testing.T) {
	t.Parallel()
	for _, multi := range []bool{false, true} {
		t.Run(fmt.Sprintf("multi %v", multi), func(t *testing.T) {
			t.Parallel()
			sc, cc := transportNamed("pipe").settings(t, false)
			sc.MultiClient = multi
			server := startServer(t, sc)
			client := startClient(t, cc)
			var end requester = server
			if multi {
				Eventually(t, "the client is there", func() bool { return server.Connections.Len() == 1 })
				for s := range server.Connections.All() {
					end = s
				}
			}
			for i := range 3 { // three requests of 10 bytes, answered with 1000
				call := goCall(client, t.Context(), 1, Payload(i, 10))
				m := nextRequest(t, end)
				Must(t, m.Reply(2, Payload(i, 1000)))
				wantReply(t, "the call", call, 2, Payload(i, 1000))
			}
			Must(t, client.Write(1, Payload(1, 100)))
			wantMessage(t, end, 1, Payload(1, 100))
			call := goCall(end, t.Context(), 3, Payload(1, 9)) // and one back, answered with nothing
			Must(t, nextRequest(t, client).Reply(4, nil))
			wantReply(t, "the call back", call, 4, nil)
			ctx, cancel := context.WithCancel(t.Context())
			given := goCall(client, ctx, 1, nil) // and one that is given up
			m := nextRequest(t, end)
			cancel()
			wantNoReply(t, "the call", given, gipc.ErrUnconfirmed)
			Must(t, m.Reply(2, nil))
			Must(t, end.Write(5, nil))
			wantMessage(t, client, 5, nil)
			check := func(what string, e endpoint, want gipc.Stats) {
				t.Helper()
				if s := e.Stats(); s != want {
					t.Errorf("%s: %+v, want %+v", what, s, want)
				}
			}
			of := gipc.Stats{Sent: 2, SentBytes: 9, Received: 5, ReceivedBytes: 130, Calls: 1, Requests: 4}
			check("client", client, gipc.Stats{Sent: 5, SentBytes: 130, Received: 2, ReceivedBytes: 9, Calls: 4, Requests: 1, Dropped: 1})
			check("its server", end, of)
			check("the whole server", server, of)
			Must(t, Do(t, "Close", client.Close))
			wantStatus(t, end, gipc.Disconnected)
			check("client at the end", client, gipc.Stats{Sent: 5, SentBytes: 130, Received: 2, ReceivedBytes: 9, Calls: 4, Requests: 1, Dropped: 1})
			Eventually(t, "the connection is over", func() bool { return server.Stats() == of })
		})
	}
}

// TestRequestHostilePeer: what peers may send, and what they may not.
func TestRequestHostilePeer(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		sent    []byte
		err     error // nil: the connection lives
		dropped uint64
	}{
		"a reply to nothing":              {replyFrame(5, 1, nil), nil, 1},
		"a reply of the largest number":   {replyFrame(1<<63-1, 1, nil), nil, 1},
		"three replies to nothing":        {bytes.Join([][]byte{replyFrame(7, 1, nil), replyFrame(7, 1, nil), replyFrame(2, 1, Payload(1, 100_000))}, nil), nil, 3},
		"a reply to request 0":            {replyFrame(0, 1, nil), gipc.ErrMalformed, 0},
		"request 0":                       {requestFrame(0, 1, nil), gipc.ErrMalformed, 0},
		"request 2 first":                 {requestFrame(2, 1, nil), gipc.ErrMalformed, 0},
		"request 1 twice":                 {append(requestFrame(1, 1, nil), requestFrame(1, 1, nil)...), gipc.ErrMalformed, 0},
		"request 1, then 3":               {append(requestFrame(1, 1, nil), requestFrame(3, 1, nil)...), gipc.ErrMalformed, 0},
		"a large request with a gap":      {requestFrame(2, 1, Payload(1, 50_000)), gipc.ErrMalformed, 0},
		"type 0 with an id":               {requestFrame(1, 0, nil), gipc.ErrMalformed, 0},
		"a request without room for a id": {[]byte{0, 0, 0, 11, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1}, gipc.ErrMalformed, 0},
	} {
		for _, reads := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, reads %v", name, reads), func(t *testing.T) {
				t.Parallel()
				Bubble(t, func(t *testing.T) {
					client, peer := startPlainClient(t, ListenRaw(t, 1, PipePair))
					wantStatus(t, client, gipc.Connected)
					call := goCall(client, t.Context(), 1, nil)
					wantRequest(t, peer, 1)
					var read <-chan *gipc.Message
					if reads {
						read = Go(func() *gipc.Message {
							for {
								m, err := client.Read()
								if err != nil || m.MsgType == -1 {
									return m
								}
							}
						})
					}
					synctest.Wait()
					sent := Go(func() error { _, err := peer.Write(c.sent); return err }) // it may be cut off
					if c.err == nil {
						Must(t, Await(t, "what the peer sends", sent))
						stillOpen(t, "the call", call)
						if s := client.Stats(); s.Dropped != c.dropped {
							t.Errorf("%d dropped, want %d", s.Dropped, c.dropped)
						}
						peer.Send(replyFrame(1, 2, []byte("own")))
						wantReply(t, "the call", call, 2, []byte("own"))
						peer.Send(replyFrame(1, 2, []byte("again")))
						synctest.Wait()
						if s := client.Stats(); s.Dropped != c.dropped+1 && reads {
							t.Errorf("%d dropped after the second reply, want %d", s.Dropped, c.dropped+1)
						}
						call = goCall(client, t.Context(), 1, nil)
						wantRequest(t, peer, 2)
						stillOpen(t, "the second call", call)
						if s := client.Stats(); s.Dropped != c.dropped+1 {
							t.Errorf("%d dropped after the second reply, want %d", s.Dropped, c.dropped+1)
						}
						peer.Send(replyFrame(2, 3, nil))
						wantReply(t, "the second call", call, 3, nil)
						client.Shutdown(ended())
					} else {
						err := wantNoReply(t, "the call", call, gipc.ErrUnconfirmed, c.err)
						RejectErr(t, "the call", err, gipc.ErrNotConnected)
						if !reads {
							m := wantStatus(t, client, gipc.ReConnecting)
							WantErr(t, "the loss", m.Err, c.err)
						}
					}
					if reads {
						if m := Await(t, "Read", read); c.err != nil {
							WantErr(t, "the loss", m.Err, c.err)
						}
					}
					peer.Close()
					if c.err != nil {
						<-sent
					}
				})
			})
		}
	}
}

// TestRequestOfAnotherClient: a client that answers with the number of another one's
// call reaches no call of that.
func TestRequestOfAnotherClient(t *testing.T) {
	t.Parallel()
	Bubble(t, func(t *testing.T) {
		network := &PipeNetwork{}
		server := startServer(t, &gipc.ServerConfig{Name: "test", Encryption: gipc.EncryptionOff, Heartbeat: -1, Listener: network.Listen(), MultiClient: true})
		good, bad := dialRaw(t, network), dialRaw(t, network)
		members := map[uint64]*gipc.Server{}
		Eventually(t, "both clients", func() bool {
			for s := range server.Connections.All() {
				members[s.ID()] = s
			}
			return len(members) == 2
		})
		call := goCall(members[1], t.Context(), 1, nil)
		wantRequest(t, good, 1)
		bad.Send(replyFrame(1, 6, []byte("stolen")))
		<-time.After(2 * time.Second)
		stillOpen(t, "the call", call)
		if s := members[2].Stats(); s.Dropped != 1 {
			t.Errorf("%d dropped, want 1", s.Dropped)
		}
		good.Send(replyFrame(1, 7, []byte("own")))
		wantReply(t, "the call", call, 7, []byte("own"))
	})
}
