package wire

import (
	"github.com/clrelay/clrelay/proto/control"
	controlv1 "github.com/clrelay/clrelay/proto/control/v1"
)

func putSuppress(c *control.SuppressOps) *controlv1.SuppressOps {
	m := &controlv1.SuppressOps{AtMs: c.AtMS}
	for _, k := range c.Remove {
		m.Remove = append(m.Remove, &controlv1.SuppressKey{Address: k.Address, Scope: k.Scope})
	}
	for i := range c.Add {
		e := &c.Add[i]
		m.Add = append(m.Add, &controlv1.Suppression{
			Address: e.Address, Scope: e.Scope, Reason: controlv1.SuppressReason(e.Reason), Text: e.Text,
			Source: e.Source, By: e.By, CreatedMs: e.CreatedMS, ExpiresMs: e.ExpiresMS,
		})
	}
	return m
}

func getSuppress(m *controlv1.SuppressOps) (control.Command, bool) {
	if len(m.GetRemove())+len(m.GetAdd()) > control.MaxOps {
		return nil, false
	}
	c := control.SuppressOps{AtMS: m.GetAtMs()}
	for _, k := range m.GetRemove() {
		c.Remove = append(c.Remove, control.SuppressKey{Address: k.GetAddress(), Scope: k.GetScope()})
	}
	for _, e := range m.GetAdd() {
		reason, ok := small(int32(e.GetReason()))
		if !ok {
			return nil, false
		}
		c.Add = append(c.Add, control.Suppression{
			SuppressKey: control.SuppressKey{Address: e.GetAddress(), Scope: e.GetScope()}, Reason: control.SuppressReason(reason),
			Text: e.GetText(), Source: e.GetSource(), By: e.GetBy(), CreatedMS: e.GetCreatedMs(), ExpiresMS: e.GetExpiresMs(),
		})
	}
	return c, true
}
