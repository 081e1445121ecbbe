// The end that accepts: the listener, the handshakes on their way, and the
// server of one client. What serves many is in multi.go.

package gipc

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"example.com/gipc/internal/transport"
)

const (
	maxPending       = 4096             // handshakes on their way
	maxForeign       = maxPending / 4   // of them for one user on a unix socket who is neither root nor the server's own
	handshakeTimeout = 10 * time.Second // for a handshake
	firstAcceptDelay = 5 * time.Millisecond
	maxAcceptDelay   = time.Second
)

// A Server accepts connections. Without MultiClient it is also the server's
// endpoint of its one connection. With MultiClient, each client is represented by a
// *Server obtained from Connections; the top-level server has nobody to read from or
// write to, and those calls return ErrMultiClient. Its methods are safe for
// concurrent use.
type Server struct {
	endpoint
	Connections   *ConnectionPool // the clients; never nil
	listenerState *listenerState  // nil for a client of a multi-client server
	poolMember    poolMember      // guarded by the lock of Connections
}

// A listenerState is what a server has and a single connection has not.
type listenerState struct {
	listener       net.Listener
	stopOnce       sync.Once
	acceptDone     chan struct{}  // is closed when the accept loop has ended
	handshakes     sync.WaitGroup // the handshakes
	refusedCount   atomic.Uint64
	lastID         atomic.Uint64
	listenerClosed chan struct{} // is closed when the listener is

	computeSlots chan struct{} // has a place for each handshake that may compute at once

	mu            sync.Mutex
	pendingConns  map[*pendingConn]bool
	foreignCounts map[int]int // how many of them another user has
	foreignLimit  int         // of these; tests lower it
	slotChanged   *sync.Cond  // pending has changed, or the server ends, or a time has passed
}

// A pendingConn is a connection whose handshake is on its way.
type pendingConn struct {
	*transport.LimitedConn
	peer        Peer
	foreignUser int // of a foreign user on a unix socket, else -1
}

func newListenerState(listener net.Listener) *listenerState {
	h := &listenerState{listenerClosed: make(chan struct{}), acceptDone: make(chan struct{}), listener: listener, pendingConns: map[*pendingConn]bool{}, foreignCounts: map[int]int{}, foreignLimit: maxForeign, computeSlots: make(chan struct{}, runtime.GOMAXPROCS(0))}
	h.slotChanged = sync.NewCond(&h.mu)
	return h
}

// StartServer listens and returns when clients can connect. Without MultiClient
// it serves one client at a time: Read and Write talk to whoever is connected
// now, and any other client is refused meanwhile.
//
// On an error the server is nil and nothing is left behind: ErrConfig,
// ErrNameInUse when the name or the address is taken by a server that is alive,
// or the system's error.
func StartServer(config *ServerConfig) (*Server, error) {
	set, err := config.settings()
	if err != nil {
		return nil, err
	}
	listener, err := set.openListener()
	if err != nil {
		return nil, err
	}
	s := &Server{listenerState: newListenerState(listener)}
	_, onlyOne := listener.(*connListener)
	hooks := &endpointHooks{multiClient: set.multiClient, noReconnect: onlyOne && !set.multiClient}
	hooks.baseCtx, hooks.cancelBase = context.WithCancel(context.Background())
	s.init(set, new(bufferPool), hooks)
	s.Connections = newPool(s)
	s.mu.Lock()
	s.lifecycle.setStatus(Listening)
	s.mu.Unlock()
	go func() {
		defer close(s.listenerState.acceptDone)
		s.acceptLoop()
	}()
	s.settings.eventLog.Info("listening", "address", listener.Addr())
	return s, nil
}

// Close is Shutdown with a 5-second limit. Unlike net.Conn's it is graceful. It
// returns nil if the peers have received every message that was written since their
// last Connected, and no earlier loss is unreported. Reads in progress end at once:
// they return the complete messages that this process holds, one message Closed, and
// then ErrClosed. On a client of a multi-client server it ends that connection alone.
//
// The error is ErrUnconfirmed: messages may not have arrived. It matches
// ErrNotConnected if messages of Queue were lost. On a multi-client server the error
// joins one *ClientError for each client, connected or not read to the end, that may
// not have received everything. The server is closed all the same. A second call waits
// for the first and returns nil, whatever that returned.
func (s *Server) Close() error { return s.Shutdown(context.Background()) }

// Shutdown is like Close but waits as long as ctx allows, and at most 5 seconds if
// ctx has no deadline. If ctx is already done it closes the connections at once. Its
// errors are those of Close. They wrap that of ctx if it was done too early. The
// server is closed all the same, and its name is free.
func (s *Server) Shutdown(ctx context.Context) error {
	if err := checkContext(ctx); err != nil {
		return err
	}
	if s.listenerState == nil {
		return s.shutdown(ctx, closedByUser)
	}
	ctx, cancel := withDefaultTimeout(ctx, closeTimeout)
	defer cancel()
	s.stopListening(ctx)
	err := errors.Join(s.Connections.shutdown(ctx), s.shutdown(ctx, closedByShutdown))
	settled := make(chan struct{})
	go func() {
		s.listenerState.handshakes.Wait()
		close(settled)
	}()
	select {
	case <-settled:
	case <-time.After(abortTimeout): // an Authorize that does not return
	case <-ctx.Done():
	}
	s.settings.eventLog.EndRepeats()
	s.settings.eventLog.Flush(ctx)
	return err
}

// Addr returns the address of the listener: with port 0 in Address, the port that
// the system has chosen. A client of a multi-client server returns that of its
// server.
func (s *Server) Addr() net.Addr {
	return s.Connections.server.listenerState.listener.Addr()
}

// Stats returns the totals of this endpoint. Those of a multi-client server are the
// sums over all clients that it ever had.
func (s *Server) Stats() Stats {
	total := s.endpoint.Stats()
	if s.listenerState != nil {
		total.Refused += s.listenerState.refusedCount.Load()
		s.Connections.addStats(&total)
	}
	return total
}

// stopListening ends the listening, which frees the name, and the handshakes. The Close of a
// user's listener may block, and is awaited for a moment.
func (s *Server) stopListening(ctx context.Context) {
	h := s.listenerState
	h.stopOnce.Do(func() {
		s.hooks.cancelBase()
		if s.settings.listener == nil {
			h.listener.Close()
			close(h.listenerClosed)
		} else {
			go func() {
				h.listener.Close()
				close(h.listenerClosed)
			}()
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		for conn := range h.pendingConns {
			h.removePendingLocked(conn)
			go conn.Conn.Close() // it may be the user's
		}
		h.slotChanged.Broadcast()
	})
	if s.settings.listener == nil {
		<-h.acceptDone // at once: the socket is closed when Accept has returned
		return
	}
	late := time.NewTimer(abortTimeout) // the methods of a user's listener may block
	defer late.Stop()
	for _, done := range []chan struct{}{h.listenerClosed, h.acceptDone} {
		select {
		case <-done:
		case <-late.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// acceptLoop hands every connection to a handshake of its own. Errors that may pass,
// such as too many open files, slow it down and do not end it.
func (s *Server) acceptLoop() {
	h := s.listenerState
	for pause := time.Duration(0); ; {
		conn, err := h.listener.Accept()
		switch {
		case s.hooks.baseCtx.Err() != nil:
			if conn != nil {
				conn.Close()
			}
			return
		case err == nil && conn == nil:
			err = errors.New("Accept returned neither a connection nor an error")
		case err == nil:
			pause = 0
			if slot := s.trackPending(conn); slot != nil {
				h.handshakes.Go(func() { s.serveHandshake(slot) })
			}
			continue
		case errors.Is(err, net.ErrClosed):
			s.endAccepting(err)
			return
		}
		h.refusedCount.Add(1)
		pause = min(max(2*pause, firstAcceptDelay), maxAcceptDelay)
		s.settings.eventLog.Warn("accept failed; retrying", "err", err, "pause", pause)
		select {
		case <-time.After(pause):
		case <-s.hooks.baseCtx.Done():
		}
	}
}

// endAccepting ends a server whose listener somebody else has closed. A client
// that is connected stays.
func (s *Server) endAccepting(err error) {
	s.settings.eventLog.Err("accept failed for good", "err", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.announceStatusLocked(&Message{Err: err}, Error) {
		s.setFinalErrLocked(fail(ErrClosed, err, "the listener does not accept any more"))
	}
	s.hooks.noReconnect = true
}

// trackPending gives a handshake a slot. If there is none, a silent peer gives up its own;
// if nobody is silent, enter waits, and nobody else is accepted meanwhile. A peer
// that has sent something keeps its slot. One user on a unix socket cannot take the
// slots of all others: enter returns nil for a connection of a user who has too many.
func (s *Server) trackPending(conn net.Conn) *pendingConn {
	h := s.listenerState
	peer := peerOfConn(conn)
	limited := &pendingConn{transport.Limit(conn), peer, foreignUser(peer)}
	h.mu.Lock()
	defer h.mu.Unlock()
	if limited.foreignUser >= 0 && h.foreignCounts[limited.foreignUser] >= h.foreignLimit {
		h.refusedCount.Add(1)
		s.settings.eventLog.WarnRepeated("handshakes of one user", "connection rejected", "user", limited.foreignUser, "err", "this user has too many unfinished handshakes")
		if s.settings.upgradeFunc == nil {
			writeRefusal(conn, reasonBusy) // into an empty buffer
		}
		conn.Close()
		return nil
	}
	for len(h.pendingConns) >= maxPending && s.hooks.baseCtx.Err() == nil && !h.evictSilentLocked() {
		timer := time.AfterFunc(transport.SilentTimeout/10, h.slotChanged.Broadcast)
		h.slotChanged.Wait()
		timer.Stop()
	}
	if s.hooks.baseCtx.Err() != nil {
		conn.Close()
	}
	h.pendingConns[limited] = true
	if limited.foreignUser >= 0 {
		h.foreignCounts[limited.foreignUser]++
	}
	return limited
}

// foreignUser returns the user at the other end of a unix socket, or -1 if that is
// root or the server's own, or not known.
func foreignUser(peer Peer) int {
	if !peer.Known || peer.UID == 0 || peer.UID == os.Geteuid() {
		return -1
	}
	return peer.UID
}

// removePendingLocked takes a slot back, and reports whether the handshake had it.
func (h *listenerState) removePendingLocked(conn *pendingConn) bool {
	if !h.pendingConns[conn] {
		return false
	}
	delete(h.pendingConns, conn)
	if conn.foreignUser >= 0 {
		if h.foreignCounts[conn.foreignUser]--; h.foreignCounts[conn.foreignUser] == 0 {
			delete(h.foreignCounts, conn.foreignUser)
		}
	}
	return true
}

// evictSilentLocked closes a silent peer, and reports whether there is one.
func (h *listenerState) evictSilentLocked() bool {
	for conn := range h.pendingConns {
		if conn.Silent() {
			h.removePendingLocked(conn)
			go conn.Conn.Close()
			return true
		}
	}
	return false
}

// untrackPending gives the slot up. It returns false if it was taken, and the connection
// closed with it.
func (s *Server) untrackPending(conn *pendingConn) bool {
	h := s.listenerState
	h.mu.Lock()
	defer h.mu.Unlock()
	defer h.slotChanged.Broadcast()
	return h.removePendingLocked(conn)
}

// serveHandshake takes one connection through the handshake, in at most greetTime
// altogether, and admits it.
func (s *Server) serveHandshake(limited *pendingConn) {
	defer s.untrackPending(limited)
	pool := s.Connections
	limited.SetLimit(handshakeTimeout)
	admitted := false
	opened, agreed, err := s.handshake(limited, func() byte {
		if admitted = pool.reserveSlot(true); !admitted {
			return reasonBusy
		}
		return 0
	})
	if open := limited.Release(); err == nil && open && s.untrackPending(limited) {
		pool.admitClient(opened, agreed)
		return
	}
	if admitted {
		pool.releaseSlot()
	}
	s.listenerState.refusedCount.Add(1)
	s.settings.eventLog.WarnRepeated(rejectionCause(err), "connection rejected", "peer", loggedPeer(limited.peer), "err", err)
	lingerAndClose(opened.stream)
	if s.hooks.noReconnect {
		s.endAccepting(fail(ErrClosed, err, "the only connection was rejected"))
	}
}

// rejectionCause returns what rejections are counted by in the log: the reason of a
// refusal, or the kind of another error.
func rejectionCause(err error) string {
	if reason, _ := refusalReason(err); reason != 0 {
		text, _ := refusalAdvice(reason)
		return text
	}
	for _, kind := range []error{ErrTruncated, ErrTimeout, ErrConfig} {
		if errors.Is(err, kind) {
			return kind.Error()
		}
	}
	return "another error"
}

// handshake is the server's part, Authorize and Upgrade included.
func (s *Server) handshake(pending *pendingConn, admit func() byte) (*openedConn, *session, error) {
	conn := pending.LimitedConn
	opened := &openedConn{dialedServer{conn: conn.Conn, peer: pending.peer}, conn.Conn}
	if err := checkStream(conn.Conn); err != nil {
		return opened, nil, err
	}
	if ask := s.settings.authorizeFunc; ask != nil {
		if err := ask(opened.peer); err != nil {
			if s.settings.upgradeFunc == nil { // else the peer does not expect our bytes yet
				writeRefusal(conn, reasonUnauthorized)
			}
			return opened, nil, &refusal{fail(ErrRefused, err, "Authorize"), reasonUnauthorized, false}
		}
	}
	if s.settings.upgradeFunc != nil {
		conn.SetHelloSent(true) // what comes in Upgrade is not seen here
		over, err := callUpgrade(s.settings.upgradeFunc, conn.Conn)
		conn.SetHelloSent(false)
		if err != nil {
			return opened, nil, err
		}
		opened.stream = over
		conn = conn.Wrap(over)
		conn.SetLimit(handshakeTimeout)
		defer conn.Release()
	}
	if !s.Connections.reserveSlot(false) {
		writeRefusal(conn, reasonBusy)
		return opened, nil, &refusal{fail(ErrRefused, nil, "client limit reached: see MultiClient and MaxClients in ServerConfig"), reasonBusy, false}
	}
	work := func(f func() error) error { return s.computeInTurn(conn, f) }
	agreed, err := serverHandshake(conn, &s.settings.handshakeConfig, serverSide{newKey: newECDHKey, admit: admit, compute: work})
	if err == nil {
		opened.peer.Identity = agreed.identity
	}
	return opened, agreed, err
}

// computeInTurn does what takes processor time in a handshake. As many handshakes compute
// at once as there are processors. The others wait in the order in which they came,
// as the channel serves them, and the peer's time stops while they wait.
func (s *Server) computeInTurn(conn *transport.LimitedConn, f func() error) error {
	select {
	case s.listenerState.computeSlots <- struct{}{}: // no wait, so no deadline has to move
	default:
		if err := s.awaitComputeSlot(conn); err != nil {
			return err
		}
	}
	defer func() { <-s.listenerState.computeSlots }()
	return f()
}

func (s *Server) awaitComputeSlot(conn *transport.LimitedConn) error {
	conn.Pause()
	defer conn.Resume()
	select {
	case s.listenerState.computeSlots <- struct{}{}:
		return nil
	case <-s.hooks.baseCtx.Done():
		return ErrClosed
	}
}
