// Package dialogue lets an operator listen to SMTP dialogues as they go: what
// was said on a connection, by whom and when.
//
// What is secret is left out where the words are still at hand: of AUTH and
// what follows it, of lines that are no command, and of the content of
// messages there is the number of octets alone. While nobody listens a
// connection costs one atomic load; one that is listened to never waits for
// the listener, who is told how many lines were lost.
//
// A Tap is shared by all connections and may be used by any goroutine, as may
// a Follower. A Session belongs to the goroutine of its connection. A nil Tap
// and a nil Session take everything and do nothing.
package dialogue

import (
	"context"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Side says which end of the connection this relay is.
type Side uint8

// The sides.
const (
	Server Side = 1 // a client connected to it
	Client Side = 2 // it connected to a next hop
)

// Who says who spoke.
type Who uint8

// Who may have spoken. Note is our own word about the connection.
const (
	Note Who = iota
	Us
	Them
)

// Line is one line of a dialogue.
type Line struct {
	Session uint64 // number of the connection, on this node
	Side    Side
	Peer    string // "192.0.2.1" or "mx.example.org[192.0.2.1]:25"
	Who     Who
	Text    string
	Time    time.Time
	Since   time.Duration // the line before
	End     bool          // the connection is closed
}

// Filter says which connections are listened to.
type Filter struct {
	Client netip.Prefix // of clients; invalid: none
	// Dest is a domain of recipients, or the name of a next hop or of a domain
	// above it; empty: no next hops.
	Dest string
}

// Bounds.
const (
	maxText     = 1000 // of a line
	room        = 1024 // lines that wait for a follower
	maxFollower = 16   // at a time
)

// Tap is where connections are listened to.
type Tap struct {
	on   atomic.Int32
	last atomic.Uint64

	mu        sync.Mutex
	followers map[*Follower]struct{}
}

// Follower is who listens.
type Follower struct {
	C <-chan Line

	c      chan Line
	tap    *Tap
	filter Filter
	lost   atomic.Uint64
	gone   atomic.Bool
}

// Follow listens to new connections; false means that too many do already.
// The caller ends it with Close.
func (t *Tap) Follow(f Filter) (*Follower, bool) {
	c := make(chan Line, room)
	w := &Follower{C: c, c: c, tap: t, filter: f}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.followers) >= maxFollower {
		return nil, false
	}
	if t.followers == nil {
		t.followers = map[*Follower]struct{}{}
	}
	t.followers[w] = struct{}{}
	t.on.Add(1)
	return w, true
}

// Lost tells how many lines were lost since it was asked last.
func (f *Follower) Lost() uint64 { return f.lost.Swap(0) }

// Close ends it. C is left open.
func (f *Follower) Close() {
	f.gone.Store(true)
	f.tap.mu.Lock()
	defer f.tap.mu.Unlock()
	if _, ok := f.tap.followers[f]; ok {
		delete(f.tap.followers, f)
		f.tap.on.Add(-1)
	}
}

// On tells whether anybody listens.
func (t *Tap) On() bool { return t != nil && t.on.Load() > 0 }

// Session is a connection that somebody listens to.
type Session struct {
	id        uint64
	side      Side
	peer      string
	followers []*Follower
	last      time.Time
}

// Server gives the session of a client's connection, nil when nobody listens
// to it.
func (t *Tap) Server(client netip.Addr) *Session {
	if !t.On() {
		return nil
	}
	client = client.Unmap().WithZone("")
	return t.session(Server, client.String(), func(f *Filter) bool { return f.Client.IsValid() && f.Client.Contains(client) })
}

// Client gives the session of a connection to a next hop, for recipients in
// some domains; nil when nobody listens to it.
func (t *Tap) Client(peer, host string, domains func(yield func(string) bool)) *Session {
	if !t.On() {
		return nil
	}
	return t.session(Client, peer, func(f *Filter) bool {
		if f.Dest == "" {
			return false
		}
		if under(host, f.Dest) {
			return true
		}
		for d := range domains {
			if strings.EqualFold(d, f.Dest) {
				return true
			}
		}
		return false
	})
}

// under tells whether a host has that name, or one below it.
func under(host, name string) bool {
	if len(host) < len(name) || !strings.EqualFold(host[len(host)-len(name):], name) {
		return false
	}
	return len(host) == len(name) || host[len(host)-len(name)-1] == '.'
}

func (t *Tap) session(side Side, peer string, match func(*Filter) bool) *Session {
	t.mu.Lock()
	defer t.mu.Unlock()
	var s *Session
	for f := range t.followers {
		if match(&f.filter) {
			if s == nil {
				s = &Session{id: t.last.Add(1), side: side, peer: peer, last: time.Now()}
			}
			s.followers = append(s.followers, f)
		}
	}
	return s
}

// say hands a line to those who still listen.
func (s *Session) say(who Who, text string, end bool) {
	now := time.Now()
	l := Line{Session: s.id, Side: s.side, Peer: s.peer, Who: who, Time: now, Since: now.Sub(s.last), End: end}
	s.last = now
	l.Text = strings.ToValidUTF8(text[:min(len(text), maxText)], "\ufffd")
	for _, f := range s.followers {
		if f.gone.Load() {
			continue
		}
		select {
		case f.c <- l:
		default:
			f.lost.Add(1)
		}
	}
}

// Command is a line that the client of the connection said.
func (s *Session) Command(line string) {
	if s != nil {
		s.say(s.who(true), redacted(line), false)
	}
}

// Commands are lines that go out together.
func (s *Session) Commands(lines []byte) {
	if s == nil {
		return
	}
	for line := range strings.Lines(string(lines)) {
		s.Command(strings.TrimRight(line, "\r\n"))
	}
}

// Secret is a line that must not be shown, whoever said it.
func (s *Session) Secret(client bool, what string, octets int) {
	if s != nil {
		s.say(s.who(client), what+hidden(octets), false)
	}
}

// Reply is what the server of the connection said, a line or more.
func (s *Session) Reply(text string) {
	if s == nil {
		return
	}
	for line := range strings.Lines(text) {
		if line = strings.TrimRight(line, "\r\n"); strings.HasPrefix(line, "334") {
			line = "334 " + hidden(max(0, len(line)-4)) // a challenge, which can be guessed from
		}
		s.say(s.who(false), line, false)
	}
}

// Content is the content of a message, or a part of it.
func (s *Session) Content(octets int64) {
	if s != nil {
		s.say(s.who(true), "[content of "+strconv.FormatInt(octets, 10)+" octets]", false)
	}
}

// Note is a word of ours about the connection.
func (s *Session) Note(text string) {
	if s != nil {
		s.say(Note, text, false)
	}
}

// End says that the connection is closed.
func (s *Session) End(why string) {
	if s != nil {
		s.say(Note, "closed: "+why, true)
	}
}

func (s *Session) who(client bool) Who {
	if client == (s.side == Client) {
		return Us
	}
	return Them
}

func hidden(octets int) string { return "[" + strconv.Itoa(octets) + " octets]" }

// redacted takes out of a command line what may be secret: what follows the
// mechanism of AUTH, and any line that is no command, for it may be the answer
// to a challenge or a part of a message.
func redacted(line string) string {
	verb, arg, _ := strings.Cut(line, " ")
	switch strings.ToUpper(verb) {
	case "HELO", "EHLO", "LHLO", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "QUIT", "STARTTLS", "VRFY", "EXPN", "HELP":
		return line
	case "AUTH":
		mechanism, secret, ok := strings.Cut(arg, " ")
		if !ok || len(mechanism) > 20 {
			if len(arg) > 20 {
				return verb + " " + hidden(len(arg))
			}
			return line
		}
		return verb + " " + mechanism + " " + hidden(len(secret))
	}
	return hidden(len(line))
}

type key struct{}

// With lets a connection that is made with ctx be listened to.
func With(ctx context.Context, s *Session) context.Context {
	if s == nil {
		return ctx
	}
	return context.WithValue(ctx, key{}, s)
}

// From gives what With put there.
func From(ctx context.Context) *Session {
	s, _ := ctx.Value(key{}).(*Session)
	return s
}
