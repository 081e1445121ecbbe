// The client: its dial loop, which makes the first connection and every later one.

package gipc

import (
	"context"
	"crypto/ecdh"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"time"

	"example.com/gipc/internal/transport"
)

const (
	helloTimeout    = 30 * time.Second // for each message of the server, which may have to serve thousands of clients first
	firstRetryDelay = time.Millisecond // before the second attempt
	warnDelay       = 10 * time.Second // without a connection before a warning is logged
)

// A Client is the dialing side of a connection. It reconnects automatically. Its
// methods are safe for concurrent use.
type Client struct {
	endpoint
	// The fields below belong to the dial loop.
	retryDelay time.Duration   // before the next attempt
	retryStart time.Time       // of the attempts for the next connection
	waitWarned bool            // a warning was logged since retryStart, because it takes long
	connCount  uint64          // connections so far
	hungDial   <-chan struct{} // closed when a Dial or Upgrade that took too long has returned; nil without one
}

// StartClient connects to a server and returns when messages can flow. It retries
// with exponential backoff up to RetryTimer, for Timeout or, if that is 0,
// forever; use [StartClientContext] to be able to give up.
//
// On error the returned client is nil and all resources are released. Permanent
// errors are returned immediately: ErrConfig, ErrVersion, ErrEncryption, ErrSecret
// (also if the names differ), ErrRefused if the server's Authorize refused the client,
// and, if Address names a socket, ErrUntrustedServer and fs.ErrPermission. After Timeout the error is ErrTimeout, wrapping the
// last dial error.
func StartClient(config *ClientConfig) (*Client, error) {
	return StartClientContext(context.Background(), config)
}

// StartClientContext is like StartClient but gives up, with an error wrapping
// ctx.Err(), when ctx is done. ctx does not affect the returned client.
func StartClientContext(ctx context.Context, config *ClientConfig) (*Client, error) {
	set, err := config.settings()
	if err == nil {
		err = checkContext(ctx)
	}
	if err != nil {
		return nil, err
	}
	c := new(Client)
	hooks := &endpointHooks{reconnect: c.reconnect}
	hooks.baseCtx, hooks.cancelBase = context.WithCancel(context.Background())
	c.init(set, new(bufferPool), hooks)
	c.mu.Lock()
	c.announceStatusLocked(&Message{}, Connecting)
	c.mu.Unlock()
	if err := c.connectWithRetry(ctx, true); err != nil {
		hooks.cancelBase()
		return nil, err
	}
	return c, nil
}

// Close closes the client gracefully, within 5 seconds. It returns nil if the peer
// process has received every message that was written since the last Connected, and
// no loss of an earlier connection is unreported. Reads in progress end at once: they
// return the complete messages that have arrived, one message Closed, and then
// ErrClosed. If the peer's application does not read, its library receives up to 64
// KiB, after a second; if more is in transit Close returns ErrUnconfirmed after 5 seconds.
//
// The error is ErrUnconfirmed if messages may not have arrived. It also matches
// ErrNotConnected if messages of Queue were lost. The client is closed even if Close
// returns an error. A concurrent or later call waits for the first one and returns
// nil.
func (c *Client) Close() error { return c.shutdown(context.Background(), closedByUser) }

// Shutdown is like Close but waits until ctx is done, and at most 5 seconds if ctx
// has no deadline. If ctx is already done it closes the connection at once. Its
// errors are those of Close, wrapping ctx.Err() if ctx was done too early. The client
// is closed even if Shutdown returns an error.
func (c *Client) Shutdown(ctx context.Context) error { return c.shutdown(ctx, closedByUser) }

// reconnect makes the next connection after the given one was lost. If that fails it
// sets the final status and error.
func (c *Client) reconnect(lost *connection) {
	defer c.goroutines.Done()
	if time.Since(lost.heartbeat.startTime) > c.settings.maxRetryDelay {
		c.retryDelay = 0
	}
	err := c.connectWithRetry(c.hooks.baseCtx, false)
	if err == nil || c.hooks.baseCtx.Err() != nil {
		return
	}
	status := Timeout
	if isPermanentDialError(err) {
		status = Error
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.announceStatusLocked(&Message{Err: err}, status) {
		if status == Error {
			err = newError(ErrClosed, err, "Dial has no further connection")
		}
		c.setFinalErrLocked(err)
	}
	c.settings.eventLog.Err("connecting ended", "err", err)
}

// connectWithRetry makes attempts until one succeeds, until one fails permanently, or
// until ctx is done or Timeout has passed. first is set before the first connection,
// when more errors are permanent.
func (c *Client) connectWithRetry(ctx context.Context, first bool) error {
	c.retryStart, c.waitWarned = time.Now(), false
	limited := ctx
	if c.settings.totalTimeout > 0 {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, c.settings.totalTimeout)
		defer cancel()
	}
	for {
		c.awaitRetryDelay(limited)
		if err := c.giveUpReason(ctx, limited); err != nil {
			return err
		}
		c.retryDelay = min(max(2*c.retryDelay, firstRetryDelay), c.settings.maxRetryDelay)
		made, err := c.connectUnlessAbsent(limited)
		if err == nil {
			if c.attachConnection(made) {
				return nil
			}
			closeTransport(ctx, made.netConn)
			return ErrClosed
		}
		if isPermanentDialError(err) {
			return c.withLastCause(err)
		}
		if first && isPermanent(err) {
			return err
		}
		c.noteFailedAttempt(ctx, limited, err)
	}
}

// withLastCause adds the error of the attempt before to a permanent error of Dial, which
// does not have the cause of the last failure.
func (c *Client) withLastCause(err error) error {
	last := c.lastDialError()
	if last == nil {
		return err
	}
	return fmt.Errorf("%w; the attempt before: %w", err, last)
}

// awaitRetryDelay waits for the delay between two attempts, with jitter.
func (c *Client) awaitRetryDelay(ctx context.Context) {
	if c.retryDelay == 0 {
		return
	}
	timer := time.NewTimer(c.retryDelay/2 + rand.N(c.retryDelay/2+1))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// giveUpReason returns why no further attempt is made, wrapping the error of the last
// one, or nil.
func (c *Client) giveUpReason(ctx, limited context.Context) error {
	last := c.lastDialError()
	switch timeout := c.settings.totalTimeout; {
	case ctx.Err() != nil:
		return newError(contextError("connect", ctx), last, "")
	case limited == ctx || limited.Err() == nil:
		return nil
	case timeout < time.Millisecond:
		return newError(ErrTimeout, last, "no connection within Timeout, which is %v: for seconds multiply by time.Second", timeout)
	default:
		return newError(ErrTimeout, last, "no connection within %v", timeout)
	}
}

// noteFailedAttempt logs a failed attempt. It keeps its error as dialErr, except if the
// attempt failed only because the time was over. The first attempts log Info and then
// Debug; one of them logs a warning after 10 s.
func (c *Client) noteFailedAttempt(ctx, limited context.Context, err error) {
	c.mu.Lock()
	last := c.lifecycle.dialErr
	end, hasEnd := limited.Deadline() // a dial may end at the deadline before limited is done
	if last == nil || limited.Err() == nil && (!hasEnd || time.Now().Before(end)) {
		c.lifecycle.dialErr = err
		if ctx.Err() != nil && errors.Is(err, ErrTimeout) {
			c.lifecycle.dialErr = errors.New(trimPrefix(err)) // no ErrTimeout: ctx has ended the wait
		}
	}
	c.mu.Unlock()
	events, waited := c.settings.eventLog, time.Since(c.retryStart)
	switch {
	case isPermanent(err), isForeignError(err):
		events.Warn("connection attempt failed; retrying", "err", err)
	case waited >= warnDelay && !c.waitWarned:
		c.waitWarned = true
		events.Warn("connection attempt failed; retrying", "err", err, "waited", waited.Round(time.Second))
	case last == nil:
		events.Info("connection attempt failed; retrying", "err", err)
	default: // an error was logged at a higher level before
		events.Debug("connection attempt failed; retrying", "err", err)
	}
}

// A permanentDialError is an error of Dial that wraps net.ErrClosed: there will be no
// further connection.
type permanentDialError struct{ error }

func (e *permanentDialError) Unwrap() error { return e.error }

func isPermanentDialError(err error) bool {
	var final *permanentDialError
	return errors.As(err, &final)
}

// isPermanent reports whether another attempt with the same configuration would fail
// with the same error.
func isPermanent(err error) bool {
	var attempt *attemptError
	if errors.As(err, &attempt) {
		return attempt.permanent
	}
	kinds := []error{ErrConfig, ErrVersion, ErrEncryption, ErrSecret, ErrUntrustedServer}
	reason, _ := refusalReason(err)
	return reason == reasonUnauthorized || slices.ContainsFunc(kinds, func(kind error) bool { return errors.Is(err, kind) })
}

// openConn makes one connection, ready for the handshake. Dial and Upgrade are user
// code, which may ignore ctx. When ctx is done, openConn returns, and a goroutine
// closes what they return later.
func (c *Client) openConn(ctx context.Context) (*openedConn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel() // not earlier: Upgrade's connection would look expired
	if c.settings.dialFunc == nil && c.settings.upgradeFunc == nil {
		return c.openAndUpgrade(ctx)
	}
	type result struct {
		opened *openedConn
		err    error
	}
	timeoutErr := newError(ErrTimeout, nil, "Dial or Upgrade did not return in time")
	if c.hungDial != nil { // one call at a time; otherwise each attempt would leave a goroutine
		select {
		case <-c.hungDial:
			c.hungDial = nil
		case <-ctx.Done():
			return nil, timeoutErr
		}
	}
	results := make(chan result, 1)
	go func() {
		opened, err := c.openAndUpgrade(ctx)
		results <- result{opened, err}
	}()
	select {
	case r := <-results:
		return r.opened, r.err
	case <-ctx.Done():
	}
	hung := make(chan struct{})
	c.hungDial = hung
	go func() {
		r := <-results
		close(hung)
		if r.err == nil {
			r.opened.stream.Close()
		}
	}()
	return nil, timeoutErr
}

func (c *Client) openAndUpgrade(ctx context.Context) (*openedConn, error) {
	server, err := c.settings.dialServer(ctx)
	if err != nil {
		if c.settings.dialFunc != nil && errors.Is(err, net.ErrClosed) {
			err = &permanentDialError{err}
		}
		return nil, err
	}
	conn := server.conn
	opened := &openedConn{*server, conn}
	if c.settings.upgradeFunc == nil {
		return opened, nil
	}
	limited := transport.Limit(conn)
	limited.SetLimit(helloTimeout)
	defer context.AfterFunc(ctx, limited.Expire)()
	if opened.stream, err = callUpgrade(c.settings.upgradeFunc, conn); err == nil && !limited.Release() {
		opened.stream.Close()
		err = contextError("upgrade", ctx)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return opened, nil
}

// callUpgrade calls the Upgrade of a config and checks its result.
func callUpgrade(upgrade func(net.Conn) (net.Conn, error), conn net.Conn) (net.Conn, error) {
	over, err := upgrade(conn)
	if err == nil && over == nil {
		err = errors.New("neither a connection nor an error")
	}
	if err != nil {
		return nil, fmt.Errorf(errorPrefix+"the config's Upgrade: %w", err)
	}
	return over, nil
}

// connectUnlessAbsent is like connectOnce, but after the first connection, and an attempt
// that found no socket and nothing else to report, it fails at once while there is none.
// Thousands of clients retry while their server restarts, and looking at the path takes a
// fifth of the time of an attempt.
func (c *Client) connectUnlessAbsent(ctx context.Context) (*connection, error) {
	if c.connCount > 0 && isPlainAbsence(c.lastDialError()) {
		if err := c.settings.absentError(); err != nil {
			return nil, err
		}
	}
	return c.connectOnce(ctx)
}

// connectOnce makes one attempt: it opens a connection and performs the handshake.
func (c *Client) connectOnce(ctx context.Context) (*connection, error) {
	opened, err := c.openConn(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	abort := c.lifecycle.abortContext()
	c.mu.Unlock()
	limited := transport.Limit(opened.stream)
	stop := context.AfterFunc(ctx, limited.Expire)
	stopAbort := context.AfterFunc(abort, limited.Expire)
	agreed, err := c.handshake(limited)
	stop()
	stopAbort()
	if open := limited.Release(); err == nil && !open {
		err = contextError("connect", ctx)
	}
	if err == nil {
		c.connCount++
		return c.newConnection(opened, agreed, c.connCount), nil
	}
	if reason, byPeer := refusalReason(err); reason != 0 && !byPeer {
		lingerAndClose(opened.stream) // closing at once could destroy the reason before the server has read it
	} else {
		closeTransport(ctx, opened.stream)
	}
	return nil, opened.handshakeError(c.settings, err)
}

// handshake performs the client's half of a handshake, within helloTimeout for each
// message of the server.
func (c *Client) handshake(conn *transport.LimitedConn) (*session, error) {
	conn.SetLimit(helloTimeout)
	key := newECDHKey
	if c.settings.encrypt { // make the key while the server makes its own
		private, err := newECDHKey()
		key = func() (*ecdh.PrivateKey, error) { return private, err }
	}
	hello, err := clientHello(conn, &c.settings.handshakeConfig, clientSide{newKey: key})
	if err != nil {
		return nil, err
	}
	if !conn.Expired() {
		conn.SetLimit(helloTimeout)
	}
	return hello.readFinish()
}
