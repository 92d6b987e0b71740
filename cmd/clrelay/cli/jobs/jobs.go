// Package jobs is the noun job of the command line: changes of the queue that
// the cluster carries out by itself.
package jobs

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// Connect connects to a relay, calls f, and explains its errors.
type Connect func(f func(conn grpc.ClientConnInterface) error) error

type nouns struct {
	*cmdline.Console
	with Connect
}

// askTimeout bounds a call that only looks at something small.
const askTimeout = 30 * time.Second

// Commands makes the command job.
func Commands(c *cmdline.Console, with Connect) []*cobra.Command {
	n := &nouns{c, with}
	cmd := &cobra.Command{
		Use:   "job",
		Short: "Follow and end changes of the queue that take long",
		Long: `Follow and end changes of the queue that take long. A command such as "queue
hold --domain example.org" is carried out by the cluster as a job: it goes on
after Ctrl-C, when a node dies and when the leader changes. Jobs are worked off
one after the other. The last 100 that have ended are kept.`,
	}
	cmd.AddCommand(n.listCommand(), n.showCommand(), n.waitCommand(), n.cancelCommand())
	return []*cobra.Command{cmd}
}

// Job is what the commands print.
type Job struct {
	ID           string     `json:"id"`
	Verb         string     `json:"verb"`
	Selector     string     `json:"selector"`
	State        string     `json:"state"`
	Author       string     `json:"author"`
	Reason       string     `json:"reason"`
	Created      *time.Time `json:"created"`
	Started      *time.Time `json:"started"`
	Ended        *time.Time `json:"ended"`
	Total        int64      `json:"total"`
	Recipients   int64      `json:"recipients"`
	Messages     int64      `json:"messages"`
	Bytes        int64      `json:"bytes"`
	Failed       int64      `json:"failed"`
	Driver       string     `json:"driver"`
	Nodes        []Share    `json:"nodes"`
	MissingNodes []string   `json:"missing_nodes"`
	Note         string     `json:"note"`
}

// Share is what one node has done of a job.
type Share struct {
	Node       string `json:"node"`
	Recipients int64  `json:"recipients"`
	Failed     int64  `json:"failed"`
}

// New makes a Job of what the relay says.
func New(in *adminv1.Job) *Job {
	j := &Job{
		ID: in.GetId(), State: stateWord(in.GetState()), Author: in.GetAuthor(), Total: in.GetTotal(), Driver: in.GetDriver(),
		Created: cmdline.Stamp(in.GetCreated()), Started: cmdline.Stamp(in.GetStarted()), Ended: cmdline.Stamp(in.GetEnded()),
		Nodes: []Share{}, MissingNodes: append([]string{}, in.GetMissingNodes()...), Note: in.GetNote(),
	}
	if in.GetCancelled() && !j.over() {
		j.State = "cancelling"
	}
	j.Verb, j.Selector, j.Reason = verb(in.GetVerb())
	at := map[string]int{}
	for _, s := range in.GetShares() {
		j.Recipients += s.GetRecipients()
		j.Messages += s.GetMessages()
		j.Bytes += s.GetBytes()
		i, ok := at[s.GetNode()]
		if !ok {
			i = len(j.Nodes)
			at[s.GetNode()] = i
			j.Nodes = append(j.Nodes, Share{Node: s.GetNode()})
		}
		j.Nodes[i].Recipients += s.GetRecipients()
		j.Nodes[i].Failed = s.GetFailed() // the newest process comes last
	}
	for _, s := range j.Nodes {
		j.Failed += s.Failed
	}
	return j
}

func (j *Job) over() bool { return j.State == "done" || j.State == "failed" || j.State == "cancelled" }

func stateWord(s adminv1.JobState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "JOB_STATE_"))
}

// verb tells in words what is to be done, and to what.
func verb(v *adminv1.Verb) (name, selector, reason string) {
	m := v.ProtoReflect()
	if !m.IsValid() {
		return "", "", ""
	}
	f := m.WhichOneof(m.Descriptor().Oneofs().ByName("kind"))
	if f == nil {
		return "", "", ""
	}
	req, ok := m.Get(f).Message().Interface().(interface {
		proto.Message
		GetChange() *adminv1.Change
	})
	if !ok {
		return string(f.Name()), "", ""
	}
	return string(f.Name()), words(req.GetChange().GetSelector()), req.GetChange().GetReason()
}

// words writes a selector much as it was given on the command line.
func words(s *adminv1.Selector) string {
	m := s.ProtoReflect()
	if !m.IsValid() {
		return ""
	}
	var out []string
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if !m.Has(f) {
			continue
		}
		name := strings.ReplaceAll(string(f.Name()), "_", "-")
		switch v := m.Get(f); {
		case f.IsList():
			for i := range v.List().Len() {
				out = append(out, "--"+strings.TrimSuffix(name, "s"), word(f, v.List().Get(i)))
			}
		case f.Kind() == protoreflect.BoolKind:
			out = append(out, "--"+name)
		default:
			out = append(out, name, word(f, v))
		}
	}
	return strings.Join(out, " ")
}

func word(f protoreflect.FieldDescriptor, v protoreflect.Value) string {
	switch f.Kind() {
	case protoreflect.EnumKind:
		name := string(f.Enum().Values().ByNumber(v.Enum()).Name())
		return strings.ToLower(name[strings.LastIndexByte(name, '_')+1:])
	case protoreflect.MessageKind:
		if t, ok := v.Message().Interface().(*timestamppb.Timestamp); ok {
			return t.AsTime().Format(time.RFC3339)
		}
	}
	return v.String()
}

func (a *nouns) listCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List jobs, the newest first",
		Args:  cmdline.AtMost[*cobra.Command](0, "it takes nothing"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(conn grpc.ClientConnInterface) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
				defer cancel()
				res, err := adminv1.NewJobServiceClient(conn).List(ctx, &adminv1.JobServiceListRequest{})
				if err != nil {
					return err
				}
				list := a.List("ID", "STATE", "VERB", "DONE", "OF", "AGE", "BY", "WHAT", "NOTE")
				for _, in := range res.GetJobs() {
					j := New(in)
					err := list.Row(j, j.ID, j.State, j.Verb, cmdline.Count(j.Recipients), cmdline.Count(j.Total), a.Ago(in.GetCreated()),
						cmdline.Cell(j.Author, 30), cmdline.Cell(j.Selector, 60), cmdline.Cell(j.Note, 80))
					if err != nil {
						return err
					}
				}
				return list.End()
			})
		},
	}
}

func (a *nouns) showCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show ID",
		Short: "Show how a job stands",
		Args:  cmdline.Exactly[*cobra.Command](1, "it takes one ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(conn grpc.ClientConnInterface) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
				defer cancel()
				stream, err := adminv1.NewJobServiceClient(conn).Watch(ctx, &adminv1.WatchRequest{Id: args[0], Once: true})
				if err != nil {
					return err
				}
				res, err := stream.Recv()
				if err != nil {
					return err
				}
				return a.print(res.GetJob())
			})
		},
	}
}

func (a *nouns) print(in *adminv1.Job) error {
	j := New(in)
	return a.Object(j, func(w io.Writer) error {
		lines := [][2]string{
			{"id", j.ID}, {"state", j.State}, {"verb", j.Verb}, {"what", j.Selector}, {"reason", j.Reason}, {"by", j.Author},
			{"created", stamp(j.Created)}, {"started", stamp(j.Started)}, {"ended", stamp(j.Ended)},
			{"recipients", cmdline.Count(j.Recipients) + " of " + cmdline.Count(j.Total)},
		}
		if j.Failed > 0 {
			lines = append(lines, [2]string{"failed", cmdline.Count(j.Failed)})
		}
		for _, s := range j.Nodes {
			lines = append(lines, [2]string{"at " + s.Node, cmdline.Count(s.Recipients)})
		}
		lines = append(lines, [2]string{"driver", j.Driver}, [2]string{"note", j.Note})
		for _, l := range lines {
			if l[1] == "" {
				continue
			}
			if _, err := io.WriteString(w, l[0]+"\t"+cmdline.Cell(l[1], 400)+"\n"); err != nil {
				return err
			}
		}
		return nil
	})
}

func stamp(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.Format(time.RFC3339)
}

func (a *nouns) waitCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait ID",
		Short: "Follow a job until it has ended",
		Long: `Follow a job until it has ended. The exit code is 0 when it is done, 7 when some
recipients could not be changed, 1 when it failed, 6 when it was cancelled, 4
when --timeout is over before, and 130 after Ctrl-C; the job goes on then.`,
		Args: cmdline.Exactly[*cobra.Command](1, "it takes one ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, timeout)
				defer cancel()
			}
			job, err := Follow(ctx, a.Console, a.with, args[0])
			if err != nil {
				return err
			}
			if err := a.print(job); err != nil {
				return err
			}
			return Verdict(job)
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "for so `long` at most, such as 10m; 0 is for ever")
	return cmd
}

func (a *nouns) cancelCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "cancel ID",
		Short: "End a job; what it has done stays done",
		Args:  cmdline.Exactly[*cobra.Command](1, "it takes one ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(conn grpc.ClientConnInterface) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
				defer cancel()
				res, err := adminv1.NewJobServiceClient(conn).Cancel(ctx, &adminv1.CancelRequest{Id: args[0], Reason: reason})
				if err != nil {
					return err
				}
				return a.print(res.GetJob())
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "`why`, for the log")
	return cmd
}

// Verdict is the error of a job that has ended otherwise than it should.
func Verdict(in *adminv1.Job) error {
	j := New(in)
	switch {
	case j.State == "failed":
		return cmdline.Exitf(cmdline.ExitFailed, "job %s failed: %s", j.ID, cmdline.Cell(j.Note, 400))
	case j.State == "cancelled":
		return cmdline.Exitf(cmdline.ExitConflict, "job %s was cancelled; what it had done stays done", j.ID)
	case j.Failed > 0:
		return cmdline.Exitf(cmdline.ExitPartly, "%s could not be changed, for example because a delivery was under way", cmdline.Plural(j.Failed, "recipient"))
	}
	return nil
}
