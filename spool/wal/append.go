package wal

import (
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/clrelay/clrelay/spool/wal/logfile"
)

const (
	// copyBelow is the size up to which a part is copied beside its header
	// instead of being handed to the kernel as a piece of its own.
	copyBelow = 1 << 10
	// spareDelay is how long the keeper waits after it failed to make a
	// spare.
	spareDelay = time.Second
	// arenasMax and arenaMax bound what is kept for reuse.
	arenasMax = 4
	arenaMax  = 1 << 20
)

// batch is what the writer writes at once: a mark and the records of one or
// more appends, all in one file.
type batch struct {
	file      *file
	off       int64 // of its mark
	end       Pos
	size      int64
	want      atomic.Bool // somebody waits for its durability
	ends      bool        // with the end of the file
	records   bool        // there is more in it than a mark
	isWritten bool
	buf       *arena
	written   chan struct{}
	durable   chan struct{}
	writeErr  error // read after written is closed
	syncErr   error // read after durable is closed
}

// arena holds the parts of a batch: headers and small data one after another
// in b, large data where the caller has them.
type arena struct {
	b    []byte
	segs []segment
	iov  [][]byte
}

// segment is a part of the batch: the caller's, or a range of the arena.
type segment struct {
	data     []byte
	from, to int
}

// fail ends all waiting for the batch. The lock is held.
func (b *batch) fail(err error) {
	if !b.isWritten {
		b.isWritten = true
		b.writeErr = err
		close(b.written)
	}
	b.syncErr = err
	close(b.durable)
}

// room makes n more octets of the arena part of the batch.
func (a *arena) room(n int) []byte {
	from := len(a.b)
	a.b = slices.Grow(a.b, n)[:from+n]
	clear(a.b[from:])
	if k := len(a.segs); k > 0 && a.segs[k-1].data == nil && a.segs[k-1].to == from {
		a.segs[k-1].to += n
	} else {
		a.segs = append(a.segs, segment{from: from, to: from + n})
	}
	return a.b[from:]
}

func (a *arena) add(p []byte) {
	if len(p) <= copyBelow {
		copy(a.room(len(p)), p)
		return
	}
	a.segs = append(a.segs, segment{data: p})
}

// buffers gives the batch as the kernel wants it.
func (a *arena) buffers() [][]byte {
	a.iov = a.iov[:0]
	for _, s := range a.segs {
		if s.data == nil {
			s.data = a.b[s.from:s.to]
		}
		a.iov = append(a.iov, s.data)
	}
	return a.iov
}

// Commit is an append on its way to the disk. A nil one has nothing to wait
// for.
type Commit struct {
	l   *Log
	b   *batch
	few [3]Pos
	pos []Pos
}

// Pos is the place of the append's record i.
func (c *Commit) Pos(i int) Pos { return c.pos[i] }

// Top is the place of the append's last record.
func (c *Commit) Top() Pos { return c.pos[len(c.pos)-1] }

// WaitWritten returns when the records are in the kernel's hands: they
// survive the end of the process, and their data may change again. A crash of
// the machine may still lose them.
func (c *Commit) WaitWritten() error {
	if c == nil {
		return nil
	}
	<-c.b.written
	return c.b.writeErr
}

// WaitDurable asks for a sync at once and returns when the records and all
// before them are on the disk.
func (c *Commit) WaitDurable() error {
	if c == nil {
		return nil
	}
	return c.l.waitDurable(c.b)
}

func (l *Log) waitDurable(b *batch) error {
	if !b.want.Swap(true) {
		kick(l.syncs)
	}
	<-b.durable
	return b.syncErr
}

// Append puts records at the end of the log, one after another in one file.
// It waits while too much is pending, or for a new file that is being
// prepared; it does not wait for the disk otherwise: the Commit does. It fails
// with ErrNoSpace, ErrTooLarge, ErrPoisoned, ErrClosed or ErrReadOnly, and
// has done nothing then.
//
// So that results can be recorded on a full disk, Append leaves room for
// AppendReserved: a spare file, or half of the one being filled.
func (l *Log) Append(recs ...Record) (*Commit, error) { return l.append(recs, false) }

// AppendReserved is Append for records that have to be written even when
// mail is refused.
func (l *Log) AppendReserved(recs ...Record) (*Commit, error) { return l.append(recs, true) }

// need is what an append takes.
type need struct {
	size   int64 // of the records
	footer int64 // of their entries
}

func (l *Log) append(recs []Record, reserved bool) (*Commit, error) {
	var few [4]uint32
	sums := few[:0]
	var n need
	for i := range recs {
		r := &recs[i]
		size := 0
		for _, p := range r.Data {
			size += len(p)
		}
		if size > math.MaxInt32 {
			return nil, fmt.Errorf("wal: record of %d octets: %w", size, ErrTooLarge)
		}
		if r.Kind == 0 || r.Kind > MaxKind {
			return nil, fmt.Errorf("wal: kind %d is not for callers", r.Kind)
		}
		r.Len = uint32(size)
		n.size += RecordSize(size)
		n.footer += logfile.EntrySize
		if !l.o.Bulk(r.Kind) {
			n.footer += int64(size)
		}
		sums = append(sums, logfile.DataSum(r.Data))
	}
	if len(recs) == 0 {
		return nil, fmt.Errorf("wal: append of nothing")
	}
	if n.size > l.MaxAppend() {
		return nil, fmt.Errorf("wal: append of %d octets: %w", n.size, ErrTooLarge)
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.admit(n, reserved); err != nil {
		return nil, err
	}
	b := l.openBatch()
	c := &Commit{l: l, b: b}
	c.pos = c.few[:0]
	for i := range recs {
		c.pos = append(c.pos, logfile.MakePos(l.cur.Num, l.off))
		l.put(b, recs[i].Header, sums[i], recs[i].Data)
	}
	b.records = true
	kick(l.writes)
	return c, nil
}

// admit waits until there is room for an append, and makes the file that it
// goes to the current one. The lock is held.
func (l *Log) admit(n need, reserved bool) error {
	for {
		if err := l.usable(); err != nil {
			return err
		}
		if l.pending > 0 && l.pending+n.size > l.o.MaxPending {
			l.change.Wait()
			continue
		}
		roll := l.cur == nil || !l.fits(n)
		spares, left := len(l.spares), l.o.FileSize-logfile.DataStart
		if roll {
			spares--
		} else {
			left = l.cur.Size - l.off
		}
		reserve := reserved || spares > 0 || left-n.size >= l.o.FileSize/2
		if spares < 0 || !reserve {
			if err := l.awaitSpare(); err != nil {
				return err
			}
			continue
		}
		if roll {
			l.roll()
		}
		return nil
	}
}

// fits tells whether an append goes into the current file, with what has to
// come after it: the end, in a write of its own, footer and trailer. The lock
// is held.
func (l *Log) fits(n need) bool {
	size := l.off + n.size + 2*HeaderSize + logfile.TrailerSize
	if !l.batchOpen() {
		size += HeaderSize
	}
	return size+l.cur.Foot.Grown(n.footer) <= l.cur.Size
}

// awaitSpare waits until the keeper has made a spare or failed to. The lock
// is held.
func (l *Log) awaitSpare() error {
	if l.spareErr != nil && time.Now().Before(l.spareRetry) {
		return l.spareErr
	}
	tries, spares := l.spareTries, len(l.spares)
	l.spareAsked = true
	kick(l.keeper)
	for l.spareTries == tries && len(l.spares) == spares && l.usable() == nil {
		l.change.Wait()
	}
	if len(l.spares) == spares {
		return l.spareErr
	}
	return nil
}

// roll ends the current file and goes on in the first spare. The lock is held
// and there is a spare.
func (l *Log) roll() {
	if l.cur != nil {
		b := l.openBatch()
		l.cur.End = l.off
		l.put(b, Header{Kind: logfile.KindEnd}, 0, nil)
		b.ends = true
		kick(l.writes)
	}
	l.cur = l.spares[0]
	l.spares = l.spares[1:]
	l.cur.Foot = logfile.NewFooter(l.o.FileSize)
	l.off = logfile.DataStart
	l.files[l.cur.Num] = l.cur
	kick(l.keeper)
}

// batchOpen tells whether the next record joins a batch that is there
// already. The lock is held.
func (l *Log) batchOpen() bool {
	return len(l.queue) > 0 && l.queue[len(l.queue)-1].file == l.cur
}

// openBatch gives the batch for the next record. The lock is held.
func (l *Log) openBatch() *batch {
	if l.batchOpen() {
		return l.queue[len(l.queue)-1]
	}
	b := &batch{file: l.cur, off: l.off, buf: &arena{}, written: make(chan struct{}), durable: make(chan struct{})}
	if k := len(l.arenas); k > 0 {
		b.buf, l.arenas = l.arenas[k-1], l.arenas[:k-1]
	}
	b.buf.room(HeaderSize) // the mark, which the writer fills in
	b.size = HeaderSize
	l.pending += HeaderSize
	l.off += HeaderSize
	b.end = logfile.MakePos(l.cur.Num, l.off)
	l.queue = append(l.queue, b)
	l.last = b
	return b
}

// put adds a record to a batch. The lock is held.
func (l *Log) put(b *batch, h Header, sum uint32, data [][]byte) {
	size := RecordSize(int(h.Len))
	logfile.PutHeader(b.buf.room(HeaderSize), b.file.Inc, l.off, h, sum)
	for _, p := range data {
		b.buf.add(p)
	}
	if pad := int(size) - HeaderSize - int(h.Len); pad > 0 {
		b.buf.room(pad)
	}
	if h.Kind <= MaxKind {
		b.file.Foot.Add(l.off, h, data, !l.o.Bulk(h.Kind))
	}
	l.off += size
	b.size += size
	l.pending += size
	b.end = logfile.MakePos(b.file.Num, l.off)
}
