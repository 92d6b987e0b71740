package segment

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/segment/balance"
	"github.com/clrelay/clrelay/cluster/segment/lease"
)

// Machine is the protocol of one node. See the package comment.
type Machine struct {
	cfg Config
	rng *rand.Rand
	now time.Duration
	out []Action        // of the running Step; reused
	ops []fsm.SegmentOp // to be proposed at its end

	session   fsm.Session
	active    bool // the own Register and the floor are applied
	index     uint64
	settings  fsm.Settings
	copies    int // members a segment is to have
	forgetful bool
	lease     lease.Lease
	nodes     map[string]*node
	lastRenew time.Duration // when any node's renewal was applied
	peers     map[fsm.Ref]*peer
	peerList  []*peer // in the order they were heard of
	troubled  bool

	segs   map[fsm.SegmentID]*seg
	list   []*seg // all of segs, in an order that depends on events alone
	busy   []*seg // those with something to wait for
	open   []*seg // own OPEN ones
	next   int    // of open, for Pick
	scanAt time.Duration

	opening   []opening
	opened    uint32 // highest n used
	openAfter time.Duration
	tokens    uint64
	jobs      int
	queue     []*seg        // those that wait for a job to end, so that theirs can begin
	nodeAfter time.Duration // when the own node's state is proposed again
	balance   *balance.Balancer
	move      balance.Move // of backlog to another node; zero: none
}

// node is what is known of a node of the cluster.
type node struct {
	fsm.Node
	renewedAt time.Duration // when its newest renewal was applied here
}

// peer is another process, as the streams know it.
type peer struct {
	ref        fsm.Ref
	session    fsm.Session
	up         bool
	downSince  time.Duration
	troubled   bool          // takes no new copies
	avoidUntil time.Duration // it stalled a segment
}

// seg is what the machine knows of one segment.
type seg struct {
	id        fsm.SegmentID
	rec       fsm.Segment
	known     bool      // there is a record
	seen      fsm.Epoch // what level has acted on
	seenState fsm.SegmentState
	held      bool // there is data of it here
	from      *Held
	adopted   bool // the control plane has answered the OpAdopt
	off       bool // there is no record for it was written off

	// last and durable are of the own log: as owner what was appended, as
	// member what was taken.
	last, durable uint64
	pos           int  // in Machine.list
	inBusy        bool // is in Machine.busy
	wake          time.Duration

	mine    bool // this node is the owner
	owned   bool // the driver delivers from it
	handed  bool // another process may have owned it since this node last did
	members []*member
	own     ownOpen
	res     results
	prop    proposal
	rcv     *recovery
	job     *job
	jobNext time.Duration // no new job before
	queued  bool          // is in Machine.queue
	unsure  bool          // owned since before this process; for buildMembers
	suspect bool          // what is missing here proves nothing
	empty   bool
	quiet   quietState
	hush    uint64  // token of the newest ActQuiesce
	heir    fsm.Ref // whom a Transfer was proposed to

	// As a member.
	takeFrom  fsm.Ref
	takeEpoch fsm.Epoch
	closed    bool // a take failed: nothing more at this epoch
	ask       pendingAsk
	sync      syncing
	confirmed fsm.Epoch     // a copy for an AddMember at this epoch was said to be complete
	copyAt    time.Duration // when a copy was last worked on, or its epoch ended
}

// member is the owner's view of another member.
type member struct {
	ref     fsm.Ref
	peer    *peer
	sent    uint64 // appends, in this stream
	acked   uint64
	retryAt time.Duration // 0: none; appends go on then
	gap     uint64        // where they go on
	refused bool
	noRoom  bool // for want of room
	lost    bool // has less than it acknowledged
	unsure  bool // fresh by the record, but an earlier process of this node may not have told it all results
	stale   bool // by the record
	pending bool // Fresh was proposed at this epoch
	stream  bool // results go there
	rsent   uint64
	racked  uint64
}

// counts says whether delivery waits for this member's results.
func (b *member) counts(without Rules) bool {
	return !b.stale || b.pending && without&FreshCounts == 0
}

// proposal is the last one made for a segment at its present epoch.
type proposal struct {
	kind   fsm.OpKind
	member fsm.Ref
	at     time.Duration
}

// ErrConfig is wrapped by what New refuses.
var ErrConfig = errors.New("segment: not a configuration")

// New returns the machine of a process that has just started. It does nothing
// until it was told its session and has applied it.
func New(cfg Config) (*Machine, error) {
	if cfg.Self.Node == "" || cfg.Open < 0 || cfg.Open > fsm.MaxOpen/2 {
		return nil, fmt.Errorf("%w: node %q, %d open segments", ErrConfig, cfg.Self.Node, cfg.Open)
	}
	if cfg.Open == 0 {
		cfg.Open = 4
	}
	cfg.Balance.Seed = cfg.Seed
	m := &Machine{
		cfg:   cfg,
		rng:   rand.New(rand.NewPCG(cfg.Seed, 0x5e67)),
		nodes: map[string]*node{},
		peers: map[fsm.Ref]*peer{},
		segs:  map[fsm.SegmentID]*seg{},

		balance: balance.New(cfg.Balance),
	}
	for i := range cfg.Held {
		h := &cfg.Held[i]
		if !h.Segment.Replicated() {
			continue // of a single machine: stays this node's, never replicated
		}
		if m.segs[h.Segment] != nil {
			return nil, fmt.Errorf("%w: segment %v is held twice", ErrConfig, h.Segment)
		}
		s := m.ensure(h.Segment)
		s.held, s.from, s.last, s.durable, s.suspect = true, h, h.Last, h.Last, cfg.Suspect
		s.handed = h.Epoch == 0 || h.Owner != cfg.Self
	}
	return m, nil
}

// Step takes one event and returns what to do about it. The slice is valid
// until the next call.
func (m *Machine) Step(now time.Duration, ev Event) []Action {
	clear(m.out)
	m.out = m.out[:0]
	if now < m.now {
		m.lease.Drop() // the clock went back: nothing measured with it holds
	}
	m.now = now
	switch ev := ev.(type) {
	case *Appended:
		m.appended(ev)
	case *Durable:
		m.ownDurable(ev)
	case *Received:
		m.received(ev)
	case *Taken:
		m.taken(ev)
	case *ResultsAppended:
		m.resultsAppended(ev)
	case *ResultsDurable:
		m.resultsDurable(ev)
	case *TakenResults:
		m.takenResults(ev)
	case *Tick:
		m.tick()
	case *Applied:
		m.applied(ev)
	default:
		m.stepRare(ev)
	}
	m.flushOps()
	return m.out
}

func (m *Machine) stepRare(ev Event) {
	switch ev := ev.(type) {
	case *Registered:
		m.session = ev.Session
		m.activate()
	case *Arrived:
		m.arrived(ev.Segment)
	case *Full:
		m.full(ev.Segment)
	case *Empty:
		if s := m.segs[ev.Segment]; s != nil && s.mine {
			s.empty = true
			m.evaluate(s)
		}
	case *Quiet:
		if s := m.segs[ev.Segment]; s != nil && s.quiet == quiescing && s.hush == ev.Token {
			s.quiet = quiet
			m.evaluate(s)
		}
	case *PeerUp:
		m.peerUp(ev)
	case *PeerDown:
		m.peerDown(ev.Peer)
	case *TakeFailed:
		m.takeFailed(ev)
	case *Merged:
		if s := m.segs[ev.Segment]; s != nil {
			m.merged(s, ev)
		}
	case *Fetched:
		if s := m.segs[ev.Segment]; s != nil {
			m.fetched(s, ev)
		}
	case *Trouble:
		m.trouble(ev.On)
	case *Loads:
		m.loads(ev)
	case *Refused:
		m.refused(ev)
	case *DropLease:
		m.lease.Drop()
	}
}

// tick looks at whatever waits for time to pass.
func (m *Machine) tick() {
	m.beacon()
	if !m.active {
		return
	}
	if m.now >= m.scanAt {
		// Once a second all owned segments: whether a member has been dead for
		// long enough shows in no event.
		m.scanAt = m.now + time.Second
		for _, s := range m.list {
			if s.mine || m.damaged(s) || s.held && !s.rec.IsMember(m.cfg.Self) {
				m.touch(s)
			}
		}
	}
	for i := 0; i < len(m.busy); {
		s := m.busy[i]
		if s.wake <= m.now {
			m.evaluate(s)
		}
		if s.wake != 0 {
			i++
			continue
		}
		s.inBusy = false
		last := len(m.busy) - 1
		m.busy[i], m.busy[last] = m.busy[last], nil
		m.busy = m.busy[:last]
	}
	for len(m.queue) > 0 && m.jobs < MaxJobs {
		s := m.queue[0]
		m.queue[0] = nil
		m.queue = m.queue[1:]
		s.queued = false
		m.evaluate(s)
	}
	m.keepOpen()
	m.tendNode()
}

// touch has the segment looked at with the next tick.
func (m *Machine) touch(s *seg) {
	s.wake = max(m.now, 1)
	if !s.inBusy {
		s.inBusy = true
		m.busy = append(m.busy, s)
	}
}

// evaluate does what the segment's record and the time ask for. It leaves in
// wake when it is to be called again, 0 if only an event changes anything.
func (m *Machine) evaluate(s *seg) {
	if !m.active || m.segs[s.id] != s {
		s.wake = 0
		return
	}
	var wait time.Duration
	switch {
	case !s.known:
		wait = m.tendGone(s)
	case s.mine && s.rec.State == fsm.Open:
		wait = m.tendOpen(s)
	case s.mine && s.rec.State == fsm.Recovering:
		wait = m.tendRecovery(s)
	case s.mine:
		wait = m.tendSealed(s)
	default:
		wait = m.tendForeign(s)
	}
	if m.segs[s.id] != s || wait == 0 {
		s.wake = 0
		return
	}
	m.touch(s)
	s.wake = m.now + wait
}

func (m *Machine) ensure(id fsm.SegmentID) *seg {
	if s := m.segs[id]; s != nil {
		return s
	}
	s := &seg{id: id, pos: len(m.list)}
	m.segs[id] = s
	m.list = append(m.list, s)
	return s
}

func (m *Machine) drop(s *seg) {
	m.endJob(s, 0)
	delete(m.segs, s.id)
	last := len(m.list) - 1
	m.list[s.pos] = m.list[last]
	m.list[s.pos].pos = s.pos
	m.list[last] = nil
	m.list = m.list[:last]
	m.open = slices.DeleteFunc(m.open, func(o *seg) bool { return o == s })
	s.wake = 0
}

// propose asks for a change of the segment, unless the same was asked for a
// moment ago.
func (m *Machine) propose(s *seg, op fsm.SegmentOp) {
	p := proposal{kind: op.Kind, member: op.Member, at: m.now}
	if s.prop.kind == p.kind && s.prop.member == p.member && m.now-s.prop.at < ProposeEvery {
		return
	}
	s.prop = p
	op.ID, op.Epoch, op.By = s.id, s.rec.Epoch, m.session
	m.ops = append(m.ops, op)
}

func (m *Machine) flushOps() {
	for len(m.ops) > 0 {
		n := min(len(m.ops), fsm.MaxOps)
		m.act(Action{Kind: ActPropose, Ops: m.ops[:n:n]})
		m.ops = m.ops[n:]
	}
	m.ops = nil // the driver has them
}

func (m *Machine) act(a Action) { m.out = append(m.out, a) }

func (m *Machine) send(p *peer, it Item) {
	if p != nil && p.up {
		m.act(Action{Kind: ActSend, Peer: p.ref, Item: it})
	}
}

func (m *Machine) alarm(s *seg, why string) {
	m.act(Action{Kind: ActAlarm, Segment: s.id, Why: why})
}

func (m *Machine) fatal(id fsm.SegmentID, why string) {
	m.act(Action{Kind: ActFatal, Segment: id, Why: why})
}

func (m *Machine) without(r Rules) bool { return m.cfg.Without&r != 0 }

func (m *Machine) token() uint64 {
	m.tokens++
	return m.tokens
}

// Knows says whether there is a record of a segment, or something of it here.
func (m *Machine) Knows(id fsm.SegmentID) bool { return m.segs[id] != nil }

// Delivers says whether this node may deliver from a segment now: to be asked
// when an attempt starts, before the final dot, and before a connection is
// used again.
func (m *Machine) Delivers(now time.Duration, id fsm.SegmentID) bool {
	s := m.segs[id]
	return s != nil && m.active && s.known && s.mine && s.owned && s.rec.State != fsm.Recovering &&
		s.quiet < quiet && (m.Holds(now) || m.without(LeaseToDeliver))
}

// Status counts what this node has to do with, for figures and for drain.
type Status struct {
	Active     bool // registered, and the floor applied
	Owned      int  // segments this node owns
	OwnedOpen  int
	Recovering int // of them, being taken over
	Member     int // segments of others it is a member of
	Held       int // segments it has data of, members or not
	Unders     int // owned segments with fewer fresh and healthy members than wanted
}

// Status returns the counts.
func (m *Machine) Status() Status {
	st := Status{Active: m.active}
	for _, s := range m.list {
		if s.held {
			st.Held++
		}
		switch {
		case !s.known:
		case s.mine:
			st.Owned++
			if s.rec.State == fsm.Open {
				st.OwnedOpen++
			}
			if s.rec.State == fsm.Recovering {
				st.Recovering++
			}
			if m.healthyFresh(s, fsm.Ref{}) < m.copies {
				st.Unders++
			}
		case s.rec.IsMember(m.cfg.Self):
			st.Member++
		}
	}
	return st
}
