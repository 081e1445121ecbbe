// What the tests share: the command line as a function and as a process.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/gipc/internal/testutil"
)

// TestMain turns the binary into gipc, or into the small client that gipc conform
// is tested with, if the environment says so.
func TestMain(m *testing.M) {
	switch mode, broken, _ := strings.Cut(os.Getenv("TEST_GIPC"), ":"); mode {
	case "main":
		main()
	case "client":
		environ := map[string]string{}
		for _, entry := range os.Environ() {
			if name, value, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "GIPC_CONFORM_") {
				environ[strings.TrimPrefix(name, "GIPC_CONFORM_")] = value
			}
		}
		code, err := runMutant(broken)(context.Background(), environ, os.Stdout)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(code)
	}
	os.Exit(testutil.RunTests(m))
}

// An output is a buffer that can be waited on.
type output struct {
	mu      sync.Mutex
	text    strings.Builder
	changed chan struct{} // closed with each write
}

func newOutput() *output { return &output{changed: make(chan struct{})} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.changed)
	o.changed = make(chan struct{})
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// until waits until the output contains text.
func (o *output) until(t *testing.T, text string) {
	t.Helper()
	late := time.After(testutil.Patience)
	for {
		o.mu.Lock()
		found, changed := strings.Contains(o.text.String(), text), o.changed
		o.mu.Unlock()
		if found {
			return
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("waiting for %q: the output is %q", text, o.String())
		}
	}
}

// A cli is a run of the command line.
type cli struct {
	t      *testing.T
	stdout *output
	stderr *output
	cancel context.CancelFunc
	code   chan int
}

// start runs a command line in this process.
func start(t *testing.T, stdin io.Reader, args ...string) *cli {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := &cli{t: t, stdout: newOutput(), stderr: newOutput(), cancel: cancel, code: make(chan int, 1)}
	args = withDefaults(args)
	go func() {
		code := run(ctx, args, stdin, c.stdout, c.stderr)
		if in, ok := stdin.(io.Closer); ok {
			in.Close() // so that a test that still writes does not wait for ever
		}
		c.code <- code
	}()
	t.Cleanup(cancel)
	return c
}

// withDefaults adds to a command what the test leaves open: time for a busy machine, and
// unix sockets even in a build whose default is TCP.
func withDefaults(args []string) []string {
	if len(args) == 0 || slices.Contains(args, "-h") {
		return args
	}
	var more []string
	switch args[0] {
	case "send", "call", "bench":
		if !slices.Contains(args, "-wait") {
			more = append(more, "-wait", "1m")
		}
		fallthrough
	case "listen":
		if slices.Contains(args, "-address") && !slices.Contains(args, "-network") {
			more = append(more, "-network", "unix")
		}
	}
	return slices.Concat(args[:1], more, args[1:])
}

// ends waits for the end, and fails if the exit code is another one.
func (c *cli) ends(want int) *cli {
	c.t.Helper()
	select {
	case code := <-c.code:
		if code != want {
			c.t.Fatalf("the exit code is %d, want %d\nstdout: %s\nstderr: %s", code, want, c.stdout, c.stderr)
		}
	case <-time.After(testutil.Patience):
		c.t.Fatalf("it does not end\nstdout: %s\nstderr: %s", c.stdout, c.stderr)
	}
	return c
}

// wantOutput fails if standard output is another one.
func (c *cli) wantOutput(want string) {
	c.t.Helper()
	if got := c.stdout.String(); got != want {
		c.t.Errorf("the output is %q, want %q", got, want)
	}
}

// wantErrors fails if standard error lacks one of these words.
func (c *cli) wantErrors(words ...string) {
	c.t.Helper()
	for _, word := range words {
		if got := c.stderr.String(); !strings.Contains(got, word) {
			c.t.Errorf("standard error is %q, without %q", got, word)
		}
	}
}

// listen starts gipc listen at a new address.
func listen(t *testing.T, args ...string) (server *cli, address string) {
	t.Helper()
	address = testutil.TempSocket(t)
	server = start(t, nil, append([]string{"listen", "test", "-address", address}, args...)...)
	server.stderr.until(t, "listening as")
	t.Cleanup(func() {
		server.cancel()
		<-server.code
	})
	return server, address
}

// stop ends gipc listen as Ctrl-C does, and fails if it does not end with 0.
func (c *cli) stop() {
	c.t.Helper()
	c.cancel()
	c.ends(0)
	c.code <- 0 // for the cleanup
}

// process starts gipc as a process.
func process(t *testing.T, mode string, stdin io.Reader, args ...string) (*exec.Cmd, *output, *output) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), "TEST_GIPC="+mode)
	stdout, stderr := newOutput(), newOutput()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, stdout, stderr
}

// exitCode waits for a process and returns its exit code.
func exitCode(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	if err := cmd.Wait(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}
