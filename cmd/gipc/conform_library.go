// Scenarios in which the server is that of the library.

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"example.com/gipc"
)

func libraryScenarios() []*scenario {
	return []*scenario{
		{name: "library-echo", summary: "is the library: echo of many sizes", ids: ids("F-8"), library: true, play: libraryEcho},
		{name: "library-requests", summary: "is the library: many requests in both directions", ids: ids("Q-3", "Q-5"), library: true, anyOutput: true, play: libraryRequests},
		{name: "library-restart", summary: "is the library, and restarts", ids: ids("H-20"), library: true, setup: setup{reconnect: true}, play: libraryRestart},
	}
}

// libraryContext returns a context that ends with the time of the scenario.
func (st *stage) libraryContext() (context.Context, context.CancelFunc) {
	return context.WithDeadline(st.ctx, st.deadline)
}

// sends sends messages that the client has to print.
func (st *stage) sends(ctx context.Context, frames ...frame) {
	for _, f := range frames {
		if st.err != nil {
			return
		}
		if err := st.server.WriteContext(ctx, int(f.msgType), f.data); err != nil {
			st.failed(fmt.Errorf("sending to the client: %w", err))
		}
		st.delivered = append(st.delivered, fmt.Sprintf("message %d %d", f.msgType, len(f.data)))
	}
}

// receives returns the next message or request of the client. A lost connection
// is a failure.
func (st *stage) receives(ctx context.Context) *gipc.Message {
	for st.err == nil {
		m, err := st.server.ReadContext(ctx)
		switch {
		case err != nil:
			st.fail(st.scenario.ids[0], "waiting for the client: %v", err)
		case m.Is(gipc.Connected):
			st.lines = append(st.lines, "connected")
		case m.MsgType != -1:
			return m
		default:
			st.fail(st.scenario.ids[0], "the connection has ended: %v", m.Err)
		}
	}
	return nil
}

// closesClient has the client close, and expects that it leaves in order.
func (st *stage) closesClient(ctx context.Context) {
	st.sends(ctx, message(typeClose, nil))
	if st.err != nil {
		return
	}
	m, err := st.server.ReadContext(ctx)
	if err != nil || !m.Is(gipc.Disconnected) || m.Err != nil {
		st.fail("G-1", "the client did not close in order: %+v, %v", m, err)
	}
}

func libraryEcho(st *stage) {
	ctx, cancel := st.libraryContext()
	defer cancel()
	var frames []frame
	for i := range 400 {
		frames = append(frames, message(uint32(1+i), filled(i, i*i%40_000)))
	}
	frames = append(frames, message(7, filled(7, 1<<20)), message(8, filled(8, defaultLimit)))
	var writing sync.WaitGroup
	writing.Go(func() {
		for _, f := range frames {
			if st.server.WriteContext(ctx, int(f.msgType), f.data) != nil {
				return // what is missing shows below
			}
		}
	})
	for i, f := range frames {
		m := st.receives(ctx)
		st.delivered = append(st.delivered, fmt.Sprintf("message %d %d", f.msgType, len(f.data)))
		if m != nil && (m.MsgType != int(f.msgType) || !bytes.Equal(m.Data, f.data)) {
			st.fail("F-8", "echo %d has type %d and %d bytes, and %v was sent", i, m.MsgType, len(m.Data), f)
		}
	}
	if st.err != nil {
		cancel()
	}
	writing.Wait()
	st.closesClient(ctx)
}

func libraryRequests(st *stage) {
	ctx, cancel := st.libraryContext()
	defer cancel()
	if err := st.server.WaitConnected(ctx); err != nil {
		st.fail("H-1", "the client did not connect: %v", err)
		return
	}
	const count = 200
	failures := make(chan error, 3*count)
	for i := range count {
		go func() { failures <- libraryCall(ctx, st.server, i) }()
	}
	go func() {
		for i := range count {
			failures <- st.server.WriteContext(ctx, typeCall, filled(i, i*50))
		}
	}()
	results := 0
	for range 2 * count { // a request of the client, and its result, for each
		m := st.receives(ctx)
		switch {
		case m == nil:
			return
		case m.IsRequest():
			go func() { failures <- m.Reply(77, m.Data) }() // this goroutine has to read
		case m.MsgType == 77:
			results++
		}
	}
	for range 3 * count {
		st.check(<-failures)
	}
	if results != count {
		st.fail("Q-5", "the client has %d results of its %d requests", results, count)
	}
	st.closesClient(ctx)
}

func libraryCall(ctx context.Context, server *gipc.Server, i int) error {
	data := filled(i, i*40)
	m, err := server.Call(ctx, 10+i, data)
	switch {
	case err != nil:
		return violate("Q-3", "request %d of the server has no reply: %v", i, err)
	case m.MsgType != 10+i || !bytes.Equal(m.Data, data):
		return violate("Q-3", "the reply to request %d of the server has type %d and %d bytes", i, m.MsgType, len(m.Data))
	}
	return nil
}

func libraryRestart(st *stage) {
	ctx, cancel := st.libraryContext()
	defer cancel()
	for i := range 4 {
		st.sends(ctx, message(1, filled(i, 5000)))
		if m := st.receives(ctx); m != nil && (m.MsgType != 1 || len(m.Data) != 5000) {
			st.fail("F-8", "an echo has type %d and %d bytes", m.MsgType, len(m.Data))
		}
		if err := st.server.Close(); err != nil && !errors.Is(err, gipc.ErrUnconfirmed) {
			st.failed(err)
		}
		if st.err != nil {
			return
		}
		st.startLibrary()
		if st.err != nil {
			return
		}
	}
	st.sends(ctx, message(2, nil))
	st.receives(ctx)
	st.closesClient(ctx)
}
