// Frames as section 3 of the protocol has them, written apart from the library.

package main

import (
	"encoding/binary"
	"fmt"
)

const (
	idBit    = 1 << 31 // of a type: the frame has an id
	replyBit = 1 << 63 // of an id: the frame is a reply

	largeData = 16384 // bytes of data from which on a frame is large
	maxPlain  = 65536 // bytes of plaintext in a record of frames

	kindPing     = 1
	kindPong     = 2
	kindClose    = 3
	kindCloseAck = 4
)

// A frame is a message, a request, a reply, or, with type 0, a control frame.
type frame struct {
	msgType uint32 // without idBit
	hasID   bool
	id      uint64
	data    []byte
}

func message(msgType uint32, data []byte) frame { return frame{msgType: msgType, data: data} }

func request(number uint64, msgType uint32, data []byte) frame {
	return frame{msgType: msgType, hasID: true, id: number, data: data}
}

func reply(number uint64, msgType uint32, data []byte) frame {
	return request(number|replyBit, msgType, data)
}

func control(data ...byte) frame { return frame{data: data} }

func (f frame) isControl() bool { return f.msgType == 0 && !f.hasID }
func (f frame) isRequest() bool { return f.hasID && f.id&replyBit == 0 }
func (f frame) isReply() bool   { return f.hasID && f.id&replyBit != 0 }
func (f frame) number() uint64  { return f.id &^ replyBit }

// String describes a frame in a finding.
func (f frame) String() string {
	switch {
	case f.isControl() && len(f.data) > 0:
		return fmt.Sprintf("a control frame of kind %d", f.data[0])
	case f.isControl():
		return "an empty control frame"
	case f.isReply():
		return fmt.Sprintf("a reply to request %d of type %d with %d bytes", f.number(), f.msgType, len(f.data))
	case f.isRequest():
		return fmt.Sprintf("request %d of type %d with %d bytes", f.number(), f.msgType, len(f.data))
	}
	return fmt.Sprintf("a message of type %d with %d bytes", f.msgType, len(f.data))
}

// head returns the bytes of a frame before its data.
func (f frame) head() []byte {
	size, wireType := 8, f.msgType
	if f.hasID {
		size, wireType = 16, f.msgType|idBit
	}
	b := make([]byte, 8, 16)
	binary.BigEndian.PutUint32(b, uint32(size-4+len(f.data)))
	binary.BigEndian.PutUint32(b[4:], wireType)
	if f.hasID {
		b = binary.BigEndian.AppendUint64(b, f.id)
	}
	return b
}

// bytes returns the whole frame.
func (f frame) bytes() []byte { return append(f.head(), f.data...) }

// A frameHead is the head of a frame that a client has sent.
type frameHead struct {
	frame
	size   int // bytes of the head
	length int // bytes of data
}

// parseHead parses the head at the beginning of b, for a receiver with this
// limit. It returns nil and no violation if b ends inside the head.
func parseHead(b []byte, limit int) (*frameHead, error) {
	if len(b) < 8 {
		return nil, nil
	}
	length, wireType := int64(binary.BigEndian.Uint32(b)), binary.BigEndian.Uint32(b[4:])
	h := &frameHead{size: 8}
	h.msgType, h.hasID = wireType&^idBit, wireType&idBit != 0
	if h.hasID {
		h.size = 16
	}
	data := length + 4 - int64(h.size)
	switch {
	case wireType == idBit:
		return nil, violate("F-6", "the client sent a frame of type %d", uint32(idBit))
	case data < 0:
		return nil, violate("F-1", "the client sent a frame of length %d", length)
	case data > int64(limit):
		return nil, violate("F-3", "the client sent a frame with %d bytes of data, and the server accepts %d", data, limit)
	case len(b) < h.size:
		return nil, nil
	}
	if h.hasID {
		h.id = binary.BigEndian.Uint64(b[8:])
	}
	h.length = int(data)
	return h, nil
}

// A violation is a sentence of the protocol that did not hold.
type violation struct {
	id   string // such as F-1
	text string
}

func (v *violation) Error() string { return fmt.Sprintf("[%s] %s", v.id, v.text) }

func violate(id, format string, args ...any) error {
	return &violation{id, fmt.Sprintf(format, args...)}
}
