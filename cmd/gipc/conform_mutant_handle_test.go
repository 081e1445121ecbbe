// How the small client handles messages, and how it closes.

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"time"
)

// handle handles frames until the connection ends or a message says to close.
func (m *mutant) handle() (again bool, err error) {
	for {
		f, err := m.next()
		if err != nil {
			return false, err
		}
		switch {
		case f.isControl():
			if err := m.control(f); err != nil {
				return false, err
			}
		case f.isReply():
			m.reply(f)
		case f.isRequest():
			m.print("request %d %d", f.msgType, len(f.data))
			m.request(f)
		case len(f.data) == 0 && f.msgType < typeClose && m.is("drops-empty"):
		default:
			m.print("message %d %d", f.msgType, len(f.data))
			if f.msgType == typeClose || f.msgType == typeAgain {
				return f.msgType == typeAgain, m.closes()
			}
			m.message(f)
		}
	}
}

func (m *mutant) control(f frame) error {
	if len(f.data) == 0 {
		return nil
	}
	switch f.data[0] {
	case kindPing:
		if m.pings++; m.is("no-pong") {
			return nil
		}
		pong := append([]byte{kindPong}, f.data[1:]...)
		if m.is("wrong-pong") {
			pong[3] ^= 1
		}
		m.write(control(pong...))
	case kindClose:
		return m.closedByServer(f)
	case kindCloseAck:
		if !m.is("any-ack") {
			return malformed()
		}
	}
	return nil
}

// closedByServer answers a close of the server.
func (m *mutant) closedByServer(f frame) error {
	m.closed = true
	if m.is("close-byte") && f.data[1] > 1 {
		return malformed()
	}
	for len(m.records) > 0 { // the rest of the record is checked
		behind, err := m.next()
		if err != nil && !m.is("close-fault") {
			return exit(20, "closed")
		}
		if err != nil {
			break
		}
		if !behind.hasID && behind.msgType != 0 && m.is("delivers-behind") {
			m.print("message %d %d", behind.msgType, len(behind.data))
		}
	}
	if m.is("no-close") {
		return exit(20, "closed")
	}
	frames := []frame{control(kindClose, 0), control(kindCloseAck, 0)}
	if m.is("ack-first") {
		frames[0], frames[1] = frames[1], frames[0]
	}
	m.write(frames...)
	if m.is("talks-after-close") {
		m.write(message(1, []byte("more")))
	}
	return exit(20, "closed")
}

func (m *mutant) request(f frame) {
	if f.msgType == typeNoReply && !m.is("always-replies") {
		return
	}
	data := f.data
	if m.is("cuts-replies") && len(data) > 100 {
		data = data[:100]
	}
	m.write(reply(f.number(), f.msgType, data))
	if m.is("replies-twice") {
		m.write(reply(f.number(), f.msgType, data))
	}
}

func (m *mutant) reply(f frame) {
	if !m.open[f.number()] && !m.is("any-reply") {
		return
	}
	if m.is("reply-order") && f.number() != 1 && m.open[f.number()-1] {
		return
	}
	delete(m.open, f.number())
	m.write(message(f.msgType, f.data))
}

func (m *mutant) call(data []byte) {
	m.calls++
	number := m.calls
	if m.is("same-number") {
		number = 1
	}
	if m.is("numbers-from-zero") {
		number--
	}
	m.open[number] = true
	m.write(request(number, 1, data))
}

func (m *mutant) message(f frame) {
	switch f.msgType {
	case typeNothing:
	case typeCall:
		m.call(f.data)
	case typeGiveUp:
		m.call(f.data)
		m.print("call unknown")
		if !m.is("keeps-calls") {
			delete(m.open, m.calls)
		}
		m.write(message(typeGiveUp, nil))
	case typeBurst:
		size := binary.BigEndian.Uint32(f.data[4:])
		for i := range binary.BigEndian.Uint32(f.data) {
			if m.is("short-burst") && i == 3 {
				continue
			}
			m.write(message(1, bytes.Repeat([]byte{byte(i)}, int(size))))
		}
	case typeTooLarge:
		if size := int(binary.BigEndian.Uint32(f.data)); size <= m.peerLimit || m.is("sends-all") {
			m.write(message(1, make([]byte, size)))
		} else {
			m.print("too-large")
		}
		m.write(message(typeTooLarge, nil))
	default:
		if m.is("wrong-echo") && len(f.data) > 0 {
			f.data[0] ^= 1
		}
		m.write(message(f.msgType, f.data))
	}
}

// closes closes the connection, and returns nil if that was confirmed.
func (m *mutant) closes() error {
	if m.is("no-close") {
		return nil
	}
	sent, discarded := m.sent, byte(0)
	m.write(control(kindClose, 0))
	if m.is("talks-after-close") {
		m.write(message(1, []byte("more")))
	}
	switch {
	case m.is("hasty"):
		m.deadline(time.Millisecond)
	case m.is("patient"):
		m.deadline(time.Minute)
	case sent:
		m.deadline(5 * time.Second)
	default:
		m.deadline(time.Second)
	}
	confirmed := func(ok bool) error {
		if ok || !sent && !m.is("strict") || m.is("always-confirmed") {
			return nil
		}
		return exit(30, "not confirmed")
	}
	for {
		f, err := m.next()
		switch {
		case err != nil && sent && !errors.As(err, new(*mutantExit)):
			return confirmed(false) // the time has passed
		case err != nil:
			return confirmed(false)
		case !f.isControl():
			if !f.isReply() && !m.closed && !m.is("acks-discarded") {
				discarded = 1
			}
		case f.data[0] == kindClose:
			m.closed = true
			m.write(control(kindCloseAck, discarded))
		case f.data[0] == kindCloseAck:
			return confirmed(f.data[1] == 0 || m.is("any-ack-byte"))
		}
	}
}
