// Tests of what is certain on Linux only: modes under any umask, the peer's
// credentials, other users, a full queue of connections.

package gipc

import (
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
		l, err := s.listen()
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
		c.ask(want, "%s %d", tempSocket(t), umask)
	}
}

func TestUnixCredentials(t *testing.T) {
	t.Parallel()
	path := tempSocket(t)
	l := mustListenAt(t, path)
	client := clientSettings(t, &ClientConfig{Network: "unix", Address: path})
	c, err := client.connect(t.Context())
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
	for _, got := range []Peer{server, peerOf(a)} {
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
	if got := peerOf(one); got.Known || got.UID != -1 || got.GID != -1 || got.PID != -1 || got.Addr == nil {
		t.Errorf("a pipe's: %+v", got)
	}
}

// TestUnixFullServerIsNotDead: who has no room in its queue of connections
// answers EAGAIN, and lives.
func TestUnixFullServerIsNotDead(t *testing.T) {
	t.Parallel()
	path := tempSocket(t)
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
	path := tempSocket(t)
	if err := syscall.Mkfifo(path+".lock", 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := listenAt(t, path)
	refused(t, l, err, ErrConfig, path+".lock")
}

func TestUnixNoDescriptorIsLeft(t *testing.T) {
	path := tempSocket(t)
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
	path := tempSocket(t)
	c := startChild(t, "listen", asNobody(t, filepath.Dir(path)))
	c.ask("ok", "listen %s", path)
	before := openFDs(t)
	conn, err := clientSettings(t, &ClientConfig{Network: "unix", Address: path}).connect(t.Context())
	if after := openFDs(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
	if conn != nil || !errors.Is(err, ErrUntrustedServer) || !strings.Contains(err.Error(), "user 65534") {
		t.Errorf("connect: %v, %v", conn, err)
	}
	for _, config := range []*ClientConfig{{AllowAnyUser: true}, {Secret: testSecret}} {
		config.Network, config.Address = "unix", path
		conn, err := clientSettings(t, config).connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if p := conn.peer; p.UID != 65534 || !p.Known || conn.foreign != (config.Secret != nil) {
			t.Errorf("peer: %+v, foreign: %t", p, conn.foreign)
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
	path := tempSocket(t)
	c := startChild(t, "listen", asNobody(t, filepath.Dir(path)))
	unmasked := serverSettings(t, &ServerConfig{Network: "unix", Address: path, UnmaskPermissions: true})
	l, err := unmasked.listen()
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
