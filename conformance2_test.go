// The vectors of version 2, and its fuzz target: all of it goes with wire2.go.

package gipc

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func init() {
	maps.Copy(citedByTests, map[string]string{
		"V-1":  "TestConfigRefusals",
		"V-2":  "TestClientLeavesVersion2ToItsRoom",
		"V-5":  "TestWire2Clients",
		"V-9":  "TestWire2FrameIsNotAbandoned",
		"V-12": "TestWire2KeyIsSpent",
		"V-13": "TestWire2CloseWhileThePeerWrites",
	})
}

func block2(t testing.TB, key []byte) cipher.Block {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	return block
}

// seals2 says whether the plaintext, sealed with the nonce and without
// additional data, is the frame.
func seals2(t testing.TB, key, nonce, plain, frame []byte) bool {
	if key == nil {
		return bytes.Equal(append(binary.BigEndian.AppendUint32(nil, uint32(len(plain))), plain...), frame)
	}
	own := append(binary.BigEndian.AppendUint32(nil, uint32(len(plain)+28)), nonce...)
	if own = sealFixed(block2(t, key), own, nonce, plain, nil); own != nil {
		return bytes.Equal(own, frame)
	}
	return bytes.Equal(open2(t, key, frame), plain) && bytes.Equal(frame[4:16], nonce)
}

// open2 is the plaintext of a whole frame, and nil where it has none.
func open2(t testing.TB, key, frame []byte) []byte {
	switch {
	case len(frame) < 4 || binary.BigEndian.Uint32(frame) != uint32(len(frame)-4):
		return nil
	case key == nil:
		return frame[4:]
	case len(frame) < 32:
		return nil
	}
	plain, err := openAny(block2(t, key), frame[4:], nil)
	if err != nil {
		return nil
	}
	return plain
}

func newReceiver2(c *cipherState, limit int) *link {
	l := newReceiver(c, limit)
	l.version = version2
	return l
}

func clientBoth(rw io.ReadWriter, t *testing.T, v *vector, own *terms) (*session, error) {
	own.allowV2 = true
	c, err := clientHello(rw, own, v.key(t, "client_private"))
	if err != nil {
		return nil, err
	}
	return c.finish()
}

func TestVectorsLegacyHandshake(t *testing.T) {
	t.Parallel()
	for _, v := range loadVectors(t, "legacy-handshake") {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			for _, chunk := range []int{0, 1, 50} {
				v.legacyHandshake(t, chunk)
			}
		})
	}
}

func (v *vector) legacyHandshake(t *testing.T, chunk int) {
	limit, on := int(v.number(t, "server_limit")), v.choice(t, "encryption", "on", "off")
	key, clientKey := v.bytes(t, "key"), v.bytes(t, "client_key")
	whole := slices.Concat(v.bytes(t, "client_reply"), v.bytes(t, "client_point"), v.bytes(t, "client_end"))
	p := &script{sends: bytes.Clone(whole), end: errTooFar, chunk: chunk}
	server, err := serverHandshake2(p, &terms{encrypt: on, limit: limit}, v.key(t, "server_private"), func() byte { return 0 })
	if err != nil {
		t.Fatal(err)
	}
	before := slices.Concat(v.bytes(t, "server_hello"), v.bytes(t, "server_point"))
	message, ok := bytes.CutPrefix(p.got.Bytes(), before)
	if plain := open2(t, key, message); !ok || !bytes.Equal(plain, binary.BigEndian.AppendUint32(nil, uint32(limit))) {
		t.Errorf("the server writes %x, of which the limit opens as %x", p.got.Bytes(), plain)
	}
	if !seals2(t, key, v.bytes(t, "limit_nonce"), binary.BigEndian.AppendUint32(nil, uint32(limit)), v.bytes(t, "limit_message")) {
		t.Error("the limit is not sealed as the vector says")
	}
	ends := map[string]*session{"server": server}
	if bytes.Equal(key, clientKey) {
		p := &script{sends: slices.Concat(before, v.bytes(t, "limit_message")), end: errTooFar, chunk: chunk}
		client, err := clientBoth(p, t, v, &terms{encrypt: on, limit: int(v.number(t, "client_limit"))})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(p.got.Bytes(), whole) || client.limit != limit || client.version != version2 {
			t.Errorf("the client writes %x and takes limit %d, version %d", p.got.Bytes(), client.limit, client.version)
		}
		ends["client"] = client
	}
	receivers := map[string]*link{}
	for who, s := range ends {
		receivers[who] = newReceiver2(s.in, limit)
	}
	other := map[string]string{"server": "client", "client": "server"}
	for i, line := range v.lines {
		f := strings.Fields(line)
		typ, data := typeAndData(t, f[1], f[2])
		wire := dashed(t, f[4])
		if !seals2(t, clientKey, dashed(t, f[3]), plainBody(typ, data), wire) {
			t.Fatalf("frame %d is not sealed as %x", i, wire)
		}
		if s := ends[f[0]]; s != nil {
			made := appendFrame(s.out, typ, data)
			if plain := open2(t, clientKey, made); !bytes.Equal(plain, plainBody(typ, data)) || len(made) != len(wire) {
				t.Fatalf("frame %d is made as %x", i, made)
			}
		}
		if l := receivers[other[f[0]]]; l != nil {
			if got, _, err := drive(l, &call{}, wire, pieces(max(chunk, 1))); err != nil || !sameMessages(got, []Message{{MsgType: int(typ), Data: data}}) {
				t.Fatalf("frame %d is received as %v, %v", i, got, err)
			}
		}
	}
}

func TestVectorsLegacyServer(t *testing.T) {
	t.Parallel()
	for _, v := range loadVectors(t, "legacy-server") {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			for _, chunk := range []int{0, 1, 50} {
				p := v.script(t, "client_sends", chunk)
				own := &terms{encrypt: v.choice(t, "encryption", "on", "off"), limit: int(v.number(t, "server_limit"))}
				s, err := serverHandshake2(p, own, v.key(t, "server_private"), func() byte { return byte(v.number(t, "admit")) })
				if key := v.bytes(t, "limit_key"); key != nil {
					all := p.got.Bytes()
					at := max(0, len(all)-36)
					if plain := open2(t, key, all[at:]); !bytes.Equal(plain, binary.BigEndian.AppendUint32(nil, uint32(own.limit))) {
						t.Errorf("the limit opens as %x", plain)
					}
					p.got.Truncate(at)
				}
				v.checkHandshake(t, s, err, p, "server_writes")
			}
		})
	}
}

func TestVectorsLegacyClient(t *testing.T) {
	t.Parallel()
	for _, v := range loadVectors(t, "legacy-client") {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			for _, chunk := range []int{0, 1, 50} {
				p := v.script(t, "server_sends", chunk)
				s, err := clientBoth(p, t, v, &terms{encrypt: v.choice(t, "client_encryption", "required", "follow"), limit: int(v.number(t, "client_limit"))})
				v.checkHandshake(t, s, err, p, "client_writes")
			}
		})
	}
}

func TestVectorsLegacyReceive(t *testing.T) {
	t.Parallel()
	for _, v := range loadVectors(t, "legacy-receive") {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			if strconv.IntSize == 32 && slices.ContainsFunc(v.lines, func(line string) bool {
				typ, _ := typeAndData(t, strings.Fields(line)[0], "-")
				return typ > math.MaxInt32
			}) {
				t.Skip("an int of this system does not hold the type")
			}
			v.receives(t, func() *link {
				key := v.bytes(t, "key")
				if key == nil {
					return newReceiver2(nil, int(v.number(t, "limit")))
				}
				return newReceiver2(testSharedKey(t, key).direction(), int(v.number(t, "limit")))
			})
		})
	}
}

func testSharedKey(t testing.TB, key []byte) *sharedKey {
	t.Helper()
	aead, err := cipher.NewGCMWithRandomNonce(block2(t, key))
	if err != nil {
		t.Fatal(err)
	}
	k := new(sharedKey)
	k.aead.Store(&aead)
	return k
}

func FuzzWire2(f *testing.F) {
	server, client := fuzzKeys(f)
	for _, v := range loadVectors(f, "legacy-handshake") {
		on := termsByte(f, v, "encryption", "on")
		sends := slices.Concat(v.bytes(f, "client_reply"), v.bytes(f, "client_point"), v.bytes(f, "client_end"))
		f.Add(append(sends, dashed(f, strings.Fields(v.lines[0])[4])...), on, byte(0))
		sends = slices.Concat(v.bytes(f, "server_hello"), v.bytes(f, "server_point"), v.bytes(f, "limit_message"))
		f.Add(append(sends, dashed(f, strings.Fields(v.lines[1])[4])...), on|2, byte(1))
	}
	for _, v := range loadVectors(f, "legacy-server") {
		f.Add(v.bytes(f, "client_sends"), termsByte(f, v, "encryption", "on")&1, byte(3))
	}
	for _, v := range loadVectors(f, "legacy-client") {
		f.Add(v.bytes(f, "server_sends"), termsByte(f, v, "client_encryption", "required")&1|2, byte(3))
	}
	for _, v := range loadVectors(f, "legacy-receive") {
		f.Add(append([]byte{0, 0}, v.bytes(f, "stream")...), byte(0), byte(5))
	}
	f.Fuzz(func(t *testing.T, input []byte, how, size byte) {
		own := &terms{encrypt: how&1 != 0, limit: 1024, allowV2: true}
		asClient := how&2 != 0
		run := func(piece int) *handshakeRun {
			r := runRole(input, piece, func(rw io.ReadWriter) (*session, error) {
				if !asClient {
					return serverHandshake2(rw, own, withKey(server), func() byte { return 0 })
				}
				c, err := clientHello(rw, own, withKey(client))
				if err != nil {
					return nil, err
				}
				return c.finish()
			})
			if !asClient && own.encrypt && len(r.wrote) > 99 { // the limit is sealed with a random nonce
				if len(r.wrote) != 99+36 {
					t.Fatalf("it writes %x", r.wrote)
				}
				r.wrote = r.wrote[:99]
			}
			return r
		}
		r, o := run(0), run(1+int(size))
		if (r.s == nil) != (r.err != nil) || !r.same(o) {
			t.Fatalf("in one piece %v %x %v, in pieces of %d %v %x %v", r.s, r.wrote, r.err, 1+int(size), o.s, o.wrote, o.err)
		}
		if r.err != nil {
			checkText(t, r.err)
			return
		}
		if asClient && len(input) > 0 && input[0] == version3 {
			return
		}
		want := []byte{version2, how & 1}
		if asClient && r.s.in == nil {
			want = []byte{0, 0}
		} else if asClient {
			want = slices.Concat([]byte{0}, client.PublicKey().Bytes(), []byte{0})
		}
		if !bytes.HasPrefix(r.wrote, want) || asClient && len(r.wrote) != len(want) {
			t.Fatalf("it writes %x", r.wrote)
		}
		// What follows are frames, in any pieces the same.
		l, m := newReceiver2(r.s.in, own.limit), newReceiver2(o.s.in, own.limit)
		got, _, err := drive(l, &call{}, r.unread, piecesOf(nil))
		again, _, errAgain := drive(m, &call{reuse: true}, o.unread, piecesOf([]byte{size, 0}))
		if !sameMessages(got, again) || (err == nil) != (errAgain == nil) || err != nil && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrNotAuthentic) {
			t.Fatalf("%v, %v and then %v, %v", got, err, again, errAgain)
		}
		for _, one := range got {
			if uint64(one.MsgType) == 0 || len(one.Data) > own.limit {
				t.Fatalf("it delivers type %d with %d bytes", one.MsgType, len(one.Data))
			}
		}
	})
}
