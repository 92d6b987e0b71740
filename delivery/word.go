package delivery

import (
	"net/netip"
	"time"

	"github.com/clrelay/clrelay/delivery/smtpc"
	"github.com/clrelay/clrelay/internal/mail"
)

// Word is what a host said that may be a reason to treat it otherwise: the end
// of a transaction, good or bad, or of a session that did not come about.
type Word struct {
	Hop    *mail.NextHop
	Domain string // of the recipients
	Site   string // who runs the host
	Source string // the own address that was used; empty: any
	Host   string
	Addr   netip.AddrPort
	Stage  smtpc.Stage // what it was said to
	Reply  mail.Reply  // its own, or what became of it: a timeout is 451 4.4.2
	OK     bool        // it took the message
	Took   time.Duration
	Open   int // connections of this node to the site
	ID     mail.ID
}

// hear passes a word on.
func (d *attempt) hear(t *smtpc.Target, s smtpc.Stage, r *mail.Reply, took time.Duration) {
	if d.a.o.Heard == nil {
		return
	}
	sub := &d.at.Subject
	d.a.o.Heard(&Word{
		Hop: d.hop, Domain: sub.Domain, Site: sub.Site, Source: sub.Source, Host: t.Name, Addr: t.Addr,
		Stage: s, Reply: *r, OK: s == smtpc.StageDone && r.Positive(), Took: took, Open: d.a.pool.Open(tag(d.hop, d.at)),
		ID: d.at.Envelope.ID,
	})
}

// wait is how long the host asks to be left alone with the message.
func (d *attempt) wait(s smtpc.Stage, r *mail.Reply) time.Duration {
	if d.a.o.Wait == nil || s == "" || !r.Temporary() {
		return 0
	}
	return d.a.o.Wait(d.at.Subject.Site, s, r)
}

// hearResults passes on what was said in a transaction, each word once.
func (d *attempt) hearResults(t *smtpc.Target, took time.Duration) {
	if d.a.o.Heard == nil {
		return
	}
	var last *smtpc.Result
	for i := range d.res {
		r := &d.res[i]
		if r.Stage == "" || last != nil && last.Stage == r.Stage && last.Reply.Code == r.Reply.Code && last.Reply.Text == r.Reply.Text {
			continue
		}
		last = r
		d.hear(t, r.Stage, &r.Reply, took)
	}
}
