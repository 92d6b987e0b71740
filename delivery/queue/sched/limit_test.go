package sched_test

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/delivery/queue/sched/turns"
	"github.com/clrelay/clrelay/internal/mail"
)

// bucket is a limit as a node has it: tokens that come by a rate.
type bucket struct {
	rate, burst, tokens float64 // a second
	at                  time.Time
	asked, denied       int
}

// ask takes a token, or tells after how long there is one.
func (b *bucket) ask(now time.Time) time.Duration {
	b.tokens = min(b.burst, b.tokens+b.rate*now.Sub(b.at).Seconds())
	b.at = now
	b.asked++
	if b.tokens >= 1-1e-9 {
		b.tokens--
		return 0
	}
	b.denied++
	return max(time.Millisecond, time.Duration((1-b.tokens)/b.rate*float64(time.Second)))
}

// tollRoad is a world where deliveries ask a limit before they begin.
type tollRoad struct {
	t      *testing.T
	s      *sched.Scheduler[int]
	now    time.Time
	ends   endings
	seq    int
	limit  func(lane string, ref int) (b *bucket, key string, sender bool)
	domain func(ref int) bool // what limit says is about the domain of this one; nil: of none
	took   time.Duration      // of a delivery
	sent   []int              // refs, in the order of their delivery
	at     map[int]time.Time
	byLane map[string]int
	steps  int
	pushed int
}

func newTollRoad(t *testing.T, c sched.Config) *tollRoad {
	r := &tollRoad{t: t, s: sched.New[int](c, rand.New(rand.NewPCG(1, 2))), now: time.Unix(1_800_000_000, 0),
		took: 200 * time.Millisecond, at: map[int]time.Time{}, byLane: map[string]int{}}
	r.step(&sched.Event[int]{Kind: sched.Run})
	return r
}

func (r *tollRoad) send(lane string, sender uint32, class sched.Class) int {
	r.seq++
	to := sched.Recipient{Lane: lane}
	if r.domain != nil && r.domain(r.seq) {
		to.Domain = 7
	}
	r.step(&sched.Event[int]{Kind: sched.Add, Ref: r.seq, Arrived: r.now, Sender: sender, Class: class, Recipients: []sched.Recipient{to}})
	return r.seq
}

func (r *tollRoad) step(ev *sched.Event[int]) {
	r.steps++
	for _, a := range r.s.Step(r.now, ev) {
		if a.Kind != sched.Deliver {
			r.t.Fatalf("a job of kind %d", a.Kind)
		}
		fin := &sched.Event[int]{Kind: sched.Finished, Job: a.Job, Reach: sched.Working}
		end := ending{at: r.now.Add(r.took), ev: fin}
		res := sched.Result{State: mail.StateDelivered}
		b, key, sender := r.limit(a.Lane, a.Items[0].Ref)
		if wait := b.ask(r.now); wait > 0 {
			fin.Reach, res.State, end.at = sched.NothingLearned, mail.StateActive, r.now
			fin.Denied = &sched.Denied{Key: key, Until: r.now.Add(wait), Why: mail.NewReply(451, "4.7.0", key), Sender: sender}
			if r.domain != nil && r.domain(a.Items[0].Ref) {
				res.Denied, fin.Denied = fin.Denied, nil
			}
		} else {
			if a.Asks {
				r.push(ending{at: r.now, ev: &sched.Event[int]{Kind: sched.Admitted, Job: a.Job}})
			}
			r.sent = append(r.sent, a.Items[0].Ref)
			r.at[a.Items[0].Ref] = r.now
			r.byLane[a.Lane]++
		}
		for range a.Items {
			fin.Results = append(fin.Results, res)
		}
		r.push(end)
	}
}

func (r *tollRoad) push(e ending) {
	r.pushed++
	e.seq = r.pushed
	heap.Push(&r.ends, e)
}

// pass lets time pass. A tick comes a little late, as in life.
func (r *tollRoad) pass(d time.Duration) {
	for end := r.now.Add(d); ; {
		next, job := end, false
		if at, ok := r.s.Wake(); ok && at.Add(time.Millisecond/2).Before(next) {
			next = at.Add(time.Millisecond / 2)
		}
		if len(r.ends) > 0 && !r.ends[0].at.After(next) {
			next, job = r.ends[0].at, true
		}
		if next.After(r.now) {
			r.now = next
		}
		switch {
		case !r.now.Before(end):
			return
		case job:
			r.step(heap.Pop(&r.ends).(ending).ev)
		default:
			r.step(&sched.Event[int]{Kind: sched.Tick})
		}
	}
}

// TestRateIsUsedUp: what a limit allows goes out, to one lane and to a thousand
// that share it, with one wasted question for each time it is used up.
func TestRateIsUsedUp(t *testing.T) {
	for _, c := range []struct{ rate, burst, lanes float64 }{
		{100, 5, 1}, {100, 100, 1}, {500, 10, 1}, {500, 50, 1000}, {20, 1, 1}, {20, 1, 1000}, {1, 1, 10},
	} {
		t.Run(fmt.Sprintf("%v of %v to %v", c.rate, c.burst, c.lanes), func(t *testing.T) {
			r := newTollRoad(t, sched.Config{})
			b := &bucket{rate: c.rate, burst: c.burst, at: r.now}
			r.limit = func(string, int) (*bucket, string, bool) { return b, "site", false }
			for i := range 30_000 {
				r.send(fmt.Sprint("l", i%int(c.lanes)), uint32(i%3), turns.Normal)
			}
			r.pass(10 * time.Second) // the lanes find out what they bear
			before, asked, steps := len(r.sent), b.asked, r.steps
			clear(r.byLane)
			const seconds = 40
			r.pass(seconds * time.Second)
			sent, asked, steps := len(r.sent)-before, b.asked-asked, r.steps-steps
			if least := 0.95 * c.rate * seconds; float64(sent) < least {
				t.Errorf("%d sent, want %.0f", sent, least)
			}
			if asked > 2*sent+seconds*10 {
				t.Errorf("asked %d times for %d", asked, sent)
			}
			if steps > 6*sent+seconds*10 {
				t.Errorf("%d steps for %d", steps, sent)
			}
			for lane, n := range r.byLane { // all get the same
				if share := float64(sent) / c.lanes; float64(n) > 2*share+2 {
					t.Errorf("%s got %d, a fair part is %.1f", lane, n, share)
				}
			}
		})
	}
}

// TestLimitedLaneStaysFair: to a lane with 100 a second, where one sender has
// 100,000 messages, another's message goes within its turn; and so does one of
// a class before it. Nothing is lost, nobody's order changes.
func TestLimitedLaneStaysFair(t *testing.T) {
	r := newTollRoad(t, sched.Config{})
	b := &bucket{rate: 100, burst: 10, at: r.now}
	r.limit = func(string, int) (*bucket, string, bool) { return b, "site", false }
	for range 100_000 {
		r.send("big", 1, turns.Normal)
	}
	r.pass(5 * time.Second)
	var worst time.Duration
	for i := range 60 {
		sent := r.now
		ref := r.send("big", 2+uint32(i), turns.Normal)
		r.pass(time.Second)
		if at, ok := r.at[ref]; !ok {
			t.Fatalf("message %d was not sent within a second", i)
		} else {
			worst = max(worst, at.Sub(sent))
		}
	}
	t.Logf("the longest wait was %s", worst)
	if worst > 100*time.Millisecond {
		t.Errorf("waited %s, want a few turns at 100 a second", worst)
	}
	mine := slices.DeleteFunc(slices.Clone(r.sent), func(ref int) bool { return ref > 100_000 })
	if !slices.IsSorted(mine) {
		for i := range mine {
			if i > 0 && mine[i] < mine[i-1] {
				t.Fatalf("a sender's messages changed their order: %d after %d, the %dth", mine[i], mine[i-1], i)
			}
		}
	}
	if len(r.sent) < 6000 {
		t.Errorf("%d sent in 65 s at 100 a second", len(r.sent))
	}
}

// TestClassesAtALimit: transactional, normal and bulk mail to a limited lane
// get 16, 4 and 1 of 21 turns, whichever sender has how much of it, and the
// same where each has lanes of its own.
func TestClassesAtALimit(t *testing.T) {
	for _, lanes := range []int{1, 30} {
		r := newTollRoad(t, sched.Config{})
		b := &bucket{rate: 210, burst: 10, at: r.now}
		r.limit = func(string, int) (*bucket, string, bool) { return b, "site", false }
		class := map[int]int{}
		for i := range 60_000 {
			c := turns.Class(i%3 - 1)
			class[r.send(fmt.Sprint("l", i%lanes), uint32(i%7), c)] = c.Rank()
		}
		r.pass(5 * time.Second)
		before := len(r.sent)
		r.pass(20 * time.Second)
		var n [3]int
		for _, ref := range r.sent[before:] {
			n[class[ref]]++
		}
		all := float64(n[0] + n[1] + n[2])
		t.Logf("%d lanes: %v", lanes, n)
		for rank, want := range []float64{16. / 21, 4. / 21, 1. / 21} {
			if got := float64(n[rank]) / all; got < 0.8*want || got > 1.2*want+0.01 {
				t.Errorf("%d lanes: rank %d got %.3f of the turns, want %.3f", lanes, rank, got, want)
			}
		}
	}
}

// TestLimitedSender: a limit on one sender's mail to thousands of lanes, one
// of which is suspended for a day, lets others go on at once, and itself is
// used up.
func TestLimitedSender(t *testing.T) {
	r := newTollRoad(t, sched.Config{})
	b := &bucket{rate: 50, burst: 5, at: r.now}
	free := &bucket{rate: 1e9, burst: 1e9, at: r.now}
	shut := &bucket{rate: 1. / 86_400, burst: 1, at: r.now}
	sender := map[int]uint32{}
	r.limit = func(lane string, ref int) (*bucket, string, bool) {
		switch {
		case lane == "l7":
			return shut, "l7", false
		case sender[ref] == 1:
			return b, "sender=1", true
		}
		return free, "", false
	}
	send := func(lane string, s uint32) int {
		sender[r.seq+1] = s
		return r.send(lane, s, turns.Normal)
	}
	for i := range 20_000 {
		send(fmt.Sprint("l", i%5000), 1)
	}
	r.pass(5 * time.Second)
	before := len(r.sent)
	for i := range 40 {
		now := r.now
		ref := send(fmt.Sprint("l", 100+i), 2)
		r.pass(500 * time.Millisecond)
		if at, ok := r.at[ref]; !ok || at.Sub(now) > 10*time.Millisecond {
			t.Errorf("another's message waited for the limited sender: %v, %s", ok, at.Sub(now))
		}
	}
	if n := len(r.sent) - before - 40; n < 950 {
		t.Errorf("%d of the limited sender sent in 20 s at 50 a second", n)
	}
}

// TestThousandsPaused: lanes that wait for a limit each cost nothing while
// they wait.
func TestThousandsPaused(t *testing.T) {
	r := newTollRoad(t, sched.Config{})
	shut := map[string]*bucket{}
	r.limit = func(lane string, _ int) (*bucket, string, bool) {
		if shut[lane] == nil {
			shut[lane] = &bucket{rate: 1. / 3600, burst: 1, at: r.now}
		}
		return shut[lane], lane, false
	}
	for i := range 30_000 {
		r.send(fmt.Sprint("l", i%10_000), 1, turns.Normal)
	}
	steps := r.steps
	r.pass(4 * time.Minute)
	if n := r.steps - steps; n > 20_000+10 { // the ends of the first questions
		t.Errorf("%d steps while nothing may be done", n)
	}
	r.pass(90 * time.Minute)
	if n := len(r.sent); n != 10_000 {
		t.Errorf("%d sent in 94 minutes, want one to each", n)
	}
}

// TestLimitedDomain: of a lane with mail for many domains one is suspended that
// has thousands of messages in front, of the same sender and of another. The
// others' mail goes at its pace; what waits is asked about once, then not one by
// one; and when it may go it goes in order, each class and sender with its part.
func TestLimitedDomain(t *testing.T) {
	const many = 10_000
	r := newTollRoad(t, sched.Config{})
	shut := &bucket{rate: 1. / 600, burst: 1, at: r.now}
	free := &bucket{rate: 1e9, burst: 1e9, at: r.now}
	domain := map[int]bool{}
	r.domain = func(ref int) bool { return domain[ref] }
	limit := shut
	r.limit = func(_ string, ref int) (*bucket, string, bool) {
		if domain[ref] {
			return limit, "domain=st.example", false
		}
		return free, "", false
	}
	start := r.now
	for i := range many {
		domain[r.seq+1] = true
		r.send("smarthost", uint32(i%2), turns.Normal)
	}
	var others []int
	for i := range 20 {
		others = append(others, r.send("smarthost", uint32(i%3), turns.Normal))
	}
	r.pass(time.Second)
	for _, ref := range others {
		if at, ok := r.at[ref]; !ok || at.Sub(start) > time.Second {
			t.Errorf("message %d to another domain waits", ref)
		}
	}
	if shut.asked > many+10 {
		t.Errorf("%d questions for %d messages", shut.asked, many)
	}
	asked := shut.asked
	for range 60 {
		now := r.now
		ref := r.send("smarthost", 1, turns.Bulk)
		r.pass(time.Second)
		if at, ok := r.at[ref]; !ok || at.Sub(now) > 10*time.Millisecond {
			t.Errorf("message %d to another domain waited: %v, %s", ref, ok, at.Sub(now))
		}
	}
	if n := shut.asked - asked; n > 2 {
		t.Errorf("asked %d times while nothing may go", n)
	}

	limit = &bucket{rate: 100, burst: 10, at: r.now}
	domain[r.seq+1] = true
	urgent := r.send("smarthost", 7, turns.Transactional)
	before := len(r.sent)
	r.step(&sched.Event[int]{Kind: sched.Relax})
	r.pass(10 * time.Second)
	sent := r.sent[before:]
	if n := len(sent); n < 950 || limit.asked > 3*n {
		t.Errorf("%d sent in 10 s at 100 a second, asked %d times", n, limit.asked)
	}
	if i := slices.Index(sent, urgent); i < 0 || i > 20 {
		t.Errorf("transactional mail came as number %d", i)
	}
	var last, n [2]int
	for _, ref := range sent {
		if ref == urgent {
			continue
		}
		from := (ref - 1) % 2
		if n[from]++; ref < last[from] {
			t.Fatalf("a sender's messages changed their order: %d after %d", ref, last[from])
		}
		last[from] = ref
	}
	if d := n[0] - n[1]; d > 20 || d < -20 {
		t.Errorf("the senders got %v", n)
	}
}

// TestLimitedDomainStaysFair: where a domain has a rate and one sender much more
// mail for it than that, what comes anew does not go before what waits: another's
// messages have their turns, and the flood keeps its order.
func TestLimitedDomainStaysFair(t *testing.T) {
	r := newTollRoad(t, sched.Config{})
	b := &bucket{rate: 100, burst: 10, at: r.now}
	r.domain = func(int) bool { return true }
	r.limit = func(string, int) (*bucket, string, bool) { return b, "domain=bud.example", false }
	start := r.now
	var mine []int
	for i := range 8000 {
		r.send("smarthost", 1, turns.Normal)
		if i%20 == 0 && i >= 2000 && len(mine) < 50 {
			mine = append(mine, r.send("smarthost", 2, turns.Normal))
		}
		r.pass(time.Millisecond / 2)
	}
	for _, ref := range mine {
		if _, ok := r.at[ref]; !ok {
			t.Errorf("message %d waits for a flood that came later", ref)
		}
	}
	flood := slices.DeleteFunc(slices.Clone(r.sent), func(ref int) bool {
		return slices.Contains(mine, ref) || r.at[ref].Sub(start) < time.Second // the lane finds out what it bears
	})
	if !slices.IsSorted(flood) {
		t.Errorf("the flood changed its order: %v", flood)
	}
	if len(r.sent) < 350 || b.asked > 4*len(r.sent) {
		t.Errorf("%d sent in 4 s at 100 a second, asked %d times", len(r.sent), b.asked)
	}
}
