// The end of the sending half of a connection by close or by a loss.

package gipc

// queueClose sends a control frame behind the accepted frames, refuses users' later
// frames with reason, and ends all waiting calls. A frame whose data is not copied
// is withdrawn. A call whose frame may still arrive returns ErrUnconfirmed, wrapping
// reason. queueClose does not wait.
func (s *sender) queueClose(reason error, control [2]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuseNewFramesLocked(reason)
	if !s.sendBroken {
		s.appendControlsLocked(control)
		s.releaseUserCallsLocked(reason)
	}
}

// queueCloseAck sends control frames behind the accepted frames, and refuses users'
// later frames with reason. Frames in the open batch are withdrawn if their data is
// not copied or if they are requests, because the peer does not reply any more.
// Calls that wait for other frames continue to wait, because the peer still receives
// them. queueCloseAck does not wait.
func (s *sender) queueCloseAck(reason error, controls ...[2]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuseNewFramesLocked(reason)
	if s.sendBroken {
		return
	}
	s.withdrawRequestsLocked(reason)
	s.appendControlsLocked(controls...)
	s.scheduleFlushLocked()
}

// releaseUserCalls ends the calls that still wait after queueCloseAck. They return
// ErrUnconfirmed, wrapping cause.
func (s *sender) releaseUserCalls(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.releaseUserCallsLocked(cause)
}

// refuseNewFramesLocked refuses users' later frames with reason. A frame in the open
// batch whose data is not copied is withdrawn.
func (s *sender) refuseNewFramesLocked(reason error) {
	if s.refusalErr == nil {
		s.refusalErr = reason
	}
	if s.openBatch.largeData != nil {
		s.withdrawLargeFrameLocked(reason)
	}
	s.wakeRoomWaitersLocked()
}

// releaseUserCallsLocked ends users' waiting calls with ErrUnconfirmed, wrapping
// cause. Their frames are sent in the background.
func (s *sender) releaseUserCallsLocked(cause error) {
	s.endUserFlushesLocked()
	s.refusalCause = cause
	unconfirmed := newError(ErrUnconfirmed, cause, "the message was accepted and is still being sent")
	s.releaseWaitersLocked(s.activeBatch, unconfirmed, (*writeWaiter).isUserCall)
	s.releaseWaitersLocked(s.openBatch, unconfirmed, (*writeWaiter).isUserCall)
	s.openBatch.urgent = !s.openBatch.isEmpty()
	s.sink.Interrupt()
	s.scheduleFlushLocked()
}

// endUserFlushesLocked hands over the flush in progress, and all later ones, to the
// background.
func (s *sender) endUserFlushesLocked() {
	s.backgroundOnly = true
	s.handoverRequested.Store(true)
}

// abandonSending ends the sending half of a lost connection. Users' calls return
// reason, or ErrUnconfirmed wrapping cause if some of their frame may have arrived.
// It returns how many messages of Queue were lost.
func (s *sender) abandonSending(reason, cause error) lostMessages {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endUserFlushesLocked()
	if !s.sendBroken {
		s.endSendingLocked(reason, cause)
	}
	s.releaseWaitersLocked(s.activeBatch, newError(ErrUnconfirmed, cause, "the connection was lost while the message was being sent"), anyWaiter)
	s.sentTotals.lost.uncertain += s.activeBatch.queuedMessages
	s.activeBatch.queuedMessages = 0
	s.sink.Interrupt()
	lost := s.sentTotals.lost
	s.sentTotals.lost = lostMessages{}
	return lost
}
