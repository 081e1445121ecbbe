// The close handshake of version 3, as the connection plays it. Version 2 knows
// the end of the stream alone.

package wire2

// closeState decides when the library gets a close and a close-ack. It is not
// safe for concurrent use.
type closeState struct {
	streamEnded   bool // the peer has ended its stream between two frames
	keyExhausted  bool // the key has reached its limit: this side ends the connection
	libraryClosed bool // the library has sent its close
	closeSent     bool // to the library
	ackSent       bool // to the library
}

// framesDue returns the frames that the library is to receive now, and records
// them as sent. The close comes first. The close-ack says that the peer has
// received everything before the library's close; the end of its stream is the
// only sign of that in version 2.
func (s *closeState) framesDue() (frames []byte) {
	if (s.streamEnded || s.keyExhausted) && !s.closeSent {
		s.closeSent = true
		frames = append(frames, controlFrame(kindClose, 0)...)
	}
	if s.streamEnded && s.libraryClosed && !s.ackSent {
		s.ackSent = true
		frames = append(frames, controlFrame(kindCloseAck, 0)...)
	}
	return frames
}
