package limits

import (
	"fmt"
	"slices"
	"strings"

	"github.com/clrelay/clrelay/internal/config"
	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/limit/subject"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/names"
)

// fit makes a value that an operator wrote one as subjects have it, and refuses
// what no subject ever has: a limit that never holds is worse than an error.
func fit(c *config.Cluster, f limit.Field, v string) (string, error) {
	switch f {
	case limit.Sender:
		if v == subject.Null {
			return v, nil
		}
		a, err := mail.ParseMailbox(v, true)
		if err != nil {
			return "", fmt.Errorf("the sender %q: %w", v, err)
		}
		var s limit.Subject
		subject.From(&s, a)
		return s.Sender, nil
	case limit.SenderDomain, limit.RecipientDomain, limit.Site:
		base, wild := strings.CutPrefix(v, "*.")
		if f == limit.Site && !wild {
			return strings.ToLower(v), nil // may be an address; sitesAre looks at it
		}
		base, err := names.Normalize(base)
		if err != nil {
			return "", fmt.Errorf("the %v %q is no domain, and not *. with one", f, v)
		}
		if wild {
			base = "*." + base
		}
		return base, nil
	case limit.Group, limit.Source, limit.Route:
		if known := called(c, f); !slices.Contains(known, v) {
			return "", fmt.Errorf("there is no %v %q; there are: %s", f, v, list(known))
		}
	}
	return v, nil
}

// called gives the names that the configuration has of a field.
func called(c *config.Cluster, f limit.Field) (out []string) {
	switch f {
	case limit.Group:
		for _, e := range c.Senders {
			out = append(out, string(e.Name))
		}
	case limit.Route:
		for i := range c.Routes {
			out = append(out, c.RouteName(i))
		}
	case limit.Source:
		for _, p := range c.Pools {
			for _, s := range p.Sources {
				out = append(out, string(s.Name))
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// list is for names that may be many.
func list(names []string) string {
	switch n := len(names); {
	case n == 0:
		return "none"
	case n > 20:
		return strings.Join(names[:20], ", ") + ", ..."
	}
	return strings.Join(names, ", ")
}
