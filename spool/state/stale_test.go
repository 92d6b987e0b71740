package state

import (
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/spool/record"
	"github.com/clrelay/clrelay/spool/wal"
)

// TestStaleCopies: a crash in compaction has left two copies of a commit
// record, in files 1 and 3. The message is finished by a result in file 4,
// which names file 3. File 4 is needed until both are gone, whichever goes
// first.
func TestStaleCopies(t *testing.T) {
	at := func(file uint32, off int64) wal.Pos { return wal.Pos(file)<<32 | wal.Pos(off) }
	for _, order := range [][2]uint32{{1, 3}, {3, 1}} {
		env := &mail.Envelope{ID: mail.NewID(time.Now()), Recipients: make([]mail.Recipient, 1)}
		commit := record.AppendCommit(nil, &record.Commit{First: 1, Length: 5}, env)
		f := NewReplay(func(p wal.Pos) string { return p.String() })
		chunk := wal.Header{Segment: 7, Epoch: 1, Seq: 1, Kind: wal.Kind(record.KindChunk), Len: 17}
		whole := wal.Header{Segment: 7, Epoch: 1, Seq: 2, Kind: wal.Kind(record.KindCommit), Len: uint32(len(commit))}
		for _, v := range []struct {
			pos  wal.Pos
			h    wal.Header
			data []byte
		}{{at(1, 8192), chunk, nil}, {at(1, 9000), whole, commit}, {at(3, 8192), chunk, nil}, {at(3, 9000), whole, commit}} {
			if err := f.Visit(v.pos, v.h, v.data); err != nil {
				t.Fatal(err)
			}
		}
		s := New()
		for n := range uint32(6) {
			s.HasFile(n + 1)
		}
		if rec := s.Load(f, nil); rec.Recipients != 1 || len(rec.Damage) > 0 {
			t.Fatalf("%+v", rec)
		}
		needed := func(file uint32) bool {
			empty, _ := s.Disposable(wal.FileInfo{Number: file, Sealed: true}, 64<<20, 100)
			return !empty
		}
		m := s.Find(env.ID)
		if c, ok := s.Chunk(m, 0); !ok || c.Pos != at(3, 8192) || s.Commit(m) != at(3, 9000) {
			t.Fatalf("chunk %+v, commit %v", c, s.Commit(m))
		}
		if _, move := s.Disposable(wal.FileInfo{Number: 1, Sealed: true}, 64<<20, 2); !move || needed(1) || !needed(3) {
			t.Error("the stale file is not the first to go")
		}
		rec, err := s.Settle(m, []record.Outcome{{State: mail.StateDelivered}})
		if err != nil || !rec.Finished || rec.Victim != 3 {
			t.Fatalf("%+v %v", rec, err)
		}
		s.Settled(m, rec, at(4, 8192), 128)
		item := Item{Pos: at(4, 8192), Header: m.Header(record.KindResult), Data: record.AppendResult(nil, rec)}
		for _, file := range order {
			if !needed(4) || s.Owner(item) == nil {
				t.Errorf("order %v: the result may go before file %d has", order, file)
			}
			s.Freed(file)
		}
		if needed(4) || s.Owner(item) != nil {
			t.Errorf("order %v: the result stays for ever", order)
		}
	}
}
