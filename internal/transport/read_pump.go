// The receiving side of a connection that may not support deadlines.

package transport

import (
	"net"
	"os"
	"sync"
	"time"
)

const (
	idlePumpSize = 4 << 10  // bytes of the buffer while the connection is idle
	busyPumpSize = 64 << 10 // bytes of the buffer after a read has filled the small one
)

const tryReadWait = time.Millisecond // how long TryRead waits if it cannot avoid waiting

// A readPump reads conn in its own goroutine, one read ahead, so that a reader can stop
// waiting even if conn does not support deadlines. The goroutine ends when a read of
// conn fails, such as after Close, or after End.
type readPump struct {
	conn       net.Conn
	readDone   chan struct{} // receives once for each completed read
	bytesTaken chan struct{} // receives once when the bytes of a read are consumed
	pending    []byte        // of the last read; owned by the side that was signaled last
	readErr    error         // of the last read
	readerDone chan struct{} // closed by End
	readerOwns bool          // the reader owns pending and readErr

	mu      sync.Mutex // guards the fields below
	started bool
	expired chan struct{} // closed when the deadline has passed
	timer   *time.Timer
}

func newReadPump(conn net.Conn) *readPump {
	return &readPump{conn: conn, readDone: make(chan struct{}, 1), bytesTaken: make(chan struct{}, 1), readerDone: make(chan struct{}), expired: make(chan struct{})}
}

// pump reads until conn fails, or until End is called.
func (p *readPump) pump() {
	buffer := make([]byte, idlePumpSize)
	for {
		n, err := p.conn.Read(buffer)
		p.pending, p.readErr = buffer[:n], err
		p.readDone <- struct{}{}
		if err != nil {
			return
		}
		select {
		case <-p.bytesTaken:
		case <-p.readerDone:
			return
		}
		switch size := len(buffer); {
		case n == size && size < busyPumpSize:
			buffer = make([]byte, busyPumpSize)
		case n < idlePumpSize && size > idlePumpSize:
			buffer = make([]byte, idlePumpSize)
		}
	}
}

// start starts the goroutine on the first call.
func (p *readPump) start() (expired <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.started {
		p.started = true
		go p.pump()
	}
	return p.expired
}

func (p *readPump) Receive(b Buffer) (n int, err error) {
	for n == 0 && err == nil {
		n, err = p.readOnce(b)
	}
	return n, err
}

func (p *readPump) readOnce(b Buffer) (int, error) {
	expired := p.start()
	if !p.readerOwns {
		select { // a deadline that has passed comes first, as with a socket
		case <-expired:
			return 0, os.ErrDeadlineExceeded
		default:
		}
		select {
		case <-p.readDone:
			p.readerOwns = true
		case <-expired:
			return 0, os.ErrDeadlineExceeded
		}
	}
	return p.moveBytes(b)
}

func (p *readPump) TryRead(b Buffer, patient bool) (int, bool, error) {
	p.start()
	if !p.readerOwns && !patient {
		select {
		case <-p.readDone:
			p.readerOwns = true
		default:
			return 0, false, nil
		}
	}
	if !p.readerOwns {
		wait := time.NewTimer(tryReadWait)
		defer wait.Stop()
		select {
		case <-p.readDone:
			p.readerOwns = true
		case <-wait.C:
			return 0, false, nil
		}
	}
	n, err := p.moveBytes(b)
	return n, n > 0 || err != nil, err
}

// End ends the goroutine once its read is done. No method is called afterwards.
func (p *readPump) End() { close(p.readerDone) }

// moveBytes moves bytes of the last read to b. The error of the read is returned after
// all its bytes.
func (p *readPump) moveBytes(b Buffer) (int, error) {
	if len(p.pending) == 0 && p.readErr != nil {
		return 0, p.readErr
	}
	n := 0
	if len(p.pending) > 0 {
		n = copy(b.Space(), p.pending)
		b.Received(n)
		p.pending = p.pending[n:]
	}
	if len(p.pending) == 0 && p.readErr == nil {
		p.readerOwns = false
		p.bytesTaken <- struct{}{}
	}
	return n, nil
}

// SetReadDeadline makes the read in progress and all later ones fail after t. The zero
// time is no deadline.
func (p *readPump) SetReadDeadline(t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	select {
	case <-p.expired:
		p.expired = make(chan struct{})
	default:
	}
	if t.IsZero() {
		return nil
	}
	expired := p.expired
	if d := time.Until(t); d > 0 {
		p.timer = time.AfterFunc(d, func() { p.expire(expired) })
		return nil
	}
	close(expired)
	return nil
}

// expire closes the channel of a deadline, unless a later deadline has replaced it.
func (p *readPump) expire(expired chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.expired != expired {
		return
	}
	select {
	case <-expired:
	default:
		close(expired)
	}
}
