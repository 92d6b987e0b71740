package system

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/delivery/dsn"
	"github.com/clrelay/clrelay/internal/dnsx/dnstest"
	"github.com/clrelay/clrelay/test/peers"
	"github.com/clrelay/clrelay/test/relayproc"
)

// mxWorld is a relay that delivers by MX into a small world: one port, and an
// address of 127.0.1.0/24 for each mail server.
type mxWorld struct {
	relay *relayproc.Relay
	dns   *dnstest.Server
	one   *peers.Hop // 127.0.1.1
	two   *peers.Hop // 127.0.1.2
	busy  *peers.Hop // 127.0.1.3: greets with 421
	inbox *peers.Hop // 127.0.1.4: the senders' own server
}

func mx(pref uint16, host string) dnstest.MX { return dnstest.MX{Pref: pref, Host: host} }

func newMXWorld(t *testing.T) *mxWorld {
	t.Helper()
	bin := binary(t)
	zone := dnstest.Zone{
		"one.host": {A: []string{"127.0.1.1"}}, "two.host": {A: []string{"127.0.1.2"}}, "busy.host": {A: []string{"127.0.1.3"}}, "inbox.host": {A: []string{"127.0.1.4"}},
		"dead.host": {A: []string{"127.0.1.9"}}, "self.host": {A: []string{"127.0.0.1"}}, "dead6.host": {AAAA: []string{"::1"}, A: []string{"127.0.1.2"}},
		"client.test":   {MX: []dnstest.MX{mx(10, "inbox.host")}},
		"pref.test":     {MX: []dnstest.MX{mx(20, "two.host"), mx(10, "one.host")}},
		"dead.test":     {MX: []dnstest.MX{mx(10, "dead.host"), mx(20, "two.host")}},
		"busy.test":     {MX: []dnstest.MX{mx(10, "busy.host"), mx(20, "two.host")}},
		"gone.test":     {MX: []dnstest.MX{mx(10, "nowhere.host"), mx(20, "two.host")}},
		"six.test":      {MX: []dnstest.MX{mx(10, "dead6.host")}},
		"implicit.test": {A: []string{"127.0.1.1"}},
		"alias.test":    {CNAME: "pref.test"},
		"cut.test":      {MX: []dnstest.MX{mx(10, "one.host")}, Truncate: true},
		"null.test":     {MX: []dnstest.MX{{Host: "."}}},
		"empty.test":    {TXT: []string{"no mail here"}},
		"self.test":     {MX: []dnstest.MX{mx(10, "self.host")}},
		"backup.test":   {MX: []dnstest.MX{mx(10, "dead.host"), mx(20, "self.host")}},
		"broken.test":   {Rcode: dnstest.ServFail},
		"silent.test":   {Drop: true},
	}
	srv, err := dnstest.Start(zone)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &mxWorld{dns: srv}
	w.relay, err = relayproc.New(relayproc.Options{Binary: bin, Dir: workDir(t)})
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(w.relay.SMTP)
	if err := w.relay.SetCluster(fmt.Sprintf(`senders: [{name: local, networks: [127.0.0.0/8]}]
queue: {retry: [1s, 2s], expire: 1h}
deliver: {mx_port: %s}
dns: {servers: [%q]}
`, port, srv.Addr())); err != nil {
		t.Fatal(err)
	}
	for i, h := range []**peers.Hop{&w.one, &w.two, &w.busy, &w.inbox} {
		*h = &peers.Hop{}
		if h == &w.busy {
			(*h).Answer = func(line string) string {
				if line == "" {
					return "421 4.3.2 Too busy"
				}
				return ""
			}
		}
		if err := (*h).Listen(fmt.Sprintf("127.0.1.%d:%s", i+1, port)); err != nil {
			t.Skipf("no other loopback addresses here: %v", err)
		}
		t.Cleanup((*h).Close)
	}
	if err := w.relay.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.relay.Stop(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// TestMX: mail finds its host by RFC 5321 5.1, or bounces, or waits.
func TestMX(t *testing.T) {
	t.Parallel()
	w := newMXWorld(t)
	n := 0
	sender := func() string { n++; return fmt.Sprintf("s%d@client.test", n) }

	for domain, hop := range map[string]*peers.Hop{
		"pref.test": w.one, "dead.test": w.two, "busy.test": w.two, "gone.test": w.two, "six.test": w.two,
		"implicit.test": w.one, "alias.test": w.one, "cut.test": w.one, "[127.0.1.1]": w.one, "PREF.test": w.one,
	} {
		t.Run(domain, func(t *testing.T) {
			s := sender()
			submit(t, w.relay.SMTP, s, "u@"+domain, note(domain))
			m := mailsFrom(t, hop, s, 1)[0]
			sameContent(t, m.Data, note(domain))
			if got := m.Rcpts()[0]; got != "u@"+domain {
				t.Errorf("the recipient became %s", got)
			}
		})
	}
	for domain, status := range map[string]string{
		"null.test": "5.1.10", "nowhere.test": "5.1.2", "empty.test": "5.1.2", "self.test": "5.4.6", "[127.0.0.1]": "5.4.6",
	} {
		t.Run(domain, func(t *testing.T) {
			s := sender()
			submit(t, w.relay.SMTP, s, "u@"+domain, note(domain))
			st := reportAt(t, w.inbox, s)
			if len(st.Recipients) != 1 || st.Recipients[0].Final.Value != "u@"+domain || st.Recipients[0].Action != "failed" {
				t.Fatalf("report: %+v", st.Recipients)
			}
			if got := st.Recipients[0].Status; got != status && !(status == "5.1.2" && got == "5.4.4") {
				t.Errorf("status %s, want %s: %+v", got, status, st.Recipients[0])
			}
		})
	}
	// We are a backup of backup.test (RFC 5321 5.1): its mail waits for the
	// better host and never comes back to us.
	t.Run("backup.test", func(t *testing.T) {
		s := sender()
		id := submit(t, w.relay.SMTP, s, "u@backup.test", note("backup"))
		eventually(t, 20*time.Second, "it waits", func() bool {
			rows := queueRows(t, w.relay, "--id", id)
			return len(rows) == 1 && rows[0].Attempts > 1 && strings.Contains(rows[0].LastReply, "dead.host")
		})
		eventually(t, 20*time.Second, "it can be dropped", func() bool {
			_, _, code := w.relay.CLI("queue", "drop", id, "--yes") // not while it is being tried
			return code == 0
		})
	})
	for _, domain := range []string{"broken.test", "silent.test"} {
		t.Run(domain, func(t *testing.T) {
			s := sender()
			id := submit(t, w.relay.SMTP, s, "u@"+domain, note(domain))
			eventually(t, 40*time.Second, "it waits", func() bool {
				rows := queueRows(t, w.relay, "--id", id)
				return len(rows) == 1 && rows[0].Attempts > 0 && strings.Contains(rows[0].LastReply, " 4.4.3 ")
			})
			w.dns.Set(domain, dnstest.Name{MX: []dnstest.MX{mx(10, "one.host")}})
			mailsFrom(t, w.one, s, 1)
		})
	}
	t.Run("many domains, one host", func(t *testing.T) {
		c := greeted(t, w.relay.SMTP)
		s := sender()
		c.envelope("<"+s+">", "<a@pref.test>", "<b@implicit.test>", "<c@pref.test>", "<d@dead.test>")
		c.data(note("for several"))
		eventually(t, 20*time.Second, "all four have it", func() bool {
			var got []string
			for _, h := range []*peers.Hop{w.one, w.two} {
				for _, m := range h.Mails() {
					if m.Sender() == s {
						got = append(got, m.Rcpts()...)
					}
				}
			}
			slices.Sort(got)
			return slices.Equal(got, []string{"a@pref.test", "b@implicit.test", "c@pref.test", "d@dead.test"})
		})
	})
	emptyQueue(t, w.relay, 20*time.Second)
	balanced(t, w.relay)
}

// reportAt waits for the one report at a hop that is for a sender.
func reportAt(t testing.TB, h *peers.Hop, sender string) *dsn.Status {
	t.Helper()
	st, _ := reportMail(t, h, sender)
	return st
}

func reportMail(t testing.TB, h *peers.Hop, sender string) (*dsn.Status, peers.Mail) {
	t.Helper()
	var mail peers.Mail
	eventually(t, 30*time.Second, "a report for "+sender, func() bool {
		for _, m := range h.Mails() {
			if m.Sender() == "" && slices.Contains(m.Rcpts(), sender) {
				mail = m
				return true
			}
		}
		return false
	})
	st, err := dsn.Parse(bytes.NewReader(mail.Data))
	if errors.Is(err, dsn.ErrNotReport) {
		t.Fatalf("no report: %s", mail.Data)
	} else if err != nil {
		t.Fatal(err)
	}
	return st, mail
}
