package sched

// timer is a 4-ary heap of record numbers, ordered by the time that the
// records themselves hold. The records also hold their place, so that one can
// be taken out of the middle. 4-ary: half the cache misses of a binary one.
type timer struct {
	ids   []uint32
	at    func(id uint32) int64       // a record's time
	place func(id uint32, pos uint32) // tells a record where it stands
}

func (t *timer) len() int { return len(t.ids) }

// first gives the earliest time; ok is false when there is none.
func (t *timer) first() (id uint32, at int64, ok bool) {
	if len(t.ids) == 0 {
		return 0, 0, false
	}
	return t.ids[0], t.at(t.ids[0]), true
}

func (t *timer) push(id uint32) {
	t.ids = append(t.ids, id)
	t.up(len(t.ids)-1, id)
}

func (t *timer) remove(pos uint32) {
	last := len(t.ids) - 1
	id := t.ids[last]
	t.ids = t.ids[:last]
	if int(pos) < last {
		if !t.up(int(pos), id) {
			t.down(int(pos), id)
		}
	}
	if last == 0 && cap(t.ids) > 1<<16 {
		t.ids = nil
	}
}

// up puts id at pos or above and tells whether it rose.
func (t *timer) up(pos int, id uint32) bool {
	start, at := pos, t.at(id)
	for pos > 0 {
		parent := (pos - 1) / 4
		p := t.ids[parent]
		if t.at(p) <= at {
			break
		}
		t.ids[pos] = p
		t.place(p, uint32(pos))
		pos = parent
	}
	t.ids[pos] = id
	t.place(id, uint32(pos))
	return pos != start
}

func (t *timer) down(pos int, id uint32) {
	at := t.at(id)
	for {
		first := 4*pos + 1
		if first >= len(t.ids) {
			break
		}
		best, bestAt := first, t.at(t.ids[first])
		for c := first + 1; c < min(first+4, len(t.ids)); c++ {
			if cAt := t.at(t.ids[c]); cAt < bestAt {
				best, bestAt = c, cAt
			}
		}
		if bestAt >= at {
			break
		}
		t.ids[pos] = t.ids[best]
		t.place(t.ids[pos], uint32(pos))
		pos = best
	}
	t.ids[pos] = id
	t.place(id, uint32(pos))
}
