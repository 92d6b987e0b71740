package local

import (
	"math"
	"time"
)

// ahead is how much earlier than its token a message may be begun: connecting
// takes time, and a rate is to be used up although the burst is small. Ticket.Use
// holds it back until the token is there.
const ahead = 500 * time.Millisecond

// noPart is how long somebody waits for a node that has nothing of a limit.
const noPart = time.Second

// bucket is a node's part of a rate. Its tokens grow with time up to cap.
type bucket struct {
	own    uint32 // units
	shared bool   // there is a Share of it

	tokens, cap, flow float64 // flow is tokens a nanosecond
	at                time.Duration
	recent, fade      float64       // what went lately, of which fade a nanosecond is forgotten
	faded             time.Duration // until when it is
	reserved          int64         // asked for and neither used nor given up
	promised          time.Duration // when the last who was told to wait will come
	lined, served     int64         // of the line for tokens: all that was ever in it, and that is out of it again
}

// join puts c at the end of the line, if it is not in it.
func (b *bucket) join(c *claim) {
	if c.place == 0 {
		c.place = b.lined + 1
		b.lined += c.n
	}
}

// leave takes c out of the line, if it is in it.
func (b *bucket) leave(c *claim) {
	if c.place != 0 {
		c.place = 0
		b.served += c.n
	}
}

// before is how much those are to get who stand in the line before c, or all in
// it if c is not. One that left from behind counts as one from before: then two
// may come in the wrong order, once.
func (b *bucket) before(c *claim) float64 {
	end := b.lined
	if c.place != 0 {
		end = c.place - 1
	}
	return float64(max(0, end-b.served))
}

// settle brings the tokens up to date.
func (b *bucket) settle(now time.Duration) {
	if now <= b.at {
		return
	}
	b.tokens = min(b.cap, b.tokens+float64(now-b.at)*b.flow)
	b.at = now
}

// went notes that n went. To forget a hundredth at a time is exact enough, and
// spares the hot path an exponential.
func (b *bucket) went(n float64, now time.Duration) {
	if float64(now-b.faded)*b.fade > 0.01 {
		b.recent, b.faded = b.lately(now), now
	}
	b.recent = max(0, b.recent+n)
}

// lately is how much went in about a window.
func (b *bucket) lately(now time.Duration) float64 {
	return b.recent * math.Exp(-float64(now-b.faded)*b.fade)
}

// give makes own of units the node's part from now on. What grows starts empty,
// what shrinks keeps no more than it can hold.
func (b *bucket) give(r *rule, own uint32, now time.Duration) {
	b.settle(now)
	part := 0.0
	if r.rateUnits > 0 {
		part = float64(own) / float64(r.rateUnits)
	}
	b.own, b.at = own, now
	b.cap, b.flow = float64(r.Burst)*part, r.Rate.PerNano()*part
	b.tokens = min(b.tokens, b.cap)
	b.recent, b.faded = b.lately(now), now
	b.fade = 1 / float64(r.window())
}

// window is over what time it is told how much went: that of the rate, and not so
// short that the number jumps.
func (r *rule) window() time.Duration { return max(r.Rate.Per, 5*time.Second) }

// need is how many tokens n takes to begin: of more than there can ever be, all.
// The rest is owed, so that what is larger than the burst goes too.
func (b *bucket) need(n int64) float64 { return min(float64(n), b.cap) }

// room tells whether n more may be reserved.
func (b *bucket) room(n int64, lead time.Duration) bool {
	return b.cap > 0 && b.tokens+b.flow*float64(lead)-float64(b.reserved) >= b.need(n)
}

// lack is how long until have tokens are need; 0 if they are.
func (b *bucket) lack(need, have float64) time.Duration {
	if b.cap <= 0 {
		return noPart
	}
	if have >= need {
		return 0
	}
	d := math.Ceil((need - have) / b.flow)
	if d > float64(1000*time.Hour) {
		return 1000 * time.Hour
	}
	return max(time.Duration(d), time.Millisecond)
}

// turn is how long somebody should wait who wants n and lacks tokens for base:
// those who are told one after the other come one after the other, but not far
// behind the tokens: who does not come back must not keep the others away. crowd
// is how many were told lately.
func (b *bucket) turn(n int64, base, now time.Duration, crowd uint32) time.Duration {
	if b.cap <= 0 {
		return base
	}
	spread := 250*time.Millisecond + time.Duration(min(crowd, 10_000))*time.Millisecond
	next := b.promised + b.lack(b.need(n), 0)
	at := min(max(now+base, next), now+base+spread)
	b.promised = at
	return at - now
}

// slots is a node's part of connections at a time.
type slots struct {
	own     uint32 // units
	shared  bool
	may     int // connections
	held    []*hold
	refused uint32        // since the last Demands
	sought  uint32        // refused between two of the last Demands
	lacked  time.Duration // when one was refused last; 0: not lately
}

// lacks tells whether somebody still waits for a connection: who was refused
// asks again within noPart, which is longer than from one report to the next.
func (c *slots) lacks(now time.Duration) bool {
	switch {
	case c.lacked == 0 || now-c.lacked > 2*noPart:
		c.sought, c.lacked = 0, 0
	case c.refused > 0:
		c.sought = c.refused
	}
	c.refused = 0
	return c.lacked > 0
}

// over tells whether more are open than the part.
func (c *slots) over() bool { return len(c.held) > c.may }

func (c *slots) give(r *rule, own uint32) {
	c.own = own
	c.may = 0
	if r.connUnits > 0 {
		c.may = int(int64(r.Connections) * int64(own) / int64(r.connUnits))
	}
}

// units is how many of them n connections take.
func (r *rule) units(n int) uint32 {
	if r.Connections == 0 {
		return 0
	}
	return uint32((int64(n)*int64(r.connUnits) + int64(r.Connections) - 1) / int64(r.Connections))
}
