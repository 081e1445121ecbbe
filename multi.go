// The clients of a multi-client server: their registry, and the methods that read
// from all of them or write to all of them.

package gipc

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"
)

const broadcastTimeout = time.Second // of Broadcast if its context has no deadline

// A ConnectionPool is the set of a server's clients: [Server].Connections.
// Without MultiClient it holds the server alone. Its methods are safe for
// concurrent use.
//
// Each *Server it returns represents one client. Its first message is the status
// message Connected, and its last one Disconnected, or Closed if this side closed it.
// After that its reads return ErrClosed. All ways of reading share one queue for each
// client: each message is returned once, in order, and breaking out of a loop loses
// none. No client delays another.
//
// A client that has disconnected stays readable through the pool until its
// Disconnected message was read. All such clients together keep at most 64 MiB of
// unread messages; each client counts as at least 4 KiB. At this limit the pool first drops
// clients whose connections were lost, the oldest first. If that is not enough it
// receives a message only while a reader waits for one, so no Close of a client is acknowledged
// until half of the 64 MiB was read. Of the clients that have only status messages
// left, the pool keeps the newest 1,024. Stats counts the dropped clients.
type ConnectionPool struct {
	server      *Server
	clientHooks *endpointHooks // of all clients of a multi-client server

	// mu guards the fields below. It may be acquired while the mu of a client is held;
	// the reverse would deadlock.
	mu              sync.Mutex
	changedCond     *sync.Cond       // signaled when a client joins or leaves, a message arrives, the pool closes, or a deadline passes
	reservedSlots   int              // slots of handshakes that are not complete
	members         map[*Server]bool // clients that are connected, or not read to the end
	endingClients   map[*Server]bool // former members whose connections are still closing; true if evicted
	departed        departedClients
	endedTotals     Stats                   // of all clients whose connections are over
	unreportedCount int                     // number of evicted clients that may not have received everything
	closed          bool                    // no client is admitted any more
	serveStarts     map[*func(*Server)]bool // functions of the calls of Serve, which start serving a client
	fanIn           bool                    // Messages or ReadTimedFastest was called
	readyClients    []*Server               // clients that have unread messages, the longest waiting first
}

// A poolMember is the state that the pool keeps for one client.
type poolMember struct {
	departure   *departure // nil while it is connected
	inReadyList bool       // the client is in readyClients
}

func newPool(s *Server) *ConnectionPool {
	p := &ConnectionPool{server: s, clientHooks: &endpointHooks{noReconnect: true}, members: map[*Server]bool{}, endingClients: map[*Server]bool{}, serveStarts: map[*func(*Server)]bool{}}
	p.departed.maxBytes = maxDeparted
	p.changedCond = sync.NewCond(&p.mu)
	s.pool = s
	if !s.hooks.multiClient {
		p.reservedSlots = 1 // addClient releases it
		p.addClient(s)
	}
	return p
}

func (s *Server) noteReadable() { s.Connections.markReady(s) }

func (s *Server) noteConsumed() { s.Connections.noteConsumed(s) }

func (s *Server) noteFinished() {
	if s.listenerState != nil {
		s.Connections.refuseClients()
	} else {
		s.Connections.noteDeparture(s)
	}
}

func (s *Server) noteConnectionEnd() {
	if s.listenerState == nil {
		s.Connections.noteConnectionEnd(s)
	}
}

func (s *Server) readsPaused() bool {
	return s.listenerState == nil && s.Connections.departed.atLimit.Load()
}

// addClient makes a client a member before its connection is attached. It returns
// false if the pool is closed.
func (p *ConnectionPool) addClient(s *Server) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reservedSlots-- // the client counts as a member instead
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

// reserveSlot reports whether there is a slot for one more client and, if commit is
// set, reserves it. Slots are reserved only after the client was authenticated.
func (p *ConnectionPool) reserveSlot(commit bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	settings := p.server.settings
	open := settings.maxClients == 0 || p.reservedSlots+len(p.members)-p.departed.count < settings.maxClients
	if !settings.multiClient {
		open = p.reservedSlots == 0 && p.server.currentConn.Load() == nil
	}
	if open && commit {
		p.reservedSlots++
	}
	return open
}

func (p *ConnectionPool) releaseSlot() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reservedSlots--
}

// admitClient makes a client of a connection for which a slot is reserved.
func (p *ConnectionPool) admitClient(opened *openedConn, agreed *session) {
	parent := p.server
	s, id := parent, parent.listenerState.lastID.Add(1)
	if parent.settings.multiClient {
		s = &Server{Connections: p}
		s.init(parent.settings, parent.buffers, p.clientHooks)
		s.pool = s
	} else {
		defer p.releaseSlot()
	}
	if s != parent && !p.addClient(s) || !s.attachConnection(s.newConnection(opened, agreed, id)) {
		lingerAndClose(opened.stream)
	}
}

// wakeWaiters makes the calls that wait for changedCond check their deadlines.
func (p *ConnectionPool) wakeWaiters() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changedCond.Broadcast()
}

// isDrainedLocked reports whether the pool is closed and everything was read.
func (p *ConnectionPool) isDrainedLocked() bool { return p.closed && len(p.members) == 0 }

// readableClients returns the members: clients that are connected, or not read to
// the end.
func (p *ConnectionPool) readableClients() []*Server {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.members))
}

// A ClientError is an error that concerns one client of a multi-client server.
type ClientError struct {
	Server *Server // represents that client
	Err    error
}

func (e *ClientError) Error() string {
	return fmt.Sprintf("gipc: client %d: %s", e.Server.ID(), trimPrefix(e.Err))
}

// Unwrap returns Err, so that errors.Is and errors.As match it.
func (e *ClientError) Unwrap() error { return e.Err }

// clientError returns a *ClientError for an error, and nil for nil.
func clientError(s *Server, err error) error {
	if err == nil {
		return nil
	}
	return &ClientError{s, err}
}

// forEachClient calls f for the clients concurrently and joins the errors.
func forEachClient(clients []*Server, f func(*Server) error) error {
	errs := make([]error, len(clients))
	var wg sync.WaitGroup
	for i, s := range clients {
		wg.Go(func() { errs[i] = clientError(s, f(s)) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// All returns an iterator over the currently connected clients, in no order.
func (p *ConnectionPool) All() iter.Seq[*Server] {
	return func(yield func(*Server) bool) {
		for _, s := range p.readableClients() {
			if s.currentConn.Load() != nil && !s.closing.Load() && !yield(s) {
				return
			}
		}
	}
}

// Len returns the number of currently connected clients.
func (p *ConnectionPool) Len() int {
	return len(slices.Collect(p.All()))
}

// Broadcast writes a message to all connected clients, concurrently. It returns when
// the kernel has accepted the message for each of them, when ctx is done, or after 1
// second if ctx has no deadline. A stuck client delays no other and stays connected.
// The error joins a [*ClientError] for each client for which the write failed, with
// the errors of [Server.WriteContext]; a client whose error matches ErrUnconfirmed may
// still receive the message. The other errors are ErrReservedType and, for a nil ctx,
// ErrConfig. Without clients, and after Close, Broadcast returns nil. Broadcast does not retain data.
func (p *ConnectionPool) Broadcast(ctx context.Context, msgType int, data []byte) error {
	if err := checkMessageType(msgType); err != nil {
		return err
	}
	if err := checkContext(ctx); err != nil {
		return err
	}
	ctx, cancel := withDefaultTimeout(ctx, broadcastTimeout)
	defer cancel()
	clients := slices.Collect(p.All())
	header := frameHeader{frameType: uint32(msgType), dataSize: len(data)}
	if header.isLarge() { // a write that does not wait would copy large data for each client whose kernel buffer is full
		return forEachClient(clients, func(s *Server) error { return s.WriteContext(ctx, msgType, data) })
	}
	return broadcastSmall(ctx, clients, header, data)
}

// broadcastShare is the number of clients from which on Broadcast writes with one more
// goroutine, up to the number of processors.
const broadcastShare = 64

// broadcastSmall writes to all clients without waiting, and starts a goroutine only for
// a client whose kernel buffer is full. A goroutine for every client costs as much as
// sealing and writing 64 bytes, because its stack has to grow for that.
func broadcastSmall(ctx context.Context, clients []*Server, header frameHeader, data []byte) error {
	noWait, cancel := context.WithCancel(context.Background())
	cancel()
	errs := make([]error, len(clients))
	var wg sync.WaitGroup
	workers := min(runtime.GOMAXPROCS(0), 1+len(clients)/broadcastShare)
	for worker := range workers {
		wg.Go(func() {
			for i := worker; i < len(clients); i += workers {
				s := clients[i]
				rest, err := s.startWrite(ctx, noWait, header, data)
				errs[i] = clientError(s, err)
				if rest != nil {
					wg.Go(func() { errs[i] = clientError(s, rest()) })
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// ReadTimed calls callback once for each client, concurrently, with the client's next
// message, or with TimeoutMessage if none arrives within d. It returns when all
// callbacks have returned. If there is no client it waits for the first one, for d at
// most. The next call covers clients that connect during this one. A client whose only
// message another reader takes is left out. After Close it calls back once, with the server, no message, and ErrClosed.
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
		} // otherwise another reader got the last message
		return nil
	})
}

// awaitCondition waits until the condition holds, the pool is drained, or the time
// is reached. The caller holds mu, which is released meanwhile.
func (p *ConnectionPool) awaitCondition(until time.Time, condition func() bool) {
	defer time.AfterFunc(max(time.Until(until), 1), p.wakeWaiters).Stop()
	for !condition() && !p.isDrainedLocked() && time.Now().Before(until) {
		p.changedCond.Wait()
	}
}

// Serve calls handler with every message of every client, status messages included.
// Each client has a goroutine that reads and calls handler, so Serve is the fastest
// way to read: handler is called concurrently for different clients, and in order for
// each one. Clients that connect later are served, too. Serve returns an error
// wrapping ctx.Err() when ctx is done, and ErrClosed after Close. Before it
// returns, it waits for running handlers. A handler may call Close, which does not wait for it.
func (p *ConnectionPool) Serve(ctx context.Context, handler func(srv *Server, message *Message)) error {
	if err := checkContext(ctx); err != nil {
		return err
	}
	if handler == nil {
		return newError(ErrConfig, nil, "Serve: the handler is nil")
	}
	var wg sync.WaitGroup
	start := func(s *Server) {
		wg.Add(1)
		go func() { // not wg.Go and not read: their frames would exceed the 2 KiB stack of an idle client
			defer wg.Done()
			for ctx.Err() == nil {
				var m Message // on the stack: an idle client has none
				s.mu.Lock()
				err := s.readNext(&readCall{ctx: cancelable(ctx), ctxWatched: true, destination: destination{maxSize: unlimited}}, &m)
				s.mu.Unlock()
				if err != nil {
					return
				}
				received := m
				handler(s, &received)
			}
		}()
	}
	// Watch ctx once, instead of in every read of every client.
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
// The sequence ends when ctx is done, and after Close once everything is read.
// Breaking out of the loop loses no message. Concurrent loops share the messages.
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

// ReadTimedFastest calls callback once, with the next message of the client whose
// unread messages have waited longest. If no message arrives within d it calls back
// once for each client, with TimeoutMessage, and not at all if there is no client.
// After Close it calls back once, with the server, no message, and ErrClosed. Callbacks
// run in the caller's goroutine. The next call returns messages of other clients.
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
		} // otherwise another reader got the message
	}
}

// reportTimeout calls callback for each client, with TimeoutMessage.
func (p *ConnectionPool) reportTimeout(callback func(srv *Server, message *Message, err error)) {
	for _, s := range p.readableClients() {
		callback(s, TimeoutMessage, nil)
	}
}

// startFanIn makes the background readers of all clients read continuously, because a
// call waits for all clients at once.
func (p *ConnectionPool) startFanIn() {
	p.mu.Lock()
	started := p.fanIn
	p.fanIn = true
	p.mu.Unlock()
	if started {
		return
	}
	for _, s := range p.readableClients() {
		if s.enableFanIn() {
			p.markReady(s)
		}
	}
}

// markReady adds a client that has unread messages to readyClients.
func (p *ConnectionPool) markReady(s *Server) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fanIn && p.members[s] && !s.poolMember.inReadyList {
		s.poolMember.inReadyList = true
		p.readyClients = append(p.readyClients, s)
		p.changedCond.Broadcast()
	}
}

// nextReadyLocked removes the longest waiting client from readyClients.
func (p *ConnectionPool) nextReadyLocked() *Server {
	s := p.readyClients[0]
	p.readyClients = p.readyClients[1:]
	s.poolMember.inReadyList = false
	return s
}

// popMessage returns the next unread message of a client, or nil, and adds the client
// to readyClients again if it has more.
func (p *ConnectionPool) popMessage(s *Server) *Message {
	m := new(Message)
	s.mu.Lock()
	ok := s.popQueuedLocked(&readCall{}, m)
	more := !s.unreadQueue.isEmpty()
	s.mu.Unlock()
	if !ok {
		return nil
	}
	if more {
		p.markReady(s)
	}
	return m
}
