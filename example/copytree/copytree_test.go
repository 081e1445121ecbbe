// Trees that are carried, refused, and carried again after the receiver died.

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"example.com/gipc"
)

// The child is a receiver into this directory; it kills itself in the middle.
const childDir, childSocket = "COPYTREE_CHILD_DIR", "COPYTREE_CHILD_SOCKET"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		fmt.Println(serve(context.Background(), unixServer(os.Getenv(childSocket)), dir, func(entries, _ uint64) {
			if entries == 100 {
				self, err := os.FindProcess(os.Getpid())
				if err == nil {
					err = self.Kill()
				}
				fmt.Println(err)
				select {}
			}
		}))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func quiet(uint64, uint64) {}

// soon ends what would otherwise wait forever, so that a defect fails its own
// test.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func unixServer(socket string) *gipc.ServerConfig {
	return &gipc.ServerConfig{Name: "copytree", Network: "unix", Address: socket}
}

func unixClient(socket string) *gipc.ClientConfig {
	return &gipc.ClientConfig{Name: "copytree", Network: "unix", Address: socket, Timeout: time.Minute}
}

// tempSocket returns a path that is short enough for a socket.
func tempSocket(t *testing.T) string {
	dir, err := os.MkdirTemp("", "g")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// write makes a file and the directories above it.
func write(t *testing.T, dir, name, content string, mode fs.FileMode) {
	t.Helper()
	path := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// sample returns a tree with one of everything, and ordinary files.
func sample(t *testing.T, ordinary int) string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() { os.Chmod(filepath.Join(dir, "locked"), 0o700) })
	big := strings.Repeat("0123456789abcdef", pieceSize/16)
	write(t, dir, "empty", "", 0o644)
	write(t, dir, "small", "x", 0o600)
	write(t, dir, "one piece", big, 0o644)
	write(t, dir, "one piece and a byte", big+"!", 0o644)
	write(t, dir, "three pieces", big+big+big[1:], 0o755)
	write(t, dir, "a/b/c/deep", "deep", 0o444)
	write(t, dir, "locked/inside", "a file in a directory that cannot be written", 0o400)
	for i := range ordinary {
		write(t, dir, fmt.Sprintf("ordinary/%d", i), strings.Repeat("ordinary", i), 0o644)
	}
	if err := os.Mkdir(filepath.Join(dir, "nothing in it"), 0o750); err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" { // links need a privilege there
		for name, target := range map[string]string{"link": "small", "a/up": "../a/b", "dangling": "not/there"} {
			if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Chmod(filepath.Join(dir, "locked"), 0o500); err != nil {
		t.Fatal(err)
	}
	return dir
}

// listing says all there is about a tree, apart from the digest under test.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		var content []byte
		switch {
		case d.Type() == fs.ModeSymlink:
			target, _ := os.Readlink(path)
			content = []byte(target)
		case d.Type().IsRegular():
			content, err = os.ReadFile(path)
		}
		fmt.Fprintf(&b, "%v %s %d %x\n", info.Mode(), name, len(content), content[:min(len(content), 64)])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

type outcome struct {
	all totals
	err error
}

func startServe(t *testing.T, config *gipc.ServerConfig, dir string) chan outcome {
	t.Helper()
	served := make(chan outcome, 1)
	go func() {
		all, err := serve(soon(t), config, dir, quiet)
		served <- outcome{all, err}
	}()
	return served
}

func TestCopies(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		for _, mode := range []string{"encrypted", "plain", "secret"} {
			t.Run(network+" "+mode, func(t *testing.T) {
				t.Parallel()
				from, into := sample(t, 10), filepath.Join(t.TempDir(), "new", "copy")
				t.Cleanup(func() { os.Chmod(filepath.Join(into, "locked"), 0o700) })
				o := &options{name: "copytree", network: network, address: tempSocket(t), plain: mode == "plain", timeout: time.Minute}
				if network == "tcp" {
					o.address = "127.0.0.1:0"
				}
				if mode == "secret" {
					o.secretFile = filepath.Join(t.TempDir(), "secret")
					secret := make([]byte, 32)
					rand.Read(secret)
					if err := os.WriteFile(o.secretFile, secret, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				server, err := o.server()
				if err != nil {
					t.Fatal(err)
				}
				client, err := o.client()
				if err != nil {
					t.Fatal(err)
				}
				if off := server.Encryption == gipc.EncryptionOff && client.Encryption == gipc.EncryptionOff; off != (mode == "plain") {
					t.Errorf("encryption is %v and %v", server.Encryption, client.Encryption)
				}
				served := startServe(t, server, into)
				sent, err := send(soon(t), client, from, quiet)
				if err != nil {
					t.Fatal(err)
				}
				if got := <-served; got.err != nil || got.all != sent {
					t.Errorf("sender: %v\nreceiver: %v, %v", sent, got.all, got.err)
				}
				if want, got := listing(t, from), listing(t, into); got != want {
					t.Errorf("sent\n%s\narrived\n%s", want, got)
				}
				if left, _ := filepath.Glob(into + ".partial-*"); len(left) > 0 {
					t.Errorf("left over: %v", left)
				}
			})
		}
	}
}

func TestReceiverKilledHalfWay(t *testing.T) {
	t.Parallel()
	from, into, socket := sample(t, 300), filepath.Join(t.TempDir(), "copy"), tempSocket(t)
	t.Cleanup(func() { os.Chmod(filepath.Join(into, "locked"), 0o700) })

	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), childDir+"="+into, childSocket+"="+socket)
	var said bytes.Buffer
	child.Stdout, child.Stderr = &said, &said
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	sent := make(chan outcome, 1)
	go func() {
		all, err := send(soon(t), unixClient(socket), from, quiet)
		sent <- outcome{all, err}
	}()
	if err := child.Wait(); err == nil {
		t.Fatalf("the receiver was not killed; it said %q", &said)
	}
	if _, err := os.Lstat(into); err == nil {
		t.Errorf("a receiver that was killed half-way left a tree that looks complete")
	}
	if left, _ := filepath.Glob(into + ".partial-*"); len(left) != 1 {
		t.Errorf("left by the killed receiver: %v; it was not in the middle of its work", left)
	}

	served := startServe(t, unixServer(socket), into)
	sender, receiver := <-sent, <-served
	if sender.err != nil || receiver.err != nil || sender.all != receiver.all {
		t.Fatalf("after the restart, sender: %v, %v\nreceiver: %v, %v", sender.all, sender.err, receiver.all, receiver.err)
	}
	if want, got := listing(t, from), listing(t, into); got != want {
		t.Errorf("sent\n%s\narrived\n%s", want, got)
	}
}

func TestSenderGoneHalfWay(t *testing.T) {
	t.Parallel()
	from, into, socket := sample(t, 10), filepath.Join(t.TempDir(), "copy"), tempSocket(t)
	t.Cleanup(func() { os.Chmod(filepath.Join(into, "locked"), 0o700) })
	served := startServe(t, unixServer(socket), into)

	first, err := gipc.StartClient(unixClient(socket))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range [][]byte{{msgBegin, 1, 2, 3, 4, 5, 6, 7, 8}, {msgEntry, kindFile, 0, 0, 0, 0, 0, 1, 'x', 0}} {
		if err := first.Write(int(m[0]), m[1:]); err != nil {
			t.Fatal(err)
		}
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	// The rest of what the first one began may not complete it over another connection.
	second, err := gipc.StartClient(unixClient(socket))
	if err != nil {
		t.Fatal(err)
	}
	d := newDigest()
	d.add(entry{kind: kindFile, name: "x"}, 0)
	for _, m := range []raw{{msgPiece, "\x01"}, {msgEnd, "\x01\x02\x03\x04\x05\x06\x07\x08" + string(d.result().append(nil))}} {
		if err := second.Write(m.msgType, []byte(m.data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	sent, err := send(soon(t), unixClient(socket), from, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if got := <-served; got.err != nil || got.all != sent {
		t.Errorf("sender: %v\nreceiver: %v, %v", sent, got.all, got.err)
	}
	if want, got := listing(t, from), listing(t, into); got != want {
		t.Errorf("sent\n%s\narrived\n%s", want, got)
	}
}

// A raw message: a type and what follows it.
type raw struct {
	msgType int
	data    string
}

func entryMessage(kind byte, mode fs.FileMode, name, rest string) raw {
	return raw{msgEntry, string(entry{kind, mode, name}.append(nil)) + rest}
}

func TestReceiverRefuses(t *testing.T) {
	const last, more = "\x01", "\x00"
	end := raw{msgEnd, "identity" + string(totals{}.append(nil))}
	for name, test := range map[string]struct {
		messages []raw
		want     string
	}{
		"name upwards":        {[]raw{entryMessage(kindFile, 0o600, "../escaped", last+"x")}, "not a name"},
		"name upwards inside": {[]raw{entryMessage(kindFile, 0o600, "a/../../escaped", last+"x")}, "not a name"},
		"absolute name":       {[]raw{entryMessage(kindFile, 0o600, "/escaped", last+"x")}, "not a name"},
		"empty name":          {[]raw{entryMessage(kindFile, 0o600, "", last+"x")}, "not a name"},
		"NUL in a name":       {[]raw{entryMessage(kindFile, 0o600, "a\x00b", last+"x")}, "not a name"},
		"file as the tree":    {[]raw{entryMessage(kindFile, 0o600, ".", last+"x")}, "not a name"},
		"setuid":              {[]raw{entryMessage(kindFile, 0o4755, "a", last+"x")}, "mode"},
		"unknown kind":        {[]raw{entryMessage('?', 0o600, "a", last)}, "unknown kind"},
		"link upwards":        {[]raw{entryMessage(kindLink, 0o777, "a", last+"../outside")}, "leads out"},
		"link to the root":    {[]raw{entryMessage(kindLink, 0o777, "a", last+"/etc")}, "leads out"},
		"name twice":          {[]raw{entryMessage(kindFile, 0o600, "a", last), entryMessage(kindFile, 0o600, "a", last)}, "exist"},
		"file within a file":  {[]raw{entryMessage(kindFile, 0o600, "a", more), entryMessage(kindFile, 0o600, "b", last)}, "not complete"},
		"piece of nothing":    {[]raw{{msgPiece, last}}, "without a file"},
		"entry cut short":     {[]raw{{msgEntry, "f\x00\x00\x00\x00\x00\x09a"}}, "cut short"},
		"no last":             {[]raw{entryMessage(kindFile, 0o600, "a", "")}, "the last"},
		"unknown type":        {[]raw{{99, ""}}, "unknown type"},
		"end in a file":       {[]raw{entryMessage(kindFile, 0o600, "a", more), end}, "before that"},
		"end of another":      {[]raw{{msgEnd, "another!" + string(totals{}.append(nil))}}, "another attempt"},
		"totals cut short":    {[]raw{{msgEnd, "identity"}}, "wrong length"},
		"wrong totals":        {[]raw{entryMessage(kindFile, 0o600, "a", last+"x"), end}, "the sender has sent"},
		"begin cut short":     {[]raw{{msgBegin, "id"}}, "begin of a wrong length"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			outside, socket := t.TempDir(), tempSocket(t)
			into := filepath.Join(outside, "copy")
			served := startServe(t, unixServer(socket), into)
			client, err := gipc.StartClient(unixClient(socket))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			if err := client.Write(msgBegin, []byte("identity")); err != nil {
				t.Fatal(err)
			}
			for _, m := range test.messages {
				if err := client.Write(m.msgType, []byte(m.data)); err != nil {
					break // the receiver has judged an earlier message already
				}
			}
			if got := <-served; got.err == nil || !strings.Contains(got.err.Error(), test.want) {
				t.Errorf("the receiver ended with %v, %v; want an error with %q", got.all, got.err, test.want)
			}
			if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
				t.Errorf("left after a refusal: %v, %v", left, err)
			}
		})
	}
}

func TestSenderSeesRefusal(t *testing.T) {
	t.Parallel()
	from, socket := sample(t, 10), tempSocket(t)
	server, err := gipc.StartServer(unixServer(socket))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		for m, err := range server.Messages(t.Context()) {
			if err == nil && m.MsgType == msgBegin {
				server.Write(msgFailed, append([]byte("another!"), "to another attempt"...))
				server.Write(msgFailed, append(m.Data, "disk full"...))
			}
		}
	}()
	if all, err := send(soon(t), unixClient(socket), from, quiet); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("the sender ended with %v, %v; want the receiver's own words", all, err)
	}
}

func TestDestinationMustBeEmpty(t *testing.T) {
	into := t.TempDir()
	write(t, into, "mine", "precious", 0o600)
	if _, err := serve(soon(t), unixServer(tempSocket(t)), into, quiet); err == nil {
		t.Error("a directory with files in it was accepted")
	}
}

func TestDigestIsAsDescribed(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a", "one", 0o600)
	write(t, dir, "b/c", "two", 0o644)
	head := "\x00\x00\x00\x00\x00" // no mode, and the first byte of the name's length
	sum := func(content string) string { s := sha256.Sum256([]byte(content)); return string(s[:]) }
	want := totals{3, 6, sha256.Sum256([]byte("f" + head + "\x01a" + sum("one") + "d" + head + "\x01b" + sum("") + "f" + head + "\x03b/c" + sum("two")))}
	if got, err := digestOf(os.DirFS(dir)); err != nil || got != want {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
}

func TestDigestTellsTreesApart(t *testing.T) {
	sums := map[totals]string{}
	for name, files := range map[string][]string{
		"nothing":          {},
		"empty file":       {"a", ""},
		"one file":         {"a", "bc"},
		"another name":     {"ab", "c"},
		"another content":  {"a", "cb"},
		"two files":        {"a", "b", "c", ""},
		"two others":       {"a", "", "c", "b"},
		"in a directory":   {"a/b", "c"},
		"name in contents": {"a", "b", "b", "c"},
	} {
		dir := t.TempDir()
		for i := 0; i < len(files); i += 2 {
			write(t, dir, files[i], files[i+1], 0o600)
		}
		all, err := digestOf(os.DirFS(dir))
		if err != nil {
			t.Fatal(err)
		}
		if same, ok := sums[all]; ok {
			t.Errorf("%q and %q have the same digest", name, same)
		}
		sums[all] = name
	}
}
