package delivery_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/internal/mail"
)

// inbox is a go-smtp server, a peer that was not written here.
type inbox struct {
	mu   sync.Mutex
	got  []received
	user string
}

type received struct {
	from string
	opts smtp.MailOptions
	to   []string
	ropt []smtp.RcptOptions
	data []byte
}

type inboxSession struct {
	in *inbox
	m  received
}

func (in *inbox) NewSession(*smtp.Conn) (smtp.Session, error) { return &inboxSession{in: in}, nil }
func (s *inboxSession) Reset()                                { s.m = received{} }
func (s *inboxSession) Logout() error                         { return nil }
func (s *inboxSession) Mail(from string, o *smtp.MailOptions) error {
	s.m.from, s.m.opts = from, *o
	return nil
}

func (s *inboxSession) Rcpt(to string, o *smtp.RcptOptions) error {
	if strings.HasPrefix(to, "no") {
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such user"}
	}
	s.m.to, s.m.ropt = append(s.m.to, to), append(s.m.ropt, *o)
	return nil
}

func (s *inboxSession) Data(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.m.data = b
	s.in.mu.Lock()
	defer s.in.mu.Unlock()
	s.in.got = append(s.in.got, s.m)
	return nil
}

// lmtpSession answers for each recipient.
type lmtpSession struct{ inboxSession }

func (s *lmtpSession) LMTPData(r io.Reader, st smtp.StatusCollector) error {
	if err := s.Data(r); err != nil {
		return err
	}
	for _, to := range s.m.to {
		var err error
		if strings.HasPrefix(to, "full") {
			err = &smtp.SMTPError{Code: 452, EnhancedCode: smtp.EnhancedCode{4, 2, 2}, Message: "full"}
		}
		st.SetStatus(to, err)
	}
	return nil
}

type authInboxSession struct{ inboxSession }

func (s *authInboxSession) AuthMechanisms() []string { return []string{sasl.Plain} }
func (s *authInboxSession) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if user != "usér" || password != "secret" {
			return smtp.ErrAuthFailed
		}
		s.in.mu.Lock()
		defer s.in.mu.Unlock()
		s.in.user = user
		return nil
	}), nil
}

func (s *authInboxSession) Mail(from string, o *smtp.MailOptions) error {
	if s.in.user == "" {
		return smtp.ErrAuthRequired
	}
	return s.inboxSession.Mail(from, o)
}

func (in *inbox) take(t *testing.T) received {
	t.Helper()
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.got) != 1 {
		t.Fatalf("%d messages, want 1", len(in.got))
	}
	m := in.got[0]
	in.got = nil
	return m
}

func goSMTP(t *testing.T, be smtp.Backend, with func(*smtp.Server)) netip.AddrPort {
	t.Helper()
	s := smtp.NewServer(be)
	s.Domain = "inbox.example.net"
	s.EnableSMTPUTF8, s.EnableBINARYMIME, s.EnableDSN, s.EnableREQUIRETLS = true, true, true, true
	s.MaxLineLength = 1 << 20
	if with != nil {
		with(s)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() { _ = s.Serve(l) }) // ends with Close
	t.Cleanup(func() { _ = s.Close(); done.Wait() })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func TestGoSMTP(t *testing.T) {
	conf, roots := certificate(t, "127.0.0.1")
	in := &inbox{}
	addr := goSMTP(t, in, func(s *smtp.Server) { s.TLSConfig = conf.Clone() })
	hop := smarthost(addr)
	hop.TLS = mail.TLSVerify
	a := agent(t, delivery.Options{RootCAs: roots})
	random := make([]byte, 300_000)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	for name, c := range map[string]struct {
		with func(*mail.Envelope)
		body []byte
		see  func(*testing.T, received)
	}{
		"text":        {func(*mail.Envelope) {}, []byte(hello), func(*testing.T, received) {}},
		"long":        {func(*mail.Envelope) {}, bytes.Repeat([]byte(hello), 20000), func(*testing.T, received) {}},
		"no line end": {func(*mail.Envelope) {}, []byte("A: b\r\n\r\nc"), func(*testing.T, received) {}},
		"binary": {func(e *mail.Envelope) { e.Body = mail.BodyBinaryMIME }, random, func(t *testing.T, m received) {
			if m.opts.Body != smtp.BodyBinaryMIME {
				t.Errorf("body %q", m.opts.Body)
			}
		}},
		"8bit": {func(e *mail.Envelope) { e.Body = mail.Body8BitMIME }, []byte("A: b\r\n\r\n\xe4\r\n"), func(t *testing.T, m received) {
			if m.opts.Body != smtp.Body8BitMIME {
				t.Errorf("body %q", m.opts.Body)
			}
		}},
		"utf8": {func(e *mail.Envelope) { e.SMTPUTF8 = true; e.Recipients[0].Addr.Local = "jürgen" }, []byte(hello), func(t *testing.T, m received) {
			if !m.opts.UTF8 || m.to[0] != "jürgen@example.net" {
				t.Errorf("UTF8 %v to %q", m.opts.UTF8, m.to)
			}
		}},
		"requiretls": {func(e *mail.Envelope) { e.RequireTLS = true }, []byte(hello), func(t *testing.T, m received) {
			if !m.opts.RequireTLS {
				t.Error("REQUIRETLS was not said")
			}
		}},
		"dsn": {func(e *mail.Envelope) {
			e.Ret, e.EnvID = mail.ReturnFull, "an id+"
			e.Recipients[0].Notify = mail.NotifyNever
			e.Recipients[1].Notify = mail.NotifyDelay | mail.NotifySuccess
			e.Recipients[1].ORcptType, e.Recipients[1].ORcpt = "utf-8", "ä+b@example.com"
			e.SMTPUTF8 = true
		}, []byte(hello), func(t *testing.T, m received) {
			if m.opts.Return != smtp.DSNReturnFull || m.opts.EnvelopeID != "an id+" {
				t.Errorf("RET %q ENVID %q", m.opts.Return, m.opts.EnvelopeID)
			}
			r := m.ropt
			if len(r[0].Notify) != 1 || r[0].Notify[0] != smtp.DSNNotifyNever || len(r[1].Notify) != 2 ||
				r[1].OriginalRecipientType != smtp.DSNAddressTypeUTF8 || r[1].OriginalRecipient != "ä+b@example.com" {
				t.Errorf("recipients %+v", r)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			at := message("", "a", "b", "no")
			at.Content = &pieces{c.body, []int{1 << 20}}
			c.with(at.Envelope)
			o := a.Deliver(t.Context(), hop, at)
			if codes(o) != "250 250 550" || !o[0].DSNPassed || o[2].DSNPassed || !strings.HasSuffix(o[0].TLS, "verified") {
				t.Fatalf("outcome %s, %s, %s", codes(o), o[0].Reply.Error(), o[0].TLS)
			}
			m := in.take(t)
			if !bytes.Equal(m.data, c.body) {
				t.Errorf("%d octets came, %d were sent", len(m.data), len(c.body))
			}
			c.see(t, m)
		})
	}
}

func TestGoSMTPLMTP(t *testing.T) {
	in := &inbox{}
	be := smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &lmtpSession{inboxSession{in: in}}, nil })
	hop := smarthost(goSMTP(t, be, func(s *smtp.Server) { s.LMTP = true }))
	hop.Kind = mail.HopLMTP
	a := agent(t, delivery.Options{})
	for _, body := range []mail.BodyType{mail.Body7Bit, mail.BodyBinaryMIME} {
		at := message(hello, "a", "no", "full", "b")
		at.Envelope.Body = body
		if got := codes(a.Deliver(t.Context(), hop, at)); got != "250 550 452 250" {
			t.Errorf("outcome %s", got)
		}
		if m := in.take(t); string(m.data) != hello {
			t.Errorf("content %q", m.data)
		}
	}
}

func TestGoSMTPAuth(t *testing.T) {
	conf, roots := certificate(t, "127.0.0.1")
	in := &inbox{}
	be := smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &authInboxSession{inboxSession{in: in}}, nil })
	addr := goSMTP(t, be, func(s *smtp.Server) { s.TLSConfig = &tls.Config{Certificates: conf.Certificates} })
	hop, _ := authHop(t, addr, "secret")
	if got := codes(agent(t, delivery.Options{RootCAs: roots}).Deliver(t.Context(), hop, message(hello, "a"))); got != "250" || in.user != "usér" {
		t.Errorf("outcome %s, user %q", got, in.user)
	}
	in.user = ""
	hop, _ = authHop(t, addr, "guess")
	if got := codes(agent(t, delivery.Options{RootCAs: roots}).Deliver(t.Context(), hop, message(hello, "a"))); got != "454" {
		t.Errorf("outcome %s", got)
	}
}
