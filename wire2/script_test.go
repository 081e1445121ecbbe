// A connection whose other side is a list of bytes.

package wire2

import (
	"bytes"
	"errors"
	"net"
	"time"
)

// errBeyondScript means that the side under test waits for more than it needs.
var errBeyondScript = errors.New("it waits for more than it needs")

// A script sends bytes, then ends with an error, and records what it gets.
type script struct {
	net.Conn
	sends  []byte
	piece  int   // the longest read, or 0
	end    error // nil: errBeyondScript
	broken error // of every write, or nil
	got    bytes.Buffer
	ended  bool
}

func (s *script) Read(b []byte) (int, error) {
	if len(s.sends) == 0 {
		if s.end == nil {
			return 0, errBeyondScript
		}
		return 0, s.end
	}
	if s.piece > 0 {
		b = b[:min(len(b), s.piece)]
	}
	n := copy(b, s.sends)
	s.sends = s.sends[n:]
	return n, nil
}

func (s *script) Write(b []byte) (int, error) {
	if s.broken != nil {
		return 0, s.broken
	}
	return s.got.Write(b)
}

func (s *script) CloseWrite() error                { s.ended = true; return nil }
func (s *script) Close() error                     { return nil }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }
