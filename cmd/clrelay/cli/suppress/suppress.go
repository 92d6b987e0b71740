// Package suppress is the noun suppress of the command line: the addresses that
// mail is not sent to.
package suppress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// Connect connects to a relay, calls f, and explains its errors.
type Connect func(f func(conn grpc.ClientConnInterface) error) error

type nouns struct {
	*cmdline.Console
	with Connect
}

// askTimeout bounds a call about a few entries.
const askTimeout = 30 * time.Second

// CSV is a format of suppress export, besides the common ones.
const CSV = "csv"

// Commands makes the command suppress.
func Commands(c *cmdline.Console, with Connect) *cobra.Command {
	n := &nouns{c, with}
	cmd := &cobra.Command{
		Use:   "suppress",
		Short: "The suppression list: addresses that mail is not sent to",
		Long: `The suppression list: addresses that mail is not sent to. A client that may relay
is told at RCPT (550 5.1.1, with the entry's date and text), and what is in the
queue already fails with the same words, without a connection. An entry is for
everybody's mail, or for that of a sender, a sender's domain or an entry of the
setting senders. Addresses are compared without regard to case. Mail for our own
domains is stopped only by what suppress add puts there for everybody. The list
is that of all nodes; each acts by a change within a second.`,
	}
	cmd.AddCommand(n.list(), n.show(), n.add(), n.remove(), n.importCommand(), n.export())
	return cmd
}

// entry is what the commands print.
type entry struct {
	Address string     `json:"address"`
	Sender  string     `json:"sender"` // whose mail; empty: everybody's
	Reason  string     `json:"reason"`
	Text    string     `json:"text"`
	Source  string     `json:"source"` // ID of a message
	By      string     `json:"by"`     // empty: the relay
	Created *time.Time `json:"created"`
	Expires *time.Time `json:"expires"` // null: never
}

func entryOf(e *adminv1.Suppression) entry {
	return entry{
		Address: e.GetAddress(), Sender: e.GetScope(), Reason: word(e.GetReason()), Text: e.GetText(), Source: e.GetSource(), By: e.GetBy(),
		Created: cmdline.Stamp(e.GetCreated()), Expires: cmdline.Stamp(e.GetExpires()),
	}
}

const prefix = "SUPPRESSION_REASON_"

func word(r adminv1.SuppressionReason) string {
	return strings.ToLower(strings.TrimPrefix(r.String(), prefix))
}

// reasons are the words for them.
func reasons() []string { return []string{"hard_bounce", "complaint", "operator", "import"} }

func reasonOf(text string) (adminv1.SuppressionReason, bool) {
	return adminv1.SuppressionReason(adminv1.SuppressionReason_value[prefix+strings.ToUpper(text)]), slices.Contains(reasons(), text)
}

func (e *entry) cells(now time.Time) []string {
	expires := "never"
	if e.Expires != nil {
		expires = "in " + cmdline.Span(e.Expires.Sub(now))
	}
	sender, created := "everybody", "-"
	if e.Sender != "" {
		sender = e.Sender
	}
	if e.Created != nil {
		created = e.Created.Format(time.DateOnly)
	}
	return []string{cmdline.Cell(e.Address, 60), cmdline.Cell(sender, 40), e.Reason, created, expires, cmdline.Cell(e.Text, 60)}
}

func columns() []string { return []string{"ADDRESS", "SENDER", "REASON", "SINCE", "EXPIRES", "TEXT"} }

// filter is the flags that pick entries.
type filter struct {
	domain, sender, since string
	reasons               []string
	limit                 int64
}

func (f *filter) flags(cmd *cobra.Command, limit int64) {
	fl := cmd.Flags()
	fl.StringVar(&f.domain, "domain", "", "only addresses of this `domain`")
	fl.StringVar(&f.sender, "sender", "", "only entries for this sender's mail: jane@example.edu, @example.edu, or the `name` of an entry of senders")
	fl.StringSliceVar(&f.reasons, "reason", nil, "only entries for this `reason`: hard_bounce, complaint, operator, import")
	fl.StringVar(&f.since, "since", "", "only entries since this `time`: 2h or 7d ago, 2026-11-23 or 2026-11-23T09:00:00Z")
	fl.Int64Var(&f.limit, "limit", limit, "show at most so many; 0: all")
}

func (f *filter) request(cmd *cobra.Command, now time.Time) (*adminv1.ListSuppressionsRequest, error) {
	req := &adminv1.ListSuppressionsRequest{Domain: f.domain, Limit: f.limit}
	if cmd.Flags().Changed("sender") {
		req.Scope = &f.sender
	}
	for _, r := range f.reasons {
		reason, ok := reasonOf(r)
		if !ok {
			return nil, cmdline.Usagef(cmd.CommandPath(), "--reason: %q is none of %s", r, strings.Join(reasons(), ", "))
		}
		req.Reasons = append(req.Reasons, reason)
	}
	if f.limit < 0 {
		return nil, cmdline.Usagef(cmd.CommandPath(), "--limit: %d is below 0", f.limit)
	}
	if f.since != "" {
		at, ok := moment(f.since, now)
		if !ok {
			return nil, cmdline.Usagef(cmd.CommandPath(), "--since %q: a time such as 2h or 7d ago, 2026-11-23 or 2026-11-23T09:00:00Z", f.since)
		}
		req.Since = timestamppb.New(at)
	}
	return req, nil
}

// moment reads a time, or how long ago it was.
func moment(text string, now time.Time) (time.Time, bool) {
	if d, err := cmdline.ParseSpan(text); err == nil {
		return now.Add(-d), true
	}
	return date(text)
}

// date reads a time.
func date(text string) (time.Time, bool) {
	for _, form := range []string{time.RFC3339, time.DateOnly} {
		if at, err := time.Parse(form, text); err == nil {
			return at, true
		}
	}
	return time.Time{}, false
}

// each calls visit for all entries that are asked for; more tells whether a limit
// left some out.
func (a *nouns) each(ctx context.Context, req *adminv1.ListSuppressionsRequest, visit func(e *entry) error) (more bool, err error) {
	err = a.with(func(conn grpc.ClientConnInterface) error {
		stream, err := adminv1.NewSuppressionServiceClient(conn).ListSuppressions(ctx, req)
		if err != nil {
			return err
		}
		for {
			res, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			more = more || res.GetMore()
			for _, x := range res.GetEntries() {
				e := entryOf(x)
				if err := visit(&e); err != nil {
					return err
				}
			}
		}
	})
	return more, err
}

func (a *nouns) list() *cobra.Command {
	var f filter
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List entries, by address",
		Example: "  clrelay suppress list --domain example.org --reason hard_bounce --since 7d",
		Args:    cmdline.AtMost[*cobra.Command](0, "pick with flags; suppress show is for one address"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			req, err := f.request(cmd, a.Now())
			if err != nil {
				return err
			}
			out := a.List(columns()...)
			more, err := a.each(cmd.Context(), req, func(e *entry) error { return out.Row(*e, e.cells(a.Now())...) })
			if err != nil {
				return err
			}
			if err := out.End(); err != nil {
				return err
			}
			if more {
				a.Talk("There are more: --limit 0 shows all.")
			}
			return nil
		},
	}
	f.flags(cmd, 1000)
	return cmd
}

func (a *nouns) show() *cobra.Command {
	return &cobra.Command{
		Use:     "show ADDRESS",
		Short:   "Show whether an address is on the list, and why",
		Example: "  clrelay suppress show jane@example.org",
		Args:    cmdline.Exactly[*cobra.Command](1, "it takes one address"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(conn grpc.ClientConnInterface) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
				defer cancel()
				res, err := adminv1.NewSuppressionServiceClient(conn).ShowSuppressions(ctx, &adminv1.ShowSuppressionsRequest{Address: args[0]})
				if err != nil {
					return err
				}
				out := a.List("SENDER", "REASON", "SINCE", "EXPIRES", "BY", "MESSAGE", "TEXT")
				for _, x := range res.GetEntries() {
					e := entryOf(x)
					c := e.cells(a.Now())
					if err := out.Row(e, c[1], c[2], c[3], c[4], dash(cmdline.Cell(e.By, 30), "the relay"), dash(e.Source, "-"), cmdline.Cell(e.Text, 256)); err != nil {
						return err
					}
				}
				if err := out.End(); err != nil {
					return err
				}
				if len(res.GetEntries()) == 0 {
					return cmdline.Exitf(cmdline.ExitNotFound, "%s is not on the suppression list", args[0])
				}
				return nil
			})
		},
	}
}

func dash(text, instead string) string {
	if text == "" {
		return instead
	}
	return text
}

func (a *nouns) add() *cobra.Command {
	var sender, span, reason string
	var complaint bool
	cmd := &cobra.Command{
		Use:   "add ADDRESS",
		Short: "Put an address on the list",
		Long: `Put an address on the list. Mail to it is refused from now on, and what is queued
for it fails at its next attempt. An entry for the same address and sender is
replaced. The reason is told to those who send.`,
		Example: "  clrelay suppress add jane@example.org --reason \"asked not to be written to, T-1234\"\n  clrelay suppress add jane@example.org --sender @news.example.edu --for 30d --complaint --reason \"complained, T-1235\"",
		Args:    cmdline.Exactly[*cobra.Command](1, "it takes one address; suppress import takes many"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.TrimSpace(reason) == "" {
				return cmdline.Usagef(cmd.CommandPath(), "--reason is missing: it is told to those who send")
			}
			if _, ok := reasonOf(strings.ToLower(strings.TrimSpace(reason))); ok {
				return cmdline.Usagef(cmd.CommandPath(), "--reason: %q tells those who send nothing: write why in your own words; an entry for a complaint has --complaint besides", reason)
			}
			e := &adminv1.Suppression{Address: args[0], Scope: sender, Text: reason, Reason: adminv1.SuppressionReason_SUPPRESSION_REASON_OPERATOR}
			if complaint {
				e.Reason = adminv1.SuppressionReason_SUPPRESSION_REASON_COMPLAINT
			}
			if span != "" {
				d, err := cmdline.ParseSpan(span)
				if err != nil || d <= 0 {
					return cmdline.Usagef(cmd.CommandPath(), "--for: %q is no duration such as 12h or 30d", span)
				}
				e.Expires = timestamppb.New(a.Now().Add(d))
			}
			return a.with(func(conn grpc.ClientConnInterface) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
				defer cancel()
				res, err := adminv1.NewSuppressionServiceClient(conn).AddSuppressions(ctx, &adminv1.AddSuppressionsRequest{Entries: []*adminv1.Suppression{e}, Reason: reason})
				if err != nil {
					return err
				}
				return a.printAdded(args[0], res)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&sender, "sender", "", "for this sender's mail alone: jane@example.edu, @example.edu, or the `name` of an entry of senders")
	f.StringVar(&span, "for", "", "for this `duration`: 12h, 30d; else until it is removed")
	f.StringVar(&reason, "reason", "", "`why`; senders are told")
	f.BoolVar(&complaint, "complaint", false, "its owner complained about the mail; our own domains are not affected")
	return cmd
}

// changed is what add and import print.
type changed struct {
	Changed   int64 `json:"changed"`
	Unchanged int64 `json:"unchanged"`
	Full      int64 `json:"full"` // not taken: the list is full
}

func (a *nouns) printAdded(address string, res *adminv1.AddSuppressionsResponse) error {
	err := a.Object(changed{res.GetChanged(), res.GetUnchanged(), res.GetFull()}, func(w io.Writer) error {
		text := "%s is on the suppression list\n"
		switch {
		case res.GetFull() > 0:
			return nil
		case res.GetChanged() == 0:
			text = "%s was on the suppression list already\n"
		}
		_, err := fmt.Fprintf(w, text, cmdline.Cell(address, 320))
		return err
	})
	if err == nil && res.GetFull() > 0 {
		err = full(res.GetFull())
	}
	return err
}

func entries(n int64) string {
	if n == 1 {
		return "1 entry"
	}
	return cmdline.Count(n) + " entries"
}

func full(n int64) error {
	return cmdline.Exitf(cmdline.ExitConflict, "the suppression list is full: %s not added; remove some first, or let them expire", entries(n))
}

func (a *nouns) remove() *cobra.Command {
	var sender, reason string
	cmd := &cobra.Command{
		Use:   "remove ADDRESS...",
		Short: "Take addresses off the list",
		Long: `Take addresses off the list: all their entries, or, with --sender, those for that
sender's mail ("" stands for everybody's).`,
		Example: "  clrelay suppress remove jane@example.org --reason \"mailbox is back, T-1240\"",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("which addresses?")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &adminv1.RemoveSuppressionsRequest{Addresses: args, Reason: reason}
			if cmd.Flags().Changed("sender") {
				req.Scope = &sender
			}
			return a.with(func(conn grpc.ClientConnInterface) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
				defer cancel()
				res, err := adminv1.NewSuppressionServiceClient(conn).RemoveSuppressions(ctx, req)
				if err != nil {
					return err
				}
				out := struct {
					Removed int64    `json:"removed"`
					Missing []string `json:"missing"`
				}{res.GetRemoved(), append([]string{}, res.GetMissing()...)}
				err = a.Object(out, func(w io.Writer) error {
					if out.Removed == 0 && len(out.Missing) > 0 {
						return nil
					}
					_, err := fmt.Fprintf(w, "removed %s\n", entries(out.Removed))
					return err
				})
				if err == nil && len(out.Missing) > 0 {
					err = cmdline.Exitf(cmdline.ExitNotFound, "not on the suppression list: %s", strings.Join(out.Missing, ", "))
				}
				return err
			})
		},
	}
	cmd.Flags().StringVar(&sender, "sender", "", "only the entries for this sender's mail: jane@example.edu, @example.edu, the `name` of an entry of senders, or \"\"")
	cmd.Flags().StringVar(&reason, "reason", "", "`why`, for the audit log")
	return cmd
}
