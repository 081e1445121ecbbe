// A type check of the package in this directory, its tests included, for the
// system that GOOS and GOARCH name. It takes a second where a build compiles the
// standard library first.

package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/build"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"os"
)

// world imports from source, and the package itself as it was checked.
type world struct {
	types.ImporterFrom
	own *types.Package
}

func (w *world) ImportFrom(path, dir string, mode types.ImportMode) (*types.Package, error) {
	if w.own != nil && path == w.own.Path() {
		return w.own, nil
	}
	return w.ImporterFrom.ImportFrom(path, dir, mode)
}

func run(path string) error {
	dir, err := build.ImportDir(".", 0)
	if err != nil {
		return err
	}
	fset := token.NewFileSet()
	w := &world{ImporterFrom: importer.ForCompiler(fset, "source", nil).(types.ImporterFrom)}
	var errs []error
	config := types.Config{
		Importer: w,
		Sizes:    types.SizesFor("gc", build.Default.GOARCH),
		Error:    func(err error) { errs = append(errs, err) },
	}
	check := func(path string, names ...string) *types.Package {
		var files []*ast.File
		for _, name := range names {
			file, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			files = append(files, file)
		}
		own, _ := config.Check(path, fset, files, nil) // every error of it has been kept
		return own
	}
	w.own = check(path, append(dir.GoFiles, dir.TestGoFiles...)...)
	check(path+"_test", dir.XTestGoFiles...)
	return errors.Join(errs...)
}

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintf(os.Stderr, "%s/%s: %v\n", build.Default.GOOS, build.Default.GOARCH, err)
		os.Exit(1)
	}
}
