package faults

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// refusedWithin is how long a node may take to find out that it may not be
// what it was.
const refusedWithin = 30 * time.Second

// oldCopy puts an old copy of a data_dir back, as from a backup: what the node
// took since is not on its disk. It has to be refused; with an empty disk the
// node comes back.
func (n *nemesis) oldCopy() error {
	i := n.any()
	r := n.cluster.Nodes[i]
	old := r.Data + "-old"
	n.say("an old copy of the data_dir of %s is put back", name(i))
	if err := n.restart(i, 0, func() error { return os.CopyFS(old, os.DirFS(r.Data)) }); err != nil {
		return err
	}
	if err := r.AwaitReady(n.ctx); err != nil {
		return err
	}
	n.away.Store(true)
	n.hold(n.between(1, 5))
	n.kill(i)
	if err := errors.Join(os.RemoveAll(r.Data), os.Rename(old, r.Data)); err != nil {
		return err
	}
	n.hold(n.between(0, 1))
	if err := r.Launch(); err != nil {
		return err
	}
	select {
	case <-r.Exited():
	case <-time.After(refusedWithin):
		r.Kill()
		return fmt.Errorf("%w: %s goes on with an old copy of its data_dir", ErrBroken, name(i))
	}
	if r.ExitCode() != 1 || !strings.Contains(lastError(r), "older than what this node has done") {
		return fmt.Errorf("%w: %s with an old copy of its data_dir ended with code %d: %s", ErrBroken, name(i), r.ExitCode(), lastError(r))
	}
	n.away.Store(false)
	n.hold(n.between(0, 8))
	return errors.Join(os.RemoveAll(r.Data), n.start(i))
}
