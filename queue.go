// Messages that nobody has read yet.

package gipc

import (
	"slices"
	"sync/atomic"
)

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
	messages []*Message
	bytes    int
	statuses int
	length   atomic.Int64 // of messages, for those who do not hold the lock
}

// room returns how many bytes the next message may have, its overhead included.
// The queue takes one message of any size more if oneLarger is set.
func (q *messageQueue) room(oneLarger bool) int {
	switch {
	case oneLarger && q.bytes <= queueSize:
		return unlimited
	case len(q.messages) > 0:
		return queueSize - q.bytes
	}
	return queueSize + messageOverhead
}

// push appends a message. Of the status messages it drops the oldest if there are
// too many, and returns how many that were.
func (q *messageQueue) push(m *Message) (dropped uint64) {
	q.messages = append(q.messages, m)
	q.count(m, 1)
	if q.statuses > maxStatuses {
		i := slices.IndexFunc(q.messages, (*Message).internal)
		q.count(q.messages[i], -1)
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
	q.count(m, -1)
	if len(q.messages) == 0 && cap(q.messages) > 64 {
		q.messages = nil // an idle endpoint holds no memory
	}
	return m
}

func (q *messageQueue) count(m *Message, n int) {
	q.length.Add(int64(n))
	q.bytes += n * (len(m.Data) + messageOverhead)
	if m.internal() {
		q.statuses += n
	}
}
