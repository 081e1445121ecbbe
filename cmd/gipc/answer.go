// The replies of gipc listen: a text, or the output of a command.

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"example.com/gipc"
)

// An answerer answers requests, at most a fixed number at the same time.
type answerer struct {
	env       *environment
	replyType int
	reply     func(m *gipc.Message, client int) ([]byte, error)
	slots     chan struct{} // holds one value for each request that is being answered
}

func (o *listenOptions) answerer(env *environment) answerer {
	a := answerer{env: env, replyType: o.replyType, slots: make(chan struct{}, o.jobs)}
	switch {
	case env.hasRest:
		c := &commandReply{ctx: env.ctx, args: env.rest, timeout: o.timeout, limit: o.server.maxSize, stderr: env.stderr}
		if c.limit == 0 {
			c.limit = 3145728
		}
		a.reply = c.run
	case o.hasReply:
		a.reply = func(*gipc.Message, int) ([]byte, error) { return []byte(o.reply), nil }
	default:
		a.reply = func(*gipc.Message, int) ([]byte, error) {
			return nil, errors.New("this server answers no requests: start gipc listen with -reply or with a command after --")
		}
	}
	return a
}

// start answers m in another goroutine. It waits until fewer than the fixed
// number of requests are being answered.
func (a *answerer) start(m *gipc.Message, client int) {
	select {
	case a.slots <- struct{}{}:
	case <-a.env.ctx.Done():
		return
	}
	go func() {
		defer func() { <-a.slots }()
		a.answer(m, client)
	}()
}

// wait waits until every request that was started has been answered.
func (a *answerer) wait() {
	for range cap(a.slots) {
		a.slots <- struct{}{}
	}
	for range cap(a.slots) {
		<-a.slots
	}
}

func (a *answerer) answer(m *gipc.Message, client int) {
	replyType := a.replyType
	if replyType == 0 {
		replyType = m.MsgType
	}
	data, err := a.reply(m, client)
	if err == nil {
		err = m.Reply(replyType, data)
		if !errors.Is(err, gipc.ErrTooLarge) {
			a.unsent(err, client)
			return
		}
	}
	a.env.notef("request of client %d failed: %s", client, describe(err))
	a.unsent(m.Reply(errorReply, []byte(describe(err))), client)
}

// unsent reports a reply that could not be sent.
func (a *answerer) unsent(err error, client int) {
	if err != nil && a.env.ctx.Err() == nil {
		a.env.notef("replying to client %d: %s", client, describe(err))
	}
}

// A commandReply runs a command for each request.
type commandReply struct {
	ctx     context.Context
	args    []string
	timeout time.Duration
	limit   int // bytes of output
	stderr  io.Writer
}

func (c *commandReply) run(m *gipc.Message, client int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.args[0], c.args[1:]...)
	cmd.Env = append(os.Environ(), fmt.Sprintf("GIPC_TYPE=%d", m.MsgType), fmt.Sprintf("GIPC_CLIENT=%d", client))
	cmd.Stdin = bytes.NewReader(m.Data)
	out, stderr := &boundedBuffer{limit: c.limit}, &boundedBuffer{limit: 4096}
	cmd.Stdout, cmd.Stderr = out, stderr
	cmd.WaitDelay = time.Second // for a child that keeps the pipes open
	err := cmd.Run()
	switch {
	case out.full:
		return nil, fmt.Errorf("%s: it printed more than %d bytes: raise -max-size", c.args[0], c.limit)
	case err != nil && c.ctx.Err() != nil:
		return nil, fmt.Errorf("%s: the server is closing", c.args[0])
	case err != nil && ctx.Err() != nil:
		return nil, fmt.Errorf("%s: it ran for longer than %v: raise -timeout", c.args[0], c.timeout)
	case err != nil && len(stderr.data) > 0:
		return nil, fmt.Errorf("%s: %w: %s", c.args[0], err, bytes.TrimSpace(stderr.data))
	case err != nil:
		return nil, fmt.Errorf("%s: %w", c.args[0], err)
	}
	return out.data, nil
}

// A boundedBuffer is a buffer that keeps the first bytes and discards the rest.
type boundedBuffer struct {
	data  []byte
	limit int
	full  bool // bytes were discarded
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	n := len(p)
	if room := b.limit - len(b.data); n > room {
		p, b.full = p[:room], true
	}
	b.data = append(b.data, p...)
	return n, nil
}
