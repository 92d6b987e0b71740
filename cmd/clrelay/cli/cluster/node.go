package cluster

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

func (a *nouns) nodeCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "node", Short: "Take nodes of the cluster out of service and back"}
	list := &cobra.Command{
		Use:   "list",
		Short: "List the nodes of the cluster",
		Args:  cmdline.AtMost[*cobra.Command](0, "all nodes are listed"),
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.listNodes(cmd.Context(), false) },
	}
	cmd.AddCommand(list, a.showCommand(), a.drainCommand(), a.resumeCommand(), a.removeCommand())
	return cmd
}

func (a *nouns) showCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show [NAME]",
		Short: "Show one node, the one that is asked if none is named",
		Args:  cmdline.AtMost[*cobra.Command](1, "one NAME at most"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(conn grpc.ClientConnInterface) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
				defer cancel()
				if len(args) == 0 {
					self, err := adminv1.NewNodeServiceClient(conn).Status(ctx, &adminv1.StatusRequest{})
					if err != nil {
						return err
					}
					args = []string{self.GetNode()}
				}
				res, err := a.ask(ctx, conn)
				if err != nil {
					return err
				}
				for _, n := range res.GetNodes() {
					if n.GetName() == args[0] {
						return a.printNode(nodeOf(n), res.GetLeader())
					}
				}
				return cmdline.Exitf(cmdline.ExitNotFound, "no such node in the cluster: %s", args[0])
			})
		},
	}
}

func (a *nouns) printNode(n node, leader string) error {
	return a.Object(n, func(w io.Writer) error {
		names, cells := nodeWords(), n.cells(leader)
		for i := range names {
			if _, err := fmt.Fprintf(w, "%s\t%s\n", names[i], cells[i]); err != nil {
				return err
			}
		}
		_, err := fmt.Fprintf(w, "address\t%s\n", n.Address)
		return err
	})
}

// nodeWords are the columns as lines begin with them.
func nodeWords() []string {
	return []string{"name", "state", "role", "queued", "segments", "copies", "sessions", "zone", "version", "smtp"}
}

func (a *nouns) resumeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "resume NAME",
		Short: "Take a draining or drained node back into service",
		Args:  cmdline.Exactly[*cobra.Command](1, "it takes one NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(conn grpc.ClientConnInterface) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
				defer cancel()
				if _, err := adminv1.NewNodeServiceClient(conn).Resume(ctx, &adminv1.ResumeRequest{Node: args[0]}); err != nil {
					return err
				}
				return a.done(args[0], "alive", "is in service")
			})
		},
	}
}

// done prints what became of a node.
func (a *nouns) done(name, state, text string) error {
	out := struct {
		Node  string `json:"node"`
		State string `json:"state"`
	}{name, state}
	return a.Object(out, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s %s\n", name, text)
		return err
	})
}

func (a *nouns) removeCommand() *cobra.Command {
	var force, yes bool
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "Take a node out of the cluster for good",
		Long: `Take a node out of the cluster for good. It must be drained; with --force it may
also be silent and lost, and what it had is made anew from the other copies. A
node that was removed comes back only with an empty data_dir.

On a terminal it asks for the name of the node. Elsewhere it needs --yes.`,
		Args: cmdline.Exactly[*cobra.Command](1, "it takes one NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes {
				if err := a.sure(cmd.CommandPath(), args[0]); err != nil {
					return err
				}
			}
			return a.with(func(conn grpc.ClientConnInterface) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
				defer cancel()
				if _, err := adminv1.NewNodeServiceClient(conn).Remove(ctx, &adminv1.RemoveRequest{Node: args[0], Force: force}); err != nil {
					return err
				}
				return a.done(args[0], "left", "is not part of the cluster any more")
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&force, "force", false, "also a node that is silent and was not drained")
	f.BoolVar(&force, "lost", false, "the same: it is lost and does not come back")
	f.BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// sure asks for the name of the node.
func (a *nouns) sure(command, name string) error {
	if !a.Terminal() {
		return cmdline.Usagef(command, "remove cannot be taken back: without a terminal it needs --yes")
	}
	answer, err := a.Ask(fmt.Sprintf("This takes %s out of the cluster for good. Type its name to go on:", name))
	if err != nil {
		return err
	}
	if answer != name {
		return cmdline.Exitf(cmdline.ExitConflict, "not confirmed: nothing was changed")
	}
	return nil
}
