// Package doctor looks for what is wrong with a node and its surroundings
// before it shows in the mail: disk, clock, DNS, limits, certificates,
// listeners, next hops, sources, and the cluster as a whole.
//
// It only judges. What it judges it asks for through small interfaces, which
// cmd fills in from the machine, so that tests can have a full disk, a wrong
// clock and a lying resolver. It changes nothing. What others see of our
// domains (SPF, DKIM) is not looked at; of sources, their reverse DNS is.
package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"sort"
	"sync"
	"time"
)

// Level says how bad a finding is.
type Level uint8

// The levels, from good to bad.
const (
	OK      Level = iota + 1
	Unknown       // it could not be found out
	Warn          // it works, and may not for long
	Fail          // mail suffers, or will at the next failure
)

// Finding is one thing that was looked at.
type Finding struct {
	Level Level
	Check string // disk, fsync, clock ...
	Text  string
	Fix   string // what to do; empty where nothing is to be done
}

func ok(check, format string, args ...any) Finding {
	return Finding{Level: OK, Check: check, Text: fmt.Sprintf(format, args...)}
}

func unknown(check, format string, args ...any) Finding {
	return Finding{Level: Unknown, Check: check, Text: fmt.Sprintf(format, args...)}
}

// but makes a finding a bad one, with what to do.
func (f Finding) but(l Level, fix string, args ...any) Finding {
	f.Level, f.Fix = l, fmt.Sprintf(fix, args...)
	return f
}

// Disk is the disk under data_dir.
type Disk interface {
	// Space tells how many octets are free and there.
	Space() (free, size uint64, err error)
	// Sync writes a little and syncs it, n times, and tells how long each took.
	Sync(ctx context.Context, n int) ([]time.Duration, error)
}

// Clock is the machine's.
type Clock interface {
	// Synchronised tells whether the kernel holds the clock for right; known is
	// false where it does not say.
	Synchronised() (yes, known bool)
}

// DNS is the relay's resolver.
type DNS interface {
	// Exists asks for the addresses of a name. An error is no answer.
	Exists(ctx context.Context, name string) (bool, error)
	// Addrs gives the addresses of a name, none if it does not exist.
	Addrs(ctx context.Context, name string) ([]netip.Addr, error)
	// Names gives the names of an address, none if it has none.
	Names(ctx context.Context, a netip.Addr) ([]string, error)
}

// Net reaches others.
type Net interface {
	// Dial connects and closes.
	Dial(ctx context.Context, addr string) error
	// Greeting connects and reads the first line; with TLS from the start
	// where implicit is true.
	Greeting(ctx context.Context, addr string, implicit bool) (string, error)
}

// Facts are what is simply there to be read.
type Facts struct {
	NotReady    string // why the node takes no mail; empty when it does
	Draining    bool
	Reserve     uint64 // spool.reserve
	Files       Limit  // descriptors
	FilesNeeded uint64 // for all connections that the configuration allows
	Memory      Limit  // of the control group; no Max: none
	FsyncCount  uint64 // since the process started
	FsyncP50    time.Duration
	FsyncP99    time.Duration
	Imbalance   int64  // messages that the books do not know of
	LogLost     uint64 // lines of the log
	Warnings    []string
	Rejected    string // why a version of the configuration is not in force
	Listeners   []Listener
	Smarthosts  []string // host:port of routes
	Peers       []Peer   // SMTP ports of other nodes
	Certs       []Cert
	Kernel      []Setting
	Sources     []Source
}

// Limit is something of which there is only so much.
type Limit struct{ Used, Max uint64 }

// Listener is a port that the node takes mail on.
type Listener struct {
	Addr     string
	Implicit bool // TLS from the start
	Proxy    bool // it wants a PROXY header of everybody here
}

// Peer is a listener of another node.
type Peer struct{ Node, Addr string }

// Cert is a certificate that the node shows or trusts.
type Cert struct {
	What      string // node, ca, listener :25
	File      string
	NotBefore time.Time
	NotAfter  time.Time
	BadName   string // the name it should have and has not
	Err       error
	Renew     string // how to get a new one
}

// Source is an own address that mail may leave from.
type Source struct {
	Name  string
	Addr  netip.Addr
	Hello string // what EHLO says from there
	Err   error  // the machine does not have it
}

// Setting is one of the kernel's.
type Setting struct {
	Name string
	Got  int64
	Want int64 // at least
	Why  string
}

// Node examines one node.
type Node struct {
	Disk  Disk
	Clock Clock
	DNS   DNS
	Net   Net
	Trend *Trend
	Now   func() time.Time
	Facts func() Facts
}

// wait bounds each thing that is asked of others.
const wait = 5 * time.Second

// Examine makes all checks, those that wait for others at the same time.
func (n *Node) Examine(ctx context.Context) []Finding {
	facts := n.Facts()
	checks := []func(context.Context) []Finding{
		func(context.Context) []Finding { return service(&facts) },
		func(context.Context) []Finding { return n.space(&facts) },
		func(ctx context.Context) []Finding { return n.fsync(ctx, &facts) },
		func(context.Context) []Finding { return limits(&facts) },
		func(context.Context) []Finding { return n.clock() },
		n.dns,
		func(ctx context.Context) []Finding { return n.listeners(ctx, &facts) },
		func(ctx context.Context) []Finding { return n.peers(ctx, &facts) },
		func(ctx context.Context) []Finding { return n.smarthosts(ctx, &facts) },
		func(ctx context.Context) []Finding { return n.sources(ctx, &facts) },
		func(context.Context) []Finding { return n.certs(&facts) },
		func(context.Context) []Finding { return kernel(&facts) },
		func(context.Context) []Finding { return configuration(&facts) },
	}
	out := make([][]Finding, len(checks))
	var group sync.WaitGroup
	for i, check := range checks {
		group.Go(func() { out[i] = check(ctx) })
	}
	group.Wait()
	var all []Finding
	for _, f := range out {
		all = append(all, f...)
	}
	return all
}

// Trend remembers how much space was free, to tell when there will be none.
type Trend struct {
	mu      sync.Mutex
	samples []sample
}

type sample struct {
	at   time.Time
	free uint64
}

// kept is how many samples are: with one a minute those of six hours.
const kept = 360

// Add notes what is free now.
func (t *Trend) Add(now time.Time, free uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.samples) == kept {
		t.samples = append(t.samples[:0], t.samples[1:]...)
	}
	t.samples = append(t.samples, sample{now, free})
}

// Rate tells how many octets a second went, over how long; span is 0 while
// that is too short to say anything.
func (t *Trend) Rate() (perSecond float64, span time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.samples) < 10 {
		return 0, 0
	}
	first, last := t.samples[0], t.samples[len(t.samples)-1]
	span = last.at.Sub(first.at)
	if span < 10*time.Minute {
		return 0, 0
	}
	return (float64(first.free) - float64(last.free)) / span.Seconds(), span
}

// percentile gives a value that q of all are not above.
func percentile(all []time.Duration, q float64) time.Duration {
	if len(all) == 0 {
		return 0
	}
	s := append([]time.Duration(nil), all...)
	sort.Slice(s, func(i, j int) bool { return s[i] < s[j] })
	return s[min(len(s)-1, int(q*float64(len(s))))]
}
