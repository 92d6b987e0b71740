package smtpd

import "github.com/clrelay/clrelay/internal/mail"

// say builds a reply whose enhanced code (RFC 3463) is of the class of code.
func say(code, subject, detail int, text string) mail.Reply {
	return mail.Reply{Code: code, Enhanced: mail.EnhancedCode{code / 100, subject, detail}, Text: text}
}

// plain builds a reply without an enhanced code: RFC 2034 4 has none in the
// greeting, in the answer to EHLO and HELO and in 354.
func plain(code int, text string) mail.Reply { return mail.Reply{Code: code, Text: text} }

// nothing is the reply of a command that was not answered.
func nothing() mail.Reply { return mail.Reply{} }

// refusal makes what a part of the relay said fit to be sent as a refusal: a
// code of 4yz or 5yz, and an enhanced code of the same class.
func refusal(r *mail.Reply) mail.Reply {
	out := *r
	if !out.Temporary() && !out.Permanent() {
		return tempFail()
	}
	if class := out.Code / 100; out.Enhanced[0] != class {
		out.Enhanced = mail.EnhancedCode{class, 0, 0}
	}
	return out
}

// tempFail is what a client hears of the relay's own troubles.
func tempFail() mail.Reply {
	return say(451, 3, 0, "Temporary trouble here, please try again later")
}
