package logfile

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"

	"github.com/clrelay/clrelay/internal/vfs"
)

const (
	window = 256 << 10 // what the scanner reads at a time
	page   = 4096      // what it reads at a time where the disk refuses
)

// item is what the scanner finds: a record, or a gap in which there is none.
type item struct {
	off, end int64
	gap      bool
	h        Header
	data     []byte // without those of bulk kinds; valid until the next step
	bad      bool   // the header is right and the data are not
}

// scanner reads the records of one file in order. After what is unreadable it
// goes on at the next valid record, which it finds by incarnation and CRC.
type scanner struct {
	f     vfs.File
	inc   uint64
	bulk  func(Kind) bool
	off   int64
	limit int64 // no record goes beyond

	buf     []byte
	base    int64
	readErr error // the disk refused some page, which was taken for zeros
}

func newScanner(f *File, limit int64, bulk func(Kind) bool, buf []byte) *scanner {
	return &scanner{f: f.Disk, inc: f.Inc, bulk: bulk, off: DataStart, limit: limit, buf: buf[:0]}
}

// view gives n octets from off on, which lie before the limit.
func (s *scanner) view(off int64, n int) []byte {
	if from := off - s.base; from >= 0 && from+int64(n) <= int64(len(s.buf)) {
		return s.buf[from : from+int64(n)]
	}
	size := int(min(int64(max(n, window)), s.limit-off))
	if cap(s.buf) < size {
		s.buf = make([]byte, size)
	}
	s.buf, s.base = s.buf[:size], off
	if k, err := s.f.ReadAt(s.buf, off); err != nil {
		s.readPages(off, k, err)
	}
	return s.buf[:n]
}

// readPages fills the window page by page after the disk gave only k octets.
func (s *scanner) readPages(off int64, k int, err error) {
	if errors.Is(err, io.EOF) { // shorter than its size a moment ago
		clear(s.buf[k:])
		return
	}
	for from := 0; from < len(s.buf); from += page {
		p := s.buf[from:min(from+page, len(s.buf))]
		if k, err := s.f.ReadAt(p, off+int64(from)); err != nil {
			clear(p[k:])
			s.readErr = err
		}
	}
}

// starts tells whether a record stands where the first one has to.
func (s *scanner) starts() bool {
	if s.limit < DataStart+HeaderSize {
		return false
	}
	var b [HeaderSize]byte
	if _, err := s.f.ReadAt(b[:], DataStart); err != nil {
		return true // the scan will tell
	}
	_, _, ok := parseHeader(b[:], s.inc, DataStart)
	return ok
}

// next gives the next item; false at the limit.
func (s *scanner) next() (item, bool) {
	if s.off+HeaderSize > s.limit {
		return item{}, false
	}
	h, sum, ok := parseHeader(s.view(s.off, HeaderSize), s.inc, s.off)
	if !ok {
		it := item{off: s.off, gap: true}
		s.off = s.resync(s.off + 8)
		it.end = s.off
		return it, true
	}
	it := item{off: s.off, end: s.off + RecordSize(int(h.Len)), h: h}
	s.off = min(it.end, s.limit)
	if it.off+HeaderSize+int64(h.Len) > s.limit {
		it.bad, it.end = true, s.limit
		return it, true
	}
	if h.Kind > MaxKind || !s.bulk(h.Kind) {
		it.data = s.view(it.off+HeaderSize, int(h.Len))
		it.bad = crc32.Checksum(it.data, castagnoli) != sum
		return it, true
	}
	it.bad = s.sum(it.off+HeaderSize, int64(h.Len)) != sum
	return it, true
}

// sum is the CRC of data that nobody needs in one piece.
func (s *scanner) sum(off, n int64) uint32 {
	var sum uint32
	for n > 0 {
		// What the window holds already, else a whole window.
		k := min(n, window)
		if have := s.base + int64(len(s.buf)) - off; off >= s.base && have > 0 {
			k = min(n, have)
		}
		sum = crc32.Update(sum, castagnoli, s.view(off, int(k)))
		off += k
		n -= k
	}
	return sum
}

// resync finds the next valid header from off on, or the limit.
func (s *scanner) resync(off int64) int64 {
	for off+HeaderSize <= s.limit {
		n := min(window, s.limit-off)
		b := s.view(off, int(n))
		i := int64(0)
		for ; i+HeaderSize <= n; i += 8 {
			if binary.LittleEndian.Uint64(b[i+16:]) != s.inc {
				continue
			}
			if _, _, ok := parseHeader(b[i:], s.inc, off+i); ok {
				return off + i
			}
		}
		off += i
	}
	return s.limit
}
