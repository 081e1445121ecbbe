// Package testutil holds what the tests of this module share: the goroutine
// leak check, child processes, temporary sockets, connections with faults, and
// peers that speak the plaintext protocol byte by byte. It does not import the
// library, so that the library's own tests can import it.
package testutil

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Main runs the tests and exits. It fails if the tests leave a goroutine
// behind. In a process that StartChild started it runs that child instead.
func Main(m *testing.M, children map[string]func(args []string) error) {
	if name := os.Getenv(childVariable); name != "" {
		os.Exit(runChild(name, children))
	}
	os.Exit(RunTests(m))
}

// RunTests runs the tests and returns the exit code. It fails if the tests leave a
// goroutine behind.
func RunTests(m *testing.M) int {
	moreInParallel()
	before := Goroutines(nil)
	code := m.Run()
	if code == 0 && !fuzzing() {
		if left := LeftOver(before, 10*time.Second); len(left) > 0 {
			fmt.Fprintf(os.Stderr, "FAIL: %d goroutines left after all tests:\n\n%s\n", len(left), strings.Join(left, "\n\n"))
			code = 1
		}
	}
	return code
}

// moreInParallel has eight tests run at once unless the command line says how many:
// most of them wait most of the time.
func moreInParallel() {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue && runtime.GOMAXPROCS(0) < 8 {
		f.Value.Set("8")
	}
}

// fuzzing reports whether this process searches for inputs: the fuzzer keeps
// goroutines of its own.
func fuzzing() bool {
	for _, name := range []string{"test.fuzz", "test.fuzzworker"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != f.DefValue {
			return true
		}
	}
	return false
}

// Goroutines returns the stacks of all goroutines except the calling one and
// those in known, by goroutine number.
func Goroutines(known map[string]string) map[string]string {
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
		number, _, _ := strings.Cut(strings.TrimPrefix(stack, "goroutine "), " ")
		_, ok := known[number]
		// The standard library keeps one goroutine once a process has asked for signals.
		if ok || stack == "" || strings.Contains(stack, "os/signal.loop") {
			continue
		}
		found[number] = stack
	}
	return found
}

// LeftOver returns the stacks of the goroutines that are not in before and do
// not end within the given time.
func LeftOver(before map[string]string, within time.Duration) []string {
	for limit := time.After(within); ; {
		now := Goroutines(before)
		if len(now) == 0 {
			return nil
		}
		select {
		case <-limit:
			var stacks []string
			for _, stack := range now {
				stacks = append(stacks, stack)
			}
			return stacks
		case <-time.After(5 * time.Millisecond):
		}
	}
}
