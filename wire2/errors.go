// Error texts: what failed, why, and what to do.

package wire2

import (
	"errors"
	"io"
	"strings"
	"syscall"
)

// A failure is an error of this package. It matches a sentinel of gipc and wraps
// the cause, if there is one.
type failure struct {
	kind   error // a sentinel of gipc, or nil if the cause says it all
	cause  error // may be nil
	what   string
	why    string
	advice string // may be empty
}

func newFailure(kind error, what, why, advice string) error {
	return &failure{kind: kind, what: what, why: why, advice: advice}
}

func (f *failure) Error() string {
	text := "gipc: wire2: " + f.what + ": " + f.why
	if f.cause != nil {
		text += ": " + strings.TrimPrefix(f.cause.Error(), "gipc: ")
	}
	if f.advice != "" {
		text += ": " + f.advice
	}
	return text
}

func (f *failure) Unwrap() []error {
	var wrapped []error
	if f.kind != nil {
		wrapped = append(wrapped, f.kind)
	}
	if f.cause != nil {
		wrapped = append(wrapped, f.cause)
	}
	return wrapped
}

// looksLike names the program that the first byte of a peer suggests.
func looksLike(first byte) string {
	switch first {
	case 0x15, 0x16:
		return ", which looks like TLS"
	case 'G', 'H', 'P':
		return ", which looks like HTTP"
	case 'S':
		return ", which looks like SSH"
	}
	return ""
}

// isStreamEnd reports whether err means that the peer has ended the connection.
// A reset is included.
func isStreamEnd(err error) bool {
	const windowsConnReset = syscall.Errno(10054)
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, windowsConnReset)
}
