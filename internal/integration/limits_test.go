//lint:file-ignore ST1008 the error is what a table gives first

package integration_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/gipc"
	. "example.com/gipc/internal/testutil"
)

// What is promised of time and truth: a nil Close means that it is there, Close and
// every call keep their limits whatever the peer and the code of the user do, and
// the totals are right when it is over.

// A seat is an endpoint under test in one of its roles, with a raw peer.
type seat struct {
	role string
	e    endpoint // whose Close is looked at
	conn endpoint // the end of the connection: e, or the client of its pool
	pool *gipc.ConnectionPool
	peer *RawPeer
}

var roles = []string{"client", "server", "pool client", "multi-client server"}

// takeSeat connects an endpoint over a pair of connections, of which it has the
// first one.
func takeSeat(t *testing.T, role string, pair func() (net.Conn, net.Conn, error)) *seat {
	t.Helper()
	if role == "client" {
		client, peer := startPlainClient(t, ListenRaw(t, 1, pair))
		return &seat{role, client, client, nil, peer}
	}
	l := NewHandListener(1)
	server := startServer(t, &gipc.ServerConfig{Name: "test", Encryption: gipc.EncryptionOff, Heartbeat: -1, MultiClient: role != "server", Listener: l})
	near, far, err := pair()
	Must(t, err)
	l.Hand(near)
	peer := NewRawPeer(t, far)
	Must(t, Do(t, "the handshake", peer.ClientHandshake))
	if role == "server" {
		waitConnected(t, server)
		return &seat{role, server, server, server.Connections, peer}
	}
	s := &seat{role, server, theClient(t, server), server.Connections, peer}
	if role == "pool client" {
		s.e = s.conn
	}
	return s
}

// theClient returns the only client of a server.
func theClient(t *testing.T, server *gipc.Server) *gipc.Server {
	t.Helper()
	Eventually(t, "the client in the pool", func() bool { return server.Connections.Len() == 1 })
	for s := range server.Connections.All() {
		return s
	}
	t.Fatal("the client has left")
	return nil
}

// lossStatus is what the end of a connection is called in a role.
func (s *seat) lossStatus() gipc.Status {
	if s.role == "client" {
		return gipc.ReConnecting
	}
	return gipc.Disconnected
}

// settle waits until everybody waits for something, where that can be known.
func settle() {
	if InBubble() {
		synctest.Wait()
	}
}

// inPlace runs f in a bubble if its connections are in memory.
func inPlace(t *testing.T, pair string, f func(t *testing.T)) {
	t.Helper()
	if pair == "pipe" || pair == "no deadlines" {
		Bubble(t, f)
		return
	}
	f(t)
}

// within makes a call that has to return within a limit. Only the clock of a bubble
// can tell; elsewhere the call just has to return.
func within(t testing.TB, what string, limit time.Duration, f func() error) error {
	t.Helper()
	start := time.Now()
	err := Do(t, what, f)
	if d := time.Since(start); InBubble() && d > limit {
		t.Errorf("%s took %v, want at most %v", what, d, limit)
	}
	return err
}

// answerClose reads until the close and the close-ack of the other side, answers
// with a close-ack of the given byte, or hangs up if that is negative.
func answerClose(p *RawPeer, answer int) <-chan Ending {
	return Go(func() (e Ending) {
		defer p.Close()
		for {
			f, err := p.ReadFrame()
			switch {
			case err != nil:
				e.Err = err
				return e
			case f.Kind() == KindClose:
				e.Closed = true
			case f.Kind() == KindCloseAck:
				e.Acked = true
				if answer < 0 {
					return e
				}
				p.Send(Control(KindCloseAck, byte(answer)))
			default:
				e.Frames = append(e.Frames, f)
			}
		}
	})
}

// A toldCase is one way in which the peer's close crosses what this side has sent.
type toldCase struct {
	role    string
	told    bool // a reader has taken the status message, which has no Err
	crosses bool // the message and the peer's close are on their way at the same time
	early   bool // Close begins before the peer has answered
	answer  int  // the byte of its close-ack: 0 has everything, 1 has discarded some; -1 hangs up
}

func (c toldCase) String() string {
	return fmt.Sprintf("%s, told %v, crosses %v, early %v, answer %d", c.role, c.told, c.crosses, c.early, c.answer)
}

// TestLimitsToldIsNotDelivered: the peer closes while a message is on its way to it.
// A status message without an error proves nothing: only the
// answer of the peer does.
func TestLimitsToldIsNotDelivered(t *testing.T) {
	t.Parallel()
	for name, pair := range transportPairs(t) {
		for _, role := range roles {
			t.Run(name+"/"+role, func(t *testing.T) {
				t.Parallel()
				for _, answer := range []int{0, 1, -1} {
					for i := range 8 {
						c := toldCase{role, i&1 > 0, i&2 > 0, i&4 > 0, answer}
						if role == "multi-client server" && c.told {
							continue // its Close speaks of clients that are connected or not read to the end
						}
						t.Run(c.String(), func(t *testing.T) {
							inPlace(t, name, func(t *testing.T) { toldIsNotDelivered(t, pair, c) })
						})
					}
				}
			})
		}
	}
}

func toldIsNotDelivered(t *testing.T, pair func() (net.Conn, net.Conn, error), c toldCase) {
	s := takeSeat(t, c.role, pair)
	write := Go(func() error { return s.conn.Write(1, Payload(1, 100)) })
	frames := 1
	if !c.crosses { // the peer takes it before it closes
		f, err := s.peer.ReadFrame()
		if Must(t, err); f.Type != 1 {
			t.Errorf("frame of type %d", f.Type)
		}
		frames = 0
	}
	blocked := c.crosses && InBubble()
	if blocked {
		synctest.Wait() // it is accepted, and waits for the peer
	} else {
		WantErr(t, "Write", Await(t, "Write", write)) // the kernel has it
	}
	s.peer.SendClose()
	if c.told {
		if m := wantStatus(t, s.conn, s.lossStatus()); m.Err != nil {
			t.Errorf("the status message has %v, want nil after a close", m.Err)
		}
	} else {
		Eventually(t, "the end", func() bool { return s.conn.StatusCode() != gipc.Connected })
	}
	settle()
	var closing <-chan error
	if c.early {
		closing = Go(s.e.Close)
		settle()
	}
	ending := Await(t, "the peer's end", answerClose(s.peer, c.answer))
	if !c.early {
		settle()
		closing = Go(s.e.Close)
	}
	err := Await(t, "Close", closing)
	if c.answer == 0 {
		WantErr(t, "Close, and the peer has everything", err)
	} else {
		WantErr(t, "Close, and the peer has not said that it has everything", err, gipc.ErrUnconfirmed)
		RejectErr(t, "Close", err, gipc.ErrNotConnected)
	}
	if blocked { // Close ends the call, but not the write
		if err := Await(t, "Write", write); err != nil && !(c.early && errors.Is(err, gipc.ErrUnconfirmed)) {
			t.Errorf("Write: %v, and the peer has taken the message", err)
		}
	}
	if !ending.Closed || !ending.Acked || len(ending.Frames) != frames {
		t.Errorf("close %v, close-ack %v, %d messages, want both and %d", ending.Closed, ending.Acked, len(ending.Frames), frames)
	}
}

// A muteConn is the side of a peer that falls silent: what comes is swallowed, and
// nothing goes out.
type muteConn struct {
	net.Conn
	silent *atomic.Bool
}

func (c muteConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err != nil || !c.silent.Load() {
			return n, err
		}
	}
}

func (c muteConn) Write(b []byte) (int, error) {
	if c.silent.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// TestLimitsCloseWithNothingSent: a side that has sent nothing waits one second for
// a peer that is silent, and its Close is nil: nothing can be missing.
func TestLimitsCloseWithNothingSent(t *testing.T) {
	t.Parallel()
	for _, role := range roles {
		for _, way := range []string{"plain", "encrypted", "plain, and the peer reads nothing"} {
			t.Run(role+"/"+way, func(t *testing.T) {
				t.Parallel()
				Bubble(t, func(t *testing.T) {
					var e endpoint
					if way == "plain" || way == "encrypted" {
						e = silenced(t, role, way == "plain")
					} else {
						e = takeSeat(t, role, PipePair).e
					}
					start := time.Now()
					WantErr(t, "Close", Do(t, "Close", e.Close))
					if d := time.Since(start); d != time.Second {
						t.Errorf("Close took %v, want 1s", d)
					}
					if n := e.Stats().Sent; n != 0 {
						t.Errorf("%d messages sent", n)
					}
				})
			})
		}
	}
}

// silenced returns an endpoint whose peer, another one, has fallen silent.
func silenced(t *testing.T, role string, plain bool) endpoint {
	t.Helper()
	network, silent := &PipeNetwork{}, new(atomic.Bool)
	sc := &gipc.ServerConfig{Name: "test", Heartbeat: -1, MultiClient: role == "pool client" || role == "multi-client server"}
	cc := &gipc.ClientConfig{Name: "test", Heartbeat: -1, Dial: network.Dial}
	if plain {
		sc.Encryption, cc.Encryption = gipc.EncryptionOff, gipc.EncryptionOff
	}
	if sc.Listener = network.Listen(); role == "client" {
		sc.Listener = WrapListener{Listener: sc.Listener, Wrap: func(c net.Conn) net.Conn { return muteConn{c, silent} }}
	} else {
		cc.Dial = func(ctx context.Context) (net.Conn, error) {
			c, err := network.Dial(ctx)
			return muteConn{c, silent}, err
		}
	}
	server := startServer(t, sc)
	client := startClient(t, cc)
	e := map[string]endpoint{"client": client, "server": server, "multi-client server": server}[role]
	if role == "pool client" {
		e = theClient(t, server)
	}
	synctest.Wait()
	silent.Store(true)
	return e
}

// Connections that make it hard to keep a limit. The first one is the side under test.

// A halfConn can end its sending half, as a socket can. Its peer need not notice.
type halfConn struct{ net.Conn }

func (halfConn) CloseWrite() error { return nil }

func halfPair() (net.Conn, net.Conn, error) {
	a, b := net.Pipe()
	return halfConn{a}, b, nil
}

// A slowConn is a connection whose Close takes its time, as that of crypto/tls does,
// whose alert a peer that reads nothing holds for five seconds. TLS itself holds a
// lock meanwhile, so it cannot be in a bubble.
type slowConn struct{ net.Conn }

func (c slowConn) Close() error {
	err := c.Conn.Close()
	<-time.After(5 * time.Second)
	return err
}

func slowClosePair() (net.Conn, net.Conn, error) {
	a, b := net.Pipe()
	return slowConn{a}, b, nil
}

var hardPairs = map[string]func() (net.Conn, net.Conn, error){
	"pipe":         PipePair,
	"no deadlines": PipePairWithoutDeadlines,
	"half close":   halfPair,
}

// hardPeers are peers that do not let a Close end. Each is given its connection.
var hardPeers = map[string]func(p *RawPeer){
	"reads nothing":        func(p *RawPeer) {},
	"reads, and is silent": func(p *RawPeer) { io.Copy(io.Discard, p) },
	"sends, and is silent": func(p *RawPeer) { go io.Copy(io.Discard, p); sendOn(p) },
	"closes, and no more":  func(p *RawPeer) { p.Write(Control(KindClose, 0)); io.Copy(io.Discard, p) },
	"acknowledges, and stays": func(p *RawPeer) {
		for {
			f, err := p.ReadFrame()
			if err != nil {
				return
			}
			if f.Kind() == KindClose {
				p.Write(append(Control(KindClose, 0), Control(KindCloseAck, 0)...))
			}
		}
	},
}

// sendOn sends a message every 10 ms until that fails.
func sendOn(p *RawPeer) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		if _, err := p.Write(User(1, Payload(1, 100))); err != nil {
			return
		}
	}
}

// closings are the ways to close. A limit is what each may take in all.
var closings = []struct {
	name  string
	limit time.Duration
	call  func(e endpoint) error
}{
	{"Close", 5 * time.Second, endpoint.Close},
	{"Shutdown with 200 ms", 200 * time.Millisecond, shutdownSoon},
	{"Shutdown at once", 0, func(e endpoint) error { return e.Shutdown(ended()) }},
}

func shutdownSoon(e endpoint) error {
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	return e.Shutdown(ctx)
}

// TestLimitsShutdownOfHardPeers: Close takes five seconds at most, and Shutdown
// returns when its context ends, whatever the peer does and the connection can.
func TestLimitsShutdownOfHardPeers(t *testing.T) {
	t.Parallel()
	for name, pair := range hardPairs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			shutdownOfHardPeers(t, pair)
		})
	}
}

// TestLimitsShutdownOfSlowConnections: the same where the connection's own Close
// takes longer than there is time.
func TestLimitsShutdownOfSlowConnections(t *testing.T) {
	t.Parallel()
	shutdownOfHardPeers(t, slowClosePair)
}

func shutdownOfHardPeers(t *testing.T, pair func() (net.Conn, net.Conn, error)) {
	for _, role := range roles {
		for peerName, behave := range hardPeers {
			for _, sent := range []string{"nothing", "a message", "a large message"} {
				for _, closing := range closings {
					t.Run(fmt.Sprintf("%s/%s/%s/%s", role, peerName, sent, closing.name), func(t *testing.T) {
						t.Parallel()
						Bubble(t, func(t *testing.T) {
							s := takeSeat(t, role, pair)
							behaved := Go(func() error { behave(s.peer); return nil })
							synctest.Wait()
							lost := peerName == "closes, and no more" // so nothing is accepted any more
							var write <-chan error
							switch sent {
							case "a message": // Close writes it
								if err := s.conn.Queue(1, Payload(1, 100)); err != nil && !lost {
									t.Error(err)
								}
							case "a large message":
								write = Go(func() error { return s.conn.Write(1, Payload(1, 200_000)) })
								synctest.Wait()
							}
							err := within(t, closing.name, closing.limit, func() error { return closing.call(s.e) })
							switch acknowledged := peerName == "acknowledges, and stays" && closing.limit > 0; {
							case lost || errors.Is(err, context.Canceled) && sent == "nothing":
							case sent == "nothing" || acknowledged:
								WantErr(t, closing.name, err)
							default:
								WantErr(t, closing.name, err, gipc.ErrUnconfirmed)
							}
							if write != nil {
								Await(t, "the blocked Write", write)
							}
							s.peer.Close()
							Await(t, "the peer", behaved)
							<-time.After(time.Minute) // what is slow is over
						})
					})
				}
			}
		}
	}
}

// A hold is where code of the user hangs until the test lets it go.
type hold struct {
	reached chan struct{} // has an element when the code hangs
	gone    chan struct{}
	once    sync.Once
}

func newHold(t *testing.T) *hold {
	h := &hold{reached: make(chan struct{}, 1), gone: make(chan struct{})}
	t.Cleanup(h.letGo)
	return h
}

func (h *hold) hang() {
	h.reached <- struct{}{}
	<-h.gone
}

func (h *hold) letGo() { h.once.Do(func() { close(h.gone) }) }

// A watchedConn tells when it is closed.
type watchedConn struct {
	net.Conn
	closed chan struct{}
	once   sync.Once
}

func watch(c net.Conn) *watchedConn { return &watchedConn{Conn: c, closed: make(chan struct{})} }

func (c *watchedConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// A venue is an endpoint with code of the user, and with a peer that behaves.
type venue struct {
	t     *testing.T
	armed atomic.Bool // the next call of the code is the visit
	visit func()      // what the code does then
	calls []<-chan error
	late  chan *watchedConn // what the code returns after the visit

	e    endpoint // whose code it is
	conn endpoint // the end of its connection

	// Of a server:
	sc     *gipc.ServerConfig
	server *gipc.Server
	client *gipc.Client
	dial   func(context.Context) (net.Conn, error)
	gone   chan net.Conn // what strangers hold; its other side is to be closed

	// Of a client:
	cc   *gipc.ClientConfig
	raw  *RawServer
	peer *RawPeer
}

// enter is what the code of the user calls. It reports whether this was the visit.
func (v *venue) enter() bool {
	if !v.armed.CompareAndSwap(true, false) {
		return false
	}
	v.visit()
	return true
}

// begin adds a call that has to return when all is over.
func (v *venue) begin(f func() error) { v.calls = append(v.calls, Go(f)) }

// stranger connects somebody who says nothing.
func (v *venue) stranger() net.Conn {
	v.t.Helper()
	c, err := v.dial(patience(v.t))
	Must(v.t, err)
	v.t.Cleanup(func() { c.Close() })
	v.gone <- c
	return c
}

// A place is where code of the user runs.
type place struct {
	name    string
	install func(v *venue) // into the config; may be nil
	trigger func(v *venue) // nil: closing leads there
}

// onMessage is a handler that makes the visit at the client's message.
func (v *venue) onMessage(m *gipc.Message) bool { return m != nil && m.MsgType == 1 && v.enter() }

// serverPlaces is where code of the user of a server runs.
var serverPlaces = []place{
	{"Authorize", func(v *venue) {
		v.sc.Authorize = func(gipc.Peer) error { v.enter(); return nil }
	}, func(v *venue) { v.stranger() }},
	{"Upgrade", func(v *venue) {
		v.sc.Upgrade = func(c net.Conn) (net.Conn, error) {
			if v.enter() {
				return v.lateConn(c), nil
			}
			return c, nil
		}
	}, func(v *venue) { v.stranger() }},
	{"Accept after Close", func(v *venue) {
		v.sc.Listener = &userListener{Listener: v.listener(), accepted: func(err error) {
			if err != nil {
				v.enter()
			}
		}}
	}, nil},
	{"Accept", func(v *venue) {
		v.sc.Listener = &userListener{Listener: v.listener(), accepted: func(error) { v.enter() }}
	}, func(v *venue) { v.stranger() }},
	{"the listener's Close", func(v *venue) {
		v.sc.Listener = &userListener{Listener: v.listener(), closing: func() { v.enter() }}
	}, nil},
	{"a handler of Serve", nil, func(v *venue) {
		v.begin(func() error {
			return v.server.Connections.Serve(context.Background(), func(_ *gipc.Server, m *gipc.Message) { v.onMessage(m) })
		})
		v.write()
	}},
	{"a body of Messages", nil, func(v *venue) {
		v.begin(func() error {
			for m, err := range v.conn.Messages(context.Background()) {
				if err != nil {
					return err
				}
				v.onMessage(m)
			}
			return nil
		})
		v.write()
	}},
	{"a body of the pool's Messages", nil, func(v *venue) {
		v.begin(func() error {
			for _, m := range v.server.Connections.Messages(context.Background()) {
				v.onMessage(m)
			}
			return nil
		})
		v.write()
	}},
	{"a callback of ReadTimed", nil, func(v *venue) { v.readTimed(v.server.Connections.ReadTimed) }},
	{"a callback of ReadTimedFastest", nil, func(v *venue) { v.readTimed(v.server.Connections.ReadTimedFastest) }},
	{"Logger", func(v *venue) { v.sc.Logger = v.logger() }, func(v *venue) { v.stranger().Close() }}, // a refusal is logged
}

// clientPlaces is where code of the user of a client runs.
var clientPlaces = []place{
	{"Dial", func(v *venue) {
		v.cc.Dial = func(ctx context.Context) (net.Conn, error) {
			if v.enter() {
				c, _ := net.Pipe()
				return v.lateConn(c), nil
			}
			return v.raw.Dial(ctx)
		}
	}, func(v *venue) { v.peer.Close() }},
	{"Upgrade", func(v *venue) {
		v.cc.Upgrade = func(c net.Conn) (net.Conn, error) {
			if v.enter() {
				return v.lateConn(c), nil
			}
			return c, nil
		}
	}, func(v *venue) { v.peer.Close() }},
	{"a body of Messages", nil, func(v *venue) {
		v.begin(func() error {
			for m, err := range v.e.Messages(context.Background()) {
				if err != nil {
					return err
				}
				v.onMessage(m)
			}
			return nil
		})
		v.peer.Send(User(1, nil))
		finish := v.peer.Finish()
		v.begin(func() error { <-finish; return nil })
	}},
	{"Logger", func(v *venue) { v.cc.Logger = v.logger() }, func(v *venue) { v.peer.Close() }}, // a loss is logged
}

// lateConn is what the code returns after the visit.
func (v *venue) lateConn(c net.Conn) net.Conn {
	w := watch(c)
	v.late <- w
	return w
}

// write has the client write. The visit may cut the connection before Write has seen
// that its message was taken.
func (v *venue) write() {
	v.t.Helper()
	if err := Do(v.t, "Write of the client", func() error { return v.client.Write(1, nil) }); !errors.Is(err, gipc.ErrUnconfirmed) {
		Must(v.t, err)
	}
}

func (v *venue) readTimed(read func(time.Duration, func(*gipc.Server, *gipc.Message, error))) {
	v.begin(func() error {
		var stop atomic.Bool // callbacks of ReadTimed run at the same time
		for !stop.Load() {
			read(time.Second, func(_ *gipc.Server, m *gipc.Message, err error) {
				if err != nil || v.onMessage(m) {
					stop.Store(true)
				}
			})
		}
		return nil
	})
	v.write()
}

func (v *venue) logger() *slog.Logger { return slog.New(visitedHandler{v: v}) }

type visitedHandler struct {
	slog.Handler
	v *venue
}

func (h visitedHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h visitedHandler) Handle(context.Context, slog.Record) error {
	h.v.enter()
	return nil
}

// A userListener calls code of the user when it has accepted, and before it closes.
type userListener struct {
	net.Listener
	accepted func(error)
	closing  func()
}

func (l *userListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if l.accepted != nil {
		l.accepted(err)
	}
	return c, err
}

func (l *userListener) Close() error {
	if l.closing != nil {
		l.closing()
	}
	return l.Listener.Close()
}

// listener returns the one that the config has, or one at its address.
func (v *venue) listener() net.Listener {
	v.t.Helper()
	if v.sc.Listener != nil {
		return v.sc.Listener
	}
	l, err := net.Listen("unix", v.sc.Address)
	Must(v.t, err)
	return l
}

// openServer starts a server with a client: over pipes in a bubble, and otherwise
// at an address of its own.
func openServer(t *testing.T, p place, many bool, visit func(v *venue)) *venue {
	t.Helper()
	v := &venue{t: t, late: make(chan *watchedConn, 1), gone: make(chan net.Conn, 1),
		sc: &gipc.ServerConfig{Name: "test", Encryption: gipc.EncryptionOff, Heartbeat: -1, MultiClient: many}}
	v.visit = func() { visit(v) }
	if InBubble() {
		network := &PipeNetwork{}
		v.sc.Listener, v.dial = network.Listen(), network.Dial
	} else {
		v.sc.Network, v.sc.Address = "unix", TempSocket(t)
		v.dial = func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", v.sc.Address)
		}
	}
	if p.install != nil {
		p.install(v)
	}
	v.server = startServer(t, v.sc)
	v.client = startClient(t, &gipc.ClientConfig{Name: "test", Heartbeat: -1, Dial: v.dial, Encryption: gipc.EncryptionOff})
	v.e, v.conn = v.server, v.server
	if many {
		v.conn = theClient(t, v.server)
	} else {
		waitConnected(t, v.server)
	}
	settle()
	return v
}

// openClient starts a client with a raw peer: over pipes in a bubble, and otherwise
// over unix sockets.
func openClient(t *testing.T, p place, visit func(v *venue)) *venue {
	t.Helper()
	v := &venue{t: t, late: make(chan *watchedConn, 1)}
	v.visit = func() { visit(v) }
	pair := PipePair
	if !InBubble() {
		pair = UnixPairs(t)
	}
	v.raw = ListenRaw(t, 2, pair)
	v.cc = &gipc.ClientConfig{Name: "test", Encryption: gipc.EncryptionOff, Heartbeat: -1, Dial: v.raw.Dial}
	if p.install != nil {
		p.install(v)
	}
	client := startClient(t, v.cc)
	v.e, v.conn, v.peer = client, client, v.raw.Peer()
	settle()
	return v
}

// over waits for all that has to end, and for what came late to be closed.
func (v *venue) over() {
	v.t.Helper()
	for _, c := range v.calls {
		Await(v.t, "a call with code of the user", c)
	}
	select {
	case c := <-v.gone: // of a nil channel nothing comes
		Do(v.t, "the end of a connection that came too late", func() error { _, err := io.Copy(io.Discard, c); return err })
	default:
	}
	settle()
	select {
	case c := <-v.late:
		Await(v.t, "the close of what came late", c.closed)
	default:
	}
}

// hurried is a Close that another call hurries. The latter has no time itself.
func hurried(e endpoint) error {
	first := Go(e.Close)
	settle()
	second := e.Shutdown(ended())
	if err := <-first; err != nil {
		return err
	}
	return second
}

// TestLimitsWhileUserCodeHangs: Close does not wait for code of the user, and
// Shutdown keeps its limit, wherever that code hangs. What is to be delivered is.
func TestLimitsWhileUserCodeHangs(t *testing.T) {
	t.Parallel()
	ways := slices.Clone(closings)
	ways[0].limit = time.Second // the peer answers at once: there is nothing else to wait for
	ways = append(ways, struct {
		name  string
		limit time.Duration
		call  func(e endpoint) error
	}{"Close that is hurried", time.Second, hurried})
	for _, role := range []string{"client", "server", "multi-client server"} {
		places := serverPlaces
		if role == "client" {
			places = clientPlaces
		}
		for _, p := range places {
			for _, way := range ways {
				run := func(t *testing.T) {
					h := newHold(t)
					visit := func(*venue) { h.hang() }
					var v *venue
					if role == "client" {
						v = openClient(t, p, visit)
					} else {
						v = openServer(t, p, role == "multi-client server", visit)
						Must(t, v.conn.Queue(2, Payload(1, 100))) // which Close writes
					}
					t.Cleanup(h.letGo) // before the endpoint is closed at the end
					v.armed.Store(true)
					if p.trigger != nil {
						p.trigger(v)
						Await(t, "the code of the user", h.reached)
						settle()
					}
					err := within(t, way.name, way.limit, func() error { return way.call(v.e) })
					if way.limit > 0 && !errors.Is(err, context.Canceled) {
						WantErr(t, way.name, err)
						if role != "client" {
							wantMessage(t, v.client, 2, Payload(1, 100))
						}
					}
					h.letGo()
					v.over()
				}
				t.Run(role+"/"+p.name+"/"+way.name, func(t *testing.T) {
					t.Parallel()
					if p.name == "the listener's Close" && way.name == "Close that is hurried" {
						run(t) // should a call wait for a lock, a bubble's clock would stand still
						return
					}
					Bubble(t, run)
				})
			}
		}
	}
}

// TestLimitsCloseInsideUserCode: code of the user may close the endpoint that calls
// it. Close does not wait for its caller, and the address is free when it returns.
func TestLimitsCloseInsideUserCode(t *testing.T) {
	t.Parallel()
	for _, role := range []string{"client", "server", "multi-client server", "pool client"} {
		places := serverPlaces
		if role == "client" {
			places = clientPlaces
		}
		for _, p := range places {
			for _, way := range closings {
				for _, where := range []string{"pipe", "unix"} {
					if where == "pipe" && p.name == "the listener's Close" {
						continue // should a call wait for a lock, a bubble's clock would stand still
					}
					t.Run(fmt.Sprintf("%s/%s/%s/%s", role, p.name, way.name, where), func(t *testing.T) {
						t.Parallel()
						limit := min(way.limit, time.Second) // the peer answers at once
						run := func(t *testing.T) { closeInside(t, role, p, limit, way.call) }
						if where == "unix" {
							run(t)
						} else {
							Bubble(t, run)
						}
					})
				}
			}
		}
	}
}

func closeInside(t *testing.T, role string, p place, limit time.Duration, call func(endpoint) error) {
	type result struct {
		closed, started error
		took            time.Duration
	}
	results := make(chan result, 1)
	visit := func(v *venue) {
		start := time.Now()
		e := v.e
		if role == "pool client" {
			e = v.conn
		}
		r := result{closed: call(e)}
		r.took = time.Since(start)
		if v.sc != nil && v.sc.Listener == nil && e == endpoint(v.server) {
			var next *gipc.Server
			if next, r.started = gipc.StartServer(&gipc.ServerConfig{Name: "test", Network: v.sc.Network, Address: v.sc.Address}); next != nil {
				next.Close()
			}
		}
		results <- r
	}
	var v *venue
	if role == "client" {
		v = openClient(t, p, visit)
	} else {
		v = openServer(t, p, role != "server", visit)
	}
	v.armed.Store(true)
	if p.trigger != nil {
		p.trigger(v)
	} else {
		v.begin(v.e.Close)
	}
	r := Await(t, "the call inside", results)
	if limit > 0 && (InBubble() || !errors.Is(r.closed, context.DeadlineExceeded)) { // a slow machine may need longer
		WantErr(t, "the call inside", r.closed)
	}
	WantErr(t, "another server at the address", r.started)
	if InBubble() && r.took > limit {
		t.Errorf("the call inside took %v, want at most %v", r.took, limit)
	}
	WantErr(t, "Close behind it", Do(t, "Close behind it", v.e.Close))
	v.over()
}

// A slowLog takes a while for each record, in a bubble, and keeps what it logged.
type slowLog struct {
	slog.Handler
	mu     sync.Mutex
	logged []string
}

func (l *slowLog) Enabled(context.Context, slog.Level) bool { return true }

func (l *slowLog) Handle(_ context.Context, r slog.Record) error {
	<-time.After(20 * time.Millisecond)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.logged = append(l.logged, r.Message)
	return nil
}

func (l *slowLog) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Concat([]string{"nothing"}, l.logged)[len(l.logged)]
}

// A program may end when Close has returned: its log is complete.
func TestLimitsCloseHasLogged(t *testing.T) {
	t.Parallel()
	for _, multi := range []bool{false, true} {
		for _, concurrent := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				network := &PipeNetwork{}
				logs := []*slowLog{{}, {}}
				server := startServer(t, &gipc.ServerConfig{Name: "test", MultiClient: multi, Listener: network.Listen(), Logger: slog.New(logs[0])})
				client := startClient(t, &gipc.ClientConfig{Name: "test", Dial: network.Dial, Logger: slog.New(logs[1])})
				synctest.Wait()
				for i, e := range []endpoint{client, server} {
					i = 1 - i
					var others sync.WaitGroup
					closeIt := func() {
						if err := Do(t, "Close", e.Close); err != nil && i == 1 {
							t.Error(err)
						}
						if got := logs[i].last(); got != "closed" {
							t.Errorf("multi %v, concurrent %v: the last record at the end of Close is %q, want closed", multi, concurrent, got)
						}
					}
					if concurrent {
						others.Go(closeIt)
					}
					closeIt()
					others.Wait()
				}
			})
		}
	}
}

// TestLimitsSecondShutdown: a Close that waits for its peer is hurried by a Shutdown
// without time. Both return at once, and the first one alone reports.
func TestLimitsSecondShutdown(t *testing.T) {
	t.Parallel()
	for _, role := range roles {
		for peerName, behave := range hardPeers {
			if peerName == "acknowledges, and stays" || peerName == "closes, and no more" {
				continue // there is nothing to wait five seconds for
			}
			t.Run(role+"/"+peerName, func(t *testing.T) {
				t.Parallel()
				Bubble(t, func(t *testing.T) {
					s := takeSeat(t, role, PipePair)
					behaved := Go(func() error { behave(s.peer); return nil })
					Must(t, s.conn.Queue(1, Payload(1, 100)))
					start := time.Now()
					first := Go(s.e.Close)
					<-time.After(time.Second) // it waits
					select {
					case err := <-first:
						t.Fatalf("Close returned %v after %v", err, time.Since(start))
					default:
					}
					third := Go(s.e.Close)
					WantErr(t, "a second call", within(t, "a second call", 0, func() error { return s.e.Shutdown(ended()) }), context.Canceled)
					WantErr(t, "the first call", within(t, "the first call", 0, func() error { return <-first }), gipc.ErrUnconfirmed)
					WantErr(t, "a third call", within(t, "a third call", 0, func() error { return <-third }))
					s.peer.Close()
					Await(t, "the peer", behaved)
				})
			})
		}
	}
}

// hangingClient is the config of a client whose Dial, or Upgrade, hangs from the
// given call on.
func hangingClient(h *hold, where string, raw *RawServer, from int64, late chan *watchedConn) *gipc.ClientConfig {
	var calls atomic.Int64
	cc := &gipc.ClientConfig{Name: "test", Encryption: gipc.EncryptionOff, Heartbeat: -1, Dial: raw.Dial}
	hang := func(c net.Conn) net.Conn {
		h.hang()
		w := watch(c)
		late <- w
		return w
	}
	if where == "Dial" {
		cc.Dial = func(ctx context.Context) (net.Conn, error) {
			if calls.Add(1) >= from {
				c, _ := net.Pipe()
				return hang(c), nil
			}
			return raw.Dial(ctx)
		}
	} else {
		cc.Upgrade = func(c net.Conn) (net.Conn, error) {
			if calls.Add(1) >= from {
				return hang(c), nil
			}
			return c, nil
		}
	}
	return cc
}

// TestLimitsStartWhileUserCodeHangs: a Dial, or an Upgrade, that takes no notice of
// its context does not hold StartClient. What it returns later is closed.
func TestLimitsStartWhileUserCodeHangs(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		timeout, ctx, cancel time.Duration // Timeout, and when the context ends
		want                 error
		after                time.Duration
	}{
		"context ends":               {ctx: 200 * time.Millisecond, want: context.DeadlineExceeded, after: 200 * time.Millisecond},
		"context is cancelled":       {cancel: 200 * time.Millisecond, want: context.Canceled, after: 200 * time.Millisecond},
		"Timeout":                    {timeout: 3 * time.Second, want: gipc.ErrTimeout, after: 3 * time.Second},
		"Timeout, the context first": {timeout: 3 * time.Second, ctx: time.Second, want: context.DeadlineExceeded, after: time.Second},
	} {
		for _, where := range []string{"Dial", "Upgrade"} {
			t.Run(name+"/"+where, func(t *testing.T) {
				t.Parallel()
				Bubble(t, func(t *testing.T) {
					h, late := newHold(t), make(chan *watchedConn, 1)
					cc := hangingClient(h, where, ListenRaw(t, 1, PipePair), 1, late)
					cc.Timeout = c.timeout
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					if c.ctx > 0 {
						ctx, cancel = context.WithTimeout(ctx, c.ctx)
						defer cancel()
					}
					if c.cancel > 0 {
						time.AfterFunc(c.cancel, cancel)
					}
					start := time.Now()
					err := Do(t, "StartClientContext", func() error { _, err := gipc.StartClientContext(ctx, cc); return err })
					WantErr(t, "StartClientContext", err, c.want)
					if d := time.Since(start); d != c.after {
						t.Errorf("it took %v, want %v", d, c.after)
					}
					h.letGo()
					Await(t, "the close of what came late", Await(t, "what comes late", late).closed)
				})
			})
		}
	}
}

// TestLimitsTimeoutWhileUserCodeHangs: the same for a client that has lost its
// connection: Timeout ends it.
func TestLimitsTimeoutWhileUserCodeHangs(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"Dial", "Upgrade"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			Bubble(t, func(t *testing.T) {
				h, late, raw := newHold(t), make(chan *watchedConn, 1), ListenRaw(t, 2, PipePair)
				cc := hangingClient(h, where, raw, 2, late)
				cc.Timeout = 3 * time.Second
				client := startClient(t, cc)
				t.Cleanup(h.letGo)
				wait := Go(func() error { // it reads all the time
					for {
						if _, err := client.Read(); err != nil {
							return err
						}
					}
				})
				raw.Peer().Close()
				start := time.Now()
				WantErr(t, "Read", Await(t, "Read", wait), gipc.ErrTimeout)
				wantDone(t, "the client", client)
				WantErr(t, "Err", client.Err(), gipc.ErrTimeout)
				if d := time.Since(start); d != cc.Timeout {
					t.Errorf("it took %v, want %v", d, cc.Timeout)
				}
				WantErr(t, "Close", within(t, "Close", 0, client.Close))
				h.letGo()
				Await(t, "the close of what came late", Await(t, "what comes late", late).closed)
			})
		})
	}
}

// TestLimitsDialOneAtATime: Dial is called by one goroutine at a time, also where
// one call takes longer than a client gives it.
func TestLimitsDialOneAtATime(t *testing.T) {
	t.Parallel()
	Bubble(t, func(t *testing.T) {
		h := newHold(t)
		h.reached = make(chan struct{}, 100)
		var now, most atomic.Int64
		err := Do(t, "StartClient", func() error {
			ctx, cancel := context.WithTimeout(t.Context(), Patience-time.Second)
			defer cancel()
			_, err := gipc.StartClientContext(ctx, &gipc.ClientConfig{Name: "test", Dial: func(context.Context) (net.Conn, error) {
				n := now.Add(1)
				defer now.Add(-1)
				most.Store(max(most.Load(), n))
				h.hang()
				return nil, errors.New("at last")
			}})
			return err
		})
		WantErr(t, "StartClientContext", err, context.DeadlineExceeded)
		if n := most.Load(); n != 1 {
			t.Errorf("%d calls of Dial at once", n)
		}
	})
}

// TestLimitsHandshakeWhileUserCodeHangs: an Authorize, or an Upgrade, that hangs
// holds nobody else, and its connection is over in ten seconds.
func TestLimitsHandshakeWhileUserCodeHangs(t *testing.T) {
	t.Parallel()
	for _, role := range []string{"server", "multi-client server"} {
		for _, p := range serverPlaces[:2] {
			t.Run(role+"/"+p.name, func(t *testing.T) {
				t.Parallel()
				Bubble(t, func(t *testing.T) {
					h := newHold(t)
					v := openServer(t, p, role == "multi-client server", func(*venue) { h.hang() })
					t.Cleanup(h.letGo)
					v.armed.Store(true)
					start := time.Now()
					p.trigger(v)
					Await(t, "the code of the user", h.reached)
					if role == "server" { // which serves one at a time
						WantErr(t, "Close of the first client", Do(t, "Close", v.client.Close))
						wantStatus(t, v.server, gipc.Disconnected)
					}
					another := startClient(t, &gipc.ClientConfig{Name: "test", Encryption: gipc.EncryptionOff, Heartbeat: -1, Dial: v.dial})
					WantErr(t, "Write of another client", Do(t, "Write", func() error { return another.Write(3, nil) }))
					if d := time.Since(start); d >= 10*time.Second {
						t.Errorf("another client came after %v", d)
					}
					c := <-v.gone
					Do(t, "the end of the connection", func() error { _, err := io.Copy(io.Discard, c); return err })
					if d := time.Since(start); d != 10*time.Second {
						t.Errorf("the connection was over after %v, want 10s", d)
					}
					h.letGo()
					Eventually(t, "the refusal", func() bool { return v.server.Stats().Refused == 1 })
					v.over()
				})
			})
		}
	}
}

// A nothingListener accepts neither a connection nor an error for some calls.
type nothingListener struct {
	net.Listener
	calls atomic.Int64 // that are left
}

func (l *nothingListener) Accept() (net.Conn, error) {
	if l.calls.Add(-1) >= 0 {
		return nil, nil
	}
	return l.Listener.Accept()
}

// TestLimitsAcceptReturnsNothing: a server survives an Accept that returns neither a
// connection nor an error, and can be closed while it goes on.
func TestLimitsAcceptReturnsNothing(t *testing.T) {
	t.Parallel()
	for _, many := range []bool{false, true} {
		t.Run(fmt.Sprintf("many %v", many), func(t *testing.T) {
			t.Parallel()
			Bubble(t, func(t *testing.T) {
				network := &PipeNetwork{}
				l := &nothingListener{Listener: network.Listen()}
				l.calls.Store(3)
				server := startServer(t, &gipc.ServerConfig{Name: "test", MultiClient: many, Listener: l})
				client := startClient(t, &gipc.ClientConfig{Name: "test", Dial: network.Dial})
				Must(t, Do(t, "Write", func() error { return client.Write(1, Payload(1, 100)) }))
				if n := server.Stats().Refused; n != 3 {
					t.Errorf("%d refused, want 3", n)
				}
				WantErr(t, "Close of the client", Do(t, "Close", client.Close))
				for _, way := range closings {
					l := &nothingListener{Listener: network.Listen()}
					l.calls.Store(1000)
					server := startServer(t, &gipc.ServerConfig{Name: "test", MultiClient: many, Listener: l})
					<-time.After(time.Minute)
					synctest.Wait()
					before := l.calls.Load()
					if n := 1000 - before; n < 10 || n > 200 { // it tries on, and rests between
						t.Errorf("%d calls of Accept in a minute", n)
					}
					if err := within(t, way.name, 0, func() error { return way.call(server) }); err != nil {
						WantErr(t, way.name, err, context.Canceled)
					}
					synctest.Wait()
					if n := before - l.calls.Load(); n > 1 {
						t.Errorf("%d calls of Accept after %s", n, way.name)
					}
				}
			})
		})
	}
}

// TestLimitsDialReturnsNothing: a Dial, or an Upgrade, that returns neither a
// connection nor an error is a failed try: Timeout and Close end a client that
// had a connection before.
func TestLimitsDialReturnsNothing(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"Dial", "Upgrade"} {
		for _, end := range []string{"Timeout", "Close", "Shutdown with 200 ms", "Shutdown at once"} {
			t.Run(where+"/"+end, func(t *testing.T) {
				t.Parallel()
				Bubble(t, func(t *testing.T) {
					raw, tries := ListenRaw(t, 1000, PipePair), new(atomic.Int64)
					cc := &gipc.ClientConfig{Name: "test", Encryption: gipc.EncryptionOff, Heartbeat: -1, Dial: raw.Dial, Timeout: time.Minute}
					if where == "Dial" {
						cc.Dial = func(ctx context.Context) (net.Conn, error) {
							if tries.Add(1) > 1 {
								return nil, nil
							}
							return raw.Dial(ctx)
						}
					} else {
						cc.Upgrade = func(c net.Conn) (net.Conn, error) {
							if tries.Add(1) > 1 {
								return nil, nil
							}
							return c, nil
						}
					}
					client := startClient(t, cc)
					raw.Peer().Close()
					start := time.Now()
					if end == "Timeout" {
						<-client.Done()
						if d := time.Since(start); d != time.Minute {
							t.Errorf("it took %v, want 1m", d)
						}
						WantErr(t, "Err", client.Err(), gipc.ErrTimeout)
						if !strings.Contains(client.Err().Error(), where) {
							t.Errorf("%v: want it to say that it was %s", client.Err(), where)
						}
					} else {
						<-time.After(30 * time.Second)
					}
					if n := tries.Load(); n < 10 || n > 1000 {
						t.Errorf("%d tries", n)
					}
					for _, way := range closings {
						if way.name == end || way.name == "Close" && end == "Timeout" {
							if err := within(t, way.name, 0, func() error { return way.call(client) }); err != nil {
								WantErr(t, way.name, err, context.Canceled)
							}
						}
					}
				})
			})
		}
	}
}

// A tally counts what the calls of writers have returned.
type tally struct {
	sent, bytes, maybe atomic.Int64 // nil; ErrUnconfirmed
	begun              chan struct{}
}

// writeOn writes and queues until that fails.
func (n *tally) writeOn(e endpoint, seed int) error {
	for i := 0; ; i++ {
		data := Payload(i, 10+(i*37+seed)%500)
		write := e.Write
		if i%3 > 0 {
			write = e.Queue
		}
		switch err := write(1, data); {
		case err == nil:
			n.sent.Add(1)
			n.bytes.Add(int64(len(data)))
		case errors.Is(err, gipc.ErrClosed):
			if errors.Is(err, gipc.ErrUnconfirmed) {
				n.maybe.Add(1)
			}
			return nil
		default:
			return err
		}
		if i == 50 {
			n.begun <- struct{}{}
		}
	}
}

// TestLimitsStatsCountWhatCloseSends: the totals of a multi-client server have what was
// queued before its Close, and what was accepted while it began: as much as the
// clients have received.
func TestLimitsStatsCountWhatCloseSends(t *testing.T) {
	for _, writers := range []int{0, 2} {
		t.Run(fmt.Sprintf("%d writers", writers), func(t *testing.T) {
			onTransports(t, func(t *testing.T, tr transport, plain bool) {
				if tr.once {
					return // it has one client
				}
				sc, cc := tr.settings(t, plain)
				sc.MultiClient = true
				server := startServer(t, sc)
				const clients, queued = 4, 100
				type received struct{ messages, bytes uint64 }
				var reads []<-chan received
				for range clients {
					client := startClient(t, cc)
					reads = append(reads, Go(func() (r received) {
						for {
							m, err := client.Read()
							if err != nil || m.Is(gipc.ReConnecting) {
								return r
							}
							if m.MsgType == 1 {
								r.messages++
								r.bytes += uint64(len(m.Data))
							}
						}
					}))
				}
				Eventually(t, "the clients", func() bool { return server.Connections.Len() == clients })
				n := &tally{begun: make(chan struct{}, clients*writers)}
				var writes []<-chan error
				for s := range server.Connections.All() {
					for i := range queued {
						Must(t, s.Queue(1, Payload(i, 100)))
						n.sent.Add(1)
						n.bytes.Add(100)
					}
					for i := range writers {
						writes = append(writes, Go(func() error { return n.writeOn(s, i) }))
					}
				}
				for range clients * writers {
					Await(t, "a writer", n.begun)
				}
				err := Do(t, "Close", server.Close)
				WantErr(t, "Close", err)
				stats := server.Stats()
				for _, w := range writes {
					WantErr(t, "a writer", Await(t, "a writer", w))
				}
				var got received
				for _, r := range reads {
					one := Await(t, "a reader", r)
					got.messages += one.messages
					got.bytes += one.bytes
				}
				least, most := uint64(n.sent.Load()), uint64(n.sent.Load()+n.maybe.Load())
				if stats.Sent < least || stats.Sent > most {
					t.Errorf("%d sent by Stats after Close, and %d to %d were accepted", stats.Sent, least, most)
				}
				if now := server.Stats(); now != stats {
					t.Errorf("the totals change after Close: %+v, %+v", stats, now)
				}
				if err == nil && (stats.Sent != got.messages || stats.SentBytes != got.bytes) {
					t.Errorf("Stats says %d messages and %d bytes, and the clients have %d and %d", stats.Sent, stats.SentBytes, got.messages, got.bytes)
				}
				if stats.Dropped != 0 {
					t.Errorf("%d dropped", stats.Dropped)
				}
			})
		})
	}
}

// TestLimitsStatsOfClientsThatServeReads: clients that leave all at once, while the
// handlers of Serve are slow, are read to the end: none of them is dropped, and each
// message is counted once. A server keeps 1,024 of those that nobody reads.
func TestLimitsStatsOfClientsThatServeReads(t *testing.T) {
	t.Parallel()
	t.Run("unix", func(t *testing.T) {
		t.Parallel()
		path := TempSocket(t)
		clientsLeave(t, 3000, &gipc.ServerConfig{Network: "unix", Address: path}, func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		})
	})
	t.Run("pipe", func(t *testing.T) {
		t.Parallel()
		Bubble(t, func(t *testing.T) {
			network := &PipeNetwork{}
			clientsLeave(t, 1500, &gipc.ServerConfig{Listener: network.Listen()}, network.Dial)
		})
	})
}

func clientsLeave(t *testing.T, clients int, sc *gipc.ServerConfig, dial func(context.Context) (net.Conn, error)) {
	sc.Name, sc.Encryption, sc.Heartbeat, sc.MultiClient = "test", gipc.EncryptionOff, -1, true
	server := startServer(t, sc)
	h := newHold(t)
	// Each step sends one element for each client, so that a slow machine is no failure.
	connected, left := make(chan error, clients), make(chan error, clients)
	handling, over := make(chan bool, clients), make(chan bool, clients)
	var messages, more atomic.Int64
	served := Go(func() error {
		return server.Connections.Serve(context.Background(), func(_ *gipc.Server, m *gipc.Message) {
			switch {
			case m.MsgType == 1:
				if messages.Add(1); m.Data[0] == 1 {
					handling <- true
					<-h.gone // a slow handler
				}
			case m.Is(gipc.Disconnected):
				over <- true
			}
		})
	})
	leave := make(chan struct{})
	const workers = 20 // and not one for each client: the race detector has a limit
	for w := range workers {
		go func() {
			var peers []*RawPeer
			for i := w; i < clients; i += workers {
				conn, err := dial(t.Context())
				if err != nil {
					connected <- err
					return
				}
				p := NewRawPeer(t, conn)
				p.SetDeadline(time.Time{}) // so many take their time
				peers = append(peers, p)
				if err = p.ClientHandshake(); err == nil {
					_, err = p.Write(User(1, []byte{1}))
				}
				connected <- err
			}
			<-leave
			for i, p := range peers {
				var last []byte
				if i%4 == 0 { // the others leave nothing but their status messages
					last = User(1, []byte{2})
					more.Add(1)
				}
				if i%3 > 0 { // else it is lost
					last = append(last, Control(KindClose, 0)...)
				}
				if _, err := p.Write(last); err != nil {
					left <- err
				}
			}
			for i, p := range peers {
				leaveAfterClose(p, i%3 > 0)
				left <- nil
			}
		}()
	}
	for range clients {
		Must(t, Await(t, "a client", connected))
	}
	for range clients {
		Await(t, "a handler", handling)
	}
	close(leave)
	for range clients {
		Must(t, Await(t, "a client that leaves", left))
	}
	Eventually(t, "the end of all connections", func() bool { return server.Connections.Len() == 0 })
	h.letGo()
	for range clients {
		Await(t, "the end of a client", over)
	}
	for range 2 { // before Close, and after it
		stats, want := server.Stats(), int64(clients)+more.Load()
		if stats.Dropped != 0 || int64(stats.Received) != want || messages.Load() != want {
			t.Errorf("%d dropped, %d received, and the handlers had %d, want 0 and twice %d", stats.Dropped, stats.Received, messages.Load(), want)
		}
		WantErr(t, "Close", Do(t, "Close", server.Close))
	}
	WantErr(t, "Serve", Await(t, "Serve", served), gipc.ErrClosed)
}

// leaveAfterClose ends the connection of a peer that has sent a close, if it has.
func leaveAfterClose(p *RawPeer, closed bool) {
	defer p.Close()
	for closed {
		f, err := p.ReadFrame()
		if err != nil {
			return
		}
		if f.Kind() == KindCloseAck {
			p.Write(Control(KindCloseAck, 0)) // a server that has sent nothing waits a second for it
		}
	}
}

// TestLimitsBusyPoll: a reader that polls for a minute keeps the limits of its call,
// and gives way to Close. It is not parallel: it takes the processors, and tests over
// sockets have limits in real time.
func TestLimitsBusyPoll(t *testing.T) {
	for _, tr := range transports[:2] { // those whose bytes can be looked for without waiting
		for _, role := range []string{"client", "server"} {
			t.Run(tr.name+"/"+role, func(t *testing.T) { // one at a time: each takes a processor
				sc, cc := tr.settings(t, true)
				if role == "client" {
					cc.BusyPoll = time.Minute
				} else {
					sc.BusyPoll = time.Minute
				}
				server, client := startServer(t, sc), startClient(t, cc)
				waitConnected(t, server)
				e, other := endpoint(client), endpoint(server)
				if role == "server" {
					e, other = other, e
				}
				wantStatus(t, e, gipc.Connected)
				pollLimits(t, e)
				// The same behind another reader, who polls.
				ctx, cancel := context.WithCancel(t.Context())
				first := Go(func() error { _, err := e.ReadContext(ctx); return err })
				pollLimits(t, e)
				cancel()
				WantErr(t, "ReadContext", Await(t, "ReadContext", first), context.Canceled)
				message := Go(func() error {
					m, err := e.Read()
					if err == nil && m.MsgType != 1 {
						err = fmt.Errorf("%+v", m)
					}
					return err
				})
				pollLimits(t, e)
				Must(t, Do(t, "Write", func() error { return other.Write(1, nil) }))
				WantErr(t, "a message", Await(t, "a message", message))
				last := Go(func() error {
					for {
						if _, err := e.Read(); err != nil {
							return err
						}
					}
				})
				pollLimits(t, e)
				WantErr(t, "Close", Do(t, "Close", e.Close))
				WantErr(t, "Read", Await(t, "Read", last), gipc.ErrClosed)
			})
		}
		for _, end := range []string{"Close of the client", "Close", "Shutdown at once", "the context"} {
			if tr.name != "unix" && end != "Close" {
				continue
			}
			t.Run(tr.name+"/pool/"+end, func(t *testing.T) {
				sc, cc := tr.settings(t, true)
				sc.MultiClient, sc.BusyPoll = true, time.Minute
				server := startServer(t, sc)
				startClient(t, cc)
				s, pool := theClient(t, server), server.Connections
				wantStatus(t, s, gipc.Connected)
				timeouts := 0
				note := func(_ *gipc.Server, m *gipc.Message, err error) {
					if m != gipc.TimeoutMessage || err != nil {
						t.Errorf("%+v, %v; want TimeoutMessage", m, err)
					}
					timeouts++
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				served := Go(func() error { return pool.Serve(ctx, func(*gipc.Server, *gipc.Message) {}) })
				pollLimits(t, s)
				Do(t, "ReadTimed", func() error { pool.ReadTimed(10*time.Millisecond, note); return nil })
				want := context.Canceled
				switch end {
				case "the context":
					cancel()
				case "Close of the client":
					WantErr(t, end, Do(t, end, s.Close))
					cancel()
				default:
					want = gipc.ErrClosed
					for _, way := range closings {
						if way.name == end {
							err := Do(t, end, func() error { return way.call(server) })
							if end == "Close" { // the others have no time, or may have none here
								WantErr(t, end, err)
							}
						}
					}
				}
				WantErr(t, "Serve", Await(t, "Serve", served), want)
				if end == "the context" {
					Do(t, "ReadTimedFastest", func() error { pool.ReadTimedFastest(10*time.Millisecond, note); return nil })
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
					defer cancel()
					Do(t, "Messages", func() error {
						for range pool.Messages(ctx) {
							t.Error("a message that nobody has sent")
						}
						return nil
					})
					if timeouts != 2 {
						t.Errorf("%d times TimeoutMessage, want 2", timeouts)
					}
				}
				WantErr(t, "Close", Do(t, "Close", server.Close))
			})
		}
	}
}

// pollLimits has calls end that find nothing. Each has to return long before the
// minute is over for which it may poll.
func pollLimits(t *testing.T, e endpoint) {
	t.Helper()
	for _, d := range []time.Duration{10 * time.Millisecond, 0} {
		Must(t, Do(t, fmt.Sprintf("ReadTimed(%v)", d), func() error {
			m, err := e.ReadTimed(d)
			if err == nil && m != gipc.TimeoutMessage {
				err = fmt.Errorf("%+v, want TimeoutMessage", m)
			}
			return err
		}))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	err := Do(t, "ReadContext", func() error { _, err := e.ReadContext(ctx); return err })
	WantErr(t, "ReadContext", err, context.DeadlineExceeded)
	err = Do(t, "ReadInto", func() error { return e.ReadInto(ctx, new(gipc.Message)) })
	WantErr(t, "ReadInto", err, context.DeadlineExceeded)
}

// A poolRead reads from clients of a server, and calls note for each message, until
// it returns false.
type poolRead struct {
	name string
	read func(server *gipc.Server, clients []*gipc.Server, note func(*gipc.Server, *gipc.Message) bool)
}

var poolReads = []poolRead{
	{"ReadTimedFastest", func(server *gipc.Server, _ []*gipc.Server, note func(*gipc.Server, *gipc.Message) bool) {
		for goOn := true; goOn; {
			server.Connections.ReadTimedFastest(time.Second, func(s *gipc.Server, m *gipc.Message, err error) {
				goOn = err == nil && note(s, m)
			})
		}
	}},
	{"Messages of the pool", func(server *gipc.Server, _ []*gipc.Server, note func(*gipc.Server, *gipc.Message) bool) {
		for s, m := range server.Connections.Messages(context.Background()) {
			if !note(s, m) {
				return
			}
		}
	}},
	{"Messages", func(_ *gipc.Server, clients []*gipc.Server, note func(*gipc.Server, *gipc.Message) bool) {
		for i := 0; ; i++ {
			s := clients[i%len(clients)]
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
			for m, err := range s.Messages(ctx) {
				if err == nil && !note(s, m) {
					cancel()
					return
				}
			}
			cancel()
		}
	}},
	// The code of the user runs on goroutines of the library here, so that it has to
	// recover itself.
	{"ReadTimed", func(server *gipc.Server, _ []*gipc.Server, note func(*gipc.Server, *gipc.Message) bool) {
		var stop atomic.Bool
		for !stop.Load() {
			server.Connections.ReadTimed(time.Second, func(s *gipc.Server, m *gipc.Message, err error) {
				defer func() {
					if recover() != nil {
						stop.Store(true)
					}
				}()
				if err != nil || !note(s, m) {
					stop.Store(true)
				}
			})
		}
	}},
	{"Serve", func(server *gipc.Server, _ []*gipc.Server, note func(*gipc.Server, *gipc.Message) bool) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		server.Connections.Serve(ctx, func(s *gipc.Server, m *gipc.Message) {
			defer func() {
				if recover() != nil {
					cancel()
				}
			}()
			if !note(s, m) {
				cancel()
			}
		})
	}},
}

// TestLimitsPanicLosesNoMessage: code of the user panics, or ends its goroutine,
// while more messages are ready: the call that follows delivers each of them.
func TestLimitsPanicLosesNoMessage(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"pipe", "unix"} {
		for _, many := range []bool{true, false} {
			for _, at := range []int{1, 2, 5} { // the message at which it happens
				for _, how := range []string{"panic", "Goexit"} {
					for _, one := range poolReads {
						if how == "Goexit" && (one.name == "ReadTimed" || one.name == "Serve") {
							continue // the goroutine is the library's
						}
						if where == "unix" && (how == "Goexit" || at != 2) {
							continue // a matter of the pool; each takes half a second there
						}
						for _, next := range poolReads {
							t.Run(fmt.Sprintf("%s/many %v/%s at %d in %s/%s", where, many, how, at, one.name, next.name), func(t *testing.T) {
								t.Parallel()
								inPlace(t, where, func(t *testing.T) { panicLosesNothing(t, many, at, how == "Goexit", one, next) })
							})
						}
					}
				}
			}
		}
	}
}

func panicLosesNothing(t *testing.T, many bool, at int, exit bool, one, next poolRead) {
	sc := &gipc.ServerConfig{Name: "test", MultiClient: many, Encryption: gipc.EncryptionOff}
	cc := &gipc.ClientConfig{Name: "test", Encryption: gipc.EncryptionOff}
	if InBubble() {
		network := &PipeNetwork{}
		sc.Listener, cc.Dial = network.Listen(), network.Dial
	} else {
		sc.Network, sc.Address = "unix", TempSocket(t)
		cc.Network, cc.Address = sc.Network, sc.Address
	}
	server := startServer(t, sc)
	clients := 1
	if many {
		clients = 3
	}
	const each = 4
	var ends []endpoint
	for range clients {
		client := startClient(t, cc)
		ends = append(ends, client)
		for i := range each {
			Must(t, Do(t, "Write", func() error { return client.Write(1, Payload(i, 100)) }))
		}
	}
	Eventually(t, "the clients", func() bool { return server.Connections.Len() == clients })
	settle() // all are ready
	read := slices.Collect(server.Connections.All())
	var mu sync.Mutex
	got, total, due := map[*gipc.Server]int{}, 0, clients*each
	take := func(s *gipc.Server, m *gipc.Message) (n int) {
		mu.Lock()
		defer mu.Unlock()
		if m.MsgType == 1 {
			if i := numberOf(m.Data); i != got[s] {
				t.Errorf("message %d of a client came after %d", i, got[s])
			}
			got[s]++
			total++
		}
		return total
	}
	at = min(at, due-1)
	Do(t, one.name, func() error {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			defer func() { recover() }()
			one.read(server, read, func(s *gipc.Server, m *gipc.Message) bool {
				if n := take(s, m); n == at && m.MsgType == 1 {
					if exit {
						runtime.Goexit()
					}
					panic("of the user")
				}
				return true
			})
		}()
		<-ended
		return nil
	})
	Do(t, next.name, func() error {
		if total < due { // else several callbacks were running
			next.read(server, read, func(s *gipc.Server, m *gipc.Message) bool { return take(s, m) < due })
		}
		return nil
	})
	if total != due {
		t.Errorf("%d messages, want %d", total, due)
	}
	WantErr(t, "Broadcast", Do(t, "Broadcast", func() error { return server.Connections.Broadcast(context.Background(), 2, nil) }))
	for _, e := range ends {
		wantMessage(t, e, 2, nil)
	}
	WantErr(t, "Close", Do(t, "Close", server.Close))
}

// TestLimitsPanicWithoutMessage: the callback panics that is told of no message, or
// of the end. The call that follows is as the first one.
func TestLimitsPanicWithoutMessage(t *testing.T) {
	t.Parallel()
	Bubble(t, func(t *testing.T) {
		network := &PipeNetwork{}
		server := startServer(t, &gipc.ServerConfig{Name: "test", MultiClient: true, Listener: network.Listen()})
		client := startClient(t, &gipc.ClientConfig{Name: "test", Dial: network.Dial})
		wantStatus(t, theClient(t, server), gipc.Connected)
		read := func(what string, want *gipc.Message, wantErr error) {
			t.Helper()
			for _, panics := range []bool{true, true, false} {
				calls := 0
				Do(t, what, func() error {
					_, panicked := recovered(func() error {
						server.Connections.ReadTimedFastest(time.Second, func(_ *gipc.Server, m *gipc.Message, err error) {
							if calls++; m != want || err != wantErr {
								t.Errorf("%s: %+v, %v", what, m, err)
							}
							if panics {
								panic("of the user")
							}
						})
						return nil
					})
					if (panicked != nil) != panics || calls != 1 {
						t.Errorf("%s: panic %v after %d calls", what, panicked, calls)
					}
					return nil
				})
			}
		}
		read("a callback without a message", gipc.TimeoutMessage, nil)
		Must(t, Do(t, "Write", func() error { return client.Write(1, Payload(1, 100)) }))
		wantMessage(t, theClient(t, server), 1, Payload(1, 100))
		WantErr(t, "Close", Do(t, "Close", server.Close))
		Do(t, "what is left", func() error {
			for range server.Connections.Messages(context.Background()) {
			}
			return nil
		})
		read("a callback after Close", nil, gipc.ErrClosed)
	})
}

func init() {
	children["limits: panic in Serve"] = func([]string) error {
		return panicOnTheLibrary(func(pool *gipc.ConnectionPool) {
			pool.Serve(context.Background(), func(*gipc.Server, *gipc.Message) { panic("of the user") })
		})
	}
	children["limits: panic in ReadTimed"] = func([]string) error {
		return panicOnTheLibrary(func(pool *gipc.ConnectionPool) {
			pool.ReadTimed(Patience, func(*gipc.Server, *gipc.Message, error) { panic("of the user") })
		})
	}
}

func panicOnTheLibrary(read func(*gipc.ConnectionPool)) error {
	network := &PipeNetwork{}
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "test", MultiClient: true, Listener: network.Listen()})
	if err != nil {
		return err
	}
	if _, err := gipc.StartClient(&gipc.ClientConfig{Name: "test", Dial: network.Dial}); err != nil {
		return err
	}
	read(server.Connections)
	return errors.New("the call has returned")
}

// TestLimitsPanicOnTheLibrary: a panic that nobody can recover ends the process, as
// in any goroutine. The library does not swallow it, and does not hang.
func TestLimitsPanicOnTheLibrary(t *testing.T) {
	t.Parallel()
	for _, child := range []string{"limits: panic in Serve", "limits: panic in ReadTimed"} {
		if r := RunChild(t, 3*Patience, child); r.Err == nil || r.Killed || !strings.Contains(r.Output, "panic: of the user") {
			t.Errorf("%s: %v, killed %v:\n%s", child, r.Err, r.Killed, r.Output)
		}
	}
}
