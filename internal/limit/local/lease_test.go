package local

import (
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/limit"
)

// A lease that is over is over, even if nobody was there to say so.
func TestALeaseEndsByItself(t *testing.T) {
	c := &clock{}
	full := perSite(30, 30)
	full.Name, full.OnPartition, full.Per = "full", limit.Full, []limit.Field{limit.RecipientDomain}
	l := c.limiter(t, perSite(30, 30), full, limit.Definition{Name: "open", Per: []limit.Field{limit.Source}, Connections: 30})
	l.Apply(limit.Update{Full: true, Seats: 3, Leased: true, Ends: 2 * time.Second})
	c.now = 2*time.Second - 1
	s := &limit.Subject{Site: "a"}
	if n, _ := send(l, s, 5); n != 5 {
		t.Fatalf("%d of 5 went while the lease lasted", n)
	}
	c.now++
	if n, _ := send(l, s, 5); n != 0 {
		t.Errorf("%d went after the lease", n)
	}
	if _, d := l.Open(limit.Deliver, &limit.Subject{Source: "x"}, func(bool) {}); d == nil || d.Wait > time.Second {
		t.Errorf("a connection after the lease: %+v", d)
	}
	if n, _ := send(l, &limit.Subject{Domain: "a"}, 5); n != 5 {
		t.Errorf("%d of 5 went under a limit that a partition does not change", n)
	}
	l.Apply(limit.Update{Seats: 3}) // the floor is a tenth of a third
	c.now += 2 * time.Second
	if n, _ := send(l, s, 5); n != 1 {
		t.Errorf("%d went with the floor, want 1", n)
	}
	l.Apply(limit.Update{Seats: 3, Leased: true, Ends: c.now + 5*time.Second})
	c.now += time.Second
	if n, _ := send(l, s, 20); n < 9 || n > 10 {
		t.Errorf("%d went in a second of the next lease, want 10", n)
	}
}
