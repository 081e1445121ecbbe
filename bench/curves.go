// Curves: how the time of a message changes with clients, sizes and writers.

package main

import "fmt"

// curve adds a table with a line for each point, and a column for each
// contestant: the median time of a message, and how many times the first
// column's that is.
func (b *bench) curve(title, about, x string, who []contestant, points []string, at func(point int, who contestant) (*scores, string)) {
	t := table{title: title, about: about, head: []string{x}}
	for _, c := range who {
		t.head = append(t.head, c.Name)
	}
	for i, point := range points {
		line := []string{point}
		var base []float64
		for k, c := range who {
			s, name := at(i, c)
			if err := s.failed[name]; err != nil {
				b.report.failure(fmt.Sprintf("%s, %s, %s", title, point, c.Name), err)
				line = append(line, "failed")
				continue
			}
			v := values(s.results[name], each)
			text := span(median(v))
			if k == 0 {
				base = v
			} else if len(base) == len(v) {
				ratios := make([]float64, len(v))
				for j := range v {
					ratios[j] = v[j] / base[j]
				}
				text += " (" + short(median(ratios)) + ")"
			}
			line = append(line, text)
		}
		t.rows = append(t.rows, line)
	}
	b.report.others = append(b.report.others, t)
}

const curveRounds = 5

func (b *bench) curveOfClients(name string) {
	who := []contestant{rawSealed, pooled("Serve"), pooled("Messages")}
	var points []string
	var all []*scores
	clients := []int{1, 10, 100, 1000}
	if n := b.most(name, b.idle); n > 1000 {
		clients = append(clients, n)
	}
	for _, n := range clients {
		var turns []turn
		for _, c := range who {
			turns = append(turns, turn{who: c.with(n), order: order{Do: "trips", Size: 64, For: 2 * b.slice}})
		}
		points = append(points, thousands(n))
		all = append(all, b.alternate(curveRounds, turns...))
	}
	b.curve("Clients", "Time of a round trip of 64 B at the server while all clients of one process ping-pong at once, encrypted.", "clients", who, points,
		func(i int, c contestant) (*scores, string) { return all[i], c.with(clients[i]).Name })
}

func (b *bench) curveOfSizes(string) {
	who := []contestant{raw, plain, rawSealed, encrypted}
	for i := range who {
		who[i].MaxSize = 64 * miB
	}
	var points []string
	var turns []turn
	sizes := []int{64, kiB, 16 * kiB, 256 * kiB, miB, 4 * miB, 16 * miB, 64 * miB}
	turnName := func(i int, c contestant) string { return fmt.Sprint(c.Name, sizes[i]) }
	for i, size := range sizes {
		points = append(points, sizeName(size))
		for _, c := range who {
			turns = append(turns, turn{who: c, order: order{Do: "stream", Size: size}, name: turnName(i, c)})
		}
	}
	s := b.alternate(curveRounds, turns...)
	b.curve("Sizes", "Time of a message when one side streams, each by a Write of its own.", "size", who, points,
		func(i int, c contestant) (*scores, string) { return s, turnName(i, c) })
}

func (b *bench) curveOfWriters(string) {
	who := []contestant{rawSealed, encrypted, raw, plain}
	var points []string
	var turns []turn
	turnName := func(i int, c contestant) string { return fmt.Sprint(c.Name, i) }
	for i := range 7 {
		points = append(points, fmt.Sprint(1<<i))
		for _, c := range who {
			turns = append(turns, turn{who: c, order: order{Do: "stream", Size: 64, Writers: 1 << i, For: b.slice / 2}, name: turnName(i, c)})
		}
	}
	s := b.alternate(curveRounds, turns...)
	b.curve("Writers", "Time of a message of 64 B when so many goroutines write to one connection; raw's share a lock.", "writers", who, points,
		func(i int, c contestant) (*scores, string) { return s, turnName(i, c) })
}

func (b *bench) curveOfCallers(string) {
	who := b.and(procedures, callEncrypted, callPlain)
	var points []string
	var turns []turn
	numbers := []int{1, 4, 16, 64}
	turnName := func(i int, c contestant) string { return fmt.Sprint(c.Name, numbers[i]) }
	for i, n := range numbers {
		points = append(points, fmt.Sprint(n))
		for _, c := range who {
			turns = append(turns, turn{who: c, order: order{Do: "calls", Size: 64, Writers: n}, name: turnName(i, c)})
		}
	}
	s := b.alternate(curveRounds, turns...)
	b.curve("Callers", "Time of a call of 64 B when so many goroutines call over one connection. gipc's replier reads by ReadInto, in one goroutine.", "callers", who, points,
		func(i int, c contestant) (*scores, string) { return s, turnName(i, c) })
}

func sizeName(n int) string {
	switch {
	case n >= miB:
		return fmt.Sprint(n/miB, " MiB")
	case n >= kiB:
		return fmt.Sprint(n/kiB, " KiB")
	}
	return fmt.Sprint(n, " B")
}
