package gipc

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
)

// countedConn counts what is written to a connection.
type countedConn struct {
	net.Conn
	written *atomic.Int64
}

func (c countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.written.Add(int64(n))
	return n, err
}

// TestRecordOverhead counts the bytes that messages cost on the wire: small ones
// share records, a large one has a record of its own.
func TestRecordOverhead(t *testing.T) {
	for _, c := range []struct {
		what        string
		count, size int
		most        float64 // bytes for each message
	}{
		{"20,000 queued messages of 64 B", 20_000, 64, 76},
		{"one message of 1 MiB", 1, 1 << 20, 1<<20 + 120},
	} {
		var written atomic.Int64
		s, client := pipeEnds(t, ServerConfig{}, ClientConfig{}, func(conn net.Conn) net.Conn { return countedConn{conn, &written} })
		skipStatus(t, client, 2)
		skipStatus(t, s, 1)
		before := written.Load()
		done := make(chan error, 1)
		go func() {
			for range c.count {
				if err := client.Queue(1, make([]byte, c.size)); err != nil {
					done <- err
					return
				}
			}
			done <- client.Flush()
		}()
		for n := 0; n < c.count; n++ {
			if m, err := s.ReadContext(context.Background()); err != nil || len(m.Data) != c.size {
				t.Fatal(m, err)
			}
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		each := float64(written.Load()-before) / float64(c.count)
		t.Logf("%s: %.2f bytes each on the wire", c.what, each)
		if each > c.most {
			t.Errorf("%s: %.2f bytes each on the wire, want at most %v", c.what, each, c.most)
		}
	}
}
