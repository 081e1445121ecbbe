// Tests of where the sockets of names are, and of what is left there.

package gipc

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// derivedSettings are those of a server and of a client that know a name alone.
// Their sockets are under a directory of the test's own, which is as /tmp is.
func derivedSettings(t *testing.T, unmask bool) (base string, server, client *settings) {
	t.Helper()
	if runtime.GOOS == "windows" || os.Getenv("GIPC_SOCKET_DIR") != "" {
		t.Skip("this system, or GIPC_SOCKET_DIR, gives the directory")
	}
	base = filepath.Dir(tempSocket(t))
	if err := os.Chmod(base, os.ModeSticky|0o777); err != nil {
		t.Fatal(err)
	}
	complete := func(s *settings) *settings {
		s.terms, s.network, s.socketBase = terms{name: "n"}, "unix", base
		s, err := s.complete(EncryptionOn, nil)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	return base, complete(&settings{unmask: unmask}), complete(&settings{timeout: time.Minute})
}

// connects expects one attempt of the client to reach l.
func connects(t *testing.T, client *settings, l net.Listener) {
	t.Helper()
	server, err := client.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer server.conn.Close()
	if server.foreign || server.peer.Addr.String() != l.Addr().String() {
		t.Errorf("the server is %+v, foreign: %t; want that at %s", server.peer, server.foreign, l.Addr())
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
	l, err := server.listen()
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
	if second, err := server.listen(); second != nil || !errors.Is(err, ErrNameInUse) {
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
	l, err := server.listen()
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
		_, err := client.connect(t.Context())
		if err == nil || hopeless(err) {
			t.Fatalf("%v: ends the client: %t", err, hopeless(err))
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
		l, err := server.listen()
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
		l, err := server.listen()
		if l != nil || !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "sticky") {
			t.Errorf("UnmaskPermissions %t: %v, %v", unmask, l, err)
		}
		bindAt(t, filepath.Join(base, "n.sock"))
		if c, err := client.connect(t.Context()); err == nil || !strings.Contains(err.Error(), "sticky") {
			t.Errorf("UnmaskPermissions %t: the client: %v, %v", unmask, c, err)
		}
		var log bytes.Buffer
		given := serverSettings(t, &ServerConfig{Network: "unix", Address: filepath.Join(base, "given"), UnmaskPermissions: unmask, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if l, err = given.listen(); err != nil {
			t.Fatal(err)
		}
		l.Close()
		given.log.flush(t.Context())
		if !strings.Contains(log.String(), "sticky") || !strings.Contains(log.String(), base) {
			t.Errorf("logged: %q", log.String())
		}
		log.Reset()
		if err := os.Chmod(base, os.ModeSticky|0o777); err != nil {
			t.Fatal(err)
		}
		if l, err = given.listen(); err != nil {
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
	if server.places, err = socketPlaces(server.name, server.address, server.socketBase, server.unmask); err != nil {
		t.Fatal(err)
	}
	if client.places, err = socketPlaces(client.name, client.address, client.socketBase, client.unmask); err != nil {
		t.Fatal(err)
	}
	l, err := server.listen()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	connects(t, client, l) // although the path in the private directory is too long
	server.unmask, server.address = false, ""
	if server.places, err = socketPlaces(server.name, server.address, server.socketBase, server.unmask); err != nil {
		t.Fatal(err)
	}
	if l, err := server.listen(); l != nil || !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "limit") {
		t.Errorf("%v, %v", l, err)
	}
}

// Nothing is left of servers that were closed, and of one that could not start.
func TestUnixNoFileIsLeft(t *testing.T) {
	t.Parallel()
	dir := filepath.Dir(tempSocket(t))
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
	path := tempSocket(t)
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
	path := tempSocket(t)
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
	dir := filepath.Dir(tempSocket(t))
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

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
