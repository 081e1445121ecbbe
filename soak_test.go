// What the project promises to those who trust it with their messages, counted:
// hostile peers, bad connections, killed servers, Close under load. go test runs
// the short form of each row, and make soak the long one and prints the table.

package gipc

import (
	"bufio"
	"bytes"
	"context"
	"crypto/fips140"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/gipc/internal/sys"
	"example.com/gipc/internal/testutil"
)

// ---- Counting

// A column of the table, in which every number but 0 is a broken promise.
type column int

const (
	missing    column = iota // accepted, with a promise that it has arrived, and it has not
	doubled                  // came twice in a connection, or again in a later one
	disordered               // came behind one that was written later
	changed                  // is none that was sent
	late                     // took longer than anything may
	leaked                   // goroutines, descriptors, files, sides of a connection
	besides                  // whatever else may not be
	columns
)

// A tally is one row. It is safe for concurrent use.
type tally struct {
	what  string
	count int64 // of what the row is about

	mu       sync.Mutex // guards what follows
	messages int64      // that came and were looked at
	spent    time.Duration
	bad      [columns]int64
	slowest  time.Duration
	notes    []string // on the first of the bad ones
}

func (y *tally) wrong(c column, format string, args ...any) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.bad[c]++
	if len(y.notes) < 10 {
		y.notes = append(y.notes, fmt.Sprintf(format, args...))
	}
}

// took notes how long something has taken that may not take longer than most.
func (y *tally) took(d, most time.Duration, format string, args ...any) {
	y.mu.Lock()
	y.slowest = max(y.slowest, d)
	y.mu.Unlock()
	if d > most {
		y.wrong(late, "%s took %v", fmt.Sprintf(format, args...), d)
	}
}

// add takes the counts of o, which nobody changes any more. where leads every
// note of it.
func (y *tally) add(o *tally, where string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.count += o.count
	y.messages += o.messages
	y.slowest = max(y.slowest, o.slowest)
	for c, n := range o.bad {
		y.bad[c] += n
	}
	for _, note := range o.notes {
		if len(y.notes) < 10 {
			y.notes = append(y.notes, where+": "+note)
		}
	}
}

func (y *tally) fail(t testing.TB) {
	t.Helper()
	if y.bad != [columns]int64{} {
		t.Errorf("%s:\n%s", y.what, strings.Join(y.notes, "\n"))
	}
}

const soakHead = "%-69s %9s %11s %6s %8s %13s %8s %5s %7s %6s %8s %9s"

func (y *tally) line() string {
	cells := []any{y.what, fmt.Sprint(y.count), fmt.Sprint(y.messages)}
	for _, n := range y.bad {
		cells = append(cells, fmt.Sprint(n))
	}
	for _, d := range []time.Duration{y.slowest, y.spent} {
		cells = append(cells, d.Round(time.Millisecond))
	}
	return fmt.Sprintf(soakHead, cells...)
}

// An account is of the numbered messages that go one way: which have been
// accepted, and which have come.
type account struct {
	*tally
	who     string
	writers uint32 // message n is of writer n % writers, whose messages come in order
	blind   bool   // bits may change unnoticed: what comes is not judged

	mu   sync.Mutex        // guards what follows
	most uint32            // numbers up to it may come
	sent map[uint32]uint64 // accepted messages, and the connection of each; 0 where it was lost meanwhile
	seen []uint64          // a bit for each number that came
	last map[uint32]uint32 // the newest of each writer
}

func (y *tally) account(who string, writers uint32) *account {
	return &account{tally: y, who: who, writers: writers, sent: map[uint32]uint64{}, last: map[uint32]uint32{}}
}

const soakTypes = 1000

// numberedMessage is the message with a number; its type and its data say which
// one it is, and a part of it is no message.
func numberedMessage(n uint32, size int) (int, []byte) {
	data := make([]byte, 4+size)
	binary.BigEndian.PutUint32(data, n)
	for i := range data[4:] {
		data[4+i] = byte(n) + byte(i) + byte(7*size)
	}
	return 1 + (int(n%soakTypes)+size)%soakTypes, data
}

// put writes or queues the message with a number.
func (a *account) put(e interface {
	Write(int, []byte) error
	Queue(int, []byte) error
	ID() uint64
}, n uint32, size int, hold bool) error {
	a.mu.Lock()
	a.most = max(a.most, n)
	a.mu.Unlock()
	typ, data := numberedMessage(n, size)
	id, write := e.ID(), e.Write
	if hold {
		write = e.Queue
	}
	err := write(typ, data)
	clear(data) // it is ours again
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.sent) > 1<<16 { // a long run settles the newest connection alone
		maps.DeleteFunc(a.sent, func(_ uint32, of uint64) bool { return of != id })
	}
	if e.ID() != id {
		id = 0
	}
	a.sent[n] = id
	return nil
}

// arrived judges a message and returns its number; 0 is none.
func (a *account) arrived(m *Message) uint32 {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tally.mu.Lock()
	a.messages++
	a.tally.mu.Unlock()
	if len(m.Data) < 4 || a.blind && binary.BigEndian.Uint32(m.Data) > a.most {
		if !a.blind {
			a.wrong(changed, "%s: a message of %d bytes that nobody sent", a.who, len(m.Data))
		}
		return 0
	}
	n := binary.BigEndian.Uint32(m.Data)
	if !a.blind {
		if typ, data := numberedMessage(n, len(m.Data)-4); n > a.most || typ != m.MsgType || !bytes.Equal(data, m.Data) {
			a.wrong(changed, "%s: message %d that nobody sent: type %d, %d bytes", a.who, n, m.MsgType, len(m.Data))
			return 0
		}
		if last := a.last[n%a.writers]; a.hasLocked(n) {
			a.wrong(doubled, "%s: message %d comes again", a.who, n)
		} else if n < last {
			a.wrong(disordered, "%s: message %d comes behind %d", a.who, n, last)
		}
	}
	for len(a.seen) <= int(n/64) {
		a.seen = append(a.seen, 0)
	}
	a.seen[n/64] |= 1 << (n % 64)
	a.last[n%a.writers] = max(n, a.last[n%a.writers])
	return n
}

func (a *account) hasLocked(n uint32) bool {
	return int(n/64) < len(a.seen) && a.seen[n/64]&(1<<(n%64)) != 0
}

// settle finds the accepted messages that have not come and were due: those of
// the connections that due is true of.
func (a *account) settle(due func(id uint64) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for n, id := range a.sent {
		if !a.blind && due(id) && !a.hasLocked(n) {
			a.wrong(missing, "%s: Close returned nil, and message %d of connection %d has not come", a.who, n, id)
		}
	}
}

// holdings are what a process has that a test may forget to give back.
type holdings struct {
	goroutines map[string]string
	files      int
}

func holds(t *testing.T) holdings {
	bindAt(t, testutil.TempSocket(t)).Close() // what is made once for the process is not counted
	h := holdings{goroutines: testutil.Goroutines(nil)}
	if runtime.GOOS == "linux" {
		h.files = openFDs(t)
	}
	return h
}

// check counts what is there now and was not in h. A part of it may be on its
// way out.
func (h holdings) check(t testing.TB, y *tally) {
	for _, stack := range testutil.LeftOver(h.goroutines, 30*time.Second) {
		y.wrong(leaked, "a goroutine:\n%s", stack)
	}
	now := h.files
	for end := time.Now().Add(10 * time.Second); runtime.GOOS == "linux" && time.Now().Before(end); {
		if now = openFDs(t); now <= h.files {
			break
		}
		<-time.After(time.Millisecond)
	}
	for range now - h.files {
		y.wrong(leaked, "a descriptor: there are %d, and were %d", now, h.files)
	}
}

// A keeper holds on to connections: one that is forgotten would be closed with
// the garbage.
type keeper struct {
	mu    sync.Mutex
	conns []net.Conn
}

func (k *keeper) keep(conn net.Conn) net.Conn {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.conns) >= 1<<10 {
		k.conns = slices.DeleteFunc(k.conns, func(conn net.Conn) bool { return !isOpen(conn) })
	}
	k.conns = append(k.conns, conn)
	return conn
}

// isOpen says whether nobody has closed this side of a connection.
func isOpen(conn net.Conn) bool {
	if e, ok := conn.(*roadEnd); ok {
		e.mu.Lock()
		defer e.mu.Unlock()
		return !e.way[e.side].closed
	}
	raw := sys.RawConn(conn)
	return raw != nil && raw.Control(func(uintptr) {}) == nil
}

// dial dials a socket, and listen takes a path as the library does.
func (k *keeper) dial(path string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
		if err != nil {
			return nil, err
		}
		return k.keep(conn), nil
	}
}

func (k *keeper) listen(t *testing.T, path string) net.Listener {
	l, err := listenAt(t, path)
	if err != nil {
		t.Fatal(err)
	}
	return &wrapListener{l, k.keep}
}

// check counts the connections that are still open. All have been ended.
func (k *keeper) check(y *tally) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for end := time.Now().Add(10 * time.Second); ; <-time.After(time.Millisecond) {
		k.conns = slices.DeleteFunc(k.conns, func(conn net.Conn) bool { return !isOpen(conn) })
		if len(k.conns) == 0 || time.Now().After(end) {
			break
		}
	}
	for range k.conns {
		y.wrong(leaked, "a connection that nobody has closed")
	}
}

// A wrapListener changes what is accepted.
type wrapListener struct {
	net.Listener
	wrap func(net.Conn) net.Conn
}

func (l *wrapListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.wrap(conn), nil
}

// ---- The rows

// hang is longer than anything here takes on a machine that is very busy.
const hang = 30 * time.Second

// A soakPlan says how much of each row is done; 0 leaves it out.
type soakPlan struct {
	hostile  time.Duration // of all kinds of hostile peers at once
	faults   int           // connections in memory
	sockets  int           // of the system
	kills    int
	closes   int
	explicit bool // the table is for somebody who waits for it
}

func TestSoak(t *testing.T) {
	plan := planSoak(t)
	say := func(text string) { t.Log(text) }
	if plan.explicit {
		say = func(text string) { fmt.Println(text) }
	} else if testutil.RaceEnabled || testing.Short() {
		t.Log("the counts are a fifth of those that go without -race and -short")
	}
	say(fmt.Sprintf(soakHead, "what", "how many", "messages", "lost", "doubled", "out of order", "changed", "late", "leaked", "else", "slowest", "time"))
	row := func(name string, wanted bool, f func(t *testing.T) []*tally) {
		if !wanted {
			return
		}
		t.Run(name, func(t *testing.T) {
			var counted int64
			for _, y := range f(t) {
				say(y.line())
				y.fail(t)
				counted += y.count
			}
			if counted == 0 && !fips140.Enabled() { // which has no bubbles
				t.Error("nothing was counted")
			}
		})
	}
	row("hostile", plan.hostile > 0, func(t *testing.T) []*tally { return soakHostile(t, plan.hostile) })
	row("faults", plan.faults > 0, func(t *testing.T) []*tally { return soakFaults(t, plan.faults) })
	row("sockets", plan.sockets > 0, func(t *testing.T) []*tally { return soakSockets(t, plan.sockets) })
	row("kills", plan.kills > 0, func(t *testing.T) []*tally { return soakKills(t, plan.kills) })
	row("closes", plan.closes > 0, func(t *testing.T) []*tally { return soakCloses(t, plan.closes) })
	if plan.explicit {
		say("fuzzing: make fuzz FUZZTIME=1h; the suite again and again: make race COUNT=20")
	}
}

// planSoak reads GIPC_SOAK: nothing is the short form; long; a number of
// connections with faults, with the rest in proportion; or rows with their
// lengths, such as "faults=10000 hostile=1m", and no others.
func planSoak(t testing.TB) soakPlan {
	short := soakPlan{hostile: time.Second, faults: 1000, sockets: 200, kills: 20, closes: 1000}
	long := soakPlan{hostile: 10 * time.Minute, faults: 1_000_000, sockets: 20_000, kills: 1000, closes: 100_000, explicit: true}
	text := os.Getenv("GIPC_SOAK")
	if text == "long" {
		return long
	}
	if n, err := strconv.Atoi(text); err == nil {
		part := func(of int) int { return max(1, int(math.Round(float64(of)*float64(n)/float64(long.faults)))) }
		return soakPlan{time.Duration(part(int(long.hostile))), n, part(long.sockets), part(long.kills), part(long.closes), true}
	}
	if text == "" || text == "short" {
		if testutil.RaceEnabled || testing.Short() {
			return soakPlan{short.hostile, short.faults / 5, short.sockets / 5, short.kills / 5, short.closes / 5, text != ""}
		}
		short.explicit = text != ""
		return short
	}
	plan := soakPlan{explicit: true}
	for word := range strings.FieldsSeq(text) {
		name, value, _ := strings.Cut(word, "=")
		var err error
		if of := map[string]*int{"faults": &plan.faults, "sockets": &plan.sockets, "kills": &plan.kills, "closes": &plan.closes}[name]; of != nil {
			*of, err = strconv.Atoi(value)
		} else if name == "hostile" {
			plan.hostile, err = time.ParseDuration(value)
		} else {
			err = errors.New("no such row")
		}
		if err != nil {
			t.Fatalf("GIPC_SOAK: %q: %v: give long, a number, or rows such as faults=1000 sockets=100 kills=20 closes=1000 hostile=1m", word, err)
		}
	}
	return plan
}

// atOnce runs f on as many goroutines as there are processors. Each has a test
// of its own, in which it may make bubbles.
func atOnce(t *testing.T, f func(t *testing.T, worker int)) {
	t.Run("at once", func(t *testing.T) {
		for i := range runtime.GOMAXPROCS(0) {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				f(t, i)
			})
		}
	})
}

// afloat runs f in a bubble. A bubble whose goroutines do not end is a leak.
func afloat(t *testing.T, f func(t *testing.T) *tally) (y *tally) {
	y = new(tally)
	defer func() {
		if r := recover(); r != nil {
			y.wrong(leaked, "%v", r)
		}
	}()
	bubble(t, func(t *testing.T) { y = f(t) })
	return y
}

// ---- Connections with faults

// conversations are the kinds of conversation that a seed makes.
var conversations = [...]string{
	"connections with faults, encrypted: what comes was sent",
	"the same in plaintext, but for changed bytes",
	"plaintext with changed bytes: all goes on, data may differ",
}

// programOf is the program of converse that a seed makes.
func programOf(seed uint64) *program {
	r := dice(seed)
	b := []byte{byte(r.IntN(3)), byte(r.IntN(3)), byte(r.IntN(2)), byte(r.IntN(256))}
	changing := b[0] != 0 || r.IntN(2) == 0 // in plaintext only every other one
	for i := 0; i < 4; {
		way := forecast(r)
		if w := (&program{way}).faults(); changing || !w.changes() {
			b = append(b, way...)
			i++
		}
	}
	for range r.IntN(120) {
		op := r.IntN(4)
		if r.IntN(16) == 0 {
			op |= 4
		}
		b = append(b, byte(op), byte(r.IntN(256)))
	}
	return &program{b}
}

// soakFaults makes connections in memory, until so many had faults.
func soakFaults(t *testing.T, n int) []*tally {
	const test = "GIPC_SOAK=faults=1 go test -run '^TestSoak$' ."
	seed := seedOf(t, test)
	var rows []*tally
	for _, what := range conversations {
		rows = append(rows, &tally{what: what})
	}
	var next atomic.Uint64
	var done atomic.Int64
	start := time.Now()
	atOnce(t, func(t *testing.T, _ int) {
		for done.Load() < int64(n) {
			own := seed + next.Add(1) - 1
			y := afloat(t, func(t *testing.T) *tally { return converse(t, programOf(own)) })
			rows[max(0, slices.Index(conversations[:], y.what))].add(y, again(own, test))
			done.Add(max(1, y.count))
		}
	})
	rows[0].spent = time.Since(start) // of all three
	return rows
}

// soakSockets has two ends talk over sockets of the system whose connections
// all break, until so many have: every other one has its faults at the
// client, the others at the server.
func soakSockets(t *testing.T, n int) (rows []*tally) {
	seed := seedOf(t, fmt.Sprintf("GIPC_SOAK=sockets=%d go test -run '^TestSoak$' .", n))
	for _, encryption := range []Encryption{EncryptionOn, EncryptionOff} {
		y := &tally{what: "the same over unix sockets, encrypted"}
		if encryption == EncryptionOff {
			y.what = "the same over unix sockets, in plaintext"
		}
		before, start := holds(t), time.Now()
		storms := func(i int) (out, in *connFaults) { // of connection i
			p := &program{}
			for r := dice(seed + uint64(i)); len(p.b) < 40; {
				p.b = append(p.b, forecast(r)...)
			}
			out, in = p.faults(), p.faults()
			for _, w := range []*connFaults{out, in} {
				w.delay, w.pause = w.delay/100, w.pause/100_000
				w.room = max(w.room, 512)
				w.twice.at, w.swap.at = w.twice.at+fullHello+200, w.swap.at+fullHello+200 // or a handshake waits its 10 s for bytes
				if w.cut == 0 {
					w.cut = dice(seed ^ uint64(i)).IntN(1 << 16)
				}
				w.cut = 1 + w.cut%(1<<14)
				if encryption == EncryptionOff {
					w.flip, w.twice, w.swap = 0, span{}, span{}
				}
			}
			return out, in
		}
		path := testutil.TempSocket(t)
		ln, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		var kept keeper
		// They dial and accept one after the other, so that both count alike.
		turns := func(ours int) func(net.Conn) net.Conn {
			i := -1
			return func(conn net.Conn) net.Conn {
				if i++; i == 0 { // the first one has to succeed
					conn = withFaults(conn, &connFaults{cut: 5000}, nil)
				} else if i%2 == ours {
					out, in := storms(i)
					conn = withFaults(conn, out, in)
				}
				return kept.keep(conn)
			}
		}
		accepted, dialled := turns(1), turns(0)
		server, err := StartServer(&ServerConfig{Name: "n", Encryption: encryption, Listener: &wrapListener{ln, accepted}})
		if err != nil {
			t.Fatal(err)
		}
		client, err := StartClient(&ClientConfig{Name: "n", Encryption: encryption, RetryTimer: time.Millisecond, Dial: func(ctx context.Context) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
			if err != nil {
				return nil, err
			}
			return dialled(conn), nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		ends := [2]*speaker{{e: server, account: y.account("server", 1)}, {e: client, account: y.account("client", 1)}}
		ends[0].honest, ends[1].honest = encryption == EncryptionOff, encryption == EncryptionOff
		stop := make(chan struct{})
		var readers, writers sync.WaitGroup
		for i, e := range ends {
			readers.Go(func() { e.listen(ends[1-i]) })
			writers.Go(func() {
				r := dice(seed + uint64(i))
				for n := uint32(1); ; n++ {
					select {
					case <-stop:
						return
					default:
					}
					if err := e.put(e.e, n, r.IntN(400), r.IntN(4) == 0); err != nil {
						e.e.(interface{ WaitConnected(context.Context) error }).WaitConnected(context.Background())
					}
				}
			})
		}
		made := func() int { return int(client.Stats().Reconnects) }
		for progress := time.Now(); made() < n/2; { // or it hangs
			before := made()
			<-time.After(10 * time.Millisecond)
			if made() > before {
				progress = time.Now()
			} else if time.Since(progress) > 2*hang {
				y.wrong(late, "after connection %d nothing went on", before)
				break
			}
		}
		y.count = int64(made())
		close(stop)
		writers.Wait()
		ends[1].err = client.Close()
		ends[1].id = client.ID() // not before: the next connection may come between
		server.Close()
		readers.Wait()
		ends[1].settle(false)
		os.RemoveAll(filepath.Dir(path))
		kept.check(y)
		before.check(t, y)
		y.spent = time.Since(start)
		rows = append(rows, y)
	}
	return rows
}

// ---- Killed servers

func init() { testChildren["soak"] = soakChild }

// soakChild serves a path, and puts the number of its life before each answer.
func soakChild() {
	var server *Server
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		word, rest, _ := strings.Cut(in.Text(), " ")
		var err error
		switch word {
		case "serve":
			var path string
			var life uint32
			if _, err = fmt.Sscan(rest, &life, &path); err != nil {
				break
			}
			if server, err = StartServer(&ServerConfig{Name: "soak", Network: "unix", Address: path, MultiClient: true}); err == nil {
				go server.Connections.Serve(context.Background(), func(srv *Server, m *Message) {
					if m.MsgType != statusType {
						srv.Write(m.MsgType, append(binary.BigEndian.AppendUint32(nil, life), m.Data...))
					}
				})
			}
		case "close":
			err = server.Close()
		}
		if err != nil {
			fmt.Println("failed:", err)
		} else {
			fmt.Println("ok")
		}
	}
}

// soakKills kills a server so often under clients that write, and has another
// process take its place. Every fourth time one more is killed while it starts.
func soakKills(t *testing.T, n int) []*tally {
	const clients = 4
	y := &tally{what: fmt.Sprintf("server killed and restarted under %d writing clients", clients)}
	path := testutil.TempSocket(t)
	seed := seedOf(t, fmt.Sprintf("GIPC_SOAK=kills=%d go test -run '^TestSoak$' .", n))
	r := dice(seed)
	before, start := holds(t), time.Now()
	server := startChild(t, "soak", nil)
	life := uint32(1)
	server.ask("ok", "serve %d %s", life, path)

	type client struct {
		*Client
		*account
		life atomic.Uint32 // of the server that answered last
	}
	var kept keeper
	all := make([]*client, clients)
	stop := make(chan struct{})
	news := make(chan struct{}, 1) // a client has had an answer of another server
	var writers, readers sync.WaitGroup
	for i := range all {
		cc := ClientConfig{Name: "soak", Network: "unix", Address: path, RetryTimer: 10 * time.Millisecond}
		if i%2 == 0 {
			cc.Dial = kept.dial(path)
		}
		one, err := StartClient(&cc)
		if err != nil {
			t.Fatal(err)
		}
		c := &client{Client: one, account: y.account(fmt.Sprint("client ", i), 1)}
		all[i] = c
		writers.Go(func() {
			r := dice(seed + uint64(i) + 1)
			for n := uint32(1); ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := c.put(c, n, r.IntN(300), r.IntN(4) == 0); err != nil {
					c.WaitConnected(context.Background())
				}
				if n%50 == 0 {
					c.Flush()
					<-time.After(time.Millisecond) // the killing is what takes the time
				}
			}
		})
		readers.Go(func() {
			for m := range c.Messages(context.Background()) {
				life, rest := binary.BigEndian.Uint32(m.Data), m.Data[4:]
				c.arrived(&Message{MsgType: m.MsgType, Data: rest})
				if c.life.Swap(life) != life {
					select {
					case news <- struct{}{}:
					default:
					}
				}
			}
		})
	}
	allBack := func() bool {
		start, giveUp := time.Now(), time.After(hang)
		for _, c := range all {
			for c.life.Load() != life {
				select {
				case <-news:
				case <-time.After(10 * time.Millisecond): // the news was another's
				case <-giveUp:
					y.wrong(late, "client %d is not back, %v after server %d began; it is %v", slices.Index(all, c), hang, life, c.StatusCode())
					return false
				}
			}
		}
		y.took(time.Since(start), hang, "the return of all clients")
		return true
	}
	back := allBack()
	for back && y.count < int64(n) {
		<-time.After(time.Duration(r.IntN(3000)) * time.Microsecond)
		server.kill()
		if y.count%4 == 3 {
			life++ // one of its own: who has had its answer is not back with the next
			dying := startChild(t, "soak", nil)
			dying.say("serve %d %s", life, path)
			<-time.After(time.Duration(r.IntN(20_000)) * time.Microsecond)
			dying.kill()
		}
		life++
		server = startChild(t, "soak", nil)
		server.ask("ok", "serve %d %s", life, path)
		if back = allBack(); back {
			y.count++
		}
	}
	close(stop)
	writers.Wait()
	for _, c := range all { // what the last server has got, it has answered
		if err := c.Flush(); err != nil {
			y.wrong(besides, "flushing: %v", err)
		}
		c.account.mu.Lock()
		last := slices.Max(slices.Collect(maps.Keys(c.sent)))
		c.account.mu.Unlock()
		eventually(t, "the last answer", func() bool {
			c.account.mu.Lock()
			defer c.account.mu.Unlock()
			return c.hasLocked(last)
		})
		id := c.ID()
		c.settle(func(of uint64) bool { return of == id })
		if err := c.Close(); err != nil {
			y.wrong(besides, "closing: %v", err)
		}
	}
	readers.Wait()
	kept.check(y)
	server.ask("ok", "close")
	server.kill()
	for _, name := range strings.Fields(names(t, filepath.Dir(path))) {
		if name != filepath.Base(path)+".lock" {
			y.wrong(leaked, "the file %s", name)
		}
	}
	before.check(t, y)
	y.spent = time.Since(start)
	return []*tally{y}
}

// ---- Close under load

// soakCloses closes an end while it and its peer write, until Close has
// returned nil so often.
func soakCloses(t *testing.T, n int) (rows []*tally) {
	for _, unix := range []bool{false, true} {
		for _, byServer := range []bool{false, true} {
			y := &tally{what: fmt.Sprintf("Close of the %s under load, %s: nil, and all has come", side(byServer), network(unix))}
			test := fmt.Sprintf("GIPC_SOAK=closes=%d go test -run '^TestSoak$' .", n)
			seed := seedOf(t, test)
			before, start := holds(t), time.Now()
			var next, nils, errs atomic.Int64
			atOnce(t, func(t *testing.T, _ int) {
				path := ""
				if unix {
					path = testutil.TempSocket(t)
				}
				for nils.Load() < int64(max(1, n/4)) && errs.Load() <= int64(10+n/4) {
					own := seed + uint64(next.Add(1)-1)
					var one *tally
					if unix {
						one = closeRound(t, own, path, byServer)
					} else {
						one = afloat(t, func(t *testing.T) *tally { return closeRound(t, own, "", byServer) })
					}
					y.add(one, fmt.Sprintf("round of seed %d", own))
					nils.Add(one.count)
					errs.Add(1 - one.count)
				}
			})
			if errs.Load() > nils.Load() {
				y.wrong(besides, "Close has returned %d errors, and that is more than half", errs.Load())
			} else if errs.Load() > 0 {
				y.what += fmt.Sprintf(" (and %d errors)", errs.Load())
			}
			before.check(t, y)
			y.spent = time.Since(start)
			rows = append(rows, y)
		}
	}
	return rows
}

func side(server bool) string {
	if server {
		return "server"
	}
	return "client"
}

func network(unix bool) string {
	if unix {
		return "unix"
	}
	return "in memory"
}

// closeRound is one Close, over a unix socket or, without a path, in memory.
// The count of its tally is 1 when Close has returned nil.
func closeRound(t *testing.T, seed uint64, path string, byServer bool) *tally {
	y, r := new(tally), dice(seed)
	sc, cc := ServerConfig{Name: "n"}, ClientConfig{Name: "n", RetryTimer: time.Hour}
	switch r.IntN(3) {
	case 0:
		sc.Encryption, cc.Encryption = EncryptionOff, EncryptionOff
	case 1:
		sc.Secret, cc.Secret = testSecret, testSecret
	}
	var kept keeper
	defer kept.check(y)
	switch {
	case path == "":
		l := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
		out, in := &connFaults{room: 64 << r.IntN(12), piece: r.IntN(2000), seed: seed}, &connFaults{room: 64 << r.IntN(12), piece: r.IntN(2000), seed: seed}
		sc.Listener, cc.Dial = l, func(context.Context) (net.Conn, error) {
			near, far := newFaultPipe(out, in)
			select {
			case l.conns <- kept.keep(far):
				return kept.keep(near), nil
			case <-l.done:
				return nil, errors.New("no server")
			}
		}
	case r.IntN(2) == 0:
		sc.Listener, cc.Dial = kept.listen(t, path), kept.dial(path)
		defer sc.Listener.Close() // Shutdown without time does not wait for a listener that is not the library's
	default:
		sc.Network, sc.Address, cc.Network, cc.Address = "unix", path, "unix", path
	}
	s, err := StartServer(&sc)
	if err != nil {
		t.Fatal(err)
	}
	c, err := StartClient(&cc)
	if err != nil {
		t.Fatal(err)
	}
	type full interface {
		application
		Queue(int, []byte) error
		ID() uint64
		WaitConnected(context.Context) error
		Shutdown(context.Context) error
	}
	closer, other := full(c), full(s)
	if byServer {
		closer, other = s, c
	}
	for _, e := range []full{closer, other} {
		if err := e.WaitConnected(t.Context()); err != nil {
			t.Fatal(err)
		}
	}

	const writers = 3
	sent, answers := y.account("who closes", writers), y.account("the other", 1)
	enough := make(chan struct{})
	accepted, after := atomic.Int64{}, int64(r.IntN(60))
	if after == 0 {
		close(enough)
	}
	var writing, reading sync.WaitGroup
	for w := range uint32(writers) {
		sizes := dice(seed + 1 + uint64(w))
		writing.Go(func() {
			for n := w + 1; ; n += writers {
				size := sizes.IntN(400)
				if sizes.IntN(20) == 0 {
					size = sizes.IntN(100_000)
				}
				if sent.put(closer, n, size, sizes.IntN(4) == 0) != nil {
					return
				}
				if accepted.Add(1) == after {
					close(enough)
				}
				runtime.Gosched() // to the one that closes
			}
		})
	}
	if r.IntN(2) == 0 {
		writing.Go(func() {
			for n := uint32(1); answers.put(other, n, int(n%300), n%4 == 0) == nil; n++ {
				runtime.Gosched()
			}
		})
	}
	reading.Go(func() {
		for {
			m, err := other.ReadTimed(hang)
			switch {
			case err != nil || m == TimeoutMessage:
				y.wrong(besides, "the other side reads %v, and was not told of the end", err)
				return
			case m.MsgType != statusType:
				sent.arrived(m)
			case m.Status == Disconnected.String() || m.Status == ReConnecting.String():
				return
			}
		}
	})
	reading.Go(func() {
		for {
			m, err := closer.ReadTimed(hang)
			if err != nil || m == TimeoutMessage {
				return
			}
			if m.MsgType != statusType {
				answers.arrived(m)
			}
		}
	})
	<-enough
	start := time.Now()
	err = closer.Close()
	y.took(time.Since(start), hang, "Close")
	writing.Wait()
	reading.Wait()
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	other.Shutdown(ended)
	s.Shutdown(ended)
	if err == nil {
		y.count = 1
		sent.settle(func(uint64) bool { return true })
	} else if path == "" {
		y.wrong(besides, "where everything is taken at once Close returns %v", err)
	}
	return y
}

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
