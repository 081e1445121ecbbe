// Every error that callers can match, on one page.

package gipc

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
)

const errorPrefix = "gipc: "

// Sentinels, to be matched with errors.Is. What the package returns usually
// wraps one of them and adds what happened, where, and what to do.
var (
	// ErrClosed: this end was closed, or its only connection is over. Also net.ErrClosed.
	ErrClosed error = &sentinel{"this end is closed for good", net.ErrClosed}
	// ErrTimeout: the time that the caller or the configuration gave has passed. Also os.ErrDeadlineExceeded.
	ErrTimeout error = &sentinel{"timed out", os.ErrDeadlineExceeded}
	// ErrNotConnected means that nothing was sent, because no peer is connected. Sending again is safe.
	ErrNotConnected error = &sentinel{"not connected", nil}
	// ErrUnconfirmed means that some or all of what was sent may have arrived, and this side cannot know. Sending again may send twice.
	ErrUnconfirmed error = &sentinel{"not confirmed", nil}
	// ErrReservedType: a message type that users may not send; theirs are 1 to 2147483647.
	ErrReservedType error = &sentinel{"reserved message type", nil}
	// ErrTooLarge: the data is over the peer's limit. The error is a [*SizeError].
	ErrTooLarge error = &sentinel{"message too large", nil}
	// ErrConfig: the configuration or the environment cannot be used; the text names the field.
	ErrConfig error = &sentinel{"bad configuration", nil}
	// ErrNameInUse: another server that is alive holds the name or the address.
	ErrNameInUse error = &sentinel{"name or address in use", nil}
	// ErrVersion: the two sides speak different versions of the protocol.
	ErrVersion error = &sentinel{"protocol version differs", nil}
	// ErrEncryption: one side requires encryption and the other does not offer it.
	ErrEncryption error = &sentinel{"encryption differs", nil}
	// ErrSecret: a secret that is wrong, missing or not wanted, or, with and without one, another Name.
	ErrSecret error = &sentinel{"secret or name does not match", nil}
	// ErrRefused: the server refused the client: it is busy, or Authorize said no.
	ErrRefused error = &sentinel{"refused", nil}
	// ErrUntrustedServer: the server on the socket runs as a user that this client does not trust.
	ErrUntrustedServer error = &sentinel{"untrusted server", nil}
	// ErrMalformed: the peer sent bytes that the protocol forbids.
	ErrMalformed error = &sentinel{"malformed input", nil}
	// ErrNotAuthentic means that a record was changed, replayed, reordered, reflected or lost on its way.
	ErrNotAuthentic error = &sentinel{"record is not authentic", nil}
	// ErrTruncated means that the stream ended without a close. It also matches io.ErrUnexpectedEOF.
	ErrTruncated error = &sentinel{"connection truncated", io.ErrUnexpectedEOF}
	// ErrNotRequest means that the message is no request, so there is nothing to reply to.
	ErrNotRequest error = &sentinel{"not a request", nil}
	// ErrReplied means that the request has its reply already.
	ErrReplied error = &sentinel{"already replied", nil}
	// ErrMultiClient: the call is for one client; use Server.Connections.
	ErrMultiClient error = &sentinel{"server has many clients: use its Connections", nil}
)

// A sentinel is one decision of this package and the error of the standard
// library that says the same.
type sentinel struct {
	text   string
	stdErr error
}

func (s *sentinel) Error() string { return errorPrefix + s.text }
func (s *sentinel) Unwrap() error { return s.stdErr }

// SizeError says that a message's data is larger than the peer accepts. Both
// numbers are in bytes. It matches ErrTooLarge; the connection goes on.
type SizeError struct{ Size, Limit int }

func (e *SizeError) Error() string {
	return fmt.Sprintf("gipc: message too large: %d bytes, and the peer accepts %d: split it, or raise MaxMsgSize there", e.Size, e.Limit)
}

// Is reports whether target is ErrTooLarge.
func (e *SizeError) Is(target error) bool { return target == ErrTooLarge }

// failure is a sentinel with what happened and why.
type failure struct {
	kind  error // a sentinel
	cause error // may be nil
	text  string
}

// fail wraps kind with a text and a cause that may be nil. The prefix stands
// once in the result, however deep causes are nested.
func fail(kind, cause error, format string, args ...any) error {
	return &failure{kind, cause, fmt.Sprintf(format, args...)}
}

func (f *failure) Error() string {
	text := f.kind.Error()
	if f.text != "" {
		text += ": " + f.text
	}
	if f.cause != nil {
		text += ": " + trimPrefix(f.cause)
	}
	return text
}

func (f *failure) Unwrap() []error {
	if f.cause == nil {
		return []error{f.kind}
	}
	return []error{f.kind, f.cause}
}

// trimPrefix is the text of err without the package's prefix.
func trimPrefix(err error) string { return strings.TrimPrefix(err.Error(), errorPrefix) }

// contextError says that a call ended since its context did.
func contextError(call string, ctx context.Context) error {
	err := ctx.Err()
	if cause := context.Cause(ctx); cause != err {
		return fmt.Errorf("gipc: %s: %w: %w", call, err, cause)
	}
	return fmt.Errorf("gipc: %s: %w", call, err)
}

// fieldError is ErrConfig for a field's value; never show it a Secret.
func fieldError(name string, value any, advice string) error {
	return fail(ErrConfig, nil, "%s is %v: %s", name, value, advice)
}
