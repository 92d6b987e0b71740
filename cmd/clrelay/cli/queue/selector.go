package queue

import (
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// selector holds the flags that pick recipients in the queue.
type selector struct {
	ids, domains, rcpts, froms, states       []string
	senders, nodes, routes, clients, replies []string
	dsns, classes, rules                     []string
	older, newer, sizeOver                   string
	attemptsOver                             uint32
	everything                               bool
}

func (s *selector) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&s.ids, "id", nil, "recipients of the message with this `ID`")
	f.StringArrayVar(&s.domains, "domain", nil, "recipients in this `domain`; *.example.org for all below it")
	f.StringArrayVar(&s.rcpts, "rcpt", nil, "recipients whose address matches this `pattern` with * and ?")
	f.StringArrayVar(&s.froms, "from", nil, "mail of senders whose address matches this `pattern`; <> is the null sender")
	f.StringVar(&s.older, "older", "", "messages that arrived longer ago than this `duration`: 90s, 2h, 5d")
	f.StringVar(&s.newer, "newer", "", "messages that arrived within this `duration`")
	f.StringArrayVar(&s.states, "state", nil, "recipients in this `state`: active, deferred, held or trash")
	s.more(f)
	f.BoolVar(&s.everything, "everything", false, "the whole queue")
}

// more are the selectors by what mail is, and what became of it so far: the
// ones that a hold rule can have too.
func (s *selector) more(f *pflag.FlagSet) {
	f.StringArrayVar(&s.senders, "sender", nil, "mail of clients in this entry (`name`) of senders in cluster.yaml")
	f.StringArrayVar(&s.nodes, "node", nil, "messages of this `node`")
	f.StringArrayVar(&s.routes, "route", nil, "recipients on this `route`: mx, smarthost, lmtp, unroutable, or a HOST or HOST:PORT it leads to")
	f.StringArrayVar(&s.clients, "client", nil, "messages from this address or `network`: 192.0.2.0/24")
	f.StringArrayVar(&s.replies, "reply", nil, "recipients whose last reply has this `text` in it")
	f.StringArrayVar(&s.dsns, "dsn", nil, "recipients whose last reply has this enhanced status `code`: 4.7.1 or 4.7.*")
	f.StringArrayVar(&s.classes, "reason-class", nil, "recipients whose own last reply is of this `class`, as queue reasons shows them; limit: those that wait for a limit")
	f.StringArrayVar(&s.rules, "rule", nil, "recipients that this hold rule, an `ID`, keeps")
	f.StringVar(&s.sizeOver, "size-over", "", "messages above this `size`: 500KiB, 10MiB")
	f.Uint32Var(&s.attemptsOver, "attempts-over", 0, "recipients with more attempts than this `number`")
}

// message gives what travels. args are IDs of messages, too.
func (s *selector) message(cmd *cobra.Command, args []string, now time.Time) (*adminv1.Selector, error) {
	out := &adminv1.Selector{
		Ids: append(args[:len(args):len(args)], s.ids...), Domains: s.domains, Rcpts: s.rcpts, Froms: s.froms, Everything: s.everything,
		Senders: s.senders, Nodes: s.nodes, Routes: s.routes, Clients: s.clients, Replies: s.replies, Dsns: s.dsns, ReasonClasses: s.classes, Rules: s.rules,
	}
	if s.sizeOver != "" {
		n, err := cmdline.ParseSize(s.sizeOver)
		if err != nil {
			return nil, cmdline.Usagef(cmd.CommandPath(), "--size-over: %w", err)
		}
		out.SizeOver = &n
	}
	if cmd.Flags().Changed("attempts-over") {
		out.AttemptsOver = &s.attemptsOver
	}
	for _, text := range s.states {
		for word := range strings.SplitSeq(text, ",") {
			state, ok := adminv1.RecipientState_value["RECIPIENT_STATE_"+strings.ToUpper(word)]
			if !ok || state == 0 {
				return nil, cmdline.Usagef(cmd.CommandPath(), "unknown state %q: active, deferred, held or trash", word)
			}
			out.States = append(out.States, adminv1.RecipientState(state))
		}
	}
	for _, t := range []struct {
		flag, text string
		to         **timestamppb.Timestamp
	}{{"older", s.older, &out.ArrivedBefore}, {"newer", s.newer, &out.ArrivedAfter}} {
		if t.text == "" {
			continue
		}
		d, err := cmdline.ParseSpan(t.text)
		if err != nil {
			return nil, cmdline.Usagef(cmd.CommandPath(), "--%s: %w", t.flag, err)
		}
		*t.to = timestamppb.New(now.Add(-d))
	}
	return out, nil
}

// given tells whether anything was picked.
func given(s *adminv1.Selector) bool {
	return proto.Size(s) > 0
}

// stateWord gives the word for a state that every format uses.
func stateWord(s adminv1.RecipientState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "RECIPIENT_STATE_"))
}

// ahead tells how far away a time is.
func ahead(t *timestamppb.Timestamp, now time.Time) string {
	if t == nil {
		return "-"
	}
	if d := t.AsTime().Sub(now); d > 0 {
		return cmdline.Span(d)
	}
	return "now"
}

// orNull writes an address for humans.
func orNull(addr string) string {
	if addr == "" {
		return "<>"
	}
	return cmdline.Cell(addr, 60)
}
