// Package world is what the demo shows: relays as processes of their own, the
// network between them, a front that spreads clients over them, a DNS server
// that knows a few invented domains, and the mail of package post.
//
// Nothing leaves the machine: every address is on loopback. New prepares all,
// Start runs it, and the methods of World hurt and heal nodes. They may be
// called by any goroutine, but one at a time for a node.
package world

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clrelay/clrelay/cmd/clrelay/demo/world/post"
	"github.com/clrelay/clrelay/internal/dnsx/dnstest"
)

// Options say what world to make.
type Options struct {
	Binary string  // the clrelay binary that the nodes run
	Nodes  int     // 1: a relay on its own; 3: a cluster
	Rate   float64 // messages a second
}

// MaxNodes is how many nodes a world can grow to.
const MaxNodes = 5

const (
	sessions     = 8 // clients of the load
	lookEvery    = 200 * time.Millisecond
	compareEvery = time.Second
	// patience is how long a message may be in no queue before it is called
	// lost: a takeover takes 5 to 7 s, a node that starts reads its log.
	patience      = 20 * time.Second
	patienceAlone = 3 * time.Second
	newsMax       = 200
)

// World is everything that the demo starts.
type World struct {
	o      Options
	dir    string
	inbox  *post.Inbox
	dns    interface{ Close() error }
	dnsAt  string
	links  *links
	front  *front
	load   *post.Load
	ledger *post.Ledger
	start  time.Time
	chosen atomic.Int64 // the place of the chosen node, from 1

	ctx   context.Context
	stop  context.CancelFunc
	group sync.WaitGroup

	mu       sync.Mutex
	nodes    []*Node
	founders [][2]string // their ports: between nodes, gossip
	news     []News
	lit      bool // the lighthouse works
	failed   chan error
	loadStop context.CancelFunc
	loadCut  context.CancelFunc
	loadDone chan struct{}
}

// News is one thing that happened.
type News struct {
	At   time.Duration // since Start
	Text string
}

// New makes certificates, configuration and everything around the relays.
func New(o Options) (_ *World, err error) {
	w := &World{o: o, failed: make(chan error, MaxNodes), start: time.Now()}
	w.ledger = post.NewLedger(patience)
	if o.Nodes == 1 {
		w.ledger = post.NewLedger(patienceAlone)
	}
	w.ctx, w.stop = context.WithCancel(context.Background())
	w.links = newLinks()
	w.links.owner = w.ownerOf
	defer func() {
		if err != nil {
			w.Close()
		}
	}()
	if w.dir, err = os.MkdirTemp("", "clrelay-demo-"); err != nil {
		return nil, fmt.Errorf("demo: %w", err)
	}
	if w.inbox, err = post.NewInbox(w.ledger); err != nil {
		return nil, err
	}
	if err := w.startDNS(); err != nil {
		return nil, err
	}
	if err := w.found(); err != nil {
		return nil, err
	}
	addr := w.nodes[0].SMTP
	if o.Nodes > 1 {
		if w.front, err = newFront(w.Nodes); err != nil {
			return nil, err
		}
		addr = w.front.ln.Addr().String()
	}
	w.load = post.NewLoad(addr, w.ledger, o.Rate)
	return w, nil
}

// startDNS serves the invented domains: each has one MX host, and the home
// domain is served by the inbox as well.
func (w *World) startDNS() error {
	zone := dnstest.Zone{}
	for _, d := range append([]post.Domain{{Name: post.HomeDomain, Host: "127.0.0.1"}}, post.Domains...) {
		if d.Host == "" {
			continue
		}
		zone[d.Name] = dnstest.Name{MX: []dnstest.MX{{Pref: 10, Host: "mx." + d.Name}}}
		zone["mx."+d.Name] = dnstest.Name{A: []string{d.Host}}
	}
	s, err := dnstest.Start(zone)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	w.dns, w.dnsAt = s, s.Addr().String()
	return nil
}

// Start runs the nodes, waits until each takes mail, and lets the load begin.
func (w *World) Start(ctx context.Context) error {
	for _, n := range w.Nodes() {
		if err := n.start(); err != nil {
			return err
		}
		w.group.Go(func() { w.watch(n) })
	}
	for _, n := range w.Nodes() {
		if err := w.awaitReady(ctx, n, 30*time.Second); err != nil {
			return err
		}
	}
	w.News() // that they started is none
	w.start = time.Now()
	w.group.Go(w.keepBooks)
	loadCtx, stop := context.WithCancel(w.ctx)
	drainCtx, cut := context.WithCancel(w.ctx)
	w.loadStop, w.loadCut, w.loadDone = stop, cut, make(chan struct{})
	go func() { defer close(w.loadDone); w.load.Run(loadCtx, drainCtx, sessions) }()
	return nil
}

// Settle ends the load, mends what is broken and waits until the books are
// even or ctx ends; then the last account is drawn up.
func (w *World) Settle(ctx context.Context) {
	w.loadStop()
	if w.o.Nodes > 1 {
		w.Light()
	}
	tick := time.NewTicker(compareEvery / 4)
	defer tick.Stop()
	for {
		// Without a queue's answer the last one counts.
		whole := w.compare(ctx)
		s := w.Sums()
		done := w.load.Waiting() == 0
		if done && whole && s.Even() && (s.Queued == 0 || w.o.Nodes == 1) {
			break
		}
		select {
		case <-ctx.Done():
			w.loadCut()
			<-w.loadDone
			w.ledger.Close()
			return
		case <-tick.C:
		}
	}
	w.loadCut()
	<-w.loadDone
	for _, n := range w.Nodes() {
		n.see(ctx) // the counts of duplicates
	}
}

// keepBooks holds the ledger against the queues.
func (w *World) keepBooks() {
	tick := time.NewTicker(compareEvery)
	defer tick.Stop()
	for {
		select {
		case <-w.ctx.Done():
			return
		case <-tick.C:
			w.compare(w.ctx)
		}
	}
}

// compare asks all nodes for their queues. It tells whether all that run
// answered.
func (w *World) compare(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	queue, whole := map[string]bool{}, true
	for _, n := range w.Nodes() {
		if l := n.Look(); !l.Running || l.Paused {
			continue
		}
		if err := n.queued(ctx, queue); err != nil {
			whole = false
		}
	}
	w.ledger.Compare(queue, time.Now())
	return whole
}

// Holds tells whether a node has mail for a domain in its queue.
func (w *World) Holds(ctx context.Context, n *Node, domain string) bool {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	queue := map[string]bool{}
	_ = n.queued(ctx, queue) // what it did say counts
	for e := range queue {
		if strings.HasSuffix(e, "@"+domain) {
			return true
		}
	}
	return false
}

// Sums gives the ledger.
func (w *World) Sums() post.Sums { return w.ledger.Sum() }

// Adopted says what other nodes delivered of what a node had accepted.
func (w *World) Adopted(node string) post.Adopted { return w.ledger.AdoptedFrom(node) }

// Missing names some of what no queue knows.
func (w *World) Missing() []string { return w.ledger.Missing() }

// Waiting counts the messages that clients still have.
func (w *World) Waiting() int { return w.load.Waiting() }

// Counted gives the possible duplicates that all nodes counted.
func (w *World) Counted() int {
	sum := 0.0
	for _, n := range w.Nodes() {
		sum += n.Look().Duplicates
	}
	return int(sum)
}

// Tally says what the server of a domain said.
func (w *World) Tally(domain string) post.Tally { return w.inbox.Tally(domain) }

// Address is where clients hand in mail.
func (w *World) Address() string { return w.load.Addr }

// Dir is the folder of it all.
func (w *World) Dir() string { return w.dir }

// Elapsed is the time since Start.
func (w *World) Elapsed() time.Duration { return time.Since(w.start) }

// Nodes gives all nodes, in order of their names.
func (w *World) Nodes() []*Node {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.nodes)
}

// Failed hears of a node that ended by itself.
func (w *World) Failed() <-chan error { return w.failed }

// Say notes something that happened.
func (w *World) Say(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.news = append(w.news, News{At: time.Since(w.start), Text: fmt.Sprintf(format, args...)})
	if len(w.news) > newsMax {
		w.news = slices.Clone(w.news[newsMax/2:])
	}
}

// News takes the things that happened since the last call.
func (w *World) News() []News {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.news
	w.news = nil
	return out
}

// Light lets the lighthouse's server work again.
func (w *World) Light() {
	w.mu.Lock()
	lit := w.lit
	w.lit = true
	w.mu.Unlock()
	if lit {
		return
	}
	if err := w.inbox.Also(post.DeadHost); err != nil {
		w.Say("the lighthouse cannot be repaired: %v", err)
		return
	}
	w.Say("the server of %s works again: the mail that waited for it is delivered", post.Domains[post.Lighthouse].Name)
}

// Stop ends all nodes as systemd would.
func (w *World) Stop() error {
	var first error
	for _, n := range w.Nodes() {
		if err := n.end(termSignal); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// Close ends everything and deletes it.
func (w *World) Close() {
	w.stop()
	if w.loadDone != nil {
		<-w.loadDone
	}
	for _, n := range w.Nodes() {
		_ = n.end(killSignal) // its end has been reported where it mattered
		if n.conn != nil {
			n.conn.Close()
		}
	}
	w.group.Wait()
	w.links.close()
	if w.front != nil {
		w.front.ln.Close()
	}
	if w.inbox != nil {
		w.inbox.Close()
	}
	if w.dns != nil {
		_ = w.dns.Close() // nothing depends on it any more
	}
	if w.dir != "" {
		_ = os.RemoveAll(w.dir) // a temporary folder; the system clears it otherwise
	}
}

// Choose notes which node the keys are about; Chosen gives it, -1 before.
func (w *World) Choose(i int) { w.chosen.Store(int64(i) + 1) }

// Chosen gives the node that was chosen last.
func (w *World) Chosen() int { return int(w.chosen.Load()) - 1 }
