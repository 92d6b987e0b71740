package sched_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/internal/mail"
)

// TestLongLife: a relay that has delivered billions of messages without a
// restart, some weeks at a thousand a second, still slows down, and ends its jobs.
func TestLongLife(t *testing.T) {
	for _, before := range []uint64{0, 1<<31 - 2, 1<<31 + 5, 3 << 30, 1<<32 - 5, 1<<32 - 1, 1<<33 - 3} {
		t.Run(fmt.Sprint(before), func(t *testing.T) {
			s := sched.New[int](sched.Config{Running: 100, LaneStart: 8}, rand.New(rand.NewPCG(1, 2)))
			now := time.Unix(1_800_000_000, 0)
			s.Skip(before)
			for i := range 100 {
				s.Step(now, &sched.Event[int]{Kind: sched.Add, Ref: i, Arrived: now, Recipients: []sched.Recipient{{Lane: "busy"}}})
			}
			acts := s.Step(now, &sched.Event[int]{Kind: sched.Run})
			var jobs []sched.JobID
			for _, a := range acts {
				jobs = append(jobs, a.Job)
			}
			if len(jobs) != 8 {
				t.Fatalf("%d jobs at the start", len(jobs))
			}
			for _, id := range jobs { // all of them are of one burst: it is halved once
				s.Step(now, &sched.Event[int]{Kind: sched.Finished, Job: id, Reach: sched.Overloaded, Why: mail.NewReply(421, "4.3.2", "busy"),
					Results: []sched.Result{{State: mail.StateDeferred, Next: now.Add(time.Hour)}}})
			}
			if l, _ := s.Lane("busy"); l.Limit != 4 || l.Running != 4 {
				t.Errorf("%+v: after a burst of 421 four deliveries at a time are to run", l)
			}
			if err := s.Check(); err != nil {
				t.Error(err)
			}
		})
	}
}
