// A handshake on a connection of any type ends in time, and when it is told to.

package transport

import (
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// SilentTimeout is how long a peer may send nothing after our hello before it counts
// as silent.
const SilentTimeout = time.Second

// A LimitedConn is a connection during its handshake. A socket is limited by
// deadlines. Any other connection may lack them, so it is also closed when its
// time has passed.
type LimitedConn struct {
	net.Conn
	innerConn    *LimitedConn // what Upgrade was given, if this is what it returned
	isSocket     bool
	expired      atomic.Bool
	helloSentAt  atomic.Int64 // when something was written first, in Unix nanoseconds
	dataReceived atomic.Bool  // something has come

	mu        sync.Mutex
	timer     *time.Timer   // nil for a socket
	limitEnd  time.Time     // when the limit ends
	remaining time.Duration // of the limit, while it is paused
}

// Limit returns conn with no limit yet.
func Limit(conn net.Conn) *LimitedConn {
	c := &LimitedConn{Conn: conn}
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		c.isSocket = true
	}
	return c
}

// Wrap returns a connection that conn, made by Upgrade, carries over c. To pause it
// pauses c, too.
func (c *LimitedConn) Wrap(conn net.Conn) *LimitedConn {
	over := Limit(conn)
	over.innerConn = c
	return over
}

// SetHelloSent says that the peer has had a hello, or that it has not.
func (c *LimitedConn) SetHelloSent(greeted bool) {
	at := int64(0)
	if greeted {
		at = time.Now().UnixNano()
	}
	c.helloSentAt.Store(at)
}

// Expired reports whether the handshake has been ended.
func (c *LimitedConn) Expired() bool { return c.expired.Load() }

// SetLimit ends the handshake after d.
func (c *LimitedConn) SetLimit(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setLimitLocked(d)
}

func (c *LimitedConn) setLimitLocked(d time.Duration) {
	c.limitEnd = time.Now().Add(d)
	c.Conn.SetDeadline(c.limitEnd)
	switch {
	case c.isSocket:
	case c.timer != nil:
		c.timer.Reset(d)
	default:
		c.timer = time.AfterFunc(d, c.Expire)
	}
}

// Pause stops the clock of the limit, while the peer waits for this side.
func (c *LimitedConn) Pause() {
	for ; c != nil; c = c.innerConn {
		c.mu.Lock()
		c.remaining = time.Until(c.limitEnd)
		if c.timer != nil {
			c.timer.Stop()
		}
		c.mu.Unlock()
	}
}

// Resume has the clock go on.
func (c *LimitedConn) Resume() {
	for ; c != nil; c = c.innerConn {
		c.mu.Lock()
		if !c.expired.Load() {
			c.setLimitLocked(c.remaining)
		}
		c.mu.Unlock()
	}
}

// Expire ends the handshake now.
func (c *LimitedConn) Expire() {
	c.expired.Store(true)
	c.Conn.SetDeadline(Past)
	if !c.isSocket {
		c.Conn.Close()
	}
}

// Release ends the limit. It returns false if the handshake has been ended.
func (c *LimitedConn) Release() bool {
	c.mu.Lock()
	if c.timer != nil {
		c.timer.Stop()
	}
	c.mu.Unlock()
	c.Conn.SetDeadline(time.Time{})
	return !c.expired.Load()
}

func (c *LimitedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.forEachLayer(func(c *LimitedConn) { c.dataReceived.Store(true) })
	}
	return n, c.result(err)
}

func (c *LimitedConn) Write(b []byte) (int, error) {
	c.forEachLayer(func(c *LimitedConn) { c.helloSentAt.CompareAndSwap(0, time.Now().UnixNano()) })
	n, err := c.Conn.Write(b)
	return n, c.result(err)
}

func (c *LimitedConn) result(err error) error {
	if err != nil && c.expired.Load() {
		return os.ErrDeadlineExceeded
	}
	return err
}

// forEachLayer applies f to this connection and to the one under it.
func (c *LimitedConn) forEachLayer(f func(*LimitedConn)) {
	for ; c != nil; c = c.innerConn {
		f(c)
	}
}

// Silent reports whether the peer has had our hello for a while and nothing of it
// has come.
func (c *LimitedConn) Silent() bool {
	at := c.helloSentAt.Load()
	return at != 0 && !c.dataReceived.Load() && time.Since(time.Unix(0, at)) > SilentTimeout
}
