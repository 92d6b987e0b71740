package buffers

import "sync"

// PieceSize is how much of a chunk is read at once, and so what a reader of
// long content holds in memory however slow it is.
const PieceSize = 64 << 10

// Readers are the buffers of readers: those for small chunks and those for
// pieces.
type Readers [2]sync.Pool

// readerSizes are their capacities: what is read, and the record's header.
var readerSizes = [2]int{16<<10 + 64, PieceSize + 64}

// pool gives the pool for buffers of that capacity.
func (r *Readers) pool(size int) *sync.Pool {
	if size == readerSizes[0] {
		return &r[0]
	}
	return &r[1]
}

// Get gives a buffer of at least that capacity.
func (r *Readers) Get(size int) *[]byte {
	i := 0
	if size > readerSizes[0] {
		i = 1
	}
	if buf, ok := r[i].Get().(*[]byte); ok {
		return buf
	}
	buf := make([]byte, readerSizes[i])
	return &buf
}

// Put gives a buffer back.
func (r *Readers) Put(buf *[]byte) { r.pool(cap(*buf)).Put(buf) }
