// Waiting for conditions, temporary sockets, and checks that fail a test.

package testutil

import (
	"crypto/fips140"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

// Patience is how long a test waits for what must happen. It is a safety net:
// a test that passes never waits so long.
const Patience = 20 * time.Second

// Must fails the test now if err is not nil.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Await returns the next value of c. It fails the test if none comes.
func Await[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(Patience):
		t.Fatalf("%s: nothing happened for %v", what, Patience)
		panic("not reached")
	}
}

// Go runs f in a goroutine and returns a channel that receives its result.
func Go[T any](f func() T) <-chan T {
	c := make(chan T, 1)
	go func() { c <- f() }()
	return c
}

// Do runs f in a goroutine and waits for its result. It fails the test if f
// hangs.
func Do(t testing.TB, what string, f func() error) error {
	t.Helper()
	return Await(t, what, Go(f))
}

// Together runs fs concurrently and fails the test at the first error, or if
// one of them hangs.
func Together(t testing.TB, fs ...func() error) {
	t.Helper()
	errs := make(chan error, len(fs))
	for i, f := range fs {
		go func() {
			err := f()
			if err != nil {
				err = fmt.Errorf("function %d of %d: %w", i+1, len(fs), err)
			}
			errs <- err
		}()
	}
	for range fs {
		Must(t, Await(t, "a concurrent function", errs))
	}
}

// Eventually polls until ok returns true. Use it only if there is no event to
// wait for.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	limit := time.After(Patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("%s did not happen within %v", what, Patience)
		}
	}
}

// WantErr checks that err matches every target. Without a target it checks
// that err is nil.
func WantErr(t testing.TB, what string, err error, targets ...error) {
	t.Helper()
	if len(targets) == 0 && err != nil {
		t.Errorf("%s: %v, want nil", what, err)
	}
	for _, target := range targets {
		if !errors.Is(err, target) {
			t.Errorf("%s: error %v does not match %v", what, err, target)
		}
	}
}

// RejectErr checks that err matches none of the targets.
func RejectErr(t testing.TB, what string, err error, targets ...error) {
	t.Helper()
	for _, target := range targets {
		if errors.Is(err, target) {
			t.Errorf("%s: error %v matches %v and must not", what, err, target)
		}
	}
}

// Progress is a watchdog: it fails the test when nothing has moved for
// Patience, and calls stop once so that the test can end.
type Progress struct {
	moves chan struct{}
	done  chan struct{}
}

// WatchProgress starts a watchdog that ends with the test.
func WatchProgress(t testing.TB, what string, stop func()) *Progress {
	p := &Progress{make(chan struct{}, 1), make(chan struct{})}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-p.moves:
			case <-p.done:
				return
			case <-time.After(Patience):
				t.Errorf("%s: no progress for %v", what, Patience)
				if os.Getenv("GIPC_STACKS") != "" {
					buf := make([]byte, 1<<20)
					t.Logf("%s", buf[:runtime.Stack(buf, true)])
				}
				stop()
				return
			}
		}
	}()
	t.Cleanup(func() {
		close(p.done)
		<-ended
	})
	return p
}

// Move reports progress.
func (p *Progress) Move() {
	select {
	case p.moves <- struct{}{}:
	default:
	}
}

// Bubble runs f in a synctest bubble. A bubble in which a goroutine spins never
// advances its clock, so a spin ends the process with all stacks after
// Patience of real time.
func Bubble(t *testing.T, f func(*testing.T)) {
	t.Helper()
	if fips140.Enabled() {
		t.Skip("the random source of FIPS mode measures the real clock and cannot start in a bubble")
	}
	ended := make(chan struct{})
	guard := make(chan struct{})
	go func() {
		defer close(guard)
		select {
		case <-ended:
		case <-time.After(3 * Patience): // shared processors: other tests run meanwhile
			panic(t.Name() + ": the bubble does not come to rest: a goroutine spins, or is blocked on something outside")
		}
	}()
	defer func() { close(ended); <-guard }()
	synctest.Test(t, f)
}

// InBubble reports whether the clock is that of synctest, which starts in 2000.
func InBubble() bool { return time.Now().Year() < 2020 }

// EnvInt returns the number in an environment variable, or def if it is not set.
func EnvInt(t testing.TB, name string, def int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return def
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v: want a number", name, err)
	}
	return n
}

// TempSocket returns a path for a unix socket in a new directory. The path is
// short, because a socket path is limited to about a hundred bytes.
func TempSocket(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "g")
	Must(t, err)
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(dir, "s")
}

// Count is how often a test does what it does: full, short with -short, and a quarter of
// full under the race detector, but no less than short.
func Count(full, short int) int {
	switch {
	case testing.Short():
		return short
	case RaceEnabled:
		return max(short, full/4)
	}
	return full
}

// Payload returns the data of message i. Data of 8 bytes or more begins with i, and the
// rest differs from message to message.
func Payload(i, size int) []byte {
	b := make([]byte, size)
	for j := range b {
		b[j] = byte(i + j + j>>8)
	}
	if size >= 8 {
		binary.BigEndian.PutUint64(b, uint64(i))
	}
	return b
}
