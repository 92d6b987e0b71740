// Package limits is the nouns limit and route of the command line: how much may
// be sent where, who said so, why mail for a destination moves as it does, and
// which clients are locked out.
package limits

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/clrelay/clrelay/internal/cmdline"
	"github.com/clrelay/clrelay/internal/config/words"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// Connect connects to a relay, calls f, and explains its errors.
type Connect func(f func(conn grpc.ClientConnInterface) error) error

type nouns struct {
	*cmdline.Console
	with Connect
}

const askTimeout = 30 * time.Second

// exitPartly is the exit code of what some nodes did not answer.
const exitPartly = 7

// maxName is how much of a limit's name a table shows: all of it, since it has to
// be typed to clear the limit. That of a suspended domain has two names of DNS.
const maxName = 700

// Commands makes the commands limit and route.
func Commands(c *cmdline.Console, with Connect) []*cobra.Command {
	n := &nouns{c, with}
	cmd := &cobra.Command{
		Use:   "limit",
		Short: "See and set how much is sent where, and who is locked out",
		Long: `See and set how much is sent where. A limit is for the whole cluster, and is of
the configuration, or was set by an operator for a while, or was learned from what
a destination said. Where several are for the same mail, all must allow it. A site
is all domains whose mail goes to the same hosts: google.com for gmail.com and all
that Google hosts.`,
	}
	cmd.AddCommand(n.listCommand(), n.setCommand(), n.clearCommand(), n.usageCommand(), n.explainCommand(), n.lockoutCommand())
	return []*cobra.Command{cmd, n.routeCommand()}
}

// ask calls the relay about something small.
func (n *nouns) ask(cmd *cobra.Command, f func(ctx context.Context, l adminv1.LimitServiceClient) error) error {
	return n.with(func(conn grpc.ClientConnInterface) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
		defer cancel()
		return f(ctx, adminv1.NewLimitServiceClient(conn))
	})
}

// shown is a limit as the commands print it.
type shown struct {
	Name               string              `json:"name"`
	Origin             string              `json:"origin"`
	Side               string              `json:"side"`
	Match              map[string][]string `json:"match"`
	Per                []string            `json:"per"`
	Count              string              `json:"count"`
	Rate               string              `json:"rate"`
	Burst              int64               `json:"burst"`
	Connections        int64               `json:"connections"`
	Budget             string              `json:"budget"`
	ConnectionMessages int64               `json:"connection_messages"`
	Suspended          bool                `json:"suspended"`
	OnPartition        string              `json:"on_partition"`
	Author             string              `json:"author"`
	Reason             string              `json:"reason"`
	Until              *time.Time          `json:"until"`
}

func show(l *adminv1.Limit) shown {
	out := shown{
		Name: l.GetName(), Origin: l.GetOrigin(), Side: l.GetSide(), Match: map[string][]string{}, Per: append([]string{}, l.GetPer()...),
		Count: l.GetCount(), Rate: l.GetRate(), Burst: l.GetBurst(), Connections: l.GetConnections(), Budget: l.GetBudget(),
		ConnectionMessages: l.GetConnectionMessages(), Suspended: l.GetSuspended(), OnPartition: l.GetOnPartition(), Author: l.GetAuthor(), Reason: l.GetReason(),
		Until: cmdline.Stamp(l.GetUntil()),
	}
	for _, m := range l.GetMatch() {
		out.Match[m.GetField()] = append([]string{}, m.GetValues()...)
	}
	return out
}

// what says how much is allowed.
func (s *shown) what() string {
	var parts []string
	if s.Suspended {
		parts = append(parts, "suspended")
	}
	if s.Rate != "" {
		parts = append(parts, s.Rate)
	}
	if s.Connections > 0 {
		parts = append(parts, cmdline.Plural(s.Connections, "connection"))
	}
	if s.Budget != "" {
		parts = append(parts, s.Budget+" in all")
	}
	if s.ConnectionMessages > 0 {
		parts = append(parts, fmt.Sprintf("%d a connection", s.ConnectionMessages))
	}
	if s.Count != "messages" && s.Count != "" {
		parts = append(parts, s.Count)
	}
	if s.OnPartition != "floor" && s.OnPartition != "" {
		parts = append(parts, s.OnPartition+" when cut off")
	}
	return strings.Join(parts, ", ")
}

// whom says what a limit is for.
func (s *shown) whom() string {
	var parts []string
	for f, v := range s.Match {
		parts = append(parts, f+"="+strings.Join(v, "|"))
	}
	slices.Sort(parts)
	if len(parts) == 0 {
		parts = append(parts, "all")
	}
	if len(s.Per) > 0 {
		parts = append(parts, "per "+strings.Join(s.Per, ","))
	}
	return strings.Join(parts, " ")
}

// ends says until when.
func (n *nouns) ends(t *time.Time) string {
	if t == nil {
		return "-"
	}
	if d := t.Sub(n.Now()); d > 0 {
		return cmdline.Span(d)
	}
	return "over"
}

func (n *nouns) listCommand() *cobra.Command {
	var origin string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the limits in force",
		Long: `List the limits in force: those that operators have set; configured ones, with the
warm-ups of sources; what was learned from replies, of which the reason is the reply,
with the rule that it met; and those that come with the program, for large providers
(shipped). ON is where they hold: on delivery or on receiving.`,
		Example: "  clrelay limit list --origin learned",
		Args:    cmdline.AtMost[*cobra.Command](0, "it lists all limits; for one destination there is clrelay limit explain"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains([]string{"", "configured", "set", "shipped", "learned"}, origin) {
				return cmdline.Usagef(cmd.CommandPath(), "--origin: %q is not configured, set, shipped or learned", origin)
			}
			return n.ask(cmd, func(ctx context.Context, l adminv1.LimitServiceClient) error {
				res, err := l.ListLimits(ctx, &adminv1.ListLimitsRequest{})
				if err != nil {
					return err
				}
				out := n.List("NAME", "ORIGIN", "ON", "FOR", "LIMIT", "ENDS IN", "BY", "REASON")
				for _, l := range res.GetLimits() {
					s := show(l)
					if origin != "" && s.Origin != origin {
						continue
					}
					by := s.Author
					if s.Origin == "configured" || s.Origin == "shipped" {
						by = "-"
					}
					if err := out.Row(s, cmdline.Cell(s.Name, maxName), s.Origin, s.Side, cmdline.Cell(s.whom(), 50), s.what(), n.ends(s.Until), cmdline.Cell(by, 30), cmdline.Cell(s.Reason, 100)); err != nil {
						return err
					}
				}
				return out.End()
			})
		},
	}
	cmd.Flags().StringVar(&origin, "origin", "", "only those that are `ORIGIN`: configured, set, shipped or learned")
	return cmd
}

// setting is a limit as the flags give it.
type setting struct {
	match       map[string]*[]string
	per         []string
	rate, count string
	budget, on  string
	burst       string
	onPartition string
	connections int64
	suspend     bool
	span        string
	reason      string
}

// matches are the flags that say which mail, by the field that they name.
func matches() [][2]string {
	return [][2]string{
		{"site", "all domains with these hosts"}, {"domain", "recipients of this domain, *.NAME for all below it"},
		{"source", "mail that leaves from the source of this name, as pools have it"}, {"sender", "mail from this address"},
		{"sender-domain", "mail from this domain"}, {"user", "who logged in by this name, which never applies in this version"},
		{"group", "clients of this entry of the setting senders"}, {"client", "clients of this network, 192.0.2.0/24 or 192.0.2.1"}, {"route", "mail that takes this route"},
	}
}

func (n *nouns) setCommand() *cobra.Command {
	s := setting{match: map[string]*[]string{}}
	cmd := &cobra.Command{
		Use:   "set LIMIT",
		Short: "Set a limit, for a while or until it is cleared",
		Long: `Set a limit at all nodes, within a second: what is under way is finished. It is
added to those that hold already, but it stands, while it holds, in the place of
  - one of the same name that an operator has set, or that is configured;
  - what was learned of a site, or comes with the program, or is a setting of
    shaping.sites, where it is for that site and nothing else: its connections in the
    place of theirs, its rate in the place of theirs. What was learned holds again
    afterwards. A suspension that was learned stays: clrelay limit clear shaping:SITE.
Nothing bounces by it: mail waits in the queue until the limit lets it go or its time
is over.`,
		Example: `  clrelay limit set gmail-slow --site google.com --rate 600/m --connections 10 --for 2h --reason INC-4411
  clrelay limit set newsletter --on receiving --sender news@example.edu --budget 1000/d
  clrelay limit set crowd --on receiving --client 192.0.2.0/24 --connections 5 --rate 10/s --for 1h
  clrelay limit set stop-partner --domain partner.example --suspend --for 30m --reason "their disk is full"`,
		Args: cmdline.Exactly[*cobra.Command](1, "it takes the name of the limit, which you choose"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := s.request(cmd, args[0])
			if err != nil {
				return err
			}
			return n.ask(cmd, func(ctx context.Context, l adminv1.LimitServiceClient) error {
				res, err := l.SetLimit(ctx, req)
				if err != nil {
					return err
				}
				for _, w := range res.GetWarnings() {
					n.Talk("warning: %s %s", args[0], w)
				}
				out := show(res.GetLimit())
				return n.Object(out, func(w io.Writer) error {
					verb := "set"
					if res.GetReplaced() {
						verb = "replaced"
					}
					until := "until it is cleared: clrelay limit clear " + out.Name
					if out.Until != nil {
						until = "for " + cmdline.Span(req.GetHold().AsDuration())
					}
					instead := ""
					if c := res.GetInstead(); c != nil {
						was := show(c)
						instead = fmt.Sprintf("it stands in the place of the configured one: %s for %s\n", was.what(), was.whom())
					}
					_, err := fmt.Fprintf(w, "%s %s: %s for %s, %s\n%s", verb, out.Name, out.what(), out.whom(), until, instead)
					return err
				})
			})
		},
	}
	f := cmd.Flags()
	for _, m := range matches() {
		s.match[m[0]] = f.StringSlice(m[0], nil, m[1]+"; any of several")
	}
	f.StringSliceVar(&s.per, "per", nil, "count each `FIELD` by itself: site, domain, source, sender, sender_domain, user, group, client, route")
	f.StringVar(&s.rate, "rate", "", "at most so many, `60/s`, 1000/m or 5000/h; of octets also 10MiB/s")
	f.StringVar(&s.burst, "burst", "", "so many at once after a pause, `50` or 50MiB; else what comes in a second")
	f.Int64Var(&s.connections, "connections", 0, "at most so many connections at a time")
	f.StringVar(&s.budget, "budget", "", "at most so many in an hour or a day, which begin by UTC: `1000/d`, 5000/h")
	f.StringVar(&s.count, "count", "", "what the rate and the budget count: messages, recipients or octets")
	f.StringVar(&s.on, "on", "", "`SIDE`: delivery, where mail waits in the queue, or receiving, where the client is told to come back; else that of the configured limit of this name, or delivery")
	f.StringVar(&s.onPartition, "on-partition", "", "what a node does that is cut off from the others: `floor`, a small part that is kept for it; stop, nothing; full, what it had; else floor")
	f.BoolVar(&s.suspend, "suspend", false, "send nothing at all")
	f.StringVar(&s.span, "for", "", "for this `duration`: 30m, 2d; else until it is cleared")
	f.StringVar(&s.reason, "reason", "", "`why`, for those who look at the limits")
	return cmd
}

func (s *setting) request(cmd *cobra.Command, name string) (*adminv1.SetLimitRequest, error) {
	l := &adminv1.Limit{Name: name, Side: s.on, Per: s.per, Rate: s.rate, Budget: s.budget, Connections: s.connections, Count: s.count, OnPartition: s.onPartition, Suspended: s.suspend}
	for _, m := range matches() {
		if v := *s.match[m[0]]; len(v) > 0 {
			l.Match = append(l.Match, &adminv1.LimitMatch{Field: strings.ReplaceAll(m[0], "-", "_"), Values: v})
		}
	}
	switch {
	case len(l.GetMatch()) == 0 && len(s.per) == 0:
		return nil, cmdline.Usagef(cmd.CommandPath(), "for which mail? Give --site, --domain, --source, --sender, --sender-domain, --user, --group, --client or --route, or --per")
	case s.rate == "" && s.connections == 0 && s.budget == "" && !s.suspend:
		return nil, cmdline.Usagef(cmd.CommandPath(), "how much? Give --rate, --connections, --budget or --suspend")
	case s.connections < 0:
		return nil, cmdline.Usagef(cmd.CommandPath(), "a limit is not below 0: --suspend sends nothing")
	}
	if s.burst != "" {
		var n words.Size
		if err := n.Parse(s.burst); err != nil {
			return nil, cmdline.Usagef(cmd.CommandPath(), "--burst: %v", err)
		}
		l.Burst = int64(n)
	}
	req := &adminv1.SetLimitRequest{Limit: l, Reason: s.reason}
	if s.span != "" {
		d, err := cmdline.ParseSpan(s.span)
		if err != nil || d <= 0 {
			return nil, cmdline.Usagef(cmd.CommandPath(), "--for: %q is no duration such as 30m or 2d", s.span)
		}
		req.Hold = durationpb.New(d)
	}
	return req, nil
}

func (n *nouns) clearCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "clear LIMIT",
		Short: "Remove a limit that was set, or what was learned of a site",
		Long: `Remove a limit that an operator has set, or one that was learned from replies.
shaping:SITE stands for all that was learned of a site. What a destination says
from now on counts again: where a rule is wrong, give another of its name in the
section shaping of the cluster's configuration.`,
		Example: "  clrelay limit clear shaping:google.com --reason \"they have unlisted us\"",
		Args:    cmdline.Exactly[*cobra.Command](1, "it takes the name of a limit: clrelay limit list shows them"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return n.ask(cmd, func(ctx context.Context, l adminv1.LimitServiceClient) error {
				res, err := l.ClearLimit(ctx, &adminv1.ClearLimitRequest{Name: args[0], Reason: reason})
				if err != nil {
					return err
				}
				out := struct {
					Names []string `json:"names"`
				}{append([]string{}, res.GetNames()...)}
				return n.Object(out, func(w io.Writer) error {
					for _, name := range out.Names {
						if _, err := fmt.Fprintf(w, "%s holds no longer\n", name); err != nil {
							return err
						}
					}
					return nil
				})
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "`why`, for the audit log")
	return cmd
}
