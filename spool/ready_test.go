package spool_test

import (
	"bytes"
	"context"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/vfs"
)

// TestReadyWithoutFiles: a spool that gets no new files says so before a
// client has sent its message, and takes mail again when it gets them.
func TestReadyWithoutFiles(t *testing.T) {
	var broken atomic.Bool
	fsys := vfs.NewFault(vfs.NewMem(), func(c vfs.Call) vfs.Outcome {
		if broken.Load() && c.Op == vfs.OpOpen && strings.HasSuffix(c.Name, ".new") {
			return vfs.Outcome{Err: syscall.EROFS}
		}
		return vfs.Outcome{}
	})
	s, _ := open(t, options(fsys))
	defer closeSpool(t, s)
	accept(t, s, envelope(1), content(1, 1000))
	if r := s.Ready(); r != nil {
		t.Fatalf("ready: %v", r)
	}
	broken.Store(true)
	for { // until all files are used up
		if _, err := s.Accept(context.Background(), envelope(1), bytes.NewReader(content(2, 50_000))); err != nil {
			break
		}
	}
	await := func(what string, fact func() bool) {
		t.Helper()
		limit := time.After(20 * time.Second)
		for !fact() {
			select {
			case <-limit:
				t.Fatal(what)
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	await("a spool without files is ready", func() bool { r := s.Ready(); return r != nil && r.Code == 451 })
	broken.Store(false)
	await("a spool that is mended is not ready", func() bool { return s.Ready() == nil })
	accept(t, s, envelope(1), content(3, 50_000))
}

// TestStartOnFullDisk: without any room left, a spool can still be closed and
// opened, so that its queue is delivered.
func TestStartOnFullDisk(t *testing.T) {
	mem := vfs.NewMem()
	s, _ := open(t, options(mem))
	body := content(1, 1000)
	env := envelope(1)
	accept(t, s, env, body)
	mem.SetCapacity(0)
	closeSpool(t, s)
	for range 3 {
		s, rec := open(t, options(mem))
		if rec.Messages != 1 || rec.PossibleDuplicates != 0 {
			t.Fatalf("recovered: %+v", rec)
		}
		if r := s.Ready(); r == nil || r.Code != 452 {
			t.Errorf("ready: %v", r)
		}
		m, ok := s.Find(env.ID)
		if !ok {
			t.Fatal("the message is gone")
		}
		wantContent(t, s, m, body)
		closeSpool(t, s)
	}
}
