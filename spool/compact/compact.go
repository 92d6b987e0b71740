// Package compact frees the files of the spool's log: those with nothing in
// them that is needed at once, others when what is needed was copied to the
// head of the log. What is needed the books know, see package state; in which
// order things have to happen, so that no crash loses a message or brings one
// back, DESIGN.md of package spool, its only user, says.
package compact

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/clrelay/clrelay/spool/record"
	"github.com/clrelay/clrelay/spool/state"
	"github.com/clrelay/clrelay/spool/wal"
)

// batchBytes is how much compaction copies under one hold of the lock.
const batchBytes = 1 << 20

// Options are what a Compactor works on; all of it has to be given.
type Options struct {
	Log      *wal.Log
	Mu       *sync.Mutex // guards State, and is held while records are appended
	State    *state.State
	FileSize int64 // of a log file
	Limit    int   // octets of data that one append may have
	// Append puts records into the log that must get there even when mail is
	// refused, and Header the header record of a segment; Mu is held.
	Append func(...wal.Record) (*wal.Commit, error)
	Header func(*state.Segment) error
	Logger *slog.Logger
}

// Compactor frees what is needed no more. It begins to work by itself with
// Start.
type Compactor struct {
	o          Options
	compacting sync.Mutex    // before Mu
	wake       chan struct{} // wakes the goroutine
	stop       chan struct{} // closed by Close
	started    sync.Once
	background sync.WaitGroup
	head       uint32 // the log file that was written to last; Mu guards it
}

// New makes a Compactor. head is the log file that will be written to first.
func New(o Options, head uint32) *Compactor {
	return &Compactor{o: o, head: head, wake: make(chan struct{}, 1), stop: make(chan struct{})}
}

// Start lets it work by itself from now on, in one goroutine, until Close.
func (c *Compactor) Start() {
	c.started.Do(func() {
		c.background.Add(1)
		go c.run()
		c.kick()
	})
}

// Close ends that, and a Compact under way soon. It is called once.
func (c *Compactor) Close() {
	close(c.stop)
	c.background.Wait()
}

// Still calls f while no record is moved.
func (c *Compactor) Still(f func() error) error {
	c.compacting.Lock()
	defer c.compacting.Unlock()
	return f()
}

// Wake is to be called when something has become needless. Mu is held.
func (c *Compactor) Wake() {
	if c.o.State.Reclaimable(c.o.FileSize / 8) {
		c.kick()
	}
}

func (c *Compactor) kick() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Wrote is to be called when something was appended. That the log went on to
// another file may make an older one worth compacting. Mu is held.
func (c *Compactor) Wrote(file uint32) {
	if file != c.head {
		c.head = file
		c.kick()
	}
}

// Head is the log file that was written to last. Mu is held.
func (c *Compactor) Head() uint32 { return c.head }

func (c *Compactor) run() {
	defer c.background.Done()
	for {
		select {
		case <-c.wake:
		case <-c.o.Log.Housed():
		case <-c.stop:
			return
		}
		if err := c.Compact(); err != nil && !errors.Is(err, wal.ErrClosed) && !errors.Is(err, wal.ErrPoisoned) {
			c.o.Logger.Warn("compaction", "err", err)
		}
	}
}

// Compact frees the log files that hold nothing that is needed, and moves
// what little is needed out of others. After Start it happens by itself as
// needed; before that it must not be called.
func (c *Compactor) Compact() error {
	c.compacting.Lock()
	defer c.compacting.Unlock()
	c.o.Mu.Lock()
	c.o.State.Compacting()
	c.o.Mu.Unlock()
	for {
		empty, move := c.candidates()
		if err := c.free(empty); err != nil {
			return err
		}
		if len(empty) > 0 {
			continue // killers may have become needless
		}
		if move == 0 {
			return nil
		}
		err := c.compact(move)
		if damage := (*wal.DamageError)(nil); errors.As(err, &damage) {
			// The log keeps the file from now on; the others go on.
			c.o.Logger.Error("a damaged log file stays", "err", err)
		} else if err != nil {
			return err
		}
		select {
		case <-c.stop:
			return nil
		default:
		}
	}
}

// candidates gives the files that can be freed at once, and one that is worth
// moving, the oldest first; 0: none. On a full disk the last room is for
// results: what is moved must fit into a spare file, so that half of it
// remains until a whole file comes back.
func (c *Compactor) candidates() (empty []uint32, move uint32) {
	files := c.o.Log.Files()
	spares := c.o.Log.Spares()
	c.o.Mu.Lock()
	defer c.o.Mu.Unlock()
	for _, f := range files {
		e, m := c.o.State.Disposable(f, c.o.FileSize, c.head)
		switch {
		case e:
			empty = append(empty, f.Number)
		case m && move == 0 && spares > 0:
			move = f.Number
		}
	}
	return empty, move
}

// free gives files back that hold nothing that is needed.
func (c *Compactor) free(files []uint32) error {
	if len(files) == 0 {
		return nil
	}
	if err := c.tellLast(files); err != nil {
		return err
	}
	// What made them needless may have been written and not synced.
	if err := c.o.Log.Sync(); err != nil {
		return fmt.Errorf("spool: before freeing log files: %w", err)
	}
	for _, f := range files {
		err := c.o.Log.Free(f)
		c.o.Mu.Lock()
		if err == nil {
			c.o.State.Freed(f)
		} else if errors.Is(err, wal.ErrDamaged) {
			c.o.State.Stale(f)
			err = nil
		}
		c.o.Mu.Unlock()
		if err != nil {
			return fmt.Errorf("spool: freeing log file %d: %w", f, err)
		}
	}
	return nil
}

// tellLast writes the header of each replicated segment whose highest number
// may be known from a record in these files alone.
func (c *Compactor) tellLast(files []uint32) error {
	c.o.Mu.Lock()
	defer c.o.Mu.Unlock()
	for _, g := range c.o.State.Untold(slices.Max(files)) {
		if err := c.o.Header(g); err != nil {
			return err
		}
	}
	return nil
}

// compact moves all that is needed out of a file and frees it. Chunks go
// first: should one of them be unreadable, the file stays, and then no commit
// record may have been copied, for its older copy would be unknown to killers.
func (c *Compactor) compact(file uint32) error {
	var chunks, rest []state.Item
	err := c.o.Log.Scan(file, func(pos wal.Pos, h wal.Header, data []byte) error {
		it := state.Item{Pos: pos, Header: h, Data: data}
		c.o.Mu.Lock()
		defer c.o.Mu.Unlock()
		switch {
		case uint8(h.Kind) == record.KindChunk:
			if c.o.State.Segment(h.Segment) != nil {
				chunks = append(chunks, it)
			}
		case c.o.State.Owner(it) != nil:
			it.Data = slices.Clone(data)
			rest = append(rest, it)
		}
		return nil
	})
	if err == nil {
		err = c.moveChunks(chunks)
	}
	if err == nil {
		err = c.move(rest)
	}
	if err != nil {
		return fmt.Errorf("spool: compacting log file %d: %w", file, err)
	}
	c.o.Mu.Lock()
	missing := c.o.State.Moved(file)
	if missing > 0 {
		c.o.State.Stale(file)
	}
	c.o.Mu.Unlock()
	if missing > 0 {
		return fmt.Errorf("spool: compacting log file %d: %d records that are needed cannot be found in it", file, missing)
	}
	return c.free([]uint32{file})
}

// move appends what is still needed of the items and waits until it is
// durable.
func (c *Compactor) move(items []state.Item) error {
	var last *wal.Commit
	for len(items) > 0 {
		n, size := 0, int64(0)
		for n < len(items) {
			size += wal.RecordSize(len(items[n].Data))
			if n > 0 && size > min(batchBytes, int64(c.o.Limit)) {
				break
			}
			n++
		}
		w, err := c.moveBatch(items[:n])
		if err == nil && w != nil {
			last = w
			err = w.WaitWritten() // bounds what is pending
		}
		if err != nil {
			return err
		}
		items = items[n:]
	}
	if last == nil {
		return nil
	}
	return last.WaitDurable()
}

func (c *Compactor) moveBatch(items []state.Item) (*wal.Commit, error) {
	c.o.Mu.Lock()
	defer c.o.Mu.Unlock()
	var recs []wal.Record
	var owners []func(wal.Pos)
	for _, it := range items {
		if owner := c.o.State.Owner(it); owner != nil {
			owners = append(owners, owner)
			recs = append(recs, wal.Record{Header: it.Header, Data: [][]byte{it.Data}})
		}
	}
	if len(recs) == 0 {
		return nil, nil
	}
	w, err := c.o.Append(recs...)
	if err != nil {
		return nil, err
	}
	for i, owner := range owners {
		owner(w.Pos(i))
	}
	return w, nil
}

// moveChunks copies the chunks that are needed, one by one: they are large.
func (c *Compactor) moveChunks(items []state.Item) error {
	var buf []byte
	var last *wal.Commit
	for _, it := range c.needed(items) {
		if size := int(it.Header.Len) + wal.HeaderSize; cap(buf) < size {
			buf = make([]byte, size)
		}
		h, data, err := c.o.Log.ReadAt(it.Pos, int(it.Header.Len), buf)
		if err != nil {
			return err
		}
		w, err := c.moveChunk(state.Item{Pos: it.Pos, Header: h, Data: data})
		if err == nil && w != nil {
			last = w
			err = w.WaitWritten() // the buffer is used again
		}
		if err != nil {
			return err
		}
	}
	if last == nil {
		return nil
	}
	return last.WaitDurable()
}

// needed gives those chunks that messages point to now.
func (c *Compactor) needed(items []state.Item) []state.Item {
	further := map[uint64]map[wal.Pos]bool{} // by segment
	kept := items[:0]
	for _, it := range items {
		id := it.Header.Segment
		c.o.Mu.Lock()
		if further[id] == nil {
			further[id] = c.o.State.Further(id)
		}
		if further[id][it.Pos] || c.o.State.FirstChunk(it) {
			kept = append(kept, it)
		}
		c.o.Mu.Unlock()
	}
	return kept
}

func (c *Compactor) moveChunk(it state.Item) (*wal.Commit, error) {
	first, index, err := record.ParseChunkHeader(it.Data)
	if err != nil {
		return nil, err
	}
	c.o.Mu.Lock()
	defer c.o.Mu.Unlock()
	owner := c.o.State.ChunkOwner(it, first, int(index))
	if owner == nil {
		return nil, nil
	}
	w, err := c.o.Append(wal.Record{Header: it.Header, Data: [][]byte{it.Data}})
	if err == nil {
		owner(w.Pos(0))
	}
	return w, err
}
