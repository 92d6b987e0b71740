package cluster

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/clrelay/clrelay/cluster/fsm"
)

// A data_dir knows the process that Raft gave its last session, whatever became
// of that process; an old copy of it does not.
func TestAnOldCopyIsTold(t *testing.T) {
	dir := t.TempDir()
	nonce := func(n byte) [16]byte { return [16]byte{n} }
	start := func(n byte) mark {
		m, err := readMark(dir)
		if err != nil {
			t.Fatal(err)
		}
		m.begin(nonce(n))
		if err := m.write(dir); err != nil {
			t.Fatal(err)
		}
		return m
	}
	now := func() mark {
		m, err := readMark(dir)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	first := start(1)
	if m := now(); m.misses(nonce(1), fsm.Lease{Session: 7}) {
		t.Error("a process that died before it heard of its session")
	}
	first.given(7)
	if err := first.write(dir); err != nil {
		t.Fatal(err)
	}
	old := now()
	// Processes that no cluster heard of, many of them, change nothing.
	for n := range byte(100) {
		start(100 + n)
	}
	if m := now(); m.misses(nonce(1), fsm.Lease{Session: 7, Beacon: markLag}) {
		t.Error("starts in vain make it doubtful")
	}
	if info, err := os.Stat(filepath.Join(dir, markFile)); err != nil || info.Size() != markSize {
		t.Errorf("the mark has %v octets, %v", info.Size(), err)
	}
	second := start(2)
	second.given(8)
	if !old.misses(nonce(2), fsm.Lease{Session: 8}) {
		t.Error("a copy of before the last start is taken for the data_dir")
	}
	if old.misses(nonce(1), fsm.Lease{Session: 7, Beacon: markLag}) || !old.misses(nonce(1), fsm.Lease{Session: 7, Beacon: markLag + 1}) {
		t.Error("the beacons are not held against the mark")
	}
	if fresh := (mark{}); !fresh.misses(nonce(1), fsm.Lease{Session: 7}) {
		t.Error("a copy of before the first session is taken for the data_dir")
	}
	if second.misses(nonce(1), fsm.Lease{Session: 7}) {
		t.Error("it went back to an earlier cluster and is not known there")
	}
}
