package local

import (
	"sync"
	"time"

	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/limit/local/bucket"
	"github.com/clrelay/clrelay/internal/limit/local/purse"
)

const shardCount = 64

// shard is some of the keys.
type shard struct {
	mu     sync.Mutex
	keys   map[uint64]*state // by hash; those of one hash are linked
	all    []*state
	hand   int      // where in all the next sweep begins
	active []*state // those that Demands has to look at
}

// state is one key of one limit on this node. Its shard's lock guards it; home,
// hash and vals never change.
type state struct {
	home *shard
	hash uint64
	vals string // as packed; others for all that are not told apart
	next *state
	slot int // in home.all

	rule   *rule
	rate   bucket.Bucket
	conns  *slots       // of a rule with Connections
	budget *purse.Purse // of a rule with a Budget

	total   uint64        // since the key is known
	denials [3]uint64     // likewise, by kind
	crowd   uint32        // denials in this second
	crowded time.Duration // when it began
	barrier limit.Kind    // which part denied last

	active   bool // in home.active
	gone     bool // forgotten: what is still reserved counts nowhere
	used     int64
	asked    int64         // of a budget
	measured time.Duration // when used and asked were 0
	pace     float64       // used or asked a nanosecond, smoothed
	recent   float64       // the same, not smoothed
	before   uint64        // denials for want of tokens until then
	pressed  bool          // more was denied than used
	short    time.Duration // when it was denied last; 0: not lately
	lacked   time.Duration // when that was for want of tokens
}

func (st *state) words() string {
	if st.vals == limit.Others && len(st.rule.Per) > 0 {
		return limit.Others
	}
	s := unpack(st.rule.Per, st.vals)
	return s.Words(st.rule.Per)
}

// lock returns the state of s under r with its shard locked, and makes it if it
// is new. It is nil, and nothing is locked, if the rule is gone. held tells that
// the caller holds l.mu.
func (l *Limiter) lock(r *rule, s *limit.Subject, now time.Duration, held bool) *state {
	h := hash(s, l.seed, r.id, r.Per)
	sh := &l.shards[h%shardCount]
	sh.mu.Lock()
	if st := sh.find(h, r.id, s); st != nil {
		return st
	}
	sh.mu.Unlock()
	if !held {
		l.mu.RLock()
		defer l.mu.RUnlock()
	}
	if cur := l.byName[r.Name]; cur == nil || cur.id != r.id {
		return nil
	} else if r = cur; !l.admit(r, sh, now) {
		return l.create(r, nil, now)
	}
	return l.create(r, s, now)
}

func (sh *shard) find(h, id uint64, s *limit.Subject) *state {
	for st := sh.keys[h]; st != nil; st = st.next {
		if st.rule.id == id && (s == nil && st.vals == limit.Others || s != nil && packed(s, st.rule.Per, st.vals)) {
			return st
		}
	}
	return nil
}

// admit tells whether one more key of r may be told apart. It forgets some that
// say nothing any more: in the shard, and where there are too many in one after
// the other.
func (l *Limiter) admit(r *rule, sh *shard, now time.Duration) bool {
	if len(r.Per) == 0 {
		return true
	}
	l.sweep(sh, 4, now)
	if l.full(r) {
		l.sweep(&l.shards[l.broom.Add(1)%shardCount], 16, now)
	}
	return !l.full(r)
}

func (l *Limiter) full(r *rule) bool {
	return l.count.Load() >= int64(l.opts.Keys) || r.keys.Load() >= int64(max(1, l.opts.Keys/2))
}

// sweep looks at so many keys of the shard, and forgets those that are idle.
func (l *Limiter) sweep(sh *shard, looks int, now time.Duration) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for range min(looks, len(sh.all)) {
		sh.hand++
		if sh.hand >= len(sh.all) {
			sh.hand = 0
		}
		if st := sh.all[sh.hand]; st.idle(l, now) {
			l.forget(st)
		}
		if len(sh.all) == 0 {
			return
		}
	}
}

// idle tells whether nothing is lost with st: it would be made again as it is.
func (st *state) idle(l *Limiter, now time.Duration) bool {
	st.rate.Settle(now)
	return st.rate.Idle() && !st.active &&
		(st.conns == nil || len(st.conns.held) == 0 && !st.conns.shared) &&
		(st.budget == nil || !l.opts.Wall().Before(st.budget.Ends))
}

// forget takes st out of its shard, which is locked.
func (l *Limiter) forget(st *state) {
	sh := st.home
	st.gone = true
	at := sh.keys[st.hash]
	if at == st {
		if st.next == nil {
			delete(sh.keys, st.hash)
		} else {
			sh.keys[st.hash] = st.next
		}
	} else {
		for at.next != st {
			at = at.next
		}
		at.next = st.next
	}
	last := len(sh.all) - 1
	sh.all[st.slot] = sh.all[last]
	sh.all[st.slot].slot = st.slot
	sh.all[last] = nil
	sh.all = sh.all[:last]
	l.count.Add(-1)
	st.rule.keys.Add(-1)
}

// create makes the state of s under r, or that of all others if s is nil, or
// finds it made meanwhile, and leaves its shard locked. l.mu is held.
func (l *Limiter) create(r *rule, s *limit.Subject, now time.Duration) *state {
	st := &state{rule: r, vals: limit.Others, measured: now}
	if s != nil && long(r, s) {
		s = nil
	}
	if s != nil {
		st.hash, st.vals = hash(s, l.seed, r.id, r.Per), pack(s, r.Per)
	} else {
		st.hash = hash(&limit.Subject{}, l.seed, r.id, nil) ^ 1
	}
	l.assign(st, now)
	st.rate.Grow(now - max(r.since, l.grown))

	sh := &l.shards[st.hash%shardCount]
	sh.mu.Lock()
	if old := sh.find(st.hash, r.id, s); old != nil {
		return old
	}
	st.home, st.next, st.slot = sh, sh.keys[st.hash], len(sh.all)
	sh.keys[st.hash] = st
	sh.all = append(sh.all, st)
	l.count.Add(1)
	r.keys.Add(1)
	if st.rate.Shared || st.conns != nil && st.conns.shared {
		st.activate(l, now, false)
	}
	return st
}

// long tells whether the Key of s would be longer than the cluster takes. Such
// values, which no honest address is, count as others.
func long(r *rule, s *limit.Subject) bool {
	return len(limit.KeyOf(r.Name, limit.KindConnections, s.Words(r.Per))) > limit.MaxKey
}

// assign gives st the node's part, as it was told last. l.mu is held, and its
// shard is locked if it is in one.
func (l *Limiter) assign(st *state, now time.Duration) {
	r := st.rule
	own, words := uint32(0), ""
	if len(l.told.shares) > 0 {
		words = st.words() // needed to find one, which is dear when all keys are renewed
	}
	if r.Rate.N > 0 {
		own, st.rate.Shared = l.told.part(r, limit.KeyOf(r.Name, limit.KindRate, words), r.rateUnits)
	}
	part := 0.0
	if r.rateUnits > 0 {
		part = float64(own) / float64(r.rateUnits)
	}
	st.rate.Own = own
	st.rate.Give(part, float64(r.Burst), r.Rate.PerNano(), r.window(), now)
	if r.Connections > 0 {
		if st.conns == nil {
			st.conns = &slots{}
		}
		own, st.conns.shared = l.told.part(r, limit.KeyOf(r.Name, limit.KindConnections, words), r.connUnits)
		st.conns.give(r, own)
	} else if st.conns != nil {
		st.conns.forget()
	}
	if r.Budget.N > 0 {
		if st.budget == nil {
			st.budget = l.purses.Get(string(limit.KeyOf(r.Name, limit.KindBudget, st.words())), r.Budget.Per)
		}
		st.budget.Within(r.Budget.N)
	}
}
