package demo

import (
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/term"
)

// screen shows the world: on a terminal as a picture that is drawn anew, else
// as one line a second.
type screen struct {
	out   io.Writer
	w     *world
	every time.Duration
	live  bool
	width func() int
	start time.Time
	last  sums
}

func newScreen(o Options, w *world) *screen {
	s := &screen{out: o.Out, w: w, every: time.Second, start: time.Now(), width: func() int { return 100 }}
	fd := int(o.Out.Fd())
	if !o.Plain && term.IsTerminal(fd) {
		s.live, s.every = true, 250*time.Millisecond
		s.width = func() int {
			if n, _, err := term.GetSize(fd); err == nil && n > 20 {
				return n
			}
			return 100
		}
	}
	return s
}

func (s *screen) intro() {
	if s.live {
		fmt.Fprint(s.out, "\x1b[?1049h\x1b[?25l") // the other screen, no cursor
		return
	}
	for _, l := range s.help() {
		fmt.Fprintln(s.out, l)
	}
}

// leave gives the terminal back.
func (s *screen) leave() {
	if s.live {
		fmt.Fprint(s.out, "\x1b[?25h\x1b[?1049l")
	}
}

func (s *screen) help() []string {
	r := s.w.relay
	host, port, _ := strings.Cut(r.smtp, ":")
	return []string{
		"clrelay demo: a relay, an inbox and a DNS server on this machine; nothing leaves it, everything is deleted at the end",
		"",
		"  relay    smtp " + r.smtp + "   http://" + r.http + "/metrics",
		"  by hand  swaks --server " + r.smtp + " --from me@" + homeDomain + " --to you@" + domains[0].name,
		"           telnet " + host + " " + port,
		"  queue    CLRELAY_SOCKET=" + r.socket() + " " + r.binary + " queue list",
		"",
	}
}

func (s *screen) draw() {
	sum := s.w.ledger.sum()
	seconds := s.every.Seconds()
	rate := float64(sum.accepted-s.last.accepted) / seconds
	s.last = sum
	books := fmt.Sprintf("accepted %d = delivered %d + bounced %d + queued %d + under way %d   LOST %d",
		sum.accepted, sum.delivered, sum.bounced, sum.queued, sum.accepted-sum.delivered-sum.bounced-sum.queued-sum.lost, sum.lost)
	if !s.live {
		fmt.Fprintf(s.out, "%s  %s\n", clock(time.Since(s.start)), books)
		return
	}
	var lines []string
	lines = append(lines, s.help()...)
	lines = append(lines, fmt.Sprintf("  %s   %.0f recipients/s", clock(time.Since(s.start)), rate), "  "+books, "")
	lines = append(lines, fmt.Sprintf("  %-18s %8s %8s %8s   %s", "domain", "taken", "later", "refused", "what it does"))
	for _, d := range domains {
		t := s.w.inbox.snapshot(d.name)
		lines = append(lines, fmt.Sprintf("  %-18s %8d %8d %8d   %s", d.name, t.taken, t.later, t.never, d.what))
	}
	t := s.w.inbox.snapshot(homeDomain)
	lines = append(lines, fmt.Sprintf("  %-18s %8d %8s %8s   %s", homeDomain, t.taken, "", "", "the senders' own domain: bounces come back here"), "", "  the relay's log")
	for _, l := range s.w.relay.events.last() {
		lines = append(lines, "  "+brief(l))
	}
	lines = append(lines, "", "  Ctrl-C ends the demo and draws up the account.")
	s.paint(lines)
}

// paint draws lines over the last picture.
func (s *screen) paint(lines []string) {
	var b strings.Builder
	b.WriteString("\x1b[H")
	width := s.width()
	for _, l := range lines {
		if r := []rune(l); len(r) > width {
			l = string(r[:width-1]) + "…"
		}
		b.WriteString(l + "\x1b[K\r\n")
	}
	b.WriteString("\x1b[J")
	fmt.Fprint(s.out, b.String())
}

// brief shortens a line of the relay's log for the screen: the time without
// its date, and without what is the same in every line.
func brief(line string) string {
	var out []string
	for _, f := range strings.Fields(line) {
		key, value, _ := strings.Cut(f, "=")
		switch key {
		case "time":
			_, clock, _ := strings.Cut(value, "T")
			f, _, _ = strings.Cut(clock, ".")
		case "event":
			f = fmt.Sprintf("%-9s", value)
		case "node", "id", "rcpts", "client", "helo", "proto", "sender", "attempt":
			continue
		}
		out = append(out, f)
	}
	return strings.Join(out, " ")
}

func clock(d time.Duration) string {
	return fmt.Sprintf("%02d:%02d", int(d.Minutes()), int(d.Seconds())%60)
}
