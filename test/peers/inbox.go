package peers

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	"github.com/xdg-go/scram"
)

// Inbox is a mail server on go-smtp: an implementation that is not ours, with
// every extension that a relay may use towards its next hop. It keeps each
// message with its parameters.
type Inbox struct {
	LMTP     bool
	Plain    bool // no BINARYMIME, DSN, SMTPUTF8
	TLS      *tls.Config
	Implicit bool // TLS from the start
	// User and Password, when set, are asked for by the mechanisms of Auth.
	User, Password string
	// Auth names mechanisms; nil: PLAIN.
	Auth []string
	// Refuse may refuse a recipient; with LMTP it speaks after the content.
	Refuse func(to string) *smtp.SMTPError

	srv    *smtp.Server
	ln     net.Listener
	served chan error

	mu    sync.Mutex
	mails []Letter
}

// Letter is a message as an Inbox got it.
type Letter struct {
	From string
	Mail smtp.MailOptions
	To   []string
	Rcpt []smtp.RcptOptions
	Data []byte
	TLS  bool
	User string // who logged in, with which mechanism: "u PLAIN"
}

// Listen starts the inbox.
func (in *Inbox) Listen(addr string) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("peers: inbox: %w", err)
	}
	in.ln, in.served = ln, make(chan error, 1)
	s := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		ses := &inboxSession{in: in, conn: c}
		if in.User != "" {
			return authSession{ses}, nil
		}
		return ses, nil
	}))
	s.Domain, s.LMTP, s.TLSConfig = "inbox.test", in.LMTP, in.TLS
	s.MaxLineLength = 1 << 20
	s.EnableDSN, s.EnableSMTPUTF8, s.EnableBINARYMIME = !in.Plain, !in.Plain, !in.Plain
	in.srv = s
	if in.Implicit {
		ln = tls.NewListener(ln, in.TLS)
	}
	go func() { in.served <- s.Serve(ln) }()
	return nil
}

// Addr is where the inbox listens.
func (in *Inbox) Addr() string { return in.ln.Addr().String() }

// Close ends the inbox.
func (in *Inbox) Close() {
	in.srv.Close()
	in.ln.Close() // of a server that had not begun to serve it the library knows nothing
	<-in.served
}

// Letters gives what was taken so far.
func (in *Inbox) Letters() []Letter {
	in.mu.Lock()
	defer in.mu.Unlock()
	return append([]Letter(nil), in.mails...)
}

func (in *Inbox) keep(l Letter) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.mails = append(in.mails, l)
}

type inboxSession struct {
	in     *Inbox
	conn   *smtp.Conn
	letter Letter
	user   string
}

func (s *inboxSession) Reset() { s.letter = Letter{} }

func (s *inboxSession) Logout() error { return nil }

func (s *inboxSession) Mail(from string, o *smtp.MailOptions) error {
	if s.in.User != "" && s.user == "" {
		return smtp.ErrAuthRequired
	}
	_, isTLS := s.conn.TLSConnectionState()
	s.letter = Letter{From: from, Mail: *o, TLS: isTLS, User: s.user}
	return nil
}

func (s *inboxSession) Rcpt(to string, o *smtp.RcptOptions) error {
	if s.in.Refuse != nil && !s.in.LMTP {
		if err := s.in.Refuse(to); err != nil {
			return err
		}
	}
	s.letter.To = append(s.letter.To, to)
	s.letter.Rcpt = append(s.letter.Rcpt, *o)
	return nil
}

func (s *inboxSession) Data(r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.letter.Data = data
	s.in.keep(s.letter)
	return nil
}

// LMTPData answers for each recipient by itself (RFC 2033 4.2).
func (s *inboxSession) LMTPData(r io.Reader, status smtp.StatusCollector) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	l := s.letter
	l.Data, l.To, l.Rcpt = data, nil, nil
	for i, to := range s.letter.To {
		if s.in.Refuse != nil {
			if err := s.in.Refuse(to); err != nil {
				status.SetStatus(to, err)
				continue
			}
		}
		l.To, l.Rcpt = append(l.To, to), append(l.Rcpt, s.letter.Rcpt[i])
		status.SetStatus(to, nil)
	}
	s.in.keep(l)
	return nil
}

// authSession offers AUTH beside the rest.
type authSession struct{ *inboxSession }

func (s authSession) AuthMechanisms() []string {
	if s.in.Auth == nil {
		return []string{sasl.Plain}
	}
	return s.in.Auth
}

func (s authSession) Auth(mech string) (sasl.Server, error) {
	done := func() { s.user = s.in.User + " " + mech }
	check := func(user, password string) error {
		if user != s.in.User || password != s.in.Password {
			return smtp.ErrAuthFailed
		}
		done()
		return nil
	}
	switch mech {
	case sasl.Plain:
		return sasl.NewPlainServer(func(_, user, password string) error { return check(user, password) }), nil
	case sasl.Login:
		return &loginServer{check: check}, nil
	case "SCRAM-SHA-256":
		return newScramServer(s.in, done)
	}
	return nil, smtp.ErrAuthUnknownMechanism
}

// loginServer is the other end of the LOGIN mechanism, which go-sasl has no
// server for.
type loginServer struct {
	check func(user, password string) error
	step  int
	user  string
}

func (l *loginServer) Next(response []byte) (challenge []byte, done bool, err error) {
	l.step++
	switch l.step {
	case 1:
		if response == nil {
			return []byte("Username:"), false, nil
		}
		l.step++
		fallthrough
	case 2:
		l.user = string(response)
		return []byte("Password:"), false, nil
	}
	return nil, true, l.check(l.user, string(response))
}

type scramServer struct {
	conv *scram.ServerConversation
	ok   func()
	last bool
}

func newScramServer(in *Inbox, ok func()) (sasl.Server, error) {
	client, err := scram.SHA256.NewClient(in.User, in.Password, "")
	if err != nil {
		return nil, err
	}
	stored, err := client.GetStoredCredentialsWithError(scram.KeyFactors{Salt: "salt of the inbox", Iters: 4096})
	if err != nil {
		return nil, err
	}
	srv, err := scram.SHA256.NewServer(func(user string) (scram.StoredCredentials, error) {
		if user != in.User {
			return scram.StoredCredentials{}, errors.New("unknown user")
		}
		return stored, nil
	})
	if err != nil {
		return nil, err
	}
	return &scramServer{conv: srv.NewConversation(), ok: ok}, nil
}

func (s *scramServer) Next(response []byte) (challenge []byte, done bool, err error) {
	if s.last {
		return nil, true, nil
	}
	if response == nil {
		return nil, false, nil
	}
	out, err := s.conv.Step(string(response))
	if err != nil {
		return nil, false, smtp.ErrAuthFailed
	}
	if s.conv.Done() && s.conv.Valid() {
		// The signature goes out as one more challenge (RFC 4954 4): the
		// client's empty answer to it ends the exchange.
		s.last = true
		s.ok()
	}
	return []byte(out), false, nil
}
