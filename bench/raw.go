// The baselines: a net.Conn with a length prefix, sealed or not, batched or not,
// and a bare exchange of P-384 and ML-KEM-1024.

package main

import (
	"bufio"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/mlkem"
	"crypto/rand"
	"encoding/binary"
	"io"
	"net"
	"sync"
)

// rawTalker is one write a message, a reader of 64 KiB and a receive buffer that
// is used again; with seal AES-256-GCM, with w a writer of 64 KiB.
type rawTalker struct {
	conn  io.ReadWriter
	r     *bufio.Reader
	w     *bufio.Writer // nil: one write a message
	seal  cipher.AEAD
	out   []byte
	in    []byte
	plain []byte
}

func newRawTalker(conn io.ReadWriter, c contestant) (*rawTalker, error) {
	t := &rawTalker{conn: conn, r: bufio.NewReaderSize(conn, 64<<10)}
	if c.Batch {
		t.w = bufio.NewWriterSize(conn, 64<<10)
	}
	if !c.Sealed {
		return t, nil
	}
	block, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		return nil, err
	}
	t.seal, err = cipher.NewGCMWithRandomNonce(block)
	return t, err
}

func (t *rawTalker) send(data []byte) error {
	n := len(data)
	if t.seal != nil {
		n += t.seal.Overhead()
	}
	t.out = binary.BigEndian.AppendUint32(t.out[:0], uint32(n))
	if t.seal != nil {
		t.out = t.seal.Seal(t.out, nil, data, nil)
	} else {
		t.out = append(t.out, data...)
	}
	var err error
	if t.w != nil {
		_, err = t.w.Write(t.out)
	} else {
		_, err = t.conn.Write(t.out)
	}
	return err
}

func (t *rawTalker) flush() error {
	if t.w == nil {
		return nil
	}
	return t.w.Flush()
}

// lockedTalker is a rawTalker that several goroutines send with.
type lockedTalker struct {
	*rawTalker
	mu sync.Mutex
}

func (t *lockedTalker) send(data []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rawTalker.send(data)
}

func (t *rawTalker) recv() ([]byte, error) {
	head, err := t.r.Peek(4)
	if err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(head))
	t.r.Discard(4)
	if cap(t.in) < n {
		t.in = make([]byte, n)
	}
	t.in = t.in[:n]
	if _, err := io.ReadFull(t.r, t.in); err != nil || t.seal == nil {
		return t.in, err
	}
	t.plain, err = t.seal.Open(t.plain[:0], nil, t.in, nil)
	return t.plain, err
}

// accept runs f with each connection, on a goroutine of its own.
func accept(path string, ready func(), f func(net.Conn)) error {
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	ready()
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			f(conn)
		}()
	}
}

func serveRaw(c contestant, path string, ready func()) error {
	c.Batch = false
	return accept(path, ready, func(conn net.Conn) {
		if t, err := newRawTalker(conn, c); err == nil {
			addRawTalker(t)
			converse(t)
		}
	})
}

func dialRaw(c contestant, path string) (talker, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	return newRawTalker(conn, c)
}

// serveKeys and dialKeys exchange new keys of P-384 and ML-KEM-1024 in one round trip,
// and do nothing else: the client's keys go there, the server's point and the ciphertext
// come back, both compute the secrets.
func serveKeys(_ contestant, path string, ready func()) error {
	return accept(path, ready, func(conn net.Conn) {
		public := make([]byte, 97+mlkem.EncapsulationKeySize1024)
		if _, err := io.ReadFull(conn, public); err != nil {
			return
		}
		kem, err := mlkem.NewEncapsulationKey1024(public[97:])
		if err != nil {
			return
		}
		_, ciphertext := kem.Encapsulate()
		key, err := ecdh.P384().GenerateKey(rand.Reader)
		if err == nil && agree(key, public[:97]) == nil {
			conn.Write(append(key.PublicKey().Bytes(), ciphertext...))
		}
		io.Copy(io.Discard, conn)
	})
}

func dialKeys(_ contestant, path string) (talker, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	key, err := ecdh.P384().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	kem, err := mlkem.GenerateKey1024()
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(append(key.PublicKey().Bytes(), kem.EncapsulationKey().Bytes()...)); err != nil {
		return nil, err
	}
	answer := make([]byte, 97+mlkem.CiphertextSize1024)
	if _, err := io.ReadFull(conn, answer); err != nil {
		return nil, err
	}
	if _, err := kem.Decapsulate(answer[97:]); err != nil {
		return nil, err
	}
	if err := agree(key, answer[:97]); err != nil {
		return nil, err
	}
	return &rawTalker{conn: conn}, nil
}

func agree(key *ecdh.PrivateKey, point []byte) error {
	public, err := ecdh.P384().NewPublicKey(point)
	if err == nil {
		_, err = key.ECDH(public)
	}
	return err
}

// close ends the connection; where a contestant has it, it is called.
func (t *rawTalker) close() {
	if c, ok := t.conn.(io.Closer); ok {
		c.Close()
	}
}
