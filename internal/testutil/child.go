// Child processes of tests: the test binary, started again.

package testutil

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/metrics"
	"testing"
	"time"
)

const childVariable = "GIPC_TEST_CHILD"

func runChild(name string, children map[string]func([]string) error) int {
	f := children[name]
	if f == nil {
		fmt.Fprintf(os.Stderr, "%s: no child %q\n", childVariable, name)
		return 2
	}
	if err := f(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// A ChildResult is what a child process did.
type ChildResult struct {
	Output string
	CPU    time.Duration // user and system time of the whole process
	Err    error         // the exit status; the child's error text is in Output
	Killed bool          // it did not exit within the limit
}

// RunChild executes the test binary again as the child of that name and waits
// for it. It kills the child after the limit.
func RunChild(t testing.TB, limit time.Duration, name string, args ...string) ChildResult {
	t.Helper()
	cmd := childCommand(name, args)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	Must(t, cmd.Start())
	ended := Go(cmd.Wait)
	var r ChildResult
	select {
	case r.Err = <-ended:
	case <-time.After(limit):
		r.Killed = true
		cmd.Process.Kill()
		r.Err = <-ended
	}
	r.Output = output.String()
	r.CPU = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return r
}

func childCommand(name string, args []string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), childVariable+"="+name)
	return cmd
}

// A Child is a running child process that is talked to in lines.
type Child struct {
	t     testing.TB
	cmd   *exec.Cmd
	in    *bufio.Writer
	lines chan string
	ended <-chan error
}

// StartChild executes the test binary again as the child of that name. The
// child is killed when the test ends.
func StartChild(t testing.TB, name string, args ...string) *Child {
	t.Helper()
	cmd := childCommand(name, args)
	stdin, err := cmd.StdinPipe()
	Must(t, err)
	stdout, err := cmd.StdoutPipe()
	Must(t, err)
	cmd.Stderr = os.Stderr
	Must(t, cmd.Start())
	c := &Child{t: t, cmd: cmd, in: bufio.NewWriter(stdin), lines: make(chan string, 64)}
	c.ended = Go(func() error {
		for s := bufio.NewScanner(stdout); s.Scan(); {
			c.lines <- s.Text()
		}
		return cmd.Wait()
	})
	t.Cleanup(c.Kill)
	return c
}

// Say writes one line to the child.
func (c *Child) Say(format string, args ...any) {
	c.t.Helper()
	fmt.Fprintf(c.in, format+"\n", args...)
	Must(c.t, c.in.Flush())
}

// Line returns the next line that the child prints.
func (c *Child) Line() string {
	c.t.Helper()
	return Await(c.t, "a line of the child", c.lines)
}

// Kill ends the child without notice, and waits until it is gone.
func (c *Child) Kill() {
	c.cmd.Process.Kill()
	for c.ended != nil {
		select {
		case <-c.lines: // the scanner must not block
		case <-c.ended:
			c.ended = nil
		}
	}
}

// A HeapWatch records the largest live heap of this process. It is meant for
// child processes, whose memory is theirs alone.
type HeapWatch struct {
	base, peak uint64
	stop, done chan struct{}
}

// WatchHeap starts to measure.
func WatchHeap() *HeapWatch {
	h := &HeapWatch{stop: make(chan struct{}), done: make(chan struct{})}
	h.base = liveHeap()
	h.peak = h.base
	go func() {
		defer close(h.done)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				h.peak = max(h.peak, liveHeap())
			case <-h.stop:
				return
			}
		}
	}()
	return h
}

// Stop ends the measurement and returns the growth of the live heap in bytes.
func (h *HeapWatch) Stop() uint64 {
	close(h.stop)
	<-h.done
	return max(h.peak, liveHeap()) - h.base
}

// liveHeap returns what a collection has marked as live. HeapAlloc of MemStats also
// counts what others allocate until it is read, which is megabytes where a flood is
// watched on a busy machine.
func liveHeap() uint64 {
	runtime.GC()
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	return live[0].Value.Uint64()
}
