// Copytree carries a directory tree from one process to another and proves
// that it arrived: both sides print the same SHA-256 over names and contents.
// Its -h says how to run it.
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"example.com/gipc"
	"example.com/gipc/example/internal/program"
)

const usage = `copytree: carries a directory tree from one process to another and proves that
it arrived: both sides print the same SHA-256 over names and contents.

  go run ./example/copytree                both roles, as two processes, on Go's own source
  go run ./example/copytree -serve DIR     receive one tree into DIR
  go run ./example/copytree -send DIR      send the tree at DIR

The receiver's DIR must be missing or empty. What arrives is built up
beside it, as DIR.partial-*, and becomes DIR once everything is there, so that
a run that was killed is never mistaken for a complete one. (It says nothing
about a power cut: nothing is flushed to the disk.) A sender whose connection
is lost starts over as soon as a receiver is there again. Ctrl-C gives up, and
leaves nothing unfinished behind.

Files, directories and symbolic links are carried, with their permission
bits. Links stay links; those that lead out of the tree, and whatever is
neither file, directory nor link, are left out with a note.

It exits with 0 when the tree has arrived; with 1 when it failed or was
interrupted; with 2 on wrong flags.

`

// options is what both roles take from the command line.
type options struct {
	name, network, address string
	plain                  bool
	secretFile             string
	timeout                time.Duration
}

func main() {
	var o options
	into := flag.String("serve", "", "receive a tree into this `directory` (default: both roles)")
	from := flag.String("send", "", "send the tree at this `directory` (default: both roles)")
	tree := flag.String("tree", "", "without -serve and -send: the `directory` to copy (default $GOROOT/src)")
	flag.StringVar(&o.name, "name", "copytree", "`name` of the connection, the same on both sides")
	flag.StringVar(&o.network, "network", "", "`network`, unix or tcp, the same on both sides (default: unix)")
	flag.StringVar(&o.address, "address", "", "`path` of the socket, or host:port (default: NAME.sock in $GIPC_SOCKET_DIR or /tmp, or 127.0.0.1:8100)")
	flag.BoolVar(&o.plain, "plain", false, "no encryption; give it on both sides (default: encrypted)")
	flag.StringVar(&o.secretFile, "secret-file", "", "`file` whose bytes, 32 or more, both sides must hold (default: none)")
	flag.DurationVar(&o.timeout, "timeout", 30*time.Second, "`time` for which the sender looks for a receiver, such as 500ms or 1m; 0 is forever")
	program.Parse(usage)
	if flag.NArg() > 0 || *into != "" && *from != "" || *into+*from != "" && *tree != "" {
		program.WrongUse("copytree", "give -serve DIR or -send DIR, or neither to see both, then perhaps -tree DIR")
	}
	program.Run("copytree", func(ctx context.Context) error {
		var all totals
		var err error
		switch {
		case *into != "":
			all, err = o.receive(ctx, *into)
		case *from != "":
			all, err = o.send(ctx, *from)
		default:
			return demo(ctx, &o, *tree)
		}
		if err == nil {
			fmt.Println(all)
		}
		return err
	})
}

func (o *options) receive(ctx context.Context, into string) (totals, error) {
	config, err := o.server()
	if err != nil {
		return totals{}, err
	}
	return serve(ctx, config, into, progress("received"))
}

func (o *options) send(ctx context.Context, from string) (totals, error) {
	config, err := o.client()
	if err != nil {
		return totals{}, err
	}
	return send(ctx, config, from, progress("sent"))
}

func (o *options) server() (*gipc.ServerConfig, error) {
	secret, err := o.secret()
	if err != nil {
		return nil, err
	}
	config := &gipc.ServerConfig{Name: o.name, Network: o.network, Address: o.address, Encryption: o.encryption(), Secret: secret}
	// Port 0 is any free one: the listener is made here to learn which.
	if o.network == "tcp" && strings.HasSuffix(o.address, ":0") {
		if config.Listener, err = net.Listen("tcp", o.address); err != nil {
			return nil, err
		}
		o.address = config.Listener.Addr().String()
		config.Address = o.address
	}
	return config, nil
}

func (o *options) client() (*gipc.ClientConfig, error) {
	secret, err := o.secret()
	if err != nil {
		return nil, err
	}
	return &gipc.ClientConfig{Name: o.name, Network: o.network, Address: o.address, Encryption: o.encryption(), Secret: secret, Timeout: o.timeout}, nil
}

func (o *options) encryption() gipc.Encryption {
	if o.plain {
		return gipc.EncryptionOff
	}
	return gipc.EncryptionOn
}

func (o *options) secret() ([]byte, error) {
	if o.secretFile == "" {
		return nil, nil
	}
	return os.ReadFile(o.secretFile)
}

// note says something on standard error; standard output is for the digest.
func note(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "copytree: "+format+"\n", args...)
}

// why is the reason for the end of a connection. One that its other side has
// closed has no error.
func why(m *gipc.Message) error {
	return cmp.Or(m.Err, errors.New("it closed the connection"))
}

// progress returns a function that says how far a role is, at most twice a
// second.
func progress(verb string) func(entries, size uint64) {
	next := time.Now().Add(500 * time.Millisecond)
	return func(entries, size uint64) {
		if now := time.Now(); !now.Before(next) {
			next = now.Add(500 * time.Millisecond)
			note("%s %d entries, %.1f MB", verb, entries, float64(size)/1e6)
		}
	}
}

// announcement is what the receiver says before its address, and what the demo
// looks for.
const announcement = "listening at "

// demo starts this program twice, as receiver and as sender, and compares what
// the two print.
func demo(ctx context.Context, o *options, tree string) error {
	if tree == "" {
		goroot, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
		if err != nil {
			return fmt.Errorf("where is Go's source? %w; name a directory with -tree", err)
		}
		tree = filepath.Join(strings.TrimSpace(string(goroot)), "src")
	}
	if _, err := os.Stat(tree); err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "gipc")
	if err != nil {
		return err
	}
	defer removeAll(dir)
	if o.network == "" {
		o.network = "unix"
	}
	if o.address == "" {
		o.address = map[string]string{"unix": filepath.Join(dir, "socket"), "tcp": "127.0.0.1:0"}[o.network]
	}

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	role := func(role, dir string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, exe, role, dir, "-name", o.name, "-network", o.network, "-address", o.address,
			fmt.Sprintf("-plain=%t", o.plain), "-secret-file", o.secretFile, "-timeout", o.timeout.String())
		cmd.Cancel = func() error {
			if err := cmd.Process.Signal(os.Interrupt); err != nil { // not on every system
				return cmd.Process.Kill()
			}
			return nil
		}
		cmd.WaitDelay = 10 * time.Second
		cmd.Stdout, cmd.Stderr = new(bytes.Buffer), os.Stderr
		return cmd
	}

	receiver := role("-serve", filepath.Join(dir, "copy"))
	receiver.Stderr = nil
	stderr, err := receiver.StderrPipe()
	if err != nil {
		return err
	}
	if err := receiver.Start(); err != nil {
		return err
	}
	address := make(chan string, 1)
	received := make(chan error, 1)
	go func() {
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			fmt.Fprintln(os.Stderr, lines.Text())
			if at, ok := strings.CutPrefix(lines.Text(), "copytree: "+announcement); ok {
				address <- at
			}
		}
		close(address)
		received <- receiver.Wait()
	}()

	var ok bool
	if o.address, ok = <-address; !ok {
		return fmt.Errorf("the receiver: %w", <-received)
	}
	sender := role("-send", tree)
	if err := sender.Run(); err != nil {
		stop()
		<-received
		return fmt.Errorf("the sender: %w", err)
	}
	if err := <-received; err != nil {
		return fmt.Errorf("the receiver: %w", err)
	}
	fmt.Printf("sender:   %sreceiver: %s", sender.Stdout, receiver.Stdout)
	if fmt.Sprint(sender.Stdout) != fmt.Sprint(receiver.Stdout) {
		return errors.New("the digests differ")
	}
	fmt.Println("equal")
	return nil
}

// removeAll removes a tree that may hold directories without write permission.
func removeAll(dir string) {
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			os.Chmod(path, 0o700)
		}
		return nil
	})
	if err := os.RemoveAll(dir); err != nil {
		note("%v", err)
	}
}
