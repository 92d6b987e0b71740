package tracelog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"slices"

	"github.com/klauspost/compress/zstd"

	"github.com/clrelay/clrelay/internal/tracelog/record"
)

// A chunk in a file is its head, a filter of its keys, and its records,
// compressed:
//
//	0  magic, "CLTR"
//	4  CRC-32C of the octets from 8 to the end of the filter
//	8  number of the journal that it was made of, 8 octets
//	16 time of the first record and of the last, 8 octets each
//	32 records in it, their octets, compressed octets, those of the filter, 4 octets each
//	48 CRC-32C of the compressed octets
const (
	chunkMagic = "CLTR"
	chunkHead  = 52
	maxRaw     = 4 << 20 // of a chunk; more is damage
	maxPacked  = 8 << 20
	maxFilter  = 4 << 20
)

func castagnoli(b ...[]byte) (sum uint32) {
	table := crc32.MakeTable(crc32.Castagnoli)
	for _, p := range b {
		sum = crc32.Update(sum, table, p)
	}
	return sum
}

// chunk is where one lies in a file, and what its head says.
type chunk struct {
	at                      int64
	journal                 uint64
	first, last             int64 // microseconds
	records                 uint32
	raw, packed, filterSize uint32
	sum                     uint32
}

func (c *chunk) size() int64 { return chunkHead + int64(c.filterSize) + int64(c.packed) }

// codec packs and unpacks chunks.
type codec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

func newCodec() *codec {
	// Fixed options that the library takes cannot fail.
	enc, _ := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false))
	dec, _ := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxRaw), zstd.WithDecoderLowmem(true))
	return &codec{enc, dec}
}

func (k *codec) close() {
	_ = k.enc.Close() // nothing is streamed
	k.dec.Close()
}

// pack appends the chunk that holds raw, and says what is in it.
func (k *codec) pack(dst []byte, journal uint64, raw []byte) ([]byte, chunk) {
	c := chunk{journal: journal, first: math.MaxInt64, last: math.MinInt64, raw: uint32(len(raw))}
	var keys []uint64
	for rest := raw; len(rest) > 0; {
		r, more, err := record.Next(rest)
		if err != nil {
			break // our own octets: never
		}
		rest = more
		r.Keys(func(h uint64) { keys = append(keys, h) })
		c.first, c.last = min(c.first, r.Micros()), max(c.last, r.Micros())
		c.records++
	}
	filter := bloom(keys)
	start := len(dst)
	dst = append(append(dst, make([]byte, chunkHead)...), filter...)
	body := len(dst)
	dst = k.enc.EncodeAll(raw, dst)
	c.filterSize, c.packed, c.sum = uint32(len(filter)), uint32(len(dst)-body), castagnoli(dst[body:])
	h := dst[start : start+chunkHead]
	copy(h, chunkMagic)
	le := binary.LittleEndian
	le.PutUint64(h[8:], c.journal)
	le.PutUint64(h[16:], uint64(c.first))
	le.PutUint64(h[24:], uint64(c.last))
	le.PutUint32(h[32:], c.records)
	le.PutUint32(h[36:], c.raw)
	le.PutUint32(h[40:], c.packed)
	le.PutUint32(h[44:], c.filterSize)
	le.PutUint32(h[48:], c.sum)
	le.PutUint32(h[4:], castagnoli(dst[start+8:body]))
	return dst, c
}

// errDamage says that what lies in a file is no chunk, or no longer.
var errDamage = errors.New("damaged")

// parseHead reads a head at an offset of a file of that size. What is not
// whole is io.ErrUnexpectedEOF: the end of a file that was cut off.
func parseHead(h []byte, at, size int64) (chunk, error) {
	if len(h) < chunkHead {
		return chunk{}, io.ErrUnexpectedEOF
	}
	if string(h[:4]) != chunkMagic {
		return chunk{}, errDamage
	}
	le := binary.LittleEndian
	c := chunk{
		at: at, journal: le.Uint64(h[8:]), first: int64(le.Uint64(h[16:])), last: int64(le.Uint64(h[24:])),
		records: le32(h[32:]), raw: le32(h[36:]), packed: le32(h[40:]), filterSize: le32(h[44:]), sum: le32(h[48:]),
	}
	switch {
	case c.raw > maxRaw || c.packed > maxPacked || c.filterSize > maxFilter:
		return chunk{}, errDamage
	case at+c.size() > size:
		return chunk{}, io.ErrUnexpectedEOF
	}
	return c, nil
}

// readChunks finds the chunks of a file. The error is io.ErrUnexpectedEOF for
// a torn end, errDamage for what is no chunk; those before it are good.
func readChunks(f io.ReaderAt, size int64) (out []chunk, err error) {
	var h [chunkHead]byte
	for at := int64(0); at < size; {
		n, err := f.ReadAt(h[:], at)
		if err != nil && !errors.Is(err, io.EOF) {
			return out, err
		}
		c, err := parseHead(h[:n], at, size)
		if err != nil {
			return out, fmt.Errorf("at octet %d: %w", at, err)
		}
		out = append(out, c)
		at += c.size()
	}
	return out, nil
}

// filter reads the filter of a chunk. buf is used if it is large enough.
func (c *chunk) filter(f io.ReaderAt, buf []byte) ([]byte, error) {
	n := chunkHead + int(c.filterSize)
	buf = grow(buf, n)
	if _, err := f.ReadAt(buf, c.at); err != nil {
		return buf, err
	}
	if le32(buf[4:]) != castagnoli(buf[8:]) {
		return buf, errDamage
	}
	return buf, nil
}

// unpack reads the records of a chunk into raw, by way of buf.
func (k *codec) unpack(c *chunk, f io.ReaderAt, buf, raw []byte) (_, _ []byte, err error) {
	buf = grow(buf, int(c.packed))
	if _, err := f.ReadAt(buf, c.at+chunkHead+int64(c.filterSize)); err != nil {
		return buf, raw, err
	}
	if castagnoli(buf) != c.sum {
		return buf, raw, errDamage
	}
	raw, err = k.dec.DecodeAll(buf, raw[:0])
	if err != nil || len(raw) != int(c.raw) {
		return buf, raw, errDamage
	}
	return buf, raw, nil
}

func grow(buf []byte, n int) []byte {
	if cap(buf) < n {
		return make([]byte, n)
	}
	return buf[:n]
}

// Bloom filters: bitsPerKey bits and probes probes find one of 100 chunks by
// mistake.
const (
	bitsPerKey = 10
	probes     = 7
)

// bloom makes a filter of keys, which it sorts.
func bloom(keys []uint64) []byte {
	slices.Sort(keys)
	keys = slices.Compact(keys)
	f := make([]byte, (len(keys)*bitsPerKey+7)/8+8)
	for _, k := range keys {
		each(k, len(f), func(i int, bit byte) bool { f[i] |= bit; return true })
	}
	return f
}

// each calls visit for the bits of a key until it returns false.
func each(key uint64, size int, visit func(i int, bit byte) bool) {
	bits := uint64(size) * 8
	step := key>>33 | 1
	for range probes {
		at := key % bits
		if !visit(int(at/8), 1<<(at%8)) {
			return
		}
		key += step
	}
}

// has tells whether a filter may have one of the keys.
func has(f []byte, keys []uint64) bool {
	if len(f) == 0 {
		return false
	}
	return slices.ContainsFunc(keys, func(k uint64) bool {
		all := true
		each(k, len(f), func(i int, bit byte) bool {
			all = f[i]&bit != 0
			return all
		})
		return all
	})
}

// le32 reads a number.
func le32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
