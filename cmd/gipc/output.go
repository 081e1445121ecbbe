// How messages are printed: as text, in hexadecimal, or as JSON.

package main

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"unicode"
	"unicode/utf8"

	"example.com/gipc"
)

// A format is a value of the flag -o.
type format string

const (
	formatText format = "text"
	formatHex  format = "hex"
	formatJSON format = "json"
)

// outputFlag is the flag -o with the formats that the command has.
type outputFlag struct {
	value   format
	formats []format
}

func (f *outputFlag) define(fs *flag.FlagSet, formats ...format) {
	f.value, f.formats = formats[0], formats
	usage := "`format` of the output: "
	for i, one := range formats {
		if i > 0 {
			usage += ", "
		}
		usage += string(one)
	}
	fs.Var(f, "o", usage)
}

func (f *outputFlag) String() string { return string(f.value) }

func (f *outputFlag) Set(s string) error {
	for _, one := range f.formats {
		if s == string(one) {
			f.value = one
			return nil
		}
	}
	return usagef("not one of its formats")
}

// A record is the JSON form of a message or of a change of status.
type record struct {
	Type     int    `json:"type"`
	Status   string `json:"status,omitempty"` // with type -1
	Length   int    `json:"length"`
	Data     string `json:"data"`               // if it is valid UTF-8
	Base64   string `json:"base64,omitempty"`   // instead of data, if it is not
	Request  bool   `json:"request,omitempty"`  // the peer waits for a reply
	Client   int    `json:"client,omitempty"`   // number of the client, from 1
	Identity string `json:"identity,omitempty"` // the client whose secret was proved
	Error    string `json:"error,omitempty"`    // why the connection was lost
}

func newRecord(m *gipc.Message) record {
	r := record{Type: m.MsgType, Status: m.Status, Length: len(m.Data), Request: m.IsRequest()}
	if utf8.Valid(m.Data) {
		r.Data = string(m.Data)
	} else {
		r.Base64 = base64.StdEncoding.EncodeToString(m.Data)
	}
	if m.Err != nil {
		r.Error = m.Err.Error()
	}
	return r
}

// MarshalJSON leaves data out if there is base64, or a status.
func (r record) MarshalJSON() ([]byte, error) {
	type plain record
	if r.Base64 == "" && r.Status == "" {
		return json.Marshal(plain(r))
	}
	return json.Marshal(struct {
		plain
		Data string `json:"data,omitempty"`
	}{plain: plain(r)})
}

// A printer writes messages to standard output, each by one write. Its methods
// are safe for concurrent use.
type printer struct {
	mu     sync.Mutex
	w      io.Writer
	format format
	quote  bool // the output is a terminal: control characters are quoted
	buf    []byte
}

func newPrinter(w io.Writer, f format) *printer {
	return &printer{w: w, format: f, quote: isTerminal(w)}
}

// print writes the data of a message and a line end, or its record.
func (p *printer) print(r record, data []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch p.format {
	case formatJSON:
		line, err := json.Marshal(r)
		if err != nil {
			return err
		}
		p.buf = append(p.buf[:0], line...)
	case formatHex:
		p.buf = hex.AppendEncode(p.buf[:0], data)
	default:
		p.buf = append(p.buf[:0], data...)
		if p.quote {
			p.buf = appendVisible(p.buf[:0], data)
		}
	}
	p.buf = append(p.buf, '\n')
	if _, err := p.w.Write(p.buf); err != nil {
		return failure("printing a message", err, "")
	}
	if cap(p.buf) > 1<<20 {
		p.buf = nil
	}
	return nil
}

// appendVisible appends data with its control characters quoted, so that a peer
// cannot control the terminal. Tabs and line ends stay.
func appendVisible(dst, data []byte) []byte {
	for len(data) > 0 {
		r, size := utf8.DecodeRune(data)
		switch {
		case r == utf8.RuneError && size == 1:
			dst = fmt.Appendf(dst, `\x%02x`, data[0])
		case r == '\n' || r == '\t' || unicode.IsGraphic(r):
			dst = append(dst, data[:size]...)
		default:
			quoted := strconv.QuoteRuneToASCII(r)
			dst = append(dst, quoted[1:len(quoted)-1]...)
		}
		data = data[size:]
	}
	return dst
}

// isTerminal reports whether w is a character device, such as a terminal.
func isTerminal(w any) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}
