// What a server does when the system has no more: no descriptors, no room on the
// disk. Both are taken from a child, so that nobody else misses them.

package gipc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

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
	path := tempSocket(t)
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
	path := tempSocket(t)
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
	dir := filepath.Dir(tempSocket(t))
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
