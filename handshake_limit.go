// A handshake on a connection of any type ends in time, and when it is told to.

package gipc

import (
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const silentAfter = time.Second // without a byte after our hello a peer is silent

// A limitedConn is a connection during its handshake. A socket is limited by
// deadlines. Any other connection may lack them, so it is also closed when its
// time has passed.
type limitedConn struct {
	net.Conn
	under   *limitedConn // what Upgrade was given, if this is what it returned
	socket  bool
	peer    Peer
	user    int // of a foreign user on a unix socket, else -1
	expired atomic.Bool
	greeted atomic.Int64 // when something was written first, in Unix nanoseconds
	heard   atomic.Bool  // something has come

	mu    sync.Mutex
	timer *time.Timer   // nil for a socket
	until time.Time     // when the limit ends
	left  time.Duration // of the limit, while it is paused
}

func limitConn(conn net.Conn) *limitedConn {
	c := &limitedConn{Conn: conn, user: -1}
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		c.socket = true
	}
	return c
}

// limit ends the handshake after d.
func (c *limitedConn) limit(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limitLocked(d)
}

func (c *limitedConn) limitLocked(d time.Duration) {
	c.until = time.Now().Add(d)
	c.Conn.SetDeadline(c.until)
	switch {
	case c.socket:
	case c.timer != nil:
		c.timer.Reset(d)
	default:
		c.timer = time.AfterFunc(d, c.expire)
	}
}

// pause stops the clock of the limit, while the peer waits for this side.
func (c *limitedConn) pause() {
	for ; c != nil; c = c.under {
		c.mu.Lock()
		c.left = time.Until(c.until)
		if c.timer != nil {
			c.timer.Stop()
		}
		c.mu.Unlock()
	}
}

// resume has the clock go on.
func (c *limitedConn) resume() {
	for ; c != nil; c = c.under {
		c.mu.Lock()
		if !c.expired.Load() {
			c.limitLocked(c.left)
		}
		c.mu.Unlock()
	}
}

// expire ends the handshake now.
func (c *limitedConn) expire() {
	c.expired.Store(true)
	c.Conn.SetDeadline(past)
	if !c.socket {
		c.Conn.Close()
	}
}

// release ends the limit. It returns false if the handshake has been ended.
func (c *limitedConn) release() bool {
	c.mu.Lock()
	if c.timer != nil {
		c.timer.Stop()
	}
	c.mu.Unlock()
	c.Conn.SetDeadline(time.Time{})
	return !c.expired.Load()
}

func (c *limitedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.note(func(c *limitedConn) { c.heard.Store(true) })
	}
	return n, c.result(err)
}

func (c *limitedConn) Write(b []byte) (int, error) {
	c.note(func(c *limitedConn) { c.greeted.CompareAndSwap(0, time.Now().UnixNano()) })
	n, err := c.Conn.Write(b)
	return n, c.result(err)
}

func (c *limitedConn) result(err error) error {
	if err != nil && c.expired.Load() {
		return os.ErrDeadlineExceeded
	}
	return err
}

// note applies f to this connection and to the one under it.
func (c *limitedConn) note(f func(*limitedConn)) {
	for ; c != nil; c = c.under {
		f(c)
	}
}

// silent reports whether the peer has had our hello for a while and nothing of it
// has come.
func (c *limitedConn) silent() bool {
	at := c.greeted.Load()
	return at != 0 && !c.heard.Load() && time.Since(time.Unix(0, at)) > silentAfter
}
