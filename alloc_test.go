// What a message costs in allocations: exact numbers, so they are tests.

package gipc

import (
	"context"
	"testing"

	"example.com/gipc/internal/testutil"
)

func TestAllocations(t *testing.T) {
	for name, encryption := range map[string]Encryption{"encrypted": EncryptionOn, "plain": EncryptionOff} {
		t.Run(name, func(t *testing.T) {
			s, c := socketEnds(t, ServerConfig{Encryption: encryption}, ClientConfig{Encryption: encryption})
			skipStatus(t, s, 1)
			data := make([]byte, 64)
			m := Message{Data: make([]byte, 0, 128)}
			for _, of := range []struct {
				what string
				most float64
				do   func() error
			}{
				{"Write and ReadInto", 0, func() error {
					if err := c.Write(1, data); err != nil {
						return err
					}
					return s.ReadInto(context.Background(), &m)
				}},
				{"Queue, Flush and ReadInto", 0, func() error {
					for range 10 {
						if err := c.Queue(1, data); err != nil {
							return err
						}
					}
					if err := c.Flush(); err != nil {
						return err
					}
					for range 10 {
						if err := s.ReadInto(context.Background(), &m); err != nil {
							return err
						}
					}
					return nil
				}},
				{"Write and Read", 2, func() error {
					if err := c.Write(1, data); err != nil {
						return err
					}
					_, err := s.Read()
					return err
				}},
			} {
				for range 10 { // the watcher makes way, and buffers come to be
					if err := of.do(); err != nil {
						t.Fatal(err)
					}
				}
				if testutil.RaceEnabled { // the race detector has sync.Pool forget at random
					continue
				}
				if n := testing.AllocsPerRun(1000, func() {
					if err := of.do(); err != nil {
						t.Fatal(err)
					}
				}); n > of.most {
					t.Errorf("%s: %v allocations, want at most %v", of.what, n, of.most)
				}
			}
		})
	}
}
