package limits

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// explained is what limit explain prints.
type explained struct {
	Domain  string   `json:"domain"`
	Site    string   `json:"site"`
	Route   string   `json:"route"`
	Lane    string   `json:"lane"`
	Reply   string   `json:"reply"`
	Summary string   `json:"summary"`
	Nodes   []atNode `json:"nodes"`
	Missing []string `json:"missing_nodes"`
}

// atNode is how a destination stands at a node.
type atNode struct {
	Node       string     `json:"node"`
	NoLease    bool       `json:"no_lease"` // it delivers nothing at all
	State      string     `json:"state"`
	Running    int64      `json:"running"`
	Limit      int64      `json:"limit"`
	Recipients int64      `json:"recipients"` // in the lane
	Why        string     `json:"why"`
	NextTry    *time.Time `json:"next_try"`
	Mail       queued     `json:"mail"`
	Limits     []verdict  `json:"limits"`
}

// queued is what of the destination itself a node has.
type queued struct {
	Recipients int64      `json:"recipients"`
	More       bool       `json:"more"`
	Held       int64      `json:"held"`
	Deferred   int64      `json:"deferred"`
	Reply      string     `json:"reply"`
	Replied    int64      `json:"replied"`
	NextTry    *time.Time `json:"next_try"`
	Holds      []hold     `json:"holds"`
}

// hold is what waits for a part of a limit.
type hold struct {
	Limit      string     `json:"limit"`
	Part       string     `json:"part"`
	Key        string     `json:"key"`
	Recipients int64      `json:"recipients"`
	Until      *time.Time `json:"until"`
	Why        string     `json:"why"`
}

func queues(m *adminv1.DestinationMail) queued {
	out := queued{
		Recipients: m.GetRecipients(), More: m.GetCut(), Held: m.GetHeld(), Deferred: m.GetDeferred(), Reply: m.GetReply(), Replied: m.GetReplied(),
		NextTry: cmdline.Stamp(m.GetNextTry()), Holds: []hold{},
	}
	for _, h := range m.GetHolds() {
		out.Holds = append(out.Holds, hold{h.GetLimit(), h.GetKind(), h.GetKey(), h.GetRecipients(), cmdline.Stamp(h.GetUntil()), h.GetWhy()})
	}
	return out
}

// cells are how much is queued, and of it deferred and waiting for limits.
func (q *queued) cells() string {
	waiting, more := int64(0), ""
	for _, h := range q.Holds {
		waiting += h.Recipients
	}
	if q.More {
		more = "+"
	}
	return cmdline.Count(q.Recipients) + more + "\t" + cmdline.Count(q.Deferred) + "\t" + cmdline.Count(waiting)
}

// verdict is what a part of a limit says at a node.
type verdict struct {
	shown
	Part        string  `json:"part"`
	Key         string  `json:"key"`
	Allows      bool    `json:"allows"`
	WaitSeconds float64 `json:"wait_seconds"`
	Use         use     `json:"use"`
}

func (n *nouns) explainCommand() *cobra.Command {
	var from string
	cmd := &cobra.Command{
		Use:   "explain DESTINATION",
		Short: "Say why mail for a destination moves as it does",
		Long: `Say why mail for a domain or an address moves as it does, and when it goes on:
which site it goes to, what the queues of all nodes have of it and what that waits
for, and what each limit that is for it says, with what is used of it at each node,
who set it, why, and until when. Of a domain with very much mail the oldest 10,000
recipients at each node are looked at. QUEUED is the domain's own, IN LANE what goes
the same way.`,
		Example: "  clrelay limit explain jane@gmail.com",
		Args:    cmdline.Exactly[*cobra.Command](1, "it takes a domain or an address"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return n.ask(cmd, func(ctx context.Context, l adminv1.LimitServiceClient) error {
				r, err := l.ExplainLimits(ctx, &adminv1.ExplainLimitsRequest{Destination: args[0], From: from})
				if err != nil {
					return err
				}
				out := explained{
					Domain: r.GetDomain(), Site: r.GetSite(), Route: r.GetRoute(), Lane: r.GetLane(), Reply: r.GetReply(), Summary: r.GetSummary(),
					Nodes: []atNode{}, Missing: append([]string{}, r.GetMissingNodes()...),
				}
				if out.Reply == "" {
					for _, one := range append([]*adminv1.ExplainLimitsResponse{r}, r.GetOthers()...) {
						out.Nodes = append(out.Nodes, at(one))
					}
					slices.SortFunc(out.Nodes, func(a, b atNode) int { return strings.Compare(a.Node, b.Node) })
				}
				if err := n.Object(out, func(w io.Writer) error { return n.tell(w, &out) }); err != nil {
					return err
				}
				return missing(out.Missing)
			})
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "for mail from this `address`, where limits count by it")
	return cmd
}

func at(r *adminv1.ExplainLimitsResponse) atNode {
	out := atNode{
		Node: r.GetNode(), NoLease: r.GetNoLease(), State: r.GetState(), Running: r.GetRunning(), Limit: r.GetMost(), Recipients: r.GetRecipients(),
		Why: r.GetWhy(), NextTry: cmdline.Stamp(r.GetNextTry()), Mail: queues(r.GetMail()), Limits: []verdict{},
	}
	for _, v := range r.GetVerdicts() {
		out.Limits = append(out.Limits, verdict{show(v.GetLimit()), v.GetUse().GetKind(), v.GetKey(), v.GetAllows(), v.GetWait().AsDuration().Seconds(), used(v.GetUse())})
	}
	return out
}

// tell prints the paragraph, and under it what it was made of: the nodes, and
// each part of each limit at each of them.
func (n *nouns) tell(w io.Writer, r *explained) error {
	lines := []string{wrap(r.Summary, 78)}
	if r.Reply == "" {
		lines = append(lines, "", fmt.Sprintf("Route %s, lane %s:", r.Route, r.Lane), "NODE\tSTATE\tDELIVERIES\tIN LANE\tQUEUED\tDEFERRED\tLIMITED")
	}
	var parts []string
	for i := range r.Nodes {
		a := &r.Nodes[i]
		lines = append(lines, fmt.Sprintf("%s\t%s\t%d of %d\t%s\t%s", a.Node, a.State, a.Running, a.Limit, cmdline.Count(a.Recipients), a.Mail.cells()))
		for j := range a.Limits {
			v := &a.Limits[j]
			key := v.Key
			if key == "" {
				key = "all"
			}
			cells := append([]string{v.Name, v.Origin, v.Part, cmdline.Cell(key, 60), a.Node}, v.Use.cells()...)
			parts = append(parts, strings.Join(append(cells, v.says()), "\t"))
		}
	}
	if len(parts) > 0 {
		slices.Sort(parts)
		lines = append(lines, "", "LIMIT\tORIGIN\tPART\tKEY\tNODE\tIN USE\tSHARE\tOF ALL\tMAIL")
		lines = append(lines, parts...)
	}
	_, err := fmt.Fprintln(w, strings.Join(lines, "\n"))
	return err
}

// says is whether a message may go, as far as it goes.
func (v *verdict) says() string {
	d := time.Duration(v.WaitSeconds * float64(time.Second))
	switch {
	case v.Allows && v.Use.Waiting > 0:
		return "goes as it allows"
	case v.Allows:
		return "goes"
	case d > 0 && d < time.Second:
		return "waits for less than 1s"
	case d > 0:
		return "waits for " + cmdline.Span(d)
	}
	return "waits"
}

// wrap breaks a text at spaces, so that no line is longer than width where it
// can be helped.
func wrap(text string, width int) string {
	out, col := []byte(nil), 0
	for len(text) > 0 {
		word, rest := text, ""
		for i := range text {
			if text[i] == ' ' {
				word, rest = text[:i], text[i+1:]
				break
			}
		}
		switch {
		case col == 0:
		case col+1+len(word) > width:
			out, col = append(out, '\n'), 0
		default:
			out, col = append(out, ' '), col+1
		}
		out, col, text = append(out, word...), col+len(word), rest
	}
	return string(out)
}
