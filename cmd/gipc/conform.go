// gipc conform: tests of clients in any language.

package main

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

const conformHelp = `
Conform tests a client of the protocol, in any language. It is the server. It
starts COMMAND once for each scenario, passes it the address and the other
settings in environment variables, and checks every byte that the client sends, what it prints, and its
exit code. CONFORM.md, beside the source of this program, specifies what COMMAND has
to do. It ends with 0 if everything held.

Each failure is reported with the id of the sentence in spec/README.md that does
not hold, such as [F-1]. A client that exits with 77 cannot do a scenario. That
counts as a failure, unless the scenario is in the file of -expect.

The file of -expect lists scenarios that are expected to fail, one on a line; text
after # is a comment. It is a failure if one of them holds.

Examples:

  gipc conform -- python3 client.py
  gipc conform -run 'close|requests' -o json -- node spec/node/conform.mjs
  gipc conform -list`

// conformOptions are the flags of gipc conform.
type conformOptions struct {
	output  outputFlag
	run     string
	network string
	timeout time.Duration
	expect  string
	jobs    int
	long    bool
	list    bool
}

func conformCommand() command {
	o := &conformOptions{}
	return command{
		name: "conform", args: "-- COMMAND...", summary: "test a client of the protocol",
		help: conformHelp, flags: func(env *environment) { o.define(env.flags) }, run: o.conform,
	}
}

func (o *conformOptions) define(fs *flag.FlagSet) {
	o.output.define(fs, formatText, formatJSON)
	fs.StringVar(&o.run, "run", "", "run the scenarios whose names match this `regexp`")
	fs.StringVar(&o.network, "network", "unix", "`unix` or tcp")
	fs.DurationVar(&o.timeout, "timeout", 20*time.Second, "the `time` for each scenario")
	fs.StringVar(&o.expect, "expect", "", "`file` with the names of the scenarios that are expected to fail")
	fs.IntVar(&o.jobs, "jobs", 2, "how many `scenarios` run at once")
	fs.BoolVar(&o.long, "long", false, "run the scenarios that take minutes, too")
	fs.BoolVar(&o.list, "list", false, "list the scenarios, and run none")
}

func (o *conformOptions) conform(env *environment) error {
	selected, err := o.check(env)
	if err != nil {
		return err
	}
	if o.list {
		_, err := fmt.Fprint(env.stdout, scenarioTable(selected))
		return err
	}
	expected, err := o.expected()
	if err != nil {
		return err
	}
	report := newReport(env, o.output.value, expected)
	r := &runner{launch: launchCommand(env.rest), network: o.network, timeout: o.timeout}
	if err := runAll(env.ctx, r, selected, o.jobs, report); err != nil {
		if env.ctx.Err() != nil {
			return fmt.Errorf("interrupted after %d scenarios", report.count)
		}
		return err
	}
	return report.finish()
}

// check checks the flags and returns the scenarios that are to be run.
func (o *conformOptions) check(env *environment) ([]*scenario, error) {
	pattern, err := regexp.Compile(o.run)
	switch {
	case err != nil:
		return nil, usagef("-run %s is not a regular expression: %v", o.run, err)
	case len(env.args) > 0:
		return nil, usagef("%q is not expected: the COMMAND follows --", env.args[0])
	case !o.list && len(env.rest) == 0:
		return nil, usagef("the COMMAND that starts the client is missing: it follows --")
	case o.network != "unix" && o.network != "tcp":
		return nil, usagef("-network %s is not a network: give unix or tcp", o.network)
	case o.timeout <= 0:
		return nil, usagef("-timeout %v is too low: give a time above 0", o.timeout)
	case o.jobs < 1:
		return nil, usagef("-jobs %d is too low: give 1 or more", o.jobs)
	}
	selected := slices.DeleteFunc(scenarios(), func(s *scenario) bool {
		return s.long && !o.long && !o.list || !pattern.MatchString(s.name)
	})
	if len(selected) == 0 {
		return nil, usagef("-run %s matches no scenario: gipc conform -list lists them", o.run)
	}
	return selected, nil
}

// expected returns the names in the file of -expect.
func (o *conformOptions) expected() (map[string]bool, error) {
	expected := map[string]bool{}
	if o.expect == "" {
		return expected, nil
	}
	data, err := os.ReadFile(o.expect)
	if err != nil {
		return nil, failure("reading the expected failures", err, "")
	}
	known := map[string]bool{}
	for _, s := range scenarios() {
		known[s.name] = true
	}
	for i, line := range strings.Split(string(data), "\n") {
		name, _, _ := strings.Cut(line, "#")
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		if !known[name] {
			return nil, usagef("%s, line %d: %q is not a scenario: gipc conform -list lists them", o.expect, i+1, name)
		}
		expected[name] = true
	}
	return expected, nil
}

func scenarioTable(list []*scenario) string {
	t := table{{"scenario", "the server", "ids"}}
	for _, s := range list {
		t = append(t, []string{s.name, s.summary, strings.Join(s.ids, ", ")})
	}
	return t.left()
}
