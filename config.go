// Both configurations: their fields, defaults and checks, and the environment.

package gipc

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"example.com/gipc/internal/eventlog"
	"example.com/gipc/internal/sys"
)

// Encryption says whether a connection is encrypted.
type Encryption int

const (
	EncryptionOn  Encryption = iota // the default: a peer that does not encrypt is refused
	EncryptionOff                   // a server speaks plaintext; a client does what its server does
)

// ServerConfig says what StartServer serves, and to whom. It is copied before
// use, the bytes of secrets included. A field that cannot be used is ErrConfig.
type ServerConfig struct {
	// Name is the connection's name, the same on both sides; encryption checks that.
	// Required: 1 to 255 bytes of UTF-8, without '/', '\' and NUL, and neither "."
	// nor "..".
	Name string
	// Network is "unix" or "tcp". Default "": unix, or tcp in a build with -tags network.
	Network string
	// Address is the socket's path, or host:port. It takes precedence over the
	// environment. Beyond loopback a Secret or an Authorize is required.
	//
	// Default "": on unix the file NAME.sock in the directory GIPC_SOCKET_DIR, if that
	// is set, and otherwise in /tmp/gipc-UID, which belongs to the effective user UID
	// alone and is made if needed (with UnmaskPermissions: in /tmp; on Windows: in
	// os.TempDir). A client looks in its own /tmp/gipc-UID, then in /tmp. On tcp
	// GIPC_NETWORK_HOST (127.0.0.1) and GIPC_NETWORK_PORT (8100).
	Address string
	// Encryption is on by default: keys by P-384 and ML-KEM-1024 (FIPS 203) together,
	// records by AES-256-GCM. A client that has no ML-KEM is served with P-384 alone; see
	// Security. EncryptionOff serves in plaintext.
	Encryption Encryption
	// Secret is shared with the clients, 32 random bytes or more: each side proves
	// that it holds it. Default nil: nobody is authenticated.
	Secret []byte
	// Secrets gives each client a secret of its own, by the client's name. The client has
	// it as its Secret, and Peer.Identity is the name whose secret it has proved. There are
	// 256 at most. Each is as Secret is, no two are alike, and no name is "". Secret can be
	// set as well: its Identity is "". Where a Secret is required, Secrets is enough. To
	// change a secret, list the old one and the new one under two names for a while. Every
	// handshake tries all of them: about 9 microseconds each. Default nil: Secret alone.
	Secrets map[string][]byte
	// MaxMsgSize is the largest Data that is accepted, in bytes: 1024 to 1<<30.
	// Default 0: 3145728.
	MaxMsgSize int
	// UnmaskPermissions lets every local user connect to the socket (mode 0777).
	// Default false: its owner alone (mode 0600). It means nothing on TCP and on Windows.
	UnmaskPermissions bool
	// MultiClient serves many clients, through Server.Connections. Default false:
	// one, and a second one is refused while it is connected.
	MultiClient bool
	// MaxClients is how many clients a MultiClient server serves at once; others are
	// refused. Default 0: no limit.
	MaxClients int
	// Authorize is called when a client connects, before the handshake; an error
	// refuses it. It may run concurrently, and is not interrupted. Default nil:
	// everybody who can connect and has the Secret, or one of the Secrets, is served.
	Authorize func(Peer) error
	// Heartbeat is how long a client may be silent before it is pinged; after twice
	// that it is lost. 1 s or more; negative is none. Default 0: 15 s on
	// TCP, none elsewhere.
	Heartbeat time.Duration
	// BusyPoll is how long a reader polls the socket before it sleeps: lower
	// latency for processor time. Default 0: it sleeps at once.
	BusyPoll time.Duration
	// Upgrade is given each connection after Authorize and before the handshake, with
	// a deadline set, and returns what to speak over: crypto/tls, or package wire2 for
	// peers of earlier libraries. An error refuses the client. It is called at the same time for
	// different connections. Default nil: the connection as it is.
	Upgrade func(net.Conn) (net.Conn, error)
	// Listener is used instead of Network and Address. Close closes it, and leaves
	// the file of a unix socket in place. Default nil.
	Listener net.Listener
	// Logger receives what the server does and refuses, never a payload or a key.
	// Default nil: silence, unless GIPC_DEBUG names a level; then standard error.
	Logger *slog.Logger
}

// ClientConfig says where StartClient connects to, and how. Fields shared
// with ServerConfig mean the same, and are documented in full there. It is
// copied before use, the Secret's bytes included. A field that cannot be used is
// ErrConfig.
type ClientConfig struct {
	Name       string        // required: the connection's name, the same on both sides
	Network    string        // "unix" or "tcp"; default "": unix, or tcp in a build with -tags network
	Address    string        // of the server; default "": from Name or the environment, as in ServerConfig
	Secret     []byte        // 32 random bytes or more, the server's Secret or one of its Secrets; default nil: the server proves nothing but its user, see AllowAnyUser
	MaxMsgSize int           // the largest Data that is accepted, in bytes: 1024 to 1<<30; default 0: 3145728
	Heartbeat  time.Duration // silence before a ping: 1 s or more; negative is none; default 0: 15 s on TCP, none elsewhere
	BusyPoll   time.Duration // how long a reader polls before it sleeps; default 0: it sleeps at once
	Logger     *slog.Logger  // default nil: silence, unless GIPC_DEBUG names a level; then standard error

	// Encryption is on by default: a server without it is refused. EncryptionOff
	// does what the server does.
	Encryption Encryption
	// Timeout is how long to try to connect, and to reconnect, before giving up.
	// Default 0: forever.
	Timeout time.Duration
	// RetryTimer is the longest pause between two tries; the first try is at once,
	// then come 1 ms, doubling, jittered. They begin anew after a connection that
	// lived for longer than this. Default 0: 1 s.
	RetryTimer time.Duration
	// AllowAnyUser accepts a server on a unix socket that runs as another user than
	// ours or root. Default false: such a server needs a Secret. It means nothing
	// on TCP, on Windows and with Dial.
	AllowAnyUser bool
	// Upgrade is given each connection after the check of the server's user and before
	// the handshake, with a deadline set, and returns what to speak over; see
	// ServerConfig. An error ends that attempt. Default nil: the connection as it is.
	Upgrade func(net.Conn) (net.Conn, error)
	// Dial is used instead of Network and Address, one call at a time. An error that
	// wraps net.ErrClosed means that there will be no other connection: the client ends
	// with it. Default nil.
	Dial func(ctx context.Context) (net.Conn, error)
}

// Peer is who is at the other end. UID, GID and PID are what the kernel reports: on Linux,
// over a unix socket, of the process that called connect or listen there. Trust UID and
// GID; a PID is for logs, since it may have been given to another process by now. Identity
// is what the peer has proved.
type Peer struct {
	UID, GID, PID int      // -1 where not Known, never 0 by accident
	Known         bool     // the kernel vouches for UID, GID and PID; not if one has no number in this process's namespaces
	Identity      string   // on a server: the name in Secrets whose secret the client has proved; "" for Secret, on a client, and in Authorize, which comes before
	Addr          net.Addr // the address at the other end; a client on a unix socket has none to tell
}

// settings is a checked copy of a config with every default filled in: all
// that the ends work from. Nothing changes it afterwards.
type settings struct {
	handshakeConfig
	network, address string        // in full
	socketBase       string        // the directory of derived sockets; "" is /tmp
	socketPlaces     []socketPlace // where the unix socket can be
	heartbeat        time.Duration // as configured; ask heartbeatFor
	busyPoll         time.Duration
	eventLog         *eventlog.Log // never nil
	upgradeFunc      func(net.Conn) (net.Conn, error)

	unmaskSocket, multiClient bool // server
	maxClients                int
	authorizeFunc             func(Peer) error
	listener                  net.Listener

	totalTimeout, maxRetryDelay time.Duration // client
	allowAnyUser                bool
	dialFunc                    func(context.Context) (net.Conn, error)
}

func (c *ServerConfig) settings() (*settings, error) {
	if c == nil {
		return nil, fail(ErrConfig, nil, "the config is nil: pass a *ServerConfig that has a Name")
	}
	return (&settings{handshakeConfig: handshakeConfig{name: c.Name, secret: bytes.Clone(c.Secret), maxDataSize: c.MaxMsgSize},
		network: c.Network, address: c.Address, heartbeat: c.Heartbeat, busyPoll: c.BusyPoll, eventLog: newLog(c.Logger, "server", c.Name), upgradeFunc: c.Upgrade,
		unmaskSocket: c.UnmaskPermissions, multiClient: c.MultiClient, maxClients: c.MaxClients, authorizeFunc: c.Authorize,
		listener: c.Listener}).applyDefaults(c.Encryption, c.Secrets)
}

func (c *ClientConfig) settings() (*settings, error) {
	if c == nil {
		return nil, fail(ErrConfig, nil, "the config is nil: pass a *ClientConfig that has a Name")
	}
	return (&settings{handshakeConfig: handshakeConfig{name: c.Name, secret: bytes.Clone(c.Secret), maxDataSize: c.MaxMsgSize},
		network: c.Network, address: c.Address, heartbeat: c.Heartbeat, busyPoll: c.BusyPoll, eventLog: newLog(c.Logger, "client", c.Name), upgradeFunc: c.Upgrade,
		totalTimeout: c.Timeout, maxRetryDelay: c.RetryTimer, allowAnyUser: c.AllowAnyUser, dialFunc: c.Dial}).applyDefaults(c.Encryption, nil)
}

// newLog returns the log of a server or a client: every record names the two.
func newLog(logger *slog.Logger, role, name string) *eventlog.Log {
	if logger == nil {
		logger = debugLogger(os.Getenv("GIPC_DEBUG"), os.Stderr)
	}
	return &eventlog.Log{Logger: logger, Attrs: []any{"role", role, "name", name}}
}

// applyDefaults checks a config and fills in the defaults. What only the other kind
// of config has is zero, and passes.
func (s *settings) applyDefaults(e Encryption, secrets map[string][]byte) (*settings, error) {
	s.encrypt, s.hybrid = e == EncryptionOn, true
	s.maxDataSize = cmp.Or(s.maxDataSize, defaultMsgSize)
	s.maxRetryDelay = cmp.Or(s.maxRetryDelay, time.Second)
	s.network = cmp.Or(s.network, sys.DefaultNetwork)
	secret, name := s.secret != nil, s.name
	for _, check := range []struct {
		bad    bool
		field  string
		value  any
		advice string
	}{
		{name == "" || len(name) > 255 || !utf8.ValidString(name) || strings.ContainsAny(name, "/\\\x00") || name == "." || name == "..",
			"Name", fmt.Sprintf("%q", name), `give 1 to 255 bytes of UTF-8 without slash, backslash and NUL, and not "." or ".."`},
		{s.network != "unix" && s.network != "tcp", "Network", fmt.Sprintf("%q", s.network), `use "unix" or "tcp"`},
		{e != EncryptionOn && e != EncryptionOff, "Encryption", int(e), "use EncryptionOn or EncryptionOff"},
		{secret && secretProblem(s.secret) != "", "Secret", secretProblem(s.secret), adviceSecret + ", or nil for none"},
		{secret && !s.encrypt, "Encryption", "EncryptionOff and Secret is set", "plaintext cannot prove a secret, so drop one of them"},
		{secrets != nil && len(secrets) == 0 && !secret, "Secrets", "empty", "give an entry, for without one everybody would be served, or nil for no secret"},
		{len(secrets) > maxSecrets, "Secrets", fmt.Sprintf("%d entries", len(secrets)), "give 256 at most: every handshake tries all of them"},
		{len(secrets) > 0 && !s.encrypt, "Encryption", "EncryptionOff and Secrets is set", "plaintext cannot prove a secret, so drop one of them"},
		{s.maxDataSize < minMsgSize || s.maxDataSize > maxMsgSize, "MaxMsgSize", s.maxDataSize, "0 is 3145728, else give 1024 to 1073741824 bytes"},
		{s.maxClients < 0, "MaxClients", s.maxClients, "0 is no limit, else give a positive number"},
		{s.maxClients > 0 && !s.multiClient, "MaxClients", s.maxClients, "it needs MultiClient; without it one client is served"},
		{s.heartbeat > 0 && s.heartbeat < time.Second, "Heartbeat", s.heartbeat, "give 1 s or more, 0 for the default, or a negative time for none"},
		{s.busyPoll < 0, "BusyPoll", s.busyPoll, "0 is off, else give a positive time"},
		{s.totalTimeout < 0, "Timeout", s.totalTimeout, "0 is forever, else give a positive time"},
		{s.maxRetryDelay < 0, "RetryTimer", s.maxRetryDelay, "0 is 1 s, else give a positive time"},
		{s.maxRetryDelay < time.Millisecond, "RetryTimer", s.maxRetryDelay, "give 1 ms or more: for milliseconds multiply by time.Millisecond"},
	} {
		if check.bad {
			return nil, fieldError(check.field, check.value, check.advice)
		}
	}
	if err := s.addHolders(secrets); err != nil {
		return nil, err
	}
	var err error
	switch {
	case s.listener != nil:
		a := s.listener.Addr()
		s.network, s.address = a.Network(), a.String()
	case s.dialFunc != nil:
		s.network, s.address = "dial", "(the config's Dial)"
	case s.network == "tcp":
		s.address, err = tcpAddress(s.address)
	default:
		if s.socketPlaces, err = socketPlaces(s.name, s.address, s.socketBase, s.unmaskSocket); err == nil {
			s.address = s.socketPlaces[0].path
		}
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

const (
	maxSecrets   = 256
	adviceSecret = "give 32 random bytes or more"
)

// secretProblem says what is wrong with a secret without showing it, or "".
func secretProblem(secret []byte) string {
	switch {
	case len(secret) < 32:
		return fmt.Sprintf("%d bytes long", len(secret))
	case bytes.Count(secret, []byte{0}) == len(secret):
		return "all zeros"
	}
	return ""
}

// addHolders checks Secrets, and keeps what the handshake needs of them.
func (s *settings) addHolders(secrets map[string][]byte) error {
	owners := map[string]string{}
	if s.secret != nil {
		owners[string(s.secret)] = "Secret"
	}
	for _, identity := range slices.Sorted(maps.Keys(secrets)) { // the same error each time
		secret, field := secrets[identity], fmt.Sprintf("Secrets[%q]", identity)
		if identity == "" {
			return fieldError("Secrets", `an entry with the key ""`, "give each holder a name: that key is the identity of Secret")
		}
		if bad := secretProblem(secret); bad != "" {
			return fieldError(field, bad, adviceSecret)
		}
		if owner := owners[string(secret)]; owner != "" {
			return fieldError(field, "the same as "+owner, "give each holder a secret of its own")
		}
		owners[string(secret)] = field
		h, err := newSecretHolder(identity, secret)
		if err != nil {
			return err
		}
		s.holders = append(s.holders, h)
	}
	if s.secret != nil && len(s.holders) > 0 {
		own, err := newSecretHolder("", s.secret)
		if err != nil {
			return err
		}
		s.holders = append(s.holders, own)
	}
	return nil
}

// heartbeatFor is the idle time before a ping on this connection; 0 is none.
// What Dial and Listener bring is known only when it is there.
func (s *settings) heartbeatFor(a net.Addr) time.Duration {
	if s.heartbeat == 0 && a != nil && strings.HasPrefix(a.Network(), "tcp") {
		return 15 * time.Second
	}
	return max(s.heartbeat, 0)
}

// debugLogger is the logger that GIPC_DEBUG asks for, or nil. A word that it does not
// know is told once, since its author expects to see something.
func debugLogger(word string, w io.Writer) *slog.Logger {
	level, known := map[string]slog.Level{"true": slog.LevelDebug, "1": slog.LevelDebug, "debug": slog.LevelDebug,
		"info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}[strings.ToLower(word)]
	logger := slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
	switch {
	case known:
		return logger
	case word != "" && word != "0" && !strings.EqualFold(word, "false"):
		logger.Warn("GIPC_DEBUG is not understood: use true, 1, debug, info, warn, error, false or 0", "value", word)
	}
	return nil
}
