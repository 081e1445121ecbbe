// Tests of whose server a client connects to, and of links on the way.

package gipc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// A link that the user or root made is followed, at the end of the path and on the
// way, and the server's own address is not known by it.
func TestUnixLinkOfTheUser(t *testing.T) {
	t.Parallel()
	path := tempSocket(t)
	dir := filepath.Dir(path)
	l := mustListenAt(t, path)
	if err := errors.Join(os.Symlink(path, path+"1"), os.Symlink("s1", path+"2"), os.Symlink(dir, filepath.Join(dir, "d")),
		os.Symlink(path+"4", path+"3"), os.Symlink(path+"3", path+"4"), os.Mkdir(path+"5", 0o700), os.Symlink("../s", filepath.Join(path+"5", "up"))); err != nil {
		t.Skip("links need a privilege: ", err)
	}
	for _, path := range []string{path + "1", path + "2", filepath.Join(dir, "d", "s"), filepath.Join(dir, "d", "d", "s2"), filepath.Join(path+"5", "up")} {
		reaches(t, l, path)
	}
	if c, err := clientSettings(t, &ClientConfig{Network: "unix", Address: path + "3"}).connect(t.Context()); err == nil || hopeless(err) {
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
	path := tempSocket(t)
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
	untrusted := fail(ErrUntrustedServer, nil, "no")
	for _, c := range []struct {
		err   error
		final bool
	}{
		{untrusted, true},
		{&attemptError{untrusted, false}, false},
		{&attemptError{fs.ErrPermission, true}, true},
		{fail(errors.New("where"), &attemptError{fail(ErrSecret, nil, ""), false}, ""), false},
		{(&dialedServer{}).handshakeError(&settings{}, fail(ErrSecret, nil, "")), true},
		{(&dialedServer{foreign: true}).handshakeError(&settings{}, fail(ErrSecret, nil, "")), false},
	} {
		if got := hopeless(c.err); got != c.final {
			t.Errorf("%v: ends the client: %t", c.err, got)
		}
	}
}
