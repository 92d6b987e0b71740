// Package rescue is the part of the noun cluster that works without a cluster:
// on the data_dir of a node that does not run. What the commands do is package
// cluster/rescue's business; here are the words around it. A backup alone comes
// from a node that runs, too.
package rescue

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/rescue"
	"github.com/clrelay/clrelay/internal/cmdline"
	"github.com/clrelay/clrelay/internal/config"
)

const defaultConfig = "/etc/clrelay/node.yaml"

type tools struct {
	*cmdline.Console
	with Connect
	yes  bool
}

// Connect connects to a relay, calls f, and explains its errors.
type Connect func(f func(conn grpc.ClientConnInterface) error) error

// Commands makes the commands that go under cluster.
func Commands(c cmdline.Console, with Connect) []*cobra.Command {
	t := &tools{Console: &c, with: with}
	return []*cobra.Command{t.backup(), t.recover(), t.restore(), t.rejoin()}
}

// node finds the node that --config means, and takes over --output.
func (t *tools) node(cmd *cobra.Command) (rescue.Node, error) {
	path := ""
	t.format(cmd)
	if f := cmd.Flag("config"); f != nil {
		path = f.Value.String()
	}
	if path == "" {
		path = defaultConfig
	}
	n, err := config.LoadNode(path)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return rescue.Node{}, &cmdline.ExitError{Code: cmdline.ExitDenied, Err: err}
	case err != nil:
		return rescue.Node{}, &cmdline.ExitError{Code: cmdline.ExitConfig, Err: err}
	case n.Cluster == nil:
		return rescue.Node{}, cmdline.Exitf(cmdline.ExitConfig, "%s has no cluster section: a relay that is alone has no control plane", path)
	}
	return rescue.Node{
		Name: string(n.Name), Address: n.Cluster.Address(), DataDir: string(n.DataDir),
		Log: slog.New(slog.DiscardHandler), // the library's own words are of no help
	}, nil
}

// format takes over --output.
func (t *tools) format(cmd *cobra.Command) {
	t.Format = cmdline.FormatTable
	if f := cmd.Flag("output"); f != nil {
		t.Format = f.Value.String()
	}
}

// outcome is what the commands print.
type outcome struct {
	Node       string   `json:"node"`
	DataDir    string   `json:"data_dir"`
	Generation uint32   `json:"generation"`
	Index      uint64   `json:"index"`
	Segments   int      `json:"segments"`
	Here       int      `json:"segments_here"`
	LeftOut    []string `json:"left_out"` // nodes that do not belong to it
	Members    []string `json:"members"`
	Kept       string   `json:"kept"`
}

func (t *tools) print(n rescue.Node, r rescue.Report, did string) error {
	o := outcome{
		Node: n.Name, DataDir: n.DataDir, Generation: r.Generation, Index: r.Index, Segments: r.Segments, Here: r.Here,
		LeftOut: []string{}, Members: []string{}, Kept: r.Kept,
	}
	for _, x := range r.Nodes {
		if x.State == fsm.Removed {
			o.LeftOut = append(o.LeftOut, x.Name)
		} else {
			o.Members = append(o.Members, x.Name)
		}
	}
	return t.Object(o, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s: generation %d, nodes %s, %s, %d of them with a copy on %s\n",
			did, o.Generation, strings.Join(o.Members, " "), cmdline.Plural(int64(o.Segments), "segment"), o.Here, o.Node)
		if err == nil && o.Kept != "" {
			_, err = fmt.Fprintf(w, "what was there before is kept in %s\n", o.Kept)
		}
		return err
	})
}

// confirm makes sure that somebody wants this.
func (t *tools) confirm(n rescue.Node) error {
	if t.yes {
		return nil
	}
	if !t.Terminal() {
		return cmdline.Exitf(cmdline.ExitConflict, "nobody is there to confirm it: nothing was changed; --yes confirms it")
	}
	answer, err := t.Ask("Type the name of this node to go on:")
	if err == nil && answer != n.Name {
		err = cmdline.Exitf(cmdline.ExitConflict, "not confirmed: nothing was changed")
	}
	return err
}

// explain gives errors their exit code.
func explain(err error) error {
	switch {
	case errors.Is(err, rescue.ErrRunning):
		return &cmdline.ExitError{Code: cmdline.ExitConflict, Err: err}
	case errors.Is(err, rescue.ErrNothing), errors.Is(err, fs.ErrNotExist):
		return &cmdline.ExitError{Code: cmdline.ExitNotFound, Err: err}
	case errors.Is(err, fs.ErrPermission):
		return &cmdline.ExitError{Code: cmdline.ExitDenied, Err: err}
	case errors.Is(err, fs.ErrExist), errors.Is(err, rescue.ErrDamaged):
		return &cmdline.ExitError{Code: cmdline.ExitConflict, Err: err}
	}
	return err
}

const alone = `The other nodes must be off, and stay off: one of them that went on would be a
second cluster, and would deliver what this one delivers. Nodes that come back
later with their old data_dir end by themselves and say so; see cluster rejoin.
New nodes, and old ones with an empty data_dir, join as always.

The node begins a new generation of the cluster. It takes mail with one copy
until others have joined, and delivers all mail of which its disk has a copy;
what was being delivered at the end may arrive twice, and is counted. Nothing is
deleted: the control plane that was there is kept beside the new one.`

func (t *tools) recover() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Make the last node of a cluster a cluster of its own",
		Long: `Make a node whose cluster has lost its majority for good a cluster of its own.
It works on the data_dir that node.yaml (--config) names; the node must not run.

` + alone,
		Args: cmdline.Exactly[*cobra.Command](0, "it takes nothing"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, err := t.node(cmd)
			if err != nil {
				return err
			}
			_, r, err := n.Backup()
			if err != nil {
				return explain(err)
			}
			t.warn(n, r)
			if err := t.confirm(n); err != nil {
				return err
			}
			if r, err = n.Recover(); err != nil {
				return explain(err)
			}
			if err := t.print(n, r, "recovered"); err != nil {
				return err
			}
			t.Talk("Start the relay. It delivers what the others owned after the time of a lease, some seconds.")
			return nil
		},
	}
	cmd.Flags().BoolVar(&t.yes, "yes", false, "the other nodes are off: do not ask")
	return cmd
}

// warn says what is about to happen.
func (t *tools) warn(n rescue.Node, r rescue.Report) {
	var others []string
	for _, x := range r.Nodes {
		if x.Name != n.Name && x.State != fsm.Removed {
			others = append(others, x.Name)
		}
	}
	t.Talk("This makes %s a cluster of its own, without %s.", n.Name, strings.Join(append(others, "others")[:max(len(others), 1)], ", "))
	t.Talk("It has a copy of %s; %s are only on the others.", cmdline.Plural(int64(r.Here), "segment"), cmdline.Count(int64(r.Elsewhere)))
	if len(others) > 0 {
		t.Talk("Make sure that these are off and stay off: %s.", strings.Join(others, ", "))
	}
}

func (t *tools) restore() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make a node a cluster of its own, from a backup",
		Long: `Make a node a cluster of its own on the control plane that cluster backup wrote
to FILE, for the day on which no node has one that can be read. It works on the
data_dir that node.yaml (--config) names, which may be empty; the node must not
run. Where the node's own control plane can be read, cluster recover is better:
what it knows is newer.

` + alone,
		Args: cmdline.Exactly[*cobra.Command](1, "it takes one FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := t.node(cmd)
			if err != nil {
				return err
			}
			state, err := rescue.Read(args[0])
			var r rescue.Report
			if err == nil {
				r, err = n.Look(state)
			}
			if err != nil {
				return explain(err)
			}
			t.warn(n, r)
			if err := t.confirm(n); err != nil {
				return err
			}
			if r, err = n.Restore(state); err != nil {
				return explain(err)
			}
			return t.print(n, r, "restored")
		},
	}
	cmd.Flags().BoolVar(&t.yes, "yes", false, "the other nodes are off: do not ask")
	return cmd
}

func (t *tools) rejoin() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rejoin",
		Short: "Bring a node back that its cluster was recovered without",
		Long: `Bring a node back that was off while its cluster was recovered or restored. It
works on the data_dir that node.yaml (--config) names; the node must not run.

The node's old control plane is put aside, so that its next start joins the
cluster through the addresses in join. Its mail stays: it tells the cluster what
its disk holds, and what nobody has delivered meanwhile is delivered. Messages
that were delivered without it may be delivered once more, and are counted.`,
		Args: cmdline.Exactly[*cobra.Command](0, "it takes nothing"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, err := t.node(cmd)
			if err != nil {
				return err
			}
			t.Talk("This makes %s forget which cluster it was in; its mail stays. It is for a node that was off while the cluster was recovered.", n.Name)
			if err := t.confirm(n); err != nil {
				return err
			}
			r, err := n.Rejoin()
			if err != nil {
				return explain(err)
			}
			if err := t.print(n, r, "put aside"); err != nil {
				return err
			}
			if r.Unread != nil {
				t.Talk("The control plane could not be read, and is put aside as it is: %v", r.Unread)
			}
			t.Talk("Start the relay: it joins the cluster at the addresses in join.")
			return nil
		},
	}
	cmd.Flags().BoolVar(&t.yes, "yes", false, "do not ask")
	return cmd
}
