// A small client of the protocol with switches that break one thing each. It
// shows that each scenario of gipc conform can fail.

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/mlkem"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// A mutant is one run of the small client. broken has the names of what is broken.
type mutant struct {
	broken  map[string]bool
	environ map[string]string
	stdout  io.Writer
	key     *ecdh.PrivateKey // of the first connection

	conn      net.Conn
	r         *bufio.Reader
	limit     int
	peerLimit int
	encrypted bool
	receiving *direction
	sending   *direction
	records   []byte // what is left of an opened record
	requests  uint64 // of the server
	calls     uint64 // of this client
	open      map[uint64]bool
	sent      bool // a message, request or reply
	closed    bool // the server's close has come
	pings     int
}

// A mutantExit ends a connection of the mutant with an exit code.
type mutantExit struct {
	code int
	text string
}

func (e *mutantExit) Error() string { return fmt.Sprintf("%s (%d)", e.text, e.code) }

func exit(code int, text string) error { return &mutantExit{code, text} }

// runMutant returns a client in which these things are broken.
func runMutant(broken ...string) func(context.Context, map[string]string, io.Writer) (int, error) {
	return func(ctx context.Context, environ map[string]string, stdout io.Writer) (int, error) {
		m := &mutant{broken: map[string]bool{}, environ: environ, stdout: stdout}
		for _, name := range broken {
			m.broken[name] = true
		}
		for {
			again, err := m.connection(ctx)
			code, ended := 0, (*mutantExit)(nil)
			switch {
			case errors.As(err, &ended):
				code = ended.code
			case err != nil:
				code = 1
			}
			if m.environ["RECONNECT"] == "1" && code >= 10 && code < 30 && !m.is("once") && ctx.Err() == nil {
				continue
			}
			if code != 0 || !again {
				if m.is("exit") {
					code = 1
				}
				return code, err
			}
		}
	}
}

func (m *mutant) is(name string) bool { return m.broken[name] }

func (m *mutant) print(format string, args ...any) { fmt.Fprintf(m.stdout, format+"\n", args...) }

// connection runs one connection. It reports true if a message asked for another.
func (m *mutant) connection(ctx context.Context) (again bool, err error) {
	*m = mutant{broken: m.broken, environ: m.environ, stdout: m.stdout, key: m.key, open: map[uint64]bool{}}
	if m.conn, err = net.Dial(m.environ["NETWORK"], m.environ["ADDRESS"]); err != nil {
		if m.environ["RECONNECT"] == "1" {
			<-time.After(time.Millisecond)
			err = exit(13, "the server is not there")
		}
		return false, err
	}
	defer m.conn.Close()
	defer context.AfterFunc(ctx, func() { m.conn.Close() })()
	m.r = bufio.NewReader(m.conn)
	if m.limit, err = strconv.Atoi(m.environ["LIMIT"]); err != nil {
		return false, err
	}
	if m.is("limit") {
		m.limit--
	}
	if err = m.handshake(); err != nil {
		m.finish()
		return false, err
	}
	m.print("connected")
	again, err = m.handle()
	var fault *mutantExit
	if errors.As(err, &fault) && fault.code >= 21 && fault.code <= 24 && m.is("close-after-fault") {
		m.write(control(kindClose, 0))
	}
	if fault != nil && fault.code == 20 && m.closed {
		m.callsFail()
	} else if err != nil {
		m.callsFail()
	}
	m.finish()
	return again, err
}

// callsFail reports the requests that are open.
func (m *mutant) callsFail() {
	if m.is("forgets-calls") {
		return
	}
	for range m.open {
		m.print("call unknown")
	}
	clear(m.open)
}

// finish ends the connection as section 10 says.
func (m *mutant) finish() {
	if m.is("reset") {
		return
	}
	m.conn.(interface{ CloseWrite() error }).CloseWrite()
	if m.is("no-drain") {
		return
	}
	m.conn.SetReadDeadline(time.Now().Add(time.Second))
	io.Copy(io.Discard, m.r)
}

// read reads n bytes of the handshake.
func (m *mutant) read(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(m.r, b); err != nil {
		return nil, exit(13, "handshake")
	}
	return b, nil
}

func (m *mutant) refuse(reason byte) error {
	if m.is("wrong-reason") {
		reason = 3
	}
	if m.is("refuses-silently") {
		return exit(11, "refused")
	}
	m.conn.Write([]byte{reason})
	if m.is("refuses-loudly") {
		m.conn.Write([]byte("because"))
	}
	return exit(11, "refused")
}

func (m *mutant) secret() []byte {
	path := m.environ["SECRET_FILE"]
	if path == "" {
		return nil
	}
	secret, _ := os.ReadFile(path)
	if m.is("trims-secret") {
		secret = bytes.TrimSpace(secret)
	}
	return secret
}

// handshake is the client's side of section 4.
func (m *mutant) handshake() error {
	version, err := m.read(1)
	switch {
	case err != nil:
		return err
	case version[0] == 0 && !m.is("ignores-refusal"):
		if _, err := m.read(1); err != nil {
			return err
		}
		if m.is("answers-refusal") {
			m.conn.Write([]byte{9})
		}
		return exit(10, "refused")
	case version[0] != 3 && !m.is("any-version"):
		return m.refuse(1)
	}
	if m.is("greedy") { // reads more than a field before it checks
		if _, err := m.r.Peek(pointSize + 5); err != nil {
			return exit(13, "handshake")
		}
	}
	rest, err := m.read(5)
	if err != nil {
		return err
	}
	flags, limit, secret := rest[0], binary.BigEndian.Uint32(rest[1:]), m.secret()
	required := m.environ["ENCRYPTION"] == "required" || secret != nil
	switch {
	case required && flags&flagEncrypted == 0 && !m.is("no-policy"), m.is("requires") && flags&flagEncrypted == 0:
		return m.refuse(2)
	case flags&flagSecret != 0 && secret == nil && !m.is("no-policy"):
		return m.refuse(4)
	case flags&flagSecret == 0 && secret != nil && !m.is("no-policy"):
		return m.refuse(5)
	case (flags&^7 != 0 || flags&flagHybrid != 0 && flags&flagEncrypted == 0) && !m.is("any-flags"):
		return m.refuse(9)
	case (limit < 1024 || limit > 1<<30) && !m.is("any-limit"):
		return m.refuse(9)
	}
	m.peerLimit = int(min(limit, 1<<30))
	m.encrypted = flags&flagEncrypted != 0
	hello := append([]byte{0}, flags)
	hello = binary.BigEndian.AppendUint32(hello, uint32(m.limit))
	if !m.encrypted {
		if m.is("plain-encrypts") {
			return errors.New("it cannot do without encryption")
		}
		m.conn.Write(hello)
		return m.serverFinish(nil)
	}
	return m.agree(append(version, rest...), hello, flags, secret)
}

// agree is the part of a handshake with keys.
func (m *mutant) agree(serverHello, hello []byte, flags byte, secret []byte) error {
	point, err := m.read(pointSize)
	if err != nil {
		return err
	}
	public, err := ecdh.P384().NewPublicKey(point)
	if err != nil {
		if m.is("any-point") {
			return exit(11, "refused")
		}
		return m.refuse(9)
	}
	serverHello = append(serverHello, point...)
	private := m.key
	if private == nil || !m.is("same-key") {
		if private, err = ecdh.P384().GenerateKey(rand.Reader); err != nil {
			return err
		}
		m.key = private
	}
	if m.environ["SCENARIO"] == "connect-leading-zero" { // at once, and not once in 256 times
		private = keyWithZero(public)
	}
	z, err := private.ECDH(public)
	if err != nil {
		return err
	}
	if m.is("strips-zeros") {
		z = bytes.TrimLeft(z, "\x00")
	}
	hello = append(hello, private.PublicKey().Bytes()...)
	if flags&flagHybrid != 0 {
		key, err := m.read(mlkem.EncapsulationKeySize1024)
		if err != nil {
			return err
		}
		serverHello = append(serverHello, key...)
		kem, err := mlkem.NewEncapsulationKey1024(key)
		if err != nil && !m.is("any-kem-key") {
			return m.refuse(9)
		}
		if kem == nil { // a client that does not check the key sends anything
			hello = append(hello, make([]byte, mlkem.CiphertextSize1024)...)
		} else {
			shared, ciphertext := kem.Encapsulate()
			z, hello = append(z, shared...), append(hello, ciphertext...)
		}
	}
	if m.is("sets-hybrid") {
		hello[1] |= flagHybrid
	}
	if m.is("clears-flags") {
		hello[1] = 0
	}
	name := m.environ["NAME"]
	if m.is("trims-name") {
		name = strings.TrimSpace(name)
	}
	if m.is("any-name") {
		name = strings.ToLower(name)
	}
	keys, err := newSchedule(name, secret, serverHello, hello, z)
	if err != nil {
		return err
	}
	if m.is("wrong-confirmation") {
		keys.clientConfirmation[0] ^= 1
	}
	m.conn.Write(append(hello, keys.clientConfirmation...))
	rekeyAt := int64(rekeyBytes)
	if text := m.environ["REKEY_AT"]; text != "" && !m.is("never-rekeys") {
		rekeyAt, _ = strconv.ParseInt(text, 10, 64)
	}
	if m.sending, err = newDirection(keys.clientTraffic, rekeyAt); err != nil {
		return err
	}
	if m.receiving, err = newDirection(keys.serverTraffic, rekeyAt); err != nil {
		return err
	}
	return m.serverFinish(keys.serverConfirmation)
}

// keyWithZero returns a key with which the shared x-coordinate begins with 0.
func keyWithZero(public *ecdh.PublicKey) *ecdh.PrivateKey {
	for {
		private, err := ecdh.P384().GenerateKey(rand.Reader)
		if err != nil {
			panic(err)
		}
		if x, err := private.ECDH(public); err == nil && x[0] == 0 {
			return private
		}
	}
}

func (m *mutant) serverFinish(confirmation []byte) error {
	if m.is("early") {
		m.write(message(5, []byte("early")))
	}
	reply, err := m.read(1)
	if err != nil {
		return err
	}
	if reply[0] != 0 {
		if m.is("retries-refusal") {
			return exit(1, "refused")
		}
		return exit(10, "refused")
	}
	got, err := m.read(len(confirmation))
	if err != nil {
		return err
	}
	if m.is("first-byte") && got[0] == confirmation[0] {
		copy(got, confirmation)
	}
	if !bytes.Equal(got, confirmation) && !m.is("any-confirmation") {
		if m.is("answers-unproven") {
			m.conn.Write([]byte{6})
		}
		return exit(12, "unproven")
	}
	if m.is("drops-behind") {
		m.r.Discard(m.r.Buffered())
	}
	return nil
}
