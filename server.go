// The end that accepts: the listener, the handshakes on their way, and the
// server of one client. What serves many is in multi.go.

package gipc

import (
	"container/list"
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxPending  = 1024 // handshakes on their way
	acceptPause = 5 * time.Millisecond
	acceptLimit = time.Second
)

// Server is the end of a connection that accepts, or, from its Connections, the
// serving end of one client of many. A server of many clients has nobody to read
// from or write to itself: those calls return ErrMultiClient. Its methods are
// safe for concurrent use.
type Server struct {
	end
	Connections *ConnectionPool // the clients; never nil
	host        *host           // nil for one client of many

	// Guarded by the mu of Connections:
	left   bool // a client that was connected, and is not any more
	listed bool // it is in ready
	asked  bool // ReadTimedFastest awaits its message
}

// A host is what a server has and a single connection has not.
type host struct {
	listener net.Listener
	once     sync.Once
	wg       sync.WaitGroup // the accept loop and the handshakes
	refused  atomic.Uint64
	ids      atomic.Uint64

	mu      sync.Mutex
	pending list.List // of net.Conn, the longest in wait first
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
	listener, err := set.listen()
	if err != nil {
		return nil, err
	}
	s := &Server{host: &host{listener: listener}}
	s.init(set, new(bufferPool))
	s.life, s.quit = context.WithCancel(context.Background())
	s.many = set.multi
	s.Connections = newPool(s)
	s.mu.Lock()
	s.setLocked(Listening)
	s.mu.Unlock()
	s.host.wg.Go(s.accept)
	s.set.log.Info("listening", "name", set.name, "address", listener.Addr())
	return s, nil
}

// Close is Shutdown with a 5-second limit. Unlike net.Conn's it is graceful: it
// says goodbye, and returns nil when the peers have received every message that
// was written since their last Connected. Reads in progress end at once, with
// the complete messages that this process holds, one message Closed, and then
// ErrClosed. On one client of many it ends that connection alone.
//
// The error is ErrNotConnected: what was written since then may not have arrived.
// Where that connection is over, and a read has told of it, Close does not tell
// again. On a server of many clients it joins a *ClientError for each of those
// connected of which this is so; of those that had left their Disconnected tells,
// and Close only of what Queue held for them, if nobody has read that. The server
// is closed all the same. A second call waits for the first and returns nil
// whatever that returned.
func (s *Server) Close() error { return s.Shutdown(context.Background()) }

// Shutdown closes the server as Close does, for as long as ctx allows, and at
// most 5 seconds where ctx has no deadline. With a context that has ended it
// cuts at once. Its errors are those of Close, or wrap that of ctx; the server is
// closed all the same, and its name is free.
func (s *Server) Shutdown(ctx context.Context) error {
	if s.host == nil {
		return s.shutdown(ctx, byeUser)
	}
	ctx, cancel := bounded(ctx, closeTime)
	defer cancel()
	s.stop()
	err := errors.Join(s.Connections.shutdown(ctx), s.shutdown(ctx, byeShutdown))
	settled := make(chan struct{})
	go func() {
		s.host.wg.Wait()
		close(settled)
	}()
	select {
	case <-settled:
	case <-ctx.Done(): // an Authorize that does not return
	}
	return err
}

// Stats returns the totals of this end: those of a server of many clients are
// the sums over all that it ever had.
func (s *Server) Stats() Stats {
	total := s.end.Stats()
	if s.host != nil {
		total.Refused += s.host.refused.Load()
		s.Connections.addStats(&total)
	}
	return total
}

// stop ends the listening, which frees the name, and the handshakes.
func (s *Server) stop() {
	h := s.host
	h.once.Do(func() {
		s.quit()
		h.listener.Close()
		h.mu.Lock()
		defer h.mu.Unlock()
		for h.pending.Len() > 0 {
			h.pending.Remove(h.pending.Front()).(net.Conn).Close()
		}
	})
}

// accept hands every connection to a handshake of its own. Errors that may pass,
// such as too many open files, slow it down and do not end it.
func (s *Server) accept() {
	h := s.host
	for pause := time.Duration(0); ; {
		conn, err := h.listener.Accept()
		switch {
		case err == nil:
			pause = 0
			place := s.enter(conn)
			h.wg.Go(func() { s.greet(conn, place) })
			continue
		case s.life.Err() != nil:
			return
		case errors.Is(err, net.ErrClosed):
			s.deaf(err)
			return
		}
		h.refused.Add(1)
		pause = min(max(2*pause, acceptPause), acceptLimit)
		s.set.log.Warn("cannot accept; trying on", "name", s.set.name, "err", err, "pause", pause)
		select {
		case <-time.After(pause):
		case <-s.life.Done():
		}
	}
}

// deaf ends a server whose listener somebody else has closed. A client that is
// connected stays.
func (s *Server) deaf(err error) {
	s.set.log.Error("cannot accept any more", "name", s.set.name, "err", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sayLocked(Error, err) != nil {
		s.finishLocked(fail(ErrClosed, err, "the listener does not accept any more"))
	}
	s.single = true
}

// enter gives a handshake a place. Where there is none the one that has waited
// longest gives way: an honest client is through in milliseconds.
func (s *Server) enter(conn net.Conn) *list.Element {
	h := s.host
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pending.Len() >= maxPending {
		h.pending.Remove(h.pending.Front()).(net.Conn).Close()
	}
	if s.life.Err() != nil {
		conn.Close()
	}
	return h.pending.PushBack(conn)
}

// exit gives the place up. It returns false where it was taken, and the
// connection closed with it.
func (s *Server) exit(place *list.Element) bool {
	h := s.host
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.pending.Len()
	h.pending.Remove(place)
	return h.pending.Len() < n
}

// greet takes one connection through the handshake, in at most helloTime
// altogether, and seats it.
func (s *Server) greet(conn net.Conn, place *list.Element) {
	defer s.exit(place)
	pool := s.Connections
	conn.SetDeadline(time.Now().Add(helloTime))
	seated := false
	admit := func() byte {
		if seated = pool.room(true); !seated {
			return reasonBusy
		}
		return 0
	}
	handshake, refuse := serverHandshake, writeRefusal
	if s.set.wire == WireV2 {
		handshake, refuse = serverHandshake2, silent
	}
	agreed, err := func() (*session, error) {
		if !pool.room(false) {
			refuse(conn, reasonBusy)
			return nil, fail(ErrRefused, nil, "there are as many clients as may be: see MultiClient and MaxClients in ServerConfig")
		}
		if ask := s.set.authorize; ask != nil {
			if err := ask(peerOf(conn)); err != nil {
				refuse(conn, reasonUnauthorized)
				return nil, fail(ErrRefused, err, "Authorize")
			}
		}
		return handshake(conn, &s.set.terms, newKey, admit)
	}()
	if err == nil && s.exit(place) {
		conn.SetDeadline(time.Time{})
		pool.seat(conn, agreed)
		return
	}
	if seated {
		pool.unclaim()
	}
	s.host.refused.Add(1)
	s.set.log.Warn("a peer did not get in", "name", s.set.name, "peer", loggedPeer(peerOf(conn)), "err", err)
	closeSlowly(conn, time.Now().Add(drainTime), false)
}
