package sys

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

func TestLockExcludesASecondOpen(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "js" || runtime.GOOS == "wasip1" || runtime.GOOS == "plan9" {
		t.Skip("there are no lock files there")
	}
	path := filepath.Join(t.TempDir(), "lock")
	if f, err := OpenLock(path, 0); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("no file: %v, %v", f, err)
	}
	f, err := OpenLock(path, os.O_CREATE|os.O_EXCL)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := OpenLock(path, os.O_CREATE|os.O_EXCL); !errors.Is(err, os.ErrExist) && err != ErrLocked {
		t.Errorf("made twice: %v, %v", second, err)
	}
	if runtime.GOOS != "solaris" && runtime.GOOS != "aix" { // locks belong to the process there
		if second, err := OpenLock(path, 0); err != ErrLocked {
			t.Errorf("locked twice: %v, %v", second, err)
		}
	}
	if !f.InPlace() {
		t.Error("a lock file that was just made is not in place")
	}
	if err := f.Release(); err != nil {
		t.Fatal(err)
	}
	f, err = OpenLock(path, 0)
	if err != nil {
		t.Fatalf("after Release: %v", err)
	}
	if err := f.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Remove: %v", err)
	}
}

func TestRawConnOfNoSocket(t *testing.T) {
	t.Parallel()
	one, two := net.Pipe()
	defer one.Close()
	defer two.Close()
	for _, c := range []net.Conn{one, struct{ net.Conn }{one}, new(net.UnixConn), new(net.TCPConn)} {
		if raw := RawConn(c); raw != nil {
			t.Errorf("%T: %v", c, raw)
		}
	}
}
