// Package keeper runs the division of limits on a node: the agent, which holds the
// node's limiter to its part, and the leader's machine while the node leads.
package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/clrelay/clrelay/cluster/clock"
	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/limit"
	"github.com/clrelay/clrelay/cluster/limit/agent"
	"github.com/clrelay/clrelay/cluster/raftnode"
	limits "github.com/clrelay/clrelay/internal/limit"
)

const (
	tickEvery   = 50 * time.Millisecond
	askWait     = 1500 * time.Millisecond // for the leader's answer
	proposeWait = 5 * time.Second
	statusMost  = 900 << 10 // octets of a status that goes to another node
)

// What a question is about: its first octet.
const (
	aboutReport byte = 1 + iota
	aboutStatus
)

// Raft is what decides; a *raftnode.Node is one.
type Raft interface {
	Changes() (raftnode.Status, <-chan struct{})
	ProposeHere(ctx context.Context, data []byte) (result any, index uint64, err error)
	AskLimits(ctx context.Context, body []byte) ([]byte, error)
}

// View is what has been applied; a *view.View is one.
type View interface {
	Read(func(*fsm.State))
	Limits(func(s *fsm.State, touched []string, full bool))
	LimitsWake() <-chan struct{}
}

// Options are what a Keeper works with.
type Options struct {
	Node  string
	Least int // nodes that found the cluster
	Local limits.Local
	Raft  Raft
	View  View
	Log   *slog.Logger
}

// Keeper divides limits. It is safe for concurrent use.
type Keeper struct {
	o     Options
	ctx   context.Context
	stop  context.CancelFunc
	group sync.WaitGroup
	soon  chan struct{} // has room for one: the agent has something to do

	mu    sync.Mutex // guards the agent; held while the limiter is told
	agent *agent.Agent

	lead    sync.Mutex // guards the machine; never taken with mu
	machine *limit.Machine
}

// New makes a Keeper, which gives the limiter nothing yet.
func New(o Options) *Keeper {
	k := &Keeper{o: o, soon: make(chan struct{}, 1), agent: agent.New(o.Node, o.Local, o.Least), machine: limit.New(limit.Config{})}
	k.ctx, k.stop = context.WithCancel(context.Background())
	return k
}

// Begin takes part, as the process with this session, whose registration is
// applied.
func (k *Keeper) Begin(session fsm.Session) {
	k.agent.Begin(session)
	k.apply(true)
	k.group.Go(k.follow)
	k.group.Go(k.report)
	k.group.Go(k.reign)
}

// Close ends it. The limiter keeps what it has until its lease is over.
func (k *Keeper) Close() {
	k.stop()
	k.group.Wait()
}

// apply has the agent put into force what was applied.
func (k *Keeper) apply(full bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var n agent.News
	k.o.View.Limits(func(s *fsm.State, touched []string, all bool) { n = agent.Read(s, k.o.Node, touched, full || all) })
	k.agent.Apply(clock.Boot(), n)
	k.kick()
}

func (k *Keeper) kick() {
	select {
	case k.soon <- struct{}{}:
	default:
	}
}

// follow follows the log.
func (k *Keeper) follow() {
	for {
		select {
		case <-k.o.View.LimitsWake():
			k.apply(false)
		case <-k.ctx.Done():
			return
		}
	}
}

// report lets the agent's time pass, and tells the leader what it has to say.
func (k *Keeper) report() {
	t := time.NewTimer(0)
	defer t.Stop()
	var wanting <-chan struct{} // a limiter may say when something is wanted that was not
	if w, ok := k.o.Local.(interface{ Wanting() <-chan struct{} }); ok {
		wanting = w.Wanting()
	}
	answers := make(chan struct{}, 1) // is empty while a report is under way
	answers <- struct{}{}
	for {
		select {
		case <-t.C:
		case <-k.soon:
		case <-wanting:
			k.mu.Lock()
			k.agent.Soon(clock.Boot())
			k.mu.Unlock()
		case <-k.ctx.Done():
			return
		}
		k.mu.Lock()
		now := clock.Boot()
		k.agent.Tick(now)
		select {
		case <-answers:
			if r, ok := k.agent.Report(now); ok {
				k.group.Go(func() {
					k.ask(now, &r)
					answers <- struct{}{}
					k.kick()
				})
			} else {
				answers <- struct{}{}
			}
		default:
		}
		wait := max(k.agent.Next()-clock.Boot(), time.Millisecond)
		k.mu.Unlock()
		if len(answers) == 0 { // the answer wakes us, the lease may end before
			wait = max(wait, tickEvery)
		}
		t.Reset(wait)
	}
}

// ask sends a report, and takes the answer.
func (k *Keeper) ask(sent time.Duration, r *limit.Report) {
	ctx, cancel := context.WithTimeout(k.ctx, askWait)
	defer cancel()
	answer, err := k.put(ctx, r)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil {
		k.o.Log.Debug("a report about limits has no answer", "error", err)
		k.agent.Failed(clock.Boot())
		return
	}
	k.agent.Answer(clock.Boot(), sent, answer)
}

func (k *Keeper) put(ctx context.Context, r *limit.Report) (a limit.Answer, err error) {
	body, err := r.Encode()
	if err != nil {
		return a, err
	}
	b, err := k.o.Raft.AskLimits(ctx, append([]byte{aboutReport}, body...))
	if err != nil {
		return a, err
	}
	return limit.DecodeAnswer(b)
}

// Answer answers a question of a node. It is called on the leader, once a
// majority has confirmed it after the question came.
func (k *Keeper) Answer(_ context.Context, peer string, body []byte) ([]byte, error) {
	if k.ctx.Err() != nil {
		return nil, raftnode.ErrNoLeader
	}
	if len(body) == 0 {
		return nil, fmt.Errorf("%w: an empty question about limits", raftnode.ErrRefused)
	}
	switch body[0] {
	case aboutReport:
		r, err := limit.DecodeReport(body[1:])
		if err != nil {
			return nil, fmt.Errorf("%w: %w", raftnode.ErrRefused, err)
		}
		return k.step(&limit.Heard{Node: peer, Report: r}).Encode()
	case aboutStatus:
		return limit.EncodeStatus(k.status(string(body[1:])), statusMost)
	}
	return nil, fmt.Errorf("%w: question %d about limits is not known here", raftnode.ErrRefused, body[0])
}

// Status tells what the leader knows of the keys that begin with prefix and are
// not divided evenly, or of which a node wants more than it has. A very long
// list is cut off.
func (k *Keeper) Status(ctx context.Context, prefix string) ([]limit.Status, error) {
	b, err := k.o.Raft.AskLimits(ctx, append([]byte{aboutStatus}, prefix...))
	if err != nil {
		return nil, fmt.Errorf("limit: asking the leader: %w", err)
	}
	return limit.DecodeStatus(b)
}

func (k *Keeper) status(prefix string) []limit.Status {
	k.lead.Lock()
	defer k.lead.Unlock()
	return slices.DeleteFunc(k.machine.Status(), func(s limit.Status) bool { return !strings.HasPrefix(string(s.Key), prefix) })
}

// reign runs the machine while this node leads.
func (k *Keeper) reign() {
	var term uint64 // in which the machine was told to lead
	for {
		s, changed := k.o.Raft.Changes()
		leads := s.Leading && s.Ready
		if term != 0 && (!leads || s.Term != term) {
			term = 0
			k.step(&limit.Following{})
		}
		if !leads {
			select {
			case <-changed:
			case <-k.ctx.Done():
				return
			}
			continue
		}
		if term == 0 {
			term = s.Term
			k.nodes()
			k.step(&limit.Leading{})
		}
		k.rule(changed)
		if k.ctx.Err() != nil {
			return
		}
	}
}

// rule lets the machine's time pass until the leadership changes.
func (k *Keeper) rule(changed <-chan struct{}) {
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	for n := 0; ; n++ {
		select {
		case <-t.C:
		case <-changed:
			return
		case <-k.ctx.Done():
			return
		}
		if n%4 == 0 {
			k.nodes()
		}
		k.step(&limit.Tick{Wall: time.Now()})
	}
}

// nodes tells the machine of the nodes.
func (k *Keeper) nodes() {
	ev := &limit.Nodes{}
	k.o.View.Read(func(s *fsm.State) { ev.Level, ev.Nodes = s.Level(), s.Nodes() })
	k.step(ev)
}

// step feeds the machine, and has done what it asks for.
func (k *Keeper) step(ev limit.Event) (answer limit.Answer) {
	k.lead.Lock()
	defer k.lead.Unlock()
	for _, a := range k.machine.Step(clock.Boot(), ev) {
		switch a.Kind {
		case limit.ActAnswer:
			answer = a.Answer
		case limit.ActClaim:
			k.group.Go(func() { k.step(k.claim(a.ID)) })
		case limit.ActPropose:
			k.group.Go(func() {
				out := &limit.Proposed{ID: a.ID}
				out.Result, out.Index, out.Known = k.propose(a.Shares)
				k.o.View.Read(func(s *fsm.State) { out.Roster = s.Roster() })
				k.step(out)
			})
		case limit.ActGrant:
			k.group.Go(func() {
				out := &limit.Granted{ID: a.ID}
				out.Result, out.Index, out.Known = k.propose(a.Budgets)
				k.step(out)
			})
		}
	}
	return answer
}

// claim begins a reign.
func (k *Keeper) claim(id uint64) limit.Event {
	var reign uint64
	k.o.View.Read(func(s *fsm.State) { reign = s.Reign() })
	r, index, known := k.propose(fsm.ShareOps{Reign: reign, Claim: true})
	if !known || r.Code != fsm.OK {
		return &limit.Failed{ID: id}
	}
	out := &limit.Claimed{ID: id, Reign: r.Version, Index: index}
	ours := false
	k.o.View.Read(func(s *fsm.State) {
		ours = s.Reign() == r.Version
		out.Limits = s.Limits()
	})
	if !ours {
		return &limit.Failed{ID: id}
	}
	return out
}

// propose puts a command into the log from here. With known false nothing is
// known of its outcome.
func (k *Keeper) propose(c fsm.Command) (r fsm.Result, index uint64, known bool) {
	data, err := fsm.Encode(c)
	if err == nil {
		ctx, cancel := context.WithTimeout(k.ctx, proposeWait)
		defer cancel()
		var res any
		res, index, err = k.o.Raft.ProposeHere(ctx, data)
		r, known = res.(fsm.Result)
	}
	if err != nil {
		if !errors.Is(err, raftnode.ErrNoLeader) && k.ctx.Err() == nil {
			k.o.Log.Debug("a proposal about limits has no outcome", "command", fmt.Sprintf("%T", c), "error", err)
		}
		return fsm.Result{}, 0, false
	}
	return r, index, known
}
