package raftnode

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"
)

// A history of compare-and-swaps and reads, proposed on all nodes while leaders
// are killed and cut off, is linearizable. What ended without a known outcome
// may take effect at any later time, or never.
func TestHistoriesAreLinearizable(t *testing.T) {
	seeds := []uint64{1, rand.Uint64()}
	for _, seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { history(t, seed) })
		})
	}
}

// log of what clients did.
type record struct {
	mu      sync.Mutex
	ops     []porcupine.Operation
	unknown int
}

const forever = int64(1) << 60

func history(t *testing.T, seed uint64) {
	w := newWorld(t)
	defer w.close()
	names := []string{"a", "b", "c"}
	w.born(names...)
	w.leader()
	var (
		rec   record
		nodes sync.RWMutex // guards w.nodes
		all   sync.WaitGroup
		begun = time.Now()
	)
	over, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	for client := range 5 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(client)))
			for over.Err() == nil {
				nodes.RLock()
				m := w.nodes[names[r.IntN(len(names))]]
				nodes.RUnlock()
				if m != nil {
					rec.propose(m, client, r, begun)
				}
				pass(time.Duration(r.IntN(300)) * time.Millisecond)
			}
		})
	}
	r := rand.New(rand.NewPCG(seed, 99))
	for over.Err() == nil {
		pass(time.Duration(1+r.IntN(4)) * time.Second)
		victim := names[r.IntN(len(names))]
		if s := w.nodes[victim].Status(); s.Leader != "" && r.IntN(3) > 0 {
			victim = s.Leader
		}
		switch r.IntN(4) {
		case 0:
			m := w.nodes[victim]
			nodes.Lock()
			delete(w.nodes, victim)
			nodes.Unlock()
			if err := m.Close(); err != nil {
				t.Error(err)
			}
			pass(time.Duration(r.IntN(4000)) * time.Millisecond)
			nodes.Lock()
			w.start(victim)
			nodes.Unlock()
		case 1:
			w.isolate(victim, names...)
		case 2:
			w.sever(victim, names[r.IntN(len(names))]) // one way only
		case 3:
			_ = w.nodes[victim].TransferLeadership(ctxFor(t, 3*time.Second), names[r.IntN(len(names))]) // may fail now
		}
		pass(time.Duration(1+r.IntN(5)) * time.Second)
		w.heal()
	}
	all.Wait()
	w.leader()
	w.same()
	known := len(rec.ops) - rec.unknown
	t.Logf("seed %d: %d operations, %d of unknown outcome", seed, len(rec.ops), rec.unknown)
	if known < 100 {
		t.Errorf("only %d operations with a known outcome", known)
	}
	if got := porcupine.CheckOperationsTimeout(registerModel(), rec.ops, 30*time.Second); got == porcupine.Illegal {
		t.Error("the history is not linearizable")
	}
}

func (rec *record) propose(m *member, client int, r *rand.Rand, begun time.Time) {
	cmd := command{Key: "k" + fmt.Sprint(r.IntN(4)), Old: r.IntN(3), New: r.IntN(3), Read: r.IntN(3) == 0}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(200+r.IntN(3000))*time.Millisecond)
	defer cancel()
	call := time.Since(begun).Nanoseconds()
	result, _, err := m.Propose(ctx, cmd.encode())
	op := porcupine.Operation{ClientId: client, Input: cmd, Call: call, Return: time.Since(begun).Nanoseconds()}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	switch {
	case err == nil:
		op.Output = result
	case errors.Is(err, ErrUnknownOutcome):
		rec.unknown++
		op.Return = forever
		op.ClientId = 1000 + len(rec.ops) // it may still be under way while the client goes on
	default:
		return // certainly not proposed; if it was, the history will show it
	}
	rec.ops = append(rec.ops, op)
}

// registerModel says what one register may answer; keys are independent.
func registerModel() porcupine.Model {
	return porcupine.Model{
		Partition: func(ops []porcupine.Operation) [][]porcupine.Operation {
			by := map[string][]porcupine.Operation{}
			for _, op := range ops {
				key := op.Input.(command).Key
				by[key] = append(by[key], op)
			}
			var out [][]porcupine.Operation
			for _, part := range by {
				out = append(out, slices.Clip(part))
			}
			return out
		},
		Init: func() any { return 0 },
		Step: func(state, input, output any) (bool, any) {
			cmd, value := input.(command), state.(int)
			got, known := output.(answer)
			switch {
			case cmd.Read:
				return !known || got.Value == value, value
			case value == cmd.Old:
				return !known || got.OK, cmd.New
			default:
				return !known || !got.OK && got.Value == value, value
			}
		},
	}
}
