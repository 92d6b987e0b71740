package fsm

import (
	"slices"

	"github.com/clrelay/clrelay/proto/control"
)

func (s *State) segmentOps(c SegmentOps) Result {
	r := Result{Ops: make([]OpResult, len(c.Ops)), Segments: make([]SegmentID, 0, len(c.Ops))}
	for i := range c.Ops {
		o := &c.Ops[i]
		code := s.segmentOp(o)
		r.Ops[i].Code = code
		if g := s.segments[o.ID]; g != nil {
			r.Ops[i].Epoch = g.Epoch
		}
		if code == OK {
			r.Segments = append(r.Segments, o.ID)
		}
	}
	slices.Sort(r.Segments)
	r.Segments = slices.Compact(r.Segments)
	return r
}

// segmentOp does one operation, or refuses it and changes nothing.
func (s *State) segmentOp(o *SegmentOp) Code {
	switch o.Kind {
	case OpOpen:
		return s.open(o)
	case OpAdopt:
		return s.adopt(o)
	}
	g := s.segments[o.ID]
	switch {
	case o.Kind == 0 || o.Kind > OpWriteOff:
		return Malformed
	case g == nil:
		return UnknownSegment
	case g.Epoch != o.Epoch:
		return WrongEpoch
	case o.Kind == OpReassign:
		return s.reassign(g, o)
	case o.Kind == OpWriteOff:
		return s.writeOff(g, o)
	case !s.speaksFor(g, o.By):
		return OldSession
	}
	switch o.Kind {
	case OpSeal:
		return s.seal(g, o)
	case OpRecovered:
		return s.recovered(g, o)
	case OpGone:
		return s.gone(g)
	case OpStale, OpFresh:
		return s.mark(g, o)
	case OpAddMember:
		return s.addMember(g, o)
	case OpRemoveMember:
		return s.removeMember(g, o)
	case OpTransfer:
		return s.transfer(g, o)
	}
	return Malformed
}

// speaksFor says whether by is the newest session of g's owner.
func (s *State) speaksFor(g *Segment, by Session) bool {
	n := s.sessions[by]
	return n != nil && n.Store == g.Owner.Store && n.Name == g.Owner.Node
}

func (s *State) open(o *SegmentOp) Code {
	n := s.sessions[o.By]
	switch {
	case n == nil:
		return OldSession
	case !o.ID.Replicated() || o.ID.Session() != o.By || o.ID.N() == 0 || o.Epoch != 0:
		return Malformed
	case o.ID.N() <= n.Opened:
		return StaleID
	case n.State != Alive && n.State != Draining:
		return NodeNotAlive
	case len(o.Members) > MaxMembers || len(s.segments) >= MaxSegments || n.owned[n.Store].open >= MaxOpen:
		return LimitReached
	case !slices.Contains(o.Members, n.Ref()) || control.Repeats(o.Members):
		return Malformed
	}
	for i, m := range o.Members {
		x, ok := s.current(m)
		switch {
		case !ok:
			return UnknownNode
		case x != n && x.State != Alive:
			return NodeNotAlive
		}
		o.Members[i].Node = x.Name // one string for all records
	}
	n.Opened = o.ID.N()
	g := &Segment{ID: o.ID, Owner: n.Ref(), Members: o.Members, State: Open}
	s.raise(g)
	s.insert(g)
	return OK
}

// adopt brings a record back that a backup or a lost quorum did not know, or
// that was written off.
func (s *State) adopt(o *SegmentOp) Code {
	n, off := s.sessions[o.By], s.writtenOff[o.ID]
	switch {
	case n == nil:
		return OldSession
	case off != nil && !off.IsMember(n.Ref()), off == nil && n.Inventoried:
		return WrongState
	case !o.ID.Replicated() || o.ID.N() == 0 || off == nil && o.ID.Session().Generation() >= s.generation || control.Repeats(o.Members) || o.Epoch != 0:
		return Malformed
	case len(o.Members) > MaxMembers || len(s.segments) >= MaxSegments:
		return LimitReached
	}
	me := n.Ref()
	if g := s.segments[o.ID]; g != nil {
		switch {
		case g.IsMember(me):
			return AlreadyMember
		case len(g.Members) >= MaxMembers:
			return LimitReached
		}
		g.Members, g.Stale = control.With(g.Members, me), control.With(g.Stale, me)
		s.hold(me, g.ID)
		s.raise(g)
		return OK
	}
	g := &Segment{ID: o.ID, Members: o.Members, EndSet: o.EndSet}
	if o.EndSet {
		g.End = o.End
	}
	if off != nil {
		kept := *off
		g = &kept
	}
	forgotten := func(r Ref) bool { return s.nodes[r.Node] == nil }
	g.Members, g.Stale = slices.DeleteFunc(control.Without(g.Members, me), forgotten), slices.DeleteFunc(slices.Clone(g.Stale), forgotten)
	if len(g.Members) == MaxMembers {
		return LimitReached
	}
	for i := range g.Members {
		g.Members[i].Node = s.nodes[g.Members[i].Node].Name
	}
	g.Owner, g.State, g.Members = me, Recovering, append(g.Members, me)
	s.raise(g)
	s.insert(g)
	delete(s.writtenOff, g.ID)
	return OK
}

// writeOff takes a record out that no store can speak for. It is kept aside: a
// disk may turn up after all, and must not take its mail for finished.
func (s *State) writeOff(g *Segment, o *SegmentOp) Code {
	lease, _ := s.LeaseOf(g.Owner)
	switch {
	case o.By != 0:
		return Malformed
	case s.missing > 0:
		return InventoryMissing
	case !s.lost(g):
		return CopyLeft
	case lease.Renewed > o.Renewed:
		return RenewedSince
	case len(s.writtenOff) >= MaxWrittenOff:
		return LimitReached
	}
	s.raise(g)
	kept := *g
	s.remove(g)
	s.left(kept.Owner)
	s.writtenOff[kept.ID] = &kept
	return OK
}

func (s *State) seal(g *Segment, o *SegmentOp) Code {
	if g.State != Open {
		return WrongState
	}
	s.setState(g, Sealed)
	g.End, g.EndSet = o.End, true
	s.raise(g)
	return OK
}

func (s *State) recovered(g *Segment, o *SegmentOp) Code {
	switch {
	case g.State != Recovering:
		return WrongState
	case g.EndSet && g.End != o.End:
		return EndDiffers
	case len(o.Stale) > len(g.Members) || slices.Contains(o.Stale, g.Owner) || control.Repeats(o.Stale):
		return Malformed
	}
	for i, m := range o.Stale {
		at := slices.Index(g.Members, m)
		if at < 0 {
			return NotMember
		}
		o.Stale[i].Node = g.Members[at].Node
	}
	s.setState(g, Sealed)
	g.End, g.EndSet, g.Stale = o.End, true, o.Stale
	if len(o.Stale) == 0 {
		g.Stale = nil
	}
	s.raise(g)
	return OK
}

func (s *State) reassign(g *Segment, o *SegmentOp) Code {
	lease, ok := s.LeaseOf(g.Owner)
	_, current := s.current(o.Member)
	switch {
	case o.By != 0:
		return Malformed
	case g.State != Recovering && (!ok || lease.Session != o.Silent):
		return OldSession
	case g.State != Recovering && lease.Renewed > o.Renewed:
		return RenewedSince
	case o.Member == g.Owner:
		return WrongState
	case !g.IsMember(o.Member), g.IsStale(o.Member) && !o.Unclean:
		return NotMember
	case !current:
		return UnknownNode
	}
	s.setOwner(g, o.Member, Recovering)
	return OK
}

func (s *State) gone(g *Segment) Code {
	switch {
	case g.State != Sealed:
		return WrongState
	case s.missing > 0:
		return InventoryMissing
	}
	owner := g.Owner
	s.remove(g)
	s.left(owner)
	return OK
}

// mark makes a member stale or fresh.
func (s *State) mark(g *Segment, o *SegmentOp) Code {
	switch {
	case g.State == Recovering:
		return WrongState
	case !g.IsMember(o.Member):
		return NotMember
	case o.Member == g.Owner || g.IsStale(o.Member) == (o.Kind == OpStale):
		return WrongState
	}
	if o.Kind == OpStale {
		g.Stale = control.With(g.Stale, g.Members[slices.Index(g.Members, o.Member)])
	} else {
		g.Stale = control.Without(g.Stale, o.Member)
	}
	s.raise(g)
	return OK
}

func (s *State) addMember(g *Segment, o *SegmentOp) Code {
	n, ok := s.current(o.Member)
	switch {
	case g.State != Sealed:
		return WrongState
	case g.IsMember(o.Member):
		return AlreadyMember
	case !ok:
		return UnknownNode
	case n.State != Alive:
		return NodeNotAlive
	case len(g.Members) >= MaxMembers:
		return LimitReached
	}
	g.Members, g.Stale = control.With(g.Members, n.Ref()), control.With(g.Stale, n.Ref())
	s.hold(o.Member, g.ID)
	s.raise(g)
	return OK
}

func (s *State) removeMember(g *Segment, o *SegmentOp) Code {
	switch {
	case g.State != Sealed || o.Member == g.Owner:
		return WrongState
	case !g.IsMember(o.Member):
		return NotMember
	}
	fresh := 0
	for _, m := range g.Members {
		if _, ok := s.current(m); ok && m != o.Member && !g.IsStale(m) {
			fresh++
		}
	}
	if fresh < s.copies {
		return TooFewCopies
	}
	g.Members, g.Stale = control.Without(g.Members, o.Member), control.Without(g.Stale, o.Member)
	s.release(o.Member, g)
	s.raise(g)
	return OK
}

func (s *State) transfer(g *Segment, o *SegmentOp) Code {
	n, ok := s.current(o.Member)
	switch {
	case g.State != Sealed || o.Member == g.Owner:
		return WrongState
	case !g.IsFresh(o.Member):
		return NotMember
	case !ok:
		return UnknownNode
	case n.State != Alive:
		return NodeNotAlive
	}
	s.setOwner(g, n.Ref(), Sealed)
	return OK
}

// setState changes the state alone.
func (s *State) setState(g *Segment, to SegmentState) {
	s.count(g, -1)
	g.State = to
	s.count(g, 1)
}

// setOwner gives g to another member.
func (s *State) setOwner(g *Segment, to Ref, state SegmentState) {
	from := g.Owner
	s.count(g, -1)
	g.Owner, g.State = g.Members[slices.Index(g.Members, to)], state
	s.count(g, 1)
	s.raise(g)
	s.left(from)
}

// left forgets a former store that owns nothing any more.
func (s *State) left(r Ref) {
	if n := s.nodes[r.Node]; n != nil && n.Store != r.Store && n.owned[r.Store].all == 0 {
		n.prune()
	}
}
