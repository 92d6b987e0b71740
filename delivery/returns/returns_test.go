package returns_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/delivery/dsn/received"
	"github.com/clrelay/clrelay/delivery/returns"
	"github.com/clrelay/clrelay/internal/mail"
)

const domain = "bounces.example.edu"

func start() time.Time { return time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC) }

func keys(t testing.TB, lines string) *returns.Keys {
	t.Helper()
	k, err := returns.NewKeys(domain, []byte(lines))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

const oldKey, newKey = "0123456789abcdef-old\n", "0123456789abcdef-new\n"

func TestAddress(t *testing.T) {
	k := keys(t, oldKey)
	for _, n := range []int{0, 7, 65535} {
		ref := returns.Ref{ID: mail.NewID(start()), Recipient: n}
		a := k.Address(ref)
		if len(a.Local) > mail.MaxLocal || a.Domain != domain {
			t.Errorf("%s is no address", a)
		}
		if again, err := mail.ParseMailbox(a.String(), false); err != nil || again != a {
			t.Errorf("%s reads as %v, %v", a, again, err)
		}
		upper := mail.Address{Local: strings.ToUpper(a.Local), Domain: strings.ToUpper(a.Domain)}
		for _, one := range []mail.Address{a, upper} {
			if got, err := k.Open(one); err != nil || got != ref {
				t.Errorf("%s stands for %v, %v", one, got, err)
			}
		}
		// After a change of keys the old ones are known, and the new one makes.
		both := keys(t, "\n"+newKey+oldKey)
		if got, err := both.Open(a); err != nil || got != ref {
			t.Errorf("the key of before is not known: %v", err)
		}
		if _, err := k.Open(both.Address(ref)); !errors.Is(err, returns.ErrForged) {
			t.Errorf("a key that is not there is known: %v", err)
		}
		for i := range a.Local { // no octet may be another
			b := []byte(a.Local)
			b[i] ^= 1
			if got, err := k.Open(mail.Address{Local: string(b), Domain: domain}); err == nil && got != ref {
				t.Errorf("%q stands for %v", b, got)
			} else if err == nil && !strings.EqualFold(string(b), a.Local) {
				t.Errorf("%q was taken for %q", b, a.Local)
			}
		}
	}
	for local, want := range map[string]error{
		"postmaster": returns.ErrForeign, "b+": returns.ErrForeign, "": returns.ErrForeign, "b+x": returns.ErrForged, "b+..": returns.ErrForged,
		"b+" + strings.Repeat("0", 26) + ".0.": returns.ErrForged, "b+" + strings.Repeat("0", 26) + ".-1.aaaaaaaaaaaaaaaaaaaa": returns.ErrForged,
	} {
		if _, err := k.Open(mail.Address{Local: local, Domain: domain}); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", local, err, want)
		}
	}
	if _, err := k.Open(mail.Address{Local: k.Address(returns.Ref{}).Local, Domain: "example.org"}); !errors.Is(err, returns.ErrForeign) {
		t.Errorf("of another domain: %v", err)
	}
}

func TestKeys(t *testing.T) {
	for _, bad := range []string{"", "\n\n", "short\n", "0123456789abcdef\nshort"} {
		if _, err := returns.NewKeys(domain, []byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// world is all that is around a Returns.
type world struct {
	r        *returns.Returns
	settings *returns.Settings
	now      time.Time
	sent     []string // "FROM > TO" of each transaction
	answer   func(to string) mail.Outcome
	stored   []string // "FROM > TO: content"
	full     bool     // nothing can be stored
	origins  map[mail.ID]returns.Origin
	silent   bool // a node that may know does not answer
	listed   []returns.Suppression
	noList   bool
	seen     []returns.Return
}

func newWorld(t *testing.T) *world {
	w := &world{now: start(), origins: map[mail.ID]returns.Origin{}, settings: &returns.Settings{Keys: keys(t, oldKey), Forward: true, MaxAge: 30 * 24 * time.Hour}}
	w.answer = func(string) mail.Outcome {
		return mail.Outcome{Reply: *mail.NewReply(250, "2.0.0", "ok"), Remote: "mx"}
	}
	w.r = returns.New(returns.Options{
		Next: w, Origins: w, Suppress: w, Observer: w, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return w.now },
		Route:      func(d string) (mail.NextHop, *mail.Reply) { return mail.NextHop{Key: "mx:" + d}, nil },
		Postmaster: func() mail.Address { return mail.Address{Local: "postmaster", Domain: "example.edu"} },
		Accept: func(_ context.Context, env *mail.Envelope, body io.Reader) error {
			text, err := io.ReadAll(body)
			if w.full {
				return errors.New("full")
			}
			w.stored = append(w.stored, env.From.String()+" > "+env.Recipients[0].Addr.String()+": "+string(text[:min(len(text), 20)]))
			return err
		},
	})
	w.r.Set(w.settings)
	return w
}

func (w *world) Deliver(_ context.Context, hop mail.NextHop, at *delivery.Attempt) (out []mail.Outcome) {
	for _, rcpt := range at.Recipients {
		to := at.Envelope.Recipients[rcpt].Addr.String()
		w.sent = append(w.sent, at.Envelope.From.String()+" > "+to+" by "+hop.Key)
		o := w.answer(to)
		o.Recipient = rcpt
		out = append(out, o)
	}
	return out
}

func (w *world) Origin(_ context.Context, id mail.ID) (returns.Origin, error) {
	if w.silent {
		return returns.Origin{}, errors.New("no answer from mx2")
	}
	return w.origins[id], nil
}

func (w *world) Add(_ context.Context, s returns.Suppression) error {
	if w.noList {
		return errors.New("no quorum")
	}
	w.listed = append(w.listed, s)
	return nil
}

func (w *world) Returned(b *returns.Return) { w.seen = append(w.seen, *b) }

type content string

func (c content) Size() int64 { return int64(len(c)) }
func (c content) Open() (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(string(c))), nil
}

func address(t testing.TB, s string) mail.Address {
	t.Helper()
	a, err := mail.ParseMailbox(s, true)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (w *world) message(t testing.TB, from string, rcpts ...string) *mail.Envelope {
	env := &mail.Envelope{ID: mail.NewID(w.now), Arrived: w.now, Client: mail.Client{Sender: "news"}}
	if from != "" {
		env.From = address(t, from)
	}
	o := returns.Origin{From: env.From}
	for _, r := range rcpts {
		env.Recipients = append(env.Recipients, mail.Recipient{Addr: address(t, r)})
		o.Recipients = append(o.Recipients, address(t, r))
	}
	w.origins[env.ID] = o
	return env
}

func all(env *mail.Envelope) (out []int) {
	for i := range env.Recipients {
		out = append(out, i)
	}
	return out
}

func TestAway(t *testing.T) {
	for name, c := range map[string]struct {
		from   string
		groups []string
		list   []string
		want   bool
	}{
		"all":               {"jane@example.edu", nil, nil, true},
		"a report":          {"", nil, nil, false},
		"one of ours":       {"b+x@" + domain, nil, nil, false},
		"group":             {"jane@example.edu", []string{"other", "news"}, nil, true},
		"other group":       {"jane@example.edu", []string{"other"}, nil, false},
		"address":           {"Jane@Example.edu", nil, []string{"jane@example.edu"}, true},
		"other address":     {"joe@example.edu", nil, []string{"jane@example.edu"}, false},
		"domain":            {"jane@Example.edu", []string{"other"}, []string{"example.edu"}, true},
		"below":             {"jane@a.example.edu", nil, []string{"*.example.edu"}, true},
		"not below":         {"jane@example.edu", nil, []string{"*.example.edu"}, false},
		"another's postfix": {"jane@notexample.edu", nil, []string{"example.edu"}, false},
	} {
		w := newWorld(t)
		w.settings.Groups, w.settings.From = c.groups, c.list
		env := w.message(t, c.from, "a@example.org", "b@example.org")
		out := w.r.Deliver(t.Context(), mail.NextHop{Key: "mx:example.org"}, &delivery.Attempt{Envelope: env, Recipients: all(env)})
		if len(out) != 2 || out[0].Recipient != 0 || out[1].Recipient != 1 || len(w.sent) != 2 {
			t.Fatalf("%s: %v, %v", name, out, w.sent)
		}
		for i, sent := range w.sent {
			path := w.settings.Keys.Address(returns.Ref{ID: env.ID, Recipient: i}).String()
			if got := strings.HasPrefix(sent, path+" > "+env.Recipients[i].Addr.String()); got != c.want {
				t.Errorf("%s: sent as %s", name, sent)
			}
		}
		if c.from != "" && env.From != address(t, c.from) {
			t.Errorf("%s: the envelope was changed", name)
		}
	}
}

// TestAwayUnreachable: a host that is not there is not asked for each recipient.
func TestAwayUnreachable(t *testing.T) {
	w := newWorld(t)
	w.answer = func(string) mail.Outcome { return mail.Outcome{Reply: *mail.NewReply(451, "4.4.1", "refused")} }
	env := w.message(t, "jane@example.edu", "a@example.org", "b@example.org", "c@example.org")
	out := w.r.Deliver(t.Context(), mail.NextHop{}, &delivery.Attempt{Envelope: env, Recipients: all(env)})
	if len(w.sent) != 1 || len(out) != 3 || out[2].Recipient != 2 || out[2].Reply.Code != 451 {
		t.Errorf("%v, %+v", w.sent, out)
	}
	w.sent = nil
	w.answer = func(string) mail.Outcome {
		return mail.Outcome{Reply: *mail.NewReply(450, "4.2.1", "later"), Remote: "mx"}
	}
	if w.r.Deliver(t.Context(), mail.NextHop{}, &delivery.Attempt{Envelope: env, Recipients: all(env)}); len(w.sent) != 3 {
		t.Errorf("a host that answers was asked for %v alone", w.sent)
	}
}

const (
	hardBounce = "From: MAILER-DAEMON@mx.example.org\nContent-Type: multipart/report; boundary=b\n\n--b\nContent-Type: message/delivery-status\n\n" +
		"Final-Recipient: rfc822; elsewhere@example.net\nAction: failed\nStatus: 5.1.1\nDiagnostic-Code: smtp; 550 5.1.1 User unknown\n--b--\n"
	softBounce = "From: MAILER-DAEMON@mx.example.org\nSubject: failure notice\n\n<b@example.org>:\n552 5.2.2 over quota\n"
	complaint  = "From: fbl@example.org\nContent-Type: multipart/report; boundary=b\n\n--b\nContent-Type: message/feedback-report\n\nFeedback-Type: abuse\n--b--\n"
	autoReply  = "From: b@example.org\nAuto-Submitted: auto-replied\nSubject: away\n\nback on Monday\n"
	person     = "From: b@example.org\nSubject: hello\n\nhi\n"
)

// back hands something that came back to what works on it.
func (w *world) back(t *testing.T, text string, to ...mail.Address) []mail.Outcome {
	env := &mail.Envelope{ID: mail.NewID(w.now), Arrived: w.now}
	for _, a := range to {
		env.Recipients = append(env.Recipients, mail.Recipient{Addr: a})
	}
	hop, ok := w.r.Hop(strings.ToUpper(domain))
	if !ok {
		t.Fatal("the domain is not the one of return paths")
	}
	return w.r.Deliver(t.Context(), hop, &delivery.Attempt{Envelope: env, Recipients: all(env), Content: content(text)})
}

func TestBack(t *testing.T) {
	for name, c := range map[string]struct {
		text, kind, class, listed string
	}{
		"hard":      {hardBounce, "bounce", "no-mailbox", "550 5.1.1 User unknown"},
		"soft":      {softBounce, "bounce", "mailbox-full", ""},
		"complaint": {complaint, "complaint", "", "complaint abuse"},
		"not spam":  {strings.Replace(complaint, "abuse", "not-spam", 1), "complaint", "", ""},
		"signature": {strings.Replace(complaint, "abuse", "auth-failure", 1), "complaint", "", ""},
		"machine":   {autoReply, "auto_reply", "", ""},
		"person":    {person, "unknown", "", ""},
		"empty":     {"", "unknown", "", ""},
	} {
		w := newWorld(t)
		env := w.message(t, "jane@example.edu", "a@example.org", "b@example.org")
		out := w.back(t, c.text, w.settings.Keys.Address(returns.Ref{ID: env.ID, Recipient: 1}))
		if len(out) != 1 || out[0].Reply.Code != 250 || out[0].Remote == "" || len(w.seen) != 1 {
			t.Fatalf("%s: %+v, %+v", name, out, w.seen)
		}
		got := w.seen[0]
		if got.Kind.String() != c.kind || got.Class() != c.class || got.Of != (returns.Ref{ID: env.ID, Recipient: 1}) ||
			got.From.String() != "jane@example.edu" || got.To.String() != "b@example.org" {
			t.Errorf("%s: %+v", name, got)
		}
		if name == "hard" && (got.Text != "User unknown" || got.Code != 550 || got.Verdict.Status != mail.EnhancedCode{5, 1, 1}) {
			t.Errorf("%s: %d %s %q", name, got.Code, got.Verdict.Status, got.Text)
		}
		listed := ""
		for _, s := range w.listed {
			if s.Complaint {
				listed = "complaint "
			}
			listed += s.Reason
			if s.Of != env.ID || s.Address.String() != "b@example.org" || s.Sender.String() != "jane@example.edu" {
				t.Errorf("%s: listed %+v", name, s)
			}
		}
		if listed != c.listed {
			t.Errorf("%s: listed %q, want %q", name, listed, c.listed)
		}
		if len(w.stored) != 1 || !strings.HasPrefix(w.stored[0], " > jane@example.edu: "+c.text[:min(len(c.text), 20)]) {
			t.Errorf("%s: handed on %q", name, w.stored)
		}
	}
}

// TestBackTwice: a return path that a message names again and again is worked on
// once, however its recipients are divided into attempts.
func TestBackTwice(t *testing.T) {
	w := newWorld(t)
	env := w.message(t, "jane@example.edu", "a@example.org", "b@example.org")
	a, b := w.settings.Keys.Address(returns.Ref{ID: env.ID}), w.settings.Keys.Address(returns.Ref{ID: env.ID, Recipient: 1})
	upper := mail.Address{Local: strings.ToUpper(a.Local), Domain: strings.ToUpper(a.Domain)}
	out := w.back(t, hardBounce, a, a, b, upper, b)
	if len(out) != 5 || len(w.stored) != 2 || len(w.seen) != 2 || len(w.listed) != 2 {
		t.Errorf("%d results, %d handed on, seen %d, listed %d", len(out), len(w.stored), len(w.seen), len(w.listed))
	}
	for _, o := range out {
		if o.Reply.Code != 250 {
			t.Errorf("%+v", o)
		}
	}
	again := &mail.Envelope{ID: mail.NewID(w.now), Arrived: w.now, Recipients: []mail.Recipient{{Addr: a}, {Addr: a}}}
	hop, _ := w.r.Hop(domain)
	if w.r.Deliver(t.Context(), hop, &delivery.Attempt{Envelope: again, Recipients: []int{1}, Content: content(hardBounce)}); len(w.stored) != 2 {
		t.Errorf("%d handed on after the second half", len(w.stored))
	}
}

func TestBackForNobody(t *testing.T) {
	w := newWorld(t)
	unknown := returns.Ref{ID: mail.NewID(w.now)}
	w.back(t, hardBounce, w.settings.Keys.Address(unknown))
	if len(w.stored) != 1 || !strings.Contains(w.stored[0], " > postmaster@example.edu") || len(w.listed) != 0 || len(w.seen) != 1 {
		t.Errorf("handed on %q, listed %v, seen %v", w.stored, w.listed, w.seen)
	}
	w = newWorld(t)
	w.settings.Forward = false
	env := w.message(t, "jane@example.edu", "a@example.org")
	w.back(t, hardBounce, w.settings.Keys.Address(returns.Ref{ID: env.ID}))
	if len(w.stored) != 0 || len(w.seen) != 1 || w.seen[0].Kind != received.Bounce {
		t.Errorf("without forward: handed on %q, seen %v", w.stored, w.seen)
	}
}

func TestBackRefused(t *testing.T) {
	w := newWorld(t)
	env := w.message(t, "jane@example.edu", "a@example.org")
	good := w.settings.Keys.Address(returns.Ref{ID: env.ID})
	forged := mail.Address{Local: good.Local[:len(good.Local)-1] + "0", Domain: domain}
	for _, a := range []mail.Address{good, forged, {Local: "postmaster", Domain: domain}, address(t, "b+x@example.org")} {
		mine, v := w.r.Recipient(a)
		if want := a == good || a == forged; mine != want || (v == nil) != (a != forged) {
			t.Errorf("%s: mine %t, %v", a, mine, v)
		}
	}
	if out := w.back(t, hardBounce, forged); out[0].Reply.Line() != "550 5.7.1 This return path was not made here" {
		t.Errorf("%v", out)
	}
	w.now = w.now.Add(31 * 24 * time.Hour)
	if _, v := w.r.Recipient(good); v == nil || v.Code != 550 {
		t.Errorf("one that is too old: %v", v)
	}
	if out := w.back(t, hardBounce, good); out[0].Reply.Code != 550 || len(w.seen)+len(w.stored)+len(w.listed) > 0 {
		t.Errorf("%v, %v", out, w.seen)
	}
	w.r.Set(nil)
	if mine, _ := w.r.Recipient(good); mine {
		t.Error("taken without settings")
	}
	if _, ok := w.r.Hop(domain); ok {
		t.Error("a hop without settings")
	}
}

// TestBackLater: what cannot be done now is done later, and nothing of it
// twice; what cannot be done for a day is done without.
func TestBackLater(t *testing.T) {
	for name, c := range map[string]struct {
		hurt func(w *world, yes bool)
		ends bool // after a day
	}{
		"no room":        {func(w *world, yes bool) { w.full = yes }, false},
		"a silent node":  {func(w *world, yes bool) { w.silent = yes }, true},
		"no quorum":      {func(w *world, yes bool) { w.noList = yes }, true},
		"not ours (now)": {nil, false},
	} {
		w := newWorld(t)
		env := w.message(t, "jane@example.edu", "a@example.org")
		to := w.settings.Keys.Address(returns.Ref{ID: env.ID})
		at := &delivery.Attempt{Envelope: &mail.Envelope{ID: mail.NewID(w.now), Arrived: w.now, Recipients: []mail.Recipient{{Addr: to}}}, Recipients: []int{0}, Content: content(hardBounce)}
		ours := errors.New("the lease is gone")
		at.BeforeDot = func() error { return ours }
		if c.hurt != nil {
			ours = nil
			c.hurt(w, true)
		}
		hop, _ := w.r.Hop(domain)
		if out := w.r.Deliver(t.Context(), hop, at); !out[0].Reply.Temporary() || len(w.stored)+len(w.seen) > 0 {
			t.Errorf("%s: %+v, handed on %q", name, out, w.stored)
		}
		w.now = w.now.Add(25 * time.Hour)
		if out := w.r.Deliver(t.Context(), hop, at); out[0].Reply.Positive() != c.ends || len(w.stored) > 0 != c.ends {
			t.Errorf("%s after a day: %+v, handed on %q", name, out, w.stored)
		}
		if c.ends {
			continue
		}
		if ours = nil; c.hurt != nil {
			c.hurt(w, false)
		}
		if out := w.r.Deliver(t.Context(), hop, at); !out[0].Reply.Positive() || len(w.stored) != 1 || len(w.seen) != 1 {
			t.Errorf("%s, mended: %+v, handed on %q", name, out, w.stored)
		}
	}
}

// TestOtherMailOfTheDomain goes where it would go without return paths.
func TestOtherMailOfTheDomain(t *testing.T) {
	w := newWorld(t)
	w.settings.Groups = []string{"other"}
	env := w.message(t, "jane@example.edu", "a@example.org")
	out := w.back(t, softBounce, address(t, "postmaster@"+domain), w.settings.Keys.Address(returns.Ref{ID: env.ID}))
	if len(out) != 2 || len(w.sent) != 1 || !strings.HasSuffix(w.sent[0], "postmaster@"+domain+" by mx:"+domain) || len(w.seen) != 1 {
		t.Errorf("%+v, sent %q, seen %v", out, w.sent, w.seen)
	}
}

func FuzzOpen(f *testing.F) {
	k := keys(f, oldKey)
	f.Add(k.Address(returns.Ref{Recipient: 3}).Local)
	f.Add("b+.1.x")
	f.Fuzz(func(t *testing.T, local string) {
		ref, err := k.Open(mail.Address{Local: local, Domain: domain})
		if err == nil && !strings.EqualFold(k.Address(ref).Local, local) {
			t.Errorf("%q stands for %v", local, ref)
		}
	})
}
