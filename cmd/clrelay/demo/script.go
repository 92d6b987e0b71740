package demo

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/clrelay/clrelay/cmd/clrelay/demo/world"
	"github.com/clrelay/clrelay/cmd/clrelay/demo/world/post"
)

// script plays one story. It returns an error when something did not come
// about; the ledger is judged afterwards.
type script func(ctx context.Context, d *director) error

// Scripts names what there is to play.
func Scripts() []string {
	return []string{"failover", "partition", "drain", "scale-out", "rolling-restart"}
}

func scriptFor(name string) (script, error) {
	all := map[string]script{
		"": nil, "failover": failover, "partition": partition, "drain": drain, "scale-out": scaleOut, "rolling-restart": rollingRestart,
	}
	s, ok := all[name]
	if !ok {
		return nil, fmt.Errorf("demo: no script %q: there are %s", name, strings.Join(slices.Clone(Scripts()), ", "))
	}
	return s, nil
}

// director plays scripts in a world.
type director struct{ *world.World }

const (
	sceneTime = 2 * time.Second  // of load, so that there is something to see
	takeover  = 20 * time.Second // at most, until others go on with a node's mail
)

// load lets time pass.
func (d *director) load(ctx context.Context, t time.Duration) error {
	select {
	case <-time.After(t):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// await waits for a fact.
func (d *director) await(ctx context.Context, limit time.Duration, what string, fact func() bool) error {
	switch {
	case d.Until(ctx, limit, fact):
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return fmt.Errorf("after %v: not %s", limit, what)
}

// expect waits for a fact and says how long it took.
func (d *director) expect(ctx context.Context, limit time.Duration, what string, fact func() bool) error {
	start := time.Now()
	if err := d.await(ctx, limit, what, fact); err != nil {
		return err
	}
	d.Say("%s: %.1f s", what, time.Since(start).Seconds())
	return nil
}

// steady tells whether every node takes mail.
func (d *director) steady() bool {
	for _, n := range d.Nodes() {
		if l := n.Look(); !l.Ready || !l.Balanced || l.Open == 0 {
			return false
		}
	}
	return true
}

// accepts waits until a node has taken mail that clients brought.
func (d *director) accepts(ctx context.Context, n *world.Node) error {
	before := n.Look().Accepted
	return d.expect(ctx, takeover, n.Name+" takes mail from clients", func() bool {
		l := n.Look()
		if l.Accepted < before { // another process, which counts from 0
			before = 0
		}
		return l.Balanced && l.Accepted > before
	})
}

// laden waits until a node has mail that it cannot deliver, for the server that
// is down, so that there is something for others to go on with.
func (d *director) laden(ctx context.Context, n *world.Node) error {
	return d.await(ctx, takeover, "mail waits at "+n.Name, func() bool { return d.Holds(ctx, n, post.Domains[post.Lighthouse].Name) })
}

// carried waits until another node delivered mail that n had accepted.
func (d *director) carried(ctx context.Context, n *world.Node, since time.Time) error {
	return d.expect(ctx, takeover, "another node delivers what "+n.Name+" had accepted", func() bool {
		return d.Adopted(n.Name).Last.After(since)
	})
}

// failover kills a node and erases its disk; the others deliver its mail. It
// comes back with an empty disk.
func failover(ctx context.Context, d *director) error {
	n := d.Nodes()[0]
	if err := d.load(ctx, sceneTime); err != nil {
		return err
	}
	if err := d.laden(ctx, n); err != nil {
		return err
	}
	if err := d.Kill(n, true); err != nil {
		return err
	}
	d.Light()
	if err := d.carried(ctx, n, time.Now()); err != nil {
		return err
	}
	if err := d.load(ctx, sceneTime); err != nil {
		return err
	}
	if err := d.Bring(n); err != nil {
		return err
	}
	if err := d.accepts(ctx, n); err != nil {
		return err
	}
	return d.load(ctx, sceneTime)
}

// partition cuts a node off: it stops by itself, and the others go on with its
// mail.
func partition(ctx context.Context, d *director) error {
	n := d.Nodes()[1]
	if err := d.load(ctx, sceneTime); err != nil {
		return err
	}
	if err := d.laden(ctx, n); err != nil {
		return err
	}
	since := time.Now()
	if err := d.Cut(n, true); err != nil {
		return err
	}
	if err := d.expect(ctx, takeover, n.Name+" says itself that it may take no mail", func() bool { return !n.Look().Ready }); err != nil {
		return err
	}
	d.Light()
	if err := d.carried(ctx, n, since.Add(time.Second)); err != nil {
		return err
	}
	if err := d.Cut(n, false); err != nil {
		return err
	}
	if err := d.accepts(ctx, n); err != nil {
		return err
	}
	return d.load(ctx, sceneTime)
}

// drain takes a node out of service under load, and puts it back.
func drain(ctx context.Context, d *director) error {
	n := d.Nodes()[2]
	if err := d.load(ctx, sceneTime); err != nil {
		return err
	}
	if err := d.Drain(ctx, n); err != nil {
		return err
	}
	if err := d.expect(ctx, takeover, n.Name+" owns no segment and keeps no copy", func() bool {
		l := n.Look()
		return l.Owned() == 0 && l.Member == 0 && l.Queued == 0
	}); err != nil {
		return err
	}
	if err := d.Resume(ctx, n); err != nil {
		return err
	}
	if err := d.accepts(ctx, n); err != nil {
		return err
	}
	return d.load(ctx, sceneTime)
}

// scaleOut adds a fourth node under load.
func scaleOut(ctx context.Context, d *director) error {
	if err := d.load(ctx, sceneTime); err != nil {
		return err
	}
	n, err := d.Add()
	if err != nil {
		return err
	}
	if err := d.accepts(ctx, n); err != nil {
		return err
	}
	if err := d.expect(ctx, takeover, n.Name+" owns segments", func() bool { return n.Look().Open > 0 }); err != nil {
		return err
	}
	return d.load(ctx, sceneTime)
}

// rollingRestart stops and starts one node after the other.
func rollingRestart(ctx context.Context, d *director) error {
	for _, n := range d.Nodes() {
		if err := d.load(ctx, sceneTime); err != nil {
			return err
		}
		if err := d.Terminate(n); err != nil {
			return err
		}
		if err := d.Bring(n); err != nil {
			return err
		}
		if err := d.accepts(ctx, n); err != nil {
			return err
		}
		if err := d.expect(ctx, takeover, "all nodes are at work", d.steady); err != nil {
			return err
		}
	}
	return d.load(ctx, sceneTime)
}
