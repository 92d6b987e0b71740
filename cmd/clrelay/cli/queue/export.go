package queue

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// exported is a message as postqueue -j of Postfix shows it, and what we know
// besides.
type exported struct {
	QueueName     string              `json:"queue_name"`
	QueueID       string              `json:"queue_id"`
	ArrivalTime   int64               `json:"arrival_time"`
	MessageSize   int64               `json:"message_size"`
	ForcedExpire  bool                `json:"forced_expire"`
	Sender        string              `json:"sender"`
	Recipients    []exportedRecipient `json:"recipients"`
	Node          string              `json:"node"`
	ClientAddress string              `json:"client_address"`
	SenderRule    string              `json:"sender_rule"`
}

type exportedRecipient struct {
	Address     string     `json:"address"`
	DelayReason string     `json:"delay_reason"`
	State       string     `json:"state"`
	Attempts    uint32     `json:"attempts"`
	NextAttempt *time.Time `json:"next_attempt"`
	Route       string     `json:"route"`
	Rerouted    string     `json:"rerouted"`
	Rule        string     `json:"rule"`
	Expires     *time.Time `json:"expires"`
}

// queueNames are the names of Postfix, the busiest first.
func queueNames() []string { return []string{"active", "deferred", "hold", "trash"} }

func (a *nouns) exportCommand() *cobra.Command {
	var sel selector
	cmd := &cobra.Command{
		Use:   "export [ID...]",
		Short: "Export the queue as JSON, one line a message",
		Long: `Export the queue of all nodes as JSON, one line a message, in the order of
arrival. The keys are those of postqueue -j of Postfix, and behind them our own.
A message is in the busiest of the queues of its recipients: active, deferred,
hold or, if it is asked for with --state, trash. The null sender is
MAILER-DAEMON, as there. forced_expire says that an operator changed when one of
the recipients is given up. Nothing is gathered: it takes as little memory for a
million messages as for one.`,
		Example: "  clrelay queue export -o jsonl --state deferred",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if f := cmd.Flags().Lookup("output"); f != nil && f.Changed && f.Value.String() != "jsonl" {
				return cmdline.Usagef(cmd.CommandPath(), "an export is JSON, one line a message: -o jsonl")
			}
			picked, err := sel.message(cmd, args, a.Now())
			if err != nil {
				return err
			}
			return a.with(func(l grpc.ClientConnInterface) error { return a.export(cmd.Context(), l, picked) })
		},
	}
	sel.flags(cmd)
	return cmd
}

func (a *nouns) export(ctx context.Context, l grpc.ClientConnInterface, sel *adminv1.Selector) error {
	stream, err := adminv1.NewQueueServiceClient(l).List(ctx, &adminv1.ListRequest{Selector: sel})
	if err != nil {
		return err
	}
	out := json.NewEncoder(a.Stdout)
	out.SetEscapeHTML(false)
	var absent []string
	var m *exported
	end := func() error {
		if m == nil {
			return nil
		}
		return out.Encode(m)
	}
	for {
		batch, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			if err := end(); err != nil {
				return err
			}
			return missing(absent)
		}
		if err != nil {
			return err
		}
		absent = append(absent, batch.GetMissingNodes()...)
		for _, e := range batch.GetEntries() {
			if m == nil || m.QueueID != e.GetId() {
				if err := end(); err != nil {
					return err
				}
				m = newExported(e)
			}
			m.add(e)
		}
	}
}

func newExported(e *adminv1.QueueEntry) *exported {
	m := &exported{
		QueueName: "trash", QueueID: e.GetId(), ArrivalTime: e.GetArrived().GetSeconds(), MessageSize: e.GetSize(), Sender: e.GetFrom(),
		Node: e.GetNode(), ClientAddress: e.GetClient(), SenderRule: e.GetSender(),
	}
	if m.Sender == "" {
		m.Sender = "MAILER-DAEMON"
	}
	return m
}

// add adds a recipient.
func (m *exported) add(e *adminv1.QueueEntry) {
	m.Recipients = append(m.Recipients, exportedRecipient{
		e.GetRcpt(), e.GetLastReply(), stateWord(e.GetState()), e.GetAttempts(), cmdline.Stamp(e.GetNextAttempt()),
		e.GetRoute(), e.GetRerouted(), e.GetRule(), cmdline.Stamp(e.GetExpires()),
	})
	m.ForcedExpire = m.ForcedExpire || e.GetExpires() != nil
	name := stateWord(e.GetState())
	if name == "held" {
		name = "hold"
	}
	for _, q := range queueNames() {
		if q == name || q == m.QueueName {
			m.QueueName = q
			break
		}
	}
}
