// Requests that wait for their replies. No net, no clock.

package gipc

import (
	"context"
	"sync"
)

// An openCall is a request whose reply is awaited.
type openCall struct {
	doneSignal    chan struct{} // receives once when the call has ended
	requestNumber uint64        // of the request; 0 unless it was accepted for sending
	frameStart    int           // of its frame in the batch, in bytes
	header        frameHeader
	ended         bool // it has ended
	reply         *Message
	err           error                   // why there is no reply
	cancelSend    context.CancelCauseFunc // ends the sending of the request; nil if nobody waits for that
}

// A callTable holds the open calls of one connection. It is safe for concurrent
// use.
//
// Invariants: requests are numbered 1, 2, 3 in the order in which they were accepted
// for sending, without a gap. Each call ends once. Once over is set no call is open.
type callTable struct {
	mu               sync.Mutex
	lastNumber       uint64
	lastFlushed      uint64 // the last one that somebody writes or has written
	openCalls        map[uint64]*openCall
	endErr           error  // what a call ends with from here on
	unclaimedReplies uint64 // replies that nobody waits for
}

// addCall gives a call the next number. It is accepted for sending.
func (t *callTable) addCall(call *openCall) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lastNumber++
	call.requestNumber = t.lastNumber
	if t.endErr != nil {
		call.endLocked(nil, t.endErr)
		return t.lastNumber
	}
	if t.openCalls == nil {
		t.openCalls = map[uint64]*openCall{}
	}
	t.openCalls[t.lastNumber] = call
	return t.lastNumber
}

// removeLatest takes the latest request back, which was not written: its number is free
// again. The call ends if there is a reason.
func (t *callTable) removeLatest(reason error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if call := t.openCalls[t.lastNumber]; call != nil {
		call.requestNumber = 0
		delete(t.openCalls, t.lastNumber)
		if reason != nil {
			call.endLocked(nil, reason)
		}
	}
	t.lastNumber--
}

// endCallsFrom ends the calls whose numbers are first or higher, unless first is 0.
func (t *callTable) endCallsFrom(first uint64, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for number, call := range t.openCalls {
		if first > 0 && number >= first {
			delete(t.openCalls, number)
			call.endLocked(nil, err)
		}
	}
}

// noteFlushed notes that all requests so far go out.
func (t *callTable) noteFlushed() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lastFlushed = t.lastNumber
}

// cancelOnEnd has cancel called when the call has ended without a reply.
func (t *callTable) cancelOnEnd(call *openCall, cancel context.CancelCauseFunc) {
	t.mu.Lock()
	defer t.mu.Unlock()
	call.cancelSend = cancel
	if call.err != nil {
		cancel(call.err)
	}
}

// deliverReply gives a reply to the call that waits for it, and returns that, or nil.
func (t *callTable) deliverReply(number uint64, msgType int, data []byte, conn uint64) *openCall {
	t.mu.Lock()
	defer t.mu.Unlock()
	call := t.openCalls[number]
	if call == nil || number > t.lastFlushed {
		t.unclaimedReplies++
		return nil
	}
	delete(t.openCalls, number)
	call.endLocked(&Message{MsgType: msgType, Data: data, Conn: conn}, nil)
	return call
}

// endAllCalls ends all calls, now and from here on.
func (t *callTable) endAllCalls(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.endErr == nil {
		t.endErr = err
	}
	for _, call := range t.openCalls {
		call.endLocked(nil, t.endErr)
	}
	t.openCalls = nil
}

// abandonCall returns the result of a call that is not awaited any longer. ended is false
// if it had none.
func (t *callTable) abandonCall(call *openCall) (reply *Message, ended bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.openCalls[call.requestNumber] == call {
		delete(t.openCalls, call.requestNumber)
	}
	if call.cancelSend != nil {
		call.cancelSend(nil)
	}
	return call.reply, call.ended, call.err
}

// callResult returns how a call has ended, if it has.
func (t *callTable) callResult(call *openCall) (reply *Message, ended bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return call.reply, call.ended, call.err
}

// hasOpenCalls reports whether a call is open.
func (t *callTable) hasOpenCalls() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.openCalls) > 0
}

// callCounts returns how many requests were sent, and how many replies nobody waited for.
func (t *callTable) callCounts() (calls, unasked uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.lastNumber, t.unclaimedReplies
}

func (c *openCall) endLocked(reply *Message, err error) {
	c.ended, c.reply, c.err = true, reply, err
	if c.cancelSend != nil && err != nil {
		c.cancelSend(err)
	}
	c.doneSignal <- struct{}{} // has room: a call ends once
}
