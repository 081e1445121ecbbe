// ServerConfig and ClientConfig: their fields, defaults and checks, and the environment.

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

// Encryption selects whether connections are encrypted.
type Encryption int

const (
	EncryptionOn  Encryption = iota // the default: peers that do not encrypt are refused
	EncryptionOff                   // a server uses plaintext; a client follows its server
)

// ServerConfig configures StartServer, which copies it, including the bytes of secrets.
// If a field has an invalid value StartServer returns ErrConfig.
type ServerConfig struct {
	// Name is the connection's name, which must be the same on both sides; the encrypted
	// handshake verifies it.
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
	// alone and is created if needed (with UnmaskPermissions: in /tmp; on Windows: in
	// os.TempDir). A client tries its own /tmp/gipc-UID first, then /tmp. On tcp
	// GIPC_NETWORK_HOST (127.0.0.1) and GIPC_NETWORK_PORT (8100).
	Address string
	// Encryption is on by default: keys are agreed on by P-384 and ML-KEM-1024 (FIPS 203),
	// and records are sealed with AES-256-GCM. A client without ML-KEM is served with
	// P-384 alone; see Security. EncryptionOff serves in plaintext.
	Encryption Encryption
	// Secret is shared with the clients, and authenticates both sides. It has 32 random
	// bytes or more. Default nil: no authentication.
	Secret []byte
	// Secrets maps names of clients to their own secrets. A client uses its secret as
	// Secret, and Peer.Identity is the name of the secret that it has proved. It has
	// at most 256 entries, all different and each of 32 random bytes or more; no name is
	// "". A client that proves Secret has the Identity "". Where a Secret is required, Secrets
	// suffices. To change a secret, list the old and the new one under two names for a
	// while. Every handshake tries all of them, about 9 microseconds each. Default nil:
	// Secret alone.
	Secrets map[string][]byte
	// MaxMsgSize is the maximum size of received Data in bytes: 1024 to 1<<30. Default 0:
	// 3145728.
	MaxMsgSize int
	// UnmaskPermissions lets every local user connect to the socket (mode 0777).
	// Default false: its owner alone (mode 0600). It has no effect on TCP and on Windows.
	UnmaskPermissions bool
	// MultiClient serves many clients, through Server.Connections. Default false: one
	// client at a time; others are refused while it is connected.
	MultiClient bool
	// MaxClients is the maximum number of connected clients of a MultiClient server;
	// others are refused. Default 0: no limit.
	MaxClients int
	// Authorize is called when a client connects, before the handshake. If it returns an
	// error the client is refused. It is called concurrently, and is not interrupted.
	// Default nil: every client that can connect and has the Secret, or one of the
	// Secrets, is served.
	Authorize func(Peer) error
	// Heartbeat is the idle time after which a ping is sent to a client; after twice that
	// time the connection is lost. It is 1 s or more; a negative value turns it off.
	// Default 0: 15 s on TCP, off elsewhere.
	Heartbeat time.Duration
	// BusyPoll is how long a reader polls the socket before it blocks. This trades
	// processor time for latency. Default 0: it blocks at once.
	BusyPoll time.Duration
	// Upgrade is called with each connection after Authorize and before the handshake. It
	// returns the connection to use instead, such as one of crypto/tls, or of package
	// wire2 for peers of earlier libraries. The connection has a deadline while Upgrade runs. If it returns an
	// error the client is refused. It is called concurrently for different connections.
	// Default nil: the connection is used directly.
	Upgrade func(net.Conn) (net.Conn, error)
	// Listener is used instead of Network and Address. Close closes it, but does not
	// remove the file of a unix socket. Default nil.
	Listener net.Listener
	// Logger receives records of connections, rejections and errors, never of payloads or
	// keys. Default nil: nothing is logged, unless GIPC_DEBUG names a level; then records
	// go to standard error.
	Logger *slog.Logger
}

// ClientConfig configures StartClient, which copies it, including the bytes of Secret.
// Fields shared with ServerConfig have the same meaning, and are documented in full
// there. If a field has an invalid value StartClient returns ErrConfig.
type ClientConfig struct {
	Name       string        // required: the connection's name, the same on both sides
	Network    string        // "unix" or "tcp"; default "": unix, or tcp in a build with -tags network
	Address    string        // of the server; default "": from Name or the environment, as in ServerConfig
	Secret     []byte        // the server's Secret or one of its Secrets, 32 random bytes or more; default nil: the client checks only the server's user, see AllowAnyUser
	MaxMsgSize int           // maximum size of received Data in bytes: 1024 to 1<<30; default 0: 3145728
	Heartbeat  time.Duration // idle time before a ping: 1 s or more; negative is off; default 0: 15 s on TCP, off elsewhere
	BusyPoll   time.Duration // how long a reader polls before it blocks; default 0: it blocks at once
	Logger     *slog.Logger  // default nil: nothing is logged, unless GIPC_DEBUG names a level; then to standard error

	// Encryption is on by default: a server without it is refused. EncryptionOff follows
	// the server.
	Encryption Encryption
	// Timeout is how long to try to connect, and to reconnect, before giving up. Default
	// 0: no limit.
	Timeout time.Duration
	// RetryTimer caps the delay between connection attempts. The first attempt is
	// immediate; the delay then starts at 1 ms and doubles, with jitter. It is reset once
	// a connection has lasted longer than RetryTimer. Default 0: 1 s.
	RetryTimer time.Duration
	// AllowAnyUser accepts a server on a unix socket that runs neither as this process's
	// user nor as root. Default false: such a server needs a Secret. It has no effect on
	// TCP, on Windows and with Dial.
	AllowAnyUser bool
	// Upgrade is called with each connection after the check of the server's user and
	// before the handshake, and returns the connection to use instead; see ServerConfig.
	// If it returns an error the attempt fails. Default nil: the connection is used
	// directly.
	Upgrade func(net.Conn) (net.Conn, error)
	// Dial is called, one call at a time, instead of using Network and Address. An error
	// that wraps net.ErrClosed means that there will be no further connection, and ends
	// the client. Default nil.
	Dial func(ctx context.Context) (net.Conn, error)
}

// Peer describes the process at the other end of a connection. UID, GID and PID are
// reported by the kernel: on Linux, over a unix socket, for the process that called
// connect or listen. UID and GID can be trusted. PID is for logs, because the number may
// have been reused. Identity was proved by the peer in the handshake.
type Peer struct {
	UID, GID, PID int      // -1 if not Known
	Known         bool     // the kernel reports UID, GID and PID; false if one has no number in this process's namespaces
	Identity      string   // on a server: the name in Secrets whose secret the client has proved; "" for Secret, on a client, and in Authorize, which is called before the handshake
	Addr          net.Addr // the address at the other end; empty for a client on a unix socket
}

// settings is a checked copy of a config with all defaults filled in. It does not
// change after the start.
type settings struct {
	handshakeConfig
	network, address string        // in full
	socketBase       string        // base directory of derived socket paths; "" is /tmp. Tests set it
	socketPlaces     []socketPlace // possible paths of the unix socket
	heartbeat        time.Duration // as configured; heartbeatFor returns the effective value
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
		return nil, newError(ErrConfig, nil, "the config is nil: pass a *ServerConfig that has a Name")
	}
	return (&settings{handshakeConfig: handshakeConfig{name: c.Name, secret: bytes.Clone(c.Secret), maxDataSize: c.MaxMsgSize},
		network: c.Network, address: c.Address, heartbeat: c.Heartbeat, busyPoll: c.BusyPoll, eventLog: newLog(c.Logger, "server", c.Name), upgradeFunc: c.Upgrade,
		unmaskSocket: c.UnmaskPermissions, multiClient: c.MultiClient, maxClients: c.MaxClients, authorizeFunc: c.Authorize,
		listener: c.Listener}).applyDefaults(c.Encryption, c.Secrets)
}

func (c *ClientConfig) settings() (*settings, error) {
	if c == nil {
		return nil, newError(ErrConfig, nil, "the config is nil: pass a *ClientConfig that has a Name")
	}
	return (&settings{handshakeConfig: handshakeConfig{name: c.Name, secret: bytes.Clone(c.Secret), maxDataSize: c.MaxMsgSize},
		network: c.Network, address: c.Address, heartbeat: c.Heartbeat, busyPoll: c.BusyPoll, eventLog: newLog(c.Logger, "client", c.Name), upgradeFunc: c.Upgrade,
		totalTimeout: c.Timeout, maxRetryDelay: c.RetryTimer, allowAnyUser: c.AllowAnyUser, dialFunc: c.Dial}).applyDefaults(c.Encryption, nil)
}

// newLog returns the log of a server or a client. Every record has the attributes role
// and name.
func newLog(logger *slog.Logger, role, name string) *eventlog.Log {
	if logger == nil {
		logger = debugLogger(os.Getenv("GIPC_DEBUG"), os.Stderr)
	}
	return &eventlog.Log{Logger: logger, Attrs: []any{"role", role, "name", name}}
}

// applyDefaults fills in the defaults and checks all fields. Fields that only the other
// kind of config has are zero, which is valid.
func (s *settings) applyDefaults(e Encryption, secrets map[string][]byte) (*settings, error) {
	s.encrypt, s.hybrid = e == EncryptionOn, true
	s.maxDataSize = cmp.Or(s.maxDataSize, defaultMsgSize)
	s.maxRetryDelay = cmp.Or(s.maxRetryDelay, time.Second)
	s.network = cmp.Or(s.network, sys.DefaultNetwork)
	secret, name := s.secret != nil, s.name
	for _, check := range []struct {
		invalid bool
		field   string
		value   any
		advice  string
	}{
		{name == "" || len(name) > 255 || !utf8.ValidString(name) || strings.ContainsAny(name, "/\\\x00") || name == "." || name == "..",
			"Name", fmt.Sprintf("%q", name), `give 1 to 255 bytes of UTF-8 without slash, backslash and NUL, and not "." or ".."`},
		{s.network != "unix" && s.network != "tcp", "Network", fmt.Sprintf("%q", s.network), `use "unix" or "tcp"`},
		{e != EncryptionOn && e != EncryptionOff, "Encryption", int(e), "use EncryptionOn or EncryptionOff"},
		{secret && secretProblem(s.secret) != "", "Secret", secretProblem(s.secret), adviceSecret + ", or nil for none"},
		{secret && !s.encrypt, "Encryption", "EncryptionOff and Secret is set", "plaintext cannot prove a secret, so drop one of them"},
		{secrets != nil && len(secrets) == 0 && !secret, "Secrets", "empty", "add an entry (an empty map would admit every client), or give nil for no secret"},
		{len(secrets) > maxSecrets, "Secrets", fmt.Sprintf("%d entries", len(secrets)), "give 256 at most: every handshake tries all of them"},
		{len(secrets) > 0 && !s.encrypt, "Encryption", "EncryptionOff and Secrets is set", "plaintext cannot prove a secret, so drop one of them"},
		{s.maxDataSize < minMsgSize || s.maxDataSize > maxMsgSize, "MaxMsgSize", s.maxDataSize, "0 is 3145728, else give 1024 to 1073741824 bytes"},
		{s.maxClients < 0, "MaxClients", s.maxClients, "must not be negative; 0 means no limit"},
		{s.maxClients > 0 && !s.multiClient, "MaxClients", s.maxClients, "it needs MultiClient; without it one client is served"},
		{s.heartbeat > 0 && s.heartbeat < minHeartbeat, "Heartbeat", s.heartbeat, "give 1 s or more, 0 for the default, or a negative time for none"},
		{s.busyPoll < 0, "BusyPoll", s.busyPoll, "must not be negative; 0 means off"},
		{s.totalTimeout < 0, "Timeout", s.totalTimeout, "must not be negative; 0 means no limit"},
		{s.maxRetryDelay < 0, "RetryTimer", s.maxRetryDelay, "must not be negative; 0 means 1 s"},
		{s.maxRetryDelay < time.Millisecond, "RetryTimer", s.maxRetryDelay, "give 1 ms or more: for milliseconds multiply by time.Millisecond"},
	} {
		if check.invalid {
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

// secretProblem describes what is wrong with a secret, without revealing it. It returns
// "" if nothing is.
func secretProblem(secret []byte) string {
	switch {
	case len(secret) < 32:
		return fmt.Sprintf("%d bytes long", len(secret))
	case bytes.Count(secret, []byte{0}) == len(secret):
		return "all zeros"
	}
	return ""
}

// addHolders checks Secrets, and derives the holders that the handshake needs.
func (s *settings) addHolders(secrets map[string][]byte) error {
	owners := map[string]string{}
	if s.secret != nil {
		owners[string(s.secret)] = "Secret"
	}
	for _, identity := range slices.Sorted(maps.Keys(secrets)) { // sorted, so that the same config returns the same error
		secret, field := secrets[identity], fmt.Sprintf("Secrets[%q]", identity)
		if identity == "" {
			return fieldError("Secrets", `an entry with the key ""`, "give each holder a name: that key is the identity of Secret")
		}
		if problem := secretProblem(secret); problem != "" {
			return fieldError(field, problem, adviceSecret)
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
	own, err := newSecretHolder("", s.secret)
	if err != nil {
		return err
	}
	s.ownHolder = own
	if s.secret != nil && len(s.holders) > 0 {
		s.holders = append(s.holders, own)
	}
	return nil
}

// heartbeatFor returns the idle time before a ping for a connection, or 0 for none. It
// depends on the address, because Dial and Listener may use any network.
func (s *settings) heartbeatFor(a net.Addr) time.Duration {
	if s.heartbeat == 0 && a != nil && strings.HasPrefix(a.Network(), "tcp") {
		return defaultHeartbeat
	}
	return max(s.heartbeat, 0)
}

// debugLogger returns the logger for a value of GIPC_DEBUG, or nil. It logs a warning
// for a value that it does not know, because somebody expects output.
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
