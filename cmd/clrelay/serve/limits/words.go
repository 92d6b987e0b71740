package limits

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/clrelay/clrelay/cmd/clrelay/serve/shaping"
	"github.com/clrelay/clrelay/internal/limit"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// outlook is what all nodes say about a destination.
type outlook struct {
	*adminv1.ExplainLimitsResponse
	nodes []*adminv1.ExplainLimitsResponse // those that answered, by name
	stop  [][]*adminv1.LimitVerdict        // limits that stand in the way, each with its parts
	now   time.Time
}

// summary says all of it in a paragraph, for somebody who was woken by it.
func summary(r *adminv1.ExplainLimitsResponse, now time.Time) string {
	if r.GetReply() != "" {
		return fmt.Sprintf("Mail for %s goes nowhere: no route leads there, and its senders are told: %s", r.GetDomain(), r.GetReply())
	}
	o := outlook{ExplainLimitsResponse: r, nodes: append([]*adminv1.ExplainLimitsResponse{r}, r.GetOthers()...), now: now}
	slices.SortFunc(o.nodes, func(a, b *adminv1.ExplainLimitsResponse) int { return cmp.Compare(a.GetNode(), b.GetNode()) })
	o.stop = o.barriers()
	say := []string{o.verdict()}
	for _, parts := range o.stop {
		say = append(say, o.standsInTheWay(parts))
	}
	say = append(say, o.lastWords()...)
	if s := o.queued(); s != "" {
		say = append(say, s)
	}
	if missing := r.GetMissingNodes(); len(missing) > 0 {
		say = append(say, fmt.Sprintf("No answer came from %s: what waits there is not counted.", strings.Join(missing, ", ")))
	}
	return strings.Join(say, " ")
}

// barriers gathers the parts of limits that refuse at some node, or told somebody
// to wait in the last second, by limit.
func (o *outlook) barriers() (out [][]*adminv1.LimitVerdict) {
	at, seen := map[string]int{}, map[string]bool{}
	for _, n := range o.nodes {
		for _, v := range n.GetVerdicts() {
			name := v.GetLimit().GetName()
			part := name + "#" + v.GetUse().GetKind()
			if v.GetAllows() && v.GetUse().GetWaiting() == 0 || seen[part] {
				continue
			}
			seen[part] = true
			if _, ok := at[name]; !ok {
				at[name] = len(out)
				out = append(out, nil)
			}
			out[at[name]] = append(out[at[name]], v)
		}
	}
	for _, parts := range out {
		slices.SortFunc(parts, func(a, b *adminv1.LimitVerdict) int { return cmp.Compare(place(a), place(b)) })
	}
	return out
}

// place is where a part stands among those of its limit.
func place(v *adminv1.LimitVerdict) int {
	return slices.Index([]string{"suspended", "rate", "connections", "budget"}, v.GetUse().GetKind())
}

// verdict is whether it moves.
func (o *outlook) verdict() string {
	whom := "Mail for " + o.GetDomain()
	if o.GetSite() != o.GetDomain() {
		whom += fmt.Sprintf(", which is served by %s,", o.GetSite())
	}
	queued, limited, down := int64(0), false, []string(nil)
	for _, n := range o.nodes {
		queued += n.GetRecipients()
		limited = limited || n.GetState() == "limited"
		if n.GetState() == "down" {
			down = append(down, n.GetNode())
		}
	}
	switch {
	case len(o.stop) > 0 && o.stop[0][0].GetLimit().GetSuspended():
		return whom + " is suspended."
	case len(down) == len(o.nodes):
		return whom + " does not move: the last tries failed."
	case len(down) > 0:
		return fmt.Sprintf("%s does not move at %s: the last tries failed there.", whom, strings.Join(down, ", "))
	case len(o.stop) > 0 || limited:
		return whom + " waits for a limit."
	case queued == 0 && len(o.nodes) > 1:
		return strings.Replace(whom, "Mail", "Nothing is queued", 1) + " at any node, and nothing holds new mail back."
	case queued == 0:
		return strings.Replace(whom, "Mail", "Nothing is queued", 1) + ", and nothing holds new mail back."
	}
	return whom + " moves."
}

// standsInTheWay says what a limit allows and what of it is used, where, who set
// it, why, and until when.
func (o *outlook) standsInTheWay(parts []*adminv1.LimitVerdict) string {
	l := parts[0].GetLimit()
	s := "Limit " + l.GetName() + ": "
	for i, v := range parts {
		if i > 0 {
			s += "; "
		}
		s += o.part(v)
	}
	switch l.GetOrigin() {
	case shaping.Learned:
		s += "; learned from the reply: " + l.GetReason()
	case shaping.Set:
		s += "; set by " + l.GetAuthor()
		if l.GetReason() != "" {
			s += ": " + l.GetReason()
		}
	case shaping.Shipped:
		s += "; it comes with the program"
	case shaping.Configured:
		s += "; it is of the cluster's configuration"
	}
	if l.GetUntil() != nil {
		s += "; it ends " + in(l.GetUntil().AsTime().Sub(o.now))
	}
	if l.GetOrigin() == shaping.Learned || l.GetOrigin() == shaping.Set {
		s += fmt.Sprintf(" (to end it now: clrelay limit clear %s)", l.GetName())
	}
	return s + "."
}

// part says how a part of a limit stands at all nodes.
func (o *outlook) part(first *adminv1.LimitVerdict) string {
	l, kind := first.GetLimit(), first.GetUse().GetKind()
	used, most, shares, wait := 0.0, 0.0, []string(nil), time.Duration(math.MaxInt64)
	for _, n := range o.nodes {
		for _, v := range n.GetVerdicts() {
			u := v.GetUse()
			if v.GetLimit().GetName() != l.GetName() || u.GetKind() != kind {
				continue
			}
			has, may := float64(u.GetUsed()), float64(u.GetShare())
			if kind == limit.KindRate.String() {
				has, may = u.GetPace(), u.GetPaceShare()
			}
			used, most = used+has, most+may
			wait = min(wait, v.GetWait().AsDuration())
			shares = append(shares, fmt.Sprintf("%s %s of %s", n.GetNode(), number(has), number(may)))
		}
	}
	where := ""
	if len(o.nodes) > 1 && len(shares) > 0 {
		where = " (" + strings.Join(shares, ", ") + ")"
	}
	if k := first.GetKey(); k != "" {
		where = " for " + k + where
	}
	switch kind {
	case limit.KindSuspended.String():
		return "nothing is sent"
	case limit.KindConnections.String():
		return fmt.Sprintf("%s of %d connections are open%s; the next may begin when one ends", number(used), l.GetConnections(), where)
	case limit.KindBudget.String():
		return fmt.Sprintf("%s of the budget of %s are spent%s%s", number(used), l.GetBudget(), where, after("; the next may go ", wait))
	}
	return fmt.Sprintf("it lets %s go, and %s%s went lately%s%s", l.GetRate(), number(used), per(l.GetRate()), where, after("; the next may go ", wait))
}

// after says when something goes on.
func after(words string, wait time.Duration) string {
	if wait <= 0 {
		return ""
	}
	return words + in(wait)
}

// per is the time of a rate: "/s".
func per(rate string) string {
	if i := strings.IndexByte(rate, '/'); i >= 0 {
		return rate[i:]
	}
	return ""
}

// number writes a figure, whole where it is large.
func number(v float64) string {
	if v >= 10 || v == math.Trunc(v) {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.1f", v)
}

// lastWords are what hosts said where it does not move for it, and when it is
// tried again.
func (o *outlook) lastWords() (say []string) {
	why, next := "", time.Time{}
	for _, n := range o.nodes {
		if n.GetState() != "limited" && n.GetWhy() != "" && why == "" {
			why = strings.TrimSuffix(n.GetWhy(), ".")
		}
		if t := n.GetNextTry(); t != nil && n.GetState() != "limited" && (next.IsZero() || t.AsTime().Before(next)) {
			next = t.AsTime()
		}
	}
	if why != "" {
		say = append(say, "The last word was: "+why+".")
	}
	if !next.IsZero() {
		say = append(say, "It is tried again "+in(next.Sub(o.now))+".")
	}
	return say
}

// queued says what waits, and where.
func (o *outlook) queued() string {
	total, running, where := int64(0), int64(0), []string(nil)
	for _, n := range o.nodes {
		total, running = total+n.GetRecipients(), running+n.GetRunning()
		if n.GetRecipients() > 0 {
			where = append(where, fmt.Sprintf("%s %d", n.GetNode(), n.GetRecipients()))
		}
	}
	if total == 0 {
		return ""
	}
	s := fmt.Sprintf("Queued for it: %d recipients", total)
	if total == 1 {
		s = "Queued for it: 1 recipient"
	}
	if len(o.nodes) > 1 {
		s += " (" + strings.Join(where, ", ") + ")"
	}
	return fmt.Sprintf("%s; deliveries under way: %d.", s, running)
}

// in says when, from now.
func in(d time.Duration) string {
	switch {
	case d <= 0:
		return "now"
	case d < time.Second:
		return "within a second"
	case d < 2*time.Minute:
		return fmt.Sprintf("in %d s", int(d.Seconds()+0.5))
	case d < 2*time.Hour:
		return fmt.Sprintf("in %d min", int(d.Minutes()+0.5))
	}
	return fmt.Sprintf("in %.1f h", d.Hours())
}
