// Package picks says which recipients in the queue an operator means: the
// selectors of the admin API, and what they match.
package picks

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

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
	Next      time.Time  // zero while active or held
	LastReply mail.Reply // zero when nothing was tried
}

// Selector picks recipients in the queue, as admin.v1.Selector describes. The
// zero value picks all.
type Selector struct {
	IDs        []mail.ID
	States     []mail.State
	Before     time.Time // arrived before it; zero is any
	After      time.Time // arrived at it or later; zero is any
	domains    []string  // lower case, exact or "*.example.org"
	rcpts      []string  // lower-case patterns
	froms      []string
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
	s := &Selector{everything: in.GetEverything()}
	for what, n := range map[string]int{"ids": len(in.GetIds()), "domains": len(in.GetDomains()), "rcpts": len(in.GetRcpts()), "froms": len(in.GetFroms())} {
		if n > maxPatterns {
			return nil, Invalid(fmt.Sprintf("%s has more than %d values", what, maxPatterns))
		}
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
			return nil, Invalid("states are active, deferred and held")
		}
		s.States = append(s.States, state)
	}
	s.domains = lower(in.GetDomains())
	for _, d := range s.domains {
		if d == "" || strings.Contains(strings.TrimPrefix(d, "*."), "*") {
			return nil, Invalid(fmt.Sprintf("domain %q is neither a name nor *.name", d))
		}
	}
	s.rcpts, s.froms = lower(in.GetRcpts()), lower(in.GetFroms())
	if slices.Contains(s.rcpts, "") || slices.Contains(s.froms, "") {
		return nil, Invalid("an empty pattern matches nothing; the null sender is <>")
	}
	if in.GetArrivedBefore() != nil {
		s.Before = in.GetArrivedBefore().AsTime()
	}
	if in.GetArrivedAfter() != nil {
		s.After = in.GetArrivedAfter().AsTime()
	}
	if s.everything && s.narrows() {
		return nil, Invalid("everything goes with no other selector")
	}
	return s, nil
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
	}
	return 0, false
}

func (s *Selector) narrows() bool {
	return len(s.IDs)+len(s.States)+len(s.domains)+len(s.rcpts)+len(s.froms) > 0 || !s.Before.IsZero() || !s.After.IsZero()
}

// Given tells whether the selector says anything: the whole queue must be
// asked for by name before it is changed.
func (s *Selector) Given() bool { return s.everything || s.narrows() }

// NeedsAddress tells whether a match depends on an address, so that a queue
// can leave out what it would have to read from disk.
func (s *Selector) NeedsAddress() bool { return len(s.domains)+len(s.rcpts)+len(s.froms) > 0 }

// MatchMessage tells whether a message with that ID and arrival may have
// recipients that match.
func (s *Selector) MatchMessage(id mail.ID, arrived time.Time) bool {
	if len(s.IDs) > 0 && !slices.Contains(s.IDs, id) {
		return false
	}
	return (s.Before.IsZero() || arrived.Before(s.Before)) && (s.After.IsZero() || !arrived.Before(s.After))
}

// MatchState tells whether recipients in that state may match.
func (s *Selector) MatchState(st mail.State) bool {
	return len(s.States) == 0 || slices.Contains(s.States, st)
}

// MatchAddress tells whether sender and recipient match.
func (s *Selector) MatchAddress(from, to mail.Address) bool {
	return s.matchDomain(to.Domain) && matchAny(s.rcpts, to) && matchAny(s.froms, from)
}

// Match tells whether a recipient is picked.
func (s *Selector) Match(e *Entry) bool {
	return s.MatchMessage(e.ID, e.Arrived) && s.MatchState(e.State) && s.MatchAddress(e.From, e.To)
}

func (s *Selector) matchDomain(domain string) bool {
	if len(s.domains) == 0 {
		return true
	}
	domain = strings.ToLower(domain)
	for _, d := range s.domains {
		if below, ok := strings.CutPrefix(d, "*"); d == domain || ok && strings.HasSuffix(domain, below) {
			return true
		}
	}
	return false
}

func matchAny(patterns []string, a mail.Address) bool {
	if len(patterns) == 0 {
		return true
	}
	text := "<>"
	if !a.IsNull() {
		text = strings.ToLower(a.String())
	}
	for _, p := range patterns {
		if match(p, text) {
			return true
		}
	}
	return false
}

// match holds text against a pattern of characters, ? and *. It goes back to
// the last * alone, so its cost is bounded by the product of the lengths.
func match(pattern, text string) bool {
	p, t := 0, 0
	star, from := -1, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, t
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == text[t]):
			p++
			t++
		case star >= 0:
			from++
			p, t = star+1, from
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}
