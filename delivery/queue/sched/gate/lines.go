package gate

// Lines knows of which domains recipients stand apart in a lane, and which
// limit's Key keeps them.
type Lines map[uint64]line

type line struct {
	limit string // of the one that came last
	n     uint32 // how many they are
}

func lineKey(lane uint32, domain uint16) uint64 { return uint64(lane)<<16 | uint64(domain) }

// Of gives the limit, empty when none stands apart.
func (l Lines) Of(lane uint32, domain uint16) string { return l[lineKey(lane, domain)].limit }

// Len gives how many stand apart of one.
func (l Lines) Len(lane uint32, domain uint16) int { return int(l[lineKey(lane, domain)].n) }

// Join takes one more in.
func (l Lines) Join(lane uint32, domain uint16, limit string) {
	key := lineKey(lane, domain)
	l[key] = line{limit, l[key].n + 1}
}

// Leave lets one go.
func (l Lines) Leave(lane uint32, domain uint16) {
	key := lineKey(lane, domain)
	if ln := l[key]; ln.n > 1 {
		l[key] = line{ln.limit, ln.n - 1}
	} else {
		delete(l, key)
	}
}
