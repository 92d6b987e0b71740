package cluster_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/clrelay/clrelay/cluster/clock"
	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/limit/local"
)

const (
	slotKey   limit.Key = "site#connections,site=example.net"
	budgetKey limit.Key = "tenant#budget,user=jane"
	slots               = 30
	budget              = 400
)

// purse is a limiter of one number of connections and one budget.
type purse struct {
	mu     sync.Mutex
	u      limit.Update // seats and lease
	units  int          // of slotKey; -1: an even part
	open   int
	grant  limit.Grant
	spent  uint64
	want   uint32
	wanted bool // some of the budget
	log    *opLog
	dead   bool
}

func (p *purse) part() int {
	switch units := slots / max(p.u.Seats, 1); {
	case p.u.Seats == 0 || p.dead:
		return 0
	case !p.u.Leased || p.u.Ends != 0 && clock.Boot() >= p.u.Ends:
		return slots / (10 * max(3, p.u.Seats))
	case p.units >= 0:
		return p.units
	default:
		return units
	}
}

func (p *purse) Apply(u limit.Update) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if u.Full {
		p.units = -1
	}
	for _, s := range u.Shares {
		if s.Key == slotKey {
			p.units = int(s.Units)
		}
	}
	for _, k := range u.Even {
		if k == slotKey {
			p.units = -1
		}
	}
	for _, g := range u.Grants {
		if g.Key == budgetKey {
			p.grant = g
		}
	}
	p.u = u
	for !u.Leased && p.open > p.part() {
		p.log.do(release, func() bool { p.open--; return true })
	}
}

func (p *purse) Demands(list []limit.Demand, _ int) []limit.Demand {
	p.mu.Lock()
	defer p.mu.Unlock()
	list = append(list, limit.Demand{Key: slotKey, Kind: limit.KindConnections, Units: slots, Want: p.want, Used: uint32(p.open)})
	if left := p.grant.Granted - p.spent; p.wanted && left < 20 {
		list = append(list, limit.Demand{Key: budgetKey, Kind: limit.KindBudget, Units: budget, Want: 20 - uint32(left), Used: uint32(left), Window: 24 * time.Hour})
	}
	return list
}

// live opens, closes and spends at random.
func (p *purse) live(r *rand.Rand) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead {
		return
	}
	switch r.IntN(4) {
	case 0:
		p.log.do(acquire, func() bool {
			if p.open >= p.part() || uint32(p.open) >= p.want {
				return false
			}
			p.open++
			return true
		})
	case 1:
		if p.open > 0 {
			p.log.do(release, func() bool { p.open--; return true })
		}
	case 2, 3:
		if p.wanted {
			p.log.do(spend, func() bool {
				if p.spent >= p.grant.Granted {
					return false
				}
				p.spent++
				return true
			})
		}
	}
}

// die ends the process: its connections end with it.
func (p *purse) die() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dead = true
	for p.open > 0 {
		p.log.do(release, func() bool { p.open--; return true })
	}
}

func (p *purse) has() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.part()
}

func (p *purse) set(want uint32, wanted bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.want, p.wanted = want, wanted
}

type opKind int

const (
	acquire opKind = iota
	release
	spend
)

// opLog is what all nodes did, for the checker.
type opLog struct {
	mu   sync.Mutex
	from time.Time
	ops  []porcupine.Operation
}

func (l *opLog) do(kind opKind, f func() bool) {
	call := time.Since(l.from)
	ok := f()
	if !ok {
		return // who is refused has learned nothing
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ops = append(l.ops, porcupine.Operation{ClientId: len(l.ops), Input: kind, Call: int64(call), Output: ok, Return: int64(time.Since(l.from))})
}

// limitModel is what one machine with one counter would do: so many are open at
// a time, so much is spent in all.
var limitModel = porcupine.Model{
	Partition: func(h []porcupine.Operation) [][]porcupine.Operation {
		out := make([][]porcupine.Operation, 2)
		for _, o := range h {
			at := 0
			if o.Input.(opKind) == spend {
				at = 1
			}
			out[at] = append(out[at], o)
		}
		return out
	},
	Init: func() any { return 0 },
	Step: func(state, in, _ any) (bool, any) {
		n := state.(int)
		switch in.(opKind) {
		case acquire:
			return n < slots, n + 1
		case spend:
			return n < budget, n + 1
		default:
			return n > 0, n - 1
		}
	},
}

// purses gives every node of a group a limiter.
func (g *group) purses(log *opLog) {
	for _, m := range g.nodes {
		m.purse = &purse{units: -1, log: log}
		m.limits = m.purse
	}
}

// TestLimitsMove: real nodes share a limit; who wants it has nearly all of it, a
// dead node's part comes back, and the leader tells an operator.
func TestLimitsMove(t *testing.T) {
	log := &opLog{from: time.Now()}
	g := makeGroup(t, 3, func(g *group) { g.purses(log) })
	g.ready()
	for _, m := range g.nodes {
		eventually(t, m.name+" has its part", func() bool { return m.purse.has() == slots/3 })
	}
	g.nodes[1].purse.set(slots, false)
	began := time.Now()
	eventually(t, "mx2 has nearly all", func() bool { return g.nodes[1].purse.has() >= slots*9/10 })
	t.Logf("after %v", time.Since(began).Round(time.Millisecond))
	list, err := g.nodes[2].Shares(t.Context(), "site#")
	if err != nil || len(list) != 1 || list[0].Key != slotKey || list[0].Nodes[1].Units < slots*9/10 || list[0].Nodes[1].Want != slots {
		t.Errorf("the shares are told as %+v: %v", list, err)
	}
	g.nodes[0].purse.set(slots, false)
	eventually(t, "mx1 has half", func() bool { return g.nodes[0].purse.has() >= slots/3 })
	g.nodes[1].purse.die()
	g.stop(g.nodes[1])
	eventually(t, "mx1 has what mx2 had", func() bool { return g.nodes[0].purse.has() >= slots*9/10 })
}

// TestLimitHistory: what nodes open, close and spend while leaders die and change
// is what one machine with one counter could have done.
func TestLimitHistory(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 20 s")
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	log := &opLog{from: time.Now()}
	g := makeGroup(t, 3, func(g *group) { g.purses(log) })
	g.ready()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	live := func(p *purse, seed uint64) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, 1))
			tick := time.NewTicker(3 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					p.live(r)
				case <-stop:
					return
				}
			}
		})
	}
	for i, m := range g.nodes {
		m.purse.set(slots, true)
		live(m.purse, uint64(i))
	}
	end := time.After(18 * time.Second)
	next := time.NewTicker(3 * time.Second)
	defer next.Stop()
	var down *member
	for done := false; !done; {
		select {
		case <-end:
			done = true
		case <-next.C:
			if down != nil {
				down.purse = &purse{units: -1, log: log}
				down.limits = down.purse
				down.purse.set(uint32(rnd.IntN(slots+1)), true)
				g.start(down)
				live(down.purse, rnd.Uint64())
				down = nil
				continue
			}
			leader := g.nodes[rnd.IntN(3)].Overview().Leader
			for _, m := range g.nodes {
				m.purse.set(uint32(rnd.IntN(slots+1)), true)
				if m.name == leader {
					down = m
				}
			}
			if down != nil {
				down.purse.die()
				g.stop(down)
			}
		}
	}
	close(stop)
	wg.Wait()
	count := map[opKind]int{}
	for _, o := range log.ops {
		count[o.Input.(opKind)]++
	}
	t.Logf("%d opened, %d closed, %d of %d spent", count[acquire], count[release], count[spend], budget)
	if count[acquire] < 100 || count[spend] < 20 {
		t.Error("too little was done to prove anything")
	}
	if !porcupine.CheckOperations(limitModel, log.ops) {
		t.Error("no single counter could have let this happen")
	}
	over := append(log.ops[:0:0], log.ops...)
	for range budget + 1 - count[spend] {
		over = append(over, porcupine.Operation{ClientId: len(over), Input: spend, Call: int64(time.Hour), Output: true, Return: int64(time.Hour + 1)})
	}
	if porcupine.CheckOperations(limitModel, over) {
		t.Error(fmt.Sprint("the checker lets ", budget+1, " of ", budget, " pass"))
	}
}

// TestRealLimiters: the nodes' real limiters, with the cluster that divides: one
// node sends at nearly the whole rate, and no more.
func TestRealLimiters(t *testing.T) {
	site := limit.Subject{Site: "example.net"}
	one := limit.Amount{Messages: 1, Recipients: 1, Octets: 1}
	def := limit.Definition{Name: "sites", Per: []limit.Field{limit.Site}, Rate: limit.Rate{N: 200, Per: time.Second}, Burst: 200}
	day := limit.Definition{Name: "tenants", Per: []limit.Field{limit.User}, Budget: limit.Rate{N: 120, Per: 24 * time.Hour}}
	g := makeGroup(t, 3, func(g *group) {
		for _, m := range g.nodes {
			l := local.New(local.Options{Now: clock.Boot, Wall: time.Now})
			if err := l.Configure([]limit.Definition{def, day}); err != nil {
				t.Fatal(err)
			}
			m.limits = l
		}
	})
	g.ready()
	send := func(l *local.Limiter, s *limit.Subject) (n int) {
		for {
			ticket, denied := l.Reserve(limit.Deliver, s, one)
			if denied != nil {
				return n
			}
			if ticket.Use() > 0 {
				ticket.Cancel()
				return n
			}
			n++
		}
	}
	hot := g.nodes[1].limits.(*local.Limiter)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var sent []time.Time
	rate := func() int { // in the last second
		n := 0
		for _, at := range sent {
			if time.Since(at) < time.Second {
				n++
			}
		}
		return n
	}
	began := time.Now()
	for rate() < 170 {
		<-tick.C
		for range send(hot, &site) {
			sent = append(sent, time.Now())
		}
		if time.Since(began) > 20*time.Second {
			list, err := g.nodes[1].Shares(t.Context(), "")
			t.Fatalf("%d a second of 200; the shares are %+v, %v", rate(), list, err)
		}
	}
	t.Logf("%d a second after %v", rate(), time.Since(began).Round(time.Millisecond))
	for from := range sent {
		if n := len(sent) - from; float64(n) > 200+200*1.02*time.Since(sent[from]).Seconds()+1 {
			t.Fatalf("%d messages in %v", n, time.Since(sent[from]))
		}
	}
	spent := 0
	jane := limit.Subject{User: "jane"}
	eventually(t, "the day's budget is spent on all nodes together", func() bool {
		for _, m := range g.nodes {
			spent += send(m.limits.(*local.Limiter), &jane)
		}
		return spent >= 120
	})
	if spent != 120 {
		t.Errorf("%d of 120 spent", spent)
	}
}
