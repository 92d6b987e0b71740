package limits

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/clrelay/clrelay/delivery/shape"
	"github.com/clrelay/clrelay/internal/config"
	section "github.com/clrelay/clrelay/internal/config/limits"
	"github.com/clrelay/clrelay/internal/config/words"
	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/limit/subject"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/names"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
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
		if err := section.NoPattern(a); err != nil {
			return "", err
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
	case limit.Client:
		var n words.Network
		if err := n.Parse(v); err != nil {
			return "", fmt.Errorf("the client %w", err)
		}
		return n.String(), nil
	case limit.Group, limit.Source, limit.Route:
		if known := called(c, f); !slices.Contains(known, v) {
			return "", fmt.Errorf("there is no %v %q; there are: %s", f, v, list(known))
		}
	}
	return v, nil
}

// amounts reads how much is allowed, and of what.
func amounts(d *limit.Definition, in *adminv1.Limit) (err error) {
	var ok bool
	if d.Count, ok = word(in.GetCount(), limit.Messages, limit.Recipients, limit.Octets); !ok {
		return invalid("%q is not messages, recipients or octets", in.GetCount())
	}
	if d.OnPartition, ok = word(in.GetOnPartition(), limit.Floor, limit.Stop, limit.Full); !ok {
		return invalid("%q is not floor, stop or full", in.GetOnPartition())
	}
	if in.GetRate() != "" {
		if d.Rate, err = rate(in.GetRate(), d.Count); err != nil {
			return err
		}
		if d.Burst == 0 {
			d.Burst = shape.Burst(d.Rate)
		}
	}
	if in.GetBudget() != "" {
		if d.Budget, err = rate(in.GetBudget(), d.Count); err != nil {
			return err
		}
		if d.Budget.Per < time.Hour {
			return invalid("%q is no budget: it is for an hour or a day, as in 5000/h or 1000/d", in.GetBudget())
		}
	}
	return nil
}

// word finds one of known by its name. The first need not be said.
func word[T fmt.Stringer](name string, known ...T) (T, bool) {
	for _, k := range known {
		if k.String() == name {
			return k, true
		}
	}
	return known[0], name == ""
}

// rate reads one as cluster.yaml has it.
func rate(text string, u limit.Unit) (limit.Rate, error) {
	var r section.Rate
	if err := r.Parse(text); err != nil {
		return limit.Rate{}, invalid("%v", err)
	}
	if err := r.Measures(u); err != nil {
		return limit.Rate{}, invalid("%v", err)
	}
	return r.Rate, nil
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
