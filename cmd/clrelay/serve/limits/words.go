package limits

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/clrelay/clrelay/cmd/clrelay/serve/shaping"
	"github.com/clrelay/clrelay/delivery/source/warmup"
	"github.com/clrelay/clrelay/internal/limit"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// outlook is what all nodes say about a destination.
type outlook struct {
	*adminv1.ExplainLimitsResponse
	nodes []*adminv1.ExplainLimitsResponse // those that answered, by name
	stop  [][]*adminv1.LimitVerdict        // limits that stand in the way, each with its parts
	from  string                           // whose mail it is about; empty: everybody's
	now   time.Time

	idle    []string // nodes that deliver nothing, wherever to
	queued  int64    // recipients of the destination
	cut     bool     // there are more
	looked  int64    // those of which is known what they wait for
	late    int64    // deferred ones
	held    int64
	waiting int64 // those that wait for limits
	holds   map[key]*adminv1.LimitHold
}

// maxTold is how many limits the paragraph tells of.
const maxTold = 3

// summary says all of it in a paragraph, for somebody who was woken by it.
func summary(r *adminv1.ExplainLimitsResponse, from string, now time.Time) string {
	if r.GetReply() != "" {
		return fmt.Sprintf("Mail for %s goes nowhere: no route leads there, and its senders are told: %s", r.GetDomain(), r.GetReply())
	}
	o := outlook{ExplainLimitsResponse: r, nodes: append([]*adminv1.ExplainLimitsResponse{r}, r.GetOthers()...), from: from, now: now}
	slices.SortFunc(o.nodes, func(a, b *adminv1.ExplainLimitsResponse) int { return cmp.Compare(a.GetNode(), b.GetNode()) })
	o.count()
	o.stop = o.barriers()
	var say []string
	if len(o.idle) > 0 {
		say = append(say, fmt.Sprintf("Nothing at all is delivered from %s, without a lease: a majority of the nodes has to be there and hear each other (clrelay cluster status).", strings.Join(o.idle, ", ")))
	}
	say = append(say, o.verdict())
	for i, parts := range o.stop {
		if i == maxTold {
			say = append(say, fmt.Sprintf("%d more limits stand in the way, as the table shows.", len(o.stop)-i))
			break
		}
		say = append(say, o.standsInTheWay(parts))
	}
	say = append(say, o.others()...)
	say = append(say, o.lastWords()...)
	if s := o.waits(); s != "" {
		say = append(say, s)
	}
	if s := o.deferred(); s != "" {
		say = append(say, s)
	}
	if missing := r.GetMissingNodes(); len(missing) > 0 {
		say = append(say, fmt.Sprintf("No answer came from %s: what waits there is not counted.", strings.Join(missing, ", ")))
	}
	return strings.Join(say, " ")
}

// count adds up what the nodes have queued.
func (o *outlook) count() {
	o.holds = map[key]*adminv1.LimitHold{}
	for _, n := range o.nodes {
		if n.GetNoLease() {
			o.idle = append(o.idle, n.GetNode())
		}
		m := n.GetMail()
		own, cut := o.own(n)
		o.queued, o.cut = o.queued+own, o.cut || cut
		o.looked, o.late, o.held = o.looked+m.GetRecipients(), o.late+m.GetDeferred(), o.held+m.GetHeld()
		for _, h := range m.GetHolds() {
			k := key{h.GetLimit(), h.GetKind(), h.GetKey()}
			if k.limit == "" {
				k.words = h.GetWhy()
			}
			all := o.holds[k]
			if all == nil {
				all = &adminv1.LimitHold{Limit: k.limit, Kind: k.kind, Key: k.words, Why: h.GetWhy(), Until: h.GetUntil()}
				o.holds[k] = all
			}
			all.Recipients += h.GetRecipients()
			o.waiting += h.GetRecipients()
		}
	}
}

// own is how many recipients of the destination a node has; cut: at least.
func (o *outlook) own(n *adminv1.ExplainLimitsResponse) (count int64, cut bool) {
	switch m := n.GetMail(); {
	case m == nil:
		return n.GetRecipients(), false // a node of an earlier version
	case m.GetCut() && !shared(n) && o.from == "":
		return max(m.GetRecipients(), n.GetRecipients()), false
	default:
		return m.GetRecipients(), m.GetCut()
	}
}

// shared tells whether mail for other domains takes the same lane.
func shared(n *adminv1.ExplainLimitsResponse) bool { return !strings.HasPrefix(n.GetLane(), "mx:") }

// hold is what waits for a part of a limit.
func (o *outlook) hold(v *adminv1.LimitVerdict) *adminv1.LimitHold {
	return o.holds[key{v.GetLimit().GetName(), v.GetUse().GetKind(), v.GetKey()}]
}

// holdsOf is how many recipients wait for a limit.
func (o *outlook) holdsOf(name string) (n int64) {
	for k, h := range o.holds {
		if k.limit == name {
			n += h.GetRecipients()
		}
	}
	return n
}

// barriers gathers the parts of limits that hold mail, refuse at some node, or told
// somebody to wait in the last second, by limit: those first that hold most. Of a
// part that counts by something it is the key that holds most.
func (o *outlook) barriers() (out [][]*adminv1.LimitVerdict) {
	at, most := map[string]int{}, map[key]*adminv1.LimitVerdict{}
	for _, n := range o.nodes {
		for _, v := range n.GetVerdicts() {
			name := v.GetLimit().GetName()
			part := key{limit: name, kind: v.GetUse().GetKind()}
			if v.GetAllows() && v.GetUse().GetWaiting() == 0 && o.hold(v) == nil {
				continue
			}
			if was := most[part]; was != nil {
				if o.hold(v).GetRecipients() > o.hold(was).GetRecipients() {
					i := slices.Index(out[at[name]], was)
					most[part], out[at[name]][i] = v, v
				}
				continue
			}
			most[part] = v
			if _, ok := at[name]; !ok {
				at[name] = len(out)
				out = append(out, nil)
			}
			out[at[name]] = append(out[at[name]], v)
		}
	}
	slices.SortStableFunc(out, func(a, b []*adminv1.LimitVerdict) int {
		return cmp.Compare(o.holdsOf(b[0].GetLimit().GetName()), o.holdsOf(a[0].GetLimit().GetName()))
	})
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
	domain, by := o.GetDomain(), ""
	if o.from != "" {
		domain += " from " + o.from
	}
	if o.GetSite() != o.GetDomain() {
		by = ", which is served by " + o.GetSite()
	}
	limited, down := false, []string(nil)
	for _, n := range o.nodes {
		limited = limited || n.GetState() == "limited"
		if n.GetState() == "down" {
			down = append(down, n.GetNode())
		}
	}
	whom := "Mail for " + domain + by
	if by != "" {
		whom += ","
	}
	some := o.waiting > 0 && o.waiting < o.looked-o.late-o.held
	if some {
		whom = "Some of the m" + strings.TrimPrefix(whom, "M")
	}
	idle := len(o.idle) == len(o.nodes)
	switch {
	case idle && o.queued == 0:
		return "Nothing is queued there for " + domain + by + "."
	case idle:
		return whom + " waits for that."
	case len(o.stop) > 0 && o.stop[0][0].GetLimit().GetSuspended():
		return whom + " is suspended."
	case len(down) == len(o.nodes):
		return whom + " does not move: the last tries failed."
	case len(down) > 0:
		return fmt.Sprintf("%s does not move at %s: the last tries failed there.", whom, strings.Join(down, ", "))
	case some:
		return whom + " waits for a limit, the rest moves."
	case len(o.stop) > 0 || o.waiting > 0 || limited && o.late+o.held < max(o.looked, 1):
		return whom + " waits for a limit."
	case o.queued == 0 && len(o.nodes) > 1:
		return "Nothing is queued at any node for " + domain + by + ", and nothing is known to hold new mail back."
	case o.queued == 0:
		return "Nothing is queued for " + domain + by + ", and nothing is known to hold new mail back."
	case o.late == o.queued:
		return whom + " is deferred."
	case o.held == o.queued:
		return whom + " is held."
	}
	return whom + " moves."
}

// standsInTheWay says what a limit allows and what of it is used, where, who set
// it, why, and until when.
func (o *outlook) standsInTheWay(parts []*adminv1.LimitVerdict) string {
	l := parts[0].GetLimit()
	s := "Limit " + l.GetName()
	if n := o.holdsOf(l.GetName()); n > 0 {
		s += " holds " + recipients(n)
		if here := o.hold(parts[0]).GetRecipients(); here > 0 && here < n && parts[0].GetKey() != "" {
			s += fmt.Sprintf(", %d of them for %s", here, parts[0].GetKey())
		}
	}
	s += ": "
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
		if l.GetReason() != "" {
			s += ": " + l.GetReason()
		}
	}
	if l.GetUntil() != nil && l.GetAuthor() != warmup.Author { // which goes on tomorrow
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
			if v.GetLimit().GetName() != l.GetName() || u.GetKind() != kind || v.GetKey() != first.GetKey() {
				continue
			}
			has, may := float64(u.GetUsed()), float64(u.GetShare())
			if kind == limit.KindRate.String() {
				has, may = u.GetPace(), u.GetPaceShare()
			}
			used, most = used+has, most+may
			// A node that has nothing of a budget and has not asked yet knows nothing.
			if kind != limit.KindBudget.String() || !v.GetAllows() || has < may {
				wait = min(wait, v.GetWait().AsDuration())
			}
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
		// All of it is used up, whatever a node still hopes to get.
		if u := first.GetUse(); u.GetNext() != nil && used >= float64(u.GetOf()) {
			wait = u.GetNext().AsTime().Sub(o.now)
		}
		if wait == math.MaxInt64 {
			wait = 0
		}
		next := after("; the next may go ", wait)
		if wait > time.Minute {
			next += at(o.now.Add(wait))
			if lost := first.GetUse().GetOf() - int64(used); lost > 0 {
				next = fmt.Sprintf("; the other %d were given away, too, to nodes that were restarted since or do not answer, or before the budget was made smaller", lost) + next
			}
		}
		are := "are"
		if used == 1 {
			are = "is"
		}
		return fmt.Sprintf("%s of the budget of %s %s spent%s%s", number(used), l.GetBudget(), are, where, next)
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

// at says when a budget begins anew, by the clock that it goes by.
func at(t time.Time) string {
	t = t.UTC().Round(time.Minute)
	if t.Equal(t.Truncate(24 * time.Hour)) {
		return ", at midnight UTC"
	}
	return t.Format(", at 15:04 UTC")
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

// others tells of what waits, and of no limit that was told of.
func (o *outlook) others() (say []string) {
	var list []*adminv1.LimitHold
	for k, h := range o.holds {
		if !slices.ContainsFunc(o.stop, func(parts []*adminv1.LimitVerdict) bool { return parts[0].GetLimit().GetName() == k.limit }) {
			list = append(list, h)
		}
	}
	slices.SortFunc(list, func(a, b *adminv1.LimitHold) int {
		return cmp.Or(cmp.Compare(b.GetRecipients(), a.GetRecipients()), cmp.Compare(a.GetWhy(), b.GetWhy()))
	})
	for _, h := range list[:min(len(list), maxTold)] {
		s := fmt.Sprintf("What holds %s: %s", recipients(h.GetRecipients()), h.GetWhy())
		if h.GetUntil() != nil {
			s += "; if nothing changes the next may go " + in(h.GetUntil().AsTime().Sub(o.now))
		}
		say = append(say, s+".")
	}
	for _, n := range o.nodes {
		if len(o.stop)+len(o.holds) == 0 && n.GetState() == "limited" && n.GetWhy() != "" {
			return append(say, "What holds it: "+sentence(n.GetWhy()))
		}
	}
	return say
}

// sentence ends a text of somebody else, of which it takes the beginning.
func sentence(s string) string {
	const most = 300
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return strings.TrimSuffix(s, ".") + "."
}

// lastWords are what hosts said where it does not move for it, and when it is
// tried again.
func (o *outlook) lastWords() (say []string) {
	next := time.Time{}
	for _, n := range o.nodes {
		if n.GetState() != "down" {
			continue
		}
		if n.GetWhy() != "" && len(say) == 0 {
			words := "The last word was: "
			if shared(n) {
				words = "The last word there, about any mail, was: "
			}
			say = append(say, words+sentence(n.GetWhy()))
		}
		t := cmp.Or(n.GetNextTry(), n.GetMail().GetNextTry())
		if t != nil && (next.IsZero() || t.AsTime().Before(next)) {
			next = t.AsTime()
		}
	}
	if !next.IsZero() {
		say = append(say, "It is tried again "+in(next.Sub(o.now))+".")
	}
	return say
}

// deferred says how much was put off, by what word, and until when.
func (o *outlook) deferred() string {
	if o.late == 0 {
		return ""
	}
	said, first := map[string]int64{}, time.Time{}
	for _, n := range o.nodes {
		m := n.GetMail()
		if m.GetReply() != "" {
			said[m.GetReply()] += m.GetReplied()
		}
		if t := m.GetNextTry(); t != nil && (first.IsZero() || t.AsTime().Before(first)) {
			first = t.AsTime()
		}
	}
	s := "Deferred: " + recipients(o.late)
	if !first.IsZero() {
		s += ", the first tried again " + in(first.Sub(o.now))
	}
	reply := ""
	for line, n := range said {
		if reply == "" || n > said[reply] || n == said[reply] && line < reply {
			reply = line
		}
	}
	if reply == "" || slices.ContainsFunc(o.nodes, func(n *adminv1.ExplainLimitsResponse) bool { return n.GetState() == "down" && n.GetWhy() == reply }) {
		return s + "." // that was the last word
	}
	return s + fmt.Sprintf("; the commonest last reply, to %d of them: %s", said[reply], sentence(reply))
}

// recipients counts them.
func recipients(n int64) string {
	if n == 1 {
		return "1 recipient"
	}
	return fmt.Sprintf("%d recipients", n)
}

// waits says what is queued, and where.
func (o *outlook) waits() string {
	lane, running, where := int64(0), int64(0), []string(nil)
	for _, n := range o.nodes {
		lane, running = lane+n.GetRecipients(), running+n.GetRunning()
		if own, _ := o.own(n); own > 0 {
			where = append(where, fmt.Sprintf("%s %d", n.GetNode(), own))
		}
	}
	if o.queued == 0 {
		return ""
	}
	s := "Queued for it: "
	if o.cut {
		s += "at least "
	}
	s += recipients(o.queued)
	if len(o.nodes) > 1 {
		s += " (" + strings.Join(where, ", ") + ")"
	}
	if o.held > 0 {
		s += fmt.Sprintf(", %d of them held", o.held)
	}
	there := ""
	if shared(o.ExplainLimitsResponse) && lane > o.queued {
		s += fmt.Sprintf(", of %d in the lane", lane)
		there = " there"
	}
	return fmt.Sprintf("%s; deliveries under way%s: %d.", s, there, running)
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
