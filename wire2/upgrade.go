// The exported functions: which side of version 2 to take, and whether to take
// one at all.

package wire2

import (
	"crypto/ecdh"
	"crypto/rand"
	"net"

	"example.com/gipc"
)

// Options configures Server and Client. The zero value speaks plaintext.
type Options struct {
	// Encryption of a server is what its clients have to do: an old client must
	// have the same setting. A client with Encryption refuses a server that does
	// not encrypt, whatever its version; without, it does what the server does.
	Encryption bool
	// MaxMsgSize is the largest data in bytes: of a server in both directions, of
	// a client in what it receives. It is 1024 to 1<<30, or 0. The MaxMsgSize of
	// the config, 3145728 by default, applies as well, and applies alone if this
	// field is 0.
	MaxMsgSize int
}

const (
	minMessageSize = 1024
	maxMessageSize = 1 << 30
)

func (o Options) validate() error {
	if size := o.MaxMsgSize; size != 0 && (size < minMessageSize || size > maxMessageSize) {
		return newFailure(gipc.ErrConfig, "invalid Options", "MaxMsgSize is out of range", "use 1024 to 1<<30, or 0 for the MaxMsgSize of the config")
	}
	return nil
}

// limitFor returns the limit that follows from the options and from the limit
// in a hello of the library.
func (o Options) limitFor(libraryLimit uint32) uint32 {
	limit := min(libraryLimit, maxMessageSize)
	if o.MaxMsgSize != 0 {
		limit = min(limit, uint32(o.MaxMsgSize))
	}
	return limit
}

// keyGenerator makes the P-384 key of one side for one connection.
type keyGenerator func() (*ecdh.PrivateKey, error)

func generateKey() (*ecdh.PrivateKey, error) { return ecdh.P384().GenerateKey(rand.Reader) }

// Server is an Upgrade function of gipc.ServerConfig. It serves one client that
// speaks version 2, and refuses every other one. It returns after the keys have
// been exchanged; the client is accepted, or disconnected without a byte, when
// the library has decided. The deadline of conn applies until Server returns.
//
// The connection that is returned supports one reader and one writer at a time.
// A read deadline interrupts a Read without losing bytes. A write deadline takes
// effect between frames, and only Close interrupts a frame. Close and CloseWrite
// may be called at any time.
func Server(conn net.Conn, o Options) (net.Conn, error) {
	return upgradeServer(conn, o, generateKey)
}

// Client is an Upgrade function of gipc.ClientConfig. If the server speaks
// version 2, the returned connection is like that of Server. Otherwise it passes
// bytes unchanged, so the library connects to a server of version 3 as usual.
//
// Existing servers stop accepting when a handshake fails. If the deadline of conn
// passes during the handshake, Client therefore takes up to 2 s more to complete
// it, and then returns the error.
func Client(conn net.Conn, o Options) (net.Conn, error) {
	return upgradeClient(conn, o, generateKey)
}

func upgradeServer(conn net.Conn, o Options, generate keyGenerator) (net.Conn, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	x := newExchange(conn, "client")
	key, err := x.serverKeys(o.Encryption, generate)
	if err != nil {
		endConnection(conn, err)
		return nil, err
	}
	return newServerConn(x, key, o), nil
}

func upgradeClient(conn net.Conn, o Options, generate keyGenerator) (net.Conn, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	x := newExchange(conn, "server")
	x.mayExtend = true
	version, err := x.take(1)
	if err != nil {
		return nil, err
	}
	if version[0] == protocolVersion {
		return connectClient(x, o, generate)
	}
	if version[0] == libraryVersion && o.Encryption {
		if err := x.requireEncryption(); err != nil {
			endConnection(conn, err)
			return nil, err
		}
	}
	if x.extended != nil {
		return nil, x.ioFailure(x.extended)
	}
	return newPassthrough(conn, x.received()), nil
}

// connectClient completes the handshake before it refuses the server.
func connectClient(x *exchange, o Options, generate keyGenerator) (net.Conn, error) {
	key, limit, err := x.clientHandshake(generate)
	if err != nil {
		endConnection(x.conn, err)
		return nil, err
	}
	switch {
	case x.extended != nil:
		err = x.ioFailure(x.extended)
	case o.Encryption && key == nil:
		err = encryptionRequired()
	default:
		return newClientConn(x, key, limit, o), nil
	}
	endConnection(x.conn, nil)
	return nil, err
}
