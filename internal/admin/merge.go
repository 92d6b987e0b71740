package admin

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/clrelay/clrelay/internal/admin/lists"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// own lists this node's part.
func (q *queueService) own(sel *Selector, limit int64) func(context.Context, *lists.Source) error {
	return func(ctx context.Context, s *lists.Source) error {
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
			return s.Put(ctx, full)
		})
		if err != nil && !errors.Is(err, errLimit) {
			return err
		}
		if len(batch) == 0 {
			return nil
		}
		return s.Put(ctx, batch)
	}
}

// listAll lists the recipients of all nodes.
func (q *queueService) listAll(req *adminv1.ListRequest, sel *Selector, peers []Peer, stream adminv1.QueueService_ListServer) error {
	ctx := stream.Context()
	m := &lists.Merged{}
	defer m.Close()
	m.Add(ctx, "", q.own(sel, req.GetLimit()))
	for _, p := range peers {
		m.Add(ctx, p.Name, lists.Theirs(p, req))
	}
	var batch []*adminv1.QueueEntry
	var sent int64
	missing, err := m.Each(ctx, func(e *adminv1.QueueEntry) error {
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

// isExpect tells whether another node refused because it found another number
// of recipients.
func isExpect(err error) bool { return status.Code(err) == codes.FailedPrecondition }
