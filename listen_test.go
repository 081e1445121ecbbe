// Tests of names and addresses: who gets one, who does not, and what is left
// behind. Some need a second process, which is this binary started again.

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
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/gipc/internal/sys"
	"example.com/gipc/internal/testutil"
)

// testChildren are the processes that tests start, by the name that
// GIPC_TEST_CHILD gives them. They take words on standard input and answer each
// with a line.
var testChildren = map[string]func(){
	"listen": listenChild,
}

// listenChild does what it reads: "listen PATH", "close". At the end of its
// input it ends without closing anything.
func listenChild() {
	var l net.Listener
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		word, path, _ := strings.Cut(in.Text(), " ")
		var err error
		switch word {
		case "listen":
			var s *settings
			if s, err = (&ServerConfig{Name: "n", Network: "unix", Address: path}).settings(); err == nil {
				l, err = s.openListener()
			}
		case "close":
			err = l.Close()
		}
		switch {
		case err == nil:
			fmt.Println("ok")
		case errors.Is(err, ErrNameInUse):
			fmt.Println("in use:", err)
		default:
			fmt.Println("failed:", err)
		}
	}
}

// child is a process that tests talk to.
type child struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func startChild(t *testing.T, name string, change func(*exec.Cmd)) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "GIPC_TEST_CHILD="+name)
	cmd.Stderr = os.Stderr
	if change != nil {
		change(cmd)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{t, cmd, in, bufio.NewScanner(out)}
	t.Cleanup(c.kill)
	return c
}

func (c *child) say(format string, args ...any) {
	c.t.Helper()
	if _, err := fmt.Fprintf(c.in, format+"\n", args...); err != nil {
		c.t.Fatal(err)
	}
}

func (c *child) hear() string {
	c.t.Helper()
	if !c.out.Scan() {
		c.t.Fatalf("the child has ended: %v", c.out.Err())
	}
	return c.out.Text()
}

func (c *child) ask(want, format string, args ...any) {
	c.t.Helper()
	c.say(format, args...)
	if got := c.hear(); !strings.HasPrefix(got, want) {
		c.t.Fatalf("the child says %q, want %q", got, want)
	}
}

// kill ends the process as SIGKILL does. A second call does nothing.
func (c *child) kill() {
	if c.cmd.ProcessState == nil {
		c.cmd.Process.Kill()
		c.cmd.Wait()
	}
}

func serverSettings(t *testing.T, c *ServerConfig) *settings {
	t.Helper()
	c.Name = "n"
	s, err := c.settings()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func clientSettings(t *testing.T, c *ClientConfig) *settings {
	t.Helper()
	c.Name = "n"
	s, err := c.settings()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func listenAt(t *testing.T, path string) (net.Listener, error) {
	t.Helper()
	return serverSettings(t, &ServerConfig{Network: "unix", Address: path}).openListener()
}

func mustListenAt(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := listenAt(t, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// bindAt is a server that knows no lock.
func bindAt(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	expire(l)
	return l
}

// expire lets an Accept fail that would wait forever.
func expire(l net.Listener) {
	l.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Now().Add(30 * time.Second))
}

// leaveDeadSocket makes what a killed server leaves behind.
func leaveDeadSocket(t *testing.T, path string) {
	t.Helper()
	l := bindAt(t, path)
	disableUnlink(l)
	l.Close()
	for { // until no child that another test is starting has it open any more
		c, err := net.Dial("unix", path)
		if err == nil {
			c.Close()
		} else if errors.Is(err, sys.ErrRefused) {
			return
		}
	}
}

// reaches expects that who dials path talks to l.
func reaches(t *testing.T, l net.Listener, path string) {
	t.Helper()
	s := clientSettings(t, &ClientConfig{Network: "unix", Address: path})
	server, err := s.dialServer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := server.conn
	defer c.Close()
	expire(l)
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if _, err := c.Write([]byte(path)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(path))
	if _, err := io.ReadFull(a, got); err != nil || string(got) != path {
		t.Fatalf("read %q, %v", got, err)
	}
}

func refused(t *testing.T, l net.Listener, err, want error, parts ...string) {
	t.Helper()
	if l != nil || !errors.Is(err, want) {
		t.Fatalf("listen: %v, %v, want %v", l, err, want)
	}
	for _, part := range append(parts, "choose another") {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the text has no %q: %v", part, err)
		}
	}
	if !strings.HasPrefix(err.Error(), errorPrefix) || strings.Count(err.Error(), errorPrefix) != 1 {
		t.Errorf("prefix: %v", err)
	}
}

// names lists a directory.
func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}

func TestUnixListenAndClose(t *testing.T) {
	t.Parallel()
	path := testutil.TempSocket(t)
	l := mustListenAt(t, path)
	if a := l.Addr(); a.Network() != "unix" || a.String() != path {
		t.Errorf("Addr is %s %s", a.Network(), a)
	}
	reaches(t, l, path)
	if got := names(t, filepath.Dir(path)); got != "s s.lock" {
		t.Errorf("while it listens there are: %s", got)
	}
	for range 2 {
		if err := l.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
	if got := names(t, filepath.Dir(path)); got != "" {
		t.Errorf("after Close there are: %s", got)
	}
	reaches(t, mustListenAt(t, path), path)
}

func TestUnixPathAsLongAsTheLimit(t *testing.T) {
	t.Parallel()
	dir := filepath.Dir(testutil.TempSocket(t))
	for _, base := range []int{3, 6, 40} {
		room := sys.MaxSocketPath - base - len(dir) - 2
		if room < 1 {
			t.Skipf("the temporary directory's path is too long: %s", dir)
		}
		long := filepath.Join(dir, strings.Repeat("d", room))
		if err := os.MkdirAll(long, 0o700); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(long, strings.Repeat("n", base))
		if len(path) != sys.MaxSocketPath {
			t.Fatalf("the path has %d bytes, not %d", len(path), sys.MaxSocketPath)
		}
		reaches(t, mustListenAt(t, path), path)
	}
}

func TestUnixLiveNameIsNotTaken(t *testing.T) {
	t.Parallel()
	path := testutil.TempSocket(t)
	first := mustListenAt(t, path)
	l, err := listenAt(t, path)
	refused(t, l, err, ErrNameInUse, path, path+".lock")
	reaches(t, first, path)

	// Nor when somebody has removed the lock file: the socket answers.
	if runtime.GOOS != "windows" {
		if err := os.Remove(path + ".lock"); err != nil {
			t.Fatal(err)
		}
		l, err = listenAt(t, path)
		refused(t, l, err, ErrNameInUse, path)
		if c, err := first.Accept(); err != nil { // the question whether it lives
			t.Fatal(err)
		} else {
			c.Close()
		}
		reaches(t, first, path)
	}
}

func TestUnixServerWithoutLockIsNotHarmed(t *testing.T) {
	t.Parallel()
	path := testutil.TempSocket(t)
	foreign := bindAt(t, path)
	l, err := listenAt(t, path)
	refused(t, l, err, ErrNameInUse, path)
	if c, err := foreign.Accept(); err != nil {
		t.Fatal(err)
	} else {
		c.Close()
	}
	reaches(t, foreign, path)
	foreign.Close()
	reaches(t, mustListenAt(t, path), path) // the failed try has kept no lock
}

func TestUnixDeadNameIsTaken(t *testing.T) {
	t.Parallel()
	path := testutil.TempSocket(t)
	leaveDeadSocket(t, path)
	l := mustListenAt(t, path)
	reaches(t, l, path)
	l.Close()
	if got := names(t, filepath.Dir(path)); got != "" {
		t.Errorf("after Close there are: %s", got)
	}
}

func TestUnixNameOfKilledProcess(t *testing.T) {
	t.Parallel()
	path := testutil.TempSocket(t)
	c := startChild(t, "listen", nil)
	c.ask("ok", "listen %s", path)
	l, err := listenAt(t, path)
	refused(t, l, err, ErrNameInUse, path)
	c.kill()
	if _, err := os.Lstat(path); err != nil {
		t.Fatalf("the killed server has left no socket: %v", err)
	}
	reaches(t, mustListenAt(t, path), path)
}

func TestUnixWhatIsNoSocketIsLeftAlone(t *testing.T) {
	t.Parallel()
	for kind, put := range map[string]func(path string) error{
		"file":      func(path string) error { return os.WriteFile(path, []byte("precious"), 0o600) },
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"dead link": func(path string) error { return os.Symlink("nowhere", path) },
		"link to a dead socket": func(path string) error {
			leaveDeadSocket(t, path+"2")
			return os.Symlink(path+"2", path)
		},
		"link to a live socket": func(path string) error {
			bindAt(t, path+"2")
			return os.Symlink(path+"2", path)
		},
	} {
		path := testutil.TempSocket(t)
		if err := put(path); err != nil {
			if runtime.GOOS == "windows" {
				continue // links need a privilege there
			}
			t.Fatal(err)
		}
		before, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		l, err := listenAt(t, path)
		refused(t, l, err, ErrConfig, path, "left alone", "remove it")
		if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) || after.ModTime() != before.ModTime() {
			t.Errorf("%s: changed: %v", kind, err)
		}
	}
}

func TestUnixLockFileMustBeAFile(t *testing.T) {
	t.Parallel()
	path := testutil.TempSocket(t)
	target := filepath.Join(filepath.Dir(path), "target")
	if err := os.Symlink(target, path+".lock"); err != nil {
		t.Skip(err)
	}
	l, err := listenAt(t, path)
	refused(t, l, err, ErrConfig, path+".lock")
	if err := os.WriteFile(target, nil, 0o600); err != nil { // it was not made through the link
		t.Fatal(err)
	}
	l, err = listenAt(t, path)
	refused(t, l, err, ErrConfig, path+".lock")
	os.Remove(path + ".lock")
	if err := os.Mkdir(path+".lock", 0o700); err != nil {
		t.Fatal(err)
	}
	l, err = listenAt(t, path)
	refused(t, l, err, ErrConfig, path+".lock")
	os.Remove(path + ".lock")
	reaches(t, mustListenAt(t, path), path)

	path = filepath.Join(filepath.Dir(path), "no", "s")
	l, err = listenAt(t, path)
	refused(t, l, err, ErrConfig, path+".lock", "directory")
}

func TestUnixCloseRemovesOnlyItsOwn(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("an open socket's file cannot be replaced there")
	}
	path := testutil.TempSocket(t)
	l := mustListenAt(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	foreign := bindAt(t, path)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	reaches(t, foreign, path)
	foreign.Close()

	l = mustListenAt(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("Close where the socket is gone: %v", err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the file that has the name now was removed: %v", err)
	}
}

// TestUnixRaceOfGoroutines has several servers of one process start at once,
// every other time where a dead socket lies.
func TestUnixRaceOfGoroutines(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "solaris" || runtime.GOOS == "aix" {
		t.Skip("locks belong to the process there")
	}
	path := testutil.TempSocket(t)
	for round := range 200 {
		if round%2 == 1 {
			leaveDeadSocket(t, path)
		}
		var group sync.WaitGroup
		start := make(chan struct{})
		var winners [4]net.Listener
		var errs [4]error
		for i := range winners {
			s := serverSettings(t, &ServerConfig{Network: "unix", Address: path})
			group.Go(func() {
				<-start
				winners[i], errs[i] = s.openListener()
			})
		}
		close(start)
		group.Wait()
		won := 0
		for i, l := range winners {
			if l != nil {
				won++
				reaches(t, l, path)
			} else if !errors.Is(errs[i], ErrNameInUse) {
				t.Errorf("round %d: %v", round, errs[i])
			}
		}
		if won != 1 {
			t.Fatalf("round %d: %d winners", round, won)
		}
		for _, l := range winners {
			if l != nil {
				l.Close()
			}
		}
	}
	if got := names(t, filepath.Dir(path)); got != "" {
		t.Errorf("there are left: %s", got)
	}
}

func TestUnixRaceOfProcesses(t *testing.T) {
	t.Parallel()
	path := testutil.TempSocket(t)
	a, b := startChild(t, "listen", nil), startChild(t, "listen", nil)
	for round := range 200 {
		if round%2 == 1 {
			leaveDeadSocket(t, path)
		}
		a.say("listen %s", path)
		b.say("listen %s", path)
		winner, loser := a, b.hear()
		if first := a.hear(); first != "ok" {
			winner, loser = b, first+loser
			if !strings.HasSuffix(loser, "ok") {
				t.Fatalf("round %d: nobody has the name: %s", round, loser)
			}
		}
		if !strings.HasPrefix(loser, "in use:") {
			t.Fatalf("round %d: %s", round, loser)
		}
		winner.ask("ok", "close")
	}
	if got := names(t, filepath.Dir(path)); got != "" {
		t.Errorf("there are left: %s", got)
	}
}

func TestListenerOfTheConfig(t *testing.T) {
	t.Parallel()
	path := testutil.TempSocket(t)
	mine := bindAt(t, path)
	l, err := serverSettings(t, &ServerConfig{Listener: mine}).openListener()
	if err != nil || l != mine {
		t.Fatalf("%v, %v", l, err)
	}
	reaches(t, l, path)
	l.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("its socket was removed: %v", err)
	}
	if _, err := os.Lstat(path + ".lock"); err == nil {
		t.Error("it was locked")
	}
}

func TestTCPListen(t *testing.T) {
	t.Parallel()
	l, err := serverSettings(t, &ServerConfig{Network: "tcp", Address: "127.0.0.1:0"}).openListener()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	address := l.Addr().String()
	c, err := clientSettings(t, &ClientConfig{Network: "tcp", Address: address}).dialServer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.conn.Close()
	if p := c.peer; p.Known || p.UID != -1 || p.GID != -1 || p.PID != -1 || p.Addr.String() != address {
		t.Errorf("peer: %+v", p)
	}
	again, err := serverSettings(t, &ServerConfig{Network: "tcp", Address: address}).openListener()
	refused(t, again, err, ErrNameInUse, address, "GIPC_NETWORK_PORT")
}

// A port may need a privilege, which no other process has to give up.
func TestTCPListenErrorAdvice(t *testing.T) {
	t.Parallel()
	for cause, want := range map[error][2]string{
		fs.ErrPermission:           {"use a port above 1023", "stop the process"},
		sys.ErrAddressInUse:        {"stop the process that uses it", "privilege"},
		syscall.EAFNOSUPPORT:       {"set Address, or GIPC_NETWORK_HOST and GIPC_NETWORK_PORT", "stop the process"},
		errors.New("no such host"): {"to an address of this machine", "privilege"},
	} {
		err := listenTCPError("192.0.2.1:80", &net.OpError{Op: "listen", Err: os.NewSyscallError("bind", cause)})
		if text := err.Error(); !strings.Contains(text, "192.0.2.1:80") || !strings.Contains(text, want[0]) || strings.Contains(text, want[1]) {
			t.Errorf("%v: %s", cause, text)
		}
		if !errors.Is(err, cause) || errors.Is(err, ErrNameInUse) != (cause == sys.ErrAddressInUse) {
			t.Errorf("%v is wrapped as %v", cause, err)
		}
	}
}

func TestTCPBeyondLoopback(t *testing.T) {
	t.Parallel()
	for _, address := range []string{":0", "0.0.0.0:0", "[::]:0", "192.0.2.1:0"} {
		l, err := serverSettings(t, &ServerConfig{Network: "tcp", Address: address}).openListener()
		if l != nil || !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "Secret") || !strings.Contains(err.Error(), "Authorize") {
			t.Errorf("%s: %v, %v", address, l, err)
		}
	}
	for _, c := range []*ServerConfig{
		{Address: "localhost:0"},
		{Address: "0.0.0.0:0", Secret: testSecret},
		{Address: "0.0.0.0:0", Secrets: map[string][]byte{"a": testSecret}},
		{Address: "0.0.0.0:0", Authorize: func(Peer) error { return nil }},
	} {
		c.Network = "tcp"
		l, err := serverSettings(t, c).openListener()
		if err != nil {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		defer l.Close()
		c.Secret, c.Secrets, c.Authorize, c.Listener = nil, nil, nil, l
		if _, err := serverSettings(t, c).openListener(); c.Address != "localhost:0" != errors.Is(err, ErrConfig) {
			t.Errorf("as a Listener, %s: %v", l.Addr(), err)
		}
	}
	l, err := serverSettings(t, &ServerConfig{Network: "tcp", Address: "host.invalid:0"}).openListener()
	if l != nil || !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "host.invalid:0") {
		t.Errorf("an unknown host: %v, %v", l, err)
	}
}

func TestConnectErrorsSayWhereAndWhat(t *testing.T) {
	t.Parallel()
	missing, dead := testutil.TempSocket(t), testutil.TempSocket(t)
	leaveDeadSocket(t, dead)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	outgoing, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer outgoing.Close()
	nobody := outgoing.LocalAddr().String() // a port that is taken and has no listener
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		ctx   context.Context
		conf  *ClientConfig
		parts []string
	}{
		{t.Context(), &ClientConfig{Network: "unix", Address: missing}, []string{missing, "no server is listening", "start it", "GIPC_SOCKET_DIR"}},
		{t.Context(), &ClientConfig{Network: "unix", Address: dead}, []string{dead, "no server is listening", "Name"}},
		{t.Context(), &ClientConfig{Network: "tcp", Address: nobody}, []string{nobody, "no server is listening", "GIPC_NETWORK_PORT"}},
		{ended, &ClientConfig{Network: "unix", Address: missing}, []string{missing}},
		{t.Context(), &ClientConfig{Dial: refuseToDial}, []string{"Dial", "not today"}},
		{t.Context(), &ClientConfig{Dial: func(context.Context) (net.Conn, error) { return nil, nil }}, []string{"Dial"}},
	} {
		conn, err := clientSettings(t, c.conf).dialServer(c.ctx)
		if conn != nil || err == nil {
			t.Errorf("connect: %v, %v", conn, err)
			continue
		}
		for _, part := range append(c.parts, errorPrefix) {
			if strings.Count(err.Error(), part) != 1 {
				t.Errorf("%q is not once in: %v", part, err)
			}
		}
		if c.ctx == ended && !errors.Is(err, context.Canceled) {
			t.Errorf("not context.Canceled: %v", err)
		}
	}
	one, two := net.Pipe()
	defer two.Close()
	conn, err := clientSettings(t, &ClientConfig{Address: "unused", Dial: func(context.Context) (net.Conn, error) { return one, nil }}).dialServer(t.Context())
	if err != nil || conn.conn != one {
		t.Errorf("Dial: %v, %v", conn, err)
	}
	one.Close()
}

// A client on a unix socket has no address, so the log says which process it is.
func TestLoggedPeer(t *testing.T) {
	for want, p := range map[string]Peer{
		"user 7, process 9":           {UID: 7, PID: 9, Known: true, Addr: &net.UnixAddr{Name: "@", Net: "unix"}},
		"/tmp/s":                      {UID: 7, PID: 9, Known: true, Addr: &net.UnixAddr{Name: "/tmp/s", Net: "unix"}},
		`127.0.0.1:2, identity "Ann"`: {UID: -1, PID: -1, Identity: "Ann", Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2}},
		"127.0.0.1:1":                 {UID: -1, PID: -1, Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}},
		"":                            {UID: -1, PID: -1},
	} {
		if got := loggedPeer(p).LogValue().String(); got != want {
			t.Errorf("%+v is logged as %q, want %q", p, got, want)
		}
	}
}

// longestName is the longest name of a socket in the directory.
func longestName(dir string) string {
	return strings.Repeat("n", max(0, sys.MaxSocketPath-len(dir)-1))
}

// packetListener listens on a network that keeps message boundaries.
func packetListener(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("unixpacket", testutil.TempSocket(t))
	if err != nil {
		t.Skip("this system has no unixpacket: ", err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestDialOfPackets(t *testing.T) {
	t.Parallel()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	packets := packetListener(t)
	for network, address := range map[string]string{"unixpacket": packets.Addr().String(), "udp": udp.LocalAddr().String()} {
		var dialed net.Conn
		client, err := StartClient(&ClientConfig{Name: "n", Timeout: time.Minute, Dial: func(ctx context.Context) (net.Conn, error) {
			dialed, err = new(net.Dialer).DialContext(ctx, network, address)
			return dialed, err
		}})
		if client != nil || !errors.Is(err, ErrConfig) || errors.Is(err, ErrTimeout) {
			t.Fatalf("%s: %v, %v", network, client, err)
		}
		for _, part := range []string{network, "message boundaries", "a stream is needed", errorPrefix} {
			if strings.Count(err.Error(), part) != 1 {
				t.Errorf("%q is not once in: %v", part, err)
			}
		}
		if _, err := dialed.Write(nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: the connection was left open: %v", network, err)
		}
	}
}

func TestListenerOfPackets(t *testing.T) {
	t.Parallel()
	s, err := StartServer(&ServerConfig{Name: "n", Listener: packetListener(t)})
	if s != nil || !errors.Is(err, ErrConfig) {
		t.Fatalf("%v, %v", s, err)
	}
	for _, part := range []string{"unixpacket", "message boundaries", "a stream is needed"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in: %v", part, err)
		}
	}
}

// disguised is a listener that does not say what its connections are.
type disguised struct{ net.Listener }

func (disguised) Addr() net.Addr { return &net.UnixAddr{Name: "here", Net: "unix"} }

// logLines collects what is logged.
type logLines struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *logLines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(b)
}

func (l *logLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

func TestListenerOfDisguisedPackets(t *testing.T) {
	t.Parallel()
	l := packetListener(t)
	log := new(logLines)
	s, err := StartServer(&ServerConfig{Name: "n", Listener: disguised{l}, Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c, err := net.Dial("unixpacket", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	eventually(t, "the refusal", func() bool { return s.Stats().Refused == 1 })
	eventually(t, "the log says why", func() bool { return strings.Contains(log.String(), "message boundaries") })
}

// TestOnlyConnRejected: a ListenConn whose connection ends in the handshake ends the server,
// also one of many clients, whose Serve would wait for ever.
func TestOnlyConnRejected(t *testing.T) {
	t.Parallel()
	for _, many := range []bool{false, true} {
		t.Run(fmt.Sprintf("MultiClient %v", many), func(t *testing.T) {
			t.Parallel()
			near, far := net.Pipe()
			s, err := StartServer(&ServerConfig{Name: "n", Listener: ListenConn(near), MultiClient: many})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			served := testutil.Go(func() error { return s.Connections.Serve(t.Context(), func(*Server, *Message) {}) })
			if _, err := far.Read(make([]byte, 1)); err != nil { // the handshake has begun
				t.Fatal(err)
			}
			far.Close()
			testutil.Await(t, "Done", s.Done())
			if err := s.Err(); !errors.Is(err, ErrClosed) {
				t.Errorf("Err: %v", err)
			}
			if err := testutil.Await(t, "the end of Serve", served); !errors.Is(err, ErrClosed) {
				t.Errorf("Serve: %v", err)
			}
		})
	}
}

// TestListenerClosedDuringHandshakes: user code closes the listener while handshakes fail.
// The log says once that accepting ended. The race detector checks what both read.
func TestListenerClosedDuringHandshakes(t *testing.T) {
	t.Parallel()
	for range 10 {
		l := bindAt(t, testutil.TempSocket(t))
		log := new(logLines)
		s, err := StartServer(&ServerConfig{Name: "n", Listener: l, Logger: slog.New(slog.NewTextHandler(log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		var handshakes []net.Conn
		for range 3 {
			c, err := net.Dial("unix", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			handshakes = append(handshakes, c)
		}
		closed := testutil.Go(l.Close)
		for _, c := range handshakes {
			c.Close()
		}
		testutil.Await(t, "Done", s.Done())
		testutil.Await(t, "Close of the listener", closed)
		s.listenerState.handshakes.Wait()
		s.Close() // writes the rest of the log
		if n := strings.Count(log.String(), "accepting ended"); n != 1 {
			t.Errorf("accepting ended %d times:\n%s", n, log)
		}
	}
}

// selfConnected returns a TCP connection whose two ends are one.
func selfConnected(ctx context.Context) (net.Conn, error) {
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		address := l.Addr().(*net.TCPAddr)
		l.Close()
		c, err := (&net.Dialer{LocalAddr: address}).DialContext(ctx, "tcp", address.String())
		if err == nil || ctx.Err() != nil {
			return c, err
		}
	}
}

// TestAbsentError: the error of an attempt that only looked at the paths is that of one
// that was made.
func TestAbsentError(t *testing.T) {
	t.Parallel()
	missing := testutil.TempSocket(t)
	for _, config := range []*ClientConfig{{Network: "unix", Address: missing}, {Network: "unix", Name: "nobody-listens-here"}} {
		s := clientSettings(t, config)
		_, made := s.dialServer(t.Context())
		looked := s.absentError()
		if looked == nil || made == nil || looked.Error() != made.Error() || !errors.Is(looked, fs.ErrNotExist) || !isNoServer(looked) {
			t.Errorf("looked: %v\nmade: %v", looked, made)
		}
	}
	dead := testutil.TempSocket(t)
	leaveDeadSocket(t, dead)
	for _, config := range []*ClientConfig{{Network: "unix", Address: dead}, {Network: "tcp", Address: "127.0.0.1:1"}, {Dial: refuseToDial}} {
		if err := clientSettings(t, config).absentError(); err != nil {
			t.Errorf("%+v: %v", config, err)
		}
	}
}

// A client that waits for its server reports what is wrong with a place, not the missing
// file alone.
func TestAbsenceHidesNothing(t *testing.T) {
	t.Parallel()
	dir := filepath.Dir(testutil.TempSocket(t))
	foreign, open := filepath.Join(dir, "link"), filepath.Join(dir, "open")
	noError(t, os.Mkdir(open, 0o755))
	places := map[string][]socketPlace{
		"chmod 700":    {{path: filepath.Join(open, "s"), derived: true, private: true}, {path: filepath.Join(dir, "s"), derived: true}},
		"no such file": {{path: filepath.Join(dir, "s")}},
	}
	if os.Geteuid() == 0 {
		noError(t, os.Symlink("nowhere", foreign))
		noError(t, os.Lchown(foreign, 12345, 12345))
		places["link of user 12345"] = []socketPlace{{path: filepath.Join(foreign, "s")}}
	}
	for want, places := range places {
		c := &Client{connCount: 1}
		c.lifecycle = new(lifecycle)
		c.settings = clientSettings(t, &ClientConfig{Network: "unix", Address: filepath.Join(dir, "s")})
		c.settings.socketPlaces = places
		for i := range 3 {
			if _, c.lifecycle.dialErr = c.connectUnlessAbsent(t.Context()); !strings.Contains(c.lifecycle.dialErr.Error(), want) {
				t.Errorf("attempt %d: %v, want %q in it", i+1, c.lifecycle.dialErr, want)
			}
		}
	}
}

func TestTCPConnectedToItself(t *testing.T) {
	t.Parallel()
	var made []net.Conn
	server := startServerOnTCP(t)
	client, err := StartClient(&ClientConfig{Name: "n", RetryTimer: time.Millisecond, Timeout: time.Minute, Dial: func(ctx context.Context) (net.Conn, error) {
		if len(made) == 3 {
			return new(net.Dialer).DialContext(ctx, "tcp", server)
		}
		c, err := selfConnected(ctx)
		if err == nil {
			made = append(made, c)
		}
		return c, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	client.Close()
	for _, c := range made {
		if _, err := c.Write(nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the connection was left open: %v", err)
		}
	}
	_, err = clientSettings(t, &ClientConfig{Dial: selfConnected}).dialServer(t.Context())
	if err == nil || isPermanent(err) || !strings.Contains(err.Error(), "connected to itself") {
		t.Errorf("%v", err)
	}
}

// startServerOnTCP returns the address of a server.
func startServerOnTCP(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := StartServer(&ServerConfig{Name: "n", Listener: l})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return l.Addr().String()
}

// One attempt to connect has an end of its own.
func TestConnectIsLimited(t *testing.T) {
	t.Parallel()
	before := time.Now()
	_, err := clientSettings(t, &ClientConfig{Dial: func(ctx context.Context) (net.Conn, error) {
		if end, ok := ctx.Deadline(); !ok || end.Before(before.Add(9*time.Second)) || end.After(time.Now().Add(10*time.Second)) {
			t.Errorf("the deadline is %v, %t", end, ok)
		}
		return nil, errors.New("not today")
	}}).dialServer(t.Context())
	if err == nil {
		t.Error("no error")
	}
}

// derivedSettings are those of a server and of a client that know a name alone.
// Their sockets are under a directory of the test's own, which is as /tmp is.
func derivedSettings(t *testing.T, unmask bool) (base string, server, client *settings) {
	t.Helper()
	if runtime.GOOS == "windows" || os.Getenv("GIPC_SOCKET_DIR") != "" {
		t.Skip("this system, or GIPC_SOCKET_DIR, gives the directory")
	}
	base = filepath.Dir(testutil.TempSocket(t))
	if err := os.Chmod(base, os.ModeSticky|0o777); err != nil {
		t.Fatal(err)
	}
	complete := func(s *settings) *settings {
		s.handshakeConfig, s.network, s.socketBase = handshakeConfig{name: "n"}, "unix", base
		s, err := s.applyDefaults(EncryptionOn, nil)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	return base, complete(&settings{unmaskSocket: unmask}), complete(&settings{totalTimeout: time.Minute})
}

// connects expects one attempt of the client to reach l.
func connects(t *testing.T, client *settings, l net.Listener) {
	t.Helper()
	server, err := client.dialServer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer server.conn.Close()
	if server.unverified || server.peer.Addr.String() != l.Addr().String() {
		t.Errorf("the server is %+v, foreign: %t; want that at %s", server.peer, server.unverified, l.Addr())
	}
	expire(l)
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestDerivedSocketIsInPrivateDirectory(t *testing.T) {
	t.Parallel()
	base, server, client := derivedSettings(t, false)
	dir := filepath.Join(base, fmt.Sprint("gipc-", os.Geteuid()))
	l, err := server.openListener()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if info, err := os.Lstat(dir); err != nil || info.Mode() != fs.ModeDir|0o700 {
		t.Fatalf("the directory: %v, %v", info, err)
	}
	if got, want := l.Addr().String(), filepath.Join(dir, "n.sock"); got != want || server.address != want {
		t.Errorf("the address is %s, in the settings %s; want %s", got, server.address, want)
	}
	connects(t, client, l)
	if second, err := server.openListener(); second != nil || !errors.Is(err, ErrNameInUse) {
		t.Errorf("a second server: %v, %v", second, err)
	}
	l.Close()
	if got := names(t, dir); got != "" {
		t.Errorf("after Close there are: %s", got)
	}
}

func TestDerivedSocketThatEveryUserMayReach(t *testing.T) {
	t.Parallel()
	base, server, client := derivedSettings(t, true)
	l, err := server.openListener()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if got, want := l.Addr().String(), filepath.Join(base, "n.sock"); got != want {
		t.Errorf("the address is %s, want %s", got, want)
	}
	connects(t, client, l) // there is no private directory
	dir := filepath.Join(base, fmt.Sprint("gipc-", os.Geteuid()))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	connects(t, client, l) // it is empty
	leaveDeadSocket(t, filepath.Join(dir, "n.sock"))
	connects(t, client, l) // its server is gone
	if err := os.Chmod(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	connects(t, client, l) // it is not private
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	connects(t, client, mustListenAt(t, filepath.Join(dir, "n.sock"))) // which is looked at first
}

func TestDerivedSocketErrorNamesBothPlaces(t *testing.T) {
	t.Parallel()
	base, _, client := derivedSettings(t, false)
	dir := filepath.Join(base, fmt.Sprint("gipc-", os.Geteuid()))
	check := func(parts ...string) {
		t.Helper()
		_, err := client.dialServer(t.Context())
		if err == nil || isPermanent(err) {
			t.Fatalf("%v: ends the client: %t", err, isPermanent(err))
		}
		for _, part := range append(parts, errorPrefix, filepath.Join(base, "n.sock"), "no server is listening there") {
			if strings.Count(err.Error(), part) != 1 {
				t.Errorf("%q is not once in: %v", part, err)
			}
		}
	}
	check(filepath.Join(dir, "n.sock"))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	check(dir + " is not a directory that")
}

func TestDerivedSocketRefusesDirectories(t *testing.T) {
	t.Parallel()
	for kind, put := range map[string]func(dir string) error{
		"file":           func(dir string) error { return os.WriteFile(dir, nil, 0o600) },
		"link":           func(dir string) error { return errors.Join(os.Mkdir(dir+"2", 0o700), os.Symlink(dir+"2", dir)) },
		"dead link":      func(dir string) error { return os.Symlink(dir+"2", dir) },
		"open to others": func(dir string) error { return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o701)) },
		"of a group":     func(dir string) error { return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o720)) },
	} {
		base, server, _ := derivedSettings(t, false)
		dir := filepath.Join(base, fmt.Sprint("gipc-", os.Geteuid()))
		if err := put(dir); err != nil {
			t.Fatal(err)
		}
		l, err := server.openListener()
		if l != nil || !errors.Is(err, ErrConfig) {
			t.Fatalf("%s: %v, %v", kind, l, err)
		}
		for _, part := range []string{dir, "GIPC_SOCKET_DIR", "remove it"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: the text has no %q: %v", kind, part, err)
			}
		}
		if target, err := os.ReadDir(dir + "2"); err == nil && len(target) > 0 {
			t.Errorf("%s: there is %v", kind, target)
		}
	}
}

// A directory in which every user can replace every file is no place for a socket
// that nobody has chosen. One that was chosen is used, and logged.
func TestSocketDirectoryWithoutStickyBit(t *testing.T) {
	t.Parallel()
	for _, unmask := range []bool{false, true} {
		base, server, client := derivedSettings(t, unmask)
		if err := os.Chmod(base, 0o777); err != nil {
			t.Fatal(err)
		}
		l, err := server.openListener()
		if l != nil || !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "sticky") {
			t.Errorf("UnmaskPermissions %t: %v, %v", unmask, l, err)
		}
		bindAt(t, filepath.Join(base, "n.sock"))
		if c, err := client.dialServer(t.Context()); err == nil || !strings.Contains(err.Error(), "sticky") {
			t.Errorf("UnmaskPermissions %t: the client: %v, %v", unmask, c, err)
		}
		var log bytes.Buffer
		given := serverSettings(t, &ServerConfig{Network: "unix", Address: filepath.Join(base, "given"), UnmaskPermissions: unmask, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if l, err = given.openListener(); err != nil {
			t.Fatal(err)
		}
		l.Close()
		given.eventLog.Flush(t.Context())
		if !strings.Contains(log.String(), "sticky") || !strings.Contains(log.String(), base) {
			t.Errorf("logged: %q", log.String())
		}
		log.Reset()
		if err := os.Chmod(base, os.ModeSticky|0o777); err != nil {
			t.Fatal(err)
		}
		if l, err = given.openListener(); err != nil {
			t.Fatal(err)
		}
		l.Close()
		if log.Len() > 0 {
			t.Errorf("logged of a sticky directory: %q", log.String())
		}
	}
}

func TestDerivedSocketPathTooLong(t *testing.T) {
	t.Parallel()
	base, server, client := derivedSettings(t, true)
	name := longestName(base)[len(".sock"):]
	server.name, server.address, client.name, client.address = name, "", name, ""
	var err error
	if server.socketPlaces, err = socketPlaces(server.name, server.address, server.socketBase, server.unmaskSocket); err != nil {
		t.Fatal(err)
	}
	if client.socketPlaces, err = socketPlaces(client.name, client.address, client.socketBase, client.unmaskSocket); err != nil {
		t.Fatal(err)
	}
	l, err := server.openListener()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	connects(t, client, l) // although the path in the private directory is too long
	server.unmaskSocket, server.address = false, ""
	if server.socketPlaces, err = socketPlaces(server.name, server.address, server.socketBase, server.unmaskSocket); err != nil {
		t.Fatal(err)
	}
	if l, err := server.openListener(); l != nil || !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "limit") {
		t.Errorf("%v, %v", l, err)
	}
}

// Nothing is left of servers that were closed, and of one that could not start.
func TestUnixNoFileIsLeft(t *testing.T) {
	t.Parallel()
	dir := filepath.Dir(testutil.TempSocket(t))
	var servers []net.Listener
	for i := range 100 {
		servers = append(servers, mustListenAt(t, filepath.Join(dir, fmt.Sprint("s", i))))
	}
	for _, l := range servers {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	foreign := filepath.Join(dir, "foreign")
	bindAt(t, foreign)
	if l, err := listenAt(t, foreign); l != nil || !errors.Is(err, ErrNameInUse) {
		t.Errorf("%v, %v", l, err)
	}
	if got := names(t, dir); got != "foreign" {
		t.Errorf("there are left: %s", got)
	}
}

// A lock file that another server has made in the meantime stays.
func TestUnixCloseLeavesAnothersLockFile(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("an open lock file cannot be removed there")
	}
	path := testutil.TempSocket(t)
	first := mustListenAt(t, path)
	if err := errors.Join(os.Remove(path), os.Remove(path+".lock")); err != nil { // as a cleaner of old files may
		t.Fatal(err)
	}
	second := mustListenAt(t, path)
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if got := names(t, filepath.Dir(path)); got != "s s.lock" {
		t.Errorf("there are: %s", got)
	}
	reaches(t, second, path)
	l, err := listenAt(t, path)
	refused(t, l, err, ErrNameInUse, path+".lock")
}

// TestUnixBindAndRename tests the way of systems on which a socket has no mode
// before it has a name.
func TestUnixBindAndRename(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("a bound socket is not renamed there")
	}
	path := testutil.TempSocket(t)
	leaveDeadSocket(t, path)
	for _, mode := range []fs.FileMode{0o600, 0o777} {
		lock, err := lockPath(path)
		if err != nil {
			t.Fatal(err)
		}
		l := &unixListener{path: path, lock: lock}
		if err := errors.Join(l.checkVacant(), l.bindAndRename(mode)); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Lstat(path); err != nil || info.Mode() != fs.ModeSocket|mode {
			t.Errorf("%v, %v; want mode %o", info.Mode(), err, mode)
		}
		if got := names(t, filepath.Dir(path)); got != "s s.lock" {
			t.Errorf("there are: %s", got)
		}
		reaches(t, l, path)
		l.Close()
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	l := &unixListener{path: path}
	if err := l.bindAndRename(0o600); err == nil {
		t.Error("a directory was replaced")
	}
	if got := names(t, filepath.Dir(path)); got != "s" {
		t.Errorf("there are: %s", got)
	}
}

func TestUnixPrivateDirectory(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("there are no modes there")
	}
	dir := filepath.Dir(testutil.TempSocket(t))
	seen := map[string]bool{}
	for range 10 {
		name, err := privateDirectory(dir)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Lstat(name); err != nil || info.Mode() != fs.ModeDir|0o700 || filepath.Dir(name) != dir || seen[name] {
			t.Errorf("%s: %v, %v", name, info, err)
		}
		seen[name] = true
	}
	long := filepath.Join(dir, longestName(dir)[len("/.x/s"):]) // with room for one letter and the socket
	if err := os.Mkdir(long, 0o700); err != nil {
		t.Fatal(err)
	}
	if name, err := privateDirectory(long); err != nil || len(name) != len(long)+len("/.x") {
		t.Errorf("%s, %v", name, err)
	}
	if name, err := privateDirectory(long + "xx"); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("%s, %v", name, err)
	}
}

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A link that the user or root made is followed, at the end of the path and on the
// way, and the server's own address is not known by it.
func TestUnixLinkOfTheUser(t *testing.T) {
	t.Parallel()
	path := testutil.TempSocket(t)
	dir := filepath.Dir(path)
	l := mustListenAt(t, path)
	if err := errors.Join(os.Symlink(path, path+"1"), os.Symlink("s1", path+"2"), os.Symlink(dir, filepath.Join(dir, "d")),
		os.Symlink(path+"4", path+"3"), os.Symlink(path+"3", path+"4"), os.Mkdir(path+"5", 0o700), os.Symlink("../s", filepath.Join(path+"5", "up"))); err != nil {
		t.Skip("links need a privilege: ", err)
	}
	for _, path := range []string{path + "1", path + "2", filepath.Join(dir, "d", "s"), filepath.Join(dir, "d", "d", "s2"), filepath.Join(path+"5", "up")} {
		reaches(t, l, path)
	}
	if c, err := clientSettings(t, &ClientConfig{Network: "unix", Address: path + "3"}).dialServer(t.Context()); err == nil || isPermanent(err) {
		t.Errorf("links in a circle: %v, %v", c, err)
	}
}

// TestServerCheckByOwner tests what a client goes by if the kernel does not report
// who the server is.
func TestServerCheckByOwner(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("nothing is checked there")
	}
	path := testutil.TempSocket(t)
	bindAt(t, path)
	unknown := Peer{UID: -1, GID: -1, PID: -1}
	route := routeTo(path)
	if err := route.checkServer(unknown); err != nil {
		t.Errorf("our own socket: %v", err)
	}
	replaced := func(what string, route *socketRoute) {
		t.Helper()
		if err := route.checkServer(unknown); err == nil || errors.Is(err, ErrUntrustedServer) || !strings.Contains(err.Error(), "replaced") {
			t.Errorf("%s: %v", what, err)
		}
	}
	replaced("made meanwhile", &socketRoute{path: path, target: path})
	bindAt(t, path+"2")
	if err := os.Symlink(path, path+"3"); err != nil {
		t.Fatal(err)
	}
	link := routeTo(path + "3")
	if err := link.checkServer(unknown); err != nil {
		t.Errorf("our own link: %v", err)
	}
	if err := os.Rename(path+"2", path); err != nil {
		t.Fatal(err)
	}
	replaced("another socket", route)
	replaced("another socket behind a link", link)
	if err := errors.Join(os.Remove(path+"3"), os.Symlink(path+"4", path+"3")); err != nil {
		t.Fatal(err)
	}
	replaced("another link", link)

	route = routeTo(path)
	stranger := Peer{UID: os.Geteuid() + 1, Known: true}
	err := route.checkServer(stranger)
	if !errors.Is(err, ErrUntrustedServer) {
		t.Fatalf("a stranger's: %v", err)
	}
	for _, part := range []string{path, fmt.Sprint("user ", stranger.UID), "Secret", "AllowAnyUser"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the text has no %q: %v", part, err)
		}
	}
	if err := route.checkServer(Peer{UID: 0, Known: true}); err != nil {
		t.Errorf("root's: %v", err)
	}
	if err := route.checkServer(Peer{UID: -1, Known: true}); !errors.Is(err, ErrUntrustedServer) {
		t.Errorf("of a user without a number: %v", err)
	}
}

// A socket of another user ends the first StartClient if the user gave its path,
// and not if it has the path of a name.
func TestForeignServerEndsOnlyWithAddress(t *testing.T) {
	t.Parallel()
	untrusted := newError(ErrUntrustedServer, nil, "no")
	for _, c := range []struct {
		err   error
		final bool
	}{
		{untrusted, true},
		{&attemptError{untrusted, false}, false},
		{&attemptError{fs.ErrPermission, true}, true},
		{newError(errors.New("where"), &attemptError{newError(ErrSecret, nil, ""), false}, ""), false},
		{(&dialedServer{}).handshakeError(&settings{}, newError(ErrSecret, nil, "")), true},
		{(&dialedServer{unverified: true}).handshakeError(&settings{}, newError(ErrSecret, nil, "")), false},
	} {
		if got := isPermanent(c.err); got != c.final {
			t.Errorf("%v: ends the client: %t", c.err, got)
		}
	}
}
