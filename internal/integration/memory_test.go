package integration_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"example.com/gipc"
	. "example.com/gipc/internal/testutil"
)

// The scenarios below run in child processes, because they measure the memory
// and the processor time of a whole process.
func init() {
	children["memory: failed write"] = memoryFailedWrite
	children["memory: context ends in mid-frame"] = memoryContextInMidFrame
	children["memory: unread clients"] = memoryUnreadClients
	children["memory: blocked writers"] = memoryBlockedWriters
	children["spin: partial frame"] = spinPartialFrame
	children["spin: full TLS connection"] = spinFullTLS
}

// childLimit is for children that end by themselves when they make no progress.
const childLimit = 20 * Patience

// reportHeap prints the growth of the heap for the parent.
func reportHeap(h *HeapWatch) { fmt.Println("heap", h.Stop()) }

// wantBoundedHeap runs a child and checks what it prints.
func wantBoundedHeap(t *testing.T, child string, limit int, args ...string) {
	t.Helper()
	r := RunChild(t, childLimit, child, args...)
	var n int
	if r.Err != nil || r.Killed {
		t.Fatalf("child: %v, killed: %v\n%s", r.Err, r.Killed, r.Output)
	}
	if _, err := fmt.Sscanf(r.Output, "heap %d", &n); err != nil {
		t.Fatalf("child: %v\n%s", err, r.Output)
	}
	t.Logf("the heap grew by %.1f MiB", float64(n)/(1<<20))
	if n > limit {
		t.Errorf("the heap grew by %d bytes, want at most %d", n, limit)
	}
}

// childPair is a client in plaintext and the raw peer that serves it.
func childPair() (*gipc.Client, *RawPeer, *net.UnixConn, error) {
	dir, err := os.MkdirTemp("", "g")
	if err != nil {
		return nil, nil, nil, err
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		return nil, nil, nil, err
	}
	defer l.Close()
	type result struct {
		p    *RawPeer
		conn *net.UnixConn
		err  error
	}
	accepted := Go(func() result {
		conn, err := l.Accept()
		if err != nil {
			return result{err: err}
		}
		p := NewRawPeer(nil, conn)
		return result{p, conn.(*net.UnixConn), p.ServeHandshake()}
	})
	dialed := false
	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "test", Encryption: gipc.EncryptionOff, Heartbeat: -1,
		Dial: func(ctx context.Context) (net.Conn, error) {
			if dialed {
				<-ctx.Done() // there is one connection
				return nil, ctx.Err()
			}
			dialed = true
			return net.Dial("unix", l.Addr().String())
		}})
	if err != nil {
		return nil, nil, nil, err
	}
	r := <-accepted
	return client, r.p, r.conn, r.err
}

// flood writes messages until the connection ends.
func flood(p *RawPeer, size int, sent *atomic.Int64) <-chan error {
	frame := User(1, Payload(0, size))
	return Go(func() error {
		for {
			n, err := p.Write(frame)
			sent.Add(int64(n))
			if err != nil {
				return nil // that is how it is to end
			}
		}
	})
}

// memoryFailedWrite has a peer that takes nothing any more and sends without
// end, to a client that nobody reads.
func memoryFailedWrite(args []string) error {
	size, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	client, peer, conn, err := childPair()
	if err != nil {
		return err
	}
	heap := WatchHeap()
	if err := conn.CloseRead(); err != nil {
		return err
	}
	var sent atomic.Int64
	done := flood(peer, size, &sent)
	for err = nil; err == nil; {
		err = client.Write(1, Payload(1, 1000))
	}
	if !errors.Is(err, gipc.ErrUnconfirmed) && !errors.Is(err, gipc.ErrNotConnected) {
		return fmt.Errorf("the write failed with %w", err)
	}
	select { // the connection is over by itself, read or not
	case <-done:
	case <-time.After(Patience / 2):
		return fmt.Errorf("the connection is not over after %v; %d bytes came", Patience/2, sent.Load())
	}
	reportHeap(heap)
	client.Shutdown(ended())
	return nil
}

// TestMemoryAfterFailedWrite: a connection that is being lost obeys the bound on
// unread messages.
func TestMemoryAfterFailedWrite(t *testing.T) {
	t.Parallel()
	for _, size := range []string{"16", "1000", "60000", "1000000"} {
		t.Run(size, func(t *testing.T) {
			t.Parallel()
			wantBoundedHeap(t, "memory: failed write", 8<<20, size)
		})
	}
}

// memoryContextInMidFrame ends the contexts of large messages to a peer that
// does not read, and sends without end.
func memoryContextInMidFrame(args []string) error {
	client, peer, _, err := childPair()
	if err != nil {
		return err
	}
	data := Payload(1, 3<<20)
	heap := WatchHeap()
	var sent atomic.Int64
	done := flood(peer, 1000, &sent)
	for i := range 40 {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		err := client.WriteContext(ctx, 1, data)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("WriteContext %d: %v, want an error that wraps the context's", i, err)
		}
	}
	select { // if the connection lives, the peer is blocked
	case <-done:
	case <-time.After(1500 * time.Millisecond):
	}
	client.Shutdown(ended())
	reportHeap(heap)
	return peer.Close()
}

// TestMemoryContextEndsInMidFrame: the rest of one message is held, and no more.
func TestMemoryContextEndsInMidFrame(t *testing.T) {
	t.Parallel()
	wantBoundedHeap(t, "memory: context ends in mid-frame", 12<<20)
}

// memoryBlockedWriters writes to a peer that is stuck, again and again.
func memoryBlockedWriters(args []string) error {
	client, peer, _, err := childPair()
	if err != nil {
		return err
	}
	data := Payload(1, 20_000)
	heap := WatchHeap()
	for range 2000 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		err := client.WriteContext(ctx, 1, data)
		cancel()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
	}
	client.Shutdown(ended())
	reportHeap(heap)
	return peer.Close()
}

// TestMemoryWritesToStuckPeer: at most 64 KiB wait behind a flush, however often
// the peer is written to.
func TestMemoryWritesToStuckPeer(t *testing.T) {
	t.Parallel()
	wantBoundedHeap(t, "memory: blocked writers", 4<<20)
}

// memoryUnreadClients has clients that come one after the other, each send
// 3 MiB, and are never read by a server that only writes.
func memoryUnreadClients(args []string) error {
	clients, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	network := &PipeNetwork{}
	l := net.Listener(nil)
	dial := network.Dial
	if args[1] == "unix" {
		dir, err := os.MkdirTemp("", "g")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		if l, err = net.Listen("unix", filepath.Join(dir, "s")); err != nil {
			return err
		}
		dial = func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", l.Addr().String())
		}
	} else {
		l = network.Listen()
	}
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "test", Listener: l, Heartbeat: -1})
	if err != nil {
		return err
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				server.Write(1, Payload(1, 10)) // fails while no client is connected
			}
		}
	}()
	data := Payload(1, 3<<20)
	heap := WatchHeap()
	for i := range clients {
		life := Go(func() error {
			// The server may take a second to end the connection before this one.
			client, err := gipc.StartClient(&gipc.ClientConfig{Name: "test", Dial: dial, Timeout: Patience, RetryTimer: 20 * time.Millisecond})
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			defer cancel()
			client.WriteContext(ctx, 1, data) // blocks if the message waits in the socket
			client.Shutdown(ctx)
			return nil
		})
		select {
		case err = <-life:
		case <-time.After(2 * Patience):
			err = errors.New("no progress")
		}
		if err != nil {
			return fmt.Errorf("client %d: %w", i, err)
		}
	}
	close(stop)
	<-stopped
	reportHeap(heap)
	server.Shutdown(ended())
	return nil
}

// TestMemoryUnreadClients: what nobody reads is bounded over all connections of
// an endpoint together.
func TestMemoryUnreadClients(t *testing.T) {
	t.Parallel()
	// Unbounded, the short form holds 60 MiB.
	clients := "20"
	if EnvInt(t, "GIPC_LONG", 0) > 0 {
		clients = "100"
	}
	for _, network := range []string{"unix", "pipe"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			// Of the client: a message, its ciphertext. Of the server: 64 KiB, and one
			// larger message if a write of its own was blocked. On a busy machine a
			// collection takes as long as two clients, and what they allocate meanwhile
			// counts as live: 21 MiB were seen.
			wantBoundedHeap(t, "memory: unread clients", 32<<20, clients, network)
		})
	}
}

// spinPartialFrame closes clients whose reader has the head of a large frame and
// no more.
func spinPartialFrame(args []string) error {
	var closing []<-chan error
	for range 4 {
		var client *gipc.Client
		var peer *RawPeer
		var err error
		if args[0] != "unix" {
			near, far := net.Pipe()
			if args[0] == "tls" {
				near, far = TLSClient(near), TLSServer(far)
			}
			peer = NewRawPeer(nil, far)
			shaken := Go(peer.ServeHandshake)
			client, err = gipc.StartClient(&gipc.ClientConfig{Name: "test", Encryption: gipc.EncryptionOff, Heartbeat: -1,
				Dial: func(context.Context) (net.Conn, error) { return near, nil }})
			if err == nil {
				err = <-shaken
			}
		} else {
			client, peer, _, err = childPair()
		}
		if err != nil {
			return err
		}
		first := make(chan struct{}, 1)
		read := Go(func() error {
			capacity := 0
			if args[1] == "reused" { // the data goes straight into this memory
				capacity = 1 << 20
			}
			for m := (&gipc.Message{Data: make([]byte, 0, capacity)}); ; {
				if err := client.ReadInto(context.Background(), m); err != nil {
					return err
				}
				if m.MsgType == 2 {
					first <- struct{}{}
				}
			}
		})
		// A message before it makes sure that the caller of ReadInto does the reading.
		if _, err := peer.Write(User(2, nil)); err != nil {
			return err
		}
		<-first
		if _, err := peer.Write(User(1, make([]byte, 64<<10))[:8]); err != nil {
			return err
		}
		// Over a pipe the reader has it now. On a socket nothing tells when it has.
		<-time.After(50 * time.Millisecond)
		start := time.Now()
		closed := Go(client.Close)
		go func() { // a little more of the frame comes while Close waits
			for client.StatusCode() != gipc.Closing && client.StatusCode() != gipc.Closed {
				runtime.Gosched()
			}
			peer.Write([]byte{1})
		}()
		closing = append(closing, Go(func() error {
			defer peer.Close()
			if err := <-read; !errors.Is(err, gipc.ErrClosed) {
				return fmt.Errorf("ReadInto: %v, want ErrClosed", err)
			}
			if err := <-closed; err != nil {
				return fmt.Errorf("Close: %v, want nil: nothing was sent", err)
			}
			fmt.Println("closed after", time.Since(start))
			return nil
		}))
	}
	var err error
	for _, c := range closing {
		err = errors.Join(err, <-c)
	}
	return err
}

// TestCloseInMidFrame: Close ends a reader that waits for the rest of a large
// frame, and nothing spins meanwhile.
func TestCloseInMidFrame(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"pipe", "unix", "tls"} {
		for _, memory := range []string{"new", "reused"} {
			t.Run(network+" "+memory, func(t *testing.T) {
				t.Parallel()
				wantNoSpin(t, "spin: partial frame", network, memory)
			})
		}
	}
}

// wantNoSpin runs a child that has little to do but wait.
func wantNoSpin(t *testing.T, child string, args ...string) {
	t.Helper()
	r := RunChild(t, Patience, child, args...)
	t.Logf("%v of processor time", r.CPU)
	if r.Err != nil {
		t.Errorf("child: %v, killed after %v: %v\n%s", r.Err, Patience, r.Killed, r.Output)
	}
	if r.CPU > 1500*time.Millisecond {
		t.Errorf("%v of processor time for a process that waits: something spins", r.CPU)
	}
}

// spinFullTLS has writes wait behind a TLS connection that is full, for
// a while, and then go on.
func spinFullTLS(args []string) error {
	dir, err := os.MkdirTemp("", "g")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		return err
	}
	multi := args[0] == "Broadcast"
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "test", MultiClient: multi, Listener: WrapListener{Listener: l, Wrap: TLSServer}})
	if err != nil {
		return err
	}
	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "test", Dial: func(context.Context) (net.Conn, error) {
		conn, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			return nil, err
		}
		return TLSClient(conn), nil
	}})
	if err != nil {
		return err
	}
	write, reader := client.WriteContext, endpoint(server)
	if multi {
		write, reader = server.Connections.Broadcast, client
		for server.Connections.Len() == 0 {
			<-time.After(time.Millisecond)
		}
	}
	last := 0
	size, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	for ; ; last++ {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		err := write(ctx, 1, Payload(last, size))
		cancel()
		if err != nil {
			break
		}
	}
	// Three seconds in which everything waits.
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	write(ctx, 1, Payload(last+1, size))
	cancel()
	behind := Go(func() error { return write(context.Background(), 2, Payload(1, 10)) })
	for {
		m, err := nextMessage(reader)
		if err != nil {
			return err
		}
		if m.MsgType == 2 {
			break
		}
	}
	if err := <-behind; err != nil {
		return fmt.Errorf("the write behind a full connection: %w", err)
	}
	if client.ID() != 1 {
		return fmt.Errorf("connection %d, want the first one to live", client.ID())
	}
	client.Shutdown(ended())
	server.Shutdown(ended())
	return nil
}

// TestFullTLSConnectionDoesNotSpin waits for room in a TLS connection.
func TestFullTLSConnectionDoesNotSpin(t *testing.T) {
	t.Parallel()
	for _, call := range []string{"WriteContext", "Broadcast"} {
		for _, size := range []string{"1000", "500000"} {
			t.Run(call+" of "+size, func(t *testing.T) {
				t.Parallel()
				wantNoSpin(t, "spin: full TLS connection", call, size)
			})
		}
	}
}
