// Package abuse remembers how clients behave, by their networks, and says who is
// to be kept waiting or locked out.
//
// What is counted fades: of what was counted a window ago some third is left. A
// client that reaches a threshold is kept waiting for its replies; one that
// reaches it three times over is locked out for a while. The counts of the nodes
// are told to each other (Deltas, Merge), so that who spreads over the nodes is
// seen as one; they are approximate and need not be more.
//
// Memory is bounded: where there are too many clients the least conspicuous of
// some are forgotten, never one that is locked out.
//
// An operator sees who stands how (Standings), and has clients forgotten at each
// node (Lift).
package abuse

import (
	"math"
	"net/netip"
	"sync"
	"time"

	"github.com/clrelay/clrelay/internal/limit"
)

// Kind is what is counted.
type Kind uint8

// The kinds.
const (
	Fruitless Kind = iota // sessions without a message that was taken
	Refused               // commands that were refused for good
	Unknown               // recipients that there are not
	Login                 // logins that failed
	Kinds                 // how many there are
)

// String is the kind in words, for replies and the log.
func (k Kind) String() string {
	return [...]string{"connections without a message", "refused commands", "unknown recipients", "failed logins", ""}[min(k, Kinds)]
}

// Rules say from when on and what is done.
type Rules struct {
	Window  time.Duration // in which counts fade
	Most    [Kinds]int    // threshold of each; 0: it is not counted
	Hold    time.Duration // by how much replies are held back; 0: not at all
	Lockout time.Duration // 0: nobody is locked out
}

// outAt is how many thresholds lead to a lockout.
const outAt = 3

// MaxClients bounds how many clients are remembered.
const MaxClients = 100_000

// Table remembers clients. It may be used by many goroutines.
type Table struct {
	now func() time.Duration
	max int

	mu      sync.Mutex
	rules   Rules
	clients map[netip.Addr]*client
	changed []netip.Addr                 // have deltas to be told; max at most
	lifted  map[netip.Addr]time.Duration // lately; others' counts of them are not heard until then
}

type client struct {
	score [Kinds]float32
	fresh [Kinds]uint16 // counted here and not told yet
	at    time.Duration // when the scores were right
	out   time.Duration // locked out until; 0: not
	why   Kind
}

// New returns an empty Table without rules, which counts nothing. now is
// monotonic. max clients are remembered, MaxClients if it is 0.
func New(now func() time.Duration, max int) *Table {
	if max == 0 {
		max = MaxClients
	}
	return &Table{now: now, max: max, clients: map[netip.Addr]*client{}, lifted: map[netip.Addr]time.Duration{}}
}

// Configure sets the rules. Without thresholds everything is forgotten.
func (t *Table) Configure(r Rules) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rules = r
	if r.Most == [Kinds]int{} {
		clear(t.clients)
		t.changed = nil
	}
}

// Verdict is what is to be done about a client.
type Verdict struct {
	Hold time.Duration // hold the reply back
	Out  time.Duration // it is locked out for so long
	Why  Kind          // of either
	News bool          // it was locked out by this very count
}

// Look says what is to be done about a client that comes.
func (t *Table) Look(a netip.Addr) Verdict {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.clients[limit.Network(a)]
	if c == nil {
		return Verdict{}
	}
	now := t.now()
	t.fade(c, now)
	return t.judge(c, now)
}

// Count counts something that a client did, and says what is to be done.
func (t *Table) Count(a netip.Addr, k Kind) Verdict {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !a.IsValid() || k >= Kinds || t.rules.Most[k] == 0 {
		return Verdict{}
	}
	net, now := limit.Network(a), t.now()
	c := t.add(net, k, 1, now)
	if c == nil {
		return Verdict{}
	}
	t.note(net, c, k)
	before := c.out
	v := t.judge(c, now)
	v.News = before == 0 && c.out != 0
	return v
}

// note keeps a count to be told. Where too many clients wait for that, or nobody
// is told at all, it stays this node's alone: those that were forgotten meanwhile
// are on the list too, and clients come as fast as they like.
func (t *Table) note(net netip.Addr, c *client, k Kind) {
	if c.fresh == [Kinds]uint16{} {
		if len(t.changed) >= t.max {
			return
		}
		t.changed = append(t.changed, net)
	}
	if c.fresh[k] < math.MaxUint16 {
		c.fresh[k]++
	}
}

// add adds n to a client's score; nil if it is not to be remembered.
func (t *Table) add(net netip.Addr, k Kind, n float32, now time.Duration) *client {
	c := t.clients[net]
	if c == nil {
		if len(t.clients) >= t.max && !t.makeRoom(now) {
			return nil
		}
		c = &client{at: now}
		t.clients[net] = c
	}
	t.fade(c, now)
	c.score[k] += n
	return c
}

// makeRoom forgets the least conspicuous of some clients. It tells whether
// there is room then.
func (t *Table) makeRoom(now time.Duration) bool {
	const some = 8
	var least netip.Addr
	low, n := float32(math.MaxFloat32), 0
	for a, c := range t.clients { // in no order
		t.fade(c, now)
		if l, _ := t.level(c); c.out == 0 && l < low {
			least, low = a, l
		}
		if n++; n == some {
			break
		}
	}
	if !least.IsValid() {
		return false
	}
	delete(t.clients, least)
	return true
}

// fade brings scores up to date.
func (t *Table) fade(c *client, now time.Duration) {
	if d := now - c.at; d > 0 && t.rules.Window > 0 {
		left := float32(math.Exp(-float64(d) / float64(t.rules.Window)))
		for k := range c.score {
			c.score[k] *= left
		}
	}
	c.at = now
	if c.out != 0 && now >= c.out {
		c.out = 0
	}
}

// level is how many thresholds a client has reached, by its worst. What has faded
// by less than a half still counts as one.
func (t *Table) level(c *client) (l float32, why Kind) {
	for k, most := range t.rules.Most {
		if most == 0 || c.score[k] == 0 {
			continue
		}
		if has := (c.score[k] + 0.5) / float32(most); has > l {
			l, why = has, Kind(k)
		}
	}
	return l, why
}

func (t *Table) judge(c *client, now time.Duration) Verdict {
	l, why := t.level(c)
	if c.out == 0 && l >= outAt && t.rules.Lockout > 0 {
		c.out, c.why = now+t.rules.Lockout, why
		for k, most := range t.rules.Most { // afterwards it begins at half a threshold
			c.score[k] = min(c.score[k], float32(most)/2)
		}
	}
	switch {
	case c.out != 0:
		return Verdict{Hold: t.rules.Hold, Out: c.out - now, Why: c.why} // sessions that are open may go on for a while
	case l >= 1:
		return Verdict{Hold: t.rules.Hold, Why: why}
	}
	return Verdict{}
}

// Delta is what one client did since it was told last.
type Delta struct {
	Client netip.Addr // its network
	Counts [Kinds]uint16
}

// Deltas appends what was counted here since the last call, of at most max
// clients; the others come next time.
func (t *Table) Deltas(list []Delta, max int) []Delta {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := min(len(t.changed), max)
	for _, a := range t.changed[:n] {
		if c := t.clients[a]; c != nil {
			list = append(list, Delta{a, c.fresh})
			c.fresh = [Kinds]uint16{}
		}
	}
	t.changed = append(t.changed[:0], t.changed[n:]...)
	return list
}

// Merge takes in what another node counted. It gives those who were locked out by
// this.
func (t *Table) Merge(list []Delta) (out []Standing) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	for i := range list {
		if t.lifted[limit.Network(list[i].Client)] > now {
			continue // of the time before, as far as is known
		}
		for k, n := range list[i].Counts {
			if n == 0 || t.rules.Most[k] == 0 {
				continue
			}
			net := limit.Network(list[i].Client)
			c := t.add(net, Kind(k), float32(n), now)
			if c == nil {
				continue
			}
			before := c.out
			if t.judge(c, now); before == 0 && c.out != 0 {
				out = append(out, t.standing(net, c, now))
			}
		}
	}
	return out
}

// Clients tells how many are remembered, and how many of them are locked out.
func (t *Table) Clients() (all, out int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	for _, c := range t.clients {
		if c.out > now {
			out++
		}
	}
	return len(t.clients), out
}
