package sim

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
)

func encode(cmd fsm.Command) []byte {
	data, err := fsm.Encode(cmd)
	if err != nil {
		panic(fmt.Sprintf("sim: %T that cannot be encoded: %v", cmd, err)) // a bug of the code under test
	}
	return data
}

func opsText(ops []fsm.SegmentOp) string {
	var b strings.Builder
	names := []string{"?", "open", "seal", "reassign", "recovered", "stale", "fresh", "add", "remove", "transfer", "gone", "adopt", "write-off"}
	for _, op := range ops {
		fmt.Fprintf(&b, "[%s %v@%v %s end=%d by=%v", names[min(int(op.Kind), len(names)-1)], op.ID, op.Epoch, op.Member.Node, op.End, op.By)
		for _, m := range op.Members {
			b.WriteString(" +" + m.Node)
		}
		for _, m := range op.Stale {
			b.WriteString(" ~" + m.Node)
		}
		b.WriteString("]")
	}
	return b.String()
}

// before is what the segments that an entry names were before it.
func (c *cluster) before(data []byte) map[fsm.SegmentID]fsm.Segment {
	out := map[fsm.SegmentID]fsm.Segment{}
	cmd, err := fsm.Decode(data)
	if err != nil {
		return out
	}
	if _, renew := cmd.(fsm.Renew); renew {
		return out
	}
	if ops, ok := cmd.(fsm.SegmentOps); ok {
		for _, op := range ops.Ops {
			if g, ok := c.truth.Segment(op.ID); ok {
				out[op.ID] = g
			}
		}
		return out
	}
	for _, g := range c.truth.Segments() {
		out[g.ID] = g
	}
	return out
}

// checkChange checks what an entry has made of the segments.
func (c *cluster) checkChange(before map[fsm.SegmentID]fsm.Segment, res fsm.Result) {
	for _, id := range res.Segments {
		old, had := before[id]
		g, has := c.truth.Segment(id)
		c.dirty[uint64(id)] = true
		c.w.logf("raft %d: %v", len(c.raft.entries), segText(id, &g, has))
		if has && g.State == fsm.Recovering {
			if old.State != fsm.Recovering {
				c.recov[uint64(id)] = c.w.now
			}
		}
		if had && has {
			c.checkMove(&old, &g)
		}
		if had && !has {
			c.checkGone(&old)
		}
		if !had && has && (g.State != fsm.Open || !g.IsMember(g.Owner)) {
			c.w.fail("segment %v begins as %v", id, segText(id, &g, true))
		}
	}
}

func segText(id fsm.SegmentID, g *fsm.Segment, has bool) string {
	if !has {
		return fmt.Sprintf("%v gone", id)
	}
	s := fmt.Sprintf("%v @%v %v owner %s members", id, g.Epoch, g.State, g.Owner)
	for _, m := range g.Members {
		s += " " + m.String()
		if g.IsStale(m) {
			s += "~"
		}
	}
	if g.EndSet {
		s += fmt.Sprintf(" end %d", g.End)
	}
	return s
}

func (c *cluster) checkMove(old, g *fsm.Segment) {
	id := uint64(g.ID)
	if g.Epoch <= old.Epoch {
		c.w.fail("epoch of %v did not grow: %v, then %v", g.ID, old.Epoch, g.Epoch)
	}
	if old.EndSet && (!g.EndSet || g.End != old.End) { // I6
		c.w.fail("I6: end of %v was %d and is %d", g.ID, old.End, g.End)
	}
	if !g.IsMember(g.Owner) || !old.IsMember(g.Owner) { // I3
		c.w.fail("I3: %v is owned by %v, no member", g.ID, g.Owner)
	}
	if g.Owner != old.Owner {
		if old.IsStale(g.Owner) {
			c.stale[id] = true
		}
		c.checkOwnerSilent(old)
	}
	if old.State == fsm.Recovering && g.State == fsm.Sealed {
		c.checkFresh(g)
	}
	if g.State == fsm.Sealed && len(g.Stale) > 0 && g.IsStale(g.Owner) {
		c.w.fail("the owner of %v is stale", g.ID)
	}
	for _, m := range g.Members {
		if old.IsMember(m) {
			continue
		}
		if !g.IsStale(m) {
			c.w.fail("I3: %v became a member of %v fresh", m, g.ID)
		}
		if c.stores[m] == nil { // a disk that was lost a moment ago nobody can know about
			c.w.fail("I7: %v became a member of %v with a disk that never was", m, g.ID)
		}
	}
}

// checkOwnerSilent is I4: nobody takes a segment from a node that may hold a
// lease. A Transfer is the owner's own deed: it has stopped before.
func (c *cluster) checkOwnerSilent(old *fsm.Segment) {
	for _, n := range c.nodes {
		if n.name == old.Owner.Node && n.ref == old.Owner && n.proc != nil && n.proc.m.Delivers(n.now(), old.ID) {
			c.w.fail("I4: %v was taken from %v, which may deliver", old.ID, old.Owner)
		}
	}
	for _, x := range c.ghosts {
		if x.ref == old.Owner && x.m.Delivers(x.clock.local(c.w.now), old.ID) {
			c.w.fail("I4: %v was taken from %v, which may deliver", old.ID, x.name)
		}
	}
}

func (c *cluster) checkGone(old *fsm.Segment) {
	for _, m := range c.bySeg[uint64(old.ID)] {
		if m.delivered == 0 {
			c.w.fail("I6: %v is gone with m%d in it", old.ID, m.id)
		}
	}
	delete(c.bySeg, uint64(old.ID))
}

// checkAck is I1 and I10: a 250 is on its way.
func (c *cluster) checkAck(p *process, o *owned, m *message) {
	id := fsm.SegmentID(o.seg)
	if !c.o.LeaseFree && !p.m.Holds(p.n.now()) {
		c.w.fail("I1: %s answers 250 to m%d without a lease", p.n.name, m.id)
	}
	g, ok := c.truth.Segment(id)
	if !ok {
		c.w.fail("I1: 250 for m%d in %v, which is gone", m.id, id)
		return
	}
	if g.EndSet && m.commit > g.End {
		c.w.fail("I1: 250 for m%d at %d of %v, which ends at %d", m.id, m.commit, id, g.End)
	}
	if len(g.Members) < c.wanted() && g.State == fsm.Open && !c.scarce() {
		c.w.fail("I1: 250 for m%d with %d members", m.id, len(g.Members))
	}
	for _, r := range g.Members {
		if s := c.stores[r]; s != nil && !s.lost && !s.disk.holds(m) {
			c.w.fail("I1: 250 for m%d at %d-%d of %v, and %v does not have it on its disk", m.id, m.first, m.commit, id, r)
		}
	}
	c.bySeg[o.seg] = append(c.bySeg[o.seg], m)
	c.dirty[o.seg] = true
}

func (c *cluster) wanted() int { return min(c.o.Copies, 2) }

// scarce is whether there may rightly be fewer copies than wanted.
func (c *cluster) scarce() bool {
	return c.o.Nodes < 3 || c.truth.Copies() < c.o.Copies || len(c.truth.Nodes()) < 3 || c.w.now < 20*time.Second
}

// checkDot is I5, I6 and I9: a final dot goes out.
func (c *cluster) checkDot(p *process, o *owned, d *delivery) {
	id := fsm.SegmentID(o.seg)
	c.checkSole(id)
	epoch := p.n.store.mem.seg(o.seg).rec0.Epoch
	if f, ok := c.fences[o.seg]; ok && f.node != p.n.name && f.epoch > epoch {
		c.w.fail("I5: %s delivers from %v at epoch %v after %s did at %v", p.n.name, id, epoch, f.node, f.epoch)
	}
	c.fences[o.seg] = fence{p.n.name, epoch}
	g, ok := c.truth.Segment(id)
	if ok && g.EndSet && d.commit > g.End {
		c.w.fail("I6: %s delivers m%d at %d of %v, which ends at %d", p.n.name, d.m.id, d.commit, id, g.End)
	}
	if ok && g.State == fsm.Open && !(d.m.acked && d.m.seg == o.seg) {
		c.w.fail("%s delivers m%d from the open %v before it was acknowledged", p.n.name, d.m.id, id)
	}
	if d.m.settled && d.m.seg == o.seg && !c.stale[o.seg] {
		c.w.fail("I9: %s delivers m%d from %v again", p.n.name, d.m.id, id)
	}
}

// checkSole is I5: at most one node may deliver from a segment at this moment.
func (c *cluster) checkSole(id fsm.SegmentID) {
	who := ""
	for _, n := range c.nodes {
		if n.proc == nil || !n.proc.m.Delivers(n.now(), id) {
			continue
		}
		if who != "" {
			c.w.fail("I5: %s and %s may both deliver from %v", who, n.name, id)
		}
		who = n.name
	}
	for _, x := range c.ghosts {
		if who != "" && x.m.Delivers(x.clock.local(c.w.now), id) {
			c.w.fail("I5: %s and %s may both deliver from %v", who, x.name, id)
		}
	}
}

// checkFresh is the second half of I2, when a takeover has ended: fresh
// members hold all that the new owner holds up to the end, and know as
// finished what it knows as finished. A member that got its copy from an owner
// that had delivered more may know more.
func (c *cluster) checkFresh(g *fsm.Segment) {
	own := c.stores[g.Owner]
	if own == nil || own.lost || own.disk.segs[uint64(g.ID)] == nil {
		return
	}
	h := own.disk.segs[uint64(g.ID)]
	for _, r := range g.Members {
		s := c.stores[r]
		if r == g.Owner || !g.IsFresh(r) || s == nil || s.lost {
			continue
		}
		o := s.disk.seg(uint64(g.ID))
		for _, commit := range sortedKeys(h.results) {
			res := h.results[commit]
			if _, live := o.recs[commit]; res.final && commit <= g.End && live && !o.results[commit].final {
				c.w.fail("I2: %v is called fresh in %v and has %d as not finished", r, g.ID, commit)
			}
		}
		for _, commit := range h.whole() {
			if _, live := o.recs[commit]; commit <= g.End && !live && !o.results[commit].final && c.msgs[h.recs[commit].msg].delivered == 0 {
				c.w.fail("I2: %v is called fresh in %v and lacks %d", r, g.ID, commit)
			}
		}
	}
}

func (c *cluster) delivered(m *message) {
	m.delivered++
	if m.delivered > 1 {
		c.w.logf("m%d delivered %d times", m.id, m.delivered)
	}
}

// check checks all that the last step may have touched.
func (c *cluster) check() {
	if c.all {
		c.all = false
		for seg := range c.bySeg {
			c.dirty[seg] = true
		}
	}
	if len(c.dirty) == 0 {
		return
	}
	for _, seg := range slices.Sorted(maps.Keys(c.dirty)) {
		c.checkSegment(seg)
	}
	clear(c.dirty)
}

// checkSegment is I2, I6 and I7: every acknowledged message that was not
// delivered is on the disk of every member; and no disk says that it was
// finished.
func (c *cluster) checkSegment(seg uint64) {
	list := c.bySeg[seg]
	if len(list) == 0 {
		return
	}
	c.checkSole(fsm.SegmentID(seg))
	g, ok := c.truth.Segment(fsm.SegmentID(seg))
	if !ok {
		return
	}
	for _, m := range list {
		if m.delivered > 0 {
			continue
		}
		if g.EndSet && m.commit > g.End {
			c.w.fail("I6: %v ends at %d, but m%d at %d was acknowledged", g.ID, g.End, m.id, m.commit)
		}
		for _, r := range g.Members {
			s := c.stores[r]
			if s == nil || s.lost {
				continue
			}
			if !s.disk.holds(m) {
				c.w.fail("I2: m%d at %d-%d of %v is not on the disk of %v", m.id, m.first, m.commit, g.ID, r)
			}
			if h := s.disk.segs[seg]; h != nil && h.results[m.commit].final {
				c.w.fail("I6: %v has m%d of %v as finished, which was never delivered", r, m.id, g.ID)
			}
		}
	}
}

// checkSettled hears the owner say that a result is durable on all fresh
// members. It may not be the owner any more; if it is, they have it.
func (c *cluster) checkSettled(p *process, seg uint64, f finding) {
	if !f.r.final {
		return
	}
	for _, m := range c.bySeg[seg] {
		if m.commit == f.commit {
			m.settled = true
		}
	}
	g, ok := c.truth.Segment(fsm.SegmentID(seg))
	if !ok || g.Owner != p.n.ref {
		return
	}
	for _, r := range g.Members {
		s := c.stores[r]
		if !g.IsFresh(r) || s == nil || s.lost || s.disk.segs[seg] == nil {
			continue
		}
		h := s.disk.segs[seg]
		if _, live := h.recs[f.commit]; live && !h.results[f.commit].final {
			c.w.fail("I9: %s says that the result of %d in %v is on all disks, and %v does not have it", p.n.name, f.commit, g.ID, r)
		}
	}
}

// unwell says what is not as it must be once all was mended and some time has
// gone by; empty: all is well.
func (c *cluster) unwell() string {
	for _, m := range c.msgs {
		if m.acked && m.delivered == 0 {
			return fmt.Sprintf("m%d in %v was acknowledged and is not delivered", m.id, fsm.SegmentID(m.seg))
		}
	}
	for _, n := range c.truth.Nodes() {
		if n.State != fsm.Alive { // the operator's order came late
			c.operator(fsm.NodeChange{Node: n.Name, Verb: fsm.NodeResume})
			return n.Name + " is " + n.State.String()
		}
	}
	for _, g := range c.truth.Segments() {
		if c.beyond(&g) {
			continue
		}
		if g.State == fsm.Recovering || len(g.Stale) > 0 || !c.truth.Current(g.Owner) {
			return segText(g.ID, &g, true)
		}
		if n, ok := c.truth.NodeOf(g.ID.Session()); g.State == fsm.Open && (!ok || n.Ref() != g.Owner) {
			return segText(g.ID, &g, true) + " is open and its opener is gone"
		}
		if len(g.Members) < c.truth.Copies() {
			return segText(g.ID, &g, true) + " has too few members"
		}
		for _, m := range g.Members {
			if !c.truth.Current(m) {
				return segText(g.ID, &g, true) + " has a member that is gone"
			}
		}
		if g.State == fsm.Sealed && c.finished(&g) {
			return segText(g.ID, &g, true) + " is finished and not gone" + c.ownerText(&g)
		}
	}
	return ""
}

// ownerText is what the owner's process thinks of a segment.
func (c *cluster) ownerText(g *fsm.Segment) string {
	for _, n := range c.nodes {
		if n.ref != g.Owner || n.proc == nil {
			continue
		}
		if o := n.proc.owned[uint64(g.ID)]; o != nil {
			return fmt.Sprintf(" (delivers %v, paused %v, empty %v, %d arriving, %d waiting, due %v, %d attempts)",
				o.delivers, o.paused, o.empty, o.arriving, len(o.waiting), sortedKeys(o.due), o.attempts)
		}
	}
	return ""
}

// beyond is whether no member's disk is left: only an operator could end the
// segment. No disk with a message is lost so; but one may go before the Open
// commits that names it.
func (c *cluster) beyond(g *fsm.Segment) bool {
	for _, r := range g.Members {
		if s := c.stores[r]; s != nil && !s.lost {
			return false
		}
	}
	return true
}

// finished is whether nothing in a segment is left to deliver at its owner.
func (c *cluster) finished(g *fsm.Segment) bool {
	s := c.stores[g.Owner]
	return s != nil && s.disk.segs[uint64(g.ID)] != nil && len(s.disk.segs[uint64(g.ID)].whole()) == 0
}
