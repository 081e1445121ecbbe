package integration_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/gipc"
	. "example.com/gipc/internal/testutil"
)

// A written message is one call that sent, and what must become of it.
type written struct {
	number  int
	arrives bool
	err     error
}

// TestSoakWriteContext has writes whose contexts end at any moment, several
// writers, Queue and Flush among them, on several transports: every message
// whose call returned nil arrives, none whose call returned a context's error
// alone, and the connection lives. GIPC_SOAK_WRITES is the number of writes.
func TestSoakWriteContext(t *testing.T) {
	t.Parallel()
	var soaked []transport
	for _, tr := range transports {
		if tr.name == "unix" || tr.name == "tcp" || tr.name == "tls" || tr.name == "pipe" {
			soaked = append(soaked, tr)
		}
	}
	for _, tr := range soaked {
		for _, plain := range []bool{false, true} {
			name := tr.name
			if plain {
				name += " plain"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				soakWrites(t, tr, plain, EnvInt(t, "GIPC_SOAK_WRITES", 10_000)/(2*len(soaked)))
			})
		}
	}
}

func soakWrites(t *testing.T, tr transport, plain bool, total int) {
	const writers = 8
	server, client := tr.connect(t, plain)
	progress := WatchProgress(t, "messages", func() { // a hang ends here
		client.Shutdown(ended())
		server.Shutdown(ended())
	})
	var contexts atomic.Int64 // that have ended a call
	done := make(chan struct{})
	var got []int
	read := Go(func() error {
		random := rand.New(rand.NewPCG(1, 2))
		for {
			// Now and then nobody reads until a few contexts have ended.
			if random.IntN(50) == 0 {
				until := contexts.Load() + int64(random.IntN(10))
				limit := time.Now().Add(10 * time.Millisecond)
				for contexts.Load() < until && time.Now().Before(limit) {
					select {
					case <-done:
						until = 0
					default:
						runtime.Gosched()
					}
				}
			}
			m, err := server.Read()
			switch {
			case err != nil:
				return err
			case m.MsgType == 1:
				progress.Move()
				n := numberOf(m.Data)
				if string(m.Data) != string(Payload(n, len(m.Data))) {
					return fmt.Errorf("message %d: other bytes", n)
				}
				got = append(got, n)
			case m.Status == gipc.Disconnected.String():
				return m.Err
			}
		}
	})
	var all [writers][]written
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(rand.Uint64(), uint64(w)))
			for i := range total / writers {
				all[w] = append(all[w], soakWrite(client, random, w*total+i))
				if errors.Is(all[w][i].err, context.DeadlineExceeded) || errors.Is(all[w][i].err, context.Canceled) {
					contexts.Add(1)
				}
				progress.Move()
			}
		})
	}
	wg.Wait()
	close(done)
	WantErr(t, "Flush", Do(t, "Flush", client.Flush))
	if id, s := client.ID(), client.Stats(); id != 1 || s.Reconnects != 0 {
		t.Errorf("connection %d, %d reconnects: the connection must live", id, s.Reconnects)
	}
	WantErr(t, "Close", Do(t, "Close", client.Close))
	WantErr(t, "the reader", Await(t, "the reader", read))
	times, last := map[int]int{}, map[int]int{}
	for _, n := range got {
		times[n]++
		if before, ok := last[n/total]; ok && before >= n {
			t.Errorf("writer %d: message %d came behind message %d", n/total, n, before)
		}
		last[n/total] = n
	}
	var problems problemCounts
	for w := range writers {
		for _, m := range all[w] {
			example := fmt.Sprintf("message %d of writer %d: %v", m.number, w, m.err)
			switch n := times[m.number]; {
			case n > 1:
				problems.add("a message arrived twice", example, 1)
			case m.arrives && n == 0 && m.err == nil:
				problems.add("a call returned nil, and its message did not arrive", example, 1)
			case m.arrives && n == 0:
				problems.add("a message was accepted, the connection lived, and it did not arrive", example, 1)
			case !m.arrives && n == 1:
				problems.add("an error says that nothing was sent, and the message arrived", example, 1)
			}
			if m.err != nil && !errors.Is(m.err, context.DeadlineExceeded) && !errors.Is(m.err, context.Canceled) {
				problems.add("an error that is not the context's", example, 1)
			}
		}
	}
	problems.report(t)
	t.Logf("%d writes, %d arrived, %d contexts ended a call", total/writers*writers, len(got), contexts.Load())
	if contexts.Load() == 0 {
		t.Error("no context has ended a call")
	}
}

func soakWrite(e endpoint, random *rand.Rand, number int) written {
	size := 8 + random.IntN(1<<(3+random.IntN(15))) // up to 128 KiB
	w := written{number: number}
	switch random.IntN(8) {
	case 0:
		w.err = e.Write(1, Payload(number, size))
	case 1:
		w.err = e.Queue(1, Payload(number, min(size, 5000)))
	case 2:
		if w.err = e.Queue(1, Payload(number, min(size, 5000))); w.err == nil {
			w.err = e.Flush()
		}
	case 3:
		ctx, cancel := context.WithCancel(context.Background())
		pace := random.IntN(300)
		go func() {
			for range pace {
				runtime.Gosched()
			}
			cancel()
		}()
		w.err = e.WriteContext(ctx, 1, Payload(number, size))
		cancel()
	default:
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(random.IntN(1<<(3+random.IntN(9))))*time.Microsecond)
		w.err = e.WriteContext(ctx, 1, Payload(number, size))
		cancel()
	}
	w.arrives = w.err == nil || errors.Is(w.err, gipc.ErrUnconfirmed)
	return w
}
