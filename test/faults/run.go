package faults

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// Plan says what is done to a fleet.
type Plan struct {
	Seed   uint64
	Rounds int           // 0: as many as fit into For
	For    time.Duration // 0: until Rounds are done
	Only   []string      // names of faults; empty: all that can be done here
	Wanted []string      // the same, and those that cannot be done here are left out
	Each   bool          // every fault in turn, rather than by chance
	Pairs  bool          // two faults at a time, where one does not forbid it
}

// settleWithin is how long a mended fleet may take until all that it had
// acknowledged has arrived.
const settleWithin = 90 * time.Second

// ErrBroken says that the fleet did not keep its word.
var ErrBroken = errors.New("faults: the cluster broke its word")

// Run hurts a fleet as planned and judges it. The report is printed by
// Options.Log.
func Run(ctx context.Context, o Options, p Plan) (err error) {
	o.Log("seed %d", p.Seed)
	f, err := open(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	r := &run{fleet: f, judge: newJudge(f), ctx: ctx, rng: rand.New(rand.NewPCG(p.Seed, 0x6661756c7473)), figures: newFigures()}
	began := time.Now()
	list, err := f.chosen(p)
	if err != nil {
		return err
	}
	for round := 0; (p.Rounds == 0 || round < p.Rounds) && (p.For == 0 || time.Since(began) < p.For) && ctx.Err() == nil; round++ {
		pick := r.rng.IntN(len(list))
		if p.Each {
			pick = round % len(list)
		}
		faults := []fault{list[pick]}
		if second := list[r.rng.IntN(len(list))]; p.Pairs && !list[pick].alone && !second.alone {
			faults = append(faults, second)
		}
		if err := r.round(round, faults); err != nil {
			for i, node := range f.cluster.Nodes {
				o.Log("  the last error of %s: %s", name(i), lastError(node))
			}
			return fmt.Errorf("round %d: %w (logs: %s)", round, err, strings.Join(f.keepLogs(), " "))
		}
		if len(r.judge.verdicts) > 0 {
			break
		}
	}
	return r.end(time.Since(began))
}

// chosen are the faults that the plan names.
func (f *fleet) chosen(p Plan) ([]fault, error) {
	list := f.possible()
	if len(p.Only)+len(p.Wanted) == 0 {
		return list, nil
	}
	var out []fault
	for _, name := range slices.Concat(p.Only, p.Wanted) {
		i := slices.IndexFunc(list, func(c fault) bool { return c.name == name })
		switch {
		case i >= 0:
			out = append(out, list[i])
		case slices.Contains(p.Only, name):
			return nil, fmt.Errorf("faults: there is no %q here", name)
		default:
			f.o.Log("%s cannot be done here", name)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("faults: none of the wanted faults can be done here")
	}
	return out, nil
}

// run is a fleet while it is hurt.
type run struct {
	*fleet
	judge   *judge
	ctx     context.Context
	rng     *rand.Rand
	figures *figures
	rounds  int
}

// round does what it is given and waits until all is well again.
func (r *run) round(number int, faults []fault) error {
	r.rounds++
	var group sync.WaitGroup
	all := make([]*nemesis, len(faults))
	errs := make([]error, len(faults))
	for i, c := range faults {
		r.o.Log("round %d: %s (%s)", number, c.name, time.Now().Format(clock))
		n := &nemesis{fleet: r.fleet, ctx: r.ctx, rng: rand.New(rand.NewPCG(r.rng.Uint64(), uint64(number)))}
		all[i] = n
		group.Go(func() {
			n.hold(n.between(0, 2))
			errs[i] = c.run(n)
		})
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if r.lab != nil && len(faults) > 1 {
		if err := all[0].heal(); err != nil {
			return err
		}
	}
	r.away.Store(false)
	mended := time.Now()
	list, err := r.settle()
	r.notes()
	if err != nil {
		return err
	}
	if n := all[0]; len(faults) == 1 { // of two the one mends what the other judges by
		r.judge.silences(list, n.silent)
		if n.killed != nil {
			r.figures.kill(r.fleet, list, n.killed)
		}
	}
	twice, counted := r.judge.copies()
	r.o.Log("  well after %v; accepted %d, refused %d, twice %d, possible duplicates %v",
		time.Since(mended).Round(100*time.Millisecond), r.judge.accepted, r.judge.refused, twice, counted)
	return r.judge.logs()
}

// notesShown is how many of a round's lives that ended by themselves are told:
// a node that cannot start is tried every 200 ms.
const notesShown = 5

// notes tells which nodes ended by themselves, and why.
func (r *run) notes() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, text := range r.ended[:min(notesShown, len(r.ended))] {
		r.o.Log("  NOTE: %s", text)
	}
	if more := len(r.ended) - notesShown; more > 0 {
		r.o.Log("  NOTE: and %d times more", more)
	}
	r.ended = nil
}

// settle waits until all nodes are ready, all that was acknowledged until now
// has arrived, the ledgers are even and all has its copies.
func (r *run) settle() (list []try, err error) {
	ctx, cancel := context.WithTimeout(r.ctx, settleWithin)
	defer cancel()
	for _, fact := range []func() error{r.ready, func() error { list = append(list, r.judge.take()...); return nil }, r.arrived, r.even, r.copied, r.votes} {
		if err := await(ctx, fact); err != nil {
			return list, err
		}
	}
	return list, nil
}

// await tries until there is no error.
func await(ctx context.Context, fact func() error) error {
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for {
		err := fact()
		if err == nil {
			return nil
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: after %v still %w", ErrBroken, settleWithin, err)
		}
	}
}

func (r *run) ready() error {
	for i, node := range r.cluster.Nodes {
		if code, text := node.Get("/readyz"); code != 200 {
			return fmt.Errorf("%s is not ready: %d %s", name(i), code, strings.TrimSpace(text))
		}
	}
	return nil
}

func (r *run) arrived() error {
	list := r.judge.missing()
	if len(list) == 0 {
		return nil
	}
	a := list[0]
	return fmt.Errorf("%d acknowledged messages have not arrived, such as %d, that %s took at %s", len(list), a.seq, name(a.node), a.ended.Format(clock))
}

func (r *run) even() error {
	for i, node := range r.cluster.Nodes {
		n, err := node.Metric("clrelay_ledger_imbalance_messages")
		if err != nil {
			return err
		}
		if n != 0 {
			return fmt.Errorf("the ledger of %s is out of balance by %v", name(i), n)
		}
	}
	return nil
}

func (r *run) copied() error {
	for i, node := range r.cluster.Nodes {
		n, err := node.Metric("clrelay_under_replicated_segments")
		if err != nil {
			return err
		}
		if n != 0 {
			return fmt.Errorf("%s says that %v segments have too few copies", name(i), n)
		}
	}
	return nil
}

// votes: the next loss is borne as well.
func (r *run) votes() error {
	st, err := r.status()
	if err != nil {
		return err
	}
	voters := 0
	for _, node := range st.Nodes {
		if node.Voter {
			voters++
		}
	}
	if want := min(5, r.o.Nodes-1+r.o.Nodes%2); !st.Quorum || voters < want {
		return fmt.Errorf("%d of %d votes are there, quorum %v", voters, want, st.Quorum)
	}
	return nil
}

// end stops the load, settles the books a last time and reports.
func (r *run) end(took time.Duration) error {
	r.load.end()
	if _, err := r.settle(); err != nil {
		r.judge.fail("at the end: %v", err)
	}
	ctx, cancel := context.WithTimeout(r.ctx, settleWithin)
	defer cancel()
	if err := await(ctx, r.empty); err != nil {
		r.judge.fail("at the end: %v", err)
	}
	twice, counted := r.judge.copies()
	if err := r.judge.logs(); err != nil {
		return err
	}
	r.o.Log("%d rounds in %v: accepted %d, lost %d, refused %d, twice %d, possible duplicates %v",
		r.rounds, took.Round(time.Second), r.judge.accepted, len(r.judge.open), r.judge.refused, twice, counted)
	r.figures.print(r.o.Log)
	for _, key := range slices.Sorted(maps.Keys(r.judge.replies)) {
		r.o.Log("%6d x refused: %s", r.judge.replies[key], key)
	}
	for _, key := range slices.Sorted(maps.Keys(r.judge.errors)) {
		r.o.Log("%6d x ERROR %s", r.judge.errors[key], key)
	}
	if len(r.judge.verdicts) > 0 {
		return fmt.Errorf("%w: %s (logs: %s)", ErrBroken, strings.Join(r.judge.verdicts, "; "), strings.Join(r.keepLogs(), " "))
	}
	return nil
}

// empty: nothing is queued anywhere.
func (r *run) empty() error {
	for i, node := range r.cluster.Nodes {
		n, err := node.Metric("clrelay_queue_messages")
		if err != nil {
			return err
		}
		if n != 0 {
			return fmt.Errorf("%s has %v messages queued", name(i), n)
		}
	}
	return nil
}
