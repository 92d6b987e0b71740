package sim

import "time"

// link is one direction between two nodes.
type link struct {
	cut      bool
	loss     int           // of 1,000 datagrams
	dup      int           // of 1,000 datagrams
	min, max time.Duration // delay
	slow     int           // of 1,000: delayed up to slowMax
	slowMax  time.Duration
}

// network carries datagrams (Raft's traffic, beacons, proposals on their way
// to the leader) and streams (items between nodes). Datagrams are lost, come
// twice and late and in any order. A stream keeps its order and loses nothing
// until it breaks; then it loses a tail, and both ends are told, each in its
// own time.
type network struct {
	w     *world
	links [][]link
}

func newNetwork(w *world, nodes int) *network {
	n := &network{w: w, links: make([][]link, nodes)}
	for i := range n.links {
		n.links[i] = make([]link, nodes)
	}
	n.calm()
	return n
}

// calm makes all links good.
func (n *network) calm() {
	for i := range n.links {
		for j := range n.links[i] {
			n.links[i][j] = link{min: 100 * time.Microsecond, max: 2 * time.Millisecond}
		}
	}
}

func (n *network) grow() {
	for i := range n.links {
		n.links[i] = append(n.links[i], n.links[0][0])
		n.links[i][len(n.links[i])-1].cut = false
	}
	row := make([]link, len(n.links)+1)
	for j := range row {
		row[j] = link{min: 100 * time.Microsecond, max: 2 * time.Millisecond}
	}
	n.links = append(n.links, row)
}

// up is whether datagrams go both ways.
func (n *network) up(a, b int) bool {
	return a == b || !n.links[a][b].cut && !n.links[b][a].cut
}

// datagram delivers fn at the other end: never, once or twice, in any order.
func (n *network) datagram(from, to int, what string, fn func()) {
	l := &n.links[from][to]
	if from == to {
		n.w.after(10*time.Microsecond, what, fn)
		return
	}
	for range 1 + b2i(n.w.chance(l.dup)) {
		if l.cut || n.w.chance(l.loss) {
			continue
		}
		n.w.after(n.delay(l), what, fn)
	}
}

func (n *network) delay(l *link) time.Duration {
	if n.w.chance(l.slow) {
		return n.w.between(l.min, l.slowMax)
	}
	return n.w.between(l.min, l.max)
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
