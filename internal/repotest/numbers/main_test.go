package main

import (
	"os"
	"path/filepath"
	"testing"

	"example.com/gipc/internal/testutil"
)

func TestFiguresOfASmallFile(t *testing.T) {
	t.Parallel()
	const source = `// A comment.
package small

type inner struct{ a, bc bool }

type outer struct {
	inner
	first inner
	n     int
}

// f has five branches.
func f(n int) bool {
	if n > 1 && n < 9 {
		return true
	}
	for range n {
		switch n {
		case 1:
		default:
		}
	}
	select {
	case <-make(chan int):
	}
	return false
}
`
	dir := t.TempDir()
	testutil.Must(t, os.WriteFile(filepath.Join(dir, "small.go"), []byte(source), 0o600))
	testutil.Must(t, os.WriteFile(filepath.Join(dir, "small_test.go"), []byte("package small\n\nfunc untold() {}\n"), 0o600))
	got, err := measure(dir)
	testutil.Must(t, err)
	want := counts{
		files: 1, lines: 27, code: 22, comments: 2,
		longestFile: item{"small.go", 27}, largestStruct: item{"outer", 5}, densestFunction: item{"f", 5},
		branches: 5, functions: 1, functionLetters: 1, fields: 4, fieldLetters: 1 + 2 + 5 + 1, bools: 2,
	}
	if *got != want {
		t.Errorf("got %+v, want %+v", *got, want)
	}
	if _, err := measure(t.TempDir()); err == nil {
		t.Error("a directory without Go files has figures")
	}
}
