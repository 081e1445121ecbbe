// The server: its listener, the handshakes in progress, and the one client of a
// server without MultiClient. multi.go serves many clients.

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
	maxPending       = 4096             // handshakes in progress
	maxForeign       = maxPending / 4   // of them for one user on a unix socket, except root and the server's own
	handshakeTimeout = 10 * time.Second // for a whole handshake
	firstAcceptDelay = 5 * time.Millisecond
	maxAcceptDelay   = time.Second
)

// A Server accepts connections. Without MultiClient it is also the server's
// endpoint of its one connection. With MultiClient, each client is represented by a
// *Server obtained from Connections; the methods of the top-level server that read or
// write return ErrMultiClient. Its methods are safe for concurrent use.
type Server struct {
	endpoint
	Connections   *ConnectionPool // the set of clients; never nil
	listenerState *listenerState  // nil for a client of a multi-client server
	poolMember    poolMember      // guarded by the lock of Connections
}

// A listenerState is the part of a server that accepts: its listener and the handshakes
// in progress.
type listenerState struct {
	listener       net.Listener
	stopOnce       sync.Once
	acceptDone     chan struct{}  // closed when the accept loop has ended
	handshakes     sync.WaitGroup // goroutines of the handshakes in progress
	refusedCount   atomic.Uint64
	lastID         atomic.Uint64
	listenerClosed chan struct{} // closed when the listener is closed

	computeSlots chan struct{} // its capacity is the number of handshakes that may compute at once

	mu            sync.Mutex // guards the fields below
	pendingConns  map[*pendingConn]bool
	foreignCounts map[int]int // number of pending connections for each foreign user
	foreignLimit  int         // for each of these users; tests lower it
	slotChanged   *sync.Cond  // signaled when pendingConns changes, when Close begins, and by a timer
}

// A pendingConn is a connection whose handshake is in progress.
type pendingConn struct {
	*transport.LimitedConn
	peer        Peer
	foreignUser int // the ID of a foreign user on a unix socket, or -1
}

func newListenerState(listener net.Listener) *listenerState {
	h := &listenerState{listenerClosed: make(chan struct{}), acceptDone: make(chan struct{}), listener: listener, pendingConns: map[*pendingConn]bool{}, foreignCounts: map[int]int{}, foreignLimit: maxForeign, computeSlots: make(chan struct{}, runtime.GOMAXPROCS(0))}
	h.slotChanged = sync.NewCond(&h.mu)
	return h
}

// hasOnlyConn reports whether the listener is a ListenConn, which has one connection.
func (h *listenerState) hasOnlyConn() bool {
	_, onlyOne := h.listener.(*connListener)
	return onlyOne
}

// StartServer listens and returns when clients can connect. Without MultiClient it
// serves one client at a time: Read and Write use the current connection, and other
// clients are refused while it exists.
//
// On error the returned server is nil and all resources are released. The
// error is ErrConfig, ErrNameInUse if a live server uses the name or the address, or an
// error of the system.
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
	hooks := &endpointHooks{multiClient: set.multiClient, noReconnect: s.listenerState.hasOnlyConn() && !set.multiClient}
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

// Close closes the server gracefully, within 5 seconds. It returns nil if the peers
// have received every message that was written since their last Connected, and no
// earlier loss is unreported. Reads in progress end at once: they return the complete
// messages that have arrived, one message Closed, and then ErrClosed. On a client of
// a multi-client server Close ends that connection alone.
//
// The error is ErrUnconfirmed if messages may not have arrived. It also matches
// ErrNotConnected if messages of Queue were lost. On a multi-client server the error
// joins one *ClientError for each client, connected or not read to the end, that may
// not have received everything. The server is closed even if Close returns an error.
// A concurrent or later call waits for the first one and returns nil.
func (s *Server) Close() error { return s.Shutdown(context.Background()) }

// Shutdown is like Close but waits until ctx is done, and at most 5 seconds if ctx
// has no deadline. If ctx is already done it closes the connections at once. Its
// errors are those of Close, wrapping ctx.Err() if ctx was done too early. The server
// is closed and its name is free even if Shutdown returns an error.
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

// Addr returns the address of the listener. If the port in Address was 0 it has the
// port that the system chose. A client of a multi-client server returns the address
// of its server.
func (s *Server) Addr() net.Addr {
	return s.Connections.server.listenerState.listener.Addr()
}

// Stats returns the totals of this endpoint since its start. The totals of a
// multi-client server are the sums over all its clients, past ones included.
func (s *Server) Stats() Stats {
	total := s.endpoint.Stats()
	if s.listenerState != nil {
		total.Refused += s.listenerState.refusedCount.Load()
		s.Connections.addStats(&total)
	}
	return total
}

// stopListening closes the listener, which frees the name, and the connections whose
// handshakes are in progress. The methods of a config's Listener may block, and are
// awaited for 100 ms at most.
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
			go conn.Conn.Close() // may be user code, which may block
		}
		h.slotChanged.Broadcast()
	})
	if s.settings.listener == nil {
		<-h.acceptDone // soon: closing the socket ends Accept
		return
	}
	timer := time.NewTimer(abortTimeout)
	defer timer.Stop()
	for _, done := range []chan struct{}{h.listenerClosed, h.acceptDone} {
		select {
		case <-done:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// acceptLoop starts a handshake for every connection. Temporary errors, such as too
// many open files, slow it down and do not end it.
func (s *Server) acceptLoop() {
	h := s.listenerState
	for delay := time.Duration(0); ; {
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
			delay = 0
			if slot := s.trackPending(conn); slot != nil {
				h.handshakes.Go(func() { s.serveHandshake(slot) })
			}
			continue
		case errors.Is(err, net.ErrClosed):
			s.endAccepting(err)
			return
		}
		h.refusedCount.Add(1)
		delay = min(max(2*delay, firstAcceptDelay), maxAcceptDelay)
		s.settings.eventLog.Warn("accept failed; retrying", "err", err, "delay", delay)
		select {
		case <-time.After(delay):
		case <-s.hooks.baseCtx.Done():
		}
	}
}

// endAccepting puts the server into the Error state, because its listener was closed
// by user code or its only connection is over. A connected client stays connected.
func (s *Server) endAccepting(err error) {
	s.settings.eventLog.Err("accepting ended", "err", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.announceStatusLocked(&Message{Err: err}, Error) {
		s.setFinalErrLocked(newError(ErrClosed, err, "the listener does not accept any more"))
	}
	s.hooks.noReconnect = true
}

// trackPending registers a handshake in progress. At the limit it evicts a silent
// peer; if no peer is silent it waits, and nothing is accepted meanwhile. A peer that
// has sent something keeps its slot. It returns nil for a user on a unix socket who
// has too many slots, so one user cannot occupy all of them.
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
			writeRefusal(conn, reasonBusy) // does not block: the send buffer is empty
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

// foreignUser returns the user ID of a peer on a unix socket, or -1 if that is root,
// the server's own user, or not known.
func foreignUser(peer Peer) int {
	if !peer.Known || peer.UID == 0 || peer.UID == os.Geteuid() {
		return -1
	}
	return peer.UID
}

// removePendingLocked frees the slot of a handshake, and reports whether it had one.
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

// evictSilentLocked closes the connection of a silent peer, and reports whether there
// was one.
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

// untrackPending frees the slot of a handshake. It returns false if the handshake was
// evicted, and its connection closed.
func (s *Server) untrackPending(conn *pendingConn) bool {
	h := s.listenerState
	h.mu.Lock()
	defer h.mu.Unlock()
	defer h.slotChanged.Broadcast()
	return h.removePendingLocked(conn)
}

// serveHandshake performs the handshake of one connection, within handshakeTimeout,
// and admits the client or rejects it.
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
	if s.listenerState.hasOnlyConn() {
		s.endAccepting(newError(ErrClosed, err, "the only connection was rejected"))
	}
}

// rejectionCause returns the cause by which the log groups rejections: the reason of
// a refusal, or the kind of another error.
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

// handshake performs the server's half of a handshake, including Authorize and
// Upgrade. admit reserves the client's slot, or returns the reason to refuse it.
func (s *Server) handshake(pending *pendingConn, admit func() byte) (*openedConn, *session, error) {
	conn := pending.LimitedConn
	opened := &openedConn{dialedServer{conn: conn.Conn, peer: pending.peer}, conn.Conn}
	if err := checkStream(conn.Conn); err != nil {
		return opened, nil, err
	}
	if authorize := s.settings.authorizeFunc; authorize != nil {
		if err := authorize(opened.peer); err != nil {
			if s.settings.upgradeFunc == nil { // otherwise the peer expects the bytes of Upgrade first
				writeRefusal(conn, reasonUnauthorized)
			}
			return opened, nil, &refusal{newError(ErrRefused, err, "Authorize"), reasonUnauthorized, false}
		}
	}
	if s.settings.upgradeFunc != nil {
		conn.SetHelloSent(true) // Upgrade reads the connection itself, so its peer may look silent
		stream, err := callUpgrade(s.settings.upgradeFunc, conn.Conn)
		conn.SetHelloSent(false)
		if err != nil {
			return opened, nil, err
		}
		opened.stream = stream
		conn = conn.Wrap(stream)
		conn.SetLimit(handshakeTimeout)
		defer conn.Release()
	}
	if !s.Connections.reserveSlot(false) {
		writeRefusal(conn, reasonBusy)
		return opened, nil, &refusal{newError(ErrRefused, nil, "client limit reached: see MultiClient and MaxClients in ServerConfig"), reasonBusy, false}
	}
	compute := func(f func() error) error { return s.computeInTurn(conn, f) }
	agreed, err := serverHandshake(conn, &s.settings.handshakeConfig, serverSide{newKey: newECDHKey, admit: admit, compute: compute})
	if err == nil {
		opened.peer.Identity = agreed.identity
	}
	return opened, agreed, err
}

// computeInTurn calls f, the expensive part of a handshake. It limits concurrent
// calls to the number of processors. The others wait in the order of arrival, which
// the channel keeps, and the time limit of their handshakes is paused.
func (s *Server) computeInTurn(conn *transport.LimitedConn, f func() error) error {
	select {
	case s.listenerState.computeSlots <- struct{}{}: // no wait, so the time limit is not touched
	default:
		if err := s.awaitComputeSlot(conn); err != nil {
			return err
		}
	}
	defer func() { <-s.listenerState.computeSlots }()
	return f()
}

// awaitComputeSlot waits for a slot while the time limit of the handshake is paused.
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
