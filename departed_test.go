package gipc

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"testing"
	"testing/synctest"
)

// The sums and the lists are right whatever comes, is read and goes.
func TestDepartedClients(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	c := departedClients{limit: 40 * minDeparture}
	var kept []*departure
	for range 20_000 {
		size := random.IntN(3) * minDeparture
		switch i := random.IntN(max(len(kept), 1)); {
		case len(kept) == 0 || random.IntN(2) == 0:
			d := &departure{lost: random.IntN(2) == 0}
			c.add(d, size)
			kept = append(kept, d)
		case random.IntN(2) == 0:
			c.shrink(kept[i], min(size, kept[i].size))
		default:
			c.remove(kept[i])
			kept = slices.Delete(kept, i, i+1)
		}
		for d := c.excess(); d != nil; d = c.excess() {
			if d.size > 0 && !d.lost {
				t.Fatal("what was acknowledged is to be evicted")
			}
			c.remove(d)
			kept = slices.DeleteFunc(kept, func(o *departure) bool { return o == d })
		}
		sum, lost, empty := 0, 0, 0
		for _, d := range kept {
			sum += d.size
			switch {
			case d.size == 0:
				empty++
			case d.lost:
				lost++
			}
		}
		if c.count != len(kept) || c.bytes != sum || len(c.lost) != lost || len(c.empty) != empty {
			t.Fatalf("%d departures, %d bytes, %d lost, %d empty; want %d, %d, %d, %d", c.count, c.bytes, len(c.lost), len(c.empty), len(kept), sum, lost, empty)
		}
		if empty > maxEmpty || sum >= c.limit && lost > 0 {
			t.Fatalf("%d empty ones and %d bytes with %d lost ones are kept", empty, sum, lost)
		}
		was := c.full.Load()
		resumed := c.setFull()
		if full := c.full.Load(); full != (sum >= c.limit || was && sum > c.limit/2) || resumed != (was && !full) {
			t.Fatalf("full %v, resumed %v with %d bytes; full was %v", full, resumed, sum, was)
		}
	}
}

// What a Close has promised is read, however many clients have left.
func TestAcknowledgedClientsAreKept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := gatherPipe(t, ServerConfig{})
		for range c.s.Connections.Messages(past1(t)) { // from here on the background readers read
		}
		const clients = maxEmpty + 500
		for i := range uint64(clients) {
			one := c.join()
			write(t, one, i)
			if err := one.Close(); err != nil {
				t.Fatal(err)
			}
		}
		readDeparted(t, c.s.Connections, clients)
		if s := c.s.Stats(); s.Dropped != 0 || s.Received != clients {
			t.Errorf("%+v, want %d received and none dropped", s, clients)
		}
		wantNothingKept(t, c.s.Connections)
	})
}

// readDeparted reads clients that have left to the end. Each sent its number.
func readDeparted(t *testing.T, p *ConnectionPool, clients int) {
	t.Helper()
	l, ended := newLedger(t), 0
	for srv, m := range p.Messages(t.Context()) {
		l.note(srv, m, nil)
		if m.Status != "Disconnected" {
			continue
		}
		if got, want := l.take(srv), fmt.Sprintf("Connected %d Disconnected", srv.ID()-1); got != want {
			t.Errorf("client %d had %q, want %q", srv.ID(), got, want)
		}
		if ended++; ended == clients {
			break
		}
	}
}

func wantNothingKept(t *testing.T, p *ConnectionPool) {
	t.Helper()
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.members) + len(p.ending) + p.departed.count + p.departed.bytes + len(p.ready); n > 0 {
		t.Errorf("%d places are still held: %+v", n, &p.departed)
	}
}

// Those that have left nothing to read but that they came and went: the newest stay.
func TestEmptyDeparturesAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := gatherPipe(t, ServerConfig{})
		p := c.s.Connections
		for range p.Messages(past1(t)) {
		}
		const more = 5
		for range maxEmpty + more {
			if err := c.join().Close(); err != nil {
				t.Fatal(err)
			}
			synctest.Wait() // it has left: they go in the order in which they do
		}
		if s := c.s.Stats(); s.Dropped != more || p.Len() != 0 || len(p.snapshot()) != maxEmpty {
			t.Errorf("%+v, want %d dropped; %d are kept, want %d", s, more, len(p.snapshot()), maxEmpty)
		}
		for _, srv := range p.snapshot() {
			if srv.ID() <= more {
				t.Errorf("client %d is kept, one of the oldest %d", srv.ID(), more)
			}
		}
	})
}

// At the limit nobody reads for nobody: no close is found, and none acknowledged,
// until the application has read.
func TestDeparturesHoldBack(t *testing.T) {
	for _, always := range []bool{false, true} {
		t.Run(fmt.Sprintf("always=%v", always), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				const fit, clients = 10, 30
				c := gatherPipe(t, ServerConfig{})
				p := c.s.Connections
				p.departed.limit = fit * minDeparture
				if always {
					for range p.Messages(past1(t)) {
					}
				}
				closed := make(chan error, clients)
				for i := range uint64(clients) {
					one := c.join()
					go func() {
						write(t, one, i)
						closed <- one.Close()
					}()
					waitIdle(p)
				}
				if n := len(closed); n != fit {
					t.Fatalf("%d Closes have returned, want %d", n, fit)
				}
				readDeparted(t, p, clients)
				for range clients {
					if err := <-closed; err != nil {
						t.Error(err)
					}
				}
				wantNothingKept(t, p)
			})
		})
	}
}

// waitIdle waits until the background readers have read what there is, or were
// held back.
func waitIdle(p *ConnectionPool) {
	synctest.Wait()
	for _, s := range p.snapshot() {
		s.mu.Lock()
		c := s.latest
		s.mu.Unlock()
		s.wake(c)
	}
	synctest.Wait()
}

// What was not acknowledged makes room: the oldest first, counted, and told by Close
// where something was sent to it.
func TestLostClientsMakeRoom(t *testing.T) {
	for _, sent := range []bool{false, true} {
		t.Run(fmt.Sprintf("sent=%v", sent), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				const fit, clients = 10, 13
				c := gatherPipe(t, ServerConfig{})
				p := c.s.Connections
				p.departed.limit = fit * minDeparture
				for range p.Messages(past1(t)) {
				}
				for i := range clients {
					conn := c.raw()
					synctest.Wait()
					if sent && i == 0 {
						writeTo(t, p, conn)
					}
					if _, err := conn.Write(append(appendFrameHeader(nil, frameHeader{frameType: 1, dataSize: 8}), make([]byte, 8)...)); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
					conn.Close()
					synctest.Wait()
				}
				if s := c.s.Stats(); s.Dropped != clients-fit+1 || len(p.snapshot()) != fit-1 || p.departed.full.Load() {
					t.Errorf("%+v, want %d dropped; %d are kept, want %d", s, clients-fit+1, len(p.snapshot()), fit-1)
				}
				for _, srv := range p.snapshot() {
					if srv.ID() <= clients-fit+1 {
						t.Errorf("client %d is kept, one of the oldest", srv.ID())
					}
				}
				if err := c.s.Close(); errors.Is(err, ErrUnconfirmed) != sent {
					t.Errorf("Close says %v", err)
				}
			})
		})
	}
}

// writeTo has the server write to its one client, which reads that.
func writeTo(t *testing.T, p *ConnectionPool, conn net.Conn) {
	t.Helper()
	for srv := range p.All() {
		wrote := make(chan error, 1)
		go func() { wrote <- srv.Write(1, nil) }()
		if _, err := conn.Read(make([]byte, headerSize)); err != nil {
			t.Fatal(err)
		}
		if err := <-wrote; err != nil {
			t.Fatal(err)
		}
	}
}
