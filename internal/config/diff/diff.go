// Package diff tells in which settings two configurations differ, key by key
// and not line by line: comments, the order of keys and other ways to write the
// same value are no difference. It knows no key; which words mean the same, and
// which are secret, the trees say.
//
// Entries of a list that all have a name, as senders and domains do, are matched
// by it; those of other lists by their position.
package diff

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/clrelay/clrelay/internal/config/strict"
)

// Op says how a setting differs.
type Op string

// The ways to differ.
const (
	Add    Op = "add"
	Remove Op = "remove"
	Change Op = "change"
)

// Hidden stands for a value that is secret.
const Hidden = "(secret)"

// Difference is one setting that differs. Old is nil for one that is added, New
// for one that is removed.
type Difference struct {
	Op       Op
	Path     string // "senders[campus].networks[0]"
	Old, New *string
}

// String writes it on one line, as operators know it: + - or ~ first.
func (d *Difference) String() string {
	switch d.Op {
	case Add:
		return "+ " + d.Path + ": " + *d.New
	case Remove:
		return "- " + d.Path + ": " + *d.Old
	}
	return "~ " + d.Path + ": " + *d.Old + " -> " + *d.New
}

// Trees tells what must be done to a to get b, in the order of paths.
func Trees(a, b *strict.Tree) []Difference {
	c := &comparison{}
	c.compare("", a, b)
	return c.out
}

type comparison struct{ out []Difference }

func (c *comparison) add(op Op, path string, was, is *string) {
	c.out = append(c.out, Difference{op, path, was, is})
}

// compare tells how b differs from a, either of which may be nil.
func (c *comparison) compare(path string, a, b *strict.Tree) {
	switch {
	case a == nil && b == nil:
	case a == nil:
		c.all(Add, path, b)
	case b == nil:
		c.all(Remove, path, a)
	case a.Section != nil && b.Section != nil:
		c.sections(path, a, b)
	case a.IsList && b.IsList:
		c.lists(path, a, b)
	case word(a) && word(b):
		if a.Value != b.Value {
			c.add(Change, path, shown(a), shown(b))
		}
	default:
		c.all(Remove, path, a)
		c.all(Add, path, b)
	}
}

func (c *comparison) sections(path string, a, b *strict.Tree) {
	keys := slices.Collect(maps.Keys(a.Section))
	keys = slices.AppendSeq(keys, maps.Keys(b.Section))
	slices.Sort(keys)
	for _, k := range slices.Compact(keys) {
		c.compare(strict.Join(path, k), a.Section[k], b.Section[k])
	}
}

func (c *comparison) lists(path string, a, b *strict.Tree) {
	was, ok := names(a)
	is, both := names(b)
	if !ok || !both {
		for i := range max(len(a.List), len(b.List)) {
			c.compare(at(path, strconv.Itoa(i)), entry(a, i), entry(b, i))
		}
		return
	}
	for i, n := range was {
		c.compare(at(path, n), a.List[i], entry(b, slices.Index(is, n)))
	}
	for i, n := range is {
		if !slices.Contains(was, n) {
			c.compare(at(path, n), nil, b.List[i])
		}
	}
	// The order may mean something: the first domain is the postmaster's.
	stay := func(list, other []string) []string {
		return slices.DeleteFunc(slices.Clone(list), func(n string) bool { return !slices.Contains(other, n) })
	}
	if before, after := stay(was, is), stay(is, was); !slices.Equal(before, after) {
		c.add(Change, path, inOrder(before), inOrder(after))
	}
}

func inOrder(names []string) *string {
	s := "[" + strings.Join(names, ", ") + "]"
	return &s
}

func at(path, entry string) string { return path + "[" + entry + "]" }

// entry gives an entry of a list, nil where there is none.
func entry(t *strict.Tree, i int) *strict.Tree {
	if i < 0 || i >= len(t.List) {
		return nil
	}
	return t.List[i]
}

// names gives the names of the entries of a list; ok is false when one has
// none, or that of another.
func names(t *strict.Tree) (out []string, ok bool) {
	for _, e := range t.List {
		n := e.Section["name"]
		if n == nil || !word(n) || n.Secret || n.Value == "" || slices.Contains(out, n.Value) {
			return nil, false
		}
		out = append(out, n.Value)
	}
	return out, true
}

// all tells of every word below t.
func (c *comparison) all(op Op, path string, t *strict.Tree) {
	switch {
	case len(t.Section) > 0:
		for _, k := range slices.Sorted(maps.Keys(t.Section)) {
			c.all(op, strict.Join(path, k), t.Section[k])
		}
	case len(t.List) > 0:
		list, named := names(t)
		for i, e := range t.List {
			n := strconv.Itoa(i)
			if named {
				n = list[i]
			}
			c.all(op, at(path, n), e)
		}
	case op == Add:
		c.add(op, path, nil, shown(t))
	default:
		c.add(op, path, shown(t), nil)
	}
}

func word(t *strict.Tree) bool { return t.Section == nil && !t.IsList }

// shown is what a human may see of a word, or of what is empty.
func shown(t *strict.Tree) *string {
	s := t.Word
	switch {
	case t.Section != nil:
		s = "{}"
	case t.IsList:
		s = "[]"
	case t.Secret:
		s = Hidden
	}
	return &s
}
