// A type check of the package in this directory and of those under internal,
// their tests included, for the system that GOOS and GOARCH name. It takes a
// second where a build compiles the standard library first.

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
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
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

// run checks the package in the directory root, whose import path is given. What it
// imports is shared with the other directories: it is checked from source once.
func run(fset *token.FileSet, w *world, root, path string) error {
	dir, err := build.ImportDir(root, 0)
	if err != nil {
		return err
	}
	var errs []error
	config := types.Config{
		Importer: w,
		Sizes:    types.SizesFor("gc", build.Default.GOARCH),
		Error:    func(err error) { errs = append(errs, err) },
	}
	check := func(path string, names ...string) *types.Package {
		var files []*ast.File
		for _, name := range names {
			file, err := parser.ParseFile(fset, filepath.Join(root, name), nil, parser.SkipObjectResolution)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			files = append(files, file)
		}
		own, _ := config.Check(path, fset, files, nil) // every error of it has been kept
		return own
	}
	w.own = nil
	w.own = check(path, append(dir.GoFiles, dir.TestGoFiles...)...)
	check(path+"_test", dir.XTestGoFiles...)
	return errors.Join(errs...)
}

// directories returns this directory, and those under internal that have Go files, without
// the tests of pages and layout, which are for the machine that runs them.
func directories() ([]string, error) {
	all := []string{"."}
	err := filepath.WalkDir("internal", func(name string, entry fs.DirEntry, err error) error {
		if dir := filepath.Dir(name); err == nil && strings.HasSuffix(name, ".go") && !strings.Contains(name, "repotest") && all[len(all)-1] != dir {
			all = append(all, dir)
		}
		return err
	})
	return all, err
}

func main() {
	all, err := directories()
	fset := token.NewFileSet()
	w := &world{ImporterFrom: importer.ForCompiler(fset, "source", nil).(types.ImporterFrom)}
	for _, dir := range all {
		err = errors.Join(err, run(fset, w, dir, path.Join(os.Args[1], filepath.ToSlash(dir))))
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s/%s: %v\n", build.Default.GOOS, build.Default.GOARCH, err)
		os.Exit(1)
	}
}
