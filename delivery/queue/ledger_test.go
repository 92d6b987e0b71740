package queue_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/internal/mail"
)

var ledgerSeed = flag.Uint64("seed", 0, "play TestLedger with this seed alone")

// TestLedger runs the real thing, spool and all, in random worlds: next hops
// that do everything a next hop can, operators, restarts, and power failures.
// In the end each recipient was taken by its next hop, or its sender has been
// told, or an operator dropped it. None is lost; and none is delivered twice
// but where a power failure can be the reason.
func TestLedger(t *testing.T) {
	first, last := uint64(1), uint64(12)
	if *ledgerSeed != 0 {
		first, last = *ledgerSeed, *ledgerSeed
	}
	for seed := first; seed <= last; seed++ {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			play(t, queue.Options{Schedule: sched.Config{Running: 20, LaneMax: 6, Expire: 6 * time.Hour, Warn: time.Hour}}, func(t *testing.T, w *world) {
				if seed%2 == 0 {
					w.lazy = 20 * time.Second // from the first restart on: results that a power failure takes
				}
				(&ledger{w: w, t: t, seed: seed, rnd: rand.New(rand.NewPCG(seed, 5)), crashes: seed%2 == 0}).run()
			})
		})
	}
}

type ledger struct {
	w       *world
	t       *testing.T
	seed    uint64
	rnd     *rand.Rand
	asked   uint64 // deliveries so far
	crashes bool   // the power fails as well
	crashed int
	all     []string // every recipient
}

func (l *ledger) run() {
	w := l.w
	w.behave(l.hop)
	for range 60 {
		switch p := l.rnd.IntN(100); {
		case p < 55:
			l.accept()
		case p < 75:
			time.Sleep(time.Duration(l.rnd.ExpFloat64() * float64(10*time.Minute)))
		case p < 90:
			l.operator()
		case p < 96 || !l.crashes:
			w.stop(time.Duration(l.rnd.IntN(40)) * time.Second)
			w.start()
		default:
			l.crashed++
			l.accept()
			time.Sleep(time.Duration(l.rnd.Int64N(int64(40 * time.Second))))
			w.crash(l.rnd.Uint64())
		}
	}
	w.r.SetRules(nil)
	w.change(sched.Release, selector{})
	time.Sleep(30 * time.Hour)
	l.check()
}

// operator says one of the things that operators say.
func (l *ledger) operator() {
	ops := []sched.Op{sched.Hold, sched.Release, sched.Retry, sched.Release, sched.Retry, sched.Drop, sched.Bounce, sched.Trash, sched.Undrop, sched.Reroute, sched.Expire}
	sel := selector{to: fmt.Sprintf("d%d.test", l.rnd.IntN(6))}
	c := queue.Change{Op: ops[l.rnd.IntN(len(ops))], Until: time.Now().Add(time.Duration(l.rnd.IntN(20)) * time.Hour)}
	switch c.Op {
	case sched.Undrop:
		sel.state = []mail.State{mail.StateTrashed}
	case sched.Reroute:
		c.Route = []string{"", "mx", "other.test"}[l.rnd.IntN(3)]
	case sched.Retry:
		l.w.r.SetRules([]queue.Rule{{ID: "r", Selector: selector{to: fmt.Sprintf("d%d.test", l.rnd.IntN(12))}, Until: c.Until}})
	}
	c.Selector = sel
	done, err := l.w.r.Change(context.Background(), c)
	if err != nil || done.Failed < 0 || done.Failed > done.Recipients {
		l.t.Errorf("op %d: %+v, %v", c.Op, done, err)
	}
}

func (l *ledger) accept() {
	env := envelope(fmt.Sprintf("ok.sender%d@home.test", l.rnd.IntN(5)))
	for range 1 + l.rnd.IntN(12) {
		to := fmt.Sprintf("u%d@d%d.test", len(l.all), l.rnd.IntN(6))
		l.all = append(l.all, to)
		env.Recipients = append(env.Recipients, mail.Recipient{Addr: address(to)})
	}
	l.w.send(env)
}

// hop takes its time, and then does what chance says.
func (l *ledger) hop(ctx context.Context, hop mail.NextHop, at *delivery.Attempt) []mail.Outcome {
	if hop.Domain == "home.test" {
		return nil
	}
	l.w.mu.Lock()
	l.asked++
	rnd, life := rand.New(rand.NewPCG(l.seed, l.asked)), l.w.life
	l.w.mu.Unlock()
	outs := make([]mail.Outcome, len(at.Recipients))
	temp := *mail.NewReply(451, "4.4.1", "no answer")
	for i, rc := range at.Recipients {
		outs[i] = mail.Outcome{Recipient: rc, Reply: temp, At: time.Now()}
	}
	select {
	case <-time.After(time.Duration(rnd.ExpFloat64() * float64(20*time.Second))):
	case <-ctx.Done():
		return outs
	}
	if hop.Domain == "d5.test" && time.Now().Hour()%2 == 0 {
		return outs
	}
	if err := at.BeforeDot(); err != nil {
		return outs
	}
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	if l.w.life != life {
		return outs
	}
	for i, rc := range at.Recipients {
		outs[i].Remote = "mx"
		switch p := rnd.IntN(10); {
		case p < 6:
			outs[i].Reply = *mail.NewReply(250, "2.0.0", "ok")
			l.w.sent = append(l.w.sent, at.Envelope.Recipients[rc].Addr.String())
		case p < 7:
			outs[i].Reply = *mail.NewReply(550, "5.1.1", "no such user")
		}
	}
	return outs
}

func (l *ledger) check() {
	w := l.w
	synctest.Wait()
	if rows := w.rows(); len(rows) > 0 {
		l.t.Errorf("still queued: %q", rows)
	}
	if c := w.r.Counts(); c.Messages != 0 || c.Recipients != 0 || c.Running != 0 {
		l.t.Errorf("counted %+v", c)
	}
	if st := w.sp.Stats(); st.Messages != 0 {
		l.t.Errorf("%d messages in the spool", st.Messages)
	}
	ends := map[string][]string{}
	for _, to := range w.look(&w.sent) {
		ends[to] = append(ends[to], "taken")
	}
	for _, e := range w.look(&w.events) {
		f := strings.Fields(e)
		if f[0] == "bounced" || f[0] == "expired" || f[0] == "dropped" {
			ends[f[1]] = append(ends[f[1]], f[0])
		}
	}
	twice := 0
	for _, to := range l.all {
		switch n := len(ends[to]); {
		case n == 0:
			l.t.Errorf("%s is lost", to)
		case n > 1:
			twice += n - 1
			if l.crashed == 0 {
				l.t.Errorf("%s: %v", to, ends[to])
			}
		}
	}
	if l.crashed == 0 && w.doubts > 0 {
		l.t.Errorf("%d possible duplicates without a power failure", w.doubts)
	}
	if twice > w.doubts {
		l.t.Errorf("%d ended twice, recovery had foreseen %d at most", twice, w.doubts)
	}
	l.t.Logf("%d recipients, %d tries, %d power failures, %d possible duplicates, %d ended twice", len(l.all), w.tried(), l.crashed, w.doubts, twice)
}
