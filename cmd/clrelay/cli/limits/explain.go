package limits

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// explained is what limit explain prints.
type explained struct {
	Node       string     `json:"node"`
	Domain     string     `json:"domain"`
	Site       string     `json:"site"`
	Route      string     `json:"route"`
	Lane       string     `json:"lane"`
	State      string     `json:"state"`
	Running    int64      `json:"running"`
	Limit      int64      `json:"limit"`
	Recipients int64      `json:"recipients"`
	Why        string     `json:"why"`
	NextTry    *time.Time `json:"next_try"`
	Reply      string     `json:"reply"`
	Summary    string     `json:"summary"`
	Limits     []verdict  `json:"limits"`
}

type verdict struct {
	shown
	Key         string  `json:"key"`
	Allows      bool    `json:"allows"`
	WaitSeconds float64 `json:"wait_seconds"`
}

func (n *nouns) explainCommand() *cobra.Command {
	var from string
	cmd := &cobra.Command{
		Use:   "explain DESTINATION",
		Short: "Say why mail for a destination moves as it does",
		Long: `Say why mail for a domain or an address moves as it does, and when it goes on:
which site it goes to, what the queue knows of it, and what each limit that is for
it says, with who set it, why, and until when. The queue and the shares of limits
are those of the node that is asked.`,
		Example: "  clrelay limit explain jane@gmail.com",
		Args:    cmdline.Exactly[*cobra.Command](1, "it takes a domain or an address"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return n.ask(cmd, func(ctx context.Context, l adminv1.LimitServiceClient) error {
				r, err := l.ExplainLimits(ctx, &adminv1.ExplainLimitsRequest{Destination: args[0], From: from})
				if err != nil {
					return err
				}
				out := explained{
					Node: r.GetNode(), Domain: r.GetDomain(), Site: r.GetSite(), Route: r.GetRoute(), Lane: r.GetLane(), State: r.GetState(),
					Running: r.GetRunning(), Limit: r.GetMost(), Recipients: r.GetRecipients(), Why: r.GetWhy(), NextTry: cmdline.Stamp(r.GetNextTry()),
					Reply: r.GetReply(), Summary: r.GetSummary(), Limits: []verdict{},
				}
				for _, v := range r.GetVerdicts() {
					out.Limits = append(out.Limits, verdict{show(v.GetLimit()), v.GetKey(), v.GetAllows(), v.GetWait().AsDuration().Seconds()})
				}
				return n.Object(out, func(w io.Writer) error { return n.tell(w, &out) })
			})
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "for mail from this `address`, where limits count by it")
	return cmd
}

// tell prints the paragraph, and under it what it was made of.
func (n *nouns) tell(w io.Writer, r *explained) error {
	if _, err := fmt.Fprintf(w, "%s\n", wrap(r.Summary, 78)); err != nil || r.Reply != "" {
		return err
	}
	if _, err := fmt.Fprintf(w, "\nnode %s, route %s, lane %s: %s, %d of %d deliveries\n", r.Node, r.Route, r.Lane, r.State, r.Running, r.Limit); err != nil {
		return err
	}
	for i := range r.Limits {
		v := &r.Limits[i]
		says := "lets mail go"
		if !v.Allows {
			says = "holds it back"
			if d := time.Duration(v.WaitSeconds * float64(time.Second)); d > 0 {
				says += " for " + cmdline.Span(d)
			}
		}
		if _, err := fmt.Fprintf(w, "limit %s (%s, %s) %s\n", v.Name, v.Origin, v.what(), says); err != nil {
			return err
		}
	}
	return nil
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
