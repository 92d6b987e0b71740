package mark

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
	now := func() *Mark {
		t.Helper()
		m, err := Read(dir)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	start := func(n byte) *Mark {
		t.Helper()
		m := now()
		if err := m.Begin(nonce(n)); err != nil {
			t.Fatal(err)
		}
		return m
	}
	registered := func(m *Mark, s fsm.Session) {
		t.Helper()
		if err := m.Registered(s); err != nil {
			t.Fatal(err)
		}
	}
	empty := now()
	first := start(1)
	if now().Misses(nonce(1), fsm.Lease{Session: 7}) {
		t.Error("a process that died before it heard of its session")
	}
	registered(first, 7)
	old := now()
	// Processes that no cluster heard of, many of them, change nothing.
	for n := range byte(100) {
		start(100 + n)
	}
	if now().Misses(nonce(1), fsm.Lease{Session: 7, Beacon: lag}) {
		t.Error("starts in vain make it doubtful")
	}
	if info, err := os.Stat(filepath.Join(dir, file)); err != nil || info.Size() != size {
		t.Errorf("the mark has %v octets, %v", info.Size(), err)
	}
	second := start(2)
	registered(second, 8)
	if now().Misses(nonce(105+90), fsm.Lease{Session: 9}) {
		t.Error("a process whose Register was decided after its end")
	}
	if !old.Misses(nonce(2), fsm.Lease{Session: 8}) {
		t.Error("a copy of before the last start is taken for the data_dir")
	}
	if old.Misses(nonce(1), fsm.Lease{Session: 7, Beacon: lag}) || !old.Misses(nonce(1), fsm.Lease{Session: 7, Beacon: lag + 1}) {
		t.Error("the beacons are not held against the mark")
	}
	if !empty.Misses(nonce(1), fsm.Lease{Session: 7}) {
		t.Error("a copy of before the first session is taken for the data_dir")
	}
	if second.Misses(nonce(1), fsm.Lease{Session: 7}) {
		t.Error("it went back to an earlier cluster and is not known there")
	}
	if err := second.Lives(500); err != nil {
		t.Fatal(err)
	}
	if now().Misses(nonce(2), fsm.Lease{Session: 8, Beacon: 500 + lag}) || !now().Misses(nonce(2), fsm.Lease{Session: 8, Beacon: 501 + lag}) {
		t.Error("what was noted last is not what counts")
	}
}

// A mark that cannot be read is no empty one.
func TestDamagedMark(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, file), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(dir); err == nil {
		t.Error("it was taken")
	}
}
