// The key schedule against another implementation, and what the cipher of one
// direction must refuse.

package gipc

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

// A knownAnswer was computed by another implementation with another crypto
// library (OpenSSL), from the private keys, the name, the secret and the limits.
type knownAnswer struct {
	what                         string
	name, secret                 string
	serverKey, clientKey         string
	serverLimit, clientLimit     int
	z, th                        string
	clientConfirm, serverConfirm string
	clientTraffic, serverTraffic string
	serverHello, clientHello     string // what goes over the wire
	serverFinish                 string
	clientRecords, serverRecords []string // frame i has type i+1 and data "frame i"; new key when the sum is 64
}

var knownAnswers = []knownAnswer{
	{
		what: "a secret that begins with a zero byte",
		name: "weather", secret: "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
		serverKey:   "0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f30",
		clientKey:   "3132333435363738393a3b3c3d3e3f404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f60",
		serverLimit: 3145728, clientLimit: 1024,
		z:             "9fafc5903b2f873ed24fffa1c5d44d75bf047179b13b3b3ea3681cfb329e80477e17aaa98ab10bff8265a0a6e9da74aa",
		th:            "0b5330e9f60dfb8c2d0e6d8aefa02c42ef1c26cff17525c2394b3990211469ad2c1b98e79f1ea94e1e8671aa2ae2e25e",
		clientConfirm: "a4ebca656fbbd1f97fe43b96cb2d9d6aaa220f3c333269699380189fcd8ec653fc78e1e1976df59950fe5ddebf66b4c8",
		serverConfirm: "e37b7e88e6d697157f5d2873a3471f97da0e587fbe63b68a0b30dd220c2aa9088f53bcb3224e6d3b007f14ab2f316c45",
		clientTraffic: "a55ea25e06771a1b1344a345095d83081fe4fa633c290e753d65c3030ebf4d8cb44638438a2a841cc432cdcbddeea57e",
		serverTraffic: "ed562876700638a1e0b10d1bf6057be681692ef865b836cfa1df0eeeefa61ae3371c683722e6199bde3f3ad21965eb7c",
		serverHello: "03030030000004c76f2283dda95cd49b0ed9e733d2904474e37216f124e13d2c9ab4cf01021c49ad9cabb3d0b97499aef2f0ab313fa02826bc1f83451b5c8962" +
			"a75caff73588d4400a6296436154fb343c393e91048a6c7bcbadc83cd8a5f26feae883156f92a1",
		clientHello: "00030000040004db89855d1980b2aacdec0752249bea9e0630c16b69c095f6c752b2547b520d8109511d908881491780594f03cfee8a0a8ca0eb1e634971e4c6" +
			"fc551ca684edc32994c9068fc83964eb7ada3bbb9b1f2469d57da6460ba7462d4d3b9e9a4fe421ebe4cc1ac3c21d5abeb704e1222aeca1506ff04f1f48145b39" +
			"a795a3356645b3c5c6b72e5cc0ad27a4f5875d52fa7f8e",
		serverFinish: "0018392ae1f9a38666c0cd56c2844dc7756a34d952438a33171e74c9520acba9f33d51e82e7d1789479bc21f2a9a0b903f",
		clientRecords: []string{
			"c0c0c0c0c0c0c0c0c0c0c0c03dd2f29fb0ffd5d1723735435553a9e5bedc93c0511d215945202e",
			"c1c1c1c1c1c1c1c1c1c1c1c18db6147b18ac87e849cc6b85b22b46cf2318a2dba3a4735158eefa",
			"c2c2c2c2c2c2c2c2c2c2c2c214e6e2d31555100641ffe24abeed2fed71a90436d592fa79e48728",
		},
		serverRecords: []string{
			"50505050505050505050505000474d094ba6cca4cb8ef2ddf66c448bb39e9ebacdb377945e96b4",
			"515151515151515151515151cb49708ff0efa6f436a861b70b0bb68b60a0aa9ef2a9019a6979f0",
			"525252525252525252525252afdbf37bae0084e90b988a80112a6bc0b89792a98dc62d4bae1176",
		},
	},
	{
		what: "no secret, a name that is not ASCII, and a shared x-coordinate that begins with a zero byte",
		name: "wétter ☂", secret: "",
		serverKey:   "0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f30",
		clientKey:   "3132333435363738393a3b3c3d3e3f404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c000001bc",
		serverLimit: 1073741824, clientLimit: 65536,
		z:             "00d8fe955c4fb7f4bcf4e26deba7e5c3785948fbf9489f9d05ca79699bc57b7e236a5ab6789db877b5a0659e60a74bc1",
		th:            "1fc59249ba2b64405d95ad78151f41a8b1d6fa9004f752f49652abd55dc14f25f91fac68827730cf9a0f830ddd9e9db7",
		clientConfirm: "eefe4174905845ec01cf1d5e4195db496d8ab45c01fe1d4cd281aa920465c34331545df08101de3d5941fd9cddaa2b5d",
		serverConfirm: "ea592ded1ac06c5160a3ce19bdac69c1500aa1f359d6b98ee0201c1b94facf1dfa2aa61ae54d4234b0bd0453be01cdbf",
		clientTraffic: "908e5f4a081af23f9231a96ae896f5f7a9474f77d96cc6599ca9e7d6f29aa1ca683f50f99b70fb96dfab85796cf020a4",
		serverTraffic: "b1d2855be56081a89426518c97a739180e42c48cf95c409dc0f3803f9922ae4c0f3344b99d57bf20ce9106b6bdd40650",
		serverHello: "03014000000004c76f2283dda95cd49b0ed9e733d2904474e37216f124e13d2c9ab4cf01021c49ad9cabb3d0b97499aef2f0ab313fa02826bc1f83451b5c8962" +
			"a75caff73588d4400a6296436154fb343c393e91048a6c7bcbadc83cd8a5f26feae883156f92a1",
		clientHello: "0001000100000454077ac7ad080ebaf9d480b76a220f6f503ff8ded487a6ff62afc90d7def18e2377e4488884defcb42b28cfe515a11e557b20dff1dae7541e8" +
			"3ce775c5a060cec6cc40985f2e649496b42b8c2ce48e28f965288da6e80abfea670357b4a842756418fe651845963671fbd88a2fd20d1b49f6717f83cb5991b7" +
			"a0c79ebd65214d2142ea0868a8dc8387a24a14ede9c8e1",
		serverFinish: "00c575b37c795f0d1bf1e75803208e2d3a7b36d2b2130ee55952333a03a4fa1cc4a34750524cd11f1ef81f11e6c811c7de",
		clientRecords: []string{
			"c0c0c0c0c0c0c0c0c0c0c0c0540c5d1bb7a5436f21f1d0604a6c3fabe1835f28b413cfea6a9cfd",
			"c1c1c1c1c1c1c1c1c1c1c1c1b21c22c369e534ada4535ccca886717ee66a37d9b75331e88baa89",
			"c2c2c2c2c2c2c2c2c2c2c2c2d63002a19e557dcba0b1544a2c914a1e275eedb20feff616872e83",
		},
		serverRecords: []string{
			"50505050505050505050505030a785292c6924b2fd37f06ed56d0ca398726b78f2e5fbd39fad63",
			"515151515151515151515151400d7d11b3bffef32470ff08781190aebbc73a0fd9e827139d325d",
			"52525252525252525252525290288d97d15595e4608183d6ca573f6dab91094664dfe063437e8a",
		},
	},
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func privateKey(t testing.TB, scalar string) *ecdh.PrivateKey {
	t.Helper()
	k, err := ecdh.P384().NewPrivateKey(unhex(t, scalar))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKeyScheduleKnownAnswers(t *testing.T) {
	t.Parallel()
	for _, v := range knownAnswers {
		t.Run(v.what, func(t *testing.T) {
			same := func(what string, got []byte, want string) {
				t.Helper()
				if hex.EncodeToString(got) != want {
					t.Errorf("%s is\n%x, want\n%s", what, got, want)
				}
			}
			z, err := privateKey(t, v.serverKey).ECDH(privateKey(t, v.clientKey).PublicKey())
			if err != nil {
				t.Fatal(err)
			}
			same("Z", z, v.z)
			clientHello := unhex(t, v.clientHello)
			th := transcript(v.name, unhex(t, v.serverHello), clientHello[:103])
			same("TH", th, v.th)
			k, err := newSessionKeys(unhex(t, v.secret), z, th)
			if err != nil {
				t.Fatal(err)
			}
			same("ck", k.clientConfirmKey, v.clientConfirm)
			same("sk", k.serverConfirmKey, v.serverConfirm)
			same("cs", k.clientTrafficSecret, v.clientTraffic)
			same("ss", k.serverTrafficSecret, v.serverTraffic)
			same("client confirmation", k.clientConfirmation(), v.clientHello[2*103:])
			same("server confirmation", k.serverConfirmation(k.clientConfirmation()), v.serverFinish[2*1:])

			client, server, err := k.ciphers()
			if err != nil {
				t.Fatal(err)
			}
			openKnown(t, "client", client, v.clientRecords)
			openKnown(t, "server", server, v.serverRecords)
		})
	}
}

// openKnown opens records of a known answer, without their lengths: two under the
// first key, one under the next. What they contain is no frame.
func openKnown(t *testing.T, who string, c *recordCipher, records []string) {
	t.Helper()
	c.rekeyLimit = 64
	for i, f := range records {
		plain, err := c.open(nil, unhex(t, f))
		want := append(binary.BigEndian.AppendUint32(nil, uint32(i+1)), fmt.Sprintf("frame %d", i)...)
		if err != nil || !bytes.Equal(plain, want) {
			t.Errorf("%s's record %d: %q, %v, want %q", who, i, plain, err, want)
		}
	}
	if len(records) != 3 || c.rekeyCount() != 1 {
		t.Errorf("%s: %d records and %d changes of the key, want 3 and 1", who, len(records), c.rekeyCount())
	}
}

// Whatever goes into the schedule changes every key that comes out.
func TestKeyScheduleBindsEverything(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	add := func(what string, psk, z []byte, name, serverHello, clientHello string) {
		k, err := newSessionKeys(psk, z, transcript(name, []byte(serverHello), []byte(clientHello)))
		if err != nil {
			t.Fatal(err)
		}
		for kind, b := range map[string][]byte{"ck": k.clientConfirmKey, "sk": k.serverConfirmKey, "cs": k.clientTrafficSecret, "ss": k.serverTrafficSecret} {
			if other, ok := seen[string(b)]; ok {
				t.Errorf("%s of %q is also %s", kind, what, other)
			}
			seen[string(b)] = kind + " of " + what
		}
	}
	psk, z := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 48)
	add("base", psk, z, "name", "SERVER", "CLIENT")
	add("no secret", nil, z, "name", "SERVER", "CLIENT")
	add("other secret", bytes.Repeat([]byte{3}, 32), z, "name", "SERVER", "CLIENT")
	add("other point", psk, bytes.Repeat([]byte{4}, 48), "name", "SERVER", "CLIENT")
	add("other name", psk, z, "nbme", "SERVER", "CLIENT")
	add("longer name", psk, z, "nameS", "ERVER", "CLIENT")
	add("other server hello", psk, z, "name", "SERVES", "CLIENT")
	add("other client hello", psk, z, "name", "SERVER", "CLIENU")
	if len(seen) != 8*4 {
		t.Errorf("%d different keys, want %d", len(seen), 8*4)
	}
}

// cipherPair returns the two ends of one direction.
func cipherPair(t testing.TB, secret byte, rekeyAt uint64) (out, in *recordCipher) {
	t.Helper()
	for _, c := range []**recordCipher{&out, &in} {
		*c = newRecordCipher(bytes.Repeat([]byte{secret}, hashLen))
		noError(t, (*c).prepareKey()) // some tests seal by hand
		(*c).rekeyLimit = rekeyAt
	}
	return out, in
}

// mustSeal returns a record without its length.
func mustSeal(t testing.TB, c *recordCipher, plain string) []byte {
	t.Helper()
	record, err := c.seal(nil, []byte(plain))
	if err != nil {
		t.Fatal(err)
	}
	if n := binary.BigEndian.Uint32(record); int(n) != len(record)-4 || int(n) != len(plain)+28 {
		t.Fatalf("the length field is %d, of %d bytes with %d of plaintext", n, len(record), len(plain))
	}
	return record[4:]
}

func mustOpen(t testing.TB, c *recordCipher, sealed []byte, want string) {
	t.Helper()
	if plain, err := c.open(nil, sealed); err != nil || string(plain) != want {
		t.Fatalf("opened %q, %v, want %q", plain, err, want)
	}
}

// mustNotOpen wants ErrNotAuthentic, and no data: neither returned nor left behind.
func mustNotOpen(t testing.TB, c *recordCipher, sealed []byte, plain string) {
	t.Helper()
	dst := make([]byte, 0, len(sealed)+64)
	got, err := c.open(dst, sealed)
	if !errors.Is(err, ErrNotAuthentic) || got != nil {
		t.Fatalf("opened %q, %v, want ErrNotAuthentic", got, err)
	}
	if bytes.Contains(dst[:cap(dst)], []byte(plain)) {
		t.Fatal("plaintext is left in dst")
	}
}

func TestSealOpen(t *testing.T) {
	t.Parallel()
	out, in := cipherPair(t, 1, rekeyAfter)
	for _, n := range []int{0, 1, 4, 15, 16, 17, 1024, 1 << 16, 3 << 20} {
		plain := bytes.Repeat([]byte{byte(n + 1)}, n)
		sealed, err := out.seal([]byte("before"), plain)
		if err != nil || len(sealed) != 6+4+n+28 || string(sealed[:6]) != "before" || binary.BigEndian.Uint32(sealed[6:]) != uint32(n+28) {
			t.Fatalf("%d bytes sealed to %d, %v", n, len(sealed), err)
		}
		got, err := in.open([]byte("before"), sealed[10:])
		if err != nil || string(got[:6]) != "before" || !bytes.Equal(got[6:], plain) {
			t.Fatalf("%d bytes opened to %d, %v", n, len(got), err)
		}
	}
	a, b := mustSeal(t, out, "same"), mustSeal(t, out, "same")
	if bytes.Equal(a[:12], b[:12]) {
		t.Error("two records have one nonce")
	}
}

func TestOpenRefusesWhatWasNotSealedNext(t *testing.T) {
	t.Parallel()
	const first, second = "the first record", "the second record"
	t.Run("replay", func(t *testing.T) {
		out, in := cipherPair(t, 1, rekeyAfter)
		f := mustSeal(t, out, first)
		mustOpen(t, in, f, first)
		mustNotOpen(t, in, f, first)
	})
	t.Run("reorder", func(t *testing.T) {
		out, in := cipherPair(t, 1, rekeyAfter)
		mustSeal(t, out, first)
		mustNotOpen(t, in, mustSeal(t, out, second), second)
	})
	t.Run("drop", func(t *testing.T) {
		out, in := cipherPair(t, 1, rekeyAfter)
		mustOpen(t, in, mustSeal(t, out, first), first)
		mustSeal(t, out, first)
		mustNotOpen(t, in, mustSeal(t, out, second), second)
	})
	t.Run("reflection", func(t *testing.T) {
		k, err := newSessionKeys(nil, make([]byte, hashLen), make([]byte, hashLen))
		if err != nil {
			t.Fatal(err)
		}
		client, _, err := k.ciphers()
		if err != nil {
			t.Fatal(err)
		}
		_, server, err := k.ciphers()
		if err != nil {
			t.Fatal(err)
		}
		mustNotOpen(t, server, mustSeal(t, client, first), first)
	})
	t.Run("another connection", func(t *testing.T) {
		out, _ := cipherPair(t, 1, rekeyAfter)
		_, in := cipherPair(t, 2, rekeyAfter)
		mustNotOpen(t, in, mustSeal(t, out, first), first)
	})
	t.Run("additional data", func(t *testing.T) {
		for bit := range 64 {
			out, in := cipherPair(t, 1, rekeyAfter)
			in.sequence ^= 1 << bit
			mustNotOpen(t, in, mustSeal(t, out, first), first)
		}
		// The number as the wire has it: big-endian.
		c, in := cipherPair(t, 1, rekeyAfter)
		in.sequence = 0x0102030405060708
		mustOpen(t, in, c.aead.Seal(nil, nil, []byte(first), []byte{1, 2, 3, 4, 5, 6, 7, 8}), first)
	})
	t.Run("a flipped bit", func(t *testing.T) {
		out, in := cipherPair(t, 1, rekeyAfter)
		f := mustSeal(t, out, first)
		for bit := range 8 * len(f) {
			f[bit/8] ^= 1 << (bit % 8)
			mustNotOpen(t, in, f, first)
			f[bit/8] ^= 1 << (bit % 8)
		}
		mustOpen(t, in, f, first) // the record was good, and a refusal does not count
	})
	t.Run("another length", func(t *testing.T) {
		out, in := cipherPair(t, 1, rekeyAfter)
		f := mustSeal(t, out, first)
		for n := range f {
			mustNotOpen(t, in, f[:n], first)
		}
		mustNotOpen(t, in, append(f[:len(f):len(f)], 0), first)
		mustOpen(t, in, f, first)
	})
}

func TestRekey(t *testing.T) {
	t.Parallel()
	if c := newRecordCipher(make([]byte, hashLen)); c.rekeyLimit != 1<<32 {
		t.Errorf("the key changes at %d, want 2^32", c.rekeyLimit)
	}
	if c := newRecordCipher(make([]byte, hashLen)); c.aead != nil || mustSeal(t, c, "data") == nil || c.aead == nil {
		t.Error("the AEAD is not made for the first record")
	}
	// Records of 4 bytes have a length field of 32: the third reaches 96 exactly.
	out, in := cipherPair(t, 1, 96)
	for i := range uint64(20) {
		if want := i / 3; out.rekeyCount() != want || in.rekeyCount() != want || out.sequence != i || in.sequence != i {
			t.Fatalf("before record %d: keys changed %d and %d times, want %d; numbers %d and %d", i, out.rekeyCount(), in.rekeyCount(), want, out.sequence, in.sequence)
		}
		mustOpen(t, in, mustSeal(t, out, "data"), "data")
	}
	if out.sealedBytes != 2*32 || in.sealedBytes != 2*32 {
		t.Errorf("the sums are %d and %d, want 64", out.sealedBytes, in.sealedBytes)
	}
	// One byte more to go, and the third record does not change the key.
	out, in = cipherPair(t, 1, 97)
	for range 3 {
		mustOpen(t, in, mustSeal(t, out, "data"), "data")
	}
	if out.rekeyCount() != 0 || in.rekeyCount() != 0 {
		t.Error("the key changed before its time")
	}
	// Sides that change at different records do not understand each other.
	out, in = cipherPair(t, 1, 32)
	in.rekeyLimit = 33
	mustOpen(t, in, mustSeal(t, out, "data"), "data")
	mustNotOpen(t, in, mustSeal(t, out, "data"), "data")
	// A record over the threshold changes it once.
	out, in = cipherPair(t, 1, 40)
	mustOpen(t, in, mustSeal(t, out, string(make([]byte, 400))), string(make([]byte, 400)))
	mustOpen(t, in, mustSeal(t, out, "data"), "data")
	if out.rekeyCount() != 1 || in.rekeyCount() != 1 || out.sealedBytes != 32 {
		t.Errorf("the keys changed %d and %d times and the sum is %d, want 1, 1 and 32", out.rekeyCount(), in.rekeyCount(), out.sealedBytes)
	}
}

func TestLastSequenceNumber(t *testing.T) {
	t.Parallel()
	out, in := cipherPair(t, 1, rekeyAfter)
	out.sequence, in.sequence = math.MaxUint64-2, math.MaxUint64-2
	mustOpen(t, in, mustSeal(t, out, "last but one"), "last but one")
	mustOpen(t, in, mustSeal(t, out, "last"), "last") // under 2^64-2
	for range 2 {
		if sealed, err := out.seal([]byte("before"), []byte("none")); err != errSequenceExhausted || sealed != nil {
			t.Errorf("sealed %x under number 2^64-1: %v", sealed, err)
		}
	}
	if errors.Is(errSequenceExhausted, ErrNotConnected) || errors.Is(errSequenceExhausted, ErrUnconfirmed) {
		t.Errorf("%v is a cause, and says nothing of a message", errSequenceExhausted)
	}
	// A record that is authentic under it is refused as well.
	last := out.aead.Seal(nil, nil, []byte("none"), bytes.Repeat([]byte{0xff}, 8))
	mustNotOpen(t, in, last, "none")
	if in.sequence != math.MaxUint64 || out.sequence != math.MaxUint64 {
		t.Error("the numbers went on")
	}
}

func TestSealAndOpenDoNotAllocate(t *testing.T) {
	out, in := cipherPair(t, 1, rekeyAfter)
	plain, sealed, opened := make([]byte, 1<<16), make([]byte, 0, 1<<17), make([]byte, 0, 1<<16)
	if n := testing.AllocsPerRun(100, func() {
		s, err := out.seal(sealed, plain)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := in.open(opened, s[4:]); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations to seal and open a record, want 0", n)
	}
}

// ---- Frames and records by hand

// plainFrame is a frame in plaintext.
func plainFrame(typ uint32, data []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(4+len(data)))
	return append(binary.BigEndian.AppendUint32(b, typ), data...)
}

// record is a record with this plaintext.
func record(c *recordCipher, plain ...byte) []byte {
	b, err := c.seal(nil, plain)
	if err != nil {
		panic(err)
	}
	return b
}

// TestLastSequenceNumberEndsTheConnection: a sender that has used its last number
// ends the connection without a close, as a loss that it declares.
func TestLastSequenceNumberEndsTheConnection(t *testing.T) {
	s, c := socketEnds(t, ServerConfig{}, ClientConfig{})
	skipStatus(t, c, 2)
	skipStatus(t, s, 1)
	c.currentConn.Load().sender.cipher.sequence = math.MaxUint64
	if err := c.Write(1, []byte("x")); !errors.Is(err, ErrNotConnected) || errors.Is(err, ErrUnconfirmed) {
		t.Errorf("%v, want ErrNotConnected", err)
	}
	if m, err := c.ReadTimed(10 * time.Second); err != nil || !m.Is(ReConnecting) || !errors.Is(m.Err, errSequenceExhausted) {
		t.Errorf("%+v, %v, want Reconnecting", m, err)
	}
	if m, err := s.ReadTimed(10 * time.Second); err != nil || !m.Is(Disconnected) || !errors.Is(m.Err, ErrTruncated) {
		t.Errorf("%+v, %v, want Disconnected without a close", m, err)
	}
}

// secretsOf returns n secrets, by the identities "0", "1", ...
func secretsOf(n int) map[string][]byte {
	secrets := map[string][]byte{}
	for i := range n {
		secrets[fmt.Sprint(i)] = fmt.Appendf(nil, "%032d", i+1)
	}
	return secrets
}

// TestSecretsRefused: every config of Secrets that cannot be, and that no text shows one.
func TestSecretsRefused(t *testing.T) {
	clearEnvironment(t)
	good := func(n int) []byte { return secretsOf(n + 1)[fmt.Sprint(n)] }
	for _, c := range []struct {
		field  string
		config ServerConfig
	}{
		{"Secrets is empty", ServerConfig{Secrets: map[string][]byte{}}},
		{`Secrets is an entry with the key ""`, ServerConfig{Secrets: map[string][]byte{"": good(0)}}},
		{`Secrets["a"] is 31 bytes long`, ServerConfig{Secrets: map[string][]byte{"a": good(0)[:31]}}},
		{`Secrets["a"] is 0 bytes long`, ServerConfig{Secrets: map[string][]byte{"a": nil, "b": good(0)}}},
		{`Secrets["a"] is all zeros`, ServerConfig{Secrets: map[string][]byte{"a": make([]byte, 40)}}},
		{`Secrets["b"] is the same as Secrets["a"]`, ServerConfig{Secrets: map[string][]byte{"b": good(0), "a": good(0)}}},
		{`Secrets["a"] is the same as Secret`, ServerConfig{Secret: good(0), Secrets: map[string][]byte{"a": good(0)}}},
		{"Secrets is 257 entries", ServerConfig{Secrets: secretsOf(257)}},
		{"EncryptionOff and Secrets is set", ServerConfig{Secrets: secretsOf(1), Encryption: EncryptionOff}},
	} {
		c.config.Name, c.config.Network = "n", "unix"
		s, err := c.config.settings()
		if s != nil || !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), c.field) {
			t.Errorf("%v, want ErrConfig with %q", err, c.field)
			continue
		}
		for _, secret := range c.config.Secrets {
			if len(secret) > 0 && strings.Contains(err.Error(), string(secret)) {
				t.Errorf("the text shows a secret: %q", err)
			}
		}
	}
	for _, c := range []ServerConfig{
		{Secrets: secretsOf(256)},
		{Secret: testSecret, Secrets: secretsOf(256)},
		{Secret: testSecret, Secrets: map[string][]byte{}}, // Secret is required, and nobody is served without it
		{Network: "tcp", Address: "0.0.0.0:0", Secrets: secretsOf(1)},
	} {
		c.Name = "n"
		if _, err := c.settings(); err != nil {
			t.Errorf("%d entries: %v", len(c.Secrets), err)
		}
	}
}

// TestSecretsIdentity: the client that proves a secret is who has it, whichever it is,
// and nobody else is served.
func TestSecretsIdentity(t *testing.T) {
	t.Parallel()
	secrets := secretsOf(256)
	for _, own := range [][]byte{nil, testSecret} {
		config := ServerConfig{MultiClient: true, Secret: own, Secrets: map[string][]byte{}}
		for identity, secret := range secrets {
			config.Secrets[identity] = bytes.Clone(secret)
		}
		config.Authorize = func(p Peer) error {
			if p.Identity != "" {
				t.Errorf("Authorize knows %q before anything is proved", p.Identity)
			}
			return nil
		}
		s, conns := startPiped(t, config)
		for _, secret := range config.Secrets { // the server has its own copy
			clear(secret)
		}
		clear(config.Secrets)
		visit := func(secret []byte) (string, error) {
			client, err := dialPiped(ClientConfig{Secret: secret}, conns)
			if err != nil {
				return "", err
			}
			if err := client.Write(1, nil); err != nil {
				t.Error(err)
			}
			defer func() {
				client.Close()
				if !client.Security().Hybrid {
					t.Error("Security forgets the last connection")
				}
			}()
			for member, m := range s.Connections.Messages(context.Background()) {
				if m.MsgType == 1 {
					if !member.Security().Secret || !client.Security().Secret {
						t.Error("Security knows of no secret")
					}
					return member.Peer().Identity, nil
				}
			}
			return "", errors.New("the server is closed")
		}
		for _, identity := range []string{"0", "1", "17", "254", "255"} {
			if got, err := visit(secrets[identity]); got != identity || err != nil {
				t.Errorf("%q is %q, %v", identity, got, err)
			}
		}
		if got, err := visit(testSecret); own != nil && (got != "" || err != nil) || own == nil && !errors.Is(err, ErrSecret) {
			t.Errorf("the holder of Secret is %q, %v", got, err)
		}
		for _, wrong := range [][]byte{append(bytes.Clone(testSecret), 1), nil, append(bytes.Clone(secrets["3"]), 0)} {
			if _, err := visit(wrong); !errors.Is(err, ErrSecret) {
				t.Errorf("a stranger: %v", err)
			}
		}
		eventually(t, "the strangers are counted, after their refusals were written", func() bool { return s.Stats().Refused >= 3 })
	}
}

// newSessionKeys computes the whole key schedule. psk is empty without a secret.
func newSessionKeys(psk, z, th []byte) (*sessionKeys, error) {
	h, err := newSecretHolder("", psk)
	if err != nil {
		return nil, err
	}
	k, err := deriveConfirmKey(h.salt, z, th)
	if err != nil {
		return nil, err
	}
	return k, errors.Join(k.deriveServerConfirmKey(), k.deriveTrafficSecrets())
}

// TestSecretsTryEach: the keys are those of the holder whose confirmation it is.
func TestSecretsTryEach(t *testing.T) {
	t.Parallel()
	var holders []secretHolder
	z, th := bytes.Repeat([]byte{1}, 80), bytes.Repeat([]byte{2}, hashLen)
	for i := range 5 {
		h, err := newSecretHolder(fmt.Sprint(i), secretsOf(5)[fmt.Sprint(i)])
		if err != nil {
			t.Fatal(err)
		}
		holders = append(holders, h)
	}
	for i, h := range holders {
		k, err := deriveConfirmKey(h.salt, z, th)
		if err != nil {
			t.Fatal(err)
		}
		want, err := newSessionKeys(secretsOf(5)[h.identity], z, th)
		if err != nil {
			t.Fatal(err)
		}
		got, identity, err := findHolder(holders, z, th, k.clientConfirmation())
		if got == nil || err != nil || identity != fmt.Sprint(i) || !bytes.Equal(got.masterSecret, want.masterSecret) || !bytes.Equal(got.serverConfirmKey, want.serverConfirmKey) {
			t.Errorf("holder %d: %q, %v", i, identity, err)
		}
		others := slices.Delete(slices.Clone(holders), i, i+1)
		if k, identity, err := findHolder(others, z, th, k.clientConfirmation()); k != nil || identity != "" || err != nil {
			t.Errorf("without holder %d: %q, %v", i, identity, err)
		}
	}
}

// TestSecretsComputeInTurn: many tries are work, which waits for its turn; one is not.
func TestSecretsComputeInTurn(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]int{0: 2, 1: 3, 2: 3} { // beside Secret
		config := ServerConfig{Name: "test", Network: "unix", Secret: testSecret, Secrets: secretsOf(n)}
		s, err := config.settings()
		if err != nil {
			t.Fatal(err)
		}
		works := 0
		work := func(f func() error) error { works++; return f() }
		toServer, toClient := newMemStream(0, nil), newMemStream(0, nil)
		done := make(chan error, 1)
		go func() {
			c, err := clientHello(memConn{toClient, toServer}, hybridTerms(testSecret), clientSide{newKey: newECDHKey})
			if err == nil {
				_, err = c.readFinish()
			}
			done <- err
		}()
		session, err := serverHandshake(memConn{toServer, toClient}, &s.handshakeConfig, serverSide{newKey: newECDHKey, admit: func() byte { return 0 }, compute: work})
		toClient.end()
		if cerr := <-done; err != nil || cerr != nil || session.identity != "" {
			t.Fatalf("%d secrets: %v, %v", n, err, cerr)
		}
		if works != want {
			t.Errorf("%d secrets: work was asked for %d times, want %d", n, works, want)
		}
	}
}

// BenchmarkStranger is what a stranger's confirmation costs a server with so many secrets,
// beside the key agreement.
func BenchmarkStranger(b *testing.B) {
	for _, n := range []int{1, 16, 256} {
		var holders []secretHolder
		for identity, secret := range secretsOf(n) {
			h, err := newSecretHolder(identity, secret)
			if err != nil {
				b.Fatal(err)
			}
			holders = append(holders, h)
		}
		b.Run(fmt.Sprint(n, " secrets"), func(b *testing.B) {
			z, th, confirmation := make([]byte, 80), make([]byte, hashLen), make([]byte, hashLen)
			for b.Loop() {
				if k, _, _ := findHolder(holders, z, th, confirmation); k != nil {
					b.Fatal("proved")
				}
			}
		})
	}
}
