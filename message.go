// Messages, and the replies to those that are requests.

package gipc

import (
	"errors"
	"slices"
	"sync/atomic"
)

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

// setPeerMessage makes m a message of the peer. It sets field by field: a copy of a whole Message
// that was just built waits for the processor's stores, 8 ns of 50.
func (m *Message) setPeerMessage(msgType int, data []byte, conn uint64) {
	m.Err, m.MsgType, m.Data, m.Status, m.Conn, m.request = nil, msgType, data, "", conn, nil
}

// Is reports whether m is the internal message of that status. It is false for
// messages of the peer and for [TimeoutMessage].
func (m *Message) Is(status Status) bool { return m.isStatus() && m.Status == status.String() }

// isStatus reports whether m is a status message.
func (m *Message) isStatus() bool { return m.MsgType == statusType }

// TimeoutMessage is what ReadTimed returns when its time has passed. Compare
// the pointer; the library never reads what it points to.
var TimeoutMessage = &Message{MsgType: -1, Err: ErrTimeout}

// statusType is the MsgType of a status message.
const statusType = -1

// A request is what Reply needs of a message.
type request struct {
	requestNumber uint64
	sendReply     func(number uint64, msgType int, data []byte) error
	replied       atomic.Bool
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
//   - ErrTimeout, with ErrNotConnected or ErrUnconfirmed: sending was blocked for 10
//     seconds, and 64 KiB of messages were unread. The peer may be waiting for the same:
//     reply from another goroutine than the one that reads.
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
	err := r.sendReply(r.requestNumber, msgType, data)
	if errors.Is(err, ErrTooLarge) || errors.Is(err, ErrNotConnected) { // nothing was sent
		r.replied.Store(false)
	}
	return err
}

const (
	queueSize       = 64 << 10 // bytes that are queued while nobody reads
	messageOverhead = 64       // bytes that a queued message counts beside its data
	maxStatuses     = 16       // status messages that are kept
)

// unlimited is the room of a reader that takes whatever comes.
const unlimited = maxMsgSize + messageOverhead

// A messageQueue holds unread messages in order. It is the one place that bounds
// them.
//
// Invariant: bytes and statuses are those of the messages in the list, and length
// is their number. The endpoint's lock guards it, except length.
type messageQueue struct {
	messages    []*Message
	queuedBytes int
	statusCount int
	length      atomic.Int64 // of messages, for those who do not hold the lock
}

// freeBytes returns how many bytes the next message may have, its overhead included.
// The queue takes one message of any size more if oneLarger is set.
func (q *messageQueue) freeBytes(oneLarger bool) int {
	switch {
	case oneLarger && q.queuedBytes <= queueSize:
		return unlimited
	case len(q.messages) > 0:
		return queueSize - q.queuedBytes
	}
	return queueSize + messageOverhead
}

// push appends a message. Of the status messages it drops the oldest if there are
// too many, and returns how many that were.
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

// pop removes the oldest message. It returns nil if there is none.
func (q *messageQueue) pop() *Message {
	if len(q.messages) == 0 {
		return nil
	}
	m := q.messages[0]
	q.messages = slices.Delete(q.messages, 0, 1) // few words: an index would cost more to keep
	q.adjustCounts(m, -1)
	if len(q.messages) == 0 && cap(q.messages) > 64 {
		q.messages = nil // an idle endpoint holds no memory
	}
	return m
}

func (q *messageQueue) adjustCounts(m *Message, n int) {
	q.length.Add(int64(n))
	q.queuedBytes += n * (len(m.Data) + messageOverhead)
	if m.isStatus() {
		q.statusCount += n
	}
}
