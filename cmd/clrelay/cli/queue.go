package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/spf13/cobra"

	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

func (a *App) queueCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "queue",
		Short: "Look at the queue and change what is in it",
		Long: `Look at the queue and change what is in it.

The unit is the recipient: a message to three recipients may be delivered to
one, deferred for another and held for the third. Selectors narrow down which
recipients are meant: one must match each kind of selector that is given, and
any of the values of the same kind. A command that changes something needs at
least one; --everything stands for the whole queue.`,
	}
	cmd.AddCommand(a.summaryCommand(), a.listCommand())
	cmd.AddCommand(a.changeCommands()...)
	return cmd
}

// summary is what queue summary prints.
type summary struct {
	Messages      int64   `json:"messages"`
	Recipients    int64   `json:"recipients"`
	Active        int64   `json:"active"`
	Deferred      int64   `json:"deferred"`
	Held          int64   `json:"held"`
	OldestSeconds float64 `json:"oldest_seconds"` // 0 when the queue is empty
}

func (a *App) summaryCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "summary",
		Short: "Count what is in the queue",
		Args:  atMost(0, "the summary is of the whole queue"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(l *link) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
				defer cancel()
				res, err := adminv1.NewQueueServiceClient(l).Summary(ctx, &adminv1.SummaryRequest{})
				if err != nil {
					return l.fail(err)
				}
				return a.printSummary(res)
			})
		},
	}
	return cmd
}

func (a *App) printSummary(res *adminv1.SummaryResponse) error {
	oldest := res.GetOldest().AsDuration()
	out := summary{res.GetMessages(), res.GetRecipients(), res.GetActive(), res.GetDeferred(), res.GetHeld(), seconds(oldest)}
	return a.object(out, func(w io.Writer) error {
		age := "-"
		if res.GetOldest() != nil {
			age = span(oldest)
		}
		_, err := fmt.Fprintf(w, "messages\t%s\nrecipients\t%s\n  active\t%s\n  deferred\t%s\n  held\t%s\noldest\t%s\n",
			count(out.Messages), count(out.Recipients), count(out.Active), count(out.Deferred), count(out.Held), age)
		return err
	})
}

// seconds gives a duration as JSON shows it, to the millisecond.
func seconds(d time.Duration) float64 { return math.Round(d.Seconds()*1000) / 1000 }

// queueRow is one recipient in queue list.
type queueRow struct {
	ID          string     `json:"id"`
	Node        string     `json:"node"`
	From        string     `json:"from"`
	Rcpt        string     `json:"rcpt"`
	Domain      string     `json:"domain"`
	State       string     `json:"state"`
	Size        int64      `json:"size"`
	Arrived     *time.Time `json:"arrived"`
	Attempts    uint32     `json:"attempts"`
	NextAttempt *time.Time `json:"next_attempt"`
	LastReply   string     `json:"last_reply"`
}

func (a *App) listCommand() *cobra.Command {
	var (
		sel   selector
		limit int64
	)
	cmd := &cobra.Command{
		Use:   "list [ID...]",
		Short: "List the recipients in the queue",
		Long: `List the recipients in the queue in the order of their arrival, one row each.
Without selectors and --limit all are listed.`,
		Example: `  clrelay queue list --domain example.org --state deferred
  clrelay queue list --older 1d -o jsonl`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 0 {
				return usagef(cmd.CommandPath(), "--limit must not be negative")
			}
			picked, err := sel.message(cmd, args, a.Now())
			if err != nil {
				return err
			}
			return a.with(func(l *link) error {
				return a.printList(cmd.Context(), l, &adminv1.ListRequest{Selector: picked, Limit: limit})
			})
		},
	}
	sel.flags(cmd)
	cmd.Flags().Int64Var(&limit, "limit", 0, "list so `many` at most; 0 is all")
	return cmd
}

func (a *App) printList(ctx context.Context, l *link, req *adminv1.ListRequest) error {
	stream, err := adminv1.NewQueueServiceClient(l).List(ctx, req)
	if err != nil {
		return l.fail(err)
	}
	out, now := a.list("ID", "STATE", "AGE", "SIZE", "TRIES", "NEXT", "FROM", "RCPT", "LAST REPLY"), a.Now()
	for {
		batch, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out.end()
		}
		if err != nil {
			if out.rows > 0 { // what came is worth something, and must not look complete
				_ = out.w.Flush() // the error that counts is the other
			}
			return l.fail(err)
		}
		for _, e := range batch.GetEntries() {
			row := queueRow{
				e.GetId(), e.GetNode(), e.GetFrom(), e.GetRcpt(), e.GetDomain(), stateWord(e.GetState()), e.GetSize(),
				stamp(e.GetArrived()), e.GetAttempts(), stamp(e.GetNextAttempt()), e.GetLastReply(),
			}
			if err := out.row(row, row.ID, row.State, ago(e.GetArrived(), now), size(row.Size), count(int64(row.Attempts)),
				ahead(e.GetNextAttempt(), now), orNull(row.From), orNull(row.Rcpt), cell(row.LastReply, 80)); err != nil {
				return err
			}
		}
	}
}
