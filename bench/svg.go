// The chart for the project's page: panels of bars, as SVG.

package main

import (
	"bytes"
	"cmp"
	"fmt"
	"html"
	"io"
	"slices"
)

// A bar is a contestant's figure.
type bar struct {
	label, text string
	value       float64
	ours        bool
}

// A panel is a set of bars with one scale.
type panel struct {
	title string
	less  bool // less is better
}

const (
	panelSmallTrip = "Round trip of 64 B, median"
	panelLargeTrip = "Round trip of 1 MiB, median"
	panelSmall     = "Stream of 64 B, messages a second"
	panelLarge     = "Stream of 1 MiB, bytes a second"
)

// panels are the chart's, line by line, two in each.
var panels = []panel{{panelSmallTrip, true}, {panelLargeTrip, true}, {panelSmall, false}, {panelLarge, false}}

// draw keeps the figures of a panel for the chart.
func (r *report) draw(s *scores, title string, who []contestant, value func(result) float64, unit func(float64) string) {
	for _, c := range who {
		if v := values(s.results[c.Name], value); len(v) > 0 {
			x := median(v)
			r.bars[title] = append(r.bars[title], bar{label(c), unit(x), x, c.Kind == "gipc"})
		}
	}
}

// Both themes of a page have to read the same file, so the colours are between
// them and the background is the page's.
const (
	ink    = "#768390"
	ours   = "#2f81f7"
	others = "#8b949e"
)

// chart draws the panels, each from its best bar to its worst, from zero.
func (r *report) chart(w io.Writer) error {
	const (
		left, barWide, textWide, gap = 118.0, 212.0, 80.0, 20.0
		wide                         = left + barWide + textWide
		top, step, thick             = 48.0, 20.0, 13.0
		width                        = 2*wide + gap
	)
	var body bytes.Buffer
	text := func(x, y float64, more, s string) {
		fmt.Fprintf(&body, `<text x="%.1f" y="%.1f"%s>%s</text>`+"\n", x, y, more, html.EscapeString(s))
	}
	y := 2.0
	for two := range slices.Chunk(panels, 2) {
		rows := 0
		for i, p := range two {
			bars := slices.SortedStableFunc(slices.Values(r.bars[p.title]), func(a, b bar) int {
				if p.less {
					return cmp.Compare(a.value, b.value)
				}
				return cmp.Compare(b.value, a.value)
			})
			if len(bars) == 0 {
				continue
			}
			x, most, better := float64(i)*(wide+gap), 0.0, "more is better"
			if p.less {
				better = "less is better"
			}
			text(x, y+15, ` font-size="14" font-weight="600"`, p.title)
			text(x, y+32, "", better)
			for _, b := range bars {
				most = max(most, b.value)
			}
			for k, b := range bars {
				at := y + top + float64(k)*step
				weight, colour := "", others
				if b.ours {
					weight, colour = ` font-weight="600"`, ours
				}
				long := max(1.5, barWide*b.value/most)
				text(x+left-8, at+thick-2.5, ` text-anchor="end"`+weight, b.label)
				fmt.Fprintf(&body, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="2" fill="%s"/>`+"\n", x+left, at, long, thick, colour)
				text(x+left+long+6, at+thick-2.5, weight, b.text)
			}
			rows = max(rows, len(bars))
		}
		if rows > 0 {
			y += top + float64(rows)*step + 22
		}
	}
	for _, note := range []string{
		"Two processes over a unix socket. gipc encrypted and raw sealed encrypt, the others do not.",
		"raw is a bare socket with a length prefix, one write a message. gipc streams 64 B by Queue, which collects messages, as libzmq does by itself.",
	} {
		text(0, y+6, ` font-size="11"`, note)
		y += 16
	}
	_, err := fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" width="%.0f" height="%.0f" role="img" font-family="-apple-system, 'Segoe UI', Helvetica, Arial, sans-serif" font-size="12" fill="%s">
<title>gipc beside a raw unix socket and other libraries</title>
%s</svg>
`, width, y, width, y, ink, body.Bytes())
	return err
}
