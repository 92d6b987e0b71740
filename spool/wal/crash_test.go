package wal_test

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool/wal"
)

var seedFlag = flag.Uint64("wal.seed", 0, "run the randomised tests with this seed alone")

// seeds gives the seeds for a randomised test, and prints them.
func seeds(t *testing.T, n int) []uint64 {
	if *seedFlag != 0 {
		return []uint64{*seedFlag}
	}
	out := make([]uint64, n)
	for i := range out {
		out[i] = rand.Uint64()
	}
	return out
}

// ledger knows what became of every record that a test tried to append.
type ledger struct {
	mu      sync.Mutex
	tried   map[uint64]bool  // seq
	placed  map[uint64]entry // those whose Append returned
	acked   map[uint64]bool  // those whose WaitDurable returned
	freeing map[uint32]bool  // files whose Free was called
	freed   map[uint32]bool  // files whose Free returned
}

func newLedger() *ledger {
	return &ledger{tried: map[uint64]bool{}, placed: map[uint64]entry{}, acked: map[uint64]bool{}, freeing: map[uint32]bool{}, freed: map[uint32]bool{}}
}

// clone is a picture of the moment.
func (g *ledger) clone() *ledger {
	g.mu.Lock()
	defer g.mu.Unlock()
	return &ledger{tried: maps.Clone(g.tried), placed: maps.Clone(g.placed), acked: maps.Clone(g.acked), freeing: maps.Clone(g.freeing), freed: maps.Clone(g.freed)}
}

// check holds what a recovery gave against the ledger as it was before and
// after the crash image was made.
func check(before, after *ledger, rep *wal.Report, got []entry) error {
	if len(rep.Damage) > 0 {
		return fmt.Errorf("a crash was taken for damage: %v", rep.Damage[0])
	}
	seen := map[uint64]bool{}
	var last wal.Pos
	for _, e := range got {
		switch {
		case seen[e.h.Seq]:
			return fmt.Errorf("%v appears twice", e)
		case !after.tried[e.h.Seq]:
			return fmt.Errorf("%v was never appended", e)
		case before.freed[e.pos.File()]:
			return fmt.Errorf("%v is back from a freed file", e)
		}
		if at, ok := after.placed[e.h.Seq]; ok && at != e {
			return fmt.Errorf("%v was appended as %v", e, at)
		}
		seen[e.h.Seq] = true
		last = e.pos
	}
	for seq, e := range before.placed {
		if seen[seq] || after.freeing[e.pos.File()] {
			continue
		}
		if before.acked[seq] {
			return fmt.Errorf("%v is lost; the log ends with %v, tail %+v", e, last, rep.Tail)
		}
		if e.pos < last {
			return fmt.Errorf("%v is missing in front of %v", e, last)
		}
	}
	return nil
}

// work appends and frees at random.
func (g *ledger) work(l *wal.Log, r *rand.Rand, first uint64, n int) error {
	seq := first
	for range n {
		if r.IntN(6) == 0 {
			if err := g.free(l, r); err != nil {
				return err
			}
		}
		var recs []wal.Record
		g.mu.Lock()
		for range 1 + r.IntN(3) {
			recs = append(recs, record(seq, kindBody+wal.Kind(r.IntN(2)), min(r.IntN(6000), r.IntN(6000), r.IntN(6000))))
			g.tried[seq] = true
			seq++
		}
		g.mu.Unlock()
		c, err := l.Append(recs...)
		if err != nil {
			return err
		}
		all := entries(c, recs)
		g.mu.Lock()
		for _, e := range all {
			g.placed[e.h.Seq] = e
		}
		g.mu.Unlock()
		switch r.IntN(4) {
		case 0:
		case 1:
			if err := c.WaitWritten(); err != nil {
				return err
			}
		default:
			if err := c.WaitDurable(); err != nil {
				return err
			}
			g.mu.Lock()
			for _, e := range all {
				g.acked[e.h.Seq] = true
			}
			g.mu.Unlock()
		}
	}
	return nil
}

// free frees a file that is sealed.
func (g *ledger) free(l *wal.Log, r *rand.Rand) error {
	files := slices.DeleteFunc(l.Files(), func(f wal.FileInfo) bool { return !f.Sealed })
	if len(files) < 3 {
		return nil
	}
	num := files[r.IntN(len(files))].Number
	g.mu.Lock()
	g.freeing[num] = true
	g.mu.Unlock()
	err := l.Free(num)
	if errors.Is(err, wal.ErrNoFile) { // another worker was faster
		return nil
	}
	if err == nil {
		g.mu.Lock()
		g.freed[num] = true
		g.mu.Unlock()
	}
	return err
}

func crashOptions(m vfs.FS) wal.Options {
	o := options(m)
	o.FileSize = minSize
	o.MaxSpares = 3
	o.HangLimit = time.Hour // the watcher takes its time
	return o
}

const minSize = 36 << 10

// TestCrashAtEveryBoundary makes crash images after every change of the disk
// and recovers each of them; some of the recoveries are crashed in turn.
func TestCrashAtEveryBoundary(t *testing.T) {
	runs, images := 3, uint64(3)
	if testing.Short() {
		runs, images = 2, 2
	}
	for _, seed := range seeds(t, runs) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			t.Parallel()
			crashRun(t, seed, images)
		})
	}
}

func crashRun(t *testing.T, seed, images uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	g := newLedger()
	m := newDir(t)
	var mu sync.Mutex
	step := uint64(0)
	checked := 0
	m.Watch(func(c vfs.Call) {
		mu.Lock()
		defer mu.Unlock()
		if t.Failed() {
			return
		}
		step++
		// A new file of zeros tells nothing but at its ends.
		if c.Op == vfs.OpWrite && c.Off > 0 && c.Len == 1<<20 {
			return
		}
		for i := range images {
			before := g.clone()
			img := m.CrashImage(seed ^ step<<8 ^ i)
			after := g.clone()
			if err := recoverImage(t, img, before, after, seed+step*images+i); err != nil {
				t.Errorf("step %d, %+v, image %d: %v", step, c, i, err)
			}
			checked++
		}
	})
	l, _, _ := open(t, crashOptions(m))
	workers := 1 + r.IntN(3)
	var wg sync.WaitGroup
	for w := range workers {
		wr := rand.New(rand.NewPCG(seed, uint64(w)))
		wg.Go(func() {
			if err := g.work(l, wr, uint64(w)<<32, 60/workers); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	closeLog(t, l)
	t.Logf("%d steps, %d images", step, checked)
}

// recoverImage opens a crash image and checks it. One in eight times it also
// crashes the recovery and what is done after it.
func recoverImage(t *testing.T, img *vfs.Mem, before, after *ledger, seed uint64) error {
	r := rand.New(rand.NewPCG(seed, 2))
	var nested []*vfs.Mem
	var mu sync.Mutex
	if r.IntN(6) == 0 {
		salt := r.Uint64()
		img.Watch(func(vfs.Call) {
			mu.Lock()
			defer mu.Unlock()
			nested = append(nested, img.CrashImage(salt+uint64(len(nested))))
		})
	}
	o := crashOptions(img)
	o.Spares = 1
	l, rep, got := open(t, o)
	mu.Lock()
	steps := slices.Clone(nested)
	mu.Unlock()
	if err := check(before, after, rep, got); err != nil {
		closeLog(t, l)
		return err
	}
	more := newLedger()
	err := more.work(l, r, 1<<60, r.IntN(8))
	more2 := more.clone()
	if err == nil {
		err = l.Sync()
	}
	if err != nil {
		closeLog(t, l)
		return err
	}
	last := img.CrashImage(r.Uint64())
	closeLog(t, l)
	for i, img := range append(steps, last) {
		l, rep, again := open(t, crashOptions(img))
		closeLog(t, l)
		if len(rep.Damage) > 0 {
			return fmt.Errorf("crash in recovery, step %d: damage %v", i, rep.Damage[0])
		}
		want := got
		if i == len(steps) {
			want = slices.Clone(got)
			for _, seq := range slices.Sorted(maps.Keys(more2.placed)) {
				want = append(want, more2.placed[seq])
			}
			want = slices.DeleteFunc(want, func(e entry) bool { return more.freed[e.pos.File()] })
		}
		if !slices.Equal(again, want) {
			return fmt.Errorf("crash in recovery, step %d of %d: %d records instead of %d", i, len(steps), len(again), len(want))
		}
	}
	return nil
}

// TestDroppedStaysDropped crashes the recovery of a log whose second of three
// files lacks its beginning: the third, whole as it is, must never follow the
// first.
func TestDroppedStaysDropped(t *testing.T) {
	m := newDir(t)
	l, _, _ := open(t, crashOptions(m))
	for seq := uint64(0); len(l.Files()) < 4; seq++ {
		c, err := l.Append(record(seq, kindBody, 3000))
		if err == nil {
			err = c.WaitWritten()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	crashed := m.CrashImage(keepAll(m))
	second := l.Files()[1]
	closeLog(t, l)
	img := patch(t, crashed, second.Path, func(b []byte) []byte { clear(b[8192:8704]); return b })
	var steps []*vfs.Mem
	o := crashOptions(img)
	img.Watch(func(vfs.Call) { steps = append(steps, img.CrashImage(uint64(len(steps)))) })
	var want []entry
	l, _, err := wal.Open(o, func(pos wal.Pos, h wal.Header, _ []byte) error {
		want = append(want, entry{pos, h})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
	if len(want) == 0 || want[len(want)-1].pos.File() != second.Number-1 {
		t.Fatalf("recovered %v", want)
	}
	for i, step := range steps {
		if _, _, got := open2(t, crashOptions(step)); !slices.Equal(got, want) {
			t.Errorf("crash at step %d of recovery: %d records, then %d", i, len(want), len(got))
		}
	}
}

// keepAll finds a seed with which a crash loses nothing.
func keepAll(m *vfs.Mem) uint64 {
	for seed := uint64(0); ; seed++ {
		img := m.CrashImage(seed)
		same := true
		names, _ := m.ReadDir("log")
		for _, name := range names {
			a, errA := m.OpenFile("log/"+name, 0, 0)
			b, errB := img.OpenFile("log/"+name, 0, 0)
			if errA != nil || errB != nil || !sameContent(a, b) {
				same = false
			}
		}
		if same {
			return seed
		}
	}
}

func sameContent(a, b vfs.File) bool {
	n, _ := a.Size()
	k, _ := b.Size()
	p, q := make([]byte, n), make([]byte, k)
	if _, err := a.ReadAt(p, 0); err != nil && n > 0 {
		return false
	}
	if _, err := b.ReadAt(q, 0); err != nil && k > 0 {
		return false
	}
	return string(p) == string(q)
}
