package jobs

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// maxShares is how many jobs a process remembers its share of.
const maxShares = 16

// worker does this node's part of jobs, one at a time.
type worker struct {
	node    string
	queue   adminv1.QueueServiceServer
	ground  Ground
	now     func() time.Time
	process uint64
	turn    chan struct{} // holds one token

	mu     sync.Mutex
	shares map[string]*adminv1.JobShare // by job
	order  []string                     // of the jobs, the oldest first
}

func newWorker(o *Options) *worker {
	w := &worker{node: o.Node, queue: o.Queue, ground: o.Ground, now: o.Now, process: rand.Uint64(), turn: make(chan struct{}, 1), shares: map[string]*adminv1.JobShare{}}
	w.turn <- struct{}{}
	return w
}

// share gives what was done of a job so far, a copy.
func (w *worker) share(id string) *adminv1.JobShare {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.shares[id]; s != nil {
		return proto.CloneOf(s)
	}
	return &adminv1.JobShare{Node: w.node, Process: w.process}
}

func (w *worker) keep(id string, s *adminv1.JobShare) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.shares[id] == nil {
		if w.order = append(w.order, id); len(w.order) > maxShares {
			delete(w.shares, w.order[0])
			w.order = w.order[1:]
		}
	}
	w.shares[id] = s
}

// work does the part and tells how far it is. The last word names the segments
// that were in the queue, whole, from the beginning to the end.
func (w *worker) work(ctx context.Context, req *adminv1.WorkRequest, tell func(*adminv1.WorkResponse) error) error {
	select {
	case <-w.turn:
		defer func() { w.turn <- struct{}{} }()
	case <-ctx.Done():
		return ctx.Err()
	}
	before := w.share(req.GetId())
	now := proto.CloneOf(before)
	var told time.Time
	var lost error // the one who listens is gone
	claimed := w.claimed()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	res, err := call(withProgress(ctx, func(messages, recipients, bytes int64) {
		now.Messages, now.Recipients, now.Bytes = before.Messages+messages, before.Recipients+recipients, before.Bytes+bytes
		if at := w.now(); at.Sub(told) >= stirEvery {
			told = at
			if lost = tell(&adminv1.WorkResponse{Share: proto.CloneOf(now)}); lost != nil {
				cancel()
			}
		}
	}), w.queue, req.GetVerb(), func(c *adminv1.Change) { c.Local, c.DryRun, c.Expect = true, false, nil })
	if err == nil {
		now.Messages, now.Bytes = before.Messages+res.GetMessages(), before.Bytes+res.GetBytes()
		now.Recipients, now.Failed = before.Recipients+res.GetRecipients()-res.GetFailed(), res.GetFailed()
	}
	w.keep(req.GetId(), now)
	if lost != nil {
		return lost
	}
	if err != nil {
		return err
	}
	last := &adminv1.WorkResponse{Share: proto.CloneOf(now), Ended: true}
	for id, n := range w.claimed() {
		if claimed[id] == n && n != 0 {
			last.Segments = append(last.Segments, id)
		}
	}
	return tell(last)
}

func (w *worker) claimed() map[uint64]uint64 {
	if w.ground == nil {
		return nil
	}
	return w.ground.Claimed()
}

type progressKey struct{}

type progress func(messages, recipients, bytes int64)

// withProgress has whoever changes the queue under ctx tell how much it has
// picked so far.
func withProgress(ctx context.Context, f progress) context.Context {
	return context.WithValue(ctx, progressKey{}, f)
}

// Progress gives the function that wants to be told, on the goroutine of the
// call, how much was picked so far; nil where nobody wants to know.
func Progress(ctx context.Context) func(messages, recipients, bytes int64) {
	f, _ := ctx.Value(progressKey{}).(progress)
	return f
}
