package logfile

import (
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"time"

	"github.com/clrelay/clrelay/internal/vfs"
)

// Visit is told a record, in the order of the log. data is nil for bulk kinds
// and valid only during the call.
type Visit func(pos Pos, h Header, data []byte) error

// Report says what was found.
type Report struct {
	Files   int    // that hold records
	Scanned int    // of them, those whose records had to be read one by one
	Records uint64 // visited
	Damage  []*DamageError
	Tail    *Tail // nil when the log ended cleanly
	Took    time.Duration
}

// Tail is where a log ended that was cut off by a crash. What was behind had
// not been acknowledged.
type Tail struct {
	Path    string
	File    uint32
	Offset  int64
	Dropped uint64 // records that could be read behind it
}

// Options are those of package wal that matter for reading.
type Options struct {
	FS       vfs.FS
	Dir      string
	StoreID  [16]byte
	FileSize int64
	Bulk     func(Kind) bool
	ReadOnly bool
	Verify   bool
}

// Replay visits the records of files in order, and finds out where the log
// ends.
type Replay struct {
	Report Report
	// Synced is a place up to which the log is known to have been durable.
	Synced Pos

	o     Options
	visit Visit
	buf   []byte
	foot  []byte
	empty bool // a file without a single record has been seen
}

// NewReplay makes a replay that tells visit.
func NewReplay(o Options, visit Visit) *Replay { return &Replay{o: o, visit: visit} }

// Scan visits the records of one sealed file.
func (r *Replay) Scan(f *File) error {
	c := *f // its own marks of damage are those of a log
	return r.sealed(&c)
}

// damage puts something into the report.
func (r *Replay) damage(f *File, off, n int64, what string, h *Header) {
	f.Damaged = true
	r.Report.Damage = append(r.Report.Damage, &DamageError{Path: f.Path, File: f.Num, Offset: off, Len: max(n, 0), What: what, Header: h})
}

func (r *Replay) scanner(f *File, limit int64) *scanner {
	if r.buf == nil {
		r.buf = make([]byte, window)
	}
	return newScanner(f, limit, r.o.Bulk, r.buf)
}

// Run visits everything up to the end of the log and tells how many of the
// files, which List gave, are part of it.
func (r *Replay) Run(all []*File) (int, error) {
	r.findSynced(all)
	return r.run(all)
}

// findSynced finds the highest statement of durability: that of a mark, or a
// trailer, which states all before it.
func (r *Replay) findSynced(all []*File) {
	empty := false
	for _, f := range all {
		if f.Sealed {
			r.Synced = max(r.Synced, MakePos(f.Num, f.trailer.end))
			continue
		}
		s := r.scanner(f, f.Size)
		if empty && !s.starts() {
			continue // reading one spare to its end is proof enough that the next is no part of the log
		}
		for {
			it, ok := s.next()
			if !ok || it.h.Kind == KindEnd {
				break
			}
			if it.gap && it.off == DataStart && it.end == s.limit {
				empty = true
			}
			if it.h.Kind == KindMark && !it.bad {
				r.Synced = max(r.Synced, Pos(it.h.Seq))
			}
		}
		r.buf = s.buf[:0]
	}
}

func (r *Replay) run(all []*File) (int, error) {
	for i, f := range all {
		if f.Sealed {
			if err := r.sealed(f); err != nil {
				return i, err
			}
			continue
		}
		tail, err := r.unsealed(f)
		if err != nil {
			return i, err
		}
		if !tail {
			continue
		}
		for _, behind := range all[i+1:] {
			r.drop(behind)
		}
		if f.Foot.Empty() && !f.Lost {
			if r.Report.Tail.Dropped == 0 {
				r.Report.Tail = nil
			}
			return i, nil
		}
		return i + 1, nil
	}
	return len(all), nil
}

// sealed visits a sealed file's records, from its footer if that will do.
func (r *Replay) sealed(f *File) error {
	if !f.trailer.scan {
		enough, err := r.readFooter(f)
		if err != nil {
			r.damage(f, f.trailer.footer, f.trailer.length, "footer: "+err.Error(), nil)
		}
		if enough && !r.o.Verify {
			return r.entries(f, r.foot)
		}
	}
	r.Report.Scanned++
	f.End = f.trailer.end
	s := r.scanner(f, f.trailer.end)
	defer func() { r.buf = s.buf[:0] }()
	for {
		it, ok := s.next()
		if !ok {
			break
		}
		if it.gap || it.bad {
			r.lost(f, s, it, it.end)
			continue
		}
		if err := r.record(f, it); err != nil {
			return err
		}
	}
	if f.trailer.lost && !f.Lost {
		r.damage(f, f.trailer.end, 0, "what was here is missing", nil)
		f.Lost = true
	}
	return nil
}

// readFooter reads a sealed file's footer into r.foot and tells whether it
// makes reading the records needless.
func (r *Replay) readFooter(f *File) (enough bool, err error) {
	t := f.trailer
	if int64(cap(r.foot)) < t.length {
		r.foot = make([]byte, t.length)
	}
	r.foot = r.foot[:t.length]
	if _, err := f.Disk.ReadAt(r.foot, t.footer); err != nil {
		return false, err
	}
	if crc32.Checksum(r.foot, castagnoli) != t.sum {
		return false, errors.New("checksum does not match")
	}
	return checkEntries(r.foot, t, r.o.Bulk)
}

func (r *Replay) entries(f *File, b []byte) error {
	f.End = f.trailer.end
	for range f.trailer.count {
		off, h, data, rest, _ := nextEntry(b) // readFooter has checked them all
		b = rest
		if r.o.Bulk(h.Kind) {
			data = nil
		}
		r.Report.Records++
		if err := r.visit(MakePos(f.Num, off), h, data); err != nil {
			return fmt.Errorf("wal: replay %s at %d: %w", f.Path, off, err)
		}
	}
	return nil
}

// record visits one record that was read itself.
func (r *Replay) record(f *File, it item) error {
	if it.h.Kind > MaxKind {
		return nil
	}
	if f.Foot != nil {
		f.Foot.Add(it.off, it.h, [][]byte{it.data}, !r.o.Bulk(it.h.Kind))
	}
	r.Report.Records++
	if err := r.visit(MakePos(f.Num, it.off), it.h, it.data); err != nil {
		return fmt.Errorf("wal: replay %s at %d: %w", f.Path, it.off, err)
	}
	return nil
}

// lost reports what is unreadable from an item on up to end.
func (r *Replay) lost(f *File, s *scanner, it item, end int64) {
	f.Lost = true
	what, h := "record header", (*Header)(nil)
	if it.bad {
		what, h = "record data", &it.h
	}
	r.damage(f, it.off, end-it.off, what, h)
	r.Report.Damage[len(r.Report.Damage)-1].Err = s.readErr
}

// unsealed visits the records of a file without a trailer. It tells whether
// the log ends in it.
func (r *Replay) unsealed(f *File) (tail bool, err error) {
	f.Foot = NewFooter(r.o.FileSize)
	f.End = DataStart
	var synced int64 // in this file
	switch {
	case r.Synced.File() > f.Num:
		synced = math.MaxInt64 // its end is no end of the log, even if it was cut off
	case r.Synced.File() == f.Num:
		synced = r.Synced.Offset()
	}
	r.Report.Scanned++
	s := r.scanner(f, f.Size)
	defer func() { r.buf = s.buf[:0] }()
	for {
		it, ok := s.next()
		switch {
		case !ok && f.End >= synced, (it.gap || it.bad) && it.off >= synced:
			r.empty = it.gap && it.off == DataStart && it.end == s.limit
			return true, r.tail(f, s, f.End)
		case !ok:
			return false, nil // the record of its end was in what is lost
		case it.gap && it.end == s.limit && it.end > synced:
			// Whether the log went on behind what is lost is not known: if
			// the next file has records, it did.
			r.lost(f, s, it, synced)
			f.End = synced
			return false, nil
		case it.gap || it.bad:
			r.lost(f, s, it, it.end)
		case it.h.Kind == KindEnd:
			f.End = it.off
			return false, nil
		default:
			if err := r.record(f, it); err != nil {
				return false, err
			}
		}
		f.End = it.end
	}
}

// tail ends the log in file f.
func (r *Replay) tail(f *File, s *scanner, end int64) error {
	if s.readErr != nil {
		// It might end here only because the disk refuses to give the rest.
		return fmt.Errorf("wal: find the end of %s: %w", f.Path, s.readErr)
	}
	r.Report.Tail = &Tail{Path: f.Path, File: f.Num, Offset: end}
	r.count(s)
	return nil
}

// drop counts what a file behind the end of the log holds.
func (r *Replay) drop(f *File) {
	s := r.scanner(f, f.Size)
	if r.empty && !s.starts() {
		return
	}
	it, ok := s.next()
	if ok && it.gap && it.end == s.limit {
		r.empty = true
	}
	if ok && !it.gap && !it.bad && it.h.Kind <= MaxKind {
		r.Report.Tail.Dropped++
	}
	r.count(s)
	r.buf = s.buf[:0]
}

// count counts the records that are left in a file.
func (r *Replay) count(s *scanner) {
	for it, ok := s.next(); ok && it.h.Kind != KindEnd; it, ok = s.next() {
		if !it.gap && !it.bad && it.h.Kind <= MaxKind {
			r.Report.Tail.Dropped++
		}
	}
}
