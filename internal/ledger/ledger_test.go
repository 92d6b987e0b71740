package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/clrelay/clrelay/cluster/fsm/audit"
	"github.com/clrelay/clrelay/proto/control"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func entry(who string) control.AuditEntry {
	return control.AuditEntry{Kind: control.AuditRequest, AtMS: 1, Who: who, Reason: "it says \"why\"\n"}
}

// chain is a Source that a test appends to.
type chain struct {
	mu      sync.Mutex
	c       audit.Chain
	changed chan struct{}
}

func newChain() *chain { return &chain{changed: make(chan struct{})} }

func (c *chain) add(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range n {
		c.c.Append(entry(fmt.Sprint("w", i)))
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *chain) Audited() (control.AuditMark, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.c.Head(), c.changed
}

func (c *chain) AuditsAfter(n uint64) []control.AuditLine {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.c.After(n)
}

func open(t *testing.T, dir string) *Files {
	t.Helper()
	f, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() }) // twice in some tests
	return f
}

// catchUp writes what the files lack of a chain.
func catchUp(f *Files, c *chain) error {
	w := follower{f: f, src: c, log: quiet()}
	return w.catchUp(c.c.Head())
}

func verify(t *testing.T, f *Files, c *chain) Report {
	t.Helper()
	head, _ := c.Audited()
	r, err := f.Verify(head, c.AuditsAfter(0))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// written makes files of 9 entries, three in each.
func written(t *testing.T) (string, *chain) {
	t.Helper()
	dir, c := filepath.Join(t.TempDir(), "audit"), newChain()
	f := open(t, dir)
	f.size = 1
	for range 3 {
		c.add(3)
		if err := catchUp(f, c); err != nil {
			t.Fatal(err)
		}
	}
	if r := verify(t, f, c); len(r.Findings) > 0 || r.Entries != 9 || r.First != 1 || r.Last != 9 {
		t.Fatalf("what was written is %+v", r)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, c
}

// Whatever is done to a line is found, with file and line.
func TestVerifyFinds(t *testing.T) {
	swap := func(l [][]byte) [][]byte { l[0], l[1] = l[1], l[0]; return l }
	for _, c := range []struct {
		what   string
		file   int
		change func([][]byte) [][]byte
		line   int
		text   string
	}{
		{"a word", 2, func(l [][]byte) [][]byte { l[1] = bytes.Replace(l[1], []byte("w1"), []byte("w7"), 1); return l }, 2, "entry 5 was changed"},
		{"a hash", 2, func(l [][]byte) [][]byte {
			l[1] = bytes.Replace(l[1], []byte(`","at_ms":1`), []byte(`","at_ms":2`), 1)
			return l
		}, 2, "entry 5 was changed"},
		{"a word and its hash", 2, func(l [][]byte) [][]byte {
			text, _, _ := split(bytes.Replace(l[1], []byte("w1"), []byte("w7"), 1))
			p, _ := audit.Parse(text)
			l[1] = bytes.TrimSuffix(join(&control.AuditLine{AuditMark: p.AuditMark, Text: text}), []byte("\n"))
			return l
		}, 2, "entry 5 is not the one that was agreed"},
		{"one is missing", 2, func(l [][]byte) [][]byte { return slices.Delete(l, 1, 2) }, 2, "entry 6 follows entry 4"},
		{"the first is missing", 1, func(l [][]byte) [][]byte { return l[1:] }, 1, "begins with entry 2"},
		{"the last is missing", 3, func(l [][]byte) [][]byte { return l[:2] }, 0, "entries 9 to 9 are missing"},
		{"another order", 3, swap, 1, "entry 8 follows entry 6"},
		{"twice", 1, func(l [][]byte) [][]byte { return append(l, l[2]) }, 4, "entry 3 follows entry 3"},
		{"one more", 3, func(l [][]byte) [][]byte {
			text, _, _ := split(l[2])
			p, _ := audit.Parse(text)
			c := audit.At(p.AuditMark)
			x, _ := c.Append(entry("forged"))
			return append(l, bytes.TrimSuffix(join(&x), []byte("\n")))
		}, 4, "entry 10 was never agreed"},
		{"nonsense", 3, func(l [][]byte) [][]byte { l[1] = []byte("x"); return l }, 2, "cannot be read"},
		{"endless", 3, func(l [][]byte) [][]byte { l[1] = make([]byte, 3*maxLine); return l }, 2, "cannot be read"},
		{"a note", 1, func(l [][]byte) [][]byte { return append(l, []byte(`{"note":"gone","from":2,"to":3}`)) }, 4, "entries 2 to 3: gone"},
	} {
		dir, src := written(t)
		name := filepath.Join(dir, fmt.Sprintf("audit-%06d.jsonl", c.file))
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		lines := c.change(bytes.Split(bytes.TrimSuffix(text, []byte("\n")), []byte("\n")))
		if err := os.WriteFile(name, append(bytes.Join(lines, []byte("\n")), '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
		r := verify(t, open(t, dir), src)
		if len(r.Findings) == 0 || r.Findings[0].Line != c.line || !strings.Contains(r.Findings[0].Text, c.text) || c.line > 0 && r.Findings[0].File != name {
			t.Errorf("%s: found %+v", c.what, r.Findings)
		}
	}
	dir, src := written(t)
	if err := os.Remove(filepath.Join(dir, "audit-000002.jsonl")); err != nil {
		t.Fatal(err)
	}
	if r := verify(t, open(t, dir), src); len(r.Findings) != 1 || r.Findings[0].Line != 1 || !strings.Contains(r.Findings[0].Text, "entry 7 follows entry 3") {
		t.Errorf("a file is missing: %+v", r.Findings)
	}
}

// A line that a crash cut off comes again.
func TestATornLine(t *testing.T) {
	dir, src := written(t)
	name := filepath.Join(dir, "audit-000003.jsonl")
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, info.Size()-5); err != nil {
		t.Fatal(err)
	}
	f := open(t, dir)
	if f.Last().Sequence != 8 {
		t.Errorf("the last one is %d", f.Last().Sequence)
	}
	if err := catchUp(f, src); err != nil {
		t.Fatal(err)
	}
	if r := verify(t, f, src); len(r.Findings) > 0 || r.Entries != 9 {
		t.Errorf("then: %+v", r)
	}
}

// A start, at which the same entries come again from the first one on, or from a
// snapshot, writes nothing; and what is new then goes on where it was.
func TestTheSameAgain(t *testing.T) {
	dir, src := written(t)
	f := open(t, dir)
	w := follower{f: f, src: src, log: quiet()}
	whole := src.AuditsAfter(0)
	for n := range whole {
		w.src = lagging{whole[:n+1]}
		head, _ := w.src.Audited()
		if err := w.catchUp(head); err != nil {
			t.Fatal(err)
		}
		if r := verify(t, f, src); len(r.Findings) > 0 || r.Entries != 9 {
			t.Fatalf("after %d of them again: %+v", n+1, r)
		}
	}
	src.add(2)
	w.src = src
	if err := w.catchUp(src.c.Head()); err != nil {
		t.Fatal(err)
	}
	if r := verify(t, f, src); len(r.Findings) > 0 || r.Entries != 11 {
		t.Errorf("then: %+v", r)
	}
}

// A backup that is restored is of the same chain until something new comes.
func TestRestored(t *testing.T) {
	dir, src := written(t)
	f := open(t, dir)
	w := follower{f: f, src: src, log: quiet()}
	old := newChain()
	var texts [][]byte
	whole := src.AuditsAfter(0)[:5]
	for _, l := range whole {
		texts = append(texts, l.Text)
	}
	ok := false
	if old.c, ok = audit.New(whole[4].AuditMark, texts); !ok {
		t.Fatal("no chain")
	}
	if err := w.catchUp(old.c.Head()); err != nil {
		t.Fatal(err)
	}
	if r := verify(t, f, src); len(r.Findings) > 0 {
		t.Fatalf("nothing new has come: %+v", r)
	}
	old.c.Append(entry("another"))
	old.add(1)
	w.src = old
	if err := w.catchUp(old.c.Head()); err != nil {
		t.Fatal(err)
	}
	if r := verify(t, f, old); len(r.Findings) != 1 || !strings.Contains(r.Findings[0].Text, "another chain") || r.Last != 7 {
		t.Errorf("something new came: %+v", r)
	}
}

// lagging is a chain that has come so far.
type lagging struct{ list []control.AuditLine }

func (l lagging) Audited() (control.AuditMark, <-chan struct{}) {
	return l.list[len(l.list)-1].AuditMark, nil
}

func (l lagging) AuditsAfter(n uint64) (out []control.AuditLine) {
	for _, e := range l.list {
		if e.Sequence > n {
			out = append(out, e)
		}
	}
	return out
}

// Who was away for too long says so, and so does who meets another chain. Who
// came later begins later.
func TestGaps(t *testing.T) {
	dir, src := written(t)
	src.add(control.KeepAudits + 10)
	f := open(t, dir)
	if err := catchUp(f, src); err != nil {
		t.Fatal(err)
	}
	r := verify(t, f, src)
	if len(r.Findings) != 1 || !strings.Contains(r.Findings[0].Text, "entries 10 to 19: ") || r.Last != control.KeepAudits+19 {
		t.Errorf("away for too long: %+v", r)
	}
	other := newChain()
	other.add(4)
	if err := catchUp(f, other); err != nil {
		t.Fatal(err)
	}
	r = verify(t, f, other)
	if len(r.Findings) != 2 || !strings.Contains(r.Findings[1].Text, "another chain") || r.Last != 4 {
		t.Errorf("another chain: %+v", r)
	}
	later := open(t, filepath.Join(t.TempDir(), "audit"))
	if err := catchUp(later, src); err != nil {
		t.Fatal(err)
	}
	if r := verify(t, later, src); len(r.Findings) != 0 || r.First != 20 {
		t.Errorf("came later: %+v", r)
	}
	var read int
	if err := later.Each(func(l *Line) error { read++; return nil }); err != nil || read != control.KeepAudits {
		t.Errorf("%d were read, %v", read, err)
	}
}

func TestFollow(t *testing.T) {
	f, src := open(t, t.TempDir()), newChain()
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() { Follow(ctx, f, src, quiet()) })
	for range 20 {
		src.add(7)
	}
	if head := Settle(t.Context(), f, src); f.Last() != head || head.Sequence != 140 {
		t.Errorf("%v is written of %v", f.Last(), head)
	}
	cancel()
	group.Wait()
	if r := verify(t, f, src); len(r.Findings) > 0 {
		t.Errorf("found %+v", r)
	}
}

// A machine that is alone keeps both, over restarts.
func TestLocal(t *testing.T) {
	dir := t.TempDir()
	start := func() (*Local, *Files) {
		f := open(t, filepath.Join(dir, "audit"))
		l, err := OpenLocal(dir, f)
		if err != nil {
			t.Fatal(err)
		}
		return l, f
	}
	l, f := start()
	if m, err := l.AppendAudit(t.Context(), entry(strings.Repeat("x", 1000))); err != nil || m.Sequence != 1 {
		t.Fatal(m, err)
	}
	if v, err := l.PutRecord(t.Context(), control.RecordPut{Key: "job/1", Value: []byte{0, 1}}); err != nil || v != 1 {
		t.Fatal(v, err)
	}
	var refused *RefusedError
	if _, err := l.PutRecord(t.Context(), control.RecordPut{Key: "job/1"}); !errors.As(err, &refused) || refused.Code != control.WrongVersion || refused.Version != 1 {
		t.Errorf("again: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.AppendAudit(t.Context(), entry("late")); err == nil {
		t.Error("a closed log was written")
	}
	l, f = start()
	if r, ok := l.Record("job/1"); !ok || r.Version != 1 || len(r.Value) != 2 || len(l.Records("job/")) != 1 {
		t.Errorf("after a restart: %+v", r)
	}
	if m, err := l.AppendAudit(t.Context(), entry("jane")); err != nil || m.Sequence != 2 {
		t.Errorf("after a restart: %v, %v", m, err)
	}
	head, _ := l.Audited()
	if r, err := f.Verify(head, l.AuditsAfter(0)); err != nil || len(r.Findings) > 0 || r.Entries != 2 {
		t.Errorf("verified: %+v, %v", r, err)
	}
	if v, err := l.PutRecord(t.Context(), control.RecordPut{Key: "job/1", IfVersion: 1, Delete: true}); err != nil || v != 0 {
		t.Errorf("deleted: %d, %v", v, err)
	}
	if err := os.WriteFile(filepath.Join(dir, recordsFile), []byte(`{"version":1,"records":[{"key":"x","version":1}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenLocal(dir, f); err == nil || !strings.Contains(err.Error(), recordsFile) {
		t.Errorf("a damaged file: %v", err)
	}
}

// A full disk leaves no half line, and is tried again.
func TestAFullDisk(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("there is no /dev/full")
	}
	dir, src := written(t)
	f := open(t, dir)
	well := f.file
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	f.file = full
	src.add(1)
	if err := catchUp(f, src); err == nil || f.Last().Sequence != 9 {
		t.Errorf("a full disk took it: %v, %v", f.Last(), err)
	}
	f.file, f.err = well, nil // /dev/full cannot be cut, which a file can
	if err := catchUp(f, src); err != nil {
		t.Fatal(err)
	}
	if r := verify(t, f, src); len(r.Findings) > 0 || r.Entries != 10 {
		t.Errorf("then: %+v", r)
	}
}
