// Tests of the rate limit of repeated warnings.

package eventlog

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pass lets time pass in a bubble.
func pass(d time.Duration) { <-time.After(d) }

// A safeBuffer is written by the log's goroutine and read by the test.
type safeBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// take returns what was written, and forgets it.
func (b *safeBuffer) take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.text.Reset()
	return b.text.String()
}

// newTestLog returns a log and a function that returns its lines.
func newTestLog() (*Log, func() string) {
	var text safeBuffer
	handler := slog.NewTextHandler(&text, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
			return slog.Attr{}
		}
		return a
	}})
	return &Log{Logger: slog.New(handler)}, func() string {
		synctest.Wait()
		return strings.ReplaceAll(text.take(), "\n", ";")
	}
}

func TestWarnRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, lines := newTestLog()
		expect := func(want string) {
			t.Helper()
			if got := lines(); got != want {
				t.Errorf("logged %q, want %q", got, want)
			}
		}
		for n := range 5 {
			l.WarnRepeated("a", "rejected", "n", n)
		}
		l.WarnRepeated("b", "other")
		expect("msg=rejected n=0;msg=other;")
		pass(time.Second)
		expect("msg=rejected n=4 count=4;")
		l.WarnRepeated("a", "rejected", "n", 5)
		l.WarnRepeated("b", "other")
		expect("msg=other;")
		pass(time.Second)
		expect("msg=rejected n=5;")
		pass(time.Second)
		expect("")
		if len(l.repeats) != 0 {
			t.Errorf("%d causes are kept", len(l.repeats))
		}
		l.WarnRepeated("a", "rejected", "n", 6)
		expect("msg=rejected n=6;")
	})
}

func TestEndRepeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, lines := newTestLog()
		var want strings.Builder
		for n := range 3 {
			l.WarnRepeated("a", "rejected", "n", n)
		}
		l.EndRepeats()
		fmt.Fprint(&want, "msg=rejected n=0;msg=rejected n=2 count=2;")
		for n := range 2 { // from a handshake that ends late
			l.WarnRepeated("a", "rejected", "n", n)
			fmt.Fprintf(&want, "msg=rejected n=%d;", n)
		}
		if got := lines(); got != want.String() {
			t.Errorf("logged %q, want %q", got, want.String())
		}
		pass(time.Minute)
		if got := lines(); got != "" {
			t.Errorf("logged %q after the end", got)
		}
	})
}

func TestWarnRepeatedWithoutLogger(t *testing.T) {
	l := new(Log)
	l.WarnRepeated("a", "rejected")
	l.EndRepeats()
	if l.repeats != nil || l.records != nil {
		t.Error("records are kept that nobody gets")
	}
}
