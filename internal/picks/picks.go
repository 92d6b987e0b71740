// Package picks says which recipients in the queue an operator means: the
// selectors of the admin API, and what they match.
package picks

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/clrelay/clrelay/internal/bounce"
	"github.com/clrelay/clrelay/internal/mail"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// Entry is one recipient in the queue.
type Entry struct {
	ID        mail.ID
	Node      string
	From, To  mail.Address
	State     mail.State
	Size      int64
	Arrived   time.Time
	Attempts  uint32
	Next      time.Time   // zero while active or held for good; of one in the trash: when it is destroyed
	LastReply mail.Reply  // zero when nothing was tried
	Client    mail.Client // where the message came from
	Lane      string      // where it goes next
	Rule      string      // ID of the hold rule that keeps it; empty when none does
	Route     string      // where an operator sends it, against the routes; empty: nowhere else
	Expires   time.Time   // when it is given up, if an operator said so; else zero
}

// Selector picks recipients in the queue, as admin.v1.Selector describes. The
// zero value picks all but the trash.
type Selector struct {
	IDs        []mail.ID
	States     []mail.State
	Nodes      []string
	Before     time.Time // arrived before it; zero is any
	After      time.Time // arrived at it or later; zero is any
	domains    []string  // in the form of package names, exact or "*.example.org"
	rcpts      []pattern
	froms      []pattern
	senders    []string
	clients    []netip.Prefix
	routes     []string // lower case
	rules      []string
	replies    []string // lower case
	dsns       [][3]int // -1: any
	classes    []bounce.Class
	sizeOver   *int64 // octets; nil: any
	triesOver  *uint32
	everything bool
}

// maxPatterns bounds each list of a selector, for each entry of the queue is
// held against each of them.
const maxPatterns = 1000

// Invalid is the error of a selector that means nothing.
type Invalid string

// Error says what is wrong with it.
func (e Invalid) Error() string { return string(e) }

// ErrID says that there cannot be a message with such an ID.
var ErrID = errors.New("not an ID")

// New reads a selector from the API. An ID that does not parse is ErrID.
func New(in *adminv1.Selector) (*Selector, error) {
	s := &Selector{everything: in.GetEverything(), Nodes: in.GetNodes(), senders: in.GetSenders(), rules: in.GetRules()}
	if err := bounded(in); err != nil {
		return nil, err
	}
	for _, text := range in.GetIds() {
		id, err := mail.ParseID(text)
		if err != nil {
			return nil, fmt.Errorf("%w: %q: %w", ErrID, text, err)
		}
		s.IDs = append(s.IDs, id)
	}
	for _, st := range in.GetStates() {
		state, ok := queuedState(st)
		if !ok {
			return nil, Invalid("states are active, deferred, held and trash")
		}
		s.States = append(s.States, state)
	}
	if in.GetArrivedBefore() != nil {
		s.Before = in.GetArrivedBefore().AsTime()
	}
	if in.GetArrivedAfter() != nil {
		s.After = in.GetArrivedAfter().AsTime()
	}
	if err := s.addresses(in); err != nil {
		return nil, err
	}
	if err := s.rest(in); err != nil {
		return nil, err
	}
	if s.everything && s.narrows() {
		return nil, Invalid("everything goes with no other selector")
	}
	return s, nil
}

// bounded sees that no list is too long.
func bounded(in *adminv1.Selector) error {
	for what, list := range map[string][]string{
		"ids": in.GetIds(), "domains": in.GetDomains(), "rcpts": in.GetRcpts(), "froms": in.GetFroms(), "nodes": in.GetNodes(),
		"senders": in.GetSenders(), "clients": in.GetClients(), "routes": in.GetRoutes(), "rules": in.GetRules(),
		"replies": in.GetReplies(), "dsns": in.GetDsns(), "reason_classes": in.GetReasonClasses(),
	} {
		if len(list) > maxPatterns {
			return Invalid(fmt.Sprintf("%s has more than %d values", what, maxPatterns))
		}
		if what != "ids" && what != "domains" && slices.Contains(list, "") {
			return Invalid(what + ": an empty value matches nothing; the null sender is <>")
		}
	}
	return nil
}

// addresses reads what is held against sender and recipient.
func (s *Selector) addresses(in *adminv1.Selector) error {
	for _, d := range in.GetDomains() {
		name, wild := strings.CutPrefix(d, "*.")
		if strings.Contains(name, "*") || name == "" {
			return Invalid(fmt.Sprintf("domain %q is neither a name nor *.name", d))
		}
		name = domain(name)
		if wild {
			name = "*." + name
		}
		s.domains = append(s.domains, name)
	}
	for _, p := range in.GetRcpts() {
		s.rcpts = append(s.rcpts, newPattern(p))
	}
	for _, p := range in.GetFroms() {
		s.froms = append(s.froms, newPattern(p))
	}
	return nil
}

// rest reads what is held against other things.
func (s *Selector) rest(in *adminv1.Selector) error {
	for _, text := range in.GetClients() {
		p, err := netip.ParsePrefix(text)
		if a, aerr := netip.ParseAddr(text); err != nil && aerr == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			return Invalid(fmt.Sprintf("client %q is neither an address nor a network such as 192.0.2.0/24", text))
		}
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		s.clients = append(s.clients, p.Masked())
	}
	for _, text := range in.GetDsns() {
		d, err := parseDSN(text)
		if err != nil {
			return err
		}
		s.dsns = append(s.dsns, d)
	}
	for _, name := range in.GetReasonClasses() {
		for _, n := range append(older(name), name) {
			if c, ok := bounce.Parse(n); ok {
				s.classes = append(s.classes, c)
			} else if older(n) == nil {
				return Invalid(fmt.Sprintf("reason class %q is none of %s", n, strings.Join(bounce.Names(), ", ")))
			}
		}
	}
	s.routes, s.replies = lower(in.GetRoutes()), lower(in.GetReplies())
	if in != nil {
		s.sizeOver, s.triesOver = in.SizeOver, in.AttemptsOver
	}
	if in.GetSizeOver() < 0 {
		return Invalid("size_over must not be negative")
	}
	return nil
}

// parseDSN reads an enhanced status code in which a part may be *, as may all
// behind it.
func parseDSN(text string) (d [3]int, err error) {
	d = [3]int{-1, -1, -1}
	parts := strings.Split(text, ".")
	bad := Invalid(fmt.Sprintf("dsn %q is not an enhanced status code such as 4.7.1 or 4.7.*", text))
	if len(parts) > 3 {
		return d, bad
	}
	for i, p := range parts {
		if p == "*" {
			continue
		}
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || i == 0 && n != 2 && n != 4 && n != 5 {
			return d, bad
		}
		d[i] = int(n)
	}
	if len(parts) < 3 && parts[len(parts)-1] != "*" {
		return d, bad
	}
	return d, nil
}

func lower(in []string) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = strings.ToLower(s)
	}
	return out
}

func queuedState(st adminv1.RecipientState) (mail.State, bool) {
	switch st {
	case adminv1.RecipientState_RECIPIENT_STATE_ACTIVE:
		return mail.StateActive, true
	case adminv1.RecipientState_RECIPIENT_STATE_DEFERRED:
		return mail.StateDeferred, true
	case adminv1.RecipientState_RECIPIENT_STATE_HELD:
		return mail.StateHeld, true
	case adminv1.RecipientState_RECIPIENT_STATE_TRASH:
		return mail.StateTrashed, true
	}
	return 0, false
}

func (s *Selector) narrows() bool {
	return len(s.IDs)+len(s.States)+len(s.Nodes)+len(s.rules)+len(s.routes) > 0 || !s.Before.IsZero() || !s.After.IsZero() ||
		s.sizeOver != nil || s.triesOver != nil || s.needsEnvelope() || s.needsReply()
}

func (s *Selector) needsEnvelope() bool {
	return len(s.domains)+len(s.rcpts)+len(s.froms)+len(s.senders)+len(s.clients) > 0
}

func (s *Selector) needsReply() bool { return len(s.replies)+len(s.dsns)+len(s.classes) > 0 }

// IsNew tells whether a selector has something that programs below the feature
// level of operators' records would overlook.
func IsNew(in *adminv1.Selector) bool {
	if in == nil {
		return false
	}
	return len(in.GetSenders())+len(in.GetNodes())+len(in.GetRoutes())+len(in.GetClients())+len(in.GetReplies())+len(in.GetDsns())+
		len(in.GetReasonClasses())+len(in.GetRules()) > 0 || in.SizeOver != nil || in.AttemptsOver != nil ||
		slices.Contains(in.GetStates(), adminv1.RecipientState_RECIPIENT_STATE_TRASH)
}
