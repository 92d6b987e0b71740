package limits

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// lockedOut is the state of those that are.
const lockedOut = "locked out"

// barred is a client as lockout list prints it.
type barred struct {
	Network string        `json:"network"`
	State   string        `json:"state"`
	Why     string        `json:"why"`
	Until   *time.Time    `json:"until"`
	Scores  []score       `json:"scores"`
	Nodes   []barredThere `json:"nodes"`
}

// score is what a client did lately of a kind.
type score struct {
	Kind      string  `json:"kind"`
	Score     float64 `json:"score"`
	Threshold int64   `json:"threshold"`
}

// barredThere is how a client stands at a node.
type barredThere struct {
	Node  string     `json:"node"`
	State string     `json:"state"` // none: nothing was counted
	Why   string     `json:"why"`
	Until *time.Time `json:"until"`
}

func there(list []*adminv1.LockoutAtNode) []barredThere {
	out := []barredThere{}
	for _, n := range list {
		at := barredThere{n.GetNode(), n.GetState(), n.GetWhy(), cmdline.Stamp(n.GetUntil())}
		if at.State == "" {
			at.State = "none"
		}
		out = append(out, at)
	}
	return out
}

func bar(c *adminv1.Lockout) barred {
	out := barred{
		Network: c.GetNetwork(), State: c.GetState(), Why: c.GetWhy(), Until: cmdline.Stamp(c.GetUntil()), Scores: []score{}, Nodes: there(c.GetNodes()),
	}
	for _, s := range c.GetScores() {
		out.Scores = append(out.Scores, score{s.GetKind(), round(s.GetScore()), s.GetThreshold()})
	}
	return out
}

// scores are those that are not 0, against their thresholds.
func (b *barred) scores() string {
	var parts []string
	for _, s := range b.Scores {
		if s.Score >= 0.05 {
			parts = append(parts, fmt.Sprintf("%s %s of %d", s.Kind, figure(s.Score), s.Threshold))
		}
	}
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, ", ")
}

// who says so: the nodes in the state of the client, then the others.
func (b *barred) who() string {
	var same, other []string
	for _, n := range b.Nodes {
		if n.State == b.State {
			same = append(same, n.Node)
		} else {
			other = append(other, n.Node+" ("+n.State+")")
		}
	}
	return strings.Join(append(same, other...), ",")
}

// lockouts asks the relay about clients.
func (n *nouns) lockouts(cmd *cobra.Command, f func(ctx context.Context, l adminv1.LockoutServiceClient) error) error {
	return n.with(func(conn grpc.ClientConnInterface) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
		defer cancel()
		return f(ctx, adminv1.NewLockoutServiceClient(conn))
	})
}

func (n *nouns) lockoutCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lockout",
		Short: "See who is locked out for misbehaving, and let them in again",
		Long: `See which clients are kept waiting or locked out because they misbehave
(receive.abuse of the cluster's configuration), and let them in again. A client is
an IPv4 address, or an IPv6 /64.`,
	}
	cmd.AddCommand(n.lockoutList(), n.lockoutLift())
	return cmd
}

func (n *nouns) lockoutList() *cobra.Command {
	req := &adminv1.ListLockoutsRequest{}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the clients that are locked out, the worst first",
		Long: `List the clients that are locked out, with why and for how long still, and which
nodes say so; with --all those too that are kept waiting, and those that have half
a threshold (counted). SCORES is what was counted lately, the highest of what the
nodes say, and the threshold: a client that reaches it is kept waiting, and one that
reaches it three times over is locked out. Its scores are half a threshold at most
then. Clients that are in senders or exempt by now are left out.`,
		Example: "  clrelay limit lockout list\n  clrelay limit lockout list --all --client 192.0.2.0/24",
		Args:    cmdline.AtMost[*cobra.Command](0, "pick with --client"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if req.Limit < 1 {
				return cmdline.Usagef(cmd.CommandPath(), "--limit: %d is below 1", req.Limit)
			}
			return n.lockouts(cmd, func(ctx context.Context, l adminv1.LockoutServiceClient) error {
				res, err := l.ListLockouts(ctx, req)
				if err != nil {
					return err
				}
				out := n.List("CLIENT", "STATE", "BECAUSE OF", "ENDS IN", "NODES", "SCORES")
				for _, c := range res.GetClients() {
					b := bar(c)
					if err := out.Row(b, b.Network, b.State, b.Why, n.ends(b.Until), cmdline.Cell(b.who(), 80), b.scores()); err != nil {
						return err
					}
				}
				if err := out.End(); err != nil {
					return err
				}
				if res.GetMore() {
					n.Talk("There are more: --limit shows up to 1000, --client those of a network.")
				}
				return missing(res.GetMissingNodes())
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&req.All, "all", false, "also those that are kept waiting, or have half a threshold")
	f.StringSliceVar(&req.Within, "client", nil, "only this `client`, or those of a network: 192.0.2.7, 2001:db8::/48; any of several")
	f.Int64Var(&req.Limit, "limit", 100, "show at most so `many`, 1000 at most")
	return cmd
}

// letIn is a client as lockout lift prints it.
type letIn struct {
	Network string        `json:"network"`
	Nodes   []barredThere `json:"nodes"` // as it stood before
}

// none tells whether nothing was counted of it anywhere.
func (l *letIn) none() bool { return len(l.in("none")) == len(l.Nodes) }

// in are the nodes where it was in that state.
func (l *letIn) in(state string) (out []string) {
	for _, n := range l.Nodes {
		if n.State == state {
			out = append(out, n.Node)
		}
	}
	return out
}

// line says what was lifted where.
func (l *letIn) line(now time.Time) string {
	out, text := l.in(lockedOut), l.Network
	switch {
	case len(out) > 0:
		var why string
		var left time.Duration
		for _, n := range l.Nodes {
			if n.State == lockedOut && n.Until != nil && n.Until.Sub(now) >= left {
				why, left = n.Why, n.Until.Sub(now)
			}
		}
		text += fmt.Sprintf(" is let in again at %s: it was locked out for another %s because of %s", strings.Join(out, ", "), cmdline.Span(left), why)
	case l.none():
		return text + " was not locked out, and nothing was counted"
	default:
		text += " was not locked out"
	}
	var counted []string
	for _, n := range l.Nodes {
		if n.State != lockedOut && n.State != "none" {
			counted = append(counted, n.Node+" ("+n.State+": "+n.Why+")")
		}
	}
	if len(counted) > 0 {
		text += "; its counts are taken away at " + strings.Join(counted, ", ")
	}
	if none := l.in("none"); len(none) > 0 {
		text += "; not locked out at " + strings.Join(none, ", ")
	}
	return text
}

func (n *nouns) lockoutLift() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "lift ADDRESS|NETWORK...",
		Short: "Let clients in again, and take away what was counted of them",
		Long: `Let clients in again at all nodes, and take away what was counted of them. A
client is named by its address; all addresses of an IPv6 /64 are one client. What it
does from now on counts again: one that is to be let in whatever it does belongs in
receive.abuse.exempt, or in senders, of the cluster's configuration. The exit code
is 7 where a node could not be told, and 3 where nothing was counted of a client.`,
		Example: "  clrelay limit lockout lift 192.0.2.7 --reason \"INC-4411, the shop's list is clean now\"",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("which clients? clrelay limit lockout list shows those that are locked out")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.TrimSpace(reason) == "" {
				return cmdline.Usagef(cmd.CommandPath(), "--reason is missing: it is in the log and in the audit log")
			}
			return n.lockouts(cmd, func(ctx context.Context, l adminv1.LockoutServiceClient) error {
				res, err := l.LiftLockouts(ctx, &adminv1.LiftLockoutsRequest{Clients: args, Reason: reason})
				if err != nil {
					return err
				}
				return n.printLifted(res)
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "`why`, for the log and the audit log")
	return cmd
}

func (n *nouns) printLifted(res *adminv1.LiftLockoutsResponse) error {
	out := struct {
		Clients []letIn  `json:"clients"`
		Missing []string `json:"missing_nodes"`
	}{[]letIn{}, append([]string{}, res.GetMissingNodes()...)}
	var unknown []string
	for _, c := range res.GetClients() {
		l := letIn{c.GetNetwork(), there(c.GetNodes())}
		if l.none() {
			unknown = append(unknown, l.Network)
		}
		out.Clients = append(out.Clients, l)
	}
	err := n.Object(out, func(w io.Writer) error {
		for i := range out.Clients {
			if _, err := fmt.Fprintln(w, out.Clients[i].line(n.Now())); err != nil {
				return err
			}
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case len(out.Missing) > 0:
		return cmdline.Exitf(exitPartly, "no answer from %s: who is locked out there stays so; try again", strings.Join(out.Missing, ", "))
	case len(unknown) > 0:
		return cmdline.Exitf(exitNotFound, "not locked out: %s", strings.Join(unknown, ", "))
	}
	return nil
}
