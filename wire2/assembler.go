// Messages of the library, out of writes that may be cut anywhere.

package wire2

// An assembler finds complete messages. Its memory grows with what has arrived.
type assembler struct {
	partial []byte // the beginning of the next message
}

// next returns the message that begins in partial and continues in p, and how
// much of p was used. The message is nil if it is not complete; all of p has been
// kept then. messageLen returns the length of the message of which it gets the
// beginning, or 0 if that is too short to tell. The message is valid until reset.
func (a *assembler) next(p []byte, messageLen func([]byte) (int, error)) (message []byte, used int, err error) {
	if len(a.partial) == 0 {
		n, err := messageLen(p)
		if err != nil {
			return nil, 0, err
		}
		if n > 0 && n <= len(p) {
			return p[:n], n, nil // the usual case: nothing is copied
		}
		a.partial = append(a.partial, p...)
		return nil, len(p), nil
	}
	size, err := messageLen(a.partial)
	for err == nil && used < len(p) {
		count := min(max(1, size-len(a.partial)), len(p)-used) // byte by byte until the length is known
		a.partial = append(a.partial, p[used:used+count]...)
		used += count
		if size, err = messageLen(a.partial); size == len(a.partial) {
			break
		}
	}
	if err != nil || size != len(a.partial) {
		return nil, used, err
	}
	return a.partial, used, nil
}

// reset forgets the message that next has returned.
func (a *assembler) reset() {
	a.partial = a.partial[:0]
	if cap(a.partial) > maxKeptBuffer {
		a.partial = nil
	}
}
