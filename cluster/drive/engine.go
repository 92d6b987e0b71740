package drive

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/replica"
	"github.com/clrelay/clrelay/cluster/segment"
	"github.com/clrelay/clrelay/cluster/segment/balance"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/spool"
)

// Sender is how items travel; *replica.Replicator.
type Sender interface {
	Send(to string, items ...replica.Item) error
	Break(node string, err error)
}

// Control puts commands into Raft's log and forgets them, and brings beacons
// to the leader. It must not block.
type Control interface {
	Ops(ops []fsm.SegmentOp)
	Node(verb fsm.NodeVerb)
	Beacon(n uint64)
	Heard(node string, session fsm.Session, n uint64)
}

// Engine drives the protocol core: it feeds it events and carries out its
// actions. Its lock is the core's; it is taken under the spool's lock (by
// Append and Settled), so that nothing under it calls the spool. What the
// actions want of the disk goes to the desk.
type Engine struct {
	now     func() time.Duration // CLOCK_BOOTTIME
	net     Sender
	control Control
	desk    *desk
	log     *slog.Logger
	fatal   func(error)

	mu      sync.Mutex
	m       *segment.Machine
	boxes   map[fsm.SegmentID]*outbox       // of owned segments
	late    map[fsm.Ref][]segment.Action    // sends that wait for room on their link, in order
	numbers map[fsm.SegmentID]uint64        // of the last result, of segments that were owned
	damaged map[fsm.SegmentID]time.Duration // since when some of a segment cannot be read here
	session fsm.Session
	in      *batch // whose items are being stepped
	items   []segment.Item
	figures Figures
	queued  uint64 // messages of owned segments, as looked at last
	closed  bool
	stopped chan struct{} // closed by Stop
	placed  time.Duration // when there last was a segment to go to
}

// Figures are counted by an Engine since it was made.
type Figures struct {
	Takeovers, Alarms uint64
	Moved             uint64 // segments given to a node with less mail
}

// Step feeds one event to the core.
func (e *Engine) Step(ev segment.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stepLocked(ev)
}

func (e *Engine) stepLocked(ev segment.Event) {
	if e.closed {
		return
	}
	for _, a := range e.m.Step(e.now(), ev) {
		e.do(&a)
	}
}

// do carries out an action, or hands it to who does. The lock is held.
func (e *Engine) do(a *segment.Action) {
	switch a.Kind {
	case segment.ActSend:
		e.send(a)
	case segment.ActPropose:
		e.control.Ops(a.Ops)
	case segment.ActProposeNode:
		e.control.Node(a.Verb)
	case segment.ActBeacon:
		e.control.Beacon(a.Seq)
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
	case segment.ActMoving:
		e.moving(a)
	case segment.ActAlarm:
		e.figures.Alarms++
		e.log.Error("the cluster's data plane", "segment", a.Segment.String(), "alarm", a.Why)
	case segment.ActFatal:
		e.closed = true
		e.fatal(fmt.Errorf("drive: %s (segment %s)", a.Why, a.Segment))
	default:
		if a.Kind == segment.ActOwn && a.Takeover {
			e.figures.Takeovers++
		}
		e.desk.put(e.jobOf(a))
	}
}

// moving tells the operator of backlog that goes to another node. The lock is
// held.
func (e *Engine) moving(a *segment.Action) {
	log := e.log.With("segment", a.Segment.String(), "to", a.Peer.Node)
	switch {
	case a.Complete:
		e.figures.Moved++
		log.Info("a segment was moved to a node with less mail")
	case a.Why != "":
		log.Info("a segment is not moved after all", "reason", a.Why)
	default:
		log.Info("moving a segment to a node with less mail")
	}
}

// jobOf is what an action wants of the disk. The lock is held.
func (e *Engine) jobOf(a *segment.Action) job {
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
// finds no room in the link's window waits for it, in order; what else cannot
// be sent is left: the core sees no progress, and asks again or seals. The lock
// is held.
func (e *Engine) send(a *segment.Action) {
	switch a.Item.Kind {
	case segment.ItemAppend, segment.ItemResults:
		e.late[a.Peer] = append(e.late[a.Peer], *a)
		if len(e.late[a.Peer]) == 1 {
			e.pump(a.Peer)
		}
	default:
		e.sent(a, e.net.Send(a.Peer.Node, bare(a.Item)))
	}
}

// pump sends what waits for room on a link, as far as there is any. The lock
// is held.
func (e *Engine) pump(peer fsm.Ref) {
	list := e.late[peer]
	for i := range list {
		a := &list[i]
		b := e.boxes[a.Item.Segment]
		if b == nil {
			continue
		}
		var rest uint64
		var err error
		if a.Item.Kind == segment.ItemAppend {
			rest, err = b.send(e.net, a)
		} else {
			rest, err = b.sendResults(e.net, a)
		}
		if rest != 0 {
			a.Item.Seq = rest
			e.late[peer] = append(list[:0], list[i:]...)
			kick(e.desk.jammed)
			return
		}
		e.sent(a, err)
	}
	e.late[peer] = list[:0]
}

// pumpAll gives the links that were full another chance. It says whether none
// is left.
func (e *Engine) pumpAll() (done bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	done = true
	for peer, list := range e.late {
		if len(list) > 0 {
			e.pump(peer)
			done = done && len(e.late[peer]) == 0
		}
	}
	return done
}

// sent looks at what came of sending. The lock is held.
func (e *Engine) sent(a *segment.Action, err error) {
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
func (e *Engine) Up(p replica.Peer) {
	e.Step(&segment.PeerUp{Peer: refOf(p), Session: fsm.Session(p.Session)})
}

// Down is of replica.Handler.
func (e *Engine) Down(p replica.Peer, err error) {
	e.log.Info("a node is not connected any more", "peer", p.Node, "error", err)
	e.mu.Lock()
	delete(e.late, refOf(p))
	e.stepLocked(&segment.PeerDown{Peer: refOf(p)})
	e.mu.Unlock()
	e.desk.peerDown(refOf(p))
}

// Receive is of replica.Handler.
func (e *Engine) Receive(from replica.Peer, frame *replica.Batch) {
	in := &batch{from: refOf(from), frame: frame}
	in.hold()
	defer in.release()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.items, in.index = e.items[:0], nil
	for i := range frame.Items {
		it := &frame.Items[i]
		if it.Kind == itemBeacon {
			e.control.Heard(from.Node, fsm.Session(it.Arg), it.Seq)
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

// New makes an engine that takes nothing and delivers nothing before Begin.
// now is CLOCK_BOOTTIME; fatal is told when the process has to end.
func New(now func() time.Duration, log *slog.Logger, fatal func(error)) *Engine {
	return &Engine{
		now: now, log: log, fatal: fatal, stopped: make(chan struct{}), placed: -placeWait,
		boxes: map[fsm.SegmentID]*outbox{}, late: map[fsm.Ref][]segment.Action{}, numbers: map[fsm.SegmentID]uint64{}, damaged: map[fsm.SegmentID]time.Duration{},
	}
}

// Parts are what an engine works with.
type Parts struct {
	Self    fsm.Ref
	Net     Sender
	Control Control
	Spool   *spool.Spool // whose Placement is the engine
	Queue   Queue
	Loads   func() []balance.Load // of the other nodes that take mail, as they say; nil: nobody's
}

// Attach gives the engine what it works with, before Begin.
func (e *Engine) Attach(p Parts) {
	e.net, e.control = p.Net, p.Control
	e.desk = newDesk(e, p)
}

// Begin gives the engine its core, and the session that the core is told of
// later.
func (e *Engine) Begin(m *segment.Machine, session fsm.Session) {
	e.desk.start()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.m, e.session = m, session
}

// Session is this process's session; 0 until it has one.
func (e *Engine) Session() fsm.Session {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.session
}

// Close waits for what runs to end. Stop must have been called.
func (e *Engine) Close() {
	if e.desk != nil {
		e.desk.close()
	}
}

// Figures tells what was counted.
func (e *Engine) Figures() Figures {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.figures
}

// Stop lets everybody go who waits; nothing is stepped after it.
func (e *Engine) Stop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	select {
	case <-e.stopped:
	default:
		close(e.stopped)
	}
	for _, b := range e.boxes {
		b.close()
	}
}

// Ready tells whether a message would be taken.
func (e *Engine) Ready() *mail.Reply {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.m == nil || e.closed:
		return mail.NewReply(451, "4.3.0", "waiting for the cluster, try again later")
	case !e.m.Holds(e.now()):
		return mail.NewReply(451, "4.3.0", "this machine has lost touch with the others, try again later")
	}
	now := e.now()
	id, _, ok := e.place(now)
	switch {
	case ok:
		e.stepLocked(&segment.Arrived{Segment: id})
	case now-e.placed >= placeWait: // else Pick is worth waiting
		return errNoPlace
	}
	return nil
}

// errNoPlace is the answer while no open segment has all its members.
var errNoPlace = mail.NewReply(451, "4.3.0", "no other machine takes a copy now, try again later")

// Delivers tells whether this node may deliver from a segment now.
func (e *Engine) Delivers(id fsm.SegmentID) bool {
	if !id.Replicated() {
		return true // from the time when this machine was alone: it has the only copy
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.m != nil && !e.closed && e.m.Delivers(e.now(), id)
}

// Leased tells whether this node has a lease, without which it delivers nothing.
func (e *Engine) Leased() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.m != nil && !e.closed && e.m.Holds(e.now())
}

// Queued is how many messages wait in the segments that this node owns.
func (e *Engine) Queued() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.queued
}

// Status counts what this node has to do with.
func (e *Engine) Status() segment.Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.m == nil {
		return segment.Status{}
	}
	return e.m.Status()
}
