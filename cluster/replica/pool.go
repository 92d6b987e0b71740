package replica

import (
	"math/bits"
	"sync"
)

// Sizes of pooled buffers, as powers of two: 2 KiB (gRPC does not give back
// what is much smaller) to 4 MiB, which holds the largest frame.
const (
	minPooled = 11
	maxPooled = 22
)

// bufferPool hands out buffers by size class and takes them back from gRPC when
// it has written them. Unlike gRPC's own it does not zero them: a buffer's
// length is always what was written into it.
type bufferPool struct {
	classes [maxPooled - minPooled + 1]sync.Pool // of *[]byte
}

func classOf(size int) int {
	if size <= 1<<minPooled {
		return 0
	}
	return bits.Len(uint(size-1)) - minPooled
}

// Get returns a buffer of the given length with content unknown.
func (p *bufferPool) Get(length int) *[]byte {
	c := classOf(length)
	if c >= len(p.classes) {
		b := make([]byte, length)
		return &b
	}
	if b, ok := p.classes[c].Get().(*[]byte); ok {
		*b = (*b)[:length]
		return b
	}
	b := make([]byte, length, 1<<(c+minPooled))
	return &b
}

// Put takes a buffer back that Get handed out.
func (p *bufferPool) Put(b *[]byte) {
	c := classOf(cap(*b))
	if c < len(p.classes) && cap(*b) == 1<<(c+minPooled) {
		p.classes[c].Put(b)
	}
}
