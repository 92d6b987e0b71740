package main

import (
	"path/filepath"
	"time"

	"github.com/clrelay/clrelay/test/peers"
)

// postfix is a private Postfix, tuned for throughput.
type postfix struct{ *peers.Postfix }

func startPostfix(o options, sink string) (*postfix, error) {
	p, err := peers.StartPostfix(filepath.Join(o.dir, "postfix"), sink)
	if err != nil {
		return nil, err
	}
	return &postfix{p}, nil
}

func (p *postfix) name() string                  { return "postfix" }
func (p *postfix) addrs() []string               { return []string{p.Addr} }
func (p *postfix) usage() (time.Duration, int64) { return treeUsage(p.Master) }
func (p *postfix) stop()                         { p.Stop() }

// syncs is not counted: Postfix does one fsync a message on its queue file,
// and tracing it would slow it down.
func (p *postfix) syncs() int64 { return -1 }
