package segment

import (
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
)

// results is what the owner keeps about the results of a segment: numbers as
// the driver gives them.
type results struct {
	begun   bool
	last    uint64
	durable uint64 // in the own log
	acked   uint64 // durable on all fresh members, this node included
	marks   []mark // when numbers were given, oldest first; at most maxMarks
	paused  bool
}

// mark says that result number first was told at a time, and so were or later
// the ones after it.
type mark struct {
	first uint64
	at    time.Duration
}

const (
	markEvery = 50 * time.Millisecond
	maxMarks  = 64 // then the newest is stretched: ages come out too high, never too low
)

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
	n := len(r.marks)
	if n == 0 || m.now-r.marks[n-1].at >= markEvery && n < maxMarks {
		r.marks = append(r.marks, mark{ev.First, m.now})
	}
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
	drop := 0
	for drop+1 < len(r.marks) && r.marks[drop+1].first <= r.acked+1 {
		drop++
	}
	if r.acked == r.last {
		drop = len(r.marks)
	}
	if drop > 0 {
		r.marks = append(r.marks[:0], r.marks[drop:]...)
	}
	m.pauseResults(s)
}

// age says how long the oldest result above n has been waiting.
func (m *Machine) age(s *seg, n uint64) time.Duration {
	r := &s.res
	if n >= r.last || len(r.marks) == 0 {
		return 0
	}
	at := r.marks[0].at
	for _, k := range r.marks {
		if k.first > n+1 {
			break
		}
		at = k.at
	}
	return m.now - at
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
