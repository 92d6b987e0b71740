package queue

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// counting holds the flags of a command that counts.
type counting struct {
	selector
	limit int64
}

func (c *counting) flags(cmd *cobra.Command, rows string) {
	c.selector.flags(cmd)
	cmd.Flags().Int64Var(&c.limit, "limit", 20, "show so `many` "+rows+" at most; 0 is all that can be told apart")
}

func (c *counting) message(cmd *cobra.Command, args []string, now time.Time) (*adminv1.Selector, error) {
	if c.limit < 0 {
		return nil, cmdline.Usagef(cmd.CommandPath(), "--limit must not be negative")
	}
	return c.selector.message(cmd, args, now)
}

func (a *nouns) shapeCommand() *cobra.Command {
	var (
		c  counting
		by string
	)
	cmd := &cobra.Command{
		Use:   "shape [ID...]",
		Short: "Count recipients by domain and age",
		Long: `Count recipients by the domain they are in and by how long ago their message
arrived. T is all of a domain; each column after it counts those younger than
its minutes and not younger than those of the column before, the last one those
that are older. The domains with most recipients come first; what is not shown
is summed up as other.`,
		Example: `  clrelay queue shape --state deferred
  clrelay queue shape --by sender --newer 1h`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			sel, err := c.message(cmd, args, a.Now())
			if err != nil {
				return err
			}
			req := &adminv1.ShapeRequest{Selector: sel, Limit: c.limit, By: adminv1.ShapeBy(adminv1.ShapeBy_value["SHAPE_BY_"+strings.ToUpper(by)])}
			if req.GetBy() == adminv1.ShapeBy_SHAPE_BY_UNSPECIFIED {
				return cmdline.Usagef(cmd.CommandPath(), "--by is domain or sender")
			}
			return a.with(func(l grpc.ClientConnInterface) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
				defer cancel()
				res, err := adminv1.NewQueueServiceClient(l).Shape(ctx, req)
				if err != nil {
					return err
				}
				return a.printShape(by, res)
			})
		},
	}
	c.flags(cmd, "domains")
	cmd.Flags().StringVar(&by, "by", "domain", "`what` the rows are: domain, of the recipients, or sender, the domain of the senders")
	return cmd
}

// shape is what queue shape prints.
type shape struct {
	By            string     `json:"by"`
	BucketSeconds []int64    `json:"bucket_seconds"` // the last count of a row has no bound
	Total         shapeRow   `json:"total"`
	Rows          []shapeRow `json:"rows"`
	Other         shapeRow   `json:"other"`
	Cut           bool       `json:"cut"`
	MissingNodes  []string   `json:"missing_nodes"`
}

type shapeRow struct {
	Name   string  `json:"name"`
	Total  int64   `json:"total"`
	Counts []int64 `json:"counts"`
}

func rowOut(name string, r *adminv1.ShapeRow) shapeRow {
	return shapeRow{name, r.GetTotal(), append([]int64{}, r.GetCounts()...)}
}

func (a *nouns) printShape(by string, res *adminv1.ShapeResponse) error {
	out := shape{
		By: by, BucketSeconds: append([]int64{}, res.GetBucketSeconds()...), Total: rowOut("TOTAL", res.GetTotal()), Rows: []shapeRow{},
		Other: rowOut("other", res.GetOther()), Cut: res.GetCut(), MissingNodes: append([]string{}, res.GetMissingNodes()...),
	}
	for _, r := range res.GetRows() {
		out.Rows = append(out.Rows, rowOut(r.GetName(), r))
	}
	if err := a.Object(out, func(w io.Writer) error { return shapeTable(w, &out) }); err != nil {
		return err
	}
	return a.whole("domains", res.GetCut(), res.GetMissingNodes())
}

// whole tells what an answer lacks.
func (a *nouns) whole(rows string, cut bool, absent []string) error {
	if cut {
		a.Talk("a node has more %s than it can tell apart: some of the recipients in other may belong to those that are shown", rows)
	}
	return missing(absent)
}

// shapeTable writes numbers to the right, as the eye compares them.
func shapeTable(w io.Writer, s *shape) error {
	cells := [][]string{{"", "T"}}
	for _, b := range s.BucketSeconds {
		cells[0] = append(cells[0], fmt.Sprint(b/60))
	}
	if n := len(s.BucketSeconds); n > 0 {
		cells[0] = append(cells[0], cells[0][n+1]+"+")
	}
	add := func(r *shapeRow, name string) {
		line := []string{name, fmt.Sprint(r.Total)}
		for _, c := range r.Counts {
			line = append(line, fmt.Sprint(c))
		}
		cells = append(cells, line)
	}
	add(&s.Total, s.Total.Name)
	for i := range s.Rows {
		add(&s.Rows[i], noName(s.By, s.Rows[i].Name))
	}
	if s.Other.Total > 0 {
		add(&s.Other, s.Other.Name)
	}
	width := 0
	for _, line := range cells {
		for _, c := range line[1:] {
			width = max(width, len(c))
		}
	}
	for _, line := range cells {
		text := line[0] + "\t"
		for i, c := range line[1:] {
			text += fmt.Sprintf("%*s", width+min(i, 1), c)
		}
		if _, err := fmt.Fprintln(w, text); err != nil {
			return err
		}
	}
	return nil
}

// noName writes a domain for humans: the null reverse-path has none, and
// neither has the postmaster.
func noName(by, name string) string {
	switch {
	case name != "":
		return cmdline.Cell(name, 60)
	case by == "sender":
		return "<>"
	}
	return "-"
}

func (a *nouns) reasonsCommand() *cobra.Command {
	var (
		c  counting
		by string
	)
	cmd := &cobra.Command{
		Use:   "reasons [ID...]",
		Short: "Count recipients by why they are still in the queue",
		Long: `Count recipients by the last reply to them, those of most recipients first.
Replies that differ in numbers, IDs, addresses and hosts alone are one reason;
SAMPLE is one of them as it came. DOMAINS is how many domains the recipients are
in; from 256 on it is an estimate. CLASS is what kind of reply it is, such as
mailbox-full, reputation or greylisted, and none where there was no reply yet;
docs/bounces.md has them all. With --by class all replies of a class are one
row, with --by domain those to recipients of one domain, with --by site those
of one receiver with all its domains, such as google.com: as far as the nodes
know it from deliveries, else it is the domain.

It counts recipients that are deferred or held, and those that are due for a
destination that cannot be reached. With --state it counts those in that state,
and with --everything all.`,
		Example: `  clrelay queue reasons
  clrelay queue reasons --domain example.org --older 1h
  clrelay queue reasons --by domain --reason-class reputation`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			sel, err := c.message(cmd, args, a.Now())
			if err != nil {
				return err
			}
			req := &adminv1.ReasonsRequest{Selector: sel, Limit: c.limit, By: adminv1.ReasonsBy(adminv1.ReasonsBy_value["REASONS_BY_"+strings.ToUpper(by)])}
			if req.GetBy() == adminv1.ReasonsBy_REASONS_BY_UNSPECIFIED {
				return cmdline.Usagef(cmd.CommandPath(), "--by is reply, class, domain or site")
			}
			return a.with(func(l grpc.ClientConnInterface) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
				defer cancel()
				res, err := adminv1.NewQueueServiceClient(l).Reasons(ctx, req)
				if err != nil {
					return err
				}
				return a.printReasons(res)
			})
		},
	}
	c.flags(cmd, "reasons")
	cmd.Flags().StringVar(&by, "by", "reply", "`what` is one row: reply; class; domain, which is a class and a domain of recipients; or site, a class and whoever runs the mail hosts")
	return cmd
}

// reasons is what queue reasons prints.
type reasons struct {
	Recipients   int64    `json:"recipients"`
	Reasons      []reason `json:"reasons"`
	Other        int64    `json:"other"`
	Cut          bool     `json:"cut"`
	MissingNodes []string `json:"missing_nodes"`
}

type reason struct {
	Class      string     `json:"class"`
	Reason     string     `json:"reason"`
	Recipients int64      `json:"recipients"`
	Domains    int64      `json:"domains"`
	Sample     string     `json:"sample"`
	Oldest     *time.Time `json:"oldest"`
}

func (a *nouns) printReasons(res *adminv1.ReasonsResponse) error {
	out := reasons{
		Recipients: res.GetRecipients(), Reasons: []reason{}, Other: res.GetOther(), Cut: res.GetCut(),
		MissingNodes: append([]string{}, res.GetMissingNodes()...),
	}
	for _, r := range res.GetReasons() {
		out.Reasons = append(out.Reasons, reason{r.GetClass(), r.GetReason(), r.GetRecipients(), r.GetDomains(), r.GetSample(), cmdline.Stamp(r.GetOldest())})
	}
	if err := a.Object(out, func(w io.Writer) error { return a.reasonsTable(w, res) }); err != nil {
		return err
	}
	return a.whole("reasons", res.GetCut(), res.GetMissingNodes())
}

func (a *nouns) reasonsTable(w io.Writer, res *adminv1.ReasonsResponse) error {
	if res.GetRecipients() == 0 {
		return nil // as an empty list
	}
	byDomain, bySite := res.GetBy() == adminv1.ReasonsBy_REASONS_BY_DOMAIN, res.GetBy() == adminv1.ReasonsBy_REASONS_BY_SITE
	domains := "DOMAINS"
	switch {
	case byDomain:
		domains = "DOMAIN"
	case bySite:
		domains = "SITE\tDOMAINS"
	}
	if _, err := fmt.Fprintf(w, "CLASS\tCOUNT\t%s\tOLDEST\tSAMPLE\n", domains); err != nil {
		return err
	}
	for _, r := range res.GetReasons() {
		text := cmdline.Cell(r.GetSample(), 120)
		if r.GetSample() == "" {
			text = "(no reply yet)"
		}
		where := cmdline.Count(r.GetDomains())
		switch {
		case byDomain:
			where = noName("", r.GetReason())
		case bySite:
			where = noName("", r.GetReason()) + "\t" + where
		}
		if _, err := fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.GetClass(), cmdline.Count(r.GetRecipients()), where,
			a.Ago(r.GetOldest()), text); err != nil {
			return err
		}
	}
	if res.GetOther() == 0 {
		return nil
	}
	_, err := fmt.Fprintf(w, "(rest)\t%s\n", cmdline.Count(res.GetOther()))
	return err
}
