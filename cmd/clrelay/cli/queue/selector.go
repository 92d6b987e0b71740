package queue

import (
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// selector holds the flags that pick recipients in the queue.
type selector struct {
	ids, domains, rcpts, froms, states []string
	older, newer                       string
	everything                         bool
}

func (s *selector) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&s.ids, "id", nil, "recipients of the message with this `ID`")
	f.StringArrayVar(&s.domains, "domain", nil, "recipients in this `domain`; *.example.org for all below it")
	f.StringArrayVar(&s.rcpts, "rcpt", nil, "recipients whose address matches this `pattern` with * and ?")
	f.StringArrayVar(&s.froms, "from", nil, "mail of senders whose address matches this `pattern`; <> is the null sender")
	f.StringVar(&s.older, "older", "", "messages that arrived longer ago than this `duration`: 90s, 2h, 5d")
	f.StringVar(&s.newer, "newer", "", "messages that arrived within this `duration`")
	f.StringArrayVar(&s.states, "state", nil, "recipients in this `state`: active, deferred or held")
	f.BoolVar(&s.everything, "everything", false, "the whole queue")
}

// message gives what travels. args are IDs of messages, too.
func (s *selector) message(cmd *cobra.Command, args []string, now time.Time) (*adminv1.Selector, error) {
	out := &adminv1.Selector{
		Ids: append(args[:len(args):len(args)], s.ids...), Domains: s.domains, Rcpts: s.rcpts, Froms: s.froms, Everything: s.everything,
	}
	for _, text := range s.states {
		for word := range strings.SplitSeq(text, ",") {
			state, ok := adminv1.RecipientState_value["RECIPIENT_STATE_"+strings.ToUpper(word)]
			if !ok || state == 0 {
				return nil, cmdline.Usagef(cmd.CommandPath(), "unknown state %q: active, deferred or held", word)
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
	return s.GetEverything() || len(s.GetIds())+len(s.GetDomains())+len(s.GetRcpts())+len(s.GetFroms())+len(s.GetStates()) > 0 ||
		s.GetArrivedBefore() != nil || s.GetArrivedAfter() != nil
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
