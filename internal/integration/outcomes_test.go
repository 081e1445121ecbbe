//lint:file-ignore ST1008 the error is what a table gives first

package integration_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/gipc"
	. "example.com/gipc/internal/testutil"
)

// An outcome is what a call that sends may return, and whether its message may
// arrive.
type outcome struct {
	is      []error // the error matches all of these; none: it is nil
	not     []error // and none of these
	arrives arrival
}

type arrival int

const (
	may arrival = iota
	must
	mustNot
)

// The outcomes of api-next.md. A call's own error is one of the first three
// sentinels alone.
var (
	sent         = outcome{nil, nil, must}
	notConnected = outcome{[]error{gipc.ErrNotConnected}, []error{gipc.ErrUnconfirmed, gipc.ErrClosed}, mustNot}
	unconfirmed  = outcome{[]error{gipc.ErrUnconfirmed}, []error{gipc.ErrNotConnected}, may}
	closed       = outcome{[]error{gipc.ErrClosed}, []error{gipc.ErrUnconfirmed, gipc.ErrNotConnected}, mustNot}
	canceled     = outcome{[]error{context.Canceled}, []error{gipc.ErrUnconfirmed, gipc.ErrNotConnected, gipc.ErrClosed}, mustNot}
	// The context, or Close, ended a call whose message had been accepted: it goes out all the same.
	canceledLate = outcome{[]error{gipc.ErrUnconfirmed, context.Canceled}, []error{gipc.ErrNotConnected}, must}
	closedLate   = outcome{[]error{gipc.ErrUnconfirmed, gipc.ErrClosed}, []error{gipc.ErrNotConnected}, must}
	nothing      = outcome{nil, nil, mustNot} // nil, and there was nothing to send
)

// A sendCall is one call that sends.
type sendCall struct {
	name    string
	many    bool                                                                   // of a server of many clients
	context bool                                                                   // it takes a context
	before  func(e endpoint) error                                                 // while the peer is connected
	call    func(ctx context.Context, e endpoint, pool *gipc.ConnectionPool) error // the call itself
	size    int
}

// messageType is the type of the message that is looked for. Its size is more
// than a pipe or Queue holds.
const messageType = 7

var sendCalls = []sendCall{
	{name: "Write", size: 5000, call: func(_ context.Context, e endpoint, _ *gipc.ConnectionPool) error {
		return e.Write(messageType, Payload(1, 5000))
	}},
	{name: "WriteContext", size: 5000, context: true, call: func(ctx context.Context, e endpoint, _ *gipc.ConnectionPool) error {
		return e.WriteContext(ctx, messageType, Payload(1, 5000))
	}},
	{name: "Write large", size: 50_000, call: func(_ context.Context, e endpoint, _ *gipc.ConnectionPool) error {
		return e.Write(messageType, Payload(1, 50_000))
	}},
	{name: "WriteContext large", size: 50_000, context: true, call: func(ctx context.Context, e endpoint, _ *gipc.ConnectionPool) error {
		return e.WriteContext(ctx, messageType, Payload(1, 50_000))
	}},
	{name: "Queue", size: 100_000, call: func(_ context.Context, e endpoint, _ *gipc.ConnectionPool) error {
		return e.Queue(messageType, Payload(1, 100_000))
	}},
	{name: "Flush", size: 5000, before: func(e endpoint) error { return e.Queue(messageType, Payload(1, 5000)) },
		call: func(_ context.Context, e endpoint, _ *gipc.ConnectionPool) error { return e.Flush() }},
	{name: "Broadcast", size: 5000, many: true, context: true, call: func(ctx context.Context, _ endpoint, pool *gipc.ConnectionPool) error {
		return pool.Broadcast(ctx, messageType, Payload(1, 5000))
	}},
	{name: "Close", size: 5000, before: func(e endpoint) error { return e.Queue(messageType, Payload(1, 5000)) },
		call: func(_ context.Context, e endpoint, _ *gipc.ConnectionPool) error { return e.Close() }},
	{name: "Shutdown", size: 5000, context: true, before: func(e endpoint) error { return e.Queue(messageType, Payload(1, 5000)) },
		call: func(ctx context.Context, e endpoint, _ *gipc.ConnectionPool) error { return e.Shutdown(ctx) }},
}

// A stage is an endpoint under test and its raw peer.
type stage struct {
	t    *testing.T
	e    endpoint
	pool *gipc.ConnectionPool
	peer *RawPeer
	call sendCall
	ctx  context.Context
	stop context.CancelFunc
	part []byte // what the peer has read of the frame that is on its way
}

func newStage(t *testing.T, call sendCall) *stage {
	s := &stage{t: t, call: call}
	s.ctx, s.stop = context.WithCancel(context.Background())
	t.Cleanup(s.stop)
	if call.many {
		server, peer := startPlainServer(t, &gipc.ServerConfig{MultiClient: true})
		s.e, s.pool, s.peer = server, server.Connections, peer
		Eventually(t, "the client in the pool", func() bool { return server.Connections.Len() == 1 })
	} else {
		s.e, s.peer = startPlainClient(t, ListenRaw(t, 1, PipePair))
	}
	synctest.Wait()
	return s
}

func (s *stage) prepare() {
	s.t.Helper()
	if s.call.before != nil {
		Must(s.t, Do(s.t, "a call before", func() error { return s.call.before(s.e) }))
	}
}

// start makes the call in the background.
func (s *stage) start() <-chan error {
	return Go(func() error { return s.call.call(s.ctx, s.e, s.pool) })
}

// read has the peer read a few bytes of what is on its way.
func (s *stage) read() {
	s.t.Helper()
	s.part = s.peer.ReadPart(5)
	synctest.Wait()
}

// writer blocks a Write of another goroutine in the connection.
func (s *stage) writer(size int) <-chan error {
	s.t.Helper()
	err := Go(func() error {
		if s.pool != nil {
			ctx, cancel := context.WithTimeout(context.Background(), time.Hour) // longer than Broadcast's own limit
			defer cancel()
			return s.pool.Broadcast(ctx, 1, Payload(1, size))
		}
		return s.e.Write(1, Payload(1, size))
	})
	s.read()
	return err
}

// A situation is where the peer, the context and this side are when the call is
// made. run returns the call's error and what the peer has read until the end.
type situation struct {
	name string
	run  func(s *stage) (error, Ending)
	want func(c sendCall) (outcome, bool) // false: the situation does not exist for the call
}

// isClosing reports whether the call closes its endpoint.
func (c sendCall) isClosing() bool { return c.name == "Close" || c.name == "Shutdown" }

// finish lets the peer read on, closes the endpoint and returns what came.
func (s *stage) finish() Ending {
	s.t.Helper()
	ending := s.peer.Finish(s.part...)
	Do(s.t, "Close at the end", s.e.Close)
	return Await(s.t, "what the peer has read", ending)
}

func all(o outcome) func(sendCall) (outcome, bool) {
	return func(sendCall) (outcome, bool) { return o, true }
}

var situations = []situation{
	{"connected", func(s *stage) (error, Ending) {
		s.prepare()
		ending := s.peer.Finish()
		err := Await(s.t, s.call.name, s.start())
		Do(s.t, "Close at the end", s.e.Close)
		return err, Await(s.t, "what the peer has read", ending)
	}, all(sent)},

	{"peer gone before", func(s *stage) (error, Ending) {
		s.prepare()
		s.peer.Close()
		s.gone()
		return Await(s.t, s.call.name, s.start()), Ending{}
	}, func(c sendCall) (outcome, bool) {
		switch {
		case c.many:
			return nothing, true // it has no client
		case c.isClosing():
			// A queued message is lost, and no call has reported it: Close does, with
			// either of the two errors that report a loss.
			return outcome{[]error{errLoss}, []error{gipc.ErrClosed}, mustNot}, true
		}
		return notConnected, true
	}},

	{"peer gone during", func(s *stage) (error, Ending) {
		s.prepare()
		err := s.start()
		s.read()
		s.peer.Close()
		return Await(s.t, s.call.name, err), Ending{}
	}, func(c sendCall) (outcome, bool) {
		if c.isClosing() { // it may also report the queued message as not sent
			return outcome{[]error{gipc.ErrUnconfirmed}, nil, may}, true
		}
		return unconfirmed, true
	}},

	{"context ended before", func(s *stage) (error, Ending) {
		s.stop()
		err := Await(s.t, s.call.name, s.start())
		return err, s.finish()
	}, func(c sendCall) (outcome, bool) { return canceled, c.context && !c.isClosing() }},

	{"context ends in the connection", func(s *stage) (error, Ending) {
		s.prepare()
		err := s.start()
		s.read()
		s.stop()
		result := Await(s.t, s.call.name, err)
		return result, s.finish()
	}, func(c sendCall) (outcome, bool) {
		if c.isClosing() {
			return outcome{[]error{gipc.ErrUnconfirmed}, nil, may}, c.context
		}
		return canceledLate, c.context
	}},

	{"context ends behind a writer", func(s *stage) (error, Ending) {
		other := s.writer(5000)
		err := s.start()
		synctest.Wait()
		s.stop()
		result := Await(s.t, s.call.name, err)
		ending := s.peer.Finish(s.part...)
		WantErr(s.t, "the writer before it", Await(s.t, "the writer before it", other))
		WantErr(s.t, "Close at the end", Do(s.t, "Close at the end", s.e.Close))
		return result, Await(s.t, "what the peer has read", ending)
	}, func(c sendCall) (outcome, bool) {
		return outcome{is: []error{context.Canceled}, not: []error{gipc.ErrNotConnected}, arrives: asError}, c.context && !c.isClosing()
	}},

	{"context ends behind more than 64 KiB", func(s *stage) (error, Ending) {
		other := s.writer(5000)
		var more []<-chan error
		for range 2 { // one of them is accepted, and fills what may wait
			more = append(more, Go(func() error { return s.e.Write(2, Payload(2, 70_000)) }))
			synctest.Wait()
		}
		err := s.start()
		synctest.Wait()
		s.stop()
		result := Await(s.t, s.call.name, err)
		ending := s.peer.Finish(s.part...)
		for _, c := range append(more, other) {
			WantErr(s.t, "a writer before it", Await(s.t, "a writer before it", c))
		}
		WantErr(s.t, "Close at the end", Do(s.t, "Close at the end", s.e.Close))
		return result, Await(s.t, "what the peer has read", ending)
	}, func(c sendCall) (outcome, bool) { return canceled, c.context && !c.isClosing() && !c.many }},

	{"Close during", func(s *stage) (error, Ending) {
		s.prepare()
		err := s.start()
		s.read()
		closing := Go(s.e.Close)
		result := err
		var e error
		if !s.call.isClosing() { // it returns at once, before the peer reads on
			e = Await(s.t, s.call.name, result)
		}
		ending := s.peer.Finish(s.part...)
		WantErr(s.t, "Close", Await(s.t, "Close", closing))
		if s.call.isClosing() {
			e = Await(s.t, s.call.name, result)
		}
		return e, Await(s.t, "what the peer has read", ending)
	}, func(c sendCall) (outcome, bool) {
		if c.isClosing() {
			return sent, true // the second call waits for the first, and both return nil
		}
		return closedLate, true
	}},

	{"peer closed", func(s *stage) (error, Ending) {
		s.peer.SendClose()
		ending := s.peer.Finish()
		s.gone()
		return Await(s.t, s.call.name, s.start()), Await(s.t, "what the peer has read", ending)
	}, func(c sendCall) (outcome, bool) {
		if c.many || c.isClosing() {
			return nothing, true
		}
		return notConnected, true
	}},

	{"peer closed, a message is queued", func(s *stage) (error, Ending) {
		// A side that reads a close writes what it has accepted.
		s.prepare()
		s.peer.SendClose()
		ending := s.peer.Finish()
		e := Await(s.t, "what the peer has read", ending)
		s.gone()
		return Await(s.t, s.call.name, s.start()), e
	}, func(c sendCall) (outcome, bool) {
		if c.isClosing() {
			return sent, true
		}
		return outcome{[]error{gipc.ErrNotConnected}, []error{gipc.ErrUnconfirmed, gipc.ErrClosed}, must}, c.before != nil
	}},

	{"after Close", func(s *stage) (error, Ending) {
		ending := s.peer.Finish()
		WantErr(s.t, "the first Close", Do(s.t, "the first Close", s.e.Close))
		return Await(s.t, s.call.name, s.start()), Await(s.t, "what the peer has read", ending)
	}, func(c sendCall) (outcome, bool) {
		if c.isClosing() {
			return nothing, true
		}
		return closed, !c.many // Broadcast has no client then; see below
	}},
}

// errLoss stands for either of the two errors that report lost messages, and
// asError for an arrival that follows from the error.
var errLoss = errors.New("ErrNotConnected or ErrUnconfirmed")

const asError arrival = 99

// gone waits until the endpoint has noticed that its peer is gone.
func (s *stage) gone() {
	s.t.Helper()
	Eventually(s.t, "the loss", func() bool {
		if s.pool != nil {
			return s.pool.Len() == 0
		}
		return s.e.StatusCode() == gipc.ReConnecting
	})
}

// TestOutcomes makes every call that sends in every situation.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	for _, where := range situations {
		for _, call := range sendCalls {
			want, ok := where.want(call)
			if !ok {
				continue
			}
			t.Run(where.name+"/"+call.name, func(t *testing.T) {
				t.Parallel()
				Bubble(t, func(t *testing.T) {
					err, ending := where.run(newStage(t, call))
					checkOutcome(t, call, want, err, ending)
				})
			})
		}
	}
}

func checkOutcome(t *testing.T, call sendCall, want outcome, err error, ending Ending) {
	t.Helper()
	if call.many && err != nil {
		var ce *gipc.ClientError
		if !errors.As(err, &ce) && !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want a ClientError", err)
		}
	}
	if i := slices.Index(want.is, errLoss); i >= 0 {
		if !errors.Is(err, gipc.ErrNotConnected) && !errors.Is(err, gipc.ErrUnconfirmed) {
			t.Errorf("%s: %v, want %v", call.name, err, errLoss)
		}
		want.is = slices.Delete(slices.Clone(want.is), i, i+1)
	} else {
		WantErr(t, call.name, err, want.is...)
	}
	RejectErr(t, call.name, err, want.not...)
	n := 0
	for _, f := range ending.Frames {
		if f.Type == messageType {
			n++
			if len(f.Data) != call.size {
				t.Errorf("%d bytes arrived, want %d", len(f.Data), call.size)
			}
		}
	}
	arrives := want.arrives
	if arrives == asError {
		if arrives = mustNot; errors.Is(err, gipc.ErrUnconfirmed) {
			arrives = must
		}
	}
	if n > 1 || arrives == must && n != 1 || arrives == mustNot && n != 0 {
		t.Errorf("the message arrived %d times: %s (error: %v)", n,
			map[arrival]string{may: "want at most once", must: "want once", mustNot: "want never"}[arrives], err)
	}
}

// TestOutcomesBeforeTheFirstConnection makes the calls while no peer has come:
// they wait for one.
func TestOutcomesBeforeTheFirstConnection(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"a client comes", "context ends", "context ended before", "Close"} {
		for _, call := range sendCalls {
			if call.many || call.name == "Flush" || call.isClosing() || strings.HasPrefix(end, "context") && !call.context {
				continue
			}
			t.Run(end+"/"+call.name, func(t *testing.T) {
				t.Parallel()
				Bubble(t, func(t *testing.T) {
					network := &PipeNetwork{}
					server := startServer(t, &gipc.ServerConfig{Name: "test", Encryption: gipc.EncryptionOff, Heartbeat: -1, Listener: network.Listen()})
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					if end == "context ended before" {
						cancel()
					}
					result := Go(func() error { return call.call(ctx, server, nil) })
					synctest.Wait()
					var want outcome
					var peer *RawPeer
					switch end {
					case "a client comes":
						select {
						case err := <-result:
							t.Fatalf("returned %v before a client came", err)
						default:
						}
						peer, want = dialRaw(t, network), sent
					case "context ends", "context ended before":
						cancel()
						want = canceled
					case "Close":
						WantErr(t, "Close", Do(t, "Close", server.Close))
						checkOutcome(t, call, closed, Await(t, call.name, result), Ending{})
						return
					}
					if peer == nil {
						checkOutcome(t, call, want, Await(t, call.name, result), Ending{})
						peer = dialRaw(t, network) // nothing comes late
					}
					ending := peer.Finish()
					if end == "a client comes" {
						err := Await(t, call.name, result)
						WantErr(t, call.name, err)
					}
					WantErr(t, "Close", Do(t, "Close", server.Close))
					e := Await(t, "what the peer has read", ending)
					if end == "a client comes" {
						checkOutcome(t, call, want, nil, e)
					} else if len(e.Frames) > 0 {
						t.Errorf("%d messages arrived late", len(e.Frames))
					}
				})
			})
		}
	}
}

// TestOutcomesOfRefusedMessages: what can never be sent is refused before
// anything else is looked at, or as soon as the peer is known.
func TestOutcomesOfRefusedMessages(t *testing.T) {
	t.Parallel()
	Bubble(t, func(t *testing.T) {
		client, peer := startPlainClient(t, ListenRaw(t, 1, PipePair))
		ending := peer.Finish()
		for name, write := range map[string]func(int, []byte) error{
			"Write": client.Write, "Queue": client.Queue,
			"WriteContext": func(n int, b []byte) error { return client.WriteContext(context.Background(), n, b) },
		} {
			for _, bad := range []int{0, -1, -1 << 31} {
				err := Do(t, name, func() error { return write(bad, nil) })
				WantErr(t, fmt.Sprint(name, " of type ", bad), err, gipc.ErrReservedType)
				RejectErr(t, name, err, gipc.ErrUnconfirmed, gipc.ErrNotConnected)
			}
			err := Do(t, name, func() error { return write(1, make([]byte, 4<<20+1)) })
			var size *gipc.SizeError
			WantErr(t, name+" of too much", err, gipc.ErrTooLarge)
			RejectErr(t, name, err, gipc.ErrUnconfirmed, gipc.ErrNotConnected)
			if !errors.As(err, &size) || size.Limit != 4<<20 {
				t.Errorf("%s of too much: %v, want a SizeError", name, err)
			}
		}
		Must(t, client.Write(messageType, nil))
		WantErr(t, "Close", Do(t, "Close", client.Close))
		if e := Await(t, "the end", ending); len(e.Frames) != 1 {
			t.Errorf("%d messages arrived, want the last one alone", len(e.Frames))
		}
	})
}

// TestSecondCloseWaits: the first Close alone reports; a later Shutdown whose
// context ends hurries it.
func TestSecondCloseWaits(t *testing.T) {
	t.Parallel()
	Bubble(t, func(t *testing.T) {
		client, peer := startPlainClient(t, ListenRaw(t, 1, PipePair))
		Must(t, client.Queue(1, Payload(1, 100)))
		start := time.Now()
		first := Go(client.Close)
		synctest.Wait()
		second := Go(client.Close)
		WantErr(t, "Shutdown with an ended context", Do(t, "Shutdown", func() error { return client.Shutdown(ended()) }), context.Canceled)
		WantErr(t, "the first Close", Await(t, "the first Close", first), gipc.ErrUnconfirmed)
		WantErr(t, "the second Close", Await(t, "the second Close", second))
		if d := time.Since(start); d > 2*time.Second {
			t.Errorf("a hurried Close took %v", d)
		}
		peer.Close()
	})
}
