package sim

import (
	"fmt"
	"io"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/lead"
	"github.com/clrelay/clrelay/cluster/segment"
)

// Options of a run. The run is a function of them.
type Options struct {
	Seed   uint64
	Nodes  int           // at the start; all vote
	Rough  time.Duration // of trouble; then everything is mended
	Faults Fault         // kinds of trouble
	Pace   time.Duration // between troubles, about
	Copies int
	// Backlog is the messages that a node may have beyond what others have;
	// beyond that they move. 0: none do, for nobody tells what waits.
	Backlog uint64
	Trace   io.Writer // nil: none

	Without     segment.Rules
	WithoutLead lead.Rules
	// Bend changes commands before they are applied, on all nodes alike: how
	// the tests take rules out of the control plane. nil: none.
	Bend func(st *fsm.State, c fsm.Command) fsm.Command
	// Ambush is the kind of proposal that Late holds back; 0: any.
	Ambush fsm.OpKind
	// LeaseFree does not ask for a lease at each 250: whether mail is lost without.
	LeaseFree bool
	// FlatEpochs shows the nodes the same epoch whatever has changed.
	FlatEpochs bool
}

// Bounds of a run after the trouble.
const (
	calmFor  = 400 * time.Second // by then all must be well
	sendEach = 60 * time.Millisecond
	probes   = 10 // messages sent when all is well: each must be taken
)

// cluster is a run: the nodes, what lies between them, and the truth.
type cluster struct {
	o       Options
	w       *world
	net     *network
	raft    *raft
	streams *streams[wire]
	nodes   []*node
	stores  map[fsm.Ref]*store
	pace    time.Duration
	calm    bool
	away    bool // the next hop takes nothing

	truth   *fsm.State // after all committed entries
	results []fsm.Result
	snaps   []snap

	msgs   []*message
	bySeg  map[uint64][]*message // acknowledged there
	fences map[uint64]fence
	dirty  map[uint64]bool // segments to be checked after this step
	all    bool
	stale  map[uint64]bool // segments that a stale member took over, or whose fresh members lost their disks
	ends   map[uint64]uint64
	recov  map[uint64]time.Duration
	ghosts []ghost
	ambush *ambush
	stats  Stats
}

// ghost is a process that is cut off from everything, but may deliver until
// its lease ends.
type ghost struct {
	name  string
	ref   fsm.Ref
	m     *segment.Machine
	clock clock
}

// snap is the control plane after index.
type snap struct {
	index uint64
	data  []byte
}

// fence is the last delivery from a segment.
type fence struct {
	node  string
	epoch fsm.Epoch
}

func newCluster(o Options) *cluster {
	c := &cluster{
		o: o, w: newWorld(o.Seed, o.Trace), stores: map[fsm.Ref]*store{}, pace: o.Pace,
		truth: fsm.New(), bySeg: map[uint64][]*message{}, fences: map[uint64]fence{},
		dirty: map[uint64]bool{}, stale: map[uint64]bool{}, ends: map[uint64]uint64{}, recov: map[uint64]time.Duration{},
	}
	c.net = newNetwork(c.w, o.Nodes)
	c.raft = newRaft(c.w, c.net)
	c.raft.committed, c.raft.apply, c.raft.jump = c.committed, c.applied, c.jumped
	c.streams = newStreams[wire](c.w, c.net)
	c.streams.ready = func(n int) bool { p := c.nodes[n].proc; return p != nil && !c.nodes[n].paused && p.session != 0 }
	c.streams.alive = func(n int) bool { return c.nodes[n].proc != nil && !c.nodes[n].paused }
	c.streams.process = func(n int) uint64 { return c.nodes[n].process }
	c.streams.ident = func(n int) ident { return ident{c.nodes[n].ref, c.nodes[n].proc.session} }
	c.streams.up, c.streams.down, c.streams.receive = c.peerUp, c.peerDown, c.received
	for range o.Nodes {
		c.addNode(true)
	}
	c.setUp()
	if o.Backlog > 0 {
		c.w.after(c.w.between(time.Second, 8*time.Second), "hop", c.hop)
	}
	c.w.after(2*time.Second, "client", c.client)
	c.w.after(c.w.between(3*time.Second, 8*time.Second), "trouble", c.trouble)
	return c
}

func (c *cluster) addNode(voter bool) {
	i := len(c.nodes)
	n := &node{c: c, index: i, name: fmt.Sprintf("n%d", i), clock: clock{millionths: c.rate(), base: c.w.between(0, 1000*time.Second)}}
	c.nodes = append(c.nodes, n)
	c.raft.add(voter)
	for j := range i {
		c.streams.connect(j, i)
	}
	c.format(n)
	c.start(i)
}

// format gives the node an empty disk.
func (c *cluster) format(n *node) {
	var id fsm.StoreID
	for i := range id {
		id[i] = byte(c.w.rng.Uint32())
	}
	n.store = newStore(c.w, id)
	n.store.touched = func(seg uint64) {
		if seg == 0 {
			c.all = true
		}
		c.dirty[seg] = true
	}
	n.store.slow = n.slow
	n.ref = fsm.Ref{Node: n.name, Store: id}
	c.stores[n.ref] = n.store
}

// setUp makes time-outs short enough for a run.
func (c *cluster) setUp() {
	s := fsm.DefaultSettings()
	s.Version++
	s.Copies = c.o.Copies
	s.RereplicateAfter = c.w.between(5*time.Second, 60*time.Second)
	s.UncleanAfter = c.w.between(20*time.Second, 60*time.Second)
	c.operator(fsm.SettingsApply{Settings: s})
}

// operator proposes until something commits.
func (c *cluster) operator(cmd fsm.Command) {
	n := c.w.rng.IntN(len(c.nodes))
	again := func() { c.operator(cmd) }
	if c.nodes[n].proc == nil || c.nodes[n].paused {
		c.w.after(100*time.Millisecond, "operator", again)
		return
	}
	c.raft.propose(n, encode(cmd), func(index uint64) {
		if index == 0 {
			c.w.after(100*time.Millisecond, "operator", again)
		}
	})
}

// committed applies an entry to the truth and checks the change.
func (c *cluster) committed(index uint64, data []byte) {
	var res fsm.Result
	if data != nil {
		before := c.before(data)
		res = c.applyTo(c.truth, index, data)
		c.checkChange(before, res)
	}
	c.results = append(c.results, res)
	c.w.mix(uint64(len(data)))
	if index%32 == 0 {
		c.snaps = append(c.snaps, snap{index, c.truth.Snapshot()})
	}
}

// applyTo applies an entry, bent where a test wants it.
func (c *cluster) applyTo(st *fsm.State, index uint64, data []byte) fsm.Result {
	if c.o.Bend != nil {
		if cmd, err := fsm.Decode(data); err == nil {
			data = encode(c.o.Bend(st, cmd))
		}
	}
	return st.Apply(index, data)
}

// applied tells a node's process an entry.
func (c *cluster) applied(i int, index uint64, data []byte) {
	p := c.nodes[i].proc
	if data == nil || p == nil {
		return
	}
	res := c.applyTo(p.state, index, data)
	p.tell(index, res)
}

// jumped restores a snapshot at a node that is far behind.
func (c *cluster) jumped(i int, known uint64) uint64 {
	p := c.nodes[i].proc
	for k := len(c.snaps) - 1; k >= 0 && p != nil; k-- {
		if c.snaps[k].index > known {
			continue
		}
		p.restore(c.snaps[k])
		p.tell(c.snaps[k].index, fsm.Result{All: true})
		return c.snaps[k].index
	}
	return 0
}

// client sends a message to some node, and comes back.
func (c *cluster) client() {
	if c.calm {
		return
	}
	c.w.after(c.w.between(sendEach/4, sendEach*2), "client", c.client)
	c.sendOne(1 + c.w.rng.IntN(3))
}

// sendOne sends a message of so many records to some node.
func (c *cluster) sendOne(records int) {
	n := c.nodes[c.w.rng.IntN(len(c.nodes))]
	if n.proc == nil || n.paused {
		return
	}
	m := &message{id: len(c.msgs), records: records}
	c.msgs = append(c.msgs, m)
	c.stats.Sent++
	n.proc.accept(m)
}

// Run runs a cluster. The error says which promise was broken.
func Run(o Options) (Stats, error) {
	c := newCluster(o)
	for c.w.now < o.Rough && c.w.step() {
		c.check()
	}
	c.mend()
	c.settle()
	probe := len(c.msgs)
	for range probes {
		c.sendOne(1)
	}
	c.settle()
	for _, m := range c.msgs[probe:] {
		if !m.acked && c.w.failed == nil {
			c.w.fail("liveness: m%d is not acknowledged though all is well", m.id)
		}
	}
	c.all = true
	c.check()
	c.finish()
	return c.stats, c.w.failed
}

// settle runs on until all is well.
func (c *cluster) settle() {
	deadline := c.w.now + calmFor
	next := c.w.now + 5*time.Second
	for c.w.failed == nil {
		if c.w.now >= next {
			why := c.unwell()
			if why == "" {
				return
			}
			if c.w.now > deadline {
				c.w.fail("liveness: %v after all was mended: %s", calmFor, why)
			}
			next = c.w.now + time.Second
		}
		c.w.step()
		c.check()
	}
}

func (c *cluster) finish() {
	c.stats.Steps, c.stats.Virtual, c.stats.Digest = c.w.steps, c.w.now, c.w.digest
	c.stats.Entries, c.stats.Segments = len(c.raft.entries), c.truth.Len()
	for _, m := range c.msgs {
		c.stats.Acked += b2i(m.acked)
		c.stats.Refused += b2i(m.refused)
		c.stats.Delivered += b2i(m.delivered > 0)
		c.stats.Duplicates += max(0, m.delivered-1)
	}
}

// mend ends all trouble.
func (c *cluster) mend() {
	c.w.logf("calm")
	c.calm, c.away = true, false
	c.raft.late = 0
	c.net.calm()
	for i, n := range c.nodes {
		c.raft.quicken(i)
		n.setSlow(0)
		c.setTroubled(i, false)
		c.resume(i)
		c.start(i)
		if st, ok := c.truth.Node(n.name); ok && st.State != fsm.Alive {
			c.operator(fsm.NodeChange{Node: n.name, Verb: fsm.NodeResume})
		}
	}
}

func (c *cluster) crash(i int, power bool) {
	n := c.nodes[i]
	if n.proc == nil {
		return
	}
	c.stats.Crashes++
	c.w.logf("%s crashes, power=%v", n.name, power)
	n.end(power)
	if power {
		n.clock = clock{since: c.w.now, millionths: n.clock.millionths}
	}
}

// move starts the node's disk on another machine; what ran on the old one is
// cut off and does not know.
func (c *cluster) move(i int) {
	n := c.nodes[i]
	if n.proc == nil {
		return
	}
	c.w.logf("%s is moved", n.name)
	c.ghosts = append(c.ghosts, ghost{n.name + "'s old process", n.ref, n.proc.m, n.clock})
	n.end(true)
	n.machine++
	n.clock = clock{since: c.w.now, millionths: c.rate(), base: c.w.between(0, 1000*time.Second)}
}

func (c *cluster) loseDisk(i int) {
	n := c.nodes[i]
	c.w.logf("%s loses its disk", n.name)
	c.stats.DisksLost++
	n.store.lost = true
	for _, g := range c.truth.Segments() {
		if g.IsMember(n.ref) {
			c.stale[uint64(g.ID)] = c.stale[uint64(g.ID)] || len(g.Stale) > 0
		}
	}
	c.all = true
	c.format(n)
}

// mayLose is whether every acknowledged message that was not delivered is on
// another member's disk: the promise is about one disk.
func (c *cluster) mayLose(i int) bool {
	n := c.nodes[i]
	for _, g := range c.truth.Segments() {
		if !g.IsMember(n.ref) {
			continue
		}
		there := 0
		for _, r := range g.Members {
			if s := c.stores[r]; s != nil && !s.lost {
				there++
			}
		}
		if there < 2 {
			return false
		}
		for _, m := range c.bySeg[uint64(g.ID)] {
			if m.delivered == 0 && !c.elsewhere(&g, m, n.ref) {
				return false
			}
		}
	}
	return true
}

func (c *cluster) elsewhere(g *fsm.Segment, m *message, not fsm.Ref) bool {
	for _, r := range g.Members {
		if s := c.stores[r]; r != not && s != nil && !s.lost && s.disk.holds(m) {
			return true
		}
	}
	return false
}

func (c *cluster) pause(i int) {
	n := c.nodes[i]
	if n.proc != nil && !n.paused {
		c.w.logf("%s is stopped", n.name)
		n.paused = true
		c.raft.pause(i)
	}
}

func (c *cluster) resume(i int) {
	n := c.nodes[i]
	if !n.paused {
		return
	}
	c.w.logf("%s goes on", n.name)
	n.paused = false
	if n.proc != nil {
		c.raft.resume(i)
		n.catchUp()
	}
}

// start starts the process of a node that has none.
func (c *cluster) start(i int) {
	n := c.nodes[i]
	if n.proc != nil {
		return
	}
	n.process++
	n.paused, n.backlog = false, nil
	n.proc = newProcess(n)
	var at uint64
	known := c.raft.peers[i].applied
	for k := len(c.snaps) - 1; k >= 0; k-- {
		if c.snaps[k].index <= known && c.w.chance(700) {
			n.proc.restore(c.snaps[k])
			at = c.snaps[k].index
			break
		}
	}
	c.w.logf("%s starts process %d at index %d", n.name, n.process, at)
	c.raft.start(i, at)
	n.proc.begin()
}

func (c *cluster) setTroubled(i int, on bool) {
	n := c.nodes[i]
	if n.troubled != on {
		n.troubled = on
		n.exec("trouble", func(p *process) { p.step(&segment.Trouble{On: on}) })
	}
}

func (c *cluster) drain(i int) {
	c.operator(fsm.NodeChange{Node: c.nodes[i].name, Verb: fsm.NodeDrain})
	c.w.after(c.spell(40*time.Second), "operator", func() {
		c.operator(fsm.NodeChange{Node: c.nodes[i].name, Verb: fsm.NodeResume})
	})
}

// grow joins a node, one a run.
func (c *cluster) grow() {
	if len(c.nodes) == c.o.Nodes {
		c.net.grow()
		c.addNode(false)
	}
}
