// The errors that callers can match, the construction of error texts, and the reasons of
// a refused handshake.

package gipc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
)

const errorPrefix = "gipc: "

// Sentinel errors, to be matched with errors.Is. Most errors of this package wrap one
// of them and add what failed, why, and what to do.
var (
	// ErrClosed is returned after Close, or after the only connection has ended. It also matches net.ErrClosed.
	ErrClosed error = &sentinel{"closed", net.ErrClosed}
	// ErrTimeout means that a time limit of the call or of the configuration has passed. It also matches os.ErrDeadlineExceeded.
	ErrTimeout error = &sentinel{"timed out", os.ErrDeadlineExceeded}
	// ErrNotConnected means that nothing was sent, because no peer is connected. Sending again is safe.
	ErrNotConnected error = &sentinel{"not connected", nil}
	// ErrUnconfirmed means that some or all of what was sent may have arrived, and this side cannot know. Sending again may send twice.
	ErrUnconfirmed error = &sentinel{"not confirmed", nil}
	// ErrReservedType means that the message type is not 1 to 2147483647. Nothing was sent.
	ErrReservedType error = &sentinel{"reserved message type", nil}
	// ErrTooLarge means that the data exceeds the peer's MaxMsgSize. The error is a [*SizeError].
	ErrTooLarge error = &sentinel{"message too large", nil}
	// ErrConfig means that the configuration or the environment cannot be used. The text names the field.
	ErrConfig error = &sentinel{"bad configuration", nil}
	// ErrNameInUse means that a live server uses the name or the address.
	ErrNameInUse error = &sentinel{"name or address in use", nil}
	// ErrVersion means that the two sides use different versions of the protocol.
	ErrVersion error = &sentinel{"protocol version differs", nil}
	// ErrEncryption means that one side requires encryption and the other side does not encrypt.
	ErrEncryption error = &sentinel{"encryption differs", nil}
	// ErrSecret means that the peers' secrets or names differ, or that only one side has a secret.
	ErrSecret error = &sentinel{"secret or name does not match", nil}
	// ErrRefused means that the server refused the client: its client limit is reached, or its Authorize returned an error.
	ErrRefused error = &sentinel{"refused", nil}
	// ErrUntrustedServer means that the server on the unix socket runs as a user that this client does not trust.
	ErrUntrustedServer error = &sentinel{"untrusted server", nil}
	// ErrMalformed means that the peer has sent bytes that violate the protocol.
	ErrMalformed error = &sentinel{"malformed input", nil}
	// ErrNotAuthentic means that a record was changed, replayed, reordered, reflected or lost in transit.
	ErrNotAuthentic error = &sentinel{"record is not authentic", nil}
	// ErrTruncated means that the stream ended without a close. It also matches io.ErrUnexpectedEOF.
	ErrTruncated error = &sentinel{"connection truncated", io.ErrUnexpectedEOF}
	// ErrNotRequest means that the message is not a request, so that Reply sent nothing.
	ErrNotRequest error = &sentinel{"not a request", nil}
	// ErrReplied means that the request was answered before.
	ErrReplied error = &sentinel{"already replied", nil}
	// ErrMultiClient means that the call needs one client. Use Server.Connections.
	ErrMultiClient error = &sentinel{"server has many clients: use its Connections", nil}
)

// A sentinel is an error value that may also match an error of the standard library.
type sentinel struct {
	text   string
	stdErr error
}

func (s *sentinel) Error() string { return errorPrefix + s.text }
func (s *sentinel) Unwrap() error { return s.stdErr }

// A SizeError reports that the data of a message exceeds the peer's MaxMsgSize. Size and
// Limit are in bytes. It matches ErrTooLarge. The connection stays usable.
type SizeError struct{ Size, Limit int }

func (e *SizeError) Error() string {
	return fmt.Sprintf("gipc: message too large: %d bytes, and the peer accepts %d: split it, or raise MaxMsgSize there", e.Size, e.Limit)
}

// Is reports whether target is ErrTooLarge.
func (e *SizeError) Is(target error) bool { return target == ErrTooLarge }

// A failure is a sentinel with a text and a cause.
type failure struct {
	kind  error // a sentinel
	cause error // may be nil
	text  string
}

// newError returns an error that wraps kind and cause, which may be nil. The prefix
// appears once in its text, however deep causes are nested.
func newError(kind, cause error, format string, args ...any) error {
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

// trimPrefix returns the text of err without the package's prefix.
func trimPrefix(err error) string { return strings.TrimPrefix(err.Error(), errorPrefix) }

// contextError returns the error of a call that ended because its context is done.
func contextError(call string, ctx context.Context) error {
	err := ctx.Err()
	if cause := context.Cause(ctx); cause != err {
		return fmt.Errorf("gipc: %s: %w: %w", call, err, cause)
	}
	return fmt.Errorf("gipc: %s: %w", call, err)
}

// fieldError returns ErrConfig for a field of a config. value appears in the text, so it
// must not be a secret.
func fieldError(name string, value any, advice string) error {
	return newError(ErrConfig, nil, "%s is %v: %s", name, value, advice)
}

// Reasons of a refusal, one byte on the wire. 3 is reserved.
const (
	reasonVersion      = 1
	reasonEncryption   = 2 // the client requires it
	reasonServerSecret = 4 // the server requires a secret
	reasonClientSecret = 5 // the client requires a secret
	reasonConfirmation = 6
	reasonBusy         = 7
	reasonUnauthorized = 8
	reasonMalformed    = 9
)

// A refusal is the error of a handshake that one side ended with a reason. It matches
// the sentinel of that reason.
type refusal struct {
	error
	reason byte
	byPeer bool
}

func (r *refusal) Unwrap() error { return r.error }

// refusalReason returns the reason with which a handshake was ended, and whether the
// peer has sent it, unauthenticated. It returns 0, false if err is no refusal.
func refusalReason(err error) (reason byte, byPeer bool) {
	var r *refusal
	if !errors.As(err, &r) {
		return 0, false
	}
	return r.reason, r.byPeer
}

// refusalAdvice returns the text for a reason, which helps on either side, and its
// sentinel.
func refusalAdvice(reason byte) (text string, kind error) {
	switch reason {
	case reasonVersion:
		return "the client does not speak the server's version: update the older side, or see package wire2", ErrVersion
	case reasonEncryption:
		return "the client requires encryption and the server has it off: set Encryption in ServerConfig to EncryptionOn, or in ClientConfig to EncryptionOff without a Secret", ErrEncryption
	case reasonServerSecret:
		return "the server requires a secret and the client has none: set Secret in ClientConfig to one that the server has", ErrSecret
	case reasonClientSecret:
		return "the client requires a secret and the server has none: set Secret in ServerConfig to the client's, or list it in Secrets", ErrSecret
	case reasonConfirmation:
		return "Secret or Name differs: set the same Name and Secret on both sides, byte for byte, or list the client's Secret in the server's Secrets", ErrSecret
	case reasonBusy:
		return "the server has reached its client limit, or its limit of handshakes for this user: try later, or see MultiClient and MaxClients in ServerConfig", ErrRefused
	case reasonUnauthorized:
		return "the server's Authorize refused this client: see the server's log for the reason", ErrRefused
	case reasonMalformed:
		return "the hello violates the protocol: update the older side", ErrMalformed
	}
	return fmt.Sprintf("reason %#02x is unknown%s: the other side may be newer, or another program", reason, likelyProtocol(reason)), ErrRefused
}

// likelyProtocol returns a hint at the protocol that the first byte of a peer suggests.
func likelyProtocol(first byte) string {
	switch first {
	case 0x15, 0x16:
		return ", and looks like TLS"
	case 'G', 'H', 'P':
		return ", and looks like HTTP"
	case 'S':
		return ", and looks like SSH"
	}
	return ""
}
