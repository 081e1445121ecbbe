// The vectors of this folder against the package, and the ids of README.md.

package wire2

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"example.com/gipc"
	"example.com/gipc/internal/testutil"
)

// vectorKeys are the keys of each kind of test after the first four. A key with a
// star may be repeated.
var vectorKeys = map[string]string{
	"handshake": "encryption server_private client_private server_limit shared_x key client_key server_hello client_reply server_point client_point limit_nonce limit_message client_end frame*",
	"server":    "encryption server_private server_limit admit client_sends then server_writes limit_key rest",
	"client":    "encryption client_private server_sends then client_writes rest",
	"receive":   "key limit stream then delivers* fails_after",
}

type vector struct {
	name   string
	fields map[string]string
	lines  []string // values of the key with the star
}

// loadVectors returns the vectors of a kind, or all of them.
func loadVectors(t testing.TB, kind string) (found []*vector) {
	t.Helper()
	paths, err := filepath.Glob("vectors/*.txt")
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
		if v.name = strings.TrimSuffix(filepath.Base(path), ".txt"); kind == "" || v.fields["test"] == kind {
			found = append(found, v)
		}
	}
	if len(found) == 0 {
		t.Fatalf("no vectors of kind %q", kind)
	}
	return found
}

func parseVector(text string) (*vector, error) {
	v := &vector{fields: map[string]string{}}
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		if !ok {
			return nil, fmt.Errorf("line %q", line)
		}
		if keys := vectorKeys[v.fields["test"]]; strings.Contains(keys+" ", key+"* ") {
			v.lines = append(v.lines, value)
			continue
		}
		if _, twice := v.fields[key]; twice {
			return nil, fmt.Errorf("key %q is repeated", key)
		}
		v.fields[key] = value
	}
	want := strings.Fields("comment cites test expect " + vectorKeys[v.fields["test"]])
	for _, key := range want {
		key, star := strings.CutSuffix(key, "*")
		if _, ok := v.fields[key]; !ok && !star {
			return nil, fmt.Errorf("key %q is missing", key)
		}
	}
	for key := range v.fields {
		if !slices.Contains(want, key) {
			return nil, fmt.Errorf("key %q is not known", key)
		}
	}
	return v, nil
}

func TestVectorLoaderIsStrict(t *testing.T) {
	t.Parallel()
	good := "comment: c\ncites: V-1\ntest: receive\nexpect: ok\nkey: -\nlimit: 1\nstream: -\nthen: end\nfails_after: -\n"
	if _, err := parseVector(good); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{good + "key: -\n", good + "other: -\n", strings.Replace(good, "limit: 1\n", "", 1), good + "nothing\n"} {
		if _, err := parseVector(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func (v *vector) bytes(t testing.TB, key string) []byte {
	t.Helper()
	text, ok := v.fields[key]
	if !ok {
		t.Fatalf("no field %q", key)
	}
	return unhex(t, text)
}

// unhex decodes a byte string. A dash is an empty one.
func unhex(t testing.TB, text string) []byte {
	t.Helper()
	if text == "-" {
		return nil
	}
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (v *vector) number(t testing.TB, key string) int {
	t.Helper()
	n, err := strconv.Atoi(v.fields[key])
	if err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	return n
}

// is reports whether a field has the first of two values.
func (v *vector) is(t testing.TB, key, yes, no string) bool {
	t.Helper()
	if got := v.fields[key]; got != yes && got != no {
		t.Fatalf("%s is %q, neither %q nor %q", key, got, yes, no)
	}
	return v.fields[key] == yes
}

// generator returns the private key of a field.
func (v *vector) generator(t testing.TB, key string) keyGenerator {
	t.Helper()
	if v.fields[key] == "-" {
		return nil // plaintext needs no key
	}
	return fixedKey(privateKey(t, v.fields[key]))
}

func (v *vector) script(t testing.TB, key string, piece int) *script {
	t.Helper()
	s := &script{sends: v.bytes(t, key), piece: piece}
	if v.is(t, "then", "end", "open") {
		s.end = io.EOF
	}
	return s
}

// sealsTo reports whether the plaintext, sealed with the nonce, is the frame.
func sealsTo(t testing.TB, key, nonce, plaintext, frame []byte) bool {
	t.Helper()
	if key == nil {
		return bytes.Equal(append(binary.BigEndian.AppendUint32(nil, uint32(len(plaintext))), plaintext...), frame)
	}
	opened := openWhole(t, key, frame)
	return bytes.Equal(frame[4:16], nonce) && bytes.Equal(opened, plaintext)
}

// openWhole returns the plaintext of a whole frame, or nil if there is none.
func openWhole(t testing.TB, key, frame []byte) []byte {
	t.Helper()
	if len(frame) < 4 || binary.BigEndian.Uint32(frame) != uint32(len(frame)-4) {
		return nil
	}
	if key == nil {
		return frame[4:]
	}
	plaintext, err := aeadOf(t, key).Open(nil, nil, frame[4:], nil)
	if err != nil {
		return nil
	}
	return plaintext
}

func typed(frameType uint32, data []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, frameType), data...)
}

func typeAndData(t testing.TB, typeText, dataText string) (uint32, []byte) {
	t.Helper()
	n, err := strconv.ParseUint(typeText, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n), unhex(t, dataText)
}

func TestVectorsHandshake(t *testing.T) {
	t.Parallel()
	for _, v := range loadVectors(t, "handshake") {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			v.checkHandshakeOfServer(t)
			if v.fields["key"] == v.fields["client_key"] {
				v.checkHandshakeOfClient(t)
			}
		})
	}
}

// checkHandshakeOfServer gives the server the client's messages one by one, and
// then the frames of both sides.
func (v *vector) checkHandshakeOfServer(t *testing.T) {
	near, far := socketPair(t)
	limit := uint32(v.number(t, "server_limit"))
	u := startUpgrade(t, func(l *library) (err error) {
		if l.Conn, err = upgradeServer(near, Options{Encryption: v.is(t, "encryption", "on", "off")}, v.generator(t, "server_private")); err != nil {
			return err
		}
		return l.acceptClient(limit)
	})
	p := v.peer(t, far)
	p.expect("server_hello")
	p.sends("client_reply")
	p.expect("server_point")
	p.sends("client_point")
	message := p.readFull(len(v.bytes(t, "limit_message")))
	testutil.Equal(t, "the limit opens", openWhole(t, v.bytes(t, "key"), message), binary.BigEndian.AppendUint32(nil, limit))
	if !sealsTo(t, v.bytes(t, "key"), v.bytes(t, "limit_nonce"), binary.BigEndian.AppendUint32(nil, limit), v.bytes(t, "limit_message")) {
		t.Error("the limit is not sealed as the vector says")
	}
	p.sends("client_end")
	v.exchangeFrames(t, u.wait(), p, "client")
}

func (v *vector) checkHandshakeOfClient(t *testing.T) {
	near, far := socketPair(t)
	u := startClient(t, near, Options{Encryption: v.is(t, "encryption", "on", "off")}, v.generator(t, "client_private"))
	p := v.peer(t, far)
	p.sends("server_hello")
	p.expect("client_reply")
	p.sends("server_point")
	p.expect("client_point")
	p.sends("limit_message")
	p.expect("client_end")
	v.exchangeFrames(t, u.wait(), p, "server")
}

// exchangeFrames sends the peer's frames as they are, and opens the package's.
func (v *vector) exchangeFrames(t *testing.T, l *library, p *vectorPeer, peer string) {
	t.Helper()
	for i, line := range v.lines {
		f := strings.Fields(line)
		frameType, data := typeAndData(t, f[1], f[2])
		wire := unhex(t, f[4])
		if !sealsTo(t, v.bytes(t, "client_key"), unhex(t, f[3]), typed(frameType, data), wire) {
			t.Fatalf("frame %d is not sealed as the vector says", i)
		}
		if f[0] == peer {
			p.write(wire)
			l.receive(frameType, string(data))
			continue
		}
		l.send(frameType, string(data))
		if got := openWhole(t, v.bytes(t, "client_key"), p.readFull(len(wire))); !bytes.Equal(got, typed(frameType, data)) {
			t.Fatalf("frame %d opens as %x", i, got)
		}
	}
}

// A vectorPeer sends and expects the fields of a vector.
type vectorPeer struct {
	*oldPeer
	v *vector
}

func (v *vector) peer(t testing.TB, conn net.Conn) *vectorPeer {
	t.Helper()
	return &vectorPeer{peerKind{name: "vector"}.on(t, conn), v}
}

func (p *vectorPeer) sends(field string) {
	p.Helper()
	if b := p.v.bytes(p, field); len(b) > 0 {
		p.write(b)
	}
}

func (p *vectorPeer) expect(field string) {
	p.Helper()
	want := p.v.bytes(p, field)
	if got := p.readFull(len(want)); !bytes.Equal(got, want) {
		p.Fatalf("%s is %x, want %x", field, got, want)
	}
}

func TestVectorsServer(t *testing.T) {
	t.Parallel()
	for _, v := range loadVectors(t, "server") {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			for _, piece := range []int{0, 1, 50} {
				v.checkServer(t, piece)
			}
		})
	}
}

func (v *vector) checkServer(t *testing.T, piece int) {
	s := v.script(t, "client_sends", piece)
	l := &library{TB: t}
	var err error
	l.Conn, err = upgradeServer(s, Options{Encryption: v.is(t, "encryption", "on", "off")}, v.generator(t, "server_private"))
	switch {
	case err != nil:
	case v.is(t, "admit", "yes", "no"):
		err = l.acceptClient(uint32(v.number(t, "server_limit")))
	default:
		err = errors.Join(l.offer(libraryLimit), errFull)
		l.write([]byte{7})
		closeWrite(l.Conn)
	}
	if key := v.bytes(t, "limit_key"); key != nil {
		at := max(0, s.got.Len()-36)
		if plaintext := openWhole(t, key, s.got.Bytes()[at:]); !bytes.Equal(plaintext, binary.BigEndian.AppendUint32(nil, uint32(v.number(t, "server_limit")))) {
			t.Errorf("the limit opens as %x", plaintext)
		}
		s.got.Truncate(at)
	}
	v.checkResult(t, l, err, s, "server_writes")
}

func TestVectorsClient(t *testing.T) {
	t.Parallel()
	for _, v := range loadVectors(t, "client") {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			for _, piece := range []int{0, 1, 50} {
				s := v.script(t, "server_sends", piece)
				l := &library{TB: t}
				var err error
				l.Conn, err = upgradeClient(s, Options{Encryption: v.is(t, "encryption", "required", "follow")}, v.generator(t, "client_private"))
				if err == nil {
					err = l.connect(libraryLimit)
				}
				v.checkResult(t, l, err, s, "client_writes")
			}
		})
	}
}

// errFull stands for a library that refuses the client.
var errFull = errors.New("the server is full")

// expectations are the errors behind the values of expect.
var expectations = map[string]error{
	"handshake malformed": gipc.ErrMalformed,
	"handshake truncated": gipc.ErrTruncated,
	"handshake refused 1": gipc.ErrVersion,
	"handshake refused 2": gipc.ErrEncryption,
	"handshake refuse 2":  gipc.ErrEncryption,
	"handshake full":      errFull,
	"frame malformed":     gipc.ErrMalformed,
	"frame not-authentic": gipc.ErrNotAuthentic,
	"frame truncated":     io.ErrUnexpectedEOF,
	"ok":                  nil,
}

// checkError checks err against the vector's expect.
func (v *vector) checkError(t *testing.T, err error) {
	t.Helper()
	want, known := expectations[v.fields["expect"]]
	if !known {
		t.Fatalf("expect %q is not known", v.fields["expect"])
	}
	if errors.Is(err, errBeyondScript) || (err == nil) != (want == nil) || !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
}

func (v *vector) checkResult(t *testing.T, l *library, err error, s *script, writes string) {
	t.Helper()
	v.checkError(t, err)
	testutil.Equal(t, "it writes", s.got.Bytes(), v.bytes(t, writes))
	if err == nil {
		l.expect(v.bytes(t, "rest"))
	}
}

func TestVectorsReceive(t *testing.T) {
	t.Parallel()
	for _, v := range loadVectors(t, "receive") {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			for _, piece := range []int{1, 2, 7, 4096} {
				v.checkReceive(t, piece)
			}
		})
	}
}

// checkReceive decodes the stream, and checks how much of it decides.
func (v *vector) checkReceive(t *testing.T, piece int) {
	d := &decoder{limit: v.number(t, "limit"), key: sharedKeyOf(t, v.bytes(t, "key"))}
	stream := v.bytes(t, "stream")
	var want []byte
	for _, line := range v.lines {
		f := strings.Fields(line)
		frameType, data := typeAndData(t, f[0], f[1])
		want = append(want, plainFrame(frameType, string(data))...)
	}
	got, used, err := decodeAll(d, stream, piece)
	if err == nil && v.is(t, "then", "end", "open") && !d.atBoundary() {
		err = io.ErrUnexpectedEOF
		got = got[:min(len(got), len(want))] // a truncated frame is passed on in part
	}
	v.checkError(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("pieces of %d: it delivers %x, want %x", piece, got, want)
	}
	if v.fields["fails_after"] == "-" {
		return
	}
	n := v.number(t, "fails_after")
	if used < n || used >= n+piece {
		t.Errorf("pieces of %d: it fails after %d bytes, not %d", piece, used, n)
	}
}

// decodeAll gives d the stream in pieces, and returns what d delivers and how
// much of the stream it had when it failed.
func decodeAll(d *decoder, stream []byte, piece int) (got []byte, used int, err error) {
	for part := range slices.Chunk(stream, piece) {
		used += len(part)
		for len(part) > 0 {
			n := copy(d.freeSpace(), part)
			d.bytesRead(n)
			part = part[n:]
			for {
				b, err := d.next()
				if got = append(got, b...); err != nil {
					return got, used, err
				}
				if len(b) == 0 {
					break
				}
			}
		}
	}
	return got, used, nil
}

// sharedKeyOf returns a key of 32 bytes, or nil for none.
func sharedKeyOf(t testing.TB, key []byte) *sharedKey {
	t.Helper()
	if key == nil {
		return nil
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	k := new(sharedKey)
	k.active.Store(&aead)
	return k
}

// citedByTests are the ids that a vector cannot prove, or not all of.
var citedByTests = map[string]string{
	"V-1":  "TestLibraryWithEncryptionOn",
	"V-2":  "TestServerRefusesClients",
	"V-9":  "TestWriteSplits",
	"V-12": "TestKeyLimits",
	"V-13": "TestCloseByLibrary",
}

// TestEveryIDIsCited compares the ids of README.md with those of the vectors and
// of citedByTests.
func TestEveryIDIsCited(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	defined := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^- \[(V-\d+)\]`).FindAllStringSubmatch(string(text), -1) {
		if defined[m[1]] {
			t.Errorf("%s is defined twice", m[1])
		}
		defined[m[1]] = true
	}
	if len(defined) < 13 {
		t.Errorf("only %d ids found", len(defined))
	}
	cited := map[string]bool{}
	for id, test := range citedByTests {
		cited[id] = true
		if !hasTest(t, test) {
			t.Errorf("%s is cited by %s, which does not exist", id, test)
		}
	}
	for _, v := range loadVectors(t, "") {
		for _, id := range strings.Fields(v.fields["cites"]) {
			cited[id] = true
		}
	}
	for id := range defined {
		if !cited[id] {
			t.Errorf("nothing cites %s", id)
		}
	}
	for id := range cited {
		if !defined[id] {
			t.Errorf("%s is cited and not defined", id)
		}
	}
}

func hasTest(t *testing.T, name string) bool {
	t.Helper()
	paths, _ := filepath.Glob("*_test.go")
	return slices.ContainsFunc(paths, func(path string) bool {
		text, err := os.ReadFile(path)
		return err == nil && bytes.Contains(text, []byte("func "+name+"(t *testing.T)"))
	})
}

func TestVectorsAreGenerated(t *testing.T) {
	t.Parallel()
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("Node.js is not installed")
	}
	if out, err := exec.Command(node, "vectors/generate.mjs", "--check").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
