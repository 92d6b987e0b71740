package fsm

import (
	"fmt"
	"testing"
)

// crowd makes a cluster of five nodes with the given number of segments.
func crowd(tb testing.TB, segments int) *world {
	w := newWorld(tb, "node-a", "node-b", "node-c", "node-d", "node-e")
	nodes := w.s.Nodes()
	n := uint32(0)
	for made := 0; made < segments; {
		n++
		var open, seal SegmentOps
		for i := range 5 * 50 {
			owner, other := nodes[i%5].Name, nodes[(i+1+i/5%4)%5].Name
			open.Ops = append(open.Ops, w.openOp(n*50+uint32(i/5), owner, other))
		}
		w.must(open)
		for _, o := range open.Ops {
			seal.Ops = append(seal.Ops, SegmentOp{Kind: OpSeal, ID: o.ID, Epoch: 1<<32 | 1, By: o.By, End: 5000})
		}
		w.must(seal)
		made += len(open.Ops)
	}
	return w
}

// BenchmarkApply opens, seals and forgets segments, 1,000 operations a
// command, in a State of 20,000; the figure is per operation.
func BenchmarkApply(b *testing.B) {
	for _, batch := range []int{1, 1000} {
		b.Run(fmt.Sprint("batch", batch), func(b *testing.B) {
			w := crowd(b, 20_000)
			by := w.register("node-a", 1, 2)
			var log [][]byte
			total := 0
			for n := uint32(1); total < b.N+3*batch && n < 1<<23; n += uint32(batch) {
				var open, seal, gone SegmentOps
				for i := range uint32(batch) {
					o := w.openOp(n+i, "node-a", "node-b")
					open.Ops = append(open.Ops, o)
					seal.Ops = append(seal.Ops, SegmentOp{Kind: OpSeal, ID: o.ID, Epoch: 1<<32 | 1, By: by, End: 5000})
					gone.Ops = append(gone.Ops, SegmentOp{Kind: OpGone, ID: o.ID, Epoch: 1<<32 | 2, By: by})
				}
				for _, c := range []SegmentOps{open, seal, gone} {
					data, err := Encode(c)
					if err != nil {
						b.Fatal(err)
					}
					log = append(log, data)
				}
				total += 3 * batch
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i += batch {
				r := w.s.Apply(uint64(i), log[i/batch])
				if r.Code != OK || r.Ops[0].Code != OK {
					b.Fatal(r.Code, r.Ops[0].Code)
				}
			}
		})
	}
}

func BenchmarkSnapshot(b *testing.B) {
	w := crowd(b, 100_000)
	b.ReportAllocs()
	for b.Loop() {
		b.SetBytes(int64(len(w.s.Snapshot())))
	}
}

func BenchmarkRestore(b *testing.B) {
	image := crowd(b, 100_000).s.Snapshot()
	b.SetBytes(int64(len(image)))
	b.ReportAllocs()
	for b.Loop() {
		if err := New().Restore(image); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSegmentsOf reads a node's share of 50,000 segments: 20,000.
func BenchmarkSegmentsOf(b *testing.B) {
	w := crowd(b, 50_000)
	for b.Loop() {
		w.s.SegmentsOf("node-a")
	}
}

func BenchmarkRenew(b *testing.B) {
	w := newWorld(b)
	var c Renew
	for i := range 50 {
		name := fmt.Sprintf("node-%d", i)
		c.Renewals = append(c.Renewals, Renewal{Node: name, Session: w.register(name, 1, 1), Beacon: 1})
	}
	data, err := Encode(c)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		w.s.Apply(1, data)
	}
}
