package site_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clrelay/clrelay/delivery/site"
	"github.com/clrelay/clrelay/internal/dnsx"
	"github.com/clrelay/clrelay/internal/mail"
)

func mx(hosts ...string) (set []dnsx.MX) {
	for _, h := range hosts {
		m := dnsx.MX{Pref: 10, Host: h}
		if name, ok := strings.CutPrefix(h, "20 "); ok {
			m = dnsx.MX{Pref: 20, Host: name}
		}
		set = append(set, m)
	}
	return set
}

func TestOf(t *testing.T) {
	names := site.Names{"googlemail.com": "google.com", "olc.protection.outlook.com": "outlook.com", "mail.protection.outlook.com": "microsoft365"}
	for _, c := range []struct {
		domain string
		set    []dnsx.MX
		want   string
	}{
		{"gmail.com", mx("gmail-smtp-in.l.google.com.", "20 alt1.gmail-smtp-in.l.google.com"), "google.com"},
		{"example.org", mx("ASPMX.L.GOOGLE.COM", "20 aspmx2.googlemail.com"), "google.com"},
		{"example.org", mx("aspmx3.googlemail.com"), "google.com"},
		{"hotmail.com", mx("hotmail-com.olc.protection.outlook.com"), "outlook.com"},
		{"example.org", mx("example-org.mail.protection.outlook.com"), "microsoft365"},
		{"example.co.uk", mx("mx1.example.co.uk", "mx2.example.co.uk"), "example.co.uk"},
		{"www.example.co.uk", nil, "example.co.uk"},
		{"a.example", mx("mx.b.example", "mx.c.example"), "b.example"},
		{"a.example", mx("mx.c.example", "mx.b.example", "mx2.c.example"), "c.example"},
		{"a.example", mx("20 mx.b.example", "mx.c.example"), "c.example"},
		{"null.example", []dnsx.MX{{Host: "."}}, "null.example"},
		{"a.example", mx("192.0.2.1"), "192.0.2.1"},
		{"a.example", mx("mailhost"), "mailhost"},
		{"a.dyndns.org", nil, "a.dyndns.org"}, // whoever is below such a name is another owner
		{"com", nil, "com"},
	} {
		if got := names.Of(c.domain, c.set); got != c.want {
			t.Errorf("%s %v: %q, want %q", c.domain, c.set, got, c.want)
		}
	}
}

// world answers from a map, and counts.
type world struct {
	mu    sync.Mutex
	sets  map[string][]dnsx.MX
	asked atomic.Int64
	wait  chan struct{} // a lookup waits for its end; nil: for nothing
	err   error         // of what is not in sets; nil: there is no answer
}

func (w *world) LookupMX(ctx context.Context, name string) ([]dnsx.MX, error) {
	w.asked.Add(1)
	if w.wait != nil {
		select {
		case <-w.wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if set, ok := w.sets[name]; ok {
		return set, nil
	}
	if w.err != nil {
		return nil, w.err
	}
	return nil, errors.New("no answer")
}

func hop(domain string) mail.NextHop { return mail.NextHop{Kind: mail.HopMX, Domain: domain} }

func TestSiteOfHops(t *testing.T) {
	w := &world{}
	s := site.New(site.Options{Resolver: w})
	for _, c := range []struct {
		hop  mail.NextHop
		want string
	}{
		{mail.NextHop{Kind: mail.HopSmarthost, Hosts: []mail.HostPort{{Name: "Out.Example.org", Port: 25}, {Name: "b", Port: 25}}}, "out.example.org"},
		{mail.NextHop{Kind: mail.HopSmarthost, Hosts: []mail.HostPort{{Name: "Out.Example.org", Port: 587}}}, "out.example.org"},
		{mail.NextHop{Kind: mail.HopSmarthost, Hosts: []mail.HostPort{{Name: "127.0.0.1", Port: 10026}}}, "127.0.0.1:10026"},
		{mail.NextHop{Kind: mail.HopLMTP, Hosts: []mail.HostPort{{Name: "192.0.2.1", Port: 24}}}, "192.0.2.1"},
		{hop("[192.0.2.1]"), "[192.0.2.1]"},
	} {
		if got := s.Site(t.Context(), c.hop); got != c.want {
			t.Errorf("%v: %q, want %q", c.hop, got, c.want)
		}
	}
	if w.asked.Load() != 0 {
		t.Error("the DNS was asked for what needs none")
	}
}

// An answer is kept for ten minutes, a failure for one.
func TestKept(t *testing.T) {
	now := time.Unix(0, 0)
	w := &world{sets: map[string][]dnsx.MX{"good.example": mx("mx.host.example")}}
	s := site.New(site.Options{Resolver: w, Now: func() time.Time { return now }})
	for _, c := range []struct {
		after  time.Duration
		domain string
		want   string
		asked  int64
	}{
		{0, "good.example", "host.example", 1},
		{9 * time.Minute, "good.example", "host.example", 1},
		{2 * time.Minute, "good.example", "host.example", 2},
		{0, "bad.example", "bad.example", 3},
		{59 * time.Second, "bad.example", "bad.example", 3},
		{time.Second, "bad.example", "bad.example", 4},
	} {
		now = now.Add(c.after)
		if got := s.Site(t.Context(), hop(c.domain)); got != c.want || w.asked.Load() != c.asked {
			t.Errorf("%s at %v: %q after %d lookups, want %q after %d", c.domain, now, got, w.asked.Load(), c.want, c.asked)
		}
	}
	s.Rename(site.Names{"host.example": "host"})
	if got := s.Site(t.Context(), hop("good.example")); got != "host" {
		t.Errorf("after the names changed: %q", got)
	}
}

// Where the DNS does not answer for a while a domain stays with its site: else what
// is asked of the site would not hold for it. That it has no MX is an answer.
func TestNoAnswerChangesNothing(t *testing.T) {
	now := time.Unix(0, 0)
	w := &world{sets: map[string][]dnsx.MX{"a.example": mx("mx.host.example")}}
	s := site.New(site.Options{Resolver: w, Now: func() time.Time { return now }})
	want := func(site string, asked int64) {
		t.Helper()
		if got := s.Site(t.Context(), hop("a.example")); got != site || w.asked.Load() != asked {
			t.Errorf("%q after %d lookups, want %q after %d", got, w.asked.Load(), site, asked)
		}
	}
	want("host.example", 1)
	w.sets = nil
	now = now.Add(11 * time.Minute)
	want("host.example", 2)
	now = now.Add(time.Minute)
	want("host.example", 3) // it is asked again after a minute
	w.err = fmt.Errorf("a.example: %w", dnsx.ErrNotFound)
	now = now.Add(time.Minute)
	want("a.example", 4)
}

// The memory is bounded, and those that are asked for stay.
func TestBound(t *testing.T) {
	w := &world{}
	s := site.New(site.Options{Resolver: w, Max: 10})
	for i := range 100 {
		s.Site(t.Context(), hop("often.example"))
		s.Site(t.Context(), hop(fmt.Sprintf("d%d.example", i)))
	}
	if got := w.asked.Load(); got != 101 {
		t.Errorf("%d lookups, want 101: one was forgotten that is asked for all the time", got)
	}
	if _, ok := s.Known("d89.example"); ok {
		t.Error("more than ten are remembered")
	}
	if _, ok := s.Known("d99.example"); !ok {
		t.Error("the last one is not remembered")
	}
}

// However many ask, one lookup is made; who cannot wait gets the domain.
func TestOneLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{sets: map[string][]dnsx.MX{"a.example": mx("mx.host.example")}, wait: make(chan struct{})}
		s := site.New(site.Options{Resolver: w})
		var group sync.WaitGroup
		for range 50 {
			group.Go(func() {
				if got := s.Site(t.Context(), hop("a.example")); got != "host.example" {
					t.Errorf("%q", got)
				}
			})
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if got := s.Site(ctx, hop("a.example")); got != "a.example" {
			t.Errorf("who does not wait: %q", got)
		}
		close(w.wait)
		group.Wait()
		if got := w.asked.Load(); got != 1 {
			t.Errorf("%d lookups", got)
		}
	})
}
