package logfile

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/clrelay/clrelay/internal/vfs"
)

// File is one file of the log.
type File struct {
	Num  uint32 // its place in the row
	Inc  uint64 // incarnation: the number and a random part
	Path string
	Disk vfs.File
	Size int64 // on the disk
	Want int64 // the size that it was made with

	Foot   *Footer // while it is being filled
	End    int64   // of the records, when it is complete
	Sealed bool    // has footer and trailer

	Damaged bool // must not be freed
	Lost    bool // and that for more than a copy of the file header

	trailer trailer
}

// DamageError is a part of the log that cannot be read as what it was.
type DamageError struct {
	Path   string
	File   uint32 // number; 0 where the file does not tell
	Offset int64
	Len    int64   // how far it goes, as far as that is known
	What   string  // "record header", "record data" and so on
	Header *Header // of the record, where it is still readable
	Err    error   // what the disk said, if that was it
}

// Error names file and offset.
func (e *DamageError) Error() string {
	s := fmt.Sprintf("wal: damage in %s at offset %d, %d octets: %s", e.Path, e.Offset, e.Len, e.What)
	if e.Header != nil {
		s += fmt.Sprintf(" (segment %d, seq %d, kind %d)", e.Header.Segment, e.Header.Seq, e.Header.Kind)
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap gives what the disk said.
func (e *DamageError) Unwrap() error { return e.Err }

// Relabel gives a file its next incarnation, with that number, and syncs it:
// what it held is no longer there. A trailer at its end goes too: it would be
// the last witness of what the file was.
func (f *File) Relabel(store [16]byte, num uint32) error {
	var salt [4]byte
	rand.Read(salt[:]) // never fails (Go 1.24)
	*f = File{
		Num: num, Inc: uint64(num)<<32 | uint64(binary.LittleEndian.Uint32(salt[:])),
		Path: f.Path, Disk: f.Disk, Size: f.Size, Want: f.Want,
	}
	b := make([]byte, secondCopy+labelSize)
	enc := label{store: store, inc: f.Inc, size: f.Want}.encode()
	copy(b, enc)
	copy(b[secondCopy:], enc)
	if _, err := f.Disk.WriteAt(b, 0); err != nil {
		return err
	}
	if f.Size >= DataStart+TrailerSize {
		if _, err := f.Disk.WriteAt(make([]byte, TrailerSize), f.Size-TrailerSize); err != nil {
			return err
		}
	}
	return f.Disk.Sync()
}

// Read reads one record. hint is how long its data are expected to be. They
// lie in buf if it has room for them and HeaderSize more, else in new memory.
func (f *File) Read(off int64, hint int, buf []byte) (Header, []byte, error) {
	if off < DataStart || off%8 != 0 || off > f.Size-HeaderSize {
		return Header{}, nil, fmt.Errorf("wal: read %s at %d: no record can be there", f.Path, off)
	}
	want := HeaderSize + int(min(max(int64(hint), 0), f.Size-off-HeaderSize))
	if cap(buf) < want {
		buf = make([]byte, want)
	}
	buf = buf[:want]
	n, err := f.Disk.ReadAt(buf, off)
	if n < HeaderSize {
		return Header{}, nil, f.unreadable("record header", off, nil, err)
	}
	h, sum, ok := parseHeader(buf, f.Inc, off)
	if !ok {
		return Header{}, nil, f.unreadable("record header", off, nil, nil)
	}
	size := HeaderSize + int(h.Len)
	if int64(size) > f.Size-off {
		return h, nil, f.unreadable("record data cut off", off, &h, nil)
	}
	if size > n {
		if cap(buf) < size {
			buf = append(make([]byte, 0, size), buf[:n]...)
		}
		buf = buf[:size]
		k, err := f.Disk.ReadAt(buf[n:], off+int64(n))
		if k < size-n {
			return h, nil, f.unreadable("record data", off, &h, err)
		}
	}
	data := buf[HeaderSize:size:size]
	if crc32.Checksum(data, castagnoli) != sum {
		return h, nil, f.unreadable("record data", off, &h, nil)
	}
	return h, data, nil
}

// unreadable makes the error of a record; h is its header, where that is
// right.
func (f *File) unreadable(what string, off int64, h *Header, err error) error {
	if errors.Is(err, io.EOF) {
		err = nil
	}
	e := &DamageError{Path: f.Path, File: f.Num, Offset: off, Len: HeaderSize, What: what, Err: err}
	if h != nil {
		header := *h // so that the reader's own stays off the heap
		e.Header, e.Len = &header, RecordSize(int(h.Len))
	}
	return e
}

// footing makes the trailer of a complete file, but for the footer's place.
// The footer of a damaged file would hide the damage.
func (f *File) footing() trailer {
	t := trailer{inc: f.Inc, end: f.End, scan: f.Foot.full || f.Lost, lost: f.Lost}
	if t.scan {
		f.Foot.b, f.Foot.count = nil, 0
	}
	t.length, t.count, t.sum = int64(len(f.Foot.b)), f.Foot.count, crc32.Checksum(f.Foot.b, castagnoli)
	return t
}

// SealFull writes footer and trailer of a file that was filled and is durable.
// It has run do each write and sync, and stops when that gives false. The file
// counts as sealed after the function that it returns, which is nil then.
func (f *File) SealFull(run func(func() error) bool) func() {
	t := f.footing()
	t.footer = f.Size - TrailerSize - t.length
	off := t.footer
	for _, step := range [][]byte{f.Foot.b, t.encode()} { // a trailer vouches for the footer, too
		write := func() error {
			_, err := f.Disk.WriteAt(step, off)
			off += int64(len(step))
			return err
		}
		if !run(write) || !run(f.Disk.Sync) {
			return nil
		}
	}
	return func() { f.Sealed, f.trailer, f.Foot = true, t, nil }
}

// SealShort ends a file before it is full: it writes the end, footer and
// trailer right behind the records and cuts the rest off.
func (f *File) SealShort() error {
	t := f.footing()
	t.footer = f.End + HeaderSize
	size := t.footer + t.length + TrailerSize
	if size > f.Size && !t.scan {
		f.Foot.full = true // as good, only slower to read
		return f.SealShort()
	}
	end := make([]byte, HeaderSize)
	PutHeader(end, f.Inc, f.End, Header{Kind: KindEnd}, 0)
	// Each step is durable before the next: a trailer vouches for the footer,
	// and a file that was cut without a trailer would look damaged.
	for _, step := range []func() error{
		func() error { _, err := f.Disk.WritevAt([][]byte{end, f.Foot.b}, f.End); return err },
		func() error { _, err := f.Disk.WriteAt(t.encode(), size-TrailerSize); return err },
		func() error { return f.Disk.Truncate(size) },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("wal: seal %s: %w", f.Path, err)
		}
		if err := f.Disk.Sync(); err != nil {
			return fmt.Errorf("wal: sync %s: %w", f.Path, err)
		}
	}
	f.Sealed, f.trailer, f.Foot, f.Size = true, t, nil, size
	return nil
}

// Rewrite writes everything from an offset to the end of the records over
// itself and syncs it.
func (f *File) Rewrite(from int64) error {
	from = max(from, DataStart)
	buf := make([]byte, min(1<<20, max(f.End-from, 0)))
	for from < f.End {
		b := buf[:min(int64(len(buf)), f.End-from)]
		n, err := f.Disk.ReadAt(b, from)
		if err != nil && !(errors.Is(err, io.EOF) && f.End-from-int64(n) < 8) {
			return fmt.Errorf("wal: read %s: %w", f.Path, err)
		}
		// In a file that was cut off the last record may lack its padding.
		clear(b[n:])
		if _, err := f.Disk.WriteAt(b, from); err != nil {
			return fmt.Errorf("wal: rewrite %s: %w", f.Path, err)
		}
		from += int64(len(b))
	}
	if err := f.Disk.Sync(); err != nil {
		return fmt.Errorf("wal: sync %s: %w", f.Path, err)
	}
	return nil
}
