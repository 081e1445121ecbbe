// Tests of gipc conform: each scenario can fail, and its report.

package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/gipc/internal/testutil"
)

// mutations has, for each scenario, what is broken in a client that fails it, and
// the id that is reported.
var mutations = map[string][2]string{
	"connect": {"no-ack", "G-3"}, "connect-plain": {"requires", "H-13"}, "connect-follow": {"wrong-confirmation", "K-2"},
	"connect-secret": {"trims-secret", "K-2"}, "connect-name": {"trims-name", "K-2"}, "connect-hybrid": {"same-key", "H-4"},
	"connect-classical": {"sets-hybrid", "H-21"}, "connect-leading-zero": {"strips-zeros", "K-1"}, "connect-records-behind": {"drops-behind", "H-6"},
	"connect-waits": {"early", "H-7"}, "connect-split": {"one-read", "F-8"},
	"echo": {"drops-empty", "R-8"}, "echo-plain": {"drops-empty", "F-7"}, "echo-types": {"types-16", "F-6"}, "echo-sizes": {"one-record", "R-7"},
	"echo-sizes-plain": {"off-by-one", "F-2"}, "echo-many-frames": {"wrong-echo", "R-7"}, "echo-small-limit": {"small-records", "R-6"},
	"echo-large": {"ping-between", "R-9"}, "too-large": {"sends-all", "F-3"},
	"requests-client": {"same-number", "Q-1"}, "requests-server": {"always-replies", "Q-3"}, "requests-both": {"cuts-replies", "Q-3"},
	"requests-plain": {"replies-twice", "Q-3"}, "requests-ignored": {"any-reply", "Q-4"}, "requests-close": {"forgets-calls", "F-10"},
	"requests-lost": {"close-after-fault", "G-10"},
	"ping":          {"wrong-pong", "C-4"}, "ping-plain": {"no-kind", "C-4"},
	"close-server": {"no-ack", "G-3"}, "close-server-plain": {"talks-after-close", "G-1"}, "close-server-behind": {"delivers-behind", "F-9"},
	"close-server-fault": {"close-fault", "G-4"}, "close-server-byte": {"close-byte", "G-2"}, "close-client": {"short-burst", "G-1"},
	"close-client-plain": {"talks-after-close", "G-1"}, "close-client-messages": {"acks-discarded", "G-5"}, "close-crossing": {"no-ack", "G-3"},
	"close-ack-discarded": {"any-ack-byte", "G-5"}, "close-ack-byte": {"any-ack-byte", "G-8"}, "close-ack-missing": {"always-confirmed", "G-9"},
	"close-ack-never": {"hasty", "G-6"}, "close-nothing-sent": {"strict", "G-6"}, "reconnect": {"once", "Q-1"},
	"rekey": {"never-rekeys", "Y-1"}, "rekey-each": {"never-rekeys", "Y-1"},
	"secret-wrong": {"retries-refusal", "K-4"}, "name-wrong": {"retries-refusal", "K-3"}, "secret-missing": {"no-policy", "H-11"},
	"secret-unwanted": {"wrong-reason", "H-10"}, "encryption-missing": {"no-policy", "H-12"}, "refused": {"answers-refusal", "H-16"},
	"refused-zero": {"ignores-refusal", "H-16"}, "refused-unknown": {"answers-refusal", "H-16"}, "refused-finish": {"retries-refusal", "H-20"},
	"hostile-version": {"any-version", "H-13"}, "hostile-flags": {"any-flags", "H-13"}, "hostile-flags-hybrid": {"any-flags", "H-13"},
	"hostile-limit-low": {"greedy", "H-2"}, "hostile-limit-high": {"any-limit", "H-2"}, "hostile-point": {"any-point", "H-3"},
	"hostile-point-compressed": {"refuses-silently", "H-3"}, "hostile-kem-key": {"any-kem-key", "H-23"}, "hostile-confirmation": {"answers-unproven", "H-17"},
	"hostile-confirmation-last": {"first-byte", "H-17"}, "hostile-hello-truncated": {"exit", "H-8"}, "hostile-finish-truncated": {"exit", "H-17"},
	"hostile-tag": {"reset", "G-11"}, "hostile-tag-last": {"any-tag", "R-5"}, "hostile-replay": {"any-sequence", "R-1"}, "hostile-lost": {"any-sequence", "R-1"},
	"hostile-reflected": {"any-tag", "K-5"}, "hostile-large-tag": {"any-tag", "R-10"}, "hostile-record-short": {"any-record", "R-6"},
	"hostile-record-long": {"any-record", "R-6"}, "hostile-record-data": {"any-record", "R-6"}, "hostile-record-half": {"half-frames", "R-7"},
	"hostile-record-behind": {"half-frames", "R-7"}, "hostile-frame-short": {"any-length", "F-1"}, "hostile-frame-short-plain": {"any-length", "F-1"},
	"hostile-frame-id-short": {"close-after-fault", "G-10"}, "hostile-frame-long": {"no-limit", "F-2"}, "hostile-frame-long-plain": {"no-limit", "F-2"},
	"hostile-frame-type": {"any-type", "F-6"}, "hostile-request-zero": {"any-number", "Q-3"}, "hostile-request-gap": {"any-number", "Q-3"},
	"hostile-request-twice": {"any-number", "Q-1"}, "hostile-reply-zero": {"any-number", "Q-1"}, "hostile-kind-critical": {"any-kind", "C-3"},
	"hostile-kind-critical-plain": {"any-kind", "C-3"}, "hostile-control-empty": {"any-control", "C-1"}, "hostile-ping-short": {"any-control", "C-1"},
	"hostile-close-long": {"any-control", "G-10"}, "hostile-ack": {"any-ack", "G-7"},
	"truncated": {"no-boundary", "F-10"}, "truncated-plain": {"close-after-fault", "G-10"}, "truncated-inside": {"no-inside", "F-10"},
	"truncated-inside-plain": {"no-inside", "F-10"}, "truncated-data": {"no-inside-data", "F-10"},
	"library-echo": {"wrong-echo", "F-8"}, "library-requests": {"cuts-replies", "Q-3"}, "library-restart": {"once", "H-20"},
}

// results runs scenarios with a client in this process, several at once.
func results(t *testing.T, network string, list []*scenario, client func(*scenario) launcher) []*result {
	t.Helper()
	found := make(chan *result, len(list))
	slots := make(chan struct{}, 24)
	for _, s := range list {
		go func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			r := &runner{launch: client(s), network: network, timeout: time.Minute}
			res, err := r.run(t.Context(), s)
			if err != nil {
				res = &result{Scenario: s.name, Result: err.Error()}
			}
			found <- res
		}()
	}
	var all []*result
	for range list {
		all = append(all, <-found)
	}
	return all
}

// shortScenarios returns the scenarios for tests. With the race detector, a key
// exchange takes so long that the one with hundreds of them is left out.
func shortScenarios() []*scenario {
	return slices.DeleteFunc(scenarios(), func(s *scenario) bool {
		return s.long || testutil.RaceEnabled && s.name == "connect-leading-zero"
	})
}

// TestConformMutantWhole: the small client conforms if nothing is broken.
func TestConformMutantWhole(t *testing.T) {
	t.Parallel()
	if testutil.RaceEnabled {
		t.Skip("TestConformLibrary runs the same scenarios with the race detector")
	}
	for _, res := range results(t, "unix", shortScenarios(), func(*scenario) launcher { return launchInProcess(runMutant()) }) {
		if res.Result != resultHeld {
			t.Errorf("%+v", res)
		}
	}
}

// TestConformMutants: a client in which one thing is broken fails.
func TestConformMutants(t *testing.T) {
	t.Parallel()
	list := shortScenarios()
	for _, s := range list {
		if mutations[s.name][0] == "" {
			t.Errorf("%s has no mutation: show that it can fail", s.name)
		}
	}
	for _, res := range results(t, "unix", list, func(s *scenario) launcher { return launchInProcess(runMutant(mutations[s.name][0])) }) {
		if want := mutations[res.Scenario]; res.Result != resultFailed || res.ID != want[1] {
			t.Errorf("%s with %s: %+v, and a failure with %s was expected", res.Scenario, want[0], res, want[1])
		}
	}
}

// TestConformPage: CONFORM.md lists each scenario with its ids and exit codes.
func TestConformPage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("CONFORM.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| `([a-z0-9-]+)` \\| .* \\|([0-9or ]*)\\| ([A-Z0-9, -]+) \\|$")
	var names []string
	all := map[string]*scenario{}
	for _, s := range scenarios() {
		all[s.name] = s
		names = append(names, s.name)
	}
	var listed []string
	for _, match := range row.FindAllStringSubmatch(string(page), -1) {
		s := all[match[1]]
		if s == nil {
			t.Errorf("CONFORM.md has %s, which does not exist", match[1])
			continue
		}
		listed = append(listed, s.name)
		want, got := slices.Clone(s.ids), strings.Split(match[3], ", ")
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("CONFORM.md has the ids %v for %s, and the scenario %v", got, s.name, want)
		}
	}
	if !slices.Equal(listed, names) {
		t.Errorf("CONFORM.md lists %v\nand the scenarios are %v", listed, names)
	}
}

// TestConformIDs: each id that conform reports is in the specification.
func TestConformIDs(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../spec/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range scenarios() {
		for _, id := range append(s.ids, mutations[s.name][1]) {
			if id != "" && !strings.Contains(string(text), "- ["+id+"]") {
				t.Errorf("%s: [%s] is not in spec/README.md", s.name, id)
			}
		}
	}
}
