package cluster

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// writeOffTimeout bounds a write-off, which waits for the longest lease there
// can be.
const writeOffTimeout = 2 * time.Minute

// lostSegment is what cluster write-off prints of a segment.
type lostSegment struct {
	Segment string   `json:"segment"`
	Owner   string   `json:"owner"`
	Members []string `json:"members"`
	End     *uint64  `json:"end"` // null when it is not known
	Refused string   `json:"refused"`
}

// writeOff holds the flags.
type writeOff struct {
	segments          []string
	lost, dryRun, yes bool
	expect            int64
	reason            string
}

func (a *nouns) writeOffCommand() *cobra.Command {
	w := &writeOff{}
	cmd := &cobra.Command{
		Use:   "write-off",
		Short: "Give segments up that no disk is left of",
		Long: `Give up segments that no disk is left of: each disk that had a copy was replaced
by an empty one, or its node was removed. The mail in them that was not
delivered is lost, and nobody is told; which it was no node can say. While a
disk may have a copy it is refused (6): "node remove NAME --force" says that it
is gone for good.

The cluster remembers what was written off. Should such a disk turn up after all,
its node brings the segments back and their mail is delivered;
docs/operations.md says how.

On a terminal it counts first and asks for that number. Elsewhere it needs
--yes, and --expect N guards against a surprise: with another number of
segments nothing is changed and the exit code is 6. It takes as long as a lease
(failover.lease). The exit code is 7 when some of them changed meanwhile.`,
		Example: `  clrelay cluster write-off --lost --dry-run
  clrelay cluster write-off --lost --yes --expect 3 --reason INC-4711`,
		Args: cmdline.AtMost[*cobra.Command](0, "segments are named with --segment"),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runWriteOff(cmd, w) },
	}
	f := cmd.Flags()
	f.StringArrayVar(&w.segments, "segment", nil, "a segment's `NAME`, such as 1.5-9; may be given again")
	f.BoolVar(&w.lost, "lost", false, "all segments that no disk is left of")
	f.BoolVar(&w.dryRun, "dry-run", false, "show them, change nothing")
	f.BoolVar(&w.yes, "yes", false, "do not ask")
	f.Int64Var(&w.expect, "expect", 0, "the `number` of segments; with another one nothing is changed")
	f.StringVar(&w.reason, "reason", "", "`why`, for the log")
	return cmd
}

func (a *nouns) runWriteOff(cmd *cobra.Command, w *writeOff) error {
	req := &adminv1.WriteOffRequest{Segments: w.segments, Lost: w.lost, DryRun: w.dryRun, Reason: w.reason}
	if cmd.Flags().Changed("expect") {
		req.Expect = &w.expect
	}
	switch {
	case w.lost == (len(w.segments) > 0):
		return cmdline.Usagef(cmd.CommandPath(), "which segments? Either --segment NAME or --lost, which stands for all that no disk is left of")
	case w.expect < 0:
		return cmdline.Usagef(cmd.CommandPath(), "--expect must not be negative")
	case !w.dryRun && !w.yes && !a.Terminal():
		return cmdline.Usagef(cmd.CommandPath(), "the mail is lost: without a terminal it needs --yes")
	}
	return a.with(func(conn grpc.ClientConnInterface) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), writeOffTimeout)
		defer cancel()
		client := adminv1.NewRescueServiceClient(conn)
		if !w.dryRun && !w.yes {
			if done, err := a.confirmWriteOff(ctx, client, req); done || err != nil {
				return err
			}
		}
		res, err := client.WriteOff(ctx, req)
		if err != nil {
			return err
		}
		return a.printWriteOff(res, w.dryRun)
	})
}

// confirmWriteOff shows what would be lost and asks for the number. It makes
// that number what the cluster is to expect.
func (a *nouns) confirmWriteOff(ctx context.Context, client adminv1.RescueServiceClient, req *adminv1.WriteOffRequest) (done bool, err error) {
	req.DryRun = true
	res, err := client.WriteOff(ctx, req)
	req.DryRun = false
	if err != nil {
		return true, err
	}
	n := int64(len(res.GetSegments()))
	if n == 0 {
		return true, a.printWriteOff(res, false)
	}
	a.Talk("This would give up %s; what was not delivered of the mail in them is lost.", cmdline.Plural(n, "segment"))
	answer, err := a.Ask("Type the number of segments to go on:")
	if err != nil {
		return true, err
	}
	if got, err := strconv.ParseInt(strings.ReplaceAll(answer, ",", ""), 10, 64); err != nil || got != n {
		return true, cmdline.Exitf(cmdline.ExitConflict, "not confirmed: nothing was changed")
	}
	req.Expect = &n
	return false, nil
}

func (a *nouns) printWriteOff(res *adminv1.WriteOffResponse, dryRun bool) error {
	out := struct {
		DryRun   bool          `json:"dry_run"`
		Segments []lostSegment `json:"segments"`
	}{dryRun, []lostSegment{}}
	refused := 0
	for _, g := range res.GetSegments() {
		out.Segments = append(out.Segments, lostSegment{g.GetId(), g.GetOwner(), append([]string{}, g.GetMembers()...), g.End, g.GetRefused()})
		if g.GetRefused() != "" {
			refused++
		}
	}
	n := int64(len(out.Segments))
	err := a.Object(out, func(w io.Writer) error {
		if n == 0 {
			_, err := fmt.Fprintln(w, "no segment is without a disk")
			return err
		}
		if _, err := fmt.Fprintln(w, "SEGMENT\tOWNER\tEND\tDISKS\tREFUSED"); err != nil {
			return err
		}
		for _, g := range out.Segments {
			end, why := "?", "-"
			if g.End != nil {
				end = strconv.FormatUint(*g.End, 10)
			}
			if g.Refused != "" {
				why = cmdline.Cell(g.Refused, 100)
			}
			if _, err := fmt.Fprintln(w, strings.Join([]string{g.Segment, g.Owner, end, strings.Join(g.Members, " "), why}, "\t")); err != nil {
				return err
			}
		}
		return nil
	})
	switch {
	case err != nil || n == 0:
		return err
	case dryRun:
		a.Talk("Nothing was changed. To do it, say the same with --yes --expect %d instead of --dry-run.", n)
		return nil
	}
	a.Talk("%s written off", cmdline.Plural(n-int64(refused), "segment"))
	if refused > 0 {
		return cmdline.Exitf(cmdline.ExitPartly, "%s could not be written off", cmdline.Plural(int64(refused), "segment"))
	}
	return nil
}
