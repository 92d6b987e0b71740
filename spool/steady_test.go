package spool_test

import (
	"bytes"
	"context"
	"io"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool"
)

// TestDiskStaysSmall sends fifty file-fulls of mail through a spool in which a
// tenth of the first mail stays deferred for ever, with new results now and
// then: the files stay within a small factor of what is live.
func TestDiskStaysSmall(t *testing.T) {
	mem := vfs.NewMem()
	o := options(mem)
	s, _ := open(t, o)
	if err := s.Each(nil); err != nil {
		t.Fatal(err)
	}
	const size, perFile = 2000, 110
	var old []*spool.Message
	for i := range 10 * perFile {
		m := accept(t, s, envelope(1), content(1, size))
		if i%10 == 0 {
			old = append(old, m)
			continue
		}
		if err := s.Settle(m, []spool.Result{delivered(0)}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 50 * perFile {
		m := accept(t, s, envelope(1), content(1, size))
		if err := s.Settle(m, []spool.Result{delivered(0)}); err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			o := old[i/10%len(old)]
			if err := s.Settle(o, []spool.Result{deferred(0, time.Unix(1_900_000_000, 0))}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Compact(); err != nil {
		t.Fatal(err)
	}
	st := s.Stats()
	t.Logf("%d messages, %d octets of mail; %d files, %d octets, of which live %d", st.Messages, len(old)*size, st.Files, st.FileBytes, st.LiveBytes)
	if st.Messages != len(old) || st.FileBytes > 2*st.LiveBytes+4*o.FileSize {
		t.Errorf("%+v", st)
	}
	if want := int64(len(old) * (size + 1000)); st.LiveBytes > want {
		t.Errorf("%d octets count as live, want at most %d", st.LiveBytes, want)
	}
	for _, m := range old {
		if err := s.Settle(m, []spool.Result{delivered(0)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Compact(); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.LiveBytes > 32<<10 || st.Files > 4 { // killers whose victims are in the files that are left
		t.Errorf("empty, but %+v", st)
	}
	closeSpool(t, s)
	s, rec := open(t, o)
	if rec.Messages != 0 || rec.PossibleDuplicates != 0 {
		t.Errorf("%+v", rec)
	}
	closeSpool(t, s)
}

// TestCompactionWaitsForASpare: what could not be moved for want of a spare
// file is moved once there is one, though nothing else happens any more.
func TestCompactionWaitsForASpare(t *testing.T) {
	var full atomic.Bool
	denied := make(chan struct{}, 1)
	o := options(vfs.NewFault(vfs.NewMem(), func(c vfs.Call) vfs.Outcome {
		if c.Op == vfs.OpSpace && full.Load() {
			select {
			case denied <- struct{}{}:
			default:
			}
			return vfs.Outcome{Err: syscall.ENOSPC}
		}
		return vfs.Outcome{}
	}))
	s, _ := open(t, o)
	if err := s.Each(nil); err != nil {
		t.Fatal(err)
	}
	var gone []*spool.Message
	for i := range 80 { // eight files, of which a tenth stays
		m := accept(t, s, envelope(1), content(1, 25_000))
		if i%10 != 0 {
			gone = append(gone, m)
		}
	}
	full.Store(true)
	for { // until the spares are used up
		if _, err := s.Accept(context.Background(), envelope(1), bytes.NewReader(content(1, 25_000))); err != nil {
			break
		}
	}
	<-denied
	before := s.Stats().Files
	for _, m := range gone {
		if err := s.Settle(m, []spool.Result{delivered(0)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Compact(); err != nil { // finds nowhere to move to
		t.Fatal(err)
	}
	if n := s.Stats().Files; n != before {
		t.Fatalf("%d files were moved out of without a spare", before-n)
	}
	full.Store(false)
	for deadline := time.Now().Add(time.Minute); s.Stats().Files > before-4; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%+v, there were %d files", s.Stats(), before)
		}
	}
	closeSpool(t, s)
}

// TestKillersOutliveVictims finishes messages whose commit records lie in
// files that stay because of one message each, frees the files that hold the
// results, and restarts: nothing comes back.
func TestKillersOutliveVictims(t *testing.T) {
	mem := vfs.NewMem()
	o := options(mem)
	s, _ := open(t, o)
	if err := s.Each(nil); err != nil {
		t.Fatal(err)
	}
	// Ten messages a file: nine are large and stay, so that the file is not
	// worth compacting; one is small and will be finished.
	var small, large []*spool.Message
	for i := range 100 {
		if i%10 == 0 {
			small = append(small, accept(t, s, envelope(1), content(1, 100)))
			continue
		}
		large = append(large, accept(t, s, envelope(1), content(1, 25_000)))
	}
	for _, m := range small {
		if err := s.Settle(m, []spool.Result{delivered(0)}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2000 { // the results' files are emptied and freed
		m := accept(t, s, envelope(1), content(2, 2000))
		if err := s.Settle(m, []spool.Result{delivered(0)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Compact(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		closeSpool(t, s)
		var rec *spool.Recovery
		s, rec = open(t, o)
		if rec.Messages != len(large) {
			t.Errorf("%d messages after a restart, want %d", rec.Messages, len(large))
		}
		if err := s.Each(func(*spool.Message, *mail.Envelope, []spool.RecipientState) {}); err != nil {
			t.Fatal(err)
		}
		if err := s.Compact(); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range large {
		again, ok := s.Find(m.ID())
		if !ok {
			t.Fatal("lost")
		}
		wantContent(t, s, again, content(1, 25_000))
		if err := s.Settle(again, []spool.Result{delivered(0)}); err != nil {
			t.Fatal(err)
		}
	}
	closeSpool(t, s)
	s, rec := open(t, o)
	if rec.Messages != 0 {
		t.Errorf("%+v", rec)
	}
	closeSpool(t, s)
}

// TestBuffersAreBounded has more senders at once than there are buffers, all
// of them slow; all get through, and the largest buffers are not used up by
// those who came first.
func TestBuffersAreBounded(t *testing.T) {
	o := options(vfs.NewMem())
	o.MaxBuffer = 64 << 10 // two buffers of 16 KiB, one of 128 KiB, none larger
	o.FileSize = 4 << 20
	s, _ := open(t, o)
	first, second := newSlow(200_000), newSlow(200_000)
	done := make(chan error, 3)
	take := func(r *slow) {
		_, err := s.Accept(context.Background(), envelope(1), r)
		done <- err
	}
	go take(first)
	<-first.asked
	go take(second)
	<-second.asked
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, err := s.Accept(ctx, envelope(1), bytes.NewReader(nil))
		done <- err
	}()
	cancel()
	if err := <-done; err == nil || err.(*mail.Reply).Code != 451 {
		t.Errorf("without a buffer: %v", err)
	}
	close(first.more)
	if err := <-done; err != nil {
		t.Error(err)
	}
	accept(t, s, envelope(1), content(1, 300_000))
	close(second.more)
	if err := <-done; err != nil {
		t.Error(err)
	}
	closeSpool(t, s)
}

// slow is content that says when it is asked for, and waits.
type slow struct {
	left  int
	asked chan struct{}
	more  chan struct{}
	began bool
}

func newSlow(n int) *slow {
	return &slow{left: n, asked: make(chan struct{}), more: make(chan struct{})}
}

func (r *slow) Read(p []byte) (int, error) {
	if !r.began {
		r.began = true
		close(r.asked)
	}
	<-r.more
	n := min(len(p), r.left)
	clear(p[:n])
	if r.left -= n; n == 0 {
		return 0, io.EOF
	}
	return n, nil
}
