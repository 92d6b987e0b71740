package shape

import "slices"

// slack is how many times the names that are kept there may be before the
// small ones are let go: large ones are hardly ever let go by mistake then,
// and the sorting is paid for by many new names.
const slack = 4

// top has a row for each name, for the most frequent ones at least.
type top[R any] struct {
	rows  map[string]R
	keep  int
	fresh func(name string) R
	order func(a, b R) int // the most frequent first
	name  func(R) string
	cut   bool // rows were let go
}

// at gives the row of a name. It takes memory for a new name alone.
func (t *top[R]) at(name []byte) R {
	if r, ok := t.rows[string(name)]; ok {
		return r
	}
	if len(t.rows) >= slack*t.keep {
		for _, r := range t.sorted()[t.keep:] {
			delete(t.rows, t.name(r))
		}
		t.cut = true
	}
	own := string(name)
	r := t.fresh(own)
	t.rows[own] = r
	return r
}

func (t *top[R]) sorted() []R {
	out := make([]R, 0, len(t.rows))
	for _, r := range t.rows {
		out = append(out, r)
	}
	slices.SortFunc(out, t.order)
	return out
}

// first gives the most frequent rows, at most limit; 0 is all that are kept.
// cut tells whether there were more than can be told apart.
func (t *top[R]) first(limit int64) (rows []R, cut bool) {
	rows = t.sorted()
	cut = t.cut || len(rows) > t.keep
	n := int64(min(len(rows), t.keep))
	if limit > 0 {
		n = min(n, limit)
	}
	return rows[:n], cut
}
