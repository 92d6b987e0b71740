package shape

import (
	"cmp"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/internal/bounce"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/picks"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

const (
	// MaxReasons is how many reasons a Reasons can tell apart.
	MaxReasons = 1000
	// maxSample is how much of a reply is shown as a sample.
	maxSample = 512
)

// Reasons counts recipients by what was last heard of them.
type Reasons struct {
	// Site gives the site of a destination by its lane, at once; needed where
	// what is counted is of one site.
	Site func(lane string) string

	by     adminv1.ReasonsBy
	all    bool
	total  int64
	groups top[*group]
	buf    []byte
}

// group is the recipients of one reason.
type group struct {
	name    string          // what the recipients have in common
	out     *adminv1.Reason // but for the fields that domains and oldest give
	domains distinct
	oldest  time.Time
}

// NewReasons makes one that is empty. It counts recipients that wait, or all
// that it is given.
func NewReasons(by adminv1.ReasonsBy, all bool) *Reasons {
	switch by {
	case adminv1.ReasonsBy_REASONS_BY_CLASS, adminv1.ReasonsBy_REASONS_BY_DOMAIN, adminv1.ReasonsBy_REASONS_BY_SITE:
	default:
		by = adminv1.ReasonsBy_REASONS_BY_REPLY
	}
	return &Reasons{by: by, all: all, groups: top[*group]{
		rows: map[string]*group{}, keep: MaxReasons,
		fresh: func(name string) *group { return &group{name: name, out: &adminv1.Reason{}} },
		name:  func(g *group) string { return g.name },
		order: func(a, b *group) int {
			return cmp.Or(cmp.Compare(b.out.Recipients, a.out.Recipients), strings.Compare(a.name, b.name))
		},
	}}
}

// waits tells whether a recipient is deferred or held, or due for a
// destination that cannot be reached.
func waits(e *picks.Entry) bool { return e.State != mail.StateActive || !e.Next.IsZero() }

// Add counts a recipient. It never fails.
func (s *Reasons) Add(e *picks.Entry) error {
	if !s.all && !waits(e) {
		return nil
	}
	reply := &e.LastReply
	class := ""
	s.buf = s.buf[:0]
	if s.by == adminv1.ReasonsBy_REASONS_BY_REPLY {
		s.buf = appendReason(s.buf, reply)
	} else {
		class = bounce.Of(reply).Class.String()
		s.buf = append(append(s.buf, class...), ' ')
		switch s.by {
		case adminv1.ReasonsBy_REASONS_BY_DOMAIN:
			s.buf = appendDomain(s.buf, e.To.Domain)
		case adminv1.ReasonsBy_REASONS_BY_SITE:
			s.buf = appendDomain(s.buf, s.Site(e.Lane))
		}
	}
	g := s.groups.at(s.buf)
	if g.out.Recipients == 0 {
		if class == "" {
			class = bounce.Of(reply).Class.String()
		}
		g.out.Class, g.out.Reason, g.out.Sample = class, s.reason(g.name), sample(reply)
	}
	g.out.Recipients++
	s.total++
	g.arrived(e.Arrived)
	s.buf = appendDomain(s.buf[:0], e.To.Domain)
	g.domains.add(hash(s.buf))
	return nil
}

func (g *group) arrived(t time.Time) {
	if g.oldest.IsZero() || t.Before(g.oldest) {
		g.oldest = t
	}
}

// reason gives what a group is called, without its class.
func (s *Reasons) reason(name string) string {
	if s.by == adminv1.ReasonsBy_REASONS_BY_REPLY {
		return name
	}
	_, domain, _ := strings.Cut(name, " ")
	return domain
}

// errReasons is that of a node which counts by something else.
var errReasons = errors.New("shape: reasons of another kind")

// Merge adds what another node counted. A node of an earlier version counts by
// reply, and does not say so.
func (s *Reasons) Merge(in *adminv1.ReasonsResponse) error {
	if by := in.GetBy(); by != s.by && (by != adminv1.ReasonsBy_REASONS_BY_UNSPECIFIED || s.by != adminv1.ReasonsBy_REASONS_BY_REPLY) {
		return errReasons
	}
	for _, r := range in.GetReasons() {
		s.buf = s.buf[:0]
		if s.by != adminv1.ReasonsBy_REASONS_BY_REPLY {
			s.buf = append(append(s.buf, r.GetClass()...), ' ')
		}
		s.buf = append(s.buf, r.GetReason()...)
		g := s.groups.at(s.buf)
		if g.out.Recipients == 0 {
			g.out.Class, g.out.Reason, g.out.Sample = r.GetClass(), r.GetReason(), r.GetSample()
		}
		g.out.Recipients += r.GetRecipients()
		if r.GetOldest() != nil {
			g.arrived(r.GetOldest().AsTime())
		}
		for _, h := range r.GetDomainHashes() {
			g.domains.add(h)
		}
	}
	s.total += in.GetRecipients()
	s.groups.cut = s.groups.cut || in.GetCut()
	return nil
}

// Response gives the counts, with limit reasons at most; 0 is all. With hashes
// another node can merge it.
func (s *Reasons) Response(limit int64, hashes bool) *adminv1.ReasonsResponse {
	groups, cut := s.groups.first(limit)
	out := &adminv1.ReasonsResponse{By: s.by, Recipients: s.total, Other: s.total, Cut: cut}
	for _, g := range groups {
		g.out.Domains = g.domains.count()
		if hashes {
			g.out.DomainHashes = g.domains.least
		}
		if !g.oldest.IsZero() {
			g.out.Oldest = timestamppb.New(g.oldest)
		}
		out.Other -= g.out.Recipients
		out.Reasons = append(out.Reasons, g.out)
	}
	return out
}

// sample is a reply as it came, or its beginning.
func sample(r *mail.Reply) string {
	s := r.Text
	if r.Code != 0 {
		s = r.Line()
	}
	return prefix(strings.ToValidUTF8(s, "\ufffd"), maxSample)
}

// appendReason appends what replies of one reason have in common.
func appendReason(dst []byte, r *mail.Reply) []byte {
	switch e := r.Enhanced; {
	case e != mail.EnhancedCode{}:
		for i, n := range e {
			if i > 0 {
				dst = append(dst, '.')
			}
			dst = strconv.AppendInt(dst, int64(n), 10)
		}
		dst = append(dst, ' ')
	case r.Code != 0:
		dst = append(strconv.AppendInt(dst, int64(r.Code), 10), ' ')
	}
	from := len(dst)
	if dst = AppendNormal(dst, r.Text); len(dst) == from && from > 0 {
		dst = dst[:from-1]
	}
	return dst
}

// sketch is how many hashes a distinct keeps.
const sketch = 256

// distinct counts different names by the least of their hashes: exactly while
// there are fewer than sketch, and beyond by how dense these are. Two can be
// put together without counting a name twice.
type distinct struct{ least []uint64 } // rising

func (d *distinct) add(h uint64) {
	full := len(d.least) == sketch
	if full && h >= d.least[sketch-1] {
		return
	}
	i, known := slices.BinarySearch(d.least, h)
	if known {
		return
	}
	if full {
		d.least = d.least[:sketch-1]
	}
	d.least = slices.Insert(d.least, i, h)
}

func (d *distinct) count() int64 {
	if len(d.least) < sketch {
		return int64(len(d.least))
	}
	const all = 1 << 64
	return int64((sketch - 1) / (float64(d.least[sketch-1]) / all))
}

// hash is FNV-1a, and then mixed, for its high bits are poor. All nodes and
// versions must agree on it.
func hash(b []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range b {
		h = (h ^ uint64(c)) * 1099511628211
	}
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
