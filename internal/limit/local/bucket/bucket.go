// Package bucket is a node's part of a rate: a token bucket with a line of those
// who wait for tokens.
package bucket

import (
	"math"
	"time"
)

// NoPart is how long somebody waits for a node that has nothing of a limit.
const NoPart = time.Second

// Bucket holds tokens, which grow with time up to a burst. Each method sees them
// as they were when Settle was called last. The zero value is empty, and stays so
// until Give.
type Bucket struct {
	Own      uint32 // units of the limit
	Shared   bool   // there is a Share of it
	Reserved int64  // asked for and neither used nor given up

	tokens, cap, flow float64 // flow is tokens a nanosecond
	at                time.Duration
	recent, fade      float64       // what went lately, of which fade a nanosecond is forgotten
	faded             time.Duration // until when it is
	promised          time.Duration // when the last who was told to wait will come
	lined, served     int64         // of the line for tokens: all that was ever in it, and that is out of it again
}

// Place is one in the line, of so much. The zero value stands nowhere.
type Place struct{ at, n int64 }

// Join puts p at the end of the line, for n, if it is not in it.
func (b *Bucket) Join(p *Place, n int64) {
	if p.at == 0 {
		*p = Place{b.lined + 1, n}
		b.lined += n
	}
}

// Leave takes p out of the line, if it is in it.
func (b *Bucket) Leave(p *Place) {
	b.served += p.n
	*p = Place{}
}

// Waits tells whether p is in a line.
func (p *Place) Waits() bool { return p.at != 0 }

// before is how much those are to get who stand in the line before p, or all in
// it if p is not. One that left from behind counts as one from before: then two
// may come in the wrong order, once.
func (b *Bucket) before(p *Place) float64 {
	end := b.lined
	if p.at != 0 {
		end = p.at - 1
	}
	return float64(max(0, end-b.served))
}

// Idle tells whether nobody reserved anything or waits, and all tokens are there.
func (b *Bucket) Idle() bool { return b.Reserved == 0 && b.tokens >= b.cap && !b.Shared }

// Settle brings the tokens up to date.
func (b *Bucket) Settle(now time.Duration) {
	if now <= b.at {
		return
	}
	b.tokens = min(b.cap, b.tokens+float64(now-b.at)*b.flow)
	b.at = now
}

// Take takes n tokens, or what is there and owes the rest.
func (b *Bucket) Take(n int64, now time.Duration) {
	b.tokens -= float64(n)
	// To forget a hundredth at a time is exact enough, and spares the hot path an
	// exponential.
	if float64(now-b.faded)*b.fade > 0.01 {
		b.recent, b.faded = b.Lately(now), now
	}
	b.recent += float64(n)
}

// GiveBack undoes a Take, in the same instant.
func (b *Bucket) GiveBack(n int64) {
	b.tokens = min(b.cap, b.tokens+float64(n))
	b.recent = max(0, b.recent-float64(n))
}

// Lately is how much went in about a window.
func (b *Bucket) Lately(now time.Duration) float64 {
	return b.recent * math.Exp(-float64(now-b.faded)*b.fade)
}

// Give makes a part of a rate of flow tokens a nanosecond, and of its burst, what
// there is from now on. What grows starts empty, what shrinks keeps no more than
// it can hold.
func (b *Bucket) Give(part, burst, flow float64, window, now time.Duration) {
	b.Settle(now)
	b.at = now
	b.cap, b.flow = burst*part, flow*part
	b.tokens = min(b.tokens, b.cap)
	b.recent, b.faded = b.Lately(now), now
	b.fade = 1 / float64(window)
}

// Grow makes the tokens those of one that was empty so long ago.
func (b *Bucket) Grow(since time.Duration) { b.tokens = min(b.cap, b.flow*float64(since)) }

// Most is how many tokens there can be, and Tokens how many there are; negative:
// owed.
func (b *Bucket) Most() float64   { return b.cap }
func (b *Bucket) Tokens() float64 { return b.tokens }

// need is how many tokens n takes to begin: of more than there can ever be, all.
// The rest is owed, so that what is larger than the burst goes too.
func (b *Bucket) need(n int64) float64 { return min(float64(n), b.cap) }

// Room tells whether n more may be reserved, so much ahead of its tokens.
func (b *Bucket) Room(n int64, ahead time.Duration) bool {
	return b.cap > 0 && b.tokens+b.flow*float64(ahead)-float64(b.Reserved) >= b.need(n)
}

// Free is how long until there are tokens for n, beside those that are reserved.
func (b *Bucket) Free(n int64) time.Duration { return b.lack(b.need(n)+float64(b.Reserved), b.tokens) }

// Lack is how long until there are tokens for n, whoever waits.
func (b *Bucket) Lack(n int64) time.Duration { return b.lack(b.need(n), b.tokens) }

// Next is how long until there are tokens for n and for all in the line before
// p.
func (b *Bucket) Next(p *Place, n int64) time.Duration {
	return b.lack(b.need(n)+b.before(p), b.tokens)
}

// lack is how long until have tokens are need; 0 if they are.
func (b *Bucket) lack(need, have float64) time.Duration {
	if b.cap <= 0 {
		return NoPart
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

// Turn is how long somebody should wait who wants n and lacks tokens for base:
// those who are told one after the other come one after the other, but not far
// behind the tokens: who does not come back must not keep the others away. crowd
// is how many were told lately.
func (b *Bucket) Turn(n int64, base, now time.Duration, crowd uint32) time.Duration {
	if b.cap <= 0 {
		return base
	}
	spread := 250*time.Millisecond + time.Duration(min(crowd, 10_000))*time.Millisecond
	next := b.promised + b.lack(b.need(n), 0)
	at := min(max(now+base, next), now+base+spread)
	b.promised = at
	return at - now
}
