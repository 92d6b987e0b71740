package sim

import (
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
)

// streams are the ordered connections between nodes, as cluster/replica
// promises them: in order and without gaps while they last, Down at both ends
// before the next Up, nothing of an old stream on a new one.
type streams[T any] struct {
	w     *world
	net   *network
	pairs map[[2]int]*stream[T]
	order [][2]int

	// ready is whether a node's process may connect: it runs, is not paused
	// and knows its session. process numbers its incarnations.
	ready   func(node int) bool
	alive   func(node int) bool
	process func(node int) uint64
	ident   func(node int) ident
	up      func(node int, peer ident)
	down    func(node int, peer ident)
	receive func(node int, peer ident, items []T)
}

// ident is what a handshake says of an end.
type ident struct {
	ref     fsm.Ref
	session fsm.Session
}

// stream is the connection of a pair; index 0 is the lower node's end.
type stream[T any] struct {
	id    uint64 // of this attempt; 0: none
	ends  [2]streamEnd[T]
	bad   time.Duration // since when nothing moves; 0: it moves
	ended bool          // being torn down
}

type streamEnd[T any] struct {
	node    int
	ident   ident
	process uint64
	up      bool
	out     []flight[T] // to the other end
	last    time.Duration
}

type flight[T any] struct {
	at   time.Duration
	item T
}

func newStreams[T any](w *world, net *network) *streams[T] {
	s := &streams[T]{w: w, net: net, pairs: map[[2]int]*stream[T]{}}
	w.after(0, "streams", s.tick)
	return s
}

// connect makes a pair known.
func (s *streams[T]) connect(a, b int) {
	k := [2]int{min(a, b), max(a, b)}
	if a != b && s.pairs[k] == nil {
		s.pairs[k] = &stream[T]{}
		s.order = append(s.order, k)
	}
}

func (s *streams[T]) tick() {
	s.w.after(50*time.Millisecond, "streams", s.tick)
	for _, k := range s.order {
		st := s.pairs[k]
		switch {
		case st.id == 0:
			s.dial(k, st)
		case !st.ended:
			s.watch(k, st)
		}
	}
}

// dial makes a stream where both ends can.
func (s *streams[T]) dial(k [2]int, st *stream[T]) {
	if !s.ready(k[0]) || !s.ready(k[1]) || !s.net.up(k[0], k[1]) || !s.w.chance(400) {
		return
	}
	s.w.nextID++
	*st = stream[T]{id: s.w.nextID}
	for i, n := range k {
		st.ends[i] = streamEnd[T]{node: n, ident: s.ident(n), process: s.process(n)}
	}
	for i := range k {
		id := st.id
		s.w.after(s.w.between(0, 20*time.Millisecond), "stream up", func() { s.raise(k, id, i) })
	}
}

func (s *streams[T]) raise(k [2]int, id uint64, i int) {
	st := s.pairs[k]
	e := &st.ends[i]
	if st.id != id || st.ended || e.up || s.process(e.node) != e.process || !s.alive(e.node) {
		return
	}
	e.up = true
	s.up(e.node, st.ends[1-i].ident)
	s.pump(k, id, 1-i)
}

// watch ends a stream that made no progress for a second, or whose other end
// is another process now.
func (s *streams[T]) watch(k [2]int, st *stream[T]) {
	reset := s.process(k[0]) != st.ends[0].process || s.process(k[1]) != st.ends[1].process
	stuck := !s.net.up(k[0], k[1]) || !s.alive(k[0]) || !s.alive(k[1]) || !st.ends[0].up || !st.ends[1].up
	l := s.net.links[k[0]][k[1]]
	unlucky := l.loss > 0 && s.w.chance(l.loss/10)
	if !stuck && !reset {
		st.bad = 0
	} else if st.bad == 0 {
		st.bad = s.w.now
	}
	if unlucky || stuck && s.w.now-st.bad > time.Second || reset && s.w.now-st.bad > s.w.between(0, time.Second) {
		s.tear(k, st)
	}
}

// tear ends a stream; each end hears it in its own time, and until then goes
// on to hear what had been sent.
func (s *streams[T]) tear(k [2]int, st *stream[T]) {
	st.ended = true
	left := 2
	for i := range k {
		s.w.after(s.w.between(0, 500*time.Millisecond), "stream down", func() { s.lower(st, i, &left) })
	}
}

func (s *streams[T]) lower(st *stream[T], i int, left *int) {
	e := &st.ends[i]
	if s.process(e.node) == e.process && !s.alive(e.node) {
		s.w.after(50*time.Millisecond, "stream down", func() { s.lower(st, i, left) })
		return
	}
	if e.up && s.process(e.node) == e.process {
		s.down(e.node, st.ends[1-i].ident)
	}
	e.up = false
	if *left--; *left == 0 {
		*st = stream[T]{}
	}
}

// send queues an item. False: there is no stream.
func (s *streams[T]) send(from, to int, item T) bool {
	k := [2]int{min(from, to), max(from, to)}
	st := s.pairs[k]
	if st == nil || st.id == 0 {
		return false
	}
	i := b2i(from == k[1])
	e := &st.ends[i]
	if !e.up || e.process != s.process(from) {
		return false
	}
	e.last = max(e.last, s.w.now+s.net.delay(&s.net.links[from][to]))
	e.out = append(e.out, flight[T]{e.last, item})
	if len(e.out) == 1 {
		id := st.id
		s.w.after(e.last-s.w.now, "item", func() { s.pump(k, id, i) })
	}
	return true
}

// pump delivers what is due from end i.
func (s *streams[T]) pump(k [2]int, id uint64, i int) {
	st := s.pairs[k]
	if st.id != id || len(st.ends[i].out) == 0 {
		return
	}
	from, to := &st.ends[i], &st.ends[1-i]
	if s.net.links[from.node][to.node].cut || !s.alive(to.node) {
		s.w.after(20*time.Millisecond, "item again", func() { s.pump(k, id, i) })
		return
	}
	if !to.up || s.process(to.node) != to.process {
		return
	}
	var due []T
	for len(from.out) > 0 && from.out[0].at <= s.w.now {
		due = append(due, from.out[0].item)
		from.out = from.out[1:]
	}
	if len(due) > 0 {
		s.receive(to.node, from.ident, due)
	}
	if st.id == id && to.up && len(from.out) > 0 {
		s.w.after(max(from.out[0].at-s.w.now, time.Microsecond), "item", func() { s.pump(k, id, i) })
	}
}
