package later_test

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clrelay/clrelay/delivery/queue/later"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool"
)

// told runs f in a bubble, with a spool that makes messages and a list of whom
// the Notices told of, by the minute.
func told(t *testing.T, alive func(*spool.Message) bool, f func(n *later.Notices, add func(at time.Duration) *spool.Message)) []int {
	t.Helper()
	var mu sync.Mutex
	var out []int
	synctest.Test(t, func(t *testing.T) {
		sp, _, err := spool.Open(spool.Options{FS: vfs.NewMem(), Dir: "/data", Node: "mx1", FileSize: 1 << 20, Accepted: func(*spool.Message, *mail.Envelope) {}, Fatal: func(err error) { t.Error(err) }})
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		n := &later.Notices{Alive: alive, Tell: func(*spool.Message) {
			mu.Lock()
			defer mu.Unlock()
			out = append(out, int(time.Since(begin).Round(time.Second)/time.Minute))
		}}
		f(n, func(at time.Duration) *spool.Message {
			env := &mail.Envelope{ID: mail.NewID(time.Now()), Recipients: []mail.Recipient{{Addr: mail.Address{Local: "a", Domain: "b"}}}, Arrived: time.Now(), By: mail.By{At: begin.Add(at)}}
			m, err := sp.Accept(context.Background(), env, bytes.NewReader(nil))
			if err != nil {
				t.Fatal(err)
			}
			n.Add(m, env, begin.Add(24*time.Hour))
			return m
		})
		n.Stop()
		if err := sp.Close(); err != nil {
			t.Fatal(err)
		}
	})
	return out
}

func TestNotices(t *testing.T) {
	var gone atomic.Pointer[spool.Message]
	alive := func(m *spool.Message) bool { return m != gone.Load() }
	got := told(t, alive, func(n *later.Notices, add func(time.Duration) *spool.Message) {
		add(10 * time.Minute)
		add(3 * time.Minute) // before one that is waited for
		gone.Store(add(4 * time.Minute))
		add(-time.Minute)
		add(25 * time.Hour) // it has ended by then
		time.Sleep(5 * time.Minute)
		n.Add(gone.Load(), &mail.Envelope{By: mail.By{At: time.Now().Add(time.Minute), Return: true}}, time.Now().Add(time.Hour))
		add(7 * time.Minute)
		time.Sleep(6 * time.Minute)
		add(20 * time.Minute)
	})
	if !slices.Equal(got, []int{3, 7, 10}) { // and nothing after Stop
		t.Errorf("told after %v minutes", got)
	}
}

// TestNoticesForget: what has ended is not kept until its time.
func TestNoticesForget(t *testing.T) {
	var looked atomic.Int64
	var live atomic.Pointer[spool.Message]
	alive := func(m *spool.Message) bool { looked.Add(1); return m == live.Load() }
	got := told(t, alive, func(_ *later.Notices, add func(time.Duration) *spool.Message) {
		for range 1024 {
			add(time.Hour)
		}
		if looked.Load() != 0 {
			t.Errorf("looked at %d without need", looked.Load())
		}
		live.Store(add(2 * time.Hour))
		if looked.Load() != 1024 {
			t.Errorf("looked at %d of 1024", looked.Load())
		}
		time.Sleep(3 * time.Hour)
	})
	if !slices.Equal(got, []int{120}) || looked.Load() != 1025 {
		t.Errorf("told after %v minutes, looked at %d", got, looked.Load())
	}
}
