// Package later says which clients may say when their mail is to be delivered.
package later

import (
	"net/netip"
	"time"

	"github.com/clrelay/clrelay/cluster"
	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/smtpd/later"
)

// Terms are what it depends on. Entry and Longest are required.
type Terms struct {
	Entry   func(netip.Addr) string // names the entry of senders that a client is in
	Longest func() time.Duration    // for which mail may be held; 0: it may not
	Level   func() uint32           // the feature level of the cluster; nil on a single machine
}

// Offer is what a client may say: nothing, unless it may relay.
func (t Terms) Offer(c *mail.Client) later.Offer {
	if t.Entry(c.Addr) == "" {
		return later.Offer{}
	}
	// A node below that level would take such mail over and deliver it at once.
	return later.Offer{Hold: t.Longest(), By: true, NotYet: t.Level != nil && t.Level() < fsm.LimitLevel}
}

// Level reads the feature level of a node's cluster; nil for none.
func Level(n *cluster.Node) func() uint32 {
	if n == nil {
		return nil
	}
	return func() (level uint32) {
		n.Read(func(s *fsm.State) { level = s.Level() })
		return level
	}
}
