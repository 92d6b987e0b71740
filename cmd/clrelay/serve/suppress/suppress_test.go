package suppress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm/suppressed"
	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/delivery/returns"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/metrics"
	"github.com/clrelay/clrelay/proto/control"
	"github.com/clrelay/clrelay/smtpd/policy"
)

func at() time.Time { return time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC) }

func address(t testing.TB, text string) mail.Address {
	t.Helper()
	if text == "" {
		return mail.Address{}
	}
	a, err := mail.ParseMailbox(text, true)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func site(t *testing.T, entries ...control.Suppression) (*List, *policy.Chain) {
	t.Helper()
	chain, err := policy.New(policy.Options{
		Hostname: "mx1.example.edu", Domains: []string{"example.edu"},
		Senders: []policy.Sender{{Name: "campus", Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	table := suppressed.New()
	for _, o := range table.Do(&control.SuppressOps{Add: entries}) {
		if o.Code != control.OK {
			t.Fatal(o.Code)
		}
	}
	return &List{Table: table, Ours: chain.Ours, Now: at, Metrics: metrics.New().SMTP}, chain
}

func on(address, scope string, reason control.SuppressReason, text string) control.Suppression {
	return control.Suppression{SuppressKey: control.SuppressKey{Address: address, Scope: scope}, Reason: reason, Text: text, CreatedMS: at().UnixMilli()}
}

func TestDoor(t *testing.T) {
	l, chain := site(t,
		on("gone@example.org", "", control.SuppressHardBounce, `550 5.1.1 "gone" is no user`), on("news@example.org", "news@example.edu", control.SuppressComplaint, ""),
		on("john@example.edu", "", control.SuppressHardBounce, ""), on("left@example.edu", "", control.SuppressOperator, "left in 2020, grüß"),
	)
	door := l.Policy(chain)
	for _, tc := range []struct{ client, from, to, want string }{
		{"10.0.0.1", "jane@example.edu", "gone@example.org", `550 5.1.1 <gone@example.org> is on the suppression list: hard bounce on 2026-11-29 ("550 5.1.1 'gone' is no user"); ask the operator of this relay to take it off`},
		{"10.0.0.1", "jane@example.edu", "news@example.org", ""},
		{"10.0.0.1", "News@example.edu", "news@example.org", `550 5.1.1 <news@example.org> is on the suppression list: complaint on 2026-11-29; ask the operator of this relay to take it off`},
		{"198.51.100.1", "x@example.net", "gone@example.org", "550 5.7.1"},
		{"198.51.100.1", "x@example.net", "john@example.edu", ""},
		{"10.0.0.1", "x@example.net", "john@example.edu", ""},
		{"198.51.100.1", "x@example.net", "left@example.edu", `550 5.1.1 <left@example.edu> is on the suppression list: put there by the operator on 2026-11-29 ("left in 2020, gr??"); ask the operator of this relay to take it off`},
	} {
		c := mail.Client{Addr: netip.MustParseAddr(tc.client)}
		v := door.Recipient(&c, address(t, tc.from), &mail.Recipient{Addr: address(t, tc.to)})
		switch {
		case v == nil && tc.want != "", v != nil && (tc.want == "" || !strings.HasPrefix(v.Line(), tc.want)):
			t.Errorf("%s from %s: %v, want %q", tc.to, tc.from, v, tc.want)
		}
	}
	if n := l.Metrics.Suppressed.With("rcpt").Value(); n != 3 {
		t.Errorf("%v are counted", n)
	}
}

// next delivers to all it is asked for.
type next struct{ asked [][]int }

func (n *next) Deliver(_ context.Context, _ mail.NextHop, at *delivery.Attempt) (out []mail.Outcome) {
	n.asked = append(n.asked, at.Recipients)
	for _, i := range at.Recipients {
		out = append(out, mail.Outcome{Recipient: i, Reply: *mail.NewReply(250, "2.0.0", "ok"), Remote: "mx"})
	}
	return out
}

func TestExit(t *testing.T) {
	l, _ := site(t)
	n := &next{}
	exit := l.Deliverer(n)
	env := &mail.Envelope{From: address(t, "jane@example.edu"), Client: mail.Client{Sender: "campus"}}
	for _, to := range []string{"a@example.org", "gone@example.org", "b@example.org", "left@example.edu"} {
		env.Recipients = append(env.Recipients, mail.Recipient{Addr: address(t, to)})
	}
	deliver := func(which ...int) (failed []int) {
		out := exit.Deliver(t.Context(), mail.NextHop{}, &delivery.Attempt{Envelope: env, Recipients: which})
		if len(out) != len(which) {
			t.Fatalf("%d outcomes of %d", len(out), len(which))
		}
		for _, o := range out {
			if !slices.Contains(which, o.Recipient) {
				t.Errorf("an outcome of %d", o.Recipient)
			}
			if o.Reply.Permanent() && o.Remote == "" {
				failed = append(failed, o.Recipient)
			}
		}
		return failed
	}
	if f := deliver(0, 1, 2, 3); f != nil {
		t.Errorf("with an empty list %v failed", f)
	}
	l.Table.Do(&control.SuppressOps{Add: []control.Suppression{on("gone@example.org", "campus", control.SuppressHardBounce, ""), on("left@example.edu", "", control.SuppressHardBounce, "")}})
	if f := deliver(0, 1, 2, 3); !slices.Equal(f, []int{1}) || !slices.Equal(n.asked[1], []int{0, 2, 3}) {
		t.Errorf("%v failed, and %v were tried", f, n.asked[1])
	}
	if f := deliver(1); !slices.Equal(f, []int{1}) || len(n.asked) != 2 {
		t.Errorf("%v failed; a connection was made for nobody: %v", f, n.asked)
	}
	if n := l.Metrics.Suppressed.With("delivery").Value(); n != 2 {
		t.Errorf("%v are counted", n)
	}
}

// kept is a Store that can fail.
type kept struct {
	mu    sync.Mutex
	fails error
	table *suppressed.Table
	calls int
}

func (k *kept) Suppress(_ context.Context, c control.SuppressOps) ([]control.OpResult, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calls++
	if k.fails != nil {
		return nil, k.fails
	}
	return k.table.Do(&c), nil
}

func (k *kept) called() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.calls
}

func (k *kept) fail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fails = err
}

func auto(t *testing.T, set *Settings) (*Auto, *kept) {
	_, chain := site(t)
	k := &kept{table: suppressed.New()}
	a := &Auto{Store: k, Settings: func() Settings { return *set }, Ours: chain.Ours, Now: time.Now, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	return a, k
}

func bounced(t *testing.T, from, to, reply, remote string) *queue.Event {
	code, rest, _ := strings.Cut(reply, " ")
	enhanced, text, _ := strings.Cut(rest, " ")
	n := 0
	if _, err := fmt.Sscan(code, &n); err != nil {
		t.Fatal(err)
	}
	return &queue.Event{Kind: queue.Bounced, ID: mail.NewID(time.Now()), Tried: true, From: address(t, from), To: address(t, to), Outcome: mail.Outcome{Reply: *mail.NewReply(n, enhanced, text), Remote: remote}}
}

type deaf struct{ queue.Observer }

func (deaf) Recipient(*queue.Event) {}

// What bounces comes onto the list within a second, all of it at once, and what
// the store does not take waits.
func TestWhatBouncesIsPutThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := Settings{On: true, After: 1, Expire: time.Hour}
		a, k := auto(t, &set)
		o := observer(a, deaf{})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { a.Run(ctx); close(done) }()
		k.fail(errors.New("no leader"))
		for i := range 1200 {
			o.Recipient(bounced(t, "jane@example.edu", fmt.Sprintf("U%d@Example.org", i), "550 5.1.1 no such user", "mx"))
		}
		for _, e := range []*queue.Event{
			bounced(t, "jane@example.edu", "own@example.edu", "550 5.1.1 no such user", "mx"),
			bounced(t, "jane@example.edu", "spam@example.org", "550 5.7.1 spam", "mx"),
			bounced(t, "jane@example.edu", "full@example.org", "552 5.2.2 mailbox full", "mx"),
			bounced(t, "jane@example.edu", "bare@example.org", "550  not today", "mx"),
			bounced(t, "jane@example.edu", "list@example.org", "550 5.1.1 is on the suppression list", ""),
		} {
			o.Recipient(e)
		}
		unknown := bounced(t, "jane@example.edu", "sender@example.org", "550 5.1.1 jane@example.edu: user unknown", "mx")
		unknown.Outcome.OfMail = true // to MAIL: it is she who is not known
		o.Recipient(unknown)
		time.Sleep(3*time.Second + time.Millisecond)
		synctest.Wait()
		if k.table.Len() != 0 {
			t.Error("the store failed, and has them")
		}
		k.fail(nil)
		calls := k.called()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if k.table.Len() != 1200 || k.called()-calls != 3 {
			t.Errorf("%d entries after %d changes", k.table.Len(), k.called()-calls)
		}
		e := k.table.Get("u7@example.org")
		if len(e) != 1 || e[0].Scope != "" || e[0].Text != "550 5.1.1 no such user" || e[0].ExpiresMS-e[0].CreatedMS != time.Hour.Milliseconds() || e[0].Reason != control.SuppressHardBounce {
			t.Errorf("the entry is %+v", e)
		}
		stop()
		<-done
	})
}

func TestHowOftenItMayBounce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := Settings{On: true, PerSender: true, After: 3, Within: time.Hour}
		a, k := auto(t, &set)
		bounce := func(from string) int {
			observer(a, deaf{}).Recipient(bounced(t, from, "u@example.org", "550 5.1.1 no such user", "mx"))
			if err := a.flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			return k.table.Len()
		}
		for _, from := range []string{"jane@example.edu", "", "joe@example.edu", "jane@example.edu"} {
			if n := bounce(from); n != 0 {
				t.Errorf("after %s: %d entries", from, n)
			}
		}
		time.Sleep(time.Hour)
		if n := []int{bounce("jane@example.edu"), bounce("jane@example.edu"), bounce("Jane@Example.edu")}; !slices.Equal(n, []int{0, 0, 1}) {
			t.Error("it takes three within an hour")
		}
		if e := k.table.Get("u@example.org"); len(e) != 1 || e[0].Scope != "jane@example.edu" || e[0].ExpiresMS != 0 {
			t.Errorf("the entry is %+v", e)
		}
		set.On = false
		set.After = 1
		if bounce("x@example.edu") != 1 {
			t.Error("it is off, and adds")
		}
	})
}

// What comes back later is there when Add returns, many of it by few changes,
// and told to be done again when the list cannot be written.
func TestWhatComesBackIsPutThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := Settings{Expire: time.Hour, After: 1}
		a, k := auto(t, &set)
		sent := mail.NewID(time.Now())
		add := func(to string, complaint bool) error {
			return a.Add(t.Context(), returns.Suppression{Of: sent, Address: address(t, to), Sender: address(t, "jane@example.edu"), Reason: "why", Complaint: complaint})
		}
		if add("u@example.org", false) != nil || add("u@example.org", true) != nil || k.called() != 0 {
			t.Error("it is off, and adds")
		}
		set.Complaints, set.PerSender = 2*time.Hour, true
		if err := add("u@example.org", true); err != nil || add("u@example.org", false) != nil || add("own@example.edu", true) != nil {
			t.Error(err)
		}
		e := k.table.Get("u@example.org")
		if len(e) != 1 || k.table.Len() != 1 || e[0].Reason != control.SuppressComplaint || e[0].Scope != "jane@example.edu" || e[0].Text != "why" ||
			e[0].ExpiresMS-e[0].CreatedMS != 2*time.Hour.Milliseconds() || e[0].Source != sent.String() {
			t.Errorf("the entries are %+v", e)
		}

		set.On = true
		k.fail(errors.New("no leader"))
		if err := add("v@example.org", false); err == nil {
			t.Error("the list was not written, and nobody was told")
		}
		k.fail(nil)
		calls := k.called()
		var all sync.WaitGroup
		for i := range 400 {
			all.Go(func() {
				if err := add(fmt.Sprint("w", i, "@example.org"), false); err != nil {
					t.Error(err)
				}
				if len(k.table.Get(fmt.Sprint("w", i, "@example.org"))) != 1 {
					t.Error("it is not there")
				}
			})
		}
		all.Wait()
		if k.table.Len() != 402 { // with what failed before
			t.Errorf("%d entries", k.table.Len())
		}
		t.Logf("%d changes", k.called()-calls)

		set.After, set.Within = 2, time.Hour
		if err := errors.Join(add("x@example.org", false), add("x@example.org", false)); err != nil || len(k.table.Get("x@example.org")) != 0 {
			t.Error("one message counted twice")
		}
		sent = mail.NewID(time.Now())
		if add("x@example.org", false) != nil || len(k.table.Get("x@example.org")) != 1 {
			t.Error("the second message did not count")
		}
	})
}

// A flood of bounces is bounded.
func TestAFlood(t *testing.T) {
	set := Settings{On: true, After: 2, Within: time.Hour}
	a, _ := auto(t, &set)
	for i := range maxCounted + 10 {
		a.Bounced(Trouble{ID: mail.NewID(at()), To: mail.Address{Local: fmt.Sprint(i), Domain: "example.org"}})
	}
	if len(a.counted) > maxCounted || len(a.waiting) != 0 {
		t.Errorf("%d counted, %d wait", len(a.counted), len(a.waiting))
	}
	set.After = 1
	for i := range maxWaiting + 10 {
		a.Bounced(Trouble{ID: mail.NewID(at()), To: mail.Address{Local: fmt.Sprint(i), Domain: "example.org"}})
	}
	if len(a.waiting) != maxWaiting || a.lost != 10 {
		t.Errorf("%d wait, %d lost", len(a.waiting), a.lost)
	}
	if err := a.Add(t.Context(), returns.Suppression{Address: mail.Address{Local: "one-more", Domain: "example.org"}}); err == nil {
		t.Error("there is no room, and nobody is told")
	}
}
