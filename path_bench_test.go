package gipc

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// nullSink takes everything at once.
type nullSink struct{}

func (nullSink) write(_ context.Context, _ *atomic.Bool, b, tail []byte) (int, error) {
	return len(b) + len(tail), nil
}
func (nullSink) interrupt()          {}
func (nullSink) interruptible() bool { return true }

// endlessSource repeats a stream.
type endlessSource struct {
	stream []byte
	at     int
}

func (s *endlessSource) read(d *decoder) (int, error) {
	if s.at == len(s.stream) {
		s.at = 0
	}
	n := copy(d.space(), s.stream[s.at:])
	d.received(n)
	s.at += n
	return n, nil
}
func (s *endlessSource) look(d *decoder, _ bool) (int, bool, error) {
	n, err := s.read(d)
	return n, true, err
}
func (s *endlessSource) SetReadDeadline(time.Time) error { return nil }
func (s *endlessSource) end()                            {}

// BenchmarkQueue is the sending half without a kernel: 64 B by Queue.
func BenchmarkQueue(b *testing.B) {
	for _, encrypted := range []bool{false, true} {
		b.Run(map[bool]string{false: "plain", true: "encrypted"}[encrypted], func(b *testing.B) {
			e := new(endpoint)
			e.init(&settings{log: new(eventLog)}, new(bufferPool), new(endpointHooks))
			var cipher *recordCipher
			if encrypted {
				cipher, _ = newRecordCipher(make([]byte, hashLen))
			}
			c := &connection{sender: newSender(nullSink{}, 1<<20, e.pool, cipher, new(sync.WaitGroup), func(error) {})}
			e.current.Store(c)
			data := make([]byte, 64)
			for b.Loop() {
				e.Queue(1, data)
			}
		})
	}
}

// BenchmarkReadInto is the receiving half without a kernel: 64 B in plaintext.
func BenchmarkReadInto(b *testing.B) {
	e := new(endpoint)
	e.init(&settings{log: new(eventLog)}, new(bufferPool), new(endpointHooks))
	var stream []byte
	for len(stream) < 64<<10 {
		stream = append(stream, appendFrame(nil, 1, make([]byte, 64))...)
	}
	c := newReceiver(nil, 1<<20)
	c.source = &endlessSource{stream: stream}
	e.life.become(Listening)
	e.life.become(Connected)
	e.latest = c
	e.current.Store(c)
	e.role.reads = 1
	e.role.setFree()
	var m Message
	for b.Loop() {
		if err := e.ReadInto(context.Background(), &m); err != nil {
			b.Fatal(err)
		}
	}
}
