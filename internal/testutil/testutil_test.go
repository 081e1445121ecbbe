// Tests of the package itself, as its own child process.

package testutil

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	Main(m, map[string]func([]string) error{
		"echo": func(args []string) error {
			_, err := os.Stdout.WriteString(strings.Join(args, " "))
			return err
		},
		"fail":  func([]string) error { return errors.New("as it should") },
		"sleep": func([]string) error { select {} },
	})
}

func TestLeakCheckFindsGoroutines(t *testing.T) {
	before := Goroutines(nil)
	release := make(chan struct{})
	go leakForTest(release)
	if left := LeftOver(before, 50*time.Millisecond); !strings.Contains(strings.Join(left, "\n"), "leakForTest") {
		t.Errorf("a goroutine that is left is not found; found: %q", left)
	}
	close(release)
	if left := LeftOver(before, 10*time.Second); len(left) > 0 {
		t.Errorf("a goroutine that has ended is still counted: %q", left)
	}
}

func leakForTest(release chan struct{}) { <-release }

func TestRunChildReturnsOutputAndStatus(t *testing.T) {
	t.Parallel()
	if r := RunChild(t, Patience, "echo", "a", "b"); r.Err != nil || r.Output != "a b" || r.CPU <= 0 {
		t.Errorf("%+v", r)
	}
	if r := RunChild(t, Patience, "fail"); r.Err == nil || r.Killed || !strings.Contains(r.Output, "as it should") {
		t.Errorf("%+v", r)
	}
	if r := RunChild(t, 300*time.Millisecond, "echo-missing"); r.Err == nil || r.Killed {
		t.Errorf("%+v", r)
	}
}

func TestServerDoubleAcceptsUpToItsLimit(t *testing.T) {
	t.Parallel()
	d := (&ServerDouble{Limit: 20}).Start()
	b := make([]byte, 10)
	if n, err := d.Read(b); n != 6 || err != nil || b[0] != 3 {
		t.Errorf("ServerHello: %x, %v", b[:n], err)
	}
	d.SetReadDeadline(time.Unix(1, 0))
	if _, err := d.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read with an expired deadline: %v", err)
	}
	d.SetReadDeadline(time.Time{})
	if n, err := d.Write(make([]byte, 6)); n != 6 || err != nil {
		t.Errorf("ClientHello: %d, %v", n, err)
	}
	if n, err := d.Read(b); n != 1 || err != nil || b[0] != 0 {
		t.Errorf("ServerFinish: %x, %v", b[:n], err)
	}
	frame := User(1, []byte("hello"))
	if n, err := d.Write(append(frame, frame...)); n != 20 || !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write over the limit: %d, %v", n, err)
	}
	frames, rest := ParseFrames(d.Accepted())
	if len(frames) != 1 || string(frames[0].Data) != "hello" || len(rest) != 7 {
		t.Errorf("accepted %v and %x", frames, rest)
	}
}

func TestRawPeersShakeHandsAndClose(t *testing.T) {
	t.Parallel()
	for name, pair := range map[string]func() (client, server *RawPeer){
		"pipe": func() (*RawPeer, *RawPeer) {
			a, b, _ := PipePair()
			return NewRawPeer(t, a), NewRawPeer(t, b)
		},
		"unix": func() (*RawPeer, *RawPeer) {
			a, b, err := UnixPairs(t)()
			Must(t, err)
			return NewRawPeer(t, a), NewRawPeer(t, b)
		},
		"tls": func() (*RawPeer, *RawPeer) {
			a, b, err := TLSPairs(t)()
			Must(t, err)
			return NewRawPeer(t, a), NewRawPeer(t, b)
		},
	} {
		t.Run(name, func(t *testing.T) {
			client, server := pair()
			Together(t, client.ClientHandshake, server.ServeHandshake)
			ending := server.Finish()
			_, err := client.Write(append(User(5, []byte("x")), Control(KindClose, 0)...))
			Must(t, err)
			for _, kind := range []byte{KindClose, KindCloseAck} {
				if f, err := client.ReadFrame(); err != nil || f.Kind() != kind {
					t.Errorf("%v, %v; want kind %d", f, err, kind)
				}
			}
			_, err = client.Write(Control(KindCloseAck, 0))
			Must(t, err)
			client.Close()
			if e := Await(t, "the ending", ending); !e.Closed || !e.Acked || len(e.Frames) != 1 || e.Frames[0].Type != 5 {
				t.Errorf("%+v", e)
			}
		})
	}
}
