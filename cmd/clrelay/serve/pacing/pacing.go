// Package pacing joins the queue with what decides how fast mail goes out: the
// limits, and the classes of the settings.
package pacing

import (
	"context"
	"strings"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/delivery/allow"
	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/delivery/queue/sched/turns"
	"github.com/clrelay/clrelay/delivery/returns"
	"github.com/clrelay/clrelay/internal/config"
	"github.com/clrelay/clrelay/internal/mail"
)

// Limits ask the agent's limits about mail that goes out. What came back to a
// return path stays here.
type Limits struct{ Agent queue.Limits }

// Admit is of queue.Limits.
func (l Limits) Admit(ctx context.Context, hop *mail.NextHop, at *delivery.Attempt) *allow.Denied {
	if strings.HasPrefix(hop.Key, returns.Lane) {
		return nil
	}
	return l.Agent.Admit(ctx, hop, at)
}

// ByDomain is of queue.Limits.
func (l Limits) ByDomain(domain string) bool { return l.Agent.ByDomain(domain) }

// Class says how urgent the mail is of clients in an entry of senders.
func Class(c *config.Cluster, sender string) sched.Class {
	for i := range c.Senders {
		if string(c.Senders[i].Name) != sender {
			continue
		}
		switch c.Senders[i].Class {
		case config.ClassTransactional:
			return turns.Transactional
		case config.ClassBulk:
			return turns.Bulk
		}
	}
	return turns.Normal
}
