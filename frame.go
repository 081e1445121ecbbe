// The encoding of frames, which carry messages and control information, in plaintext.
// No net, no locks, no cryptography.

package gipc

import (
	"encoding/binary"
	"math"
)

// A frame:
//
//	0..3   length of everything after itself
//	4..7   type
//	8..15  id, only if bit 31 of the type is set
//	..     data
const (
	lengthSize = 4
	typeSize   = 4
	idSize     = 8
	headerSize = lengthSize + typeSize // of a frame without an id

	controlType = 0
	maxType     = math.MaxInt32
	requestFlag = 1 << 31 // in the type of a request or a reply
	replyFlag   = 1 << 63 // in the id of a reply

	// Data of this size or more is large: it is sealed in a record of its own,
	// so neither side has to copy it.
	largeDataSize = 16 << 10

	defaultMsgSize = 3145728
	minMsgSize     = 1024
	maxMsgSize     = 1 << 30
)

// Control frames have type 0; the first byte of their data is the kind.
const (
	kindPing          = 1
	kindPong          = 2
	kindClose         = 3
	kindCloseAck      = 4
	firstCriticalKind = 16 // unknown kinds from here on must not be ignored

	closedByUser     = 0 // the byte of a close
	closedByShutdown = 1
	allReceived      = 0 // the byte of a close-ack
	someDiscarded    = 1
)

// A frameHeader is the decoded header of a frame.
type frameHeader struct {
	frameType uint32 // with requestFlag
	id        uint64 // 0 without requestFlag
	dataSize  int    // bytes
}

// size returns the length of the header in bytes.
func (h frameHeader) size() int {
	if h.hasID() {
		return headerSize + idSize
	}
	return headerSize
}

func (h frameHeader) isLarge() bool { return h.dataSize >= largeDataSize }

func (h frameHeader) hasID() bool { return h.frameType&requestFlag != 0 }

// isPlainMessage reports whether the frame is a message, and neither a request nor a reply.
func (h frameHeader) isPlainMessage() bool { return h.frameType-1 < maxType }

func (h frameHeader) isReply() bool { return h.hasID() && h.id&replyFlag != 0 }

func (h frameHeader) isRequest() bool { return h.hasID() && h.id&replyFlag == 0 }

// msgType returns the user's type.
func (h frameHeader) msgType() int { return int(h.frameType &^ requestFlag) }

// appendFrameHeader appends h to dst.
func appendFrameHeader(dst []byte, h frameHeader) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(h.size()-lengthSize+h.dataSize))
	dst = binary.BigEndian.AppendUint32(dst, h.frameType)
	if h.hasID() {
		dst = binary.BigEndian.AppendUint64(dst, h.id)
	}
	return dst
}

// parseFrameHeader checks as much of a header as b holds: the length as soon as
// its 4 bytes are there, then the length together with the type. The header is
// complete if need <= len(b); otherwise need is the number of bytes for the next check.
// limit is the maximum size of data that this side accepts, in bytes.
func parseFrameHeader(b []byte, limit int) (h frameHeader, need int, err error) {
	if len(b) < lengthSize {
		return h, lengthSize, nil
	}
	length := uint64(binary.BigEndian.Uint32(b))
	if length < typeSize {
		return h, 0, newError(ErrMalformed, nil, "a frame's length is %d, below the minimum of %d", length, typeSize)
	}
	if most := uint64(typeSize+idSize) + uint64(limit); length > most {
		return h, 0, newError(ErrMalformed, nil, "a frame's length is %d, above the maximum of %d set by this side's MaxMsgSize", length, most)
	}
	if len(b) < headerSize {
		return h, headerSize, nil
	}
	h.frameType = binary.BigEndian.Uint32(b[lengthSize:])
	if h.frameType == requestFlag {
		return h, 0, newError(ErrMalformed, nil, "message type %d is not defined", h.frameType)
	}
	rest := uint64(h.size() - lengthSize)
	if length < rest {
		return h, 0, newError(ErrMalformed, nil, "the length of a frame with an id is %d, below the minimum of %d", length, rest)
	}
	if length-rest > uint64(limit) {
		return h, 0, newError(ErrMalformed, nil, "a frame has %d bytes of data, above this side's MaxMsgSize of %d", length-rest, limit)
	}
	h.dataSize = int(length - rest)
	if need = h.size(); len(b) >= need && need > headerSize {
		h.id = binary.BigEndian.Uint64(b[headerSize:])
	}
	return h, need, nil
}

// controlSize returns the length that the data of a known control kind must
// have, in bytes, and 0 for an unknown kind.
func controlSize(kind byte) int {
	switch kind {
	case kindPing, kindPong:
		return 9
	case kindClose, kindCloseAck:
		return 2
	}
	return 0
}

// parseControl checks the data of a control frame. It returns kind 0 for a kind
// that this version does not know and may ignore.
func parseControl(data []byte) (kind byte, err error) {
	if len(data) == 0 {
		return 0, newError(ErrMalformed, nil, "a control frame without a kind")
	}
	kind = data[0]
	switch want := controlSize(kind); {
	case want == len(data):
		return kind, nil
	case want != 0:
		return 0, newError(ErrMalformed, nil, "control frame %d with %d bytes, not %d", kind, len(data), want)
	case kind >= firstCriticalKind:
		return 0, newError(ErrMalformed, nil, "control frame %d of a later version", kind)
	}
	return 0, nil
}

// appendControl appends a control frame. rest is its data behind the kind.
func appendControl(dst []byte, kind byte, rest ...byte) []byte {
	dst = appendFrameHeader(dst, frameHeader{frameType: controlType, dataSize: 1 + len(rest)})
	return append(append(dst, kind), rest...)
}

// checkMessageType returns ErrReservedType for a type that users may not send.
func checkMessageType(msgType int) error {
	if msgType > controlType && msgType <= maxType {
		return nil
	}
	return reservedTypeError(msgType) // a separate function, so that this one is inlined
}

func reservedTypeError(msgType int) error {
	return newError(ErrReservedType, nil, "%d: use 1 to %d", msgType, maxType)
}
