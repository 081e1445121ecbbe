// Tests of the pages that a newcomer reads: their programs run, the rest of their
// code is code that runs elsewhere, and their links lead somewhere.

package gipc_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

var codeBlock = regexp.MustCompile("(?ms)^```go\n(.*?)^```$")

// pages returns the Markdown files of this directory, and the spec's.
func pages(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob(filepath.Join("spec", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	return append(names, more...)
}

// programs returns the blocks of Go code on a page that are whole programs, and
// those that are not.
func programs(t *testing.T, page string) (whole, parts []string) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range codeBlock.FindAllSubmatch(text, -1) {
		if code := string(block[1]); strings.HasPrefix(code, "package ") {
			whole = append(whole, code)
		} else {
			parts = append(parts, code)
		}
	}
	return whole, parts
}

// TestPagesPrograms builds every program of every page as a user's module would,
// without a network, and runs the two of the README's first page as two processes.
func TestPagesPrograms(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: it builds programs")
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("programs are built with the go command, which is not here: ", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "g") // short: sockets are made in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	write := func(name, text string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", fmt.Sprintf("module pages\n\ngo 1.25\n\nrequire example.com/gipc v0.0.0\n\nreplace example.com/gipc => %q\n", root))
	for _, page := range pages(t) {
		whole, _ := programs(t, page)
		for i, code := range whole {
			write(fmt.Sprintf("%s%d/main.go", strings.TrimSuffix(filepath.Base(page), ".md"), i), code)
		}
	}
	command := func(name string, args ...string) *exec.Cmd {
		c := exec.CommandContext(ctx, name, args...)
		c.Dir = dir
		c.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off", "GIPC_SOCKET_DIR="+dir, "GIPC_DEBUG=")
		return c
	}
	if out, err := command("go", "vet", "./...").CombinedOutput(); err != nil {
		t.Fatalf("go vet: %v\n%s", err, out)
	}
	exe := ""
	if runtime.GOOS == "windows" {
		exe = ".exe"
	}
	for name, program := range map[string]string{"server": "./README0", "client": "./README1"} {
		if out, err := command("go", "build", "-o", name+exe, program).CombinedOutput(); err != nil {
			t.Fatalf("go build: %v\n%s", err, out)
		}
	}

	server, client := command(filepath.Join(dir, "server"+exe)), command(filepath.Join(dir, "client"+exe))
	var served bytes.Buffer
	server.Stdout, server.Stderr = &served, &served
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	out, err := client.CombinedOutput()
	server.Process.Kill()
	server.Wait()
	if want := "received, of type 2: hello, client\n"; err != nil || string(out) != want {
		t.Errorf("the client says %q and ends with %v, want %q; the server said %q", out, err, want, &served)
	}
	if want := "received, of type 1: hello, server\n"; served.String() != want {
		t.Errorf("the server says %q, want %q", &served, want)
	}
}

// TestPagesParts makes sure that a piece of code on a page is a piece of a test
// or a program that runs.
func TestPagesParts(t *testing.T) {
	var sources []string
	for _, pattern := range []string{"*_test.go", "example/*/*.go"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			sources = append(sources, flat(string(text)))
		}
	}
	for _, page := range pages(t) {
		_, parts := programs(t, page)
		for _, part := range parts {
			if !slices.ContainsFunc(sources, func(s string) bool { return strings.Contains(s, flat(part)) }) {
				t.Errorf("%s: this is in no Example as it stands here:\n%s", page, part)
			}
		}
	}
}

// flat is code without its indentation, each line with its end.
func flat(code string) string {
	var b strings.Builder
	for line := range strings.SplitSeq(code, "\n") {
		if line = strings.TrimSpace(line); line != "" {
			b.WriteString("\n" + line)
		}
	}
	return b.String() + "\n"
}

// TestPagesCommands makes sure that the README names the commands that it is
// known for.
func TestPagesCommands(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"go run ./example/simple", "go test ./..."} {
		if !slices.Contains(strings.Split(string(text), "\n"), command) {
			t.Errorf("README.md has no line %q", command)
		}
	}
}

var (
	link     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading  = regexp.MustCompile(`(?m)^#+ (.*)$`)
	fenced   = regexp.MustCompile("(?ms)^```.*?^```$")
	noAnchor = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// TestPagesLinks follows the links between the project's own files.
func TestPagesLinks(t *testing.T) {
	found := 0
	for _, page := range pages(t) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range link.FindAllStringSubmatch(fenced.ReplaceAllString(string(text), ""), -1) {
			target, anchor, _ := strings.Cut(match[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			found++
			file := page
			if target != "" {
				file = filepath.Join(filepath.Dir(page), filepath.FromSlash(target))
			}
			linked, err := os.ReadFile(file)
			if info, statErr := os.Stat(file); statErr == nil && info.IsDir() {
				err = nil
			}
			if err != nil {
				t.Errorf("%s links to %s: %v", page, match[1], err)
			} else if anchor != "" && !slices.Contains(anchors(string(linked)), anchor) {
				t.Errorf("%s links to %s, and %s has no such heading", page, match[1], file)
			}
		}
	}
	if found < 5 {
		t.Errorf("only %d links found", found)
	}
}

// anchors are what a page's headings are linked by.
func anchors(text string) (names []string) {
	for _, match := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
		name := noAnchor.ReplaceAllString(strings.ToLower(match[1]), "")
		names = append(names, strings.ReplaceAll(name, " ", "-"))
	}
	return names
}
