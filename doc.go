// Package gipc sends typed messages between processes: between two, or between
// one server and many clients, over a unix socket or TCP, encrypted by default.
// Clients reconnect automatically.
//
// # Use
//
// A server and a client agree on a name. Either may start first. [StartClient] waits for
// the server. The server's Write waits for a client.
//
//	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "greeter"})
//	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "greeter"})
//
// Both have the same methods for messages. [Client.Write] sends a message with a type, a
// number above 0 whose meaning is up to the program. [Client.Read] returns the
// peer's messages in order. Between them it returns the status changes of this
// endpoint, such as Connected, Reconnecting and Disconnected, at the place in the
// stream where they happened: messages with MsgType -1, which [Message.Is] compares
// with a [Status]. [Client.Messages] skips these; [Client.ReadTimed],
// [Client.ReadContext] and [Client.ReadInto] are other ways to read. [Client.Queue] and
// [Client.Flush] batch small messages. [Client.Call] sends a request, and
// [Message.Reply] answers it; either side can call. A server with MultiClient serves
// any number of clients at one address: see [ConnectionPool]. Its Serve runs a handler
// for one message of a client at a time, and for different clients concurrently.
//
// # Examples
//
// Every call and every field of a config has an Example with checked output. The
// command go doc does not show Examples: read the files example_*.go beside this one,
// or the page of a published version on pkg.go.dev. README.md has whole programs, and
// docs/guide.md has recipes: requests, reconnecting, sending again after a loss.
//
// # Concurrency
//
// Every method of a [Server], a [Client] and a [ConnectionPool] may be called at any
// time from any goroutine. The library detects a lost connection, reconnects and
// answers pings even if the program does not read. The goroutine that calls
// Read reads the socket itself, so a message costs no handoff. If nobody
// reads for a while, a goroutine of the library does, and queues up to
// 64 KiB or one message. After that backpressure sets in: the kernel's buffers
// fill, and the peer's Write blocks.
//
// # Delivery guarantees
//
// Messages arrive whole, in order, and at most once per connection. When
// Write returns nil the kernel has the message. When [Client.Close] returns nil the
// peer process has received everything that was written since the last Connected
// and holds it for its application. Messages in flight on a connection that is lost
// may be lost with it: the Reconnecting or Disconnected message reports the loss, and
// the application decides what to resend. A nil Err in that message means that the
// peer closed the connection. It does not mean that the peer received what this side
// had written. A nil error of Close, or the reply to a Call, confirms that.
//
// [ErrNotConnected] means that nothing was sent, [ErrUnconfirmed] that a message may
// have arrived. Nothing is dropped silently.
//
// A context ends a call, never a connection. If the context of a read is done, no message
// is lost. If the context of a write is done before the message was accepted for
// sending, it is not sent, and the error is the context's alone; after that it is still
// sent, and the error is ErrUnconfirmed, wrapping the context's.
//
// # Security
//
// Connections are encrypted and authenticated in records. The keys come from
// ephemeral ECDH on P-384 (SP 800-56A) and ML-KEM-1024 (FIPS 203) together, by HKDF
// with SHA-384 (RFC 5869). A later quantum computer cannot decrypt a recording.
// AES-256-GCM seals each record with a random nonce (NIST SP 800-38D). Each direction
// has its own key, which changes every 4 GiB, and sequence numbers. A changed,
// replayed, reordered, reflected or missing record ends the connection with
// [ErrNotAuthentic]. All algorithms are FIPS-approved, come from the standard library
// and run under GODEBUG=fips140=only.
//
// Without a Secret this protects against eavesdroppers, not against a man in the
// middle. With the same Secret, 32 random bytes or more, on both sides, each
// authenticates the other; anyone without the secret can neither connect nor intercept.
// A server can have Secrets, one for each client.
// On a unix socket the kernel also restricts access: only the server's user may connect
// (mode 0600), and a client refuses a server run by any user but its own or
// root. SECURITY.md lists the guarantees and the limits.
//
// # Limits
//
// A message's data is limited to its receiver's MaxMsgSize, 3 MiB by default;
// both sides exchange their limits in the handshake. A receiver allocates as bytes arrive, never on the basis of
// a length field alone. A server gives each handshake 10 seconds, and runs at most
// 4,096 at once. The protocol is specified in spec/, for other languages to implement.
package gipc
