package sched_test

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/internal/mail"
)

var (
	simSeed  = flag.Uint64("seed", 0, "play this one simulation seed")
	simSeeds = flag.Int("seeds", 20, "how many seeds to play")
)

// checkEvery is how many steps pass from one look at all of the inside to the
// next: it costs as much as a hundred steps.
const checkEvery = 37

// TestSimulation plays random worlds: destinations that work, defer, refuse,
// choke, hang and die and come back; limits; arrivals of all classes; operators who hold, release,
// retry, drop and bounce; changed routes; pauses; clocks that jump. After each
// step a model of every recipient is compared.
func TestSimulation(t *testing.T) {
	first, last := uint64(1), uint64(*simSeeds)
	if *simSeed != 0 {
		first, last = *simSeed, *simSeed
	}
	for seed := first; seed <= last; seed++ {
		w := newWorld(t, seed)
		w.run(1500)
		w.finish()
		if t.Failed() {
			t.Fatalf("replay with -seed %d", seed)
		}
	}
}

type rcptKey struct{ msg, rcpt int }

// truth is what the model knows of one recipient.
type truth struct {
	lane string
	job  sched.JobID // that holds it; 0: none
	held bool
	want bool
	// Held for a time, which is over then; zero: for good.
	until time.Time
	trash bool
}

type running struct {
	a    sched.Action[int]
	ends time.Time
}

type world struct {
	t     *testing.T
	seed  uint64
	rnd   *rand.Rand
	s     *sched.Scheduler[int]
	cfg   sched.Config
	now   time.Time
	ahead time.Duration // how far the clock was set
	steps int
	top   time.Time // the latest time that the scheduler was told
	made  int
	ended int
	rcpts map[rcptKey]*truth
	jobs  map[sched.JobID]*running
	lanes map[string]int // deliveries running
	calm  bool           // all destinations work
	over  []sched.JobID  // jobs that ended
	cur   *sched.Cursor[int]
	must  map[int]bool // messages that the walk of cur has to see
	seen  map[int]bool
}

// look goes on with a walk over the queue, now and then.
func (w *world) look() {
	if w.rnd.IntN(3) > 0 {
		return
	}
	if w.cur == nil {
		w.cur, w.must, w.seen = w.s.Open(), map[int]bool{}, map[int]bool{}
		for k := range w.rcpts {
			w.must[k.msg] = true
		}
		return
	}
	more := w.s.Next(w.cur, 1+w.rnd.IntN(8), func(v *sched.View[int]) {
		if w.seen[v.Ref] {
			w.fail("a walk saw %d twice", v.Ref)
		}
		w.seen[v.Ref] = true
		for _, r := range v.Recipients {
			if w.rcpts[rcptKey{v.Ref, int(r.Index)}] == nil {
				w.fail("a walk saw %d/%d, which is gone", v.Ref, r.Index)
			}
		}
	})
	if more {
		return
	}
	w.s.Close(w.cur)
	w.cur = nil
	for k := range w.rcpts {
		if w.must[k.msg] && !w.seen[k.msg] {
			w.fail("a walk missed %d", k.msg)
		}
	}
}

func newWorld(t *testing.T, seed uint64) *world {
	rnd := rand.New(rand.NewPCG(seed, 99))
	cfg := sched.Config{
		Running: 1 + rnd.IntN(40), LaneStart: 1 + rnd.IntN(5), LaneMax: 1 + rnd.IntN(20), Batch: 1 + rnd.IntN(5),
		Chores: 1 + rnd.IntN(4), ChoreSize: 1 + rnd.IntN(7), LanesIdle: 1 + rnd.IntN(5),
		Retry: []time.Duration{time.Minute, 5 * time.Minute, time.Hour}, Expire: time.Duration(1+rnd.IntN(48)) * time.Hour,
		Warn: time.Duration(rnd.IntN(3)) * time.Hour,
	}
	return &world{
		t: t, seed: seed, rnd: rnd, cfg: cfg, s: sched.New[int](cfg, rand.New(rand.NewPCG(seed, 7))),
		now:   time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		rcpts: map[rcptKey]*truth{}, jobs: map[sched.JobID]*running{}, lanes: map[string]int{},
	}
}

func (w *world) fail(format string, args ...any) {
	w.t.Errorf("seed %d: "+format, append([]any{w.seed}, args...)...)
}

func (w *world) lane() string {
	return fmt.Sprintf("l%d", min(w.rnd.IntN(12), w.rnd.IntN(12)))
}

// run lets n things happen.
func (w *world) run(n int) {
	w.step(&sched.Event[int]{Kind: sched.Run})
	for i := 0; i < n && !w.t.Failed(); i++ {
		w.look()
		switch p := w.rnd.IntN(100); {
		case p < 30:
			w.add()
		case p < 67:
			w.endJob()
		case p < 69:
			w.admit()
		case p < 70:
			w.step(&sched.Event[int]{Kind: sched.Relax})
		case p < 82:
			w.pass(time.Duration(w.rnd.ExpFloat64() * float64(2*time.Minute)))
		case p < 95:
			w.operator()
		case p < 97:
			w.step(&sched.Event[int]{Kind: sched.Pause})
			w.endJob()
			w.add()
			w.step(&sched.Event[int]{Kind: sched.Run})
		case p < 98: // results of jobs that never were, or are over
			job := sched.JobID(w.rnd.Uint64N(1 << 34))
			if len(w.over) > 0 && w.rnd.IntN(4) > 0 {
				job = w.over[max(0, len(w.over)-1-w.rnd.IntN(20))]
			}
			w.step(&sched.Event[int]{Kind: sched.Finished, Job: job, Results: make([]sched.Result, 3)})
		case p < 99:
			w.ahead = time.Duration(w.rnd.Int64N(int64(4*time.Hour))) - 2*time.Hour
		default:
			w.pass(time.Duration(w.rnd.Int64N(int64(10 * time.Hour))))
		}
	}
}

// finish makes everything work and wants the queue to be empty soon.
func (w *world) finish() {
	w.calm, w.ahead = true, 0
	for round := 0; len(w.rcpts) > 0 && !w.t.Failed(); round++ {
		if round > 200_000 {
			w.fail("%d recipients never end", len(w.rcpts))
			return
		}
		if len(w.jobs) > 0 {
			w.endJob()
			continue
		}
		for _, op := range []sched.Op{sched.Release, sched.Undrop} {
			for _, ev := range w.commands(op) {
				w.step(ev)
			}
		}
		if len(w.jobs) == 0 {
			at, ok := w.s.Wake()
			if !ok && len(w.rcpts) > 0 {
				w.fail("%d recipients, nothing runs and nothing is going to", len(w.rcpts))
				return
			}
			if at.After(w.now) {
				w.now = at
			}
			w.step(&sched.Event[int]{Kind: sched.Tick})
		}
	}
	c := w.s.Counts()
	if c.Messages != 0 || c.Recipients != 0 || c.Running != 0 || !c.Oldest.IsZero() {
		w.fail("empty, but counted %+v", c)
	}
	for len(w.jobs) > 0 {
		w.endJob() // warnings
	}
}

func (w *world) pass(d time.Duration) {
	end := w.now.Add(d)
	for range 5000 {
		at, ok := w.s.Wake()
		if !ok || at.After(end) {
			break
		}
		if at.After(w.now) {
			w.now = at
		}
		w.step(&sched.Event[int]{Kind: sched.Tick})
		if w.rnd.IntN(3) == 0 {
			w.endJob()
		}
	}
	w.now = end
	w.step(&sched.Event[int]{Kind: sched.Tick})
}

func (w *world) add() {
	w.made++
	ev := &sched.Event[int]{Kind: sched.Add, Ref: w.made, Arrived: w.now.Add(time.Duration(1-w.rnd.IntN(4)) * time.Hour), Sender: uint32(w.rnd.IntN(4)), Class: sched.Class(w.rnd.IntN(3) - 1)}
	one := w.lane()
	for i := range 1 + w.rnd.IntN(1+w.rnd.IntN(30)) {
		r := sched.Recipient{Index: uint32(2 * i), Lane: one}
		if w.rnd.IntN(3) == 0 {
			r.Lane = w.lane()
		}
		tr := &truth{lane: r.Lane}
		switch w.rnd.IntN(20) {
		case 0:
			r.State, tr.held = mail.StateHeld, true
		case 2:
			r.State, r.Next, tr.trash = mail.StateTrashed, w.now.Add(time.Duration(w.rnd.IntN(100)-20)*time.Minute), true
		case 3:
			r.End = w.now.Add(time.Duration(w.rnd.IntN(100)-20) * time.Minute)
		case 1:
			r.State, r.Attempts, r.Next = mail.StateDeferred, 2, w.now.Add(time.Duration(w.rnd.IntN(100)-20)*time.Minute)
		}
		ev.Recipients = append(ev.Recipients, r)
		w.rcpts[rcptKey{w.made, int(r.Index)}] = tr
	}
	w.step(ev)
}

// commands gives an operator's word for each message there is.
func (w *world) commands(op sched.Op) []*sched.Event[int] {
	var out []*sched.Event[int]
	c := w.s.Open()
	defer w.s.Close(c)
	for more := true; more; {
		more = w.s.Next(c, 3, func(v *sched.View[int]) {
			out = append(out, &sched.Event[int]{Kind: sched.Command, Op: op, Msg: v.Msg, Ref: v.Ref})
		})
	}
	return out
}

func (w *world) operator() {
	ops := []sched.Op{sched.Hold, sched.Release, sched.Release, sched.Retry, sched.Drop, sched.Bounce, sched.Trash, sched.Undrop, sched.Reroute, sched.Expire}
	evs := w.commands(ops[w.rnd.IntN(len(ops))])
	storm := w.rnd.IntN(20) == 0
	for _, ev := range evs {
		if !storm && w.rnd.IntN(len(evs)) > 1 {
			continue
		}
		if w.rnd.IntN(2) == 0 {
			ev.Which = []uint32{0, 4, 6}
		}
		w.step(ev) // the message may be gone by now: then nothing happens
	}
}

// endJob ends one of the running jobs the way its kind and its destination do.
func (w *world) endJob() {
	var pick *running
	for _, r := range w.jobs { // the one that ends first, by a name that is stable
		if pick == nil || r.ends.Before(pick.ends) || r.ends.Equal(pick.ends) && r.a.Job < pick.a.Job {
			pick = r
		}
	}
	if pick == nil {
		return
	}
	a := pick.a
	ev := &sched.Event[int]{Kind: sched.Finished, Job: a.Job}
	switch a.Kind {
	case sched.Deliver:
		w.attempt(a, ev)
		w.lanes[a.Lane]--
	case sched.Postpone:
		for _, it := range a.Items {
			ev.Results = append(ev.Results, sched.Result{State: mail.StateDeferred, Next: w.now.Add(it.Delay)})
		}
	case sched.GiveUp:
		for range a.Items {
			ev.Results = append(ev.Results, sched.Result{State: mail.StateFailed})
		}
	case sched.Operate:
		for range a.Items {
			ev.Results = append(ev.Results, w.word(a.Op))
		}
	case sched.Purge:
		for range a.Items {
			res := sched.Result{State: mail.StateDropped}
			if !w.calm && w.rnd.IntN(10) == 0 {
				res = sched.Result{State: mail.StateTrashed, Next: w.now.Add(time.Minute)}
			}
			ev.Results = append(ev.Results, res)
		}
	}
	delete(w.jobs, a.Job)
	w.over = append(w.over, a.Job)
	if a.Kind != sched.Warn {
		for i, it := range a.Items {
			k := rcptKey{it.Ref, int(it.Recipient)}
			tr := w.rcpts[k]
			tr.job = 0
			tr.held = ev.Results[i].State == mail.StateHeld && !tr.want
			tr.trash = ev.Results[i].State == mail.StateTrashed && !tr.want
			tr.until = ev.Results[i].Next
			tr.want = false
			if l := ev.Results[i].Lane; l != "" {
				tr.lane = l
			}
			if ev.Results[i].State.Final() {
				delete(w.rcpts, k)
				w.ended++
			}
		}
	}
	w.step(ev)
}

// admit lets one of the deliveries that ask go on, and now and then a job that
// does not.
func (w *world) admit() {
	for _, id := range slices.Sorted(maps.Keys(w.jobs)) {
		if w.jobs[id].a.Asks || w.rnd.IntN(20) == 0 {
			w.step(&sched.Event[int]{Kind: sched.Admitted, Job: id})
			return
		}
	}
}

// deny lets a limit refuse what of a delivery was not tried.
func (w *world) deny(a sched.Action[int], ev *sched.Event[int]) {
	key := w.rnd.IntN(8)
	ev.Reach = sched.NothingLearned
	ev.Denied = &sched.Denied{Key: fmt.Sprint(key), Until: w.now.Add(time.Duration(w.rnd.ExpFloat64() * float64(time.Minute))),
		Why: mail.NewReply(451, "4.7.0", "limit"), Sender: key%4 == 1, Slots: key%4 == 2}
	if w.rnd.IntN(10) == 0 {
		ev.Denied.Until = w.now.Add(24 * time.Hour)
	}
	for range a.Items {
		res := sched.Result{State: mail.StateActive}
		if w.rnd.IntN(10) == 0 {
			res.State = mail.StateDelivered
		} else if key%4 == 3 && w.rnd.IntN(4) > 0 {
			d := *ev.Denied // of one of two domains
			d.Key, d.Slots = fmt.Sprintf("%s for %d", d.Key, w.rnd.IntN(2)), w.rnd.IntN(4) == 0
			res.Denied = &d
		}
		ev.Results = append(ev.Results, res)
	}
	if key == 7 {
		ev.Denied = nil // about these domains alone
	}
}

// word is what an operator's word makes of a recipient.
func (w *world) word(op sched.Op) sched.Result {
	switch op {
	case sched.Hold:
		res := sched.Result{State: mail.StateHeld}
		if w.rnd.IntN(2) == 0 {
			res.Next = w.now.Add(time.Duration(w.rnd.IntN(60)) * time.Minute)
		}
		return res
	case sched.Drop:
		return sched.Result{State: mail.StateDropped}
	case sched.Bounce:
		return sched.Result{State: mail.StateFailed}
	case sched.Trash:
		return sched.Result{State: mail.StateTrashed, Next: w.now.Add(time.Duration(w.rnd.IntN(60)) * time.Minute)}
	case sched.Reroute:
		return sched.Result{State: mail.StateActive, Lane: w.lane()}
	case sched.Expire:
		return sched.Result{State: mail.StateDeferred, Same: true, Next: w.now.Add(time.Hour), End: w.now.Add(time.Duration(w.rnd.IntN(100)-20) * time.Minute)}
	}
	return sched.Result{State: mail.StateActive}
}

// attempt lets a destination behave by its name.
func (w *world) attempt(a sched.Action[int], ev *sched.Event[int]) {
	n := 0
	if _, err := fmt.Sscanf(a.Lane, "l%d", &n); err != nil {
		w.t.Fatal(err)
	}
	if !w.calm && w.rnd.IntN(4) == 0 {
		w.deny(a, ev)
		return
	}
	up := w.calm || n%4 != 3 || w.now.Hour()%3 == 0
	ev.Reach = sched.Working
	for _, it := range a.Items {
		res := sched.Result{State: mail.StateDelivered}
		switch p := w.rnd.IntN(100); {
		case w.calm:
		case !up:
			ev.Reach, ev.Why = sched.Unreachable, mail.NewReply(451, "4.4.1", "no")
			res.State = mail.StateDeferred
		case n%4 == 2 && w.lanes[a.Lane] > 3:
			ev.Reach, res.State = sched.Overloaded, mail.StateDeferred
		case p < 5:
			res.State = mail.StateFailed
		case p < 10:
			res.State = mail.StateDeferred
		case p < 12:
			res = sched.Result{State: mail.StateActive, Lane: w.lane()}
		case p < 13:
			res = sched.Result{State: mail.StateActive, Next: w.now.Add(time.Second)}
		}
		if res.State == mail.StateDeferred {
			if res.Next = w.now.Add(it.Delay); it.Last {
				res = sched.Result{State: mail.StateFailed}
			}
		}
		ev.Results = append(ev.Results, res)
	}
}

// step gives the scheduler an event, checks what it wants done and compares
// its inside with the model.
func (w *world) step(ev *sched.Event[int]) {
	if at := w.now.Add(w.ahead); at.After(w.top) {
		w.top = at
	}
	for _, a := range w.s.Step(w.now.Add(w.ahead), ev) {
		switch a.Kind {
		case sched.Answer, sched.Overtaken:
			continue
		case sched.Cancel:
			if j := w.jobs[a.Job]; j == nil {
				w.fail("cancel of a job that does not run")
			} else {
				for _, it := range j.a.Items {
					w.rcpts[rcptKey{it.Ref, int(it.Recipient)}].want = true
				}
				j.ends = w.now
			}
			continue
		}
		w.begin(a)
	}
	c := w.s.Counts()
	if c.Recipients+c.Trashed != len(w.rcpts) {
		w.fail("%d recipients and %d in the trash counted, %d there", c.Recipients, c.Trashed, len(w.rcpts))
	}
	if w.steps++; w.steps%checkEvery != 0 {
		return
	}
	if err := w.s.Check(); err != nil {
		w.fail("%v", err)
	}
}

func (w *world) begin(a sched.Action[int]) {
	if _, dup := w.jobs[a.Job]; dup || a.Job == 0 || len(a.Items) == 0 {
		w.fail("job %x twice or empty", a.Job)
	}
	w.jobs[a.Job] = &running{a, w.now.Add(time.Duration(w.rnd.ExpFloat64() * float64(20*time.Second)))}
	for _, it := range a.Items {
		tr := w.rcpts[rcptKey{it.Ref, int(it.Recipient)}]
		base := w.cfg.Retry[min(int(it.Attempts), 2)]
		switch {
		case tr == nil:
			w.fail("%d/%d is in a job after its end", it.Ref, it.Recipient)
			continue
		case it.Delay < base || it.Delay > base+base/10:
			w.fail("delay %s of attempt %d", it.Delay, it.Attempts)
		case a.Kind == sched.Warn:
			continue
		case tr.job != 0:
			w.fail("%d/%d is in two jobs", it.Ref, it.Recipient)
		case tr.trash != (a.Kind == sched.Purge) && a.Kind != sched.Operate:
			w.fail("%d/%d: a job of kind %d, in the trash: %v", it.Ref, it.Recipient, a.Kind, tr.trash)
		case tr.held && a.Kind != sched.Operate && (tr.until.IsZero() || tr.until.After(w.top)):
			w.fail("%d/%d is tried while held", it.Ref, it.Recipient)
		case a.Kind == sched.Deliver && (tr.lane != a.Lane || it.Ref != a.Items[0].Ref):
			w.fail("%d/%d belongs to %s, not %s", it.Ref, it.Recipient, tr.lane, a.Lane)
		}
		tr.job = a.Job
	}
	if a.Kind != sched.Deliver {
		return
	}
	w.lanes[a.Lane]++
	total := 0
	for _, n := range w.lanes {
		total += n
	}
	if total > w.cfg.Running || w.lanes[a.Lane] > w.cfg.LaneMax || len(a.Items) > w.cfg.Batch {
		w.fail("%d deliveries, %d to %s, %d recipients: limits %+v", total, w.lanes[a.Lane], a.Lane, len(a.Items), w.cfg)
	}
}
