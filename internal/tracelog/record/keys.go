package record

import (
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"

	"github.com/clrelay/clrelay/internal/mail"
)

// What a record can be found by. The numbers are mixed into hashes on disks:
// never renumber them.
const (
	byID uint64 = 1 + iota
	byMessageID
	byAddress
	byRemoteID
)

// Term is what somebody looks for: it finds every record that has it in one
// of these ways.
type Term struct {
	ID        mail.ID // of the message, or of one that a report is about
	MessageID string  // without its brackets
	Address   string  // of a sender or recipient, in any case
	RemoteID  string  // a word of a next hop's 250, its own ID for the message
}

// ParseTerm tells what a text may stand for: the ID of a message, a
// Message-ID, best in its brackets, an address, or the ID that the next hop
// gave it.
func ParseTerm(s string) Term {
	s = strings.TrimSpace(s)
	if id, err := mail.ParseID(s); err == nil {
		return Term{ID: id}
	}
	bare := strings.TrimSuffix(strings.TrimPrefix(s, "<"), ">")
	switch {
	case bare == "":
		return Term{}
	case strings.Contains(bare, "@"):
		return Term{MessageID: bare, Address: bare}
	}
	return Term{MessageID: bare, RemoteID: bare}
}

// IsZero tells whether the term finds nothing.
func (t Term) IsZero() bool { return t == Term{} }

// hashes are the keys that a record with the term has, one of them at least.
func (t Term) Hashes() (out []uint64) {
	if !t.ID.IsZero() {
		out = append(out, hashOf(byID, t.ID[:]))
	}
	if t.MessageID != "" {
		out = append(out, hashOf(byMessageID, []byte(t.MessageID)))
	}
	if t.Address != "" {
		out = append(out, hashFold(byAddress, []byte(t.Address)))
	}
	if t.RemoteID != "" {
		out = append(out, hashOf(byRemoteID, []byte(t.RemoteID)))
	}
	return out
}

// in tells whether a record has the term.
func (t Term) In(r Record) bool {
	if !t.ID.IsZero() && r.ID() == t.ID {
		return true
	}
	kind, found := r.Kind(), false
	err := r.Fields(func(field byte, text []byte, _ uint64) {
		switch field {
		case FieldOf:
			found = found || !t.ID.IsZero() && string(text) == string(t.ID[:])
		case FieldMessageID:
			found = found || t.MessageID != "" && string(text) == t.MessageID
		case FieldFrom, FieldTo:
			found = found || t.Address != "" && len(text) == len(t.Address) && strings.EqualFold(string(text), t.Address)
		case FieldText:
			if t.RemoteID != "" && kind == Delivered {
				eachID(text, func(word []byte) { found = found || string(word) == t.RemoteID })
			}
		}
	})
	return err == nil && found
}

// keys calls add for each hash that a record can be found by.
func (r Record) Keys(add func(uint64)) {
	if id := r.ID(); !id.IsZero() {
		add(hashOf(byID, id[:]))
	}
	kind := r.Kind()
	_ = r.Fields(func(field byte, text []byte, _ uint64) { // what is broken can't be read either
		switch field {
		case FieldOf:
			add(hashOf(byID, text))
		case FieldMessageID:
			add(hashOf(byMessageID, text))
		case FieldFrom, FieldTo:
			add(hashFold(byAddress, text))
		case FieldText:
			if kind == Delivered {
				eachID(text, func(word []byte) { add(hashOf(byRemoteID, word)) })
			}
		}
	})
}

// hashOf gives the key of a text. The next factor is that of the golden ratio.
func hashOf(kind uint64, text []byte) uint64 {
	return xxhash.Sum64(text) ^ kind*0x9e3779b97f4a7c15
}

// hashFold is hashOf for a text in any case.
func hashFold(kind uint64, text []byte) uint64 {
	var room [mail.MaxPath * 2]byte
	low := append(room[:0], text...)
	for i, c := range low {
		if 'A' <= c && c <= 'Z' {
			low[i] = c + 'a' - 'A'
		}
	}
	return hashOf(kind, low)
}

// maxIDs is how many words of a 250 may be the next hop's ID.
const maxIDs = 8

// eachID calls visit for the words of a next hop's 250 that may be its ID for
// the message: what follows "queued as" or "id=", and any word with a digit
// in it that is not too short. There is no standard, so several may be.
func eachID(text []byte, visit func(word []byte)) {
	n, start := 0, -1
	for i := 0; i <= len(text) && n < maxIDs; i++ {
		if i < len(text) && isWord(text[i]) {
			if start < 0 {
				start = i
			}
			continue
		}
		if start < 0 {
			continue
		}
		word, before := text[start:i], text[:start]
		start = -1
		switch {
		case len(word) > 3 && strings.EqualFold(string(word[:3]), "id="):
			visit(word[3:])
			n++
		case hasSuffix(before, "queued as ") || len(word) >= 6 && slices.ContainsFunc(word, isDigit):
			visit(word)
			n++
		}
	}
}

func hasSuffix(b []byte, s string) bool {
	return len(b) >= len(s) && strings.EqualFold(string(b[len(b)-len(s):]), s)
}

// isWord tells whether an octet can be part of an ID.
func isWord(c byte) bool {
	switch c {
	case '-', '_', '.', '+', '/', '=', '@', '$':
		return true
	}
	return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'z'
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func IDKeys(ids []mail.ID) (out []uint64) {
	for _, id := range ids {
		out = append(out, hashOf(byID, id[:]))
	}
	return out
}
