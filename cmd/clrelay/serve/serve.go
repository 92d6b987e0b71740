package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/clrelay/clrelay/cmd/clrelay/serve/back"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/bundle"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/enrol"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/examine"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/routing"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/sources"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/taking"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/watch"
	"github.com/clrelay/clrelay/internal/config"
	"github.com/clrelay/clrelay/internal/dnsx"
	"github.com/clrelay/clrelay/internal/maillog"
	"github.com/clrelay/clrelay/internal/metrics"
	"github.com/clrelay/clrelay/internal/sdnotify"
)

// patience is how long the relay takes for its end at most.
type patience struct {
	sessions   time.Duration // running transactions
	deliveries time.Duration // running deliveries
	requests   time.Duration // requests to the admin socket and over HTTP
}

// Options are what Run takes from the process.
type Options struct {
	Config   string // path of node.yaml
	Join     string // a token and where to use it, on a machine that has no certificate
	JoinFile string // that holds one
	Version  string
	Stdout   io.Writer // the log of messages
	Stderr   io.Writer // everything else
	Getenv   func(string) string
	// Exit ends the process at once; os.Exit.
	Exit func(code int)
}

// Run is the relay from its start to its end, which SIGTERM, SIGINT or the end
// of ctx bring about. The error is nil after such an end; where a server of the
// relay ended by itself it says why, so that systemd starts the relay again.
func Run(ctx context.Context, o Options) error {
	ctx, cancel := signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
	defer cancel()
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)

	if err := enrol.Join(ctx, enrol.Asked{Config: o.Config, Join: o.Join, File: o.JoinFile, Stderr: o.Stderr}); err != nil {
		return err
	}
	s, err := load(o.Config)
	if err != nil {
		return err
	}
	r := newRelay(o, s)
	defer r.maillog.Close()
	defer r.watch.Close()
	defer r.doctor.Close()
	r.warn(s.warnings())
	r.warnOfFiles(s.cluster)
	started := r.endWhileStarting(ctx)
	err = r.start()
	started()
	if err != nil {
		r.log.Error("the relay does not start", "error", err)
		r.stop()
		return err
	}
	err = r.run(ctx, reload)
	return errors.Join(err, r.stop())
}

// relay is the process: all parts and how they stand.
type relay struct {
	o       Options
	current atomic.Pointer[settings] // replaced by reload
	log     *slog.Logger
	level   slog.LevelVar
	maillog *maillog.Log
	metrics *metrics.Metrics
	watch   *watch.Watch
	doctor  *examine.Doctor
	levels  *bundle.Levels
	tails   [2]*bundle.Tail // of the log of messages, and of everything else
	notify  sdnotify.Notifier
	started time.Time
	wait    patience

	parts  parts
	routes routes
	pools  sources.Pools
	// resolver is asked by deliveries and by the doctor.
	resolver *dnsx.Resolver
	state    atomic.Int32
	broken   atomic.Pointer[error]
	failed   chan error // servers that ended by themselves

	applying sync.Mutex  // settings come from a reload and from the cluster
	drained  atomic.Bool // clients are told 421 because the cluster drains this node

	versions atomic.Pointer[versions] // of the cluster's configuration
}

// The states of a relay, in their order.
const (
	starting = iota
	serving
	draining
)

// keptLog is how many octets of each log are kept for a bundle.
const keptLog = 256 << 10

func newRelay(o Options, s *settings) *relay {
	r := &relay{
		o: o, metrics: metrics.New(), watch: watch.New(), doctor: examine.New(string(s.node.DataDir)), started: time.Now(),
		notify: sdnotify.New(o.Getenv, os.Getpid()),
		wait:   patience{sessions: 30 * time.Second, deliveries: 30 * time.Second, requests: 2 * time.Second},
		failed: make(chan error, 16),
	}
	r.tails = [2]*bundle.Tail{bundle.NewTail(o.Stdout, keptLog), bundle.NewTail(o.Stderr, keptLog)}
	r.levels = &bundle.Levels{Level: &r.level, Configured: func() string { return r.conf().node.Log.Level }}
	o.Stdout, o.Stderr = r.tails[0], r.tails[1]
	r.current.Store(s)
	r.versions.Store(&versions{})
	r.setLevel()
	json := s.node.Log.Format == "json"
	handler := &slog.HandlerOptions{Level: &r.level}
	if json {
		r.log = slog.New(slog.NewJSONHandler(o.Stderr, handler))
	} else {
		r.log = slog.New(slog.NewTextHandler(o.Stderr, handler))
	}
	r.log = r.log.With("node", string(s.node.Name))
	r.maillog = maillog.New(o.Stdout, maillog.Options{JSON: json, Node: string(s.node.Name), Debug: s.node.Log.Level == "debug"})
	return r
}

// conf gives the settings in force.
func (r *relay) conf() *settings { return r.current.Load() }

func (r *relay) setLevel() {
	// The configuration lets the four names pass and nothing else.
	_ = r.level.UnmarshalText([]byte(r.conf().node.Log.Level))
}

func (r *relay) warn(ws config.Errors) {
	for _, w := range ws {
		r.log.Warn("configuration", "warning", w.Error())
	}
}

// endWhileStarting ends the process when ctx ends before the relay has
// started. A start may take long, and an end within it costs nothing: it took
// no mail, and what the spool holds is as safe as in a power failure.
func (r *relay) endWhileStarting(ctx context.Context) (started func() bool) {
	return context.AfterFunc(ctx, func() {
		if r.state.Load() == starting {
			r.log.Info("the relay ends before it has started")
			_ = r.maillog.Close() // a stuck reader of it is no reason to stay
			r.o.Exit(0)
		}
	})
}

// ownFiles is what the relay opens besides connections, with room to spare.
const ownFiles = 200

// warnOfFiles warns of a limit of open files that the allowed connections are
// over: at that limit nobody is let in, the health endpoints and the admin
// socket included.
func (r *relay) warnOfFiles(c *config.Cluster) {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return // it cannot be told
	}
	if need := uint64(c.Receive.MaxConnections + c.Deliver.MaxConnections + ownFiles); limit.Cur < need {
		r.log.Warn("the limit of open files is below receive.max_connections and deliver.max_connections together: raise it (LimitNOFILE in systemd) or lower them",
			"limit", limit.Cur, "needed", need)
	}
}

// run waits for the end, reloading meanwhile. The error is that of a server
// that ended by itself.
func (r *relay) run(ctx context.Context, reload <-chan os.Signal) error {
	go sources.Daily(ctx, r.renewLimits)
	go r.followLimits(ctx)
	r.tell(r.notify.Ready("taking mail"))
	r.log.Info("the relay takes mail", "version", r.o.Version, "smtp", r.parts.addresses(), "data_dir", string(r.conf().node.DataDir))
	var watchdog <-chan time.Time
	if every := r.notify.WatchdogEvery(); every > 0 {
		t := time.NewTicker(every)
		defer t.Stop()
		watchdog = t.C
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-r.failed:
			r.log.Error("a server of the relay ended", "error", err)
			return err
		case <-reload:
			r.reload()
		case <-watchdog:
			r.tell(r.notify.Watchdog())
		}
	}
}

// tell logs a message to systemd that did not get through.
func (r *relay) tell(err error) {
	if err != nil {
		r.log.Warn("systemd could not be told", "error", err)
	}
}

// fatal is the end of a process whose spool can't keep its word: nothing may
// be answered or recorded after it. What the log holds is written first, for
// it says why.
func (r *relay) fatal(err error) {
	r.broken.Store(&err)
	r.log.Error("the spool failed: the process ends at once, and nothing it accepted is lost", "error", err)
	_ = r.maillog.Close() // a stuck reader of it is no reason to stay
	r.o.Exit(1)
}

// reload reads the configuration and the certificates again. What cannot be
// changed while the process runs is named; a wrong file changes nothing.
func (r *relay) reload() {
	r.tell(r.notify.Reloading())
	defer func() { r.tell(r.notify.Ready("taking mail")) }()
	if err := r.reloadAll(); err != nil {
		r.metrics.Reloads.Inc("failed")
		r.log.Error("reload: nothing was changed", "error", err)
		return
	}
	r.metrics.Reloads.Inc("ok")
	r.log.Info("reload: done")
}

func (r *relay) reloadAll() error {
	s, err := load(r.o.Config)
	if err != nil {
		return err
	}
	if r.parts.member != nil {
		s.cluster = r.conf().cluster // the cluster's own; the file was read at its birth
		if err := r.parts.identity.Reload(); err != nil {
			return err
		}
		r.parts.enrol.Plane.Keeper.Kick()
	}
	return r.apply(s)
}

// apply puts settings into force, all or none.
func (r *relay) apply(s *settings) error {
	r.applying.Lock()
	defer r.applying.Unlock()
	table, err := routing.Table(s.cluster)
	if err != nil {
		return err
	}
	paths, err := back.Settings(s.cluster)
	if err != nil {
		return err
	}
	before := r.conf()
	later := append(config.NeedsRestart(before.node, s.node), config.ClusterNeedsRestart(before.cluster, s.cluster)...)
	config.Keep(before.node, s.node)
	config.KeepCluster(before.cluster, s.cluster)
	// Certificates are checked by their loading; each keeps its old pair on an
	// error. They come first: after them nothing can fail.
	var errs []error
	for _, c := range r.parts.certs {
		errs = append(errs, c.Reload())
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := r.parts.policy.Reload(s.policy()); err != nil {
		return fmt.Errorf("senders, domains: %w", err)
	}
	if err := r.parts.limits.Configure(sources.Limits(s.cluster, time.Now())); err != nil {
		return fmt.Errorf("limits: %w", err)
	}
	if err := r.parts.shaping.Reload(&s.cluster.Shaping); err != nil {
		return err
	}
	r.current.Store(s)
	r.setLevel()
	r.warn(s.warnings())
	r.routes.set(table)
	r.parts.returns.Set(paths)
	r.parts.known.Configure(s.cluster)
	r.pools.Configure(s.node, s.cluster, r.log)
	r.parts.smtp.Reload(taking.Limits(s.cluster))
	r.parts.guard.Configure(s.cluster)
	r.parts.queue.Configure(s.schedule(), s.mailboxes())
	r.parts.traces.Log.Configure(s.traces())
	for _, key := range later {
		r.log.Warn("reload: this setting takes a restart", "setting", key)
	}
	return nil
}
