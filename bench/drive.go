// The measuring process: starts contestants as pairs of processes, has them
// take turns, and keeps a failure to the one who failed.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// A proc is a child.
type proc struct {
	cmd     *exec.Cmd
	orders  *json.Encoder
	stdin   io.Closer
	results chan result // closed when the child's output ends
	stderr  *tail
}

// start starts a child and waits until it is ready, at most for limit.
func (b *bench) start(j job, limit time.Duration) (*proc, result, error) {
	j.Profiles = b.profiles
	text, err := json.Marshal(j)
	if err != nil {
		return nil, result{}, err
	}
	binary := b.binary
	if j.Who.Kind == "libzmq" {
		if binary, err = b.libzmq(); err != nil {
			return nil, result{}, err
		}
	}
	p := &proc{cmd: exec.Command(binary), results: make(chan result, 1), stderr: &tail{}}
	p.cmd.Env = append(os.Environ(), childEnv+"="+string(text), "GIPC_DEBUG=")
	p.cmd.Stderr = p.stderr
	p.cmd.WaitDelay = time.Second
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, result{}, err
	}
	p.stdin, p.orders = in, json.NewEncoder(in)
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, result{}, err
	}
	start := p.cmd.Start
	if index, ok := j.Who.Place.core(j.Server); ok {
		start = func() error { return startOnCore(b.cores[index], p.cmd.Start) }
	}
	if err := start(); err != nil {
		return nil, result{}, err
	}
	b.running(p, true)
	go func() {
		defer close(p.results)
		for d := json.NewDecoder(out); ; {
			var r result
			if d.Decode(&r) != nil {
				return
			}
			p.results <- r
		}
	}()
	r, err := p.answer(b.ctx, limit)
	if err != nil {
		b.stop(p)
		return nil, r, err
	}
	return p, r, nil
}

// ask has a child follow an order, at most for limit.
func (p *proc) ask(ctx context.Context, o order, limit time.Duration) (result, error) {
	if err := p.orders.Encode(o); err != nil {
		return result{}, fmt.Errorf("%w; it said: %s", err, p.stderr)
	}
	return p.answer(ctx, limit)
}

func (p *proc) answer(ctx context.Context, limit time.Duration) (result, error) {
	select {
	case r, ok := <-p.results:
		switch {
		case !ok:
			return r, fmt.Errorf("the process ended: %s", p.stderr)
		case r.Err != "":
			return r, errors.New(r.Err)
		}
		return r, nil
	case <-ctx.Done():
		return result{}, context.Cause(ctx)
	case <-time.After(limit):
		return result{}, fmt.Errorf("no answer within %v; it said: %s", limit, p.stderr)
	}
}

// stop ends children.
func (b *bench) stop(procs ...*proc) {
	for _, p := range procs {
		if p == nil {
			continue
		}
		p.stdin.Close()
		p.cmd.Process.Kill()
		p.cmd.Wait()
		b.running(p, false)
	}
}

func (b *bench) running(p *proc, yes bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if yes {
		b.procs[p] = true
	} else {
		delete(b.procs, p)
	}
}

// socket is a new path; short, since a socket's path has about 100 bytes.
func (b *bench) socket() string {
	b.sockets++
	return filepath.Join(b.dir, fmt.Sprint("s", b.sockets))
}

// A pair is a contestant's two processes.
type pair struct{ server, client *proc }

// pair starts a contestant: the server first, and then the client.
func (b *bench) pair(c contestant) (p pair, err error) {
	limit := 10*time.Second + time.Duration(c.Clients)*20*time.Millisecond
	path := b.socket()
	if p.server, _, err = b.start(job{Server: true, Who: c, Path: path}, limit); err != nil {
		return p, fmt.Errorf("server: %w", err)
	}
	if p.client, _, err = b.start(job{Who: c, Path: path}, limit); err != nil {
		err = fmt.Errorf("client: %w; the server said: %s", err, p.server.stderr)
		b.stop(p.server)
	}
	return p, err
}

// A turn is what a contestant does once in each round.
type turn struct {
	who contestant
	order
	name string // "": who's
}

// scores are the results of all rounds, by the name of the turn.
type scores struct {
	results map[string][]result
	failed  map[string]error
}

// alternate starts all contestants and has each take its turns in every round;
// every other round goes backwards. The first round is not counted. Who fails
// is out, and the others go on.
func (b *bench) alternate(rounds int, turns ...turn) *scores {
	s := &scores{map[string][]result{}, map[string]error{}}
	pairs := map[contestant]pair{}
	defer func() {
		for _, p := range pairs {
			b.stop(p.client, p.server)
		}
	}()
	fail := func(t turn, err error) {
		s.failed[t.name] = err
		delete(s.results, t.name)
		b.say("  %s failed: %v", t.name, err)
	}
	broken := map[contestant]error{}
	for i, t := range turns {
		if t.name == "" {
			turns[i].name = t.who.Name
			t = turns[i]
		}
		if _, ok := pairs[t.who]; ok || broken[t.who] != nil {
			continue
		}
		p, err := b.pair(t.who)
		if err != nil {
			broken[t.who] = err
			continue
		}
		pairs[t.who] = p
	}
	for round := range rounds + 1 {
		for i := range turns {
			t := turns[i]
			if round%2 == 1 {
				t = turns[len(turns)-1-i]
			}
			if s.failed[t.name] != nil {
				continue
			}
			if err := broken[t.who]; err != nil {
				fail(t, err)
				continue
			}
			p := pairs[t.who]
			o := t.order
			if o.For == 0 {
				o.For = b.slice
			}
			if round == 0 {
				o.For /= 2
			}
			r, err := p.client.ask(b.ctx, o, 20*time.Second+5*o.For)
			if err != nil {
				if said := p.server.stderr.String(); said != silence {
					err = fmt.Errorf("%w; the server said: %s", err, said)
				}
				broken[t.who] = err
				b.stop(p.client, p.server)
				delete(pairs, t.who)
				fail(t, err)
			} else if round > 0 {
				s.results[t.name] = append(s.results[t.name], r)
			}
		}
	}
	return s
}

// tail keeps what a child says first: a panic begins with what it is about.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const silence = "nothing"

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	t.text = t.text[:min(len(t.text), 2000)]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := bytes.SplitN(bytes.TrimSpace(t.text), []byte("\n"), 4)
	text := string(bytes.Join(lines[:min(len(lines), 3)], []byte(" / ")))
	if text == "" {
		return silence
	}
	return strings.ToValidUTF8(text, "?")
}
