package cluster

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/replica"
	"github.com/clrelay/clrelay/cluster/segment"
	"github.com/clrelay/clrelay/internal/mail"
)

// sender is how items travel; *replica.Replicator.
type sender interface {
	Send(to string, items ...replica.Item) error
	Break(node string, err error)
}

// proposer puts commands into Raft's log and forgets them, and brings beacons
// to the leader. It must not block.
type proposer interface {
	ops(ops []fsm.SegmentOp)
	node(verb fsm.NodeVerb)
	beacon(n uint64)
	heard(node string, session fsm.Session, n uint64)
}

// engine drives the protocol core: it feeds it events and carries out its
// actions. Its lock is the core's; it is taken under the spool's lock (by
// Append and Settled), so that nothing under it calls the spool. What the
// actions want of the disk goes to the desk.
type engine struct {
	now   func() time.Duration // CLOCK_BOOTTIME
	net   sender
	props proposer
	desk  *desk
	log   *slog.Logger
	fatal func(error)

	mu      sync.Mutex
	m       *segment.Machine
	boxes   map[fsm.SegmentID]*outbox // of owned segments
	numbers map[fsm.SegmentID]uint64  // of the last result, of segments that were owned
	session fsm.Session
	in      *batch // whose items are being stepped
	items   []segment.Item
	stats   figures
	closed  bool
}

// figures are counted by the engine.
type figures struct {
	takeovers, alarms uint64
}

// step feeds one event.
func (e *engine) step(ev segment.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stepLocked(ev)
}

func (e *engine) stepLocked(ev segment.Event) {
	if e.closed {
		return
	}
	for _, a := range e.m.Step(e.now(), ev) {
		e.do(&a)
	}
}

// do carries out an action, or hands it to who does. The lock is held.
func (e *engine) do(a *segment.Action) {
	switch a.Kind {
	case segment.ActSend:
		e.send(a)
	case segment.ActPropose:
		e.props.ops(a.Ops)
	case segment.ActProposeNode:
		e.props.node(a.Verb)
	case segment.ActBeacon:
		e.props.beacon(a.Seq)
	case segment.ActAcked:
		if b := e.boxes[a.Segment]; b != nil {
			b.acked(a.Seq)
		}
	case segment.ActMoved:
		if b := e.boxes[a.Segment]; b != nil {
			b.moved(a.Seq)
		}
	case segment.ActLost:
		if b := e.boxes[a.Segment]; b != nil {
			b.lost()
		}
	case segment.ActResultsAcked:
		if b := e.boxes[a.Segment]; b != nil {
			b.resultsAcked(a.Seq)
		}
	case segment.ActPause, segment.ActResume:
		// Machine.Delivers says so to whoever asks before an attempt.
		if a.Kind == segment.ActResume {
			e.desk.put(job{kind: jobResume, segment: a.Segment})
		}
	case segment.ActAlarm:
		e.stats.alarms++
		e.log.Error("the cluster's data plane", "segment", a.Segment.String(), "alarm", a.Why)
	case segment.ActFatal:
		e.closed = true
		e.fatal(fmt.Errorf("cluster: %s (segment %s)", a.Why, a.Segment))
	default:
		if a.Kind == segment.ActOwn && a.Takeover {
			e.stats.takeovers++
		}
		e.desk.put(e.jobOf(a))
	}
}

// jobOf is what an action wants of the disk. The lock is held.
func (e *engine) jobOf(a *segment.Action) job {
	j := job{
		segment: a.Segment, epoch: a.Epoch, first: a.First, seq: a.Seq, peer: a.Peer,
		token: a.Token, session: a.Session, complete: a.Complete, takeover: a.Takeover, record: a.Record,
	}
	switch a.Kind {
	case segment.ActStore:
		j.kind = jobTake
	case segment.ActStoreResults:
		j.kind = jobTakeResults
	case segment.ActSetSegment:
		j.kind = jobSet
	case segment.ActOwn:
		j.kind = jobOwn
	case segment.ActDisown:
		j.kind = jobDisown
	case segment.ActQuiesce:
		j.kind = jobQuiesce
	case segment.ActSendInventory:
		j.kind = jobSendInventory
	case segment.ActMerge:
		j.kind = jobMerge
	case segment.ActFetch:
		j.kind = jobFetch
	case segment.ActServe:
		j.kind = jobServe
	case segment.ActPut:
		j.kind = jobPut
	case segment.ActForget:
		j.kind = jobForget
	}
	switch a.Kind {
	case segment.ActStore, segment.ActStoreResults, segment.ActMerge, segment.ActServe, segment.ActPut:
		j.batch, j.item = e.in, &e.in.frame.Items[e.in.index[a.Index]]
		j.peer = e.in.from
		e.in.hold()
	}
	return j
}

// send sends an item; records and results are attached from memory. What
// cannot be sent is left: the core sees no progress, and asks again or seals.
// The lock is held.
func (e *engine) send(a *segment.Action) {
	var err error
	switch a.Item.Kind {
	case segment.ItemAppend:
		if b := e.boxes[a.Item.Segment]; b != nil {
			err = b.send(e.net, a)
		}
	case segment.ItemResults:
		if b := e.boxes[a.Item.Segment]; b != nil {
			err = b.sendResults(e.net, a)
		}
	default:
		err = e.net.Send(a.Peer.Node, bare(a.Item))
	}
	switch {
	case err == nil || isDown(err):
	case errors.Is(err, errGone):
		e.log.Warn("a node asks again for what is no longer in memory", "peer", a.Peer.Node, "error", err)
	default:
		e.log.Warn("sending to a node", "peer", a.Peer.Node, "error", err)
		e.net.Break(a.Peer.Node, err)
	}
}

// bare is an item without data.
func bare(it segment.Item) replica.Item {
	return replica.Item{Kind: it.Kind, Segment: uint64(it.Segment), Epoch: uint64(it.Epoch), Seq: it.Seq, Arg: it.Arg}
}

// Up is of replica.Handler.
func (e *engine) Up(p replica.Peer) {
	e.step(&segment.PeerUp{Peer: refOf(p), Session: fsm.Session(p.Session)})
}

// Down is of replica.Handler.
func (e *engine) Down(p replica.Peer, err error) {
	e.log.Info("a node is not connected any more", "peer", p.Node, "error", err)
	e.step(&segment.PeerDown{Peer: refOf(p)})
	e.desk.peerDown(refOf(p))
}

// Receive is of replica.Handler.
func (e *engine) Receive(from replica.Peer, frame *replica.Batch) {
	in := &batch{from: refOf(from), frame: frame}
	in.hold()
	defer in.release()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.items, in.index = e.items[:0], nil
	for i := range frame.Items {
		it := &frame.Items[i]
		if it.Kind == itemBeacon {
			e.props.heard(from.Node, fsm.Session(it.Arg), it.Seq)
			continue
		}
		in.index = append(in.index, i)
		e.items = append(e.items, segment.Item{
			Kind: it.Kind, Segment: fsm.SegmentID(it.Segment), Epoch: fsm.Epoch(it.Epoch), Seq: it.Seq, Arg: it.Arg,
		})
	}
	if len(e.items) > 0 {
		e.in = in
		e.stepLocked(&segment.Received{From: in.from, Items: e.items})
		e.in = nil
	}
}

func refOf(p replica.Peer) fsm.Ref { return fsm.Ref{Node: p.Node, Store: p.Store} }

func newEngine(log *slog.Logger, fatal func(error)) *engine {
	return &engine{now: bootTime, log: log, fatal: fatal, boxes: map[fsm.SegmentID]*outbox{}, numbers: map[fsm.SegmentID]uint64{}}
}

// begin gives the engine its core.
func (e *engine) begin(m *segment.Machine, session fsm.Session) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.m, e.session = m, session
}

// sessionOf is this process's session; 0 until it has one.
func (e *engine) sessionOf() fsm.Session {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.session
}

// end lets everybody go who waits; nothing is stepped after it.
func (e *engine) end() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	for _, b := range e.boxes {
		b.close()
	}
}

// ready tells whether a message would be taken.
func (e *engine) ready() *mail.Reply {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.m == nil || e.closed:
		return mail.NewReply(451, "4.3.0", "waiting for the cluster, try again later")
	case !e.m.Holds(e.now()):
		return mail.NewReply(451, "4.3.0", "this machine has lost touch with the others, try again later")
	}
	id, _, ok := e.m.Pick(e.now())
	if !ok {
		return errNoPlace
	}
	e.stepLocked(&segment.Arrived{Segment: id})
	return nil
}

// errNoPlace is the answer while no open segment has all its members.
var errNoPlace = mail.NewReply(451, "4.3.0", "no other machine takes a copy now, try again later")

// delivers tells whether this node may deliver from a segment now.
func (e *engine) delivers(id fsm.SegmentID) bool {
	if !id.Replicated() {
		return true // from the time when this machine was alone: it has the only copy
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.m != nil && !e.closed && e.m.Delivers(e.now(), id)
}

// status counts what this node has to do with.
func (e *engine) status() segment.Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.m == nil {
		return segment.Status{}
	}
	return e.m.Status()
}
