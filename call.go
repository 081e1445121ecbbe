// The table of open calls: requests that wait for their replies. No net, no clock.

package gipc

import (
	"context"
	"sync"
)

// An openCall is a call that waits for its reply.
type openCall struct {
	doneSignal    chan struct{} // receives once when the call has ended
	requestNumber uint64        // 0 unless the request was accepted for sending
	frameStart    int           // offset of the request's frame in its batch, in bytes
	header        frameHeader
	ended         bool // reply or err is set
	reply         *Message
	err           error                   // why there is no reply; nil with one
	cancelSend    context.CancelCauseFunc // cancels the sending of the request; nil if no call waits for that
}

// A callTable holds the open calls of one connection. It is safe for concurrent
// use.
//
// Invariants: requests are numbered 1, 2, 3 in the order in which they were accepted
// for sending, without gaps. Each call ends once. Once endErr is set no call is open.
type callTable struct {
	mu               sync.Mutex
	lastNumber       uint64
	lastFlushed      uint64 // number of the last request that is being written or was written
	openCalls        map[uint64]*openCall
	endErr           error  // result of all later calls; nil while calls are possible
	unclaimedReplies uint64 // number of replies that no call waits for
}

// addCall adds a call whose request is accepted for sending. It returns the number of the
// request, and whether other calls are open.
func (t *callTable) addCall(call *openCall) (number uint64, others bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lastNumber++
	call.requestNumber = t.lastNumber
	if t.endErr != nil {
		call.endLocked(nil, t.endErr)
		return t.lastNumber, false
	}
	if t.openCalls == nil {
		t.openCalls = map[uint64]*openCall{}
	}
	t.openCalls[t.lastNumber] = call
	return t.lastNumber, len(t.openCalls) > 1
}

// removeLatest removes the latest request, which was withdrawn, so that its number is
// used again. Its call ends with reason, unless that is nil.
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

// endCallsFrom ends the calls whose numbers are first or higher with err. If first is 0
// it does nothing.
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

// noteFlushed records that all requests so far are being written.
func (t *callTable) noteFlushed() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lastFlushed = t.lastNumber
}

// cancelOnEnd calls cancel when the call ends without a reply.
func (t *callTable) cancelOnEnd(call *openCall, cancel context.CancelCauseFunc) {
	t.mu.Lock()
	defer t.mu.Unlock()
	call.cancelSend = cancel
	if call.err != nil {
		cancel(call.err)
	}
}

// deliverReply ends the call that waits for a reply, and returns it. It returns nil if
// no call waits for the reply.
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

// endAllCalls ends all open and later calls with err.
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

// abandonCall removes a call, and returns its result if it has ended.
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

// callResult returns the result of a call if it has ended.
func (t *callTable) callResult(call *openCall) (reply *Message, ended bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return call.reply, call.ended, call.err
}

// hasOpenCalls reports whether any call is open.
func (t *callTable) hasOpenCalls() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.openCalls) > 0
}

// callCounts returns the numbers of sent requests and of replies that no call waited
// for.
func (t *callTable) callCounts() (calls, unclaimed uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.lastNumber, t.unclaimedReplies
}

func (c *openCall) endLocked(reply *Message, err error) {
	c.ended, c.reply, c.err = true, reply, err
	if c.cancelSend != nil && err != nil {
		c.cancelSend(err)
	}
	c.doneSignal <- struct{}{} // does not block, because a call ends once
}
