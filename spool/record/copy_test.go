package record_test

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"testing"

	"google.golang.org/protobuf/proto"

	spoolv1 "github.com/clrelay/clrelay/proto/spool/v1"
	"github.com/clrelay/clrelay/spool/record"
)

// TestInventoryPieces: what was cut into pieces is the same together, no
// piece is too large, and each message's number is in the range of the pieces
// that have it, and of no other piece.
func TestInventoryPieces(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, 2000} {
		inv := record.Inventory{Segment: 1<<63 | 5, Last: 1 << 20, Suspect: n == 1, Upto: record.AllFirsts}
		for i := range n {
			l := record.LiveMessage{First: uint64(3*i + 1), Commit: uint64(3*i + 2)}
			for range 1 + rnd.IntN(40)/38*5 {
				if i%3 == 0 {
					l.Results = bytes.Repeat([]byte{7}, 1+rnd.IntN(record.ResultsMax>>(3*rnd.IntN(4))))
				}
				inv.Live = append(inv.Live, l)
			}
		}
		var live []record.LiveMessage
		next := uint64(0)
		for i, p := range inv.Pieces() {
			if len(p) > record.PieceMax+200 {
				t.Errorf("piece of %d octets", len(p))
			}
			got, err := record.ParseInventory(p)
			if err != nil {
				t.Fatal(err)
			}
			if got.Segment != inv.Segment || got.Last != inv.Last || got.Suspect != inv.Suspect || got.From > next || i > 0 && got.From+1 < next {
				t.Errorf("piece %d: %d to %d, want from %d", i, got.From, got.Upto, next)
			}
			next = got.Upto + 1
			live = append(live, got.Live...)
		}
		if next != 0 || !reflect.DeepEqual(live, inv.Live) {
			t.Errorf("%d of %d messages, up to %d", len(live), len(inv.Live), next-1)
		}
	}
}

// FuzzInventory: no piece of an inventory makes the parser panic, and what it
// takes is in order and in range.
func FuzzInventory(f *testing.F) {
	inv := record.Inventory{Segment: 9, Last: 10, Upto: record.AllFirsts, Live: []record.LiveMessage{{First: 1, Commit: 2}, {First: 4, Commit: 7, Results: []byte("x")}}}
	f.Add(inv.Pieces()[0])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := record.ParseInventory(data)
		if err != nil {
			return
		}
		low := got.From
		for _, l := range got.Live {
			if l.First < low || l.First > got.Upto || l.Commit <= l.First {
				t.Fatalf("%+v", got)
			}
			low = l.First
		}
		if len(got.Live) > len(data)/4 {
			t.Fatalf("%d messages of %d octets", len(got.Live), len(data))
		}
	})
}

// TestAgainstGenerated: forget records, ends and inventories are what the
// .proto file says.
func TestAgainstGenerated(t *testing.T) {
	f := record.Forget{Index: 7, Below: 3<<32 | 9, From: 2}
	var pf spoolv1.Forget
	if err := proto.Unmarshal(record.AppendForget(nil, &f), &pf); err != nil || pf.Index != 7 || pf.Below != f.Below || pf.From != 2 {
		t.Errorf("%v %v", &pf, err)
	}
	if back, err := record.ParseForget(record.AppendForget(nil, &f)); err != nil || *back != f {
		t.Errorf("%+v %v", back, err)
	}
	seg := record.Segment{State: record.SegmentSealed, End: 0, EndSet: true}
	var ps spoolv1.Segment
	if err := proto.Unmarshal(record.AppendSegment(nil, &seg), &ps); err != nil || !ps.EndSet {
		t.Errorf("%v %v", &ps, err)
	}
	if back, err := record.ParseSegment(record.AppendSegment(nil, &seg)); err != nil || !back.EndSet {
		t.Errorf("%+v %v", back, err)
	}
	inv := record.Inventory{Segment: 9, Last: 10, Suspect: true, From: 1, Upto: 8, Live: []record.LiveMessage{{First: 4, Commit: 7, Results: []byte("x")}}}
	var pi spoolv1.Inventory
	if err := proto.Unmarshal(inv.Pieces()[0], &pi); err != nil || pi.Segment != 9 || pi.Last != 10 || !pi.Suspect || pi.From != 1 || pi.Upto != 8 ||
		len(pi.Live) != 1 || pi.Live[0].First != 4 || pi.Live[0].Commit != 7 || string(pi.Live[0].Results) != "x" {
		t.Errorf("%v %v", &pi, err)
	}
}
