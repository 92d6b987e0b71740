package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

const (
	// sayEvery is how often progress is told where no terminal shows it live.
	sayEvery = 10 * time.Second
	// againAfter is the pause before another node is asked how it goes on.
	againAfter = time.Second
	barWidth   = 24
)

// drain is what node drain prints.
type drain struct {
	Node     string `json:"node"`
	State    string `json:"state"` // draining or drained
	Segments int64  `json:"segments"`
	Copies   int64  `json:"copies"`
	Queued   *int64 `json:"queued"` // null when the node did not answer
	Sessions int64  `json:"sessions"`
	Blocked  string `json:"blocked"`
}

func drainOf(name string, p *adminv1.DrainResponse) drain {
	d := drain{name, "draining", p.GetSegments(), p.GetCopies(), p.Queued, p.GetSessions(), p.GetBlocked()}
	if p.GetDone() {
		d.State = "drained"
	}
	return d
}

func (d *drain) text() string {
	s := fmt.Sprintf("%s of its own, %s, %s", cmdline.Plural(d.Segments, "segment"), copies(d.Copies), cmdline.Plural(d.Sessions, "session"))
	if d.Queued != nil {
		s += fmt.Sprintf(", %s queued", cmdline.Count(*d.Queued))
	}
	if d.Blocked != "" {
		s += " (" + cmdline.Cell(d.Blocked, 200) + ")"
	}
	return s
}

func copies(n int64) string {
	if n == 1 {
		return "1 copy"
	}
	return cmdline.Count(n) + " copies"
}

func (a *nouns) drainCommand() *cobra.Command {
	var (
		wait    bool
		timeout time.Duration
	)
	cmd := &cobra.Command{
		Use:   "drain NAME",
		Short: "Empty a node, so that it can be stopped",
		Long: `Empty a node: it takes no more mail, hands what it owns to the other nodes and
sees that its copies are elsewhere. It is drained once it owns nothing, holds
no copy and no SMTP session, and stays so, over a restart too, until "node
resume" or "node remove".

Draining goes on by itself. With --wait this command follows it and ends once
the node is drained; the exit code is 4 when --timeout is over before, and 130
after Ctrl-C. It is refused (6) where too few nodes would stay in service.`,
		Args: cmdline.Exactly[*cobra.Command](1, "it takes one NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if timeout < 0 || cmd.Flags().Changed("timeout") && !wait {
				return cmdline.Usagef(cmd.CommandPath(), "--timeout is for --wait, and not negative")
			}
			if timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, timeout)
				defer cancel()
			}
			return a.follow(cmd.Context(), ctx, args[0], wait)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&wait, "wait", false, "end once the node is drained")
	f.DurationVar(&timeout, "timeout", 0, "with --wait: for so `long` at most, such as 10m; 0 is for ever")
	return cmd
}

// follow begins to drain a node and follows that until it is over, or tells
// once how far it is. A node that ends meanwhile is no end: the next one that
// can be reached is asked. whole is done at Ctrl-C, ctx at the timeout as well.
func (a *nouns) follow(whole, ctx context.Context, name string, wait bool) error {
	show := &progress{Console: a.Console, name: name}
	for {
		last, err := a.watch(ctx, name, wait, show)
		show.end()
		switch {
		case last != nil && (last.State == "drained" || !wait && err == nil):
			return a.printDrain(last)
		case whole.Err() != nil && show.begun:
			a.Talk("Draining %s goes on. Follow it with: clrelay node drain %s --wait", name, name)
			return cmdline.Exitf(cmdline.ExitInterrupted, "interrupted")
		case ctx.Err() != nil && show.begun:
			a.Talk("Draining %s goes on. Follow it with: clrelay node drain %s --wait", name, name)
			return cmdline.Exitf(cmdline.ExitUnreachable, "%s is not drained yet", name)
		case ctx.Err() != nil && whole.Err() == nil:
			return cmdline.Exitf(cmdline.ExitUnreachable, "no answer in time: whether draining %s has begun is not known", name)
		case !wait || !show.begun || !cmdline.Passing(err):
			return err
		}
		t := time.NewTimer(againAfter)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
}

// watch follows the draining over one connection and gives what was said last.
func (a *nouns) watch(ctx context.Context, name string, wait bool, show *progress) (last *drain, err error) {
	err = a.with(func(conn grpc.ClientConnInterface) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := adminv1.NewNodeServiceClient(conn).Drain(ctx, &adminv1.DrainRequest{Node: name})
		if err != nil {
			return err
		}
		for {
			p, err := stream.Recv()
			switch {
			case errors.Is(err, io.EOF):
				return grpcstatus.Error(codes.Unavailable, "the relay ended the answer")
			case err != nil:
				return err
			}
			d := drainOf(name, p)
			last = &d
			if !wait || p.GetDone() {
				return nil
			}
			show.say(&d)
		}
	})
	return last, err
}

func (a *nouns) printDrain(d *drain) error {
	return a.Object(d, func(w io.Writer) error {
		if d.State == "drained" {
			_, err := fmt.Fprintf(w, "%s is drained: it owns nothing and holds no session\n", d.Node)
			return err
		}
		_, err := fmt.Fprintf(w, "%s is draining: %s\n", d.Node, d.text())
		return err
	})
}

// progress tells a human how far it is: on a terminal live, else now and then.
type progress struct {
	*cmdline.Console
	name  string
	begun bool
	live  bool
	most  int64 // copies at the beginning
	said  time.Time
}

func (p *progress) say(d *drain) {
	p.begun = true
	p.most = max(p.most, d.Copies)
	if p.Terminal() {
		p.live = true
		_, _ = fmt.Fprintf(p.Stderr, "\r\x1b[K%s %s %s", p.name, bar(p.most-d.Copies, p.most), d.text()) // as Talk
		return
	}
	if now := p.Now(); p.said.IsZero() || now.Sub(p.said) >= sayEvery {
		p.said = now
		p.Talk("%s is draining: %s", p.name, d.text())
	}
}

// end finishes the line that is shown live.
func (p *progress) end() {
	if p.live {
		p.live = false
		p.Talk("")
	}
}

// bar draws how much of all is done.
func bar(done, all int64) string {
	full := barWidth
	if all > 0 {
		full = int(done * barWidth / all)
	}
	return "[" + strings.Repeat("#", full) + strings.Repeat("-", barWidth-full) + "]"
}
