package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func openTest(t *testing.T, path string) *Store {
	t.Helper()
	b, err := OpenBolt(path)
	if err != nil {
		t.Fatal(err)
	}
	s := New(b, time.Minute, func(err error) { t.Errorf("fatal: %v", err) })
	t.Cleanup(func() { _ = s.Close() }) // some tests close it before
	return s
}

func TestEntriesAndKeysComeBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), File)
	s := openTest(t, path)
	in := []*raft.Log{
		{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: []byte("c")},
		{Index: 2, Term: 3, Data: bytes.Repeat([]byte("x"), 100_000), Extensions: []byte("kept"), AppendedAt: time.Unix(5, 6)},
		{Index: 3, Term: 3},
	}
	if err := s.StoreLogs(in); err != nil {
		t.Fatal(err)
	}
	if in[0].Extensions != nil {
		t.Error("the caller's entry was changed")
	}
	for _, err := range []error{s.SetUint64([]byte(keyTerm), 7), s.SetUint64([]byte(keyVoteTerm), 7), s.Set([]byte("LastVoteCand"), []byte("me")), s.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	s = openTest(t, path)
	for _, want := range in {
		var got raft.Log
		if err := s.GetLog(want.Index, &got); err != nil {
			t.Fatal(err)
		}
		if got.Term != want.Term || got.Type != want.Type || !bytes.Equal(got.Data, want.Data) || !bytes.Equal(got.Extensions, want.Extensions) || !got.AppendedAt.Equal(want.AppendedAt) {
			t.Errorf("entry %d came back as %+v", want.Index, got)
		}
	}
	term, err := s.GetUint64([]byte(keyVoteTerm))
	cand, err2 := s.Get([]byte("LastVoteCand"))
	if term != 7 || string(cand) != "me" || err != nil || err2 != nil {
		t.Errorf("the vote: %d %s %v %v", term, cand, err, err2)
	}
	// The library compares texts.
	if _, err := s.GetUint64([]byte("nothing")); err == nil || err.Error() != "not found" {
		t.Errorf("a key that is missing: %v", err)
	}
	if err := s.GetLog(9, &raft.Log{}); !errors.Is(err, raft.ErrLogNotFound) {
		t.Errorf("an entry that is missing: %v", err)
	}
	if m, ok := any(s).(raft.MonotonicLogStore); !ok || !m.IsMonotonic() {
		t.Error("the library will not clear the log before a gap")
	}
}

// frail is a store of memory in which the power fails after some writes.
type frail struct {
	*raft.InmemStore
	writes, failAt int
	err            error
}

func (f *frail) Close() error { return nil }

func (f *frail) Set(k, v []byte) error {
	if f.writes++; f.writes > f.failAt {
		return f.err
	}
	return f.InmemStore.Set(k, v)
}

// The power fails at each write of a vote: what is found afterwards is never
// the new term with the old candidate, for which the library would grant a
// second vote in that term without looking at the log.
func TestPowerLossWhileVoting(t *testing.T) {
	vote := func(s *Store, term uint64, candidate string) {
		// As the library does it; errors end it as they do there.
		if s.SetUint64([]byte(keyTerm), term) == nil && s.SetUint64([]byte(keyVoteTerm), term) == nil {
			_ = s.Set([]byte("LastVoteCand"), []byte(candidate))
		}
	}
	seen := map[string]bool{}
	for failAt := 3; failAt <= 7; failAt++ {
		mem := &frail{InmemStore: raft.NewInmemStore(), failAt: failAt, err: errors.New("power")}
		s := New(mem, time.Minute, func(error) {})
		vote(s, 4, "old")
		vote(s, 5, "new")
		_ = s.Close() // always nil
		current, _ := mem.Get([]byte(keyTerm))
		term, _ := mem.Get([]byte(keyVoteTerm))
		candidate, _ := mem.Get([]byte("LastVoteCand"))
		found := string(candidate) + " in " + string('0'+rune(binary.BigEndian.Uint64(term))) + " at " + string('0'+rune(binary.BigEndian.Uint64(current)))
		seen[found] = true
		if found == "old in 5 at 5" {
			t.Errorf("after %d writes: %s", failAt, found)
		}
	}
	for _, want := range []string{"old in 4 at 4", "old in 4 at 5", "new in 4 at 5", "new in 5 at 5"} {
		if !seen[want] {
			t.Errorf("never saw %q: %v", want, seen)
		}
	}
}

func TestTheFirstErrorLatches(t *testing.T) {
	var told []error
	mem := &frail{InmemStore: raft.NewInmemStore(), failAt: 1, err: errors.New("input/output error")}
	s := New(mem, time.Minute, func(err error) { told = append(told, err) })
	defer s.Close()
	if err := s.Set([]byte("a"), nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Set([]byte("b"), nil); !errors.Is(err, ErrFailed) {
		t.Errorf("the failed write: %v", err)
	}
	mem.failAt = 100 // the disk pretends to be well again
	for _, err := range []error{s.Set([]byte("c"), nil), s.DeleteRange(1, 1), s.StoreLog(&raft.Log{Index: 1}), s.SetUint64([]byte(keyVoteTerm), 1)} {
		if !errors.Is(err, ErrFailed) {
			t.Errorf("a later write: %v", err)
		}
	}
	if last, _ := mem.LastIndex(); len(told) != 1 || last != 0 {
		t.Errorf("told %v, wrote %d", told, last)
	}
}

func TestADamagedEntryIsNoticed(t *testing.T) {
	for name, damage := range map[string]func(*raft.Log){
		"data":     func(l *raft.Log) { l.Data[0] ^= 1 },
		"term":     func(l *raft.Log) { l.Term++ },
		"type":     func(l *raft.Log) { l.Type++ },
		"place":    func(l *raft.Log) { l.Index++ },
		"checksum": func(l *raft.Log) { l.Extensions[2] ^= 1 },
		"none":     func(l *raft.Log) { l.Extensions = nil },
	} {
		t.Run(name, func(t *testing.T) {
			var told error
			mem := &frail{InmemStore: raft.NewInmemStore()}
			s := New(mem, time.Minute, func(err error) { told = err })
			defer s.Close()
			if err := s.StoreLog(&raft.Log{Index: 1, Term: 1, Data: []byte("data")}); err != nil {
				t.Fatal(err)
			}
			var raw raft.Log
			if err := mem.GetLog(1, &raw); err != nil {
				t.Fatal(err)
			}
			damage(&raw)
			index := raw.Index
			raw2 := raw
			if err := mem.StoreLog(&raw2); err != nil {
				t.Fatal(err)
			}
			if index != 1 {
				t.Skip("memory finds it by its index")
			}
			if err := s.GetLog(1, &raft.Log{}); !errors.Is(err, ErrFailed) || told == nil {
				t.Errorf("read %v, told %v", err, told)
			}
		})
	}
}

func TestAnOperationThatHangsIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := make(chan error, 9)
		s := New(&stuck{InmemStore: raft.NewInmemStore()}, 5*time.Second, func(err error) { told <- err })
		defer s.Close()
		begun := time.Now()
		if err := s.StoreLog(&raft.Log{Index: 1}); !errors.Is(err, ErrFailed) {
			t.Errorf("it was acknowledged after all: %v", err)
		}
		if len(told) != 1 || time.Since(begun) != time.Minute {
			t.Errorf("told %d times after %v", len(told), time.Since(begun))
		}
	})
}

type stuck struct{ *raft.InmemStore }

func (s *stuck) Close() error { return nil }

func (s *stuck) StoreLogs(ls []*raft.Log) error {
	<-time.After(time.Minute)
	return s.InmemStore.StoreLogs(ls)
}

// A process that was stopped finds time gone but no looks taken.
func TestLooksAreCountedNotTime(t *testing.T) {
	w := newWatchdog(time.Hour, func(op string) { t.Errorf("barked at %s", op) })
	defer w.stop()
	id := w.begin("a write")
	for i := range watchSteps {
		if op := w.look(); op != "" {
			t.Fatalf("at look %d: %s", i, op)
		}
	}
	if op := w.look(); op != "a write" {
		t.Errorf("at the last look: %q", op)
	}
	w.end(id)
	if op := w.look(); op != "" {
		t.Errorf("after its end: %q", op)
	}
}

// list is a state machine: the commands in order.
type list struct{ all []string }

func (l *list) Apply(_ uint64, data []byte) any {
	l.all = append(l.all, string(data))
	return len(l.all)
}

func (l *list) Snapshot() []byte { return []byte(strings.Join(l.all, ",")) }

func (l *list) Restore(b []byte) error {
	if string(b) == "bad" {
		return errors.New("bad")
	}
	l.all = strings.Split(string(b), ",")
	return nil
}

func TestMachineKnowsItsIndexOverASnapshot(t *testing.T) {
	m := NewMachine(&list{}, func(err error) { t.Errorf("fatal: %v", err) })
	got := m.ApplyBatch([]*raft.Log{{Index: 4, Data: []byte("a")}, {Index: 5, Type: raft.LogConfiguration}, {Index: 7, Data: []byte("b")}})
	if len(got) != 3 || got[0] != 1 || got[1] != nil || got[2] != 2 || m.Applied() != 7 {
		t.Errorf("%v %d", got, m.Applied())
	}
	if r, ok := m.Result(4); !ok || r != 1 {
		t.Errorf("the result at 4: %v %v", r, ok)
	}
	c, err := m.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if err := c.Persist(nopSink{&buf}); err != nil {
		t.Fatal(err)
	}
	to := &list{}
	n := NewMachine(to, func(error) {})
	if err := n.Restore(io.NopCloser(&buf)); err != nil {
		t.Fatal(err)
	}
	if n.Applied() != 7 || strings.Join(to.all, "") != "ab" {
		t.Errorf("%d %v", n.Applied(), to.all)
	}
	if _, ok := n.Result(4); ok {
		t.Error("it knows a result that a snapshot jumped over")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.Wait(ctx, 8, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for 8: %v", err)
	}
	for _, bad := range []string{"", "short", "\x02........state", "\x01........bad"} {
		if err := n.Restore(io.NopCloser(strings.NewReader(bad))); err == nil {
			t.Errorf("restored %q", bad)
		}
	}
}

type nopSink struct{ io.Writer }

func (nopSink) Close() error  { return nil }
func (nopSink) Cancel() error { return nil }
func (nopSink) ID() string    { return "" }

func TestARestoreThatFailsWhileRunningIsFatal(t *testing.T) {
	told := make(chan error, 1)
	m := NewMachine(&list{}, func(err error) { told <- err })
	m.Started()
	ended := make(chan bool, 1)
	go func() {
		defer func() { ended <- recover() == nil }()
		_ = m.Restore(io.NopCloser(strings.NewReader("\x01........bad"))) // ends the goroutine
		t.Error("the library's goroutine goes on")
	}()
	if !<-ended || <-told == nil {
		t.Error("a panic, or nobody was told")
	}
}

func TestOffline(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "raft")
	state := []byte("a,b,c")
	o := Offline{Dir: dir, Node: "n1", Address: "n1:1", FSM: &list{}, Log: quiet()}
	if _, err := o.Export(); err == nil {
		t.Error("exported from nothing")
	}
	if err := (Offline{Dir: dir, Node: "n1", Address: "n1:1", FSM: &list{}, Log: quiet()}).Restore([]byte("bad"), 40, nil); err == nil {
		t.Error("restored a bad export")
	}
	if err := o.Restore(state, 40, []Server{{Node: "n1", Address: "n1:1"}}); err != nil {
		t.Fatal(err)
	}
	if err := o.Restore(state, 40, []Server{{Node: "n1", Address: "n1:1"}}); err == nil {
		t.Error("restored over what was there")
	}
	// Some entries behind the snapshot.
	s := openTest(t, filepath.Join(dir, File))
	if err := s.StoreLogs([]*raft.Log{{Index: 41, Term: 1, Type: raft.LogNoop}, {Index: 42, Term: 1, Data: []byte("d")}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	check := func(want string, least uint64) {
		t.Helper()
		to := &list{}
		o.FSM = to
		index, err := o.Export()
		if err != nil || index < least || string(to.Snapshot()) != want {
			t.Errorf("%d %s %v", index, to.Snapshot(), err)
		}
	}
	check("a,b,c,d", 42)
	if g, err := Generation(dir); g != FirstGeneration || err != nil {
		t.Errorf("generation %d, %v", g, err)
	}
	next := filepath.Join(t.TempDir(), "next")
	o = Offline{Dir: next, Node: "n1", Address: "n1:1", FSM: &list{}, Log: quiet(), Generation: 7}
	if err := o.Restore(state, 50, []Server{{Node: "n1", Address: "n1:1"}}); err != nil {
		t.Fatal(err)
	}
	if g, err := Generation(next); g != 7 || err != nil {
		t.Errorf("generation %d, %v", g, err)
	}
	if err := os.WriteFile(filepath.Join(next, "generation"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Generation(next); err == nil {
		t.Error("a damaged generation was read")
	}
}
