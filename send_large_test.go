package gipc

import (
	"crypto/cipher"
	"testing"
	"testing/synctest"
)

// TestSenderLargeDataOfAnotherFlush: a call with large data that waits while
// another call flushes the batch returns before the flusher has copied the data.
func TestSenderLargeDataOfAnotherFlush(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		end  func(t *senderTest, call *senderCall)
		want string
		sent string // behind the frames
	}{
		"its context is done": {func(t *senderTest, call *senderCall) { call.stop() }, "unconfirmed canceled", ""},
		"closeWith":           {func(t *senderTest, _ *senderCall) { t.s.closeWith(errReason, closeFrame) }, "unconfirmed reason", " close"},
		"dismiss": {func(t *senderTest, _ *senderCall) {
			t.s.acknowledgeWith(errReason, closeFrame, ackFrame)
			t.s.dismiss(errReason)
		}, "unconfirmed reason", " close ack"},
		"abandon": {func(t *senderTest, _ *senderCall) { t.s.abandon(errReason, errCause) }, "unconfirmed cause", ""},
	} {
		t.Run(name, func(t *testing.T) {
			eachSender(t, func(t *senderTest) {
				t.write('A', 10)
				t.write('B', 10)
				large := t.write('C', 20_000)
				release := func() {}
				if t.encrypted { // sealing takes time, too
					slow := &slowAEAD{t.s.cipher.aead, make(chan struct{})}
					t.s.cipher.aead = slow
					release = func() { close(slow.release) }
				}
				t.sink.finishWrite() // A returns, and B flushes its own frame and C
				large.wantWaiting()
				c.end(t, large)
				synctest.Wait()
				release()
				synctest.Wait()
				large.want(c.want) // from here on its caller may use the memory again
				t.sink.takeAll()
				t.wantSent("A B C" + c.sent)
			})
		})
	}
}

// TestSenderDismissCause: dismiss promises ErrUnconfirmed, wrapping its cause.
// The call that flushes gets the reason of acknowledgeWith instead. The endpoint's
// reason is an ErrNotConnected, so the error of a message that may arrive says that
// nothing of it was sent.
func TestSenderDismissCause(t *testing.T) {
	t.Parallel()
	eachSender(t, func(t *senderTest) {
		a, b := t.write('A', 10), t.write('B', 10)
		t.s.acknowledgeWith(fail(ErrNotConnected, errReason, "the peer has closed the connection"), closeFrame, ackFrame)
		t.s.dismiss(errCause)
		synctest.Wait()
		b.want("unconfirmed cause")
		a.want("unconfirmed cause")
		t.sink.takeAll()
		t.wantSent("A B close ack")
	})
}

// slowAEAD seals when it is released.
type slowAEAD struct {
	cipher.AEAD
	release chan struct{}
}

func (a *slowAEAD) Seal(dst, nonce, plaintext, additional []byte) []byte {
	<-a.release
	return a.AEAD.Seal(dst, nonce, plaintext, additional)
}

// TestSenderNoRoomBehindQueuedFrames: a write waits for room in a batch of
// queued frames that has less than headerSize bytes left. When the flush in
// progress ends, passLocked does not flush queued frames, and wakeNextLocked does
// not wake the write, because no header fits. It waits until another call sends.
func TestSenderNoRoomBehindQueuedFrames(t *testing.T) {
	t.Parallel()
	for _, free := range []int{headerSize, headerSize - 1, 1} { // bytes left; the first one works
		eachSender(t, func(t *senderTest) {
			a := t.write('A', 10)
			t.queueAll("BCDE", 15_000-headerSize)
			t.queueAll("F", batchSize-4*15_000-headerSize-free)
			g := t.write('G', 10)
			t.sink.takeAll()
			a.want("nil")
			g.want("nil")
			t.wantSent("A B C D E F G")
		})
	}
}
