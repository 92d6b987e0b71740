package demo

import (
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/clrelay/clrelay/cmd/clrelay/demo/world"
	"github.com/clrelay/clrelay/cmd/clrelay/demo/world/post"
)

// screen shows the world: on a terminal as a picture that is drawn anew, else
// as lines.
type screen struct {
	out      io.Writer
	w        *world.World
	binary   string
	nodes    int
	scripted bool
	every    time.Duration
	live     bool
	left     bool
	width    func() int
	last     post.Sums
	lastAt   time.Duration
	news     []world.News // that are on the screen
}

// newsShown is how many things that happened are on the screen.
const newsShown = 12

func newScreen(o Options, w *world.World) *screen {
	s := &screen{out: o.Out, w: w, binary: o.Binary, nodes: o.Nodes, scripted: o.Script != "", every: time.Second, width: func() int { return 100 }}
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
	if s.live && !s.left {
		fmt.Fprint(s.out, "\x1b[?25h\x1b[?1049l")
	}
	s.left = true
}

func (s *screen) help() []string {
	n := s.w.Nodes()[0]
	addr := s.w.Address()
	what := "a relay, an inbox and a DNS server"
	where := "  relay    smtp " + addr + "   http://" + n.HTTP + "/metrics"
	if s.nodes > 1 {
		what = fmt.Sprintf("a cluster of %d relays, an inbox and a DNS server", s.nodes)
		where = "  clients  smtp " + addr + ", a front that takes the next node whose /lb says 200"
	}
	return []string{
		"clrelay demo: " + what + " on this machine; nothing leaves it, everything is deleted at the end",
		"",
		where,
		"  by hand  swaks --server " + addr + " --from me@" + post.HomeDomain + " --to you@" + post.Domains[0].Name,
		"  queue    CLRELAY_SOCKET=" + n.Socket() + " " + s.binary + " queue list",
		"",
	}
}

func (s *screen) draw() {
	if s.left {
		return
	}
	sum, now := s.w.Sums(), s.w.Elapsed()
	books := fmt.Sprintf("accepted %d = delivered %d + bounced %d + queued %d + under way %d   LOST %d   twice %d of %d counted",
		sum.Accepted, sum.Delivered, sum.Bounced, sum.Queued, sum.UnderWay, sum.Lost, sum.Twice, s.w.Counted())
	news := s.w.News()
	if !s.live {
		for _, n := range news {
			fmt.Fprintf(s.out, "%s  * %s\n", clock(n.At), n.Text)
		}
		fmt.Fprintf(s.out, "%s  %s%s\n", clock(now), books, s.brief())
		return
	}
	rate := 0.0
	if d := (now - s.lastAt).Seconds(); d > 0 {
		rate = float64(sum.Accepted-s.last.Accepted) / d
	}
	s.last, s.lastAt = sum, now
	lines := append(s.help(), fmt.Sprintf("  %s   %.0f recipients/s   %d messages at the clients   %d attempts to try again", clock(now), rate, s.w.Waiting(), sum.Refused), "  "+books, "")
	if s.nodes > 1 {
		lines = append(lines, s.cluster(news)...)
	} else {
		lines = append(lines, s.alone()...)
	}
	s.paint(lines)
}

// cluster shows the nodes and what happened to them.
func (s *screen) cluster(news []world.News) []string {
	s.news = append(s.news, news...)
	if n := len(s.news); n > newsShown {
		s.news = s.news[n-newsShown:]
	}
	lines := []string{fmt.Sprintf("    %-5s %-34s %8s   %s", "node", "state", "queued", "segments: owned (open, sealed, taking over), copies kept for others, taken over")}
	for i, n := range s.w.Nodes() {
		l, mark := n.Look(), " "
		if i == s.w.Chosen() {
			mark = ">"
		}
		bar := strings.Repeat("#", min(l.Open, 20)) + strings.Repeat("=", min(l.Sealed, 20)) + strings.Repeat("?", min(l.Recovering, 20)) + strings.Repeat(".", min(l.Member, 20))
		lines = append(lines, fmt.Sprintf("  %s %-5s %-34s %8d   %3d (%d, %d, %d)  %3d  %3d   %s", mark, n.Name, state(l), l.Queued, l.Owned(), l.Open, l.Sealed, l.Recovering, l.Member, l.Takeovers, bar))
	}
	lines = append(lines, "")
	for _, n := range s.news {
		lines = append(lines, "  "+clock(n.At)+"  "+n.Text)
	}
	for range newsShown - len(s.news) {
		lines = append(lines, "")
	}
	lines = append(lines, "")
	for _, h := range keyHelp {
		lines = append(lines, "  "+h)
	}
	return lines
}

// state says in a few words how a node is.
func state(l world.Look) string {
	switch {
	case !l.Running:
		return "DEAD"
	case l.Paused:
		return "PAUSED"
	case l.Cut && l.Ready:
		return "CUT OFF, its lease runs out"
	case l.Cut:
		return "CUT OFF, takes and delivers nothing"
	case l.Ready:
		return "takes mail"
	case l.Why == "":
		return "starting"
	}
	return "not ready: " + l.Why[:min(len(l.Why), 22)]
}

// brief is the cluster in a line.
func (s *screen) brief() string {
	if s.nodes == 1 {
		return ""
	}
	var out []string
	for _, n := range s.w.Nodes() {
		l := n.Look()
		word, _, _ := strings.Cut(state(l), ",")
		if l.Ready && !l.Cut {
			word = fmt.Sprintf("%d+%d segments", l.Owned(), l.Member)
		}
		out = append(out, n.Name+" "+word)
	}
	return "   [" + strings.Join(out, ", ") + "]"
}

// alone shows one relay: what the domains did, and its log.
func (s *screen) alone() []string {
	lines := []string{fmt.Sprintf("  %-18s %8s %8s %8s   %s", "domain", "taken", "later", "refused", "what it does")}
	for _, d := range post.Domains {
		t := s.w.Tally(d.Name)
		lines = append(lines, fmt.Sprintf("  %-18s %8d %8d %8d   %s", d.Name, t.Taken, t.Later, t.Never, d.What))
	}
	t := s.w.Tally(post.HomeDomain)
	lines = append(lines, fmt.Sprintf("  %-18s %8d %8s %8s   %s", post.HomeDomain, t.Taken, "", "", "the senders' own domain: bounces come back here"), "", "  the relay's log")
	for _, l := range s.w.Nodes()[0].Log() {
		lines = append(lines, "  "+shorten(l))
	}
	return append(lines, "", "  Ctrl-C ends the demo and draws up the account.")
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

// shorten makes a line of the relay's log fit the screen: the time without
// its date, and without what is the same in every line.
func shorten(line string) string {
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
	d = max(d, 0)
	return fmt.Sprintf("%02d:%04.1f", int(d.Minutes()), d.Seconds()-60*float64(int(d.Minutes())))
}
