package spool

import (
	"errors"
	"fmt"
	"slices"

	"github.com/clrelay/clrelay/spool/record"
	"github.com/clrelay/clrelay/spool/state"
	"github.com/clrelay/clrelay/spool/wal"
)

// batchBytes is how much compaction copies under one hold of the lock.
const batchBytes = 1 << 20

// wakeCompactor does so when there may be something for it to do. s.mu is
// held.
func (s *Spool) wakeCompactor() {
	if s.state.Reclaimable(s.opts.FileSize / 8) {
		s.kick()
	}
}

func (s *Spool) kick() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// wrote notices that the log went on to another file, which may make an older
// one worth compacting. s.mu is held.
func (s *Spool) wrote(c *wal.Commit) {
	s.last = c
	s.top = c.Top()
	if file := c.Pos(0).File(); file != s.head {
		s.head = file
		s.kick()
	}
}

// compactor runs from Each to Close.
func (s *Spool) compactor() {
	defer s.background.Done()
	for {
		select {
		case <-s.wake:
		case <-s.stop:
			return
		}
		if err := s.Compact(); err != nil && !errors.Is(err, wal.ErrClosed) && !errors.Is(err, wal.ErrPoisoned) {
			s.opts.Log.Warn("compaction", "err", err)
		}
	}
}

// Compact frees the log files that hold nothing that is needed, and moves
// what little is needed out of others. The spool does it by itself from Each
// on; before, it must not be called.
func (s *Spool) Compact() error {
	s.compacting.Lock()
	defer s.compacting.Unlock()
	s.mu.Lock()
	s.state.Compacting()
	s.mu.Unlock()
	for {
		empty, move := s.candidates()
		if err := s.free(empty); err != nil {
			return err
		}
		if len(empty) > 0 {
			continue // killers may have become needless
		}
		if move == 0 {
			return nil
		}
		err := s.compact(move)
		if damage := (*wal.DamageError)(nil); errors.As(err, &damage) {
			// The log keeps the file from now on; the others go on.
			s.opts.Log.Error("a damaged log file stays", "err", err)
		} else if err != nil {
			return err
		}
		select {
		case <-s.stop:
			return nil
		default:
		}
	}
}

// candidates gives the files that can be freed at once, and one that is worth
// moving, the oldest first; 0: none. On a full disk the last room is for
// results: what is moved must fit into a spare file, so that half of it
// remains until a whole file comes back.
func (s *Spool) candidates() (empty []uint32, move uint32) {
	files := s.log.Files()
	spares := s.log.Spares()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range files {
		e, m := s.state.Disposable(f, s.opts.FileSize, s.head)
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
func (s *Spool) free(files []uint32) error {
	if len(files) == 0 {
		return nil
	}
	if err := s.tellLast(files); err != nil {
		return err
	}
	// What made them needless may have been written and not synced.
	if err := s.log.Sync(); err != nil {
		return fmt.Errorf("spool: before freeing log files: %w", err)
	}
	for _, f := range files {
		err := s.log.Free(f)
		s.mu.Lock()
		if err == nil {
			s.state.Freed(f)
		} else if errors.Is(err, wal.ErrDamaged) {
			s.state.Stale(f)
			err = nil
		}
		s.mu.Unlock()
		if err != nil {
			return fmt.Errorf("spool: freeing log file %d: %w", f, err)
		}
	}
	return nil
}

// tellLast writes the header of each replicated segment whose highest number
// may be known from a record in these files alone.
func (s *Spool) tellLast(files []uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.state.Untold(slices.Max(files)) {
		if err := s.putHeader(g); err != nil {
			return err
		}
	}
	return nil
}

// compact moves all that is needed out of a file and frees it. Chunks go
// first: should one of them be unreadable, the file stays, and then no commit
// record may have been copied, for its older copy would be unknown to killers.
func (s *Spool) compact(file uint32) error {
	var chunks, rest []state.Item
	err := s.log.Scan(file, func(pos wal.Pos, h wal.Header, data []byte) error {
		it := state.Item{Pos: pos, Header: h, Data: data}
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case isBulk(h.Kind):
			if s.state.Segment(h.Segment) != nil {
				chunks = append(chunks, it)
			}
		case s.state.Owner(it) != nil:
			it.Data = slices.Clone(data)
			rest = append(rest, it)
		}
		return nil
	})
	if err == nil {
		err = s.moveChunks(chunks)
	}
	if err == nil {
		err = s.move(rest)
	}
	if err != nil {
		return fmt.Errorf("spool: compacting log file %d: %w", file, err)
	}
	s.mu.Lock()
	missing := s.state.Moved(file)
	if missing > 0 {
		s.state.Stale(file)
	}
	s.mu.Unlock()
	if missing > 0 {
		return fmt.Errorf("spool: compacting log file %d: %d records that are needed cannot be found in it", file, missing)
	}
	return s.free([]uint32{file})
}

// move appends what is still needed of the items and waits until it is
// durable.
func (s *Spool) move(items []state.Item) error {
	var last *wal.Commit
	for len(items) > 0 {
		n, size := 0, int64(0)
		for n < len(items) {
			size += wal.RecordSize(len(items[n].Data))
			if n > 0 && size > min(batchBytes, int64(s.limit)) {
				break
			}
			n++
		}
		c, err := s.moveBatch(items[:n])
		if err == nil && c != nil {
			last = c
			err = c.WaitWritten() // bounds what is pending
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

func (s *Spool) moveBatch(items []state.Item) (*wal.Commit, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var recs []wal.Record
	var owners []func(wal.Pos)
	for _, it := range items {
		if owner := s.state.Owner(it); owner != nil {
			owners = append(owners, owner)
			recs = append(recs, wal.Record{Header: it.Header, Data: [][]byte{it.Data}})
		}
	}
	if len(recs) == 0 {
		return nil, nil
	}
	c, err := s.append(recs...)
	if err != nil {
		return nil, err
	}
	for i, owner := range owners {
		owner(c.Pos(i))
	}
	return c, nil
}

// moveChunks copies the chunks that are needed, one by one: they are large.
func (s *Spool) moveChunks(items []state.Item) error {
	var buf []byte
	var last *wal.Commit
	for _, it := range s.needed(items) {
		if size := int(it.Header.Len) + wal.HeaderSize; cap(buf) < size {
			buf = make([]byte, size)
		}
		h, data, err := s.log.ReadAt(it.Pos, int(it.Header.Len), buf)
		if err != nil {
			return err
		}
		c, err := s.moveChunk(state.Item{Pos: it.Pos, Header: h, Data: data})
		if err == nil && c != nil {
			last = c
			err = c.WaitWritten() // the buffer is used again
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
func (s *Spool) needed(items []state.Item) []state.Item {
	further := map[uint64]map[wal.Pos]bool{} // by segment
	kept := items[:0]
	for _, it := range items {
		id := it.Header.Segment
		s.mu.Lock()
		if further[id] == nil {
			further[id] = s.state.Further(id)
		}
		if further[id][it.Pos] || s.state.FirstChunk(it) {
			kept = append(kept, it)
		}
		s.mu.Unlock()
	}
	return kept
}

func (s *Spool) moveChunk(it state.Item) (*wal.Commit, error) {
	first, index, err := record.ParseChunkHeader(it.Data)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	owner := s.state.ChunkOwner(it, first, int(index))
	if owner == nil {
		return nil, nil
	}
	c, err := s.append(wal.Record{Header: it.Header, Data: [][]byte{it.Data}})
	if err == nil {
		owner(c.Pos(0))
	}
	return c, err
}
