package gate

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/clrelay/clrelay/delivery/queue/sched/timer"
)

// in lets everybody in who may ask now.
func in(g *Gates) (who []uint32, asking []uint32) {
	for {
		w, ok := g.Next()
		if !ok {
			return who, asking
		}
		who = append(who, w.Who)
		if w.Gate != 0 {
			asking = append(asking, w.Gate)
		}
	}
}

func is(t *testing.T, got []uint32, want string) {
	t.Helper()
	if s := fmt.Sprint(got); s != want {
		t.Errorf("got %s, want %s", s, want)
	}
}

// TestOneAtATime: a gate that opens lets in one, and more as it lets pass; one
// that is found to be open for good is done with, whoever waits.
func TestOneAtATime(t *testing.T) {
	g := New()
	id := g.Refuse(&Denied{Key: "k", Ask: time.UnixMilli(100)}, 0)
	const many = 2000
	for i := range uint32(many) {
		g.Wait(id, Waiter{Who: i + 1}, 1, false)
	}
	if who, _ := in(g); who != nil || g.Wake() != 100 {
		t.Fatalf("%v may ask before its time, wake at %d", who, g.Wake())
	}
	g.Tick(100)
	who, asking := in(g)
	is(t, who, "[1]")
	if again, _ := in(g); again != nil {
		t.Errorf("%v may ask beside the first", again)
	}
	g.Passed(asking[0])
	seen := 1
	for rounds := 0; seen < many; rounds++ {
		who, asking := in(g)
		if len(who) == 0 || rounds > many {
			t.Fatalf("stuck after %d", seen)
		}
		if who[0] != uint32(seen+1) {
			t.Fatalf("%d came after %d", who[0], seen)
		}
		seen += len(who)
		for _, a := range asking {
			g.Passed(a)
		}
	}
	if gates, waiting := g.Len(); gates != 0 || waiting != 0 {
		t.Errorf("%d gates and %d who wait are left", gates, waiting)
	}
}

// TestRefusedAgain: who is refused keeps the first place, and nobody asks
// before the new time.
func TestRefusedAgain(t *testing.T) {
	g := New()
	id := g.Refuse(&Denied{Key: "k", Ask: time.UnixMilli(100)}, 0)
	for i := range uint32(3) {
		g.Wait(id, Waiter{Who: i + 1}, 1, false)
	}
	g.Tick(100)
	_, asking := in(g)
	if again := g.Refuse(&Denied{Key: "k", Ask: time.UnixMilli(200)}, 100); again != id {
		t.Fatal("it is another gate")
	}
	g.Wait(id, Waiter{Who: 1}, 1, true)
	g.Ended(asking[0])
	g.Tick(199)
	if who, _ := in(g); who != nil {
		t.Errorf("%v asked too early", who)
	}
	g.Tick(200)
	who, _ := in(g)
	is(t, who, "[1]")
}

// TestFreed: each thing that came back lets in one, and an old gate's thing
// nobody.
func TestFreed(t *testing.T) {
	g := New()
	id := g.Refuse(&Denied{Key: "k", Ask: time.UnixMilli(60_000), Slots: true}, 0)
	ref := g.Ref(id)
	for i := range uint32(3) {
		g.Wait(id, Waiter{Who: i + 1}, 1, false)
	}
	g.Freed(ref)
	who, asking := in(g)
	is(t, who, "[1]")
	g.Passed(asking[0])
	if who, _ := in(g); who != nil {
		t.Errorf("%v asked for what another has taken", who)
	}
	if g.Wake() != slotPatience {
		t.Errorf("it is asked again at %d", g.Wake())
	}
	g.Tick(slotPatience)
	who, asking = in(g)
	is(t, who, "[2]")
	g.Ended(asking[0])
	who, asking = in(g)
	is(t, who, "[3]")
	g.Ended(asking[0])
	if gates, _ := g.Len(); gates != 0 {
		t.Error("it is still there")
	}
	g.Freed(ref)
	other := g.Refuse(&Denied{Key: "other", Ask: time.UnixMilli(70_000), Slots: true}, slotPatience)
	g.Wait(other, Waiter{Who: 9}, 1, false)
	g.Freed(ref)
	if who, _ := in(g); who != nil {
		t.Errorf("another gate's thing let %v in", who)
	}
}

// TestRelax: after a change everybody may ask at once, one at each gate.
func TestRelax(t *testing.T) {
	g := New()
	for i := range uint32(5) {
		id := g.Refuse(&Denied{Key: fmt.Sprint(i), Ask: time.UnixMilli(int64(1000 * (i + 1)))}, 0)
		g.Wait(id, Waiter{Who: 10 * (i + 1)}, 0, false)
		g.Wait(id, Waiter{Who: 10*(i+1) + 1}, 0, false)
	}
	g.Relax(7)
	if g.Wake() != 7 {
		t.Errorf("wake at %d", g.Wake())
	}
	g.Tick(7)
	who, _ := in(g)
	slices.Sort(who)
	is(t, who, "[10 20 30 40 50]")
}

// TestTickIsBounded: many gates whose time comes together are opened in parts.
func TestTickIsBounded(t *testing.T) {
	g := New()
	const n = 2*tickMax + 1
	for i := range n {
		g.Wait(g.Refuse(&Denied{Key: fmt.Sprint(i), Until: time.UnixMilli(100)}, 0), Waiter{Who: uint32(i)}, 0, true)
	}
	g.Relax(50)
	let := 0
	for _, want := range []int{tickMax, 2 * tickMax, n} {
		if at := g.Wake(); at > 50 {
			t.Errorf("after %d wake at %d", let, at)
		}
		g.Tick(50)
		for {
			w, ok := g.Next()
			if !ok {
				break
			}
			let++
			g.Passed(w.Gate)
		}
		if let != want {
			t.Errorf("%d were let in, want %d", let, want)
		}
	}
	if gates, waiting := g.Len(); gates+waiting > 0 || g.Wake() != timer.Never {
		t.Errorf("%d gates and %d who wait are left", gates, waiting)
	}
}
