// Package pace is how many deliveries to a destination there may be at once:
// slow start, then additive increase, multiplicative decrease.
package pace

// Pace is that of one destination. Deliveries are told apart by numbers that
// rise from one to the next.
type Pace struct {
	limit float32
	calm  float32 // up to here limit grows by one a success, then by one a round
	cut   uint64  // deliveries up to this one no longer slow it down: their failure is old news
	fails uint32  // failed connections in a row
}

// New gives the pace of a destination that nothing is known of.
func New(start, most int) Pace { return Pace{limit: float32(start), calm: float32(most)} }

// Allows tells whether another delivery may begin.
func (p *Pace) Allows(running uint32) bool { return float32(running) < p.limit }

// Limit is how many there may be.
func (p *Pace) Limit() int { return int(p.limit) }

// Reset begins anew, without forgetting what the destination has borne.
func (p *Pace) Reset(start int) { p.limit = float32(start) }

// Answered tells that somebody is there.
func (p *Pace) Answered() { p.fails = 0 }

// Worked tells of a success while others were running beside it. Only a
// destination whose limit was used up has shown that it bears it.
func (p *Pace) Worked(running uint32, most int) {
	if float32(running+1) < p.limit {
		return
	}
	if p.limit < p.calm {
		p.limit++
	} else {
		p.limit += 1 / p.limit
	}
	p.limit = min(p.limit, float32(most))
}

// Failed counts a failed connection.
func (p *Pace) Failed() { p.fails++ }

// Fails is how many there were in a row.
func (p *Pace) Fails() uint32 { return p.fails }

// AtEnd tells whether a delivery has failed that was asked for alone: there is
// no slower way.
func (p *Pace) AtEnd(delivery uint64) bool { return p.limit <= 1 && p.isNews(delivery) }

// Exhausted tells whether as many have failed in a row as may run.
func (p *Pace) Exhausted() bool { return float32(p.fails) >= p.limit }

// isNews tells whether a delivery began after the last slowing down.
func (p *Pace) isNews(delivery uint64) bool { return delivery > p.cut }

// Slower halves the pace, once for all the deliveries that were under way
// together; last is the one that began last, anywhere.
func (p *Pace) Slower(delivery, last uint64) {
	if !p.isNews(delivery) {
		return
	}
	p.cut = last
	p.limit = max(1, p.limit/2)
	p.calm = p.limit
}
