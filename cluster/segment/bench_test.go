package segment_test

import (
	"testing"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/segment"
)

// BenchmarkAppend is what one message costs its owner: Pick, Appended, Arrived,
// and every 16 messages (a frame) Durable and the member's word.
func BenchmarkAppend(b *testing.B) {
	m, id, peer := benchOwner(b)
	now := time.Hour
	var ap segment.Appended
	var ar segment.Arrived
	var du segment.Durable
	ev := segment.Received{From: peer, Items: make([]segment.Item, 1)}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		seq := uint64(2*i + 2)
		now += 40 * time.Microsecond
		if _, _, ok := m.Pick(now); !ok {
			b.Fatal("no segment")
		}
		ap = segment.Appended{Segment: id, First: seq - 1, Last: seq}
		m.Step(now, &ap)
		ar.Segment = id
		m.Step(now, &ar)
		if i%16 == 15 {
			du = segment.Durable{Segment: id, Seq: seq}
			m.Step(now, &du)
			ev.Items[0] = segment.Item{Kind: segment.ItemAck, Segment: id, Epoch: 1<<32 | 1, Seq: seq}
			m.Step(now, &ev)
		}
	}
}

// BenchmarkResults is what one result costs the owner.
func BenchmarkResults(b *testing.B) {
	m, id, peer := benchOwner(b)
	now := time.Hour
	var ap segment.ResultsAppended
	var du segment.ResultsDurable
	ev := segment.Received{From: peer, Items: make([]segment.Item, 1)}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		n := uint64(i + 1)
		now += 40 * time.Microsecond
		ap = segment.ResultsAppended{Segment: id, First: n, Last: n}
		m.Step(now, &ap)
		if i%16 == 15 {
			du = segment.ResultsDurable{Segment: id, Last: n}
			m.Step(now, &du)
			ev.Items[0] = segment.Item{Kind: segment.ItemResultsAck, Segment: id, Epoch: 1<<32 | 1, Seq: n, Arg: 1<<24 | 1}
			m.Step(now, &ev)
		}
	}
}

// BenchmarkTick is a tick of a node that knows 20,000 segments and owns half.
func BenchmarkTick(b *testing.B) {
	self, peer := fsm.Ref{Node: "a", Store: fsm.StoreID{1}}, fsm.Ref{Node: "b", Store: fsm.StoreID{2}}
	var segs []fsm.Segment
	for n := range uint32(20000) {
		owner := self
		if n%2 == 1 {
			owner = peer
		}
		segs = append(segs, fsm.Segment{
			ID: fsm.MakeSegmentID(1<<24|1, n+1), Epoch: 1<<32 | 2, Owner: owner, Members: []fsm.Ref{self, peer},
			State: fsm.Sealed, End: 100, EndSet: true,
		})
	}
	m := benchMachine(b, self, peer, segs)
	now := 2 * time.Hour
	var tick segment.Tick
	b.ReportAllocs()
	for b.Loop() {
		now += segment.TickEvery
		m.Step(now, &tick)
	}
}

func benchOwner(b *testing.B) (*segment.Machine, fsm.SegmentID, fsm.Ref) {
	self, peer := fsm.Ref{Node: "a", Store: fsm.StoreID{1}}, fsm.Ref{Node: "b", Store: fsm.StoreID{2}}
	id := fsm.MakeSegmentID(1<<24|1, 1)
	m := benchMachine(b, self, peer, []fsm.Segment{{ID: id, Epoch: 1<<32 | 1, Owner: self, Members: []fsm.Ref{self, peer}, State: fsm.Open}})
	return m, id, peer
}

func benchMachine(b testing.TB, self, peer fsm.Ref, segs []fsm.Segment) *segment.Machine {
	m, err := segment.New(segment.Config{Self: self, Expect: 3, Without: segment.LeaseToAck})
	if err != nil {
		b.Fatal(err)
	}
	node := func(r fsm.Ref, n fsm.Session) fsm.Node {
		return fsm.Node{Name: r.Node, Store: r.Store, State: fsm.Alive, Inventoried: true, Lease: fsm.Lease{Session: n, Renewed: 1, G: 5 * time.Second}}
	}
	m.Step(time.Hour, &segment.Registered{Session: 1<<24 | 1})
	m.Step(time.Hour, &segment.PeerUp{Peer: peer, Session: 1<<24 | 2})
	m.Step(time.Hour, &segment.Applied{
		Index: 9, Full: true, Segments: segs, Settings: fsm.DefaultSettings(), Forgetful: true,
		Nodes: []fsm.Node{node(self, 1<<24|1), node(peer, 1<<24|2)},
	})
	return m
}
