package enroll

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/clrelay/clrelay/cluster/pki"
	"github.com/clrelay/clrelay/proto/control"
)

// Bounds of tokens.
const (
	MaxTTL    = 30 * 24 * time.Hour
	MaxUses   = 100
	maxTokens = 200

	tokenSpace = "token/"
	keepEnded  = 7 * 24 * time.Hour // a token that has ended is listed for so long
	casTries   = 8
)

var (
	// ErrConflict says that a record was changed by somebody else meanwhile.
	ErrConflict = errors.New("enroll: the record has changed meanwhile")
	// ErrDenied says that a secret is not the token's. It is the same for a
	// token that is not there.
	ErrDenied = errors.New("the token is not valid here")
	// ErrEnded is told those who know the secret.
	ErrEnded = errors.New("the token cannot be used")
	// ErrNoToken says that there is no token with an ID.
	ErrNoToken = errors.New("no such join token")
	// ErrInvalid says that what was asked for cannot be.
	ErrInvalid = errors.New("not valid")
)

// Records are where what was agreed about is kept.
type Records interface {
	// Records gives those whose keys begin with prefix, sorted.
	Records(prefix string) []control.Record
	// Put writes one that has this version, 0 for one that is not there, or
	// deletes it where value is nil. ErrConflict says that it has another.
	Put(ctx context.Context, key string, value []byte, ifVersion uint64) error
	// Changed gives a channel that is closed once one was written.
	Changed() <-chan struct{}
}

// Use is a certificate that was given for a token.
type Use struct {
	Node string    `json:"node"`
	Key  string    `json:"key"` // SHA-256 of its public key
	At   time.Time `json:"at"`
}

// Entry is a token as it is kept.
type Entry struct {
	ID      string    `json:"id"`
	Hash    string    `json:"hash"` // SHA-256 of the secret
	Node    string    `json:"node"` // the only name it is for; empty: any
	Uses    int       `json:"uses"` // how often it can be used in all
	Used    []Use     `json:"used"`
	Author  string    `json:"author"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
}

// Left is how often it can be used yet.
func (e *Entry) Left() int { return max(0, e.Uses-len(e.Used)) }

// Tokens keeps them.
type Tokens struct {
	Records Records
	Now     func() time.Time
}

// Wanted is a token to be made.
type Wanted struct {
	CA     [sha256.Size]byte
	Node   string // empty: any name
	Uses   int
	TTL    time.Duration
	Author string
}

func (w *Wanted) check() error {
	switch {
	case w.Node != "" && pki.ValidName(w.Node) != nil:
		return fmt.Errorf("%w: %q is no name of a node", ErrInvalid, w.Node)
	case w.Uses < 1 || w.Uses > MaxUses:
		return fmt.Errorf("%w: %d uses: from 1 to %d", ErrInvalid, w.Uses, MaxUses)
	case w.TTL < time.Second || w.TTL > MaxTTL:
		return fmt.Errorf("%w: a token lives from 1s to %d days", ErrInvalid, MaxTTL/(24*time.Hour))
	}
	return nil
}

// Create makes a token, which nobody can read again.
func (t *Tokens) Create(ctx context.Context, w Wanted) (Token, Entry, error) {
	if err := w.check(); err != nil {
		return Token{}, Entry{}, err
	}
	if err := t.prune(ctx); err != nil {
		return Token{}, Entry{}, err
	}
	if n := len(t.Records.Records(tokenSpace)); n >= maxTokens {
		return Token{}, Entry{}, fmt.Errorf("%w: there are %d join tokens, and %d are the most: revoke some", ErrInvalid, n, maxTokens)
	}
	tok, now := NewToken(w.CA), t.Now().UTC().Truncate(time.Second)
	e := Entry{ID: tok.ID, Hash: hashOf(tok.Secret), Node: w.Node, Uses: w.Uses, Used: []Use{}, Author: w.Author, Created: now, Expires: now.Add(w.TTL)}
	return tok, e, t.put(ctx, &e, 0)
}

// prune forgets tokens that ended long ago.
func (t *Tokens) prune(ctx context.Context) error {
	for _, r := range t.Records.Records(tokenSpace) {
		var e Entry
		if json.Unmarshal(r.Value, &e) == nil && t.Now().Before(e.Expires.Add(keepEnded)) {
			continue
		}
		if err := t.Records.Put(ctx, r.Key, nil, r.Version); err != nil && !errors.Is(err, ErrConflict) {
			return err
		}
	}
	return nil
}

// List gives all tokens, by ID.
func (t *Tokens) List() []Entry {
	out := []Entry{}
	for _, r := range t.Records.Records(tokenSpace) {
		var e Entry
		if json.Unmarshal(r.Value, &e) == nil {
			out = append(out, e)
		}
	}
	return out
}

// Revoke forgets a token. Certificates that were given for it stay valid.
func (t *Tokens) Revoke(ctx context.Context, id string) error {
	for range casTries {
		_, version, err := t.find(id)
		if err != nil {
			return err
		}
		if err := t.Records.Put(ctx, tokenSpace+id, nil, version); !errors.Is(err, ErrConflict) {
			return err
		}
	}
	return ErrConflict
}

func (t *Tokens) find(id string) (Entry, uint64, error) {
	if id == "" || len(id) > 64 || strings.Trim(id, "abcdefghijklmnopqrstuvwxyz234567") != "" {
		return Entry{}, 0, ErrNoToken
	}
	for _, r := range t.Records.Records(tokenSpace + id) {
		var e Entry
		if r.Key == tokenSpace+id && json.Unmarshal(r.Value, &e) == nil {
			return e, r.Version, nil
		}
	}
	return Entry{}, 0, ErrNoToken
}

func (t *Tokens) put(ctx context.Context, e *Entry, version uint64) error {
	value, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("enroll: %w", err)
	}
	return t.Records.Put(ctx, tokenSpace+e.ID, value, version)
}

func hashOf(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// Known gives the token of an ID to who knows its secret. Others do not hear
// whether there is one: secrets are compared by their hashes, in constant time.
func (t *Tokens) Known(id, secret string) (Entry, error) {
	e, _, err := t.known(id, secret)
	return e, err
}

func (t *Tokens) known(id, secret string) (Entry, uint64, error) {
	e, version, err := t.find(id)
	want := e.Hash
	if err != nil {
		want = strings.Repeat("0", 2*sha256.Size) // no secret has it
	}
	if subtle.ConstantTimeCompare([]byte(hashOf(secret)), []byte(want)) != 1 || err != nil {
		return Entry{}, 0, ErrDenied
	}
	return e, version, nil
}

// Spend counts a use of a token and returns when that cannot be lost. The same
// request again is the same use: its sender may not have heard the answer.
func (t *Tokens) Spend(ctx context.Context, id, secret string, req *pki.Request) error {
	for range casTries {
		e, version, err := t.known(id, secret)
		if err != nil {
			return err
		}
		if err := e.allows(req, t.Now()); err != nil {
			return err
		}
		if !e.has(req) {
			e.Used = append(e.Used, Use{Node: req.Name, Key: req.Key, At: t.Now().UTC().Truncate(time.Second)})
		}
		// Written even where nothing is new: only what the cluster decides tells
		// that the token is still there.
		if err := t.put(ctx, &e, version); !errors.Is(err, ErrConflict) {
			return err
		}
	}
	return ErrConflict
}

func (e *Entry) has(req *pki.Request) bool {
	for _, u := range e.Used {
		if u.Key == req.Key && u.Node == req.Name {
			return true
		}
	}
	return false
}

// allows says whether a certificate may be given for the token.
func (e *Entry) allows(req *pki.Request, now time.Time) error {
	switch {
	case !now.Before(e.Expires):
		return fmt.Errorf("%w: it expired at %s", ErrEnded, e.Expires.Format(time.RFC3339))
	case e.Node != "" && e.Node != req.Name:
		return fmt.Errorf("%w: it is for the node %s, and this one is called %s", ErrEnded, e.Node, req.Name)
	case e.Left() == 0 && !e.has(req):
		last := e.Used[len(e.Used)-1]
		return fmt.Errorf("%w: it is used up, last by %s at %s", ErrEnded, last.Node, last.At.Format(time.RFC3339))
	}
	return nil
}
