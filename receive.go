// The decoder of the receiving half: bytes in, frames out. No net, no clock, no locks.

package gipc

import "encoding/binary"

const (
	readSize      = 64 << 10 // bytes that one read of the transport requests
	firstReadSize = 4 << 10  // bytes of memory for first reads, and for a frame of which little has arrived
)

// A frame is a decoded frame. The caller owns its data.
type frame struct {
	frameHeader
	data []byte
}

// A destination is the memory for the data of a frame, and the limit of its size.
type destination struct {
	callerMemory []byte // reused if it is large enough and reuse is set
	reuse        bool
	maxSize      int // bytes, as the queue counts them; larger frames are not delivered
}

// A decodeStep is the result of one step of the decoder.
type decodeStep uint8

const (
	frameReady decodeStep = iota
	needBytes             // the next frame is not complete
	needRoom              // the next frame is larger than the destination's maxSize
)

// A decoder converts the bytes of one direction to frames: it opens records, checks
// and splits them, and assembles large data in the memory of the message. Space and
// Received provide input while no record is open; nextFrame returns frames. Memory grows
// with what has arrived, never on the basis of a length field alone. The first error is
// permanent.
type decoder struct {
	cipher      *recordCipher // nil in plaintext
	maxDataSize int           // largest data that this side accepts, in bytes
	buffers     *bufferPool

	input         *buffer // bytes of the stream; those before inputPos are decoded
	inputPos      int
	inputNeed     int         // bytes of input, from inputPos on, that the next step needs
	largeReads    bool        // a read has filled firstReadSize, so later ones request readSize
	largePending  bool        // the header of a large frame is decoded, and its data is not
	readLimit     int         // bytes that the unread messages may still take; 0 is no limit. A read requests no more, except 4 KiB or what the next step needs
	plaintext     []byte      // frames of the open record that are not decoded, in input: a record is opened in place
	largeFrame    *largeFrame // the frame, while largePending is set; nil before the first one
	largestRecord int         // size of the largest record that has arrived, in bytes
	lastRequest   uint64      // number of the last request
	decodeErr     error
}

// A largeFrame is a large frame whose header is decoded and whose data is pending.
type largeFrame struct {
	inCallerMemory bool // data is in the memory of a ReadInto
	header         frameHeader
	data           []byte // the part that has arrived; plaintext connections only
}

// nextFrame sets f to the next frame, or returns what it needs first. Parameters are
// pointers, because copies took a third of the time of a small message.
func (d *decoder) nextFrame(to *destination, f *frame) (decodeStep, error) {
	if d.decodeErr != nil {
		return needBytes, d.decodeErr
	}
	step, err := d.decodeFrame(to, f)
	if err != nil {
		d.decodeErr, *f = err, frame{}
	}
	return step, err
}

func (d *decoder) decodeFrame(to *destination, f *frame) (decodeStep, error) {
	switch {
	case d.largePending && !to.accepts(d.largeFrame.header):
		return needRoom, nil
	case d.largePending && d.cipher == nil:
		return d.finishLarge(to, f)
	case d.largePending:
		return d.openLarge(to, f)
	case d.cipher == nil:
		return d.decodePlain(to, f)
	}
	if d.plaintext == nil {
		if done, err := d.openRecord(); !done {
			return needBytes, err
		}
	}
	return d.decodeOpened(to, f)
}

// decodePlain decodes one frame of a plaintext connection.
func (d *decoder) decodePlain(to *destination, f *frame) (decodeStep, error) {
	have := d.undecoded()
	header, need, err := parseFrameHeader(have, d.maxDataSize)
	if d.inputNeed = need; err != nil || len(have) < need {
		return needBytes, err
	}
	if !to.accepts(header) {
		return needRoom, nil
	}
	end := need + header.dataSize
	if len(have) >= end {
		d.inputPos += end
		return frameReady, d.copyFrame(to, f, header, have[need:end])
	}
	if !header.isLarge() {
		d.inputNeed = end
		return needBytes, nil
	}
	d.inputPos += need
	d.beginLarge(header)
	if memory := to.memoryFor(header); cap(memory) >= header.dataSize {
		d.largeFrame.data, d.largeFrame.inCallerMemory = memory, true
	} else {
		d.largeFrame.data = make([]byte, 0, growthSize(len(have), header.dataSize))
	}
	return d.finishLarge(to, f)
}

// beginLarge records that the header of a large frame is decoded.
func (d *decoder) beginLarge(header frameHeader) {
	if d.largeFrame == nil {
		d.largeFrame = new(largeFrame)
	}
	*d.largeFrame, d.largePending = largeFrame{header: header}, true
}

// endLarge records that the data of a large frame is complete.
func (d *decoder) endLarge() { *d.largeFrame, d.largePending = largeFrame{}, false }

// finishLarge moves what has arrived into the data of a large frame in
// plaintext, and returns the frame once its data is complete.
func (d *decoder) finishLarge(to *destination, f *frame) (decodeStep, error) {
	large := d.largeFrame
	have := d.undecoded()
	have = have[:min(len(have), large.header.dataSize-len(large.data))]
	large.data = append(large.data, have...)
	if d.inputPos += len(have); len(large.data) < large.header.dataSize {
		return needBytes, nil
	}
	*f = frame{large.header, large.data}
	if memory := to.memoryFor(f.frameHeader); !large.inCallerMemory && cap(memory) >= len(f.data) {
		f.data = append(memory, f.data...)
	}
	d.endLarge()
	d.inputNeed = lengthSize
	return frameReady, d.checkFrame(f)
}

// openRecord opens the record of frames at the front of the input. It returns false if
// the record is not complete.
func (d *decoder) openRecord() (bool, error) {
	sealed, err := d.sealedRecord(headerSize, maxPlaintext)
	if sealed == nil {
		return false, err
	}
	d.plaintext, err = d.cipher.open(sealed[:0:len(sealed)], sealed)
	return err == nil, err
}

// sealedRecord consumes the record at the front of the input, and returns it without
// its length field, or nil if it is not complete. Its plaintext must have least to
// most bytes. The length field is checked as soon as it has arrived.
func (d *decoder) sealedRecord(least, most int) ([]byte, error) {
	have := d.undecoded()
	if d.inputNeed = lengthSize; len(have) < lengthSize {
		return nil, nil
	}
	length := uint64(binary.BigEndian.Uint32(have))
	if length < uint64(least)+sealOverhead || length > uint64(most)+sealOverhead {
		return nil, newError(ErrMalformed, nil, "a record's length is %d, expected %d to %d", length, least+sealOverhead, most+sealOverhead)
	}
	if d.inputNeed = lengthSize + int(length); len(have) < d.inputNeed {
		return nil, nil
	}
	d.inputPos += d.inputNeed
	d.largestRecord = max(d.largestRecord, d.inputNeed)
	return have[lengthSize:d.inputNeed], nil
}

// decodeOpened decodes one frame of the open record.
func (d *decoder) decodeOpened(to *destination, f *frame) (decodeStep, error) {
	plain := d.plaintext
	header, need, err := parseFrameHeader(plain, d.maxDataSize)
	if err == nil && len(plain) < need {
		err = newError(ErrMalformed, nil, "a record ends inside a frame")
	}
	if err != nil {
		return needBytes, err
	}
	if !to.accepts(header) {
		return needRoom, nil
	}
	if header.isLarge() {
		if len(plain) > need {
			return needBytes, newError(ErrMalformed, nil, "bytes behind the head of a large frame")
		}
		if err := d.checkID(header); err != nil {
			return needBytes, err
		}
		d.closeRecord()
		d.beginLarge(header)
		return d.openLarge(to, f)
	}
	end := need + header.dataSize
	if len(plain) < end {
		return needBytes, newError(ErrMalformed, nil, "a record ends inside a frame")
	}
	err = d.copyFrame(to, f, header, plain[need:end])
	if d.plaintext = plain[end:]; len(d.plaintext) == 0 {
		d.closeRecord()
	}
	return frameReady, err
}

// openLarge opens the record with the data of a large frame, directly into the memory
// of the message.
func (d *decoder) openLarge(to *destination, f *frame) (decodeStep, error) {
	header := d.largeFrame.header
	sealed, err := d.sealedRecord(header.dataSize, header.dataSize)
	if sealed == nil {
		return needBytes, err
	}
	memory := to.memoryFor(header)
	if cap(memory) < header.dataSize {
		memory = make([]byte, 0, header.dataSize)
	}
	data, err := d.cipher.open(memory, sealed)
	if err != nil {
		return needBytes, err
	}
	d.endLarge()
	*f = frame{header, data}
	return frameReady, checkData(f)
}

// closeRecord ends a record whose frames are all decoded.
func (d *decoder) closeRecord() { d.plaintext, d.inputNeed = nil, lengthSize }

// accepts reports whether a frame may be delivered. Control frames and replies always
// are, because they are not queued.
func (to *destination) accepts(h frameHeader) bool {
	return h.dataSize+messageOverhead <= to.maxSize || h.frameType == controlType || h.isReply()
}

// readLimit returns the readLimit of a decoder for messages that go to to.
func (to *destination) readLimit() int {
	if to.maxSize == unlimited {
		return 0
	}
	return max(to.maxSize, 1)
}

// memoryFor returns the caller's memory, emptied, if it may be used for the data of a
// frame, or nil. Replies are not for the caller.
func (to *destination) memoryFor(h frameHeader) []byte {
	if !to.reuse || h.frameType == controlType || h.isReply() {
		return nil
	}
	return to.callerMemory[:0]
}

// copyFrame sets f to a frame whose data is copied out of the decoder's memory.
func (d *decoder) copyFrame(to *destination, f *frame, h frameHeader, view []byte) error {
	f.frameType, f.id, f.dataSize, f.data = h.frameType, h.id, h.dataSize, view // field by field, because copying f costs more
	if err := d.checkFrame(f); err != nil {
		return err
	}
	memory := to.memoryFor(h)
	if memory == nil {
		memory = make([]byte, 0, len(view))
	}
	f.data = append(memory, view...)
	return nil
}

// checkID checks the id of a frame, if it has one. The requests of a direction are
// numbered 1, 2, 3, so it must be called once for each frame.
func (d *decoder) checkID(h frameHeader) error {
	switch {
	case !h.hasID():
		return nil
	case h.id == replyFlag:
		return newError(ErrMalformed, nil, "a reply to request 0")
	case h.isReply():
		return nil
	case h.id != d.lastRequest+1:
		return newError(ErrMalformed, nil, "request %d, expected %d", h.id, d.lastRequest+1)
	}
	d.lastRequest++
	return nil
}

// checkFrame makes the checks of a complete frame.
func (d *decoder) checkFrame(f *frame) error {
	if f.isPlainMessage() {
		return nil // most frames are; this function is inlined, which saves 3 ns of 40
	}
	return d.checkSpecialFrame(f)
}

func (d *decoder) checkSpecialFrame(f *frame) error {
	if err := d.checkID(f.frameHeader); err != nil {
		return err
	}
	return checkData(f)
}

// checkData checks the data of a control frame.
func checkData(f *frame) error {
	if f.frameType == controlType {
		_, err := parseControl(f.data)
		return err
	}
	return nil
}

// undecoded returns the bytes of the input that are not decoded.
func (d *decoder) undecoded() []byte {
	if d.input == nil {
		return nil
	}
	return d.input.data[d.inputPos:]
}

// bufferedBytes returns the number of bytes that are not decoded.
func (d *decoder) bufferedBytes() int {
	return len(d.undecoded()) + len(d.plaintext)
}

// isIdle reports whether there is nothing to decode.
func (d *decoder) isIdle() bool { return d.decodeErr == nil && !d.isInsideFrame() }

// hasOpenRecord reports whether a record has frames that are not decoded.
func (d *decoder) hasOpenRecord() bool { return d.plaintext != nil }

// isInsideFrame reports whether a part of a frame has arrived.
func (d *decoder) isInsideFrame() bool { return d.largePending || d.bufferedBytes() > 0 }

// Space returns the memory for the next read of the stream. It is never empty. No
// record may be open.
func (d *decoder) Space() []byte {
	if large := d.largeFrame; d.largePending && d.cipher == nil {
		if len(large.data) == cap(large.data) {
			larger := make([]byte, len(large.data), growthSize(len(large.data), large.header.dataSize))
			copy(larger, large.data)
			large.data = larger
		}
		return large.data[len(large.data):min(cap(large.data), large.header.dataSize)]
	}
	size := firstReadSize // allocating more would cost time for each connection that sends little
	if d.largeReads && (d.readLimit == 0 || d.readLimit >= readSize) {
		size = readSize
	}
	if d.input == nil {
		d.input, d.inputPos = d.buffers.get(size), 0
	}
	in := d.input
	have := in.data[d.inputPos:]
	if len(have) == 0 || d.inputPos > 0 && (d.inputPos+d.inputNeed > cap(in.data) || len(in.data) == cap(in.data)) {
		in.data, d.inputPos = in.data[:copy(in.data, have)], 0
	}
	if cap(in.data) < size || len(in.data) == cap(in.data) {
		d.input = d.buffers.grow(in, max(size, len(in.data)+1, d.nextInputSize(cap(in.data))))
	}
	space := d.input.data[len(d.input.data):cap(d.input.data)]
	if d.readLimit > 0 {
		space = space[:min(len(space), max(firstReadSize, d.readLimit, d.inputPos+d.inputNeed-len(d.input.data)))]
	}
	return space
}

// nextInputSize returns the size to which an input of size bytes may grow for the next
// step.
func (d *decoder) nextInputSize(size int) int {
	if d.inputNeed <= d.largestRecord || size >= d.inputNeed/2 {
		return d.inputNeed // at once, because a record of that size, or half of this one, has arrived
	}
	return 2 * size // < d.inputNeed: no overflow
}

// Received adds n bytes that were read into Space to the input.
func (d *decoder) Received(n int) {
	if large := d.largeFrame; d.largePending && d.cipher == nil {
		large.data = large.data[:len(large.data)+n]
	} else {
		d.input.data = d.input.data[:len(d.input.data)+n]
		d.largeReads = d.largeReads || len(d.input.data) >= firstReadSize
	}
}

// preload adds bytes that arrived behind the handshake to the input.
func (d *decoder) preload(b []byte) {
	if len(b) > 0 {
		d.input, d.inputPos = d.buffers.get(len(b)), 0
		d.input.data = append(d.input.data, b...)
	}
}

// Release releases memory before a wait: an idle connection holds none, and one that
// waits for the rest of a small frame holds 4 KiB.
func (d *decoder) Release() {
	have := d.undecoded()
	if d.input == nil || len(have) > firstReadSize || len(have) > 0 && cap(d.input.data) < readSize {
		return
	}
	d.input, d.inputPos = d.buffers.shrink(d.input, d.inputPos)
}

// releaseUnused releases the memory that the undecoded bytes do not need, before a
// pause of unknown length.
func (d *decoder) releaseUnused() {
	if d.input == nil {
		return
	}
	opened := 0 // bytes before inputPos that are in use
	if d.plaintext != nil {
		opened = len(d.plaintext) + sealOverhead // a record that was opened in place ends with as many unused bytes
	}
	var start int
	d.input, start = d.buffers.shrink(d.input, d.inputPos-opened)
	d.inputPos = start + opened
	if d.plaintext != nil {
		d.plaintext = d.input.data[start : start+len(d.plaintext)]
	}
}

// releaseCallerMemory ends the use of the memory of a ReadInto that is about to return.
// The rest of the frame is assembled in new memory.
func (d *decoder) releaseCallerMemory() {
	if d.largePending && d.largeFrame.inCallerMemory {
		d.largeFrame.data, d.largeFrame.inCallerMemory = append([]byte(nil), d.largeFrame.data...), false
	}
}

// releaseMemory releases all memory and discards its contents.
func (d *decoder) releaseMemory() {
	if d.input != nil {
		d.buffers.put(d.input)
	}
	d.input, d.plaintext, d.largeFrame, d.largePending = nil, nil, nil, false
}

// growthSize returns how much memory to allocate for data of size bytes of which have
// bytes have arrived. It is at least 1.
func growthSize(have, size int) int {
	if have >= size/4 {
		return size
	}
	return min(size, max(firstReadSize, 4*have)) // 4*have < size: no overflow
}
