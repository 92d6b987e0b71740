package control

import (
	"slices"
	"strings"
)

// Bounds of what operators keep in the State.
const (
	MaxRecordKey   = 256      // octets of a record's key
	MaxRecordValue = 64 << 10 // octets of a record's value
	MaxRecords     = 16 << 20 // octets of all records: keys, values and RecordCost each
	RecordCost     = 64       // octets that a record counts beside its key and value
	KeepAudits     = 4096     // entries of the audit chain kept in the State
	MaxAudits      = 4 << 20  // and their octets in all
	MaxAuditTarget = 4 << 10  // octets of what an audited action is about
	MaxAuditCounts = 16       // numbers in an entry
	auditCut       = " [...]" // at the end of a text that was too long
	recordSpaces   = "abcdefghijklmnopqrstuvwxyz0123456789-"
)

// Record is one of the operators' records: a job, a rule, a token. The value
// belongs to the State and is never written again: a reader may keep it, and
// must not write it.
type Record struct {
	Key     string // space/name
	Value   []byte
	Version uint64 // number of the change that wrote it, counted over all records: never given twice
}

// ValidRecordKey says whether a text may be a record's key: a space of a-z, 0-9
// and -, a slash, and a name without control characters.
func ValidRecordKey(key string) bool {
	space, name, ok := strings.Cut(key, "/")
	return ok && space != "" && strings.Trim(space, recordSpaces) == "" && name != "" && len(key) <= MaxRecordKey && plain(key)
}

// RecordPut writes or deletes a record, if its version still is IfVersion; 0
// stands for a record that is not there. Answered with Result.Version, that of
// the record now. Feature level 3.
type RecordPut struct {
	Key       string
	Value     []byte
	IfVersion uint64
	Delete    bool // Value is not looked at
}

// AuditKind says what an audit entry tells of.
type AuditKind uint8

// The kinds of audit entries.
const (
	AuditRequest AuditKind = 1 + iota // somebody is about to be let do something
	AuditOutcome                      // how it ended
)

func (k AuditKind) String() string {
	if k == AuditOutcome {
		return "outcome"
	}
	return "request"
}

// AuditEntry is what an operator had done, as the node says that he asked. A
// node that hears no answer of Raft appends the same again: what stands twice
// has the same Call and Kind.
type AuditEntry struct {
	Kind   AuditKind
	AtMS   int64  // Unix time in milliseconds, as the proposer's clock said
	Call   string // random, of this one call: its request and its outcome have the same
	Node   string // that was asked
	Who    string // the caller
	Role   string // under which he was let in
	Method string // full name; empty where it was no call
	Action string // in words
	Target string // what it is about
	Reason string // as he gave it
	Of     uint64 // AuditOutcome: number of the request's entry, 0 where it has none
	Code   string // AuditOutcome: OK, or what kind of failure
	Text   string // AuditOutcome: the failure in words
	Counts []AuditCount
}

// AuditCount is a number in an entry: how many messages were dropped.
type AuditCount struct {
	Name string
	N    uint64
}

// AuditAppend appends an entry to the chain. Answered with Result.Audit.
// Feature level 3.
type AuditAppend struct {
	Entry AuditEntry
}

// AuditMark is a place in the chain.
type AuditMark struct {
	Sequence uint64   // from 1; 0: there is no entry
	Hash     [32]byte // of the entry's text
}

// AuditLine is an entry as it stands in the chain: Hash is the SHA-256 of
// Text, which begins with the number and the hash of the entry before it. The
// slice is never written again.
type AuditLine struct {
	AuditMark
	Text []byte
}

// Cut returns the entry with all texts as long as they may be: what is beyond
// that is cut off with a mark. Counts are sorted by their names, each of which
// stands once.
func (e AuditEntry) Cut() AuditEntry {
	e.Call, e.Node, e.Who, e.Role = cut(e.Call, MaxText), cut(e.Node, MaxText), cut(e.Who, MaxText), cut(e.Role, MaxText)
	e.Method, e.Action, e.Code = cut(e.Method, MaxText), cut(e.Action, MaxText), cut(e.Code, MaxText)
	e.Target, e.Reason, e.Text = cut(e.Target, MaxAuditTarget), cut(e.Reason, MaxReason), cut(e.Text, MaxReason)
	counts := e.Counts
	e.Counts = nil
	for _, c := range counts[:min(len(counts), MaxAuditCounts)] {
		c.Name = cut(c.Name, MaxText)
		if !slices.ContainsFunc(e.Counts, func(has AuditCount) bool { return has.Name == c.Name }) {
			e.Counts = append(e.Counts, c)
		}
	}
	slices.SortFunc(e.Counts, func(a, b AuditCount) int { return strings.Compare(a.Name, b.Name) })
	return e
}

// cut makes a text valid UTF-8 of at most so many octets.
func cut(text string, most int) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most-len(auditCut)], "") + auditCut
}

// plain says whether a text has no control characters.
func plain(text string) bool {
	return strings.IndexFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' }) < 0
}

// LeaderOnly implements Command.
func (RecordPut) LeaderOnly() bool { return false }

// LeaderOnly implements Command.
func (AuditAppend) LeaderOnly() bool { return false }
