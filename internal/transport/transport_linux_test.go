package transport

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"syscall"
	"testing"

	"example.com/gipc/internal/sys"
)

// Large messages ask for a larger send buffer: with the one that a socket has,
// the two sides wait for each other. Small ones leave it as it is, since a peer
// that never reads makes the kernel hold it all.
func TestSendBufferGrowsForLargeMessages(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.Dial("unix", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	peer, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	room := func() (n int) {
		err := sys.RawConn(conn).Control(func(fd uintptr) {
			n, _ = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF)
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	sink := NewSink(conn, func() {}, nil)
	send := func(n int) {
		t.Helper()
		arrived := make(chan error, 1)
		go func() {
			_, err := io.ReadFull(peer, make([]byte, n))
			arrived <- err
		}()
		if sent, err := sink.Send(context.Background(), nil, make([]byte, n), nil); sent != n || err != nil {
			t.Fatalf("%d bytes sent of %d: %v", sent, n, err)
		}
		if err := <-arrived; err != nil {
			t.Fatal(err)
		}
	}
	was := room()
	if send(GrowSendBufferFrom - 1); room() != was {
		t.Errorf("%d bytes of room after small messages, and %d before", room(), was)
	}
	if send(GrowSendBufferFrom); room() <= was {
		t.Errorf("%d bytes of room after a large message, and %d before", room(), was)
	}
}
