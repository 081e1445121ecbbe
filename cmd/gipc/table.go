// Tables, and a progress line for people who wait.

package main

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// A table is rows of cells. The first row is the heading.
type table [][]string

// widths returns the width of each column.
func (t table) widths() []int {
	widths := make([]int, len(t[0]))
	for _, row := range t {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	return widths
}

// right returns the table as text, with columns that are aligned to the right.
func (t table) right() string { return t.text(true) }

// left returns the table as text, with columns that are aligned to the left.
func (t table) left() string { return t.text(false) }

func (t table) text(right bool) string {
	var b strings.Builder
	for _, row := range t {
		var line strings.Builder
		for i, width := range t.widths() {
			space := strings.Repeat(" ", width-utf8.RuneCountInString(row[i]))
			if i > 0 {
				line.WriteString("  ")
			}
			if right {
				line.WriteString(space + row[i])
			} else {
				line.WriteString(row[i] + space)
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return b.String()
}

// A progress is a line on a terminal that is written again and again. On
// anything else it is nothing.
type progress struct {
	w    io.Writer // nil: not a terminal
	last time.Time
	text string
}

func newProgress(w io.Writer) *progress {
	if !isTerminal(w) {
		return &progress{}
	}
	return &progress{w: w}
}

// show writes the line, at most ten times a second.
func (p *progress) show(format string, args ...any) {
	if p.w == nil || time.Since(p.last) < 100*time.Millisecond {
		return
	}
	p.last = time.Now()
	if text := fmt.Sprintf(format, args...); text != p.text {
		p.text = text
		fmt.Fprint(p.w, "\r\x1b[K"+text)
	}
}

// clear removes the line.
func (p *progress) clear() {
	if p.text != "" {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.text = ""
	}
}
