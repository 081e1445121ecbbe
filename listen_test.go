// Tests of names and addresses: who gets one, who does not, and what is left
// behind. Some need a second process, which is this binary started again.

package gipc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/gipc/internal/sys"
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
				l, err = s.listen()
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
	return serverSettings(t, &ServerConfig{Network: "unix", Address: path}).listen()
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
	server, err := s.connect(t.Context())
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
	path := tempSocket(t)
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
	dir := filepath.Dir(tempSocket(t))
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
	path := tempSocket(t)
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
	path := tempSocket(t)
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
	path := tempSocket(t)
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
	path := tempSocket(t)
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
		path := tempSocket(t)
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
	path := tempSocket(t)
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
	path := tempSocket(t)
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
	path := tempSocket(t)
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
				winners[i], errs[i] = s.listen()
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
	path := tempSocket(t)
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
	path := tempSocket(t)
	mine := bindAt(t, path)
	l, err := serverSettings(t, &ServerConfig{Listener: mine}).listen()
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
	l, err := serverSettings(t, &ServerConfig{Network: "tcp", Address: "127.0.0.1:0"}).listen()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	address := l.Addr().String()
	c, err := clientSettings(t, &ClientConfig{Network: "tcp", Address: address}).connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.conn.Close()
	if p := c.peer; p.Known || p.UID != -1 || p.GID != -1 || p.PID != -1 || p.Addr.String() != address {
		t.Errorf("peer: %+v", p)
	}
	again, err := serverSettings(t, &ServerConfig{Network: "tcp", Address: address}).listen()
	refused(t, again, err, ErrNameInUse, address, "GIPC_NETWORK_PORT")
}

func TestTCPBeyondLoopback(t *testing.T) {
	t.Parallel()
	for _, address := range []string{":0", "0.0.0.0:0", "[::]:0", "192.0.2.1:0"} {
		l, err := serverSettings(t, &ServerConfig{Network: "tcp", Address: address}).listen()
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
		l, err := serverSettings(t, c).listen()
		if err != nil {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		defer l.Close()
		c.Secret, c.Secrets, c.Authorize, c.Listener = nil, nil, nil, l
		if _, err := serverSettings(t, c).listen(); c.Address != "localhost:0" != errors.Is(err, ErrConfig) {
			t.Errorf("as a Listener, %s: %v", l.Addr(), err)
		}
	}
	l, err := serverSettings(t, &ServerConfig{Network: "tcp", Address: "host.invalid:0"}).listen()
	if l != nil || !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "host.invalid:0") {
		t.Errorf("an unknown host: %v, %v", l, err)
	}
}

func TestConnectErrorsSayWhereAndWhat(t *testing.T) {
	t.Parallel()
	missing, dead := tempSocket(t), tempSocket(t)
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
		conn, err := clientSettings(t, c.conf).connect(c.ctx)
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
	conn, err := clientSettings(t, &ClientConfig{Address: "unused", Dial: func(context.Context) (net.Conn, error) { return one, nil }}).connect(t.Context())
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
