// The library ends nobody's process, prints nothing that nobody asked for, and
// logs no payload and no key.

package gipc

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

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

func TestLibraryEndsNobody(t *testing.T) {
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
	path := tempSocket(t)
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
			one.Shutdown(past1(t)) // without a goodbye
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
	path := tempSocket(t)
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
		l := c.current.Load()
		hidden[fmt.Sprint("key of the server ", round)], hidden[fmt.Sprint("key of the client ", round)] = bytes.Clone(l.decoder.cipher.secret), bytes.Clone(l.sender.cipher.secret)
		switch round {
		case 0:
			c.Close()
		case 1: // not authentic, with the payload in it
			l.conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(payload))), payload...))
			for m, err := s.Read(); m.Status != "Disconnected"; m, err = s.Read() {
				if err != nil {
					t.Fatal(err)
				}
			}
			c.Shutdown(past1(t))
		case 2: // malformed: the payload where a length is due
			l.conn.Write(payload)
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
	conn.Write(payload) // in place of a hello
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
