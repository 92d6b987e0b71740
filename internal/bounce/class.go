// Package bounce says what kind of trouble a reply tells of: that the mailbox
// does not exist, that it is full, that the sending host is on a block list. It
// is the one classification of the program: the queue's overview, the log, the
// trace, the metrics and the reports that come back later all use it.
//
// Classify goes by the text first where it is plain, then by the enhanced
// status code, then by weaker words, then by the reply code: rules.go and
// codes.go are the whole of it. It is pure, looks at no more than MaxText octets
// and takes some microseconds.
package bounce

import (
	"errors"

	"github.com/clrelay/clrelay/internal/mail"
)

// Class is a kind of reply.
type Class uint8

// The classes. Their numbers are nowhere stored; their names are.
const (
	None           Class = iota // nothing was heard yet
	NoMailbox                   // there is no such mailbox
	NoDomain                    // there is no such domain, or it takes no mail
	Relocated                   // the mailbox is elsewhere
	Inactive                    // the mailbox is disabled or suspended
	MailboxFull                 // over quota
	Sender                      // the envelope sender is refused: does not exist, or is not wanted
	Policy                      // a rule of the receiver's, in so many words
	Spam                        // this message looks like spam
	Reputation                  // the sending host is refused: block lists, reputation, reverse DNS
	Authentication              // SPF, DKIM, DMARC, ARC
	Login                       // SMTP AUTH is needed, or failed
	RelayDenied                 // the host does not take mail for that domain
	Rate                        // too much at once: connections, messages, recipients
	TooBig                      // the message is too large
	Virus                       // this message carries malware
	Content                     // the form of the message is refused
	Protocol                    // a command was not understood or came at the wrong time
	TLS                         // no encryption, or none good enough
	DNS                         // names could not be looked up
	Network                     // the host could not be reached or the connection broke
	Greylisted                  // come back later, by design
	System                      // trouble at the receiver: disk full, out of order, misconfigured
	Loop                        // the message goes in circles
	Expired                     // it was tried for as long as it may be
	Suppressed                  // the address is on the suppression list here
	Operator                    // an operator of this relay gave it up
	Limit                       // a limit of this relay's own keeps it: no receiver's word
	Other                       // nothing above
	classes
)

// Count is how many classes there are: each is less.
const Count = int(classes)

func names() [classes]string {
	return [classes]string{
		None: "none", NoMailbox: "no-mailbox", NoDomain: "no-domain", Relocated: "relocated", Inactive: "inactive",
		MailboxFull: "mailbox-full", Sender: "sender", Policy: "policy", Spam: "spam", Reputation: "reputation",
		Authentication: "authentication", Login: "login", RelayDenied: "relay-denied", Rate: "rate", TooBig: "too-big",
		Virus: "virus", Content: "content", Protocol: "protocol", TLS: "tls", DNS: "dns", Network: "network",
		Greylisted: "greylisted", System: "system", Loop: "loop", Expired: "expired", Suppressed: "suppressed",
		Operator: "operator", Limit: "limit", Other: "other",
	}
}

// String gives the name that operators see: "mailbox-full".
func (c Class) String() string {
	if c >= classes {
		c = Other
	}
	return names()[c]
}

// Names gives the names of all classes.
func Names() []string {
	all := names()
	return all[:]
}

// Parse finds a class by its name.
func Parse(name string) (Class, bool) {
	for c, n := range names() {
		if n == name {
			return Class(c), true
		}
	}
	return Other, false
}

// hard tells whether a permanent failure of that class says that the address
// is no good, whatever is sent to it and from where.
func (c Class) hard() bool {
	return c == NoMailbox || c == NoDomain || c == Relocated
}

// Verdict is what Classify finds.
type Verdict struct {
	Class Class
	// Hard tells that the address itself is no good: nothing should be sent to
	// it again. It is never set for a temporary failure.
	Hard bool
	// Status is the enhanced status code: that of the reply, one that stands in
	// its text, or what the reply code alone says, such as 5.0.0. Zero where
	// nothing says anything.
	Status mail.EnhancedCode
}

// Of classifies a reply. One that is empty is None. That a limit of this relay's
// is the reason is told by the cause alone, which has a method OwnLimit: what
// others say is never taken for it, nor the names of limits for what others say.
func Of(r *mail.Reply) Verdict {
	if r.Code == 0 && r.Text == "" {
		return Verdict{}
	}
	var own interface{ OwnLimit() }
	if r.Cause != nil && errors.As(r.Cause, &own) {
		return Verdict{Class: Limit, Status: r.Enhanced}
	}
	return Classify(r.Code, r.Enhanced, r.Text)
}
