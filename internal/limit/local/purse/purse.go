// Package purse is what a node was granted of a budget and has left of it.
package purse

import (
	"maps"
	"math"
	"time"
)

// Purse is what was granted of one budget in its window. The zero value is
// empty, and of a budget of nothing.
type Purse struct {
	Granted, Spent int64
	Ends           time.Time // of the window; zero: nothing was granted yet
	Wanted         int64     // the largest that was refused since Aim

	all    int64 // the budget
	given  int64 // in the window to all nodes
	window uint64
	dry    time.Duration // since when there is not enough; 0: there is
}

// Within says how large the budget is.
func (p *Purse) Within(all int64) {
	if all != p.all {
		p.all, p.dry = all, 0
	}
}

// Left is how much may be spent: nothing once the window has ended, and nothing
// while all nodes together were given more than the budget, which has been made
// smaller since. Once it is large enough again what was given is good again: all
// that is spent was given, and nothing is given beyond the budget.
func (p *Purse) Left(wall time.Time) int64 {
	switch {
	case !wall.Before(p.Ends):
		return 0
	case p.given > p.all:
		return min(p.all-p.Spent, 0)
	}
	return p.Granted - p.Spent
}

// Out tells whether all of the budget was given away in this window.
func (p *Purse) Out(wall time.Time) bool { return wall.Before(p.Ends) && p.given >= p.all }

// Gets tells whether somebody who asks may expect to be given a part.
func (p *Purse) Gets(wall time.Time) bool { return p.dry == 0 && !p.Out(wall) }

// Spend takes n out, or puts it back if it is negative.
func (p *Purse) Spend(n int64) {
	p.Spent += n
	p.dry = 0
}

// Grant takes into account that so much was granted since the window began, and so
// much to all nodes. What is past, and what is known, changes nothing.
func (p *Purse) Grant(window uint64, ends time.Time, granted, all uint64) {
	amount, given := int64(min(granted, math.MaxInt64)), int64(min(max(granted, all), math.MaxInt64))
	known := window == p.window && !p.Ends.IsZero()
	if window < p.window {
		return
	}
	if known {
		given = max(given, p.given)
	} else {
		p.Spent = 0
	}
	p.given = given
	if known && amount <= p.Granted {
		return
	}
	p.window, p.Ends, p.Granted, p.dry = window, ends, amount, 0
}

// Aim is how much there is to be now: for five seconds at the pace, which is in
// nanoseconds, and for what was refused.
func (p *Purse) Aim(pace float64) int64 {
	aim := max(int64(math.Ceil(pace*float64(5*time.Second))), p.Wanted)
	p.Wanted = 0
	return aim
}

// usedUp is how long a budget gets nothing before it counts as used up.
const usedUp = 5 * time.Second

// Dry tells whether nothing has come for so long that the budget counts as used
// up.
func (p *Purse) Dry(now time.Duration) bool { return p.dry > 0 && now-p.dry >= usedUp }

// Short is called when there is not enough. It says when to ask again, and when
// there will surely be something: a budget of which nothing more comes is used up
// until its window, of length per, ends.
func (p *Purse) Short(per, now time.Duration, wall time.Time) (again, left time.Duration) {
	if p.dry == 0 {
		p.dry = max(now, 1)
	}
	if !p.Dry(now) {
		return 200 * time.Millisecond, 200 * time.Millisecond
	}
	ends := p.Ends
	if !wall.Before(ends) {
		ends = wall.Truncate(per).Add(per)
	}
	return ends.Sub(wall), ends.Sub(wall)
}

// Purses are those of budgets that are gone. When one comes back in the same window
// the cluster says again all that it granted, and what was spent of it is not to be
// spent twice. The zero value holds none.
type Purses struct{ all map[pocket]Purse }

type pocket struct {
	key string
	per time.Duration
}

// Put keeps p, which may be nil, until its window ends, unless there are so many
// already.
func (ps *Purses) Put(key string, per time.Duration, p *Purse, wall time.Time, most int) {
	if p == nil || !wall.Before(p.Ends) {
		return
	}
	if len(ps.all) >= most {
		maps.DeleteFunc(ps.all, func(_ pocket, p Purse) bool { return !wall.Before(p.Ends) })
	}
	if ps.all == nil {
		ps.all = map[pocket]Purse{}
	}
	if len(ps.all) < most {
		ps.all[pocket{key, per}] = *p
	}
}

// Get gives a copy of the purse of a budget of this length, or an empty one. It
// changes nothing.
func (ps *Purses) Get(key string, per time.Duration) *Purse {
	p := ps.all[pocket{key, per}]
	return &p
}
