// Bytes of the peer in, bytes for the library out. No net, no locks, no clock.

package wire2

import (
	"encoding/binary"
)

const (
	minBufferSize = 4 << 10
	maxKeptBuffer = 64 << 10 // a larger buffer is released when it is empty
)

// A decoder turns frames of version 2 into frames of version 3. Plaintext is
// passed on as it arrives, since only the headers have to be checked. An
// encrypted frame is passed on when all of it has arrived. Its memory grows with
// what has arrived. After an error it stays in error.
type decoder struct {
	key   *sharedKey // nil in plaintext
	limit int        // largest data that is accepted

	buffer     []byte
	start, end int // buffer[start:end] has arrived and is not decoded

	passing  int // bytes of a plaintext frame that are still to be passed on
	skipping int // bytes of a plaintext frame that are still to be dropped
	err      error
}

// freeSpace returns memory to read into. It invalidates what next has returned.
func (d *decoder) freeSpace() []byte {
	if d.start == d.end {
		d.start, d.end = 0, 0
		if len(d.buffer) > maxKeptBuffer {
			d.buffer = nil
		}
	}
	if d.end == len(d.buffer) {
		d.makeRoom()
	}
	return d.buffer[d.end:]
}

func (d *decoder) makeRoom() {
	if d.start > 0 {
		d.end = copy(d.buffer, d.buffer[d.start:d.end])
		d.start = 0
		return
	}
	larger := make([]byte, max(minBufferSize, 2*len(d.buffer)))
	d.end = copy(larger, d.buffer)
	d.buffer = larger
}

// bytesRead records that n bytes of freeSpace have been filled.
func (d *decoder) bytesRead(n int) { d.end += n }

// buffered returns how many bytes wait to be decoded.
func (d *decoder) buffered() int { return d.end - d.start }

// drop discards bytes that are buffered.
func (d *decoder) drop(n int) { d.start += n }

// betweenFrames reports whether the library has received whole frames only. The
// next frame may have arrived in part.
func (d *decoder) betweenFrames() bool { return d.passing == 0 }

// atBoundary reports whether the stream may end here.
func (d *decoder) atBoundary() bool {
	return d.passing == 0 && d.skipping == 0 && d.buffered() == 0
}

// next returns the next bytes for the library, or nothing if more input is needed.
func (d *decoder) next() ([]byte, error) {
	if d.err != nil {
		return nil, d.err
	}
	if d.key != nil {
		return d.nextSealed()
	}
	for {
		if d.skipping > 0 {
			n := min(d.skipping, d.buffered())
			d.skipping -= n
			d.start += n
		}
		if d.passing > 0 {
			return d.passOn(), nil
		}
		if d.skipping > 0 || d.buffered() < lengthSize {
			return nil, nil
		}
		if more, err := d.beginFrame(); !more || err != nil {
			d.err = err
			return nil, err
		}
	}
}

// passOn returns what has arrived of the current plaintext frame.
func (d *decoder) passOn() []byte {
	n := min(d.passing, d.buffered())
	piece := d.buffer[d.start : d.start+n]
	d.passing -= n
	d.start += n
	return piece
}

// beginFrame checks the header of a plaintext frame, and reports whether it is
// complete. The length is checked before the type has arrived.
func (d *decoder) beginFrame() (bool, error) {
	head := d.buffer[d.start:d.end]
	length := binary.BigEndian.Uint32(head)
	if err := checkPeerLength(length, 0, d.limit); err != nil {
		return false, err
	}
	if len(head) < headerSize {
		return false, nil
	}
	frameType := binary.BigEndian.Uint32(head[lengthSize:])
	if frameType == controlType { // ignored [V-8]
		d.skipping = lengthSize + int(length)
		return true, nil
	}
	if err := checkPeerType(frameType); err != nil {
		return false, err
	}
	d.passing = lengthSize + int(length)
	return true, nil
}

// nextSealed returns the next encrypted frame in its plaintext form.
func (d *decoder) nextSealed() ([]byte, error) {
	for {
		frame, err := d.openNext()
		if err != nil {
			d.err = err
			return nil, err
		}
		if frame == nil {
			return nil, nil
		}
		frameType := binary.BigEndian.Uint32(frame[lengthSize:])
		if frameType == controlType {
			continue // ignored [V-8]
		}
		if d.err = checkPeerType(frameType); d.err != nil {
			return nil, d.err
		}
		return frame, nil
	}
}

// openNext opens the next frame in place, if it is complete.
func (d *decoder) openNext() ([]byte, error) {
	if d.buffered() < lengthSize {
		return nil, nil
	}
	begin := d.buffer[d.start:d.end]
	length := binary.BigEndian.Uint32(begin)
	if err := checkPeerLength(length, sealOverhead, d.limit); err != nil {
		return nil, err
	}
	size := lengthSize + int(length)
	if len(begin) < size {
		return nil, nil
	}
	body, err := d.key.openFrame(begin[lengthSize:size:size])
	if err != nil {
		return nil, err
	}
	d.start += size
	binary.BigEndian.PutUint32(begin, uint32(len(body)))
	return begin[:lengthSize+len(body)], nil
}
