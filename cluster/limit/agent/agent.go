package agent

import (
	"cmp"
	"slices"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/limit"
	limits "github.com/clrelay/clrelay/internal/limit"
)

const (
	soonest = 50 * time.Millisecond  // between two reports
	again   = 250 * time.Millisecond // before a report that reached nobody is repeated
)

// Agent holds a node's limiter to what the log and the leader give it. It is a
// step function: time comes in as an argument, on CLOCK_BOOTTIME. It is not
// safe for concurrent use.
type Agent struct {
	node    string
	local   limits.Local
	least   int
	session fsm.Session

	applied uint64
	seats   int
	free    bool // there is no roster: no lease is needed
	shares  map[string]uint32

	ends    time.Duration // of the lease; 0: there was none yet
	pending []promise     // leases that count once an index is applied
	leased  bool          // as the limiter was told
	told    int           // seats, likewise

	number uint64
	due    time.Duration // when to report
	sent   time.Duration // when it was done last
}

// promise is a lease that waits for the log.
type promise struct {
	index uint64
	ends  time.Duration
}

// New makes the agent of a node, which gives the limiter nothing yet. Before
// there is a roster a key is divided among no fewer than least nodes: as many as
// are expected to found the cluster.
func New(node string, local limits.Local, least int) *Agent {
	a := &Agent{node: node, local: local, least: least, shares: map[string]uint32{}}
	local.Apply(limits.Update{Full: true})
	return a
}

// Begin tells the session of this process. It is called before anything is
// applied.
func (a *Agent) Begin(session fsm.Session) { a.session = session }

// News is what the log says, as far as it matters to a node's limiter.
type News struct {
	Index     uint64
	Free      bool // there is no roster yet, and no leases
	Seats     int  // among how many keys are divided; 0: this node gets nothing
	Full      bool // all divisions and budgets there are
	Divisions []fsm.Division
	Even      []string // have no division any more
	Budgets   []fsm.Budget
}

// Read takes from a state what there is to know about the keys that were
// touched, or about all.
func Read(s *fsm.State, node string, touched []string, full bool) News {
	n := News{Index: s.Applied(), Full: full}
	n.Seats, n.Free = roster(s, node)
	if full {
		l := s.Limits()
		n.Divisions, n.Budgets = l.Divisions, l.Budgets
		return n
	}
	for _, key := range touched {
		if b, ok := s.Budget(key); ok {
			n.Budgets = append(n.Budgets, b)
		}
		if d, ok := s.Division(key); ok {
			n.Divisions = append(n.Divisions, d)
		} else {
			n.Even = append(n.Even, key)
		}
	}
	return n
}

func roster(s *fsm.State, node string) (seats int, free bool) {
	r := s.Roster()
	if s.Level() < fsm.LimitLevel || r.Version == 0 {
		for _, n := range s.Nodes() {
			if n.State != fsm.Removed {
				seats++
			}
		}
		return seats, true
	}
	if r.Of(node) == fsm.Seated {
		return len(r.Seats), false
	}
	return 0, false
}

// Apply puts into force what the log says. It must be told everything, in order,
// from some index on that is no earlier than the process's own registration, and
// Full at first.
func (a *Agent) Apply(now time.Duration, n News) {
	a.applied = n.Index
	if n.Free {
		n.Seats = max(n.Seats, a.least)
	}
	if !n.Full && len(n.Divisions)+len(n.Even)+len(n.Budgets) == 0 && n.Seats == a.seats && n.Free == a.free &&
		!slices.ContainsFunc(a.pending, func(p promise) bool { return p.index <= a.applied }) {
		return
	}
	shrunk := a.seats > 0 && (n.Seats == 0 || n.Seats > a.seats)
	a.seats, a.free = n.Seats, n.Free
	u := limits.Update{Full: n.Full}
	was := a.shares
	if n.Full {
		a.shares = map[string]uint32{}
	}
	for i := range n.Divisions {
		d := &n.Divisions[i]
		units, had := was[d.Key]
		a.shares[d.Key] = d.Units(a.node)
		shrunk = shrunk || !had || units > a.shares[d.Key]
		u.Shares = append(u.Shares, limits.Share{Key: limits.Key(d.Key), Units: a.shares[d.Key], Of: d.Of})
	}
	for _, key := range n.Even {
		if _, had := a.shares[key]; had {
			delete(a.shares, key)
			u.Even = append(u.Even, limits.Key(key))
			shrunk = true
		}
	}
	for i := range n.Budgets {
		a.grant(&n.Budgets[i], &u)
	}
	a.tell(now, u)
	if shrunk {
		a.Soon(now)
	}
}

// grant passes on what this process was given, if it was.
func (a *Agent) grant(b *fsm.Budget, u *limits.Update) {
	i, ok := slices.BinarySearchFunc(b.Parts, a.node, func(p fsm.BudgetPart, n string) int { return cmp.Compare(p.Node, n) })
	if ok && b.Parts[i].Session == a.session {
		u.Grants = append(u.Grants, limits.Grant{Key: limits.Key(b.Key), Window: b.Window, Ends: time.UnixMilli(b.EndsMS()).UTC(), Granted: b.Parts[i].Granted, All: b.Granted})
	}
}

// tell has the limiter heed an update, with the lease as it is now.
func (a *Agent) tell(now time.Duration, u limits.Update) {
	if over := a.leased && !a.free && now >= a.ends; over {
		// A process that was stopped may find the next lease before it noticed that
		// the last one was over: what it must not have used meanwhile has to go.
		a.leased = false
		a.local.Apply(limits.Update{Seats: a.told})
	}
	a.pending = slices.DeleteFunc(a.pending, func(p promise) bool {
		if p.index <= a.applied {
			a.ends = max(a.ends, p.ends)
		}
		return p.index <= a.applied
	})
	u.Seats, u.Leased = a.seats, a.free
	if !a.free {
		if now < a.ends {
			u.Ends, u.Leased = a.ends, true
		}
		if a.ends == 0 {
			u.Seats = 0 // a new process has nothing before it has heard of the others
		}
	}
	a.local.Apply(u)
	a.told = u.Seats
	a.leased = u.Leased
}

// Tick lets time pass: the lease may have ended. It is called at the latest when
// Next said.
func (a *Agent) Tick(now time.Duration) {
	if a.leased && !a.free && now >= a.ends {
		a.tell(now, limits.Update{})
	}
}

// Next is when something is to be done: the lease ends or a report is due.
func (a *Agent) Next() time.Duration {
	if a.leased && !a.free {
		return min(a.due, a.ends)
	}
	return a.due
}

// Soon has the next report sent soon.
func (a *Agent) Soon(now time.Duration) { a.due = min(a.due, max(now, a.sent+soonest)) }

// Report gives what is to be told to the leader, if it is time; ok is false if
// not.
func (a *Agent) Report(now time.Duration) (r limit.Report, ok bool) {
	if now < a.due || a.session == 0 {
		return r, false
	}
	a.number++
	a.sent, a.due = now, now+limit.ReportEvery
	r = limit.Report{Session: a.session, Applied: a.applied, Number: a.number, Demands: a.local.Demands(nil, limit.MaxDemands)}
	r.Complete = len(r.Demands) < limit.MaxDemands
	if len(r.Demands) > 0 {
		a.due = now + limit.ReportEvery/2 // what is uneven is to follow the load
	}
	return r, true
}

// Failed says that the last report did not reach a leader: it is tried again.
func (a *Agent) Failed(now time.Duration) { a.due = min(a.due, now+again) }

// Answer takes the leader's answer to the report that was sent at a time.
func (a *Agent) Answer(now, sent time.Duration, ans limit.Answer) {
	if !ans.Leased {
		return
	}
	p := promise{index: ans.Index, ends: sent + limit.LeaseFor}
	a.pending = slices.DeleteFunc(a.pending, func(q promise) bool { return q.index >= p.index && q.ends <= p.ends || q.ends <= now })
	a.pending = append(a.pending, p)
	if ans.Index <= a.applied {
		a.tell(now, limits.Update{})
	}
}
