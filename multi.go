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

const broadcastTimeout = time.Second // where the context of Broadcast has no deadline

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
	mu              sync.Mutex
	changedCond     *sync.Cond       // a client, a message, or the end has come, or a time has passed
	reservedSlots   int              // handshakes that have a slot and are not done
	members         map[*Server]bool // connected, or not read to the end
	endingClients   map[*Server]bool // no members any more, but their connections are not over; true if evicted
	departed        departedClients
	endedTotals     Stats                   // of all whose connections are over
	unreportedCount int                     // evicted clients that may not have received everything
	closed          bool                    // no client comes any more
	serveStarts     map[*func(*Server)]bool // what calls of Serve do for each client
	fanIn           bool                    // somebody has begun to read from all at once
	readyClients    []*Server               // clients that have something, first come first
}

// A poolMember is what the pool knows of one client.
type poolMember struct {
	departure   *departure // nil while it is connected
	inReadyList bool       // it is in ready
}

func newPool(s *Server) *ConnectionPool {
	p := &ConnectionPool{server: s, members: map[*Server]bool{}, endingClients: map[*Server]bool{}, serveStarts: map[*func(*Server)]bool{}}
	p.departed.maxBytes = maxDeparted
	p.changedCond = sync.NewCond(&p.mu)
	p.setHooks(s)
	if !s.hooks.multiClient {
		p.reservedSlots = 1 // add gives it back
		p.addClient(s)
	}
	return p
}

// setHooks has a server tell the pool what it has to read. Each hook is called with
// the server's lock held.
func (p *ConnectionPool) setHooks(s *Server) {
	s.hooks.onReadable = func() { p.markReady(s) }
	s.hooks.onConsumed = func() { p.noteConsumed(s) }
	s.hooks.onFinished = p.refuseClients
	if s.listenerState == nil {
		s.hooks.onFinished = func() { p.noteDeparture(s) }
		s.hooks.onConnectionEnd = func() { p.noteConnectionEnd(s) }
		s.hooks.readsPaused = p.departed.atLimit.Load
	}
}

// addClient makes a client a member, before it has its connection.
func (p *ConnectionPool) addClient(s *Server) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reservedSlots-- // the slot is its own now
	if p.closed {
		return false
	}
	s.readRole.deferBackground = len(p.serveStarts) > 0
	s.readRole.fanIn = p.fanIn
	p.members[s] = true
	for start := range p.serveStarts {
		(*start)(s)
	}
	p.changedCond.Broadcast()
	return true
}

// reserveSlot reports whether one more client may come, and claims its slot if claim is
// set: once the client's confirmation is authentic.
func (p *ConnectionPool) reserveSlot(claim bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	settings := p.server.settings
	open := settings.maxClients == 0 || p.reservedSlots+len(p.members)-p.departed.count < settings.maxClients
	if !settings.multiClient {
		open = p.reservedSlots == 0 && p.server.currentConn.Load() == nil
	}
	if open && claim {
		p.reservedSlots++
	}
	return open
}

func (p *ConnectionPool) releaseSlot() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reservedSlots--
}

// admitClient makes a client of a connection that has its slot.
func (p *ConnectionPool) admitClient(opened *openedConn, agreed *session) {
	top := p.server
	s, id := top, top.listenerState.lastID.Add(1)
	if top.settings.multiClient {
		s = &Server{Connections: p}
		s.init(top.settings, top.buffers, &endpointHooks{noReconnect: true})
		p.setHooks(s)
	} else {
		defer p.releaseSlot()
	}
	if s != top && !p.addClient(s) || !s.attachConnection(s.newConnection(opened, agreed, id)) {
		lingerAndClose(opened.stream)
	}
}

// noteDeparture notes, under its mu, that a client has left.
func (p *ConnectionPool) noteDeparture(s *Server) {
	lost := !s.closing.Load() && !s.latestConn.closeHandshake.peerClosed
	p.mu.Lock()
	defer p.mu.Unlock()
	s.poolMember.departure = &departure{server: s, connLost: lost}
	p.departed.add(s.poolMember.departure, departureSize(s.unreadQueue))
	p.evictExcessLocked()
	if _, onlyOne := p.server.listenerState.listener.(*connListener); onlyOne {
		go p.server.endAccepting(fail(ErrClosed, nil, "the only connection is over"))
	}
}

// noteConsumed notes, under its mu, that a client that has left has been read further.
// Nothing of it is kept once it is read to the end.
func (p *ConnectionPool) noteConsumed(s *Server) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch d := s.poolMember.departure; {
	case !p.members[s]: // evicted
	case len(s.unreadQueue.messages) == 0:
		p.removeClientLocked(s, false)
	case d != nil:
		p.departed.shrink(d, departureSize(s.unreadQueue))
	}
	p.evictExcessLocked()
}

// evictExcessLocked evicts clients that have left too much. Those of Serve stay: it reads
// each to the end.
func (p *ConnectionPool) evictExcessLocked() {
	for d := p.departed.nextEviction(); d != nil && len(p.serveStarts) == 0; d = p.departed.nextEviction() {
		p.endedTotals.Dropped++
		p.server.settings.eventLog.Warn("client removed before its messages were read")
		p.removeClientLocked(d.server, true)
		if d.connEnded && d.unreported {
			p.unreportedCount++
		}
	}
	if p.departed.updateLimit() {
		go p.resumeClients() // which needs the locks of all clients
	}
}

// resumeClients has the clients read on that were held back.
func (p *ConnectionPool) resumeClients() {
	for _, s := range p.readableClients() {
		s.resumeReading()
	}
}

// noteConnectionEnd notes, under its mu, that the connection of a client is over: its
// totals are final.
func (p *ConnectionPool) noteConnectionEnd(s *Server) {
	total, unreported := s.statsLocked(), s.deliveries.hasUnreported()
	p.mu.Lock()
	defer p.mu.Unlock()
	d := s.poolMember.departure
	if d == nil || d.connEnded {
		return
	}
	d.connEnded, d.unreported = true, unreported
	p.endedTotals.add(total)
	if p.endingClients[s] && unreported {
		p.unreportedCount++
	}
	delete(p.endingClients, s)
}

// removeClientLocked takes out a client that was read to the end, or evicted.
func (p *ConnectionPool) removeClientLocked(s *Server, evicted bool) {
	delete(p.members, s)
	if i := slices.Index(p.readyClients, s); i >= 0 {
		p.readyClients = slices.Delete(p.readyClients, i, i+1)
	}
	if d := s.poolMember.departure; d != nil {
		p.departed.remove(d)
		if !d.connEnded {
			p.endingClients[s] = evicted
		}
	}
	p.changedCond.Broadcast()
}

// wakeWaiters has calls that wait for news look at their time.
func (p *ConnectionPool) wakeWaiters() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changedCond.Broadcast()
}

// isDrainedLocked reports whether nothing will come any more and everything is read.
func (p *ConnectionPool) isDrainedLocked() bool { return p.closed && len(p.members) == 0 }

// readableClients returns the clients that can be read, connected or not.
func (p *ConnectionPool) readableClients() []*Server {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.members))
}

// addStats adds what all clients of a multi-client server have done.
func (p *ConnectionPool) addStats(total *Stats) {
	p.mu.Lock()
	total.add(p.endedTotals)
	now := slices.Collect(maps.Keys(p.endingClients))
	for s := range p.members {
		if d := s.poolMember.departure; s != p.server && (d == nil || !d.connEnded) {
			now = append(now, s)
		}
	}
	p.mu.Unlock()
	for _, s := range now {
		total.add(s.Stats())
	}
}

// refuseClients admits no client any more.
func (p *ConnectionPool) refuseClients() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.changedCond.Broadcast()
}

// shutdown closes every client at the same time.
func (p *ConnectionPool) shutdown(ctx context.Context) error {
	p.refuseClients()
	p.mu.Lock()
	ending := maps.Clone(p.endingClients)
	clients := slices.AppendSeq(slices.Collect(maps.Keys(p.members)), maps.Keys(ending))
	p.mu.Unlock()
	clients = slices.DeleteFunc(clients, func(s *Server) bool { return s == p.server })
	err := forEachClient(clients, func(s *Server) error {
		err := s.shutdown(ctx, closedByShutdown)
		if evicted, gone := ending[s]; gone && !evicted {
			return nil // the application has read its end
		}
		return err
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.unreportedCount > 0 {
		err = errors.Join(err, fail(ErrUnconfirmed, nil, "%d clients that left may not have received everything: they were removed before their messages were read", p.unreportedCount))
		p.unreportedCount = 0 // reported once
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

// forEachClient calls f for many clients at once and joins the errors.
func forEachClient(clients []*Server, f func(*Server) error) error {
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
		for _, s := range p.readableClients() {
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
	ctx, cancel := withDefaultTimeout(ctx, broadcastTimeout)
	defer cancel()
	return forEachClient(slices.Collect(p.All()), func(s *Server) error { return s.WriteContext(ctx, msgType, data) })
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
		p.awaitCondition(until, func() bool { return len(p.members) > 0 })
	}
	clients, over := slices.Collect(maps.Keys(p.members)), p.isDrainedLocked()
	p.mu.Unlock()
	if over {
		callback(p.server, nil, ErrClosed)
	}
	forEachClient(clients, func(s *Server) error {
		if m, err := s.ReadTimed(time.Until(until)); err == nil {
			callback(s, m, nil)
		} // else another reader took the last message
		return nil
	})
}

// awaitCondition waits until a condition holds, until the pool is over, or until a
// time. It releases mu meanwhile.
func (p *ConnectionPool) awaitCondition(until time.Time, condition func() bool) {
	defer time.AfterFunc(max(time.Until(until), 1), p.wakeWaiters).Stop()
	for !condition() && !p.isDrainedLocked() && time.Now().Before(until) {
		p.changedCond.Wait()
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
		p.wakeWaiters()
		for _, s := range p.readableClients() {
			if c := s.currentConn.Load(); c != nil {
				c.interrupt()
			}
		}
	})()
	p.mu.Lock()
	p.serveStarts[&start] = true
	for s := range p.members {
		start(s)
	}
	for ctx.Err() == nil && !p.isDrainedLocked() {
		p.changedCond.Wait()
	}
	delete(p.serveStarts, &start)
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
		p.startFanIn()
		defer context.AfterFunc(ctx, p.wakeWaiters)()
		for {
			p.mu.Lock()
			for len(p.readyClients) == 0 && !p.isDrainedLocked() && ctx.Err() == nil {
				p.changedCond.Wait()
			}
			if len(p.readyClients) == 0 || ctx.Err() != nil {
				p.mu.Unlock()
				return
			}
			s := p.nextReadyLocked()
			p.mu.Unlock()
			if m := p.popMessage(s); m != nil && !yield(s, m) {
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
	p.startFanIn()
	for {
		p.mu.Lock()
		if len(p.readyClients) == 0 {
			p.awaitCondition(until, func() bool { return len(p.readyClients) > 0 })
		}
		over := p.isDrainedLocked()
		if len(p.readyClients) == 0 {
			p.mu.Unlock()
			if over {
				callback(p.server, nil, ErrClosed)
			} else {
				p.reportTimeout(callback)
			}
			return
		}
		s := p.nextReadyLocked()
		p.mu.Unlock()
		if m := p.popMessage(s); m != nil {
			callback(s, m, nil)
			return
		} // else another reader was faster
	}
}

// reportTimeout calls back for each client, with TimeoutMessage.
func (p *ConnectionPool) reportTimeout(callback func(srv *Server, message *Message, err error)) {
	for _, s := range p.readableClients() {
		callback(s, TimeoutMessage, nil)
	}
}

// startFanIn has the background readers of all clients read, now and from here on:
// somebody waits for all of them at once.
func (p *ConnectionPool) startFanIn() {
	p.mu.Lock()
	begun := p.fanIn
	p.fanIn = true
	p.mu.Unlock()
	if begun {
		return
	}
	for _, s := range p.readableClients() {
		s.enableFanIn()
		if s.unreadQueue.length.Load() > 0 {
			p.markReady(s)
		}
	}
}

// markReady notes that a client has something to read.
func (p *ConnectionPool) markReady(s *Server) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fanIn && p.members[s] && !s.poolMember.inReadyList {
		s.poolMember.inReadyList = true
		p.readyClients = append(p.readyClients, s)
		p.changedCond.Broadcast()
	}
}

// nextReadyLocked takes the client that has waited longest off the list.
func (p *ConnectionPool) nextReadyLocked() *Server {
	s := p.readyClients[0]
	p.readyClients = p.readyClients[1:]
	s.poolMember.inReadyList = false
	return s
}

// popMessage takes a message that a client has, and lists the client again if it has
// more.
func (p *ConnectionPool) popMessage(s *Server) *Message {
	m := new(Message)
	s.mu.Lock()
	ok := s.popQueuedLocked(&readCall{}, m)
	s.mu.Unlock()
	if !ok {
		return nil
	}
	if s.unreadQueue.length.Load() > 0 {
		p.markReady(s)
	}
	return m
}
