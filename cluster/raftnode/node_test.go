package raftnode

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestProposalsFromEveryNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.born("a", "b", "c")
		w.leader()
		value := 0
		for range 3 {
			for _, name := range []string{"a", "b", "c"} {
				got := w.must(w.nodes[name], command{Key: "x", Old: value, New: value + 1})
				if value++; !got.OK || got.Value != value {
					t.Fatalf("on %s: %+v, want %d", name, got, value)
				}
				// The proposer's own state machine has it already.
				if own := w.nodes[name].fsm.Values["x"]; own != value {
					t.Fatalf("%s proposed %d and sees %d", name, value, own)
				}
			}
		}
		w.same()
		if _, _, err := w.nodes["a"].Propose(t.Context(), make([]byte, MaxCommand+1)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("too large: %v", err)
		}
	})
}

func TestLossOfTheLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.born("a", "b", "c")
		var worst time.Duration
		for i := range 10 {
			old := w.leader().o.Node
			w.crash(old)
			took := w.until(time.Minute, "another leader", func() bool {
				for _, m := range w.nodes {
					if m.Status().Ready {
						return true
					}
				}
				return false
			})
			worst = max(worst, took)
			w.must(w.leader(), command{Key: "x", Old: i, New: i + 1})
			w.start(old)
			w.leader()
			w.same()
		}
		// The lease is 4 s: an election must end well inside it.
		if worst > 3*time.Second {
			t.Errorf("the worst election took %v", worst)
		}
	})
}

func TestALeaderThatIsCutOffAnswersUnknownAndOthersGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.born("a", "b", "c")
		old := w.leader()
		w.isolate(old.o.Node, "a", "b", "c")
		_, _, err := old.Propose(ctxFor(t, 10*time.Second), command{Key: "x", New: 1}.encode())
		if !errors.Is(err, ErrUnknownOutcome) {
			t.Errorf("the leader that was cut off says %v", err)
		}
		_, _, err = old.Propose(ctxFor(t, time.Second), command{Key: "x", New: 1}.encode())
		if !errors.Is(err, ErrNoLeader) {
			t.Errorf("with no leader: %v", err)
		}
		var rest []string
		for name := range w.nodes {
			if name != old.o.Node {
				rest = append(rest, name)
			}
		}
		w.must(w.leader(rest...), command{Key: "y", New: 5})
		w.heal()
		w.leader()
		w.same()
	})
}

// A leader whose machine vanishes sends no word of it: who has asked it learns
// that the outcome is unknown as soon as there is another leader, and who asks
// from then on is served by that one.
func TestALeaderThatVanishesKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.born("a", "b", "c")
		old := w.leader().o.Node
		var rest []string
		for _, name := range []string{"a", "b", "c"} {
			if name != old {
				rest = append(rest, name)
				w.must(w.nodes[name], command{Key: name, New: 1}) // there is a connection now
			}
		}
		w.isolate(old, "a", "b", "c")
		begun := time.Now()
		_, _, err := w.nodes[rest[0]].Propose(ctxFor(t, time.Minute), command{Key: "x", New: 1}.encode())
		if took := time.Since(begun); !errors.Is(err, ErrUnknownOutcome) || took > 3*time.Second {
			t.Errorf("%v after %v", err, took)
		}
		w.leader(rest...)
		w.must(w.nodes[rest[1]], command{Key: "y", New: 1})
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("served after %v", took)
		}
		w.heal()
		w.leader()
		w.same()
	})
}

// A follower that was away for a while gets entries soon after its return, and
// not at the end of a pause that has grown with each failure.
func TestAFollowerIsServedSoonAfterItsReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.born("a", "b", "c")
		l := w.leader()
		gone := "a"
		if l.o.Node == gone {
			gone = "b"
		}
		w.isolate(gone, "a", "b", "c")
		for i := range 60 {
			w.must(l, command{Key: "x", Old: i, New: i + 1})
			pass(time.Second)
		}
		w.heal()
		took := w.until(time.Minute, "the follower has caught up", func() bool {
			return w.nodes[gone].AppliedIndex() >= l.AppliedIndex()
		})
		if took > 3*time.Second {
			t.Errorf("it took %v", took)
		}
		w.crash(gone)
		pass(time.Minute)
		w.must(l, command{Key: "x", Old: 60, New: 61})
		w.start(gone)
		took = w.until(time.Minute, "the restarted follower has caught up", func() bool {
			return w.nodes[gone].AppliedIndex() >= l.AppliedIndex()
		})
		if took > 3*time.Second {
			t.Errorf("after a restart it took %v", took)
		}
	})
}

func TestGrowthByTwosAndReplacementOfTheDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.born("a")
		w.leader()
		join := func(name string) {
			t.Helper()
			m := w.start(name)
			if err := m.Join(ctxFor(t, time.Minute), servers("a")); err != nil {
				t.Fatal(err)
			}
			w.leader()
			w.must(m, command{Key: name, New: 1}) // it works at once
		}
		want := func(names ...string) {
			t.Helper()
			w.until(time.Minute, fmt.Sprintf("the voters are %v", names), func() bool { return slices.Equal(w.voters(), names) })
		}
		join("b")
		pass(time.Minute)
		want("a") // never two
		join("c")
		want("a", "b", "c")
		join("d")
		pass(time.Minute)
		want("a", "b", "c")

		dead := w.leader().o.Node
		w.crash(dead)
		w.leader()
		w.until(time.Minute, "the vote of the dead one has gone to d", func() bool {
			v := w.voters()
			return len(v) == 3 && !slices.Contains(v, dead) && slices.Contains(v, "d")
		})
		w.start(dead)
		pass(time.Minute)
		if v := w.voters(); len(v) != 3 || slices.Contains(v, dead) {
			t.Errorf("after its return: %v", v)
		}
		join("e")
		want("a", "b", "c", "d", "e")
		w.same()
	})
}

func TestRemoval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.born("a", "b", "c")
		first := w.leader().o.Node
		w.until(time.Minute, "the leader has looked", func() bool {
			h := w.leader().Health()
			return len(h) == 3 && !slices.ContainsFunc(h, func(h Health) bool { return !h.Healthy })
		})
		// With one dead, nobody else can be spared.
		var live []string
		for _, name := range []string{"a", "b", "c"} {
			if name != first {
				live = append(live, name)
			}
		}
		w.crash(live[0])
		w.until(time.Minute, "the leader has noticed", func() bool {
			return slices.ContainsFunc(w.nodes[first].Health(), func(h Health) bool { return !h.Healthy })
		})
		if err := w.nodes[first].Remove(ctxFor(t, 20*time.Second), live[1]); !errors.Is(err, ErrRefused) {
			t.Errorf("removing one of the last two: %v", err)
		}
		// The dead one can, from any node.
		if err := w.nodes[live[1]].Remove(ctxFor(t, 20*time.Second), live[0]); err != nil {
			t.Fatal(err)
		}
		w.until(time.Minute, "one voter of the two that are left", func() bool { return len(w.voters()) == 1 })
		if n := len(w.leader().Members()); n != 2 {
			t.Errorf("%d members", n)
		}
		// It comes back with its old log and joins again.
		m := w.start(live[0])
		if err := m.Join(ctxFor(t, time.Minute), servers(live[1])); err != nil {
			t.Fatal(err)
		}
		w.until(time.Minute, "three voters", func() bool { return len(w.voters()) == 3 })
		// The leader removes itself by handing over first.
		old := w.leader()
		if err := old.Remove(ctxFor(t, time.Minute), old.o.Node); err != nil {
			t.Fatal(err)
		}
		w.crash(old.o.Node)
		w.leader()
		if w.leader().member(old.o.Node).Node != "" {
			t.Error("the old leader is still a member")
		}
	})
}

// A voter that has lost its disk must neither vote nor acknowledge before the
// others have taken its vote away.
func TestAVoterThatLostItsDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.born("a", "b", "c")
		w.leader()
		w.must(w.nodes["a"], command{Key: "x", New: 1})
		w.same()
		w.crash("c")
		w.wipe("c")
		c := w.start("c")
		pass(10 * time.Second)
		if s := c.Status(); s.Leader != "" || c.CommitIndex() != 0 || !c.Fresh() {
			t.Fatalf("it takes part without having joined: %+v", s)
		}
		if err := c.Join(ctxFor(t, time.Minute), servers("a", "b")); err != nil {
			t.Fatal(err)
		}
		if w.leader().member("c").Voter {
			t.Error("it kept its vote")
		}
		w.until(time.Minute, "it has a vote again", func() bool { return len(w.voters()) == 3 })
		w.same()
		// Nor can it be born again with the others.
		w.crash("a")
		w.wipe("a")
		a := w.start("a")
		if err := a.Bootstrap(ctxFor(t, 5*time.Second), servers("a", "b", "c")); !errors.Is(err, ErrRefused) {
			t.Errorf("a second birth: %v", err)
		}
	})
}

// The same where the other voters cannot do without it: it stays out.
func TestAVoterThatLostItsDiskStaysOutWithoutAMajority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.born("a", "b", "c")
		w.leader()
		w.crash("b")
		w.crash("c")
		w.wipe("c")
		c := w.start("c")
		if err := c.Join(ctxFor(t, 20*time.Second), servers("a", "b")); err == nil {
			t.Error("it was let in")
		}
		pass(10 * time.Second)
		if s := w.nodes["a"].Status(); s.Leader != "" {
			t.Errorf("one of three leads, with the help of one that knows nothing: %+v %v %v", s, w.nodes["a"].raft.State(), w.describe())
		}
	})
}

func TestBirthWaitsForAllAndHappensOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		a := w.start("a")
		var done sync.WaitGroup
		done.Go(func() {
			if err := a.Bootstrap(ctxFor(t, time.Minute), servers("c", "b", "a")); err != nil {
				t.Error(err)
			}
		})
		b := w.start("b")
		pass(5 * time.Second)
		if a.Status().Leader != "" || !a.Fresh() {
			t.Error("born without c")
		}
		// b is pledged, also over a restart, and to this set alone.
		if b.Fresh() {
			t.Error("b is not pledged")
		}
		w.crash("b")
		b = w.start("b")
		if b.Fresh() {
			t.Error("b has forgotten its pledge")
		}
		d := w.start("d")
		_ = d
		if err := b.givePledge("b", []byte(`{"servers":[{"Node":"b","Address":"b.test:1"},{"Node":"c","Address":"c.test:1"},{"Node":"d","Address":"d.test:1"}]}`)); !errors.Is(err, ErrRefused) {
			t.Errorf("a second pledge: %v", err)
		}
		w.crash("d")
		w.start("c")
		done.Wait()
		w.leader()
		for _, m := range w.nodes {
			if err := m.Bootstrap(ctxFor(t, time.Second), servers("a", "b", "c")); err != nil {
				t.Errorf("again on %s: %v", m.o.Node, err)
			}
		}
		for _, bad := range [][]Server{servers("a", "b"), servers("x", "y", "z"), servers("a", "a", "b"), nil} {
			if err := a.Bootstrap(ctxFor(t, time.Second), bad); err == nil {
				t.Errorf("started with %v", bad)
			}
		}
	})
}

func TestJoinIsRefusedWhereItMust(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.born("a")
		w.leader()
		o := w.options("b")
		o.Address = address("a")
		b := w.startWith(o)
		if err := b.Join(ctxFor(t, time.Minute), servers("a")); !errors.Is(err, ErrRefused) {
			t.Errorf("with another's address: %v", err)
		}
		if err := w.nodes["a"].admit(t.Context(), "mallory", []byte(`{"node":"b","address":"b.test:1","fresh":true}`)); !errors.Is(err, ErrRefused) {
			t.Errorf("in another's name: %v", err)
		}
	})
}

func TestSnapshotBringsBackWhoWasAwayForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.born("a", "b", "c")
		l := w.leader()
		gone := "a"
		if l.o.Node == gone {
			gone = "b"
		}
		w.must(l, command{Key: "before", New: 1})
		w.same()
		w.crash(gone)
		const entries, hands = 6000, 100
		var all sync.WaitGroup
		for h := range hands {
			all.Go(func() {
				for i := range entries / hands {
					w.must(l, command{Key: fmt.Sprint(h), Old: i, New: i + 1})
				}
			})
		}
		all.Wait()
		if err := l.Snapshot(ctxFor(t, time.Minute)); err != nil {
			t.Fatal(err)
		}
		if first, _ := w.disk(l.o.Node).FirstIndex(); first < 1000 {
			t.Fatalf("the log still begins at %d", first)
		}
		w.start(gone)
		w.leader()
		w.same()
		if got := w.nodes[gone].AppliedIndex(); got < l.AppliedIndex() {
			t.Errorf("applied %d of %d", got, l.AppliedIndex())
		}
		w.must(w.nodes[gone], command{Key: "after", New: 1})
		// All from disk: snapshot and what came after it.
		for _, name := range []string{"a", "b", "c"} {
			w.crash(name)
		}
		for _, name := range []string{"a", "b", "c"} {
			w.start(name)
		}
		w.leader()
		w.same()
		if got := w.must(w.nodes[gone], command{Key: "after", Read: true}); got.Value != 1 {
			t.Errorf("lost: %+v", got)
		}
	})
}

func TestADiskErrorEndsTheNode(t *testing.T) {
	for _, role := range []string{"leader", "follower"} {
		t.Run(role, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				defer w.close()
				w.born("a", "b", "c")
				l := w.leader()
				bad := l
				if role == "follower" {
					bad = w.nodes["a"]
					if bad == l {
						bad = w.nodes["b"]
					}
				}
				w.disk(bad.o.Node).broken.Store(true)
				_, _, err := l.Propose(ctxFor(t, 10*time.Second), command{Key: "x", New: 1}.encode())
				if role == "leader" && !errors.Is(err, ErrUnknownOutcome) {
					t.Errorf("its proposer heard %v", err)
				}
				w.until(time.Minute, "the node says that it is over", func() bool { return len(w.fatals(bad.o.Node)) > 0 })
				w.disk(bad.o.Node).broken.Store(false) // the disk pretends to be well again
				var rest []string
				for name := range w.nodes {
					if name != bad.o.Node {
						rest = append(rest, name)
					}
				}
				w.must(w.leader(rest...), command{Key: "y", New: 1})
				pass(time.Minute)
				last, _ := w.disk(bad.o.Node).LastIndex()
				w.must(w.leader(rest...), command{Key: "y", Old: 1, New: 2})
				pass(time.Second)
				if now, _ := w.disk(bad.o.Node).LastIndex(); now != last {
					t.Errorf("it writes again: %d after %d", now, last)
				}
				if got := w.fatals(bad.o.Node); len(got) != 1 || !errors.Is(got[0], ErrFailed) {
					t.Errorf("told: %v", got)
				}
				if _, _, err := bad.Propose(ctxFor(t, time.Second), command{}.encode()); !errors.Is(err, ErrFailed) {
					t.Errorf("a later proposal: %v", err)
				}
				// The restart reads the disk.
				w.crash(bad.o.Node)
				w.start(bad.o.Node)
				w.leader()
				w.same()
			})
		})
	}
}

// A leader whose disk holds everybody up gives the leadership to one whose disk
// does not, and it stays there.
func TestASlowLeaderHandsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.born("a", "b", "c")
		var rest []string
		l := w.leader()
		for name := range w.nodes {
			if name != l.o.Node {
				rest = append(rest, name)
			}
		}
		w.disk(l.o.Node).slow.Store(int64(2 * time.Second))
		moved := func() bool {
			s := w.nodes[rest[0]].Status()
			return s.Leader != "" && s.Leader != l.o.Node
		}
		begun := time.Now()
		for i := 0; !moved(); i++ { // without writes nobody is slow
			_, _, _ = l.Propose(ctxFor(t, time.Minute), command{Key: "x", Old: i, New: i + 1}.encode()) // its outcome is open when the leadership goes
			if took := time.Since(begun); took > 30*time.Second {
				t.Fatalf("after %v it still leads", took)
			}
		}
		for i := range 20 {
			w.must(w.leader(rest...), command{Key: "y", Old: i, New: i + 1})
			pass(time.Second)
		}
		w.disk(l.o.Node).slow.Store(0)
		pass(10 * time.Second) // what it had still to write
		w.same()
	})
}

// Where all disks are slow nobody is a better leader.
func TestSlowDisksAllAround(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.born("a", "b", "c")
		for _, name := range []string{"a", "b", "c"} {
			w.disk(name).slow.Store(int64(400 * time.Millisecond))
		}
		l := w.leader()
		for i := range 30 {
			w.must(l, command{Key: "x", Old: i, New: i + 1})
		}
		if now := w.leader(); now != l {
			t.Errorf("%s leads instead of %s", now.o.Node, l.o.Node)
		}
		for _, name := range []string{"a", "b", "c"} {
			w.disk(name).slow.Store(0)
		}
		w.same()
	})
}

func TestADiskThatHangsEndsTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.born("a", "b", "c")
		l := w.leader()
		free := make(chan struct{})
		w.disk(l.o.Node).stuck.Store(&free)
		begun := time.Now()
		_, _, err := l.Propose(ctxFor(t, time.Minute), command{Key: "x", New: 1}.encode())
		if took := time.Since(begun); !errors.Is(err, ErrUnknownOutcome) || took < 5*time.Second || took > 7*time.Second {
			t.Errorf("its proposer heard %v after %v", err, took)
		}
		if got := w.fatals(l.o.Node); len(got) != 1 {
			t.Errorf("told: %v", got)
		}
		close(free)
	})
}

func TestLeadershipIsHandedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.born("a", "b", "c")
		w.leader()
		for _, to := range []string{"a", "b", "c", "a"} {
			// Asked on any node.
			if err := w.nodes["b"].TransferLeadership(ctxFor(t, 20*time.Second), to); err != nil {
				t.Fatal(err)
			}
			if got := w.leader().o.Node; got != to {
				t.Errorf("%s leads, not %s", got, to)
			}
		}
		if err := w.nodes["b"].TransferLeadership(ctxFor(t, 20*time.Second), "nobody"); !errors.Is(err, ErrRefused) {
			t.Errorf("to a stranger: %v", err)
		}
		// A leader that is drained gives it up by itself, but keeps its vote:
		// nobody else could take it.
		w.mu.Lock()
		w.hints["a"] = Hint{Barred: true}
		w.mu.Unlock()
		w.until(time.Minute, "another leader", func() bool { return w.leader().o.Node != "a" })
		pass(time.Minute)
		if v := w.voters(); len(v) != 3 {
			t.Errorf("voters %v", v)
		}
		// With a fourth node it gives up the vote too.
		if err := w.start("d").Join(ctxFor(t, time.Minute), servers("a", "b", "c")); err != nil {
			t.Fatal(err)
		}
		w.until(time.Minute, "d has its vote", func() bool { return slices.Equal(w.voters(), []string{"b", "c", "d"}) })
	})
}

func TestVotesAreSpreadOverZones(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.hints = map[string]Hint{"a": {Zone: "1"}, "b": {Zone: "1"}, "c": {Zone: "2"}, "d": {Zone: "3"}}
		w.born("a", "b", "c")
		if err := w.start("d").Join(ctxFor(t, time.Minute), servers("a", "b", "c")); err != nil {
			t.Fatal(err)
		}
		w.until(time.Minute, "a vote in each zone", func() bool {
			v := w.voters()
			return len(v) == 3 && slices.Contains(v, "c") && slices.Contains(v, "d")
		})
		pass(time.Minute)
		if v := w.voters(); len(v) != 3 {
			t.Errorf("voters %v", v)
		}
	})
}

func TestStatusIsALevel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.born("a")
		s, changed := w.nodes["a"].Changes()
		for !s.Ready {
			<-changed
			s, changed = w.nodes["a"].Changes()
		}
		if !s.Leading || s.Leader != "a" || s.Address != address("a") || s.Term == 0 {
			t.Errorf("%+v", s)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := w.nodes["a"].Barrier(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("a cancelled barrier: %v", err)
		}
	})
}
