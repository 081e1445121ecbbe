// Tests of the rate limit of repeated warnings.

package eventlog

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// newTestLog returns a log and a function that returns its lines.
func newTestLog() (*Log, func() string) {
	var text bytes.Buffer
	handler := slog.NewTextHandler(&text, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
			return slog.Attr{}
		}
		return a
	}})
	return &Log{Logger: slog.New(handler)}, func() string {
		synctest.Wait()
		defer text.Reset()
		return strings.ReplaceAll(text.String(), "\n", ";")
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
		time.Sleep(time.Second)
		expect("msg=rejected n=4 count=4;")
		l.WarnRepeated("a", "rejected", "n", 5)
		l.WarnRepeated("b", "other")
		expect("msg=other;")
		time.Sleep(time.Second)
		expect("msg=rejected n=5;")
		time.Sleep(time.Second)
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
		time.Sleep(time.Minute)
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
