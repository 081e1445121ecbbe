// Every order of events in which two sides can close: what a nil Close means, what
// each side learns, and that nobody waits in vain.

package gipc

import (
	"cmp"
	"strings"
	"testing"
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
	sideStopping            // Close has begun: stopReadingLocked
	sideAwaiting            // its close is accepted: awaitAck of closeConnection
	sideParting             // the peer's close came before its Close: loseLocked, part
	sideDraining            // it knows the outcome and sends the rest: closeConnection
	sideHanging             // it has ended its sending half: hangUp
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
		func(v closingView) { v.receive(); v.receiveAck() }}, // checkRecord does the latter
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
	s.accept(string('0' + rune(s.ackByte())))
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
		if v.onClose() && v.phase == sideOpen {
			// loseLocked, in one step: no message is accepted between its total and its refusal.
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
		s.onMessage()
	default:
		s.received++
		if s.deaf {
			s.unread++
		}
	}
}

func (v closingView) receiveAck() {
	v.state.refused = v.onAck(v.in.frames[0]-'0') != nil
	v.in.frames = v.in.frames[1:]
}

// finish has the side wait for nothing more, for the given cause.
func (v closingView) finish(cause error) {
	switch v.phase {
	case sideOpen: // loseLocked
		v.told, v.unconfirmed = "loss", v.written > 0
	case sideAwaiting, sideParting:
		v.learn(cause)
	case sideHanging:
		v.phase = sideOver
		return
	}
	v.hangUp()
}

// learn is the end of awaitAck. part may only take back what loseLocked has noted.
func (s *closingSide) learn(cause error) {
	failed := s.outcome(uint64(s.written), cause) != nil
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
	if v.acked && (v.phase == sideAwaiting || v.phase == sideParting && drained) {
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
		v.closeHandshake = closeHandshake{sentClose: v.sentClose, discarded: v.discarded}
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
	message.onMessage()
	due := s.sentClose && s.peerClosed && !s.acked
	switch {
	case message.ackByte() != s.ackByte() && s.peerClosed:
		return "a message behind the peer's close counts as discarded"
	case closed.onClose() == s.peerClosed || closed.onClose():
		return "the first close is not taken for it, or another one is"
	case (acked.onAck(allReceived) == nil) != due || acked.onAck(allReceived) == nil:
		return "a close-ack is refused that is due, or one that is not due is accepted"
	case due && (other.onAck(7) != nil || other.outcome(1, nil) == nil):
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
	case fair && v.phase == sideOver && lost && !(v.peer.called && v.peer.discarded):
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
