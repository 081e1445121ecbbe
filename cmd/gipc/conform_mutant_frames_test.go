// Frames of the small client: what it receives and what it sends.

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"time"
)

// fill reads n bytes.
func (m *mutant) fill(n int, inside bool) ([]byte, error) {
	b := make([]byte, n)
	if m.is("one-read") { // a read that returns less than n bytes is taken for the end
		if got, _ := m.r.Read(b); got < n {
			return nil, exit(22, "inside")
		}
		return b, nil
	}
	got, err := io.ReadFull(m.r, b)
	switch {
	case err == nil:
		return b, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, err
	case (inside || got > 0) && !m.is("no-inside"):
		return nil, exit(22, "inside")
	}
	if m.is("no-boundary") {
		return nil, exit(20, "closed")
	}
	return nil, exit(21, "boundary")
}

func malformed() error { return exit(23, "malformed") }

// next returns the next frame.
func (m *mutant) next() (frame, error) {
	var f frame
	var err error
	if m.encrypted {
		f, err = m.openedFrame()
	} else {
		f, err = m.plainFrame()
	}
	if err != nil {
		return frame{}, err
	}
	return f, m.checkFrame(f)
}

func (m *mutant) checkFrame(f frame) error {
	switch {
	case f.isControl() && len(f.data) == 0:
		if m.is("any-control") {
			return nil
		}
		return malformed()
	case f.isControl():
		kind, sizes := f.data[0], map[byte]int{kindPing: 9, kindPong: 9, kindClose: 2, kindCloseAck: 2}
		if sizes[kind] != 0 && len(f.data) != sizes[kind] && !m.is("any-control") || kind >= 16 && !m.is("any-kind") {
			return malformed()
		}
		if kind > 4 && kind < 16 && m.is("no-kind") {
			return malformed()
		}
	case f.hasID && f.number() == 0 && !m.is("any-number"):
		return malformed()
	case f.isRequest():
		if m.requests++; f.id != m.requests && !m.is("any-number") {
			return malformed()
		}
	}
	return nil
}

// head parses a head, with the checks of a receiver.
func (m *mutant) head(b []byte) (h frameHead, err error) {
	length, wireType := int64(binary.BigEndian.Uint32(b)), binary.BigEndian.Uint32(b[4:])
	h.msgType, h.hasID, h.size = wireType&^idBit, wireType&idBit != 0, 8
	if h.hasID {
		h.size = 16
	}
	data := length + 4 - int64(h.size)
	switch {
	case wireType == idBit && !m.is("any-type"):
		return h, malformed()
	case m.is("types-16") && h.msgType > 65535:
		return h, malformed()
	case data < 0 && !m.is("any-length"):
		return h, malformed()
	case data > int64(m.limit) && !m.is("no-limit"):
		return h, malformed()
	case data == int64(m.limit) && m.is("off-by-one"):
		return h, malformed()
	}
	h.length = int(max(data, 0))
	return h, nil
}

func (m *mutant) plainFrame() (frame, error) {
	b, err := m.fill(4, false)
	if err != nil {
		return frame{}, err
	}
	length := int64(binary.BigEndian.Uint32(b))
	if length < 4 && !m.is("any-length") || length > 12+int64(m.limit) && !m.is("no-limit") {
		return frame{}, malformed()
	}
	rest, err := m.fill(4, true)
	if err != nil {
		return frame{}, err
	}
	h, err := m.head(append(b, rest...))
	if err != nil {
		return frame{}, err
	}
	if h.hasID {
		id, err := m.fill(8, true)
		if err != nil {
			return frame{}, err
		}
		h.id = binary.BigEndian.Uint64(id)
	}
	h.data, err = m.fill(h.length, true)
	return h.frame, err
}

// record reads and opens a record of n bytes of plaintext, as ok allows.
func (m *mutant) record(inside bool, ok func(n int) bool) ([]byte, error) {
	b, err := m.fill(4, inside)
	if err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(b)) - recordOverhead
	if !ok(n) && !m.is("any-record") {
		return nil, malformed()
	}
	sealed, err := m.fill(max(n, 0)+recordOverhead, true)
	if err != nil {
		return nil, err
	}
	number := m.receiving.sequence
	for _, try := range m.sequences(number) {
		m.receiving.sequence = try
		plain, authentic, err := m.receiving.open(bytes.Clone(sealed))
		if err != nil {
			return nil, err
		}
		if authentic {
			return plain, nil
		}
	}
	m.receiving.sequence = number
	if m.is("any-tag") {
		return message(typeNothing, []byte("forged")).bytes(), nil
	}
	return nil, exit(24, "not authentic")
}

// sequences returns the sequence numbers that the mutant accepts.
func (m *mutant) sequences(number uint64) []uint64 {
	list := []uint64{number}
	if m.is("any-sequence") {
		list = append(list, number+1)
		if number > 0 {
			list = append(list, number-1)
		}
	}
	return list
}

func (m *mutant) openedFrame() (frame, error) {
	for len(m.records) == 0 {
		plain, err := m.record(false, func(n int) bool {
			return n >= 8 && n <= maxPlain && !(m.is("small-records") && n > m.limit)
		})
		if err != nil {
			return frame{}, err
		}
		m.records = plain
	}
	if len(m.records) < 8 {
		return frame{}, malformed()
	}
	h, err := m.head(m.records)
	if err != nil {
		return frame{}, err
	}
	if len(m.records) < h.size {
		return frame{}, malformed()
	}
	if h.hasID {
		h.id = binary.BigEndian.Uint64(m.records[8:])
	}
	rest := m.records[h.size:]
	if h.length < largeData {
		if len(rest) < h.length && !m.is("half-frames") {
			return frame{}, malformed()
		}
		n := min(len(rest), h.length)
		h.data, m.records = rest[:n:n], rest[n:]
		return h.frame, nil
	}
	if len(rest) > 0 && !m.is("half-frames") {
		return frame{}, malformed()
	}
	m.records = nil
	h.data, err = m.record(!m.is("no-inside-data"), func(n int) bool { return n == h.length })
	return h.frame, err
}

// write writes frames, each in a record of its own.
func (m *mutant) write(frames ...frame) {
	for _, f := range frames {
		if f.isControl() && len(f.data) == 2 && f.data[0] == kindCloseAck && m.is("no-ack") {
			continue
		}
		m.sent = m.sent || !f.isControl()
		m.conn.Write(m.encode(f))
	}
}

func (m *mutant) encode(f frame) []byte {
	if !m.encrypted || m.sending == nil {
		return f.bytes()
	}
	if len(f.data) < largeData || m.is("one-record") && len(f.data) < maxPlain-16 {
		return m.seal(f.bytes())
	}
	out := m.seal(f.head())
	if m.is("ping-between") {
		out = append(out, m.seal(control(kindPing, 1, 2, 3, 4, 5, 6, 7, 8).bytes())...)
	}
	return append(out, m.seal(f.data)...)
}

func (m *mutant) seal(plain []byte) []byte {
	b, err := m.sending.seal(plain)
	if err != nil {
		panic(err)
	}
	return b
}

// deadline limits the reads that follow.
func (m *mutant) deadline(d time.Duration) { m.conn.SetReadDeadline(time.Now().Add(d)) }
