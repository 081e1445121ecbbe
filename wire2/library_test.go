// A scripted endpoint of version 3: what the library does on a connection that
// an Upgrade function has returned.

package wire2

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"testing"
	"time"
)

// A library plays the library. Its methods fail the test, so they run on the
// test's own goroutine.
type library struct {
	testing.TB
	net.Conn
	limit uint32 // of the played peer
}

var (
	closeFrame = controlFrame(kindClose, 0)
	ackFrame   = controlFrame(kindCloseAck, 0)
)

// plainFrame returns a frame as both versions have it in plaintext.
func plainFrame(frameType uint32, data string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(typeSize+len(data)))
	b = binary.BigEndian.AppendUint32(b, frameType)
	return append(b, data...)
}

// acceptClient does the handshake of a server.
func (l *library) acceptClient(limit uint32) error {
	if err := l.offer(limit); err != nil {
		return err
	}
	_, err := l.Conn.Write([]byte{0})
	return err
}

// offer does it up to ServerFinish.
func (l *library) offer(limit uint32) error {
	if _, err := l.Conn.Write(binary.BigEndian.AppendUint32([]byte{3, 0}, limit)); err != nil {
		return err
	}
	var hello [6]byte
	if _, err := io.ReadFull(l.Conn, hello[:]); err != nil {
		return err
	}
	l.limit = binary.BigEndian.Uint32(hello[2:])
	if hello[0] != 0 || hello[1] != 0 || l.limit < 1024 || l.limit > 1<<30 {
		return fmt.Errorf("the played client's hello is %x", hello)
	}
	return nil
}

// connect does the handshake of a client.
func (l *library) connect(limit uint32) error {
	var hello [6]byte
	if _, err := io.ReadFull(l.Conn, hello[:]); err != nil {
		return err
	}
	l.limit = binary.BigEndian.Uint32(hello[2:])
	if hello[0] != 3 || hello[1] != 0 || l.limit < 1024 || l.limit > 1<<30 {
		return fmt.Errorf("the played server's hello is %x", hello)
	}
	if _, err := l.Conn.Write(binary.BigEndian.AppendUint32([]byte{0, 0}, limit)); err != nil {
		return err
	}
	var finish [1]byte
	if _, err := io.ReadFull(l.Conn, finish[:]); err != nil || finish[0] != 0 {
		return fmt.Errorf("the played server's finish is %x, %v", finish, err)
	}
	return nil
}

// An upgrade is a handshake that runs beside the peer's script.
type upgrade struct {
	result chan error
	end    *library
}

// wait returns the library's endpoint of a handshake that succeeds.
func (u *upgrade) wait() *library {
	u.end.Helper()
	if err := <-u.result; err != nil {
		u.end.Fatal(err)
	}
	return u.end
}

// fails returns the error of a handshake that fails.
func (u *upgrade) fails() error {
	u.end.Helper()
	err := <-u.result
	if err == nil {
		u.end.Fatal("the handshake succeeds")
	}
	return err
}

const libraryLimit = 3145728

// startServer runs Server and the library's handshake on conn.
func startServer(t testing.TB, conn net.Conn, o Options, generate keyGenerator) *upgrade {
	return startUpgrade(t, func(l *library) (err error) {
		if l.Conn, err = upgradeServer(conn, o, generate); err != nil {
			conn.Close()
			return err
		}
		return l.acceptClient(libraryLimit)
	})
}

// startClient runs Client and the library's handshake on conn.
func startClient(t testing.TB, conn net.Conn, o Options, generate keyGenerator) *upgrade {
	return startUpgrade(t, func(l *library) (err error) {
		if l.Conn, err = upgradeClient(conn, o, generate); err != nil {
			conn.Close()
			return err
		}
		return l.connect(libraryLimit)
	})
}

func startUpgrade(t testing.TB, run func(*library) error) *upgrade {
	u := &upgrade{make(chan error, 1), &library{TB: t}}
	go func() { u.result <- run(u.end) }()
	return u
}

func (l *library) write(b []byte) {
	l.Helper()
	if n, err := l.Conn.Write(b); n != len(b) || err != nil {
		l.Fatalf("Write of %d bytes: %d, %v", len(b), n, err)
	}
}

func (l *library) send(frameType uint32, data string) {
	l.Helper()
	l.write(plainFrame(frameType, data))
}

// sendAsync sends while the test reads elsewhere.
func (l *library) sendAsync(frameType uint32, data string) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := l.Conn.Write(plainFrame(frameType, data))
		done <- err
	}()
	return done
}

// expect reads these bytes.
func (l *library) expect(want []byte) {
	l.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(l.Conn, got); err != nil || !bytes.Equal(got, want) {
		l.Fatalf("the library reads %.40x (%d of %d bytes), %v; want %.40x", got[:n], n, len(want), err, want)
	}
}

func (l *library) receive(frameType uint32, data string) {
	l.Helper()
	l.expect(plainFrame(frameType, data))
}

// expectError reads an error and no bytes.
func (l *library) expectError(is func(error) bool) error {
	l.Helper()
	var b [64]byte
	n, err := l.Conn.Read(b[:])
	if n != 0 || !is(err) {
		l.Fatalf("the library reads %x, %v", b[:n], err)
	}
	return err
}

func (l *library) expectEnd() {
	l.Helper()
	l.expectError(func(err error) bool { return err == io.EOF })
}

// answersClose does what the library does when it reads a close.
func (l *library) answersClose() {
	l.Helper()
	l.expect(closeFrame)
	l.write(slices.Concat(closeFrame, ackFrame))
	l.expect(ackFrame)
	l.expectEnd()
	l.Close()
}

// closes does what the library does when its application closes, up to the point
// where it waits for the close-ack.
func (l *library) closes() {
	l.Helper()
	l.write(closeFrame)
}

// closed finishes closes, when the peer has ended its stream.
func (l *library) closed() {
	l.Helper()
	l.expect(closeFrame)
	l.write(ackFrame)
	l.expect(ackFrame)
	l.expectEnd()
	l.Close()
}

// readAsync reads n bytes, and returns when the read is blocked in the connection.
func (l *library) readAsync(n int) <-chan []byte {
	read := make(chan []byte, 1)
	go func() {
		b := make([]byte, n)
		n, _ := io.ReadFull(l.Conn, b)
		read <- b[:n]
	}()
	for g, blocked := l.Conn.(*translator).gate, false; !blocked; runtime.Gosched() {
		g.mu.Lock()
		blocked = g.readBlocked
		g.mu.Unlock()
	}
	return read
}

// soon is a deadline that does not pass in a test that succeeds.
func soon() time.Time { return time.Now().Add(30 * time.Second) }
