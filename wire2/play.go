// The handshake of version 3, as the connection plays it for the library.

package wire2

import (
	"encoding/binary"
	"fmt"

	"example.com/gipc"
)

const (
	helloSize   = 6 // bytes: version or reply, flags, limit; in plaintext
	refusalSize = 2 // bytes: a server's refusal instead of a hello
)

// hello returns the plaintext hello of either side. Version 3 has no limit below
// 1024 and above 1<<30.
func hello(first byte, limit uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{first, 0}, min(max(limit, minMessageSize), maxMessageSize))
}

func helloLen(refused bool, refusalLen int) int {
	if refused {
		return refusalLen
	}
	return helloSize
}

// writeHandshake handles a handshake message of the library.
func (t *translator) writeHandshake(message []byte) error {
	w := &t.writing
	refused := message[0] != 0 && w.phase != phaseServerHello || message[0] == 0 && w.phase == phaseServerHello
	if refused {
		w.phase = phaseRefused
		t.gate.discard()
		return nil
	}
	if w.phase != phaseServerFinish && message[1] != 0 {
		return newFailure(gipc.ErrConfig, "connection not made", fmt.Sprintf("the library's hello has flags %#02x", message[1]),
			"set Encryption to EncryptionOff and leave Secret empty in the config, and use Encryption of wire2.Options")
	}
	switch w.phase {
	case phaseServerHello:
		w.limit = w.options.limitFor(binary.BigEndian.Uint32(message[2:]))
		w.phase = phaseServerFinish
		t.gate.reply(hello(0, w.limit)...)
	case phaseServerFinish:
		return t.acceptClient()
	case phaseClientHello:
		accepted := w.options.limitFor(binary.BigEndian.Uint32(message[2:]))
		t.reading.decoder.limit = int(min(accepted, w.limit)) // [V-10]
		w.phase = phaseFrames
		t.gate.establish(0)
	}
	return nil
}

// acceptClient ends the handshake of version 2 when the library has accepted the
// client. Nothing may follow the limit before the client has answered [V-5], so
// it waits for that one byte.
func (t *translator) acceptClient() error {
	w, d := &t.writing, &t.reading.decoder
	x := newExchange(t.conn, "client")
	d.limit = int(w.limit)
	if err := x.write(limitMessage(w.key, w.limit)); err != nil {
		return err
	}
	for d.buffered() == 0 {
		n, err := t.conn.Read(d.freeSpace())
		d.bytesRead(n)
		if n == 0 && err != nil {
			x.hint = "it did not answer the limit"
			return x.ioFailure(err)
		}
	}
	d.drop(1)
	w.phase = phaseFrames
	t.gate.establish()
	return nil
}
