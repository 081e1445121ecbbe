// Messages, replies to requests, and the queue of unread messages.

package gipc

import (
	"errors"
	"slices"
	"sync/atomic"
)

// A Message is a message of the peer or, with MsgType -1, a status message: a change of
// this side's status, at its place in the stream.
type Message struct {
	Err     error  // for status messages: why the connection was lost; nil if the peer closed it
	MsgType int    // 1 to 2147483647 for messages of the peer; -1 for status messages
	Data    []byte // owned by the caller; after ReadInto, valid until the next ReadInto with the same Message
	Status  string // for status messages: the status, as Status.String returns it
	Conn    uint64 // ID of the connection on which the message arrived; 0 for Connecting, Timeout, Error, Closed and TimeoutMessage

	request *request // nil unless the message is a request; shared by copies of the message
}

// setPeerMessage makes m a message of the peer. It sets each field, because copying a
// Message that was just built stalls on the processor's stores, for 8 ns of 50.
func (m *Message) setPeerMessage(msgType int, data []byte, conn uint64) {
	m.Err, m.MsgType, m.Data, m.Status, m.Conn, m.request = nil, msgType, data, "", conn, nil
}

// Is reports whether m is the status message for the given status. It returns false
// for messages of the peer and for [TimeoutMessage].
func (m *Message) Is(status Status) bool { return m.isStatus() && m.Status == status.String() }

// isStatus reports whether m is a status message.
func (m *Message) isStatus() bool { return m.MsgType == statusType }

// TimeoutMessage is returned by ReadTimed when no message has arrived in time. Compare
// the pointer; the library never reads the value.
var TimeoutMessage = &Message{MsgType: -1, Err: ErrTimeout}

// statusType is the MsgType of a status message.
const statusType = -1

// A request is the part of a message that Reply needs.
type request struct {
	requestNumber uint64
	sendReply     func(number uint64, msgType int, data []byte) error
	replied       atomic.Bool
}

// IsRequest reports whether m is a request, which the peer's Call has sent. Answer it
// by Reply.
func (m *Message) IsRequest() bool { return m.request != nil }

// Reply sends the reply to a request. A nil error means that the kernel has accepted
// the reply, or that the peer does not wait for it any more. A request can be answered
// once, at any time and from any goroutine, by m or by a copy of m; the next ReadInto
// with m replaces it. The reply is sent only on the connection on which the request
// arrived. Reply does not retain data. Errors:
//   - ErrNotRequest: m is not a request.
//   - ErrReplied: the request was answered before.
//   - ErrReservedType and ErrTooLarge: nothing was sent, and m can still be answered.
//   - ErrTimeout, with ErrNotConnected or ErrUnconfirmed: sending was blocked for 10
//     seconds, and 64 KiB of messages were unread. The peer may be waiting for the same:
//     reply from another goroutine than the one that reads.
//   - The other errors of [Client.Write]; ErrNotConnected if that connection is over.
func (m *Message) Reply(msgType int, data []byte) error {
	r := m.request
	if r == nil {
		return newError(ErrNotRequest, nil, "see IsRequest")
	}
	if err := checkMessageType(msgType); err != nil {
		return err
	}
	if r.replied.Swap(true) {
		return ErrReplied
	}
	err := r.sendReply(r.requestNumber, msgType, data)
	if errors.Is(err, ErrTooLarge) || errors.Is(err, ErrNotConnected) { // nothing was sent
		r.replied.Store(false)
	}
	return err
}

const (
	queueSize       = 64 << 10 // maximum bytes that are queued while nobody reads
	messageOverhead = 128      // bytes that a queued message counts in addition to its data: 80 for Message, 16 for its place in the list, the rest for rounding
	maxStatuses     = 16       // maximum number of queued status messages
)

// unlimited is the size limit of a reader that accepts every message.
const unlimited = maxMsgSize + messageOverhead

// A messageQueue holds unread messages in order, and limits their memory. The
// endpoint's lock guards it.
//
// Invariant: queuedBytes and statusCount are the totals of messages.
type messageQueue struct {
	messages    []*Message
	queuedBytes int
	statusCount int
}

// freeBytes returns the maximum size of the next message in bytes, including its
// overhead. If oneLarger is set, the queue accepts one more message of any size.
func (q *messageQueue) freeBytes(oneLarger bool) int {
	switch {
	case oneLarger && q.queuedBytes <= queueSize:
		return unlimited
	case !q.isEmpty():
		return queueSize - q.queuedBytes
	}
	return queueSize + messageOverhead
}

// push appends a message. If there are too many status messages it drops the oldest,
// and returns 1.
func (q *messageQueue) push(m *Message) (dropped uint64) {
	q.messages = append(q.messages, m)
	q.adjustCounts(m, 1)
	if q.statusCount > maxStatuses {
		i := slices.IndexFunc(q.messages, (*Message).isStatus)
		q.adjustCounts(q.messages[i], -1)
		q.messages = slices.Delete(q.messages, i, i+1)
		dropped = 1
	}
	return dropped
}

func (q *messageQueue) isEmpty() bool { return len(q.messages) == 0 }

// pop removes and returns the oldest message, or nil if there is none.
func (q *messageQueue) pop() *Message {
	if q.isEmpty() {
		return nil
	}
	m := q.messages[0]
	q.messages = slices.Delete(q.messages, 0, 1) // cheap, because the queue is short
	q.adjustCounts(m, -1)
	if q.isEmpty() && cap(q.messages) > 64 {
		q.messages = nil // an idle endpoint holds no memory
	}
	return m
}

func (q *messageQueue) adjustCounts(m *Message, n int) {
	q.queuedBytes += n * (len(m.Data) + messageOverhead)
	if m.isStatus() {
		q.statusCount += n
	}
}
