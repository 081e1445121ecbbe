// What came out, as text and as Markdown: tables of figures with their targets.

package main

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// A table is printed as text or as Markdown.
type table struct {
	title, about string
	head         []string
	rows         [][]string
}

// A report is everything that a run found out.
type report struct {
	targets  table
	others   []table          // curves
	cells    map[cell]string  // of the table of peers
	columns  []string         // of it, in order
	failures []string         // who failed at what, and why
	bars     map[string][]bar // of the chart, by panel
	met, all int              // targets
	seen     map[string]bool  // failures that are listed
}

type cell struct{ column, label string }

func newReport() *report {
	return &report{
		targets: table{title: "Targets", head: []string{"what", "ours", "beside", "ratio", "least to most", "target", ""}},
		cells:   map[cell]string{}, bars: map[string][]bar{}, seen: map[string]bool{},
	}
}

// A bound is what a figure has to keep to. The zero bound is none.
type bound struct{ most, least float64 }

func atMost(x float64) bound  { return bound{most: x} }
func atLeast(x float64) bound { return bound{least: x} }

func (b bound) String() string {
	switch {
	case b.most > 0:
		return "at most " + short(b.most)
	case b.least > 0:
		return "at least " + short(b.least)
	}
	return "–"
}

func (b bound) holds(x float64) bool {
	return (b.most == 0 || x <= b.most) && (b.least == 0 || x >= b.least)
}

// verdict counts a figure and says whether it has reached its target.
func (r *report) verdict(b bound, x float64) string {
	if b == (bound{}) {
		return ""
	}
	r.all++
	if !b.holds(x) {
		return "NOT REACHED"
	}
	r.met++
	return "reached"
}

// lost notes a figure that could not be taken.
func (r *report) lost(what, target string, b bound, err error) {
	if b != (bound{}) {
		r.all++
	}
	r.targets.rows = append(r.targets.rows, []string{what, "", "", "", "", target, "FAILED"})
	r.failure(what, err)
}

// skipped adds a row that was not measured, with the reason.
func (r *report) skipped(what, target, reason string) {
	r.targets.rows = append(r.targets.rows, []string{what, "", "skipped: " + reason, "", "", target, ""})
}

// failure lists an error where it shows first.
func (r *report) failure(what string, err error) {
	if text := err.Error(); !r.seen[text] {
		r.seen[text] = true
		r.failures = append(r.failures, what+": "+text)
	}
}

// plainFigure is a row that is no ratio.
func (r *report) plainFigure(what, ours, beside, spread string, b bound, target string, x float64) {
	r.targets.rows = append(r.targets.rows, []string{what, ours, beside, "", spread, target, r.verdict(b, x)})
}

// A row compares the turns of two names.
type row struct {
	what     string
	of, over string
	value    func(result) float64
	unit     func(float64) string
	bound    bound
	note     string // behind the target
}

// compare takes the ratio of every round, and the median of these.
func (b *bench) compare(s *scores, r row) {
	target := r.bound.String()
	if r.bound != (bound{}) {
		target += " × " + r.over
	}
	if r.note != "" {
		target += "; " + r.note
	}
	for _, name := range []string{r.of, r.over} {
		if err := s.failed[name]; err != nil {
			b.report.lost(r.what, target, r.bound, fmt.Errorf("%s: %w", name, err))
			return
		}
	}
	of, over := s.results[r.of], s.results[r.over]
	var ratios, ours, theirs []float64
	for i := range min(len(of), len(over)) {
		x, y := r.value(of[i]), r.value(over[i])
		ratios, ours, theirs = append(ratios, x/y), append(ours, x), append(theirs, y)
	}
	if len(ratios) == 0 {
		b.report.lost(r.what, target, r.bound, fmt.Errorf("%s beside %s: no round was completed", r.of, r.over))
		return
	}
	x := median(ratios)
	b.report.targets.rows = append(b.report.targets.rows, []string{r.what, r.unit(median(ours)), r.over + " " + r.unit(median(theirs)),
		short(x), short(slices.Min(ratios)) + " to " + short(slices.Max(ratios)), target, b.report.verdict(r.bound, x)})
}

// peer fills a cell of the table of peers: a contestant's figure and, with beside,
// how many times raw's it is.
func (r *report) peer(s *scores, column, label, name string, value func(result) float64, unit func(float64) string, beside bool) {
	if !slices.Contains(r.columns, column) {
		r.columns = append(r.columns, column)
	}
	at := cell{column, label}
	if err := s.failed[name]; err != nil {
		r.cells[at] = "failed"
		r.failure(column+", "+label, err)
		return
	}
	x := values(s.results[name], value)
	if len(x) == 0 {
		return
	}
	r.cells[at] = unit(median(x))
	if base := values(s.results[raw.Name], value); beside && name != raw.Name && len(base) == len(x) {
		ratios := make([]float64, len(x))
		for i := range x {
			ratios[i] = x[i] / base[i]
		}
		r.cells[at] += " (" + short(median(ratios)) + ")"
	}
}

// peers is the table of peers: a line for each label that has a cell.
func (r *report) peers(labels []string) table {
	t := table{title: "Beside others", about: "In brackets: how many times raw's figure, the median of the rounds. " +
		"gipc encrypted and raw sealed encrypt, the others do not.", head: append([]string{""}, r.columns...)}
	for _, label := range labels {
		line, some := []string{label}, false
		for _, column := range r.columns {
			text := cmp.Or(r.cells[cell{column, label}], "–")
			some = some || text != "–"
			line = append(line, text)
		}
		if some {
			t.rows = append(t.rows, line)
		}
	}
	return t
}

// write prints the whole report.
func (r *report) write(w io.Writer, markdown bool, facts []string) {
	tables := []table{r.targets}
	tables[0].title = fmt.Sprintf("Targets: %d of %d reached", r.met, r.all)
	if len(r.columns) > 0 {
		tables = append(tables, r.peers(labels))
	}
	list := func(title string, lines []string) {
		if len(lines) == 0 {
			return
		}
		if markdown {
			title = "## " + title
		}
		fmt.Fprintf(w, "%s\n\n", title)
		for _, line := range lines {
			fmt.Fprintf(w, "- %s\n", line)
		}
		fmt.Fprintln(w)
	}
	if markdown {
		fmt.Fprint(w, "# Measurements\n\nWritten by `go run .` in this directory; [README.md](README.md) says what is measured, and how.\n\n")
	}
	list("The machine and the run", facts)
	for _, t := range append(tables, r.others...) {
		if len(t.rows) > 0 {
			t.write(w, markdown)
		}
	}
	list("What failed", r.failures)
}

func (t *table) write(w io.Writer, markdown bool) {
	if markdown {
		fmt.Fprintf(w, "## %s\n\n", t.title)
		if t.about != "" {
			fmt.Fprintf(w, "%s\n\n", t.about)
		}
		line := func(cells []string) { fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | ")) }
		line(t.head)
		line(slices.Repeat([]string{"---"}, len(t.head)))
		for _, cells := range t.rows {
			line(cells)
		}
		fmt.Fprintln(w)
		return
	}
	fmt.Fprintf(w, "%s\n", t.title)
	if t.about != "" {
		fmt.Fprintf(w, "%s\n", t.about)
	}
	fmt.Fprintln(w)
	widths := make([]int, len(t.head))
	for _, cells := range append([][]string{t.head}, t.rows...) {
		for i, text := range cells {
			widths[i] = max(widths[i], utf8.RuneCountInString(text))
		}
	}
	rule := make([]string, len(widths))
	for i, n := range widths {
		rule[i] = strings.Repeat("-", n)
	}
	for _, cells := range append([][]string{t.head, rule}, t.rows...) {
		var line strings.Builder
		for i, text := range cells {
			line.WriteString(text + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(text)+2))
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
	fmt.Fprintln(w)
}

func p50(r result) float64    { return r.P50 }
func p99(r result) float64    { return r.P99 }
func each(r result) float64   { return r.Each }
func rate(r result) float64   { return r.Rate }
func allocs(r result) float64 { return r.Allocs }

func values(results []result, of func(result) float64) (v []float64) {
	for _, r := range results {
		v = append(v, of(r))
	}
	return v
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// short is a ratio with three digits.
func short(x float64) string {
	switch {
	case x < 0.1:
		return fmt.Sprintf("%.3f", x)
	case x < 10:
		return fmt.Sprintf("%.2f", x)
	case x < 100:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.0f", x)
}

// span is a time in nanoseconds, with three digits.
func span(ns float64) string {
	for _, u := range []struct {
		name string
		ns   float64
	}{{"s", 1e9}, {"ms", 1e6}, {"µs", 1e3}} {
		if ns >= u.ns {
			return short(ns/u.ns) + " " + u.name
		}
	}
	return short(ns) + " ns"
}

// perSecond is a rate.
func perSecond(x float64) string {
	switch {
	case x >= 1e6:
		return short(x/1e6) + " M/s"
	case x >= 1e4:
		return short(x/1e3) + " k/s"
	}
	return fmt.Sprintf("%.0f/s", x)
}

// bytesPerSecond is the rate of messages of 1 MiB as one of bytes.
func bytesPerSecond(x float64) string { return short(x*(1<<20)/1e9) + " GB/s" }

func count(x float64) string { return fmt.Sprintf("%.2f", x) }

func kib(bytes float64) string { return fmt.Sprintf("%.1f KiB", bytes/1024) }

func thousands(n int) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

func round(d time.Duration) time.Duration { return d.Round(time.Second) }
