// Bytes on their way to a client. Writing does not wait for the client to read.

package main

import (
	"net"
	"sync"
)

// outboxLimit is how many bytes wait before a write waits too.
const outboxLimit = 64 << 20

// An outbox writes to a connection in a goroutine of its own. Errors are
// ignored: that the client does not read any more shows in what it sends.
type outbox struct {
	conn  net.Conn
	split bool // each byte is written by itself

	mu      sync.Mutex
	changed sync.Cond
	queue   [][]byte
	bytes   int
	ends    bool // shut down the sending half after the queue
	failed  bool
	done    chan struct{}
}

func newOutbox(conn net.Conn, split bool) *outbox {
	o := &outbox{conn: conn, split: split, done: make(chan struct{})}
	o.changed.L = &o.mu
	go o.run()
	return o
}

func (o *outbox) write(b []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.bytes > outboxLimit && !o.failed {
		o.changed.Wait()
	}
	if o.failed || o.ends {
		return
	}
	o.queue = append(o.queue, b)
	o.bytes += len(b)
	o.changed.Broadcast()
}

// end shuts down the sending half after everything that was written.
func (o *outbox) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ends = true
	o.changed.Broadcast()
}

// fail discards what was not written.
func (o *outbox) fail() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.failed, o.ends, o.queue = true, true, nil
	o.changed.Broadcast()
}

func (o *outbox) run() {
	defer close(o.done)
	for {
		b := o.take()
		if b == nil {
			break
		}
		if o.writeNow(b) != nil {
			o.fail()
		}
	}
	if half, ok := o.conn.(interface{ CloseWrite() error }); ok {
		half.CloseWrite() // the client may have ended already
	}
}

// take returns everything that waits, or nil at the end.
func (o *outbox) take() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.queue) == 0 && !o.ends {
		o.changed.Wait()
	}
	if len(o.queue) == 0 {
		return nil
	}
	b := o.queue[0]
	o.queue = o.queue[1:]
	o.bytes -= len(b)
	o.changed.Broadcast()
	return b
}

func (o *outbox) writeNow(b []byte) error {
	if !o.split {
		_, err := o.conn.Write(b)
		return err
	}
	for i := range b {
		if _, err := o.conn.Write(b[i : i+1]); err != nil {
			return err
		}
	}
	return nil
}
