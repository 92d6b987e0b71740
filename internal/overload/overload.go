// Package overload decides when a relay that is asked too much of sends some
// mail away for later, and which: bulk first, then normal mail, transactional
// mail last. Clients still have what they are told to bring later; what would be
// taken too slowly they would give up in the middle.
package overload

import (
	"sync/atomic"
	"time"
)

// Class is how urgent mail is.
type Class uint8

// The classes, the least urgent first.
const (
	Bulk Class = iota
	Normal
	Transactional
)

// String is the class in cluster.yaml.
func (c Class) String() string {
	return [...]string{"bulk", "normal", "transactional"}[min(c, Transactional)]
}

// ParseClass reads what String writes; anything else is Normal.
func ParseClass(s string) Class {
	switch s {
	case "bulk":
		return Bulk
	case "transactional":
		return Transactional
	}
	return Normal
}

// Signals are how busy the relay is.
type Signals struct {
	Accept        time.Duration // that storing a message took lately; 0: none was stored
	Sessions, Max int           // open, and how many may be
	Free, Reserve uint64        // octets of the disk, and below which nothing is taken; 0: not known
}

// Core decides as a step function. Its level is how many classes are sent away.
type Core struct {
	Target time.Duration // of Accept; 0: nothing is ever sent away

	slow   int           // the level by Accept
	full   int           // by sessions
	tight  int           // by the disk
	smooth time.Duration // Accept
	turned time.Duration // when slow was last as it should be
	last   time.Duration
}

// How fast the level follows Accept.
const (
	rise = 2 * time.Second // longer than the target for so long: one class more
	calm = 5 * time.Second // well below it for so long: one class fewer
)

// Step takes signals in, once a second or so, and gives the level: 0 to 3.
func (c *Core) Step(now time.Duration, s Signals) int {
	if c.Target <= 0 {
		*c = Core{}
		return 0
	}
	gap := now - c.last
	c.last = now
	if gap > 2*calm { // idle: what was is no sign any more
		c.slow, c.smooth, c.turned = 0, 0, now
	}
	c.smooth = (c.smooth + s.Accept) / 2
	switch {
	case c.smooth > c.Target:
		if now-c.turned >= rise {
			c.slow, c.turned = min(c.slow+1, 3), now
		}
	case c.smooth < c.Target*7/10 && c.slow > 0:
		if now-c.turned >= calm {
			c.slow, c.turned = c.slow-1, now
		}
	default:
		c.turned = now
	}
	c.full = level(c.full, float64(s.Sessions)/float64(max(s.Max, 1)), [3]float64{0.90, 0.95, 0.98}, 0.05)
	scarce := 0.0
	if s.Free > 0 && s.Reserve > 0 {
		scarce = float64(s.Reserve) / float64(s.Free)
	}
	c.tight = level(c.tight, scarce, [3]float64{1 / 2.0, 1 / 1.5, 1 / 1.1}, 0.05)
	return max(c.slow, c.full, c.tight)
}

// level rises to where x is, and falls when x is below by slack.
func level(was int, x float64, from [3]float64, slack float64) int {
	up, down := 0, 0
	for _, f := range from {
		if x >= f {
			up++
		}
		if x >= f-slack {
			down++
		}
	}
	return max(up, min(was, down))
}

// Gate is a Core in a running relay. It may be used by many goroutines.
type Gate struct {
	now     func() time.Duration
	signals func(*Signals) // sets all but Accept

	busy   chan struct{} // holds one token: who has it steps
	core   Core
	last   atomic.Int64 // of the last step
	level  atomic.Int32
	sum    atomic.Int64 // of what was stored since
	count  atomic.Int64
	target atomic.Int64
}

// NewGate returns a Gate that sends nothing away yet. now is monotonic.
func NewGate(now func() time.Duration, signals func(*Signals)) *Gate {
	return &Gate{now: now, signals: signals, busy: make(chan struct{}, 1)}
}

// Configure sets how long storing a message may take; 0 sends nothing away.
func (g *Gate) Configure(target time.Duration) { g.target.Store(int64(target)) }

// Stored tells how long storing a message took.
func (g *Gate) Stored(took time.Duration) {
	g.sum.Add(int64(took))
	g.count.Add(1)
}

// Sheds tells whether mail of the class is to be sent away now.
func (g *Gate) Sheds(c Class) bool {
	const every = time.Second
	if now := g.now(); now-time.Duration(g.last.Load()) >= every {
		select {
		case g.busy <- struct{}{}:
			g.step(now)
			<-g.busy
		default: // another does it
		}
	}
	return int32(c) < g.level.Load()
}

func (g *Gate) step(now time.Duration) {
	g.last.Store(int64(now))
	var s Signals
	g.signals(&s)
	sum, n := g.sum.Swap(0), g.count.Swap(0)
	if n > 0 {
		s.Accept = time.Duration(sum / n)
	}
	g.core.Target = time.Duration(g.target.Load())
	g.level.Store(int32(g.core.Step(now, s)))
}

// Level is how many classes are sent away.
func (g *Gate) Level() int { return int(g.level.Load()) }
