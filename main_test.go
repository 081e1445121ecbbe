// What every test shares: children that are this binary started again, and small
// helpers. The leak check is in internal/testutil.

package gipc

import (
	"crypto/fips140"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"testing/synctest"

	"example.com/gipc/internal/testutil"
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
	os.Exit(testutil.RunTests(m))
}

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
