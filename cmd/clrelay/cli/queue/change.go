package queue

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/clrelay/clrelay/cmd/clrelay/cli/jobs"
	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// verb is a command that changes the queue.
type verb struct {
	name, short, long string
	past              string // "dropped"
	final             bool   // cannot be taken back: asks
	call              func(ctx context.Context, c adminv1.QueueServiceClient, ch *adminv1.Change) (*adminv1.ChangeResult, error)
	job               func(ch *adminv1.Change) *adminv1.Verb
}

func verbs() []verb {
	return []verb{
		{"retry", "Try deferred recipients now", "Make recipients due now. Held ones stay held.", "retried", false,
			func(ctx context.Context, c adminv1.QueueServiceClient, ch *adminv1.Change) (*adminv1.ChangeResult, error) {
				res, err := c.Retry(ctx, &adminv1.RetryRequest{Change: ch})
				return res.GetResult(), err
			},
			func(ch *adminv1.Change) *adminv1.Verb {
				return &adminv1.Verb{Kind: &adminv1.Verb_Retry{Retry: &adminv1.RetryRequest{Change: ch}}}
			}},
		{"hold", "Keep recipients back", "Keep recipients back until they are released. Held ones do not expire.", "held", false,
			func(ctx context.Context, c adminv1.QueueServiceClient, ch *adminv1.Change) (*adminv1.ChangeResult, error) {
				res, err := c.Hold(ctx, &adminv1.HoldRequest{Change: ch})
				return res.GetResult(), err
			},
			func(ch *adminv1.Change) *adminv1.Verb {
				return &adminv1.Verb{Kind: &adminv1.Verb_Hold{Hold: &adminv1.HoldRequest{Change: ch}}}
			}},
		{"release", "Let held recipients go", "Make held recipients due now.", "released", false,
			func(ctx context.Context, c adminv1.QueueServiceClient, ch *adminv1.Change) (*adminv1.ChangeResult, error) {
				res, err := c.Release(ctx, &adminv1.ReleaseRequest{Change: ch})
				return res.GetResult(), err
			},
			func(ch *adminv1.Change) *adminv1.Verb {
				return &adminv1.Verb{Kind: &adminv1.Verb_Release{Release: &adminv1.ReleaseRequest{Change: ch}}}
			}},
		{"drop", "End recipients without telling anybody", "End recipients without telling anybody. The mail is lost to them.", "dropped", true,
			func(ctx context.Context, c adminv1.QueueServiceClient, ch *adminv1.Change) (*adminv1.ChangeResult, error) {
				res, err := c.Drop(ctx, &adminv1.DropRequest{Change: ch})
				return res.GetResult(), err
			},
			func(ch *adminv1.Change) *adminv1.Verb {
				return &adminv1.Verb{Kind: &adminv1.Verb_Drop{Drop: &adminv1.DropRequest{Change: ch}}}
			}},
		{"bounce", "End recipients and tell the senders", "End recipients and report to the senders as after a permanent failure.", "bounced", true,
			func(ctx context.Context, c adminv1.QueueServiceClient, ch *adminv1.Change) (*adminv1.ChangeResult, error) {
				res, err := c.Bounce(ctx, &adminv1.BounceRequest{Change: ch})
				return res.GetResult(), err
			},
			func(ch *adminv1.Change) *adminv1.Verb {
				return &adminv1.Verb{Kind: &adminv1.Verb_Bounce{Bounce: &adminv1.BounceRequest{Change: ch}}}
			}},
	}
}

// change holds the flags of a verb.
type change struct {
	verb
	selector
	dryRun, yes bool
	detach      bool
	expect      int64
	reason      string
}

func (a *nouns) changeCommands() []*cobra.Command {
	var out []*cobra.Command
	for _, v := range verbs() {
		c := &change{verb: v}
		long := v.long + ` At least one selector is needed.`
		if v.final {
			long += `

On a terminal it counts first and asks for that number. Elsewhere it needs
--yes, and --expect N guards against a surprise: with another number of
recipients nothing is changed and the exit code is 6.`
		}
		cmd := &cobra.Command{
			Use: v.name + " [ID...]", Short: v.short, Long: long,
			Example: "  clrelay queue " + v.name + " --domain example.org --older 1d --reason INC-4411 --dry-run",
			Args:    cobra.ArbitraryArgs,
			RunE:    func(cmd *cobra.Command, args []string) error { return a.runChange(cmd, c, args) },
		}
		c.flags(cmd)
		f := cmd.Flags()
		f.BoolVar(&c.dryRun, "dry-run", false, "count and show samples, change nothing")
		f.BoolVar(&c.yes, "yes", false, "do not ask")
		f.Int64Var(&c.expect, "expect", 0, "the `number` of recipients; with another one nothing is changed")
		f.BoolVar(&c.detach, "detach", false, "do not wait for the job that it makes")
		f.StringVar(&c.reason, "reason", "", "`why`, for the log")
		out = append(out, cmd)
	}
	return out
}

func (a *nouns) runChange(cmd *cobra.Command, c *change, args []string) error {
	sel, err := c.message(cmd, args, a.Now())
	if err != nil {
		return err
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
		return cmdline.Usagef(cmd.CommandPath(), "%s cannot be taken back: without a terminal it needs --yes", c.name)
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
		res, err := c.call(cmd.Context(), queue, ch)
		if err != nil {
			return err
		}
		return a.printChange(c, res)
	})
}

// start has the cluster carry a change out as a job, and follows that. It is not
// done where the relay keeps no jobs.
func (a *nouns) start(ctx context.Context, l grpc.ClientConnInterface, c *change, ch *adminv1.Change) (done bool, err error) {
	res, err := adminv1.NewJobServiceClient(l).Start(ctx, &adminv1.StartRequest{Verb: c.job(ch), Expect: ch.Expect})
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
	res, err := c.call(ctx, adminv1.NewQueueServiceClient(l), ch)
	if err != nil {
		return true, err
	}
	ch.DryRun = false
	if res.GetRecipients() == 0 {
		return true, a.printChange(c, res)
	}
	a.Talk("This would %s.", a.sentence(c.name, res))
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
}

func newChanged(c *change, res *adminv1.ChangeResult) changed {
	return changed{
		c.name, c.dryRun, res.GetMessages(), res.GetRecipients(), res.GetBytes(),
		cmdline.Stamp(res.GetOldest()), append([]string{}, res.GetSamples()...), res.GetFailed(), "",
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
	return a.Object(out, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s (job %s)\n", a.sentence(word, met), j.ID)
		return err
	})
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
