package dialogue_test

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/clrelay/clrelay/internal/dialogue"
)

func follow(t *testing.T, tap *dialogue.Tap, f dialogue.Filter) *dialogue.Follower {
	t.Helper()
	w, ok := tap.Follow(f)
	if !ok {
		t.Fatal("nobody may follow")
	}
	t.Cleanup(w.Close)
	return w
}

// drain takes what waits.
func drain(w *dialogue.Follower) (out []dialogue.Line) {
	for {
		select {
		case l := <-w.C:
			out = append(out, l)
		default:
			return out
		}
	}
}

func TestSecretsAreLeftOut(t *testing.T) {
	tap := &dialogue.Tap{}
	w := follow(t, tap, dialogue.Filter{Client: netip.MustParsePrefix("192.0.2.0/24")})
	s := tap.Server(netip.MustParseAddr("::ffff:192.0.2.7"))
	const secret = "AGFuZHkAc2VjcmV0"
	s.Command("EHLO client.example")
	s.Command("AUTH PLAIN " + secret)
	s.Command("auth plain " + secret)
	s.Command("AUTH " + secret + secret)
	s.Reply("334 " + secret + "\r\n")
	s.Command(secret)
	s.Command("Subject: " + secret)
	s.Secret(false, "235 ", len(secret))
	s.Content(1234)
	s.Reply("250-a\r\n250 b\r\n")
	s.Command("MAIL FROM:<a@b>")
	s.End("quit")
	var said []string
	for _, l := range drain(w) {
		if strings.Contains(l.Text, secret) {
			t.Errorf("%q has the secret", l.Text)
		}
		if l.Peer != "192.0.2.7" || l.Side != dialogue.Server || l.Session != 1 {
			t.Errorf("line %+v", l)
		}
		said = append(said, []string{"*", "S", "C"}[l.Who]+" "+l.Text)
	}
	want := []string{
		"C EHLO client.example", "C AUTH PLAIN [16 octets]", "C auth plain [16 octets]", "C AUTH [32 octets]",
		"S 334 [16 octets]", "C [16 octets]", "C [25 octets]", "S 235 [16 octets]", "C [content of 1234 octets]",
		"S 250-a", "S 250 b", "C MAIL FROM:<a@b>", "* closed: quit",
	}
	if !slices.Equal(said, want) {
		t.Errorf("heard\n%s\nwant\n%s", strings.Join(said, "\n"), strings.Join(want, "\n"))
	}
}

func TestWhoIsListenedTo(t *testing.T) {
	tap := &dialogue.Tap{}
	domains := slices.Values([]string{"b.example", "Example.ORG"})
	if tap.On() || tap.Server(netip.MustParseAddr("192.0.2.7")) != nil || tap.Client("x", "mx.example.org", domains) != nil {
		t.Error("a session without a follower")
	}
	if (*dialogue.Tap)(nil).Server(netip.MustParseAddr("192.0.2.7")) != nil {
		t.Error("a session of no tap")
	}
	clients := follow(t, tap, dialogue.Filter{Client: netip.MustParsePrefix("2001:db8::/32")})
	for addr, want := range map[string]bool{"2001:db8::1": true, "2001:db9::1": false, "192.0.2.7": false} {
		if got := tap.Server(netip.MustParseAddr(addr)) != nil; got != want {
			t.Errorf("client %s: %v", addr, got)
		}
	}
	if tap.Client("x", "mx.example.org", domains) != nil {
		t.Error("a next hop that nobody asked for")
	}
	clients.Close()
	clients.Close()
	if tap.On() {
		t.Error("it is on although nobody follows")
	}
	follow(t, tap, dialogue.Filter{Dest: "example.org"})
	for host, want := range map[string]bool{"mx.example.org": true, "example.org": true, "badexample.org": false, "example.org.evil": false} {
		if got := tap.Client("x", host, slices.Values([]string{"other.example"})) != nil; got != want {
			t.Errorf("host %s: %v", host, got)
		}
	}
	if tap.Client("x", "mx.elsewhere.example", domains) == nil {
		t.Error("not found by the recipients' domain")
	}
}

// Who does not take the lines loses them, and is told; the connection goes on.
func TestSlowFollowerLoses(t *testing.T) {
	tap := &dialogue.Tap{}
	w := follow(t, tap, dialogue.Filter{Dest: "example.org"})
	s := tap.Client("x", "example.org", nil)
	if got := dialogue.From(dialogue.With(context.Background(), s)); got != s {
		t.Error("a context forgets the session")
	}
	for range 2000 {
		s.Command("NOOP")
	}
	if got, lost := len(drain(w)), w.Lost(); got+int(lost) != 2000 || lost == 0 || got == 0 {
		t.Errorf("%d lines and %d lost", got, lost)
	}
	if w.Lost() != 0 {
		t.Error("lost lines are told twice")
	}
}

func TestFollowersAreBounded(t *testing.T) {
	tap := &dialogue.Tap{}
	for range 16 {
		follow(t, tap, dialogue.Filter{Dest: "example.org"})
	}
	if _, ok := tap.Follow(dialogue.Filter{}); ok {
		t.Error("a follower too many")
	}
}

func BenchmarkNobodyListens(b *testing.B) {
	tap, addr := &dialogue.Tap{}, netip.MustParseAddr("192.0.2.7")
	b.ReportAllocs()
	for b.Loop() {
		s := tap.Server(addr)
		s.Command("NOOP")
	}
}
