package balance

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
)

const each = 500 * time.Millisecond // between looks

func ref(name string) fsm.Ref { return fsm.Ref{Node: name, Store: fsm.StoreID{1}} }

// look lets a balancer look until it moves something or the time is over.
func look(b *Balancer, now *time.Duration, d time.Duration, own []Backlog, others []Load, way func(fsm.SegmentID, fsm.Ref) Way) Move {
	for end := *now + d; *now < end; *now += each {
		if m, _ := b.Look(*now, own, others, way); m != (Move{}) {
			return m
		}
	}
	return Move{}
}

func always(w Way) func(fsm.SegmentID, fsm.Ref) Way {
	return func(fsm.SegmentID, fsm.Ref) Way { return w }
}

func segments(sizes ...uint64) (out []Backlog) {
	for i, n := range sizes {
		out = append(out, Backlog{Segment: fsm.SegmentID(i + 1), Messages: n})
	}
	return out
}

func TestWhatMoves(t *testing.T) {
	for _, c := range []struct {
		name   string
		own    []Backlog
		others []Load
		way    func(fsm.SegmentID, fsm.Ref) Way
		want   Move
	}{
		{"nobody else", segments(5000), nil, always(ByTransfer), Move{}},
		{"a small queue", segments(400, 400), []Load{{ref("b"), 0}}, always(ByTransfer), Move{}},
		{"less than twice as much", segments(4000, 4000), []Load{{ref("b"), 4100}}, always(ByTransfer), Move{}},
		{"the largest that fits", segments(300, 2500, 900, 4000), []Load{{ref("b"), 0}}, always(ByCopy), Move{2, ref("b")}},
		{"one that has no copy there", segments(3000, 900, 4000), []Load{{ref("b"), 0}}, func(id fsm.SegmentID, _ fsm.Ref) Way {
			if id == 2 {
				return ByTransfer
			}
			return ByCopy
		}, Move{2, ref("b")}},
		{"no way", segments(3000, 3000), []Load{{ref("b"), 0}}, always(NoWay), Move{}},
		{"all in one piece", segments(9000), []Load{{ref("b"), 0}}, always(ByTransfer), Move{}},
		{"nothing but crumbs", segments(9000, 49, 3), []Load{{ref("b"), 0}}, always(ByTransfer), Move{}},
		{"less than the mean, and much more than one", segments(2500, 2500), []Load{{ref("b"), 100}, {ref("c"), 100_000}}, always(ByTransfer), Move{}},
		{"to the one that lacks some", segments(2000, 2000, 2000), []Load{{ref("b"), 5000}, {ref("c"), 0}}, always(ByTransfer), Move{1, ref("c")}},
	} {
		now := time.Hour
		if got := look(New(Config{}), &now, 16*time.Second, c.own, c.others, c.way); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// The imbalance has to stand for a while, what goes by itself stays, and so
// does what came since.
// What is damaged goes at once to whoever has a copy, and only there.
func TestDamage(t *testing.T) {
	b, now := New(Config{}), time.Hour
	own := segments(5, 3)
	own[1].Damaged = true
	way := func(id fsm.SegmentID, to fsm.Ref) Way {
		if to == ref("c") {
			return ByTransfer
		}
		return ByCopy
	}
	if m, why := b.Look(now, own, []Load{{ref("b"), 0}}, way); m != (Move{}) || why != "" {
		t.Errorf("%v %s, and nobody has a copy", m, why)
	}
	to := []Load{{ref("b"), 0}, {ref("c"), 1_000_000}}
	if m, _ := b.Look(now, own, to, way); m != (Move{2, ref("c")}) {
		t.Errorf("%v moves", m)
	}
	if _, why := b.Look(now+within, own, to, way); why == "" {
		t.Error("it goes on for ever")
	}
	if m, _ := b.Look(now+within+time.Minute, own, to, way); m != (Move{}) {
		t.Errorf("%v again at once", m)
	}
	if m, _ := b.Look(now+within+barredFor, own, to, way); m != (Move{2, ref("c")}) {
		t.Errorf("%v much later", m)
	}
}

func TestWhatStands(t *testing.T) {
	b, now := New(Config{}), time.Hour
	to := []Load{{ref("b"), 0}}
	if got := look(b, &now, 9*time.Second, segments(3000, 3000), to, always(ByTransfer)); got != (Move{}) {
		t.Errorf("%v moves at once", got)
	}
	look(b, &now, each, segments(100), to, always(ByTransfer)) // it is gone
	if got := look(b, &now, 9*time.Second, segments(3000, 3000), to, always(ByTransfer)); got != (Move{}) {
		t.Errorf("%v moves though the imbalance was gone", got)
	}
	own := segments(1400, 3000, 2000, 2000)
	own[2].Segment = 7
	if got := look(b, &now, 10*time.Second, own, to, always(ByTransfer)); got.Segment != 2 {
		t.Errorf("%v moves, of which half had gone, or which was not there before", got)
	}
}

func TestMoveEnds(t *testing.T) {
	b, now := New(Config{}), time.Hour
	own, to := segments(3000, 3000), []Load{{ref("b"), 0}, {ref("c"), 6000}}
	m := look(b, &now, 16*time.Second, own, to, always(ByTransfer))
	if m.To != ref("b") {
		t.Fatalf("%v", m)
	}
	if got, why := b.Look(now, own, to, always(ByTransfer)); got != m || why != "" {
		t.Errorf("it goes on as %v, %q", got, why)
	}
	if got, why := b.Look(now, own, to[1:], always(ByTransfer)); got != (Move{}) || why == "" {
		t.Errorf("it goes on without its receiver: %v", got)
	}
	m = look(b, &now, 16*time.Second, own, to, always(ByTransfer))
	if got, why := b.Look(now+within, own, to, always(ByTransfer)); m == (Move{}) || got != (Move{}) || why == "" {
		t.Errorf("%v goes on for ever", got)
	}
	// What holds it up may go on: another is tried, and it much later. Whether
	// a piece this large goes at all is luck.
	now += within
	tries := func(own []Backlog) (got Move) {
		for range 20 {
			if got = look(b, &now, 16*time.Second, own, to, always(ByTransfer)); got != (Move{}) {
				break
			}
		}
		b.Reset()
		return got
	}
	if got := tries(own); got == (Move{}) || got.Segment == m.Segment {
		t.Errorf("after %v it is %v", m, got)
	}
	only := append(segments(), own[m.Segment-1], Backlog{Segment: 99, Messages: 3000})
	now += barredFor
	b.late[99] = now + time.Hour
	if got := tries(only); got.Segment != m.Segment {
		t.Errorf("it stays barred: %v", got)
	}
}

// fleet has nodes that all know the loads as they were some time ago.
type fleet struct {
	balancers []*Balancer
	segs      []map[fsm.SegmentID]uint64
	told      [][]uint64 // loads, oldest first
	moves     int
	back      int // moves from the node that joined last
}

const (
	lag  = 6 // looks until a load is known to the others
	trip = 4 // looks that a move takes
)

func (f *fleet) add(seed uint64, sizes ...uint64) {
	own := map[fsm.SegmentID]uint64{}
	for i, n := range sizes {
		own[fsm.SegmentID(seed*1000+uint64(i)+1)] = n
	}
	f.balancers = append(f.balancers, New(Config{Seed: seed}))
	f.segs = append(f.segs, own)
}

func (f *fleet) loads() (out []uint64) {
	for _, own := range f.segs {
		n := uint64(0)
		for _, m := range own {
			n += m
		}
		out = append(out, n)
	}
	return out
}

// run lets all look for a while, in turn.
func (f *fleet) run(d time.Duration) {
	under := make([]int, len(f.segs))
	for now := time.Duration(0); now < d; now += each {
		f.told = append(f.told, f.loads())
		told := f.told[max(0, len(f.told)-lag)]
		for i, b := range f.balancers {
			var others []Load
			for j := range f.segs {
				if j != i {
					others = append(others, Load{ref(fmt.Sprint(j)), told[j]})
				}
			}
			var own []Backlog
			for _, id := range slices.Sorted(maps.Keys(f.segs[i])) {
				own = append(own, Backlog{Segment: id, Messages: f.segs[i][id]})
			}
			m, _ := b.Look(time.Hour+now, own, others, always(ByCopy))
			if m == (Move{}) {
				continue
			}
			if under[i]++; under[i] < trip {
				continue
			}
			under[i] = 0
			var to int
			fmt.Sscan(m.To.Node, &to)
			f.segs[to][m.Segment] = f.segs[i][m.Segment]
			delete(f.segs[i], m.Segment)
			f.moves++
			if i == len(f.segs)-1 {
				f.back++
			}
			b.Reset()
		}
	}
}

// However many give at once, by loads that are old, a node that joined gets a
// fair part, is not drowned, and gives next to nothing back.
func TestJoinedNodeGetsAFairPart(t *testing.T) {
	for _, c := range []struct {
		name  string
		nodes int
		sizes []uint64
		least uint64
	}{
		{"three nodes, four open segments each", 3, []uint64{760, 750, 740, 755}, 1000},
		{"three nodes, large queues", 3, []uint64{6000, 6000, 6000, 6000, 6000, 6000, 6000, 6000, 6000, 6000, 3000, 500}, 20_000},
		{"ten nodes, four open segments each", 10, []uint64{760, 750, 740, 755}, 700},
		{"ten nodes, large queues", 10, []uint64{6000, 6000, 6000, 6000, 6000, 6000}, 12_000},
	} {
		for seed := range uint64(4) {
			f := &fleet{}
			for i := range c.nodes {
				f.add(uint64(i+1)+seed*50, c.sizes...)
			}
			f.add(uint64(c.nodes+1) + seed*50)
			all := uint64(0)
			for _, n := range f.loads() {
				all += n
			}
			f.run(5 * time.Minute)
			loads := f.loads()
			mean, got := all/uint64(c.nodes+1), loads[c.nodes]
			if got < c.least || got > 2*mean+floor || f.back > 1 {
				t.Errorf("%s, seed %d: %v, mean %d, %d moves, %d back", c.name, seed, loads, mean, f.moves, f.back)
			}
		}
	}
}
