package delivery

import (
	"context"
	"io"
	"net/netip"
	"strings"

	"github.com/clrelay/clrelay/delivery/ranking"
	"github.com/clrelay/clrelay/delivery/smtpc"
	"github.com/clrelay/clrelay/delivery/smtpc/wire"
	"github.com/clrelay/clrelay/delivery/source"
	"github.com/clrelay/clrelay/internal/mail"
)

// Candidate is an address that an attempt would go to.
type Candidate struct {
	Name   string
	Addr   netip.AddrPort
	Pref   int  // of its MX record; -1 where there is none
	Silent bool // it did not answer lately, and comes last
	Plain  bool // TLS failed lately, and is left alone
	Source source.Source
	Answer ranking.Record // how it answered lately; zero: nothing is known
}

// maxCandidates bounds what Candidates looks up.
const maxCandidates = 40

// Candidates tells which addresses an attempt would try, in this order but for
// those of equal preference, and what was in the way of finding others. It
// sends nothing to them.
func (a *Agent) Candidates(ctx context.Context, hop mail.NextHop) (hosts []Candidate, notes []mail.Reply) {
	prefs := map[string]int{}
	if hop.Kind == mail.HopMX {
		set, _ := a.o.Resolver.LookupMX(ctx, hop.Domain) // what is wrong with it the walk notes
		for _, m := range set {
			prefs[strings.ToLower(strings.TrimSuffix(m.Host, "."))] = int(m.Pref)
		}
	}
	d := &attempt{a: a, hop: &hop, at: &Attempt{Envelope: &mail.Envelope{}}}
	var none *mail.Reply
	if d.sources, none = a.sources(&hop, d.at.Envelope); none != nil {
		return nil, append(notes, *none)
	}
	w := walk{a: a, hop: &hop, fits: d.fits, note: func(r mail.Reply) { notes = append(notes, r) }, again: func() bool { return true }}
	for len(hosts) < maxCandidates {
		h, ok := w.next(ctx)
		if !ok {
			break
		}
		c := Candidate{Name: h.name, Addr: h.addr, Pref: -1, Silent: a.dead.has(h.addr), Plain: a.plain.has(h.addr)}
		c.Source, _ = d.from(h.addr.Addr()) // the walk has seen that there is one
		c.Answer, _ = a.answers.Look(h.addr)
		if p, ok := prefs[h.name]; ok {
			c.Pref = p
		}
		hosts = append(hosts, c)
	}
	if d.misfit != nil {
		notes = append(notes, *d.misfit)
	}
	return hosts, notes
}

// Probed is what a host said about a recipient.
type Probed struct {
	Remote string
	Offers wire.Extensions
	TLS    string      // facts of the session; empty in the clear
	Rcpt   *mail.Reply // nil: it takes the recipient
	AtRcpt bool        // Rcpt was its answer to RCPT: the envelope sender was fine
}

// Probe connects to one of the Candidates of a hop as an attempt would, and
// asks about the first recipient of env. No message is sent, and what comes of
// it is not remembered for attempts.
func (a *Agent) Probe(ctx context.Context, hop mail.NextHop, c Candidate, env *mail.Envelope) (Probed, error) {
	at := &Attempt{Envelope: env, Recipients: []int{0}, Content: nothing{}}
	d := &attempt{a: a, hop: &hop, at: at}
	t := d.target(host{name: c.Name, addr: c.Addr}, c.Source)
	conn, failed := a.pool.Dial(ctx, t, smtpc.Counted{})
	if failed != nil {
		return Probed{Remote: t.Label()}, failed
	}
	defer a.pool.Put(conn)
	p := Probed{Remote: conn.Remote(), Offers: *conn.Extensions(), TLS: conn.TLS()}
	res := make([]smtpc.Result, 1)
	failed = conn.Send(ctx, &smtpc.Transaction{Envelope: env, Recipients: at.Recipients, Content: at.Content, Ask: true}, res)
	if failed != nil {
		return p, failed
	}
	if res[0].Done || res[0].Elsewhere {
		p.Rcpt, p.AtRcpt = &res[0].Reply, res[0].Stage == smtpc.StageRcpt
	}
	return p, nil
}

// nothing is content of no octets.
type nothing struct{}

func (nothing) Size() int64                  { return 0 }
func (nothing) Open() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("")), nil }
