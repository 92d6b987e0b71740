package raftnode

import (
	"context"
	"time"

	"github.com/hashicorp/raft"

	"github.com/clrelay/clrelay/cluster/raftnode/store"
)

// statusPoll is how often the known leader is read. The library tells of one's
// own leadership, but of others' only over observers that may drop.
const statusPoll = 50 * time.Millisecond

// drainNotify takes the library's notifications, which block its main loop,
// and does nothing else.
func (n *Node) drainNotify() {
	for {
		select {
		case <-n.notify:
			select {
			case n.kick <- struct{}{}:
			default: // one is pending, which will see this change too
			}
		case <-n.dead:
			return
		}
	}
}

// watchLeadership keeps the status, and runs the leader's duties while this
// node leads.
func (n *Node) watchLeadership() {
	t := time.NewTicker(statusPoll)
	defer t.Stop()
	var duties *reign
	defer func() { duties.end() }()
	for {
		select {
		case <-n.closed:
			return
		case <-n.kick:
		case <-t.C:
		}
		now := n.observe()
		if duties != nil && (!now.Leading || now.Term != duties.term) {
			duties.end()
			duties = nil
		}
		if duties == nil && now.Leading {
			duties = n.reign(now.Term)
		}
	}
}

// reign is one term of leadership.
type reign struct {
	term uint64
	stop context.CancelFunc
	done chan struct{}
}

func (n *Node) reign(term uint64) *reign {
	ctx, cancel := context.WithCancel(context.Background())
	r := &reign{term: term, stop: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		n.lead(ctx, term)
	}()
	return r
}

func (r *reign) end() {
	if r != nil {
		r.stop()
		<-r.done
	}
}

// observe reads the leadership and tells it if it changed.
func (n *Node) observe() Status {
	address, id := n.raft.LeaderWithID()
	s := Status{Leader: string(id), Address: store.HostPort(address), Term: n.raft.CurrentTerm()}
	s.Leading = n.raft.State() == raft.Leader && s.Leader == n.o.Node
	if s.Leader == n.o.Node && !s.Leading {
		s.Leader, s.Address = "", ""
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	s.Ready = s.Leading && n.status.Ready && n.status.Leading && n.status.Term == s.Term
	n.setStatus(s)
	return s
}

// setStatus is called with mu held.
func (n *Node) setStatus(s Status) {
	if s == n.status {
		return
	}
	n.status = s
	close(n.changed)
	n.changed = make(chan struct{})
}

// lead is what a leader does in one term: first it makes sure that it has
// applied all of the past, then it keeps the votes.
func (n *Node) lead(ctx context.Context, term uint64) {
	for {
		_, err := n.barrier(ctx)
		if err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(leaderRetry):
		}
	}
	n.mu.Lock()
	if s := n.status; s.Leading && s.Term == term {
		s.Ready = true
		n.setStatus(s)
	}
	n.mu.Unlock()
	newKeeper(n).run(ctx)
}
