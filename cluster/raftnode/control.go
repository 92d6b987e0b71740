package raftnode

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/clrelay/clrelay/cluster/raftnode/ask"
	"github.com/clrelay/clrelay/cluster/raftnode/store"
)

// What nodes ask each other. Bodies are a command, an index (8 octets), a
// name, or JSON whose unknown fields are ignored, so that old and new binaries
// understand each other.
const (
	askPropose byte = iota + 1
	askBarrier
	askJoin
	askRemove
	askTransfer
	askStats
	askPledge
	askLimits // the body is Options.Limits' own
)

// answer does what another node asks.
func (n *Node) answer(ctx context.Context, peer string, kind byte, body []byte) (status byte, answer []byte) {
	var err error
	switch kind {
	case askStats:
		return ask.OK, n.stats()
	case askPledge:
		err = n.givePledge(peer, body)
	default:
		if s := n.Status(); !s.Leading {
			return ask.NoLeader, leaderHint(s)
		}
		answer, err = n.answerAsLeader(ctx, peer, kind, body)
	}
	switch {
	case err == nil:
		return ask.OK, answer
	case errors.Is(err, ErrNoLeader):
		return ask.NoLeader, leaderHint(n.Status())
	case errors.Is(err, ErrRefused):
		return ask.Refused, []byte(err.Error())
	default:
		return ask.Unknown, []byte(err.Error())
	}
}

func leaderHint(s Status) []byte {
	if s.Leader == "" || s.Leading {
		return nil
	}
	return []byte(store.Address(s.Leader, s.Address))
}

func (n *Node) answerAsLeader(ctx context.Context, peer string, kind byte, body []byte) ([]byte, error) {
	switch kind {
	case askPropose:
		if len(body) > MaxCommand {
			return nil, fmt.Errorf("%w: %w", ErrRefused, ErrTooLarge)
		}
		_, index, err := n.apply(ctx, body)
		return binary.BigEndian.AppendUint64(nil, index), err
	case askBarrier:
		index, err := n.barrier(ctx)
		return binary.BigEndian.AppendUint64(nil, index), err
	case askJoin:
		return n.admitted(ctx, peer, body)
	case askRemove:
		return nil, n.remove(ctx, string(body))
	case askTransfer:
		return nil, n.transfer(ctx, string(body))
	case askLimits:
		return n.limits(ctx, peer, body)
	default:
		return nil, fmt.Errorf("%w: question %d is not known here", ErrRefused, kind)
	}
}

// ask puts a question to the leader that s names and turns the answer's status
// into this package's errors. It gives up when that leader is none any more: a
// machine that vanished sends no word of it.
func (n *Node) ask(ctx context.Context, s Status, kind byte, body []byte) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		for {
			now, changed := n.Changes()
			if now.Leader != s.Leader || now.Term != s.Term {
				cancel()
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	status, answer, err := n.pool.Ask(ctx, ask.To{Node: s.Leader, Address: s.Address}, kind, body)
	switch {
	case errors.Is(err, ask.ErrNotAsked):
		return nil, fmt.Errorf("%w: %w", ErrNoLeader, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	}
	return answer, said(status, answer)
}

// said is the error that an answer means.
func said(status byte, answer []byte) error {
	switch status {
	case ask.OK:
		return nil
	case ask.NoLeader:
		return ErrNoLeader
	case ask.Refused:
		return fmt.Errorf("%w by the other node: %s", ErrRefused, answer)
	default:
		return fmt.Errorf("%w: %s", ErrUnknownOutcome, answer)
	}
}

// AskLimits puts a question about limits to the leader, which may be this node:
// see Options.Limits. There is no waiting for a leader.
func (n *Node) AskLimits(ctx context.Context, body []byte) ([]byte, error) {
	switch s := n.Status(); {
	case s.Leader == "":
		return nil, ErrNoLeader
	case s.Leading:
		return n.limits(ctx, n.o.Node, body)
	default:
		return n.ask(ctx, s, askLimits, body)
	}
}

// limits has a question about limits answered, if a majority confirms that this
// node leads: with an answer goes a lease, and whoever is elected later counts
// from his election.
func (n *Node) limits(ctx context.Context, peer string, body []byte) ([]byte, error) {
	if n.o.Limits == nil {
		return nil, fmt.Errorf("%w: limits are not divided here", ErrRefused)
	}
	if err := n.wait(ctx, func() raft.Future { return n.raft.VerifyLeader() }); err != nil {
		return nil, noLeader(err)
	}
	return n.o.Limits(ctx, peer, body)
}
