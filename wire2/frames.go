// The frames of both protocols, whose plaintext forms are the same: their
// lengths, types and control frames.

package wire2

import (
	"encoding/binary"
	"fmt"

	"example.com/gipc"
)

// A frame:
//
//	0..3  length of everything after itself
//	4..   plaintext: type (4) | data
//	      encrypted, version 2 only: nonce (12) | sealed( type (4) | data ) | tag (16)
const (
	lengthSize = 4
	typeSize   = 4
	headerSize = lengthSize + typeSize

	controlType    = 0
	maxMessageType = 1<<31 - 1
	requestIDSize  = 8
)

// Control frames exist in version 3 only. The first byte of their data is the kind.
const (
	kindPing     = 1
	kindPong     = 2
	kindClose    = 3
	kindCloseAck = 4

	firstCriticalKind = 16 // an unknown kind from here on must not be ignored

	pingSize  = 9 // data of a ping or pong
	closeSize = 2 // data of a close or close-ack
)

// controlFrame returns a complete control frame.
func controlFrame(data ...byte) []byte {
	frame := binary.BigEndian.AppendUint32(nil, uint32(typeSize+len(data)))
	frame = binary.BigEndian.AppendUint32(frame, controlType)
	return append(frame, data...)
}

// checkPeerLength checks the length field of a frame that the peer sends. The
// sums are of 64 bits, so that they cannot overflow [V-10].
func checkPeerLength(length uint32, overhead, limit int) error {
	least := uint64(typeSize) + uint64(overhead)
	most := least + uint64(limit)
	if n := uint64(length); n < least || n > most {
		return newFailure(gipc.ErrMalformed, "connection ended", fmt.Sprintf("the peer sent a frame length of %d, not %d to %d", n, least, most),
			"if it is too long, raise MaxMsgSize in the config and in Options, or send less")
	}
	return nil
}

// checkPeerType checks the type of a frame that the peer sends. Version 2 has
// types of 32 bits, the library those of 31.
func checkPeerType(frameType uint32) error {
	if frameType > maxMessageType {
		return newFailure(gipc.ErrMalformed, "connection ended", fmt.Sprintf("the peer sent message type %d, above %d", frameType, maxMessageType), "use a smaller type there")
	}
	return nil
}

// libraryFrameLen returns the length of the library's frame that b begins with,
// in full. It is 0 if b is too short to tell. limit is the largest data that the
// peer accepts.
func libraryFrameLen(b []byte, limit uint32) (int, error) {
	if len(b) < lengthSize {
		return 0, nil
	}
	length := binary.BigEndian.Uint32(b)
	if length < typeSize || length > typeSize+requestIDSize+maxMessageSize {
		return 0, newFailure(gipc.ErrMalformed, "message not sent", fmt.Sprintf("the library sent a frame length of %d", length), "")
	}
	if len(b) < headerSize {
		return 0, nil
	}
	switch frameType := binary.BigEndian.Uint32(b[lengthSize:]); {
	case frameType > maxMessageType:
		return 0, newFailure(gipc.ErrVersion, "request or reply not sent", "version 2 has no requests", "use messages until the peer speaks version 3")
	case frameType != controlType && length-typeSize > limit:
		return 0, newFailure(gipc.ErrTooLarge, "message not sent", fmt.Sprintf("it has %d bytes and the peer accepts %d", length-typeSize, limit), "send less, or raise the limit of the server")
	}
	return lengthSize + int(length), nil
}
