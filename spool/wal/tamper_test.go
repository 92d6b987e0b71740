package wal_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/clrelay/clrelay/internal/vfs"
)

// tamperings do harm to the content of a file and tell which octets.
func tamperings(r *rand.Rand) map[string]func(b []byte) (after []byte, from, to int) {
	part := func(b []byte) (from, to int) {
		from = r.IntN(len(b))
		return from, min(len(b), from+1+r.IntN(9000))
	}
	return map[string]func(b []byte) ([]byte, int, int){
		"truncate": func(b []byte) ([]byte, int, int) {
			from, _ := part(b)
			return b[:from], from, len(b)
		},
		"truncate to the records": func(b []byte) ([]byte, int, int) {
			from := 8192 + r.IntN(len(b)-8192)&^7
			return b[:from], from, len(b)
		},
		"zero": func(b []byte) ([]byte, int, int) {
			from, to := part(b)
			clear(b[from:to])
			return b, from, to
		},
		"noise": func(b []byte) ([]byte, int, int) {
			from, to := part(b)
			for i := from; i < to; i++ {
				b[i] = byte(r.Uint32())
			}
			return b, from, to
		},
		"move": func(b []byte) ([]byte, int, int) { // what is there comes twice
			from, to := part(b)
			copy(b[from:to], b[r.IntN(len(b)):])
			return b, from, to
		},
		"zero the records": func(b []byte) ([]byte, int, int) {
			clear(b[8192:])
			return b, 8192, len(b)
		},
		"append": func(b []byte) ([]byte, int, int) {
			return append(b, make([]byte, 1+r.IntN(2000))...), len(b), len(b)
		},
	}
}

// TestTamperedFile does harm to one file of a log of several, in the middle or
// at the end. It costs the records that were hit and no others, of that file or
// another one, at the first start and at all later ones.
func TestTamperedFile(t *testing.T) {
	runs := 40
	if testing.Short() {
		runs = 8
	}
	for _, seed := range seeds(t, runs) {
		r := rand.New(rand.NewPCG(seed, 4))
		m, all := longLog(t, r)
		for name, tamper := range tamperings(r) {
			files := filesOf(all)
			file := files[r.IntN(len(files))]
			path := fmt.Sprintf("log/%08d.wal", file)
			if _, err := m.Stat(path); err != nil {
				t.Fatal(err)
			}
			var from, to int
			img := patch(t, m, path, func(b []byte) (out []byte) { out, from, to = tamper(bytes.Clone(b)); return out })
			last := file == files[len(files)-1]
			tampered(t, fmt.Sprintf("seed %d: %s %s from %d to %d", seed, name, path, from, to), img, all, func(e entry) bool {
				if e.pos.File() != file {
					return false
				}
				end := int(e.pos.Offset()) + 48 + int(e.h.Len)
				// Without file header the file is none of the log's; in the last
				// file nothing states what is behind the last mark.
				return from < 4096 && to > 64 || last || int(e.pos.Offset()) < to && end > from
			})
		}
		if t.Failed() {
			return
		}
	}
}

func filesOf(all []entry) []uint32 {
	var files []uint32
	for _, e := range all {
		if !slices.Contains(files, e.pos.File()) {
			files = append(files, e.pos.File())
		}
	}
	return files
}

// longLog makes a log of several files that was closed or crashed, all of it
// durable. Nothing was freed, so that file names and numbers agree.
func longLog(t *testing.T, r *rand.Rand) (*vfs.Mem, []entry) {
	m := newDir(t)
	l, _, _ := open(t, crashOptions(m))
	var all []entry
	for seq := uint64(1); len(l.Files()) < 5; seq++ {
		all = append(all, mustAppend(t, l, record(seq, kindBody, r.IntN(3000)), record(seq+1<<20, kindMeta, r.IntN(400)))...)
	}
	// Some more, so that a mark in the last file states all of the others.
	for seq := uint64(1 << 30); seq < 1<<30+3; seq++ {
		all = append(all, mustAppend(t, l, record(seq, kindMeta, 100))...)
	}
	left := m.CrashImage(keepAll(m))
	closeLog(t, l)
	if r.IntN(2) == 0 {
		left = m
	}
	return left, all
}

// tampered opens a log three times, appending in between, and wants all but
// what may be lost, and a report if something is.
func tampered(t *testing.T, what string, m *vfs.Mem, all []entry, mayBeLost func(entry) bool) {
	t.Helper()
	var first []entry
	for start := range uint64(3) {
		l, rep, got := open(t, crashOptions(m))
		if start == 0 {
			first = got
			for _, e := range all {
				if !slices.Contains(got, e) && !mayBeLost(e) {
					t.Errorf("%s: %v is lost: %v, tail %+v", what, e, rep.Damage, rep.Tail)
				}
			}
			// Of the last file nobody states that it had records, if none is left.
			if len(got) < len(all) && len(rep.Damage) == 0 && !mayBeLost(all[len(all)-1]) {
				t.Errorf("%s: %d of %d records, and no report", what, len(got), len(all))
			}
		} else if !slices.Equal(got, first) {
			t.Errorf("%s: %d records at start %d instead of %d: %v", what, len(got), start+1, len(first), rep.Damage)
		}
		first = append(slices.Clone(first), mustAppend(t, l, record(1<<40+start, kindMeta, 50))...)
		closeLog(t, l)
	}
}
