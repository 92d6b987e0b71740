package replica

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// How frames are gathered. With fewer than eager frames in flight a frame goes
// out at once, whatever is in it; with more it waits for an acknowledgement or
// until it holds batchBytes. So an idle link adds no delay and a busy one
// spends its system calls on full frames. For the same reason a frame is
// acknowledged by the next one that goes the other way, and by one of its own
// only when as many wait for it as make the peer gather, or the watch finds it
// waiting.
const (
	eager      = 2
	batchBytes = 128 << 10

	smallCall = 4 << 10 // calls of Send up to this size may use the window's reserve

	ticks = 8 // looks of the watch within Options.Stall
)

// outFrame is a frame to be sent: a pooled buffer that begins with room for the
// head.
type outFrame struct {
	buf   *[]byte
	count uint32
}

func (f outFrame) size() int64 { return int64(len(*f.buf)) }

// link is one stream: what waits to be sent on it and what arrives.
//
// Locks: mu guards the fields below it and is never held while anything
// blocks; taking is held while the handler's Receive runs and when the stream
// ends, so that nothing is received after Down.
type link struct {
	p       *peer
	o       *Options
	pool    *bufferPool
	batches *sync.Pool
	self    Peer
	peer    Peer
	attempt uint64
	prev    *link // the stream whose place this one takes

	dead chan struct{} // closed when the stream must end
	done chan struct{} // closed when it has ended and the handler has been told
	wake chan struct{} // the writer has something to look at
	room chan struct{} // a batch was released

	heard  atomic.Uint64 // frames received
	spoken atomic.Uint64 // frames sent
	held   atomic.Int64  // bytes of batches not released
	busy   atomic.Bool   // the reader waits for this node's own handler

	taking sync.Mutex
	over   bool

	mu          sync.Mutex
	err         error
	ready       []outFrame
	open        outFrame
	hint        int // size of the last frame, for the next one's buffer
	queued      int64
	flight      [FramesInFlight]int64
	sent, acked uint64 // items frames given to the wire, acknowledged by the peer
	taken, told uint64 // items frames received, acknowledged to the peer
	ping        bool   // a frame is due even if it says nothing but what was taken
}

// end ends the stream; the first reason counts. It does not block.
func (l *link) end(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return
	}
	l.err = err
	close(l.dead)
	for _, f := range l.ready {
		l.pool.Put(f.buf)
	}
	if l.open.buf != nil {
		l.pool.Put(l.open.buf)
	}
	l.ready, l.open, l.queued = nil, outFrame{}, 0
}

// send queues items, all or none.
func (l *link) send(items []Item) error {
	total := int64(0)
	for i := range items {
		n, err := itemSize(&items[i])
		if err != nil {
			return err
		}
		total += int64(n)
	}
	limit := l.o.Window
	if total > limit {
		return fmt.Errorf("%w: %d bytes at once", ErrTooLarge, total)
	}
	if total <= smallCall {
		limit += limit / 8
	}
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return ErrDown
	}
	if l.queued+total > limit {
		l.mu.Unlock()
		l.p.count.full.Add(1)
		return ErrFull
	}
	l.queued += total
	for i := range items {
		l.put(&items[i])
	}
	sendable := l.sendable()
	l.mu.Unlock()
	l.p.count.itemsSent.Add(uint64(len(items)))
	if sendable {
		l.nudge()
	}
	return nil
}

// put appends an item to the open frame. l.mu is held.
func (l *link) put(it *Item) {
	n, _ := itemSize(it) // looked at before
	if l.open.buf == nil {
		l.open.buf = l.pool.Get(max(l.hint, frameHead+n))
		*l.open.buf = (*l.open.buf)[:frameHead]
	}
	old := *l.open.buf
	if len(old)+n > cap(old) {
		more := l.pool.Get(max(2*cap(old), len(old)+n))
		copy(*more, old)
		*more = (*more)[:len(old)]
		l.pool.Put(l.open.buf)
		l.open.buf, old = more, *more
	}
	*l.open.buf = old[:len(old)+n]
	putItem((*l.open.buf)[len(old):], it)
	if l.open.count++; len(*l.open.buf) >= MaxFrame {
		l.ready = append(l.ready, l.open)
		l.open = outFrame{}
	}
}

// sendable says whether a frame may go out now. l.mu is held.
func (l *link) sendable() bool {
	flying := l.sent - l.acked
	switch {
	case flying >= FramesInFlight:
		return false
	case len(l.ready) > 0:
		return true
	case l.open.count == 0:
		return false
	}
	return flying < eager || len(*l.open.buf) >= batchBytes
}

func (l *link) nudge() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// next waits for something to send and returns it with its head. ok is false
// when the stream is over.
func (l *link) next() (f outFrame, h header, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		if l.err != nil {
			return f, h, false
		}
		if l.sendable() || l.ping {
			break
		}
		l.mu.Unlock()
		select {
		case <-l.wake:
		case <-l.dead:
		}
		l.mu.Lock()
	}
	h = header{kind: frameAck, from: l.self.Session, to: l.peer.Session}
	if l.sendable() {
		f = l.pop()
		l.flight[l.sent%FramesInFlight] = f.size() - frameHead
		l.sent++
		h.kind, h.count = frameItems, f.count
	}
	l.told, l.ping = l.taken, false
	h.num, h.acks = l.sent, l.taken
	return f, h, true
}

// pop takes the next frame out of the queue. l.mu is held.
func (l *link) pop() outFrame {
	if len(l.ready) == 0 {
		f := l.open
		l.open, l.hint = outFrame{}, len(*f.buf)
		return f
	}
	f := l.ready[0]
	l.ready[0] = outFrame{}
	if l.ready = l.ready[1:]; len(l.ready) == 0 {
		l.ready = nil
	}
	l.hint = len(*f.buf)
	return f
}

// write sends until the stream is over.
func (l *link) write(s stream) {
	for {
		f, h, ok := l.next()
		if !ok {
			return
		}
		if f.buf == nil {
			b := make([]byte, frameHead)
			f.buf = &b
		} else {
			l.p.count.framesSent.Add(1)
			l.p.count.bytesSent.Add(uint64(len(*f.buf)))
		}
		seal(*f.buf, h)
		if err := s.SendMsg(&wireFrame{buf: f.buf, pool: l.pool}); err != nil {
			if !errors.Is(err, io.EOF) { // then the reader hears why
				l.end(fmt.Errorf("replica: sending: %w", err))
			}
			return
		}
		l.spoken.Add(1)
	}
}

// read receives until the stream is over.
func (l *link) read(s stream) {
	for {
		f := wireFrame{pool: l.pool}
		if err := s.RecvMsg(&f); err != nil {
			l.end(fmt.Errorf("replica: the stream ended: %w", err))
			return
		}
		l.heard.Add(1)
		if err := l.take(f.buf); err != nil {
			l.p.count.bad.Add(1)
			l.end(err)
			return
		}
	}
}

// take handles one frame of the peer.
func (l *link) take(buf *[]byte) error {
	h, body, err := unseal(*buf)
	if err != nil {
		return err
	}
	if h.from != l.peer.Session || h.to != l.self.Session {
		return fmt.Errorf("%w: of sessions %d to %d on the stream of %d to %d", ErrBadFrame, h.from, h.to, l.peer.Session, l.self.Session)
	}
	if err := l.acknowledged(h.acks); err != nil {
		return err
	}
	switch {
	case h.kind == frameItems && h.num == l.taken+1 && h.count > 0:
		return l.receive(buf, body, h)
	case h.kind == frameAck && h.num == l.taken && h.count == 0 && len(body) == 0:
		l.pool.Put(buf)
		return nil
	}
	return fmt.Errorf("%w: kind %d, number %d after %d, %d items", ErrBadFrame, h.kind, h.num, l.taken, h.count)
}

// acknowledged frees what the peer says it has taken.
func (l *link) acknowledged(n uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n < l.acked || n > l.sent {
		return fmt.Errorf("%w: acknowledges %d of %d after %d", ErrBadFrame, n, l.sent, l.acked)
	}
	if n == l.acked || l.err != nil {
		return nil
	}
	for ; l.acked < n; l.acked++ {
		l.queued -= l.flight[l.acked%FramesInFlight]
	}
	if l.sendable() {
		l.nudge()
	}
	return nil
}

// receive hands the items of a frame to the handler. Only the reader calls it,
// so l.taken does not change behind its back.
func (l *link) receive(buf *[]byte, body []byte, h header) error {
	b := l.batches.Get().(*Batch)
	var err error
	if b.Items, b.arena, err = items(b.Items, b.arena, body, h.count); err != nil {
		return err
	}
	b.link, b.buf, b.size = l, buf, int64(len(*buf))
	l.p.count.framesRecv.Add(1)
	l.p.count.bytesRecv.Add(uint64(b.size))
	l.p.count.itemsRecv.Add(uint64(len(b.Items)))
	l.busy.Store(true)
	defer l.busy.Store(false)
	if !l.hold(b.size) {
		b.Release()
		return nil // over; the frame arrives nowhere
	}
	l.taking.Lock()
	if l.over || l.ended() {
		l.taking.Unlock()
		b.Release()
		return nil
	}
	l.o.Handler.Receive(l.peer, b)
	l.taking.Unlock()
	l.mu.Lock()
	l.taken = h.num
	if l.taken-l.told >= eager { // the peer may be gathering
		l.ping = true
		l.nudge()
	}
	l.mu.Unlock()
	return nil
}

// ended says whether the stream must end, or has.
func (l *link) ended() bool {
	select {
	case <-l.dead:
		return true
	default:
		return false
	}
}

// hold waits until the batches not yet released leave room for one more and
// counts it. A single one always has room.
func (l *link) hold(size int64) bool {
	l.held.Add(size)
	for l.held.Load() > max(size, l.o.Hold) {
		select {
		case <-l.room:
		case <-l.dead:
			return false
		}
	}
	return true
}

// Release gives the batch's memory back. Call it once, when nothing of the
// batch is needed any more.
func (b *Batch) Release() {
	l := b.link
	if l == nil {
		panic("replica: batch released twice") // a programmer's error: its bytes may be another's by now
	}
	l.held.Add(-b.size)
	select {
	case l.room <- struct{}{}:
	default:
	}
	l.pool.Put(b.buf)
	clear(b.Items)
	clear(b.arena)
	*b = Batch{Items: b.Items[:0], arena: b.arena[:0]}
	if cap(b.Items) > maxKeptItems || cap(b.arena) > maxKeptItems {
		*b = Batch{}
	}
	l.batches.Put(b)
}

// maxKeptItems bounds the lists that a pooled batch keeps.
const maxKeptItems = 8 << 10

// watch ends a stream that makes no progress and gives signs of life. It counts
// its own ticks instead of asking a clock: time in which this process did not
// run is nobody else's silence.
func (l *link) watch() {
	tick := time.NewTicker(l.o.Stall / ticks)
	defer tick.Stop()
	var heard, spoken, acked uint64
	var silent, stalled, quiet int
	for {
		select {
		case <-l.dead:
			return
		case <-tick.C:
		}
		silent++
		if n := l.heard.Load(); n != heard || l.busy.Load() {
			heard, silent = n, 0
		}
		l.mu.Lock()
		stalled++
		if l.acked != acked || l.sent == l.acked {
			acked, stalled = l.acked, 0
		}
		if n := l.spoken.Load(); n != spoken {
			spoken, quiet = n, 0
		} else {
			quiet++
		}
		if quiet >= ticks/4 || l.taken > l.told {
			l.ping = true
			l.nudge()
		}
		l.mu.Unlock()
		if stalled >= ticks || silent >= ticks {
			err := ErrStalled
			if silent >= ticks {
				err = ErrSilent
			}
			l.p.count.stalls.Add(1)
			l.end(err)
		}
	}
}
