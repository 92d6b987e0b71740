package wire

import (
	"sync"
	"sync/atomic"
)

// Sizes of a connection's read buffer. An idle connection has the small one; a read
// that fills a buffer brings the next size, and an idle moment the small one
// back.
const (
	smallBuffer  = 1 << 10
	mediumBuffer = 16 << 10
	largeBuffer  = 64 << 10

	maxLarge = 1024 // large buffers in use at once; who comes later stays with a medium one
)

// Pool lends read buffers to connections. The zero value is ready; any
// goroutine may use it.
type Pool struct {
	medium, large sync.Pool
	lent          atomic.Int64 // large ones
}

// get gives a buffer greater than size octets, or nil when there is none.
func (b *Pool) get(size int) []byte {
	switch {
	case size < mediumBuffer:
		if p, ok := b.medium.Get().(*[mediumBuffer]byte); ok {
			return p[:]
		}
		return make([]byte, mediumBuffer)
	case size < largeBuffer:
		if b.lent.Add(1) > maxLarge {
			b.lent.Add(-1)
			return nil
		}
		if p, ok := b.large.Get().(*[largeBuffer]byte); ok {
			return p[:]
		}
		return make([]byte, largeBuffer)
	}
	return nil
}

// put takes back what get gave, and lets anything else go.
func (b *Pool) put(buf []byte) {
	switch len(buf) {
	case mediumBuffer:
		b.medium.Put((*[mediumBuffer]byte)(buf))
	case largeBuffer:
		b.lent.Add(-1)
		b.large.Put((*[largeBuffer]byte)(buf))
	}
}
