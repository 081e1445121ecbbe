//go:build unix

package sys

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
)

// connected returns both ends of a connection.
func connected(t *testing.T, network string) (client, server net.Conn) {
	t.Helper()
	address := "127.0.0.1:0"
	if network != "tcp" {
		dir, err := os.MkdirTemp("", "g") // short: a socket's path is limited
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		address = filepath.Join(dir, "s")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		if network == "unixpacket" {
			t.Skip("this system has no unixpacket: ", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	client, err = net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	server, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return client, server
}

// control runs f with the descriptor of c.
func control(t *testing.T, c net.Conn, f func(fd uintptr)) {
	t.Helper()
	raw := RawConn(c)
	if raw == nil {
		t.Fatalf("%T has no descriptor", c)
	}
	if err := raw.Control(f); err != nil {
		t.Fatal(err)
	}
}

func TestReadAndWriteDoNotWait(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"unix", "tcp"} {
		client, server := connected(t, network)
		control(t, client, func(fd uintptr) {
			if n, wait, err := Read(fd, make([]byte, 10)); n != 0 || !wait || err != nil {
				t.Errorf("%s: nothing to read: %d, %t, %v", network, n, wait, err)
			}
			if n, wait, err := Write(fd, []byte("hello")); n != 5 || wait || err != nil {
				t.Errorf("%s: Write: %d, %t, %v", network, n, wait, err)
			}
		})
		got := make([]byte, 5)
		if _, err := io.ReadFull(server, got); err != nil || string(got) != "hello" {
			t.Fatalf("%s: %q, %v", network, got, err)
		}
		full := false
		control(t, client, func(fd uintptr) {
			chunk := bytes.Repeat([]byte{1}, 1<<16)
			for range 1 << 12 {
				n, wait, err := Write(fd, chunk)
				if err != nil || n == 0 != wait {
					t.Errorf("%s: Write: %d, %t, %v", network, n, wait, err)
				}
				if full = wait; full || err != nil {
					return
				}
			}
		})
		if !full {
			t.Errorf("%s: the kernel takes everything", network)
		}
		server.Close() // with unread data: the client's next read or write fails
		raw := RawConn(client)
		if err := raw.Read(func(fd uintptr) bool {
			n, wait, err := Read(fd, got)
			if n != 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s: Read after the peer's close: %d, %t, %v", network, n, wait, err)
			}
			return !wait
		}); err != nil {
			t.Error(err)
		}
		if err := raw.Write(func(fd uintptr) bool {
			n, wait, err := Write(fd, got)
			if !wait && (n != 0 || err == nil) {
				t.Errorf("%s: Write after the peer's close: %d, %v", network, n, err)
			}
			return !wait
		}); err != nil {
			t.Error(err)
		}
	}
	if n, wait, err := Read(^uintptr(0)>>1, make([]byte, 1)); n != 0 || wait || err == nil {
		t.Errorf("Read of no descriptor: %d, %t, %v", n, wait, err)
	}
	if n, wait, err := Write(^uintptr(0)>>1, make([]byte, 1)); n != 0 || wait || err == nil {
		t.Errorf("Write to no descriptor: %d, %t, %v", n, wait, err)
	}
}

func TestReadReportsTheEnd(t *testing.T) {
	t.Parallel()
	client, server := connected(t, "unix")
	server.Close()
	control(t, client, func(fd uintptr) {
		if n, wait, err := Read(fd, make([]byte, 10)); n != 0 || wait || err != nil {
			t.Errorf("%d, %t, %v", n, wait, err)
		}
	})
}

func TestRawConnOfPackets(t *testing.T) {
	t.Parallel()
	client, server := connected(t, "unixpacket")
	for _, c := range []net.Conn{client, server} {
		if RawConn(c) != nil {
			t.Errorf("unixpacket: %s %s has a descriptor", c.LocalAddr().Network(), c.RemoteAddr().Network())
		}
	}
}

func TestRawConnOfDatagrams(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "g")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	address := &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unixgram"}
	l, err := net.ListenUnixgram("unixgram", address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.DialUnix("unixgram", nil, address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if RawConn(l) != nil || RawConn(c) != nil {
		t.Error("unixgram has a descriptor")
	}
}

func TestRawConnOfASocketPair(t *testing.T) {
	t.Parallel()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		defer f.Close()
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if RawConn(c) == nil {
			t.Errorf("no descriptor: %v %v", c.LocalAddr(), c.RemoteAddr())
		}
	}
}

func TestGrowSendBuffer(t *testing.T) {
	t.Parallel()
	client, _ := connected(t, "unix")
	control(t, client, func(fd uintptr) {
		size := func() int {
			n, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		before := size()
		GrowSendBuffer(fd, 1)
		if got := size(); got != before {
			t.Errorf("made smaller: %d, then %d", before, got)
		}
		GrowSendBuffer(fd, before+4096)
		if got := size(); got < before || got == before && runtime.GOOS == "linux" {
			t.Errorf("made larger: %d, then %d", before, got)
		}
	})
}

func TestLockFollowsNoLink(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path, path+"2"); err != nil {
		t.Fatal(err)
	}
	for _, flag := range []int{0, os.O_CREATE | os.O_EXCL} {
		if f, err := OpenLock(path+"2", flag); err == nil {
			t.Errorf("flag %#x: the link was followed: %v", flag, f)
		}
	}
}

func TestOwnerOf(t *testing.T) {
	t.Parallel()
	info, err := os.Lstat(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if got := OwnerOf(info); got != os.Geteuid() {
		t.Errorf("OwnerOf: %d, want %d", got, os.Geteuid())
	}
}

func TestPeerCredentials(t *testing.T) {
	t.Parallel()
	client, server := connected(t, "unix")
	want := Credentials{os.Geteuid(), os.Getegid(), os.Getpid()}
	for _, c := range []net.Conn{client, server} {
		got, ok := PeerCredentials(c.(syscall.Conn))
		if ok != (runtime.GOOS == "linux") || ok && got != want {
			t.Errorf("%+v, %t, want %+v", got, ok, want)
		}
	}
	client.Close()
	if got, ok := PeerCredentials(client.(syscall.Conn)); ok {
		t.Errorf("of a closed connection: %+v", got)
	}
}

func TestLockThatIsNotInPlace(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	lock, err := OpenLock(path, os.O_CREATE|os.O_EXCL)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if lock.InPlace() {
		t.Error("a lock file that was removed is in place")
	}
	if err := os.WriteFile(path, []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	if lock.InPlace() {
		t.Error("a lock file that was replaced is in place")
	}
	if err := lock.Remove(); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "another" {
		t.Errorf("another lock file was removed: %q, %v", got, err)
	}
}

// Between fork and exec a child has every descriptor, that of the lock too. The
// duplicate stands for it.
func TestLockIsReleasedWhileAChildStarts(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "solaris" || runtime.GOOS == "aix" {
		t.Skip("locks belong to the process there")
	}
	path := filepath.Join(t.TempDir(), "lock")
	for _, end := range []func(*Lock) error{(*Lock).Release, (*Lock).Remove} {
		lock, err := OpenLock(path, os.O_CREATE)
		if err != nil {
			t.Fatal(err)
		}
		second, err := syscall.Dup(int(lock.file.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		defer syscall.Close(second)
		if err := end(lock); err != nil {
			t.Error(err)
		}
		if lock, err = OpenLock(path, os.O_CREATE); err != nil {
			t.Errorf("the lock is held: %v", err)
		} else {
			lock.Release()
		}
	}
}
