// Lines of standard input, of any length.

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// maxMessage is the largest data that any peer can accept.
const maxMessage = 1 << 30

// A lineReader returns the lines of a stream. The last one may lack its line feed.
type lineReader struct {
	r      *bufio.Reader
	number int // of the line that was returned last, from 1
	line   []byte
}

func newLineReader(r io.Reader) *lineReader { return &lineReader{r: bufio.NewReaderSize(r, 64<<10)} }

// next returns the next line without its line feed, and io.EOF after
// the last one. The line is valid until the next call.
func (l *lineReader) next() ([]byte, error) {
	l.line = l.line[:0]
	for {
		part, err := l.r.ReadSlice('\n')
		l.line = append(l.line, part...)
		switch {
		case len(l.line) > maxMessage+1:
			return nil, fmt.Errorf("line %d: it has more than %d bytes, the largest message of any server: send a file in parts", l.number+1, maxMessage)
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err == nil, errors.Is(err, io.EOF) && len(l.line) > 0:
			l.number++
			return bytes.TrimSuffix(l.line, []byte("\n")), nil
		default:
			return nil, err
		}
	}
}

// hasLine reports whether next will return without reading from the stream.
func (l *lineReader) hasLine() bool {
	buffered, _ := l.r.Peek(l.r.Buffered())
	return bytes.IndexByte(buffered, '\n') >= 0
}
