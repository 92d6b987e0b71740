package sim

import (
	"time"
)

// raft stands in for Raft: ONE log of committed entries, leaders of growing
// terms, and all the ways in which a user of Raft may be misled. A proposal
// may commit late, or be lost, or commit although its proposer was told that
// it failed, or commit twice. A deposed leader believes for a while that it
// leads. A follower lags, and jumps by snapshot. A process that starts knows
// an old state until it hears a leader.
type raft struct {
	w   *world
	net *network

	entries [][]byte // entries[i] has index i+1
	term    uint64
	leader  int // of term; -1: none
	pending []proposal
	commitQ bool // a commit is on its way

	peers []*raftPeer
	late  int // of 1,000 proposals: on their way for seconds, or twice

	// committed is called with each entry as it commits, in order.
	committed func(index uint64, data []byte)
	// apply hands entry index to a node; jump hands it the state after index.
	apply func(node int, index uint64, data []byte)
	jump  func(node int, index uint64) uint64
}

type proposal struct {
	data []byte
	from int
	done func(index uint64) // told at commit; index 0: the outcome is not known
}

type raftPeer struct {
	voter    bool
	alive    bool // its process runs and is not paused
	process  uint64
	term     uint64
	leads    bool // it believes so
	leader   int  // whom it believes to lead; -1: nobody
	heard    time.Duration
	quorum   time.Duration // leader: when it last had a majority
	patience time.Duration // election time-out of this round
	known    uint64        // commit index it was told
	applied  uint64
	lag      time.Duration // extra delay of applying
	applying bool
}

const (
	raftTick      = 100 * time.Millisecond
	raftLease     = 500 * time.Millisecond // a leader without a majority this long gives up
	raftSnapshots = 64                     // entries behind at which a follower may jump
)

func newRaft(w *world, net *network) *raft {
	r := &raft{w: w, net: net, leader: -1}
	w.after(raftTick, "raft", r.tick)
	return r
}

func (r *raft) add(voter bool) {
	r.peers = append(r.peers, &raftPeer{voter: voter, leader: -1, patience: r.patience()})
}

func (r *raft) patience() time.Duration {
	return r.w.between(500*time.Millisecond, time.Second)
}

// start is a process that starts, at the state after index applied; what it
// knew to be committed beyond that it has to hear again.
func (r *raft) start(node int, applied uint64) {
	p := r.peers[node]
	*p = raftPeer{voter: p.voter, alive: true, process: p.process + 1, leader: -1, heard: r.w.now, patience: r.patience(), known: applied, applied: applied}
}

func (r *raft) stop(node int) {
	p := r.peers[node]
	p.alive, p.leads, p.leader = false, false, -1
	p.process++
	if r.leader == node {
		r.depose()
	}
}

// pause and resume are SIGSTOP and SIGCONT: what it believes stays.
func (r *raft) pause(node int) { r.peers[node].alive = false }
func (r *raft) resume(node int) {
	r.peers[node].alive = true
	r.applyNext(node)
}

// majority is whether node reaches a majority of the voters both ways.
func (r *raft) majority(node int) bool {
	all, with := 0, 0
	for i, p := range r.peers {
		if !p.voter {
			continue
		}
		all++
		if p.alive && r.net.up(node, i) {
			with++
		}
	}
	return with > all/2
}

func (r *raft) tick() {
	r.w.after(raftTick, "raft", r.tick)
	for i, p := range r.peers {
		if !p.alive {
			continue
		}
		switch {
		case p.leads && (r.leader != i || p.term != r.term) && r.leader >= 0 && r.net.up(i, r.leader):
			p.leads = false // it hears of the new term
		case p.leads && r.majority(i) && r.leader == i:
			p.quorum = r.w.now
		case p.leads && r.w.now-p.quorum > raftLease:
			p.leads, p.leader = false, -1
			p.heard, p.patience = r.w.now, r.patience()
			if r.leader == i {
				r.depose()
			}
		}
		if !p.leads && p.voter && r.w.now-p.heard > p.patience && r.majority(i) {
			r.elect(i)
		}
	}
	r.beat()
}

// beat is the leader's heartbeat to all.
func (r *raft) beat() {
	if r.leader < 0 || !r.peers[r.leader].alive || !r.majority(r.leader) {
		return
	}
	for i, p := range r.peers {
		if !p.alive || !r.net.up(r.leader, i) {
			continue
		}
		p.heard, p.patience = r.w.now, r.patience()
		if i != r.leader {
			p.leads = false
		}
		p.leader, p.term = r.leader, r.term
		r.tell(i)
	}
}

// tell gives node the commit index, after the link's delay.
func (r *raft) tell(node int) {
	p := r.peers[node]
	to, process := uint64(len(r.entries)), p.process
	if p.known >= to {
		return
	}
	d := time.Millisecond
	if node != r.leader {
		d = r.net.delay(&r.net.links[r.leader][node])
	}
	r.w.after(d, "commit index", func() {
		if p.process == process && p.alive && p.known < to {
			p.known = to
			r.applyNext(node)
		}
	})
}

func (r *raft) applyNext(node int) {
	p := r.peers[node]
	if p.applying || !p.alive || p.applied >= p.known {
		return
	}
	p.applying = true
	process := p.process
	d := p.lag
	if d > 0 {
		d = r.w.between(0, d)
	}
	r.w.after(d, "apply", func() {
		p.applying = false
		if p.process != process {
			r.applyNext(node)
			return
		}
		if p.alive && p.applied < p.known {
			r.applyBatch(node, p)
		}
		r.applyNext(node)
	})
}

// quicken ends a node's lag at once.
func (r *raft) quicken(node int) {
	r.peers[node].lag, r.peers[node].applying = 0, false
	r.applyNext(node)
}

// applyBatch applies a few entries, or jumps.
func (r *raft) applyBatch(node int, p *raftPeer) {
	if p.known-p.applied > raftSnapshots && r.w.chance(500) {
		if to := r.jump(node, p.known); to > p.applied {
			p.applied = to
			return
		}
	}
	process := p.process
	for n := 1 + r.w.rng.IntN(4); n > 0 && p.applied < p.known && p.process == process; n-- {
		p.applied++
		r.apply(node, p.applied, r.entries[p.applied-1])
	}
}

// elect makes node the leader. Of what the old one had not committed, a head
// survives.
func (r *raft) elect(node int) {
	r.depose()
	keep := 0
	if len(r.pending) > 0 {
		keep = r.w.rng.IntN(len(r.pending) + 1)
	}
	for i := range r.pending {
		r.pending[i].done = nil
	}
	r.pending = r.pending[:keep]
	r.term++
	r.leader = node
	p := r.peers[node]
	p.leads, p.leader, p.term, p.quorum = true, node, r.term, r.w.now
	r.w.logf("raft: node %d leads term %d, %d proposals survive", node, r.term, keep)
	// The entry of the new term, which commits what came before it.
	r.pending = append(r.pending, proposal{from: node})
	r.commitSoon()
	r.beat()
}

// depose ends the leader's term; proposers learn nothing.
func (r *raft) depose() {
	if r.leader < 0 {
		return
	}
	r.leader = -1
	for i := range r.pending {
		if done := r.pending[i].done; done != nil {
			r.pending[i].done = nil
			r.w.after(r.w.between(0, 100*time.Millisecond), "unknown", func() { done(0) })
		}
	}
}

// propose sends data to the leader that node from believes in. done hears the
// index at which it was committed, or 0 where nobody can tell.
func (r *raft) propose(from int, data []byte, done func(index uint64)) {
	p := r.peers[from]
	to := p.leader
	if to < 0 {
		r.w.after(r.w.between(time.Millisecond, 50*time.Millisecond), "no leader", func() { done(0) })
		return
	}
	told := false
	once := func(index uint64) {
		if !told {
			told = true
			done(index)
		}
	}
	process := p.process
	back := func(index uint64) {
		r.net.datagram(to, from, "outcome", func() {
			if p.process == process {
				once(index)
			}
		})
	}
	r.w.after(2*time.Second, "proposal timed out", func() {
		if p.process == process {
			once(0)
		}
	})
	arrive := func() {
		l := r.peers[to]
		if !l.alive || !l.leads || r.leader != to {
			back(0) // refused, or accepted by a leader that is none and lost
			return
		}
		r.pending = append(r.pending, proposal{data: data, from: from, done: back})
		r.commitSoon()
	}
	for range 1 + b2i(r.w.chance(r.late)) {
		if r.w.chance(r.late) {
			r.w.after(r.w.between(0, 8*time.Second), "late proposal", arrive)
		} else {
			r.net.datagram(from, to, "proposal", arrive)
		}
	}
}

func (r *raft) commitSoon() {
	if r.commitQ {
		return
	}
	r.commitQ = true
	d := r.w.between(500*time.Microsecond, 5*time.Millisecond)
	if r.w.chance(r.late) {
		d = r.w.between(0, raftLease)
	}
	r.w.after(d, "commit", func() {
		r.commitQ = false
		if len(r.pending) == 0 || r.leader < 0 {
			return
		}
		if !r.peers[r.leader].alive || !r.majority(r.leader) {
			r.w.after(20*time.Millisecond, "commit again", r.commitSoon)
			return
		}
		r.commit()
	})
}

func (r *raft) commit() {
	batch := r.pending
	r.pending = nil
	for _, p := range batch {
		r.entries = append(r.entries, p.data)
		index := uint64(len(r.entries))
		r.committed(index, p.data)
		if p.done != nil {
			p.done(index)
		}
	}
	for i, p := range r.peers {
		if p.alive && r.net.up(r.leader, i) {
			r.tell(i)
		}
	}
}

// proposeHere is a proposal of what believes to be the leader, which does not
// leave its process. done as with propose; nil: nobody asks.
func (r *raft) proposeHere(node int, data []byte, done func(index uint64)) {
	p := r.peers[node]
	if done == nil {
		done = func(uint64) {}
	}
	if !p.leads || r.leader != node {
		r.w.after(r.w.between(0, 100*time.Millisecond), "lost proposal", func() { done(0) })
		return
	}
	r.pending = append(r.pending, proposal{data: data, from: node, done: done})
	r.commitSoon()
}

// barrier calls done with true once node, leading, has applied all that was
// committed before now, and with false where that cannot be known.
func (r *raft) barrier(node int, done func(ok bool)) {
	p := r.peers[node]
	process, term := p.process, p.term
	r.proposeHere(node, nil, func(index uint64) {
		if index == 0 {
			done(false)
			return
		}
		var wait func()
		wait = func() {
			switch {
			case p.process != process || !p.leads || p.term != term:
				done(false)
			case p.applied >= index:
				done(true)
			default:
				r.w.after(5*time.Millisecond, "barrier", wait)
			}
		}
		wait()
	})
}
