// Tests of what is checked in everything that a client sends.

package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/fips140"
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"testing"
	"time"

	"example.com/gipc/internal/testutil"
)

// streamOf returns a stream that reads these bytes.
func streamOf(t *testing.T, b []byte, keys *direction) *clientStream {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close() })
	go func() {
		theirs.Write(b) // an error shows in what is read
		theirs.Close()
	}()
	c := newClientStream(ours, 2000)
	c.keys = keys
	return c
}

// idOf reads until the end and returns the id of the violation, or the end.
func idOf(c *clientStream) string {
	for {
		_, err := c.next(time.Now().Add(testutil.Patience))
		if v := (*violation)(nil); errors.As(err, &v) {
			return v.id
		}
		if err != nil {
			return err.Error()
		}
	}
}

// TestClientStreamPlain: frames that a client must not send.
func TestClientStreamPlain(t *testing.T) {
	t.Parallel()
	one, closing, ack := message(1, []byte("one")).bytes(), control(kindClose, 0).bytes(), control(kindCloseAck, 0).bytes()
	for _, c := range []struct {
		name   string
		stream []byte
		want   string
	}{
		{"whole", slices.Concat(one, request(1, 1, nil).bytes(), request(2, 1, nil).bytes(), closing, ack), errEndBoundary.Error()},
		{"inside", one[:9], errEndInside.Error()},
		{"inside a head", one[:3], errEndInside.Error()},
		{"short", numbers(3, 1), "F-1"},
		{"short with an id", append(numbers(11, idBit|1), make([]byte, 8)...), "F-1"},
		{"too large", message(1, make([]byte, 2001)).bytes(), "F-3"},
		{"type", append(numbers(12, idBit), make([]byte, 8)...), "F-6"},
		{"first request", request(2, 1, nil).bytes(), "Q-1"},
		{"request twice", slices.Concat(request(1, 1, nil).bytes(), request(1, 1, nil).bytes()), "Q-1"},
		{"reply to nothing", reply(1, 1, nil).bytes(), "Q-3"},
		{"reply twice", slices.Concat(reply(7, 1, nil).bytes(), reply(7, 1, nil).bytes()), "Q-3"},
		{"empty control", control().bytes(), "C-1"},
		{"long ping", control(kindPing, 1, 2, 3, 4, 5, 6, 7, 8, 9).bytes(), "C-1"},
		{"kind 16", control(16).bytes(), "C-3"},
		{"kind 15", control(15).bytes(), errEndBoundary.Error()},
		{"ack first", slices.Concat(ack, closing), "G-7"},
		{"message behind close", slices.Concat(closing, one), "G-1"},
		{"close twice", slices.Concat(closing, closing), "G-1"},
		{"message behind ack", slices.Concat(closing, ack, one), "G-1"},
	} {
		s := streamOf(t, c.stream, nil)
		s.open[7] = true
		if got := idOf(s); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// TestClientStreamRecords: records that a client must not send.
func TestClientStreamRecords(t *testing.T) {
	t.Parallel()
	traffic := bytes.Repeat([]byte{7}, 48)
	large := message(1, make([]byte, largeData))
	for _, c := range []struct {
		name string
		seal func(seal func([]byte) []byte) []byte
		want string
	}{
		{"whole", func(seal func([]byte) []byte) []byte { return seal(message(1, nil).bytes()) }, errEndBoundary.Error()},
		{"inside", func(seal func([]byte) []byte) []byte { return seal(message(1, nil).bytes())[:20] }, errEndInside.Error()},
		{"half a head", func(seal func([]byte) []byte) []byte { return seal(append(message(1, nil).bytes(), 0, 0)) }, "R-7"},
		{"half a frame", func(seal func([]byte) []byte) []byte { return seal(message(1, make([]byte, 9)).bytes()[:12]) }, "R-7"},
		{"data behind a head", func(seal func([]byte) []byte) []byte { return seal(large.bytes()) }, "R-7"},
		{"frame behind a head", func(seal func([]byte) []byte) []byte {
			return slices.Concat(seal(large.head()), seal(message(1, nil).bytes()))
		}, "R-9"},
		{"end behind a head", func(seal func([]byte) []byte) []byte { return seal(large.head()) }, errEndInside.Error()},
		{"short", func(func([]byte) []byte) []byte { return numbers(35) }, "R-6"},
		{"long", func(func([]byte) []byte) []byte { return numbers(maxPlain + recordOverhead + 1) }, "R-6"},
		{"reordered", func(seal func([]byte) []byte) []byte {
			first, second := seal(message(1, nil).bytes()), seal(message(2, nil).bytes())
			return slices.Concat(second, first)
		}, "R-1"},
	} {
		sending, err := newDirection(traffic, rekeyBytes)
		if err != nil {
			t.Fatal(err)
		}
		receiving, err := newDirection(traffic, rekeyBytes)
		if err != nil {
			t.Fatal(err)
		}
		stream := c.seal(func(plain []byte) []byte {
			b, err := sending.seal(plain)
			if err != nil {
				t.Fatal(err)
			}
			return b
		})
		s := streamOf(t, stream, receiving)
		s.limit = 1 << 20
		if got := idOf(s); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// TestClientStreamNonce: a nonce that a client uses twice.
func TestClientStreamNonce(t *testing.T) {
	t.Parallel()
	traffic := bytes.Repeat([]byte{7}, 48)
	receiving, err := newDirection(traffic, rekeyBytes)
	if err != nil {
		t.Fatal(err)
	}
	key, err := expand(traffic, "gipc/3 key", 32)
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil && fips140.Enabled() {
		t.Skip("FIPS mode allows random nonces alone")
	}
	if err != nil {
		t.Fatal(err)
	}
	var stream []byte
	for sequence := range 2 {
		sealed := sealWith(t, aead, make([]byte, 12), message(1, nil).bytes(), uint64(sequence))
		stream = slices.Concat(stream, numbers(uint32(12+len(sealed))), make([]byte, 12), sealed)
	}
	if got := idOf(streamOf(t, stream, receiving)); got != "R-2" {
		t.Errorf("%s, want R-2", got)
	}
}

// sealWith seals under a nonce of the test, which FIPS mode does not allow.
func sealWith(t *testing.T, aead cipher.AEAD, nonce, plain []byte, sequence uint64) (sealed []byte) {
	t.Helper()
	defer func() {
		if r := recover(); r != nil {
			t.Skip("FIPS mode allows random nonces alone")
		}
	}()
	return aead.Seal(nil, nonce, plain, binary.BigEndian.AppendUint64(nil, sequence))
}

// TestConformMoreMutants: other things that are broken, in scenarios that are not
// about them.
func TestConformMoreMutants(t *testing.T) {
	t.Parallel()
	byName := map[string]*scenario{}
	for _, s := range scenarios() {
		byName[s.name] = s
	}
	for _, c := range [][3]string{
		{"connect", "limit", "H-2"},
		{"connect", "clears-flags", "H-21"},
		{"connect", "reset", "held"}, // everything was read: the end of the stream looks the same
		{"connect", "exit", "H-1"},
		{"close-server", "no-close", "G-2"},
		{"close-server", "ack-first", "G-7"},
		{"close-client", "no-close", "G-1"},
		{"close-nothing-sent", "patient", "G-6"},
		{"requests-client", "numbers-from-zero", "Q-1"},
		{"ping", "no-pong", "C-4"},
		{"hostile-flags", "refuses-loudly", "H-13"},
		{"hostile-tag", "close-after-fault", "G-10"},
		{"encryption-missing", "refuses-silently", "H-12"},
		{"requests-close", "forgets-calls", "F-10"},
	} {
		t.Run(c[0]+"/"+c[1], func(t *testing.T) {
			t.Parallel()
			r := &runner{launch: launchInProcess(runMutant(c[1])), network: "unix", timeout: 5 * time.Second}
			res, err := r.run(t.Context(), byName[c[0]])
			if err != nil || res.ID != c[2] && res.Result != c[2] {
				t.Errorf("%+v, %v, and %s was expected", res, err, c[2])
			}
		})
	}
}
