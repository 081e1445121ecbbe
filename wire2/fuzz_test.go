// Arbitrary bytes from the peer, in both roles and in arbitrary pieces.

package wire2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"example.com/gipc"
)

// A fuzzRun is what the package did with an input.
type fuzzRun struct {
	wrote     []byte // to the peer
	delivered []byte // to the library
	err       error
}

// runFuzz gives the input to one role. The library accepts everything, reads to
// the end, and closes if the peer does.
func runFuzz(input []byte, asClient bool, o Options, piece int, generate keyGenerator) *fuzzRun {
	s := &script{sends: input, piece: piece, end: io.EOF}
	l := new(library)
	r := new(fuzzRun)
	if asClient {
		l.Conn, r.err = upgradeClient(s, o, generate)
	} else {
		l.Conn, r.err = upgradeServer(s, o, generate)
	}
	if r.err == nil {
		if _, passed := l.Conn.(*translator); !passed {
			r.delivered, r.err = io.ReadAll(l.Conn)
			r.wrote = s.got.Bytes()
			return r
		}
		if asClient {
			r.err = l.connect(minMessageSize)
		} else {
			r.err = l.acceptClient(minMessageSize)
		}
	}
	if r.err == nil {
		r.readAll(l)
	}
	r.wrote = s.got.Bytes()
	return r
}

// readAll reads frames until the end, and answers a close.
func (r *fuzzRun) readAll(l *library) {
	buf := make([]byte, 100)
	for {
		n, err := l.Conn.Read(buf)
		r.delivered = append(r.delivered, buf[:n]...)
		if bytes.HasSuffix(r.delivered, closeFrame) && n > 0 {
			if _, err := l.Conn.Write(slices.Concat(closeFrame, ackFrame)); err != nil {
				r.err = err
				return
			}
		}
		if err != nil {
			if err != io.EOF {
				r.err = err
			}
			return
		}
	}
}

func FuzzWire2(f *testing.F) {
	server, client := fixedKey(privateKey(f, serverScalar)), fixedKey(privateKey(f, clientScalar))
	seedFuzz(f)
	f.Fuzz(func(t *testing.T, input []byte, how, size byte) {
		asClient, o := how&2 != 0, Options{Encryption: how&1 != 0}
		generate := server
		if asClient {
			generate = client
		}
		whole := runFuzz(input, asClient, o, 0, generate)
		pieces := runFuzz(input, asClient, o, 1+int(size), generate)
		if !asClient && o.Encryption { // the limit is sealed with a random nonce
			whole.wrote, pieces.wrote = whole.wrote[:min(99, len(whole.wrote))], pieces.wrote[:min(99, len(pieces.wrote))]
		}
		if (whole.err == nil) != (pieces.err == nil) || !bytes.Equal(whole.wrote, pieces.wrote) || !bytes.Equal(whole.delivered, pieces.delivered) {
			t.Fatalf("in one piece %x %x %v, in pieces of %d %x %x %v", whole.wrote, whole.delivered, whole.err, 1+int(size), pieces.wrote, pieces.delivered, pieces.err)
		}
		if whole.err != nil {
			checkFuzzError(t, whole.err)
		} else if asClient && len(input) > 0 && input[0] != protocolVersion {
			if !bytes.Equal(whole.delivered, input) {
				t.Fatalf("%x is passed as %x", input, whole.delivered)
			}
			return
		}
		checkDelivered(t, whole)
	})
}

func checkFuzzError(t *testing.T, err error) {
	t.Helper()
	if err == io.ErrUnexpectedEOF {
		return
	}
	if !strings.HasPrefix(err.Error(), "gipc: wire2: ") || strings.Count(err.Error(), "gipc: ") != 1 {
		t.Fatalf("text %q", err)
	}
	for _, kind := range []error{gipc.ErrVersion, gipc.ErrEncryption, gipc.ErrMalformed, gipc.ErrNotAuthentic, gipc.ErrTruncated} {
		if errors.Is(err, kind) {
			return
		}
	}
	t.Fatalf("kind of %v", err)
}

// checkDelivered checks that the library got well-formed frames, and a close and
// a close-ack at the end if the peer's stream ended in order.
func checkDelivered(t *testing.T, r *fuzzRun) {
	t.Helper()
	b := r.delivered
	if r.err == nil {
		end := slices.Concat(closeFrame, ackFrame)
		if !bytes.HasSuffix(b, end) {
			t.Fatalf("it delivers %x, without a close and a close-ack", b)
		}
		b = b[:len(b)-len(end)]
	}
	for len(b) >= headerSize {
		length, frameType := int(binary.BigEndian.Uint32(b)), binary.BigEndian.Uint32(b[4:])
		if length < typeSize || length > typeSize+minMessageSize || frameType == 0 || frameType > maxMessageType {
			t.Fatalf("it delivers a frame of type %d with a length of %d", frameType, length)
		}
		if b = b[4:]; len(b) < length {
			if r.err == nil {
				t.Fatal("it delivers a part of a frame")
			}
			return
		}
		b = b[length:]
	}
}

// seedFuzz adds every vector.
func seedFuzz(f *testing.F) {
	flag := func(v *vector, yes string) byte {
		if v.fields["encryption"] == yes {
			return 1
		}
		return 0
	}
	for _, v := range loadVectors(f, "handshake") {
		frames := map[string][]byte{}
		for _, line := range v.lines {
			fields := strings.Fields(line)
			frames[fields[0]] = append(frames[fields[0]], unhex(f, fields[4])...)
		}
		f.Add(slices.Concat(v.bytes(f, "client_reply"), v.bytes(f, "client_point"), v.bytes(f, "client_end"), frames["client"]), flag(v, "on"), byte(0))
		f.Add(slices.Concat(v.bytes(f, "server_hello"), v.bytes(f, "server_point"), v.bytes(f, "limit_message"), frames["server"]), flag(v, "on")|2, byte(1))
	}
	for _, v := range loadVectors(f, "server") {
		f.Add(v.bytes(f, "client_sends"), flag(v, "on"), byte(3))
	}
	for _, v := range loadVectors(f, "client") {
		f.Add(v.bytes(f, "server_sends"), flag(v, "required")|2, byte(3))
	}
	for _, v := range loadVectors(f, "receive") {
		f.Add(append([]byte{0, 0}, v.bytes(f, "stream")...), byte(0), byte(5))
		f.Add(slices.Concat([]byte{2, 0, 0, 0, 0, 4, 0, 0, 4, 0}, v.bytes(f, "stream")), byte(2), byte(5))
	}
	f.Add([]byte{3, 0, 0, 0, 4, 0}, byte(3), byte(0))
}
