package top

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"

	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// live shows the screen until it is left.
func live(ctx context.Context, in io.Reader, out *os.File, a *asker, q question) error {
	m := &model{ctx: ctx, asker: a, q: q, bold: lipgloss.NewStyle().Bold(true), faint: lipgloss.NewStyle().Faint(true), alarm: lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Red)}
	_, err := tea.NewProgram(m, tea.WithContext(ctx), tea.WithInput(in), tea.WithOutput(out)).Run()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, tea.ErrInterrupted):
		return cmdline.Exitf(cmdline.ExitInterrupted, "interrupted")
	}
	return err
}

// model is the screen: what was seen last, and what is asked next. A look that
// is under way belongs to a generation; one of an older question is dropped.
type model struct {
	ctx   context.Context
	asker *asker
	q     question

	generation    int
	seen          *look
	err           error
	width, height int

	bold, faint, alarm lipgloss.Style
}

type (
	sawMsg struct {
		generation int
		seen       *look
		err        error
	}
	dueMsg struct{ generation int }
)

// Init is of tea.Model.
func (m *model) Init() tea.Cmd { return m.ask() }

// ask looks in the background.
func (m *model) ask() tea.Cmd {
	q, generation := m.q, m.generation
	return func() tea.Msg {
		seen, err := m.asker.look(m.ctx, &q)
		return sawMsg{generation, seen, err}
	}
}

// Update is of tea.Model.
func (m *model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tea.KeyPressMsg:
		return m, m.key(msg.String())
	case sawMsg:
		if msg.generation != m.generation {
			return m, nil
		}
		if m.err = msg.err; msg.err == nil {
			m.seen = msg.seen
		}
		generation := m.generation
		return m, tea.Tick(m.q.every, func(time.Time) tea.Msg { return dueMsg{generation} })
	case dueMsg:
		if msg.generation == m.generation && !m.q.paused {
			return m, m.ask()
		}
	}
	return m, nil
}

// key does what a key stands for.
func (m *model) key(k string) tea.Cmd {
	switch k {
	case "q", "esc":
		return tea.Quit
	case "ctrl+c":
		return tea.Interrupt
	case "s":
		m.q.by = adminv1.TopBy_TOP_BY_SENDER
	case "d":
		m.q.by = adminv1.TopBy_TOP_BY_DOMAIN
	case "c":
		m.q.by = adminv1.TopBy_TOP_BY_CLIENT
	case "r":
		m.q.by = adminv1.TopBy_TOP_BY_REASON
	case "t":
		m.q.by = adminv1.TopBy_TOP_BY_UNSPECIFIED
	case "w":
		m.q.day = !m.q.day
	case "o":
		m.q.sort = (m.q.sort + 1) % sortings
	case "p":
		m.q.paused = !m.q.paused
	default:
		return nil
	}
	m.generation++ // what is under way answers an old question
	return m.ask()
}

// View is of tea.Model.
func (m *model) View() tea.View {
	v := tea.NewView(m.text())
	v.AltScreen = true
	v.WindowTitle = "clrelay top"
	return v
}

func (m *model) text() string {
	var b strings.Builder
	window := "last hour"
	if m.q.day {
		window = "last day"
	}
	state := ""
	if m.q.paused {
		state = "  PAUSED"
	}
	b.WriteString(m.bold.Render("clrelay top") + fmt.Sprintf("  %s, %s, nodes by %s%s\n\n", viewName(m.q.by), window, m.q.sort, m.alarm.Render(state)))
	switch {
	case m.err != nil:
		b.WriteString(m.alarm.Render(cmdline.Cell(m.err.Error(), max(20, m.width))) + "\n")
	case m.seen == nil:
		b.WriteString("asking ...\n")
	}
	if m.seen != nil {
		if len(m.seen.MissingNodes) > 0 {
			b.WriteString(m.alarm.Render("no answer from "+strings.Join(m.seen.MissingNodes, ", ")) + "\n")
		}
		for _, t := range m.seen.tables(views[m.seen.By]) {
			b.WriteString(m.table(t) + "\n")
		}
	}
	b.WriteString(m.faint.Render("s senders  d domains  c clients  r reasons  t destinations  w hour/day  o order  p pause  q quit"))
	return m.fit(b.String())
}

// table aligns cells; the first row is its head.
func (m *model) table(rows [][]string) string {
	widths := map[int]int{}
	for _, r := range rows {
		for i, c := range r {
			widths[i] = max(widths[i], lipgloss.Width(c))
		}
	}
	var b strings.Builder
	for n, r := range rows {
		var line strings.Builder
		for i, c := range r {
			line.WriteString(c)
			if i+1 < len(r) {
				line.WriteString(strings.Repeat(" ", widths[i]-lipgloss.Width(c)+2))
			}
		}
		switch text := line.String(); {
		case n == 0:
			b.WriteString(m.faint.Render(text))
		case strings.Contains(text, "NOT READY"):
			b.WriteString(m.alarm.Render(text))
		default:
			b.WriteString(text)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// fit cuts what the terminal has no room for.
func (m *model) fit(text string) string {
	if m.width == 0 || m.height == 0 {
		return text
	}
	lines := strings.Split(text, "\n")
	if len(lines) > m.height { // the keys stay in sight
		lines = append(lines[:m.height-1], lines[len(lines)-1])
	}
	cut := lipgloss.NewStyle().MaxWidth(m.width)
	for i, l := range lines {
		lines[i] = cut.Render(l)
	}
	return strings.Join(lines, "\n")
}
