package abuse

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/clrelay/clrelay/internal/limit"
)

// State is what is done about a client, the worst last.
type State uint8

// The states.
const (
	Unnoticed   State = iota // nothing is known of it
	Counted                  // nothing is done yet
	KeptWaiting              // replies are held back
	LockedOut
)

// String is the state in words; Unnoticed has none.
func (s State) String() string {
	return [...]string{"", "counted", "kept waiting", "locked out", ""}[min(s, LockedOut+1)]
}

// Standing is how a client stands.
type Standing struct {
	Client    netip.Addr // its network
	State     State
	Out       time.Duration  // it is locked out for so long
	Why       Kind           // it is, or of what it has most
	Score     [Kinds]float32 // what was counted, as far as it has not faded
	Threshold [Kinds]int     // 0: it is not counted
	level     float32
}

// noticed is from which part of a threshold on a client is worth being shown.
const noticed = 0.5

// Standings gives the clients that are locked out and, with all, those too that
// have half a threshold, the worst first: those that are locked out longest, then
// those that have reached most thresholds. Of those that pick wants it gives max at
// most; more says that there are others.
func (t *Table) Standings(all bool, max int, pick func(netip.Addr) bool) (list []Standing, more bool) {
	list = t.standings(all, pick)
	slices.SortFunc(list, func(a, b Standing) int {
		return cmp.Or(cmp.Compare(b.State, a.State), cmp.Compare(b.Out, a.Out), cmp.Compare(b.level, a.level), a.Client.Compare(b.Client))
	})
	if len(list) > max {
		return list[:max:max], true
	}
	return list, false
}

func (t *Table) standings(all bool, pick func(netip.Addr) bool) (list []Standing) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	for a, c := range t.clients {
		if c.out <= now {
			if l, _ := t.level(c); !all || l < noticed { // it only fades
				continue
			}
		}
		if !pick(a) {
			continue
		}
		t.fade(c, now)
		if s := t.standing(a, c, now); s.State == LockedOut || all && s.level >= noticed {
			list = append(list, s)
		}
	}
	return list
}

// standing is that of a client whose scores are up to date. It changes nothing.
func (t *Table) standing(a netip.Addr, c *client, now time.Duration) Standing {
	s := Standing{Client: a, State: Counted, Score: c.score, Threshold: t.rules.Most}
	s.level, s.Why = t.level(c)
	switch {
	case c.out != 0:
		s.State, s.Out, s.Why = LockedOut, c.out-now, c.why
	case s.level >= 1 && t.rules.Hold > 0:
		s.State = KeptWaiting
	}
	return s
}

// Deaf is for how long what other nodes tell of a client does not count after it
// was lifted: so long what they counted before may be under way, or they may not
// have been told of it.
const Deaf = 10 * time.Second

// Lift forgets clients: that they are locked out, and what was counted of them,
// whether the other nodes have been told of it or not. It gives how each stood.
func (t *Table) Lift(clients []netip.Addr) (was []Standing) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now, gone := t.now(), map[netip.Addr]bool{}
	for a, until := range t.lifted {
		if until <= now {
			delete(t.lifted, a)
		}
	}
	for _, a := range clients {
		net := limit.Network(a)
		gone[net] = true
		t.lifted[net] = now + Deaf
		c := t.clients[net]
		if c == nil {
			was = append(was, Standing{Client: net})
			continue
		}
		t.fade(c, now)
		was = append(was, t.standing(net, c, now))
		delete(t.clients, net)
	}
	t.changed = slices.DeleteFunc(t.changed, func(a netip.Addr) bool { return gone[a] })
	return was
}

// ParseClient reads a client as it is counted: an address, or exactly the network
// that stands for it, an IPv6 /64.
func ParseClient(text string) (netip.Addr, error) {
	p, err := limit.ParseNetwork(text)
	written, _ := netip.ParsePrefix(text) // not valid of an address
	switch {
	case err != nil:
		return netip.Addr{}, err
	case written != written.Masked():
		return netip.Addr{}, fmt.Errorf("%s is an address and a network in one: write either", text)
	case p.IsSingleIP():
		return limit.Network(p.Addr()), nil
	case p.Addr().Is4():
		return netip.Addr{}, fmt.Errorf("%s is more than one client: IPv4 clients are counted by address, so name the addresses", p)
	case p.Bits() < 64:
		return netip.Addr{}, fmt.Errorf("%s is more than one client: IPv6 clients are counted by /64, so name these", p)
	case p.Bits() > 64:
		return netip.Addr{}, fmt.Errorf("%s is less than a client: IPv6 clients are counted by /64, which is %s here", p, limit.NetworkText(p.Addr()))
	}
	return p.Addr(), nil
}
