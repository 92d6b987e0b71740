package local

import (
	"errors"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/limit/local/bucket"
	"github.com/clrelay/clrelay/internal/limit/local/purse"
)

// MaxKeys bounds how many keys a Limiter tells apart. Those beyond it, and those
// of one limit beyond half of it, are counted together as one key, "*", so that
// who floods it with names gets no memory, and nobody's bucket is forgotten
// before it is full again.
const MaxKeys = 250_000

// Options of a Limiter. All are required but Keys.
type Options struct {
	Now  func() time.Duration // monotonic; on a node of a cluster CLOCK_BOOTTIME, by which leases end
	Wall func() time.Time     // ends windows of budgets, and limits
	Keys int                  // MaxKeys if 0
}

// Limiter holds a node to its part of all limits. It may be used by many
// goroutines.
//
// Locks: Limiter.mu is about definitions and what the node was told of its part;
// it is taken before a shard's, and never while one is held. What is asked of
// known keys takes shards alone, one at a time.
type Limiter struct {
	opts  Options
	seed  maphash.Seed
	index atomic.Pointer[index]
	count atomic.Int64
	broom atomic.Uint64 // which shard is swept next
	want  chan struct{}
	news  chan struct{}
	ends  atomic.Int64 // of the lease, by opts.Now; 0: it does not end by itself

	mu         sync.RWMutex
	configured []limit.Definition
	overrides  []limit.Definition
	byName     map[string]*rule
	lastID     uint64
	told       told
	grown      time.Duration // when the even part became larger
	opened     register
	purses     purse.Purses // of limits that are gone

	shards [shardCount]shard
}

var _ limit.Local = (*Limiter)(nil)

// New returns a Limiter without limits, and without a part of any.
func New(o Options) *Limiter {
	if o.Keys == 0 {
		o.Keys = MaxKeys
	}
	l := &Limiter{opts: o, seed: maphash.MakeSeed(), want: make(chan struct{}, 1), news: make(chan struct{}, 1), byName: map[string]*rule{}}
	l.index.Store(&index{})
	l.opened.all = map[*opening]struct{}{}
	for i := range l.shards {
		l.shards[i].keys = map[uint64]*state{}
	}
	return l
}

// Ticket is a permission to send or take something soon. The zero value is one
// that no limit is about. It belongs to one goroutine.
type Ticket struct {
	l     *Limiter
	n     int
	waits bool // it stands in a line
	few   [6]claim
	more  []claim
}

// claim is a Ticket's part in one key.
type claim struct {
	s     *state
	n     int64
	place bucket.Place  // in the line for tokens
	due   time.Duration // when it will be its turn, as it was foreseen
}

func (t *Ticket) add(c claim) {
	if t.n < len(t.few) {
		t.few[t.n] = c
	} else {
		t.more = append(t.more, c)
	}
	t.n++
}

func (t *Ticket) at(i int) *claim {
	if i < len(t.few) {
		return &t.few[i]
	}
	return &t.more[i-len(t.few)]
}

// Reserve asks for n on behalf of s. All limits that apply must allow it, or
// none has it reserved, and the Denied is of the one that takes longest. A
// reservation bounds how many are under way; what counts is Use.
func (l *Limiter) Reserve(side limit.Side, s *limit.Subject, n limit.Amount) (t Ticket, denied *limit.Denied) {
	now := l.opts.Now()
	var f found
	l.index.Load().sides[side].find(&f, s, now)
	t.l = l
	for i := range f.n {
		r := f.at(i)
		if d := l.reserve(&t, r, s, r.amount(n), now); d != nil && (denied == nil || d.Left > denied.Left) {
			denied = d
		}
	}
	if denied != nil {
		t.Cancel()
	}
	return t, denied
}

func (l *Limiter) reserve(t *Ticket, r *rule, s *limit.Subject, n int64, now time.Duration) *limit.Denied {
	if r.Suspended {
		return r.suspended(s, now)
	}
	if n <= 0 || r.Rate.N == 0 && r.Budget.N == 0 {
		return nil
	}
	st := l.lock(r, s, now, false)
	if st == nil {
		return nil
	}
	defer st.home.mu.Unlock()
	r = st.rule
	if r.Rate.N > 0 {
		b := &st.rate
		b.Settle(now)
		if lead := r.lead(); !b.Room(n, lead) {
			base := bucket.NoPart
			if b.Most() > 0 {
				base = max(b.Free(n)-lead, time.Millisecond)
			}
			st.lacked = max(now, 1)
			return st.deny(l, limit.KindRate, b.Turn(n, base, now, st.crowd), base, now)
		}
	}
	if r.Budget.N > 0 {
		p := st.budget
		st.activate(l, now, false)
		wall := l.opts.Wall()
		st.asked += n
		if p.Left(wall)-st.rate.Reserved < n {
			p.Wanted = max(p.Wanted, n+st.rate.Reserved)
			again, left := p.Short(r.Budget.Per, now, wall)
			return st.deny(l, limit.KindBudget, again, left, now)
		}
	}
	st.rate.Reserved += n
	t.add(claim{s: st, n: n})
	return nil
}

// ahead is how much earlier than its token a message may be begun: connecting
// takes time, and a rate is to be used up although the burst is small. Ticket.Use
// holds it back until the token is there.
const ahead = 500 * time.Millisecond

// lead is how much earlier than its token something of the rule may begin. Who
// is received is not to be asked to wait at the end.
func (r *rule) lead() time.Duration {
	if r.Side == limit.Receive {
		return 0
	}
	return ahead
}

// Use counts what was reserved, as of now: right before it goes out. If it
// returns a wait it has counted nothing: the node has less than it had, or the
// tokens are still to come; ask again after it. After a Use that returned 0 the
// Ticket is spent.
//
// Who waits stands in a line, and those who come later get no tokens that it
// lacks. A Ticket stands in one line only, where it had to wait first, and until
// all of it is counted; it takes the tokens of other keys as it finds them. So
// nobody in a line waits for another line, and nobody loses a place.
func (t *Ticket) Use() (wait time.Duration) {
	if t.n == 0 {
		return 0
	}
	now := t.l.opts.Now()
	last := t.n - 1
	for i := range t.n {
		if wait = t.take(i, now, i == last); wait > 0 {
			for j := range i {
				t.at(j).giveBack()
			}
			return wait
		}
	}
	t.n = last
	t.Cancel()
	return 0
}

// take counts a claim. What was reserved for it stays so until all of the Ticket
// is counted, but for the last: nothing that is claimed may be forgotten
// meanwhile.
func (t *Ticket) take(i int, now time.Duration, last bool) time.Duration {
	c, l := t.at(i), t.l
	st := c.s
	st.home.mu.Lock()
	defer st.home.mu.Unlock()
	if st.gone {
		return 0 // the limit is no more, or counts by something else since
	}
	b, r := &st.rate, st.rule
	if r.Rate.N > 0 {
		b.Settle(now)
		if wait := t.wait(c, now); l.lapsed(r, now) || wait > 0 {
			if !t.waits {
				b.Join(&c.place, c.n)
				c.due, t.waits = now+wait, true
				st.denied(l, limit.KindRate, now)
			}
			st.lacked = max(now, 1)
			st.activate(l, now, true)
			return max(wait, time.Millisecond)
		}
	}
	if r.Budget.N > 0 {
		if wall := l.opts.Wall(); st.budget.Left(wall) < c.n {
			st.denied(l, limit.KindBudget, now)
			again, _ := st.budget.Short(r.Budget.Per, now, wall)
			return again
		}
		st.budget.Spend(c.n)
	}
	if r.Rate.N > 0 {
		b.Take(c.n, now)
		st.used += c.n
	}
	st.total += uint64(c.n)
	if last {
		b.Leave(&c.place)
		b.Reserved -= c.n
	}
	return 0
}

// wait is how long until c may have its tokens. A newcomer leaves those in the
// line what they lack, and so does who stands in it before it is his turn, as it
// was foreseen: then he takes what is there, like one who stands in another line.
func (t *Ticket) wait(c *claim, now time.Duration) time.Duration {
	b := &c.s.rate
	if t.waits && (now >= c.due || !c.place.Waits()) {
		return b.Lack(c.n)
	}
	return b.Next(&c.place, c.n)
}

// lapsed tells whether the lease is over and nobody has said so yet: a process
// that was stopped must not go on with what others have by now.
func (l *Limiter) lapsed(r *rule, now time.Duration) bool {
	ends := l.ends.Load()
	return ends != 0 && now >= time.Duration(ends) && r.OnPartition != limit.Full
}

// giveBack undoes take, in the same instant.
func (c *claim) giveBack() {
	st := c.s
	st.home.mu.Lock()
	defer st.home.mu.Unlock()
	if st.gone {
		return
	}
	if st.rule.Rate.N > 0 {
		st.rate.GiveBack(c.n)
		st.used -= c.n
	}
	if st.rule.Budget.N > 0 {
		st.budget.Spend(-c.n)
	}
	st.total -= uint64(c.n)
}

// Free tells whether no limit counts the Ticket.
func (t *Ticket) Free() bool { return t.n == 0 }

// Cancel gives up what was reserved and not used. It may be called always.
func (t *Ticket) Cancel() {
	for i := range t.n {
		c := t.at(i)
		c.s.home.mu.Lock()
		c.s.rate.Reserved -= c.n
		c.s.rate.Leave(&c.place)
		c.s.home.mu.Unlock()
	}
	t.n, t.waits = 0, false
}

// maxWait is how long anybody is told to wait at most: limits change meanwhile.
const maxWait = time.Minute

func (r *rule) suspended(s *limit.Subject, now time.Duration) *limit.Denied {
	r.refused.Add(1)
	left := time.Hour
	if r.ends > 0 {
		left = max(r.left(now), time.Millisecond)
	}
	return &limit.Denied{Limit: r.Name, Key: s.Words(r.Per), Kind: limit.KindSuspended, Wait: min(left, maxWait), Left: left, Reason: r.Reason, Sender: r.AboutSender(), Domain: r.AboutDomain()}
}

// deny counts and words a refusal. The shard is locked.
func (st *state) deny(l *Limiter, kind limit.Kind, wait, left, now time.Duration) *limit.Denied {
	st.denied(l, kind, now)
	return &limit.Denied{
		Limit: st.rule.Name, Key: st.words(), Kind: kind,
		Wait: min(max(wait, time.Millisecond), maxWait), Left: max(left, time.Millisecond),
		Reason: st.rule.Reason, Sender: st.rule.AboutSender(), Domain: st.rule.AboutDomain(),
	}
}

// denied counts one.
func (st *state) denied(l *Limiter, kind limit.Kind, now time.Duration) {
	st.denials[kind]++
	st.barrier = kind
	if now-st.crowded > time.Second {
		st.crowd, st.crowded = 0, now
	}
	st.crowd++
	st.activate(l, now, true)
}

// Definition returns the limit of this name as it is in force.
func (l *Limiter) Definition(name string) (limit.Definition, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	r := l.byName[name]
	if r == nil {
		return limit.Definition{}, false
	}
	return r.Definition, true
}

// Wanting receives something when a key is in demand of which nothing was wanted
// before, so that the others can be asked at once.
func (l *Limiter) Wanting() <-chan struct{} { return l.want }

// Changed receives something when limits are others than they were: who was
// denied may be allowed now.
func (l *Limiter) Changed() <-chan struct{} { return l.news }

// Configure sets the limits of cluster.yaml. If one of them is wrong nothing
// changes. Limits that are as before keep what they know; those whose numbers
// alone are new keep it as far as it fits.
func (l *Limiter) Configure(defs []limit.Definition) error { return l.set(&l.configured, defs) }

// Override sets the limits that operators and shaping have made, all of them at
// once, as Configure does. One with the name of a configured limit stands in its
// place.
func (l *Limiter) Override(defs []limit.Definition) error { return l.set(&l.overrides, defs) }

// errTwice is for two limits of one name.
var errTwice = errors.New("there are two limits of this name")
