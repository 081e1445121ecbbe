// The receiver: it builds the tree beside its place, checks it, and moves it there.

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"example.com/gipc"
)

// serve receives one tree into dir and returns what is in it. progress is told
// after each message.
func serve(ctx context.Context, config *gipc.ServerConfig, dir string, progress func(entries, size uint64)) (totals, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return totals{}, err
	}
	if items, err := os.ReadDir(dir); len(items) > 0 {
		return totals{}, fmt.Errorf("%s is not empty: choose another directory", dir)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return totals{}, err
	}
	if killed, _ := filepath.Glob(dir + ".partial-*"); len(killed) > 0 {
		note("left by runs that were killed, or in use by another one: %v", killed)
	}
	server, err := gipc.StartServer(config)
	if err != nil {
		return totals{}, err
	}
	defer server.Close()
	note("receives one tree into %s; Ctrl-C gives up", dir)
	note("%s%s", announcement, cmp.Or(config.Address, config.Name))

	t := &transfer{dir: dir}
	defer func() { t.discard() }()
	for m := new(gipc.Message); ; {
		if err := server.ReadInto(ctx, m); err != nil {
			return totals{}, err
		}
		switch {
		case m.MsgType == -1:
			if t.stage != "" && m.Status == gipc.Disconnected.String() {
				note("the sender is gone (%v); what it sent is thrown away, and another is waited for", why(m))
				t.discard()
			}
			continue
		case m.MsgType == msgBegin:
			t.discard()
			err = t.begin(m.Data)
		case t.stage == "":
			// The rest of an attempt that an earlier connection began.
			continue
		default:
			err = t.take(m)
		}
		if err != nil {
			// The first error goes to both sides; the connection's own says nothing more.
			server.WriteContext(ctx, msgFailed, append(t.id[:], err.Error()...))
			server.Close()
			return totals{}, err
		}
		progress(t.entries, t.size)
		if m.MsgType != msgEnd {
			continue
		}
		err := server.WriteContext(ctx, msgDone, t.all.append(t.id[:]))
		if err = errors.Join(err, server.Close()); err != nil {
			note("%s is complete, but the sender may not know: %v", dir, err)
		}
		return t.all, nil
	}
}

// A transfer is one attempt of a sender, between its begin and its end.
type transfer struct {
	dir   string // where the tree belongs
	id    attemptID
	stage string   // where it is built; "" when nothing is under way
	root  *os.Root // the same, and no way out of it: not by a name and not by a link

	open          entry // whose content is not complete; its kind is 0 if there is none
	file          *os.File
	target        []byte
	modes         []entry // set at the very end: they may forbid to write, or even to read
	entries, size uint64
	all           totals // once it has ended
}

func (t *transfer) begin(data []byte) (err error) {
	if len(data) != len(t.id) {
		return errors.New("a begin of a wrong length")
	}
	t.id = attemptID(data)
	if err := os.MkdirAll(filepath.Dir(t.dir), 0o777); err != nil {
		return err
	}
	if t.stage, err = os.MkdirTemp(filepath.Dir(t.dir), filepath.Base(t.dir)+".partial-*"); err != nil {
		return err
	}
	t.root, err = os.OpenRoot(t.stage)
	return err
}

// discard removes what is unfinished.
func (t *transfer) discard() {
	if t.file != nil {
		t.file.Close()
	}
	if t.root != nil {
		t.root.Close()
	}
	if t.stage != "" {
		removeAll(t.stage)
	}
	*t = transfer{dir: t.dir}
}

// take does what an entry, a piece or an end asks for.
func (t *transfer) take(m *gipc.Message) (err error) {
	data := m.Data
	switch m.MsgType {
	case msgEntry:
		if t.open.kind != 0 {
			return fmt.Errorf("%q begins, and %q is not complete", data, t.open.name)
		}
		if t.open, data, err = parseEntry(data); err != nil {
			return err
		}
		err = t.create()
	case msgPiece:
		if t.open.kind == 0 {
			return errors.New("a piece without a file")
		}
	case msgEnd:
		return t.finish(data)
	default:
		return fmt.Errorf("a message of unknown type %d", m.MsgType)
	}
	if err != nil {
		return err
	}
	if len(data) == 0 || data[0] > 1 {
		return fmt.Errorf("a piece of %q does not say whether it is the last", t.open.name)
	}
	return t.grow(data[1:], data[0] == 1)
}

// create makes what t.open says, for no one but this user so far. A name that
// is there already, also one that differs in case where that counts for
// nothing, is an error and never overwritten.
func (t *transfer) create() (err error) {
	name := filepath.FromSlash(t.open.name)
	switch t.open.kind {
	case kindFile:
		t.file, err = t.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	case kindDir:
		if name != "." {
			err = t.root.Mkdir(name, 0o700)
		}
	case kindLink:
		t.target = nil
	default:
		err = fmt.Errorf("%q is of an unknown kind", t.open.name)
	}
	return err
}

// grow adds a piece to the content of t.open and completes it with the last.
func (t *transfer) grow(piece []byte, last bool) error {
	switch t.open.kind {
	case kindFile:
		if _, err := t.file.Write(piece); err != nil {
			return err
		}
	case kindDir:
		if len(piece) > 0 {
			return fmt.Errorf("directory %q has a content", t.open.name)
		}
	case kindLink:
		if t.target = append(t.target, piece...); len(t.target) > 1<<16 {
			return fmt.Errorf("the target of %q is too long", t.open.name)
		}
	}
	t.size += uint64(len(piece))
	if !last {
		return nil
	}
	e := t.open
	t.open = entry{}
	switch e.kind {
	case kindFile:
		f := t.file
		t.file = nil
		if err := f.Close(); err != nil {
			return err
		}
	case kindLink:
		if target := string(t.target); !staysInside(e.name, target) {
			return fmt.Errorf("link %q leads out of the tree, to %q", e.name, target)
		} else if err := t.root.Symlink(filepath.FromSlash(target), filepath.FromSlash(e.name)); err != nil {
			return err
		}
	}
	if e.kind != kindLink { // a link has no permissions of its own
		t.modes = append(t.modes, e)
	}
	if e.name != "." {
		t.entries++
	}
	return nil
}

// finish compares what the sender counted with what is on the disk, read back
// from there, and only then moves the tree to its place.
func (t *transfer) finish(data []byte) error {
	if t.open.kind != 0 {
		return fmt.Errorf("the end comes before that of %q", t.open.name)
	}
	if len(data) < len(t.id) || attemptID(data) != t.id {
		return errors.New("the end is of another attempt")
	}
	sent, err := parseTotals(data[len(t.id):])
	if err != nil {
		return err
	}
	if t.all, err = digestOf(t.root.FS()); err != nil {
		return err
	}
	if t.all != sent {
		return fmt.Errorf("received %v, and the sender has sent %v", t.all, sent)
	}
	for _, e := range slices.Backward(t.modes) { // what is in a directory comes before it
		if err := t.root.Chmod(filepath.FromSlash(e.name), e.mode); err != nil {
			return err
		}
	}
	if err := t.root.Close(); err != nil {
		return err
	}
	if err := os.Remove(t.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(t.stage, t.dir); err != nil {
		return err
	}
	t.stage, t.root = "", nil
	return nil
}
