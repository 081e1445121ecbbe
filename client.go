// The end that dials: the first connection and every later one come from the
// same loop.

package gipc

import (
	"context"
	"crypto/ecdh"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"time"

	"example.com/gipc/internal/sys"
)

const (
	helloTime  = 10 * time.Second // for each message of a handshake
	firstPause = time.Millisecond // before the second try
)

// Client is the end of a connection that dials. It redials by itself after
// every loss. Its methods are safe for concurrent use.
type Client struct {
	end
	// The dial loop's:
	pause time.Duration // before the next try
	made  uint64        // connections
}

// StartClient connects to a server and returns when messages can flow. It retries
// with exponential backoff up to RetryTimer, for Timeout or, if that is 0,
// forever; use [StartClientContext] to be able to give up.
//
// On an error the client is nil and nothing is left behind. What cannot succeed
// ends at once: ErrConfig, ErrVersion, ErrEncryption, ErrSecret (also for
// another name), ErrUntrustedServer, and ErrRefused by the server's Authorize.
// ErrTimeout wraps the cause of the last failure.
func StartClient(config *ClientConfig) (*Client, error) {
	return StartClientContext(context.Background(), config)
}

// StartClientContext is StartClient until ctx ends. ctx governs connecting
// alone: the client that is returned outlives it.
func StartClientContext(ctx context.Context, config *ClientConfig) (*Client, error) {
	set, err := config.settings()
	if err != nil {
		return nil, err
	}
	c := new(Client)
	c.init(set, new(bufferPool))
	c.life, c.quit = context.WithCancel(context.Background())
	c.redial = c.reconnect
	c.mu.Lock()
	c.sayLocked(Connecting, nil)
	c.mu.Unlock()
	if err := c.connect(ctx, true); err != nil {
		c.quit()
		return nil, err
	}
	return c, nil
}

// Close is Shutdown with a 5-second limit. Unlike net.Conn's it is graceful: it
// returns nil when the peer has received every message that was written since
// the last Connected. Reads in progress end at once, with the complete messages
// that this process holds, one message Closed, and then ErrClosed. Where the
// peer's application does not read, its library does after a second, up to 64 KiB;
// with more than that on the way Close takes its 5 seconds and fails.
//
// The error is ErrNotConnected: what was written since then may not have arrived.
// Where that connection is over, and a read has told of it, Close does not tell
// again; of earlier ones it says nothing, so a program that does not read compares
// ID. The client is closed all the same. A second call waits for the first and
// returns nil whatever that returned.
func (c *Client) Close() error { return c.shutdown(context.Background(), byeUser) }

// Shutdown closes the client as Close does, for as long as ctx allows, and at
// most 5 seconds where ctx has no deadline. With a context that has ended it
// cuts the connection at once. Its errors are those of Close, or wrap that of
// ctx; the client is closed all the same.
func (c *Client) Shutdown(ctx context.Context) error { return c.shutdown(ctx, byeUser) }

// reconnect seeks the connection that follows l.
func (c *Client) reconnect(l *link) {
	defer c.wg.Done()
	if time.Since(l.born) > c.set.retry {
		c.pause = 0
	}
	if err := c.connect(c.life, false); err != nil && c.life.Err() == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.sayLocked(Timeout, err) != nil {
			c.finishLocked(err)
		}
		c.set.log.Error("gave up", "name", c.set.name, "err", err)
	}
}

// connect tries until there is a connection, or no hope, or no time.
func (c *Client) connect(ctx context.Context, first bool) error {
	limited := ctx
	if c.set.timeout > 0 {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, c.set.timeout)
		defer cancel()
	}
	var last error
	for {
		if c.pause > 0 {
			select {
			case <-time.After(c.pause/2 + rand.N(c.pause/2+1)):
			case <-limited.Done():
			}
		}
		switch {
		case ctx.Err() != nil:
			return fail(contextError("connect", ctx), last, "")
		case limited != ctx && limited.Err() != nil && c.set.timeout < time.Millisecond:
			return fail(ErrTimeout, last, "no connection within Timeout, which is %v: for seconds multiply by time.Second", c.set.timeout)
		case limited != ctx && limited.Err() != nil:
			return fail(ErrTimeout, last, "no connection within %v", c.set.timeout)
		}
		c.pause = min(max(2*c.pause, firstPause), c.set.retry)
		l, err := c.dial(limited)
		if err == nil {
			if c.attach(l) {
				return nil
			}
			l.conn.Close()
			return ErrClosed
		}
		level := slog.LevelDebug
		switch {
		case hopeless(err) && first:
			return err
		case hopeless(err):
			level = slog.LevelWarn
		case last == nil: // the next ones say the same
			level = slog.LevelInfo
		}
		c.set.log.Log(ctx, level, "not connected; trying on", "name", c.set.name, "err", err)
		// A dial ends at the deadline, perhaps before the context does.
		if end, ok := limited.Deadline(); last == nil || limited.Err() == nil && (!ok || time.Now().Before(end)) {
			if last = err; ctx.Err() != nil && errors.Is(err, ErrTimeout) {
				last = errors.New(bare(err)) // it was ctx that ended the wait
			}
		}
	}
}

// hopeless says whether another try with the same configuration ends the same way.
func hopeless(err error) bool {
	kinds := []error{ErrConfig, ErrVersion, ErrEncryption, ErrSecret, ErrUntrustedServer}
	reason, _ := refusalReason(err)
	return reason == reasonUnauthorized || slices.ContainsFunc(kinds, func(kind error) bool { return errors.Is(err, kind) })
}

// dial makes one connection.
func (c *Client) dial(ctx context.Context) (*link, error) {
	conn, err := c.set.connect(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	cut := c.cutLocked()
	c.mu.Unlock()
	// The context sets its end first and the deadline then; here the deadline
	// comes first.
	hurry := func() { conn.SetDeadline(c.set.leaveBy()) }
	defer context.AfterFunc(ctx, hurry)()
	defer context.AfterFunc(cut, func() { conn.Close() })()
	await := func() {
		conn.SetDeadline(time.Now().Add(helloTime))
		if ctx.Err() != nil {
			hurry()
		}
	}
	await()
	key := newKey
	if c.set.encrypt { // made while the server makes its own
		private, err := newKey()
		key = func() (*ecdh.PrivateKey, error) { return private, err }
	}
	var s *session
	hello, err := clientHello(conn, &c.set.terms, key)
	if err == nil {
		await()
		s, err = hello.finish()
	}
	if err == nil {
		conn.SetDeadline(time.Time{})
		if err = ctx.Err(); err == nil {
			c.made++
			return c.newLink(conn, c.set.serverOf(conn), s, c.made), nil
		}
	}
	if reason, byPeer := refusalReason(err); reason != 0 && !byPeer || s != nil && s.version == version2 {
		closeSlowly(conn, time.Now().Add(drainTime), false) // the server has yet to read what was written last
	}
	conn.Close()
	return nil, fail(fmt.Errorf(errorPrefix+"%s %s", c.set.network, c.set.address), err, "")
}

// newLink is the connection with peer that a handshake has agreed on.
func (e *end) newLink(conn net.Conn, peer Peer, s *session, id uint64) *link {
	l := &link{conn: conn, raw: sys.RawConn(conn), peer: peer, id: id, version: s.version, limit: e.set.limit,
		busy: e.set.busyPoll, born: time.Now(), pool: e.pool, cipher: s.in, leave: &e.leave, heartbeat: e.set.heartbeatFor(conn)}
	if len(s.rest) > 0 {
		l.in = e.pool.get(len(s.rest))
		l.in.b = append(l.in.b, s.rest...)
	}
	if l.version == version2 {
		l.limit = min(l.limit, s.limit)
	}
	l.init()
	l.send = sender{version: s.version, limit: s.limit, pool: e.pool, wg: &e.wg, cipher: s.out}
	l.send.init(conn, l.raw, func() { e.stalled(l) })
	l.send.broke = func(err error) { e.doom(l, err, drainTime) }
	if l.heartbeat > 0 {
		l.send.heard = l.hear
	}
	return l
}
