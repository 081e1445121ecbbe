// Tests of what is certain on Linux only: modes under any umask, the peer's
// credentials, other users, a full queue of connections.

package gipc

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/gipc/internal/sys"
	"example.com/gipc/internal/testutil"
)

func init() { testChildren["mode"] = modeChild }

// modeChild listens at PATH under the umask that it is given, and prints the
// socket's mode, that with UnmaskPermissions, that of the lock file, and the umask.
func modeChild() {
	var path string
	var umask int
	fmt.Scan(&path, &umask)
	syscall.Umask(umask)
	mode := func(path string) os.FileMode {
		info, err := os.Lstat(path)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return info.Mode().Perm()
	}
	for _, unmask := range []bool{false, true} {
		s, err := (&ServerConfig{Name: "n", Network: "unix", Address: path, UnmaskPermissions: unmask}).settings()
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		l, err := s.openListener()
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Printf("%o ", mode(path))
		if unmask {
			fmt.Printf("%o %o\n", mode(path+".lock"), syscall.Umask(0))
		}
		l.Close()
	}
}

func TestUnixModes(t *testing.T) {
	t.Parallel()
	for umask, want := range map[int]string{
		0o000: "600 777 600 0",
		0o022: "600 777 600 22",
		0o077: "600 777 600 77",
		0o277: "600 777 400 277",
	} {
		if umask&0o200 != 0 && os.Geteuid() != 0 {
			continue // such a lock file can be opened by root alone
		}
		c := startChild(t, "mode", nil)
		c.ask(want, "%s %d", testutil.TempSocket(t), umask)
	}
}

func TestUnixCredentials(t *testing.T) {
	t.Parallel()
	path := testutil.TempSocket(t)
	l := mustListenAt(t, path)
	client := clientSettings(t, &ClientConfig{Network: "unix", Address: path})
	c, err := client.dialServer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.conn.Close()
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	want := Peer{UID: os.Geteuid(), GID: os.Getegid(), PID: os.Getpid(), Known: true}
	server := c.peer
	if server.Addr.String() != path || server.Addr.Network() != "unix" {
		t.Errorf("the server's Addr is %v", server.Addr)
	}
	for _, got := range []Peer{server, peerOfConn(a)} {
		if got.Addr == nil {
			t.Error("no Addr")
		}
		if got.Addr = nil; got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	one, two := net.Pipe()
	defer one.Close()
	defer two.Close()
	if got := peerOfConn(one); got.Known || got.UID != -1 || got.GID != -1 || got.PID != -1 || got.Addr == nil {
		t.Errorf("a pipe's: %+v", got)
	}
}

// TestUnixFullServerIsNotDead: who has no room in its queue of connections
// answers EAGAIN, and lives.
func TestUnixFullServerIsNotDead(t *testing.T) {
	t.Parallel()
	path := testutil.TempSocket(t)
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	for {
		c, err := net.Dial("unix", path)
		if errors.Is(err, syscall.EAGAIN) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	l, err := listenAt(t, path)
	refused(t, l, err, ErrNameInUse, path)
}

func TestUnixLockFileIsAPipe(t *testing.T) {
	t.Parallel()
	path := testutil.TempSocket(t)
	if err := syscall.Mkfifo(path+".lock", 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := listenAt(t, path)
	refused(t, l, err, ErrConfig, path+".lock")
}

func TestUnixNoDescriptorIsLeft(t *testing.T) {
	path := testutil.TempSocket(t)
	foreign := bindAt(t, path+"2")
	if err := os.WriteFile(path+"3", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	before := openFDs(t)
	for range 20 {
		l, err := listenAt(t, path)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []string{path, path + "2", path + "3", path + "4/s"} {
			if second, err := listenAt(t, p); err == nil {
				second.Close()
				t.Fatalf("%s: no error", p)
			}
		}
		if c, err := foreign.Accept(); err != nil {
			t.Fatal(err)
		} else {
			c.Close()
		}
		l.Close()
	}
	if after := openFDs(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// asNobody makes a child of another user. The binary is copied to where that
// user may run it, and dir is made as /tmp is: open to all, and sticky.
func asNobody(t *testing.T, dir string) func(*exec.Cmd) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can start a process of another user")
	}
	// No child may start with the copy open for writing: it could not be run then.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	binary := filepath.Join(dir, "test")
	from, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.OpenFile(binary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(to, from)
	if err := errors.Join(err, to.Chmod(0o755), to.Close(), os.Chmod(dir, os.ModeSticky|0o777)); err != nil {
		t.Fatal(err)
	}
	return func(c *exec.Cmd) {
		c.Path, c.Args, c.Dir = binary, []string{binary}, dir
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
}

func TestUnixServerOfAnotherUser(t *testing.T) {
	path := testutil.TempSocket(t)
	c := startChild(t, "listen", asNobody(t, filepath.Dir(path)))
	c.ask("ok", "listen %s", path)
	before := openFDs(t)
	conn, err := clientSettings(t, &ClientConfig{Network: "unix", Address: path}).dialServer(t.Context())
	if after := openFDs(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
	if conn != nil || !errors.Is(err, ErrUntrustedServer) || !strings.Contains(err.Error(), "user 65534") {
		t.Errorf("connect: %v, %v", conn, err)
	}
	for _, config := range []*ClientConfig{{AllowAnyUser: true}, {Secret: testSecret}} {
		config.Network, config.Address = "unix", path
		conn, err := clientSettings(t, config).dialServer(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if p := conn.peer; p.UID != 65534 || !p.Known || conn.unverified != (config.Secret != nil) {
			t.Errorf("peer: %+v, foreign: %t", p, conn.unverified)
		}
		conn.conn.Close()
	}
	l, err := listenAt(t, path)
	refused(t, l, err, ErrNameInUse, path)
	c.kill()
	reaches(t, mustListenAt(t, path), path) // root may take over what another user has left
}

// TestUnixNameOfAnotherUser has a user meet what root has left: a live server,
// its lock file, its dead socket.
func TestUnixNameOfAnotherUser(t *testing.T) {
	t.Parallel()
	path := testutil.TempSocket(t)
	c := startChild(t, "listen", asNobody(t, filepath.Dir(path)))
	unmasked := serverSettings(t, &ServerConfig{Network: "unix", Address: path, UnmaskPermissions: true})
	l, err := unmasked.openListener()
	if err != nil {
		t.Fatal(err)
	}
	c.ask(fmt.Sprintf("in use: gipc: name or address in use: %s.lock belongs to user 0", path), "listen %s", path)
	l.Close()
	c.ask("ok", "listen %s", path) // no lock is left
	c.ask("ok", "close")
	leaveDeadSocket(t, path)
	c.ask(fmt.Sprintf("in use: gipc: name or address in use: a server of user 0 may be alive at %s", path), "listen %s", path)
	if err := os.Chmod(path, 0o777); err != nil {
		t.Fatal(err)
	}
	c.ask(fmt.Sprintf("failed: gipc: bad configuration: cannot put a socket at %s", path), "listen %s", path)
	os.Remove(path)
	c.ask("ok", "listen %s", path)
	if got, want := names(t, filepath.Dir(path)), "s s.lock test"; got != want {
		t.Errorf("there are: %s, want %s", got, want)
	}
}

const nobody, another = 65534, 65533

func init() {
	testChildren["gate"] = gateChild
	testChildren["intruder"] = intruderChild
	testChildren["squatter"] = squatterChild
}

// gateErrors are the kinds of errors that a gateChild tells apart.
var gateErrors = map[string]error{"refused": ErrRefused, "untrusted": ErrUntrustedServer, "secret": ErrSecret,
	"permission": os.ErrPermission, "in use": ErrNameInUse}

// gateChild is a server or a client with settings by name: "serve PATH NAME...",
// "dial PATH NAME...", or "try PATH NAME..." for one try to connect and no more.
// A server answers what it reads of its client and goes on; a client that is in
// exchanges one message and leaves. A client with "until-KIND" ends with that error.
func gateChild() {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		words := strings.Fields(in.Text())
		role, path := words[0], strings.TrimPrefix(words[1], "-") // "-" is by the name alone
		server := &ServerConfig{Name: "gate", Network: "unix", Address: path}
		client := &ClientConfig{Name: "gate", Network: "unix", Address: path, Timeout: time.Minute}
		var until error
		for _, name := range words[2:] {
			switch name {
			case "unmask":
				server.UnmaskPermissions = true
			case "any":
				client.AllowAnyUser = true
			case "soon":
				client.Timeout = 500 * time.Millisecond
			case "until-untrusted", "until-secret", "until-permission":
				until = gateErrors[strings.TrimPrefix(name, "until-")]
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
			if c, err = startUntil(client, until); err == nil {
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
		for name, kind := range gateErrors {
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
	conn, err := set.dialServer(context.Background())
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
func TestServersOfTwoUsers(t *testing.T) {
	t.Parallel()
	dir := filepath.Dir(testutil.TempSocket(t))
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
	client.say("dial %s other until-secret", path) // the foreign server may not end the client
	client.expect("secret: gipc: timed out", "may be another user")
	client.say("dial %s secret", path)
	client.expect(fmt.Sprintf("in: %d answers \"hello from %d\"", nobody, another))

	path = serve("unmask") // a server that proves nothing is no better for a client that asks for proof
	client.say("dial %s secret until-secret", path)
	client.expect("secret: gipc: timed out", "may be another user", "set Secret in ServerConfig")
}

// A user cannot take the places of the handshakes of all others.
func TestUserFloodsHandshakes(t *testing.T) {
	t.Parallel()
	dir := filepath.Dir(testutil.TempSocket(t))
	user := asNobody(t, dir)
	path := filepath.Join(dir, "s")
	s, err := StartServer(&ServerConfig{Name: "gate", Network: "unix", Address: path, UnmaskPermissions: true, MultiClient: true, Encryption: EncryptionOff})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.listenerState.mu.Lock()
	s.listenerState.foreignLimit = 20
	s.listenerState.mu.Unlock()
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
		s.listenerState.mu.Lock()
		defer s.listenerState.mu.Unlock()
		return len(s.listenerState.foreignCounts) == 0 && len(s.listenerState.pendingConns) == 0
	})
}

// Authorize knows the user before anything is read from him, whatever he
// brings with him, and its no is final.
func TestAuthorizeByUser(t *testing.T) {
	t.Parallel()
	path := testutil.TempSocket(t)
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
	path := testutil.TempSocket(t)
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

// squatterChild holds PATH, open to all. It says the bytes of the line "HEX" to each
// client, and answers with what the client said.
func squatterChild() {
	var path, say string
	fmt.Scan(&path)
	l, err := net.Listen("unix", path)
	if err == nil {
		err = os.Chmod(path, 0o777)
	}
	if err != nil {
		panic(err)
	}
	fmt.Println("ok")
	fmt.Scan(&say)
	for {
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

// startUntil starts a client that only its Timeout ends, with the error want. The machine
// may be too busy for one try within that; then the next Timeout is longer. If want is nil
// it is StartClient.
func startUntil(config *ClientConfig, want error) (*Client, error) {
	if want == nil {
		return StartClient(config)
	}
	brief := *config
	for brief.Timeout = 300 * time.Millisecond; ; brief.Timeout *= 4 {
		c, err := StartClient(&brief)
		if errors.Is(err, want) || !errors.Is(err, ErrTimeout) || brief.Timeout > 20*time.Second {
			return c, err
		}
	}
}

// A name that another user was first to take: a client says nothing at all to
// him, or, with a Secret, nothing that a message or the secret is in; a server
// leaves the name alone.
func TestNameTakenByOtherUser(t *testing.T) {
	t.Parallel()
	path := testutil.TempSocket(t)
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
		until := test.want
		if test.config.Secret == nil { // otherwise the foreign server may not end the client
			until = nil
		}
		one, err := startUntil(&test.config, until)
		if one != nil || !errors.Is(err, test.want) || errors.Is(err, ErrTimeout) != (test.config.Secret != nil) {
			t.Errorf("%s: %v, %v; want %v", name, one, err, test.want)
		}
		got := c.hear()
		for got == "." && (len(test.reply) > 0 || test.longer > 0) { // of a try that was cut short
			got = c.hear()
		}
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
		path := testutil.TempSocket(t)
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

func init() {
	testChildren["own tmp"] = ownTmpChild
	testChildren["rename"] = renameChild
}

// ownTmpChild puts DIR in the place of /tmp, becomes USER, and goes on as gateChild.
func ownTmpChild() {
	var dir string
	var user int
	fmt.Scan(&dir, &user)
	err := syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, "")
	if err == nil {
		err = syscall.Mount(dir, "/tmp", "", syscall.MS_BIND, "")
	}
	if err == nil && user != 0 {
		err = errors.Join(syscall.Setgroups(nil), syscall.Setgid(user), syscall.Setuid(user))
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	os.Unsetenv("GIPC_SOCKET_DIR")
	fmt.Println("ok")
	gateChild()
}

// ownTmp returns the directory that is the children's /tmp, and starts a child of
// a user.
func ownTmp(t *testing.T) (dir string, start func(user int) *child) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can start processes of two other users")
	}
	alone := func(c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} }
	probe := exec.Command(os.Args[0])
	probe.Env = append(os.Environ(), "GIPC_TEST_CHILD=listen")
	if alone(probe); errors.Is(probe.Run(), syscall.EPERM) {
		t.Skip("this system lets root mount nothing: run it with CAP_SYS_ADMIN")
	}
	dir = filepath.Dir(testutil.TempSocket(t))
	noError(t, os.Chmod(dir, os.ModeSticky|0o777))
	return dir, func(user int) *child {
		t.Helper()
		c := startChild(t, "own tmp", alone)
		c.ask("ok", "%s %d", dir, user)
		return c
	}
}

// mustBe is a file of a user in a directory that belongs to root.
func mustBe(t *testing.T, path string, user int) {
	t.Helper()
	noError(t, os.Lchown(path, user, user))
}

// The socket of a name is where no other user can put anything, and two users
// serve one name at the same time.
func TestUsersServeOneName(t *testing.T) {
	t.Parallel()
	dir, start := ownTmp(t)
	one, two := start(nobody), start(another)
	noError(t, os.WriteFile(filepath.Join(dir, "gate.sock.lock"), nil, 0o600)) // another user was first
	mustBe(t, filepath.Join(dir, "gate.sock.lock"), another)
	bindAt(t, filepath.Join(dir, "gate.sock"))
	noError(t, os.Chmod(filepath.Join(dir, "gate.sock"), 0o777))
	mustBe(t, filepath.Join(dir, "gate.sock"), another)
	one.ask("ok", "serve -")
	two.ask("ok", "serve -")
	for user, c := range map[int]*child{nobody: start(nobody), another: start(another)} {
		c.say("dial -")
		c.expect(fmt.Sprintf(`in: %d answers "hello from %d"`, user, user))
	}
}

// A link in /proc leads where its text does not say, such as into a container: the kernel
// decides whether there is a socket.
func TestForeignRootThroughProc(t *testing.T) {
	t.Parallel()
	dir, start := ownTmp(t)
	socket := "/tmp/" + filepath.Base(dir) + ".sock" // in the child's /tmp alone
	server := start(0)
	server.ask("ok", "serve %s", socket)
	client, err := StartClient(&ClientConfig{Name: "gate", Network: "unix", Address: fmt.Sprintf("/proc/%d/root%s", server.cmd.Process.Pid, socket), Timeout: 20 * time.Second})
	noError(t, err)
	noError(t, client.Close())
}

// What another user has put in /tmp never ends a client that looks for a name: it
// is there when the server comes.
func TestForeignSocketInTmp(t *testing.T) {
	t.Parallel()
	dir, start := ownTmp(t)
	squatter, client := start(another), start(nobody)
	client.say("dial - soon")
	client.expect(": gipc: timed out", "/tmp/gipc-65534/gate.sock", "/tmp/gate.sock", "no server is listening")
	squatter.ask("ok", "serve - unmask")
	client.say("dial - until-untrusted")
	client.expect("untrusted: gipc: timed out", "/tmp/gipc-65534/gate.sock", "unix /tmp/gate.sock runs as user 65533")
	client.say("dial - any") // which says that it is welcome
	client.expect(fmt.Sprintf(`in: %d answers "hello from %d"`, another, nobody))
	client.say("dial - any secret until-secret")
	client.expect("secret: gipc: timed out", "/tmp/gate.sock", "may be another user")
	noError(t, os.Chmod(filepath.Join(dir, "gate.sock"), 0o700))
	client.say("dial - until-permission")
	client.expect("permission: gipc: timed out", "/tmp/gate.sock", "permission denied")
	noError(t, os.Remove(filepath.Join(dir, "gate.sock")))
	noError(t, os.Symlink("/tmp/gipc-65534/gate.sock", filepath.Join(dir, "gate.sock")))
	mustBe(t, filepath.Join(dir, "gate.sock"), another)
	client.say("dial - until-untrusted")
	client.expect("untrusted: gipc: timed out", "/tmp/gate.sock is a link of user 65533")
	client.say("dial -") // and waits
	start(nobody).ask("ok", "serve -")
	client.expect(fmt.Sprintf(`in: %d answers "hello from %d"`, nobody, nobody))
}

// A directory of the name of another user's is refused by a server, and a client
// does not look in it.
func TestForeignDirectoryInTmp(t *testing.T) {
	t.Parallel()
	dir, start := ownTmp(t)
	user, root := start(nobody), start(0)
	private := filepath.Join(dir, "gipc-65534")
	noError(t, os.Mkdir(private, 0o700))
	mustBe(t, private, another)
	user.say("serve -")
	user.expect(": gipc: bad configuration: /tmp/gipc-65534 is not a directory that user 65534 alone may enter (it belongs to user 65533 and has mode drwx------)", "GIPC_SOCKET_DIR")
	root.ask("ok", "serve - unmask")
	noError(t, os.Chmod(private, 0o777))
	squatted := filepath.Join(private, "gate.sock")
	bindAt(t, squatted)
	noError(t, os.Chmod(squatted, 0o777))
	user.say("dial -")
	user.expect(`in: 0 answers "hello from 65534"`) // which is root's in /tmp
	noError(t, os.Chmod(dir, 0o777))
	user.say("dial - soon")
	user.expect(": gipc: bad configuration", "/tmp is writable by every user and not sticky")
	user.say("serve - unmask")
	user.expect(": gipc: bad configuration", "/tmp is writable by every user and not sticky")
}

// A permission that is missing at a path that was given is final.
func TestPermissionAtAddressIsFinal(t *testing.T) {
	t.Parallel()
	path := testutil.TempSocket(t)
	client := startChild(t, "gate", asNobody(t, filepath.Dir(path)))
	s := serverSettings(t, &ServerConfig{Network: "unix", Address: path})
	l, err := s.openListener()
	noError(t, err)
	defer l.Close()
	start := time.Now()
	client.say("dial %s", path) // it would try for a minute
	client.expect("permission: gipc: dial unix", path, "UnmaskPermissions")
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
}

// A link on the path counts only if its maker could choose the server anyway.
func TestForeignLinkOnPath(t *testing.T) {
	t.Parallel()
	path := testutil.TempSocket(t)
	dir := filepath.Dir(path)
	user := asNobody(t, dir)
	server, client := startChild(t, "gate", user), startChild(t, "gate", user)
	server.ask("ok", "serve %s", path)
	for name, target := range map[string]string{"link": path, "way": dir} {
		link := filepath.Join(dir, name)
		noError(t, os.Symlink(target, link))
		if target == dir {
			link = filepath.Join(link, "s")
		}
		for _, owner := range []int{0, nobody, another} {
			mustBe(t, filepath.Join(dir, name), owner)
			client.say("dial %s", link)
			if owner == another {
				client.expect("untrusted: ", filepath.Join(dir, name)+" on the way to unix "+link+" is a link of user 65533", "AllowAnyUser")
				client.say("dial %s secret until-secret", link) // the server's refusal does not end it
				client.expect("secret: gipc: timed out")
			} else {
				client.expect(`in: 65534 answers "hello from 65534"`)
			}
		}
	}
}

// With a Secret another user's server is tried, and does not keep a client from
// the server that comes.
func TestForeignServerDoesNotEndClient(t *testing.T) {
	t.Parallel()
	path := testutil.TempSocket(t)
	user := asNobody(t, filepath.Dir(path))
	squatter, server := startChild(t, "gate", user), startChild(t, "gate", as(user, another))
	squatter.ask("ok", "serve %s unmask", path)
	log := new(logLines)
	type result struct {
		c   *Client
		err error
	}
	done := make(chan result, 1)
	go func() {
		c, err := StartClient(&ClientConfig{Name: "gate", Network: "unix", Address: path, Secret: testSecret, RetryTimer: 10 * time.Millisecond,
			Logger: slog.New(slog.NewTextHandler(log, nil))})
		done <- result{c, err}
	}()
	eventually(t, "the warning", func() bool { return strings.Contains(log.String(), "level=WARN") })
	squatter.kill()
	noError(t, os.Remove(path))
	noError(t, os.Remove(path+".lock"))
	server.ask("ok", "serve %s unmask secret", path)
	got := <-done
	if got.err != nil {
		t.Fatalf("%v; the log: %s", got.err, log)
	}
	if p := got.c.Peer(); p.UID != another {
		t.Errorf("the server is %+v", p)
	}
	got.c.Shutdown(past1(t))
	if !strings.Contains(log.String(), "may be another user") {
		t.Errorf("logged: %s", log)
	}
}

// The number that the kernel shows for every user who has none in this namespace
// names nobody, not even to a process that is known by it.
func TestUserWithoutNumber(t *testing.T) {
	t.Parallel()
	path := testutil.TempSocket(t)
	user := asNobody(t, filepath.Dir(path))
	inside := func(c *exec.Cmd) { // root of the machine is 65534 there, and nobody else has a number
		user(c)
		c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: nobody, HostID: 0, Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: nobody, HostID: 0, Size: 1}}}
	}
	probe := exec.Command(os.Args[0])
	probe.Env = append(os.Environ(), "GIPC_TEST_CHILD=listen")
	if inside(probe); probe.Run() != nil {
		t.Skip("this system has no user namespaces for this process")
	}
	server, client := startChild(t, "gate", as(user, another)), startChild(t, "gate", inside)
	server.ask("ok", "serve %s unmask", path)
	client.say("dial %s", path)
	client.expect("untrusted: ", "a user that has no number here")
	client.say("dial %s any", path)
	client.expect(`in: -1 answers "hello from 0"`)

	server = startChild(t, "gate", inside)
	server.ask("ok", "serve %s2 unmask", path)
	client = startChild(t, "gate", as(user, another))
	client.say("dial %s2 any", path)
	client.expect(`in: 0 answers "hello from -1"`)
}

// A process of another PID namespace has no number here.
func TestProcessWithoutNumber(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can start a process with a PID namespace")
	}
	path := testutil.TempSocket(t)
	inside := func(c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID} }
	probe := exec.Command(os.Args[0])
	probe.Env = append(os.Environ(), "GIPC_TEST_CHILD=listen")
	if inside(probe); errors.Is(probe.Run(), syscall.EPERM) {
		t.Skip("this system lets root make no PID namespace: run it with CAP_SYS_ADMIN")
	}
	server, client := startChild(t, "gate", inside), startChild(t, "gate", nil)
	server.ask("ok", "serve %s", path)
	client.say("dial %s", path)
	client.expect(`in: 0 answers "hello from -1"`)
	server, client = startChild(t, "gate", nil), startChild(t, "gate", inside)
	server.ask("ok", "serve %s2", path)
	client.say("dial %s2", path) // trusted by the owner of the socket
	client.expect(`in: -1 answers "hello from 0"`)
}

// kernelKnows reports whether the kernel lists a socket by this path.
func kernelKnows(t *testing.T, path string) bool {
	t.Helper()
	list, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		t.Skip("this test needs /proc/net/unix: ", err)
	}
	for line := range strings.Lines(string(list)) {
		if strings.HasSuffix(strings.TrimSuffix(line, "\n"), " "+path) {
			return true
		}
	}
	return false
}

// Programs that remove old files know a socket in use by the path that the kernel
// lists.
func TestKernelKnowsSocketByItsPath(t *testing.T) {
	t.Parallel()
	path := testutil.TempSocket(t)
	long := filepath.Join(filepath.Dir(path), longestName(filepath.Dir(path)))
	dead := path + "3"
	leaveDeadSocket(t, dead)
	for _, config := range []*ServerConfig{{Address: path}, {Address: path + "2", UnmaskPermissions: true}, {Address: long}, {Address: dead}} {
		config.Name, config.Network = "n", "unix"
		s, err := StartServer(config)
		noError(t, err)
		if !kernelKnows(t, config.Address) {
			t.Errorf("%s is not listed", config.Address)
		}
		s.Shutdown(past1(t))
		// A process that another test starts holds copies of all descriptors until its exec.
		eventually(t, "the end of "+config.Address, func() bool { return !kernelKnows(t, config.Address) })
	}
}

// systemd-tmpfiles spares the socket of a server that is alive, however old it is.
func TestTmpfilesSparesLiveServer(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("systemd-tmpfiles")
	if err != nil {
		t.Skip("systemd-tmpfiles is not installed: ", err)
	}
	path := testutil.TempSocket(t)
	dir := filepath.Dir(path)
	noError(t, os.Chmod(dir, 0o755))
	config := filepath.Join(filepath.Dir(testutil.TempSocket(t)), "old.conf")
	noError(t, os.WriteFile(config, fmt.Appendf(nil, "d %s 0755 - - 1s\n", dir), 0o600))
	s, err := StartServer(&ServerConfig{Name: "n", Network: "unix", Address: path})
	noError(t, err)
	defer s.Shutdown(past1(t))
	leaveDeadSocket(t, path+"-dead")
	var out []byte
	eventually(t, "the socket of a dead server is removed", func() bool {
		out, err = exec.Command(program, "--clean", config).CombinedOutput()
		_, missing := os.Lstat(path + "-dead")
		return err == nil && missing != nil
	})
	if _, err := os.Lstat(path); err != nil {
		t.Fatalf("the socket of a live server was removed: %v; %s", err, out)
	}
	second, err := StartServer(&ServerConfig{Name: "n", Network: "unix", Address: path})
	if second != nil || !errors.Is(err, ErrNameInUse) {
		t.Errorf("a second server: %v, %v", second, err)
	}
	c, err := StartClient(&ClientConfig{Name: "n", Network: "unix", Address: path, Timeout: time.Minute})
	noError(t, err)
	c.Shutdown(past1(t))
	s.Shutdown(past1(t))
	if got := names(t, dir); got != "" {
		t.Errorf("after Close there are: %s", got)
	}
}

// A socket that has been replaced by a file of another user, or that belongs to one, is
// given no mode.
func TestModeIsGivenToOwnSocketOnly(t *testing.T) {
	t.Parallel()
	path := testutil.TempSocket(t)
	runtime.LockOSThread() // the umask below is this thread's alone, which ends with the test
	if err := syscall.Unshare(syscall.CLONE_FS); err != nil {
		t.Skip("this system does not let a thread have an umask of its own: ", err)
	}
	syscall.Umask(0o077)
	l := mustListenAt(t, path)
	if os.Geteuid() == 0 {
		mustBe(t, path, nobody)
		if err := giveMode(path); err == nil || !strings.Contains(err.Error(), "user 65534") {
			t.Errorf("another user's socket: %v", err)
		}
	}
	noError(t, os.Symlink(path, path+"2"))
	if err := giveMode(path + "2"); err == nil {
		t.Error("a link was followed")
	}
	noError(t, os.WriteFile(path+"3", nil, 0o600))
	if err := giveMode(path + "3"); err == nil {
		t.Error("a file was given a mode")
	}
	for _, name := range []string{path, path + "3"} {
		if info, err := os.Lstat(name); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	l.Close()
}

// giveMode has the mode of a socket that was just bound made 0777.
func giveMode(path string) error {
	_, err := sys.AfterBind(path, 0o777)
	return err
}

// renameChild starts and stops servers at PATH, as on systems other than Linux,
// under an umask that forbids nothing.
func renameChild() {
	var path string
	fmt.Scan(&path)
	syscall.Umask(0)
	fmt.Println("ok")
	for {
		lock, err := lockPath(path)
		if err != nil {
			panic(err)
		}
		l := &unixListener{path: path, lock: lock}
		if err := errors.Join(l.checkVacant(), l.bindAndRename(0o600)); err != nil {
			panic(err)
		}
		l.Close()
	}
}

// At no moment is a socket that is renamed open to another user, either.
func TestOtherUserNeverGetsInToRenamedSocket(t *testing.T) {
	t.Parallel()
	path := testutil.TempSocket(t)
	c := startChild(t, "intruder", asNobody(t, filepath.Dir(path)))
	c.ask("ok", "%s", filepath.Dir(path))
	startChild(t, "rename", nil).ask("ok", "%s", path)
	var in, out int
	for out < 200 {
		c.say("sum")
		if _, err := fmt.Sscanf(c.hear(), "%d in, %d out", &in, &out); err != nil || in != 0 {
			t.Fatalf("%d in, %d out, %v", in, out, err)
		}
	}
}

// A server that gives everybody the permission is not without it for so long that
// a client is turned away for good.
func TestPermissionIsAwaited(t *testing.T) {
	t.Parallel()
	path := testutil.TempSocket(t)
	user := asNobody(t, filepath.Dir(path))
	client := startChild(t, "gate", user)
	for range 20 {
		s, err := StartServer(&ServerConfig{Name: "gate", Network: "unix", Address: path, UnmaskPermissions: true})
		noError(t, err)
		noError(t, os.Chmod(path, 0o700))
		began := time.Now()
		client.say("try %s any", path)
		noError(t, os.Chmod(path, 0o777))
		if time.Since(began) < permissionDelay/2 { // otherwise this process was held up
			client.expect(": <nil>")
		} else {
			client.expect("")
		}
		s.Shutdown(past1(t))
	}
}

func init() {
	testChildren["narrow"] = narrowChild
	testChildren["disk"] = diskChild
}

// narrowChild has a limit of descriptors: "room N" leaves it N more than it has
// open, "serve PATH" answers all clients, "try PATH" connects once, "fill" opens
// all that it may but N, "free" closes those, and "stats" tells what the server
// has refused.
func narrowChild() {
	var server *Server
	var filler []*os.File
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		word, rest, _ := strings.Cut(in.Text(), " ")
		var n int
		fmt.Sscan(rest, &n)
		var err error
		switch word {
		case "room":
			var entries []os.DirEntry
			if entries, err = os.ReadDir("/proc/self/fd"); err == nil {
				most := uint64(len(entries) - 1 + n)
				err = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: most, Max: most})
			}
		case "serve":
			if server, err = StartServer(&ServerConfig{Name: "many", Network: "unix", Address: rest, MultiClient: true, Encryption: EncryptionOff}); err == nil {
				go server.Connections.Serve(context.Background(), func(srv *Server, m *Message) {
					if m.MsgType == 1 {
						srv.Write(1, m.Data)
					}
				})
			}
		case "close":
			err = server.Close()
		case "try":
			err = tryOnce(&ClientConfig{Name: "many", Network: "unix", Address: rest})
		case "fill":
			for {
				f, err := os.Open("/dev/null")
				if err != nil {
					break
				}
				filler = append(filler, f)
			}
			for range n {
				filler[len(filler)-1].Close()
				filler = filler[:len(filler)-1]
			}
		case "free":
			for _, f := range filler {
				f.Close()
			}
			filler = nil
		case "stats":
			fmt.Println(server.Stats().Refused)
			continue
		}
		if err == nil {
			fmt.Println("ok")
		} else {
			fmt.Printf("config=%t full=%t: %v\n", errors.Is(err, ErrConfig), errors.Is(err, syscall.EMFILE), err)
		}
	}
}

// A server without a free descriptor serves those whom it has, and takes in
// those who wait when one is free.
func TestBoundsOfDescriptors(t *testing.T) {
	t.Parallel()
	path := testutil.TempSocket(t)
	c := startChild(t, "narrow", nil)
	c.ask("ok", "serve %s", path)
	config := &ClientConfig{Name: "many", Network: "unix", Address: path, Encryption: EncryptionOff}
	talk := func(clients ...*Client) {
		t.Helper()
		for i, one := range clients {
			for n := range uint64(20) {
				write(t, one, n)
				if m, err := one.ReadTimed(time.Minute); err != nil || m.MsgType != 1 {
					t.Fatalf("client %d: %+v, %v", i, m, err)
				}
			}
		}
	}
	join := func() *Client {
		one, err := StartClient(config)
		if err != nil {
			t.Error(err)
			return nil
		}
		t.Cleanup(func() { one.Shutdown(past1(t)) })
		skipStatus(t, one, 2)
		return one
	}
	good := []*Client{join(), join(), join()}
	talk(good...)
	c.ask("ok", "room 10")
	var crowd []net.Conn
	for range 50 {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		crowd = append(crowd, conn)
	}
	refused := 0
	eventually(t, "the server has no descriptor", func() bool {
		c.say("stats")
		fmt.Sscan(c.hear(), &refused)
		return refused > 2
	})
	talk(good...)
	joined := make(chan *Client, 1)
	go func() { joined <- join() }()
	talk(good...)
	select {
	case <-joined:
		t.Error("a newcomer was served, and the test tests nothing")
	default:
	}
	for _, conn := range crowd {
		conn.Close()
	}
	newcomer := <-joined
	if newcomer == nil {
		return
	}
	talk(append(good, newcomer)...)
	c.say("stats")
	t.Logf("accept has failed %d times before a descriptor was free, and %s have not got in", refused, c.hear())
}

// Starting without a descriptor is an error that says so, wherever it comes to
// that, and leaves nothing behind: with descriptors the same process starts.
func TestBoundsOfDescriptorsAtTheStart(t *testing.T) {
	t.Parallel()
	path := testutil.TempSocket(t)
	startOne(t, path+"2", -1)
	c := startChild(t, "narrow", nil)
	c.ask("ok", "serve %s", path) // the poller has its descriptors now
	c.ask("ok", "close")
	c.ask("ok", "room 10")
	failed := 0
	for free := range 4 {
		c.ask("ok", "fill %d", free)
		c.say("serve %s", path)
		if got := c.hear(); got == "ok" {
			c.ask("ok", "close")
		} else {
			failed++
			if !strings.HasPrefix(got, "config=true full=true: gipc: bad configuration: ") || !strings.Contains(got, path) || !strings.Contains(got, "too many open files") {
				t.Errorf("with %d free: %s", free, got)
			}
		}
		if got := names(t, filepath.Dir(path)); strings.Trim(got, "s2.lock ") != "" || strings.Contains(got, "s s") {
			t.Errorf("with %d free there are: %s", free, got)
		}
		if free == 0 {
			c.say("try %s2", path)
			c.expect("config=false full=true: gipc: ", "too many open files", path)
		}
		c.ask("ok", "free")
	}
	if failed < 2 {
		t.Errorf("%d starts have failed, want those without a lock and without a socket", failed)
	}
	c.ask("ok", "try %s2", path)
	c.ask("ok", "serve %s", path)
	good := dialPlain(t, path)
	write(t, good, 1)
	if m, err := good.ReadTimed(time.Minute); err != nil || m.MsgType != 1 {
		t.Errorf("%+v, %v", m, err)
	}
}

func dialPlain(t *testing.T, path string) *Client {
	t.Helper()
	c, err := StartClient(&ClientConfig{Name: "many", Network: "unix", Address: path, Encryption: EncryptionOff})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Shutdown(past1(t)) })
	skipStatus(t, c, 2)
	return c
}

// diskChild mounts a tiny disk over DIR, which it alone sees. "files N" leaves
// room for N more files, "bytes" leaves none for a byte, "start" has a server
// start, meet a client and close, and tells what there is besides the filler.
func diskChild() {
	var dir string
	in := bufio.NewScanner(os.Stdin)
	in.Scan()
	dir = in.Text()
	if err := syscall.Mount("disk", dir, "tmpfs", 0, "size=64k,nr_inodes=20"); err != nil {
		fmt.Println("mount:", err)
		return
	}
	fmt.Println("ok")
	path := filepath.Join(dir, "s")
	for in.Scan() {
		word, rest, _ := strings.Cut(in.Text(), " ")
		var err error
		switch word {
		case "files":
			var n int
			fmt.Sscan(rest, &n)
			for i := 0; err == nil; i++ {
				err = syscall.Mknod(filepath.Join(dir, fmt.Sprint("filler", i)), syscall.S_IFREG|0o600, 0)
				if err == syscall.EEXIST {
					err = nil
				}
			}
			if err == syscall.ENOSPC {
				err = nil
			}
			filler, _ := filepath.Glob(filepath.Join(dir, "filler*"))
			for _, name := range filler[:n] {
				err = errors.Join(err, os.Remove(name))
			}
		case "bytes":
			filler, _ := filepath.Glob(filepath.Join(dir, "filler*"))
			err = os.WriteFile(filler[0], make([]byte, 1<<20), 0o600)
			if errors.Is(err, syscall.ENOSPC) {
				err = nil
			}
		case "start":
			var s *Server
			if s, err = StartServer(&ServerConfig{Name: "disk", Network: "unix", Address: path}); err == nil {
				var c *Client
				if c, err = StartClient(&ClientConfig{Name: "disk", Network: "unix", Address: path, Timeout: time.Minute}); err == nil {
					err = errors.Join(c.Close(), s.Close())
				}
			}
		}
		var left []string
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), "filler") {
				left = append(left, e.Name())
			}
		}
		fmt.Printf("there are %v; config=%t full=%t: %v\n", left, errors.Is(err, ErrConfig), errors.Is(err, syscall.ENOSPC), err)
	}
}

// A disk without room for the lock, or for the lock but not for the socket: an
// error that says so, and no file is left. With room the same
// process starts.
func TestBoundsOfTheDisk(t *testing.T) {
	t.Parallel()
	dir := filepath.Dir(testutil.TempSocket(t))
	alone := func(c *exec.Cmd) {
		c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		if os.Geteuid() != 0 { // where users may be root among themselves
			c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
				UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
				GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}}
		}
	}
	probe := exec.Command(os.Args[0])
	probe.Env = append(os.Environ(), "GIPC_TEST_CHILD=listen")
	if alone(probe); errors.Is(probe.Run(), syscall.EPERM) {
		t.Skip("this system lets the user mount nothing, not even where nobody else sees it: run it as root with CAP_SYS_ADMIN")
	}
	c := startChild(t, "disk", alone)
	c.ask("ok", "%s", dir)
	const full = "config=true full=true: gipc: bad configuration: cannot "
	c.ask("there are []; config=false full=false: <nil>", "files 0")
	c.ask("there are []; "+full+"take the lock file "+dir+"/s.lock", "start")
	c.ask("there are []; config=false full=false: <nil>", "files 1")
	c.ask("there are []; "+full+"put a socket at "+dir+"/s", "start")
	c.ask("there are []; "+full+"put a socket at "+dir+"/s", "start") // the lock was released
	c.ask("there are []; config=false full=false: <nil>", "files 2")
	c.ask("there are []; config=false full=false: <nil>", "start")
	c.ask("there are []; config=false full=false: <nil>", "bytes") // neither file has one
	c.ask("there are []; config=false full=false: <nil>", "start")
}

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
	}, []error{ErrNameInUse, syscall.EADDRINUSE}, "tcp 127.0.0.1:|stop the process that uses it|choose another Address, GIPC_NETWORK_HOST or GIPC_NETWORK_PORT"},
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
		[]error{ErrConfig}, "Timeout is -1s: must not be negative"},
	{"a network open to all", func(h *firstHour) error {
		_, err := h.tryServe(ServerConfig{Network: "tcp", Address: "0.0.0.0:0"})
		return err
	}, []error{ErrConfig}, "tcp 0.0.0.0:0|beyond this machine|set Secret or Secrets, or Authorize|or listen on 127.0.0.1"},

	{"wrong secret", func(h *firstHour) error {
		h.serve(ServerConfig{Secret: testSecret})
		return h.dial(ClientConfig{Secret: []byte(strings.Repeat("other", 8))})
	}, []error{ErrSecret}, "unix PATH|Secret or Name differs|on both sides"},
	{"wrong secret, in the server's log", func(h *firstHour) error {
		return h.logged(ServerConfig{Secret: testSecret}, func(net.Conn) {
			h.dial(ClientConfig{Secret: []byte(strings.Repeat("other", 8))})
		})
	}, []error{ErrSecret}, "Secret or Name differs|on both sides"},
	{"another name", func(h *firstHour) error {
		h.serve(ServerConfig{})
		return h.dial(ClientConfig{Name: "another"})
	}, []error{ErrSecret}, "unix PATH|Secret or Name differs|on both sides"},
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
	}, []error{ErrTimeout}, "unix PATH|sent nothing|busy|another program"},

	{"a second client", func(h *firstHour) error {
		h.connected(ServerConfig{}, ClientConfig{})
		return h.dial(ClientConfig{Timeout: h.soon})
	}, []error{ErrTimeout, ErrRefused}, "unix PATH|reached its client limit|MultiClient and MaxClients in ServerConfig"},
	{"one client too many", func(h *firstHour) error {
		h.connected(ServerConfig{MultiClient: true, MaxClients: 1}, ClientConfig{})
		return h.dial(ClientConfig{Timeout: h.soon})
	}, []error{ErrTimeout, ErrRefused}, "unix PATH|reached its client limit|MultiClient and MaxClients in ServerConfig"},
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
		c.currentConn.Load().netConn.Write(appendFrameHeader(nil, frameHeader{frameType: 1, dataSize: 1025}))
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
	}, []error{ErrNotConnected}, "2 queued messages were lost|sent nothing|send them again as needed"},
	{"a write after Close", func(h *firstHour) error {
		_, c := h.connected(ServerConfig{}, ClientConfig{})
		c.Close()
		return c.Write(1, nil)
	}, []error{ErrClosed, net.ErrClosed}, "closed"},
	{"a read after Close", func(h *firstHour) error {
		_, c := h.connected(ServerConfig{}, ClientConfig{})
		c.Close()
		for {
			if _, err := c.Read(); err != nil {
				return err
			}
		}
	}, []error{ErrClosed, net.ErrClosed}, "closed"},
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
				h := &firstHour{t, testutil.TempSocket(t), soon}
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
	path := testutil.TempSocket(t)
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
