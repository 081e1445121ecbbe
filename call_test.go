package gipc

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func requestPair(t testing.TB, encryption Encryption) (*Server, *Client) {
	address := tempSocket(t)
	s, err := StartServer(&ServerConfig{Name: "q", Network: "unix", Address: address, Encryption: encryption})
	if err != nil {
		t.Fatal(err)
	}
	c, err := StartClient(&ClientConfig{Name: "q", Network: "unix", Address: address, Encryption: encryption})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return s, c
}

func TestCallsOfManyGoroutines(t *testing.T) {
	s, c := requestPair(t, EncryptionOn)
	go func() {
		for m, err := range s.Messages(context.Background()) {
			if err != nil {
				return
			}
			if !m.IsRequest() {
				continue
			}
			if err := m.Reply(m.MsgType+1, m.Data); err != nil && !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
			if err := m.Reply(m.MsgType+1, m.Data); !errors.Is(err, ErrReplied) {
				t.Error(err)
			}
		}
	}()
	for i := range 1000 {
		m, err := c.Call(context.Background(), i+1, fmt.Append(nil, i))
		if err != nil || m.MsgType != i+2 || string(m.Data) != fmt.Sprint(i) {
			t.Fatal(m, err)
		}
	}
	var wg sync.WaitGroup
	for w := range 64 {
		wg.Go(func() {
			for i := range 200 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				m, err := c.Call(ctx, w+1, fmt.Append(nil, w, i))
				cancel()
				if err != nil || m.MsgType != w+2 || string(m.Data) != fmt.Sprint(w, i) {
					t.Error(m, err)
					return
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%+v %+v", c.Stats(), s.Stats())
}

func BenchmarkCall(b *testing.B) {
	for _, callers := range []int{0, 1, 64} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			s, c := requestPair(b, EncryptionOn)
			go func() {
				var m Message
				for s.ReadInto(context.Background(), &m) == nil {
					if m.IsRequest() {
						m.Reply(m.MsgType, m.Data)
					} else if m.MsgType > 0 {
						s.Write(m.MsgType, m.Data)
					}
				}
			}()
			data := make([]byte, 64)
			b.ReportAllocs()
			b.ResetTimer()
			if callers == 0 {
				var m Message
				for i := 0; i < b.N; {
					if i == 0 {
						c.Read()
					}
					c.Write(1, data)
					c.ReadInto(context.Background(), &m)
					i++
				}
				return
			}
			var wg sync.WaitGroup
			for w := range callers {
				wg.Go(func() {
					for i := w; i < b.N; i += callers {
						if _, err := c.Call(context.Background(), 1, data); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// Every reply is handed over or counted, also one that comes while its call is given up.
func TestCallsGivenUpCountTheirReplies(t *testing.T) {
	t.Parallel()
	s, c := requestPair(t, EncryptionOff)
	go func() {
		for m, err := range s.Messages(context.Background()) {
			if err == nil && m.IsRequest() {
				m.Reply(1, m.Data)
			}
		}
	}()
	var handed, unconfirmed atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 2000 {
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Microsecond+rand.N(300*time.Microsecond))
				_, err := c.Call(ctx, 1, nil)
				cancel()
				switch {
				case err == nil:
					handed.Add(1)
				case errors.Is(err, ErrUnconfirmed):
					unconfirmed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if _, err := c.Call(context.Background(), 1, nil); err != nil {
		t.Fatal(err)
	}
	stats := c.Stats()
	if all := handed.Load() + 1 + unconfirmed.Load(); stats.Calls != uint64(all) {
		t.Errorf("%d calls were counted, and %d were sent", stats.Calls, all)
	}
	if known := uint64(handed.Load()) + 1 + stats.Dropped; known != stats.Calls {
		t.Errorf("%d replies came, and %d were handed over or counted", stats.Calls, known)
	}
}
