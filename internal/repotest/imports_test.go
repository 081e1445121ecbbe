// A test of what the library is made of: its imports, on every system, and the
// constructions that it does without.

package repotest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// mayImport are the packages that the library may use: its own and some of the
// standard library. Each one that is added is code that a user's review has to
// cover.
var mayImport = []string{
	"example.com/gipc/internal/eventlog", "example.com/gipc/internal/sys", "example.com/gipc/internal/transport",
	"bytes", "cmp", "context",
	"crypto/aes", "crypto/cipher", "crypto/ecdh", "crypto/hkdf", "crypto/hmac", "crypto/mlkem", "crypto/rand", "crypto/sha512", "crypto/subtle",
	"encoding/binary", "errors", "fmt", "io", "io/fs", "iter", "log/slog", "maps", "math", "math/bits", "math/rand/v2",
	"net", "os", "path/filepath", "runtime", "slices", "strconv", "strings", "sync", "sync/atomic", "syscall", "time", "unicode/utf8",
}

// mayVary are the package's variables that are no errors. Nothing assigns to them.
var mayVary = map[string]string{
	"TimeoutMessage": "compared by pointer, and never read",
	"noBatch":        "compared by pointer, and never changed",
	"Past":           "a time, which cannot be a constant",
	"preempted":      "an error, compared by pointer",
	"errNoReply":     "an error",
	"statusNames":    "a table",
	"transitions":    "a table",
}

// TestMadeOfStandardParts reads every file of the package, and of the one that it
// imports, whatever system or tag it is for.
func TestMadeOfStandardParts(t *testing.T) {
	var names []string
	for _, dir := range []string{".", filepath.Join("internal", "eventlog"), filepath.Join("internal", "sys"), filepath.Join("internal", "transport")} {
		for _, pattern := range []string{"*.s", "*.S", "*.c", "*.h", "*.cc", "*.syso"} {
			if names, _ := filepath.Glob(filepath.Join(dir, pattern)); len(names) > 0 {
				t.Errorf("%s: nothing but Go", names)
			}
		}
		found, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: found %v, %v: is the test in the right directory?", dir, found, err)
		}
		names = append(names, found...)
	}
	files, imported, variables := 0, map[string]bool{}, map[string]bool{}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		files++
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, problem := range foreign(file, imported, variables) {
			t.Errorf("%s: %s", fset.Position(problem.pos), problem.text)
		}
	}
	if files < 10 {
		t.Fatalf("only %d files found: is the test in the right directory?", files)
	}
	for _, path := range mayImport {
		if !imported[path] {
			t.Errorf("mayImport has %s, which nothing imports", path)
		}
	}
	for name := range mayVary {
		if !variables[name] {
			t.Errorf("mayVary has %s, which does not exist", name)
		}
	}
}

// TestMadeOfStandardPartsFinds makes sure that the test above can fail.
func TestMadeOfStandardPartsFinds(t *testing.T) {
	for source, want := range map[string]string{
		`import "net/http"`:                      "net/http is not in mayImport",
		`import "example.com/other"`:             "example.com/other is not in mayImport",
		`import "unsafe"`:                        "unsafe",
		`import "C"`:                             "cgo",
		"import _ \"strings\"":                   "strings is imported for its effects",
		"import . \"strings\"":                   "strings is imported without its name",
		"//go:linkname now time.now\nfunc now()": "go:linkname",
		"func now()":                             "now has no body",
		"func init() {}":                         "init",
		"var count int":                          "count is a variable",
		"var (\n ErrA = error(nil)\n table = map[int]int{}\n)": "table is a variable",
		"var Err = 1":                           "Err is a variable",
		"var errNothing int":                    "errNothing is a variable",
		"func f() { Past = Past.Add(1) }":       "Past is assigned to",
		"func f() { statusNames[0] = \"\" }":    "statusNames is assigned to",
		"func f() { TimeoutMessage.Err = nil }": "TimeoutMessage is assigned to",
		"func f() { ErrClosed = nil }":          "ErrClosed is assigned to",
		"func f() { ErrClosed, _ = nil, 1 }":    "ErrClosed is assigned to",
		"func f() { transitions[0]++ }":         "transitions is assigned to",
		"func f() { p := &transitions; _ = p }": "the address of transitions",
	} {
		file, err := parser.ParseFile(token.NewFileSet(), "x.go", "package gipc\n"+source, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		problems := foreign(file, map[string]bool{}, map[string]bool{})
		if !slices.ContainsFunc(problems, func(p problem) bool { return strings.Contains(p.text, want) }) {
			t.Errorf("%q: found %v, want %q", source, problems, want)
		}
	}
	sound := "package gipc\nimport \"errors\"\nvar errA = errors.New(\"a\")\nvar ErrB error = &sentinel{}\nvar _ error = errA\nfunc f() { Past := 1; _ = Past }"
	file, err := parser.ParseFile(token.NewFileSet(), "x.go", sound, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	if problems := foreign(file, map[string]bool{}, map[string]bool{}); len(problems) > 0 {
		t.Errorf("%q: found %v, want nothing", sound, problems)
	}
}

type problem struct {
	pos  token.Pos
	text string
}

var errorName = regexp.MustCompile(`^(Err|err)[A-Z]`)

// foreign returns what a file has that the library does without. It notes what
// the file imports, and the package's variables in it.
func foreign(file *ast.File, imported, variables map[string]bool) (problems []problem) {
	found := func(n ast.Node, text string) { problems = append(problems, problem{n.Pos(), text}) }
	for _, spec := range file.Imports {
		path, _ := strconv.Unquote(spec.Path.Value)
		imported[path] = true
		switch {
		case path == "unsafe":
			found(spec, "unsafe")
		case path == "C":
			found(spec, "cgo")
		case !slices.Contains(mayImport, path):
			found(spec, path+" is not in mayImport")
		case spec.Name != nil && spec.Name.Name == "_":
			found(spec, path+" is imported for its effects")
		case spec.Name != nil && spec.Name.Name == ".":
			found(spec, path+" is imported without its name")
		}
	}
	for _, group := range file.Comments {
		for _, comment := range group.List {
			for _, directive := range []string{"//go:linkname", "//go:cgo", "//export ", "//go:embed", "//go:nosplit", "//go:noescape"} {
				if strings.HasPrefix(comment.Text, directive) {
					found(comment, directive)
				}
			}
		}
	}
	for _, decl := range file.Decls {
		switch decl := decl.(type) {
		case *ast.FuncDecl:
			if decl.Recv == nil && decl.Name.Name == "init" {
				found(decl, "init: nothing happens before it is asked for")
			}
			if decl.Body == nil {
				found(decl, decl.Name.Name+" has no body")
			}
		case *ast.GenDecl:
			if decl.Tok != token.VAR {
				continue
			}
			for _, spec := range decl.Specs {
				spec := spec.(*ast.ValueSpec)
				for i, name := range spec.Names {
					variables[name.Name] = true
					if _, listed := mayVary[name.Name]; !listed && name.Name != "_" && !isError(spec, i) {
						found(name, name.Name+" is a variable of the package: no state but in values, or say in mayVary why it is none")
					}
				}
			}
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			for _, left := range n.Lhs {
				if name := root(left); n.Tok != token.DEFINE && fixed(name) {
					found(n, name.Name+" is assigned to")
				}
			}
		case *ast.IncDecStmt:
			if name := root(n.X); fixed(name) {
				found(n, name.Name+" is assigned to")
			}
		case *ast.UnaryExpr:
			if name := root(n.X); n.Op == token.AND && fixed(name) {
				found(n, "the address of "+name.Name+" is taken")
			}
		}
		return true
	})
	return problems
}

// isError says whether a variable is an error that is made once.
func isError(spec *ast.ValueSpec, i int) bool {
	if !errorName.MatchString(spec.Names[i].Name) {
		return false
	}
	if typ, ok := spec.Type.(*ast.Ident); ok {
		return typ.Name == "error"
	}
	if spec.Type != nil || i >= len(spec.Values) {
		return false
	}
	switch value := spec.Values[i].(type) {
	case *ast.CallExpr: // errors.New and error(...)
		switch f := value.Fun.(type) {
		case *ast.Ident:
			return f.Name == "error"
		case *ast.SelectorExpr:
			return f.Sel.Name == "New"
		}
	case *ast.Ident: // another one
		return errorName.MatchString(value.Name)
	}
	return false
}

// root is the name that an expression begins with: x of x.y[z].
func root(x ast.Expr) *ast.Ident {
	for {
		switch e := x.(type) {
		case *ast.Ident:
			return e
		case *ast.SelectorExpr:
			x = e.X
		case *ast.IndexExpr:
			x = e.X
		case *ast.StarExpr:
			x = e.X
		case *ast.ParenExpr:
			x = e.X
		default:
			return nil
		}
	}
}

// fixed says whether a name is one of the package's variables. A local one of
// the same name would be a surprise, too.
func fixed(name *ast.Ident) bool {
	if name == nil {
		return false
	}
	_, listed := mayVary[name.Name]
	return listed || errorName.MatchString(name.Name)
}

// TestNoTestSleeps: a test waits for events, for time in a bubble, or for a channel.
func TestNoTestSleeps(t *testing.T) {
	t.Parallel()
	sleep := "time.Sleep" + "("
	err := filepath.WalkDir(".", func(name string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(name, "_test.go") {
			return err
		}
		text, err := os.ReadFile(name)
		if strings.Contains(string(text), sleep) {
			t.Errorf("%s sleeps", name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
