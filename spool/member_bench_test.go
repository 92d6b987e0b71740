package spool_test

import (
	"testing"

	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool"
	"github.com/clrelay/clrelay/spool/record"
)

// BenchmarkTake is a member's part of a message of 10 KB: its two records in
// one call of many, and its result. It waits for writes, not for syncs.
func BenchmarkTake(b *testing.B) {
	o := options(vfs.OS())
	o.Dir, o.FileSize, o.Node, o.Placement = b.TempDir()+"/data", 64<<20, "mx2", newCluster()
	s, _ := open(b, o)
	if err := s.Each(nil); err != nil {
		b.Fatal(err)
	}
	self := openSegment(s, theSegment)
	self.Owner.Node = "mx1"
	const batch = 50
	body := content(1, 10_000)
	id := uint64(theSegment)
	for i := 0; i < b.N; i += batch {
		seq := uint64(i%(16<<10/batch*batch))*2 + 1
		if seq == 1 {
			id++
			self.ID = id
			set(b, s, self)
		}
		var recs, results []spool.Copy
		for k := range uint64(batch) {
			env := envelope(1)
			first := seq + 2*k
			recs = append(recs, spool.Copy{Seq: first, Kind: record.KindChunk, Data: [][]byte{record.AppendChunkHeader(nil, first, 0), body}},
				spool.Copy{Seq: first + 1, Kind: record.KindCommit, Data: [][]byte{record.AppendCommit(nil, &record.Commit{First: first, Length: uint64(len(body))}, env)}})
			results = append(results, spool.Copy{Seq: first, Kind: record.KindResult, Data: [][]byte{record.AppendResult(nil, &record.Result{ID: env.ID, Finished: true, Settled: []record.Settled{{Version: 1, State: 3}}})}})
		}
		c, err := s.Take(id, 1, recs)
		if err == nil {
			c, err = s.Take(id, 1, results)
		}
		if err == nil {
			err = c.WaitWritten()
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	closeSpool(b, s)
}
