package wire

import (
	"github.com/clrelay/clrelay/proto/control"
	controlv1 "github.com/clrelay/clrelay/proto/control/v1"
)

func putAudit(e *control.AuditEntry) *controlv1.AuditEntry {
	m := &controlv1.AuditEntry{
		Kind: controlv1.AuditKind(e.Kind), AtMs: e.AtMS, Call: e.Call, Node: e.Node, Who: e.Who, Role: e.Role, Method: e.Method,
		Action: e.Action, Target: e.Target, Reason: e.Reason, Of: e.Of, Code: e.Code, Text: e.Text,
	}
	for _, c := range e.Counts {
		m.Counts = append(m.Counts, &controlv1.AuditCount{Name: c.Name, N: c.N})
	}
	return m
}

func getAudit(m *controlv1.AuditEntry) (control.Command, bool) {
	kind, ok := small(int32(m.GetKind()))
	if !ok || len(m.GetCounts()) > control.MaxAuditCounts+1 { // one too many is told apart from nonsense
		return nil, false
	}
	e := control.AuditEntry{
		Kind: control.AuditKind(kind), AtMS: m.GetAtMs(), Call: m.GetCall(), Node: m.GetNode(), Who: m.GetWho(), Role: m.GetRole(), Method: m.GetMethod(),
		Action: m.GetAction(), Target: m.GetTarget(), Reason: m.GetReason(), Of: m.GetOf(), Code: m.GetCode(), Text: m.GetText(),
	}
	for _, c := range m.GetCounts() {
		e.Counts = append(e.Counts, control.AuditCount{Name: c.GetName(), N: c.GetN()})
	}
	return control.AuditAppend{Entry: e}, true
}

// PutMark gives the message of a place in the audit chain; nil for none.
func PutMark(a control.AuditMark) *controlv1.AuditMark {
	if a.Sequence == 0 {
		return nil
	}
	return &controlv1.AuditMark{Sequence: a.Sequence, Hash: a.Hash[:]}
}

// GetMark reads it.
func GetMark(m *controlv1.AuditMark) (a control.AuditMark, ok bool) {
	if m == nil {
		return a, true
	}
	a.Sequence = m.GetSequence()
	copy(a.Hash[:], m.GetHash())
	return a, a.Sequence > 0 && len(m.GetHash()) == len(a.Hash)
}
