package local

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/limit"
)

// Everybody does everything at once; at the end nothing is left over.
func TestAtTheSameTime(t *testing.T) {
	var now atomic.Int64
	l := New(Options{
		Now:  func() time.Duration { return time.Duration(now.Add(int64(time.Microsecond))) },
		Wall: func() time.Time { return epoch }, Keys: 60,
	})
	conns := limit.Definition{Name: "conns", Per: []limit.Field{limit.Site}, Connections: 5}
	if err := l.Configure([]limit.Definition{perSite(100_000, 100), conns}); err != nil {
		t.Fatal(err)
	}
	l.Apply(alone())
	var senders, changers sync.WaitGroup
	for g := range 4 {
		senders.Go(func() {
			for i := range 1500 {
				s := &limit.Subject{Site: fmt.Sprint("site", (i*7+g)%100)}
				slot, _ := l.Open(limit.Deliver, s, func(bool) {})
				tk, d := l.Reserve(limit.Deliver, s, one)
				if d == nil && i%3 > 0 {
					tk.Use()
				}
				tk.Cancel()
				slot.Close()
			}
		})
	}
	stop := make(chan struct{})
	changers.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			l.Apply(limit.Update{Seats: 1 + i%3, Leased: i%5 > 0, Shares: share("sites#rate,site=site1", uint32(i%100), 100)})
			conns.Connections = 1 + i%5
			if err := l.Override([]limit.Definition{conns}); err != nil {
				t.Error(err)
			}
			if err := l.Override(nil); err != nil {
				t.Error(err)
			}
			l.Demands(nil, 10)
			l.Explain(limit.Deliver, &limit.Subject{Site: "site1"})
			l.Usage(func(*Usage) {})
		}
	})
	senders.Wait()
	close(stop)
	changers.Wait()
	l.each(func(st *state) {
		if st.rate.Reserved != 0 || st.conns != nil && len(st.conns.held) != 0 {
			t.Errorf("%s %s: %d reserved, %v held", st.rule.Name, st.words(), st.rate.Reserved, st.conns)
		}
	})
	if len(l.opened.all) != 0 {
		t.Errorf("%d connections are still known", len(l.opened.all))
	}
}
