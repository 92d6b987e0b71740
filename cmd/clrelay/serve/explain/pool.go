package explain

import (
	"slices"
	"strconv"
	"time"

	"github.com/clrelay/clrelay/delivery/source"
	"github.com/clrelay/clrelay/delivery/source/warmup"
	"github.com/clrelay/clrelay/internal/config"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// pool says what the mail would leave from; nil where the system chooses. rule
// is the route's setting.
func (q *question) pool(name, rule string) *adminv1.PoolChoice {
	i := slices.IndexFunc(q.set.Cluster.Pools, func(p config.Pool) bool { return string(p.Name) == name })
	if name == "" || i < 0 {
		return nil
	}
	p := &q.set.Cluster.Pools[i]
	out := &adminv1.PoolChoice{Name: name, Setting: rule + ".action.pool", Spread: p.Spread, OnMissing: p.OnMissing}
	if i, ok := q.set.Router.Rule(q.to.Addr.Domain); ok && q.set.Cluster.Routes[i].Action.Pool == "" {
		at := slices.IndexFunc(q.set.Cluster.Senders, func(e config.Sender) bool { return string(e.Name) == q.client.Sender })
		out.Setting = "senders[" + strconv.Itoa(at) + "].pool"
	}
	out.Line = int32(q.lines(out.Setting))
	here := q.set.Pools[i].Members
	today := warmup.Definitions(q.set.WarmUps, time.Now())
	for _, m := range p.Sources {
		one := &adminv1.PoolMember{Name: string(m.Name), Weight: int32(m.Weight)}
		if i := slices.IndexFunc(here, func(h source.Member) bool { return h.Source.Name == one.Name }); i >= 0 {
			s := here[i].Source
			one.Address, one.Hello = s.Addr.String(), s.Hello
			if err := s.Check(); err != nil {
				one.Trouble = text(err.Error())
			}
		}
		for i := range today {
			if today[i].Name == warmup.Name(one.Name) {
				one.WarmUp = today[i].Reason
			}
		}
		out.Members = append(out.Members, one)
	}
	return out
}
