package limit_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/limit"
	"github.com/clrelay/clrelay/cluster/limit/agent"
	limits "github.com/clrelay/clrelay/internal/limit"
)

const (
	stepLen = 50 * time.Millisecond
	drift   = 0.01 // how much faster or slower than real a clock may be
)

// def is a limit of the world: units, of which each is a message of the burst
// and one a second, a connection, or a message of the budget.
type def struct {
	key   limits.Key
	kind  limits.Kind
	units uint32
	per   time.Duration // of a budget
}

// purse is a node's limiter: it spends what it is told it may, as fast as it
// wants.
type purse struct {
	w      *world
	n      *server
	seats  int
	leased bool
	ends   time.Duration
	share  map[limits.Key]limits.Share
	grant  map[limits.Key]limits.Grant
	tokens map[limits.Key]float64
	filled map[limits.Key]time.Duration
	open   map[limits.Key]uint32
	spent  map[limits.Key]uint64 // of the window of grant
	asked  map[limits.Key]uint32 // since the last report
}

func newPurse(w *world, n *server) *purse {
	p := &purse{
		w: w, n: n, share: map[limits.Key]limits.Share{}, grant: map[limits.Key]limits.Grant{}, tokens: map[limits.Key]float64{},
		filled: map[limits.Key]time.Duration{}, open: map[limits.Key]uint32{}, spent: map[limits.Key]uint64{}, asked: map[limits.Key]uint32{},
	}
	for _, d := range w.defs {
		p.filled[d.key] = n.clock()
	}
	return p
}

// part is what the node may use now.
func (p *purse) part(d *def) uint32 {
	if p.seats == 0 {
		return 0
	}
	units := d.units / uint32(p.seats)
	if s, ok := p.share[d.key]; ok {
		units = uint32(uint64(s.Units) * uint64(d.units) / uint64(s.Of))
	}
	if !p.leased || p.ends != 0 && p.n.clock() >= p.ends {
		units = min(units, d.units/uint32(10*max(3, p.seats)))
		if p.w.noFloor {
			units = d.units / uint32(p.seats)
		}
	}
	return units
}

// fill lets tokens grow up to now with the part as it is.
func (p *purse) fill(d *def) {
	now := p.n.clock()
	if p.ends != 0 && p.leased && now > p.ends && p.filled[d.key] < p.ends { // up to the lease's end with all of it
		at := p.n.now
		p.n.now = p.ends - 1
		p.fill(d)
		p.n.now = at
	}
	units := float64(p.part(d))
	p.tokens[d.key] = min(units, p.tokens[d.key]+units*(now-p.filled[d.key]).Seconds())
	p.filled[d.key] = now
}

func (p *purse) Apply(u limits.Update) {
	for i := range p.w.defs {
		p.fill(&p.w.defs[i])
	}
	if u.Full {
		clear(p.share)
	}
	for _, s := range u.Shares {
		p.share[s.Key] = s
	}
	for _, k := range u.Even {
		delete(p.share, k)
	}
	for _, g := range u.Grants {
		if g.Window != p.grant[g.Key].Window {
			p.spent[g.Key] = 0
		}
		p.grant[g.Key] = g
	}
	p.seats, p.leased, p.ends = u.Seats, u.Leased, u.Ends
	for i := range p.w.defs {
		d := &p.w.defs[i]
		p.tokens[d.key] = min(p.tokens[d.key], float64(p.part(d)))
		if !u.Leased {
			p.open[d.key] = min(p.open[d.key], p.part(d))
		}
	}
}

func (p *purse) Demands(list []limits.Demand, most int) []limits.Demand {
	for i := range p.w.defs {
		d := &p.w.defs[i]
		x := limits.Demand{Key: d.key, Kind: d.kind, Units: d.units, Want: p.asked[d.key]}
		part := p.part(d)
		_, shared := p.share[d.key]
		switch d.kind {
		case limits.KindBudget:
			x.Window = d.per
			left := p.grant[d.key].Granted - p.spent[d.key]
			x.Used = uint32(left)
			if want := uint64(x.Want) * 5; want > left {
				x.Want = uint32(want - left)
			} else {
				x.Want = 0
			}
			if x.Want > 0 {
				list = append(list, x)
			}
			continue
		case limits.KindConnections:
			x.Used = p.open[d.key]
		}
		if x.Want > part || shared && x.Want < part || x.Used > 0 && shared || x.Used > part {
			list = append(list, x)
		}
	}
	clear(p.asked)
	return list[:min(len(list), most)]
}

// live spends, for one step.
func (p *purse) live() {
	out := !p.leased || p.ends != 0 && p.n.clock() >= p.ends
	for i := range p.w.defs {
		d := &p.w.defs[i]
		want := p.n.want[d.key]
		if want == 0 && p.open[d.key] == 0 {
			continue
		}
		switch d.kind {
		case limits.KindRate:
			p.asked[d.key] = max(p.asked[d.key], want)
			p.fill(d)
			for range max(1, want/8) {
				if p.tokens[d.key] < 1 {
					break
				}
				p.tokens[d.key]--
				p.w.spend(d, 1)
				p.n.sent[d.key]++
			}
		case limits.KindConnections:
			p.asked[d.key] = want
			part := p.part(d)
			for p.open[d.key] < min(want, part) {
				if d.key == "one" {
				}
				p.open[d.key]++
			}
			switch now := p.open[d.key]; {
			case now > part && out:
				p.open[d.key] = part // a node that is cut off closes them at once
			case now > min(want, part):
				for range now - min(want, part) { // each ends some time
					if p.w.rnd.IntN(6) == 0 {
						p.open[d.key]--
					}
				}
			}
			p.n.sent[d.key] += int(p.open[d.key])
		case limits.KindBudget:
			p.asked[d.key] = max(1, want/20)
			g := p.grant[d.key]
			if p.n.wall().Before(g.Ends) && p.spent[d.key] < g.Granted {
				p.spent[d.key]++
				p.w.spendBudget(d, g.Window)
				p.n.sent[d.key]++
			}
		}
	}
}

// server is one machine.
type server struct {
	w       *world
	name    string
	rate    float64       // of its clock
	now     time.Duration // its clock
	up      bool
	paused  time.Duration // of the world, until then
	back    time.Duration // when it is started again
	state   *fsm.State
	applied int // entries of the log
	nonce   byte
	session fsm.Session
	reg     uint64 // index of its registration
	begun   bool
	agent   *agent.Agent
	purse   *purse
	machine *limit.Machine
	leads   bool   // as it believes
	noted   uint64 // index up to which the machine knows the nodes
	want    map[limits.Key]uint32
	sent    map[limits.Key]int
}

func (s *server) clock() time.Duration { return s.now }
func (s *server) wall() time.Time {
	return time.Unix(1_000_000, 0).Add(s.w.now)
}

// later is something that happens at a time.
type later struct {
	at time.Duration
	do func()
}

// world is a cluster with an abstract Raft: one log, which the nodes apply as
// they get it, and one true leader, which others may not have heard of.
type world struct {
	t       testing.TB
	seed    uint64
	rnd     *rand.Rand
	now     time.Duration
	defs    []def
	servers []*server
	log     [][]byte
	leader  *server
	elected time.Duration // when there is to be one again; 0: there is
	pending []func(bool)  // proposals that are not committed
	queue   []later
	cut     map[[2]string]bool // from, to
	lossy   bool
	eager   int // in tenths, how likely a follower applies in a step
	rules   limit.Rules
	noFloor bool

	level   map[limits.Key]float64
	filled  map[limits.Key]time.Duration
	budget  map[string]int
	broken  string // the first rule that was broken
	entries int    // of shares
	replay  struct {
		state *fsm.State
		index uint64
	}
}

func newWorld(t testing.TB, seed uint64, defs []def, names ...string) *world {
	w := &world{
		t: t, eager: 7, seed: seed, rnd: rand.New(rand.NewPCG(seed, 1)), now: time.Hour, defs: defs, cut: map[[2]string]bool{},
		level: map[limits.Key]float64{}, filled: map[limits.Key]time.Duration{}, budget: map[string]int{},
	}
	for _, n := range names {
		w.add(n)
	}
	w.elect(w.servers[0])
	for _, s := range w.servers {
		w.register(s)
	}
	raise, err := fsm.Encode(fsm.FeatureRaise{Level: fsm.LimitLevel})
	if err != nil {
		t.Fatal(err)
	}
	w.log = append(w.log, raise)
	return w
}

func (w *world) add(name string) *server {
	s := &server{w: w, name: name, rate: 1 + drift*(2*w.rnd.Float64()-1), now: time.Duration(w.rnd.Int64N(int64(time.Hour))), want: map[limits.Key]uint32{}, sent: map[limits.Key]int{}}
	w.servers = append(w.servers, s)
	w.boot(s)
	return s
}

// boot starts a process: it replays the log from somewhere, and takes part once
// its registration is applied.
func (w *world) boot(s *server) {
	s.up, s.back, s.nonce, s.begun, s.leads = true, 0, s.nonce+1, false, false
	s.state, s.applied, s.noted = fsm.New(), 0, 0
	s.purse = newPurse(w, s)
	s.agent = agent.New(s.name, s.purse, 3)
	s.machine = limit.New(limit.Config{Without: w.rules})
	s.reg = 0
}

func (w *world) register(s *server) {
	data, err := fsm.Encode(fsm.Register{
		Node: s.name, Store: fsm.StoreID{s.name[0]}, Nonce: [16]byte{s.nonce},
		Info: fsm.NodeInfo{Features: fsm.LimitLevel, BootID: "boot", MachineID: s.name},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.log = append(w.log, data)
	s.reg = uint64(len(w.log))
}

func (w *world) fail(format string, args ...any) {
	if w.broken == "" {
		w.broken = fmt.Sprintf("seed %d, at %v: ", w.seed, w.now-time.Hour) + fmt.Sprintf(format, args...)
	}
}

// spend checks a rate: in any time no more than the burst and what has come
// since, by the fastest clock.
func (w *world) spend(d *def, n float64) {
	l := max(0, w.level[d.key]-float64(d.units)*(1+drift)*(w.now-w.filled[d.key]).Seconds()) + n
	w.level[d.key], w.filled[d.key] = l, w.now
	if l > float64(d.units)*1.01+1e-6 {
		w.fail("%s: %.1f above the rate, and the burst is %d", d.key, l, d.units)
	}
}

func (w *world) spendBudget(d *def, window uint64) {
	k := fmt.Sprint(d.key, "/", window)
	if w.budget[k]++; w.budget[k] > int(d.units) {
		w.fail("%s: %d of %d spent", k, w.budget[k], d.units)
	}
}

func (w *world) after(d time.Duration, do func()) { w.queue = append(w.queue, later{w.now + d, do}) }

func (w *world) reaches(a, b *server) bool { return a == b || !w.cut[[2]string{a.name, b.name}] }

func (w *world) runs(s *server) bool { return s.up && w.now >= s.paused }

// majority tells whether a node can lead.
func (w *world) majority(s *server) bool {
	n := 0
	for _, o := range w.servers {
		if w.runs(o) && w.reaches(s, o) && w.reaches(o, s) {
			n++
		}
	}
	return w.runs(s) && n > len(w.servers)/2
}

func (w *world) elect(s *server) {
	// What the leader of before had not committed is, or is not, in the new one's log.
	keep := w.rnd.IntN(len(w.pending) + 1)
	for i, p := range w.pending {
		p(i < keep)
	}
	w.pending = nil
	w.leader, w.elected = s, 0
}

// raft lets nodes apply, elects, and tells nodes that they lead, or not.
func (w *world) raft() {
	if w.leader == nil || !w.majority(w.leader) {
		if w.elected == 0 {
			w.elected = w.now + time.Duration(500+w.rnd.IntN(1500))*time.Millisecond
		}
		if w.now >= w.elected {
			for _, i := range w.rnd.Perm(len(w.servers)) {
				if w.majority(w.servers[i]) {
					w.elect(w.servers[i])
					break
				}
			}
		}
	} else {
		w.elected = 0
	}
	for _, s := range w.servers {
		if !w.runs(s) {
			continue
		}
		fed := s == w.leader && w.majority(s) || w.leader != nil && w.majority(w.leader) && w.reaches(w.leader, s) && w.reaches(s, w.leader)
		if fed && s.reg == 0 {
			w.register(s)
		}
		if fed && (s == w.leader || w.rnd.IntN(10) < w.eager) {
			w.apply(s)
		}
		leads := s == w.leader && s.begun && s.applied == len(w.log)
		if !leads && s.leads && s != w.leader && w.rnd.IntN(10) > 0 {
			leads = true // it has not heard that it is deposed
		}
		if leads != s.leads {
			s.leads = leads
			if leads {
				w.tellNodes(s)
				w.step(s, &limit.Leading{})
			} else {
				w.step(s, &limit.Following{})
			}
		}
	}
}

func (w *world) apply(s *server) {
	for s.applied < len(w.log) {
		r := s.state.Apply(uint64(s.applied+1), w.log[s.applied])
		s.applied++
		switch {
		case uint64(s.applied) == s.reg:
			s.session, s.begun = r.Session, true
			if r.Session == 0 {
				w.t.Fatalf("seed %d: %s cannot register: %v", w.seed, s.name, r.Text)
			}
			s.agent.Begin(r.Session)
			s.agent.Apply(s.clock(), agent.Read(s.state, s.name, nil, true))
		case s.begun:
			s.agent.Apply(s.clock(), agent.Read(s.state, s.name, r.Limits, false))
		}
		if s.leads && (len(r.Nodes) > 0 || r.Cluster) {
			w.tellNodes(s)
		}
	}
}

func (w *world) tellNodes(s *server) {
	w.step(s, &limit.Nodes{Level: s.state.Level(), Nodes: s.state.Nodes()})
}

// commit is the leader's proposal: it gets into the log, or not, and the
// proposer hears of it, or not.
func (w *world) commit(s *server, c fsm.Command, then func(known bool, index uint64, r fsm.Result)) {
	machine := s.machine
	if s != w.leader || !w.majority(s) {
		w.after(w.delay(), func() { w.tell(s, machine, func() { then(false, 0, fsm.Result{}) }) })
		return
	}
	data, err := fsm.Encode(c)
	if err != nil {
		w.t.Fatal(err)
	}
	done := false
	settle := func(in bool) {
		if done {
			return
		}
		done = true
		if !in {
			return
		}
		w.entries++
		w.log = append(w.log, data)
		index := uint64(len(w.log))
		// The outcome is what the entry does to what is before it.
		heard := w.rnd.IntN(50) > 0 || !w.lossy
		w.after(w.delay(), func() {
			w.tell(s, machine, func() {
				if !heard || !s.leads || s != w.leader {
					then(false, 0, fsm.Result{})
					return
				}
				w.apply(s)
				then(true, index, w.outcome(index))
			})
		})
	}
	w.pending = append(w.pending, settle)
	w.after(w.delay()/2, func() {
		// In order: all that was proposed before is committed with it.
		if s == w.leader && w.majority(s) && !done {
			for _, p := range slices.Clone(w.pending) {
				p(true)
				w.pending = w.pending[1:]
				if done {
					break
				}
			}
		} else if !done {
			w.tell(s, machine, func() { then(false, 0, fsm.Result{}) })
		}
	})
}

// outcome replays the log up to an entry, from the last time.
func (w *world) outcome(index uint64) fsm.Result {
	s := fsm.New()
	var r fsm.Result
	if w.replay.state != nil && w.replay.index < index {
		s = w.replay.state
	} else {
		w.replay.index = 0
	}
	for i := w.replay.index; i < index; i++ {
		r = s.Apply(i+1, w.log[i])
	}
	w.replay.state, w.replay.index = s, index
	return r
}

func (w *world) tell(s *server, m *limit.Machine, f func()) {
	if s.up && s.machine == m {
		f()
	}
}

func (w *world) delay() time.Duration { return time.Duration(1+w.rnd.IntN(100)) * time.Millisecond }

// step drives the leader's core of a node.
func (w *world) step(s *server, ev limit.Event) (answer limit.Answer) {
	machine := s.machine
	for _, a := range slices.Clone(machine.Step(s.clock(), ev)) {
		switch a.Kind {
		case limit.ActClaim:
			w.commit(s, fsm.ShareOps{Reign: s.state.Reign(), Claim: true}, func(known bool, index uint64, r fsm.Result) {
				if !known || r.Code != fsm.OK || s.state.Reign() != r.Version {
					w.step(s, &limit.Failed{ID: a.ID})
					return
				}
				w.step(s, &limit.Claimed{ID: a.ID, Reign: r.Version, Index: index, Limits: s.state.Limits()})
			})
		case limit.ActPropose:
			w.commit(s, a.Shares, func(known bool, index uint64, r fsm.Result) {
				w.step(s, &limit.Proposed{ID: a.ID, Known: known, Index: index, Result: r, Roster: s.state.Roster()})
			})
		case limit.ActGrant:
			w.commit(s, a.Budgets, func(known bool, index uint64, r fsm.Result) {
				w.step(s, &limit.Granted{ID: a.ID, Known: known, Index: index, Result: r})
			})
		case limit.ActAnswer:
			answer = a.Answer
		}
	}
	return answer
}

// report sends what a node has to tell.
func (w *world) report(s *server) {
	sent := s.clock()
	r, ok := s.agent.Report(sent)
	if !ok {
		return
	}
	// Whom it takes for the leader.
	to := w.leader
	if w.lossy && w.rnd.IntN(20) == 0 || to == nil || !w.reaches(s, to) {
		to = w.servers[w.rnd.IntN(len(w.servers))]
	}
	lost := w.lossy && w.rnd.IntN(20) == 0
	if lost || to == nil || !w.reaches(s, to) {
		return
	}
	me := s.agent
	delay := w.delay()
	if w.lossy && w.rnd.IntN(30) == 0 {
		delay += time.Duration(w.rnd.IntN(12)) * time.Second // and others overtake it
	}
	w.after(delay, func() { w.receive(s, to, r, me, sent) })
}

// receive is a report's arrival: a majority has to confirm the leader first.
func (w *world) receive(s, to *server, r limit.Report, me *agent.Agent, sent time.Duration) {
	if !to.up {
		return
	}
	if w.now < to.paused { // it waits in the socket
		w.after(to.paused-w.now, func() { w.receive(s, to, r, me, sent) })
		return
	}
	w.after(w.delay()/4, func() {
		if !w.runs(to) || !to.leads || to != w.leader || !w.majority(to) {
			if w.reaches(to, s) && s.up && s.agent == me {
				s.agent.Failed(s.clock())
			}
			return
		}
		ans := w.step(to, &limit.Heard{Node: s.name, Report: r})
		if !w.reaches(to, s) || w.lossy && w.rnd.IntN(20) == 0 {
			return
		}
		w.after(w.delay(), func() { w.answered(s, me, sent, ans) })
	})
}

func (w *world) answered(s *server, me *agent.Agent, sent time.Duration, ans limit.Answer) {
	switch {
	case !s.up || s.agent != me:
	case w.now < s.paused:
		w.after(s.paused-w.now, func() { w.answered(s, me, sent, ans) })
	default:
		s.agent.Answer(s.clock(), sent, ans)
	}
}

// run lets time pass.
func (w *world) run(d time.Duration) {
	for end := w.now + d; w.now < end && w.broken == ""; {
		w.now += stepLen
		for _, s := range w.servers {
			s.now += time.Duration(float64(stepLen) * s.rate)
			if !s.up && s.back != 0 && w.now >= s.back {
				w.boot(s)
			}
		}
		w.raft()
		for moved := true; moved; {
			moved = false
			for i := 0; i < len(w.queue); i++ {
				if w.queue[i].at <= w.now {
					do := w.queue[i].do
					w.queue = slices.Delete(w.queue, i, i+1)
					do()
					moved = true
					i--
				}
			}
		}
		for _, i := range w.rnd.Perm(len(w.servers)) {
			s := w.servers[i]
			if !w.runs(s) {
				continue
			}
			if w.rnd.IntN(2) == 0 { // a process that was stopped may spend before it looks at the clock
				s.purse.live()
				s.agent.Tick(s.clock())
			} else {
				s.agent.Tick(s.clock())
				s.purse.live()
			}
			if s.begun {
				w.report(s)
			}
			if s.leads {
				w.step(s, &limit.Tick{Wall: s.wall()})
			}
		}
		w.connections()
	}
}

// connections checks that no more are open than may be.
func (w *world) connections() {
	for i := range w.defs {
		d := &w.defs[i]
		if d.kind != limits.KindConnections {
			continue
		}
		open := uint32(0)
		for _, s := range w.servers {
			if s.up && w.now >= s.paused { // what a stopped process has open nobody can close
				open += s.purse.open[d.key]
			}
		}
		if open > d.units {
			w.fail("%s: %d connections of %d", d.key, open, d.units)
		}
	}
}

func (w *world) kill(s *server, back time.Duration) {
	s.up, s.leads = false, false
	s.back = 0
	if back > 0 {
		s.back = w.now + back
	}
}

func (w *world) server(name string) *server {
	for _, s := range w.servers {
		if s.name == name {
			return s
		}
	}
	w.t.Fatalf("no server %s", name)
	return nil
}
