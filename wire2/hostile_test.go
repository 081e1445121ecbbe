// Peers that want to cost memory or time, and what the package is made of.

package wire2

import (
	"encoding/binary"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Memory grows with what arrives, never with a length field.
func TestMemoryFollowsInput(t *testing.T) {
	t.Parallel()
	for _, key := range [][]byte{nil, make([]byte, 32)} {
		d := &decoder{limit: maxMessageSize, key: sharedKeyOf(t, key)}
		length := binary.BigEndian.AppendUint32(nil, maxMessageSize)
		_, _, err := decodeAll(d, append(length, 0, 0, 0, 1), 100)
		if err != nil || len(d.buffer) > minBufferSize {
			t.Errorf("a length of 1 GiB costs %d bytes, %v", len(d.buffer), err)
		}
		_, _, err = decodeAll(d, make([]byte, 1<<20), 1000)
		if most := 4 << 20; err != nil || len(d.buffer) > most {
			t.Errorf("1 MiB of a frame costs %d bytes, %v", len(d.buffer), err)
		}
		if key == nil && len(d.buffer) > minBufferSize {
			t.Errorf("plaintext is kept: %d bytes", len(d.buffer))
		}
	}
	a := new(assembler)
	limited := func(b []byte) (int, error) { return libraryFrameLen(b, maxMessageSize) }
	if _, _, err := a.next(append(binary.BigEndian.AppendUint32(nil, maxMessageSize), 0, 0, 0, 1), limited); err != nil || cap(a.partial) > 64 {
		t.Errorf("a length of 1 GiB of the library costs %d bytes, %v", cap(a.partial), err)
	}
}

// The memory of a large frame is given back.
func TestMemoryIsReleased(t *testing.T) {
	t.Parallel()
	l, p := serverAnd(t, joe, Options{Encryption: true})
	data := strings.Repeat("x", 1<<20)
	go p.conn.Write(p.frame(1, data))
	l.receive(1, data)
	for _, part := range []string{plain1MiB[:7], plain1MiB[7:]} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.Conn.Write([]byte(part))
		}()
		if part == plain1MiB[7:] {
			p.receive(1, strings.Repeat("y", 1<<20))
		}
		<-done
	}
	p.send(1, "small")
	l.receive(1, "small")
	c := l.Conn.(*translator)
	for name, size := range map[string]int{"read": len(c.reading.decoder.buffer), "sealed": cap(c.writing.sealed), "partial": cap(c.writing.parts.partial)} {
		if size > maxKeptBuffer {
			t.Errorf("the %s buffer keeps %d bytes", name, size)
		}
	}
}

var plain1MiB = string(plainFrame(1, strings.Repeat("y", 1<<20)))

// A peer that sends only what is ignored does not hold a Read beyond its deadline.
func TestIgnoredFramesFlood(t *testing.T) {
	t.Parallel()
	for _, encrypted := range []bool{true, false} {
		l, p := serverAnd(t, joe, Options{Encryption: encrypted})
		flood := slices.Repeat(p.frame(0, "ignored"), 1000)
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				if _, err := p.conn.Write(flood); err != nil {
					return
				}
			}
		}()
		l.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		l.expectError(func(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) })
		l.Close()
		<-stopped
	}
}

// A peer that does not read blocks the writer, and neither the reader nor Close.
func TestPeerThatDoesNotRead(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		near, far := net.Pipe()
		u := startClient(t, near, Options{Encryption: true}, generateKey)
		p := james.on(t, far).asServer(true, 1<<20)
		l := u.wait()
		sent := l.sendAsync(1, "data")
		synctest.Wait()
		go p.conn.Write(p.frame(2, "still read"))
		l.receive(2, "still read")
		l.Close()
		if err := <-sent; err == nil {
			t.Error("Write returns nil")
		}
		p.conn.Close()
	})
}

// Pings do not accumulate, however many the library sends.
func TestPingsDoNotAccumulate(t *testing.T) {
	t.Parallel()
	l, _ := serverAnd(t, joe, Options{})
	for range 1000 {
		l.write(controlFrame(kindPing, 1, 2, 3, 4, 5, 6, 7, 8))
	}
	g := l.Conn.(*translator).gate
	if n := len(g.replies) + len(g.pong); n != 17 {
		t.Errorf("%d bytes are kept", n)
	}
}

// The package starts no goroutine, and imports the standard library and gipc.
func TestMadeOfStandardParts(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range file.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			if strings.Contains(path, ".") && path != "example.com/gipc" || path == "unsafe" || path == "C" {
				t.Errorf("%s imports %s", name, path)
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if g, ok := n.(*ast.GoStmt); ok {
				t.Errorf("%s starts a goroutine", set.Position(g.Pos()))
			}
			return true
		})
	}
}
