package repotest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"example.com/gipc/internal/testutil"
)

// TestWhereIs holds the tables of CONTRIBUTING that say where a behaviour is: each
// name of the last column is declared in the file of the column before it.
func TestWhereIs(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("CONTRIBUTING.md")
	testutil.Must(t, err)
	rows := 0
	for _, title := range []string{"## The path of a message", "## Where is"} {
		_, section, found := strings.Cut(string(text), "\n"+title+"\n")
		if !found {
			t.Fatalf("CONTRIBUTING.md has no section %q", title)
		}
		section, _, _ = strings.Cut(section, "\n## ")
		for line := range strings.Lines(section) {
			cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
			if !strings.HasPrefix(line, "|") || len(cells) < 3 || !strings.Contains(line, ".go`") {
				continue
			}
			rows++
			for _, problem := range misplaced(t, cells[len(cells)-2], cells[len(cells)-1]) {
				t.Errorf("%s: %s", strings.TrimSpace(cells[0]), problem)
			}
		}
	}
	if rows < 30 {
		t.Errorf("only %d rows were found", rows)
	}
}

var quoted = regexp.MustCompile("`([^`]+)`")

// misplaced returns what is wrong with one row: names that are not in the file.
func misplaced(t *testing.T, file, names string) (problems []string) {
	t.Helper()
	path := quoted.FindStringSubmatch(file)
	if path == nil {
		return []string{"no file in " + file}
	}
	declared, err := declarations(filepath.FromSlash(path[1]))
	if err != nil {
		return []string{err.Error()}
	}
	found := quoted.FindAllStringSubmatch(names, -1)
	if len(found) == 0 {
		problems = append(problems, "no names")
	}
	for _, name := range found {
		if !declared[name[1]] {
			problems = append(problems, name[1]+" is not in "+path[1])
		}
	}
	return problems
}

// declarations returns what a file declares: functions, types, constants, variables,
// methods as Type.method, and fields as Type.field.
func declarations(path string) (map[string]bool, error) {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		return nil, err
	}
	declared := map[string]bool{}
	for _, decl := range file.Decls {
		switch decl := decl.(type) {
		case *ast.FuncDecl:
			name := decl.Name.Name
			if decl.Recv != nil {
				receiver := decl.Recv.List[0].Type
				if pointer, ok := receiver.(*ast.StarExpr); ok {
					receiver = pointer.X
				}
				if id, ok := receiver.(*ast.Ident); ok {
					name = id.Name + "." + name
				}
			}
			declared[name] = true
		case *ast.GenDecl:
			for _, spec := range decl.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					declared[spec.Name.Name] = true
					if s, ok := spec.Type.(*ast.StructType); ok {
						for _, field := range s.Fields.List {
							for _, name := range field.Names {
								declared[spec.Name.Name+"."+name.Name] = true
							}
						}
					}
				case *ast.ValueSpec:
					for _, name := range spec.Names {
						declared[name.Name] = true
					}
				}
			}
		}
	}
	return declared, nil
}

func TestWhereIsFindsWhatIsMisplaced(t *testing.T) {
	t.Parallel()
	for row, want := range map[[2]string]string{
		{"`conn.go`", "`connection`, `connection.receive`"}: "",
		{"`conn.go`", "`messageQueue`"}:                     "messageQueue is not in conn.go",
		{"`conn.go`", "receive"}:                            "no names",
		{"conn.go", "`receive`"}:                            "no file",
		{"`nowhere.go`", "`receive`"}:                       "nowhere.go",
	} {
		got := strings.Join(misplaced(t, row[0], row[1]), "; ")
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%v: %q, want %q", row, got, want)
		}
	}
}
