package shape

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/picks"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// MaxDomains is how many domains a Matrix can tell apart.
const MaxDomains = 10_000

// Bounds of the ages, each twice the one before: 5 minutes to 1280. What is
// older is counted as well.
const (
	firstBound = 5 * time.Minute
	bounds     = 9
)

// bucket gives the index of the count for an age.
func bucket(age time.Duration) int {
	i := 0
	for b := firstBound; i < bounds && age >= b; b *= 2 {
		i++
	}
	return i
}

func bucketSeconds() []int64 {
	out := make([]int64, bounds)
	for i := range out {
		out[i] = int64(firstBound.Seconds()) << i
	}
	return out
}

// Matrix counts recipients by domain and age.
type Matrix struct {
	by    adminv1.ShapeBy
	now   time.Time
	total *adminv1.ShapeRow
	rows  top[*adminv1.ShapeRow]
	buf   []byte
}

// NewMatrix makes one that is empty. Ages are those at now.
func NewMatrix(by adminv1.ShapeBy, now time.Time) *Matrix {
	return &Matrix{by: by, now: now, total: newRow(""), rows: top[*adminv1.ShapeRow]{
		rows: map[string]*adminv1.ShapeRow{}, keep: MaxDomains, fresh: newRow, name: (*adminv1.ShapeRow).GetName,
		order: func(a, b *adminv1.ShapeRow) int {
			return cmp.Or(cmp.Compare(b.Total, a.Total), strings.Compare(a.Name, b.Name))
		},
	}}
}

func newRow(name string) *adminv1.ShapeRow {
	return &adminv1.ShapeRow{Name: name, Counts: make([]int64, bounds+1)}
}

// Add counts a recipient. It never fails.
func (m *Matrix) Add(e *picks.Entry) error {
	domain := e.To.Domain
	if m.by == adminv1.ShapeBy_SHAPE_BY_SENDER {
		domain = e.From.Domain
	}
	m.buf = appendDomain(m.buf[:0], domain)
	row, i := m.rows.at(m.buf), bucket(m.now.Sub(e.Arrived))
	row.Total++
	row.Counts[i]++
	m.total.Total++
	m.total.Counts[i]++
	return nil
}

// errBounds is that of a node which counts in another way.
var errBounds = errors.New("shape: counts of other ages")

// Merge adds what another node counted.
func (m *Matrix) Merge(in *adminv1.ShapeResponse) error {
	other := func(r *adminv1.ShapeRow) bool { return len(r.GetCounts()) != bounds+1 }
	if !slices.Equal(in.GetBucketSeconds(), bucketSeconds()) || other(in.GetTotal()) || slices.ContainsFunc(in.GetRows(), other) {
		return errBounds
	}
	for _, r := range in.GetRows() {
		m.buf = append(m.buf[:0], r.GetName()...)
		plus(m.rows.at(m.buf), r, 1)
	}
	plus(m.total, in.GetTotal(), 1)
	m.rows.cut = m.rows.cut || in.GetCut()
	return nil
}

// plus adds a row n times.
func plus(to, r *adminv1.ShapeRow, n int64) {
	to.Total += n * r.GetTotal()
	for i, c := range r.GetCounts() {
		to.Counts[i] += n * c
	}
}

// Response gives the counts, with limit rows at most; 0 is all.
func (m *Matrix) Response(limit int64) *adminv1.ShapeResponse {
	out := &adminv1.ShapeResponse{BucketSeconds: bucketSeconds(), Total: m.total, Other: newRow("")}
	out.Rows, out.Cut = m.rows.first(limit)
	plus(out.Other, m.total, 1)
	for _, r := range out.GetRows() {
		plus(out.Other, r, -1)
	}
	return out
}

// appendDomain appends a domain in lower case, and not more of it than a
// domain can have: that bounds what travels.
func appendDomain(dst []byte, domain string) []byte {
	from := len(dst)
	for i := range len(domain) {
		c := domain[i]
		if c >= utf8.RuneSelf {
			return append(dst[:from], prefix(strings.ToValidUTF8(strings.ToLower(domain), "\ufffd"), mail.MaxDomain)...)
		}
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		dst = append(dst, c)
	}
	return dst[:min(len(dst), from+mail.MaxDomain)]
}

// prefix gives at most n octets of s, which is UTF-8, and no half character.
func prefix(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
