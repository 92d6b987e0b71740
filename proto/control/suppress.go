package control

import (
	"strings"
	"unicode/utf8"
)

// Bounds of the suppression list.
const (
	MaxSuppressed       = 1_000_000 // entries
	MaxSuppressedOctets = 128 << 20 // of all texts in them
	MaxSuppressAddress  = 320       // octets of an address
	MaxSuppressText     = 256       // of each other text of an entry
)

// SuppressReason says why an address is on the suppression list.
type SuppressReason uint8

// The reasons. Their numbers are part of what nodes agree about.
const (
	SuppressHardBounce SuppressReason = 1 + iota // a next hop said that there is no such mailbox
	SuppressComplaint                            // its owner said that the mail is spam
	SuppressOperator                             // an operator's word
	SuppressImport                               // came from another system's list
)

func (r SuppressReason) String() string {
	switch r {
	case SuppressHardBounce:
		return "hard_bounce"
	case SuppressComplaint:
		return "complaint"
	case SuppressOperator:
		return "operator"
	case SuppressImport:
		return "import"
	}
	return "unknown"
}

// Automatic tells whether the relay itself puts addresses on the list for the
// reason.
func (r SuppressReason) Automatic() bool { return r == SuppressHardBounce || r == SuppressComplaint }

// SuppressKey names an entry: an address, and whose mail to it is meant.
type SuppressKey struct {
	Address string // as the list compares it: domain in lower-case A-labels, local part in lower case
	// Scope is empty for everybody's mail, "jane@example.org" for that of one
	// sender, "@example.org" for that of a sender's domain, and else the name of
	// an entry of the setting senders.
	Scope string
}

// Suppression is an entry of the suppression list.
type Suppression struct {
	SuppressKey
	Reason    SuppressReason
	Text      string // the next hop's reply, or what the operator gave
	Source    string // ID of the message that it is about
	By        string // who put it there; empty: the relay
	CreatedMS int64  // Unix time in milliseconds
	ExpiresMS int64  // likewise; 0: never
}

// SuppressOps changes the suppression list, at most MaxOps entries: first those
// of Remove go, then those of Add come. Answered with Result.Ops in that order:
// OK, Unchanged, or why not. Entries that have expired by AtMS go before. An
// Add replaces the entry of its key, but one that the relay makes by itself does
// not replace an operator's. Feature level 4.
type SuppressOps struct {
	AtMS   int64 // Unix time in milliseconds, as the proposer's clock said
	Remove []SuppressKey
	Add    []Suppression
}

// LeaderOnly implements Command.
func (SuppressOps) LeaderOnly() bool { return false }

// Cut returns the entry with its texts as long as they may be.
func (s Suppression) Cut() Suppression {
	s.Text, s.Source, s.By = cutLine(s.Text), cutLine(s.Source), cutLine(s.By)
	return s
}

// cutLine makes a text one line that an entry may have.
func cutLine(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
	return cut(text, MaxSuppressText)
}

// Valid says whether the entry may be on the list. Whether the address is
// written as the list compares it is its writer's matter.
func (s *Suppression) Valid() bool {
	return s.SuppressKey.Valid() && s.Reason >= SuppressHardBounce && s.Reason <= SuppressImport &&
		len(s.Text) <= MaxSuppressText && len(s.Source) <= MaxSuppressText && len(s.By) <= MaxSuppressText &&
		line(s.Text) && line(s.Source) && line(s.By) && s.CreatedMS >= 0 && s.ExpiresMS >= 0
}

// Valid says whether the key may be one of the list.
func (k SuppressKey) Valid() bool {
	return k.Address != "" && len(k.Address) <= MaxSuppressAddress && len(k.Scope) <= MaxSuppressAddress &&
		strings.Contains(k.Address, "@") && line(k.Address) && line(k.Scope)
}

// line says whether a text is UTF-8 without control characters.
func line(text string) bool {
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c < ' ' || c == 0x7f:
			return false
		case c >= utf8.RuneSelf:
			return utf8.ValidString(text) && strings.IndexFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) < 0
		}
	}
	return true
}

// Compare orders keys by address, then scope.
func (k SuppressKey) Compare(other SuppressKey) int {
	if c := strings.Compare(k.Address, other.Address); c != 0 {
		return c
	}
	return strings.Compare(k.Scope, other.Scope)
}
