package segment_test

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/segment"
)

// FuzzReceived feeds a machine whatever a peer might say. It may not believe
// it, but it must not panic, end the process, or answer without measure.
func FuzzReceived(f *testing.F) {
	for kind := range uint8(17) {
		item := []byte{kind, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1}
		f.Add(append(item, item...))
	}
	self, peer := fsm.Ref{Node: "a", Store: fsm.StoreID{1}}, fsm.Ref{Node: "b", Store: fsm.StoreID{2}}
	both := []fsm.Ref{self, peer}
	f.Fuzz(func(t *testing.T, data []byte) {
		var segs []fsm.Segment
		for n := range uint32(8) {
			g := fsm.Segment{ID: fsm.MakeSegmentID(1<<24|1, n+1), Epoch: 1<<32 | 1, Owner: both[n%2], Members: both, State: fsm.SegmentState(1 + n/2%3)}
			if g.State == fsm.Sealed {
				g.End, g.EndSet = 5, true
			}
			segs = append(segs, g)
		}
		m := benchMachine(t, self, peer, segs)
		now := time.Hour
		for range 3 {
			now += segment.TickEvery
			m.Step(now, &segment.Tick{})
		}
		m.Step(now, &segment.Appended{Segment: segs[0].ID, First: 1, Last: 3})
		for len(data) >= 19 && now < 2*time.Hour {
			it := segment.Item{
				Kind: data[0] % 17, Segment: fsm.MakeSegmentID(1<<24|1, uint32(data[1]%10)), Epoch: 1<<32 | fsm.Epoch(data[2]%3),
				Seq: binary.LittleEndian.Uint64(data[3:]), Arg: binary.LittleEndian.Uint64(data[11:]),
			}
			data = data[19:]
			now += segment.TickEvery
			for _, ev := range []segment.Event{&segment.Received{From: peer, Items: []segment.Item{it}}, &segment.Tick{}} {
				actions := m.Step(now, ev)
				if len(actions) > 50 {
					t.Fatalf("%d actions", len(actions))
				}
				for _, a := range actions {
					if a.Kind == segment.ActFatal {
						t.Fatalf("%v ends the process: %s", it, a.Why)
					}
				}
				for _, a := range slices.Clone(actions) {
					echo(m, now, a)
				}
			}
		}
	})
}

// echo answers actions as a driver would.
func echo(m *segment.Machine, now time.Duration, a segment.Action) {
	switch a.Kind {
	case segment.ActStore:
		m.Step(now, &segment.Taken{Segment: a.Segment, Seq: a.Seq})
	case segment.ActStoreResults:
		m.Step(now, &segment.TakenResults{Segment: a.Segment, From: a.Peer, Session: a.Session, Last: a.Seq})
	case segment.ActMerge:
		m.Step(now, &segment.Merged{Segment: a.Segment, From: a.Peer, Token: a.Token, Missing: int(a.Token % 2)})
	case segment.ActFetch:
		m.Step(now, &segment.Fetched{Segment: a.Segment, From: a.Peer, Token: a.Token})
	}
}
