// What every test shares: children that are this binary started again, the
// check that no goroutine is left, and small helpers.

package gipc

import (
	"bytes"
	"crypto/fips140"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestMain turns the binary into the child that GIPC_TEST_CHILD names, or runs
// the tests and then fails if they have left a goroutine behind.
func TestMain(m *testing.M) {
	if name := os.Getenv("GIPC_TEST_CHILD"); name != "" {
		f := testChildren[name]
		if f == nil {
			fmt.Fprintf(os.Stderr, "GIPC_TEST_CHILD: no child %q\n", name)
			os.Exit(2)
		}
		f()
		os.Exit(0)
	}
	moreInParallel()
	before := goroutines(nil)
	code := m.Run()
	if code == 0 && !fuzzing() {
		if left := leftOver(before, 10*time.Second); len(left) > 0 {
			fmt.Fprintf(os.Stderr, "FAIL: %d goroutines left after all tests:\n\n%s\n", len(left), strings.Join(left, "\n\n"))
			code = 1
		}
	}
	os.Exit(code)
}

// moreInParallel has eight tests run at once unless the command line says how many:
// most of them wait most of the time.
func moreInParallel() {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue && runtime.GOMAXPROCS(0) < 8 {
		f.Value.Set("8")
	}
}

// fuzzing says whether this process searches for inputs: the searcher keeps
// goroutines of its own.
func fuzzing() bool {
	for _, name := range []string{"test.fuzz", "test.fuzzworker"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != f.DefValue {
			return true
		}
	}
	return false
}

// goroutines returns the stacks of all goroutines but those in known, by the
// goroutine's number. The one that calls is not in it, and neither is the one
// that the standard library keeps for signals once a test has asked for them.
func goroutines(known map[string]string) map[string]string {
	buf := make([]byte, 1<<16)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	_, rest, _ := bytes.Cut(buf, []byte("\n\n")) // the caller is always first
	found := map[string]string{}
	for stack := range strings.SplitSeq(strings.TrimSpace(string(rest)), "\n\n") {
		id, _, _ := strings.Cut(strings.TrimPrefix(stack, "goroutine "), " ")
		if _, ok := known[id]; ok || stack == "" || strings.Contains(stack, "os/signal.loop") {
			continue
		}
		found[id] = stack
	}
	return found
}

// leftOver returns the stacks of the goroutines that are not in before and do
// not end by themselves within the given time.
func leftOver(before map[string]string, within time.Duration) []string {
	for giveUp := time.After(within); ; {
		now := goroutines(before)
		if len(now) == 0 {
			return nil
		}
		select {
		case <-giveUp:
			var stacks []string
			for _, stack := range now {
				stacks = append(stacks, stack)
			}
			return stacks
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func TestLeakCheckFindsAndForgets(t *testing.T) {
	before := goroutines(nil)
	release := make(chan struct{})
	go leakForTest(release)
	if left := leftOver(before, 50*time.Millisecond); !strings.Contains(strings.Join(left, "\n"), "leakForTest") {
		t.Errorf("a goroutine that is left is not found; found: %q", left)
	}
	close(release)
	if left := leftOver(before, 10*time.Second); len(left) > 0 {
		t.Errorf("a goroutine that has ended is still counted: %q", left)
	}
}

func leakForTest(release chan struct{}) { <-release }

// openFDs counts this process's descriptors. Tests that compare two counts may
// not run in parallel with others.
func openFDs(t testing.TB) int {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("descriptors are counted in /proc/self/fd, which this system does not have")
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// tempSocket returns a path for a socket in a directory of its own. It is
// short: t.TempDir has the test's name in it, and a socket's path has little
// more than a hundred bytes.
func tempSocket(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "g")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(dir, "s")
}

// bubble runs f where the clock is not the real one. The approved random source
// of FIPS mode measures the real one when it starts, and panics there: what is
// tested in bubbles is tested in the other mode.
func bubble(t *testing.T, f func(*testing.T)) {
	t.Helper()
	if fips140.Enabled() {
		t.Skip("the random source of this mode does not start in a bubble")
	}
	synctest.Test(t, f)
}
