package trace

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

// follow is a command that goes on until it is ended.
type follow struct {
	*nouns
	limit   time.Duration
	missing []string
}

// flags adds what all of them take.
func (f *follow) flags(cmd *cobra.Command, usual time.Duration) {
	cmd.Flags().DurationVar(&f.limit, "for", usual, "end after this `time`, such as 10m; 0 goes on until Ctrl-C")
}

// streams refuses formats that have an end.
func (f *follow) streams(cmd *cobra.Command) error {
	switch f.Format {
	case cmdline.FormatTable, cmdline.FormatLines:
	default:
		return cmdline.Usagef(cmd.CommandPath(), "-o %s has an end, and this has none: use -o jsonl", f.Format)
	}
	if f.limit < 0 {
		return cmdline.Usagef(cmd.CommandPath(), "--for must not be negative")
	}
	return nil
}

// run calls each for what comes until it is time to end, which is no error.
func (f *follow) run(ctx context.Context, each func(ctx context.Context) error) error {
	timed, cancel := context.WithCancel(ctx) // no deadline: the relay would end it with an error of its own
	defer cancel()
	if f.limit > 0 {
		defer time.AfterFunc(f.limit, cancel).Stop()
	}
	err := each(timed)
	switch {
	case ctx.Err() != nil:
		return cmdline.Exitf(cmdline.ExitInterrupted, "interrupted")
	case errors.Is(err, io.EOF), timed.Err() != nil:
	case err != nil:
		return err
	}
	if len(f.missing) > 0 {
		return cmdline.Exitf(cmdline.ExitPartly, "no answer from %s: what happened there is missing here", strings.Join(f.missing, ", "))
	}
	return nil
}

// word prints what a stream says about itself.
func (f *follow) word(listening bool, lost *adminv1.LostEvents, missing string) {
	switch {
	case listening:
		f.Talk("listening")
	case lost != nil:
		f.Talk("%s lost %d: this is read too slowly", lost.GetNode(), lost.GetCount())
	case missing != "":
		f.Talk("no answer from %s, or no longer", missing)
		f.missing = append(f.missing, missing)
	}
}

// line prints one thing at once.
func (f *follow) line(v any, text string) error {
	if f.Format == cmdline.FormatLines {
		b, err := cmdline.Marshal(v)
		if err != nil {
			return err
		}
		text = string(b)
	}
	_, err := io.WriteString(f.Stdout, text+"\n")
	return err
}

func (a *nouns) tailCommand() *cobra.Command {
	f := &follow{nouns: a}
	req := &adminv1.TailRequest{}
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Show events of all nodes as they happen",
		Long: `Show what happens to mail on all nodes, as it happens: one line an event, in the
words of the log of messages. An event must match each kind of flag that is
given, in any of its values. Who reads too slowly is told how many were left out;
mail does not wait.`,
		Example: `  clrelay events tail --type deferred,bounced --domain example.org
  clrelay events tail -o jsonl --for 1h > events.jsonl`,
		Args: cmdline.AtMost[*cobra.Command](0, "what is shown is narrowed down with flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.streams(cmd); err != nil {
				return err
			}
			return a.with(func(l grpc.ClientConnInterface) error {
				return f.run(cmd.Context(), func(ctx context.Context) error { return f.tail(ctx, l, req) })
			})
		},
	}
	fl := cmd.Flags()
	fl.StringSliceVar(&req.Types, "type", nil, "`events` such as deferred,bounced: accepted, rejected, delivered, deferred, bounced, expired, double_bounce, held, released, dropped, dsn, taken_over, returned")
	fl.StringSliceVar(&req.Domains, "domain", nil, "`domains` of recipients")
	fl.StringSliceVar(&req.Ids, "id", nil, "`IDs` of messages")
	fl.StringArrayVar(&req.From, "from", nil, "sender: an `address`, or a pattern with * and ?")
	fl.StringArrayVar(&req.Rcpt, "rcpt", nil, "recipient: an `address`, or a pattern with * and ?")
	fl.StringSliceVar(&req.Nodes, "node", nil, "`nodes`")
	f.flags(cmd, 0)
	return cmd
}

func (f *follow) tail(ctx context.Context, l grpc.ClientConnInterface, req *adminv1.TailRequest) error {
	stream, err := adminv1.NewEventServiceClient(l).Tail(ctx, req)
	if err != nil {
		return err
	}
	for {
		v, err := stream.Recv()
		if err != nil {
			return err
		}
		if v.GetEvent() == nil {
			f.word(v.GetListening(), v.GetLost(), v.GetMissingNode())
			continue
		}
		e := eventOf(v.GetEvent())
		path := address(e.From) + " -> " + rcpts(e.Rcpts, max(e.Recipients, int64(len(e.Rcpts))))
		if err := f.line(e, fmt.Sprintf("%s  %-5s  %-10s  %-26s  %s  %s", at(e.Time), e.Node, e.Event, orDash(e.ID), path, cmdline.Cell(detail(&e, e.ID), 500))); err != nil {
			return err
		}
	}
}

// spoken is a line of a dialogue.
type spoken struct {
	Time     *time.Time `json:"time"`
	Node     string     `json:"node"`
	Session  uint64     `json:"session"`
	Outbound bool       `json:"outbound"`
	Peer     string     `json:"peer"`
	Who      string     `json:"who"`
	Text     string     `json:"text"`
	Since    float64    `json:"since_seconds"`
	End      bool       `json:"end"`
}

func (a *nouns) smtpCommand() *cobra.Command {
	f := &follow{nouns: a}
	var only bool
	req := &adminv1.ListenRequest{}
	cmd := &cobra.Command{
		Use:   "smtp",
		Short: "Listen to SMTP dialogues as they go",
		Long: `Show what clients and this relay say to each other on new connections, or what
the relay and next hops do, on all nodes, with the milliseconds since the line
before. What follows AUTH, lines that are no command, and the content of
messages are left out: the number of their octets is shown. A kept connection to
a next hop is shown from its next message on. Who listens to whom is written down.`,
		Example: `  clrelay trace smtp --client 10.3.1.8 --only-one
  clrelay trace smtp --dest example.org --for 30m`,
		Args: cmdline.AtMost[*cobra.Command](0, "whom to listen to is said with --client or --dest"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if req.Client == "" && req.Dest == "" {
				return cmdline.Usagef(cmd.CommandPath(), "--client or --dest is missing")
			}
			if err := f.streams(cmd); err != nil {
				return err
			}
			return a.with(func(l grpc.ClientConnInterface) error {
				return f.run(cmd.Context(), func(ctx context.Context) error { return f.listen(ctx, l, req, only) })
			})
		},
	}
	cmd.Flags().StringVar(&req.Client, "client", "", "clients in this `network`, 10.0.0.0/8, or with this address")
	cmd.Flags().StringVar(&req.Dest, "dest", "", "next hops for this `domain` of recipients, or of this name or below it")
	cmd.Flags().BoolVar(&only, "only-one", false, "show one connection, and end with it")
	f.flags(cmd, 10*time.Minute)
	return cmd
}

func (f *follow) listen(ctx context.Context, l grpc.ClientConnInterface, req *adminv1.ListenRequest, only bool) error {
	stream, err := adminv1.NewTraceServiceClient(l).Listen(ctx, req)
	if err != nil {
		return err
	}
	chosen := ""
	for {
		v, err := stream.Recv()
		if err != nil {
			return err
		}
		d := v.GetLine()
		if d == nil {
			f.word(v.GetListening(), v.GetLost(), v.GetMissingNode())
			continue
		}
		name := fmt.Sprintf("%s#%d", d.GetNode(), d.GetSession())
		if only && chosen == "" {
			chosen = name
		}
		if only && name != chosen {
			continue
		}
		s := spoken{cmdline.Stamp(d.GetTime()), d.GetNode(), d.GetSession(), d.GetOutbound(), d.GetPeer(), d.GetWho(), d.GetText(), d.GetSince().AsDuration().Seconds(), d.GetEnd()}
		mark := map[string]string{"client": "C:", "server": "S:", "": "--"}[s.Who]
		if err := f.line(s, fmt.Sprintf("%s  %s %s  %+8.1f ms  %s %s", at(s.Time), name, cmdline.Cell(s.Peer, 80), s.Since*1000, mark, cmdline.Cell(s.Text, 1000))); err != nil {
			return err
		}
		if only && s.End {
			return io.EOF
		}
	}
}
