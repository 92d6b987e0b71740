package drive

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/segment"
	"github.com/clrelay/clrelay/cluster/segment/balance"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/spool"
)

// watchEvery is how often the desk looks which owned segments are done with,
// whether the disk takes copies, and how much mail waits where.
const watchEvery = 500 * time.Millisecond

// handWait is how long a segment that another node owns now waits for
// deliveries behind their final dot, so that their results are recorded here.
const handWait = 5 * time.Second

// owner puts a job about ownership behind the earlier ones of its segment:
// such jobs wait for deliveries, and those of one segment must not hold up
// another.
func (d *desk) owner(j job) {
	d.mu.Lock()
	defer d.mu.Unlock()
	list, busy := d.owners[j.segment]
	d.owners[j.segment] = append(list, j)
	if !busy {
		d.group.Go(func() { d.own(j.segment) })
	}
}

// own works off the jobs of one segment.
func (d *desk) own(id fsm.SegmentID) {
	for {
		d.mu.Lock()
		list := d.owners[id]
		if len(list) == 0 || d.ctx.Err() != nil {
			delete(d.owners, id)
			d.mu.Unlock()
			return
		}
		j := list[0]
		d.owners[id] = list[1:]
		d.mu.Unlock()
		switch j.kind {
		case jobOwn:
			d.claim(id, j.takeover)
		case jobDisown:
			d.disown(id)
		case jobQuiesce:
			d.quiesce(id, j.token)
		case jobResume:
			d.resume(id)
		}
	}
}

// claim makes this node the owner and queues what is unfinished.
func (d *desk) claim(id fsm.SegmentID, takeover bool) {
	d.e.open(id)
	began := time.Now()
	n := 0
	err := d.sp.Claim(uint64(id), takeover, func(m *spool.Message, env *mail.Envelope, states []spool.RecipientState) {
		n++
		d.queue.Resume(m, env, states)
	})
	if err != nil {
		d.log.Error("owning a segment", "segment", id.String(), "error", err)
	} else {
		d.whole(id)
	}
	d.log.Info("this node owns a segment", "segment", id.String(), "takeover", takeover, "messages", n, "took", time.Since(began).Round(time.Millisecond))
}

// disown ends ownership: another node delivers, or will.
func (d *desk) disown(id fsm.SegmentID) {
	d.mu.Lock()
	delete(d.withdrawn, id) // should this node own it again, nothing is withdrawn
	delete(d.claimed, uint64(id))
	d.mu.Unlock()
	ctx, cancel := context.WithTimeout(d.ctx, handWait)
	defer cancel()
	if err := d.queue.Withdraw(ctx, uint64(id)); err != nil && d.ctx.Err() == nil {
		d.log.Warn("deliveries go on that another node may repeat", "segment", id.String(), "error", err)
	}
	err := d.sp.Disclaim(uint64(id))
	d.e.shut(id)
	if errors.Is(err, spool.ErrNoSegment) {
		return // all of it was done, and it is forgotten
	}
	if err != nil {
		d.log.Warn("giving up a segment", "segment", id.String(), "error", err)
	}
	d.log.Info("this node owns a segment no longer", "segment", id.String())
}

// quiesce waits until no delivery of the segment is under way, however long
// that takes: what is behind its final dot must not be sent by another node.
func (d *desk) quiesce(id fsm.SegmentID, token uint64) {
	d.mu.Lock()
	delete(d.claimed, uint64(id))
	d.mu.Unlock()
	if err := d.queue.Withdraw(d.ctx, uint64(id)); err != nil {
		if d.ctx.Err() == nil {
			d.log.Warn("withdrawing a segment", "segment", id.String(), "error", err)
		}
		return
	}
	d.mu.Lock()
	d.withdrawn[id] = true
	d.mu.Unlock()
	d.e.Step(&segment.Quiet{Segment: id, Token: token})
}

// resume queues again what quiesce withdrew.
func (d *desk) resume(id fsm.SegmentID) {
	d.mu.Lock()
	was := d.withdrawn[id]
	delete(d.withdrawn, id)
	d.mu.Unlock()
	if !was {
		return
	}
	if err := d.sp.Disclaim(uint64(id)); err != nil {
		d.log.Warn("resuming a segment", "segment", id.String(), "error", err)
		return
	}
	d.claim(id, false)
}

// whole notes that all unfinished mail of a segment is in the queue.
func (d *desk) whole(id fsm.SegmentID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.claims++
	d.claimed[uint64(id)] = d.claims
}

// Claimed gives the segments all of whose unfinished mail is in this node's
// queue, each with a number that is another one after it was not.
func (e *Engine) Claimed() map[uint64]uint64 {
	e.desk.mu.Lock()
	defer e.desk.mu.Unlock()
	return maps.Clone(e.desk.claimed)
}

// watch looks for what nobody tells.
func (d *desk) watch() {
	t := time.NewTicker(watchEvery)
	defer t.Stop()
	full := false
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-t.C:
		}
		d.e.prune()
		if now := d.sp.Ready() != nil; now != full {
			full = now
			d.e.Step(&segment.Trouble{On: full})
		}
		var loads segment.Loads
		for _, h := range d.sp.Held() {
			if h.Owned && h.EndSet && h.Unfinished == 0 {
				d.e.Step(&segment.Empty{Segment: fsm.SegmentID(h.ID)})
			}
			if h.Owned && h.Unfinished > 0 {
				loads.Own = append(loads.Own, balance.Backlog{Segment: fsm.SegmentID(h.ID), Messages: uint64(h.Unfinished)})
			}
		}
		if d.loads != nil {
			loads.Others = d.loads()
		}
		d.e.look(&loads)
	}
}

// look tells the core of the loads, and keeps this node's for the others.
func (e *Engine) look(ev *segment.Loads) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.queued = 0
	for i := range ev.Own {
		s := &ev.Own[i]
		e.queued += s.Messages
		since, damaged := e.damaged[s.Segment]
		s.Damaged = damaged && e.now()-since < damagedFor
	}
	e.stepLocked(ev)
}

// open makes the outbox of an owned segment.
func (e *Engine) open(id fsm.SegmentID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.boxes[id] == nil {
		e.boxes[id] = &outbox{next: e.numbers[id]} // a number is never given twice
	}
}

// shut ends the outbox of a segment that is owned no longer.
func (e *Engine) shut(id fsm.SegmentID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if b := e.boxes[id]; b != nil {
		b.close()
		e.numbers[id] = b.next
		delete(e.boxes, id)
	}
}

// prune frees the numbers of segments that are gone everywhere. Of one that may
// come back they stay: members may still speak of them.
func (e *Engine) prune() {
	e.mu.Lock()
	defer e.mu.Unlock()
	maps.DeleteFunc(e.numbers, func(id fsm.SegmentID, _ uint64) bool { return !e.m.Knows(id) })
	maps.DeleteFunc(e.damaged, func(id fsm.SegmentID, _ time.Duration) bool { return !e.m.Knows(id) })
}

// damagedFor is how long a segment with damage here waits for another node to
// own it. In that time it is given away again should it come back; after it
// never, for the other copy may be no better.
const damagedFor = 10 * time.Minute

// Damaged hears that a message of a segment cannot be read here. It tells
// whether another node that has a copy is to own the segment.
func (e *Engine) Damaged(id fsm.SegmentID) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !id.Replicated() || e.m == nil || e.closed {
		return false
	}
	now := e.now()
	since, known := e.damaged[id]
	if !known {
		since, e.damaged[id] = now, now
	}
	return now-since < damagedFor
}
