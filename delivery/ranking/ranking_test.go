package ranking_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/clrelay/clrelay/delivery/ranking"
)

// world is some hosts, a clock, and mail that goes to the host that is ranked
// first.
type world struct {
	*testing.T
	*ranking.Memory
	now   time.Time
	rand  *rand.Rand
	hosts []netip.AddrPort
	takes map[netip.AddrPort]time.Duration // until the greeting
	turns map[netip.AddrPort]bool          // mail away
}

func newWorld(t *testing.T, hosts int) *world {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	w := &world{T: t, now: time.Unix(1e9, 0), rand: rand.New(rand.NewPCG(seed, 1)),
		takes: map[netip.AddrPort]time.Duration{}, turns: map[netip.AddrPort]bool{}}
	w.Memory = ranking.New(ranking.Options{Size: 100, Keep: 5 * time.Minute, Probe: 0.08,
		Now: func() time.Time { return w.now }, Rand: w.rand.Float64})
	for i := range hosts {
		a := netip.MustParseAddrPort(fmt.Sprintf("192.0.2.%d:25", i+1))
		w.hosts = append(w.hosts, a)
		w.takes[a] = 10 * time.Millisecond
	}
	return w
}

func itself(a *netip.AddrPort) netip.AddrPort { return *a }

// send gives n messages, ten a second, and says how many each host got first.
func (w *world) send(n int) map[netip.AddrPort]int {
	first := map[netip.AddrPort]int{}
	for range n {
		w.now = w.now.Add(100 * time.Millisecond)
		list := slices.Clone(w.hosts)
		w.rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		ranking.Order(w.Memory, list, itself)
		sorted := slices.Clone(list)
		slices.SortFunc(sorted, netip.AddrPort.Compare)
		if !slices.Equal(sorted, w.hosts) {
			w.Fatalf("%v was made of %v", list, w.hosts)
		}
		first[list[0]]++
		for _, a := range list { // to the next one, as long as they turn it away
			w.Greeted(a, w.takes[a])
			if !w.turns[a] {
				w.Took(a)
				break
			}
			w.Refused(a)
		}
	}
	return first
}

func (w *world) share(got map[netip.AddrPort]int, host int, least, most float64) {
	w.Helper()
	n := 0
	for _, c := range got {
		n += c
	}
	if s := float64(got[w.hosts[host]]) / float64(n); s < least || s > most {
		w.Errorf("host %d got %.3f of the mail, want %.2f to %.2f: %v", host, s, least, most, got)
	}
}

func TestAlike(t *testing.T) {
	w := newWorld(t, 3)
	w.takes[w.hosts[1]] = 25 * time.Millisecond // what a network does by itself
	got := w.send(6000)
	for i := range w.hosts {
		w.share(got, i, 0.30, 0.37)
	}
}

func TestSlowAndWellAgain(t *testing.T) {
	w := newWorld(t, 2)
	w.takes[w.hosts[1]] = 800 * time.Millisecond
	got := w.send(3000)
	w.share(got, 0, 0.88, 0.97)
	w.share(got, 1, 0.03, 0.12)

	w.takes[w.hosts[1]] = 10 * time.Millisecond
	w.send(400) // some 30 of them are probes
	w.share(w.send(2000), 1, 0.44, 0.56)

	w.takes[w.hosts[0]] = 800 * time.Millisecond // now the other one
	w.send(200)
	w.share(w.send(2000), 1, 0.88, 0.97)
}

func TestRefusing(t *testing.T) {
	w := newWorld(t, 2)
	w.takes[w.hosts[0]] = time.Millisecond
	w.turns[w.hosts[0]] = true // fast, and full
	w.send(20)
	w.share(w.send(2000), 0, 0.03, 0.13)
	w.turns[w.hosts[0]] = false
	w.send(400)
	w.share(w.send(2000), 0, 0.44, 0.56)
}

// Of three that are worse none is forgotten by the probes.
func TestNobodyStarves(t *testing.T) {
	w := newWorld(t, 4)
	for i, a := range w.hosts[1:] {
		w.takes[a] = time.Duration(i+1) * time.Second
	}
	got := w.send(5000)
	w.share(got, 0, 0.85, 0.97)
	for i := range w.hosts[1:] {
		w.share(got, i+1, 0.01, 0.05)
	}
	for _, a := range w.hosts { // and where all turn mail away, all are tried
		w.turns[a], w.takes[a] = true, 10*time.Millisecond
	}
	w.send(500)
	got = w.send(2000)
	for i := range w.hosts {
		w.share(got, i, 0.10, 0.45)
	}
}

func TestForgets(t *testing.T) {
	w := newWorld(t, 2)
	w.takes[w.hosts[1]] = time.Second
	w.send(100)
	if _, ok := w.Look(w.hosts[1]); !ok {
		t.Fatal("nothing is known after 100 messages")
	}
	w.now = w.now.Add(6 * time.Minute)
	if r, ok := w.Look(w.hosts[1]); ok {
		t.Errorf("after 6 minutes it still knows %v", r)
	}
	list := slices.Clone(w.hosts)
	slices.Reverse(list)
	want := slices.Clone(list)
	if ranking.Order(w.Memory, list, itself); !slices.Equal(list, want) {
		t.Errorf("nothing is known, and %v became %v", want, list)
	}
}

func TestBounded(t *testing.T) {
	w := newWorld(t, 0)
	known := 0
	for i := range 10000 {
		a := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 25)
		w.Refused(a)
		if _, ok := w.Look(a); !ok {
			t.Fatalf("%v is not known although it was the last", a)
		}
	}
	for i := range 10000 {
		if _, ok := w.Look(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 25)); ok {
			known++
		}
	}
	if known > 100 {
		t.Errorf("%d are remembered, 100 are allowed", known)
	}
}
