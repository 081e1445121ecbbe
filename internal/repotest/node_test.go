// Tests of the client in spec/node, which is written from the text of the
// protocol alone, against this server: what both understand is what the text says.

package repotest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/gipc"
	"example.com/gipc/internal/testutil"
)

// nodeScript does what its second argument says, with the options of its first, and writes a line for each thing that happens.
const nodeScript = `
import { connect, Client } from './gipc.mjs';
const [given, mode, n] = JSON.parse(process.env.GIPC_TEST), say = (...s) => console.log(s.join(' '));
const options = { ...given, secret: given.secret ? Buffer.from(given.secret, 'hex') : null };
process.on('unhandledRejection', (e) => { say('unhandled', e.stack); process.exit(1); });
const close = (client) => client.close().then(() => say('held'), (e) => say(e.code));
if (mode === 'refused') await connect(options).then(() => say('connected'), (e) => say(e.code, e.reason));
if (mode === 'send') {
  const client = await connect(options), all = [];
  for (let i = 0; i < n; i++) all.push(client.write(1 + i, Buffer.alloc(i * 7 % 3000, i)));
  if (n > 1) await Promise.all(all);
  await close(client);
}
if (mode === 'call') { // n calls, of which many are open at once
  const client = await connect(options);
  const one = async (i) => {
    const r = await client.call(1 + i % 7, Buffer.alloc(i * 37 % 20000, i));
    if (r.type !== 2 + i % 7 || !r.data.equals(Buffer.alloc(i * 37 % 20000, i + 1))) say('call', i, 'gets', r.type, r.data.length);
  };
  await one(0);
  await Promise.all(Array.from({ length: n }, (_, i) => one(i)));
  await client.call(98, 'late', { timeout: 20 }).catch((e) => say(e.code, e.cause.code));
  await client.call(98, 'late', { signal: AbortSignal.timeout(20) }).catch((e) => say(e.code, e.cause.code));
  await client.call(98, 'never', { signal: AbortSignal.abort() }).catch((e) => say(e.code, e.cause.code));
  await client.call(1, Buffer.alloc(3145729)).catch((e) => say(e.code));
  await client.call(0).catch((e) => say(e.code));
  const open = [1, 2].map(() => client.call(98).catch((e) => say(e.code, e.cause.code)));
  await client.call(99);
  say('unasked', client.unasked);
  await Promise.all(open); // the server closes
  await client.close();
  await client.call(1).catch((e) => say(e.code, e.cause.code));
}
if (mode === 'serve') {
  const client = new Client(options);
  client.onRequest(async (m) => {
    if (m.type === 97) return m.reply(5, 'by hand').then(() => m.reply(5, 'again')).catch((e) => say(e.code));
    if (m.type === 98) return;
    if (m.type % 2) await new Promise((r) => setTimeout(r, m.data.length % 10));
    if (m.type === 4) return 'text';
    const back = await client.call(m.type, m.data); // from the handler
    return { type: m.type + 1, data: back.data };
  });
  for await (const { type, data } of client) if (type === 99) break;
  await close(client);
}
if (mode === 'iterate') {
  const client = new Client(options);
  for await (const m of client) {
    say(m.type, m.data, m.reply ? 'request' : 'message');
    if (m.type === 99) break;
    if (m.reply) await m.reply(m.type + 1, m.data);
  }
  await close(client);
}
if (mode === 'echo' || mode === 'count') {
  const client = new Client(options);
  let got = 0;
  client.on('status', (status, error) => say(status, error?.code ?? '-'));
  for await (const { type, data } of client) {
    got++;
    if (mode === 'echo' && type !== 99) { await client.write(type, data); continue; }
    if (mode === 'count' && got % 100 === 0) await new Promise((r) => setTimeout(r, 10));
    if (type === 99) { say('got', got); if (data.length) break; }
  }
  await close(client);
}
`

type nodeOptions struct {
	Name              string `json:"name"`
	Address           string `json:"address"`
	Secret            string `json:"secret,omitempty"`
	RequireEncryption bool   `json:"requireEncryption"`
	Timeout           int    `json:"timeout"`
}

const nodeSecret = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

// nodeRun is the client as a child process.
type nodeRun struct {
	t     *testing.T
	lines *bufio.Scanner
}

func needNode(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip("node is not there")
	}
}

func startNode(t *testing.T, o nodeOptions, mode string, n int) *nodeRun {
	t.Helper()
	return startNodeScript(t, nodeScript, o, mode, n)
}

func startNodeScript(t *testing.T, script string, o nodeOptions, mode string, n int) *nodeRun {
	t.Helper()
	o.Timeout = 20000
	given, err := json.Marshal([]any{o, mode, n})
	testutil.Must(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second) // t.Context ends before cleanups do
	// A Node.js that compiles or collects in a thread may never exit: nodejs/node issue 54918.
	cmd := exec.CommandContext(ctx, "node", "--single-threaded", "--input-type=module", "-e", script)
	cmd.Dir = filepath.Join("spec", "node") // what the script imports is relative to it
	cmd.Env = append(os.Environ(), "GIPC_TEST="+string(given))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	testutil.Must(t, err)
	testutil.Must(t, cmd.Start())
	t.Cleanup(func() {
		if t.Failed() {
			cancel()
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("node: %v\n%s", err, stderr.String())
		}
		cancel()
	})
	return &nodeRun{t, bufio.NewScanner(out)}
}

// says fails where the client does not say these lines next.
func (n *nodeRun) says(want ...string) {
	n.t.Helper()
	for _, w := range want {
		if !n.lines.Scan() {
			n.t.Fatalf("node has ended, want %q", w)
		}
		if n.lines.Text() != w {
			n.t.Fatalf("node says %q, want %q", n.lines.Text(), w)
		}
	}
}

func (n *nodeRun) ends() {
	n.t.Helper()
	if n.lines.Scan() {
		n.t.Fatalf("node says %q, want its end", n.lines.Text())
	}
}

// nodeServer is a server with the options of its client.
func nodeServer(t *testing.T, o nodeOptions) *gipc.Server {
	t.Helper()
	c := &gipc.ServerConfig{Name: o.Name, Network: "unix", Address: o.Address, Encryption: gipc.EncryptionOff}
	if o.RequireEncryption {
		c.Encryption = gipc.EncryptionOn
	}
	if o.Secret != "" {
		c.Secret = slices.Repeat([]byte{0}, 32)
		for i := range c.Secret {
			c.Secret[i] = byte(i)
		}
	}
	s, err := gipc.StartServer(c)
	testutil.Must(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func nodeDir(t *testing.T) nodeOptions {
	t.Helper()
	dir, err := os.MkdirTemp("", "gipc")
	testutil.Must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return nodeOptions{Name: "weather", Address: filepath.Join(dir, "s"), RequireEncryption: true}
}

// nodeRead reads until a message of the user, or until a status where one is wanted.
func nodeRead(t *testing.T, s *gipc.Server, status string) *gipc.Message {
	t.Helper()
	for {
		m, err := s.Read()
		testutil.Must(t, err)
		if m.MsgType == -1 && m.Status == status || m.MsgType != -1 && status == "" {
			return m
		}
	}
}

func nodeKinds(t *testing.T, f func(t *testing.T, o nodeOptions)) {
	needNode(t)
	for _, kind := range []string{"encrypted", "plaintext", "secret"} {
		t.Run(kind, func(t *testing.T) {
			o := nodeDir(t)
			o.RequireEncryption = kind != "plaintext"
			if kind == "secret" {
				o.Secret = nodeSecret
			}
			f(t, o)
		})
	}
}

// Empty, small, large and many messages go both ways, and the server closes, and then the client.
func TestNodeExchange(t *testing.T) {
	nodeKinds(t, func(t *testing.T, o nodeOptions) {
		s := nodeServer(t, o)
		n := startNode(t, o, "echo", 0)
		n.says("Connected -")
		nodeRead(t, s, "Connected")
		sizes := []int{0, 5, 1 << 20, 3145728, 1}
		for i := range 500 {
			sizes = append(sizes, i)
		}
		go func() {
			for i, size := range sizes {
				if err := s.Write(100+i, testutil.Payload(i, size)); err != nil {
					t.Errorf("message %d: %v", i, err)
				}
			}
		}()
		for i, size := range sizes {
			if m := nodeRead(t, s, ""); m.MsgType != 100+i || !bytes.Equal(m.Data, testutil.Payload(i, size)) {
				t.Fatalf("message %d came back with type %d and %d bytes", i, m.MsgType, len(m.Data))
			}
		}
		testutil.Must(t, s.Write(99, []byte("stop")))
		nodeRead(t, s, "Disconnected")
		n.says("got 506", "Closing -", "Closed -", "held")
		n.ends()
	})
}

// nodeHybridScript connects with the ML-KEM of the generator of the vectors, so that every
// version of Node.js has one, and without any.
const nodeHybridScript = `
import { randomBytes } from 'node:crypto';
import { Wire, handshake } from './gipc.mjs';
import { encapsulate } from '../vectors/mlkem.mjs';
const [given, mode] = JSON.parse(process.env.GIPC_TEST), wire = new Wire();
wire.connect({ path: given.address });
const kem = mode === 'hybrid' ? (key) => encapsulate(key, randomBytes(32)) : null;
await handshake(wire, { name: Buffer.from(given.name), secret: Buffer.from(given.secret, 'hex'), requireEncryption: true, limit: 1024, kem });
console.log('accepted');
wire.finish();
`

// TestNodeHybrid: both agreements with a client in another language.
func TestNodeHybrid(t *testing.T) {
	t.Parallel()
	needNode(t)
	for _, mode := range []string{"hybrid", "classical"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			o := nodeOptions{Name: "node", Address: testutil.TempSocket(t), Secret: nodeSecret, RequireEncryption: true}
			s := nodeServer(t, o)
			n := startNodeScript(t, nodeHybridScript, o, mode, 0)
			n.says("accepted")
			nodeRead(t, s, "Connected")
			if want := (gipc.Security{Encrypted: true, Hybrid: mode == "hybrid", Secret: true}); s.Security() != want {
				t.Errorf("%+v, want %+v", s.Security(), want)
			}
			n.ends()
		})
	}
}

// The client closes right after its last message: the server has all of them.
func TestNodeGoodbyeOfClient(t *testing.T) {
	nodeKinds(t, func(t *testing.T, o nodeOptions) {
		s := nodeServer(t, o)
		n := startNode(t, o, "send", 2000)
		for i := range 2000 {
			want := bytes.Repeat([]byte{byte(i)}, i*7%3000)
			if m := nodeRead(t, s, ""); m.MsgType != 1+i || !bytes.Equal(m.Data, want) {
				t.Fatalf("message %d has type %d and %d bytes", i, m.MsgType, len(m.Data))
			}
		}
		nodeRead(t, s, "Disconnected")
		n.says("held")
		n.ends()
	})
}

// The server closes right after its last message, and a client that reads slowly has all of them. Then another server
// comes, and the client with it.
func TestNodeGoodbyeOfServer(t *testing.T) {
	nodeKinds(t, func(t *testing.T, o nodeOptions) {
		s := nodeServer(t, o)
		n := startNode(t, o, "count", 0)
		n.says("Connected -")
		nodeRead(t, s, "Connected")
		for i := range 1999 {
			testutil.Must(t, s.Write(1, testutil.Payload(i, i)))
		}
		testutil.Must(t, s.Write(99, nil))
		testutil.Must(t, s.Close())
		var seen []string
		for range 2 {
			if !n.lines.Scan() {
				t.Fatal("node has ended")
			}
			seen = append(seen, n.lines.Text())
		}
		slices.Sort(seen) // a status does not wait until the messages before it were read
		if want := "Reconnecting goodbye,got 2000"; strings.Join(seen, ",") != want {
			t.Fatalf("node says %q, want %q", seen, want)
		}

		s = nodeServer(t, o)
		n.says("Connected -")
		nodeRead(t, s, "Connected")
		testutil.Must(t, s.Write(99, []byte("stop")))
		n.says("got 2001", "Closing -", "Closed -", "held")
		n.ends()
	})
}

// Clients that cannot prove themselves are refused, and the first that the server knows is the one that can.
func TestNodeRefused(t *testing.T) {
	needNode(t)
	o := nodeDir(t)
	o.Secret = nodeSecret
	s := nodeServer(t, o)
	for _, c := range []struct {
		change func(o *nodeOptions)
		want   string
	}{
		{func(o *nodeOptions) { o.Secret = strings.Repeat("ab", 32) }, "refused 6"},
		{func(o *nodeOptions) { o.Name = "Weather" }, "refused 6"},
		{func(o *nodeOptions) { o.Secret = "" }, "refuse 4"},
	} {
		other := o
		c.change(&other)
		n := startNode(t, other, "refused", 0)
		n.says(c.want)
		n.ends()
	}
	n := startNode(t, o, "send", 1)
	connected := 0
	for {
		m, err := s.Read()
		testutil.Must(t, err)
		if m.MsgType == -1 && m.Status == "Connected" {
			connected++
		}
		if m.MsgType == 1 {
			break
		}
	}
	if connected != 1 {
		t.Fatalf("%d clients were connected, want 1", connected)
	}
	n.says("held")
	n.ends()
}

// A server without a secret, and one without encryption, are refused by a client that requires them.
func TestNodeRefuses(t *testing.T) {
	needNode(t)
	for _, c := range []struct {
		encrypted bool
		secret    string
		want      string
	}{{true, nodeSecret, "refuse 5"}, {false, nodeSecret, "refuse 2"}, {false, "", "refuse 2"}} {
		o := nodeDir(t)
		o.RequireEncryption = c.encrypted
		nodeServer(t, o)
		o.RequireEncryption, o.Secret = true, c.secret
		n := startNode(t, o, "refused", 0)
		n.says(c.want)
		n.ends()
	}
}

// Requests of the client are answered by the server, many at once, and fail with what became of them.
func TestNodeCalls(t *testing.T) {
	nodeKinds(t, func(t *testing.T, o nodeOptions) {
		s := nodeServer(t, o)
		n := startNode(t, o, "call", 600)
		var late []*gipc.Message
		for {
			m := nodeRead(t, s, "")
			switch {
			case !m.IsRequest():
				t.Fatalf("%v is no request", m)
			case m.MsgType == 98:
				late = append(late, m)
				continue
			}
			data := bytes.Clone(m.Data)
			for i := range data {
				data[i]++
			}
			if m.MsgType == 99 {
				for _, l := range late[:2] {
					testutil.Must(t, l.Reply(1, nil)) // nobody waits
				}
			}
			testutil.Must(t, m.Reply(m.MsgType+1, data))
			if m.MsgType == 99 {
				break
			}
		}
		n.says("unknown timeout", "unknown aborted", "unsent aborted", "too-large", "type", "unasked 2")
		testutil.Must(t, s.Close())
		n.says("unknown goodbye", "unknown goodbye", "unsent closed")
		n.ends()
		if calls := s.Stats().Requests; calls != 606 || len(late) != 4 {
			t.Errorf("%d requests, %d of them late", calls, len(late))
		}
	})
}

// Requests of the server are answered by the client's handler, which calls back.
func TestNodeServes(t *testing.T) {
	nodeKinds(t, func(t *testing.T, o nodeOptions) {
		s := nodeServer(t, o)
		n := startNode(t, o, "serve", 0)
		nodeRead(t, s, "Connected")
		read := make(chan struct{})
		go func() { // answers what the handler asks
			defer close(read)
			for {
				m, err := s.Read()
				if err != nil {
					return
				}
				if m.IsRequest() {
					if err := m.Reply(m.MsgType, append(m.Data, '!')); err != nil {
						t.Error(err)
					}
				}
			}
		}()
		var wg sync.WaitGroup
		for i := range 300 {
			wg.Go(func() {
				data := testutil.Payload(i, i*91%20000)
				m, err := s.Call(t.Context(), 5+i%3, data)
				if err != nil || m.MsgType != 6+i%3 || !bytes.Equal(m.Data, append(data, '!')) {
					t.Errorf("call %d: %v, %v", i, m, err)
				}
			})
		}
		wg.Wait()
		if m, err := s.Call(t.Context(), 4, nil); err != nil || m.MsgType != 4 || string(m.Data) != "text" {
			t.Errorf("text: %v, %v", m, err)
		}
		if m, err := s.Call(t.Context(), 97, nil); err != nil || m.MsgType != 5 || string(m.Data) != "by hand" {
			t.Errorf("by hand: %v, %v", m, err)
		}
		n.says("replied")
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if m, err := s.Call(ctx, 98, nil); !errors.Is(err, gipc.ErrUnconfirmed) {
			t.Errorf("unanswered: %v, %v", m, err)
		}
		unanswered := make(chan error)
		go func() {
			_, err := s.Call(t.Context(), 98, nil)
			unanswered <- err
		}()
		testutil.Eventually(t, "the last call", func() bool { return s.Stats().Calls >= 304 })
		testutil.Must(t, s.Write(99, nil))
		if err := <-unanswered; !errors.Is(err, gipc.ErrUnconfirmed) {
			t.Errorf("the client closes: %v", err)
		}
		n.says("held")
		n.ends()
		testutil.Must(t, s.Close())
		<-read
	})
}

// Without a handler requests come among the messages, in order.
func TestNodeRequestsAmongMessages(t *testing.T) {
	nodeKinds(t, func(t *testing.T, o nodeOptions) {
		s := nodeServer(t, o)
		n := startNode(t, o, "iterate", 0)
		nodeRead(t, s, "Connected")
		testutil.Must(t, s.Queue(1, []byte("a")))
		m, err := s.Call(t.Context(), 2, []byte("b"))
		testutil.Must(t, err)
		if m.MsgType != 3 || string(m.Data) != "b" {
			t.Errorf("the reply is %v", m)
		}
		testutil.Must(t, s.Queue(3, []byte("c")))
		testutil.Must(t, s.Write(99, nil))
		n.says("1 a message", "2 b request", "3 c message", "99  message", "held")
		n.ends()
	})
}

// The client passes the vectors that concern it.
func TestNodeVectors(t *testing.T) {
	needNode(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "node", filepath.Join("spec", "node", "vectors.mjs")).CombinedOutput()
	t.Logf("%s", out)
	testutil.Must(t, err)
}
