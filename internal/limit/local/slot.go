package local

import (
	"sync"
	"time"

	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/limit/local/bucket"
)

// Slot is a connection that counts. The zero value is one that nobody asked for.
type Slot struct {
	o *opening
	l *Limiter
}

// opening is an open connection. All of them are known, also those that no limit
// is about yet: one that is set later counts them.
type opening struct {
	side    limit.Side
	subject limit.Subject
	revoke  func(now bool)
	revoked uint8 // 1 when idle, 2 now; under Limiter.mu, for writing
	holds   []*hold
	mu      sync.Mutex // guards holds
}

// hold is an opening's place in a key.
type hold struct {
	o    *opening
	s    *state
	slot int // in s.conns.held
}

// register is all openings.
type register struct {
	mu  sync.Mutex
	all map[*opening]struct{}
}

// Open asks for one connection. It counts until its Close. When the node gets a
// smaller part than it has connections revoke is called for some, once with
// false: to be closed when it is idle, and when the node is cut off from the
// others with true: at once. It is called by whoever calls Apply, Configure or
// Override, without a lock, maybe while Open has not returned yet or after Close.
func (l *Limiter) Open(side limit.Side, s *limit.Subject, revoke func(now bool)) (Slot, *limit.Denied) {
	now := l.opts.Now()
	l.mu.RLock()
	defer l.mu.RUnlock()
	var f found
	l.index.Load().sides[side].find(&f, s, now)
	o := &opening{side: side, subject: *s, revoke: revoke}
	var denied *limit.Denied
	for i := range f.n {
		if d := l.open(o, f.at(i), now); d != nil && (denied == nil || d.Left > denied.Left) {
			denied = d
		}
	}
	if denied != nil {
		o.release()
		return Slot{}, denied
	}
	l.opened.mu.Lock()
	l.opened.all[o] = struct{}{}
	l.opened.mu.Unlock()
	return Slot{o, l}, nil
}

// connectionWait is how long somebody waits for one to end.
const connectionWait = 500 * time.Millisecond

func (l *Limiter) open(o *opening, r *rule, now time.Duration) *limit.Denied {
	if r.Suspended {
		return r.suspended(&o.subject, now)
	}
	if r.Connections == 0 {
		return nil
	}
	st := l.lock(r, &o.subject, now, true)
	if st == nil {
		return nil
	}
	defer st.home.mu.Unlock()
	if c := st.conns; len(c.held) >= c.may || l.lapsed(r, now) {
		c.refused++
		c.lacked = max(now, 1)
		wait := connectionWait
		if c.may == 0 {
			wait = bucket.NoPart
		}
		return st.deny(l, limit.KindConnections, wait, wait, now)
	}
	o.join(st)
	return nil
}

// join counts o in st, whose shard is locked.
func (o *opening) join(st *state) {
	h := &hold{o: o, s: st, slot: len(st.conns.held)}
	st.conns.held = append(st.conns.held, h)
	if len(st.conns.held) < st.conns.may {
		st.conns.lacked = 0 // there is enough
	}
	st.total++
	o.mu.Lock()
	o.holds = append(o.holds, h)
	o.mu.Unlock()
	if st.conns.shared && !st.active {
		st.active = true
		st.home.active = append(st.home.active, st)
	}
}

func (o *opening) in(r *rule) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, h := range o.holds {
		if h.s.rule.id == r.id {
			return true
		}
	}
	return false
}

func (o *opening) release() {
	o.mu.Lock()
	holds := o.holds
	o.holds = nil
	o.mu.Unlock()
	for _, h := range holds {
		h.s.home.mu.Lock()
		held := h.s.conns.held
		last := len(held) - 1
		held[h.slot] = held[last]
		held[h.slot].slot = h.slot
		held[last] = nil
		h.s.conns.held = held[:last]
		h.s.home.mu.Unlock()
	}
}

// Close ends the counting. It may be called again.
func (s *Slot) Close() {
	if s.o == nil {
		return
	}
	s.l.opened.mu.Lock()
	delete(s.l.opened.all, s.o)
	s.l.opened.mu.Unlock()
	s.o.release()
	s.o = nil
}

// revokes collects what is to be called when no lock is held.
type revokes struct {
	now  bool
	list []*opening
}

// excess adds the connections of st that the node has no part for any more. l.mu
// is held for writing, and the shard is locked.
func (v *revokes) excess(st *state) {
	c := st.conns
	if c == nil || st.rule.Connections == 0 {
		return
	}
	level := uint8(1)
	if v.now {
		level = 2
	}
	over := len(c.held) - c.may
	for _, h := range c.held {
		if h.o.revoked >= level {
			over--
		}
	}
	for _, h := range c.held {
		if over <= 0 {
			return
		}
		if h.o.revoked < level {
			h.o.revoked = level
			v.list = append(v.list, h.o)
			over--
		}
	}
}

func (v *revokes) call() {
	for _, o := range v.list {
		if o.revoke != nil {
			o.revoke(v.now)
		}
	}
}
