package delivery_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/xdg-go/scram"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/delivery/smtpc/smtpctest"
	"github.com/clrelay/clrelay/internal/mail"
)

func certificate(t testing.TB, names ...string) (*tls.Config, *x509.CertPool) {
	t.Helper()
	conf, pool, err := smtpctest.Certificate(names...)
	if err != nil {
		t.Fatal(err)
	}
	return conf, pool
}

// TestTLSModes: what each mode makes of each kind of host.
func TestTLSModes(t *testing.T) {
	good, roots := certificate(t, "mx.example.net", "127.0.0.1")
	bad, _ := certificate(t, "other.example.net")
	old := good.Clone()
	old.MaxVersion = tls.VersionTLS11
	hosts := map[string]*tls.Config{"good": good, "bad": bad, "old": old, "none": nil}
	for _, c := range []struct {
		host string
		mode mail.TLSMode
		want string
		tls  string // what the facts begin and end with
	}{
		{"good", mail.TLSOpportunistic, "250", "TLSv1.3 verified"},
		{"bad", mail.TLSOpportunistic, "250", "TLSv1.3 "},
		{"old", mail.TLSOpportunistic, "250", ""}, // in the clear, on a new connection
		{"none", mail.TLSOpportunistic, "250", ""},
		{"good", mail.TLSNone, "250", ""},
		{"good", mail.TLSRequire, "250", "TLSv1.3 verified"},
		{"bad", mail.TLSRequire, "250", "TLSv1.3 "},
		{"old", mail.TLSRequire, "451 4.7.5", ""},
		{"none", mail.TLSRequire, "451 4.7.4", ""},
		{"good", mail.TLSVerify, "250", "TLSv1.3 verified"},
		{"bad", mail.TLSVerify, "451 4.7.5", ""},
		{"none", mail.TLSVerify, "451 4.7.4", ""},
	} {
		t.Run(c.host+"/"+strconv.Itoa(int(c.mode)), func(t *testing.T) {
			s := &smtpctest.Server{TLS: hosts[c.host], Ehlo: []string{"PIPELINING"}}
			addr := listen(t, s)
			hop := smarthost(addr)
			hop.Hosts[0].Name = "mx.example.net"
			hop.TLS = c.mode
			a := agent(t, delivery.Options{RootCAs: roots, Resolver: zone{"A mx.example.net": "127.0.0.1"}})
			for range 2 {
				o := a.Deliver(t.Context(), hop, message(hello, "a"))[0]
				begin, end, _ := strings.Cut(c.tls, " ")
				if !strings.HasPrefix(o.Reply.Line(), c.want) || !strings.HasPrefix(o.TLS, begin) || !strings.HasSuffix(o.TLS, end) || (c.tls == "") != (o.TLS == "") {
					t.Errorf("outcome %s, TLS %q; want %s, %q", o.Reply.Error(), o.TLS, c.want, c.tls)
				}
				if o.TLS != "" && end == "" && strings.Contains(o.TLS, "verified") {
					t.Errorf("TLS %q, not verified", o.TLS)
				}
			}
			for _, m := range s.Messages() {
				if m.TLS != (c.tls != "") {
					t.Errorf("message under TLS: %v", m.TLS)
				}
			}
			// The handshake that failed is not tried again for a while.
			if n := s.Sessions(); c.host == "old" && c.mode == mail.TLSOpportunistic && n != 2 {
				t.Errorf("%d sessions, want 2", n)
			}
		})
	}
}

// TestImplicitTLS: port 465 of a smarthost.
func TestImplicitTLS(t *testing.T) {
	conf, roots := certificate(t, "mx.example.net")
	s := &smtpctest.Server{TLS: conf, Implicit: true}
	addr := listen(t, s)
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, addr.String())
	}
	hop := mail.NextHop{Kind: mail.HopSmarthost, Hosts: []mail.HostPort{{Name: "mx.example.net", Port: 465}}, TLS: mail.TLSVerify}
	a := agent(t, delivery.Options{RootCAs: roots, Dial: dial, Resolver: zone{"A mx.example.net": "192.0.2.1"}})
	o := a.Deliver(t.Context(), hop, message(hello, "a"))[0]
	if o.Reply.Code != 250 || !strings.HasSuffix(o.TLS, " verified") || o.Remote != "mx.example.net[192.0.2.1]:465" {
		t.Errorf("outcome %s, TLS %q, remote %q", o.Reply.Error(), o.TLS, o.Remote)
	}
}

// TestStartTLSInjection: what comes in the clear behind the 220 ends the
// connection, and is never taken for what the host says under TLS.
func TestStartTLSInjection(t *testing.T) {
	conf, roots := certificate(t, "127.0.0.1")
	for _, mode := range []mail.TLSMode{mail.TLSOpportunistic, mail.TLSVerify} {
		s := &smtpctest.Server{TLS: conf, Say: func(_ int, verb, _ string) string {
			if verb == "STARTTLS" {
				return "220 go\r\n250 injected.example"
			}
			return ""
		}}
		hop := smarthost(listen(t, s))
		hop.TLS = mode
		o := agent(t, delivery.Options{RootCAs: roots}).Deliver(t.Context(), hop, message(hello, "a"))[0]
		if o.Reply.Code != 451 || len(s.Messages()) != 0 {
			t.Errorf("outcome %s, %d messages", o.Reply.Error(), len(s.Messages()))
		}
	}
}

// TestStartTLSRefused: 454 lets an opportunistic session go on in the clear.
func TestStartTLSRefused(t *testing.T) {
	conf, roots := certificate(t, "127.0.0.1")
	for mode, want := range map[mail.TLSMode]string{mail.TLSOpportunistic: "250", mail.TLSRequire: "454"} {
		s := &smtpctest.Server{TLS: conf, Say: func(_ int, verb, _ string) string {
			if verb == "STARTTLS" {
				return "554 5.7.0 not today"
			}
			return ""
		}}
		hop := smarthost(listen(t, s))
		hop.TLS = mode
		if got := codes(agent(t, delivery.Options{RootCAs: roots}).Deliver(t.Context(), hop, message(hello, "a"))); got != want {
			t.Errorf("mode %d: outcome %s, want %s", mode, got, want)
		}
	}
}

// TestRequireTLS: RFC 8689 asks for a verified host that offers REQUIRETLS,
// and lets other hosts of the hop be asked.
func TestRequireTLS(t *testing.T) {
	good, roots := certificate(t, "127.0.0.1")
	bad, _ := certificate(t, "example.com")
	can := &smtpctest.Server{TLS: good, Ehlo: []string{"REQUIRETLS"}}
	cannot := &smtpctest.Server{TLS: good}
	unverified := &smtpctest.Server{TLS: bad, Ehlo: []string{"REQUIRETLS"}}
	clear := &smtpctest.Server{Ehlo: []string{"REQUIRETLS"}}
	for _, c := range []struct {
		name  string
		hosts []*smtpctest.Server
		mode  mail.TLSMode
		want  string
	}{
		{"can", []*smtpctest.Server{can}, mail.TLSOpportunistic, "250 2.0.0"},
		{"second can", []*smtpctest.Server{cannot, clear, unverified, can}, mail.TLSOpportunistic, "250 2.0.0"},
		{"nobody can", []*smtpctest.Server{cannot, clear, unverified}, mail.TLSOpportunistic, "550 5.7.30"},
		{"not allowed to", []*smtpctest.Server{can}, mail.TLSNone, "550 5.7.30"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var hosts []netip.AddrPort
			for _, s := range c.hosts {
				hosts = append(hosts, listen(t, s))
			}
			hop := smarthost(hosts...)
			hop.TLS = c.mode
			at := message(hello, "a")
			at.Envelope.RequireTLS = true
			o := agent(t, delivery.Options{RootCAs: roots}).Deliver(t.Context(), hop, at)[0]
			if !strings.HasPrefix(o.Reply.Line(), c.want) {
				t.Errorf("outcome %s, want %s", o.Reply.Error(), c.want)
			}
		})
	}
	if m := can.Messages(); len(m) != 2 || !strings.HasSuffix(m[0].Mail, " REQUIRETLS") {
		t.Errorf("messages %+v", m)
	}
	if n := len(cannot.Messages()) + len(clear.Messages()) + len(unverified.Messages()); n != 0 {
		t.Errorf("%d messages went where they must not", n)
	}
}

// login is a host that knows one user; it returns what to put into Say.
func login(mechs string, passwords *[]string) func(int, string, string) string {
	state := map[int]string{}
	want := func(p string) string { return base64.StdEncoding.EncodeToString([]byte("\x00us\xc3\xa9r\x00" + p)) }
	return func(session int, verb, line string) string {
		check := func(ok bool) string {
			delete(state, session)
			if ok {
				return "235 2.7.0 welcome"
			}
			return "535 5.7.8 who?"
		}
		switch st := state[session]; {
		case verb == "AUTH":
			switch words := strings.Fields(line); words[1] {
			case "PLAIN":
				if len(words) == 2 {
					state[session] = "plain"
					return "334 "
				}
				return check(words[2] == want((*passwords)[0]))
			case "LOGIN":
				state[session] = "user"
				return "334 VXNlcm5hbWU6"
			}
		case st == "plain":
			return check(line == want((*passwords)[0]))
		case st == "user":
			state[session] = "pass"
			return "334 not even base64!"
		case st == "pass":
			return check(line == base64.StdEncoding.EncodeToString([]byte((*passwords)[0])))
		}
		return ""
	}
}

func authHop(t *testing.T, addr netip.AddrPort, password string) (mail.NextHop, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(password), 0o600); err != nil {
		t.Fatal(err)
	}
	hop := smarthost(addr)
	hop.Auth = &mail.Credentials{User: "usér", PasswordFile: file}
	return hop, file
}

func TestAuth(t *testing.T) {
	conf, roots := certificate(t, "127.0.0.1")
	long := strings.Repeat("x", 600)
	for _, c := range []struct {
		name, mechs, file, want string
		tls                     bool
	}{
		{"plain", "AUTH LOGIN PLAIN", "secret\n", "250 2.0.0", true},
		{"login, old form", "auth=login", "secret\r\n", "250 2.0.0", true},
		{"long password", "AUTH PLAIN", long, "250 2.0.0", true},
		{"wrong", "AUTH PLAIN", "guess", "454 4.7.8", true},
		{"wrong, login", "AUTH LOGIN", "guess", "454 4.7.8", true},
		{"empty file", "AUTH PLAIN", "\n", "451 4.7.0", true},
		{"nothing in common", "AUTH GSSAPI", "secret", "451 4.7.0", true},
		{"none offered", "DSN", "secret", "451 4.7.0", true},
		{"no TLS", "AUTH PLAIN", "secret", "451 4.7.4", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			password := "secret"
			if c.file == long {
				password = long
			}
			s := &smtpctest.Server{Ehlo: []string{c.mechs}, Say: login(c.mechs, &[]string{password})}
			if c.tls {
				s.TLS = conf
			}
			hop, _ := authHop(t, listen(t, s), c.file)
			o := agent(t, delivery.Options{RootCAs: roots}).Deliver(t.Context(), hop, message(hello, "a"))[0]
			if !strings.HasPrefix(o.Reply.Line(), c.want) {
				t.Errorf("outcome %s, want %s", o.Reply.Error(), c.want)
			}
			if strings.Contains(o.Reply.Error(), "secret") {
				t.Errorf("the outcome shows the password: %s", o.Reply.Error())
			}
			if !c.tls && strings.Contains(strings.Join(s.Commands(), "\n"), "AUTH ") {
				t.Error("AUTH without TLS")
			}
		})
	}
}

// TestPasswordRotates: the file is read for each new session.
func TestPasswordRotates(t *testing.T) {
	conf, roots := certificate(t, "127.0.0.1")
	passwords := []string{"old"}
	s := &smtpctest.Server{TLS: conf, Ehlo: []string{"AUTH PLAIN"}, Say: login("PLAIN", &passwords)}
	hop, file := authHop(t, listen(t, s), "old")
	a := agent(t, delivery.Options{RootCAs: roots, Limits: delivery.Limits{ConnMessages: 1}})
	if got := codes(a.Deliver(t.Context(), hop, message(hello, "a"))); got != "250" {
		t.Fatalf("outcome %s", got)
	}
	s.Do(func() { passwords[0] = "new" })
	if got := codes(a.Deliver(t.Context(), hop, message(hello, "a"))); got != "454" {
		t.Errorf("outcome %s with the old password", got)
	}
	if err := os.WriteFile(file, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := codes(a.Deliver(t.Context(), hop, message(hello, "a"))); got != "250" {
		t.Errorf("outcome %s with the new password", got)
	}
}

// TestScram: with an honest host, and with ones that cannot know the password
// or want us to work for ever.
func TestScram(t *testing.T) {
	conf, roots := certificate(t, "127.0.0.1")
	client, err := scram.SHA256.NewClient("usér", "secret", "")
	if err != nil {
		t.Fatal(err)
	}
	stored, err := client.GetStoredCredentialsWithError(scram.KeyFactors{Salt: "salt", Iters: 4096})
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.StdEncoding
	for _, c := range []struct {
		name, password, want string
		twist                func(step int, challenge string) string
	}{
		{"honest", "secret", "250", nil},
		{"last message with the 235", "secret", "250", func(step int, ch string) string {
			if step == 2 {
				return "235 " + ch
			}
			return ""
		}},
		{"wrong password", "guess", "451", nil},
		{"no proof", "secret", "451", func(step int, _ string) string {
			if step == 2 {
				return "235 trust me"
			}
			return ""
		}},
		{"false proof", "secret", "451", func(step int, _ string) string {
			if step == 2 {
				return "235 " + b64.EncodeToString([]byte("v="+b64.EncodeToString(make([]byte, 32))))
			}
			return ""
		}},
		{"endless work", "secret", "451", func(step int, ch string) string {
			if step == 1 {
				raw, _ := b64.DecodeString(ch)
				return "334 " + b64.EncodeToString([]byte(strings.Replace(string(raw), "i=4096", "i=2000000000", 1)))
			}
			return ""
		}},
		{"no work", "secret", "451", func(step int, ch string) string {
			if step == 1 {
				raw, _ := b64.DecodeString(ch)
				return "334 " + b64.EncodeToString([]byte(strings.Replace(string(raw), "i=4096", "i=1", 1)))
			}
			return ""
		}},
		{"at once", "secret", "451", func(int, string) string { return "235 come in" }},
		{"not base64", "secret", "451", func(int, string) string { return "334 ????" }},
		{"endless", "secret", "451", func(_ int, ch string) string { return "334 " + ch }},
	} {
		t.Run(c.name, func(t *testing.T) {
			server, err := scram.SHA256.NewServer(func(string) (scram.StoredCredentials, error) { return stored, nil })
			if err != nil {
				t.Fatal(err)
			}
			conv, step := server.NewConversation(), 0
			s := &smtpctest.Server{TLS: conf, Ehlo: []string{"AUTH PLAIN SCRAM-SHA-256"}, Say: func(_ int, verb, line string) string {
				msg, ok := strings.CutPrefix(line, "AUTH SCRAM-SHA-256 ")
				if !ok && (step == 0 || verb == "QUIT" || verb == "MAIL" || verb == "RCPT" || verb == "DATA" || verb == smtpctest.Dot) {
					return ""
				}
				if !ok {
					msg = line
				}
				step++
				raw, _ := b64.DecodeString(msg)
				answer := ""
				if !conv.Done() {
					answer, _ = conv.Step(string(raw))
				}
				ch := b64.EncodeToString([]byte(answer))
				if c.twist != nil {
					if r := c.twist(step, ch); r != "" {
						return r
					}
				}
				if step == 3 {
					return "235 2.7.0 welcome"
				}
				return "334 " + ch
			}}
			hop, _ := authHop(t, listen(t, s), c.password)
			o := agent(t, delivery.Options{RootCAs: roots}).Deliver(t.Context(), hop, message(hello, "a"))[0]
			if o.Reply.Code/100 != int(c.want[0]-'0') {
				t.Errorf("outcome %s, want %s", o.Reply.Error(), c.want)
			}
			if (len(s.Messages()) == 1) != (c.want == "250") {
				t.Errorf("%d messages", len(s.Messages()))
			}
		})
	}
}
