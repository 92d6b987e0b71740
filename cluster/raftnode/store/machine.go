package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

const (
	resultsKept  = 4096 // results of the newest commands, for proposers that ask a moment later
	snapshotHead = 9    // version octet, index of the last command
	// maxSnapshot bounds what Restore reads: ten million segments.
	maxSnapshot = 2 << 30
)

// FSM is the state machine that the log is fed to. Calls come one at a time.
type FSM interface {
	// Apply applies the command at index and returns its result, the same on
	// every node. It must not keep data.
	Apply(index uint64, data []byte) any
	// Snapshot returns the whole state as octets that nobody changes later.
	Snapshot() []byte
	// Restore replaces the whole state.
	Restore(data []byte) error
}

// Capturer is an FSM that holds its state at once, and writes it down while the
// next entries are applied already.
type Capturer interface {
	// Capture holds the state; the function is what Snapshot would have given. It
	// is called once, in any goroutine.
	Capture() func() []byte
}

var errOver = errors.New("store: closed")

// Machine is the FSM as the library sees it. It knows up to which command the FSM
// came, which the library does not tell, and keeps the newest results.
type Machine struct {
	fsm     FSM
	fatal   func(error)
	running atomic.Bool // restores come from the library's own goroutine now

	mu      sync.Mutex
	index   uint64
	ring    [resultsKept]outcome
	advance chan struct{} // closed when index rises
}

type outcome struct {
	index  uint64
	result any
}

// NewMachine wraps fsm. A snapshot that cannot be restored is told to fatal.
func NewMachine(fsm FSM, fatal func(error)) *Machine {
	return &Machine{fsm: fsm, fatal: fatal, advance: make(chan struct{})}
}

// Apply applies a single entry.
func (s *Machine) Apply(l *raft.Log) any { return s.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch applies entries in order. Changes of configuration are among
// them: they have an index and no command.
func (s *Machine) ApplyBatch(ls []*raft.Log) []any {
	out := make([]any, len(ls))
	for i, l := range ls {
		if l.Type == raft.LogCommand {
			out[i] = s.fsm.Apply(l.Index, l.Data)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, l := range ls {
		s.ring[l.Index%resultsKept] = outcome{index: l.Index, result: out[i]}
	}
	if len(ls) > 0 {
		s.reached(ls[len(ls)-1].Index)
	}
	return out
}

// reached is called with mu held.
func (s *Machine) reached(index uint64) {
	s.index = index
	close(s.advance)
	s.advance = make(chan struct{})
}

// Started says that from now on the library's own goroutines call.
func (s *Machine) Started() { s.running.Store(true) }

// Applied returns the index up to which the FSM has come.
func (s *Machine) Applied() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.index
}

// Wait returns once the FSM has come to index, or ctx or over end it. It does
// not see barriers and empty entries, so index must be that of a command.
func (s *Machine) Wait(ctx context.Context, index uint64, over <-chan struct{}) error {
	for {
		s.mu.Lock()
		reached, advance := s.index >= index, s.advance
		s.mu.Unlock()
		if reached {
			return nil
		}
		select {
		case <-advance:
		case <-ctx.Done():
			return ctx.Err()
		case <-over:
			return errOver
		}
	}
}

// Result returns the result of the command at index, if it is still known: a
// snapshot may have jumped over it.
func (s *Machine) Result(index uint64) (any, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.ring[index%resultsKept]
	return o.result, o.index == index
}

// Snapshot captures the state. The library calls it between two Applies.
func (s *Machine) Snapshot() (raft.FSMSnapshot, error) {
	head := binary.BigEndian.AppendUint64([]byte{1}, s.Applied())
	if c, ok := s.fsm.(Capturer); ok {
		return &captured{head: head, state: c.Capture()}, nil
	}
	state := s.fsm.Snapshot()
	return &captured{head: head, state: func() []byte { return state }}, nil
}

// Restore replaces the state. The library panics when this fails while it
// runs; its goroutine is ended instead, after Fatal.
func (s *Machine) Restore(r io.ReadCloser) error {
	defer r.Close()
	err := s.restore(r)
	if err == nil || !s.running.Load() {
		return err
	}
	s.fatal(err)
	runtime.Goexit()
	return err
}

func (s *Machine) restore(r io.Reader) error {
	index, state, err := readSnapshot(r)
	if err != nil {
		return err
	}
	if err := s.fsm.Restore(state); err != nil {
		return fmt.Errorf("store: restoring a snapshot: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ring = [resultsKept]outcome{}
	s.reached(index)
	return nil
}

func readSnapshot(r io.Reader) (index uint64, state []byte, err error) {
	all, err := io.ReadAll(io.LimitReader(r, maxSnapshot+1))
	switch {
	case err != nil:
		return 0, nil, fmt.Errorf("store: reading a snapshot: %w", err)
	case len(all) < snapshotHead || all[0] != 1 || len(all) > maxSnapshot:
		return 0, nil, fmt.Errorf("store: a snapshot of %d octets is not one of this version", len(all))
	}
	return binary.BigEndian.Uint64(all[1:]), all[snapshotHead:], nil
}

type captured struct {
	head  []byte
	state func() []byte
}

// Persist writes what was captured.
func (c *captured) Persist(to raft.SnapshotSink) error {
	for _, part := range [][]byte{c.head, c.state()} {
		if _, err := to.Write(part); err != nil {
			_ = to.Cancel() // the write's error is told
			return fmt.Errorf("store: writing a snapshot: %w", err)
		}
	}
	return to.Close()
}

// Release has nothing to free.
func (c *captured) Release() {}
