// Tests with thousands of clients need as many descriptors. The runtime raises
// the soft limit to the hard one by itself; this raises the hard one where it may.

package gipc

import (
	"syscall"
	"testing"
)

func init() {
	needFiles = func(t testing.TB, n uint64) {
		t.Helper()
		var limit syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
		if limit.Cur >= n {
			return
		}
		limit.Cur, limit.Max = n, max(limit.Max, n)
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			t.Skipf("needs %d descriptors in one process: raise the limit with ulimit -n: %v", n, err)
		}
	}
}
