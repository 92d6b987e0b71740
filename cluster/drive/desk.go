package drive

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math"
	"sync"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/replica"
	"github.com/clrelay/clrelay/cluster/segment"
	"github.com/clrelay/clrelay/cluster/segment/balance"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/spool"
	"github.com/clrelay/clrelay/spool/record"
	"github.com/clrelay/clrelay/spool/wal"
)

// jobKind says what a job wants of the disk.
type jobKind uint8

const (
	jobTake jobKind = iota + 1
	jobTakeResults
	jobSet
	jobOwn
	jobDisown
	jobResume
	jobQuiesce
	jobSendInventory
	jobMerge
	jobFetch
	jobServe
	jobPut
	jobForget
	jobFetched  // of the desk itself, as the next one
	jobPeerDown // peer
)

// job is an action of the core that needs the spool or the queue.
type job struct {
	kind       jobKind
	segment    fsm.SegmentID
	epoch      fsm.Epoch
	first, seq uint64
	peer       fsm.Ref
	token      uint64
	session    fsm.Session
	complete   bool
	takeover   bool
	record     *fsm.Segment
	batch      *batch
	item       *replica.Item
}

// Queue is what schedules deliveries; *queue.Runner.
type Queue interface {
	// Resume takes a message that is this node's to deliver from now on.
	Resume(m *spool.Message, env *mail.Envelope, states []spool.RecipientState)
	// Withdraw takes a segment's messages out again.
	Withdraw(ctx context.Context, segment uint64) error
}

// desk carries out what the core wants of the spool and the queue: in order,
// on one goroutine, and what takes long on others. Durability is waited for on
// a goroutine of its own, in the order of the log.
type desk struct {
	e     *Engine
	sp    *spool.Spool
	queue Queue
	loads func() []balance.Load
	self  fsm.Ref
	log   *slog.Logger
	ctx   context.Context
	stop  context.CancelFunc
	group sync.WaitGroup

	mu      sync.Mutex
	jobs    []job
	waits   []wait
	results map[told]wait // the newest result of each
	wake    chan struct{} // jobs
	written chan struct{} // waits
	jammed  chan struct{} // a link was full
	due     chan struct{} // results is not empty any more

	owners    map[fsm.SegmentID][]job // about ownership; a segment that is here has a goroutine
	withdrawn map[fsm.SegmentID]bool  // by quiesce
	claims    uint64                  // counts
	claimed   map[uint64]uint64       // segments that are in the queue, whole, with the number of their claim
	syncs     syncs
}

// wait is an append: the batch that it came in is let go once it is written,
// and the event, if there is one, told once it is durable.
type wait struct {
	c     *wal.Commit
	ev    segment.Event
	batch *batch
}

// told names whose results are told to be durable: those of an owned segment,
// or, with a peer, those that came from it.
type told struct {
	segment fsm.SegmentID
	peer    fsm.Ref
}

// resultsEvery is how long results wait for company before the disk is asked
// for them: nobody waits for one of them.
const resultsEvery = 20 * time.Millisecond

func newDesk(e *Engine, p Parts) *desk {
	ctx, stop := context.WithCancel(context.Background())
	d := &desk{
		e: e, sp: p.Spool, queue: p.Queue, loads: p.Loads, self: p.Self, log: e.log, ctx: ctx, stop: stop,
		results: map[told]wait{}, wake: make(chan struct{}, 1), written: make(chan struct{}, 1), jammed: make(chan struct{}, 1), due: make(chan struct{}, 1),
		owners: map[fsm.SegmentID][]job{}, withdrawn: map[fsm.SegmentID]bool{}, claimed: map[uint64]uint64{},
	}
	d.syncs.init(d)
	return d
}

func (d *desk) start() {
	for _, f := range []func(){d.work, d.await, d.awaitResults, d.watch, d.pump} {
		d.group.Go(f)
	}
}

func (d *desk) close() {
	d.stop()
	d.group.Wait()
	for i := range d.jobs {
		d.jobs[i].batch.release()
	}
	for i := range d.waits {
		d.waits[i].batch.release()
	}
}

// put takes a job; it does not block.
func (d *desk) put(j job) {
	d.mu.Lock()
	d.jobs = append(d.jobs, j)
	d.mu.Unlock()
	kick(d.wake)
}

func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// work carries out the jobs.
func (d *desk) work() {
	var list []job
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-d.wake:
		}
		d.mu.Lock()
		list, d.jobs = d.jobs, list[:0]
		d.mu.Unlock()
		for i := 0; i < len(list); {
			n := 1
			if list[i].kind == jobTake || list[i].kind == jobTakeResults {
				n = run(list[i:])
				d.take(list[i : i+n])
			} else {
				d.do(&list[i])
			}
			i += n
		}
		clear(list)
	}
}

// run counts the jobs at the front that can be taken in one append.
func run(list []job) int {
	n := 1
	for n < len(list) && list[n].kind == list[0].kind && list[n].segment == list[0].segment &&
		list[n].epoch == list[0].epoch && list[n].peer == list[0].peer && list[n].session == list[0].session {
		n++
	}
	return n
}

// take appends records of another node's segment.
func (d *desk) take(list []job) {
	j := &list[0]
	last := &list[len(list)-1]
	copies := make([]spool.Copy, 0, len(list))
	var err error
	for i := range list {
		var c spool.Copy
		if c, err = copyIn(list[i].item); err == nil && j.kind == jobTakeResults && c.Kind != record.KindResult && c.Kind != record.KindAbort {
			err = errBadItem // the epoch of results is not looked at
		}
		if err != nil {
			break
		}
		copies = append(copies, c)
	}
	var c *wal.Commit
	if err == nil {
		epoch := uint64(j.epoch)
		if j.kind == jobTakeResults {
			epoch = math.MaxUint64 // what has happened has, whoever owns the segment by now
		}
		c, err = d.sp.Take(uint64(j.segment), epoch, copies)
	}
	if err != nil {
		d.log.Warn("records of another node were not taken", "segment", j.segment.String(), "from", j.peer.Node, "error", err)
		for i := range list {
			list[i].batch.release()
		}
		switch {
		case j.kind == jobTake:
			d.e.Step(&segment.TakeFailed{Segment: j.segment, First: j.first})
		case !errors.Is(err, spool.ErrNoSegment):
			// A later acknowledgement would cover what is missing here: on the
			// next stream the owner begins with what was not acknowledged.
			d.e.net.Break(j.peer.Node, err)
		}
		return
	}
	for i := range list[:len(list)-1] {
		d.durable(wait{c: c, batch: list[i].batch})
	}
	if j.kind == jobTake {
		d.durable(wait{c: c, batch: last.batch, ev: &segment.Taken{Segment: j.segment, Seq: last.seq}})
		return
	}
	d.durable(wait{c: c, batch: last.batch})
	d.result(told{j.segment, j.peer}, wait{c: c, ev: &segment.TakenResults{Segment: j.segment, From: j.peer, Session: j.session, Last: last.seq}})
}

// peerDown forgets what was on its way from a node.
func (d *desk) peerDown(peer fsm.Ref) { d.put(job{kind: jobPeerDown, peer: peer}) }

// durable has an event stepped once an append is on the disk, and its batch let
// go before.
func (d *desk) durable(w wait) {
	d.mu.Lock()
	d.waits = append(d.waits, w)
	d.mu.Unlock()
	kick(d.written)
}

// await waits for appends, in order.
func (d *desk) await() {
	var list []wait
	var newest *wal.Commit // an event without one of its own is about all before it
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-d.written:
		}
		d.mu.Lock()
		list, d.waits = d.waits, list[:0]
		d.mu.Unlock()
		for i := range list {
			w := &list[i]
			if w.c != nil {
				newest = w.c
			}
			err := newest.WaitWritten()
			w.batch.release()
			if err == nil && w.ev != nil && newest.WaitDurable() == nil { // or the spool ends the process
				d.e.Step(w.ev)
			}
		}
		clear(list)
	}
}

// resultAppended notes an own result. It is called under the engine's lock.
func (d *desk) resultAppended(id fsm.SegmentID, n uint64, c *wal.Commit) {
	d.result(told{segment: id}, wait{c: c, ev: &segment.ResultsDurable{Segment: id, Last: n}})
}

// result notes that results were appended, so that their durability is told
// soon.
func (d *desk) result(of told, w wait) {
	d.mu.Lock()
	first := len(d.results) == 0
	d.results[of] = w
	d.mu.Unlock()
	if first {
		kick(d.due)
	}
}

// awaitResults tells the durability of results, many at a time.
func (d *desk) awaitResults() {
	t := time.NewTimer(resultsEvery)
	defer t.Stop()
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-d.due:
			t.Reset(resultsEvery)
			continue
		case <-t.C:
		}
		d.mu.Lock()
		list := make([]wait, 0, len(d.results))
		for _, w := range d.results {
			list = append(list, w)
		}
		clear(d.results)
		d.mu.Unlock()
		for _, w := range list {
			if w.c.WaitDurable() == nil {
				d.e.Step(w.ev)
			}
		}
	}
}

// pumpEvery is how often links that were full are tried again.
const pumpEvery = 2 * time.Millisecond

// pump tries full links again until there are none.
func (d *desk) pump() {
	t := time.NewTicker(pumpEvery)
	t.Stop()
	defer t.Stop()
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-d.jammed:
			t.Reset(pumpEvery)
		case <-t.C:
			if d.e.pumpAll() {
				t.Stop()
			}
		}
	}
}

// do carries out a job that is no append.
func (d *desk) do(j *job) {
	switch j.kind {
	case jobSet:
		d.set(j)
	case jobOwn, jobDisown, jobQuiesce, jobResume:
		d.owner(*j)
	case jobForget:
		d.mu.Lock()
		maps.DeleteFunc(d.results, func(of told, _ wait) bool { return of.segment == j.segment })
		delete(d.claimed, uint64(j.segment))
		d.mu.Unlock()
		d.e.shut(j.segment)
		if err := d.sp.Forget(uint64(j.segment), j.seq); err != nil && !errors.Is(err, spool.ErrNoSegment) {
			d.log.Error("deleting a segment", "segment", j.segment.String(), "error", err)
		}
	case jobFetched:
		d.syncs.fetched(j)
	case jobPeerDown:
		d.syncs.forget(j.peer)
	default:
		d.syncs.do(j)
	}
}

// set tells the spool what Raft says of a segment.
func (d *desk) set(j *job) {
	g := j.record
	v := spool.Segment{
		ID: uint64(g.ID), Epoch: uint64(g.Epoch), Owner: member(g.Owner), End: g.End, EndSet: g.EndSet,
		State: map[fsm.SegmentState]record.SegmentState{
			fsm.Open: record.SegmentOpen, fsm.Recovering: record.SegmentRecovering, fsm.Sealed: record.SegmentSealed,
		}[g.State],
	}
	for _, m := range g.Members {
		v.Members = append(v.Members, member(m))
	}
	if _, err := d.sp.SetSegment(v); err != nil {
		d.log.Error("recording a segment", "segment", g.ID.String(), "error", err)
		return
	}
	if g.State == fsm.Open && g.Owner == d.self {
		d.e.open(g.ID) // the spool owns a new one at once
		d.whole(g.ID)
	}
}

func member(r fsm.Ref) record.Member { return record.Member{Node: r.Node, StoreID: r.Store} }
