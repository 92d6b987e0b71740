package faults

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
)

// upgradeTries bounds how often a node is killed until the one that is to take
// something over from it has: who does is the leader's choice.
const upgradeTries = 5

// upgrade is a fleet that changes its program under load.
type upgrade struct {
	*run
	n    *nemesis
	next string
}

// Upgrade takes a fleet from Options.Binary to a program of the next feature
// level, node by node and back and forth, and judges it like Run. Its report
// is printed by Options.Log.
func Upgrade(ctx context.Context, o Options, next string, seed uint64) (err error) {
	f, err := open(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	rng := rand.New(rand.NewPCG(seed, 0x75706772616465))
	u := &upgrade{
		run: &run{fleet: f, judge: newJudge(f), ctx: ctx, rng: rng, figures: newFigures()},
		n:   &nemesis{fleet: f, ctx: ctx, rng: rng}, next: next,
	}
	began := time.Now()
	order := u.n.shuffled()
	o.Log("seed %d: upgraded in the order %d", seed, plus(order))
	if err := u.story(order[0], order[1], order[2]); err != nil {
		return fmt.Errorf("%w (logs: %s)", err, strings.Join(f.keepLogs(), " "))
	}
	if err := u.end(time.Since(began)); err != nil {
		return err
	}
	for _, reply := range slices.Sorted(maps.Keys(u.judge.replies)) {
		if reply[0] >= '0' && reply[0] <= '9' && !strings.HasPrefix(reply, "421") && !strings.HasPrefix(reply, "451") {
			return fmt.Errorf("%w: a client was told %s", ErrBroken, reply)
		}
	}
	return nil
}

// story is the upgrade of three nodes.
func (u *upgrade) story(a, b, c int) error {
	const was, is = fsm.KnownLevel, fsm.KnownLevel + 1
	for _, step := range []struct {
		what  string
		level uint32
		do    func() error
	}{
		{"all are old", was, u.configured},
		{name(a) + " is new", was, func() error { return u.change(a, u.next) }},
		{"it takes over from an old one", was, func() error { return u.takesOver(a, b) }},
		{"an old one takes over from it", was, func() error { return u.takesOver(b, a) }},
		{"what is new in it is refused", was, func() error { return u.configures(a, "new: unknown to some", 6) }},
		{"what old ones know goes on", was, func() error { return u.configures(a, "as before", 0) }},
		{name(a) + " is old again", was, func() error { return u.change(a, u.o.Binary) }},
		{name(a) + " is new again", was, func() error { return u.change(a, u.next) }},
		{name(b) + " is new", was, func() error { return u.change(b, u.next) }},
		{"the last old one takes over", was, func() error { return u.takesOver(c, a) }},
		{name(c) + " is new: the level rises by itself", is, func() error { return u.change(c, u.next) }},
		{"what is new is there", is, func() error { return u.configures(a, "new: known to all", 0) }},
		{"an old one is refused", is, func() error { return u.refuses(b, false) }},
		{"an old one with an empty disk is refused", is, func() error { return u.refuses(c, true) }},
	} {
		u.o.Log("%s", step.what)
		u.rounds++
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
		if err := u.well(step.level); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

// well waits until all is in order, at that feature level.
func (u *upgrade) well(level uint32) error {
	if _, err := u.settle(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(u.ctx, settleWithin)
	defer cancel()
	err := await(ctx, func() error {
		st, err := u.status()
		if err == nil && st.Level != level {
			err = fmt.Errorf("the feature level is %d, not %d", st.Level, level)
		}
		return err
	})
	if err != nil {
		return err
	}
	twice, counted := u.judge.copies()
	u.o.Log("  well at level %d; accepted %d, refused %d, twice %d, possible duplicates %v", level, u.judge.accepted, u.judge.refused, twice, counted)
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.ended) > 0 {
		return fmt.Errorf("%w: %s", ErrBroken, strings.Join(u.ended, "; "))
	}
	return u.judge.logs()
}

// configured waits for the configuration that the cluster is founded with.
func (u *upgrade) configured() error {
	ctx, cancel := context.WithTimeout(u.ctx, settleWithin)
	defer cancel()
	return await(ctx, func() error {
		if _, errs, code := u.cluster.Nodes[0].CLI("config", "get"); code != 0 {
			return fmt.Errorf("config get: %d %s", code, strings.TrimSpace(errs))
		}
		return nil
	})
}

// change restarts a node in good order with another program.
func (u *upgrade) change(i int, binary string) error {
	u.cluster.Nodes[i].Use(binary)
	if err := u.n.restart(i, 0, nil); err != nil {
		return err
	}
	return u.cluster.Nodes[i].AwaitReady(u.ctx)
}

// takesOver kills a node that has mail until another has taken over some.
func (u *upgrade) takesOver(heir, victim int) error {
	before, err := u.cluster.Nodes[heir].Metric("clrelay_takeovers_total")
	if err != nil {
		return err
	}
	for range upgradeTries {
		if err := u.n.killAndStart(victim, takenOver); err != nil {
			return err
		}
		if err := u.cluster.Nodes[victim].AwaitReady(u.ctx); err != nil {
			return err
		}
		if _, err := u.settle(); err != nil {
			return err
		}
		now, err := u.cluster.Nodes[heir].Metric("clrelay_takeovers_total")
		if err != nil {
			return err
		}
		if now > before {
			u.o.Log("  %s took over %v segments", name(heir), now-before)
			return nil
		}
	}
	return fmt.Errorf("%s took nothing over from %s", name(heir), name(victim))
}

// configures changes the configuration through a node, which for the next
// program and a reason that begins with "new:" is a command of the next feature
// level.
func (u *upgrade) configures(through int, reason string, want int) error {
	file := filepath.Join(u.o.Dir, "changed.yaml")
	text := strings.Replace(u.text(u.o.more), "expire: 1h", fmt.Sprintf("expire: %dh", 1+u.rounds), 1)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return err
	}
	_, errs, code := u.cluster.Nodes[through].CLI("config", "apply", "-f", file, "--reason", reason)
	u.o.Log("  config apply at %s: %d %s", name(through), code, strings.TrimSpace(errs))
	if code != want {
		return fmt.Errorf("%w: config apply at %s: exit code %d, not %d", ErrBroken, name(through), code, want)
	}
	return nil
}

// refuses tries the old program where the feature level is above it, and goes
// back to the new one.
func (u *upgrade) refuses(i int, empty bool) error {
	r := u.cluster.Nodes[i]
	u.n.kill(i)
	if empty {
		if err := os.RemoveAll(r.Data); err != nil {
			return err
		}
	}
	r.Use(u.o.Binary)
	if err := r.Launch(); err != nil {
		return err
	}
	select {
	case <-r.Exited():
	case <-time.After(settleWithin):
		return fmt.Errorf("%w: an old program runs on at a level that it does not know", ErrBroken)
	}
	u.o.Log("  code %d: %s", r.ExitCode(), lastError(r))
	if r.ExitCode() != 1 || !strings.Contains(lastError(r), "newer version of clrelay") {
		return fmt.Errorf("%w: the old program ended with code %d and does not say why: %s", ErrBroken, r.ExitCode(), lastError(r))
	}
	r.Use(u.next)
	return u.n.start(i)
}
