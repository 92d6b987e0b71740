package smtpd

import (
	"strings"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/smtpd/later"
)

// eachParam splits " KEY=VALUE KEY ..." and gives each to take, which tells
// whether it knows the key. A key may come once. Keys come in upper case.
func (s *session) eachParam(params string, take func(key, value string, has bool) *mail.Reply) *mail.Reply {
	if params = strings.TrimLeft(params, " "); params != "" && !s.ehlo {
		return refused(555, 4, "Parameters come after EHLO alone")
	}
	var seen [12]string
	n := 0
	for params != "" {
		var word string
		word, params, _ = strings.Cut(params, " ")
		params = strings.TrimLeft(params, " ")
		key, value, has := strings.Cut(word, "=")
		key = strings.ToUpper(key)
		for _, k := range seen[:n] {
			if k == key {
				return refused(501, 4, "A parameter came twice")
			}
		}
		if r := take(key, value, has); r != nil {
			return r
		}
		seen[n] = key // every key that take knows fits in
		n++
	}
	return nil
}

func refused(code, detail int, text string) *mail.Reply {
	r := say(code, 5, detail, text)
	return &r
}

// unknownParam is the answer to a parameter nobody offered (RFC 5321 4.1.1.11).
func unknownParam() *mail.Reply { return refused(555, 4, "Parameter not known here") }

// badParam turns a parser's error into a reply.
func badParam(err error) *mail.Reply {
	if err == nil {
		return nil
	}
	return refused(501, 4, "Bad parameter: "+publicError(err))
}

// mailParams reads the parameters of MAIL.
func (s *session) mailParams(env *mail.Envelope, params string) *mail.Reply {
	now := time.Now()
	return s.eachParam(params, func(key, value string, has bool) (r *mail.Reply) {
		var err error
		switch key {
		case "SIZE": // RFC 1870
			if s.declared, err = mail.ParseSize(value); s.declared > s.limits.Size {
				t := tooBig()
				return &t
			}
		case "BODY": // RFC 6152, RFC 3030
			env.Body, err = mail.ParseBody(value)
			if env.Body == mail.BodyBinaryMIME && !s.lis.Binary {
				return refused(555, 4, "BINARYMIME is not on offer")
			}
		case "RET": // RFC 3461 4.3
			env.Ret, err = mail.ParseReturn(value)
		case "ENVID":
			env.EnvID, err = mail.ParseEnvID(value)
		case "SMTPUTF8": // RFC 6531 3.4
			if has {
				return refused(501, 4, "SMTPUTF8 has no value")
			}
			env.SMTPUTF8 = true
		case "REQUIRETLS": // RFC 8689 2
			if s.client.TLS == "" {
				return unknownParam()
			}
			if has {
				return refused(501, 4, "REQUIRETLS has no value")
			}
			env.RequireTLS = true
		default:
			if r, ok := s.offer().Take(env, key, value, now); ok {
				return r
			}
			return unknownParam()
		}
		return badParam(err)
	})
}

// offer is what the client may say of when its mail is to be delivered.
func (s *session) offer() later.Offer {
	if s.srv.later == nil {
		return later.Offer{}
	}
	return s.srv.later(&s.client)
}

// rcptParams reads the parameters of RCPT (RFC 3461 4.1, 4.2).
func (s *session) rcptParams(to *mail.Recipient, params string) *mail.Reply {
	return s.eachParam(params, func(key, value string, _ bool) *mail.Reply {
		var err error
		switch key {
		case "NOTIFY":
			to.Notify, err = mail.ParseNotify(value)
		case "ORCPT":
			to.ORcptType, to.ORcpt, err = mail.ParseORcpt(value, s.env.SMTPUTF8)
		default:
			return unknownParam()
		}
		return badParam(err)
	})
}

func tooBig() mail.Reply { return say(552, 3, 4, "Message too big") }
