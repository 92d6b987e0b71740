package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// leaseEnds is how long a node that is cut off may go on at most: 0.8 G, and
// something for the machine the test runs on.
const leaseEnds = 4*time.Second + 500*time.Millisecond

// takenOver is how long a node has to be away until its mail is others' for
// sure.
const takenOver = 9 * time.Second

// nemesis carries out one round's fault.
type nemesis struct {
	*fleet
	ctx context.Context
	rng *rand.Rand

	// For the judge.
	silent []silence
	killed *killing
}

// silence is a time in which a node must not say 250.
type silence struct {
	node     int
	from, to time.Time
}

// killing is a node's sudden end, for the figures.
type killing struct {
	node   int
	at, to time.Time
	leader bool
	away   bool // the sink was, so that there was mail left
}

// fault is one way to hurt a fleet. It is over, and all is mended, when run
// returns.
type fault struct {
	name  string
	lab   bool        // needs namespaces
	disks bool        // needs disks of their own
	alone bool        // never at the same time as another: it may take what the other leaves
	needs func() bool // what else it needs of the machine; nil: nothing
	run   func(n *nemesis) error
}

// catalogue is all there is.
func catalogue() []fault {
	return []fault{
		{name: "kill", run: (*nemesis).killOne},
		{name: "kill-leader", run: (*nemesis).killLeader},
		{name: "kill-all", run: (*nemesis).killAll},
		{name: "kill-two", run: (*nemesis).killTwo},
		{name: "lose-disk", alone: true, run: (*nemesis).loseDisk},
		{name: "take-over", alone: true, run: func(n *nemesis) error { return n.lose(n.any(), takenOver, true) }},
		{name: "take-over-leader", alone: true, run: func(n *nemesis) error { return n.lose(n.leader(), takenOver, true) }},
		{name: "pause", run: func(n *nemesis) error { return n.pause(n.any()) }},
		{name: "pause-leader", run: func(n *nemesis) error { return n.pause(n.leader()) }},
		{name: "pause-two", run: func(n *nemesis) error { l := n.shuffled(); return n.pause(l[0], l[1]) }},
		{name: "pause-and-kill", run: (*nemesis).pauseAndKill},
		{name: "power", disks: true, alone: true, run: (*nemesis).power},
		{name: "power-all", disks: true, alone: true, run: (*nemesis).powerAll},
		{name: "disk-full", disks: true, alone: true, run: (*nemesis).fill},
		{name: "isolate", lab: true, run: func(n *nemesis) error { return n.isolate(n.any(), n.between(2, 14)) }},
		{name: "isolate-leader", lab: true, run: func(n *nemesis) error { return n.isolate(n.leader(), n.between(2, 14)) }},
		{name: "deaf", lab: true, run: (*nemesis).deaf},
		{name: "mute", lab: true, run: (*nemesis).mute},
		{name: "link", lab: true, run: (*nemesis).link},
		{name: "one-way-link", lab: true, run: (*nemesis).oneWay},
		{name: "all-apart", lab: true, run: (*nemesis).apart},
		{name: "flap", lab: true, run: (*nemesis).flap},
		{name: "slow", lab: true, run: (*nemesis).slowLink},
		{name: "cut-and-kill", lab: true, run: (*nemesis).cutAndKill},
		{name: "drain", alone: true, run: (*nemesis).drain},
		{name: "drain-and-kill", alone: true, run: (*nemesis).drainAndKill},
		{name: "rolling-restart", alone: true, run: (*nemesis).rolling},
		{name: "stop", alone: true, run: (*nemesis).stopOne},
		{name: "old-copy", alone: true, run: (*nemesis).oldCopy},
		{name: "sync-fails", alone: true, needs: has("strace"), run: (*nemesis).syncFails},
		{name: "slow-disk", alone: true, needs: has("strace"), run: func(n *nemesis) error { return n.slowDisk(n.any()) }},
		{name: "slow-disk-leader", alone: true, needs: has("strace"), run: func(n *nemesis) error { return n.slowDisk(n.leader()) }},
		{name: "read-only", disks: true, alone: true, run: (*nemesis).readOnly},
		{name: "bit-flips", alone: true, run: (*nemesis).bitFlips},
		{name: "loss", lab: true, alone: true, run: (*nemesis).lossy},
		{name: "starve", alone: true, needs: hasQuotas, run: (*nemesis).starve},
		{name: "few-files", alone: true, needs: has("prlimit"), run: (*nemesis).fewFiles},
		{name: "certificates", alone: true, run: (*nemesis).newCertificates},
	}
}

// possible lists the faults that this machine can do.
func (f *fleet) possible() []fault {
	var out []fault
	for _, c := range catalogue() {
		if (!c.lab || f.lab != nil) && (!c.disks || f.disks != nil) && (c.needs == nil || c.needs()) {
			out = append(out, c)
		}
	}
	return out
}

func (n *nemesis) any() int        { return n.rng.IntN(n.o.Nodes) }
func (n *nemesis) shuffled() []int { return n.rng.Perm(n.o.Nodes) }

// between gives a time between two numbers of seconds.
func (n *nemesis) between(from, to float64) time.Duration {
	return time.Duration((from + n.rng.Float64()*(to-from)) * float64(time.Second))
}

// hold lets time pass.
func (n *nemesis) hold(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-n.ctx.Done():
	}
}

func (n *nemesis) say(format string, args ...any) { n.o.Log("  "+format, args...) }

// leader is the node that leads Raft, or any.
func (n *nemesis) leader() int {
	st, err := n.status()
	if err == nil {
		for i := range n.o.Nodes {
			if name(i) == st.Leader {
				return i
			}
		}
	}
	return n.any()
}

// status is how the cluster says that it stands.
type status struct {
	Leader      string `json:"leader"`
	CommitIndex uint64 `json:"commit_index"`
	Quorum      bool   `json:"quorum"`
	Level       uint32 `json:"feature_level"`
	Nodes       []struct {
		Name  string `json:"name"`
		Voter bool   `json:"voter"`
	} `json:"nodes"`
}

func (f *fleet) status() (st status, err error) {
	for _, i := range f.running() {
		out, errs, code := f.cluster.Nodes[i].CLI("cluster", "status", "-o", "json")
		if code != 0 {
			err = fmt.Errorf("cluster status at %s: %d: %s", name(i), code, errs)
			continue
		}
		if err = json.Unmarshal([]byte(out), &st); err == nil {
			return st, nil
		}
	}
	return st, err
}

// downFor is how long a killed node stays away: now and then too short for
// anybody to notice, now and then until it was taken over.
func (n *nemesis) downFor() time.Duration {
	switch n.rng.IntN(3) {
	case 0:
		return n.between(0, 1)
	case 1:
		return n.between(1, 8)
	}
	return takenOver
}

// die kills a node for the figures.
func (n *nemesis) die(i int, away bool) {
	leader := n.leader()
	if away {
		n.away.Store(true)
		n.hold(time.Second) // for something to be left
	}
	n.kill(i)
	n.killed = &killing{node: i, at: time.Now(), leader: leader == i, away: away}
	n.away.Store(false)
}

func (n *nemesis) revive(i int) error {
	n.killed.to = time.Now()
	return n.start(i)
}

func (n *nemesis) killOne() error { return n.killAndStart(n.any(), n.downFor()) }

func (n *nemesis) killLeader() error { return n.killAndStart(n.leader(), n.downFor()) }

func (n *nemesis) killAndStart(i int, down time.Duration) error {
	n.say("kill -9 %s for %v", name(i), down)
	n.die(i, down == takenOver || n.rng.IntN(2) == 0)
	n.hold(down)
	return n.revive(i)
}

func (n *nemesis) loseDisk() error {
	return n.lose(n.any(), n.downFor(), n.rng.IntN(2) == 0)
}

// lose takes a node away with its disk; it comes back with an empty one. Where
// the sink was away it leaves mail to others.
func (n *nemesis) lose(i int, down time.Duration, away bool) error {
	n.say("%s is lost with its disk for %v", name(i), down)
	n.die(i, away)
	if err := os.RemoveAll(n.cluster.Nodes[i].Data); err != nil {
		return err
	}
	n.hold(down)
	return n.revive(i)
}

func (n *nemesis) killAll() error {
	n.say("kill -9 of all")
	n.away.Store(n.rng.IntN(2) == 0)
	n.hold(time.Second)
	list := n.shuffled()
	for _, i := range list {
		n.kill(i)
	}
	for _, i := range list {
		n.hold(n.between(0, 2))
		if err := n.start(i); err != nil {
			return err
		}
	}
	return nil
}

// killTwo leaves one of three, which must not take anything then.
func (n *nemesis) killTwo() error {
	list := n.shuffled()
	rest := list[len(list)/2+1:]
	n.say("kill -9 of all but %d", len(rest))
	for _, i := range list[:len(list)/2+1] {
		n.kill(i)
	}
	from := time.Now().Add(leaseEnds)
	n.hold(n.between(6, 12))
	for _, i := range rest {
		n.silent = append(n.silent, silence{i, from, time.Now()})
	}
	for _, i := range list[:len(list)/2+1] {
		if err := n.start(i); err != nil {
			return err
		}
		n.hold(n.between(0, 2))
	}
	return nil
}

func (n *nemesis) stopOne() error {
	i := n.any()
	n.say("SIGTERM to %s", name(i))
	return n.restart(i, n.between(0, 8), nil)
}

// restart ends a node in good order and starts it again; meanwhile is done
// while it is down.
func (n *nemesis) restart(i int, down time.Duration, meanwhile func() error) error {
	n.mu.Lock()
	n.down[i] = true
	n.counted.last(i)
	n.mu.Unlock()
	if err := n.cluster.Nodes[i].Stop(); err != nil {
		return err
	}
	n.counted.rest(i)
	if meanwhile != nil {
		if err := meanwhile(); err != nil {
			return err
		}
	}
	n.hold(down)
	return n.start(i)
}

// rolling restarts all nodes in turn, each when the one before is back.
func (n *nemesis) rolling() error {
	n.say("all nodes are restarted in turn")
	for _, i := range n.shuffled() {
		if err := n.restart(i, n.between(0, 1), nil); err != nil {
			return err
		}
		if err := n.cluster.Nodes[i].AwaitReady(n.ctx); err != nil {
			return err
		}
	}
	return nil
}

// drainWithin is how long emptying a node may take.
const drainWithin = "30s"

// drain empties a node that has mail, and takes it back into service.
func (n *nemesis) drain() error {
	i := n.any()
	n.say("%s is drained", name(i))
	n.away.Store(true)
	n.hold(n.between(0, 2))
	began := time.Now()
	_, errs, code := n.cluster.Nodes[i].CLI("node", "drain", name(i), "--wait", "--timeout", drainWithin)
	if code != 0 {
		return fmt.Errorf("%w: draining %s: %d: %s", ErrBroken, name(i), code, errs)
	}
	n.say("it took %v", time.Since(began).Round(time.Millisecond))
	n.away.Store(false)
	n.hold(n.between(0, 3))
	return n.resume(i, i)
}

func (n *nemesis) resume(i, through int) error {
	if _, errs, code := n.cluster.Nodes[through].CLI("node", "resume", name(i)); code != 0 {
		return fmt.Errorf("%w: resuming %s: %d: %s", ErrBroken, name(i), code, errs)
	}
	return nil
}

// drainAndKill kills the node that is being emptied, or another, meanwhile.
func (n *nemesis) drainAndKill() error {
	list := n.shuffled()
	i, through, victim := list[0], list[1], list[n.rng.IntN(2)*2]
	n.say("%s is drained, kill -9 of %s meanwhile", name(i), name(victim))
	n.away.Store(n.rng.IntN(2) == 0)
	n.hold(time.Second)
	if _, errs, code := n.cluster.Nodes[through].CLI("node", "drain", name(i)); code != 0 {
		return fmt.Errorf("%w: draining %s: %d: %s", ErrBroken, name(i), code, errs)
	}
	n.hold(n.between(0, 2))
	n.kill(victim)
	n.hold(n.between(0, 8))
	if err := n.start(victim); err != nil {
		return err
	}
	n.away.Store(false)
	n.hold(n.between(3, 6)) // for a leader
	return n.resume(i, through)
}

func (n *nemesis) pause(list ...int) error {
	d := n.between(0.5, 20)
	n.say("SIGSTOP of %d for %v", plus(list), d)
	n.away.Store(n.rng.IntN(2) == 0)
	if err := n.halt(list...); err != nil {
		return err
	}
	n.hold(d)
	n.away.Store(false)
	return n.goOn(list...)
}

// goOn lets stopped nodes run again; they may have ended meanwhile.
func (n *nemesis) goOn(list ...int) error {
	var errs []error
	for _, i := range list {
		if err := n.cluster.Nodes[i].Signal(syscall.SIGCONT); !errors.Is(err, os.ErrProcessDone) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// halt stops nodes where they are.
func (n *nemesis) halt(list ...int) error {
	var errs []error
	for _, i := range list {
		if err := n.cluster.Nodes[i].Signal(syscall.SIGSTOP); !errors.Is(err, os.ErrProcessDone) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func plus(list []int) (out []int) {
	for _, i := range list {
		out = append(out, i+1)
	}
	return out
}

// pauseAndKill kills one node while another is stopped.
func (n *nemesis) pauseAndKill() error {
	list, d := n.shuffled(), n.between(2, 14)
	n.say("SIGSTOP of %s for %v, kill -9 of %s meanwhile", name(list[0]), d, name(list[1]))
	if err := n.halt(list[0]); err != nil {
		return err
	}
	n.hold(d / 2)
	n.kill(list[1])
	n.hold(d / 2)
	return errors.Join(n.goOn(list[0]), n.start(list[1]))
}

// cutPower takes the disk away from under a node, and the node.
func (n *nemesis) cutPower(i int) error {
	err := n.disks[i].PowerOff()
	n.kill(i)
	return errors.Join(err, n.disks[i].Unmount(), n.disks[i].Mount())
}

func (n *nemesis) power() error {
	i, d := n.any(), n.downFor()
	n.say("power loss of %s for %v", name(i), d)
	n.away.Store(n.rng.IntN(2) == 0)
	n.hold(time.Second)
	if err := n.cutPower(i); err != nil {
		return err
	}
	n.away.Store(false)
	n.hold(d)
	return n.start(i)
}

func (n *nemesis) powerAll() error {
	n.say("power loss of all")
	n.away.Store(true)
	n.hold(n.between(0, 2))
	list := n.shuffled()
	for _, i := range list { // all at once, as near as it gets
		if err := n.disks[i].PowerOff(); err != nil {
			return err
		}
	}
	for _, i := range list {
		if err := n.cutPower(i); err != nil {
			return err
		}
	}
	n.away.Store(false)
	for _, i := range list {
		if err := n.start(i); err != nil {
			return err
		}
	}
	return nil
}

func (n *nemesis) fill() error {
	i, d := n.any(), n.between(3, 12)
	n.say("the disk of %s is full for %v", name(i), d)
	for end := time.Now().Add(d); time.Now().Before(end) && n.ctx.Err() == nil; {
		if err := n.disks[i].Fill(0); err != nil {
			return err
		}
		n.hold(500 * time.Millisecond)
	}
	return n.disks[i].Empty()
}

// deafTo makes nodes deaf to others; node by number from 0.
func (n *nemesis) deafTo(i int, to ...int) error { return n.lab.deafen(i+1, plus(to)...) }

// heal lets all hear all.
func (n *nemesis) heal() error {
	var errs []error
	for i := range n.o.Nodes {
		errs = append(errs, n.deafTo(i))
	}
	return errors.Join(errs...)
}

func (n *nemesis) others(i int) (out []int) {
	for j := range n.o.Nodes {
		if j != i {
			out = append(out, j)
		}
	}
	return out
}

// split cuts a node off from the others, in both directions.
func (n *nemesis) split(i int) error {
	errs := []error{n.deafTo(i, n.others(i)...)}
	for _, j := range n.others(i) {
		errs = append(errs, n.deafTo(j, i))
	}
	return errors.Join(errs...)
}

func (n *nemesis) isolate(i int, d time.Duration) error {
	n.say("%s is cut off for %v", name(i), d)
	n.away.Store(n.rng.IntN(2) == 0)
	if err := n.split(i); err != nil {
		return err
	}
	from := time.Now().Add(leaseEnds)
	n.hold(d / 2)
	n.away.Store(false)
	n.hold(d / 2)
	n.silent = append(n.silent, silence{i, from, time.Now()})
	return n.heal()
}

func (n *nemesis) deaf() error {
	i, d := n.any(), n.between(2, 14)
	n.say("%s hears nobody for %v", name(i), d)
	err := n.deafTo(i, n.others(i)...)
	n.hold(d)
	return errors.Join(err, n.heal())
}

func (n *nemesis) mute() error {
	i, d := n.any(), n.between(2, 14)
	n.say("nobody hears %s for %v", name(i), d)
	var errs []error
	for _, j := range n.others(i) {
		errs = append(errs, n.deafTo(j, i))
	}
	n.hold(d)
	return errors.Join(append(errs, n.heal())...)
}

func (n *nemesis) link() error {
	list, d := n.shuffled(), n.between(2, 14)
	n.say("no link between %s and %s for %v", name(list[0]), name(list[1]), d)
	err := errors.Join(n.deafTo(list[0], list[1]), n.deafTo(list[1], list[0]))
	n.hold(d)
	return errors.Join(err, n.heal())
}

func (n *nemesis) oneWay() error {
	list, d := n.shuffled(), n.between(2, 14)
	n.say("%s does not hear %s for %v", name(list[0]), name(list[1]), d)
	err := n.deafTo(list[0], list[1])
	n.hold(d)
	return errors.Join(err, n.heal())
}

// apart cuts every node off from every other.
func (n *nemesis) apart() error {
	d := n.between(2, 12)
	n.say("nobody hears anybody for %v", d)
	var errs []error
	for i := range n.o.Nodes {
		errs = append(errs, n.deafTo(i, n.others(i)...))
	}
	from := time.Now().Add(leaseEnds)
	n.hold(d)
	for i := range n.o.Nodes {
		n.silent = append(n.silent, silence{i, from, time.Now()})
	}
	return errors.Join(append(errs, n.heal())...)
}

// flap cuts a node off and lets it back, two seconds each.
func (n *nemesis) flap() error {
	i, times := n.any(), 2+n.rng.IntN(4)
	n.say("%s is cut off each 2 s, %d times", name(i), times)
	for range times {
		if err := n.split(i); err != nil {
			return err
		}
		n.hold(2 * time.Second)
		if err := n.heal(); err != nil {
			return err
		}
		n.hold(2 * time.Second)
	}
	return nil
}

func (n *nemesis) slowLink() error {
	i, d := n.any(), n.between(4, 14)
	n.say("%s sends 1 Mbit/s for %v", name(i), d)
	err := n.lab.slow(i+1, 1_000_000)
	n.hold(d)
	return errors.Join(err, n.lab.slow(i+1, 0))
}

// lossy has a node lose some of the packets from and to the others.
func (n *nemesis) lossy() error {
	i, percent, d := n.any(), 5+n.rng.IntN(40), n.between(4, 14)
	n.say("%s loses %d %% of all packets for %v", name(i), percent, d)
	var errs []error
	for j := range n.o.Nodes {
		from := []int{i}
		if j == i {
			from = n.others(i)
		}
		errs = append(errs, n.lab.lose(j+1, percent, plus(from)...))
	}
	n.hold(d)
	return errors.Join(append(errs, n.heal())...)
}

// cutAndKill kills the other side of a partition while it lasts.
func (n *nemesis) cutAndKill() error {
	list, d := n.shuffled(), n.between(4, 14)
	n.say("%s is cut off for %v, kill -9 of %s meanwhile", name(list[0]), d, name(list[1]))
	err := n.split(list[0])
	n.hold(d / 2)
	n.kill(list[1])
	n.hold(d / 2)
	return errors.Join(err, n.start(list[1]), n.heal())
}

// keepLogs says where the logs are.
func (f *fleet) keepLogs() (out []string) {
	for i := range f.o.Nodes {
		out = append(out, filepath.Join(f.o.Dir, name(i), "log"))
	}
	return out
}
