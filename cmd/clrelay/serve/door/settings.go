package door

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/clrelay/clrelay/cluster/limit/alone"
	"github.com/clrelay/clrelay/internal/abuse"
	"github.com/clrelay/clrelay/internal/config"
	"github.com/clrelay/clrelay/internal/limit/local"
	"github.com/clrelay/clrelay/internal/overload"
)

// Parts are a Door and what it asks. Others are heard before there is a Door.
type Parts struct {
	Door  *Door
	Abuse *abuse.Table
	Gate  *overload.Gate
	Log   *slog.Logger
}

// Configure puts settings into force.
func (p *Parts) Configure(c *config.Cluster) {
	p.Door.Configure(rulesOf(c))
	p.Gate.Configure(time.Duration(c.Receive.Overload.Target))
	p.Abuse.Configure(abuseOf(c.Receive.Abuse))
}

// Heard takes in what another node has seen of clients.
func (p *Parts) Heard(text []byte) { Heard(p.Abuse, text, p.Log) }

// Begin gives a machine that is alone all of every limit, with its budgets kept
// in dir. In a cluster, where whisper reaches the other nodes, these divide the
// limits, and are told how clients behave. end ends it.
func Begin(dir string, limits *local.Limiter, table *abuse.Table, whisper func([]byte), log *slog.Logger) (end func(), err error) {
	run := func(ctx context.Context) { Share(ctx, table, whisper) }
	if whisper == nil {
		m, err := alone.Open(dir, limits, log)
		if err != nil {
			return nil, fmt.Errorf("limits: %w", err)
		}
		run = func(ctx context.Context) {
			if err := m.Run(ctx); err != nil {
				log.Warn("limits: the file of budgets was not closed cleanly", "error", err)
			}
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		run(ctx)
	}()
	return func() { cancel(); <-done }, nil
}

// rulesOf are the Rules of the settings.
func rulesOf(c *config.Cluster) Rules {
	r := Rules{Classes: map[string]overload.Class{}, Exempt: config.Prefixes(c.Receive.Abuse.Exempt)}
	for _, s := range c.Senders {
		r.Classes[string(s.Name)] = overload.ParseClass(s.Class)
	}
	return r
}

// abuseOf are the rules of the settings about clients that misbehave.
func abuseOf(a config.Abuse) abuse.Rules {
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
// later version's, is not heard. Who is locked out by it is in the log: where
// several nodes counted a part each, none of them locked it out before.
func Heard(table *abuse.Table, text []byte, log *slog.Logger) {
	list, err := abuse.Decode(text)
	if err != nil {
		return
	}
	for _, s := range table.Merge(list) {
		lockedOut(log, s.Client, abuse.Verdict{Out: s.Out, Why: s.Why})
	}
}
