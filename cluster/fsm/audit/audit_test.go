package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/clrelay/clrelay/proto/control"
)

var full = control.AuditEntry{
	Kind: control.AuditOutcome, AtMS: 1_800_000_000_000, Call: "c1", Node: "mx1", Who: "admin jane", Role: "operator",
	Method: "/admin.v1.QueueService/Drop", Action: "drop", Target: "rcpt:a\"b\\c\n\u2028ü\x7f", Reason: "asked for",
	Of: 1, Code: "OK", Text: "t", Counts: []control.AuditCount{{Name: "done", N: 3}, {Name: "failed"}},
}

// The octets of a line are what all nodes hash: they must never change.
func TestGoldenLines(t *testing.T) {
	var c Chain
	one, _ := c.Append(control.AuditEntry{Kind: control.AuditRequest, AtMS: 5, Who: "jane"})
	two, _ := c.Append(full)
	for i, want := range []string{
		`{"seq":1,"prev":"0000000000000000000000000000000000000000000000000000000000000000","at_ms":5,"kind":"request","who":"jane"}`,
		fmt.Sprintf(`{"seq":2,"prev":"%x","at_ms":1800000000000,"kind":"outcome","call":"c1","node":"mx1","who":"admin jane","role":"operator",`+
			`"method":"/admin.v1.QueueService/Drop","action":"drop","target":"rcpt:a\"b\\c\u000a\u2028ü\u007f","reason":"asked for",`+
			`"of":1,"code":"OK","text":"t","counts":{"done":3,"failed":0}}`, one.Hash),
	} {
		if got := string([]control.AuditLine{one, two}[i].Text); got != want {
			t.Errorf("line %d reads\n%s", i+1, got)
		}
	}
	got, err := Parse(two.Text)
	if err != nil || !reflect.DeepEqual(got.Entry, full) || got.Prev != one.Hash || got.AuditMark != c.Head() {
		t.Errorf("it is read as %+v, %v", got, err)
	}
}

// Whatever an entry holds, its line is JSON that says the same.
func FuzzLine(f *testing.F) {
	f.Add("a\"b\\", "\x00\n\u2028")
	f.Fuzz(func(t *testing.T, who, reason string) {
		e := control.AuditEntry{Kind: control.AuditRequest, Who: who, Reason: reason}.Cut()
		var c Chain
		l, code := c.Append(e)
		if code != control.OK {
			t.Fatalf("%q, %q: %v", who, reason, code)
		}
		got, err := Parse(l.Text)
		if err != nil || !reflect.DeepEqual(got.Entry, e) || bytes.ContainsAny(l.Text, "\n\r") || !json.Valid(l.Text) {
			t.Fatalf("%s: %+v, %v", l.Text, got, err)
		}
	})
}

func TestCut(t *testing.T) {
	long := strings.Repeat("ü", 5000)
	e := control.AuditEntry{Kind: control.AuditRequest, Who: long, Target: long, Reason: "\xff", Counts: []control.AuditCount{{Name: "b"}, {Name: "a", N: 1}, {Name: "b", N: 2}}}
	c := e.Cut()
	if len(c.Who) > control.MaxText || !strings.HasSuffix(c.Who, "ü [...]") || c.Reason != "\uFFFD" || len(c.Target) > control.MaxAuditTarget || len(c.Target) < control.MaxAuditTarget-2 {
		t.Errorf("cut to %+v", c)
	}
	if want := []control.AuditCount{{Name: "a", N: 1}, {Name: "b"}}; !slices.Equal(c.Counts, want) {
		t.Errorf("the counts are %v", c.Counts)
	}
	if !reflect.DeepEqual(c.Cut(), c) {
		t.Error("cut again it is another one")
	}
	var chain Chain
	if _, code := chain.Append(e); code != control.LimitReached || chain.Head().Sequence != 0 {
		t.Errorf("what is not cut: %v", code)
	}
}

// The chain keeps its last lines, by number and by octets, and is the same made
// of them.
func TestTheChainIsBounded(t *testing.T) {
	for name, e := range map[string]control.AuditEntry{
		"many": {Kind: control.AuditRequest, Who: "jane"},
		"long": {Kind: control.AuditRequest, Who: "jane", Target: strings.Repeat("x", control.MaxAuditTarget)},
	} {
		var c Chain
		for range control.KeepAudits + 100 {
			c.Append(e)
		}
		all := c.After(0)
		size := 0
		var texts [][]byte
		for _, l := range all {
			size += len(l.Text)
			texts = append(texts, l.Text)
		}
		if name == "many" && len(all) != control.KeepAudits || name == "long" && (size > control.MaxAudits || size < control.MaxAudits-5000) {
			t.Errorf("%s: %d lines of %d octets are kept", name, len(all), size)
		}
		if last := c.After(control.KeepAudits + 98); len(last) != 2 || c.After(control.KeepAudits+100) != nil {
			t.Errorf("%s: the last two are %d", name, len(last))
		}
		again, ok := New(c.Head(), texts)
		if !ok || again.Head() != c.Head() || !reflect.DeepEqual(again.After(0), all) {
			t.Errorf("%s: made anew it is another one", name)
		}
	}
}

func TestLinesThatAreNoChain(t *testing.T) {
	var c Chain
	var texts [][]byte
	for range 3 {
		l, _ := c.Append(full)
		texts = append(texts, l.Text)
	}
	for name, list := range map[string][][]byte{
		"one is missing":     {texts[0], texts[2]},
		"another order":      {texts[1], texts[0], texts[2]},
		"the last is not it": {texts[0], texts[1]},
		"changed":            {texts[0], bytes.Replace(texts[1], []byte("jane"), []byte("john"), 1), texts[2]},
		"no JSON":            {[]byte("x")},
		"none":               nil,
	} {
		if _, ok := New(c.Head(), list); ok {
			t.Errorf("%s: it is a chain", name)
		}
	}
	if _, ok := New(c.Head(), texts); !ok {
		t.Error("the chain itself is none")
	}
}
