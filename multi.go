// Many clients: the registry of a server's connections, and the ways to read
// from all of them and to write to all of them.

package gipc

import (
	"context"
	"errors"
	"iter"
	"maps"
	"net"
	"slices"
	"sync"
	"time"
)

const (
	maxLeft       = 1024        // clients that left and are kept until they are read to the end
	broadcastTime = time.Second // where the context of Broadcast has no deadline
)

// ConnectionPool is the set of a server's clients: [Server].Connections.
// Without MultiClient it holds the server alone. Its methods are safe for
// concurrent use.
//
// Each *Server that it hands out is the serving end of one client. Its first
// message is the internal Connected, its last one Disconnected, or Closed if this
// side closed it; then its reads return ErrClosed. However they are read, the
// messages of a client come from one queue, in order, each to exactly one reader,
// and breaking off loses nothing. A client that has left stays readable through
// the pool until its Disconnected was delivered; of such clients the newest 1,024
// are kept. No client delays another.
type ConnectionPool struct {
	server *Server

	// mu guards what follows. It may be taken while holding the mu of a client,
	// never the other way round.
	mu      sync.Mutex
	news    *sync.Cond              // that a client, a message or the end has come, or a time
	claimed int                     // handshakes that have a place and are not done
	members map[*Server]bool        // connected, or not read to the end
	left    []*Server               // the latter, in the order in which they left
	totals  Stats                   // of all that left
	closed  bool                    // no client comes any more
	serving map[*func(*Server)]bool // what calls of Serve do for each client

	// Reading from all of them at once:
	fanIn   bool                           // somebody has begun to
	ready   []*Server                      // that have something, for Messages, first come first
	unasked []*Server                      // whom the next ReadTimedFastest asks
	latest  func(*Server, *Message, error) // the callback of its newest call
	until   time.Time                      // when that call's time has passed
	timer   *time.Timer                    // tells then
	waiting []chan *Server                 // its calls before their first callback, the newest last
}

func newPool(s *Server) *ConnectionPool {
	p := &ConnectionPool{server: s, members: map[*Server]bool{}, serving: map[*func(*Server)]bool{}}
	p.news = sync.NewCond(&p.mu)
	p.timer = time.AfterFunc(time.Hour, p.late)
	p.timer.Stop()
	if s.owner = s; !s.many {
		p.claimed = 1 // which becomes its own
		p.enroll(s)
	}
	return p
}

// enroll makes a client a member, before it has its connection.
func (p *ConnectionPool) enroll(s *Server) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.claimed-- // the place is its own now
	if p.closed {
		return false
	}
	s.lazy = len(p.serving) > 0
	p.members[s] = true
	p.unasked = append(p.unasked, s)
	s.eager = p.fanIn
	for start := range p.serving {
		(*start)(s)
	}
	p.news.Broadcast()
	return true
}

// room says whether one more client may come in, and takes the place if asked
// to: once the client's confirmation has verified.
func (p *ConnectionPool) room(take bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	set := p.server.set
	free := set.maxClients == 0 || p.claimed+len(p.members)-len(p.left) < set.maxClients
	if !set.multi {
		free = p.claimed == 0 && p.server.cur.Load() == nil
	}
	if free && take {
		p.claimed++
	}
	return free
}

func (p *ConnectionPool) unclaim() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.claimed--
}

// seat makes a client of a connection that has its place.
func (p *ConnectionPool) seat(conn net.Conn, agreed *session) {
	top := p.server
	s, id := top, top.host.ids.Add(1)
	if top.set.multi {
		s = &Server{Connections: p}
		s.init(top.set, top.pool)
		s.single, s.owner = true, s
	} else {
		defer p.unclaim()
	}
	if s != top && !p.enroll(s) || !s.attach(s.newLink(conn, peerOf(conn), agreed, id)) {
		closeSlowly(conn, time.Now().Add(drainTime), false)
	}
}

// What a Server tells the pool, under its mu.
func (s *Server) notify() { s.Connections.notify(s) }
func (s *Server) spent()  { s.Connections.remove(s) }
func (s *Server) finished() {
	if s.host != nil {
		s.Connections.close()
	} else {
		s.Connections.leave(s)
	}
}

// leave notes, under its mu, that a client has left.
func (p *ConnectionPool) leave(s *Server) {
	total := s.statsLocked()
	p.mu.Lock()
	defer p.mu.Unlock()
	s.left = true
	p.totals.add(total)
	if p.left = append(p.left, s); len(p.left) > maxLeft {
		p.totals.Dropped++
		p.server.set.log.Warn("a client that left was not read to the end", "name", p.server.set.name)
		p.removeLocked(p.left[0])
	}
}

// remove takes out a client that has left and has no more to be read.
func (p *ConnectionPool) remove(s *Server) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.members[s] {
		p.removeLocked(s)
	}
}

func (p *ConnectionPool) removeLocked(s *Server) {
	delete(p.members, s)
	for _, list := range []*[]*Server{&p.left, &p.ready, &p.unasked} {
		if i := slices.Index(*list, s); i >= 0 {
			*list = slices.Delete(*list, i, i+1)
		}
	}
	s.asked = false
	if len(p.members) == 0 {
		p.timer.Stop()
		p.answerAllLocked(s)
	}
	p.news.Broadcast()
}

// wake has those who wait for news look at their time.
func (p *ConnectionPool) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.news.Broadcast()
}

// overLocked says whether nothing will come any more and everything is read.
func (p *ConnectionPool) overLocked() bool { return p.closed && len(p.members) == 0 }

// snapshot returns the clients that can be read, connected or not.
func (p *ConnectionPool) snapshot() []*Server {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.members))
}

// someoneLocked waits until there is a client, and says whether one has come. It
// gives up mu meanwhile.
func (p *ConnectionPool) someoneLocked(until time.Time) bool {
	if len(p.members) > 0 {
		return true
	}
	defer time.AfterFunc(time.Until(until), p.wake).Stop()
	for len(p.members) == 0 && !p.closed && time.Now().Before(until) {
		p.news.Wait()
	}
	return len(p.members) > 0
}

// addStats adds what all clients of a server of many have done.
func (p *ConnectionPool) addStats(total *Stats) {
	p.mu.Lock()
	total.add(p.totals)
	var now []*Server
	for s := range p.members {
		if !s.left && s != p.server {
			now = append(now, s)
		}
	}
	p.mu.Unlock()
	for _, s := range now {
		total.add(s.Stats())
	}
}

// close lets no client in any more.
func (p *ConnectionPool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.news.Broadcast()
}

// shutdown closes every client at the same time.
func (p *ConnectionPool) shutdown(ctx context.Context) error {
	p.close()
	clients := slices.DeleteFunc(p.snapshot(), func(s *Server) bool { return s == p.server })
	return each(clients, func(s *Server) error { return s.shutdown(ctx, byeShutdown) })
}

// each runs f for many clients at once and joins what goes wrong.
func each(clients []*Server, f func(*Server) error) error {
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
			if s.cur.Load() != nil && !s.leave.Load() && !yield(s) {
				return
			}
		}
	}
}

// Len returns how many clients are connected now.
func (p *ConnectionPool) Len() int {
	return len(slices.Collect(p.All()))
}

// Broadcast writes a message to every client that is connected, to all at the
// same time. A stuck client holds nobody up: if it has taken nothing when ctx
// ends, or after 1 second if ctx has no deadline, it does not get the message; if
// it has taken only part of it, it is disconnected. The error joins a
// [*ClientError] for each client that did not get the message, or not in time; its
// only other one is ErrReservedType. Without clients, and after Close, there is
// none. data is the caller's again when Broadcast returns.
func (p *ConnectionPool) Broadcast(ctx context.Context, msgType int, data []byte) error {
	if err := checkType(msgType); err != nil {
		return err
	}
	ctx, cancel := bounded(ctx, broadcastTime)
	defer cancel()
	return each(slices.Collect(p.All()), func(s *Server) error { return s.WriteContext(ctx, msgType, data) })
}

// ReadTimed calls callback once for each client, for different ones at the same
// time, with its next message, or with TimeoutMessage when it has none within
// d. It returns when the slowest callback has. Without a client it waits for
// one, at most d; one that comes during the call is in the next. After Close it
// calls back once, with the server, no message, and ErrClosed.
func (p *ConnectionPool) ReadTimed(d time.Duration, callback func(srv *Server, message *Message, err error)) {
	until := time.Now().Add(d)
	p.mu.Lock()
	p.someoneLocked(until)
	clients, over := slices.Collect(maps.Keys(p.members)), p.overLocked()
	p.mu.Unlock()
	if over {
		callback(p.server, nil, ErrClosed)
	}
	each(clients, func(s *Server) error {
		if m, err := s.ReadTimed(time.Until(until)); err == nil {
			callback(s, m, nil)
		} // else another reader took the last message
		return nil
	})
}

// Serve calls handler with every message of every client, those that tell of
// the status included. Each client has a goroutine of its own that also reads:
// there is no handoff, so this is the fastest way. Clients that come later
// are served too. Serve ends when ctx ends, with the error of ctx, or after
// Close, with ErrClosed; it waits for the handlers that are running. A handler
// may call Close, which does not wait for it.
func (p *ConnectionPool) Serve(ctx context.Context, handler func(srv *Server, message *Message)) error {
	var wg sync.WaitGroup
	start := func(s *Server) {
		wg.Add(1)
		go func() { // without frames for wg.Go and read an idle client's stack stays at 2 KiB
			defer wg.Done()
			for ctx.Err() == nil {
				m := new(Message)
				s.mu.Lock()
				err := s.readLocked(&call{ctx: mortal(ctx), shared: true}, m)
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
			if l := s.cur.Load(); l != nil {
				l.interrupt()
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

// Messages returns the messages of all clients as they come, those that tell of
// the status included. It is fair: a client that floods has its turn like any
// other, and its own socket holds it back. The sequence ends when ctx ends, and
// after Close when everything is read. Breaking off loses nothing.
func (p *ConnectionPool) Messages(ctx context.Context) iter.Seq2[*Server, *Message] {
	return func(yield func(*Server, *Message) bool) {
		p.listen()
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
			s := p.ready[0]
			p.ready = p.ready[1:]
			s.listed = false
			p.mu.Unlock()
			if m := p.pop(s); m != nil && !yield(s, m) {
				return
			}
		}
	}
}

// listen has the watchers of all clients read, now and from here on: somebody
// waits for all of them at once.
func (p *ConnectionPool) listen() {
	p.mu.Lock()
	begun := p.fanIn
	p.fanIn = true
	p.mu.Unlock()
	if begun {
		return
	}
	for _, s := range p.snapshot() {
		s.beEager()
		if s.unread.Load() > 0 {
			p.notify(s)
		}
	}
}

// notify notes that a client has something to read.
func (p *ConnectionPool) notify(s *Server) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !p.fanIn || !p.members[s]:
	case s.asked:
		p.replyLocked(s)
	case !s.listed:
		s.listed = true
		p.ready = append(p.ready, s)
		p.news.Broadcast()
	}
}

// pop takes a message that a client has, and puts the client in line again
// where it has more.
func (p *ConnectionPool) pop(s *Server) *Message {
	m := new(Message)
	if s.read(&call{queued: true}, m) != nil {
		return nil
	}
	if s.unread.Load() > 0 {
		p.notify(s)
	}
	return m
}

// ReadTimedFastest calls callback as ReadTimed does, and returns after the
// first one. The clients that have not answered stay asked, once each however
// many calls there are: when one answers, or when the time has passed, the
// callback of the newest call runs, perhaps after that call has returned. A
// newer call's callback and d take the place of the older's.
func (p *ConnectionPool) ReadTimedFastest(d time.Duration, callback func(srv *Server, message *Message, err error)) {
	until := time.Now().Add(d)
	p.listen()
	p.mu.Lock()
	p.latest, p.until = callback, until
	first := make(chan *Server, 1)
	for p.someoneLocked(until) {
		p.waiting = append(p.waiting, first)
		p.timer.Reset(time.Until(p.until))
		unasked := p.unasked
		p.unasked = nil
		for _, s := range unasked {
			p.askLocked(s)
		}
		p.mu.Unlock()
		if s := <-first; s == nil || p.answer(s) {
			return
		} // else another reader was faster
		p.mu.Lock()
	}
	over := p.overLocked()
	p.mu.Unlock()
	if over {
		callback(p.server, nil, ErrClosed)
	}
}

// askLocked has a client's next message, or its first one, answer.
func (p *ConnectionPool) askLocked(s *Server) {
	s.asked = p.members[s]
	if s.asked && s.unread.Load() > 0 {
		p.replyLocked(s)
	}
}

// replyLocked hands an asked client, which has something or is out of time, to
// the newest call that waits; where none does the callback runs by itself.
func (p *ConnectionPool) replyLocked(s *Server) {
	s.asked = false
	if n := len(p.waiting); n > 0 {
		p.waiting[n-1] <- s
		p.waiting = p.waiting[:n-1]
		return
	}
	go p.answer(s)
}

// answer calls back with what a client has. It returns false where that was
// nothing, since another reader took it: the client is still asked then.
func (p *ConnectionPool) answer(s *Server) bool {
	m := p.pop(s)
	p.mu.Lock()
	callback := p.latest
	if m == nil && p.members[s] && !time.Now().Before(p.until) {
		m = TimeoutMessage
	}
	if m == nil {
		p.askLocked(s)
	}
	p.mu.Unlock()
	if m == nil {
		return false
	}
	callback(s, m, nil)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.members[s] {
		p.unasked = append(p.unasked, s) // only now: one callback at a time for each client
	}
	return true
}

// late answers for all who have not, when the newest call's time has passed.
func (p *ConnectionPool) late() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Now().Before(p.until) {
		return // of a call that a newer one has replaced meanwhile
	}
	for s := range p.members {
		if s.asked {
			p.replyLocked(s)
		}
	}
	p.answerAllLocked(nil) // the others are busy with callbacks
}

// answerAllLocked hands s to every call that waits.
func (p *ConnectionPool) answerAllLocked(s *Server) {
	for _, first := range p.waiting {
		first <- s
	}
	p.waiting = nil
}
