// Peers that speak the plaintext protocol frame by frame.

package testutil

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"time"
)

// A Frame is one frame of the plaintext protocol.
type Frame struct {
	Type uint32
	ID   uint64 // if bit 31 of Type is set
	Data []byte
}

// The kinds of control frames.
const (
	KindPing     = 1
	KindPong     = 2
	KindClose    = 3
	KindCloseAck = 4
)

// Kind returns the kind of a control frame, or 0 for any other frame.
func (f Frame) Kind() byte {
	if f.Type != 0 || len(f.Data) == 0 {
		return 0
	}
	return f.Data[0]
}

// Bytes returns the frame as it is sent.
func (f Frame) Bytes() []byte { return f.AppendTo(nil) }

// AppendTo appends the frame, as it is sent, to b.
func (f Frame) AppendTo(b []byte) []byte {
	n := 4 + len(f.Data)
	if f.Type>>31 == 1 {
		n += 8
	}
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	b = binary.BigEndian.AppendUint32(b, f.Type)
	if f.Type>>31 == 1 {
		b = binary.BigEndian.AppendUint64(b, f.ID)
	}
	return append(b, f.Data...)
}

// Control returns a control frame as it is sent.
func Control(data ...byte) []byte { return Frame{Data: data}.Bytes() }

// User returns a frame of the user as it is sent.
func User(msgType int, data []byte) []byte { return Frame{Type: uint32(msgType), Data: data}.Bytes() }

// ParseFrames splits a plaintext stream into frames. The rest is a frame that
// is not complete.
func ParseFrames(stream []byte) (frames []Frame, rest []byte) {
	for len(stream) >= 8 {
		n := int(binary.BigEndian.Uint32(stream))
		if n < 4 || len(stream) < 4+n {
			break
		}
		f := Frame{Type: binary.BigEndian.Uint32(stream[4:]), Data: stream[8 : 4+n]}
		if f.Type>>31 == 1 && n >= 12 {
			f.ID, f.Data = binary.BigEndian.Uint64(f.Data), f.Data[8:]
		}
		frames = append(frames, f)
		stream = stream[4+n:]
	}
	return frames, stream
}

// A RawPeer is one side of a plaintext connection whose every byte the test
// decides.
type RawPeer struct {
	net.Conn
	t         testing.TB
	closeSent bool
}

// maxData is what raw peers announce as their limit.
const maxData = 4 << 20

// NewRawPeer returns a peer on conn, which is closed when the test ends. A nil
// t is for child processes.
func NewRawPeer(t testing.TB, conn net.Conn) *RawPeer {
	if t != nil {
		t.Cleanup(func() { conn.Close() })
	}
	if !InBubble() {
		conn.SetDeadline(time.Now().Add(3 * Patience))
	}
	return &RawPeer{Conn: conn, t: t}
}

// ServeHandshake does the server's part of a plaintext handshake.
func (p *RawPeer) ServeHandshake() error {
	if _, err := p.Write(binary.BigEndian.AppendUint32([]byte{3, 0}, maxData)); err != nil {
		return err
	}
	hello := make([]byte, 6)
	if _, err := io.ReadFull(p, hello); err != nil || hello[0] != 0 || hello[1] != 0 {
		return fmt.Errorf("ClientHello %x: %w", hello, orUnexpected(err))
	}
	_, err := p.Write([]byte{0})
	return err
}

// ClientHandshake does the client's part of a plaintext handshake.
func (p *RawPeer) ClientHandshake() error {
	hello := make([]byte, 6)
	if _, err := io.ReadFull(p, hello); err != nil || hello[0] != 3 || hello[1] != 0 {
		return fmt.Errorf("ServerHello %x: %w", hello, orUnexpected(err))
	}
	if _, err := p.Write(binary.BigEndian.AppendUint32([]byte{0, 0}, maxData)); err != nil {
		return err
	}
	if _, err := io.ReadFull(p, hello[:1]); err != nil || hello[0] != 0 {
		return fmt.Errorf("ServerFinish %x: %w", hello[0], orUnexpected(err))
	}
	return nil
}

func orUnexpected(err error) error {
	if err == nil {
		return errors.New("unexpected bytes")
	}
	return err
}

// Send writes all parts with one call.
func (p *RawPeer) Send(parts ...[]byte) {
	p.t.Helper()
	if _, err := p.Write(slices.Concat(parts...)); err != nil {
		p.t.Errorf("raw peer: %v", err)
	}
}

// ReadFrame reads one frame.
func (p *RawPeer) ReadFrame() (Frame, error) {
	var length [4]byte
	if _, err := io.ReadFull(p, length[:]); err != nil {
		return Frame{}, err
	}
	return p.frameBody(length)
}

func (p *RawPeer) frameBody(length [4]byte) (Frame, error) {
	n := binary.BigEndian.Uint32(length[:])
	if n < 4 || n > 12+maxData {
		return Frame{}, fmt.Errorf("frame length %d", n)
	}
	b := append(length[:], make([]byte, n)...)
	if _, err := io.ReadFull(p, b[4:]); err != nil {
		return Frame{}, err
	}
	frames, _ := ParseFrames(b)
	return frames[0], nil
}

// SendClose sends a close. Finish, called afterwards, sends none of its own.
func (p *RawPeer) SendClose() {
	p.t.Helper()
	p.closeSent = true
	p.Send(Control(KindClose, 0))
}

// ReadPart reads the first n bytes of what comes, and returns them.
func (p *RawPeer) ReadPart(n int) []byte {
	p.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(p, b); err != nil {
		p.t.Fatalf("raw peer: %v", err)
	}
	return b
}

// An Ending is what a raw peer read until the end of a connection.
type Ending struct {
	Frames []Frame // messages, and control frames except close and close-ack
	Closed bool    // a close came
	Acked  bool    // a close-ack came
	Err    error   // why reading ended: io.EOF, or the connection's error
}

// Finish reads until the connection ends, answers pings, and answers a close
// with a close of its own and a close-ack. part is what the test has read of the next
// frame already.
func (p *RawPeer) Finish(part ...byte) <-chan Ending {
	return Go(func() Ending {
		defer p.Close()
		return p.finish(part, true)
	})
}

// FinishWithoutAck is like Finish, but does not acknowledge a close: it ends the
// connection when one has come.
func (p *RawPeer) FinishWithoutAck(part ...byte) <-chan Ending {
	return Go(func() Ending {
		defer p.Close()
		return p.finish(part, false)
	})
}

func (p *RawPeer) finish(part []byte, ack bool) (e Ending) {
	// Replies are written while reading goes on: both sides may write at once on a
	// connection without buffers.
	replies := make(chan []byte, 1024)
	written := Go(func() (err error) {
		for b := range replies {
			if err == nil {
				_, err = p.Write(b)
			}
		}
		return err
	})
	defer func() {
		close(replies)
		<-written
	}()
	in := &RawPeer{Conn: &prefixed{p.Conn, part}, t: p.t}
	for {
		f, err := in.ReadFrame()
		if err != nil {
			e.Err = err
			return e
		}
		switch f.Kind() {
		case KindPing:
			replies <- Control(append([]byte{KindPong}, f.Data[1:]...)...)
		case KindClose:
			e.Closed = true
			if !ack {
				return e
			}
			reply := Control(KindCloseAck, 0)
			if !p.closeSent {
				reply = append(Control(KindClose, 0), reply...)
			}
			replies <- reply
		case KindCloseAck:
			e.Acked = true
		default:
			e.Frames = append(e.Frames, f)
		}
	}
}

// prefixed is a connection with bytes in front of what comes.
type prefixed struct {
	net.Conn
	first []byte
}

func (c *prefixed) Read(b []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(b, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

// A RawServer accepts connections for a client under test. Dial connects to it;
// after Refuse it waits for its context instead.
type RawServer struct {
	t     testing.TB
	peers chan *RawPeer
	pair  func() (client, server net.Conn, err error)
	limit chan struct{}
}

// ListenRaw returns a server whose connections come from pair. It serves at
// most the given number of connections: later dials wait for their context.
func ListenRaw(t testing.TB, connections int, pair func() (client, server net.Conn, err error)) *RawServer {
	s := &RawServer{t: t, peers: make(chan *RawPeer, connections), pair: pair, limit: make(chan struct{}, connections)}
	for range connections {
		s.limit <- struct{}{}
	}
	return s
}

// Dial is for the client's configuration. It does the server's part of the
// handshake in the background.
func (s *RawServer) Dial(ctx context.Context) (net.Conn, error) {
	select {
	case <-s.limit:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	client, server, err := s.pair()
	if err != nil {
		return nil, err
	}
	p := NewRawPeer(s.t, server)
	go func() {
		if err := p.ServeHandshake(); err != nil {
			p.Close()
			return
		}
		s.peers <- p
	}()
	return client, nil
}

// Peer returns the next connection whose handshake is done.
func (s *RawServer) Peer() *RawPeer {
	s.t.Helper()
	return Await(s.t, "a connection", s.peers)
}

// Allow lets one more dial through.
func (s *RawServer) Allow() { s.limit <- struct{}{} }
