// What both sides agree on: the form of the messages and the digest of a tree.

package main

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
)

// The messages. Integers are big-endian.
//
//	begin   id (8)                       a new attempt; what came before it does not count
//	entry   kind (1) | mode (4) | length of name (2) | name | last (1) | piece
//	piece   last (1) | piece             more of the file that the entry before began
//	end     id (8) | totals (48)
//	done    id (8) | totals (48)         the receiver's answers
//	failed  id (8) | text
//
// An entry carries the first piece of its content: a file's bytes, a link's
// target, nothing for a directory. Where a content ends is said by last, not by
// a size given beforehand, so a file that changes while it is read breaks
// nothing. The id is what tells an answer from one to an earlier attempt.
const (
	msgBegin = 1 + iota
	msgEntry
	msgPiece
	msgEnd
	msgDone
	msgFailed
)

const (
	kindFile = 'f'
	kindDir  = 'd'
	kindLink = 'l'

	pieceSize = 256 << 10
)

type attemptID [8]byte

// An entry is one name of a tree.
type entry struct {
	kind byte
	mode fs.FileMode // permission bits
	name string      // with slashes, as in io/fs; "." is the tree itself
}

func (e entry) append(b []byte) []byte {
	b = append(b, e.kind)
	b = binary.BigEndian.AppendUint32(b, uint32(e.mode))
	b = binary.BigEndian.AppendUint16(b, uint16(len(e.name)))
	return append(b, e.name...)
}

// parseEntry reads an entry and judges its name: one that could lead out of
// the receiver's directory, on this system, is refused.
func parseEntry(data []byte) (e entry, rest []byte, err error) {
	if len(data) < 7 || len(data)-7 < int(binary.BigEndian.Uint16(data[5:])) {
		return entry{}, nil, errors.New("an entry is cut short")
	}
	e.kind = data[0]
	mode := binary.BigEndian.Uint32(data[1:])
	e.mode = fs.FileMode(mode)
	end := 7 + int(binary.BigEndian.Uint16(data[5:]))
	e.name, rest = string(data[7:end]), data[end:]
	if mode&^0o777 != 0 {
		return entry{}, nil, fmt.Errorf("%q has a mode of %#o", e.name, mode)
	}
	if _, err := filepath.Localize(e.name); err != nil || !fs.ValidPath(e.name) || e.name == "." && e.kind != kindDir {
		return entry{}, nil, fmt.Errorf("%q is not a name that this side accepts", e.name)
	}
	return e, rest, nil
}

// staysInside says whether a link at name leads to a place in the tree.
func staysInside(name, target string) bool {
	return !path.IsAbs(target) && !filepath.IsAbs(target) &&
		filepath.IsLocal(filepath.Join(filepath.FromSlash(path.Dir(name)), filepath.FromSlash(target)))
}

// totals is what both sides must come to.
type totals struct {
	entries, size uint64
	sum           [sha256.Size]byte
}

func (t totals) String() string {
	return fmt.Sprintf("sha256 %x (%d entries, %d bytes)", t.sum, t.entries, t.size)
}

func (t totals) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, t.entries)
	b = binary.BigEndian.AppendUint64(b, t.size)
	return append(b, t.sum[:]...)
}

func parseTotals(data []byte) (t totals, err error) {
	if len(data) != 16+sha256.Size {
		return totals{}, errors.New("totals of a wrong length")
	}
	t.entries, t.size = binary.BigEndian.Uint64(data), binary.BigEndian.Uint64(data[8:])
	copy(t.sum[:], data[16:])
	return t, nil
}

// A digest sums up a tree, entry by entry in the order of fs.WalkDir: kind, a
// mode of 0, name with its length before it, and the SHA-256 of the content.
// Permission bits are not in it, since not every system keeps them.
type digest struct {
	totals
	all, content hash.Hash
}

func newDigest() *digest { return &digest{all: sha256.New(), content: sha256.New()} }

// add counts e, whose content was written to d.content.
func (d *digest) add(e entry, size uint64) {
	d.entries++
	d.size += size
	head := entry{e.kind, 0, e.name}.append(nil)
	d.all.Write(d.content.Sum(head))
	d.content.Reset()
}

func (d *digest) result() totals {
	d.all.Sum(d.sum[:0])
	return d.totals
}

// digestOf computes the digest of a tree that is there already.
func digestOf(tree fs.FS) (totals, error) {
	d := newDigest()
	err := fs.WalkDir(tree, ".", func(name string, item fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		e, content, err := open(tree, name, item)
		if err != nil {
			return err
		}
		defer content.Close()
		n, err := io.Copy(d.content, content)
		d.add(e, uint64(n))
		return err
	})
	return d.result(), err
}

// errSkip says why an entry is left out.
type errSkip string

func (e errSkip) Error() string { return string(e) }

// open returns an entry of a tree and its content.
func open(tree fs.FS, name string, item fs.DirEntry) (entry, io.ReadCloser, error) {
	info, err := item.Info()
	if err != nil {
		return entry{}, nil, err
	}
	e := entry{name: name, mode: info.Mode().Perm()}
	switch info.Mode().Type() {
	case 0:
		e.kind = kindFile
		f, err := tree.Open(name)
		return e, f, err
	case fs.ModeDir:
		e.kind = kindDir
		return e, io.NopCloser(strings.NewReader("")), nil
	case fs.ModeSymlink:
		e.kind = kindLink
		target, err := fs.ReadLink(tree, name)
		if err != nil {
			return entry{}, nil, err
		}
		if target = filepath.ToSlash(target); !staysInside(name, target) {
			return entry{}, nil, errSkip(fmt.Sprintf("a link out of the tree, to %q", target))
		}
		return e, io.NopCloser(strings.NewReader(target)), nil
	}
	return entry{}, nil, errSkip("neither a file nor a directory nor a link")
}
