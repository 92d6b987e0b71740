package fsm

import (
	"slices"
	"time"
)

func (s *State) register(index uint64, c Register) Result {
	i := c.Info
	if c.Node == "" || !validText(c.Node, i.Address, i.SMTP, i.Zone, i.Version, i.BootID, i.MachineID) {
		return refuse(Malformed)
	}
	n := s.nodes[c.Node]
	if n != nil {
		if at := slices.Index(n.nonces, c.Nonce); at >= 0 {
			if at == len(n.nonces)-1 && n.Store == c.Store && n.Lease.Session != 0 && n.State != Removed && !n.Lost {
				return Result{Session: n.Lease.Session}
			}
			return refuse(OldNonce)
		}
		// A node that a new generation began without may come back with its disk:
		// it has not told yet what is on it.
		if n.Store == c.Store && (n.State == Removed && n.Inventoried || n.Lost) {
			return refuse(NodeNotAlive)
		}
	}
	switch {
	case i.Features < s.level:
		return refuse(FeatureMissing)
	case s.lastN == maxSessionN, n == nil && !s.makeRoom():
		return refuse(LimitReached)
	}
	if n == nil {
		n = &node{held: map[SegmentID]struct{}{}, owned: map[StoreID]counts{}}
		n.Name, n.Store, n.State = c.Node, c.Store, Alive
		n.Inventoried = s.generation == firstGeneration
		s.nodes[n.Name] = n
	}
	s.lastN++
	s.begin(n, index, c)
	r := Result{Session: n.Lease.Session, Nodes: []string{n.Name}}
	for id := range n.held {
		if g := s.segments[id]; g.State == Open && g.Owner == n.Ref() {
			r.Segments = append(r.Segments, id)
		}
	}
	slices.Sort(r.Segments)
	for _, id := range r.Segments {
		g := s.segments[id]
		s.count(g, -1)
		g.State = Recovering
		s.count(g, 1)
		s.raise(g)
	}
	s.recount()
	return r
}

// begin makes the newly given session the node's.
func (s *State) begin(n *node, index uint64, c Register) {
	delete(s.sessions, n.Lease.Session)
	sameHost := c.Store == n.Store && c.Info.BootID != "" && c.Info.MachineID != "" &&
		c.Info.BootID == n.Info.BootID && c.Info.MachineID == n.Info.MachineID
	old := n.Lease
	n.endSession(index, s.settings.G)
	if sameHost && old.Beacon > 0 {
		// The lock on the data_dir says that the process that held the last
		// lease is gone, and all before it were waited for.
		n.Waits, n.WaitsG = 0, 0
	}
	if n.Store != c.Store {
		n.Former = append(slices.Clone(n.Former), Former{Store: n.Store, Lease: old})
		n.Former = slices.DeleteFunc(n.Former, func(f Former) bool { return f.Store == c.Store })
		n.Store, n.Lost, n.Inventoried = c.Store, false, s.generation == firstGeneration
		n.prune()
	}
	if n.State == Removed {
		n.State, n.removedAt = Alive, 0
	}
	n.Lease.Session = Session(s.generation)<<24 | Session(s.lastN)
	n.Info, n.Opened = c.Info, 0
	n.nonces = append(slices.Clone(n.nonces), c.Nonce)
	if over := len(n.nonces) - keepNonces; over > 0 {
		n.nonces = slices.Delete(n.nonces, 0, over)
	}
	s.sessions[n.Lease.Session] = n
}

// endSession turns the node's lease into one that nobody holds, to be waited
// for from index on, and notes whose end the next first lease has to wait for.
func (n *node) endSession(index uint64, g time.Duration) {
	old := n.Lease
	if old.Beacon > 0 {
		n.Waits, n.WaitsG = old.Renewed, old.G
	}
	n.Lease = Lease{Renewed: index, G: max(g, old.G)}
}

// makeRoom makes sure that one more node fits: it forgets the node that was
// removed first of those that no segment names.
func (s *State) makeRoom() bool {
	if len(s.nodes) < MaxNodes {
		return true
	}
	var first *node
	for _, n := range s.nodes {
		if n.State == Removed && len(n.held) == 0 && (first == nil || n.removedAt < first.removedAt) {
			first = n
		}
	}
	if first == nil {
		return false
	}
	delete(s.nodes, first.Name)
	return true
}

func (s *State) renew(index uint64, c Renew) Result {
	var r Result
	for _, b := range c.Renewals {
		n := s.sessions[b.Session]
		if n == nil || n.Name != b.Node || b.Beacon == 0 {
			continue
		}
		g := s.settings.G
		if n.Lease.Beacon > 0 {
			g = max(g, n.Lease.G)
		}
		n.Lease.Renewed, n.Lease.Beacon, n.Lease.G = index, max(n.Lease.Beacon, b.Beacon), g
		n.Waits, n.WaitsG = 0, 0
		if !slices.Contains(r.Nodes, n.Name) {
			r.Nodes = append(r.Nodes, n.Name)
		}
	}
	return r
}

func (s *State) nodeChange(index uint64, c NodeChange) Result {
	n := s.nodes[c.Node]
	if n == nil {
		return refuse(UnknownNode)
	}
	if code := s.changeNode(n, index, c); code != OK {
		return refuse(code)
	}
	s.recount()
	return Result{Nodes: []string{n.Name}}
}

func (s *State) changeNode(n *node, index uint64, c NodeChange) Code {
	switch c.Verb {
	case NodeDrain:
		if n.State != Alive {
			return WrongState
		}
		if n.Lost {
			return NodeNotAlive
		}
		if s.alive-1 < s.copies {
			return TooFewCopies
		}
		n.State = Draining
	case NodeDrained:
		switch {
		case s.sessions[c.By] != n:
			return OldSession
		case n.State != Draining:
			return WrongState
		case len(n.held) > 0:
			return StillHolds
		}
		n.State = Drained
	case NodeResume:
		if n.State != Draining && n.State != Drained {
			return WrongState
		}
		n.State = Alive
	case NodeRemove:
		return s.removeNode(n, index, c)
	case NodeLost:
		switch {
		case n.Store != c.Store:
			return UnknownNode
		case n.State == Removed || n.Lost:
			return WrongState
		case n.Lease.Renewed > c.Renewed:
			return RenewedSince
		}
		n.Lost = true
		delete(s.sessions, n.Lease.Session)
	case NodeInventoried:
		switch {
		case s.sessions[c.By] != n:
			return OldSession
		case n.Inventoried:
			return WrongState
		}
		n.Inventoried = true
	default:
		return Malformed
	}
	return OK
}

func (s *State) removeNode(n *node, index uint64, c NodeChange) Code {
	others := 0
	for _, x := range s.nodes {
		if x != n && x.State != Removed {
			others++
		}
	}
	switch {
	case n.State == Removed:
		return WrongState
	case others == 0:
		return TooFewCopies
	case !c.Force && n.State != Drained:
		return WrongState
	case !c.Force && len(n.held) > 0:
		return StillHolds
	case c.Force && n.State != Drained && n.Lease.Renewed > c.Renewed:
		return RenewedSince
	}
	n.State, n.removedAt = Removed, index
	delete(s.sessions, n.Lease.Session)
	return OK
}
