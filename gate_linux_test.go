// Who gets in, with real users: the mode of a socket, the kernel's word for who
// is there, and names that another user holds.

package gipc

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/gipc/internal/sys"
)

const nobody, another = 65534, 65533

func init() {
	testChildren["gate"] = gateChild
	testChildren["intruder"] = intruderChild
	testChildren["squatter"] = squatterChild
}

// gateChild is a server or a client with settings by name: "serve PATH NAME...",
// "dial PATH NAME...", or "try PATH NAME..." for one try to connect and no more.
// A server answers what it reads of its client and goes on; a client that is in
// exchanges one message and leaves.
func gateChild() {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		words := strings.Fields(in.Text())
		role, path := words[0], strings.TrimPrefix(words[1], "-") // "-" is by the name alone
		server := &ServerConfig{Name: "gate", Network: "unix", Address: path}
		client := &ClientConfig{Name: "gate", Network: "unix", Address: path, Timeout: time.Minute}
		for _, name := range words[2:] {
			switch name {
			case "unmask":
				server.UnmaskPermissions = true
			case "any":
				client.AllowAnyUser = true
			case "soon":
				client.Timeout = 500 * time.Millisecond
			case "secret":
				server.Secret, client.Secret = testSecret, testSecret
			case "other":
				server.Secret, client.Secret = bytes.Repeat([]byte{77}, 32), bytes.Repeat([]byte{77}, 32)
			default:
				panic(name)
			}
		}
		var err error
		if role == "serve" {
			var s *Server
			if s, err = StartServer(server); err == nil {
				go func() {
					for m, err := range s.Messages(context.Background()) {
						if err == nil {
							s.Write(1, fmt.Appendf(nil, "%s from %d", m.Data, s.Peer().UID))
						}
					}
				}()
				fmt.Println("ok")
				continue
			}
		} else if role == "flood" {
			flood(path)
			continue
		} else if role == "try" {
			err = tryOnce(client)
		} else {
			var c *Client
			if c, err = StartClient(client); err == nil {
				c.Write(1, []byte("hello"))
				for m, err := range c.Messages(context.Background()) {
					fmt.Printf("in: %d answers %q, %v\n", c.Peer().UID, m.Data, err)
					break
				}
				c.Close()
				continue
			}
		}
		kinds := ""
		for name, kind := range map[string]error{"refused": ErrRefused, "untrusted": ErrUntrustedServer, "secret": ErrSecret,
			"permission": os.ErrPermission, "in use": ErrNameInUse} {
			if errors.Is(err, kind) {
				kinds += name + " "
			}
		}
		fmt.Printf("%s: %v\n", strings.TrimSpace(kinds), err)
	}
}

// flood opens 30 connections and tells how many were refused.
func flood(path string) {
	refused := 0
	for range 30 {
		conn, err := net.Dial("unix", path)
		if err != nil {
			fmt.Println(err)
			return
		}
		defer conn.Close()
		var first [2]byte
		if _, err := io.ReadFull(conn, first[:]); err != nil {
			fmt.Println(err)
			return
		}
		if first == [2]byte{0, reasonBusy} {
			refused++
		}
	}
	fmt.Println("refused", refused)
}

// tryOnce is one try to connect, without the loop around it.
func tryOnce(config *ClientConfig) error {
	set, err := config.settings()
	if err != nil {
		return err
	}
	conn, err := set.connect(context.Background())
	if err == nil {
		conn.conn.Close()
	}
	return err
}

// as is asNobody with a number for the user; the binary is there already.
func as(change func(*exec.Cmd), user uint32) func(*exec.Cmd) {
	return func(c *exec.Cmd) {
		change(c)
		c.SysProcAttr.Credential.Uid, c.SysProcAttr.Credential.Gid = user, user
	}
}

// expect reads the child's answer, which must begin so and have all parts.
func (c *child) expect(want string, parts ...string) {
	c.t.Helper()
	got := c.hear()
	if !strings.HasPrefix(got, want) {
		c.t.Errorf("the child says %q, want %q", got, want)
	}
	for _, part := range parts {
		if !strings.Contains(got, part) {
			c.t.Errorf("the child says %q, which does not say %q", got, part)
		}
	}
}

// Two users who are meant to talk: both sides have to say so, and each error
// names what is missing. A secret says it for the client.
func TestTwoUsers(t *testing.T) {
	t.Parallel()
	dir := filepath.Dir(tempSocket(t))
	user := asNobody(t, dir)
	server, client := startChild(t, "gate", as(user, nobody)), startChild(t, "gate", as(user, another))
	n := 0
	serve := func(how string) string {
		t.Helper()
		n++
		path := filepath.Join(dir, fmt.Sprint("s", n))
		server.ask("ok", "serve %s %s", path, how)
		return path
	}
	noWay, stranger := []string{"permission denied", "UnmaskPermissions"}, []string{fmt.Sprint("runs as user ", nobody), "AllowAnyUser", "Secret"}

	path := serve("")
	client.say("try %s", path)
	client.expect("permission: ", append(noWay, path)...)
	client.say("try %s any", path)
	client.expect("permission: ", noWay...)
	client.say("try %s secret", path)
	client.expect("permission: ", noWay...)

	path = serve("unmask")
	client.say("dial %s", path)
	client.expect("untrusted: ", append(stranger, path)...)
	client.say("dial %s any", path)
	client.expect(fmt.Sprintf("in: %d answers \"hello from %d\"", nobody, another))

	path = serve("unmask secret")
	client.say("dial %s", path)
	client.expect("untrusted: ", stranger...) // before anything is said of secrets
	client.say("dial %s any", path)
	client.expect("secret: ", "set Secret in ClientConfig")
	client.say("dial %s other soon", path) // the foreign server may not end the client
	client.expect("secret: gipc: timed out", "may be another user")
	client.say("dial %s secret", path)
	client.expect(fmt.Sprintf("in: %d answers \"hello from %d\"", nobody, another))

	path = serve("unmask") // a server that proves nothing is no better for a client that asks for proof
	client.say("dial %s secret soon", path)
	client.expect("secret: gipc: timed out", "may be another user", "set Secret in ServerConfig")
}

// A user cannot take the places of the handshakes of all others.
func TestUserFloodsHandshakes(t *testing.T) {
	t.Parallel()
	dir := filepath.Dir(tempSocket(t))
	user := asNobody(t, dir)
	path := filepath.Join(dir, "s")
	s, err := StartServer(&ServerConfig{Name: "gate", Network: "unix", Address: path, UnmaskPermissions: true, MultiClient: true, Encryption: EncryptionOff})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.host.mu.Lock()
	s.host.most = 20
	s.host.mu.Unlock()
	flooder := startChild(t, "gate", as(user, nobody))
	flooder.say("flood %s", path)
	flooder.expect("refused 10")
	if refused := s.Stats().Refused; refused < 10 {
		t.Errorf("%d were refused, want 10 or more", refused)
	}
	for _, who := range []uint32{another, 0} {
		guest := startChild(t, "gate", as(user, who))
		guest.say("try %s any", path)
		guest.expect(": <nil>")
	}
	eventually(t, "the places are given back", func() bool {
		s.host.mu.Lock()
		defer s.host.mu.Unlock()
		return len(s.host.foreign) == 0 && len(s.host.pending) == 0
	})
}

// Authorize knows the user before anything is read from him, whatever he
// brings with him, and its no is final.
func TestAuthorizeByUser(t *testing.T) {
	t.Parallel()
	path := tempSocket(t)
	user := asNobody(t, filepath.Dir(path))
	peers := make(chan Peer, 10)
	s, err := StartServer(&ServerConfig{Name: "gate", Network: "unix", Address: path, UnmaskPermissions: true, MultiClient: true, Secret: testSecret,
		Authorize: func(p Peer) error {
			peers <- p
			if !p.Known || p.UID != os.Getuid() && p.UID != another {
				return fmt.Errorf("user %d is not known here", p.UID)
			}
			return nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Shutdown(past1(t))
	go s.Connections.Serve(t.Context(), func(srv *Server, m *Message) {
		if m.MsgType == 1 {
			srv.Write(1, fmt.Appendf(nil, "%s from %d", m.Data, srv.Peer().UID))
		}
	})
	asked := func(c *child, uid int) {
		t.Helper()
		if p := <-peers; p.UID != uid || p.GID != uid || p.PID != c.cmd.Process.Pid || !p.Known {
			t.Errorf("Authorize was asked about %+v, want user %d, process %d", p, uid, c.cmd.Process.Pid)
		}
	}
	wrong, right := startChild(t, "gate", as(user, nobody)), startChild(t, "gate", as(user, another))
	wrong.say("dial %s secret", path) // the secret does not help
	wrong.expect("refused: ", "Authorize")
	asked(wrong, nobody)
	right.say("dial %s secret", path)
	right.expect(fmt.Sprintf(`in: %d answers "hello from %d"`, os.Getuid(), another))
	asked(right, another)
	right.say("dial %s other", path) // and the right user needs it
	right.expect("secret: ")
	asked(right, another)
	eventually(t, "two refusals", func() bool { return s.Stats().Refused == 2 })
	if len(peers) != 0 {
		t.Errorf("Authorize was asked %d times more", len(peers))
	}
}

// intruderChild tries every socket of DIR without end. To "sum" it answers how
// often it was let in and how often not.
func intruderChild() {
	var dir string
	fmt.Scan(&dir)
	sum := make(chan bool)
	go func() {
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			sum <- in.Text() == "sum"
		}
		os.Exit(0)
	}()
	fmt.Println("ok")
	for in, out := 0, 0; ; {
		entries, err := os.ReadDir(dir)
		if err != nil {
			panic(err)
		}
		for _, e := range entries {
			if e.Type()&os.ModeSocket == 0 {
				continue
			}
			c, err := net.Dial("unix", filepath.Join(dir, e.Name()))
			switch {
			case err == nil:
				in++
				c.Close()
			case errors.Is(err, os.ErrPermission):
				out++
			}
		}
		select {
		case <-sum:
			fmt.Println(in, "in,", out, "out")
		default:
		}
	}
}

// At no moment of a server's life is its socket open to another user: not under
// its private name, not when it comes into its place, not when it goes.
func TestOtherUserNeverGetsIn(t *testing.T) {
	t.Parallel()
	path := tempSocket(t)
	c := startChild(t, "intruder", asNobody(t, filepath.Dir(path)))
	c.ask("ok", "%s", filepath.Dir(path))
	server := startChild(t, "churn", nil) // under an umask that forbids nothing
	server.ask("ok", "%s", path)
	var in, out int
	for out < 200 {
		c.say("sum")
		if _, err := fmt.Sscanf(c.hear(), "%d in, %d out", &in, &out); err != nil || in != 0 {
			t.Fatalf("%d in, %d out, %v", in, out, err)
		}
	}
	t.Logf("%d tries, and not one was let in", out)
}

// squatterChild holds PATH, open to all. For each line "HEX" it takes one
// client, says these bytes, and answers with what the client said.
func squatterChild() {
	var path string
	fmt.Scan(&path)
	l, err := net.Listen("unix", path)
	if err == nil {
		err = os.Chmod(path, 0o777)
	}
	if err != nil {
		panic(err)
	}
	fmt.Println("ok")
	for {
		var say string
		if _, err := fmt.Scan(&say); err != nil {
			return
		}
		c, err := l.Accept()
		if err != nil {
			panic(err)
		}
		var b []byte
		fmt.Sscanf(say, "%x", &b)
		c.Write(b)
		got, _ := io.ReadAll(c)
		c.Close()
		fmt.Printf("%x.\n", got)
	}
}

// A name that another user was first to take: a client says nothing at all to
// him, or, with a Secret, nothing that a message or the secret is in; a server
// leaves the name alone.
func TestSquattedName(t *testing.T) {
	t.Parallel()
	path := tempSocket(t)
	user := asNobody(t, filepath.Dir(path))
	point := testKey(9).PublicKey().Bytes()
	hello := func(flags byte, point []byte) []byte { return append([]byte{3, flags, 0, 1, 0, 0}, point...) }
	for name, test := range map[string]struct {
		say    []byte
		config ClientConfig
		want   error
		reply  []byte // all that the client says
		longer int    // or how much that is
	}{
		"plain, no proof":     {hello(0, nil), ClientConfig{}, ErrUntrustedServer, nil, 0},
		"plain, on purpose":   {hello(0, nil), ClientConfig{Encryption: EncryptionOff}, ErrUntrustedServer, nil, 0},
		"encrypted, no proof": {hello(1, point), ClientConfig{}, ErrUntrustedServer, nil, 0},
		"plain, with secret":  {hello(0, nil), ClientConfig{Secret: testSecret}, ErrEncryption, []byte{2}, 0},
		"without the secret":  {hello(1, point), ClientConfig{Secret: testSecret}, ErrSecret, []byte{5}, 0},
		"with a guess":        {append(hello(3, point), make([]byte, 49)...), ClientConfig{Secret: testSecret}, ErrSecret, nil, 151},
		"any user, encrypted": {hello(0, nil), ClientConfig{AllowAnyUser: true}, ErrEncryption, []byte{2}, 0},
	} {
		os.Remove(path)
		c := startChild(t, "squatter", user)
		c.ask("ok", "%s", path)
		c.say("%x", test.say)
		test.config.Name, test.config.Network, test.config.Address = "gate", "unix", path
		if test.config.Secret != nil { // the foreign server may not end the client
			test.config.Timeout = 300 * time.Millisecond
		}
		one, err := StartClient(&test.config)
		if one != nil || !errors.Is(err, test.want) || errors.Is(err, ErrTimeout) != (test.config.Secret != nil) {
			t.Errorf("%s: %v, %v; want %v", name, one, err, test.want)
		}
		got := c.hear()
		if want := fmt.Sprintf("%x.", test.reply); test.longer == 0 && got != want || test.longer > 0 && len(got) != 2*test.longer+1 {
			t.Errorf("%s: the client says %s", name, got)
		}
		if bytes.Contains([]byte(got), fmt.Appendf(nil, "%x", testSecret)) {
			t.Errorf("%s: the client tells the secret", name)
		}
	}
	s, err := StartServer(&ServerConfig{Name: "gate", Network: "unix", Address: path})
	if s != nil || !errors.Is(err, ErrNameInUse) || !strings.Contains(err.Error(), fmt.Sprint("user ", nobody)) {
		t.Errorf("%v, %v; want ErrNameInUse and whose it is", s, err)
	}
	if info, err := os.Lstat(path); err != nil || sys.OwnerOf(info) != nobody {
		t.Errorf("his socket: %v", err)
	}
}

// Whatever stands at the path and is no socket of a server is left alone, by
// both ends, and the error says where and what. The others of their kind are in
// TestUnixWhatIsNoSocketIsLeftAlone.
func TestUnixPipesAndDevicesAreLeftAlone(t *testing.T) {
	t.Parallel()
	for kind, test := range map[string]struct {
		put         func(path string) error
		left        error
		parts       []string
		unconnected string
	}{
		"pipe":      {func(path string) error { return syscall.Mkfifo(path, 0o600) }, ErrConfig, []string{"is not a socket", "left alone", "remove it"}, "no server is listening"},
		"file":      {func(path string) error { return os.WriteFile(path, []byte("precious"), 0o600) }, ErrConfig, []string{"is not a socket"}, "no server is listening"},
		"directory": {func(path string) error { return os.Mkdir(path, 0o700) }, ErrConfig, []string{"is not a socket"}, "no server is listening"},
		"datagrams": {func(path string) error {
			c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
			if err == nil {
				t.Cleanup(func() { c.Close() })
			}
			return err
		}, ErrNameInUse, []string{"may be alive"}, "wrong type"},
	} {
		path := tempSocket(t)
		if err := test.put(path); err != nil {
			t.Fatal(err)
		}
		before, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		s, err := StartServer(&ServerConfig{Name: "gate", Network: "unix", Address: path})
		if s != nil || !errors.Is(err, test.left) {
			t.Fatalf("%s: %v, %v; want %v", kind, s, err, test.left)
		}
		for _, part := range append(test.parts, path, "choose another") {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: the text has no %q: %v", kind, part, err)
			}
		}
		err = tryOnce(&ClientConfig{Name: "gate", Network: "unix", Address: path})
		if err == nil || !strings.Contains(err.Error(), test.unconnected) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v; want a text with %q", kind, err, test.unconnected)
		}
		if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) || after.ModTime() != before.ModTime() || after.Mode() != before.Mode() {
			t.Errorf("%s: changed: %v", kind, err)
		}
		if got := names(t, filepath.Dir(path)); got != "s" {
			t.Errorf("%s: there are %s", kind, got)
		}
	}
}
