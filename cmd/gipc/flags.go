// The flags that set the fields of the library's configs.

package main

import (
	"flag"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"example.com/gipc"
)

// connectionFlags are the flags of servers and clients alike.
type connectionFlags struct {
	network    string
	address    string
	plain      bool
	secretFile string
	maxSize    int
	heartbeat  time.Duration
	busyPoll   time.Duration
	logLevel   string
}

func (f *connectionFlags) define(fs *flag.FlagSet) {
	fs.StringVar(&f.network, "network", "", "`unix` or tcp (default unix)")
	fs.StringVar(&f.address, "address", "", "`path` of the socket, or host:port (default: from NAME, or from GIPC_SOCKET_DIR, GIPC_NETWORK_HOST and GIPC_NETWORK_PORT)")
	fs.StringVar(&f.secretFile, "secret-file", "", "`file` whose bytes, 32 random ones or more, are the secret of both sides")
	fs.IntVar(&f.maxSize, "max-size", 0, "the largest message that is accepted, in `bytes`, 1024 to 1073741824 (default 3145728)")
	fs.DurationVar(&f.heartbeat, "heartbeat", 0, "idle `time` before a ping, 1s or more; negative is none (default 15s on TCP, otherwise none)")
	fs.DurationVar(&f.busyPoll, "busy-poll", 0, "how long a reader polls before it sleeps: less latency for processor `time`")
	fs.StringVar(&f.logLevel, "log", "", "`level` of the library's log on standard error: error, warn, info or debug (default: none, or GIPC_DEBUG)")
}

// logger returns the logger for -log, or nil.
func (f *connectionFlags) logger(w io.Writer) (*slog.Logger, error) {
	if f.logLevel == "" {
		return nil, nil
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return nil, usagef("-log %s is not a level: give error, warn, info or debug", f.logLevel)
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})), nil
}

func (f *connectionFlags) encryption() gipc.Encryption {
	if f.plain {
		return gipc.EncryptionOff
	}
	return gipc.EncryptionOn
}

// clientFlags are the flags of commands that connect.
type clientFlags struct {
	connectionFlags
	wait    time.Duration
	retry   time.Duration
	anyUser bool
}

func (f *clientFlags) define(fs *flag.FlagSet) {
	f.connectionFlags.define(fs)
	fs.BoolVar(&f.plain, "plain", false, "do without encryption if the server does")
	fs.DurationVar(&f.wait, "wait", 5*time.Second, "how long to wait for the server, a `time`; 0 waits forever")
	fs.DurationVar(&f.retry, "retry", 0, "the longest `time` between two attempts to connect (default 1s)")
	fs.BoolVar(&f.anyUser, "any-user", false, "accept a server of another user without a secret")
}

// config returns the config of a client with this name.
func (f *clientFlags) config(env *environment, name string) (*gipc.ClientConfig, error) {
	secret, err := readSecret(env, f.secretFile)
	if err != nil {
		return nil, err
	}
	logger, err := f.logger(env.stderr)
	if err != nil {
		return nil, err
	}
	return &gipc.ClientConfig{
		Name: name, Network: f.network, Address: f.address, Secret: secret, MaxMsgSize: f.maxSize, Heartbeat: f.heartbeat,
		BusyPoll: f.busyPoll, Logger: logger, Encryption: f.encryption(), Timeout: f.wait, RetryTimer: f.retry, AllowAnyUser: f.anyUser,
	}, nil
}

// connect starts a client of the server called name.
func (f *clientFlags) connect(env *environment, name string) (*gipc.Client, error) {
	config, err := f.config(env, name)
	if err != nil {
		return nil, err
	}
	client, err := gipc.StartClientContext(env.ctx, config)
	if err != nil && env.ctx.Err() != nil {
		return nil, failure(fmt.Sprintf("interrupted while connecting to %q", name), err, "")
	}
	if err != nil {
		err = failure(fmt.Sprintf("connecting to %q", name), configError(err), "")
		if advice := connectAdvice(err, name); advice != "" {
			err = fmt.Errorf("%w\n%s", err, advice) // the text of the library has advice for programs already
		}
		return nil, err
	}
	return client, nil
}

// serverFlags are the flags of commands that listen.
type serverFlags struct {
	connectionFlags
	secrets    listFlag
	maxClients int
	anyUser    bool
}

func (f *serverFlags) define(fs *flag.FlagSet) {
	f.connectionFlags.define(fs)
	fs.BoolVar(&f.plain, "plain", false, "serve without encryption")
	fs.Var(&f.secrets, "secret-of", "`CLIENT=file`: the file has the secret of this client alone; can be repeated")
	fs.IntVar(&f.maxClients, "max-clients", 0, "how many `clients` are served at once (default no limit)")
	fs.BoolVar(&f.anyUser, "any-user", false, "let every local user connect: the socket gets mode 0777 and is in /tmp (default: its owner alone, 0600)")
}

// config returns the config of a server with this name.
func (f *serverFlags) config(env *environment, name string) (*gipc.ServerConfig, error) {
	secret, err := readSecret(env, f.secretFile)
	if err != nil {
		return nil, err
	}
	secrets, err := readSecrets(env, f.secrets)
	if err != nil {
		return nil, err
	}
	logger, err := f.logger(env.stderr)
	if err != nil {
		return nil, err
	}
	return &gipc.ServerConfig{
		Name: name, Network: f.network, Address: f.address, Secret: secret, Secrets: secrets, MaxMsgSize: f.maxSize, Heartbeat: f.heartbeat,
		BusyPoll: f.busyPoll, Logger: logger, Encryption: f.encryption(), UnmaskPermissions: f.anyUser, MultiClient: true, MaxClients: f.maxClients,
	}, nil
}

// A listFlag is a flag that can be repeated.
type listFlag []string

func (f *listFlag) String() string     { return strings.Join(*f, ",") }
func (f *listFlag) Set(s string) error { *f = append(*f, s); return nil }

// checkType fails if a message of this type cannot be sent.
func checkType(name string, msgType int) error {
	if msgType < 1 || msgType > 2147483647 {
		return usagef("%s %d is not a message type: give 1 to 2147483647", name, msgType)
	}
	return nil
}
