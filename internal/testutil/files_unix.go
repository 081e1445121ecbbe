// Unix systems: the limit of open files.

//go:build unix

package testutil

import (
	"syscall"
	"testing"
)

// NeedFiles raises the limit of open files to n, or skips the test. The runtime
// raises the soft limit to the hard one by itself; this raises the hard one if it may.
func NeedFiles(t testing.TB, n uint64) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if uint64(limit.Cur) >= n {
		return
	}
	set(&limit.Cur, n)
	set(&limit.Max, max(uint64(limit.Max), n))
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Skipf("needs %d descriptors in one process: raise the limit with ulimit -n: %v", n, err)
	}
}

// set sets a limit, whose type differs by system.
func set[T int64 | uint64](limit *T, n uint64) { *limit = T(n) }
