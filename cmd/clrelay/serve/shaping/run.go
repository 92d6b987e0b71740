package shaping

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/clrelay/clrelay/cluster"
	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/delivery/shape"
	"github.com/clrelay/clrelay/delivery/site"
	"github.com/clrelay/clrelay/delivery/smtpc"
	config "github.com/clrelay/clrelay/internal/config/shaping"
	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/maillog"
	"github.com/clrelay/clrelay/internal/metrics"
	"github.com/clrelay/clrelay/proto/control"
)

// group is what is asked of a node's cluster.
type group interface {
	// Leads tells whether this node leads it.
	Leads() bool
	// Size is how many nodes it has.
	Size() int
}

// fellows is a cluster.
type fellows struct{ *cluster.Node }

// Size is of group.
func (f fellows) Size() (n int) {
	f.Read(func(s *fsm.State) {
		for _, node := range s.Nodes() {
			if node.State != fsm.Removed {
				n++
			}
		}
	})
	return n
}

// Options say what it works with.
type Options struct {
	Node     string
	Settings *config.Shaping
	Resolver site.Resolver
	// Obey puts limits into force, in the place of those it had before.
	Obey func([]limit.Definition) error
	// PerDestination is how many connections a node opens at most.
	PerDestination func() int
	Log            *slog.Logger
	Mail           *maillog.Log
	Metrics        *metrics.Shaping
}

// Shaping is what a relay knows of destinations. Until Start it knows the
// settings alone.
type Shaping struct {
	Sites *site.Sites

	o      Options
	book   atomic.Pointer[shape.Book]
	shaper atomic.Pointer[shape.Shaper]
}

// alone is the group of a machine that is in no cluster.
type alone struct{}

func (alone) Leads() bool { return true }
func (alone) Size() int   { return 1 }

// New reads the settings.
func New(o Options) (*Shaping, error) {
	book, names, err := Rules(o.Settings)
	if err != nil {
		return nil, err
	}
	s := &Shaping{o: o, Sites: site.New(site.Options{Resolver: o.Resolver, Names: names})}
	s.book.Store(book)
	return s, nil
}

// Start begins with what the records hold. member is nil on a machine that is
// alone.
func (s *Shaping) Start(records shape.Store, member *cluster.Node) {
	var c group = alone{}
	if member != nil {
		c = fellows{member}
	}
	s.shaper.Store(shape.Start(shape.Setup{
		Core:  shape.Options{Node: s.o.Node, Nodes: c.Size, Ceiling: func() int { return s.o.PerDestination() * max(1, c.Size()) }},
		Store: records, Book: s.book.Load(), Leads: c.Leads, Log: s.o.Log, Obey: s.o.obey, Tell: s.o.tell,
	}))
}

// Close ends it; a nil Shaping has not begun.
func (s *Shaping) Close() {
	if s == nil {
		return
	}
	if sh := s.shaper.Load(); sh != nil {
		sh.Close()
	}
}

// obey hands limits on, and counts what was learned.
func (o *Options) obey(list []limit.Definition) {
	learned, suspended := 0, 0
	for i := range list {
		if d := &list[i]; d.Author == shape.Author && !d.Until.IsZero() {
			learned++
			if d.Suspended && len(d.Match[limit.RecipientDomain])+len(d.Match[limit.Source]) == 0 {
				suspended++
			}
		}
	}
	o.Metrics.Limited.Set(float64(learned))
	o.Metrics.Suspended.Set(float64(suspended))
	if err := o.Obey(list); err != nil {
		o.Log.Error("limits that were set or learned are not in force", "error", err)
	}
}

func (o *Options) tell(n shape.Note) {
	o.Metrics.Learned.Inc(string(n.Kind))
	o.Mail.Shaped(n.Site, string(n.Kind), n.Text)
	o.Log.Info("shaping", "site", n.Site, "change", n.Text)
}

// Reload puts other settings into force.
func (s *Shaping) Reload(c *config.Shaping) error {
	book, names, err := Rules(c)
	if err != nil {
		return err
	}
	s.book.Store(book)
	if sh := s.shaper.Load(); sh != nil {
		sh.SetBook(book)
	}
	s.Sites.Rename(names)
	return nil
}

// Site is whoever runs the hosts of a next hop.
func (s *Shaping) Site(ctx context.Context, hop mail.NextHop) string { return s.Sites.Site(ctx, hop) }

// SiteOf is Site for a destination by its name, without asking the DNS: where the
// site is not remembered it is the domain.
func (s *Shaping) SiteOf(lane string) string {
	lane, _, _ = strings.Cut(lane, ";")
	kind, name, ok := strings.Cut(lane, ":")
	switch {
	case !ok:
		return lane
	case kind == "mx":
		if site, ok := s.Sites.Known(name); ok {
			return site
		}
	case kind == "smarthost", kind == "lmtp":
		first, _, _ := strings.Cut(name, ",")
		if host, port, err := net.SplitHostPort(first); err == nil {
			n, _ := strconv.ParseUint(port, 10, 16) // a lane's name has numbers
			return site.Host(mail.HostPort{Name: host, Port: uint16(n)})
		}
	}
	return name
}

// Heard takes what a host said. It does not wait for anything.
func (s *Shaping) Heard(w *delivery.Word) {
	open := w.Open
	switch w.Stage {
	case smtpc.StageConnect, smtpc.StageGreeting, smtpc.StageHello, smtpc.StageTLS, smtpc.StageAuth:
		open++ // one that did not come about is no longer counted
	}
	if sh := s.shaper.Load(); sh != nil {
		sh.Heard(&shape.Word{
			Site: w.Site, Domain: w.Domain, Source: w.Source, Stage: string(w.Stage), Reply: w.Reply, OK: w.OK, Took: w.Took, Open: open,
		})
	}
}

// Wait gives how long a message that a site has answered so is not to be tried
// again; 0: the rules do not say.
func (s *Shaping) Wait(site string, at smtpc.Stage, reply *mail.Reply) time.Duration {
	if b := s.book.Load(); b != nil {
		return b.Wait(site, string(at), reply)
	}
	return 0
}

// Shape tells how many messages a connection to a site may carry; ok is false
// where the configuration says it.
func (s *Shaping) Shape(at string) (messages int, ok bool) {
	sh := s.shaper.Load()
	if sh == nil {
		return 0, false
	}
	messages = sh.ConnMessages(at)
	return messages, messages > 0
}

// Book gives the rules in force.
func (s *Shaping) Book() *shape.Book { return s.book.Load() }

// List gives all sites that something was learned of.
func (s *Shaping) List() []shape.Listed {
	if sh := s.shaper.Load(); sh != nil {
		return sh.List()
	}
	return nil
}

// Stated is a limit in force.
type Stated struct {
	limit.Definition
	Origin       string // configured, set, shipped or learned
	ConnMessages int
}

// Origins of limits.
const (
	Configured = "configured"
	Set        = "set"
	Shipped    = "shipped"
	Learned    = "learned"
)

// Known is what is known of destinations; delivery/shape's Shaper.
type Known interface {
	Book() *shape.Book
	List() []shape.Listed
}

// Kept are all records of a prefix.
type Kept interface {
	Records(prefix string) []control.Record
}

// InForce gives what was set, and what is known of providers and was learned, as
// far as it does not yield to what was set.
func InForce(known Known, kept Kept, now time.Time) (list []Stated) {
	for _, r := range kept.Records(shape.Orders) {
		name := strings.TrimPrefix(r.Key, shape.Orders)
		d, err := shape.ParseOrder(name, r.Value)
		if err != nil {
			d = limit.Definition{Name: name, Reason: fmt.Sprintf("it cannot be read, and limits nothing: %v", err)}
		}
		if d.Until.IsZero() || d.Until.After(now) {
			list = append(list, Stated{Definition: d, Origin: Set})
		}
	}
	orders := make([]limit.Definition, 0, len(list))
	for i := range list {
		orders = append(orders, list[i].Definition)
	}
	yields := func(s Stated) {
		left, ok := shape.Yield(s.Definition, orders, now)
		if s.Definition = left; ok || s.ConnMessages > 0 {
			list = append(list, s)
		}
	}
	for _, d := range defaults(known.Book()) {
		yields(d)
	}
	for _, l := range known.List() {
		for _, d := range l.Definitions(l.Site) {
			yields(Stated{Definition: d.Definition, Origin: Learned, ConnMessages: d.ConnMessages})
		}
	}
	return list
}

// defaults are the limits of a Book.
func defaults(b *shape.Book) (list []Stated) {
	for _, d := range b.Defaults() {
		def, _ := d.Definition()
		origin := Configured
		if d.Shipped {
			origin = Shipped
		}
		list = append(list, Stated{Definition: def, Origin: origin, ConnMessages: d.ConnMessages})
	}
	return list
}
