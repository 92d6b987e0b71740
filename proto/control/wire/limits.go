package wire

import (
	"github.com/clrelay/clrelay/proto/control"
	controlv1 "github.com/clrelay/clrelay/proto/control/v1"
)

func putShares(c control.ShareOps) *controlv1.ShareOps {
	m := &controlv1.ShareOps{Reign: c.Reign, Claim: c.Claim, Ops: make([]*controlv1.ShareOp, len(c.Ops))}
	if c.Roster != nil {
		m.Roster = PutRoster(c.Roster)
	}
	for i := range c.Ops {
		o := &c.Ops[i]
		m.Ops[i] = &controlv1.ShareOp{
			Key: o.Key, IfVersion: o.IfVersion, Drop: o.Drop, Kind: uint32(o.Kind), Of: o.Of, Parts: putParts(o.Parts),
		}
	}
	return m
}

func getShares(m *controlv1.ShareOps) (control.Command, bool) {
	if len(m.GetOps()) > control.MaxOps {
		return nil, false
	}
	c := control.ShareOps{Reign: m.GetReign(), Claim: m.GetClaim(), Ops: make([]control.ShareOp, len(m.GetOps()))}
	if m.GetRoster() != nil {
		r, ok := GetRoster(m.GetRoster())
		if !ok {
			return nil, false
		}
		c.Roster = &r
	}
	for i, x := range m.GetOps() {
		parts, ok := getParts(x.GetParts())
		if !ok || x.GetKind() > 255 {
			return nil, false
		}
		c.Ops[i] = control.ShareOp{
			Key: x.GetKey(), IfVersion: x.GetIfVersion(), Drop: x.GetDrop(), Kind: uint8(x.GetKind()), Of: x.GetOf(), Parts: parts,
		}
	}
	return c, true
}

// PutRoster gives the message of a roster.
func PutRoster(r *control.Roster) *controlv1.Roster {
	m := &controlv1.Roster{Version: r.Version, Founded: r.Founded}
	for _, s := range r.Seats {
		m.Seats = append(m.Seats, &controlv1.Seat{Node: s.Node, State: controlv1.SeatState(s.State)})
	}
	return m
}

// GetRoster reads it; ok is false where it has a state that is none, or far too
// many seats.
func GetRoster(m *controlv1.Roster) (r control.Roster, ok bool) {
	if len(m.GetSeats()) > control.MaxSeats+1 { // one too many is told apart from nonsense
		return r, false
	}
	r = control.Roster{Version: m.GetVersion(), Founded: m.GetFounded()}
	for _, s := range m.GetSeats() {
		state, fits := small(int32(s.GetState()))
		if !fits {
			return r, false
		}
		r.Seats = append(r.Seats, control.Seat{Node: s.GetNode(), State: control.SeatState(state)})
	}
	return r, true
}

func putParts(list []control.Part) []*controlv1.Part {
	flat, out := make([]controlv1.Part, len(list)), make([]*controlv1.Part, len(list))
	for i, p := range list {
		flat[i].Node, flat[i].Units = p.Node, p.Units
		out[i] = &flat[i]
	}
	return out
}

func getParts(list []*controlv1.Part) ([]control.Part, bool) {
	if len(list) > control.MaxSeats+1 {
		return nil, false
	}
	if len(list) == 0 {
		return nil, true
	}
	out := make([]control.Part, len(list))
	for i, p := range list {
		out[i] = control.Part{Node: p.GetNode(), Units: p.GetUnits()}
	}
	return out, true
}

func putBudgets(c control.BudgetOps) *controlv1.BudgetOps {
	m := &controlv1.BudgetOps{AtMs: c.AtMS, Grants: make([]*controlv1.BudgetGrant, len(c.Grants))}
	for i, g := range c.Grants {
		m.Grants[i] = &controlv1.BudgetGrant{Key: g.Key, PerS: g.PerS, Amount: g.Amount, Node: g.Node, Session: uint64(g.Session), N: g.N}
	}
	return m
}

func getBudgets(m *controlv1.BudgetOps) (control.Command, bool) {
	if len(m.GetGrants()) > control.MaxOps {
		return nil, false
	}
	c := control.BudgetOps{AtMS: m.GetAtMs(), Grants: make([]control.BudgetGrant, len(m.GetGrants()))}
	for i, g := range m.GetGrants() {
		c.Grants[i] = control.BudgetGrant{
			Key: g.GetKey(), PerS: g.GetPerS(), Amount: g.GetAmount(), Node: g.GetNode(), Session: control.Session(g.GetSession()), N: g.GetN(),
		}
	}
	return c, true
}

// PutLimits gives the message of what a State holds about limits; nil where
// that is nothing.
func PutLimits(l *control.Limits) *controlv1.Limits {
	if l.Version == 0 && l.Reign == 0 && l.ClockMS == 0 && len(l.Budgets) == 0 {
		return nil
	}
	m := &controlv1.Limits{
		Reign: l.Reign, Version: l.Version, Roster: PutRoster(&l.Roster), ClockMs: l.ClockMS,
		Divisions: make([]*controlv1.Division, len(l.Divisions)), Budgets: make([]*controlv1.Budget, len(l.Budgets)),
	}
	for i := range l.Divisions {
		d := &l.Divisions[i]
		m.Divisions[i] = &controlv1.Division{Key: d.Key, Kind: uint32(d.Kind), Of: d.Of, Parts: putParts(d.Parts), Version: d.Version}
	}
	for i := range l.Budgets {
		b := &l.Budgets[i]
		x := &controlv1.Budget{Key: b.Key, PerS: b.PerS, Window: b.Window, Granted: b.Granted}
		for _, p := range b.Parts {
			x.Parts = append(x.Parts, &controlv1.BudgetPart{Node: p.Node, Session: uint64(p.Session), Granted: p.Granted})
		}
		m.Budgets[i] = x
	}
	return m
}

// GetLimits reads it.
func GetLimits(m *controlv1.Limits) (l control.Limits, ok bool) {
	r, ok := GetRoster(m.GetRoster())
	if !ok || len(m.GetDivisions()) > control.MaxDivisions || len(m.GetBudgets()) > control.MaxBudgets {
		return l, false
	}
	l = control.Limits{Reign: m.GetReign(), Version: m.GetVersion(), Roster: r, ClockMS: m.GetClockMs()}
	l.Divisions = make([]control.Division, len(m.GetDivisions()))
	for i, x := range m.GetDivisions() {
		parts, ok := getParts(x.GetParts())
		if !ok || x.GetKind() > 255 {
			return l, false
		}
		l.Divisions[i] = control.Division{Key: x.GetKey(), Kind: uint8(x.GetKind()), Of: x.GetOf(), Parts: parts, Version: x.GetVersion()}
	}
	l.Budgets = make([]control.Budget, len(m.GetBudgets()))
	for i, x := range m.GetBudgets() {
		b := control.Budget{Key: x.GetKey(), PerS: x.GetPerS(), Window: x.GetWindow(), Granted: x.GetGranted()}
		for _, p := range x.GetParts() {
			b.Parts = append(b.Parts, control.BudgetPart{Node: p.GetNode(), Session: control.Session(p.GetSession()), Granted: p.GetGranted()})
		}
		l.Budgets[i] = b
	}
	return l, true
}
