package ask

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// pair is a server over pipes and a pool that asks it.
type pair struct {
	s     *Server
	p     *Pool
	door  chan net.Conn
	done  chan struct{}
	dials int
}

func (d *pair) Accept() (net.Conn, error) {
	select {
	case c := <-d.door:
		return c, nil
	case <-d.done:
		return nil, net.ErrClosed
	}
}

func (d *pair) Close() error   { close(d.done); return nil }
func (d *pair) Addr() net.Addr { return &net.TCPAddr{} }

func newPair(answer func(ctx context.Context, peer string, kind byte, body []byte) (byte, []byte)) *pair {
	d := &pair{door: make(chan net.Conn), done: make(chan struct{})}
	d.s = NewServer(Options{
		Listener: d, Answer: answer, Log: slog.New(slog.DiscardHandler),
		Peer: func(net.Conn) (string, error) { return "peer", nil },
	})
	d.p = NewPool(func(ctx context.Context, node, address string) (net.Conn, error) {
		d.dials++
		a, b := net.Pipe()
		select {
		case d.door <- b:
			return a, nil
		case <-d.done:
			return nil, errors.New("connection refused")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	go d.s.Serve()
	return d
}

func (d *pair) close() {
	d.s.Stop()
	d.p.Close()
}

func TestQuestionsAndAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newPair(func(_ context.Context, peer string, kind byte, body []byte) (byte, []byte) {
			return kind, append([]byte(peer), body...)
		})
		defer d.close()
		big := bytes.Repeat([]byte("x"), 500_000)
		for i, body := range [][]byte{nil, []byte("a"), big} {
			status, answer, err := d.p.Ask(t.Context(), To{"n", "n:1"}, byte(i), body)
			if err != nil || status != byte(i) || string(answer) != "peer"+string(body) {
				t.Errorf("%d: %d, %d octets, %v", i, status, len(answer), err)
			}
		}
		if d.dials != 1 {
			t.Errorf("%d connections for questions in a row", d.dials)
		}
		// After a pause an idle connection is looked at, after a long one left.
		<-time.After(10 * time.Second)
		if _, _, err := d.p.Ask(t.Context(), To{"n", "n:1"}, 0, nil); err != nil || d.dials != 1 {
			t.Errorf("after a pause: %v, %d connections", err, d.dials)
		}
		<-time.After(10 * time.Minute)
		if _, _, err := d.p.Ask(t.Context(), To{"n", "n:1"}, 0, nil); err != nil || d.dials != 2 {
			t.Errorf("after a long pause: %v, %d connections", err, d.dials)
		}
	})
}

func TestWhatIsKnownOfAQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newPair(func(ctx context.Context, _ string, _ byte, _ []byte) (byte, []byte) {
			<-ctx.Done()
			return Unknown, nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		// The server is told how long it may take, and answers in time.
		if status, _, err := d.p.Ask(ctx, To{"n", "n:1"}, 0, nil); err != nil || status != Unknown {
			t.Errorf("%d %v", status, err)
		}
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		begun := time.Now()
		_, _, err := d.p.Ask(ctx, To{"n", "n:1"}, 0, nil)
		if err == nil || errors.Is(err, ErrNotAsked) || time.Since(begun) != time.Second {
			t.Errorf("given up half-way: %v after %v", err, time.Since(begun))
		}
		if _, _, err := d.p.Ask(ctx, To{"n", "n:1"}, 0, nil); err == nil {
			t.Error("asked though nobody waits")
		}
		d.s.Stop()
		if _, _, err := d.p.Ask(t.Context(), To{"n", "n:1"}, 0, nil); !errors.Is(err, ErrNotAsked) {
			t.Errorf("nobody there: %v", err)
		}
		d.p.Close()
		if _, _, err := d.p.Ask(t.Context(), To{"n", "n:1"}, 0, nil); !errors.Is(err, ErrNotAsked) {
			t.Errorf("after the end: %v", err)
		}
	})
}

func TestConnectionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newPair(func(context.Context, string, byte, []byte) (byte, []byte) { return OK, nil })
		defer d.close()
		var conns []net.Conn
		for range maxConns {
			a, b := net.Pipe()
			d.door <- b
			conns = append(conns, a)
		}
		a, b := net.Pipe()
		d.door <- b
		if _, err := a.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("one too many: %v", err)
		}
		// A question that stops in its middle ends its connection.
		if _, err := conns[0].Write([]byte{0, 0}); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		if _, err := conns[0].Read(make([]byte, 1)); err != io.EOF || time.Since(begun) != frameTimeout {
			t.Errorf("a stalled question: %v after %v", err, time.Since(begun))
		}
	})
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte{})
	f.Add(binary.BigEndian.AppendUint32(nil, maxFrame))
	f.Add([]byte{0, 0, 0, 6, 1, 0, 0, 0, 9, 'x'})
	f.Add([]byte{255, 255, 255, 255, 1})
	f.Fuzz(func(t *testing.T, in []byte) {
		kind, life, body, err := readQuestion(bytes.NewReader(in))
		if err != nil {
			return
		}
		var out bytes.Buffer
		head := binary.BigEndian.AppendUint32([]byte{kind}, uint32(life/time.Millisecond))
		if err := writeFrame(&out, head, body); err != nil || !bytes.Equal(out.Bytes(), in[:out.Len()]) {
			t.Errorf("%x became %x: %v", in, out.Bytes(), err)
		}
		if cap(body) > 2*len(in)+4096 {
			t.Errorf("%d octets of memory for %d", cap(body), len(in))
		}
	})
}
