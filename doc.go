// Package gipc lets programs talk to each other: two processes, or one server
// and many clients, exchange typed messages over a unix socket or TCP,
// encrypted by default, and reconnect by themselves.
//
// # Use
//
// A server and a client agree on a name. Either may start first, and none has to
// sleep: StartClient waits for its server, and the server's Write for a client.
//
//	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "greeter"})
//	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "greeter"})
//
// From then on both ends are alike. Write sends a message of a type, a number
// above 0 that means what the program wants it to mean. Read returns the peer's
// messages in order, and among them, with MsgType -1, this end's changes of
// status, such as Connected, Reconnecting and Disconnected, each in its place.
// Messages leaves these out; ReadTimed, ReadContext and ReadInto are other ways
// to read. Queue and Flush write many small messages at a time. A server with
// MultiClient serves any number of clients at one address: see [ConnectionPool].
//
// # Concurrency
//
// Every method of a Server, a Client and a ConnectionPool may be called at any
// time from any goroutine. Nobody is obliged to read: losses are noticed, pings
// answered and connections made again all the same. The goroutine that calls
// Read does the reading, so that a message costs no hand-over; only where
// nobody reads for a while does a goroutine of the library step in, and queues
// up to 64 KiB or one message. Then the kernel pushes back, and the peer's
// Write waits.
//
// # What is promised about a message
//
// Messages arrive whole, in order, each at most once in a connection. When
// Write returns nil the kernel has the message. When Close returns nil the peer
// process has received everything that was written since the last Connected and
// holds it for its application. What was written to a connection that was lost
// may be lost with it; the Reconnecting or Disconnected message is the notice,
// and the application decides what to send again. Nothing is dropped in silence.
//
// # Security
//
// Connections are encrypted and authenticated frame by frame: ephemeral ECDH on
// P-384, HKDF with SHA-384 (RFC 5869), AES-256-GCM with random nonces (NIST SP
// 800-38D), a key for each direction, changed every 4 GiB, and sequence numbers,
// so that a frame that is changed, replayed, reordered, reflected or left out
// ends the connection with ErrNotAuthentic. All of it is approved cryptography of
// the standard library and runs under GODEBUG=fips140=only.
//
// Without a Secret this protects from those who listen, and not from one who can
// stand between the two sides. With the same Secret, of 32 random bytes or more,
// on both sides, each proves to the other that it holds it, and nobody else gets
// in or in between. On a unix socket the kernel helps too: only the server's user
// may connect (mode 0600), and a client refuses a server of another user than its
// own or root.
//
// # Limits
//
// A message's data has at most MaxMsgSize bytes of its receiver, 3 MiB unless set
// otherwise; the sides tell each other theirs. A receiver allocates as bytes
// arrive, never on the word of a length. Handshakes end after 10 seconds, and at
// most 1,024 are on their way in a server. The protocol is written down in spec/,
// for other languages to speak.
package gipc
