package replica

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
)

func node(name string, session uint64) Peer {
	p := Peer{Node: name, Session: session, Generation: 1}
	p.Store[0] = name[0]
	return p
}

func pair(t *testing.T, o Options) (a, b *host) {
	ca := newAuthority(t)
	a = newHost(t, node("a", 1), hostOptions{Options: o, ca: ca})
	b = newHost(t, node("b", 2), hostOptions{Options: o, ca: ca})
	return a, b
}

// push sends numbered items from first on until stop says so, and returns the
// number behind the last. ErrDown ends it.
func push(h *host, to string, first uint64, n int, size func(i uint64) int) error {
	for seq := first; seq < first+uint64(n); seq++ {
		err := h.r.Send(to, numbered(seq, size(seq)))
		for errors.Is(err, ErrFull) {
			// The window opens with the peer's acknowledgements; there is nothing
			// to wait on but the next try.
			runtime.Gosched()
			err = h.r.Send(to, numbered(seq, size(seq)))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func fixed(n int) func(uint64) int { return func(uint64) int { return n } }

func TestBothDirections(t *testing.T) {
	a, b := pair(t, Options{})
	join(a, b)
	a.h.waitUp("b", 2)
	b.h.waitUp("a", 1)
	sizes := func(i uint64) int { return int(i*i*37) % 30000 }
	const n = 1000
	var wg sync.WaitGroup
	for _, d := range []struct {
		from *host
		to   string
	}{{a, "b"}, {b, "a"}} {
		wg.Go(func() {
			if err := push(d.from, d.to, 1, n, sizes); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	a.h.wait(func() bool { return a.h.total == n })
	b.h.wait(func() bool { return b.h.total == n })
	a.h.verify(t)
	b.h.verify(t)
	s := a.r.Stats()
	if len(s) != 1 || s[0].Node != "b" || !s[0].Up || s[0].Session != 2 || s[0].Streams != 1 || s[0].ItemsSent != n || s[0].ItemsRecv != n {
		t.Errorf("stats: %+v", s)
	}
}

func TestSendCopies(t *testing.T) {
	a, b := pair(t, Options{})
	join(a, b)
	a.h.waitUp("b", 2)
	for seq := uint64(1); seq <= 200; seq++ {
		it := numbered(seq, 5000)
		if err := a.r.Send("b", it); err != nil {
			t.Fatal(err)
		}
		for _, p := range it.Data {
			clear(p)
		}
	}
	b.h.wait(func() bool { return b.h.total == 200 })
	b.h.verify(t)
}

func TestLargestItem(t *testing.T) {
	a, b := pair(t, Options{})
	join(a, b)
	a.h.waitUp("b", 2)
	const most = MaxItem - itemHead - 3*partHead
	if err := a.r.Send("b", numbered(1, MaxFrame-100), numbered(2, most)); err != nil {
		t.Fatal(err)
	}
	if err := a.r.Send("b", numbered(3, most+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("an item beyond the bound: %v", err)
	}
	if err := a.r.Send("b", Item{Data: make([][]byte, MaxParts+1)}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("an item of too many parts: %v", err)
	}
	if err := a.r.Send("b", numbered(3, 0)); err != nil {
		t.Fatal(err)
	}
	b.h.wait(func() bool { return b.h.total == 3 })
	b.h.verify(t)
}

func TestSendToNobody(t *testing.T) {
	a, b := pair(t, Options{})
	if err := a.r.Send("b", Item{}); !errors.Is(err, ErrDown) {
		t.Errorf("before SetPeers: %v", err)
	}
	join(a, b)
	a.h.waitUp("b", 2)
	if err := a.r.Send("c", Item{}); !errors.Is(err, ErrDown) {
		t.Errorf("to a stranger: %v", err)
	}
	if err := a.r.Send("a", Item{}); !errors.Is(err, ErrDown) {
		t.Errorf("to itself: %v", err)
	}
	if err := a.r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := a.h.waitDown("b", 0); !errors.Is(err, ErrClosed) {
		t.Errorf("down after Close: %v", err)
	}
	if err := a.r.Send("b", Item{}); !errors.Is(err, ErrDown) {
		t.Errorf("after Close: %v", err)
	}
	if err := a.r.Close(); !errors.Is(err, ErrClosed) {
		t.Errorf("second Close: %v", err)
	}
	if err := b.h.waitDown("a", 0); err == nil {
		t.Error("the other end heard no reason")
	}
}

func TestStartOnce(t *testing.T) {
	a, _ := pair(t, Options{})
	if err := a.r.Start(node("a", 9)); err == nil {
		t.Error("a second Start")
	}
	if _, err := New(Options{}); err == nil {
		t.Error("no handler, and no complaint")
	}
}

// A window that is full refuses the whole call, keeps the stream, lets small
// calls through, and opens again.
func TestWindow(t *testing.T) {
	a, b := pair(t, Options{Window: 4 << 20, Stall: time.Hour})
	gate := make(chan struct{})
	b.h.gate = gate
	join(a, b)
	a.h.waitUp("b", 2)
	seq := uint64(1)
	var err error
	for ; err == nil; seq++ {
		err = a.r.Send("b", numbered(seq, 100<<10))
	}
	seq--
	if !errors.Is(err, ErrFull) || seq < 30 || seq > 41 {
		t.Fatalf("item %d: %v", seq, err)
	}
	if s := a.r.Stats()[0]; s.Full != 1 || s.Queued > 4<<20 || s.Queued < 4<<20-(200<<10) {
		t.Errorf("stats: %+v", s)
	}
	if err := a.r.Send("b", numbered(seq, 1000)); err != nil {
		t.Errorf("a small item in a full window: %v", err)
	}
	if err := a.r.Send("b", make([]Item, 4<<20/itemHead+1)...); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a call that never fits: %v", err)
	}
	close(gate)
	b.h.wait(func() bool { return b.h.total == int(seq) })
	if err := push(a, "b", seq+1, 10, fixed(100<<10)); err != nil {
		t.Fatal(err)
	}
	b.h.wait(func() bool { return b.h.total == int(seq)+10 })
	b.h.verify(t)
}

// A peer that is cut off without a word is noticed with and without traffic,
// by both ends.
func TestHalfOpen(t *testing.T) {
	for _, traffic := range []bool{false, true} {
		t.Run(fmt.Sprintf("traffic=%v", traffic), func(t *testing.T) {
			a, b := pair(t, Options{Stall: 400 * time.Millisecond})
			conns := make(chan *cutConn, 100)
			a.wrap(func(c net.Conn) net.Conn {
				cut := newCutConn(c, -1, -1)
				conns <- cut
				return cut
			})
			join(a, b)
			a.h.waitUp("b", 2)
			b.h.waitUp("a", 1)
			close((<-conns).frozen)
			if traffic {
				if err := a.r.Send("b", numbered(1, 1000)); err != nil {
					t.Fatal(err)
				}
			}
			if err := a.h.waitDown("b", 0); !errors.Is(err, ErrSilent) && !errors.Is(err, ErrStalled) {
				t.Errorf("down at a: %v", err)
			}
			if err := b.h.waitDown("a", 0); err == nil {
				t.Error("b heard no reason")
			}
			a.h.wait(func() bool { return a.h.up["b"].Session == 2 })
			b.h.wait(func() bool { return b.h.up["a"].Session == 1 })
			a.h.verify(t)
			b.h.verify(t)
		})
	}
}

// Connections cut at random bytes, in the handshake, in a record, in a frame:
// the promise holds on every stream, and a stream always comes back.
func TestCutAtRandomBytes(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	a, b := pair(t, Options{RetryMax: 16 * time.Millisecond})
	var mu sync.Mutex
	cuts := 0
	a.wrap(func(c net.Conn) net.Conn {
		mu.Lock()
		defer mu.Unlock()
		if cuts++; cuts > 40 {
			return c
		}
		limit := []int64{5000, 100_000, 400_000}[rng.IntN(3)]
		return newCutConn(c, 1+rng.Int64N(limit), 1+rng.Int64N(limit))
	})
	join(a, b)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, d := range []struct {
		from *host
		to   string
	}{{a, "b"}, {b, "a"}} {
		wg.Go(func() {
			for seq := uint64(1); ; {
				select {
				case <-stop:
					return
				default:
				}
				if d.from.r.Send(d.to, numbered(seq, int(seq*seq*31)%20000)) != nil {
					seq++ // a gap that no stream may show: it begins anew behind it
					d.from.r.Break(d.to, errors.New("gap"))
					runtime.Gosched()
					continue
				}
				seq++
			}
		})
	}
	a.h.wait(func() bool {
		mu.Lock()
		defer mu.Unlock()
		return cuts > 40 && a.h.up["b"].Session == 2
	})
	close(stop)
	wg.Wait()
	a.h.verify(t)
	b.h.verify(t)
}

func TestNewSessionReplacesTheOldStream(t *testing.T) {
	for _, dialler := range []string{"a", "z"} { // the restarted node dials, or is dialled
		t.Run(dialler, func(t *testing.T) {
			ca := newAuthority(t)
			m := newHost(t, node("m", 5), hostOptions{ca: ca})
			old := newHost(t, node(dialler, 7), hostOptions{ca: ca})
			join(m, old)
			m.h.waitUp(dialler, 7)
			// The old process still runs: only its number tells it from the new.
			now := newHost(t, node(dialler, 9), hostOptions{ca: ca})
			if dialler == "a" {
				now.r.SetPeers([]PeerAddr{m.peerAddr()})
			} else {
				now.r.SetPeers([]PeerAddr{m.peerAddr()})
				a := now.peerAddr()
				a.Session = 9
				m.r.SetPeers([]PeerAddr{a})
			}
			m.h.waitUp(dialler, 9)
			now.h.waitUp("m", 5)
			old.h.waitDown("m", 0)
			if err := m.h.waitDown(dialler, 0); !errors.Is(err, ErrReplaced) && !errors.Is(err, ErrRemoved) {
				t.Errorf("down: %v", err)
			}
			if err := now.r.Send("m", numbered(1, 100)); err != nil {
				t.Fatal(err)
			}
			m.h.wait(func() bool { return m.h.total == 1 })
			m.h.verify(t)
			if n := len(m.h.events); n != 3 {
				t.Errorf("%d events", n)
			}
		})
	}
}

// refused waits for a refusal at the dialling host and returns its text.
func refusedText(t *testing.T, h *host, to PeerAddr) string {
	t.Helper()
	_, err := h.r.peer(to.Node).try(t.Context(), h.self)
	if !errors.Is(err, ErrRefused) {
		t.Fatalf("not refused: %v", err)
	}
	return err.Error()
}

func TestRefusals(t *testing.T) {
	ca := newAuthority(t)
	b := newHost(t, node("b", 20), hostOptions{ca: ca})
	gen := node("a", 3)
	gen.Generation = 2
	tests := []struct {
		name  string
		self  Peer
		cert  string
		known []PeerAddr // what b knows
		want  PeerAddr   // what the dialler thinks of b
		say   string
	}{
		{"another generation", gen, "", []PeerAddr{{Node: "a"}}, PeerAddr{}, "generation"},
		{"a stranger", node("a", 3), "", nil, PeerAddr{}, "none of this node's peers"},
		{"certificate of another node", node("a", 3), "aa", []PeerAddr{{Node: "a"}, {Node: "aa"}}, PeerAddr{}, "certificate"},
		{"an old session", node("a", 3), "", []PeerAddr{{Node: "a", Session: 4}}, PeerAddr{}, "is over"},
		{"another store in the known session", node("a", 3), "", []PeerAddr{{Node: "a", Session: 3, Store: [16]byte{9}}}, PeerAddr{}, "store"},
		{"the peer is an older process", node("a", 3), "", []PeerAddr{{Node: "a"}}, PeerAddr{Session: 21}, "older"},
		{"the peer has another store", node("a", 3), "", []PeerAddr{{Node: "a"}}, PeerAddr{Session: 20, Store: [16]byte{7}}, "means store"},
		{"the wrong one dials", node("c", 3), "", []PeerAddr{{Node: "c"}}, PeerAddr{}, "other way"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b.r.SetPeers(tt.known)
			x := newHost(t, tt.self, hostOptions{ca: ca, cert: tt.cert})
			// Dial by hand: SetPeers would do it, too, and meet the same refusal.
			tt.want.Node, tt.want.Address = "b", b.addr
			x.r.peers["b"] = &peer{r: x.r, name: "b", addr: tt.want, kick: make(chan struct{}, 1), stop: func() {}}
			if text := refusedText(t, x, tt.want); !strings.Contains(text, tt.say) {
				t.Errorf("refused as %q", text)
			}
			if b.h.verify(t); len(b.h.events) != 0 {
				t.Errorf("events: %v", b.h.events)
			}
		})
	}
	if b.r.Strangers() != uint64(len(tests)) {
		t.Errorf("%d strangers", b.r.Strangers())
	}
}

// The address of one node answers with the certificate of another: nothing is
// said to it.
func TestDiallerChecksTheCertificate(t *testing.T) {
	ca := newAuthority(t)
	a := newHost(t, node("a", 1), hostOptions{ca: ca})
	b := newHost(t, node("b", 2), hostOptions{ca: ca, cert: "c"})
	a.r.peers["b"] = &peer{r: a.r, name: "b", addr: b.peerAddr(), kick: make(chan struct{}, 1), stop: func() {}}
	if _, err := a.r.peer("b").try(t.Context(), a.self); err == nil || !strings.Contains(err.Error(), "certificate of") {
		t.Errorf("%v", err)
	}
}

// Both sides dial at once, which the rule forbids: one stream comes of it.
func TestBothDial(t *testing.T) {
	a, b := pair(t, Options{})
	join(a, b)
	b.h.waitUp("a", 1)
	if _, err := b.r.peer("a").try(t.Context(), b.self); !errors.Is(err, ErrRefused) {
		t.Errorf("%v", err)
	}
	if err := b.r.Send("a", numbered(1, 10)); err != nil {
		t.Fatal(err)
	}
	a.h.wait(func() bool { return a.h.total == 1 })
	if len(a.h.events) != 1 || len(b.h.events) != 1 {
		t.Errorf("events %v %v", a.h.events, b.h.events)
	}
}

// A second stream of the same session takes the first one's place, and a late
// one with an older number does not.
func TestDuplicateStreams(t *testing.T) {
	a, b := pair(t, Options{})
	join(a, b)
	b.h.waitUp("a", 1)
	a.h.waitUp("b", 2)
	done := make(chan error, 1)
	p := a.r.peer("b")
	go func() {
		_, err := p.try(t.Context(), a.self)
		done <- err
	}()
	if err := a.h.waitDown("b", 0); !errors.Is(err, ErrReplaced) && err == nil {
		t.Errorf("down: %v", err)
	}
	b.h.waitDown("a", 0)
	a.h.waitUp("b", 2)
	b.h.waitUp("a", 1)
	a.r.attempts.Store(0)
	if _, err := p.try(t.Context(), a.self); !errors.Is(err, ErrRefused) {
		t.Errorf("a late attempt: %v", err)
	}
	if err := a.r.Close(); err != nil {
		t.Fatal(err)
	}
	<-done
	a.h.verify(t)
	b.h.verify(t)
}

func TestSetPeersIsALevel(t *testing.T) {
	a, b := pair(t, Options{})
	join(a, b)
	a.h.waitUp("b", 2)
	b.h.waitUp("a", 1)
	b.r.SetPeers(nil)
	if err := b.h.waitDown("a", 0); !errors.Is(err, ErrRemoved) {
		t.Errorf("down: %v", err)
	}
	a.h.waitDown("b", 0)
	b.r.SetPeers([]PeerAddr{a.peerAddr()})
	b.h.waitUp("a", 1)
	a.h.waitUp("b", 2)
	up := a.peerAddr()
	up.Session = 50 // this node hears that a has started anew
	b.r.SetPeers([]PeerAddr{up})
	if err := b.h.waitDown("a", 1); !errors.Is(err, ErrRemoved) {
		t.Errorf("down: %v", err)
	}
	a.r.SetPeers(nil)
	b.r.SetPeers(nil)
	a.h.waitDown("b", 1)
	for i := range 10 {
		b.r.SetPeers([]PeerAddr{{Node: fmt.Sprint("n", i)}})
	}
	if n := len(b.r.Stats()); n != 1 {
		t.Errorf("%d peers are remembered", n)
	}
	a.h.verify(t)
	b.h.verify(t)
}

// A wrong address costs nothing but tries; the right one is used at once.
func TestAddressChanges(t *testing.T) {
	a, b := pair(t, Options{RetryMax: time.Hour, DialTimeout: time.Minute})
	b.r.SetPeers([]PeerAddr{a.peerAddr()})
	a.r.SetPeers([]PeerAddr{{Node: "b", Address: "127.0.0.1:1"}})
	a.r.SetPeers([]PeerAddr{b.peerAddr()})
	a.h.waitUp("b", 2)
}

// Before Start a Replicator talks to nobody, and refuses those who call.
func TestNotStarted(t *testing.T) {
	ca := newAuthority(t)
	a := newHost(t, node("a", 1), hostOptions{ca: ca})
	b := newHost(t, Peer{}, hostOptions{ca: ca, cert: "b"})
	b.r.SetPeers([]PeerAddr{a.peerAddr()})
	a.r.peers["b"] = &peer{r: a.r, name: "b", addr: PeerAddr{Node: "b", Address: b.addr}, kick: make(chan struct{}, 1), stop: func() {}}
	if _, err := a.r.peer("b").try(t.Context(), a.self); err == nil || !strings.Contains(err.Error(), "not started") {
		t.Errorf("%v", err)
	}
	if err := b.r.Start(Peer{Node: "b"}); err == nil {
		t.Error("started without a session")
	}
	if err := b.r.Start(node("b", 2)); err != nil {
		t.Fatal(err)
	}
	a.r.SetPeers([]PeerAddr{{Node: "b", Address: b.addr}})
	delete(a.r.peers, "b")
	a.r.SetPeers([]PeerAddr{{Node: "b", Address: b.addr}})
	b.h.waitUp("a", 1)
	if err := b.r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.r.Start(node("b", 1)); !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
}

func TestReleaseTwice(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	new(Batch).Release()
}

// Callers with a good certificate and bad manners: they get an error in the
// end, hold nobody up, and no handler hears of them.
func TestBadManners(t *testing.T) {
	ca := newAuthority(t)
	b := newHost(t, node("b", 2), hostOptions{Options: Options{DialTimeout: 300 * time.Millisecond}, ca: ca})
	a := newHost(t, node("a", 1), hostOptions{ca: ca})
	x := newHost(t, node("aa", 1), hostOptions{ca: ca})
	b.r.SetPeers([]PeerAddr{a.peerAddr(), x.peerAddr()})
	open := func() grpc.ClientStream {
		conn, err := x.dial(t.Context(), "b", b.addr)
		if err != nil {
			t.Fatal(err)
		}
		s, hangUp, err := call(t.Context(), conn)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(hangUp)
		return s
	}
	var mute []grpc.ClientStream
	for range 3 * maxPending {
		mute = append(mute, open())
	}
	a.r.SetPeers([]PeerAddr{b.peerAddr()})
	b.h.waitUp("a", 1)
	for _, s := range mute {
		if err := s.RecvMsg(&wireFrame{pool: new(bufferPool)}); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("a caller that says nothing: %v", err)
		}
	}
	for name, words := range map[string][]byte{
		"nothing":       {},
		"garbage":       []byte("EHLO there, this is no frame of any kind"),
		"no greeting":   frameOf(t, header{kind: frameItems, from: 1, to: 2, num: 1}, numbered(1, 1)),
		"a void":        frameOf(t, header{kind: frameHello}),
		"beyond bounds": make([]byte, maxWire+1),
		"far beyond":    make([]byte, 8<<20),
	} {
		s := open()
		if err := s.SendMsg(&wireFrame{buf: &words, pool: new(bufferPool)}); err != nil && !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
		if err := s.RecvMsg(&wireFrame{pool: new(bufferPool)}); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b.h.wait(func() bool { return len(b.h.events) == 1 })
	b.h.verify(t)
}

// The way of an item makes no garbage of its own.
func TestNoGarbage(t *testing.T) {
	r, p := lone(t, node("a", 1), node("b", 2), newRecorder())
	l := p.newLink(node("a", 1), node("b", 2), 1)
	p.live.Store(l)
	it := numbered(1, 500)
	if n := testing.AllocsPerRun(1000, func() {
		if err := r.Send("b", it); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations a Send", n)
	}
	f := l.pop()
	var its []Item
	var arena [][]byte
	if n := testing.AllocsPerRun(10, func() {
		var err error
		if its, arena, err = items(its[:0], arena[:0], (*f.buf)[frameHead:], f.count); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations a frame taken apart", n)
	}
}
