package suppress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/clrelay/clrelay/cluster"
	"github.com/clrelay/clrelay/cluster/fsm/suppressed"
	"github.com/clrelay/clrelay/cluster/ledger"
	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/delivery/returns"
	"github.com/clrelay/clrelay/internal/admin"
	"github.com/clrelay/clrelay/internal/admin/suppress"
	"github.com/clrelay/clrelay/internal/config"
	"github.com/clrelay/clrelay/internal/ledger/suppressions"
	"github.com/clrelay/clrelay/internal/metrics"
	"github.com/clrelay/clrelay/internal/vfs"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
	"github.com/clrelay/clrelay/proto/control"
	"github.com/clrelay/clrelay/smtpd"
)

// Options say whose list it is.
type Options struct {
	DataDir string
	Member  *cluster.Node // nil on a machine that is alone
	Ours    func(domain string) bool
	Conf    func() *config.Cluster
	Refusal func(err error, what string) error // makes errors of the cluster those of the admin API
	Metrics *metrics.SMTP
	Log     *slog.Logger
}

// Part is the suppression list of a relay. Before Open it is empty.
type Part struct {
	o     Options
	list  List
	auto  Auto
	store suppress.Store
	file  *suppressions.File // nil on a node of a cluster
	stop  context.CancelFunc
	group sync.WaitGroup
}

// New makes it; Open opens it.
func New(o Options) *Part {
	p := &Part{o: o, stop: func() {}}
	p.list = List{Ours: o.Ours, Now: time.Now, Metrics: o.Metrics}
	p.auto = Auto{Settings: p.settings, Ours: o.Ours, Now: time.Now, Log: o.Log}
	return p
}

// Open reads the list, before there is mail to hold against it, and begins to
// put on it what bounces.
func (p *Part) Open() error {
	if m := p.o.Member; m != nil {
		p.store = m
	} else {
		file, err := suppressions.Open(vfs.OS(), p.o.DataDir)
		if err != nil {
			return fmt.Errorf("data_dir: %w", err)
		}
		p.file, p.store = file, file
	}
	p.list.Table, p.auto.Store = p.store.Suppressed(), p.store
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	p.group.Go(func() { p.auto.Run(ctx) })
	return nil
}

// Close ends that.
func (p *Part) Close() error {
	p.stop()
	p.group.Wait()
	if p.file != nil {
		return p.file.Close()
	}
	return nil
}

func (p *Part) settings() Settings {
	s := p.o.Conf().Suppression
	return Settings{
		On: s.Automatic != "off", PerSender: s.Automatic == "per_sender", After: s.After,
		Within: time.Duration(s.Within), Expire: time.Duration(s.Expire),
		Complaints: time.Duration(s.Complaints),
	}
}

// Policy is a server's policy with the list behind it.
func (p *Part) Policy(next smtpd.Policy) smtpd.Policy { return p.list.Policy(next) }

// Trial is Policy for questions that are no mail: what it refuses is not counted.
func (p *Part) Trial(next smtpd.Policy) smtpd.Policy {
	quiet := p.list
	quiet.Metrics = nil
	return quiet.Policy(next)
}

// Deliverer delivers to those who are not on the list.
func (p *Part) Deliverer(next queue.Deliverer) queue.Deliverer { return p.list.Deliverer(next) }

// Observer has what bounces put on the list, as far as that is configured.
func (p *Part) Observer(next queue.Observer) queue.Observer { return observer(&p.auto, next) }

// Suppressor is told of what comes back later.
func (p *Part) Suppressor() returns.Suppressor { return &p.auto }

// Len counts the entries.
func (p *Part) Len() int64 { return int64(p.list.Table.Len()) }

// Register puts the list's part of the admin API on a server.
func (p *Part) Register(to grpc.ServiceRegistrar, caller func(context.Context) string) {
	adminv1.RegisterSuppressionServiceServer(to, &suppress.Service{
		Store: p, Caller: caller, Now: time.Now,
		Group: func(name string) bool {
			for _, s := range p.o.Conf().Senders {
				if string(s.Name) == name {
					return true
				}
			}
			return false
		},
	})
}

// Suppressed is of the API's Store.
func (p *Part) Suppressed() *suppressed.Table { return p.list.Table }

// Suppress is of the API's Store: it says in an operator's words why the list was
// not changed.
func (p *Part) Suppress(ctx context.Context, c control.SuppressOps) ([]control.OpResult, error) {
	out, err := p.store.Suppress(ctx, c)
	switch {
	case err == nil:
		return out, nil
	case errors.Is(err, ledger.ErrLevel):
		return nil, admin.RefusedError(err.Error())
	case p.file != nil:
		return nil, fmt.Errorf("%w: %w", admin.ErrUnavailable, err)
	}
	return nil, p.o.Refusal(err, "the suppression list was not changed")
}
