// Package buffers is the memory for what goes into the log and comes out of
// it: a bounded stock for content that is arriving, and pools for readers. It
// knows nothing of either. Everything may be called from any goroutine.
package buffers

import (
	"context"
	"sync"
	"time"
)

// sizes are the sizes of the buffers that content is gathered in. A
// message begins with the smallest and goes on to the next when it has filled
// one, if there is one to be had; else it is cut into smaller chunks.
var sizes = [...]int{16 << 10, 128 << 10, 1 << 20}

// Stock is a bounded stock of buffers. Each size has its own share of the
// whole, so that a few slow senders of large messages, which keep the large
// ones, leave enough to all others. Half is for the smallest, a quarter for
// each of the others.
type Stock struct {
	left [len(sizes)]chan struct{} // a token a buffer that may be handed out
	pool [len(sizes)]sync.Pool     // of *[]byte
}

// New makes a stock of that many octets in all, with at least one buffer of
// each size.
func New(total int64) *Stock {
	b := &Stock{}
	for i, size := range sizes {
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

// Wait bounds the wait for a buffer: a client that is told to come back
// is better off than one that hears nothing.
const Wait = 30 * time.Second

// Get waits for a buffer of the smallest size, not for ever.
func (b *Stock) Get(ctx context.Context) (*[]byte, error) {
	select {
	case <-b.left[0]:
		return b.take(0), nil
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, Wait)
	defer cancel()
	select {
	case <-b.left[0]:
		return b.take(0), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Larger gives a buffer of the size after that of buf with the same content
// and takes buf back, or gives buf itself when there is none to be had.
func (b *Stock) Larger(buf *[]byte, limit int) *[]byte {
	i := class(buf) + 1
	if i == len(sizes) || sizes[i] > limit {
		return buf
	}
	select {
	case <-b.left[i]:
	default:
		return buf
	}
	big := b.take(i)
	copy(*big, *buf)
	b.Put(buf)
	return big
}

// Second gives a buffer to whoever has one and must not wait for another: the
// largest within limit that is free just now, else one of the smallest size
// beside the stock. back gives it back.
func (b *Stock) Second(limit int) (buf *[]byte, back func(dirty bool)) {
	for i := len(sizes) - 1; i >= 0; i-- {
		if i > 0 && sizes[i] > limit {
			continue
		}
		select {
		case <-b.left[i]:
			buf = b.take(i)
			return buf, func(dirty bool) {
				if dirty {
					b.Abandon(buf)
				} else {
					b.Put(buf)
				}
			}
		default:
		}
	}
	own := make([]byte, sizes[0])
	return &own, func(bool) {}
}

func (b *Stock) take(i int) *[]byte {
	if buf, ok := b.pool[i].Get().(*[]byte); ok {
		return buf
	}
	buf := make([]byte, sizes[i])
	return &buf
}

// Put gives a buffer back.
func (b *Stock) Put(buf *[]byte) {
	i := class(buf)
	b.pool[i].Put(buf)
	b.left[i] <- struct{}{}
}

// Abandon gives the right to a buffer back, but not the buffer: somebody may
// still read it.
func (b *Stock) Abandon(buf *[]byte) { b.left[class(buf)] <- struct{}{} }

func class(buf *[]byte) int {
	for i, size := range sizes {
		if len(*buf) == size {
			return i
		}
	}
	panic("buffers: not a buffer of the stock")
}

// Largest is the largest size of the stock's buffers.
func Largest() int { return sizes[len(sizes)-1] }
