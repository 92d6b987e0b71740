package spooltest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool"
	"github.com/clrelay/clrelay/spool/spooltest"
)

// TestCrashAndGoOn lets a workload run into one crash after another, and go
// on each time with what the crash has left.
func TestCrashAndGoOn(t *testing.T) {
	for _, seed := range seeds(t, 20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { crashAndGoOn(t, seed) })
	}
}

func crashAndGoOn(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	w := spooltest.NewWorkload(seed)
	mem := vfs.NewMem()
	s, _, err := spool.Open(options(mem, "0"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Each(nil); err != nil {
		t.Fatal(err)
	}
	for round := range 12 {
		for range rnd.IntN(50) {
			if err := w.Step(s); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		if st := s.Stats(); st.Recovered+st.Accepted != st.Finished+uint64(st.Messages) {
			t.Fatalf("round %d: the ledger does not balance: %+v", round, st)
		}
		img := mem.CrashImage(rnd.Uint64())
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		mem = img
		if s, err = spooltest.Verify(options(mem, fmt.Sprint(round+1)), w.Ledger, true); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestKillAndGoOn is the same with a process that is killed: what was written
// is there, synced or not, and so every attempt without a result is counted,
// and nothing else.
func TestKillAndGoOn(t *testing.T) {
	for _, seed := range seeds(t, 10) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		w := spooltest.NewWorkload(seed)
		mem := vfs.NewMem()
		s, err := spooltest.Verify(options(mem, "same"), w.Ledger, false)
		if err != nil {
			t.Fatal(err)
		}
		for round := range 8 {
			for range rnd.IntN(40) {
				if err := w.Step(s); err != nil {
					t.Fatalf("seed %d, round %d: %v", seed, round, err)
				}
			}
			// All that a Step has written is in the image once a message after
			// it is durable.
			if err := w.Accept(s); err != nil {
				t.Fatal(err)
			}
			img := mem.CrashImage(rnd.Uint64())
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			mem = img
			if s, err = spooltest.Verify(options(mem, "same"), w.Ledger, false); err != nil {
				t.Fatalf("seed %d, round %d: %v", seed, round, err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSyncFails has writes or syncs fail: nothing is acknowledged from then
// on, Fatal is called once, and what was acknowledged before is there after
// the restart, on a disk that has lost what it failed to sync.
func TestSyncFails(t *testing.T) {
	for _, seed := range seeds(t, 30) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		op := []vfs.Op{vfs.OpWrite, vfs.OpSync}[rnd.IntN(2)]
		left := atomic.Int32{}
		left.Store(int32(20 + rnd.IntN(100)))
		fault := vfs.Outcome{Err: syscall.EIO, Forget: rnd.IntN(2) == 0, Short: rnd.IntN(3) * 1000}
		mem := vfs.NewMem()
		faulty := vfs.NewFault(mem, func(c vfs.Call) vfs.Outcome {
			// From then on every one fails: the first may be one that does no
			// harm, when a spare file is prepared.
			if c.Op == op && left.Add(-1) <= 0 {
				return fault
			}
			return vfs.Outcome{}
		})
		w := spooltest.NewWorkload(seed)
		o := options(faulty, "1")
		fatal := make(chan error, 10)
		o.Fatal = func(err error) { fatal <- err }
		s, _, err := spool.Open(o)
		if err != nil {
			continue // it failed while opening
		}
		if err = s.Each(nil); err != nil {
			t.Fatal(err)
		}
		for n := 0; err == nil; n++ {
			if err = w.Step(s); n == 10_000 {
				t.Fatalf("seed %d: no error after %d steps; %d operations before the fault", seed, n, left.Load())
			}
		}
		poisoned := errors.Is(err, spool.ErrPoisoned) // or the log has no file to go on with
		if poisoned {
			<-fatal
		}
		if left.Load() > 0 {
			t.Fatalf("seed %d: %v; %d operations before the fault", seed, err, left.Load())
		}
		var r *mail.Reply
		if _, err := s.Accept(context.Background(), w.Envelope(1), bytes.NewReader(make([]byte, 10_000))); !errors.As(err, &r) || r.Line() != "451 4.3.0 the message could not be stored, try again later" {
			t.Fatalf("seed %d: accepting after the fault: %v", seed, err)
		}
		img := mem.CrashImage(seed)
		if err := s.Close(); poisoned && (!errors.Is(err, spool.ErrPoisoned) || len(fatal) > 0) {
			t.Errorf("closing: %v; fatal was called %d times more", err, len(fatal))
		}
		again, err := spooltest.Verify(options(img, "2"), w.Ledger, true)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDiskFull fills the disk: mail is refused with 452, results are recorded
// all the same, and everything works again as results make room.
func TestDiskFull(t *testing.T) {
	mem := vfs.NewMem()
	mem.SetCapacity(3 << 20)
	w := spooltest.NewWorkload(1)
	s, err := spooltest.Verify(options(mem, "1"), w.Ledger, false)
	if err != nil {
		t.Fatal(err)
	}
	fill := func() (n int) {
		for {
			env := w.Envelope(1)
			w.Ledger.Asked(env, make([]byte, 9000), true)
			_, err := s.Accept(context.Background(), env, bytes.NewReader(make([]byte, 9000)))
			if err == nil {
				w.Ledger.Asked(env, make([]byte, 9000), false)
				w.Ledger.Acked(env.ID)
				n++
				continue
			}
			var r *mail.Reply
			if !errors.As(err, &r) || r.Code != 452 || r.Enhanced.String() != "4.3.1" {
				t.Fatalf("a full disk is answered %v", err)
			}
			return n
		}
	}
	first := fill()
	open := w.Ledger.Open()
	for _, id := range open {
		m, _ := s.Find(id)
		settle := func() error {
			return s.Settle(m, []spool.Result{{Recipient: 0, State: mail.StateDelivered, Attempts: 7}})
		}
		err := settle()
		if errors.Is(err, spool.ErrNoSpace) { // all that was kept for results is used up: they have made room
			err = errors.Join(s.Compact(), settle())
		}
		if err != nil {
			t.Fatalf("recording a result on a full disk: %v", err)
		}
		w.Ledger.Settling(id, map[int]spooltest.Standing{0: {State: mail.StateDelivered, Attempts: 7}})
	}
	if err := s.Compact(); err != nil {
		t.Fatal(err)
	}
	// The log looks for room no more than once a second.
	second := 0
	for deadline := time.Now().Add(10 * time.Second); second < first*3/4; second += fill() {
		if time.Now().After(deadline) {
			t.Fatalf("%d messages fit, and only %d after they were delivered", first, second)
		}
	}
	if first < 100 {
		t.Errorf("only %d messages fit", first)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	w.Ledger.Durable()
	if s, err = spooltest.Verify(options(mem, "1"), w.Ledger, false); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestAllAtOnce has many do everything at the same time; the race detector
// looks on. Afterwards the store holds what was acknowledged.
func TestAllAtOnce(t *testing.T) {
	mem := vfs.NewMem()
	s, _, err := spool.Open(options(mem, "1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Each(nil); err != nil {
		t.Fatal(err)
	}
	var kept sync.Map
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			w := spooltest.NewWorkload(uint64(g))
			rnd := rand.New(rand.NewPCG(uint64(g), 4))
			for i := range 60 {
				env := w.Envelope(1)
				body := bytes.Repeat([]byte{byte(i)}, rnd.IntN(40_000))
				m, err := s.Accept(context.Background(), env, bytes.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				if err := s.Attempt(m, []int{0}).Wait(); err != nil {
					t.Error(err)
				}
				got, err := spooltest.Read(s, m)
				if err != nil || !bytes.Equal(got, body) {
					t.Errorf("content: %v", err)
				}
				if _, err := s.Envelope(m); err != nil {
					t.Error(err)
				}
				st := mail.StateDelivered
				if i%10 == 0 {
					st = mail.StateDeferred
					kept.Store(env.ID, body)
				}
				if err := s.Settle(m, []spool.Result{{Recipient: 0, State: st, Attempts: 1, Next: time.Unix(1_900_000_000, 0)}}); err != nil {
					t.Error(err)
				}
				if i%20 == 19 {
					if err := s.Compact(); err != nil {
						t.Error(err)
					}
					s.Stats()
				}
			}
		})
	}
	wg.Wait()
	check := func() {
		n := 0
		kept.Range(func(id, body any) bool {
			n++
			m, ok := s.Find(id.(mail.ID))
			if !ok {
				t.Fatalf("message %s is lost", id)
			}
			if got, err := spooltest.Read(s, m); err != nil || !bytes.Equal(got, body.([]byte)) {
				t.Errorf("content of %s: %v", id, err)
			}
			if st, err := s.States(m); err != nil || st[0].State != mail.StateDeferred {
				t.Errorf("%+v %v", st, err)
			}
			return true
		})
		if st := s.Stats(); st.Messages != n {
			t.Errorf("%d messages, want %d", st.Messages, n)
		}
	}
	check()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, _, err = spool.Open(options(mem, "1")); err != nil {
		t.Fatal(err)
	}
	check()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestCloseWhileBusy closes under load: what was acknowledged is there, and
// the rest was refused with a reply.
func TestCloseWhileBusy(t *testing.T) {
	for range 10 {
		mem := vfs.NewMem()
		s, _, err := spool.Open(options(mem, "1"))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Each(nil); err != nil {
			t.Fatal(err)
		}
		var acked sync.Map
		var wg sync.WaitGroup
		started := make(chan struct{}, 100)
		for g := range 4 {
			wg.Go(func() {
				w := spooltest.NewWorkload(uint64(g))
				for {
					env := w.Envelope(1)
					m, err := s.Accept(context.Background(), env, bytes.NewReader(make([]byte, 20_000)))
					if err != nil {
						if r := (*mail.Reply)(nil); !errors.As(err, &r) || r.Code != 451 {
							t.Errorf("closing gives %v", err)
						}
						return
					}
					acked.Store(env.ID, m)
					_ = s.Settle(m, []spool.Result{{Recipient: 0, State: mail.StateDeferred, Attempts: 1}})
					select {
					case started <- struct{}{}:
					default:
					}
				}
			})
		}
		for range 20 {
			<-started
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		s, rec, err := spool.Open(options(mem, "1"))
		if err != nil {
			t.Fatal(err)
		}
		acked.Range(func(id, _ any) bool {
			if _, ok := s.Find(id.(mail.ID)); !ok {
				t.Errorf("message %s is lost; recovered %d", id, rec.Messages)
			}
			return true
		})
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
