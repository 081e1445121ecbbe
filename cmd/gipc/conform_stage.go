// One scenario while it runs: the server's socket, the client's process, and
// what they did.

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"example.com/gipc"
)

// defaultLimit is the limit of both sides unless a scenario has another one.
const defaultLimit = 3145728

// A setup is what both sides of a scenario are configured with. The zero value
// is an encrypted server without a secret.
type setup struct {
	plain        bool   // the server speaks plaintext
	follow       bool   // the client does what the server does
	name         string // "": conform
	clientName   string // "": name
	secret       []byte // of the server
	clientSecret []byte
	limit        int   // of the server; 0: defaultLimit
	clientLimit  int   // 0: defaultLimit
	rekeyAt      int64 // 0: rekeyBytes, and not in the environment
	reconnect    bool
	classical    bool // the server does not offer hybrid
	split        bool // the server writes byte by byte
}

// withDefaults fills in the fields that are zero.
func (u setup) withDefaults() setup {
	if u.name == "" {
		u.name = "conform"
	}
	if u.clientName == "" {
		u.clientName = u.name
	}
	if u.limit == 0 {
		u.limit = defaultLimit
	}
	if u.clientLimit == 0 {
		u.clientLimit = defaultLimit
	}
	return u
}

// A stage is one run of a scenario.
type stage struct {
	setup
	scenario *scenario
	ctx      context.Context // done a moment after the client has exited
	cancel   context.CancelFunc
	deadline time.Time
	timeout  time.Duration
	dir      string
	network  string
	address  string
	listener net.Listener // nil in scenarios of the library
	server   *gipc.Server // in scenarios of the library

	err       error    // the first thing that did not hold
	note      string   // what is worth knowing although all held
	delivered []string // lines about messages and requests that the client has to print
	lines     []string // other lines that it has to print
	peers     []*peer
	exits     []int
}

// newStage makes the directory and the address of a scenario.
func newStage(ctx context.Context, s *scenario, network string, timeout time.Duration) (*stage, error) {
	dir, err := os.MkdirTemp("", "g")
	if err != nil {
		return nil, err
	}
	st := &stage{setup: s.setup.withDefaults(), scenario: s, network: network, timeout: timeout, dir: dir, exits: s.exits}
	st.ctx, st.cancel = context.WithCancel(ctx)
	st.deadline = time.Now().Add(timeout)
	if len(st.exits) == 0 {
		st.exits = []int{0}
	}
	st.address = filepath.Join(dir, "s")
	if network == "tcp" {
		st.address = "127.0.0.1:0"
	}
	if s.library {
		st.startLibrary()
	} else {
		st.listen()
	}
	if st.err == nil && st.clientSecret != nil {
		st.err = os.WriteFile(st.secretFile(), st.clientSecret, 0o600)
	}
	return st, nil
}

func (st *stage) secretFile() string { return filepath.Join(st.dir, "secret") }

func (st *stage) listen() {
	st.listener, st.err = net.Listen(st.network, st.address)
	if st.err == nil {
		st.address = st.listener.Addr().String()
		st.acceptUntil(st.deadline)
	}
}

// acceptUntil limits the time of accept.
func (st *stage) acceptUntil(t time.Time) {
	if l, ok := st.listener.(interface{ SetDeadline(time.Time) error }); ok {
		_ = l.SetDeadline(t) // an error shows in accept
	}
}

// startLibrary starts the library's server at the address of the stage.
func (st *stage) startLibrary() {
	config := &gipc.ServerConfig{Name: st.name, Network: st.network, Address: st.address, Secret: st.secret, MaxMsgSize: st.limit}
	if st.plain {
		config.Encryption = gipc.EncryptionOff
	}
	st.server, st.err = gipc.StartServer(config)
	if st.err == nil {
		st.address = st.server.Addr().String()
	}
}

// environ returns the environment of the client.
func (st *stage) environ() []string {
	env := slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "GIPC_CONFORM_") })
	set := func(name, value string) { env = append(env, "GIPC_CONFORM_"+name+"="+value) }
	set("SCENARIO", st.scenario.name)
	set("NETWORK", st.network)
	set("ADDRESS", st.address)
	set("NAME", st.clientName)
	set("LIMIT", strconv.Itoa(st.clientLimit))
	set("ENCRYPTION", "required")
	if st.follow {
		set("ENCRYPTION", "follow")
	}
	if st.clientSecret != nil {
		set("SECRET_FILE", st.secretFile())
	}
	if st.reconnect {
		set("RECONNECT", "1")
	}
	if st.rekeyAt != 0 {
		set("REKEY_AT", strconv.FormatInt(st.rekeyAt, 10))
	}
	return env
}

// close ends everything that the stage has opened.
func (st *stage) close() {
	st.cancel()
	if st.listener != nil {
		st.listener.Close()
	}
	if st.server != nil {
		st.server.Close()
	}
	for _, p := range st.peers {
		p.abort()
	}
	os.RemoveAll(st.dir)
}

// fail records what did not hold. Only the first failure counts: what follows
// it is a consequence.
func (st *stage) fail(id, format string, args ...any) { st.failed(violate(id, format, args...)) }

func (st *stage) failed(err error) {
	if st.err == nil {
		st.err = err
	}
}

// check is failed if there is an error.
func (st *stage) check(err error) {
	if err != nil {
		st.failed(err)
	}
}

// accept returns the next connection of the client.
func (st *stage) accept() *peer {
	p := &peer{stage: st}
	st.peers = append(st.peers, p)
	if st.err != nil {
		return p
	}
	conn, err := st.listener.Accept()
	if err != nil {
		st.fail(st.scenario.ids[0], "the client did not connect")
		return p
	}
	p.conn = conn
	p.out = newOutbox(conn, st.split)
	p.in = newClientStream(conn, st.limit)
	return p
}

// clientExited ends what waits for a client that has exited. What it has sent
// before is still read.
func (st *stage) clientExited() {
	time.AfterFunc(time.Second, st.cancel)
	if soon := time.Now().Add(100 * time.Millisecond); soon.Before(st.deadline) {
		st.acceptUntil(soon)
	}
}

// printed checks what the client has printed.
func (st *stage) printed(output []byte) {
	var delivered, lines []string
	for line := range bytes.Lines(output) {
		text := strings.TrimRight(string(line), "\r\n")
		if strings.HasPrefix(text, "message ") || strings.HasPrefix(text, "request ") {
			delivered = append(delivered, text)
		} else {
			lines = append(lines, text)
		}
	}
	if st.scenario.anyOutput {
		return
	}
	for _, kind := range []string{"message ", "request "} {
		st.compare(kind, only(delivered, kind), only(st.delivered, kind))
	}
	slices.Sort(lines)
	slices.Sort(st.lines)
	if !slices.Equal(lines, st.lines) {
		st.fail("F-10", "the client printed %q besides its messages, and %q was expected", lines, st.lines)
	}
}

func only(lines []string, prefix string) []string {
	return slices.DeleteFunc(slices.Clone(lines), func(s string) bool { return !strings.HasPrefix(s, prefix) })
}

func (st *stage) compare(kind string, got, want []string) {
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			st.fail("F-9", "the client did not print %q, which was sent as %s%d", want[i], kind, i)
		case i >= len(want):
			st.fail("F-9", "the client printed %q, which must not be delivered", got[i])
		case got[i] != want[i]:
			st.fail("R-8", "the client printed %q as %s%d, and %q was sent", got[i], kind, i, want[i])
		default:
			continue
		}
		return
	}
}

// errSkipped is the result of a client that cannot do a scenario.
var errSkipped = errors.New("the client cannot do this")

// exited checks the exit code of the client.
func (st *stage) exited(code int) {
	switch {
	case code == exitSkip:
		st.err = errSkipped
	case !slices.Contains(st.exits, code):
		st.fail(st.scenario.exitID(), "the client exited with %s, and %s was expected", exitText(code), exitTexts(st.exits))
	}
}

// exitSkip is the exit code of a client that cannot do a scenario.
const exitSkip = 77

var exitMeanings = map[int]string{
	0: "closed and confirmed", 1: "something else", 10: "refused by the server", 11: "refused the server", 12: "wrong confirmation", 13: "truncated handshake",
	20: "closed by the server", 21: "truncated between frames", 22: "truncated inside a frame", 23: "malformed", 24: "not authentic", 30: "not confirmed",
}

func exitText(code int) string {
	if meaning := exitMeanings[code]; meaning != "" {
		return fmt.Sprintf("%d (%s)", code, meaning)
	}
	return strconv.Itoa(code)
}

func exitTexts(codes []int) string {
	var texts []string
	for _, code := range codes {
		texts = append(texts, exitText(code))
	}
	return strings.Join(texts, " or ")
}
