package books

import (
	"slices"

	"github.com/clrelay/clrelay/spool/record"
	"github.com/clrelay/clrelay/spool/wal"
)

// Tomb is the record that a segment was forgotten here: what of it lies in
// the log up to Below is dead. It is needed as long as one of the files exists
// that may hold such records; the newest one is kept, too, for its index.
type Tomb struct {
	Segment uint64
	Pos     wal.Pos // of the record
	Size    int64
	record.Forget
}

// Tombs are the tombs that are needed.
type Tombs struct {
	books *Books
	list  []Tomb
	floor uint64
}

// NewTombs makes tombs whose records count in b.
func NewTombs(b *Books) *Tombs { return &Tombs{books: b} }

// Add enters one.
func (t *Tombs) Add(n Tomb) {
	i := slices.IndexFunc(t.list, func(o Tomb) bool { return o.Segment == n.Segment && o.Forget == n.Forget })
	if i >= 0 { // a copy, made by a compaction that a crash has ended
		t.books.Drop(t.list[i].Pos.File(), t.list[i].Size)
		t.list = slices.Delete(t.list, i, i+1)
	}
	t.books.Add(n.Pos.File(), n.Size)
	t.list = append(t.list, n)
	t.floor = max(t.floor, n.Index)
	t.Bury()
}

// Bury drops the tombs that are needed no more, as some are when a file is
// gone.
func (t *Tombs) Bury() {
	newest := false
	kept := t.list[:0]
	for _, o := range t.list {
		top := o.Index == t.floor && !newest
		newest = newest || top
		if !top && !t.books.Any(o.From, wal.Pos(o.Below).File()) {
			t.books.Drop(o.Pos.File(), o.Size)
			continue
		}
		kept = append(kept, o)
	}
	t.list = kept
}

// Floor is the highest index of a Raft entry that made a segment be
// forgotten.
func (t *Tombs) Floor() uint64 { return t.floor }

// Gone is the place up to which a segment was forgotten.
func (t *Tombs) Gone(segment uint64) (pos wal.Pos) {
	for _, o := range t.list {
		if o.Segment == segment {
			pos = max(pos, wal.Pos(o.Below))
		}
	}
	return pos
}

// Owner gives the function that notes the new place of the tomb's record at
// that place, or nil if it is needed no more.
func (t *Tombs) Owner(at wal.Pos) func(wal.Pos) {
	i := slices.IndexFunc(t.list, func(o Tomb) bool { return o.Pos == at })
	if i < 0 {
		return nil
	}
	return func(pos wal.Pos) {
		t.books.Moved(at.File(), pos.File(), t.list[i].Size)
		t.list[i].Pos = pos
	}
}
