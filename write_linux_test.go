package gipc

import (
	"syscall"
	"testing"

	"example.com/gipc/internal/sys"
)

// Large messages ask for a larger send buffer: with the one that a socket has,
// the two sides wait for each other. Small ones leave it as it is, since a peer
// that never reads makes the kernel hold it all.
func TestLargeMessagesWidenTheSocket(t *testing.T) {
	s, c := socketEnds(t, ServerConfig{}, ClientConfig{})
	room := func() (n int) {
		err := sys.RawConn(c.current.Load().conn).Control(func(fd uintptr) {
			n, _ = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF)
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	write := func(n int) {
		t.Helper()
		wrote := make(chan error, 1)
		go func() { wrote <- c.Write(1, make([]byte, n)) }()
		for m := new(Message); m.MsgType != 1; {
			if err := s.ReadInto(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
		if err := <-wrote; err != nil {
			t.Fatal(err)
		}
	}
	was := room()
	if write(widenFrom - 1000); room() != was {
		t.Errorf("%d bytes of room after small messages, and %d before", room(), was)
	}
	if write(widenFrom); room() <= was {
		t.Errorf("%d bytes of room after a large message, and %d before", room(), was)
	}
}
