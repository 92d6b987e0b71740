package drive

import (
	"log/slog"
	"testing"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/segment"
)

// plane is a Control that keeps the last beacon.
type plane struct{ beacon uint64 }

func (p *plane) Ops([]fsm.SegmentOp)             {}
func (p *plane) Node(fsm.NodeVerb)               {}
func (p *plane) Beacon(n uint64)                 { p.beacon = n }
func (*plane) Heard(string, fsm.Session, uint64) {}

// TestReadyNeedsASegmentInTheSpool: while the disk has not made what Raft says
// is open, a message would wait in vain, and the node must not say that it
// takes mail.
func TestReadyNeedsASegmentInTheSpool(t *testing.T) {
	const session, other = 1<<24 | 1, 1<<24 | 2
	self, peer := fsm.Ref{Node: "a", Store: fsm.StoreID{1}}, fsm.Ref{Node: "b", Store: fsm.StoreID{2}}
	id := fsm.MakeSegmentID(session, 1)
	now := time.Hour
	p := &plane{}
	e := New(func() time.Duration { return now }, slog.New(slog.DiscardHandler), func(err error) { t.Error(err) })
	e.Attach(Parts{Self: self, Net: &wire{}, Control: p}) // the desk is never started: its jobs lie there
	m, err := segment.New(segment.Config{Self: self, Expect: 3})
	if err != nil {
		t.Fatal(err)
	}
	e.m = m
	node := func(r fsm.Ref, n fsm.Session) fsm.Node {
		return fsm.Node{Name: r.Node, Store: r.Store, State: fsm.Alive, Inventoried: true,
			Lease: fsm.Lease{Session: n, Renewed: 1, G: 5 * time.Second, Beacon: p.beacon}}
	}
	applied := func(index uint64) {
		e.Step(&segment.Applied{
			Index: index, Full: true, Settings: fsm.DefaultSettings(), Forgetful: true,
			Segments: []fsm.Segment{{ID: id, Epoch: 1<<32 | 1, Owner: self, Members: []fsm.Ref{self, peer}, State: fsm.Open}},
			Nodes:    []fsm.Node{node(self, session), node(peer, other)},
		})
	}
	e.Step(&segment.Registered{Session: session})
	e.Step(&segment.PeerUp{Peer: peer, Session: other})
	applied(9)
	e.Step(&segment.Tick{})
	if e.Leased() {
		t.Error("a lease before any beacon has come back")
	}
	applied(10)
	if !e.Leased() {
		t.Fatal("no lease: the test does not get as far as a segment")
	}
	if r := e.Ready(); r != errNoPlace {
		t.Errorf("before the spool has the segment: %v", r)
	}
	e.open(id)
	if r := e.Ready(); r != nil {
		t.Errorf("with a segment in the spool: %v", r)
	}
}
