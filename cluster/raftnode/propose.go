package raftnode

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/clrelay/clrelay/cluster/raftnode/store"
)

const (
	enqueueTimeout  = 2 * time.Second // for raft's main loop to take a command
	transferTimeout = 8 * time.Second
	crownWait       = 500 * time.Millisecond // for a server that was told to stand for election to win it
	leaderRetry     = 50 * time.Millisecond  // before a leader that was none is asked again
)

// Propose puts a command into the log, through the leader if that is another
// node, and waits until this node's FSM has applied it. It returns the FSM's
// result and the entry's index. Without a leader it waits for one as long as
// ctx allows. Data must not be changed afterwards. For its errors see the
// package.
func (n *Node) Propose(ctx context.Context, data []byte) (result any, index uint64, err error) {
	if len(data) > MaxCommand {
		return nil, 0, ErrTooLarge
	}
	err = n.withLeader(ctx, func(s Status) error {
		if s.Leading {
			result, index, err = n.apply(ctx, data)
			return err
		}
		index, err = n.forward(ctx, s, data)
		if err != nil {
			return err
		}
		result, err = n.outcome(ctx, index)
		return err
	})
	return result, index, err
}

// ProposeHere is Propose for what only the leader may decide: it is never handed
// on to another node.
func (n *Node) ProposeHere(ctx context.Context, data []byte) (result any, index uint64, err error) {
	switch {
	case len(data) > MaxCommand:
		return nil, 0, ErrTooLarge
	case n.over() != nil:
		return nil, 0, n.over()
	}
	return n.apply(ctx, data)
}

// withLeader calls f with a status that names a leader, again as long as f
// says ErrNoLeader and ctx allows.
func (n *Node) withLeader(ctx context.Context, f func(Status) error) error {
	for {
		if err := n.over(); err != nil {
			return err
		}
		status, changed := n.Changes()
		err := ErrNoLeader
		if status.Leader != "" {
			err = f(status)
		}
		if !errors.Is(err, ErrNoLeader) {
			return err
		}
		t := time.NewTimer(leaderRetry)
		select {
		case <-changed:
		case <-t.C:
		case <-n.closed:
		case <-n.failed:
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("%w: %w", ErrNoLeader, ctx.Err())
		}
		t.Stop()
	}
}

func (n *Node) over() error {
	select {
	case <-n.failed:
		return ErrFailed
	case <-n.closed:
		return ErrClosed
	default:
		return nil
	}
}

// apply proposes on the leader itself.
func (n *Node) apply(ctx context.Context, data []byte) (any, uint64, error) {
	var f raft.ApplyFuture
	err := n.wait(ctx, func() raft.Future {
		f = n.raft.Apply(data, enqueueTimeout)
		return f
	})
	if err != nil {
		return nil, 0, classify(err)
	}
	return f.Response(), f.Index(), nil
}

// wait starts something in raft and waits for its end. The library cannot be
// told to give up, so what is not awaited any more ends in its own goroutine;
// it may leave a command unanswered when it shuts down.
func (n *Node) wait(ctx context.Context, start func() raft.Future) error {
	n.calls.RLock()
	if err := n.over(); err != nil {
		n.calls.RUnlock()
		return err
	}
	f := start()
	n.calls.RUnlock()
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, ctx.Err())
	case <-n.failed:
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, ErrFailed)
	case <-n.dead:
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, ErrClosed)
	}
}

// classify says what an error of the library means for the one who proposed:
// all but those that come before an entry was made leave the outcome open.
func classify(err error) error {
	switch {
	case errors.Is(err, ErrUnknownOutcome), errors.Is(err, ErrClosed), errors.Is(err, ErrFailed):
		return err
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrEnqueueTimeout):
		return fmt.Errorf("%w: %w", ErrNoLeader, err)
	default:
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	}
}

// outcome waits until the own FSM has come to index, where the leader says the
// command is.
func (n *Node) outcome(ctx context.Context, index uint64) (any, error) {
	if err := n.fsm.Wait(ctx, index, n.closed); err != nil {
		return nil, fmt.Errorf("%w: it is committed at %d: %w", ErrUnknownOutcome, index, err)
	}
	result, ok := n.fsm.Result(index)
	if !ok {
		return nil, fmt.Errorf("%w: it is committed at %d, and this node got a snapshot that holds it", ErrUnknownOutcome, index)
	}
	return result, nil
}

func (n *Node) forward(ctx context.Context, s Status, data []byte) (uint64, error) {
	body, err := n.ask(ctx, s, askPropose, data)
	if err != nil {
		return 0, err
	}
	return readIndex(body)
}

// Barrier returns once this node's FSM has applied everything that was
// committed when it was called.
func (n *Node) Barrier(ctx context.Context) error {
	return n.withLeader(ctx, func(s Status) error {
		if s.Leading {
			_, err := n.barrier(ctx)
			return err
		}
		body, err := n.ask(ctx, s, askBarrier, nil)
		if err != nil {
			return err
		}
		index, err := readIndex(body)
		if err != nil {
			return err
		}
		if err := n.fsm.Wait(ctx, index, n.closed); err != nil {
			return fmt.Errorf("raftnode: barrier: %w", err)
		}
		return nil
	})
}

// barrier returns the index to which the leader's FSM has come after an entry
// of its own was committed and everything before it applied.
func (n *Node) barrier(ctx context.Context) (uint64, error) {
	err := n.wait(ctx, func() raft.Future { return n.raft.Barrier(enqueueTimeout) })
	if err != nil {
		// Nothing hangs on a barrier that was lost: it may be repeated.
		return 0, noLeader(err)
	}
	return n.fsm.Applied(), nil
}

// noLeader is classify for what changes nothing.
func noLeader(err error) error {
	if errors.Is(err, ErrClosed) || errors.Is(err, ErrFailed) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrNoLeader, err)
}

// TransferLeadership hands the leadership to another voter, or, with an empty
// name, to any that is up to date.
func (n *Node) TransferLeadership(ctx context.Context, to string) error {
	return n.withLeader(ctx, func(s Status) error {
		switch {
		case s.Leader == to:
			return nil
		case s.Leading:
			return n.transfer(ctx, to)
		}
		_, err := n.ask(ctx, s, askTransfer, []byte(to))
		if errors.Is(err, ErrUnknownOutcome) && ctx.Err() == nil {
			return noLeader(err) // the next look at the leader shows what became of it
		}
		return err
	})
}

// transfer tells a voter that is up to date to stand for election at once. The
// library's own transfer is not used: when leadership is lost in its middle it
// can leave a flag behind, and the node, elected again later, then refuses every
// command (hashicorp/raft issue 696). Without that flag commands go on during
// the transfer; those that it overtakes end with ErrUnknownOutcome.
func (n *Node) transfer(ctx context.Context, name string) error {
	if name == n.o.Node {
		return nil
	}
	var among []Server
	for _, s := range n.Members() {
		if s.Voter && s.Node != n.o.Node && (name == "" || name == s.Node) {
			among = append(among, s)
		}
	}
	if len(among) == 0 {
		return fmt.Errorf("%w: there is no other voter %s", ErrRefused, name)
	}
	ctx, cancel := context.WithTimeout(ctx, transferTimeout)
	defer cancel()
	for {
		for _, s := range among {
			if n.crown(ctx, s) {
				return nil
			}
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w: nobody took the leadership over", ErrRefused)
		}
	}
}

// crown tries one server, and tells whether this node has ceased to lead.
func (n *Node) crown(ctx context.Context, s Server) bool {
	st, ok := n.askStats(ctx, s)
	if ok && st.LastIndex >= n.raft.LastIndex() {
		req := raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{
			ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(n.o.Node), Addr: []byte(store.Address(n.o.Node, n.o.Address)),
		}}
		err := n.trans.TimeoutNow(raft.ServerID(s.Node), store.Address(s.Node, s.Address), &req, &raft.TimeoutNowResponse{})
		n.log.Info("the leadership is handed over", "to", s.Node, "error", err)
	}
	wait := time.NewTimer(crownWait)
	defer wait.Stop()
	for {
		status, changed := n.Changes()
		if !status.Leading {
			return true
		}
		select {
		case <-changed:
		case <-wait.C:
			return false
		case <-ctx.Done():
			return false
		case <-n.closed:
			return true
		}
	}
}

// member returns what the configuration says of a node, or a zero Server.
func (n *Node) member(node string) Server {
	for _, s := range n.Members() {
		if s.Node == node {
			return s
		}
	}
	return Server{}
}

func readIndex(body []byte) (uint64, error) {
	if len(body) != 8 {
		return 0, fmt.Errorf("%w: the leader's answer has %d octets", ErrUnknownOutcome, len(body))
	}
	return binary.BigEndian.Uint64(body), nil
}
