package gipc

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
)

// TestTimersInBubbles is for programs that are tested in a bubble under
// the race detector: there two goroutines that wait for channel timers which
// are due already crash the process (Go 1.26).
func TestTimersInBubbles(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var clients sync.WaitGroup
		for range 8 {
			clients.Go(func() {
				for range 5000 {
					_, err := StartClient(&ClientConfig{Name: "nobody", Dial: func(context.Context) (net.Conn, error) {
						return nil, ErrUntrustedServer
					}})
					if !errors.Is(err, ErrUntrustedServer) {
						t.Error(err)
					}
				}
			})
		}
		clients.Wait()
	})
}
