package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/clrelay/clrelay/test/relayproc"
)

// clrelay is our relay as a process of its own, with one smarthost.
type clrelay struct{ *relayproc.Relay }

const clusterYAML = `senders:
  - {name: bench, networks: [127.0.0.0/8]}
receive: {max_size: 100MiB, max_connections: 5000, per_client_connections: 5000}
routes:
  - {match: {}, action: {smarthost: ["%s"]}}
`

func startClrelay(ctx context.Context, o options, sink string) (*clrelay, error) {
	dir := filepath.Join(o.dir, "clrelay")
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	r, err := relayproc.New(relayproc.Options{Binary: o.binary, Dir: dir, Cluster: fmt.Sprintf(clusterYAML, sink)})
	if err != nil {
		return nil, err
	}
	return &clrelay{r}, r.Start(ctx)
}

func (c *clrelay) name() string                  { return "clrelay" }
func (c *clrelay) addrs() []string               { return []string{c.SMTP} }
func (c *clrelay) usage() (time.Duration, int64) { return treeUsage(c.PID()) }

// syncs reads the count of the fsync histogram.
func (c *clrelay) syncs() int64 {
	n, err := c.Metric("clrelay_fsync_duration_seconds_count")
	if err != nil {
		return -1
	}
	return int64(n)
}

func (c *clrelay) stop() {
	if err := c.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "bench: clrelay:", err)
	}
}
