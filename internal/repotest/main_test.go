// Package repotest has the tests of the repository itself: its pages, its programs,
// its imports and layout, the client for Node.js, and what a user's module gets of it.
package repotest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"example.com/gipc"
	"example.com/gipc/internal/testutil"
)

// TestMain runs the tests in the root of the repository.
func TestMain(m *testing.M) {
	if err := os.Chdir(filepath.Join("..", "..")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	os.Exit(testutil.RunTests(m))
}

var secret = bytes.Repeat([]byte("0123456789abcdef"), 2)

// An endpoint is a client or a server with one peer.
type endpoint interface {
	ReadContext(ctx context.Context) (*gipc.Message, error)
	Close() error
}

func patience(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// startServer returns a server that ends with the test.
func startServer(t testing.TB, config *gipc.ServerConfig) *gipc.Server {
	t.Helper()
	server, err := gipc.StartServer(config)
	testutil.Must(t, err)
	t.Cleanup(func() { endNow(server.Shutdown) })
	return server
}

// startClient returns a client that ends with the test.
func startClient(t testing.TB, config *gipc.ClientConfig) *gipc.Client {
	t.Helper()
	client, err := gipc.StartClientContext(patience(t), config)
	testutil.Must(t, err)
	t.Cleanup(func() { endNow(client.Shutdown) })
	return client
}

// endNow ends an endpoint without waiting for its peer.
func endNow(shutdown func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	shutdown(ctx)
}

func read(t testing.TB, e endpoint) *gipc.Message {
	t.Helper()
	m, err := e.ReadContext(patience(t))
	testutil.Must(t, err)
	return m
}

// next returns the next message of the peer.
func next(t testing.TB, e endpoint) *gipc.Message {
	t.Helper()
	for {
		if m := read(t, e); m.MsgType != -1 {
			return m
		}
	}
}
