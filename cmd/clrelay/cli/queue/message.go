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

func (a *nouns) messageCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "message", Short: "Look at single messages, and change them"}
	show := &cobra.Command{
		Use:   "show ID",
		Short: "Show what is known of a message in the queue",
		Long: `Show the envelope of a message in the queue, where it came from, and where each
of its recipients stands. Its content is not shown.`,
		Args: cmdline.Exactly[*cobra.Command](1, "it takes one ID, the one that the 250 named"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(l grpc.ClientConnInterface) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
				defer cancel()
				res, err := adminv1.NewMessageServiceClient(l).Show(ctx, &adminv1.ShowRequest{Id: args[0]})
				if err != nil {
					return err
				}
				return a.printMessage(res.GetMessage())
			})
		},
	}
	cmd.AddCommand(show)
	cmd.AddCommand(a.messageVerbs()...)
	return cmd
}

// message is what message show prints.
type message struct {
	ID         string             `json:"id"`
	Node       string             `json:"node"`
	From       string             `json:"from"`
	Size       int64              `json:"size"`
	Arrived    *time.Time         `json:"arrived"`
	Body       string             `json:"body"`
	SMTPUTF8   bool               `json:"smtputf8"`
	RequireTLS bool               `json:"require_tls"`
	Ret        string             `json:"ret"`
	EnvID      string             `json:"env_id"`
	HoldUntil  *time.Time         `json:"hold_until"`
	DeliverBy  *time.Time         `json:"deliver_by"`
	GiveUp     bool               `json:"give_up"`
	Client     messageClient      `json:"client"`
	Recipients []messageRecipient `json:"recipients"`
}

type messageClient struct {
	Addr     string `json:"addr"`
	Helo     string `json:"helo"`
	Protocol string `json:"protocol"`
	TLS      string `json:"tls"`
	Sender   string `json:"sender"`
}

type messageRecipient struct {
	Rcpt        string     `json:"rcpt"`
	Domain      string     `json:"domain"`
	State       string     `json:"state"`
	Attempts    uint32     `json:"attempts"`
	NextAttempt *time.Time `json:"next_attempt"`
	LastAttempt *time.Time `json:"last_attempt"`
	LastReply   string     `json:"last_reply"`
	Remote      string     `json:"remote"`
	Notify      string     `json:"notify"`
	ORcpt       string     `json:"orcpt"`
}

func (a *nouns) printMessage(m *adminv1.Message) error {
	c := m.GetClient()
	out := message{
		ID: m.GetId(), Node: m.GetNode(), From: m.GetFrom(), Size: m.GetSize(), Arrived: cmdline.Stamp(m.GetArrived()),
		Body: m.GetBody(), SMTPUTF8: m.GetSmtputf8(), RequireTLS: m.GetRequireTls(), Ret: m.GetRet(), EnvID: m.GetEnvId(),
		HoldUntil: cmdline.Stamp(m.GetHoldUntil()), DeliverBy: cmdline.Stamp(m.GetDeliverBy()), GiveUp: m.GetGiveUp(),
		Client:     messageClient{c.GetAddr(), c.GetHelo(), c.GetProtocol(), c.GetTls(), c.GetSender()},
		Recipients: []messageRecipient{},
	}
	for _, r := range m.GetRecipients() {
		out.Recipients = append(out.Recipients, messageRecipient{
			r.GetRcpt(), r.GetDomain(), stateWord(r.GetState()), r.GetAttempts(), cmdline.Stamp(r.GetNextAttempt()), cmdline.Stamp(r.GetLastAttempt()),
			r.GetLastReply(), r.GetRemote(), r.GetNotify(), r.GetOrcpt(),
		})
	}
	return a.Object(out, func(w io.Writer) error { return a.messageTable(w, m, &out) })
}

func stamp(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.Format(time.RFC3339)
}

// deliverBy says by when its sender wants it delivered, and what is done then.
func deliverBy(m *message) string {
	switch {
	case m.DeliverBy == nil:
		return ""
	case m.GiveUp:
		return stamp(m.DeliverBy) + ", then it goes back"
	}
	return stamp(m.DeliverBy) + ", then the sender is told"
}

func (a *nouns) messageTable(w io.Writer, m *adminv1.Message, out *message) error {
	now := a.Now()
	arrived := "-"
	if out.Arrived != nil {
		arrived = fmt.Sprintf("%s (%s ago)", out.Arrived.Format(time.RFC3339), a.Ago(m.GetArrived()))
	}
	client := out.Client.Protocol
	if out.Client.Addr != "" {
		client = fmt.Sprintf("%s [%s] %s %s", out.Client.Helo, out.Client.Addr, out.Client.Protocol, out.Client.TLS)
	}
	for _, line := range [][2]string{
		{"id", out.ID}, {"node", out.Node}, {"from", orNull(out.From)}, {"size", cmdline.Size(out.Size)}, {"arrived", arrived},
		{"client", cmdline.Cell(strings.TrimSpace(client), 200)}, {"sender", cmdline.Cell(out.Client.Sender, 80)}, {"envid", cmdline.Cell(out.EnvID, 100)},
		{"hold until", stamp(out.HoldUntil)}, {"deliver by", deliverBy(out)},
	} {
		if line[1] == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "%s\t%s\n", line[0], line[1]); err != nil {
			return err
		}
	}
	for i, r := range out.Recipients {
		if _, err := fmt.Fprintf(w, "rcpt\t%s\n  state\t%s, %s\n", orNull(r.Rcpt), r.State, cmdline.Plural(int64(r.Attempts), "attempt")); err != nil {
			return err
		}
		if next := m.GetRecipients()[i].GetNextAttempt(); next != nil {
			if _, err := fmt.Fprintf(w, "  next\t%s (in %s)\n", r.NextAttempt.Format(time.RFC3339), ahead(next, now)); err != nil {
				return err
			}
		}
		if r.LastReply != "" {
			if _, err := fmt.Fprintf(w, "  reply\t%s\n", cmdline.Cell(strings.TrimSpace(r.Remote+" "+r.LastReply), 400)); err != nil {
				return err
			}
		}
	}
	return nil
}
