package admin

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/clrelay/clrelay/internal/admin/fleet"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// source is one node's part of a list, in the order of arrival. It holds two
// batches at most besides what the connection holds.
type source struct {
	peer    string // empty for this node
	batches chan []*adminv1.QueueEntry
	err     error // why it ended; to be read when batches is closed
	head    []*adminv1.QueueEntry
	until   time.Time // when the first batch must be there
	cancel  context.CancelFunc
}

// put hands a batch over.
func (s *source) put(ctx context.Context, b []*adminv1.QueueEntry) error {
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
func (s *source) fill(ctx context.Context) bool {
	for len(s.head) == 0 {
		var late <-chan time.Time
		if s.peer != "" {
			wait := askWait
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

// merged lists the recipients of all nodes in the order of arrival.
type merged struct {
	group   sync.WaitGroup
	sources []*source
}

func (m *merged) add(ctx context.Context, peer string, run func(ctx context.Context, s *source) error) {
	ctx, cancel := context.WithCancel(ctx)
	s := &source{peer: peer, batches: make(chan []*adminv1.QueueEntry, 1), until: time.Now().Add(askWait), cancel: cancel}
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

// close ends what still runs.
func (m *merged) close() {
	for _, s := range m.sources {
		s.cancel()
	}
	m.group.Wait()
}

// each calls visit for all entries. A node that fails is named; that this one
// fails is an error.
func (m *merged) each(ctx context.Context, visit func(*adminv1.QueueEntry) error) (missing []string, err error) {
	left := m.sources
	for len(left) > 0 {
		var next *source
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

// own lists this node's part.
func (q *queueService) own(sel *Selector, limit int64) func(context.Context, *source) error {
	return func(ctx context.Context, s *source) error {
		var batch []*adminv1.QueueEntry
		var sent int64
		err := q.queue.List(ctx, sel, func(e *Entry) error {
			batch = append(batch, entryOut(e))
			if sent++; sent == limit {
				return errLimit
			}
			if len(batch) < listBatch {
				return nil
			}
			full := batch
			batch = nil
			return s.put(ctx, full)
		})
		if err != nil && !errors.Is(err, errLimit) {
			return err
		}
		if len(batch) == 0 {
			return nil
		}
		return s.put(ctx, batch)
	}
}

// theirs lists another node's part.
func theirs(p Peer, req *adminv1.ListRequest) func(context.Context, *source) error {
	ask := &adminv1.ListRequest{Selector: req.GetSelector(), Limit: req.GetLimit(), Local: true}
	return func(ctx context.Context, s *source) error {
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
			if err := s.put(ctx, b.GetEntries()); err != nil {
				return err
			}
		}
	}
}

// listAll lists the recipients of all nodes.
func (q *queueService) listAll(req *adminv1.ListRequest, sel *Selector, peers []Peer, stream adminv1.QueueService_ListServer) error {
	ctx := stream.Context()
	m := &merged{}
	defer m.close()
	m.add(ctx, "", q.own(sel, req.GetLimit()))
	for _, p := range peers {
		m.add(ctx, p.Name, theirs(p, req))
	}
	var batch []*adminv1.QueueEntry
	var sent int64
	missing, err := m.each(ctx, func(e *adminv1.QueueEntry) error {
		batch = append(batch, e)
		if sent++; sent == req.GetLimit() {
			return errLimit
		}
		if len(batch) < listBatch {
			return nil
		}
		full := batch
		batch = nil
		return stream.Send(&adminv1.ListResponse{Entries: full})
	})
	if err != nil && !errors.Is(err, errLimit) {
		return err
	}
	if len(batch) > 0 {
		if err := stream.Send(&adminv1.ListResponse{Entries: batch}); err != nil {
			return err
		}
	}
	if len(missing) > 0 {
		return stream.Send(&adminv1.ListResponse{MissingNodes: missing})
	}
	return nil
}

// found asks the other nodes which of some messages they have, with trash in
// the trash, too. Those that do not answer are named.
func found(ctx context.Context, peers []Peer, ids []string, trash bool) (have map[string]bool, missing []string) {
	have = map[string]bool{}
	var mu sync.Mutex
	m := &merged{}
	defer m.close()
	sel := &adminv1.Selector{Ids: ids}
	if trash {
		sel.States = []adminv1.RecipientState{
			adminv1.RecipientState_RECIPIENT_STATE_ACTIVE, adminv1.RecipientState_RECIPIENT_STATE_DEFERRED,
			adminv1.RecipientState_RECIPIENT_STATE_HELD, adminv1.RecipientState_RECIPIENT_STATE_TRASH,
		}
	}
	for _, p := range peers {
		m.add(ctx, p.Name, theirs(p, &adminv1.ListRequest{Selector: sel}))
	}
	missing, err := m.each(ctx, func(e *adminv1.QueueEntry) error {
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

// isExpect tells whether another node refused because it found another number
// of recipients.
func isExpect(err error) bool { return status.Code(err) == codes.FailedPrecondition }
