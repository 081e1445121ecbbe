// Tests that no line is lost, and that a loss is reported.

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"example.com/gipc"
	"example.com/gipc/internal/testutil"
)

// TestSendLines: every line arrives, whatever it is.
func TestSendLines(t *testing.T) {
	t.Parallel()
	for name, input := range map[string]string{
		"none":       "",
		"one":        "hello\n",
		"unfinished": "hello\nlast",
		"empty":      "\n\na\n\n",
		"carriage":   "a\r\nb\r\n",
		"64 KiB":     strings.Repeat("x", 64<<10) + "\n" + strings.Repeat("y", 64<<10-1) + "\nz",
		"largest":    strings.Repeat("m", 3145728) + "\n" + strings.Repeat("n", 3145728),
		"many":       strings.Repeat("line\nanother line\n", 20_000),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, address := listen(t, "-q")
			start(t, strings.NewReader(input), "send", "test", "-address", address).ends(0)
			server.stop()
			want := input
			if want != "" && !strings.HasSuffix(want, "\n") {
				want += "\n"
			}
			if got := server.stdout.String(); got != want {
				t.Errorf("%d bytes arrived, want %d", len(got), len(want))
			}
		})
	}
}

// TestSendSlowly: each line is sent although the next one has not come.
func TestSendSlowly(t *testing.T) {
	t.Parallel()
	server, address := listen(t)
	in, out := io.Pipe()
	client := start(t, in, "send", "test", "-address", address)
	for i := range 3 {
		fmt.Fprintf(out, "line %d\n", i)
		server.stdout.until(t, fmt.Sprintf("line %d\n", i))
	}
	out.Close()
	client.ends(0)
}

// TestSendTooLong names the line, and the lines before it arrive.
func TestSendTooLong(t *testing.T) {
	t.Parallel()
	server, address := listen(t, "-max-size", "2000")
	input := "one\ntwo\n" + strings.Repeat("x", 2001) + "\nfour\n"
	start(t, strings.NewReader(input), "send", "test", "-address", address).ends(1).wantErrors("line 3", "2001 bytes", "accepts 2000", "-max-size")
	server.stop()
	server.wantOutput("one\ntwo\n")
}

// TestSendFile: a file is one message, and so is all of standard input.
func TestSendFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("two\nlines\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	server, address := listen(t, "-o", "json", "-q")
	start(t, nil, "send", "test", "-address", address, "-file", path).ends(0)
	start(t, strings.NewReader("a\nb"), "send", "test", "-address", address, "-file", "-").ends(0)
	start(t, nil, "send", "test", "-address", address, "-file", path+"x").ends(1).wantErrors("reading the file", "no such file")
	server.stop()
	for _, want := range []string{`"length":10,"data":"two\nlines\n"`, `"length":3,"data":"a\nb"`} {
		if !strings.Contains(server.stdout.String(), want) {
			t.Errorf("the output is %q, without %q", server.stdout, want)
		}
	}
}

// TestSendUnconfirmed: a server that closes too early is reported.
func TestSendUnconfirmed(t *testing.T) {
	t.Parallel()
	address := testutil.TempSocket(t)
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "test", Network: "unix", Address: address})
	if err != nil {
		t.Fatal(err)
	}
	in, out := io.Pipe()
	defer out.Close()
	client := start(t, in, "send", "test", "-address", address)
	fmt.Fprintln(out, "one")
	for range 2 { // Connected, and the line
		if _, err := server.Read(); err != nil {
			t.Fatal(err)
		}
	}
	server.Close()
	client.ends(1).wantErrors("after line 1", "the server has closed the connection", "may not have arrived")
}

// TestSendStuck: a server that does not read cannot keep send from ending.
func TestSendStuck(t *testing.T) {
	t.Parallel()
	address := testutil.TempSocket(t)
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "test", Network: "unix", Address: address})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Shutdown(canceled())
	client := start(t, strings.NewReader("first\n"+strings.Repeat(strings.Repeat("x", 1<<20)+"\n", 20)), "send", "test", "-address", address)
	testutil.Eventually(t, "the first line arrives", func() bool { return server.Stats().ReceivedBytes > 0 })
	client.cancel()
	client.ends(1).wantErrors("interrupted")
}

// canceled returns a context that is done.
func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// TestListenEnough: -n ends listen, and what a client sends in time is confirmed.
func TestListenEnough(t *testing.T) {
	t.Parallel()
	for range 20 {
		server, address := listen(t, "-n", "3")
		start(t, strings.NewReader("a\nb\nc\n"), "send", "test", "-address", address).ends(0)
		server.ends(0).wantOutput("a\nb\nc\n")
		server.code <- 0
	}
}

// A brokenWriter is a closed pipe.
type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, syscall.EPIPE }

// TestListenBrokenOutput: listen ends if it cannot print.
func TestListenBrokenOutput(t *testing.T) {
	t.Parallel()
	address, stderr, code := testutil.TempSocket(t), newOutput(), make(chan int, 1)
	go func() {
		code <- run(t.Context(), []string{"listen", "test", "-network", "unix", "-address", address}, nil, brokenWriter{}, stderr)
	}()
	stderr.until(t, "listening as")
	start(t, strings.NewReader("x\n"), "send", "test", "-address", address).ends(0)
	if got := testutil.Await(t, "listen", code); got != 1 || !strings.Contains(stderr.String(), "printing a message: broken pipe") {
		t.Errorf("the exit code is %d, and standard error %q", got, stderr)
	}
}

// TestInterrupt: a signal ends each command with Close.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	address := testutil.TempSocket(t)
	server, stdout, stderr := process(t, "main", nil, "listen", "test", "-network", "unix", "-address", address)
	stderr.until(t, "listening as")
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer out.Close()
	client, _, clientErr := process(t, "main", in, "send", "test", "-network", "unix", "-address", address)
	fmt.Fprintln(out, "before the signal")
	stdout.until(t, "before the signal")
	client.Process.Signal(os.Interrupt)
	if code := exitCode(t, client); code != 1 || !strings.Contains(clientErr.String(), "interrupted: messages sent before: 1") {
		t.Errorf("send: the exit code is %d, and standard error %q", code, clientErr)
	}
	stderr.until(t, "client 1 disconnected\n") // in order: send has closed
	server.Process.Signal(syscall.SIGTERM)
	if code := exitCode(t, server); code != 0 || stdout.String() != "before the signal\n" {
		t.Errorf("listen: the exit code is %d, the output %q, standard error %q", code, stdout, stderr)
	}
	if _, err := os.Stat(address); err == nil {
		t.Error("listen has left its socket behind")
	}
}

// TestInterruptListening: what had arrived is printed.
func TestInterruptListening(t *testing.T) {
	t.Parallel()
	server, address := listen(t)
	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "test", Network: "unix", Address: address})
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	for i := range 500 {
		line := fmt.Sprintf("line %d", i)
		if err := client.Queue(1, []byte(line)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&want, line)
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	server.stop()
	server.wantOutput(want.String())
}
