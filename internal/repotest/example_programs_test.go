// The programs under example/, as those who try them run them: what -h says, a
// run from start to end, and Ctrl-C in each role.

package repotest

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/gipc"
	"example.com/gipc/internal/testutil"
)

var examplePrograms = []string{"child", "simple", "timed", "multiclient", "hub", "copytree"}

// A place has the built programs, and directories for their sockets and for
// whatever else they make: TEMP in their arguments.
type place struct {
	*testing.T
	bin, sockets, temp string
}

// at is a place of its own for a test.
func at(t *testing.T, bin string) *place {
	dir := filepath.Dir(testutil.TempSocket(t))
	p := &place{t, bin, dir, filepath.Join(dir, "tmp")}
	testutil.Must(t, os.Mkdir(p.temp, 0o700))
	return p
}

// unspoiled checks that nothing is left but the locks of the names.
func (p *place) unspoiled() {
	p.Helper()
	for _, dir := range []string{p.sockets, p.temp} {
		items, err := os.ReadDir(dir)
		testutil.Must(p, err)
		for _, item := range items {
			if name := filepath.Join(dir, item.Name()); name != p.temp && !strings.HasSuffix(name, ".lock") {
				p.Errorf("%s is left", name)
			}
		}
	}
}

// A run is a program that runs, and what it has said so far.
type run struct {
	p     *place
	cmd   *exec.Cmd
	lines *bufio.Scanner
	said  strings.Builder
}

func (p *place) start(env string, name string, args ...string) *run {
	p.Helper()
	args = slices.Clone(args)
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "TEMP", p.temp)
	}
	r := &run{p: p, cmd: exec.CommandContext(patience(p), filepath.Join(p.bin, name), args...)}
	r.cmd.Env = append(os.Environ(), "GIPC_SOCKET_DIR="+p.sockets, "TMPDIR="+p.temp, "TMP="+p.temp, "GIPC_DEBUG=", "HUB_SECRET=", "FAST=", env)
	r.cmd.Dir = p.temp
	out, in, err := os.Pipe()
	testutil.Must(p, err)
	defer in.Close()
	r.cmd.Stdout, r.cmd.Stderr = in, in
	r.lines = bufio.NewScanner(out)
	testutil.Must(p, r.cmd.Start())
	p.Cleanup(func() {
		r.cmd.Process.Kill()
		r.cmd.Wait()
		out.Close()
	})
	return r
}

// says reads on until a line has the text in it.
func (r *run) says(text string) {
	r.p.Helper()
	for r.lines.Scan() {
		fmt.Fprintln(&r.said, r.lines.Text())
		if strings.Contains(r.lines.Text(), text) {
			return
		}
	}
	r.p.Fatalf("does not say %q: %s", text, &r.said)
}

// ends waits for the end and returns all that was said.
func (r *run) ends(code int) string {
	r.p.Helper()
	for r.lines.Scan() {
		fmt.Fprintln(&r.said, r.lines.Text())
	}
	r.cmd.Wait()
	if got := r.cmd.ProcessState; code >= 0 && got.ExitCode() != code {
		r.p.Errorf("ends with %v, want exit status %d: %s", got, code, &r.said)
	}
	return r.said.String()
}

// buildPrograms builds the example programs into a directory, and returns that.
func buildPrograms(t *testing.T) (bin string) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: it builds programs")
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("programs are built with the go command, which is not here: ", err)
	}
	bin = t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", bin+string(filepath.Separator), "./example/...").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return bin
}

func TestExamplePrograms(t *testing.T) {
	t.Parallel()
	bin := buildPrograms(t)
	t.Run("help", func(t *testing.T) { programsHelp(at(t, bin)) })
	t.Run("runs", func(t *testing.T) { programsRun(t, bin) })
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(signal.String(), func(t *testing.T) {
			if runtime.GOOS == "windows" {
				t.Skip("no process can send another one a signal here")
			}
			programsEnd(t, bin, signal)
		})
	}
}

// programsHelp: what it does, how to call it, and each flag with its default.
func programsHelp(p *place) {
	for _, name := range examplePrograms {
		text := p.start("", name, "-h").ends(0)
		for _, want := range []string{name + ": ", "go run ./example/" + name} {
			if !strings.Contains(text, want) {
				p.Errorf("%s -h does not say %q: %s", name, want, text)
			}
		}
		lines := strings.Split(text, "\n")
		for i, line := range lines {
			if strings.HasPrefix(line, "  -") && !strings.Contains(lines[i+1], "default") {
				p.Errorf("%s -h does not say what is the default of %s", name, line)
			}
		}
		if !slices.ContainsFunc(lines, func(line string) bool { return strings.HasPrefix(line, "  -") }) {
			p.Errorf("%s -h has no flag: %s", name, text)
		}
	}
	p.unspoiled()
}

// programsRun: from start to end, all roles in one.
func programsRun(t *testing.T, bin string) {
	tree := t.TempDir()
	testutil.Must(t, os.WriteFile(filepath.Join(tree, "file"), []byte("content"), 0o600))
	for name, c := range map[string]struct {
		env  string
		args []string
		says []string
	}{
		"simple":           {says: []string{`server: received "hello, server"`, `client: received "hello, client"`}},
		"timed":            {says: []string{"server: received", "client: received"}},
		"multiclient":      {says: []string{"server: listening for 3 clients, and reading by ReadTimed\n", "client A: received", "client C: received"}},
		"multiclient FAST": {env: "FAST=true", says: []string{"reading by ReadTimedFastest\n", "client A: received", "client C: received"}},
		"child":            {says: []string{`the child replied "HELLO, CHILD"`}},
		"copytree":         {args: []string{"-tree", tree}, says: []string{"sends " + tree, "receives one tree into", "equal\n"}},
		"copytree tcp":     {args: []string{"-tree", tree, "-network", "tcp"}, says: []string{"listening at 127.0.0.1:", "equal\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := at(t, bin)
			name, _, _ := strings.Cut(name, " ")
			text := p.start(c.env, name, c.args...).ends(0)
			for _, want := range c.says {
				if !strings.Contains(text, want) {
					t.Errorf("does not say %q: %s", want, text)
				}
			}
			p.unspoiled()
		})
	}
}

// programsEnd: a signal ends each role with a close, which is this
// process.
func programsEnd(t *testing.T, bin string, signal syscall.Signal) {
	type ending struct {
		r    *run
		peer endpoint // nil: none
	}
	// client is a program that has its server here, and says something first.
	client := func(name string, args ...string) func(p *place) *ending {
		return func(p *place) *ending {
			server := startServer(p, &gipc.ServerConfig{Name: name, Network: "unix", Address: filepath.Join(p.sockets, name+".sock")})
			r := p.start("", name, args...)
			r.says("looking for")
			next(p, server)
			return &ending{r, server}
		}
	}
	// server is a program that has its client here, and answers what that says first.
	server := func(name, says string, args ...string) func(p *place) *ending {
		return func(p *place) *ending {
			r := p.start("", name, args...)
			r.says(says)
			client := startClient(p, &gipc.ClientConfig{Name: name, Network: "unix", Address: filepath.Join(p.sockets, name+".sock")})
			testutil.Must(p, client.Write(1, []byte("8 bytes.")))
			if name == "copytree" { // where 1 begins a transfer, and nothing is answered yet
				testutil.Eventually(p, "something unfinished", func() bool {
					found, _ := filepath.Glob(filepath.Join(p.temp, "copy.partial-*"))
					return len(found) > 0
				})
			} else {
				next(p, client)
			}
			return &ending{r, client}
		}
	}
	// alone is a program that has no peer, or all of them inside.
	alone := func(name, says string, args ...string) func(p *place) *ending {
		return func(p *place) *ending {
			r := p.start("", name, args...)
			r.says(says)
			return &ending{r: r}
		}
	}
	tree := t.TempDir()
	testutil.Must(t, os.WriteFile(filepath.Join(tree, "file"), []byte("content"), 0o600))
	for name, c := range map[string]struct {
		start func(*place) *ending
		code  int // 0: it was there until Ctrl-C. 1: it did not do what it was asked for. -1: it may have been done already
	}{
		"simple server":     {server("simple", `listening as "simple"`, "-server"), 0},
		"simple client":     {client("simple", "-client"), 1},
		"simple, no server": {alone("simple", "looking for", "-client"), 1},
		"timed server":      {server("timed", `listening as "timed"`, "-server"), 0},
		"timed client":      {client("timed", "-client"), 1},
		"timed, both":       {alone("timed", "client: received"), -1},
		"multiclient":       {alone("multiclient", "client A: received"), -1},
		"hub":               {server("hub", `the room "hub" is open`, "-serve"), 0},
		"hub, taking part":  {client("hub", "-name", "Ada"), 0},
		"hub, no room":      {alone("hub", "looking for", "-name", "Ada"), 1},
		"copytree receiver": {server("copytree", "listening at", "-serve", "TEMP/copy"), 1},
		"copytree sender":   {client("copytree", "-send", tree), 1},
		"copytree, nobody":  {alone("copytree", "looking for", "-send", tree), 1},
		"copytree, no tree": {alone("copytree", "listening at", "-serve", "TEMP/copy"), 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := at(t, bin)
			e := c.start(p)
			if err := e.r.cmd.Process.Signal(signal); err != nil && c.code >= 0 {
				t.Fatal(err)
			}
			if e.peer != nil {
				if m := untilLost(t, e.peer); m.Err != nil {
					t.Errorf("no close: the connection is lost with %v", m.Err)
				}
				e.peer.Close()
			}
			text := e.r.ends(c.code)
			if done := e.r.cmd.ProcessState.ExitCode() == 0; strings.Contains(text, "interrupted") == done {
				t.Errorf("ends with %v: %s", e.r.cmd.ProcessState, text)
			}
			p.unspoiled()
		})
	}
}

// untilLost reads until the connection is lost.
func untilLost(t testing.TB, e endpoint) *gipc.Message {
	t.Helper()
	for {
		if m := read(t, e); m.Status == gipc.ReConnecting.String() || m.Status == gipc.Disconnected.String() {
			return m
		}
	}
}
