// Tests of the pages that a newcomer reads: their programs run, the rest of their
// code is code that runs elsewhere, and their links lead somewhere.

package repotest

import (
	"context"
	"fmt"
	"go/parser"
	"go/token"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/gipc"
	"example.com/gipc/internal/testutil"
)

var codeBlock = regexp.MustCompile("(?ms)^```go\n(.*?)^```$")

// pages returns the Markdown files of the root, of docs and of spec.
func pages(t *testing.T) (names []string) {
	t.Helper()
	for _, pattern := range []string{"*.md", filepath.Join("docs", "*.md"), filepath.Join("spec", "*.md"), filepath.Join("spec", "*", "*.md")} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %v, %v", pattern, found, err)
		}
		names = append(names, found...)
	}
	return names
}

// programs returns the blocks of Go code on a page that are whole programs, and
// those that are not.
func programs(t *testing.T, page string) (whole, parts []string) {
	t.Helper()
	for _, block := range codeBlock.FindAllStringSubmatch(pageText(t, page), -1) {
		if code := block[1]; strings.HasPrefix(code, "package ") {
			whole = append(whole, code)
		} else {
			parts = append(parts, code)
		}
	}
	return whole, parts
}

// TestPagesPrograms makes a user's module by the README's own commands, without a
// network, builds every program of every page in it, and runs them.
func TestPagesPrograms(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: it builds programs")
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("programs are built with the go command, which is not here: ", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	root, err := os.Getwd()
	testutil.Must(t, err)
	dir, bin := t.TempDir(), t.TempDir()
	command := func(args ...string) {
		t.Helper()
		c := exec.CommandContext(ctx, args[0], args[1:]...)
		c.Dir = dir
		c.Env = append(os.Environ(), "GOFLAGS=", "GOPROXY=off", "GOWORK=off")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	_, install, _ := strings.Cut(pageText(t, "README.md"), "\n## Install\n")
	_, install, _ = strings.Cut(install, "\n```\n")
	install, after, _ := strings.Cut(install, "\ngo run .\n```\n")
	if after == "" {
		t.Fatal("the README's section Install does not end with: go run .")
	}
	built := 0
	for _, page := range pages(t) {
		whole, _ := programs(t, page)
		for i, code := range whole {
			of := filepath.Join(dir, fmt.Sprint(strings.TrimSuffix(filepath.Base(page), ".md"), i))
			testutil.Must(t, os.Mkdir(of, 0o700))
			testutil.Must(t, os.WriteFile(filepath.Join(of, "main.go"), []byte(code), 0o600))
			built++
		}
	}
	for line := range strings.SplitSeq(install, "\n") {
		args := strings.Fields(line)
		for i := range args {
			args[i] = strings.Replace(args[i], "PATH/OF/THE/CLONE", root, 1)
		}
		command(args...)
	}
	command("go", "vet", "./...")
	command("go", "build", "-o", bin+string(filepath.Separator), "./...")

	const server, client, many, tcp = "README0", "README1", "README2", "README3"
	if built != 4 {
		t.Errorf("the pages have %d programs: run the new one here, too", built)
	}
	t.Run("server and client", func(t *testing.T) {
		t.Parallel()
		p := at(t, bin)
		c := p.start("", client) // in either order
		s := p.start("", server)
		if got, want := c.ends(0), "received, of type 2: hello, client\n"; got != want {
			t.Errorf("the client says %q, want %q", got, want)
		}
		s.says("received, of type 1: hello, server")
	})
	t.Run("many clients", func(t *testing.T) {
		t.Parallel()
		p := at(t, bin)
		s := p.start("", many)
		var clients []*run
		for range 3 {
			clients = append(clients, p.start("", client))
		}
		for _, c := range clients {
			if got := c.ends(0); !regexp.MustCompile(`^received, of type 2: client [1-3] says: hello, server\n$`).MatchString(got) {
				t.Errorf("a client says %q", got)
			}
		}
		s.says("Connected")
	})
	t.Run("tcp", func(t *testing.T) {
		t.Parallel()
		p := at(t, bin)
		testutil.Must(t, os.WriteFile(filepath.Join(p.temp, "secret"), secret, 0o600))
		for {
			free, err := net.Listen("tcp", "127.0.0.1:0")
			testutil.Must(t, err)
			address := free.Addr().String()
			free.Close()
			s := p.start("", tcp, "-serve", "-address", address)
			c := p.start("", tcp, "-address", address)
			if s.lines.Scan() && strings.Contains(s.lines.Text(), gipc.ErrNameInUse.Error()) {
				continue // somebody was quicker
			}
			if got := s.lines.Text(); !strings.HasPrefix(got, "from 127.0.0.1:") || !strings.HasSuffix(got, ": hello over TCP") {
				t.Errorf("the server says %q", got)
			}
			c.ends(0)
			return
		}
	})
}

// TestPagesParts makes sure that a piece of code on a page is a piece of a test
// or a program that runs.
func TestPagesParts(t *testing.T) {
	var sources []string
	for _, pattern := range []string{"*_test.go", "example/*/*.go", "example/internal/*/*.go"} {
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
// known for, and that what the pages name exists: directories, files, targets,
// steps, variables of the environment.
func TestPagesCommands(t *testing.T) {
	for _, command := range []string{"go run ./example/simple", "go test ./..."} {
		if !slices.Contains(strings.Split(pageText(t, "README.md"), "\n"), command) {
			t.Errorf("README.md has no line %q", command)
		}
	}
	path := func(name string) bool {
		if !strings.HasPrefix(name, "./") && strings.Contains(name, ".org/") {
			return true // another module
		}
		_, err := os.Stat(filepath.FromSlash(strings.TrimSuffix(name, "/...")))
		return err == nil
	}
	makefile, steps := pageText(t, "Makefile"), pageText(t, filepath.Join(".ci", "run"))
	exists := map[string]func(string) bool{
		"go run": path, "go test": path, "node": path,
		"make":    func(target string) bool { return strings.Contains(makefile, "\n"+target+":") },
		".ci/run": func(step string) bool { return strings.Contains(steps, "\n"+step+"() {") },
	}
	var library strings.Builder
	for _, name := range libraryFiles(t) {
		library.WriteString(pageText(t, name))
	}
	library.WriteString(pageText(t, "main_test.go")) // which has a seed
	found := 0
	for _, page := range pages(t) {
		for _, match := range command.FindAllStringSubmatch(pageText(t, page), -1) {
			found++
			if !exists[match[1]](match[2]) {
				t.Errorf("%s: %q: there is no %s", page, match[0], match[2])
			}
		}
		for _, match := range codeSpan.FindAllStringSubmatch(pageText(t, page), -1) {
			switch name := match[1]; {
			case goFile.MatchString(name) && name != "main.go": // which is the reader's
				found++
				if files, _ := filepath.Glob(filepath.FromSlash(name)); len(files) == 0 {
					t.Errorf("%s: there is no file %s", page, name)
				}
			case strings.HasPrefix(name, "GIPC_") && name != "GIPC_WAIT": // which is another library's
				found++
				if name, _, _ := strings.Cut(name, "="); !strings.Contains(library.String(), `"`+name+`"`) {
					t.Errorf("%s: the library knows no %s", page, name)
				}
			}
		}
	}
	if found < 40 {
		t.Errorf("only %d commands and names found", found)
	}
}

// TestReadmeNames: what the README has in code and begins as an exported name
// does is one, and its tables have every field of the configurations.
func TestReadmeNames(t *testing.T) {
	known := map[string]bool{}
	for _, name := range libraryFiles(t) {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		testutil.Must(t, err)
		for _, decl := range file.Decls {
			for name := range exportedOf(decl) {
				_, after, _ := strings.Cut("."+name, ".")
				known[after[strings.LastIndex(after, ".")+1:]] = true
			}
		}
	}
	text := fenced.ReplaceAllString(pageText(t, "README.md"), "")
	for _, match := range codeSpan.FindAllStringSubmatch(text, -1) {
		for _, name := range exportedName.FindAllString(match[1], -1) {
			pkg, _, _ := strings.Cut(name, ".")
			if name = name[strings.LastIndex(name, ".")+1:]; !known[name] && !slices.Contains([]string{"net", "context", "os", "signal"}, pkg) {
				t.Errorf("README.md: there is no %s, as in %s", name, match[0])
			}
		}
	}
	for _, config := range []any{gipc.ServerConfig{}, gipc.ClientConfig{}} {
		for _, field := range reflect.VisibleFields(reflect.TypeOf(config)) {
			if !strings.Contains(text, "\n| `"+field.Name+"` |") {
				t.Errorf("README.md: no row for the field %s", field.Name)
			}
		}
	}
}

// libraryFiles are the library's sources.
func libraryFiles(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob("*.go")
	testutil.Must(t, err)
	return slices.DeleteFunc(names, func(name string) bool { return strings.HasSuffix(name, "_test.go") })
}

// pageText is a file with the line ends of this system taken out.
func pageText(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	testutil.Must(t, err)
	return strings.ReplaceAll(string(text), "\r\n", "\n")
}

var (
	command      = regexp.MustCompile("(?m)(?:^ *|`)(go run|go test|node|make|\\.ci/run) (\\./[\\w/.]+|[\\w]+[\\w/.]*)")
	codeSpan     = regexp.MustCompile("`([^`\\n]+)`")
	goFile       = regexp.MustCompile(`^[\w*]+\.go$`)
	exportedName = regexp.MustCompile(`\b(?:\w+\.)*[A-Z][a-z]\w+`)

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
