package mail

import (
	"net/netip"
	"time"
)

// BodyType is the BODY parameter of MAIL (RFC 6152, RFC 3030).
type BodyType uint8

// The values are stored in spool records: never renumber them.
const (
	Body7Bit       BodyType = 0 // none given, or 7BIT
	Body8BitMIME   BodyType = 1
	BodyBinaryMIME BodyType = 2
)

// Return is the RET parameter of MAIL (RFC 3461 4.3).
type Return uint8

// The values are stored in spool records: never renumber them.
const (
	ReturnUnset   Return = 0
	ReturnFull    Return = 1
	ReturnHeaders Return = 2
)

// Notify is the NOTIFY parameter of RCPT (RFC 3461 4.1) as a set of bits.
// Zero means that none was given: failures are reported, and delays where
// the relay is set up to.
type Notify uint8

// The values are stored in spool records: never renumber them.
const (
	NotifyNever   Notify = 1 << 0
	NotifySuccess Notify = 1 << 1
	NotifyFailure Notify = 1 << 2
	NotifyDelay   Notify = 1 << 3
)

// Recipient is one RCPT of an envelope.
type Recipient struct {
	Addr   Address
	Notify Notify
	// ORcptType and ORcpt are the ORCPT parameter (RFC 3461 4.2, RFC 6533 3):
	// the address type as given ("rfc822", "utf-8") and the address with the
	// xtext or utf-8-addr encoding taken off. Both are empty when none was given.
	ORcptType string
	ORcpt     string
}

// Client tells where a message came from, for the log, the trace and the
// Received line.
type Client struct {
	Addr     netip.Addr // invalid for a message that the relay wrote itself
	Helo     string     // what it said in HELO, EHLO or LHLO
	Protocol string     // RFC 3848: SMTP, ESMTP, ESMTPS, UTF8SMTPS ... ; LOCAL for the relay's own
	TLS      string     // "TLSv1.3 TLS_AES_128_GCM_SHA256", empty in the clear
	Sender   string     // the name of the senders entry that its address is in, whoever the recipients are; empty for none
}

// Envelope is a message without its content.
type Envelope struct {
	ID         ID
	From       Address // the zero Address is the null reverse-path <>
	Recipients []Recipient
	Body       BodyType
	SMTPUTF8   bool // RFC 6531: SMTPUTF8 was given with MAIL
	RequireTLS bool // RFC 8689
	Ret        Return
	EnvID      string    // ENVID with its xtext taken off (RFC 3461 4.4)
	Arrived    time.Time // when the last octet was taken; millisecond precision is kept
	Client     Client
	// Hold is when it may be delivered at the earliest, as its sender said (RFC
	// 4865), with millisecond precision; zero: at once.
	Hold time.Time
	By   By
	// MessageID is what the header field of that name says, without its
	// brackets, so that the message can be found by it. Empty: there is none,
	// or it was not seen.
	MessageID string
}
