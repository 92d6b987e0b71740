package alone

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	limits "github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/limit/local"
)

// purse is a limiter that wants of one budget.
type purse struct {
	u       limits.Update
	granted map[limits.Key]limits.Grant
	want    []limits.Demand
}

func (p *purse) Apply(u limits.Update) {
	p.u = u
	for _, g := range u.Grants {
		p.granted[g.Key] = g
	}
}

func (p *purse) Demands([]limits.Demand, int) []limits.Demand { return p.want }

func open(t *testing.T, dir string, now *time.Time) (*Machine, *purse) {
	t.Helper()
	p := &purse{granted: map[limits.Key]limits.Grant{}}
	m, err := Open(dir, p, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	m.wall = func() time.Time { return *now }
	if !p.u.Full || p.u.Seats != 1 || !p.u.Leased {
		t.Errorf("the limiter was told %+v", p.u)
	}
	return m, p
}

func demand(want uint32) []limits.Demand {
	return []limits.Demand{{Key: "b", Kind: limits.KindBudget, Units: 100, Want: want, Window: time.Hour}, {Key: "r", Kind: limits.KindRate, Units: 5, Want: 9}}
}

func (m *Machine) must(t *testing.T) {
	t.Helper()
	if err := m.round(); err != nil {
		t.Fatal(err)
	}
}

// What is given is never given twice, whatever ends the process, and the next
// hour has all of it again.
func TestABudgetOverRestarts(t *testing.T) {
	dir := t.TempDir()
	now := time.Now().Truncate(time.Hour).Add(time.Minute)
	m, p := open(t, dir, &now)
	p.want = demand(60)
	m.must(t)
	if g := p.granted["b"]; g.Granted != 60 || !g.Ends.Equal(now.Truncate(time.Hour).Add(time.Hour)) {
		t.Fatalf("granted: %+v", g)
	}
	// A crash in the middle of the next line.
	f, err := os.OpenFile(filepath.Join(dir, fileName), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"key":"b","per_s":3600,"gra`); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	m, p = open(t, dir, &now)
	p.want = demand(60)
	m.must(t)
	m.must(t)
	if g := p.granted["b"]; g.Granted != 40 {
		t.Errorf("after the restart: %+v", g)
	}
	now = now.Add(time.Hour)
	m.must(t)
	if g := p.granted["b"]; g.Granted != 60 {
		t.Errorf("in the next hour: %+v", g)
	}
	now = now.Add(-time.Hour)
	m.must(t)
	if g := p.granted["b"]; g.Granted != 100 || g.Window != uint64(now.Unix()/3600)+1 {
		t.Errorf("a clock that goes back opened another window: %+v", g)
	}
	now = now.Add(3 * time.Hour)
	m, p = open(t, dir, &now)
	p.want = demand(100)
	m.must(t)
	if g := p.granted["b"]; g.Granted != 100 {
		t.Errorf("hours later: %+v", g)
	}
}

// A budget that is made smaller holds at once: what was given of the larger one
// is not spent, and of the smaller one there is what was not given away.
func TestABudgetThatIsMadeSmaller(t *testing.T) {
	now := time.Now().Truncate(time.Hour).Add(time.Minute)
	l := local.New(local.Options{Now: func() time.Duration { return time.Duration(now.UnixNano()) }, Wall: func() time.Time { return now }})
	m, err := Open(t.TempDir(), l, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	m.wall = func() time.Time { return now }
	budget := func(n int64) {
		t.Helper()
		if err := l.Configure([]limits.Definition{{Name: "bud", Budget: limits.Rate{N: n, Per: 24 * time.Hour}}}); err != nil {
			t.Fatal(err)
		}
	}
	// spend sends up to most, and says how many went.
	spend := func(most int) (went int) {
		for range 20 {
			for went < most {
				k, d := l.Reserve(limits.Deliver, &limits.Subject{}, limits.Amount{Messages: 1})
				if d != nil || k.Use() > 0 {
					break
				}
				went++
			}
			now = now.Add(time.Second)
			m.must(t)
		}
		return went
	}
	total := 0
	for _, step := range []struct {
		budget       int64
		most, atMost int
	}{{100, 3, 3}, {1, 10, 3}, {20, 7, 10}, {12, 100, 12}, {5, 100, 12}, {30, 100, 30}} {
		budget(step.budget)
		total += spend(step.most)
		if total > step.atMost {
			t.Errorf("with a budget of %d %d were spent in all, want %d at most", step.budget, total, step.atMost)
		}
	}
	if total < 20 {
		t.Errorf("%d were spent in all of a budget of 30: too much is given and not spent", total)
	}
}

// A file that is none is not overwritten.
func TestAFileThatIsNone(t *testing.T) {
	for name, text := range map[string]string{
		"another file": "hello\n", "a newer version": "clrelay budgets 2\n", "nonsense": header + "nonsense\n",
		"what cannot be": header + `{"key":"b","per_s":1,"window":1000000000,"granted":1}` + "\n",
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, fileName)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(dir, &purse{}, slog.New(slog.NewTextHandler(io.Discard, nil)))
		if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "move") {
			t.Errorf("%s: %v", name, err)
		}
		if b, _ := os.ReadFile(path); string(b) != text {
			t.Errorf("%s: the file was changed", name)
		}
	}
}

// While nothing can be written, nothing is given; afterwards it goes on.
func TestADiskThatFails(t *testing.T) {
	dir := t.TempDir()
	now := time.Now().Truncate(time.Hour).Add(time.Minute)
	m, p := open(t, dir, &now)
	_ = m.file.Close()
	p.want = demand(10)
	if err := m.round(); err == nil || len(p.granted) != 0 {
		t.Errorf("nothing was written, and given is %+v: %v", p.granted, err)
	}
	m.must(t)
	if g := p.granted["b"]; g.Granted != 20 { // what was not told is wasted, not given twice
		t.Errorf("granted: %+v", g)
	}
	m2, p2 := open(t, dir, &now)
	p2.want = demand(100)
	m2.must(t)
	if g := p2.granted["b"]; g.Granted != 80 {
		t.Errorf("after a restart: %+v", g)
	}
}

// The file does not grow for ever.
func TestTheFileIsWrittenAnew(t *testing.T) {
	dir := t.TempDir()
	now := time.Now().Truncate(24 * time.Hour).Add(time.Minute)
	m, p := open(t, dir, &now)
	p.want = []limits.Demand{{Key: "b", Kind: limits.KindBudget, Units: 1 << 30, Want: 1}}
	for range 200 {
		m.must(t)
	}
	m.lines = spare + 2
	m.must(t)
	if m.lines > 1 {
		t.Errorf("%d lines", m.lines)
	}
	m, _ = open(t, dir, &now)
	b, _ := m.table.Budget("b")
	if b.Granted != 201 {
		t.Errorf("it tells %+v", b)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		m, p := open(t, t.TempDir(), &now)
		p.want = demand(7)
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		if err := m.Run(ctx); err != nil {
			t.Error(err)
		}
		if p.granted["b"].Granted != 7 {
			t.Errorf("granted: %+v", p.granted)
		}
	})
}
