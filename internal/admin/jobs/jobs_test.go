package jobs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/internal/admin/fleet"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// world is a cluster as jobs see it: one state that all nodes agree about, and
// nodes with queues.
type world struct {
	t *testing.T

	mu      sync.Mutex
	records map[string]Record
	changed chan struct{}
	puts    int
	level   bool // not all nodes know of jobs
	leader  string
	owners  map[uint64]string
	claims  map[uint64]uint64 // of the owner
	count   uint64
	rcpts   map[string]*rcpt
	nodes   map[string]*node
}

// rcpt is a queued recipient.
type rcpt struct {
	segment uint64
	arrived time.Time
	held    bool
	done    []string // what was done to it
}

// node is one of them.
type node struct {
	adminv1.UnimplementedQueueServiceServer
	w       *world
	name    string
	service *Service
	driver  *Driver
	server  *grpc.Server
	conn    *grpc.ClientConn
	stop    context.CancelFunc
	stopped sync.WaitGroup
	down    bool

	before func(rcpt string) error // called before one is changed
}

func newWorld(t *testing.T, names ...string) *world {
	w := &world{t: t, records: map[string]Record{}, changed: make(chan struct{}), leader: names[0], owners: map[uint64]string{}, claims: map[uint64]uint64{}, rcpts: map[string]*rcpt{}, nodes: map[string]*node{}}
	for _, name := range names {
		w.start(name)
	}
	return w
}

func (w *world) start(name string) *node {
	n := &node{w: w, name: name}
	ctx, stop := context.WithCancel(context.Background())
	n.stop = stop
	n.service, n.driver = New(ctx, Options{
		Node: name, Queue: n, Fleet: fleet.Fleet{Peers: n}, Ground: n, Records: w,
		Caller: func(context.Context) string { return "tester" }, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: time.Now,
	})
	l := bufconn.Listen(1 << 16)
	n.server = grpc.NewServer()
	adminv1.RegisterJobServiceServer(n.server, n.service)
	go n.server.Serve(l)
	conn, err := grpc.NewClient("passthrough:"+name, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		w.t.Fatal(err)
	}
	n.conn = conn
	w.mu.Lock()
	w.nodes[name] = n
	w.mu.Unlock()
	n.stopped.Go(func() { n.driver.Run(ctx) })
	w.t.Cleanup(func() { n.kill(); conn.Close() })
	return n
}

// kill ends a node at once.
func (n *node) kill() {
	n.w.mu.Lock()
	n.down = true
	n.w.mu.Unlock()
	n.stop()
	n.server.Stop()
	n.stopped.Wait()
}

func (w *world) touch() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// Records is of Records.
func (w *world) Records(prefix string) (list []Record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(w.records)) {
		if strings.HasPrefix(key, prefix) {
			list = append(list, w.records[key])
		}
	}
	return list
}

// Put is of Records.
func (w *world) Put(_ context.Context, key string, value []byte, ifVersion uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.level:
		return ErrLevel
	case w.records[key].Version != ifVersion:
		return ErrConflict
	}
	w.puts++
	if value == nil {
		delete(w.records, key)
	} else {
		w.records[key] = Record{key, value, ifVersion + 1}
	}
	w.touch()
	return nil
}

// Changed is of Records.
func (w *world) Changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

// own gives a segment to a node, whose queue has it at once.
func (w *world) own(segment uint64, node string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.owners[segment] = node
	w.count++
	w.claims[segment] = w.count
	w.touch()
}

func (w *world) queue(segment uint64, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range n {
		w.rcpts[fmt.Sprintf("%d-%03d", segment, i)] = &rcpt{segment: segment, arrived: time.Now()}
	}
}

// Leads is of Ground.
func (n *node) Leads() bool {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return n.w.leader == n.name && !n.down
}

// Segments is of Ground.
func (n *node) Segments() (list []Segment) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	for id, owner := range n.w.owners {
		list = append(list, Segment{ID: id, Owner: owner, Lost: owner == "nobody"})
	}
	return list
}

// Claimed is of Ground.
func (n *node) Claimed() map[uint64]uint64 {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	out := map[uint64]uint64{}
	for id, owner := range n.w.owners {
		if owner == n.name {
			out[id] = n.w.claims[id]
		}
	}
	return out
}

// Others is of fleet.Peers.
func (n *node) Others(context.Context) (list []fleet.Peer) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	for name, o := range n.w.nodes {
		if name != n.name {
			list = append(list, fleet.Peer{Name: name, Conn: o.conn})
		}
	}
	return list
}

// Knows is of fleet.Peers.
func (n *node) Knows(string) bool { return true }

// change does something to each of this node's recipients that pick wants.
func (n *node) change(ctx context.Context, c *adminv1.Change, pick func(*rcpt) bool, do func(*rcpt)) (*adminv1.ChangeResult, error) {
	n.w.mu.Lock()
	names := slices.Sorted(maps.Keys(n.w.rcpts))
	n.w.mu.Unlock()
	res := &adminv1.ChangeResult{}
	for _, name := range names {
		n.w.mu.Lock()
		r := n.w.rcpts[name]
		before := n.before
		mine := (n.w.owners[r.segment] == n.name || !c.GetLocal()) && pick(r) &&
			(c.GetSelector().GetArrivedBefore() == nil || r.arrived.Before(c.GetSelector().GetArrivedBefore().AsTime()))
		n.w.mu.Unlock()
		if !mine {
			continue
		}
		if !c.GetDryRun() {
			if before != nil {
				if err := before(name); err != nil {
					return nil, err
				}
			}
			n.w.mu.Lock()
			if n.down || ctx.Err() != nil {
				n.w.mu.Unlock()
				return nil, status.Error(codes.Unavailable, "down")
			}
			do(r)
			n.w.mu.Unlock()
		}
		res.Messages, res.Recipients = res.Messages+1, res.Recipients+1
		if tell := Progress(ctx); tell != nil {
			tell(res.GetMessages(), res.GetRecipients(), 0)
		}
	}
	if c.Expect != nil && c.GetExpect() != res.GetRecipients() {
		return nil, status.Error(codes.FailedPrecondition, "another number")
	}
	return res, nil
}

// Hold is of QueueServiceServer.
func (n *node) Hold(ctx context.Context, req *adminv1.HoldRequest) (*adminv1.HoldResponse, error) {
	res, err := n.change(ctx, req.GetChange(), func(r *rcpt) bool { return !r.held }, func(r *rcpt) { r.held, r.done = true, append(r.done, "hold") })
	return &adminv1.HoldResponse{Result: res}, err
}

// Release is of QueueServiceServer.
func (n *node) Release(ctx context.Context, req *adminv1.ReleaseRequest) (*adminv1.ReleaseResponse, error) {
	res, err := n.change(ctx, req.GetChange(), func(r *rcpt) bool { return r.held }, func(r *rcpt) { r.held, r.done = false, append(r.done, "release") })
	return &adminv1.ReleaseResponse{Result: res}, err
}

func everything() *adminv1.Change {
	return &adminv1.Change{Selector: &adminv1.Selector{Everything: true}}
}

func hold() *adminv1.Verb {
	return &adminv1.Verb{Kind: &adminv1.Verb_Hold{Hold: &adminv1.HoldRequest{Change: everything()}}}
}

func release() *adminv1.Verb {
	return &adminv1.Verb{Kind: &adminv1.Verb_Release{Release: &adminv1.ReleaseRequest{Change: everything()}}}
}

func (n *node) begin(v *adminv1.Verb) *adminv1.Job {
	n.w.t.Helper()
	res, err := n.service.Start(n.w.t.Context(), &adminv1.StartRequest{Verb: v})
	if err != nil {
		n.w.t.Fatal(err)
	}
	return res.GetJob()
}

// await waits until what is kept of a job is as it should be.
func (w *world) await(id, what string, fact func(*adminv1.Job) bool) *adminv1.Job {
	w.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		changed := w.Changed()
		k, _ := store{w}.get(id)
		if k.Job != nil && fact(k.Job) {
			return k.Job
		}
		select {
		case <-changed:
		case <-deadline:
			w.t.Fatalf("%s: not within 30 s: %v", what, k.Job)
		}
	}
}

func (w *world) end(id string) *adminv1.Job {
	w.t.Helper()
	return w.await(id, "the job ends", ended)
}

// all wants the same history of each recipient.
func (w *world) all(want string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, r := range w.rcpts {
		if got := strings.Join(r.done, " "); got != want {
			w.t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func three(t *testing.T) *world {
	w := newWorld(t, "mx1", "mx2", "mx3")
	for i := range uint64(6) {
		w.own(i+1, fmt.Sprint("mx", i%3+1))
		w.queue(i+1, 20)
	}
	return w
}

func TestAllNodesWork(t *testing.T) {
	w := three(t)
	job := w.nodes["mx2"].begin(hold())
	if job.GetTotal() != 120 || job.GetAuthor() != "tester" {
		t.Errorf("%v", job)
	}
	job = w.end(job.GetId())
	if job.GetState() != adminv1.JobState_JOB_STATE_DONE || Sum(job).GetRecipients() != 120 || len(job.GetShares()) != 3 || job.GetDriver() != "mx1" {
		t.Errorf("%v", job)
	}
	w.all("hold")
	if job := w.nodes["mx3"].begin(hold()); job != nil {
		t.Errorf("a job to do nothing: %v", job)
	}
}

// Jobs are done in the order in which they were made.
func TestInTurn(t *testing.T) {
	w := three(t)
	w.mu.Lock()
	w.leader = "nobody"
	w.mu.Unlock()
	var ids []string
	ids = append(ids, w.nodes["mx1"].begin(hold()).GetId())
	w.nodes["mx1"].before = nil
	second, err := w.nodes["mx2"].service.Start(t.Context(), &adminv1.StartRequest{Verb: release()})
	if err != nil || second.GetJob() != nil {
		t.Fatalf("nothing is held yet: %v %v", second, err)
	}
	w.mu.Lock()
	for _, r := range w.rcpts {
		r.held = r.segment == 1
	}
	w.mu.Unlock()
	ids = append(ids, w.nodes["mx2"].begin(release()).GetId())
	w.mu.Lock()
	w.leader = "mx3"
	w.mu.Unlock()
	for _, id := range ids {
		w.end(id)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, r := range w.rcpts {
		if r.held {
			t.Errorf("%s is held: %q", name, r.done)
		}
	}
}

// A node dies in the middle; the job waits until its mail has another owner,
// and is done to all of it, once.
func TestNodeDies(t *testing.T) {
	w := three(t)
	dying := w.nodes["mx2"]
	reached := make(chan struct{})
	var once sync.Once
	block := make(chan struct{})
	dying.before = func(name string) error {
		if name == "2-010" {
			once.Do(func() { close(reached) })
			<-block
		}
		return nil
	}
	job := w.nodes["mx3"].begin(hold())
	<-reached
	w.mu.Lock()
	dying.down = true
	w.mu.Unlock()
	close(block)
	dying.kill()
	waiting := w.await(job.GetId(), "it waits", func(j *adminv1.Job) bool { return len(j.GetMissingNodes()) > 0 })
	if ended(waiting) || !slices.Equal(waiting.GetMissingNodes(), []string{"mx2"}) || !strings.Contains(waiting.GetNote(), "2 segments of mx2") {
		t.Errorf("%v", waiting)
	}
	w.own(2, "mx1")
	w.own(5, "mx3")
	job = w.end(job.GetId())
	if job.GetState() != adminv1.JobState_JOB_STATE_DONE || len(job.GetMissingNodes()) != 0 {
		t.Errorf("%v", job)
	}
	w.all("hold")
}

// The leader dies in the middle; another one goes on, and nothing is done twice.
func TestLeaderDies(t *testing.T) {
	w := three(t)
	first := w.nodes["mx1"]
	reached := make(chan struct{})
	var once sync.Once
	block := make(chan struct{})
	w.nodes["mx2"].before = func(name string) error {
		if name == "2-010" {
			once.Do(func() { close(reached) })
			<-block
		}
		return nil
	}
	job := w.nodes["mx2"].begin(hold())
	<-reached
	w.mu.Lock()
	first.down, w.leader = true, "mx3"
	w.mu.Unlock()
	go first.kill()
	w.own(1, "mx2")
	w.own(4, "mx3")
	w.await(job.GetId(), "another one drives it", func(j *adminv1.Job) bool { return j.GetDriver() == "mx3" })
	close(block)
	job = w.end(job.GetId())
	if job.GetState() != adminv1.JobState_JOB_STATE_DONE {
		t.Errorf("%v", job)
	}
	w.all("hold")
}

// Mail that moves while nodes work is found where it is at the end.
func TestMailMoves(t *testing.T) {
	w := three(t)
	w.nodes["mx1"].before = func(name string) error {
		if name == "1-005" {
			w.own(4, "mx2") // before mx1 has come to it, and behind mx2's back
			w.own(5, "mx2") // was there all the time, but not whole
		}
		return nil
	}
	job := w.end(w.nodes["mx1"].begin(hold()).GetId())
	if job.GetState() != adminv1.JobState_JOB_STATE_DONE {
		t.Errorf("%v", job)
	}
	w.all("hold")
}

// What arrives later, and what nobody has a copy of, is not waited for.
func TestNotItsBusiness(t *testing.T) {
	w := three(t)
	w.own(9, "nobody")
	w.nodes["mx1"].before = func(name string) error {
		if name == "1-000" {
			w.own(7, "mx3")
			w.mu.Lock()
			w.rcpts["7-000"] = &rcpt{segment: 7, arrived: time.Now().Add(time.Minute)}
			w.mu.Unlock()
		}
		return nil
	}
	job := w.end(w.nodes["mx1"].begin(hold()).GetId())
	w.mu.Lock()
	late := w.rcpts["7-000"]
	delete(w.rcpts, "7-000")
	w.mu.Unlock()
	if job.GetState() != adminv1.JobState_JOB_STATE_DONE || late == nil || late.held {
		t.Errorf("%v %v", job, late)
	}
	w.all("hold")
}

func TestCancel(t *testing.T) {
	w := three(t)
	w.mu.Lock()
	w.leader = "nobody"
	w.mu.Unlock()
	waiting := w.nodes["mx1"].begin(hold())
	if _, err := w.nodes["mx3"].service.Cancel(t.Context(), &adminv1.CancelRequest{Id: waiting.GetId()}); err != nil {
		t.Fatal(err)
	}
	if job := w.end(waiting.GetId()); job.GetState() != adminv1.JobState_JOB_STATE_CANCELLED {
		t.Errorf("%v", job)
	}
	w.all("")

	reached, block := make(chan struct{}), make(chan struct{})
	w.nodes["mx1"].before = func(name string) error {
		if name == "1-010" {
			close(reached)
			<-block
		}
		return nil
	}
	w.mu.Lock()
	w.leader = "mx1"
	w.mu.Unlock()
	running := w.nodes["mx1"].begin(hold())
	<-reached
	if _, err := w.nodes["mx2"].service.Cancel(t.Context(), &adminv1.CancelRequest{Id: running.GetId()}); err != nil {
		t.Fatal(err)
	}
	close(block)
	job := w.end(running.GetId())
	if job.GetState() != adminv1.JobState_JOB_STATE_CANCELLED {
		t.Errorf("%v", job)
	}
	if _, err := w.nodes["mx2"].service.Cancel(t.Context(), &adminv1.CancelRequest{Id: running.GetId()}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("one that has ended: %v", err)
	}
	if _, err := w.nodes["mx2"].service.Cancel(t.Context(), &adminv1.CancelRequest{Id: "j-nothing"}); status.Code(err) != codes.NotFound {
		t.Errorf("one that is not there: %v", err)
	}
}

func TestFails(t *testing.T) {
	w := three(t)
	w.nodes["mx3"].before = func(string) error { return status.Error(codes.InvalidArgument, "that cannot be") }
	job := w.end(w.nodes["mx1"].begin(hold()).GetId())
	if job.GetState() != adminv1.JobState_JOB_STATE_FAILED || job.GetNote() != "that cannot be" {
		t.Errorf("%v", job)
	}
	w.nodes["mx3"].before = func(string) error { return errors.New("odd") }
	job = w.end(w.nodes["mx1"].begin(hold()).GetId())
	if job.GetState() != adminv1.JobState_JOB_STATE_FAILED || !strings.Contains(job.GetNote(), "odd") {
		t.Errorf("%v", job)
	}
}

func TestRefusals(t *testing.T) {
	w := three(t)
	long := &adminv1.Verb{Kind: &adminv1.Verb_Hold{Hold: &adminv1.HoldRequest{Change: &adminv1.Change{Selector: &adminv1.Selector{Rcpts: []string{strings.Repeat("x", maxRecord)}}}}}}
	other := int64(7)
	for name, c := range map[string]struct {
		req  *adminv1.StartRequest
		want codes.Code
	}{
		"no verb":        {&adminv1.StartRequest{}, codes.InvalidArgument},
		"an empty one":   {&adminv1.StartRequest{Verb: &adminv1.Verb{}}, codes.InvalidArgument},
		"no selector":    {&adminv1.StartRequest{Verb: &adminv1.Verb{Kind: &adminv1.Verb_Drop{Drop: &adminv1.DropRequest{}}}}, codes.InvalidArgument},
		"too long":       {&adminv1.StartRequest{Verb: long}, codes.InvalidArgument},
		"another number": {&adminv1.StartRequest{Verb: hold(), Expect: &other}, codes.FailedPrecondition},
	} {
		if _, err := w.nodes["mx1"].service.Start(t.Context(), c.req); status.Code(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.mu.Lock()
	w.level = true
	w.mu.Unlock()
	if _, err := w.nodes["mx1"].service.Start(t.Context(), &adminv1.StartRequest{Verb: hold()}); status.Code(err) != codes.Unimplemented {
		t.Errorf("below the level: %v", err)
	}
	w.all("")
}

// Every verb that a job can have is a method of the queue.
func TestEveryVerb(t *testing.T) {
	methods := map[string]bool{}
	for _, m := range adminv1.QueueService_ServiceDesc.Methods {
		methods[m.MethodName] = true
	}
	fields := (&adminv1.Verb{}).ProtoReflect().Descriptor().Oneofs().ByName("kind").Fields()
	for i := range fields.Len() {
		name := string(fields.Get(i).Name())
		if !methods[strings.ToUpper(name[:1])+name[1:]] {
			t.Errorf("the queue has no method for %q", name)
		}
	}
}

// Only so many jobs that have ended are kept.
func TestPrune(t *testing.T) {
	w := three(t)
	s := store{w}
	for i := range keepEnded + 5 {
		job := &adminv1.Job{Created: timestamppb.New(time.Unix(int64(i), 0)), State: adminv1.JobState_JOB_STATE_DONE, Total: int64(i)}
		if err := s.add(t.Context(), job); err != nil {
			t.Fatal(err)
		}
	}
	w.end(w.nodes["mx1"].begin(hold()).GetId())
	deadline := time.Now().Add(30 * time.Second)
	for len(s.all()) > keepEnded {
		changed := w.Changed()
		if len(s.all()) <= keepEnded {
			break
		}
		select {
		case <-changed:
		case <-time.After(time.Until(deadline)):
			t.Fatalf("%d are kept", len(s.all()))
		}
	}
	if first := s.all()[0]; first.GetTotal() != 6 {
		t.Errorf("the oldest that is kept is number %d", first.GetTotal())
	}
}
