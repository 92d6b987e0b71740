package view

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/clrelay/clrelay/cluster/fsm"
)

// A snapshot of a newer program ends the process, rather than an older one
// being tried.
func TestSnapshotOfANewerProgram(t *testing.T) {
	var said error
	v := New(func(err error) { said = err })
	if err := v.Restore([]byte("no snapshot")); err == nil || said != nil {
		t.Errorf("damage: %v, fatal %v", err, said)
	}
	image := newerSnapshot(t)
	if err := v.Restore(image); err == nil || said == nil {
		t.Errorf("of level %d: %v, fatal %v", fsm.KnownLevel+1, err, said)
	}
}

// newerSnapshot is one of a cluster at the next feature level.
func newerSnapshot(t *testing.T) []byte {
	t.Helper()
	const head, levelField = 20, 2 // magic 6, version 2, checksum 4, length 8
	b := fsm.New().Snapshot()
	b = protowire.AppendTag(b, levelField, protowire.VarintType)
	b = protowire.AppendVarint(b, fsm.KnownLevel+1)
	binary.BigEndian.PutUint32(b[head-12:], crc32.Checksum(b[head:], crc32.MakeTable(crc32.Castagnoli)))
	binary.BigEndian.PutUint64(b[head-8:], uint64(len(b)-head))
	if err := fsm.New().Restore(b); !errors.Is(err, fsm.ErrTooNew) {
		t.Fatal(err)
	}
	return b
}
