package spooltest_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool"
	"github.com/clrelay/clrelay/spool/record"
)

// camera keeps what crashes at every write of a node would leave.
type camera struct {
	mu     sync.Mutex
	seed   uint64 // 0: no pictures
	images []*vfs.Mem
}

func (c *camera) watch(fs *vfs.Mem) {
	fs.Watch(func(vfs.Call) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.seed == 0 {
			return
		}
		c.seed++
		c.images = append(c.images, fs.CrashImage(c.seed))
	})
}

func (c *camera) take() (out []*vfs.Mem) {
	c.mu.Lock()
	defer c.mu.Unlock()
	out, c.images, c.seed = c.images, nil, 0
	return out
}

func (c *camera) start(seed uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seed = seed
}

// past is what was acknowledged before a step.
type past struct {
	segs map[*seg]seg
	msgs map[mail.ID]bool // whether it was finished
}

func (w *world) past() *past {
	p := &past{segs: map[*seg]seg{}, msgs: map[mail.ID]bool{}}
	for _, g := range w.segs {
		c := *g
		c.members = slices.Clone(g.members)
		p.segs[g] = c
	}
	for id, l := range w.msgs {
		p.msgs[id] = l.finished()
	}
	return p
}

// develop opens an image of a node's disk, tells it what Raft says now, and
// holds it against what was acknowledged before the step.
func (w *world) develop(img *vfs.Mem, n *node, p *past) error {
	o := options(img, "after the crash")
	o.Node, o.Placement = fmt.Sprint("mx", n.i), n
	s, rec, err := spool.Open(o)
	if err != nil {
		return err
	}
	if len(rec.Damage) > 0 {
		return errors.Join(rec.Damage[0], s.Close())
	}
	var errs []error
	held := map[uint64]spool.HeldSegment{}
	for _, h := range s.Held() {
		held[h.ID] = h
		if g := w.seg(h.ID); p.segs[g].gone {
			errs = append(errs, fmt.Errorf("segment %x was forgotten and is back", g.id))
		}
	}
	for _, g := range w.segs {
		was, known := p.segs[g]
		if !known || g.gone || !slices.Contains(was.members, n.i) || !slices.Contains(g.members, n.i) {
			continue
		}
		if last := held[g.id].Last; was.open && last < was.acked {
			errs = append(errs, fmt.Errorf("segment %x: has %d, acknowledged was %d", g.id, last, was.acked))
		}
		errs = append(errs, w.look(s, g, p))
	}
	return errors.Join(append(errs, s.Close())...)
}

func (w *world) look(s *spool.Spool, g *seg, p *past) error {
	v := spool.Segment{ID: g.id, Epoch: g.epoch, State: record.SegmentOpen, Owner: w.member(g.owner)}
	if !g.open {
		v.State, v.End, v.EndSet = record.SegmentSealed, g.end, true
	}
	if _, err := s.SetSegment(v); err != nil {
		return err
	}
	inv, err := s.Inventory(g.id)
	if err != nil {
		return err
	}
	live := map[uint64]bool{}
	for _, m := range inv.Live {
		live[m.First] = true
		if !g.open && m.Commit > g.end {
			return fmt.Errorf("segment %x: message %d is void and is there", g.id, m.First)
		}
	}
	for id, finished := range p.msgs {
		l := w.msgs[id]
		switch {
		case l.seg != g:
		case finished && live[l.first]:
			return fmt.Errorf("segment %x: message %d, %s, was finished and is back", g.id, l.first, id)
		case !l.finished() && !live[l.first]:
			return fmt.Errorf("segment %x: message %d, %s, is lost", g.id, l.first, id)
		case !l.finished():
			if err := compare(s, g, l); err != nil {
				return err
			}
		}
	}
	return nil
}

// TestMemberCrashesAtEveryWrite opens what a crash would leave after each
// write of each of three spools that carry each other's copies.
func TestMemberCrashesAtEveryWrite(t *testing.T) {
	for _, seed := range seeds(t, 2) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, seed, 3)
			images := 0
			for i := range 60 {
				p := w.past()
				for _, n := range w.nodes {
					n.cam.start(seed + uint64(i)<<20)
				}
				w.step()
				for j, n := range w.nodes {
					for k, img := range n.cam.take() {
						images++
						if err := w.develop(img, n, p); err != nil {
							t.Fatalf("step %d, node %d, crash after change %d: %v", i, j, k, err)
						}
					}
				}
			}
			w.check()
			for _, n := range w.nodes {
				w.must(n.s.Close())
			}
			t.Logf("%d images", images)
		})
	}
}
