package fsm

import (
	"fmt"
	"slices"
	"unicode/utf8"
)

// Apply applies one entry of the log. It never panics, whatever data holds,
// and its outcome depends on nothing but the state and its arguments.
// A Result with Fatal set means that nothing was applied and nothing may be
// applied any more by this program.
func (s *State) Apply(index uint64, data []byte) Result {
	s.applied = index
	c, level, err := decode(data)
	switch {
	case level > s.level:
		return refuse(LevelTooLow)
	case level > s.known:
		return Result{Code: Malformed, Fatal: true, Text: tooNew(level, s.known)}
	case err != nil:
		return refuse(Malformed)
	}
	switch c := c.(type) {
	case Register:
		return s.register(index, c)
	case Renew:
		return s.renew(index, c)
	case SegmentOps:
		return s.segmentOps(c)
	case NodeChange:
		return s.nodeChange(index, c)
	case ConfigApply:
		return s.configApply(c)
	case SettingsApply:
		return s.settingsApply(c)
	case FeatureRaise:
		return s.featureRaise(c)
	case GenerationBump:
		return s.generationBump(index, c)
	case RecordPut:
		return s.recordPut(c)
	case AuditAppend:
		return s.auditAppend(c)
	case ShareOps:
		return s.shares.Share(c)
	case BudgetOps:
		return s.shares.Grant(c)
	case SuppressOps:
		return Result{Ops: s.suppressed.Do(&c)}
	}
	return refuse(Malformed)
}

// tooNew says why a program cannot follow the log any more.
func tooNew(level, known uint32) string {
	return fmt.Sprintf("the cluster's feature level is %d and this program knows %d", level, known)
}

func refuse(c Code) Result { return Result{Code: c, Text: c.String()} }

func (s *State) configApply(c ConfigApply) Result {
	k := c.Config
	var newest uint64
	if last, ok := s.Config(); ok {
		newest = last.Version
	}
	switch {
	case k.Version != newest+1:
		return refuse(WrongVersion)
	case len(k.Text) > MaxConfigText || len(k.Author) > MaxReason || len(k.Reason) > MaxReason:
		return refuse(LimitReached)
	}
	s.configs = append(slices.Clone(s.configs), k)
	if over := len(s.configs) - KeepConfigs; over > 0 {
		s.configs = slices.Delete(s.configs, 0, over)
	}
	return Result{Cluster: true}
}

func (s *State) settingsApply(c SettingsApply) Result {
	switch {
	case c.Settings.Version != s.settings.Version+1:
		return refuse(WrongVersion)
	case !c.Settings.Valid():
		return refuse(Malformed)
	}
	s.settings = c.Settings
	s.recount()
	return Result{Cluster: true}
}

func (s *State) featureRaise(c FeatureRaise) Result {
	if c.Level <= s.level {
		return refuse(WrongVersion)
	}
	for _, n := range s.nodes {
		if n.State != Removed && n.Info.Features < c.Level {
			return refuse(FeatureMissing)
		}
	}
	if c.Level > s.known {
		return Result{Code: Malformed, Fatal: true, Text: tooNew(c.Level, s.known)}
	}
	s.level = c.Level
	return Result{Cluster: true}
}

func (s *State) generationBump(index uint64, c GenerationBump) Result {
	if c.Generation <= s.generation {
		return refuse(WrongVersion)
	}
	if c.Generation > MaxGeneration {
		return refuse(LimitReached)
	}
	s.generation, s.lastN = c.Generation, 0
	clear(s.sessions)
	for _, n := range s.nodes {
		n.endSession(index, s.settings.G)
		n.nonces, n.Inventoried = nil, false
		former := slices.Clone(n.Former)
		for i := range former {
			former[i].Lease.Session, former[i].Lease.Renewed = 0, index
		}
		n.Former = former
	}
	for _, g := range s.segments {
		s.count(g, -1)
		if g.State == Open {
			g.State = Recovering
		}
		s.count(g, 1)
		s.raise(g)
	}
	s.recount()
	return Result{Cluster: true, All: true}
}

func (s *State) recordPut(c RecordPut) Result {
	version, code := s.records.Put(c)
	if code != OK {
		r := refuse(code)
		r.Version = version
		return r
	}
	return Result{Version: version, Records: true}
}

func (s *State) auditAppend(c AuditAppend) Result {
	l, code := s.audit.Append(c.Entry)
	if code != OK {
		return refuse(code)
	}
	return Result{Audit: l.AuditMark}
}

// raise gives a changed segment its next epoch.
func (s *State) raise(g *Segment) {
	if g.Epoch.Generation() != s.generation {
		g.Epoch = Epoch(s.generation) << 32
	}
	g.Epoch++
}

// validText says whether a name, an address or the like may enter the state.
func validText(list ...string) bool {
	for _, t := range list {
		if len(t) > MaxText || !utf8.ValidString(t) {
			return false
		}
	}
	return true
}
