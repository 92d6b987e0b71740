package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clrelay/clrelay/cluster/clock"
	"github.com/clrelay/clrelay/cluster/drive"
	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/lead"
	"github.com/clrelay/clrelay/cluster/raftnode"
	"github.com/clrelay/clrelay/cluster/segment"
	"github.com/clrelay/clrelay/cluster/view"
)

const (
	// proposalsMax is how many proposals are under way at a time; what comes
	// beyond it is left, for its proposer repeats it.
	proposalsMax = 64
	// proposeWait is how long a proposal is waited for.
	proposeWait = 5 * time.Second
)

// control speaks with Raft for the cores: it puts their proposals into the
// log, tells them what was applied, and carries out the leader's duties.
type control struct {
	raft  *raftnode.Node
	view  *view.View
	self  fsm.Ref
	now   func() time.Duration
	log   *slog.Logger
	ctx   context.Context
	stop  context.CancelFunc
	group sync.WaitGroup
	slots chan struct{}
	// changed is told when the configuration, the settings or the level may
	// have changed. It must not block.
	changed func()

	e   *drive.Engine // set by begin, before anything is proposed
	net drive.Sender

	session fsm.Session   // likewise
	beacons atomic.Uint64 // number of the last one that was sent

	applying sync.Mutex // held while the cores are told what was applied

	mu     sync.Mutex // guards the leader's core; taken alone or under the engine's lock
	leader *lead.Machine
}

func newControl(raft *raftnode.Node, v *view.View, self fsm.Ref, now func() time.Duration, log *slog.Logger) (*control, error) {
	leader, err := lead.New(lead.Config{})
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	return &control{
		raft: raft, view: v, self: self, now: now, log: log, ctx: ctx, stop: stop,
		slots: make(chan struct{}, proposalsMax), leader: leader, changed: func() {},
	}, nil
}

func (c *control) close() {
	c.stop()
	c.group.Wait()
}

// propose puts a command into the log and gives its result.
func (c *control) propose(ctx context.Context, cmd fsm.Command) (fsm.Result, error) {
	data, err := fsm.Encode(cmd)
	if err != nil {
		return fsm.Result{}, fmt.Errorf("cluster: %w", err)
	}
	res, _, err := c.raft.Propose(ctx, data)
	if err != nil {
		return fsm.Result{}, err
	}
	out, ok := res.(fsm.Result)
	if !ok {
		return fsm.Result{}, fmt.Errorf("cluster: a result of type %T", res)
	}
	return out, nil
}

// async proposes a command on a goroutine of its own.
func (c *control) async(cmd fsm.Command, then func(fsm.Result)) {
	select {
	case c.slots <- struct{}{}:
	default:
		return
	}
	c.group.Go(func() {
		defer func() { <-c.slots }()
		ctx, cancel := context.WithTimeout(c.ctx, proposeWait)
		defer cancel()
		res, err := c.propose(ctx, cmd)
		switch {
		case err != nil:
			c.log.Debug("a proposal has no outcome", "command", fmt.Sprintf("%T", cmd), "error", err)
		case then != nil:
			then(res)
		}
	})
}

// Ops is of drive.Control.
func (c *control) Ops(ops []fsm.SegmentOp) {
	c.async(fsm.SegmentOps{Ops: ops}, func(res fsm.Result) {
		for i, r := range res.Ops {
			if i < len(ops) && r.Code != fsm.OK {
				c.e.Step(&segment.Refused{Op: ops[i], Code: r.Code})
			}
		}
	})
}

// Node is of drive.Control.
func (c *control) Node(verb fsm.NodeVerb) {
	c.async(fsm.NodeChange{Node: c.self.Node, Verb: verb, By: c.session, Store: c.self.Store}, nil)
}

// Beacon is of drive.Control.
func (c *control) Beacon(n uint64) {
	c.beacons.Store(n)
	switch s := c.raft.Status(); s.Leader {
	case "":
	case c.self.Node:
		c.Heard(c.self.Node, c.session, n)
	default:
		// One that is lost is followed by the next.
		_ = c.net.Send(s.Leader, drive.Beacon(c.session, n))
	}
}

// Heard is of drive.Control.
func (c *control) Heard(node string, session fsm.Session, n uint64) {
	c.step(&lead.Beacon{Node: node, Session: session, Number: n})
}

// step feeds the leader's core.
func (c *control) step(ev lead.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.leader.Step(c.now(), ev) {
		switch a.Kind {
		case lead.ActBarrier:
			c.barrier(a.Term)
		case lead.ActRenew:
			c.async(fsm.Renew{Renewals: a.Renewals}, nil)
		case lead.ActPropose:
			c.async(fsm.SegmentOps{Ops: a.Ops}, nil)
		}
	}
}

// barrier answers when all of earlier terms is applied, which raftnode sees to.
func (c *control) barrier(term uint64) {
	c.group.Go(func() {
		for {
			s, changed := c.raft.Changes()
			switch {
			case s.Term != term || !s.Leading:
				return // another term, another barrier
			case s.Ready:
				c.apply() // what the barrier is about is told first
				c.step(&lead.Barred{Term: term})
				return
			}
			select {
			case <-changed:
			case <-c.ctx.Done():
				return
			}
		}
	})
}

// begin starts to tell the cores what is applied.
func (c *control) begin(e *drive.Engine, net drive.Sender, session fsm.Session) {
	c.e, c.net, c.session = e, net, session
	e.Step(&segment.Registered{Session: session})
	c.view.All() // the cores know nothing yet
	c.group.Go(c.watchLog)
	c.group.Go(c.watchLeader)
	c.group.Go(c.tick)
}

// watchLog tells the cores what is applied.
func (c *control) watchLog() {
	for {
		c.apply()
		select {
		case <-c.view.Wake():
		case <-c.ctx.Done():
			return
		}
	}
}

// apply tells both cores what was applied since the last time.
func (c *control) apply() {
	c.applying.Lock()
	defer c.applying.Unlock()
	n := c.view.Take()
	if !n.Full && !n.Cluster && len(n.Segments)+len(n.Gone)+len(n.Nodes) == 0 {
		return
	}
	c.step(&lead.Applied{Index: n.Index, Full: n.Full, Segments: n.Segments, Gone: n.Gone, Nodes: n.Nodes, Settings: n.Settings})
	c.e.Step(&segment.Applied{
		Index: n.Index, Full: n.Full, Segments: n.Segments, Gone: n.Gone, WrittenOff: n.Off, Nodes: n.Nodes, Settings: n.Settings, Forgetful: n.Forgetful,
	})
	if n.Cluster || len(n.Nodes) > 0 {
		c.changed()
	}
}

// watchLeader tells the leader's core when this node leads.
func (c *control) watchLeader() {
	var term uint64 // that the core was told to lead in
	for {
		s, changed := c.raft.Changes()
		switch {
		case s.Leading && s.Term != term:
			term = s.Term
			c.step(&lead.Leading{Term: term})
		case !s.Leading && term != 0:
			term = 0
			c.step(&lead.Following{})
		}
		select {
		case <-changed:
		case <-c.ctx.Done():
			return
		}
	}
}

// tick lets time pass in the cores, and looks out for clocks that jump: a
// machine that was suspended must not go on as if nothing had been.
func (c *control) tick() {
	t := time.NewTicker(segment.TickEvery)
	defer t.Stop()
	drift := clock.NewDrift(c.now)
	for {
		select {
		case <-t.C:
		case <-c.ctx.Done():
			return
		}
		if drift.Jumped() {
			c.log.Warn("the clock jumped: the machine was suspended, or moved")
			c.e.Step(&segment.DropLease{})
		}
		c.e.Step(&segment.Tick{})
		c.step(&lead.Tick{})
	}
}

// outcome makes an error of a refused command.
func outcome(res fsm.Result, err error) error {
	switch {
	case err != nil:
		return err
	case res.Code != fsm.OK:
		return &RefusedError{Code: res.Code, Text: res.Text}
	}
	return nil
}

// RefusedError is a change that the cluster as it is does not allow.
type RefusedError struct {
	Code fsm.Code
	Text string
}

// Error says why.
func (e *RefusedError) Error() string { return e.Text }

// errStopped says that the node is closing.
var errStopped = errors.New("cluster: the node is closing")
