package integration_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net"
	"strings"
	"testing"
	"time"

	"example.com/gipc"
	. "example.com/gipc/internal/testutil"
)

var children = map[string]func([]string) error{}

func TestMain(m *testing.M) { Main(m, children) }

// An endpoint is a client or a server with one peer.
type endpoint interface {
	Read() (*gipc.Message, error)
	ReadTimed(time.Duration) (*gipc.Message, error)
	ReadContext(context.Context) (*gipc.Message, error)
	ReadInto(context.Context, *gipc.Message) error
	Messages(context.Context) iter.Seq2[*gipc.Message, error]
	Write(int, []byte) error
	WriteContext(context.Context, int, []byte) error
	Queue(int, []byte) error
	Flush() error
	WaitConnected(context.Context) error
	StatusCode() gipc.Status
	Shutdown(context.Context) error
	Close() error
	Done() <-chan struct{}
	Err() error
	ID() uint64
	Stats() gipc.Stats
}

// ended returns a context that is done.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// patience returns a context that is done when the test has waited too long.
func patience(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	t.Cleanup(cancel)
	return ctx
}

// closeAtEnd closes e without grace when the test ends, and fails the test if that hangs.
func closeAtEnd(t testing.TB, e endpoint) {
	t.Cleanup(func() {
		closed := Go(func() error { return e.Shutdown(ended()) })
		if t.Failed() && !InBubble() { // do not wait twice for one hang
			select {
			case <-closed:
			case <-time.After(time.Second):
			}
			return
		}
		Await(t, "Shutdown with an ended context", closed)
	})
}

func startServer(t testing.TB, config *gipc.ServerConfig) *gipc.Server {
	t.Helper()
	s, err := gipc.StartServer(config)
	Must(t, err)
	closeAtEnd(t, s)
	return s
}

func startClient(t testing.TB, config *gipc.ClientConfig) *gipc.Client {
	t.Helper()
	var c *gipc.Client
	Must(t, Do(t, "StartClient", func() (err error) {
		c, err = gipc.StartClientContext(patience(t), config)
		return err
	}))
	closeAtEnd(t, c)
	return c
}

// waitConnected waits until e is connected.
func waitConnected(t testing.TB, e endpoint) {
	t.Helper()
	ctx := patience(t)
	Must(t, Do(t, "WaitConnected", func() error { return e.WaitConnected(ctx) }))
}

// startPlainClient starts a client that connects to raw peers in plaintext. It
// returns the client and its first peer.
func startPlainClient(t testing.TB, raw *RawServer) (*gipc.Client, *RawPeer) {
	t.Helper()
	c := startClient(t, &gipc.ClientConfig{Name: "test", Encryption: gipc.EncryptionOff, Heartbeat: -1, Dial: raw.Dial})
	return c, raw.Peer()
}

// startPlainServer starts a server in plaintext on a pipe network, and connects
// a raw client to it.
func startPlainServer(t testing.TB, config *gipc.ServerConfig) (*gipc.Server, *RawPeer) {
	t.Helper()
	network := &PipeNetwork{}
	config.Name, config.Encryption, config.Heartbeat, config.Listener = "test", gipc.EncryptionOff, -1, network.Listen()
	s := startServer(t, config)
	return s, dialRaw(t, network)
}

func dialRaw(t testing.TB, network *PipeNetwork) *RawPeer {
	t.Helper()
	conn, err := network.Dial(patience(t))
	Must(t, err)
	p := NewRawPeer(t, conn)
	Must(t, Do(t, "the handshake", p.ClientHandshake))
	return p
}

// nextMessage returns the next message of the peer.
func nextMessage(e endpoint) (*gipc.Message, error) {
	for m, err := range e.Messages(context.Background()) {
		return m, err
	}
	return nil, errors.New("no message: the endpoint is closed")
}

// wantMessage fails the test if the next message of the peer is another one.
func wantMessage(t testing.TB, e endpoint, msgType int, data []byte) {
	t.Helper()
	var got *gipc.Message
	err := Do(t, fmt.Sprint("message of type ", msgType), func() (err error) {
		got, err = nextMessage(e)
		return err
	})
	Must(t, err)
	if got.MsgType != msgType || !bytes.Equal(got.Data, data) {
		t.Fatalf("got type %d and %d bytes, want type %d and %d bytes", got.MsgType, len(got.Data), msgType, len(data))
	}
}

// wantStatus reads until the message of a status, and returns it.
func wantStatus(t testing.TB, e endpoint, want gipc.Status) *gipc.Message {
	t.Helper()
	var got *gipc.Message
	Must(t, Do(t, "status "+want.String(), func() error {
		for {
			m, err := e.Read()
			if err != nil {
				return err
			}
			if m.MsgType == -1 && m.Status == want.String() {
				got = m
				return nil
			}
		}
	}))
	return got
}

// numberOf is the number of the message that payload made.
func numberOf(data []byte) int { return int(binary.BigEndian.Uint64(data)) }

// lossNumber returns the number in the text of an error that reports lost
// queued messages, or -1.
func lossNumber(err error) int {
	if err == nil {
		return -1
	}
	var n int
	for _, word := range strings.Fields(err.Error()) {
		if _, scanErr := fmt.Sscanf(word, "%d", &n); scanErr == nil {
			return n
		}
	}
	return -1
}

// framesInOrder checks that frames are the messages 1 to n, and then those of
// more, each once.
func framesInOrder(t testing.TB, frames []Frame, n int, more ...int) {
	t.Helper()
	for i := range n {
		more = append(more, 0)
		copy(more[i+1:], more[i:])
		more[i] = i + 1
	}
	for i, f := range frames {
		if i >= len(more) {
			t.Errorf("%d frames more than the %d that are due", len(frames)-len(more), len(more))
			break
		}
		if len(f.Data) < 8 || numberOf(f.Data) != more[i] || !bytes.Equal(f.Data, Payload(more[i], len(f.Data))) {
			t.Errorf("frame %d is not message %d, or has other bytes", i, more[i])
			return
		}
	}
	if len(frames) < len(more) {
		t.Errorf("%d messages arrived, want %d", len(frames), len(more))
	}
}

// transportPairs are connections for a client under test whose other side the
// test holds.
func transportPairs(t *testing.T) map[string]func() (net.Conn, net.Conn, error) {
	return map[string]func() (net.Conn, net.Conn, error){
		"unix":         UnixPairs(t),
		"pipe":         PipePair,
		"no deadlines": PipePairWithoutDeadlines,
		"tls":          TLSPairs(t),
	}
}
