// Package shared answers the admin API about the configuration that all nodes of
// a cluster share, from the node that this relay is, and from the file where it
// is none.
package shared

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/clrelay/clrelay/cluster"
	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/internal/admin"
	"github.com/clrelay/clrelay/internal/admin/configs"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// OwnFile shows the configuration of a relay that is alone: the text in force,
// whatever its file says by now.
type OwnFile func() []byte

// Get is of configs.Plane.
func (f OwnFile) Get(_ context.Context, version uint64) (configs.Version, error) {
	if version != 0 {
		return configs.Version{}, configs.ErrAlone
	}
	return configs.Version{Text: f()}, nil
}

// History is of configs.Plane.
func (f OwnFile) History(context.Context) ([]configs.Version, error) { return nil, configs.ErrAlone }

// Apply is of configs.Plane.
func (f OwnFile) Apply(context.Context, configs.Change) (uint64, error) { return 0, configs.ErrAlone }

// Nodes is of configs.Plane.
func (f OwnFile) Nodes(context.Context) ([]configs.Node, error) { return nil, configs.ErrAlone }

// Cluster keeps the configuration of a cluster.
type Cluster struct {
	Node *cluster.Node
	Self string // its name
	// Settings fails where a text is no configuration.
	Settings func(text []byte) (fsm.Settings, error)
	Operator Operator
	// Refusal makes errors of the cluster those of the admin API.
	Refusal func(err error, what string) error
}

// Operator knows the nodes.
type Operator interface {
	Status(ctx context.Context) (admin.ClusterStatus, error)
	Others(ctx context.Context) []admin.Peer
}

func versionOf(c *fsm.Config) configs.Version {
	return configs.Version{Number: c.Version, Text: c.Text, Author: c.Author, Reason: c.Reason, Applied: c.At}
}

// Get is of configs.Plane.
func (c *Cluster) Get(ctx context.Context, version uint64) (configs.Version, error) {
	list, err := c.History(ctx)
	if err != nil {
		return configs.Version{}, err
	}
	first, last := list[0].Number, list[len(list)-1].Number
	if version == 0 {
		version = last
	}
	for _, v := range list {
		if v.Number == version {
			return v, nil
		}
	}
	return configs.Version{}, fmt.Errorf("%w %d: %d to %d are kept", configs.ErrNotKept, version, first, last)
}

// History is of configs.Plane.
func (c *Cluster) History(context.Context) ([]configs.Version, error) {
	var out []configs.Version
	for _, k := range c.Node.Configs() {
		out = append(out, versionOf(&k))
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: the cluster has no configuration yet", admin.ErrUnavailable)
	}
	return out, nil
}

// Apply is of configs.Plane.
func (c *Cluster) Apply(ctx context.Context, in configs.Change) (uint64, error) {
	if !c.Node.Started() {
		return 0, fmt.Errorf("%w: the relay is starting", admin.ErrUnavailable)
	}
	if _, err := c.Settings(in.Text); err != nil {
		return 0, admin.InvalidError(err.Error())
	}
	if in.DryRun {
		return c.try(in.IfVersion)
	}
	version, err := c.Node.Apply(ctx, in.Text, in.IfVersion, in.Author, in.Reason)
	var refused *cluster.RefusedError
	if errors.As(err, &refused) && refused.Code == fsm.WrongVersion && in.IfVersion != 0 {
		return 0, c.conflict(in.IfVersion)
	}
	return version, c.Refusal(err, "the configuration was not applied")
}

// try tells whether a version still is the newest, which it returns.
func (c *Cluster) try(version uint64) (uint64, error) {
	now, _ := c.Node.Config()
	if version != 0 && version != now.Version {
		return 0, c.conflict(version)
	}
	return now.Version, nil
}

// maxNamed is how many later versions a conflict names.
const maxNamed = 5

// conflict tells who came before one who wanted to replace a version.
func (c *Cluster) conflict(want uint64) error {
	var later []string
	newest := uint64(0)
	for _, k := range c.Node.Configs() {
		newest = k.Version
		if k.Version <= want {
			continue
		}
		reason := "no reason given"
		if k.Reason != "" {
			reason = k.Reason
		}
		later = append(later, fmt.Sprintf("%d by %s at %s (%s)", k.Version, k.Author, k.At.UTC().Format(time.RFC3339), reason))
	}
	if len(later) == 0 {
		return admin.RefusedError(fmt.Sprintf("the configuration was not applied: it was to replace version %d, and %d is the newest that this node knows", want, newest))
	}
	return admin.RefusedError(fmt.Sprintf("the configuration was not applied: it was to replace version %d, and meanwhile came %s",
		want, strings.Join(later[max(0, len(later)-maxNamed):], ", ")))
}

// Nodes is of configs.Plane.
func (c *Cluster) Nodes(ctx context.Context) ([]configs.Node, error) {
	st, err := c.Operator.Status(ctx)
	if err != nil {
		return nil, err
	}
	var out []configs.Node
	others := c.Operator.Others(ctx)
	for _, m := range st.Nodes {
		if m.State == admin.NodeLeft {
			continue
		}
		n := configs.Node{Name: m.Name, State: admin.NodeStateOut(m.State), Self: m.Name == c.Self}
		for _, p := range others {
			if p.Name == m.Name && n.State != adminv1.NodeState_NODE_STATE_DEAD {
				n.Conn = p.Conn
			}
		}
		out = append(out, n)
	}
	return out, nil
}
