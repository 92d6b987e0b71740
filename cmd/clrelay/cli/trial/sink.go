package trial

import (
	"context"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/spf13/cobra"

	"github.com/clrelay/clrelay/internal/cmdline"
)

// sink is a mail server that keeps nothing, or all in files.
type sink struct {
	n      *noun
	listen string
	fail   float64 // share of messages that are put off
	slow   time.Duration
	keep   string
	lmtp   bool

	mu    sync.Mutex
	count int
}

func (n *noun) sinkCommand() *cobra.Command {
	s := &sink{n: n}
	fail := ""
	cmd := &cobra.Command{
		Use:   "sink",
		Short: "Be a mail server that takes everything",
		Long: `Takes every message and prints a line for each, until Ctrl-C. It is for trying
out a relay: nothing is delivered. --fail lets it answer a share of the messages
with 451, and some recipients have a meaning of their own: a local part that
ends in +451 or +550 is refused with that code.`,
		Example: "  clrelay test sink --listen 127.0.0.1:2525 --fail 10% --slow 1s --keep /tmp/mails",
		Args:    cmdline.AtMost[*cobra.Command](0, "sink takes no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := strconv.ParseFloat(strings.TrimSuffix(fail, "%"), 64)
			if err != nil || p < 0 || p > 100 {
				return cmdline.Usagef(cmd.CommandPath(), "--fail %s: a share such as 10%%", fail)
			}
			if s.slow < 0 {
				return cmdline.Usagef(cmd.CommandPath(), "--slow %v: a time of 0 or more", s.slow)
			}
			s.fail = p / 100
			ctx, cancel := signal.NotifyContext(cmd.Context(), syscall.SIGTERM)
			defer cancel()
			return s.serve(ctx)
		},
	}
	f := cmd.Flags()
	f.StringVar(&s.listen, "listen", "127.0.0.1:2525", "`address:port` to listen on")
	f.StringVar(&fail, "fail", "0%", "`share` of the messages to put off with 451")
	f.DurationVar(&s.slow, "slow", 0, "`time` to take before the answer to each message")
	f.StringVar(&s.keep, "keep", "", "keep each message as a file in this `folder`")
	f.BoolVar(&s.lmtp, "lmtp", false, "speak LMTP")
	return cmd
}

func (s *sink) serve(ctx context.Context) error {
	if s.keep != "" {
		if err := os.MkdirAll(s.keep, 0o700); err != nil {
			return err
		}
	}
	l, err := net.Listen("tcp", s.listen)
	if err != nil {
		return err
	}
	srv := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &taking{s: s, ctx: ctx}, nil }))
	srv.Domain, srv.LMTP, srv.MaxLineLength = "sink.clrelay.test", s.lmtp, 1<<20
	srv.EnableSMTPUTF8, srv.EnableDSN, srv.EnableBINARYMIME = true, true, true
	srv.ErrorLog = log.New(io.Discard, "", 0)
	s.n.Talk("listening on %s; Ctrl-C ends it", l.Addr())
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // sessions under way are cut off: nothing is lost in a sink
	defer stop()
	err = srv.Serve(l)
	if ctx.Err() != nil {
		s.n.Talk("%s taken", cmdline.Plural(int64(s.count), "message"))
		return nil
	}
	return err
}

// taking is a session with a sink.
type taking struct {
	s    *sink
	ctx  context.Context
	from string
	to   []string
}

func (t *taking) Reset()        { t.from, t.to = "", nil }
func (t *taking) Logout() error { return nil }

func (t *taking) Mail(from string, _ *smtp.MailOptions) error {
	t.from = from
	return nil
}

func (t *taking) Rcpt(to string, _ *smtp.RcptOptions) error {
	local, _, _ := strings.Cut(to, "@")
	switch {
	case strings.HasSuffix(local, "+451"):
		return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: "not now, as you asked"}
	case strings.HasSuffix(local, "+550"):
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such user, as you asked"}
	}
	t.to = append(t.to, to)
	return nil
}

// row is what sink prints of a message.
type row struct {
	At      time.Time `json:"at"`
	From    string    `json:"from"`
	Rcpts   []string  `json:"rcpts"`
	Size    int64     `json:"size"`
	Subject string    `json:"subject"`
	Taken   bool      `json:"taken"`
	File    string    `json:"file"`
}

func (t *taking) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if t.s.slow > 0 {
		wait := time.NewTimer(t.s.slow)
		defer wait.Stop()
		select {
		case <-wait.C:
		case <-t.ctx.Done():
			return t.ctx.Err()
		}
	}
	out := row{At: t.s.n.Now().UTC().Truncate(time.Millisecond), From: t.from, Rcpts: append([]string{}, t.to...), Size: int64(len(text)), Subject: subject(string(text))}
	out.Taken = t.s.fail == 0 || rand.Float64() >= t.s.fail
	if err := t.s.take(&out, text); err != nil {
		t.s.n.Talk("error: %v", err)
		return &smtp.SMTPError{Code: 452, EnhancedCode: smtp.EnhancedCode{4, 3, 1}, Message: "the sink cannot keep it"}
	}
	if !out.Taken {
		return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: "not now: --fail"}
	}
	return nil
}

// take keeps a message and prints its line.
func (s *sink) take(r *row, text []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Taken {
		s.count++
		if s.keep != "" {
			r.File = filepath.Join(s.keep, fmt.Sprintf("%s-%06d.eml", r.At.Format("20060102T150405"), s.count))
			if err := os.WriteFile(r.File, text, 0o600); err != nil {
				s.count--
				return err
			}
		}
	}
	if s.n.Format != cmdline.FormatTable {
		line, err := cmdline.Marshal(r)
		if err != nil {
			return err
		}
		_, err = s.n.Stdout.Write(append(line, '\n'))
		return err
	}
	word := "taken"
	if !r.Taken {
		word = "put off"
	}
	_, err := fmt.Fprintf(s.n.Stdout, "%s  %-7s  <%s> -> %s  %s  %s\n", r.At.Format(time.TimeOnly), word, cmdline.Cell(r.From, 60),
		cmdline.Cell(strings.Join(r.Rcpts, " "), 120), cmdline.Size(r.Size), cmdline.Cell(r.Subject, 80))
	return err
}

func subject(text string) string {
	head, _, _ := strings.Cut(text, "\r\n\r\n")
	for line := range strings.SplitSeq(head, "\r\n") {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.EqualFold(name, "Subject") {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
