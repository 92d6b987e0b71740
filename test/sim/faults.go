package sim

import "time"

// Fault is a kind of trouble that a run may meet.
type Fault uint32

// The kinds of trouble. A run has those of Options.Faults.
const (
	Crash     Fault = 1 << iota // the process is killed and starts again
	PowerLoss                   // the machine goes down; unsynced data is lost
	DiskLoss                    // the machine comes back with an empty disk
	Pause                       // SIGSTOP, up to four leases long
	Partition                   // links are cut, one way or both, some flapping
	BadLinks                    // loss, delay, repeats
	ClockRate                   // clocks change their rate
	RaftLag                     // followers apply late, leaders are deposed
	SlowDisk                    // syncs take long
	FullDisk                    // a node takes no new copies
	Drain                       // the operator drains and resumes nodes
	Grow                        // a node joins
	Late                        // proposals commit late and twice
	Move                        // the disk starts on another machine while the old process is cut off, not dead
	AllFaults = 1<<iota - 1
)

// faultKinds is how many there are.
const faultKinds = 14

// trouble makes the next fault and comes back later, until the calm.
func (c *cluster) trouble() {
	if c.calm {
		return
	}
	c.w.after(c.w.between(c.pace/4, c.pace*2), "trouble", c.trouble)
	n := c.w.rng.IntN(len(c.nodes))
	if c.w.chance(300) && c.raft.leader >= 0 {
		n = c.raft.leader
	}
	for again := true; again; again = c.w.chance(400) { // trouble does not come alone
		if kind := Fault(1) << c.w.rng.IntN(faultKinds); kind&c.o.Faults != 0 {
			c.inflict(kind, n)
		}
		if c.w.chance(300) {
			n = c.w.rng.IntN(len(c.nodes))
		}
	}
}

func (c *cluster) inflict(kind Fault, n int) {
	w := c.w
	switch kind {
	case Crash, PowerLoss:
		c.crash(n, kind == PowerLoss)
		w.after(c.spell(20*time.Second), "restart", func() { c.start(n) })
	case DiskLoss:
		if c.mayLose(n) {
			c.crash(n, true)
			c.loseDisk(n)
			w.after(w.between(50*time.Millisecond, 20*time.Second), "restart", func() { c.start(n) })
		}
	case Pause:
		c.pause(n)
		w.after(c.spell(20*time.Second), "resume", func() { c.resume(n) })
	case Partition:
		c.partition(n)
	case BadLinks:
		c.badLinks(n)
	case ClockRate:
		c.nodes[n].clock.setRate(w.now, c.rate())
	case RaftLag:
		c.raftLag(n)
	case SlowDisk:
		c.nodes[n].slow = w.between(0, 3*time.Second)
		w.after(c.spell(10*time.Second), "disk is quick", func() { c.nodes[n].slow = 0 })
	case FullDisk:
		c.setTroubled(n, true)
		w.after(c.spell(20*time.Second), "disk has room", func() { c.setTroubled(n, false) })
	case Drain:
		c.drain(n)
	case Grow:
		c.grow()
	case Late:
		c.late(n)
	case Move:
		c.move(n)
		w.after(c.spell(3*time.Second), "restart", func() { c.start(n) })
	}
}

// raftLag has a node apply late, and at times lead just then.
func (c *cluster) raftLag(n int) {
	w := c.w
	if w.chance(300) {
		c.blindLeader()
		return
	}
	if w.chance(600) {
		c.raft.peers[n].lag = w.between(0, 4*time.Second)
		w.after(c.spell(15*time.Second), "lag ends", func() { c.raft.peers[n].lag = 0 })
		if w.chance(500) {
			return
		}
	}
	w.after(c.spell(10*time.Second), "leads", func() {
		if p := c.raft.peers[n]; !c.calm && p.alive && p.voter && c.raft.majority(n) {
			c.raft.elect(n)
		}
	})
}

// blindLeader has a leader, old or new, apply nothing for longer than a lease,
// and then hear nothing of one node.
func (c *cluster) blindLeader() {
	w, n := c.w, c.w.rng.IntN(len(c.nodes))
	fresh := w.chance(500)
	if !fresh {
		n = max(c.raft.leader, 0)
	}
	m := (n + 1 + w.rng.IntN(len(c.nodes)-1)) % len(c.nodes)
	c.raft.peers[n].lag = w.between(8*time.Second, 25*time.Second)
	w.after(w.between(4*time.Second, 7*time.Second), "deaf", func() {
		c.cut([][2]int{{m, n}}, true)
		if p := c.raft.peers[n]; fresh && !c.calm && p.alive && p.voter && c.raft.majority(n) {
			c.raft.elect(n)
		}
	})
	w.after(w.between(8*time.Second, 12*time.Second), "hears", func() {
		c.raft.peers[n].lag = 0
		c.cut([][2]int{{m, n}}, false)
	})
}

// late delays and repeats proposals; at times their proposer dies meanwhile.
func (c *cluster) late(n int) {
	w := c.w
	if c.o.Ambush != 0 || w.chance(400) {
		c.lay()
		return
	}
	c.raft.late = 20 + w.rng.IntN(400)
	w.after(c.spell(20*time.Second), "proposals are quick", func() { c.raft.late = 0 })
	if w.chance(500) {
		return
	}
	if w.chance(400) {
		c.drain(n)
	}
	w.after(w.between(0, 2*time.Second), "crash", func() {
		if !c.calm {
			c.crash(n, w.chance(500))
			w.after(w.between(10*time.Millisecond, 500*time.Millisecond), "restart", func() { c.start(n) })
		}
	})
}

// spell is the length of a trouble: mostly short, some just about a lease.
func (c *cluster) spell(longest time.Duration) time.Duration {
	switch c.w.rng.IntN(3) {
	case 0:
		return c.w.between(10*time.Millisecond, time.Second)
	case 1:
		return c.w.between(3*time.Second, 7*time.Second)
	}
	return c.w.between(0, longest)
}

// rate is a clock's: two of them differ by less than 20 %.
func (c *cluster) rate() int64 {
	const slowest, fastest = 913_000, 1_095_000
	switch c.w.rng.IntN(4) {
	case 0:
		return slowest
	case 1:
		return fastest
	}
	return slowest + c.w.rng.Int64N(fastest-slowest)
}

// partition cuts node n off: from one or all, one way or both, once or
// flapping.
func (c *cluster) partition(n int) {
	var cut [][2]int
	way, other := c.w.rng.IntN(3), c.w.rng.IntN(len(c.nodes))
	friend := c.w.chance(400) // one node is still reached
	for m := range c.nodes {
		if m == n || way == 2 && m != other || way != 2 && friend && m == other {
			continue
		}
		if way != 1 {
			cut = append(cut, [2]int{n, m})
		}
		if way != 0 || c.w.chance(500) {
			cut = append(cut, [2]int{m, n})
		}
	}
	flaps := 1
	if c.w.chance(300) {
		flaps = 2 + c.w.rng.IntN(10)
	}
	at := time.Duration(0)
	for range flaps {
		c.w.after(at, "cut", func() { c.cut(cut, true) })
		at += c.spell(15*time.Second) / time.Duration(flaps)
		c.w.after(at, "mend", func() { c.cut(cut, false) })
		at += c.w.between(10*time.Millisecond, time.Second)
	}
}

func (c *cluster) cut(links [][2]int, cut bool) {
	for _, l := range links {
		c.net.links[l[0]][l[1]].cut = cut && !c.calm
	}
	c.w.logf("links %v cut=%v", links, cut)
}

func (c *cluster) badLinks(n int) {
	for m := range c.nodes {
		for _, l := range []*link{&c.net.links[n][m], &c.net.links[m][n]} {
			l.loss, l.dup = c.w.rng.IntN(300), c.w.rng.IntN(300)
			l.slow, l.slowMax = c.w.rng.IntN(200), c.w.between(10*time.Millisecond, 8*time.Second)
		}
	}
	c.w.after(c.spell(20*time.Second), "links are good", func() {
		for m := range c.nodes {
			for _, l := range []*link{&c.net.links[n][m], &c.net.links[m][n]} {
				l.loss, l.dup, l.slow = 0, 0, 0
			}
		}
	})
}
