// Package balance chooses which segment of a node's is to go to another node,
// so that old mail, too, finds its way to a node that was added, or that was
// away. It knows loads and sizes alone; how a segment moves is the protocol's
// matter.
//
// Every node chooses for itself, by loads that are seconds old, and several
// may choose the same receiver at once. Three rules keep them from drowning it,
// and mail from going to and fro: a move never leaves the receiver with more
// than the giver, as far as the giver knows; the imbalance must have stood for
// a while since the last move, so that the loads have been told anew; and a
// giver whose smallest piece is more than it has above the mean throws dice, so
// that all givers together give about what the receiver lacks.
package balance

import (
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
)

// The rule in numbers.
const (
	ratio      = 2                // backlog moves to a node that has less than half
	floor      = 1000             // messages that a node may have beyond that: a small queue never moves
	stand      = 10 * time.Second // how long the imbalance must have stood
	worthwhile = 20               // a segment with less than a 20th of the floor stays
	within     = 2 * time.Minute  // a segment that is not there by then stays
	barredFor  = 30 * time.Minute // and for so long is not tried again: what holds it up may take long
	copying    = 4                // one that need not be copied goes before a larger one, up to so many times its size
)

// Config is what a Balancer is made of. Only tests set Floor and Stand.
type Config struct {
	Floor uint64        // 0: 1,000 messages
	Stand time.Duration // 0: 10 s
	Seed  uint64        // of the choice among equals
}

// Load is what a node has queued, as it says: messages of segments it owns.
type Load struct {
	Node   fsm.Ref
	Queued uint64
}

// Backlog is how many messages wait in a segment of this node's.
type Backlog struct {
	Segment  fsm.SegmentID
	Messages uint64
	Damaged  bool // some cannot be read here
}

// Way is how a segment can go to a node.
type Way uint8

// The ways.
const (
	ByTransfer Way = 1 + iota // the node has a fresh copy
	ByCopy                    // it has none
	NoWay                     // it cannot, or it is not this node's to give
)

// Move is a segment that is to go to another node. Its zero value is none.
type Move struct {
	Segment fsm.SegmentID
	To      fsm.Ref
}

// Balancer chooses moves, one at a time.
type Balancer struct {
	cfg   Config
	rng   *rand.Rand
	until time.Duration                   // the imbalance has to stand; 0: there is none
	seen  map[fsm.SegmentID]uint64        // messages when it was first seen
	late  map[fsm.SegmentID]time.Duration // until when segments that were not there in time are barred
	move  Move                            // under way
	since time.Duration                   // when it began
}

// New returns a balancer that has seen nothing.
func New(cfg Config) *Balancer {
	if cfg.Floor == 0 {
		cfg.Floor = floor
	}
	if cfg.Stand == 0 {
		cfg.Stand = stand
	}
	return &Balancer{cfg: cfg, late: map[fsm.SegmentID]time.Duration{}, rng: rand.New(rand.NewPCG(cfg.Seed, 0xba1a))}
}

// Reset forgets the move under way, for it has come to its end, and what was
// seen: the imbalance has to stand anew, for loads lag.
func (b *Balancer) Reset() { b.until, b.seen, b.move = 0, nil, Move{} }

// Look gives the move that is to be under way now, from the backlog of this
// node and the loads of those that can be given something; where the one that
// was is given up, why says so. It is to be called about twice a second. way
// says how a segment can go to a node.
func (b *Balancer) Look(now time.Duration, own []Backlog, others []Load, way func(fsm.SegmentID, fsm.Ref) Way) (move Move, why string) {
	switch {
	case b.move == Move{}:
		if b.move = b.rescue(now, own, others, way); b.move == (Move{}) {
			b.move = b.choose(now, own, others, way)
		}
		b.since = now
	case !slices.ContainsFunc(others, func(l Load) bool { return l.Node == b.move.To }):
		why = "one of the two nodes takes part no more, or cannot be reached"
	case now-b.since >= within:
		why = "it took too long"
		b.late[b.move.Segment] = now + barredFor
	}
	if why != "" {
		b.Reset()
	}
	return b.move, why
}

// rescue finds a segment with damage here, and a node that has a fresh copy:
// it goes there at once, whatever the loads are.
func (b *Balancer) rescue(now time.Duration, own []Backlog, others []Load, way func(fsm.SegmentID, fsm.Ref) Way) Move {
	for _, s := range own {
		if until, late := b.late[s.Segment]; !s.Damaged || late && now < until {
			continue
		}
		for _, o := range others {
			if way(s.Segment, o.Node) == ByTransfer {
				return Move{s.Segment, o.Node}
			}
		}
	}
	return Move{}
}

// choose finds what is to move now.
func (b *Balancer) choose(now time.Duration, own []Backlog, others []Load, way func(fsm.SegmentID, fsm.Ref) Way) Move {
	mine, all := uint64(0), uint64(0)
	for _, s := range own {
		mine += s.Messages
	}
	for _, o := range others {
		all += o.Queued
	}
	mean := (mine + all) / uint64(len(others)+1)
	others = b.emptier(others, mine, mean)
	switch {
	case len(others) == 0:
		b.Reset()
		return Move{}
	case b.until == 0:
		b.until = max(now, 1) + b.cfg.Stand + time.Duration(b.rng.Int64N(int64(b.cfg.Stand)/2+1))
		b.seen = make(map[fsm.SegmentID]uint64, len(own))
		for _, s := range own {
			b.seen[s.Segment] = s.Messages
		}
		return Move{}
	case now < b.until:
		return Move{}
	}
	maps.DeleteFunc(b.late, func(_ fsm.SegmentID, until time.Duration) bool { return now >= until })
	to := b.receiver(others, mean)
	s, ok := b.piece(own, mine-mean, (mine-to.Queued)/2, func(id fsm.SegmentID) Way { return way(id, to.Node) })
	b.Reset()
	if !ok {
		return Move{}
	}
	return Move{s, to.Node}
}

// emptier leaves those that this node may give to.
func (b *Balancer) emptier(others []Load, mine, mean uint64) []Load {
	var out []Load
	if mine <= mean {
		return nil
	}
	for _, o := range others {
		if o.Queued < mean && o.Queued < mine && mine-o.Queued > b.cfg.Floor && (mine-b.cfg.Floor)/ratio > o.Queued {
			out = append(out, o)
		}
	}
	return out
}

// receiver draws one, by what it lacks: other givers draw at the same time.
func (b *Balancer) receiver(others []Load, mean uint64) Load {
	lack := uint64(0)
	for _, o := range others {
		lack += mean - o.Queued
	}
	at := b.rng.Uint64N(lack)
	for _, o := range others {
		if at < mean-o.Queued {
			return o
		}
		at -= mean - o.Queued
	}
	return others[0]
}

// piece finds the segment to give: the largest that is not more than this
// node has above the mean, else, with luck, the smallest that is; none of more
// than most. What empties itself, or came just now, stays; so does what is
// not worth the trouble.
func (b *Balancer) piece(own []Backlog, above, most uint64, way func(fsm.SegmentID) Way) (fsm.SegmentID, bool) {
	var best Backlog
	var bestCost [2]int64
	for _, s := range own {
		n, w := s.Messages, way(s.Segment)
		was := b.seen[s.Segment]
		if _, late := b.late[s.Segment]; late || w == NoWay || n > most || n < max(b.cfg.Floor/worthwhile, 1) || was == 0 || n < was/2 {
			continue
		}
		cost := [2]int64{0, -int64(n)}
		if n > above {
			cost = [2]int64{1, int64(n)}
		} else if w == ByTransfer {
			cost[1] *= copying
		}
		if best.Messages == 0 || slices.Compare(cost[:], bestCost[:]) < 0 {
			best, bestCost = s, cost
		}
	}
	if best.Messages > above && b.rng.Uint64N(best.Messages) >= above {
		return 0, false
	}
	return best.Segment, best.Messages > 0
}
