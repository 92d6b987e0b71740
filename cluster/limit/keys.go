package limit

import (
	"slices"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	limits "github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/proto/control"
)

// key is one that is not divided evenly, or of which a node wants more than it
// has.
type key struct {
	name    string
	kind    limits.Kind
	of      uint32
	version uint64        // 0: it is divided evenly
	parts   []part        // one a seat
	rest    []fsm.Part    // of nodes that have no seat: they use nothing, until they have one again
	place   int           // in Machine.list
	hot     bool          // in Machine.hot
	force   bool          // it has to make room
	loose   bool          // somebody may be using more than it has
	flying  bool          // an entry about it is under way
	calm    time.Duration // since when the even division would do; 0: it would not
	retry   time.Duration // not before
	asked   time.Duration // when it was asked for first, if it is divided evenly
	next    uint32        // units that nodes divide it into now, where others; 0: as many
	nextAt  time.Duration // since when
}

// part is what a seat has of a key.
type part struct {
	units  uint32 // given
	held   uint32 // may be in use
	index  uint64 // of the entry that changed units last, or with which the reign began
	want   uint32 // as reported
	used   uint32
	report uint64        // of the node, by its count, that named the key last
	named  time.Duration // when
	since  time.Duration // when it got something, after it had nothing
	last   time.Duration // when it last had something
	born   uint64        // reports of the node when the key was first asked for
}

// load takes a division of before the reign: whatever was given before it may
// be in use still.
func (m *Machine) load(d *fsm.Division) {
	k := &key{name: d.Key, kind: limits.Kind(d.Kind), of: d.Of, version: d.Version, loose: true}
	for i := range m.roster.Seats {
		p := part{units: d.Units(m.roster.Seats[i].Node), held: d.Of, index: m.index, named: m.now}
		if m.without&OwnReign != 0 {
			p.held = p.units
		}
		k.parts = append(k.parts, p)
	}
	for _, p := range d.Parts {
		if m.roster.Of(p.Node) == 0 {
			k.rest = append(k.rest, p)
		}
	}
	m.add(k)
}

func (m *Machine) add(k *key) {
	k.place = len(m.list)
	m.list = append(m.list, k)
	m.keys[k.name] = k
}

func (m *Machine) drop(k *key) {
	last := m.list[len(m.list)-1]
	m.list[k.place], last.place = last, k.place
	m.list = m.list[:len(m.list)-1]
	delete(m.keys, k.name)
}

// even begins to look at a key that is divided evenly.
func (m *Machine) even(name string, kind limits.Kind, of uint32) *key {
	k := &key{name: name, kind: kind, of: of, loose: true, asked: m.now}
	for i := range m.roster.Seats {
		s := &m.roster.Seats[i]
		p := part{held: of, index: m.index, named: m.now, born: m.nodes[s.Node].reports}
		if s.State == fsm.Seated {
			p.units = m.roster.Even(of)
		}
		n := m.nodes[s.Node]
		low := n.low[0]
		if kind == limits.KindConnections {
			low = n.low[1]
		}
		switch {
		case s.State == fsm.Entering, n.done, s.State == fsm.Leaving && n.silent:
			p.held = 0
		case low > 0:
			p.held = max(of/uint32(low), p.units)
		case m.without&OwnReign != 0:
			p.held = p.units
		}
		k.parts = append(k.parts, p)
	}
	m.add(k)
	return k
}

// demands takes what a node wants.
func (m *Machine) demands(n *node, list []limits.Demand) {
	n.busy, n.budgets = false, n.budgets[:0]
	at := slices.IndexFunc(m.roster.Seats, func(s fsm.Seat) bool { return s.Node == n.name })
	if at < 0 {
		return
	}
	state := m.roster.Seats[at].State
	for _, d := range list[:min(len(list), MaxDemands)] {
		if d.Units == 0 || !control.ValidLimitKey(string(d.Key)) {
			continue
		}
		k := m.keys[string(d.Key)]
		switch {
		case d.Kind == limits.KindBudget:
			n.budgets = append(n.budgets, d)
			continue
		case d.Units > control.MaxUnits || d.Kind > limits.KindBudget:
			continue
		case d.Kind == limits.KindConnections && (state == fsm.Leaving && d.Used > 0 || (k == nil || k.version == 0) && d.Used > m.roster.Even(d.Units)):
			n.busy = true
		}
		if k == nil {
			if !m.roster.Founded || state != fsm.Seated || d.Want <= m.roster.Even(d.Units) {
				continue
			}
			k = m.even(string(d.Key), d.Kind, d.Units)
		}
		p := &k.parts[at]
		p.want, p.used, p.report, p.named = d.Want, d.Used, n.reports, m.now
		switch {
		case d.Units == k.of:
			k.next = 0
		case k.next != d.Units:
			k.next, k.nextAt = d.Units, m.now
		}
		m.heat(k)
	}
}

func (m *Machine) heat(k *key) {
	if !k.hot {
		k.hot = true
		m.hot = append(m.hot, k)
	}
}

// heatAll has every key make room for the seats that there are to be.
func (m *Machine) heatAll() {
	for _, k := range m.list {
		if k.version != 0 && !m.room(k) {
			k.force = true
			m.heat(k)
		}
	}
}

// settle notes that a node uses no more than it has, if that is so.
func (k *key) settle(m *Machine, n *node) {
	k.loose = false
	for i := range k.parts {
		p := &k.parts[i]
		s := &m.roster.Seats[i]
		units := p.units
		if s.State != fsm.Seated {
			units = 0
		}
		if s.Node == n.name && p.held > units && !k.flying {
			switch {
			case s.State == fsm.Leaving && !n.done && !n.silent:
			case n.silent:
				p.held = units
			case n.acked < p.index:
			case k.kind != limits.KindConnections:
				p.held = units
			case p.report == n.reports && m.without&OpenCounts == 0:
				p.held = min(p.held, max(units, p.used))
			case n.full || m.without&OpenCounts != 0:
				p.held = units
			}
		}
		k.loose = k.loose || p.held > units
	}
}

// wants is how many units a node wants.
func (m *Machine) wants(k *key, i int) uint32 {
	p := &k.parts[i]
	n := m.nodes[m.roster.Seats[i].Node]
	switch {
	case n.silent || m.roster.Seats[i].State != fsm.Seated:
		return 0
	case p.report == n.reports && n.reports > 0:
		return min(p.want, k.of)
	case k.version == 0 || m.now-p.named > EvenAfter:
		return 0
	}
	return p.units // it said nothing: it has what it needs
}

// uses is how much of a key may be in use at a seat if it is given units now.
func (m *Machine) uses(k *key, i int, units uint32) uint32 {
	s := &m.roster.Seats[i]
	n := m.nodes[s.Node]
	used := max(k.parts[i].held, units)
	if n.silent {
		used = units // it gets a lease again only with this entry
	}
	if s.State == fsm.Entering {
		used = 0
	}
	if m.without&GrowAfterAck != 0 {
		used = units
	}
	return max(used, control.Reserve(k.of))
}

// divide proposes what is to change of the keys that somebody asked for, and of
// some others.
func (m *Machine) divide() {
	for range min(scanRound, len(m.list)) {
		m.cursor = (m.cursor + 1) % len(m.list)
		m.heat(m.list[m.cursor])
	}
	f := &flight{}
	octets := 0
	var still []*key
	for _, k := range m.hot {
		full := len(f.keys) == control.MaxOps || octets > opsOctets
		op, hot := fsm.ShareOp{}, true
		if !full {
			op, hot = m.decide(k)
		}
		if op.Key != "" {
			f.keys, f.shares.Ops = append(f.keys, k), append(f.shares.Ops, op)
			octets += len(op.Key) + len(op.Parts)*(control.MaxText/4)
		}
		switch {
		case hot:
			still = append(still, k)
		default:
			k.hot = false
			if k.version == 0 {
				m.drop(k)
			}
		}
	}
	m.hot = still
	if len(f.keys) > 0 {
		for _, k := range f.keys {
			k.flying = true
		}
		m.propose(f)
	}
}

// decide looks at one key: what is to be proposed, if anything, and whether it
// is to be looked at again in the next round.
func (m *Machine) decide(k *key) (op fsm.ShareOp, hot bool) {
	if m.now < k.retry {
		return op, k.version == 0 && m.hungry(k)
	}
	if k.next != 0 && m.now-k.nextAt >= sameOf && k.version != 0 {
		return m.regrain(k), true
	}
	hungry := m.hungry(k)
	target := m.share(k)
	switch {
	case hungry:
		k.calm = 0
		if !k.force && (!m.worth(k, target) || k.version == 0 && !m.heardAll(k)) {
			return op, true
		}
	case k.force:
	case k.version == 0:
		return op, false
	default:
		even, ok := m.calm(k)
		if !ok {
			return op, k.loose
		}
		if m.isEven(k) {
			return fsm.ShareOp{Key: k.name, IfVersion: k.version, Drop: true}, true
		}
		target = even
	}
	parts, changed := m.step(k, target)
	if !changed {
		k.force = false
		return op, true
	}
	return fsm.ShareOp{Key: k.name, IfVersion: k.version, Kind: uint8(k.kind), Of: k.of, Parts: m.parts(parts)}, true
}

// hungry tells whether somebody wants more than it has.
func (m *Machine) hungry(k *key) bool {
	for i := range k.parts {
		if m.wants(k, i) > k.parts[i].units {
			return true
		}
	}
	return false
}

// heardAll tells whether every node had the time to say that it wants the key,
// too.
func (m *Machine) heardAll(k *key) bool {
	if m.now-k.asked > ReportEvery*3/2 {
		return true
	}
	for i := range k.parts {
		p, n := &k.parts[i], m.nodes[m.roster.Seats[i].Node]
		if p.report != n.reports && n.reports <= p.born && !n.silent {
			return false
		}
	}
	return true
}

// worth tells whether what would be gained is worth an entry: a share of a
// hundredth more is not.
func (m *Machine) worth(k *key, target []uint32) bool {
	gain := uint32(0)
	for i := range k.parts {
		if p := &k.parts[i]; target[i] > p.units && m.wants(k, i) > p.units {
			if p.units == 0 {
				return true
			}
			gain += target[i] - p.units
		}
	}
	return gain > 0 && gain >= k.of/25
}

// calm tells whether the even division has been enough for long, and gives it.
func (m *Machine) calm(k *key) ([]uint32, bool) {
	even := make([]uint32, len(k.parts))
	for i := range k.parts {
		if m.roster.Seats[i].State == fsm.Seated {
			even[i] = m.roster.Even(k.of)
		}
		if m.wants(k, i) > m.roster.Even(k.of) {
			k.calm = 0
			return nil, false
		}
	}
	if k.calm == 0 {
		k.calm = max(m.now, 1)
	}
	return even, m.now-k.calm >= EvenAfter
}

// isEven tells whether the division is the even one, in use too: then nobody
// notices that it is dropped.
func (m *Machine) isEven(k *key) bool {
	for i := range k.parts {
		s := &m.roster.Seats[i]
		p, even := &k.parts[i], m.roster.Even(k.of)
		if s.State == fsm.Seated && p.units != even || p.held > even || s.State == fsm.Leaving && p.held > 0 {
			return false
		}
	}
	return true
}

// step goes from what is given towards the target as far as is safe now: what is
// taken away is taken at once, what is given must be free.
func (m *Machine) step(k *key, target []uint32) (units []uint32, changed bool) {
	units = make([]uint32, len(k.parts))
	room := int64(k.of)
	changed = k.force && len(k.rest) > 0
	for i := range k.parts {
		changed = changed || k.force && m.roster.Seats[i].State != fsm.Seated && k.parts[i].units > 0
		if m.roster.Seats[i].State == fsm.Seated {
			units[i] = min(k.parts[i].units, target[i])
			changed = changed || units[i] != k.parts[i].units
		}
		room -= int64(m.uses(k, i, units[i]))
	}
	if room < 0 {
		return units, changed // somebody may still use what it was given before
	}
	for i := range units {
		if target[i] <= units[i] {
			continue
		}
		most := min(int64(target[i]), int64(units[i])+room)
		for u := uint32(most); u > units[i]; u-- {
			more := int64(m.uses(k, i, u)) - int64(m.uses(k, i, units[i]))
			if more <= room {
				room -= more
				units[i], changed = u, true
				break
			}
		}
		// What it still holds of before it may be given again.
		if held := min(target[i], m.uses(k, i, units[i])); held > units[i] && !m.nodes[m.roster.Seats[i].Node].silent {
			units[i], changed = held, true
		}
	}
	return units, changed
}

// parts gives what a command says of the units of all seats.
func (m *Machine) parts(units []uint32) (list []fsm.Part) {
	for i, u := range units {
		if u > 0 {
			list = append(list, fsm.Part{Node: m.roster.Seats[i].Node, Units: u})
		}
	}
	return list
}

// regrain divides a key into as many units as the nodes do now.
func (m *Machine) regrain(k *key) fsm.ShareOp {
	units := make([]uint32, len(k.parts))
	for i := range k.parts {
		if m.roster.Seats[i].State == fsm.Seated {
			units[i] = scale(k.parts[i].units, k.of, k.next)
		}
	}
	sum := uint32(0)
	for _, u := range units {
		sum += max(u, control.Reserve(k.next))
	}
	if sum > k.next { // the floors do not fit any more: evenly
		for i := range units {
			units[i] = min(units[i], m.roster.Even(k.next))
		}
	}
	return fsm.ShareOp{Key: k.name, IfVersion: k.version, Kind: uint8(k.kind), Of: k.next, Parts: m.parts(units)}
}

// scale is so many units of another number in all, rounded down.
func scale(units, of, next uint32) uint32 { return uint32(uint64(units) * uint64(next) / uint64(of)) }

// changed takes the outcome of one operation.
func (m *Machine) changed(k *key, f *flight, i int, ev *Proposed) {
	op, out := &f.shares.Ops[i], ev.Result.Ops[i]
	if out.Code != fsm.OK {
		k.retry = m.now + retryAfter
		return
	}
	k.force = false
	if op.Drop {
		k.hot = false
		m.hot = slices.DeleteFunc(m.hot, func(h *key) bool { return h == k })
		m.drop(k)
		return
	}
	regrained := op.Of != k.of
	if regrained {
		for j := range k.parts {
			p := &k.parts[j]
			p.held = uint32((uint64(p.held)*uint64(op.Of) + uint64(k.of) - 1) / uint64(k.of))
		}
		k.of, k.next = op.Of, 0
	}
	k.version, k.rest = uint64(out.Epoch), nil
	given := fsm.Division{Parts: op.Parts}
	for j := range k.parts {
		p, name := &k.parts[j], m.roster.Seats[j].Node
		units := given.Units(name)
		if p.units == 0 && units > 0 {
			p.since = m.now
		}
		if p.units > 0 {
			p.last = m.now
		}
		if p.units != units || regrained {
			p.index = ev.Index
		}
		p.units, p.held = units, max(p.held, units)
		if f.silent[name] {
			p.held = units
		}
	}
	for _, s := range m.roster.Seats {
		k.settle(m, m.nodes[s.Node])
	}
}
