// Package suppressed is the suppression list: the addresses that mail is not
// sent to, for everybody or for some senders, with the reason of each. It knows
// no time but that of the commands, and no disk.
//
// A Table is written by one goroutine, the state machine's, and read by any.
// Expired entries are passed over by those who ask at once, and go with the next
// command.
package suppressed

import (
	"container/heap"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/clrelay/clrelay/proto/control"
)

// Table holds the entries. New makes one.
type Table struct {
	n atomic.Int64 // entries; read without the lock

	mu     sync.RWMutex
	by     map[string]*entry // address -> the first of its entries, by scope
	sorted []run             // all of them by key, in runs of at most maxRun
	held   uint64            // how often the table was captured
	ends   expiry
	octets int
}

// maxRun is how many entries stand in one run: what an insertion moves.
const maxRun = 512

// run is a part of the entries. It is written only if it was made, or copied,
// since the table was captured last.
type run struct {
	list []*entry
	made uint64 // Table.held then
}

// entry is a Suppression with its texts in one string: address, scope, text,
// source and author. It is never changed but for next and dead.
type entry struct {
	all                       string
	next                      *entry // of the same address, the next scope
	created, expires          int64
	addr, scope, text, source uint16 // octets of each
	reason                    control.SuppressReason
	dead                      bool // replaced or removed; may still stand in the heap
}

func newEntry(s *control.Suppression) *entry {
	return &entry{
		all:     s.Address + s.Scope + s.Text + s.Source + s.By,
		created: s.CreatedMS, expires: s.ExpiresMS, reason: s.Reason,
		addr: uint16(len(s.Address)), scope: uint16(len(s.Scope)), text: uint16(len(s.Text)), source: uint16(len(s.Source)),
	}
}

func (e *entry) address() string { return e.all[:e.addr] }
func (e *entry) of() string      { return e.all[e.addr : e.addr+e.scope] }
func (e *entry) key() control.SuppressKey {
	return control.SuppressKey{Address: e.address(), Scope: e.of()}
}

// full gives the entry as others know it; its texts are parts of all.
func (e *entry) full() control.Suppression {
	at := e.addr + e.scope
	return control.Suppression{
		SuppressKey: e.key(), Reason: e.reason, CreatedMS: e.created, ExpiresMS: e.expires,
		Text: e.all[at : at+e.text], Source: e.all[at+e.text : at+e.text+e.source], By: e.all[at+e.text+e.source:],
	}
}

func (e *entry) over(nowMS int64) bool { return e.expires != 0 && e.expires <= nowMS }

// New makes an empty table.
func New() *Table { return &Table{by: map[string]*entry{}} }

// Do carries out the changes, and gives the outcome of each, in order.
func (t *Table) Do(c *control.SuppressOps) []control.OpResult {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expire(c.AtMS)
	out := make([]control.OpResult, 0, len(c.Remove)+len(c.Add))
	for _, k := range c.Remove {
		code := control.Unchanged
		if e := t.get(k); e != nil {
			t.remove(e)
			code = control.OK
		}
		out = append(out, control.OpResult{Code: code})
	}
	for i := range c.Add {
		out = append(out, control.OpResult{Code: t.add(&c.Add[i], c.AtMS)})
	}
	return out
}

// expire removes what is over.
func (t *Table) expire(atMS int64) {
	for len(t.ends) > 0 && (t.ends[0].dead || t.ends[0].over(atMS)) {
		if e := heap.Pop(&t.ends).(*entry); !e.dead {
			t.remove(e)
		}
	}
}

func (t *Table) add(s *control.Suppression, atMS int64) control.Code {
	if !s.Valid() {
		return control.Malformed
	}
	size := len(s.Address) + len(s.Scope) + len(s.Text) + len(s.Source) + len(s.By)
	was := t.get(s.SuppressKey)
	switch {
	case s.ExpiresMS != 0 && s.ExpiresMS <= atMS:
		return control.Unchanged // it is over before it begins
	case was != nil && s.Reason.Automatic() && !was.reason.Automatic():
		return control.Unchanged
	case was != nil && same(was.full(), *s):
		return control.Unchanged
	case was != nil:
		if t.octets-len(was.all)+size > control.MaxSuppressedOctets {
			return control.LimitReached
		}
		t.remove(was)
	case t.n.Load() >= control.MaxSuppressed || t.octets+size > control.MaxSuppressedOctets:
		return control.LimitReached
	}
	t.insert(newEntry(s))
	return control.OK
}

// same tells whether an entry says what another one says that is made later.
func same(was, is control.Suppression) bool {
	is.CreatedMS, is.By = was.CreatedMS, was.By
	return was == is
}

// get finds an entry.
func (t *Table) get(k control.SuppressKey) *entry {
	for e := t.by[k.Address]; e != nil; e = e.next {
		if e.of() == k.Scope {
			return e
		}
	}
	return nil
}

// insert adds an entry of a new key.
func (t *Table) insert(e *entry) {
	first := t.by[e.address()]
	if first == nil || e.of() < first.of() {
		e.next = first
		delete(t.by, e.address()) // the key is to be a part of this entry's string
		t.by[e.address()] = e
	} else {
		before := first
		for before.next != nil && before.next.of() < e.of() {
			before = before.next
		}
		e.next, before.next = before.next, e
	}
	at, i := t.place(e.key())
	if len(t.sorted) == 0 {
		t.sorted = append(t.sorted, run{made: t.held})
	}
	r := t.own(at)
	r.list = slices.Insert(r.list, i, e)
	if n := len(r.list); n > maxRun {
		half := make([]*entry, n/2, maxRun+1)
		copy(half, r.list[n-len(half):])
		clear(r.list[n-len(half):])
		r.list = r.list[:n-len(half)]
		t.sorted = slices.Insert(t.sorted, at+1, run{half, t.held})
	}
	t.count(e, 1)
	if e.expires != 0 {
		heap.Push(&t.ends, e)
	}
}

// own gives a run that may be written.
func (t *Table) own(at int) *run {
	r := &t.sorted[at]
	if r.made != t.held {
		*r = run{append(make([]*entry, 0, maxRun+1), r.list...), t.held}
	}
	return r
}

func (t *Table) count(e *entry, d int) {
	t.n.Add(int64(d))
	t.octets += d * len(e.all)
}

// remove takes an entry out.
func (t *Table) remove(e *entry) {
	first := t.by[e.address()]
	if first == e {
		delete(t.by, e.address())
		if e.next != nil {
			t.by[e.next.address()] = e.next
		}
	} else {
		for first.next != e {
			first = first.next
		}
		first.next = e.next
	}
	at, i := t.place(e.key())
	r := t.own(at)
	if r.list = slices.Delete(r.list, i, i+1); len(r.list) == 0 {
		t.sorted = slices.Delete(t.sorted, at, at+1)
	}
	t.count(e, -1)
	e.dead, e.next = true, nil
	if n := int(t.n.Load()); len(t.ends) > 2*n+maxRun { // the dead outnumber the living
		t.ends = slices.DeleteFunc(t.ends, func(e *entry) bool { return e.dead })
		heap.Init(&t.ends)
	}
}

// place tells where a key stands in sorted, or would: a run and a place in it.
func (t *Table) place(k control.SuppressKey) (at, i int) {
	at = max(0, sort.Search(len(t.sorted), func(i int) bool { return compare(t.sorted[i].list[0], k) > 0 })-1)
	if at < len(t.sorted) {
		list := t.sorted[at].list
		i = sort.Search(len(list), func(i int) bool { return compare(list[i], k) >= 0 })
	}
	return at, i
}

func compare(e *entry, k control.SuppressKey) int {
	if c := strings.Compare(e.address(), k.Address); c != 0 {
		return c
	}
	return strings.Compare(e.of(), k.Scope)
}

// Len counts the entries, those too that are over and not yet gone.
func (t *Table) Len() int { return int(t.n.Load()) }

// Octets counts what their texts take.
func (t *Table) Octets() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.octets
}

// Get gives the entries of an address, written as the list compares it, by
// scope.
func (t *Table) Get(address string) (out []control.Suppression) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for e := t.by[address]; e != nil; e = e.next {
		out = append(out, e.full())
	}
	return out
}

// Page appends to list the next entries behind a key, in order, at most n. The
// zero key stands before all others.
func (t *Table) Page(list []control.Suppression, after control.SuppressKey, n int) []control.Suppression {
	t.mu.RLock()
	defer t.mu.RUnlock()
	at, i := t.place(after)
	for ; at < len(t.sorted); at, i = at+1, 0 {
		for _, e := range t.sorted[at].list[i:] {
			switch {
			case n == 0:
				return list
			case e.key() == after:
				continue
			}
			list = append(list, e.full())
			n--
		}
	}
	return list
}

// expiry is a heap of the entries that end, the first to end on top.
type expiry []*entry

func (h expiry) Len() int           { return len(h) }
func (h expiry) Less(i, j int) bool { return h[i].expires < h[j].expires }
func (h expiry) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *expiry) Push(x any)        { *h = append(*h, x.(*entry)) }
func (h *expiry) Pop() any {
	n := len(*h) - 1
	e := (*h)[n]
	(*h)[n] = nil
	*h = (*h)[:n]
	return e
}
