// The check that no goroutine is left, and connections for tests.

package wire2

import (
	"bytes"
	"crypto/fips140"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestMain(m *testing.M) {
	before := goroutines(nil)
	code := m.Run()
	removePredecessor()
	if code == 0 && !fuzzing() {
		if left := leftOver(before, 10*time.Second); len(left) > 0 {
			fmt.Fprintf(os.Stderr, "FAIL: %d goroutines left after all tests:\n\n%s\n", len(left), strings.Join(left, "\n\n"))
			code = 1
		}
	}
	os.Exit(code)
}

// fuzzing reports whether this process searches for inputs, which needs
// goroutines of its own.
func fuzzing() bool {
	for _, name := range []string{"test.fuzz", "test.fuzzworker"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != f.DefValue {
			return true
		}
	}
	return false
}

// goroutines returns the stacks of all goroutines except the calling one and
// those in known, by number.
func goroutines(known map[string]string) map[string]string {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	_, rest, _ := bytes.Cut(buf, []byte("\n\n"))
	found := map[string]string{}
	for stack := range strings.SplitSeq(strings.TrimSpace(string(rest)), "\n\n") {
		id, _, _ := strings.Cut(strings.TrimPrefix(stack, "goroutine "), " ")
		if _, ok := known[id]; !ok && stack != "" && !strings.Contains(stack, "os/signal.loop") {
			found[id] = stack
		}
	}
	return found
}

// leftOver returns the stacks of goroutines that do not end within the given time.
func leftOver(before map[string]string, within time.Duration) (stacks []string) {
	for giveUp := time.After(within); ; {
		now := goroutines(before)
		if len(now) == 0 {
			return nil
		}
		select {
		case <-giveUp:
			for _, stack := range now {
				stacks = append(stacks, stack)
			}
			return stacks
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// socketPair returns both ends of a unix socket.
func socketPair(t testing.TB) (near, far net.Conn) {
	t.Helper()
	dir, err := os.MkdirTemp("", "w") // short: the path of a socket is limited
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if far, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if near, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	deadline := time.Now().Add(time.Minute)
	near.SetDeadline(deadline)
	far.SetDeadline(deadline)
	return near, far
}

// bubble runs f with a fake clock. The approved random source cannot start in a
// bubble, so its tests run without FIPS mode only.
func bubble(t *testing.T, f func(*testing.T)) {
	t.Helper()
	if fips140.Enabled() {
		t.Skip("the random source of FIPS mode does not start in a bubble")
	}
	synctest.Test(t, f)
}
