package logfile

import (
	"fmt"
	"hash/crc32"
)

// Section reads the data of one record in parts. The zero value with Off set
// stands before the header.
type Section struct {
	Off    int64 // of the record
	Header Header
	sum    uint32 // the CRC that the data should have
	crc    uint32 // that of what was read
	done   uint32 // octets read
	begun  bool
}

// Begin reads the record's header. On another copy of the same record it goes
// on where reading the first one had got to.
func (s *Section) Begin(f *File, off int64) error {
	if off < DataStart || off%8 != 0 || off > f.Size-HeaderSize {
		return fmt.Errorf("wal: read %s at %d: no record can be there", f.Path, off)
	}
	var b [HeaderSize]byte
	if n, err := f.Disk.ReadAt(b[:], off); n < HeaderSize {
		return f.unreadable("record header", off, nil, err)
	}
	h, sum, ok := parseHeader(b[:], f.Inc, off)
	switch {
	case !ok:
		return f.unreadable("record header", off, nil, nil)
	case HeaderSize+int64(h.Len) > f.Size-off:
		return f.unreadable("record data cut off", off, &h, nil)
	case s.begun && (h != s.Header || sum != s.sum):
		return fmt.Errorf("wal: read %s at %d: no copy of the record that was being read", f.Path, off)
	}
	s.Off, s.Header, s.sum, s.begun = off, h, sum, true
	return nil
}

// Left tells how many octets have not been read.
func (s *Section) Left() int { return int(s.Header.Len - s.done) }

// Next reads the next octets, as many as p takes. The last ones are given only
// if the data are what was written.
func (s *Section) Next(f *File, p []byte) ([]byte, error) {
	p = p[:min(len(p), s.Left())]
	if n, err := f.Disk.ReadAt(p, s.Off+HeaderSize+int64(s.done)); n < len(p) {
		return nil, f.unreadable("record data", s.Off, &s.Header, err)
	}
	crc := crc32.Update(s.crc, castagnoli, p)
	if len(p) == s.Left() && crc != s.sum {
		return nil, f.unreadable("record data", s.Off, &s.Header, nil)
	}
	s.crc = crc
	s.done += uint32(len(p))
	return p, nil
}
