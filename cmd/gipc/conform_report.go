// The report of gipc conform, and the scenarios side by side.

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
)

// A report prints results, and counts what they mean for the exit code.
type report struct {
	env      *environment
	format   format
	expected map[string]bool
	progress *progress
	count    int
	counts   map[string]int
}

func newReport(env *environment, f format, expected map[string]bool) *report {
	return &report{env: env, format: f, expected: expected, progress: newProgress(env.stderr), counts: map[string]int{}}
}

// add prints a result.
func (r *report) add(res *result) error {
	if r.expected[res.Scenario] {
		if res.Result == resultHeld {
			res.Result, res.Problem = resultUnexpected, "it is listed as an expected failure, and it held: remove it from the list"
		} else {
			res.Result = resultExpected
		}
	}
	r.count++
	r.counts[res.Result]++
	r.progress.clear()
	var err error
	if r.format == formatJSON {
		err = json.NewEncoder(r.env.stdout).Encode(res)
	} else {
		_, err = fmt.Fprint(r.env.stdout, res.text())
	}
	if err != nil {
		return failure("printing a result", err, "")
	}
	return nil
}

// text returns the row of a result, and below it what did not hold.
func (res *result) text() string {
	note := res.Note
	if note == "" {
		note = "[" + strings.Join(res.IDs, "] [") + "]"
	}
	if res.Result != resultHeld {
		note = ""
	}
	row := strings.TrimRight(fmt.Sprintf("%-10s  %-28s %6.2f s  %s", res.Result, res.Scenario, res.Seconds, note), " ") + "\n"
	switch {
	case res.ID != "":
		row += fmt.Sprintf("            [%s] %s\n", res.ID, res.Problem)
	case res.Problem != "":
		row += fmt.Sprintf("            %s\n", res.Problem)
	}
	if res.Stderr != "" && res.Result == resultFailed {
		for line := range strings.Lines(res.Stderr) {
			row += "            | " + string(appendVisible(nil, []byte(strings.TrimRight(line, "\r\n")))) + "\n"
		}
	}
	return row
}

// finish prints the sums, and fails if not everything held.
func (r *report) finish() error {
	bad := r.counts[resultFailed] + r.counts[resultSkipped] + r.counts[resultUnexpected]
	if r.format != formatJSON {
		var sums []string
		for _, name := range []string{resultHeld, resultFailed, resultSkipped, resultExpected, resultUnexpected} {
			if n := r.counts[name]; n > 0 {
				sums = append(sums, fmt.Sprintf("%d %s", n, name))
			}
		}
		noun := "scenarios"
		if r.count == 1 {
			noun = "scenario"
		}
		fmt.Fprintf(r.env.stdout, "\n%d %s: %s\n", r.count, noun, strings.Join(sums, ", "))
	}
	if bad > 0 {
		return errQuiet
	}
	return nil
}

// An outcome is what run returns.
type outcome struct {
	result *result
	err    error
}

// runAll runs the scenarios, a number of them at once, and reports the results
// in their order.
func runAll(ctx context.Context, r *runner, list []*scenario, jobs int, report *report) error {
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	outcomes := make([]chan outcome, len(list))
	for i := range outcomes {
		outcomes[i] = make(chan outcome, 1)
	}
	slots := make(chan struct{}, jobs)
	running.Go(func() {
		for i, s := range list {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			running.Go(func() {
				res, err := r.run(ctx, s)
				outcomes[i] <- outcome{res, err}
				<-slots
			})
		}
	})
	for i, s := range list {
		report.progress.show("%d of %d: %s", i+1, len(list), s.name)
		select {
		case o := <-outcomes[i]:
			if o.err != nil {
				return o.err
			}
			if err := report.add(o.result); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
