// Tests of the configurations: defaults, refusals, copies, and the environment.

package gipc

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/gipc/internal/sys"
	"example.com/gipc/internal/testutil"
)

var testSecret = bytes.Repeat([]byte{7}, 32)

// clearEnvironment gives the test the environment of a user who has set nothing.
func clearEnvironment(t *testing.T) {
	for _, name := range []string{"GIPC_DEBUG", "GIPC_SOCKET_DIR", "GIPC_NETWORK_HOST", "GIPC_NETWORK_PORT"} {
		t.Setenv(name, "")
	}
}

func TestConfigDefaults(t *testing.T) {
	clearEnvironment(t)
	server, err := (&ServerConfig{Name: "n", Network: "unix"}).settings()
	if err != nil {
		t.Fatal(err)
	}
	client, err := (&ClientConfig{Name: "n", Network: "unix"}).settings()
	if err != nil {
		t.Fatal(err)
	}
	path, err := filepath.Abs("/tmp/n.sock")
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" {
		path = fmt.Sprintf("/tmp/gipc-%d/n.sock", os.Geteuid())
	}
	for which, s := range map[string]*settings{"server": server, "client": client} {
		if !s.encrypt || s.secret != nil || s.maxDataSize != 3145728 || s.busyPoll != 0 || s.eventLog == nil {
			t.Errorf("%s: %+v", which, s)
		}
		if s.network != "unix" || runtime.GOOS != "windows" && s.address != path {
			t.Errorf("%s: address %s %s", which, s.network, s.address)
		}
		if s.eventLog.Logger != nil {
			t.Errorf("%s: the default logger is not silent", which)
		}
	}
	if server.unmaskSocket || server.multiClient || server.maxClients != 0 || server.authorizeFunc != nil || server.listener != nil {
		t.Errorf("server: %+v", server)
	}
	if client.maxRetryDelay != time.Second || client.totalTimeout != 0 || client.allowAnyUser || client.dialFunc != nil {
		t.Errorf("client: %+v", client)
	}
	if s, err := (&ServerConfig{Name: "n"}).settings(); err != nil || s.network != sys.DefaultNetwork {
		t.Errorf("default network: %v, %v", s, err)
	}
	if EncryptionOn != 0 {
		t.Error("a zero value is not the safe one")
	}
}

func TestConfigRefusals(t *testing.T) {
	clearEnvironment(t)
	short, zeros := []byte("ssecret"), make([]byte, 40)
	server := func(change func(*ServerConfig)) func() (*settings, error) {
		c := &ServerConfig{Name: "n"}
		change(c)
		return c.settings
	}
	client := func(change func(*ClientConfig)) func() (*settings, error) {
		c := &ClientConfig{Name: "n"}
		change(c)
		return c.settings
	}
	long, err := filepath.Abs("/" + strings.Repeat("d/", sys.MaxSocketPath/2+1) + "s") // with its volume on Windows
	if err != nil {
		t.Fatal(err)
	}
	type refusal struct {
		field string // what the text must name
		make  func() (*settings, error)
	}
	cases := []refusal{
		{"nil", (*ServerConfig)(nil).settings},
		{"nil", (*ClientConfig)(nil).settings},
		{"Network", server(func(c *ServerConfig) { c.Network = "udp" })},
		{"Network", client(func(c *ClientConfig) { c.Network = "Unix"; c.Dial = refuseToDial })},
		{"Encryption", server(func(c *ServerConfig) { c.Encryption = 2 })},
		{"Encryption", client(func(c *ClientConfig) { c.Encryption = -1 })},
		{"Secret", server(func(c *ServerConfig) { c.Secret = short })},
		{"Secret", server(func(c *ServerConfig) { c.Secret = []byte{} })},
		{"Secret", client(func(c *ClientConfig) { c.Secret = testSecret[:31] })},
		{"Secret", server(func(c *ServerConfig) { c.Secret = zeros })},
		{"Secret", server(func(c *ServerConfig) { c.Secret = testSecret; c.Encryption = EncryptionOff })},
		{"Secret", client(func(c *ClientConfig) { c.Secret = testSecret; c.Encryption = EncryptionOff })},
		{"MaxMsgSize", server(func(c *ServerConfig) { c.MaxMsgSize = -1 })},
		{"MaxMsgSize", server(func(c *ServerConfig) { c.MaxMsgSize = 1023 })},
		{"MaxMsgSize", client(func(c *ClientConfig) { c.MaxMsgSize = 1<<30 + 1 })},
		{"MaxClients", server(func(c *ServerConfig) { c.MaxClients = -1; c.MultiClient = true })},
		{"MultiClient", server(func(c *ServerConfig) { c.MaxClients = 2 })},
		{"Heartbeat", server(func(c *ServerConfig) { c.Heartbeat = time.Second - 1 })},
		{"Heartbeat", client(func(c *ClientConfig) { c.Heartbeat = 1 })},
		{"BusyPoll", server(func(c *ServerConfig) { c.BusyPoll = -1 })},
		{"BusyPoll", client(func(c *ClientConfig) { c.BusyPoll = -1 })},
		{"Timeout", client(func(c *ClientConfig) { c.Timeout = -1 })},
		{"RetryTimer", client(func(c *ClientConfig) { c.RetryTimer = -1 })},
		{"RetryTimer", client(func(c *ClientConfig) { c.RetryTimer = 20 })},
		{"Address", server(func(c *ServerConfig) { c.Network = "unix"; c.Address = "@abstract" })},
		{"Address", server(func(c *ServerConfig) { c.Network = "unix"; c.Address = "/tmp/a\x00b" })},
		{"Address", client(func(c *ClientConfig) { c.Network = "tcp"; c.Address = "localhost" })},
		{"Address", server(func(c *ServerConfig) { c.Network = "tcp"; c.Address = "127.0.0.1:65536" })},
		{fmt.Sprintf("%s has %d bytes and the system's limit is %d", long, len(long), sys.MaxSocketPath), client(func(c *ClientConfig) { c.Network = "unix"; c.Address = long })},
	}
	for _, name := range []string{"", ".", "..", "a/b", `a\b`, "a\x00b", "a\xffb", strings.Repeat("n", 256)} {
		cases = append(cases, refusal{"Name", server(func(c *ServerConfig) { c.Name = name })},
			refusal{"Name", client(func(c *ClientConfig) { c.Name = name; c.Dial = refuseToDial })})
	}
	for _, c := range cases {
		s, err := c.make()
		if s != nil || !errors.Is(err, ErrConfig) {
			t.Errorf("%s: got %+v, %v, want ErrConfig", c.field, s, err)
			continue
		}
		if text := err.Error(); !strings.Contains(text, c.field) || strings.Count(text, "gipc: ") != 1 || !strings.HasPrefix(text, "gipc: ") {
			t.Errorf("%s: the text is %q", c.field, text)
		} else if strings.Contains(text, string(short)) {
			t.Errorf("%s: the text shows a secret: %q", c.field, text)
		}
	}
}

func refuseToDial(context.Context) (net.Conn, error) { return nil, errors.New("not today") }

func refuseToUpgrade(net.Conn) (net.Conn, error) { return nil, errors.New("not today") }

func TestConfigLimitsAccepted(t *testing.T) {
	clearEnvironment(t)
	for _, size := range []int{1024, 1 << 30} {
		for _, name := range []string{"n", "...", "@n", " ", strings.Repeat("é", 127) + "x"} {
			c := &ServerConfig{Name: name, Network: "tcp", MaxMsgSize: size, Heartbeat: time.Second,
				Secret: append(make([]byte, 31), 1), MultiClient: true, MaxClients: 1}
			if _, err := c.settings(); err != nil {
				t.Errorf("%q, %d: %v", name, size, err)
			}
		}
	}
	if _, err := (&ClientConfig{Name: "n", Heartbeat: -1, Encryption: EncryptionOff}).settings(); err != nil {
		t.Error(err)
	}
}

// TestConfigEveryField sets each field to something and expects to see it in
// the settings, so that none is forgotten.
func TestConfigEveryField(t *testing.T) {
	clearEnvironment(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	samples := map[string]any{
		"Name": "other", "Network": "tcp", "Address": "/x/y.sock", "Encryption": EncryptionOff,
		"Secret": testSecret, "Secrets": map[string][]byte{"a": testSecret}, "MaxMsgSize": 4096, "UnmaskPermissions": true, "MultiClient": true, "MaxClients": 3,
		"Authorize": func(Peer) error { return nil }, "Heartbeat": time.Minute, "BusyPoll": time.Millisecond,
		"Upgrade": refuseToUpgrade, "Listener": listener, "Logger": slog.New(slog.NewTextHandler(io.Discard, nil)),
		"Timeout": time.Minute, "RetryTimer": time.Minute, "AllowAnyUser": true, "Dial": refuseToDial,
	}
	log := slog.New(slog.DiscardHandler)
	check := func(config any, settings func() (*settings, error)) {
		v := reflect.ValueOf(config).Elem()
		for i := range v.NumField() {
			name := v.Type().Field(i).Name
			v.SetZero()
			v.FieldByName("Name").SetString("n")
			v.FieldByName("Network").SetString("unix")
			v.FieldByName("Logger").Set(reflect.ValueOf(log))
			if name == "MaxClients" {
				v.FieldByName("MultiClient").SetBool(true)
			}
			before, err := settings()
			if err != nil {
				t.Fatal(err)
			}
			sample, ok := samples[name]
			if !ok {
				t.Errorf("%T.%s is new: give it a sample here", config, name)
				continue
			}
			v.Field(i).Set(reflect.ValueOf(sample))
			after, err := settings()
			if err != nil {
				t.Errorf("%T.%s: %v", config, name, err)
			} else if fmt.Sprintf("%+v", *before) == fmt.Sprintf("%+v", *after) {
				t.Errorf("%T.%s changes nothing in the settings", config, name)
			}
		}
	}
	server, client := new(ServerConfig), new(ClientConfig)
	check(server, func() (*settings, error) { return server.settings() })
	check(client, func() (*settings, error) { return client.settings() })
}

func TestConfigSecretIsCopied(t *testing.T) {
	clearEnvironment(t)
	secret := bytes.Clone(testSecret)
	server, err := (&ServerConfig{Name: "n", Secret: secret}).settings()
	if err != nil {
		t.Fatal(err)
	}
	client, err := (&ClientConfig{Name: "n", Secret: secret}).settings()
	if err != nil {
		t.Fatal(err)
	}
	clear(secret)
	if !bytes.Equal(server.secret, testSecret) || !bytes.Equal(client.secret, testSecret) {
		t.Error("the settings share the caller's secret")
	}
}

func TestConfigEnvironment(t *testing.T) {
	dir := t.TempDir()
	clearEnvironment(t)
	t.Setenv("GIPC_SOCKET_DIR", dir)
	t.Setenv("GIPC_NETWORK_HOST", "::1")
	t.Setenv("GIPC_NETWORK_PORT", "9000")
	for _, c := range []struct{ network, address, want string }{
		{"unix", "", filepath.Join(dir, "n.sock")},
		{"unix", filepath.Join(dir, "mine"), filepath.Join(dir, "mine")},
		{"tcp", "", "[::1]:9000"},
		{"tcp", "127.0.0.1:1", "127.0.0.1:1"},
	} {
		s, err := (&ClientConfig{Name: "n", Network: c.network, Address: c.address}).settings()
		if len(c.want) > sys.MaxSocketPath {
			t.Skipf("the temporary directory's path is too long: %s", c.want)
		}
		if err != nil || s.address != c.want {
			t.Errorf("%s %q: %v, %v, want %s", c.network, c.address, s, err, c.want)
		}
	}
	t.Setenv("GIPC_NETWORK_HOST", "")
	if s, err := (&ServerConfig{Name: "n", Network: "tcp"}).settings(); err != nil || s.address != "127.0.0.1:9000" {
		t.Errorf("default host: %v, %v", s, err)
	}
	for _, port := range []string{"x", "-1", "65536", "80 80", "1e3"} {
		t.Setenv("GIPC_NETWORK_PORT", port)
		_, err := (&ServerConfig{Name: "n", Network: "tcp"}).settings()
		if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "GIPC_NETWORK_PORT") {
			t.Errorf("port %q: %v", port, err)
		}
		if _, err := (&ServerConfig{Name: "n", Network: "unix"}).settings(); err != nil {
			t.Errorf("port %q disturbs unix: %v", port, err)
		}
	}
	t.Setenv("GIPC_NETWORK_PORT", "")
	if s, err := (&ServerConfig{Name: "n", Network: "tcp"}).settings(); err != nil || s.address != "127.0.0.1:8100" {
		t.Errorf("default port: %v, %v", s, err)
	}
	t.Setenv("GIPC_SOCKET_DIR", "relative")
	if s, err := (&ServerConfig{Name: "n", Network: "unix"}).settings(); err != nil || !filepath.IsAbs(s.address) {
		t.Errorf("a relative directory: %v, %v", s, err)
	}
}

func TestDebugWords(t *testing.T) {
	ctx := context.Background()
	for word, least := range map[string]slog.Level{"true": slog.LevelDebug, "1": slog.LevelDebug, "debug": slog.LevelDebug,
		"DEBUG": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError} {
		var out bytes.Buffer
		log := debugLogger(word, &out)
		if log.Enabled(ctx, least-1) || !log.Enabled(ctx, least) {
			t.Errorf("%s: wrong level", word)
		}
		log.Log(ctx, least, "seen")
		if !strings.Contains(out.String(), "seen") || strings.Count(out.String(), "\n") != 1 {
			t.Errorf("%s: wrote %q", word, out.String())
		}
	}
	for word, lines := range map[string]int{"": 0, "false": 0, "0": 0, "yes": 1} {
		var out bytes.Buffer
		if log := debugLogger(word, &out); log != nil || strings.Contains(out.String(), "unseen") || strings.Count(out.String(), "\n") != lines {
			t.Errorf("%q: wrote %q", word, out.String())
		}
		if lines > 0 && !strings.Contains(out.String(), word) {
			t.Errorf("%q: the warning does not show the word: %q", word, out.String())
		}
	}
	clearEnvironment(t)
	t.Setenv("GIPC_DEBUG", "info")
	mine := slog.New(slog.DiscardHandler)
	for _, c := range []struct {
		logger *slog.Logger
		want   bool
	}{{nil, true}, {mine, false}} {
		s, err := (&ClientConfig{Name: "n", Logger: c.logger}).settings()
		if err != nil || (s.eventLog.Logger.Handler() != mine.Handler()) != c.want {
			t.Errorf("GIPC_DEBUG with logger %v: %v", c.logger, err)
		}
	}
}

type connFrom struct {
	net.Conn
	addr net.Addr
}

func (c connFrom) RemoteAddr() net.Addr { return c.addr }

func TestHeartbeatFor(t *testing.T) {
	tcp, unix := connFrom{addr: &net.TCPAddr{}}, connFrom{addr: &net.UnixAddr{Net: "unix"}}
	for _, c := range []struct {
		configured time.Duration
		conn       net.Conn
		want       time.Duration
	}{
		{0, tcp, 15 * time.Second}, {0, unix, 0}, {0, connFrom{}, 0},
		{-1, tcp, 0}, {-1, unix, 0},
		{time.Minute, tcp, time.Minute}, {time.Minute, unix, time.Minute},
	} {
		if got := (&settings{heartbeat: c.configured}).heartbeatFor(c.conn.RemoteAddr()); got != c.want {
			t.Errorf("Heartbeat %v on %v: %v, want %v", c.configured, c.conn.RemoteAddr(), got, c.want)
		}
	}
}

// loud returns what a file has that ends the process or writes to its output.
func loud(file *ast.File) (found []string) {
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			if f, ok := n.Fun.(*ast.Ident); ok && (f.Name == "panic" || f.Name == "print" || f.Name == "println") {
				found = append(found, f.Name)
			}
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok {
				switch name := x.Name + "." + n.Sel.Name; {
				case name == "os.Exit", name == "os.Stdout", name == "os.Stderr", name == "runtime.Goexit", name == "syscall.Kill",
					name == "syscall.Exit", strings.HasPrefix(name, "fmt.Print"), x.Name == "log":
					found = append(found, name)
				}
			}
		}
		return true
	})
	return found
}

func TestLibraryNeverExitsOrPanics(t *testing.T) {
	t.Parallel()
	parse := func(name string, source any) *ast.File {
		file, err := parser.ParseFile(token.NewFileSet(), name, source, 0)
		if err != nil {
			t.Fatal(err)
		}
		return file
	}
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, name := range names {
		if !strings.HasSuffix(name, "_test.go") {
			for _, what := range loud(parse(name, nil)) {
				all = append(all, name+" "+what)
			}
		}
	}
	// It is what GIPC_DEBUG asks for.
	if got := strings.Join(all, ", "); got != "config.go os.Stderr" {
		t.Errorf("found: %s", got)
	}
	const source = `package p; func f() { panic(1); os.Exit(1); fmt.Println(1); log.Fatal(1); println(1); x.os.Exit() }`
	if got := strings.Join(loud(parse("p.go", source)), " "); got != "panic os.Exit fmt.Println log.Fatal println" {
		t.Errorf("in %s: %s", source, got)
	}
}

// A server meets everything that is worth a log and writes not a byte.
func TestLibraryIsSilent(t *testing.T) {
	t.Parallel()
	if testChildren["end"] == nil {
		t.Skip("the process that is listened to is for unix systems")
	}
	var errs bytes.Buffer
	path := testutil.TempSocket(t)
	c := startChild(t, "end", func(c *exec.Cmd) {
		c.Env = append(c.Env, "GIPC_DEBUG=")
		c.Stderr = &errs
	})
	c.ask("ok", "serve %s -1s", path)
	for _, say := range []string{"", "GET / HTTP/1.1\r\n\r\n", "\x00\x01\x00\x10\x00\x00" + strings.Repeat("\x00", 145), "\x02"} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		conn.Write([]byte(say))
		conn.Close()
	}
	for _, config := range []*ClientConfig{{Name: "many"}, {Name: "other"}, {Name: "many", Secret: testSecret}} {
		config.Network, config.Address = "unix", path
		if one, err := StartClient(config); err == nil {
			one.Shutdown(past1(t)) // without a close
		}
	}
	last, err := StartClient(&ClientConfig{Name: "many", Network: "unix", Address: path})
	if err != nil {
		t.Fatal(err)
	}
	skipStatus(t, last, 2)
	write(t, last, 1)
	if m, err := last.ReadTimed(time.Minute); err != nil || m.MsgType != 1 {
		t.Fatal(m, err)
	}
	if err := last.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, "the server knows of both losses", func() bool {
		c.say("sum") // and its answer is all that it says
		return strings.HasPrefix(c.hear(), "2 lost, 2 came, ")
	})
	c.kill() // it has no more to say
	if errs.Len() > 0 {
		t.Errorf("the library has written: %s", errs.String())
	}
}

// warnings returns a logger of level Warn, and a function that returns what was
// logged since it was called last.
func warnings(t *testing.T) (*slog.Logger, func() []string) {
	var log lockedBuffer
	return slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn})), func() []string {
		t.Helper()
		synctest.Wait()
		log.mu.Lock()
		defer log.mu.Unlock()
		lines := strings.Split(log.b.String(), "\n")
		log.b.Reset()
		return lines[:len(lines)-1]
	}
}

// A client that finds no server is silent at level Warn for 10 seconds, and logs one
// warning then. It is the same again after the loss of a connection.
func TestLogOfClientWithoutServer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		logger, logged := warnings(t)
		peers := make(chan net.Conn, 1)
		var c *Client
		started := make(chan error)
		go func() {
			var err error
			c, err = StartClient(&ClientConfig{Name: "alone", Encryption: EncryptionOff, Logger: logger, Dial: func(context.Context) (net.Conn, error) {
				select {
				case conn := <-peers:
					return conn, nil
				default:
					return nil, errors.New("no server is listening")
				}
			}})
			started <- err
		}()
		expectOne := func() {
			t.Helper()
			<-time.After(9 * time.Second)
			if lines := logged(); len(lines) != 0 {
				t.Errorf("warnings in the first seconds: %q", lines)
			}
			<-time.After(3 * time.Second)
			if lines := logged(); len(lines) != 1 || !strings.Contains(lines[0], "connection attempt failed; retrying") || !strings.Contains(lines[0], "no server is listening") || !strings.Contains(lines[0], "waited=1") {
				t.Errorf("warnings after 12 s: %q", lines)
			}
			<-time.After(time.Hour)
			if lines := logged(); len(lines) != 0 {
				t.Errorf("warnings in the hour that follows: %q", lines)
			}
		}
		expectOne()
		listener := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
		s, err := StartServer(&ServerConfig{Name: "alone", Encryption: EncryptionOff, Listener: listener})
		if err != nil {
			t.Fatal(err)
		}
		near, far := net.Pipe()
		peers <- near
		listener.conns <- far
		if err := <-started; err != nil {
			t.Fatal(err)
		}
		logged()
		s.Close()
		expectOne()
		c.Close()
	})
}

// A server that rejects a client which tries again and again logs it once a second.
func TestLogOfRejectedClient(t *testing.T) {
	bubble(t, func(t *testing.T) {
		logger, logged := warnings(t)
		listener := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
		s, err := StartServer(&ServerConfig{Name: "strict", Encryption: EncryptionOff, Listener: listener, Logger: logger,
			Authorize: func(Peer) error { return errors.New("a stranger") }})
		if err != nil {
			t.Fatal(err)
		}
		reject := func(clients int) {
			for range clients {
				near, far := net.Pipe()
				listener.conns <- far
				io.Copy(io.Discard, near) // the refusal
				near.Close()
			}
		}
		reject(11)
		if lines := logged(); len(lines) != 1 || !strings.Contains(lines[0], "connection rejected") || !strings.Contains(lines[0], "a stranger") {
			t.Errorf("11 rejections: %q", lines)
		}
		<-time.After(time.Second)
		if lines := logged(); len(lines) != 1 || !strings.Contains(lines[0], "a stranger") || !strings.Contains(lines[0], "count=10") {
			t.Errorf("a second later: %q", lines)
		}
		reject(3)
		near, far := net.Pipe()
		near.Close() // another cause: the stream ends before the handshake
		listener.conns <- far
		s.Close()
		if lines := logged(); len(lines) < 1 || !strings.Contains(strings.Join(lines, " "), "count=") {
			t.Errorf("at the end: %q", lines)
		}
		if got := s.Stats().Refused; got < 14 {
			t.Errorf("%d clients are counted", got)
		}
	})
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

// At the lowest level, with all that can go wrong, neither side's log has a
// payload, the secret or a key, in any form.
func TestLogHasNoPayloadAndNoKey(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug - 100}))
	secret, payload := bytes.Repeat([]byte("a secret of 32 b"), 2), []byte("nobody else is to read this line")
	hidden := map[string][]byte{"the secret": secret, "a payload": payload}
	path := testutil.TempSocket(t)
	s, err := StartServer(&ServerConfig{Name: "many", Network: "unix", Address: path, Secret: secret, Logger: logger, MaxMsgSize: 1024})
	if err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		c, err := StartClient(&ClientConfig{Name: "many", Network: "unix", Address: path, Secret: secret, Logger: logger, RetryTimer: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Write(1, payload); err != nil {
			t.Fatal(err)
		}
		c.Write(-1, payload)
		c.Write(1, bytes.Repeat(payload, 100))
		for m, err := s.Read(); m.MsgType != 1; m, err = s.Read() {
			if err != nil {
				t.Fatal(err)
			}
		}
		l := c.currentConn.Load()
		hidden[fmt.Sprint("key of the server ", round)], hidden[fmt.Sprint("key of the client ", round)] = bytes.Clone(l.decoder.cipher.trafficSecret[:]), bytes.Clone(l.sender.cipher.trafficSecret[:])
		switch round {
		case 0:
			c.Close()
		case 1: // not authentic, with the payload in it
			l.netConn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(payload))), payload...))
			for m, err := s.Read(); m.Status != "Disconnected"; m, err = s.Read() {
				if err != nil {
					t.Fatal(err)
				}
			}
			c.Shutdown(past1(t))
		case 2: // malformed: the payload where a length is due
			l.netConn.Write(payload)
			c.Shutdown(past1(t))
		}
	}
	for _, wrong := range [][]byte{nil, payload} {
		if c, err := StartClient(&ClientConfig{Name: "many", Network: "unix", Address: path, Secret: wrong, Logger: logger, Timeout: time.Minute}); err == nil {
			c.Close()
		}
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Write(payload) // instead of a hello
	conn.Close()
	eventually(t, "the server has seen all of it", func() bool { return s.Stats().Refused >= 3 })
	s.Close()
	log.mu.Lock()
	defer log.mu.Unlock()
	text := log.b.String()
	for _, want := range []string{"connection rejected", "connected", "connection over", "closed"} {
		if !strings.Contains(text, want) {
			t.Fatalf("the log has no %q: %s", want, text)
		}
	}
	for what, b := range hidden {
		for form, s := range map[string]string{"as it is": string(b), "quoted": strings.Trim(fmt.Sprintf("%q", b), `"`), "hexadecimal": hex.EncodeToString(b),
			"in base64": base64.RawStdEncoding.EncodeToString(b[:len(b)/3*3]), "as numbers": strings.Trim(fmt.Sprint(b), "[]")} {
			if strings.Contains(strings.ToLower(text), strings.ToLower(s)) {
				t.Errorf("%s is in the log %s", what, form)
			}
		}
	}
}
