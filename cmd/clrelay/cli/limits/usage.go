package limits

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// use is how a part of a limit stands at a node, as the commands print it.
type use struct {
	Limit     string     `json:"limit"`
	Kind      string     `json:"kind"`
	Key       string     `json:"key"`
	Node      string     `json:"node"`
	Used      int64      `json:"used"`
	Share     int64      `json:"share"`
	Of        int64      `json:"of"`
	Rate      string     `json:"rate"`
	Pace      float64    `json:"pace"`
	PaceShare float64    `json:"pace_share"`
	Silent    bool       `json:"silent"`
	Waiting   int64      `json:"waiting"`
	Denied    uint64     `json:"denied"`
	Next      *time.Time `json:"next"`
}

func used(u *adminv1.LimitUse) use {
	return use{
		Limit: u.GetLimit(), Kind: u.GetKind(), Key: u.GetKey(), Node: u.GetNode(), Used: u.GetUsed(), Share: u.GetShare(), Of: u.GetOf(),
		Rate: u.GetRate(), Pace: round(u.GetPace()), PaceShare: round(u.GetPaceShare()), Silent: u.GetSilent(),
		Waiting: u.GetWaiting(), Denied: u.GetDenied(), Next: cmdline.Stamp(u.GetNext()),
	}
}

func round(v float64) float64 { return math.Round(v*100) / 100 }

// cells are what is in use, the node's share, and what all may use.
func (u *use) cells() []string {
	if u.Kind == "suspended" {
		return []string{"-", "-", "-"}
	}
	is, share, of := fmt.Sprint(u.Used), fmt.Sprint(u.Share), fmt.Sprint(u.Of)
	if u.Rate != "" {
		per := u.Rate[max(0, strings.IndexByte(u.Rate, '/')):]
		is, share, of = figure(u.Pace)+per, figure(u.PaceShare)+per, u.Rate
	}
	if u.Silent {
		is = "?"
	}
	return []string{is, share, of}
}

// figure writes a number, whole where it is large.
func figure(v float64) string {
	if v >= 10 || v == math.Trunc(v) {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.1f", v)
}

func (n *nouns) usageCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "usage [LIMIT]",
		Short: "Show what is used of limits, at each node",
		Long: `Show what is used of limits, by what they count by, at each node: of connections
those that are open; of a rate what goes in its time, lately (a mean of about 5
seconds, or of the time of the rate where that is longer); of a budget what was spent
in this hour or day, since the node was started. SHARE is what the node may use of
what all nodes may (OF ALL): of a budget what it was given so far. WAITING were told to
wait in the last second, DENIED since the key is known. Keys that were not used lately
are left out: each node has an even share of them. Of a node that does not answer the
share is shown that the leader of the cluster gave it, and ? for what it uses.`,
		Args: cmdline.AtMost[*cobra.Command](1, "it takes the name of one limit"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return n.ask(cmd, func(ctx context.Context, l adminv1.LimitServiceClient) error {
				req := &adminv1.LimitUsageRequest{}
				if len(args) > 0 {
					req.Name = args[0]
				}
				res, err := l.LimitUsage(ctx, req)
				if err != nil {
					return err
				}
				out := n.List("LIMIT", "PART", "KEY", "NODE", "IN USE", "SHARE", "OF ALL", "WAITING", "DENIED", "NEXT IN")
				for _, u := range res.GetUses() {
					if err := n.usageRow(out, u); err != nil {
						return err
					}
				}
				if err := out.End(); err != nil {
					return err
				}
				return missing(res.GetMissingNodes())
			})
		},
	}
}

func (n *nouns) usageRow(out *cmdline.List, u *adminv1.LimitUse) error {
	row := used(u)
	key, next := row.Key, "now"
	if key == "" {
		key = "all"
	}
	if row.Next != nil && row.Next.After(n.Now()) {
		if next = n.ends(row.Next); row.Next.Sub(n.Now()) < time.Second {
			next = "<1s"
		}
	}
	if row.Silent {
		next = "?"
	}
	cells := append([]string{cmdline.Cell(row.Limit, maxName), row.Kind, cmdline.Cell(key, 60), row.Node}, row.cells()...)
	return out.Row(row, append(cells, fmt.Sprint(row.Waiting), fmt.Sprint(row.Denied), next)...)
}

// missing is the error of an answer that lacks what some nodes have.
func missing(nodes []string) error {
	if len(nodes) == 0 {
		return nil
	}
	return cmdline.Exitf(exitPartly, "no answer from %s: what they have is missing", strings.Join(nodes, ", "))
}
