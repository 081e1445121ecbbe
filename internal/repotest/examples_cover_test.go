// A test that every exported name has an Example that runs, or a reason not to.

package repotest

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// unshown are the exported names without an Example, and why.
var unshown = map[string]string{
	"ClientError.Error":  "the text of an error is shown where errors are printed",
	"ClientError.Unwrap": "for errors.Is and errors.As, which are shown",
	"Encryption":         "its two values are shown",
	"SizeError.Error":    "the text of an error is shown where errors are printed",
	"SizeError.Is":       "for errors.Is, which is shown",
	"Status.String":      "what fmt prints, in the Example of Status",
	"Message.Is":         "in the Examples of reading",
}

// TestEveryNameHasAnExample: a function and a method need an Example of their
// own, by its name; everything else, each field of a config included, has to be
// used in one. The methods that Server and Client share need one for either.
func TestEveryNameHasAnExample(t *testing.T) {
	fset := token.NewFileSet()
	parse := func(keep func(name string) bool) (files []*ast.File) {
		names, err := filepath.Glob("*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if keep(name) {
				file, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
				if err != nil {
					t.Fatal(err)
				}
				files = append(files, file)
			}
		}
		return files
	}
	isTest := func(name string) bool { return strings.HasSuffix(name, "_test.go") }

	named, used := map[string]bool{}, map[string]bool{}
	for _, example := range doc.Examples(parse(isTest)...) {
		if example.Output == "" && !example.EmptyOutput {
			t.Errorf("Example%s has no output: nobody would notice if it did not work", example.Name)
			continue
		}
		subject, suffix, _ := strings.Cut(example.Name, "_")
		named[subject] = true
		if suffix != "" && ast.IsExported(suffix) {
			method, _, _ := strings.Cut(suffix, "_")
			named[subject+"."+method] = true
		}
		gather(example.Code, used)
	}
	if len(named) < 10 {
		t.Fatalf("only %d Examples found: is the test in the right directory?", len(named))
	}

	exported := map[string]bool{}
	for _, file := range parse(func(name string) bool { return !isTest(name) }) {
		for _, decl := range file.Decls {
			for name, needsOwn := range exportedOf(decl) {
				exported[name] = true
				shown := named[name]
				if !needsOwn {
					shown = shown || used[name]
				} else {
					if method, shared := strings.CutPrefix(name, "endpoint."); shared {
						shown = named["Client."+method] || named["Server."+method]
					}
				}
				_, excused := unshown[name]
				switch where := fset.Position(decl.Pos()).Filename; {
				case !shown && !excused:
					t.Errorf("%s, of %s, has no Example: write one, or say in unshown why there is none", name, where)
				case shown && excused:
					t.Errorf("%s has an Example: take it out of unshown", name)
				}
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(unshown)) {
		if !exported[name] {
			t.Errorf("unshown excuses %s, which does not exist", name)
		}
	}
}

// gather notes what an Example's code uses: of this package x as "x", the field
// f of a literal of this package's type T as "T.f", any other field or method f
// as "*.f".
func gather(code ast.Node, used map[string]bool) {
	ast.Inspect(code, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && x.Name == "gipc" {
				used[n.Sel.Name] = true
			} else {
				used["*."+n.Sel.Name] = true
			}
		case *ast.CompositeLit:
			if typ, ok := n.Type.(*ast.SelectorExpr); ok {
				for _, element := range n.Elts {
					if kv, ok := element.(*ast.KeyValueExpr); ok {
						if key, ok := kv.Key.(*ast.Ident); ok {
							used[typ.Sel.Name+"."+key.Name] = true
						}
					}
				}
			}
		}
		return true
	})
}

// exportedOf returns the exported names that a declaration makes, and for each
// whether it needs an Example by its name.
func exportedOf(decl ast.Decl) map[string]bool {
	names := map[string]bool{}
	switch decl := decl.(type) {
	case *ast.FuncDecl:
		name := decl.Name.Name
		if decl.Recv != nil {
			typ := decl.Recv.List[0].Type
			if star, ok := typ.(*ast.StarExpr); ok {
				typ = star.X
			}
			receiver := typ.(*ast.Ident).Name
			if !ast.IsExported(receiver) && receiver != "endpoint" { // what Server and Client embed
				return nil
			}
			name = receiver + "." + name
		}
		if decl.Name.IsExported() {
			names[name] = true
		}
	case *ast.GenDecl:
		for _, spec := range decl.Specs {
			switch spec := spec.(type) {
			case *ast.ValueSpec:
				for _, name := range spec.Names {
					if name.IsExported() {
						names[name.Name] = false
					}
				}
			case *ast.TypeSpec:
				if !spec.Name.IsExported() {
					continue
				}
				names[spec.Name.Name] = false
				if fields, ok := spec.Type.(*ast.StructType); ok {
					for _, field := range fields.Fields.List {
						for _, name := range field.Names {
							if name.IsExported() {
								names[fieldName(spec.Name.Name, name.Name)] = false
							}
						}
					}
				}
			}
		}
	}
	return names
}

// fieldName is the field as gather notes it: that of a config is set in a
// literal, that of anything else is read from a value whose type is not known here.
func fieldName(typ, field string) string {
	if strings.HasSuffix(typ, "Config") {
		return typ + "." + field
	}
	return "*." + field
}
