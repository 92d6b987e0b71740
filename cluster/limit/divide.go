package limit

import (
	"cmp"
	"slices"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/proto/control"
)

// share is how a key ought to be divided: for each seat what it uses when it is
// cut off, the rest max-min fair by what is wanted, and what nobody wants evenly
// among the nodes that are there.
func (m *Machine) share(k *key) []uint32 {
	out := make([]uint32, len(k.parts))
	least := control.Reserve(k.of)
	left := k.of - min(k.of, least*uint32(len(k.parts)+m.coming()))
	var wanting, there []int
	for i := range k.parts {
		s := &m.roster.Seats[i]
		if s.State != fsm.Seated {
			continue
		}
		out[i] = least
		if m.nodes[s.Node].silent {
			continue
		}
		there = append(there, i)
		if m.wants(k, i) > out[i] {
			wanting = append(wanting, i)
		}
	}
	for left > 0 && len(wanting) > 0 {
		each := left / uint32(len(wanting))
		if each == 0 {
			m.order(k, wanting, out)
			for _, i := range wanting[:left] {
				out[i]++
			}
			return out
		}
		wanting = slices.DeleteFunc(wanting, func(i int) bool {
			more := min(each, m.wants(k, i)-out[i])
			out[i] += more
			left -= more
			return out[i] == m.wants(k, i)
		})
	}
	for n, i := range there {
		out[i] += left / uint32(len(there))
		if uint32(n) < left%uint32(len(there)) {
			out[i]++
		}
	}
	return out
}

// order puts those first who get one of the last units: of nodes that have
// nothing, whoever is in the middle of a turn, then whoever had something the
// longest ago; of others whoever has more already, so that nothing moves to and
// fro.
func (m *Machine) order(k *key, wanting []int, out []uint32) {
	rank := func(i int) (int, int64) {
		p := &k.parts[i]
		switch {
		case out[i] > 0:
			return 0, -int64(p.units)
		case p.units > 0 && m.now-p.since < Turn:
			return 0, 0
		case p.units > 0:
			return 1, int64(m.now)
		}
		return 1, int64(p.last)
	}
	slices.SortFunc(wanting, func(a, b int) int {
		ra, va := rank(a)
		rb, vb := rank(b)
		return cmp.Or(cmp.Compare(ra, rb), cmp.Compare(va, vb), cmp.Compare(a, b))
	})
}
