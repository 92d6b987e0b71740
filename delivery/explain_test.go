package delivery

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/clrelay/clrelay/delivery/smtpc/smtpctest"
	"github.com/clrelay/clrelay/internal/mail"
)

// A probe says what a delivery would say, but never DATA.
func TestProbeSendsNoMessage(t *testing.T) {
	srv := &smtpctest.Server{Ehlo: []string{"PIPELINING", "CHUNKING", "SIZE 1000"}, Say: func(_ int, verb, line string) string {
		if strings.HasPrefix(line, "RCPT TO:<no@") {
			return "550 5.1.1 nobody"
		}
		return ""
	}}
	addr, stop, err := srv.Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	at := netip.MustParseAddrPort(addr.String())
	a := New(Options{Hostname: "relay.test"})
	defer a.Close()
	hop := mail.NextHop{Kind: mail.HopSmarthost, Hosts: []mail.HostPort{{Name: "127.0.0.1", Port: at.Port()}}}
	hosts, notes := a.Candidates(t.Context(), hop)
	if len(hosts) != 1 || hosts[0].Addr != at || hosts[0].Pref != -1 || len(notes) != 0 {
		t.Fatalf("hosts %v, notes %v", hosts, notes)
	}
	for local, want := range map[string]string{"yes": "", "no": "550 5.1.1 nobody"} {
		env := &mail.Envelope{From: mail.Address{Local: "a", Domain: "b.test"}, Recipients: []mail.Recipient{{Addr: mail.Address{Local: local, Domain: "c.test"}}}}
		p, err := a.Probe(t.Context(), hop, hosts[0], env)
		got := ""
		if p.Rcpt != nil {
			got = p.Rcpt.Line()
		}
		if err != nil || got != want || !slices.Contains(p.Offers.Words(), "SIZE 1000") {
			t.Errorf("%s: %q, %v, %v", local, got, err, p.Offers.Words())
		}
	}
	if all := strings.Join(srv.Commands(), "|"); strings.Count(all, "RCPT") != 2 || strings.Contains(all, "DATA") || strings.Contains(all, "BDAT") {
		t.Errorf("it was told %s", all)
	}
	// What a probe meets is not remembered.
	hosts, _ = a.Candidates(t.Context(), mail.NextHop{Kind: mail.HopSmarthost, Hosts: []mail.HostPort{{Name: "127.0.0.1", Port: 1}}})
	if _, err := a.Probe(t.Context(), hop, hosts[0], &mail.Envelope{Recipients: make([]mail.Recipient, 1)}); err == nil || a.dead.has(hosts[0].Addr) {
		t.Errorf("error %v, remembered %v", err, a.dead.has(hosts[0].Addr))
	}
}

// What a host says to MAIL is marked as not being about the recipients.
func TestOutcomeOfMail(t *testing.T) {
	srv := &smtpctest.Server{Ehlo: []string{"PIPELINING"}, Say: func(_ int, verb, line string) string {
		if strings.HasPrefix(line, "MAIL FROM:<no@") || strings.HasPrefix(line, "RCPT TO:<no@") {
			return "550 5.1.1 no: user unknown"
		}
		return ""
	}}
	addr, stop, err := srv.Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	a := New(Options{Hostname: "relay.test"})
	defer a.Close()
	hop := mail.NextHop{Kind: mail.HopSmarthost, Hosts: []mail.HostPort{{Name: "127.0.0.1", Port: netip.MustParseAddrPort(addr.String()).Port()}}}
	for from, to := range map[string]string{"no": "yes", "yes": "no"} {
		env := &mail.Envelope{From: mail.Address{Local: from, Domain: "b.test"}, Recipients: []mail.Recipient{{Addr: mail.Address{Local: to, Domain: "c.test"}}}}
		out := a.Deliver(t.Context(), hop, &Attempt{Envelope: env, Recipients: []int{0}, Content: nothing{}})
		if out[0].Reply.Code != 550 || out[0].OfMail != (from == "no") {
			t.Errorf("from %s to %s: %+v", from, to, out[0])
		}
	}
}
