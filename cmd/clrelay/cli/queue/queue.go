// Package queue is the nouns queue and message of the command line: looking at
// the queue, and changing what is in it.
package queue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// Connect connects to a relay, calls f, and explains its errors.
type Connect func(f func(conn grpc.ClientConnInterface) error) error

type nouns struct {
	*cmdline.Console
	with Connect
}

// Commands makes the commands queue and message.
func Commands(c *cmdline.Console, with Connect) []*cobra.Command {
	n := &nouns{c, with}
	return []*cobra.Command{n.queueCommand(), n.messageCommand()}
}

// askTimeout bounds a call that only looks at something small.
const askTimeout = 30 * time.Second

func (a *nouns) queueCommand() *cobra.Command {
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
	cmd.AddCommand(a.summaryCommand(), a.listCommand(), a.shapeCommand(), a.reasonsCommand())
	cmd.AddCommand(a.changeCommands()...)
	cmd.AddCommand(a.exportCommand(), a.ruleCommand())
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
	Trashed       int64   `json:"trashed"`        // not among the others
}

func (a *nouns) summaryCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "summary",
		Short: "Count what is in the queue",
		Args:  cmdline.AtMost[*cobra.Command](0, "the summary is of the whole queue"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(l grpc.ClientConnInterface) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
				defer cancel()
				res, err := adminv1.NewQueueServiceClient(l).Summary(ctx, &adminv1.SummaryRequest{})
				if err != nil {
					return err
				}
				return a.printSummary(res)
			})
		},
	}
	return cmd
}

// missing is the error of an answer that lacks some nodes.
func missing(nodes []string) error {
	if len(nodes) == 0 {
		return nil
	}
	return cmdline.Exitf(cmdline.ExitPartly, "no answer from %s: what is there is missing here", strings.Join(nodes, ", "))
}

func (a *nouns) printSummary(res *adminv1.SummaryResponse) error {
	oldest := res.GetOldest().AsDuration()
	out := summary{res.GetMessages(), res.GetRecipients(), res.GetActive(), res.GetDeferred(), res.GetHeld(), seconds(oldest), res.GetTrashed()}
	err := a.Object(out, func(w io.Writer) error {
		age := "-"
		if res.GetOldest() != nil {
			age = cmdline.Span(oldest)
		}
		_, err := fmt.Fprintf(w, "messages\t%s\nrecipients\t%s\n  active\t%s\n  deferred\t%s\n  held\t%s\noldest\t%s\ntrashed\t%s\n",
			cmdline.Count(out.Messages), cmdline.Count(out.Recipients), cmdline.Count(out.Active), cmdline.Count(out.Deferred), cmdline.Count(out.Held), age, cmdline.Count(out.Trashed))
		return err
	})
	if err != nil {
		return err
	}
	return missing(res.GetMissingNodes())
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
	Sender      string     `json:"sender"`
	Client      string     `json:"client"`
	Route       string     `json:"route"`
	Rerouted    string     `json:"rerouted"`
	Rule        string     `json:"rule"`
	Expires     *time.Time `json:"expires"`
	Class       string     `json:"class"`
}

func (a *nouns) listCommand() *cobra.Command {
	var (
		sel   selector
		limit int64
	)
	cmd := &cobra.Command{
		Use:   "list [ID...]",
		Short: "List the recipients in the queue",
		Long: `List the recipients in the queue in the order of their arrival, one row each.
Without selectors and --limit all are listed, but for the trash: --state trash
shows what was dropped and can be brought back, and when it is destroyed.`,
		Example: `  clrelay queue list --domain example.org --state deferred
  clrelay queue list --older 1d -o jsonl
  clrelay queue list --reason-class policy --attempts-over 5 --route mx`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 0 {
				return cmdline.Usagef(cmd.CommandPath(), "--limit must not be negative")
			}
			picked, err := sel.message(cmd, args, a.Now())
			if err != nil {
				return err
			}
			return a.with(func(l grpc.ClientConnInterface) error {
				return a.printList(cmd.Context(), l, &adminv1.ListRequest{Selector: picked, Limit: limit})
			})
		},
	}
	sel.flags(cmd)
	cmd.Flags().Int64Var(&limit, "limit", 0, "list so `many` at most; 0 is all")
	return cmd
}

func (a *nouns) printList(ctx context.Context, l grpc.ClientConnInterface, req *adminv1.ListRequest) error {
	stream, err := adminv1.NewQueueServiceClient(l).List(ctx, req)
	if err != nil {
		return err
	}
	var absent []string
	out, now := a.List("ID", "STATE", "AGE", "SIZE", "TRIES", "NEXT", "FROM", "RCPT", "LAST REPLY"), a.Now()
	for {
		batch, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			if err := out.End(); err != nil {
				return err
			}
			return missing(absent)
		}
		if err != nil {
			out.Cut()
			return err
		}
		absent = append(absent, batch.GetMissingNodes()...)
		for _, e := range batch.GetEntries() {
			row := queueRow{
				e.GetId(), e.GetNode(), e.GetFrom(), e.GetRcpt(), e.GetDomain(), stateWord(e.GetState()), e.GetSize(),
				cmdline.Stamp(e.GetArrived()), e.GetAttempts(), cmdline.Stamp(e.GetNextAttempt()), e.GetLastReply(),
				e.GetSender(), e.GetClient(), e.GetRoute(), e.GetRerouted(), e.GetRule(), cmdline.Stamp(e.GetExpires()), e.GetClass(),
			}
			if err := out.Row(row, row.ID, row.State, a.Ago(e.GetArrived()), cmdline.Size(row.Size), cmdline.Count(int64(row.Attempts)),
				ahead(e.GetNextAttempt(), now), orNull(row.From), orNull(row.Rcpt), cmdline.Cell(row.LastReply, 80)); err != nil {
				return err
			}
		}
	}
}
