package jobs

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/internal/admin/fleet"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// Options are what jobs need; Ground and Fleet's peers are nil on a single
// machine, and Records is nil where no jobs can be kept.
type Options struct {
	Node    string
	Queue   adminv1.QueueServiceServer
	Fleet   fleet.Fleet
	Ground  Ground
	Records Records
	Caller  func(ctx context.Context) string
	Log     *slog.Logger
	Now     func() time.Time
}

// Service answers what the API asks of jobs.
type Service struct {
	adminv1.UnimplementedJobServiceServer
	o      Options
	ctx    context.Context
	store  store
	worker *worker
}

// New makes the service, whose streams end with ctx, and what drives jobs for as
// long as its Run does.
func New(ctx context.Context, o Options) (*Service, *Driver) {
	w := newWorker(&o)
	return &Service{o: o, ctx: ctx, store: store{o.Records}, worker: w},
		&Driver{store: store{o.Records}, worker: w, fleet: o.Fleet, ground: o.Ground, log: o.Log, now: o.Now}
}

// Start is of adminv1.JobServiceServer.
func (s *Service) Start(ctx context.Context, req *adminv1.StartRequest) (*adminv1.StartResponse, error) {
	if s.o.Records == nil {
		return nil, status.Error(codes.Unimplemented, "this relay keeps no jobs")
	}
	res, err := call(ctx, s.o.Queue, req.GetVerb(), func(c *adminv1.Change) { c.Local, c.DryRun, c.Expect = false, true, req.Expect })
	if err != nil {
		return nil, err
	}
	out := &adminv1.StartResponse{Result: res}
	if res.GetRecipients() == 0 && len(res.GetMissingNodes()) == 0 {
		return out, nil
	}
	job := &adminv1.Job{
		Verb: req.GetVerb(), State: adminv1.JobState_JOB_STATE_WAITING, Author: s.o.Caller(ctx),
		Created: timestamppb.New(s.o.Now()), Total: res.GetRecipients(),
	}
	var large *TooLargeError
	switch err := s.store.add(ctx, job); {
	case errors.Is(err, ErrLevel):
		return nil, status.Error(codes.Unimplemented, "not all nodes of the cluster know of jobs yet: it works once all are upgraded")
	case errors.As(err, &large):
		return nil, status.Error(codes.InvalidArgument, large.Error())
	case err != nil:
		return nil, err
	}
	out.Job = job
	return out, nil
}

// List is of adminv1.JobServiceServer.
func (s *Service) List(context.Context, *adminv1.JobServiceListRequest) (*adminv1.JobServiceListResponse, error) {
	out := &adminv1.JobServiceListResponse{}
	if s.o.Records != nil {
		for _, k := range slices.Backward(s.store.all()) {
			out.Jobs = append(out.Jobs, k.Job)
		}
	}
	return out, nil
}

// errNone says that no such job is kept.
var errNone = status.Error(codes.NotFound, "no such job; clrelay job list names those that are kept")

// Watch is of adminv1.JobServiceServer.
func (s *Service) Watch(req *adminv1.WatchRequest, stream adminv1.JobService_WatchServer) error {
	if s.o.Records == nil {
		return errNone
	}
	for version := uint64(0); ; {
		changed := s.store.Changed()
		k, ok := s.store.get(req.GetId())
		if !ok {
			return errNone
		}
		if k.version != version {
			version = k.version
			if err := stream.Send(&adminv1.WatchResponse{Job: k.Job}); err != nil {
				return err
			}
		}
		if ended(k.Job) || req.GetOnce() {
			return nil
		}
		select {
		case <-changed:
		case <-s.ctx.Done():
			return status.Error(codes.Unavailable, "the relay is stopping; the job goes on")
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// Cancel is of adminv1.JobServiceServer.
func (s *Service) Cancel(ctx context.Context, req *adminv1.CancelRequest) (*adminv1.CancelResponse, error) {
	if s.o.Records == nil {
		return nil, errNone
	}
	var late bool
	job, err := s.store.update(ctx, req.GetId(), func(j *adminv1.Job) bool {
		switch late = ended(j); {
		case late || j.GetCancelled():
			return false
		case j.GetState() == adminv1.JobState_JOB_STATE_WAITING:
			j.State, j.Ended = adminv1.JobState_JOB_STATE_CANCELLED, timestamppb.New(s.o.Now())
		}
		j.Cancelled = true
		return true
	})
	switch {
	case errors.Is(err, errGone):
		return nil, errNone
	case err != nil:
		return nil, err
	case late:
		return nil, status.Error(codes.FailedPrecondition, "the job has ended already")
	}
	return &adminv1.CancelResponse{Job: job}, nil
}

// Work is of adminv1.JobServiceServer.
func (s *Service) Work(req *adminv1.WorkRequest, stream grpc.ServerStreamingServer[adminv1.WorkResponse]) error {
	return s.worker.work(stream.Context(), req, stream.Send)
}
