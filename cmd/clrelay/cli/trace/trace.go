// Package trace is the nouns trace and events of the command line, and the
// verbs of message that show what is in one: where is the mail, where was it,
// what happens now, and what is being said.
package trace

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

const (
	// findTimeout bounds a search, for which each node may have to read much.
	findTimeout = time.Minute
	// maxAnswer is how large an answer may be.
	maxAnswer = 256 << 20
)

// Connect connects to a relay, calls f, and explains its errors.
type Connect func(f func(conn grpc.ClientConnInterface) error) error

type nouns struct {
	*cmdline.Console
	with Connect
}

// Commands makes the commands trace and events.
func Commands(c *cmdline.Console, with Connect) []*cobra.Command {
	n := &nouns{c, with}
	trace := n.traceCommand()
	trace.AddCommand(n.smtpCommand())
	events := &cobra.Command{Use: "events", Short: "Follow what happens to mail"}
	events.AddCommand(n.tailCommand())
	return []*cobra.Command{trace, events}
}

// MessageCommands makes the verbs of message that show what is in one.
func MessageCommands(c *cmdline.Console, with Connect) []*cobra.Command {
	n := &nouns{c, with}
	return []*cobra.Command{n.headersCommand(), n.bodyCommand()}
}

func (a *nouns) traceCommand() *cobra.Command {
	var (
		since, until string
		limit        int32
	)
	cmd := &cobra.Command{
		Use:   "trace ID|MESSAGE-ID|ADDRESS",
		Short: "Tell where a message is, or was",
		Long: `Tell what happened to a message on all nodes, in order: who brought it, who
has copies, every attempt with host, TLS, reply and next try, the nodes that it
went through, how it ended, and, while it is queued, how it stands now.

It is found by its ID, by its Message-ID, by the address of its sender or of a
recipient, or by the ID that the next hop gave it in its 250. What was refused
is found by address, too. An address finds many messages: they are listed, the
newest first, with a word on what became of each; one alone is told in full.

How long events are kept is said by the setting trace.keep. A node that does
not answer is named, and the exit code is 7; 3 means that nothing is known.`,
		Example: `  clrelay trace '<20261123.77@payroll.example.edu>'
  clrelay trace a.ng@partner.example --since 2d --limit 100`,
		Args: cmdline.Exactly[*cobra.Command](1, "it takes one thing to look for: an ID, a Message-ID or an address"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &adminv1.FindRequest{Term: args[0], Limit: limit}
			var err error
			if req.Since, err = a.moment(cmd, "since", since); err != nil {
				return err
			}
			if req.Until, err = a.moment(cmd, "until", until); err != nil {
				return err
			}
			if limit < 1 {
				return cmdline.Usagef(cmd.CommandPath(), "--limit must be 1 or more")
			}
			return a.with(func(l grpc.ClientConnInterface) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), findTimeout)
				defer cancel()
				res, err := adminv1.NewTraceServiceClient(l).Find(ctx, req, grpc.MaxCallRecvMsgSize(maxAnswer))
				if err != nil {
					return err
				}
				return a.printFound(args[0], res)
			})
		},
	}
	cmd.Flags().StringVar(&since, "since", "", "only what happened since then: a `time` ago such as 2d or 90m, or 2026-11-23T09:12:00Z")
	cmd.Flags().StringVar(&until, "until", "", "only what happened until then: a `time` as for --since")
	cmd.Flags().Int32Var(&limit, "limit", 20, "list so `many` messages at most, the newest")
	return cmd
}

// moment reads a time of a flag: so long ago, or when.
func (a *nouns) moment(cmd *cobra.Command, flag, text string) (*timestamppb.Timestamp, error) {
	if text == "" {
		return nil, nil
	}
	if d, err := cmdline.ParseSpan(text); err == nil {
		return timestamppb.New(a.Now().Add(-d)), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.Parse(layout, text); err == nil {
			return timestamppb.New(t), nil
		}
	}
	return nil, cmdline.Usagef(cmd.CommandPath(), "--%s %s: neither a time ago such as 2d nor a time such as 2026-11-23T09:12:00Z", flag, text)
}

// message is a message as the stable formats show it.
type message struct {
	ID         string     `json:"id"`
	From       string     `json:"from"`
	Rcpts      []string   `json:"rcpts"`
	Recipients int64      `json:"recipients"`
	MessageID  string     `json:"message_id"`
	Size       int64      `json:"size"`
	Arrived    *time.Time `json:"arrived"`
	Outcome    string     `json:"outcome"`
	Queued     *queued    `json:"queued"`
	Events     []event    `json:"events"`
}

// queued is how a message stands in the queue.
type queued struct {
	Node       string      `json:"node"`
	Recipients []recipient `json:"recipients"`
}

type recipient struct {
	Rcpt        string     `json:"rcpt"`
	State       string     `json:"state"`
	Attempts    uint32     `json:"attempts"`
	NextAttempt *time.Time `json:"next_attempt"`
	LastReply   string     `json:"last_reply"`
	Remote      string     `json:"remote"`
}

// event is something that happened.
type event struct {
	Time        *time.Time `json:"time"`
	Node        string     `json:"node"`
	Event       string     `json:"event"`
	ID          string     `json:"id"`
	From        string     `json:"from"`
	Rcpts       []string   `json:"rcpts"`
	Recipients  int64      `json:"recipients"`
	MessageID   string     `json:"message_id"`
	Client      *client    `json:"client"`
	Size        int64      `json:"size"`
	Took        float64    `json:"took_seconds"`
	Copies      []string   `json:"copies"`
	Arrived     *time.Time `json:"arrived"`
	Relay       string     `json:"relay"`
	Source      string     `json:"source"`
	TLS         string     `json:"tls"`
	Attempt     int32      `json:"attempt"`
	Code        int32      `json:"code"`
	Reply       string     `json:"reply"`
	Reason      string     `json:"reason"`
	Delay       float64    `json:"delay_seconds"`
	NextAttempt *time.Time `json:"next_attempt"`
	Of          string     `json:"of"`
	Kind        string     `json:"kind"`
	Class       string     `json:"class"`
}

type client struct {
	Addr     string `json:"addr"`
	Helo     string `json:"helo"`
	Protocol string `json:"protocol"`
	TLS      string `json:"tls"`
	Sender   string `json:"sender"`
}

// list makes an empty list of none.
func list(in []string) []string {
	if in == nil {
		return []string{}
	}
	return in
}

func eventOf(e *adminv1.TraceEvent) event {
	out := event{
		Time: cmdline.Stamp(e.GetTime()), Node: e.GetNode(), Event: e.GetEvent(), ID: e.GetId(), From: e.GetFrom(), Rcpts: list(e.GetRcpts()),
		Recipients: e.GetRecipients(), MessageID: e.GetMessageId(), Size: e.GetSize(), Took: e.GetTook().AsDuration().Seconds(), Copies: list(e.GetCopies()),
		Arrived: cmdline.Stamp(e.GetArrived()), Relay: e.GetRelay(), Source: e.GetSource(), TLS: e.GetTls(), Attempt: e.GetAttempt(), Code: e.GetCode(), Reply: e.GetReply(),
		Reason: e.GetReason(), Delay: e.GetDelay().AsDuration().Seconds(), NextAttempt: cmdline.Stamp(e.GetNext()), Of: e.GetOf(), Kind: e.GetKind(), Class: e.GetClass(),
	}
	if c := e.GetClient(); c != nil {
		out.Client = &client{c.GetAddr(), c.GetHelo(), c.GetProtocol(), c.GetTls(), c.GetSender()}
	}
	return out
}

func messageOf(m *adminv1.TracedMessage) message {
	out := message{
		ID: m.GetId(), From: m.GetFrom(), Rcpts: list(m.GetRcpts()), Recipients: m.GetRecipients(), MessageID: m.GetMessageId(), Size: m.GetSize(),
		Arrived: cmdline.Stamp(m.GetArrived()), Outcome: m.GetOutcome(), Events: []event{},
	}
	if q := m.GetQueued(); q != nil {
		out.Queued = &queued{Node: q.GetNode(), Recipients: []recipient{}}
		for _, r := range q.GetRecipients() {
			out.Queued.Recipients = append(out.Queued.Recipients, recipient{
				r.GetRcpt(), strings.ToLower(strings.TrimPrefix(r.GetState().String(), "RECIPIENT_STATE_")), r.GetAttempts(),
				cmdline.Stamp(r.GetNextAttempt()), r.GetLastReply(), r.GetRemote(),
			})
		}
	}
	for _, e := range m.GetEvents() {
		out.Events = append(out.Events, eventOf(e))
	}
	return out
}

// printFound prints what was found, and says what may be missing.
func (a *nouns) printFound(term string, res *adminv1.FindResponse) error {
	found := res.GetMessages()
	for _, n := range res.GetNotes() {
		a.Talk("note: %s", n)
	}
	if a.Format == cmdline.FormatTable && len(found) == 1 {
		m := messageOf(found[0])
		if err := a.Object(nil, func(w io.Writer) error { return story(w, &m) }); err != nil {
			return err
		}
	} else if len(found) > 0 || a.Format != cmdline.FormatTable {
		if err := a.printList(found); err != nil {
			return err
		}
	}
	if res.GetMore() {
		a.Talk("there are more: narrow it down with --since and --until, or ask for more with --limit")
	}
	missing := strings.Join(res.GetMissingNodes(), ", ")
	switch {
	case missing != "":
		return cmdline.Exitf(cmdline.ExitPartly, "no answer from %s: what is known there is missing here", missing)
	case len(found) > 0:
		return nil
	case res.GetOldest() == nil:
		return cmdline.Exitf(cmdline.ExitNotFound, "no trace of %s: no node remembers anything yet", term)
	}
	return cmdline.Exitf(cmdline.ExitNotFound, "no trace of %s: the nodes remember what happened since %s", term, res.GetOldest().AsTime().Format(time.RFC3339))
}

func (a *nouns) printList(found []*adminv1.TracedMessage) error {
	out := a.List("ID", "ARRIVED", "SIZE", "FROM", "RCPTS", "OUTCOME")
	for _, f := range found {
		m := messageOf(f)
		if err := out.Row(m, orDash(m.ID), at(m.Arrived), size(m.Size), sender(&m), rcpts(m.Rcpts, m.Recipients), cmdline.Cell(m.Outcome, 100)); err != nil {
			return err
		}
	}
	return out.End()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func at(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.Format("2006-01-02T15:04:05.000Z")
}

func size(n int64) string {
	if n == 0 {
		return "-"
	}
	return cmdline.Size(n)
}

// sender writes a sender: the null reverse-path has a form, what was refused
// before MAIL has none.
func sender(m *message) string {
	if m.From == "" && m.ID == "" {
		return "-"
	}
	return address(m.From)
}

func address(s string) string {
	if s == "" {
		return "<>"
	}
	return cmdline.Cell(s, 80)
}

// rcpts names recipients, of many the first.
func rcpts(known []string, n int64) string {
	switch {
	case len(known) == 0:
		return "-"
	case n > 1:
		return fmt.Sprintf("%s and %d more", cmdline.Cell(known[0], 80), n-1)
	}
	return cmdline.Cell(known[0], 80)
}

// story tells a message in full.
func story(w io.Writer, m *message) error {
	var b strings.Builder
	for _, line := range [][2]string{
		{"id", m.ID}, {"message-id", cmdline.Cell(m.MessageID, 250)}, {"from", sender(m)}, {"to", cmdline.Cell(strings.Join(m.Rcpts, ", "), 400)},
		{"size", size(m.Size)}, {"arrived", at(m.Arrived)}, {"outcome", cmdline.Cell(m.Outcome, 400)},
	} {
		if line[1] != "" && line[1] != "-" {
			fmt.Fprintf(&b, "%s\t%s\n", line[0], line[1])
		}
	}
	if len(m.Events) > 0 {
		b.WriteString("\nTIME\tNODE\tEVENT\tRCPT\tDETAIL\n")
	}
	for i := range m.Events {
		e := &m.Events[i]
		fmt.Fprintf(&b, "%s\t%s\t%s\t%s\t%s\n", at(e.Time), e.Node, e.Event, who(e), cmdline.Cell(detail(e, m.ID), 500))
	}
	if q := m.Queued; q != nil {
		fmt.Fprintf(&b, "\nIn the queue of %s now:\nRCPT\tSTATE\tATTEMPTS\tNEXT\tLAST REPLY\n", q.Node)
		for _, r := range q.Recipients {
			fmt.Fprintf(&b, "%s\t%s\t%d\t%s\t%s\n", address(r.Rcpt), r.State, r.Attempts, at(r.NextAttempt), cmdline.Cell(strings.TrimSpace(r.Remote+" "+r.LastReply), 300))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// who names the recipients of an event, where it is about some of them.
func who(e *event) string {
	switch e.Event {
	case "accepted", "taken_over", "dsn":
		return "-"
	}
	return rcpts(e.Rcpts, int64(len(e.Rcpts)))
}

// detail tells what is to be said of an event, as a sentence in parts.
func detail(e *event, id string) string {
	var parts []string
	add := func(format string, args ...any) {
		if s := strings.TrimSpace(fmt.Sprintf(format, args...)); s != "" {
			parts = append(parts, s)
		}
	}
	switch e.Event {
	case "accepted", "taken_over":
		if e.Event == "taken_over" {
			add("%s delivers it from now on", e.Node)
		}
		add("%s", origin(e.Client))
		if e.Took > 0 {
			add("250 in %.1f ms", e.Took*1000)
		}
		if len(e.Copies) > 0 {
			add("copies on %s", strings.Join(e.Copies, ", "))
		}
	case "rejected":
		add("%s", e.Reply)
		add("%s", origin(e.Client))
	case "dsn":
		if e.ID == id {
			add("it is the %s report about %s", e.Kind, e.Of)
		} else {
			add("%s report %s written", e.Kind, e.ID)
		}
	case "returned":
		if e.ID == id {
			add("%s %s came back", e.Kind, e.Of)
		} else {
			add("it is a %s about %s", e.Kind, e.ID)
		}
		add("%s", e.Class)
		add("%s", e.Reply)
	default:
		add("%s", strings.TrimSpace(e.Relay+" "+e.Reply))
		add("%s", e.Class)
		if e.Source != "" {
			add("from %s", e.Source)
		}
		if e.TLS != "" {
			add("%s", e.TLS)
		} else if e.Relay != "" {
			add("without TLS")
		}
		if e.Attempt > 0 {
			add("attempt %d", e.Attempt)
		}
	}
	add("%s", e.Reason)
	if e.NextAttempt != nil {
		add("next %s", at(e.NextAttempt))
	}
	return strings.Join(parts, "; ")
}

// origin tells where a message came from.
func origin(c *client) string {
	if c == nil {
		return ""
	}
	s := c.Helo
	if c.Addr != "" {
		s = strings.TrimSpace(s + " [" + c.Addr + "]")
	}
	s = strings.TrimSpace(s + " " + c.Protocol)
	switch {
	case c.TLS != "":
		s += " " + c.TLS
	case c.Addr != "":
		s += " without TLS"
	}
	if c.Sender != "" {
		s += ", sender " + c.Sender
	}
	return s
}
