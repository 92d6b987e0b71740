package shape

import (
	"strings"
	"time"

	"github.com/clrelay/clrelay/internal/limit"
)

// Yield takes out of a limit that was learned of a site, or that a Book gives
// it, what an operator has set for the site: the operator's connections stand in
// the place of its connections, and the rate in that of its rate, until the
// operator's ends. A suspension yields to nothing. ok is false if nothing is left
// of it.
func Yield(d limit.Definition, orders []limit.Definition, now time.Time) (left limit.Definition, ok bool) {
	if d.Suspended || len(d.Match[limit.Site]) != 1 {
		return d, true
	}
	for i := range orders {
		o := &orders[i]
		if !o.Until.IsZero() && !o.Until.After(now) || !isFor(o, d.Match[limit.Site][0]) {
			continue
		}
		if o.Connections > 0 {
			d.Connections = 0
		}
		if o.Rate.N > 0 {
			d.Rate, d.Burst = limit.Rate{}, 0
		}
	}
	return d, d.Connections > 0 || d.Rate.N > 0
}

// isFor tells whether an operator's limit is for all mail to the site.
func isFor(o *limit.Definition, site string) bool {
	if o.Side != limit.Deliver || len(o.Per) > 1 || len(o.Per) == 1 && o.Per[0] != limit.Site {
		return false
	}
	for f, values := range o.Match {
		if limit.Field(f) != limit.Site && len(values) > 0 {
			return false
		}
	}
	for _, v := range o.Match[limit.Site] {
		if v == site || strings.HasPrefix(v, "*.") && strings.HasSuffix(site, v[1:]) {
			return true
		}
	}
	return false
}

// yield has a list yield to what operators have set.
func yield(list, orders []limit.Definition, now time.Time) []limit.Definition {
	out := make([]limit.Definition, 0, len(list))
	for i := range list {
		if d, ok := Yield(list[i], orders, now); ok {
			out = append(out, d)
		}
	}
	return out
}

// ends gives when the first of the limits ends by itself; zero: none does.
func ends(orders []limit.Definition, now time.Time) (first time.Time) {
	for i := range orders {
		if u := orders[i].Until; u.After(now) && (first.IsZero() || u.Before(first)) {
			first = u
		}
	}
	return first
}
