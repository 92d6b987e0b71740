// Package lists puts the lists of the queues of all nodes together, in the order
// of arrival, without waiting for a node that does not go on.
package lists

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/clrelay/clrelay/internal/admin/fleet"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// Wait is how long another node may take for the next piece of its list.
const Wait = 5 * time.Second

// Source is one node's part of a list, in the order of arrival. It holds two
// batches at most besides what the connection holds.
type Source struct {
	peer    string // empty for this node
	batches chan []*adminv1.QueueEntry
	err     error // why it ended; to be read when batches is closed
	head    []*adminv1.QueueEntry
	until   time.Time // when the first batch must be there
	cancel  context.CancelFunc
}

// Put hands a batch over.
func (s *Source) Put(ctx context.Context, b []*adminv1.QueueEntry) error {
	select {
	case s.batches <- b:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// errSlow is the end of a node that did not go on.
var errSlow = errors.New("admin: the node does not answer")

// fill sees that there is a next entry; it tells false at the end. A node that
// does not go on is given up; this one is waited for.
func (s *Source) fill(ctx context.Context) bool {
	for len(s.head) == 0 {
		var late <-chan time.Time
		if s.peer != "" {
			wait := Wait
			if !s.until.IsZero() {
				wait = time.Until(s.until)
			}
			t := time.NewTimer(wait)
			defer t.Stop()
			late = t.C
		}
		s.until = time.Time{}
		select {
		case b, ok := <-s.batches:
			if !ok {
				return false
			}
			s.head = b
		case <-late:
			s.cancel()
			for range s.batches { // until its goroutine has ended
			}
			s.err = errSlow
			return false
		case <-ctx.Done():
			s.cancel()
			for range s.batches {
			}
			s.err = ctx.Err()
			return false
		}
	}
	return true
}

// Merged lists the recipients of all nodes in the order of arrival.
type Merged struct {
	group   sync.WaitGroup
	sources []*Source
}

// Add adds the part of a node, which run lists; peer is empty for this one.
func (m *Merged) Add(ctx context.Context, peer string, run func(ctx context.Context, s *Source) error) {
	ctx, cancel := context.WithCancel(ctx)
	s := &Source{peer: peer, batches: make(chan []*adminv1.QueueEntry, 1), until: time.Now().Add(Wait), cancel: cancel}
	m.sources = append(m.sources, s)
	m.group.Go(func() {
		defer cancel()
		err := fleet.Safely(func() error { return run(ctx, s) })
		if err != nil {
			s.err = err
		}
		close(s.batches)
	})
}

// Close ends what still runs.
func (m *Merged) Close() {
	for _, s := range m.sources {
		s.cancel()
	}
	m.group.Wait()
}

// Each calls visit for all entries. A node that fails is named; that this one
// fails is an error.
func (m *Merged) Each(ctx context.Context, visit func(*adminv1.QueueEntry) error) (missing []string, err error) {
	left := m.sources
	for len(left) > 0 {
		var next *Source
		live := left[:0:0]
		for _, s := range left {
			switch {
			case s.fill(ctx):
				live = append(live, s)
				if next == nil || before(s.head[0], next.head[0]) {
					next = s
				}
			case s.err == nil:
			case s.peer == "" || ctx.Err() != nil:
				return nil, s.err
			default:
				missing = append(missing, s.peer)
			}
		}
		left = live
		if next == nil {
			break
		}
		if err := visit(next.head[0]); err != nil {
			return fleet.Sorted(missing), err
		}
		next.head = next.head[1:]
	}
	return fleet.Sorted(missing), nil
}

// before tells which of two recipients is listed first.
func before(a, b *adminv1.QueueEntry) bool {
	at, bt := a.GetArrived(), b.GetArrived()
	switch {
	case at.GetSeconds() != bt.GetSeconds():
		return at.GetSeconds() < bt.GetSeconds()
	case at.GetNanos() != bt.GetNanos():
		return at.GetNanos() < bt.GetNanos()
	}
	return a.GetId() < b.GetId()
}

// Theirs lists another node's part.
func Theirs(p fleet.Peer, req *adminv1.ListRequest) func(context.Context, *Source) error {
	ask := &adminv1.ListRequest{Selector: req.GetSelector(), Limit: req.GetLimit(), Local: true}
	return func(ctx context.Context, s *Source) error {
		stream, err := adminv1.NewQueueServiceClient(p.Conn).List(ctx, ask)
		if err != nil {
			return err
		}
		for {
			b, err := stream.Recv()
			switch {
			case errors.Is(err, io.EOF):
				return nil
			case err != nil:
				return err
			case len(b.GetEntries()) == 0:
				continue
			}
			if err := s.Put(ctx, b.GetEntries()); err != nil {
				return err
			}
		}
	}
}

// Found asks the other nodes which of some messages they have, with trash in
// the trash, too. Those that do not answer are named.
func Found(ctx context.Context, peers []fleet.Peer, ids []string, trash bool) (have map[string]bool, missing []string) {
	have = map[string]bool{}
	var mu sync.Mutex
	m := &Merged{}
	defer m.Close()
	sel := &adminv1.Selector{Ids: ids}
	if trash {
		sel.States = []adminv1.RecipientState{
			adminv1.RecipientState_RECIPIENT_STATE_ACTIVE, adminv1.RecipientState_RECIPIENT_STATE_DEFERRED,
			adminv1.RecipientState_RECIPIENT_STATE_HELD, adminv1.RecipientState_RECIPIENT_STATE_TRASH,
		}
	}
	for _, p := range peers {
		m.Add(ctx, p.Name, Theirs(p, &adminv1.ListRequest{Selector: sel}))
	}
	missing, err := m.Each(ctx, func(e *adminv1.QueueEntry) error {
		mu.Lock()
		defer mu.Unlock()
		have[e.GetId()] = true
		return nil
	})
	if err != nil { // ctx is over
		for _, p := range peers {
			missing = append(missing, p.Name)
		}
	}
	return have, fleet.Sorted(missing)
}
