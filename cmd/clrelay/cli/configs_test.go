package cli_test

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/clrelay/clrelay/internal/admin"
	"github.com/clrelay/clrelay/internal/admin/configs"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// configurations are those of the invented cluster. A text that holds "invalid"
// is refused, one that holds "unfit" cannot be taken over by any node, and "race"
// is beaten by somebody else. Where mx3 is lost mx2 does not answer either.
type configurations struct {
	lost *grpc.ClientConn

	mu   sync.Mutex
	list []configs.Version
}

func newConfigurations(lost *grpc.ClientConn) *configurations {
	return &configurations{lost: lost, list: []configs.Version{
		{Number: 5, Author: "mx1", Reason: "the cluster's birth", Applied: now().Add(-72 * time.Hour)}, // without a file
		{Number: 6, Text: []byte("queue:\n  expire: 4d\n"), Author: "admin ops", Applied: now().Add(-48 * time.Hour)},
		{Number: 7, Text: []byte("queue: {expire: 5d}\n"), Author: "admin ops", Reason: "INC-1", Applied: now().Add(-time.Hour)},
	}}
}

func (c *configurations) newest() configs.Version { return c.list[len(c.list)-1] }

func (c *configurations) Get(_ context.Context, version uint64) (configs.Version, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, v := range c.list {
		if v.Number == version {
			return v, nil
		}
	}
	if version != 0 {
		return configs.Version{}, fmt.Errorf("%w %d", configs.ErrNotKept, version)
	}
	return c.newest(), nil
}

func (c *configurations) History(context.Context) ([]configs.Version, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.list, nil
}

func (c *configurations) Apply(_ context.Context, in configs.Change) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.newest()
	switch {
	case bytes.Contains(in.Text, []byte("invalid")):
		return 0, admin.InvalidError("cluster configuration:1:1: wrong")
	case in.IfVersion != 0 && in.IfVersion != last.Number, bytes.Contains(in.Text, []byte("race")):
		return 0, admin.RefusedError(fmt.Sprintf("it was to replace version %d, and meanwhile came %d by %s (%s)", in.IfVersion, last.Number, last.Author, last.Reason))
	case in.DryRun:
		return last.Number, nil
	}
	c.list = append(c.list, configs.Version{Number: last.Number + 1, Text: in.Text, Author: in.Author, Reason: in.Reason, Applied: now()})
	return last.Number + 1, nil
}

func (c *configurations) Nodes(context.Context) ([]configs.Node, error) {
	out := []configs.Node{{Name: "mx1", State: adminv1.NodeState_NODE_STATE_ALIVE, Self: true}, {Name: "mx2", State: adminv1.NodeState_NODE_STATE_DRAINING, Self: true}}
	if c.lost != nil {
		out[1] = configs.Node{Name: "mx2", State: adminv1.NodeState_NODE_STATE_SUSPECT, Conn: c.lost}
		out = append(out, configs.Node{Name: "mx3", State: adminv1.NodeState_NODE_STATE_DEAD})
	}
	return out, nil
}

// inForce is of mx1, and of mx2 where it answers.
func (c *configurations) inForce() (version, rejected uint64, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.newest()
	if bytes.Contains(last.Text, []byte("unfit")) {
		return last.Number - 1, last.Number, "unfit"
	}
	return last.Number, 0, ""
}

// oneFile is the configuration of a relay that is alone.
type oneFile struct{}

func (oneFile) Get(_ context.Context, version uint64) (configs.Version, error) {
	if version != 0 {
		return configs.Version{}, configs.ErrAlone
	}
	return configs.Version{Text: []byte("queue: {expire: 5d}\n")}, nil
}

func (oneFile) History(context.Context) ([]configs.Version, error)    { return nil, configs.ErrAlone }
func (oneFile) Apply(context.Context, configs.Change) (uint64, error) { return 0, configs.ErrAlone }
func (oneFile) Nodes(context.Context) ([]configs.Node, error)         { return nil, configs.ErrAlone }
