// Against an older program: the last commit of this library that had version 2 in
// its core, which was tested against the existing peers.

package wire2

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const predecessorCommit = "34db286"

// A predecessor is the program of that commit. It is built once a test run.
var predecessor struct {
	once    sync.Once
	folder  string
	program string
	missing string // why it cannot be built here
	err     error
}

func removePredecessor() {
	if predecessor.folder != "" {
		os.RemoveAll(predecessor.folder)
	}
}

// predecessorProgram returns the path of the program, which echoes messages.
func predecessorProgram(t *testing.T) string {
	t.Helper()
	predecessor.once.Do(buildPredecessor)
	if predecessor.missing != "" {
		t.Skip(predecessor.missing)
	}
	if predecessor.err != nil {
		t.Fatal(predecessor.err)
	}
	return predecessor.program
}

func buildPredecessor() {
	p := &predecessor
	if out, err := exec.Command("git", "cat-file", "-e", predecessorCommit+"^{commit}").CombinedOutput(); err != nil {
		p.missing = fmt.Sprintf("commit %s is not in the history of this checkout: %v %s", predecessorCommit, err, out)
		return
	}
	if p.folder, p.err = os.MkdirTemp("", "w"); p.err != nil {
		return
	}
	p.err = errors.Join(extractPredecessor(filepath.Join(p.folder, "gipc")), os.Mkdir(filepath.Join(p.folder, "echo"), 0o700))
	files := map[string]string{
		"gipc/go.mod":  "module example.com/predecessor\n\ngo 1.25\n",
		"echo/go.mod":  "module example.com/echo\n\ngo 1.25\n\nrequire example.com/predecessor v0.0.0\n\nreplace example.com/predecessor => ../gipc\n",
		"echo/main.go": predecessorSource,
	}
	for name, text := range files {
		p.err = errors.Join(p.err, os.WriteFile(filepath.Join(p.folder, name), []byte(text), 0o600))
	}
	if p.err != nil {
		return
	}
	p.program = filepath.Join(p.folder, "echo.exe")
	build := exec.Command("go", "build", "-o", p.program, ".")
	build.Dir = filepath.Join(p.folder, "echo")
	build.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		p.err = fmt.Errorf("building the predecessor: %v\n%s", err, out)
	}
}

// extractPredecessor writes the Go files of the commit's top folder.
func extractPredecessor(folder string) error {
	if err := os.Mkdir(folder, 0o700); err != nil {
		return err
	}
	list := exec.Command("git", "ls-tree", "--full-tree", "--name-only", predecessorCommit)
	names, err := list.Output()
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(names)) {
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := exec.Command("git", "show", predecessorCommit+":"+name).Output()
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(folder, name), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// The program serves or dials the address, echoes each message, and closes when
// it gets one of type 99. It prints "connected" when it is.
const predecessorSource = `package main

import (
	"fmt"
	"os"
	"time"

	gipc "example.com/predecessor"
)

type endpoint interface {
	Read() (*gipc.Message, error)
	Write(int, []byte) error
	Close() error
}

func main() {
	role, address, encryption := os.Args[1], os.Args[2], gipc.EncryptionOff
	if os.Args[3] == "true" {
		encryption = gipc.EncryptionOn
	}
	var e endpoint
	var err error
	if role == "server" {
		e, err = gipc.StartServer(&gipc.ServerConfig{Name: "old", Network: "unix", Address: address, Encryption: encryption, Wire: gipc.WireV2})
		fmt.Println("listening")
	} else {
		e, err = gipc.StartClient(&gipc.ClientConfig{Name: "old", Network: "unix", Address: address, Encryption: encryption, AllowWireV2: true, RetryTimer: 20 * time.Millisecond})
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for {
		m, err := e.Read()
		switch {
		case err != nil:
			fmt.Println(err)
			os.Exit(1)
		case m.MsgType == 99:
			if err := e.Close(); err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
			fmt.Println("closed")
			return
		case m.MsgType > 0:
			if err := e.Write(m.MsgType, m.Data); err != nil {
				fmt.Println(err)
			}
		case m.Err != nil:
			fmt.Println(m.Status, m.Err)
		}
	}
}
`

// A running is a started predecessor.
type running struct {
	*exec.Cmd
	address string
	output  *bytes.Buffer
}

// startPredecessor starts the program in a role. It ends with the test.
func startPredecessor(t *testing.T, role, address string, encrypted bool) *running {
	t.Helper()
	r := &running{Cmd: exec.Command(predecessorProgram(t), role, address, fmt.Sprint(encrypted)), address: address}
	out, err := r.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	r.output = new(bytes.Buffer)
	if role == "server" { // it prints one line when it listens
		line := make([]byte, len("listening\n"))
		if _, err := io.ReadFull(out, line); err != nil {
			t.Fatal(err)
		}
	}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		io.Copy(r.output, out)
	}()
	t.Cleanup(func() {
		r.Process.Kill()
		<-copied
		r.Wait()
		if t.Failed() {
			t.Logf("the predecessor prints: %s", r.output)
		}
	})
	return r
}

// shortAddress returns the path of a socket that does not exist yet.
func shortAddress(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "w")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

func eachEncryption(t *testing.T, f func(t *testing.T, encrypted bool)) {
	t.Parallel()
	for _, encrypted := range []bool{true, false} {
		t.Run(fmt.Sprint("encrypted=", encrypted), func(t *testing.T) {
			t.Parallel()
			f(t, encrypted)
		})
	}
}

// echoes sends messages of several sizes and reads them again.
func echoes(l *library) {
	l.Helper()
	for i, size := range []int{0, 1, 5000, 70_000} {
		data := strings.Repeat(string('a'+rune(i)), size)
		sent := l.sendAsync(uint32(i+1), data)
		l.receive(uint32(i+1), data)
		if err := <-sent; err != nil {
			l.Fatal(err)
		}
	}
}

func TestPredecessorServer(t *testing.T) {
	eachEncryption(t, func(t *testing.T, encrypted bool) {
		r := startPredecessor(t, "server", shortAddress(t), encrypted)
		for i := range 60 { // it serves one client at a time, so the loop waits for each end
			l := dialPredecessor(t, r.address, encrypted)
			if i%20 == 0 {
				echoes(l)
			}
			l.send(7, "hello")
			l.receive(7, "hello")
			if i == 59 {
				l.send(99, "close")
				l.answersClose()
				break
			}
			l.closes()
			l.closed()
		}
	})
}

// dialPredecessor connects a client. A server that has not noticed the end of
// the last client ends the new connection at once, so it tries until it succeeds.
func dialPredecessor(t *testing.T, address string, encrypted bool) *library {
	t.Helper()
	for giveUp := soon(); ; {
		conn, err := net.Dial("unix", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(soon())
		u := startClient(t, conn, Options{Encryption: encrypted}, generateKey)
		if err = <-u.result; err == nil {
			return u.end
		}
		conn.Close()
		if time.Now().After(giveUp) {
			t.Fatal(err)
		}
	}
}

func TestPredecessorClient(t *testing.T) {
	eachEncryption(t, func(t *testing.T, encrypted bool) {
		address := shortAddress(t)
		listener, err := net.Listen("unix", address)
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		startPredecessor(t, "client", address, encrypted)
		for i := range 60 { // it reconnects after each end
			conn, err := listener.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(soon())
			l := startServer(t, conn, Options{Encryption: encrypted}, generateKey).wait()
			if i%20 == 0 {
				echoes(l)
			}
			l.send(7, "hello")
			l.receive(7, "hello")
			if i == 59 {
				l.send(99, "close")
				l.answersClose()
				break
			}
			l.closes()
			l.closed()
		}
	})
}
