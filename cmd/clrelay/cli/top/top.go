// Package top is the command top: how much mail goes where, and whose it is, as
// a live screen or once.
package top

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// Connect connects to a relay, calls f, and explains its errors.
type Connect func(f func(conn grpc.ClientConnInterface) error) error

// askTimeout bounds one look.
const askTimeout = 10 * time.Second

// onceApart is how far apart the two looks are that --once makes rates of.
const onceApart = time.Second

// question is what is to be shown.
type question struct {
	by     adminv1.TopBy
	day    bool // the last day, not the last hour
	limit  int32
	sort   sorting
	every  time.Duration
	paused bool
}

// Command makes the command top. screen is nil where stdout is no terminal.
func Command(c *cmdline.Console, with Connect, terminal func() *os.File) *cobra.Command {
	var (
		by, window string
		once       bool
		q          = question{limit: 10, every: 2 * time.Second}
	)
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Watch how much mail goes where, and whose it is",
		Long: `Shows the nodes with their rates, sessions and queues, and below them who has
most: senders, recipients' domains or clients' addresses of what was accepted,
why attempts failed, or the destinations with most mail in the queue.

Rows are counted over the last hour or day, in memory of a bounded size: a COUNT
is at most what it says, and at least that less what is in brackets behind it.
Who has much is never missing. Counts begin anew when a node starts.

Keys: s senders, d domains, c clients, r reasons, t destinations, w last hour or
day, o order, p pause, q quit. With --once, and where stdout is no terminal, it
prints one look, for which it takes a second.`,
		Example: "  clrelay top\n  clrelay top --once --by sender --window 24h -o json",
		Args:    cmdline.AtMost[*cobra.Command](0, "top takes no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var ok bool
			if q.by, ok = views[by]; !ok {
				return cmdline.Usagef(cmd.CommandPath(), "--by %s: sender, domain, client, reason or destination", by)
			}
			if q.day = window == "24h"; !q.day && window != "1h" {
				return cmdline.Usagef(cmd.CommandPath(), "--window %s: 1h or 24h", window)
			}
			switch {
			case q.limit < 1 || q.limit > 500:
				return cmdline.Usagef(cmd.CommandPath(), "--limit %d: from 1 to 500", q.limit)
			case q.every < 200*time.Millisecond:
				return cmdline.Usagef(cmd.CommandPath(), "--every %v: 200ms or more", q.every)
			}
			screen := terminal()
			return with(func(conn grpc.ClientConnInterface) error {
				asker := &asker{client: adminv1.NewTopServiceClient(conn)}
				if once || screen == nil || c.Format != cmdline.FormatTable {
					return printOnce(cmd.Context(), c, asker, &q)
				}
				return live(cmd.Context(), c.Stdin, screen, asker, q)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&by, "by", "sender", "`what` the rows are: sender, domain, client, reason or destination")
	f.StringVar(&window, "window", "1h", "count over the last `time`: 1h or 24h")
	f.Int32Var(&q.limit, "limit", 10, "show so `many` rows at most")
	f.DurationVar(&q.every, "every", 2*time.Second, "look again after this `time`")
	f.BoolVar(&once, "once", false, "print one look and end")
	return cmd
}

// views are what rows can be. Destinations come with every look.
var views = map[string]adminv1.TopBy{
	"sender": adminv1.TopBy_TOP_BY_SENDER, "domain": adminv1.TopBy_TOP_BY_DOMAIN, "client": adminv1.TopBy_TOP_BY_CLIENT,
	"reason": adminv1.TopBy_TOP_BY_REASON, "destination": adminv1.TopBy_TOP_BY_UNSPECIFIED,
}

func viewName(by adminv1.TopBy) string {
	for name, v := range views {
		if v == by {
			return name
		}
	}
	return "sender"
}

// asker looks, and makes rates of two looks.
type asker struct {
	client adminv1.TopServiceClient

	mu   sync.Mutex // a look may begin before the last one has ended
	last map[string]*adminv1.NodeStats
}

func (a *asker) look(ctx context.Context, q *question) (*look, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	window := time.Hour
	if q.day {
		window = 24 * time.Hour
	}
	res, err := a.client.Stats(ctx, &adminv1.StatsRequest{By: q.by, Window: span(window), Limit: q.limit})
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	out := newLook(res, a.last, q, window)
	a.last = map[string]*adminv1.NodeStats{}
	for _, n := range res.GetNodes() {
		a.last[n.GetNode()] = n
	}
	return out, nil
}

// printOnce looks twice and prints what it saw.
func printOnce(ctx context.Context, c *cmdline.Console, a *asker, q *question) error {
	if _, err := a.look(ctx, q); err != nil {
		return err
	}
	apart := time.NewTimer(onceApart)
	defer apart.Stop()
	select {
	case <-apart.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	l, err := a.look(ctx, q)
	if err != nil {
		return err
	}
	if err := c.Object(l, func(w io.Writer) error {
		for i, t := range l.tables(q.by) {
			if i > 0 {
				if _, err := fmt.Fprintln(w); err != nil {
					return err
				}
			}
			for _, row := range t {
				if _, err := fmt.Fprintln(w, strings.Join(row, "\t")); err != nil {
					return err
				}
			}
		}
		return nil
	}); err != nil {
		return err
	}
	if len(l.MissingNodes) > 0 {
		return cmdline.Exitf(cmdline.ExitPartly, "no answer from %s: what is there is missing here", strings.Join(l.MissingNodes, ", "))
	}
	return nil
}
