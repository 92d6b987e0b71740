// Package cluster is the nouns cluster and node of the command line: how a
// cluster stands, who leads it, and which nodes are in service.
package cluster

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// Connect connects to a relay, calls f, and explains its errors.
type Connect func(f func(conn grpc.ClientConnInterface) error) error

type nouns struct {
	*cmdline.Console
	with Connect
}

// Commands makes the commands cluster and node.
func Commands(c *cmdline.Console, with Connect) []*cobra.Command {
	n := &nouns{c, with}
	return []*cobra.Command{n.clusterCommand(), n.nodeCommand()}
}

// askTimeout bounds a call that only looks, or asks for one decision.
const askTimeout = 30 * time.Second

func (a *nouns) clusterCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "cluster", Short: "Look at the cluster and who leads it"}
	leader := &cobra.Command{Use: "leader", Short: "Who leads Raft"}
	leader.AddCommand(a.transferCommand())
	cmd.AddCommand(a.statusCommand(), a.membersCommand(), leader, a.writeOffCommand(), a.tokenCommand())
	return cmd
}

// node is what cluster status and node list print of a node.
type node struct {
	Name     string   `json:"name"`
	State    string   `json:"state"`
	Voter    bool     `json:"voter"`
	SMTP     []string `json:"smtp"`
	Queued   *int64   `json:"queued"` // null when the node did not answer
	Segments int64    `json:"segments"`
	Copies   int64    `json:"copies"`
	Sessions int64    `json:"sessions"`
	Version  string   `json:"version"`
	Zone     string   `json:"zone"`
	Address  string   `json:"address"`
	Level    uint32   `json:"feature_level"` // that its program knows
}

// status is what cluster status prints.
type status struct {
	Leader          string   `json:"leader"`
	Term            uint64   `json:"term"`
	CommitIndex     uint64   `json:"commit_index"`
	Quorum          bool     `json:"quorum"`
	Copies          int32    `json:"copies"`
	UnderReplicated int64    `json:"under_replicated"`
	LostSegments    int64    `json:"lost_segments"`
	Level           uint32   `json:"feature_level"` // that is in force
	Nodes           []node   `json:"nodes"`
	Notes           []string `json:"notes"`
}

// stateWord gives the word for a state that every format uses.
func stateWord(s adminv1.NodeState) string {
	if s == adminv1.NodeState_NODE_STATE_UNSPECIFIED {
		return ""
	}
	return strings.ToLower(strings.TrimPrefix(s.String(), "NODE_STATE_"))
}

func nodeOf(n *adminv1.ClusterNode) node {
	return node{
		Name: n.GetName(), State: stateWord(n.GetState()), Voter: n.GetVoter(), SMTP: append([]string{}, n.GetSmtp()...), Queued: n.Queued,
		Segments: n.GetSegments(), Copies: n.GetCopies(), Sessions: n.GetSessions(), Version: n.GetVersion(), Zone: n.GetZone(), Address: n.GetAddress(),
		Level: n.GetFeatureLevel(),
	}
}

// ask asks how the cluster stands.
func (a *nouns) ask(ctx context.Context, conn grpc.ClientConnInterface) (*adminv1.ClusterServiceStatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return adminv1.NewClusterServiceClient(conn).Status(ctx, &adminv1.ClusterServiceStatusRequest{})
}

func (a *nouns) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Tell how the cluster stands",
		Long: `Tell how the cluster stands, as the node that is asked sees it. It needs no
leader: without a quorum it tells so, and the exit code is 0 all the same. A
relay that is alone is a cluster of one.`,
		Args: cmdline.AtMost[*cobra.Command](0, "the status is of the whole cluster"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(conn grpc.ClientConnInterface) error {
				res, err := a.ask(cmd.Context(), conn)
				if err != nil {
					return err
				}
				return a.printStatus(res)
			})
		},
	}
}

func (a *nouns) printStatus(res *adminv1.ClusterServiceStatusResponse) error {
	out := status{
		Leader: res.GetLeader(), Term: res.GetTerm(), CommitIndex: res.GetCommitIndex(), Quorum: res.GetQuorum(),
		Copies: res.GetCopies(), UnderReplicated: res.GetUnderReplicated(), LostSegments: res.GetLostSegments(), Level: res.GetFeatureLevel(), Nodes: []node{}, Notes: append([]string{}, res.GetNotes()...),
	}
	for _, n := range res.GetNodes() {
		out.Nodes = append(out.Nodes, nodeOf(n))
	}
	return a.Object(out, func(w io.Writer) error {
		leader, quorum := out.Leader, "yes"
		if leader == "" {
			leader = "none"
		}
		if !out.Quorum {
			quorum = "NO"
		}
		_, err := fmt.Fprintf(w, "leader\t%s (term %d)\nquorum\t%s\ncommit index\t%d\ncopies\t%d\nunder-replicated\t%s\nfeature level\t%d\n\n",
			leader, out.Term, quorum, out.CommitIndex, out.Copies, cmdline.Plural(out.UnderReplicated, "segment"), out.Level)
		if err == nil {
			_, err = fmt.Fprintln(w, strings.Join(nodeColumns(), "\t"))
		}
		for i := range out.Nodes {
			if err == nil {
				_, err = fmt.Fprintln(w, strings.Join(out.Nodes[i].cells(out.Leader), "\t"))
			}
		}
		for _, note := range out.Notes {
			if err == nil {
				_, err = fmt.Fprintf(w, "\n! %s\n", cmdline.Cell(note, 300))
			}
		}
		return err
	})
}

func nodeColumns() []string {
	return []string{"NODE", "STATE", "ROLE", "QUEUED", "SEGMENTS", "COPIES", "SESSIONS", "ZONE", "VERSION", "SMTP"}
}

func (n *node) cells(leader string) []string {
	role := "-"
	switch {
	case n.Name == leader:
		role = "leader"
	case n.Voter:
		role = "voter"
	}
	queued := "?"
	if n.Queued != nil {
		queued = cmdline.Count(*n.Queued)
	}
	zone := cmdline.Cell(n.Zone, 30)
	if zone == "" {
		zone = "-"
	}
	return []string{
		n.Name, n.State, role, queued, cmdline.Count(n.Segments), cmdline.Count(n.Copies), cmdline.Count(n.Sessions),
		zone, cmdline.Cell(n.Version, 30), strings.Join(n.SMTP, " "),
	}
}

func (a *nouns) membersCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "members",
		Short: "List the nodes, those that were removed too",
		Args:  cmdline.AtMost[*cobra.Command](0, "all nodes are listed"),
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.listNodes(cmd.Context(), true) },
	}
}

// listNodes lists the nodes.
func (a *nouns) listNodes(ctx context.Context, removed bool) error {
	return a.with(func(conn grpc.ClientConnInterface) error {
		res, err := a.ask(ctx, conn)
		if err != nil {
			return err
		}
		out := a.List(nodeColumns()...)
		for _, n := range res.GetNodes() {
			if n.GetState() == adminv1.NodeState_NODE_STATE_LEFT && !removed {
				continue
			}
			row := nodeOf(n)
			if err := out.Row(row, row.cells(res.GetLeader())...); err != nil {
				return err
			}
		}
		return out.End()
	})
}

func (a *nouns) transferCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "transfer [NODE]",
		Short: "Hand the leadership to another voter",
		Long: `Hand the leadership of Raft to NODE, or to any other voter. It returns once that
one leads. Neither accepting nor delivering mail stops meanwhile.`,
		Args: cmdline.AtMost[*cobra.Command](1, "one NODE at most"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(conn grpc.ClientConnInterface) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
				defer cancel()
				res, err := adminv1.NewClusterServiceClient(conn).TransferLeader(ctx, &adminv1.TransferLeaderRequest{To: strings.Join(args, "")})
				if err != nil {
					return err
				}
				out := struct {
					Leader string `json:"leader"`
				}{res.GetLeader()}
				return a.Object(out, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "%s leads now\n", out.Leader)
					return err
				})
			})
		},
	}
}
