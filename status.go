// What an end of a connection is doing, and the message that tells a reader.

package gipc

import (
	"errors"
	"sync/atomic"
)

// Status is what an end of a connection is doing.
type Status int

// The statuses, with the numbers and strings that earlier libraries of this kind use.
const (
	NotConnected Status = iota // before the start
	Listening                  // server: no client has come yet; of a server of many clients always
	Connecting                 // client: before the first connection
	Connected                  // messages flow
	ReConnecting               // client: the connection was lost; redialing
	Closed                     // after Close, forever
	Closing                    // Close has begun and is not done
	Error                      // server: it cannot accept any more, forever
	Timeout                    // client: no connection within Timeout, forever
	Disconnected               // server: the client is gone
)

var statusNames = [...]string{"Not Connected", "Listening", "Connecting", "Connected", "Reconnecting",
	"Closed", "Closing", "Error", "Timeout", "Disconnected"}

// String returns the status as a word. It is total: a number that is no status
// is "Unknown".
func (s Status) String() string {
	if s < 0 || int(s) >= len(statusNames) {
		return "Unknown"
	}
	return statusNames[s]
}

// transitions has, for each status, a bit for each one that may follow. An end
// changes its status nowhere but through mayBecome, so that what has ended
// stays ended whoever comes late.
var transitions = [...]uint16{
	NotConnected: 1<<Listening | 1<<Connecting | 1<<Connected | 1<<Closing,
	Listening:    1<<Connected | 1<<Closing | 1<<Error,
	Connecting:   1<<Connected | 1<<Closing | 1<<Timeout | 1<<Error,
	Connected:    1<<ReConnecting | 1<<Disconnected | 1<<Closing,
	ReConnecting: 1<<Connected | 1<<Closing | 1<<Timeout | 1<<Error,
	Closing:      1 << Closed,
	Error:        1 << Closing,
	Timeout:      1 << Closing,
	Disconnected: 1<<Connected | 1<<Closing | 1<<Error,
}

func (s Status) mayBecome(next Status) bool { return transitions[s]&(1<<next) != 0 }

// Message is what Read returns: a message of the peer, or, with MsgType -1, a
// change of this end's status at the place in the stream where it happened.
type Message struct {
	Err     error  // for status messages: why the connection was lost; nil if the peer closed it
	MsgType int    // 1 to 2147483647 are the peer's; -1 is internal; 0 is reserved
	Data    []byte // owned by the caller; after ReadInto, valid until the next ReadInto with the same Message
	Status  string // with MsgType -1: the status, as Status.String gives it
	Conn    uint64 // the ID of the connection that the message came on; 0 for Connecting, Timeout, Closed and TimeoutMessage

	request *request // nil unless it is one; copies of the message share it
}

// A request is what Reply needs of a message.
type request struct {
	number  uint64
	answer  func(number uint64, msgType int, data []byte) error
	replied atomic.Bool
}

// IsRequest reports whether the peer waits for a reply to m: see Reply.
func (m *Message) IsRequest() bool { return m.request != nil }

// Reply answers a request, once. A nil error means that the kernel has accepted the
// reply, or that the peer does not wait for it any more. It may be called from any
// goroutine, also after other reads, on m or on a copy of it; ReadInto with m makes m
// another message. The reply goes out on the connection on which the request came, or
// not at all. Reply does not retain data. Errors:
//   - ErrNotRequest: m is no request.
//   - ErrReplied: it was answered before.
//   - ErrReservedType and ErrTooLarge: nothing was sent, and m can still be answered.
//   - the other errors of [Client.Write]: ErrNotConnected if that connection is over.
func (m *Message) Reply(msgType int, data []byte) error {
	r := m.request
	if r == nil {
		return fail(ErrNotRequest, nil, "see IsRequest")
	}
	if err := checkMessageType(msgType); err != nil {
		return err
	}
	if r.replied.Swap(true) {
		return ErrReplied
	}
	err := r.answer(r.number, msgType, data)
	if errors.Is(err, ErrTooLarge) {
		r.replied.Store(false)
	}
	return err
}

// Is reports whether m is the internal message of that status. It is false for
// messages of the peer and for [TimeoutMessage].
func (m *Message) Is(status Status) bool { return m.internal() && m.Status == status.String() }

// internal reports whether m is a status message.
func (m *Message) internal() bool { return m.MsgType == internalType }

// TimeoutMessage is what ReadTimed returns when its time has passed. Compare
// the pointer; the library never reads what it points to.
var TimeoutMessage = &Message{MsgType: -1, Err: ErrTimeout}

// internalType is the MsgType of a message that tells of a change of status.
const internalType = -1
