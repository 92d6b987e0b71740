package queue

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/cmd/clrelay/cli/jobs"
	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// verb is a command that changes the queue.
type verb struct {
	name, short, long string
	past              string // "dropped"
	final             bool   // cannot be taken back, or not for long: asks
	flags             func(c *change, f *pflag.FlagSet)
	check             func(c *change, cmd *cobra.Command, now time.Time) error
	call              func(ctx context.Context, c adminv1.QueueServiceClient, ch *adminv1.Change, v *change) (*adminv1.ChangeResult, error)
	job               func(ch *adminv1.Change, v *change) *adminv1.Verb // nil: never as a job
}

func verbs() []verb {
	return []verb{
		{name: "retry", short: "Try deferred recipients now", long: "Make recipients due now. Held ones stay held.", past: "retried",
			call: func(ctx context.Context, c adminv1.QueueServiceClient, ch *adminv1.Change, _ *change) (*adminv1.ChangeResult, error) {
				res, err := c.Retry(ctx, &adminv1.RetryRequest{Change: ch})
				return res.GetResult(), err
			},
			job: func(ch *adminv1.Change, _ *change) *adminv1.Verb {
				return &adminv1.Verb{Kind: &adminv1.Verb_Retry{Retry: &adminv1.RetryRequest{Change: ch}}}
			}},
		{name: "hold", short: "Keep recipients back", long: "Keep recipients back until they are released. Held ones do not expire.\nMail that comes later is not held: clrelay queue rule add holds that too.", past: "held",
			call: func(ctx context.Context, c adminv1.QueueServiceClient, ch *adminv1.Change, _ *change) (*adminv1.ChangeResult, error) {
				res, err := c.Hold(ctx, &adminv1.HoldRequest{Change: ch})
				return res.GetResult(), err
			},
			job: func(ch *adminv1.Change, _ *change) *adminv1.Verb {
				return &adminv1.Verb{Kind: &adminv1.Verb_Hold{Hold: &adminv1.HoldRequest{Change: ch}}}
			}},
		{name: "release", short: "Let held recipients go", long: "Make held recipients due now. What a hold rule that still stands holds is held\nagain at its next attempt.", past: "released",
			call: func(ctx context.Context, c adminv1.QueueServiceClient, ch *adminv1.Change, _ *change) (*adminv1.ChangeResult, error) {
				res, err := c.Release(ctx, &adminv1.ReleaseRequest{Change: ch})
				return res.GetResult(), err
			},
			job: func(ch *adminv1.Change, _ *change) *adminv1.Verb {
				return &adminv1.Verb{Kind: &adminv1.Verb_Release{Release: &adminv1.ReleaseRequest{Change: ch}}}
			}},
		dropVerb(),
		{name: "undrop", short: "Bring dropped recipients back", long: "Bring recipients back from the trash, where drop keeps them for queue.trash of\ncluster.yaml. Those that were held are held again; all others are due now.", past: "brought back",
			call: func(ctx context.Context, c adminv1.QueueServiceClient, ch *adminv1.Change, _ *change) (*adminv1.ChangeResult, error) {
				res, err := c.Undrop(ctx, &adminv1.UndropRequest{Change: ch})
				return res.GetResult(), err
			},
			job: func(ch *adminv1.Change, _ *change) *adminv1.Verb {
				return &adminv1.Verb{Kind: &adminv1.Verb_Undrop{Undrop: &adminv1.UndropRequest{Change: ch}}}
			}},
		{name: "bounce", short: "End recipients and tell the senders", long: "End recipients and report to the senders as after a permanent failure.", past: "bounced", final: true,
			call: func(ctx context.Context, c adminv1.QueueServiceClient, ch *adminv1.Change, _ *change) (*adminv1.ChangeResult, error) {
				res, err := c.Bounce(ctx, &adminv1.BounceRequest{Change: ch})
				return res.GetResult(), err
			},
			job: func(ch *adminv1.Change, _ *change) *adminv1.Verb {
				return &adminv1.Verb{Kind: &adminv1.Verb_Bounce{Bounce: &adminv1.BounceRequest{Change: ch}}}
			}},
		rerouteVerb(), expireVerb(),
	}
}

func dropVerb() verb {
	return verb{name: "drop", short: "End recipients without telling anybody", past: "dropped", final: true,
		long: `End recipients without telling anybody. They are kept in the trash for
queue.trash of cluster.yaml, a day by default; undrop brings them back from
there. With --now they are destroyed at once, and with --state trash --now what
is in the trash already.`,
		flags: func(c *change, f *pflag.FlagSet) {
			f.BoolVar(&c.now, "now", false, "destroy at once, without the trash")
		},
		call: func(ctx context.Context, c adminv1.QueueServiceClient, ch *adminv1.Change, v *change) (*adminv1.ChangeResult, error) {
			res, err := c.Drop(ctx, &adminv1.DropRequest{Change: ch, Now: v.now})
			return res.GetResult(), err
		},
		job: func(ch *adminv1.Change, v *change) *adminv1.Verb {
			return &adminv1.Verb{Kind: &adminv1.Verb_Drop{Drop: &adminv1.DropRequest{Change: ch, Now: v.now}}}
		}}
}

func rerouteVerb() verb {
	return verb{name: "reroute", short: "Send recipients elsewhere", past: "rerouted",
		long: `Send recipients elsewhere than the routes of cluster.yaml say, from their next
attempt on, which is now; held ones stay held. A host that is alone in a route
is spoken to as that route says, with its TLS and credentials; any other one on
port 25, with TLS if it offers it. Mail that comes later follows the routes.
--reset lets recipients follow the routes again.`,
		flags: func(c *change, f *pflag.FlagSet) {
			f.StringVar(&c.to, "to", "", "where: mx, or a `host` or HOST:PORT of a smarthost")
			f.BoolVar(&c.reset, "reset", false, "by the routes again")
		},
		check: func(c *change, cmd *cobra.Command, _ time.Time) error {
			if (c.to == "") != c.reset {
				return cmdline.Usagef(cmd.CommandPath(), "where to? Give either --to or --reset")
			}
			return nil
		},
		call: func(ctx context.Context, c adminv1.QueueServiceClient, ch *adminv1.Change, v *change) (*adminv1.ChangeResult, error) {
			res, err := c.Reroute(ctx, &adminv1.RerouteRequest{Change: ch, To: v.to})
			return res.GetResult(), err
		},
		job: func(ch *adminv1.Change, v *change) *adminv1.Verb {
			return &adminv1.Verb{Kind: &adminv1.Verb_Reroute{Reroute: &adminv1.RerouteRequest{Change: ch, To: v.to}}}
		}}
}

func expireVerb() verb {
	return verb{name: "expire", short: "Change when recipients are given up", past: "given another end",
		long: `Change when recipients are given up, which is else at queue.expire of
cluster.yaml. Their senders are told then. A time that is past gives them up
now. Held ones are not given up until they are released.`,
		flags: func(c *change, f *pflag.FlagSet) {
			f.StringVar(&c.in, "in", "", "after this `duration`: 0s is now, 2d")
			f.StringVar(&c.at, "at", "", "at this `time`: 2026-11-23T09:00:00Z")
		},
		check: func(c *change, cmd *cobra.Command, now time.Time) error {
			switch {
			case (c.in == "") == (c.at == ""):
				return cmdline.Usagef(cmd.CommandPath(), "when? Give either --in or --at")
			case c.in != "":
				d, err := cmdline.ParseSpan(c.in)
				if err != nil {
					return cmdline.Usagef(cmd.CommandPath(), "--in: %w", err)
				}
				c.when = now.Add(d)
			default:
				t, err := time.Parse(time.RFC3339, c.at)
				if err != nil {
					return cmdline.Usagef(cmd.CommandPath(), "--at: %q is no time such as 2026-11-23T09:00:00Z", c.at)
				}
				c.when = t
			}
			return nil
		},
		call: func(ctx context.Context, c adminv1.QueueServiceClient, ch *adminv1.Change, v *change) (*adminv1.ChangeResult, error) {
			res, err := c.Expire(ctx, &adminv1.ExpireRequest{Change: ch, At: timestamppb.New(v.when)})
			return res.GetResult(), err
		},
		job: func(ch *adminv1.Change, v *change) *adminv1.Verb {
			return &adminv1.Verb{Kind: &adminv1.Verb_Expire{Expire: &adminv1.ExpireRequest{Change: ch, At: timestamppb.New(v.when)}}}
		}}
}

// change holds the flags of a verb.
type change struct {
	verb
	selector
	dryRun, yes bool
	detach      bool
	expect      int64
	reason      string

	now    bool // of drop
	to     string
	reset  bool // of reroute, with to
	in, at string
	when   time.Time // of expire, by in or at
}

func (a *nouns) changeCommands() []*cobra.Command {
	var out []*cobra.Command
	for _, v := range verbs() {
		c := &change{verb: v}
		cmd := a.changeCommand(c)
		cmd.Use, cmd.Args = v.name+" [ID...]", cobra.ArbitraryArgs
		cmd.Long = v.long + "\n\nAt least one selector is needed." + cmd.Long
		cmd.Example = "  clrelay queue " + v.name + example(v.name) + " --domain example.org --older 1d --reason INC-4411 --dry-run"
		c.selector.flags(cmd)
		out = append(out, cmd)
	}
	return out
}

// example gives what a verb needs besides a selector.
func example(verb string) string {
	return map[string]string{"reroute": " --to relay2.example.edu:587", "expire": " --in 2d"}[verb]
}

// messageVerbs are the same for messages by their IDs.
func (a *nouns) messageVerbs() []*cobra.Command {
	var out []*cobra.Command
	for _, v := range verbs() {
		if v.name == "expire" {
			continue
		}
		c := &change{verb: v}
		cmd := a.changeCommand(c)
		cmd.Use, cmd.Short = v.name+" ID...", v.short+", of messages by ID"
		cmd.Long = "As clrelay queue " + v.name + ", for all recipients of the messages that are named." + cmd.Long
		cmd.Example = "  clrelay message " + v.name + " 019a-... --reason INC-4411" + example(v.name)
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmdline.Usagef(cmd.CommandPath(), "which messages? It takes their IDs, those that the 250s named")
			}
			return nil
		}
		out = append(out, cmd)
	}
	return out
}

func (a *nouns) changeCommand(c *change) *cobra.Command {
	cmd := &cobra.Command{
		Short: c.short,
		RunE:  func(cmd *cobra.Command, args []string) error { return a.runChange(cmd, c, args) },
	}
	if c.final {
		cmd.Long = `

On a terminal it counts first and asks for that number. Elsewhere it needs
--yes, and --expect N guards against a surprise: with another number of
recipients nothing is changed and the exit code is 6.`
	}
	f := cmd.Flags()
	if c.verb.flags != nil {
		c.verb.flags(c, f)
	}
	f.BoolVar(&c.dryRun, "dry-run", false, "count and show samples, change nothing")
	f.BoolVar(&c.yes, "yes", false, "do not ask")
	f.Int64Var(&c.expect, "expect", 0, "the `number` of recipients; with another one nothing is changed")
	f.BoolVar(&c.detach, "detach", false, "do not wait for the job that it makes")
	f.StringVar(&c.reason, "reason", "", "`why`, for the log")
	return cmd
}

func (a *nouns) runChange(cmd *cobra.Command, c *change, args []string) error {
	sel, err := c.message(cmd, args, a.Now())
	if err != nil {
		return err
	}
	if c.check != nil {
		if err := c.check(c, cmd, a.Now()); err != nil {
			return err
		}
	}
	if !given(sel) {
		return cmdline.Usagef(cmd.CommandPath(), "which recipients? Give a selector; --everything stands for the whole queue")
	}
	ch := &adminv1.Change{Selector: sel, DryRun: c.dryRun, Reason: c.reason}
	if cmd.Flags().Changed("expect") {
		if c.expect < 0 {
			return cmdline.Usagef(cmd.CommandPath(), "--expect must not be negative")
		}
		ch.Expect = &c.expect
	}
	ask := c.final && !c.dryRun && !c.yes
	if ask && !a.Terminal() {
		return cmdline.Usagef(cmd.CommandPath(), "%s ends recipients: without a terminal it needs --yes", c.name)
	}
	return a.with(func(l grpc.ClientConnInterface) error {
		queue := adminv1.NewQueueServiceClient(l)
		if ask {
			if done, err := a.confirm(cmd.Context(), l, c, ch); done || err != nil {
				return err
			}
		}
		if len(sel.GetIds()) == 0 && !c.dryRun {
			if done, err := a.start(cmd.Context(), l, c, ch); done || err != nil {
				return err
			}
		}
		res, err := c.call(cmd.Context(), queue, ch, c)
		if err != nil {
			return err
		}
		return a.printChange(c, res)
	})
}

// start has the cluster carry a change out as a job, and follows that. It is not
// done where the relay keeps no jobs.
func (a *nouns) start(ctx context.Context, l grpc.ClientConnInterface, c *change, ch *adminv1.Change) (done bool, err error) {
	res, err := adminv1.NewJobServiceClient(l).Start(ctx, &adminv1.StartRequest{Verb: c.job(ch, c), Expect: ch.Expect})
	switch {
	case status.Code(err) == codes.Unimplemented:
		return false, nil
	case err != nil:
		return true, err
	case res.GetJob() == nil:
		return true, a.printChange(c, res.GetResult())
	case c.detach:
		a.Talk("Job %s does it. Follow it with: clrelay job wait %s", res.GetJob().GetId(), res.GetJob().GetId())
		return true, a.printJob(c, res.GetResult(), res.GetJob())
	}
	job, err := jobs.Follow(ctx, a.Console, jobs.Connect(a.with), res.GetJob().GetId())
	if err != nil {
		return true, err
	}
	if err := a.printJob(c, res.GetResult(), job); err != nil {
		return true, err
	}
	return true, jobs.Verdict(job)
}

// confirm shows what would be changed and asks for the number of recipients.
// It makes that number what the relay is to expect.
func (a *nouns) confirm(ctx context.Context, l grpc.ClientConnInterface, c *change, ch *adminv1.Change) (done bool, err error) {
	ch.DryRun = true
	res, err := c.call(ctx, adminv1.NewQueueServiceClient(l), ch, c)
	if err != nil {
		return true, err
	}
	ch.DryRun = false
	if res.GetRecipients() == 0 {
		return true, a.printChange(c, res)
	}
	a.Talk("This would %s.", a.sentence(c.name, res))
	a.fate(c, res)
	answer, err := a.Ask("Type the number of recipients to go on:")
	if err != nil {
		return true, err
	}
	n, err := strconv.ParseInt(strings.ReplaceAll(answer, ",", ""), 10, 64)
	if err != nil || n != res.GetRecipients() {
		return true, cmdline.Exitf(cmdline.ExitConflict, "not confirmed: nothing was changed")
	}
	ch.Expect = &n
	return false, nil
}

// sentence tells what a change meets: "drop 1,204 recipients of ...".
func (a *nouns) sentence(word string, res *adminv1.ChangeResult) string {
	s := fmt.Sprintf("%s %s of %s (%s)", word, cmdline.Plural(res.GetRecipients(), "recipient"), cmdline.Plural(res.GetMessages(), "message"), cmdline.Size(res.GetBytes()))
	if res.GetOldest() != nil {
		s += ", the oldest " + a.Ago(res.GetOldest()) + " old"
	}
	if len(res.GetSamples()) > 0 {
		s += ", such as " + strings.Join(res.GetSamples(), " ")
	}
	return s
}

// fate tells what becomes of what is dropped.
func (a *nouns) fate(c *change, res *adminv1.ChangeResult) {
	switch kept := res.GetKept().AsDuration(); {
	case c.name != "drop" || res.GetRecipients() == 0:
	case kept > 0:
		a.Talk("It is kept in the trash for %s: clrelay queue undrop brings it back.", cmdline.Span(kept))
	case res.GetNote() == "":
		a.Talk("It is destroyed at once and cannot be brought back.")
	}
	if res.GetNote() != "" {
		a.Talk("Note: %s.", res.GetNote())
	}
}

// changed is what a verb prints.
type changed struct {
	Action     string     `json:"action"`
	DryRun     bool       `json:"dry_run"`
	Messages   int64      `json:"messages"`
	Recipients int64      `json:"recipients"`
	Bytes      int64      `json:"bytes"`
	Oldest     *time.Time `json:"oldest"`
	Samples    []string   `json:"samples"`
	Failed     int64      `json:"failed"`
	Job        string     `json:"job"`
	// How long what was dropped can be brought back; 0: it cannot.
	KeptSeconds float64 `json:"kept_seconds"`
	Note        string  `json:"note"`
}

func newChanged(c *change, res *adminv1.ChangeResult) changed {
	return changed{
		c.name, c.dryRun, res.GetMessages(), res.GetRecipients(), res.GetBytes(),
		cmdline.Stamp(res.GetOldest()), append([]string{}, res.GetSamples()...), res.GetFailed(), "",
		seconds(res.GetKept().AsDuration()), res.GetNote(),
	}
}

// printJob tells what a job has done, or, before it has ended, what it met.
func (a *nouns) printJob(c *change, met *adminv1.ChangeResult, in *adminv1.Job) error {
	j := jobs.New(in)
	word := c.name
	if j.Ended != nil {
		word = c.past
		met.Recipients, met.Messages, met.Bytes, met.Failed = j.Recipients, j.Messages, j.Bytes, j.Failed
	}
	out := newChanged(c, met)
	out.Job = j.ID
	err := a.Object(out, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s (job %s)\n", a.sentence(word, met), j.ID)
		return err
	})
	a.fate(c, met)
	return err
}

func (a *nouns) printChange(c *change, res *adminv1.ChangeResult) error {
	out := newChanged(c, res)
	err := a.Object(out, func(w io.Writer) error {
		var err error
		switch {
		case out.Recipients == 0:
			_, err = fmt.Fprintln(w, "nothing matches")
		case c.dryRun:
			_, err = fmt.Fprintf(w, "would %s\n", a.sentence(c.name, res))
		default:
			_, err = fmt.Fprintln(w, a.sentence(c.past, res))
		}
		return err
	})
	if err != nil {
		return err
	}
	a.fate(c, res)
	if c.dryRun && out.Recipients > 0 {
		hint := "without --dry-run"
		if c.final {
			hint = fmt.Sprintf("with --yes --expect %d instead of --dry-run", out.Recipients)
		}
		a.Talk("Nothing was changed. To do it, say the same %s.", hint)
	}
	if absent := missing(res.GetMissingNodes()); absent != nil {
		if out.Failed > 0 {
			a.Talk("%s could not be changed, for example because a delivery was under way", cmdline.Plural(out.Failed, "recipient"))
		}
		return absent
	}
	if out.Failed > 0 {
		return cmdline.Exitf(cmdline.ExitPartly, "%s could not be changed, for example because a delivery was under way", cmdline.Plural(out.Failed, "recipient"))
	}
	return nil
}
