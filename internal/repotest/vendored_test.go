// A test of what a user's module gets from this one: vendored, offline and
// without cgo it holds this module alone, builds and runs.

package repotest

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/gipc/internal/testutil"
)

// vendoredPackages are what a user's module gets.
var vendoredPackages = []string{"example.com/gipc", "example.com/gipc/internal/eventlog", "example.com/gipc/internal/sys", "example.com/gipc/internal/transport"}

const vendoredProgram = `package main

import (
	"fmt"
	"log"

	"example.com/gipc"
)

func main() {
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "vendored", Network: "unix"})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	go func() {
		for {
			if m, err := server.Read(); err != nil {
				return
			} else if m.MsgType > 0 {
				server.Write(m.MsgType+1, append([]byte("got "), m.Data...))
			}
		}
	}()
	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "vendored", Network: "unix"})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	if err := client.Write(1, []byte("it")); err != nil {
		log.Fatal(err)
	}
	for {
		m, err := client.Read()
		if err != nil {
			log.Fatal(err)
		}
		if m.MsgType > 0 {
			fmt.Printf("%d %s\n", m.MsgType, m.Data)
			return
		}
	}
}
`

func TestVendored(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short: it builds a program")
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("vendoring needs the go command, which is not here: ", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	root, err := os.Getwd()
	testutil.Must(t, err)
	dir, err := os.MkdirTemp("", "g") // short: a socket is made in it
	testutil.Must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	testutil.Must(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte(vendoredProgram), 0o600))
	testutil.Must(t, os.WriteFile(filepath.Join(dir, "go.mod"), fmt.Appendf(nil,
		"module vendored\n\ngo 1.25\n\nrequire example.com/gipc v0.0.0\n\nreplace example.com/gipc => %q\n", root), 0o600))
	goflags := "-mod=mod"
	run := func(name string, args ...string) string {
		t.Helper()
		c := exec.CommandContext(ctx, name, args...)
		c.Dir = dir
		c.Env = append(os.Environ(), "GOFLAGS="+goflags, "GOPROXY=off", "GOWORK=off", "CGO_ENABLED=0", "GIPC_SOCKET_DIR="+dir, "GIPC_DEBUG=")
		var stderr bytes.Buffer
		c.Stderr = &stderr
		out, err := c.Output()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", name, args, err, &stderr)
		}
		return string(out)
	}
	run("go", "mod", "vendor")
	goflags = "-mod=vendor"

	modules, err := os.ReadFile(filepath.Join(dir, "vendor", "modules.txt"))
	testutil.Must(t, err)
	required := 0
	for line := range strings.Lines(string(modules)) {
		switch line = strings.TrimSpace(line); {
		case strings.HasPrefix(line, "## "), slices.Contains(vendoredPackages, line):
		case strings.HasPrefix(line, "# example.com/gipc "):
			required++ // once with its version, and once as replaced
		default:
			t.Errorf("vendor/modules.txt: %s", line)
		}
	}
	if required != 2 {
		t.Errorf("vendor/modules.txt has this module %d times, want 2:\n%s", required, modules)
	}
	sources := 0
	testutil.Must(t, fs.WalkDir(os.DirFS(filepath.Join(dir, "vendor")), ".", func(name string, entry fs.DirEntry, err error) error {
		if strings.HasSuffix(name, ".go") {
			sources++
		}
		known := name == "modules.txt" || slices.Contains(vendoredPackages, path.Dir(name)) && !strings.HasSuffix(name, "_test.go")
		if entry.IsDir() {
			known = slices.Contains(append(slices.Clone(vendoredPackages), ".", "example.com", "example.com/gipc/internal"), name)
		}
		if !known {
			t.Errorf("vendor has %s", name)
		}
		return err
	}))
	if sources < 10 {
		t.Errorf("vendor has only %d files of Go", sources)
	}

	deps := run("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".")
	if got := strings.Join(strings.Fields(deps), " "); got != "example.com/gipc/internal/eventlog example.com/gipc/internal/sys example.com/gipc/internal/transport example.com/gipc vendored" {
		t.Errorf("the program is made of %s, want this module, its own code and the standard library", got)
	}
	exe := filepath.Join(dir, "vendored")
	if runtime.GOOS == "windows" {
		exe += ".exe"
	}
	run("go", "build", "-trimpath", "-o", exe, ".")
	if got := run(exe); got != "2 got it\n" {
		t.Errorf("the program says %q", got)
	}
}
