package jobs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/internal/admin/fleet"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// Driver works off jobs where this node leads.
type Driver struct {
	store  store
	worker *worker
	fleet  fleet.Fleet
	ground Ground
	log    *slog.Logger
	now    func() time.Time
}

// Run drives jobs until ctx ends.
func (d *Driver) Run(ctx context.Context) {
	for ctx.Err() == nil {
		changed := d.store.Changed()
		job, ok := d.store.open()
		var tick <-chan time.Time
		if ok {
			if d.leads() {
				d.drive(ctx, job.Job)
			}
			tick = time.After(lookEvery)
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-tick:
		}
	}
}

func (d *Driver) leads() bool { return d.ground == nil || d.ground.Leads() }

// drive works a job off, unless this node ceases to lead.
func (d *Driver) drive(ctx context.Context, job *adminv1.Job) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &run{d: d, id: job.GetId(), at: map[uint64]string{}, done: map[string]bool{}, old: map[uint64]bool{}}
	r.verb = bounded(job.GetVerb(), job.GetCreated().AsTime().Add(late))
	for _, s := range r.segments() {
		r.old[s.ID] = true
	}
	began := timestamppb.New(d.now())
	now, err := d.store.update(ctx, r.id, func(j *adminv1.Job) bool {
		if ended(j) {
			return false
		}
		if j.GetStarted() == nil {
			j.Started = began
		}
		j.State, j.Driver, j.Note = adminv1.JobState_JOB_STATE_RUNNING, d.worker.node, ""
		return true
	})
	if err != nil {
		d.gaveUp(r.id, err)
		return
	}
	if ended(now) {
		return
	}
	d.log.Info("a job begins", "job", r.id, "verb", Name(job.GetVerb()), "author", job.GetAuthor())
	var watching sync.WaitGroup
	watching.Go(func() { d.heed(ctx, r.id, cancel) })
	err = r.passes(ctx)
	cancel()
	watching.Wait()
	d.end(r, err)
}

// heed ends a run when the job is cancelled, or this node leads no more.
func (d *Driver) heed(ctx context.Context, id string, stop func()) {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		changed := d.store.Changed()
		if k, ok := d.store.get(id); !ok || k.GetCancelled() || ended(k.Job) || !d.leads() {
			stop()
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-t.C:
		}
	}
}

// endWait is how long the record of an end may take.
const endWait = 10 * time.Second

// end writes down how a run ended, unless another node is to go on.
func (d *Driver) end(r *run, err error) {
	if !d.leads() {
		d.log.Info("another node drives the job from now on", "job", r.id)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), endWait)
	defer cancel()
	job, werr := d.store.update(ctx, r.id, func(j *adminv1.Job) bool {
		state, note := adminv1.JobState_JOB_STATE_DONE, ""
		switch {
		case ended(j):
			return false
		case err == nil:
		case j.GetCancelled():
			state = adminv1.JobState_JOB_STATE_CANCELLED
		case errors.Is(err, context.Canceled): // the process ends: the job goes on
			return false
		default:
			state, note = adminv1.JobState_JOB_STATE_FAILED, said(err)
		}
		r.tell(j)
		j.State, j.Note, j.Ended = state, note, timestamppb.New(d.now())
		return true
	})
	if werr != nil {
		d.gaveUp(r.id, werr)
		return
	}
	if ended(job) {
		sum := Sum(job)
		d.log.Info("a job has ended", "job", r.id, "state", strings.TrimPrefix(job.GetState().String(), "JOB_STATE_"), "recipients", sum.GetRecipients(), "failed", sum.GetFailed(), "note", job.GetNote())
		d.store.prune(ctx)
	}
}

func (d *Driver) gaveUp(id string, err error) {
	d.log.Warn("a job waits", "job", id, "error", err)
}

func said(err error) string {
	if s, ok := status.FromError(err); ok {
		return s.Message()
	}
	return err.Error()
}

// Sum adds up what all processes have done of a job.
func Sum(j *adminv1.Job) *adminv1.JobShare {
	sum := &adminv1.JobShare{}
	newest := map[string]*adminv1.JobShare{} // of each node: what failed in a life that ended is nobody's
	for _, s := range j.GetShares() {
		sum.Messages += s.GetMessages()
		sum.Recipients += s.GetRecipients()
		sum.Bytes += s.GetBytes()
		newest[s.GetNode()] = s
	}
	for _, s := range newest {
		sum.Failed += s.GetFailed()
	}
	return sum
}

// run is one leader's work on a job.
type run struct {
	d    *Driver
	id   string
	verb *adminv1.Verb     // bounded
	old  map[uint64]bool   // segments that were there when it began: those that came later have new mail
	at   map[uint64]string // which node has looked at a segment, whole
	done map[string]bool   // nodes that have answered

	mu      sync.Mutex
	shares  []*adminv1.JobShare // news that the record does not tell yet
	missing []string
	note    string
	told    time.Time
}

// segments are those that a job may have to do with.
func (r *run) segments() []Segment {
	if r.d.ground == nil {
		return nil
	}
	return slices.DeleteFunc(r.d.ground.Segments(), func(s Segment) bool { return s.Lost })
}

// pending names the nodes that own segments that they have not looked at.
func (r *run) pending() (nodes []string, segments int) {
	for _, s := range r.segments() {
		if r.old[s.ID] && r.at[s.ID] != s.Owner {
			nodes = append(nodes, s.Owner)
			segments++
		}
	}
	return fleet.Sorted(nodes), segments
}

// passes sends nodes to work until all is done.
func (r *run) passes(ctx context.Context) error {
	again := map[string]int{} // nodes that could not change all
	for odd := 0; ; {
		who := r.pass(ctx, again)
		if err := ctx.Err(); err != nil {
			return err
		}
		if who.err != nil {
			if odd++; fatal(who.err) || odd >= maxOdd {
				return who.err
			}
		}
		wait, n := r.pending()
		r.waits(wait, n)
		if len(wait) == 0 && who.err == nil && !who.again && (r.d.ground != nil || r.done[r.d.worker.node]) {
			return nil
		}
		r.write(ctx, true)
		t := time.NewTimer(passEvery)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

// waits notes what the job waits for.
func (r *run) waits(nodes []string, segments int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.missing, r.note = nodes, ""
	if len(nodes) > 0 {
		r.note = fmt.Sprintf("waits for %d segments of %s, until they can be looked at there or another node takes them over", segments, strings.Join(nodes, ", "))
	}
}

// fatal tells errors that will be the same next time.
func fatal(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.NotFound, codes.PermissionDenied, codes.FailedPrecondition:
		return true
	}
	return false
}

// away tells errors of a node that is not there, or not ready.
func away(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Aborted, codes.Unimplemented:
		return true
	}
	return false
}

// maxAgain is how often a node tries again what it could not change.
const maxAgain = 2

// outcome is how a pass ended.
type outcome struct {
	err   error // that is not for want of a node
	again bool  // some could not be changed, and are tried once more
}

// pass has those nodes work that have something left to do, all at once.
func (r *run) pass(ctx context.Context, again map[string]int) (out outcome) {
	wanted, _ := r.pending()
	type answer struct {
		node     string
		segments []uint64
		failed   int64
		err      error
	}
	var mu sync.Mutex
	var answers []answer
	var group sync.WaitGroup
	start := func(node string, work func() (*adminv1.WorkResponse, error)) {
		if r.done[node] && !slices.Contains(wanted, node) && again[node] == 0 {
			return
		}
		group.Go(func() {
			last, err := work()
			mu.Lock()
			defer mu.Unlock()
			answers = append(answers, answer{node, last.GetSegments(), last.GetShare().GetFailed(), err})
		})
	}
	req := &adminv1.WorkRequest{Id: r.id, Verb: r.verb}
	start(r.d.worker.node, func() (last *adminv1.WorkResponse, err error) {
		err = r.d.worker.work(ctx, req, func(res *adminv1.WorkResponse) error {
			last = res
			return r.heard(ctx, res)
		})
		return last, err
	})
	for _, p := range r.d.fleet.Others(ctx, false) {
		start(p.Name, func() (*adminv1.WorkResponse, error) { return r.ask(ctx, p, req) })
	}
	group.Wait()
	for _, a := range answers {
		switch {
		case a.err == nil:
			r.done[a.node] = true
			for _, id := range a.segments {
				r.at[id] = a.node
			}
			switch again[a.node]++; {
			case a.failed == 0 || again[a.node] > maxAgain:
				again[a.node] = 0
			default:
				out.again = true
			}
		case !away(a.err):
			out.err = a.err
		}
	}
	return out
}

// ask has another node do its part.
func (r *run) ask(ctx context.Context, p fleet.Peer, req *adminv1.WorkRequest) (last *adminv1.WorkResponse, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silence := time.AfterFunc(hangs, cancel)
	defer silence.Stop()
	stream, err := adminv1.NewJobServiceClient(p.Conn).Work(ctx, req)
	for err == nil {
		var res *adminv1.WorkResponse
		if res, err = stream.Recv(); err == nil {
			silence.Reset(hangs)
			last, err = res, r.heard(ctx, res)
		}
	}
	if errors.Is(err, io.EOF) && last.GetEnded() {
		return last, nil
	}
	if errors.Is(err, io.EOF) {
		err = status.Error(codes.Unavailable, "the node ended its part too early")
	}
	return nil, err
}

// heard takes the news of a node.
func (r *run) heard(ctx context.Context, res *adminv1.WorkResponse) error {
	r.mu.Lock()
	r.shares = append(slices.DeleteFunc(r.shares, func(s *adminv1.JobShare) bool { return same(s, res.GetShare()) }), res.GetShare())
	r.mu.Unlock()
	r.write(ctx, false)
	return nil
}

func same(a, b *adminv1.JobShare) bool {
	return a.GetNode() == b.GetNode() && a.GetProcess() == b.GetProcess()
}

// tell puts the news into the job and says whether there is any.
func (r *run) tell(j *adminv1.Job) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	was := proto.CloneOf(j)
	for _, s := range r.shares {
		j.Shares = append(slices.DeleteFunc(j.Shares, func(o *adminv1.JobShare) bool { return same(o, s) }), proto.CloneOf(s))
	}
	j.MissingNodes, j.Note = slices.Clone(r.missing), r.note
	return !proto.Equal(was, j)
}

// write puts the news into the record, now and then.
func (r *run) write(ctx context.Context, now bool) {
	r.mu.Lock()
	at := r.d.now()
	due := now || at.Sub(r.told) >= tellEvery
	if due {
		r.told = at
	}
	r.mu.Unlock()
	if !due {
		return
	}
	if _, err := r.d.store.update(ctx, r.id, func(j *adminv1.Job) bool { return !ended(j) && r.tell(j) }); err != nil && ctx.Err() == nil {
		r.d.gaveUp(r.id, err)
	}
}
