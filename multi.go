// Many clients: the registry of a server's connections, and the ways to read
// from all of them and to write to all of them.

package gipc

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"
)

const broadcastTime = time.Second // where the context of Broadcast has no deadline

// ConnectionPool is the set of a server's clients: [Server].Connections.
// Without MultiClient it holds the server alone. Its methods are safe for
// concurrent use.
//
// Each *Server it returns represents one client. Its first message is the internal
// Connected, its last one Disconnected, or Closed if this side closed it; then its
// reads return ErrClosed. However they are read, the messages of a client come from
// one queue, in order, each to exactly one reader, and breaking off loses nothing. No
// client delays another.
//
// A client that has left stays readable through the pool until its Disconnected was
// delivered. What such clients have left unread is at most 64 MiB, where each counts
// 4 KiB or more. At that limit nothing is received that nobody waits for, so no Close
// of a client is acknowledged until the application has read half of it. Clients whose
// connections were lost are dropped instead, the oldest first, and of clients that have
// left nothing but status messages the newest 1,024 are kept; Stats counts those that
// are dropped.
type ConnectionPool struct {
	server *Server

	// mu guards what follows. It may be acquired while holding the mu of a client,
	// never the other way round.
	mu         sync.Mutex
	news       *sync.Cond       // a client, a message, or the end has come, or a time has passed
	claimed    int              // handshakes that have a slot and are not done
	members    map[*Server]bool // connected, or not read to the end
	ending     map[*Server]bool // no members any more, but their connections are not over; true if evicted
	departed   departedClients
	totals     Stats                   // of all whose connections are over
	unreported int                     // evicted clients that may not have received everything
	closed     bool                    // no client comes any more
	serving    map[*func(*Server)]bool // what calls of Serve do for each client
	fanIn      bool                    // somebody has begun to read from all at once
	ready      []*Server               // clients that have something, first come first
}

// A poolMember is what the pool knows of one client.
type poolMember struct {
	departure *departure // nil while it is connected
	listed    bool       // it is in ready
}

func newPool(s *Server) *ConnectionPool {
	p := &ConnectionPool{server: s, members: map[*Server]bool{}, ending: map[*Server]bool{}, serving: map[*func(*Server)]bool{}}
	p.departed.maxBytes = maxDeparted
	p.news = sync.NewCond(&p.mu)
	p.hook(s)
	if !s.hooks.multiClient {
		p.claimed = 1 // add gives it back
		p.add(s)
	}
	return p
}

// hook has a server tell the pool what it has to read. Each hook is called with
// the server's lock held.
func (p *ConnectionPool) hook(s *Server) {
	s.hooks.onReadable = func() { p.list(s) }
	s.hooks.onConsumed = func() { p.consumed(s) }
	s.hooks.onFinished = p.close
	if s.host == nil {
		s.hooks.onFinished = func() { p.leave(s) }
		s.hooks.onConnectionEnd = func() { p.connectionOver(s) }
		s.hooks.readsPaused = p.departed.atLimit.Load
	}
}

// add makes a client a member, before it has its connection.
func (p *ConnectionPool) add(s *Server) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.claimed-- // the slot is its own now
	if p.closed {
		return false
	}
	s.readRole.deferBackground = len(p.serving) > 0
	s.readRole.fanIn = p.fanIn
	p.members[s] = true
	for start := range p.serving {
		(*start)(s)
	}
	p.news.Broadcast()
	return true
}

// room reports whether one more client may come, and claims its slot if claim is
// set: once the client's confirmation is authentic.
func (p *ConnectionPool) room(claim bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	settings := p.server.settings
	open := settings.maxClients == 0 || p.claimed+len(p.members)-p.departed.count < settings.maxClients
	if !settings.multiClient {
		open = p.claimed == 0 && p.server.currentConn.Load() == nil
	}
	if open && claim {
		p.claimed++
	}
	return open
}

func (p *ConnectionPool) unclaim() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.claimed--
}

// admit makes a client of a connection that has its slot.
func (p *ConnectionPool) admit(opened *openedConn, agreed *session) {
	top := p.server
	s, id := top, top.host.ids.Add(1)
	if top.settings.multiClient {
		s = &Server{Connections: p}
		s.init(top.settings, top.buffers, &endpointHooks{noReconnect: true})
		p.hook(s)
	} else {
		defer p.unclaim()
	}
	if s != top && !p.add(s) || !s.attachConnection(s.newConnection(opened, agreed, id)) {
		lingerAndClose(opened.stream)
	}
}

// leave notes, under its mu, that a client has left.
func (p *ConnectionPool) leave(s *Server) {
	lost := !s.closing.Load() && !s.latestConn.closeHandshake.peerClosed
	p.mu.Lock()
	defer p.mu.Unlock()
	s.member.departure = &departure{server: s, connLost: lost}
	p.departed.add(s.member.departure, departureSize(s.unreadQueue))
	p.boundLocked()
	if _, onlyOne := p.server.host.listener.(*connListener); onlyOne {
		go p.server.stopAccepting(fail(ErrClosed, nil, "the only connection is over"))
	}
}

// consumed notes, under its mu, that a client that has left has been read further.
// Nothing of it is kept once it is read to the end.
func (p *ConnectionPool) consumed(s *Server) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch d := s.member.departure; {
	case !p.members[s]: // evicted
	case len(s.unreadQueue.messages) == 0:
		p.removeLocked(s, false)
	case d != nil:
		p.departed.shrink(d, departureSize(s.unreadQueue))
	}
	p.boundLocked()
}

// boundLocked evicts clients that have left too much. Those of Serve stay: it reads
// each to the end.
func (p *ConnectionPool) boundLocked() {
	for d := p.departed.nextEviction(); d != nil && len(p.serving) == 0; d = p.departed.nextEviction() {
		p.totals.Dropped++
		p.server.settings.eventLog.Warn("client removed before its messages were read")
		p.removeLocked(d.server, true)
		if d.connEnded && d.unreported {
			p.unreported++
		}
	}
	if p.departed.updateLimit() {
		go p.resume() // which needs the locks of all clients
	}
}

// resume has the clients read on that were held back.
func (p *ConnectionPool) resume() {
	for _, s := range p.snapshot() {
		s.resumeReading()
	}
}

// connectionOver notes, under its mu, that the connection of a client is over: its
// totals are final.
func (p *ConnectionPool) connectionOver(s *Server) {
	total, unreported := s.statsLocked(), s.deliveries.hasUnreported()
	p.mu.Lock()
	defer p.mu.Unlock()
	d := s.member.departure
	if d == nil || d.connEnded {
		return
	}
	d.connEnded, d.unreported = true, unreported
	p.totals.add(total)
	if p.ending[s] && unreported {
		p.unreported++
	}
	delete(p.ending, s)
}

// removeLocked takes out a client that was read to the end, or evicted.
func (p *ConnectionPool) removeLocked(s *Server, evicted bool) {
	delete(p.members, s)
	if i := slices.Index(p.ready, s); i >= 0 {
		p.ready = slices.Delete(p.ready, i, i+1)
	}
	if d := s.member.departure; d != nil {
		p.departed.remove(d)
		if !d.connEnded {
			p.ending[s] = evicted
		}
	}
	p.news.Broadcast()
}

// wake has calls that wait for news look at their time.
func (p *ConnectionPool) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.news.Broadcast()
}

// overLocked reports whether nothing will come any more and everything is read.
func (p *ConnectionPool) overLocked() bool { return p.closed && len(p.members) == 0 }

// snapshot returns the clients that can be read, connected or not.
func (p *ConnectionPool) snapshot() []*Server {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.members))
}

// addStats adds what all clients of a multi-client server have done.
func (p *ConnectionPool) addStats(total *Stats) {
	p.mu.Lock()
	total.add(p.totals)
	now := slices.Collect(maps.Keys(p.ending))
	for s := range p.members {
		if d := s.member.departure; s != p.server && (d == nil || !d.connEnded) {
			now = append(now, s)
		}
	}
	p.mu.Unlock()
	for _, s := range now {
		total.add(s.Stats())
	}
}

// close admits no client any more.
func (p *ConnectionPool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.news.Broadcast()
}

// shutdown closes every client at the same time.
func (p *ConnectionPool) shutdown(ctx context.Context) error {
	p.close()
	p.mu.Lock()
	ending := maps.Clone(p.ending)
	clients := slices.AppendSeq(slices.Collect(maps.Keys(p.members)), maps.Keys(ending))
	p.mu.Unlock()
	clients = slices.DeleteFunc(clients, func(s *Server) bool { return s == p.server })
	err := forEach(clients, func(s *Server) error {
		err := s.shutdown(ctx, closedByShutdown)
		if evicted, gone := ending[s]; gone && !evicted {
			return nil // the application has read its end
		}
		return err
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.unreported > 0 {
		err = errors.Join(err, fail(ErrUnconfirmed, nil, "%d clients that left may not have received everything: they were removed before their messages were read", p.unreported))
		p.unreported = 0 // reported once
	}
	return err
}

// ClientError says which client of a server an error is about.
type ClientError struct {
	Server *Server // the serving end of that client
	Err    error
}

func (e *ClientError) Error() string {
	return fmt.Sprintf("gipc: client %d: %s", e.Server.ID(), trimPrefix(e.Err))
}

// Unwrap returns Err.
func (e *ClientError) Unwrap() error { return e.Err }

// forEach calls f for many clients at once and joins the errors.
func forEach(clients []*Server, f func(*Server) error) error {
	errs := make([]error, len(clients))
	var wg sync.WaitGroup
	for i, s := range clients {
		wg.Go(func() {
			if err := f(s); err != nil {
				errs[i] = &ClientError{s, err}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// All returns the clients that are connected now, in no order.
func (p *ConnectionPool) All() iter.Seq[*Server] {
	return func(yield func(*Server) bool) {
		for _, s := range p.snapshot() {
			if s.currentConn.Load() != nil && !s.closing.Load() && !yield(s) {
				return
			}
		}
	}
}

// Len returns how many clients are connected now.
func (p *ConnectionPool) Len() int {
	return len(slices.Collect(p.All()))
}

// Broadcast writes a message to all connected clients, concurrently. It returns when
// the kernel has accepted the message for each of them, when ctx is done, or after 1
// second if ctx has no deadline. A stuck client delays no other and stays connected.
// The error joins a [*ClientError] for each client for which the write failed, with
// the errors of [Server.WriteContext]; a client whose error matches ErrUnconfirmed may
// still receive the message. The only other error is ErrReservedType. Without clients,
// and after Close, there is none. Broadcast does not retain data.
func (p *ConnectionPool) Broadcast(ctx context.Context, msgType int, data []byte) error {
	if err := checkMessageType(msgType); err != nil {
		return err
	}
	if err := checkContext(ctx); err != nil {
		return err
	}
	ctx, cancel := withDefaultTimeout(ctx, broadcastTime)
	defer cancel()
	return forEach(slices.Collect(p.All()), func(s *Server) error { return s.WriteContext(ctx, msgType, data) })
}

// ReadTimed calls callback once for each client, concurrently for different ones,
// with its next message, or with TimeoutMessage if it has none within d. It returns
// when the slowest callback has. Without a client it waits for the first one, at most
// d; a client that connects during the call is in the next. After Close it calls back
// once, with the server, no message, and ErrClosed.
func (p *ConnectionPool) ReadTimed(d time.Duration, callback func(srv *Server, message *Message, err error)) {
	until := time.Now().Add(d)
	p.mu.Lock()
	if len(p.members) == 0 {
		p.awaitLocked(until, func() bool { return len(p.members) > 0 })
	}
	clients, over := slices.Collect(maps.Keys(p.members)), p.overLocked()
	p.mu.Unlock()
	if over {
		callback(p.server, nil, ErrClosed)
	}
	forEach(clients, func(s *Server) error {
		if m, err := s.ReadTimed(time.Until(until)); err == nil {
			callback(s, m, nil)
		} // else another reader took the last message
		return nil
	})
}

// awaitLocked waits until a condition holds, until the pool is over, or until a
// time. It releases mu meanwhile.
func (p *ConnectionPool) awaitLocked(until time.Time, condition func() bool) {
	defer time.AfterFunc(max(time.Until(until), 1), p.wake).Stop()
	for !condition() && !p.overLocked() && time.Now().Before(until) {
		p.news.Wait()
	}
}

// Serve calls handler with every message of every client, status messages included.
// Each client has a goroutine of its own that also reads: there is no hand-over, so
// this is the fastest way. Clients that connect later are served too. Serve ends when
// ctx is done, with an error that wraps that of ctx, or after Close, with ErrClosed; it
// waits for the handlers that are running. A handler may call Close, which does not
// wait for it.
func (p *ConnectionPool) Serve(ctx context.Context, handler func(srv *Server, message *Message)) error {
	if err := checkContext(ctx); err != nil {
		return err
	}
	if handler == nil {
		return fail(ErrConfig, nil, "Serve: the handler is nil")
	}
	var wg sync.WaitGroup
	start := func(s *Server) {
		wg.Add(1)
		go func() { // without frames for wg.Go and read an idle client's stack stays at 2 KiB
			defer wg.Done()
			for ctx.Err() == nil {
				m := new(Message)
				s.mu.Lock()
				err := s.readNext(&readCall{ctx: cancelable(ctx), ctxWatched: true, destination: destination{maxSize: unlimited}}, m)
				s.mu.Unlock()
				if err != nil {
					return
				}
				handler(s, m)
			}
		}()
	}
	// One watch over ctx, instead of one for every read of every client.
	defer context.AfterFunc(ctx, func() {
		p.wake()
		for _, s := range p.snapshot() {
			if c := s.currentConn.Load(); c != nil {
				c.interrupt()
			}
		}
	})()
	p.mu.Lock()
	p.serving[&start] = true
	for s := range p.members {
		start(s)
	}
	for ctx.Err() == nil && !p.overLocked() {
		p.news.Wait()
	}
	delete(p.serving, &start)
	p.mu.Unlock()
	wg.Wait()
	if ctx.Err() != nil {
		return contextError("serve", ctx)
	}
	return ErrClosed
}

// Messages returns the messages of all clients as they arrive, status messages
// included. Clients are served round-robin, so a busy client cannot starve the others.
// The sequence ends when ctx is done, and after Close when everything is read.
// Breaking out of the loop loses no messages.
func (p *ConnectionPool) Messages(ctx context.Context) iter.Seq2[*Server, *Message] {
	return func(yield func(*Server, *Message) bool) {
		if ctx == nil {
			return
		}
		p.readAll()
		defer context.AfterFunc(ctx, p.wake)()
		for {
			p.mu.Lock()
			for len(p.ready) == 0 && !p.overLocked() && ctx.Err() == nil {
				p.news.Wait()
			}
			if len(p.ready) == 0 || ctx.Err() != nil {
				p.mu.Unlock()
				return
			}
			s := p.nextLocked()
			p.mu.Unlock()
			if m := p.pop(s); m != nil && !yield(s, m) {
				return
			}
		}
	}
}

// ReadTimedFastest calls callback in its own goroutine, for one client, with the
// next message of the client that has one and has waited longest. If none has one
// within d it calls back once for each client, with TimeoutMessage. Without a client
// it waits for d and calls nothing. After Close it calls back once, with the server, no
// message, and ErrClosed. No callback runs after it has returned; messages of other
// clients are returned by the next call.
func (p *ConnectionPool) ReadTimedFastest(d time.Duration, callback func(srv *Server, message *Message, err error)) {
	until := time.Now().Add(d)
	p.readAll()
	for {
		p.mu.Lock()
		if len(p.ready) == 0 {
			p.awaitLocked(until, func() bool { return len(p.ready) > 0 })
		}
		over := p.overLocked()
		if len(p.ready) == 0 {
			p.mu.Unlock()
			if over {
				callback(p.server, nil, ErrClosed)
			} else {
				p.timeOut(callback)
			}
			return
		}
		s := p.nextLocked()
		p.mu.Unlock()
		if m := p.pop(s); m != nil {
			callback(s, m, nil)
			return
		} // else another reader was faster
	}
}

// timeOut calls back for each client, with TimeoutMessage.
func (p *ConnectionPool) timeOut(callback func(srv *Server, message *Message, err error)) {
	for _, s := range p.snapshot() {
		callback(s, TimeoutMessage, nil)
	}
}

// readAll has the background readers of all clients read, now and from here on:
// somebody waits for all of them at once.
func (p *ConnectionPool) readAll() {
	p.mu.Lock()
	begun := p.fanIn
	p.fanIn = true
	p.mu.Unlock()
	if begun {
		return
	}
	for _, s := range p.snapshot() {
		s.enableFanIn()
		if s.unreadQueue.length.Load() > 0 {
			p.list(s)
		}
	}
}

// list notes that a client has something to read.
func (p *ConnectionPool) list(s *Server) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fanIn && p.members[s] && !s.member.listed {
		s.member.listed = true
		p.ready = append(p.ready, s)
		p.news.Broadcast()
	}
}

// nextLocked takes the client that has waited longest off the list.
func (p *ConnectionPool) nextLocked() *Server {
	s := p.ready[0]
	p.ready = p.ready[1:]
	s.member.listed = false
	return s
}

// pop takes a message that a client has, and lists the client again if it has
// more.
func (p *ConnectionPool) pop(s *Server) *Message {
	m := new(Message)
	s.mu.Lock()
	ok := s.popQueuedLocked(&readCall{}, m)
	s.mu.Unlock()
	if !ok {
		return nil
	}
	if s.unreadQueue.length.Load() > 0 {
		p.list(s)
	}
	return m
}
