package sim

import (
	"fmt"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/lead"
	"github.com/clrelay/clrelay/cluster/segment"
	"github.com/clrelay/clrelay/cluster/segment/balance"
)

// node is a machine: a clock, a disk and, mostly, a process.
type node struct {
	c        *cluster
	index    int
	name     string
	ref      fsm.Ref
	clock    clock
	store    *store
	process  uint64 // number of the last process
	proc     *process
	paused   bool
	backlog  []func() // what happened while it was stopped
	troubled bool
	slow     time.Duration
	machine  int // the disk has been moved so often
}

func (n *node) now() time.Duration { return n.clock.local(n.c.w.now) }

func (n *node) setSlow(d time.Duration) { n.slow, n.store.slow = d, d }

// exec runs fn in the node's process: later, where it is stopped; never, where
// this process has ended.
func (n *node) exec(what string, fn func(*process)) {
	p := n.proc
	if p == nil {
		return
	}
	if n.paused {
		n.backlog = append(n.backlog, func() { n.exec(what, fn) })
		return
	}
	fn(p)
	p.drainInbox()
}

// later runs fn in this very process, d from now on its clock.
func (p *process) later(d time.Duration, what string, fn func()) {
	n, number := p.n, p.n.process
	n.c.w.after(n.clock.until(d), what, func() {
		if n.process == number {
			n.exec(what, func(*process) { fn() })
		}
	})
}

// durable runs fn in this very process when the disk has the first k changes.
func (p *process) durable(k uint64, fn func()) {
	n, number := p.n, p.n.process
	n.store.whenDurable(k, func() {
		if n.process == number {
			n.exec("durable", func(*process) { fn() })
		}
	})
}

// catchUp runs what had waited.
func (n *node) catchUp() {
	list := n.backlog
	n.backlog = nil
	for _, fn := range list {
		fn()
	}
}

// end ends the process.
func (n *node) end(power bool) {
	n.proc = nil
	n.process++
	n.paused, n.backlog = false, nil
	n.store.crash(power)
	n.c.all = true
	n.c.raft.stop(n.index)
}

// process is a run of the program on a node: what a driver is in production.
type process struct {
	n        *node
	c        *cluster
	m        *segment.Machine
	lead     *lead.Machine
	state    *fsm.State
	told     bool // the machines were told all of the state
	nonce    [16]byte
	session  fsm.Session
	leads    bool
	term     uint64
	owned    map[uint64]*owned
	numbers  map[uint64]uint64 // by segment: the last result's number
	numbered map[numbering]finding
	inbox    []inboxed
	running  bool
	merges   map[merging]*inventory
	fetches  map[merging][]uint64
	ticked   time.Duration
	heard    map[fsm.Ref]heard
}

type inboxed struct {
	ev    segment.Event
	items []wire
	from  fsm.Ref
}

type numbering struct{ seg, num uint64 }

type merging struct {
	seg, token uint64
	from       string
}

func newProcess(n *node) *process {
	p := &process{
		n: n, c: n.c, state: fsm.New(), owned: map[uint64]*owned{}, numbers: map[uint64]uint64{},
		numbered: map[numbering]finding{}, merges: map[merging]*inventory{}, fetches: map[merging][]uint64{}, heard: map[fsm.Ref]heard{},
	}
	for i := range p.nonce {
		p.nonce[i] = byte(n.c.w.rng.Uint32())
	}
	cfg := segment.Config{
		Self: n.ref, Expect: n.c.o.Nodes, Open: 2 + n.c.w.rng.IntN(3), Seed: n.c.w.rng.Uint64(),
		Held: n.store.held(), Floor: n.store.mem.floor, Without: n.c.o.Without,
		Balance: balance.Config{Floor: n.c.o.Backlog, Stand: 2 * time.Second},
	}
	m, err := segment.New(cfg)
	if err != nil {
		n.c.w.fail("segment.New: %v", err)
	}
	p.m = m
	if p.lead, err = lead.New(lead.Config{Without: n.c.o.WithoutLead}); err != nil {
		n.c.w.fail("lead.New: %v", err)
	}
	return p
}

// begin starts what the process does by itself.
func (p *process) begin() {
	if p.n.troubled {
		p.step(&segment.Trouble{On: true})
	}
	if p.state.Applied() > 0 {
		p.tell(p.state.Applied(), fsm.Result{All: true})
	}
	p.ticked = p.n.now()
	p.later(0, "tick", p.tick)
	p.later(p.c.w.between(0, 300*time.Millisecond), "register", p.register)
	p.later(50*time.Millisecond, "deliver", p.deliver)
	if p.c.o.Backlog > 0 {
		p.later(p.c.w.between(0, loadsEvery), "loads", p.loads)
	}
	p.drainInbox()
}

func (p *process) tick() {
	now := p.n.now()
	if now-p.ticked > time.Second && p.c.w.chance(500) {
		p.step(&segment.DropLease{})
	}
	p.ticked = now
	p.step(&segment.Tick{})
	r := p.c.raft.peers[p.n.index]
	if r.leads != p.leads || r.leads && r.term != p.term {
		p.leads, p.term = r.leads, r.term
		if p.leads {
			p.leadStep(&lead.Leading{Term: p.term})
		} else {
			p.leadStep(&lead.Following{})
		}
	}
	p.leadStep(&lead.Tick{})
	p.later(segment.TickEvery+p.c.w.between(0, 2*time.Millisecond), "tick", p.tick)
}

// register asks for a session until it has one.
func (p *process) register() {
	if p.session != 0 {
		return
	}
	cmd := fsm.Register{Node: p.n.name, Store: p.n.ref.Store, Nonce: p.nonce, Info: fsm.NodeInfo{
		Address: p.n.name, SMTP: p.n.name, Zone: string(rune('a' + p.n.index%2)), Features: 1,
		BootID: "b", MachineID: fmt.Sprintf("%s-%d", p.n.name, p.n.machine),
	}}
	p.propose(cmd, func(index uint64) {
		if index == 0 || p.session != 0 {
			return
		}
		if res := p.c.results[index-1]; res.Code == fsm.OK {
			p.session = res.Session
			p.step(&segment.Registered{Session: p.session})
		}
	})
	p.later(500*time.Millisecond, "register", p.register)
}

// propose proposes through whom this process believes to lead.
func (p *process) propose(cmd fsm.Command, done func(index uint64)) {
	n, number := p.n, p.n.process
	p.c.raft.propose(n.index, encode(cmd), func(index uint64) {
		if n.process == number && done != nil {
			n.exec("outcome", func(*process) { done(index) })
		}
	})
}

// restore takes a snapshot of the control plane.
func (p *process) restore(s snap) {
	if err := p.state.Restore(s.data); err != nil {
		p.c.w.fail("fsm: restore at %d: %v", s.index, err)
	}
}

// tell tells both machines what an entry has changed.
func (p *process) tell(index uint64, res fsm.Result) {
	if res.Fatal {
		p.c.w.fail("fsm: fatal at %d: %s", index, res.Text)
	}
	full := res.All || !p.told
	if !full && len(res.Segments) == 0 && len(res.Nodes) == 0 && !res.Cluster {
		return
	}
	p.told = true
	var segs []fsm.Segment
	var gone []fsm.SegmentID
	var nodes []fsm.Node
	if full {
		segs, nodes = p.state.Segments(), p.state.Nodes()
	} else {
		for _, id := range res.Segments {
			if g, ok := p.state.Segment(id); ok {
				segs = append(segs, g)
			} else {
				gone = append(gone, id)
			}
		}
		for _, name := range res.Nodes {
			if n, ok := p.state.Node(name); ok {
				nodes = append(nodes, n)
			}
		}
	}
	if p.c.o.FlatEpochs {
		for i := range segs {
			segs[i].Epoch = fsm.Epoch(1<<32 | 1)
		}
	}
	set := p.state.Settings()
	p.leadStep(&lead.Applied{Index: index, Full: full, Segments: segs, Gone: gone, Nodes: nodes, Settings: set})
	p.step(&segment.Applied{Index: index, Full: full, Segments: segs, Gone: gone, Nodes: nodes, Settings: set, Forgetful: !p.state.InventoryMissing()})
}

// step queues an event; events made while one is worked on wait their turn.
func (p *process) step(ev segment.Event) {
	p.inbox = append(p.inbox, inboxed{ev: ev})
	p.drainInbox()
}

func (p *process) drainInbox() {
	if p.running {
		return
	}
	p.running = true
	for len(p.inbox) > 0 && p.n.proc == p {
		in := p.inbox[0]
		p.inbox = p.inbox[1:]
		acts := p.m.Step(p.n.now(), in.ev)
		if p.c.w.trace != nil {
			p.traceStep(in, acts)
		}
		for i := range acts {
			if p.n.proc != p {
				break
			}
			a := acts[i]
			p.c.w.mix(uint64(a.Kind)<<32 ^ uint64(a.Segment) ^ a.Seq)
			p.do(&a, &in)
		}
	}
	p.running = false
}

func (p *process) leadStep(ev lead.Event) {
	for _, a := range p.lead.Step(p.n.now(), ev) {
		switch a.Kind {
		case lead.ActBarrier:
			term, n, number := a.Term, p.n, p.n.process
			p.c.raft.barrier(n.index, func(ok bool) {
				if n.process == number && ok {
					n.exec("barrier", func(*process) { p.leadStep(&lead.Barred{Term: term}) })
				}
			})
		case lead.ActRenew:
			p.c.raft.proposeHere(p.n.index, encode(fsm.Renew{Renewals: a.Renewals}), nil)
		case lead.ActPropose:
			p.c.w.logf("%s leads: %v", p.n.name, opsText(a.Ops))
			p.c.raft.proposeHere(p.n.index, encode(fsm.SegmentOps{Ops: a.Ops}), nil)
		}
	}
}
