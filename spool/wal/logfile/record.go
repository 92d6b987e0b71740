package logfile

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// HeaderSize is what a record takes on the disk besides its data. Records
// begin at multiples of 8.
const HeaderSize = 48

// Kind says what a record is. Those above MaxKind are the log's own.
type Kind uint8

// MaxKind is the highest kind a caller may use; 0 is none.
const MaxKind Kind = 0xEF

// The log's own kinds.
const (
	// KindMark begins each write; its Seq is the Pos up to which the log was
	// durable before.
	KindMark Kind = 0xFE
	// KindEnd says that the file's records end here and the log goes on in
	// the next one.
	KindEnd Kind = 0xFF
)

// Header is what the log keeps about a record, beside its place.
type Header struct {
	Segment, Epoch, Seq uint64
	Kind                Kind
	Len                 uint32 // of the data
}

// Pos is the place of a record. Places are ordered as the log is.
type Pos uint64

// MakePos gives the place at an offset of a file.
func MakePos(file uint32, off int64) Pos { return Pos(file)<<32 | Pos(off) }

// File is the number of the file.
func (p Pos) File() uint32 { return uint32(p >> 32) }

// Offset is the place in the file.
func (p Pos) Offset() int64 { return int64(p & 0xFFFFFFFF) }

// String gives "file:offset".
func (p Pos) String() string { return fmt.Sprintf("%d:%d", p.File(), p.Offset()) }

// RecordSize tells how much of a file a record with n octets of data takes.
func RecordSize(n int) int64 { return aligned(HeaderSize + int64(n)) }

func aligned(n int64) int64 { return (n + 7) &^ 7 }

// castagnoli is computed by the processor itself on amd64 and arm64.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// PutHeader encodes a header:
//
//	0 crc u32 of what follows, bound to the offset | 4 len u32 | 8 crc u32 of the data |
//	12 kind u8, 3 zeros | 16 incarnation | 24 segment | 32 epoch | 40 seq
//
// Bound to offset and incarnation, a copy of a record that stands somewhere
// else, such as in a mail that carries a log file, is never taken for one.
func PutHeader(b []byte, inc uint64, off int64, h Header, sum uint32) {
	le := binary.LittleEndian
	le.PutUint32(b[4:], h.Len)
	le.PutUint32(b[8:], sum)
	le.PutUint32(b[12:], uint32(h.Kind))
	le.PutUint64(b[16:], inc)
	le.PutUint64(b[24:], h.Segment)
	le.PutUint64(b[32:], h.Epoch)
	le.PutUint64(b[40:], h.Seq)
	le.PutUint32(b, headerSum(b, off))
}

// headerSum is the CRC of a header, changed by an odd multiple of the offset
// so that no two offsets in a file agree on it.
func headerSum(b []byte, off int64) uint32 {
	return crc32.Checksum(b[4:HeaderSize], castagnoli) ^ uint32(off/8)*0x9E3779B1
}

// parseHeader decodes a header and the CRC of its data, if it is one.
func parseHeader(b []byte, inc uint64, off int64) (h Header, sum uint32, ok bool) {
	le := binary.LittleEndian
	if le.Uint64(b[16:]) != inc || le.Uint32(b) != headerSum(b, off) {
		return Header{}, 0, false
	}
	h = Header{
		Segment: le.Uint64(b[24:]), Epoch: le.Uint64(b[32:]), Seq: le.Uint64(b[40:]),
		Kind: Kind(b[12]), Len: le.Uint32(b[4:]),
	}
	return h, le.Uint32(b[8:]), true
}

// DataSum is the CRC of a record's data.
func DataSum(parts [][]byte) uint32 {
	var sum uint32
	for _, p := range parts {
		sum = crc32.Update(sum, castagnoli, p)
	}
	return sum
}
