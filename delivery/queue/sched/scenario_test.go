package sched_test

import (
	"bufio"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/delivery/queue/sched/turns"
	"github.com/clrelay/clrelay/internal/mail"
)

var update = flag.Bool("update", false, "write what the scenarios give now into testdata")

// TestScenarios plays the files of testdata: each line that is neither empty
// nor a comment is a command, and what follows it, indented, is what the
// scheduler answered. README.txt there lists the commands.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scenarios", err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			got := newStage(t).play(string(text))
			if *update {
				if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(text) {
				t.Errorf("%s differs (run with -update and read the diff):\n%s", name, firstDifference(string(text), got))
			}
		})
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(w), len(g)) {
		if w[i] != g[i] {
			return fmt.Sprintf("line %d\nwant %s\ngot  %s", i+1, w[i], g[i])
		}
	}
	return "one is longer"
}

// stage is a scheduler with names for its messages and jobs.
type stage struct {
	t     *testing.T
	s     *sched.Scheduler[string]
	cfg   sched.Config
	start time.Time
	now   time.Time
	jobs  map[string]sched.Action[string] // running, by name
	order []string                        // their names, oldest first
	names map[sched.JobID]string
	made  int
	out   strings.Builder
}

func newStage(t *testing.T) *stage {
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	st := &stage{t: t, start: start, now: start, jobs: map[string]sched.Action[string]{}, names: map[sched.JobID]string{}}
	st.reset(sched.Config{})
	return st
}

func (st *stage) reset(c sched.Config) {
	st.cfg = c
	st.s = sched.New[string](c, rand.New(rand.NewPCG(1, 2)))
}

// play runs a scenario and gives it back with the answers as they are now.
func (st *stage) play(text string) string {
	sc := bufio.NewScanner(strings.NewReader(text))
	for sc.Scan() {
		line := sc.Text()
		if strings.HasPrefix(line, "  ") {
			continue // an answer of last time
		}
		fmt.Fprintln(&st.out, line)
		if f := strings.Fields(line); len(f) > 0 && !strings.HasPrefix(line, "#") {
			st.command(f[0], f[1:])
		}
	}
	return st.out.String()
}

func (st *stage) printf(format string, args ...any) { fmt.Fprintf(&st.out, "  "+format+"\n", args...) }

// options splits words into those with "=" and the others.
func options(words []string) (plain []string, opt map[string]string) {
	opt = map[string]string{}
	for _, w := range words {
		if k, v, ok := strings.Cut(w, "="); ok {
			opt[k] = v
		} else {
			plain = append(plain, w)
		}
	}
	return plain, opt
}

func (st *stage) command(name string, words []string) {
	plain, opt := options(words)
	switch name {
	case "config":
		st.config(opt)
	case "run":
		st.step(&sched.Event[string]{Kind: sched.Run})
	case "pause":
		st.step(&sched.Event[string]{Kind: sched.Pause})
	case "add":
		st.add(plain[0], opt)
	case "wait": // to the time it asks for, at most the given one
		st.wait(st.duration(plain[0]))
	case "done":
		st.done(plain[0], opt)
	case "drain": // finish n jobs of a lane, oldest first, one after another
		n, _ := strconv.Atoi(plain[1])
		st.drain(plain[0], n, opt)
	case "retry", "hold", "release", "drop", "bounce", "trash", "undrop", "reroute", "expire":
		st.operator(name, plain, opt)
	case "show":
		st.show()
	case "lane":
		l, ok := st.s.Lane(plain[0])
		st.printf("known=%v down=%v limit=%d running=%d ready=%d members=%d", ok, l.Down, l.Limit, l.Running, l.Ready, l.Members)
	case "counts":
		c := st.s.Counts()
		if c.Trashed > 0 {
			st.printf("trashed=%d messages-of-nothing-else=%d", c.Trashed, c.Trash)
		}
		st.printf("messages=%d recipients=%d active=%d deferred=%d held=%d running=%d oldest=%s", c.Messages, c.Recipients, c.Active, c.Deferred, c.Held, c.Running, st.when(c.Oldest))
	case "admit":
		for id, n := range st.names {
			if n == plain[0] {
				st.step(&sched.Event[string]{Kind: sched.Admitted, Job: id})
			}
		}
	case "relax":
		st.step(&sched.Event[string]{Kind: sched.Relax})
	case "lanes":
		st.lanes()
	case "restart":
		st.restart()
	default:
		st.t.Fatalf("no command %q", name)
	}
}

func (st *stage) lanes() {
	var out []string
	st.s.Destinations(func(l *sched.LaneView) {
		line := fmt.Sprintf("%s %s ready=%d next=%s", l.Key, l.State, l.Ready, st.when(l.Next))
		if l.Why != nil {
			line += " why=" + strconv.Quote(l.Why.Line())
		}
		out = append(out, line)
	})
	sort.Strings(out)
	for _, l := range out {
		st.printf("%s", l)
	}
}

func (st *stage) duration(s string) time.Duration {
	if d, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.Atoi(d)
		if err != nil {
			st.t.Fatal(err)
		}
		return time.Duration(n) * 24 * time.Hour
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		st.t.Fatal(err)
	}
	return d
}

func (st *stage) config(opt map[string]string) {
	c := sched.Config{}
	ints := map[string]*int{"running": &c.Running, "lane-start": &c.LaneStart, "lane-max": &c.LaneMax, "batch": &c.Batch, "chores": &c.Chores, "chore-size": &c.ChoreSize, "lanes-idle": &c.LanesIdle}
	times := map[string]*time.Duration{"expire": &c.Expire, "warn": &c.Warn, "probe-min": &c.ProbeMin, "probe-max": &c.ProbeMax, "lane-idle": &c.LaneIdle}
	for k, v := range opt {
		switch {
		case ints[k] != nil:
			*ints[k], _ = strconv.Atoi(v)
		case times[k] != nil:
			*times[k] = st.duration(v)
		case k == "retry":
			for _, d := range strings.Split(v, ",") {
				c.Retry = append(c.Retry, st.duration(d))
			}
		default:
			st.t.Fatalf("no setting %q", k)
		}
	}
	st.reset(c)
}

// add takes to=LANE or to=LANE/STATE/ATTEMPTS/IN, several parted by commas.
func (st *stage) add(name string, opt map[string]string) {
	ev := &sched.Event[string]{Kind: sched.Add, Ref: name, Arrived: st.now}
	if a := opt["age"]; a != "" {
		ev.Arrived = st.now.Add(-st.duration(a))
	}
	ev.Class = map[string]sched.Class{"transactional": turns.Transactional, "bulk": turns.Bulk}[opt["class"]]
	for _, b := range opt["from"] {
		ev.Sender = ev.Sender*31 + uint32(b)
	}
	for i, to := range strings.Split(opt["to"], ",") {
		lane, rest, stored := strings.Cut(to, "/")
		r := sched.Recipient{Index: uint32(i), Lane: lane}
		if stored {
			f := strings.Split(rest, "/")
			r.State = map[string]mail.State{"active": mail.StateActive, "deferred": mail.StateDeferred, "held": mail.StateHeld, "trash": mail.StateTrashed}[f[0]]
			n, _ := strconv.Atoi(f[1])
			r.Attempts = uint32(n)
			r.Next = st.now.Add(st.duration(f[2]))
		}
		ev.Recipients = append(ev.Recipients, r)
	}
	st.step(ev)
}

func (st *stage) wait(d time.Duration) {
	end := st.now.Add(d)
	for {
		at, ok := st.s.Wake()
		if !ok || at.After(end) {
			break
		}
		if at.After(st.now) {
			st.now = at
		}
		st.step(&sched.Event[string]{Kind: sched.Tick})
	}
	st.now = end
	st.step(&sched.Event[string]{Kind: sched.Tick})
}

func (st *stage) drain(lane string, n int, opt map[string]string) {
	for _, name := range append([]string(nil), st.order...) {
		if a := st.jobs[name]; a.Kind == sched.Deliver && a.Lane == lane && n > 0 {
			n--
			st.done(name, opt)
		}
	}
	if n > 0 {
		st.printf("%d too few", n)
	}
}

func (st *stage) done(name string, opt map[string]string) {
	a, ok := st.jobs[name]
	if !ok {
		st.t.Fatalf("%s does not run", name)
	}
	delete(st.jobs, name)
	for i, o := range st.order {
		if o == name {
			st.order = append(st.order[:i], st.order[i+1:]...)
			break
		}
	}
	ev := &sched.Event[string]{Kind: sched.Finished, Job: a.Job}
	reaches := map[string]sched.Reach{"": sched.NothingLearned, "answered": sched.Answered, "working": sched.Working, "overloaded": sched.Overloaded, "unreachable": sched.Unreachable}
	ev.Reach, ok = reaches[opt["reach"]]
	if !ok {
		st.t.Fatalf("no reach %q", opt["reach"])
	}
	if ev.Reach == sched.Unreachable {
		ev.Why = mail.NewReply(451, "4.4.1", "connection refused")
	}
	if l := opt["limit"]; l != "" {
		key, until, _ := strings.Cut(l, "@")
		ev.Denied = &sched.Denied{Key: key, Until: st.now.Add(st.duration(until)), Why: mail.NewReply(451, "4.7.0", "limit "+key),
			Sender: strings.HasPrefix(key, "sender"), Slots: strings.HasPrefix(key, "slots")}
	}
	words := strings.Split(opt["is"], ",")
	if a.Kind == sched.Warn { // its items are not its own
		a.Items = nil
	}
	for i, it := range a.Items {
		ev.Results = append(ev.Results, st.result(words[min(i, len(words)-1)], it))
		if strings.HasPrefix(opt["limit"], "domain") && words[min(i, len(words)-1)] == "active" {
			ev.Results[i].Denied = ev.Denied
		}
	}
	if strings.HasPrefix(opt["limit"], "domain") {
		ev.Denied = nil
	}
	st.step(ev)
}

// result reads delivered, failed, dropped, held, deferred, active, active@10s
// (not before) or active>LANE (moved).
func (st *stage) result(word string, it sched.Item[string]) sched.Result {
	states := map[string]mail.State{"delivered": mail.StateDelivered, "failed": mail.StateFailed, "dropped": mail.StateDropped, "held": mail.StateHeld, "deferred": mail.StateDeferred, "active": mail.StateActive, "trash": mail.StateTrashed, "same": mail.StateDeferred}
	word, end, _ := strings.Cut(word, "!")
	word, lane, _ := strings.Cut(word, ">")
	word, later, _ := strings.Cut(word, "@")
	state, ok := states[word]
	if !ok {
		st.t.Fatalf("no result %q", word)
	}
	res := sched.Result{State: state, Lane: lane}
	res.Same = word == "same"
	if end != "" {
		res.End = st.now.Add(st.duration(end))
	}
	if state == mail.StateDeferred {
		res.Next = st.now.Add(it.Delay)
	}
	if later != "" {
		res.Next = st.now.Add(st.duration(later))
	}
	return res
}

func (st *stage) operator(op string, plain []string, opt map[string]string) {
	ops := map[string]sched.Op{"retry": sched.Retry, "hold": sched.Hold, "release": sched.Release, "drop": sched.Drop, "bounce": sched.Bounce,
		"trash": sched.Trash, "undrop": sched.Undrop, "reroute": sched.Reroute, "expire": sched.Expire}
	ev := &sched.Event[string]{Kind: sched.Command, Op: ops[op], Tag: 7}
	for _, i := range strings.Split(opt["which"], ",") {
		if n, err := strconv.Atoi(i); err == nil {
			ev.Which = append(ev.Which, uint32(n))
		}
	}
	c := st.s.Open()
	defer st.s.Close(c)
	for more := true; more; {
		more = st.s.Next(c, 100, func(v *sched.View[string]) {
			if v.Ref == plain[0] {
				ev.Ref, ev.Msg = v.Ref, v.Msg
			}
		})
	}
	st.step(ev)
}

func (st *stage) when(at time.Time) string {
	if at.IsZero() {
		return "-"
	}
	return at.Sub(st.start).String()
}

func (st *stage) show() {
	c := st.s.Open()
	defer st.s.Close(c)
	for more := true; more; {
		more = st.s.Next(c, 2, func(v *sched.View[string]) {
			for _, r := range v.Recipients {
				why := ""
				if r.Why != nil {
					why = " why=" + strconv.Quote(r.Why.Line())
				}
				st.printf("%s/%d %s %s attempts=%d next=%s%s", v.Ref, r.Index, r.Lane, r.State, r.Attempts, st.when(r.Next), why)
			}
		})
	}
}

// restart makes a new scheduler of what the old one shows: what a store that
// recorded every result would give back.
func (st *stage) restart() {
	var evs []*sched.Event[string]
	c := st.s.Open()
	for more := true; more; {
		more = st.s.Next(c, 100, func(v *sched.View[string]) {
			ev := &sched.Event[string]{Kind: sched.Add, Ref: v.Ref, Arrived: v.Arrived}
			for _, r := range v.Recipients {
				ev.Recipients = append(ev.Recipients, sched.Recipient{Index: r.Index, Lane: r.Lane, State: r.State, Attempts: r.Attempts, Next: r.Next})
			}
			evs = append(evs, ev)
		})
	}
	st.s.Close(c)
	clear(st.jobs)
	st.order = nil
	st.reset(st.cfg)
	for _, ev := range evs {
		st.step(ev)
	}
}

// step gives the scheduler an event and prints what it wants done.
func (st *stage) step(ev *sched.Event[string]) {
	for _, a := range st.s.Step(st.now, ev) {
		switch a.Kind {
		case sched.Cancel:
			st.printf("cancel %s", st.names[a.Job])
			continue
		case sched.Answer:
			st.printf("answer changed=%d waiting=%d", a.Count, a.Waiting)
			continue
		case sched.Overtaken:
			st.printf("overtaken %d", a.Count)
			continue
		}
		st.made++
		name := "j" + strconv.Itoa(st.made)
		st.jobs[name], st.names[a.Job] = a, name
		st.order = append(st.order, name)
		kind := map[sched.ActionKind]string{sched.Deliver: "deliver", sched.Postpone: "postpone", sched.GiveUp: "give-up", sched.Warn: "warn", sched.Operate: "operate", sched.Purge: "purge"}[a.Kind]
		if a.Kind == sched.Operate {
			kind = map[sched.Op]string{sched.Hold: "hold", sched.Release: "release", sched.Drop: "drop", sched.Bounce: "bounce",
				sched.Trash: "trash", sched.Undrop: "undrop", sched.Reroute: "reroute", sched.Expire: "expire"}[a.Op]
		}
		at := ""
		if d := st.now.Sub(st.start); d > 0 {
			at = " at " + d.String()
		}
		if a.Asks {
			at += " asking"
		}
		st.printf("%s: %s %s%s", name, kind, st.items(a), at)
	}
}

func (st *stage) items(a sched.Action[string]) string {
	var parts []string
	for _, it := range a.Items {
		retry := st.cfg.Retry
		if len(retry) == 0 {
			retry = []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 4 * time.Hour}
		}
		base := retry[min(int(it.Attempts), len(retry)-1)]
		if it.Delay < base || it.Delay > base+base/10 {
			st.t.Errorf("%s/%d: delay %s after %d attempts, outside %s and 10 %% more", it.Ref, it.Recipient, it.Delay, it.Attempts, base)
		}
		last := ""
		if it.Last {
			last = "!"
		}
		parts = append(parts, fmt.Sprintf("%s/%d%s", it.Ref, it.Recipient, last))
	}
	if a.Kind != sched.Deliver {
		sort.Strings(parts)
	}
	lane := ""
	if a.Lane != "" {
		lane = " to " + a.Lane
	}
	return strings.Join(parts, " ") + lane
}
