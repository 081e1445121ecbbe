// Processes that die or stand still at any moment: who notices, what is lost,
// and what is there for the one who comes next.

//go:build linux || darwin || dragonfly || freebsd || netbsd || openbsd

package gipc

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"example.com/gipc/internal/testutil"
)

func init() {
	testChildren["end"] = endChild
	testChildren["churn"] = churnChild
}

// endChild is one end of a connection. Its first line is "serve PATH BEAT",
// "echo PATH BEAT" or "talk PATH BEAT"; it answers when it is up. To "sum" it
// answers how often a connection was lost and how often one came, and to what
// else it reads it answers nothing. It ends with its input.
func endChild() {
	var role, path, beat string
	fmt.Scan(&role, &path, &beat)
	heartbeat, err := time.ParseDuration(beat)
	var lost, came atomic.Int64
	var last, wrong atomic.Value
	note := func(m *Message) {
		switch m.Status {
		case "Connected":
			came.Add(1)
		case "Reconnecting", "Disconnected":
			last.Store(fmt.Sprint(m.Err))
			lost.Add(1)
		}
	}
	if err == nil && role == "serve" {
		var s *Server
		s, err = StartServer(&ServerConfig{Name: "many", Network: "unix", Address: path, Heartbeat: heartbeat, MultiClient: true})
		if err == nil {
			go s.Connections.Serve(context.Background(), func(srv *Server, m *Message) {
				if note(m); m.MsgType != statusType {
					srv.Write(m.MsgType, m.Data)
				}
			})
		}
	} else if err == nil {
		var c *Client
		c, err = StartClient(&ClientConfig{Name: "many", Network: "unix", Address: path, Heartbeat: heartbeat, RetryTimer: 20 * time.Millisecond})
		if err == nil && role == "talk" {
			go func() { wrong.Store(fmt.Sprint(talk(c, new(atomic.Int64), note))) }()
		} else if err == nil {
			go func() {
				for m, err := c.Read(); err == nil; m, err = c.Read() {
					if note(m); m.MsgType != statusType {
						c.Write(m.MsgType, m.Data)
					}
				}
			}()
		}
	}
	if err != nil {
		fmt.Println("failed:", err)
		return
	}
	fmt.Println("ok")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if in.Text() == "sum" {
			fmt.Println(lost.Load(), "lost,", came.Load(), "came,", last.Load(), wrong.Load())
		}
	}
}

// churnChild serves PATH and stops again, over and over, under an umask that
// forbids nothing.
func churnChild() {
	var path string
	fmt.Scan(&path)
	syscall.Umask(0)
	for first := true; ; first = false {
		s, err := StartServer(&ServerConfig{Name: "many", Network: "unix", Address: path})
		if err == nil {
			err = s.Close()
		}
		if err != nil {
			fmt.Println("failed:", err)
			return
		}
		if first {
			fmt.Println("ok")
		}
	}
}

// talk asks one number after the other and expects each back, until the end of
// c. What a lost connection leaves without an answer is not asked again.
func talk(c *Client, trips *atomic.Int64, note func(*Message)) error {
	answered := uint64(0)
	for asked := uint64(1); ; asked++ {
		c.Write(1, binary.BigEndian.AppendUint64(nil, asked)) // where it fails a status is on its way
		for again := false; answered < asked && !again; {
			m, err := c.Read()
			switch {
			case err != nil:
				return err
			case m.MsgType == statusType:
				note(m)
				again = m.Status == "Connected"
			default:
				n := binary.BigEndian.Uint64(m.Data)
				if n <= answered || n > asked {
					return fmt.Errorf("the answer is %d, after %d, and the question was %d", n, answered, asked)
				}
				answered = n
				trips.Add(1)
			}
		}
	}
}

// A chatter is a client of this process that talks until it is closed.
type chatter struct {
	*Client
	trips atomic.Int64
	lost  atomic.Int64
	over  chan error
}

func startTalking(t *testing.T, config ClientConfig) *chatter {
	t.Helper()
	c, err := StartClient(&config)
	if err != nil {
		t.Fatal(err)
	}
	one := &chatter{Client: c, over: make(chan error, 1)}
	go func() {
		one.over <- talk(c, &one.trips, func(m *Message) {
			if m.Status == "Reconnecting" {
				one.lost.Add(1)
				if !errors.Is(m.Err, ErrTruncated) {
					t.Errorf("lost with %v, want ErrTruncated", m.Err)
				}
			}
		})
	}()
	t.Cleanup(func() { one.end(t) })
	return one
}

// goOn waits for n more trips.
func (o *chatter) goOn(t *testing.T, n int64) {
	t.Helper()
	enough := o.trips.Load() + n
	eventually(t, "the client goes on", func() bool { return o.trips.Load() >= enough || len(o.over) > 0 })
	if len(o.over) > 0 {
		err := <-o.over
		o.over <- err
		t.Fatalf("the client is at its end: %v", err)
	}
}

func (o *chatter) end(t *testing.T) {
	t.Helper()
	o.Shutdown(past1(t))
	if err := <-o.over; !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	o.over <- ErrClosed
}

// moments say when.
type moments struct{ *rand.Rand }

func throw(t *testing.T) moments {
	return moments{dice(seedOf(t, "go test -run '^"+t.Name()+"$' ."))}
}

// wait lets any time below d pass.
func (r moments) wait(d time.Duration) { <-time.After(time.Duration(r.Int64N(int64(d)))) }

// keepGarbage has no collector close what was forgotten. A long run needs one.
func keepGarbage(t *testing.T) {
	if !long {
		was := debug.SetGCPercent(-1)
		t.Cleanup(func() { debug.SetGCPercent(was) })
	}
}

// stop has the process stand still, and returns when it does.
func (c *child) stop() {
	c.t.Helper()
	if err := c.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		c.t.Fatal(err)
	}
	var status syscall.WaitStatus
	for {
		_, err := syscall.Wait4(c.cmd.Process.Pid, &status, syscall.WUNTRACED, nil)
		if err == nil && status.Stopped() {
			return
		}
		if err != syscall.EINTR {
			c.t.Fatalf("the child does not stop: %v, %v", status, err)
		}
	}
}

func (c *child) goOn() {
	c.t.Helper()
	if err := c.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		c.t.Fatal(err)
	}
}

// A server that is killed while it takes its name, holds it or gives it up:
// the next one has the name at its first try.
func TestKilledServerLeavesItsName(t *testing.T) {
	t.Parallel()
	r := throw(t)
	path := testutil.TempSocket(t)
	rounds, torn := 30, 0
	if long {
		rounds = 1000
	}
	for i := range rounds {
		c := startChild(t, "churn", nil)
		if i%3 == 0 {
			c.say("%s", path) // at any moment from its start on
			r.wait(20 * time.Millisecond)
		} else {
			c.ask("ok", "%s", path)
			r.wait(2 * time.Millisecond)
		}
		c.kill()
		l, err := listenAt(t, path)
		if err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		reaches(t, l, path)
		l.Close()
		for _, name := range strings.Fields(names(t, filepath.Dir(path))) {
			if strings.HasPrefix(name, ".") { // under its private name, which nobody looks at
				os.Remove(filepath.Join(filepath.Dir(path), name))
				torn++
			} else if name != "s.lock" {
				t.Fatalf("round %d: there is %s", i, name)
			}
		}
	}
	t.Logf("%d servers killed, %d of them between bind and rename", rounds, torn)
}

// Servers that are killed under clients which write, and are started again:
// every client is back each time, in this process and in another one, and
// nothing is left. It runs alone, since it counts what is the whole process's.
func TestServerKilledUnderClients(t *testing.T) {
	r := throw(t)
	path := testutil.TempSocket(t)
	rounds := 20
	if long {
		rounds = 1000
	}
	serve := func() *child {
		s := startChild(t, "end", nil)
		s.ask("ok", "serve %s -1s", path)
		return s
	}
	keepGarbage(t)
	before, files := testutil.Goroutines(nil), openFDs(t)
	server := serve()
	far := startChild(t, "end", nil)
	far.ask("ok", "talk %s -1s", path)
	var near []*chatter
	for range 4 {
		near = append(near, startTalking(t, ClientConfig{Name: "many", Network: "unix", Address: path, Heartbeat: -1, RetryTimer: 20 * time.Millisecond}))
	}
	var took []time.Duration
	for i := range rounds {
		for _, one := range near {
			one.goOn(t, 1)
		}
		near[r.IntN(len(near))].goOn(t, r.Int64N(200))
		server.kill()
		server = serve()
		start := time.Now()
		for _, one := range near {
			one.goOn(t, 1)
		}
		took = append(took, time.Since(start))
		var lost, came int
		eventually(t, "the client of the other process is back", func() bool {
			far.say("sum")
			sum := far.hear()
			if _, err := fmt.Sscanf(sum, "%d lost, %d came,", &lost, &came); err != nil || !strings.HasSuffix(sum, "<nil>") {
				t.Fatalf("round %d: %s, %v", i, sum, err)
			}
			return came == i+2
		})
	}
	slices.Sort(took)
	t.Logf("all clients are back %v after the server's start, at most %v", took[len(took)/2], took[len(took)-1])
	for i, one := range near {
		if n := one.lost.Load(); n != int64(rounds) || one.ID() != uint64(rounds+1) {
			t.Errorf("client %d has lost %d connections and has number %d", i, n, one.ID())
		}
		one.end(t)
	}
	far.kill()
	server.kill()
	if got := names(t, filepath.Dir(path)); got != "s s.lock" {
		t.Errorf("there are: %s", got)
	}
	eventually(t, "descriptors return", func() bool { return openFDs(t) <= files })
	if left := testutil.LeftOver(before, 10*time.Second); len(left) > 0 {
		t.Errorf("%d goroutines are left:\n%s", len(left), left[0])
	}
}

// Clients that are killed while they start, dial, shake hands or write: the
// server knows at once and without heartbeat, and serves the others. It runs
// alone, since it counts what is the whole process's.
func TestClientsKilled(t *testing.T) {
	r := throw(t)
	rounds := 24
	if long {
		rounds = 1000
	}
	keepGarbage(t)
	before, files := testutil.Goroutines(nil), openFDs(t)
	c := gather(t, ServerConfig{Heartbeat: -1}, ClientConfig{Heartbeat: -1})
	var mu sync.Mutex
	came, trips := 0, map[*Server]*atomic.Int64{}
	served := make(chan error, 1)
	go func() {
		served <- c.s.Connections.Serve(context.Background(), func(srv *Server, m *Message) {
			mu.Lock()
			n := trips[srv]
			switch m.Status {
			case "Connected":
				came++
				trips[srv] = new(atomic.Int64)
			case "Disconnected":
				delete(trips, srv)
				if !errors.Is(m.Err, ErrTruncated) && !c.s.closing.Load() {
					t.Errorf("lost with %v, want ErrTruncated", m.Err)
				}
			}
			mu.Unlock()
			if m.MsgType != statusType {
				n.Add(1)
				srv.Write(m.MsgType, m.Data) // who was killed has no answer, and good looks for its own
			}
		})
	}()
	good := startTalking(t, c.client)
	good.goOn(t, 1)
	for i := range rounds {
		victim := startChild(t, "end", nil)
		victim.say("talk %s -1s", c.client.Address)
		if i%2 == 0 {
			r.wait(40 * time.Millisecond)
		} else {
			enough := r.Int64N(100)
			eventually(t, "the victim talks", func() bool {
				mu.Lock()
				defer mu.Unlock()
				for srv, n := range trips {
					if srv.Peer().PID != os.Getpid() && n.Load() >= enough {
						return true
					}
				}
				return false
			})
		}
		victim.kill()
		eventually(t, "the server knows it", func() bool {
			c.s.listenerState.mu.Lock()
			defer c.s.listenerState.mu.Unlock()
			return c.s.Connections.Len() == 1 && len(c.s.listenerState.pendingConns) == 0
		})
		good.goOn(t, 10)
	}
	t.Logf("%d clients killed, %d of them when they were connected", rounds, came-1)
	if came-1 < rounds/2 {
		t.Errorf("only %d were connected", came-1)
	}
	if n := good.lost.Load(); n != 0 || good.ID() != 1 {
		t.Errorf("the good client was lost %d times", n)
	}
	good.end(t)
	c.s.Close()
	<-served
	eventually(t, "descriptors return", func() bool { return openFDs(t) <= files })
	if left := testutil.LeftOver(before, 10*time.Second); len(left) > 0 {
		t.Errorf("%d goroutines are left:\n%s", len(left), left[0])
	}
}

// A single-client server: the place of a client that was killed is free.
func TestKilledClientFreesItsSlot(t *testing.T) {
	t.Parallel()
	path := testutil.TempSocket(t)
	s := startOne(t, path, -1)
	for range 3 {
		c := startChild(t, "end", nil)
		c.ask("ok", "echo %s -1s", path)
		skipStatus(t, s, 1)
		c.kill()
		if m := wantStatus(t, s, Disconnected); !errors.Is(m.Err, ErrTruncated) {
			t.Errorf("lost with %v, want ErrTruncated", m.Err)
		}
	}
}

func startOne(t *testing.T, path string, beat time.Duration) *Server {
	t.Helper()
	s, err := StartServer(&ServerConfig{Name: "many", Network: "unix", Address: path, Heartbeat: beat})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Shutdown(past1(t)) })
	return s
}

func dialOne(t *testing.T, path string, beat time.Duration) *Client {
	t.Helper()
	c, err := StartClient(&ClientConfig{Name: "many", Network: "unix", Address: path, Heartbeat: beat, RetryTimer: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Shutdown(past1(t)) })
	return c
}

// Nobody writes, nobody has a heartbeat, and nobody reads or somebody waits: a
// peer that is killed is noticed on a unix socket by its end alone.
func TestKilledPeerOfAnIdleConnection(t *testing.T) {
	t.Parallel()
	for _, reading := range []bool{true, false} {
		for _, role := range []string{"serve", "echo"} {
			t.Run(fmt.Sprintf("killed=%s/reading=%t", role, reading), func(t *testing.T) {
				t.Parallel()
				path := testutil.TempSocket(t)
				var here interface {
					ReadTimed(time.Duration) (*Message, error)
					Read() (*Message, error)
					StatusCode() Status
				}
				there := startChild(t, "end", nil)
				lost := Disconnected
				if role == "serve" {
					there.ask("ok", "serve %s -1s", path)
					c := dialOne(t, path, -1)
					here, lost = c, ReConnecting
					skipStatus(t, c, 1)
				} else {
					s := startOne(t, path, -1)
					there.ask("ok", "echo %s -1s", path)
					here = s
				}
				if reading {
					skipStatus(t, here, 1)
				}
				there.kill()
				if !reading {
					eventually(t, "the loss is noticed", func() bool { return here.StatusCode() == lost })
					skipStatus(t, here, 1)
				}
				if m := wantStatus(t, here, lost); !errors.Is(m.Err, ErrTruncated) {
					t.Errorf("lost with %v, want ErrTruncated", m.Err)
				}
			})
		}
	}
}

// A peer that stands still is found by the heartbeat, after two intervals and
// not before, on either side; when it goes on the two meet again.
func TestStoppedPeerIsFound(t *testing.T) {
	t.Parallel()
	const beat = time.Second
	echoed := func(t *testing.T, e interface {
		Write(int, []byte) error
		Read() (*Message, error)
	}) {
		t.Helper()
		if err := e.Write(7, []byte("still there?")); err != nil {
			t.Fatal(err)
		}
		if m, err := e.Read(); err != nil || string(m.Data) != "still there?" {
			t.Fatalf("%+v, %v", m, err)
		}
	}
	found := func(t *testing.T, e interface{ Read() (*Message, error) }, lost Status, since time.Time) {
		t.Helper()
		m := wantStatus(t, e, lost)
		if !errors.Is(m.Err, ErrTimeout) || !strings.Contains(m.Err.Error(), "received nothing from the peer") {
			t.Errorf("lost with %v, want ErrTimeout", m.Err)
		}
		if d := time.Since(since); d < 2*beat {
			t.Errorf("lost after %v, and two intervals are %v", d, 2*beat)
		}
	}
	client := func(t *testing.T) {
		path := testutil.TempSocket(t)
		s, there := startOne(t, path, beat), startChild(t, "end", nil)
		there.ask("ok", "echo %s -1s", path)
		skipStatus(t, s, 1)
		start := time.Now()
		echoed(t, s)
		there.stop()
		found(t, s, Disconnected, start)
		there.goOn()
		wantStatus(t, s, Connected)
		echoed(t, s)
		there.ask("1 lost, 2 came, gipc: connection truncated", "sum")
	}
	server := func(t *testing.T) {
		path := testutil.TempSocket(t)
		there := startChild(t, "end", nil)
		there.ask("ok", "serve %s 1s", path)
		c := dialOne(t, path, beat)
		skipStatus(t, c, 2)
		start := time.Now()
		echoed(t, c)
		there.stop()
		found(t, c, ReConnecting, start)
		there.goOn()
		wantStatus(t, c, Connected)
		echoed(t, c)
	}
	var both sync.WaitGroup
	defer both.Wait()
	both.Go(func() { t.Run("client", client) })
	both.Go(func() { t.Run("server", server) })
}

// A peer that stands still, but for less than the two intervals of the other
// side, loses nothing: what was written meanwhile arrives. That its own
// intervals are shorter than its stop does not matter, since in its own socket
// it finds that the other side lives.
func TestStoppedPeerThatGoesOn(t *testing.T) {
	t.Parallel()
	var all sync.WaitGroup // they wait, and a place among parallel tests is too dear for that
	defer all.Wait()
	for _, role := range []string{"echo", "serve"} {
		for _, own := range []time.Duration{-time.Second, time.Second} {
			all.Go(func() {
				t.Run(fmt.Sprintf("stopped=%s/its heartbeat=%v", role, own), func(t *testing.T) {
					// A machine under load may hold it up for so long that it is lost with
					// right: then there is more time.
					for beat := 2 * time.Second; !stoppedThatGoesOn(t, role, own, beat); beat *= 2 {
						if beat > 16*time.Second {
							t.Fatal("this machine holds processes up for too long")
						}
					}
				})
			})
		}
	}
}

func stoppedThatGoesOn(t *testing.T, role string, own, beat time.Duration) bool {
	path := testutil.TempSocket(t)
	there := startChild(t, "end", nil)
	defer there.kill()
	var here interface {
		Write(int, []byte) error
		Read() (*Message, error)
		ReadTimed(time.Duration) (*Message, error)
		Shutdown(context.Context) error
		ID() uint64
	}
	if role == "serve" {
		there.ask("ok", "serve %s %v", path, own)
		here = dialOne(t, path, beat)
		skipStatus(t, here, 2)
	} else {
		here = startOne(t, path, beat)
		there.ask("ok", "echo %s %v", path, own)
		skipStatus(t, here, 1)
	}
	defer here.Shutdown(past1(t))
	const n = 100
	write(t, here, 0)
	if m, err := here.Read(); err != nil || m.MsgType != 1 {
		t.Fatal(m, err)
	}
	heard := time.Now() // or a little before
	there.stop()
	for i := range uint64(n) {
		write(t, here, i+1)
	}
	<-time.After(beat + beat/4) // more than two intervals of its own, and a ping is under way
	there.goOn()
	for i := range uint64(n) {
		m, err := here.Read()
		if err != nil {
			t.Fatal(err)
		}
		if m.MsgType == statusType {
			d := time.Since(heard)
			if errors.Is(m.Err, ErrTimeout) && d >= 2*beat {
				t.Logf("lost with right after %v", d)
				return false
			}
			t.Fatalf("lost after %v, before the answer %d: %s, %v", d, i+1, m.Status, m.Err)
		}
		if got := binary.BigEndian.Uint64(m.Data); got != i+1 {
			t.Fatalf("answer %d where %d was due", got, i+1)
		}
	}
	there.say("sum")
	if sum := there.hear(); !strings.HasPrefix(sum, "0 lost, ") || here.ID() != 1 {
		t.Fatalf("connection %d; the other side says %s", here.ID(), sum)
	}
	return true
}

// Without heartbeat a process may stand still at any moment and for any time:
// nothing is lost, and nothing out of order.
func TestStoppedUnderLoad(t *testing.T) {
	t.Parallel()
	for _, role := range []string{"serve", "echo"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			r := throw(t)
			path := testutil.TempSocket(t)
			there := startChild(t, "end", nil)
			var here interface {
				Write(int, []byte) error
				Read() (*Message, error)
				ReadTimed(time.Duration) (*Message, error)
				ID() uint64
			}
			if role == "serve" {
				there.ask("ok", "serve %s -1s", path)
				here = dialOne(t, path, -1)
				skipStatus(t, here, 2)
			} else {
				here = startOne(t, path, -1)
				there.ask("ok", "echo %s -1s", path)
				skipStatus(t, here, 1)
			}
			const n = 4000
			wrote := make(chan error, 1)
			go func() {
				for i := range n {
					b := make([]byte, 8+i%5000)
					binary.BigEndian.PutUint64(b, uint64(i))
					if err := here.Write(1, b); err != nil {
						wrote <- err
						return
					}
				}
				wrote <- nil
			}()
			stops := 0
			for i := range n {
				if r.IntN(n/20) == 0 {
					there.stop()
					r.wait(20 * time.Millisecond)
					there.goOn()
					stops++
				}
				m, err := here.Read()
				if err != nil || m.MsgType == statusType || binary.BigEndian.Uint64(m.Data) != uint64(i) || len(m.Data) != 8+i%5000 {
					t.Fatalf("message %d: %+v, %v", i, m, err)
				}
			}
			if err := <-wrote; err != nil {
				t.Error(err)
			}
			if here.ID() != 1 {
				t.Errorf("connection %d", here.ID())
			}
			t.Logf("stopped %d times", stops)
		})
	}
}

// Silence is judged by the clock, and a process that stood still could not
// listen: what was read since the judgement, or can be read now, counts.
func TestHeartbeatReadsSocketBeforeTimeout(t *testing.T) {
	t.Parallel()
	for _, worse := range []bool{false, true} { // something besides silence
		silenceIsNot(t, worse)
	}
}

func silenceIsNot(t *testing.T, worse bool) {
	s, c := socketEnds(t, ServerConfig{Heartbeat: time.Hour}, ClientConfig{})
	defer s.Shutdown(past1(t)) // nobody reads there, for an hour
	defer c.Shutdown(past1(t))
	s.mu.Lock()
	s.readRole.idleDelay = time.Hour // the watcher stays away
	s.mu.Unlock()
	skipStatus(t, s, 1)
	go func() { // the watcher leaves when it has served one who waits
		for waits := 0; waits == 0; runtime.Gosched() {
			s.mu.Lock()
			waits = len(s.readRole.waiters)
			s.mu.Unlock()
		}
		write(t, c, 1)
	}()
	if m, err := s.Read(); err != nil || m.MsgType != 1 {
		t.Fatal(m, err)
	}
	eventually(t, "nobody reads", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.readRole.state == roleFree
	})
	l := s.currentConn.Load()
	silence := func(heard int64) {
		if !l.pendingLoss.CompareAndSwap(nil, &pendingLoss{ErrTimeout, time.Now(), true, heard}) {
			t.Error("there is a judgement already")
		}
	}
	write(t, c, 2)
	silence(l.heartbeat.lastActivity.Load())
	if m, err := s.Read(); err != nil || m.MsgType != 1 {
		t.Fatalf("the socket has a message: %+v, %v", m, err)
	}
	silence(l.heartbeat.lastActivity.Load() - 1)
	if m, err := s.ReadTimed(time.Millisecond); m != TimeoutMessage || err != nil {
		t.Fatalf("something was read since: %+v, %v", m, err)
	}
	silence(l.heartbeat.lastActivity.Load())
	want := ErrTimeout
	if worse {
		want = ErrNotConnected
		l.failAt(newError(want, nil, "the write failed"), time.Now())
		s.wakeReader(l)
	}
	if m := wantStatus(t, s, Disconnected); !errors.Is(m.Err, want) {
		t.Errorf("lost with %v, want %v", m.Err, want)
	}
}
