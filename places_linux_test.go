// Tests with other users of the machine, who are real: what they can leave in
// /tmp, on the way to a socket, and in the list of the kernel's sockets. Children
// see a /tmp of their own, which is a directory of the test.

package gipc

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/gipc/internal/sys"
)

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
	dir = filepath.Dir(tempSocket(t))
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

// What another user has put in /tmp never ends a client that looks for a name: it
// is there when the server comes.
func TestForeignSocketInTmp(t *testing.T) {
	t.Parallel()
	dir, start := ownTmp(t)
	squatter, client := start(another), start(nobody)
	client.say("dial - soon")
	client.expect(": gipc: timed out", "/tmp/gipc-65534/gate.sock", "/tmp/gate.sock", "no server is listening")
	squatter.ask("ok", "serve - unmask")
	client.say("dial - soon")
	client.expect("untrusted: gipc: timed out", "/tmp/gipc-65534/gate.sock", "unix /tmp/gate.sock runs as user 65533")
	client.say("dial - any") // which says that it is welcome
	client.expect(fmt.Sprintf(`in: %d answers "hello from %d"`, another, nobody))
	client.say("dial - any secret soon")
	client.expect("secret: gipc: timed out", "/tmp/gate.sock", "may be another user")
	noError(t, os.Chmod(filepath.Join(dir, "gate.sock"), 0o700))
	client.say("dial - soon")
	client.expect("permission: gipc: timed out", "/tmp/gate.sock", "permission denied")
	noError(t, os.Remove(filepath.Join(dir, "gate.sock")))
	noError(t, os.Symlink("/tmp/gipc-65534/gate.sock", filepath.Join(dir, "gate.sock")))
	mustBe(t, filepath.Join(dir, "gate.sock"), another)
	client.say("dial - soon")
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
	path := tempSocket(t)
	client := startChild(t, "gate", asNobody(t, filepath.Dir(path)))
	s := serverSettings(t, &ServerConfig{Network: "unix", Address: path})
	l, err := s.listen()
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
	path := tempSocket(t)
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
				client.say("dial %s secret soon", link) // the server's refusal does not end it
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
	path := tempSocket(t)
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
	path := tempSocket(t)
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
	path := tempSocket(t)
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
	path := tempSocket(t)
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
		if kernelKnows(t, config.Address) {
			t.Errorf("%s is listed after Close", config.Address)
		}
	}
}

// systemd-tmpfiles spares the socket of a server that is alive, however old it is.
func TestTmpfilesSparesLiveServer(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("systemd-tmpfiles")
	if err != nil {
		t.Skip("systemd-tmpfiles is not installed: ", err)
	}
	path := tempSocket(t)
	dir := filepath.Dir(path)
	noError(t, os.Chmod(dir, 0o755))
	config := filepath.Join(filepath.Dir(tempSocket(t)), "old.conf")
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
	path := tempSocket(t)
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
	path := tempSocket(t)
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
	path := tempSocket(t)
	user := asNobody(t, filepath.Dir(path))
	client := startChild(t, "gate", user)
	for range 20 {
		s, err := StartServer(&ServerConfig{Name: "gate", Network: "unix", Address: path, UnmaskPermissions: true})
		noError(t, err)
		noError(t, os.Chmod(path, 0o700))
		client.say("try %s any", path)
		noError(t, os.Chmod(path, 0o777))
		client.expect(": <nil>")
		s.Shutdown(past1(t))
	}
}
