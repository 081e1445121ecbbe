// Requests that wait for their replies. No net, no clock.

package gipc

import (
	"context"
	"sync"
)

// An openCall is a request whose reply is awaited.
type openCall struct {
	done   chan struct{} // receives once when the call has ended
	number uint64        // of the request; 0 unless it was accepted for sending
	start  int           // of its frame in the batch, in bytes
	header frameHeader
	over   bool // it has ended
	reply  *Message
	err    error                   // why there is no reply
	cancel context.CancelCauseFunc // ends the sending of the request; nil if nobody waits for that
}

// A callTable holds the open calls of one connection. It is safe for concurrent
// use.
//
// Invariants: requests are numbered 1, 2, 3 in the order in which they were accepted
// for sending, without a gap. Each call ends once. Once over is set no call is open.
type callTable struct {
	mu      sync.Mutex
	last    uint64
	flushed uint64 // the last one that somebody writes or has written
	open    map[uint64]*openCall
	over    error  // what a call ends with from here on
	unasked uint64 // replies that nobody waits for
}

// add gives a call the next number. It is accepted for sending.
func (t *callTable) add(call *openCall) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last++
	call.number = t.last
	if t.over != nil {
		call.endLocked(nil, t.over)
		return t.last
	}
	if t.open == nil {
		t.open = map[uint64]*openCall{}
	}
	t.open[t.last] = call
	return t.last
}

// takeBack takes the latest request back, which was not written: its number is free
// again. The call ends if there is a reason.
func (t *callTable) takeBack(reason error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if call := t.open[t.last]; call != nil {
		call.number = 0
		delete(t.open, t.last)
		if reason != nil {
			call.endLocked(nil, reason)
		}
	}
	t.last--
}

// endFrom ends the calls whose numbers are first or higher, unless first is 0.
func (t *callTable) endFrom(first uint64, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for number, call := range t.open {
		if first > 0 && number >= first {
			delete(t.open, number)
			call.endLocked(nil, err)
		}
	}
}

// flush notes that all requests so far go out.
func (t *callTable) flush() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.flushed = t.last
}

// watch has cancel called when the call has ended without a reply.
func (t *callTable) watch(call *openCall, cancel context.CancelCauseFunc) {
	t.mu.Lock()
	defer t.mu.Unlock()
	call.cancel = cancel
	if call.err != nil {
		cancel(call.err)
	}
}

// deliver gives a reply to the call that waits for it, and returns that, or nil.
func (t *callTable) deliver(number uint64, msgType int, data []byte, conn uint64) *openCall {
	t.mu.Lock()
	defer t.mu.Unlock()
	call := t.open[number]
	if call == nil || number > t.flushed {
		t.unasked++
		return nil
	}
	delete(t.open, number)
	call.endLocked(&Message{MsgType: msgType, Data: data, Conn: conn}, nil)
	return call
}

// end ends all calls, now and from here on.
func (t *callTable) end(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over == nil {
		t.over = err
	}
	for _, call := range t.open {
		call.endLocked(nil, t.over)
	}
	t.open = nil
}

// giveUp returns the result of a call that is not awaited any longer. ended is false
// if it had none.
func (t *callTable) giveUp(call *openCall) (reply *Message, ended bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open[call.number] == call {
		delete(t.open, call.number)
	}
	if call.cancel != nil {
		call.cancel(nil)
	}
	return call.reply, call.over, call.err
}

// result returns how a call has ended, if it has.
func (t *callTable) result(call *openCall) (reply *Message, ended bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return call.reply, call.over, call.err
}

// any reports whether a call is open.
func (t *callTable) any() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.open) > 0
}

// counts returns how many requests were sent, and how many replies nobody waited for.
func (t *callTable) counts() (calls, unasked uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last, t.unasked
}

func (c *openCall) endLocked(reply *Message, err error) {
	c.over, c.reply, c.err = true, reply, err
	if c.cancel != nil && err != nil {
		c.cancel(err)
	}
	c.done <- struct{}{} // has room: a call ends once
}
