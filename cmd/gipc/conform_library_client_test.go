// The library's own client under gipc conform: what CONFORM.md says a client has
// to do, in Go.

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/gipc"
	"example.com/gipc/internal/testutil"
)

// launchInProcess returns a launcher whose client is a function.
func launchInProcess(client func(ctx context.Context, environ map[string]string, stdout io.Writer) (int, error)) launcher {
	return func(ctx context.Context, environ []string, stdout, stderr io.Writer) (func() (int, error), error) {
		variables := map[string]string{}
		for _, entry := range environ {
			if name, value, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "GIPC_CONFORM_") {
				variables[strings.TrimPrefix(name, "GIPC_CONFORM_")] = value
			}
		}
		return func() (int, error) {
			code, err := client(ctx, variables, &lockedWriter{w: stdout})
			if err != nil {
				fmt.Fprintln(stderr, err)
			}
			return code, nil
		}, nil
	}
}

type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// A libraryClient is the library's client under gipc conform.
type libraryClient struct {
	environ map[string]string
	out     io.Writer
	client  *gipc.Client
	calls   sync.WaitGroup
}

// runLibraryClient returns the exit code of CONFORM.md, and the error behind it.
func runLibraryClient(ctx context.Context, environ map[string]string, out io.Writer) (int, error) {
	if environ["REKEY_AT"] != "" {
		return exitSkip, nil
	}
	for {
		c := &libraryClient{environ: environ, out: out}
		again, err := c.run(ctx)
		if err != nil {
			return libraryExit(err), err
		}
		if !again {
			return 0, nil
		}
	}
}

var errUnconfirmed = errors.New("closing is not confirmed")

func libraryExit(err error) int {
	unproven := strings.Contains(err.Error(), "the server did not prove")
	switch {
	case errors.Is(err, errUnconfirmed):
		return 30
	case errors.Is(err, errHandshake):
		switch {
		case unproven:
			return 12
		case strings.Contains(err.Error(), "the server refused"):
			return 10
		case errors.Is(err, gipc.ErrTruncated):
			return 13
		case errors.Is(err, gipc.ErrVersion), errors.Is(err, gipc.ErrEncryption), errors.Is(err, gipc.ErrSecret), errors.Is(err, gipc.ErrMalformed):
			return 11
		}
	case errors.Is(err, errPeerClosed):
		return 20
	case errors.Is(err, gipc.ErrTruncated) && strings.Contains(err.Error(), "inside"):
		return 22
	case errors.Is(err, gipc.ErrTruncated):
		return 21
	case errors.Is(err, gipc.ErrMalformed):
		return 23
	case errors.Is(err, gipc.ErrNotAuthentic):
		return 24
	}
	return 1
}

var errHandshake = errors.New("handshake")

func (c *libraryClient) config(started context.Context, giveUp func()) (*gipc.ClientConfig, error) {
	limit, err := strconv.Atoi(c.environ["LIMIT"])
	if err != nil {
		return nil, err
	}
	config := &gipc.ClientConfig{Name: c.environ["NAME"], MaxMsgSize: limit}
	if c.environ["ENCRYPTION"] == "follow" {
		config.Encryption = gipc.EncryptionOff
	}
	if path := c.environ["SECRET_FILE"]; path != "" {
		if config.Secret, err = os.ReadFile(path); err != nil {
			return nil, err
		}
	}
	config.Network, config.Address = c.environ["NETWORK"], c.environ["ADDRESS"]
	if c.environ["RECONNECT"] == "" { // a second attempt ends the start, or the client
		var dialed atomic.Bool
		network, address := config.Network, config.Address
		config.Network, config.Address = "", ""
		config.Dial = func(ctx context.Context) (net.Conn, error) {
			if dialed.Swap(true) {
				giveUp()
				<-started.Done() // its error has the cause of the first attempt
				return nil, net.ErrClosed
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		}
	}
	return config, nil
}

// run connects and handles. It reports true if a message has asked for another
// connection.
func (c *libraryClient) run(ctx context.Context) (bool, error) {
	starting, giveUp := context.WithCancel(ctx)
	defer giveUp()
	config, err := c.config(starting, giveUp)
	if err != nil {
		return false, err
	}
	if c.client, err = gipc.StartClientContext(starting, config); err != nil {
		return false, fmt.Errorf("%w: %w", errHandshake, err)
	}
	again, err := c.handle(ctx)
	closed := c.client.Close()
	c.calls.Wait()
	if err == nil && closed != nil {
		err = fmt.Errorf("%w: %w", errUnconfirmed, closed)
	}
	return again, err
}

// handle handles messages until one says to close, or until the connection ends.
func (c *libraryClient) handle(ctx context.Context) (bool, error) {
	for {
		m, err := c.client.ReadContext(ctx)
		if err != nil {
			return false, err
		}
		switch {
		case m.Is(gipc.Connected):
			fmt.Fprintln(c.out, "connected")
		case m.Is(gipc.ReConnecting) && c.environ["RECONNECT"] == "":
			if m.Err == nil {
				return false, errPeerClosed
			}
			return false, m.Err
		case m.MsgType == -1:
		case m.IsRequest():
			fmt.Fprintf(c.out, "request %d %d\n", m.MsgType, len(m.Data))
			if m.MsgType != typeNoReply {
				_ = m.Reply(m.MsgType, m.Data) // the next read has the loss
			}
		default:
			fmt.Fprintf(c.out, "message %d %d\n", m.MsgType, len(m.Data))
			if m.MsgType == typeClose || m.MsgType == typeAgain {
				return m.MsgType == typeAgain, nil
			}
			c.message(ctx, m)
		}
	}
}

// message handles one message. Errors are left to the next read.
func (c *libraryClient) message(ctx context.Context, m *gipc.Message) {
	switch m.MsgType {
	case typeNothing:
	case typeCall:
		c.calls.Go(func() { c.call(ctx, m.Data) })
	case typeGiveUp:
		c.calls.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
			defer cancel()
			c.call(ctx, m.Data)
			_ = c.client.Write(typeGiveUp, nil)
		})
	case typeBurst:
		size := binary.BigEndian.Uint32(m.Data[4:])
		for i := range binary.BigEndian.Uint32(m.Data) {
			_ = c.client.Write(1, bytes.Repeat([]byte{byte(i)}, int(size)))
		}
	case typeTooLarge:
		if errors.Is(c.client.Write(1, make([]byte, binary.BigEndian.Uint32(m.Data))), gipc.ErrTooLarge) {
			fmt.Fprintln(c.out, "too-large")
		}
		_ = c.client.Write(typeTooLarge, nil)
	default:
		_ = c.client.Write(m.MsgType, m.Data)
	}
}

func (c *libraryClient) call(ctx context.Context, data []byte) {
	reply, err := c.client.Call(ctx, 1, data)
	switch {
	case err == nil:
		_ = c.client.Write(reply.MsgType, reply.Data)
	case errors.Is(err, gipc.ErrUnconfirmed):
		fmt.Fprintln(c.out, "call unknown")
	default:
		fmt.Fprintln(c.out, "call unsent")
	}
}

// TestConformLibrary: the library's client conforms.
func TestConformLibrary(t *testing.T) {
	t.Parallel()
	networks := []string{"unix", "tcp"}
	if testutil.RaceEnabled {
		networks = networks[:1]
	}
	for _, network := range networks {
		for _, res := range results(t, network, shortScenarios(), func(*scenario) launcher { return launchInProcess(runLibraryClient) }) {
			want := resultHeld
			if strings.HasPrefix(res.Scenario, "rekey") {
				want = resultSkipped // its threshold is fixed
			}
			if res.Result != want {
				t.Errorf("%s: %+v", network, res)
			}
		}
	}
}
