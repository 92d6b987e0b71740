package segment

import (
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/segment/ages"
)

// results is what the owner keeps about the results of a segment: numbers as
// the driver gives them.
type results struct {
	begun   bool
	last    uint64
	durable uint64 // in the own log
	acked   uint64 // durable on all fresh members, this node included
	ages    ages.Ages
	paused  bool
}

// resultsAppended sends new results to the members.
func (m *Machine) resultsAppended(ev *ResultsAppended) {
	s := m.segs[ev.Segment]
	if s == nil || !s.mine || ev.Last < ev.First {
		return
	}
	r := &s.res
	if !r.begun {
		r.begun = true
		r.last, r.durable, r.acked = ev.First-1, ev.First-1, ev.First-1
		for _, b := range s.members {
			b.rsent, b.racked = r.last, r.last
		}
	}
	if ev.First != r.last+1 {
		m.fatal(s.id, "results were numbered with a gap")
		return
	}
	r.ages.Note(ev.First, m.now)
	r.last = ev.Last
	for _, b := range s.members {
		m.sendResults(s, b)
	}
	m.pauseResults(s)
	m.touch(s)
}

// sendResults sends what the member has not been sent in this stream.
func (m *Machine) sendResults(s *seg, b *member) {
	if !b.stream || b.rsent >= s.res.last || !b.peer.up {
		return
	}
	m.send(b.peer, Item{Kind: ItemResults, Segment: s.id, Epoch: s.rec.Epoch, Seq: b.rsent + 1, Arg: s.res.last})
	b.rsent = s.res.last
}

func (m *Machine) resultsDurable(ev *ResultsDurable) {
	s := m.segs[ev.Segment]
	if s == nil || !s.mine || ev.Last <= s.res.durable {
		return
	}
	s.res.durable = min(ev.Last, s.res.last)
	m.countResults(s)
}

func (m *Machine) memberHasResults(s *seg, b *member, n uint64) {
	if !b.stream || n <= b.racked || n > s.res.last {
		return
	}
	b.racked = n
	m.countResults(s)
}

// countResults moves acked to what all fresh members have.
func (m *Machine) countResults(s *seg) {
	r := &s.res
	acked := r.durable
	for _, b := range s.members {
		if b.counts(m.cfg.Without) {
			acked = min(acked, b.racked)
		}
	}
	if acked > r.acked {
		r.acked = acked
		m.act(Action{Kind: ActResultsAcked, Segment: s.id, Seq: acked})
	}
	r.ages.Done(r.acked, r.last)
	m.pauseResults(s)
}

// age says how long the oldest result above n has been waiting.
func (m *Machine) age(s *seg, n uint64) time.Duration {
	if n >= s.res.last {
		return 0
	}
	return s.res.ages.Above(n, m.now)
}

// behind says for how long a member that counts has not kept up with results.
func (m *Machine) behind(s *seg, b *member) time.Duration {
	if b.stale || b.racked >= s.res.last {
		return 0
	}
	if !b.peer.up && m.now-b.peer.downSince >= StaleAfter {
		return StaleAfter
	}
	return m.age(s, b.racked)
}

// pauseResults stops delivery while too many results could be lost with this
// node, and starts it again.
func (m *Machine) pauseResults(s *seg) {
	r := &s.res
	pause := r.last-r.acked > ResultWindow || m.age(s, r.acked) > ResultAge
	if pause == r.paused {
		return
	}
	r.paused = pause
	if s.quiet != notQuiet {
		return // paused anyway
	}
	kind := ActResume
	if pause {
		kind = ActPause
	}
	m.act(Action{Kind: kind, Segment: s.id})
}

// tendResults looks at the time that results have waited, and has members that
// are too far behind marked stale. It says whether one is.
func (m *Machine) tendResults(s *seg) {
	m.pauseResults(s)
	if s.rec.State != fsm.Sealed {
		return // an OPEN segment is sealed first: it has one epoch all its life
	}
	for _, b := range s.members {
		unsure := b.unsure && !b.peer.up && m.now-b.peer.downSince >= VouchWithin
		if !b.stale && !b.pending && (b.lost || unsure || m.behind(s, b) >= StaleAfter) {
			m.propose(s, fsm.SegmentOp{Kind: fsm.OpStale, Member: b.ref})
		}
	}
}
