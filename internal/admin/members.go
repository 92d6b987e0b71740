package admin

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/clrelay/clrelay/internal/admin/fleet"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

const (
	// queuedWait is how long another node may take to say what it has queued,
	// where that is one figure of many.
	queuedWait = 2 * time.Second
	// decideWait is how long the cluster may take for a decision: about twice
	// what the election of a leader takes.
	decideWait = 15 * time.Second
	// progressEvery is the time between two words on a draining.
	progressEvery = 500 * time.Millisecond
)

// clusterService answers for the cluster; cluster is nil on a single machine.
type clusterService struct {
	adminv1.UnimplementedClusterServiceServer
	cluster Cluster
	node    Node
	queue   Queue
	fleet   fleet.Fleet
}

func (c *clusterService) Status(ctx context.Context, _ *adminv1.ClusterServiceStatusRequest) (*adminv1.ClusterServiceStatusResponse, error) {
	self := c.node.Status(ctx)
	if c.cluster == nil {
		return c.alone(ctx, &self)
	}
	st, err := c.cluster.Status(ctx)
	if err != nil {
		return nil, err
	}
	out := &adminv1.ClusterServiceStatusResponse{
		Leader: st.Leader, Term: st.Term, CommitIndex: st.CommitIndex, Quorum: st.Quorum,
		Copies: int32(st.Copies), UnderReplicated: st.UnderReplicated, LostSegments: st.Lost, Notes: st.Notes, FeatureLevel: st.Level,
	}
	queued := c.queued(ctx)
	for i := range st.Nodes {
		n := nodeOut(&st.Nodes[i])
		if count, ok := queued[n.GetName()]; ok {
			n.Queued = &count
		} else if gone(n) {
			n.Queued = ptr(int64(0))
		}
		if n.GetName() == self.Node {
			n.Smtp = self.SMTP
			if sum, err := c.queue.Summary(ctx); err == nil {
				n.Queued = ptr(sum.Active + sum.Deferred + sum.Held)
			}
		}
		out.Nodes = append(out.Nodes, n)
	}
	return out, nil
}

// gone tells whether a node that says nothing has nothing either: others took
// over what it owned.
func gone(n *adminv1.ClusterNode) bool {
	s := n.GetState()
	return n.GetSegments() == 0 && (s == adminv1.NodeState_NODE_STATE_DEAD || s == adminv1.NodeState_NODE_STATE_LEFT)
}

// queued tells what the others have in their queues, as far as they answer.
func (c *clusterService) queued(ctx context.Context) map[string]int64 {
	out := map[string]int64{}
	for _, a := range fleet.Ask(ctx, c.fleet.Others(ctx, false), queuedWait, summaryOf) {
		if a.Err == nil {
			out[a.Peer.Name] = a.Got.GetRecipients()
		}
	}
	return out
}

func summaryOf(ctx context.Context, p Peer) (*adminv1.SummaryResponse, error) {
	return adminv1.NewQueueServiceClient(p.Conn).Summary(ctx, &adminv1.SummaryRequest{Local: true})
}

// alone is the status of a relay that is no part of a cluster.
func (c *clusterService) alone(ctx context.Context, self *Status) (*adminv1.ClusterServiceStatusResponse, error) {
	sum, err := c.queue.Summary(ctx)
	if err != nil {
		return nil, err
	}
	state := adminv1.NodeState_NODE_STATE_ALIVE
	if self.Draining {
		state = adminv1.NodeState_NODE_STATE_DRAINING
	}
	return &adminv1.ClusterServiceStatusResponse{
		Leader: self.Node, Quorum: true, Copies: 1,
		Nodes: []*adminv1.ClusterNode{{
			Name: self.Node, State: state, Voter: true, Smtp: self.SMTP, Version: self.Version,
			Queued: ptr(sum.Active + sum.Deferred + sum.Held),
		}},
		Notes: []string{"this relay is not part of a cluster"},
	}, nil
}

func ptr[T any](v T) *T { return &v }

func nodeOut(n *ClusterNode) *adminv1.ClusterNode {
	return &adminv1.ClusterNode{
		Name: n.Name, State: NodeStateOut(n.State), Voter: n.Voter, Smtp: n.SMTP, Segments: n.Segments, Copies: n.Copies,
		Sessions: n.Sessions, Version: text(n.Version), Zone: text(n.Zone), Address: n.Addr, FeatureLevel: n.Level,
	}
}

// NodeStateOut gives what the API calls a state of a node.
func NodeStateOut(word string) adminv1.NodeState {
	switch word {
	case NodeAlive:
		return adminv1.NodeState_NODE_STATE_ALIVE
	case NodeSuspect:
		return adminv1.NodeState_NODE_STATE_SUSPECT
	case NodeDead:
		return adminv1.NodeState_NODE_STATE_DEAD
	case NodeDraining:
		return adminv1.NodeState_NODE_STATE_DRAINING
	case NodeDrained:
		return adminv1.NodeState_NODE_STATE_DRAINED
	case NodeLeft:
		return adminv1.NodeState_NODE_STATE_LEFT
	}
	return adminv1.NodeState_NODE_STATE_UNSPECIFIED
}

func (c *clusterService) TransferLeader(ctx context.Context, req *adminv1.TransferLeaderRequest) (*adminv1.TransferLeaderResponse, error) {
	if c.cluster == nil {
		return nil, ErrAlone
	}
	ctx, cancel := context.WithTimeout(ctx, decideWait)
	defer cancel()
	leader, err := c.cluster.TransferLeader(ctx, req.GetTo())
	return &adminv1.TransferLeaderResponse{Leader: leader}, err
}

// nodeService tells about this node and changes any; nodes is nil on a single
// machine.
type nodeService struct {
	adminv1.UnimplementedNodeServiceServer
	node  Node
	nodes Nodes
	queue Queue
	fleet fleet.Fleet
	every time.Duration // between two words on a draining
}

func (n *nodeService) Status(ctx context.Context, _ *adminv1.StatusRequest) (*adminv1.StatusResponse, error) {
	s := n.node.Status(ctx)
	return &adminv1.StatusResponse{
		Node: s.Node, Version: s.Version, Started: timeOut(s.Started),
		Ready: s.Ready, Draining: s.Draining, Reason: text(s.Reason), Smtp: s.SMTP,
		ConfigVersion: s.ConfigVersion, ConfigRejected: s.ConfigRejected, ConfigError: text(s.ConfigError),
	}, nil
}

// decide calls f within the time that a decision of the cluster may take.
func (n *nodeService) decide(ctx context.Context, f func(context.Context) error) error {
	if n.nodes == nil {
		return ErrAlone
	}
	ctx, cancel := context.WithTimeout(ctx, decideWait)
	defer cancel()
	return f(ctx)
}

func (n *nodeService) Resume(ctx context.Context, req *adminv1.ResumeRequest) (*adminv1.ResumeResponse, error) {
	err := n.decide(ctx, func(ctx context.Context) error { return n.nodes.Resume(ctx, req.GetNode()) })
	return &adminv1.ResumeResponse{}, err
}

func (n *nodeService) Remove(ctx context.Context, req *adminv1.RemoveRequest) (*adminv1.RemoveResponse, error) {
	err := n.decide(ctx, func(ctx context.Context) error { return n.nodes.Remove(ctx, req.GetNode(), req.GetForce()) })
	return &adminv1.RemoveResponse{}, err
}

func (n *nodeService) Drain(req *adminv1.DrainRequest, stream adminv1.NodeService_DrainServer) error {
	ctx, node := stream.Context(), req.GetNode()
	if err := n.decide(ctx, func(ctx context.Context) error { return n.nodes.Drain(ctx, node) }); err != nil {
		return err
	}
	t := time.NewTicker(n.every)
	defer t.Stop()
	for {
		word, err := n.progress(ctx, node)
		if err != nil {
			return err
		}
		if err := stream.Send(word); err != nil || word.GetDone() {
			return err
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// progress tells how far the draining of a node has come.
func (n *nodeService) progress(ctx context.Context, node string) (*adminv1.DrainResponse, error) {
	p, err := n.nodes.Progress(ctx, node)
	if err != nil {
		return nil, err
	}
	if p.State != NodeDraining && p.State != NodeDrained {
		return nil, status.Error(codes.Aborted, fmt.Sprintf("%s is not being drained any more: it is %s", node, p.State))
	}
	out := &adminv1.DrainResponse{
		Done:     p.State == NodeDrained && p.Owned == 0 && p.Copies == 0 && p.Sessions == 0,
		Segments: p.Owned, Copies: p.Copies, Sessions: p.Sessions, Blocked: text(p.Blocked),
	}
	if node == n.node.Status(ctx).Node {
		if sum, err := n.queue.Summary(ctx); err == nil {
			out.Queued = ptr(sum.Active + sum.Deferred + sum.Held)
		}
		return out, nil
	}
	for _, peer := range n.fleet.Others(ctx, false) {
		if peer.Name != node {
			continue
		}
		if a := fleet.Ask(ctx, []Peer{peer}, queuedWait, summaryOf)[0]; a.Err == nil {
			out.Queued = ptr(a.Got.GetRecipients())
		}
	}
	return out, nil
}
