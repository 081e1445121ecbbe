// Every order of events in which two sides can close: what a nil Close means, what
// each side learns, and that nobody waits in vain.

package gipc

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/gipc/internal/eventlog"
	"example.com/gipc/internal/testutil"
	"example.com/gipc/internal/transport"
)

// The bounds are small, but the stream and the queue can be full.
const (
	mostWritten = 2 // messages that each application writes
	mostCuts    = 1
	wireRoom    = 2 // frames on the way in one direction
	unreadRoom  = 1 // messages that are queued for an application that does not read
)

// What comes on a wire: messages, closes, close-acks (their byte as a digit), a part
// of a frame; and the end of the stream.
const frameMessage, frameClose, framePart, streamEnd = "m", "c", "~", "end"

// A closePhase is what a side does, and the code that does it.
type closePhase uint8

const (
	sideOpen     closePhase = iota
	sideStopping            // Close has begun: endReading
	sideAwaiting            // its close is accepted: awaitCloseAck of closeConnection
	sideParting             // the peer's close came before its Close: disconnectLocked, teardown
	sideDraining            // it knows the outcome and sends the rest: closeConnection
	sideHanging             // it has ended its sending half: closeGracefully
	sideOver
)

// A closingSide is the real closeHandshake, and a model of what uses it.
type closingSide struct {
	closeHandshake
	phase       closePhase
	called      bool   // its application has called Close
	returned    bool   // Close has returned
	unconfirmed bool   // what Close returns: ErrUnconfirmed or nil
	told        string // how its reader saw the end: "", "close" or "loss"
	deaf        bool   // its application reads no more; else it reads what comes
	unread      int    // messages that are queued, if it is deaf
	received    int    // messages that the application has read or can read
	written     int    // messages that were accepted for sending
	accepted    string // frames that are not on the wire yet
	broken      bool   // a write has failed
}

// A closingWire is one direction of the stream.
type closingWire struct {
	frames string
	ended  bool // by its writer
	cut    bool // what is sent from now on is lost
}

// A closingState is that of everything. Side i sends on wires[i].
type closingState struct {
	sides   [2]closingSide
	wires   [2]closingWire
	cuts    int
	expired bool // a limit has expired
	refused bool // a close-ack was
}

// A closingView is the state as one side sees it.
type closingView struct {
	*closingSide
	peer    *closingSide
	out, in *closingWire
	state   *closingState
}

func (s *closingState) view(i int) closingView {
	return closingView{&s.sides[i], &s.sides[1-i], &s.wires[i], &s.wires[1-i], s}
}

// A closingRule is a step of a side: when it can, and what it does.
type closingRule struct {
	does string
	own  bool // the library does it: it needs no application, limit or cut
	can  func(v closingView) bool
	do   func(v closingView)
}

var closingRules = []closingRule{
	{"writes a message", false,
		func(v closingView) bool { return v.phase <= sideStopping && !v.broken && v.written < mostWritten },
		func(v closingView) { v.written++; v.accept(frameMessage) }},
	{"reads no more", false,
		func(v closingView) bool { return v.phase == sideOpen && !v.deaf },
		func(v closingView) { v.deaf = true }},
	{"calls Close", false,
		func(v closingView) bool { return !v.called },
		func(v closingView) { v.called, v.phase = true, max(v.phase, sideStopping) }},
	{"accepts its close for sending", true,
		func(v closingView) bool { return v.phase == sideStopping },
		func(v closingView) { v.phase, v.sentClose = sideAwaiting, true; v.accept(frameClose) }},
	{"sends a frame", true,
		func(v closingView) bool { return v.accepted != "" && len(v.out.frames) < wireRoom },
		func(v closingView) { v.out.frames += v.accepted[:1]; v.accepted = v.accepted[1:] }},
	{"receives a frame", true,
		func(v closingView) bool { return v.reads() && v.comes() != "" && v.comes() != streamEnd },
		closingView.receive},
	{"receives a close and a close-ack in one record", true,
		func(v closingView) bool {
			return v.reads() && v.comes() == frameClose && strings.ContainsAny(v.in.frames, "01")
		},
		func(v closingView) { v.receive(); v.receiveAck() }}, // checkRemainder does the latter
	{"receives the end of the stream", true,
		func(v closingView) bool { return v.reads() && v.comes() == streamEnd },
		func(v closingView) { v.finish(ErrTruncated) }},
	{"has no more time", false,
		func(v closingView) bool { return v.phase >= sideAwaiting && v.phase != sideOver },
		func(v closingView) { v.state.expired = true; v.finish(ErrTimeout) }},
	{"is cut off behind a frame: nothing that it sends from now on arrives", false,
		closingView.canBeCut,
		func(v closingView) { v.out.cut = true; v.state.cuts++ }},
	{"is cut off inside a frame: nothing that it sends from now on arrives", false,
		closingView.canBeCut,
		func(v closingView) { v.out.frames += framePart; v.out.cut = true; v.state.cuts++ }},
	{"sees a write fail", false,
		func(v closingView) bool { return !v.broken && !v.out.ended && (v.out.cut || v.peer.phase == sideOver) },
		func(v closingView) { v.broken, v.accepted = true, "" }},
	{"declares the connection lost, for a write has failed", false,
		func(v closingView) bool { return v.broken && (v.phase == sideOpen || v.phase == sideAwaiting) },
		func(v closingView) { v.finish(ErrNotConnected) }},
}

func (s *closingSide) accept(frame string) {
	if !s.broken {
		s.accepted += frame
	}
}

// acknowledge is that of connection.
func (s *closingSide) acknowledge() {
	if !s.sentClose {
		s.accept(frameClose)
	}
	s.sentClose, s.sentAck = true, true
	s.accept(string('0' + rune(s.ownAckCode())))
}

// A cut before frames that are on the way is one that came before they were sent.
func (v closingView) canBeCut() bool { return !v.out.cut && v.state.cuts < mostCuts }

// comes returns what the side can read now, or "".
func (v closingView) comes() string {
	switch {
	case v.in.frames != "" && v.in.frames != framePart:
		return v.in.frames[:1]
	case v.in.ended || v.in.cut:
		return streamEnd
	}
	return ""
}

// reads reports whether the side reads what comes.
func (v closingView) reads() bool {
	switch v.phase {
	case sideOpen:
		return v.comes() != frameMessage || v.unread < unreadRoom
	case sideStopping:
		return v.comes() != streamEnd
	case sideParting:
		return v.out.ended // part drains first
	}
	return v.phase == sideAwaiting || v.phase == sideHanging
}

func (v closingView) receive() {
	switch v.comes() {
	case frameMessage:
		v.receiveMessage()
	case frameClose:
		if v.noteClose() && v.phase == sideOpen {
			// disconnectLocked, in one step: no message is accepted between its total and its refusal.
			v.told, v.unconfirmed, v.phase = "close", v.written > 0, sideParting
			v.acknowledge()
		}
	default:
		v.receiveAck()
		return
	}
	v.in.frames = v.in.frames[1:]
}

func (s *closingSide) receiveMessage() {
	switch {
	case s.peerClosed: // it is for nobody
	case s.phase == sideAwaiting:
		s.noteDiscarded()
	default:
		s.received++
		if s.deaf {
			s.unread++
		}
	}
}

func (v closingView) receiveAck() {
	v.state.refused = v.noteAck(v.in.frames[0]-'0') != nil
	v.in.frames = v.in.frames[1:]
}

// finish has the side wait for nothing more, for the given cause.
func (v closingView) finish(cause error) {
	switch v.phase {
	case sideOpen: // disconnectLocked
		v.told, v.unconfirmed = "loss", v.written > 0
	case sideAwaiting, sideParting:
		v.learn(cause)
	case sideHanging:
		v.phase = sideOver
		return
	}
	v.hangUp()
}

// learn is the end of awaitCloseAck. teardown may only take back what disconnectLocked has noted.
func (s *closingSide) learn(cause error) {
	failed := s.deliveryResult(uint64(s.written), cause) != nil
	s.unconfirmed = failed && (s.unconfirmed || s.phase == sideAwaiting)
	s.phase = sideDraining
}

func (v closingView) hangUp() { v.phase, v.accepted, v.out.ended = sideHanging, "", true }

// goOn does what the side does without a wait.
func (v closingView) goOn() {
	if v.peer.phase >= sideHanging {
		v.out.frames = "" // discarded
	}
	if v.peer.phase >= sideHanging || v.out.cut {
		v.accepted = "" // sent, and for nobody
	}
	if v.phase == sideAwaiting && v.peerClosed && !v.sentAck {
		v.acknowledge()
	}
	drained := v.accepted == "" && !v.broken
	v.out.ended = v.out.ended || v.phase == sideParting && drained
	if v.ackReceived && (v.phase == sideAwaiting || v.phase == sideParting && drained) {
		v.learn(nil)
	}
	if v.phase == sideParting && v.broken || v.phase == sideDraining && (drained || v.broken || !v.sentAck) {
		v.hangUp()
	}
	v.returned = v.called && v.phase == sideOver
}

// forget makes states equal that differ in nothing that matters from here on.
func (v closingView) forget() {
	if v.phase != sideOpen {
		v.unread = 0
		v.deaf = v.deaf && !v.state.expired && v.state.cuts == 0
	}
	if v.phase >= sideHanging {
		v.broken = false
		v.closeHandshake = closeHandshake{sentClose: v.sentClose, messageDiscarded: v.messageDiscarded}
	}
	if v.phase == sideOver {
		v.told = ""
	}
	v.state.expired = v.state.expired && v.state.cuts == 0
}

// violation returns what must not be in any state.
func (v closingView) violation() string {
	switch {
	case v.state.refused:
		return "a close-ack of a correct peer is malformed"
	case v.returned && !v.unconfirmed && v.peer.received < v.written:
		return "Close returned nil, and the peer's process has not received everything"
	case v.returned && v.unconfirmed && v.written == 0:
		return "Close failed, and this side has sent nothing"
	case v.told == "close" && (!v.peer.sentClose || v.received < v.peer.written):
		return "a reader saw a close, and something is missing"
	case v.told == "loss" && v.state.cuts == 0 && !v.state.expired:
		return "a reader saw a loss, and there was none"
	}
	return v.wrongStep()
}

// wrongStep has copies of the handshake take steps to which only a faulty peer
// brings it.
func (s *closingSide) wrongStep() string {
	message, closed, acked, other := s.closeHandshake, s.closeHandshake, s.closeHandshake, s.closeHandshake
	message.noteDiscarded()
	due := s.sentClose && s.peerClosed && !s.ackReceived
	switch {
	case message.ownAckCode() != s.ownAckCode() && s.peerClosed:
		return "a message behind the peer's close counts as discarded"
	case closed.noteClose() == s.peerClosed || closed.noteClose():
		return "the first close is not taken for it, or another one is"
	case (acked.noteAck(allReceived) == nil) != due || acked.noteAck(allReceived) == nil:
		return "a close-ack is refused that is due, or one that is not due is accepted"
	case due && (other.noteAck(7) != nil || other.deliveryResult(1, nil) == nil):
		return "a close-ack of 7 is not read as one of 1"
	}
	return ""
}

// quietViolation returns what must not be in a state in which only applications,
// limits and cuts go on. Each step of the library uses up a frame or a phase, so
// such a state comes for certain if the applications do nothing.
func (v closingView) quietViolation() string {
	fair := v.state.cuts == 0 && !v.state.expired && !v.deaf && !v.peer.deaf
	lost := v.peer.received < v.written
	switch {
	case v.called && !v.returned && !v.heldUp():
		return "Close waits for its limit, and nothing holds it up"
	case fair && v.phase != v.peer.phase:
		return "one side is at the end, and the other one is not"
	case fair && v.phase == sideOver && v.unconfirmed != lost:
		return "a side takes for received what was discarded, or the other way round"
	case fair && v.phase == sideOver && lost && !(v.peer.called && v.peer.messageDiscarded):
		return "messages are missing, and nobody has discarded them"
	}
	return ""
}

// heldUp reports whether what the side sends waits for an application that reads no
// more: a message that finds no room is next.
func (v closingView) heldUp() bool {
	return v.peer.phase == sideOpen && v.peer.deaf && v.peer.unread == unreadRoom && strings.HasPrefix(v.out.frames, frameMessage)
}

// A closingNode is a state, and how it was reached first.
type closingNode struct {
	state  closingState
	parent int
	step   string
}

// TestExploreClose walks through all states, the nearest first, and checks each.
func TestExploreClose(t *testing.T) {
	t.Parallel()
	nodes, known := []closingNode{{}}, map[closingState]bool{{}: true}
	taken := map[string]bool{}
	quiet := 0
	for at := 0; at < len(nodes); at++ {
		state, goesOn := nodes[at].state, false
		for _, rule := range closingRules {
			for i, name := range []string{"A", "B"} {
				if !rule.can(state.view(i)) {
					continue
				}
				next := state.after(rule, i)
				taken[rule.does], goesOn = true, goesOn || rule.own
				if !known[next] && !known[next.mirrored()] {
					known[next] = true
					nodes = append(nodes, closingNode{next, at, name + " " + rule.does})
				}
			}
		}
		wrong := cmp.Or(state.view(0).violation(), state.view(1).violation())
		if !goesOn {
			quiet++
			wrong = cmp.Or(wrong, state.view(0).quietViolation(), state.view(1).quietViolation())
		}
		if wrong != "" {
			t.Fatalf("%s:%s\n%+v", wrong, closingTrace(nodes, at), state)
		}
	}
	for _, rule := range closingRules {
		if !taken[rule.does] {
			t.Errorf("no side ever %s", rule.does)
		}
	}
	t.Logf("%d states; in %d of them only applications, limits and cuts go on", len(nodes), quiet)
}

// after returns the state after a step of side i.
func (s closingState) after(rule closingRule, i int) closingState {
	rule.do(s.view(i))
	for _, i := range []int{0, 1, 0, 1} {
		s.view(i).goOn()
	}
	s.view(0).forget()
	s.view(1).forget()
	return s
}

// mirrored returns the state with its sides exchanged, which is as good.
func (s closingState) mirrored() closingState {
	s.sides[0], s.sides[1] = s.sides[1], s.sides[0]
	s.wires[0], s.wires[1] = s.wires[1], s.wires[0]
	return s
}

// closingTrace returns the steps to a state.
func closingTrace(nodes []closingNode, at int) string {
	if at == 0 {
		return ""
	}
	return closingTrace(nodes, nodes[at].parent) + "\n\t" + nodes[at].step
}

// A roleMode is a small system.
type roleMode struct {
	name           string
	kinds          string // of calls: 'c' has a context, which may never be done, 't' has a time, 'p' polls, 'r' is a request
	callers, conns int
	sizes          []int // of the peer's messages, in bytes
	single         bool  // the endpoint lives for one connection, and Serve reads it
	pooled         bool  // the pool may begin to read from all clients
	strays         int   // replies that may be under way beside one
	long           bool  // it has many states: GIPC_EXPLORE asks for it
	holds          bool  // the pool reads from all clients, and may keep too much
	blocks, fails  bool  // writes may block, or fail
}

const (
	half  = 40 << 10      // two such messages do not fit into the queue
	large = queueSize + 1 // nor does one of these
)

// A taskPlace is where a goroutine is that reads.
type taskPlace uint8

const (
	outside   taskPlace = iota
	inLine              // sleeps
	givingUp            // was woken by its context or its time, and needs the lock
	mustWake            // has preempted the background reader, and sleeps
	inTurn              // is the background reader, and begins a turn
	looking             // holds the role, and is about to look at its reasons to end
	inRead              // waits in a read of the transport
	hasResult           // has the result of receive, and needs the lock
)

// A roleTask is a goroutine that reads.
type roleTask struct {
	place  taskPlace
	kind   byte // of a call; 0 for the background reader
	over   bool // its context is done, or its time has passed
	why    error
	call   readCall
	waiter *readWaiter
	m      *Message // the result of receive
	err    error

	wait     *replyWait // of a call of kind r
	answered bool       // the peer has sent the reply
	late     bool       // it has waited in this stop for as long as a request may
}

// isCall reports whether t waits for a reply.
func (t *roleTask) isCall() bool { return t.wait != nil }

// mayWake reports whether what a sleeping call waits for has happened.
func (t *roleTask) mayWake() bool {
	return t.waiter != nil && len(t.waiter.wakeSignal) > 0 || t.isCall() && len(t.wait.call.doneSignal) > 0
}

// A roleWorld is a state. The endpoint, its role and its queue are real, and nearly all
// that is done with the lock held is called there. The model is the rest: where each
// goroutine is, what the transport and the decoder hold, who is interrupted. Left out
// are parts of messages, and heartbeats.
type roleWorld struct {
	*roleMode
	e             *endpoint
	c             *connection // nil while there is none
	tasks         [3]roleTask // two callers, and the background reader
	made, sent    int         // connections and messages
	wire, decoder []*Message  // in the transport; read, and not decoded
	ended         bool        // the stream ends behind the wire
	failed        *connection // of a write that has failed, and has not woken the reader yet
	closing       byte        // 'w' while Close waits for the role, 'd' once it has ended all reads
	exist, got    int         // messages that there are, and that callers have: a bit for each place in the stream
	held, resumes bool        // the pool keeps too much; it does not any more, and is about to resume its clients
	fault         string
}

var roleData = make([]byte, large)

// A reply is a message of the transport with this type, and Conn is its number.
const replyType = -2

// streamBit has one bit set, which says where in the stream a message is.
func streamBit(m *Message) int {
	switch {
	case m.MsgType == replyType:
		return 0
	case !m.isStatus():
		return 1 << m.MsgType
	case m.Is(Closed):
		return 1 << 10
	case m.Is(Connected):
		return 1 << (5*m.Conn - 5)
	}
	return 1 << (5*m.Conn - 1)
}

// A roleSource is a transport that notes when its reader is interrupted.
type roleSource struct {
	transport.Source
	interrupted bool
	drains      bool // the reader has the end of a time to drain for a deadline
}

func (s *roleSource) SetReadDeadline(time.Time) error { s.interrupted = true; return nil }
func (s *roleSource) End()                            {}

func newRoleConn(id int) *connection {
	conn := new(net.UnixConn) // not open
	return &connection{id: uint64(id), netConn: conn, source: new(roleSource), decoder: new(decoder), closeHandshake: new(closeHandshake),
		delivery: new(delivery), heartbeat: newHeartbeat(0), sender: &sender{sink: transport.NewSink(conn, nil, nil), sendQueue: sendQueue{callTable: new(callTable), openBatch: noBatch, activeBatch: noBatch}}}
}

// A rolePool stands for the pool and the endpoint of a world: it pauses the background
// reader while the world says so, and starts it as a step of the world.
type rolePool struct{ w *roleWorld }

func (p rolePool) startBackgroundReader() {
	p.w.startBackground(readCall{destination: destination{maxSize: p.w.e.queueRoomLocked()}})
}
func (rolePool) onReaderIdle() {} // that the pause has passed is a step

func (p rolePool) readsPaused() bool { return p.w.held }
func (rolePool) noteReadable()       {}
func (rolePool) noteFinished()       {}
func (rolePool) noteConsumed()       {}
func (rolePool) noteConnectionEnd()  {}

// clone copies all that a step may change.
func (w *roleWorld) clone() *roleWorld {
	n, role, life, queue := *w, *w.e.readRole, *w.e.lifecycle, &messageQueue{queuedBytes: w.e.unreadQueue.queuedBytes, statusCount: w.e.unreadQueue.statusCount}
	queue.messages, n.wire, n.decoder = slices.Clone(w.e.unreadQueue.messages), slices.Clone(w.wire), slices.Clone(w.decoder)
	n.e = &endpoint{settings: w.e.settings, buffers: w.e.buffers, lifecycle: &life, readRole: &role, unreadQueue: queue, deliveries: new(deliveryLedger),
		hooks: &endpointHooks{noReconnect: w.single}, pool: rolePool{&n}}
	n.e.closing.Store(w.e.closing.Load())
	copies := map[*openCall]*openCall{}
	for i := range n.tasks {
		if t := &n.tasks[i]; t.isCall() {
			t.copyWait(copies)
		}
	}
	if c := w.c; c != nil { // the parts that are shared do not matter here
		n.c = &connection{id: c.id, netConn: c.netConn, source: new(roleSource), decoder: c.decoder, closeHandshake: c.closeHandshake, delivery: c.delivery,
			heartbeat: c.heartbeat, sender: &sender{sink: c.sender.sink, sendQueue: sendQueue{callTable: copyTable(c.sender.callTable, copies), openBatch: c.sender.openBatch, activeBatch: c.sender.activeBatch}}}
		*n.source() = *w.source()
		n.c.preemptRequested.Store(c.preemptRequested.Load())
		n.c.pendingLoss.Store(c.pendingLoss.Load())
		n.c.sender.writeBlocked.Store(c.sender.writeBlocked.Load())
		n.e.currentConn.Store(n.c)
	}
	if w.failed == w.c {
		n.failed = n.c
	}
	role.waiters, role.replyWaiters = slices.Clone(role.waiters), slices.Clone(role.replyWaiters)
	for i := range n.tasks {
		if old := n.tasks[i].waiter; old != nil {
			copied := new(readWaiter)
			if t := &n.tasks[i]; t.isCall() {
				copied = &t.wait.leadWaiter
			}
			*copied = *old
			if copied.wakeSignal = make(chan struct{}, 1); len(old.wakeSignal) > 0 {
				copied.wakeSignal <- struct{}{}
			}
			for _, line := range [][]*readWaiter{role.waiters, role.replyWaiters} {
				if at := slices.Index(line, old); at >= 0 {
					line[at] = copied
				}
			}
			n.tasks[i].waiter = copied
		}
	}
	role.roleReleased.channel = nil // Close looks at happened
	role.owner = rolePool{&n}
	return &n
}

// copyWait copies the wait of a call, and notes the copy of the open call in it.
func (t *roleTask) copyWait(copies map[*openCall]*openCall) {
	old := t.wait
	t.wait = new(replyWait)
	*t.wait = *old
	t.wait.call.doneSignal = make(chan struct{}, 1)
	if len(old.call.doneSignal) > 0 {
		t.wait.call.doneSignal <- struct{}{}
	}
	t.wait.leadWaiter.wakeSignal = make(chan struct{}, 1) // a waiter copies the rest
	t.call.awaitedReply, copies[&old.call] = &t.wait.call, &t.wait.call
}

func copyTable(old *callTable, copies map[*openCall]*openCall) *callTable {
	n := &callTable{lastNumber: old.lastNumber, lastFlushed: old.lastFlushed, endErr: old.endErr}
	if old.openCalls != nil {
		n.openCalls = map[uint64]*openCall{}
	}
	for number, call := range old.openCalls {
		n.openCalls[number] = copies[call]
	}
	return n
}

func (w *roleWorld) source() *roleSource { return w.c.source.(*roleSource) }

func (w *roleWorld) startBackground(call readCall) {
	if w.tasks[2].place != outside {
		w.fault = "there are two background readers"
	}
	w.tasks[2] = roleTask{place: inTurn, call: call}
}

// begin begins a call of a kind.
func (w *roleWorld) begin(t *roleTask, kind byte) {
	*t = roleTask{kind: kind, call: readCall{noWait: kind == 'p', destination: destination{maxSize: unlimited}}}
	if kind != 'r' {
		w.enter(t)
		return
	}
	t.wait = getReplyWait(new(bufferPool))
	t.call.awaitedReply = &t.wait.call
	w.c.sender.callTable.addCall(&t.wait.call)
	w.c.sender.callTable.noteFlushed()
	w.await(t)
}

// calls returns the table of the open calls. That of a connection that is over is empty.
func (w *roleWorld) calls() *callTable {
	if w.c == nil {
		return new(callTable)
	}
	return w.c.sender.callTable
}

// await is a turn of awaitReply.
func (w *roleWorld) await(t *roleTask) {
	e, c := w.e, cmp.Or(w.c, &connection{sender: &sender{sendQueue: sendQueue{callTable: w.calls(), openBatch: new(batch)}}})
	_, done, _ := e.checkReplyLocked(cmp.Or(t.call.ctx, context.Background()), c, t.wait)
	switch {
	case done:
		w.calls().abandonCall(&t.wait.call)
		w.leave(t, nil)
	case t.wait.holdsRole:
		t.wait.holdsRole, t.call.destination.maxSize, t.place = false, e.queueRoomLocked(), looking
	default:
		if e.readRole.state == roleStopped && t.wait.stopCount != e.readRole.stopCount {
			t.wait.stopCount, t.late = e.readRole.stopCount, false
		}
		t.waiter, t.place = &t.wait.leadWaiter, inLine
		e.readRole.addReplyWaiter(t.waiter)
	}
}

// awakeCall is awaitReplyEvent behind the sleep.
func (w *roleWorld) awakeCall(t *roleTask) {
	t.wait.holdsRole = w.e.readRole.removeReplyWaiter(t.waiter)
	t.wait.timedOut = t.late && t.place == givingUp && w.e.readRole.state == roleStopped && w.e.readRole.stopCount == t.wait.stopCount
	t.waiter = nil
	w.await(t)
}

// enter is a turn of readNext.
func (w *roleWorld) enter(t *roleTask) {
	var m Message
	if w.e.readRole.state == roleFree && w.e.unreadQueue.isEmpty() && w.e.lifecycle.finalErr == nil {
		w.takeReplies(&t.call) // readBufferedLocked
	}
	switch e := w.e; {
	case e.popQueuedLocked(&t.call, &m):
		w.leave(t, &m)
	case e.lifecycle.finalErr != nil:
		w.leave(t, nil)
	case e.readRole.state == roleFree && len(w.decoder) > 0: // readBufferedLocked
		m, w.decoder = *w.decoder[0], w.decoder[1:]
		e.readRole.readCount++
		e.readRole.setFree()
		w.leave(t, &m)
	case e.readRole.state == roleFree || e.readRole.state == roleStopped:
		e.readRole.acquire()
		t.place = looking
	case t.call.noWait && e.readRole.state != roleBackground:
		w.leave(t, nil)
	default:
		if t.waiter, t.place = e.readRole.addWaiter(), inLine; t.call.noWait {
			w.awake(t)
		}
	}
}

// awake is awaitMessageOrRole behind the sleep, and the turn of readNext from there on.
func (w *roleWorld) awake(t *roleTask) {
	if t.isCall() {
		w.awakeCall(t)
		return
	}
	e, waiter, why := w.e, t.waiter, t.why
	t.why = nil
	waiting := e.readRole.removeWaiter(waiter)
	if waiting && t.call.noWait && e.readRole.state == roleBackground {
		waiter.noWait, e.readRole.waiters = true, append([]*readWaiter{waiter}, e.readRole.waiters...)
		w.c.preemptRequested.Store(true)
		w.c.interrupt()
		t.place = mustWake
		return
	}
	if t.waiter = nil; waiting {
		waiter = new(readWaiter) // it has got nothing
	}
	var m Message
	switch {
	case waiter.message != nil:
		e.copyToReaderLocked(&t.call, &m, waiter.message)
		w.leave(t, &m)
	case waiter.granted && why != nil:
		e.releaseRoleLocked()
		w.leave(t, nil)
	case waiter.granted && e.popQueuedLocked(&t.call, &m):
		e.releaseRoleLocked()
		w.leave(t, &m)
	case waiter.granted:
		t.place = looking
	case why != nil:
		w.leave(t, nil)
	default:
		w.enter(t)
	}
}

// leave ends a call, with a message or with an error.
func (w *roleWorld) leave(t *roleTask, m *Message) {
	if *t = (roleTask{}); m != nil {
		w.got += streamBit(m)
	}
}

// look is receive until it waits in a read.
func (w *roleWorld) look(t *roleTask) {
	w.source().interrupted, w.source().drains = false, w.c.pendingLoss.Load() != nil
	if len(w.decoder) > 0 {
		w.decode(t)
		return
	}
	_, t.err = w.c.endReason(&t.call)
	switch t.place = hasResult; {
	case t.err != nil:
	case !t.call.noWait && !t.over:
		t.place = inRead
	case len(w.wire) > 0 || w.ended:
		w.read(t)
	default:
		t.err = &interruption{ErrTimeout}
	}
}

// read takes all that the transport has.
func (w *roleWorld) read(t *roleTask) {
	w.decoder, w.wire = w.wire, nil
	w.decode(t)
}

// takeReplies delivers the replies that come next, and reports whether call ends with
// the last of them.
func (w *roleWorld) takeReplies(call *readCall) bool {
	for len(w.decoder) > 0 && w.decoder[0].MsgType == replyType {
		answered := w.calls().deliverReply(w.decoder[0].Conn, 1, nil, w.c.id)
		w.decoder = w.decoder[1:]
		if answered != nil && (call.anyReply || answered == call.awaitedReply) {
			return true
		}
	}
	return false
}

// decode ends receive with the next message, or with what stands in its place.
func (w *roleWorld) decode(t *roleTask) {
	before := len(w.decoder)
	if t.place, t.err = hasResult, errNeedRoom; w.takeReplies(&t.call) {
		t.err = errReplied
	} else if len(w.decoder) == 0 && before > 0 {
		t.place, t.err = looking, nil
	} else if len(w.decoder) == 0 {
		t.err = net.ErrClosed
	} else if m := w.decoder[0]; len(m.Data)+messageOverhead <= t.call.destination.maxSize {
		t.m, t.err, w.decoder = m, nil, w.decoder[1:]
	}
}

// report is what a caller does with the result of receive.
func (w *roleWorld) report(t *roleTask) {
	m, err := t.m, t.err
	t.m, t.err = nil, nil
	if t.isCall() {
		w.e.finishReplyReadLocked(w.c, &t.call, cmp.Or(m, new(Message)), err)
		w.noteLoss()
		w.await(t)
		return
	}
	done, _ := w.e.finishReadLocked(w.c, &t.call, cmp.Or(m, new(Message)), err)
	if w.noteLoss(); done {
		w.leave(t, m)
	} else {
		w.enter(t)
	}
}

// queue is what the background reader does with it.
func (w *roleWorld) queue(t *roleTask) {
	old, room := *t, w.e.queueRoomLocked()
	*t = roleTask{} // another one may start
	if old.err == errNeedRoom && room > old.call.destination.maxSize || w.e.queueReceivedLocked(w.c, cmp.Or(old.m, new(Message)), old.err) {
		old.call.destination.maxSize = w.e.queueRoomLocked()
		w.startBackground(old.call)
	}
	w.noteLoss()
}

// beginTurn is what it does before: it gives the role up if the pool keeps too much.
func (w *roleWorld) beginTurn(t *roleTask) {
	old := *t
	if *t = (roleTask{}); !w.e.pausedByPool(w.c) {
		*t = old
		w.look(t)
	}
	w.noteLoss()
}

// noteLoss takes the connection away if the endpoint has lost it. Messages are lost
// only where this side could not write.
func (w *roleWorld) noteLoss() {
	if w.c == nil || w.e.currentConn.Load() != nil {
		return
	}
	synctest.Wait() // for teardown
	if !w.ended && w.c.pendingLoss.Load() == nil {
		w.fault = "the connection is lost without a reason"
	}
	w.exist += 1 << (5*w.made - 1)
	if w.drained() {
		w.discard()
	}
	w.c, w.ended = nil, false
}

func (w *roleWorld) discard() {
	for _, m := range slices.Concat(w.decoder, w.wire) {
		w.exist -= streamBit(m)
	}
	w.decoder, w.wire = nil, nil
}

// drained reports whether a connection that cannot write is lost by now.
func (w *roleWorld) drained() bool {
	loss := w.c.pendingLoss.Load()
	return loss != nil && !time.Now().Before(loss.notBefore)
}

// close is endReading until it waits for the role.
func (w *roleWorld) close(*roleTask) {
	w.e.closing.Store(true)
	if s := w.e.readRole.state; s != roleReading && s != roleBackground {
		w.endReads(nil)
		return
	}
	w.closing = 'w'
	w.e.lifecycle.setStatus(Closing)
	w.e.readRole.acquireForClose()
	w.c.preemptRequested.Store(true)
	w.c.interrupt()
}

// endReads is endReading where it does not wait.
func (w *roleWorld) endReads(*roleTask) {
	for _, m := range w.decoder { // queueArrivedLocked: the real decoder has nothing
		w.e.deliverOrQueueLocked(m)
	}
	if w.decoder, w.closing = nil, 'd'; w.e.lifecycle.finalErr == nil {
		w.exist += 1 << 10
	}
	w.e.endReading()
	w.discard()
}

// A roleStep is what happens in one go. An inner one happens by itself, sooner or later;
// the others come from outside.
type roleStep struct {
	inner bool
	task  int // what it is done to; -1 is none
	what  string
	do    func(w *roleWorld, t *roleTask)
}

// steps returns what may happen next.
func (w *roleWorld) steps() (steps []roleStep) {
	add := func(when, inner bool, what string, do func(w *roleWorld, _ *roleTask)) {
		if when {
			steps = append(steps, roleStep{inner, -1, what, do})
		}
	}
	for i := range w.tasks {
		steps = w.taskSteps(steps, i)
	}
	open, always := w.closing == 0, w.e.readRole.fanIn
	add(w.e.readRole.idleTimerSet && w.closing != 'd', true, "the pause has passed", func(w *roleWorld, _ *roleTask) { w.e.onReaderIdle() })
	add(w.failed != nil, true, "the failed write wakes the reader", func(w *roleWorld, _ *roleTask) { w.e.wakeReader(w.failed); w.failed = nil })
	add(w.closing == 'w' && w.e.readRole.roleReleased.triggered, true, "Close has the role", (*roleWorld).endReads)
	add(w.resumes, true, "the pool resumes its clients", func(w *roleWorld, _ *roleTask) { w.resumes = false; w.e.resumeReading() })
	add(open, false, "Close", (*roleWorld).close)
	calls := w.calls()
	add(w.closing == 'd' && calls.hasOpenCalls(), true, "Close ends the requests", func(w *roleWorld, _ *roleTask) { w.calls().endAllCalls(errNoReply) })
	add(open && w.pooled && !always, false, "the pool begins to read", func(w *roleWorld, _ *roleTask) { w.e.enableFanIn() })
	add(open && w.holds, false, "the pool keeps too much, or does not any more", func(w *roleWorld, _ *roleTask) {
		w.held, w.resumes = !w.held, w.held
	})
	add(always && !w.e.unreadQueue.isEmpty(), false, "the pool takes a message", func(w *roleWorld, _ *roleTask) {
		var m Message
		w.e.popQueuedLocked(new(readCall), &m)
		w.got += streamBit(&m)
	})
	add(open && w.c == nil && w.made < w.conns, false, "a connection is attached", func(w *roleWorld, _ *roleTask) {
		w.exist += 1 << (5 * w.made)
		w.made++
		w.c = newRoleConn(w.made)
		w.e.attachConnection(w.c)
	})
	if !open || w.c == nil {
		return steps
	}
	add(!w.ended, false, "the peer ends the stream", func(w *roleWorld, _ *roleTask) { w.ended = true })
	add(!w.ended && w.sent < len(w.sizes), false, "the peer sends a message", func(w *roleWorld, _ *roleTask) {
		m := &Message{MsgType: 5*w.made - 4 + w.sent, Data: roleData[:w.sizes[w.sent]]}
		w.sent++
		w.exist += streamBit(m)
		w.wire = append(w.wire, m)
	})
	loss, blocked := w.c.pendingLoss.Load(), w.c.sender.writeBlocked.Load()
	add(w.fails && loss == nil, false, "a write fails", func(w *roleWorld, _ *roleTask) {
		w.failed = w.c
		w.c.failAt(ErrNotConnected, time.Now().Add(drainTimeout))
	})
	add(loss != nil && !w.drained(), false, "the time to drain passes", func(w *roleWorld, _ *roleTask) {
		w.c.pendingLoss.Store(&pendingLoss{cause: ErrNotConnected, notBefore: time.Now()})
		w.source().interrupted = w.source().interrupted || w.source().drains
		if w.e.readRole.state == roleStopped {
			w.e.wakeReader(w.c) // by the timer of stopReadingLocked
		}
	})
	add(w.blocks && !blocked, false, "a write blocks", func(w *roleWorld, _ *roleTask) {
		w.c.sender.flushing = true
		w.e.onWriteStalled(w.c)
		w.c.sender.flushing = false
	})
	add(blocked, false, "the blocked write ends", func(w *roleWorld, _ *roleTask) { w.c.sender.writeBlocked.Store(false) })
	return steps
}

// taskSteps adds what a goroutine that reads may do, and what may be done to it.
func (w *roleWorld) taskSteps(steps []roleStep, i int) []roleStep {
	t := &w.tasks[i]
	add := func(when, inner bool, what string, do func(w *roleWorld, t *roleTask)) {
		if when {
			steps = append(steps, roleStep{inner, i, what, do})
		}
	}
	for _, kind := range []byte(w.kinds) {
		possible := kind != 'r' || w.c != nil && w.closing == 0
		add(i < w.callers && t.place == outside && possible, false, "calls, kind "+string(kind), func(w *roleWorld, t *roleTask) { w.begin(t, kind) })
	}
	add((t.kind == 'c' || t.kind == 't' || t.kind == 'r') && !t.over, false, "has to end", (*roleWorld).endCall)
	add(t.waiter != nil && t.place != givingUp && t.mayWake(), true, "is woken", func(w *roleWorld, t *roleTask) {
		select {
		case <-t.waiter.wakeSignal:
		default:
			<-t.wait.call.doneSignal
		}
		w.awake(t)
	})
	add(t.isCall() && !t.answered && w.c != nil && !w.ended && w.replies() <= w.strays, false, "gets a reply", func(w *roleWorld, t *roleTask) {
		t.answered = true
		w.wire = append(w.wire, &Message{MsgType: replyType, Conn: t.wait.call.requestNumber})
	})
	add(t.isCall() && t.place == inLine && w.e.readRole.state == roleStopped && !t.late, false, "has waited for long enough", func(_ *roleWorld, t *roleTask) {
		t.place, t.late = givingUp, true
	})
	add(t.place == inLine && t.over, true, "wakes up, since it has to end", func(_ *roleWorld, t *roleTask) {
		t.place, t.why, t.call.noWait = givingUp, ErrTimeout, t.kind == 't'
	})
	add(t.place == givingUp, true, "gives up", (*roleWorld).awake)
	add(t.place == inTurn, true, "begins a turn", (*roleWorld).beginTurn)
	add(t.place == looking, true, "looks", (*roleWorld).look)
	add(t.place == inRead && (len(w.wire) > 0 || w.ended), true, "reads", (*roleWorld).read)
	add(t.place == inRead && w.source().interrupted, true, "is interrupted", func(_ *roleWorld, t *roleTask) { t.place = looking })
	add(t.place == hasResult && t.kind == 0, true, "has a result", (*roleWorld).queue)
	add(t.place == hasResult && t.kind != 0, true, "has a result", (*roleWorld).report)
	return steps
}

// endCall has the context of a call done, or its time passed.
func (w *roleWorld) endCall(t *roleTask) {
	if t.over = true; t.kind != 't' {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		t.call.ctx = ctx
	}
	if t.place == inRead {
		w.c.interrupt()
	}
}

// replies returns how many replies are under way.
func (w *roleWorld) replies() (n int) {
	for _, m := range slices.Concat(w.decoder, w.wire) {
		if m.MsgType == replyType {
			n++
		}
	}
	return n
}

// checkHolder: the state says who holds the role, and nobody waits for what is there.
func (w *roleWorld) checkHolder() string {
	callers, waiting, watched, s := 0, 0, w.tasks[2].place != outside, w.e.readRole.state
	calls, stuck := 0, false
	for _, t := range w.tasks[:2] {
		if slices.Contains(w.e.readRole.replyWaiters, t.waiter) {
			calls++
			stuck = stuck || !t.mayWake()
		}
		if slices.Contains(w.e.readRole.waiters, t.waiter) {
			waiting++
		}
		if t.place >= looking || t.waiter != nil && t.waiter.granted {
			callers++
		}
	}
	switch {
	case callers > 1 || (callers == 1) != (s == roleReading) || watched != (s == roleBackground) || (w.c == nil) != (s == roleNoConnection) && s != roleClosing:
		return fmt.Sprintf("in state %d %d callers hold the role, the background reader: %t, there is a connection: %t", s, callers, watched, w.c != nil)
	case waiting != len(w.e.readRole.waiters) || calls != len(w.e.readRole.replyWaiters):
		return "a caller is in line that is gone"
	case waiting > 0 && (s == roleFree || s == roleStopped || !w.e.unreadQueue.isEmpty()):
		return "a caller waits, and nobody reads or the queue has messages"
	case stuck && (s == roleFree || s == roleNoConnection || s == roleStopped && w.e.queueRoomLocked() == unlimited && !w.held):
		return "a request waits, and nobody reads"
	case s == roleFree && (w.e.readRole.fanIn || w.c.pendingLoss.Load() != nil && w.failed == nil):
		return "nobody reads, though the pool or a pending loss needs it"
	}
	return ""
}

// checkMessages: each is in one place, in order, and the queue's sums are right.
func (w *roleWorld) checkMessages() string {
	all, line := w.got, slices.Clone(w.e.unreadQueue.messages)
	var sums messageQueue
	for _, m := range line {
		sums.adjustCounts(m, 1)
	}
	switch q := w.e.unreadQueue; {
	case q.queuedBytes != sums.queuedBytes || q.statusCount != sums.statusCount:
		return "the sums of the queue are wrong"
	case !w.e.readRole.fanIn && !w.blocks && !strings.Contains(w.kinds, "r") && w.closing != 'd' && q.queuedBytes > queueSize+(q.statusCount+1)*messageOverhead:
		return "the queue holds too much"
	}
	for i, t := range w.tasks {
		if t.waiter != nil && t.waiter.message != nil {
			all += streamBit(t.waiter.message)
		}
		switch {
		case t.m != nil && (i == 2 || t.isCall()):
			line = append(line, t.m)
		case t.m != nil:
			all += streamBit(t.m)
		}
	}
	for _, m := range slices.Concat(line, w.decoder, w.wire) {
		if bit := streamBit(m); bit > 0 && all >= bit {
			return "a message is handed out before an earlier one"
		}
		all += streamBit(m)
	}
	if all != w.exist {
		return fmt.Sprintf("a message is lost, or is there twice: %011b exist, %011b are there", w.exist, all)
	}
	return ""
}

// checkLine: callers are served in order of arrival, and a role that is given up goes
// to the first of them.
func (w *roleWorld) checkLine(before *roleWorld) string {
	left, waits, served := false, false, false
	for i, t := range before.tasks {
		left = left || t.place >= inTurn && w.tasks[i].place < inTurn
	}
	for _, waiter := range before.e.readRole.waiters {
		i := slices.IndexFunc(before.tasks[:], func(t roleTask) bool { return t.waiter == waiter })
		switch now := w.tasks[i].waiter; {
		case now == nil: // it has left
		case !now.granted && now.message == nil:
			waits = waits || slices.Contains(w.e.readRole.waiters, now)
		case waits:
			return "a caller is served before one that has waited for longer"
		default:
			served = true
		}
	}
	if left && waits && !served && w.c != nil && !w.e.closing.Load() {
		return "the role is given up, and the first in line gets nothing"
	}
	return ""
}

// checkRest returns what is wrong with a state in which nothing happens by itself.
func (w *roleWorld) checkRest() string {
	s, always := w.e.readRole.state, w.e.readRole.fanIn
	for _, t := range w.tasks[:2] {
		if t.place != outside && (t.place != inRead || t.over) && (t.place != inLine || s == roleClosing) {
			return "a caller waits forever"
		}
	}
	switch {
	case w.closing == 'w':
		return "Close waits forever"
	case w.c == nil || w.closing == 'd':
	case s == roleFree:
		return "nobody reads, and the background reader will not start"
	case w.drained():
		return "the connection is lost, and nobody notices"
	case s != roleStopped || w.held || always && w.e.unreadQueue.queuedBytes > queueSize/2:
	case len(w.decoder) == 0 || len(w.decoder[0].Data)+messageOverhead <= w.e.queueRoomLocked():
		return "nobody reads, and the queue has room"
	}
	return ""
}

// key returns what decides about the future. Callers are alike: first is the one that
// comes first.
func (w *roleWorld) key(first int) string {
	r, k := w.e.readRole, make([]byte, 0, 96)
	add := func(bits ...bool) {
		b := byte(0)
		for _, bit := range bits {
			if b <<= 1; bit {
				b++
			}
		}
		k = append(k, b)
	}
	k = append(k, byte(r.state), byte(w.made), byte(w.sent), w.closing, byte(w.e.lifecycle.status))
	add(w.held, w.resumes, w.failed != nil, w.failed == w.c)
	add(r.fanIn, r.idleTimerSet, r.readCount == 0, r.readCount == r.idleReadCount, r.roleReleased.triggered, w.e.lifecycle.finalErr != nil)
	if w.c != nil {
		add(w.ended, w.c.preemptRequested.Load(), w.source().interrupted, w.source().drains, w.c.sender.writeBlocked.Load(), w.c.pendingLoss.Load() != nil, w.drained())
	}
	for _, i := range []int{first, 1 - first, 2} {
		t := &w.tasks[i]
		_, stop := t.err.(*interruption)
		k = append(k, byte(t.place), t.kind, byte(t.call.destination.maxSize), byte(t.call.destination.maxSize>>8), byte(t.call.destination.maxSize>>16))
		add(t.over, t.why != nil, t.call.noWait, t.err != nil, t.err == errNeedRoom, t.err == error(preempted), stop)
		if t.waiter != nil {
			add(len(t.waiter.wakeSignal) > 0, t.waiter.granted, t.waiter.message != nil)
		}
		if t.isCall() {
			add(true, t.answered, len(t.wait.call.doneSignal) > 0, t.wait.call.ended, t.late, t.wait.stopCount == r.stopCount, t.err == errReplied)
		}
	}
	for _, waiter := range r.waiters {
		add(waiter == w.tasks[first].waiter)
	}
	k = append(k, '|')
	for _, waiter := range r.replyWaiters {
		add(waiter == w.tasks[first].waiter)
	}
	for _, list := range [][]*Message{w.e.unreadQueue.messages, w.decoder, w.wire} {
		k = append(k, '|')
		for _, m := range list {
			of := 0
			for place, i := range []int{first, 1 - first} {
				if t := &w.tasks[i]; m.MsgType == replyType && t.isCall() && t.wait.call.requestNumber == m.Conn {
					of = place + 1
				}
			}
			k = append(k, byte(len(m.Data)>>12), byte(of), byte(m.MsgType>>8)) // no data and type -1 is a status
		}
	}
	return string(k)
}

// A roleWalk has the states that were reached, in the order of their distance.
type roleWalk struct {
	*testing.T
	number map[string]int
	states []walkedState
}

type walkedState struct {
	world *roleWorld // nil once its steps are done
	from  int
	step  roleStep
	next  []int // by inner steps
	mark  byte  // of endless
}

// add returns the number of a state.
func (x *roleWalk) add(w *roleWorld, from int, step roleStep) int {
	key := min(w.key(0), w.key(w.callers-1))
	n, known := x.number[key]
	if !known {
		n = len(x.states)
		x.number[key] = n
		x.states = append(x.states, walkedState{world: w, from: from, step: step})
	}
	return n
}

// expand does all steps of a state.
func (x *roleWalk) expand(i int) {
	w := x.states[i].world
	for _, step := range w.steps() {
		next := w.clone()
		step.do(next, &next.tasks[max(step.task, 0)])
		n := x.add(next, i, step)
		if step.inner {
			x.states[i].next = append(x.states[i].next, n)
		}
		x.report(i, cmp.Or(next.fault, next.checkHolder(), next.checkMessages(), next.checkLine(w)), step)
	}
	if len(x.states[i].next) == 0 {
		x.report(i, w.checkRest())
	}
	x.states[i].world = nil
}

// report prints the shortest way to a fault: to a state, and from there on.
func (x *roleWalk) report(i int, fault string, steps ...roleStep) {
	if fault == "" {
		return
	}
	for ; i > 0; i = x.states[i].from {
		steps = append(steps, x.states[i].step)
	}
	var way []string
	for _, step := range slices.Backward(steps) {
		way = append(way, [...]string{"", "reader 1 ", "reader 2 ", "the background reader "}[step.task+1]+step.what)
	}
	x.Fatalf("%s, after:\n\t%s", fault, strings.Join(way, "\n\t"))
}

// endless reports whether inner steps may go on forever.
func (x *roleWalk) endless(i int) bool {
	s := &x.states[i]
	if s.mark == 0 {
		s.mark = 'o'
		if !slices.ContainsFunc(s.next, x.endless) {
			s.mark = 'd'
		}
	}
	return s.mark == 'o'
}

// walk reaches every state.
func (x *roleWalk) walk(mode *roleMode) {
	w := &roleWorld{roleMode: mode, e: new(endpoint)}
	w.e.init(&settings{eventLog: new(eventlog.Log)}, new(bufferPool), nil)
	w.e.readRole.deferBackground, w.e.readRole.fanIn = mode.single, mode.holds
	x.add(w.clone(), 0, roleStep{})
	for i := 0; i < len(x.states); i++ {
		x.expand(i)
	}
	for i := range x.states {
		if x.endless(i) {
			x.report(i, "the same may happen again and again")
		}
	}
	x.Logf("%d states", len(x.states))
}

// TestExploreRole walks through every order of events. In every state one task holds
// the role, and messages are in order and complete. Where nothing more happens by
// itself, nobody waits for what is there, and after Close nobody waits.
//
// GIPC_EXPLORE=1 explores the large systems, too. One goroutine runs at a time, so there is little for the race detector to see.
func TestExploreRole(t *testing.T) {
	t.Parallel()
	for i, mode := range []roleMode{
		{name: "calls", callers: 2, kinds: "cp", conns: 1, sizes: []int{half}},
		{name: "times", callers: 2, kinds: "t", conns: 1, sizes: []int{large}},
		{name: "connections", callers: 2, kinds: "p", conns: 2, sizes: []int{half}},
		{name: "queue", callers: 1, kinds: "c", conns: 1, sizes: []int{half, half, large}},
		{name: "pool", callers: 1, kinds: "c", conns: 1, sizes: []int{large, half}, pooled: true},
		{name: "pool and polls", callers: 2, kinds: "p", conns: 1, sizes: []int{half}, pooled: true},
		{name: "blocked writes", callers: 1, kinds: "c", conns: 1, sizes: []int{half, large}, blocks: true},
		{name: "failed writes", callers: 2, kinds: "p", conns: 1, sizes: []int{large}, fails: true},
		{name: "held back", callers: 2, kinds: "cp", conns: 1, sizes: []int{half}, holds: true},
		{name: "requests", callers: 2, kinds: "r", conns: 1, sizes: []int{half}, strays: 1},
		{name: "requests and readers", callers: 2, kinds: "rc", conns: 1},
		{name: "requests and polls", callers: 2, kinds: "rp", conns: 1},
		{name: "requests and the queue", callers: 1, kinds: "r", conns: 1, sizes: []int{large, half}},
		{name: "requests over connections", callers: 2, kinds: "r", conns: 2},
		{name: "requests in a pool", callers: 1, kinds: "r", conns: 1, sizes: []int{half, half, half}, pooled: true, long: true},
		{name: "requests held back", callers: 1, kinds: "r", conns: 1, sizes: []int{half}, holds: true, long: true},
		{name: "requests and failed writes", callers: 1, kinds: "r", conns: 1, fails: true, sizes: []int{large}},
		{name: "serve", callers: 2, kinds: "c", conns: 1, sizes: []int{half}, single: true},
	} {
		switch {
		case mode.long && os.Getenv("GIPC_EXPLORE") == "":
			continue
		case testutil.RaceEnabled && i > 0:
			continue
		}
		t.Run(mode.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) { // time stands still
				(&roleWalk{T: t, number: map[string]int{}}).walk(&mode)
			})
		})
	}
}
