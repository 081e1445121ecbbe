// The time limit of a handshake, which works on connections of any type.

package transport

import (
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// SilentTimeout is the time after this side's hello without a byte of the peer after
// which the peer counts as silent.
const SilentTimeout = time.Second

// A LimitedConn is a connection with a time limit for its handshake. A socket is limited
// by deadlines. Other connections may not support them, so they are also closed when
// the time limit has passed.
type LimitedConn struct {
	net.Conn
	innerConn    *LimitedConn // the connection below, if this one was returned by Upgrade
	isSocket     bool
	expired      atomic.Bool
	helloSentAt  atomic.Int64 // time of the first write in Unix nanoseconds, or 0
	dataReceived atomic.Bool

	mu        sync.Mutex
	timer     *time.Timer   // nil for a socket
	limitEnd  time.Time     // when the limit ends
	remaining time.Duration // of the limit, while it is paused
}

// Limit returns a LimitedConn for conn, without a limit so far.
func Limit(conn net.Conn) *LimitedConn {
	c := &LimitedConn{Conn: conn}
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		c.isSocket = true
	}
	return c
}

// Wrap returns a LimitedConn for conn, which Upgrade returned for c. Pausing it also
// pauses c.
func (c *LimitedConn) Wrap(conn net.Conn) *LimitedConn {
	over := Limit(conn)
	over.innerConn = c
	return over
}

// SetHelloSent sets whether the peer counts as having received a hello, from now on.
func (c *LimitedConn) SetHelloSent(sent bool) {
	at := int64(0)
	if sent {
		at = time.Now().UnixNano()
	}
	c.helloSentAt.Store(at)
}

// Expired reports whether the limit has passed, or Expire was called.
func (c *LimitedConn) Expired() bool { return c.expired.Load() }

// SetLimit makes the handshake fail after d.
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

// Pause stops the time of the limit, while the peer waits for this side.
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

// Resume continues the time of the limit after Pause.
func (c *LimitedConn) Resume() {
	for ; c != nil; c = c.innerConn {
		c.mu.Lock()
		if !c.expired.Load() {
			c.setLimitLocked(c.remaining)
		}
		c.mu.Unlock()
	}
}

// Expire makes the handshake fail now.
func (c *LimitedConn) Expire() {
	c.expired.Store(true)
	c.Conn.SetDeadline(Past)
	if !c.isSocket {
		c.Conn.Close()
	}
}

// Release removes the limit. It returns false if the limit has passed.
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

// forEachLayer calls f for this connection and for the ones below it.
func (c *LimitedConn) forEachLayer(f func(*LimitedConn)) {
	for ; c != nil; c = c.innerConn {
		f(c)
	}
}

// Silent reports whether the peer has sent nothing for SilentTimeout after this side's
// hello.
func (c *LimitedConn) Silent() bool {
	at := c.helloSentAt.Load()
	return at != 0 && !c.dataReceived.Load() && time.Since(time.Unix(0, at)) > SilentTimeout
}
