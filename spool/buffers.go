package spool

import (
	"context"
	"sync"
	"time"
)

// chunkSizes are the sizes of the buffers that content is gathered in. A
// message begins with the smallest and goes on to the next when it has filled
// one, if there is one to be had; else it is cut into smaller chunks.
var chunkSizes = [...]int{16 << 10, 128 << 10, 1 << 20}

// buffers is a bounded stock of buffers. Each size has its own share of the
// whole, so that a few slow senders of large messages, which keep the large
// ones, leave enough to all others. Half is for the smallest, a quarter for
// each of the others.
type buffers struct {
	left [len(chunkSizes)]chan struct{} // a token a buffer that may be handed out
	pool [len(chunkSizes)]sync.Pool     // of *[]byte
}

func newBuffers(total int64) *buffers {
	b := &buffers{}
	for i, size := range chunkSizes {
		share := total / 4
		if i == 0 {
			share = total / 2
		}
		b.left[i] = make(chan struct{}, max(1, share/int64(size)))
		for range cap(b.left[i]) {
			b.left[i] <- struct{}{}
		}
	}
	return b
}

// bufferWait bounds the wait for a buffer: a client that is told to come back
// is better off than one that hears nothing.
const bufferWait = 30 * time.Second

// get waits for a buffer of the smallest size, not for ever.
func (b *buffers) get(ctx context.Context) (*[]byte, error) {
	select {
	case <-b.left[0]:
		return b.take(0), nil
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, bufferWait)
	defer cancel()
	select {
	case <-b.left[0]:
		return b.take(0), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// larger gives a buffer of the size after that of buf with the same content
// and takes buf back, or gives buf itself when there is none to be had.
func (b *buffers) larger(buf *[]byte, limit int) *[]byte {
	i := class(buf) + 1
	if i == len(chunkSizes) || chunkSizes[i] > limit {
		return buf
	}
	select {
	case <-b.left[i]:
	default:
		return buf
	}
	big := b.take(i)
	copy(*big, *buf)
	b.put(buf)
	return big
}

// second gives a buffer to whoever has one and must not wait for another: the
// largest within limit that is free just now, else one of the smallest size
// beside the stock. back gives it back.
func (b *buffers) second(limit int) (buf *[]byte, back func(dirty bool)) {
	for i := len(chunkSizes) - 1; i >= 0; i-- {
		if i > 0 && chunkSizes[i] > limit {
			continue
		}
		select {
		case <-b.left[i]:
			buf = b.take(i)
			return buf, func(dirty bool) {
				if dirty {
					b.abandon(buf)
				} else {
					b.put(buf)
				}
			}
		default:
		}
	}
	own := make([]byte, chunkSizes[0])
	return &own, func(bool) {}
}

func (b *buffers) take(i int) *[]byte {
	if buf, ok := b.pool[i].Get().(*[]byte); ok {
		return buf
	}
	buf := make([]byte, chunkSizes[i])
	return &buf
}

func (b *buffers) put(buf *[]byte) {
	i := class(buf)
	b.pool[i].Put(buf)
	b.left[i] <- struct{}{}
}

// abandon gives the right to a buffer back, but not the buffer: somebody may
// still read it.
func (b *buffers) abandon(buf *[]byte) { b.left[class(buf)] <- struct{}{} }

func class(buf *[]byte) int {
	for i, size := range chunkSizes {
		if len(*buf) == size {
			return i
		}
	}
	panic("spool: not a buffer of the stock")
}
