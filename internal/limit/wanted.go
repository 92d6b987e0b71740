package limit

import (
	"net/netip"
	"slices"
	"strings"
)

// Wanted is the values of one Field that a rule is for.
type Wanted struct {
	Field Field
	Exact map[string]struct{}
	Below []string // ".example.org" for all below it
	Nets  []netip.Prefix
}

// Add takes a value in.
func (w *Wanted) Add(v string) {
	if w.Field == Client {
		if p, err := ParseNetwork(v); err == nil {
			w.Nets = append(w.Nets, p)
		}
		return
	}
	if wild(w.Field) && strings.HasPrefix(v, "*.") {
		w.Below = append(w.Below, v[1:])
		return
	}
	if w.Exact == nil {
		w.Exact = map[string]struct{}{}
	}
	w.Exact[v] = struct{}{}
}

func wild(f Field) bool {
	return f == RecipientDomain || f == SenderDomain || f == Site
}

// Matches tells whether s has one of the values.
func (w *Wanted) Matches(s *Subject) bool {
	if w.Field == Client {
		a := s.Client.Unmap().WithZone("")
		return slices.ContainsFunc(w.Nets, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	v := s.Value(w.Field)
	if _, ok := w.Exact[v]; ok {
		return true
	}
	for _, suffix := range w.Below {
		if strings.HasSuffix(v, suffix) {
			return true
		}
	}
	return false
}

// Cost orders fields by how well they can be looked up: exact values first, few
// before many.
func (w *Wanted) Cost() int {
	return len(w.Exact) + 1000*len(w.Below) + 1000*len(w.Nets)
}
