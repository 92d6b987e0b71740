package queue

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

func (a *nouns) ruleCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rule",
		Short: "Hold rules: hold mail back, new mail too",
		Long: `Hold rules hold mail back before its next attempt, at all nodes, and new mail
too. What a rule holds bears its ID: queue list --rule ID shows it. Another node
acts by a new rule within a second.`,
	}
	cmd.AddCommand(a.ruleAdd(), a.ruleList(), a.ruleRemove())
	return cmd
}

// rule is what the rule commands print.
type rule struct {
	ID       string     `json:"id"`
	Selector string     `json:"selector"`
	Reason   string     `json:"reason"`
	By       string     `json:"by"`
	Added    *time.Time `json:"added"`
	Until    *time.Time `json:"until"`
}

// added is what rule add prints.
type added struct {
	rule
	DryRun     bool  `json:"dry_run"`
	Recipients int64 `json:"recipients"`
}

// shown makes a rule of what travels. Its selector is shown as JSON.
func shown(r *adminv1.Rule) rule {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(r.GetSelector())
	if err != nil {
		text = []byte(err.Error()) // none that a relay keeps
	}
	var line bytes.Buffer // the library varies its spaces on purpose
	if json.Compact(&line, text) == nil {
		text = line.Bytes()
	}
	return rule{r.GetId(), string(text), r.GetReason(), r.GetBy(), cmdline.Stamp(r.GetAdded()), cmdline.Stamp(r.GetUntil())}
}

func (a *nouns) ruleAdd() *cobra.Command {
	var (
		sel      selector
		span     string
		reason   string
		dry      bool
		everyday = "  clrelay queue rule add --domain partner.example --for 2h --reason INC-4411"
	)
	cmd := &cobra.Command{
		Use:   "add",
		Short: "Add a hold rule",
		Long: `Add a rule that holds mail back before its next attempt. With --for what it held
is due again when its time is over; without, it is held until it is released.
Nothing is bounced and nothing is lost by a rule.`,
		Example: everyday,
		Args:    cmdline.AtMost[*cobra.Command](0, "a rule picks mail by what it is: give selectors"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			picked, err := sel.message(cmd, nil, a.Now())
			if err != nil {
				return err
			}
			if !given(picked) {
				return cmdline.Usagef(cmd.CommandPath(), "which mail? Give a selector; --everything stands for all mail")
			}
			r := &adminv1.Rule{Selector: picked, Reason: reason}
			if span != "" {
				d, err := cmdline.ParseSpan(span)
				if err != nil || d <= 0 {
					return cmdline.Usagef(cmd.CommandPath(), "--for: %q is no duration such as 30m or 2d", span)
				}
				r.Until = timestamppb.New(a.Now().Add(d))
			}
			return a.with(func(l grpc.ClientConnInterface) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
				defer cancel()
				res, err := adminv1.NewRuleServiceClient(l).AddRule(ctx, &adminv1.AddRuleRequest{Rule: r, DryRun: dry})
				if err != nil {
					return err
				}
				return a.printAdded(res, dry)
			})
		},
	}
	sel.flags(cmd)
	for _, name := range []string{"id", "state", "node", "rule", "older", "newer"} { // of no use in a rule
		_ = cmd.Flags().MarkHidden(name)
	}
	f := cmd.Flags()
	f.StringVar(&span, "for", "", "hold for this `duration`: 30m, 2d; else until it is removed")
	f.StringVar(&reason, "reason", "", "`why`, for those who look at the rules")
	f.BoolVar(&dry, "dry-run", false, "count what it would hold now, add nothing")
	return cmd
}

func (a *nouns) printAdded(res *adminv1.AddRuleResponse, dry bool) error {
	out := added{shown(res.GetRule()), dry, res.GetRecipients()}
	err := a.Object(out, func(w io.Writer) error {
		if dry {
			_, err := fmt.Fprintf(w, "would hold %s that are in the queue, and what comes\n", cmdline.Plural(out.Recipients, "recipient"))
			return err
		}
		_, err := fmt.Fprintf(w, "%s holds %s that are in the queue, before their next attempt, and what comes\n", out.ID, cmdline.Plural(out.Recipients, "recipient"))
		return err
	})
	if err != nil {
		return err
	}
	return missing(res.GetMissingNodes())
}

func (a *nouns) ruleList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the hold rules",
		Args:  cmdline.AtMost[*cobra.Command](0, "it lists all rules"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(l grpc.ClientConnInterface) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
				defer cancel()
				res, err := adminv1.NewRuleServiceClient(l).ListRules(ctx, &adminv1.ListRulesRequest{})
				if err != nil {
					return err
				}
				out, now := a.List("ID", "UNTIL", "BY", "REASON", "SELECTOR"), a.Now()
				for _, r := range res.GetRules() {
					row := shown(r)
					until := "removed"
					if r.GetUntil() != nil {
						until = ahead(r.GetUntil(), now)
						if until == "now" {
							until = "over"
						}
					}
					if err := out.Row(row, row.ID, until, cmdline.Cell(row.By, 30), cmdline.Cell(row.Reason, 40), cmdline.Cell(row.Selector, 120)); err != nil {
						return err
					}
				}
				return out.End()
			})
		},
	}
}

func (a *nouns) ruleRemove() *cobra.Command {
	var (
		release bool
		reason  string
	)
	cmd := &cobra.Command{
		Use:   "remove ID",
		Short: "Remove a hold rule",
		Long: `Remove a hold rule. What it holds stays held, as if by queue hold, until its time
is over or it is released; --release does that at once.`,
		Example: "  clrelay queue rule remove r-abcd2345 --release",
		Args:    cmdline.Exactly[*cobra.Command](1, "it takes the ID of a rule: clrelay queue rule list shows them"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(l grpc.ClientConnInterface) error {
				res, err := adminv1.NewRuleServiceClient(l).RemoveRule(cmd.Context(), &adminv1.RemoveRuleRequest{Id: args[0], Release: release, Reason: reason})
				if err != nil {
					return err
				}
				if !release {
					a.Talk("%s is removed. What it holds stays held: clrelay queue release --rule %s", args[0], args[0])
				}
				return a.printChange(&change{verb: verb{name: "release", past: "released"}}, res.GetResult())
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&release, "release", false, "release what it holds")
	f.StringVar(&reason, "reason", "", "`why`, for the log")
	return cmd
}
