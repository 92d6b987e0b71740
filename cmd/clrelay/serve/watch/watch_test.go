package watch

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/clrelay/clrelay/cmd/clrelay/serve/explain"
	"github.com/clrelay/clrelay/delivery/allow"
	"github.com/clrelay/clrelay/delivery/dsn"
	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/internal/mail"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
	"github.com/clrelay/clrelay/smtpd"
)

// deaf takes what it is told.
type deaf struct{ told int }

func (d *deaf) Accepted(*mail.Envelope, int64, time.Duration)      { d.told++ }
func (d *deaf) Rejected(*mail.Client, string, string, *mail.Reply) { d.told++ }
func (d *deaf) Closed(*mail.Client, smtpd.Summary)                 { d.told++ }
func (d *deaf) Recipient(*queue.Event)                             { d.told++ }
func (d *deaf) Reported(mail.ID, mail.ID, dsn.Kind)                { d.told++ }
func (d *deaf) Postponed(string, int, *mail.Reply)                 { d.told++ }
func (d *deaf) Counts() queue.Counts                               { return queue.Counts{Active: 1} }
func (d *deaf) Limited(string, *allow.Denied)                      { d.told++ }
func (d *deaf) Destinations(visit func(*queue.Lane)) {
	for _, l := range []queue.Lane{{Key: "mx:idle.test"}, {Key: "mx:a.test", Recipients: 2}, {Key: "mx:b.test", Recipients: 9}, {Key: "mx:c.test", Recipients: 5}} {
		visit(&l)
	}
}

func addr(local, domain string) mail.Address { return mail.Address{Local: local, Domain: domain} }

func TestWhoSendsMost(t *testing.T) {
	w, next := New(), &deaf{}
	defer w.Close()
	s, q := w.Server(next), w.Queue(next)
	for i := range 5 {
		env := &mail.Envelope{From: addr("A", "b.test"), Client: mail.Client{Addr: netip.MustParseAddr("::ffff:10.0.0.1")}}
		for range i + 1 {
			env.Recipients = append(env.Recipients, mail.Recipient{Addr: addr("x", "C.test")})
		}
		env.Recipients = append(env.Recipients, mail.Recipient{Addr: addr("x", "d.test")})
		s.Accepted(env, 1, 0)
	}
	s.Accepted(&mail.Envelope{Recipients: []mail.Recipient{{Addr: addr("x", "c.test")}}}, 1, 0)
	s.Rejected(&mail.Client{}, "", "", mail.NewReply(550, "5.7.1", "no"))
	for i := range 3 {
		q.Recipient(&queue.Event{Kind: queue.Deferred, Tried: true, Outcome: mail.Outcome{Reply: *mail.NewReply(451, "4.2.0", fmt.Sprintf("try %d again", 100+i))}})
	}
	q.Recipient(&queue.Event{Kind: queue.Delivered, Tried: true})
	q.Postponed("mx:a.test", 7, nil)
	service := &Service{Node: "mx1", Watch: w, Queue: next, Started: time.Now(), Ready: func() bool { return true }, Sessions: func() int { return 4 }}
	rows := func(by adminv1.TopBy) (out string) {
		res, err := service.Stats(context.Background(), &adminv1.StatsRequest{By: by})
		if err != nil {
			t.Fatal(err)
		}
		n := res.GetNodes()[0]
		if n.GetAccepted() != 6 || n.GetRejected() != 1 || n.GetPutOff() != 10 || n.GetDelivered() != 1 || n.GetSessions() != 4 || n.GetActive() != 1 || res.GetDestinations()[0].GetNode() != "mx1" {
			t.Errorf("figures %v", res)
		}
		for _, r := range res.GetRows() {
			out += fmt.Sprintf("%s %d;", r.GetName(), r.GetCount())
		}
		return out
	}
	for by, want := range map[adminv1.TopBy]string{
		adminv1.TopBy_TOP_BY_SENDER: "a@b.test 5;<> 1;", adminv1.TopBy_TOP_BY_DOMAIN: "c.test 16;d.test 5;",
		adminv1.TopBy_TOP_BY_CLIENT: "10.0.0.1 5;", adminv1.TopBy_TOP_BY_REASON: "451 4.2.0 try # again 3;", adminv1.TopBy_TOP_BY_UNSPECIFIED: "",
	} {
		got := rows(by)
		for end := time.Now().Add(5 * time.Second); got != want && time.Now().Before(end); { // the counting is behind
			got = rows(by)
		}
		if got != want {
			t.Errorf("%v: %q, want %q", by, got, want)
		}
	}
	if next.told != 6+1+3+1+1 {
		t.Errorf("the observers behind were told %d times", next.told)
	}
}

// The last outcome of each recipient is remembered, and old ones are forgotten.
func TestOutcomes(t *testing.T) {
	w, next := New(), &deaf{}
	defer w.Close()
	q, id := w.Queue(next), mail.NewID(time.Now())
	tell := func(id mail.ID, kind queue.EventKind, to string, code int) {
		q.Recipient(&queue.Event{Kind: kind, ID: id, To: addr(to, "b.test"), Tried: true, Attempt: 2,
			Outcome: mail.Outcome{At: time.Unix(1000, 0), Remote: "mx[192.0.2.1]:25", Reply: *mail.NewReply(code, "", "said")}})
	}
	tell(id, queue.Deferred, "x", 451)
	tell(id, queue.Bounced, "y", 550)
	tell(id, queue.DoubleBounce, "y", 550)
	tell(mail.NewID(time.Now()), queue.Delivered, "x", 250)
	tell(id, queue.Delivered, "x", 250)
	trials := &Trials{Watch: w, Service: &explain.Service{Node: "mx1"}}
	ask := func() (out string) {
		res, err := trials.Outcomes(context.Background(), &adminv1.OutcomesRequest{Id: id.String()})
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range res.GetOutcomes() {
			out += fmt.Sprintf("%s %s %s %s %d %s;", o.GetRcpt(), o.GetEvent(), o.GetReply(), o.GetRemote(), o.GetAttempts(), o.GetNode())
		}
		return out
	}
	if got, want := ask(), "x@b.test delivered 250 said mx[192.0.2.1]:25 2 mx1;y@b.test bounced 550 said mx[192.0.2.1]:25 2 mx1;"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for range remembered {
		tell(mail.NewID(time.Now()), queue.Delivered, "x", 250)
	}
	if got := ask(); got != "" {
		t.Errorf("still %q", got)
	}
	if _, err := trials.Outcomes(context.Background(), &adminv1.OutcomesRequest{Id: "x"}); err == nil {
		t.Error("no error for what is no ID")
	}
}

func TestBusiestDestinations(t *testing.T) {
	for n, want := range map[int]string{1: "mx:b.test;", 2: "mx:b.test;mx:c.test;", 9: "mx:b.test;mx:c.test;mx:a.test;"} {
		got := ""
		for _, l := range busiest(&deaf{}, n) {
			got += l.Key + ";"
		}
		if got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
