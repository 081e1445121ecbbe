// Bytes to frame and back: the length prefix, the type, and their limits. No
// net, no locks, no crypto.

package gipc

import (
	"encoding/binary"
	"math"
)

// A frame on the wire:
//
//	0..3  length of everything after itself
//	4..   plaintext: type (4) | data
//	      encrypted: nonce (12) | sealed( type (4) | data ) | tag (16)
const (
	prefixLen  = 4
	typeLen    = 4
	sealGrowth = 28 // what sealing adds: nonce and tag

	controlType = 0
	maxType     = math.MaxInt32

	defaultMsgSize = 3145728
	minMsgSize     = 1024
	maxMsgSize     = 1 << 30
)

// Control frames have type 0; the first byte of their data is the kind.
const (
	kindPing    = 1
	kindPong    = 2
	kindGoodbye = 3
	kindAnswer  = 4
	controlMax  = 9 // the longest data of a known kind, in bytes
	byeUser     = 0 // what a goodbye says
	byeShutdown = 1
	firstFatal  = 16 // an unknown kind from here on must not be ignored
)

// appendPrefix appends the length prefix of a frame whose body has n bytes.
func appendPrefix(dst []byte, n int) []byte {
	return binary.BigEndian.AppendUint32(dst, uint32(n))
}

// parsePrefix reads the length prefix of a frame: the size of the body that
// follows. growth is what sealing adds to a body, 0 in plaintext; limit is the
// largest data that this side accepts.
func parsePrefix(prefix []byte, growth, limit int) (int, error) {
	n := uint64(binary.BigEndian.Uint32(prefix))
	if least := uint64(typeLen + growth); n < least {
		return 0, fail(ErrMalformed, nil, "a frame of %d bytes, and none has less than %d", n, least)
	}
	if most := uint64(typeLen) + uint64(growth) + uint64(limit); n > most {
		return 0, fail(ErrMalformed, nil, "a frame of %d bytes, and the MaxMsgSize of this side allows %d", n, most)
	}
	return int(n), nil
}

// checkWireType refuses what is no type of a version 3 frame.
func checkWireType(t uint32) error {
	if t > maxType {
		return fail(ErrMalformed, nil, "message type %d is above %d", t, maxType)
	}
	return nil
}

// controlLen is the length that the data of a known control kind must have,
// and 0 for an unknown kind.
func controlLen(kind byte) int {
	switch kind {
	case kindPing, kindPong:
		return 9
	case kindGoodbye, kindAnswer:
		return 2
	}
	return 0
}

// parseControl judges the data of a control frame. A kind that this version
// does not know and may ignore comes back as 0.
func parseControl(data []byte) (kind byte, err error) {
	if len(data) == 0 {
		return 0, fail(ErrMalformed, nil, "a control frame without a kind")
	}
	kind = data[0]
	switch want := controlLen(kind); {
	case want == len(data):
		return kind, nil
	case want != 0:
		return 0, fail(ErrMalformed, nil, "control frame %d with %d bytes, not %d", kind, len(data), want)
	case kind >= firstFatal:
		return 0, fail(ErrMalformed, nil, "control frame %d of a later version", kind)
	}
	return 0, nil
}
