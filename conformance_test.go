// The vectors of spec/vectors through the code in both roles, byte for byte,
// and the ids of spec/README.md against what cites them.

package gipc

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/mlkem"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/gipc/internal/testutil"
	"example.com/gipc/internal/transport"
)

// ---- Loading

// A vector is one file: what stands once, and the lines of the key that may
// stand several times.
type vector struct {
	name   string
	fields map[string]string
	lines  []string
}

// vectorKeys are the keys of each kind of test, beside the four that all have;
// the one with a star may be repeated.
var vectorKeys = map[string]string{
	"handshake": "name secret encryption client_encryption server_private client_private server_limit client_limit rekey_at " +
		"kem_seed kem_randomness shared_x kem_key kem_ciphertext kem_secret transcript_hash client_confirm_key server_confirm_key client_traffic server_traffic client_key server_key " +
		"server_hello client_hello server_finish frame* record*",
	"frame":   "limit frame type id data fails_after",
	"record":  "key sequence plaintext nonce sealed",
	"server":  "name secret encryption server_private server_limit kem_seed kem_key kem_secret admit client_sends then server_writes rest",
	"client":  "name secret client_encryption client_private client_limit kem_randomness kem_ciphertext kem_secret server_sends then client_writes rest",
	"receive": "traffic_secret sequence rekey_at limit sent_close stream then delivers* fails_after",
	"session": "in_secret out_secret limit step*",
	"config":  "name secret",
}

var vectorExpects = regexp.MustCompile(`^(ok|handshake (refuse \d+|refused \d+|unproven|truncated)|(frame|type|id|record|control|close) malformed|` +
	`record not-authentic|frame truncated-(inside|boundary)|close (received|undelivered)|config invalid)$`)

var citation = regexp.MustCompile(`^[A-Z]-\d+$`)

func parseVector(text string) (*vector, error) {
	v := &vector{fields: map[string]string{}}
	if !strings.HasSuffix(text, "\n") || strings.Contains(text, "\r") {
		return nil, errors.New("lines do not end in LF")
	}
	all := map[string][]string{}
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		key, value, ok := strings.Cut(line, ": ")
		if !ok || value == "" {
			return nil, fmt.Errorf("no key and value: %q", line)
		}
		all[key] = append(all[key], value)
	}
	kind := ""
	if k := all["test"]; len(k) == 1 {
		kind = k[0]
	}
	keys, ok := vectorKeys[kind]
	if !ok {
		return nil, fmt.Errorf("unknown test %q", kind)
	}
	for _, key := range strings.Fields("comment cites test expect " + keys) {
		bare, repeats := strings.CutSuffix(key, "*")
		values := all[bare]
		delete(all, bare)
		switch {
		case repeats:
			v.lines = append(v.lines, values...)
		case len(values) != 1:
			return nil, fmt.Errorf("key %q stands %d times", key, len(values))
		default:
			v.fields[key] = values[0]
		}
	}
	for key := range all {
		return nil, fmt.Errorf("unknown key %q", key)
	}
	if e := v.fields["expect"]; !vectorExpects.MatchString(e) {
		return nil, fmt.Errorf("unknown expect %q", e)
	}
	for id := range strings.FieldsSeq(v.fields["cites"]) {
		if !citation.MatchString(id) {
			return nil, fmt.Errorf("cites %q", id)
		}
	}
	return v, nil
}

// loadVectors returns the vectors of one kind of test, or all.
func loadVectors(t testing.TB, kind string) (found []*vector) {
	t.Helper()
	paths, err := filepath.Glob("spec/vectors/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		v, err := parseVector(string(text))
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		v.name = strings.TrimSuffix(filepath.Base(path), ".txt")
		if kind == "" || v.fields["test"] == kind {
			found = append(found, v)
		}
	}
	if len(found) == 0 {
		t.Fatalf("spec/vectors has no vector for %q", kind)
	}
	return found
}

func (v *vector) bytes(t testing.TB, key string) []byte {
	t.Helper()
	text, ok := v.fields[key]
	if !ok {
		t.Fatalf("no field %q", key)
	}
	return dashed(t, text)
}

func dashed(t testing.TB, text string) []byte {
	t.Helper()
	if text == "-" {
		return nil
	}
	return unhex(t, text)
}

func (v *vector) number(t testing.TB, key string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(v.fields[key], 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	return n
}

// choice says whether the field has the first of two values.
func (v *vector) choice(t testing.TB, key, yes, no string) bool {
	t.Helper()
	if got := v.fields[key]; got != yes && got != no {
		t.Fatalf("%s is %q, neither %q nor %q", key, got, yes, no)
	}
	return v.fields[key] == yes
}

func TestVectorLoaderIsStrict(t *testing.T) {
	t.Parallel()
	good := "comment: c\ncites: N-1\ntest: config\nexpect: ok\nname: 77\nsecret: -\n"
	if _, err := parseVector(good); err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{
		"empty":         "",
		"unknown key":   good + "nam: 77\n",
		"missing key":   strings.Replace(good, "name: 77\n", "", 1),
		"twice":         good + "name: 77\n",
		"no value":      strings.Replace(good, "name: 77", "name: ", 1),
		"unknown test":  strings.Replace(good, "config", "confug", 1),
		"no test":       strings.Replace(good, "test: config\n", "", 1),
		"other expect":  strings.Replace(good, "ok", "okay", 1),
		"cites no id":   strings.Replace(good, "N-1", "N1", 1),
		"no last LF":    strings.TrimSuffix(good, "\n"),
		"CR":            strings.ReplaceAll(good, "\n", "\r\n"),
		"line of chaff": good + "chaff\n",
	} {
		if _, err := parseVector(text); err == nil {
			t.Errorf("%s: loaded", what)
		}
	}
}

// ---- A second implementation of a direction, from the standard library alone

type chain struct {
	secret            []byte
	seq, sum, rekeyAt uint64
}

func (c *chain) expand(info string, n int) []byte {
	b, err := hkdf.Expand(sha512.New384, c.secret, info, n)
	if err != nil {
		panic(err)
	}
	return b
}

// next returns the cipher and the additional data of the next frame, whose
// length field says n.
func (c *chain) next(n int) (block cipher.Block, ad []byte) {
	block, err := aes.NewCipher(c.expand("gipc/3 key", 32))
	if err != nil {
		panic(err)
	}
	ad = binary.BigEndian.AppendUint64(nil, c.seq)
	c.seq++
	if c.sum += uint64(n); c.sum >= c.rekeyAt {
		c.secret, c.sum = c.expand("gipc/3 update", 48), 0
	}
	return block, ad
}

// seals says whether the plaintext, sealed with the nonce, is the frame. A chain
// without a secret is plaintext.
func (c *chain) seals(nonce, plain, frame []byte) bool {
	if c.secret == nil {
		return bytes.Equal(append(binary.BigEndian.AppendUint32(nil, uint32(len(plain))), plain...), frame)
	}
	n := len(plain) + 28
	own := append(binary.BigEndian.AppendUint32(nil, uint32(n)), nonce...)
	before := *c
	block, ad := c.next(n)
	if own = sealFixed(block, own, nonce, plain, ad); own != nil {
		return bytes.Equal(own, frame)
	}
	opened, err := before.open(frame)
	return err == nil && bytes.Equal(opened, plain) && bytes.Equal(frame[4:16], nonce)
}

// sealFixed seals with a given nonce, which a process that is held to approved
// cryptography alone does not do: the result is then nil, and opening says as
// much, since nonce and plaintext have one sealed form.
func sealFixed(block cipher.Block, dst, nonce, plain, ad []byte) []byte {
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil
	}
	return aead.Seal(dst, nonce, plain, ad)
}

// openAny opens nonce, ciphertext and tag.
func openAny(block cipher.Block, sealed, ad []byte) ([]byte, error) {
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return aead.Open(nil, nil, sealed, ad)
}

// open returns the plaintext of a whole frame.
func (c *chain) open(frame []byte) ([]byte, error) {
	if len(frame) < 4 || uint64(binary.BigEndian.Uint32(frame)) != uint64(len(frame)-4) {
		return nil, fmt.Errorf("the length does not fit %d bytes", len(frame))
	}
	if c.secret == nil {
		return frame[4:], nil
	}
	if len(frame) < 36 {
		return nil, fmt.Errorf("a sealed frame of %d bytes", len(frame))
	}
	block, ad := c.next(len(frame) - 4)
	return openAny(block, frame[4:], ad)
}

// ---- Driving the receiving half by hand

var testBuffers = new(bufferPool)

// newReceiver is a connection that is fed by hand. It sends nothing.
func newReceiver(cipher *recordCipher, limit int) *connection {
	c := &connection{closeHandshake: new(closeHandshake), delivery: new(delivery), decoder: &decoder{cipher: cipher, maxDataSize: limit, buffers: testBuffers}, heartbeat: newHeartbeat(0)}
	c.sender = newSender(transport.NewSink(nil, nil, nil), limit, testBuffers, nil, new(sync.WaitGroup), func(error) {})
	c.sender.sendBroken = true
	return c
}

// drive gives the stream to a receiver in pieces, as reads of a socket would
// bring them, and returns what it delivers, and after how many bytes it failed.
// After its peer's close it stops, unless it has sent one itself.
func drive(c *connection, call *readCall, stream []byte, piece func() int) (got []Message, read int, err error) {
	call.destination.maxSize = unlimited
	m := new(Message)
	for {
		switch err := c.decodeMessage(call, m); err {
		case nil:
			got = append(got, Message{MsgType: m.MsgType, Data: bytes.Clone(m.Data), request: m.request})
			continue
		case errPeerClosed, errCloseAcked:
			if c.closeHandshake.protocolErr != nil || !c.closeHandshake.sentClose {
				return got, read, c.closeHandshake.protocolErr
			}
			continue
		case errNeedBytes:
		default:
			return got, read, err
		}
		if len(stream) == 0 {
			return got, read, nil
		}
		n := copy(c.decoder.Space(), stream[:min(max(piece(), 1), len(stream))])
		c.decoder.Received(n)
		read, stream = read+n, stream[n:]
	}
}

func pieces(n int) func() int { return func() int { return n } }

// held is the memory that a receiver keeps for what has arrived, in bytes.
func held(c *connection) int {
	n := 0
	if c.decoder.largePending {
		n = cap(c.decoder.largeFrame.data)
	}
	if b := c.decoder.input; b != nil { // an open record is in it
		n += cap(b.data)
	}
	return n
}

// appendFrame is a frame without an id as it is sent: in plaintext, or in records of
// its own.
func appendFrame(c *recordCipher, typ uint32, data []byte) []byte {
	return appendFrameID(c, typ, 0, data)
}

// appendFrameID is the same with an id, where bit 31 of the type is 1.
func appendFrameID(c *recordCipher, typ uint32, id uint64, data []byte) []byte {
	plain := appendFrameHeader(nil, frameHeader{frameType: typ, id: id, dataSize: len(data)})
	if c == nil {
		return append(plain, data...)
	}
	must := func(record []byte, err error) []byte {
		if err != nil {
			panic(err)
		}
		return record
	}
	if len(data) < largeDataSize {
		return must(c.seal(nil, append(plain, data...)))
	}
	return must(c.seal(must(c.seal(nil, plain)), data))
}

// typeAndData reads "TYPE DATA".
func typeAndData(t testing.TB, typ, data string) (uint32, []byte) {
	t.Helper()
	n, err := strconv.ParseUint(typ, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n), dashed(t, data)
}

// delivered reads "TYPE DATA" of a message and "TYPE DATA NUMBER" of a request.
func delivered(t testing.TB, f []string) Message {
	t.Helper()
	typ, data := typeAndData(t, f[0], f[1])
	m := Message{MsgType: int(typ), Data: data}
	if len(f) > 2 && f[2] != "" {
		m.request = &request{requestNumber: decimal(t, f[2])}
	}
	return m
}

func decimal(t testing.TB, text string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func sameMessages(got, want []Message) bool {
	return slices.EqualFunc(got, want, func(a, b Message) bool {
		return a.MsgType == b.MsgType && bytes.Equal(a.Data, b.Data) && requestNumber(&a) == requestNumber(&b)
	})
}

// requestNumber is the number of a request, and 0 for a message.
func requestNumber(m *Message) uint64 {
	if !m.IsRequest() {
		return 0
	}
	return m.request.requestNumber
}

// failureOf is the part of an expect behind its layer.
func failureOf(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, ErrMalformed):
		return "malformed"
	case errors.Is(err, ErrNotAuthentic):
		return "not-authentic"
	case errors.Is(err, ErrTruncated) && strings.Contains(err.Error(), "inside a frame"):
		return "truncated-inside"
	case errors.Is(err, ErrTruncated):
		return "truncated-boundary"
	}
	return err.Error()
}

// layers are what can be malformed, and how their errors say so.
var layers = []struct{ layer, says string }{
	{"frame", "a frame's length is"},
	{"frame", "the length of a frame with an id is"},
	{"frame", "a frame has"},
	{"type", "message type"},
	{"record", "a record's length is"},
	{"record", "a record ends inside a frame"},
	{"record", "bytes behind the head"},
	{"control", "control frame"},
	{"close", "unexpected close-ack"},
	{"id", "a reply to request 0"},
	{"id", ": request "},
}

// malformedLayer is the expect of a malformed input, or the text of an error that
// is none.
func malformedLayer(err error) string {
	if errors.Is(err, ErrMalformed) {
		for _, l := range layers {
			if strings.Contains(err.Error(), l.says) {
				return l.layer + " malformed"
			}
		}
	}
	return fmt.Sprint(err)
}

// ---- Both roles' handshakes, and frames

func (v *vector) serverTerms(t testing.TB) *handshakeConfig {
	return &handshakeConfig{name: string(v.bytes(t, "name")), secret: v.bytes(t, "secret"), encrypt: v.choice(t, "encryption", "on", "off"), hybrid: v.fields["kem_seed"] != "-", maxDataSize: int(v.number(t, "server_limit"))}
}

func (v *vector) clientTerms(t testing.TB) *handshakeConfig {
	return &handshakeConfig{name: string(v.bytes(t, "name")), secret: v.bytes(t, "secret"), encrypt: v.choice(t, "client_encryption", "required", "follow"), hybrid: v.fields["kem_randomness"] != "-", maxDataSize: int(v.number(t, "client_limit"))}
}

// fullHello is how long a hybrid ServerHello is, and ClientHello before its confirmation.
const fullHello = 6 + pointLen + mlkem.EncapsulationKeySize1024

// key returns the private key of a field, and nil where there is none.
func (v *vector) key(t testing.TB, field string) func() (*ecdh.PrivateKey, error) {
	if scalar := v.bytes(t, field); scalar != nil {
		return withKey(privateKey(t, hex.EncodeToString(scalar)))
	}
	return func() (*ecdh.PrivateKey, error) { return nil, errors.New("plaintext needs no key") }
}

// serverSide is the server that a vector describes.
func (v *vector) serverSide(t testing.TB, admit byte) serverSide {
	return serverSide{newKey: v.key(t, "server_private"), admit: func() byte { return admit }, compute: workNow,
		newKEMKey: func() (*mlkem.DecapsulationKey1024, error) {
			return mlkem.NewDecapsulationKey1024(v.bytes(t, "kem_seed"))
		}}
}

// clientSide is the client that a vector describes. What it encapsulates is given, since
// not every version of the standard library takes the randomness: what the server makes
// of the ciphertext shows that it is right.
func (v *vector) clientSide(t testing.TB) clientSide {
	return clientSide{newKey: v.key(t, "client_private"), encapsulate: func(*mlkem.EncapsulationKey1024) (shared, ciphertext []byte) {
		return v.bytes(t, "kem_secret"), v.bytes(t, "kem_ciphertext")
	}}
}

func TestVectorsHandshake(t *testing.T) {
	t.Parallel()
	for _, v := range loadVectors(t, "handshake") {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			for _, chunk := range []int{0, 1, 50} {
				v.handshake(t, chunk)
			}
			v.derived(t)
		})
	}
}

// A way is one direction between two sessions.
type way struct {
	out   *recordCipher // the library's
	in    *connection
	other chain // the same, of the second implementation
	check chain
}

func (v *vector) handshake(t *testing.T, chunk int) {
	fatal := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	clientHelloBytes, finish := v.bytes(t, "client_hello"), v.bytes(t, "server_finish")
	toServer := &script{sends: bytes.Clone(clientHelloBytes), end: errTooFar, chunk: chunk}
	server, err := serverHandshake(toServer, v.serverTerms(t), v.serverSide(t, 0))
	fatal(err)
	testutil.Equal(t, "the server writes", toServer.got.Bytes(), slices.Concat(v.bytes(t, "server_hello"), finish))
	toClient := &script{sends: slices.Concat(v.bytes(t, "server_hello"), finish), end: errTooFar, chunk: chunk}
	half, err := clientHello(toClient, v.clientTerms(t), v.clientSide(t))
	fatal(err)
	client, err := half.readFinish()
	fatal(err)
	testutil.Equal(t, "the client writes", toClient.got.Bytes(), clientHelloBytes)
	if len(server.trailingBytes)+len(client.trailingBytes)+len(toServer.sends)+len(toClient.sends) > 0 {
		t.Error("bytes are left")
	}
	serverLimit, clientLimit := int(v.number(t, "server_limit")), int(v.number(t, "client_limit"))
	if server.peerMaxDataSize != clientLimit || client.peerMaxDataSize != serverLimit {
		t.Errorf("the limits are %d and %d", server.peerMaxDataSize, client.peerMaxDataSize)
	}

	rekeyAt := v.number(t, "rekey_at")
	for _, c := range []*recordCipher{server.receiveCipher, server.sendCipher, client.receiveCipher, client.sendCipher} {
		if c != nil {
			c.rekeyLimit = rekeyAt
		}
	}
	cs, ss := v.bytes(t, "client_traffic"), v.bytes(t, "server_traffic")
	ways := map[string]*way{
		"client": {client.sendCipher, newReceiver(server.receiveCipher, serverLimit), chain{secret: cs, rekeyAt: rekeyAt}, chain{secret: cs, rekeyAt: rekeyAt}},
		"server": {server.sendCipher, newReceiver(client.receiveCipher, clientLimit), chain{secret: ss, rekeyAt: rekeyAt}, chain{secret: ss, rekeyAt: rekeyAt}},
	}
	if len(v.lines) < 4 {
		t.Fatal("less than two frames each way")
	}
	plain, got := map[string][]byte{}, map[string][]Message{}
	for i, line := range v.lines {
		f := strings.Fields(line)
		w := ways[f[0]]
		wire := dashed(t, f[len(f)-1])
		if w.out == nil { // frame: client|server TYPE DATA FRAME
			typ, data := typeAndData(t, f[1], f[2])
			if made := appendFrame(nil, typ, data); !bytes.Equal(made, wire) {
				t.Fatalf("frame %d is made as\n%x, want\n%x", i, made, wire)
			}
			plain[f[0]] = append(plain[f[0]], wire...)
		} else { // record: client|server PLAINTEXT NONCE RECORD
			text := dashed(t, f[1])
			if !w.other.seals(dashed(t, f[2]), text, wire) {
				t.Fatalf("record %d is not sealed as %x", i, wire)
			}
			// What the library makes is the same but for its random nonce.
			made, err := w.out.seal(nil, text)
			if opened, cerr := w.check.open(made); err != nil || cerr != nil || len(made) != len(wire) || !bytes.Equal(opened, text) {
				t.Fatalf("record %d as the library makes it opens as %x, %v, %v", i, opened, err, cerr)
			}
			plain[f[0]] = append(plain[f[0]], text...)
		}
		messages, _, err := drive(w.in, &readCall{}, wire, pieces(max(chunk, 1)))
		if err != nil {
			t.Fatalf("line %d is received as %v", i, err)
		}
		got[f[0]] = append(got[f[0]], messages...)
	}
	for who := range ways {
		frames, malformed := plainFrames(plain[who], maxMsgSize)
		want := slices.DeleteFunc(plainMessages(frames), func(m Message) bool { return m.MsgType == controlType })
		if malformed || !sameMessages(got[who], want) {
			t.Errorf("of the %s: received %d messages, want %d", who, len(got[who]), len(want))
		}
	}
}

// derived checks the key schedule, step by step.
func (v *vector) derived(t *testing.T) {
	if v.fields["shared_x"] == "-" {
		return
	}
	same := func(field string, got []byte) {
		t.Helper()
		testutil.Equal(t, field, got, v.bytes(t, field))
	}
	s, _ := v.key(t, "server_private")()
	c, _ := v.key(t, "client_private")()
	z, err := s.ECDH(c.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	same("shared_x", z)
	hello := v.bytes(t, "client_hello")
	if hybrid := hello[1]&flagHybrid != 0; hybrid {
		private, err := v.serverSide(t, 0).newKEMKey()
		if err != nil {
			t.Fatal(err)
		}
		same("kem_key", private.EncapsulationKey().Bytes())
		shared, err := private.Decapsulate(v.bytes(t, "kem_ciphertext"))
		if err != nil {
			t.Fatal(err)
		}
		same("kem_secret", shared)
		z = append(z, shared...)
	}
	th := transcript(string(v.bytes(t, "name")), v.bytes(t, "server_hello"), hello[:len(hello)-hashLen])
	same("transcript_hash", th)
	k, err := newSessionKeys(v.bytes(t, "secret"), z, th)
	if err != nil {
		t.Fatal(err)
	}
	same("client_confirm_key", k.clientConfirmKey)
	same("server_confirm_key", k.serverConfirmKey)
	same("client_traffic", k.clientTrafficSecret)
	same("server_traffic", k.serverTrafficSecret)
	same("client_key", (&chain{secret: k.clientTrafficSecret}).expand("gipc/3 key", 32))
	same("server_key", (&chain{secret: k.serverTrafficSecret}).expand("gipc/3 key", 32))
}

// checkHandshake compares how one side's handshake has ended.
func (v *vector) checkHandshake(t *testing.T, s *session, err error, p *script, writes string) {
	t.Helper()
	if errors.Is(err, errTooFar) {
		t.Fatal("it waits for more than it needs")
	}
	testutil.Equal(t, "it writes", p.got.Bytes(), v.bytes(t, writes))
	expect := v.fields["expect"]
	if (err == nil) != (expect == "ok") || (s == nil) != (err != nil) {
		t.Fatalf("session %v, error %v; want %s", s, err, expect)
	}
	var layer, how string
	var reason byte
	fmt.Sscan(expect, &layer, &how, &reason)
	switch how {
	case "": // ok
		testutil.Equal(t, "the rest", slices.Concat(s.trailingBytes, p.sends), v.bytes(t, "rest"))
	case "refuse":
		checkRefusal(t, err, reason, false)
	case "refused":
		checkRefusal(t, err, reason, true)
	case "malformed":
		checkRefusal(t, err, reasonMalformed, false)
	case "full":
		if !errors.Is(err, ErrRefused) {
			t.Errorf("the error is %v", err)
		}
	case "not-authentic":
		if !errors.Is(err, ErrNotAuthentic) {
			t.Errorf("the error is %v", err)
		}
	case "unproven":
		checkRefusal(t, err, reasonConfirmation, false)
	case "truncated":
		if !errors.Is(err, ErrTruncated) {
			t.Errorf("the error is %v", err)
		}
	default:
		t.Fatalf("expect %q", expect)
	}
}

func (v *vector) script(t *testing.T, sends string, chunk int) *script {
	end := io.EOF
	if v.choice(t, "then", "open", "end") {
		end = errTooFar
	}
	return &script{sends: v.bytes(t, sends), end: end, chunk: chunk}
}

func TestVectorsServer(t *testing.T) {
	t.Parallel()
	for _, v := range loadVectors(t, "server") {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			for _, chunk := range []int{0, 1, 50} {
				p := v.script(t, "client_sends", chunk)
				s, err := serverHandshake(p, v.serverTerms(t), v.serverSide(t, byte(v.number(t, "admit"))))
				v.checkHandshake(t, s, err, p, "server_writes")
			}
		})
	}
}

func TestVectorsClient(t *testing.T) {
	t.Parallel()
	for _, v := range loadVectors(t, "client") {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			for _, chunk := range []int{0, 1, 50} {
				p := v.script(t, "server_sends", chunk)
				var s *session
				c, err := clientHello(p, v.clientTerms(t), v.clientSide(t))
				if err == nil {
					s, err = c.readFinish()
				}
				v.checkHandshake(t, s, err, p, "client_writes")
			}
		})
	}
}

// ---- One direction

// receiver makes the receiver of a receive vector.
func (v *vector) receiver(t testing.TB) *connection {
	var c *recordCipher
	if secret := v.bytes(t, "traffic_secret"); secret != nil {
		c = newRecordCipher(secret)
		c.sequence, c.rekeyLimit = v.number(t, "sequence"), v.number(t, "rekey_at")
	}
	l := newReceiver(c, int(v.number(t, "limit")))
	l.closeHandshake.sentClose = v.choice(t, "sent_close", "yes", "no")
	return l
}

func TestVectorsReceive(t *testing.T) {
	t.Parallel()
	for _, v := range loadVectors(t, "receive") {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			stream := v.bytes(t, "stream")
			v.encodes(t, stream, v.receives(t, func() *connection { return v.receiver(t) }))
		})
	}
}

// receives gives the stream to receivers, in pieces of several sizes, and
// returns what they have to deliver.
func (v *vector) receives(t *testing.T, receiver func() *connection) (want []Message) {
	stream := v.bytes(t, "stream")
	for _, line := range v.lines {
		want = append(want, delivered(t, strings.Fields(line)))
	}
	expect := strings.Fields(v.fields["expect"])
	for _, piece := range []int{1, 2, 7, 4096, len(stream)} {
		for _, c := range []*readCall{{}, {destination: destination{reuse: true}}} {
			l := receiver()
			got, read, err := drive(l, c, stream, pieces(piece))
			if err == nil && !l.closeHandshake.peerClosed && v.choice(t, "then", "end", "open") {
				err = l.streamEndError(io.EOF)
			}
			if !sameMessages(got, want) {
				t.Errorf("pieces of %d: delivers %v, want %v", piece, got, want)
			}
			how := failureOf(err)
			if err == nil && l.closeHandshake.peerClosed && !l.closeHandshake.sentClose {
				how = "received"
			}
			if how != expect[len(expect)-1] {
				t.Errorf("pieces of %d: %s (%v), want %s", piece, how, err, v.fields["expect"])
			}
			if how == "malformed" && malformedLayer(err) != v.fields["expect"] {
				t.Errorf("pieces of %d: %s (%v), want %s", piece, malformedLayer(err), err, v.fields["expect"])
			}
			if after := v.fields["fails_after"]; after != "-" && piece == 1 && strconv.Itoa(read) != after {
				t.Errorf("fails after %d bytes, want %s", read, after)
			}
			if calls, ignored := l.sender.callTable.callCounts(); calls != 0 || ignored != v.replies(t) {
				t.Errorf("pieces of %d: %d replies are counted, want %d", piece, ignored, v.replies(t))
			}
			if most := 4*len(stream) + 2*readSize; held(l) > most {
				t.Errorf("pieces of %d: %d bytes of memory for %d that came", piece, held(l), len(stream))
			}
		}
	}
	return want
}

// replies is how many replies a plaintext stream has before its fault, its close or
// its end.
func (v *vector) replies(t *testing.T) (n uint64) {
	stream := v.bytes(t, "stream")
	if secret := v.bytes(t, "traffic_secret"); secret != nil {
		stream = v.opened(t, &chain{secret: secret, seq: v.number(t, "sequence"), rekeyAt: v.number(t, "rekey_at")}, stream)
	}
	frames, _ := plainFrames(stream, int(v.number(t, "limit")))
	for _, f := range frames {
		switch typ := binary.BigEndian.Uint32(f[4:]); {
		case typ > 1<<31 && f[8]&0x80 != 0:
			n++
		case typ == controlType && f[8] == kindClose:
			return n
		}
	}
	return n
}

// opened is the plaintext of a stream of records, up to the first that does not open.
func (v *vector) opened(t testing.TB, c *chain, stream []byte) (plain []byte) {
	for len(stream) >= 4 {
		n := 4 + uint64(binary.BigEndian.Uint32(stream))
		if n > uint64(len(stream)) {
			break
		}
		b, err := c.open(stream[:n])
		if err != nil {
			break
		}
		plain, stream = append(plain, b...), stream[n:]
	}
	return plain
}

// encodes wants what was delivered to be the beginning of a plaintext stream
// again.
func (v *vector) encodes(t *testing.T, stream []byte, got []Message) {
	if v.bytes(t, "traffic_secret") != nil {
		return // see the record vectors
	}
	frames, _ := plainFrames(stream, maxMsgSize)
	for _, frame := range frames {
		typ := binary.BigEndian.Uint32(frame[4:])
		if len(got) == 0 || typ == controlType || typ > maxType && frame[8]&0x80 != 0 {
			continue
		}
		made, number := uint32(got[0].MsgType), requestNumber(&got[0])
		if number != 0 {
			made |= requestFlag
		}
		if !bytes.Equal(appendFrameID(nil, made, number, got[0].Data), frame) {
			t.Errorf("%x is not what the sending half makes of it", frame)
		}
		got = got[1:]
	}
}

// ---- One frame, one record

func TestVectorsFrame(t *testing.T) {
	t.Parallel()
	for _, v := range loadVectors(t, "frame") {
		t.Run(v.name, func(t *testing.T) {
			b, limit := v.bytes(t, "frame"), int(v.number(t, "limit"))
			if v.fields["expect"] == "ok" {
				h, need, err := parseFrameHeader(b, limit)
				if err != nil || need+h.dataSize != len(b) {
					t.Fatalf("%+v, %d, %v", h, need, err)
				}
				id := "-"
				if h.frameType&requestFlag != 0 {
					id = strconv.FormatUint(h.id, 10)
				}
				if uint64(h.frameType) != v.number(t, "type") || id != v.fields["id"] || !bytes.Equal(b[need:], v.bytes(t, "data")) {
					t.Errorf("%+v, id %s", h, id)
				}
				testutil.Equal(t, "it is made", append(appendFrameHeader(nil, h), b[need:]...), b)
				return
			}
			after := int(v.number(t, "fails_after"))
			if _, _, err := parseFrameHeader(b[:after], limit); malformedLayer(err) != v.fields["expect"] {
				t.Errorf("%d bytes: %v, want %s", after, err, v.fields["expect"])
			}
			if _, need, err := parseFrameHeader(b[:after-1], limit); err != nil || need < after {
				t.Errorf("%d bytes: %v, and needs %d", after-1, err, need)
			}
		})
	}
}

func TestVectorsRecord(t *testing.T) {
	t.Parallel()
	for _, v := range loadVectors(t, "record") {
		t.Run(v.name, func(t *testing.T) {
			direction := func() *recordCipher {
				block, err := aes.NewCipher(v.bytes(t, "key"))
				if err != nil {
					t.Fatal(err)
				}
				aead, err := cipher.NewGCMWithRandomNonce(block)
				if err != nil {
					t.Fatal(err)
				}
				return &recordCipher{aead: aead, sequence: v.number(t, "sequence"), rekeyLimit: rekeyAfter}
			}
			record := v.bytes(t, "sealed")
			plain, err := direction().open(nil, record[lengthSize:])
			if v.fields["expect"] != "ok" {
				if !errors.Is(err, ErrNotAuthentic) {
					t.Errorf("opened as %x, %v", plain, err)
				}
				return
			}
			if err != nil || !bytes.Equal(plain, v.bytes(t, "plaintext")) || !bytes.Equal(record[4:16], v.bytes(t, "nonce")) {
				t.Fatalf("opened as %x, %v", plain, err)
			}
			made, err := direction().seal(nil, plain)
			if err != nil || len(made) != len(record) {
				t.Fatalf("sealed as %x, %v", made, err)
			}
			if again, err := direction().open(nil, made[lengthSize:]); err != nil || !bytes.Equal(again, plain) {
				t.Errorf("opened again as %x, %v", again, err)
			}
		})
	}
}

// ---- Whole sessions: a side and its application against a peer that is played

// An application is what a session vector asks of a side.
type application interface {
	ReadTimed(time.Duration) (*Message, error)
	Write(int, []byte) error
	Call(context.Context, int, []byte) (*Message, error)
	Stats() Stats
	Close() error
}

// An openRequest is one of the application's, whose Call runs.
type openRequest struct {
	giveUp context.CancelFunc
	done   chan struct{}
	reply  *Message
	err    error
}

// startCall has the application call, and returns when the request was accepted.
func startCall(app application, msgType int, data []byte, bubbled bool) *openRequest {
	ctx, cancel := context.WithCancel(context.Background())
	r := &openRequest{giveUp: cancel, done: make(chan struct{})}
	before := app.Stats().Calls
	go func() {
		defer close(r.done)
		r.reply, r.err = app.Call(ctx, msgType, data)
	}()
	for start := time.Now(); !bubbled && app.Stats().Calls == before && time.Since(start) < 5*time.Second; {
		<-time.After(20 * time.Microsecond)
	}
	if bubbled {
		synctest.Wait()
	}
	return r
}

// bareEnd is an end with a connection and nothing around it.
type bareEnd struct{ endpoint }

func (e *bareEnd) Close() error { return e.shutdown(context.Background(), closedByUser) }

func TestVectorsSession(t *testing.T) {
	t.Parallel()
	for _, v := range loadVectors(t, "session") {
		for _, role := range []string{"server", "client"} {
			t.Run(v.name+"/"+role, func(t *testing.T) {
				if v.fields["out_secret"] != "-" {
					v.session(t, role) // random nonces may need a true clock, see FuzzSession
					return
				}
				bubble(t, func(t *testing.T) { v.session(t, role) })
			})
		}
	}
}

// sessionEnds starts a side, through its handshake where that is in plaintext.
func (v *vector) sessionEnds(t *testing.T, role string) (app application, peer net.Conn) {
	limit := int(v.number(t, "limit"))
	hello := binary.BigEndian.AppendUint32([]byte{0, 0}, uint32(limit))
	near, far := newFaultPipe(nil, nil)
	expectBytes := func(want []byte) {
		got := make([]byte, len(want))
		if _, err := io.ReadFull(far, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("the %s writes %x, %v; want %x", role, got, err, want)
		}
	}
	l := &pipeListener{conns: make(chan net.Conn, 1), done: make(chan struct{})}
	in, out := v.bytes(t, "in_secret"), v.bytes(t, "out_secret")
	switch {
	case in != nil:
		set, err := (&ServerConfig{Name: "n", Listener: l, MaxMsgSize: limit}).settings()
		if err != nil {
			t.Fatal(err)
		}
		s := &session{peerMaxDataSize: limit}
		s.receiveCipher, s.sendCipher = newRecordCipher(in), newRecordCipher(out)
		e, hooks := new(bareEnd), new(endpointHooks)
		start := Listening
		if role == "client" {
			start, hooks.reconnect = Connecting, func(*connection) { e.goroutines.Done() }
		}
		e.init(set, new(bufferPool), hooks)
		e.lifecycle.setStatus(start)
		e.attachConnection(e.newConnection(&openedConn{dialedServer{conn: near}, near}, s, 1))
		return e, far
	case role == "server":
		s, err := StartServer(&ServerConfig{Name: "n", Listener: l, Encryption: EncryptionOff, MaxMsgSize: limit, MultiClient: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		l.conns <- near
		hello[0] = version3
		expectBytes(hello)
		hello[0] = 0
		far.Write(hello)
		expectBytes([]byte{0})
		synctest.Wait()
		for one := range s.Connections.All() {
			return one, far
		}
		t.Fatal("nobody is connected")
	default:
		played := make(chan struct{})
		go func() {
			defer close(played)
			hello[0] = version3
			far.Write(hello)
			hello[0] = 0
			expectBytes(hello)
			far.Write([]byte{0})
		}()
		dialled := false
		c, err := StartClient(&ClientConfig{Name: "n", Encryption: EncryptionOff, MaxMsgSize: limit, RetryTimer: time.Hour, Dial: func(context.Context) (net.Conn, error) {
			if dialled {
				return nil, errors.New("once is enough")
			}
			dialled = true
			return near, nil
		}})
		<-played
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c, far
	}
	return nil, nil
}

// A frameReader reads the frames that a side writes, in whatever records.
type frameReader struct {
	conn    net.Conn
	records *chain
	plain   []byte
}

func (r *frameReader) next() ([]byte, error) {
	for {
		if h, need, err := parseFrameHeader(r.plain, maxMsgSize); err != nil || len(r.plain) >= need+h.dataSize {
			frame := r.plain[:need+h.dataSize]
			r.plain = r.plain[len(frame):]
			return frame, err
		}
		unit := make([]byte, lengthSize)
		if _, err := io.ReadFull(r.conn, unit); err != nil {
			return nil, err
		}
		unit = append(unit, make([]byte, binary.BigEndian.Uint32(unit))...)
		if _, err := io.ReadFull(r.conn, unit[lengthSize:]); err != nil {
			return nil, err
		}
		if r.records.secret != nil {
			var err error
			if unit, err = r.records.open(unit); err != nil {
				return nil, err
			}
		}
		r.plain = append(r.plain, unit...)
	}
}

func (v *vector) session(t *testing.T, role string) {
	app, peer := v.sessionEnds(t, role)
	defer app.Close()
	defer peer.Close()
	back := chain{secret: v.bytes(t, "out_secret"), rekeyAt: rekeyAfter}
	written := &frameReader{conn: peer, records: &back}
	peer.SetReadDeadline(time.Now().Add(20 * time.Second))
	closed := make(chan error, 1)
	ended := false
	bubbled := back.secret == nil
	var calls []*openRequest // of the application
	defer func() {
		for _, r := range calls {
			r.giveUp()
			<-r.done
		}
	}()
	asked := map[uint64]*Message{} // requests of the peer
	message := func() *Message {
		for {
			m, err := app.ReadTimed(20 * time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if m.MsgType != statusType || m.Status != Connected.String() && m.Status != Connecting.String() {
				return m
			}
		}
	}
	for i, step := range v.lines {
		f := append(strings.Fields(step), "", "", "")
		bad := func(format string, args ...any) {
			t.Helper()
			t.Fatalf("step %d, %q: %s", i+1, step, fmt.Sprintf(format, args...))
		}
		switch f[0] {
		case "peer":
			if _, err := peer.Write(dashed(t, f[1])); err != nil {
				bad("%v", err)
			}
		case "peer-ends":
			peer.(*roadEnd).CloseWrite()
		case "delivers":
			m := message()
			if !sameMessages([]Message{*m}, []Message{delivered(t, f[1:4])}) {
				bad("the application gets %v", m)
			}
			asked[requestNumber(m)] = m
		case "requests":
			typ, data := typeAndData(t, f[1], f[2])
			calls = append(calls, startCall(app, int(typ), data, bubbled))
		case "replies":
			m := asked[decimal(t, f[1])]
			typ, data := typeAndData(t, f[2], f[3])
			if err := m.Reply(int(typ), data); err != nil {
				bad("%v", err)
			}
			if err := m.Reply(int(typ), data); !errors.Is(err, ErrReplied) {
				bad("once more: %v", err)
			}
		case "replied", "gives-up", "fails":
			r, start := calls[decimal(t, f[1])-1], time.Now()
			if f[0] == "gives-up" {
				r.giveUp()
			}
			<-r.done
			if d := time.Since(start); bubbled && d > 0 || d > 900*time.Millisecond {
				bad("it takes %v", d)
			}
			switch {
			case f[0] == "replied":
				typ, data := typeAndData(t, f[2], f[3])
				if r.err != nil || !sameMessages([]Message{*r.reply}, []Message{{MsgType: int(typ), Data: data}}) {
					bad("it gets %v, %v", r.reply, r.err)
				}
			case r.reply != nil || !errors.Is(r.err, ErrUnconfirmed) || errors.Is(r.err, context.Canceled) != (f[0] == "gives-up"):
				bad("it gets %v, %v", r.reply, r.err)
			}
		case "sends":
			typ, data := typeAndData(t, f[1], f[2])
			if err := app.Write(int(typ), data); err != nil {
				bad("%v", err)
			}
		case "closes":
			go func() { closed <- app.Close() }()
		case "writes":
			typ, data := typeAndData(t, f[1], f[2])
			id := uint64(0)
			if f[3] != "" {
				typ, id = typ|requestFlag, decimal(t, f[3])
			}
			frame, err := written.next()
			if err != nil || !bytes.Equal(frame, appendFrameID(nil, typ, id, data)) {
				bad("it writes %x, %v", frame, err)
			}
		case "writes-end":
			start := time.Now()
			if got, err := io.ReadAll(peer); err != nil || len(got) > 0 {
				bad("it writes %x, %v", got, err)
			}
			if d := time.Since(start); start.Year() < 2020 && d > 0 || d > 900*time.Millisecond { // G-2, G-6; a bubble has its own clock
				bad("it waits %v for what it must not wait for", d)
			}
			ended = true
			peer.Close()
		case "ends":
			m := message()
			how := failureOf(m.Err)
			if m.Err == nil && (m.Status == Disconnected.String() || m.Status == ReConnecting.String()) {
				how = "close"
			}
			if m.MsgType != statusType || how != f[1] || how == "malformed" && malformedLayer(m.Err) != v.fields["expect"] {
				bad("the application gets %v, %v, want %s", m, m.Err, v.fields["expect"])
			}
		case "closed":
			err := <-closed
			if (err == nil) != (f[1] == "ok") || err != nil && !errors.Is(err, ErrUnconfirmed) {
				bad("closing returns %v", err)
			}
		default:
			bad("no such step")
		}
	}
	if !ended {
		if back.secret == nil { // in a bubble
			synctest.Wait()
		}
		peer.SetReadDeadline(transport.Past.Add(time.Second))
		if n := peer.(*roadEnd).waiting(); n > 0 {
			t.Errorf("%d bytes more were written", n)
		}
	}
}

// The keys that the loader knows are those that the text lists.
func TestVectorKeysAreThoseOfTheText(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("spec/README.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\| (.*_.*|name, secret|key, sequence, .*) \\|$").FindAllStringSubmatch(string(text), -1) {
		listed[row[1]] = strings.ReplaceAll(row[2], ",", "")
	}
	testutil.Equal(t, "the text has", listed, vectorKeys)
}

// ---- Names and secrets

func TestVectorsConfig(t *testing.T) {
	t.Parallel()
	for _, v := range loadVectors(t, "config") {
		t.Run(v.name, func(t *testing.T) {
			name, secret := string(v.bytes(t, "name")), v.bytes(t, "secret")
			_, serr := (&ServerConfig{Name: name, Secret: secret, Listener: &pipeListener{}}).settings()
			_, cerr := (&ClientConfig{Name: name, Secret: secret, Dial: refuseToDial}).settings()
			for _, err := range []error{serr, cerr} {
				if want := v.fields["expect"] == "ok"; (err == nil) != want || !want && !errors.Is(err, ErrConfig) {
					t.Errorf("the error is %v, want %s", err, v.fields["expect"])
				}
			}
		})
	}
}

// ---- What takes time or more than one connection

// startPiped starts a server that accepts what is sent to conns.
func startPiped(t *testing.T, config ServerConfig) (s *Server, conns chan<- net.Conn) {
	t.Helper()
	l := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
	config.Name, config.Listener = "n", l
	s, err := StartServer(&config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, l.conns
}

func dialPiped(config ClientConfig, conns chan<- net.Conn) (*Client, error) {
	config.Name = "n"
	config.Dial = func(ctx context.Context) (net.Conn, error) {
		near, far := newFaultPipe(nil, nil)
		select {
		case conns <- far:
			return near, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return StartClient(&config)
}

func TestSilentClientsAreEvicted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		start := time.Now()
		s, conns := startPiped(t, ServerConfig{MultiClient: true, Encryption: EncryptionOff})
		near, far := newFaultPipe(nil, nil)
		conns <- far
		near.Write([]byte{0, 0}) // and nothing more
		c, err := dialPiped(ClientConfig{Encryption: EncryptionOff, Timeout: time.Second}, conns)
		if err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d > 0 {
			t.Errorf("the good client has waited %v", d)
		}
		synctest.Wait() // the client knows first
		if n := s.Connections.Len(); n != 1 {
			t.Errorf("%d clients, though one has only begun", n)
		}
		got, err := io.ReadAll(near)
		if len(got) != 6 || err != nil {
			t.Errorf("the silent one gets %x, %v; want ServerHello alone", got, err)
		}
		if d := time.Since(start); d != handshakeTimeout {
			t.Errorf("it ends after %v", d)
		}
		near.Close()
		c.Close()
	})
}

// A handshake that takes the last slot replaces one whose peer has been silent for
// more than a second, and no other.
func TestSilentHandshakeIsReplaced(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, conns := startPiped(t, ServerConfig{MultiClient: true, Encryption: EncryptionOff})
		var ends []net.Conn
		for i := range maxPending {
			near, far := newFaultPipe(nil, nil)
			conns <- far
			synctest.Wait()
			if i > 0 {
				near.Write([]byte{0}) // no more than the reply: it is not silent
			}
			ends = append(ends, near)
		}
		near, far := newFaultPipe(nil, nil)
		accepted := make(chan struct{})
		go func() { conns <- far; close(accepted) }()
		<-accepted
		<-time.After(3 * time.Second)
		ends = append(ends, near)
		for i, near := range ends {
			b := make([]byte, 7)
			near.SetReadDeadline(time.Now().Add(time.Millisecond))
			n, err := io.ReadFull(near, b)
			if gone := !errors.Is(err, os.ErrDeadlineExceeded); n != 6 || gone != (i == 0) {
				t.Fatalf("handshake %d of %d: %d bytes, %v", i+1, len(ends), n, err)
			}
		}
		for _, near := range ends {
			near.Close()
		}
	})
}

func TestRefusalsInPlaceOfTheHello(t *testing.T) {
	bubble(t, func(t *testing.T) {
		refused := func(conns chan<- net.Conn, reason byte) {
			t.Helper()
			near, far := newFaultPipe(nil, nil)
			conns <- far
			if got, err := io.ReadAll(near); !bytes.Equal(got, []byte{0, reason}) || err != nil {
				t.Errorf("it writes %x, %v", got, err)
			}
			near.Close()
		}
		_, conns := startPiped(t, ServerConfig{Encryption: EncryptionOff})
		c, err := dialPiped(ClientConfig{Encryption: EncryptionOff}, conns)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		refused(conns, reasonBusy)
		c.Close()
		_, conns = startPiped(t, ServerConfig{Authorize: func(Peer) error { return errors.New("no") }})
		refused(conns, reasonUnauthorized)
	})
}

func TestClientWaitsThirtySecondsForEachMessage(t *testing.T) {
	for _, sent := range []int{0, 6} {
		bubble(t, func(t *testing.T) {
			start := time.Now()
			near, far := newFaultPipe(nil, nil)
			far.Write([]byte{3, 0, 0, 0, 4, 0}[:sent])
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() {
				defer close(done)
				StartClientContext(ctx, &ClientConfig{Name: "n", Encryption: EncryptionOff, Dial: func(context.Context) (net.Conn, error) { return near, nil }})
			}()
			got, err := io.ReadAll(far)
			if d := time.Since(start); d != 30*time.Second || len(got) != sent || err != nil {
				t.Errorf("it ends after %v and %x, %v", d, got, err)
			}
			far.Close()
			cancel()
			<-done
		})
	}
}

func TestEachConnectionHasNewKeys(t *testing.T) {
	_, conns := startPiped(t, ServerConfig{MultiClient: true})
	seen := map[string]bool{}
	for range 2 {
		near, far := newFaultPipe(nil, nil)
		conns <- far
		hello := make([]byte, fullHello)
		if _, err := io.ReadFull(near, hello); err != nil {
			t.Fatal(err)
		}
		seen["server"+string(hello)] = true
		near.Close()

		near, far = newFaultPipe(nil, nil)
		far.Write(hello)
		far.(*roadEnd).CloseWrite()
		ctx, cancel := context.WithCancel(t.Context())
		dialled := false
		c, err := StartClientContext(ctx, &ClientConfig{Name: "n", Dial: func(context.Context) (net.Conn, error) {
			if dialled {
				cancel()
				return nil, ctx.Err()
			}
			dialled = true
			return near, nil
		}})
		if c != nil || err == nil {
			t.Fatal("connected to a server that ends")
		}
		answer, err := io.ReadAll(far)
		if len(answer) != fullHello+hashLen || err != nil {
			t.Fatalf("%x, %v", answer, err)
		}
		seen["client"+string(answer[:fullHello])] = true
		far.Close()
	}
	if len(seen) != 4 {
		t.Errorf("%d different hellos of 4", len(seen))
	}
}

func TestSenderKeepsThePeersLimit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, conns := startPiped(t, ServerConfig{Encryption: EncryptionOff, MaxMsgSize: 2000})
		c, err := dialPiped(ClientConfig{Encryption: EncryptionOff}, conns)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		var size *SizeError
		if err := c.Write(1, make([]byte, 2001)); !errors.As(err, &size) {
			t.Errorf("the error is %v", err)
		}
		for _, typ := range []uint32{0, 1 << 31, 1<<32 - 1} {
			if err := c.Write(int(typ), nil); !errors.Is(err, ErrReservedType) {
				t.Errorf("type %d: %v", typ, err)
			}
		}
		if err := c.Write(1, make([]byte, 2000)); err != nil {
			t.Fatal(err)
		}
		for {
			m, err := s.ReadTimed(time.Second)
			if err != nil || m.MsgType != statusType {
				if err != nil || len(m.Data) != 2000 {
					t.Errorf("the server gets %v, %v", m, err)
				}
				return
			}
		}
	})
}

func TestNewestPingIsAnswered(t *testing.T) {
	near, far := newFaultPipe(nil, nil)
	var wg sync.WaitGroup
	s := newSender(transport.NewSink(near, func() {}, nil), 1024, testBuffers, nil, &wg, func(error) {})
	s.flushing = true // somebody is writing
	s.queuePong([]byte("12345678"))
	s.queuePong([]byte("abcdefgh"))
	s.mu.Lock()
	s.flushing = false
	s.scheduleFlushLocked()
	s.mu.Unlock()
	wg.Wait()
	near.Close()
	got, err := io.ReadAll(far)
	if want := "\x00\x00\x00\x0d\x00\x00\x00\x00\x02abcdefgh"; string(got) != want || err != nil {
		t.Errorf("it writes %x, %v", got, err)
	}
	far.Close()
}

func TestAnyFrameIsHeartbeatActivity(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, conns := startPiped(t, ServerConfig{Encryption: EncryptionOff, Heartbeat: time.Second})
		near, far := newFaultPipe(nil, nil)
		conns <- far
		near.Write([]byte{0, 0, 0, 0, 4, 0})
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			io.Copy(io.Discard, near)
		}()
		start := time.Now()
		tick := time.NewTicker(1900 * time.Millisecond)
		defer tick.Stop()
		for range 10 {
			<-tick.C
			near.Write([]byte{0, 0, 0, 5, 0, 0, 0, 0, 9}) // a kind that is ignored
		}
		last := time.Now()
		for {
			m, err := s.Read()
			if err != nil {
				t.Fatal(err)
			}
			if m.Status == Disconnected.String() {
				if d := time.Since(start); !errors.Is(m.Err, ErrTimeout) || d != last.Sub(start)+2*time.Second {
					t.Errorf("lost after %v: %v", d, m.Err)
				}
				break
			}
		}
		near.Close()
		<-drained
	})
}

// A reply that stands behind what the application does not read is not waited for
// longer than 10 s, which begin for a later request with that one.
func TestCallsBehindUnreadMessagesFail(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for _, reads := range []bool{false, true} {
			s, conns := startPiped(t, ServerConfig{Encryption: EncryptionOff})
			near, far := newFaultPipe(nil, nil)
			conns <- far
			near.Write([]byte{0, 0, 0, 0, 4, 0})
			if _, err := s.Read(); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			start := time.Now()
			first := startCall(s, 1, nil, true)
			<-time.After(time.Second)
			for range 3 {
				near.Write(appendFrame(nil, 1, make([]byte, 40_000)))
			}
			near.Write(appendFrameID(nil, 2|requestFlag, 1|replyFlag, nil))
			near.Write(appendFrameID(nil, 2|requestFlag, 2|replyFlag, nil))
			<-time.After(4 * time.Second)
			second := startCall(s, 1, nil, true)
			if reads {
				<-time.After(5 * time.Second)
				for range 3 {
					if m, err := s.Read(); err != nil || m.MsgType == 1 && len(m.Data) != 40_000 {
						t.Fatal(m, err)
					}
				}
				s.ReadTimed(time.Second) // nothing comes but the replies
			}
			for i, r := range []*openRequest{first, second} {
				<-r.done
				if reads && (r.err != nil || r.reply.MsgType != 2) || !reads && (!errors.Is(r.err, ErrUnconfirmed) || !errors.Is(r.err, ErrTimeout)) {
					t.Errorf("request %d gets %v, %v", i+1, r.reply, r.err)
				}
				if d := time.Since(start); !reads && d != time.Duration(11+4*i)*time.Second {
					t.Errorf("request %d fails after %v", i+1, d)
				}
			}
			near.Close()
			s.Close()
		}
	})
}

// ---- A second parser of frames in plaintext

// plainFrames takes a plaintext stream apart, without the library: whole frames,
// up to the first that is malformed or not there to its end.
func plainFrames(stream []byte, limit int) (frames [][]byte, malformed bool) {
	requests := uint64(0)
	for len(stream) >= 4 {
		n := uint64(binary.BigEndian.Uint32(stream))
		if n < 4 || n > uint64(limit)+12 {
			return frames, true
		}
		if len(stream) < 8 {
			return frames, false
		}
		typ, rest := binary.BigEndian.Uint32(stream[4:]), uint64(4)
		if typ >= 1<<31 {
			rest = 12
		}
		if typ == 1<<31 || n < rest || n-rest > uint64(limit) {
			return frames, true
		}
		if uint64(len(stream)) < 4+n {
			return frames, false
		}
		frame := stream[:4+n]
		if typ == 0 && !controlFits(frame[8:]) {
			return frames, true
		}
		if typ > 1<<31 && !idFits(binary.BigEndian.Uint64(frame[8:]), &requests) {
			return frames, true
		}
		frames = append(frames, frame)
		stream = stream[4+n:]
	}
	return frames, false
}

// idFits says whether an id is well-formed behind so many requests, and counts it.
func idFits(id uint64, requests *uint64) bool {
	if id >= 1<<63 {
		return id > 1<<63
	}
	*requests++
	return id == *requests
}

func plainMessages(frames [][]byte) (all []Message) {
	for _, f := range frames {
		all = append(all, Message{MsgType: int(binary.BigEndian.Uint32(f[4:])), Data: f[8:]})
	}
	return all
}

// ---- The text

// citedByTests are the ids that tests of this package prove where a vector
// cannot, or not all.
var citedByTests = map[string]string{
	"F-3":  "TestSenderKeepsThePeersLimit",
	"F-5":  "FuzzFrame",
	"F-6":  "TestSenderKeepsThePeersLimit",
	"F-8":  "FuzzFrame",
	"F-11": "FuzzSession",
	"H-4":  "TestEachConnectionHasNewKeys",
	"H-8":  "TestHandshakeWriteFails",
	"R-4":  "TestLastSequenceNumber",
	"L-1":  "TestSilentClientsAreEvicted",
	"L-2":  "TestSilentClientsAreEvicted",
	"L-3":  "TestSilentHandshakeIsReplaced",
	"L-5":  "TestClientWaitsThirtySecondsForEachMessage",
	"H-20": "TestRefusalsInPlaceOfTheHello",
	"C-5":  "TestNewestPingIsAnswered",
	"C-7":  "TestAnyFrameIsHeartbeatActivity",
	"Q-8":  "TestCallsBehindUnreadMessagesFail",
}

func specText(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("spec/README.md")
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(text), "\r\n", "\n")
}

// testFunctions are the names of this folder's tests and fuzz targets.
func testFunctions(t *testing.T) map[string]bool {
	t.Helper()
	paths, err := filepath.Glob("*_test.go")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no test files: %v", err)
	}
	found := map[string]bool{}
	for _, path := range paths {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
				found[f.Name.Name] = true
			}
		}
	}
	return found
}

func TestSpecEveryIDIsCited(t *testing.T) {
	t.Parallel()
	defined := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^- \[([A-Z]-\d+)\] `).FindAllStringSubmatch(specText(t), -1) {
		if defined[m[1]] {
			t.Errorf("%s is defined twice", m[1])
		}
		defined[m[1]] = true
	}
	if len(defined) < 50 {
		t.Fatalf("the text defines %d ids", len(defined))
	}
	cited := map[string]bool{}
	cite := func(id, by string) {
		cited[id] = true
		if !defined[id] {
			t.Errorf("%s cites %s, which the text does not define", by, id)
		}
	}
	for _, v := range loadVectors(t, "") {
		for id := range strings.FieldsSeq(v.fields["cites"]) {
			cite(id, v.name)
		}
	}
	functions := testFunctions(t)
	for id, test := range citedByTests {
		if !functions[test] {
			t.Errorf("%s is cited by %s, which is no test", id, test)
		}
		cite(id, test)
	}
	for id := range defined {
		if !cited[id] {
			t.Errorf("no vector and no test cites %s", id)
		}
	}
}

func TestSpecEveryMustHasAnID(t *testing.T) {
	t.Parallel()
	text := specText(t)
	_, text, _ = strings.Cut(text, "\n## 2 ")
	text, _, ok := strings.Cut(text, "\n## 15 ")
	if !ok {
		t.Fatal("sections 2 to 14 are not found")
	}
	id := regexp.MustCompile(`^- \[[A-Z]-\d+\] `)
	blocks, musts := regexp.MustCompile(`\n\n|\n- `).Split(text, -1), 0
	separators := regexp.MustCompile(`\n\n|\n- `).FindAllString(text, -1)
	for i, b := range blocks {
		if i > 0 && separators[i-1] == "\n- " {
			b = "- " + b
		}
		if strings.Contains(b, "MUST") {
			if musts++; !id.MatchString(b) {
				t.Errorf("a MUST without an id:\n%s", b)
			}
		} else if id.MatchString(b) && !strings.Contains(b, "MAY") {
			t.Errorf("an id without a MUST:\n%s", b)
		}
	}
	if musts < 50 {
		t.Fatalf("%d MUSTs", musts)
	}
}

// TestSpecExamples wants each example of the text to stand in a vector.
func TestSpecExamples(t *testing.T) {
	t.Parallel()
	var all strings.Builder
	for _, v := range loadVectors(t, "") {
		for _, f := range v.fields {
			fmt.Fprintln(&all, f)
		}
		fmt.Fprintln(&all, strings.Join(v.lines, "\n"))
	}
	examples := regexp.MustCompile("(?s)```hex\n(.*?)```").FindAllStringSubmatch(specText(t), -1)
	if len(examples) < 5 {
		t.Fatalf("%d examples", len(examples))
	}
	for _, m := range examples {
		var b strings.Builder
		for line := range strings.Lines(m[1]) {
			line, _, _ = strings.Cut(line, "#")
			b.WriteString(strings.Join(strings.Fields(line), ""))
		}
		unhex(t, b.String())
		if !strings.Contains(all.String(), b.String()) {
			t.Errorf("no vector has the example\n%s", m[1])
		}
	}
}
