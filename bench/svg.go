// The chart for the project's page: three panels of bars, as SVG.

package main

import (
	"bufio"
	"fmt"
	"html"
	"io"
	"math"
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
	panelRoundTrip = "Round trip of 64 B, median"
	panelSmall     = "Stream of 64 B messages"
	panelLarge     = "Stream of 1 MiB messages"
)

var panels = []panel{{panelRoundTrip, true}, {panelSmall, false}, {panelLarge, false}}

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
	ink   = "#768390"
	ourly = "#2f81f7"
	other = "#8b949e"
)

// chart draws the panels side by side, each from its best bar to its worst, on a
// logarithmic scale: the figures lie too far apart for another one.
func (r *report) chart(w io.Writer) error {
	const (
		left, barWide, textWide, gap = 116.0, 170.0, 74.0, 14.0
		top, step, thick             = 58.0, 23.0, 15.0
	)
	wide := left + barWide + textWide
	rows := 0
	var shown []panel
	for _, p := range panels {
		if n := len(r.bars[p.title]); n > 0 {
			shown = append(shown, p)
			rows = max(rows, n)
		}
	}
	width, height := float64(len(shown))*(wide+gap)-gap, top+float64(rows)*step+30
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" width="%.0f" height="%.0f" role="img" font-family="-apple-system, 'Segoe UI', Helvetica, Arial, sans-serif" font-size="12" fill="%s">`+"\n",
		width, height, width, height, ink)
	fmt.Fprintln(out, "<title>gipc beside a raw unix socket and other libraries</title>")
	text := func(x, y float64, more, s string) {
		fmt.Fprintf(out, `<text x="%.1f" y="%.1f"%s>%s</text>`+"\n", x, y, more, html.EscapeString(s))
	}
	for i, p := range shown {
		x := float64(i) * (wide + gap)
		bars := slices.Clone(r.bars[p.title])
		slices.SortStableFunc(bars, func(a, b bar) int {
			if (a.value < b.value) == p.less {
				return -1
			}
			return 1
		})
		better := "longer is better"
		if p.less {
			better = "shorter is better"
		}
		text(x, 18, ` font-size="14" font-weight="600"`, p.title)
		text(x, 36, "", better)
		least, most := math.Inf(1), 0.0
		for _, b := range bars {
			least, most = min(least, b.value), max(most, b.value)
		}
		low := least / 1.6 // the shortest bar still is one
		for k, b := range bars {
			y := top + float64(k)*step
			weight, colour := "", other
			if b.ours {
				weight, colour = ` font-weight="600"`, ourly
			}
			long := barWide * math.Log(b.value/low) / math.Log(most/low)
			text(x+left-8, y+thick-3, ` text-anchor="end"`+weight, b.label)
			fmt.Fprintf(out, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="2" fill="%s"/>`+"\n", x+left, y, long, thick, colour)
			text(x+left+long+6, y+thick-3, weight, b.text)
		}
	}
	text(0, height-8, ` font-size="11"`, "Two processes over a unix socket. Logarithmic scale. Only gipc encrypted and raw sealed encrypt.")
	fmt.Fprintln(out, "</svg>")
	return out.Flush()
}
