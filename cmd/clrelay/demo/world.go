package demo

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/clrelay/clrelay/internal/dnsx/dnstest"
)

const (
	homeDomain    = "college.test" // where the senders live
	unknownPrefix = "gone."        // local parts that begin with it exist nowhere
)

// domain is one invented domain and how its mail server behaves.
type domain struct {
	name    string
	share   int    // of the recipients, in percent
	unknown int    // percent of its recipients that do not exist
	grey    bool   // turns every recipient away once
	host    string // address of its mail server; empty: no such domain
	what    string
}

// deadHost is an address of loopback on which nothing listens.
const deadHost = "127.0.0.9"

var domains = []domain{
	{name: "harbour.test", share: 45, host: "127.0.0.1", what: "takes everything"},
	{name: "museum.test", share: 20, unknown: 15, host: "127.0.0.1", what: "some recipients do not exist: 550, they bounce"},
	{name: "library.test", share: 20, grey: true, host: "127.0.0.1", what: "greylists: 451 at first, taken at the next attempt"},
	{name: "lighthouse.test", share: 10, host: deadHost, what: "its server is down: the mail waits in the queue"},
	{name: "nowhere.test", share: 5, what: "does not exist in the DNS: bounces"},
}

func find(name string) *domain {
	for i := range domains {
		if domains[i].name == name {
			return &domains[i]
		}
	}
	return nil
}

var (
	people    = []string{"ana", "bo", "carla", "dev", "emeka", "farah", "goran", "hana", "ivo", "june", "kofi", "lena", "mei", "noor", "omar", "priya"}
	subjects  = []string{"Room change on Thursday", "Minutes of the meeting", "Your library loan", "Invoice 4711", "Lunch?", "Exam results", "Re: printer on floor 3", "Boiler inspection", "Welcome to the team", "Night shift"}
	sentences = []string{
		"the seminar has moved to room 204, because the projector in 112 is being repaired.",
		"Please send me the figures for the third quarter before Friday.",
		"..and that is where the story ends, at least for now.",
		"I have put the minutes on the shared drive; corrections until Tuesday, please.",
		"Could you bring the keys for the north entrance?",
		"The ferry leaves at 07:40, the next one only at noon.",
		". A line that begins with a dot arrives as it was written.",
		"Thank you for the quick answer, that settles it.",
	}
)

// world is everything that the demo starts.
type world struct {
	dir    string
	inbox  *inbox
	dns    interface{ Close() error }
	relay  *relay
	load   *load
	ledger *ledger
}

func newWorld(o Options) (_ *world, err error) {
	w := &world{ledger: newLedger()}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if w.dir, err = os.MkdirTemp("", "clrelay-demo-"); err != nil {
		return nil, fmt.Errorf("demo: %w", err)
	}
	if w.inbox, err = newInbox(w.ledger); err != nil {
		return nil, err
	}
	dnsAddr, err := w.startDNS()
	if err != nil {
		return nil, err
	}
	if w.relay, err = newRelay(o.Binary, w.dir, w.inbox.port(), dnsAddr); err != nil {
		return nil, err
	}
	w.load = &load{addr: w.relay.smtp, ledger: w.ledger, rng: rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))}
	return w, nil
}

// startDNS serves the invented domains: each has one MX host, and the home
// domain is served by the inbox as well.
func (w *world) startDNS() (string, error) {
	zone := dnstest.Zone{}
	for _, d := range append([]domain{{name: homeDomain, host: "127.0.0.1"}}, domains...) {
		if d.host == "" {
			continue
		}
		zone[d.name] = dnstest.Name{MX: []dnstest.MX{{Pref: 10, Host: "mx." + d.name}}}
		zone["mx."+d.name] = dnstest.Name{A: []string{d.host}}
	}
	s, err := dnstest.Start(zone)
	if err != nil {
		return "", fmt.Errorf("demo: %w", err)
	}
	w.dns = s
	return s.Addr().String(), nil
}

// check holds the ledger against the relay's queue. It tells whether the relay
// answered.
func (w *world) check(ctx context.Context, now time.Time) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	queue, err := w.relay.queued(ctx)
	if err != nil {
		return false
	}
	w.ledger.compare(queue, now)
	return true
}

func (w *world) close() {
	if w.relay != nil {
		_ = w.relay.stop() // its end has been reported where it mattered
	}
	if w.inbox != nil {
		w.inbox.close()
	}
	if w.dns != nil {
		_ = w.dns.Close() // nothing depends on it any more
	}
	if w.dir != "" {
		_ = os.RemoveAll(w.dir) // a temporary folder; the system clears it otherwise
	}
}
