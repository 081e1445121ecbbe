// What an error says to those who meet it in their first hour: what happened,
// where, and what to do. One table, with the words that each text has to have.

//go:build linux

package gipc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A firstHour is a place to make mistakes in.
type firstHour struct {
	*testing.T
	path string
	soon time.Duration // for what cannot succeed
}

// serve starts a server at the path.
func (h *firstHour) serve(c ServerConfig) *Server {
	h.Helper()
	s, err := h.tryServe(c)
	if err != nil {
		h.Fatal(err)
	}
	return s
}

// tryServe starts a server where the config says no more than what is wrong.
func (h *firstHour) tryServe(c ServerConfig) (*Server, error) {
	if c.Name == "" {
		c.Name = "n"
	}
	if c.Network == "" {
		c.Network = "unix"
	}
	if c.Network == "unix" && c.Address == "" && c.Name == "n" {
		c.Address = h.path
	}
	s, err := StartServer(&c)
	if err == nil {
		h.Cleanup(func() { s.Close() })
	}
	return s, err
}

// dial returns the error of a client that does not get in.
func (h *firstHour) dial(c ClientConfig) error {
	h.Helper()
	client, err := h.tryDial(c)
	if err == nil {
		client.Close()
	}
	return err
}

func (h *firstHour) tryDial(c ClientConfig) (*Client, error) {
	if c.Name == "" {
		c.Name = "n"
	}
	if c.Network == "" {
		c.Network = "unix"
	}
	if c.Network == "unix" && c.Address == "" {
		c.Address = h.path
	}
	return StartClient(&c)
}

// connected returns the two ends of a connection.
func (h *firstHour) connected(sc ServerConfig, cc ClientConfig) (*Server, *Client) {
	h.Helper()
	s := h.serve(sc)
	c, err := h.tryDial(cc)
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { c.Close() })
	return s, c
}

// logged returns what a server's log has as the error of a peer that did not get
// in: peer gets the connection, and says what it likes.
func (h *firstHour) logged(c ServerConfig, peer func(net.Conn)) error {
	h.Helper()
	errs := make(errorLog, 8)
	c.Logger = slog.New(errs)
	h.serve(c)
	conn, err := net.Dial("unix", h.path)
	if err != nil {
		h.Fatal(err)
	}
	defer conn.Close()
	peer(conn)
	return <-errs
}

// errorLog is a log that keeps nothing but the attribute err.
type errorLog chan error

func (l errorLog) Enabled(context.Context, slog.Level) bool { return true }
func (l errorLog) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l errorLog) WithGroup(string) slog.Handler            { return l }
func (l errorLog) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok && a.Key == "err" {
			l <- err
		}
		return true
	})
	return nil
}

// fake listens at the path as a server of another kind, which says hello and
// leaves, or says nothing and stays.
func (h *firstHour) fake(hello string) {
	h.Helper()
	l := bindAt(h.T, h.path)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if hello == "" {
				defer conn.Close()
				continue
			}
			conn.Write([]byte(hello))
			conn.Close()
		}
	}()
}

// parted returns the status message of the side that lives on, or not, when the
// other one's socket is cut.
func parted(e *endpoint) *Message {
	for {
		m, err := e.Read()
		if err != nil || m.Status == ReConnecting.String() || m.Status == Disconnected.String() {
			return m
		}
	}
}

func ended() context.Context {
	ctx, cancel := context.WithDeadline(context.Background(), time.Unix(1, 0))
	cancel()
	return ctx
}

// advices are the mistakes, the sentinels that the error matches, and words of
// its text. PATH stands for the socket's path.
var advices = []struct {
	name  string
	make  func(h *firstHour) error
	is    []error
	words string // separated by |
}{
	{"no server", func(h *firstHour) error { return h.dial(ClientConfig{Timeout: h.soon}) },
		[]error{ErrTimeout, os.ErrDeadlineExceeded, fs.ErrNotExist},
		"no connection within|unix PATH|no server is listening there: start it|Name, Address and GIPC_SOCKET_DIR are the same"},
	{"a dead server's socket", func(h *firstHour) error {
		leaveDeadSocket(h.T, h.path)
		return h.dial(ClientConfig{Timeout: h.soon})
	}, []error{ErrTimeout, syscall.ECONNREFUSED}, "unix PATH|no server is listening there: start it"},
	{"no server, and a context that ends", func(h *firstHour) error {
		ctx, cancel := context.WithTimeout(h.Context(), h.soon)
		defer cancel()
		_, err := StartClientContext(ctx, &ClientConfig{Name: "n", Network: "unix", Address: h.path})
		return err
	}, []error{context.DeadlineExceeded, fs.ErrNotExist}, "unix PATH|no server is listening there: start it"},
	{"no server on the port", func(h *firstHour) error {
		return h.dial(ClientConfig{Network: "tcp", Address: boundPort(h.T), Timeout: h.soon})
	}, []error{ErrTimeout, syscall.ECONNREFUSED}, "tcp 127.0.0.1:|no server is listening there: start it|Address, GIPC_NETWORK_HOST and GIPC_NETWORK_PORT are the same"},

	{"name in use", func(h *firstHour) error {
		h.serve(ServerConfig{})
		_, err := h.tryServe(ServerConfig{})
		return err
	}, []error{ErrNameInUse}, "another server serves PATH|stop it|choose another Name, Address or GIPC_SOCKET_DIR"},
	{"name in use by a server of another kind", func(h *firstHour) error {
		bindAt(h.T, h.path)
		_, err := h.tryServe(ServerConfig{})
		return err
	}, []error{ErrNameInUse}, "may be alive at PATH|stop it|choose another Name, Address or GIPC_SOCKET_DIR"},
	{"port in use", func(h *firstHour) error {
		_, err := h.tryServe(ServerConfig{Network: "tcp", Address: boundPort(h.T)})
		return err
	}, []error{ErrNameInUse, syscall.EADDRINUSE}, "tcp 127.0.0.1:|stop who does|choose another Address, GIPC_NETWORK_HOST or GIPC_NETWORK_PORT"},
	{"a file at the path", func(h *firstHour) error {
		if err := os.WriteFile(h.path, nil, 0o600); err != nil {
			h.Fatal(err)
		}
		_, err := h.tryServe(ServerConfig{})
		return err
	}, []error{ErrConfig}, "PATH is not a socket|remove it|choose another Name, Address or GIPC_SOCKET_DIR"},
	{"no directory", func(h *firstHour) error {
		h.Setenv("GIPC_SOCKET_DIR", h.path)
		_, err := h.tryServe(ServerConfig{Name: "absent"})
		return err
	}, []error{ErrConfig, fs.ErrNotExist}, "PATH/absent.sock: make it|no directory|choose another Name, Address or GIPC_SOCKET_DIR"},
	{"no directory, of a client", func(h *firstHour) error {
		return h.dial(ClientConfig{Address: h.path + "/absent", Timeout: h.soon})
	}, []error{ErrTimeout, fs.ErrNotExist}, "unix PATH/absent|GIPC_SOCKET_DIR"},
	{"a long path", func(h *firstHour) error {
		_, err := h.tryServe(ServerConfig{Address: h.path + strings.Repeat("x", 100)})
		return err
	}, []error{ErrConfig}, "PATHxxx|bytes and the system's limit is 107|choose another Name, Address or GIPC_SOCKET_DIR"},
	{"a long path, of a client", func(h *firstHour) error {
		return h.dial(ClientConfig{Address: h.path + strings.Repeat("x", 100)})
	}, []error{ErrConfig}, "PATHxxx|bytes and the system's limit is 107|choose another Name, Address or GIPC_SOCKET_DIR"},
	{"an unreadable port", func(h *firstHour) error {
		h.Setenv("GIPC_NETWORK_PORT", "many")
		return h.dial(ClientConfig{Network: "tcp"})
	}, []error{ErrConfig}, `GIPC_NETWORK_PORT is "127.0.0.1:many"|a port from 0 to 65535`},

	{"nil, for a server", func(*firstHour) error { _, err := StartServer(nil); return err },
		[]error{ErrConfig}, "the config is nil|*ServerConfig that has a Name"},
	{"nil, for a client", func(*firstHour) error { _, err := StartClient(nil); return err },
		[]error{ErrConfig}, "the config is nil|*ClientConfig that has a Name"},
	{"no name", func(*firstHour) error { _, err := StartServer(&ServerConfig{}); return err },
		[]error{ErrConfig}, `Name is "": give 1 to 255 bytes`},
	{"a bad name", func(h *firstHour) error { return h.dial(ClientConfig{Name: "a/b"}) },
		[]error{ErrConfig}, `Name is "a/b": give 1 to 255 bytes|without slash`},
	{"a bad network", func(h *firstHour) error { return h.dial(ClientConfig{Network: "udp"}) },
		[]error{ErrConfig}, `Network is "udp": use "unix" or "tcp"`},
	{"a bad size", func(h *firstHour) error { return h.dial(ClientConfig{MaxMsgSize: -1}) },
		[]error{ErrConfig}, "MaxMsgSize is -1: 0 is 3145728, else give 1024 to 1073741824 bytes"},
	{"a bad timeout", func(h *firstHour) error { return h.dial(ClientConfig{Timeout: -time.Second}) },
		[]error{ErrConfig}, "Timeout is -1s: 0 is forever"},
	{"a network open to all", func(h *firstHour) error {
		_, err := h.tryServe(ServerConfig{Network: "tcp", Address: "0.0.0.0:0"})
		return err
	}, []error{ErrConfig}, "tcp 0.0.0.0:0|beyond this machine|set Secret or Secrets, or Authorize|or listen on 127.0.0.1"},

	{"wrong secret", func(h *firstHour) error {
		h.serve(ServerConfig{Secret: testSecret})
		return h.dial(ClientConfig{Secret: []byte(strings.Repeat("other", 8))})
	}, []error{ErrSecret}, "unix PATH|another Secret or another Name|both configs need the same"},
	{"wrong secret, in the server's log", func(h *firstHour) error {
		return h.logged(ServerConfig{Secret: testSecret}, func(net.Conn) {
			h.dial(ClientConfig{Secret: []byte(strings.Repeat("other", 8))})
		})
	}, []error{ErrSecret}, "another Secret or another Name|both configs need the same"},
	{"another name", func(h *firstHour) error {
		h.serve(ServerConfig{})
		return h.dial(ClientConfig{Name: "another"})
	}, []error{ErrSecret}, "unix PATH|another Secret or another Name|both configs need the same"},
	{"no secret in the client", func(h *firstHour) error {
		h.serve(ServerConfig{Secret: testSecret})
		return h.dial(ClientConfig{})
	}, []error{ErrSecret}, "unix PATH|the server requires a secret and the client has none|set Secret in ClientConfig"},
	{"no secret in the server", func(h *firstHour) error {
		h.serve(ServerConfig{})
		return h.dial(ClientConfig{Secret: testSecret})
	}, []error{ErrSecret}, "unix PATH|the client requires a secret and the server has none|set Secret in ServerConfig"},
	{"short secret", func(h *firstHour) error { return h.dial(ClientConfig{Secret: []byte("password")}) },
		[]error{ErrConfig}, "Secret is 8 bytes long|give 32 random bytes or more"},
	{"a secret in plaintext", func(h *firstHour) error {
		_, err := h.tryServe(ServerConfig{Secret: testSecret, Encryption: EncryptionOff})
		return err
	}, []error{ErrConfig}, "Encryption is EncryptionOff and Secret is set|drop one of them"},

	{"encryption off in the server alone", func(h *firstHour) error {
		h.serve(ServerConfig{Encryption: EncryptionOff})
		return h.dial(ClientConfig{})
	}, []error{ErrEncryption}, "unix PATH|the server has it off|Encryption in ServerConfig to EncryptionOn, or in ClientConfig to EncryptionOff"},
	{"encryption off in the server alone, in its log", func(h *firstHour) error {
		return h.logged(ServerConfig{Encryption: EncryptionOff}, func(net.Conn) { h.dial(ClientConfig{}) })
	}, []error{ErrEncryption}, "the server has it off|Encryption in ServerConfig to EncryptionOn, or in ClientConfig to EncryptionOff"},
	{"an old server", func(h *firstHour) error {
		h.fake("\x02\x01")
		return h.dial(ClientConfig{AllowAnyUser: true})
	}, []error{ErrVersion}, "unix PATH|an old version: update it, or use package wire2 as the Upgrade of ClientConfig"},
	{"an old client, in the server's log", func(h *firstHour) error {
		return h.logged(ServerConfig{}, func(conn net.Conn) { conn.Write([]byte{reasonVersion}) })
	}, []error{ErrVersion}, "update the older side|package wire2"},
	{"a server of another kind", func(h *firstHour) error {
		h.fake("SSH-2.0-\r\n")
		return h.dial(ClientConfig{AllowAnyUser: true})
	}, []error{ErrVersion}, "unix PATH|looks like SSH|check Address"},
	{"a server that says nothing", func(h *firstHour) error {
		h.fake("")
		return h.dial(ClientConfig{Timeout: h.soon})
	}, []error{ErrTimeout}, "unix PATH|said nothing|busy|another program"},

	{"a second client", func(h *firstHour) error {
		h.connected(ServerConfig{}, ClientConfig{})
		return h.dial(ClientConfig{Timeout: h.soon})
	}, []error{ErrTimeout, ErrRefused}, "unix PATH|as many clients as it may|MultiClient and MaxClients in ServerConfig"},
	{"one client too many", func(h *firstHour) error {
		h.connected(ServerConfig{MultiClient: true, MaxClients: 1}, ClientConfig{})
		return h.dial(ClientConfig{Timeout: h.soon})
	}, []error{ErrTimeout, ErrRefused}, "unix PATH|as many clients as it may|MultiClient and MaxClients in ServerConfig"},
	{"not authorized", func(h *firstHour) error {
		h.serve(ServerConfig{Authorize: func(Peer) error { return errors.New("not on a Sunday") }})
		return h.dial(ClientConfig{})
	}, []error{ErrRefused}, "unix PATH|Authorize|the server's log"},
	{"not authorized, in the server's log", func(h *firstHour) error {
		return h.logged(ServerConfig{Authorize: func(Peer) error { return errors.New("not on a Sunday") }}, func(net.Conn) {})
	}, []error{ErrRefused}, "Authorize|not on a Sunday"},
	{"a dial function that fails", func(h *firstHour) error {
		return h.dial(ClientConfig{Timeout: h.soon, Dial: func(context.Context) (net.Conn, error) { return nil, errors.New("no route") }})
	}, []error{ErrTimeout}, "the config's Dial|no route"},

	{"a large message", func(h *firstHour) error {
		_, c := h.connected(ServerConfig{MaxMsgSize: 1024}, ClientConfig{})
		return c.Write(1, make([]byte, 1025))
	}, []error{ErrTooLarge}, "1025 bytes, and the peer accepts 1024|split it, or raise MaxMsgSize there"},
	{"a large message from a peer that does not care", func(h *firstHour) error {
		s, c := h.connected(ServerConfig{MaxMsgSize: 1024, Encryption: EncryptionOff}, ClientConfig{Encryption: EncryptionOff})
		c.current.Load().conn.Write(appendFrameHeader(nil, frameHeader{frameType: 1, dataSize: 1025}))
		return parted(&s.endpoint).Err
	}, []error{ErrMalformed}, "1025 bytes|1024|MaxMsgSize"},
	{"type 0", func(h *firstHour) error {
		_, c := h.connected(ServerConfig{}, ClientConfig{})
		return c.Write(0, nil)
	}, []error{ErrReservedType}, "0: use 1 to 2147483647"},
	{"a negative type", func(h *firstHour) error { return h.serve(ServerConfig{}).Queue(-1, nil) },
		[]error{ErrReservedType}, "-1: use 1 to 2147483647"},
	{"a type that is too large", func(h *firstHour) error {
		tooLarge := int64(1 << 31) // negative where int has 32 bits
		return h.serve(ServerConfig{}).Write(int(tooLarge), nil)
	}, []error{ErrReservedType}, "2147483648: use 1 to 2147483647"},
	{"a write before the first client", func(h *firstHour) error {
		ctx, cancel := context.WithTimeout(h.Context(), h.soon)
		defer cancel()
		return h.serve(ServerConfig{}).WriteContext(ctx, 1, nil)
	}, []error{context.DeadlineExceeded}, "write|no peer has connected yet|Listening"},
	{"a wait for a client", func(h *firstHour) error { return h.serve(ServerConfig{}).WaitConnected(ended()) },
		[]error{context.DeadlineExceeded}, "wait for a connection|Listening"},
	{"a read that takes too long", func(h *firstHour) error {
		_, err := h.serve(ServerConfig{}).ReadContext(ended())
		return err
	}, []error{context.DeadlineExceeded}, "read"},
	{"a write after the client has left", func(h *firstHour) error {
		s, c := h.connected(ServerConfig{}, ClientConfig{})
		c.Shutdown(ended())
		parted(&s.endpoint)
		return s.Write(1, nil)
	}, []error{ErrNotConnected}, "Disconnected|WaitConnected waits for the next"},
	{"a client that ended without Close", func(h *firstHour) error {
		s, c := h.connected(ServerConfig{}, ClientConfig{})
		c.Shutdown(ended())
		return parted(&s.endpoint).Err
	}, []error{ErrTruncated}, "without a close|exited|Close"},
	{"messages that were queued and lost", func(h *firstHour) error {
		s, c := h.connected(ServerConfig{}, ClientConfig{})
		for range 2 {
			if err := s.Queue(1, nil); err != nil {
				h.Fatal(err)
			}
		}
		c.Shutdown(ended())
		parted(&s.endpoint)
		return s.Write(1, nil)
	}, []error{ErrNotConnected}, "2 queued messages were lost|nothing was sent|again"},
	{"a write after Close", func(h *firstHour) error {
		_, c := h.connected(ServerConfig{}, ClientConfig{})
		c.Close()
		return c.Write(1, nil)
	}, []error{ErrClosed, net.ErrClosed}, "closed|for good"},
	{"a read after Close", func(h *firstHour) error {
		_, c := h.connected(ServerConfig{}, ClientConfig{})
		c.Close()
		for {
			if _, err := c.Read(); err != nil {
				return err
			}
		}
	}, []error{ErrClosed, net.ErrClosed}, "closed|for good"},
	{"a read from all clients at once", func(h *firstHour) error {
		_, err := h.serve(ServerConfig{MultiClient: true}).Read()
		return err
	}, []error{ErrMultiClient}, "many clients|use its Connections"},
	{"a write to all clients at once", func(h *firstHour) error { return h.serve(ServerConfig{MultiClient: true}).Write(1, nil) },
		[]error{ErrMultiClient}, "many clients|use its Connections"},
	{"a broadcast to a client that is stuck", func(h *firstHour) error {
		s, _ := h.connected(ServerConfig{MultiClient: true}, ClientConfig{})
		for range s.Connections.Messages(h.Context()) { // Connected
			break
		}
		return s.Connections.Broadcast(ended(), 1, nil)
	}, []error{context.DeadlineExceeded}, "client 1"},
}

// boundPort returns an address at which nobody listens and nobody else can.
func boundPort(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	addr, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", addr.(*syscall.SockaddrInet4).Port)
}

func TestAdvice(t *testing.T) {
	clearEnvironment(t)
	for _, a := range advices {
		t.Run(a.name, func(t *testing.T) {
			// Where time had to pass, a busy machine may have had too little of it.
			for soon := 20 * time.Millisecond; ; soon *= 8 {
				h := &firstHour{t, tempSocket(t), soon}
				err := a.make(h)
				problems := misread(err, a.is, strings.ReplaceAll(a.words, "PATH", h.path))
				if len(problems) == 0 {
					return
				}
				if soon > 10*time.Second || !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, context.DeadlineExceeded) {
					t.Fatal(strings.Join(problems, "\n"))
				}
			}
		})
	}
}

// misread returns what is missing in an error for those who read it.
func misread(err error, is []error, words string) (problems []string) {
	if err == nil {
		return []string{"no error"}
	}
	for _, target := range is {
		if !errors.Is(err, target) {
			problems = append(problems, fmt.Sprintf("is not %q: %v", target, err))
		}
	}
	text := err.Error()
	for word := range strings.SplitSeq(words, "|") {
		if !strings.Contains(text, word) {
			problems = append(problems, fmt.Sprintf("does not say %q: %s", word, text))
		}
	}
	if !strings.HasPrefix(text, errorPrefix) || strings.Count(text, errorPrefix) != 1 || strings.Contains(text, "\n") {
		problems = append(problems, fmt.Sprintf("is not one line with one prefix: %q", text))
	}
	return problems
}

func init() { testChildren["advice"] = adviceChild }

// adviceChild starts what it reads, a server or a client, a path and a Timeout, and
// tells which sentinels the error is, and its text.
func adviceChild() {
	for {
		var role, path string
		var timeout time.Duration
		if _, err := fmt.Scan(&role, &path, (*int64)(&timeout)); err != nil {
			return
		}
		var err error
		if role == "client" {
			_, err = StartClient(&ClientConfig{Name: "n", Network: "unix", Address: path, Timeout: timeout})
		} else {
			_, err = StartServer(&ServerConfig{Name: "n", Network: "unix", Address: path})
		}
		for _, s := range []error{ErrTimeout, ErrConfig, ErrNameInUse, fs.ErrPermission} {
			if errors.Is(err, s) {
				fmt.Print(s, "|")
			}
		}
		fmt.Println(err)
	}
}

// toldError is what the child tells of an error.
type toldError []string

func (e toldError) Error() string        { return e[len(e)-1] }
func (e toldError) Is(target error) bool { return slices.Contains(e[:len(e)-1], target.Error()) }

// TestAdviceAmongUsers is about what a user meets that another one has left.
func TestAdviceAmongUsers(t *testing.T) {
	t.Parallel()
	path := tempSocket(t)
	dir := filepath.Dir(path)
	c := startChild(t, "advice", asNobody(t, dir))
	told := func(role, path string, timeout time.Duration) error {
		c.say("%s %s %d", role, path, timeout)
		return toldError(strings.Split(c.hear(), "|"))
	}
	h := &firstHour{T: t, path: path}
	h.serve(ServerConfig{})
	check := func(what string, err error, is []error, words string) {
		t.Helper()
		for _, problem := range misread(err, is, words) {
			t.Errorf("%s: %s", what, problem)
		}
	}

	is, words := []error{fs.ErrPermission}, "unix "+path+"|permission denied|run as the server's user, or set UnmaskPermissions there"
	err := told("client", path, 30*time.Second)
	check("a socket of another user", err, is, words)

	check("a name of another user", told("server", path, 0), []error{ErrNameInUse, fs.ErrPermission},
		path+".lock belongs to user 0|remove the file|choose another Name, Address or GIPC_SOCKET_DIR")

	closed := filepath.Join(dir, "d")
	if err := os.Mkdir(closed, 0o755); err != nil {
		t.Fatal(err)
	}
	check("a directory of another user", told("server", filepath.Join(closed, "s"), 0), []error{ErrConfig, fs.ErrPermission},
		filepath.Join(closed, "s.lock")+"|in a directory that exists and may be written|choose another Name, Address or GIPC_SOCKET_DIR")

	theirs := filepath.Join(dir, "t")
	if err := told("server", theirs, 0); err.Error() != "<nil>" {
		t.Fatal(err)
	}
	check("a server of another user", h.dial(ClientConfig{Address: theirs}), []error{ErrUntrustedServer},
		"unix "+theirs+"|runs as user 65534 and this client as user 0|the same Secret on both sides, or AllowAnyUser here")
}
