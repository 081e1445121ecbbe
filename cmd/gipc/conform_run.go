// Running the scenarios: the client's process beside the server's part.

package main

import (
	"context"
	"errors"
	"io"
	"os/exec"
	"strings"
	"time"
)

// A result is what became of one scenario.
type result struct {
	Scenario string   `json:"scenario"`
	Result   string   `json:"result"` // held, failed, skipped, expected, unexpected
	IDs      []string `json:"ids"`
	ID       string   `json:"id,omitempty"`      // of the sentence that did not hold
	Problem  string   `json:"problem,omitempty"` // what did not hold
	Note     string   `json:"note,omitempty"`
	Stderr   string   `json:"stderr,omitempty"` // the last lines of the client, if it failed
	Seconds  float64  `json:"seconds"`
}

// The values of Result.
const (
	resultHeld       = "held"
	resultFailed     = "failed"
	resultSkipped    = "skipped"    // the client cannot do it
	resultExpected   = "expected"   // failed or skipped, and listed in the file of -expect
	resultUnexpected = "unexpected" // held, although the file of -expect lists it
)

// A launcher starts a client with this environment. The function that it returns
// waits for the client, and returns its exit code.
type launcher func(ctx context.Context, environ []string, stdout, stderr io.Writer) (wait func() (int, error), err error)

// launchCommand returns a launcher that starts a process. The end of ctx kills it.
func launchCommand(command []string) launcher {
	return func(ctx context.Context, environ []string, stdout, stderr io.Writer) (func() (int, error), error) {
		cmd := exec.CommandContext(ctx, command[0], command[1:]...)
		cmd.Env, cmd.Stdout, cmd.Stderr = environ, stdout, stderr
		cmd.WaitDelay = time.Second
		if err := cmd.Start(); err != nil {
			return nil, failure("starting the client", err, "check the COMMAND after --")
		}
		return func() (int, error) {
			err := cmd.Wait()
			code := cmd.ProcessState.ExitCode()
			if code >= 0 {
				err = nil // the code has it
			}
			return code, err
		}, nil
	}
}

// A runner runs scenarios with one client.
type runner struct {
	launch  launcher
	network string
	timeout time.Duration
}

// run runs one scenario. An error is one of this machine, and not of the client.
func (r *runner) run(ctx context.Context, s *scenario) (*result, error) {
	start := time.Now()
	timeout := r.timeout
	if s.long {
		timeout *= 60
	}
	st, err := newStage(ctx, s, r.network, timeout)
	if err != nil {
		return nil, failure("preparing "+s.name, err, "")
	}
	defer st.close()
	if st.err != nil {
		return nil, failure("preparing "+s.name, st.err, "")
	}
	stderr, err := r.play(ctx, st)
	if err != nil {
		return nil, err
	}
	res := &result{Scenario: s.name, Result: resultHeld, IDs: s.ids, Note: st.note, Seconds: time.Since(start).Seconds()}
	v := (*violation)(nil)
	switch {
	case errors.Is(st.err, errSkipped):
		res.Result, res.Problem = resultSkipped, st.err.Error()
	case errors.As(st.err, &v):
		res.Result, res.ID, res.Problem, res.Stderr = resultFailed, v.id, v.text, stderr
	case st.err != nil:
		res.Result, res.ID, res.Problem, res.Stderr = resultFailed, s.ids[0], describe(st.err), stderr
	}
	return res, nil
}

// graceTime is how long a client may run after the server's part has failed.
const graceTime = time.Second

// play runs the client and the server's part, and returns the last lines of the
// client's standard error.
func (r *runner) play(ctx context.Context, st *stage) (string, error) {
	processCtx, kill := context.WithCancel(ctx)
	defer kill()
	output, stderr := &boundedBuffer{limit: 4 << 20}, &tail{limit: 2000}
	waitForClient, err := r.launch(processCtx, st.environ(), output, stderr)
	if err != nil {
		return "", err
	}
	var code int
	exited := make(chan struct{})
	var waitErr error
	go func() {
		code, waitErr = waitForClient()
		close(exited)
		st.clientExited()
	}()
	st.scenario.play(st)
	wait := time.Until(st.deadline)
	if st.err != nil {
		wait = graceTime
		for _, p := range st.peers {
			p.abort()
		}
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-exited:
		st.checkExit(code, waitErr, output.data)
	case <-ctx.Done():
		st.failed(ctx.Err())
	case <-timer.C:
		st.fail(st.scenario.exitID(), "the client did not exit within %v", st.timeout)
	}
	kill()
	<-exited
	return stderr.String(), ctx.Err()
}

// checkExit checks how the client has exited and what it has printed.
func (st *stage) checkExit(code int, waitErr error, output []byte) {
	if waitErr != nil {
		st.fail(st.scenario.exitID(), "the client ended with %v", waitErr)
		return
	}
	before := st.err
	if code == exitSkip || before == nil {
		st.exited(code)
	}
	if st.err == nil {
		st.printed(output)
	}
	if v := (*violation)(nil); errors.As(before, &v) && code != exitSkip {
		v.text += "; its exit code was " + exitText(code)
	}
}

// A tail keeps the last bytes that are written to it.
type tail struct {
	limit int
	data  []byte
}

var _ io.Writer = (*tail)(nil)

func (t *tail) Write(p []byte) (int, error) {
	t.data = append(t.data, p...)
	if extra := len(t.data) - t.limit; extra > 0 {
		t.data = append(t.data[:0], t.data[extra:]...)
	}
	return len(p), nil
}

// String returns what was written last, from the beginning of a line.
func (t *tail) String() string {
	s := string(t.data)
	if len(s) == t.limit {
		_, s, _ = strings.Cut(s, "\n")
	}
	return strings.TrimSpace(s)
}
