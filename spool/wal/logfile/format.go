package logfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// The layout of a file:
//
//	0     header, in one sector
//	4096  the same again
//	8192  records, the last one of KindEnd
//	      footer: entries
//	end   trailer
const (
	// DataStart is where the first record of a file stands.
	DataStart = 8192
	// TrailerSize is what the end of a file takes.
	TrailerSize = 96
	// EntrySize is what a record takes in the footer, besides its data.
	EntrySize = 36
	// MinSize and MaxSize bound the size of a file.
	MinSize = 32 << 10
	MaxSize = 1 << 30

	version    = 1
	secondCopy = 4096
	labelSize  = 64

	labelMagic   = "clrwalF1"
	trailerMagic = "clrwalT1"
)

// Reasons why a file is not one of this log's.
var (
	errForeign = errors.New("not a file of the log")
	errVersion = errors.New("unknown format version")
	errStore   = errors.New("file of another store")
	errLabel   = errors.New("file header damaged")
)

// label is what a file says about itself in its header.
type label struct {
	store [16]byte
	inc   uint64
	size  int64
}

func (l label) encode() []byte {
	b := make([]byte, labelSize)
	le := binary.LittleEndian
	copy(b, labelMagic)
	le.PutUint32(b[8:], version)
	copy(b[16:], l.store[:])
	le.PutUint64(b[32:], l.inc)
	le.PutUint64(b[40:], uint64(l.size))
	le.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
	return b
}

// parseLabel reads one copy of a file's header.
func parseLabel(b []byte) (label, error) {
	le := binary.LittleEndian
	switch {
	case len(b) < labelSize || string(b[:8]) != labelMagic:
		return label{}, errForeign
	case le.Uint32(b[60:]) != crc32.Checksum(b[:60], castagnoli):
		if v := le.Uint32(b[8:]); v != version {
			return label{}, fmt.Errorf("%w %d", errVersion, v)
		}
		return label{}, errLabel
	case le.Uint32(b[8:]) != version:
		return label{}, fmt.Errorf("%w %d", errVersion, le.Uint32(b[8:]))
	}
	return label{store: [16]byte(b[16:32]), inc: le.Uint64(b[32:]), size: int64(le.Uint64(b[40:]))}, nil
}

// trailer is the last thing in a sealed file. It vouches for every record
// before end: they were durable before it was written.
type trailer struct {
	inc    uint64
	end    int64 // where the record of KindEnd stands
	footer int64 // where the footer begins
	length int64 // of the footer
	sum    uint32
	count  uint32 // of the entries
	scan   bool   // there are no entries: read the records themselves
	lost   bool   // records were missing when it was written
}

const (
	flagScan = 1
	flagLost = 2
)

func (t trailer) encode() []byte {
	b := make([]byte, TrailerSize)
	le := binary.LittleEndian
	copy(b, trailerMagic)
	le.PutUint32(b[8:], version)
	var flags uint32
	if t.scan {
		flags |= flagScan
	}
	if t.lost {
		flags |= flagLost
	}
	le.PutUint32(b[12:], flags)
	le.PutUint64(b[16:], t.inc)
	le.PutUint64(b[24:], uint64(t.end))
	le.PutUint64(b[32:], uint64(t.footer))
	le.PutUint64(b[40:], uint64(t.length))
	le.PutUint32(b[48:], t.sum)
	le.PutUint32(b[52:], t.count)
	le.PutUint32(b[92:], crc32.Checksum(b[:92], castagnoli))
	return b
}

// parseTrailer reads the last octets of a file of that size and incarnation.
func parseTrailer(b []byte, inc uint64, size int64) (trailer, bool) {
	le := binary.LittleEndian
	if string(b[:8]) != trailerMagic || le.Uint32(b[92:]) != crc32.Checksum(b[:92], castagnoli) ||
		le.Uint32(b[8:]) != version || le.Uint64(b[16:]) != inc {
		return trailer{}, false
	}
	flags := le.Uint32(b[12:])
	t := trailer{
		inc: inc, end: int64(le.Uint64(b[24:])), footer: int64(le.Uint64(b[32:])), length: int64(le.Uint64(b[40:])),
		sum: le.Uint32(b[48:]), count: le.Uint32(b[52:]), scan: flags&flagScan != 0, lost: flags&flagLost != 0,
	}
	ok := t.end >= DataStart && t.end <= size && t.footer >= t.end && t.length >= 0 && t.footer <= size-t.length
	return t, ok
}

// Footer collects the entries of a file: offset u32, length u32, kind and
// whether data follow u32, segment, epoch, seq, data. When they would take
// more than limit, small records fill the file and reading them all is as
// cheap as reading a footer: it gives up then.
type Footer struct {
	limit int64
	b     []byte
	count uint32
	full  bool
}

const entryData = 1 << 8

// NewFooter makes an empty one for a file.
func NewFooter(fileSize int64) *Footer { return &Footer{limit: fileSize / 4} }

// Grown tells how long the footer would be with a record of that data length;
// 0 once it has given up.
func (f *Footer) Grown(n int64) int64 {
	if size := int64(len(f.b)) + n; !f.full && size <= f.limit {
		return size
	}
	return 0
}

// Add puts a record in. withData says that the parts belong to the entry.
func (f *Footer) Add(off int64, h Header, parts [][]byte, withData bool) {
	n := int64(EntrySize)
	if withData {
		n += int64(h.Len)
	}
	if f.Grown(n) == 0 {
		f.full, f.b, f.count = true, nil, 0
		return
	}
	kind := uint32(h.Kind)
	if withData {
		kind |= entryData
	}
	le := binary.LittleEndian
	b := le.AppendUint32(f.b, uint32(off))
	b = le.AppendUint32(b, h.Len)
	b = le.AppendUint32(b, kind)
	b = le.AppendUint64(b, h.Segment)
	b = le.AppendUint64(b, h.Epoch)
	b = le.AppendUint64(b, h.Seq)
	if withData {
		for _, p := range parts {
			b = append(b, p...)
		}
	}
	f.b = b
	f.count++
}

// Empty tells whether no record was put in.
func (f *Footer) Empty() bool { return f.count == 0 && !f.full }

// nextEntry takes the first entry off a footer. data is nil where none was
// kept; false says that the footer ends within the entry.
func nextEntry(b []byte) (off int64, h Header, data, rest []byte, ok bool) {
	if len(b) < EntrySize {
		return 0, Header{}, nil, nil, false
	}
	le := binary.LittleEndian
	kind := le.Uint32(b[8:])
	off = int64(le.Uint32(b))
	h = Header{
		Segment: le.Uint64(b[12:]), Epoch: le.Uint64(b[20:]), Seq: le.Uint64(b[28:]),
		Kind: Kind(kind), Len: le.Uint32(b[4:]),
	}
	b = b[EntrySize:]
	if kind&entryData == 0 {
		return off, h, nil, b, true
	}
	if int64(h.Len) > int64(len(b)) {
		return 0, Header{}, nil, nil, false
	}
	return off, h, b[:h.Len:h.Len], b[h.Len:], true
}

// checkEntries tells what is wrong with a footer whose checksum is right, and
// whether it has all the data that are needed: a kind may have been bulk when
// it was written.
func checkEntries(b []byte, t trailer, bulk func(Kind) bool) (enough bool, err error) {
	end := int64(DataStart)
	enough = true
	for range t.count {
		off, h, data, rest, ok := nextEntry(b)
		if !ok || off < end || off%8 != 0 || h.Kind == 0 || h.Kind > MaxKind {
			return false, errors.New("entries make no sense")
		}
		b, end = rest, off+RecordSize(int(h.Len))
		enough = enough && (data != nil || bulk(h.Kind))
	}
	if len(b) > 0 || end > t.end {
		return false, errors.New("entries do not fit")
	}
	return enough, nil
}
