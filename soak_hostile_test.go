// The row of the hostile peers: every kind that is known visits a server, again
// and again, while good clients work and must not notice.

package gipc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/gipc/internal/testutil"
)

// A stranger is a peer of a server that is none of the library's clients.
type stranger struct {
	y       *tally
	ctx     context.Context // ends when the day does
	dial    func(context.Context) (net.Conn, error)
	server  *handshakeConfig
	address string // of the server's socket; "" in memory
	there   func() // it has done what it came for, except to stay
	trouble error  // why it was not let in the last time
	r       *rand.Rand
	conns   []net.Conn
	conn    net.Conn // the newest
	s       *session
}

// A gone is the panic that ends a visit whose connection is over.
type gone struct{}

// visit has the stranger do a thing and then leave.
func (h *stranger) visit(f func(h *stranger)) {
	defer func() {
		if r := recover(); r != nil && r != (gone{}) {
			h.y.wrong(besides, "%v", r)
		}
		for _, conn := range h.conns {
			conn.Close()
		}
		h.conns = nil
	}()
	f(h)
	h.there()
}

// connect dials: at this door everybody may knock.
func (h *stranger) connect() {
	conn, err := h.dial(h.ctx)
	if err != nil {
		h.refused(err)
	}
	h.conn, h.conns = conn, append(h.conns, conn)
}

// enter connects and goes through the handshake, over what wrap returns where
// it is not nil.
func (h *stranger) enter(wrap func(net.Conn) io.ReadWriter) {
	h.connect()
	var rw io.ReadWriter = h.conn
	if wrap != nil {
		rw = wrap(h.conn)
	}
	defer context.AfterFunc(h.ctx, func() { h.conn.Close() })()
	hello, err := clientHello(rw, h.server, clientSide{newKey: newECDHKey})
	if err == nil {
		h.s, err = hello.readFinish()
	}
	if err != nil {
		h.refused(err)
	}
}

// refused ends a visit before it has begun: on a busy machine a handshake may
// take longer than it may.
func (h *stranger) refused(err error) {
	h.trouble = err
	panic(gone{})
}

// must is for what fails when the server has ended the connection, which it
// may at any time.
func (h *stranger) must(err error) {
	if err != nil {
		h.there()
		panic(gone{})
	}
}

func (h *stranger) encrypted() bool { return h.server.requiredFlags()&flagEncrypted != 0 }

// frame is the next frame of this connection.
func (h *stranger) frame(typ uint32, data []byte) []byte {
	return appendFrame(h.s.sendCipher, typ, data)
}

// message is the numbered message n as a frame.
func (h *stranger) message(n uint32, size int) []byte {
	typ, data := numberedMessage(n, size)
	return h.frame(uint32(typ), data)
}

func (h *stranger) write(parts ...[]byte) {
	defer context.AfterFunc(h.ctx, func() { h.conn.Close() })()
	_, err := h.conn.Write(slices.Concat(parts...))
	h.must(err)
}

func (h *stranger) read(n int) []byte {
	defer context.AfterFunc(h.ctx, func() { h.conn.Close() })()
	b := make([]byte, n)
	_, err := io.ReadFull(h.conn, b)
	h.must(err)
	return b
}

// drain reads to the end.
func (h *stranger) drain() {
	h.there()
	defer context.AfterFunc(h.ctx, func() { h.conn.Close() })()
	io.Copy(io.Discard, h.conn)
}

// answer takes one frame.
func (h *stranger) answer() []byte {
	prefix := h.read(lengthSize)
	return append(prefix, h.read(int(binary.BigEndian.Uint32(prefix)))...)
}

// breathe lets time go by.
func (h *stranger) breathe(d time.Duration) {
	select {
	case <-time.After(d):
	case <-h.ctx.Done():
		panic(gone{})
	}
}

// stay does nothing, for about as long as a handshake may take. It does not read.
func (h *stranger) stay() {
	h.there()
	h.breathe(time.Duration(1+h.r.IntN(30)) * handshakeTimeout / 20)
}

// garbage are bytes that no length prefix begins with.
func (h *stranger) garbage(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = 0x80 | byte(h.r.Uint32())
	}
	return b
}

// A slowWriter writes a few bytes at a time, one of what is short, and breathes between
// them. A handshake takes it less than the 10 s that it may.
type slowWriter struct {
	net.Conn
	h *stranger
}

func (w slowWriter) Write(b []byte) (int, error) {
	i := 0
	for piece := range slices.Chunk(b, 1+len(b)/100) {
		w.h.breathe(5 * time.Millisecond)
		if n, err := w.Conn.Write(piece); err != nil {
			return i + n, err
		}
		i += len(piece)
	}
	return i, nil
}

const bigAnswer = soakTypes + 1 // the type whose answer is large

// strangers are the kinds of hostile peers. A visit ends when it returns or when
// its connection does.
var strangers = map[string]func(h *stranger){
	"hangs up at once":             func(h *stranger) { h.connect() },
	"silent":                       func(h *stranger) { h.connect(); h.stay() },
	"silent behind its handshake":  func(h *stranger) { h.enter(nil); h.stay() },
	"reads, and says nothing":      func(h *stranger) { h.connect(); h.drain() },
	"garbage":                      func(h *stranger) { h.connect(); h.write(h.garbage(30_000)); h.drain() },
	"garbage behind its handshake": func(h *stranger) { h.enter(nil); h.write(h.garbage(30_000)); h.drain() },
	"HTTP":                         func(h *stranger) { h.connect(); h.write([]byte("GET / HTTP/1.1\r\n\r\n")); h.drain() },
	"TLS":                          func(h *stranger) { h.connect(); h.write([]byte{22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3}); h.stay() },
	"a refusal":                    func(h *stranger) { h.connect(); h.write([]byte{byte(1 + h.r.IntN(255))}); h.drain() },
	"a client of version 2": func(h *stranger) {
		h.connect()
		h.read(2)
		h.write([]byte{0}, testKey(1).PublicKey().Bytes())
		h.drain()
	},
	"zero key":                       func(h *stranger) { h.connect(); h.write(h.hello(make([]byte, pointLen))); h.drain() },
	"a key that is not on the curve": func(h *stranger) { h.connect(); h.write(h.hello(append([]byte{4}, h.garbage(96)...))); h.drain() },
	"a compressed key":               func(h *stranger) { h.connect(); h.write(h.hello(append([]byte{2}, h.garbage(96)...))); h.drain() },
	"a limit of nothing": func(h *stranger) {
		h.connect()
		h.write([]byte{0, h.server.requiredFlags(), 0, 0, 0, 0}, make([]byte, 145))
		h.drain()
	},
	"a hello that proves nothing": func(h *stranger) {
		h.connect()
		h.write(h.hello(testKey(1).PublicKey().Bytes()), make([]byte, hashLen))
		h.drain()
	},
	"half a handshake": func(h *stranger) {
		h.connect()
		whole := append(h.hello(testKey(1).PublicKey().Bytes()), make([]byte, hashLen)...)
		h.write(whole[:h.r.IntN(6)])
		h.stay()
	},
	"another secret": func(h *stranger) {
		h.connect()
		h.stopped(h.posing(func(t *handshakeConfig) { t.secret = bytes.Repeat([]byte("no"), 16) }))
	},
	"another name": func(h *stranger) {
		h.connect()
		if hello := h.posing(func(t *handshakeConfig) { t.name = "other" }); h.encrypted() { // in plaintext nobody asks
			h.stopped(hello)
		}
	},
	"hangs up somewhere": func(h *stranger) {
		h.connect()
		size := 6
		if h.encrypted() {
			size = fullHello
		}
		switch h.r.IntN(5) {
		case 0: // while the server says hello
			h.read(1 + h.r.IntN(size-1))
		case 1: // in the middle of its own
			h.read(size)
			whole := append(h.hello(testKey(1).PublicKey().Bytes()), make([]byte, hashLen)...)
			h.write(whole[:1+h.r.IntN(len(whole)-1)])
		case 2: // before it reads whether it is let in
			h.posing(func(*handshakeConfig) {})
		case 3: // inside a frame
			h.enter(nil)
			f := h.message(1, 300)
			h.write(f[:1+h.r.IntN(len(f)-1)])
		case 4: // behind one
			h.enter(nil)
			h.write(h.message(1, 300))
		}
	},
	"closes its sending half": func(h *stranger) {
		h.enter(nil)
		h.write(h.message(1, 20))
		h.conn.(interface{ CloseWrite() error }).CloseWrite()
		h.drain()
	},
	"slow single bytes": func(h *stranger) { // and means no harm: it is served
		var w slowWriter
		h.enter(func(conn net.Conn) io.ReadWriter { w = slowWriter{conn, h}; return w })
		for n := range uint32(3) {
			f := h.message(n+1, 10)
			_, err := w.Write(f)
			h.must(err)
			h.answer()
		}
		_, err := w.Write(h.frame(controlType, []byte{kindClose, closedByUser}))
		h.must(err)
		h.drain()
	},
	"frames too short": func(h *stranger) {
		h.enter(nil)
		n := h.r.IntN(4)
		h.write(binary.BigEndian.AppendUint32(nil, uint32(n)), make([]byte, n+h.r.IntN(3)))
		h.drain()
	},
	"announces the largest": func(h *stranger) {
		h.enter(nil)
		head := appendFrameHeader(nil, frameHeader{frameType: 1, dataSize: h.s.peerMaxDataSize})
		if h.encrypted() {
			record, err := h.s.sendCipher.seal(nil, head)
			h.must(err)
			head = binary.BigEndian.AppendUint32(record, uint32(sealOverhead+h.s.peerMaxDataSize))
		}
		h.write(head, make([]byte, 100))
		h.stay()
	},
	"announces more than that": func(h *stranger) {
		h.enter(nil)
		h.write(binary.BigEndian.AppendUint32(nil, math.MaxUint32-uint32(h.r.IntN(10))), make([]byte, 100))
		h.drain()
	},
	"a frame that is not authentic, or of a type that is none": func(h *stranger) {
		h.enter(nil)
		h.write([]byte{0, 0, 0, 40}, h.garbage(40))
		h.drain()
	},
	"flips a bit": func(h *stranger) {
		h.enter(nil)
		f := h.message(1, 50)
		if h.encrypted() {
			f[lengthSize+h.r.IntN(len(f)-lengthSize)] ^= 1 << h.r.IntN(8)
		}
		h.write(f)
		h.stay()
	},
	"replays": func(h *stranger) {
		h.enter(nil)
		f := h.message(1, 50)
		if h.write(f); h.encrypted() { // in plaintext nobody can tell
			h.write(f, f, f)
		}
		h.drain()
	},
	"reorders": func(h *stranger) {
		h.enter(nil)
		if a, b := h.message(1, 50), h.message(2, 50); h.encrypted() {
			h.write(b, a)
		}
		h.drain()
	},
	"reflects": func(h *stranger) {
		h.enter(nil)
		h.write(h.message(1, 50))
		if f := h.answer(); h.encrypted() {
			h.write(f, f)
		}
		h.drain()
	},
	"floods with pings": func(h *stranger) {
		h.enter(nil)
		go io.Copy(io.Discard, h.conn)
		h.flood(func() []byte { return h.frame(controlType, []byte{kindPing, 1, 2, 3, 4, 5, 6, 7, 8}) })
	},
	"floods with pings and reads no pong": func(h *stranger) {
		h.enter(nil)
		h.flood(func() []byte { return h.frame(controlType, []byte{kindPing, 1, 2, 3, 4, 5, 6, 7, 8}) })
		h.stay()
	},
	"floods with empty messages and unknown control frames": func(h *stranger) {
		h.enter(nil)
		go io.Copy(io.Discard, h.conn)
		n := uint32(0)
		h.flood(func() []byte {
			n++
			return append(h.message(n, 0), h.frame(controlType, []byte{byte(5 + n%11), 1})...)
		})
	},
	"control frames that end it": func(h *stranger) {
		h.enter(nil)
		data := [][]byte{{}, {16}, {255, 1}, {kindPing, 1}, {kindClose}, {kindCloseAck, 0}}[h.r.IntN(6)]
		h.write(h.frame(controlType, data))
		h.drain()
	},
	"asks for much and never reads": func(h *stranger) {
		h.enter(nil)
		for range 100 {
			h.write(h.frame(bigAnswer, nil))
		}
		h.stay()
	},
	"closes and talks on": func(h *stranger) {
		h.enter(nil)
		h.write(h.frame(controlType, []byte{kindClose, closedByUser}))
		for n := range uint32(50) {
			h.write(h.message(n+1, 1000))
		}
		h.stay()
	},
	"a crowd": func(h *stranger) {
		for range 20 {
			h.connect()
		}
		h.stay()
	},
	"takes the name": func(h *stranger) {
		if h.address == "" {
			return
		}
		s, err := StartServer(&ServerConfig{Name: h.server.name, Network: "unix", Address: h.address})
		if s != nil || !errors.Is(err, ErrNameInUse) {
			h.y.wrong(besides, "a second server has the name: %v, %v", s, err)
		}
	},
}

func (h *stranger) hello(point []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{0, h.server.requiredFlags()}, 4096)
	if h.encrypted() {
		b = append(b, point...)
	}
	return b
}

// posing says hello with other terms than the server's.
func (h *stranger) posing(change func(*handshakeConfig)) *clientState {
	defer context.AfterFunc(h.ctx, func() { h.conn.Close() })()
	own := *h.server
	change(&own)
	hello, err := clientHello(h.conn, &own, clientSide{newKey: newECDHKey})
	h.must(err)
	return hello
}

// stopped expects that a hello comes to nothing.
func (h *stranger) stopped(hello *clientState) {
	if s, err := hello.readFinish(); err == nil {
		h.y.wrong(besides, "a server with flags %d lets in whom it should not: %+v", h.server.requiredFlags(), s)
	}
}

// flood writes as fast as it can for a while.
func (h *stranger) flood(next func() []byte) {
	for range 8 {
		var burst []byte
		for range 500 {
			burst = append(burst, next()...)
		}
		h.write(burst)
		h.breathe(time.Millisecond)
	}
}

// soakHostile has every kind of hostile peer visit a server while good clients
// work: in a bubble, where any wait of a good one shows to the nanosecond, and
// for the given time on unix sockets.
func soakHostile(t *testing.T, d time.Duration) (rows []*tally) {
	seed := seedOf(t, fmt.Sprintf("GIPC_SOAK=hostile=%v go test -run '^TestSoak$' .", d))
	pause, often := 300*time.Millisecond, time.Duration(1)
	if d >= time.Minute {
		pause = 20 * time.Millisecond
	}
	if testutil.RaceEnabled {
		often = 8 // as much slower are the handshakes
	}
	for i, mode := range []string{"encrypted", "with a secret", "in plaintext"} {
		sc := ServerConfig{Name: "good", MultiClient: true}
		cc := ClientConfig{Name: "good"}
		switch mode {
		case "with a secret":
			sc.Secret, cc.Secret = testSecret, testSecret
		case "in plaintext":
			sc.Encryption, cc.Encryption = EncryptionOff, EncryptionOff
		}
		t.Run(mode+" in memory", func(t *testing.T) {
			start := time.Now()
			y := afloat(t, func(t *testing.T) *tally {
				l := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
				var kept keeper
				sc := sc
				sc.Listener = l
				dial := func(context.Context) (net.Conn, error) {
					near, far := newFaultPipe(nil, nil)
					select {
					case l.conns <- kept.keep(far):
						return kept.keep(near), nil
					case <-l.done:
						return nil, net.ErrClosed
					}
				}
				// Twice the time that a silent handshake is given.
				y := hostileDay(t, &sc, cc, dial, "", seed+uint64(i), 2*handshakeTimeout, often*2*time.Second, 0)
				kept.check(y)
				return y
			})
			y.what = fmt.Sprintf("visits of %d kinds of hostile peers, %s, in memory", len(strangers), mode)
			y.spent = time.Since(start)
			rows = append(rows, y)
		})
		t.Run(mode+" unix", func(t *testing.T) {
			before, start := holds(t), time.Now()
			var kept keeper
			path := testutil.TempSocket(t)
			sc.Listener = kept.listen(t, path)
			most := hang
			if d >= time.Minute {
				most = 5 * time.Second // who waits for the table has a machine that is not that busy
			}
			y := hostileDay(t, &sc, cc, kept.dial(path), path, seed+uint64(i), d/3, often*pause, most)
			y.what = fmt.Sprintf("visits of %d kinds of hostile peers, %s, unix", len(strangers), mode)
			kept.check(y)
			before.check(t, y)
			y.spent = time.Since(start)
			rows = append(rows, y)
		})
	}
	return rows
}

// hostileDay has strangers visit a server for d, and longer until every kind has
// been there, with a pause between the visits of a kind. most is what a good
// client may wait for anything.
func hostileDay(t *testing.T, sc *ServerConfig, cc ClientConfig, dial func(context.Context) (net.Conn, error), address string, seed uint64, d, pause, most time.Duration) *tally {
	y := new(tally)
	cc.Dial, cc.Timeout = dial, 4*hang
	server, err := StartServer(sc)
	if err != nil {
		t.Fatal(err)
	}
	// The server answers everybody and judges what everybody says.
	serving := make(chan error, 1)
	var said sync.Map
	go func() {
		serving <- server.Connections.Serve(context.Background(), func(srv *Server, m *Message) {
			if m.MsgType == statusType {
				if m.Status == Disconnected.String() {
					said.Delete(srv)
				}
				return
			}
			if m.MsgType == bigAnswer {
				srv.Write(bigAnswer, make([]byte, 60_000))
				return
			}
			a, ok := said.Load(srv)
			if !ok {
				a = y.account(fmt.Sprint("peer ", srv.ID()), 1)
				a.(*account).most = 1 << 30
				said.Store(srv, a)
			}
			a.(*account).arrived(m)
			srv.Write(m.MsgType, m.Data)
		})
	}()

	ctx, cancel := context.WithCancel(context.Background())
	var visits atomic.Int64
	var visitors sync.WaitGroup
	names := slices.Sorted(maps.Keys(strangers))
	all := make([]*stranger, len(names))
	been := make(chan int, len(names)) // kinds, each once
	for i, name := range names {
		h := &stranger{y: y, ctx: ctx, dial: dial, server: serverTerms(sc), address: address, r: dice(seed + uint64(i))}
		all[i] = h
		visitors.Go(func() {
			first := sync.OnceFunc(func() { been <- i })
			for ctx.Err() == nil {
				h.there = sync.OnceFunc(func() {
					first()
					visits.Add(1)
				})
				h.visit(strangers[name])
				select {
				case <-time.After(pause):
				case <-ctx.Done():
				}
			}
		})
	}

	// One good client talks all day, another one comes and goes.
	good := func(name string, day func(put func(e *Client, n uint32, size int))) {
		a := y.account(name, 1)
		day(func(e *Client, n uint32, size int) {
			start := time.Now()
			if err := a.put(e, n, size, false); err != nil {
				y.wrong(missing, "%s: message %d: %v", name, n, err)
				return
			}
			for {
				m, err := e.ReadTimed(max(most, time.Second))
				switch {
				case err != nil || m == TimeoutMessage:
					y.wrong(missing, "%s: no answer to message %d after %v: %v", name, n, time.Since(start), err)
				case m.MsgType == statusType && m.Err == nil && (m.Status == Connecting.String() || m.Status == Connected.String()):
					continue
				case m.MsgType == statusType:
					y.wrong(missing, "%s: %s before the answer to message %d: %v", name, m.Status, n, m.Err)
				default:
					if got := a.arrived(m); got != n {
						y.wrong(missing, "%s: an answer to %d where that to %d was due", name, got, n)
					}
				}
				break
			}
			y.took(time.Since(start), most, "%s: message %d", name, n)
		})
	}
	start := func() *Client {
		begun := time.Now()
		c, err := StartClient(&cc)
		if err != nil {
			y.wrong(besides, "a good client: %v", err)
			return nil
		}
		y.took(time.Since(begun), most, "connecting")
		return c
	}
	end := func(c *Client) {
		begun := time.Now()
		if err := c.Close(); err != nil {
			y.wrong(missing, "closing a good client: %v", err)
		}
		y.took(time.Since(begun), most, "closing")
	}
	var goods sync.WaitGroup
	goods.Go(func() {
		c := start()
		if c == nil {
			return
		}
		good("a good client", func(put func(*Client, uint32, int)) {
			for n := uint32(1); ctx.Err() == nil; n++ {
				put(c, n, int(n%500))
				<-time.After(pause / 100)
			}
		})
		end(c)
	})
	goods.Go(func() {
		good("a new good client", func(put func(*Client, uint32, int)) {
			for n := uint32(1); ctx.Err() == nil; n++ {
				c := start()
				if c == nil {
					return
				}
				put(c, n, int(n%500))
				end(c)
				<-time.After(pause / 5)
			}
		})
	})
	<-time.After(d)
	giveUp := time.After(4 * hang)
	seen := map[int]bool{}
	for len(seen) < len(names) {
		select {
		case i := <-been:
			seen[i] = true
			continue
		case <-giveUp:
		}
		break
	}
	cancel()
	goods.Wait()
	visitors.Wait()
	for i, h := range all {
		if !seen[i] {
			y.wrong(besides, "the kind %q has not been there: %v", names[i], h.trouble)
		}
	}
	y.count = visits.Load()
	eventually(t, "the end of all visits, and Serve has read it", func() bool { return len(server.Connections.readableClients()) == 0 })
	begun := time.Now()
	if err := server.Close(); err != nil {
		y.wrong(missing, "closing the server: %v", err)
	}
	y.took(time.Since(begun), max(most, drainTimeout), "closing the server")
	if err := <-serving; err != nil && !errors.Is(err, ErrClosed) {
		y.wrong(besides, "Serve: %v", err)
	}
	return y
}

// serverTerms are the terms with which a client gets in.
func serverTerms(sc *ServerConfig) *handshakeConfig {
	return &handshakeConfig{name: sc.Name, secret: sc.Secret, encrypt: sc.Encryption == EncryptionOn, hybrid: true, maxDataSize: defaultMsgSize}
}
