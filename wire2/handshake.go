// The handshake of version 2, both roles. Deadlines are the caller's, except the
// extension of a client.

package wire2

import (
	"crypto/ecdh"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"example.com/gipc"
)

const (
	protocolVersion = 2 // first byte of a server of version 2
	libraryVersion  = 3 // first byte of a server of version 3

	replyAccepted   = 0
	replyVersion    = 1
	replyEncryption = 2 // also the reason of a client of version 3

	libraryFlagEncrypted = 1 << 0

	pointSize = 97 // bytes: an uncompressed P-384 point
	limitSize = 4  // bytes

	handshakeExtension = 2 * time.Second // for a client, to complete a handshake after its deadline
	drainTimeout       = time.Second
)

// An exchange is one side's view of a handshake: what the peer has sent, and how
// much of it has been used.
type exchange struct {
	conn      net.Conn
	peer      string // "client" or "server", for error texts
	buffer    [512]byte
	used, end int
	hint      string // what may explain that nothing more comes
	mayExtend bool
	extended  error // the deadline error after which the deadline was extended
}

func newExchange(conn net.Conn, peer string) *exchange {
	return &exchange{conn: conn, peer: peer}
}

// received returns everything that has arrived, used or not.
func (x *exchange) received() []byte { return x.buffer[:x.end] }

// unused returns what has arrived after the handshake.
func (x *exchange) unused() []byte { return x.buffer[x.used:x.end] }

// take waits for the next n bytes and returns them.
func (x *exchange) take(n int) ([]byte, error) {
	for x.end-x.used < n {
		count, err := x.conn.Read(x.buffer[x.end:])
		x.end += count
		if err != nil && x.end-x.used < n && !x.extend(err) {
			return nil, x.ioFailure(err)
		}
	}
	x.used += n
	return x.buffer[x.used-n : x.used], nil
}

// extend gives a client time to complete a handshake whose deadline has passed,
// because existing servers stop accepting after an incomplete one.
func (x *exchange) extend(err error) bool {
	if !x.mayExtend || x.extended != nil || !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	x.extended = err
	return x.conn.SetDeadline(time.Now().Add(handshakeExtension)) == nil
}

// write writes one message of the handshake [V-5].
func (x *exchange) write(message []byte) error {
	n, err := x.conn.Write(message)
	if err != nil && x.extend(err) {
		_, err = x.conn.Write(message[n:])
	}
	if err != nil {
		return x.ioFailure(err)
	}
	return nil
}

// ioFailure describes a stream that failed during the handshake.
func (x *exchange) ioFailure(cause error) error {
	f := &failure{cause: cause, what: "handshake with the " + x.peer + " failed", why: fmt.Sprintf("after %d bytes", x.end), advice: x.hint}
	switch {
	case errors.Is(cause, os.ErrDeadlineExceeded):
		f.kind = gipc.ErrTimeout
		if x.end == 0 && x.peer == "server" {
			f.why = "the server accepted and sent nothing"
			f.advice = "it may be busy, or a program that waits for its client to begin"
		}
	case isStreamEnd(cause):
		f.kind = gipc.ErrTruncated
		f.why = fmt.Sprintf("the %s ended the connection after %d bytes", x.peer, x.end)
	}
	return f
}

// malformed describes input that ends the handshake. Nothing is written then.
func (x *exchange) malformed(why, advice string) error {
	return newFailure(gipc.ErrMalformed, "handshake with the "+x.peer+" failed", why, advice)
}

// takePoint reads the peer's key. The first byte is checked before the others
// have arrived, because a client with encryption off sends frames instead [V-6].
func (x *exchange) takePoint() (*ecdh.PublicKey, error) {
	first, err := x.take(1)
	if err != nil {
		return nil, err
	}
	from := x.used - 1
	switch first[0] {
	case 4:
	case 0:
		return nil, x.malformed(fmt.Sprintf("the %s sent 0x00 instead of a key, which looks like a %s with encryption off", x.peer, x.peer),
			"turn encryption on there, or off in Options")
	default:
		return nil, x.malformed(fmt.Sprintf("the %s's key begins with %#02x and is no P-384 point", x.peer, first[0]), "check what that program is")
	}
	if _, err := x.take(pointSize - 1); err != nil {
		return nil, err
	}
	point, err := ecdh.P384().NewPublicKey(x.buffer[from:x.used])
	if err != nil {
		return nil, x.malformed("the "+x.peer+"'s key is no P-384 point", "check what that program is")
	}
	return point, nil
}

// serverKeys does the server's part up to the keys. The limit follows when the
// library has accepted the client. The key is nil in plaintext.
func (x *exchange) serverKeys(encrypted bool, generate keyGenerator) (*sharedKey, error) {
	hello := []byte{protocolVersion, 0}
	if encrypted {
		hello[1] = 1
	}
	writeErr := x.write(hello)
	if err := x.takeReply(); err != nil {
		return nil, err // also if the write failed: the client may have sent a reason
	}
	if writeErr != nil {
		return nil, writeErr
	}
	if !encrypted {
		return nil, nil
	}
	private, err := generate()
	if err != nil {
		return nil, keyFailure(err)
	}
	// Some clients wait for this key before they send theirs, and some do not [V-4].
	if err := x.write(private.PublicKey().Bytes()); err != nil {
		return nil, err
	}
	x.hint = "it may be a client with encryption off: turn it on there, or off in Options"
	point, err := x.takePoint()
	if err != nil {
		return nil, err
	}
	x.hint = ""
	return deriveSharedKey(private, point, true)
}

// takeReply reads the client's answer to the hello.
func (x *exchange) takeReply() error {
	reply, err := x.take(1)
	if err != nil {
		return err
	}
	const what = "handshake with the client failed"
	switch reply[0] {
	case replyAccepted:
		return nil
	case replyVersion:
		return newFailure(gipc.ErrVersion, what, "the client does not speak version 2", "set Upgrade in its ClientConfig to wire2.Client, or serve it without wire2.Server")
	case replyEncryption:
		return newFailure(gipc.ErrEncryption, what, "the client requires encryption and Options has it off", "set Encryption in Options")
	}
	return x.malformed(fmt.Sprintf("the client replied %#02x, not 0 to 2%s", reply[0], looksLike(reply[0])), "check what connects to this address")
}

// limitMessage returns the last message of a server.
func limitMessage(key *sharedKey, limit uint32) []byte {
	body := binary.BigEndian.AppendUint32(nil, limit)
	if key == nil {
		return append(binary.BigEndian.AppendUint32(nil, limitSize), body...)
	}
	return key.sealLimit(binary.BigEndian.AppendUint32(nil, limitSize+sealOverhead), body)
}

// clientHandshake does the client's part, after the server's first byte. The key
// is nil in plaintext.
func (x *exchange) clientHandshake(generate keyGenerator) (key *sharedKey, limit uint32, err error) {
	flag, err := x.take(1)
	if err != nil {
		return nil, 0, err
	}
	if flag[0] > 1 {
		return nil, 0, x.malformed(fmt.Sprintf("the server's second byte is %#02x, not 0 or 1", flag[0]), "check what listens at this address")
	}
	encrypted := flag[0] == 1
	if err := x.write([]byte{replyAccepted}); err != nil {
		return nil, 0, err
	}
	if encrypted {
		if key, err = x.clientKeys(generate); err != nil {
			return nil, 0, err
		}
	}
	if limit, err = x.takeLimit(key); err != nil {
		return nil, 0, err
	}
	return key, limit, x.write([]byte{0}) // the server ignores its value
}

func (x *exchange) clientKeys(generate keyGenerator) (*sharedKey, error) {
	point, err := x.takePoint()
	if err != nil {
		return nil, err
	}
	private, err := generate()
	if err != nil {
		return nil, keyFailure(err)
	}
	if err := x.write(private.PublicKey().Bytes()); err != nil {
		return nil, err
	}
	return deriveSharedKey(private, point, false)
}

// takeLimit reads the server's limit, whose length field is checked first.
func (x *exchange) takeLimit(key *sharedKey) (uint32, error) {
	size := limitSize
	if key != nil {
		size += sealOverhead
	}
	field, err := x.take(lengthSize)
	if err != nil {
		return 0, err
	}
	if length := binary.BigEndian.Uint32(field); length != uint32(size) {
		return 0, x.malformed(fmt.Sprintf("the server's limit has a length of %d, not %d", length, size), "check what listens at this address")
	}
	body, err := x.take(size)
	if err != nil {
		return 0, err
	}
	if key != nil {
		if body, err = key.openLimit(body); err != nil {
			return 0, newFailure(gipc.ErrNotAuthentic, "handshake with the server failed", "the server's limit is not authentic", "try again; if it persists, something changes the bytes on the way")
		}
	}
	limit := binary.BigEndian.Uint32(body)
	if limit == 0 {
		return 0, x.malformed("the server's limit is 0", "check what listens at this address")
	}
	return limit, nil
}

// requireEncryption refuses a server of version 3 that does not encrypt.
func (x *exchange) requireEncryption() error {
	flags, err := x.take(1)
	if err != nil || flags[0]&libraryFlagEncrypted != 0 {
		return err
	}
	x.conn.Write([]byte{replyEncryption}) // if it fails, the refusal is still the result
	return encryptionRequired()
}

func encryptionRequired() error {
	return newFailure(gipc.ErrEncryption, "handshake with the server failed", "Options requires encryption and the server has it off", "turn it on there, or off in Options")
}

// endConnection ends the stream of a failed handshake and discards what the peer
// still sends. Closing at once would reset the connection, which some clients
// never recover from. A peer that kept this side waiting has sent nothing.
func endConnection(conn net.Conn, err error) {
	if errors.Is(err, os.ErrDeadlineExceeded) || closeWrite(conn) != nil {
		return
	}
	if conn.SetReadDeadline(time.Now().Add(drainTimeout)) == nil {
		io.Copy(io.Discard, struct{ io.Reader }{conn})
	}
}

// closeWrite ends the sending half of conn, if conn has one.
func closeWrite(conn net.Conn) error {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
