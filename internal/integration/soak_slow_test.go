package integration_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/gipc"
	. "example.com/gipc/internal/testutil"
)

// TestSoakSlowReader has clients write and close, one after the other in each of 64
// goroutines, against a server that reads slowly, so that most have left before they
// are read: what a nil Close has promised is read. GIPC_SOAK_CLOSES is the number of
// clients. Among very many the server drops some, and their Closes are not nil.
func TestSoakSlowReader(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name       string
		encryption gipc.Encryption
		share      int // of 8
	}{{"plain", gipc.EncryptionOff, 7}, {"encrypted", gipc.EncryptionOn, 1}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			soakCloses(t, c.encryption, EnvInt(t, "GIPC_SOAK_CLOSES", 4_000)*c.share/8)
		})
	}
}

func soakCloses(t *testing.T, encryption gipc.Encryption, clients int) {
	address := TempSocket(t)
	server := startServer(t, &gipc.ServerConfig{Name: "slow", Network: "unix", Address: address, Encryption: encryption, MultiClient: true})
	progress := WatchProgress(t, "messages", func() { server.Shutdown(ended()) })

	closed := make(chan struct{}, clients) // has room for all
	finished := make(chan struct{})        // all clients are done
	var acknowledged, refused atomic.Int64
	promised := make([]atomic.Bool, clients)
	go func() {
		defer close(finished)
		var next atomic.Int64
		var wg sync.WaitGroup
		for range min(64, clients) {
			wg.Go(func() {
				for i := int(next.Add(1)) - 1; i < clients; i = int(next.Add(1)) - 1 {
					client, err := gipc.StartClient(&gipc.ClientConfig{Name: "slow", Network: "unix", Address: address, Encryption: encryption, Timeout: time.Minute})
					if err != nil {
						t.Errorf("client %d: %v", i, err)
						return
					}
					if err := client.Write(1, Payload(i, 8+rand.IntN(8000))); err != nil {
						t.Errorf("client %d: Write: %v", i, err)
					}
					switch err := client.Close(); {
					case err == nil:
						promised[i].Store(true)
						acknowledged.Add(1)
					case errors.Is(err, gipc.ErrUnconfirmed):
						refused.Add(1)
					default:
						t.Errorf("client %d: Close: %v", i, err)
					}
					closed <- struct{}{}
				}
			})
		}
		wg.Wait()
	}()

	arrived, left := make([]int, clients), 0
	slow := time.NewTicker(time.Millisecond)
	defer slow.Stop()
	for _, m := range server.Connections.Messages(context.Background()) {
		progress.Move()
		switch {
		case m.MsgType == 1:
			n := numberOf(m.Data)
			if string(m.Data) != string(Payload(n, len(m.Data))) {
				t.Fatalf("message %d: other bytes", n)
			}
			arrived[n]++
			select {
			case <-finished:
			case <-slow.C:
			}
		case m.Is(gipc.Disconnected):
			left++
		}
		if left+int(server.Stats().Dropped) == clients {
			break
		}
	}
	<-finished
	lost, twice := 0, 0
	for i := range promised {
		if promised[i].Load() && arrived[i] == 0 {
			lost++
		}
		if arrived[i] > 1 {
			twice++
		}
	}
	if lost+twice > 0 {
		t.Errorf("%d messages whose Close returned nil were not read; %d were read twice", lost, twice)
	}
	s := server.Stats()
	if clients <= 4000 && s.Dropped+uint64(refused.Load()) > 0 {
		t.Errorf("%d clients dropped, %d Closes not confirmed", s.Dropped, refused.Load())
	}
	WantErr(t, "Close of the server", Do(t, "Close", server.Close))
	t.Logf("%d clients, %d Closes nil, %d not confirmed, %d dropped", clients, acknowledged.Load(), refused.Load(), s.Dropped)
}
