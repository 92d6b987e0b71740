// Package audit is the chain of what operators had done: every entry is a line
// of JSON that holds its number and the hash of the line before it, so that
// none can be changed, taken out or put elsewhere unseen. The octets of a line
// depend on nothing but the entry and its place. It knows no time and no disk:
// who holds a Chain guards it.
package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/clrelay/clrelay/proto/control"
)

// Chain is the head of a chain and its last lines. The zero value is an empty
// one.
type Chain struct {
	head  control.AuditMark
	lines []control.AuditLine // the last ones, oldest first
	size  int                 // of their texts
}

// New makes a chain that ends at head and of which these lines are kept, the
// oldest first; ok is false if they are none of one chain, or too many.
func New(head control.AuditMark, texts [][]byte) (c Chain, ok bool) {
	c.head = head
	for i, text := range texts {
		place, err := Parse(text)
		if err != nil || i > 0 && (place.Prev != c.lines[i-1].Hash || place.Sequence != c.lines[i-1].Sequence+1) {
			return Chain{}, false
		}
		c.lines = append(c.lines, control.AuditLine{AuditMark: place.AuditMark, Text: text})
		c.size += len(text)
	}
	if n := len(c.lines); n > 0 && c.lines[n-1].AuditMark != head || n == 0 && head != (control.AuditMark{}) {
		return Chain{}, false
	}
	return c, len(c.lines) <= control.KeepAudits && c.size <= control.MaxAudits
}

// At makes a chain that goes on after head, with no line of before.
func At(head control.AuditMark) Chain { return Chain{head: head} }

// Append appends an entry. One that is not Cut is refused with LimitReached.
func (c *Chain) Append(e control.AuditEntry) (control.AuditLine, control.Code) {
	switch {
	case e.Kind != control.AuditRequest && e.Kind != control.AuditOutcome:
		return control.AuditLine{}, control.Malformed
	case !fits(e):
		return control.AuditLine{}, control.LimitReached
	}
	text := render(c.head, &e)
	l := control.AuditLine{AuditMark: control.AuditMark{Sequence: c.head.Sequence + 1, Hash: sha256.Sum256(text)}, Text: text}
	c.head = l.AuditMark
	c.lines = append(c.lines, l)
	c.size += len(text)
	drop := 0
	for len(c.lines)-drop > control.KeepAudits || c.size > control.MaxAudits {
		c.size -= len(c.lines[drop].Text)
		drop++
	}
	c.lines = c.lines[drop:]
	return l, control.OK
}

// fits says whether an entry is as Cut leaves it.
func fits(e control.AuditEntry) bool {
	counts := e.Counts
	cut := e.Cut()
	same := slices.Equal(counts, cut.Counts)
	e.Counts, cut.Counts = nil, nil
	return same && fmt.Sprint(e) == fmt.Sprint(cut)
}

// Head is the place of the last entry.
func (c *Chain) Head() control.AuditMark { return c.head }

// After returns the lines kept that come after number n, the oldest first.
func (c *Chain) After(n uint64) []control.AuditLine {
	for i := range c.lines {
		if c.lines[i].Sequence > n {
			return slices.Clone(c.lines[i:])
		}
	}
	return nil
}

// render gives an entry's line: one object of JSON, its members in a fixed
// order, those that say nothing left out.
func render(prev control.AuditMark, e *control.AuditEntry) []byte {
	b := fmt.Appendf(nil, `{"seq":%d,"prev":"%x","at_ms":%d,"kind":"%s"`, prev.Sequence+1, prev.Hash, e.AtMS, e.Kind)
	for _, f := range []struct{ name, value string }{
		{"call", e.Call}, {"node", e.Node}, {"who", e.Who}, {"role", e.Role}, {"method", e.Method},
		{"action", e.Action}, {"target", e.Target}, {"reason", e.Reason},
	} {
		b = member(b, f.name, f.value)
	}
	if e.Of != 0 {
		b = fmt.Appendf(b, `,"of":%d`, e.Of)
	}
	b = member(b, "code", e.Code)
	b = member(b, "text", e.Text)
	for i, c := range e.Counts {
		if i == 0 {
			b = append(b, `,"counts":{`...)
		} else {
			b = append(b, ',')
		}
		b = quote(b, c.Name)
		b = append(b, ':')
		b = strconv.AppendUint(b, c.N, 10)
		if i == len(e.Counts)-1 {
			b = append(b, '}')
		}
	}
	return append(b, '}')
}

func member(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	b = append(b, ',', '"')
	b = append(b, name...)
	b = append(b, '"', ':')
	return quote(b, value)
}

// quote writes a string of JSON. It is not left to a library, for these octets
// are hashed, and must be the same on nodes that run different versions.
func quote(b []byte, s string) []byte {
	b = append(b, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < ' ' || r == 0x7f || r == '\u2028' || r == '\u2029':
			b = fmt.Appendf(b, `\u%04x`, r)
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return append(b, '"')
}

// Line is a line of the chain that was read.
type Line struct {
	control.AuditMark
	Prev  [32]byte
	Entry control.AuditEntry
}

// Parse reads a line, and computes its hash.
func Parse(text []byte) (Line, error) {
	var j struct {
		Seq    uint64            `json:"seq"`
		Prev   string            `json:"prev"`
		AtMS   int64             `json:"at_ms"`
		Kind   string            `json:"kind"`
		Call   string            `json:"call"`
		Node   string            `json:"node"`
		Who    string            `json:"who"`
		Role   string            `json:"role"`
		Method string            `json:"method"`
		Action string            `json:"action"`
		Target string            `json:"target"`
		Reason string            `json:"reason"`
		Of     uint64            `json:"of"`
		Code   string            `json:"code"`
		Text   string            `json:"text"`
		Counts map[string]uint64 `json:"counts"`
	}
	if err := json.Unmarshal(text, &j); err != nil {
		return Line{}, fmt.Errorf("audit: no line of the chain: %w", err)
	}
	l := Line{AuditMark: control.AuditMark{Sequence: j.Seq, Hash: sha256.Sum256(text)}, Entry: control.AuditEntry{
		Kind: control.AuditRequest, AtMS: j.AtMS, Call: j.Call, Node: j.Node, Who: j.Who, Role: j.Role, Method: j.Method, Action: j.Action,
		Target: j.Target, Reason: j.Reason, Of: j.Of, Code: j.Code, Text: j.Text,
	}}
	prev, err := hex.DecodeString(j.Prev)
	if j.Seq == 0 || err != nil || len(prev) != len(l.Prev) || j.Kind != control.AuditRequest.String() && j.Kind != control.AuditOutcome.String() {
		return Line{}, fmt.Errorf("audit: no line of the chain: number %d, before it %q, kind %q", j.Seq, j.Prev, j.Kind)
	}
	copy(l.Prev[:], prev)
	if j.Kind == control.AuditOutcome.String() {
		l.Entry.Kind = control.AuditOutcome
	}
	for name, n := range j.Counts {
		l.Entry.Counts = append(l.Entry.Counts, control.AuditCount{Name: name, N: n})
	}
	slices.SortFunc(l.Entry.Counts, func(a, b control.AuditCount) int { return strings.Compare(a.Name, b.Name) })
	return l, nil
}
