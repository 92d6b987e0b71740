package replica

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pipe is a stream in memory: one end of it. Frames given to it are seen by the
// other end, or by the test.
type pipe struct {
	out, in chan []byte
	end     chan struct{}
	once    *sync.Once
}

func newPipe() (x, y *pipe) {
	a, b := make(chan []byte, 100), make(chan []byte, 100)
	end, once := make(chan struct{}), new(sync.Once)
	return &pipe{a, b, end, once}, &pipe{b, a, end, once}
}

func (p *pipe) hangUp() { p.once.Do(func() { close(p.end) }) }

func (p *pipe) SendMsg(m any) error {
	f := m.(*wireFrame)
	select {
	case p.out <- *f.buf:
		f.buf = nil
		return nil
	case <-p.end:
		return io.EOF
	}
}

func (p *pipe) RecvMsg(m any) error {
	select {
	case b := <-p.in:
		m.(*wireFrame).buf = &b
		return nil
	case <-p.end:
		return io.ErrUnexpectedEOF
	}
}

// lone returns a Replicator that nobody dials, and a peer of it.
func lone(t *testing.T, self, other Peer, h Handler) (*Replicator, *peer) {
	t.Helper()
	r, err := New(Options{Dial: (&host{}).dial, Identify: noIdentity, Handler: h})
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{r: r, name: other.Node, stop: func() {}, kick: make(chan struct{}, 1)}
	r.self = self
	r.peers[other.Node] = p
	return r, p
}

// start runs a stream of p with other over s.
func start(t *testing.T, p *peer, self, other Peer, s *pipe) *link {
	t.Helper()
	l := p.newLink(self, other, p.attempt+1)
	if err := p.admit(l); err != nil {
		t.Fatal(err)
	}
	p.r.wg.Go(func() { _ = p.run(l, s, s.hangUp) }) // the handler hears the reason
	return l
}

func kindOf(b []byte) uint8 { return b[4] }

func num(b []byte) uint64 { return binary.LittleEndian.Uint64(b[25:]) }

// An idle stream lives on for hours at a few frames a second.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := newPipe()
		ha, hb := newRecorder(), newRecorder()
		ra, pa := lone(t, node("a", 1), node("b", 2), ha)
		rb, pb := lone(t, node("b", 2), node("a", 1), hb)
		la := start(t, pa, node("a", 1), node("b", 2), x)
		start(t, pb, node("b", 2), node("a", 1), y)
		time.Sleep(3 * time.Hour) // a bubble's time: nothing waits for it
		if n := la.spoken.Load(); n < 3*3600*2 || n > 3*3600*9 {
			t.Errorf("%d signs of life in three hours", n)
		}
		if len(ha.events) != 1 || len(hb.events) != 1 {
			t.Errorf("events %v, %v", ha.events, hb.events)
		}
		_ = ra.Close()
		_ = rb.Close()
	})
}

// The other end falls silent, and is given up after a second, not sooner and
// not much later. With something in flight it need not be silent for that.
func TestSilenceAndStall(t *testing.T) {
	for _, tt := range []struct {
		name  string
		send  bool
		pings bool
		want  error
	}{
		{"silent and idle", false, false, ErrSilent},
		{"silent with a frame in flight", true, false, ErrSilent},
		{"alive but taking nothing", true, true, ErrStalled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x, y := newPipe()
				h := newRecorder()
				r, p := lone(t, node("a", 1), node("b", 2), h)
				l := start(t, p, node("a", 1), node("b", 2), x)
				synctest.Wait()
				begin := time.Now()
				var pings sync.WaitGroup
				defer pings.Wait()
				if tt.send {
					if err := r.Send("b", numbered(1, 10)); err != nil {
						t.Fatal(err)
					}
				}
				if tt.pings {
					pings.Go(func() {
						for range 20 {
							ping := make([]byte, frameHead)
							seal(ping, header{kind: frameAck, from: 2, to: 1})
							y.out <- ping
							time.Sleep(100 * time.Millisecond)
						}
					})
				}
				<-l.done
				if d := time.Since(begin); d < time.Second || d > 1300*time.Millisecond {
					t.Errorf("given up after %v", d)
				}
				if err := h.waitDown("b", 0); !errors.Is(err, tt.want) && !(tt.send && !tt.pings && errors.Is(err, ErrStalled)) {
					t.Errorf("down: %v", err)
				}
				_ = r.Close()
			})
		})
	}
}

// No more than FramesInFlight frames are on the way, and what is sent meanwhile
// goes into few.
func TestFramesInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := newPipe()
		r, p := lone(t, node("a", 1), node("b", 2), newRecorder())
		start(t, p, node("a", 1), node("b", 2), x)
		synctest.Wait()
		sent := uint64(0)
		for range 500 {
			sent++
			if err := r.Send("b", numbered(sent, 10000)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		var got, frames uint64
		for got < sent {
			for i := 0; len(y.in) > 0; i++ {
				b := <-y.in
				if kindOf(b) != frameItems {
					continue
				}
				frames++
				if frames != num(b) || i >= FramesInFlight {
					t.Fatalf("frame %d has number %d and is the %d-th on the way", frames, num(b), i)
				}
				if len(b) > frameHead+MaxFrame+10100 {
					t.Errorf("a frame of %d bytes", len(b))
				}
				got += uint64(binary.LittleEndian.Uint32(b[5:]))
			}
			ack := make([]byte, frameHead)
			seal(ack, header{kind: frameAck, from: 2, to: 1, acks: frames})
			y.out <- ack
			synctest.Wait()
		}
		if frames > 12 {
			t.Errorf("%d frames", frames)
		}
		if s := r.Stats()[0]; s.Queued != 0 {
			t.Errorf("%d bytes queued in the end", s.Queued)
		}
		_ = r.Close()
	})
}

// Whatever a peer sends that no honest one does ends the stream, is counted,
// and reaches no handler.
func TestHostilePeer(t *testing.T) {
	ack := func(h header) []byte {
		b := make([]byte, frameHead)
		seal(b, h)
		return b
	}
	bad := frameOf(t, header{kind: frameItems, from: 2, to: 1, num: 1}, numbered(1, 100))
	bad[60] ^= 1
	few := make([]byte, frameHead+3)
	seal(few, header{kind: frameItems, count: 1, from: 2, to: 1, num: 1})
	for name, b := range map[string][]byte{
		"nothing":               {},
		"garbage":               []byte("GET / HTTP/1.1\r\n\r\n it was never going to be a frame"),
		"a flipped bit":         bad,
		"of another sender":     ack(header{kind: frameAck, from: 3, to: 1}),
		"for another session":   ack(header{kind: frameAck, from: 2, to: 9}),
		"a gap":                 frameOf(t, header{kind: frameItems, from: 2, to: 1, num: 2}, numbered(1, 1)),
		"a repetition":          frameOf(t, header{kind: frameItems, from: 2, to: 1, num: 0}, numbered(1, 1)),
		"frames lost unseen":    ack(header{kind: frameAck, from: 2, to: 1, num: 1}),
		"acknowledges too much": ack(header{kind: frameAck, from: 2, to: 1, acks: 1}),
		"an empty items frame":  ack(header{kind: frameItems, from: 2, to: 1, num: 1}),
		"items cut off":         few,
		"an ack with items":     frameOf(t, header{kind: frameAck, from: 2, to: 1}, numbered(1, 1)),
		"a second greeting":     ack(header{kind: frameHello, from: 2, to: 1}),
		"an unknown kind":       ack(header{kind: 77, from: 2, to: 1}),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x, y := newPipe()
				h := newRecorder()
				r, p := lone(t, node("a", 1), node("b", 2), h)
				l := start(t, p, node("a", 1), node("b", 2), x)
				y.out <- b
				<-l.done
				if err := h.waitDown("b", 0); !errors.Is(err, ErrBadFrame) {
					t.Errorf("down: %v", err)
				}
				if s := r.Stats()[0]; s.Bad != 1 || s.Up || h.total != 0 {
					t.Errorf("stats %+v, %d items", s, h.total)
				}
				if err := r.Send("b", Item{}); !errors.Is(err, ErrDown) {
					t.Errorf("send: %v", err)
				}
				h.verify(t)
				_ = r.Close()
			})
		})
	}
}

// A flood of sends from many goroutines stays within the window and in order.
func TestFloodStaysInTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := newPipe()
		r, p := lone(t, node("a", 1), node("b", 2), newRecorder())
		start(t, p, node("a", 1), node("b", 2), x)
		synctest.Wait()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 1000 {
					_ = r.Send("b", Item{Data: [][]byte{make([]byte, 50000)}}) // most are refused: that is the point
				}
			})
		}
		wg.Wait()
		s := r.Stats()[0]
		if s.Queued > 16<<20 || s.Queued < 15<<20 || s.Full != 8000-s.ItemsSent {
			t.Errorf("stats %+v", s)
		}
		r.Break("b", errors.New("enough"))
		_ = y
		_ = r.Close()
	})
}

// A receiver that takes nothing loses its own stream after a second, and costs
// the others nothing.
func TestSlowReceiverStallsItsOwnLinkAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, hb, hc := newRecorder(), newRecorder(), newRecorder()
		gate := make(chan struct{})
		hb.gate = gate
		r, toB := lone(t, node("a", 1), node("b", 2), h)
		toC := &peer{r: r, name: "c", stop: func() {}, kick: make(chan struct{}, 1)}
		r.peers["c"] = toC
		rb, fromB := lone(t, node("b", 2), node("a", 1), hb)
		rc, fromC := lone(t, node("c", 3), node("a", 1), hc)
		b1, b2 := newPipe()
		c1, c2 := newPipe()
		l := start(t, toB, node("a", 1), node("b", 2), b1)
		start(t, toC, node("a", 1), node("c", 3), c1)
		start(t, fromB, node("b", 2), node("a", 1), b2)
		start(t, fromC, node("c", 3), node("a", 1), c2)
		synctest.Wait()
		seq := uint64(1)
		for ; ; seq++ {
			_ = r.Send("b", numbered(seq, 10000)) // works until the link is given up
			if err := r.Send("c", numbered(seq, 10000)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Millisecond)
			hc.mu.Lock()
			if hc.total != int(seq) {
				t.Errorf("c has %d items of %d", hc.total, seq)
			}
			hc.mu.Unlock()
			select {
			case <-l.done:
			default:
				continue
			}
			break
		}
		if seq < 150 || seq > 300 {
			t.Errorf("given up after %d items at 5 ms", seq)
		}
		if err := h.waitDown("b", 0); !errors.Is(err, ErrStalled) {
			t.Errorf("down: %v", err)
		}
		close(gate)
		if err := hb.waitDown("a", 0); err == nil {
			t.Error("b heard no reason")
		}
		for _, x := range []*Replicator{r, rb, rc} {
			_ = x.Close()
		}
		h.verify(t)
		hb.verify(t)
		hc.verify(t)
	})
}

// A node that cannot be reached is tried at least once a second, for ever, and
// at once when its address changes; Close ends that.
func TestDialling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type try struct {
			at      time.Time
			address string
		}
		var mu sync.Mutex
		var tries []try
		r, err := New(Options{
			Dial: func(_ context.Context, _, address string) (net.Conn, error) {
				mu.Lock()
				defer mu.Unlock()
				tries = append(tries, try{time.Now(), address})
				return nil, errors.New("nobody there")
			},
			Identify: noIdentity, Handler: newRecorder(),
		})
		if err != nil {
			t.Fatal(err)
		}
		r.SetPeers([]PeerAddr{{Node: "b", Address: "old"}, {Node: "a"}, {Node: "0"}})
		if err := r.Start(node("a", 1)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		mu.Lock()
		if len(tries) < 600 || len(tries) > 1300 {
			t.Errorf("%d tries in ten minutes", len(tries))
		}
		for i := range tries[1:] {
			if d := tries[i+1].at.Sub(tries[i].at); d > time.Second {
				t.Errorf("try %d after %v", i+1, d)
			}
		}
		mu.Unlock()
		r.SetPeers([]PeerAddr{{Node: "b", Address: "new"}})
		synctest.Wait()
		mu.Lock()
		if last := tries[len(tries)-1]; last.address != "new" || time.Since(last.at) > 0 {
			t.Errorf("last try %v", last)
		}
		mu.Unlock()
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// keeper is a recorder that leaves its batches to the test.
type keeper struct {
	*recorder
	kept chan *Batch
}

func (k *keeper) Receive(_ Peer, b *Batch) { k.kept <- b }

// Batches that the handler keeps stop the link, not the process.
func TestHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &keeper{recorder: newRecorder(), kept: make(chan *Batch, 100)}
		ra, pa := lone(t, node("a", 1), node("b", 2), newRecorder())
		rb, pb := lone(t, node("b", 2), node("a", 1), k)
		rb.opts.Hold = 1 << 20
		x, y := newPipe()
		start(t, pa, node("a", 1), node("b", 2), x)
		start(t, pb, node("b", 2), node("a", 1), y)
		synctest.Wait()
		for seq := uint64(1); seq <= 20; seq++ {
			if err := ra.Send("b", numbered(seq, 300<<10)); err != nil {
				t.Fatal(err)
			}
		}
		seq := 0
		for seq < 20 {
			synctest.Wait()
			if s := rb.Stats()[0]; s.Held > 2*(MaxFrame+(301<<10)) || s.Held == 0 {
				t.Errorf("%d bytes held at item %d", s.Held, seq)
			}
			b := <-k.kept
			for i := range b.Items {
				k.check(node("a", 1), &b.Items[i])
			}
			seq += len(b.Items)
			b.Release()
		}
		if s := rb.Stats()[0]; s.Held != 0 {
			t.Errorf("%d bytes held in the end", s.Held)
		}
		_ = ra.Close()
		_ = rb.Close()
		k.verify(t)
	})
}

// deaf is a stream that goes on delivering when it should have ended, as one
// may that has frames in its buffers.
type deaf struct{ *pipe }

func (d deaf) RecvMsg(m any) error {
	b, ok := <-d.in
	if !ok {
		return io.EOF
	}
	m.(*wireFrame).buf = &b
	return nil
}

// Nothing is received on a stream behind its Down, nor once it must end.
func TestNothingBehindDown(t *testing.T) {
	for _, first := range []bool{true, false} { // the frame is there before the end, or comes after it
		synctest.Test(t, func(t *testing.T) {
			x, y := newPipe()
			h := newRecorder()
			_, p := lone(t, node("a", 1), node("b", 2), h)
			l := p.newLink(node("a", 1), node("b", 2), 1)
			if err := p.admit(l); err != nil {
				t.Fatal(err)
			}
			h.gate = make(chan struct{})
			p.r.wg.Go(func() { _ = p.run(l, deaf{x}, func() {}) }) // the handler hears the reason
			f := func(n uint64) {
				y.out <- frameOf(t, header{kind: frameItems, from: 2, to: 1, num: n}, numbered(n, 100))
			}
			if first {
				f(1) // is in Receive while the stream ends, and arrives
				synctest.Wait()
				f(2)
			}
			synctest.Wait()
			l.end(ErrReplaced)
			close(h.gate) // no waiting before: the bubble does not see through a mutex
			<-l.done
			if !first {
				f(1)
			}
			synctest.Wait()
			if want := map[bool]int{true: 1}[first]; h.total != want {
				t.Errorf("first %v: %d items arrived", first, h.total)
			}
			h.verify(t)
			close(y.out)
			_ = p.r.Close()
		})
	}
}
