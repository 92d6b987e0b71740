package configs

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

const (
	// defaultWait is how long nodes are waited for: a node that lives takes a new
	// version over in far less than a second.
	defaultWait = 30 * time.Second
	// againAfter is the pause before the nodes are asked again.
	againAfter = 200 * time.Millisecond
)

// change is what is to be the newest version.
type change struct {
	base      *adminv1.ConfigServiceGetResponse // that it was made from
	text      []byte
	ifVersion uint64 // that the operator expects; 0: that of base
	reason    string
	dryRun    bool
	wait      time.Duration
	probation time.Duration
	confirm   func() error // asks once the differences are shown; may be nil
}

// flags are those that all changes have.
func (c *change) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&c.reason, "reason", "", "`why`, for the record")
	f.DurationVar(&c.probation, "probation", 0, "bring the version before back after this `long`, such as 5m, unless \"config confirm\" is said before")
	f.DurationVar(&c.wait, "wait", defaultWait, "how long nodes are waited for; 0 does not wait")
}

// applied is what a change prints.
type applied struct {
	Version     uint64     `json:"version"` // the newest
	Changed     bool       `json:"changed"` // it is new
	DryRun      bool       `json:"dry_run"`
	Differences int        `json:"differences"`
	Nodes       []node     `json:"nodes"`           // empty where none was waited for
	Missing     []string   `json:"missing_nodes"`   // those of them that do not have it in force
	Until       *time.Time `json:"probation_until"` // null where it stays
}

// node is how far a node has come.
type node struct {
	Name    string  `json:"name"`
	State   string  `json:"state"`
	Version *uint64 `json:"version"` // in force; null when the node did not answer
	Error   string  `json:"error"`
}

func (a *verbs) applyCommand() *cobra.Command {
	var (
		c    change
		file string
	)
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Make a file the configuration that all nodes share",
		Long: `Make FILE, a cluster.yaml, the configuration that all nodes of the cluster share.
It is checked here first: with an error the exit code is 78 and nothing is
changed. What it changes goes to stderr, as "config diff" prints it; where that
is nothing, there is no new version and the exit code is 0.

It replaces the version that it was compared with and no other: when somebody
else was faster the exit code is 6, and the message says who. With --if-version
it replaces that version alone, the one that FILE was made from.

It returns when every node of the cluster has the new version in force. Nodes
that are dead, that could not take it over or that did not within --wait are
named, and the exit code is 7: the version is applied all the same, and they
take it over when they are back.`,
		Example: `  clrelay config apply -f cluster.yaml --dry-run
  clrelay config apply -f cluster.yaml --if-version 11 --reason INC-4411`,
		Args: cmdline.AtMost[*cobra.Command](0, "the FILE is given with -f"),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if file == "" {
				return cmdline.Usagef(cmd.CommandPath(), "-f FILE is missing")
			}
			if c.text, err = a.read(file); err != nil {
				return err
			}
			return a.with(func(conn grpc.ClientConnInterface) (err error) {
				if c.base, err = newest(cmd.Context(), conn); err != nil {
					return err
				}
				return a.apply(cmd.Context(), conn, &c)
			})
		},
	}
	c.flags(cmd)
	f := cmd.Flags()
	f.StringVarP(&file, "file", "f", "", "the `FILE` to apply; - is stdin")
	versionFlag(cmd, &c.ifVersion, "if-version", "the `version` that it is to replace; with another one nothing is changed")
	f.BoolVar(&c.dryRun, "dry-run", false, "show what would change, and change nothing")
	return cmd
}

// apply makes a change. It shows the differences, proposes the text if there
// are any, and waits for the nodes.
func (a *verbs) apply(ctx context.Context, conn grpc.ClientConnInterface, c *change) error {
	if c.ifVersion == 0 {
		c.ifVersion = c.base.GetVersion()
	}
	if c.ifVersion != c.base.GetVersion() { // the node says who came between
		if _, err := propose(ctx, conn, c, true); err != nil {
			return err
		}
		return cmdline.Exitf(cmdline.ExitConflict, "the configuration changes just now: nothing was applied; look again")
	}
	list, err := compare(c.base.GetText(), c.text)
	if err != nil {
		return err
	}
	a.talkDiff(list)
	dry := c.dryRun || len(list) == 0
	if c.confirm != nil && !dry {
		if err := c.confirm(); err != nil {
			return err
		}
	}
	version, err := propose(ctx, conn, c, dry)
	if err != nil {
		return err
	}
	out := &applied{Version: version, Changed: !dry, DryRun: c.dryRun, Differences: len(list), Nodes: []node{}, Missing: []string{}}
	if out.Changed && c.probation > 0 {
		until := a.Now().Add(c.probation).UTC().Truncate(time.Second)
		out.Until = &until
		a.Talk("Version %d is on probation: unless you say \"clrelay config confirm\" within %s, the version before comes back.", version, cmdline.Span(c.probation))
	}
	if !out.Changed || c.wait <= 0 {
		return a.printApplied(out)
	}
	nodes, unknown := rollout(ctx, conn, version, c.wait)
	for _, n := range nodes {
		out.add(n)
	}
	if err := a.printApplied(out); err != nil {
		return err
	}
	return out.partly(unknown)
}

// propose brings the text to the cluster.
func propose(ctx context.Context, conn grpc.ClientConnInterface, c *change, dryRun bool) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req := &adminv1.ConfigServiceApplyRequest{Text: c.text, IfVersion: c.ifVersion, Reason: c.reason, DryRun: dryRun}
	if c.probation != 0 {
		req.Probation = durationpb.New(c.probation)
	}
	res, err := adminv1.NewConfigServiceClient(conn).Apply(ctx, req)
	if status.Code(err) == codes.InvalidArgument {
		err = cmdline.Exitf(cmdline.ExitConfig, "%s", status.Convert(err).Message())
	}
	return res.GetVersion(), err
}

// rollout waits until all nodes have a version in force, or those that do not
// will not before they are mended, or wait is over. It gives how far the nodes
// have come; the error says why that is not known.
func rollout(ctx context.Context, conn grpc.ClientConnInterface, version uint64, wait time.Duration) (nodes []*adminv1.ConfigNode, err error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		res, e := adminv1.NewConfigServiceClient(conn).Nodes(ctx, &adminv1.ConfigServiceNodesRequest{})
		if e == nil {
			nodes = res.GetNodes()
		}
		if e == nil && settled(nodes, version) {
			return nodes, nil
		}
		t := time.NewTimer(againAfter)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			if nodes == nil {
				err = e
			}
			return nodes, err
		}
	}
}

// settled tells whether it makes no sense to ask again.
func settled(nodes []*adminv1.ConfigNode, version uint64) bool {
	for _, n := range nodes {
		if !has(n, version) && n.GetState() != adminv1.NodeState_NODE_STATE_DEAD && n.GetRejected() < version {
			return false
		}
	}
	return true
}

// has tells whether a node has a version in force, or one that came after it.
func has(n *adminv1.ConfigNode, version uint64) bool {
	return n.Version != nil && n.GetVersion() >= version
}

// add books a node.
func (o *applied) add(n *adminv1.ConfigNode) {
	state := ""
	if s := n.GetState(); s != adminv1.NodeState_NODE_STATE_UNSPECIFIED {
		state = strings.ToLower(strings.TrimPrefix(s.String(), "NODE_STATE_"))
	}
	o.Nodes = append(o.Nodes, node{n.GetName(), state, n.Version, n.GetError()})
	if !has(n, o.Version) {
		o.Missing = append(o.Missing, n.GetName())
	}
}

// partly is the error that names the nodes without the new version.
func (o *applied) partly(unknown error) error {
	if unknown != nil {
		return cmdline.Exitf(cmdline.ExitPartly, "version %d is applied, and where it is in force could not be learned: %s", o.Version, status.Convert(unknown).Message())
	}
	var list []string
	for _, n := range o.Nodes {
		switch {
		case n.Version != nil && *n.Version >= o.Version:
		case n.State == "dead":
			list = append(list, n.Name+" (it is dead)")
		case n.Version == nil:
			list = append(list, n.Name+" (no answer)")
		case n.Error != "":
			list = append(list, fmt.Sprintf("%s (it has version %d: %s)", n.Name, *n.Version, cmdline.Cell(n.Error, 200)))
		default:
			list = append(list, fmt.Sprintf("%s (it has version %d)", n.Name, *n.Version))
		}
	}
	if len(list) == 0 {
		return nil
	}
	return cmdline.Exitf(cmdline.ExitPartly, "version %d is applied and not in force on %s", o.Version, strings.Join(list, ", "))
}

func (a *verbs) printApplied(o *applied) error {
	return a.Object(o, func(w io.Writer) error {
		line := fmt.Sprintf("version %d is applied", o.Version)
		var on []string
		for _, n := range o.Nodes {
			if n.Version != nil && *n.Version >= o.Version {
				on = append(on, n.Name)
			}
		}
		switch {
		case o.Differences == 0:
			line = fmt.Sprintf("no differences: version %d stays", o.Version)
		case o.DryRun:
			line = fmt.Sprintf("%s from version %d; nothing was changed", cmdline.Plural(int64(o.Differences), "difference"), o.Version)
		case len(on) > 0:
			line += " and in force on " + strings.Join(on, ", ")
		}
		_, err := fmt.Fprintln(w, line)
		return err
	})
}

func (a *verbs) rollbackCommand() *cobra.Command {
	var (
		c   change
		to  uint64
		yes bool
	)
	cmd := &cobra.Command{
		Use:   "rollback",
		Short: "Apply an earlier version again",
		Long: `Apply the text of an earlier version again, by default of the one before the
newest. It becomes a new version, with the reason "rollback to N", so that a
rollback can be taken back too. It ends as "config apply" does.

On a terminal it shows what changes and asks. Elsewhere it needs --yes.`,
		Example: `  clrelay config rollback --dry-run
  clrelay config rollback --to 11 --yes --reason INC-4411`,
		Args: cmdline.AtMost[*cobra.Command](0, "the version is given with --to"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !yes && !c.dryRun && !a.Terminal() {
				return cmdline.Usagef(cmd.CommandPath(), "without a terminal it needs --yes")
			}
			if !yes {
				c.confirm = a.confirm
			}
			return a.with(func(conn grpc.ClientConnInterface) error { return a.rollback(cmd.Context(), conn, &c, to) })
		},
	}
	c.flags(cmd)
	f := cmd.Flags()
	versionFlag(cmd, &to, "to", "the `version` to apply again; the one before the newest without it")
	f.BoolVar(&c.dryRun, "dry-run", false, "show what would change, and change nothing")
	f.BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func (a *verbs) confirm() error {
	answer, err := a.Ask("Type yes to apply this:")
	if err == nil && answer != "yes" {
		err = cmdline.Exitf(cmdline.ExitConflict, "not confirmed: nothing was changed")
	}
	return err
}

// rollback applies version to again, the one before the newest for 0.
func (a *verbs) rollback(ctx context.Context, conn grpc.ClientConnInterface, c *change, to uint64) (err error) {
	if c.base, err = newest(ctx, conn); err != nil {
		return err
	}
	if to == 0 {
		list, err := history(ctx, conn)
		if err != nil {
			return err
		}
		for _, v := range list { // the newest first
			if n := v.GetVersion(); n < c.base.GetVersion() {
				to = n
				break
			}
		}
		if to == 0 {
			return cmdline.Exitf(cmdline.ExitNotFound, "version %d is the only one that is kept", c.base.GetVersion())
		}
	}
	old, err := get(ctx, conn, to)
	if err != nil {
		return err
	}
	reason := fmt.Sprintf("rollback to %d", to)
	if c.reason != "" {
		reason += ": " + c.reason
	}
	c.text, c.reason = textOf(old), reason
	a.Talk("# version %d would replace version %d", to, c.base.GetVersion())
	return a.apply(ctx, conn, c)
}

func (a *verbs) confirmCommand() *cobra.Command {
	var version uint64
	cmd := &cobra.Command{
		Use:   "confirm",
		Short: "Let a version that is on probation stay",
		Long: `Let the version stay that was applied with --probation. Without it the version
before comes back when the time is over, as a new version. Another version that
is applied meanwhile ends the probation too.`,
		Args: cmdline.AtMost[*cobra.Command](0, "the version is given with --version"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(conn grpc.ClientConnInterface) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
				defer cancel()
				res, err := adminv1.NewConfigServiceClient(conn).Confirm(ctx, &adminv1.ConfigServiceConfirmRequest{Version: version})
				if err != nil {
					return err
				}
				out := struct {
					Version uint64 `json:"version"`
				}{res.GetVersion()}
				return a.Object(out, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "version %d stays\n", out.Version)
					return err
				})
			})
		},
	}
	versionFlag(cmd, &version, "version", "the `version` that is to be on probation; with another one nothing is changed")
	return cmd
}
