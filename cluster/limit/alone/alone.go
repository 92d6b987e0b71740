// Package alone gives the limiter of a machine that is in no cluster all of every
// limit, and keeps what was given of budgets over restarts: in a file of lines,
// each of which tells how much of a budget is given away in a window. A line is on
// stable storage before the limiter hears of it, so that a crash may waste some of
// a budget, and never gives any twice.
package alone

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm/shares"
	limits "github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/proto/control"
)

const (
	fileName = "budgets"
	header   = "clrelay budgets 1\n"
	every    = time.Second
	maxLine  = 16 << 10
	spare    = 10_000 // lines that are no longer true before the file is written anew
	// most is how many demands are looked at a round.
	most   = 4000
	myself = "self"
	day    = 24 * time.Hour
)

// line is one of the file: so much of the budget is given away.
type line struct {
	Key     string `json:"key"`
	PerS    uint32 `json:"per_s"`
	Window  uint64 `json:"window"`
	Granted uint64 `json:"granted"`
}

// Machine is a machine that is alone.
type Machine struct {
	path  string
	local limits.Local
	log   *slog.Logger
	wall  func() time.Time

	table shares.Table
	file  *os.File
	lines int
	torn  bool // a write failed: the file's end is not known
}

// Open reads the file in a folder, which must be there, and gives the limiter all
// but the budgets, which Run gives.
func Open(dir string, local limits.Local, log *slog.Logger) (*Machine, error) {
	m := &Machine{path: filepath.Join(dir, fileName), local: local, log: log, wall: time.Now}
	if err := m.load(); err != nil {
		return nil, fmt.Errorf("limit: %s: %w", m.path, err)
	}
	if err := m.rewrite(); err != nil {
		return nil, fmt.Errorf("limit: %w", err)
	}
	local.Apply(limits.Update{Full: true, Seats: 1, Leased: true})
	return m, nil
}

// load reads the file. A last line without an end is one that nobody was told of.
func (m *Machine) load() error {
	b, err := os.ReadFile(m.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	rest, ok := bytes.CutPrefix(b, []byte(header))
	if !ok && !bytes.HasPrefix([]byte(header), b) {
		return errors.New("this is no file of budgets, or one of a newer version of clrelay; move it away: what was spent of budgets in this hour and this day is then forgotten")
	}
	byKey := map[string]control.Budget{}
	var order []string
	clock := int64(0)
	in := bufio.NewReaderSize(bytes.NewReader(rest), maxLine)
	for n := 2; ; n++ {
		text, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		var l line
		if err := json.Unmarshal(text, &l); err != nil {
			return fmt.Errorf("line %d: %w; take the line out, or move the file away: what was spent of budgets in this hour and this day is then forgotten", n, err)
		}
		if _, ok := byKey[l.Key]; !ok {
			order = append(order, l.Key)
		}
		byKey[l.Key] = control.Budget{Key: l.Key, PerS: l.PerS, Window: l.Window, Granted: l.Granted}
		clock = max(clock, int64(min(l.Window, 1<<40))*int64(l.PerS)*1000)
	}
	list := make([]control.Budget, 0, len(order))
	for _, k := range order {
		list = append(list, byKey[k])
	}
	t, sound := shares.New(control.Limits{ClockMS: clock, Budgets: list})
	if !sound {
		return errors.New("it tells of budgets that cannot be; move it away: what was spent of budgets in this hour and this day is then forgotten")
	}
	m.table = t
	return nil
}

// rewrite writes the file anew, with what is true alone, and goes on with it.
func (m *Machine) rewrite() error {
	var b bytes.Buffer
	b.WriteString(header)
	n := 0
	now := m.wall().UnixMilli()
	for _, x := range m.table.Limits().Budgets {
		if x.EndsMS() > now {
			b.Write(text(&x))
			n++
		}
	}
	file, err := os.OpenFile(m.path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(b.Bytes())
	if err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = os.Rename(file.Name(), m.path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(m.path))
	}
	if err != nil {
		return errors.Join(err, file.Close())
	}
	if m.file != nil {
		_ = m.file.Close() // it is replaced: what it held is in the new one
	}
	m.file, m.lines, m.torn = file, n, false
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func text(b *control.Budget) []byte {
	out, err := json.Marshal(line{Key: b.Key, PerS: b.PerS, Window: b.Window, Granted: b.Granted})
	if err != nil {
		panic(err) // numbers and a text
	}
	return append(out, '\n')
}

// Run gives parts of budgets as they are asked for, until ctx ends, and closes the
// file.
func (m *Machine) Run(ctx context.Context) error {
	t := time.NewTicker(every)
	defer t.Stop()
	failed := false
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return m.file.Close()
		}
		err := m.round()
		if err != nil && !failed {
			m.log.Error("nothing is given of budgets: what is given cannot be written down", "file", m.path, "error", err)
		}
		failed = err != nil
	}
}

// round gives what is asked for now.
func (m *Machine) round() error {
	ops := control.BudgetOps{AtMS: m.wall().UnixMilli()}
	for _, d := range m.local.Demands(nil, most) {
		each := max(d.Each, 1)
		if d.Kind != limits.KindBudget || d.Want == 0 {
			continue
		}
		if d.Window == 0 {
			d.Window = day
		}
		ops.Grants = append(ops.Grants, control.BudgetGrant{
			Key: string(d.Key), PerS: uint32(d.Window.Seconds()), Amount: uint64(d.Units) * each, Node: myself, Session: 1, N: uint64(d.Want) * each,
		})
	}
	if len(ops.Grants) == 0 {
		return nil
	}
	r := m.table.Grant(ops)
	u := limits.Update{Seats: 1, Leased: true}
	var b []byte
	for _, key := range r.Limits {
		x, _ := m.table.Budget(key)
		b = append(b, text(&x)...)
		u.Grants = append(u.Grants, limits.Grant{Key: limits.Key(key), Window: x.Window, Ends: time.UnixMilli(x.EndsMS()).UTC(), Granted: x.Parts[0].Granted, All: x.Granted})
	}
	if err := m.write(b, len(u.Grants)); err != nil {
		return err
	}
	if len(u.Grants) > 0 {
		m.local.Apply(u)
	}
	return nil
}

// write puts lines on stable storage.
func (m *Machine) write(b []byte, n int) error {
	if m.torn || m.lines+n > 2*len(m.table.Limits().Budgets)+spare {
		m.torn = true // until it is written anew, which holds the lines too
		return m.rewrite()
	}
	if len(b) == 0 {
		return nil
	}
	_, err := m.file.Write(b)
	if err == nil {
		err = m.file.Sync()
	}
	m.torn = err != nil
	m.lines += n
	return err
}
