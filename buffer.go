// The pool of buffers that connections use while they have bytes to hold.

package gipc

import (
	"math/bits"
	"sync"
)

// A buffer is a slice from a bufferPool. It is a struct because a slice would be
// allocated again each time it is returned to a sync.Pool.
type buffer struct{ data []byte }

const (
	smallestClass = 9                         // 512 bytes: a control frame, or a message of 64 bytes, and its record
	largestClass  = 26 + 2*(bits.UintSize>>6) // 64 MiB, on 64-bit systems 256 MiB; larger buffers are allocated exactly and not pooled
)

// A bufferPool holds buffers in sizes of powers of two. All clients of a server share
// one pool, so an idle connection holds no buffer. It is safe for concurrent use.
type bufferPool struct {
	classes      [largestClass - smallestClass + 1]sync.Pool
	batches      sync.Pool // of *batch
	writeWaiters sync.Pool // of *writeWaiter
	replyWaits   sync.Pool // of *replyWait
	sendContexts sync.Pool // of *sendContext
}

// get returns an empty buffer with room for n bytes.
func (p *bufferPool) get(n int) *buffer {
	class := max(bits.Len(uint(n-1)), smallestClass)
	if class > largestClass {
		return &buffer{make([]byte, 0, n)}
	}
	if b, _ := p.classes[class-smallestClass].Get().(*buffer); b != nil {
		return b
	}
	return &buffer{make([]byte, 0, 1<<class)}
}

// put returns b to the pool. The caller must not use it any more.
func (p *bufferPool) put(b *buffer) {
	b.data = b.data[:0]
	if class := bits.Len(uint(cap(b.data) - 1)); class <= largestClass {
		p.classes[class-smallestClass].Put(b)
	}
}

// grow returns a buffer with the bytes of b, which may be nil, and room for n bytes in
// total. If b is too small it is returned to the pool.
func (p *bufferPool) grow(b *buffer, n int) *buffer {
	if b != nil && cap(b.data) >= n {
		return b
	}
	return p.replace(b, n) // a separate function, so that this one is inlined
}

func (p *bufferPool) replace(b *buffer, n int) *buffer {
	larger := p.get(n)
	if b != nil {
		larger.data = append(larger.data, b.data...)
		p.put(b)
	}
	return larger
}

// shrink returns a buffer with the bytes of b from start on, and where they begin in it.
// The buffer is nil if there are none, a smaller one if they need less than half of b, and
// otherwise b. The caller must not use b any more.
func (p *bufferPool) shrink(b *buffer, start int) (*buffer, int) {
	rest := b.data[start:]
	if len(rest) == 0 {
		p.put(b)
		return nil, 0
	}
	if cap(b.data) < 2*len(rest) || cap(b.data) <= 1<<smallestClass {
		return b, start
	}
	smaller := p.get(len(rest))
	smaller.data = append(smaller.data, rest...)
	p.put(b)
	return smaller, 0
}
