package bucket_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/limit/local/bucket"
)

// Whoever waits gets tokens within the time that all before him need, also when
// others give up, the part changes and some want more than there can ever be; and
// when the line is empty nobody is kept by it.
func TestLine(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var b bucket.Bucket
		now := time.Minute
		give := func() { b.Give(0.1+0.9*rng.Float64(), 10, 100/float64(time.Second), 5*time.Second, now) }
		give()
		type waiter struct {
			place  bucket.Place
			n      int64
			joined time.Duration
		}
		var line []*waiter
		for range 5000 {
			now += time.Duration(rng.Int64N(int64(20 * time.Millisecond)))
			b.Settle(now)
			switch rng.IntN(40) {
			case 0:
				give()
			case 1:
				if len(line) > 0 { // gives up
					i := rng.IntN(len(line))
					b.Leave(&line[i].place)
					line = append(line[:i], line[i+1:]...)
				}
			}
			if len(line) < 30 && rng.IntN(3) == 0 {
				w := &waiter{n: 1 + rng.Int64N(12), joined: now}
				if b.Next(&w.place, w.n) > 0 {
					b.Join(&w.place, w.n)
					line = append(line, w)
				} else {
					b.Take(w.n, now)
				}
			}
			for i := 0; i < len(line); i++ {
				w := line[i]
				if b.Next(&w.place, w.n) > 0 {
					if i == 0 && now-w.joined > time.Minute {
						t.Fatalf("seed %d: who is first has waited for %v", seed, now-w.joined)
					}
					continue
				}
				b.Take(w.n, now)
				b.Leave(&w.place)
				line = append(line[:i], line[i+1:]...)
				i--
			}
		}
		for _, w := range line {
			b.Leave(&w.place)
		}
		b.Settle(now + time.Hour)
		if wait := b.Next(&bucket.Place{}, 1); wait > 0 {
			t.Errorf("seed %d: nobody is in the line, and the next waits for %v", seed, wait)
		}
	}
}
