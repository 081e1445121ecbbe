// The receiving half: bytes in, frames out. No net, no clock, no locks.

package gipc

import "encoding/binary"

const (
	readSize   = 64 << 10 // bytes that one read of the transport asks for
	firstChunk = 4 << 10  // memory for a frame of which little has arrived, and for first reads, in bytes
)

// A frame is what the decoder returns. Its data belongs to the caller.
type frame struct {
	frameHeader
	data []byte
}

// A destination says where the decoder puts the data of a frame, and how much
// it may deliver.
type destination struct {
	memory []byte // reused if it is large enough and reuse is set
	reuse  bool
	room   int // bytes, counted as the queue counts them; larger frames stay undelivered
}

// A decodeStep says what the decoder needs, or that it has a frame.
type decodeStep uint8

const (
	frameReady decodeStep = iota
	needBytes             // more bytes must come
	needRoom              // the next frame does not fit into the destination's room
)

// A decoder turns the bytes of one direction into frames: it opens records,
// checks and splits them, and assembles large data in the memory of the message.
// space and received feed it; next returns frames. Memory grows with what has
// arrived, never with what a length field announces. After an error it stays in
// that error.
type decoder struct {
	cipher *recordCipher // nil in plaintext
	limit  int           // largest data that this side accepts, in bytes
	pool   *bufferPool

	input   *buffer // bytes of the stream; those before inputAt are decoded
	inputAt int
	inputTo int     // bytes of input, from inputAt on, that the next step needs
	busy    bool    // a read has filled firstChunk, so the next ones ask for readSize
	opened  *buffer // plaintext of the last record; those before openAt are decoded
	openAt  int
	large   largeFrame
	largest int    // largest record that has arrived, in bytes
	request uint64 // number of the last request
	failure error
}

// A largeFrame is one whose header has been decoded and whose data is due.
type largeFrame struct {
	due      bool
	borrowed bool // data is in the memory of a ReadInto
	header   frameHeader
	data     []byte // what has arrived; plaintext connections only
}

// next sets f to the next frame, or says what it needs first. Results go through
// pointers, since copies of them were a third of the time of a small message.
func (d *decoder) next(to *destination, f *frame) (decodeStep, error) {
	if d.failure != nil {
		return needBytes, d.failure
	}
	step, err := d.decode(to, f)
	if err != nil {
		d.failure, *f = err, frame{}
	}
	return step, err
}

func (d *decoder) decode(to *destination, f *frame) (decodeStep, error) {
	switch {
	case d.large.due && !to.takes(d.large.header):
		return needRoom, nil
	case d.large.due && d.cipher == nil:
		return d.finishLarge(to, f)
	case d.large.due:
		return d.openLarge(to, f)
	case d.cipher == nil:
		return d.decodePlain(to, f)
	}
	if d.opened == nil {
		if done, err := d.openRecord(); !done {
			return needBytes, err
		}
	}
	return d.decodeOpened(to, f)
}

// decodePlain decodes one frame of a plaintext connection.
func (d *decoder) decodePlain(to *destination, f *frame) (decodeStep, error) {
	have := d.undecoded()
	header, need, err := parseFrameHeader(have, d.limit)
	if d.inputTo = need; err != nil || len(have) < need {
		return needBytes, err
	}
	if !to.takes(header) {
		return needRoom, nil
	}
	end := need + header.dataSize
	if len(have) >= end {
		d.inputAt += end
		return frameReady, d.deliver(to, f, header, have[need:end])
	}
	if !header.isLarge() {
		d.inputTo = end
		return needBytes, nil
	}
	d.inputAt += need
	d.large = largeFrame{due: true, header: header}
	if memory := to.memoryFor(header); cap(memory) >= header.dataSize {
		d.large.data, d.large.borrowed = memory, true
	} else {
		d.large.data = make([]byte, 0, grownSize(len(have), header.dataSize))
	}
	return d.finishLarge(to, f)
}

// finishLarge moves what has arrived into the data of a large frame in
// plaintext, and returns the frame once its data is complete.
func (d *decoder) finishLarge(to *destination, f *frame) (decodeStep, error) {
	large := &d.large
	have := d.undecoded()
	have = have[:min(len(have), large.header.dataSize-len(large.data))]
	large.data = append(large.data, have...)
	if d.inputAt += len(have); len(large.data) < large.header.dataSize {
		return needBytes, nil
	}
	*f = frame{large.header, large.data}
	if memory := to.memoryFor(f.frameHeader); !large.borrowed && cap(memory) >= len(f.data) {
		f.data = append(memory, f.data...)
	}
	d.large, d.inputTo = largeFrame{}, lengthSize
	return frameReady, d.checkFrame(f)
}

// openRecord opens the record of frames at the front of the input. It returns
// false if the record is not complete.
func (d *decoder) openRecord() (bool, error) {
	sealed, err := d.record(headerSize, maxPlaintext)
	if sealed == nil {
		return false, err
	}
	opened := d.pool.get(len(sealed) - sealOverhead)
	if opened.b, err = d.cipher.open(opened.b, sealed); err != nil {
		return false, err
	}
	d.opened, d.openAt = opened, 0
	return true, nil
}

// record returns what the record at the front of the input has behind its
// length field, and nil if it is not complete. The plaintext has least to most
// bytes; the length field is checked as soon as its bytes are there.
func (d *decoder) record(least, most int) ([]byte, error) {
	have := d.undecoded()
	if d.inputTo = lengthSize; len(have) < lengthSize {
		return nil, nil
	}
	length := uint64(binary.BigEndian.Uint32(have))
	if length < uint64(least)+sealOverhead || length > uint64(most)+sealOverhead {
		return nil, fail(ErrMalformed, nil, "a record's length is %d, and %d to %d is due", length, least+sealOverhead, most+sealOverhead)
	}
	if d.inputTo = lengthSize + int(length); len(have) < d.inputTo {
		return nil, nil
	}
	d.inputAt += d.inputTo
	d.largest = max(d.largest, d.inputTo)
	return have[lengthSize:d.inputTo], nil
}

// decodeOpened decodes one frame of the record that is open.
func (d *decoder) decodeOpened(to *destination, f *frame) (decodeStep, error) {
	plain := d.opened.b[d.openAt:]
	header, need, err := parseFrameHeader(plain, d.limit)
	if err == nil && len(plain) < need {
		err = fail(ErrMalformed, nil, "a record ends inside a frame")
	}
	if err != nil {
		return needBytes, err
	}
	if !to.takes(header) {
		return needRoom, nil
	}
	if header.isLarge() {
		if len(plain) > need {
			return needBytes, fail(ErrMalformed, nil, "bytes behind the head of a large frame")
		}
		if err := d.checkID(header); err != nil {
			return needBytes, err
		}
		d.closeRecord()
		d.large = largeFrame{due: true, header: header}
		return d.openLarge(to, f)
	}
	end := need + header.dataSize
	if len(plain) < end {
		return needBytes, fail(ErrMalformed, nil, "a record ends inside a frame")
	}
	err = d.deliver(to, f, header, plain[need:end])
	if d.openAt += end; d.openAt == len(d.opened.b) {
		d.closeRecord()
	}
	return frameReady, err
}

// openLarge opens the data of a large frame, straight into the memory of the
// message.
func (d *decoder) openLarge(to *destination, f *frame) (decodeStep, error) {
	header := d.large.header
	sealed, err := d.record(header.dataSize, header.dataSize)
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
	d.large = largeFrame{}
	*f = frame{header, data}
	return frameReady, checkData(f)
}

// closeRecord gives back the memory of a record whose frames are all decoded.
func (d *decoder) closeRecord() {
	d.pool.put(d.opened)
	d.opened, d.openAt, d.inputTo = nil, 0, lengthSize
}

// takes reports whether a frame fits into the room. Control frames and replies
// always do, since they are not queued.
func (to *destination) takes(h frameHeader) bool {
	return h.dataSize+messageOverhead <= to.room || h.frameType == controlType || h.isReply()
}

// memoryFor returns the caller's memory, emptied, if it may hold the data of a frame:
// that of a reply is for somebody else.
func (to *destination) memoryFor(h frameHeader) []byte {
	if !to.reuse || h.frameType == controlType || h.isReply() {
		return nil
	}
	return to.memory[:0]
}

// deliver sets f to a frame whose data is copied out of the decoder's memory.
func (d *decoder) deliver(to *destination, f *frame, h frameHeader, view []byte) error {
	f.frameType, f.id, f.dataSize, f.data = h.frameType, h.id, h.dataSize, view // a copy of f costs more
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

// checkID checks the id of a frame, if it has one, once: the requests of a direction
// are numbered 1, 2, 3.
func (d *decoder) checkID(h frameHeader) error {
	switch {
	case h.frameType&requestFlag == 0:
		return nil
	case h.id == replyFlag:
		return fail(ErrMalformed, nil, "a reply to request 0")
	case h.isReply():
		return nil
	case h.id != d.request+1:
		return fail(ErrMalformed, nil, "request %d, and %d is due", h.id, d.request+1)
	}
	d.request++
	return nil
}

// checkFrame checks what can be checked once a frame is complete.
func (d *decoder) checkFrame(f *frame) error {
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
	return d.input.b[d.inputAt:]
}

// buffered returns how many bytes wait to be decoded.
func (d *decoder) buffered() int {
	n := len(d.undecoded())
	if d.opened != nil {
		n += len(d.opened.b) - d.openAt
	}
	return n
}

// idle reports whether nothing has come that is not decoded.
func (d *decoder) idle() bool {
	return d.failure == nil && d.input == nil && d.opened == nil && !d.large.due
}

// recordOpen reports whether frames of a record wait to be decoded.
func (d *decoder) recordOpen() bool { return d.opened != nil }

// inside reports whether the stream stands inside a frame.
func (d *decoder) inside() bool { return d.large.due || d.buffered() > 0 }

// Space returns where the next read of the stream goes. It is never empty.
func (d *decoder) Space() []byte {
	if large := &d.large; large.due && d.cipher == nil {
		if len(large.data) == cap(large.data) {
			larger := make([]byte, len(large.data), grownSize(len(large.data), large.header.dataSize))
			copy(larger, large.data)
			large.data = larger
		}
		return large.data[len(large.data):min(cap(large.data), large.header.dataSize)]
	}
	size := firstChunk // larger memory, made for each connection that says little, would cost time
	if d.busy {
		size = readSize
	}
	if d.input == nil {
		d.input, d.inputAt = d.pool.get(size), 0
	}
	in := d.input
	have := in.b[d.inputAt:]
	if len(have) == 0 || d.inputAt > 0 && (d.inputAt+d.inputTo > cap(in.b) || len(in.b) == cap(in.b)) {
		in.b, d.inputAt = in.b[:copy(in.b, have)], 0
	}
	if cap(in.b) < size || len(in.b) == cap(in.b) {
		d.input = d.pool.grow(in, max(size, len(in.b)+1, d.nextSize(cap(in.b))))
	}
	return d.input.b[len(d.input.b):cap(d.input.b)]
}

// nextSize returns how large an input of size bytes may become for the next step.
func (d *decoder) nextSize(size int) int {
	if d.inputTo <= d.largest || size >= d.inputTo/2 {
		return d.inputTo // as much has arrived before, or nearly: no more steps
	}
	return 2 * size // < d.inputTo: no overflow
}

// Received takes in n bytes that were read into space.
func (d *decoder) Received(n int) {
	if large := &d.large; large.due && d.cipher == nil {
		large.data = large.data[:len(large.data)+n]
	} else {
		d.input.b = d.input.b[:len(d.input.b)+n]
		d.busy = d.busy || len(d.input.b) >= firstChunk
	}
}

// preload takes in bytes that arrived behind the handshake.
func (d *decoder) preload(b []byte) {
	if len(b) > 0 {
		d.input, d.inputAt = d.pool.get(len(b)), 0
		d.input.b = append(d.input.b, b...)
	}
}

// Release gives back memory before a wait: an idle connection holds none, and
// one that waits for the rest of a frame holds little.
func (d *decoder) Release() {
	have := d.undecoded()
	if d.input == nil || len(have) > firstChunk || len(have) > 0 && cap(d.input.b) < readSize {
		return
	}
	large := d.input
	d.input, d.inputAt = nil, 0
	d.preload(have)
	d.pool.put(large)
}

// returnMemory ends the use of a ReadInto's memory, whose call is over. The
// frame goes on in memory of its own.
func (d *decoder) returnMemory() {
	if d.large.borrowed {
		d.large.data, d.large.borrowed = append([]byte(nil), d.large.data...), false
	}
}

// end gives back all memory.
func (d *decoder) end() {
	if d.input != nil {
		d.pool.put(d.input)
	}
	if d.opened != nil {
		d.pool.put(d.opened)
	}
	d.input, d.opened, d.large = nil, nil, largeFrame{}
}

// grownSize returns how much memory to make for data of size bytes of which have
// bytes have arrived. It is at least 1.
func grownSize(have, size int) int {
	if have >= size/4 {
		return size
	}
	return min(size, max(firstChunk, 4*have)) // 4*have < size: no overflow
}
