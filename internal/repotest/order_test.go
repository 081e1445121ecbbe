package repotest

import (
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestCallsGoOneWay holds the order of the files that CONTRIBUTING promises: each
// file uses only functions, types and constants of files before it.
func TestCallsGoOneWay(t *testing.T) {
	t.Parallel()
	rank := fileRanks(t)
	fset := token.NewFileSet()
	var files []*ast.File
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		if _, ok := rank[name]; !ok {
			t.Errorf("CONTRIBUTING.md has no place for %s", name)
		}
		file, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
	config := types.Config{Importer: importer.ForCompiler(fset, "gc", exportData(t))}
	pkg, err := config.Check("example.com/gipc", fset, files, info)
	if err != nil {
		t.Fatal(err)
	}
	fileOf := func(pos token.Pos) string { return filepath.Base(fset.Position(pos).Filename) }
	for id, used := range info.Uses {
		if _, isFunc := used.(*types.Func); used.Pkg() != pkg || !isFunc && used.Parent() != pkg.Scope() {
			continue
		}
		if from, to := fileOf(id.Pos()), fileOf(used.Pos()); rank[to] > rank[from] {
			t.Errorf("%s uses %s, of %s, which stands behind it", fset.Position(id.Pos()), used.Name(), to)
		}
	}
}

// exportData returns a lookup of what the go command has compiled of the packages
// that this one imports.
func exportData(t *testing.T) importer.Lookup {
	t.Helper()
	list, err := exec.Command("go", "list", "-export", "-deps", "-f", "{{.ImportPath}} {{.Export}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for line := range strings.Lines(string(list)) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), " ")
		files[path] = file
	}
	return func(path string) (io.ReadCloser, error) { return os.Open(files[path]) }
}

// fileRanks reads the table of CONTRIBUTING. The last row is one storey.
func fileRanks(t *testing.T) map[string]int {
	t.Helper()
	text, err := os.ReadFile("CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	rank := map[string]int{}
	cell := regexp.MustCompile("(?m)^\\| ((?:`[a-z_]+\\.go`(?:, )?)+) \\|")
	for _, row := range cell.FindAllStringSubmatch(string(text), -1) {
		for _, name := range regexp.MustCompile(`[a-z_]+\.go`).FindAllString(row[1], -1) {
			rank[name] = len(rank)
		}
	}
	if len(rank) < 20 || !slices.Contains([]int{len(rank) - 1}, rank["multi.go"]) {
		t.Fatalf("CONTRIBUTING.md has %d files in its table, and multi.go is not the last", len(rank))
	}
	rank["multi.go"], rank["departed.go"] = rank["server.go"], rank["server.go"]
	return rank
}
