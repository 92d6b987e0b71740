package sched_test

import (
	"container/heap"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/internal/mail"
)

var million = flag.Bool("million", false, "play TestMillionBehindDead with a million messages")

// ending is a job and when it ends.
type ending struct {
	at  time.Time
	ev  *sched.Event[int]
	seq int
}

type endings []ending

func (e endings) Len() int { return len(e) }
func (e endings) Less(i, j int) bool {
	return e[i].at.Before(e[j].at) || e[i].at.Equal(e[j].at) && e[i].seq < e[j].seq
}
func (e endings) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *endings) Push(x any)   { *e = append(*e, x.(ending)) }
func (e *endings) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

// street is a world whose destinations differ in how long they take.
type street struct {
	s     *sched.Scheduler[int]
	now   time.Time
	ends  endings
	seq   int
	added map[int]time.Time // messages that are waited for
	waits map[string]time.Duration
	kind  map[int]string
	sent  map[string]int // tries by the first letter of the lane
}

func newStreet(c sched.Config) *street {
	st := &street{
		s: sched.New[int](c, rand.New(rand.NewPCG(1, 2))), now: time.Unix(1_800_000_000, 0),
		added: map[int]time.Time{}, waits: map[string]time.Duration{}, kind: map[int]string{},
		sent: map[string]int{},
	}
	st.step(&sched.Event[int]{Kind: sched.Run})
	return st
}

// send adds a message; watch names the statistics that it counts for.
func (st *street) send(lane string, sender uint32, watch string) {
	st.seq++
	if watch != "" {
		st.added[st.seq], st.kind[st.seq] = st.now, watch
	}
	st.step(&sched.Event[int]{Kind: sched.Add, Ref: st.seq, Arrived: st.now, Sender: sender, Recipients: []sched.Recipient{{Lane: lane}}})
}

func (st *street) step(ev *sched.Event[int]) {
	for _, a := range st.s.Step(st.now, ev) {
		fin := &sched.Event[int]{Kind: sched.Finished, Job: a.Job}
		took := time.Millisecond
		res := sched.Result{State: mail.StateDelivered}
		if a.Kind == sched.Deliver {
			ref := a.Items[0].Ref
			if at, ok := st.added[ref]; ok {
				st.waits[st.kind[ref]] = max(st.waits[st.kind[ref]], st.now.Sub(at))
				delete(st.added, ref)
			}
		}
		switch {
		case a.Kind == sched.Deliver && a.Lane[0] == 'h': // hangs
			took, fin.Reach, fin.Why = 30*time.Second, sched.Unreachable, mail.NewReply(451, "4.4.1", "timeout")
			res.State = mail.StateDeferred
		case a.Kind == sched.Deliver && a.Lane[0] == 't': // tarpit
			took, fin.Reach = time.Minute, sched.Working
		case a.Kind == sched.Deliver:
			took, fin.Reach = 100*time.Millisecond, sched.Working
		default:
			res.State = mail.StateDeferred
		}
		for _, it := range a.Items {
			r := res
			if r.State == mail.StateDeferred {
				r.Next = st.now.Add(took + it.Delay)
			}
			fin.Results = append(fin.Results, r)
		}
		heap.Push(&st.ends, ending{st.now.Add(took), fin, len(st.ends) + st.seq<<20})
		if a.Kind == sched.Deliver {
			st.sent[a.Lane[:1]]++
		}
	}
}

// pass lets time pass, job by job and tick by tick.
func (st *street) pass(d time.Duration) {
	for end := st.now.Add(d); ; {
		next, job := end, false
		if len(st.ends) > 0 && st.ends[0].at.Before(next) {
			next, job = st.ends[0].at, true
		}
		if at, ok := st.s.Wake(); ok && at.Before(next) {
			next, job = at, false
		}
		if next.After(st.now) {
			st.now = next
		}
		if !st.now.Before(end) {
			return
		}
		if job {
			st.step(heap.Pop(&st.ends).(ending).ev)
			continue
		}
		st.step(&sched.Event[int]{Kind: sched.Tick})
	}
}

// TestNobodyStarves: thousands of destinations that hang, a dozen that take a
// minute for each message, a bulk sender with a long backlog to a good one;
// and beside them people who send a message now and then, to that good
// destination and to ones never seen before. They wait for a moment at most.
func TestNobodyStarves(t *testing.T) {
	st := newStreet(sched.Config{})
	for i := range 5000 {
		st.send(fmt.Sprintf("hang%d", i), 1, "")
		st.send(fmt.Sprintf("hang%d", i), 2, "")
	}
	for i := range 12 {
		for range 2000 {
			st.send(fmt.Sprintf("tarpit%d", i), 3, "")
		}
	}
	for range 100_000 {
		st.send("good", 4, "")
	}
	for i := range 600 {
		st.send("good", 5, "to the busy destination")
		st.send(fmt.Sprintf("new%d", i), 6, "to a new destination")
		st.pass(time.Second)
	}
	for what, bound := range map[string]time.Duration{"to the busy destination": time.Second, "to a new destination": 2 * time.Second} {
		if got := st.waits[what]; got > bound {
			t.Errorf("%s: waited %s, want at most %s", what, got, bound)
		}
	}
	if len(st.added) > 4 {
		t.Errorf("%d messages of people were not even tried", len(st.added))
	}
	t.Logf("longest waits %v, tries by kind %v", st.waits, st.sent)
	if st.sent["g"] < 50_000 || st.sent["t"] < 1000 {
		t.Errorf("the good destination got %d tries and the slow ones %d", st.sent["g"], st.sent["t"])
	}
}

// cpuNow is the processor time of this thread: the machine may be busy with
// other things.
func cpuNow() time.Duration {
	var u syscall.Rusage
	const rusageThread = 1
	_ = syscall.Getrusage(rusageThread, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestMillionBehindDead: a destination with a million messages goes down and
// comes back. No step takes long, one probe at a time is made, nothing is lost.
func TestMillionBehindDead(t *testing.T) {
	n := 100_000 // -million: what the name says
	if *million {
		n = 1_000_000
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	s := sched.New[int](sched.Config{}, rand.New(rand.NewPCG(1, 2)))
	now := time.Unix(1_800_000_000, 0)
	var jobs []sched.Action[int]
	var worst time.Duration
	step := func(ev *sched.Event[int]) {
		began := cpuNow()
		acts := s.Step(now, ev)
		worst = max(worst, cpuNow()-began)
		jobs = append(jobs, acts...)
	}
	for i := range n {
		step(&sched.Event[int]{Kind: sched.Add, Ref: i, Arrived: now, Sender: uint32(i % 100), Recipients: []sched.Recipient{{Lane: "dead"}}})
	}
	step(&sched.Event[int]{Kind: sched.Run})
	tries := 0
	drain := func(up bool) {
		for len(jobs) > 0 {
			a := jobs[0]
			jobs = jobs[1:]
			ev := &sched.Event[int]{Kind: sched.Finished, Job: a.Job}
			if a.Kind == sched.Deliver {
				tries++
				ev.Reach, ev.Why = sched.Unreachable, mail.NewReply(451, "4.4.1", "refused")
				if up {
					ev.Reach = sched.Working
				}
			}
			for _, it := range a.Items {
				res := sched.Result{State: mail.StateDeferred, Next: now.Add(it.Delay)}
				if up && a.Kind == sched.Deliver {
					res = sched.Result{State: mail.StateDelivered}
				}
				ev.Results = append(ev.Results, res)
			}
			step(ev)
		}
	}
	drain(false)
	if c := s.Counts(); tries != 4 || c.Deferred != n {
		t.Fatalf("%d tries, %+v", tries, c)
	}
	tries = 0
	for end := now.Add(time.Hour); ; { // an hour of the schedule: every message is due three times
		at, ok := s.Wake()
		if !ok || at.After(end) {
			break
		}
		if at.After(now) {
			now = at
		}
		step(&sched.Event[int]{Kind: sched.Tick})
		drain(false)
	}
	if tries > 61 {
		t.Errorf("%d probes in an hour", tries)
	}
	probes := tries
	for range 40 {
		now = now.Add(time.Hour)
		for at, ok := s.Wake(); ok && !at.After(now); at, ok = s.Wake() {
			step(&sched.Event[int]{Kind: sched.Tick})
			drain(true)
		}
	}
	if c := s.Counts(); c.Recipients != 0 {
		t.Errorf("left: %+v", c)
	}
	if worst > 100*time.Millisecond {
		t.Errorf("a step took %s", worst)
	}
	t.Logf("longest step %s, %d probes an hour", worst, probes)
}

// TestExpireTogether: all recipients of a message are given up in one job,
// however many they are, so that its sender gets one report.
func TestExpireTogether(t *testing.T) {
	s := sched.New[int](sched.Config{}, rand.New(rand.NewPCG(1, 2)))
	now := time.Unix(1_800_000_000, 0)
	ev := &sched.Event[int]{Kind: sched.Add, Ref: 1, Arrived: now}
	for i := range 3000 {
		ev.Recipients = append(ev.Recipients, sched.Recipient{Index: uint32(i), Lane: fmt.Sprint(i % 7), State: mail.StateDeferred, Next: now.Add(30 * 24 * time.Hour)})
	}
	s.Step(now, ev)
	acts := s.Step(now.Add(5*24*time.Hour), &sched.Event[int]{Kind: sched.Run})
	if len(acts) != 1 || acts[0].Kind != sched.GiveUp || len(acts[0].Items) != 3000 {
		t.Errorf("%d actions", len(acts))
	}
}

// TestProvenGoesOn: thousands of destinations that nothing is known of hang, and
// more come all the time, so that what is new waits long for its first try. Once
// that has worked the rest of its mail does not wait behind them any more.
func TestProvenGoesOn(t *testing.T) {
	st := newStreet(sched.Config{})
	hung := 0
	hang := func(n int) {
		for range n {
			hung++
			st.send(fmt.Sprintf("hang%d", hung), uint32(hung), "")
		}
	}
	hang(4000)
	for range 200 {
		st.send("new", 7, "new")
	}
	for st.sent["n"] == 0 && hung < 20_000 {
		hang(16)
		st.pass(time.Second)
	}
	first := st.now
	for len(st.added) > 0 && st.now.Sub(first) < time.Hour {
		hang(16)
		st.pass(time.Second)
	}
	if took := st.now.Sub(first); took > 30*time.Second {
		t.Errorf("200 messages to a destination that works took %v behind those that hang", took)
	}
}
