// Measures this library beside raw sockets and beside its peers, and prints the
// table of its targets. See README.md.

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"time"
)

// A bench is one run.
type bench struct {
	ctx    context.Context
	dir    string // of sockets and programs
	binary string // this program
	libzmq func() (string, error)
	report *report
	files  int // how many a process may open

	quick, peers, curves bool
	rounds               int           // counted ones
	slice                time.Duration // of a turn
	idle                 int           // clients
	stalled              int           // clients that send to a server that does not read
	placements           []placement   // of the rows of round trips
	cores                [2]int        // of the pinned rows
	profiles             string        // directory of the children's profiles; "": none

	mu      sync.Mutex // guards procs
	procs   map[*proc]bool
	sockets int
}

func main() {
	if text := os.Getenv(childEnv); text != "" {
		if err := child(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	quick := flag.Bool("quick", false, "short turns, fewer clients, no curves: under three minutes")
	peers := flag.Bool("peers", true, "measure the peers too")
	curves := flag.Bool("curves", true, "measure the curves too; with -quick only where it is given")
	only := flag.String("only", "", "measure only the groups whose name this regular expression matches; -list has the names")
	pin := flag.Bool("pin", true, "take the rows of round trips twice, with the processes pinned to two cores and to one; false: once, not pinned")
	clients := flag.Int("clients", 0, "largest number of clients of a row; default 10000, with -quick 1000, and 200 that stall")
	profiles := flag.String("profiles", "", "write processor and heap profiles of the measured processes to this directory")
	list := flag.Bool("list", false, "list the groups and end")
	markdown := flag.String("markdown", "", "write the tables to this file; default RESULTS.md, of a run that is not whole results/partial.md")
	chart := flag.String("chart", "", "draw the chart in this file; default chart.svg, of a run that is not whole results/partial.svg")
	limit := flag.Duration("timeout", 25*time.Minute, "end after this time, with what there is")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unknown argument %q", flag.Arg(0))
	}
	b := &bench{report: newReport(), quick: *quick, peers: *peers, curves: *curves, rounds: 9, slice: 300 * time.Millisecond, idle: 10000, stalled: 10000, procs: map[*proc]bool{}}
	if *quick {
		b.rounds, b.slice, b.idle, b.stalled = 7, 40*time.Millisecond, 1000, 200
		b.curves = false
		flag.Visit(func(f *flag.Flag) { b.curves = b.curves || f.Name == "curves" && *curves })
	}
	if *clients > 0 {
		b.idle, b.stalled = *clients, *clients
	}
	b.placements = []placement{placeFree}
	pinning := "the rows of round trips are not pinned, because of -pin=false"
	if *pin {
		cores, err := pinCores()
		if err == nil {
			b.cores, b.placements = cores, []placement{placeApart, placeTogether}
			pinning = fmt.Sprintf("apart: one process pinned to core %d, the other to core %d; together: both pinned to core %d; a pinned process has a GOMAXPROCS of 1", cores[0], cores[1], cores[0])
		} else {
			pinning = fmt.Sprintf("the rows of round trips are not pinned: %v", err)
		}
	}
	pick, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	var groups []group
	for _, g := range b.groups() {
		if pick.MatchString(g.name) {
			groups = append(groups, g)
		}
	}
	if *list {
		for _, g := range groups {
			fmt.Printf("%-45s about %s\n", g.name, round(g.guess))
		}
		return nil
	}
	if len(groups) == 0 {
		return fmt.Errorf("-only %q matches no group; -list has them", *only)
	}
	whole := *only == "" && !*quick && *peers && *curves
	for _, f := range []struct {
		path           *string
		whole, partial string
	}{{markdown, "RESULTS.md", "results/partial.md"}, {chart, "chart.svg", "results/partial.svg"}} {
		if *f.path == "" {
			if *f.path = f.partial; whole {
				*f.path = f.whole
			}
		}
	}

	signaled, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(signaled, *limit, fmt.Errorf("the run's time of %v is over; see -timeout", *limit))
	defer cancel()
	b.ctx, b.files = ctx, raiseFiles()
	if b.binary, err = os.Executable(); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "gb"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	b.libzmq = sync.OnceValues(b.buildLibzmq)

	if *profiles != "" {
		if b.profiles, err = filepath.Abs(*profiles); err == nil {
			err = os.MkdirAll(b.profiles, 0o755)
		}
		if err != nil {
			return err
		}
	}

	was := observe()
	b.measure(groups)
	facts, warnings := was.facts()
	facts = append(facts, pinning)
	b.report.write(os.Stdout, false, facts)
	for _, w := range warnings {
		b.say("%s", w)
	}
	return b.save(*markdown, *chart, facts)
}

// measure runs the groups, and says how long it will take.
func (b *bench) measure(groups []group) {
	var all, done time.Duration
	for _, g := range groups {
		all += g.guess
	}
	start := time.Now()
	for i, g := range groups {
		const trust = 20 * time.Second // in the guesses, before the clock corrects them
		gone := time.Since(start)
		left := time.Duration(float64(all-done) * float64(gone+trust) / float64(done+trust))
		b.say("[%d/%d] %s (%s gone, about %s to go)", i+1, len(groups), g.name, round(gone), round(left))
		if err := b.ctx.Err(); err != nil {
			b.report.failure(g.name, context.Cause(b.ctx))
			continue
		}
		g.run(b, g.name)
		done += g.guess
	}
	b.say("done in %s", round(time.Since(start)))
}

func (b *bench) say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// buildLibzmq builds this program once more, with the peer that needs the C
// library, where that and a C compiler are here.
func (b *bench) buildLibzmq() (string, error) {
	if withLibzmq {
		return b.binary, nil
	}
	for _, c := range [][]string{{"pkg-config", "--exists", "libzmq"}, {"go", "version"}} {
		if err := exec.CommandContext(b.ctx, c[0], c[1:]...).Run(); err != nil {
			return "", fmt.Errorf("ZeroMQ's C library is not found: %s: %w (libzmq3-dev and pkg-config bring it)", c[0], err)
		}
	}
	b.say("  building with ZeroMQ's C library")
	out := filepath.Join(b.dir, "bench-libzmq")
	cmd := exec.CommandContext(b.ctx, "go", "build", "-tags", "libzmq", "-o", out, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	cmd.WaitDelay = time.Second
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building with ZeroMQ's C library: %w: %.300s", err, text)
	}
	return out, nil
}

// save writes the tables and the chart to their files.
func (b *bench) save(markdown, chart string, facts []string) error {
	var errs []error
	write := func(path string, f func(*os.File) error) {
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil {
			var file *os.File
			if file, err = os.Create(path); err == nil {
				err = errors.Join(f(file), file.Close())
			}
		}
		if err == nil {
			b.say("wrote %s", path)
		}
		errs = append(errs, err)
	}
	write(markdown, func(f *os.File) error { b.report.write(f, true, facts); return nil })
	if len(b.report.bars) > 0 {
		write(chart, func(f *os.File) error { return b.report.chart(f) })
	}
	return errors.Join(errs...)
}
