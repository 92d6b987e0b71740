// Package purse is what a node was granted of a budget and has left of it.
package purse

import (
	"math"
	"time"
)

// Purse is what was granted of one budget in its window. The zero value is
// empty.
type Purse struct {
	Granted, Spent int64
	Ends           time.Time // of the window; zero: nothing was granted yet
	Wanted         int64     // the largest that was refused, for the caller to reset

	window uint64
	dry    time.Duration // since when there is not enough; 0: there is
}

// Left is how much may be spent: nothing once the window has ended.
func (p *Purse) Left(wall time.Time) int64 {
	if !wall.Before(p.Ends) {
		return 0
	}
	return p.Granted - p.Spent
}

// Spend takes n out, or puts it back if it is negative.
func (p *Purse) Spend(n int64) {
	p.Spent += n
	p.dry = 0
}

// Grant takes into account that so much was granted since the window began.
// What is past, and what is known, changes nothing.
func (p *Purse) Grant(window uint64, ends time.Time, granted uint64) {
	amount := int64(min(granted, math.MaxInt64))
	switch {
	case window < p.window || window == p.window && amount <= p.Granted && !p.Ends.IsZero():
		return
	case window > p.window || p.Ends.IsZero():
		p.Spent = 0
	}
	p.window, p.Ends, p.Granted, p.dry = window, ends, amount, 0
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
