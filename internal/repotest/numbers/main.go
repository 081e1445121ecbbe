// Numbers prints what the code of a directory of Go files looks like in figures, tests
// left out: go run ./internal/repotest/numbers [DIRECTORY]. They gate nothing.
package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
)

// counts are the sums over all files.
type counts struct {
	files, lines, code, comments int
	longestFile                  item
	largestStruct                item
	densestFunction              item // by branches
	branches                     int
	functions, functionLetters   int
	fields, fieldLetters, bools  int
}

// An item is the largest of its kind.
type item struct {
	name string
	size int
}

func (i *item) note(name string, size int) {
	if size > i.size {
		*i = item{name, size}
	}
}

func main() {
	dir := "."
	if len(os.Args) > 1 {
		dir = os.Args[1]
	}
	c, err := measure(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, "numbers:", err)
		os.Exit(1)
	}
	fmt.Print(c)
}

func measure(dir string) (*counts, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	c, fset, structs := new(counts), token.NewFileSet(), map[string]*ast.StructType{}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		source, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		file, err := parser.ParseFile(fset, name, source, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		c.addFile(filepath.Base(name), fset, file, string(source))
		ast.Inspect(file, func(n ast.Node) bool {
			if t, ok := n.(*ast.TypeSpec); ok {
				if s, ok := t.Type.(*ast.StructType); ok {
					structs[t.Name.Name] = s
				}
			}
			return true
		})
	}
	if c.files == 0 {
		return nil, fmt.Errorf("%s has no Go files", dir)
	}
	for name, s := range structs {
		c.largestStruct.note(name, fieldsOf(s, structs))
	}
	return c, nil
}

// addFile counts one file. A line of code has something that is no comment.
func (c *counts) addFile(name string, fset *token.FileSet, file *ast.File, source string) {
	lines := strings.Split(strings.TrimSuffix(source, "\n"), "\n")
	c.files++
	c.lines += len(lines)
	c.longestFile.note(name, len(lines))
	for _, line := range lines {
		switch line = strings.TrimSpace(line); {
		case strings.HasPrefix(line, "//"):
			c.comments++
		case line != "":
			c.code++
		}
	}
	for _, decl := range file.Decls {
		if f, ok := decl.(*ast.FuncDecl); ok {
			branches := branchesOf(f)
			c.branches += branches
			c.densestFunction.note(f.Name.Name, branches)
			c.functions++
			c.functionLetters += len(f.Name.Name)
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if s, ok := n.(*ast.StructType); ok {
			c.addFields(s)
		}
		return true
	})
}

func (c *counts) addFields(s *ast.StructType) {
	for _, field := range s.Fields.List {
		kind, _ := field.Type.(*ast.Ident)
		for _, name := range field.Names {
			c.fields++
			c.fieldLetters += len(name.Name)
			if kind != nil && kind.Name == "bool" {
				c.bools++
			}
		}
	}
}

// branchesOf counts the ways through a function: conditions, loops, cases, and the
// second halves of && and ||.
func branchesOf(f *ast.FuncDecl) (n int) {
	ast.Inspect(f, func(node ast.Node) bool {
		switch node := node.(type) {
		case *ast.IfStmt, *ast.ForStmt, *ast.RangeStmt:
			n++
		case *ast.CaseClause:
			if node.List != nil {
				n++
			}
		case *ast.CommClause:
			n++
		case *ast.BinaryExpr:
			if node.Op == token.LAND || node.Op == token.LOR {
				n++
			}
		}
		return true
	})
	return n
}

// fieldsOf counts the fields of a struct, those of structs that it holds by value
// counted instead of them.
func fieldsOf(s *ast.StructType, structs map[string]*ast.StructType) (n int) {
	for _, field := range s.Fields.List {
		size := 1
		if kind, ok := field.Type.(*ast.Ident); ok && structs[kind.Name] != nil {
			size = fieldsOf(structs[kind.Name], structs)
		}
		n += size * max(len(field.Names), 1)
	}
	return n
}

func (c *counts) String() string {
	ratio := func(a, b int) float64 { return float64(a) / float64(max(b, 1)) }
	var b strings.Builder
	row := func(what, format string, args ...any) {
		fmt.Fprintf(&b, "| %s | %s |\n", what, fmt.Sprintf(format, args...))
	}
	b.WriteString("| what | figure |\n|---|---|\n")
	row("files, lines, lines of code", "%d, %d, %d", c.files, c.lines, c.code)
	row("longest file", "%s, %d lines", c.longestFile.name, c.longestFile.size)
	row("largest struct, those inside it counted", "%s, %d fields", c.largestStruct.name, c.largestStruct.size)
	row("branches per 100 lines of code", "%.1f", 100*ratio(c.branches, c.code))
	row("most branches in a function", "%s, %d", c.densestFunction.name, c.densestFunction.size)
	row("mean length of a function's name, of a field's", "%.1f, %.1f letters", ratio(c.functionLetters, c.functions), ratio(c.fieldLetters, c.fields))
	row("fields that are bool", "%d", c.bools)
	row("comment lines", "%.0f %%", 100*ratio(c.comments, c.lines))
	return b.String()
}
