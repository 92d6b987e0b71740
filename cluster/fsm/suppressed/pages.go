package suppressed

import (
	"container/heap"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/clrelay/clrelay/proto/control"
)

// The fields of control.v1.Suppression, and the one of SuppressionPage.
const (
	fieldAddress protowire.Number = 1 + iota
	fieldScope
	fieldReason
	fieldText
	fieldSource
	fieldBy
	fieldCreated
	fieldExpires

	fieldEntries protowire.Number = 1
)

// Pages gives the whole table, a control.v1.SuppressionPage each, in order.
// Equal tables give equal octets.
func (t *Table) Pages() [][]byte { return t.Capture()() }

// Capture holds the table as it is, at once; the function makes its Pages, in
// any goroutine, whatever becomes of the table meanwhile.
func (t *Table) Capture() func() [][]byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held++
	sorted := slices.Clone(t.sorted)
	return func() [][]byte { return pages(sorted) }
}

func pages(sorted []run) [][]byte {
	var out [][]byte
	var page []byte
	in := 0
	for _, r := range sorted {
		for _, e := range r.list {
			page = protowire.AppendTag(page, fieldEntries, protowire.BytesType)
			page = protowire.AppendVarint(page, uint64(e.encoded()))
			page = e.put(page)
			if in++; in == maxRun { // whatever the runs are
				out = append(out, slices.Clone(page))
				page, in = page[:0], 0
			}
		}
	}
	if in > 0 {
		out = append(out, page)
	}
	return out
}

// encoded counts the octets that put appends.
func (e *entry) encoded() int {
	s, n := e.full(), 0
	for _, text := range [...]string{s.Address, s.Scope, s.Text, s.Source, s.By} {
		if text != "" {
			n += 1 + protowire.SizeBytes(len(text))
		}
	}
	for _, number := range [...]int64{int64(s.Reason), s.CreatedMS, s.ExpiresMS} {
		if number != 0 {
			n += 1 + protowire.SizeVarint(uint64(number))
		}
	}
	return n
}

// put appends the entry as a control.v1.Suppression.
func (e *entry) put(b []byte) []byte {
	s := e.full()
	b = putText(b, fieldAddress, s.Address)
	b = putText(b, fieldScope, s.Scope)
	b = putNumber(b, fieldReason, int64(s.Reason))
	b = putText(b, fieldText, s.Text)
	b = putText(b, fieldSource, s.Source)
	b = putText(b, fieldBy, s.By)
	b = putNumber(b, fieldCreated, s.CreatedMS)
	return putNumber(b, fieldExpires, s.ExpiresMS)
}

func putText(b []byte, f protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, f, protowire.BytesType), s)
}

func putNumber(b []byte, f protowire.Number, n int64) []byte {
	if n == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, f, protowire.VarintType), uint64(n))
}

// FromPages makes a table of the pages of another one; ok is false if they are
// none of a table.
func FromPages(pages [][]byte) (t *Table, ok bool) {
	t = &Table{by: make(map[string]*entry, len(pages)*maxRun)}
	var last *entry
	var r reader
	for _, page := range pages {
		for len(page) > 0 {
			f, kind, n := protowire.ConsumeTag(page)
			if n < 0 || f != fieldEntries || kind != protowire.BytesType {
				return nil, false
			}
			one, m := protowire.ConsumeBytes(page[n:])
			if m < 0 {
				return nil, false
			}
			page = page[n+m:]
			e := r.read(one)
			if e == nil || last != nil && compare(last, e.key()) >= 0 || t.n.Load() >= control.MaxSuppressed {
				return nil, false
			}
			t.push(last, e)
			last = e
		}
	}
	heap.Init(&t.ends)
	return t, t.octets <= control.MaxSuppressedOctets
}

// push adds an entry behind the last one.
func (t *Table) push(last, e *entry) {
	if last != nil && last.address() == e.address() {
		last.next = e
	} else {
		t.by[e.address()] = e
	}
	if n := len(t.sorted); n == 0 || len(t.sorted[n-1].list) == maxRun {
		t.sorted = append(t.sorted, run{list: make([]*entry, 0, maxRun+1)})
	}
	r := &t.sorted[len(t.sorted)-1]
	r.list = append(r.list, e)
	t.count(e, 1)
	if e.expires != 0 {
		t.ends = append(t.ends, e)
	}
}

// reader reads entries. Its memory serves for all of them.
type reader struct {
	texts   [fieldBy + 1][]byte
	numbers [fieldExpires + 1]uint64
	all     []byte
}

// read reads what put wrote; it is nil for what is no entry. Fields of a newer
// program are passed over.
func (r *reader) read(b []byte) *entry {
	r.texts, r.numbers = [fieldBy + 1][]byte{}, [fieldExpires + 1]uint64{}
	for len(b) > 0 {
		f, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil
		}
		b = b[n:]
		switch {
		case kind == protowire.BytesType && f <= fieldBy:
			r.texts[f], n = protowire.ConsumeBytes(b)
		case kind == protowire.VarintType && f <= fieldExpires:
			r.numbers[f], n = protowire.ConsumeVarint(b)
		default:
			n = protowire.ConsumeFieldValue(f, kind, b)
		}
		if n < 0 {
			return nil
		}
		b = b[n:]
	}
	r.all = r.all[:0]
	for _, f := range [...]protowire.Number{fieldAddress, fieldScope, fieldText, fieldSource, fieldBy} {
		if len(r.texts[f]) > control.MaxSuppressAddress {
			return nil
		}
		r.all = append(r.all, r.texts[f]...)
	}
	size := func(f protowire.Number) uint16 { return uint16(len(r.texts[f])) }
	e := &entry{
		all: string(r.all), reason: control.SuppressReason(r.numbers[fieldReason]),
		created: int64(r.numbers[fieldCreated]), expires: int64(r.numbers[fieldExpires]),
		addr: size(fieldAddress), scope: size(fieldScope), text: size(fieldText), source: size(fieldSource),
	}
	if s := e.full(); r.numbers[fieldReason] > 255 || !s.Valid() {
		return nil
	}
	return e
}

// Become makes the table what another one is, which is of no use afterwards.
func (t *Table) Become(other *Table) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.by, t.sorted, t.held, t.ends, t.octets = other.by, other.sorted, other.held, other.ends, other.octets
	t.n.Store(other.n.Load())
}
