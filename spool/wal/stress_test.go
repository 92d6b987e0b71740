package wal_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool/wal"
)

// TestEverythingAtOnce appends, reads, scans, frees and lists from many
// goroutines, on the real disk, and closes the log in the middle of it.
func TestEverythingAtOnce(t *testing.T) {
	for _, seed := range seeds(t, 3) {
		dir := filepath.Join(t.TempDir(), "log")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		o := crashOptions(vfs.OS())
		o.Dir = dir
		o.MaxPending = 64 << 10
		l, _, _ := open(t, o)
		s := &stress{l: l, places: map[wal.Pos]uint64{}}
		var wg sync.WaitGroup
		for i, do := range []func(*rand.Rand) error{s.append, s.append, s.append, s.append, s.read, s.read, s.free, s.free, s.scan, s.list} {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			wg.Go(func() {
				for {
					err := do(r)
					if errors.Is(err, wal.ErrClosed) {
						return
					}
					if err != nil {
						t.Errorf("seed %d, worker %d: %v", seed, i, err)
						return
					}
				}
			})
		}
		for s.acked.Load() < 1500 && !t.Failed() {
			if err := s.append(rand.New(rand.NewPCG(seed, 99))); err != nil {
				t.Fatal(err)
			}
		}
		closeLog(t, l)
		wg.Wait()
		// What is left is what was not freed.
		l, rep, got := open(t, o)
		there := map[wal.Pos]bool{}
		for _, e := range got {
			there[e.pos] = true
		}
		for pos, seq := range s.places {
			if _, freed := s.freed.Load(pos.File()); !freed && !there[pos] {
				t.Errorf("seed %d: record %d at %v is lost", seed, seq, pos)
			}
		}
		if len(rep.Damage) > 0 {
			t.Errorf("seed %d: %v", seed, rep.Damage[0])
		}
		checkReads(t, l, got)
		closeLog(t, l)
	}
}

type stress struct {
	l     *wal.Log
	next  atomic.Uint64
	acked atomic.Int64
	freed sync.Map // file number

	mu     sync.Mutex
	places map[wal.Pos]uint64
}

func (s *stress) append(r *rand.Rand) error {
	recs := make([]wal.Record, 1+r.IntN(3))
	for i := range recs {
		recs[i] = record(s.next.Add(1), kindBody+wal.Kind(r.IntN(2)), r.IntN(4000))
	}
	c, err := s.l.Append(recs...)
	if err != nil {
		return err
	}
	if r.IntN(2) == 0 {
		err = c.WaitDurable()
	} else {
		err = c.WaitWritten()
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range recs {
		s.places[c.Pos(i)] = recs[i].Seq
	}
	s.acked.Add(int64(len(recs)))
	return nil
}

func (s *stress) read(r *rand.Rand) error {
	var pos wal.Pos
	var seq uint64
	s.mu.Lock()
	for pos, seq = range s.places {
		break
	}
	s.mu.Unlock()
	if pos == 0 {
		return nil
	}
	h, data, err := s.l.ReadAt(pos, r.IntN(5000), make([]byte, 0, r.IntN(5000)))
	if errors.Is(err, wal.ErrNoFile) {
		return nil
	}
	if err == nil && (h.Seq != seq || !bytes.Equal(data, content(seq, len(data)))) {
		return errors.New("read something else")
	}
	return err
}

func (s *stress) free(r *rand.Rand) error {
	for _, f := range s.l.Files() {
		if !f.Sealed || r.IntN(3) > 0 {
			continue
		}
		s.freed.Store(f.Number, true)
		if err := s.l.Free(f.Number); err != nil && !errors.Is(err, wal.ErrNoFile) {
			return err
		}
	}
	return s.closed()
}

func (s *stress) scan(*rand.Rand) error {
	for _, f := range s.l.Files() {
		if !f.Sealed {
			continue
		}
		err := s.l.Scan(f.Number, func(_ wal.Pos, h wal.Header, data []byte) error {
			if h.Kind == kindMeta && !bytes.Equal(data, content(h.Seq, len(data))) {
				return errors.New("scanned something else")
			}
			return nil
		})
		if err != nil && !errors.Is(err, wal.ErrNoFile) {
			return err
		}
	}
	return s.closed()
}

func (s *stress) list(*rand.Rand) error {
	for _, f := range s.l.Files() {
		if f.End > f.Size || f.Damaged {
			return errors.New("files make no sense")
		}
	}
	_, _ = s.l.Durable(), s.l.Spares()
	return s.closed()
}

// closed asks something that tells when the log is closed.
func (s *stress) closed() error {
	if _, _, err := s.l.ReadAt(1<<62, 0, nil); errors.Is(err, wal.ErrClosed) {
		return err
	}
	return nil
}
