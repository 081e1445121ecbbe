// gipc bench: how fast a connection is.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"example.com/gipc"
)

const benchHelp = `
Bench measures a connection to a server that gipc listen has started, for each
size of -sizes: round trips, one at a time, as requests and their replies, with
their median and 99th percentile, and then messages in one direction, as many as
go through. Each takes the time of -duration. The rate counts what the server has
received.

It sends requests of type 1734963296 and messages of type 1734963297. A server
that is not gipc listen gets one such request and nothing else.

Example, in two terminals:

  gipc listen meter
  gipc bench meter -sizes 64,4096,1048576`

// benchOptions are the flags of gipc bench.
type benchOptions struct {
	client   clientFlags
	output   outputFlag
	sizes    string
	duration time.Duration
}

func benchCommand() command {
	o := &benchOptions{}
	return command{
		name: "bench", args: "NAME", summary: "measure round trips and rates",
		help: benchHelp, flags: func(env *environment) { o.define(env.flags) }, run: o.run,
	}
}

func (o *benchOptions) define(fs *flag.FlagSet) {
	o.client.define(fs)
	o.output.define(fs, formatText, formatJSON)
	fs.StringVar(&o.sizes, "sizes", "64,1024,16384,1048576", "sizes of the messages in `bytes`, with commas between them")
	fs.DurationVar(&o.duration, "duration", time.Second, "how long each measurement takes, a `time`")
}

func (o *benchOptions) run(env *environment) error {
	name, err := env.name()
	if err == nil {
		err = env.noRest()
	}
	if err != nil {
		return err
	}
	sizes, err := parseSizes(o.sizes)
	if err != nil {
		return err
	}
	if o.duration <= 0 {
		return usagef("-duration %v is too low: give a time above 0", o.duration)
	}
	client, err := o.client.connect(env, name)
	if err != nil {
		return err
	}
	defer context.AfterFunc(env.ctx, func() { client.Close() })() // a server that does not read blocks Queue
	b := &bench{env: env, client: client, duration: o.duration, progress: newProgress(env.stderr)}
	results, err := b.all(name, sizes)
	b.progress.clear()
	closed := client.Close()
	switch {
	case err != nil && env.ctx.Err() != nil:
		return errors.New("interrupted")
	case err != nil:
		return err
	case closed != nil:
		return failure("closing", closed, "")
	}
	return o.print(env, client.Security(), results)
}

func parseSizes(list string) ([]int, error) {
	var sizes []int
	for field := range strings.SplitSeq(list, ",") {
		size, err := strconv.Atoi(strings.TrimSpace(field))
		if err != nil || size < 0 || size > maxMessage {
			return nil, usagef("-sizes %s: %q is not a size: give numbers from 0 to %d with commas between them", list, field, maxMessage)
		}
		sizes = append(sizes, size)
	}
	return sizes, nil
}

// A bench measures one connection.
type bench struct {
	env      *environment
	client   *gipc.Client
	duration time.Duration
	progress *progress
}

// A benchResult is a row of the table.
type benchResult struct {
	Size       int     `json:"size"`               // bytes
	RoundTrips int     `json:"round_trips"`        // how many were measured
	Median     float64 `json:"median_us"`          // microseconds
	P99        float64 `json:"p99_us"`             // microseconds
	Messages   float64 `json:"messages_per_s"`     // in one direction
	Megabytes  float64 `json:"megabytes_per_s"`    // of data, a million bytes each
	Count      int     `json:"messages_delivered"` // how many were counted
}

func (b *bench) all(name string, sizes []int) ([]benchResult, error) {
	if err := b.begin(name); err != nil {
		return nil, err
	}
	var results []benchResult
	for i, size := range sizes {
		where := fmt.Sprintf("%d of %d: %d bytes", i+1, len(sizes), size)
		r := benchResult{Size: size}
		data := make([]byte, size)
		if err := b.roundTrips(&r, data, where); err != nil {
			return nil, b.explain(size, err)
		}
		if err := b.rate(&r, data, where); err != nil {
			return nil, b.explain(size, err)
		}
		results = append(results, r)
	}
	return results, nil
}

// begin fails if the server does not answer requests of bench.
func (b *bench) begin(name string) error {
	ctx, cancel := context.WithTimeout(b.env.ctx, 5*time.Second)
	defer cancel()
	reply, err := b.client.Call(ctx, benchEcho, []byte("gipc bench"))
	if err == nil && reply.MsgType == benchEcho && string(reply.Data) == "gipc bench" {
		return nil
	}
	if err == nil {
		err = errors.New("its reply was another one")
	}
	return failure(fmt.Sprintf("the server %q does not answer bench", name), err, "start one with gipc listen, without -no-bench")
}

// roundTrips measures requests and their replies.
func (b *bench) roundTrips(r *benchResult, data []byte, where string) error {
	var times []time.Duration
	for start := time.Now(); time.Since(start) < b.duration; {
		b.progress.show("%s: round trips", where)
		sent := time.Now()
		if _, err := b.client.Call(b.env.ctx, benchEcho, data); err != nil {
			return err
		}
		times = append(times, time.Since(sent))
	}
	slices.Sort(times)
	r.RoundTrips = len(times)
	r.Median = microseconds(times[len(times)/2])
	r.P99 = microseconds(times[len(times)*99/100])
	return nil
}

func microseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// rate measures messages in one direction. The reply to a request behind them
// shows that the server has received them.
func (b *bench) rate(r *benchResult, data []byte, where string) error {
	const look = 1 << 20 // bytes after which the clock is read
	start := time.Now()
	for time.Since(start) < b.duration {
		b.progress.show("%s: messages", where)
		if err := b.env.ctx.Err(); err != nil {
			return err
		}
		for range 1 + look/(len(data)+256) {
			if err := b.client.Queue(benchData, data); err != nil {
				return err
			}
			r.Count++
		}
	}
	if err := b.client.Flush(); err != nil {
		return err
	}
	if _, err := b.client.Call(b.env.ctx, benchEcho, nil); err != nil {
		return err
	}
	seconds := time.Since(start).Seconds()
	r.Messages = float64(r.Count) / seconds
	r.Megabytes = r.Messages * float64(len(data)) / 1e6
	return nil
}

func (b *bench) explain(size int, err error) error {
	if errors.Is(err, gipc.ErrTooLarge) {
		return failure(fmt.Sprintf("%d bytes", size), err, "raise -max-size on both sides, or leave this size out of -sizes")
	}
	return failure(fmt.Sprintf("measuring %d bytes", size), err, "")
}

// print writes the table, or a JSON object for each row.
func (o *benchOptions) print(env *environment, security gipc.Security, results []benchResult) error {
	if o.output.value == formatJSON {
		encoder := json.NewEncoder(env.stdout)
		for _, r := range results {
			if err := encoder.Encode(r); err != nil {
				return failure("printing", err, "")
			}
		}
		return nil
	}
	_, err := fmt.Fprint(env.stdout, benchTable(security, results))
	if err != nil {
		return failure("printing", err, "")
	}
	return nil
}

func benchTable(security gipc.Security, results []benchResult) string {
	how := "plaintext"
	if security.Encrypted {
		how = "encrypted"
	}
	t := table{{"bytes", "round trip, median", "p99", "messages/s", "MB/s"}}
	for _, r := range results {
		t = append(t, []string{
			strconv.Itoa(r.Size), fmt.Sprintf("%.1f µs", r.Median), fmt.Sprintf("%.1f µs", r.P99),
			fmt.Sprintf("%.0f", r.Messages), fmt.Sprintf("%.1f", r.Megabytes),
		})
	}
	return how + "\n\n" + t.right()
}
