package gossip

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/clrelay/clrelay/cluster/pki"
)

// maxMembers bounds the nodes known, the dead included.
const maxMembers = 256

// deadFor is how long a dead node is remembered.
const deadFor = time.Hour

// State is how a node seems to be.
type State uint8

// The states.
const (
	Alive   State = iota + 1 // heard of lately
	Suspect                  // not heard by this node for 1.5 s
	Dead                     // given up by the members together, or it has left
)

// String gives "alive", "suspect" or "dead".
func (s State) String() string {
	if s > Dead {
		s = 0
	}
	return [...]string{"unknown", "alive", "suspect", "dead"}[s]
}

// Member is one node as this one sees it.
type Member struct {
	Node  string
	Self  bool           // it is this node
	Addr  netip.AddrPort // of its gossip
	State State
	Since time.Time // when State became what it is
	Meta  Meta
}

// table is who is known. memberlist calls it with its own lock held, so it
// calls nobody.
type table struct {
	self string
	log  *slog.Logger

	mu      sync.Mutex
	all     map[string]*entry
	changed chan struct{} // closed at every change
	peopled chan struct{} // holds one when somebody came or went
	clash   clash
	over    bool // memberlist's timers outlive it: nothing changes any more
}

// clash is about two nodes with the same name.
type clash struct {
	since, last time.Time
}

// A clash of names is spoken of when it has lasted, and is over when it was
// not seen for a while.
const (
	clashAfter = 20 * time.Second
	clashOver  = 30 * time.Second
)

type entry struct {
	Member
	heard time.Time // last sign of life received here
}

func newTable(self string, log *slog.Logger) *table {
	return &table{self: self, log: log, all: map[string]*entry{}, changed: make(chan struct{}), peopled: make(chan struct{}, 1)}
}

var (
	errFull = errors.New("too many members")
	errAddr = errors.New("an address at which nobody can be")
)

// NotifyAlive tells whether a node may be a member. It sees everything that
// is said of nodes before memberlist believes it.
func (t *table) NotifyAlive(n *memberlist.Node) error {
	if err := pki.ValidName(n.Name); err != nil {
		return err
	}
	addr, ok := addrOf(n)
	if !ok || addr.Port() == 0 || addr.Addr().IsUnspecified() || addr.Addr().IsMulticast() {
		return fmt.Errorf("%v: %w", addr, errAddr)
	}
	if _, err := decodeMeta(n.Meta); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all[n.Name] == nil && len(t.all) >= maxMembers && !t.evict() {
		return errFull
	}
	return nil
}

// evict forgets the node that is dead longest.
func (t *table) evict() bool {
	var oldest *entry
	for _, e := range t.all {
		if e.State == Dead && (oldest == nil || e.Since.Before(oldest.Since)) {
			oldest = e
		}
	}
	if oldest != nil {
		delete(t.all, oldest.Node)
	}
	return oldest != nil
}

func addrOf(n *memberlist.Node) (netip.AddrPort, bool) {
	ip, ok := netip.AddrFromSlice(n.Addr)
	return netip.AddrPortFrom(ip.Unmap(), n.Port), ok
}

// NotifyJoin takes a node in.
func (t *table) NotifyJoin(n *memberlist.Node) { t.update(n, true) }

// NotifyUpdate takes what a node says of itself now.
func (t *table) NotifyUpdate(n *memberlist.Node) { t.update(n, false) }

func (t *table) update(n *memberlist.Node, joined bool) {
	addr, _ := addrOf(n)
	meta, err := decodeMeta(n.Meta)
	if err != nil {
		return // NotifyAlive lets none through
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return
	}
	e, now := t.all[n.Name], time.Now()
	if e == nil {
		e = &entry{Member: Member{Node: n.Name, Self: n.Name == t.self}}
		t.all[n.Name] = e
	}
	e.Addr, e.Meta = addr, meta
	if joined {
		e.State, e.Since, e.heard = Alive, now, now
		if !e.Self {
			t.log.Info("gossip: a node is there", "peer", n.Name, "addr", addr.String())
		}
	}
	t.wake()
	if joined {
		t.people()
	}
}

// NotifyLeave marks a node as dead.
func (t *table) NotifyLeave(n *memberlist.Node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.all[n.Name]
	if e == nil || e.Self || e.State == Dead || t.over {
		return
	}
	e.State, e.Since = Dead, time.Now()
	t.log.Info("gossip: a node is gone", "peer", n.Name, "addr", e.Addr.String())
	t.wake()
	t.people()
}

// NotifyConflict hears of two addresses for one node. One that comes back
// elsewhere looks like this until its old address is given up, so only what
// lasts is spoken of.
func (t *table) NotifyConflict(known, other *memberlist.Node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if t.over {
		return
	}
	if now.Sub(t.clash.last) > clashOver {
		t.clash = clash{since: now}
	}
	t.clash.last = now
	if now.Sub(t.clash.since) >= clashAfter {
		t.clash.since = now
		a, _ := addrOf(known)
		b, _ := addrOf(other)
		t.log.Warn("gossip: two nodes have the same name", "peer", known.Name, "addr", a.String(), "other", b.String())
	}
}

// heard takes a sign of life.
func (t *table) heard(node string, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.all[node]
	if e == nil || t.over {
		return
	}
	e.heard = now
	if e.State == Suspect {
		e.State, e.Since = Alive, now
		t.log.Info("gossip: a node is heard again", "peer", node)
		t.wake()
	}
}

// tick finds who fell silent, forgets who is dead for long, and gives the
// other members that are not dead.
func (t *table) tick(now time.Time) []Member {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []Member
	for name, e := range t.all {
		switch {
		case e.Self:
			continue
		case e.State == Dead:
			if now.Sub(e.Since) > deadFor {
				delete(t.all, name)
				t.wake()
			}
			continue
		case e.State == Alive && now.Sub(e.heard) > suspectAfter:
			e.State, e.Since = Suspect, now
			t.log.Info("gossip: a node is silent", "peer", name)
			t.wake()
		}
		out = append(out, e.Member)
	}
	return out
}

// forgive begins to count anew: the silence was our own.
func (t *table) forgive(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.all {
		e.heard = now
	}
}

// end stops all change.
func (t *table) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
}

func (t *table) members() []Member {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]Member, 0, len(t.all))
	for _, e := range t.all {
		out = append(out, e.Member)
	}
	slices.SortFunc(out, func(a, b Member) int { return cmp.Compare(a.Node, b.Node) })
	return out
}

func (t *table) watch() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changed
}

// wake tells those who watch. The lock is held.
func (t *table) wake() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// people wakes the one who seeks: somebody came or went.
func (t *table) people() {
	select {
	case t.peopled <- struct{}{}:
	default:
	}
}
