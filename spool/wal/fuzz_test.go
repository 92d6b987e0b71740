package wal_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"slices"
	"testing"

	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool/wal"
)

// FuzzOpen opens logs with files of arbitrary content: arbitrary as it is, or
// a good file with edits, whose checksums may be made good again so that the
// edits are believed. Opening must come to an end, tell the same the second
// time, and read what it told.
func FuzzOpen(f *testing.F) {
	closed, crashed := fuzzFiles(f)
	f.Add(byte(0), closed)
	f.Add(byte(0), crashed)
	f.Add(byte(0), []byte{})
	for mode := byte(1); mode < 8; mode++ {
		f.Add(mode, []byte{0, 1, 2, 3})
		f.Add(mode, edit(uint32(len(closed)-96+24), 0xff))
		f.Add(mode, edit(uint32(len(closed)-96+40), 0xff))
		f.Add(mode, edit(uint32(len(closed)-96+53), 0xff))
		f.Add(mode, edit(8192+48+5, 1))
	}
	f.Fuzz(func(t *testing.T, mode byte, b []byte) {
		switch mode % 8 {
		case 0:
		case 1, 2, 3:
			b = patched(closed, b, mode%8 > 1, mode%8 > 2)
		default:
			b = patched(crashed, b, mode%8 > 5, false)
		}
		m := newDir(t)
		file, err := m.OpenFile("log/00000001.wal", os.O_RDWR|os.O_CREATE, 0o600)
		if err == nil {
			_, err = file.WriteAt(b, 0)
		}
		if err := errors.Join(err, file.Sync(), file.Close(), m.SyncDir("log")); err != nil {
			t.Fatal(err)
		}
		first := fuzzOpen(t, m)
		if again := fuzzOpen(t, m); !slices.Equal(first, again) {
			t.Errorf("%d records, then %d", len(first), len(again))
		}
	})
}

// fuzzOpen opens, reads and closes a log of whatever.
func fuzzOpen(t *testing.T, m *vfs.Mem) []entry {
	t.Helper()
	var got []entry
	l, _, err := wal.Open(crashOptions(m), func(pos wal.Pos, h wal.Header, data []byte) error {
		if h.Kind != kindBody && len(data) != int(h.Len) {
			t.Errorf("%v has %d octets instead of %d", pos, len(data), h.Len)
		}
		got = append(got, entry{pos, h})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range got {
		h, data, err := l.ReadAt(e.pos, int(e.h.Len), nil)
		if err == nil && len(data) != int(h.Len) {
			t.Errorf("%v reads %d octets instead of %d", e, len(data), h.Len)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return got
}

// fuzzFiles makes a file of a closed log and one of a crashed log.
func fuzzFiles(f *testing.F) (closed, crashed []byte) {
	m := newDir(f)
	l, _, _ := open(f, crashOptions(m))
	for i := range uint64(12) {
		mustAppend(f, l, record(2*i, kindBody, int(i*17)), record(2*i+1, kindMeta, int(i*9)))
	}
	crashed = readFile(f, m, "log/00000001.wal")
	closeLog(f, l)
	return readFile(f, m, "log/00000001.wal"), crashed
}

func edit(off uint32, val byte) []byte {
	return append(binary.LittleEndian.AppendUint32(nil, off), val)
}

// patched applies edits of five octets: offset and value.
func patched(b, edits []byte, outer, inner bool) []byte {
	b = bytes.Clone(b)
	for ; len(edits) >= 5; edits = edits[5:] {
		b[binary.LittleEndian.Uint32(edits)%uint32(len(b))] ^= edits[4]
	}
	table := crc32.MakeTable(crc32.Castagnoli)
	le := binary.LittleEndian
	if outer {
		for _, off := range []int{0, 4096} {
			le.PutUint32(b[off+60:], crc32.Checksum(b[off:off+60], table))
		}
	}
	trailer := b[len(b)-96:]
	from, n := le.Uint64(trailer[32:]), le.Uint64(trailer[40:])
	if inner && from < uint64(len(b)) && n <= uint64(len(b))-from {
		le.PutUint32(trailer[48:], crc32.Checksum(b[from:from+n], table))
	}
	if outer {
		le.PutUint32(trailer[92:], crc32.Checksum(trailer[:92], table))
	}
	return b
}
