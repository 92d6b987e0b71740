// Package recipients tells whether a domain of ours has a recipient, so that
// mail for one that it has not is refused at RCPT and no bounce goes to a forged
// sender: by a list in a file, or by the word of the next hop.
//
// A Book is asked by many sessions at once. By a list it answers from memory;
// where the next hop is asked, a session waits for that, within bounds.
package recipients

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/names"
)

// Mode says how a domain's recipients are known.
type Mode uint8

// The modes.
const (
	Any    Mode = iota // all are taken
	Listed             // those in a file
	Asked              // those that the next hop takes
)

// Domain is a domain of ours.
type Domain struct {
	Name string // exact
	Mode Mode
	// List is the file of a Listed domain, Subaddress what begins a detail in a
	// local part; empty: nothing.
	List, Subaddress string
	// Verify is for an Asked one.
	Verify Verify
}

// Options are what a Book works with.
type Options struct {
	Ask  Asker
	Log  Log
	Poll time.Duration // how often the files are looked at; 5 s
	Now  func() time.Time
}

// Log is told of files that cannot be read, and that can be again; a slog.Logger.
type Log interface {
	Error(msg string, args ...any)
	Info(msg string, args ...any)
}

// pollEvery is how often the files are looked at. One that has changed is read
// when it is the same the next time: whoever writes it may not have finished.
const pollEvery = 5 * time.Second

// Book knows the recipients of our domains.
type Book struct {
	o        Options
	verifier *verifier
	domains  atomic.Pointer[map[string]*Domain]

	mu    sync.Mutex
	files map[string]*file // by path; those in use
	lists atomic.Pointer[map[string]*list]
}

// New makes a book without domains.
func New(o Options) *Book {
	if o.Poll == 0 {
		o.Poll = pollEvery
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	b := &Book{o: o, verifier: newVerifier(o.Ask, o.Now), files: map[string]*file{}}
	b.domains.Store(&map[string]*Domain{})
	b.lists.Store(&map[string]*list{})
	return b
}

// Configure puts other domains in force and reads all files anew, whether they
// have changed or not. A file that cannot be read keeps what was read of it
// before.
func (b *Book) Configure(domains []Domain) {
	b.mu.Lock()
	defer b.mu.Unlock()
	byName, used := map[string]*Domain{}, map[string]*file{}
	for i := range domains {
		d := &domains[i]
		byName[names.Fold(d.Name)] = d
		if d.Mode == Listed && used[d.List] == nil {
			f := b.files[d.List]
			if f == nil {
				f = &file{path: d.List}
			}
			used[d.List] = f
		}
	}
	b.files = used
	for _, f := range b.files {
		b.read(f)
	}
	b.publish()
	b.domains.Store(&byName)
}

// Run looks after the files until ctx ends.
func (b *Book) Run(ctx context.Context) {
	t := time.NewTicker(b.o.Poll)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			b.look()
		}
	}
}

// look reads the files that have changed.
func (b *Book) look() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range b.files {
		if f.due() {
			b.read(f)
		}
	}
	b.publish()
}

// read reads a file, and tells of it once when that changes something.
func (b *Book) read(f *file) {
	was, had := f.err, f.list
	err := f.read()
	switch {
	case err != nil && (was == nil || was.Error() != err.Error()):
		what := "the list of recipients that was read before stays in force"
		if f.list == nil {
			what = "mail for its domains is put off (451) until it can be read"
		}
		b.o.Log.Error("a list of recipients cannot be read: "+what, "file", f.path, "error", err)
	case err == nil && had != f.list:
		b.o.Log.Info("a list of recipients was read", "file", f.path, "recipients", f.list.n)
	}
}

// publish lets sessions see the lists. It is called with mu held.
func (b *Book) publish() {
	lists := make(map[string]*list, len(b.files))
	for path, f := range b.files {
		lists[path] = f.list
	}
	b.lists.Store(&lists)
}

// Problems says which lists are not as they should be, for an operator.
func (b *Book) Problems() (out []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range b.files {
		switch {
		case f.err != nil && f.list == nil:
			out = append(out, fmt.Sprintf("mail for the domains of the list of recipients %s is put off (451): %v", f.path, f.err))
		case f.err != nil:
			out = append(out, fmt.Sprintf("the list of recipients %s cannot be read, and an older one is in force: %v", f.path, f.err))
		}
	}
	slices.Sort(out)
	return out
}

// Check tells whether a recipient is taken as far as its domain goes: nil, or
// the reply. Domains that are not ours are none of its matter, and postmaster is
// always taken (RFC 5321 4.5.1). unknown is true where the reply means that there
// is no such recipient.
func (b *Book) Check(ctx context.Context, to mail.Address) (reply *mail.Reply, unknown bool) {
	d := (*b.domains.Load())[names.Fold(to.Domain)]
	if d == nil || d.Mode == Any || to.IsPostmaster() {
		return nil, false
	}
	if d.Mode == Listed {
		l := (*b.lists.Load())[d.List]
		switch {
		case l == nil:
			return mail.NewReply(451, "4.3.0", "The recipients of this domain are not known right now, please try again later").
				WithCause(errors.New("the list of recipients " + d.List + " was not read yet")), false
		case !l.has(to.Local, names.Fold(to.Domain), d.Subaddress):
			return noSuchUser(to), true
		}
		return nil, false
	}
	switch a, err := b.verifier.check(ctx, &d.Verify, to, names.Fold(to.Domain)); {
	case a == Taken:
		return nil, false
	case a == Unknown:
		return noSuchUser(to), true
	case d.Verify.Defer:
		return mail.NewReply(450, "4.2.0", "The recipient cannot be verified right now, please try again later").WithCause(err), false
	}
	return nil, false
}

func noSuchUser(to mail.Address) *mail.Reply {
	return mail.NewReply(550, "5.1.1", "<"+ascii(to.String())+">: no such user here")
}

// ascii makes a text fit for a reply to any client.
func ascii(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 0x7f || r < ' ' {
			return '?'
		}
		return r
	}, s)
}
