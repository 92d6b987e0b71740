package wal_test

import (
	"slices"
	"testing"

	"github.com/clrelay/clrelay/spool/wal"
)

// TestTruncatedInTheMiddle shows that a file that was cut off costs what it
// held behind the cut, and nothing of the files behind it: the log goes on
// there, however the cut looks like the torn end of a crash.
func TestTruncatedInTheMiddle(t *testing.T) {
	const name = "log/00000001.wal"
	m := newDir(t)
	l, _, _ := open(t, crashOptions(m))
	var all []entry
	for i := uint64(0); len(all) == 0 || all[len(all)-1].pos.File() < 3; i++ {
		all = append(all, mustAppend(t, l, record(i, kindBody, 900))...)
	}
	all = append(all, mustAppend(t, l, record(1000, kindMeta, 100))...)
	closeLog(t, l)
	whole := readFile(t, m, name)
	for size := 100; size < len(whole); size += 101 {
		img := patch(t, m, name, func(b []byte) []byte { return b[:size] })
		want := slices.DeleteFunc(slices.Clone(all), func(e entry) bool {
			return e.pos.File() == 1 && e.pos.Offset()+wal.HeaderSize+int64(e.h.Len) > int64(size)
		})
		for again := range 2 {
			o := crashOptions(img)
			o.ReadOnly = again == 0
			l, rep, got := open(t, o)
			if !slices.Equal(got, want) {
				t.Errorf("cut at %d, start %d: %d records instead of %d, tail %+v", size, again, len(got), len(want), rep.Tail)
			}
			if !slices.ContainsFunc(rep.Damage, func(d *wal.DamageError) bool { return d.Path == name }) {
				t.Errorf("cut at %d, start %d: not reported: %v", size, again, rep.Damage)
			}
			checkReads(t, l, want)
			closeLog(t, l)
		}
	}
}
