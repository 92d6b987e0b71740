package door

import (
	"context"
	"time"

	"github.com/clrelay/clrelay/internal/abuse"
	"github.com/clrelay/clrelay/internal/config"
	"github.com/clrelay/clrelay/internal/overload"
)

// RulesOf are the Rules of the settings.
func RulesOf(c *config.Cluster) Rules {
	r := Rules{Classes: map[string]overload.Class{}, Exempt: config.Prefixes(c.Receive.Abuse.Exempt)}
	for _, s := range c.Senders {
		r.Classes[string(s.Name)] = overload.ParseClass(s.Class)
	}
	return r
}

// AbuseOf are the rules of the settings about clients that misbehave.
func AbuseOf(a config.Abuse) abuse.Rules {
	if !a.Enabled {
		return abuse.Rules{}
	}
	return abuse.Rules{
		Window: time.Duration(a.Window), Hold: time.Duration(a.Tarpit), Lockout: time.Duration(a.Lockout),
		Most: [abuse.Kinds]int{
			abuse.Fruitless: a.Connections, abuse.Refused: a.RefusedCommands,
			abuse.Unknown: a.UnknownRecipients, abuse.Login: a.FailedLogins,
		},
	}
}

// How often nodes tell each other what they have seen of clients, in so many
// messages at most.
const (
	shareEvery = 500 * time.Millisecond
	shareMost  = 4
)

// Share tells the other nodes, until ctx ends, what this one has seen of clients.
func Share(ctx context.Context, table *abuse.Table, tell func([]byte)) {
	t := time.NewTicker(shareEvery)
	defer t.Stop()
	var list []abuse.Delta
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		for range shareMost {
			if list = table.Deltas(list[:0], abuse.Batch); len(list) == 0 {
				break
			}
			tell(abuse.Encode(list))
		}
	}
}

// Heard takes in what another node told by Share. What is no such message, a
// later version's, is not heard.
func Heard(table *abuse.Table, text []byte) {
	if list, err := abuse.Decode(text); err == nil {
		table.Merge(list)
	}
}
