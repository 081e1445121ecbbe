package gipc

// An event happens once, under the lock that guards it. The channel is made when
// somebody waits, so an idle connection has none.
type event struct {
	channel  chan struct{}
	happened bool
}

// happen wakes everybody who waits. Calling it again does nothing.
func (e *event) happen() {
	if e.happened {
		return
	}
	e.happened = true
	if e.channel != nil {
		close(e.channel)
	}
}

// wait returns a channel that is closed when the event has happened.
func (e *event) wait() <-chan struct{} {
	if e.channel == nil {
		e.channel = make(chan struct{})
		if e.happened {
			close(e.channel)
		}
	}
	return e.channel
}
