package turns

import "testing"

// TestWheel: of turns that follow each other the ranks get their parts, evenly
// spread, and one that comes back after a long time has saved nothing up.
func TestWheel(t *testing.T) {
	var w Wheel
	var n [Ranks]int
	last := 0
	for i := range 2100 {
		rank := w.Next(0b111)
		n[rank]++
		if rank == 2 {
			if last > 0 && i-last > 22 {
				t.Errorf("%d turns without the last rank", i-last)
			}
			last = i
		}
	}
	if n != [Ranks]int{1600, 400, 100} {
		t.Errorf("turns %v", n)
	}
	for range 1000 {
		if w.Next(0b100) != 2 {
			t.Fatal("a rank that does not wait got a turn")
		}
	}
	n = [Ranks]int{}
	for range 42 {
		n[w.Next(0b101)]++
	}
	if n[2] > 4 {
		t.Errorf("after it was alone for long: %v", n)
	}
}

// TestRings: the rank that has no slots left lets the others go on.
func TestRings(t *testing.T) {
	next := map[uint32]*uint32{}
	link := func(id uint32) *uint32 {
		if next[id] == nil {
			next[id] = new(uint32)
		}
		return next[id]
	}
	links := &[Ranks]Link{link, link, link}
	var r Rings
	r.Push(0, 3, 1, links)
	r.Push(2, 5, 2, links)
	r.Push(2, 5, 3, links)
	r.Push(2, 6, 4, links)
	for _, want := range []uint32{2, 4, 3} { // the buckets take turns
		if id, rank, ok := r.Pop([Ranks]int{0, 9, 9}, links); !ok || id != want || rank != 2 {
			t.Errorf("got %d of rank %d, %v, want %d", id, rank, ok, want)
		}
	}
	if _, _, ok := r.Pop([Ranks]int{0, 9, 9}, links); ok || r.Empty() {
		t.Error("gave what has no slot, or lost it")
	}
	if id, _, ok := r.Pop([Ranks]int{1, 9, 9}, links); !ok || id != 1 || !r.Empty() {
		t.Error("the first rank's is gone")
	}
}
