// The receiving side of a connection whose deadlines may be missing or broken.

package transport

import (
	"net"
	"os"
	"sync"
	"time"
)

const (
	idlePumpSize = 4 << 10  // bytes that a pump holds while nothing comes
	busyPumpSize = 64 << 10 // bytes that it reads at once after a read has filled that
)

const tryReadWait = time.Millisecond // how long a look waits if it cannot do without

// A readPump reads conn in a goroutine of its own, one read ahead, so that a
// reader can stop waiting though conn knows no deadlines. The goroutine ends when
// a read of conn fails, as it does when conn is closed, and at end.
type readPump struct {
	conn       net.Conn
	readDone   chan struct{} // receives once when a read is done
	bytesTaken chan struct{} // receives once when its bytes are taken
	pending    []byte        // of the last read; owned by the side that was signalled last
	readErr    error         // of the last read
	readerDone chan struct{} // closed when nobody will read any more
	readerOwns bool          // the reader owns bytes and err

	mu      sync.Mutex // guards what follows
	started bool
	expired chan struct{} // closed when the deadline has passed
	timer   *time.Timer
}

func newReadPump(conn net.Conn) *readPump {
	return &readPump{conn: conn, readDone: make(chan struct{}, 1), bytesTaken: make(chan struct{}, 1), readerDone: make(chan struct{}), expired: make(chan struct{})}
}

// pump reads until conn fails.
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

// start starts the goroutine at the first use.
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

// end ends the goroutine once its read is done. Nobody reads any more.
func (p *readPump) End() { close(p.readerDone) }

// moveBytes moves bytes of the last read to d. Its error comes behind them.
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

// SetReadDeadline ends the reads in progress and all later ones when t has
// passed. The zero time is none.
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

// expire closes the channel of the deadline that set the timer, unless a later
// deadline has its own.
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
