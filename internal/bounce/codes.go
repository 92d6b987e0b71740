package bounce

import "github.com/clrelay/clrelay/internal/mail"

// byStatus gives the class of an enhanced status code that says something by
// itself (RFC 3463, and the IANA registry of enhanced status codes).
func byStatus(e mail.EnhancedCode) (Class, bool) {
	switch e[1] {
	case 1:
		return address(e[2])
	case 2:
		return mailbox(e[2])
	case 3:
		return system(e[2])
	case 4:
		return network(e)
	case 5:
		return protocol(e[2])
	case 6:
		return Content, true
	case 7:
		return security(e[2])
	}
	return Other, false
}

func address(detail int) (Class, bool) {
	switch detail {
	case 1, 3, 4: // unknown, bad syntax, ambiguous
		return NoMailbox, true
	case 2, 10: // bad destination system, null MX (RFC 7505)
		return NoDomain, true
	case 6:
		return Relocated, true
	case 7, 8: // syntax and system of the sender
		return Sender, true
	}
	return NoMailbox, false
}

func mailbox(detail int) (Class, bool) {
	switch detail {
	case 1:
		return Inactive, true
	case 2:
		return MailboxFull, true
	case 3:
		return TooBig, true
	case 4: // expansion of a mailing list
		return System, true
	}
	return Other, false
}

func system(detail int) (Class, bool) {
	switch detail {
	case 1, 2, 5: // full, not accepting, misconfigured
		return System, true
	case 4:
		return TooBig, true
	}
	return System, false
}

func network(e mail.EnhancedCode) (Class, bool) {
	switch e[2] {
	case 1, 2: // no answer, bad connection
		return Network, true
	case 3:
		return DNS, true
	case 4: // unable to route
		if e[0] == 5 {
			return NoDomain, true
		}
		return DNS, true
	case 5: // congestion
		return Rate, true
	case 6:
		return Loop, true
	case 7:
		return Expired, true
	}
	return Network, false
}

func protocol(detail int) (Class, bool) {
	switch detail {
	case 3: // too many recipients
		return Rate, true
	case 1, 2, 4, 5: // invalid command, syntax, arguments, version
		return Protocol, false // many hosts say so of anything
	case 6: // the exchange of authentication is broken
		return Login, true
	}
	return Protocol, false
}

func security(detail int) (Class, bool) {
	switch detail {
	case 8, 9, 11, 12, 14, 15: // RFC 4954
		return Login, detail == 8
	case 10, 30: // encryption needed, REQUIRETLS (RFC 8689)
		return TLS, true
	case 13:
		return Inactive, true
	case 17: // RRVS, RFC 7293: somebody else has the mailbox now
		return NoMailbox, true
	case 18:
		return NoDomain, true
	case 20, 21, 22, 23, 24, 26, 29: // RFC 7372, RFC 8617
		return Authentication, true
	case 25: // reverse DNS
		return Reputation, true
	case 27: // the sender's domain has a null MX
		return Sender, true
	case 28:
		return Rate, true
	}
	return Policy, false
}

// byCode gives the class of a reply code (RFC 5321 4.2.3) when nothing else is
// known.
func byCode(code int) Class {
	switch code {
	case 421:
		return System
	case 432, 454, 530, 534, 535, 538:
		return Login
	case 452, 451:
		return System
	case 455, 500, 501, 502, 503, 504, 555:
		return Protocol
	case 521, 556: // takes no mail (RFC 7504)
		return NoDomain
	case 523, 552:
		return MailboxFull
	case 551:
		return Relocated
	}
	return Other
}
